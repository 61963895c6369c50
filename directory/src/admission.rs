//! Which relays an authority votes for, as far as its operator decides: all, some, or all but some.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use posta_link::fetch::from_hex;
use posta_protocol::ids::RelayId;
use posta_protocol::params::MAX_RELAYS;
use serde::{Deserialize, Serialize};

use crate::config::SetupError;

/// Longest list file in bytes: as many relays as a consensus has, with a remark each.
const MAX_LIST_LEN: u64 = MAX_RELAYS as u64 * 256;

/// The section `[admission]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdmissionConfig {
    /// The file of the only relays to admit. Empty: all.
    pub allow: PathBuf,
    /// The file of relays never to admit. Empty: none.
    pub deny: PathBuf,
}

/// What an operator has decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    allow: Option<BTreeSet<RelayId>>,
    deny: BTreeSet<RelayId>,
}

impl Policy {
    /// Admits these only.
    #[must_use]
    pub fn only(relays: impl IntoIterator<Item = RelayId>) -> Self {
        Self { allow: Some(relays.into_iter().collect()), deny: BTreeSet::new() }
    }

    /// Admits all but these.
    #[must_use]
    pub fn all_but(relays: impl IntoIterator<Item = RelayId>) -> Self {
        Self { allow: None, deny: relays.into_iter().collect() }
    }

    /// Whether a relay is admitted. Who is denied is not, even if it is allowed too.
    #[must_use]
    pub fn admits(&self, relay: &RelayId) -> bool {
        !self.deny.contains(relay) && self.allow.as_ref().is_none_or(|allow| allow.contains(relay))
    }

    /// Reads the lists: a relay's identity in 64 hexadecimal digits on each line; what follows `#` is a remark.
    ///
    /// # Errors
    /// [`SetupError::Io`], or [`SetupError::List`] with the line.
    pub fn load(config: &AdmissionConfig) -> Result<Self, SetupError> {
        let list = |path: &Path| if path.as_os_str().is_empty() { Ok(None) } else { read(path).map(Some) };
        Ok(Self { allow: list(&config.allow)?, deny: list(&config.deny)?.unwrap_or_default() })
    }

    /// In a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        match (&self.allow, self.deny.len()) {
            (None, 0) => "open".to_owned(),
            (None, denied) => format!("all relays but {denied}"),
            (Some(allow), denied) => format!("only the {} relays of its list, {denied} denied", allow.len()),
        }
    }
}

fn read(path: &Path) -> Result<BTreeSet<RelayId>, SetupError> {
    if fs::metadata(path).map_err(SetupError::io(path))?.len() > MAX_LIST_LEN {
        return Err(SetupError::List { path: path.to_owned(), line: 0 });
    }
    let text = fs::read_to_string(path).map_err(SetupError::io(path))?;
    let mut relays = BTreeSet::new();
    for (i, line) in text.lines().enumerate() {
        let id = line.split('#').next().unwrap_or_default().trim();
        if !id.is_empty() {
            let id = from_hex(id).ok_or_else(|| SetupError::List { path: path.to_owned(), line: i + 1 })?;
            relays.insert(RelayId(id));
        }
    }
    Ok(relays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_a_wrong_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (allow, deny) = (folder.path().join("allow"), folder.path().join("deny"));
        let (one, two) = (RelayId([0x11; 32]), RelayId([0x22; 32]));
        fs::write(&allow, format!("# ours\n{}  # the first\n\n{}\n", "11".repeat(32), "22".repeat(32))).unwrap();
        fs::write(&deny, format!("{}\n", "22".repeat(32))).unwrap();
        let config = AdmissionConfig { allow: allow.clone(), deny };
        let policy = Policy::load(&config).unwrap();
        assert!(policy.admits(&one) && !policy.admits(&two), "who is denied is not admitted");
        assert!(!policy.admits(&RelayId([0x33; 32])));
        fs::write(&allow, "11\n").unwrap();
        let wrong = Policy::load(&config).unwrap_err().to_string();
        assert!(wrong.contains("line 1"), "{wrong}");
        let open = Policy::load(&AdmissionConfig::default()).unwrap();
        assert!(open.admits(&two) && open.describe() == "open");
    }
}
