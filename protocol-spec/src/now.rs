//! Time as an argument: cores never read a clock.

use core::ops::{Add, Sub};
use core::time::Duration;

/// Both clocks, read once by the driver for each step of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Drives timers; never jumps.
    pub mono: Mono,
    /// Judges documents and key epochs; may be wrong, and may jump.
    pub wall: Wall,
}

/// Microseconds on a monotonic clock, since a start that means nothing outside the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub u64);

impl Mono {
    /// The time from `earlier` to `self`, or zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Wall {
    /// The time from `earlier` to `self`, or zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The hour that this instant lies in, as the store keeps it (coarse on purpose).
    #[must_use]
    pub const fn hour(self) -> u32 {
        let hours = self.0 / 3_600_000;
        if hours > u32::MAX as u64 { u32::MAX } else { hours as u32 }
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Add<Duration> for Wall {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Wall {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Add<Duration> for Now {
    type Output = Self;
    /// Both clocks moved on together, as virtual time does.
    fn add(self, d: Duration) -> Self {
        Self { mono: self.mono + d, wall: self.wall + d }
    }
}
