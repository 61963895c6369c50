//! The newest consensus on disk, so that a restart needs no authority, and the last one before its key epochs changed,
//! so that packets of the key epoch that has just ended still find their way.
//!
//! Two files in the state folder, `consensus` and `consensus.before`, each a consensus as the network signed it. They are
//! replaced whole, and not synced: one that the machine loses or garbles fails its signatures, and is fetched again. What
//! is read is verified like what is fetched, but for the mix keys, which are not kept.
//!
//! The folder `alarms` has what an operator should show to others: both consensuses where one does not build on the other
//! (`break-EPOCH-HASH.consensus`), and evidence that authorities have cheated (`EPOCH-HASH.evidence`, for
//! `posta-directory verify-evidence`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use posta_protocol::document::{Authorities, Consensus, Evidence, UnverifiedConsensus, verify_kept, verify_succession};
use posta_protocol::error::Untrusted;
use posta_protocol::ids::Hash;
use posta_protocol::now::Wall;
use posta_protocol::params::RELAY_CLOCK_SKEW;
use tracing::{info, warn};

const NEWEST: &str = "consensus";
const BEFORE: &str = "consensus.before";
const ALARMS: &str = "alarms";
/// Files kept in the folder of alarms; later ones are only told in the log.
const MAX_ALARMS: usize = 64;

/// Where the consensuses are kept.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// What was kept and is still of use.
#[derive(Debug, Default)]
pub struct Known {
    /// Valid now.
    pub newest: Option<Arc<Consensus>>,
    /// Lists the key epoch before the current one. It may have expired.
    before: Option<Arc<Consensus>>,
}

impl Known {
    /// Those that say something of the same network's key epochs before `held` does, the oldest first.
    #[must_use]
    pub fn for_layers(&self, held: &Consensus) -> Vec<Arc<Consensus>> {
        let same = |c: &&Arc<Consensus>| {
            c.epoch() < held.epoch()
                && c.geometry() == held.geometry()
                && c.params().key_epoch_ms() == held.params().key_epoch_ms()
        };
        [&self.before, &self.newest].into_iter().flatten().filter(same).cloned().collect()
    }
}

impl Cache {
    /// In this state folder.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.to_owned() }
    }

    /// Reads and verifies what was kept. What can't be used is passed over, and the log says so.
    #[must_use]
    pub fn load(&self, authorities: &Authorities, now: Wall) -> Known {
        let newest = self.read(NEWEST, |c| c.verify(authorities, now, RELAY_CLOCK_SKEW));
        let before = self.read(BEFORE, |c| c.verify_signatures(authorities));
        let follows =
            |newest: &Arc<Consensus>| match before.as_deref().map(|b| verify_succession(newest, b, authorities)) {
                Some(Err(e)) => {
                    warn!("the kept {NEWEST} is of no use and is fetched again: {e}");
                    false
                }
                Some(Ok(_)) | None => true,
            };
        let newest = newest.filter(follows);
        if let Some(newest) = &newest {
            info!("starting with the kept consensus of epoch {}", newest.epoch().0);
        }
        let lists_the_last =
            |c: &Arc<Consensus>| c.key_epochs().iter().any(|part| part.epoch.next() == c.key_epoch_at(now));
        Known { newest, before: before.filter(lists_the_last) }
    }

    fn read(
        &self,
        name: &str,
        verify: impl FnOnce(UnverifiedConsensus) -> Result<Consensus, Untrusted>,
    ) -> Option<Arc<Consensus>> {
        let bytes = match fs::read(self.dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            read => read.map_err(|e| e.to_string()),
        };
        let verified = bytes
            .and_then(|bytes| UnverifiedConsensus::decode(&bytes).and_then(verify).map_err(|e| e.to_string()))
            .and_then(|consensus| verify_kept(&consensus).map_err(|e| e.to_string()).map(|()| consensus));
        verified.map(Arc::new).inspect_err(|e| warn!("the kept {name} is of no use and is fetched again: {e}")).ok()
    }

    /// Keeps a consensus, and the one held until now if it lists a key epoch that the new one has left out.
    ///
    /// # Errors
    /// What the system says; what was kept before is then still there.
    pub fn keep(&self, new: &Consensus, held: Option<&Consensus>) -> io::Result<()> {
        let first = |c: &Consensus| c.key_epochs().first().map(|part| part.epoch);
        if let Some(held) = held.filter(|held| first(held) < first(new)) {
            self.write(BEFORE, held)?;
        }
        self.write(NEWEST, new)
    }

    /// Keeps both consensuses where the chain is broken: neither is refused, and people must be able to look at them.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep_break(&self, held: &Consensus, new: &Consensus) -> io::Result<()> {
        for consensus in [held, new] {
            let name = format!("break-{}-{}.consensus", consensus.epoch().0, short(&consensus.hash()));
            self.alarm(&name, consensus.encode())?;
        }
        Ok(())
    }

    /// Keeps evidence, and says under which name.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep_evidence(&self, evidence: &Evidence) -> io::Result<PathBuf> {
        self.alarm(&format!("{}-{}.evidence", evidence.epoch().0, short(&evidence.hash())), evidence.encode())
    }

    fn alarm(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let folder = self.dir.join(ALARMS);
        fs::create_dir_all(&folder)?;
        let path = folder.join(name);
        if !path.exists() && fs::read_dir(&folder)?.count() < MAX_ALARMS {
            fs::write(&path, bytes)?;
        }
        Ok(path)
    }

    fn write(&self, name: &str, consensus: &Consensus) -> io::Result<()> {
        let temporary = self.dir.join(format!(".{name}.tmp"));
        fs::write(&temporary, consensus.encode())?;
        fs::rename(&temporary, self.dir.join(name))
    }
}

fn short(hash: &Hash) -> String {
    hash.0.iter().take(8).map(|b| format!("{b:02x}")).collect()
}
