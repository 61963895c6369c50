//! A replier who works with the last mix, and wants to recognise its reply there (nymtech/sphinx#105: there, a reply
//! block carried every hop's payload key, and did let it).
//!
//! The experiment: two replies travel over mix 1, mix 2 and the entry. The attacker holds all that a replier holds (the
//! reply block, its end key, the payload it chose, the packet that it sent) for both, and all that mix 2 sees (each
//! packet before and after its layer, its routing in clear, its own keys), but the order in which they came there. Each
//! of its ways to recognise a packet gives a score; the guess is the assignment that scores higher. Guessing right in
//! half of the runs is learning nothing.

use std::collections::HashSet;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::packet::Packet;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::second;
use super::support::*;

const RUNS: u32 = 2_000;

/// What the replier holds of one reply.
struct Held {
    block: Vec<u8>,
    sent: Packet,
    /// The end key; with a leaky reply block the hops' payload keys, too.
    keys: Vec<[u8; 32]>,
}

/// What the last mix sees of one packet.
struct Seen {
    before: Packet,
    after: Packet,
    routing: Vec<u8>,
    keys: second::Keys,
}

/// A way to recognise a packet: the higher, the likelier it is this one.
type Recognise = fn(&Held, &Seen) -> u32;

const WAYS: [(&str, Recognise); 4] = [
    ("strings in common", strings_in_common),
    ("payload worked on with the keys held", worked_on_with_keys),
    ("payload as it is", payload_as_it_is),
    ("zeros in front under the end key", zeros_in_front),
];

fn strings_in_common(held: &Held, seen: &Seen) -> u32 {
    let held: HashSet<&[u8]> = held.block.windows(4).chain(held.sent.as_bytes().windows(4)).collect();
    let sights = [seen.before.as_bytes(), seen.after.as_bytes(), &seen.routing, &seen.keys.payload, &seen.keys.tag];
    sights.iter().flat_map(|bytes| bytes.windows(4)).filter(|w| held.contains(w)).count() as u32
}

/// All payloads that up to two of the keys make of this one, in either direction.
fn reachable(from: &[u8], keys: &[[u8; 32]]) -> Vec<Vec<u8>> {
    let mut all = vec![from.to_vec()];
    let mut newest = 0..1;
    for _ in 0..2 {
        for at in newest.clone() {
            for key in keys {
                for forward in [true, false] {
                    let mut next = all[at].clone();
                    let w = WideBlock::new(key);
                    if forward {
                        w.forward(&mut next)
                    } else {
                        w.inverse(&mut next)
                    }
                    all.push(next);
                }
            }
        }
        newest = newest.end..all.len();
    }
    all
}

fn equal_bytes(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as u32
}

fn worked_on_with_keys(held: &Held, seen: &Seen) -> u32 {
    let keys: Vec<_> = held.keys.iter().copied().chain([seen.keys.payload]).collect();
    let g = small();
    let reached = reachable(payload(&held.sent, g), &keys);
    let sights = [payload(&seen.before, g), payload(&seen.after, g)];
    reached.iter().flat_map(|r| sights.map(|s| equal_bytes(r, s))).max().unwrap()
}

fn payload_as_it_is(held: &Held, seen: &Seen) -> u32 {
    let g = small();
    let (sent, sights) = (payload(&held.sent, g), [payload(&seen.before, g), payload(&seen.after, g)]);
    sights.iter().map(|s| 8 * s.len() as u32 - differing_bits(sent, s)).max().unwrap()
}

fn zeros_in_front(held: &Held, seen: &Seen) -> u32 {
    let g = small();
    let w = WideBlock::new(&held.keys[0]);
    let zeros = |packet: &Packet, forward: bool| {
        let mut p = payload(packet, g).to_vec();
        if forward {
            w.forward(&mut p)
        } else {
            w.inverse(&mut p)
        }
        p[..32].iter().filter(|b| **b == 0).count() as u32
    };
    [zeros(&seen.before, true), zeros(&seen.before, false), zeros(&seen.after, true), zeros(&seen.after, false)]
        .into_iter()
        .max()
        .unwrap()
}

/// The payload that the replier sends: as it should, or one that it hopes to find again.
fn send(block: ReplyBlock, run: u32) -> Packet {
    let g = small();
    let (_, packet) = block.reply(g, &[run as u8; 64]).unwrap();
    let header = &packet.as_bytes()[..g.header_len()];
    match run % 4 {
        0 => packet,
        1 => with_payload(header, &vec![0; g.payload_len()]),
        2 => with_payload(header, &vec![0xa5; g.payload_len()]),
        _ => with_payload(header, &(0..g.payload_len()).map(|i| i as u8).collect::<Vec<_>>()),
    }
}

/// One reply, from its block to the last mix.
fn one(relays: &[Relay], run: u32, leaky: bool, rng: &mut ChaCha20Rng) -> (Held, Seen) {
    let g = small();
    let (block, _) = reply(g, relays, rng);
    let mut w = Writer::default();
    block.write(&mut w);
    let block = w.finish();
    let mut keys: Vec<[u8; 32]> = vec![block[40..72].try_into().unwrap()];
    let sent = send(ReplyBlock::read(&mut Reader::new(&block), g).unwrap(), run);

    let mut packet = sent.clone();
    let (first, _) = second::routing(&packet, g, EPOCH, &relays[0].id, &relays[0].secret);
    relays[0].peel(&mut packet).unwrap();
    let before = packet.clone();
    let (own, routing) = second::routing(&packet, g, EPOCH, &relays[1].id, &relays[1].secret);
    relays[1].peel(&mut packet).unwrap();
    if leaky {
        keys.extend([first.payload, own.payload]);
    }
    (Held { block, sent, keys }, Seen { before, after: packet, routing, keys: own })
}

/// How many of the runs each way guesses right, and how often each bit of the payload was the same where it was sent
/// and where it was seen.
fn experiment(leaky: bool) -> ([u32; 4], Vec<u32>) {
    let g = small();
    let mut rng = rng(1);
    let relays = relays(3, g, &mut rng);
    let mut right = [0; 4];
    let mut same_bits = vec![0; g.payload_len() * 8];
    for run in 0..RUNS {
        let (held_a, seen_a) = one(&relays, run, leaky, &mut rng);
        let (held_b, seen_b) = one(&relays, run, leaky, &mut rng);
        for (way, (_, score)) in WAYS.iter().enumerate() {
            let straight = score(&held_a, &seen_a) + score(&held_b, &seen_b);
            let crossed = score(&held_a, &seen_b) + score(&held_b, &seen_a);
            let coin = rng.next_u32().is_multiple_of(2);
            right[way] += u32::from(straight > crossed || straight == crossed && coin);
        }
        let (sent, seen) = (payload(&held_a.sent, g), payload(&seen_a.before, g));
        for (bit, same) in same_bits.iter_mut().enumerate() {
            *same += u32::from((sent[bit / 8] ^ seen[bit / 8]) >> (bit % 8) & 1 == 0);
        }
    }
    (right, same_bits)
}

#[test]
fn a_replier_who_works_with_the_last_mix_does_not_recognise_its_reply() {
    let (right, same_bits) = experiment(false);
    for ((way, _), right) in WAYS.iter().zip(right) {
        println!("{way}: right in {right} of {RUNS}");
        assert!(about_half(RUNS).contains(&right), "{way}: right in {right} of {RUNS}");
    }
    assert!(same_bits.iter().all(|same| about_half(RUNS).contains(same)));
}

#[test]
fn with_the_hops_keys_in_the_reply_block_it_would() {
    let (right, _) = experiment(true);
    assert_eq!(WAYS[1].0, "payload worked on with the keys held");
    assert_eq!(right[1], RUNS);
}
