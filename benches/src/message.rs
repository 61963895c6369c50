//! A message from one client to another: latency, throughput, CPU, and what a client takes that does nothing.
//!
//! ```text
//! ada (posta talk) -> 4 hops -> two relays' disks -> 4 hops -> bob (posta talk)
//! ```
//! A whole testnet: authorities, relays and both clients are processes of this same program on loopback. A latency is
//! from the moment that `ada` is told to send, as a line on its standard input, to `bob`'s line with the message, by one
//! clock. Both clients run once with their state in memory and once with it on disk, where each step is synced.

mod talk;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use posta_testnet::layout::Size;
use posta_testnet::network::{Makings, Network, Times};
use posta_testnet::report::Percentiles;
use serde::Serialize;

use self::talk::Talk;

/// The testnet's own epoch; no key epoch ends while this runs.
const TIMES: Times = Times { epoch: Duration::from_secs(10), key_epoch: Duration::from_secs(3600) };
/// Mean time between two messages whose latency is measured.
const PACE: Duration = Duration::from_millis(50);
/// The clients are left alone for so long before anything is measured: what a connection brings is over by then.
const SETTLE: Duration = Duration::from_secs(3);

/// All figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Messages of each measurement.
    pub messages: usize,
    /// Authorities and relays of the network.
    pub processes: usize,
    /// One way, in milliseconds, the clients' state on disk: what a user has.
    pub latency_ms: Percentiles,
    /// Everything else, by where the clients' state is: `disk` and `memory`.
    pub kept: BTreeMap<&'static str, Kept>,
    /// By profile: clients with their state in memory that have nothing to do.
    pub idle: BTreeMap<&'static str, Idle>,
}

/// What two clients do whose state is kept in one way.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// One way, in milliseconds: one message at a time.
    pub latency_ms: Percentiles,
    /// From the sending to the sender's word that both relays have it, in milliseconds.
    pub stored_ms: Percentiles,
    /// From the sending to the sender's word that the other client has it, in milliseconds.
    pub delivered_ms: Percentiles,
    /// Messages a second of one conversation, one way, as many as the outbox takes at once.
    pub messages_per_s: f64,
    /// CPU time of the sender's process for each of them, in microseconds.
    pub sender_cpu_us: f64,
    /// Of the receiver's.
    pub receiver_cpu_us: f64,
    /// Of all relays together.
    pub relays_cpu_us: f64,
    /// A client in `fast` that has nothing to do.
    pub idle: Idle,
}

/// A client with one contact and nothing to do.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    /// How long it was watched, in seconds.
    pub seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// CPU time for each second, in microseconds.
    pub cpu_us_per_s: f64,
}

/// Measures with so many messages, and clients that idle for so long.
///
/// # Errors
/// If the network doesn't start, the clients don't connect, or a message is lost.
pub fn measure(messages: usize, idle: Duration) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let dir = tempfile::tempdir()?;
    runtime.block_on(async {
        let mut network = Network::start(Makings::plain(Size::DEMO, TIMES), &dir.path().join("net"))?;
        let measured = run(&mut network, messages, idle).await;
        network.stop().await?;
        measured
    })
}

async fn run(network: &mut Network, messages: usize, idle: Duration) -> Result<Figures> {
    let processes = network.pids().len();
    let mut kept = BTreeMap::new();
    for (name, on_disk) in [("memory", false), ("disk", true)] {
        let mut talk =
            Talk::connect(network, name, "fast", on_disk).await.with_context(|| format!("state kept in {name}"))?;
        talk.rest(SETTLE).await?;
        let one_by_one = talk.send(messages, Some(PACE)).await?;
        let before = talk.cpu()?;
        let burst = talk.send(messages, None).await?;
        let after = talk.cpu()?;
        let each = |now: f64, then: f64| (now - then) / messages as f64;
        talk.rest(SETTLE).await?;
        let idle = talk.idle(idle).await?;
        talk.end().await?;
        kept.insert(
            name,
            Kept {
                latency_ms: Percentiles::of(one_by_one.arrived),
                stored_ms: Percentiles::of(one_by_one.stored),
                delivered_ms: Percentiles::of(one_by_one.delivered),
                messages_per_s: messages as f64 / burst.took.as_secs_f64(),
                sender_cpu_us: each(after.sender_us, before.sender_us),
                receiver_cpu_us: each(after.receiver_us, before.receiver_us),
                relays_cpu_us: each(after.relays_us, before.relays_us),
                idle,
            },
        );
    }
    let latency_ms = kept.get("disk").map(|k| k.latency_ms).unwrap_or_default();
    let mut by_profile = BTreeMap::new();
    for profile in ["mixed", "steady"] {
        let mut talk =
            Talk::connect(network, profile, profile, false).await.with_context(|| format!("in {profile}"))?;
        talk.rest(SETTLE).await?;
        by_profile.insert(profile, talk.idle(idle).await?);
        talk.end().await?;
    }
    if let Some(fast) = kept.get("memory") {
        by_profile.insert("fast", fast.idle);
    }
    Ok(Figures { messages, processes, latency_ms, kept, idle: by_profile })
}
