//! What was read or written last, in front of RocksDB: a message's `send`, `read` and `ack` ask for the same few records.
//!
//! Two generations: what is asked for is moved to the younger one, and when that is full the older one is forgotten. Only
//! the tables of small records are kept, at most about 10 MB.

use core::cell::RefCell;
use core::mem;
use std::collections::HashMap;

use crate::keys::Table;

/// Records in a generation, of each table.
const GENERATION: usize = 16_384;

type Records = HashMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct Generations {
    young: Records,
    old: Records,
}

/// The records of two tables.
#[derive(Default)]
pub(super) struct Recent {
    queues: RefCell<Generations>,
    index: RefCell<Generations>,
}

impl Recent {
    const fn of(&self, table: Table) -> Option<&RefCell<Generations>> {
        match table {
            Table::Queues => Some(&self.queues),
            Table::Index => Some(&self.index),
            Table::Meta | Table::Seals | Table::Messages | Table::Blobs | Table::Expiry => None,
        }
    }

    /// A record, if it is known.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        let mut records = self.of(table)?.try_borrow_mut().ok()?;
        if let Some(value) = records.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = records.old.remove_entry(key)?;
        records.put(key, value.clone());
        Some(value)
    }

    /// Whether a record is known.
    pub(super) fn has(&self, table: Table, key: &[u8]) -> bool {
        self.of(table).and_then(|records| records.try_borrow().ok()).is_some_and(|records| records.knows(key))
    }

    /// Keeps a record as it is on disk now; with no value, nothing is known of it any more.
    pub(super) fn keep(&self, table: Table, key: &[u8], value: Option<&[u8]>) {
        let Some(mut records) = self.of(table).and_then(|records| records.try_borrow_mut().ok()) else { return };
        match value {
            Some(value) => {
                records.old.remove(key);
                records.put(key.to_vec(), value.to_vec());
            }
            None => {
                records.young.remove(key);
                records.old.remove(key);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Generations {
    fn knows(&self, key: &[u8]) -> bool {
        self.young.contains_key(key) || self.old.contains_key(key)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten_in_time() {
        let recent = Recent::default();
        let key = |n: usize| n.to_be_bytes();
        recent.keep(Table::Queues, &key(0), Some(b"used"));
        recent.keep(Table::Queues, &key(1), Some(b"not"));
        for n in 2..GENERATION * 3 {
            recent.keep(Table::Queues, &key(n), Some(b"x"));
            assert_eq!(recent.get(Table::Queues, &key(0)).as_deref(), Some(&b"used"[..]));
        }
        assert_eq!(recent.get(Table::Queues, &key(1)), None);
        let held = recent.queues.borrow().young.len() + recent.queues.borrow().old.len();
        assert!(held <= 2 * GENERATION, "{held}");
    }

    #[test]
    fn a_change_is_seen_whichever_generation_the_record_was_in() {
        let mut recent = Recent::default();
        for n in 0..GENERATION + 2 {
            recent.keep(Table::Index, &n.to_be_bytes(), Some(b"before"));
        }
        let (old, young) = (0_usize.to_be_bytes(), (GENERATION + 1).to_be_bytes());
        for key in [old, young] {
            recent.keep(Table::Index, &key, Some(b"after"));
            assert_eq!(recent.get(Table::Index, &key).as_deref(), Some(&b"after"[..]));
            recent.keep(Table::Index, &key, None);
            assert_eq!(recent.get(Table::Index, &key), None);
        }
        recent.keep(Table::Messages, &old, Some(b"never"));
        assert_eq!(recent.get(Table::Messages, &old), None);
        recent.forget();
        assert_eq!(recent.get(Table::Index, &1_usize.to_be_bytes()), None);
    }
}
