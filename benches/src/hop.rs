//! One hop: peeling a layer, beside the key decapsulation that it can't do without, and beside Nym's Sphinx packet.
//!
//! Three floors of the same run, because the first moves with our own speed: `kem_floor_us` is X-Wing's decapsulation by
//! the very function that the hop calls, with the expanded ML-KEM key; `kem_packed_us` is X25519 and ML-KEM-768 by their
//! crates' plain functions, as the budgets of the design were written.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use libcrux_ml_kem::mlkem768;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::params::{DEFAULT_HOPS, DEFAULT_PAYLOAD_LEN, PAYLOAD_CHECK_LEN};
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;
use sphinx_packet::header::delays::Delay;
use sphinx_packet::packet::builder::SphinxPacketBuilder;
use sphinx_packet::route::{Destination, DestinationAddressBytes, Node, NodeAddressBytes};
use sphinx_packet::{ProcessedPacketData, SphinxPacket};
use x25519_dalek::{PublicKey, StaticSecret};

/// Payloads measured, in bytes.
const PAYLOADS: [usize; 4] = [2048, 8192, 16_384, 32_768];
/// Turns; in each, all that is compared alternates, so that the machine's moods hit everyone.
const TURNS: usize = 800;
/// Different packets, so that none is peeled from a warm cache.
const PACKETS: usize = 64;
/// Hops of the peer's path: what its network uses.
const SPHINX_HOPS: u8 = 3;
const EPOCH: KeyEpoch = KeyEpoch(1);

/// All figures; medians in microseconds.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// By payload in bytes.
    pub sizes: BTreeMap<usize, Size>,
    /// Building a packet of 4 layers with the default payload.
    pub build_us: f64,
    /// The peer building a packet of 3 layers with as much payload.
    pub sphinx_packet_build_us: f64,
    /// The first by the second.
    pub build_ratio: f64,
}

/// One payload's figures.
#[derive(Debug, Serialize)]
pub struct Size {
    /// Peeling one layer.
    pub hop_us: f64,
    /// The peer parsing and processing a packet.
    pub sphinx_packet_us: f64,
    /// X-Wing decapsulation alone: X25519, ML-KEM-768 and the combiner, by the very function that the hop calls.
    pub kem_floor_us: f64,
    /// X25519 and ML-KEM-768 by their crates' plain functions, the ML-KEM key packed.
    pub kem_packed_us: f64,
    /// Hop by peer.
    pub ratio_to_sphinx_packet: f64,
    /// Hop by `kem_floor_us`.
    pub ratio_to_floor: f64,
    /// Hop by `kem_packed_us`.
    pub ratio_to_packed_floor: f64,
}

struct Relay {
    id: RelayId,
    secret: KemSecretKey,
    ring: KeyRing,
}

fn relay(n: u8, geometry: Geometry, rng: &mut ChaCha20Rng) -> Result<Relay> {
    let (id, seed) = (RelayId([n; 32]), Secret::random(rng));
    let key = || KemSecretKey::from_seed(&seed).context("a mix key");
    Ok(Relay { id, secret: key()?, ring: KeyRing::new(id, geometry, vec![(EPOCH, key()?)]) })
}

/// X25519 and ML-KEM-768 without anything around them.
struct Primitives {
    x25519: PrivateKey,
    peer: [u8; 32],
    ml_kem: mlkem768::MlKem768KeyPair,
    ciphertext: mlkem768::MlKem768Ciphertext,
}

impl Primitives {
    fn new() -> Result<Self> {
        let x25519 = PrivateKey::from_private_key(&X25519, &[7; 32]).context("an X25519 key")?;
        let peer = x25519.compute_public_key().context("an X25519 key")?.as_ref().try_into()?;
        let ml_kem = mlkem768::generate_key_pair([3; 64]);
        let (ciphertext, _) = mlkem768::encapsulate(ml_kem.public_key(), [4; 32]);
        Ok(Self { x25519, peer, ml_kem, ciphertext })
    }

    fn run(&self) -> Result<()> {
        let failed = anyhow!("X25519 failed");
        agree(&self.x25519, UnparsedPublicKey::new(&X25519, self.peer), failed, |shared| {
            black_box(shared);
            Ok(())
        })?;
        black_box(mlkem768::decapsulate(self.ml_kem.private_key(), &self.ciphertext));
        Ok(())
    }
}

/// The peer: a path, its first relay's key, and packets of one payload.
struct Sphinx {
    first: StaticSecret,
    route: Vec<Node>,
    destination: Destination,
    delays: Vec<Delay>,
    payload: usize,
}

impl Sphinx {
    fn new(payload: usize) -> Self {
        let keys: Vec<_> = (1..=SPHINX_HOPS).map(|n| StaticSecret::from([n; 32])).collect();
        let node =
            |(n, key): (u8, &StaticSecret)| Node::new(NodeAddressBytes::from_bytes([n; 32]), PublicKey::from(key));
        Self {
            route: (1..).zip(&keys).map(node).collect(),
            first: keys.into_iter().next().unwrap_or_else(|| StaticSecret::from([1; 32])),
            destination: Destination::new(DestinationAddressBytes::from_bytes([9; 32]), [8; 16]),
            delays: (0..SPHINX_HOPS).map(|_| Delay::new_from_millis(1)).collect(),
            payload,
        }
    }

    /// As much room for the sender as ours, with the peer's own overhead in place of our check.
    fn build(&self) -> Result<SphinxPacket> {
        SphinxPacketBuilder::new()
            .with_payload_size(self.payload + PAYLOAD_CHECK_LEN)
            .build_packet(b"content", &self.route, &self.destination, &self.delays)
            .map_err(|e| anyhow!("sphinx-packet: {e}"))
    }

    fn hop(&self, bytes: &[u8]) -> Result<SphinxPacket> {
        let packet = SphinxPacket::from_bytes(bytes).map_err(|e| anyhow!("sphinx-packet: {e}"))?;
        match packet.process(&self.first).map_err(|e| anyhow!("sphinx-packet: {e}"))?.data {
            ProcessedPacketData::ForwardHop { next_hop_packet, .. } => Ok(next_hop_packet),
            ProcessedPacketData::FinalHop { .. } => Err(anyhow!("sphinx-packet ended its path too early")),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let out = work();
    (start.elapsed(), out)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |d| (d.as_secs_f64() * 1e8).round() / 100.0)
}

fn ratio(ours: f64, theirs: f64) -> f64 {
    (ours / theirs * 1000.0).round() / 1000.0
}

/// Measures on the thread that calls.
///
/// # Errors
/// If a packet can't be built or peeled, which would be a bug.
pub fn measure() -> Result<Figures> {
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let sizes = PAYLOADS.iter().map(|p| Ok((*p, size(*p, rng)?))).collect::<Result<_>>()?;
    let relays: Vec<Relay> =
        (1..=DEFAULT_HOPS as u8).map(|n| relay(n, Geometry::DEFAULT, rng)).collect::<Result<_>>()?;
    let path: Vec<Hop<'_>> =
        relays.iter().map(|r| Hop { relay: r.id, key: r.secret.public(), delay: Duration::ZERO }).collect();
    let content = vec![7; Geometry::DEFAULT.content_len()];
    let sphinx = Sphinx::new(DEFAULT_PAYLOAD_LEN);
    let (mut ours, mut theirs) = (Vec::with_capacity(TURNS), Vec::with_capacity(TURNS));
    for _ in 0..TURNS {
        let (time, built) = timed(|| packet(Geometry::DEFAULT, EPOCH, &path, Last::Queue, &content, rng));
        black_box(built.context("a packet")?);
        ours.push(time);
        let (time, built) = timed(|| sphinx.build());
        black_box(built?);
        theirs.push(time);
    }
    let (build_us, sphinx_packet_build_us) = (median(ours), median(theirs));
    let build_ratio = ratio(build_us, sphinx_packet_build_us);
    Ok(Figures { sizes, build_us, sphinx_packet_build_us, build_ratio })
}

fn size(payload: usize, rng: &mut ChaCha20Rng) -> Result<Size> {
    let geometry = Geometry::new(DEFAULT_HOPS, payload).context("the geometry")?;
    let relay = relay(1, geometry, rng)?;
    let next = RelayId([2; 32]);
    let public = relay.secret.public().clone();
    let path = [relay.id, next].map(|id| Hop { relay: id, key: &public, delay: Duration::ZERO });
    let fresh = (0..PACKETS)
        .map(|_| packet(geometry, EPOCH, &path, Last::Queue, b"content", rng).context("a packet"))
        .collect::<Result<Vec<_>>>()?;
    let primitives = Primitives::new()?;
    let sphinx = Sphinx::new(payload);
    let peers = (0..PACKETS).map(|_| Ok(sphinx.build()?.to_bytes())).collect::<Result<Vec<_>>>()?;
    let [mut hop, mut floor, mut packed, mut peer] = [(); 4].map(|()| Vec::with_capacity(TURNS));
    for (p, bytes) in fresh.iter().zip(&peers).cycle().take(TURNS) {
        let ciphertext = p.ciphertext().try_into().context("a ciphertext")?;
        let (time, shared) = timed(|| relay.secret.decapsulate(ciphertext));
        black_box(shared.context("the floor")?);
        floor.push(time);
        let mut p = p.clone();
        let (time, peeled) = timed(|| peel(&relay.ring, &mut p, |_, _| true));
        ensure!(peeled.is_ok(), "a packet was refused");
        black_box(p);
        hop.push(time);
        let (time, done) = timed(|| primitives.run());
        done?;
        packed.push(time);
        let (time, passed) = timed(|| sphinx.hop(bytes));
        black_box(passed?);
        peer.push(time);
    }
    let [hop_us, kem_floor_us, kem_packed_us, sphinx_packet_us] = [hop, floor, packed, peer].map(median);
    Ok(Size {
        hop_us,
        sphinx_packet_us,
        kem_floor_us,
        kem_packed_us,
        ratio_to_sphinx_packet: ratio(hop_us, sphinx_packet_us),
        ratio_to_floor: ratio(hop_us, kem_floor_us),
        ratio_to_packed_floor: ratio(hop_us, kem_packed_us),
    })
}
