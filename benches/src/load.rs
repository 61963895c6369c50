//! Load on the store: many clients, each with one command in flight, over the same channel and thread as in a relay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use posta_protocol::admission::QueueKind;
use posta_protocol::ids::{QueueId, WriterId};
use posta_protocol::now::{Mono, Now, Wall};
use posta_store::driver::{self, Job};
use posta_store::{Outcome, QueueOp, QueueStore};
use serde::Serialize;
use tokio::sync::mpsc;

/// Commands that wait, as in a relay.
const JOBS: usize = 4_096;
/// Batches of outcomes that wait, as in a relay.
const OUTCOMES: usize = 16;

/// The moment, for measuring.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub fn instant() -> Instant {
    Instant::now()
}

/// The store's clock: real for timers, and whatever hour the bench says for lifetimes.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    hour: Arc<AtomicU32>,
}

impl Clock {
    /// A clock that stands at an hour.
    #[must_use]
    pub fn at(hour: u32) -> Self {
        Self { start: instant(), hour: Arc::new(AtomicU32::new(hour)) }
    }

    /// Moves on to an hour.
    pub fn set(&self, hour: u32) {
        self.hour.store(hour, Ordering::Relaxed);
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Now {
        let mono = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now { mono: Mono(mono), wall: Wall(u64::from(self.hour.load(Ordering::Relaxed)) * 3_600_000) }
    }
}

/// The hashes of the n-th queue's capabilities.
#[must_use]
pub fn ids(n: u64) -> (QueueId, WriterId) {
    let mut out = [0; 64];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut out);
    let (mut queue, mut writer) = ([0; 32], [0; 32]);
    queue.copy_from_slice(out.split_at(32).0);
    writer.copy_from_slice(out.split_at(32).1);
    (QueueId(queue), WriterId(writer))
}

/// The command that makes the n-th queue.
#[must_use]
pub fn create(n: u64) -> QueueOp {
    let (queue, writer) = ids(n);
    QueueOp::Create { queue, writer, kind: QueueKind::Plain }
}

/// Latencies of one kind of command, and their rate.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rate {
    /// Commands a second.
    pub per_s: f64,
    /// Median time from command to outcome, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 were faster, in microseconds.
    pub p99_us: f64,
}

/// What was measured, before it is summed up.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    us: Vec<f64>,
    seconds: f64,
}

impl Samples {
    /// Adds commands that took this long each.
    pub fn add(&mut self, time: Duration, count: usize) {
        self.us.extend(std::iter::repeat_n(time.as_secs_f64() * 1e6, count));
    }

    /// Adds to the time in which they were made.
    pub fn lasted(&mut self, time: Duration) {
        self.seconds += time.as_secs_f64();
    }

    /// Takes over what another measurement found.
    pub fn join(&mut self, other: Self) {
        self.us.extend(other.us);
        self.seconds += other.seconds;
    }

    /// Rate and percentiles.
    #[must_use]
    pub fn rate(mut self) -> Rate {
        self.us.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (self.us.len() as f64 * share) as usize;
            self.us.get(place).or_else(|| self.us.last()).copied().unwrap_or(0.0)
        };
        Rate {
            per_s: round(self.us.len() as f64 / self.seconds, 1),
            p50_us: round(at(0.5), 1),
            p99_us: round(at(0.99), 1),
        }
    }
}

/// Rounds to some decimals.
#[must_use]
pub fn round(value: f64, decimals: i32) -> f64 {
    let unit = 10_f64.powi(decimals);
    (value * unit).round() / unit
}

/// A store on its thread.
#[derive(Debug)]
pub struct Load {
    jobs: mpsc::Sender<Job<usize>>,
    outcomes: mpsc::Receiver<Vec<(usize, Outcome)>>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn start(store: impl QueueStore + 'static, clock: &Clock) -> Result<Self> {
        let (jobs, waiting) = mpsc::channel(JOBS);
        let (results, outcomes) = mpsc::channel(OUTCOMES);
        let clock = clock.clone();
        let thread = driver::start(Box::new(store), move || clock.now(), waiting, results)?;
        Ok(Self { jobs, outcomes, thread })
    }

    /// Lets the store erase what has ended, in the background.
    ///
    /// # Errors
    /// If it has stopped.
    pub fn sweep(&self) -> Result<()> {
        self.jobs.try_send(Job::Sweep).map_err(|_| anyhow!("the store takes no work"))
    }

    /// Runs `clients` side by side, each with one command in flight: `next` gives a client's next command, or none when
    /// it has no more; `done` sees each outcome and says whether its time counts. Ends after `seconds`.
    ///
    /// # Errors
    /// What `done` says, or that the store has stopped.
    pub fn run(
        &mut self,
        clients: usize,
        seconds: f64,
        next: impl FnMut(usize) -> Option<QueueOp>,
        mut done: impl FnMut(usize, Outcome) -> Result<bool>,
    ) -> Result<Samples> {
        let mut samples = Samples::default();
        let lasted = self.run_timed(clients, seconds, next, |client, outcome, took| {
            if done(client, outcome)? {
                samples.add(took, 1);
            }
            Ok(())
        })?;
        samples.lasted(lasted);
        Ok(samples)
    }

    /// The same, where `done` sees how long each command took. Returns how long all of it took.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn run_timed(
        &mut self,
        clients: usize,
        seconds: f64,
        mut next: impl FnMut(usize) -> Option<QueueOp>,
        mut done: impl FnMut(usize, Outcome, Duration) -> Result<()>,
    ) -> Result<Duration> {
        // A writer has its next message ready before the last one is answered, as one that waits in a relay is.
        let mut ready: Vec<Option<QueueOp>> = (0..clients).map(&mut next).collect();
        let start = instant();
        let mut sent = vec![start; clients];
        let mut flying = 0_usize;
        let mut free: Vec<usize> = (0..clients).collect();
        loop {
            for &client in &free {
                let op = ready.get_mut(client).and_then(|ready| ready.take().or_else(|| next(client)));
                let (Some(op), Some(sent)) = (op, sent.get_mut(client)) else { continue };
                *sent = instant();
                self.jobs.try_send(Job::Op(client, op)).map_err(|_| anyhow!("the store takes no work"))?;
                flying += 1;
            }
            if flying == 0 {
                break;
            }
            for client in free.drain(..) {
                if let Some(ready) = ready.get_mut(client) {
                    *ready = next(client);
                }
            }
            let outcomes = self.outcomes.blocking_recv().context("the store has stopped")?;
            let now = instant();
            for (client, outcome) in outcomes {
                flying -= 1;
                let since = sent.get(client).copied().unwrap_or(now);
                done(client, outcome, now.duration_since(since))?;
                if now.duration_since(start).as_secs_f64() < seconds {
                    free.push(client);
                }
            }
        }
        Ok(start.elapsed())
    }

    /// Stops the thread and closes the store.
    ///
    /// # Errors
    /// If the thread has panicked.
    pub fn stop(self) -> Result<()> {
        drop(self.jobs);
        drop(self.outcomes);
        ensure!(self.thread.join().is_ok(), "the storage thread has panicked");
        Ok(())
    }
}
