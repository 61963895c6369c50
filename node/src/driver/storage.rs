//! The storage thread: drains what waits, applies it as one batch, syncs once.

use std::io;
use std::thread::{self, JoinHandle};

use posta_store::{Outcome, QueueOp, QueueStore};
use tokio::sync::mpsc;
use tracing::error;

use super::clock::Clock;
use crate::queue::MAX_PENDING;
use crate::relay::Token;

/// Operations that wait: as many as the core leaves open, and a sweep.
pub(crate) const STORE_QUEUE: usize = MAX_PENDING + 8;
/// Operations in one batch.
const BATCH: usize = 256;
/// Batches of outcomes that wait for the owner; then the store waits.
pub(crate) const OUTCOME_QUEUE: usize = 16;
/// Entries that one sweep works off.
const SWEEP: usize = 512;

/// Work for the store.
pub(crate) enum StoreJob {
    Op(Token, QueueOp),
    /// Erase what has expired.
    Sweep,
}

/// Starts the thread. It ends when the last sender of its jobs is gone and all are done.
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn start(
    mut store: Box<dyn QueueStore>,
    clock: Clock,
    mut jobs: mpsc::Receiver<StoreJob>,
    outcomes: mpsc::Sender<Vec<(Token, Outcome)>>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("posta-store".into()).spawn(move || {
        let (mut tokens, mut ops) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        while let Some(job) = jobs.blocking_recv() {
            let mut sweep = false;
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    StoreJob::Op(token, op) => {
                        tokens.push(token);
                        ops.push(op);
                    }
                    StoreJob::Sweep => sweep = true,
                }
                next = if ops.len() < BATCH { jobs.try_recv().ok() } else { None };
            }
            if !ops.is_empty() {
                let results = store.apply(clock.now(), &ops);
                if results.len() != ops.len() {
                    error!("the store gave {} outcomes for {} operations", results.len(), ops.len());
                }
                ops.clear();
                if outcomes.blocking_send(tokens.drain(..).zip(results).collect()).is_err() {
                    break;
                }
            }
            if sweep {
                while store.sweep(clock.now(), SWEEP) == SWEEP && jobs.is_empty() {}
            }
        }
    })
}
