//! SIGKILL at any moment: what was confirmed is there, once and in order; what was acknowledged or deleted stays away.
//! And a disk that is really full. One test at a time: each loads the whole machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use posta_store::RocksStore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "../shared/child.rs"]
mod child;
mod full;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "../shared/ledger.rs"]
mod ledger;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "../shared/rig.rs"]
mod rig;
mod space;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "../shared/work.rs"]
mod work;
use child::{End, Working, seed};
use ledger::Ledger;
use rig::{INCARNATION, at};

/// Confirmed facts after which a child is killed, at most: enough to flush a memtable of messages now and then.
const LONGEST: u64 = 6_000;

fn reopened(folder: &Path) -> RocksStore {
    RocksStore::open(folder, work::limits(), INCARNATION).expect("the store opens after a crash")
}

/// Not a test by itself.
#[test]
#[ignore = "the process that the others kill"]
fn as_a_child() {
    child::role();
}

/// Kills and reopens the same store again and again.
fn kill_again_and_again(test: &str, rounds: u32) {
    let seed = seed(test, 1);
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 1..=rounds {
        let mut child = Working::start(folder.path(), round, &ledger);
        // Every fifth while the store is being opened, or as good as.
        let when = if round % 5 == 0 { rng.next_u64() % 3 } else { rng.next_u64() % LONGEST };
        let end = child.watch(&mut ledger, when);
        child.kill(&mut ledger);
        assert_eq!(end, End::Enough, "round {round}, seed {seed}: the child went before it was killed");
        let checked = ledger.check(&mut reopened(folder.path()), at(round));
        assert_eq!(checked, Ok(()), "round {round}, seed {seed}");
    }
    println!("{rounds} kills, {} sends confirmed, {} messages held at the end, none lost", ledger.sends, ledger.found);
    assert!(ledger.sends > u64::from(rounds) * 100 && ledger.found > 64, "too little happened: {}", ledger.sends);
}

#[test]
fn nothing_confirmed_is_lost_when_the_process_is_killed_at_any_moment() {
    kill_again_and_again("nothing_confirmed_is_lost_when_the_process_is_killed_at_any_moment", 20);
}

#[test]
#[ignore = "minutes: make soak"]
fn two_hundred_kills_lose_nothing() {
    kill_again_and_again("two_hundred_kills_lose_nothing", 200);
}

/// The check itself: a store from which one confirmed message was taken, and one to which one came back, are caught.
#[test]
fn a_lost_and_a_returned_message_are_noticed() {
    use posta_store::{QueueOp, QueueStore};
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    let mut child = Working::start(folder.path(), 1, &ledger);
    let end = child.watch(&mut ledger, 500);
    child.kill(&mut ledger);
    assert_eq!(end, End::Enough);
    let mut store = reopened(folder.path());
    ledger.check(&mut store, at(1)).unwrap();
    let with_messages = ledger.stands().into_iter().find(|stand| stand.sent > stand.acked).expect("something is held");
    let name = with_messages.name;
    // Behind the clients' backs: one more than was acknowledged, and a message that none of them sent.
    store.apply(at(1), &[QueueOp::Ack { queue: name.queue(), up_to: with_messages.acked + 1 }]);
    let lost = ledger.check(&mut store, at(1));
    assert!(lost.as_ref().is_err_and(|what| what.contains("found")), "{lost:?}");
    let (writer, sequence) = (name.writer(), with_messages.sent + 2);
    store.apply(at(1), &[QueueOp::Send { writer, sequence, body: name.body(sequence) }]);
    let strange = ledger.check(&mut store, at(1));
    assert!(strange.is_err(), "a message that was never sent");
}
