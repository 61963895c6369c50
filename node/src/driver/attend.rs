//! What the owner does for whoever runs the relay: it takes over other settings, and says how it stands.

use tokio::spawn;

use super::Running;
use super::board::OwnerNotes;
use super::storage::StoreJob;
use crate::config::Config;
use crate::report::State;

impl Running {
    /// Takes over what a reload has changed; packets on their way notice nothing.
    pub(super) fn reloaded(&mut self, config: &Config) {
        self.core.admit(config.admission.admission(), config.admission.contact());
        let (store, limits) = (self.store.clone(), StoreJob::Limits(Box::new(config.store.limits())));
        // Beside this task, which never waits. Fails only when the store has ended, at the end.
        spawn(async move { store.send(limits).await });
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
        });
        self.notify.status(&self.board.report().in_a_line());
    }
}
