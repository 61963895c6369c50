//! The relay's configuration. Every key is optional; the defaults are those of [`Config::default`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use posta_link::fetch::from_hex;
use posta_link::logs::LogLevel;
use posta_protocol::crypto;
use posta_protocol::document::Roles;
use posta_protocol::ids::{OperatorId, RelayId};
use posta_protocol::params::{DEFAULT_KEY_EPOCH, MAX_PASSWORD_LEN, MAX_PUZZLE_EFFORT};
use posta_store::Limits;
use serde::{Deserialize, Serialize};

use crate::relay::replay::{DEFAULT_MAX_TAGS, LEAST_MAX_TAGS, MOST_MAX_TAGS};
use crate::relay::{Admission, Effort};

pub mod limits;
pub mod lives;
mod loading;
mod metrics;

pub use limits::LimitsConfig;
pub use loading::{Loaded, RELOADED};
pub use metrics::MetricsConfig;

/// Workers at most: beyond it the network card is the limit.
pub const MAX_WORKERS: usize = 64;
const OPERATOR_CONTEXT: &str = crypto::local::OPERATOR;
const MIB: u64 = 1 << 20;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// What a relay offers to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Entry for clients, and queues.
    Edge,
    /// Mixing in the middle of paths.
    Mix,
}

/// The configuration. Paths that aren't absolute start at the file's own folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Keys, queues and the replay log.
    pub state_dir: PathBuf,
    /// The authorities of the network.
    pub network: PathBuf,
    /// Where relays connect (UDP).
    pub link_address: SocketAddr,
    /// Where clients connect (UDP); used by edges only.
    pub client_address: SocketAddr,
    /// What the directory is told instead of `link_address`, for a relay behind a translated address.
    pub public_link_addresses: Vec<SocketAddr>,
    /// What the directory is told instead of `client_address`.
    pub public_client_addresses: Vec<SocketAddr>,
    /// What the relay offers to be.
    pub roles: Vec<Role>,
    /// Who runs it: the same text on all relays of one operator. Empty: this relay alone.
    pub operator: String,
    /// 64 hexadecimal digits, the same on relays that belong together. Empty: none.
    pub family: String,
    /// Packets per second that the directory is told.
    pub capacity: u32,
    /// Worker threads. 0: one for each core but one, at least one.
    pub workers: usize,
    /// error, warn, info, debug or trace.
    pub log_level: LogLevel,
    /// Whether to run as root.
    pub allow_root: bool,
    /// Length of a key epoch in milliseconds, until the first consensus says it.
    pub key_epoch_ms: u64,
    /// Who may make queues.
    pub admission: AdmissionConfig,
    /// How many packets are told apart.
    pub replay: ReplayConfig,
    /// How much a peer can make the relay hold or do.
    pub limits: LimitsConfig,
    /// What the store holds.
    pub store: StoreConfig,
    /// Where metrics are served.
    pub metrics: MetricsConfig,
}

/// How many packets the replay filter tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayConfig {
    /// Packets in one key epoch, all workers together. From four fifths on the relay tells the directory less than its
    /// capacity; when full it refuses packets until the key epoch ends.
    pub max_tags: u64,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self { max_tags: DEFAULT_MAX_TAGS }
    }
}

impl ReplayConfig {
    /// One worker's share, of `workers`.
    #[must_use]
    pub fn share(&self, workers: usize) -> usize {
        usize::try_from(self.max_tags).unwrap_or(usize::MAX) / workers.max(1)
    }

    fn validate(&self) -> Result<(), String> {
        if (LEAST_MAX_TAGS..=MOST_MAX_TAGS).contains(&self.max_tags) {
            return Ok(());
        }
        Err(format!("`replay.max_tags` is {}; choose {LEAST_MAX_TAGS} to {MOST_MAX_TAGS}", self.max_tags))
    }
}

/// What is asked of those who make queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Nothing.
    #[default]
    Open,
    /// The password.
    Password,
    /// A puzzle's solution.
    Puzzle,
}

/// Who may make queues, and what a message to a contact queue costs. Efforts are leading zero bits of a hash: each bit
/// doubles the work.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdmissionConfig {
    /// What is asked of those who make queues.
    pub policy: Policy,
    /// Asked for with the policy `password`.
    pub password: String,
    /// Effort of making a queue in quiet times, with the policy `puzzle`.
    pub create_effort_min: u8,
    /// The same under any load.
    pub create_effort_max: u8,
    /// New queues per minute above which the effort rises.
    pub creates_per_minute: u32,
    /// Effort of a message to a contact queue in quiet times, with any policy.
    pub contact_effort_min: u8,
    /// The same under any load.
    pub contact_effort_max: u8,
    /// Messages to contact queues per minute above which the effort rises.
    pub contacts_per_minute: u32,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        let (create, contact) = (Effort::CREATE, Effort::CONTACT);
        Self {
            policy: Policy::default(),
            password: String::new(),
            create_effort_min: create.floor,
            create_effort_max: create.ceiling,
            creates_per_minute: create.target,
            contact_effort_min: contact.floor,
            contact_effort_max: contact.ceiling,
            contacts_per_minute: contact.target,
        }
    }
}

impl AdmissionConfig {
    /// Who may make queues.
    #[must_use]
    pub fn admission(&self) -> Admission {
        match self.policy {
            Policy::Open => Admission::Open,
            Policy::Password => Admission::password(&self.password),
            Policy::Puzzle => Admission::Puzzle(self.create()),
        }
    }

    const fn create(&self) -> Effort {
        Effort { floor: self.create_effort_min, ceiling: self.create_effort_max, target: self.creates_per_minute }
    }

    /// The puzzle before each message to a contact queue.
    #[must_use]
    pub const fn contact(&self) -> Effort {
        Effort { floor: self.contact_effort_min, ceiling: self.contact_effort_max, target: self.contacts_per_minute }
    }

    fn validate(&self) -> Result<(), String> {
        match self.policy {
            Policy::Password if self.password.is_empty() => {
                return Err("`admission.policy` is \"password\", but `admission.password` is empty: choose one".into());
            }
            Policy::Open | Policy::Puzzle if !self.password.is_empty() => {
                return Err(
                    "`admission.password` is set, but not asked for: set `admission.policy = \"password\"`".into()
                );
            }
            _ => {}
        }
        if self.password.len() > MAX_PASSWORD_LEN {
            return Err(format!("`admission.password` is longer than {MAX_PASSWORD_LEN} bytes"));
        }
        for (what, rate, effort) in [("create", "creates", self.create()), ("contact", "contacts", self.contact())] {
            if effort.floor > effort.ceiling {
                return Err(format!(
                    "`admission.{what}_effort_min` is above `admission.{what}_effort_max`: {} and {}",
                    effort.floor, effort.ceiling
                ));
            }
            if effort.ceiling > MAX_PUZZLE_EFFORT {
                return Err(format!(
                    "`admission.{what}_effort_max` is {}, at most {MAX_PUZZLE_EFFORT} can be asked for",
                    effort.ceiling
                ));
            }
            if effort.target == 0 {
                return Err(format!("`admission.{rate}_per_minute` must not be 0; leave it out if unsure"));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for AdmissionConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdmissionConfig(..)")
    }
}

/// What the store holds, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreConfig {
    /// Messages in one queue between two people.
    pub queue_quota: u32,
    /// Messages in one contact queue.
    pub contact_quota: u32,
    /// Messages in one bulk queue.
    pub bulk_quota: u32,
    /// Queues in all.
    pub max_queues: u64,
    /// Messages and blobs in all, in MiB.
    pub disk_quota_mib: u64,
    /// Free space below which nothing is taken in, in MiB.
    pub min_free_mib: u64,
    /// Days after which a message is erased.
    pub message_ttl_days: u64,
    /// Days after which a message in a bulk queue is erased.
    pub bulk_ttl_days: u64,
    /// Days without use after which a queue is erased.
    pub queue_ttl_days: u64,
    /// Longest life of an invitation's blob in days.
    pub blob_ttl_days: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "state".into(),
            network: "network.toml".into(),
            link_address: SocketAddr::from(([0, 0, 0, 0], 4433)),
            client_address: SocketAddr::from(([0, 0, 0, 0], 4434)),
            public_link_addresses: Vec::new(),
            public_client_addresses: Vec::new(),
            roles: vec![Role::Edge],
            operator: String::new(),
            family: String::new(),
            capacity: 1000,
            workers: 0,
            log_level: LogLevel::default(),
            allow_root: false,
            key_epoch_ms: DEFAULT_KEY_EPOCH.as_millis() as u64,
            admission: AdmissionConfig::default(),
            replay: ReplayConfig::default(),
            limits: LimitsConfig::default(),
            store: StoreConfig::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            queue_quota: limits.queue_quota,
            contact_quota: limits.contact_quota,
            bulk_quota: limits.bulk_quota,
            max_queues: limits.max_queues,
            disk_quota_mib: limits.disk_quota_bytes / MIB,
            min_free_mib: limits.min_free_bytes / MIB,
            message_ttl_days: limits.message_ttl.as_secs() / DAY,
            bulk_ttl_days: limits.bulk_ttl.as_secs() / DAY,
            queue_ttl_days: limits.queue_ttl.as_secs() / DAY,
            blob_ttl_days: limits.blob_ttl.as_secs() / DAY,
        }
    }
}

impl StoreConfig {
    /// The store's limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let days = |n: u64| Duration::from_secs(n.saturating_mul(DAY));
        Limits {
            queue_quota: self.queue_quota,
            contact_quota: self.contact_quota,
            bulk_quota: self.bulk_quota,
            max_queues: self.max_queues,
            disk_quota_bytes: self.disk_quota_mib.saturating_mul(MIB),
            min_free_bytes: self.min_free_mib.saturating_mul(MIB),
            message_ttl: days(self.message_ttl_days),
            bulk_ttl: days(self.bulk_ttl_days),
            queue_ttl: days(self.queue_ttl_days),
            blob_ttl: days(self.blob_ttl_days),
            ..Limits::default()
        }
    }

    fn validate(&self) -> Result<(), String> {
        for (key, value) in [
            ("queue_quota", u64::from(self.queue_quota)),
            ("contact_quota", self.contact_quota.into()),
            ("bulk_quota", self.bulk_quota.into()),
            ("message_ttl_days", self.message_ttl_days),
            ("bulk_ttl_days", self.bulk_ttl_days),
            ("queue_ttl_days", self.queue_ttl_days),
        ] {
            if value == 0 {
                return Err(format!("`store.{key}` must not be 0; leave it out if unsure"));
            }
        }
        Ok(())
    }
}

impl Config {
    fn validate(&self) -> Result<(), String> {
        if self.roles.is_empty() {
            return Err("`roles` is empty: choose [\"edge\"] or [\"mix\"]".into());
        }
        if self.workers > MAX_WORKERS {
            return Err(format!("`workers` is {}, at most {MAX_WORKERS} are of use", self.workers));
        }
        if !self.family.is_empty() && from_hex(&self.family).is_none() {
            return Err("`family` must be 64 hexadecimal digits, or empty".into());
        }
        if self.key_epoch_ms == 0 {
            return Err("`key_epoch_ms` must not be 0; leave it out if unsure".into());
        }
        self.admission.validate()?;
        self.replay.validate()?;
        self.limits.validate()?;
        self.store.validate()?;
        self.metrics.validate()?;
        for (key, listen, public) in [
            ("link", self.link_address, &self.public_link_addresses),
            ("client", self.client_address, &self.public_client_addresses),
        ] {
            let used = key == "link" || self.offers(Role::Edge);
            if used && listen.ip().is_unspecified() && public.is_empty() {
                return Err(format!(
                    "`{key}_address` is {}, which others can't dial: add `public_{key}_addresses = [\"192.0.2.1:{}\"]`",
                    listen.ip(),
                    listen.port()
                ));
            }
        }
        Ok(())
    }

    /// Whether the relay offers this.
    #[must_use]
    pub fn offers(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The roles, as the directory is told.
    #[must_use]
    pub fn directory_roles(&self) -> Roles {
        Roles { edge: self.offers(Role::Edge), mix: self.offers(Role::Mix), retiring: false }
    }

    /// The addresses for relays, as the directory is told.
    #[must_use]
    pub fn advertised_link(&self) -> Vec<SocketAddr> {
        advertised(self.link_address, &self.public_link_addresses)
    }

    /// The addresses for clients, as the directory is told; none if the relay is no edge.
    #[must_use]
    pub fn advertised_client(&self) -> Vec<SocketAddr> {
        if self.offers(Role::Edge) {
            advertised(self.client_address, &self.public_client_addresses)
        } else {
            Vec::new()
        }
    }

    /// The operator, as the directory is told.
    #[must_use]
    pub fn operator_id(&self, relay: &RelayId) -> OperatorId {
        let name = if self.operator.is_empty() { relay.0.as_slice() } else { self.operator.as_bytes() };
        let hash = crypto::hash(OPERATOR_CONTEXT, name);
        OperatorId(hash.0.first_chunk().copied().unwrap_or_default())
    }

    /// The family, as the directory is told.
    #[must_use]
    pub fn family_key(&self) -> Option<[u8; 32]> {
        from_hex(&self.family)
    }

    /// How many workers to start on a machine with so many cores.
    #[must_use]
    pub const fn worker_count(&self, cores: usize) -> usize {
        match self.workers {
            0 if cores <= 2 => 1,
            0 if cores > MAX_WORKERS => MAX_WORKERS,
            0 => cores - 1,
            n => n,
        }
    }
}

fn advertised(listen: SocketAddr, public: &[SocketAddr]) -> Vec<SocketAddr> {
    if public.is_empty() { vec![listen] } else { public.to_vec() }
}

/// The text of a new configuration file: every default, each with what it means.
#[must_use]
pub fn template(config: &Config) -> String {
    const COMMENTS: &[(&str, &str)] = &[
        ("state_dir", "Keys, queues and the replay log. Paths start at this file's folder."),
        ("network", "The authorities of the network."),
        ("link_address", "Where relays connect (UDP)."),
        ("client_address", "Where clients connect (UDP); used by edges only."),
        ("public_link_addresses", "What the directory is told instead of `link_address`, behind a translated address."),
        ("public_client_addresses", "What the directory is told instead of `client_address`."),
        ("roles", "\"edge\": entry for clients, and queues. \"mix\": mixing. With both it serves as an edge."),
        ("operator", "Who runs it: the same text on all relays of one operator. Empty: this relay alone."),
        ("family", "The key of the family that this relay must be of (`posta-node keys family`). Empty: none, or any."),
        ("capacity", "Packets per second that the directory is told."),
        ("workers", "Worker threads. 0: one for each core but one, at least one."),
        ("log_level", "error, warn, info, debug or trace; none of them logs an address of a client."),
        ("allow_root", "Whether to run as root."),
        ("key_epoch_ms", "Length of a key epoch in milliseconds, until the first consensus says it."),
        ("policy", "Who may make queues. \"open\": everyone. \"password\": who knows it. \"puzzle\": who solves one."),
        ("password", "Asked for with the policy \"password\"."),
        (
            "create_effort_min",
            "A puzzle's effort with the policy \"puzzle\": 18 is 0.04 s of one core; 1 more is twice that.",
        ),
        ("create_effort_max", "It rises up to this effort while many queues are made: 26 is 11 s."),
        ("creates_per_minute", "New queues per minute above which the effort rises; twice as many cost 2 more."),
        ("contact_effort_min", "The effort of a message to a contact queue, with any policy: 19 is 0.09 s."),
        ("contact_effort_max", "It rises up to this effort while many come: 25 is 6 s."),
        ("contacts_per_minute", "Messages to contact queues per minute above which their effort rises."),
        (
            "max_tags",
            "Packets told apart in one key epoch: 11 bytes of memory and 16 of disk each, for two key epochs at its turn.",
        ),
        ("queue_quota", "Messages in one queue between two people."),
        ("contact_quota", "Messages in one contact queue: requests from strangers that wait for their owner."),
        ("bulk_quota", "Messages in one bulk queue: 512 are 5.6 MB of a file."),
        ("max_queues", "Queues in all."),
        ("disk_quota_mib", "Messages and blobs in all, in MiB."),
        ("min_free_mib", "Free space below which nothing is taken in, in MiB."),
        ("message_ttl_days", "Days after which a message is erased."),
        ("bulk_ttl_days", "Days after which a message in a bulk queue is erased."),
        ("queue_ttl_days", "Days without use after which a queue is erased."),
        ("blob_ttl_days", "Longest life of an invitation's blob in days."),
        ("listen", "Where a Prometheus on this machine reads metrics, as \"127.0.0.1:9464\". Empty: nowhere."),
    ];
    let mut text = String::from(
        "# A Posta relay. `posta-node check --config FILE` checks this file. Files `conf.d/*.toml` beside it\n# and variables, as POSTA_STORE__QUEUE_QUOTA for `store.queue_quota`, come after it and win.\n\n",
    );
    for line in posta_link::config::to_toml(config).lines() {
        let key = line.split_once(" = ").map_or("", |(key, _)| key);
        if let Some((_, comment)) = COMMENTS.iter().chain(limits::COMMENTS).find(|(k, _)| *k == key) {
            text.push_str("# ");
            text.push_str(comment);
            text.push('\n');
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        Config::load_from(&path, []).map(|loaded| loaded.config).map_err(|e| e.to_string())
    }

    #[test]
    fn the_template_is_the_configuration_with_a_comment_on_every_key() {
        let config =
            Config { link_address: "192.0.2.1:1".parse().unwrap(), roles: vec![Role::Mix], ..Config::default() };
        let text = template(&config);
        let lines: Vec<_> = text.lines().collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| l.contains(" = ") && !l.starts_with('#')) {
            assert!(lines[i - 1].starts_with("# "), "no comment above {line}");
        }
        let back = load(&text).unwrap();
        assert_eq!(Config { state_dir: "state".into(), network: "network.toml".into(), ..back }, config);
    }

    #[test]
    fn mistakes_are_named() {
        let e = load("link_adress = '192.0.2.1:1'").unwrap_err();
        assert!(e.contains("did you mean `link_address`"), "{e}");
        let e = load("[store]\nqueue_qouta = 1").unwrap_err();
        assert!(e.contains("did you mean `store.queue_quota`"), "{e}");
        let e = load("link_address = '0.0.0.0:5'").unwrap_err();
        assert!(e.contains("public_link_addresses"), "{e}");
        let e = load("link_address = '192.0.2.1:1'\nroles = []").unwrap_err();
        assert!(e.contains("`roles` is empty"), "{e}");
        let e = load("link_address = '192.0.2.1:1'\nclient_address = '192.0.2.1:2'\nfamily = 'x'").unwrap_err();
        assert!(e.contains("`family`"), "{e}");
        for (section, words) in [
            ("[admission]\npolicy = 'opne'", "expected one of `open`, `password`, `puzzle`"),
            ("[admission]\npolicy = 'password'", "`admission.password` is empty"),
            ("[admission]\npassword = 'sesame'", "set `admission.policy"),
            ("[admission]\ncreate_effort_min = 27", "is above `admission.create_effort_max`"),
            ("[admission]\ncontact_effort_max = 41", "at most 40"),
            ("[admission]\ncontacts_per_minute = 0", "`admission.contacts_per_minute`"),
            ("[store]\nbulk_quota = 0", "`store.bulk_quota`"),
            ("[replay]\nmax_tags = 1023", "`replay.max_tags` is 1023; choose 1024"),
            ("[replay]\nmax_tags = 4294967297", "`replay.max_tags`"),
        ] {
            let addresses = "link_address = '192.0.2.1:1'\nclient_address = '192.0.2.1:2'\n";
            let e = load(&format!("{addresses}{section}")).unwrap_err();
            assert!(e.contains(words), "{e}");
        }
        let long = "x".repeat(MAX_PASSWORD_LEN + 1);
        let e = load(&format!("[admission]\npolicy = 'password'\npassword = '{long}'")).unwrap_err();
        assert!(e.contains("longer than 64"), "{e}");
    }

    #[test]
    fn each_policy_is_what_it_says() {
        let addresses = "link_address = '192.0.2.1:1'\nclient_address = '192.0.2.1:2'\n";
        let with = |section: &str| load(&format!("{addresses}[admission]\n{section}")).unwrap().admission;
        assert!(matches!(with("").admission(), Admission::Open));
        assert!(matches!(with("policy = 'password'\npassword = 'x'").admission(), Admission::Password(_)));
        let puzzle = with("policy = 'puzzle'\ncreate_effort_min = 5\ncontact_effort_max = 30");
        assert!(
            matches!(puzzle.admission(), Admission::Puzzle(effort) if effort == Effort { floor: 5, ..Effort::CREATE })
        );
        assert_eq!(puzzle.contact(), Effort { ceiling: 30, ..Effort::CONTACT });
    }
}
