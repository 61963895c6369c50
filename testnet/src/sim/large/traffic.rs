//! When people write to each other. A traffic model is one file, or one arm of `Traffic::next`.

use std::collections::BTreeMap;
use std::time::Duration;

use posta_protocol::now::Mono;
use rand_core::Rng;
use serde::Serialize;

use super::lines::{exponential, uniform};

/// The part of a day's messages that each hour has, in thousandths: nearly all between 8 and 18, a dip at noon.
const OFFICE: [u16; 24] = [1, 1, 1, 1, 1, 2, 8, 30, 90, 110, 110, 90, 50, 90, 110, 110, 90, 50, 20, 15, 10, 6, 3, 1];
/// An office day begins here: simulations are seldom longer than an hour.
const DAY_BEGINS: Duration = Duration::from_secs(8 * 3600);
const DAY: u64 = 86_400_000_000;
const HOUR: u64 = 3_600_000_000;

/// A model of traffic.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Nobody writes.
    Idle,
    /// Each client by itself, at exponential intervals.
    Poisson {
        /// Mean time between two messages of a client.
        mean: Duration,
    },
    /// As talk goes: some messages close together, then a long pause; as many messages as `Poisson`.
    Bursty {
        /// Mean time between two messages of a client, pauses included.
        mean: Duration,
        /// Messages in a burst, on average.
        burst: f64,
    },
    /// Poisson with the hours of an office, from 8 o'clock.
    OfficeDay {
        /// Mean time between two messages of a client over the whole day.
        mean: Duration,
    },
    /// At the times in a file: lines of `seconds,client`.
    Trace(BTreeMap<u32, Vec<u64>>),
}

impl Traffic {
    /// Reads a trace: lines of `seconds,client`, clients counted from 0.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut trace = BTreeMap::<u32, Vec<u64>>::new();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let (at, client) = line.split_once(',')?;
            let at = (at.trim().parse::<f64>().ok()? * 1e6) as u64;
            trace.entry(client.trim().parse().ok()?).or_default().push(at);
        }
        trace.values_mut().for_each(|times| times.sort_unstable());
        Some(Self::Trace(trace))
    }

    /// The client's next message after this moment, as time since the start.
    pub(super) fn next(&self, client: u32, after: Mono, rng: &mut impl Rng) -> Option<Mono> {
        match self {
            Self::Idle => None,
            Self::Poisson { mean } => Some(after + exponential(*mean, rng)),
            Self::Bursty { mean, burst } => {
                let short = mean.div_f64(30.0);
                let goes_on = uniform(rng) > 1.0 / burst.max(1.0);
                // All gaps together keep the mean.
                let long = mean.mul_f64(*burst).saturating_sub(short.mul_f64(burst - 1.0));
                Some(after + exponential(if goes_on { short } else { long }, rng))
            }
            Self::OfficeDay { mean } => {
                // Thinning of a Poisson process at the busiest hour's rate.
                let most = f64::from(OFFICE.iter().copied().max().unwrap_or(1));
                let busiest = mean.mul_f64(1000.0 / 24.0 / most);
                let mut at = after;
                for _ in 0..100_000 {
                    at = at + exponential(busiest, rng);
                    let hour = ((at + DAY_BEGINS).0 % DAY) / HOUR;
                    let part = usize::try_from(hour).ok().and_then(|h| OFFICE.get(h)).copied().unwrap_or(0);
                    if uniform(rng) * most <= f64::from(part) {
                        return Some(at);
                    }
                }
                None
            }
            Self::Trace(trace) => {
                let times = trace.get(&client)?;
                times.get(times.partition_point(|at| *at <= after.0)).map(|at| Mono(*at))
            }
        }
    }
}
