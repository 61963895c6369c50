//! Bit-flip tagging: an attacker changes a packet here and looks for it there.

use std::collections::HashSet;

use posta_protocol::crypto;
use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::error::Refused;
use posta_protocol::onion::build::{Last, packet};
use posta_protocol::onion::{Next, peel};
use posta_protocol::params::KEM_CIPHERTEXT_LEN;
use rand_core::Rng;

use super::support::*;

#[test]
fn every_bit_of_the_header_is_protected_at_every_hop() {
    let g = small();
    let mut rng = rng(1);
    let relays = relays(4, g, &mut rng);
    let mut p = forward(g, &relays, b"x", &mut rng);
    for (i, relay) in relays.iter().enumerate() {
        for byte in 0..g.header_len() {
            // All bits at the first hop, one of each byte at the others.
            let bits = if i == 0 { 0..8 } else { byte as u32 % 8..byte as u32 % 8 + 1 };
            for bit in bits {
                let mut tagged = p.as_bytes().to_vec();
                tagged[byte] ^= 1 << bit;
                relay.assert_refused_by_header(tagged);
            }
        }
        relay.peel(&mut p).unwrap();
    }
}

/// X25519 ignores a point's highest bit and reads numbers from the field's order on as smaller ones: two encodings give
/// one result. Were they not bound by more than that, a copy would pass the replay filter.
#[test]
fn another_encoding_of_the_same_x25519_point_is_refused() {
    let g = small();
    let mut rng = rng(2);
    let relays = relays(1, g, &mut rng);
    let p = forward(g, &relays, b"x", &mut rng);
    let mut tagged = p.as_bytes().to_vec();
    tagged[KEM_CIPHERTEXT_LEN - 1] ^= 0x80;
    relays[0].assert_refused_by_header(tagged);
    relays[0].peel(&mut p.clone()).unwrap();
}

/// How often each bit of the payload that leaves the last mix differs if `tag` was put on before.
fn differences(packets: u32, tag: impl Fn(&mut [u8]), layer: impl Fn(&[u8; 32], &mut [u8])) -> Vec<u32> {
    let mut counts = vec![0; small().payload_len() * 8];
    let mut rng = rng(3);
    for _ in 0..packets {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let mut plain = vec![0; small().payload_len()];
        rng.fill_bytes(&mut plain);
        let mut tagged = plain.clone();
        tag(&mut tagged);
        layer(&key, &mut plain);
        layer(&key, &mut tagged);
        for (bit, count) in counts.iter_mut().enumerate() {
            *count += u32::from((plain[bit / 8] ^ tagged[bit / 8]) >> (bit % 8) & 1);
        }
    }
    counts
}

#[test]
fn a_tag_on_the_payload_destroys_all_of_it_and_leaves_no_pattern() {
    let n = 4_000;
    let bits = small().payload_len() * 8;
    for bit in [0, 255, 256, 400, bits - 1] {
        let counts = differences(n, |b| b[bit / 8] ^= 1 << (bit % 8), |key, block| WideBlock::new(key).inverse(block));
        for (at, count) in counts.iter().enumerate() {
            assert!(about_half(n).contains(count), "bit {at} differs {count} times of {n} for a tag on bit {bit}");
        }
    }
    // The control: under a mere keystream the tag comes out where it went in, every time.
    let counts = differences(n, |b| b[50] ^= 4, crypto::stream_xor);
    assert!(counts.iter().any(|count| !about_half(n).contains(count)));
}

#[test]
fn a_tag_on_the_payload_is_the_same_at_the_next_hop_as_on_any_other_packet() {
    let g = small();
    let mut rng = rng(4);
    let relays = relays(4, g, &mut rng);
    for hop in 0..3 {
        let mut p = forward(g, &relays, b"content", &mut rng);
        for relay in &relays[..hop] {
            relay.peel(&mut p).unwrap();
        }
        let mut tagged = p.clone();
        tagged.as_bytes_mut()[g.header_len() + 70] ^= 1;
        relays[hop].peel(&mut p).unwrap();
        relays[hop].peel(&mut tagged).unwrap();
        // The header goes on as if nothing had happened: what is tagged can't be told from what isn't.
        assert!(p.as_bytes()[..g.header_len()] == tagged.as_bytes()[..g.header_len()]);
        let bits = g.payload_len() as u32 * 8;
        assert!(about_half(bits).contains(&differing_bits(payload(&p, g), payload(&tagged, g))));
        assert_eq!(travel(&relays[hop + 1..], &mut tagged), Err(Refused), "the queue service sees no zeros in front");
        travel(&relays[hop + 1..], &mut p).unwrap();
    }
}

#[test]
fn a_tagged_reply_reaches_its_creator_as_noise_and_opens_nothing() {
    let g = small();
    let mut rng = rng(5);
    let relays = relays(3, g, &mut rng);
    for hop in 0..3 {
        let (block, keys) = reply(g, &relays, &mut rng);
        let (_, mut p) = block.reply(g, b"answer").unwrap();
        for relay in &relays[..hop] {
            relay.peel(&mut p).unwrap();
        }
        p.as_bytes_mut()[g.header_len()] ^= 0x40;
        let peeled = travel(&relays[hop..], &mut p).unwrap();
        assert_eq!(peeled.next, Next::Inbox { inbox: INBOX, surb: keys.surb });
        assert_eq!(keys.open(payload(&p, g).into()), Err(Refused));
    }
}

#[test]
fn a_tagged_copy_of_a_seen_packet_is_a_replay() {
    let g = small();
    let mut rng = rng(6);
    let relays = relays(2, g, &mut rng);
    let p = forward(g, &relays, b"x", &mut rng);
    let mut seen = HashSet::new();
    peel(&relays[0].ring, &mut p.clone(), |_, tag| seen.insert(*tag)).unwrap();
    for at in [0, 31, 32, 95] {
        let mut copy = p.clone();
        copy.as_bytes_mut()[g.header_len() + at] ^= 1;
        let before = copy.clone();
        assert_eq!(peel(&relays[0].ring, &mut copy, |_, tag| seen.insert(*tag)), Err(Refused));
        assert!(copy == before, "its payload was touched");
    }
}

/// Nobody reads cover, so a tag on it shows nowhere: it is dropped like any other.
#[test]
fn tagged_cover_is_dropped_as_cover() {
    let g = small();
    let mut rng = rng(7);
    let relays = relays(2, g, &mut rng);
    let mut p = packet(g, EPOCH, &path(&relays), Last::Drop, b"", &mut rng).unwrap();
    p.as_bytes_mut()[g.header_len() + 5] ^= 1;
    assert_eq!(travel(&relays, &mut p).unwrap().next, Next::Drop);
}
