//! The replay filter at its default size, measured: `cargo test --release -p posta-node --test replay_full -- --ignored
//! --nocapture`. It takes 0.8 GB of memory, 1.1 GB of disk and, on a busy machine, five minutes.
//!
//! Measured on two cores that twelve other processes wanted: an insert with its hash 0.9, 1.0 and 1.3 us at 10, 80 and
//! 100 % (p99 1.7, 1.8 and 2.4 us), 724 MB at most, reading a full log back 84 s.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    reason = "tests; this one is a measurement"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use posta_node::driver::replay_log::{BootId, LogOwner, ShardLog, load, sizes};
use posta_node::relay::replay::{DEFAULT_MAX_TAGS, Fill, ReplaySecret, ReplayShard, Route, Seen, Verdict};
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::onion::ReplayTag;
use posta_protocol::secret::Secret;

const EPOCH: KeyEpoch = KeyEpoch(1);
/// As many as a worker writes at once.
const BATCH: usize = 64;
/// Inserts that are timed one by one, at each fill.
const TIMED: usize = 1 << 18;

fn shard() -> ReplayShard {
    ReplayShard::new(ReplaySecret::new(Secret::new([7; 32])), DEFAULT_MAX_TAGS as usize)
}

fn tag(n: usize) -> ReplayTag {
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&n.to_le_bytes());
    ReplayTag(tag)
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Processor time of this process so far; unlike the clock it doesn't depend on what else the machine does.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // User and system time in hundredths of a second, the 14th and 15th field of all.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn owner(dir: &Path) -> LogOwner {
    LogOwner { dir: dir.to_owned(), relay: RelayId([1; 32]), boot: BootId([1; 16]) }
}

fn say(what: &str, times: &mut [Duration], resident: u64) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_nanos();
    println!(
        "{what}: p50 {} ns, p99 {} ns, p99.99 {} ns, longest {} us; {} MB resident",
        at(0.5),
        at(0.99),
        at(0.9999),
        at(1.0) / 1000,
        resident / 1_000_000
    );
}

#[test]
#[ignore = "a measurement at full size: 0.8 GB of memory, 1.1 GB of disk, minutes"]
fn the_filter_at_full_size() {
    let dir = tempfile::tempdir().unwrap();
    let full = DEFAULT_MAX_TAGS as usize;
    let (before, mut peak) = (resident(), 0);
    let mut shard_full = shard();
    let mut log = ShardLog::new(owner(dir.path()), 0, 1, 0);
    let mut batch: Vec<Seen> = Vec::with_capacity(BATCH);
    let mut times = Vec::with_capacity(TIMED);
    let windows = [(full / 10, "10 %"), (full / 5 * 4, "80 %"), (full, "100 %")];
    let (start, used) = (Instant::now(), cpu());
    for n in 0..full {
        let window = windows.iter().find(|(end, _)| (end - TIMED.min(*end)..*end).contains(&n));
        let began = window.map(|_| Instant::now());
        let verdict = shard_full.check(EPOCH, &tag(n), Route(n as u64));
        if let Some((began, (end, what))) = began.zip(window) {
            times.push(began.elapsed());
            if n + 1 == *end {
                say(&format!("insert at {what}"), &mut times, resident() - before);
                times.clear();
            }
        }
        let Verdict::New(seen) = verdict else { panic!("{n}: {verdict:?}") };
        batch.push(seen);
        if batch.len() == BATCH {
            log.write(&batch).unwrap();
            batch.clear();
        }
        if n % (1 << 20) == 0 {
            peak = peak.max(resident() - before);
        }
    }
    log.write(&batch).unwrap();
    peak = peak.max(resident() - before);
    println!(
        "filling and logging: {:.1} s, {:.1} s of a processor; peak {} MB resident",
        start.elapsed().as_secs_f64(),
        cpu() - used,
        peak / 1_000_000
    );
    assert!(peak <= 800_000_000, "{peak} bytes: the design allows 0.8 GB");
    assert_eq!(shard_full.fill(EPOCH), Fill::Full);
    for n in (0..full).step_by(997) {
        assert_eq!(shard_full.check(EPOCH, &tag(n), Route(0)), Verdict::Replay, "{n}");
    }
    assert_eq!(shard_full.check(EPOCH, &tag(full), Route(0)), Verdict::Full);
    drop((shard_full, log));
    println!("after its keys: {} MB resident", resident().saturating_sub(before) / 1_000_000);

    // As after SIGKILL: nothing was closed.
    let (start, used) = (Instant::now(), cpu());
    let mut back = shard();
    let held = sizes(dir.path()).unwrap()[&EPOCH];
    assert_eq!(held, DEFAULT_MAX_TAGS);
    back.reserve(EPOCH, held as usize);
    let loaded = load(&owner(dir.path()), |seen| back.restore(seen)).unwrap();
    println!(
        "read back: {:.1} s, {:.1} s of a processor; {} MB resident",
        start.elapsed().as_secs_f64(),
        cpu() - used,
        (resident() - before) / 1_000_000
    );
    assert!(loaded.spoiled.is_empty());
    assert!(resident() - before <= 800_000_000);
    for n in (0..full).step_by(997) {
        assert_eq!(back.check(EPOCH, &tag(n), Route(0)), Verdict::Replay, "{n}");
    }
    assert_eq!(back.check(EPOCH, &tag(full), Route(0)), Verdict::Full);
}
