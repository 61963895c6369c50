//! What the disk tells: its image is taken, together with the keys that are on it, and searched as a thief would.
//!
//! Nothing here uses the store's own code for sealing: key file, seal records and values are taken apart by their
//! documented layouts (`rocks/keyfile.rs`, `rocks/seal.rs`, `keys.rs`, `record.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use posta_protocol::admission::QueueKind;
use posta_protocol::command::{BlobCapability, ReaderCapability, WriterCapability};
use posta_protocol::crypto;
use posta_protocol::now::Now;
use posta_protocol::params::BOX_LEN;
use posta_protocol::secret::Secret;
use posta_store::{ERASE_WITHIN, Limits, Outcome, QueueOp, QueueStore, RocksStore, blob_lock};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use tempfile::TempDir;

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#[path = "shared/rig.rs"]
mod rig;
use rig::*;

const TABLES: [&str; 7] = ["default", "queues", "index", "messages", "blobs", "expiry", "seals"];
const MINUTE: Duration = Duration::from_secs(60);
/// What every body of these tests consists of.
const PLAIN: &[u8] = b"recognisable plain text, ";

/// An hour of our time, some minutes and seconds in.
fn begin() -> Now {
    at(490_001) + Duration::from_millis(17 * 60_000 + 23_456)
}

fn body(seed: u8, length: usize) -> Box<[u8]> {
    PLAIN.iter().copied().chain([seed]).cycle().take(length).collect()
}

/// Every file of a store as it is at this moment: what SIGKILL or a thief leaves.
fn image(store: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(store).unwrap().map(|e| e.unwrap()) {
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// The keys in the key file.
fn keys(store: &Path) -> Vec<(u32, [u8; 32])> {
    let bytes = fs::read(store.join("keys")).unwrap();
    let (head, rest) = bytes.split_at(18);
    assert_eq!(&head[..17], b"posta store keys\x01");
    let (keys, check) = rest.split_at(usize::from(head[17]) * 36);
    assert_eq!(check, blake3::hash(&bytes[..bytes.len() - 32]).as_bytes());
    keys.chunks(36).map(|k| (u32::from_le_bytes(k[..4].try_into().unwrap()), k[4..].try_into().unwrap())).collect()
}

/// The bytes of each file; of a log also as its records are without the headers that cut them up.
fn views(store: &Path) -> Vec<(String, Vec<u8>)> {
    let mut views = Vec::new();
    for file in fs::read_dir(store).unwrap().map(|e| e.unwrap()) {
        let name = file.file_name().to_string_lossy().into_owned();
        let bytes = fs::read(file.path()).unwrap();
        if name.ends_with(".log") {
            // Blocks of 32 KiB, in them: check 4 | length u16 | type 1 | bytes.
            let mut whole = Vec::new();
            for mut block in bytes.chunks(32 << 10) {
                while block.len() >= 7 {
                    let length = usize::from(u16::from_le_bytes([block[4], block[5]]));
                    let Some(record) = block.get(7..7 + length).filter(|_| block[6] != 0) else { break };
                    whole.extend_from_slice(record);
                    block = &block[7 + length..];
                }
            }
            views.push((format!("{name} without headers"), whole));
        }
        views.push((name, bytes));
    }
    views
}

/// A sealed value, with the name that it is sealed under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sealed {
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Sealed {
    /// Tries a seal record, or what may be one.
    fn open(&self, keys: &[(u32, [u8; 32])], record: &[u8]) -> Option<Vec<u8>> {
        let id = u32::from_le_bytes(record[..4].try_into().unwrap());
        let (_, key) = keys.iter().find(|(k, _)| *k == id)?;
        let pad = crypto::keyed_hash(key, &[&record[4..20], self.name.as_slice()].concat());
        let own: Vec<u8> = record[20..52].iter().zip(pad).map(|(w, p)| w ^ p).collect();
        let (body, tag) = self.value.split_last_chunk::<16>().unwrap();
        let mut plain = body.to_vec();
        crypto::open(&own.try_into().unwrap(), [0; 12], &self.name, &mut plain, tag).ok().map(|()| plain)
    }
}

fn raw(store: &Path) -> rocksdb::DB {
    rocksdb::DB::open_cf(&rocksdb::Options::default(), store, TABLES).unwrap()
}

fn rows(db: &rocksdb::DB, table: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let cf = db.cf_handle(table).unwrap();
    db.iterator_cf(cf, rocksdb::IteratorMode::Start).map(|r| r.unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
}

/// Every value that the store holds now, by looking into a copy of it.
fn sealed(store: &Path) -> BTreeSet<Sealed> {
    let copy = image(store);
    let db = raw(copy.path());
    let of = |tag: u8, table| {
        let named = move |(key, value): (Vec<u8>, Vec<u8>)| Sealed { name: [&[tag], key.as_slice()].concat(), value };
        rows(&db, table).into_iter().map(named)
    };
    of(1, "messages").chain(of(2, "blobs")).collect()
}

/// Which of some values a thief can read who has an image with its keys, and the values from an earlier look at the
/// disk: whatever looks like a seal record, anywhere in any file, is tried on each.
fn readable(image: &Path, targets: &BTreeSet<Sealed>) -> BTreeSet<Sealed> {
    let keys = keys(image);
    let ids: Vec<_> = keys.iter().map(|(id, _)| id.to_le_bytes()).collect();
    let views = views(image);
    let windows = views.iter().flat_map(|(_, bytes)| bytes.windows(52));
    let records: BTreeSet<_> = windows.filter(|w| ids.iter().any(|id| w[..4] == *id)).collect();
    targets.iter().filter(|t| records.iter().any(|r| t.open(&keys, r).is_some())).cloned().collect()
}

/// No body in the clear, whatever the file.
fn assert_no_plain_text(image: &Path) {
    for (name, bytes) in views(image) {
        assert!(!bytes.windows(PLAIN.len()).any(|w| w == PLAIN), "{name} has a body in the clear");
    }
}

fn limits() -> Limits {
    Limits { message_ttl: HOUR * 4, blob_ttl: HOUR * 4, ..rig::limits() }
}

fn send_body(w: u8, sequence: u64, length: usize) -> QueueOp {
    QueueOp::Send { writer: writer(w), sequence, body: body(w, length) }
}

fn put_body(put: u8, get: u8, one_time: bool, hours: u32) -> QueueOp {
    QueueOp::BlobPut { put: writer(put), get: blob(get), one_time, ttl: HOUR * hours, body: body(put, 500) }
}

/// Once a minute, as the relay does, in slices.
fn pass(store: &mut RocksStore, now: &mut Now, time: Duration) {
    let end = *now + time;
    while now.mono < end.mono {
        while store.sweep(*now, 16) == 16 {}
        *now = *now + MINUTE;
    }
}

/// A run: what is kept at its end, and what was erased on the way, by acknowledging, deleting and expiring.
struct Run {
    folder: TempDir,
    store: RocksStore,
    now: Now,
    kept: BTreeSet<Sealed>,
    erased: BTreeSet<Sealed>,
}

fn run() -> Run {
    let folder = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(folder.path(), limits(), INCARNATION).unwrap();
    let mut now = begin();
    // The first two expire. One message is as long as they are, so that logs cut it up.
    let mut ops = vec![create(1, 11), put_body(21, 31, false, 1)];
    ops.extend((1..=10).map(|n| send_body(11, n, if n == 5 { BOX_LEN } else { 300 })));
    store.apply(now, &ops);
    let mut all = sealed(folder.path());
    pass(&mut store, &mut now, HOUR * 4);
    for q in 2..=4 {
        store.apply(now, &[create(q, 10 + q)]);
        let sends: Vec<_> = (1..=20).map(|n| send_body(10 + q, n, if n == 7 { BOX_LEN } else { 100 })).collect();
        assert!(store.apply(now, &sends).iter().all(|o| matches!(o, Outcome::Accepted { .. })));
    }
    store.apply(now, &[put_body(22, 32, true, 4), put_body(23, 33, true, 4), blob_get(32, 1), blob_get(33, 1)]);
    all.extend(sealed(folder.path()));
    pass(&mut store, &mut now, HOUR * 2);
    // Of the second queue half is acknowledged, the third one is deleted, the fourth one stays.
    assert!(matches!(store.apply(now, &[read(2, 0)])[..], [Outcome::Message { .. }]));
    let outcomes = store.apply(now, &[ack(2, 10), delete(3), blob_delete(22)]);
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done, Outcome::Done]);
    let kept = sealed(folder.path());
    assert_eq!(kept.len(), 10 + 20 + 2, "messages, a blob, and what is left of a deleted one");
    let erased: BTreeSet<_> = all.difference(&kept).cloned().collect();
    // Each blob that was read was written again with its lock.
    assert_eq!(erased.len(), 10 + 1 + 10 + 20 + 1);
    Run { folder, store, now, kept, erased }
}

#[test]
fn what_was_erased_is_unreadable_for_who_has_the_disk_and_its_keys() {
    let Run { folder, mut store, mut now, kept, erased } = run();
    let looks = |store: &Path, when: &str| {
        let copy = image(store);
        assert_no_plain_text(copy.path());
        assert_eq!(readable(copy.path(), &kept).len(), kept.len(), "{when}: the search finds what can be found");
        let read = readable(copy.path(), &erased);
        assert!(read.is_empty(), "{when}: {} of {} erased values can be read", read.len(), erased.len());
    };
    pass(&mut store, &mut now, ERASE_WITHIN);
    looks(folder.path(), "at the end");
    drop(store);
    looks(folder.path(), "closed");
    let mut store = RocksStore::open(folder.path(), limits(), INCARNATION).unwrap();
    looks(folder.path(), "opened again");
    pass(&mut store, &mut now, MINUTE);
    looks(folder.path(), "and swept");
    assert!(matches!(store.apply(now, &[read(2, 0)])[..], [Outcome::Message { sequence: 11, .. }]));
}

/// The control: the same search, of a store whose keys are not replaced.
#[test]
fn without_a_change_of_key_the_same_search_reads_what_was_erased() {
    let Run { folder, store, kept, erased, .. } = run();
    let copy = image(folder.path());
    assert_eq!(readable(copy.path(), &kept).len(), kept.len());
    // What expired went hours ago, and the keys were replaced since.
    let fresh: BTreeSet<_> = erased.iter().filter(|s| s.name[1] != 1 && s.name[1] != 31).cloned().collect();
    assert!(readable(copy.path(), &fresh).len() > fresh.len() / 2, "the search is blind");
    drop(store);
    let closed = image(folder.path());
    assert!(readable(closed.path(), &fresh).len() > fresh.len() / 2);
}

/// Whatever the moment between two changes of key, and with more to carry over than one slice.
#[test]
fn nothing_erased_is_readable_after_the_stated_time() {
    for minutes in [0, 7, 24, 25, 26] {
        let folder = tempfile::tempdir().unwrap();
        let mut store = RocksStore::open(folder.path(), rig::limits(), INCARNATION).unwrap();
        let mut now = begin();
        let ops: Vec<_> = (1..=100).map(|n| send(12, n, "kept")).collect();
        store.apply(now, &[create(1, 11), create(2, 12), send(11, 1, "first")]);
        store.apply(now, &ops);
        store.apply(now, &[ack(1, 1), send(11, 2, "second")]);
        pass(&mut store, &mut now, MINUTE * minutes);
        let all = sealed(folder.path());
        store.apply(now, &[ack(1, 2)]);
        let kept = sealed(folder.path());
        let erased: BTreeSet<_> = all.difference(&kept).cloned().collect();
        assert_eq!((kept.len(), erased.len()), (100, 1));
        assert_eq!(readable(image(folder.path()).path(), &erased).len(), 1, "it was there");
        pass(&mut store, &mut now, ERASE_WITHIN);
        let copy = image(folder.path());
        assert!(readable(copy.path(), &erased).is_empty(), "erased {minutes} minutes after a change of key");
        assert_eq!(readable(copy.path(), &kept).len(), 100);
    }
}

#[test]
fn a_crash_at_any_step_of_a_change_of_key_loses_nothing_and_leaves_no_old_key() {
    let Run { folder, mut store, now, kept, erased } = run();
    let before = keys(folder.path());
    assert_eq!(before.len(), 1);
    let bring_to_an_end = |path: &Path, step: usize| {
        let mut copy = RocksStore::open(path, limits(), INCARNATION).unwrap();
        for n in 1..=20 {
            let QueueOp::Send { body: expected, .. } = send_body(14, n, if n == 7 { BOX_LEN } else { 100 }) else {
                panic!()
            };
            let read = copy.apply(now, &[read(4, n - 1)]).remove(0);
            assert!(matches!(read, Outcome::Message { body, .. } if body == expected), "step {step}: message {n}");
        }
        while copy.sweep(now, 16) == 16 {}
        drop(copy);
        let (old, left) = (before[0], keys(path));
        assert!(left.len() == 1 && left[0] != old, "step {step}: an old key is there");
        assert_eq!(readable(path, &kept).len(), kept.len(), "step {step}");
        assert!(readable(path, &erased).is_empty(), "step {step}");
    };
    let later = now + ERASE_WITHIN;
    let mut two_keys = None;
    for step in 0.. {
        let copy = image(folder.path());
        if keys(copy.path()).len() == 2 {
            two_keys = Some(fs::read(copy.path().join("keys")).unwrap());
        }
        bring_to_an_end(copy.path(), step);
        if store.sweep(later, 1) == 0 {
            assert!(step >= kept.len(), "a step for each value that is kept, and one for the key");
            break;
        }
    }
    // Between the last record and the end of the old key.
    assert_eq!(keys(folder.path()).len(), 1);
    let copy = image(folder.path());
    fs::write(copy.path().join("keys"), two_keys.unwrap()).unwrap();
    bring_to_an_end(copy.path(), usize::MAX);
}

/// Takes a value apart from its front.
struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
}

#[test]
fn every_byte_on_the_disk_is_a_hash_a_ciphertext_a_counter_or_an_hour() {
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let folder = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(folder.path(), limits(), INCARNATION).unwrap();
    let mut now = begin();
    let first = now.wall.hour();
    let mut secrets: Vec<[u8; 32]> = Vec::new();
    let mut secret = || {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        secrets.push(bytes);
        Secret::new(bytes)
    };
    let mut hashes = BTreeMap::new();
    for n in 0..20_u8 {
        let (queue, invited, own) = (
            ReaderCapability::new(secret()).id(),
            WriterCapability::new(secret()).id(),
            WriterCapability::new(secret()).id(),
        );
        let (put, get) = (WriterCapability::new(secret()).id(), BlobCapability::new(secret()).id());
        let reader = *secret().expose();
        for (hash, what) in
            [(queue.0, "queue"), (invited.0, "writer"), (own.0, "writer"), (put.0, "put"), (get.0, "blob")]
        {
            hashes.insert(hash, what);
        }
        store.apply(
            now,
            &[
                QueueOp::Create { queue, writer: invited, kind: QueueKind::Plain },
                QueueOp::Secure { invited, writer: own },
            ],
        );
        let sends: Vec<_> =
            (1..=9).map(|sequence| QueueOp::Send { writer: own, sequence, body: body(n, 200) }).collect();
        store.apply(now, &sends);
        let ttl = HOUR * 3;
        let got = store.apply(
            now,
            &[
                QueueOp::BlobPut { put, get, one_time: n % 2 == 0, ttl, body: body(n, 700) },
                QueueOp::BlobGet { get, lock: blob_lock(&Secret::new(reader)) },
                QueueOp::Read { queue, after: 0, skip: Vec::new() },
                QueueOp::Ack { queue, up_to: u64::from(n % 7) },
            ],
        );
        assert!(!got.iter().any(|o| matches!(o, Outcome::Refused(_))), "{got:?}");
        if n % 5 == 0 {
            store.apply(now, &[QueueOp::Delete { queue }, QueueOp::BlobDelete { put }]);
        }
        pass(&mut store, &mut now, MINUTE * 11);
    }
    let last = now.wall.hour();
    assert!(last > first + 2);
    drop(store);
    drop(RocksStore::open(folder.path(), limits(), INCARNATION).unwrap()); // From the log into table files.

    let copy = image(folder.path());
    for (name, bytes) in views(copy.path()) {
        let known = ["CURRENT", "IDENTITY", "LOCK", "keys"].contains(&name.as_str())
            || name.starts_with("MANIFEST-")
            || name.starts_with("OPTIONS-")
            || name.contains(".log")
            || name.ends_with(".sst");
        assert!(known, "{name} is a file that nobody knows");
        for secret in &secrets {
            assert!(!bytes.windows(32).any(|w| w == secret), "{name} has a capability or a reader's key");
        }
        // Both clocks, as they were at some step, in any order of bytes.
        for minute in 0..20 * 11 {
            let then = begin() + MINUTE * minute;
            for time in [then.wall.0, then.wall.0 / 1000, then.mono.0] {
                for pattern in [time.to_le_bytes(), time.to_be_bytes()] {
                    assert!(!bytes.windows(8).any(|w| w == pattern), "{name} has a time");
                }
            }
        }
    }
    assert_no_plain_text(copy.path());

    let held = keys(copy.path());
    let db = raw(copy.path());
    let is = |hash: &[u8], what: &str| assert_eq!(hashes.get(hash), Some(&what));
    let hour = |h: u32| assert!((first..=last).contains(&h), "{h} is no hour of this run");
    let end = |h: u32, after: u32| {
        assert!((first + after..=last + after).contains(&h), "{h} is no hour in which something ends")
    };
    let queue_ends = limits().queue_ttl.as_secs() as u32 / 3600 + 1;

    let (mut queues, mut bytes) = (0, 0);
    for (key, value) in rows(&db, "queues") {
        is(&key, "queue");
        queues += 1;
        let mut cut = Cut(&value);
        let flags = cut.take(1)[0];
        assert_eq!(flags & !7, 0);
        is(cut.take(32), "writer");
        if flags & 1 != 0 {
            is(cut.take(32), "writer");
        }
        hour(cut.u32());
        if flags & 4 != 0 {
            let (highest, window, acked, count) = (cut.u64(), cut.u64(), cut.u64(), cut.u32());
            assert!(highest == 9 && window == 0x1ff && acked < 7 && u64::from(count) <= highest - acked);
            let filed = cut.u32();
            if filed != 0 {
                end(filed, 5);
            }
        }
        assert!(cut.0.is_empty());
    }
    for (key, value) in rows(&db, "index") {
        match key[0] {
            1 => {
                assert_eq!(key.len(), 17, "half of a writer's hash");
                let known = hashes.iter().any(|(hash, what)| *what == "writer" && hash.starts_with(&key[1..]));
                (assert!(known), is(&value, "queue"))
            }
            2 => (is(&key[1..], "put"), is(&value, "blob")),
            other => panic!("an index entry of kind {other}"),
        };
    }
    for (key, value) in rows(&db, "expiry") {
        assert!(value.is_empty());
        let (h, rest) = key.split_first_chunk::<4>().unwrap();
        match rest[0] {
            1 => (is(&rest[1..], "queue"), end(u32::from_be_bytes(*h), queue_ends)),
            2 => (is(&rest[1..], "queue"), end(u32::from_be_bytes(*h), 5)),
            3 => (is(&rest[1..], "blob"), end(u32::from_be_bytes(*h), 4)),
            other => panic!("an expiry entry of kind {other}"),
        };
    }
    let mut seals: BTreeMap<_, _> = rows(&db, "seals").into_iter().collect();
    let mut open = |tag: u8, key: &[u8], value: Vec<u8>| {
        let name = [&[tag], key].concat();
        let record = seals.remove(&name).expect("a value without a seal record");
        assert_eq!(record.len(), 52);
        Sealed { name, value }.open(&held, &record).expect("a value that its record doesn't open")
    };
    for (key, value) in rows(&db, "messages") {
        is(&key[..32], "queue");
        assert!((1..=9).contains(&u64::from_be_bytes(key[32..].try_into().unwrap())));
        let plain = open(1, &key, value);
        let mut cut = Cut(&plain);
        end(cut.u32(), 5);
        assert!(cut.0.starts_with(PLAIN) && cut.0.len() == 200);
        bytes += 200 + 128;
    }
    for (key, value) in rows(&db, "blobs") {
        is(&key, "blob");
        let plain = open(2, &key, value);
        let mut cut = Cut(&plain);
        let flags = cut.take(1)[0];
        assert_eq!(flags & !7, 0);
        is(cut.take(32), "put");
        assert_eq!(cut.u32(), 3);
        end(cut.u32(), 4);
        if flags & 4 != 0 {
            cut.take(32); // A hash: no reader's key is in any file, as said above.
        }
        let body = cut.0;
        assert!(if flags & 2 != 0 { body.is_empty() } else { body.starts_with(PLAIN) && body.len() == 700 });
        bytes += if flags & 2 != 0 { 0 } else { 700 + 128 };
    }
    assert!(seals.is_empty(), "seal records of nothing");
    let meta: BTreeMap<_, _> = rows(&db, "default").into_iter().collect();
    assert_eq!(meta.len(), 2);
    assert_eq!(meta[&b"store"[..]], [&2_u32.to_le_bytes()[..], &INCARNATION.0].concat());
    assert_eq!(meta[&b"totals"[..]], [u64::to_le_bytes(queues), u64::to_le_bytes(bytes)].concat());
    assert!(queues == 20 && bytes > 0);
}
