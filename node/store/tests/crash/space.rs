//! Space comes back by itself: after an acknowledgement, a delete, and when messages and queues end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use posta_protocol::params::BOX_LEN;
use posta_store::Outcome::{Created, Done};
use posta_store::{Limits, Outcome, QueueOp, QueueStore, RocksStore};

use crate::rig::{HOUR, INCARNATION, ack, at, create, delete, writer};

/// Messages of each kind of end: 56 MB.
const MESSAGES: u64 = 5_120;
/// In how long the compactions must be through, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

fn bytes(path: &Path) -> u64 {
    // A file may go between being listed and being looked at.
    fs::read_dir(path).unwrap().filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

fn fill(store: &mut RocksStore, hour: u32, w: u8) {
    let mut seed = blake3::Hasher::new_derive_key("test space").update(&[w]).finalize_xof();
    for batch in 0..MESSAGES / 64 {
        let send = |n| {
            let mut body = vec![0; BOX_LEN];
            seed.fill(&mut body);
            QueueOp::Send { writer: writer(w), sequence: batch * 64 + n, body: body.into() }
        };
        let sends: Vec<_> = (1..=64).map(send).collect();
        assert!(store.apply(at(hour), &sends).iter().all(|o| matches!(o, Outcome::Accepted { .. })));
    }
}

/// Sweeps until the folder is small.
#[expect(clippy::disallowed_methods, reason = "a deadline for what runs in the background")]
fn shrinks(store: &mut RocksStore, path: &Path, hour: u32, what: &str) {
    let held = bytes(path);
    assert!(held > MESSAGES * BOX_LEN as u64, "{what}: only {held} bytes");
    let start = Instant::now();
    // What has ended is worked off first, however slow that is.
    while store.sweep(at(hour), 64) == 64 {}
    while bytes(path) > held / 5 {
        store.sweep(at(hour), 64);
        assert!(start.elapsed() < PATIENCE, "{what}: {} of {held} bytes are still there", bytes(path));
        std::thread::yield_now();
    }
    println!("{what}: {held} bytes, then {} after {:?}", bytes(path), start.elapsed());
}

#[test]
fn space_comes_back_after_ack_delete_and_expiry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let limits = Limits {
        queue_quota: 100_000,
        min_free_bytes: 0,
        message_ttl: HOUR * 10,
        queue_ttl: HOUR * 20,
        ..Limits::default()
    };
    let mut store = RocksStore::open(path, limits, INCARNATION).unwrap();
    let creates: Vec<_> = (1..=4).map(|n| create(n, 10 + n)).collect();
    assert_eq!(store.apply(at(1), &creates), [Created, Created, Created, Created]);
    fill(&mut store, 1, 11);
    assert_eq!(store.apply(at(1), &[ack(1, MESSAGES)]), [Done]);
    shrinks(&mut store, path, 1, "acknowledged");
    fill(&mut store, 1, 12);
    assert_eq!(store.apply(at(1), &[delete(2)]), [Done]);
    shrinks(&mut store, path, 1, "deleted");
    fill(&mut store, 1, 13);
    shrinks(&mut store, path, 13, "messages ended");
    fill(&mut store, 20, 14);
    shrinks(&mut store, path, 80, "queues ended");
}
