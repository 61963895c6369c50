//! Durable commands a second, beside RocksDB alone with the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use posta_protocol::ids::Incarnation;
use posta_protocol::params::BOX_LEN;
use posta_store::floor::{Layout, Raw, RawStore};
use posta_store::{Limits, Outcome, QueueOp, RocksStore};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;

use crate::load::{Clock, Load, Rate, Samples, ids, instant, round};
use crate::queues;

/// Writers side by side.
const WRITERS: [usize; 4] = [1, 8, 64, 256];
/// The number of writers whose ratio has a budget, and of readers.
const MANY: usize = 64;
/// Slices in which ours and the floor take turns.
const TURNS: usize = 3;
/// Queues that the writers spread over.
const QUEUES: u64 = 4_096;
/// Different bodies: random, as ciphertext is.
const BODIES: usize = 64;
/// The hour at which everything happens.
const HOUR: u32 = 1_000;
/// Messages for reading, acknowledging and comparing layouts.
const MESSAGES: u64 = 16_384;
/// How many messages later one is acknowledged, where that happens soon.
const SOON: u64 = 512;
/// Where some readers never come: one message of so many stays.
const STAYS: u64 = 10;

/// All figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Durable sends a second with 64 writers, by RocksDB's own with the same writers, thread and batching.
    pub ratio_to_raw: f64,
    /// By RocksDB's own in a loop of full batches, with nobody to answer.
    pub ratio_to_loop: f64,
    /// By number of writers.
    pub writers: BTreeMap<usize, Writers>,
    /// Messages read, 64 readers side by side.
    pub reads: Rate,
    /// Messages acknowledged one by one, 64 readers side by side.
    pub acks: Rate,
    /// Opening the store.
    pub restart: Restart,
    /// What the store would be with its values elsewhere; on RocksDB alone.
    pub layouts: BTreeMap<&'static str, Kept>,
}

/// One number of writers.
#[derive(Debug, Serialize)]
pub struct Writers {
    /// The store.
    pub sends: Rate,
    /// RocksDB's `WriteBatch` and sync alone behind the same storage thread, which fills the batches.
    pub raw: Rate,
    /// RocksDB in a loop: one `WriteBatch` with as many messages as there are writers, one sync, again.
    pub raw_loop: Rate,
    /// Sends a second by raw.
    pub ratio: f64,
    /// Sends a second by the loop.
    pub ratio_to_loop: f64,
}

/// Opening a store.
#[derive(Debug, Serialize)]
pub struct Restart {
    /// Queues in it.
    pub queues: u64,
    /// Seconds until it takes commands.
    pub seconds: f64,
}

/// A layout under three habits of readers.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// Readers that are there: each message is acknowledged `SOON` messages later.
    pub soon: Cost,
    /// Readers that come back: all are read and acknowledged at the end.
    pub late: Cost,
    /// Readers of which one in `STAYS` never comes: at the end, its messages lie between what is gone.
    pub some_stay: Cost,
}

/// What a layout costs.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Messages written and acknowledged, a second.
    pub per_s: f64,
    /// Messages read, a second.
    pub reads_per_s: f64,
    /// Bytes written by the process for each byte of message.
    pub written: f64,
    /// Bytes on disk at the end, when the compactions that are due are done, by the bytes of all messages.
    pub left: f64,
}

/// Random bodies.
pub(crate) fn bodies(rng: &mut ChaCha20Rng) -> Vec<Box<[u8]>> {
    let body = |_| {
        let mut body = vec![0; BOX_LEN];
        rng.fill_bytes(&mut body);
        body.into()
    };
    (0..BODIES).map(body).collect()
}

/// A store with room for all that a bench does.
pub(crate) fn open(path: &Path, limits: Limits) -> Result<RocksStore> {
    RocksStore::open(path, limits, Incarnation([7; 16])).context("opening the store")
}

fn roomy() -> Limits {
    Limits { queue_quota: u32::MAX, disk_quota_bytes: u64::MAX, ..Limits::default() }
}

/// Measures in folders below `dir`, `seconds` for each slice; opens a store with `queues` queues at the end.
///
/// # Errors
/// If the store refuses anything or the disk fails.
pub fn measure(dir: &Path, seconds: f64, queues: u64) -> Result<Figures> {
    let bodies = bodies(&mut ChaCha20Rng::seed_from_u64(1));
    let mut writers = BTreeMap::new();
    for count in WRITERS {
        let [mut ours, mut raw, mut tight] = [(); 3].map(|()| Samples::default());
        for _ in 0..TURNS {
            ours.join(sends(dir, count, seconds, &bodies)?);
            raw.join(raw_sends(dir, count, seconds, &bodies)?);
            tight.join(raw_loop(dir, count, seconds, &bodies)?);
        }
        let (sends, raw, raw_loop) = (ours.rate(), raw.rate(), tight.rate());
        let ratio = round(sends.per_s / raw.per_s, 3);
        let ratio_to_loop = round(sends.per_s / raw_loop.per_s, 3);
        eprintln!("{count} writers: {sends:?}, raw {raw:?}, ratio {ratio}; loop {raw_loop:?}, ratio {ratio_to_loop}");
        writers.insert(count, Writers { sends, raw, raw_loop, ratio, ratio_to_loop });
    }
    let (reads, acks) = reads_and_acks(dir, seconds, &bodies)?;
    let mut layouts = BTreeMap::new();
    for (name, layout) in [("sst", Layout::Plain), ("blob", Layout::Blob), ("blob_eager", Layout::EagerBlob)] {
        let cost = |lag, stays| cost(dir, layout, lag, stays, &bodies);
        let kept =
            Kept { soon: cost(SOON, None)?, late: cost(MESSAGES, None)?, some_stay: cost(MESSAGES, Some(STAYS))? };
        eprintln!("{name}: {kept:?}");
        layouts.insert(name, kept);
    }
    let restart = Restart { queues, seconds: queues::restart(dir, queues)? };
    let (ratio_to_raw, ratio_to_loop) = writers.get(&MANY).map_or((0.0, 0.0), |w| (w.ratio, w.ratio_to_loop));
    Ok(Figures { ratio_to_raw, ratio_to_loop, writers, reads, acks, restart, layouts })
}

/// Sends that spread over queues, each queue's numbers in order.
pub(crate) struct Sender<'b> {
    queues: Vec<(u64, u64)>,
    turn: Vec<usize>,
    bodies: &'b [Box<[u8]>],
}

impl<'b> Sender<'b> {
    /// Client `c` of `clients` sends to every `clients`-th of `queues`, starting with the c-th.
    pub(crate) fn new(queues: impl Iterator<Item = u64>, clients: usize, bodies: &'b [Box<[u8]>]) -> Self {
        Self { queues: queues.map(|n| (n, 0)).collect(), turn: (0..clients).collect(), bodies }
    }

    /// The client's next message, the queue's number and the message's own.
    pub(crate) fn next(&mut self, client: usize) -> Option<(QueueOp, u64, u64)> {
        let clients = self.turn.len();
        let turn = self.turn.get_mut(client)?;
        let place = *turn;
        *turn += clients;
        if *turn >= self.queues.len() {
            *turn = client;
        }
        let (queue, sequence) = self.queues.get_mut(place)?;
        *sequence += 1;
        let body = self.bodies.get((place + *sequence as usize) % self.bodies.len())?.clone();
        Some((QueueOp::Send { writer: ids(*queue).1, sequence: *sequence, body }, *queue, *sequence))
    }
}

fn sends(dir: &Path, clients: usize, seconds: f64, bodies: &[Box<[u8]>]) -> Result<Samples> {
    let folder = tempfile::tempdir_in(dir)?;
    let clock = Clock::at(HOUR);
    let mut store = open(folder.path(), roomy())?;
    queues::fill(&mut store, &clock, 0..QUEUES)?;
    let mut load = Load::start(store, &clock)?;
    let mut sender = Sender::new(0..QUEUES, clients, bodies);
    let samples = load.run(clients, seconds, |c| sender.next(c).map(|(op, ..)| op), accepted)?;
    load.stop()?;
    Ok(samples)
}

fn accepted(_: usize, outcome: Outcome) -> Result<bool> {
    match outcome {
        Outcome::Accepted { .. } => Ok(true),
        other => bail!("a message was not accepted: {other:?}"),
    }
}

/// The key of a message, as the store's are.
fn key(message: u64) -> [u8; 41] {
    let mut key = [0; 41];
    let (queue, sequence) = (ids(message % QUEUES).0, message / QUEUES + 1);
    for (place, byte) in key.iter_mut().zip(queue.0.into_iter().chain(sequence.to_be_bytes())) {
        *place = byte;
    }
    key
}

fn raw_sends(dir: &Path, clients: usize, seconds: f64, bodies: &[Box<[u8]>]) -> Result<Samples> {
    let folder = tempfile::tempdir_in(dir)?;
    let mut load = Load::start(RawStore(Raw::open(folder.path(), Layout::Stock)?), &Clock::at(HOUR))?;
    let mut sender = Sender::new(0..QUEUES, clients, bodies);
    let samples = load.run(clients, seconds, |c| sender.next(c).map(|(op, ..)| op), accepted)?;
    load.stop()?;
    Ok(samples)
}

fn raw_loop(dir: &Path, clients: usize, seconds: f64, bodies: &[Box<[u8]>]) -> Result<Samples> {
    let folder = tempfile::tempdir_in(dir)?;
    let raw = Raw::open(folder.path(), Layout::Stock)?;
    let mut samples = Samples::default();
    let (start, mut next) = (instant(), 0);
    while start.elapsed().as_secs_f64() < seconds {
        let began = instant();
        let batch = (next..next + clients as u64).zip(bodies.iter().cycle());
        raw.put(batch.map(|(message, body)| (key(message), &**body)))?;
        next += clients as u64;
        samples.add(began.elapsed(), clients);
    }
    samples.lasted(start.elapsed());
    Ok(samples)
}

fn reads_and_acks(dir: &Path, seconds: f64, bodies: &[Box<[u8]>]) -> Result<(Rate, Rate)> {
    let folder = tempfile::tempdir_in(dir)?;
    let clock = Clock::at(HOUR);
    let mut store = open(folder.path(), roomy())?;
    queues::fill(&mut store, &clock, 0..QUEUES)?;
    let mut load = Load::start(store, &clock)?;
    let mut sender = Sender::new(0..QUEUES, MANY, bodies);
    let mut left = MESSAGES;
    let next = |client| {
        left = left.checked_sub(1)?;
        sender.next(client).map(|(op, ..)| op)
    };
    load.run(MANY, f64::MAX, next, accepted)?;

    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let next = |_| Some(QueueOp::Read { queue: ids(rng.next_u64() % QUEUES).0, after: 0, skip: Vec::new() });
    let reads = load.run(MANY, seconds, next, |_, outcome| match outcome {
        Outcome::Message { .. } => Ok(true),
        other => bail!("a message was not read: {other:?}"),
    })?;

    let mut message = 0;
    let next = |_| {
        let (queue, up_to) = (message % QUEUES, message / QUEUES + 1);
        message += 1;
        (message <= MESSAGES).then(|| QueueOp::Ack { queue: ids(queue).0, up_to })
    };
    let acks = load.run(MANY, f64::MAX, next, |_, outcome| match outcome {
        Outcome::Done => Ok(true),
        other => bail!("a message was not acknowledged: {other:?}"),
    })?;
    load.stop()?;
    Ok((reads.rate(), acks.rate()))
}

/// Bytes that this process has given to the disk.
fn written_bytes() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("write_bytes")?;
    Ok(line.trim().parse()?)
}

/// Bytes of all files in a folder.
pub(crate) fn folder_bytes(path: &Path) -> Result<u64> {
    std::fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

/// Writes messages in batches of [`MANY`] and erases each `lag` messages later, but one in `stays`.
fn cost(dir: &Path, layout: Layout, lag: u64, stays: Option<u64>, bodies: &[Box<[u8]>]) -> Result<Cost> {
    let folder = tempfile::tempdir_in(dir)?;
    let raw = Raw::open(folder.path(), layout)?;
    let (before, start) = (written_bytes()?, instant());
    let (many, mut erased) = (MANY as u64, 0);
    let mut reading = 0.0;
    let mut batch_at = 0;
    while erased < MESSAGES {
        if batch_at < MESSAGES {
            let batch = (batch_at..batch_at + many).zip(bodies.iter().cycle());
            raw.put(batch.map(|(message, body)| (key(message), &**body)))?;
        }
        batch_at += many;
        if batch_at >= lag + many {
            let began = instant();
            for message in erased..erased + many {
                raw.get(key(message))?.context("a message is missing")?;
            }
            reading += began.elapsed().as_secs_f64();
            let goes = |message: &u64| stays.is_none_or(|stays| !message.is_multiple_of(stays));
            raw.erase((erased..erased + many).filter(goes).map(key))?;
            erased += many;
        }
    }
    let took = start.elapsed().as_secs_f64();
    raw.settle()?;
    let bytes = (MESSAGES * BOX_LEN as u64) as f64;
    let written = (written_bytes()? - before) as f64 / bytes;
    let left = folder_bytes(folder.path())? as f64 / bytes;
    let expected = stays.map_or(0, |stays| MESSAGES.div_ceil(stays));
    ensure!(raw.entries() as u64 == expected, "something was not erased, or too much");
    Ok(Cost {
        per_s: round(MESSAGES as f64 / took, 1),
        reads_per_s: round(MESSAGES as f64 / reading, 1),
        written: round(written, 2),
        left: round(left, 3),
    })
}
