//! Backups, and what a store that was made from one does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use posta_protocol::admission::QueueKind;
use posta_protocol::ids::{Incarnation, QueueId, WriterId};
use posta_store::Outcome::{Created, Done, Empty, Refused, Repeated};
use posta_store::{
    BackupError, Outcome, QueueOp, QueueStore, Refusal, Report, RestoreError, RocksStore, SCHEMA, backup_closed,
    restore,
};
use tempfile::TempDir;

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/rig.rs"]
mod rig;
use rig::*;

const FRESH: Incarnation = Incarnation([0x33; 16]);
const NOW: u32 = 490_000;

fn open(path: &Path) -> RocksStore {
    rocks(path, &limits())
}

/// A store with three queues: one in use, one deleted, one new; and two blobs.
fn store_at(path: &Path) -> RocksStore {
    let mut store = open(path);
    let ops = [create(1, 11), secure(11, 12), create(2, 21), send(21, 1, "deleted"), delete(2), create(3, 31)];
    assert!(store.apply(at(NOW), &ops).iter().all(|o| !matches!(o, Refused(_))));
    for n in 1..=9 {
        store.apply(at(NOW), &[send(12, n, &format!("body {n} of the first queue"))]);
    }
    store.apply(at(NOW), &[ack(1, 4), blob_put(41, 51, true, 20, "invitation"), blob_get(51, 1)]);
    store
}

fn restored(from: &Path) -> (TempDir, RocksStore) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    restore(from, &path, FRESH).unwrap();
    let store = RocksStore::open(&path, limits(), INCARNATION).unwrap();
    assert_eq!(store.incarnation(), FRESH, "in every answer from now on");
    (folder, store)
}

#[test]
fn a_restored_store_has_the_queues_and_none_of_the_messages() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store_at(&folder.path().join("store"));
    let to = folder.path().join("backup");
    let report = store.backups().write(&to, NOW).unwrap();
    assert_eq!(report, Report { queues: 3, hour: NOW });
    // Afterwards: all acknowledged, one queue deleted, one made, more sent.
    store.apply(at(NOW + 1), &[ack(1, 9), delete(3), create(4, 61), send(12, 10, "after the backup")]);

    let (_folder, mut store) = restored(&to);
    let mut apply = |ops: &[QueueOp]| store.apply(at(NOW + 2), ops);
    assert_eq!(
        apply(&[read(1, 0), read(1, 4), read(2, 0)]),
        [Empty, Empty, Refused(Refusal::Gone)],
        "nothing comes back"
    );
    // The writer sends what its reader has not confirmed, under the same numbers, from before the backup and after it.
    assert_eq!(apply(&[secure(11, 12), send(12, 3, "read long ago")])[..], [Done, Repeated { queue: queue(1) }]);
    for n in 5..=10 {
        let body = format!("again {n}");
        assert_eq!(apply(&[send(12, n, &body), send(12, n, &body)]), [accepted(1, n), Repeated { queue: queue(1) }]);
    }
    assert_eq!(
        apply(&[read(1, 0), read(1, 9), ack(1, 7), read(1, 0)]),
        [message(5, "again 5", 5), message(10, "again 10", 5), Done, message(8, "again 8", 2)]
    );
    // One that was deleted later is there again, with nothing in it; one that was made later can be made again.
    assert_eq!(apply(&[read(3, 0), send(61, 1, "no")]), [Empty, Refused(Refusal::BadCapability)]);
    assert_eq!(apply(&[create(4, 61), send(61, 1, "yes")]), [Created, accepted(4, 1)]);
    // It goes on where its writer is, however far that was.
    let far = 3 << 30;
    assert_eq!(
        apply(&[create(5, 71), send(71, far, "on"), send(71, far - 1, "late")])[1..],
        [accepted(5, far), accepted(5, far - 1)]
    );
    // An invitation is gone, taken or not, and can be left again.
    assert_eq!(apply(&[blob_get(51, 2)]), [Refused(Refusal::BadCapability)]);
    assert_eq!(apply(&[blob_put(41, 51, true, 20, "again"), blob_get(51, 1)])[0], Done);
}

#[test]
fn restored_queues_expire_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup");
    store_at(&folder.path().join("store")).backups().write(&to, NOW).unwrap();
    let path = folder.path().join("restored");
    restore(&to, &path, FRESH).unwrap();
    let limits = posta_store::Limits { max_queues: 3, ..limits() };
    let mut store = rocks(&path, &limits);
    assert_eq!(store.apply(at(NOW), &[create(9, 99)]), [Refused(Refusal::NoSpace)]);
    let end = NOW + 90 * 24 + 1;
    assert_eq!(store.apply(at(end - 1), &[read(1, 0)]), [Empty]);
    while store.sweep(at(end), 2) == 2 {}
    assert_eq!(store.apply(at(end), &[read(1, 0), read(3, 0)]), [Empty, Refused(Refusal::BadCapability)]);
    assert_eq!(store.apply(at(end), &[create(9, 99), create(8, 98), create(7, 97)])[2], Refused(Refusal::NoSpace));
}

#[test]
fn a_backup_holds_no_message_and_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = store_at(&path);
    let to = folder.path().join("backup");
    store.backups().write(&to, NOW).unwrap();
    drop(store);
    let db = rocksdb::DB::open_cf(
        &rocksdb::Options::default(),
        &path,
        rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap(),
    )
    .unwrap();
    let mut forbidden =
        vec![fs::read(path.join("keys")).unwrap()[22..54].to_vec(), b"body 7".to_vec(), b"invitation".to_vec()];
    for table in ["messages", "blobs", "seals"] {
        let rows = db.iterator_cf(db.cf_handle(table).unwrap(), rocksdb::IteratorMode::Start);
        forbidden.extend(rows.map(|row| row.unwrap().1.to_vec()));
    }
    assert!(forbidden.len() > 10);
    let files: Vec<_> = fs::read_dir(&to).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    for file in files {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let bytes = fs::read(&file).unwrap();
        assert!(bytes.windows(32).any(|w| w == [1; 32]) || bytes.starts_with(b"posta-store-backup 1\nschema 2\n"));
        assert!(!forbidden.iter().any(|f| bytes.windows(f.len()).any(|w| w == f)), "{}", file.display());
    }
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_backup_is_of_one_moment_while_the_store_is_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("store"));
    let backups = store.backups();
    let stop = AtomicBool::new(false);
    let id = |n: u32, kind: u8| {
        let mut id = [kind; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        id
    };
    let reports: Vec<_> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                let (queue, writer) = (QueueId(id(n, 1)), WriterId(id(n, 2)));
                let send = QueueOp::Send { writer, sequence: 1, body: b"text"[..].into() };
                let outcomes = store.apply(at(NOW), &[QueueOp::Create { queue, writer, kind: QueueKind::Plain }, send]);
                assert!(matches!(outcomes[..], [Created, Outcome::Accepted { .. }]));
                n += 1;
            }
            n
        });
        let mut reports: Vec<(u64, _)> = Vec::new();
        // Until three backups had something new in them.
        while reports.len() < 3 {
            let to = folder.path().join(format!("backup {}", fs::read_dir(folder.path()).unwrap().count()));
            let report = backups.write(&to, NOW).unwrap();
            if report.queues > reports.last().map_or(0, |(n, _)| *n) {
                reports.push((report.queues, to));
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(u64::from(writer.join().unwrap()) >= reports[2].0);
        reports
    });
    for (queues, from) in reports {
        let (_folder, mut store) = restored(&from);
        // Made in this order: each one up to there is whole, and none beyond is there in part.
        for n in 0..queues as u32 + 2 {
            let (queue, writer) = (QueueId(id(n, 1)), WriterId(id(n, 2)));
            let send = QueueOp::Send { writer, sequence: 1, body: b"text"[..].into() };
            let outcomes = store.apply(at(NOW), &[send, QueueOp::Delete { queue }]);
            let there = matches!(outcomes[..], [Outcome::Accepted { .. }, Done]);
            let bad = Refused(Refusal::BadCapability);
            assert!(if u64::from(n) < queues { there } else { outcomes == [bad.clone(), bad] }, "{n} of {queues}");
        }
    }
}

#[test]
fn a_closed_store_is_backed_up_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let (path, to) = (folder.path().join("store"), folder.path().join("backup"));
    let missing = backup_closed(&path, &to, NOW).unwrap_err();
    assert!(missing.to_string().contains("there is no queue store in"), "{missing}");
    assert!(!to.exists() && !path.exists());
    drop(store_at(&path));
    let bytes = |path: &Path| {
        let mut all: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).map(|p| (fs::read(&p).unwrap(), p)).collect();
        all.sort();
        all
    };
    let before = bytes(&path);
    assert_eq!(backup_closed(&path, &to, NOW).unwrap().queues, 3);
    assert!(bytes(&path) == before);
    let (_folder, mut store) = restored(&to);
    assert_eq!(store.apply(at(NOW), &[send(12, 5, "again")]), [accepted(1, 5)]);
}

#[test]
fn what_is_no_backup_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (to, new) = (folder.path().join("backup"), folder.path().join("new"));
    let store = store_at(&folder.path().join("store"));
    store.backups().write(&to, NOW).unwrap();

    let full = store.backups().write(&to, NOW).unwrap_err();
    assert!(matches!(full, BackupError::Folder { .. }) && full.to_string().contains("not empty"), "{full}");
    let unwritable = store.backups().write(&to.join("manifest/x"), NOW).unwrap_err();
    assert!(matches!(unwritable, BackupError::Folder { .. }), "{unwritable}");

    let taken = restore(&to, &folder.path().join("store"), FRESH).unwrap_err();
    assert!(matches!(taken, RestoreError::NotEmpty { .. }) && taken.to_string().contains("not empty"), "{taken}");
    let none = restore(folder.path(), &new, FRESH).unwrap_err();
    assert!(matches!(none, RestoreError::NoBackup { .. }) && none.to_string().contains("manifest"), "{none}");

    let records = fs::read(to.join("records")).unwrap();
    for at in (0..records.len()).step_by(7).chain([records.len() - 1]) {
        let mut bad = records.clone();
        bad[at] ^= 4;
        fs::write(to.join("records"), bad).unwrap();
        let error = restore(&to, &new, FRESH).unwrap_err();
        assert!(matches!(error, RestoreError::NoBackup { .. }), "byte {at}: {error}");
        assert!(!new.exists() && !folder.path().join("new.restoring").exists(), "nothing is left behind");
    }
    for bad in [&records[..records.len() - 1], &[records.as_slice(), &[0]].concat()] {
        fs::write(to.join("records"), bad).unwrap();
        assert!(matches!(restore(&to, &new, FRESH), Err(RestoreError::NoBackup { .. })));
    }
    fs::write(to.join("records"), &records).unwrap();

    let manifest = fs::read_to_string(to.join("manifest")).unwrap();
    for (from, into) in [("backup 1", "backup 2"), ("hour ", "hours "), ("queues 3", "queues 4"), ("hash ", "hash 0")] {
        fs::write(to.join("manifest"), manifest.replace(from, into)).unwrap();
        assert!(matches!(restore(&to, &new, FRESH), Err(RestoreError::NoBackup { .. })), "{into}");
    }
    fs::write(to.join("manifest"), manifest.replace("schema 2", "schema 3")).unwrap();
    let newer = restore(&to, &new, FRESH).unwrap_err();
    assert!(matches!(newer, RestoreError::Newer { found: 3, known: SCHEMA, .. }), "{newer}");
    fs::write(to.join("manifest"), manifest).unwrap();
    assert_eq!(restore(&to, &new, FRESH).unwrap(), Report { queues: 3, hour: NOW });
    assert!(matches!(restore(&to, &new, FRESH), Err(RestoreError::NotEmpty { .. })));
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(restore(&to, &folder.path().join("empty"), FRESH).is_ok());
}

#[test]
fn a_store_that_was_closed_has_no_backups() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let backups = store.backups();
    drop(store);
    assert!(matches!(backups.write(&folder.path().join("backup"), NOW), Err(BackupError::Unreadable)));
}
