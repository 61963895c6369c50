//! SIGKILL of a program that writes, at any moment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use posta_client::store::{Change, Store};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use crate::{WORD, create, plain, put};

const FOLDER: &str = "POSTA_TEST_STORE";

/// The transaction with this number: a counter, some records, and some that go.
fn transaction(n: u64) -> Vec<Change> {
    let rng = &mut ChaCha20Rng::seed_from_u64(n);
    let mut changes = vec![put(b"count", n.to_le_bytes().to_vec())];
    for _ in 0..rng.random_range(0..6) {
        let name = vec![b'r', rng.random_range(0..50)];
        let value = rng.random_bool(0.6).then(|| Zeroizing::new(vec![n as u8; rng.random_range(0..14_000)]));
        changes.push(Change { name, value });
    }
    changes
}

fn after(n: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut model = BTreeMap::new();
    for change in (1..=n).flat_map(transaction) {
        match change.value {
            Some(value) => model.insert(change.name, value.to_vec()),
            None => model.remove(&change.name),
        };
    }
    model
}

/// Not a test of its own: the program that is killed.
#[test]
#[ignore = "started by the tests beside it"]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (mut store, records) = Store::open(&folder, WORD).unwrap();
    let held = records.get(b"count".as_slice()).map_or(0, |v| u64::from_le_bytes(v.as_slice().try_into().unwrap()));
    for n in held + 1.. {
        store.apply(&transaction(n)).unwrap();
        if n % 5 == 0 {
            store.purge().unwrap();
        }
        println!("wrote {n}");
        std::io::stdout().flush().unwrap();
    }
}

fn rounds(count: u64) {
    let folder = tempfile::tempdir().unwrap();
    drop(create(folder.path()));
    let mut held = 0;
    for round in 0..count {
        let rng = &mut ChaCha20Rng::seed_from_u64(1000 + round);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "kill::writer", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // So many lines, and then at some moment of a transaction.
        let mut told = held;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..rng.random_range(1..25) {
            while let Some(Ok(line)) = lines.next() {
                // The first line of the harness may stand in front.
                if let Some((_, n)) = line.rsplit_once("wrote ") {
                    told = n.trim().parse().unwrap();
                    break;
                }
            }
        }
        (0..rng.random_range(0..200_000)).for_each(|n| _ = std::hint::black_box(n));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            told = line.rsplit_once("wrote ").map_or(told, |(_, n)| n.trim().parse().unwrap());
        }
        held = check(folder.path(), told, round);
    }
}

/// Files may not grow beyond a size: the system kills the writer in the middle of a write, or refuses the write.
#[test]
fn a_write_that_the_system_cuts_short_leaves_whole_transactions() {
    let folder = tempfile::tempdir().unwrap();
    drop(create(folder.path()));
    for (round, ignored) in (0..8).map(|round| (round, round % 2 == 1)) {
        let state = std::fs::metadata(folder.path().join("state.redb")).unwrap().len();
        // In blocks of 512 bytes. A shell that ignores the signal hands that down, and the write fails instead.
        let blocks = (state + 30_000 + round * 70_001) / 512;
        let trap = if ignored { "trap '' XFSZ; " } else { "" };
        let out = Command::new("sh")
            .args(["-c", &format!("{trap}ulimit -f {blocks}; exec \"$@\"")])
            .arg("sh")
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "kill::writer", "--nocapture"])
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        assert!(!out.status.success(), "round {round}: nothing stopped it");
        let lines = String::from_utf8(out.stdout).unwrap();
        let told = lines.lines().filter_map(|l| l.rsplit_once("wrote ")?.1.trim().parse().ok()).next_back();
        let records = plain(&Store::open(folder.path(), WORD).unwrap().1);
        let held = records.get(b"count".as_slice()).map_or(0, |v| u64::from_le_bytes(v.as_slice().try_into().unwrap()));
        check(folder.path(), told.unwrap_or(held), round);
    }
}

/// All that was told is there, and at most the one transaction more that was under way, whole.
fn check(folder: &Path, told: u64, round: u64) -> u64 {
    let records = plain(&Store::open(folder, WORD).unwrap().1);
    let held = records.get(b"count".as_slice()).map_or(0, |v| u64::from_le_bytes(v.as_slice().try_into().unwrap()));
    assert!(held == told || held == told + 1, "round {round}: told {told}, held {held}");
    assert_eq!(records, after(held), "round {round}");
    held
}

#[test]
fn a_killed_writer_leaves_whole_transactions_and_all_it_has_told() {
    rounds(12);
}

#[test]
#[ignore = "a minute: make soak"]
fn two_hundred_kills_of_a_writer() {
    rounds(200);
}
