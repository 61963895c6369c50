//! A network that stays until it is told to go.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use posta_link::exit;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::clients::{Clients, Stand};
use crate::layout::{Layout, Size};
use crate::lines::tap::Tap;
use crate::network::{Makings, Network, Times};
use crate::process::Said;
use crate::running::{Phase, State, last_words, runs};

mod clients;

/// How long `up --detach` waits for the network; what isn't ready then, `status` explains.
const READY: Duration = Duration::from_secs(180);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// The name of the testnet's own log.
const OWN: &str = "testnet";

/// What network, and where.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// How many of each.
    pub size: Size,
    /// Lengths of its epochs.
    pub times: Times,
    /// How often each client says something to its other one.
    pub every: Duration,
    /// Who watches which lines.
    pub taps: &'a [Tap],
    /// Its folder.
    pub dir: &'a Path,
}

/// Empties the folder of a testnet that isn't up any more.
fn clear(dir: &Path) -> Result<()> {
    match State::read(dir) {
        Ok(state) if runs(state.pid) => {
            bail!(
                "a testnet is up in {} already: 'posta-testnet down' ends it, --dir names another folder",
                dir.display()
            )
        }
        // A folder that is no testnet's holds something that somebody may want.
        Err(_) if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) && !Layout::is_ours(dir) => {
            bail!("{} is not empty, and no testnet's: name another folder with --dir", dir.display())
        }
        _ => {}
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("can't clear {}", dir.display()))?;
    }
    Ok(())
}

/// Starts a network and stays.
///
/// # Errors
/// If the folder is in use or a node can't start.
pub async fn up(wanted: Wanted<'_>, cleared: bool) -> Result<ExitCode> {
    let Wanted { size, times, every, taps, dir } = wanted;
    if cleared {
        // From here on it is no part of the terminal's session. Fails if it is none already.
        let _ = rustix::process::setsid();
    } else {
        clear(dir)?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let began = Instant::now();
    eprintln!("starting {} authorities and {} relays in {}", size.authorities, size.relays(), dir.display());
    let mut network = Network::start(Makings { taps: taps.to_vec(), ..Makings::plain(size, times) }, dir)?;
    let mut clients = Clients::new(size.clients, every);
    let mut state = State::new(&network);
    state.clients(&network, &clients);
    state.write(dir)?;
    let mut progress = Progress::new(size.relays());
    let mut started = false;
    loop {
        if !started && state.relays_ready() {
            started = true;
            clients.start(&mut network)?;
            state.clients(&network, &clients);
            state.write(dir)?;
        }
        tokio::select! {
            (name, said) = network.next() => {
                let waited = !state.ready();
                match (clients.number(&name), said) {
                    (_, Said::Ended(_)) => {
                        eprintln!("{name} ended: {}", network.last_words(&name));
                        state.set(&name, Phase::Ended);
                    }
                    (Some(k), Said::Line(line)) => {
                        if !clients.said(&mut network, k, &line).await? {
                            continue;
                        }
                        state.clients(&network, &clients);
                    }
                    (None, Said::Line(line)) if line.get("ready").is_some() => state.set(&name, Phase::Ready),
                    _ => continue,
                }
                state.write(dir)?;
                progress.show(state.count_ready());
                if waited && state.ready() {
                    eprintln!("ready after {:.1} s", began.elapsed().as_secs_f64());
                    connect_help(network.layout());
                    println!("Ctrl-C here, or 'posta-testnet down', ends it and removes {}.", dir.display());
                }
            }
            k = clients.turn() => clients.talk(&mut network, k).await,
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
        }
    }
    eprintln!("stopping");
    network.stop().await?;
    fs::remove_dir_all(dir).with_context(|| format!("can't remove {}", dir.display()))?;
    Ok(ExitCode::from(exit::OK))
}

/// Starts a network in the background, with these arguments of `up`, and returns when it is ready.
///
/// # Errors
/// If it isn't ready in time, or ends.
pub async fn detach(wanted: Wanted<'_>, arguments: &[String]) -> Result<ExitCode> {
    let dir = wanted.dir;
    clear(dir)?;
    let log = Layout::log_file_in(dir, OWN);
    fs::create_dir_all(log.parent().unwrap_or(dir)).with_context(|| format!("can't make {}", dir.display()))?;
    let output = File::create(&log).with_context(|| format!("can't write {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe().context("this program can't find itself")?);
    command.arg("up").args(arguments).arg("--cleared").arg("--dir").arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
    let mut child = command.spawn().context("the testnet can't be started")?;

    let deadline = Instant::now() + READY;
    let mut progress = Progress::new(wanted.size.relays());
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        if child.try_wait()?.is_some() {
            bail!("the testnet ended: {}", last_words(dir, OWN));
        }
        let Ok(state) = State::read(dir) else { continue };
        progress.show(state.count_ready());
        if state.ready() {
            progress.end();
            let layout = Layout { size: wanted.size, dir: dir.canonicalize()?, port: 0, doors: false };
            connect_help(&layout);
            println!("'posta-testnet down --dir {}' ends it and removes the folder.", dir.display());
            return Ok(ExitCode::from(exit::OK));
        }
        if Instant::now() > deadline {
            bail!(
                "not ready after {} s: 'posta-testnet status --dir {}' says why; it goes on",
                READY.as_secs(),
                dir.display()
            );
        }
    }
}

fn connect_help(layout: &Layout) {
    // The messenger is built beside this program; where it was moved away, its name will do.
    let posta = std::env::current_exe().map(|exe| exe.with_file_name("posta")).ok().filter(|p| p.exists());
    let posta = posta.unwrap_or_else(|| PathBuf::from("posta"));
    let talk = format!("{} talk --network {}", posta.display(), layout.network_file().display());
    println!("The network is up. In one terminal, invite:\n\n  {talk}\n");
    println!("and in another, join with the link that it prints:\n\n  {talk} --join\n");
    println!("That keeps nothing. With a state on disk (docs/messaging.md), for each person in a terminal:\n");
    println!("  {} init --dir FOLDER --network {}\n", posta.display(), layout.network_file().display());
}

impl State {
    /// Takes over how the clients are.
    fn clients(&mut self, network: &Network, clients: &Clients) {
        let pids = network.pids();
        for (k, stand) in clients.stands().iter().enumerate() {
            let name = network.layout().client_name(k);
            let pid = pids.iter().find(|(known, _)| *known == name).map(|(_, pid)| *pid);
            match stand {
                Stand::Connected => self.client(name, pid, Phase::Ready, None),
                Stand::Waits(why) => self.client(name, pid, Phase::Starting, Some(why)),
            }
        }
    }
}

/// How many relays are ready: one line rewritten on a terminal, nothing elsewhere.
struct Progress {
    all: usize,
    shown: Option<usize>,
    terminal: bool,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { all, shown: None, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, ready: usize) {
        if !self.terminal || self.shown == Some(ready) || self.shown == Some(self.all) {
            return;
        }
        self.shown = Some(ready);
        eprint!("\r\x1b[K{ready} of {} relays are ready", self.all);
        if ready == self.all {
            eprintln!();
        }
        // A terminal that can't be written to shows nothing.
        let _ = std::io::stderr().flush();
    }

    fn end(&mut self) {
        self.show(self.all);
    }
}
