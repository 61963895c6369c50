use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::{Request, UnverifiedVote, Vote};
use posta_protocol::ids::Epoch;

use super::net::{EPOCH_MS, Keys, Lie, Net};

const EPOCH: Duration = Duration::from_millis(EPOCH_MS);

/// The same vote, written a little later.
fn other_vote(
    keys: &Keys,
    net_authorities: &posta_protocol::document::Authorities,
    bytes: &[u8],
    later: u8,
) -> Vec<u8> {
    let mut vote: Vote = UnverifiedVote::decode(bytes).unwrap().verify(net_authorities).unwrap();
    vote.published = vote.published + Duration::from_millis(later.into());
    vote.sign(&keys.signing)
}

#[test]
fn an_authority_that_votes_twice_is_dropped_and_evidence_is_kept() {
    for n in [4, 7] {
        for seed in 0..10 {
            let mut net = Net::new(n, 3, seed);
            let (authorities, twin) = (net.authorities.clone(), Net::new(n, 3, seed));
            net.liars.insert(
                0,
                Box::new(move |to, request| match request {
                    Request::Vote(bytes) if to % 2 == 0 => {
                        Lie::Say(Request::Vote(other_vote(&twin.keys[0], &authorities, bytes, 1)))
                    }
                    _ => Lie::Keep,
                }),
            );
            (0..n).for_each(|i| net.start(i));
            net.run_posting(EPOCH * 4, |_| false);
            assert!(net.agreed(n - 1) >= net.epoch(), "n {n} seed {seed}: {:?}", net.published.keys());
            assert!(net.evidence.iter().any(|e| e.accused() == [net.keys[0].id()]));
            net.check();
        }
    }
}

#[test]
fn votes_with_forged_signatures_are_ignored() {
    let mut net = Net::new(4, 3, 1);
    (1..4).for_each(|i| net.start(i));
    let stranger = Net::new(9, 3, 9);
    // A vote in the name of authority 0, signed by somebody else.
    let vote = Vote {
        certificate: net.keys[0].certificate,
        epoch: net.epoch(),
        attempt: 0,
        published: net.now().wall,
        newest: None,
        random: posta_protocol::document::RandomItems::default(),
        params: posta_protocol::document::Params::default(),
        relays: vec![],
        extensions: posta_protocol::document::Extensions::default(),
    };
    let body: Arc<[u8]> = Request::Vote(vote.sign(&stranger.keys[8].signing)).encode().into();
    for to in 1..4 {
        net.send(0, to, None, Arc::clone(&body));
    }
    let start = net.elapsed();
    assert!(net.run_posting(EPOCH, |net| net.agreed(3) > Epoch(0)));
    assert!(net.elapsed() - start > Duration::from_secs(1), "the forged vote did not complete the round");
    assert!(net.evidence.is_empty());
    net.check();
}

#[test]
fn a_liar_that_echoes_nonsense_and_lists_what_does_not_exist_stops_nothing() {
    for seed in 0..10 {
        let mut net = Net::new(4, 3, seed);
        let (authorities, twin) = (net.authorities.clone(), Net::new(4, 3, seed));
        net.liars.insert(
            3,
            Box::new(move |_, request| match request {
                Request::Vote(bytes) => {
                    let mut vote = UnverifiedVote::decode(bytes).unwrap().verify(&authorities).unwrap();
                    for (n, relay) in vote.relays.iter_mut().enumerate() {
                        relay.digest.0[0] ^= u8::try_from(n + 1).unwrap();
                    }
                    Lie::Say(Request::Vote(vote.sign(&twin.keys[3].signing)))
                }
                Request::Echo(bytes) => {
                    let echo = posta_protocol::document::UnverifiedEcho::decode(bytes).unwrap();
                    let mut echo = echo.verify(&authorities).unwrap();
                    echo.votes.iter_mut().for_each(|(_, hash)| hash.0[0] ^= 1);
                    Lie::Say(Request::Echo(echo.sign(&twin.keys[3].signing)))
                }
                Request::Signature(_) => Lie::Say(Request::Signature(vec![0; 257])),
                _ => Lie::Keep,
            }),
        );
        (0..4).for_each(|i| net.start(i));
        net.run_posting(EPOCH * 4, |_| false);
        assert!(net.agreed(3) >= net.epoch(), "seed {seed}");
        assert_eq!(net.newest(0).unwrap().consensus.relays().len(), 3, "honest votes decide who is listed");
        net.check();
    }
}
