//! Worker threads: each peels, writes what it has newly seen, and only then passes the packets on.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use posta_protocol::onion::Peeled;
use posta_protocol::packet::Packet;
use tokio::sync::mpsc;
use tracing::error;

use super::replay_log::ShardLog;
use crate::relay::Source;
use crate::relay::replay::{Fill, ReplaySecret, Route};
use crate::relay::worker::{Peeler, Ring};

#[cfg(test)]
mod tests;

/// Packets that wait for a worker, about 1.3 MB or 3 ms of its work; then the links they come from wait, and their senders.
pub(crate) const WORKER_QUEUE: usize = 64;
/// Packets that a worker takes at once: one write to the log for all.
const BATCH: usize = 32;
/// Batches that wait for the owner; then the worker waits. With the queues before and behind it, what a flooded relay
/// holds leaves it within 100 ms.
pub(crate) const BATCH_QUEUE: usize = 2;

/// Work for a worker.
pub(crate) enum Job {
    Packet(Source, Packet, Route),
    Ring(Ring),
    /// Sync the log and end.
    Stop,
}

/// A batch of peeled packets, how many were dropped on the way, and how full the worker's share of the filter is.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) worker: usize,
    pub(crate) fill: Fill,
    pub(crate) peeled: Vec<(Source, Peeled, Packet)>,
    pub(crate) refused: u64,
    pub(crate) full: u64,
    pub(crate) unwritten: u64,
}

/// The way in for packets from links: picks the worker by the packet's route.
#[derive(Clone)]
pub(crate) struct Intake {
    secret: Arc<ReplaySecret>,
    workers: Arc<[mpsc::Sender<Job>]>,
}

impl Intake {
    /// Hands a packet over, and waits for room: backpressure reaches the sender through its stream. `false` once the
    /// workers are gone.
    pub(crate) async fn packet(&self, from: Source, packet: Packet) -> bool {
        let route = self.secret.route(&packet);
        let Some(worker) = self.workers.get(route.worker(self.workers.len())) else { return false };
        worker.send(Job::Packet(from, packet, route)).await.is_ok()
    }

    /// Gives all workers new keys.
    pub(crate) async fn ring(&self, ring: &Ring) {
        for worker in self.workers.iter() {
            // Fails only when the worker is gone, at the end.
            let _ = worker.send(Job::Ring(ring.clone())).await;
        }
    }

    /// Ends all workers once they have done what waits for them.
    pub(crate) async fn stop(self) {
        for worker in self.workers.iter() {
            // Fails only when the worker is gone already.
            let _ = worker.send(Job::Stop).await;
        }
    }
}

/// Starts a thread for each peeler. They end by [`Intake::stop`].
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn start(
    workers: Vec<(Peeler, ShardLog)>,
    secret: ReplaySecret,
    batches: &mpsc::Sender<Batch>,
) -> io::Result<(Intake, Vec<JoinHandle<()>>)> {
    let mut senders = Vec::with_capacity(workers.len());
    let mut threads = Vec::with_capacity(workers.len());
    for (number, (peeler, log)) in workers.into_iter().enumerate() {
        let (sender, jobs) = mpsc::channel(WORKER_QUEUE);
        let batches = batches.clone();
        let run = move || Worker { number, peeler, log, batches, failed: false }.run(jobs);
        threads.push(thread::Builder::new().name("posta-peel".into()).spawn(run)?);
        senders.push(sender);
    }
    Ok((Intake { secret: Arc::new(secret), workers: senders.into() }, threads))
}

struct Worker {
    number: usize,
    peeler: Peeler,
    log: ShardLog,
    batches: mpsc::Sender<Batch>,
    /// Whether the last write failed: said once.
    failed: bool,
}

impl Worker {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            let mut batch = Batch { worker: self.number, ..Batch::default() };
            let mut goes_on = self.work(job, &mut batch);
            for _ in 1..BATCH {
                let Ok(job) = jobs.try_recv() else { break };
                goes_on &= self.work(job, &mut batch);
            }
            self.write(&mut batch);
            batch.fill = self.peeler.fill();
            if self.batches.blocking_send(batch).is_err() || !goes_on {
                break;
            }
        }
        if let Err(e) = self.log.close() {
            error!("the replay log could not be synced: {e}; after a reboot its keys will be replaced");
        }
    }

    /// Returns whether there is to be more.
    fn work(&mut self, job: Job, batch: &mut Batch) -> bool {
        match job {
            Job::Stop => return false,
            Job::Packet(from, mut packet, route) => match self.peeler.peel_routed(&mut packet, route) {
                Ok(peeled) => batch.peeled.push((from, peeled, packet)),
                Err(_) => batch.refused += 1,
            },
            Job::Ring(ring) => {
                // What was peeled under the old keys is written before their files may go.
                self.write(batch);
                let oldest = ring.oldest();
                self.peeler.set_ring(ring);
                if let Err(e) = self.log.forget_before(oldest) {
                    error!("old files of the replay log could not be removed: {e}");
                }
            }
        }
        true
    }

    /// Writes the tags of the batch, or drops its packets: what isn't written could be replayed.
    fn write(&mut self, batch: &mut Batch) {
        batch.full += self.peeler.take_full();
        let written = self.log.write(&self.peeler.take_log());
        match written {
            Ok(()) => self.failed = false,
            Err(e) => {
                if !self.failed {
                    error!("the replay log can't be written: {e}; packets are dropped until it can, free some space");
                }
                self.failed = true;
                batch.unwritten += batch.peeled.len() as u64;
                batch.peeled.clear();
            }
        }
    }
}
