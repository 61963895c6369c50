//! Two clients of a testnet that are told what to say.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use posta_testnet::network::Network;
use posta_testnet::process::Said;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::Idle;
use crate::relay::process::{cpu_us_of, resident_of};

/// How long anything may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(120);
/// Messages that are under way at once, at most; an outbox takes 256.
const WINDOW: usize = 200;
/// Bytes of each message; the packet that carries it has always the same length.
const BODY: usize = 500;

/// Two connected clients.
pub(super) struct Talk<'a> {
    network: &'a mut Network,
    names: [String; 2],
    /// Messages that were sent, ever.
    sent: u64,
}

/// How long messages took, and all of them together.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) arrived: Vec<Duration>,
    pub(super) stored: Vec<Duration>,
    pub(super) delivered: Vec<Duration>,
    pub(super) took: Duration,
}

/// CPU time since the start, in microseconds.
pub(super) struct Cpu {
    pub(super) sender_us: f64,
    pub(super) receiver_us: f64,
    pub(super) relays_us: f64,
}

fn event(line: &Value) -> &str {
    line.get("event").and_then(Value::as_str).unwrap_or_default()
}

fn number(line: &Value, key: &str) -> Option<u64> {
    line.get(key).and_then(Value::as_u64)
}

/// A message that has not both arrived and been told as delivered; the two come by different pipes, in any order.
struct UnderWay {
    sent: Instant,
    half: bool,
}

fn sent_at(under_way: &BTreeMap<u64, UnderWay>, n: u64) -> Result<Instant> {
    under_way.get(&n).map(|m| m.sent).with_context(|| format!("message {n} is not under way"))
}

fn half_done(under_way: &mut BTreeMap<u64, UnderWay>, n: u64) {
    if under_way.get_mut(&n).is_some_and(|m| std::mem::replace(&mut m.half, true)) {
        under_way.remove(&n);
    }
}

impl<'a> Talk<'a> {
    /// Starts both and connects them by an invitation.
    pub(super) async fn connect(network: &'a mut Network, kind: &str, profile: &str, on_disk: bool) -> Result<Self> {
        let names = ["ada", "bob"].map(|name| format!("{name}-{kind}"));
        let mut talk = Self { network, names, sent: 0 };
        talk.start(0, on_disk, &["--profile", profile])?;
        let deadline = Instant::now() + PATIENCE;
        let mut connected = 0;
        while connected < 2 {
            let (_, line) = talk.next(deadline).await?.context("the two clients did not connect in time")?;
            match event(&line) {
                "invitation" => {
                    let link = line.get("link").and_then(Value::as_str).context("a link")?;
                    talk.start(1, on_disk, &["--profile", profile, "--join"])?;
                    let joiner = talk.name(1);
                    talk.network.say(&joiner, &json!({ "join": link })).await?;
                }
                "connected" => connected += 1,
                _ => {}
            }
        }
        Ok(talk)
    }

    fn name(&self, index: usize) -> String {
        self.names.get(index).cloned().unwrap_or_default()
    }

    fn start(&mut self, index: usize, on_disk: bool, more: &[&str]) -> Result<()> {
        let name = self.name(index);
        if !on_disk {
            return self.network.start_client(&name, index, more);
        }
        let folder = self.network.layout().dir.join(&name);
        let passphrase = folder.with_extension("passphrase");
        fs::write(&passphrase, "a passphrase for a bench\n").context("the passphrase can't be written")?;
        let (folder, passphrase) = (folder.display().to_string(), passphrase.display().to_string());
        let state = ["--state", &folder, "--passphrase-file", &passphrase];
        self.network.start_client(&name, index, &[more, &state].concat())
    }

    /// The next line of either client; nothing if there is none in time.
    async fn next(&mut self, deadline: Instant) -> Result<Option<(usize, Value)>> {
        loop {
            let Ok((name, said)) = timeout_at(deadline, self.network.next()).await else { return Ok(None) };
            let Some(index) = self.names.iter().position(|n| *n == name) else { continue };
            match said {
                Said::Line(line) => return Ok(Some((index, line))),
                Said::Ended(_) => bail!("{name} has ended: {}", self.network.last_words(&name)),
            }
        }
    }

    /// Nothing is said for so long.
    pub(super) async fn rest(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while self.next(deadline).await?.is_some() {}
        Ok(())
    }

    /// One way, so many messages: one at each `pace`, or as many at once as may be.
    pub(super) async fn send(&mut self, count: usize, pace: Option<Duration>) -> Result<Sent> {
        let begin = Instant::now();
        let mut times = Sent::default();
        let mut under_way: BTreeMap<u64, UnderWay> = BTreeMap::new();
        let mut told = 0;
        let mut last = begin;
        while times.arrived.len() < count || times.delivered.len() < count {
            let due = pace.map_or(begin, |pace| begin + pace.mul_f64(told as f64));
            if told < count && under_way.len() < WINDOW && Instant::now() >= due {
                told += 1;
                self.sent += 1;
                under_way.insert(self.sent, UnderWay { sent: Instant::now(), half: false });
                let text = format!("{} {}", self.sent, "x".repeat(BODY));
                let sender = self.name(0);
                self.network.say(&sender, &json!({ "send": text })).await?;
                continue;
            }
            let waits = told < count && under_way.len() < WINDOW;
            let deadline = if waits { due } else { last + PATIENCE };
            let Some((from, line)) = self.next(deadline).await? else {
                ensure!(waits, "{} of {count} messages arrived, then nothing came", times.arrived.len());
                continue;
            };
            last = Instant::now();
            match (from, event(&line), line.get("state").and_then(Value::as_str)) {
                (1, "message", _) => {
                    let text = line.get("text").and_then(Value::as_str).unwrap_or_default();
                    let n: u64 = text.split(' ').next().unwrap_or_default().parse().context("a message of ours")?;
                    times.arrived.push(last - sent_at(&under_way, n)?);
                    times.took = last - begin;
                    half_done(&mut under_way, n);
                }
                (0, "state", Some(state)) => {
                    let n = number(&line, "message").context("a number")?;
                    match state {
                        "stored" if number(&line, "k") == number(&line, "n") => {
                            times.stored.push(last - sent_at(&under_way, n)?);
                        }
                        "delivered" => {
                            times.delivered.push(last - sent_at(&under_way, n)?);
                            half_done(&mut under_way, n);
                        }
                        "failed" => bail!("message {n} failed"),
                        _ => {}
                    }
                }
                (_, "error", _) => bail!("{}: {line}", self.name(from)),
                _ => {}
            }
        }
        Ok(times)
    }

    fn pid(&self, name: &str) -> Result<u32> {
        let pids = self.network.pids();
        pids.iter().find(|(n, _)| n == name).map(|(_, pid)| *pid).with_context(|| format!("{name} isn't running"))
    }

    /// CPU time of both clients and of all relays.
    pub(super) fn cpu(&self) -> Result<Cpu> {
        let of = |name: &str| cpu_us_of(self.pid(name)?);
        let relays = self.network.pids().into_iter().filter(|(n, _)| n.starts_with("edge") || n.starts_with("mix"));
        let relays = relays.map(|(_, pid)| cpu_us_of(pid)).sum::<Result<f64>>()?;
        Ok(Cpu { sender_us: of(&self.name(0))?, receiver_us: of(&self.name(1))?, relays_us: relays })
    }

    /// What the receiver takes while nothing is sent.
    pub(super) async fn idle(&mut self, time: Duration) -> Result<Idle> {
        let pid = self.pid(&self.name(1))?;
        let (begin, before) = (Instant::now(), cpu_us_of(pid)?);
        self.rest(time).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let cpu_us_per_s = (cpu_us_of(pid)? - before) / seconds;
        Ok(Idle { seconds, resident_bytes: resident_of(pid)?, cpu_us_per_s })
    }

    /// Ends both clients.
    pub(super) async fn end(self) -> Result<()> {
        for name in &self.names {
            self.network.kill(name).await?;
        }
        Ok(())
    }
}
