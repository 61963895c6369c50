//! The reference store: ordered maps in memory, for tests and simulation.

use core::fmt;
use std::collections::BTreeMap;

use posta_protocol::ids::Incarnation;
use posta_protocol::now::Now;

use crate::batch::{Backing, Broken, Changes, Visit};
use crate::engine::{Engine, Mode};
use crate::keys::Table;
use crate::limits::Limits;
use crate::{Outcome, QueueOp, QueueStore};

/// All tables in one map.
#[derive(Default)]
pub(crate) struct Maps(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Backing for Maps {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), Broken> {
        for ((_, key), value) in self.0.range((table, from.to_vec())..(table, end.to_vec())) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit(&mut self, changes: Changes, _sync: bool) -> Result<(), Broken> {
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
        Ok(())
    }
}

/// A store that lasts as long as the value does.
pub struct MemoryStore {
    engine: Engine,
    maps: Maps,
    incarnation: Incarnation,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(limits: Limits, incarnation: Incarnation) -> Self {
        Self { engine: Engine::new(limits), maps: Maps::default(), incarnation }
    }
}

impl QueueStore for MemoryStore {
    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn apply(&mut self, now: Now, ops: &[QueueOp]) -> Vec<Outcome> {
        self.engine.apply(&mut self.maps, Mode::Normal, now, ops)
    }

    fn sweep(&mut self, now: Now, limit: usize) -> usize {
        self.engine.sweep(&mut self.maps, now, limit)
    }

    fn set_limits(&mut self, limits: Limits) {
        self.engine.limits = limits;
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("entries", &self.maps.0.len()).finish_non_exhaustive()
    }
}
