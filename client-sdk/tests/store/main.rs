//! The encrypted store from outside: against a model, with damaged files, and killed at any moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod commands;
mod damage;
mod kill;

use std::collections::BTreeMap;
use std::path::Path;

use posta_client::store::{Change, Cost, MAX_NAME, MAX_VALUE, Records, Store, StoreError};
use proptest::prelude::*;
use zeroize::Zeroizing;

pub(crate) const WORD: &[u8] = b"correct horse battery staple";

pub(crate) fn create(folder: &Path) -> Store {
    Store::create(folder, WORD, Cost::LEAST).unwrap()
}

pub(crate) fn put(name: &[u8], value: Vec<u8>) -> Change {
    Change { name: name.to_vec(), value: Some(Zeroizing::new(value)) }
}

pub(crate) fn plain(records: &Records) -> BTreeMap<Vec<u8>, Vec<u8>> {
    records.iter().map(|(name, value)| (name.clone(), value.to_vec())).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// Names, and what becomes of each: a length, or none to delete it.
    Apply(Vec<(u8, Option<u16>)>),
    Purge,
    Reopen,
    Passphrase(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..40_u8, proptest::option::weighted(0.7, 0..20_000_u16));
    prop_oneof![
        8 => proptest::collection::vec(change, 0..12).prop_map(Step::Apply),
        1 => Just(Step::Purge),
        2 => Just(Step::Reopen),
        1 => any::<u8>().prop_map(Step::Passphrase),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_that_outlives_the_program(steps in proptest::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, mut word) = (create(folder.path()), WORD.to_vec());
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Apply(changes) => {
                    let changes: Vec<Change> = changes
                        .into_iter()
                        .map(|(name, len)| {
                            let value = len.map(|len| Zeroizing::new(vec![n as u8; usize::from(len)]));
                            Change { name: vec![name; usize::from(name) + 1], value }
                        })
                        .collect();
                    store.apply(&changes).unwrap();
                    for change in changes {
                        match change.value {
                            Some(value) => model.insert(change.name, value.to_vec()),
                            None => model.remove(&change.name),
                        };
                    }
                }
                Step::Purge => store.purge().unwrap(),
                Step::Passphrase(n) => {
                    word = vec![n; 3];
                    store.change_passphrase(&word).unwrap();
                }
                Step::Reopen => {
                    drop(store);
                    let (opened, records) = Store::open(folder.path(), &word).unwrap();
                    prop_assert_eq!(plain(&records), model.clone());
                    store = opened;
                }
            }
        }
        drop(store);
        prop_assert_eq!(plain(&Store::open(folder.path(), &word).unwrap().1), model);
    }
}

#[test]
fn a_wrong_passphrase_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    drop(create(folder.path()));
    for wrong in [&b""[..], b"correct horse battery stapl", b"correct horse battery staple "] {
        assert!(matches!(Store::open(folder.path(), wrong), Err(StoreError::WrongPassphrase)));
    }
    assert!(Store::open(folder.path(), WORD).is_ok());
}

#[test]
fn a_folder_is_used_by_one_program_at_a_time_and_the_other_is_told_which() {
    let folder = tempfile::tempdir().unwrap();
    let store = create(folder.path());
    let refused = Store::open(folder.path(), WORD).unwrap_err();
    let sentence = refused.to_string();
    assert!(matches!(refused, StoreError::Locked { .. }));
    assert!(sentence.contains(&format!("process {}", std::process::id())) && sentence.contains("end it first"));
    drop(store);
    assert!(Store::open(folder.path(), WORD).is_ok());
}

#[test]
fn a_store_is_made_once_and_missed_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a").join("b");
    let missing = Store::open(&inner, WORD).unwrap_err();
    assert!(matches!(&missing, StoreError::Missing(_)) && missing.to_string().contains("posta init"));
    drop(create(&inner));
    assert!(matches!(Store::create(&inner, WORD, Cost::LEAST), Err(StoreError::Exists(_))));
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    for file in std::fs::read_dir(&inner).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

#[test]
fn what_is_too_long_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = create(folder.path());
    let long = [put(b"a", vec![1]), put(b"b", vec![0; MAX_VALUE + 1])];
    assert!(matches!(store.apply(&long), Err(StoreError::TooLong)));
    let long = [put(b"a", vec![1]), put(&[b'n'; MAX_NAME + 1], vec![1])];
    assert!(matches!(store.apply(&long), Err(StoreError::TooLong)));
    store.apply(&[put(&[b'n'; MAX_NAME], vec![7; MAX_VALUE])]).unwrap();
    drop(store);
    let records = Store::open(folder.path(), WORD).unwrap().1;
    assert_eq!((records.len(), records.values().next().unwrap().len()), (1, MAX_VALUE));
}

#[test]
fn a_wipe_needs_no_passphrase_and_leaves_no_key_even_where_blocks_stay() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state");
    let mut store = create(&dir);
    store.apply(&[put(b"a", b"secret".to_vec())]).unwrap();
    // Another name for the same blocks: what an undelete would find.
    let (keys, state) = (folder.path().join("keys"), folder.path().join("state.redb"));
    std::fs::hard_link(dir.join("keys"), &keys).unwrap();
    std::fs::hard_link(dir.join("state.redb"), &state).unwrap();
    // Even while a program has it open, which is then named.
    let holder = Store::wipe(&dir).unwrap();
    assert_eq!(holder, Some(format!("process {}", std::process::id())));
    drop(store);
    assert!(matches!(Store::open(&dir, WORD), Err(StoreError::Missing(_))));
    assert!(matches!(Store::wipe(&dir), Err(StoreError::Missing(_))));
    std::fs::rename(keys, dir.join("keys")).unwrap();
    std::fs::rename(state, dir.join("state.redb")).unwrap();
    assert!(matches!(Store::open(&dir, WORD), Err(StoreError::Damaged("its keys"))));
}
