//! The storage thread: drains what waits, applies it as one batch, syncs once.
//!
//! ```text
//! jobs (bounded) -> [ what waits, at most BATCH -> apply: one write, one sync -> outcomes (bounded) -> a slice of the sweep ]
//! ```
//! Nobody waits for company: a single writer's command is a batch of one. While one batch is being synced the next one
//! gathers in the channel, so that batches grow with the load by themselves. (Looking out for more for a moment before a
//! batch goes was tried: more in a batch, no more messages a second.)
//!
//! **The janitor** is a [`Job::Sweep`]. What has ended is erased in slices of [`SLICE`] entries: one after each batch
//! while there is work, one after the other while there is none. So a writer waits for one slice at most, which costs
//! no sync, and a million ended queues still go away under full load.

use std::io;
use std::thread::{self, JoinHandle};

use posta_protocol::now::Now;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tracing::error;

use crate::{Limits, Outcome, QueueOp, QueueStore};

/// Operations in one batch.
pub const BATCH: usize = 256;
/// Entries that a sweep works off before it looks for operations again: about a millisecond.
pub const SLICE: usize = 64;

/// Work for the store.
#[derive(Debug)]
pub enum Job<T> {
    /// An operation, and what its outcome comes back with.
    Op(T, QueueOp),
    /// Erase what has expired.
    Sweep,
    /// Take over other limits.
    Limits(Box<Limits>),
}

/// Starts the thread. It ends, and closes the store, when the last sender of jobs is gone and all are done, or when
/// nobody takes outcomes any more.
///
/// # Errors
/// If the system gives no thread.
pub fn start<T: Send + 'static>(
    store: Box<dyn QueueStore>,
    now: impl Fn() -> Now + Send + 'static,
    jobs: mpsc::Receiver<Job<T>>,
    outcomes: mpsc::Sender<Vec<(T, Outcome)>>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("posta-store".into()).spawn(move || run(store, now, jobs, &outcomes))
}

fn run<T>(
    mut store: Box<dyn QueueStore>,
    now: impl Fn() -> Now,
    mut jobs: mpsc::Receiver<Job<T>>,
    outcomes: &mpsc::Sender<Vec<(T, Outcome)>>,
) {
    let (mut tokens, mut ops) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let mut sweeping = false;
    loop {
        let mut next = if sweeping {
            match jobs.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return,
            }
        } else {
            let Some(job) = jobs.blocking_recv() else { return };
            Some(job)
        };
        while let Some(job) = next {
            match job {
                Job::Op(token, op) => {
                    tokens.push(token);
                    ops.push(op);
                }
                Job::Sweep => sweeping = true,
                Job::Limits(limits) => store.set_limits(*limits),
            }
            next = if ops.len() < BATCH { jobs.try_recv().ok() } else { None };
        }
        if !ops.is_empty() {
            let results = store.apply(now(), &ops);
            if results.len() != ops.len() {
                error!("the store gave {} outcomes for {} operations", results.len(), ops.len());
            }
            if outcomes.blocking_send(tokens.drain(..).zip(results).collect()).is_err() {
                return;
            }
            // Not before: freeing the messages takes a while, and somebody waits for the outcomes.
            ops.clear();
        }
        if sweeping {
            sweeping = store.sweep(now(), SLICE) == SLICE;
        }
    }
}
