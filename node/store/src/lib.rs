//! Posta's queue store: one trait, an in-memory reference and RocksDB behind it.
//!
//! | file | what it holds |
//! |---|---|
//! | `lib.rs` | the trait, the commands and their outcomes |
//! | `limits.rs` | quotas and lifetimes |
//! | `record.rs` | one queue's and one blob's state, and its transitions; pure |
//! | `keys.rs` | the tables and their keys, with byte diagrams |
//! | `batch.rs` | what a batch has changed so far, in front of what is stored |
//! | `engine.rs`, `engine/` | what each command does, and the sweep; the same for every store |
//! | `memory.rs` | ordered maps: for tests and simulation |
//! | `rocks.rs`, `rocks/` | RocksDB: group commit, full disks, sealing, migrations, backups, clear errors on opening |
//! | `driver.rs` | the thread that a store runs on: drains, applies, syncs, sweeps |
//!
//! A store keeps hashes of capabilities, ciphertext and times in whole hours; nothing else reaches it.

use core::fmt;
use core::time::Duration;

use posta_protocol::admission::QueueKind;
use posta_protocol::answer::Info;
use posta_protocol::crypto;
use posta_protocol::ids::{BlobId, Hash, Incarnation, MessageId, QueueId, WriterId};
use posta_protocol::now::Now;
use posta_protocol::registry::answer;
use posta_protocol::secret::Secret;

pub mod driver;
#[cfg(feature = "floor")]
#[doc(hidden)]
pub mod floor;

mod batch;
mod engine;
mod keys;
mod limits;
mod memory;
mod record;
mod rocks;

pub use limits::{Limits, MAX_SEQUENCE_AHEAD};
pub use memory::MemoryStore;
pub use rocks::backup::{BackupError, Backups, Report, RestoreError, backup_closed, restore};
pub use rocks::{ERASE_WITHIN, Health, OpenError, RocksStore, WRITABLE_METRIC};

/// The version of the layout that `keys.rs` and `record.rs` describe.
pub const SCHEMA: u32 = 2;

/// Queues and blobs, kept.
///
/// One owner calls it from one thread; batches make it fast. Time comes in with each call.
pub trait QueueStore: Send {
    /// Drawn when the store was made or restored; clients that see it change secure and send again.
    fn incarnation(&self) -> Incarnation;

    /// Carries out `ops` in order and gives one outcome for each; each one sees what those before it did.
    ///
    /// An operation is done whole or not at all. Everything that an outcome confirms is on disk when this returns:
    /// one sync for the batch, none if it only reads. If that write fails, each operation that would have changed
    /// something is refused with [`Refusal::NoSpace`], and nothing has changed.
    fn apply(&mut self, now: Now, ops: &[QueueOp]) -> Vec<Outcome>;

    /// Erases what has expired, working off at most `limit` entries of the expiry buckets.
    ///
    /// Returns how many entries it worked off; fewer than `limit` means that nothing due is left. An entry stands
    /// for one queue, one blob, the messages that one queue took within one hour, or a value that a store on disk puts
    /// under a new key (see [`ERASE_WITHIN`]).
    fn sweep(&mut self, now: Now, limit: usize) -> usize;

    /// Takes over other limits, for everything that comes from now on. What is held beyond them stays until it ends.
    fn set_limits(&mut self, limits: Limits);
}

impl<S: QueueStore + ?Sized> QueueStore for Box<S> {
    fn incarnation(&self) -> Incarnation {
        (**self).incarnation()
    }

    fn apply(&mut self, now: Now, ops: &[QueueOp]) -> Vec<Outcome> {
        (**self).apply(now, ops)
    }

    fn sweep(&mut self, now: Now, limit: usize) -> usize {
        (**self).sweep(now, limit)
    }

    fn set_limits(&mut self, limits: Limits) {
        (**self).set_limits(limits);
    }
}

/// A command, after its capability was hashed. Each is idempotent under the same arguments.
#[derive(Clone, PartialEq, Eq)]
pub enum QueueOp {
    /// Makes a queue. [`Refusal::Conflict`] if the queue exists with another writer or kind, or the writer with
    /// another queue; [`Refusal::Gone`] after a delete.
    Create {
        /// Hash of the reader capability.
        queue: QueueId,
        /// Hash of the (invited) writer capability.
        writer: WriterId,
        /// What it is for.
        kind: QueueKind,
    },
    /// Replaces the invited writer by the writer's own capability. The first one wins; to others: [`Refusal::Taken`].
    /// [`Refusal::Conflict`] for a contact queue, whose writers share the invited one.
    Secure {
        /// Hash of the capability from the invitation.
        invited: WriterId,
        /// Hash of the writer's own.
        writer: WriterId,
    },
    /// Stores a message under a number that the writer picks: 1, 2, 3 and so on; they may overtake one another.
    /// [`Refusal::Conflict`] for a contact queue. A bulk queue takes no number further than 64 above the last one up to
    /// which it has all, so that none is ever passed over: [`Refusal::OutOfWindow`].
    Send {
        /// Hash of the writer capability.
        writer: WriterId,
        /// The message's id in its queue.
        sequence: u64,
        /// The sealed message, at most [`Limits::max_body`] bytes.
        body: Box<[u8]>,
    },
    /// Stores a message in a contact queue under the next number, unless it has the id already.
    /// [`Refusal::Conflict`] for a queue of another kind.
    ContactSend {
        /// Hash of the capability that all its writers share.
        writer: WriterId,
        /// Drawn by the writer; the queue remembers its latest 64.
        message: MessageId,
        /// The sealed message, at most [`Limits::max_body`] bytes.
        body: Box<[u8]>,
    },
    /// Reads the first message above `after` that isn't in `skip`.
    Read {
        /// Hash of the reader capability.
        queue: QueueId,
        /// The last number that the reader has.
        after: u64,
        /// Numbers to leave out; the caller bounds how many.
        skip: Vec<u64>,
    },
    /// Erases every message up to a number. A number above the highest accepted one counts as that one.
    Ack {
        /// Hash of the reader capability.
        queue: QueueId,
        /// The last number to erase.
        up_to: u64,
    },
    /// Erases the queue. What remains until the queue's life would have ended says only that it is gone.
    Delete {
        /// Hash of the reader capability.
        queue: QueueId,
    },
    /// Says how the queue stands.
    Info {
        /// Hash of the reader capability.
        queue: QueueId,
    },
    /// Refuses writers ([`Refusal::Suspended`]) until [`QueueOp::Resume`]; a repeat of what was accepted is still
    /// answered as such. Reading goes on.
    Suspend {
        /// Hash of the reader capability.
        queue: QueueId,
    },
    /// Accepts writers again.
    Resume {
        /// Hash of the reader capability.
        queue: QueueId,
    },
    /// Counts the time for which the queue is unused anew, and has that on disk; other commands do so in passing.
    Extend {
        /// Hash of the reader capability.
        queue: QueueId,
    },
    /// Keeps a blob. [`Refusal::Conflict`] if either hash is in use with other arguments.
    BlobPut {
        /// Hash of the capability that can delete it.
        put: WriterId,
        /// Hash of the capability that can read it.
        get: BlobId,
        /// Whether only its first reader may have it.
        one_time: bool,
        /// How long to keep it; whole hours, rounded up, at most [`Limits::blob_ttl`].
        ttl: Duration,
        /// Its bytes, at most [`Limits::max_body`].
        body: Box<[u8]>,
    },
    /// Reads a blob. A one-time blob locks to the key of its first reader; to others: [`Refusal::Taken`].
    BlobGet {
        /// Hash of the capability that can read it.
        get: BlobId,
        /// Hash of a key that the reader chose ([`blob_lock`]).
        lock: Hash,
    },
    /// Erases a blob.
    BlobDelete {
        /// Hash of the capability that it was put with.
        put: WriterId,
    },
}

/// What a one-time blob is locked with: the hash of its first reader's key, in a domain of its own that never travels.
#[must_use]
pub fn blob_lock(key: &Secret<32>) -> Hash {
    crypto::hash(crypto::local::BLOB_LOCK, key.expose())
}

impl QueueOp {
    /// Whether the operation can add to what is stored.
    pub(crate) const fn grows(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Send { .. } | Self::ContactSend { .. } | Self::BlobPut { .. })
    }
}

impl fmt::Debug for QueueOp {
    /// Neither hashes nor keys nor bodies: numbers and lengths only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { kind, .. } => write!(f, "Create({kind:?})"),
            Self::Secure { .. } => f.write_str("Secure"),
            Self::Send { sequence, body, .. } => write!(f, "Send({sequence}, {} bytes)", body.len()),
            Self::ContactSend { body, .. } => write!(f, "ContactSend({} bytes)", body.len()),
            Self::Read { after, skip, .. } => write!(f, "Read(after {after}, skip {})", skip.len()),
            Self::Ack { up_to, .. } => write!(f, "Ack({up_to})"),
            Self::Delete { .. } => f.write_str("Delete"),
            Self::Info { .. } => f.write_str("Info"),
            Self::Suspend { .. } => f.write_str("Suspend"),
            Self::Resume { .. } => f.write_str("Resume"),
            Self::Extend { .. } => f.write_str("Extend"),
            Self::BlobPut { one_time, body, .. } => write!(f, "BlobPut(one_time {one_time}, {} bytes)", body.len()),
            Self::BlobGet { .. } => f.write_str("BlobGet"),
            Self::BlobDelete { .. } => f.write_str("BlobDelete"),
        }
    }
}

/// What became of an operation.
#[derive(Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or had been done before by the same command.
    Done,
    /// A queue was made now; the same command again gives [`Outcome::Done`].
    Created,
    /// A message was stored now.
    Accepted {
        /// The queue that it is in.
        queue: QueueId,
        /// Its number.
        sequence: u64,
    },
    /// A message with this number was accepted before.
    Repeated {
        /// The queue that it is or was in.
        queue: QueueId,
    },
    /// A message is in a bulk queue, and this is how the queue stands now.
    Stored {
        /// The queue that it is or was in.
        queue: QueueId,
        /// Whether it was stored now; else a message with this number was accepted before.
        new: bool,
        /// Every message up to this number has been accepted, or passed over by the reader's acknowledgement.
        through: u64,
        /// Messages that fit in besides.
        room: u32,
    },
    /// How a queue stands.
    Info(Info),
    /// A message.
    Message {
        /// Its number.
        sequence: u64,
        /// The sealed message.
        body: Box<[u8]>,
        /// How many messages the queue holds besides this one, those that the reader skipped included.
        left: u32,
    },
    /// No such message.
    Empty,
    /// A blob.
    Blob {
        /// Its bytes.
        body: Box<[u8]>,
    },
    /// Refused; nothing has changed.
    Refused(Refusal),
}

impl fmt::Debug for Outcome {
    /// Neither hashes nor bodies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("Done"),
            Self::Created => f.write_str("Created"),
            Self::Accepted { sequence, .. } => write!(f, "Accepted({sequence})"),
            Self::Repeated { .. } => f.write_str("Repeated"),
            Self::Stored { new, through, room, .. } => write!(f, "Stored(new {new}, through {through}, room {room})"),
            Self::Info(info) => write!(f, "{info:?}"),
            Self::Message { sequence, body, left } => {
                write!(f, "Message({sequence}, {} bytes, {left} left)", body.len())
            }
            Self::Empty => f.write_str("Empty"),
            Self::Blob { body } => write!(f, "Blob({} bytes)", body.len()),
            Self::Refused(refusal) => write!(f, "Refused({refusal:?})"),
        }
    }
}

/// Why an operation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The queue holds as many messages as it may.
    Full,
    /// The relay has no space left: a quota, the free space that it keeps, or a disk that fails to write.
    NoSpace,
    /// The queue's or blob's life is over.
    Expired,
    /// The queue's reader has suspended it.
    Suspended,
    /// The queue or blob was deleted.
    Gone,
    /// No such capability, or it doesn't permit this. Both look the same.
    BadCapability,
    /// Another writer secured the queue, or another reader took the blob, first.
    Taken,
    /// The number lies behind the window, below what was acknowledged, or too far ahead.
    OutOfWindow,
    /// The same id is in use with other content.
    Conflict,
    /// The disk can't be read now: try again later.
    Busy,
}

impl Refusal {
    /// Its number in the registry of answers.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Full => answer::FULL,
            Self::NoSpace => answer::NO_SPACE,
            Self::Expired => answer::EXPIRED,
            Self::Suspended => answer::SUSPENDED,
            Self::Gone => answer::GONE,
            Self::BadCapability => answer::BAD_CAPABILITY,
            Self::Taken => answer::TAKEN,
            Self::OutOfWindow => answer::OUT_OF_WINDOW,
            Self::Conflict => answer::CONFLICT,
            Self::Busy => answer::BUSY,
        }
    }
}
