//! SIGHUP: the configuration is read again, and what can be changed while the relay runs is.

use std::path::PathBuf;
use std::sync::Arc;

use posta_link::logs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::Config;

/// Waits for the signal, again and again.
pub(crate) struct Reload {
    hangup: Signal,
    path: PathBuf,
    settings: watch::Sender<Arc<Config>>,
}

impl Reload {
    /// From here on the signal doesn't end the process.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn new(path: PathBuf, settings: watch::Sender<Arc<Config>>) -> std::io::Result<Self> {
        Ok(Self { hangup: signal(SignalKind::hangup())?, path, settings })
    }

    /// Serves until the process ends. Nothing else stops for it: no port is closed and no packet dropped.
    pub(crate) async fn serve(mut self) {
        while self.hangup.recv().await.is_some() {
            self.reload();
        }
    }

    fn reload(&self) {
        let newer = match Config::load(&self.path) {
            Ok(newer) => newer,
            Err(e) => return error!("the configuration was not reloaded, all stays as it is: {e}"),
        };
        let (config, done, waiting) = self.settings.borrow().reloaded(&newer);
        logs::set_level(config.log_level);
        // Told even if nothing has changed: the keys may have.
        self.settings.send_replace(Arc::new(config));
        if done.is_empty() {
            info!("the configuration was reloaded: nothing new");
        } else {
            info!("the configuration was reloaded: {}", done.join(", "));
        }
        if !waiting.is_empty() {
            warn!("changed, but only from the next start on: {}", waiting.join(", "));
        }
    }
}
