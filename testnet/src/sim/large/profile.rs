//! When a client's packets leave, whether or not there is anything to say.
//!
//! The simulator's own statement of the three profiles (DESIGN section 5), behind [`Schedule`]. A schedule draws from a
//! generator of its own, so that it can't depend on what is sent.

use std::fmt;
use std::time::Duration;

use posta_protocol::document::Profile;
use posta_protocol::now::Mono;
use rand_chacha::ChaCha20Rng;
use serde::Serialize;

use super::lines::{exponential, uniform};

/// How clients behave: a profile, or one with a fault as a control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Habit {
    /// No delay, no cover.
    Fast,
    /// Exponential delay at each hop, Poisson sending.
    Mixed,
    /// As mixed, at a constant rate up and down.
    Steady,
    /// A control: `steady`, but a message leaves at once, beside the schedule, and comes down at once.
    LeakySteady,
}

impl Habit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fast, Self::Mixed, Self::Steady, Self::LeakySteady];

    /// As it is written on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Mixed => "mixed",
            Self::Steady => "steady",
            Self::LeakySteady => "leaky-steady",
        }
    }

    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|habit| habit.name() == name)
    }

    /// The profile that it is, or claims to be.
    #[must_use]
    pub const fn profile(self) -> Profile {
        match self {
            Self::Fast => Profile::Fast,
            Self::Mixed => Profile::Mixed,
            Self::Steady | Self::LeakySteady => Profile::Steady,
        }
    }

    /// Whether what is real waits for a scheduled packet.
    #[must_use]
    pub const fn waits(self) -> bool {
        matches!(self, Self::Mixed | Self::Steady)
    }
}

/// Times of packets.
pub trait Schedule: fmt::Debug {
    /// The time after this one; `None` for no schedule at all.
    fn next(&mut self, after: Mono, rng: &mut ChaCha20Rng) -> Option<Mono>;
}

/// None.
#[derive(Clone, Copy, Debug)]
pub struct OnDemand;

/// A Poisson process.
#[derive(Clone, Copy, Debug)]
pub struct Poisson(pub Duration);

/// A constant rate with a phase drawn once.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    interval: Duration,
    begun: bool,
}

impl Schedule for OnDemand {
    fn next(&mut self, _: Mono, _: &mut ChaCha20Rng) -> Option<Mono> {
        None
    }
}

impl Schedule for Poisson {
    fn next(&mut self, after: Mono, rng: &mut ChaCha20Rng) -> Option<Mono> {
        Some(after + exponential(self.0, rng))
    }
}

impl Schedule for Constant {
    fn next(&mut self, after: Mono, rng: &mut ChaCha20Rng) -> Option<Mono> {
        let phase = if self.begun { 1.0 } else { uniform(rng) };
        self.begun = true;
        Some(after + self.interval.mul_f64(phase))
    }
}

/// The schedule of a habit at this mean interval.
#[must_use]
pub fn schedule(habit: Habit, interval: Duration) -> Box<dyn Schedule + Send> {
    match habit {
        Habit::Fast => Box::new(OnDemand),
        Habit::Mixed => Box::new(Poisson(interval)),
        Habit::Steady | Habit::LeakySteady => Box::new(Constant { interval, begun: false }),
    }
}
