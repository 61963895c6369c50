//! What clients know of the network in one key epoch, once for all of them.

use std::sync::Arc;
use std::time::Duration;

use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::document::{MixKeys, Position};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use rand_chacha::ChaCha20Rng;

use super::client::delay;
use super::lines::below;
use crate::sim::directory::{Documents, SimRelay};

/// Relays by their places.
#[derive(Debug)]
pub(super) struct View {
    pub(super) epoch: KeyEpoch,
    pub(super) geometry: Geometry,
    pub(super) edges: Vec<u32>,
    pub(super) mix1: Vec<u32>,
    pub(super) mix2: Vec<u32>,
    ids: Vec<RelayId>,
    keys: Arc<MixKeys>,
}

/// A hop with its delay.
type Drawn<'a> = (RelayId, &'a KemPublicKey, Duration);

impl View {
    pub(super) fn new(documents: &Documents, relays: &[SimRelay], epoch: KeyEpoch) -> Option<Self> {
        let keys = documents.mix_keys.iter().find(|part| part.key_epoch == epoch)?;
        let at = |position| {
            let there = |relay: &SimRelay| documents.consensus.position(&relay.id, epoch) == Some(position);
            (0_u32..).zip(relays).filter(|(_, relay)| there(relay)).map(|(n, _)| n).collect()
        };
        Some(Self {
            epoch,
            geometry: documents.consensus.geometry(),
            edges: at(Position::Edge),
            mix1: at(Position::Mix1),
            mix2: at(Position::Mix2),
            ids: relays.iter().map(|relay| relay.id).collect(),
            keys: Arc::clone(keys),
        })
    }

    pub(super) fn hop(&self, relay: u32, held: Duration) -> Option<Drawn<'_>> {
        let id = *self.ids.get(relay as usize)?;
        Some((id, self.keys.get(&id)?, held))
    }

    /// From the entry over two mixes to a queue relay.
    pub(super) fn forth(&self, entry: u32, to: u32, mean: Duration, rng: &mut ChaCha20Rng) -> Option<[Drawn<'_>; 4]> {
        let first = self.hop(entry, delay(mean, rng))?;
        let [a, b] = self.mixes(mean, rng)?;
        Some([first, a, b, self.hop(to, Duration::ZERO)?])
    }

    /// From a queue relay over two mixes to the entry.
    pub(super) fn back(&self, entry: u32, mean: Duration, rng: &mut ChaCha20Rng) -> Option<[Drawn<'_>; 3]> {
        let [a, b] = self.mixes(mean, rng)?;
        Some([a, b, self.hop(entry, Duration::ZERO)?])
    }

    fn mixes(&self, mean: Duration, rng: &mut ChaCha20Rng) -> Option<[Drawn<'_>; 2]> {
        let one = self.mix1.get(below(self.mix1.len(), rng)).copied()?;
        let two = self.mix2.get(below(self.mix2.len(), rng)).copied()?;
        Some([self.hop(one, delay(mean, rng))?, self.hop(two, delay(mean, rng))?])
    }
}
