//! One key epoch's fingerprints in one shard: a few open-addressing tables, each larger than the one before.
//!
//! None is ever moved or grown. When the newest is three quarters full a larger one is opened behind it and takes what
//! comes from then on, so an insert never waits for a copy, and there is no moment at which old and new memory exist
//! side by side. The price is a look into each: eight tables hold 2^24 fingerprints, nine 2^26.

/// Fingerprints of the first table; with fewer packets than this it takes 11 KB.
const FIRST_ROOM: usize = 1024;
/// How many times larger than the last one the next table is.
const GROWTH: usize = 4;

/// What became of a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    Known,
    Full,
}

/// A set of fingerprints that only grows, of bounded size.
#[derive(Debug, Default)]
pub(super) struct Table {
    levels: Vec<Level>,
    used: usize,
}

/// Open addressing with linear probing; 0 marks a free slot. The front of a fingerprint picks the slot, so any number
/// of slots will do.
#[derive(Debug)]
struct Level {
    slots: Vec<u64>,
    /// How many more it takes.
    room: usize,
}

impl Table {
    pub(super) const fn len(&self) -> usize {
        self.used
    }

    /// Makes room for `expected` in one table, for a table that is empty: what a log holds is then read back with one
    /// look for each.
    pub(super) fn reserve(&mut self, expected: usize, capacity: usize) {
        if self.levels.is_empty() && capacity > 0 {
            self.levels.push(Level::new(expected.max(FIRST_ROOM).min(capacity)));
        }
    }

    pub(super) fn insert(&mut self, fingerprint: u64, capacity: usize) -> Inserted {
        // Two fingerprints become one: at most one packet in 2^63 more is refused.
        let fingerprint = fingerprint.max(1);
        let mut free = None;
        for level in &self.levels {
            free = level.find(fingerprint);
            if free.and_then(|at| level.slots.get(at)) == Some(&fingerprint) {
                return Inserted::Known;
            }
        }
        if self.used >= capacity {
            return Inserted::Full;
        }
        if self.levels.last().is_none_or(|last| last.room == 0) {
            let last = self.levels.last().map_or(0, |last| last.slots.len() / 4 * 3);
            let room = last.saturating_mul(GROWTH).max(FIRST_ROOM).min(capacity - self.used);
            let level = Level::new(room);
            free = level.find(fingerprint);
            self.levels.push(level);
        }
        let slot = self.levels.last_mut().zip(free).and_then(|(last, at)| last.take(at));
        match slot {
            Some(slot) => {
                *slot = fingerprint;
                self.used += 1;
                Inserted::New
            }
            // A table with room has a free slot, so this is never reached; and refusing is the safe side.
            None => Inserted::Full,
        }
    }

    /// Slots in all, of 8 bytes each.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.levels.iter().map(|level| level.slots.len()).sum()
    }
}

impl Level {
    /// A table for `room` fingerprints. The system gives the memory page by page, as it is touched.
    fn new(room: usize) -> Self {
        // A quarter stays free: a look ends after 8 slots on average, within two cache lines.
        Self { slots: vec![0; room + room / 3 + 1], room }
    }

    /// Where the fingerprint is, or the free slot where it belongs.
    fn find(&self, fingerprint: u64) -> Option<usize> {
        let start = ((u128::from(fingerprint) * self.slots.len() as u128) >> 64) as usize;
        let (front, back) = self.slots.split_at_checked(start)?;
        let is_it = |slot: &u64| *slot == 0 || *slot == fingerprint;
        back.iter().position(is_it).map(|at| start + at).or_else(|| front.iter().position(is_it))
    }

    /// A free slot, to be filled.
    fn take(&mut self, at: usize) -> Option<&mut u64> {
        self.room = self.room.checked_sub(1)?;
        self.slots.get_mut(at)
    }
}
