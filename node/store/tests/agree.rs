//! Random commands against a plain model, the in-memory store and RocksDB: all three must agree, across restarts,
//! sweeps, clock jumps, and repeats of earlier commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use posta_store::{Limits, Outcome, QueueOp};
use proptest::prelude::*;

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

fn op() -> impl Strategy<Value = QueueOp> {
    let (q, w, text) = (1..5_u8, 1..8_u8, "[ab]{0,3}");
    prop_oneof![
        3 => (q.clone(), w.clone()).prop_map(|(q, w)| create(q, w)),
        3 => (w.clone(), w.clone()).prop_map(|(i, w)| secure(i, w)),
        9 => (w.clone(), number(), text).prop_map(|(w, n, text)| send(w, n, &text)),
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
        4 => prop::collection::vec(any::<prop::sample::Index>(), 1..5).prop_map(Step::Again),
        2 => Just(Step::Sweep),
        1 => Just(Step::Restart),
        2 => prop_oneof![0..6, -3..3, -48..=48].prop_map(Step::Clock),
    ]
}

/// Whether `second` is what a repeat of a command may be answered that was answered `first`.
fn equivalent(first: &Outcome, second: &Outcome) -> bool {
    match (first, second) {
        (Outcome::Accepted { queue: a, .. }, Outcome::Repeated { queue: b }) => a == b,
        _ => first == second,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_stores_and_the_model_agree(steps in prop::collection::vec(step(), 1..50)) {
        let limits = Limits {
            queue_quota: 3,
            max_queues: 3,
            disk_quota_bytes: 7 * 130,
            message_ttl: HOUR * 4,
            queue_ttl: HOUR * 12,
            blob_ttl: HOUR * 4,
            ..limits()
        };
        let mut model = Model::new(limits.clone());
        let mut rigs = Rig::both(&limits);
        let mut hour = 1000_u32;
        let mut history: Vec<QueueOp> = Vec::new();
        // Two queues from the start, so that most commands find one.
        let start = Step::Batch(vec![create(1, 1), create(2, 2)]);
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
}
