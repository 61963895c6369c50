//! Which epoch is worked on, and when something is due.

use std::collections::BTreeSet;
use std::time::Duration;

use posta_protocol::ids::{AuthorityId, Epoch};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::params::{MAX_PHASE, PHASE_DIVISOR, VOTING_STARTS_DIVISOR};
use rand_core::CryptoRng;

use super::Authority;
use super::round::{Key, Phase};

/// At the start everyone waits: phases are shorter then, and this is also how long a vote of another authority waits for
/// our own condition to hold.
const BOOTSTRAP_PHASE: Duration = Duration::from_secs(2);
/// Relays below which there is no path: two edges and two mixes.
const SMALLEST_NETWORK: usize = 4;
/// With fewer relays than were awaited, the start waits until none has come for so long: one that died meanwhile, or was
/// never there, must not hold up all others for good.
const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(3);

impl<R: CryptoRng> Authority<R> {
    /// How long a phase waits for the last ones.
    pub(super) fn phase_length(&self, now: Now) -> Duration {
        let length = Duration::from_millis(self.epoch_ms() / PHASE_DIVISOR).min(MAX_PHASE);
        if self.holds_valid(now) { length } else { length.min(BOOTSTRAP_PHASE) }
    }

    /// How long until something that failed is tried again.
    pub(super) fn retry_delay(&self, now: Now) -> Duration {
        self.phase_length(now) / 8
    }

    /// The epoch for which a consensus is wanted now, if any.
    pub(super) fn target(&self, now: Now) -> Option<Epoch> {
        let current = self.epoch_at(now.wall);
        let held = self.held_epoch();
        if !self.holds_valid(now) {
            let target = current.max(held.next());
            // Those whose signature for this epoch is spent go on to the next; who stayed behind would be missing there.
            let over = self.spent == Some(target) || self.others_vote_for(target.next());
            return Some(if over { target.next() } else { target });
        }
        if held > current {
            return None;
        }
        if now.wall >= self.voting_starts(current) || self.others_vote_for(current.next()) {
            return Some(current.next());
        }
        (held < current && self.spent != Some(current)).then_some(current)
    }

    fn voting_starts(&self, current: Epoch) -> Wall {
        let length = self.epoch_ms();
        Wall(current.0.saturating_mul(length).saturating_add(length - length / VOTING_STARTS_DIVISOR))
    }

    /// Whether so many others vote for this epoch that one of them is honest: then it is time, whatever our clock says.
    fn others_vote_for(&self, epoch: Epoch) -> bool {
        let voters: BTreeSet<&AuthorityId> = self
            .rounds
            .range((epoch, 0)..=(epoch, u32::MAX))
            .flat_map(|(_, round)| round.votes.keys())
            .filter(|id| **id != self.id)
            .collect();
        voters.len() >= self.settings.authorities.one_honest()
    }

    /// The round to be in for an epoch: the one that we are in, unless it came to nothing or others went on to a later
    /// attempt. `None` if it is too early to begin.
    pub(super) fn choose(&self, now: Now, target: Epoch) -> Option<Key> {
        let unsigned = self.signed.is_none_or(|signed| signed.epoch < target);
        let ours = self.voted.filter(|(epoch, _)| *epoch == target).map(|(_, attempt)| attempt);
        let joined = self
            .rounds
            .range((target, 0)..=(target, u32::MAX))
            .filter(|((_, attempt), round)| {
                let others = round.votes.keys().filter(|id| **id != self.id).count();
                ours.is_none_or(|ours| *attempt > ours)
                    && round.phase == Phase::Idle
                    && others >= self.settings.authorities.one_honest()
            })
            .map(|(key, _)| *key)
            .next_back();
        let active = self.active.filter(|(epoch, _)| *epoch == target);
        if let Some(key) = joined
            && unsigned
            && (ours.is_some() || self.ready(now, target))
        {
            return Some(key);
        }
        if let Some(key) = active
            && self.rounds.get(&key).is_some_and(|r| r.phase != Phase::Failed)
        {
            return Some(key);
        }
        let key = (target, ours.map_or(0, |ours| ours.saturating_add(1)));
        (unsigned && now.mono >= self.not_before && self.ready(now, target)).then_some(key)
    }

    /// Whether a round may begin. With a valid consensus it is a matter of time only; without, enough relays must have
    /// posted, or others must have begun some time ago.
    fn ready(&self, now: Now, target: Epoch) -> bool {
        self.holds_valid(now)
            || self.intake.len() >= self.settings.bootstrap_relays
            || self.patience_ends().is_some_and(|at| now.mono >= at)
            || self.first_heard(target).is_some_and(|at| now.mono >= at + BOOTSTRAP_PHASE)
    }

    /// When the relays that have posted will do, although more were awaited.
    fn patience_ends(&self) -> Option<Mono> {
        let (relays, since) = self.grown;
        (relays >= SMALLEST_NETWORK).then_some(since + BOOTSTRAP_PATIENCE)
    }

    fn first_heard(&self, target: Epoch) -> Option<Mono> {
        self.rounds.range((target, 0)..=(target, u32::MAX)).map(|(_, round)| round.opened).min()
    }

    /// Works out when to look again.
    pub(super) fn set_wake(&mut self, now: Now) {
        let length = self.phase_length(now);
        let at_wall = |wall: Wall| now.mono + wall.since(now.wall);
        let current = self.epoch_at(now.wall);
        let mut times =
            vec![at_wall(self.voting_starts(current)), at_wall(Wall(current.next().0.saturating_mul(self.epoch_ms())))];
        if let Some(newest) = &self.newest {
            times.push(at_wall(newest.consensus.valid_until()));
        }
        if let Some(target) = self.target(now) {
            times.push(self.next_ask);
            times.push(self.not_before);
            times.extend(self.patience_ends());
            times.extend(self.first_heard(target).map(|at| at + BOOTSTRAP_PHASE));
        }
        if let Some(round) = self.active.and_then(|key| self.rounds.get(&key)) {
            times.extend(round.deadline(length));
            times.extend(round.wanted.values().map(|(_, at)| *at));
            if round.phase == Phase::Gather {
                times.extend(self.asked.values().map(|(_, at)| *at));
            }
        }
        times.extend(self.resends.iter().map(|r| r.at));
        // What is due already was looked at just now.
        self.wake = times.into_iter().filter(|at| *at > now.mono).min();
    }
}
