//! What a line does to a datagram: no sockets, no clock.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use tokio::time::Instant;

/// How long a datagram may wait for a narrow line; one that would wait longer is dropped, as by a router's full queue.
pub const QUEUE: Duration = Duration::from_millis(200);

/// How a line is, in each direction by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Added to every datagram.
    pub delay: Duration,
    /// Added on top, uniformly from zero to this. Datagrams keep their order, as in a queue on the way.
    pub jitter: Duration,
    /// The share of datagrams that vanish, 0.0 to 1.0. With 1.0 the line is cut.
    pub loss: f64,
    /// Bits per second that get through; `None` for no bound.
    pub rate: Option<u64>,
}

impl Line {
    /// A line that changes nothing.
    pub const CLEAN: Self = Self { delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0, rate: None };
    /// A line that is cut.
    pub const CUT: Self = Self { loss: 1.0, ..Self::CLEAN };

    /// Both, one behind the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
            loss: 1.0 - (1.0 - self.loss) * (1.0 - other.loss),
            rate: match (self.rate, other.rate) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        }
    }
}

/// One direction of one line: what is under way on it.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    free_at: Instant,
    last_out: Instant,
}

impl Wire {
    /// A wire on which nothing is under way.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { free_at: now, last_out: now }
    }

    /// When a datagram of so many bytes, handed over now, comes out; `None` if it doesn't.
    pub fn carry(&mut self, line: &Line, now: Instant, bytes: usize, rng: &mut ChaCha20Rng) -> Option<Instant> {
        if line.loss > 0.0 && rng.random_bool(line.loss.clamp(0.0, 1.0)) {
            return None;
        }
        let mut out = now;
        if let Some(rate) = line.rate {
            let begins = self.free_at.max(now);
            if begins - now > QUEUE {
                return None;
            }
            let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
            let time = Duration::from_nanos(bits.saturating_mul(1_000_000_000) / rate.max(1));
            self.free_at = begins + time;
            out = self.free_at;
        }
        if !line.jitter.is_zero() {
            out += line.jitter.mul_f64(rng.random::<f64>());
        }
        // A line that has become better lets nothing overtake what is still under way.
        self.last_out = self.last_out.max(out + line.delay);
        Some(self.last_out)
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn carried(line: Line, count: usize, apart: Duration) -> Vec<Option<Duration>> {
        let (begin, mut rng) = (Instant::now(), ChaCha20Rng::seed_from_u64(1));
        let mut wire = Wire::new(begin);
        let mut at = begin;
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(wire.carry(&line, at, 1250, &mut rng).map(|out| out - at));
            at += apart;
        }
        all
    }

    #[test]
    fn a_clean_line_changes_nothing_and_a_cut_one_lets_nothing_through() {
        assert!(carried(Line::CLEAN, 100, Duration::ZERO).iter().all(|took| *took == Some(Duration::ZERO)));
        assert!(carried(Line::CUT, 100, MS).iter().all(Option::is_none));
    }

    #[test]
    fn a_lossy_line_loses_about_what_it_says() {
        let lost = carried(Line { loss: 0.2, ..Line::CLEAN }, 2000, MS).iter().filter(|o| o.is_none()).count();
        // Five standard deviations are 90.
        assert!((310..=490).contains(&lost), "{lost}");
    }

    #[test]
    fn delay_and_jitter_add_up_within_their_bounds() {
        let line = Line { delay: 20 * MS, jitter: 10 * MS, ..Line::CLEAN };
        let took: Vec<_> = carried(line, 500, 20 * MS).into_iter().flatten().collect();
        assert_eq!(took.len(), 500);
        assert!(took.iter().all(|took| (20 * MS..=30 * MS).contains(took)));
        let (least, most) = (took.iter().min().unwrap(), took.iter().max().unwrap());
        assert!(*least < 21 * MS && *most > 29 * MS, "{least:?} to {most:?}");
    }

    #[test]
    fn datagrams_keep_their_order_whatever_the_jitter() {
        let line = Line { jitter: 10 * MS, ..Line::CLEAN };
        let apart = MS / 10;
        let out: Vec<_> = (0_u32..).zip(carried(line, 500, apart)).map(|(n, took)| apart * n + took.unwrap()).collect();
        assert!(out.is_sorted());
    }

    #[test]
    fn a_narrow_line_passes_its_rate_and_drops_what_would_wait_too_long() {
        // 1,250 bytes are 10,000 bits: 10 ms at a megabit. Ten times as many arrive as get through.
        let line = Line { rate: Some(1_000_000), ..Line::CLEAN };
        let took = carried(line, 1000, MS);
        assert_eq!(took.first(), Some(&Some(10 * MS)));
        let through = took.iter().flatten().count();
        assert!((100..=125).contains(&through), "{through} in a second, and a queue of 20");
        assert!(took.iter().flatten().all(|took| *took <= QUEUE + 10 * MS));
        // Within its rate it only takes the time of each.
        assert!(carried(line, 100, 10 * MS).iter().all(|took| *took == Some(10 * MS)));
    }

    #[test]
    fn two_lines_behind_one_another_are_as_bad_as_both() {
        let a = Line { delay: MS, jitter: MS, loss: 0.5, rate: Some(5) };
        let both = a.and(Line { rate: Some(3), ..a });
        assert_eq!(both, Line { delay: 2 * MS, jitter: 2 * MS, loss: 0.75, rate: Some(3) });
        assert_eq!(a.and(Line::CLEAN), a);
        assert_eq!(Line::CLEAN.and(Line::CUT), Line::CUT);
    }
}
