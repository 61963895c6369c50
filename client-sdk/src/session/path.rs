//! Choosing mixes, and avoiding those that seem to fail.
//!
//! A client can't see which relay lost a packet. Every attempt that is not answered in time throws suspicion on all
//! mixes of its path, and every answer clears those of its own; so a dead mix is soon the only one suspected. Suspicion
//! fades, and then the mix is tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use posta_protocol::document::Position;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::now::Mono;
use rand::seq::IndexedRandom;
use rand_core::CryptoRng;

use super::view::View;

/// Suspicion halves in this time.
const FADE: Duration = Duration::from_secs(10);
/// Suspicion doesn't grow above this: so a relay is avoided for a minute at most after its last failure.
const MAX_SUSPICION: u32 = 64;
/// From here on a relay is suspected so strongly that one of the same operator as another hop is preferred.
const STRONG: u32 = 4;

/// The mixes of one attempt: there and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) forward: [RelayId; 2],
    pub(crate) back: [RelayId; 2],
}

impl Route {
    fn mixes(&self) -> impl Iterator<Item = RelayId> {
        self.forward.into_iter().chain(self.back)
    }
}

/// What has been seen of relays. Bounded by the relays of the consensus.
#[derive(Debug, Default)]
pub(crate) struct Health {
    marks: BTreeMap<RelayId, (u32, Mono)>,
}

impl Health {
    /// How strongly a relay is suspected now.
    pub(crate) fn suspicion(&self, relay: &RelayId, now: Mono) -> u32 {
        let Some((level, at)) = self.marks.get(relay) else { return 0 };
        let halvings = now.since(*at).as_micros() / FADE.as_micros();
        level.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0)
    }

    /// An attempt over this route was not answered in time.
    pub(crate) fn failed(&mut self, route: &Route, now: Mono) {
        for relay in route.mixes() {
            self.suspect(relay, now);
        }
    }

    /// One relay did not answer.
    pub(crate) fn suspect(&mut self, relay: RelayId, now: Mono) {
        let level = (self.suspicion(&relay, now) + 1).min(MAX_SUSPICION);
        self.marks.insert(relay, (level, now));
    }

    /// An answer came over this route.
    pub(crate) fn succeeded(&mut self, route: &Route) {
        for relay in route.mixes() {
            self.marks.remove(&relay);
        }
    }

    /// One relay answered.
    pub(crate) fn clear(&mut self, relay: &RelayId) {
        self.marks.remove(relay);
    }

    /// One of the least suspected, at random.
    pub(crate) fn least_suspected(&self, from: &[RelayId], now: Mono, rng: &mut impl CryptoRng) -> Option<RelayId> {
        self.least_suspected_by(from, now, rng, |_| 1)
    }

    /// The same, with a probability in proportion to a weight.
    fn least_suspected_by(
        &self,
        from: &[RelayId],
        now: Mono,
        rng: &mut impl CryptoRng,
        weight: impl Fn(&RelayId) -> u32,
    ) -> Option<RelayId> {
        let least = from.iter().map(|r| self.suspicion(r, now)).min()?;
        let best: Vec<RelayId> = from.iter().copied().filter(|r| self.suspicion(r, now) == least).collect();
        // Fails where nobody has a weight: then all are alike.
        best.choose_weighted(rng, weight).ok().or_else(|| best.choose(rng)).copied()
    }

    /// A mix at a place, of another operator than the hops given where there is one that seems to work.
    fn mix(
        &self,
        view: &View,
        epoch: KeyEpoch,
        position: Position,
        others: &[RelayId],
        now: Mono,
        rng: &mut impl CryptoRng,
    ) -> Option<RelayId> {
        let all = view.at(epoch, position).into_iter().filter(|r| !others.contains(r)).collect();
        let all = view.weighty(all);
        let unrelated: Vec<RelayId> = all
            .iter()
            .copied()
            .filter(|r| !others.iter().any(|o| view.related(r, o)) && self.suspicion(r, now) < STRONG)
            .collect();
        let from = if unrelated.is_empty() { &all } else { &unrelated };
        self.least_suspected_by(from, now, rng, |relay| view.weight(relay))
    }

    /// The mixes between an entry and a queue relay, and of the way back.
    pub(crate) fn route(
        &self,
        view: &View,
        epoch: KeyEpoch,
        entry: RelayId,
        queue: RelayId,
        now: Mono,
        rng: &mut impl CryptoRng,
    ) -> Option<Route> {
        let mut two = || {
            let first = self.mix(view, epoch, Position::Mix1, &[entry, queue], now, rng)?;
            let second = self.mix(view, epoch, Position::Mix2, &[entry, queue, first], now, rng)?;
            Some([first, second])
        };
        Some(Route { forward: two()?, back: two()? })
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn relay(n: u8) -> RelayId {
        RelayId([n; 32])
    }

    #[test]
    fn a_suspected_relay_is_left_and_tried_again_later() {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let mut health = Health::default();
        let all = [relay(1), relay(2), relay(3)];
        let start = Mono(1_000_000);
        let bad = Route { forward: [relay(1), relay(9)], back: [relay(2), relay(8)] };
        health.failed(&bad, start);
        health.succeeded(&Route { forward: [relay(2), relay(9)], back: [relay(3), relay(8)] });
        for _ in 0..50 {
            assert_ne!(health.least_suspected(&all, start, rng), Some(relay(1)));
        }
        let later = start + FADE;
        assert!((0..50).any(|_| health.least_suspected(&all, later, rng) == Some(relay(1))));
    }

    #[test]
    fn a_relay_is_chosen_in_proportion_to_its_weight_and_never_without_one() {
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        let (health, all) = (Health::default(), [relay(1), relay(2), relay(3)]);
        let mut chosen = [0; 3];
        for _ in 0..6_000 {
            let one = health.least_suspected_by(&all, Mono(0), rng, |r| [4, 2, 0][usize::from(r.0[0]) - 1]).unwrap();
            chosen[usize::from(one.0[0]) - 1] += 1;
        }
        assert!((3_700..4_300).contains(&chosen[0]) && chosen[2] == 0, "{chosen:?}: 4 to 2 to 0");
        let any = (0..50).filter_map(|_| health.least_suspected_by(&all, Mono(0), rng, |_| 0)).count();
        assert_eq!(any, 50, "where nobody has a weight, one of them is taken all the same");
    }

    #[test]
    fn suspicion_is_bounded_and_fades_to_nothing() {
        let mut health = Health::default();
        for _ in 0..1000 {
            health.suspect(relay(1), Mono(0));
        }
        assert_eq!(health.suspicion(&relay(1), Mono(0)), MAX_SUSPICION);
        assert_eq!(health.suspicion(&relay(1), Mono(0) + FADE * 7), 0);
        assert_eq!(health.suspicion(&relay(1), Mono(u64::MAX)), 0);
    }
}
