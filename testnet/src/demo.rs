//! The main job: a whole network, real messages through it, two processes killed on the way, and a report.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::fault::{Deed, Fault, Later, Moment, Target};
use crate::ledger::{Ledger, Side, body};
use crate::network::{Makings, Network, unix_time};
use crate::notice::{Notice, Watch};
use crate::process::Said;
use crate::report::{Crowd, Report, Victim};
use crate::rogue::Does;

mod strike;

/// How long after the last send a message may still arrive, if nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long the network may take until two clients are connected.
const CONNECT: Duration = Duration::from_secs(60);

/// What a demo does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Messages each way.
    pub messages: usize,
    /// Time over which they are sent.
    pub over: Duration,
    /// Who is killed or held up, and when.
    pub faults: Vec<Fault>,
    /// What is to be noticed.
    pub notices: Vec<Notice>,
    /// How long after the last send a message may still arrive, or something be noticed.
    pub patience: Duration,
    /// Seed of bodies and choices.
    pub seed: u64,
    /// Whether the clients keep their state on disk.
    pub durable: bool,
}

impl Plan {
    /// The demo as it is promised: 200 messages each way over 10 s, a mix and an edge killed.
    #[must_use]
    pub fn demo(seed: u64) -> Self {
        let faults = vec![
            Fault { at: Moment::Share(1.0 / 3.0), who: Target::Mix, what: Deed::Kill },
            Fault { at: Moment::Share(2.0 / 3.0), who: Target::QueueEdge, what: Deed::Restart(Duration::ZERO) },
        ];
        Self {
            messages: 200,
            over: Duration::from_secs(10),
            faults,
            notices: Vec::new(),
            patience: PATIENCE,
            seed,
            durable: false,
        }
    }
}

/// Runs a demo in `dir` and reports. Progress goes to standard error if it is a terminal, or as plain lines.
///
/// # Errors
/// If the network can't be started or the clients don't connect; lost messages are no error but in the report.
pub async fn run(makings: Makings, dir: &Path, plan: &Plan, quiet: bool) -> Result<Report> {
    let (started, began_unix) = (Instant::now(), unix_time());
    let mut progress = Progress::new(quiet);
    progress.say("starting the network");
    let truth = !makings.taps.is_empty() || makings.rogues.values().any(|misdeed| misdeed.does == Does::Watch);
    let mut network = Network::start(makings, dir)?;
    let demo = Demo {
        network: &mut network,
        plan,
        started,
        begun: None,
        ledger: Ledger::default(),
        rng: ChaCha20Rng::seed_from_u64(plan.seed),
        faults: plan.faults.clone(),
        later: Vec::new(),
        victims: Vec::new(),
        crowd: None,
        coming: BTreeSet::new(),
        watch: Watch::new(&plan.notices, started),
        progress,
    };
    let result = demo.run(truth.then_some(began_unix)).await;
    let tapped = network.stop().await?;
    result.map(|report| Report { tapped, ..report })
}

struct Demo<'a> {
    network: &'a mut Network,
    plan: &'a Plan,
    started: Instant,
    /// When the first message was sent.
    begun: Option<Instant>,
    ledger: Ledger,
    rng: ChaCha20Rng,
    faults: Vec<Fault>,
    /// What follows from a fault, and when.
    later: Vec<(Instant, Later)>,
    victims: Vec<Victim>,
    crowd: Option<Crowd>,
    /// Clients of a crowd that have no echo yet.
    coming: BTreeSet<String>,
    watch: Watch,
    progress: Progress,
}

fn side_of(name: &str) -> Option<Side> {
    Side::BOTH.into_iter().find(|s| s.client() == name)
}

impl Demo<'_> {
    /// The truth is written down if the run's beginning is given, since 1970.
    async fn run(mut self, truth: Option<Duration>) -> Result<Report> {
        self.connect().await?;
        self.exchange().await?;
        self.wait_for_the_rest().await?;
        self.progress.end();
        self.look().await;
        if let Some(began) = truth {
            let dir = &self.network.layout().dir;
            self.ledger.write(&dir.join("truth.jsonl"), began).context("the truth can't be written")?;
            let relays = serde_json::to_vec_pretty(self.network.relays()).context("who is who")?;
            std::fs::write(dir.join("relays.json"), relays).context("who is who can't be written")?;
        }
        Ok(Report {
            victims: self.victims,
            noticed: self.watch.noticed(self.begun.unwrap_or(self.started)),
            crowd: self.crowd,
            ..Report::of(&self.ledger)
        })
    }

    /// Two clients; one invites, the other joins.
    async fn connect(&mut self) -> Result<()> {
        let deadline = self.started + CONNECT;
        self.plan_ahead(self.started, |at| match at {
            Moment::Start(after) => Some(after),
            Moment::After(_) | Moment::Share(_) => None,
        });
        self.progress.say("waiting for the directory's first consensus");
        self.start_client(Side::Inviter, 0, &[])?;
        let mut connected = 0;
        while connected < 2 {
            let next = self.next(deadline).await?;
            let (name, line) = next
                .context("the clients did not connect in time: run again with --keep, the logs say what is missing")?;
            match event(&line) {
                "invitation" => {
                    self.progress.say("connecting two clients by an invitation");
                    let link = line.get("link").and_then(Value::as_str).context("an invitation without a link")?;
                    let joiner = Side::Joiner.client();
                    self.start_client(Side::Joiner, 1, &["--join"])?;
                    self.network.say(joiner, &json!({ "join": link })).await?;
                }
                "connected" => connected += 1,
                _ => self.note(&name, &line),
            }
        }
        Ok(())
    }

    fn start_client(&mut self, side: Side, k: usize, more: &[&str]) -> Result<()> {
        let name = side.client();
        if !self.plan.durable {
            return self.network.start_client(name, k, more);
        }
        let folder = self.network.layout().dir.join(name);
        let passphrase = folder.with_extension("passphrase");
        std::fs::write(&passphrase, "a passphrase for a demo\n").context("the passphrase can't be written")?;
        let (folder, passphrase) = (folder.display().to_string(), passphrase.display().to_string());
        let state = ["--state", &folder, "--passphrase-file", &passphrase];
        self.network.start_client(name, k, &[more, &state].concat())
    }

    /// Sends both ways at an even pace, and kills when it is time.
    async fn exchange(&mut self) -> Result<()> {
        let begin = Instant::now();
        self.begun = Some(begin);
        let total = self.plan.messages;
        self.plan_ahead(begin, |at| match at {
            Moment::After(after) => Some(after),
            Moment::Start(_) | Moment::Share(_) => None,
        });
        for number in 1..=total {
            let share = (number - 1) as f64 / total as f64;
            let due = begin + self.plan.over.mul_f64(share);
            while let Some((name, line)) = self.next(due).await? {
                self.note(&name, &line);
            }
            if let Some(i) = self.faults.iter().position(|f| matches!(f.at, Moment::Share(at) if at <= share)) {
                let fault = self.faults.swap_remove(i);
                self.strike(fault).await?;
            }
            for side in Side::BOTH {
                let text = body(side, number, &mut self.rng);
                self.ledger.sent(side, number, self.started.elapsed());
                self.network.say(side.client(), &json!({ "send": text })).await?;
            }
            self.show();
        }
        while let Some((name, line)) = self.next(begin + self.plan.over).await? {
            self.note(&name, &line);
        }
        Ok(())
    }

    async fn wait_for_the_rest(&mut self) -> Result<()> {
        let open = |demo: &Self| !demo.later.is_empty() || !demo.coming.is_empty() || demo.watch.open();
        let deadline = Instant::now() + self.plan.patience;
        while self.ledger.delivered() < self.ledger.total() || open(self) {
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
            let due = self.later.iter().map(|(at, _)| *at).min();
            let look = self.watch.next_look();
            let wake = [due, look].into_iter().flatten().fold(deadline, Instant::min);
            let Ok(said) = timeout_at(wake, self.network.next()).await else {
                match due {
                    Some(due) if due <= wake => self.follow(due).await?,
                    _ if look.is_some_and(|look| look <= wake) => self.look().await,
                    _ => return Ok(None),
                }
                continue;
            };
            match said {
                (name, Said::Line(line)) if side_of(&name).is_some() => return Ok(Some((name, line))),
                (name, said) if self.coming.contains(&name) => self.one_of_a_crowd(&name, &said),
                // Those of a crowd end when they have their echo.
                (name, Said::Ended(pid))
                    if self.network.should_run(&name, pid)
                        && (side_of(&name).is_some() || !name.starts_with("client")) =>
                {
                    bail!("{name} ended by itself: {}", self.network.last_words(&name))
                }
                _ => {}
            }
        }
    }

    fn one_of_a_crowd(&mut self, name: &str, said: &Said) {
        match said {
            Said::Line(line) if event(line) == "pong" => {
                self.coming.remove(name);
                if let Some(crowd) = &mut self.crowd {
                    crowd.answered += 1;
                }
            }
            Said::Line(_) => {}
            Said::Ended(_) => {
                self.progress.say(&format!("{name} had no echo: {}", self.network.last_words(name)));
                self.coming.remove(name);
            }
        }
    }

    /// Looks what was noticed.
    async fn look(&mut self) {
        self.watch.look(self.network).await;
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
