//! The configuration file and the key files of an authority.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use posta_link::config::ConfigError;
use posta_link::fetch::{Network, NetworkError};
use posta_link::keys::{KeyFileError, atomic_write, load_or_create_seed, load_seed};
use posta_link::logs::LogLevel;
use posta_link::{LinkError, LinkKey};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{Authorities, Authority, Params};
use posta_protocol::error::{Misuse, Untrusted};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::AuthorityId;
use posta_protocol::now::Wall;
use posta_protocol::params::{DEFAULT_LAYER_MIN, MIN_EPOCHS_PER_KEY_EPOCH};
use posta_protocol::registry::parameter;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::admission::{AdmissionConfig, Policy};
use crate::authority::Settings;
use crate::keys::{self, IDENTITY_FILE, SIGNING_FILE, Signing};

/// The configuration's file name.
pub const CONFIG_FILE: &str = "directory.toml";
/// This authority's own entry for `network.toml`.
pub const ENTRY_FILE: &str = "authority.toml";
const LINK_FILE: &str = "link.key";
const PUBLIC_MODE: u32 = 0o644;
/// Shortest epoch: below, a round doesn't fit in.
const MIN_EPOCH_MS: u64 = 1_000;

/// `directory.toml`. Relative paths start at the configuration file's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where to listen (UDP).
    pub listen: SocketAddr,
    /// The folder with keys and state.
    pub state_dir: PathBuf,
    /// The file that lists all authorities, the same for everyone.
    pub network: PathBuf,
    /// Length of an epoch in milliseconds; the same for all authorities.
    pub epoch_ms: u64,
    /// Length of a key epoch in milliseconds; the same for all authorities.
    pub key_epoch_ms: u64,
    /// Mixes that each layer must have; the same for all authorities.
    pub layer_min: u64,
    /// Relays to wait for before the first consensus.
    pub bootstrap_relays: usize,
    /// Loops by which it measures each relay in each of its roles, in an epoch; 0: it measures none.
    pub measure_loops: usize,
    /// Whether private and loopback addresses are allowed: test networks only.
    pub reserved_networks: bool,
    /// How much is logged.
    pub log_level: LogLevel,
    /// The oldest protocol version that it wants relays and clients to speak at least; 0: it says nothing.
    pub protocol_required: u16,
    /// The protocol version that it recommends; 0: it says nothing.
    pub protocol_recommended: u16,
    /// Pages for people and programs.
    pub http: HttpConfig,
    /// Which relays it votes for.
    pub admission: AdmissionConfig,
}

/// Where pages for people and programs are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpConfig {
    /// An address, as `127.0.0.1:8430`. Empty: nowhere.
    pub listen: String,
    /// Whether it may be one that others can reach.
    pub public: bool,
}

impl HttpConfig {
    fn address(&self) -> Result<Option<SocketAddr>, SetupError> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        match self.listen.parse::<SocketAddr>() {
            Err(_) => Err(SetupError::Value("`http.listen` must be ADDRESS:PORT, as 127.0.0.1:8430, or nothing")),
            Ok(address) if !address.ip().is_loopback() && !self.public => Err(SetupError::Value(
                "`http.listen` is an address that others can reach: choose 127.0.0.1, or say `public = true` under [http]",
            )),
            Ok(address) => Ok(Some(address)),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 4430)),
            state_dir: PathBuf::from("."),
            network: PathBuf::from("network.toml"),
            epoch_ms: 3_600_000,
            key_epoch_ms: 6 * 3_600_000,
            layer_min: DEFAULT_LAYER_MIN,
            bootstrap_relays: 3,
            measure_loops: 20,
            reserved_networks: false,
            log_level: LogLevel::Info,
            protocol_required: 0,
            protocol_recommended: 0,
            http: HttpConfig::default(),
            admission: AdmissionConfig::default(),
        }
    }
}

/// Why an authority can't start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The network file.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The link key.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A value makes no sense.
    #[error("{0}")]
    Value(&'static str),
    /// The certificate.
    #[error(
        "the certificate of the signing key is not usable: {0}; run `posta-directory keys renew` where the identity key is"
    )]
    Certificate(Untrusted),
    /// The certificate is for another key.
    #[error("the certificate is for another signing key: run `posta-directory keys renew` where the identity key is")]
    OtherKey,
    /// This authority isn't listed.
    #[error(
        "{0} does not list this authority with this link key: add the entry that `posta-directory init` has printed"
    )]
    NotListed(PathBuf),
    /// The identity key that was given is another authority's.
    #[error("{0} is the identity key of another authority: give this one's")]
    OtherIdentity(PathBuf),
    /// There is a file where one was to be made.
    #[error("{0} is there already: choose another file")]
    Taken(PathBuf),
    /// A list of relays.
    #[error("{path}, line {line}: a relay's identity is 64 hexadecimal digits; remarks begin with #", path = .path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 for a file that is too long.
        line: usize,
    },
    /// A file can't be read or written.
    #[error("{path} can't be read or written: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A configuration is there already.
    #[error("{0} exists already: choose another folder, or use --renew to certify a new signing key")]
    Exists(PathBuf),
    /// The list of authorities.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

impl SetupError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Everything that an authority runs with.
#[derive(Debug)]
pub struct Setup {
    /// What it is and wants.
    pub settings: Settings,
    /// Signs votes, echoes and consensuses.
    pub signing_key: SignKey,
    /// Proved on connections.
    pub link_key: LinkKey,
    /// The folder with its state.
    pub state_dir: PathBuf,
    /// Where pages are served, if anywhere.
    pub http: Option<SocketAddr>,
    /// Which relays it votes for.
    pub policy: Policy,
    /// Where the policy comes from.
    pub admission: AdmissionConfig,
    /// Loops through each relay in each of its roles in an epoch; 0: none.
    pub measure_loops: usize,
}

impl Config {
    /// Reads a configuration; relative paths are resolved.
    ///
    /// # Errors
    /// [`SetupError::Config`] or [`SetupError::Value`].
    pub fn load(path: &Path) -> Result<Self, SetupError> {
        let mut config: Self = posta_link::config::load(path)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        config.state_dir = folder.join(&config.state_dir);
        config.network = folder.join(&config.network);
        for list in [&mut config.admission.allow, &mut config.admission.deny] {
            if !list.as_os_str().is_empty() {
                *list = folder.join(&*list);
            }
        }
        if config.epoch_ms < MIN_EPOCH_MS {
            return Err(SetupError::Value(
                "`epoch_ms` must be at least 1000: a round doesn't fit into a shorter epoch",
            ));
        }
        if config.key_epoch_ms < config.epoch_ms.saturating_mul(MIN_EPOCHS_PER_KEY_EPOCH) {
            return Err(SetupError::Value(
                "`key_epoch_ms` must be at least 4 times `epoch_ms`: commits and reveals of the shared randomness take that long",
            ));
        }
        if config.layer_min == 0 {
            return Err(SetupError::Value("`layer_min` must be at least 1"));
        }
        config.http.address()?;
        Ok(config)
    }

    /// The configuration as a commented file.
    #[must_use]
    pub fn to_commented_toml(&self) -> String {
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        format!(
            "# A Posta directory authority. Every key may be left out; the value is then the default given.\n\
             # Relative paths start at this file's folder.\n\n\
             # Where to listen (UDP). Default: \"0.0.0.0:4430\".\n\
             listen = \"{}\"\n\
             # The folder with keys and state. Default: \".\".\n\
             state_dir = {}\n\
             # The file that lists all authorities, the same for everyone. Default: \"network.toml\".\n\
             network = {}\n\
             # Length of an epoch in milliseconds: one consensus each. Must be the same for all authorities. Default: 3600000.\n\
             epoch_ms = {}\n\
             # Length of a key epoch in milliseconds: mix keys and layers change with it. Default: 21600000.\n\
             key_epoch_ms = {}\n\
             # Mixes that each of the two layers must have; with fewer the network is refused as too small. Default: 2.\n\
             layer_min = {}\n\
             # Relays to wait for before the first consensus. Default: 3.\n\
             bootstrap_relays = {}\n\
             # Loops by which each relay is measured in each of its roles, in an epoch; 0: none. Default: 20.\n\
             measure_loops = {}\n\
             # Whether private and loopback addresses are allowed: test networks only. Default: false.\n\
             reserved_networks = {}\n\
             # How much is logged: error, warn, info, debug or trace. Default: \"info\".\n\
             log_level = \"{}\"\n\
             # The oldest protocol version that relays and clients must speak; who speaks less is left out. 0: no word. Default: 0.\n\
             protocol_required = {}\n\
             # The protocol version that everybody should speak; who doesn't is told so. 0: no word. Default: 0.\n\
             protocol_recommended = {}\n\n\
             # Pages over HTTP for people and programs: status, the consensus and its history, and metrics for this machine.\n\
             [http]\n\
             # An address, as \"127.0.0.1:8430\". Default: \"\", nowhere.\n\
             listen = {:?}\n\
             # Whether it may be an address that others can reach. There is no TLS. Default: false.\n\
             public = {}\n\n\
             # Which relays this authority votes for. Read again at SIGHUP.\n\
             [admission]\n\
             # A file with the only relays to admit, an identity of 64 hexadecimal digits on each line. Default: \"\", all.\n\
             allow = {}\n\
             # A file with relays never to admit. Default: \"\", none.\n\
             deny = {}\n",
            self.listen,
            quoted(&self.state_dir),
            quoted(&self.network),
            self.epoch_ms,
            self.key_epoch_ms,
            self.layer_min,
            self.bootstrap_relays,
            self.measure_loops,
            self.reserved_networks,
            self.log_level,
            self.protocol_required,
            self.protocol_recommended,
            self.http.listen,
            self.http.public,
            quoted(&self.admission.allow),
            quoted(&self.admission.deny),
        )
    }

    /// The parameters that the authority votes for.
    #[must_use]
    pub fn params(&self) -> Params {
        let mut params = Params::default();
        params.set(parameter::EPOCH_MS, self.epoch_ms);
        params.set(parameter::KEY_EPOCH_MS, self.key_epoch_ms);
        params.set(parameter::LAYER_MIN, self.layer_min);
        params.set(parameter::RESERVED_NETWORKS, u64::from(self.reserved_networks));
        for (code, version) in [
            (parameter::PROTOCOL_REQUIRED, self.protocol_required),
            (parameter::PROTOCOL_RECOMMENDED, self.protocol_recommended),
        ] {
            if version != 0 {
                params.set(code, version.into());
            }
        }
        params
    }

    /// Reads keys, certificate and the list of authorities, and checks that they fit together.
    ///
    /// # Errors
    /// [`SetupError`], saying what to do.
    pub fn setup(&self, now: Wall) -> Result<Setup, SetupError> {
        let network = Network::load(&self.network)?;
        let Signing { key: signing_key, certificate } = keys::signing(&self.state_dir, now)?;
        let link_key = LinkKey::from_seed(&load_seed(&self.state_dir.join(LINK_FILE))?)?;
        match network.authorities().get(&AuthorityId(certificate.identity)) {
            Some(listed) if listed.link_key == link_key.public() => {}
            _ => return Err(SetupError::NotListed(self.network.clone())),
        }
        let settings = Settings {
            authorities: network.authorities().clone(),
            certificate,
            geometry: Geometry::DEFAULT,
            params: self.params(),
            bootstrap_relays: self.bootstrap_relays,
        };
        let policy = Policy::load(&self.admission)?;
        let (state_dir, admission) = (self.state_dir.clone(), self.admission.clone());
        Ok(Setup {
            settings,
            signing_key,
            link_key,
            state_dir,
            http: self.http.address()?,
            policy,
            admission,
            measure_loops: self.measure_loops,
        })
    }
}

/// Makes an authority in a folder: keys, certificate, configuration, and its entry for `network.toml`, which is
/// returned. With `renew`, only the certificate of an existing one is issued anew.
///
/// # Errors
/// [`SetupError`], saying what to do.
pub fn init(
    folder: &Path,
    config: &Config,
    addresses: Vec<SocketAddr>,
    days: u64,
    now: Wall,
    renew: bool,
) -> Result<Network, SetupError> {
    fs::create_dir_all(folder).map_err(SetupError::io(folder))?;
    let path = folder.join(CONFIG_FILE);
    if !renew && path.exists() {
        return Err(SetupError::Exists(path));
    }
    let seed = |name: &str| {
        let path = folder.join(name);
        if renew && name == IDENTITY_FILE { load_seed(&path) } else { load_or_create_seed(&path) }
    };
    let identity = SignKey::from_seed(&seed(IDENTITY_FILE)?);
    let signing = SignKey::from_seed(&seed(SIGNING_FILE)?);
    let link = LinkKey::from_seed(&seed(LINK_FILE)?)?;
    keys::issue(folder, &identity, &signing, days, now)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        atomic_write(&path, bytes, PUBLIC_MODE).map_err(SetupError::io(&path))
    };
    let entry = Network::new(Authorities::new(vec![Authority {
        id: AuthorityId(identity.public()),
        link_key: link.public(),
        addresses,
    }])?);
    if !renew {
        write(ENTRY_FILE, entry.to_toml().as_bytes())?;
        write(CONFIG_FILE, config.to_commented_toml().as_bytes())?;
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_commented_file_is_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CONFIG_FILE);
        for config in [Config::default(), Config { bootstrap_relays: 9, reserved_networks: true, ..Config::default() }]
        {
            fs::write(&path, config.to_commented_toml()).unwrap();
            assert_eq!(posta_link::config::load::<Config>(&path).unwrap(), config);
        }
        fs::write(&path, "epoch_msec = 5\n").unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("did you mean `epoch_ms`"));
        fs::write(&path, "epoch_ms = 5\n").unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("at least 1000"));
        for (http, words) in [("0.0.0.0:80", "public = true"), ("localhost", "ADDRESS:PORT")] {
            fs::write(&path, format!("[http]\nlisten = \"{http}\"\n")).unwrap();
            assert!(Config::load(&path).unwrap_err().to_string().contains(words), "{http}");
        }
        fs::write(&path, "[http]\nlisten = \"0.0.0.0:80\"\npublic = true\n").unwrap();
        assert_eq!(Config::load(&path).unwrap().http.address().unwrap(), Some("0.0.0.0:80".parse().unwrap()));
        fs::write(&path, "epoch_ms = 5000\nkey_epoch_ms = 19999\n").unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("4 times"), "no round of the randomness fits");
    }

    #[test]
    fn what_init_makes_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let now = Wall(1_700_000_000_000);
        let address = "127.0.0.1:4430".parse().unwrap();
        let entry = init(folder.path(), &Config::default(), vec![address], 30, now, false).unwrap();
        let config = Config::load(&folder.path().join(CONFIG_FILE)).unwrap();
        assert!(matches!(config.setup(now), Err(SetupError::Network(_))), "network.toml is not there yet");
        entry.save(&config.network).unwrap();
        let setup = config.setup(now).unwrap();
        assert_eq!(setup.settings.authorities.len(), 1);
        let late = now + Duration::from_secs(31 * 24 * 3600);
        assert!(matches!(config.setup(late), Err(SetupError::Certificate(_))));
        assert!(matches!(
            init(folder.path(), &Config::default(), vec![address], 30, late, false),
            Err(SetupError::Exists(_))
        ));
        init(folder.path(), &Config::default(), vec![address], 30, late, true).unwrap();
        config.setup(late).unwrap();
    }
}
