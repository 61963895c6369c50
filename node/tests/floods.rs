//! Someone makes the relay hold or do as much as it takes: what others notice. At the door and before peeling:
//! `posta-link`'s `limits/tests.rs`, `driver/pace/tests.rs`; of delayed packets: `relay/delay/tests.rs`.
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

use std::time::Duration;

use posta_node::relay::{Admission, Bounds, ClientLink, Event, InboxBounds};
use posta_protocol::admission::{Proof, QueueKind};
use posta_protocol::answer::Body;
use posta_protocol::command::{Command, ReaderCapability, WriterCapability};
use posta_protocol::params::{BOX_LEN, MAX_QUEUE_SURBS};
use posta_protocol::registry::answer;
use posta_protocol::secret::Secret;
use world::*;

fn reader(n: u8) -> ReaderCapability {
    ReaderCapability::new(Secret::new([n; 32]))
}

fn writer(n: u8) -> WriterCapability {
    WriterCapability::new(Secret::new([n | 128; 32]))
}

fn create(n: u8) -> Command {
    Command::Create { queue: reader(n).id(), writer: writer(n).id(), kind: QueueKind::Plain, proof: Proof::Nothing }
}

fn send(n: u8, sequence: u64) -> Command {
    Command::Send { writer: writer(n), sequence, body: vec![n; BOX_LEN].into() }
}

fn subscribe(n: u8) -> Command {
    Command::Subscribe { reader: reader(n), acked: 0, pace: 0 }
}

/// How many operations stand before an honest `send` in the store's line, beside a flood of `create`.
fn behind_creates(creates: u32) -> (usize, u64) {
    let mut bounds = Bounds::default();
    bounds.queues.creates = creates;
    let mut w = World::with(bounds, Admission::Open);
    assert_eq!(w.ask(create(1)), Body::Ok);
    w.hold_stores = true;
    for n in 2..102 {
        w.command(create(n), 1);
    }
    let refused = w.answers();
    assert!(refused.iter().all(|body| *body == Body::Refused(answer::BUSY)));
    w.command(send(1, 1), 1);
    let (line, counted) = (w.asked.len(), w.core(QUEUES).counters().create_rate);
    assert_eq!(refused.len() as u64, counted);
    w.release_stores();
    assert_eq!(w.answers().len(), line, "each of the others is answered");
    // A second later there is room again.
    w.advance(Duration::from_secs(1));
    assert_eq!(w.ask(create(120)), Body::Ok);
    (line, counted)
}

#[test]
fn a_flood_of_creates_is_told_to_wait_and_others_commands_go_on() {
    let (line, refused) = behind_creates(5);
    assert_eq!((line, refused), (4 + 1, 96), "one of five was the honest one's own");
    let (line, refused) = behind_creates(1_000_000);
    assert_eq!((line, refused), (101, 0), "the control");
}

#[test]
fn a_queue_that_is_given_more_and_more_reply_blocks_loses_only_its_own() {
    let mut bounds = Bounds::default();
    bounds.queues.blocks = 12;
    let run = |per_queue: usize, bounds: Bounds| {
        let mut bounds = bounds;
        bounds.queues.blocks_per_queue = per_queue;
        let mut w = World::with(bounds, Admission::Open);
        for n in [1, 2] {
            assert_eq!(w.ask(create(n)), Body::Ok);
        }
        w.command(subscribe(1), 3);
        for _ in 0..20 {
            w.command(subscribe(2), 3);
        }
        w.command(send(1, 1), 0);
        (w.answers().len(), w.core(QUEUES).counters().blocks_dropped)
    };
    assert_eq!(run(MAX_QUEUE_SURBS, bounds), (1, 60 - MAX_QUEUE_SURBS as u64), "the honest message comes at once");
    assert_eq!(run(2, bounds), (1, 58 + 1), "a smaller share, if the operator wants it: the honest one has it too");
    // The control: without a share for each queue, the flood takes the place of all.
    bounds.queues.blocks = 7;
    assert_eq!(run(MAX_QUEUE_SURBS, bounds).0, 0);
}

#[test]
fn an_inbox_that_overflows_costs_others_nothing() {
    let bounds =
        Bounds { inboxes: InboxBounds { buffer: 4, buffered: 100, ..InboxBounds::default() }, ..Bounds::default() };
    let mut w = World::with(bounds, Admission::Open);
    // One client is away, and gets more than its inbox holds.
    w.event(ENTRY, Event::ClientGone { link: CLIENT });
    for _ in 0..50 {
        w.command(Command::Echo, 1);
    }
    assert_eq!(w.core(ENTRY).counters().inbox_overflow, 46);
    assert!(w.delivered.is_empty());
    // Another one is there.
    let other = ClientLink(9);
    w.inbox = w.attach(other, 2);
    w.command(Command::Echo, 1);
    assert_eq!(w.delivered.len(), 1);
    assert_eq!(w.delivered.remove(0).0, other);
    w.attach(CLIENT, 1);
    assert_eq!(w.delivered.len(), 4, "the newest are kept");
}
