//! Clients that keep their state and are killed: between any two actions of a step, again and again.

use std::time::Duration;

use posta_client::session::Session;
use posta_client::session::event::{ContactState, Options};
use posta_client::store::Records;
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::world::World;
use super::{HOURS, MINUTE, Pair, bodies, is_connected, is_ready, link_of, texts};

/// Two clients with disks, connected while both are killed now and then.
pub(super) fn connect_killed_with(options: Options, mut world: World, kills: u64) -> Pair {
    let (a, b) = (world.add_durable(options), world.add_durable(options));
    assert!(world.run_until(MINUTE, |w| is_ready(w, a) && is_ready(w, b)), "not ready");
    plan(&mut world, kills);
    let mut at_a = world.with(a, |s, now| s.invite(now));
    if world.clients[a].session.contacts().is_empty() {
        // It was killed before that was on its disk; the application knows by the call that did not return.
        at_a = world.with(a, |s, now| s.invite(now));
    }
    assert!(world.run_until(5 * MINUTE, |w| link_of(w, a).is_some()), "no invitation");
    let of_a = world.holders();
    let link = link_of(&world, a).unwrap();
    plan(&mut world, kills);
    let at_b = loop {
        assert!(world.run_until(MINUTE, |w| w.clients[b].session.contacts().is_empty()));
        let joined = world.with(b, |s, now| s.join(now, link.parse().unwrap()));
        if let (Ok(contact), false) = (joined, world.clients[b].session.contacts().is_empty()) {
            break contact;
        }
        world.run_until(Duration::from_secs(1), |_| false);
    };
    let done = |w: &World| is_connected(w, a) && is_connected(w, b);
    let connected = world.run_until(10 * MINUTE, done);
    assert!(connected, "not connected: {:?}", [a, b].map(|c| world.clients[c].session.contacts()));
    let of_b = world.holders().into_iter().filter(|h| !of_a.contains(h)).collect();
    Pair { world, contacts: [at_a.unwrap(), at_b], reads: [of_a, of_b] }
}

pub(super) fn connect_killed(world: World, kills: u64) -> Pair {
    connect_killed_with(Options::default(), world, kills)
}

/// Each client is killed after some actions more.
pub(super) fn plan(world: &mut World, within: u64) {
    for client in 0..2 {
        let after = (within > 0).then(|| world.rng.random_range(0..within));
        world.clients[client].crash_after = after;
    }
}

/// Sends the next message unless it was taken already: by the number of messages that the client says it has taken, an
/// application knows what a call that did not return has done.
pub(super) fn send_once(world: &mut World, client: usize, contact: posta_client::ContactId, n: usize) {
    for _ in 0..100 {
        let info = world.clients[client].session.contacts();
        let info = info.iter().find(|c| c.id == contact).unwrap();
        assert_eq!(info.state, ContactState::Connected);
        if info.sent > n as u64 {
            return;
        }
        let body = format!("{client}:{n}").into_bytes();
        if world.with(client, |s, now| s.send(now, contact, body)).is_err() {
            world.run_until(Duration::from_secs(1), |_| false);
        }
    }
    panic!("message {n} of {client} was never taken");
}

/// Both send; the application of a client that was killed asks it how far it came.
pub(super) fn exchange(pair: &mut Pair, from: usize, count: usize, kill_within: u64) {
    for n in from..from + count {
        if n % 3 == 0 {
            plan(&mut pair.world, kill_within);
        }
        for client in 0..2 {
            let contact = pair.contacts[client];
            send_once(&mut pair.world, client, contact, n);
        }
        pair.world.run_until(Duration::from_millis(50), |_| false);
    }
    for client in 0..2 {
        pair.world.clients[client].crash_after = None;
    }
}

fn crashes(pair: &Pair) -> u64 {
    pair.world.clients.iter().map(|c| c.crashes).sum()
}

#[test]
fn a_client_that_is_started_again_goes_on_where_it_was() {
    let mut pair = connect_killed(World::new(1, 6, 6, HOURS), 0);
    exchange(&mut pair, 0, 10, 0);
    pair.check(10, MINUTE);
    for client in 0..2 {
        pair.world.crash(client);
    }
    assert_eq!(bodies(&pair.world, 0), texts(1, 10));
    exchange(&mut pair, 10, 10, 0);
    pair.check(20, MINUTE);
}

#[test]
fn what_was_taken_while_nobody_was_there_is_delivered_after_a_start() {
    let mut pair = connect_killed(World::new(2, 6, 6, HOURS), 0);
    // The first one's network is gone: its messages wait.
    for relay in &mut pair.world.relays {
        relay.alive = false;
    }
    for n in 0..30 {
        let contact = pair.contacts[0];
        send_once(&mut pair.world, 0, contact, n);
    }
    pair.world.crash(0);
    pair.world.run_until(MINUTE, |_| false);
    for relay in &mut pair.world.relays {
        relay.alive = true;
    }
    assert!(pair.world.run_until(5 * MINUTE, |w| bodies(w, 1).len() >= 30));
    assert_eq!(bodies(&pair.world, 1), texts(0, 30));
}

/// `POSTA_TEST_FIRST_SEED` and `POSTA_TEST_SEEDS` choose other seeds.
#[test]
fn clients_killed_at_any_moment_lose_nothing_and_double_nothing() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let first = number("POSTA_TEST_FIRST_SEED").unwrap_or(200);
    for seed in first..first + number("POSTA_TEST_SEEDS").unwrap_or(6) {
        eprintln!("seed {seed}");
        let mut world = World::new(seed, 6, 6, Duration::from_secs(30));
        world.loss = if seed % 2 == 0 { 0.0 } else { 0.05 };
        let mut pair = connect_killed(world, 60);
        exchange(&mut pair, 0, 60, 80);
        pair.check(60, 10 * MINUTE);
        assert!(crashes(&pair) >= 8, "{} kills", crashes(&pair));
    }
}

#[test]
fn clients_killed_while_relays_come_and_go_lose_nothing() {
    for seed in 300..303 {
        eprintln!("seed {seed}");
        let mut world = World::new(seed, 6, 6, Duration::from_secs(30));
        world.loss = 0.01;
        let mut pair = connect_killed(world, 60);
        let mut from = 0;
        for _ in 0..4 {
            let victim = pair.world.rng.random_range(0..12);
            pair.world.relays[victim].alive = false;
            exchange(&mut pair, from, 20, 200);
            pair.world.relays[victim].alive = true;
            pair.world.forget_memory(victim);
            exchange(&mut pair, from + 20, 10, 200);
            from += 30;
        }
        pair.check(from, 10 * MINUTE);
    }
}

#[test]
fn a_relay_that_was_restored_while_the_client_was_off_is_noticed() {
    for victims in 1..=4 {
        let mut pair = connect_killed(World::new(40 + victims as u64, 6, 6, HOURS), 0);
        exchange(&mut pair, 0, 10, 0);
        pair.check(10, MINUTE);
        for victim in pair.holders().into_iter().take(victims) {
            pair.world.wipe(victim);
        }
        for client in 0..2 {
            pair.world.crash(client);
        }
        exchange(&mut pair, 10, 20, 0);
        pair.check(30, 5 * MINUTE);
    }
}

#[test]
fn the_disk_holds_no_more_than_what_is_under_way() {
    let mut pair = connect_killed(World::new(5, 6, 6, HOURS), 0);
    exchange(&mut pair, 0, 5, 0);
    pair.check(5, MINUTE);
    let len = |w: &World, c: usize| w.disk(c).values().map(|v| v.len()).sum::<usize>();
    let before = len(&pair.world, 0);
    exchange(&mut pair, 5, 100, 0);
    pair.check(105, MINUTE);
    pair.world.run_until(MINUTE, |_| false);
    let after = len(&pair.world, 0);
    // Events that wait for the application's word, and receipts that wait for the relay's.
    assert!(after < before + 3 * 12_000, "{before} bytes, then {after}");
}

/// Records of one kind on a client's disk.
fn records_of(world: &World, client: usize, kind: u8) -> usize {
    world.disk(client).keys().filter(|name| name[0] == kind && name.len() > 9).count()
}

#[test]
fn boxes_that_came_before_their_turn_are_there_after_a_crash() {
    let mut seen = 0;
    for seed in 50..54 {
        let mut world = World::new(seed, 6, 6, HOURS);
        world.loss = 0.25;
        let mut pair = connect_killed(world, 0);
        let mut sent = 0;
        while sent < 120 {
            exchange(&mut pair, sent, 2, 0);
            sent += 2;
            for client in 0..2 {
                let early = records_of(&pair.world, client, b'y');
                if early > 0 {
                    seen += 1;
                    pair.world.crash(client);
                    assert_eq!(records_of(&pair.world, client, b'y'), early, "seed {seed}");
                }
            }
        }
        pair.check(sent, 10 * MINUTE);
        pair.world.run_until(MINUTE, |w| (0..2).all(|c| records_of(w, c, b'y') == 0));
        assert_eq!([0, 1].map(|c| records_of(&pair.world, c, b'y')), [0, 0], "they have served, seed {seed}");
    }
    assert!(seen >= 3, "boxes came early {seen} times only");
}

#[test]
fn an_introduction_is_forgotten_when_it_has_served() {
    let mut pair = connect_killed(World::new(55, 6, 6, HOURS), 0);
    let introductions = |w: &World| w.disk(1).keys().filter(|name| name[0] == b'h' && name[9] == 1).count();
    assert_eq!(introductions(&pair.world), 1, "the follower of a link has one");
    assert!(pair.world.run_until(MINUTE, |w| introductions(w) == 0));
    exchange(&mut pair, 0, 5, 0);
    pair.check(5, MINUTE);
}

#[test]
fn a_contact_that_is_let_go_leaves_nothing_on_the_disk() {
    let mut pair = connect_killed(World::new(6, 6, 6, HOURS), 0);
    exchange(&mut pair, 0, 5, 0);
    pair.check(5, MINUTE);
    let contact = pair.contacts[0];
    assert!(pair.world.with(0, |s, now| s.rename(now, contact, "Bob\n")));
    pair.world.crash(0);
    assert_eq!(pair.world.clients[0].session.contacts()[0].name, "Bob");
    assert!(pair.world.with(0, |s, now| s.remove(now, contact)));
    assert!(!pair.world.with(0, |s, now| s.remove(now, contact)));
    let of_contacts = |w: &World| w.disk(0).keys().filter(|k| b"cmbrxhy".contains(&k[0])).count();
    assert_eq!(of_contacts(&pair.world), 0);
    pair.world.run_until(MINUTE, |_| false);
    assert_eq!(of_contacts(&pair.world), 0);
}

#[test]
fn records_that_are_cut_off_or_garbled_are_refused_and_no_panic() {
    let mut pair = connect_killed(World::new(7, 6, 6, HOURS), 0);
    for relay in &mut pair.world.relays {
        relay.alive = false;
    }
    exchange(&mut pair, 0, 5, 0);
    let (disk, now) = (pair.world.disk(0).clone(), pair.world.now);
    let restore = |records: &Records| {
        let rng = ChaCha20Rng::seed_from_u64(1);
        Session::restore(Options::default(), Box::new(rng), now, records).map(drop)
    };
    restore(&disk).unwrap();
    let rng = &mut ChaCha20Rng::seed_from_u64(8);
    let mut refused = 0;
    for name in disk.keys() {
        for _ in 0..60 {
            let mut records = disk.clone();
            let value = records.get_mut(name).unwrap();
            let at = rng.random_range(0..value.len());
            if rng.random_bool(0.5) {
                value.truncate(at);
            } else {
                value[at] ^= 1 << rng.random_range(0..8);
            }
            refused += usize::from(restore(&records).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
}
