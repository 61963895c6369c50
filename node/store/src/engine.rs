//! What each command does, over any [`Backing`]: both stores run this code and differ in where the bytes lie.
//!
//! **Unknown and wrong capabilities.** Both are answered `bad-capability`, after the same number of lookups in the same
//! tables: one in `Queues` for a reader, one in `Index` and one in `Queues` for a writer (under a key that no queue has,
//! if the capability is unknown). Neither changes anything, so neither causes a write; the answer waits for its batch
//! like all others. What is left are the fractions of a millisecond between a block that is cached and one that isn't,
//! behind the batch and the mixes.

use posta_protocol::now::Now;

use crate::batch::{Backing, Batch, Changes, Stop};
use crate::keys::{self, Due, Table};
use crate::limits::Limits;
use crate::record::Totals;
use crate::{Outcome, QueueOp, Refusal};

mod blobs;
mod manage;
mod queues;
mod sweep;

/// What the disk allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything.
    Normal,
    /// Space is short: what erases or replaces, but nothing that adds.
    Reserve,
    /// No changes at all.
    ReadOnly,
}

/// The commands, and what they need between batches.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) limits: Limits,
    /// No expiry entry has an earlier key: where the next sweep begins. RocksDB would walk over what is erased already.
    floor: Vec<u8>,
}

/// One batch in the making.
struct Session<'a, B> {
    batch: Batch<'a, B>,
    limits: &'a Limits,
    mode: Mode,
    /// The hour that it is now.
    hour: u32,
}

impl Engine {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self { limits, floor: Vec::new() }
    }

    /// See [`crate::QueueStore::apply`].
    pub(crate) fn apply<B: Backing>(&mut self, base: &mut B, mode: Mode, now: Now, ops: &[QueueOp]) -> Vec<Outcome> {
        let (outcomes, changes, sync, filed) = self.run(base, mode, now, ops);
        if changes.is_empty() {
            return outcomes;
        }
        match base.commit(changes, sync) {
            Ok(()) => {
                if let Some(filed) = filed.map(keys::expiry_from)
                    && filed < self.floor
                {
                    self.floor = filed;
                }
                outcomes
            }
            Err(_) if !sync => outcomes,
            // Nothing was written: what the operations saw of one another's changes must not stand either.
            Err(_) => self.run(base, Mode::ReadOnly, now, ops).0,
        }
    }

    fn run<B: Backing>(
        &self,
        base: &B,
        mode: Mode,
        now: Now,
        ops: &[QueueOp],
    ) -> (Vec<Outcome>, Changes, bool, Option<u32>) {
        let mut session = Session { batch: Batch::new(base), limits: &self.limits, mode, hour: now.wall.hour() };
        let outcomes = ops.iter().map(|op| session.step(op)).collect();
        let filed = session.batch.filed;
        let (changes, sync) = session.batch.finish();
        (outcomes, changes, sync, filed)
    }
}

impl<B: Backing> Session<'_, B> {
    fn step(&mut self, op: &QueueOp) -> Outcome {
        let result = match op {
            QueueOp::Create { queue, writer, kind } => self.create(queue, writer, *kind),
            QueueOp::Secure { invited, writer } => self.secure(invited, writer),
            QueueOp::Send { writer, sequence, body } => self.send(writer, *sequence, body),
            QueueOp::ContactSend { writer, message, body } => self.contact_send(writer, message, body),
            QueueOp::Read { queue, after, skip } => self.read(queue, *after, skip),
            QueueOp::Ack { queue, up_to } => self.ack(queue, *up_to),
            QueueOp::Delete { queue } => self.delete(queue),
            QueueOp::Info { queue } => self.info(queue),
            QueueOp::Suspend { queue } => self.suspend(queue, true),
            QueueOp::Resume { queue } => self.suspend(queue, false),
            QueueOp::Extend { queue } => self.extend(queue),
            QueueOp::BlobPut { put, get, one_time, ttl, body } => self.blob_put(put, get, *one_time, *ttl, body),
            QueueOp::BlobGet { get, lock } => self.blob_get(get, lock),
            QueueOp::BlobDelete { put } => self.blob_delete(put),
        };
        let forbidden = match self.mode {
            Mode::Normal => false,
            Mode::Reserve => op.grows(),
            Mode::ReadOnly => true,
        };
        match result {
            Ok(_) if forbidden && self.batch.op_changes() => {
                self.batch.undo_op();
                Outcome::Refused(Refusal::NoSpace)
            }
            Ok(outcome) => {
                self.batch.keep_op();
                outcome
            }
            Err(stop) => {
                self.batch.undo_op();
                match stop {
                    Stop::Refused(refusal) => Outcome::Refused(refusal),
                    Stop::Broken => Outcome::Refused(Refusal::Busy),
                }
            }
        }
    }

    fn set(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.batch.set(table, key, Some(value));
    }

    fn erase(&mut self, table: Table, key: Vec<u8>) {
        self.batch.set(table, key, None);
    }

    /// Puts something into the bucket of the hour at whose beginning it ends.
    fn file(&mut self, hour: u32, due: Due) {
        self.batch.filed = Some(self.batch.filed.map_or(hour, |filed| filed.min(hour)));
        self.set(Table::Expiry, keys::expiry(hour, due), Vec::new());
    }

    fn totals(&self) -> Result<Totals, Stop> {
        let bytes = self.batch.get(Table::Meta, keys::TOTALS.to_vec())?;
        Ok(bytes.map_or_else(|| Ok(Totals::default()), |bytes| Totals::decode(&bytes))?)
    }

    fn set_totals(&mut self, totals: Totals) {
        self.set(Table::Meta, keys::TOTALS.to_vec(), totals.encode());
    }

    /// Adds the bytes of a new entry to the totals.
    fn take_room(&mut self, bytes: u64) -> Result<(), Stop> {
        let mut totals = self.totals()?;
        totals.bytes = totals.bytes.saturating_add(bytes);
        if totals.bytes > self.limits.disk_quota_bytes {
            return Err(Refusal::NoSpace.into());
        }
        self.set_totals(totals);
        Ok(())
    }

    /// Takes the bytes of erased entries from the totals.
    fn give_room(&mut self, bytes: u64) -> Result<(), Stop> {
        if bytes > 0 {
            let mut totals = self.totals()?;
            totals.bytes = totals.bytes.saturating_sub(bytes);
            self.set_totals(totals);
        }
        Ok(())
    }

    /// A body longer than a store takes is refused before anything is looked up.
    fn fits(&self, body: &[u8]) -> Result<(), Stop> {
        if body.len() > self.limits.max_body { Err(Refusal::NoSpace.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use posta_protocol::admission::QueueKind;
    use posta_protocol::ids::{BlobId, Hash, MessageId, QueueId, WriterId};
    use posta_protocol::now::{Mono, Wall};

    use super::*;
    use crate::batch::{Broken, Visit};
    use crate::memory::Maps;

    /// Counts what is asked of a store, and remembers how it was written to last.
    #[derive(Default)]
    struct Counting {
        maps: Maps,
        gets: Cell<u32>,
        tables: Cell<u32>,
        written: Option<bool>,
    }

    impl Backing for Counting {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
            self.gets.set(self.gets.get() + 1);
            self.tables.set(self.tables.get() * 10 + table as u32);
            self.maps.get(table, key)
        }

        fn scan(&self, table: Table, from: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), Broken> {
            self.gets.set(self.gets.get() + 1000);
            self.maps.scan(table, from, end, visit)
        }

        fn commit(&mut self, changes: Changes, sync: bool) -> Result<(), Broken> {
            self.written = Some(sync);
            self.maps.commit(changes, sync)
        }
    }

    struct Rig {
        engine: Engine,
        base: Counting,
    }

    impl Rig {
        fn new(ops: &[QueueOp]) -> Self {
            let mut rig = Self { engine: Engine::new(Limits::default()), base: Counting::default() };
            let outcomes = rig.engine.apply(&mut rig.base, Mode::Normal, hour(1), ops);
            assert!(outcomes.iter().all(|o| !matches!(o, Outcome::Refused(_))), "{outcomes:?}");
            rig
        }

        /// The outcome, lookups and their tables in order, and whether something was written, with or without a sync.
        fn one(&mut self, at: Now, op: QueueOp) -> (Outcome, u32, u32, Option<bool>) {
            (self.base.gets, self.base.tables, self.base.written) = Default::default();
            let mut outcomes = self.engine.apply(&mut self.base, Mode::Normal, at, &[op]);
            (outcomes.remove(0), self.base.gets.get(), self.base.tables.get(), self.base.written)
        }
    }

    fn hour(n: u64) -> Now {
        Now { mono: Mono(0), wall: Wall(n * 3_600_000) }
    }

    fn create(n: u8, kind: QueueKind) -> QueueOp {
        QueueOp::Create { queue: QueueId([n; 32]), writer: WriterId([100 + n; 32]), kind }
    }

    #[test]
    fn unknown_and_wrong_capabilities_cost_the_same_lookups() {
        let (invited, own, blob) = (WriterId([101; 32]), WriterId([9; 32]), BlobId([7; 32]));
        let mut rig = Rig::new(&[
            create(1, QueueKind::Plain),
            QueueOp::Secure { invited, writer: own },
            create(2, QueueKind::Contact),
            QueueOp::BlobPut {
                put: WriterId([8; 32]),
                get: blob,
                one_time: false,
                ttl: core::time::Duration::from_secs(7200),
                body: [1; 9].into(),
            },
        ]);
        let body: Box<[u8]> = [1; 9].into();
        let send = |writer| QueueOp::Send { writer, sequence: 1, body: body.clone() };
        let contact = |writer| QueueOp::ContactSend { writer, message: MessageId([1; 16]), body: body.clone() };
        let secure = |invited| QueueOp::Secure { invited, writer: WriterId([55; 32]) };
        let reads: [fn(QueueId) -> QueueOp; 8] = [
            |queue| QueueOp::Read { queue, after: 0, skip: Vec::new() },
            |queue| QueueOp::Ack { queue, up_to: 1 },
            |queue| QueueOp::Delete { queue },
            |queue| QueueOp::Info { queue },
            |queue| QueueOp::Suspend { queue },
            |queue| QueueOp::Resume { queue },
            |queue| QueueOp::Extend { queue },
            |queue| QueueOp::Read { queue, after: 9, skip: Vec::new() },
        ];
        let unknown = WriterId([77; 32]);
        // Wrong: the invited one after it was replaced; the writer's own, which invites no one; hashes that stand
        // elsewhere in the store.
        let mut pairs = vec![
            (send(unknown), send(invited)),
            (contact(unknown), contact(invited)),
            (secure(unknown), secure(own)),
            (send(unknown), send(WriterId(blob.0))),
            (QueueOp::BlobDelete { put: unknown }, QueueOp::BlobDelete { put: own }),
            (
                QueueOp::BlobGet { get: BlobId([77; 32]), lock: Hash([1; 32]) },
                QueueOp::BlobGet { get: BlobId([8; 32]), lock: Hash([1; 32]) },
            ),
        ];
        pairs.extend(reads.map(|read| (read(QueueId([77; 32])), read(QueueId(own.0)))));
        for (unknown, wrong) in pairs {
            let (unknown, wrong) = (rig.one(hour(2), unknown.clone()), rig.one(hour(2), wrong));
            assert_eq!(unknown, wrong);
            assert!((1..=2).contains(&unknown.1), "{unknown:?}");
            assert_eq!((unknown.0, unknown.3), (Outcome::Refused(Refusal::BadCapability), None));
        }
        // The count tells cases apart: a good capability costs more.
        assert!(rig.one(hour(2), send(own)).1 > 2);
    }

    #[test]
    fn extending_is_on_the_disk_and_other_uses_are_not_worth_a_sync() {
        let mut rig = Rig::new(&[create(1, QueueKind::Plain)]);
        let queue = QueueId([1; 32]);
        assert_eq!(rig.one(hour(2), QueueOp::Info { queue }).3, Some(false));
        assert_eq!(rig.one(hour(2), QueueOp::Info { queue }).3, None);
        assert_eq!(rig.one(hour(2), QueueOp::Extend { queue }).3, Some(true), "what the use has left unsynced");
        assert_eq!(rig.one(hour(3), QueueOp::Extend { queue }).3, Some(true));
        assert_eq!(rig.one(hour(3), QueueOp::Suspend { queue }).3, Some(true));
        assert_eq!(rig.one(hour(3), QueueOp::Suspend { queue }).3, None);
        assert_eq!(rig.one(hour(3), QueueOp::Resume { queue }).3, Some(true));
    }
}
