//! A packet that loops. The packet itself doesn't forbid it: a relay that stands twice on a path peels two layers of
//! different keys, with two replay tags. It ends all the same, because each turn costs a slot and a header has as many
//! as the geometry has hops. That no relay takes part is the relay core's rule (edge, mix 1, mix 2, edge and nothing
//! else): `posta-node`'s `attacks.rs`.

use std::collections::HashSet;

use posta_protocol::error::Misuse;
use posta_protocol::onion::build::{Last, packet};
use posta_protocol::onion::{Next, peel};
use posta_protocol::packet::Packet;

use super::support::*;

#[test]
fn a_packet_that_loops_peels_under_other_keys_at_each_turn_and_ends() {
    let g = small();
    let mut rng = rng(1);
    let relays = relays(2, g, &mut rng);
    let (a, b) = (&relays[0], &relays[1]);
    for way in [[a, a, a, a], [a, b, a, b], [a, b, b, a]] {
        let mut p = packet(g, EPOCH, &path(way), Last::Queue, b"x", &mut rng).unwrap();
        let mut seen = HashSet::new();
        for (i, relay) in way.into_iter().enumerate() {
            let before = p.clone();
            let peeled = peel(&relay.ring, &mut p, |_, tag| seen.insert(*tag)).unwrap();
            match way.get(i + 1) {
                Some(next) => assert!(matches!(peeled.next, Next::Forward { to, .. } if to == next.id)),
                None => assert_eq!(peeled.next, Next::Queue),
            }
            // A copy that comes round again is a replay.
            assert!(peel(&relay.ring, &mut before.clone(), |_, tag| seen.insert(*tag)).is_err());
        }
        assert_eq!(seen.len(), 4);
        // What is left takes no further turn: it has no next hop, and at the last relay it is a replay.
        for relay in way {
            assert!(peel(&relay.ring, &mut p.clone(), |_, tag| seen.insert(*tag)).is_err());
        }
    }
}

#[test]
fn a_loop_longer_than_the_geometry_can_not_be_built() {
    let g = small();
    let mut rng = rng(2);
    let relay = &relays(1, g, &mut rng)[0];
    let five = path([relay; 5]);
    let refused = packet(g, EPOCH, &five, Last::Queue, b"x", &mut rng);
    assert_eq!(refused, Err(Misuse::PathLength { got: 5, max: 4 }));
}

/// The bytes shifted in are the hops' own streams. Were they chosen by the sender, a packet could be made that finds
/// itself again at the end of its own header.
#[test]
fn what_a_hop_shifts_in_is_not_the_senders_choice() {
    let g = small();
    let mut rng = rng(3);
    let relays = relays(4, g, &mut rng);
    let mut p = forward(g, &relays, b"x", &mut rng);
    let tail = |p: &Packet| p.as_bytes()[g.header_len() - 1200..g.header_len()].to_vec();
    let mut tails = HashSet::new();
    for relay in &relays[..3] {
        let mut copy = p.clone();
        relay.peel(&mut p).unwrap();
        relay.peel(&mut copy).unwrap();
        assert!(tail(&p) == tail(&copy), "the stream depends on the hop's key alone");
        assert!(tails.insert(tail(&p)));
    }
}
