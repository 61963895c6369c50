//! What lies between nodes: latency, jitter, loss, bandwidth.

use std::time::Duration;

use posta_protocol::now::Mono;
use rand_core::Rng;
use serde::Serialize;

/// One-way times between ten cities in tenths of a millisecond, by great circle at two thirds of the speed of light and
/// 1.5 times the way: what fibre does, not a measurement. A file of measured ones can be given instead.
const CITIES: [[u16; 10]; 10] = [
    //  Frankfurt London NewYork SanFrancisco SaoPaulo Johannesburg Mumbai Singapore Tokyo Sydney
    [5, 48, 465, 686, 735, 652, 493, 770, 700, 1236],
    [48, 5, 418, 646, 711, 680, 540, 814, 717, 1274],
    [465, 418, 5, 310, 577, 963, 941, 1150, 814, 1199],
    [686, 646, 310, 5, 782, 1272, 1012, 1019, 621, 896],
    [735, 711, 577, 782, 5, 558, 1034, 1200, 1389, 1002],
    [652, 680, 963, 1272, 558, 5, 523, 650, 1016, 829],
    [493, 540, 941, 1012, 1034, 523, 5, 293, 504, 761],
    [770, 814, 1150, 1019, 1200, 650, 293, 5, 399, 473],
    [700, 717, 814, 621, 1389, 1016, 504, 399, 5, 587],
    [1236, 1274, 1199, 896, 1002, 829, 761, 473, 587, 5],
];

/// How long a frame takes without jitter.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Latency {
    /// Uniform between two times, drawn for each frame.
    Uniform(Duration, Duration),
    /// Nodes live in cities, by their number; the time between two cities is fixed.
    Cities(Vec<Vec<u16>>),
}

impl Latency {
    /// The built-in cities.
    #[must_use]
    pub fn cities() -> Self {
        Self::Cities(CITIES.iter().map(|row| row.to_vec()).collect())
    }

    /// Cities from a file: a row a line, one-way times in milliseconds, with commas between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let row = |line: &str| {
            line.split(',').map(|ms| Some((ms.trim().parse::<f64>().ok()? * 10.0).round() as u16)).collect()
        };
        let rows: Vec<Vec<u16>> = text.lines().filter(|l| !l.trim().is_empty()).map(row).collect::<Option<_>>()?;
        (!rows.is_empty() && rows.iter().all(|row| row.len() == rows.len())).then_some(Self::Cities(rows))
    }
}

/// All lines of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lines {
    /// Without jitter.
    pub latency: Latency,
    /// Mean of an exponential time on top, drawn for each frame.
    pub jitter: Duration,
    /// The share of packets that a line loses for good, 0.0 to 1.0: what is left after the links' own repetition.
    pub loss: f64,
    /// Bits a second that a node can send; zero for no limit. Frames wait for one another.
    pub bandwidth: u64,
}

impl Default for Lines {
    fn default() -> Self {
        let latency = Latency::Uniform(Duration::from_millis(5), Duration::from_millis(50));
        Self { latency, jitter: Duration::ZERO, loss: 0.0, bandwidth: 0 }
    }
}

/// A number in 0.0 to 1.0, never 0.
pub(super) fn uniform(rng: &mut impl Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// A time of the exponential distribution.
pub(super) fn exponential(mean: Duration, rng: &mut impl Rng) -> Duration {
    if mean.is_zero() { mean } else { mean.mul_f64(-uniform(rng).ln()) }
}

/// A number below `n`, or 0.
pub(super) fn below(n: usize, rng: &mut impl Rng) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

impl Lines {
    /// When a frame of `bytes` that is sent now arrives, or `None` if it is lost. `free` is when the sender's line is.
    pub(super) fn arrival(
        &self,
        now: Mono,
        free: &mut Mono,
        (from, to): (u32, u32),
        bytes: usize,
        rng: &mut impl Rng,
    ) -> Option<Mono> {
        let mut at = now;
        if let Some(micros) = (bytes as u64).saturating_mul(8_000_000).checked_div(self.bandwidth) {
            *free = (*free).max(now) + Duration::from_micros(micros);
            at = *free;
        }
        if self.loss > 0.0 && uniform(rng) <= self.loss {
            return None;
        }
        let way = match &self.latency {
            Latency::Uniform(min, max) => *min + max.saturating_sub(*min).mul_f64(uniform(rng)),
            Latency::Cities(rows) => {
                let city = |node: u32| (node & !super::CLIENT) as usize % rows.len().max(1);
                let tenths = rows.get(city(from)).and_then(|row| row.get(city(to))).copied().unwrap_or(0);
                Duration::from_micros(u64::from(tenths) * 100)
            }
        };
        Some(at + way + exponential(self.jitter, rng))
    }
}
