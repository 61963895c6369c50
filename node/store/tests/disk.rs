//! What RocksDB adds: clear errors on opening, full disks, and nothing on disk that needn't be there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use posta_protocol::ids::Incarnation;
use posta_protocol::now::Now;
use posta_protocol::params::BOX_LEN;
use posta_protocol::secret::Secret;
use posta_store::Outcome::{Created, Done, Refused, Repeated};
use posta_store::{Limits, OpenError, Outcome, QueueOp, QueueStore, Refusal, RocksStore, SCHEMA, blob_lock};

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/rig.rs"]
mod rig;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/tmpfs.rs"]
mod tmpfs;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/watch.rs"]
mod watch;
use rig::*;
use tmpfs::{Tmpfs, free_bytes};
use watch::Watch;

fn open(path: &Path) -> Result<RocksStore, OpenError> {
    RocksStore::open(path, limits(), INCARNATION)
}

fn files(path: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|p| p.to_string_lossy().ends_with(ending));
    found
}

/// Changes the schema number of a store, with the tables given.
fn set_schema(path: &Path, schema: u32, tables: &[&str]) {
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(true);
    let db = rocksdb::DB::open_cf(&options, path, tables).unwrap();
    let mut record = db.get("store").unwrap().unwrap();
    record[..4].copy_from_slice(&schema.to_le_bytes());
    db.put("store", record).unwrap();
}

#[test]
fn the_incarnation_stays() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let again = RocksStore::open(folder.path(), limits(), Incarnation([0x22; 16])).unwrap();
    assert_eq!(again.incarnation(), INCARNATION);
    assert!(again.writable());
}

#[test]
fn a_store_says_how_it_stands_and_still_does_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    let health = store.health();
    assert_eq!((health.queues(), health.bytes(), health.writable()), (0, 0, true));
    assert_eq!(store.apply(at(1), &[create(1, 2), create(3, 4), send(2, 1, "0123456789")]).len(), 3);
    let bytes = health.bytes();
    assert!(health.queues() == 2 && bytes > 10, "{health:?}");
    assert!(health.free_bytes() > 0);
    drop(store);
    let mut store = open(folder.path()).unwrap();
    let health = store.health();
    assert_eq!((health.queues(), health.bytes()), (2, bytes), "before anything is asked of it");
    store.apply(at(1), &[ack(1, 1)]);
    assert_eq!((health.queues(), health.bytes()), (2, 0));
}

/// Table files of messages. Opening writes what the log holds into files, if there is anything to write.
fn message_files(path: &Path) -> usize {
    let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), path).unwrap();
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), path, names).unwrap();
    db.live_files().unwrap().iter().filter(|file| file.column_family_name == "messages").count()
}

#[test]
fn a_message_that_comes_and_goes_leaves_no_erasure_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    assert_eq!(store.apply(at(1), &[create(1, 1)]), [Created]);
    for n in 1..=20 {
        assert_eq!(store.apply(at(1), &[send(1, n, "text")]), [accepted(1, n)]);
    }
    assert_eq!(store.apply(at(1), &[ack(1, 3), ack(1, 20)]), [Done, Done]);
    drop(store);
    assert_eq!(message_files(folder.path()), 0);

    // The control, and the other order: one that was in a file is really gone from it.
    let mut store = open(folder.path()).unwrap();
    assert_eq!(store.apply(at(1), &[send(1, 21, "text")]), [accepted(1, 21)]);
    drop(store);
    assert_eq!(message_files(folder.path()), 1);
    let mut store = open(folder.path()).unwrap();
    assert_eq!(store.apply(at(1), &[read(1, 0)]), [message(21, "text", 0)]);
    assert_eq!(store.apply(at(1), &[ack(1, 21)]), [Done]);
    drop(store);
    let mut store = open(folder.path()).unwrap();
    assert_eq!(store.apply(at(1), &[read(1, 0), send(1, 21, "text")]), [Outcome::Empty, Repeated { queue: queue(1) }]);
}

#[test]
fn a_newer_schema_is_refused_with_or_without_new_tables() {
    let tables = ["default", "queues", "index", "messages", "blobs", "expiry", "seals", "more"];
    for tables in [&tables[..7], &tables[..]] {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        set_schema(folder.path(), SCHEMA + 1, tables);
        let error = open(folder.path()).unwrap_err();
        let path = folder.path().to_owned();
        assert_eq!(error, OpenError::Newer { path, found: SCHEMA + 1, known: SCHEMA });
        assert!(error.to_string().contains("newer version of Posta (schema 3, this version knows 2)"), "{error}");
        set_schema(folder.path(), SCHEMA, tables);
        assert_eq!(open(folder.path()).is_ok(), tables.len() == 7, "nothing was changed by refusing");
    }
}

#[test]
fn a_store_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    assert_eq!(open(folder.path()).unwrap_err(), OpenError::Locked { path: folder.path().to_owned() });
    drop(first);
    assert!(open(folder.path()).is_ok());
}

#[test]
fn a_folder_that_can_not_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = open(&folder.path().join("file/store")).unwrap_err();
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error}");
    assert!(error.to_string().contains("file/store"), "{error}");
}

#[test]
fn damage_is_named_and_never_skipped() {
    // A confirmed message lies in the middle of the log: cutting the log there would lose those behind it.
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    store.apply(at(1), &[create(1, 2)]);
    for n in 1..=50 {
        assert_eq!(store.apply(at(1), &[send(2, n, &"x".repeat(5000))]), [accepted(1, n)]);
    }
    drop(store);
    let log = files(folder.path(), ".log").into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let mut bytes = fs::read(&log).unwrap();
    assert!(bytes.len() > 200_000);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert_eq!(error, OpenError::Corrupted { path: folder.path().to_owned() });
    assert!(error.to_string().contains("damaged"), "{error}");
    bytes[middle] ^= 1;
    fs::write(&log, &bytes).unwrap();
    assert_eq!(
        open(folder.path()).unwrap().apply(at(1), &[send(2, 50, &"x".repeat(5000))]),
        [Repeated { queue: queue(1) }]
    );

    fs::remove_file(&files(folder.path(), ".sst")[0]).unwrap();
    assert_eq!(open(folder.path()).unwrap_err(), OpenError::Corrupted { path: folder.path().to_owned() });
}

#[test]
fn a_torn_end_of_the_log_is_what_a_crash_leaves_and_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    store.apply(at(1), &[create(1, 2), send(2, 1, "kept")]);
    store.apply(at(1), &[send(2, 2, "torn")]);
    drop(store);
    let log = files(folder.path(), ".log").into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let length = fs::metadata(&log).unwrap().len();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(length - 3).unwrap();
    let mut store = open(folder.path()).unwrap();
    assert_eq!(store.apply(at(1), &[read(1, 0), read(1, 1)]), [message(1, "kept", 0), Outcome::Empty]);
}

#[test]
fn the_disk_has_hashes_only_and_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    let reader = *b"a key that a first reader chose.";
    store.apply(at(1), &[blob_put(1, 2, true, 5, "blob")]);
    let got = store.apply(at(1), &[QueueOp::BlobGet { get: blob(2), lock: blob_lock(&Secret::new(reader)) }]);
    assert_eq!(got, [Outcome::Blob { body: b"blob"[..].into() }]);
    drop(store);
    drop(open(folder.path()).unwrap()); // Brings what the log held into table files.
    let all = files(folder.path(), "");
    assert!(all.iter().any(|p| p.extension().is_some_and(|e| e == "sst")));
    for path in all {
        assert!(!path.file_name().unwrap().to_string_lossy().starts_with("LOG"), "RocksDB keeps a log");
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(32).any(|w| w == reader), "{} has the reader's key", path.display());
    }
}

fn body(n: u64) -> Box<[u8]> {
    let mut bytes = vec![0; BOX_LEN];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn send_box(n: u64) -> QueueOp {
    QueueOp::Send { writer: writer(2), sequence: n, body: body(n) }
}

/// Sends from `next` on until one is refused for want of space; gives the number of that one.
fn fill(store: &mut RocksStore, now: Now, mut next: u64) -> u64 {
    loop {
        match store.apply(now, &[send_box(next)])[0] {
            Outcome::Accepted { .. } => next += 1,
            Refused(Refusal::NoSpace) => return next,
            ref other => panic!("message {next}: {other:?}"),
        }
        assert!(next < 100_000, "the disk never fills");
    }
}

fn assert_held(store: &mut RocksStore, now: Now, numbers: std::ops::Range<u64>) {
    for n in numbers.clone() {
        let read = store.apply(now, &[read(1, n - 1)]).remove(0);
        let Outcome::Message { sequence, body: got, .. } = read else { panic!("message {n} is lost: {read:?}") };
        assert!(sequence == n && got == body(n), "message {n} of {numbers:?} is damaged or lost");
    }
}

#[test]
fn short_of_space_nothing_is_taken_in_and_acks_give_it_back() {
    let Some(tmpfs) = Tmpfs::mount(128) else { return };
    let limits = Limits { queue_quota: 100_000, min_free_bytes: 48 << 20, ..Limits::default() };
    let path = tmpfs.path().join("store");
    let mut store = RocksStore::open(&path, limits.clone(), INCARNATION).unwrap();
    let now = at(1);
    assert_eq!(store.apply(now, &[create(1, 2)]), [Created]);
    let mut first = 1;
    let mut next = 1;
    for _ in 0..3 {
        let full = fill(&mut store, now, next);
        assert!(full > next + 500, "only {} messages fitted", full - next);
        next = full;
        assert!(store.writable(), "the reserve was kept, so that no write failed");
        assert_eq!(
            store.apply(now, &[create(8, 9), send_box(next - 1)]),
            [Refused(Refusal::NoSpace), Repeated { queue: queue(1) }]
        );
        assert_held(&mut store, now, first..next);
        first = next - 3;
        assert_eq!(store.apply(now, &[ack(1, first - 1)]), [Done]);
        store.sweep(now, 100);
    }
    drop(store);
    let mut store = RocksStore::open(&path, limits, INCARNATION).unwrap();
    assert_held(&mut store, now, first..next);
    assert_eq!(store.apply(now, &[read(1, 0), send_box(1)])[1], Refused(Refusal::OutOfWindow));
}

#[test]
fn a_disk_that_is_really_full_loses_nothing_and_the_store_goes_on() {
    let Some(tmpfs) = Tmpfs::mount(160) else { return };
    let watch = Watch::default();
    watch.listen(|| fill_three_times(&tmpfs));
    // Each round the store stopped taking writes, and said so; and went on, and said so.
    assert_eq!(*watch.gauge.lock().unwrap(), [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
    assert_eq!(watch.count("ERROR message=the disk takes no writes: the queue store only reads until it does"), 3);
    assert_eq!(watch.count("INFO message=the disk takes writes again; the queue store goes on"), 3);
}

fn fill_three_times(tmpfs: &Tmpfs) {
    let ballast = tmpfs.path().join("ballast");
    let limits = Limits { queue_quota: 100_000, min_free_bytes: 0, ..Limits::default() };
    let path = tmpfs.path().join("store");
    let mut store = RocksStore::open(&path, limits.clone(), INCARNATION).unwrap();
    let mut now = at(1);
    assert_eq!(store.apply(now, &[create(1, 2)]), [Created]);
    let mut next = 1;
    for round in 0..3 {
        // Each round fills another kind of file first: the log, a memtable on its way to a table, a compaction.
        let free = free_bytes(tmpfs.path());
        fs::write(&ballast, vec![1; (free as usize).saturating_sub((6 + 9 * round) << 20)]).unwrap();
        next = fill(&mut store, now, next);
        let outcomes =
            store.apply(now, &[send_box(next), read(1, next - 1), ack(1, 1), send_box(next - 1), create(1, 2)]);
        let no = Refused(Refusal::NoSpace);
        assert_eq!(outcomes, [no.clone(), Outcome::Empty, no, Repeated { queue: queue(1) }, Done], "reads go on");
        assert!(!store.writable());
        assert_held(&mut store, now, 1..next);
        fs::remove_file(&ballast).unwrap();
        now = now + Duration::from_secs(3);
        let outcome = store.apply(now, &[send_box(next)]).remove(0);
        // A batch that failed between log and sync may be there after all; it was never confirmed, and is not twice.
        assert!(matches!(outcome, Outcome::Accepted { .. } | Repeated { .. }), "{outcome:?}");
        assert!(store.writable());
        next += 1;
        assert_held(&mut store, now, 1..next);
    }
    drop(store);
    let mut store = RocksStore::open(&path, limits, INCARNATION).unwrap();
    assert_held(&mut store, now, 1..next);
    assert_eq!(store.apply(now, &[ack(1, next)]), [Done]);
    assert_eq!(store.apply(now, &[read(1, 0)]), [Outcome::Empty]);
}

#[test]
fn opening_on_a_full_disk_says_so() {
    let Some(tmpfs) = Tmpfs::mount(8) else { return };
    let path = tmpfs.path().join("store");
    fs::create_dir(&path).unwrap();
    let free = free_bytes(tmpfs.path());
    fs::write(tmpfs.path().join("ballast"), vec![1; free as usize]).unwrap();
    assert_eq!(open(&path).unwrap_err(), OpenError::NoSpace { path: path.clone() });
}

#[test]
fn a_read_only_file_system_is_named() {
    let Some(tmpfs) = Tmpfs::mount(8) else { return };
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(tmpfs.path()).status().unwrap();
    assert!(remounted.success());
    let error = open(tmpfs.path()).unwrap_err();
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error}");
}
