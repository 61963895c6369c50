//! Files that are cut off or garbled: each ends in a clear refusal, or in the state as it was.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use posta_client::store::{Store, StoreError};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::{WORD, create, plain, put};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Never a panic, never a wrong passphrase, never other records than those that were there at some time.
#[test]
fn damage_is_told_from_a_wrong_passphrase_and_never_gives_other_records() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good");
    let mut store = create(&good);
    for n in 0..60_u8 {
        store.apply(&[put(&[n], vec![n; usize::from(n) * 200]), put(b"count", vec![n])]).unwrap();
    }
    drop(store);
    let whole = plain(&Store::open(&good, WORD).unwrap().1);
    let (mut refused, mut opened) = (0, 0);
    for seed in 0..120 {
        let rng = &mut ChaCha20Rng::seed_from_u64(seed);
        let bad = folder.path().join("bad");
        copy(&good, &bad);
        let path = bad.join(if seed % 2 == 0 { "keys" } else { "state.redb" });
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        if seed % 3 == 0 {
            file.set_len(rng.random_range(0..len)).unwrap();
        } else {
            let mut noise = vec![0; rng.random_range(1..6000)];
            rng.fill_bytes(&mut noise);
            file.write_all_at(&noise, rng.random_range(0..len)).unwrap();
        }
        match Store::open(&bad, WORD) {
            Ok((_, records)) => {
                let records = plain(&records);
                assert!(
                    records.iter().all(|(name, value)| {
                        whole.get(name) == Some(value) || name == b"count" || value.is_empty()
                    })
                );
                opened += 1;
            }
            Err(StoreError::Damaged(_) | StoreError::Newer | StoreError::Io(_)) => refused += 1,
            Err(e) => panic!("seed {seed}: {e}"),
        }
        fs::remove_dir_all(&bad).unwrap();
    }
    assert!(refused > 30 && opened > 10, "{refused} refused, {opened} opened");
}

#[test]
fn a_missing_file_is_damage_or_no_store_at_all() {
    let folder = tempfile::tempdir().unwrap();
    drop(create(folder.path()));
    let away = folder.path().join("away");
    fs::rename(folder.path().join("state.redb"), &away).unwrap();
    assert!(matches!(Store::open(folder.path(), WORD), Err(StoreError::Damaged(_))));
    fs::rename(&away, folder.path().join("state.redb")).unwrap();
    fs::remove_file(folder.path().join("keys")).unwrap();
    assert!(matches!(Store::open(folder.path(), WORD), Err(StoreError::Missing(_))));
}
