//! What each command does, over any [`Backing`]: both stores run this code and differ in where the bytes lie.

use posta_protocol::now::Now;

use crate::batch::{Backing, Batch, Changes, Stop};
use crate::keys::{self, Due, Table};
use crate::limits::Limits;
use crate::record::Totals;
use crate::{Outcome, QueueOp, Refusal};

mod blobs;
mod queues;
mod sweep;

/// What the disk allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything.
    Normal,
    /// Space is short: what erases or replaces, but nothing that adds.
    Reserve,
    /// No changes at all.
    ReadOnly,
}

/// The commands, and what they need between batches.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) limits: Limits,
    /// No expiry entry has an earlier key: where the next sweep begins. RocksDB would walk over what is erased already.
    floor: Vec<u8>,
}

/// One batch in the making.
struct Session<'a, B> {
    batch: Batch<'a, B>,
    limits: &'a Limits,
    mode: Mode,
    /// The hour that it is now.
    hour: u32,
}

impl Engine {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self { limits, floor: Vec::new() }
    }

    /// See [`crate::QueueStore::apply`].
    pub(crate) fn apply<B: Backing>(&mut self, base: &mut B, mode: Mode, now: Now, ops: &[QueueOp]) -> Vec<Outcome> {
        let (outcomes, changes, sync, filed) = self.run(base, mode, now, ops);
        if changes.is_empty() {
            return outcomes;
        }
        match base.commit(changes, sync) {
            Ok(()) => {
                if let Some(filed) = filed.map(keys::expiry_from)
                    && filed < self.floor
                {
                    self.floor = filed;
                }
                outcomes
            }
            Err(_) if !sync => outcomes,
            // Nothing was written: what the operations saw of one another's changes must not stand either.
            Err(_) => self.run(base, Mode::ReadOnly, now, ops).0,
        }
    }

    fn run<B: Backing>(
        &self,
        base: &B,
        mode: Mode,
        now: Now,
        ops: &[QueueOp],
    ) -> (Vec<Outcome>, Changes, bool, Option<u32>) {
        let mut session = Session { batch: Batch::new(base), limits: &self.limits, mode, hour: now.wall.hour() };
        let outcomes = ops.iter().map(|op| session.step(op)).collect();
        let filed = session.batch.filed;
        let (changes, sync) = session.batch.finish();
        (outcomes, changes, sync, filed)
    }
}

impl<B: Backing> Session<'_, B> {
    fn step(&mut self, op: &QueueOp) -> Outcome {
        let result = match op {
            QueueOp::Create { queue, writer } => self.create(queue, writer),
            QueueOp::Secure { invited, writer } => self.secure(invited, writer),
            QueueOp::Send { writer, sequence, body } => self.send(writer, *sequence, body),
            QueueOp::Read { queue, after, skip } => self.read(queue, *after, skip),
            QueueOp::Ack { queue, up_to } => self.ack(queue, *up_to),
            QueueOp::Delete { queue } => self.delete(queue),
            QueueOp::BlobPut { put, get, one_time, ttl, body } => self.blob_put(put, get, *one_time, *ttl, body),
            QueueOp::BlobGet { get, reader } => self.blob_get(get, reader),
            QueueOp::BlobDelete { put } => self.blob_delete(put),
        };
        let forbidden = match self.mode {
            Mode::Normal => false,
            Mode::Reserve => op.grows(),
            Mode::ReadOnly => true,
        };
        match result {
            Ok(_) if forbidden && self.batch.op_changes() => {
                self.batch.undo_op();
                Outcome::Refused(Refusal::NoSpace)
            }
            Ok(outcome) => {
                self.batch.keep_op();
                outcome
            }
            Err(stop) => {
                self.batch.undo_op();
                match stop {
                    Stop::Refused(refusal) => Outcome::Refused(refusal),
                    Stop::Broken => Outcome::Refused(Refusal::Busy),
                }
            }
        }
    }

    fn set(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.batch.set(table, key, Some(value));
    }

    fn erase(&mut self, table: Table, key: Vec<u8>) {
        self.batch.set(table, key, None);
    }

    /// Puts something into the bucket of the hour at whose beginning it ends.
    fn file(&mut self, hour: u32, due: Due) {
        self.batch.filed = Some(self.batch.filed.map_or(hour, |filed| filed.min(hour)));
        self.set(Table::Expiry, keys::expiry(hour, due), Vec::new());
    }

    fn totals(&self) -> Result<Totals, Stop> {
        let bytes = self.batch.get(Table::Meta, keys::TOTALS.to_vec())?;
        Ok(bytes.map_or_else(|| Ok(Totals::default()), |bytes| Totals::decode(&bytes))?)
    }

    fn set_totals(&mut self, totals: Totals) {
        self.set(Table::Meta, keys::TOTALS.to_vec(), totals.encode());
    }

    /// Adds the bytes of a new entry to the totals.
    fn take_room(&mut self, bytes: u64) -> Result<(), Stop> {
        let mut totals = self.totals()?;
        totals.bytes = totals.bytes.saturating_add(bytes);
        if totals.bytes > self.limits.disk_quota_bytes {
            return Err(Refusal::NoSpace.into());
        }
        self.set_totals(totals);
        Ok(())
    }

    /// Takes the bytes of erased entries from the totals.
    fn give_room(&mut self, bytes: u64) -> Result<(), Stop> {
        if bytes > 0 {
            let mut totals = self.totals()?;
            totals.bytes = totals.bytes.saturating_sub(bytes);
            self.set_totals(totals);
        }
        Ok(())
    }

    /// A body longer than a store takes is refused before anything is looked up.
    fn fits(&self, body: &[u8]) -> Result<(), Stop> {
        if body.len() > self.limits.max_body { Err(Refusal::NoSpace.into()) } else { Ok(()) }
    }
}
