//! How long a session waits for things: what a profile's slots and delays make of the times of `fast`.

use std::time::Duration;

use posta_protocol::document::Params;
use posta_protocol::params::{MAX_MEAN_HOP_DELAY, MAX_PACE};

use super::event::Profile;

/// The sum of the five exponential delays that a command and its answer have on their way (at the entry and two mixes there,
/// at two mixes back) is beyond so many means with a probability of 2e-6.
const TAIL: u32 = 20;

/// Times of a profile, under the consensus' parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tempo {
    /// Whether packets leave in slots only.
    pub(crate) covered: bool,
    /// Mean delay at a hop.
    pub(crate) hop: Duration,
    /// Mean time between two slots.
    pub(crate) slot: Duration,
    /// Mean time between two polls of the subscribed queue while something happens.
    pub(crate) heartbeat: Duration,
    /// And after a long time of nothing.
    pub(crate) max_heartbeat: Duration,
    /// Mean time between two polls of the other queues.
    pub(crate) slow_poll: Duration,
    /// A missing message is asked for after this time.
    pub(crate) gap_wait: Duration,
    /// A pushed copy of a message that a poll has found should come within this time, else the reply blocks are lost.
    pub(crate) push_wait: Duration,
    /// Reply blocks of a new key epoch are handed over at a random moment within this time of its start.
    pub(crate) renew_span: Duration,
    /// At most one receipt within this time.
    pub(crate) receipt_span: Duration,
    /// Shortest time until an attempt counts as lost.
    pub(crate) min_timeout: Duration,
    /// Longest time between two attempts, and after a relay said that it can't now.
    pub(crate) max_timeout: Duration,
    /// How long a client tries to reach either relay of a link.
    pub(crate) join_patience: Duration,
}

impl Tempo {
    /// Without delays and slots.
    pub(crate) const FAST: Self = Self {
        covered: false,
        hop: Duration::ZERO,
        slot: Duration::ZERO,
        heartbeat: Duration::from_secs(2),
        max_heartbeat: Duration::from_secs(30),
        slow_poll: Duration::from_secs(5),
        gap_wait: Duration::from_millis(300),
        push_wait: Duration::from_millis(300),
        renew_span: Duration::from_secs(2),
        receipt_span: Duration::from_millis(200),
        min_timeout: Duration::from_secs(1),
        max_timeout: Duration::from_secs(4),
        join_patience: super::JOIN_PATIENCE,
    };

    pub(crate) fn new(profile: Profile, params: &Params) -> Self {
        let hop = params.mean_hop_delay(profile).min(MAX_MEAN_HOP_DELAY);
        let slot = params.send_interval(profile);
        let fast = Self::FAST;
        // What is there may first wait for a slot, and its answer for one of the entry's.
        let way = hop * TAIL + slot * 4;
        let min_timeout = fast.min_timeout + way;
        Self {
            covered: !slot.is_zero(),
            hop,
            slot,
            heartbeat: fast.heartbeat.max(slot * 8),
            max_heartbeat: fast.max_heartbeat.max(slot * 64),
            slow_poll: fast.slow_poll.max(slot * 16),
            gap_wait: fast.gap_wait + way,
            push_wait: fast.push_wait + way,
            renew_span: fast.renew_span.max(slot * 8),
            receipt_span: fast.receipt_span.max(slot * 4),
            min_timeout,
            max_timeout: fast.max_timeout.max(min_timeout * 4),
            join_patience: fast.join_patience.max((min_timeout + slot * 8) * 3),
        }
    }

    /// The mean time between two replies that a `subscribe` asks for, in milliseconds.
    pub(crate) fn pace(&self) -> u32 {
        u32::try_from(self.slot.min(MAX_PACE).as_millis()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_is_what_it_was_and_the_others_leave_their_packets_time() {
        let params = Params::default();
        assert_eq!(Tempo::new(Profile::Fast, &params), Tempo::FAST);
        for profile in [Profile::Mixed, Profile::Steady] {
            let tempo = Tempo::new(profile, &params);
            assert!(tempo.covered && tempo.min_timeout >= tempo.hop * 20 + tempo.slot, "{tempo:?}");
            assert!(tempo.max_timeout > tempo.min_timeout && tempo.max_heartbeat > tempo.heartbeat);
            assert_eq!(Duration::from_millis(tempo.pace().into()), params.send_interval(profile));
        }
    }
}
