//! What a worker does with each packet: peel it, once. One per core, owning its share of the replay filter.

use std::sync::Arc;

use posta_protocol::error::Refused;
use posta_protocol::ids::KeyEpoch;
use posta_protocol::onion::{self, KeyRing, Peeled};
use posta_protocol::packet::Packet;

use super::replay::{Fill, ReplayShard, Route, Seen, Verdict};

/// The keys of this moment, and the key epochs that they are of.
#[derive(Clone, Debug)]
pub struct Ring {
    /// The keys.
    pub keys: Arc<KeyRing>,
    /// Their key epochs, the current one first; the replay filter forgets those before all of them.
    pub epochs: Vec<KeyEpoch>,
}

impl Ring {
    /// The oldest key epoch.
    #[must_use]
    pub fn oldest(&self) -> KeyEpoch {
        self.epochs.iter().min().copied().unwrap_or_default()
    }

    fn current(&self) -> KeyEpoch {
        self.epochs.first().copied().unwrap_or_default()
    }
}

/// Peels packets and remembers them. No I/O: what was newly seen is written by the driver before any packet of the
/// batch leaves.
#[derive(Debug)]
pub struct Peeler {
    ring: Arc<KeyRing>,
    current: KeyEpoch,
    seen: ReplayShard,
    log: Vec<Seen>,
    full: u64,
}

impl Peeler {
    /// A worker with a shard that may hold what a log has kept.
    #[must_use]
    pub fn new(ring: Ring, mut seen: ReplayShard) -> Self {
        seen.forget_before(ring.oldest());
        Self { current: ring.current(), ring: ring.keys, seen, log: Vec::new(), full: 0 }
    }

    /// Changes the keys and forgets what was seen in epochs without one.
    pub fn set_ring(&mut self, ring: Ring) {
        self.seen.forget_before(ring.oldest());
        self.current = ring.current();
        self.ring = ring.keys;
    }

    /// Peels one layer off, in place.
    ///
    /// # Errors
    /// [`Refused`], the same for a foreign or garbled packet, a replay, and a full filter.
    pub fn peel(&mut self, packet: &mut Packet) -> Result<Peeled, Refused> {
        let route = self.seen.route(packet);
        self.peel_routed(packet, route)
    }

    /// As [`Peeler::peel`], for a packet whose route is known.
    ///
    /// # Errors
    /// As [`Peeler::peel`].
    pub fn peel_routed(&mut self, packet: &mut Packet, route: Route) -> Result<Peeled, Refused> {
        let Self { ring, seen, log, full, .. } = self;
        onion::peel(ring, packet, |epoch, tag| match seen.check(epoch, tag, route) {
            Verdict::New(new) => {
                log.push(new);
                true
            }
            Verdict::Replay => false,
            Verdict::Full => {
                *full += 1;
                false
            }
        })
    }

    /// What was seen for the first time since the last call. It must be written before the packets go on.
    #[must_use]
    pub fn take_log(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.log)
    }

    /// How many packets were refused since the last call because the filter was full.
    #[must_use]
    pub fn take_full(&mut self) -> u64 {
        std::mem::take(&mut self.full)
    }

    /// How full the current key epoch's share of the filter is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        self.seen.fill(self.current)
    }
}
