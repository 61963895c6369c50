//! Parameters of the network: numbered values in the consensus, with a default for each that is absent.

use core::time::Duration;

use super::{Protocols, Standing};
use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::params::{
    DEFAULT_EPOCH, DEFAULT_KEY_EPOCH, DEFAULT_LAYER_MIN, DEFAULT_MESSAGE_TTL, DEFAULT_MESSAGE_TTL_MIN,
    DEFAULT_MIXED_HOP_DELAY, DEFAULT_MIXED_SEND_INTERVAL, DEFAULT_QUEUE_TTL_MAX, DEFAULT_QUEUE_TTL_MIN,
    DEFAULT_STEADY_HOP_DELAY, DEFAULT_STEADY_SEND_INTERVAL, DOWNLINK_PER_UPLINK, MAX_HOP_DELAY, MAX_PARAMETERS,
    MAX_RELAYS, MIN_DOWNLINK_INTERVAL, MIN_EPOCH,
};
use crate::registry::{parameter as code, profile};

const MIN_EPOCH_MS: u64 = MIN_EPOCH.as_millis() as u64;

/// What a sender chooses between latency and cover; each is an anonymity set of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// No delay, no cover: can be correlated.
    #[default]
    Fast,
    /// Exponential delay per hop, Poisson sending.
    Mixed,
    /// As mixed, at a constant rate up and down.
    Steady,
}

impl core::fmt::Display for Profile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Mixed => "mixed",
            Self::Steady => "steady",
        })
    }
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Mixed, Self::Steady];

    /// Its number in the registry.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Fast => profile::FAST,
            Self::Mixed => profile::MIXED,
            Self::Steady => profile::STEADY,
        }
    }

    /// The profile of a number, if this version knows it.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            profile::FAST => Some(Self::Fast),
            profile::MIXED => Some(Self::Mixed),
            profile::STEADY => Some(Self::Steady),
            _ => None,
        }
    }
}

/// The parameters of a consensus or a vote, sorted by number. Unknown numbers survive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(u16, u64)>);

impl Params {
    /// A parameter's value, if it is set.
    #[must_use]
    pub fn get(&self, code: u16) -> Option<u64> {
        let i = self.0.binary_search_by_key(&code, |(code, _)| *code).ok()?;
        self.0.get(i).map(|(_, value)| *value)
    }

    /// Sets a parameter. Above [`MAX_PARAMETERS`] a new one is not taken, and the answer is `false`.
    pub fn set(&mut self, code: u16, value: u64) -> bool {
        match self.0.binary_search_by_key(&code, |(code, _)| *code) {
            Ok(i) => {
                if let Some(field) = self.0.get_mut(i) {
                    field.1 = value;
                }
            }
            Err(_) if self.0.len() >= MAX_PARAMETERS => return false,
            Err(i) => self.0.insert(i, (code, value)),
        }
        true
    }

    /// All that are set, sorted by number.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Length of an epoch in milliseconds, at least 100.
    #[must_use]
    pub fn epoch_ms(&self) -> u64 {
        self.get(code::EPOCH_MS).unwrap_or(DEFAULT_EPOCH.as_millis() as u64).max(MIN_EPOCH_MS)
    }

    /// Length of a key epoch in milliseconds, at least 100.
    #[must_use]
    pub fn key_epoch_ms(&self) -> u64 {
        self.get(code::KEY_EPOCH_MS).unwrap_or(DEFAULT_KEY_EPOCH.as_millis() as u64).max(MIN_EPOCH_MS)
    }

    /// Whether private and loopback addresses are allowed.
    #[must_use]
    pub fn reserved_networks(&self) -> bool {
        self.get(code::RESERVED_NETWORKS) == Some(1)
    }

    /// Mixes that each layer has at least; 1 or more.
    #[must_use]
    pub fn layer_min(&self) -> usize {
        let least = self.get(code::LAYER_MIN).unwrap_or(DEFAULT_LAYER_MIN);
        usize::try_from(least).unwrap_or(usize::MAX).clamp(1, MAX_RELAYS)
    }

    /// How somebody who speaks these versions stands to the versions that the network requires and recommends.
    #[must_use]
    pub fn standing(&self, speaks: Protocols) -> Standing {
        let wanted = |code| self.get(code).map_or(0, |version| u16::try_from(version).unwrap_or(u16::MAX));
        let (required, recommended) = (wanted(code::PROTOCOL_REQUIRED), wanted(code::PROTOCOL_RECOMMENDED));
        if speaks.newest < required {
            Standing::TooOld(required)
        } else if speaks.newest < recommended {
            Standing::Old(recommended)
        } else {
            Standing::Current
        }
    }

    /// Mean delay at each hop; zero means none. Defaults: fast 0, mixed 1 s, steady 1 s.
    #[must_use]
    pub fn mean_hop_delay(&self, profile: Profile) -> Duration {
        let (code, default) = match profile {
            Profile::Fast => (code::FAST_HOP_DELAY_US, Duration::ZERO),
            Profile::Mixed => (code::MIXED_HOP_DELAY_US, DEFAULT_MIXED_HOP_DELAY),
            Profile::Steady => (code::STEADY_HOP_DELAY_US, DEFAULT_STEADY_HOP_DELAY),
        };
        self.get(code).map_or(default, Duration::from_micros).min(MAX_HOP_DELAY)
    }

    /// Mean time between a client's scheduled packets; zero means no schedule. Defaults: fast 0, mixed 10 s, steady 5 s.
    #[must_use]
    pub fn send_interval(&self, profile: Profile) -> Duration {
        let (code, default) = match profile {
            Profile::Fast => (code::FAST_SEND_INTERVAL_US, Duration::ZERO),
            Profile::Mixed => (code::MIXED_SEND_INTERVAL_US, DEFAULT_MIXED_SEND_INTERVAL),
            Profile::Steady => (code::STEADY_SEND_INTERVAL_US, DEFAULT_STEADY_SEND_INTERVAL),
        };
        self.get(code).map_or(default, Duration::from_micros)
    }

    /// Mean time between two packets that an entry hands to a client: that between the client's own, divided by
    /// [`DOWNLINK_PER_UPLINK`]. Zero means that everything is handed out as it comes.
    #[must_use]
    pub fn downlink_interval(&self, profile: Profile) -> Duration {
        let interval = self.send_interval(profile) / DOWNLINK_PER_UPLINK;
        if interval.is_zero() { interval } else { interval.max(MIN_DOWNLINK_INTERVAL) }
    }

    /// The span within which a relay sets its messages' life. Defaults: 1 day to 21 days.
    #[must_use]
    pub fn message_ttl(&self) -> (Duration, Duration) {
        let min = self.duration_ms(code::MESSAGE_TTL_MIN_MS, DEFAULT_MESSAGE_TTL_MIN);
        (min, self.duration_ms(code::MESSAGE_TTL_MAX_MS, DEFAULT_MESSAGE_TTL).max(min))
    }

    /// The span within which a relay sets the life of unused queues. Defaults: 30 days to a year.
    #[must_use]
    pub fn queue_ttl(&self) -> (Duration, Duration) {
        let min = self.duration_ms(code::QUEUE_TTL_MIN_MS, DEFAULT_QUEUE_TTL_MIN);
        (min, self.duration_ms(code::QUEUE_TTL_MAX_MS, DEFAULT_QUEUE_TTL_MAX).max(min))
    }

    fn duration_ms(&self, code: u16, default: Duration) -> Duration {
        self.get(code).map_or(default, Duration::from_millis)
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let n = r.count(MAX_PARAMETERS, "parameters")?;
        let mut list: Vec<(u16, u64)> = Vec::with_capacity(n);
        for _ in 0..n {
            let code = r.u16("parameter")?;
            if list.last().is_some_and(|(last, _)| *last >= code) {
                return Err(Malformed::Value("parameters"));
            }
            list.push((code, r.u64("parameter")?));
        }
        Ok(Self(list))
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.count(self.0.len());
        for (code, value) in &self.0 {
            w.u16(*code);
            w.u64(*value);
        }
    }
}
