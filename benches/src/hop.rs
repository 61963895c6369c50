//! One hop: peeling a layer, beside the key decapsulation that it can't do without.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::params::DEFAULT_HOPS;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;

/// Payloads measured, in bytes.
const PAYLOADS: [usize; 4] = [2048, 8192, 16_384, 32_768];
/// Turns; in each, ours and the floor alternate, so that the machine's moods hit both.
const TURNS: usize = 400;
/// Different packets, so that none is peeled from a warm cache.
const PACKETS: usize = 64;
const EPOCH: KeyEpoch = KeyEpoch(1);

/// All figures; medians in microseconds.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// By payload in bytes.
    pub sizes: BTreeMap<usize, Size>,
    /// Building a packet of 4 layers with the default payload.
    pub build_us: f64,
}

/// One payload's figures.
#[derive(Debug, Serialize)]
pub struct Size {
    /// Peeling one layer.
    pub hop_us: f64,
    /// X-Wing decapsulation alone: X25519, ML-KEM-768 and the combiner, by the very function that the hop calls.
    pub kem_floor_us: f64,
    /// The first by the second.
    pub ratio_to_floor: f64,
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
    let mut times = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let (time, built) = timed(|| packet(Geometry::DEFAULT, EPOCH, &path, Last::Queue, &content, rng));
        black_box(built.context("a packet")?);
        times.push(time);
    }
    Ok(Figures { sizes, build_us: median(times) })
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
    let (mut hop, mut floor) = (Vec::with_capacity(TURNS), Vec::with_capacity(TURNS));
    for p in fresh.iter().cycle().take(TURNS) {
        let ciphertext = p.ciphertext().try_into().context("a ciphertext")?;
        let (time, shared) = timed(|| relay.secret.decapsulate(ciphertext));
        black_box(shared.context("the floor")?);
        floor.push(time);
        let mut p = p.clone();
        let (time, peeled) = timed(|| peel(&relay.ring, &mut p, |_, _| true));
        ensure!(peeled.is_ok(), "a packet was refused");
        black_box(p);
        hop.push(time);
    }
    let (hop_us, kem_floor_us) = (median(hop), median(floor));
    Ok(Size { hop_us, kem_floor_us, ratio_to_floor: (hop_us / kem_floor_us * 1000.0).round() / 1000.0 })
}
