//! Contact and bulk queues, and what a reader does to look after its queue: each case against both stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use posta_protocol::admission::QueueKind::{Bulk, Contact, Plain};
use posta_protocol::answer::Info;
use posta_store::Outcome::{Created, Done, Empty, Refused, Repeated};
use posta_store::Refusal::{BadCapability, Conflict, Expired, Full, Gone, OutOfWindow, Suspended, Taken};
use posta_store::{Limits, Outcome};

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/rig.rs"]
mod rig;
use rig::*;

fn each(limits: &Limits, case: impl Fn(&mut Rig)) {
    for mut rig in Rig::both(limits) {
        case(&mut rig);
    }
}

fn repeated(q: u8) -> Outcome {
    Repeated { queue: queue(q) }
}

#[test]
fn a_kind_is_for_life_and_takes_its_own_commands_only() {
    each(&limits(), |rig| {
        let made = rig.store.apply(at(1), &[create(1, 11), create_as(Contact, 2, 12), create_as(Bulk, 3, 13)]);
        assert_eq!(made, [Created, Created, Created]);
        rig.restart();
        for (q, kind) in [(1, Plain), (2, Contact), (3, Bulk)] {
            for other in [Plain, Contact, Bulk] {
                let expected = if other == kind { Done } else { Refused(Conflict) };
                assert_eq!(rig.one(1, create_as(other, q, 10 + q)), expected);
            }
        }
        assert_eq!(rig.one(1, send(12, 1, "x")), Refused(Conflict));
        assert_eq!(rig.one(1, contact_send(11, 1, "x")), Refused(Conflict));
        assert_eq!(rig.one(1, contact_send(13, 1, "x")), Refused(Conflict));
        assert_eq!(rig.one(1, secure(12, 22)), Refused(Conflict), "its writers share the capability");
        assert_eq!(rig.one(1, secure(13, 23)), Done);
        assert_eq!(rig.one(1, send(13, 1, "x")), Refused(BadCapability));
        assert_eq!(rig.one(1, send(23, 1, "x")), stored(3, 1, limits().bulk_quota - 1));
    });
}

#[test]
fn a_contact_queue_numbers_its_messages_and_takes_each_once() {
    each(&limits(), |rig| {
        rig.one(1, create_as(Contact, 1, 2));
        let race = [contact_send(2, 7, "a"), contact_send(2, 8, "b"), contact_send(2, 7, "a"), contact_send(2, 8, "c")];
        let outcomes = rig.store.apply(at(1), &race);
        assert_eq!(outcomes, [accepted(1, 1), accepted(1, 2), repeated(1), Refused(Conflict)]);
        rig.restart();
        assert_eq!(rig.one(1, contact_send(2, 7, "a")), repeated(1));
        assert_eq!(rig.one(1, read(1, 0)), message(1, "a", 1));
        assert_eq!(rig.one(1, ack(1, 1)), Done);
        assert_eq!(rig.one(1, contact_send(2, 7, "a")), repeated(1), "also after it was read and erased");
        assert_eq!(rig.one(1, contact_send(2, 7, "other")), repeated(1), "the body is gone, nothing to compare");
        assert_eq!(rig.one(1, contact_send(2, 9, "c")), accepted(1, 3));
        assert_eq!(rig.one(1, read(1, 2)), message(3, "c", 1));
    });
}

#[test]
fn a_contact_queue_remembers_its_latest_sixty_four_ids() {
    each(&limits(), |rig| {
        rig.one(1, create_as(Contact, 1, 2));
        for n in 1..=64 {
            assert_eq!(rig.one(1, contact_send(2, n, "x")), accepted(1, n.into()));
            assert_eq!(rig.one(1, ack(1, n.into())), Done);
        }
        rig.restart();
        for n in 1..=64 {
            assert_eq!(rig.one(1, contact_send(2, n, "x")), repeated(1));
        }
        assert_eq!(rig.one(1, contact_send(2, 65, "x")), accepted(1, 65));
        assert_eq!(rig.one(1, contact_send(2, 2, "x")), repeated(1));
        assert_eq!(rig.one(1, contact_send(2, 1, "x")), accepted(1, 66), "forgotten");
    });
}

#[test]
fn each_kind_has_its_quota_and_bulk_messages_a_life_of_their_own() {
    let limits = Limits {
        queue_quota: 2,
        contact_quota: 1,
        bulk_quota: 3,
        message_ttl: HOUR * 10,
        bulk_ttl: HOUR * 3,
        ..limits()
    };
    each(&limits, |rig| {
        rig.store.apply(at(1), &[create(1, 11), create_as(Contact, 2, 12), create_as(Bulk, 3, 13)]);
        assert_eq!(rig.one(1, send(11, 1, "p")), accepted(1, 1));
        assert_eq!(rig.one(1, send(11, 2, "p")), accepted(1, 2));
        assert_eq!(rig.one(1, send(11, 3, "p")), Refused(Full));
        assert_eq!(rig.one(1, contact_send(12, 1, "c")), accepted(2, 1));
        assert_eq!(rig.one(1, contact_send(12, 2, "c")), Refused(Full));
        assert_eq!(rig.one(1, contact_send(12, 1, "c")), repeated(2));
        for (n, through) in [(2, 0), (1, 2), (3, 3)] {
            assert_eq!(rig.one(1, send(13, n, "b")), stored(3, through, if n == 3 { 0 } else { n as u32 }));
        }
        assert_eq!(rig.one(1, send(13, 4, "b")), Refused(Full));
        assert_eq!(rig.one(1, send(13, 2, "b")), had(3, 3, 0));
        rig.sweep(5);
        assert_eq!(rig.one(5, read(3, 0)), Empty, "a bulk message lives three hours");
        assert_eq!(rig.one(5, send(13, 4, "b")), stored(3, 4, 2));
        assert_eq!(rig.one(5, read(1, 0)), message(1, "p", 1));
        assert_eq!(rig.one(5, read(2, 0)), message(1, "c", 0));
    });
}

#[test]
fn a_bulk_queue_says_how_far_it_has_come_and_passes_no_number_over() {
    let limits = Limits { bulk_quota: 200, ..limits() };
    each(&limits, |rig| {
        rig.one(1, create_as(Bulk, 1, 2));
        for n in 2..=64 {
            assert_eq!(rig.one(1, send(2, n, "x")), stored(1, 0, 201 - n as u32));
        }
        assert_eq!(rig.one(1, send(2, 65, "x")), Refused(OutOfWindow), "1 is missing");
        rig.restart();
        assert_eq!(rig.one(1, send(2, 1, "x")), stored(1, 64, 136));
        assert_eq!(rig.one(1, send(2, 129, "x")), Refused(OutOfWindow));
        assert_eq!(rig.one(1, send(2, 128, "x")), stored(1, 64, 135));
        assert_eq!(rig.one(1, send(2, 100, "x")), stored(1, 64, 134));
        assert_eq!(rig.one(1, send(2, 65, "x")), stored(1, 65, 133));
        assert_eq!(rig.one(1, send(2, 65, "x")), had(1, 65, 133));
        assert_eq!(rig.one(1, ack(1, 100)), Done);
        assert_eq!(rig.one(1, send(2, 99, "x")), Refused(OutOfWindow), "the reader has done without");
        assert_eq!(rig.one(1, send(2, 101, "x")), stored(1, 101, 198));
    });
}

#[test]
fn a_suspended_queue_refuses_writers_and_goes_on_reading() {
    each(&limits(), |rig| {
        rig.store.apply(at(1), &[create(1, 11), send(11, 1, "a"), create_as(Contact, 2, 12), contact_send(12, 1, "c")]);
        rig.store.apply(at(1), &[create_as(Bulk, 3, 13), secure(13, 23), send(23, 1, "b")]);
        for q in 1..=3 {
            assert_eq!([suspend(q), suspend(q)].map(|op| rig.one(1, op)), [Done, Done]);
        }
        rig.restart();
        for op in [send(11, 2, "a"), contact_send(12, 2, "c"), send(23, 2, "b"), secure(11, 21)] {
            assert_eq!(rig.one(1, op.clone()), Refused(Suspended), "{op:?}");
        }
        assert_eq!(rig.one(1, send(13, 2, "b")), Refused(BadCapability), "the capability is checked first");
        assert_eq!(rig.one(1, send(12, 2, "c")), Refused(Conflict), "and the kind");
        assert_eq!(rig.one(1, send(11, 1, "a")), repeated(1), "what was accepted stays so");
        assert_eq!(rig.one(1, contact_send(12, 1, "c")), repeated(2));
        assert_eq!(rig.one(1, send(23, 1, "b")), had(3, 1, limits().bulk_quota - 1));
        assert_eq!(rig.one(1, secure(13, 23)), Done);
        assert_eq!(rig.one(1, secure(13, 24)), Refused(Taken));
        assert_eq!(rig.one(1, create(1, 11)), Done);
        assert_eq!(rig.one(1, read(1, 0)), message(1, "a", 0));
        assert_eq!(rig.one(1, ack(1, 1)), Done);
        for q in 1..=3 {
            assert_eq!([resume(q), resume(q)].map(|op| rig.one(1, op)), [Done, Done]);
        }
        assert_eq!(rig.one(1, send(11, 2, "a")), accepted(1, 2));
        assert_eq!(rig.one(1, contact_send(12, 2, "c")), accepted(2, 2));
        assert_eq!(rig.one(1, secure(11, 21)), Done);
        assert_eq!(rig.one(1, suspend(1)), Done);
        assert_eq!(rig.one(1, delete(1)), Done);
        for op in [info(1), suspend(1), resume(1), extend(1), send(21, 3, "a")] {
            assert_eq!(rig.one(1, op.clone()), Refused(Gone), "{op:?}");
        }
    });
}

#[test]
fn info_says_how_a_queue_stands() {
    let limits = Limits { queue_quota: 5, queue_ttl: HOUR * 10, message_ttl: HOUR * 3, ..limits() };
    each(&limits, |rig| {
        let fresh = Info {
            kind: Plain,
            secured: false,
            suspended: false,
            retiring: false,
            held: 0,
            room: 5,
            highest: 0,
            acked: 0,
            hours: 11,
        };
        rig.one(1, create(1, 2));
        assert_eq!(rig.one(1, info(1)), Outcome::Info(fresh));
        rig.store
            .apply(at(1), &[secure(2, 3), send(3, 1, "a"), send(3, 5, "b"), send(3, 9, "c"), ack(1, 3), suspend(1)]);
        rig.restart();
        let later = Info { secured: true, suspended: true, held: 2, room: 3, highest: 9, acked: 3, ..fresh };
        assert_eq!(rig.one(2, info(1)), Outcome::Info(later), "asking is a use");
        rig.sweep(5);
        assert_eq!(rig.one(5, info(1)), Outcome::Info(Info { held: 0, room: 5, ..later }));
        rig.one(5, create_as(Contact, 4, 5));
        let contact = Info { kind: Contact, room: limits.contact_quota, ..fresh };
        assert_eq!(rig.one(5, info(4)), Outcome::Info(contact));
        assert_eq!(rig.one(16, info(1)), Refused(Expired));
    });
}

#[test]
fn extending_keeps_a_queue() {
    let limits = Limits { queue_ttl: HOUR * 10, ..limits() };
    each(&limits, |rig| {
        rig.store.apply(at(1), &[create(1, 11), create(2, 12)]);
        assert_eq!([extend(1), extend(1)].map(|op| rig.one(9, op)), [Done, Done]);
        assert_eq!(rig.one(5, extend(1)), Done, "a clock that went back shortens nothing");
        rig.restart();
        rig.sweep(19);
        assert_eq!(rig.one(19, read(2, 0)), Refused(BadCapability));
        assert_eq!(rig.one(19, extend(1)), Done);
        assert_eq!(rig.one(29, read(1, 0)), Empty);
    });
}
