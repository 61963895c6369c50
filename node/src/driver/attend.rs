//! What the owner does for whoever runs the relay: it takes over other settings, and says how it stands.

use std::time::Duration;

use posta_link::Audience;
use posta_protocol::document::Consensus;
use tokio::spawn;
use tokio::time::sleep;
use tracing::warn;

use super::Running;
use super::board::{Board, OwnerNotes};
use super::notify::Notify;
use super::storage::StoreJob;
use crate::config::Config;
use crate::relay::Bounds;
use crate::report::State;

/// How often a service manager's line of status is looked at anew.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Tells a service manager how the relay stands, until the process ends.
pub(super) async fn say_status(mut notify: Notify, board: Board) {
    while notify.is_heard()
        && let Some(report) = board.report().await
    {
        notify.status(&report.in_a_line());
        sleep(STATUS_EVERY).await;
    }
}

/// What the core may hold.
pub(super) fn bounds(config: &Config) -> Bounds {
    let mut bounds = config.limits.bounds();
    bounds.queues.contact = config.admission.contact();
    bounds
}

impl Running {
    /// Takes over what a reload has changed; packets on their way notice nothing.
    pub(super) fn reloaded(&mut self, config: &Config) {
        self.core.admit(config.admission.admission(), config.admission.contact());
        let limits = &config.limits;
        self.core.bound(self.clock.now(), bounds(config));
        self.speeds.set(limits);
        self.links.set_patience(limits.patience());
        for (port, audience) in self.ports.iter().zip([Audience::Link, Audience::Client]) {
            port.set_limits(limits.port(audience));
        }
        let held = self.consensus.borrow().clone();
        if let Some(held) = held {
            self.limit_store(config, &held);
        }
    }

    /// Tells the store its limits, with lives that this consensus allows.
    pub(super) fn limit_store(&self, config: &Config, consensus: &Consensus) {
        let (limits, corrections) = config.store.limits_within(consensus.params());
        for correction in corrections {
            warn!("{correction}");
        }
        let store = self.store.clone();
        // Beside this task, which never waits. Fails only when the store has ended, at the end.
        spawn(async move { store.send(StoreJob::Limits(Box::new(limits))).await });
    }

    /// Writes down how the owner stands.
    pub(super) fn publish(&mut self) {
        self.board.owner(OwnerNotes {
            state: State::Running,
            received: self.received,
            delayed: self.core.delayed(),
            clients: self.clients.len(),
            fill: self.filter.fill(),
            counters: *self.core.counters(),
            loops: self.core.loops(),
        });
    }
}
