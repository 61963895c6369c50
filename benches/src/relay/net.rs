//! The network of three that the relay is in, and packets for it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use posta_link::LinkKey;
use posta_link::fetch::Network;
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::document::{
    Authorities, Authority, Certificate, Consensus, ConsensusBody, ConsensusSignature, Cut, Deal, Extensions,
    KeyEpochPart, Origin, Params, Position, Purpose, RelayEntry, Roles, SharedRandom, UnverifiedConsensus, cut, place,
};
use posta_protocol::frame::Hello;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::packet::Packet;
use posta_protocol::registry::parameter;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::process::run_on;
use super::{G, KEY_EPOCH_MS, SINK};

pub(crate) fn link_key(n: u8) -> Result<LinkKey> {
    LinkKey::from_seed(&Secret::new([n; 32])).context("a link key")
}

pub(crate) fn entry(id: RelayId, link_key: LinkPublicKey, position: Position, address: SocketAddr) -> RelayEntry {
    RelayEntry {
        id,
        link_key,
        link_addresses: vec![address],
        client_addresses: Vec::new(),
        roles: if position == Position::Edge { Roles::EDGE } else { Roles::MIX },
        family: None,
        operator: OperatorId([0; 16]),
        capacity: 1,
        protocols: Default::default(),
        class: Default::default(),
        listed_since: Wall(0),
        layers: vec![Some(position); 2],
    }
}

/// A network of three, whose only authority is nowhere.
pub(crate) struct Net {
    pub(crate) consensus: Vec<u8>,
    pub(crate) hello: Hello,
    pub(crate) network: Network,
}

pub(crate) fn net(now: Wall, mut relays: Vec<RelayEntry>) -> Result<Net> {
    let identity = SignKey::from_seed(&Secret::new([9; 32]));
    let signing = SignKey::from_seed(&Secret::new([10; 32]));
    let authorities = Authorities::new(vec![Authority {
        id: AuthorityId(identity.public()),
        link_key: LinkPublicKey([9; 32]),
        addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 1))],
    }])?;
    relays.sort_by_key(|relay| relay.id);
    let mut params = Params::default();
    params.set(parameter::KEY_EPOCH_MS, KEY_EPOCH_MS);
    params.set(parameter::RESERVED_NETWORKS, 1);
    let hour = Duration::from_secs(3600);
    let epoch = KeyEpoch(now.0 / KEY_EPOCH_MS);
    let body = ConsensusBody {
        geometry: G,
        epoch: Epoch(now.0 / 3_600_000),
        valid_after: now - hour,
        fresh_until: now + hour,
        valid_until: now + hour * 3,
        previous: Hash([0; 32]),
        shared_random: SharedRandom {
            deals: [epoch, epoch.next()].map(|epoch| deal(epoch, &relays)).into(),
            ..SharedRandom::default()
        },
        params,
        missed: Vec::new(),
        key_epochs: [epoch, epoch.next()].map(|epoch| KeyEpochPart { epoch, mix_keys: Hash([0; 32]) }).into(),
        relays,
        extensions: Extensions::default(),
    };
    let bytes = body.encode();
    let header = body.header(&bytes);
    let key = SigningPublicKey(signing.public());
    let certificate = Certificate::issue(&identity, Purpose::Authority, key, Wall(0), now + hour * 24);
    let signature = ConsensusSignature::sign(&header, certificate, &signing);
    let consensus = Consensus::assemble(&bytes, &[signature]);
    let verified = UnverifiedConsensus::decode(&consensus)
        .and_then(|c| c.verify(&authorities, now, hour))
        .map_err(|e| anyhow!("the consensus: {e}"))?;
    let hello = Hello::new(G, verified.epoch(), verified.hash());
    Ok(Net { consensus, hello, network: Network::new(authorities) })
}

/// A random value that puts the relays where they are.
fn deal(key_epoch: KeyEpoch, relays: &[RelayEntry]) -> Deal {
    let with = |n: u8| {
        let deal = Deal { key_epoch, random: [n; 32], origin: Origin::Reveals, listed_before: Wall(1), cut: None };
        Deal { cut: cut(&deal, relays, 1).ok().map(|last| Cut { dealt: Epoch(0), last }), ..deal }
    };
    let fits = |deal: &Deal| relays.iter().all(|relay| Some(place(deal, relay)) == relay.layers.first().copied());
    (0..=u8::MAX).map(with).find(fits).unwrap_or_else(|| with(0))
}

/// Builds so many packets for the relay and the sink, on both cores; those of another seed are others.
pub(crate) fn build(to: (RelayId, &KemPublicKey), now: Wall, seed: u64, count: usize) -> Result<Vec<Packet>> {
    let sink = KemSecretKey::from_seed(&Secret::new([3; 32])).context("a mix key")?;
    let hop = |relay, key| Hop { relay, key, delay: Duration::ZERO };
    let hops = [hop(to.0, to.1), hop(SINK.0, sink.public())];
    let epoch = KeyEpoch(now.0 / KEY_EPOCH_MS);
    let half = |part: u64, count: usize| {
        move || {
            run_on(&[0, 1])?;
            let mut rng = ChaCha20Rng::seed_from_u64(seed * 2 + part);
            (0..count).map(|_| packet(G, epoch, &hops, Last::Queue, b"", &mut rng).context("a packet")).collect()
        }
    };
    let halves: [Result<Vec<_>>; 2] = thread::scope(|scope| {
        [scope.spawn(half(0, count / 2)), scope.spawn(half(1, count - count / 2))]
            .map(|half| half.join().unwrap_or_else(|_| Err(anyhow!("a thread that builds packets has panicked"))))
    });
    let mut all = Vec::with_capacity(count);
    for half in halves {
        all.extend(half?);
    }
    Ok(all)
}

/// The files that a relay starts from; `text` is its configuration, for the most part.
pub(crate) fn write_config(dir: &Path, network: &Network, text: &str) -> Result<String> {
    network.save(&dir.join("network.toml"))?;
    let path = dir.join("node.toml");
    fs::write(&path, format!("allow_root = true\nkey_epoch_ms = {KEY_EPOCH_MS}\n{text}"))?;
    Ok(path.to_str().context("a temporary folder whose path is text")?.to_owned())
}
