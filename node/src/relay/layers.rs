//! Who stands where on paths, for the key epochs that packets can be of.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use posta_protocol::document::{Consensus, Position, legal};
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::{KEY_EPOCH_MARGIN_DIVISOR, MAX_HOP_DELAY, MAX_HOPS, RELAY_CLOCK_SKEW};

/// Places by key epoch. The epoch that has just ended is kept, although the newest consensus has left it out: packets
/// of it are still under way.
#[derive(Debug)]
pub(crate) struct Layers {
    me: RelayId,
    key_epoch_ms: Option<u64>,
    places: BTreeMap<KeyEpoch, HashMap<RelayId, Position>>,
}

/// How far clocks may be off at the ends of a key epoch: [`RELAY_CLOCK_SKEW`], less in a test network of short ones.
#[must_use]
pub fn skew(key_epoch_ms: u64) -> Duration {
    RELAY_CLOCK_SKEW.min(Duration::from_millis(key_epoch_ms / KEY_EPOCH_MARGIN_DIVISOR))
}

/// How long a key epoch's packets are accepted after its end: the longest path's delay and the clocks' difference, less
/// in a test network.
#[must_use]
pub fn grace(key_epoch_ms: u64) -> Duration {
    let longest = MAX_HOP_DELAY * u32::try_from(MAX_HOPS).unwrap_or(u32::MAX) + RELAY_CLOCK_SKEW;
    longest.min(Duration::from_millis(key_epoch_ms / KEY_EPOCH_MARGIN_DIVISOR))
}

impl Layers {
    pub(crate) const fn new(me: RelayId) -> Self {
        Self { me, key_epoch_ms: None, places: BTreeMap::new() }
    }

    /// Takes over what a consensus says of its key epochs, and forgets those that are over.
    pub(crate) fn update(&mut self, consensus: &Consensus, now: Wall) {
        self.key_epoch_ms = Some(consensus.params().key_epoch_ms());
        for (column, part) in consensus.key_epochs().iter().enumerate() {
            let place = |r: &posta_protocol::document::RelayEntry| Some((r.id, (*r.layers.get(column)?)?));
            self.places.insert(part.epoch, consensus.relays().iter().filter_map(place).collect());
        }
        let current = consensus.key_epoch_at(now);
        self.places.retain(|epoch, _| epoch.next() >= current);
    }

    /// Key epochs whose places are known.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn key_epoch(&self, at: Wall) -> Option<KeyEpoch> {
        self.key_epoch_ms.map(|ms| KeyEpoch(at.0 / ms))
    }

    /// The key epoch at a time that the client's clock may show already.
    pub(crate) fn key_epoch_ahead(&self, at: Wall) -> Option<KeyEpoch> {
        self.key_epoch(at + skew(self.key_epoch_ms?))
    }

    /// Whether a reply block of `epoch` may be used: it is current, by some clock that isn't off too far.
    pub(crate) fn usable(&self, epoch: KeyEpoch, at: Wall) -> bool {
        let Some(ms) = self.key_epoch_ms else { return false };
        let skew = skew(ms);
        [at - skew, at, at + skew].iter().any(|at| KeyEpoch(at.0 / ms) == epoch)
    }

    /// Whether packets of `epoch` can still be under way.
    pub(crate) fn alive(&self, epoch: KeyEpoch, at: Wall) -> bool {
        let Some(ms) = self.key_epoch_ms else { return false };
        epoch.0.saturating_add(1).saturating_mul(ms).saturating_add(grace(ms).as_millis() as u64) > at.0
    }

    fn position(&self, id: &RelayId, epoch: KeyEpoch) -> Option<Position> {
        self.places.get(&epoch)?.get(id).copied()
    }

    /// Whether a packet of `epoch` may have come from that relay to us; with none named, from a client.
    pub(crate) fn may_come(&self, from: Option<&RelayId>, epoch: KeyEpoch) -> bool {
        let Some(here) = self.position(&self.me, epoch) else { return false };
        match from {
            None => here == Position::Edge,
            Some(from) => self.position(from, epoch).is_some_and(|there| legal(there, here)),
        }
    }

    /// Whether a packet of `epoch` may go from us to that relay.
    pub(crate) fn may_go(&self, to: &RelayId, epoch: KeyEpoch) -> bool {
        let (Some(here), Some(there)) = (self.position(&self.me, epoch), self.position(to, epoch)) else {
            return false;
        };
        legal(here, there)
    }
}
