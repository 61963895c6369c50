//! Sessions against a network in one process, under virtual time and from a seed; and (`live`) the client and the
//! program against the same network over real links.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod admission;
mod conversations;
mod crash;
mod gone;
mod live;
mod profiles;
mod renewal;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use posta_client::Scheme;
use posta_client::session::event::{
    ClientEvent, ContactId, Event, Failure, JoinError, JoinFailure, MessageState, Options, Warning,
};
use posta_protocol::now::Mono;
use rand::RngExt;
use world::World;

const HOURS: Duration = Duration::from_secs(6 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

/// Two connected clients and the contact that each is to the other.
struct Pair {
    world: World,
    contacts: [ContactId; 2],
    /// The relays whose queues each client reads.
    reads: [Vec<usize>; 2],
}

fn emitted(world: &World, client: usize) -> impl Iterator<Item = &ClientEvent> {
    world.clients[client].events.iter().map(|(_, e)| e)
}

fn link_of(world: &World, client: usize) -> Option<String> {
    emitted(world, client).find_map(|e| match e {
        ClientEvent::Invitation { link, .. } => Some(link.clone()),
        _ => None,
    })
}

fn is_connected(world: &World, client: usize) -> bool {
    emitted(world, client).any(|e| matches!(e, ClientEvent::Connected { .. }))
}

fn is_ready(world: &World, client: usize) -> bool {
    emitted(world, client).any(|e| *e == ClientEvent::Ready)
}

fn invite(world: &mut World, client: usize) -> (ContactId, String) {
    let contact = world.with(client, |s, now| s.invite(now)).unwrap();
    assert!(world.run_until(MINUTE, |w| link_of(w, client).is_some()), "no invitation");
    (contact, link_of(world, client).unwrap())
}

fn connect(mut world: World, options: Options) -> Pair {
    let (a, b) = (world.add_client(options), world.add_client(options));
    assert!(world.run_until(MINUTE, |w| is_ready(w, a) && is_ready(w, b)), "not ready");
    let (at_a, link) = invite(&mut world, a);
    let of_a = world.holders();
    let at_b = world.with(b, |s, now| s.join(now, link.parse().unwrap())).unwrap();
    assert!(world.run_until(MINUTE, |w| is_connected(w, a) && is_connected(w, b)), "not connected");
    let of_b = world.holders().into_iter().filter(|h| !of_a.contains(h)).collect();
    Pair { world, contacts: [at_a, at_b], reads: [of_a, of_b] }
}

fn pair(seed: u64) -> Pair {
    connect(World::new(seed, 6, 6, HOURS), Options::default())
}

fn bodies(world: &World, client: usize) -> Vec<String> {
    emitted(world, client)
        .filter_map(|e| match e {
            ClientEvent::Message { body, .. } => Some(String::from_utf8(body.clone()).unwrap()),
            _ => None,
        })
        .collect()
}

fn states(world: &World, client: usize) -> BTreeMap<u64, Vec<MessageState>> {
    let mut states: BTreeMap<u64, Vec<MessageState>> = BTreeMap::new();
    for event in emitted(world, client) {
        if let ClientEvent::State { message, state, .. } = event {
            states.entry(message.0).or_default().push(*state);
        }
    }
    states
}

fn texts(from: usize, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{from}:{n}")).collect()
}

impl Pair {
    /// Both send `count` messages, 50 ms apart.
    fn exchange(&mut self, from: usize, count: usize) {
        for n in from..from + count {
            for client in 0..2 {
                let contact = self.contacts[client];
                let body = format!("{client}:{n}").into_bytes();
                let sent = self.world.with(client, |s, now| s.send(now, contact, body));
                let got = [0, 1].map(|c| bodies(&self.world, c).len());
                assert!(
                    sent.is_ok(),
                    "{sent:?} at {:?}: message {n} of {client}, received {got:?}",
                    self.world.now.mono
                );
            }
            self.world.run_until(Duration::from_millis(50), |_| false);
        }
    }

    /// Waits until everything is delivered, and checks that it came once and in order.
    fn check(&mut self, count: usize, limit: Duration) {
        let all = |w: &World| {
            (0..2).all(|c| {
                bodies(w, 1 - c).len() >= count
                    && states(w, c).values().filter(|s| s.contains(&MessageState::Delivered)).count() >= count
            })
        };
        let done = self.world.run_until(limit, all);
        let got: Vec<usize> = (0..2).map(|c| bodies(&self.world, c).len()).collect();
        assert!(done, "received {got:?} of {count}");
        for client in 0..2 {
            assert_eq!(bodies(&self.world, 1 - client), texts(client, count));
            self.check_truth(client);
        }
    }

    /// `Delivered` never before the receiver emitted the message, and nothing after it.
    fn check_truth(&self, sender: usize) {
        let mut received: BTreeMap<u64, Mono> = BTreeMap::new();
        for (at, event) in &self.world.clients[1 - sender].events {
            if let ClientEvent::Message { number, .. } = event {
                received.insert(*number, *at);
            }
        }
        for (at, event) in &self.world.clients[sender].events {
            if let ClientEvent::State { message, state: MessageState::Delivered, .. } = event {
                assert!(received[&message.0] < *at, "delivered before it was");
            }
        }
        for (number, states) in states(&self.world, sender) {
            let last = states.iter().position(|s| *s == MessageState::Delivered);
            assert!(last.is_none_or(|i| i + 1 == states.len()), "message {number} went on after its delivery");
        }
    }

    /// The relays that hold the queues of this pair.
    fn holders(&self) -> Vec<usize> {
        self.world.holders()
    }
}

#[test]
fn fifty_messages_each_way_come_in_order_and_quickly() {
    let mut pair = pair(1);
    pair.exchange(0, 50);
    pair.check(50, MINUTE);
    // Eight hops of a millisecond there, and as many for the push; most need no more than that.
    let world = &pair.world;
    let sent: BTreeMap<u64, Mono> = world.clients[0]
        .events
        .iter()
        .filter_map(|(at, e)| match e {
            ClientEvent::State { message, state: MessageState::Stored { k: 1, .. }, .. } => Some((message.0, *at)),
            _ => None,
        })
        .collect();
    let quick = world.clients[1]
        .events
        .iter()
        .filter(|(at, e)| match e {
            ClientEvent::Message { number, .. } => at.since(sent[number]) < Duration::from_millis(5),
            _ => false,
        })
        .count();
    assert!(quick >= 45, "only {quick} of 50 came by a waiting reply block");
}

#[test]
fn a_fifth_of_all_packets_lost_loses_nothing() {
    for seed in 0..3 {
        let mut world = World::new(seed, 6, 6, HOURS);
        world.loss = 0.2;
        let mut pair = connect(world, Options::default());
        pair.exchange(0, 50);
        pair.check(50, 5 * MINUTE);
    }
}

#[test]
fn a_dead_mix_is_avoided() {
    let mut pair = pair(2);
    pair.exchange(0, 20);
    let mix = pair.world.mix_range().start;
    pair.world.relays[mix].alive = false;
    pair.exchange(20, 60);
    pair.check(80, MINUTE);
}

#[test]
fn a_queue_relay_dead_for_good_loses_nothing() {
    // Each of the four queues in turn.
    for victim in 0..4 {
        let mut pair = pair(3 + victim as u64);
        pair.exchange(0, 20);
        let reads = &pair.reads[victim / 2];
        let relay = reads[victim % reads.len()];
        pair.world.relays[relay].alive = false;
        pair.exchange(20, 60);
        pair.check(80, 2 * MINUTE);
    }
}

#[test]
fn states_say_one_of_two_while_a_relay_is_down_and_two_of_two_when_it_is_back() {
    let mut pair = pair(5);
    pair.exchange(0, 5);
    pair.check(5, MINUTE);
    assert_eq!(pair.reads[1].len(), 2);
    let [stored, both] = [1, 2].map(|k| MessageState::Stored { k, n: 2 });
    assert!(states(&pair.world, 0).values().all(|s| s.contains(&stored)));
    // The receiver's program does not read, so that nothing is delivered meanwhile.
    pair.world.with(1, |s, now| s.handle(now, Event::Reading(false)));
    pair.world.run_until(Duration::from_secs(5), |_| false);
    let victim = pair.reads[1][0];
    pair.world.relays[victim].alive = false;
    let contact = pair.contacts[0];
    for n in 5..25 {
        let body = format!("0:{n}").into_bytes();
        pair.world.with(0, |s, now| s.send(now, contact, body)).unwrap();
    }
    pair.world.run_until(Duration::from_secs(20), |_| false);
    let down = states(&pair.world, 0);
    // The first few may have been pushed over reply blocks that were still there.
    assert!((16..=25).all(|n| down[&n] == [stored]), "{down:?}");
    pair.world.relays[victim].alive = true;
    let up = |w: &World| (16..=25).all(|n| states(w, 0)[&n] == [stored, both]);
    assert!(pair.world.run_until(MINUTE, up), "{:?}", states(&pair.world, 0));
    pair.world.with(1, |s, now| s.handle(now, Event::Reading(true)));
    assert!(pair.world.run_until(MINUTE, |w| bodies(w, 1).len() == 25));
    assert_eq!(bodies(&pair.world, 1), texts(0, 25));
    pair.check_truth(0);
}

#[test]
fn a_dead_entry_is_left_for_the_next() {
    let mut pair = pair(6);
    pair.exchange(0, 20);
    let entry = *pair.world.clients[0].entries.iter().next().unwrap();
    let index = pair.world.index(&entry);
    pair.world.relays[index].alive = false;
    pair.exchange(20, 60);
    pair.check(80, 2 * MINUTE);
    assert!(pair.world.clients[0].entries.len() > 1);
}

#[test]
fn a_key_epoch_in_the_middle_loses_nothing() {
    let mut pair = connect(World::new(7, 6, 6, Duration::from_secs(20)), Options::default());
    pair.exchange(0, 600);
    pair.check(600, MINUTE);
}

#[test]
fn a_used_link_is_refused_to_a_third() {
    let mut world = World::new(8, 6, 6, HOURS);
    let clients: Vec<usize> = (0..4).map(|_| world.add_client(Options::default())).collect();
    assert!(world.run_until(MINUTE, |w| clients.iter().all(|c| is_ready(w, *c))));
    let (_, link) = invite(&mut world, 0);
    world.with(1, |s, now| s.join(now, link.parse().unwrap())).unwrap();
    // At once, while the first is still at it, and later, when the invitation is taken back.
    world.run_until(Duration::from_millis(20), |_| false);
    let failed = |w: &World, c: usize| {
        emitted(w, c).find_map(|e| match e {
            ClientEvent::JoinFailed { reason, .. } => Some(*reason),
            _ => None,
        })
    };
    world.with(2, |s, now| s.join(now, link.parse().unwrap())).unwrap();
    assert!(world.run_until(MINUTE, |w| is_connected(w, 0) && is_connected(w, 1) && failed(w, 2).is_some()));
    assert_eq!(failed(&world, 2), Some(JoinFailure::Used));
    world.with(3, |s, now| s.join(now, link.parse().unwrap())).unwrap();
    assert!(world.run_until(MINUTE, |w| failed(w, 3).is_some()));
    assert_eq!(failed(&world, 3), Some(JoinFailure::Used));
}

#[test]
fn a_link_of_another_network_is_refused() {
    let mut world = World::new(9, 6, 6, HOURS);
    let client = world.add_client(Options::default());
    let link = World::foreign_link();
    assert_eq!(world.with(client, |s, now| s.join(now, link.parse().unwrap())), Err(JoinError::NotReady));
    assert!(world.run_until(MINUTE, |w| is_ready(w, client)));
    assert_eq!(world.with(client, |s, now| s.join(now, link.parse().unwrap())), Err(JoinError::ForeignNetwork));
}

#[test]
fn a_message_that_nobody_fetches_fails_after_its_expiry_and_not_before() {
    let options = Options { expiry: Duration::from_secs(30), ..Options::default() };
    let mut pair = connect(World::new(10, 6, 6, HOURS), options);
    for index in pair.holders() {
        pair.world.relays[index].alive = false;
    }
    let sent_at = pair.world.now.mono;
    let contact = pair.contacts[0];
    pair.world.with(0, |s, now| s.send(now, contact, b"late".to_vec())).unwrap();
    let failed = MessageState::Failed { reason: Failure::Expired };
    assert!(pair.world.run_until(MINUTE, |w| states(w, 0).get(&1).is_some_and(|s| s.contains(&failed))));
    assert!(pair.world.now.mono.since(sent_at) >= Duration::from_secs(30));
    for relay in &mut pair.world.relays {
        relay.alive = true;
    }
    pair.world.with(0, |s, now| s.send(now, contact, b"in time".to_vec())).unwrap();
    assert!(pair.world.run_until(MINUTE, |w| !bodies(w, 1).is_empty()));
    assert_eq!(bodies(&pair.world, 1), ["in time"]);
}

fn queues_lost(world: &World) -> usize {
    let lost = |e: &&ClientEvent| matches!(e, ClientEvent::Warning(Warning::QueueLost { .. }));
    (0..world.clients.len()).map(|c| emitted(world, c).filter(lost).count()).sum()
}

#[test]
fn stores_that_forgot_everything_cost_nothing() {
    for victims in 1..=4 {
        let mut pair = pair(11 + victims as u64);
        pair.exchange(0, 10);
        for victim in pair.holders().into_iter().take(victims) {
            pair.world.wipe(victim);
        }
        pair.exchange(10, 30);
        pair.check(40, 2 * MINUTE);
        // What is left is one receipt's way; then every queue is in use again.
        pair.exchange(40, 10);
        pair.check(50, MINUTE);
        assert_eq!((queues_lost(&pair.world), pair.holders().len()), (0, 4), "{victims} stores");
    }
}

#[test]
fn what_was_stored_and_not_delivered_is_stored_again() {
    let mut pair = pair(21);
    pair.exchange(0, 3);
    pair.check(3, MINUTE);
    pair.world.loss = 0.1;
    pair.world.with(1, |s, now| s.handle(now, Event::Reading(false)));
    let contact = pair.contacts[0];
    let send = |pair: &mut Pair, numbers: std::ops::Range<usize>| {
        for n in numbers {
            let body = format!("0:{n}").into_bytes();
            pair.world.with(0, |s, now| s.send(now, contact, body)).unwrap();
        }
    };
    // More than a relay's window tells apart.
    send(&mut pair, 3..113);
    let both = MessageState::Stored { k: 2, n: 2 };
    let stored = |w: &World| (20..=113).all(|n| states(w, 0).get(&n).is_some_and(|s| s.contains(&both)));
    assert!(pair.world.run_until(5 * MINUTE, stored), "{:?}", states(&pair.world, 0));
    for relay in pair.reads[1].clone() {
        pair.world.restore(relay);
    }
    // The sender hears of it by the next answer.
    send(&mut pair, 113..115);
    let again = |w: &World| (20..=113).all(|n| states(w, 0)[&n].iter().filter(|s| **s == both).count() == 2);
    pair.world.loss = 0.4;
    assert!(pair.world.run_until(10 * MINUTE, again), "{:?}", states(&pair.world, 0));
    pair.world.loss = 0.0;
    pair.world.with(1, |s, now| s.handle(now, Event::Reading(true)));
    assert!(pair.world.run_until(5 * MINUTE, |w| bodies(w, 1).len() >= 115), "{}", bodies(&pair.world, 1).len());
    assert_eq!(bodies(&pair.world, 1), texts(0, 115));
    pair.check_truth(0);
    assert_eq!(queues_lost(&pair.world), 0);
}

#[test]
fn an_invitation_is_left_again_at_relays_that_forgot_it() {
    let mut world = World::new(22, 6, 6, HOURS);
    let (a, b) = (world.add_client(Options::default()), world.add_client(Options::default()));
    assert!(world.run_until(MINUTE, |w| is_ready(w, a) && is_ready(w, b)));
    let (_, link) = invite(&mut world, a);
    for relay in world.holders() {
        world.wipe(relay);
    }
    world.run_until(2 * MINUTE, |_| false);
    world.with(b, |s, now| s.join(now, link.parse().unwrap())).unwrap();
    assert!(world.run_until(MINUTE, |w| is_connected(w, a) && is_connected(w, b)));
}

#[test]
fn the_same_seed_gives_the_same_events() {
    let run = || {
        // MLS draws its keys from the operating system.
        let options = Options { scheme: Scheme::Model, ..Options::default() };
        let mut pair = connect(World::new(12, 6, 6, HOURS), options);
        pair.exchange(0, 10);
        pair.world.clients.iter().flat_map(|c| c.events.clone()).collect::<Vec<_>>()
    };
    assert!(run() == run());
}

#[test]
fn an_application_that_does_not_read_loses_nothing() {
    let mut pair = pair(13);
    pair.world.with(1, |s, now| s.handle(now, Event::Reading(false)));
    pair.exchange(0, 30);
    pair.world.run_until(MINUTE, |_| false);
    let before = bodies(&pair.world, 1).len();
    assert!(before <= 12, "{before} messages were pushed on an application that doesn't read");
    pair.world.with(1, |s, now| s.handle(now, Event::Reading(true)));
    pair.check(30, MINUTE);
}

#[test]
fn a_ping_goes_all_the_way() {
    let mut world = World::new(14, 6, 6, HOURS);
    let client = world.add_client(Options::default());
    assert!(world.run_until(MINUTE, |w| is_ready(w, client)));
    assert!(world.with(client, |s, now| s.ping(now)));
    let pong = |w: &World| emitted(w, client).any(|e| matches!(e, ClientEvent::Pong { .. }));
    assert!(world.run_until(MINUTE, pong));
}

/// One relay after another is killed and comes back without what it had in memory; some packets are lost, and key epochs
/// pass. `POSTA_TEST_FIRST_SEED` and `POSTA_TEST_SEEDS` choose other seeds.
#[test]
fn relays_that_come_and_go_lose_nothing() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let first = number("POSTA_TEST_FIRST_SEED").unwrap_or(100);
    for seed in first..first + number("POSTA_TEST_SEEDS").unwrap_or(3) {
        eprintln!("seed {seed}");
        let mut world = World::new(seed, 6, 6, Duration::from_secs(30));
        world.loss = 0.01;
        let mut pair = connect(world, Options::default());
        let mut from = 0;
        for _ in 0..6 {
            let victim = pair.world.rng.random_range(0..12);
            eprintln!("relay {victim} is down, {:?}", pair.world.now.mono);
            pair.world.relays[victim].alive = false;
            pair.exchange(from, 40);
            pair.world.relays[victim].alive = true;
            pair.world.forget_memory(victim);
            pair.exchange(from + 40, 20);
            from += 60;
        }
        pair.check(from, 5 * MINUTE);
    }
}
