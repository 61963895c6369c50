//! What the demo counts and how it says it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::ledger::Ledger;
use crate::lines::tap::Tapped;
use crate::notice::Noticed;

/// The demo's result, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Messages handed to `send` by the applications, both ways.
    pub sent: usize,
    /// Messages that relays reported as stored.
    pub stored: usize,
    /// Distinct bodies that the other application received with the right hash.
    pub delivered: usize,
    /// `sent` - `delivered`, after the run's patience: 60 s after the last send, if nothing else is said.
    pub lost: usize,
    /// Bodies that an application received more than once.
    pub duplicates: usize,
    /// Bodies that an application received after a later one.
    pub out_of_order: usize,
    /// From `send` at one application to the other application, in milliseconds.
    pub latency_ms: Percentiles,
    /// From starting the first process to the first message delivered, in seconds.
    pub start_to_first_delivery_s: f64,
    /// The processes that something was done to on the way.
    pub victims: Vec<Victim>,
    /// What somebody in the network was to notice.
    pub noticed: Vec<Noticed>,
    /// The clients that came at once, if any did.
    pub crowd: Option<Crowd>,
    /// What was tapped.
    pub tapped: Vec<Tapped>,
    /// Of a simulation: a hash over all that happened.
    pub trace: Option<String>,
}

/// Clients that came at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Crowd {
    /// How many.
    pub came: usize,
    /// Of these, how many got their echo back through the network.
    pub answered: usize,
}

/// Three quantiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
}

/// A process that was killed, stopped or held up.
#[derive(Debug, Clone, Serialize)]
pub struct Victim {
    /// Its name in this testnet.
    pub name: String,
    /// `mix`, `edge`, `authority`, or `some`.
    pub role: &'static str,
    /// `kill`, `stop`, `pause`, `cut off` or `bad lines`.
    pub deed: &'static str,
    /// Whether it was started again, or went on.
    pub restarted: bool,
    /// Packets that it had carried before.
    pub packets_carried: u64,
}

impl Percentiles {
    /// Of durations in any order; zeros of none.
    #[must_use]
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |q: f64| {
            // The nearest rank: the smallest value that at least a share q of all doesn't exceed.
            let rank = (durations.len() as f64 * q).ceil() as usize;
            durations.get(rank.saturating_sub(1)).map_or(0.0, |d| (d.as_secs_f64() * 100_000.0).round() / 100.0)
        };
        Self { p50: at(0.50), p95: at(0.95), p99: at(0.99) }
    }
}

impl Report {
    /// What a ledger says, and nothing else.
    #[must_use]
    pub fn of(ledger: &Ledger) -> Self {
        let first = ledger.first_delivery.map_or(0.0, |d| (d.as_secs_f64() * 1000.0).round() / 1000.0);
        Self {
            sent: ledger.total(),
            stored: ledger.stored_count(),
            delivered: ledger.delivered(),
            lost: ledger.total() - ledger.delivered(),
            duplicates: ledger.duplicates,
            out_of_order: ledger.out_of_order,
            latency_ms: Percentiles::of(ledger.latencies()),
            start_to_first_delivery_s: first,
            victims: Vec::new(),
            noticed: Vec::new(),
            crowd: None,
            tapped: Vec::new(),
            trace: None,
        }
    }

    /// Whether everything arrived, once and in order.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.sent > 0 && self.delivered == self.sent && self.duplicates == 0 && self.out_of_order == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "messages    {} sent, {} stored, {} delivered", self.sent, self.stored, self.delivered)?;
        writeln!(f, "            {} lost, {} doubled, {} out of order", self.lost, self.duplicates, self.out_of_order)?;
        let Percentiles { p50, p95, p99 } = self.latency_ms;
        writeln!(f, "latency     p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms")?;
        writeln!(f, "first       message delivered {:.1} s after the start", self.start_to_first_delivery_s)?;
        for v in &self.victims {
            let after = match (v.deed, v.restarted) {
                ("cut off", true) => "cut off for a while",
                ("cut off", false) => "cut off",
                ("bad lines", true) => "with bad lines for a while",
                ("bad lines", false) => "with bad lines",
                ("pause", _) => "held up for a while",
                ("stop", _) => "stopped and started again",
                (_, true) => "killed and restarted",
                (_, false) => "killed for good",
            };
            writeln!(f, "victim      {} ({}), {after} after {} packets", v.name, v.role, v.packets_carried)?;
        }
        if let Some(crowd) = self.crowd {
            writeln!(f, "crowd       {} clients came at once, {} had their echo", crowd.came, crowd.answered)?;
        }
        for noticed in &self.noticed {
            writeln!(f, "noticed     {noticed}")?;
        }
        for Tapped { name, datagrams, bytes, left_out } in &self.tapped {
            writeln!(f, "tap         {name}: {datagrams} datagrams, {bytes} bytes, {left_out} left out")?;
        }
        if let Some(trace) = &self.trace {
            writeln!(f, "trace       {trace}")?;
        }
        write!(f, "{}", if self.passed() { "PASSED" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let p = Percentiles::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(p, Percentiles { p50: 50.0, p95: 95.0, p99: 99.0 });
        assert_eq!(Percentiles::of(vec![]), Percentiles::default());
    }

    #[test]
    fn one_lost_or_doubled_message_fails_the_report() {
        let good = Report {
            sent: 2,
            stored: 2,
            delivered: 2,
            lost: 0,
            duplicates: 0,
            out_of_order: 0,
            latency_ms: Percentiles::default(),
            start_to_first_delivery_s: 1.0,
            victims: vec![],
            noticed: vec![],
            crowd: None,
            tapped: vec![],
            trace: None,
        };
        assert!(good.passed());
        assert!(!Report { delivered: 1, lost: 1, ..good.clone() }.passed());
        assert!(!Report { duplicates: 1, ..good.clone() }.passed());
        assert!(!Report { out_of_order: 1, ..good.clone() }.passed());
        assert!(!Report { sent: 0, delivered: 0, ..good }.passed());
    }
}
