//! Where the configuration comes from, and what of it can be changed while the relay runs.

use std::ffi::OsString;
use std::path::Path;

use posta_link::config::layers::{self, Changed, Names};

use super::Config;
use crate::failure::Failure;

/// Variables that are settings start so: `POSTA_STORE__QUEUE_QUOTA` is `store.queue_quota`.
const PREFIX: &str = "POSTA_";
/// Variables of the build, the tests and the testnet, and those that go on from them with `_`.
const EXCEPT: &[&str] = &[
    "POSTA_CACHE",
    "POSTA_CI",
    "POSTA_FUZZ",
    "POSTA_SEED",
    "POSTA_TEST",
    "POSTA_TESTNET",
    "POSTA_WORK",
    "POSTA_WRITE",
];
/// What a reload changes: these keys, and whole tables. Everything else waits for the next start.
pub const RELOADED: &[&str] = &[
    "admission",
    "capacity",
    "family",
    "limits",
    "log_level",
    "metrics",
    "operator",
    "public_client_addresses",
    "public_link_addresses",
    "store",
];
/// Keys whose value is shown to nobody.
const HIDDEN: &[&str] = &["admission.password"];

/// A configuration, and every value in it that isn't the default.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration, its paths absolute or starting at the current folder.
    pub config: Config,
    /// The others, with where they come from.
    pub changed: Vec<Changed>,
}

impl Config {
    /// Reads a configuration file, its drop-ins, and the environment, and checks what can be checked without touching
    /// anything else.
    ///
    /// # Errors
    /// [`Failure`] naming the file, line and key, or the variable.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        Ok(Self::load_from(path, std::env::vars_os())?.config)
    }

    /// The same, under other variables, with where each value comes from.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from(
        path: &Path,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Loaded, Failure> {
        let names = Names { prefix: PREFIX, except: EXCEPT };
        let layered = layers::load_layered::<Self>(path, variables, names).map_err(Failure::usage)?;
        let mut changed = layered.changed();
        for changed in changed.iter_mut().filter(|changed| HIDDEN.contains(&changed.key.as_str())) {
            "(hidden)".clone_into(&mut changed.value);
        }
        let mut config = layered.config;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        config.state_dir = folder.join(&config.state_dir);
        config.network = folder.join(&config.network);
        config.validate().map_err(|what| Failure::usage(format_args!("{}: {what}", path.display())))?;
        Ok(Loaded { config, changed })
    }

    /// This configuration with what a reload takes from `newer`; the keys that have changed with it, and those that
    /// wait for the next start.
    #[must_use]
    pub fn reloaded(&self, newer: &Self) -> (Self, Vec<String>, Vec<String>) {
        let config = layers::with_keys_of(self, newer, RELOADED);
        let (done, waiting) = (layers::differences(self, &config), layers::differences(&config, newer));
        (config, done, waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Policy, Role};

    #[test]
    fn drop_ins_and_variables_are_read_and_secrets_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(&path, "link_address = '192.0.2.1:1'\nroles = ['mix']\n").unwrap();
        let secret = "[admission]\npolicy = 'password'\npassword = 'sesame'\n";
        std::fs::write(dir.path().join("conf.d/1.toml"), secret).unwrap();
        let with = |name: &str| Config::load_from(&path, [(name.into(), "7".into()), ("POSTA_CI".into(), "1".into())]);
        let Loaded { config, changed } = with("POSTA_STORE__QUEUE_QUOTA").unwrap();
        assert_eq!((config.store.queue_quota, config.admission.policy), (7, Policy::Password));
        let text = format!("{changed:?}");
        assert!(text.contains("admission.password") && !text.contains("sesame"), "{text}");
        let keys: Vec<_> = changed.iter().map(|changed| changed.key.as_str()).collect();
        let expected = ["admission.password", "admission.policy", "link_address", "roles", "store.queue_quota"];
        assert_eq!(keys, expected);
        let e = with("POSTA_STORE__QEUE_QUOTA").unwrap_err().to_string();
        assert!(e.contains("did you mean POSTA_STORE__QUEUE_QUOTA?"), "{e}");
        with("POSTA_TEST_SEEDS").unwrap();
        with("POSTA_TESTS").unwrap_err();
    }

    #[test]
    fn a_reload_changes_what_can_be_changed_and_names_the_rest() {
        let running = Config::default();
        let mut newer = running.clone();
        newer.workers = 3;
        newer.roles = vec![Role::Mix];
        newer.capacity = 5;
        newer.store.queue_quota = 9;
        newer.limits.creates_per_second = 3;
        newer.admission.policy = Policy::Puzzle;
        let (config, done, waiting) = running.reloaded(&newer);
        assert_eq!(done, ["admission.policy", "capacity", "limits.creates_per_second", "store.queue_quota"]);
        assert_eq!(waiting, ["roles", "workers"]);
        assert_eq!((config.workers, &config.roles), (running.workers, &running.roles));
        assert_eq!((config.capacity, config.store.queue_quota), (5, 9));
        assert_eq!(config.reloaded(&newer).1, Vec::<String>::new());
    }
}
