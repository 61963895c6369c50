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

mod table;

use self::table::{Inserted, Table};

/// Packets that a relay tells apart in one key epoch, all its workers together, unless its operator says otherwise;
/// beyond it packets are refused. The tables of a key epoch then take 0.72 GB, and they grow into that: 11 bytes for each
/// packet when full, up to four times as many a little after a larger table was opened.
pub const DEFAULT_MAX_TAGS: u64 = 1 << 26;
/// Fewest that can be asked for.
pub const LEAST_MAX_TAGS: u64 = 1 << 10;
/// Most that can be asked for: 46 GB, and a packet in 2^32 refused wrongly.
pub const MOST_MAX_TAGS: u64 = 1 << 32;

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
        self.epochs.get(&epoch).map_or(0, Table::len)
    }

    /// How full the key epoch's share is.
    #[must_use]
    pub fn fill(&self, epoch: KeyEpoch) -> Fill {
        Fill::of(self.len(epoch), self.capacity)
    }

    /// Makes room for what a log holds of a key epoch, before it is restored.
    pub fn reserve(&mut self, epoch: KeyEpoch, expected: usize) {
        self.epochs.entry(epoch).or_default().reserve(expected, self.capacity);
    }

    fn insert(&mut self, seen: Seen) -> Inserted {
        self.epochs.entry(seen.key_epoch).or_default().insert(seen.fingerprint, self.capacity)
    }
}

/// How full a filter is, in steps so coarse that the directory, which is told, learns no packet count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// Below four fifths.
    #[default]
    Room,
    /// Four fifths or more.
    High,
    /// Nine tenths or more.
    VeryHigh,
    /// There is no room: packets are refused.
    Full,
}

impl Fill {
    /// The step of a filter with `used` of `capacity`.
    #[must_use]
    pub const fn of(used: usize, capacity: usize) -> Self {
        let (used, capacity) = (used as u128, capacity as u128);
        if used >= capacity {
            Self::Full
        } else if used * 10 >= capacity * 9 {
            Self::VeryHigh
        } else if used * 5 >= capacity * 4 {
            Self::High
        } else {
            Self::Room
        }
    }

    /// What the directory is told of a relay that is configured for `capacity` packets per second: half from four fifths
    /// on, a quarter from nine tenths on, a sixteenth when full, never nothing.
    #[must_use]
    pub const fn advertised(self, capacity: u32) -> u32 {
        let lowered = match self {
            Self::Room => return capacity,
            Self::High => capacity / 2,
            Self::VeryHigh => capacity / 4,
            Self::Full => capacity / 16,
        };
        if lowered == 0 { 1 } else { lowered }
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
        assert!(shard.epochs[&KeyEpoch(1)].slots() <= 13_340, "never more than a third above the capacity");
        assert!(matches!(shard.check(KeyEpoch(2), &tag(1), Route(1)), Verdict::New(_)), "another epoch");
        shard.forget_before(KeyEpoch(2));
        assert_eq!((shard.len(KeyEpoch(1)), shard.len(KeyEpoch(2))), (0, 1));
    }

    #[test]
    fn tables_are_never_moved_and_never_take_more_than_their_share() {
        for (capacity, expected) in [(1, 0), (1024, 0), (5000, 0), (200_000, 0), (200_000, 70_000), (3000, 9000)] {
            let mut shard = shard(capacity);
            shard.reserve(KeyEpoch(1), expected);
            for n in 0..capacity as u64 + 5 {
                let new = matches!(shard.check(KeyEpoch(1), &tag(n), Route(n)), Verdict::New(_));
                assert_eq!(new, n < capacity as u64, "{n} of {capacity}");
            }
            // 10.7 bytes each, and a word for each table.
            let slots = shard.epochs[&KeyEpoch(1)].slots();
            assert!(slots <= capacity * 4 / 3 + 8, "{slots} of {capacity}");
            assert!((0..capacity as u64).all(|n| shard.check(KeyEpoch(1), &tag(n), Route(n)) == Verdict::Replay));
        }
        assert_eq!(shard(0).check(KeyEpoch(1), &tag(1), Route(1)), Verdict::Full);
    }

    #[test]
    fn a_filter_that_fills_up_lowers_what_the_directory_is_told() {
        let mut shard = shard(100);
        let mut steps = Vec::new();
        for n in 0..101 {
            let fill = shard.fill(KeyEpoch(1));
            if steps.last().is_none_or(|(_, last)| *last != fill.advertised(1000)) {
                steps.push((n, fill.advertised(1000)));
            }
            shard.check(KeyEpoch(1), &tag(n), Route(n));
        }
        assert_eq!(steps, [(0, 1000), (80, 500), (90, 250), (100, 62)]);
        assert_eq!(shard.fill(KeyEpoch(2)), Fill::Room, "the next key epoch starts empty");
        assert_eq!(Fill::Full.advertised(3), 1, "never nothing");
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
