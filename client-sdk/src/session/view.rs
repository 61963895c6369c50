//! The network as the session sees it: who stands where in a key epoch, and with which keys.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::document::{Consensus, MixKeys, Position, Protocols, RelayEntry, Standing};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, Hash, KeyEpoch, RelayId};
use posta_protocol::invitation::{RelayPrefix, prefix};
use posta_protocol::now::Wall;

/// Consensus hashes that are remembered, to tell a fork from an old acquaintance.
const REMEMBERED_EPOCHS: usize = 16;

/// The network of an address: its first 16 bits in IPv4, its first 32 in IPv6.
fn network(address: &SocketAddr) -> [u8; 4] {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => [ip.octets()[0], ip.octets()[1], 0, 4],
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.octets();
            [a, b, c, d]
        }
    }
}

/// The newest documents, and the hashes of those before.
pub(crate) struct View {
    consensus: Arc<Consensus>,
    keys: BTreeMap<KeyEpoch, Arc<MixKeys>>,
    hashes: BTreeMap<Epoch, Hash>,
}

impl View {
    /// Takes newer documents over. Keys of key epochs that have passed are forgotten.
    pub(crate) fn update(
        previous: Option<Self>,
        consensus: Arc<Consensus>,
        mix_keys: Vec<Arc<MixKeys>>,
        wall: Wall,
    ) -> Self {
        let (mut keys, mut hashes) = previous.map(|v| (v.keys, v.hashes)).unwrap_or_default();
        let current = consensus.key_epoch_at(wall);
        keys.extend(mix_keys.into_iter().map(|k| (k.key_epoch, k)));
        keys.retain(|epoch, _| *epoch >= current);
        hashes.insert(consensus.epoch(), consensus.hash());
        while hashes.len() > REMEMBERED_EPOCHS {
            hashes.pop_first();
        }
        Self { consensus, keys, hashes }
    }

    pub(crate) fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.consensus.geometry()
    }

    /// The epoch and hash that contents carry.
    pub(crate) fn vouched(&self) -> (Epoch, Hash) {
        (self.consensus.epoch(), self.consensus.hash())
    }

    /// Whether another hash is known for this epoch.
    pub(crate) fn contradicts(&self, epoch: Epoch, hash: &Hash) -> bool {
        self.hashes.get(&epoch).is_some_and(|ours| !ours.ct_eq(hash))
    }

    /// The key epoch at a time.
    pub(crate) fn key_epoch(&self, wall: Wall) -> KeyEpoch {
        self.consensus.key_epoch_at(wall)
    }

    /// Milliseconds from a time to the next key epoch.
    pub(crate) fn to_next_key_epoch(&self, wall: Wall) -> u64 {
        let length = self.consensus.params().key_epoch_ms();
        length - wall.0 % length
    }

    /// Whether packets of this key epoch can be built.
    pub(crate) fn has_keys(&self, epoch: KeyEpoch) -> bool {
        self.keys.contains_key(&epoch) && self.consensus.mix_keys_hash(epoch).is_some()
    }

    /// The relays at a place that have a key, sorted by identity.
    pub(crate) fn at(&self, epoch: KeyEpoch, position: Position) -> Vec<RelayId> {
        let relays = self.consensus.relays_at(epoch, position).map(|r| r.id);
        relays.filter(|id| self.key(epoch, id).is_some()).collect()
    }

    /// The edges for something new: those that don't go soon, if there are any others than those.
    pub(crate) fn open_edges(&self, epoch: KeyEpoch) -> Vec<RelayId> {
        let all = self.at(epoch, Position::Edge);
        let stays = |id: &&RelayId| self.consensus.relay(id).is_some_and(|relay| !relay.roles.retiring);
        let open: Vec<RelayId> = all.iter().filter(stays).copied().collect();
        if open.is_empty() { all } else { open }
    }

    pub(crate) fn is_edge(&self, epoch: KeyEpoch, relay: &RelayId) -> bool {
        self.consensus.position(relay, epoch) == Some(Position::Edge) && self.key(epoch, relay).is_some()
    }

    pub(crate) fn key(&self, epoch: KeyEpoch, relay: &RelayId) -> Option<&KemPublicKey> {
        self.keys.get(&epoch)?.get(relay)
    }

    /// How this program stands to the protocol versions that the network asks for.
    pub(crate) fn standing(&self) -> Standing {
        self.consensus.params().standing(Protocols::default())
    }

    /// How much paths shall use a relay, as the authorities have measured.
    pub(crate) fn weight(&self, relay: &RelayId) -> u32 {
        self.consensus.relay(relay).map_or(0, |r| r.class.weight())
    }

    /// Those of weight; all of them if there are none.
    pub(crate) fn weighty(&self, relays: Vec<RelayId>) -> Vec<RelayId> {
        let weighty: Vec<RelayId> = relays.iter().copied().filter(|r| self.weight(r) > 0).collect();
        if weighty.is_empty() { relays } else { weighty }
    }

    /// Whether one operator or one family runs both, or they stand in one network: who watches one, may watch both.
    pub(crate) fn related(&self, a: &RelayId, b: &RelayId) -> bool {
        let (Some(a), Some(b)) = (self.consensus.relay(a), self.consensus.relay(b)) else { return false };
        let family = a.family.is_some() && a.family == b.family;
        let networks =
            |r: &RelayEntry| r.link_addresses.iter().chain(&r.client_addresses).map(network).collect::<Vec<_>>();
        a.operator == b.operator || family || networks(a).iter().any(|n| networks(b).contains(n))
    }

    /// The relays whose identity starts like this.
    pub(crate) fn by_prefix(&self, wanted: RelayPrefix) -> impl Iterator<Item = RelayId> {
        self.consensus.relays().iter().map(|r| r.id).filter(move |id| prefix(id) == wanted)
    }
}
