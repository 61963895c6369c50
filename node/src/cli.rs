//! The command line: `init`, `check`, `run`, `status`, `keys`, `retire`, `backup`, `restore`.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use posta_link::config::layers::Changed;
use posta_link::exit;
use posta_link::fetch::{Network, to_hex};
use posta_link::keys::atomic_write;
use posta_link::logs::{self, LogLevel};

use self::status::Status;
pub use self::status::report;
use crate::config::{Config, Loaded, Role, template};
use crate::driver::{self, Options, Verdict, control, queues_in, wall};
use crate::failure::Failure;
use crate::keys::Keys;

mod generate;
mod keys;
mod retire;
mod screen;
mod status;

/// The program's name.
const NAME: &str = "posta-node";

/// A Posta relay: forwards layered packets and holds message queues.
///
/// Exit codes: 0 done, 1 failure, 2 wrong command line or configuration, 3 the network refuses, 4 disk or files.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make keys and a configuration file with every default.
    Init(Init),
    /// Check configuration, keys and ports, and change nothing.
    Check(Check),
    /// Run the relay.
    Run(Run),
    /// How the relay stands that runs with this configuration.
    ///
    /// Exit codes: 0 it is well, 1 it isn't, 2 it can't be asked. docs/operating.md says what to do about each problem.
    Status(Status),
    /// What keys the relay has; renew its signing key; take its identity key offline.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Let the relay go for good, in order: it takes nothing new, tells the owners of its queues to move them, and leaves
    /// when nobody needs it any more, or after so many days.
    ///
    /// It is done when it holds no message and nobody has used a queue for two days. Until then, or after, it can be
    /// taken back. Leave it running meanwhile.
    Retire(retire::Retire),
    /// Write a backup of the queues, while the relay runs or not.
    ///
    /// It holds the queues without their messages: hashes, counters and hours, no message and no key. What is deleted
    /// later stays in it until you delete it. The relay's own keys are not in it: keep a copy of them apart.
    Backup(Backup),
    /// Make the queue store from a backup; the old one must be out of the way.
    ///
    /// Queues come back empty. Clients are told by each answer that this is another store, and send again what was not
    /// delivered yet.
    Restore(Restore),
    /// Write man pages and shell completions.
    #[command(hide = true)]
    Generate(generate::Generate),
}

#[derive(Debug, Args)]
struct Init {
    /// Folder for the configuration and the state; made if it isn't there.
    #[arg(long)]
    dir: PathBuf,
    /// The authorities of the network; copied.
    #[arg(long)]
    network: PathBuf,
    /// Where relays connect, as ADDRESS:PORT.
    #[arg(long)]
    link_address: Option<SocketAddr>,
    /// Where clients connect, as ADDRESS:PORT.
    #[arg(long)]
    client_address: Option<SocketAddr>,
    /// What to offer: edge or mix.
    #[arg(long = "role", value_parser = parse_role)]
    roles: Vec<Role>,
    /// Who runs it: the same text on all relays of one operator.
    #[arg(long)]
    operator: Option<String>,
    /// Worker threads; 0 for one for each core but one.
    #[arg(long)]
    workers: Option<usize>,
    /// error, warn, info, debug or trace.
    #[arg(long)]
    log_level: Option<LogLevel>,
    /// Length of a key epoch in milliseconds, until the first consensus says it.
    #[arg(long)]
    key_epoch_ms: Option<u64>,
    /// Allow running as root.
    #[arg(long)]
    allow_root: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    common: Common,
    /// Ask the authorities whether the network lists this relay. It may be running: its ports are not tried.
    #[arg(long)]
    listed: bool,
    /// Ask other relays to dial all addresses that the network lists for this one. It must be running and listed.
    ///
    /// Exit codes: 0 each address was reached, 1 some weren't, 3 nobody could be asked.
    #[arg(long, conflicts_with = "listed")]
    reach: bool,
    /// With --reach: one JSON object.
    #[arg(long, requires = "reach")]
    json: bool,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    common: Common,
    /// Run as root, whatever the configuration says.
    #[arg(long)]
    allow_root: bool,
    /// Print a JSON line when ready, and counters now and then.
    #[arg(long)]
    ready_json: bool,
}

#[derive(Debug, Args)]
struct Backup {
    #[command(flatten)]
    common: Common,
    /// The folder to write to; empty, or not there yet.
    #[arg(long)]
    to: PathBuf,
}

#[derive(Debug, Args)]
struct Restore {
    #[command(flatten)]
    common: Common,
    /// The folder with the backup.
    #[arg(long)]
    from: PathBuf,
    /// Restore as root, whatever the configuration says. The relay must then run as root, too.
    #[arg(long)]
    allow_root: bool,
}

fn parse_role(text: &str) -> Result<Role, &'static str> {
    match text {
        "edge" => Ok(Role::Edge),
        "mix" => Ok(Role::Mix),
        _ => Err("choose edge or mix"),
    }
}

/// The program: parses `args` (the first one is its name), does what they say, and returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // `--help` and `--version` come this way too; where nobody listens there is nothing to say.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let done = |()| ExitCode::from(exit::OK);
    let result = match cli.command {
        Command::Init(args) => init(&args).map(done),
        Command::Check(args) => check(&args),
        Command::Run(args) => run(args).map(done),
        Command::Status(args) => status::status(&args),
        Command::Keys(command) => keys::keys(&command),
        Command::Retire(args) => retire::retire(&args).map(done),
        Command::Backup(args) => backup(&args).map(done),
        Command::Restore(args) => restore(&args).map(done),
        Command::Generate(args) => generate::generate(&args).map(done),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "posta-node: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn init(args: &Init) -> Result<(), Failure> {
    const OWNER_ONLY: u32 = 0o700;
    let path = args.dir.join("node.toml");
    if path.exists() {
        return Err(Failure::usage(format_args!("{} is there already: choose another folder", path.display())));
    }
    let network = Network::load(&args.network).map_err(Failure::usage)?;
    let mut config = Config { allow_root: args.allow_root, ..Config::default() };
    if let Some(address) = args.link_address {
        config.link_address = address;
    }
    if let Some(address) = args.client_address {
        config.client_address = address;
    }
    if !args.roles.is_empty() {
        config.roles.clone_from(&args.roles);
    }
    config.operator = args.operator.clone().unwrap_or_default();
    config.workers = args.workers.unwrap_or(config.workers);
    config.log_level = args.log_level.unwrap_or(config.log_level);
    config.key_epoch_ms = args.key_epoch_ms.unwrap_or(config.key_epoch_ms);

    let state = args.dir.join(&config.state_dir);
    let denied = |what: &Path| {
        let what = what.display().to_string();
        move |e: std::io::Error| Failure::disk(format_args!("{what} can't be written: {e}"))
    };
    fs::DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(&state).map_err(denied(&state))?;
    let keys = Keys::create(&state, wall()).map_err(Failure::disk)?;
    let copy = args.dir.join(&config.network);
    network.save(&copy).map_err(denied(&copy))?;
    atomic_write(&path, template(&config).as_bytes(), 0o600).map_err(denied(&path))?;
    // Where nobody listens there is nothing to say.
    let _ = writeln!(std::io::stdout(), "relay {}\nconfiguration {}", to_hex(&keys.relay().0), path.display());
    Ok(())
}

fn check(args: &Check) -> Result<ExitCode, Failure> {
    let Loaded { config, changed } = Config::load_from(&args.common.config, std::env::vars_os())?;
    let network = Network::load(&config.network).map_err(Failure::usage)?;
    let keys = Keys::open(&config.state_dir, wall()).map_err(Failure::disk)?;
    if args.listed {
        let how = driver::listed(&config, &network, &keys)?;
        let _ = writeln!(std::io::stdout(), "relay {}: {how}", keys.relay().short());
        return Ok(ExitCode::from(exit::OK));
    }
    if args.reach {
        let verdict = driver::reach(&config, &network, &keys)?;
        let _ = writeln!(std::io::stdout(), "{}", reached(&verdict, args.json)?);
        return Ok(ExitCode::from(if verdict.reached { exit::OK } else { exit::FAILURE }));
    }
    let ports = [Some(config.link_address), config.offers(Role::Edge).then_some(config.client_address)];
    for address in ports.into_iter().flatten() {
        UdpSocket::bind(address)
            .map_err(|e| Failure::usage(format_args!("can't listen on {address}: {e}; is the relay running?")))?;
    }
    let _ = writeln!(
        std::io::stdout(),
        "relay {}: configuration, keys and ports are in order; the network has {} authorities",
        keys.relay().short(),
        network.authorities().len()
    );
    for Changed { key, value, origin } in changed {
        let _ = writeln!(std::io::stdout(), "{key} = {value}  ({origin})");
    }
    Ok(ExitCode::from(exit::OK))
}

/// What others say of this relay's addresses, for people or as JSON.
fn reached(verdict: &Verdict, json: bool) -> Result<String, Failure> {
    if json {
        return serde_json::to_string_pretty(verdict).map_err(Failure::other);
    }
    let asked = format!("{} other relays were asked", verdict.asked);
    Ok(std::iter::once(asked).chain(verdict.addresses.iter().map(|one| one.says())).collect::<Vec<_>>().join("\n"))
}

fn run(args: Run) -> Result<(), Failure> {
    let config = Config::load(&args.common.config)?;
    refuse_root(args.allow_root || config.allow_root)?;
    logs::init(config.log_level, "posta-node");
    let retirement = retire::decided(&config)?;
    driver::run(
        config,
        Options { path: args.common.config, retirement, ready_json: args.ready_json, ..Options::default() },
    )
}

fn backup(args: &Backup) -> Result<(), Failure> {
    let config = Config::load(&args.common.config)?;
    let to = std::path::absolute(&args.to).map_err(Failure::usage)?;
    let text = to.to_str().filter(|text| !text.contains('\n'));
    let text = text.ok_or_else(|| Failure::usage("the folder's name can't be passed on: choose another one"))?;
    let unreachable = |e| Failure::disk(format_args!("the relay can't be asked: {e}; stop it, or ask as its user"));
    let words = match control::ask(&config.state_dir, &format!("backup {text}"), None).map_err(unreachable)? {
        Some(answer) => answer.map_err(Failure::disk)?,
        None => {
            let written = posta_store::backup_closed(&queues_in(&config.state_dir), &to, wall().hour());
            control::describe(&written.map_err(Failure::disk)?)
        }
    };
    // Where nobody listens there is nothing to say.
    let _ = writeln!(
        std::io::stdout(),
        "{text}: {words}, without messages\nWhat is deleted from now on stays in this backup until you delete it. \
         The relay's own keys are not in it."
    );
    Ok(())
}

fn restore(args: &Restore) -> Result<(), Failure> {
    let config = Config::load(&args.common.config)?;
    refuse_root(args.allow_root || config.allow_root)?;
    let fresh = posta_protocol::ids::Incarnation(rand::random());
    let queues = queues_in(&config.state_dir);
    let report = posta_store::restore(&args.from, &queues, fresh).map_err(Failure::disk)?;
    let _ = writeln!(
        std::io::stdout(),
        "{}: {}, without messages\nClients will send again what was not delivered.",
        queues.display(),
        control::describe(&report)
    );
    Ok(())
}

fn refuse_root(allowed: bool) -> Result<(), Failure> {
    if is_root() && !allowed {
        return Err(Failure::usage(
            "will not run as root: start it as a user of its own, or give --allow-root if you mean it",
        ));
    }
    Ok(())
}

/// Whether the effective user is root, as Linux tells it.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}
