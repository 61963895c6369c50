//! Erasing what has ended, bucket by bucket.

use core::ops::ControlFlow;

use posta_protocol::now::Now;

use super::queues::Which;
use super::{Engine, Mode, Session};
use crate::batch::{Backing, Batch, Stop};
use crate::keys::{self, Due, Table};
use crate::limits::ENTRY_OVERHEAD;

impl Engine {
    /// See [`crate::QueueStore::sweep`].
    pub(crate) fn sweep<B: Backing>(&mut self, base: &mut B, now: Now, limit: usize) -> usize {
        let hour = now.wall.hour();
        let mut session = Session { batch: Batch::new(base), limits: &self.limits, mode: Mode::Normal, hour };
        let Ok(entries) = session.due(&self.floor, limit) else { return 0 };
        let mut worked_off = 0;
        for (filed, due) in &entries {
            match session.settle(*filed, *due) {
                Ok(()) => session.batch.keep_op(),
                // One entry that can't be read must not keep the others from being erased.
                Err(_) => {
                    session.batch.undo_op();
                    continue;
                }
            }
            worked_off += 1;
        }
        let (changes, _) = session.batch.finish();
        // No outcome speaks of it: what a crash brings back is erased again. The next command's sync covers it.
        if !changes.is_empty() && base.commit(changes, false).is_err() {
            return 0;
        }
        if worked_off == entries.len() {
            // Nothing before it is left; what is put back lies behind it.
            self.floor = match entries.last() {
                Some((filed, due)) if entries.len() == limit => keys::expiry(*filed, *due),
                _ => keys::expiry_from(hour),
            };
        }
        worked_off
    }
}

impl<B: Backing> Session<'_, B> {
    /// At most `limit` entries whose hour has come, the oldest first.
    fn due(&self, floor: &[u8], limit: usize) -> Result<Vec<(u32, Due)>, Stop> {
        let mut entries = Vec::new();
        if limit == 0 {
            return Ok(entries);
        }
        let end = keys::expiry_from(self.hour.saturating_add(1));
        let from = keys::expiry_from(self.hour);
        self.batch.scan(Table::Expiry, from.as_slice().min(floor).to_vec(), end, &mut |key, _| {
            entries.extend(keys::read_expiry(key));
            if entries.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(entries)
    }

    fn settle(&mut self, filed: u32, due: Due) -> Result<(), Stop> {
        self.erase(Table::Expiry, keys::expiry(filed, due));
        match due {
            Due::Queue(queue) => {
                let Some(mut record) = self.queue(&queue)? else { return Ok(()) };
                let end = self.queue_end(record.used);
                if self.hour < end {
                    self.file(end, due); // Used since it was filed.
                    return Ok(());
                }
                let acked = record.acked();
                self.erase_messages(&queue, &mut record, acked, Which::All)?;
                for writer in [Some(record.writer), record.invited].into_iter().flatten() {
                    self.erase(Table::Index, keys::writer(&writer));
                }
                self.erase(Table::Queues, queue.0.to_vec());
                let mut totals = self.totals()?;
                totals.queues = totals.queues.saturating_sub(1);
                self.set_totals(totals);
            }
            Due::Messages(queue) => {
                let Some(mut record) = self.queue(&queue)? else { return Ok(()) };
                let (hour, acked) = (self.hour, record.acked());
                let erased = self.erase_messages(&queue, &mut record, acked, Which::Ended(hour))?;
                // Should the clock go back, messages may end in this hour again and must be filed again.
                let refile = record.filed == filed;
                if refile {
                    record.filed = 0;
                }
                if erased > 0 || refile {
                    self.set_queue(&queue, &record);
                }
            }
            Due::Blob(blob) => {
                let Some(record) = self.blob(&blob)? else { return Ok(()) };
                if self.hour < record.end {
                    return Ok(()); // A later blob under the same hash; it has an entry of its own.
                }
                if !record.deleted {
                    self.give_room(record.body.len() as u64 + ENTRY_OVERHEAD)?;
                }
                self.erase(Table::Index, keys::put(&record.put));
                self.erase(Table::Blobs, blob.0.to_vec());
            }
        }
        Ok(())
    }
}
