use std::time::Duration;

use posta_protocol::document::{Position, Request, Withdrawal};
use posta_protocol::ids::{Epoch, Hash};
use posta_protocol::params::LISTING_GRACE_EPOCHS;

use super::net::{EPOCH_MS, Net};

const EPOCH: Duration = Duration::from_millis(EPOCH_MS);

fn started(n: usize, relays: usize, seed: u64) -> Net {
    let mut net = Net::new(n, relays, seed);
    (0..n).for_each(|i| net.start(i));
    net
}

#[test]
fn a_network_starts_as_soon_as_the_relays_are_there() {
    for n in [1, 4, 7] {
        for seed in 0..10 {
            let mut net = started(n, 4, seed);
            net.run_for(Duration::from_secs(2));
            assert_eq!(net.agreed(1), Epoch(0), "without relays there is nothing to agree on");
            net.post_all();
            let before = net.elapsed();
            assert!(net.run(EPOCH, |net| net.agreed(n) > Epoch(0)), "n {n} seed {seed}");
            let took = net.elapsed() - before;
            assert!(took < Duration::from_millis(400), "n {n} seed {seed}: {took:?}, a round takes network time");
            let consensus = &net.newest(0).unwrap().consensus;
            assert_eq!((consensus.relays().len(), consensus.key_epochs().len()), (4, 3));
            assert!(consensus.valid_after() <= net.now().wall && consensus.valid_until() > net.now().wall);
            let epoch = consensus.key_epoch_at(net.now().wall);
            for position in [Position::Mix1, Position::Mix2] {
                assert_eq!(consensus.relays_at(epoch, position).count(), 1);
            }
            net.check();
        }
    }
}

#[test]
fn a_relay_that_dies_before_it_posts_does_not_hold_up_the_start() {
    for seed in 0..5 {
        let mut net = started(4, 6, seed);
        (0..5).for_each(|relay| net.post(relay));
        assert!(net.run(Duration::from_secs(5), |net| net.agreed(4) > Epoch(0)), "seed {seed}");
        assert_eq!(net.newest(0).unwrap().consensus.relays().len(), 5);
        net.check();
    }
}

#[test]
fn epochs_follow_one_another_and_form_a_chain() {
    for n in [1, 4] {
        let mut net = started(n, 3, 5);
        net.run_posting(EPOCH * 6, |_| false);
        net.check();
        assert!(net.agreed(n) >= net.epoch(), "n {n}: the current consensus is there");
        let epochs: Vec<_> = net.published.keys().map(|e| e.0).collect();
        assert!(epochs.len() >= 6 && epochs.windows(2).all(|w| w[1] == w[0] + 1), "n {n}: {epochs:?}");
        let newest = &net.newest(0).unwrap().consensus;
        let former = net.published[&Epoch(newest.epoch().0 - 1)].first().copied();
        assert_eq!(Some(newest.body().previous), former);
        assert_eq!(net.published.values().next().map(|h| h.len()), Some(1));
        assert_ne!(newest.body().previous, Hash([0; 32]));
    }
}

#[test]
fn layers_stay_while_packets_may_be_on_their_way() {
    let mut net = started(4, 12, 3);
    assert!(net.run_posting(EPOCH, |net| net.agreed(4) > Epoch(0)));
    let mut assigned = std::collections::BTreeMap::new();
    for _ in 0..9 {
        net.run_posting(EPOCH, |_| false);
        let consensus = net.newest(0).unwrap().consensus.clone();
        for part in consensus.key_epochs() {
            for relay in consensus.relays() {
                let position = consensus.position(&relay.id, part.epoch);
                assert_eq!(*assigned.entry((relay.id, part.epoch)).or_insert(position), position);
            }
        }
    }
    let epochs: std::collections::BTreeSet<_> = assigned.keys().map(|(_, e)| *e).collect();
    assert!(epochs.len() >= 4, "key epochs have changed meanwhile");
}

#[test]
fn one_authority_may_be_absent_from_the_start() {
    for n in [4, 7] {
        for seed in 0..10 {
            let mut net = Net::new(n, 3, seed);
            (1..n).for_each(|i| net.start(i));
            let start = net.elapsed();
            assert!(net.run_posting(EPOCH, |net| net.agreed(n - 1) > Epoch(0)), "n {n} seed {seed}");
            assert!(net.elapsed() - start < Duration::from_secs(4), "n {n} seed {seed}");
            net.run_posting(EPOCH * 3, |_| false);
            assert!(net.agreed(n - 1) >= net.epoch(), "n {n} seed {seed}: it goes on");
            net.start(0);
            net.run_posting(EPOCH * 2, |_| false);
            assert!(net.agreed(n) >= net.epoch(), "n {n} seed {seed}: the late one has caught up");
            net.check();
        }
    }
}

#[test]
fn one_authority_may_die_at_any_moment_and_come_back() {
    for n in [1, 4, 7] {
        for seed in 0..20 {
            let mut net = started(n, 3, seed);
            net.run_posting(EPOCH / 2, |_| false);
            // Somewhere in the round for the next epoch, which takes about a tenth of a second.
            let current = net.epoch();
            let voting = net.run(EPOCH, |net| net.epoch() > current && net.agreed(1) == net.epoch());
            assert!(voting, "n {n} seed {seed}");
            net.post_all();
            net.run_for(Duration::from_millis(EPOCH_MS / 2 - 50));
            net.run_for(Duration::from_millis(seed * 8));
            net.kill(0);
            net.run_posting(EPOCH * 2, |_| false);
            if n > 1 {
                assert!(net.agreed(n - 1) >= net.epoch(), "n {n} seed {seed}: {:?}", net.published.keys());
            }
            net.start(0);
            net.run_posting(EPOCH * 2, |_| false);
            assert!(net.agreed(n) >= net.epoch(), "n {n} seed {seed}: back again");
            net.check();
        }
    }
}

#[test]
fn authorities_that_restart_again_and_again_never_sign_twice() {
    for seed in 0..20_u64 {
        let mut net = started(4, 3, seed);
        for turn in 0..30_u64 {
            net.post_all();
            net.run_for(Duration::from_millis(37 + (seed * 131 + turn * 977) % 1_500));
            let victim = usize::try_from((seed + turn * 7) % 4).unwrap();
            net.kill(victim);
            net.run_for(Duration::from_millis((seed * 17 + turn * 53) % 300));
            net.start(victim);
        }
        net.check();
        net.run_posting(EPOCH * 3, |_| false);
        assert!(net.agreed(4) >= net.epoch(), "seed {seed}: with peace comes agreement");
        net.check();
    }
}

#[test]
fn a_slow_authority_holds_nobody_up_for_long() {
    for seed in 0..10 {
        let mut net = started(4, 3, seed);
        net.slow.insert(2, Duration::from_secs(3));
        net.run_posting(EPOCH * 4, |_| false);
        assert!(net.agreed(3) >= net.epoch(), "seed {seed}");
        net.check();
    }
}

#[test]
fn an_outage_of_most_authorities_delays_and_spoils_nothing() {
    for seed in 0..10 {
        let mut net = started(4, 3, seed);
        assert!(net.run_posting(EPOCH, |net| net.agreed(4) > Epoch(0)));
        (0..3).for_each(|i| net.kill(i));
        net.run_posting(EPOCH * 8, |_| false);
        let before = net.published.len();
        (0..3).for_each(|i| net.start(i));
        assert!(net.run_posting(EPOCH * 2, |net| net.agreed(4) >= net.epoch()), "seed {seed}");
        assert!(net.published.len() > before);
        let newest = &net.newest(3).unwrap().consensus;
        assert_ne!(newest.body().previous, Hash([0; 32]), "the chain goes on from the expired one");
        net.check();
    }
}

#[test]
fn a_relay_that_stops_posting_disappears_and_a_new_one_appears() {
    let mut net = started(4, 4, 1);
    assert!(net.run_posting(EPOCH, |net| net.agreed(4) > Epoch(0)));
    let (gone, listed) = (net.relay_id(3), |net: &Net, id| net.newest(0).unwrap().consensus.relay(id).is_some());
    assert!(listed(&net, &gone));
    let mut epochs = 0;
    while listed(&net, &gone) {
        (0..3).for_each(|relay| net.post(relay));
        net.run_for(EPOCH / 2);
        epochs += 1;
        assert!(epochs <= 8, "still there after four epochs");
    }
    assert!(epochs >= 4, "a relay isn't dropped for one missed post");
    net.run_posting(EPOCH * 2, |_| false);
    assert!(listed(&net, &gone), "it is back");
    net.check();
}

/// A mix' entry and place after so many consensuses without it.
fn missed(consensuses: u64) -> (bool, bool) {
    const MIX: usize = 1;
    let mut net = started(4, 8, 11);
    assert!(net.run_posting(EPOCH, |net| net.agreed(4) > Epoch(0)));
    // Into the next key epoch: who comes now has no layer yet.
    net.run_posting(EPOCH * 5, |_| false);
    let id = net.relay_id(MIX);
    let seen = |net: &Net| {
        let consensus = net.newest(0).unwrap().consensus.clone();
        let entry = consensus.relay(&id)?;
        Some((entry.listed_since, consensus.position(&id, consensus.key_epoch_at(net.now().wall).next())))
    };
    let before = seen(&net).unwrap();
    assert!(before.1.is_some(), "it has a layer");
    let keys = net.relay_keys(MIX);
    let withdrawal = Withdrawal { certificate: keys.certificate, published: net.now().wall }.sign(&keys.signing);
    net.post_to_all(&Request::Withdraw(withdrawal.unwrap()));
    let others = |net: &mut Net| {
        (0..8).filter(|relay| *relay != MIX).for_each(|relay| net.post(relay));
        net.run_for(EPOCH / 4);
    };
    while seen(&net).is_some() {
        others(&mut net);
    }
    let gone = net.agreed(4).0;
    while net.agreed(4).0 < gone + consensuses - 1 {
        others(&mut net);
    }
    while seen(&net).is_none() {
        net.post(MIX);
        others(&mut net);
    }
    net.check();
    let after = seen(&net).unwrap();
    (after.0 == before.0, after.1 == before.1)
}

#[test]
fn a_mix_that_misses_a_few_consensuses_is_not_thrown_out_of_its_layer() {
    for consensuses in 1..=LISTING_GRACE_EPOCHS {
        assert_eq!(missed(consensuses), (true, true), "{consensuses}");
    }
    let (same_age, placed) = missed(LISTING_GRACE_EPOCHS + 1);
    assert!(!same_age && !placed, "after that it is new, or one could wait for a layer to one's taste");
}
