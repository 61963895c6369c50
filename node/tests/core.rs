//! The relay's core with real packets, in memory and under virtual time.
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

use posta_node::relay::{Admission, Bounds, ClientLink, DelayBounds, Event, InboxBounds, Source};
use posta_protocol::admission::{Asks, Proof, QueueKind};
use posta_protocol::answer::Body;
use posta_protocol::command::{BlobCapability, Command, ReaderCapability, WriterCapability};
use posta_protocol::ids::InboxId;
use posta_protocol::onion::build::Last;
use posta_protocol::params::{BLOB_LEN, BOX_LEN};
use posta_protocol::registry::answer;
use posta_protocol::secret::Secret;
use world::*;

fn reader() -> ReaderCapability {
    ReaderCapability::new(Secret::new([1; 32]))
}

fn writer() -> WriterCapability {
    WriterCapability::new(Secret::new([2; 32]))
}

fn create() -> Command {
    create_showing(Proof::Nothing)
}

fn create_showing(proof: Proof) -> Command {
    Command::Create { queue: reader().id(), writer: writer().id(), kind: QueueKind::Plain, proof }
}

fn send(sequence: u64) -> Command {
    Command::Send { writer: writer(), sequence, body: vec![sequence as u8; BOX_LEN].into() }
}

fn subscribe(acked: u64) -> Command {
    Command::Subscribe { reader: reader(), acked, pace: 0 }
}

fn numbers(answers: &[Body]) -> Vec<u64> {
    answers.iter().filter_map(|a| if let Body::Message { sequence, .. } = a { Some(*sequence) } else { None }).collect()
}

#[test]
fn a_packet_is_passed_on_after_its_delay() {
    let mut w = World::new();
    let delay = Duration::from_millis(300);
    let packet = w.packet(&FORTH, delay, Last::Queue, b"");
    assert!(w.receive(ENTRY, Source::Client(CLIENT), packet));
    w.hold_wire = true;
    w.run();
    assert_eq!(w.core(ENTRY).poll_timeout(), Some(w.now.mono + delay));
    w.advance(Duration::from_millis(299));
    assert!(w.wire.is_empty());
    w.advance(Duration::from_millis(1));
    assert_eq!(w.wire.len(), 1);
    assert_eq!((w.wire[0].0, w.wire[0].1), (ENTRY, MIX1));
    assert_eq!(w.core(ENTRY).counters().forwarded, 1);
}

#[test]
fn packets_due_at_once_leave_in_random_order() {
    let mut w = World::new();
    w.hold_wire = true;
    for _ in 0..8 {
        for to in [MIX1, OTHER_MIX1] {
            let packet = w.packet(&[ENTRY, to, MIX2, QUEUES], Duration::from_millis(5), Last::Queue, b"");
            assert!(w.receive(ENTRY, Source::Client(CLIENT), packet));
        }
    }
    w.advance(Duration::from_millis(5));
    let order: Vec<_> = w.wire.iter().map(|(_, to, _)| *to == MIX1).collect();
    assert_eq!(order.len(), 16);
    assert!(order.chunks(2).any(|pair| pair != [true, false]), "{order:?}");
}

#[test]
fn only_legal_routes_are_taken() {
    let mut w = World::new();
    let mut refused = |at, from, path: &[_], last| {
        let before = w.core(at).counters().illegal_route;
        let packet = w.packet(path, Duration::ZERO, last, b"");
        w.hold_wire = true;
        assert!(w.receive(at, from, packet));
        w.run();
        let refused = w.core(at).counters().illegal_route - before;
        assert_eq!(refused == 1, w.wire.is_empty());
        w.wire.clear();
        refused == 1
    };
    let client = Source::Client(CLIENT);
    assert!(!refused(ENTRY, client, &FORTH, Last::Queue));
    assert!(refused(ENTRY, client, &[ENTRY, MIX2, QUEUES], Last::Queue), "a layer left out");
    assert!(refused(ENTRY, client, &[ENTRY, QUEUES], Last::Queue), "straight to the queues");
    assert!(refused(ENTRY, client, &[ENTRY], Last::Queue), "a client's command to its own entry");
    assert!(refused(ENTRY, client, &[ENTRY], Last::Inbox(InboxId([1; 32]), surb(1))));
    assert!(refused(MIX1, client, &[MIX1, MIX2, QUEUES], Last::Queue), "a client at a mix");
    assert!(refused(MIX1, Source::Relay(MIX2), &[MIX1, MIX2, QUEUES], Last::Queue), "the wrong way round");
    assert!(refused(MIX2, Source::Relay(ENTRY), &[MIX2, QUEUES], Last::Queue), "from an edge to the second layer");
    assert!(refused(MIX2, Source::Relay(MIX1), &[MIX2], Last::Queue), "a mix has no queues");
    assert!(!refused(MIX2, Source::Relay(MIX1), &[MIX2, QUEUES], Last::Queue));
}

#[test]
fn a_replay_is_refused() {
    let mut w = World::new();
    let packet = w.packet(&FORTH, Duration::ZERO, Last::Queue, b"");
    assert!(w.receive(ENTRY, Source::Client(CLIENT), packet.clone()));
    assert!(!w.receive(ENTRY, Source::Client(CLIENT), packet));
    assert_eq!(w.nodes.get_mut(&ENTRY).unwrap().peeler.take_log().len(), 1);
}

#[test]
fn a_send_is_answered_once_it_is_stored_and_a_repeat_gives_the_same() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    assert_eq!(w.ask(create()), Body::Ok, "the first answer may have been lost");
    w.hold_stores = true;
    w.command(send(1), 1);
    assert!(w.answers().is_empty());
    w.release_stores();
    assert_eq!(w.answers(), [Body::Ok]);
    assert_eq!(w.ask(send(1)), Body::Ok);
    let fetched = w.ask(Command::Fetch { reader: reader(), after: 0 });
    assert_eq!(fetched, Body::Message { sequence: 1, left: 0, body: vec![1; BOX_LEN].into() });
    assert_eq!(w.core(QUEUES).counters().stored, 1);
    w.command(send(2), 0);
    assert!(w.answers().is_empty(), "no block, no answer");
    assert_eq!(w.core(QUEUES).counters().stored, 2);
}

#[test]
fn a_message_goes_out_as_it_comes_in_and_is_gone_when_acknowledged() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    w.command(subscribe(0), 3);
    assert!(w.answers().is_empty(), "a subscribe has no answer of its own");
    w.command(send(1), 0);
    assert_eq!(w.answers(), [Body::Message { sequence: 1, left: 0, body: vec![1; BOX_LEN].into() }]);
    w.command(send(2), 0);
    w.command(send(3), 0);
    assert_eq!(numbers(&w.answers()), [2, 3]);
    w.command(send(4), 0);
    assert!(w.answers().is_empty(), "three blocks, three messages");
    w.command(subscribe(3), 2);
    assert_eq!(numbers(&w.answers()), [4], "what was acknowledged with the subscribe is gone");
    assert_eq!(w.ask(Command::Ack { reader: reader(), up_to: 4 }), Body::Ok);
    assert_eq!(w.ask(Command::Fetch { reader: reader(), after: 0 }), Body::Empty);
}

#[test]
fn what_waits_is_delivered_in_order_as_long_as_blocks_last() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    for n in 1..=5 {
        assert_eq!(w.ask(send(n)), Body::Ok);
    }
    w.command(subscribe(0), 3);
    assert_eq!(numbers(&w.answers()), [1, 2, 3]);
    w.command(subscribe(0), 3);
    assert_eq!(numbers(&w.answers()), [4, 5], "not twice while the first may be under way");
}

#[test]
fn an_unacknowledged_message_is_sent_again_when_a_block_comes_later() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    w.command(send(1), 0);
    w.command(subscribe(0), 1);
    assert_eq!(numbers(&w.answers()), [1]);
    w.advance(posta_node::queue::RESEND_AFTER - Duration::from_secs(1));
    w.command(subscribe(0), 1);
    assert!(w.answers().is_empty());
    w.advance(Duration::from_secs(1));
    w.command(subscribe(0), 2);
    assert_eq!(numbers(&w.answers()), [1]);
}

#[test]
fn a_message_that_comes_while_the_store_is_being_read_is_not_missed() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    w.command(subscribe(0), 3);
    w.hold_stores = true;
    w.command(send(1), 0);
    let (relay, token, op) = w.asked.pop_front().unwrap();
    w.store(relay, token, op);
    w.run();
    // The read for message 1 waits; message 2 is stored meanwhile.
    w.command(send(2), 0);
    w.release_stores();
    assert_eq!(numbers(&w.answers()), [1, 2]);
}

#[test]
fn a_paced_reader_gets_its_messages_at_times_of_their_own() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    w.command(Command::Subscribe { reader: reader(), acked: 0, pace: 1000 }, 3);
    for n in 1..=3 {
        w.command(send(n), 0);
    }
    assert!(w.answers().is_empty(), "not on arrival");
    let mut gaps = Vec::new();
    for _ in 0..600 {
        w.advance(Duration::from_millis(100));
        let got = w.answers().len();
        gaps.push(got);
    }
    assert_eq!(gaps.iter().sum::<usize>(), 3);
}

#[test]
fn a_reply_block_is_of_use_in_its_own_key_epoch_only() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    let epoch = epoch_at(w.now.wall);
    let old = w.envelope(send(1), 1, posta_protocol::ids::KeyEpoch(epoch.0 - 1));
    w.content(&old);
    assert!(w.answers().is_empty());
    assert_eq!(w.core(QUEUES).counters().stored, 1, "the command is done all the same");
    assert_eq!(w.core(QUEUES).counters().unanswered, 1);
    w.command(subscribe(1), 2);
    // Past the end of the key epoch and what clocks may be off.
    w.advance(KEY_EPOCH);
    w.command(send(2), 0);
    assert!(w.answers().is_empty(), "the subscription has gone with its key epoch");
    assert_eq!(w.core(QUEUES).counters().blocks_dropped, 2);
}

#[test]
fn refusals_have_their_codes() {
    let mut w = World::new();
    let refused = |code| Body::Refused(code);
    assert_eq!(w.ask(subscribe(0)), refused(answer::BAD_CAPABILITY));
    assert_eq!(w.ask(send(1)), refused(answer::BAD_CAPABILITY));
    assert_eq!(w.ask(Command::Unknown(200)), refused(answer::UNSUPPORTED));
    assert_eq!(w.ask(Command::Echo), Body::Ok);
    let epoch = epoch_at(w.now.wall);
    let mut malformed = w.envelope(Command::Delete { reader: reader() }, 1, epoch);
    // One reply block announced too many.
    malformed[4 + 1 + 32] = 2;
    w.content(&malformed);
    assert_eq!(w.answers(), [refused(answer::MALFORMED)]);
    w.content(&[0xff; 400]);
    assert!(w.answers().is_empty(), "nobody to answer");
    assert_eq!(w.core(QUEUES).counters().malformed, 2);

    let mut w = World::with(Bounds::default(), Admission::password("sesame"));
    assert_eq!(w.ask(create()), Body::NotAdmitted(Asks::Password));
    assert_eq!(w.ask(create_showing(Proof::Password(b"sesame".to_vec().into()))), Body::Ok);
}

#[test]
fn queues_are_secured_and_deleted() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    let own = WriterCapability::new(Secret::new([3; 32]));
    assert_eq!(w.ask(Command::Secure { invited: writer(), writer: own.id() }), Body::Ok);
    let other = WriterCapability::new(Secret::new([4; 32]));
    assert_eq!(w.ask(Command::Secure { invited: writer(), writer: other.id() }), Body::Refused(answer::TAKEN));
    w.command(subscribe(0), 2);
    assert_eq!(w.ask(Command::Delete { reader: reader() }), Body::Ok);
    assert_eq!(w.core(QUEUES).counters().blocks_dropped, 2);
    assert_eq!(w.ask(Command::Fetch { reader: reader(), after: 0 }), Body::Refused(answer::GONE));
}

#[test]
fn blobs_are_kept_for_their_reader() {
    let mut w = World::new();
    let get = || BlobCapability::new(Secret::new([5; 32]));
    let body = vec![6; BLOB_LEN];
    let put = Command::BlobPut { put: writer(), get: get().id(), one_time: true, hours: 2, body: body.clone().into() };
    assert_eq!(w.ask(put), Body::Ok);
    let read = |n| Command::BlobGet { get: get(), reader: Secret::new([n; 32]) };
    assert_eq!(w.ask(read(1)), Body::Blob(body.clone().into()));
    assert_eq!(w.ask(read(1)), Body::Blob(body.into()));
    assert_eq!(w.ask(read(2)), Body::Refused(answer::TAKEN));
    assert_eq!(w.ask(Command::BlobDelete { put: writer() }), Body::Ok);
}

#[test]
fn an_inbox_waits_for_its_client_until_the_key_epoch_ends() {
    let mut w = World::new();
    assert_eq!(w.ask(create()), Body::Ok);
    w.event(ENTRY, Event::ClientGone { link: CLIENT });
    w.command(send(1), 1);
    assert!(w.delivered.is_empty());
    let again = ClientLink(8);
    let inbox = w.attach(again, 1);
    assert_eq!(inbox, w.inbox);
    assert_eq!(w.delivered.iter().map(|(link, _)| *link).collect::<Vec<_>>(), [again]);
    assert_eq!(w.answers(), [Body::Ok]);
    w.event(ENTRY, Event::ClientGone { link: again });
    w.command(send(2), 1);
    w.advance(KEY_EPOCH * 2);
    w.attach(again, 1);
    assert!(w.answers().is_empty(), "forgotten");
}

#[test]
fn every_bound_holds() {
    let mut bounds = Bounds { delayed: DelayBounds { packets: 2, ..DelayBounds::default() }, ..Bounds::default() };
    bounds.queues.pending = 2;
    bounds.inboxes = InboxBounds { inboxes: 2, per_link: 2, buffer: 1, buffered: 1 };
    let mut w = World::with(bounds, Admission::Open);
    for _ in 0..3 {
        let packet = w.packet(&FORTH, Duration::from_secs(9), Last::Queue, b"");
        w.receive(ENTRY, Source::Client(CLIENT), packet);
    }
    assert_eq!(w.core(ENTRY).counters().delay_full, 1);

    assert_eq!(w.ask(create()), Body::Ok);
    w.hold_stores = true;
    for n in 1..=3 {
        w.command(send(n), 1);
    }
    assert_eq!(w.answers(), [Body::Refused(answer::BUSY)]);
    w.command(subscribe(0), 2);
    assert_eq!(w.answers(), [Body::Refused(answer::BUSY)]);
    w.release_stores();
    assert_eq!(w.answers(), [Body::Ok, Body::Ok]);
    assert_eq!(w.core(QUEUES).counters().busy, 2);

    // Bytes are bounded, too: a message and its reply block are some 16 KB, and what is less goes on.
    let now = w.now;
    bounds.queues.pending = 100;
    bounds.queues.pending_bytes = 40_000;
    bounds.delayed.packets = 1;
    w.core(QUEUES).bound(now, bounds);
    w.hold_stores = true;
    for n in 4..=6 {
        w.command(send(n), 1);
    }
    assert_eq!(w.answers(), [Body::Refused(answer::BUSY)]);
    w.command(Command::Info { reader: reader() }, 1);
    w.release_stores();
    assert_eq!(w.answers().len(), 3);
    assert_eq!(w.core(QUEUES).counters().busy, 3);
    // A lower bound counts at once.
    assert_eq!(w.core(ENTRY).delayed(), 2);
    w.core(ENTRY).bound(now, bounds);
    assert_eq!((w.core(ENTRY).delayed(), w.core(ENTRY).counters().delay_full), (1, 2));

    w.event(ENTRY, Event::ClientGone { link: CLIENT });
    w.command(send(7), 1);
    w.command(send(8), 1);
    assert_eq!(w.core(ENTRY).counters().inbox_overflow, 1);
    w.attach(ClientLink(9), 2);
    w.event(ENTRY, Event::Attach { link: ClientLink(9), secret: Secret::new([3; 32]) });
    assert_eq!(w.core(ENTRY).counters().inboxes_full, 1);
}

#[test]
fn without_a_consensus_nothing_is_carried() {
    use posta_node::relay::{Relay, Settings};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;
    let mut w = World::new();
    let settings = Settings {
        relay: ENTRY,
        geometry: G,
        incarnation: INCARNATION,
        admission: Admission::Open,
        bounds: Bounds::default(),
    };
    w.nodes.get_mut(&ENTRY).unwrap().core = Relay::new(settings, Box::new(ChaCha20Rng::seed_from_u64(1)));
    let packet = w.packet(&FORTH, Duration::ZERO, Last::Queue, b"");
    assert!(w.receive(ENTRY, Source::Client(CLIENT), packet));
    assert_eq!(w.core(ENTRY).counters().illegal_route, 1);
    assert!(w.core(ENTRY).poll().is_none());
}
