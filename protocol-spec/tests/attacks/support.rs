//! Relays, paths and packets for all attacks.

use std::cell::Cell;
use std::time::Duration;

use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::error::Refused;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId};
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::reply::{ReplyBlock, ReplyKeys, reply_block};
use posta_protocol::onion::{KeyRing, Next, Peeled, ReplayTag, peel};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

pub const EPOCH: KeyEpoch = KeyEpoch(7);
pub const INBOX: InboxId = InboxId([9; 32]);

/// A path of the default length with a payload that is quickly made.
pub fn small() -> Geometry {
    Geometry::new(4, 64).unwrap()
}

pub fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// A relay and all its keys.
pub struct Relay {
    pub id: RelayId,
    pub secret: KemSecretKey,
    pub ring: KeyRing,
}

impl Relay {
    pub fn new(n: u8, geometry: Geometry, rng: &mut ChaCha20Rng) -> Self {
        let seed = Secret::random(rng);
        let key = || KemSecretKey::from_seed(&seed).unwrap();
        let id = RelayId([n; 32]);
        Self { id, secret: key(), ring: KeyRing::new(id, geometry, vec![(EPOCH, key())]) }
    }

    pub fn public(&self) -> &KemPublicKey {
        self.secret.public()
    }

    /// Peels without a replay filter.
    pub fn peel(&self, packet: &mut Packet) -> Result<Peeled, Refused> {
        peel(&self.ring, packet, |_, _| true)
    }

    /// Peels and gives the replay tag.
    pub fn peel_with_tag(&self, packet: &mut Packet) -> (Peeled, ReplayTag) {
        let mut seen = None;
        let peeled = peel(&self.ring, packet, |_, tag| {
            seen = Some(*tag);
            true
        });
        (peeled.unwrap(), seen.unwrap())
    }

    /// Asserts that the relay refuses bytes by their header: it neither asks for the replay tag nor changes a byte.
    #[track_caller]
    pub fn assert_refused_by_header(&self, bytes: Vec<u8>) {
        let mut packet = Packet::from_bytes(bytes.clone().into_boxed_slice());
        let asked = Cell::new(false);
        let result = peel(&self.ring, &mut packet, |_, _| {
            asked.set(true);
            true
        });
        assert_eq!(result, Err(Refused));
        assert!(!asked.get(), "the replay filter was asked about a header that doesn't open");
        assert!(packet.as_bytes() == bytes, "a refused packet was changed");
    }
}

pub fn relays(n: usize, geometry: Geometry, rng: &mut ChaCha20Rng) -> Vec<Relay> {
    (1..=n).map(|i| Relay::new(i as u8, geometry, rng)).collect()
}

pub fn path<'a>(relays: impl IntoIterator<Item = &'a Relay>) -> Vec<Hop<'a>> {
    let delay = Duration::from_micros(1000);
    relays.into_iter().map(|r| Hop { relay: r.id, key: r.public(), delay }).collect()
}

pub fn forward(geometry: Geometry, relays: &[Relay], content: &[u8], rng: &mut ChaCha20Rng) -> Packet {
    packet(geometry, EPOCH, &path(relays), Last::Queue, content, rng).unwrap()
}

pub fn reply(geometry: Geometry, relays: &[Relay], rng: &mut ChaCha20Rng) -> (ReplyBlock, ReplyKeys) {
    reply_block(geometry, EPOCH, &path(relays), INBOX, rng).unwrap()
}

/// Peels at every relay; the last one's result.
pub fn travel(relays: &[Relay], packet: &mut Packet) -> Result<Peeled, Refused> {
    let (last, before) = relays.split_last().unwrap();
    for relay in before {
        let peeled = relay.peel(packet)?;
        assert!(matches!(peeled.next, Next::Forward { .. }));
    }
    last.peel(packet)
}

/// The payload of a packet.
pub fn payload(packet: &Packet, geometry: Geometry) -> &[u8] {
    &packet.as_bytes()[geometry.header_len()..]
}

/// A header with another payload behind it.
pub fn with_payload(header: &[u8], payload: &[u8]) -> Packet {
    Packet::from_bytes([header, payload].concat().into_boxed_slice())
}

/// How many bits differ.
pub fn differing_bits(a: &[u8], b: &[u8]) -> u32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// The bounds of a fair coin's count, six standard deviations to either side.
pub fn about_half(n: u32) -> std::ops::RangeInclusive<u32> {
    let margin = (3.0 * f64::from(n).sqrt()).ceil() as u32;
    (n / 2).saturating_sub(margin)..=n / 2 + margin
}
