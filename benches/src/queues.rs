//! Many queues in one store: what each costs on disk and in memory, and that nothing gets slower.

use std::collections::BTreeMap;
use std::ops::{Range, RangeFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use posta_store::{Limits, Outcome, QueueOp, QueueStore, RocksStore, floor};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;

use crate::load::{Clock, Load, Samples, create, ids, instant, round};
use crate::store::{Sender, bodies, folder_bytes, open};
use work::{lookups_of, work};

mod work;

/// Queues from which on nothing may get slower.
const FEW: u64 = 10_000;
/// Queues in one batch while all the others are made.
const FILL: usize = 4_096;
/// What is measured on many queues needs so many.
const LEAST: u64 = 10 * FEW;
/// Clients side by side.
const CLIENTS: usize = 64;
/// Few and all queues are measured in turns, so many of each; a figure is the median of its turns.
const TURNS: usize = 5;
/// Seconds of a turn, of lookups alone, and of sends with and without expiry.
const SECONDS: f64 = 5.0;
/// The same below [`FULL`] queues, where the commands are counted and not the seconds.
const SHORT_SECONDS: f64 = 1.0;
const FULL: u64 = 1_000_000;
/// Seconds of sends while queues expire, at most.
const EXPIRY_SECONDS: f64 = 120.0;
/// One queue in so many holds a message, and one in so many expires.
const WITH_MESSAGE: u64 = 100;
const EXPIRING: u64 = 10;
/// The hour in which the queues are made that expire, and that of the others.
const FIRST_HOUR: u32 = 0;
const HOUR: u32 = 1_000;

/// All figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Queues.
    pub queues: u64,
    /// How many of them hold a message.
    pub with_message: u64,
    /// Bytes on disk, without the tables of messages.
    pub disk_bytes: u64,
    /// The same for each queue.
    pub disk_bytes_per_queue: f64,
    /// Bytes of table files by table.
    pub table_bytes: BTreeMap<&'static str, u64>,
    /// Memory of the process with the store open and used.
    pub resident_bytes: u64,
    /// The most that it was since the program started, building included.
    pub peak_resident_bytes: u64,
    /// On a relay at work: 64 clients create, look up, send and acknowledge.
    pub create: Grown,
    /// Among the same work.
    pub lookup: Grown,
    /// While 64 clients do nothing but look up: 10 k queues are all in memory, all queues are not.
    pub lookup_alone: Grown,
    /// Seconds to open the store with all queues.
    pub restart_s: f64,
    /// Seconds to make them.
    pub build_s: f64,
    /// Queues that end while others are written to.
    pub expiry: Expiry,
}

/// How much longer commands take with all queues than with few: medians over the turns.
#[derive(Debug, Serialize)]
pub struct Grown {
    /// 99 of 100 were faster, in microseconds, with 10 k queues.
    pub p99_us_few: f64,
    /// The same with all.
    pub p99_us: f64,
    /// All by few.
    pub ratio: f64,
    /// The same of each turn.
    pub ratios: Vec<f64>,
}

impl Grown {
    fn new(few: &[f64], many: &[f64]) -> Self {
        let ratios = many.iter().zip(few).map(|(many, few)| round(many / few, 2)).collect();
        let (p99_us_few, p99_us) = (median(few), median(many));
        Self { p99_us_few, p99_us, ratio: round(p99_us / p99_us_few, 2), ratios }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// The 99th percentiles of a turn, in microseconds, and the process's memory at its end.
struct Turn {
    resident: u64,
    create: f64,
    lookup: f64,
    alone: f64,
}

impl Turn {
    /// Works on the store in `path`, then only looks up.
    fn of(
        path: &Path,
        count: u64,
        clock: &Clock,
        new: &mut RangeFrom<u64>,
        known: &Range<u64>,
        sender: &mut Sender<'_>,
    ) -> Result<Self> {
        let mut load = Load::start(opened(path, count)?.0, clock)?;
        let seconds = seconds(count);
        let work = work(&mut load, seconds, new, known, sender)?;
        let alone = lookups(&mut load, seconds, known)?;
        let (resident, _) = memory()?;
        load.stop()?;
        let p99 = |samples: Samples| samples.rate().p99_us;
        Ok(Self { resident, create: p99(work.creates), lookup: p99(work.lookups), alone: p99(alone) })
    }

    /// The same in a store that holds [`FEW`] queues.
    fn of_few(dir: &Path, count: u64, clock: &Clock, bodies: &[Box<[u8]>]) -> Result<Self> {
        let folder = tempfile::tempdir_in(dir)?;
        let mut store = open(folder.path(), limits(count))?;
        fill(&mut store, clock, 0..FEW)?;
        drop(store);
        let mut sender = Sender::new(0..FEW, CLIENTS, bodies);
        Self::of(folder.path(), count, clock, &mut (FEW..), &(0..FEW), &mut sender)
    }
}

const fn seconds(count: u64) -> f64 {
    if count < FULL { SHORT_SECONDS } else { SECONDS }
}

/// Expiry in the background of sends.
#[derive(Debug, Serialize)]
pub struct Expiry {
    /// Queues that ended.
    pub due: u64,
    /// How many were erased while the senders went on.
    pub erased: u64,
    /// In how many seconds.
    pub seconds: f64,
    /// 99 of 100 sends were faster, in microseconds, without.
    pub send_p99_us_before: f64,
    /// And meanwhile.
    pub send_p99_us: f64,
    /// Meanwhile by before.
    pub ratio: f64,
}

fn limits(count: u64) -> Limits {
    Limits { max_queues: count * 2 + FEW * 4, disk_quota_bytes: u64::MAX, queue_quota: u32::MAX, ..Limits::default() }
}

/// Makes queues in large batches, on the thread that calls: it is what they cost afterwards that is measured.
///
/// # Errors
/// If the store refuses one.
pub fn fill(store: &mut RocksStore, clock: &Clock, range: Range<u64>) -> Result<()> {
    let mut ops = Vec::with_capacity(FILL);
    for n in range.clone() {
        ops.push(create(n));
        if ops.len() == FILL || n + 1 == range.end {
            ensure!(store.apply(clock.now(), &ops).iter().all(|o| *o == Outcome::Created), "a queue was refused");
            ops.clear();
        }
        if n % 500_000 == 499_999 {
            eprintln!("{:.1} million queues", (n + 1) as f64 / 1e6);
        }
    }
    Ok(())
}

/// Makes a store with `count` queues in a folder below `dir` and measures how long opening it takes.
///
/// # Errors
/// If the store refuses anything.
pub fn restart(dir: &Path, count: u64) -> Result<f64> {
    let folder = tempfile::tempdir_in(dir)?;
    let mut store = open(folder.path(), limits(count))?;
    fill(&mut store, &Clock::at(HOUR), 0..count)?;
    drop(store);
    Ok(opened(folder.path(), count)?.1)
}

fn opened(path: &Path, count: u64) -> Result<(RocksStore, f64)> {
    let start = instant();
    let store = open(path, limits(count))?;
    Ok((store, round(start.elapsed().as_secs_f64(), 3)))
}

/// Measures in a folder below `dir` with this many queues.
///
/// # Errors
/// If the store refuses anything or the disk fails.
pub fn measure(dir: &Path, count: u64) -> Result<Figures> {
    ensure!(count >= LEAST, "at least {LEAST} queues");
    let folder = tempfile::tempdir_in(dir)?;
    let path = folder.path();
    let bodies = bodies(&mut ChaCha20Rng::seed_from_u64(1));
    let clock = Clock::at(FIRST_HOUR);
    let expiring = count / EXPIRING;
    let start = instant();

    let mut store = open(path, limits(count))?;
    fill(&mut store, &clock, 0..expiring)?;
    clock.set(HOUR);
    fill(&mut store, &clock, expiring..count)?;
    eprintln!("{count} queues after {:.0} s", start.elapsed().as_secs_f64());
    let mut load = Load::start(store, &clock)?;
    let with_message = count / WITH_MESSAGE;
    let step = (count - expiring) / with_message;
    let mut sender = Sender::new((0..with_message).map(|n| expiring + n * step), CLIENTS, &bodies);
    let mut left = with_message;
    let next = |client| {
        left = left.checked_sub(1)?;
        sender.next(client).map(|(op, ..)| op)
    };
    load.run(CLIENTS, f64::MAX, next, |_, outcome| Ok(matches!(outcome, Outcome::Accepted { .. })))?;
    load.stop()?;
    // Nobody gets millions of queues in minutes: what they leave to be merged is no part of what is measured.
    floor::settle(path)?;
    let build_s = round(start.elapsed().as_secs_f64(), 1);

    let (store, restart_s) = opened(path, count)?;
    drop(store);
    let table_bytes = floor::table_bytes(path)?;
    let disk_bytes = folder_bytes(path)? - table_bytes.get("messages").copied().unwrap_or(0);

    let (known, mut new) = (expiring..count, count..);
    // Neither of those that hold a message nor of those beside them, which are sent to now.
    let unused = (count - count.min(2 * FULL) / 50..count).filter(move |n| (n - expiring) % step > 1);
    let mut sender = Sender::new((0..with_message).map(|n| expiring + 1 + n * step), CLIENTS, &bodies);
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        few.push(Turn::of_few(dir, count, &clock, &bodies)?);
        many.push(Turn::of(path, count, &clock, &mut new, &known, &mut sender)?);
        eprintln!("turn {turn} of {TURNS} after {:.0} s", start.elapsed().as_secs_f64());
    }
    let grown = |of: fn(&Turn) -> f64| {
        let of = |turns: &[Turn]| turns.iter().map(of).collect::<Vec<_>>();
        Grown::new(&of(&few), &of(&many))
    };
    let (create, lookup, lookup_alone) = (grown(|t| t.create), grown(|t| t.lookup), grown(|t| t.alone));
    let resident_bytes = many.iter().map(|turn| turn.resident).max().unwrap_or(0);
    let (_, peak_resident_bytes) = memory()?;

    let expiry = expire(path, count, unused, &clock, &bodies)?;
    Ok(Figures {
        queues: count,
        with_message,
        disk_bytes,
        disk_bytes_per_queue: round(disk_bytes as f64 / count as f64, 1),
        table_bytes,
        resident_bytes,
        peak_resident_bytes,
        create,
        lookup,
        lookup_alone,
        restart_s,
        build_s,
        expiry,
    })
}

fn lookups(load: &mut Load, seconds: f64, known: &Range<u64>) -> Result<Samples> {
    let mut next = lookups_of(known);
    load.run(
        CLIENTS,
        seconds,
        |_| Some(next()),
        |_, outcome| match outcome {
            Outcome::Empty | Outcome::Message { .. } => Ok(true),
            other => bail!("a queue was not found: {other:?}"),
        },
    )
}

/// Sends to `unused` queues, each acknowledged at once, before and while the first queues end.
fn expire(
    path: &Path,
    count: u64,
    unused: impl Iterator<Item = u64>,
    clock: &Clock,
    bodies: &[Box<[u8]>],
) -> Result<Expiry> {
    let due = count / EXPIRING;
    let (store, _) = opened(path, count)?;
    let mut load = Load::start(store, clock)?;
    let mut sender = Sender::new(unused, CLIENTS, bodies);
    let mut measure = |load: &mut Load, seconds: f64| -> Result<Samples> {
        let mut acks = vec![None; CLIENTS];
        let next = |client: usize| {
            let slot = acks.get_mut(client)?;
            if let Some(ack) = slot.take() {
                return Some(ack);
            }
            let (send, queue, sequence) = sender.next(client)?;
            *slot = Some(QueueOp::Ack { queue: ids(queue).0, up_to: sequence });
            Some(send)
        };
        load.run(CLIENTS, seconds, next, |_, outcome| match outcome {
            Outcome::Accepted { .. } => Ok(true),
            Outcome::Done => Ok(false),
            other => bail!("a command was refused: {other:?}"),
        })
    };
    // The same hour before and meanwhile would be best, but then nothing would be due: only its number differs.
    measure(&mut load, 1.0)?;
    let before = measure(&mut load, seconds(count))?.rate().p99_us;
    clock.set(HOUR + 1_200);
    load.sweep()?;
    let start = instant();
    let mut samples = Samples::default();
    let (erased, seconds) = loop {
        samples.join(measure(&mut load, seconds(count))?);
        let passed = start.elapsed().as_secs_f64();
        let gone = gone(&mut load, due)?;
        eprintln!("{gone} of {due} queues erased after {passed:.0} s");
        if gone >= due || passed >= EXPIRY_SECONDS {
            break (gone, round(passed, 1));
        }
    };
    load.stop()?;
    let send_p99_us = samples.rate().p99_us;
    Ok(Expiry { due, erased, seconds, send_p99_us_before: before, send_p99_us, ratio: round(send_p99_us / before, 2) })
}

/// How many of the first queues are gone: they go in the order of their hashes, so that a sample tells.
fn gone(load: &mut Load, due: u64) -> Result<u64> {
    const SAMPLE: u64 = 1_000;
    let sample = SAMPLE.min(due);
    let mut asked = 0..sample;
    let mut gone = 0;
    let next = |_| asked.next().map(|n| QueueOp::Read { queue: ids(n * (due / sample)).0, after: 0, skip: Vec::new() });
    load.run(CLIENTS, f64::MAX, next, |_, outcome| {
        match outcome {
            Outcome::Refused(posta_store::Refusal::BadCapability) => gone += 1,
            Outcome::Refused(posta_store::Refusal::Expired) => {}
            other => bail!("a queue that has ended is used: {other:?}"),
        }
        Ok(true)
    })?;
    Ok(due * gone / sample)
}

/// Resident memory of this process, now and at its peak.
fn memory() -> Result<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let bytes = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("/proc/self/status")?;
        let kib = line.trim().trim_end_matches(" kB").trim();
        Ok(kib.parse::<u64>()? * 1024)
    };
    Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
}
