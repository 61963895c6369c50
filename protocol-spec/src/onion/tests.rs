//! What DESIGN section 4 promises of a packet, as properties.

use core::time::Duration;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::build::{Hop, Last, packet};
use super::reply::{ReplyBlock, reply_block};
use super::{KeyRing, Next, peel};
use crate::codec::{Reader, Writer};
use crate::crypto::xwing::{KemPublicKey, KemSecretKey};
use crate::error::Refused;
use crate::geometry::Geometry;
use crate::ids::{InboxId, KeyEpoch, RelayId};
use crate::packet::Packet;
use crate::secret::Secret;

const EPOCH: KeyEpoch = KeyEpoch(7);

struct Relay {
    id: RelayId,
    public: KemPublicKey,
    ring: KeyRing,
}

fn relays(n: usize, geometry: Geometry, rng: &mut ChaCha20Rng) -> Vec<Relay> {
    (0..n)
        .map(|i| {
            let id = RelayId([i as u8 + 1; 32]);
            let secret = KemSecretKey::from_seed(&Secret::random(rng)).unwrap();
            let public = secret.public().clone();
            Relay { id, public, ring: KeyRing::new(id, geometry, vec![(EPOCH, secret)]) }
        })
        .collect()
}

fn path(relays: &[Relay]) -> Vec<Hop<'_>> {
    relays
        .iter()
        .enumerate()
        .map(|(i, r)| Hop { relay: r.id, key: &r.public, delay: Duration::from_micros(10 * i as u64) })
        .collect()
}

/// Peels at every relay but the last, checking next hop, delay and length.
fn travel(relays: &[Relay], p: &mut Packet) -> Next {
    let len = p.as_bytes().len();
    for (i, relay) in relays.iter().enumerate() {
        let peeled = peel(&relay.ring, p, |_, _| true).unwrap();
        assert_eq!(p.as_bytes().len(), len);
        if i + 1 == relays.len() {
            return peeled.next;
        }
        let delay = Duration::from_micros(10 * i as u64);
        assert_eq!(peeled.next, Next::Forward { to: relays[i + 1].id, delay });
    }
    panic!("a path has a last hop");
}

fn content_of(p: &Packet, g: Geometry) -> &[u8] {
    &p.as_bytes()[g.header_len() + 32..]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn wrap_then_peel_gives_the_payload(
        seed: u64, hops in 1usize..=6, spare in 0usize..=2, payload in 1usize..4096, fill: u8,
    ) {
        let g = Geometry::new(hops + spare, payload).unwrap();
        let rng = &mut ChaCha20Rng::seed_from_u64(seed);
        let relays = relays(hops, g, rng);
        let content = vec![fill; payload];
        let mut p = packet(g, EPOCH, &path(&relays), Last::Queue, &content, rng).unwrap();
        prop_assert_eq!(p.as_bytes().len(), g.packet_len());
        prop_assert_eq!(travel(&relays, &mut p), Next::Queue);
        prop_assert_eq!(content_of(&p, g), content.as_slice());
    }

    #[test]
    fn a_bit_flipped_in_the_header_is_refused_at_the_next_hop(seed: u64, hops in 1usize..=6, at: prop::sample::Index) {
        let g = Geometry::new(hops, 64).unwrap();
        let rng = &mut ChaCha20Rng::seed_from_u64(seed);
        let relays = relays(hops, g, rng);
        let mut p = packet(g, EPOCH, &path(&relays), Last::Queue, b"x", rng).unwrap();
        let bit = at.index(g.header_len() * 8);
        p.as_bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(peel(&relays[0].ring, &mut p, |_, _| true), Err(Refused));
    }

    #[test]
    fn a_bit_flipped_in_the_payload_is_refused_at_the_end(
        seed: u64, hops in 1usize..=6, flip_before: prop::sample::Index, at: prop::sample::Index,
    ) {
        let g = Geometry::new(hops, 2048).unwrap();
        let rng = &mut ChaCha20Rng::seed_from_u64(seed);
        let relays = relays(hops, g, rng);
        let mut p = packet(g, EPOCH, &path(&relays), Last::Queue, b"x", rng).unwrap();
        let flip_before = flip_before.index(hops);
        let mut result = Ok(());
        for (i, relay) in relays.iter().enumerate() {
            if i == flip_before {
                let bit = at.index(g.payload_len() * 8);
                p.as_bytes_mut()[g.header_len() + bit / 8] ^= 1 << (bit % 8);
            }
            result = peel(&relay.ring, &mut p, |_, _| true).map(|_| ());
            prop_assert_eq!(result.is_ok(), i + 1 < hops);
        }
        prop_assert_eq!(result, Err(Refused));
    }

    #[test]
    fn a_reply_comes_back_to_its_creator(seed: u64, hops in 1usize..=6, spare in 0usize..=1, content: Vec<u8>) {
        let g = Geometry::new(hops + spare, 2048).unwrap();
        prop_assume!(content.len() <= 2048);
        let rng = &mut ChaCha20Rng::seed_from_u64(seed);
        let relays = relays(hops, g, rng);
        let inbox = InboxId([9; 32]);
        let (block, keys) = reply_block(g, EPOCH, &path(&relays), inbox, rng).unwrap();

        // One end key crosses the wire, and no hop's key.
        let mut w = Writer::default();
        block.write(&mut w);
        let bytes = w.finish();
        prop_assert_eq!(bytes.len(), ReplyBlock::encoded_len(g));
        prop_assert_eq!(bytes.len(), 32 + 8 + 32 + g.header_len());
        for key in &keys.hops {
            prop_assert!(!bytes.windows(32).any(|w| w == key.expose()));
        }

        let mut r = Reader::new(&bytes);
        let block = ReplyBlock::read(&mut r, g).unwrap();
        r.finish("block").unwrap();
        let (first, mut p) = block.reply(g, &content).unwrap();
        prop_assert_eq!(first, relays[0].id);
        prop_assert_eq!(p.as_bytes().len(), g.packet_len());
        prop_assert_eq!(travel(&relays, &mut p), Next::Inbox { inbox, surb: keys.surb });
        let opened = keys.open(p.as_bytes()[g.header_len()..].into()).unwrap();
        prop_assert_eq!(&opened[..content.len()], content.as_slice());
        prop_assert!(opened[content.len()..].iter().all(|b| *b == 0));
    }

    #[test]
    fn garbage_of_any_length_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let g = Geometry::new(2, 64).unwrap();
        let relays = relays(1, g, &mut ChaCha20Rng::seed_from_u64(1));
        let mut exact = bytes.clone();
        exact.resize(g.packet_len(), 0);
        for b in [bytes, exact] {
            let mut p = Packet::from_bytes(b.into_boxed_slice());
            prop_assert_eq!(peel(&relays[0].ring, &mut p, |_, _| true), Err(Refused));
        }
    }
}

fn one(seed: u64) -> (Geometry, Vec<Relay>, Packet, ChaCha20Rng) {
    let g = Geometry::new(3, 256).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let relays = relays(3, g, &mut rng);
    let p = packet(g, EPOCH, &path(&relays), Last::Queue, b"content", &mut rng).unwrap();
    (g, relays, p, rng)
}

#[test]
fn a_replay_is_refused_before_its_payload_is_touched() {
    let (_, relays, p, _) = one(1);
    let mut seen = std::collections::HashSet::new();
    let mut first = p.clone();
    peel(&relays[0].ring, &mut first, |_, tag| seen.insert(*tag)).unwrap();
    let mut again = p.clone();
    assert_eq!(peel(&relays[0].ring, &mut again, |_, tag| seen.insert(*tag)), Err(Refused));
    assert_eq!(again, p);
}

#[test]
fn a_packet_for_another_relay_or_key_epoch_is_refused() {
    let (g, relays, p, mut rng) = one(2);
    assert_eq!(peel(&relays[1].ring, &mut p.clone(), |_, _| true), Err(Refused));
    let seed = Secret::random(&mut rng);
    let secret = || KemSecretKey::from_seed(&seed).unwrap();
    let id = RelayId([42; 32]);
    let public = secret();
    let hop = Hop { relay: id, key: public.public(), delay: Duration::ZERO };
    let p = packet(g, EPOCH, &[hop], Last::Drop, b"", &mut rng).unwrap();
    let other_epoch = KeyRing::new(id, g, vec![(EPOCH.next(), secret())]);
    let other_relay = KeyRing::new(RelayId([43; 32]), g, vec![(EPOCH, secret())]);
    let right = KeyRing::new(id, g, vec![(EPOCH.next(), secret()), (EPOCH, secret())]);
    assert_eq!(peel(&other_epoch, &mut p.clone(), |_, _| true), Err(Refused));
    assert_eq!(peel(&other_relay, &mut p.clone(), |_, _| true), Err(Refused));
    let peeled = peel(&right, &mut p.clone(), |_, _| true).unwrap();
    assert_eq!((peeled.key_epoch, peeled.next), (EPOCH, Next::Drop));
}

#[test]
fn a_reply_to_another_block_is_refused_by_the_creator() {
    let (g, relays, _, mut rng) = one(3);
    let (a, _) = reply_block(g, EPOCH, &path(&relays), InboxId([1; 32]), &mut rng).unwrap();
    let (_, b_keys) = reply_block(g, EPOCH, &path(&relays), InboxId([1; 32]), &mut rng).unwrap();
    let (_, mut p) = a.reply(g, b"answer").unwrap();
    travel(&relays, &mut p);
    assert!(b_keys.open(p.as_bytes()[g.header_len()..].into()).is_err());
}

#[test]
fn the_same_seed_builds_the_same_packet() {
    assert_eq!(one(4).2, one(4).2);
    let mut rng = one(4).3;
    assert_ne!(rng.next_u64(), rng.next_u64());
}

#[test]
fn what_does_not_fit_is_refused() {
    let (g, relays, _, mut rng) = one(5);
    assert!(packet(g, EPOCH, &path(&relays), Last::Queue, &[0; 257], &mut rng).is_err());
    assert!(packet(g, EPOCH, &[], Last::Queue, b"", &mut rng).is_err());
    let p = path(&relays);
    let four: Vec<_> = p.iter().chain(p.first()).copied().collect();
    assert!(packet(g, EPOCH, &four, Last::Queue, b"", &mut rng).is_err());
}
