//! The fuzz targets without a fuzzer: their seeds, seeded changes to them, and every input that ever broke one. `make fuzz`
//! runs the same functions under libFuzzer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    dead_code,
    reason = "tests; and the fuzzing binary uses the rest"
)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_seed_keeps_the_promises_and_so_do_seeded_changes_to_it() {
    for target in fuzz::TARGETS {
        let rng = &mut ChaCha20Rng::seed_from_u64(7);
        for seed in (target.seeds)() {
            assert!(seed.len() <= target.max_len, "{}: a seed longer than the fuzzer's inputs", target.name);
            (target.run)(&seed);
            for _ in 0..8 {
                let mut changed = seed.clone();
                for _ in 0..=rng.next_u32() % 3 {
                    let at = rng.next_u32() as usize;
                    match changed.len() {
                        0 => changed.push(at as u8),
                        n if at.is_multiple_of(7) => changed.truncate(at / 7 % n),
                        n => changed[at % n] ^= 1 << (rng.next_u32() % 8),
                    }
                }
                let broken = catch_unwind(|| (target.run)(&changed)).is_err();
                assert!(!broken, "{} panics for {}", target.name, hex(&changed));
            }
        }
    }
}

#[test]
fn what_was_found_once_stays_repaired() {
    let (mut tried, mut broken) = (0, Vec::new());
    for folder in entries(&here().join("fuzz/regressions")) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let target = fuzz::TARGETS.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("{name}: no such target"));
        for file in entries(&folder) {
            let input = fs::read(&file).unwrap();
            tried += 1;
            broken.extend(catch_unwind(|| (target.run)(&input)).is_err().then_some(file));
        }
    }
    assert!(tried > 0, "the regressions are gone");
    assert!(broken.is_empty(), "these fail again: {broken:?}");
}

#[test]
fn every_decoder_has_a_target() {
    const MARKS: [&str; 7] = [
        "pub fn decode(",
        "pub fn read(",
        "pub(super) fn read(",
        "pub fn open(",
        "pub fn from_packet(",
        "pub fn verify(",
        "impl FromStr",
    ];
    let mut decoders = BTreeSet::new();
    let src = here().join("src");
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if fs::read_to_string(&path).unwrap().lines().any(|l| MARKS.iter().any(|m| l.trim().starts_with(m)))
            {
                decoders.insert(path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    assert!(decoders.len() > 10, "{decoders:?}");
    let covered: BTreeSet<_> = fuzz::COVERS.iter().map(|(file, _)| (*file).to_owned()).collect();
    let missing: Vec<_> = decoders.difference(&covered).collect();
    assert!(missing.is_empty(), "files that decode and that no fuzz target names: {missing:?}");
    for (file, targets) in fuzz::COVERS {
        assert!(src.join(file).is_file(), "{file}: no such file");
        assert!(targets.iter().all(|name| fuzz::TARGETS.iter().any(|t| t.name == *name)), "{file}: an unknown target");
    }
}

#[test]
fn the_control_has_its_fault() {
    fuzz::control::run(b"pos");
    assert!(catch_unwind(|| fuzz::control::run(b"post")).is_err());
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
