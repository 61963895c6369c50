//! When packets leave: at once, or in slots that depend on nothing that anyone says.
//!
//! In `mixed` and `steady` a client has *slots*: times of a Poisson process, or at a constant rate. In each slot one packet
//! leaves, whatever happens. What is to be said waits for a slot; with nothing to say, the slot gets a loop: an `echo` to
//! some edge. Nothing ever leaves beside the slots, and nothing adds one: a real packet only replaces a loop.
//!
//! Two entries are used by turns, so that no slot tells that a contact's queue lies on one of them: each contact's packets
//! have their turns at one of the two, and what is for that entry itself has its turns at the other.
//!
//! A packet is made [`LEAD`] ahead of its slot and leaves at the slot's own time ([`Action::Send`]'s `at`): how long
//! making it takes, or writing to disk what it depends on, doesn't show.
//!
//! What all this draws comes from a generator of its own. Else the number of messages would show in the times.
//!
//! [`Action::Send`]: super::event::Action::Send

use std::time::Duration;

use posta_protocol::ids::RelayId;
use posta_protocol::now::{Mono, Now};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand_core::{CryptoRng, SeedableRng};

use posta_protocol::command::{Command, Envelope};
use posta_protocol::document::Position;
use posta_protocol::params::MAX_HOP_DELAY;
use posta_protocol::secret::Secret;

use super::core::Core;
use super::event::{ContactId, Profile};
use super::request::Purpose;

/// How far ahead of its slot a packet is made; half an interval if that is less.
pub(crate) const LEAD: Duration = Duration::from_millis(200);
/// Slots that are made up for when the driver comes late; those before are left out.
const MAX_AT_ONCE: u64 = 4;

/// One slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// When its packet leaves.
    pub(crate) at: Mono,
    /// Whether it leaves by the second entry.
    pub(crate) second: bool,
}

/// The slots of a session.
pub(crate) struct Line {
    pub(crate) profile: Profile,
    /// Draws slots, and all that concerns entries.
    pub(crate) rng: StdRng,
    interval: Duration,
    next: Mono,
    count: u64,
    open: Option<Slot>,
}

impl Line {
    pub(crate) fn new(profile: Profile, rng: &mut impl CryptoRng) -> Self {
        let seed = Secret::<32>::random(rng);
        let rng = StdRng::from_seed(*seed.expose());
        Self { profile, rng, interval: Duration::ZERO, next: Mono(0), count: 0, open: None }
    }

    /// Slots of this mean interval from now on; none if it is zero.
    pub(crate) fn set(&mut self, now: Mono, interval: Duration) {
        if self.interval.is_zero() && !interval.is_zero() {
            self.interval = interval;
            // The phase says nothing about when the client was started.
            self.next = now + interval.mul_f64(self.rng.random_range(0.5..1.5)) + LEAD;
        }
        self.interval = interval;
    }

    /// Whether packets leave in slots only.
    pub(crate) const fn is_covered(&self) -> bool {
        !self.interval.is_zero()
    }

    fn lead(&self) -> Duration {
        LEAD.min(self.interval / 2)
    }

    /// When the next packet is to be made.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.is_covered().then(|| Mono(self.next.0.saturating_sub(self.lead().as_micros() as u64)))
    }

    /// Opens the next slot whose packet is to be made now.
    pub(crate) fn open(&mut self, now: Mono) -> bool {
        self.open = None;
        if self.next_due().is_none_or(|at| at > now) {
            return false;
        }
        let behind = now.since(self.next);
        while behind > self.interval * MAX_AT_ONCE as u32 && now > self.next + self.interval {
            self.draw();
        }
        let slot = Slot { at: self.next, second: !self.count.is_multiple_of(2) };
        self.draw();
        self.open = Some(slot);
        true
    }

    fn draw(&mut self) {
        self.count += 1;
        let wait = match self.profile {
            Profile::Mixed => exponential(self.interval, &mut self.rng),
            _ => self.interval,
        };
        self.next = self.next + wait.max(Duration::from_micros(1));
    }

    pub(crate) const fn slot(&self) -> Option<Slot> {
        self.open
    }

    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Slots so far.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }
}

/// At which of the two entries a contact's packets have their turns.
pub(crate) fn home(purpose: &Purpose) -> Option<bool> {
    match purpose {
        Purpose::Contact(ContactId(n), _) => Some(n.is_multiple_of(2)),
        Purpose::Ping(_) | Purpose::Loop => None,
    }
}

impl Core {
    /// Fills the open slot with a loop.
    pub(crate) fn send_loop(&mut self, now: Now) {
        let (Some(slot), Some(view)) = (self.line.slot(), self.view.as_ref()) else { return };
        let epoch = view.key_epoch(now.wall);
        let Some(entry) = self.entries.of_slot(slot.second) else { return };
        let mut edges: Vec<RelayId> = view.at(epoch, Position::Edge);
        edges.retain(|edge| *edge != entry);
        let Some(relay) = edges.choose(&mut self.rng).copied() else { return };
        let mut envelope = Envelope { command: Command::Echo, reply: Vec::new() };
        if let Some((_, _, surbs)) = self.transmit(now, relay, &mut envelope, 1, Purpose::Loop, None) {
            let until = slot.at + self.requests.tempo.min_timeout;
            surbs.into_iter().for_each(|surb| self.measure.looped(until, surb));
        }
    }
}

/// A time drawn from the exponential distribution with this mean, at most 36.7 times the mean and [`MAX_HOP_DELAY`].
pub(crate) fn exponential(mean: Duration, rng: &mut (impl CryptoRng + ?Sized)) -> Duration {
    // 53 random bits: uniform in (0, 1], so that the logarithm is finite.
    let uniform = ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    mean.mul_f64(-uniform.ln()).min(MAX_HOP_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(profile: Profile, interval: Duration) -> Line {
        let mut line = Line::new(profile, &mut StdRng::from_seed([1; 32]));
        line.set(Mono(0), interval);
        line
    }

    fn slots(line: &mut Line, n: usize) -> Vec<Slot> {
        (0..n)
            .map(|_| {
                let due = line.next_due().unwrap();
                assert!(!line.open(Mono(due.0 - 1)), "not before its time");
                assert!(line.open(due));
                line.slot().unwrap()
            })
            .collect()
    }

    #[test]
    fn steady_slots_are_constant_and_change_entries() {
        let all = slots(&mut line(Profile::Steady, Duration::from_secs(5)), 100);
        assert!(all.windows(2).all(|w| w[1].at.since(w[0].at) == Duration::from_secs(5) && w[0].second != w[1].second));
    }

    #[test]
    fn mixed_slots_are_a_poisson_process() {
        let all = slots(&mut line(Profile::Mixed, Duration::from_secs(10)), 4001);
        let waits: Vec<f64> = all.windows(2).map(|w| w[1].at.since(w[0].at).as_secs_f64()).collect();
        let n = waits.len() as f64;
        let mean = waits.iter().sum::<f64>() / n;
        let variance = waits.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / n;
        assert!((mean - 10.0).abs() < 0.6 && (variance.sqrt() / mean - 1.0).abs() < 0.08, "{mean} {variance}");
        // The control: constant times are no Poisson process.
        let steady = slots(&mut line(Profile::Steady, Duration::from_secs(10)), 4001);
        assert!(steady.windows(2).all(|w| (w[1].at.since(w[0].at).as_secs_f64() - 10.0).abs() < 1e-6));
    }

    #[test]
    fn a_client_that_slept_makes_up_for_a_few_slots_only() {
        let mut line = line(Profile::Steady, Duration::from_secs(5));
        let late = Mono(0) + Duration::from_secs(36_000);
        let mut made = 0;
        while line.open(late) {
            made += 1;
        }
        assert!(made <= MAX_AT_ONCE + 1, "{made}");
        assert!(line.next_due().unwrap() > late);
    }

    #[test]
    fn without_an_interval_there_are_no_slots() {
        let mut line = line(Profile::Fast, Duration::ZERO);
        assert!(!line.is_covered() && line.next_due().is_none() && !line.open(Mono(u64::MAX)));
    }

    #[test]
    fn delays_are_exponential_with_the_mean_asked_for() {
        let rng = &mut StdRng::from_seed([2; 32]);
        let mean = Duration::from_secs(1);
        let all: Vec<f64> = (0..20_000).map(|_| exponential(mean, rng).as_secs_f64()).collect();
        let sum: f64 = all.iter().sum();
        assert!((sum / 20_000.0 - 1.0).abs() < 0.04, "{sum}");
        let beyond = all.iter().filter(|d| **d > 1.0).count();
        assert!((6_900..7_800).contains(&beyond), "{beyond} of 20,000 beyond the mean, e^-1 of them expected");
    }
}
