//! The directory of a simulated network: four authorities that agree as long as they live, and the relays' keys.
//!
//! Voting is simulated in the directory's own tests; here its result is what matters: documents with real signatures,
//! an epoch after the other, with layers and mix keys that change together at each key epoch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::crypto::keyed_hash;
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::document::{
    Authorities, Authority, Certificate, Consensus, ConsensusBody, ConsensusSignature, Deal, Extensions, KeyEpochPart,
    MixKeys, Origin, Params, Purpose, RelayEntry, Roles, SharedRandom, UnverifiedConsensus, UnverifiedMixKeys,
    commits_close, cut_deals, place, random_value, verify_layers,
};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::params::KEY_EPOCHS_AHEAD;
use posta_protocol::registry::parameter;
use posta_protocol::secret::Secret;

use super::Broken;

/// What a client or a relay needs to know of the network.
#[derive(Clone, Debug)]
pub struct Documents {
    /// The consensus.
    pub consensus: Arc<Consensus>,
    /// Mix keys of its key epochs.
    pub mix_keys: Vec<Arc<MixKeys>>,
}

/// A relay of the simulation.
#[derive(Clone, Copy, Debug)]
pub struct SimRelay {
    /// Its identity.
    pub id: RelayId,
    /// What it offers.
    pub roles: Roles,
}

/// Authorities and relays, all keys from one seed.
#[derive(Debug)]
pub struct Directory {
    seed: [u8; 32],
    authorities: Authorities,
    /// Sorted by identity.
    relays: Vec<SimRelay>,
    params: Params,
    /// Which authorities still run; a dead one signs nothing.
    alive: [bool; AUTHORITIES],
}

/// Authorities of a simulated network.
pub const AUTHORITIES: usize = 4;

impl Directory {
    /// A network of `edges` and `mixes`.
    ///
    /// # Errors
    /// [`Broken`] if the authorities' keys collide, which no seed has shown.
    pub fn new(
        seed: [u8; 32],
        edges: usize,
        mixes: usize,
        epoch: Duration,
        key_epoch: Duration,
    ) -> Result<Self, Broken> {
        let list = (0..AUTHORITIES)
            .map(|a| Authority {
                id: AuthorityId(sign_key(&seed, "authority", a as u64).public()),
                link_key: LinkPublicKey([a as u8; 32]),
                addresses: Vec::new(),
            })
            .collect();
        let mut relays: Vec<SimRelay> = (0..edges + mixes)
            .map(|r| SimRelay {
                id: RelayId(sign_key(&seed, "relay", r as u64).public()),
                roles: if r < edges { Roles::EDGE } else { Roles::MIX },
            })
            .collect();
        relays.sort_by_key(|r| r.id);
        let mut params = Params::default();
        params.set(parameter::EPOCH_MS, millis(epoch));
        params.set(parameter::KEY_EPOCH_MS, millis(key_epoch));
        params.set(parameter::RESERVED_NETWORKS, 1);
        params.set(parameter::LAYER_MIN, 1);
        let authorities = Authorities::new(list).map_err(|_| Broken("the list of authorities"))?;
        Ok(Self { seed, authorities, relays, params, alive: [true; AUTHORITIES] })
    }

    /// Sets how often relays send loops of their own, zero for never, and how long those of the slow profiles are held.
    pub fn loops(&mut self, interval: Duration, hop_delay: Duration) {
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        self.params.set(parameter::RELAY_LOOP_INTERVAL_US, us(interval));
        self.params.set(parameter::MIXED_HOP_DELAY_US, us(hop_delay));
        self.params.set(parameter::STEADY_HOP_DELAY_US, us(hop_delay));
    }

    /// An authority dies for good.
    pub fn kill(&mut self, authority: usize) {
        if let Some(alive) = self.alive.get_mut(authority) {
            *alive = false;
        }
    }

    /// All relays, sorted by identity.
    #[must_use]
    pub fn relays(&self) -> &[SimRelay] {
        &self.relays
    }

    /// The key epoch at a time.
    #[must_use]
    pub fn key_epoch_at(&self, at: Wall) -> KeyEpoch {
        KeyEpoch(at.0 / self.params.key_epoch_ms())
    }

    /// When the next epoch begins.
    #[must_use]
    pub fn next_epoch(&self, at: Wall) -> Wall {
        let length = self.params.epoch_ms();
        Wall((at.0 / length + 1) * length)
    }

    /// A relay's secret mix key.
    ///
    /// # Errors
    /// [`Broken`] if the key can't be made.
    pub fn mix_key(&self, relay: &RelayId, epoch: KeyEpoch) -> Result<KemSecretKey, Broken> {
        let mut label = b"mix key".to_vec();
        label.extend_from_slice(&relay.0);
        label.extend_from_slice(&epoch.0.to_le_bytes());
        KemSecretKey::from_seed(&Secret::new(keyed_hash(&self.seed, &label))).map_err(|_| Broken("a mix key"))
    }

    /// The documents of the epoch at a time, verified as a client does.
    ///
    /// # Errors
    /// [`Broken`] if what was built doesn't verify.
    pub fn documents(&self, at: Wall) -> Result<Documents, Broken> {
        let length = self.params.epoch_ms();
        let epoch = at.0 / length;
        let current = self.key_epoch_at(at);
        let epochs: Vec<KeyEpoch> = (0..=KEY_EPOCHS_AHEAD).map(|n| KeyEpoch(current.0 + n)).collect();
        let parts = epochs.iter().map(|e| self.encoded_mix_keys(*e)).collect::<Result<Vec<_>, _>>()?;
        let mut body = ConsensusBody {
            geometry: Geometry::DEFAULT,
            epoch: Epoch(epoch),
            valid_after: Wall(epoch * length),
            fresh_until: Wall((epoch + 1) * length),
            valid_until: Wall((epoch + 4) * length),
            previous: Hash([0; 32]),
            shared_random: self.shared_random(&epochs),
            params: self.params.clone(),
            missed: Vec::new(),
            key_epochs: epochs
                .iter()
                .zip(&parts)
                .map(|(epoch, part)| KeyEpochPart { epoch: *epoch, mix_keys: MixKeys::hash(part) })
                .collect(),
            relays: self.relays.iter().enumerate().map(|(n, r)| self.entry(n, r)).collect(),
            extensions: Extensions::default(),
        };
        cut_deals(&mut body);
        for deal in body.shared_random.deals.clone() {
            for relay in &mut body.relays {
                relay.layers.push(place(&deal, relay));
            }
        }
        let encoded = body.encode();
        let header = body.header(&encoded);
        let mut signatures: Vec<ConsensusSignature> = (0_u64..)
            .zip(self.alive)
            .filter(|(_, alive)| *alive)
            .map(|(a, _)| {
                let identity = sign_key(&self.seed, "authority", a);
                let signing = sign_key(&self.seed, "signing", a);
                let certificate = Certificate::issue(
                    &identity,
                    Purpose::Authority,
                    SigningPublicKey(signing.public()),
                    Wall(0),
                    Wall(u64::MAX),
                );
                ConsensusSignature::sign(&header, certificate, &signing)
            })
            .collect();
        signatures.sort_by_key(ConsensusSignature::authority);
        let bytes = Consensus::assemble(&encoded, &signatures);
        let consensus = UnverifiedConsensus::decode(&bytes)
            .and_then(|c| c.verify(&self.authorities, at, Duration::ZERO))
            .map_err(|_| Broken("a consensus"))?;
        let mix_keys: Vec<Arc<MixKeys>> = parts
            .iter()
            .map(|part| UnverifiedMixKeys::decode(part).ok()?.verify(&consensus).ok().map(Arc::new))
            .collect::<Option<_>>()
            .ok_or(Broken("a part of mix keys"))?;
        if mix_keys.iter().any(|part| verify_layers(&consensus, part).is_err()) {
            return Err(Broken("the layers"));
        }
        Ok(Documents { consensus: Arc::new(consensus), mix_keys })
    }

    fn encoded_mix_keys(&self, key_epoch: KeyEpoch) -> Result<Vec<u8>, Broken> {
        let keys = self
            .relays
            .iter()
            .map(|r| Ok((r.id, self.mix_key(&r.id, key_epoch)?.public().clone())))
            .collect::<Result<_, _>>()?;
        Ok(MixKeys { key_epoch, keys }.encode())
    }

    fn entry(&self, n: usize, relay: &SimRelay) -> RelayEntry {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        RelayEntry {
            id: relay.id,
            link_key: LinkPublicKey(relay.id.0),
            link_addresses: vec![address],
            client_addresses: vec![address],
            roles: relay.roles,
            family: None,
            operator: operator(n),
            capacity: 1000,
            protocols: Default::default(),
            class: Default::default(),
            listed_since: Wall(0),
            layers: Vec::new(),
        }
    }

    /// Random values as an undisturbed network has them: each authority's reveal comes from the seed. The documents
    /// here have no history, so each value stands alone instead of on the one before, is cut anew in every consensus
    /// (all relays are there from the start, so that the cut is the same), and no round is going on.
    fn shared_random(&self, epochs: &[KeyEpoch]) -> SharedRandom {
        let ms = self.params.key_epoch_ms();
        let deal = |key_epoch: &KeyEpoch| {
            let reveal = |id: AuthorityId| {
                let mut label = b"reveal".to_vec();
                label.extend_from_slice(&id.0);
                label.extend_from_slice(&key_epoch.0.to_le_bytes());
                (id, keyed_hash(&self.seed, &label))
            };
            let reveals: Vec<_> = self.authorities.list().iter().map(|a| reveal(a.id)).collect();
            Deal {
                key_epoch: *key_epoch,
                random: random_value(Origin::Reveals, &[0; 32], *key_epoch, &reveals),
                origin: Origin::Reveals,
                listed_before: commits_close(KeyEpoch(key_epoch.0.saturating_sub(KEY_EPOCHS_AHEAD + 1)), ms),
                cut: None,
            }
        };
        SharedRandom { deals: epochs.iter().map(deal).collect(), ..SharedRandom::default() }
    }
}

/// An operator for each relay.
fn operator(n: usize) -> OperatorId {
    let mut id = [n as u8; 16];
    for (to, from) in id.iter_mut().zip((n as u64).to_be_bytes()) {
        *to = from;
    }
    OperatorId(id)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn sign_key(seed: &[u8; 32], what: &str, n: u64) -> SignKey {
    let mut label = what.as_bytes().to_vec();
    label.extend_from_slice(&n.to_le_bytes());
    SignKey::from_seed(&Secret::new(keyed_hash(seed, &label)))
}
