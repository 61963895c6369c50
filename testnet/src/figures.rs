//! What a run says about latency, cost and anonymity.
//!
//! | module | figures |
//! |---|---|
//! | [`stats`] | means with confidence intervals, ROC curves |
//! | [`attacks`] | who talks to whom: timing correlation, intersection, statistical disclosure |
//! | [`entropy`] | in how many packets a message may be |
//! | [`compromise`] | bad relays: paths, and a contact that looks for the guard |
//!
//! Everything here is given what was seen and what is true, and draws on nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::sim::large::{CLIENT, Habit, LoopLook, Options, Outcome};

pub mod attacks;
pub mod compromise;
pub mod entropy;
pub mod stats;

use self::attacks::{Attack, Linkage};
use self::stats::Estimate;

/// Messages whose anonymity set is worked out in a run.
const TARGETS: usize = 40;
/// Loops judged in this many seconds are looked at together.
const DETECTION_WINDOW: u64 = 60;
/// Fewest lost loops that raise an alarm.
const DETECTION_LOST: u64 = 3;

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Its seed.
    pub seed: u64,
    /// Each figure by its name.
    pub values: BTreeMap<&'static str, f64>,
    /// Points of each attack's ROC curve: false and true positives.
    pub roc: BTreeMap<&'static str, Vec<(f64, f64)>>,
    /// Latencies' quantiles, a hundred of them, in seconds.
    pub latency_s: Vec<f64>,
    /// The trace's hash.
    pub trace: String,
}

/// How late a message may be and still not count as lost: written this long before the end.
fn grace(options: &Options) -> Duration {
    match options.habit {
        Habit::Fast => Duration::from_secs(30),
        _ => Duration::from_secs(30) + options.hop_delay * 20 + options.interval * 6,
    }
}

/// Works all figures of a run out.
#[must_use]
pub fn figures(options: &Options, outcome: &Outcome) -> Figures {
    let mut values = BTreeMap::new();
    let mut latencies = latency(options, outcome, &mut values);
    cost(options, outcome, &mut values);
    pools(options, outcome, &mut values);
    if let Some(delay) = detection(&outcome.loop_looks.0, options.active.as_ref().map(|a| a.from.as_secs())) {
        values.insert("detection_s", delay);
    }
    if options.active.is_some() {
        let alarm = detection(&outcome.loop_looks.1, Some(0)).is_some();
        values.insert("false_alarm", f64::from(u8::from(alarm)));
    }
    let mut roc = BTreeMap::new();
    if !outcome.seen.is_empty() {
        if let Some(set) = entropy::of_messages(outcome, TARGETS) {
            values.insert("entropy_bits", set.bits);
            values.insert("anonymity_set", set.effective);
        }
        for attack in Attack::ALL {
            let linkage = attacks::run(attack, options, outcome);
            insert(&mut values, attack, &linkage);
            roc.insert(attack.name(), linkage.roc);
        }
    }
    latencies.sort_by(f64::total_cmp);
    let latency_s = (0..100).filter_map(|p| latencies.get(latencies.len() * p / 100).copied()).collect();
    let trace = outcome.trace.iter().map(|b| format!("{b:02x}")).collect();
    Figures { seed: options.seed, values, roc, latency_s, trace }
}

fn insert(values: &mut BTreeMap<&'static str, f64>, attack: Attack, linkage: &Linkage) {
    let [auc, tpr, top, messages] = attack.keys();
    values.insert(auc, linkage.auc);
    values.insert(tpr, linkage.tpr);
    values.insert(top, linkage.top1);
    if let Some(needed) = linkage.messages {
        values.insert(messages, needed);
    }
}

fn latency(options: &Options, outcome: &Outcome, values: &mut BTreeMap<&'static str, f64>) -> Vec<f64> {
    let last = options.length.saturating_sub(grace(options)).as_micros() as u64;
    let judged: Vec<_> = outcome.messages.iter().filter(|m| m.written_us <= last).collect();
    let mut all: Vec<f64> = judged.iter().filter_map(|m| Some((m.delivered_us? - m.written_us) as f64 / 1e6)).collect();
    values.insert("messages", judged.len() as f64);
    values.insert("loss", 1.0 - all.len() as f64 / judged.len().max(1) as f64);
    all.sort_by(f64::total_cmp);
    for (name, part) in [("latency_p50_s", 0.5), ("latency_p95_s", 0.95), ("latency_p99_s", 0.99)] {
        if let Some(at) = stats::quantile(&all, part) {
            values.insert(name, at);
        }
    }
    all
}

/// Megabytes a day of a client's line, up and down.
fn cost(options: &Options, outcome: &Outcome, values: &mut BTreeMap<&'static str, f64>) {
    let clients = options.clients.max(1) as f64;
    let seconds = options.length.as_secs_f64().max(1.0);
    let megabytes = posta_protocol::geometry::Geometry::DEFAULT.packet_len() as f64 / 1e6;
    let a_day = |packets: f64| packets / clients / seconds * 86_400.0 * megabytes;
    values.insert("up_mb_day", a_day(outcome.client_packets as f64));
    if !outcome.seen.is_empty() {
        let down = outcome.seen.iter().filter(|s| s.to & CLIENT != 0).count();
        values.insert("down_mb_day", a_day(down as f64));
    }
    if outcome.client_loops > 0 {
        values.insert("client_loops_returned", outcome.client_loops_returned as f64 / outcome.client_loops as f64);
    }
    let (sent, returned, lost) = outcome.relay_loops;
    values.insert("relay_loops_sent", sent as f64);
    values.insert("relay_loops_lost", lost as f64 / (returned + lost).max(1) as f64);
    values.insert("refused", outcome.refused as f64);
}

/// Packets that a mix holds. Loopix: a Poisson distribution whose mean, and so variance, is the rate of arrivals times
/// the mean delay.
fn pools(options: &Options, outcome: &Outcome, values: &mut BTreeMap<&'static str, f64>) {
    let mixes = || outcome.pools.iter().zip(&outcome.positions).filter(|(_, place)| **place > 0).map(|(pool, _)| pool);
    let n = mixes().count().max(1) as f64;
    values.insert("mix_held", mixes().map(super::sim::large::Pool::mean).sum::<f64>() / n);
    values.insert("mix_held_variance", mixes().map(super::sim::large::Pool::variance).sum::<f64>() / n);
    let arrived: u64 =
        outcome.arrived.iter().zip(&outcome.positions).filter(|(_, place)| **place > 0).map(|(n, _)| *n).sum();
    values.insert("mix_arrivals_per_s", arrived as f64 / n / options.length.as_secs_f64().max(1.0));
}

/// Seconds from the attack's begin until a relay's own loops raise an alarm: in the last minute at least three were lost, and
/// more than returned.
#[must_use]
pub fn detection(looks: &[LoopLook], from: Option<u64>) -> Option<f64> {
    let from = from?;
    looks.iter().enumerate().find_map(|(n, look)| {
        let before = looks.get(n.checked_sub(DETECTION_WINDOW as usize)?)?;
        let (lost, returned) = (look.lost - before.lost, look.returned - before.returned);
        let alarm = look.second >= from && lost >= DETECTION_LOST && lost > returned;
        alarm.then(|| (look.second - from) as f64)
    })
}

/// The figures of several runs that differ by their seeds: each with its mean and confidence interval.
#[must_use]
pub fn summary(runs: &[Figures]) -> BTreeMap<&'static str, Estimate> {
    let mut all = BTreeMap::<_, Vec<f64>>::new();
    for (name, value) in runs.iter().flat_map(|run| &run.values) {
        all.entry(*name).or_default().push(*value);
    }
    all.into_iter().map(|(name, values)| (name, Estimate::of(&values))).collect()
}
