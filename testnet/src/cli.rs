//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use posta_link::exit;

use crate::demo::{self, Plan};
use crate::fault::{Deed, Fault, Moment, Target};
use crate::layout::Size;
use crate::network::{Makings, Times};
use crate::scenario::{self, LIBRARY, Outcome, Scenario};
use crate::up::{self, Wanted};
use crate::{process, report_page, rogue, running};

mod sim;

/// The shortest time between two messages of a client.
const LEAST_PACE: Duration = Duration::from_millis(10);

/// A whole Posta network on this machine: authorities, relays and clients as separate processes on loopback.
#[derive(Debug, Parser)]
#[command(name = "posta-testnet", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Real messages through a whole network, one relay killed for good and one restarted, and a report.
    ///
    /// Exits 0 only if every message was delivered, once and in order.
    Demo {
        /// Print the report as one JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Messages each way.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(3..=10_000))]
        messages: u16,
        /// Seconds over which they are sent.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
        seconds: u16,
        /// Seed of the bodies and of who is killed; drawn and printed if not given.
        #[arg(long)]
        seed: Option<u64>,
        /// Keep keys, stores and logs in this folder; otherwise they go with the demo.
        #[arg(long, value_name = "FOLDER")]
        keep: Option<PathBuf>,
        /// The clients keep their state on disk, encrypted, and sync it with each step.
        #[arg(long)]
        durable: bool,
        /// Instead of a mix and an edge, kill the n-th process: authorities first, then edges, then mixes.
        #[arg(long, value_name = "N", hide = true)]
        victim: Option<usize>,
        /// When to kill it: the share of all messages that were sent before.
        #[arg(long, value_name = "SHARE", default_value_t = 0.5, hide = true)]
        at: f64,
        /// When to kill it: milliseconds after the start.
        #[arg(long, value_name = "MS", conflicts_with = "at", hide = true)]
        at_start: Option<u64>,
    },
    /// Run a scenario: a network, traffic, what goes wrong, and what is expected of it.
    ///
    /// Exits 0 only if every run meets what the scenario expects; says the seed and the command of one that didn't.
    Run {
        /// One that comes with the program, or a TOML file.
        scenario: String,
        /// Seed of the bodies and of who is struck; drawn and printed if not given.
        #[arg(long)]
        seed: Option<u64>,
        /// Runs, each with the next seed.
        #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
        repeat: u16,
        /// One JSON object for each run.
        #[arg(long)]
        json: bool,
        /// Keep keys, stores and logs of the runs in this folder, one below it for each seed; and what was tapped.
        #[arg(long, value_name = "FOLDER")]
        keep: Option<PathBuf>,
        /// As processes, which is the default.
        #[arg(long, conflicts_with = "sim")]
        real: bool,
        /// In this process, under virtual time: kills and restarts only; the same trace for a seed.
        #[arg(long, conflicts_with = "keep")]
        sim: bool,
        /// The same network and traffic, but nothing goes wrong and nobody misbehaves. A scenario that expects something to
        /// be noticed must fail then.
        #[arg(long)]
        control: bool,
    },
    /// The scenarios that come with the program.
    Scenarios,
    /// A network of any size in this process, under virtual time: the same seed, the same trace.
    Sim(Box<sim::Arguments>),
    /// One page that compares results of `sim`: plots, tables; with the same as CSV and JSON.
    Report {
        /// Folders of `sim --out`, or their `result.json`.
        #[arg(required = true)]
        results: Vec<PathBuf>,
        /// Where to write report.html, report.csv and report.json.
        #[arg(long, value_name = "FOLDER", default_value = "report")]
        out: PathBuf,
    },
    /// Start a network and stay until interrupted; prints how to connect.
    Up {
        /// Relays, half of them edges (entries and queues) and half mixes.
        #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(6..=400))]
        relays: u16,
        /// Authorities of the directory. With fewer than four, none may fail.
        #[arg(long, value_name = "M", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=10))]
        authorities: u16,
        /// Seconds of an epoch: how often the list of relays is renewed.
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(5..=3600))]
        epoch: u16,
        /// Seconds of a key epoch, a multiple of the epoch: how often relays change keys and layers.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(20..=86_400))]
        key_epoch: u32,
        /// Clients that stay connected, in pairs, and talk now and then.
        #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=400))]
        clients: u16,
        /// Seconds between two messages of one client.
        #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
        every: f64,
        /// Write down what somebody sees who watches the lines of these: everyone, each relay, edge-1, client-2; once for
        /// each. Times and sizes go to `taps` in the testnet's folder, until it is stopped: copy them before.
        #[arg(long, value_name = "WHO")]
        tap: Vec<String>,
        /// Return when the network is ready, and leave it running.
        #[arg(long, short)]
        detach: bool,
        /// The folder is empty: `--detach` has seen to it.
        #[arg(long, hide = true)]
        cleared: bool,
        #[command(flatten)]
        place: Place,
    },
    /// What is running; of what isn't ready, why.
    Status {
        #[command(flatten)]
        place: Place,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Run a node's own program in its place, or `posta` as a client: `exec edge-1 status`, `exec posta ping`.
    Exec {
        #[command(flatten)]
        place: Place,
        /// A node, as `status` names it, or `posta`.
        node: String,
        /// What its program is told; where its configuration lies is added.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print the logs of some nodes, or of all.
    Logs {
        #[command(flatten)]
        place: Place,
        /// Nodes, as `status` names them.
        nodes: Vec<String>,
        /// Lines of each, from the end.
        #[arg(long, short = 'n', default_value_t = 20)]
        lines: usize,
        /// Go on with what is logged from now on.
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop the network and remove its folder.
    Down {
        #[command(flatten)]
        place: Place,
    },
    /// Run as one of the programs that a network is made of.
    #[command(hide = true, disable_help_flag = true)]
    Role {
        /// Which program.
        role: Role,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The testnet's folder: everything of it lies there.
    #[arg(long, value_name = "FOLDER", env = "POSTA_TESTNET_DIR", default_value_os_t = default_dir())]
    dir: PathBuf,
}

fn default_dir() -> PathBuf {
    std::env::temp_dir().join("posta-testnet")
}

/// The programs that this one can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A relay.
    Node,
    /// An authority.
    Directory,
    /// A client.
    Posta,
    /// A relay or authority that misbehaves.
    Rogue,
}

impl Role {
    /// As it stands on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Directory => "directory",
            Self::Posta => "posta",
            Self::Rogue => "rogue",
        }
    }

    fn run(self, args: Vec<OsString>) -> ExitCode {
        process::tether();
        let program: OsString = match self {
            Self::Node => "posta-node",
            Self::Directory => "posta-directory",
            Self::Posta => "posta",
            Self::Rogue => "rogue",
        }
        .into();
        let args = std::iter::once(program).chain(args);
        match self {
            Self::Node => posta_node::cli::main(args),
            Self::Directory => posta_directory::cli::main(args),
            Self::Posta => posta_client::cli::main(args),
            Self::Rogue => rogue::main(args),
        }
    }
}

/// Runs the program with these arguments, its own name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Arguments::parse_from(args).command {
        // A role brings its own runtime.
        Command::Role { role, args } => role.run(args),
        // One thread a run, and no runtime.
        Command::Sim(arguments) => said(sim::run(&arguments)),
        Command::Report { results, out } => said(report_page::report(&results, &out).map(|page| {
            println!("{}", page.display());
            ExitCode::from(exit::OK)
        })),
        command => said(run(command)),
    }
}

fn said(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|e| {
        eprintln!("posta-testnet: {e:#}");
        ExitCode::from(exit::FAILURE)
    })
}

fn run(command: Command) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        match command {
            Command::Demo { json, messages, seconds, seed, keep, durable, victim, at, at_start } => {
                let seed = seed.unwrap_or_else(rand::random);
                let over = Duration::from_secs(seconds.into());
                let mut plan = Plan { messages: messages.into(), over, durable, ..Plan::demo(seed) };
                if let Some(n) = victim {
                    let at = at_start.map_or(Moment::Share(at), |ms| Moment::Start(Duration::from_millis(ms)));
                    plan.faults = vec![Fault { at, who: Target::Any(n), what: Deed::KillButRestartEdges }];
                }
                demo_command(json, &plan, keep).await
            }
            Command::Run { scenario, seed, repeat, json, keep, real: _, sim, control } => {
                let first = seed.unwrap_or_else(rand::random);
                run_scenario(Chosen { name: scenario, sim, control }, first, repeat, json, keep).await
            }
            Command::Scenarios => {
                for (name, _) in LIBRARY {
                    println!("{name:<20} {}", Scenario::load(name)?.about);
                }
                Ok(ExitCode::from(exit::OK))
            }
            Command::Up { relays, authorities, epoch, key_epoch, clients, every, tap, detach, cleared, place } => {
                if key_epoch % u32::from(epoch) != 0 {
                    anyhow::bail!("a key epoch of {key_epoch} s is no multiple of an epoch of {epoch} s");
                }
                let seconds = |s: u32| Duration::from_secs(s.into());
                if clients % 2 != 0 {
                    anyhow::bail!("{clients} clients: they come in pairs");
                }
                let pace = Duration::try_from_secs_f64(every).ok().filter(|pace| *pace >= LEAST_PACE);
                let pace = pace.with_context(|| format!("{every} seconds between messages: 0.01 at least"))?;
                let size = Size { clients: clients.into(), ..Size::of(authorities.into(), relays.into()) };
                let taps = scenario::taps(size, &tap)?;
                let wanted = Wanted {
                    size,
                    every: pace,
                    taps: &taps,
                    times: Times { epoch: seconds(epoch.into()), key_epoch: seconds(key_epoch) },
                    dir: &place.dir,
                };
                if !detach {
                    return up::up(wanted, cleared).await;
                }
                let same = [
                    ("--relays", u32::from(relays)),
                    ("--authorities", authorities.into()),
                    ("--epoch", epoch.into()),
                    ("--key-epoch", key_epoch),
                    ("--clients", clients.into()),
                ];
                let mut same = same.map(|(option, value)| format!("{option}={value}")).to_vec();
                same.push(format!("--every={every}"));
                same.extend(tap.iter().map(|who| format!("--tap={who}")));
                up::detach(wanted, &same).await
            }
            Command::Status { place, json } => running::status(&place.dir, json),
            Command::Exec { place, node, arguments } => running::exec(&place.dir, &node, &arguments),
            Command::Logs { place, nodes, lines, follow } => running::logs(&place.dir, &nodes, lines, follow).await,
            Command::Down { place } => running::down(&place.dir).await,
            Command::Role { .. } | Command::Sim(_) | Command::Report { .. } => Ok(ExitCode::from(exit::USAGE)),
        }
    })
}

/// A folder for a run: what isn't kept goes with it.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(keep: Option<PathBuf>, otherwise: &str) -> Result<Self> {
        let path =
            keep.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("{otherwise}-{}", std::process::id())));
        if path.exists() {
            anyhow::bail!("{} is there already: remove it or name another folder", path.display());
        }
        Ok(Self { path, keep: keep.is_some() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // What can't be removed is in the temporary folder, which the system clears.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

async fn unless_interrupted<T>(run: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = run => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; all processes are stopped")),
    }
}

/// A scenario, and how it is run.
struct Chosen {
    name: String,
    sim: bool,
    control: bool,
}

impl Chosen {
    /// What stands on the command line for that.
    const fn options(&self) -> &'static str {
        match (self.sim, self.control) {
            (false, false) => "",
            (true, false) => " --sim",
            (false, true) => " --control",
            (true, true) => " --sim --control",
        }
    }
}

async fn run_scenario(chosen: Chosen, first: u64, repeat: u16, json: bool, keep: Option<PathBuf>) -> Result<ExitCode> {
    let option = chosen.options();
    let Chosen { name, sim, control } = chosen;
    let scenario = Scenario::load(&name)?;
    let scenario = if control { scenario.without_faults() } else { scenario };
    let mut passed = true;
    for n in 0..u64::from(repeat) {
        let seed = first.wrapping_add(n);
        let report = if sim {
            scenario.simulate(seed)
        } else {
            let folder = Folder::new(keep.as_ref().map(|k| k.join(seed.to_string())), "posta-run")?;
            let (makings, plan) = (scenario.makings(seed)?, scenario.plan(seed)?);
            unless_interrupted(demo::run(makings, &folder.path, &plan, json)).await
        };
        let report =
            report.with_context(|| format!("the run failed: posta-testnet run {name} --seed {seed}{option}"))?;
        let outcome = Outcome { scenario: name.clone(), seed, failed: scenario.judge(&report), report };
        if json {
            println!("{}", serde_json::to_string(&outcome)?);
        } else {
            println!("{outcome}");
        }
        if !outcome.failed.is_empty() {
            passed = false;
            let keep = if sim { "" } else { " --keep FOLDER" };
            eprintln!("again: posta-testnet run {name} --seed {seed}{option}{keep}");
        }
    }
    Ok(ExitCode::from(if passed { exit::OK } else { exit::FAILURE }))
}

async fn demo_command(json: bool, plan: &Plan, keep: Option<PathBuf>) -> Result<ExitCode> {
    let folder = Folder::new(keep, "posta-demo")?;
    let run =
        demo::run(Makings { seed: plan.seed, ..Makings::plain(Size::DEMO, Times::DEMO) }, &folder.path, plan, json);
    let report = unless_interrupted(run).await.with_context(|| format!("the demo failed (seed {})", plan.seed))?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    if !report.passed() {
        eprintln!("seed {}; run again with --seed {} --keep FOLDER to look into the logs", plan.seed, plan.seed);
    }
    Ok(ExitCode::from(if report.passed() { exit::OK } else { exit::FAILURE }))
}
