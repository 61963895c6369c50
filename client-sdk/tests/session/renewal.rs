//! One end has lost the conversation, or was set back to an older state: it begins anew, and nothing is lost that was
//! acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use posta_client::VerificationCode;
use posta_client::session::event::{ClientEvent, Warning};
use posta_client::store::Records;

use super::crash::{connect_killed, exchange};
use super::world::World;
use super::{HOURS, MINUTE, Pair, bodies, emitted, texts};

fn is_renewed(world: &World, client: usize) -> bool {
    emitted(world, client).any(|e| matches!(e, ClientEvent::Renewed { .. }))
}

fn code(pair: &Pair, client: usize) -> Option<VerificationCode> {
    pair.world.clients[client].session.verification_code(pair.contacts[client])
}

/// A durable pair whose key packages have been exchanged, after ten messages each way.
fn pair(seed: u64) -> Pair {
    let mut pair = connect_killed(World::new(seed, 6, 6, HOURS), 0);
    exchange(&mut pair, 0, 10, 0);
    pair.check(10, MINUTE);
    pair.world.run_until(Duration::from_secs(30), |_| false);
    pair
}

fn export(pair: &Pair, client: usize) -> Records {
    let world = &pair.world;
    world.clients[client].session.export(world.now, world.disk(client))
}

/// From number `from` on, each once and in order.
fn rest(from: usize, of: usize, to: usize) -> Vec<String> {
    texts(of, to).split_off(from)
}

#[test]
fn an_imported_older_export_loses_nothing_and_uses_no_key_twice() {
    for client in 0..2 {
        let mut pair = pair(60 + client as u64);
        pair.world.recorded = Some(Vec::new());
        let other = 1 - client;
        let exported = export(&pair, client);
        let before = code(&pair, client);
        // More is said and acknowledged, which the export knows nothing of; then all is lost but the export.
        exchange(&mut pair, 10, 10, 0);
        pair.check(20, MINUTE);
        pair.world.replace(client, exported);
        let renewed = |w: &World| is_renewed(w, client) && is_renewed(w, other);
        assert!(pair.world.run_until(5 * MINUTE, renewed), "{:?}", pair.world.clients[client].session.contacts());
        exchange(&mut pair, 20, 10, 0);
        let all = |w: &World| bodies(w, client).len() >= 20 && bodies(w, other).len() >= 30;
        let done = pair.world.run_until(5 * MINUTE, all);
        let got = [client, other].map(|c| bodies(&pair.world, c));
        assert!(done, "{got:?}");
        // What had come before the export is in its history; everything after it comes once more.
        assert_eq!(got, [rest(10, other, 30), texts(client, 30)]);
        let said = pair.world.clients[client].session.history(pair.contacts[client]);
        let theirs: Vec<String> =
            said.iter().filter(|s| !s.ours).map(|s| String::from_utf8(s.body.clone()).unwrap()).collect();
        assert_eq!(theirs, texts(other, 30));
        // Another conversation, the same at both ends; and no box was sealed as one before.
        assert!(code(&pair, client) == code(&pair, other) && code(&pair, client) != before);
        let sealed = pair.world.recorded.take().unwrap();
        let nonces: BTreeSet<&[u8]> = sealed.iter().map(|b| &b[..12]).collect();
        let whole: BTreeSet<&[u8]> = sealed.iter().map(|b| &b[..]).collect();
        assert_eq!(nonces.len(), whole.len());
        // A second one from the same export does it again: nothing was used up but what a fresh package replaces.
        pair.world.run_until(Duration::from_secs(30), |_| false);
        let again = export(&pair, client);
        pair.world.replace(client, again);
        pair.world.clients[other].events.clear();
        assert!(pair.world.run_until(5 * MINUTE, renewed));
        exchange(&mut pair, 30, 5, 0);
        let more = |w: &World| bodies(w, client).len() >= 5 && bodies(w, other).len() >= 5;
        assert!(pair.world.run_until(5 * MINUTE, more));
        assert_eq!(bodies(&pair.world, client), rest(30, other, 35));
        assert_eq!(bodies(&pair.world, other), rest(30, client, 35));
    }
}

#[test]
fn what_was_not_delivered_when_it_was_exported_is_delivered_once() {
    let mut pair = pair(64);
    // Nobody reads: the messages are in the export as ones that wait.
    for relay in &mut pair.world.relays {
        relay.alive = false;
    }
    exchange(&mut pair, 10, 5, 0);
    let exported = export(&pair, 0);
    for relay in &mut pair.world.relays {
        relay.alive = true;
    }
    // Then they are delivered after all, and the export knows nothing of it.
    pair.check(15, 5 * MINUTE);
    pair.world.replace(0, exported);
    assert!(pair.world.run_until(5 * MINUTE, |w| is_renewed(w, 0) && is_renewed(w, 1)));
    exchange(&mut pair, 15, 5, 0);
    assert!(pair.world.run_until(5 * MINUTE, |w| bodies(w, 1).len() >= 20 && bodies(w, 0).len() >= 10));
    assert_eq!(bodies(&pair.world, 1), texts(0, 20));
    assert_eq!(bodies(&pair.world, 0), rest(10, 1, 20));
}

#[test]
fn an_export_has_no_state_of_a_conversation_and_no_place_in_a_queue() {
    let pair = pair(65);
    let exported = export(&pair, 0);
    // By their names: the end-to-end state, waiting conversations, sealed messages, boxes, insides, early boxes.
    assert!(exported.keys().all(|name| !b"xwmbhry".contains(&name[0])), "{:?}", exported.keys());
    assert!(exported.keys().any(|name| name[0] == b'k') && exported.keys().any(|name| name[0] == b'd'));
    // Whatever is done, the same export is made of the same state, and it changes nothing.
    assert!(export(&pair, 0) == exported);
}

#[test]
fn a_state_that_was_put_back_is_noticed_and_the_conversation_mended() {
    for client in 0..2 {
        let mut pair = pair(66 + client as u64);
        let other = 1 - client;
        let old = pair.world.disk(client).clone();
        for round in 0..4 {
            // Over some turns.
            exchange(&mut pair, 10 + 5 * round, 5, 0);
            pair.world.run_until(Duration::from_secs(4), |_| false);
        }
        pair.check(30, MINUTE);
        pair.world.replace(client, old);
        let contact = pair.contacts[other];
        pair.world.with(other, |s, now| s.send(now, contact, format!("{other}:30").into_bytes())).unwrap();
        let renewed = |w: &World| is_renewed(w, client) && is_renewed(w, other);
        assert!(pair.world.run_until(10 * MINUTE, renewed), "{:?}", pair.world.clients[client].session.contacts());
        let contact = pair.contacts[client];
        pair.world.with(client, |s, now| s.send(now, contact, format!("{client}:30").into_bytes())).unwrap();
        exchange(&mut pair, 31, 5, 0);
        let all = |w: &World| bodies(w, client).len() >= 26 && bodies(w, other).len() >= 36;
        assert!(pair.world.run_until(5 * MINUTE, all), "{:?}", [0, 1].map(|c| bodies(&pair.world, c)));
        assert_eq!(bodies(&pair.world, client), rest(10, other, 36));
        assert_eq!(bodies(&pair.world, other), texts(client, 36));
        assert!(code(&pair, client) == code(&pair, other));
    }
}

#[test]
fn what_nobody_has_any_more_is_told_and_holds_nothing_up() {
    let mut pair = pair(75);
    let exported = export(&pair, 0);
    exchange(&mut pair, 10, 10, 0);
    pair.check(20, MINUTE);
    let contact = pair.contacts[1];
    assert!(pair.world.with(1, |s, now| s.clear_history(now, contact)));
    pair.world.replace(0, exported);
    assert!(pair.world.run_until(5 * MINUTE, |w| is_renewed(w, 0) && is_renewed(w, 1)));
    let missing = |e: &ClientEvent| matches!(e, ClientEvent::Warning(Warning::Missing { missing: 10, .. }));
    assert!(emitted(&pair.world, 0).any(missing));
    exchange(&mut pair, 20, 5, 0);
    assert!(pair.world.run_until(5 * MINUTE, |w| bodies(w, 0).len() >= 5 && bodies(w, 1).len() >= 25));
    assert_eq!(bodies(&pair.world, 0), rest(20, 1, 25));
}

#[test]
fn an_import_that_is_killed_at_any_moment_goes_on() {
    for seed in 80..84 {
        let mut pair = pair(seed);
        let exported = export(&pair, 0);
        exchange(&mut pair, 10, 5, 0);
        pair.check(15, MINUTE);
        pair.world.replace(0, exported);
        let renewed = |w: &World| is_renewed(w, 0) && is_renewed(w, 1);
        for kill in 0..30 {
            pair.world.clients[0].crash_after = Some(seed + kill * 3);
            if kill % 2 == 0 {
                pair.world.clients[1].crash_after = Some(kill);
            }
            pair.world.run_until(Duration::from_millis(700), |_| false);
        }
        pair.world.clients.iter_mut().for_each(|c| c.crash_after = None);
        assert!(pair.world.run_until(5 * MINUTE, renewed), "seed {seed}");
        exchange(&mut pair, 15, 5, 0);
        assert!(pair.world.run_until(5 * MINUTE, |w| bodies(w, 0).len() >= 10 && bodies(w, 1).len() >= 20));
        assert_eq!(bodies(&pair.world, 0), rest(10, 1, 20), "seed {seed}");
        assert_eq!(bodies(&pair.world, 1), texts(0, 20), "seed {seed}");
    }
}

#[test]
fn what_was_said_is_kept_over_a_crash_and_gone_when_it_is_cleared() {
    let mut pair = pair(90);
    let of = |w: &World| w.disk(0).keys().filter(|name| name[0] == b'd').count();
    assert_eq!(of(&pair.world), 20);
    pair.world.crash(0);
    let contact = pair.contacts[0];
    let said = pair.world.clients[0].session.history(contact);
    assert_eq!((said.len(), said.iter().filter(|s| s.ours).count()), (20, 10));
    assert!(said.iter().all(|s| s.delivered) && said.is_sorted_by_key(|s| s.at));
    assert!(pair.world.with(0, |s, now| s.clear_history(now, contact)));
    assert_eq!(of(&pair.world), 0);
}

#[test]
fn a_message_that_disappears_is_on_no_disk_after_its_time() {
    let mut pair = pair(91);
    let hour = Duration::from_secs(3600);
    let contact = pair.contacts[0];
    assert!(pair.world.with(0, |s, now| s.disappear(now, contact, Some(hour))));
    exchange(&mut pair, 10, 3, 0);
    pair.check(13, MINUTE);
    pair.world.run_until(MINUTE, |_| false);
    let holds = |w: &World, c: usize, text: &str| {
        w.disk(c).values().any(|v| v.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    // What the other one writes stays: each decides for what it sends.
    for text in ["0:9", "0:11", "1:11"] {
        assert!((0..2).all(|client| holds(&pair.world, client, text)), "{text}");
    }
    pair.world.run_until(hour / 2, |_| false);
    pair.world.crash(1);
    pair.world.run_until(hour, |_| false);
    for (text, stays) in [("0:9", true), ("0:11", false), ("1:11", true)] {
        for client in 0..2 {
            assert_eq!(holds(&pair.world, client, text), stays, "{text} at {client}");
        }
    }
    let gone = |e: &&ClientEvent| matches!(e, ClientEvent::Disappeared { .. });
    assert_eq!([0, 1].map(|c| emitted(&pair.world, c).filter(gone).count()), [3, 3]);
}
