//! The end in order: nothing more is taken in, and nothing is lost that needn't be.
//!
//! 0. The authorities are told that this relay goes, beside all that follows: the next consensus leaves it out.
//! 1. Links and clients are no longer accepted or read; the workers peel what they have, sync their logs and end.
//! 2. Delayed packets leave at their time, for [`crate::relay::STOP_DELAY`] at most; later ones were dropped and counted.
//! 3. The store does what it was asked for, and answers go out.
//! 4. Links hand over what they have taken, and close with the code that says it was meant.
//!
//! A second signal ends it at once: what is in memory is lost, nothing on disk is.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{sleep_until, timeout};
use tracing::{error, info, warn};

use super::Running;
use super::clock::wall;
use super::directory::{Directory, Signer};
use crate::failure::Failure;
use crate::keys::Keys;
use crate::relay::{Action, Event, STOP_DELAY};

/// How long the links of a port may take at the end to hand over what they have taken.
const DRAIN: Duration = Duration::from_secs(2);
/// How long everything together may take; a disk that doesn't answer holds nobody up for longer.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// What it takes to leave the consensus.
pub(super) struct Leaving {
    pub(super) directory: Arc<Directory>,
    /// Where the keys lie: the signing key may have been renewed since the start.
    pub(super) state: PathBuf,
    /// Descriptors must not be posted any more: a newer one would bring the relay back.
    pub(super) posting: AbortHandle,
}

impl Leaving {
    /// Withdraws the relay, beside everything else that ends.
    pub(super) async fn withdraw(self) {
        self.posting.abort();
        let state = self.state;
        match spawn_blocking(move || Keys::open(&state, wall())).await {
            Ok(Ok(keys)) => self.directory.withdraw(&Signer { keys }).await,
            _ => warn!("no authority can be told that this relay stops: its keys can't be read"),
        }
    }
}

/// Waits for the end, for a second signal, or until it takes too long.
pub(super) async fn within_bounds(end: impl Future<Output = ()>, signals: &mut Stop) -> Result<(), Failure> {
    tokio::select! {
        ended = timeout(STOP_WITHIN, end) => ended.map_err(|_| {
            Failure::other(format_args!("did not stop within {} s: its disk or a link holds it up", STOP_WITHIN.as_secs()))
        }),
        () = signals.second() => Err(Failure::other("stopped at once, by a second signal")),
    }
}

impl Running {
    /// Takes nothing more in, finishes what was taken, syncs.
    pub(super) async fn stop(mut self) {
        info!("stopping");
        self.board.stopping();
        self.notify.stopping();
        self.stopping.send_replace(true);
        let withdrawn = self.withdrawal.take().map(|leaving| tokio::spawn(leaving.withdraw()));
        self.core.handle(self.clock.now(), Event::Stop);
        if self.core.delayed() > 0 {
            info!("delayed packets are let out, for {} s at most", STOP_DELAY.as_secs());
        }
        // Beside this task, which takes what the workers still pass on.
        tokio::spawn(self.intake.clone().stop());
        let mut peeling = true;
        loop {
            self.act();
            if !peeling && !self.holds_back() && self.core.delayed() == 0 {
                break;
            }
            let next = self.next_turn().min(self.clock.now().mono + STOP_DELAY);
            tokio::select! {
                batch = self.inputs.batches.recv(), if peeling && !self.holds_back() => match batch {
                    Some(batch) => self.batch(batch),
                    None => peeling = false,
                },
                Some(outcomes) = self.inputs.outcomes.recv() => self.outcomes(outcomes),
                () = sleep_until(self.clock.instant(next)) => self.core.handle(self.clock.now(), Event::Tick),
            }
        }
        let Self { mut core, mut links, clients, store, mut inputs, clock, ports, threads, .. } = self;
        drop(store);
        while let Some(outcomes) = inputs.outcomes.recv().await {
            for (token, outcome) in outcomes {
                core.handle(clock.now(), Event::Stored { token, outcome });
            }
            while let Some(action) = core.poll() {
                // What would need the store again is left for the next start: nothing was promised yet.
                if let Action::Send { to, packet } = action {
                    links.send(clock.now().mono, to, packet);
                }
            }
        }
        drop((links, clients, inputs));
        // Their channels are closed: they end. Waited for elsewhere, so that a second signal is seen meanwhile.
        let joined = spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        if !joined.await.unwrap_or(false) {
            error!("a thread has panicked: report this");
        }
        for port in &ports {
            // Links close when the peer has what they held.
            let _ = timeout(DRAIN, port.wait_idle()).await;
            port.close();
            // So that those that held on are told.
            let _ = timeout(DRAIN, port.wait_idle()).await;
        }
        if let Some(withdrawn) = withdrawn {
            // It has its own time limit.
            let _ = withdrawn.await;
        }
        info!("stopped");
    }
}

/// SIGTERM and SIGINT.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn first(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn second(&mut self) {
        self.first().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_signal_ends_what_does_not_end_by_itself() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Stop::new().unwrap();
            assert!(within_bounds(async {}, &mut signals).await.is_ok());
            let kill = format!("kill -TERM {}", std::process::id());
            assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
            let failure = within_bounds(std::future::pending(), &mut signals).await.unwrap_err();
            assert!(failure.to_string().contains("second signal"), "{failure}");
        });
    }
}
