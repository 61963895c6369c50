//! The running relay's side of [`Retirement`]: who is told, and when it goes.

use std::path::PathBuf;

use posta_protocol::now::Wall;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{error, info};

use super::Running;
use super::clock::wall;
use crate::retirement::Retirement;

/// What has been decided, as of now.
pub(crate) type Retires = watch::Receiver<Option<Retirement>>;

/// Takes decisions of the operator and writes them down.
#[derive(Clone)]
pub(crate) struct Decisions {
    state: PathBuf,
    told: watch::Sender<Option<Retirement>>,
}

impl Decisions {
    /// With what was decided before.
    pub(crate) fn new(state: PathBuf, before: Option<Retirement>) -> Self {
        Self { state, told: watch::Sender::new(before) }
    }

    /// What is decided from here on.
    pub(crate) fn follow(&self) -> Retires {
        self.told.subscribe()
    }

    /// Decides: to go within so many days, or with none of them to stay.
    ///
    /// # Errors
    /// One sentence, if it can't be written down; then nothing has changed.
    pub(crate) async fn decide(&self, days: Option<u16>) -> Result<Option<Retirement>, String> {
        let (state, decided) = (self.state.clone(), days.map(|days| Retirement::new(wall(), days)));
        let written = spawn_blocking(move || match decided {
            Some(retirement) => retirement.save(&state),
            None => Retirement::cancel(&state),
        });
        written.await.map_err(|e| e.to_string())?.map_err(|e| format!("it can't be written down: {e}"))?;
        match decided {
            Some(_) => info!("this relay retires: it takes nothing new, and goes when nobody needs it any more"),
            None => info!("this relay stays"),
        }
        self.told.send_replace(decided);
        Ok(decided)
    }
}

impl Running {
    /// Lets the core know whether the relay retires.
    pub(super) fn heed(&mut self) {
        self.core.retire(self.retires.borrow().is_some());
    }

    /// Whether a retiring relay is done, which is then written down.
    pub(super) fn has_retired(&self) -> bool {
        let Some(retirement) = *self.retires.borrow() else { return false };
        let now = self.clock.now();
        let over = retirement.over(now.wall, self.board.stored_bytes(), now.mono.since(self.core.queues_used()));
        if over {
            end(retirement, now.wall, &self.configs.borrow().state_dir);
        }
        over
    }
}

/// Writes down that the relay has gone.
pub(super) fn end(retirement: Retirement, now: Wall, state: &std::path::Path) {
    info!("this relay has retired: it leaves, and does not start again; its state folder may be deleted");
    if let Err(e) = (Retirement { ended: Some(now.0 / 1000), ..retirement }).save(state) {
        error!("that this relay has retired can't be written down: {e}");
    }
}
