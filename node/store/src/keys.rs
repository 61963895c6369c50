//! The tables of a store and their keys. In a key a number is big-endian, so that keys sort as their numbers do; in a
//! value it is little-endian, as everywhere in the protocol.
//!
//! ```text
//! table      key                                              value
//! Meta       "store"                                          schema u32 | incarnation 16
//!            "totals"                                         queues u64 | bytes u64
//! Queues     queue 32                                         queue record (record.rs), 37 to 1,125 bytes
//! Index      1 | writer's first 16                            queue 32
//!            2 | put 32                                       blob 32
//! Messages   queue 32 | sequence u64                          sealed: end hour u32 | body
//! Blobs      blob 32                                          sealed: blob record (record.rs)
//! Expiry     hour u32 | 1 | queue 32    a queue, or tombstone (empty)
//!            hour u32 | 2 | queue 32    messages of a queue   (empty)
//!            hour u32 | 3 | blob 32     a blob                (empty)
//! Seals      1 | queue 32 | sequence u64                      seal record of a message (rocks/seal.rs), 52 bytes
//!            2 | blob 32                                      seal record of a blob
//! ```
//!
//! Sealing is RocksDB's side of it (rocks/seal.rs): the engine, and the store in memory, have the values themselves and no
//! seal records. **Schema 1** had no `Seals`, and values that were not sealed.
//!
//! `Expiry` is read from its front: what ends first stands first, and nothing else is looked at. A queue stands there
//! once; when its turn comes and it was used since, it is put back at its new end, so that using it costs nothing
//! here. Messages stand there once for each queue and hour in which they end, acknowledged or not.

use posta_protocol::ids::{BlobId, QueueId, WriterId};

/// A table: a column family in RocksDB, by [`Table::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Meta,
    Queues,
    Index,
    Messages,
    Blobs,
    Expiry,
    Seals,
}

impl Table {
    pub(crate) const ALL: [Self; 7] =
        [Self::Meta, Self::Queues, Self::Index, Self::Messages, Self::Blobs, Self::Expiry, Self::Seals];

    /// The column family's name. RocksDB insists on one called `default`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "default",
            Self::Queues => "queues",
            Self::Index => "index",
            Self::Messages => "messages",
            Self::Blobs => "blobs",
            Self::Expiry => "expiry",
            Self::Seals => "seals",
        }
    }
}

pub(crate) const STORE: &[u8] = b"store";
pub(crate) const TOTALS: &[u8] = b"totals";

const INDEX_WRITER: u8 = 1;
const INDEX_PUT: u8 = 2;
const INDEX_WRITER_LEN: usize = 16;

fn tagged(tag: u8, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + id.len());
    key.push(tag);
    key.extend_from_slice(id);
    key
}

/// By half of the hash: 128 bits tell writers apart, the queue's record has all of it, and 10 million queues take 160 MB
/// less.
pub(crate) fn writer(id: &WriterId) -> Vec<u8> {
    tagged(INDEX_WRITER, id.0.split_at(INDEX_WRITER_LEN).0)
}

/// Whether a key of `Index` is a writer's.
pub(crate) fn is_writer(key: &[u8]) -> bool {
    key.first() == Some(&INDEX_WRITER)
}

/// What a writer's key of schema 1, with the whole hash, is now.
pub(crate) fn shortened(key: &[u8]) -> Option<&[u8]> {
    if is_writer(key) && key.len() > 1 + INDEX_WRITER_LEN { key.get(..=INDEX_WRITER_LEN) } else { None }
}

pub(crate) fn put(id: &WriterId) -> Vec<u8> {
    tagged(INDEX_PUT, &id.0)
}

pub(crate) fn message(queue: &QueueId, sequence: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(41);
    key.extend_from_slice(&queue.0);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// The first key behind the message with this number.
pub(crate) fn behind_message(queue: &QueueId, sequence: u64) -> Vec<u8> {
    let mut key = message(queue, sequence);
    key.push(0);
    key
}

/// The number in a message's key.
pub(crate) fn sequence(key: &[u8]) -> Option<u64> {
    let (_, number) = key.split_at_checked(32)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// What an entry of `Expiry` is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    Queue(QueueId),
    Messages(QueueId),
    Blob(BlobId),
}

pub(crate) fn expiry(hour: u32, due: Due) -> Vec<u8> {
    let (kind, id) = match due {
        Due::Queue(queue) => (1, queue.0),
        Due::Messages(queue) => (2, queue.0),
        Due::Blob(blob) => (3, blob.0),
    };
    let mut key = Vec::with_capacity(37);
    key.extend_from_slice(&hour.to_be_bytes());
    key.push(kind);
    key.extend_from_slice(&id);
    key
}

/// The first possible key of an hour.
pub(crate) fn expiry_from(hour: u32) -> Vec<u8> {
    hour.to_be_bytes().to_vec()
}

/// Hour and meaning of a key of `Expiry`.
pub(crate) fn read_expiry(key: &[u8]) -> Option<(u32, Due)> {
    let (hour, rest) = key.split_first_chunk::<4>()?;
    let (kind, id) = rest.split_first()?;
    let id = id.try_into().ok()?;
    let due = match kind {
        1 => Due::Queue(QueueId(id)),
        2 => Due::Messages(QueueId(id)),
        3 => Due::Blob(BlobId(id)),
        _ => return None,
    };
    Some((u32::from_be_bytes(*hour), due))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_and_come_back() {
        let queue = QueueId([7; 32]);
        assert!(message(&queue, 255) < message(&queue, 256));
        assert!(message(&queue, 255) < behind_message(&queue, 255));
        assert!(behind_message(&queue, 255) < message(&queue, 256));
        assert_eq!(sequence(&message(&queue, 300)), Some(300));
        assert_eq!(sequence(&[0; 12]), None);
        for due in [Due::Queue(queue), Due::Messages(queue), Due::Blob(BlobId([9; 32]))] {
            assert_eq!(read_expiry(&expiry(77, due)), Some((77, due)));
            assert!(expiry_from(77) < expiry(77, due) && expiry(77, due) < expiry_from(78));
        }
        assert_eq!(read_expiry(&expiry_from(1)), None);
    }
}
