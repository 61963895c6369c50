//! Authorities, relays and clients as processes on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use posta_directory::config as authority;
use posta_link::fetch::Network as Listed;
use posta_link::logs::LogLevel;
use posta_node::config::{self as relay, Role as Offer};
use posta_node::keys::Keys;
use posta_protocol::document::Authorities;
use posta_protocol::now::Wall;
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::cli::Role;
use crate::layout::{Layout, Size};
use crate::lines::Lines;
use crate::lines::tap::{Tap, Tapped, Taps};
use crate::process::{LINES, Process, Said};
use crate::rogue::Misdeed;
use crate::running::last_words;

/// Days for which the authorities' certificates are valid.
const CERTIFICATE_DAYS: u64 = 30;
/// Loops by which an authority measures each relay in an epoch: few, on a machine that runs the whole network.
const MEASURE_LOOPS: usize = 10;
/// Free space that a relay of a testnet leaves, in MiB.
const MIN_FREE_MIB: u64 = 64;
/// How long a process may take to stop.
const STOP: Duration = Duration::from_secs(5);
/// Logs say what tests search; the messages of a demo are few.
const LOG_LEVEL: LogLevel = LogLevel::Trace;

/// How fast a network's clock goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Length of an epoch.
    pub epoch: Duration,
    /// Length of a key epoch.
    pub key_epoch: Duration,
}

impl Times {
    /// Short ones: a relay that is gone leaves the list while a demo still runs, and several key epochs pass in a few
    /// minutes.
    pub const DEMO: Self = Self { epoch: Duration::from_secs(10), key_epoch: Duration::from_secs(60) };
}

/// What a network is made as.
#[derive(Clone, Debug)]
pub struct Makings {
    /// How many of each.
    pub size: Size,
    /// Lengths of its epochs.
    pub times: Times,
    /// Whether its lines can be changed: all datagrams then take the way through this process.
    pub lines: bool,
    /// Who watches which lines.
    pub taps: Vec<Tap>,
    /// Who misbehaves, by name.
    pub rogues: BTreeMap<String, Misdeed>,
    /// Of what lines lose, and of whom misbehaviour hits.
    pub seed: u64,
}

impl Makings {
    /// A network without anything special.
    #[must_use]
    pub const fn plain(size: Size, times: Times) -> Self {
        Self { size, times, lines: false, taps: Vec::new(), rogues: BTreeMap::new(), seed: 0 }
    }
}

/// A running network.
#[derive(Debug)]
pub struct Network {
    layout: Layout,
    lines: Option<Lines>,
    rogues: BTreeMap<String, Misdeed>,
    seed: u64,
    running: BTreeMap<String, Process>,
    heard: mpsc::Receiver<(String, Said)>,
    said: mpsc::Sender<(String, Said)>,
    /// What relays said of themselves last.
    counters: BTreeMap<String, Value>,
    relays: BTreeMap<String, String>,
}

impl Network {
    /// Makes keys and configurations in `dir`, which must not exist, and starts authorities and relays.
    ///
    /// # Errors
    /// If the folder can't be written, no ports are free, or a process doesn't start.
    pub fn start(makings: Makings, dir: &Path) -> Result<Self> {
        let Makings { size, times, lines, taps, rogues, seed } = makings;
        fs::create_dir_all(dir).with_context(|| format!("can't make the folder {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("can't find {}", dir.display()))?;
        let doors = lines || !taps.is_empty();
        let layout =
            Layout::find(size, doors, &dir).context("no two ports are free on all of the testnet's addresses")?;
        prepare(&layout, times)?;
        let lines = if doors {
            let taps = Taps::open(&dir.join(Taps::FOLDER), &taps).context("what is tapped can't be written")?;
            Some(Lines::open(&layout, taps, seed).context("the network's lines can't be opened")?)
        } else {
            None
        };
        let (said, heard) = mpsc::channel(LINES);
        let (running, counters) = (BTreeMap::new(), BTreeMap::new());
        let mut network = Self { layout, lines, rogues, seed, running, heard, said, counters, relays: BTreeMap::new() };
        for a in 0..size.authorities {
            let name = network.layout.authority_name(a);
            network.restart(&name)?;
        }
        for r in 0..size.relays() {
            let name = network.layout.relay_name(r);
            network.restart(&name)?;
        }
        Ok(network)
    }

    /// Who is where.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Starts an authority or relay of this network: for the first time, or again after a kill.
    ///
    /// # Errors
    /// If the process doesn't start.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        let config = Layout::config_in(&self.layout.dir, name).display().to_string();
        if let Some(misdeed) = self.rogues.get(name) {
            let misdeed = serde_json::to_string(misdeed).context("a misdeed")?;
            let mut args = vec!["--misdeed".into(), misdeed, "--config".into(), config];
            args.extend(["--seed".into(), self.seed.to_string()]);
            let watched = self.layout.dir.join(Taps::FOLDER);
            fs::create_dir_all(&watched).context("what is watched can't be written")?;
            args.extend(["--watch".into(), watched.join(format!("inside-{name}.jsonl")).display().to_string()]);
            return self.spawn(name, Role::Rogue, &args);
        }
        if name.starts_with("authority") {
            self.spawn(name, Role::Directory, &["run".into(), "--config".into(), config])
        } else {
            self.spawn(name, Role::Node, &["run".into(), "--config".into(), config, "--ready-json".into()])
        }
    }

    /// Starts a client at the k-th client address.
    ///
    /// # Errors
    /// If the process doesn't start.
    pub fn start_client(&mut self, name: &str, k: usize, more: &[&str]) -> Result<()> {
        let (file, ip) = (self.layout.network_file().display().to_string(), self.layout.client_ip(k).to_string());
        let log = LOG_LEVEL.to_string();
        let mut args: Vec<String> =
            ["talk", "--network", &file, "--local", &ip, "--json", "--log", &log].map(str::to_owned).to_vec();
        args.extend(more.iter().map(|s| (*s).to_owned()));
        self.spawn(name, Role::Posta, &args)
    }

    /// Starts a client at the k-th client address that sends one echo through the network, and ends.
    ///
    /// # Errors
    /// If the process doesn't start.
    pub fn start_ping(&mut self, name: &str, k: usize) -> Result<()> {
        let (file, ip) = (self.layout.network_file().display().to_string(), self.layout.client_ip(k).to_string());
        let args = ["ping", "--network", &file, "--local", &ip, "--json"].map(str::to_owned);
        self.spawn(name, Role::Posta, &args)
    }

    /// The relays' ids by name, as far as they were ready once.
    #[must_use]
    pub const fn relays(&self) -> &BTreeMap<String, String> {
        &self.relays
    }

    fn spawn(&mut self, name: &str, role: Role, args: &[String]) -> Result<()> {
        let process = Process::start(name, role, args, &self.layout.log_file(name), self.said.clone())
            .with_context(|| format!("{name} can't be started"))?;
        self.running.insert(name.to_owned(), process);
        Ok(())
    }

    /// Writes a line to a process.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn say(&mut self, name: &str, line: &Value) -> Result<()> {
        let last_words = self.last_words(name);
        let process = self.running.get_mut(name).with_context(|| format!("{name} isn't running"))?;
        process.say(line).await.with_context(|| format!("{name} does not listen any more: {last_words}"))
    }

    /// The next thing that any process says.
    pub async fn next(&mut self) -> (String, Said) {
        // The sender that we hold keeps the channel open.
        let Some((name, said)) = self.heard.recv().await else { return std::future::pending().await };
        if let Said::Line(line) = &said
            && line.get("carried").is_some()
        {
            self.counters.insert(name.clone(), line.clone());
        }
        if let Said::Line(line) = &said
            && let Some(relay) = line.get("relay").and_then(Value::as_str)
        {
            self.relays.insert(name.clone(), relay.to_owned());
        }
        (name, said)
    }

    fn count(&self, name: &str, what: &str) -> u64 {
        self.counters.get(name).and_then(|c| c.get(what)?.as_u64()).unwrap_or_default()
    }

    /// Packets that a relay has carried, as it said last.
    #[must_use]
    pub fn carried(&self, name: &str) -> u64 {
        self.count(name, "carried")
    }

    /// What a relay has counted by this name (`posta_node::relay::Counters`), as it said last.
    #[must_use]
    pub fn counter(&self, name: &str, counter: &str) -> u64 {
        let counters = self.counters.get(name).and_then(|c| c.get("counters"));
        counters.and_then(|c| c.get(counter)?.as_u64()).unwrap_or_default()
    }

    /// Messages that a relay has stored, as it said last.
    #[must_use]
    pub fn stored(&self, name: &str) -> u64 {
        self.count(name, "stored")
    }

    /// Running processes whose name starts so.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = String> + 'a {
        self.running.keys().filter(move |n| n.starts_with(prefix)).cloned()
    }

    /// Whether the process with this id is one that should run: not one that we have killed.
    #[must_use]
    pub fn should_run(&self, name: &str, pid: u32) -> bool {
        self.running.get(name).is_some_and(|p| p.pid() == pid)
    }

    /// Process ids, by name.
    #[must_use]
    pub fn pids(&self) -> Vec<(String, u32)> {
        self.running.values().map(|p| (p.name.clone(), p.pid())).collect()
    }

    /// The end of a process's log.
    #[must_use]
    pub fn last_words(&self, name: &str) -> String {
        last_words(&self.layout.dir, name)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// If there is no such process.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        let Some(process) = self.running.remove(name) else { bail!("{name} isn't running") };
        self.counters.remove(name);
        process.kill().await.with_context(|| format!("{name} can't be killed"))
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// If there is no such process, or it doesn't end.
    pub async fn terminate(&mut self, name: &str) -> Result<()> {
        let Some(process) = self.running.remove(name) else { bail!("{name} isn't running") };
        self.counters.remove(name);
        process.terminate(STOP).await.with_context(|| format!("{name} doesn't stop"))
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn pause(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::STOP)
    }

    /// SIGCONT. Nothing happens to one that is gone by now.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn resume(&self, name: &str) -> Result<()> {
        if self.running.contains_key(name) { self.signal(name, Signal::CONT) } else { Ok(()) }
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let process = self.running.get(name).with_context(|| format!("{name} isn't running"))?;
        process.signal(signal).with_context(|| format!("{name} can't be told"))
    }

    /// The network's lines, if they can be changed or are tapped.
    #[must_use]
    pub const fn lines(&self) -> Option<&Lines> {
        self.lines.as_ref()
    }

    /// Stops everything. Says what was tapped.
    ///
    /// # Errors
    /// If what was tapped could not be written.
    pub async fn stop(&mut self) -> Result<Vec<Tapped>> {
        let all = std::mem::take(&mut self.running);
        let stops: Vec<_> = all.into_values().map(|p| tokio::spawn(p.stop(STOP))).collect();
        for stop in stops {
            // What doesn't stop is killed when its handle goes.
            let _ = stop.await;
        }
        match self.lines.take() {
            Some(lines) => lines.close().await.context("what was tapped could not be written"),
            None => Ok(Vec::new()),
        }
    }
}

/// The wall clock, since 1970: key files are certified from now on, and all that is written down has its time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the testnet is a driver")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same as the cores are told it.
#[must_use]
pub fn wall() -> Wall {
    Wall(u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX))
}

/// Writes keys and configurations of all authorities and relays.
fn prepare(layout: &Layout, times: Times) -> Result<()> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let mut list = Vec::new();
    for a in 0..layout.size.authorities {
        let name = layout.authority_name(a);
        let config = authority::Config {
            listen: layout.authority_address(a),
            network: layout.network_file(),
            epoch_ms: millis(times.epoch),
            key_epoch_ms: millis(times.key_epoch),
            layer_min: 1,
            bootstrap_relays: layout.size.relays(),
            measure_loops: MEASURE_LOOPS,
            reserved_networks: true,
            log_level: LOG_LEVEL,
            ..authority::Config::default()
        };
        let folder = layout.node_dir(&name);
        let made =
            authority::init(&folder, &config, vec![layout.public(config.listen)], CERTIFICATE_DAYS, wall(), false)
                .with_context(|| format!("{name} can't be set up"))?;
        list.extend(made.authorities().list().iter().cloned());
    }
    let authorities = Authorities::new(list).context("the authorities' keys")?;
    Listed::new(authorities).save(&layout.network_file()).context("network.toml can't be written")?;

    let public = |at| if layout.doors { vec![layout.door(at)] } else { Vec::new() };
    for r in 0..layout.size.relays() {
        let name = layout.relay_name(r);
        let folder = layout.node_dir(&name);
        let config = relay::Config {
            network: layout.network_file(),
            link_address: layout.link_address(r),
            client_address: layout.client_address(r),
            public_link_addresses: public(layout.link_address(r)),
            public_client_addresses: if layout.is_edge(r) { public(layout.client_address(r)) } else { Vec::new() },
            roles: vec![if layout.is_edge(r) { Offer::Edge } else { Offer::Mix }],
            operator: name.clone(),
            workers: 1,
            log_level: LOG_LEVEL,
            allow_root: true,
            key_epoch_ms: millis(times.key_epoch),
            store: relay::StoreConfig { min_free_mib: MIN_FREE_MIB, ..relay::StoreConfig::default() },
            ..relay::Config::default()
        };
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        fs::write(folder.join("node.toml"), relay::template(&config)).context("node.toml can't be written")?;
        Keys::create(&folder.join(&config.state_dir), wall()).with_context(|| format!("{name} can't be set up"))?;
    }
    Ok(())
}
