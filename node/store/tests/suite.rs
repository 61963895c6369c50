//! What every store must do: each case runs against the in-memory store and against RocksDB.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use posta_protocol::params;
use posta_protocol::registry::answer;
use posta_store::Outcome::{Blob, Created, Done, Empty, Refused, Repeated};
use posta_store::Refusal::{BadCapability, Conflict, Expired, Full, Gone, NoSpace, OutOfWindow, Taken};
use posta_store::{Limits, MAX_SEQUENCE_AHEAD, Outcome, QueueOp, Refusal};

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/rig.rs"]
mod rig;
use rig::*;

fn each(limits: &Limits, case: impl Fn(&mut Rig)) {
    for mut rig in Rig::both(limits) {
        case(&mut rig);
    }
}

fn blob_of(text: &str) -> Outcome {
    Blob { body: text.as_bytes().into() }
}

#[test]
fn a_message_goes_in_is_read_and_acknowledged() {
    each(&limits(), |rig| {
        assert_eq!(rig.store.incarnation(), INCARNATION);
        let outcomes = rig.store.apply(
            at(1),
            &[
                create(1, 2),
                send(2, 1, "one"),
                send(2, 2, "two"),
                read(1, 0),
                read(1, 1),
                read(1, 2),
                ack(1, 1),
                read(1, 0),
            ],
        );
        let expected = [
            Created,
            accepted(1, 1),
            accepted(1, 2),
            message(1, "one", 1),
            message(2, "two", 1),
            Empty,
            Done,
            message(2, "two", 0),
        ];
        assert_eq!(outcomes, expected, "each operation of a batch sees those before it");
        rig.restart();
        assert_eq!(rig.one(1, read(1, 0)), message(2, "two", 0));
        assert_eq!(rig.one(1, QueueOp::Read { queue: queue(1), after: 0, skip: vec![2] }), Empty);
        assert_eq!(rig.one(1, read(1, u64::MAX)), Empty);
        assert_eq!(rig.one(1, ack(1, u64::MAX)), Done);
        assert_eq!(rig.one(1, read(1, 0)), Empty);
        assert_eq!(rig.one(1, send(2, 3, "three")), accepted(1, 3), "an ack reaches no further than what is there");
        assert_eq!(rig.store.apply(at(1), &[]), []);
    });
}

#[test]
fn reading_skips_what_is_asked_and_sees_overtaking_messages_in_order() {
    each(&limits(), |rig| {
        rig.store.apply(at(1), &[create(1, 2), send(2, 3, "three"), send(2, 1, "one")]);
        assert_eq!(rig.one(1, send(2, 2, "two")), accepted(1, 2));
        let skip = |skip: &[u64]| QueueOp::Read { queue: queue(1), after: 0, skip: skip.to_vec() };
        assert_eq!(rig.one(1, skip(&[])), message(1, "one", 2));
        assert_eq!(rig.one(1, skip(&[1, 2])), message(3, "three", 2));
        assert_eq!(rig.one(1, skip(&[3, 1])), message(2, "two", 2));
        assert_eq!(rig.one(1, skip(&[3, 1, 2])), Empty);
    });
}

#[test]
fn the_window_outlives_acks_and_restarts() {
    each(&limits(), |rig| {
        rig.store.apply(at(1), &[create(1, 2), send(2, 1, "a"), send(2, 3, "c")]);
        assert_eq!(rig.one(1, send(2, 1, "a")), Repeated { queue: queue(1) });
        assert_eq!(rig.one(1, send(2, 1, "b")), Refused(Conflict));
        rig.one(1, ack(1, 3));
        rig.restart();
        assert_eq!(rig.one(1, send(2, 1, "a")), Repeated { queue: queue(1) });
        assert_eq!(rig.one(1, send(2, 1, "b")), Repeated { queue: queue(1) }, "the body is gone, nothing to compare");
        assert_eq!(rig.one(1, send(2, 2, "late")), Refused(OutOfWindow), "acknowledged without having been there");
        assert_eq!(rig.one(1, send(2, 0, "zero")), Refused(OutOfWindow));
        assert_eq!(rig.one(1, send(2, 4 + MAX_SEQUENCE_AHEAD, "far")), Refused(OutOfWindow));
        assert_eq!(rig.one(1, send(2, u64::MAX, "far")), Refused(OutOfWindow));
        assert_eq!(rig.one(1, send(2, 100, "z")), accepted(1, 100));
        assert_eq!(rig.one(1, send(2, 36, "y")), Refused(OutOfWindow));
        assert_eq!(rig.one(1, send(2, 37, "y")), accepted(1, 37));
        assert_eq!(rig.one(1, send(2, 37, "y")), Repeated { queue: queue(1) });
        assert_eq!(rig.one(1, send(2, 3, "c")), Refused(OutOfWindow), "behind the window");
    });
}

#[test]
fn repeated_sends_in_any_order_store_each_message_once() {
    each(&limits(), |rig| {
        rig.one(1, create(1, 2));
        let mut seen = BTreeSet::new();
        for round in 0..4_u64 {
            for i in 0..60_u64 {
                let n = 1 + (i * 37 + round * 11) % 60; // 37 and 60 have no common divisor: all of 1..=60
                let expected = if seen.insert(n) { accepted(1, n) } else { Repeated { queue: queue(1) } };
                assert_eq!(rig.one(1, send(2, n, &n.to_string())), expected);
            }
            rig.restart();
        }
        for n in 1..=60 {
            assert_eq!(rig.one(1, read(1, n - 1)), message(n, &n.to_string(), 59));
        }
        assert_eq!(rig.one(1, read(1, 60)), Empty);
    });
}

#[test]
fn creating_is_idempotent_and_conflicts_are_named() {
    each(&limits(), |rig| {
        assert_eq!(rig.one(1, create(1, 2)), Created);
        assert_eq!(rig.one(1, create(1, 2)), Done);
        assert_eq!(rig.one(1, create(1, 3)), Refused(Conflict));
        assert_eq!(rig.one(1, create(4, 2)), Refused(Conflict));
        assert_eq!(rig.one(1, secure(2, 5)), Done);
        assert_eq!(rig.one(1, create(1, 2)), Done, "a late repeat after the queue was secured");
        assert_eq!(rig.one(1, create(1, 5)), Refused(Conflict));
        assert_eq!(rig.one(1, create(4, 2)), Refused(Conflict), "an invited hash stays in use");
    });
}

#[test]
fn the_first_writer_secures_a_queue_also_within_one_batch() {
    each(&limits(), |rig| {
        rig.store.apply(at(1), &[create(1, 2), send(2, 1, "by the invited one")]);
        let race =
            rig.store.apply(at(1), &[secure(2, 7), secure(2, 8), secure(2, 7), send(2, 2, "x"), send(8, 2, "x")]);
        assert_eq!(race, [Done, Refused(Taken), Done, Refused(BadCapability), Refused(BadCapability)]);
        rig.restart();
        assert_eq!(rig.one(1, secure(2, 7)), Done);
        assert_eq!(rig.one(1, secure(2, 8)), Refused(Taken));
        assert_eq!(rig.one(1, secure(7, 8)), Refused(BadCapability), "the writer's own capability invites no one");
        assert_eq!(rig.one(1, send(7, 2, "mine")), accepted(1, 2));
        assert_eq!(rig.one(1, send(2, 1, "by the invited one")), Refused(BadCapability));
        rig.one(1, create(3, 4));
        assert_eq!(rig.one(1, secure(4, 7)), Refused(Conflict), "a writer belongs to one queue");
        assert_eq!(rig.one(1, secure(4, 4)), Refused(Conflict));
    });
}

#[test]
fn unknown_and_wrong_capabilities_look_the_same() {
    each(&limits(), |rig| {
        rig.store.apply(at(1), &[create(1, 2), blob_put(3, 4, false, 5, "b")]);
        for op in [
            send(1, 1, "x"),
            send(9, 1, "x"),
            read(2, 0),
            read(9, 0),
            info(2),
            info(9),
            suspend(9),
            resume(9),
            extend(9),
            contact_send(9, 1, "x"),
            ack(2, 1),
            delete(2),
            delete(9),
            secure(9, 8),
            secure(1, 8),
            blob_get(3, 1),
            blob_get(9, 1),
            blob_delete(4),
            blob_delete(9),
            blob_delete(2),
        ] {
            assert_eq!(rig.one(1, op.clone()), Refused(BadCapability), "{op:?}");
        }
    });
}

#[test]
fn a_deleted_queue_is_gone_until_its_life_would_have_ended() {
    let limits = Limits { queue_ttl: HOUR * 10, ..limits() };
    each(&limits, |rig| {
        rig.store.apply(at(1), &[create(1, 2), secure(2, 3), send(3, 1, "x"), send(3, 2, "y")]);
        assert_eq!(rig.one(5, delete(1)), Done);
        rig.restart();
        for op in [read(1, 0), ack(1, 1), send(3, 1, "x"), send(3, 3, "z"), secure(2, 3), create(1, 2)] {
            assert_eq!(rig.one(5, op.clone()), Refused(Gone), "{op:?}");
        }
        assert_eq!(rig.one(5, send(2, 1, "x")), Refused(BadCapability));
        assert_eq!(rig.one(5, delete(1)), Done);
        rig.sweep(15);
        assert_eq!(rig.one(15, delete(1)), Done);
        rig.sweep(16);
        assert_eq!(rig.one(16, delete(1)), Refused(BadCapability));
        assert_eq!(rig.one(16, send(3, 1, "x")), Refused(BadCapability));
        assert_eq!(rig.one(16, create(1, 2)), Created);
        assert_eq!(rig.one(16, read(1, 0)), Empty, "nothing of the old queue came back");
        assert_eq!(rig.one(16, send(2, 1, "new")), accepted(1, 1));
    });
}

#[test]
fn other_limits_hold_from_then_on_and_take_nothing_away() {
    each(&Limits { queue_quota: 3, max_queues: 1, ..limits() }, |rig| {
        assert_eq!(rig.one(1, create(1, 11)), Created);
        for n in 1..=3 {
            assert_eq!(rig.one(1, send(11, n, "kept")), accepted(1, n));
        }
        assert_eq!(rig.one(1, create(2, 12)), Refused(NoSpace));
        rig.store.set_limits(Limits { queue_quota: 2, max_queues: 2, ..limits() });
        assert_eq!(rig.one(1, create(2, 12)), Created);
        assert_eq!(rig.one(1, send(11, 4, "more")), Refused(Full));
        assert_eq!(rig.one(1, read(1, 2)), message(3, "kept", 2), "what is held beyond them stays");
        assert_eq!(rig.one(1, ack(1, 2)), Done);
        assert_eq!(rig.one(1, send(11, 4, "more")), accepted(1, 4));
        assert_eq!(rig.one(1, send(11, 5, "too much")), Refused(Full));
    });
}

#[test]
fn quotas_give_named_answers_and_acks_make_room() {
    let limits =
        Limits { queue_quota: 3, max_queues: 2, max_body: 1000, disk_quota_bytes: 4 * (1000 + 128), ..limits() };
    let long = "m".repeat(1000);
    each(&limits, |rig| {
        assert_eq!(
            rig.store.apply(at(1), &[create(1, 11), create(2, 12), create(3, 13), create(1, 11)]),
            [Created, Created, Refused(NoSpace), Done]
        );
        for n in 1..=3 {
            assert_eq!(rig.one(1, send(11, n, &long)), accepted(1, n));
        }
        assert_eq!(rig.one(1, send(11, 4, &long)), Refused(Full));
        assert_eq!(rig.one(1, send(11, 3, &long)), Repeated { queue: queue(1) }, "a repeat takes no place");
        assert_eq!(rig.one(1, send(12, 1, &"m".repeat(1001))), Refused(NoSpace));
        assert_eq!(rig.one(1, blob_put(1, 1, false, 5, &long)), Done);
        rig.restart();
        assert_eq!(rig.one(1, send(12, 1, &long)), Refused(NoSpace));
        assert_eq!(rig.one(1, blob_put(2, 2, false, 5, &long)), Refused(NoSpace));
        assert_eq!(rig.one(1, ack(1, 1)), Done);
        assert_eq!(rig.one(1, send(12, 1, &long)), accepted(2, 1));
        assert_eq!(rig.one(1, send(11, 4, &long)), Refused(NoSpace));
        assert_eq!(rig.one(1, blob_delete(1)), Done);
        assert_eq!(rig.one(1, send(11, 4, &long)), accepted(1, 4));
        assert_eq!(rig.one(1, delete(1)), Done);
        for n in 2..=3 {
            assert_eq!(rig.one(1, send(12, n, &long)), accepted(2, n));
        }
        assert_eq!(rig.one(1, blob_put(2, 2, false, 5, &long)), Done);
    });
}

#[test]
fn an_expired_message_is_not_read_and_the_sweep_erases_it() {
    let limits = Limits { message_ttl: HOUR * 5, queue_quota: 3, ..limits() };
    each(&limits, |rig| {
        rig.store.apply(at(10), &[create(1, 2), send(2, 1, "a"), send(2, 2, "b")]);
        assert_eq!(rig.one(13, send(2, 3, "c")), accepted(1, 3));
        rig.sweep(15);
        assert_eq!(rig.one(15, read(1, 0)), message(1, "a", 2));
        assert_eq!(rig.one(16, read(1, 0)), message(3, "c", 2), "expired, though not erased yet");
        assert_eq!(rig.one(16, send(2, 1, "other")), Repeated { queue: queue(1) });
        assert_eq!(rig.one(16, send(2, 4, "d")), Refused(Full), "the sweep makes room, not the clock");
        rig.sweep(16);
        rig.restart();
        assert_eq!(rig.one(16, read(1, 0)), message(3, "c", 0));
        assert_eq!(rig.one(16, send(2, 4, "d")), accepted(1, 4));
        assert_eq!(rig.one(16, send(2, 1, "other")), Repeated { queue: queue(1) });
        rig.sweep(100);
        assert_eq!(rig.one(100, read(1, 0)), Empty);
        assert_eq!(rig.store.sweep(at(100), 10), 0);
    });
}

#[test]
fn messages_stored_after_the_clock_went_back_expire_too() {
    let limits = Limits { message_ttl: HOUR * 5, queue_quota: 1, ..limits() };
    each(&limits, |rig| {
        rig.store.apply(at(10), &[create(1, 2), send(2, 1, "a")]);
        rig.sweep(60);
        assert_eq!(rig.one(10, send(2, 2, "b")), accepted(1, 2), "the sweep at a wrong hour erased the first");
        rig.sweep(10);
        assert_eq!(rig.one(10, send(2, 3, "c")), Refused(Full));
        rig.sweep(16);
        assert_eq!(rig.one(16, send(2, 3, "c")), accepted(1, 3));
    });
}

#[test]
fn a_queue_lives_as_long_as_it_is_used() {
    let limits = Limits { queue_ttl: HOUR * 10, message_ttl: HOUR * 100, ..limits() };
    each(&limits, |rig| {
        rig.store.apply(at(1), &[create(1, 11), create(2, 12), create(3, 13), send(13, 1, "x")]);
        assert_eq!(rig.one(9, read(1, 0)), Empty);
        assert_eq!(rig.one(10, send(12, 1, "y")), accepted(2, 1));
        rig.restart();
        assert_eq!(rig.one(12, read(3, 0)), Refused(Expired), "before the sweep came by");
        assert_eq!(rig.one(12, send(13, 2, "x")), Refused(Expired));
        rig.sweep(12);
        assert_eq!(rig.one(12, read(3, 0)), Refused(BadCapability));
        assert_eq!(rig.one(12, send(13, 2, "x")), Refused(BadCapability));
        assert_eq!(rig.one(12, create(3, 13)), Created);
        assert_eq!(rig.one(12, read(3, 0)), Empty);
        rig.sweep(20);
        assert_eq!(rig.one(20, read(2, 0)), message(1, "y", 0));
        assert_eq!(rig.one(20, read(1, 0)), Refused(BadCapability));
    });
}

#[test]
fn a_sweep_is_bounded_and_says_whether_more_is_due() {
    let limits = Limits { message_ttl: HOUR, queue_ttl: HOUR * 1000, ..limits() };
    each(&limits, |rig| {
        for n in 1..=7 {
            rig.store.apply(at(1), &[create(n, 100 + n), send(100 + n, 1, "x"), send(100 + n, 2, "y")]);
        }
        assert_eq!([(); 4].map(|()| rig.store.sweep(at(3), 3)), [3, 3, 1, 0]);
        assert_eq!(rig.store.sweep(at(3), 0), 0);
        for n in 1..=7 {
            assert_eq!(rig.one(3, read(n, 0)), Empty);
        }
    });
}

#[test]
fn a_one_time_blob_belongs_to_its_first_reader() {
    each(&limits(), |rig| {
        rig.store.apply(at(1), &[blob_put(1, 2, true, 5, "once"), blob_put(3, 4, false, 5, "often")]);
        let race = rig.store.apply(at(1), &[blob_get(2, 7), blob_get(2, 8), blob_get(2, 7)]);
        assert_eq!(race, [blob_of("once"), Refused(Taken), blob_of("once")]);
        rig.restart();
        assert_eq!(rig.one(2, blob_get(2, 7)), blob_of("once"));
        assert_eq!(rig.one(2, blob_get(2, 8)), Refused(Taken));
        assert_eq!(rig.one(2, blob_put(1, 2, true, 5, "once")), Done, "a repeat doesn't unlock it");
        assert_eq!(rig.one(2, blob_get(2, 8)), Refused(Taken));
        assert_eq!([blob_get(4, 7), blob_get(4, 8)].map(|op| rig.one(2, op)), [blob_of("often"), blob_of("often")]);
    });
}

#[test]
fn blobs_are_idempotent_and_end() {
    let limits = Limits { blob_ttl: HOUR * 20, ..limits() };
    each(&limits, |rig| {
        assert_eq!(rig.one(1, blob_put(1, 2, false, 5, "b")), Done);
        for (op, expected) in [
            (blob_put(1, 2, false, 5, "b"), Done),
            (blob_put(1, 2, true, 5, "b"), Refused(Conflict)),
            (blob_put(1, 2, false, 6, "b"), Refused(Conflict)),
            (blob_put(1, 2, false, 5, "c"), Refused(Conflict)),
            (blob_put(9, 2, false, 5, "b"), Refused(Conflict)),
            (blob_put(1, 9, false, 5, "b"), Refused(Conflict)),
        ] {
            assert_eq!(rig.one(3, op), expected);
        }
        assert_eq!(rig.one(1, blob_put(3, 4, false, 1000, "capped")), Done);
        assert_eq!(rig.one(1, blob_put(5, 6, false, 5, "deleted")), Done);
        assert_eq!([blob_delete(5), blob_delete(5)].map(|op| rig.one(1, op)), [Done, Done]);
        rig.restart();
        assert_eq!(rig.one(1, blob_get(6, 1)), Refused(Gone));
        assert_eq!(rig.one(1, blob_put(5, 6, false, 5, "deleted")), Refused(Gone), "a late repeat revives nothing");
        assert_eq!(rig.one(6, blob_get(2, 1)), blob_of("b"));
        assert_eq!(rig.one(7, blob_get(2, 1)), Refused(Expired));
        rig.sweep(7);
        for op in [blob_get(2, 1), blob_get(6, 1), blob_delete(1), blob_delete(5)] {
            assert_eq!(rig.one(7, op), Refused(BadCapability));
        }
        assert_eq!(rig.one(21, blob_get(4, 1)), blob_of("capped"));
        rig.sweep(22);
        assert_eq!(rig.one(22, blob_get(4, 1)), Refused(BadCapability));
        assert_eq!(rig.one(22, blob_put(1, 2, true, 5, "again")), Done);
    });
}

#[test]
fn full_size_messages_come_back_whole() {
    each(&limits(), |rig| {
        rig.one(1, create(1, 2));
        let bodies: Vec<Box<[u8]>> = (0..100_u8).map(|n| vec![n; params::BOX_LEN].into()).collect();
        let sends: Vec<_> = (1..)
            .zip(&bodies)
            .map(|(sequence, body)| QueueOp::Send { writer: writer(2), sequence, body: body.clone() })
            .collect();
        for batch in sends.chunks(32) {
            let outcomes = rig.store.apply(at(1), batch);
            assert!(outcomes.iter().all(|o| matches!(o, Outcome::Accepted { .. })));
        }
        rig.restart();
        for (n, body) in (0..).zip(&bodies) {
            assert_eq!(rig.one(1, read(1, n)), Outcome::Message { sequence: n + 1, body: body.clone(), left: 99 });
        }
    });
}

#[test]
fn refusals_have_the_registrys_numbers() {
    for (refusal, code) in [
        (Full, answer::FULL),
        (NoSpace, answer::NO_SPACE),
        (Expired, answer::EXPIRED),
        (Refusal::Suspended, answer::SUSPENDED),
        (Gone, answer::GONE),
        (BadCapability, answer::BAD_CAPABILITY),
        (Taken, answer::TAKEN),
        (OutOfWindow, answer::OUT_OF_WINDOW),
        (Conflict, answer::CONFLICT),
        (Refusal::Busy, answer::BUSY),
    ] {
        assert_eq!(refusal.code(), code);
    }
}

#[test]
fn debug_output_holds_no_id_key_or_body() {
    let ops = [create(200, 201), secure(200, 201), send(200, 1, "\u{7f}text"), read(200, 0), ack(200, 1), delete(200)];
    let reader = [info(200), suspend(200), resume(200), extend(200), contact_send(200, 201, "\u{7f}text")];
    let more = [blob_put(200, 201, true, 1, "\u{7f}text"), blob_get(200, 201), blob_delete(200)];
    let outcomes =
        [accepted(200, 1), message(1, "\u{7f}text", 0), Repeated { queue: queue(200) }, blob_of("\u{7f}text")];
    let kinds = [stored(200, 1, 2), had(200, 1, 2)];
    let said = format!("{ops:?} {reader:?} {more:?} {outcomes:?} {kinds:?}");
    for forbidden in ["200", "201", "c8", "c9", "text", "127"] {
        assert!(!said.contains(forbidden), "{said} has {forbidden}");
    }
}
