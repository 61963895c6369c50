//! Whole networks in one process under virtual time: what is lost, doubled or out of order, over many seeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use posta_client::JoinFailure;
use posta_node::relay::{Admission, Effort};
use posta_testnet::sim::directory::AUTHORITIES;
use posta_testnet::sim::{Kill, Options, Outcome, Restore, run};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// Seeds of the kill test; a failing one is run alone with `POSTA_SEED=n`.
const SEEDS: u64 = 200;

fn seeds() -> Vec<u64> {
    match std::env::var("POSTA_SEED") {
        Ok(seed) => vec![seed.parse().expect("POSTA_SEED is a number")],
        Err(_) => (1..=SEEDS).collect(),
    }
}

#[test]
fn everything_arrives_and_the_same_seed_gives_the_same_trace() {
    let options = Options { seed: 7, ..Options::default() };
    let (a, b) = (run(&options).unwrap(), run(&options).unwrap());
    assert!(a.is_clean(&options), "{a:?}");
    assert_eq!(a.told_delivered, 2 * options.messages, "the senders were told so");
    assert_eq!((a.trace, a.elapsed, a.carried), (b.trace, b.elapsed, b.carried));
    let other = run(&Options { seed: 8, ..options }).unwrap();
    assert_ne!(a.trace, other.trace);
}

#[test]
fn nothing_is_lost_on_links_that_lose_a_tenth_of_the_packets() {
    for seed in 1..=5 {
        let options = Options { seed, loss: 0.1, ..Options::default() };
        let outcome = run(&options).unwrap();
        assert!(outcome.is_clean(&options), "seed {seed}: {outcome:?}");
    }
}

#[test]
fn nothing_is_lost_when_the_key_epoch_changes() {
    for seed in 1..=5 {
        let options = Options {
            seed,
            messages: 60,
            over: Duration::from_secs(60),
            epoch: Duration::from_secs(5),
            key_epoch: Duration::from_secs(20),
            ..Options::default()
        };
        let outcome = run(&options).unwrap();
        assert!(outcome.is_clean(&options), "seed {seed}: {outcome:?}");
        assert!(outcome.elapsed > Duration::from_secs(55), "two key epochs have changed: {:?}", outcome.elapsed);
    }
}

/// One relay or authority killed at a random moment: an edge comes back after a random while, the others never.
#[test]
fn a_kill_at_any_moment_loses_nothing() {
    let mut failed = Vec::new();
    for seed in seeds() {
        let rng = &mut ChaCha20Rng::seed_from_u64(seed);
        let mut options = Options { seed, messages: 10, over: Duration::from_secs(10), ..Options::default() };
        options.epoch = Duration::from_secs(5);
        let relay = rng.random_range(0..options.edges + options.mixes + AUTHORITIES);
        let at = Duration::from_millis(rng.random_range(0..12_000));
        // Which relays are edges follows from the seed; the simulation restarts those that hold queues.
        let restart_after = Duration::from_millis(rng.random_range(100..5_000));
        options.kills = vec![Kill { relay, at, restart_after: Some(restart_after), only_edges: true }];
        let outcome = run(&options).unwrap();
        if !outcome.is_clean(&options) {
            eprintln!("seed {seed}: {outcome:?} with {:?}", options.kills);
            eprintln!("replay: POSTA_SEED={seed} cargo test --release -p posta-testnet --test simulated a_kill_at");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?}");
}

/// At this pace a reader acknowledges past what a dead mix has swallowed; its retry must not look like a lost queue.
#[test]
fn a_killed_mix_loses_nothing_at_twenty_messages_a_second() {
    for seed in 1..=6 {
        let over = Duration::from_secs(5);
        let mut options = Options { seed, messages: 100, over, ..Options::default() };
        options.latency = (Duration::from_micros(100), Duration::from_micros(500));
        let (at, restart_after) = (Duration::from_secs(2), Some(Duration::from_millis(500)));
        options.kills = vec![Kill { relay: seed as usize * 2 - 1, at, restart_after, only_edges: true }];
        let outcome = run(&options).unwrap();
        assert!(outcome.is_clean(&options), "seed {seed}: {outcome:?}");
        assert_eq!(outcome.queues_lost, 0, "seed {seed}");
    }
}

/// Loss on the way makes clients show a solution again, and relays ask again.
#[test]
fn two_people_find_one_another_where_every_relay_asks_for_a_puzzle() {
    for seed in 1..=3 {
        let admission = Admission::Puzzle(Effort { floor: 14, ceiling: 20, target: 1 });
        let options = Options { seed, loss: 0.1, admission, ..Options::default() };
        let outcome = run(&options).unwrap();
        assert!(outcome.is_clean(&options), "seed {seed}: {outcome:?}");
    }
    let nobody = Options { admission: Admission::password("sesame"), ..Options::default() };
    let outcome = run(&nobody).unwrap();
    assert!(matches!(outcome.join_failed, Some(JoinFailure::NotAdmitted(_))), "without a proof no queue: {outcome:?}");
}

/// Every queue relay loses its disk while messages are on their way, and comes back with a backup that is seconds old:
/// real stores on a real disk.
fn restored(seed: u64, silent: bool) -> (Options, Outcome) {
    let folder = tempfile::tempdir().unwrap();
    let second = Duration::from_secs(1);
    let restore = Restore {
        backup_at: second * 2,
        lost_at: second * 5,
        away: second / 2,
        folder: folder.path().to_owned(),
        silent,
    };
    let options =
        Options { seed, messages: 60, over: second * 8, restore: Some(restore), loss: 0.05, ..Options::default() };
    let outcome = run(&options).unwrap();
    (options, outcome)
}

#[test]
fn restored_stores_lose_nothing_and_bring_nothing_back() {
    for seed in 1..=4 {
        let (options, outcome) = restored(seed, false);
        assert!(outcome.is_clean(&options), "seed {seed}: {outcome:?}");
        assert_eq!((outcome.told_delivered, outcome.queues_lost), (2 * options.messages, 0), "seed {seed}");
    }
}

/// The control: clients that can't tell by the incarnation don't send again.
#[test]
fn stores_restored_without_a_new_incarnation_lose_messages() {
    let clean = |seed| {
        let (options, outcome) = restored(seed, true);
        outcome.is_clean(&options)
    };
    assert!((1..=8).any(|seed| !clean(seed)));
}

#[test]
fn an_invitation_works_for_a_day_and_not_longer() {
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let late = Options { join_after: hours(26), epoch: hours(1), key_epoch: hours(6), ..Options::default() };
    assert_eq!(run(&late).unwrap().join_failed, Some(JoinFailure::Expired));
    let in_time = Options { join_after: hours(20), ..late };
    let outcome = run(&in_time).unwrap();
    assert!(outcome.is_clean(&in_time), "{outcome:?}");
}

/// With two of four gone there are no new documents that anyone believes; the third signature is what counts.
#[test]
fn two_dead_authorities_of_four_stop_the_directory() {
    let kill = |a: usize| Kill { relay: 12 + a, at: Duration::from_secs(1), restart_after: None, only_edges: false };
    let mut options = Options { epoch: Duration::from_secs(2), kills: vec![kill(0)], ..Options::default() };
    assert!(run(&options).unwrap().is_clean(&options));
    options.kills.push(kill(3));
    assert!(run(&options).is_err(), "a consensus with two signatures must not verify");
}

/// The control of the test above: a loss that can't be made good is seen.
#[test]
fn all_edges_killed_for_good_is_counted_as_lost() {
    let options = Options {
        seed: 3,
        kills: (0..12)
            .map(|relay| Kill { relay, at: Duration::from_secs(5), restart_after: None, only_edges: false })
            .collect(),
        ..Options::default()
    };
    let outcome = run(&options).unwrap();
    assert!(!outcome.is_clean(&options));
    assert!(outcome.ledger.delivered() > 0 && outcome.ledger.delivered() < outcome.ledger.total(), "{outcome:?}");
}

/// What became of all relays' loops in a network with a relay that drops this part of what it gets, and how many relays
/// have lost any; the number of the dropping one is 4.
fn loops(seed: u64, part: f64, loss: f64) -> (Options, Outcome) {
    let options = Options {
        seed,
        messages: 5,
        // Long enough that most losses are known at the end: half a minute after a loop's delays.
        over: Duration::from_secs(240),
        key_epoch: Duration::from_secs(3600),
        loops: Duration::from_secs(1),
        dropping: Some((4, part)),
        loss,
        ..Options::default()
    };
    let outcome = run(&options).unwrap();
    (options, outcome)
}

fn permille(outcome: &Outcome) -> u64 {
    let sum = |of: fn(&posta_node::relay::LoopCount) -> u64| outcome.loops.iter().map(of).sum::<u64>();
    let (returned, lost) = (sum(|l| l.returned), sum(|l| l.lost));
    assert!(returned > 200, "{returned} returned, {lost} lost");
    lost * 1000 / (returned + lost)
}

#[test]
fn relays_loops_come_back_and_hurt_no_message() {
    for seed in 1..=3 {
        let (options, outcome) = loops(seed, 0.0, 0.0);
        assert!(outcome.is_clean(&options), "seed {seed}: {outcome:?}");
        assert_eq!(permille(&outcome), 0, "seed {seed}: {:?}", outcome.loops);
        assert!(outcome.loops.iter().all(|relay| relay.returned > 5), "seed {seed}: each relay: {:?}", outcome.loops);
    }
}

#[test]
fn a_relay_that_drops_packets_shows_as_loss_of_loops() {
    for seed in 1..=2 {
        let (_, honest) = loops(seed, 0.0, 0.0);
        let (_, little) = loops(seed, 0.2, 0.0);
        let (_, much) = loops(seed, 0.9, 0.0);
        let all = [honest, little, much].map(|outcome| permille(&outcome));
        // One of twelve relays: it stands on the way of a sixth to a half of all loops, by its place.
        assert!(all[0] == 0 && all[1] >= 15 && all[2] >= 2 * all[1] && all[2] > 100, "seed {seed}: {all:?}");
    }
}

#[test]
fn loops_measure_the_loss_of_links() {
    let (_, outcome) = loops(5, 0.0, 0.02);
    // A circle has three links if a mix sends it, six if an edge does: on average 8.5 %.
    let lost = permille(&outcome);
    assert!((45..110).contains(&lost), "{lost}");
}
