//! The commands by which a reader looks after its queue.

use posta_protocol::answer::Info;
use posta_protocol::ids::QueueId;

use super::Session;
use crate::Outcome;
use crate::batch::{Backing, Stop};

impl<B: Backing> Session<'_, B> {
    pub(super) fn info(&mut self, queue: &QueueId) -> Result<Outcome, Stop> {
        let record = self.queue(queue)?;
        let mut record = self.alive(record)?;
        self.touch(queue, &mut record);
        Ok(Outcome::Info(Info {
            kind: record.kind,
            secured: record.invited.is_some(),
            suspended: record.suspended,
            retiring: false,
            held: record.held,
            room: self.room(&record),
            highest: record.highest(),
            acked: record.acked(),
            hours: self.queue_end(record.used).saturating_sub(self.hour),
        }))
    }

    pub(super) fn suspend(&mut self, queue: &QueueId, suspended: bool) -> Result<Outcome, Stop> {
        let record = self.queue(queue)?;
        let mut record = self.alive(record)?;
        if record.suspended == suspended {
            self.touch(queue, &mut record);
        } else {
            record.suspended = suspended;
            record.touch(self.hour);
            self.set_queue(queue, &record);
        }
        Ok(Outcome::Done)
    }

    /// Writes the record even if the hour stands in it already: that may not be on the disk yet.
    pub(super) fn extend(&mut self, queue: &QueueId) -> Result<Outcome, Stop> {
        let record = self.queue(queue)?;
        let mut record = self.alive(record)?;
        record.touch(self.hour);
        self.set_queue(queue, &record);
        Ok(Outcome::Done)
    }
}
