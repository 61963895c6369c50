//! Relays' own loops: which way they go, what others can see of them, how loss is counted. In a whole network:
//! `testnet/tests/simulated.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "support/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use posta_node::relay::{Counters, Event, LOOP_PATIENCE, LOOP_WINDOW, LOOP_WINDOWS, LoopCount, MAX_LOOPS, Source};
use posta_protocol::command::{Command, Envelope};
use posta_protocol::document::{Position, legal};
use posta_protocol::ids::RelayId;
use posta_protocol::now::Mono;
use posta_protocol::onion::Next;
use posta_protocol::packet::Packet;
use posta_protocol::params::PAYLOAD_CHECK_LEN;
use world::*;

fn position(id: RelayId) -> Position {
    ALL.iter().find(|(relay, _)| *relay == id).unwrap().1
}

fn counters(w: &mut World, relay: RelayId) -> Counters {
    *w.core(relay).counters()
}

/// One packet's step from relay to relay, and what it was to become there.
struct Step {
    from: RelayId,
    to: RelayId,
    len: usize,
    what: &'static str,
}

/// Lets a relay send loops until it has sent one, and follows every packet.
fn one_loop(w: &mut World, relay: RelayId) -> Vec<Step> {
    let (before, mut steps) = (counters(w, relay), Vec::new());
    w.hold_wire = true;
    let mut patience = 10_000;
    loop {
        while let Some((from, to, mut packet)) = w.wire.pop_front() {
            let len = packet.as_bytes().len();
            let now = w.now;
            let node = w.nodes.get_mut(&to).unwrap();
            let peeled = node.peeler.peel(&mut packet).unwrap();
            let what = match &peeled.next {
                Next::Forward { .. } => "forward",
                Next::Queue => "queue",
                Next::Inbox { .. } => "inbox",
                Next::Drop => "drop",
            };
            steps.push(Step { from, to, len, what });
            node.core.handle(now, Event::Peeled { from: Source::Relay(from), peeled, packet });
            w.run();
        }
        if counters(w, relay).loops_returned > before.loops_returned {
            // Those that began meanwhile belong to other tests.
            return steps;
        }
        patience -= 1;
        assert!(patience > 0, "no loop came back");
        w.advance(Duration::from_millis(20));
    }
}

#[test]
fn a_loop_goes_round_over_legal_pairs_only_and_looks_like_a_command_and_its_answer() {
    for (relay, here) in ALL {
        let mut w = World::new();
        w.loops(relay);
        let steps = one_loop(&mut w, relay);
        let first = steps.iter().position(|step| step.from == relay).unwrap();
        assert_eq!(first, 0, "it begins here");
        assert!(steps.iter().all(|step| legal(position(step.from), position(step.to))), "{here:?}");
        assert!(steps.iter().all(|step| step.len == G.packet_len()), "{here:?}: one size");
        // Where the circle is cut depends on the place; joined, it is the way of a client's command and answer.
        if steps.iter().filter(|step| step.from == relay).count() == 1 {
            let whats: Vec<_> = steps.iter().map(|step| step.what).collect();
            let expected: &[_] = match here {
                Position::Edge => &["forward", "forward", "queue", "forward", "forward", "inbox"],
                Position::Mix1 => &["forward", "queue", "inbox"],
                Position::Mix2 => &["queue", "forward", "inbox"],
            };
            assert_eq!(whats, expected, "{here:?}");
            assert!(steps.windows(2).all(|pair| pair[0].to == pair[1].from));
        }
        for (other, _) in ALL.iter().filter(|(other, _)| *other != relay) {
            let seen = counters(&mut w, *other);
            let silent = seen.refused + seen.illegal_route + seen.no_inbox + seen.malformed + seen.unanswered;
            assert_eq!((silent, seen.loops_sent), (0, 0), "{here:?}: nothing unusual anywhere");
        }
    }
}

/// The edge at the far end sees most of all others: a command. It is that of a client, byte for byte of one length, and the
/// answer goes to a first mix or back.
#[test]
fn the_far_edge_sees_an_echo_with_one_reply_block_as_from_a_client() {
    let content = |packet: &Packet| packet.as_bytes()[G.header_len() + PAYLOAD_CHECK_LEN..].to_vec();
    let of_client = {
        let mut w = World::new();
        let epoch = epoch_at(w.now.wall);
        let envelope = w.envelope(Command::Echo, 1, epoch);
        let mut packet = w.packet(&[QUEUES], Duration::ZERO, posta_protocol::onion::build::Last::Queue, &envelope);
        w.nodes.get_mut(&QUEUES).unwrap().peeler.peel(&mut packet).unwrap();
        content(&packet)
    };
    for (relay, here) in ALL {
        let mut w = World::new();
        w.loops(relay);
        w.hold_wire = true;
        let mut found = None;
        while found.is_none() {
            w.advance(Duration::from_millis(20));
            while let Some((from, to, mut packet)) = w.wire.pop_front() {
                let peeled = w.nodes.get_mut(&to).unwrap().peeler.peel(&mut packet).unwrap();
                if peeled.next == Next::Queue {
                    found = Some(content(&packet));
                    break;
                }
                let now = w.now;
                w.core(to).handle(now, Event::Peeled { from: Source::Relay(from), peeled, packet });
            }
        }
        let content = found.unwrap();
        let first_differing = content.iter().zip(&of_client).take_while(|(a, b)| a == b).count();
        assert_eq!(content.len(), of_client.len());
        // The same code, count and length; then the reply block.
        assert!(first_differing >= 4, "{here:?}: {first_differing}");
        let (mine, theirs) = [&content, &of_client].map(|c| Envelope::decode(c, G).unwrap()).into();
        assert!(matches!((&mine.command, &theirs.command), (Command::Echo, Command::Echo)));
        assert_eq!((mine.reply.len(), mine.reply[0].key_epoch), (1, theirs.reply[0].key_epoch));
        assert_eq!(position(mine.reply[0].first), Position::Mix1, "{here:?}");
        let zeros = |content: &[u8]| content.iter().rev().take_while(|byte| **byte == 0).count();
        assert!(zeros(&content).abs_diff(zeros(&of_client)) < 4, "{here:?}: as long as a client's");
    }
}

/// What a relay sends by itself, and when, in seconds.
fn beginnings(interval_us: Option<u64>, seconds: u64) -> Vec<f64> {
    let mut w = World::with_interval(interval_us);
    w.loops(MIX1);
    w.hold_wire = true;
    let mut times = Vec::new();
    let end = w.now.mono + Duration::from_secs(seconds);
    while w.now.mono < end {
        let due = w.core(MIX1).poll_timeout().unwrap_or(end).min(end);
        w.advance(due.since(w.now.mono).max(Duration::from_micros(1)));
        times.extend(std::iter::repeat_n(w.now.mono.since(Mono(0)).as_secs_f64(), w.wire.len()));
        w.wire.clear();
    }
    times
}

#[test]
fn loops_begin_at_the_times_of_a_poisson_process() {
    let times = beginnings(None, 400);
    let mut gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_by(f64::total_cmp);
    let n = gaps.len() as f64;
    assert!((340.0..460.0).contains(&n), "one a second: {n}");
    let distance = |expected: &dyn Fn(f64) -> f64| {
        let off = gaps.iter().enumerate().map(|(i, gap)| (expected(*gap) - i as f64 / n).abs());
        off.fold(0.0, f64::max) * n.sqrt()
    };
    let exponential = distance(&|gap| 1.0 - (-gap).exp());
    assert!(exponential < 1.95, "{exponential}");
    let uniform = distance(&|gap: f64| (gap / 2.0).min(1.0));
    assert!(uniform > 1.95, "the control, evenly spread gaps of the same mean: {uniform}");
}

#[test]
fn the_consensus_sets_the_rate_and_zero_is_none() {
    assert!((100..300).contains(&beginnings(Some(100_000), 20).len()));
    assert_eq!(beginnings(Some(0), 20).len(), 0);
    let fastest = beginnings(Some(1), 1).len();
    assert!((50..200).contains(&fastest), "never more often than every 10 ms: {fastest}");
}

#[test]
fn a_relay_without_mix_keys_sends_none() {
    let mut w = World::new();
    w.advance(Duration::from_secs(20));
    assert!(ALL.iter().all(|(id, _)| w.nodes[id].core.counters().loops_sent == 0));
}

#[test]
fn loops_that_dont_come_back_are_lost_once_their_time_is_over_and_forgotten_after_an_hour() {
    let mut w = World::new();
    w.loops(ENTRY);
    w.hold_wire = true;
    let sent = |w: &mut World| counters(w, ENTRY).loops_sent;
    while sent(&mut w) < 20 {
        w.advance(Duration::from_millis(100));
    }
    w.wire.clear();
    // Longer than any sum of five delays of this seed.
    w.advance(LOOP_PATIENCE + Duration::from_secs(30));
    let seen = counters(&mut w, ENTRY);
    assert!(seen.loops_lost >= 20 && seen.loops_returned == 0, "{seen:?}");
    let count = w.core(ENTRY).loops();
    assert_eq!(count, LoopCount { returned: 0, lost: seen.loops_lost });
    assert_eq!(count.loss_permille(), Some(1000));
    w.event(ENTRY, Event::Stop);
    w.wire.clear();
    let later = w.now + LOOP_WINDOW * LOOP_WINDOWS as u32;
    w.core(ENTRY).handle(later, Event::Tick);
    assert_eq!(w.core(ENTRY).loops().loss_permille(), None);
    assert_eq!(sent(&mut w), seen.loops_sent, "none after the stop");
}

#[test]
fn a_garbled_loop_counts_as_lost_and_a_second_copy_as_nothing() {
    let mut w = World::new();
    w.loops(MIX1);
    w.hold_wire = true;
    let mut garbled = false;
    while !garbled {
        w.advance(Duration::from_millis(20));
        while let Some((from, to, mut packet)) = w.wire.pop_front() {
            if to == MIX1 {
                let last = packet.as_bytes().len() - 1;
                packet.as_bytes_mut()[last] ^= 1;
                garbled = true;
            }
            assert!(w.receive(to, Source::Relay(from), packet.clone()));
            assert!(!w.receive(to, Source::Relay(from), packet), "a copy is a replay");
            w.run();
        }
    }
    let seen = counters(&mut w, MIX1);
    assert_eq!((seen.loops_lost, seen.loops_returned, seen.illegal_route), (1, 0, 0));
}

/// Nobody can make a relay take a packet for its loop: a mix refuses inboxes, an edge knows none of that id.
#[test]
fn a_strangers_reply_is_no_loop() {
    let mut w = World::new();
    w.loops(MIX1);
    let last = posta_protocol::onion::build::Last::Inbox(posta_protocol::ids::InboxId([3; 32]), surb(3));
    let packet = w.packet(&[MIX1], Duration::ZERO, last, b"");
    assert!(w.receive(MIX1, Source::Relay(QUEUES), packet));
    let seen = counters(&mut w, MIX1);
    assert_eq!((seen.illegal_route, seen.loops_returned, seen.loops_lost), (1, 0, 0));
}

#[test]
fn loops_under_way_are_bounded_and_those_across_a_key_epochs_end_are_not_judged() {
    let mut w = World::with_interval(Some(1));
    w.loops(MIX2);
    w.hold_wire = true;
    let mut firsts = BTreeSet::new();
    // Everything on the wire is lost: at a hundred a second there are more than 3,000 under way after half a minute.
    for _ in 0..120 {
        w.advance(Duration::from_millis(500));
        firsts.extend(w.wire.drain(..).map(|(_, to, _)| to));
    }
    assert_eq!(firsts, [ENTRY, QUEUES].into());
    let seen = counters(&mut w, MIX2);
    assert!(seen.loops_sent - seen.loops_lost <= MAX_LOOPS as u64);
    assert!(seen.loops_lost > 500, "{seen:?}");

    // A key epoch has ten minutes; its last minute and the next key epoch follow.
    let mut w = World::new();
    w.loops(MIX2);
    w.hold_wire = true;
    let left = KEY_EPOCH - Duration::from_millis(w.now.wall.0 % KEY_EPOCH.as_millis() as u64);
    let before = w.now + (left - Duration::from_secs(25));
    w.now = before;
    w.advance(Duration::from_secs(20));
    let sent = counters(&mut w, MIX2).loops_sent;
    assert!(sent > 5);
    w.event(MIX2, Event::Stop);
    w.wire.clear();
    w.advance(Duration::from_secs(300));
    assert_eq!(counters(&mut w, MIX2).loops_lost, 0, "none of {sent} is judged");
}
