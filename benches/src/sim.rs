//! The simulator: a network of 1,000 relays and 10,000 clients, a packet per client per 10 s, modelled cryptography.
//!
//! What is said is simulated time by real time of one thread, and the memory of this process at its largest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use posta_testnet::sim::large::{self, Options, Traffic};
use serde::Serialize;

/// The figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Relays.
    pub relays: usize,
    /// Clients.
    pub clients: usize,
    /// Simulated seconds.
    pub simulated_s: f64,
    /// Real ones, making the network included.
    pub real_s: f64,
    /// The one by the other.
    pub speedup: f64,
    /// Seconds of a core that it took: on a machine with other work the real ones say little.
    pub cpu_s: f64,
    /// Simulated seconds by those.
    pub speedup_cpu: f64,
    /// Resident memory of this process at its largest.
    pub resident_bytes: u64,
    /// Events.
    pub events: u64,
    /// Events in a real second.
    pub events_per_s: f64,
    /// Packets on lines.
    pub packets: u64,
    /// Changes of keys and layers.
    pub key_epochs: u64,
    /// Messages written and delivered.
    pub messages: (usize, usize),
    /// Part of clients' loops that returned; some are still under way at the end.
    pub loops_returned: f64,
}

/// Runs it.
///
/// # Errors
/// If the simulation fails.
#[allow(clippy::disallowed_methods, reason = "it measures real time")]
pub fn measure(relays: usize, clients: usize, minutes: f64) -> Result<Figures> {
    let options = Options {
        relays,
        clients,
        length: Duration::from_secs_f64(minutes * 60.0),
        traffic: Traffic::Poisson { mean: Duration::from_secs(60) },
        ..Options::default()
    };
    let begin = Instant::now();
    let outcome = large::run(&options)?;
    let real_s = begin.elapsed().as_secs_f64();
    let cpu_s = on_cpu()?;
    let simulated_s = options.length.as_secs_f64();
    let delivered = outcome.messages.iter().filter(|m| m.delivered_us.is_some()).count();
    Ok(Figures {
        relays,
        clients,
        simulated_s,
        real_s,
        speedup: simulated_s / real_s,
        cpu_s,
        speedup_cpu: simulated_s / cpu_s,
        resident_bytes: peak()?,
        events: outcome.events,
        events_per_s: outcome.events as f64 / real_s,
        packets: outcome.packets,
        key_epochs: outcome.key_epochs,
        messages: (outcome.messages.len(), delivered),
        loops_returned: outcome.client_loops_returned as f64 / outcome.client_loops.max(1) as f64,
    })
}

/// Seconds that this thread has had a core.
fn on_cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").context("no /proc/thread-self/schedstat")?;
    let ns: f64 = stat.split(' ').next().unwrap_or_default().parse().context("schedstat")?;
    Ok(ns / 1e9)
}

fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("no /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmHWM")?;
    Ok(kib * 1024)
}
