//! What the tests share: a store of either kind that can be restarted, and short names for commands.

use std::path::Path;
use std::time::Duration;

use posta_protocol::admission::QueueKind;
use posta_protocol::ids::{BlobId, Hash, Incarnation, MessageId, QueueId, WriterId};
use posta_protocol::now::{Mono, Now, Wall};
use posta_store::{Limits, MemoryStore, Outcome, QueueOp, QueueStore, RocksStore};
use tempfile::TempDir;

pub const INCARNATION: Incarnation = Incarnation([0x11; 16]);
pub const HOUR: Duration = Duration::from_secs(3600);

/// A time in whole hours; both clocks move together.
pub fn at(hour: u32) -> Now {
    let ms = u64::from(hour) * 3_600_000;
    Now { mono: Mono(ms * 1000), wall: Wall(ms) }
}

pub fn queue(n: u8) -> QueueId {
    QueueId([n; 32])
}

pub fn writer(n: u8) -> WriterId {
    WriterId([n; 32])
}

pub fn blob(n: u8) -> BlobId {
    BlobId([n; 32])
}

pub fn create(q: u8, w: u8) -> QueueOp {
    create_as(QueueKind::Plain, q, w)
}

pub fn create_as(kind: QueueKind, q: u8, w: u8) -> QueueOp {
    QueueOp::Create { queue: queue(q), writer: writer(w), kind }
}

pub fn secure(invited: u8, w: u8) -> QueueOp {
    QueueOp::Secure { invited: writer(invited), writer: writer(w) }
}

pub fn send(w: u8, sequence: u64, text: &str) -> QueueOp {
    QueueOp::Send { writer: writer(w), sequence, body: text.as_bytes().into() }
}

pub fn contact_send(w: u8, message: u8, text: &str) -> QueueOp {
    QueueOp::ContactSend { writer: writer(w), message: MessageId([message; 16]), body: text.as_bytes().into() }
}

pub fn info(q: u8) -> QueueOp {
    QueueOp::Info { queue: queue(q) }
}

pub fn suspend(q: u8) -> QueueOp {
    QueueOp::Suspend { queue: queue(q) }
}

pub fn resume(q: u8) -> QueueOp {
    QueueOp::Resume { queue: queue(q) }
}

pub fn extend(q: u8) -> QueueOp {
    QueueOp::Extend { queue: queue(q) }
}

pub fn read(q: u8, after: u64) -> QueueOp {
    QueueOp::Read { queue: queue(q), after, skip: Vec::new() }
}

pub fn ack(q: u8, up_to: u64) -> QueueOp {
    QueueOp::Ack { queue: queue(q), up_to }
}

pub fn delete(q: u8) -> QueueOp {
    QueueOp::Delete { queue: queue(q) }
}

pub fn blob_put(put: u8, get: u8, one_time: bool, hours: u32, text: &str) -> QueueOp {
    let body = text.as_bytes().into();
    QueueOp::BlobPut { put: writer(put), get: blob(get), one_time, ttl: HOUR * hours, body }
}

pub fn blob_get(get: u8, reader: u8) -> QueueOp {
    QueueOp::BlobGet { get: blob(get), lock: Hash([reader; 32]) }
}

pub fn blob_delete(put: u8) -> QueueOp {
    QueueOp::BlobDelete { put: writer(put) }
}

pub fn accepted(q: u8, sequence: u64) -> Outcome {
    Outcome::Accepted { queue: queue(q), sequence }
}

/// A bulk queue's answer to a message that is new to it.
pub fn stored(q: u8, through: u64, room: u32) -> Outcome {
    Outcome::Stored { queue: queue(q), new: true, through, room }
}

/// And to one that it had.
pub fn had(q: u8, through: u64, room: u32) -> Outcome {
    Outcome::Stored { queue: queue(q), new: false, through, room }
}

pub fn message(sequence: u64, text: &str, left: u32) -> Outcome {
    Outcome::Message { sequence, body: text.as_bytes().into(), left }
}

/// No free space is kept back: the machine that runs the tests may have little.
pub fn limits() -> Limits {
    Limits { min_free_bytes: 0, ..Limits::default() }
}

pub fn rocks(path: &Path, limits: &Limits) -> RocksStore {
    RocksStore::open(path, limits.clone(), INCARNATION).unwrap()
}

/// A store of either kind.
pub struct Rig {
    pub store: Box<dyn QueueStore>,
    limits: Limits,
    folder: Option<TempDir>,
}

impl Rig {
    pub fn both(limits: &Limits) -> [Self; 2] {
        let folder = tempfile::tempdir().unwrap();
        let store = Box::new(rocks(folder.path(), limits));
        [
            Self {
                store: Box::new(MemoryStore::new(limits.clone(), INCARNATION)),
                limits: limits.clone(),
                folder: None,
            },
            Self { store, limits: limits.clone(), folder: Some(folder) },
        ]
    }

    /// Closes and opens a store on disk; one in memory has nothing to open.
    pub fn restart(&mut self) {
        if let Some(folder) = &self.folder {
            self.store = Box::new(MemoryStore::new(self.limits.clone(), INCARNATION)); // Drops the lock first.
            self.store = Box::new(rocks(folder.path(), &self.limits));
        }
    }

    pub fn one(&mut self, hour: u32, op: QueueOp) -> Outcome {
        let mut outcomes = self.store.apply(at(hour), &[op]);
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0)
    }

    /// Sweeps in small steps until nothing due is left.
    pub fn sweep(&mut self, hour: u32) {
        while self.store.sweep(at(hour), 2) == 2 {}
    }
}
