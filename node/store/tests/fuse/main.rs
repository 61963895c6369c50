//! Power cuts and failing writes, on a file system of our own that forgets what was not synced.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use fuser::BackgroundSession;
use posta_protocol::params::BOX_LEN;
use posta_store::Outcome::{Accepted, Created, Done, Empty, Message, Refused, Repeated};
use posta_store::{QueueOp, QueueStore, Refusal, RocksStore};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::TempDir;

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "../shared/child.rs"]
mod child;
mod files;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "../shared/ledger.rs"]
mod ledger;
mod platter;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "../shared/rig.rs"]
mod rig;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "../shared/work.rs"]
mod work;
use child::{End, Working, seed};
use files::Disk;
use ledger::Ledger;
use rig::{INCARNATION, ack, at, create, read, writer};

/// Confirmed facts after which the power is cut, at most.
const LONGEST: u64 = 3_000;

/// Not a test by itself.
#[test]
#[ignore = "the process that the others kill"]
fn as_a_child() {
    child::role();
}

/// A disk where it is mounted.
struct Mounted {
    session: Option<BackgroundSession>,
    disk: Disk,
    folder: TempDir,
}

impl Mounted {
    /// None without /dev/fuse, or where nobody may mount; that is said, and in CI it fails.
    fn new(lies: bool) -> Option<Self> {
        let (disk, folder) = (Disk::new(lies), tempfile::tempdir().unwrap());
        match disk.mount(folder.path()) {
            Ok(session) => Some(Self { session: Some(session), disk, folder }),
            Err(e) => {
                let ci = ["CI", "POSTA_CI"].iter().any(|name| std::env::var_os(name).is_some());
                assert!(!ci, "this test needs /dev/fuse and the right to mount: {e}");
                println!("skipped: this test needs /dev/fuse and the right to mount ({e})");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// After [`platter::Platter::cut`]: unmounts, loses what was not synced, mounts again.
    fn power_on(&mut self, torn: Option<&mut ChaCha20Rng>) {
        match self.session.take().unwrap().umount_and_join() {
            // The kernel had let go of the connection before the session looked: unmounted it is.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => {}
            ended => ended.unwrap(),
        }
        self.disk.platter().restore(torn);
        self.session = Some(self.disk.mount(self.folder.path()).unwrap());
    }

    fn open(&self) -> RocksStore {
        RocksStore::open(self.path(), work::limits(), INCARNATION).expect("the store opens after a power cut")
    }
}

/// Cuts the power again and again, every other time torn.
fn cut_again_and_again(test: &str, rounds: u32) {
    let seed = seed(test, 1);
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let Some(mut mounted) = Mounted::new(false) else { return };
    let mut ledger = Ledger::default();
    for round in 1..=rounds {
        let mut child = Working::start(mounted.path(), round, &ledger);
        let when = if round % 5 == 0 { rng.next_u64() % 3 } else { rng.next_u64() % LONGEST };
        let end = child.watch(&mut ledger, when);
        mounted.disk.platter().cut();
        child.kill(&mut ledger);
        assert_eq!(end, End::Enough, "round {round}, seed {seed}: the child went before the cut");
        mounted.power_on(if round % 2 == 0 { Some(&mut rng) } else { None });
        let checked = ledger.check(&mut mounted.open(), at(round));
        assert_eq!(checked, Ok(()), "round {round}, seed {seed}");
    }
    let syncs = mounted.disk.platter().syncs;
    println!("{rounds} power cuts, {} sends confirmed, {syncs} syncs, {} messages held", ledger.sends, ledger.found);
    assert!(ledger.sends > u64::from(rounds) * 100 && ledger.found > 64, "too little happened: {}", ledger.sends);
}

#[test]
fn nothing_confirmed_is_lost_when_the_power_goes_at_any_moment() {
    cut_again_and_again("nothing_confirmed_is_lost_when_the_power_goes_at_any_moment", 10);
}

#[test]
#[ignore = "minutes: make soak"]
fn two_hundred_power_cuts_lose_nothing() {
    cut_again_and_again("two_hundred_power_cuts_lose_nothing", 200);
}

/// The check itself: a disk that says it has synced and hasn't must be caught.
#[test]
fn a_disk_that_lies_about_syncing_is_caught() {
    let Some(mut mounted) = Mounted::new(true) else { return };
    let mut ledger = Ledger::default();
    let mut child = Working::start(mounted.path(), 1, &ledger);
    assert_eq!(child.watch(&mut ledger, 500), End::Enough);
    mounted.disk.platter().cut();
    child.kill(&mut ledger);
    mounted.power_on(None);
    let found = RocksStore::open(mounted.path(), work::limits(), INCARNATION)
        .map_err(|e| e.to_string())
        .and_then(|mut store| ledger.check(&mut store, at(1)));
    assert!(found.is_err(), "{} sends were confirmed by a disk that kept nothing", ledger.sends);
}

fn body(n: u64) -> Box<[u8]> {
    let mut bytes = vec![0; BOX_LEN];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn send(n: u64) -> QueueOp {
    QueueOp::Send { writer: writer(2), sequence: n, body: body(n) }
}

fn assert_held(store: &mut RocksStore, hour: u32, numbers: std::ops::Range<u64>) {
    for n in numbers.clone() {
        let got = store.apply(at(hour), &[read(1, n - 1)]).remove(0);
        let Message { sequence, body: held, .. } = got else { panic!("message {n} of {numbers:?} is lost: {got:?}") };
        assert!(sequence == n && held == body(n), "message {n} of {numbers:?} is damaged or lost");
    }
    // The one whose write failed may be there.
    let behind = store.apply(at(hour), &[read(1, numbers.end - 1)]).remove(0);
    assert!(
        behind == Empty
            || matches!(behind, Message { sequence, left, .. } if sequence == numbers.end && u64::from(left) == sequence - 1)
    );
}

/// Writes and syncs begin to fail at a moment that the seed chooses: in the log, in a flush, in the folder.
fn fail_and_heal(seed: u64, cases: u64) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    for case in 1..=cases {
        let Some(mut mounted) = Mounted::new(false) else { return };
        let limits = posta_store::Limits { queue_quota: 100_000, ..work::limits() };
        let open = |path: &Path| RocksStore::open(path, limits.clone(), INCARNATION).unwrap();
        let mut store = open(mounted.path());
        let mut now = at(1);
        assert_eq!(store.apply(now, &[create(1, 2)]), [Created]);
        let mut next = 1;
        for fault in 0..3 {
            let place = format!("seed {seed}, case {case}, fault {fault}");
            // Few changes: in a command's own write. Many: a flush and what follows it come into it, too.
            let after = if rng.next_u64() % 2 == 0 { rng.next_u64() % 12 } else { rng.next_u64() % 9_000 };
            mounted.disk.platter().fail_after(after);
            loop {
                match store.apply(now, &[send(next)]).remove(0) {
                    Accepted { .. } => next += 1,
                    Refused(Refusal::NoSpace) => break,
                    other => panic!("{place}: {other:?}"),
                }
            }
            assert!(!store.writable() && mounted.disk.platter().faults > 0, "{place}");
            let outcomes = store.apply(now, &[send(next), ack(1, next), create(1, 2), read(1, next - 1)]);
            let no = || Refused(Refusal::NoSpace);
            assert_eq!(outcomes, [no(), if next > 1 { no() } else { Done }, Done, Empty], "{place}: reads go on");
            assert_held(&mut store, 1, 1..next);
            // It works again, but not for long enough: what can be read stays readable.
            mounted.disk.platter().fail_after(rng.next_u64() % 24);
            now = now + Duration::from_secs(3);
            store.apply(now, &[create(8, 9)]);
            assert_held(&mut store, 1, 1..next);
            mounted.disk.platter().heal();
            now = now + Duration::from_secs(3);
            // The send whose write failed may be there; it was never confirmed, and is not there twice.
            let outcome = store.apply(now, &[send(next)]).remove(0);
            assert!(matches!(outcome, Accepted { .. } | Repeated { .. }), "{place}: {outcome:?}");
            assert!(store.writable(), "{place}");
            next += 1;
            // What a failed sync has lost must lie elsewhere by now.
            mounted.disk.platter().cut();
            drop(store);
            mounted.power_on(None);
            store = open(mounted.path());
            assert_held(&mut store, 1, 1..next);
        }
        drop(store);
    }
}

#[test]
fn a_disk_that_fails_to_write_is_refused_named_and_survived() {
    fail_and_heal(seed("a_disk_that_fails_to_write_is_refused_named_and_survived", 1), 4);
}

#[test]
#[ignore = "minutes: make soak"]
fn a_hundred_disks_that_fail_to_write_lose_nothing() {
    fail_and_heal(seed("a_hundred_disks_that_fail_to_write_lose_nothing", 2), 100);
}
