//! `mixed` and `steady`: what the line shows, and that messages come all the same.

use std::time::Duration;

use posta_client::Scheme;
use posta_client::session::event::{ClientEvent, ContactId, Health, HealthLevel, Options, Profile};
use posta_protocol::now::Mono;

use super::world::Frame;
use super::{HOURS, MINUTE, World, bodies, emitted, is_connected, is_ready, link_of};

const HOUR: Duration = Duration::from_secs(3600);

fn options(profile: Profile) -> Options {
    // MLS draws its keys from the operating system.
    Options { profile, scheme: Scheme::Model, ..Options::default() }
}

fn two(seed: u64, profile: Profile) -> (World, Mono) {
    let mut world = World::new(seed, 6, 6, HOURS);
    let end = world.now.mono + HOUR;
    for _ in 0..2 {
        world.add_client(options(profile));
    }
    (world, end)
}

/// Connects the two of a world, over slots.
pub(super) fn meet(world: &mut World) -> [ContactId; 2] {
    assert!(world.run_until(MINUTE, |w| is_ready(w, 0) && is_ready(w, 1)), "not ready");
    let at_a = world.with(0, |s, now| s.invite(now)).unwrap();
    assert!(world.run_until(MINUTE * 5, |w| link_of(w, 0).is_some()), "no invitation");
    let link = link_of(world, 0).unwrap();
    let at_b = world.with(1, |s, now| s.join(now, link.parse().unwrap())).unwrap();
    assert!(world.run_until(MINUTE * 10, |w| is_connected(w, 0) && is_connected(w, 1)), "not connected");
    [at_a, at_b]
}

/// What the lines of both show in an hour, and how many messages were delivered meanwhile.
fn hour(profile: Profile, busy: bool, leaky: bool) -> ([Vec<Frame>; 2], usize) {
    let (mut world, end) = two(60, profile);
    if busy {
        let contacts = meet(&mut world);
        let mut n = 0;
        while world.now.mono + MINUTE < end {
            for (client, contact) in contacts.into_iter().enumerate() {
                let body = format!("{client}:{n}").into_bytes();
                world.clients[client].leaks = leaky && client == 0;
                world.with(client, |s, now| s.send(now, contact, body)).unwrap();
            }
            n += 1;
            world.run_until(MINUTE / 2, |_| false);
        }
    }
    let rest = end.since(world.now.mono);
    world.run_until(rest, |_| false);
    let delivered = (0..2).map(|c| bodies(&world, c).len()).sum();
    let lines = [0, 1].map(|c| world.clients[c].line.iter().filter(|f| f.0 < end).copied().collect());
    (lines, delivered)
}

#[test]
fn an_hour_of_a_steady_line_is_the_same_idle_and_busy() {
    let (idle, none) = hour(Profile::Steady, false, false);
    let (busy, delivered) = hour(Profile::Steady, true, false);
    assert_eq!(none, 0);
    assert!(delivered > 100, "{delivered} messages");
    for (idle, busy) in idle.iter().zip(&busy) {
        assert!(idle.len() > 700, "{} frames", idle.len());
        let differs = idle.iter().zip(busy).position(|(a, b)| a != b);
        assert!(idle == busy, "{:?}: {:?}", differs, differs.map(|at| (idle[at], busy[at])));
    }
    // The control: a driver that sends a packet one microsecond later when the application has just spoken.
    let (leaky, _) = hour(Profile::Steady, true, true);
    assert!(idle[0] != leaky[0] && idle[1] == leaky[1], "the control must be caught");
}

#[test]
fn a_mixed_line_is_the_same_idle_and_busy_too_and_a_fast_one_is_not() {
    let (idle, _) = hour(Profile::Mixed, false, false);
    let (busy, delivered) = hour(Profile::Mixed, true, false);
    assert!(delivered > 50, "{delivered} messages");
    assert!(idle == busy);
    assert!(idle[0].len() > 300, "{} frames", idle[0].len());
    // The control: the same test, on a profile that hides nothing.
    let (idle, _) = hour(Profile::Fast, false, false);
    let (busy, _) = hour(Profile::Fast, true, false);
    assert!(idle != busy, "the control must be caught");
}

#[test]
fn messages_come_in_slots_and_nothing_is_lost_when_packets_are() {
    for (seed, profile) in [(61, Profile::Mixed), (62, Profile::Steady)] {
        let (mut world, _) = two(seed, profile);
        let contacts = meet(&mut world);
        world.loss = 0.1;
        for n in 0..20 {
            for (client, contact) in contacts.into_iter().enumerate() {
                let body = format!("{client}:{n}").into_bytes();
                world.with(client, |s, now| s.send(now, contact, body)).unwrap();
            }
            world.run_until(MINUTE, |_| false);
        }
        let all = |w: &World| (0..2).all(|c| bodies(w, c).len() >= 20);
        assert!(world.run_until(HOUR, all), "{profile}: {:?}", [0, 1].map(|c| bodies(&world, c).len()));
        for client in 0..2 {
            let sent: Vec<String> = (0..20).map(|n| format!("{client}:{n}")).collect();
            assert_eq!(bodies(&world, 1 - client), sent);
        }
    }
}

fn last_health(world: &World, client: usize) -> Option<Health> {
    let told = emitted(world, client).filter_map(|e| match e {
        ClientEvent::Health(health) => Some(*health),
        _ => None,
    });
    told.last()
}

#[test]
fn loops_tell_an_idle_client_how_the_network_is() {
    let (mut world, _) = two(63, Profile::Steady);
    world.run_until(MINUTE * 10, |_| false);
    assert_eq!(last_health(&world, 0).map(|h| h.level), Some(HealthLevel::Good));
    // One in ten packets is lost on each way.
    world.loss = 0.3;
    world.run_until(MINUTE * 20, |_| false);
    assert!(last_health(&world, 0).is_some_and(|h| h.level == HealthLevel::Poor || h.level == HealthLevel::Bad));
    let mixes = world.mix_range();
    for mix in mixes {
        world.relays[mix].alive = false;
    }
    world.run_until(MINUTE * 20, |_| false);
    assert_eq!(last_health(&world, 0).map(|h| h.level), Some(HealthLevel::Bad));
    for relay in &mut world.relays {
        relay.alive = true;
    }
    world.loss = 0.0;
    world.run_until(MINUTE * 30, |_| false);
    assert_eq!(last_health(&world, 0).map(|h| h.level), Some(HealthLevel::Good));
}
