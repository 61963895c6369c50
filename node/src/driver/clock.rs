//! The clocks, read here and nowhere else.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use posta_protocol::now::{Mono, Now, Wall};
use tokio::time::Instant;

/// A monotonic clock that starts with the process, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Now {
        let elapsed = self.start.elapsed();
        Now { mono: Mono(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)), wall: wall() }
    }

    /// The moment to sleep until.
    pub(crate) fn instant(self, at: Mono) -> Instant {
        self.start + Duration::from_micros(at.0)
    }
}

/// Milliseconds by which the wall clock is made to be ahead, by the laboratory; below 0 it is behind.
static SKEW_MS: AtomicI64 = AtomicI64::new(0);

/// Makes this process' wall clock wrong by so many milliseconds, to see what comes of it. No program of ours but the
/// laboratory calls it.
pub fn skew(ms: i64) {
    SKEW_MS.store(ms, Ordering::Relaxed);
}

/// The wall clock.
#[must_use]
pub(crate) fn wall() -> Wall {
    #[expect(clippy::disallowed_methods, reason = "the driver reads the clock for the cores")]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Wall(ms.saturating_add_signed(SKEW_MS.load(Ordering::Relaxed)))
}

/// A wall time for people: date, hour, minute and second in UTC.
pub(crate) struct Utc(pub(crate) Wall);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.0 / 1000;
        let (second, minute, hour, mut days) = (seconds % 60, seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
        let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
        let mut year = 1970;
        while days >= 365 + u64::from(leap(year)) {
            days -= 365 + u64::from(leap(year));
            year += 1;
        }
        let mut month = 1;
        for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        write!(f, "{year:04}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", days + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_people() {
        assert_eq!(Utc(Wall(0)).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(Utc(Wall(1_709_209_085_000)).to_string(), "2024-02-29 12:18:05 UTC");
        assert_eq!(Utc(Wall(1_798_761_599_999)).to_string(), "2026-12-31 23:59:59 UTC");
    }
}
