use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::{
    Consensus, Origin, UnverifiedMixKeys, WrongLayers, commits_close, verify_layers, verify_random,
};
use posta_protocol::ids::{AuthorityId, Epoch, KeyEpoch};

use super::net::{EPOCH_MS, KEY_EPOCH_MS, Net};

const EPOCH: Duration = Duration::from_millis(EPOCH_MS);
const EPOCHS: usize = (KEY_EPOCH_MS / EPOCH_MS) as usize;

fn started(n: usize, relays: usize, seed: u64) -> Net {
    let mut net = Net::new(n, relays, seed);
    (0..n).for_each(|i| net.start(i));
    assert!(net.run_posting(EPOCH, |net| net.agreed(n) > Epoch(0)), "n {n} seed {seed}");
    net
}

/// The next consensus of the first authority.
fn next(net: &mut Net) -> Arc<Consensus> {
    let held = net.newest(0).unwrap().consensus.epoch();
    assert!(net.run_posting(EPOCH * 2, |net| net.newest(0).unwrap().consensus.epoch() > held));
    net.newest(0).unwrap().consensus.clone()
}

fn key_epoch(consensus: &Consensus) -> KeyEpoch {
    consensus.key_epoch_at(consensus.valid_after())
}

/// Runs until the first consensus of another key epoch, and hands over the last of the old one too.
fn next_key_epoch(net: &mut Net) -> (Arc<Consensus>, Arc<Consensus>) {
    let mut last = net.newest(0).unwrap().consensus.clone();
    loop {
        let newest = next(net);
        if key_epoch(&newest) != key_epoch(&last) {
            return (last, newest);
        }
        last = newest;
    }
}

/// Runs until the commits of a key epoch are closed.
fn to_the_reveals(net: &mut Net) -> Arc<Consensus> {
    loop {
        let newest = next(net);
        if newest.valid_after() >= commits_close(key_epoch(&newest), KEY_EPOCH_MS) {
            return newest;
        }
    }
}

#[test]
fn authorities_commit_and_reveal_and_every_client_can_check_what_comes_of_it() {
    for n in [1, 4, 7] {
        for seed in 0..3 {
            let mut net = started(n, 8, seed);
            let mut former = net.newest(0).unwrap().consensus.clone();
            assert!(former.body().shared_random.deals.iter().all(|deal| deal.origin == Origin::FirstVotes));
            let mut values = std::collections::BTreeSet::new();
            for _ in 0..4 * EPOCHS {
                let newest = next(&mut net);
                verify_random(&newest, &former, &net.authorities).unwrap();
                for (_, part) in &net.newest(0).unwrap().parts {
                    let part = UnverifiedMixKeys::decode(part).unwrap().verify(&newest).unwrap();
                    verify_layers(&newest, &part).unwrap();
                }
                let shared = &newest.body().shared_random;
                assert!(shared.left_out.is_empty(), "n {n} seed {seed}");
                values.extend(shared.deals.iter().map(|deal| deal.random));
                former = newest;
            }
            let shared = &former.body().shared_random;
            assert!(shared.deals.iter().all(|deal| deal.origin == Origin::Reveals), "n {n} seed {seed}: {shared:?}");
            assert_eq!(values.len(), 3 + 4, "n {n} seed {seed}: each key epoch has its own");
            net.check();
        }
    }
}

#[test]
fn a_value_that_does_not_follow_is_told_from_one_that_does() {
    let mut net = started(4, 8, 1);
    let (last, first) = next_key_epoch(&mut net);
    verify_random(&first, &last, &net.authorities).unwrap();
    let second = next(&mut net);
    assert_eq!(verify_random(&second, &last, &net.authorities), Err(WrongLayers::NotNext));
    // Another network's consensus of the same epoch: all of its values are other ones.
    let mut other = started(4, 8, 2);
    let (before, _) = next_key_epoch(&mut other);
    assert_ne!(before.body().shared_random, last.body().shared_random);
    assert_eq!(verify_random(&first, &before, &net.authorities), Err(WrongLayers::NotNext));
}

#[test]
fn an_authority_that_restarts_reveals_what_it_has_committed_to() {
    for (forgets, seed) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut net = started(4, 4, seed);
        next_key_epoch(&mut net);
        let victim = net.keys[2].id();
        let closed = loop {
            let newest = next(&mut net);
            if newest.body().shared_random.commit_of(&victim).is_some() {
                break newest;
            }
        };
        assert!(closed.valid_after() < commits_close(key_epoch(&closed), KEY_EPOCH_MS), "it has not revealed yet");
        net.kill(2);
        if forgets {
            net.forget_contribution(2);
        }
        net.run_for(EPOCH / 4);
        net.start(2);
        let (last, first) = next_key_epoch(&mut net);
        let revealed = |id: &AuthorityId| last.body().shared_random.reveals.iter().any(|(of, _)| of == id);
        assert_eq!(revealed(&victim), !forgets, "seed {seed}");
        let left_out = &first.body().shared_random.left_out;
        assert_eq!(left_out.contains(&victim), forgets, "seed {seed}: {left_out:?}");
        assert_eq!(first.body().shared_random.deals[2].origin, Origin::Reveals, "three of four are enough");

        // One that did not reveal is left out for one round, whatever it commits to; then it is back.
        let reveals = to_the_reveals(&mut net);
        assert_eq!(reveals.body().shared_random.commit_of(&victim).is_none(), forgets, "seed {seed}");
        let (_, first) = next_key_epoch(&mut net);
        assert!(first.body().shared_random.left_out.is_empty());
        let reveals = to_the_reveals(&mut net);
        assert_eq!(reveals.body().shared_random.commits.len(), 4, "seed {seed}: back");
        net.check();
    }
}

#[test]
fn a_relay_that_comes_after_the_commits_are_closed_waits_for_the_next_deal() {
    let mut net = started(4, 8, 3);
    next_key_epoch(&mut net);
    // The last relay, a mix, is silent until it has left the list for longer than a few consensuses; then it comes back when
    // commits are closed.
    let late = net.relay_id(7);
    let mut consensus = net.newest(0).unwrap().consensus.clone();
    while consensus.body().listed_since(&late).is_some()
        || consensus.valid_after() < commits_close(key_epoch(&consensus), KEY_EPOCH_MS)
    {
        (0..7).for_each(|relay| net.post(relay));
        net.run_for(EPOCH / 2);
        consensus = net.newest(0).unwrap().consensus.clone();
    }
    let round = key_epoch(&consensus);
    let mut places = std::collections::BTreeMap::new();
    while key_epoch(&consensus).0 <= round.0 + 4 {
        consensus = next(&mut net);
        let listed = consensus.relay(&late).unwrap();
        assert!(listed.listed_since >= commits_close(round, KEY_EPOCH_MS));
        for part in consensus.key_epochs() {
            places.insert(part.epoch, consensus.position(&late, part.epoch));
        }
    }
    for (epoch, place) in places {
        // The round that was going on deals three key epochs later: the next one is the first that knows the relay.
        assert_eq!(place.is_some(), epoch.0 > round.0 + 3, "{epoch:?} of {round:?}");
    }
}
