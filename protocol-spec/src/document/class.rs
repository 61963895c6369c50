//! How well a relay works, as the authorities have measured it: in classes so coarse that they say nothing of its traffic.

use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::registry::{reliability, speed};

/// How many of the loops through a relay come back. Ordered from worst to best, so that a median means something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reliability {
    /// It loses so much that paths avoid it.
    Flagged,
    /// Too few loops went through it to say.
    #[default]
    Unmeasured,
    /// It loses more than others do.
    Fair,
    /// It loses next to nothing.
    Good,
}

/// How fast loops through a relay come back, against those through all others. Ordered from worst to best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Speed {
    /// Much slower than usual.
    Slow,
    /// Too few loops went through it to say.
    #[default]
    Unmeasured,
    /// As fast as most.
    Usual,
}

/// A relay's class. Default: not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class {
    /// What it loses.
    pub reliability: Reliability,
    /// What it takes.
    pub speed: Speed,
}

impl Class {
    /// The weight of a relay that works well.
    pub const FULL_WEIGHT: u32 = 4;

    /// How much paths shall use the relay, and its word on its capacity shall count, from 0 to [`Class::FULL_WEIGHT`]. One
    /// that nobody has measured yet weighs a little less than one that works well; a flagged one nothing.
    #[must_use]
    pub const fn weight(self) -> u32 {
        let full = match self.reliability {
            Reliability::Flagged => 0,
            Reliability::Unmeasured => 3,
            Reliability::Fair => 2,
            Reliability::Good => Self::FULL_WEIGHT,
        };
        match self.speed {
            Speed::Slow => full / 2,
            Speed::Unmeasured | Speed::Usual => full,
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let reliability = match r.u8("class")? {
            reliability::FLAGGED => Reliability::Flagged,
            reliability::UNMEASURED => Reliability::Unmeasured,
            reliability::FAIR => Reliability::Fair,
            reliability::GOOD => Reliability::Good,
            _ => return Err(Malformed::Value("class of a relay")),
        };
        let speed = match r.u8("class")? {
            speed::SLOW => Speed::Slow,
            speed::UNMEASURED => Speed::Unmeasured,
            speed::USUAL => Speed::Usual,
            _ => return Err(Malformed::Value("class of a relay")),
        };
        Ok(Self { reliability, speed })
    }

    pub(super) fn write(self, w: &mut Writer) {
        w.u8(self.reliability.code());
        w.u8(self.speed.code());
    }
}

impl Reliability {
    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Flagged => reliability::FLAGGED,
            Self::Unmeasured => reliability::UNMEASURED,
            Self::Fair => reliability::FAIR,
            Self::Good => reliability::GOOD,
        }
    }
}

impl Speed {
    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Slow => speed::SLOW,
            Self::Unmeasured => speed::UNMEASURED,
            Self::Usual => speed::USUAL,
        }
    }
}
