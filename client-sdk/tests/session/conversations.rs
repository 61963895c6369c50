//! Conversations under MLS over a network: nobody between reads or changes anything, and nothing is lost over turns.

use std::time::Duration;

use posta_client::end_to_end::Conversation;
use posta_client::session::event::{ClientEvent, Options, Warning};
use posta_protocol::end_to_end::{Inner, InnerKind, QueueKey};
use posta_protocol::invitation::Link;

use super::{HOURS, MINUTE, Pair, World, bodies, connect, emitted, invite, is_connected, is_ready, link_of, pair};

/// The end of the conversation that a client holds.
fn end(pair: &mut Pair, client: usize) -> Option<Conversation> {
    let contact = pair.contacts[client];
    let saved = pair.world.clients[client].session.changed_conversation(contact)?;
    Some(Conversation::load(&saved).unwrap())
}

fn out_of_step(world: &World) -> bool {
    let warned = |e: &ClientEvent| matches!(e, ClientEvent::Warning(Warning::OutOfStep { .. }));
    (0..world.clients.len()).any(|c| emitted(world, c).any(warned))
}

#[test]
fn ten_thousand_messages_come_once_and_in_order_over_many_turns() {
    let mut world = World::new(31, 6, 6, HOURS);
    world.loss = 0.02;
    let mut pair = connect(world, Options::default());
    pair.exchange(0, 5_000);
    pair.check(5_000, 5 * MINUTE);
    let epochs = [0, 1].map(|c| end(&mut pair, c).unwrap().epoch());
    assert!(epochs.iter().all(|e| *e > 200), "{epochs:?}");
    assert!(!out_of_step(&pair.world));
}

#[test]
fn a_third_of_all_packets_lost_loses_no_turn() {
    for seed in 0..2 {
        let mut world = World::new(40 + seed, 6, 6, HOURS);
        world.loss = 0.3;
        let mut pair = connect(world, Options::default());
        for round in 0..12 {
            pair.exchange(10 * round, 10);
            pair.world.run_until(Duration::from_secs(5), |_| false);
        }
        pair.check(120, 5 * MINUTE);
        pair.world.loss = 0.0;
        pair.world.run_until(MINUTE, |_| false);
        let epochs = [0, 1].map(|c| end(&mut pair, c).unwrap().epoch());
        assert!(epochs[0] == epochs[1] && epochs[0] > 8, "{epochs:?}");
        assert!(!out_of_step(&pair.world));
    }
}

#[test]
fn an_idle_conversation_makes_no_turns() {
    let mut pair = pair(32);
    pair.exchange(0, 3);
    pair.check(3, MINUTE);
    pair.world.run_until(MINUTE, |_| false);
    let epochs = [0, 1].map(|c| end(&mut pair, c).unwrap().epoch());
    assert!(epochs[0] == epochs[1] && epochs[0] >= 4, "each message was followed by a turn and its answer: {epochs:?}");
    pair.world.recorded = Some(Vec::new());
    pair.world.run_until(10 * MINUTE, |_| false);
    assert_eq!(pair.world.recorded.as_ref().unwrap().len(), 0);
    assert!([0, 1].iter().all(|c| end(&mut pair, *c).is_none()), "changed while idle");
}

#[test]
fn a_relay_that_changes_every_message_changes_and_delays_nothing_for_long() {
    for victim in 0..4 {
        let mut pair = pair(33 + victim as u64);
        pair.exchange(0, 5);
        let reads = &pair.reads[victim / 2];
        pair.world.garbles = Some(reads[victim % reads.len()]);
        pair.exchange(5, 60);
        pair.check(65, 2 * MINUTE);
        assert!(!out_of_step(&pair.world));
    }
}

#[test]
fn relays_that_know_the_link_read_nothing_of_the_conversation() {
    let mut world = World::new(34, 6, 6, HOURS);
    world.recorded = Some(Vec::new());
    let (a, b) = (world.add_client(Options::default()), world.add_client(Options::default()));
    assert!(world.run_until(MINUTE, |w| is_ready(w, a) && is_ready(w, b)));
    let (at_a, text) = invite(&mut world, a);
    let link: Link = text.parse().unwrap();
    let at_b = world.with(b, |s, now| s.join(now, text.parse().unwrap())).unwrap();
    let offer = link.open(world.blob(&link.capability().id()).unwrap()).unwrap();
    assert!(world.run_until(MINUTE, |w| is_connected(w, a) && is_connected(w, b)));
    for n in 0..10 {
        let send = |world: &mut World, client, contact| {
            let body = format!("a secret, {n}").into_bytes();
            world.with(client, |s, now| s.send(now, contact, body)).unwrap();
        };
        send(&mut world, a, at_a);
        send(&mut world, b, at_b);
        world.run_until(Duration::from_secs(2), |_| false);
    }
    assert!(world.run_until(MINUTE, |w| bodies(w, a).len() == 10 && bodies(w, b).len() == 10));
    // All that such a relay has: every box that was ever stored, and the keys in the invitation.
    let recorded = world.recorded.take().unwrap();
    assert!(recorded.len() > 40);
    let mut welcomes = 0;
    for sealed in &recorded {
        for queue in &offer.queues {
            let Ok(inside) = QueueKey::new(&queue.key).open(sealed) else { continue };
            // The welcome, for the inviter's own key package alone.
            let inner = Inner::decode(&inside).unwrap();
            assert!(matches!(inner.kind, InnerKind::Welcome { .. }));
            welcomes += 1;
        }
        assert!(!sealed.windows(8).any(|w| w == b"a secret"));
    }
    assert!(welcomes >= 1, "the control: the welcome is sealed under the invitation's key");
    // The people can see that nobody is between them.
    let codes = [(a, at_a), (b, at_b)].map(|(c, contact)| world.clients[c].session.verification_code(contact));
    assert!(codes[0].is_some() && codes[0] == codes[1]);
    assert!(link_of(&world, a).is_some());
}
