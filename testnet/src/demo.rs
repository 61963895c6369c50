//! The main job: a whole network, real messages through it, two processes killed on the way, and a report.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::layout::Size;
use crate::ledger::{Ledger, Side, body};
use crate::network::{Network, Times};
use crate::process::Said;
use crate::report::{Percentiles, Report, Victim};

/// How long after the last send a message may still arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the network may take until two clients are connected.
const CONNECT: Duration = Duration::from_secs(60);

/// What a demo does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Messages each way.
    pub messages: usize,
    /// Time over which they are sent.
    pub over: Duration,
    /// Who is killed, and when.
    pub kills: Vec<Kill>,
    /// Seed of bodies and choices.
    pub seed: u64,
}

/// One kill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kill {
    /// When.
    pub at: Moment,
    /// Who.
    pub who: Target,
}

/// When somebody is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moment {
    /// So long after the network was started, while the clients are connecting at the latest.
    Start(Duration),
    /// After this share of all messages was sent, 0.0 to 1.0.
    Share(f64),
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A mix that has carried packets; for good.
    Mix,
    /// An edge that holds a queue in use; started again.
    QueueEdge,
    /// The n-th process of the network that isn't a client, authorities first; started again if it is an edge.
    Any(usize),
}

impl Plan {
    /// The demo as it is promised: 200 messages each way over 10 s, a mix and an edge killed.
    #[must_use]
    pub fn demo(seed: u64) -> Self {
        let kills = vec![
            Kill { at: Moment::Share(1.0 / 3.0), who: Target::Mix },
            Kill { at: Moment::Share(2.0 / 3.0), who: Target::QueueEdge },
        ];
        Self { messages: 200, over: Duration::from_secs(10), kills, seed }
    }
}

/// Runs a demo in `dir` and reports. Progress goes to standard error if it is a terminal, or as plain lines.
///
/// # Errors
/// If the network can't be started or the clients don't connect; lost messages are no error but in the report.
pub async fn run(size: Size, dir: &Path, plan: &Plan, quiet: bool) -> Result<Report> {
    let started = Instant::now();
    let mut progress = Progress::new(quiet);
    progress.say("starting the network");
    let mut network = Network::start(size, Times::DEMO, dir)?;
    let result = Demo {
        network: &mut network,
        plan,
        started,
        ledger: Ledger::default(),
        rng: ChaCha20Rng::seed_from_u64(plan.seed),
        kills: plan.kills.clone(),
        victims: Vec::new(),
        progress,
    }
    .run()
    .await;
    network.stop().await;
    result
}

struct Demo<'a> {
    network: &'a mut Network,
    plan: &'a Plan,
    started: Instant,
    ledger: Ledger,
    rng: ChaCha20Rng,
    kills: Vec<Kill>,
    victims: Vec<Victim>,
    progress: Progress,
}

const fn client_name(side: Side) -> &'static str {
    match side {
        Side::Inviter => "client-1",
        Side::Joiner => "client-2",
    }
}

fn side_of(name: &str) -> Option<Side> {
    Side::BOTH.into_iter().find(|s| client_name(*s) == name)
}

impl Demo<'_> {
    async fn run(mut self) -> Result<Report> {
        self.connect().await?;
        self.exchange().await?;
        self.wait_for_the_rest().await?;
        self.progress.end();
        let ledger = &self.ledger;
        Ok(Report {
            sent: ledger.total(),
            stored: ledger.stored_count(),
            delivered: ledger.delivered(),
            lost: ledger.total() - ledger.delivered(),
            duplicates: ledger.duplicates,
            out_of_order: ledger.out_of_order,
            latency_ms: Percentiles::of(ledger.latencies()),
            start_to_first_delivery_s: ledger
                .first_delivery
                .map_or(0.0, |d| (d.as_secs_f64() * 1000.0).round() / 1000.0),
            victims: self.victims,
        })
    }

    /// Two clients; one invites, the other joins.
    async fn connect(&mut self) -> Result<()> {
        let deadline = self.started + CONNECT;
        self.progress.say("waiting for the directory's first consensus");
        self.network.start_client(client_name(Side::Inviter), 0, &[])?;
        let mut connected = 0;
        while connected < 2 {
            let kill = self.kills.iter().find_map(|k| match k.at {
                Moment::Start(after) => Some((self.started + after, *k)),
                Moment::Share(_) => None,
            });
            let next = self.next(kill.map_or(deadline, |(at, _)| at.min(deadline))).await?;
            if let (None, Some((at, kill))) = (&next, kill)
                && at < deadline
            {
                self.kills.retain(|k| *k != kill);
                self.kill(kill.who).await?;
                continue;
            }
            let (name, line) = next
                .context("the clients did not connect in time: run again with --keep, the logs say what is missing")?;
            match event(&line) {
                "invitation" => {
                    self.progress.say("connecting two clients by an invitation");
                    let link = line.get("link").and_then(Value::as_str).context("an invitation without a link")?;
                    let joiner = client_name(Side::Joiner);
                    self.network.start_client(joiner, 1, &["--join"])?;
                    self.network.say(joiner, &json!({ "join": link })).await?;
                }
                "connected" => connected += 1,
                _ => self.note(&name, &line),
            }
        }
        Ok(())
    }

    /// Sends both ways at an even pace, and kills when it is time.
    async fn exchange(&mut self) -> Result<()> {
        let begin = Instant::now();
        let total = self.plan.messages;
        for number in 1..=total {
            let share = (number - 1) as f64 / total as f64;
            let due = begin + self.plan.over.mul_f64(share);
            while let Some((name, line)) = self.next(due).await? {
                self.note(&name, &line);
            }
            let due = |k: &Kill| match k.at {
                Moment::Share(at) => at <= share,
                // The clients were quicker: now, then.
                Moment::Start(_) => true,
            };
            if let Some(i) = self.kills.iter().position(due) {
                let kill = self.kills.swap_remove(i);
                self.kill(kill.who).await?;
            }
            for side in Side::BOTH {
                let text = body(side, number, &mut self.rng);
                self.ledger.sent(side, number, self.started.elapsed());
                self.network.say(client_name(side), &json!({ "send": text })).await?;
            }
            self.show();
        }
        sleep_until(begin + self.plan.over).await;
        Ok(())
    }

    async fn wait_for_the_rest(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.ledger.delivered() < self.ledger.total() {
            let Some((name, line)) = self.next(deadline).await? else { break };
            self.note(&name, &line);
            self.show();
        }
        // What is doubled comes soon after; a receiver that hands it on again is caught here.
        let grace = Instant::now() + Duration::from_millis(500);
        while let Some((name, line)) = self.next(grace).await? {
            self.note(&name, &line);
        }
        Ok(())
    }

    /// The next line that a client printed, or none until the deadline.
    async fn next(&mut self, deadline: Instant) -> Result<Option<(String, Value)>> {
        loop {
            let Ok(said) = timeout_at(deadline, self.network.next()).await else { return Ok(None) };
            match said {
                (name, Said::Line(line)) if side_of(&name).is_some() => return Ok(Some((name, line))),
                (name, Said::Ended(pid)) if self.network.should_run(&name, pid) => {
                    bail!("{name} ended by itself: {}", self.network.last_words(&name))
                }
                _ => {}
            }
        }
    }

    fn note(&mut self, name: &str, line: &Value) {
        let Some(side) = side_of(name) else { return };
        match event(line) {
            "message" => {
                let body = line.get("text").and_then(Value::as_str).unwrap_or_default();
                self.ledger.received(side, body, self.started.elapsed());
            }
            "state" => {
                let number = line.get("message").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
                let stored = matches!(line.get("state").and_then(Value::as_str), Some("stored" | "delivered"));
                if let (Some(number), true) = (number, stored) {
                    self.ledger.stored(side, number);
                }
            }
            "warning" | "error" => {
                let text = line.get("text").and_then(Value::as_str).unwrap_or_default();
                self.progress.say(&format!("{name}: {text}"));
            }
            _ => {}
        }
    }

    async fn kill(&mut self, who: Target) -> Result<()> {
        let name = self.victim(who)?;
        let role = if name.starts_with("edge") {
            "edge"
        } else if name.starts_with("mix") {
            "mix"
        } else {
            "authority"
        };
        let restarted = role == "edge";
        let packets_carried = self.network.carried(&name);
        self.progress.say(&format!("SIGKILL {name} after {packets_carried} packets"));
        self.network.kill(&name).await?;
        if restarted {
            self.network.restart(&name)?;
        }
        self.victims.push(Victim { name, role, restarted, packets_carried });
        Ok(())
    }

    fn victim(&mut self, who: Target) -> Result<String> {
        let candidates: Vec<String> = match who {
            Target::Mix => self.network.names("mix").filter(|n| self.network.carried(n) > 0).collect(),
            Target::QueueEdge => self.network.names("edge").filter(|n| self.network.stored(n) > 0).collect(),
            Target::Any(n) => {
                let all: Vec<String> =
                    ["authority", "edge", "mix"].iter().flat_map(|r| self.network.names(r)).collect();
                let n = n % all.len().max(1);
                all.into_iter().skip(n).take(1).collect()
            }
        };
        if candidates.is_empty() {
            bail!("no process fits {who:?}: none has carried anything yet");
        }
        let n = self.rng.random_range(0..candidates.len());
        candidates.into_iter().nth(n).context("a candidate")
    }

    fn show(&mut self) {
        let (sent, delivered) = (self.ledger.total(), self.ledger.delivered());
        self.progress.bar(sent, delivered, self.plan.messages * 2);
    }
}

fn event(line: &Value) -> &str {
    line.get("event").and_then(Value::as_str).unwrap_or_default()
}

/// Progress on standard error: one line rewritten on a terminal, nothing but steps elsewhere.
struct Progress {
    quiet: bool,
    terminal: bool,
    began: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal(), began: Instant::now(), shown: None }
    }

    fn say(&mut self, step: &str) {
        if !self.quiet {
            let clear = if self.terminal { "\r\x1b[K" } else { "" };
            eprintln!("{clear}{:5.1} s  {step}", self.began.elapsed().as_secs_f64());
        }
    }

    fn bar(&mut self, sent: usize, delivered: usize, all: usize) {
        const WIDTH: usize = 40;
        let due = self.shown.is_none_or(|at| at.elapsed() >= Duration::from_millis(100));
        if self.quiet || !self.terminal || !(due || delivered == all) {
            return;
        }
        self.shown = Some(Instant::now());
        let full = delivered * WIDTH / all.max(1);
        let under_way = sent.saturating_sub(delivered).min(all) * WIDTH / all.max(1);
        let empty = WIDTH.saturating_sub(full + under_way);
        eprint!(
            "\r\x1b[K{:5.1} s  [{}{}{}] {delivered} of {all} delivered, {} under way",
            self.began.elapsed().as_secs_f64(),
            "=".repeat(full),
            "-".repeat(under_way),
            " ".repeat(empty),
            sent - delivered,
        );
        // A terminal that can't be written to shows nothing; the report still comes.
        let _ = std::io::stderr().flush();
    }

    fn end(&mut self) {
        if !self.quiet && self.terminal {
            eprintln!();
        }
    }
}
