//! Packets that a relay refuses by their header, by the reason. Shared by `examples/header_failure.rs`, which counts
//! instructions, and `timing.rs`, which measures time.

use std::time::Duration;

use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::onion::KeyRing;
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::params::{KEM_CIPHERTEXT_LEN, TAG_LEN};
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// The classes, and for each the change that makes an honest packet one of it.
pub const CLASSES: [&str; 12] = [
    "foreign-relay",
    "other-name-same-key",
    "garbled-ml-kem",
    "garbled-x25519",
    "zero-x25519",
    "small-order-x25519",
    "garbled-tag",
    "garbled-tag-second-key",
    "garbled-routing",
    "other-geometry",
    "random-bytes",
    "expired-key-epoch",
];

/// As at the change of a key epoch: two live keys.
const EPOCH: KeyEpoch = KeyEpoch(7);
const BEFORE: KeyEpoch = KeyEpoch(6);
const EXPIRED: KeyEpoch = KeyEpoch(5);
const ME: RelayId = RelayId([1; 32]);
const OTHER: RelayId = RelayId([2; 32]);
const X25519: std::ops::Range<usize> = KEM_CIPHERTEXT_LEN - 32..KEM_CIPHERTEXT_LEN;

pub fn geometry() -> Geometry {
    Geometry::DEFAULT
}

fn key(epoch: KeyEpoch) -> KemSecretKey {
    KemSecretKey::from_seed(&Secret::new([epoch.0 as u8; 32])).unwrap()
}

pub fn ring() -> KeyRing {
    KeyRing::new(ME, geometry(), vec![(EPOCH, key(EPOCH)), (BEFORE, key(BEFORE))])
}

/// `n` refused packets of a class, or `None` if there is no such class.
pub fn packets(class: &str, n: usize) -> Option<Vec<Box<[u8]>>> {
    let at = CLASSES.iter().position(|c| *c == class)?;
    let mut rng = ChaCha20Rng::seed_from_u64(at as u64);
    Some((0..n).map(|i| refused(class, i, &mut rng)).collect())
}

fn refused(class: &str, i: usize, rng: &mut ChaCha20Rng) -> Box<[u8]> {
    let g = geometry();
    let make = |relay, key: &KemSecretKey, epoch, g, rng: &mut ChaCha20Rng| {
        let hop = Hop { relay, key: key.public(), delay: Duration::ZERO };
        packet(g, epoch, &[hop], Last::Queue, b"content", rng).unwrap().into_bytes()
    };
    let mut bytes = match class {
        "foreign-relay" => make(OTHER, &key(KeyEpoch(99)), EPOCH, g, rng),
        "other-name-same-key" => make(OTHER, &key(EPOCH), EPOCH, g, rng),
        "garbled-tag-second-key" => make(ME, &key(BEFORE), BEFORE, g, rng),
        // Of the same length: a slot less, and as much more payload.
        "other-geometry" => {
            let other = Geometry::new(g.hops() - 1, g.content_len() + 1200).unwrap();
            assert_eq!(other.packet_len(), g.packet_len());
            make(ME, &key(EPOCH), EPOCH, other, rng)
        }
        "expired-key-epoch" => make(ME, &key(EXPIRED), EXPIRED, g, rng),
        _ => make(ME, &key(EPOCH), EPOCH, g, rng),
    };
    let flip = 1 << (i % 7);
    match class {
        "garbled-ml-kem" => bytes[i * 37 % 1088] ^= flip,
        "garbled-x25519" => bytes[X25519.start + i % 31] ^= flip,
        "zero-x25519" => bytes[X25519].fill(0),
        // Points whose multiples are all zero, besides zero itself: 1 has order 4.
        "small-order-x25519" => {
            bytes[X25519].fill(0);
            bytes[X25519.start] = 1;
        }
        "garbled-tag" | "garbled-tag-second-key" => bytes[KEM_CIPHERTEXT_LEN + i % TAG_LEN] ^= flip,
        "garbled-routing" => bytes[KEM_CIPHERTEXT_LEN + TAG_LEN + i * 41 % g.routing_len()] ^= flip,
        "random-bytes" => rng.fill_bytes(&mut bytes),
        _ => {}
    }
    bytes
}
