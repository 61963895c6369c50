//! The storage thread (`posta_store::driver`) with the relay's clock and bounds.

use std::io;
use std::thread::JoinHandle;

use posta_store::driver::{self, Job};
use posta_store::{Outcome, QueueStore};
use tokio::sync::mpsc;

use super::clock::Clock;
use crate::queue::MAX_PENDING;
use crate::relay::Token;

/// Operations that wait: as many as the core leaves open, and a sweep.
pub(crate) const STORE_QUEUE: usize = MAX_PENDING + 8;
/// Batches of outcomes that wait for the owner; then the store waits.
pub(crate) const OUTCOME_QUEUE: usize = 16;

/// Work for the store.
pub(crate) type StoreJob = Job<Token>;

/// Starts the thread. It ends when the last sender of its jobs is gone and all are done.
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn start(
    store: Box<dyn QueueStore>,
    clock: Clock,
    jobs: mpsc::Receiver<StoreJob>,
    outcomes: mpsc::Sender<Vec<(Token, Outcome)>>,
) -> io::Result<JoinHandle<()>> {
    driver::start(store, move || clock.now(), jobs, outcomes)
}
