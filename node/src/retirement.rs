//! A relay that goes for good: what its operator has decided, in the file `retiring` of the state folder.
//!
//! ```text
//! {"since": 1800000000, "until": 1802592000, "ended": null}      seconds since 1970
//! ```
//! From `since` on the relay takes no new queue and no new client's trust: its descriptor says so, `create` is answered so,
//! and so is whoever asks how a queue stands. All that it has is served on, until nobody uses it, or until `until`. Then
//! it leaves, writes `ended`, and does not start again.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use posta_link::keys::atomic_write;
use posta_protocol::now::Wall;
use serde::{Deserialize, Serialize};

/// The file's name in the state folder.
const NAME: &str = "retiring";
const MODE: u32 = 0o600;
/// A retiring relay that holds no message or blob, and whose queues nobody has used for this long, is done: four times
/// the longest time after which a client that is there looks at its queues.
pub const UNUSED: Duration = Duration::from_secs(2 * 24 * 3600);
/// Days after which a retiring relay goes, whoever still uses it, unless its operator says otherwise: longer than a
/// message's life.
pub const DEFAULT_DAYS: u16 = 30;
/// Days at most: as long as a queue lives without use.
pub const MOST_DAYS: u16 = 90;

/// That a relay retires, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// When it was decided, in seconds since 1970.
    pub since: u64,
    /// When the relay goes in any case, in seconds since 1970.
    pub until: u64,
    /// When it has gone, if it has.
    pub ended: Option<u64>,
}

impl Retirement {
    /// From now on, for so many days at most.
    #[must_use]
    pub fn new(now: Wall, days: u16) -> Self {
        let since = now.0 / 1000;
        Self { since, until: since + u64::from(days) * 24 * 3600, ended: None }
    }

    /// Whether the relay goes now, with so many bytes of messages and blobs, of which none nor any queue was used for
    /// `unused`.
    #[must_use]
    pub fn over(&self, now: Wall, bytes: u64, unused: Duration) -> bool {
        self.past(now) || (bytes == 0 && unused >= UNUSED)
    }

    /// Whether its time has come, or it has gone already.
    #[must_use]
    pub const fn past(&self, now: Wall) -> bool {
        self.ended.is_some() || now.0 / 1000 >= self.until
    }

    /// What was decided in this state folder; `None` if the relay stays.
    ///
    /// # Errors
    /// What the system says, or that the file makes no sense.
    pub fn load(state: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path(state)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => serde_json::from_slice(&read?).map(Some).map_err(io::Error::from),
        }
    }

    /// Writes it down, synced.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, state: &Path) -> io::Result<()> {
        atomic_write(&path(state), &serde_json::to_vec(self)?, MODE)
    }

    /// The relay stays after all.
    ///
    /// # Errors
    /// What the system says.
    pub fn cancel(state: &Path) -> io::Result<()> {
        match std::fs::remove_file(path(state)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

fn path(state: &Path) -> PathBuf {
    state.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_goes_when_nobody_needs_it_or_its_time_is_over() {
        let now = Wall(1_800_000_000_000);
        let retirement = Retirement::new(now, DEFAULT_DAYS);
        let day = Duration::from_secs(24 * 3600);
        assert!(!retirement.over(now, 0, day));
        assert!(!retirement.over(now + day * 29, 1, day * 29), "a message waits");
        assert!(retirement.over(now + day * 2, 0, UNUSED));
        assert!(retirement.over(now + day * 30, 1, Duration::ZERO), "the time is over");
        assert!(Retirement { ended: Some(1), ..retirement }.past(now));
    }

    #[test]
    fn what_was_decided_is_kept_until_it_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Retirement::load(dir.path()).unwrap(), None);
        let retirement = Retirement::new(Wall(1_800_000_000_000), 1);
        retirement.save(dir.path()).unwrap();
        assert_eq!(Retirement::load(dir.path()).unwrap(), Some(retirement));
        std::fs::write(path(dir.path()), "soon").unwrap();
        Retirement::load(dir.path()).unwrap_err();
        Retirement::cancel(dir.path()).unwrap();
        Retirement::cancel(dir.path()).unwrap();
        assert_eq!(Retirement::load(dir.path()).unwrap(), None);
    }
}
