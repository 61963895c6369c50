//! Relays that are gone for good, one after the other: their queues are replaced, and nothing is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use posta_client::session::event::{Options, Profile};
use posta_client::session::{QUEUE_SAMPLE, REPLACED_A_WEEK};
use posta_protocol::now::Mono;
use rand::RngExt;

use super::crash::{connect_killed_with, plan, send_once};
use super::{HOURS, MINUTE, Pair, World, connect};

/// How long a relay must be silent in these tests.
const SILENT: Duration = Duration::from_secs(60);
const EDGES: usize = 20;
const KILLED: usize = 10;

fn options() -> Options {
    Options { replace: SILENT, ..Options::default() }
}

/// The relays whose queues each client reads now.
fn reads(pair: &Pair) -> [Vec<usize>; 2] {
    [0, 1].map(|c| {
        let relays = pair.world.clients[c].session.reads_at(pair.contacts[c]);
        relays.iter().map(|relay| pair.world.index(relay)).collect()
    })
}

fn all_alive(pair: &Pair) -> bool {
    reads(pair).iter().flatten().all(|relay| pair.world.relays[*relay].alive)
}

/// Kills a relay for good: every second time one that holds a queue, and never both of a pair at once. Says whether it
/// held a queue.
fn kill(pair: &mut Pair, killed: usize) -> bool {
    let pairs = reads(pair);
    let dead = |relay: &usize| !pair.world.relays[*relay].alive;
    let whole: Vec<usize> = pairs.iter().filter(|p| !p.iter().any(dead)).flatten().copied().collect();
    let others: Vec<usize> =
        (0..pair.world.relays.len()).filter(|r| !dead(r) && !pairs.iter().flatten().any(|held| held == r)).collect();
    let from = if killed.is_multiple_of(2) && !whole.is_empty() { &whole } else { &others };
    let victim = from[pair.world.rng.random_range(0..from.len())];
    eprintln!("relay {victim} is gone at {:?}, queues were on {pairs:?}", pair.world.now.mono);
    pair.world.relays[victim].alive = false;
    whole.contains(&victim)
}

/// Both send `count` messages, while ten relays of thirty are killed at random moments.
fn converse(pair: &mut Pair, count: usize, crashes: u64) -> usize {
    let gap = Duration::from_secs(1800) / count as u32;
    let mut moments: Vec<usize> = (0..KILLED).map(|_| pair.world.rng.random_range(0..count)).collect();
    moments.sort_unstable();
    let (mut killed, mut held) = (0, 0);
    for n in 0..count {
        while moments.get(killed).is_some_and(|at| *at <= n) {
            held += usize::from(kill(pair, killed));
            killed += 1;
        }
        if crashes > 0 && n % 16 == 0 {
            plan(&mut pair.world, crashes);
        }
        for client in 0..2 {
            let contact = pair.contacts[client];
            send_once(&mut pair.world, client, contact, n);
        }
        let wait = gap.mul_f64(pair.world.rng.random_range(0.0..2.0));
        pair.world.run_until(wait, |_| false);
    }
    assert_eq!(killed, KILLED);
    held
}

/// `POSTA_TEST_MESSAGES` sets how many each sends; 5,000 in the soak.
#[test]
fn ten_of_thirty_relays_die_for_good_and_nothing_is_lost_doubled_or_out_of_order() {
    let count = std::env::var("POSTA_TEST_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let mut pair = connect(World::new(70, EDGES, 10, HOURS), options());
    let before = reads(&pair);
    let held = converse(&mut pair, count, 0);
    assert!(held >= 3, "only {held} of the killed held queues");
    pair.check(count, 10 * MINUTE);
    // Each queue that was lost has found another relay.
    for _ in 0..20 {
        if !all_alive(&pair) {
            pair.world.run_until(MINUTE, |_| false);
        }
    }
    assert!(all_alive(&pair), "{:?}", reads(&pair));
    assert!(before != reads(&pair));
    let sent = super::bodies(&pair.world, 0).len();
    pair.exchange(count, 20);
    pair.check(count + 20, 2 * MINUTE);
    assert_eq!(sent, count);
}

#[test]
fn clients_that_are_killed_while_they_replace_queues_lose_nothing() {
    for seed in 71..72 {
        let world = World::new(seed, EDGES, 10, HOURS);
        let mut pair = connect_killed_with(options(), world, 0);
        let held = converse(&mut pair, 200, 400);
        assert!(held >= 3, "only {held} of the killed held queues");
        plan(&mut pair.world, 0);
        pair.check(200, 10 * MINUTE);
        assert!(pair.world.clients.iter().all(|c| c.crashes > 3));
    }
}

#[test]
fn a_relay_that_was_only_away_keeps_its_queues() {
    let mut pair = connect(World::new(73, EDGES, 10, HOURS), options());
    pair.exchange(0, 10);
    let before = reads(&pair);
    let victim = before[0][0];
    pair.world.relays[victim].alive = false;
    pair.exchange(10, 10);
    pair.world.run_until(SILENT / 2, |_| false);
    pair.world.relays[victim].alive = true;
    for _ in 0..5 {
        pair.world.run_until(MINUTE, |_| false);
    }
    assert_eq!(reads(&pair), before);
    pair.check(20, MINUTE);
}

/// While nothing at all answers, that says nothing about any relay.
#[test]
fn a_client_without_a_network_replaces_nothing() {
    let mut pair = connect(World::new(74, EDGES, 10, HOURS), options());
    pair.exchange(0, 10);
    pair.check(10, MINUTE);
    let before = reads(&pair);
    pair.world.loss = 4.0;
    for _ in 0..8 {
        pair.world.run_until(MINUTE, |_| false);
    }
    assert_eq!(reads(&pair), before);
    pair.world.loss = 0.0;
    pair.exchange(10, 10);
    pair.check(20, 10 * MINUTE);
    assert_eq!(reads(&pair), before);
}

/// One who kills whatever relay holds a queue does not draw the queues to relays of its choice: all come from a small
/// sample, and only a few a week.
#[test]
fn replacements_are_few_a_week_and_from_a_small_sample() {
    let mut pair = connect(World::new(75, 30, 10, HOURS), options());
    pair.exchange(0, 5);
    pair.check(5, MINUTE);
    let mut held: BTreeSet<usize> = reads(&pair)[0].iter().copied().collect();
    let (mut moved, mut before) = (0, reads(&pair)[0].clone());
    for _ in 0..12 {
        let victim = reads(&pair)[0][0];
        for relay in 0..pair.world.relays.len() {
            pair.world.relays[relay].alive = relay != victim;
        }
        for _ in 0..8 {
            pair.world.run_until(MINUTE, |_| false);
        }
        let now = reads(&pair)[0].clone();
        moved += usize::from(now != before);
        held.extend(&now);
        before = now;
    }
    assert_eq!(moved, REPLACED_A_WEEK, "the attacker waits for the next week");
    assert!(held.len() <= 2 + QUEUE_SAMPLE, "{held:?}");
    for relay in &mut pair.world.relays {
        relay.alive = true;
    }
    pair.exchange(5, 5);
    pair.check(10, 10 * MINUTE);
}

#[test]
fn queues_are_replaced_in_slots_too() {
    let options = Options { profile: Profile::Steady, ..options() };
    let mut world = World::new(76, EDGES, 10, HOURS);
    for _ in 0..2 {
        world.add_client(options);
    }
    let contacts = super::profiles::meet(&mut world);
    let mut pair = Pair { world, contacts, reads: [Vec::new(), Vec::new()] };
    let before = reads(&pair);
    let victim = before[1][0];
    pair.world.relays[victim].alive = false;
    let start = pair.world.now.mono;
    for n in 0..10 {
        for (client, contact) in contacts.into_iter().enumerate() {
            send_once(&mut pair.world, client, contact, n);
        }
        pair.world.run_until(5 * MINUTE, |_| false);
    }
    for _ in 0..10 {
        pair.world.run_until(MINUTE, |_| false);
    }
    pair.check(10, HOURS);
    assert!(all_alive(&pair), "{:?} after {:?}", reads(&pair), pair.world.now.mono.since(start));
    assert!(start > Mono(0));
}

/// Its link stands and its inbox is attached, but nothing gets through.
#[test]
fn an_entry_that_swallows_packets_is_left() {
    let mut pair = connect(World::new(77, EDGES, 10, HOURS), options());
    pair.exchange(0, 10);
    pair.check(10, MINUTE);
    let entries = pair.world.clients[0].entries.clone();
    assert_eq!(entries.len(), 1);
    let entry = pair.world.index(entries.first().unwrap());
    pair.world.relays[entry].swallows = true;
    pair.exchange(10, 10);
    pair.check(20, 15 * MINUTE);
    assert!(pair.world.clients[0].entries.len() > 1);
}

/// A contact's relay that never answers moves nobody to another entry.
#[test]
fn a_contacts_relay_that_never_answers_changes_no_entry() {
    let mut pair = connect(World::new(78, EDGES, 10, HOURS), options());
    pair.exchange(0, 10);
    pair.check(10, MINUTE);
    let before = pair.world.clients[0].entries.clone();
    // One that is an entry of ours too would be left for that.
    let entries: Vec<usize> = before.iter().map(|entry| pair.world.index(entry)).collect();
    let silent: Vec<usize> = reads(&pair)[1].iter().copied().filter(|relay| !entries.contains(relay)).collect();
    assert!(!silent.is_empty());
    for relay in silent {
        pair.world.relays[relay].swallows = true;
    }
    for _ in 0..10 {
        let contact = pair.contacts[0];
        let _ = pair.world.with(0, |s, now| s.send(now, contact, b"lost".to_vec()));
        pair.world.run_until(MINUTE, |_| false);
    }
    assert_eq!(pair.world.clients[0].entries, before);
}
