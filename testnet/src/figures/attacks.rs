//! Attacks on who talks to whom, by an observer of all clients' lines.
//!
//! Each gives every ordered pair of clients a score: the higher, the likelier the first writes to the second. They know the
//! profile and its means, as everybody does, and leave out what leaves at a constant rate. An attack is one arm of
//! [`run`]; its positive controls are `fast` and `leaky-steady`.
//!
//! | attack | score of (i, j) |
//! |---|---|
//! | timing correlation | the largest Pearson correlation of what i sends and what j gets, over lags |
//! | intersection | the part of i's packets after which j gets something in time, less what j's rate alone gives |
//! | statistical disclosure | how much more j gets in the windows after i's packets than otherwise, in standard deviations |

use std::time::Duration;

use serde::Serialize;

use super::stats;
use crate::sim::large::{CLIENT, Habit, Options, Outcome};

/// Rates of false positives at which true ones are given.
const FPR: f64 = 1e-3;
/// Lags of the correlation, in bins.
const LAGS: usize = 5;
/// What is cut off at the begin of a run: subscriptions are made there, by everybody.
const WARM_UP_US: u64 = 30_000_000;
/// What leaves this near to a constant schedule is of it.
const PHASE_US: u64 = 2_000;
/// The parts of a run after which the disclosure is tried, in sixteenths.
const STEPS: [u64; 5] = [1, 2, 4, 8, 16];

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Attack {
    /// By the shape of two lines' traffic.
    Timing,
    /// By who is always there.
    Intersection,
    /// By who is there more often than chance has it (Danezis 2003).
    Disclosure,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Timing, Self::Intersection, Self::Disclosure];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timing => "timing correlation",
            Self::Intersection => "intersection",
            Self::Disclosure => "statistical disclosure",
        }
    }

    /// The names of its figures: area, true positives, top-1, messages.
    #[must_use]
    pub const fn keys(self) -> [&'static str; 4] {
        match self {
            Self::Timing => ["timing_auc", "timing_tpr", "timing_top1", "timing_messages"],
            Self::Intersection => {
                ["intersection_auc", "intersection_tpr", "intersection_top1", "intersection_messages"]
            }
            Self::Disclosure => ["disclosure_auc", "disclosure_tpr", "disclosure_top1", "disclosure_messages"],
        }
    }
}

/// What an attack found.
#[derive(Clone, Debug)]
pub struct Linkage {
    /// The area under the ROC curve: 0.5 is guessing.
    pub auc: f64,
    /// True positives at a false-positive rate of 1e-3.
    pub tpr: f64,
    /// Clients whose contact has the highest score; ties share.
    pub top1: f64,
    /// Messages of a client until half of all clients' contacts have the highest score; `None` if that is never so.
    pub messages: Option<f64>,
    /// The curve.
    pub roc: Vec<(f64, f64)>,
}

/// Times at which each client's line carried a packet, in microseconds.
struct Ends {
    up: Vec<Vec<u64>>,
    down: Vec<Vec<u64>>,
    /// All that came down, in order: when and to whom.
    arrivals: Vec<(u64, u32)>,
}

impl Ends {
    fn new(outcome: &Outcome, options: &Options, until: u64) -> Self {
        let clients = options.clients;
        let mut ends = Self { up: vec![Vec::new(); clients], down: vec![Vec::new(); clients], arrivals: Vec::new() };
        for seen in outcome.seen.iter().filter(|s| (WARM_UP_US..until).contains(&s.at_us)) {
            if let Some(line) = ends.up.get_mut((seen.from ^ CLIENT) as usize) {
                line.push(seen.at_us);
            }
            if let Some(line) = ends.down.get_mut((seen.to ^ CLIENT) as usize) {
                line.push(seen.at_us);
                ends.arrivals.push((seen.at_us, seen.to ^ CLIENT));
            }
        }
        if matches!(options.habit, Habit::Steady | Habit::LeakySteady) {
            let interval = options.interval.as_micros() as u64;
            ends.up.iter_mut().for_each(|line| without_schedule(line, interval));
        }
        ends
    }
}

/// Leaves out what leaves at a constant rate: the observer knows the profile's interval, and sees the phase. If nothing is
/// left, all of it stays.
fn without_schedule(line: &mut Vec<u64>, interval: u64) {
    let near = |a: u64, b: u64| {
        let apart = (a % interval).abs_diff(b % interval);
        apart.min(interval - apart) <= PHASE_US
    };
    let regular = |phase: u64| line.iter().filter(|at| near(**at, phase)).count();
    let Some(phase) = line.iter().take(8).copied().max_by_key(|at| regular(*at)) else { return };
    let others: Vec<u64> = line.iter().copied().filter(|at| !near(*at, phase)).collect();
    if !others.is_empty() {
        *line = others;
    }
}

/// The time that a message takes, as the profile has it: the least and the most that the window covers.
fn window(options: &Options) -> (u64, u64) {
    let line = Duration::from_millis(20);
    let (mean, spread) = match options.habit {
        Habit::Fast => (Duration::from_millis(250), Duration::from_millis(250)),
        // Where half of an Erlang distribution of five lies.
        Habit::LeakySteady => (options.hop_delay * 5, options.hop_delay.mul_f64(2.5)),
        // Two waits besides: for the queue relay's turn and for the entry's.
        _ => (options.hop_delay * 5 + options.interval, options.hop_delay * 3 + options.interval),
    };
    let least = mean.saturating_sub(spread) + line;
    (least.as_micros() as u64, (mean + spread).as_micros() as u64)
}

/// Runs an attack and compares it with the truth.
#[must_use]
pub fn run(attack: Attack, options: &Options, outcome: &Outcome) -> Linkage {
    let clients = options.clients;
    let end = options.length.as_micros() as u64;
    let scores_until = |until: u64| {
        let ends = Ends::new(outcome, options, until);
        match attack {
            Attack::Timing => timing(&ends, options, until),
            Attack::Intersection => intersection(&ends, options, until),
            Attack::Disclosure => disclosure(&ends, options, until),
        }
    };
    let scores = scores_until(end);
    let contact = |i: usize| i ^ 1;
    let pairs = (0..clients).flat_map(|i| (0..clients).filter(move |j| *j != i).map(move |j| (i, j)));
    let labelled = pairs.filter_map(|(i, j)| Some((*scores.get(i)?.get(j)?, j == contact(i)))).collect();
    let curve = stats::roc(labelled);
    let top = top1(&scores, contact);
    let messages = if top >= 0.5 && attack != Attack::Timing {
        let needed = STEPS.iter().map(|step| end * step / 16).find(|until| top1(&scores_until(*until), contact) >= 0.5);
        needed.map(|until| {
            let written = outcome.messages.iter().filter(|m| (WARM_UP_US..until).contains(&m.written_us)).count();
            written as f64 / clients.max(1) as f64
        })
    } else {
        None
    };
    Linkage { auc: curve.auc, tpr: curve.tpr_at(FPR), top1: top, messages, roc: curve.thinned() }
}

fn top1(scores: &[Vec<f64>], contact: impl Fn(usize) -> usize) -> f64 {
    let hit = |(i, row): (usize, &Vec<f64>)| {
        let others = || row.iter().enumerate().filter(move |(j, _)| *j != i);
        let best = others().map(|(_, s)| *s).fold(f64::NEG_INFINITY, f64::max);
        let tied = others().filter(|(_, s)| **s >= best).count().max(1);
        let found = row.get(contact(i)).is_some_and(|s| *s >= best);
        if found { 1.0 / tied as f64 } else { 0.0 }
    };
    scores.iter().enumerate().map(hit).sum::<f64>() / scores.len().max(1) as f64
}

/// Series in bins, their mean taken off and their length made one.
fn series(times: &[u64], bin: u64, until: u64) -> Vec<f32> {
    let mut bins = vec![0.0_f32; usize::try_from((until - WARM_UP_US.min(until)) / bin + 1).unwrap_or(0)];
    for at in times {
        if let Some(count) = bins.get_mut(((at - WARM_UP_US) / bin) as usize) {
            *count += 1.0;
        }
    }
    let mean = bins.iter().sum::<f32>() / bins.len().max(1) as f32;
    bins.iter_mut().for_each(|b| *b -= mean);
    let length = bins.iter().map(|b| b * b).sum::<f32>().sqrt();
    if length > 0.0 {
        bins.iter_mut().for_each(|b| *b /= length);
    }
    bins
}

fn timing(ends: &Ends, options: &Options, until: u64) -> Vec<Vec<f64>> {
    let (_, most) = window(options);
    let bin = (most / LAGS as u64).max(500_000);
    let up: Vec<_> = ends.up.iter().map(|times| series(times, bin, until)).collect();
    let down: Vec<_> = ends.down.iter().map(|times| series(times, bin, until)).collect();
    let score = |a: &Vec<f32>, b: &Vec<f32>| {
        let at = |lag: usize| {
            let pairs = a.iter().zip(b.iter().skip(lag));
            pairs.map(|(x, y)| x * y).sum::<f32>()
        };
        f64::from((0..LAGS).map(at).fold(f32::NEG_INFINITY, f32::max))
    };
    up.iter().map(|a| down.iter().map(|b| score(a, b)).collect()).collect()
}

/// Calls `each` with (packet of i, who got something in its window).
fn windows(ends: &Ends, options: &Options, i: usize, mut each: impl FnMut(u64, &[(u64, u32)])) {
    let (least, most) = window(options);
    for sent in ends.up.get(i).into_iter().flatten() {
        let begin = ends.arrivals.partition_point(|(at, _)| *at < sent + least);
        let end = ends.arrivals.partition_point(|(at, _)| *at <= sent + most);
        each(*sent, ends.arrivals.get(begin..end).unwrap_or_default());
    }
}

fn intersection(ends: &Ends, options: &Options, until: u64) -> Vec<Vec<f64>> {
    let clients = ends.up.len();
    let (least, most) = window(options);
    let length = until.saturating_sub(WARM_UP_US).max(1) as f64;
    // Whether a client is there by chance.
    let chance = |down: &Vec<u64>| 1.0 - (-(down.len() as f64) * (most - least) as f64 / length).exp();
    let one = |i: usize| {
        let mut rounds = vec![0.0_f64; clients];
        let mut last = vec![u64::MAX; clients];
        windows(ends, options, i, |sent, there| {
            for (_, j) in there {
                let (Some(round), Some(before)) = (rounds.get_mut(*j as usize), last.get_mut(*j as usize)) else {
                    continue;
                };
                if *before != sent {
                    *before = sent;
                    *round += 1.0;
                }
            }
        });
        let all = ends.up.get(i).map_or(1, Vec::len).max(1) as f64;
        rounds.into_iter().zip(&ends.down).map(|(r, down)| r / all - chance(down)).collect()
    };
    (0..clients).map(one).collect()
}

fn disclosure(ends: &Ends, options: &Options, until: u64) -> Vec<Vec<f64>> {
    let clients = ends.up.len();
    let (least, most) = window(options);
    let seconds = (until.saturating_sub(WARM_UP_US)).max(1) as f64;
    let one = |i: usize| {
        let mut counts = vec![0.0_f64; clients];
        windows(ends, options, i, |_, there| {
            for (_, j) in there {
                if let Some(count) = counts.get_mut(*j as usize) {
                    *count += 1.0;
                }
            }
        });
        let covered = ends.up.get(i).map_or(0, Vec::len) as f64 * (most - least) as f64;
        let excess = |(count, down): (f64, &Vec<u64>)| {
            let expected = down.len() as f64 * covered / seconds;
            (count - expected) / expected.max(1e-9).sqrt()
        };
        counts.into_iter().zip(&ends.down).map(excess).collect()
    };
    (0..clients).map(one).collect()
}
