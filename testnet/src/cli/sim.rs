//! `posta-testnet sim`: its options, and what it prints.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use posta_link::exit;

use crate::adversary::{Active, Deed, Watch};
use crate::experiment::{self, Group, Measured};
use crate::sim::large::{CLIENT, Crypto, Habit, Latency, Lines, Options, Traffic};

/// Whether packets are really encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CryptoChoice {
    Model,
    Real,
}

/// The options of `sim`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Relays, half of them edges and half mixes.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(8..=4000))]
    relays: u16,
    /// Clients; every two are each other's contact.
    #[arg(long, value_name = "K", default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    clients: u32,
    /// fast, mixed, steady, or leaky-steady (a control); several with commas are compared.
    #[arg(long, value_name = "PROFILE", value_delimiter = ',', default_value = "mixed")]
    profile: Vec<String>,
    /// Simulated minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs of each group, each with the next seed; several at once.
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    repeat: u64,
    /// Threads; a run is one thread.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// `model` for size, `real` for packets as in production.
    #[arg(long, value_enum, default_value_t = CryptoChoice::Model)]
    crypto: CryptoChoice,
    /// poisson, bursty, office-day, idle, or a file of lines `seconds,client`.
    #[arg(long, default_value = "poisson")]
    traffic: String,
    /// Mean seconds between two messages of a client.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    every: f64,
    /// `5-50` (milliseconds, uniform), `cities`, or a file with a matrix of milliseconds.
    #[arg(long, default_value = "5-50")]
    latency: String,
    /// Mean of an exponential jitter, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    jitter: f64,
    /// The share of packets that lines lose for good.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    loss: f64,
    /// Megabits a second that each node can send; 0 for no limit.
    #[arg(long, value_name = "MBIT", default_value_t = 0.0)]
    bandwidth: f64,
    /// Mean seconds between a client's scheduled packets.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    interval: f64,
    /// Mean seconds of delay at each hop of `mixed` and `steady`.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    hop_delay: f64,
    /// Mean seconds between two loops of a relay's own; 0 for none.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    relay_loops: f64,
    /// Seconds of a directory epoch.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    epoch: f64,
    /// Seconds of a key epoch, a multiple of the epoch.
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    key_epoch: f64,
    /// What a passive adversary sees: none, global, nodes like `r3,c7`, or lines like `c7-r3,r3-c7`.
    #[arg(long, value_name = "WHAT", default_value = "none")]
    watch: String,
    /// What an active adversary does to packets for a relay: drop:0.5, delay:SECONDS, replay, tag, flood:RATE, or
    /// isolate:RATE, the (n-1) attack.
    #[arg(long, value_name = "DEED")]
    attack: Option<String>,
    /// The relay that it works on.
    #[arg(long, value_name = "RELAY", default_value_t = 0, requires = "attack")]
    attack_relay: u32,
    /// When it begins, seconds; it goes on to the end.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, requires = "attack")]
    attack_at: f64,
    /// A grid: `hop-delay=0.2,1,3`, `interval=...`, `every=...`, `relays=...`, `clients=...`; can be given again.
    #[arg(long, value_name = "PARAMETER=VALUES")]
    sweep: Vec<String>,
    /// Write result.json, traces and the truth into this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

fn seconds(s: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(s).with_context(|| format!("{s} is no time"))
}

fn node(name: &str) -> Result<u32> {
    let (kind, number) = name.trim().split_at_checked(1).context("a node is r0 or c0")?;
    let number: u32 = number.parse().with_context(|| format!("{name} is no node: r0, c0"))?;
    match kind {
        "r" => Ok(number),
        "c" => Ok(number | CLIENT),
        _ => bail!("{name} is no node: r0, c0"),
    }
}

fn watch(text: &str) -> Result<Watch> {
    match text {
        "none" => Ok(Watch::Nothing),
        "global" => Ok(Watch::Everything),
        lines if lines.contains('-') => {
            let line = |line: &str| {
                let (from, to) = line.split_once('-').context("a line is c7-r3")?;
                Ok((node(from)?, node(to)?))
            };
            Ok(Watch::Lines(lines.split(',').map(line).collect::<Result<_>>()?))
        }
        nodes => Ok(Watch::Nodes(nodes.split(',').map(node).collect::<Result<_>>()?)),
    }
}

fn deed(text: &str) -> Result<Deed> {
    let (name, value) = text.split_once(':').unwrap_or((text, "1"));
    let value: f64 = value.parse().with_context(|| format!("{value} is no number"))?;
    ensure!(value >= 0.0, "{text}: below 0");
    Ok(match name {
        "drop" => Deed::Drop(value),
        "delay" => Deed::Delay(seconds(value)?),
        "replay" => Deed::Replay,
        "tag" => Deed::Tag,
        "flood" => Deed::Flood(value),
        "isolate" => Deed::Isolate(value),
        _ => bail!("{name}: one of drop, delay, replay, tag, flood, isolate"),
    })
}

impl Arguments {
    fn options(&self) -> Result<Options> {
        let every = seconds(self.every)?;
        let traffic = match self.traffic.as_str() {
            "poisson" => Traffic::Poisson { mean: every },
            "bursty" => Traffic::Bursty { mean: every, burst: 5.0 },
            "office-day" => Traffic::OfficeDay { mean: every },
            "idle" => Traffic::Idle,
            file => {
                let text = std::fs::read_to_string(file).with_context(|| format!("can't read {file}"))?;
                Traffic::parse(&text).with_context(|| format!("{file}: lines of seconds,client"))?
            }
        };
        let latency = if self.latency == "cities" {
            Latency::cities()
        } else if let Some((min, max)) =
            self.latency.split_once('-').and_then(|(a, b)| Some((a.parse::<f64>().ok()?, b.parse::<f64>().ok()?)))
        {
            ensure!(min <= max, "--latency {}: from the least to the most", self.latency);
            Latency::Uniform(seconds(min / 1e3)?, seconds(max / 1e3)?)
        } else {
            let file = &self.latency;
            let text = std::fs::read_to_string(file).with_context(|| format!("can't read {file}"))?;
            Latency::parse(&text).with_context(|| format!("{file}: a square of milliseconds with commas"))?
        };
        let lines = Lines {
            latency,
            jitter: seconds(self.jitter / 1e3)?,
            loss: self.loss.clamp(0.0, 1.0),
            bandwidth: (self.bandwidth.max(0.0) * 1e6) as u64,
        };
        let active = match &self.attack {
            None => None,
            Some(text) => {
                ensure!(self.attack_relay < u32::from(self.relays), "there is no relay {}", self.attack_relay);
                let from = seconds(self.attack_at)?;
                Some(Active { target: self.attack_relay, from, until: Duration::MAX, deed: deed(text)? })
            }
        };
        ensure!(self.clients.is_multiple_of(2), "an even number of clients: every two are each other's contact");
        ensure!(self.interval > 0.0 && self.epoch >= 1.0, "--interval and --epoch are times");
        let epochs = self.key_epoch / self.epoch;
        ensure!(epochs >= 4.0 && epochs.fract() == 0.0, "a key epoch is at least four epochs, and a multiple");
        Ok(Options {
            seed: self.seed,
            relays: self.relays.into(),
            clients: self.clients as usize,
            habit: Habit::Mixed,
            length: seconds(self.minutes * 60.0)?,
            crypto: if self.crypto == CryptoChoice::Real { Crypto::Real } else { Crypto::Model },
            traffic,
            lines,
            interval: seconds(self.interval)?,
            hop_delay: seconds(self.hop_delay)?,
            relay_loops: seconds(self.relay_loops)?,
            epoch: seconds(self.epoch)?,
            key_epoch: seconds(self.key_epoch)?,
            watch: watch(&self.watch)?,
            active,
            ..Options::default()
        })
    }

    fn groups(&self) -> Result<Vec<Group>> {
        let base = self.options()?;
        let mut groups = Vec::new();
        for name in &self.profile {
            let habit = Habit::named(name)
                .with_context(|| format!("{name}: one of {}", Habit::ALL.map(Habit::name).join(", ")))?;
            groups.push(Group { label: name.clone(), options: Options { habit, ..base.clone() } });
        }
        for grid in &self.sweep {
            let (parameter, values) = grid.split_once('=').context("--sweep PARAMETER=VALUES")?;
            let mut wider = Vec::new();
            for group in &groups {
                for value in values.split(',') {
                    let mut options = group.options.clone();
                    set(&mut options, parameter, value.parse().with_context(|| format!("{value} is no number"))?)?;
                    wider.push(Group { label: format!("{} {parameter}={value}", group.label), options });
                }
            }
            groups = wider;
        }
        Ok(groups)
    }
}

fn set(options: &mut Options, parameter: &str, value: f64) -> Result<()> {
    match parameter {
        "hop-delay" => options.hop_delay = seconds(value)?,
        "interval" => options.interval = seconds(value)?,
        "relays" => options.relays = (value as usize).max(8),
        "clients" => options.clients = (value as usize).max(2) & !1,
        "every" => {
            let mean = seconds(value)?;
            match &mut options.traffic {
                Traffic::Poisson { mean: m } | Traffic::Bursty { mean: m, .. } | Traffic::OfficeDay { mean: m } => {
                    *m = mean;
                }
                Traffic::Idle | Traffic::Trace(_) => bail!("this traffic has no mean"),
            }
        }
        _ => bail!("{parameter}: one of hop-delay, interval, every, relays, clients"),
    }
    Ok(())
}

/// Runs it.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let groups = arguments.groups()?;
    let measured = experiment::run(&groups, arguments.repeat, arguments.threads, arguments.out.as_deref(), command)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&measured)?);
    } else {
        measured.groups.iter().for_each(print);
    }
    Ok(ExitCode::from(exit::OK))
}

fn print(group: &Measured) {
    println!("{}", group.label);
    for (name, e) in &group.summary {
        match e.n {
            1 => println!("  {name:<24} {:.4}", e.mean),
            n => println!("  {name:<24} {:.4} ± {:.4} ({n} runs)", e.mean, e.half_width),
        }
    }
    if let [run] = group.runs.as_slice() {
        println!("  trace                    {}", run.trace);
    }
}
