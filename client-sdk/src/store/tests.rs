#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::ops::Range;

use super::*;

const WORD: &[u8] = b"correct horse";

fn create(folder: &Path) -> Store {
    Store::create(folder, WORD, Cost::LEAST).unwrap()
}

fn put(name: &str, value: &[u8]) -> Change {
    Change { name: name.as_bytes().to_vec(), value: Some(Zeroizing::new(value.to_vec())) }
}

fn delete(name: &str) -> Change {
    Change { name: name.as_bytes().to_vec(), value: None }
}

fn value<'a>(records: &'a Records, name: &str) -> Option<&'a [u8]> {
    records.get(name.as_bytes()).map(|v| v.as_slice())
}

fn garble(path: &Path, at: Range<u64>) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; (at.end - at.start) as usize];
    file.read_exact_at(&mut bytes, at.start).unwrap();
    bytes.iter_mut().for_each(|b| *b ^= 0x55);
    file.write_all_at(&bytes, at.start).unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_an_older_one_migrated_in_one_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = create(folder.path());
    store.apply(&[put("old name", b"1"), put("kept", b"2")]).unwrap();
    drop(store);
    let rename: Migration = |records| {
        let value = records.remove(b"old name".as_slice()).ok_or(Malformed::Value("name"))?;
        records.insert(b"new name".to_vec(), value);
        Ok(())
    };
    let nothing: Migration = |_| Ok(());
    let mut steps = vec![nothing; SCHEMA as usize - 1];
    steps.push(rename);
    let next = SCHEMA + 1;
    let (store, records) = Store::open_with(folder.path(), WORD, next, &steps).unwrap();
    drop(store);
    assert_eq!((value(&records, "new name"), value(&records, "old name")), (Some(&b"1"[..]), None));
    // What the step has changed is on disk, and the step is not done again.
    let (store, again) = Store::open_with(folder.path(), WORD, next, &steps).unwrap();
    drop(store);
    assert!(again == records && value(&again, "kept") == Some(b"2"));
    assert!(matches!(Store::open(folder.path(), WORD), Err(StoreError::Newer)));
    // A step that can't be done changes nothing.
    let stuck: Migration = |_| Err(Malformed::Value("record"));
    let further = [steps.as_slice(), &[stuck]].concat();
    assert!(matches!(Store::open_with(folder.path(), WORD, next + 1, &further), Err(StoreError::Damaged(_))));
    assert!(Store::open_with(folder.path(), WORD, next, &steps).unwrap().1 == records);
}

#[test]
fn what_a_header_asks_for_is_bounded_before_it_is_done() {
    let mut rng: StdRng = rand::make_rng();
    let mut header = Header::seal(WORD, Cost::LEAST, &Secret::new([1; 32]), 1, &mut rng).unwrap();
    assert!(Header::decode(&header.encode()).is_ok());
    for cost in [Cost { memory: u32::MAX, passes: 1 }, Cost { memory: 0, passes: 1 }, Cost { memory: 8192, passes: 65 }]
    {
        header = header.with_cost(cost);
        assert!(matches!(Header::decode(&header.encode()), Err(StoreError::Damaged(_))), "{cost:?}");
    }
}

/// All that one who has the folder's bytes and the passphrase can make of a record whose name is known: tries every key
/// of both copies of the pages at every place of the database where a sealed value may begin.
fn search(folder: &Path, name: &str) -> Vec<Vec<u8>> {
    let image = fs::read(folder.join(STATE)).unwrap();
    let file = File::open(folder.join(KEYS)).unwrap();
    let master = Pages::header(&file).unwrap().open(WORD).unwrap();
    let names = crypto::derive(local::STORE_NAMES, master.expose());
    let hash = crypto::keyed_hash(names.expose(), name.as_bytes());
    let slots = pages::every_slot(&file, &page_key(&master));
    let mut found = Vec::new();
    for at in 0..image.len() {
        let Some((slot, rest)) = image[at..].split_first_chunk() else { break };
        let Some((nonce, rest)) = rest.split_first_chunk::<NONCE_LEN>() else { break };
        if *nonce == [0; NONCE_LEN] {
            continue;
        }
        for slot in slots.get(Slot::from_le_bytes(*slot) as usize).into_iter().flatten() {
            let key = crypto::derive(local::STORE_RECORD, &[*master.expose(), *slot.expose()].concat());
            for class in CLASSES {
                let Some((inner, tag)) = rest.get(..class + TAG_LEN).and_then(<[u8]>::split_last_chunk) else {
                    continue;
                };
                let mut inner = inner.to_vec();
                if crypto::open(key.expose(), *nonce, &hash, &mut inner, tag).is_ok() {
                    let mut r = Reader::new(&inner);
                    r.bounded(MAX_NAME, "name").unwrap();
                    found.push(r.bounded(MAX_VALUE, "value").unwrap().to_vec());
                }
            }
        }
    }
    found
}

#[test]
fn what_was_deleted_or_replaced_is_unreadable_with_the_disk_and_the_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = create(folder.path());
    store.apply(&[put("message", b"meet me at nine"), put("state", b"ratchet 1")]).unwrap();
    store.apply(&[put("state", b"ratchet 2")]).unwrap();
    let before = search(folder.path(), "state");
    assert!([b"ratchet 1", b"ratchet 2"].iter().all(|v| before.contains(&v.to_vec())), "the control");
    store.apply(&[delete("message")]).unwrap();
    // The control: until the purge, this search finds what redb has not overwritten by chance.
    let found = search(folder.path(), "message");
    assert!(!found.is_empty() && found.iter().all(|v| v == b"meet me at nine"));
    assert!(!store.is_purged());
    store.purge().unwrap();
    assert!(store.is_purged());
    assert!(search(folder.path(), "message").is_empty());
    let after = search(folder.path(), "state");
    assert!(!after.is_empty() && after.iter().all(|v| v == b"ratchet 2"), "the version in use stays");
}

#[test]
fn what_a_killed_program_had_deleted_is_gone_after_the_next_opening() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = create(folder.path());
    store.apply(&[put("message", b"meet me at nine")]).unwrap();
    store.apply(&[delete("message")]).unwrap();
    // The files as a SIGKILL leaves them.
    let image = tempfile::tempdir().unwrap();
    for name in [KEYS, STATE] {
        fs::copy(folder.path().join(name), image.path().join(name)).unwrap();
    }
    assert!(!search(image.path(), "message").is_empty(), "the control");
    let (store, records) = Store::open(image.path(), WORD).unwrap();
    assert!(records.is_empty() && search(image.path(), "message").is_empty());
    drop(store);
}

#[test]
fn a_torn_copy_of_a_page_is_repaired_from_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = create(folder.path());
    store.apply(&[put("a", b"1")]).unwrap();
    drop(store);
    let keys = folder.path().join(KEYS);
    let page = pages::PAGE as u64;
    // One after the other, the other one being whole again by then: headers, then the page.
    for copy in [0, 1, 2, 3] {
        garble(&keys, copy * page + 7..copy * page + 90);
        assert_eq!(value(&Store::open(folder.path(), WORD).unwrap().1, "a"), Some(&b"1"[..]), "copy {copy}");
    }
    garble(&keys, 2 * page..2 * page + 9);
    garble(&keys, 3 * page..3 * page + 9);
    assert!(matches!(Store::open(folder.path(), WORD), Err(StoreError::Damaged("its keys"))));
}

#[test]
fn a_change_of_passphrase_that_is_cut_short_leaves_one_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = create(folder.path());
    store.apply(&[put("a", b"1")]).unwrap();
    let keys = folder.path().join(KEYS);
    let before = fs::read(&keys).unwrap();
    store.change_passphrase(b"battery staple").unwrap();
    drop(store);
    // Only the first of both headers was written.
    let file = OpenOptions::new().write(true).open(&keys).unwrap();
    file.write_all_at(&before[pages::PAGE..2 * pages::PAGE], pages::PAGE as u64).unwrap();
    assert!(matches!(Store::open(folder.path(), WORD), Err(StoreError::WrongPassphrase)));
    let (store, records) = Store::open(folder.path(), b"battery staple").unwrap();
    assert_eq!(value(&records, "a"), Some(&b"1"[..]));
    drop(store);
    // And the old header is gone from the file.
    let after = fs::read(&keys).unwrap();
    assert!(after[..pages::PAGE] == after[pages::PAGE..2 * pages::PAGE]);
    assert!(!after.windows(32).any(|w| w == &before[30..62]));
}

#[test]
fn nothing_on_the_disk_tells_a_name_or_a_value() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = create(folder.path());
    let needle = b"a quite remarkable sentence";
    store.apply(&[put("remarkable name", needle)]).unwrap();
    drop(store);
    for name in [KEYS, STATE, LOCK] {
        let bytes = fs::read(folder.path().join(name)).unwrap();
        let has = |what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
        assert!(!has(needle) && !has(b"remarkable"), "{name}");
    }
    // Lengths of one class look alike.
    assert_eq!([0, 1, 256].map(padded), [256; 3]);
    assert_eq!([257, 1024, 5000, 12_289, 16_385].map(padded), [1024, 1024, 12_288, 16_384, 32_768]);
}
