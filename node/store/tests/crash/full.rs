//! A disk of 64 MiB that is really full: named answers, reads and acknowledgements go on, space comes back.

use std::fs;
use std::process::Command;
use std::time::Duration;

use posta_protocol::now::Now;
use posta_protocol::params::BOX_LEN;
use posta_store::Outcome::{Created, Done, Empty, Message, Refused, Repeated};
use posta_store::{Limits, Outcome, QueueOp, QueueStore, Refusal, RocksStore};
use tempfile::TempDir;

use crate::rig::{INCARNATION, ack, at, create, delete, queue, read, writer};

const DISK_MIB: u64 = 64;

/// A small file system of its own.
struct Tmpfs(TempDir);

impl Tmpfs {
    /// None where nobody may mount; that is said, and in CI it fails.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_MIB}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                let ci = ["CI", "POSTA_CI"].iter().any(|name| std::env::var_os(name).is_some());
                assert!(!ci, "mounting a tmpfs needs root: {other:?}");
                println!("skipped: mounting a tmpfs needs root");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        if !unmounted.is_ok_and(|s| s.success()) {
            println!("{} could not be unmounted", self.0.path().display());
        }
    }
}

fn body(n: u64) -> Box<[u8]> {
    let mut bytes = vec![0; BOX_LEN];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn send(n: u64) -> QueueOp {
    QueueOp::Send { writer: writer(2), sequence: n, body: body(n) }
}

/// Sends from `next` on until one is refused for want of space; gives the number of that one.
fn fill(store: &mut RocksStore, now: Now, mut next: u64) -> u64 {
    loop {
        match store.apply(now, &[send(next)])[0] {
            Outcome::Accepted { .. } => next += 1,
            Refused(Refusal::NoSpace) => return next,
            ref other => panic!("message {next}: {other:?}"),
        }
        assert!(next < 100_000, "the disk never fills");
    }
}

fn assert_held(store: &mut RocksStore, now: Now, numbers: std::ops::Range<u64>) {
    for n in numbers.clone() {
        let got = store.apply(now, &[read(1, n - 1)]).remove(0);
        let Message { sequence, body: held, .. } = got else { panic!("message {n} of {numbers:?} is lost: {got:?}") };
        assert!(sequence == n && held == body(n), "message {n} of {numbers:?} is damaged or lost");
    }
    assert_eq!(store.apply(now, &[read(1, numbers.end - 1)]), [Empty]);
}

#[test]
fn a_full_disk_of_64_mib_takes_acknowledgements_gives_space_back_and_loses_nothing() {
    let Some(tmpfs) = Tmpfs::mount() else { return };
    let limits = Limits { queue_quota: 100_000, min_free_bytes: 24 << 20, ..Limits::default() };
    let path = tmpfs.0.path().join("store");
    let mut store = RocksStore::open(&path, limits.clone(), INCARNATION).unwrap();
    let mut now = at(1);
    assert_eq!(store.apply(now, &[create(1, 2), create(3, 4)]), [Created, Created]);
    let no = Refused(Refusal::NoSpace);
    let (mut first, mut next) = (1, 1);
    // Short of space: nothing is taken in, the rest goes on, and an acknowledgement makes room, again and again.
    for round in 0..5 {
        let full = fill(&mut store, now, next);
        assert!(full >= next + 200, "round {round}: only {} messages fitted", full - next);
        next = full;
        assert!(store.writable(), "round {round}: the reserve was kept, so that no write failed");
        assert_eq!(
            store.apply(now, &[create(8, 9), send(next), send(next - 1), read(3, 0)]),
            [no.clone(), no.clone(), Repeated { queue: queue(1) }, Empty]
        );
        assert_held(&mut store, now, first..next);
        first = next - 3;
        assert_eq!(store.apply(now, &[ack(1, first - 1)]), [Done], "round {round}");
        store.sweep(now, 100);
    }
    drop(store);

    // A store that keeps no reserve, and somebody else's file: writes fail for real, in whatever file comes first.
    let limits = Limits { min_free_bytes: 0, ..limits };
    let mut store = RocksStore::open(&path, limits.clone(), INCARNATION).unwrap();
    let ballast = tmpfs.0.path().join("ballast");
    fs::write(&ballast, vec![1; 36 << 20]).unwrap();
    next = fill(&mut store, now, next);
    assert!(!store.writable());
    let outcomes = store.apply(now, &[send(next), read(1, next - 1), ack(1, first), delete(3), read(3, 0)]);
    assert_eq!(outcomes, [no.clone(), Empty, no.clone(), no, Empty], "reads go on");
    assert_held(&mut store, now, first..next);
    // There is space again: the store goes on by itself, and what it had refused is done when asked again.
    fs::remove_file(&ballast).unwrap();
    now = now + Duration::from_secs(3);
    assert_eq!(store.apply(now, &[ack(1, next - 4), delete(3)]), [Done, Done]);
    assert!(store.writable());
    // The message whose write failed may be there after all; it was never confirmed, and is not there twice.
    let outcome = store.apply(now, &[send(next)]).remove(0);
    assert!(matches!(outcome, Outcome::Accepted { .. } | Repeated { .. }), "{outcome:?}");
    assert_held(&mut store, now, next - 3..next + 1);
    drop(store);
    let mut store = RocksStore::open(&path, limits, INCARNATION).unwrap();
    assert_held(&mut store, now, next - 3..next + 1);
    assert_eq!(store.apply(now, &[read(3, 0)]), [Refused(Refusal::Gone)]);
}
