//! Packets that wait for their time.
//!
//! ```text
//! push -> slot of the due millisecond -> (its time has come) -> ready -> pop in random order
//! ```
//! A due time counts in whole milliseconds ([`DELAY_GRANULARITY`]), rounded up: no packet leaves before its time. What is
//! ready at once leaves in an order drawn when it leaves, whichever millisecond it was due in, so that a burst after a late
//! wake-up says nothing about the order inside.
//!
//! When there is no room, the packet that is due last goes: the new one, or one that is held. So packets that ask for
//! long delays can't keep out those that ask for what the profiles draw, and a mix can't be emptied of its slowest
//! packets without as many that stay as long.

use std::collections::BTreeMap;
use std::time::Duration;

use posta_protocol::ids::RelayId;
use posta_protocol::now::Mono;
use posta_protocol::packet::Packet;
use posta_protocol::params::DELAY_GRANULARITY;
use rand_core::CryptoRng;

/// Packets that are delayed at once, whatever their length; beyond it the one due last is dropped.
pub const MAX_DELAYED: usize = 1 << 20;
/// Bytes of the packets that are delayed at once, unless the operator says otherwise: about 32,000 packets of the default
/// geometry. Beyond it the packet due last is dropped.
pub const DEFAULT_DELAYED_BYTES: u64 = 700 << 20;

/// How much may be delayed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayBounds {
    /// See [`MAX_DELAYED`].
    pub packets: usize,
    /// See [`DEFAULT_DELAYED_BYTES`].
    pub bytes: u64,
}

impl Default for DelayBounds {
    fn default() -> Self {
        Self { packets: MAX_DELAYED, bytes: DEFAULT_DELAYED_BYTES }
    }
}

const TICK_US: u64 = DELAY_GRANULARITY.as_micros() as u64;

/// A due time in milliseconds, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due(u64);

impl Due {
    const fn at(time: Mono) -> Self {
        Self(time.0.div_ceil(TICK_US))
    }

    const fn time(self) -> Mono {
        Mono(self.0.saturating_mul(TICK_US))
    }
}

#[derive(Debug)]
struct Held {
    to: RelayId,
    packet: Packet,
}

impl Held {
    fn bytes(&self) -> u64 {
        self.packet.as_bytes().len() as u64
    }
}

/// Packets held by their due time.
#[derive(Debug)]
pub(crate) struct DelayQueue {
    bounds: DelayBounds,
    /// No slot is empty, so that there are no more slots than packets, nor than milliseconds in the longest delay.
    slots: BTreeMap<Due, Vec<Held>>,
    ready: Vec<Held>,
    held: usize,
    bytes: u64,
}

impl DelayQueue {
    pub(crate) const fn new(bounds: DelayBounds) -> Self {
        Self { bounds, slots: BTreeMap::new(), ready: Vec::new(), held: 0, bytes: 0 }
    }

    /// Holds a packet until `due`. Returns how many packets, this one or those due later, had no room.
    pub(crate) fn push(&mut self, due: Mono, to: RelayId, packet: Packet) -> u64 {
        let held = Held { to, packet };
        self.held += 1;
        self.bytes += held.bytes();
        self.slots.entry(Due::at(due)).or_default().push(held);
        self.fit()
    }

    /// Takes another bound over. Returns how many packets, those due last, had no room any more.
    pub(crate) fn bound(&mut self, bounds: DelayBounds) -> u64 {
        self.bounds = bounds;
        self.fit()
    }

    fn fit(&mut self) -> u64 {
        let mut dropped = 0;
        while (self.held > self.bounds.packets || self.bytes > self.bounds.bytes) && self.drop_last() {
            dropped += 1;
        }
        dropped
    }

    /// Drops a packet of those due last. What is ready stays.
    fn drop_last(&mut self) -> bool {
        let Some(mut slot) = self.slots.last_entry() else { return false };
        if let Some(held) = slot.get_mut().pop() {
            self.held -= 1;
            self.bytes -= held.bytes();
        }
        if slot.get().is_empty() {
            slot.remove();
        }
        true
    }

    /// A packet that is due, any of them.
    pub(crate) fn pop_due(&mut self, now: Mono, rng: &mut (dyn CryptoRng + Send)) -> Option<(RelayId, Packet)> {
        while self.slots.first_key_value().is_some_and(|(due, _)| due.time() <= now) {
            if let Some((_, mut slot)) = self.slots.pop_first() {
                self.ready.append(&mut slot);
            }
        }
        if self.ready.is_empty() {
            return None;
        }
        let held = self.ready.swap_remove(below(self.ready.len(), rng));
        if self.ready.is_empty() {
            // A burst is over: its room is given back.
            self.ready = Vec::new();
        }
        self.held -= 1;
        self.bytes -= held.bytes();
        Some((held.to, held.packet))
    }

    /// Drops what is due after `last`, and says how many packets that were.
    pub(crate) fn drop_after(&mut self, last: Mono) -> u64 {
        let before = self.held;
        while self.slots.last_key_value().is_some_and(|(due, _)| due.time() > last) {
            self.drop_last();
        }
        (before - self.held) as u64
    }

    pub(crate) fn next_due(&self) -> Option<Mono> {
        if self.ready.is_empty() { self.slots.first_key_value().map(|(due, _)| due.time()) } else { Some(Mono(0)) }
    }

    pub(crate) const fn len(&self) -> usize {
        self.held
    }
}

/// A number below `n`, each as likely as the others but for a part in 2^64 / n. Zero if there is none.
pub(crate) fn below(n: usize, rng: &mut (dyn CryptoRng + Send)) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// A time drawn from the exponential distribution with this mean, at most 36.7 times the mean.
pub(crate) fn exponential(mean: Duration, rng: &mut (dyn CryptoRng + Send)) -> Duration {
    // 53 random bits: uniform in (0, 1], so that the logarithm is finite.
    let uniform = ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    mean.mul_f64(-uniform.ln())
}

#[cfg(test)]
mod tests;
