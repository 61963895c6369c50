//! What a batch has changed so far, in front of what is stored: so that each operation sees those before it, and all
//! of them reach the disk in one write.

use core::ops::ControlFlow;
use std::collections::BTreeMap;

use posta_protocol::error::Malformed;

use crate::Refusal;
use crate::keys::Table;

/// Changes by table and key; `None` erases.
pub(crate) type Changes = BTreeMap<Key, Option<Vec<u8>>>;

/// Where a value lies.
pub(crate) type Key = (Table, Vec<u8>);

/// Is shown keys and values in order, until it has seen enough.
pub(crate) type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// The store underneath can't be read or written now, or holds what it can't hold. What exactly, it has logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken;

impl From<Malformed> for Broken {
    fn from(error: Malformed) -> Self {
        tracing::error!(%error, "a record in the queue store is damaged");
        Self
    }
}

/// Why an operation stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    Refused(Refusal),
    Broken,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Broken> for Stop {
    fn from(Broken: Broken) -> Self {
        Self::Broken
    }
}

impl From<Malformed> for Stop {
    fn from(error: Malformed) -> Self {
        Broken::from(error).into()
    }
}

/// Ordered tables of bytes, changed a batch at a time.
pub(crate) trait Backing {
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Broken>;

    /// Shows what lies in `from..end`, in order.
    fn scan(&self, table: Table, from: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), Broken>;

    /// Writes all changes or none; on disk when this returns if `sync` is set.
    fn commit(&mut self, changes: Changes, sync: bool) -> Result<(), Broken>;
}

/// What `changes` held under a key: nothing, or a change.
type Before = Option<Option<Vec<u8>>>;

/// A view of a store that changes are made in.
pub(crate) struct Batch<'b, B> {
    base: &'b B,
    changes: Changes,
    /// What to put back, newest last, to undo the current operation.
    undo: Vec<(Key, Before)>,
    /// Whether anything is changed that an outcome confirms, by the batch and by the current operation.
    durable: bool,
    durable_op: bool,
    /// The earliest hour that something was filed under.
    pub(crate) filed: Option<u32>,
}

impl<'b, B: Backing> Batch<'b, B> {
    pub(crate) const fn new(base: &'b B) -> Self {
        Self { base, changes: Changes::new(), undo: Vec::new(), durable: false, durable_op: false, filed: None }
    }

    pub(crate) fn get(&self, table: Table, key: Vec<u8>) -> Result<Option<Vec<u8>>, Broken> {
        let key = (table, key);
        match self.changes.get(&key) {
            Some(changed) => Ok(changed.clone()),
            None => self.base.get(table, &key.1),
        }
    }

    /// Shows what lies in `from..end`, in order, as the batch has left it.
    pub(crate) fn scan(&self, table: Table, from: Vec<u8>, end: Vec<u8>, visit: &mut Visit<'_>) -> Result<(), Broken> {
        if from >= end {
            return Ok(());
        }
        let mut changed = self.changes.range((table, from.clone())..(table, end.clone())).peekable();
        let mut stopped = ControlFlow::Continue(());
        self.base.scan(table, &from, &end, &mut |key, value| {
            while let Some(((_, new_key), new_value)) = changed.next_if(|((_, k), _)| k.as_slice() < key) {
                if let Some(new_value) = new_value {
                    stopped = visit(new_key, new_value);
                    stopped?;
                }
            }
            stopped = match changed.next_if(|((_, k), _)| k.as_slice() == key) {
                Some((_, Some(new_value))) => visit(key, new_value),
                Some((_, None)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            stopped
        })?;
        if stopped.is_continue() {
            for ((_, key), value) in changed {
                if let Some(value) = value
                    && visit(key, value).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Changes what an outcome will confirm.
    pub(crate) fn set(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.durable_op = true;
        self.set_unconfirmed(table, key, value);
    }

    /// Changes what no outcome speaks of (the hour of a queue's last use): worth a write, but no sync.
    pub(crate) fn set_unconfirmed(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let key = (table, key);
        let before = self.changes.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    /// Whether the current operation has changed what its outcome will confirm.
    pub(crate) const fn op_changes(&self) -> bool {
        self.durable_op
    }

    /// Keeps what the current operation did, and starts the next one.
    pub(crate) fn keep_op(&mut self) {
        self.undo.clear();
        self.durable |= self.durable_op;
        self.durable_op = false;
    }

    /// Undoes the current operation, and starts the next one.
    pub(crate) fn undo_op(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(value) => self.changes.insert(key, value),
                None => self.changes.remove(&key),
            };
        }
        self.durable_op = false;
    }

    /// All changes, and whether they need a sync.
    pub(crate) fn finish(self) -> (Changes, bool) {
        (self.changes, self.durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Maps;

    fn keys(batch: &Batch<'_, Maps>) -> Vec<(u8, u8)> {
        let mut seen = Vec::new();
        batch
            .scan(Table::Blobs, vec![0], vec![9], &mut |key, value| {
                seen.push((key[0], value[0]));
                ControlFlow::Continue(())
            })
            .unwrap();
        seen
    }

    #[test]
    fn a_batch_covers_what_is_stored_and_an_operation_can_be_undone() {
        let mut maps = Maps::default();
        let stored = [(2, 20), (4, 40), (6, 60)].map(|(k, v)| ((Table::Blobs, vec![k]), Some(vec![v])));
        maps.commit(stored.into_iter().collect(), true).unwrap();
        let mut batch = Batch::new(&maps);
        batch.set(Table::Blobs, vec![1], Some(vec![11]));
        batch.set(Table::Blobs, vec![4], None);
        batch.set(Table::Blobs, vec![6], Some(vec![61]));
        batch.set(Table::Blobs, vec![8], Some(vec![81]));
        batch.set(Table::Expiry, vec![3], Some(vec![0]));
        assert_eq!(keys(&batch), [(1, 11), (2, 20), (6, 61), (8, 81)]);
        batch.keep_op();
        batch.set_unconfirmed(Table::Blobs, vec![4], Some(vec![42]));
        batch.set_unconfirmed(Table::Blobs, vec![4], Some(vec![43]));
        batch.set_unconfirmed(Table::Blobs, vec![5], Some(vec![50]));
        assert!(!batch.op_changes());
        assert_eq!(batch.get(Table::Blobs, vec![4]).unwrap(), Some(vec![43]));
        batch.undo_op();
        assert_eq!(keys(&batch), [(1, 11), (2, 20), (6, 61), (8, 81)]);
        assert_eq!(batch.get(Table::Blobs, vec![4]).unwrap(), None);

        let mut first = None;
        batch
            .scan(Table::Blobs, vec![0], vec![9], &mut |key, _| {
                first = Some(key.to_vec());
                ControlFlow::Break(())
            })
            .unwrap();
        assert_eq!(first, Some(vec![1]), "a visitor that has seen enough is shown nothing more");
        let (changes, durable) = batch.finish();
        assert_eq!((changes.len(), durable), (5, true));
    }
}
