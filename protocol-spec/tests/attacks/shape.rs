//! Packets that are too short, too long, for someone else, or made up.

use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::error::Refused;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::RelayId;
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::packet::Packet;
use posta_protocol::params::KEM_CIPHERTEXT_LEN;
use posta_protocol::secret::Secret;
use rand_core::Rng;

use super::support::*;

#[test]
fn a_truncated_packet_is_refused_at_every_length_and_an_extended_one_too() {
    let g = small();
    let mut rng = rng(1);
    let relays = relays(4, g, &mut rng);
    let p = forward(g, &relays, b"x", &mut rng).into_bytes().into_vec();
    for len in 0..p.len() {
        relays[0].assert_refused_by_header(p[..len].to_vec());
    }
    for more in (1..=200).chain([g.header_len(), 1 << 20]) {
        for filled in [0, 0xff] {
            let mut extended = p.clone();
            extended.resize(p.len() + more, filled);
            relays[0].assert_refused_by_header(extended);
        }
    }
    relays[0].peel(&mut Packet::from_bytes(p.into_boxed_slice())).unwrap();
}

#[test]
fn a_packet_whose_header_was_shortened_or_stretched_at_equal_length_is_refused() {
    let g = small();
    let mut rng = rng(2);
    let relays = relays(4, g, &mut rng);
    let p = forward(g, &relays, b"x", &mut rng).into_bytes().into_vec();
    for at in (0..g.header_len()).step_by(7) {
        let mut shortened = p.clone();
        shortened.remove(at);
        shortened.push(0);
        let mut stretched = p.clone();
        stretched.insert(at, 0);
        stretched.pop();
        for moved in [shortened, stretched] {
            if moved[..g.header_len()] != p[..g.header_len()] {
                relays[0].assert_refused_by_header(moved);
            }
        }
    }
}

#[test]
fn a_packet_for_another_relay_is_refused_even_under_the_same_key() {
    let g = small();
    let mut rng = rng(3);
    let relays = relays(3, g, &mut rng);
    let p = forward(g, &relays, b"x", &mut rng);
    relays[1].assert_refused_by_header(p.as_bytes().to_vec());
    relays[2].assert_refused_by_header(p.as_bytes().to_vec());
    // A relay with a stolen or copied mix key under a name of its own gets nothing either.
    let seed = Secret::new([5; 32]);
    let key = || KemSecretKey::from_seed(&seed).unwrap();
    let named = |n| Relay {
        id: RelayId([n; 32]),
        secret: key(),
        ring: KeyRing::new(RelayId([n; 32]), g, vec![(EPOCH, key())]),
    };
    let (owner, thief) = (named(1), named(2));
    let p = forward(g, std::slice::from_ref(&owner), b"x", &mut rng);
    thief.assert_refused_by_header(p.as_bytes().to_vec());
    owner.peel(&mut p.clone()).unwrap();
}

#[test]
fn a_packet_of_another_geometry_of_the_same_length_is_refused() {
    let (g, other) = (Geometry::new(4, 64).unwrap(), Geometry::new(3, 64 + 1200).unwrap());
    assert_eq!(g.packet_len(), other.packet_len());
    let mut rng = rng(4);
    let seed = Secret::random(&mut rng);
    let key = || KemSecretKey::from_seed(&seed).unwrap();
    let id = RelayId([1; 32]);
    let relay = |g| Relay { id, secret: key(), ring: KeyRing::new(id, g, vec![(EPOCH, key())]) };
    let (ours, theirs) = (relay(g), relay(other));
    let p = forward(other, std::slice::from_ref(&theirs), b"x", &mut rng);
    ours.assert_refused_by_header(p.as_bytes().to_vec());
    theirs.peel(&mut p.clone()).unwrap();
}

#[test]
fn made_up_packets_are_refused() {
    let g = small();
    let mut rng = rng(5);
    let relays = relays(2, g, &mut rng);
    let honest = forward(g, &relays, b"x", &mut rng).into_bytes().into_vec();
    let mut noise = vec![0; g.packet_len()];
    for _ in 0..200 {
        rng.fill_bytes(&mut noise);
        relays[0].assert_refused_by_header(noise.clone());
    }
    for byte in [0, 0xff] {
        relays[0].assert_refused_by_header(vec![byte; g.packet_len()]);
        // A point that gives an all-zero result, in an otherwise honest packet.
        let mut p = honest.clone();
        p[KEM_CIPHERTEXT_LEN - 32..KEM_CIPHERTEXT_LEN].fill(byte);
        relays[0].assert_refused_by_header(p);
    }
    // Halves of two honest packets.
    let other = forward(g, &relays, b"y", &mut rng).into_bytes().into_vec();
    for at in [KEM_CIPHERTEXT_LEN - 32, KEM_CIPHERTEXT_LEN, KEM_CIPHERTEXT_LEN + 16, 2000] {
        relays[0].assert_refused_by_header([&honest[..at], &other[at..]].concat());
    }
}

/// Header of one packet, payload of another: not refused at once (it couldn't be without making replies recognisable),
/// but worthless at the end.
#[test]
fn a_payload_moved_to_another_header_is_refused_at_the_end() {
    let g = small();
    let mut rng = rng(6);
    let relays = relays(4, g, &mut rng);
    let (a, b) = (forward(g, &relays, b"a", &mut rng), forward(g, &relays, b"b", &mut rng));
    let mut mixed = with_payload(&a.as_bytes()[..g.header_len()], payload(&b, g));
    assert_eq!(travel(&relays, &mut mixed), Err(Refused));
}

#[test]
fn a_ring_without_keys_refuses_everything() {
    let g = small();
    let mut rng = rng(7);
    let relays = relays(1, g, &mut rng);
    let ring = KeyRing::new(relays[0].id, g, Vec::new());
    let mut p = forward(g, &relays, b"x", &mut rng);
    assert_eq!(peel(&ring, &mut p, |_, _| true), Err(Refused));
}
