//! Random commands against a plain model, the in-memory store and RocksDB: all three must agree, across restarts,
//! sweeps, clock jumps, and repeats of earlier commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use posta_protocol::admission::QueueKind;
use posta_store::{Limits, Outcome, QueueOp};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/model.rs"]
mod model;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/rig.rs"]
mod rig;
use model::Model;
use rig::*;

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<QueueOp>),
    /// Earlier commands once more, by place in the history.
    Again(Vec<prop::sample::Index>),
    Sweep,
    Restart,
    /// Hours forward or back.
    Clock(i32),
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..8_u64, 3 => 60..75_u64, 1 => Just(u64::MAX), 1 => (1_u64 << 20)..(1 << 20) + 3]
}

fn kind() -> impl Strategy<Value = QueueKind> {
    prop_oneof![2 => Just(QueueKind::Plain), 1 => Just(QueueKind::Contact), 1 => Just(QueueKind::Bulk)]
}

fn op() -> impl Strategy<Value = QueueOp> {
    let (q, w, text) = (1..5_u8, 1..8_u8, "[ab]{0,3}");
    prop_oneof![
        3 => (kind(), q.clone(), w.clone()).prop_map(|(kind, q, w)| create_as(kind, q, w)),
        3 => (w.clone(), w.clone()).prop_map(|(i, w)| secure(i, w)),
        9 => (w.clone(), number(), text).prop_map(|(w, n, text)| send(w, n, &text)),
        4 => (w.clone(), 0..4_u8, text).prop_map(|(w, id, text)| contact_send(w, id, &text)),
        2 => q.clone().prop_map(info),
        1 => q.clone().prop_map(suspend),
        2 => q.clone().prop_map(resume),
        1 => q.clone().prop_map(extend),
        6 => (q.clone(), number(), prop::collection::vec(number(), 0..3))
            .prop_map(|(q, after, skip)| QueueOp::Read { queue: queue(q), after, skip }),
        3 => (q.clone(), number()).prop_map(|(q, n)| ack(q, n)),
        1 => q.clone().prop_map(delete),
        2 => (w.clone(), q.clone(), any::<bool>(), 1..6_u32, text).prop_map(|(p, g, o, h, t)| blob_put(p, g, o, h, &t)),
        3 => (q, 1..3_u8).prop_map(|(g, r)| blob_get(g, r)),
        1 => w.prop_map(blob_delete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(op(), 1..8).prop_map(Step::Batch),
        // Large enough that RocksDB's records are read ahead, which they are after a restart.
        2 => prop::collection::vec(op(), 24..40).prop_map(Step::Batch),
        4 => prop::collection::vec(any::<prop::sample::Index>(), 1..5).prop_map(Step::Again),
        2 => Just(Step::Sweep),
        1 => Just(Step::Restart),
        2 => prop_oneof![0..6, -3..3, -48..=48].prop_map(Step::Clock),
    ]
}

/// Whether `second` is what a repeat of a command may be answered that was answered `first`.
fn equivalent(first: &Outcome, second: &Outcome) -> bool {
    match (first, second) {
        (Outcome::Created, Outcome::Done) => true,
        (Outcome::Accepted { queue: a, .. }, Outcome::Repeated { queue: b }) => a == b,
        (
            Outcome::Stored { queue: a, new: true, through: t, room: r },
            Outcome::Stored { queue, new: false, through, room },
        ) => (a, t, r) == (queue, through, room),
        _ => first == second,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_stores_and_the_model_agree(steps in prop::collection::vec(step(), 1..50)) {
        let limits = Limits {
            queue_quota: 3,
            contact_quota: 2,
            bulk_quota: 4,
            max_queues: 4,
            disk_quota_bytes: 7 * 130,
            message_ttl: HOUR * 4,
            bulk_ttl: HOUR * 2,
            queue_ttl: HOUR * 12,
            blob_ttl: HOUR * 4,
            ..limits()
        };
        let mut model = Model::new(limits.clone());
        let mut rigs = Rig::both(&limits);
        let mut hour = 1000_u32;
        let mut history: Vec<QueueOp> = Vec::new();
        // A queue of each kind from the start, so that most commands find one.
        let start = [create(1, 1), create_as(QueueKind::Contact, 2, 2), create_as(QueueKind::Bulk, 3, 3)];
        let start = Step::Batch(start.into());
        for step in core::iter::once(start).chain(steps) {
            let ops = match step {
                Step::Batch(ops) => ops,
                Step::Again(_) if history.is_empty() => continue,
                Step::Again(places) => places.iter().map(|place| place.get(&history).clone()).collect(),
                Step::Sweep => {
                    model.sweep(hour);
                    rigs.iter_mut().for_each(|rig| rig.sweep(hour));
                    continue;
                }
                Step::Restart => {
                    rigs.iter_mut().for_each(Rig::restart);
                    continue;
                }
                Step::Clock(hours) => {
                    hour = hour.saturating_add_signed(hours);
                    continue;
                }
            };
            let expected: Vec<_> = ops.iter().map(|op| model.apply(hour, op)).collect();
            for rig in &mut rigs {
                prop_assert_eq!(&rig.store.apply(at(hour), &ops), &expected, "{:?}", ops);
            }
            history.extend(ops);
        }
        // At last every command twice in a row: a repeat gives an equivalent answer, in both stores.
        for op in history {
            for rig in &mut rigs {
                let first = rig.one(hour, op.clone());
                let second = rig.one(hour, op.clone());
                prop_assert!(equivalent(&first, &second), "{:?}: {:?}, then {:?}", op, first, second);
            }
        }
    }
    /// What was done is done again in any order, as after lost answers: each is answered as it was, and nothing changes.
    #[test]
    fn repeats_in_any_order_change_nothing(
        ops in prop::collection::vec(unordered(), 1..60),
        order in any::<u64>(),
        hours_later in 0..3_u32,
    ) {
        let limits = Limits { queue_quota: 9, contact_quota: 9, bulk_quota: 9, ..limits() };
        for mut rig in Rig::both(&limits) {
            let mut done: Vec<(QueueOp, Outcome)> = vec![];
            for op in start().into_iter().chain(ops.clone()) {
                // No reader acknowledges what it can't have: said again, it would reach further.
                if let QueueOp::Ack { queue, up_to } = op
                    && matches!(rig.one(1000, QueueOp::Info { queue }), Outcome::Info(info) if info.highest < up_to)
                {
                    continue;
                }
                let outcome = rig.one(1000, op.clone());
                if !matches!(outcome, Outcome::Refused(_)) {
                    done.push((op, outcome));
                }
            }
            let before = everything(&mut rig, 1000 + hours_later);
            rig.restart();
            let mut rng = ChaCha20Rng::seed_from_u64(order);
            for _ in 0..2 * done.len() {
                let (op, first) = &done[(rng.next_u64() % done.len() as u64) as usize];
                let again = rig.one(1000 + hours_later, op.clone());
                let same = match (first, &again) {
                    // How the queue stands now.
                    (Outcome::Stored { queue: a, .. }, Outcome::Stored { queue: b, new: false, .. }) => a == b,
                    _ => equivalent(first, &again),
                };
                prop_assert!(same, "{:?}: {:?}, then {:?}", op, first, again);
            }
            prop_assert_eq!(everything(&mut rig, 1000 + hours_later), before);
            // Those that were accepted are answered so in a suspended queue, too.
            (1..=3).for_each(|q| drop(rig.one(1000, suspend(q))));
            for (op, first) in done.iter().filter(|(op, _)| matches!(op, QueueOp::Send { .. } | QueueOp::ContactSend { .. })) {
                let again = rig.one(1000 + hours_later, op.clone());
                prop_assert!(!matches!(again, Outcome::Refused(_)), "{:?}: {:?}, then {:?}", op, first, again);
            }
        }
    }
}

/// A queue of each kind; the ones with a writer are secured by another.
fn start() -> Vec<QueueOp> {
    let kinds = [QueueKind::Plain, QueueKind::Contact, QueueKind::Bulk];
    let mut ops: Vec<_> = (1..).zip(kinds).map(|(q, kind)| create_as(kind, q, q)).collect();
    ops.extend([secure(1, 11), secure(3, 13)]);
    ops
}

/// Commands whose repeats mean the same whatever came between; not those that take something back.
fn unordered() -> impl Strategy<Value = QueueOp> {
    let (q, text) = (1..4_u8, "[ab]{0,2}");
    let writer = prop_oneof![Just(11_u8), Just(13)];
    prop_oneof![
        1 => (kind(), q.clone(), 1..6_u8).prop_map(|(kind, q, w)| create_as(kind, q, w)),
        1 => (1..4_u8, 10..14_u8).prop_map(|(invited, w)| secure(invited, w)),
        8 => (writer, 1..20_u64, text).prop_map(|(w, n, text)| send(w, n, &text)),
        4 => (0..12_u8, text).prop_map(|(id, text)| contact_send(2, id, &text)),
        3 => (q.clone(), 0..20_u64).prop_map(|(q, n)| ack(q, n)),
        1 => q.clone().prop_map(extend),
        2 => (1..4_u8, 1..4_u8, any::<bool>(), text).prop_map(|(p, g, o, text)| blob_put(p, g, o, 9, &text)),
        2 => (1..4_u8, 1..3_u8).prop_map(|(g, r)| blob_get(g, r)),
    ]
}

/// All that readers can see.
fn everything(rig: &mut Rig, hour: u32) -> Vec<Outcome> {
    let mut seen = Vec::new();
    for q in 1..4 {
        seen.push(rig.one(hour, info(q)));
        let mut after = 0;
        while let Outcome::Message { sequence, body, left } = rig.one(hour, read(q, after)) {
            after = sequence;
            seen.push(Outcome::Message { sequence, body, left });
        }
        seen.push(rig.one(hour, blob_get(q, 1)));
    }
    seen
}
