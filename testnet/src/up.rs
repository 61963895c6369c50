//! A network that stays until it is told to go.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use posta_link::exit;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::layout::Size;
use crate::network::Network;
use crate::process::Said;

/// How long `down` waits for `up` to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// What `status` and `down` know of a running network: a file in its folder.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The process that runs `up`.
    pid: u32,
    /// Its children, by name.
    nodes: Vec<(String, u32)>,
}

fn state_file(dir: &Path) -> PathBuf {
    dir.join("testnet.json")
}

fn read_state(dir: &Path) -> Result<State> {
    let file = state_file(dir);
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("no testnet in {}: start one with 'posta-testnet up'", dir.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged: remove the folder", file.display()))
}

/// Whether a process runs and is one of ours: its command line names this program.
fn runs(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.windows(6).any(|w| w == b"testne" || w == b"posta-"))
}

/// Starts a network and stays.
///
/// # Errors
/// If the folder is in use or a node can't start.
pub async fn up(dir: &Path) -> Result<ExitCode> {
    if let Ok(state) = read_state(dir)
        && runs(state.pid)
    {
        bail!("a testnet is up in {} already: 'posta-testnet down' ends it, --dir names another folder", dir.display());
    }
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("can't clear {}", dir.display()))?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    eprintln!("starting 4 authorities and 12 relays in {}", dir.display());
    let mut network = Network::start(Size::DEMO, dir)?;
    let state = State { pid: std::process::id(), nodes: network.pids() };
    std::fs::write(state_file(dir), serde_json::to_string_pretty(&state)?)?;

    let mut waiting = Size::DEMO.relays();
    loop {
        tokio::select! {
            (name, said) = network.next() => match said {
                Said::Line(line) if line.get("ready").is_some() => {
                    waiting = waiting.saturating_sub(1);
                    if waiting == 0 {
                        connect_help(&network);
                    }
                }
                Said::Ended(_) => eprintln!("{name} ended: {}", network.last_words(&name)),
                Said::Line(_) => {}
            },
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
        }
    }
    eprintln!("stopping");
    network.stop().await;
    std::fs::remove_dir_all(dir).with_context(|| format!("can't remove {}", dir.display()))?;
    Ok(ExitCode::from(exit::OK))
}

fn connect_help(network: &Network) {
    let dir = &network.layout().dir;
    // The messenger is built beside this program; where it was moved away, its name will do.
    let posta = std::env::current_exe().map(|exe| exe.with_file_name("posta")).ok().filter(|p| p.exists());
    let posta = posta.unwrap_or_else(|| PathBuf::from("posta"));
    let talk = format!("{} talk --network {}", posta.display(), network.layout().network_file().display());
    println!("The network is up. In one terminal, invite:\n\n  {talk}\n");
    println!("and in another, join with the link that it prints:\n\n  {talk} --join\n");
    println!("That keeps nothing. With a state on disk (docs/messaging.md), for each person in a terminal:\n");
    let file = network.layout().network_file();
    println!("  {} init --dir FOLDER --network {}\n", posta.display(), file.display());
    println!("Ctrl-C here, or 'posta-testnet down', ends it and removes {}.", dir.display());
}

/// Says what runs.
///
/// # Errors
/// If there is no testnet in the folder.
pub fn status(dir: &Path, as_json: bool) -> Result<ExitCode> {
    let state = read_state(dir)?;
    let nodes: Vec<(&str, u32, bool)> = state.nodes.iter().map(|(n, pid)| (n.as_str(), *pid, runs(*pid))).collect();
    let all = runs(state.pid) && nodes.iter().all(|(.., up)| *up);
    if as_json {
        let nodes: Vec<_> = nodes.iter().map(|(name, pid, up)| json!({"name": name, "pid": pid, "up": up})).collect();
        println!("{}", json!({"dir": dir, "up": runs(state.pid), "nodes": nodes}));
    } else {
        for (name, pid, up) in nodes {
            println!("{name:<14} {pid:>8}  {}", if up { "up" } else { "ended: its log says why" });
        }
        println!("logs in {}", dir.join("logs").display());
    }
    Ok(ExitCode::from(if all { exit::OK } else { exit::FAILURE }))
}

/// Ends a network and removes its folder.
///
/// # Errors
/// If there is none, or it doesn't end.
pub async fn down(dir: &Path) -> Result<ExitCode> {
    let state = read_state(dir)?;
    let mut all = vec![state.pid];
    // The children end with their parent; what was left behind by a parent that crashed is told by itself.
    if !runs(state.pid) {
        all = state.nodes.iter().map(|(_, pid)| *pid).collect();
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
        std::fs::remove_dir_all(dir).with_context(|| format!("can't remove {}", dir.display()))?;
    }
    Ok(ExitCode::from(exit::OK))
}
