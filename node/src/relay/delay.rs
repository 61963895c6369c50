//! Packets that wait for their time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use posta_protocol::ids::RelayId;
use posta_protocol::now::Mono;
use posta_protocol::packet::Packet;

/// Packets held by their due time; those due at once leave in random order, so that order says nothing.
#[derive(Debug, Default)]
pub(crate) struct DelayQueue {
    heap: BinaryHeap<Held>,
}

#[derive(Debug)]
struct Held {
    due: Mono,
    tie: u64,
    to: RelayId,
    packet: Packet,
}

impl DelayQueue {
    /// Holds a packet until `due`; `tie` is random.
    pub(crate) fn push(&mut self, due: Mono, tie: u64, to: RelayId, packet: Packet) {
        self.heap.push(Held { due, tie, to, packet });
    }

    /// The next packet that is due.
    pub(crate) fn pop_due(&mut self, now: Mono) -> Option<(RelayId, Packet)> {
        if self.heap.peek()?.due > now {
            return None;
        }
        self.heap.pop().map(|held| (held.to, held.packet))
    }

    /// Drops what is due after `last`, and says how many packets that were.
    pub(crate) fn drop_after(&mut self, last: Mono) -> u64 {
        let before = self.heap.len();
        self.heap.retain(|held| held.due <= last);
        (before - self.heap.len()) as u64
    }

    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.heap.peek().map(|held| held.due)
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

impl Ord for Held {
    /// The greatest is the one due first, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.tie).cmp(&(self.due, self.tie))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}
