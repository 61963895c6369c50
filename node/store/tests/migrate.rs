//! Stores of an older layout are brought up to date, whatever happens on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use posta_store::Outcome::{Done, Refused};
use posta_store::{OpenError, Outcome, QueueOp, QueueStore, Refusal, RocksStore, SCHEMA, backup_closed, restore};

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/rig.rs"]
mod rig;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/tmpfs.rs"]
mod tmpfs;
use rig::*;
use tmpfs::{Tmpfs, free_bytes};

/// Where the child of a test finds its store.
const STORE: &str = "POSTA_TEST_STORE";
const HOUR_NOW: u32 = 490_000;

fn body(n: u64, length: usize) -> Box<[u8]> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// A store as schema 1 wrote it: one secured queue with `count` messages, one without, one that was deleted, and blobs.
fn write_schema_1(path: &Path, count: u64, length: usize) {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let tables = ["default", "queues", "index", "messages", "blobs", "expiry"];
    let db = rocksdb::DB::open_cf(&options, path, tables).unwrap();
    let put = |table: &str, key: &[&[u8]], value: &[&[u8]]| {
        db.put_cf(db.cf_handle(table).unwrap(), key.concat(), value.concat()).unwrap();
    };
    let (used, end) = (HOUR_NOW.to_le_bytes(), (HOUR_NOW + 21 * 24 + 1).to_le_bytes());
    let queue_end = (HOUR_NOW + 90 * 24 + 1).to_be_bytes();
    put("default", &[b"store"], &[&1_u32.to_le_bytes(), &INCARNATION.0]);
    let bytes = count * (length as u64 + 128) + 2 * (100 + 128);
    put("default", &[b"totals"], &[&3_u64.to_le_bytes(), &bytes.to_le_bytes()]);
    // flags 1 secured, 2 deleted, 4 counts; writer, invited; used hour; highest, window, acked, held, filed hour.
    let counts = [count.to_le_bytes(), u64::MAX.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    let held = [(count as u32).to_le_bytes(), end].concat();
    put("queues", &[&[1; 32]], &[&[1 | 4], &[12; 32], &[11; 32], &used, &counts, &held]);
    put("queues", &[&[2; 32]], &[&[0], &[13; 32], &used]);
    put("queues", &[&[3; 32]], &[&[2], &[14; 32], &used]);
    for (w, q) in [(11_u8, 1_u8), (12, 1), (13, 2), (14, 3)] {
        put("index", &[&[1], &[w; 32]], &[&[q; 32]]);
    }
    for n in 1..=count {
        put("messages", &[&[1; 32], &n.to_be_bytes()], &[&end, &body(n, length)]);
    }
    put("expiry", &[&(HOUR_NOW + 21 * 24 + 1).to_be_bytes(), &[2], &[1; 32]], &[]);
    for q in 1..=3 {
        put("expiry", &[&queue_end, &[1], &[q; 32]], &[]);
    }
    // flags 1 one-time, 2 deleted, 4 locked; put; hours; end hour; body.
    let blob_end = HOUR_NOW + 5;
    for (p, g, flags, body) in [(21_u8, 31_u8, 0_u8, &body(31, 100)[..]), (22, 32, 1, &body(32, 100)), (23, 33, 3, &[])]
    {
        put("blobs", &[&[g; 32]], &[&[flags], &[p; 32], &4_u32.to_le_bytes(), &blob_end.to_le_bytes(), body]);
        put("index", &[&[2], &[p; 32]], &[&[g; 32]]);
        put("expiry", &[&blob_end.to_be_bytes(), &[3], &[g; 32]], &[]);
    }
}

/// All of it is there, and does what it did.
fn assert_whole(store: &mut RocksStore, count: u64, length: usize) {
    assert_eq!(store.incarnation(), INCARNATION);
    let now = at(HOUR_NOW);
    for n in 1..=count {
        let read = store.apply(now, &[read(1, n - 1)]).remove(0);
        assert!(
            matches!(&read, Outcome::Message { sequence, body: b, .. } if *sequence == n && *b == body(n, length)),
            "message {n}: {read:?}"
        );
    }
    let blob_of = |n, length| Outcome::Blob { body: body(n, length) };
    let ops = [blob_get(31, 1), blob_get(32, 1), blob_get(32, 2), blob_get(33, 1), delete(3), create(2, 13)];
    let refused = |r| Refused(r);
    let expected = [blob_of(31, 100), blob_of(32, 100), refused(Refusal::Taken), refused(Refusal::Gone), Done, Done];
    assert_eq!(store.apply(now, &ops), expected);
    let next = QueueOp::Send { writer: writer(12), sequence: count + 1, body: body(0, 10) };
    let last = QueueOp::Send { writer: writer(12), sequence: count, body: body(count, length) };
    let ops = [next, last, ack(1, count + 1), read(1, 0), delete(1)];
    let expected = [accepted(1, count + 1), Outcome::Repeated { queue: queue(1) }, Done, Outcome::Empty, Done];
    let quota = store.apply(now, &ops);
    assert_eq!(quota, expected);
}

fn limits() -> posta_store::Limits {
    posta_store::Limits { queue_quota: 100_000, ..rig::limits() }
}

fn open(path: &Path) -> Result<RocksStore, OpenError> {
    RocksStore::open(path, limits(), INCARNATION)
}

/// The schema's number, by looking into a copy.
fn schema(path: &Path) -> u32 {
    let copy = tempfile::tempdir().unwrap();
    copy_files(path, copy.path());
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, copy.path()).unwrap();
    let db = rocksdb::DB::open_cf(&options, copy.path(), names).unwrap();
    u32::from_le_bytes(db.get("store").unwrap().unwrap()[..4].try_into().unwrap())
}

fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn holds_plain_text(path: &Path, length: usize) -> bool {
    let known: Vec<_> = [1, 2, 9].iter().map(|n| body(*n, length)[..40].to_vec()).collect();
    fs::read_dir(path).unwrap().any(|file| {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        known.iter().any(|body| bytes.windows(40).any(|w| w == body))
    })
}

#[test]
fn a_store_of_schema_1_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    write_schema_1(folder.path(), 300, 8000);
    assert!(holds_plain_text(folder.path(), 8000));
    let mut store = open(folder.path()).unwrap();
    assert_eq!(schema(folder.path()), SCHEMA);
    assert!(!holds_plain_text(folder.path(), 8000), "what was not sealed has left the files");
    assert_whole(&mut store, 300, 8000);
    drop(store);
    assert!(open(folder.path()).is_ok());
}

#[test]
fn an_empty_store_of_schema_1_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    write_schema_1(folder.path(), 0, 0);
    let mut store = open(folder.path()).unwrap();
    assert_eq!(store.apply(at(HOUR_NOW), &[read(1, 0), send(13, 1, "new")]), [Outcome::Empty, accepted(2, 1)]);
}

#[test]
fn a_store_of_schema_1_can_be_backed_up_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (old, to, new) = (folder.path().join("old"), folder.path().join("backup"), folder.path().join("new"));
    fs::create_dir(&old).unwrap();
    write_schema_1(&old, 30, 1000);
    assert_eq!(backup_closed(&old, &to, HOUR_NOW).unwrap().queues, 3);
    assert_eq!(schema(&old), 1);
    restore(&to, &new, INCARNATION).unwrap();
    let mut store = open(&new).unwrap();
    let ops = [read(1, 0), send(12, 30, "again"), send(13, 1, "new"), delete(3)];
    assert_eq!(store.apply(at(HOUR_NOW), &ops), [Outcome::Empty, accepted(1, 30), accepted(2, 1), Done]);
}

#[test]
fn a_store_without_its_keys_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    fs::remove_file(folder.path().join("keys")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert_eq!(error, OpenError::NoKeys { path: folder.path().to_owned() });
    fs::write(folder.path().join("keys"), b"something else").unwrap();
    assert_eq!(open(folder.path()).unwrap_err(), error);
}

/// Not a test of its own: the process that is killed.
#[test]
#[ignore = "run by `killed_at_any_moment_it_goes_on`"]
fn child_that_migrates() {
    drop(open(Path::new(&std::env::var(STORE).unwrap())).unwrap());
}

fn child(store: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_migrates", "--ignored"])
        .env(STORE, store)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn bytes_in(path: &Path) -> u64 {
    // A file may go while we look.
    fs::read_dir(path).unwrap().filter_map(|e| Some(e.ok()?.metadata().ok()?.len())).sum()
}

#[test]
fn killed_at_any_moment_it_goes_on() {
    const COUNT: u64 = 8000;
    let folder = tempfile::tempdir().unwrap();
    write_schema_1(folder.path(), COUNT, 5000);
    let mut killed = 0;
    for round in 1..=20 {
        let before = bytes_in(folder.path());
        let mut child = child(folder.path());
        // It has sealed another round's worth: then it is killed.
        let done = loop {
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            if bytes_in(folder.path()) > before + (round << 20) {
                child.kill().unwrap();
                child.wait().unwrap();
                break false;
            }
            std::thread::yield_now();
        };
        if done {
            break;
        }
        killed += u32::from(schema(folder.path()) == 1);
    }
    assert!(killed >= 2, "killed in the middle {killed} times");
    assert_whole(&mut open(folder.path()).unwrap(), COUNT, 5000);
    assert_eq!(schema(folder.path()), SCHEMA);
}

#[test]
fn too_little_space_is_said_before_anything_is_changed() {
    let Some(tmpfs) = Tmpfs::mount(200) else { return };
    let path = tmpfs.path().join("store");
    fs::create_dir(&path).unwrap();
    write_schema_1(&path, 5000, 8000);
    let free = free_bytes(tmpfs.path());
    let ballast = tmpfs.path().join("ballast");
    fs::write(&ballast, vec![1; free as usize - (100 << 20)]).unwrap();
    let error = open(&path).unwrap_err();
    let OpenError::NoSpaceToMigrate { needed_mib, free_mib, .. } = error else { panic!("{error}") };
    assert!((160..250).contains(&needed_mib) && (80..=100).contains(&free_mib), "{error}");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert_eq!(schema(&path), 1);
    assert!(holds_plain_text(&path, 8000));
}
