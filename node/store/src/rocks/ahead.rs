//! A batch's records, read before it runs, on several threads side by side.
//!
//! With 10 million queues a record is read from files, some 15 us each. One after the other they were half of what a batch
//! of 64 commands took. What is read is what lies on the disk when the batch begins, and it is forgotten when the batch is
//! written. A command that isn't foreseen here, or a read that fails, costs what it did: the engine reads by itself.

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::thread;

use rocksdb::DB;

use super::{Disk, handle};
use crate::QueueOp;
use crate::keys::{self, Table};

/// Fewer records than this are read as they are asked for: a thread has to be started for each batch.
const WORTH_A_THREAD: usize = 12;
/// Threads that read at once, at most, this one included.
const MAX_READERS: usize = 4;

type Key = (Table, Vec<u8>);

/// What is known of a batch's records.
#[derive(Default)]
pub(super) struct Ahead {
    records: RefCell<BTreeMap<Key, Option<Vec<u8>>>>,
}

impl Ahead {
    /// What lies under a key: `None` if it wasn't read ahead, `Some(None)` if nothing does.
    pub(super) fn take(&self, table: Table, key: &[u8]) -> Option<Option<Vec<u8>>> {
        let mut records = self.records.try_borrow_mut().ok()?;
        if records.is_empty() { None } else { records.remove(&(table, key.to_vec())) }
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        if let Ok(mut records) = self.records.try_borrow_mut() {
            records.clear();
        }
    }
}

/// Threads to read on.
pub(super) fn readers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS)
}

/// The records that a command is going to ask for first.
fn wanted(op: &QueueOp) -> [Option<Key>; 2] {
    let queue = |queue: &posta_protocol::ids::QueueId| Some((Table::Queues, queue.0.to_vec()));
    let writer = |writer| Some((Table::Index, keys::writer(writer)));
    match op {
        QueueOp::Create { queue: made, writer: its, .. } => [queue(made), writer(its)],
        QueueOp::Send { writer: its, .. } | QueueOp::ContactSend { writer: its, .. } => [None, writer(its)],
        QueueOp::Secure { invited, writer: its } => [writer(its), writer(invited)],
        QueueOp::Read { queue: of, .. }
        | QueueOp::Ack { queue: of, .. }
        | QueueOp::Delete { queue: of }
        | QueueOp::Info { queue: of }
        | QueueOp::Suspend { queue: of }
        | QueueOp::Resume { queue: of }
        | QueueOp::Extend { queue: of } => [queue(of), None],
        QueueOp::BlobPut { .. } | QueueOp::BlobGet { .. } | QueueOp::BlobDelete { .. } => [None, None],
    }
}

impl Disk {
    /// Reads what a batch is going to ask for and isn't at hand.
    pub(super) fn read_ahead(&self, ops: &[QueueOp]) {
        self.ahead.forget();
        if self.readers < 2 || ops.len() < WORTH_A_THREAD / 2 {
            return;
        }
        let Ok(db) = self.db() else { return };
        let mut unknown: Vec<Key> = ops.iter().flat_map(wanted).flatten().collect();
        unknown.retain(|(table, key)| !self.recent.has(*table, key));
        if unknown.len() < WORTH_A_THREAD {
            return;
        }
        let share = unknown.len().div_ceil(self.readers.min(unknown.len() / (WORTH_A_THREAD / 2)));
        let read = thread::scope(|scope| {
            let mut shares = unknown.chunks(share);
            let own = shares.next().unwrap_or_default();
            let others: Vec<_> = shares
                .filter_map(|keys| thread::Builder::new().spawn_scoped(scope, move || records(db, keys)).ok())
                .collect();
            let mut read = records(db, own);
            // One that failed has read nothing; the engine will.
            others.into_iter().filter_map(|other| other.join().ok()).for_each(|other| read.extend(other));
            read
        });
        if let Ok(mut records) = self.ahead.records.try_borrow_mut() {
            records.extend(read);
        }
    }
}

/// What lies under these keys, and under the keys of queues that the index names.
fn records(db: &DB, keys: &[Key]) -> Vec<(Key, Option<Vec<u8>>)> {
    let read = |table, key: &[u8]| -> Option<Option<Vec<u8>>> {
        Some(db.get_pinned_cf(handle(db, table).ok()?, key).ok()?.map(|value| value.to_vec()))
    };
    let mut records = Vec::with_capacity(2 * keys.len());
    for (table, key) in keys {
        let Some(value) = read(*table, key) else { continue };
        if let (Table::Index, Some(queue)) = (table, &value)
            && let Some(record) = read(Table::Queues, queue)
        {
            records.push(((Table::Queues, queue.clone()), record));
        }
        records.push(((*table, key.clone()), value));
    }
    records
}

#[cfg(test)]
mod tests {
    use posta_protocol::admission::QueueKind;
    use posta_protocol::ids::{Incarnation, QueueId, WriterId};
    use posta_protocol::now::{Mono, Now, Wall};

    use super::*;
    use crate::{Limits, MemoryStore, Outcome, QueueStore, RocksStore};

    const NOW: Now = Now { mono: Mono(0), wall: Wall(3_600_000) };

    fn create(n: u8) -> QueueOp {
        QueueOp::Create { queue: QueueId([n; 32]), writer: WriterId([100 + n; 32]), kind: QueueKind::Plain }
    }

    fn send(n: u8, sequence: u64) -> QueueOp {
        QueueOp::Send { writer: WriterId([100 + n; 32]), sequence, body: [n; 9].into() }
    }

    fn read(n: u8) -> QueueOp {
        QueueOp::Read { queue: QueueId([n; 32]), after: 0, skip: Vec::new() }
    }

    #[test]
    fn a_batch_of_commands_is_answered_alike_with_its_records_read_ahead_on_one_thread_or_four() {
        let made: Vec<_> = (1..40).map(create).collect();
        // Old and new queues, unknown ones, and commands that see what others of the batch have changed.
        let ops: Vec<_> = (30..50)
            .flat_map(|n| [create(n), send(n, 1), read(n), send(n.wrapping_add(9), 2), read(n.wrapping_add(60))])
            .collect();
        let mut memory = MemoryStore::new(Limits::default(), Incarnation([1; 16]));
        memory.apply(NOW, &made);
        let (expected, again) = (memory.apply(NOW, &ops), memory.apply(NOW, &ops));
        assert!(expected.contains(&Outcome::Created) && expected.contains(&Outcome::Done));
        for readers in [1, 2, 4] {
            let folder = tempfile::tempdir().unwrap();
            let open = || RocksStore::open(folder.path(), Limits::default(), Incarnation([1; 16])).unwrap();
            open().apply(NOW, &made);
            let mut store = open();
            store.disk.readers = readers;
            store.disk.read_ahead(&ops);
            let known = store.disk.ahead.records.borrow().len();
            assert_eq!(known > 40, readers > 1, "{known} records read ahead with {readers} readers");
            assert_eq!(store.apply(NOW, &ops), expected);
            assert!(store.disk.ahead.records.borrow().is_empty());
            assert_eq!(store.apply(NOW, &ops), again);
        }
    }
}
