use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::{
    Certificate, ConsensusSignature, Descriptor, Echo, Header, Purpose, Reply, Request, UnverifiedDescriptor,
    UnverifiedVote, Vote, Withdrawal,
};
use posta_protocol::ids::{Epoch, LinkPublicKey};

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

/// Four authorities that have agreed, with six relays listed.
fn running(seed: u64) -> Net {
    let mut net = Net::new(4, 6, seed);
    (0..4).for_each(|i| net.start(i));
    assert!(net.run_posting(EPOCH, |net| net.agreed(4) > Epoch(0)));
    net
}

fn is_listed(net: &Net, relay: usize) -> bool {
    net.newest(0).unwrap().consensus.relay(&net.relay_id(relay)).is_some()
}

/// Runs until there is a newer consensus, with these relays posting.
fn next(net: &mut Net, posting: &[usize]) {
    let held = net.agreed(4);
    for _ in 0..4 {
        posting.iter().for_each(|relay| net.post(*relay));
        if net.run(EPOCH / 2, |net| net.agreed(4) > held) {
            return;
        }
    }
    panic!("no newer consensus than {held:?}");
}

/// A descriptor with a change, signed by another key than its certificate's: put together by hand.
fn signed_by(bytes: &[u8], keys: &Keys) -> Vec<u8> {
    let signed = &bytes[..bytes.len() - 64];
    [signed, &keys.signing.sign(posta_protocol::crypto::context::SIGN_DESCRIPTOR, signed)].concat()
}

#[test]
fn a_forged_descriptor_is_refused_and_never_listed() {
    let mut net = running(1);
    let stranger = Net::new(9, 9, 9);
    let mut forged = net.descriptor(0);
    // Another link key in a relay's name: with the old signature, and with somebody else's.
    let at = 2 + Certificate::LEN;
    forged[at..at + 32].fill(0xee);
    for bytes in [forged.clone(), signed_by(&forged, stranger.relay_keys(8))] {
        net.post_to_all(&Request::PostDescriptor(bytes));
    }
    next(&mut net, &[1, 2, 3, 4, 5]);
    let newest = &net.newest(0).unwrap().consensus;
    assert!(newest.relays().iter().all(|relay| relay.link_key.0 != [0xee; 32]));
    // Control: the relay itself can say so.
    let true_one = signed_by(&forged, net.relay_keys(0));
    let mut later = net.descriptor(0);
    assert_ne!(later, true_one);
    later[at..at + 32].fill(0xee);
    let own = signed_by(&later, net.relay_keys(0));
    net.post_to_all(&Request::PostDescriptor(own));
    next(&mut net, &[1, 2, 3, 4, 5]);
    let newest = &net.newest(0).unwrap().consensus;
    assert!(newest.relays().iter().any(|relay| relay.link_key.0 == [0xee; 32]));
}

#[test]
fn an_old_descriptor_that_is_replayed_changes_nothing() {
    let mut net = running(2);
    let old = net.descriptor(5);
    net.run_for(EPOCH / 2);
    net.post(5);
    net.run_for(Duration::from_secs(1));
    net.post_to_all(&Request::PostDescriptor(old.clone()));
    net.run_for(Duration::from_secs(1));
    let held = |net: &Net| net.nodes[0].as_ref().unwrap().descriptors().iter().any(|d| **d == *old);
    assert!(!held(&net), "the newer one stays");
    // Long after the relay has gone it does not bring it back either.
    for _ in 0..6 {
        net.post_to_all(&Request::PostDescriptor(old.clone()));
        next(&mut net, &[0, 1, 2, 3, 4]);
    }
    assert!(!is_listed(&net, 5));
}

#[test]
fn a_relay_that_withdraws_is_left_out_and_only_a_newer_descriptor_brings_it_back() {
    let mut net = running(3);
    let (old, keys) = (net.descriptor(4), net.relay_keys(4));
    let withdrawal = Withdrawal { certificate: keys.certificate, published: net.now().wall };
    let bytes = withdrawal.sign(&keys.signing).unwrap();
    // Nobody else can withdraw it.
    let mut forged = bytes.clone();
    *forged.last_mut().unwrap() ^= 1;
    net.post_to_all(&Request::Withdraw(forged));
    let others = [0, 1, 2, 3, 5];
    next(&mut net, &others);
    assert!(is_listed(&net, 4));
    net.post_to_all(&Request::Withdraw(bytes.clone()));
    net.run_for(Duration::from_secs(1));
    net.post_to_all(&Request::PostDescriptor(old));
    next(&mut net, &others);
    assert!(!is_listed(&net, 4), "the next consensus leaves it out, whoever repeats its old descriptor");
    net.post(4);
    net.run_for(Duration::from_secs(1));
    // A replayed withdrawal is older than what the relay says now.
    net.post_to_all(&Request::Withdraw(bytes));
    next(&mut net, &others);
    assert!(is_listed(&net, 4));
    net.check();
}

#[test]
fn a_signing_key_stolen_after_its_expiry_is_of_no_use() {
    let mut net = running(4);
    let now = net.now().wall;
    let day = Duration::from_secs(86_400);
    let (epoch, hash) = (net.epoch().next(), posta_protocol::ids::Hash([7; 32]));
    // An authority's key whose certificate ended a day ago.
    let expired = |keys: &Keys, purpose| {
        let key = posta_protocol::ids::SigningPublicKey(keys.signing.public());
        Certificate::issue(&keys.identity, purpose, key, now - day * 30, now - day)
    };
    let keys = Net::new(4, 6, 4);
    let keys = &keys.keys[0];
    let vote = Vote {
        certificate: expired(keys, Purpose::Authority),
        epoch,
        attempt: 0,
        published: now - day * 2,
        newest: None,
        random: posta_protocol::document::RandomItems::default(),
        params: posta_protocol::document::Params::default(),
        relays: vec![],
        extensions: posta_protocol::document::Extensions::default(),
    };
    let echo = Echo {
        certificate: vote.certificate,
        epoch,
        attempt: 0,
        published: vote.published,
        votes: vec![(keys.id(), hash)],
    };
    // Votes and echoes are judged as of the time that they state: so that time must be about the epoch's.
    let (bytes, echo_bytes) = (vote.sign(&keys.signing), echo.sign(&keys.signing));
    UnverifiedVote::decode(&bytes).unwrap().verify(&net.authorities).unwrap();
    let mut second = vote;
    second.params.set(99, 9);
    let second = second.sign(&keys.signing);
    net.kill(0);
    for to in 1..4 {
        for request in [Request::Vote(bytes.clone()), Request::Vote(second.clone()), Request::Echo(echo_bytes.clone())]
        {
            net.send(0, to, None, request.encode().into());
        }
    }
    let header = Header { epoch, valid_after: now, hash };
    let signature = ConsensusSignature::sign(&header, expired(keys, Purpose::Authority), &keys.signing);
    assert!(signature.verify(&header, &net.authorities).is_err());
    // A relay's key: neither dated today nor backdated.
    let relay = net.relay_keys(5);
    let certificate = expired(relay, Purpose::Relay);
    for published in [now, now - day * 2] {
        let bytes = net.descriptor(5);
        let stolen = UnverifiedDescriptor::decode(&bytes).unwrap().verify(now).unwrap();
        let stolen = Descriptor { certificate, published, link_key: LinkPublicKey([0xee; 32]), ..stolen };
        let stolen = stolen.sign(&net.relay_keys(5).signing).unwrap().into_bytes();
        net.post_to_all(&Request::PostDescriptor(stolen));
    }
    net.run_posting(EPOCH * 2, |_| false);
    assert!(net.evidence.is_empty(), "nobody is accused by what a thief says: {:?}", net.evidence);
    let newest = &net.newest(1).unwrap().consensus;
    assert!(newest.relays().iter().all(|relay| relay.link_key.0 != [0xee; 32]));
    assert!(net.all_hold(&[1, 2, 3]) >= net.epoch());
    net.check();
}

#[test]
fn hostile_and_oversized_documents_are_refused_and_change_nothing() {
    let mut net = running(5);
    let before = net.newest(0).unwrap().consensus.hash();
    let long = |n: usize| vec![1; n];
    let requests = [
        Request::PostDescriptor(long(9_000)),
        Request::PostDescriptor(vec![]),
        Request::Withdraw(long(5_000)),
        Request::Vote(long(3 * 1024 * 1024)),
        Request::Echo(long(100_000)),
        Request::Proposal(long(200_000)),
        Request::Signature(long(100_000)),
        Request::GetDescriptors(vec![posta_protocol::ids::Hash([1; 32]); 128]),
    ];
    for request in &requests {
        for from in [usize::MAX, 0] {
            for to in 1..4 {
                net.send(from, to, None, request.encode().into());
            }
        }
    }
    net.run_for(Duration::from_millis(100));
    assert_eq!(net.newest(0).unwrap().consensus.hash(), before);
    net.run_posting(EPOCH * 2, |_| false);
    assert!(net.agreed(4) >= net.epoch() && net.evidence.is_empty());
    net.check();
}

#[test]
fn an_authority_that_serves_old_or_broken_documents_does_not_hold_up_one_that_catches_up() {
    for seed in 0..5 {
        let mut net = running(seed);
        let old = net.newest(0).unwrap().bytes.to_vec();
        net.kill(3);
        net.run_posting(EPOCH * 2, |_| false);
        net.reply_liars.insert(
            0,
            Box::new(move |request, reply| match request {
                Request::GetConsensus { .. } if seed % 2 == 0 => Some(Reply::Ok(old.clone())),
                Request::GetMixKeys(_) => Some(Reply::Ok(vec![0; 1000])),
                _ => Some(reply),
            }),
        );
        net.start(3);
        let held = net.epoch();
        assert!(net.run_posting(EPOCH * 2, |net| net.all_hold(&[3]) >= held), "seed {seed}");
        net.check();
    }
}

#[test]
fn a_consensus_of_which_a_liar_keeps_the_proof_to_itself_comes_to_light_with_it() {
    // Two honest ones, a liar, and one that is away: the liar's signature would be the third. It keeps it back and
    // assembles the consensus alone; in the next epoch it builds on that.
    let mut net = running(6);
    let silent = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let quiet = Arc::clone(&silent);
    net.liars.insert(
        0,
        Box::new(move |_, request| match request {
            Request::Signature(_) if quiet.load(std::sync::atomic::Ordering::Relaxed) => Lie::Nothing,
            _ => Lie::Keep,
        }),
    );
    net.kill(3);
    let held = net.all_hold(&[1, 2]);
    net.run_posting(EPOCH * 2, |net| net.all_hold(&[0]) > held);
    assert_eq!((net.all_hold(&[0]), net.all_hold(&[1, 2])), (held.next(), held), "only the liar has it");
    net.reply_liars.insert(0, Box::new(|_, _| Some(Reply::None)));
    net.run_posting(EPOCH * 2, |net| net.all_hold(&[1, 2]) >= held.next());
    assert!(net.all_hold(&[1, 2]) >= held.next(), "its vote has proved it");
    silent.store(false, std::sync::atomic::Ordering::Relaxed);
    let current = net.epoch();
    assert!(net.run_posting(EPOCH * 4, |net| net.all_hold(&[1, 2]) > current), "and they go on");
    net.check();
}
