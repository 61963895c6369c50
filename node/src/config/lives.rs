//! How long queues and messages live: as the operator says, within what the network allows.

use std::fmt;
use std::time::Duration;

use posta_protocol::document::Params;
use posta_store::Limits;

use super::StoreConfig;

/// A life that the network doesn't allow, in a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    key: &'static str,
    days: u64,
    bounds: (Duration, Duration),
    used: Duration,
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, days, bounds: (min, max), used } = self;
        let (min, max, used) = (in_days(*min), in_days(*max), in_days(*used));
        write!(f, "`store.{key}` is {days}, and the network allows {min} to {max} days: {used} is used")
    }
}

/// Days, with a part of one where there is one.
fn in_days(d: Duration) -> f64 {
    (d.as_secs_f64() / 864.0).round() / 100.0
}

impl StoreConfig {
    /// The store's limits, each life within the network's bounds, and what had to be corrected for that.
    #[must_use]
    pub fn limits_within(&self, params: &Params) -> (Limits, Vec<Correction>) {
        let mut limits = self.limits();
        let mut corrections = Vec::new();
        for (key, days, bounds, life) in [
            ("message_ttl_days", self.message_ttl_days, params.message_ttl(), &mut limits.message_ttl),
            ("bulk_ttl_days", self.bulk_ttl_days, params.message_ttl(), &mut limits.bulk_ttl),
            ("queue_ttl_days", self.queue_ttl_days, params.queue_ttl(), &mut limits.queue_ttl),
        ] {
            let used = (*life).clamp(bounds.0, bounds.1);
            if used != *life {
                corrections.push(Correction { key, days, bounds, used });
                *life = used;
            }
        }
        (limits, corrections)
    }
}

#[cfg(test)]
mod tests {
    use posta_protocol::registry::parameter as code;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn what_the_network_allows_is_left_as_it_is() {
        let config = StoreConfig::default();
        assert_eq!(config.limits_within(&Params::default()), (config.limits(), Vec::new()));
    }

    #[test]
    fn a_life_out_of_bounds_becomes_the_nearer_bound_and_is_told() {
        let config =
            StoreConfig { message_ttl_days: 40, bulk_ttl_days: 1, queue_ttl_days: 20, ..StoreConfig::default() };
        let two_days = 2 * 24 * 3_600_000;
        let mut params = Params::default();
        assert!(params.set(code::MESSAGE_TTL_MIN_MS, two_days));
        let (limits, corrections) = config.limits_within(&params);
        assert_eq!((limits.message_ttl, limits.bulk_ttl, limits.queue_ttl), (21 * DAY, 2 * DAY, 30 * DAY));
        let said: Vec<_> = corrections.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "`store.message_ttl_days` is 40, and the network allows 2 to 21 days: 21 is used",
                "`store.bulk_ttl_days` is 1, and the network allows 2 to 21 days: 2 is used",
                "`store.queue_ttl_days` is 20, and the network allows 30 to 365 days: 30 is used",
            ]
        );
    }
}
