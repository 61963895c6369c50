//! Kinds of queues, what a reader does to look after one, and admission: as commands and answers, in real packets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "tests"
)]

#[path = "support/world.rs"]
mod world;

use std::time::Duration;

use posta_node::relay::{Admission, Bounds, Effort};
use posta_protocol::admission::{Asks, Proof, Puzzle, QueueKind, Statement};
use posta_protocol::answer::{Body, Info};
use posta_protocol::command::{BlobCapability, Command, ReaderCapability, WriterCapability};
use posta_protocol::ids::{MessageId, WriterId};
use posta_protocol::params::{BLOB_LEN, BOX_LEN, DEFAULT_BULK_QUOTA, DEFAULT_CONTACT_QUOTA, DEFAULT_QUEUE_QUOTA};
use posta_protocol::registry::answer;
use posta_protocol::secret::Secret;
use world::*;

const CHEAP: Effort = Effort { floor: 6, ceiling: 9, target: 60 };

fn world() -> World {
    world_admitting(Admission::Open)
}

fn world_admitting(admission: Admission) -> World {
    let mut bounds = Bounds::default();
    bounds.queues.contact = CHEAP;
    World::with(bounds, admission)
}

fn reader() -> ReaderCapability {
    ReaderCapability::new(Secret::new([1; 32]))
}

fn writer() -> WriterCapability {
    WriterCapability::new(Secret::new([2; 32]))
}

fn create(kind: QueueKind, proof: Proof) -> Command {
    Command::Create { queue: reader().id(), writer: writer().id(), kind, proof }
}

fn make(w: &mut World, kind: QueueKind) {
    assert_eq!(w.ask(create(kind, Proof::Nothing)), Body::Ok);
}

fn send(sequence: u64) -> Command {
    Command::Send { writer: writer(), sequence, body: vec![sequence as u8; BOX_LEN].into() }
}

fn contact_send(n: u8, proof: Proof) -> Command {
    Command::ContactSend { writer: writer(), message: MessageId([n; 16]), proof, body: vec![n; BOX_LEN].into() }
}

fn asked(body: Body) -> Puzzle {
    match body {
        Body::NotAdmitted(Asks::Puzzle(puzzle)) => puzzle,
        other => panic!("{other:?}"),
    }
}

fn solve(puzzle: Puzzle, statement: &Statement) -> Proof {
    Proof::Solution(puzzle.solve(statement, 0, 1 << 20).unwrap())
}

fn for_message(n: u8) -> Statement {
    Statement::send(&writer().id(), &MessageId([n; 16]))
}

const fn refused(code: u8) -> Body {
    Body::Refused(code)
}

/// Asks what to solve, solves it, sends.
fn contact(w: &mut World, n: u8) -> Body {
    let puzzle = asked(w.ask(contact_send(n, Proof::Nothing)));
    w.ask(contact_send(n, solve(puzzle, &for_message(n))))
}

fn info(w: &mut World) -> Info {
    match w.ask(Command::Info { reader: reader() }) {
        Body::Info(info) => info,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_contact_queue_takes_each_message_once_and_for_a_puzzle() {
    let mut w = world();
    make(&mut w, QueueKind::Contact);
    let puzzle = asked(w.ask(contact_send(1, Proof::Nothing)));
    assert_eq!(puzzle.effort, CHEAP.floor);
    let proof = solve(puzzle, &for_message(1));
    assert_eq!(w.ask(contact_send(1, proof.clone())), Body::Ok);
    assert_eq!(w.ask(contact_send(1, proof.clone())), Body::Ok, "the first answer may have been lost");
    asked(w.ask(contact_send(2, proof)));
    assert_eq!(contact(&mut w, 2), Body::Ok);
    assert_eq!(w.core(QUEUES).counters().stored, 2);
    assert_eq!(w.core(QUEUES).counters().not_admitted, 3);
    let first = Body::Message { sequence: 1, left: 1, body: vec![1; BOX_LEN].into() };
    assert_eq!(w.ask(Command::Fetch { reader: reader(), after: 0 }), first);
    assert_eq!(w.ask(Command::Ack { reader: reader(), up_to: 1 }), Body::Ok);
    assert_eq!(contact(&mut w, 1), Body::Ok, "also after it was read and erased");
    assert_eq!(info(&mut w).highest, 2);
    assert_eq!(w.ask(send(3)), refused(answer::CONFLICT));
    let own = WriterId([9; 32]);
    assert_eq!(w.ask(Command::Secure { invited: writer(), writer: own }), refused(answer::CONFLICT));
    for n in 3..=u8::try_from(DEFAULT_CONTACT_QUOTA).unwrap() + 1 {
        assert_eq!(contact(&mut w, n), Body::Ok);
    }
    assert_eq!(contact(&mut w, 99), refused(answer::FULL));
}

#[test]
fn a_contacts_message_reaches_a_waiting_reader() {
    let mut w = world();
    make(&mut w, QueueKind::Contact);
    w.command(Command::Subscribe { reader: reader(), acked: 0, pace: 0 }, 2);
    let puzzle = asked(w.ask(contact_send(1, Proof::Nothing)));
    w.command(contact_send(1, solve(puzzle, &for_message(1))), 0);
    assert_eq!(w.answers(), [Body::Message { sequence: 1, left: 0, body: vec![1; BOX_LEN].into() }]);
}

#[test]
fn whether_there_is_a_contact_queue_is_told_for_a_puzzle_only() {
    let mut w = world();
    asked(w.ask(contact_send(1, Proof::Nothing)));
    assert_eq!(contact(&mut w, 1), refused(answer::BAD_CAPABILITY));
    make(&mut w, QueueKind::Plain);
    asked(w.ask(contact_send(1, Proof::Nothing)));
    assert_eq!(contact(&mut w, 1), refused(answer::CONFLICT));
}

#[test]
fn a_bulk_queue_says_how_much_more_it_takes() {
    let mut w = world();
    make(&mut w, QueueKind::Bulk);
    let stored = |through, room| Body::Stored { through, room };
    assert_eq!(w.ask(send(2)), stored(0, DEFAULT_BULK_QUOTA - 1));
    assert_eq!(w.ask(send(1)), stored(2, DEFAULT_BULK_QUOTA - 2));
    assert_eq!(w.ask(send(1)), stored(2, DEFAULT_BULK_QUOTA - 2), "a repeat");
    assert_eq!(w.ask(send(67)), refused(answer::OUT_OF_WINDOW));
    w.command(Command::Subscribe { reader: reader(), acked: 1, pace: 0 }, 2);
    w.command(send(3), 0);
    let numbers: Vec<_> = w.answers().iter().map(|a| matches!(a, Body::Message { .. })).collect();
    assert_eq!(numbers, [true, true], "the second and the third");
    assert_eq!(w.core(QUEUES).counters().stored, 3);
    assert_eq!(w.ask(send(4)), stored(4, DEFAULT_BULK_QUOTA - 3));
}

#[test]
fn a_reader_looks_after_its_queue() {
    let mut w = world();
    let all = || {
        let r = reader;
        [
            Command::Info { reader: r() },
            Command::Suspend { reader: r() },
            Command::Resume { reader: r() },
            Command::Extend { reader: r() },
        ]
    };
    for command in all() {
        assert_eq!(w.ask(command), refused(answer::BAD_CAPABILITY));
    }
    make(&mut w, QueueKind::Plain);
    assert_eq!(w.ask(send(1)), Body::Ok);
    let expected = Info {
        kind: QueueKind::Plain,
        secured: false,
        suspended: false,
        retiring: false,
        held: 1,
        room: DEFAULT_QUEUE_QUOTA - 1,
        highest: 1,
        acked: 0,
        hours: 90 * 24 + 1,
    };
    assert_eq!(info(&mut w), expected);
    assert_eq!(w.ask(Command::Suspend { reader: reader() }), Body::Ok);
    assert_eq!(info(&mut w), Info { suspended: true, ..expected });
    assert_eq!(w.ask(send(2)), refused(answer::SUSPENDED));
    assert_eq!(w.ask(send(1)), Body::Ok, "it is there");
    let secure = || Command::Secure { invited: writer(), writer: WriterId([9; 32]) };
    assert_eq!(w.ask(secure()), refused(answer::SUSPENDED));
    let message = Body::Message { sequence: 1, left: 0, body: vec![1; BOX_LEN].into() };
    assert_eq!(w.ask(Command::Fetch { reader: reader(), after: 0 }), message);
    for command in [Command::Resume { reader: reader() }, Command::Extend { reader: reader() }, secure()] {
        assert_eq!(w.ask(command), Body::Ok);
    }
    assert_eq!(info(&mut w), Info { secured: true, ..expected });
    assert_eq!(w.ask(Command::Delete { reader: reader() }), Body::Ok);
    for command in all() {
        assert_eq!(w.ask(command), refused(answer::GONE));
    }
}

#[test]
fn a_relay_that_retires_takes_nothing_new_keeps_what_it_has_and_says_so() {
    let mut w = world();
    make(&mut w, QueueKind::Plain);
    assert_eq!(w.ask(send(1)), Body::Ok);
    let used = w.core(QUEUES).queues_used();
    w.advance(Duration::from_secs(5));
    w.core(QUEUES).retire(true);
    let other = ReaderCapability::new(Secret::new([5; 32]));
    let another =
        |proof| Command::Create { queue: other.id(), writer: WriterId([5; 32]), kind: QueueKind::Plain, proof };
    assert_eq!(w.ask(another(Proof::Nothing)), refused(answer::RETIRING));
    let put = || WriterCapability::new(Secret::new([6; 32]));
    let get = BlobCapability::new(Secret::new([7; 32])).id();
    let blob = || Command::BlobPut { put: put(), get, one_time: true, hours: 1, body: vec![1; BLOB_LEN].into() };
    assert_eq!(w.ask(blob()), refused(answer::RETIRING));
    assert_eq!(w.core(QUEUES).counters().retiring, 2);
    assert_eq!(w.core(QUEUES).queues_used(), used, "nobody has used a queue meanwhile");
    assert!(info(&mut w).retiring);
    assert!(w.core(QUEUES).queues_used() > used);
    assert_eq!(w.ask(send(2)), Body::Ok, "writers go on until the reader has moved");
    w.command(Command::Subscribe { reader: reader(), acked: 0, pace: 0 }, 2);
    assert_eq!(w.answers().len(), 2);
    assert_eq!(w.ask(Command::Ack { reader: reader(), up_to: 2 }), Body::Ok);
    assert_eq!(w.ask(Command::Delete { reader: reader() }), Body::Ok);
    w.core(QUEUES).retire(false);
    assert_eq!(w.ask(another(Proof::Nothing)), Body::Ok, "taken back");
    assert_eq!(w.ask(blob()), Body::Ok);
}

#[test]
fn a_kind_is_for_life() {
    let mut w = world();
    make(&mut w, QueueKind::Bulk);
    make(&mut w, QueueKind::Bulk);
    assert_eq!(w.ask(create(QueueKind::Plain, Proof::Nothing)), refused(answer::CONFLICT));
}

#[test]
fn a_queue_for_a_puzzle_is_made_once_and_for_what_was_solved() {
    let mut w = world_admitting(Admission::Puzzle(CHEAP));
    let statement = |kind| Statement::create(&reader().id(), &writer().id(), kind);
    let puzzle = asked(w.ask(create(QueueKind::Plain, Proof::Nothing)));
    asked(w.ask(create(QueueKind::Plain, Proof::Password(b"sesame".to_vec().into()))));
    let proof = solve(puzzle, &statement(QueueKind::Plain));
    asked(w.ask(create(QueueKind::Bulk, proof.clone())));
    assert_eq!(w.ask(create(QueueKind::Plain, proof.clone())), Body::Ok);
    assert_eq!(w.ask(create(QueueKind::Plain, proof)), Body::Ok, "the first answer may have been lost");
}

#[test]
fn the_effort_follows_new_queues_and_not_repeats() {
    let mut w = world_admitting(Admission::Puzzle(Effort { floor: 4, ceiling: 9, target: 2 }));
    let effort = |w: &mut World| asked(w.ask(create(QueueKind::Plain, Proof::Nothing))).effort;
    let puzzle = asked(w.ask(create(QueueKind::Plain, Proof::Nothing)));
    let proof = solve(puzzle, &Statement::create(&reader().id(), &writer().id(), QueueKind::Plain));
    for _ in 0..20 {
        assert_eq!(w.ask(create(QueueKind::Plain, proof.clone())), Body::Ok);
    }
    assert_eq!(effort(&mut w), 4, "one queue, twenty times");
    for n in 1..=7 {
        let (queue, writer, kind) =
            (ReaderCapability::new(Secret::new([n; 32])).id(), WriterId([n; 32]), QueueKind::Contact);
        let with = |proof| Command::Create { queue, writer, kind, proof };
        let puzzle = asked(w.ask(with(Proof::Nothing)));
        let made = w.ask(with(solve(puzzle, &Statement::create(&queue, &writer, kind))));
        assert_eq!(made == Body::Ok, n > 1, "the first reader has a queue already");
    }
    assert_eq!(effort(&mut w), 8, "seven in a minute are 3.5 times the target");
    w.advance(Duration::from_secs(120));
    assert_eq!(effort(&mut w), 4);
}
