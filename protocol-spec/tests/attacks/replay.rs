//! Replays at one hop. Across restarts, reboots and key epochs: `posta-node`'s tests `replay.rs` and `attacks.rs`.

use std::collections::HashSet;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::error::Refused;
use posta_protocol::ids::RelayId;
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::secret::Secret;

use super::support::*;

#[test]
fn a_replay_is_refused_at_every_hop_before_its_payload_is_touched() {
    let g = small();
    let mut rng = rng(1);
    let relays = relays(4, g, &mut rng);
    let mut p = forward(g, &relays, b"x", &mut rng);
    for relay in &relays {
        let mut seen = HashSet::new();
        let copy = p.clone();
        peel(&relay.ring, &mut p, |_, tag| seen.insert(*tag)).unwrap();
        let mut again = copy.clone();
        assert_eq!(peel(&relay.ring, &mut again, |_, tag| seen.insert(*tag)), Err(Refused));
        assert!(again == copy);
    }
}

#[test]
fn replay_tags_are_distinct_over_packets_hops_and_relays() {
    let g = small();
    let mut rng = rng(2);
    let relays = relays(4, g, &mut rng);
    let mut tags = HashSet::new();
    for _ in 0..100 {
        let mut p = forward(g, &relays, b"x", &mut rng);
        for relay in &relays {
            assert!(tags.insert(relay.peel_with_tag(&mut p).1));
        }
    }
    assert_eq!(tags.len(), 400);
}

/// The hop's keys depend on the key epoch: a key that lived too long would not let old packets in again.
#[test]
fn a_packet_opens_in_its_own_key_epoch_only_even_under_the_same_key() {
    let g = small();
    let mut rng = rng(3);
    let seed = Secret::random(&mut rng);
    let key = || KemSecretKey::from_seed(&seed).unwrap();
    let id = RelayId([1; 32]);
    let relay = |epoch| Relay { id, secret: key(), ring: KeyRing::new(id, g, vec![(epoch, key())]) };
    let (now, later) = (relay(EPOCH), relay(EPOCH.next()));
    let p = forward(g, std::slice::from_ref(&now), b"x", &mut rng);
    later.assert_refused_by_header(p.as_bytes().to_vec());
    now.peel(&mut p.clone()).unwrap();
}

/// [`ReplyBlock::reply`] takes the block, so an honest replier can't; one who keeps a copy of its bytes can try.
#[test]
fn a_reply_block_used_twice_carries_one_reply() {
    let g = small();
    let mut rng = rng(4);
    let relays = relays(3, g, &mut rng);
    let (block, keys) = reply(g, &relays, &mut rng);
    let mut w = Writer::default();
    block.write(&mut w);
    let bytes = w.finish();
    let again = ReplyBlock::read(&mut Reader::new(&bytes), g).unwrap();

    let (_, mut first) = block.reply(g, b"first").unwrap();
    let (_, mut second) = again.reply(g, b"second").unwrap();
    assert!(first.as_bytes()[..g.header_len()] == second.as_bytes()[..g.header_len()]);
    let mut seen = HashSet::new();
    peel(&relays[0].ring, &mut first, |_, tag| seen.insert(*tag)).unwrap();
    let before = second.clone();
    assert_eq!(peel(&relays[0].ring, &mut second, |_, tag| seen.insert(*tag)), Err(Refused));
    assert!(second == before, "nothing of the second reply goes on");
    travel(&relays[1..], &mut first).unwrap();
    // Opening takes the creator's keys, so the number is known no more.
    assert_eq!(&keys.open(payload(&first, g).into()).unwrap()[..5], b"first");
}
