//! A network that is up, from outside: `status`, `exec`, `logs`, `down`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use posta_link::exit;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::Role;
use crate::layout::Layout;
use crate::network::Network;

/// How long `down` waits for `up` to end.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often `logs --follow` looks for more.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of a log's end that are shown as a reason.
const LAST_WORDS: usize = 400;

/// What a node was last seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It was started.
    Starting,
    /// A relay that has its place; an authority that was started; a client that has found its other one.
    Ready,
    /// Its process is gone.
    Ended,
}

/// A process of a network that is up.
#[derive(Debug, Serialize, Deserialize)]
struct Node {
    name: String,
    /// Of a client that wasn't started yet 0.
    pid: u32,
    phase: Phase,
    /// Of a client: what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
}

impl Node {
    fn is_client(&self) -> bool {
        self.name.starts_with("client")
    }
}

/// What is known of a running network: a file in its folder, written by `up`.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The process that runs `up`.
    pub pid: u32,
    nodes: Vec<Node>,
}

impl State {
    fn file(dir: &Path) -> PathBuf {
        dir.join(Layout::STATE)
    }

    /// Of a network that was just started.
    #[must_use]
    pub fn new(network: &Network) -> Self {
        let phase = |name: &str| if name.starts_with("authority") { Phase::Ready } else { Phase::Starting };
        let nodes = network.pids().into_iter().map(|(name, pid)| Node { phase: phase(&name), name, pid, waits: None });
        let nodes = nodes.collect();
        Self { pid: std::process::id(), nodes }
    }

    /// Reads it.
    ///
    /// # Errors
    /// If there is no testnet in the folder.
    pub fn read(dir: &Path) -> Result<Self> {
        let file = Self::file(dir);
        let text = fs::read_to_string(&file)
            .with_context(|| format!("no testnet in {}: start one with 'posta-testnet up'", dir.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged: remove the folder", file.display()))
    }

    /// Replaces the file at once, whoever reads it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let (file, new) = (Self::file(dir), dir.join("testnet.new"));
        fs::write(&new, serde_json::to_string_pretty(self)?)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("can't write {}", file.display()))
    }

    /// Notes what a node does now.
    pub fn set(&mut self, name: &str, phase: Phase) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == name) {
            node.phase = phase;
        }
    }

    /// Notes what a client does now, if it hasn't ended.
    pub fn client(&mut self, name: String, pid: Option<u32>, phase: Phase, waits: Option<&str>) {
        let new = Node { name, pid: pid.unwrap_or_default(), phase, waits: waits.map(str::to_owned) };
        match self.nodes.iter_mut().find(|node| node.name == new.name) {
            Some(old) if old.phase == Phase::Ended => {}
            Some(old) => *old = new,
            None => self.nodes.push(new),
        }
    }

    fn relays(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.name.starts_with("authority") && !node.is_client())
    }

    /// Whether all relays are ready.
    #[must_use]
    pub fn relays_ready(&self) -> bool {
        self.relays().all(|node| node.phase == Phase::Ready)
    }

    /// Relays that are ready.
    #[must_use]
    pub fn count_ready(&self) -> usize {
        self.relays().filter(|node| node.phase == Phase::Ready).count()
    }

    /// Whether all relays and clients are.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.relays_ready() && self.nodes.iter().filter(|node| node.is_client()).all(|node| node.phase == Phase::Ready)
    }
}

/// Whether a process runs and is one of ours: its command line names this program.
#[must_use]
pub fn runs(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.windows(6).any(|w| w == b"testne" || w == b"posta-"))
}

/// The end of a process's log.
#[must_use]
pub fn last_words(dir: &Path, name: &str) -> String {
    let log = fs::read_to_string(Layout::log_file_in(dir, name)).unwrap_or_default();
    let start = log.floor_char_boundary(log.len().saturating_sub(LAST_WORDS));
    log.get(start..).unwrap_or_default().trim().to_owned()
}

/// Why a node isn't ready; `None` if it is.
fn why_not(dir: &Path, node: &Node) -> Option<String> {
    let waits = node.waits.clone().filter(|_| node.phase == Phase::Starting);
    if node.pid == 0 {
        return waits;
    }
    if !runs(node.pid) {
        let words = last_words(dir, &node.name);
        return Some(if words.is_empty() { "ended, and its log is empty".into() } else { format!("ended: {words}") });
    }
    if node.name.starts_with("authority") {
        return None;
    }
    if node.is_client() {
        return waits;
    }
    match posta_node::cli::report(&Layout::config_in(dir, &node.name)) {
        Ok(report) if report.well() => None,
        Ok(report) => report.problems.iter().max_by_key(|problem| problem.level).map(|problem| problem.says.clone()),
        Err(e) => Some(e.to_string()),
    }
}

/// Says what runs, and of what isn't ready why.
///
/// # Errors
/// If there is no testnet in the folder.
pub fn status(dir: &Path, as_json: bool) -> Result<ExitCode> {
    let state = State::read(dir)?;
    let whys: Vec<Option<String>> = state.nodes.iter().map(|node| why_not(dir, node)).collect();
    let ready = whys.iter().filter(|why| why.is_none()).count();
    let all = runs(state.pid) && ready == whys.len();
    let nodes = state.nodes.iter().zip(&whys);
    if as_json {
        let nodes: Vec<_> = nodes
            .map(|(node, why)| {
                json!({"name": node.name, "pid": node.pid, "up": runs(node.pid), "ready": why.is_none(), "why": why})
            })
            .collect();
        println!("{}", json!({"dir": dir, "up": runs(state.pid), "ready": all, "nodes": nodes}));
    } else {
        for (node, why) in nodes {
            println!("{:<14} {:>8}  {}", node.name, node.pid, why.as_deref().unwrap_or("ready"));
        }
        println!("{ready} of {} are ready; logs in {}", whys.len(), dir.join(Layout::LOGS).display());
    }
    Ok(ExitCode::from(if all { exit::OK } else { exit::FAILURE }))
}

/// Runs a node's own program in its place: `edge-1 status`, `authority-1 votes`, `posta ping`.
///
/// # Errors
/// If there is no such node, or it can't be run.
pub fn exec(dir: &Path, name: &str, arguments: &[String]) -> Result<ExitCode> {
    let state = State::read(dir)?;
    let (role, option, file) = if name == Role::Posta.as_str() {
        (Role::Posta, "--network", dir.join(Layout::NETWORK))
    } else if !state.nodes.iter().any(|node| node.name == name) {
        let names: Vec<_> = state.nodes.iter().map(|node| node.name.as_str()).collect();
        bail!("there is no {name} here, only posta, {}", names.join(", "));
    } else if name.starts_with("client") {
        bail!("{name} is busy with its other one; 'exec posta ping' is a client of your own");
    } else if name.starts_with("authority") {
        // What is asked of all authorities needs their list and no configuration.
        match arguments.first().map(String::as_str) {
            Some("run") => (Role::Directory, "--config", Layout::config_in(dir, name)),
            _ => (Role::Directory, "--network", dir.join(Layout::NETWORK)),
        }
    } else {
        (Role::Node, "--config", Layout::config_in(dir, name))
    };
    let mut command = Command::new(std::env::current_exe().context("this program can't find itself")?);
    command.arg("role").arg(role.as_str()).args(arguments);
    if !arguments.iter().any(|argument| matches!(argument.as_str(), "help" | "--help" | "-h" | "--version" | "-V")) {
        command.arg(option).arg(file);
    }
    let code = command.status().with_context(|| format!("{name} can't be run"))?.code();
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILURE)))
}

/// Prints logs, each line behind the name of its node if there are several.
///
/// # Errors
/// If there is no such log.
pub async fn logs(dir: &Path, names: &[String], lines: usize, follow: bool) -> Result<ExitCode> {
    let names = if names.is_empty() { all_logs(dir)? } else { names.to_vec() };
    let width = if names.len() > 1 { names.iter().map(String::len).max().unwrap_or(0) } else { 0 };
    let mut read = BTreeMap::new();
    for name in &names {
        let path = Layout::log_file_in(dir, name);
        let log = fs::read_to_string(&path).with_context(|| format!("{name} has no log in {}", dir.display()))?;
        let skip = log.lines().count().saturating_sub(lines);
        if !print(name, width, log.lines().skip(skip)) {
            return Ok(ExitCode::from(exit::OK));
        }
        read.insert(name, (path, log.len() as u64));
    }
    if follow {
        follow_logs(&mut read, width).await?;
    }
    Ok(ExitCode::from(exit::OK))
}

/// Prints what is logged from now on, until the network is gone or nobody reads any more.
async fn follow_logs(read: &mut BTreeMap<&String, (PathBuf, u64)>, width: usize) -> Result<()> {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        for (name, (path, at)) in &mut *read {
            let more = match more(path, *at) {
                Ok(more) => more,
                // The network is gone.
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e).with_context(|| format!("can't read {}", path.display())),
            };
            // A line that isn't whole yet comes with the next look.
            let whole = more.rfind('\n').map_or(0, |end| end + 1);
            *at += whole as u64;
            if !print(name, width, more.get(..whole).unwrap_or_default().lines()) {
                return Ok(());
            }
        }
    }
}

fn all_logs(dir: &Path) -> Result<Vec<String>> {
    let folder = dir.join(Layout::LOGS);
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("no testnet in {}: start one with 'posta-testnet up'", dir.display()))?;
    let names = entries.filter_map(|e| Some(e.ok()?.file_name().to_str()?.strip_suffix(".log")?.to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    Ok(names)
}

/// `false` when nobody reads any more.
fn print<'l>(name: &str, width: usize, lines: impl Iterator<Item = &'l str>) -> bool {
    let mut out = std::io::stdout().lock();
    lines.into_iter().all(|line| match width {
        0 => writeln!(out, "{line}").is_ok(),
        _ => writeln!(out, "{name:<width$}  {line}").is_ok(),
    })
}

fn more(path: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends a network and removes its folder.
///
/// # Errors
/// If there is none, or it doesn't end.
pub async fn down(dir: &Path) -> Result<ExitCode> {
    let state = State::read(dir)?;
    let mut all = vec![state.pid];
    // The children end with their parent; what was left behind by a parent that crashed is told by itself.
    if !runs(state.pid) {
        all = state.nodes.iter().map(|node| node.pid).collect();
    }
    for pid in all.iter().filter(|pid| runs(**pid)) {
        // By the system call: a bare Debian has no program for it.
        let target = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        let told = target.is_some_and(|target| kill_process(target, Signal::TERM).is_ok());
        if !told && runs(*pid) {
            bail!("process {pid} can't be told to stop: is it another user's?");
        }
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while all.iter().any(|pid| runs(*pid)) {
        if tokio::time::Instant::now() > deadline {
            bail!("the testnet in {} did not end within {} s", dir.display(), PATIENCE.as_secs());
        }
        tick.tick().await;
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("can't remove {}", dir.display()))?;
    }
    Ok(ExitCode::from(exit::OK))
}
