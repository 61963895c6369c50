//! Quotas and lifetimes, as a relay's configuration sets them.

use core::time::Duration;

use posta_protocol::admission::QueueKind;
use posta_protocol::params;
pub use posta_protocol::params::MAX_SEQUENCE_AHEAD;

/// What one stored message or blob counts besides its bytes: its keys, its expiry and RocksDB's own.
pub(crate) const ENTRY_OVERHEAD: u64 = 128;

/// What a store holds at most, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages that one plain queue holds; over it the writer gets `full`.
    pub queue_quota: u32,
    /// The same for a contact queue.
    pub contact_quota: u32,
    /// The same for a bulk queue.
    pub bulk_quota: u32,
    /// Queues, tombstones included; over it `create` gets `no-space`.
    pub max_queues: u64,
    /// Bytes of one message or blob; a longer one gets `no-space`.
    pub max_body: usize,
    /// Bytes of messages and blobs, with a fixed share each for their keys; over it writers get `no-space`.
    /// The disk holds somewhat more: what is erased leaves it at the next compaction.
    pub disk_quota_bytes: u64,
    /// Free bytes of the file system below which nothing is taken in. What remains serves acks and deletes, and the
    /// compactions that give space back: at least 64 MiB for a busy relay. The in-memory store has no use for it.
    pub min_free_bytes: u64,
    /// Messages are erased after this time, up to an hour later.
    pub message_ttl: Duration,
    /// The same for those of a bulk queue.
    pub bulk_ttl: Duration,
    /// Queues unused for this time are erased, up to an hour later. Tombstones are kept as long.
    pub queue_ttl: Duration,
    /// Longest life of a blob.
    pub blob_ttl: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_quota: params::DEFAULT_QUEUE_QUOTA,
            contact_quota: params::DEFAULT_CONTACT_QUOTA,
            bulk_quota: params::DEFAULT_BULK_QUOTA,
            max_queues: 20_000_000,
            max_body: params::DEFAULT_PAYLOAD_LEN,
            disk_quota_bytes: 32 << 30,
            min_free_bytes: 256 << 20,
            message_ttl: params::DEFAULT_MESSAGE_TTL,
            bulk_ttl: params::DEFAULT_BULK_TTL,
            queue_ttl: params::DEFAULT_QUEUE_TTL,
            blob_ttl: params::MAX_BLOB_TTL,
        }
    }
}

impl Limits {
    /// Messages that a queue of this kind holds.
    pub(crate) const fn quota(&self, kind: QueueKind) -> u32 {
        match kind {
            QueueKind::Plain => self.queue_quota,
            QueueKind::Contact => self.contact_quota,
            QueueKind::Bulk => self.bulk_quota,
        }
    }

    /// How long messages in a queue of this kind live.
    pub(crate) const fn ttl(&self, kind: QueueKind) -> Duration {
        match kind {
            QueueKind::Plain | QueueKind::Contact => self.message_ttl,
            QueueKind::Bulk => self.bulk_ttl,
        }
    }
}

/// A duration in whole hours, rounded up.
pub(crate) fn hours(d: Duration) -> u32 {
    let up = d.as_secs().saturating_add(u64::from(d.subsec_nanos() > 0)).div_ceil(3600);
    u32::try_from(up).unwrap_or(u32::MAX)
}

/// The hour at whose beginning something ends that began in `hour` and lives for `d`. The hour in which it began
/// doesn't count, since the minute isn't known: nothing ends early.
pub(crate) fn end_hour(hour: u32, d: Duration) -> u32 {
    hour.saturating_add(hours(d)).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_rounded_up() {
        assert_eq!(hours(Duration::ZERO), 0);
        assert_eq!(hours(Duration::from_millis(1)), 1);
        assert_eq!(hours(Duration::from_secs(3600)), 1);
        assert_eq!(hours(Duration::from_secs(3601)), 2);
        assert_eq!(end_hour(u32::MAX, Duration::MAX), u32::MAX);
        assert_eq!(end_hour(10, Duration::from_secs(3600)), 12);
    }
}
