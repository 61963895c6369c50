//! The replay filter: which packets were seen, as 64-bit keyed fingerprints of their tags, by key epoch.
//!
//! A fingerprint that is there is refused, so a replay is never let through; a packet is refused wrongly with
//! probability 2^-38 at full size. A shard belongs to one worker; a packet's *route*, a keyed hash of its ciphertext,
//! picks the worker, and is kept in the log, so that a fingerprint finds its shard whatever the number of workers.

use std::collections::BTreeMap;
use std::fmt;

use posta_protocol::crypto;
use posta_protocol::ids::KeyEpoch;
use posta_protocol::onion::ReplayTag;
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;

/// Packets that a relay tells apart in one key epoch, all its workers together; beyond it packets are refused. The
/// tables then take 0.67 GB.
pub const MAX_FINGERPRINTS: usize = 1 << 26;
/// Slots of a table at first; it doubles up to its share of the capacity.
const FIRST_SLOTS: usize = 1024;

/// The secret under which fingerprints are made; it stays with the relay, for the log outlives the process.
pub struct ReplaySecret(Secret<32>);

/// Picks a packet's worker: the same one for every copy of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route(pub u64);

/// A tag that was seen for the first time, as the log keeps it: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The key epoch of the key that opened the packet.
    pub key_epoch: KeyEpoch,
    /// Under the relay's secret.
    pub fingerprint: u64,
    /// The way to its shard.
    pub route: Route,
}

impl ReplaySecret {
    /// Takes over the secret.
    #[must_use]
    pub const fn new(secret: Secret<32>) -> Self {
        Self(secret)
    }

    /// A second copy, erased like the first.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.duplicate())
    }

    /// A packet's route, before it is peeled.
    #[must_use]
    pub fn route(&self, packet: &Packet) -> Route {
        Route(self.short(packet.ciphertext()))
    }

    /// Tags are shorter than ciphertexts, so the two uses of the key never meet.
    fn fingerprint(&self, tag: &ReplayTag) -> u64 {
        self.short(&tag.0)
    }

    fn short(&self, bytes: &[u8]) -> u64 {
        let hash = crypto::keyed_hash(self.0.expose(), bytes);
        hash.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }
}

impl fmt::Debug for ReplaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplaySecret(..)")
    }
}

impl Route {
    /// The worker, of `workers`, that packets of this route go to.
    #[must_use]
    pub const fn worker(self, workers: usize) -> usize {
        if workers == 0 { 0 } else { (self.0 % workers as u64) as usize }
    }
}

/// What a shard says to a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before; it is from now on.
    New(Seen),
    /// A replay.
    Replay,
    /// There is no room to remember it.
    Full,
}

/// One worker's share of the filter.
#[derive(Debug)]
pub struct ReplayShard {
    secret: ReplaySecret,
    capacity: usize,
    epochs: BTreeMap<KeyEpoch, Table>,
}

impl ReplayShard {
    /// An empty shard that remembers `capacity` packets in each key epoch.
    #[must_use]
    pub const fn new(secret: ReplaySecret, capacity: usize) -> Self {
        Self { secret, capacity, epochs: BTreeMap::new() }
    }

    /// A copy of the secret, for whoever picks the worker.
    #[must_use]
    pub fn secret(&self) -> ReplaySecret {
        self.secret.duplicate()
    }

    /// A packet's route.
    #[must_use]
    pub fn route(&self, packet: &Packet) -> Route {
        self.secret.route(packet)
    }

    /// Checks a tag and remembers it.
    pub fn check(&mut self, key_epoch: KeyEpoch, tag: &ReplayTag, route: Route) -> Verdict {
        let seen = Seen { key_epoch, fingerprint: self.secret.fingerprint(tag), route };
        match self.insert(seen) {
            Inserted::New => Verdict::New(seen),
            Inserted::Known => Verdict::Replay,
            Inserted::Full => Verdict::Full,
        }
    }

    /// Takes over what the log holds. Returns `false` if there is no room for it: then the key epoch can't be used.
    #[must_use]
    pub fn restore(&mut self, seen: Seen) -> bool {
        self.insert(seen) != Inserted::Full
    }

    /// Forgets the key epochs before `oldest`: their keys are gone. Later ones stay, for a clock may be set back.
    pub fn forget_before(&mut self, oldest: KeyEpoch) {
        self.epochs.retain(|epoch, _| *epoch >= oldest);
    }

    /// Fingerprints held for a key epoch.
    #[must_use]
    pub fn len(&self, epoch: KeyEpoch) -> usize {
        self.epochs.get(&epoch).map_or(0, |table| table.used)
    }

    fn insert(&mut self, seen: Seen) -> Inserted {
        self.epochs.entry(seen.key_epoch).or_default().insert(seen.fingerprint, self.capacity)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inserted {
    New,
    Known,
    Full,
}

/// Open addressing with linear probing; 0 marks a free slot. The front of a fingerprint picks the slot, so any number
/// of slots will do.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<u64>,
    used: usize,
}

impl Table {
    fn insert(&mut self, fingerprint: u64, capacity: usize) -> Inserted {
        // Two fingerprints become one: at most one packet in 2^63 more is refused.
        let fingerprint = fingerprint.max(1);
        if self.find(fingerprint).is_some_and(|at| self.slots.get(at) == Some(&fingerprint)) {
            return Inserted::Known;
        }
        if self.used >= capacity {
            return Inserted::Full;
        }
        // A fifth stays free: probes are short.
        if (self.used + 1) * 5 > self.slots.len() * 4 {
            self.grow(capacity);
        }
        self.place(fingerprint);
        self.used += 1;
        Inserted::New
    }

    /// Where the fingerprint is, or the free slot where it belongs.
    fn find(&self, fingerprint: u64) -> Option<usize> {
        let n = self.slots.len();
        let start = ((u128::from(fingerprint) * n as u128) >> 64) as usize;
        let is_it = |at: &usize| self.slots.get(*at).is_some_and(|slot| *slot == 0 || *slot == fingerprint);
        (start..n).find(is_it).or_else(|| (0..start).find(is_it))
    }

    fn place(&mut self, fingerprint: u64) {
        if let Some(slot) = self.find(fingerprint).and_then(|at| self.slots.get_mut(at)) {
            *slot = fingerprint;
        }
    }

    fn grow(&mut self, capacity: usize) {
        let last = capacity.saturating_mul(5) / 4 + 2;
        let slots = (self.slots.len() * 2).max(FIRST_SLOTS).min(last);
        let old = std::mem::replace(&mut self.slots, vec![0; slots]);
        for fingerprint in old.into_iter().filter(|f| *f != 0) {
            self.place(fingerprint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(capacity: usize) -> ReplayShard {
        ReplayShard::new(ReplaySecret::new(Secret::new([7; 32])), capacity)
    }

    fn tag(n: u64) -> ReplayTag {
        let mut tag = [0; 16];
        tag[..8].copy_from_slice(&n.to_le_bytes());
        ReplayTag(tag)
    }

    #[test]
    fn nothing_is_forgotten_up_to_the_capacity_and_nothing_taken_beyond() {
        let mut shard = shard(10_000);
        for n in 0..10_000 {
            assert!(matches!(shard.check(KeyEpoch(1), &tag(n), Route(n)), Verdict::New(_)), "{n}");
        }
        for n in 0..10_000 {
            assert_eq!(shard.check(KeyEpoch(1), &tag(n), Route(n)), Verdict::Replay, "{n}");
        }
        assert_eq!(shard.check(KeyEpoch(1), &tag(10_000), Route(0)), Verdict::Full);
        assert_eq!(shard.len(KeyEpoch(1)), 10_000);
        assert!(shard.epochs[&KeyEpoch(1)].slots.len() <= 12_502);
        assert!(matches!(shard.check(KeyEpoch(2), &tag(1), Route(1)), Verdict::New(_)), "another epoch");
        shard.forget_before(KeyEpoch(2));
        assert_eq!((shard.len(KeyEpoch(1)), shard.len(KeyEpoch(2))), (0, 1));
    }

    #[test]
    fn what_was_logged_is_known_again() {
        let mut first = shard(100);
        let Verdict::New(seen) = first.check(KeyEpoch(3), &tag(5), Route(9)) else { panic!("new") };
        let mut second = shard(100);
        assert!(second.restore(seen));
        assert_eq!(second.check(KeyEpoch(3), &tag(5), Route(9)), Verdict::Replay);
    }
}
