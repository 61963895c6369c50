//! The commands on queues and their messages.

use core::ops::ControlFlow;

use posta_protocol::admission::QueueKind;
use posta_protocol::ids::{MessageId, QueueId, WriterId};
use posta_protocol::params::TAG_LEN;

use super::{Mode, Session};
use crate::batch::{Backing, Stop};
use crate::keys::{self, Due, Table};
use crate::limits::{ENTRY_OVERHEAD, end_hour};
use crate::record::{Numbered, QueueRecord};
use crate::{Outcome, Refusal};

/// Is shown number, end hour and body of messages, until it has seen enough.
type VisitMessage<'v> = dyn FnMut(u64, u32, &[u8]) -> ControlFlow<()> + 'v;

/// Up to this many numbers are looked up one by one: a walk looks into every level for a neighbour (measured with 10 million
/// queues: 36 us), and a message that was just sent is still in memory.
const NEAR: u64 = 8;

/// Which of a queue's messages are to be erased.
#[derive(Clone, Copy)]
pub(super) enum Which {
    All,
    /// Up to this number.
    UpTo(u64),
    /// Those that have ended by this hour.
    Ended(u32),
}

/// End hour and body of a stored message.
fn split_message(value: &[u8]) -> Option<(u32, &[u8])> {
    let (end, body) = value.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*end), body))
}

impl<B: Backing> Session<'_, B> {
    pub(super) fn queue(&self, queue: &QueueId) -> Result<Option<QueueRecord>, Stop> {
        let bytes = self.batch.get(Table::Queues, queue.0.to_vec())?;
        Ok(bytes.map(|bytes| QueueRecord::decode(&bytes)).transpose()?)
    }

    fn queue_of(&self, writer: &WriterId) -> Result<Option<QueueId>, Stop> {
        let bytes = self.batch.get(Table::Index, keys::writer(writer))?;
        // An entry of another length can't be one that this code wrote.
        bytes.map(|bytes| bytes.try_into().map(QueueId).map_err(|_| Stop::Broken)).transpose()
    }

    /// The queue that this is the writer's capability of; see the engine's page on lookups.
    fn written_by(&self, writer: &WriterId) -> Result<(QueueId, Option<QueueRecord>), Stop> {
        let known = self.queue_of(writer)?;
        let queue = known.unwrap_or(QueueId(writer.0));
        let record = self.queue(&queue)?;
        if known.is_none() { Err(Refusal::BadCapability.into()) } else { Ok((queue, record)) }
    }

    /// The queue that may be written to by this capability, and can still be used.
    fn writable(&self, writer: &WriterId) -> Result<(QueueId, QueueRecord), Stop> {
        let (queue, record) = self.written_by(writer)?;
        if record.as_ref().is_some_and(|record| record.writer != *writer) {
            return Err(Refusal::BadCapability.into()); // The invited one, after the queue was secured.
        }
        Ok((queue, self.alive(record)?))
    }

    pub(super) fn set_queue(&mut self, queue: &QueueId, record: &QueueRecord) {
        self.set(Table::Queues, queue.0.to_vec(), record.encode());
    }

    /// When a queue ends that was last used in this hour.
    pub(super) fn queue_end(&self, used: u32) -> u32 {
        end_hour(used, self.limits.queue_ttl)
    }

    /// The record of a queue that can still be used.
    pub(super) fn alive(&self, record: Option<QueueRecord>) -> Result<QueueRecord, Stop> {
        let record = record.ok_or(Refusal::BadCapability)?;
        if record.deleted {
            Err(Refusal::Gone.into())
        } else if self.hour >= self.queue_end(record.used) {
            Err(Refusal::Expired.into())
        } else {
            Ok(record)
        }
    }

    /// Notes that a queue was used by something that changes nothing else.
    pub(super) fn touch(&mut self, queue: &QueueId, record: &mut QueueRecord) {
        if self.mode != Mode::ReadOnly && record.touch(self.hour) {
            self.batch.set_unconfirmed(Table::Queues, queue.0.to_vec(), Some(record.encode()));
        }
    }

    pub(super) fn create(&mut self, queue: &QueueId, writer: &WriterId, kind: QueueKind) -> Result<Outcome, Stop> {
        if let Some(record) = self.queue(queue)? {
            let mut record = self.alive(Some(record))?;
            if record.first_writer() != *writer || record.kind != kind {
                return Err(Refusal::Conflict.into());
            }
            self.touch(queue, &mut record);
            return Ok(Outcome::Done);
        }
        if self.queue_of(writer)?.is_some() {
            return Err(Refusal::Conflict.into());
        }
        let mut totals = self.totals()?;
        if totals.queues >= self.limits.max_queues {
            return Err(Refusal::NoSpace.into());
        }
        totals.queues += 1;
        self.set_totals(totals);
        self.set(Table::Index, keys::writer(writer), queue.0.to_vec());
        self.set_queue(queue, &QueueRecord::new(*writer, kind, self.hour));
        self.file(self.queue_end(self.hour), Due::Queue(*queue));
        Ok(Outcome::Created)
    }

    pub(super) fn secure(&mut self, invited: &WriterId, writer: &WriterId) -> Result<Outcome, Stop> {
        let (queue, record) = self.written_by(invited)?;
        if record.as_ref().is_some_and(|record| record.first_writer() != *invited) {
            return Err(Refusal::BadCapability.into()); // The writer's own capability invites no one.
        }
        let mut record = self.alive(record)?;
        if record.kind == QueueKind::Contact {
            return Err(Refusal::Conflict.into());
        }
        if record.invited.is_some() {
            if record.writer != *writer {
                return Err(Refusal::Taken.into());
            }
            self.touch(&queue, &mut record);
            return Ok(Outcome::Done);
        }
        if record.suspended {
            return Err(Refusal::Suspended.into());
        }
        if self.queue_of(writer)?.is_some() {
            return Err(Refusal::Conflict.into());
        }
        record.invited = Some(*invited);
        record.writer = *writer;
        record.touch(self.hour);
        self.set(Table::Index, keys::writer(writer), queue.0.to_vec());
        self.set_queue(&queue, &record);
        Ok(Outcome::Done)
    }

    pub(super) fn send(&mut self, writer: &WriterId, sequence: u64, body: &[u8]) -> Result<Outcome, Stop> {
        self.fits(body)?;
        let (queue, mut record) = self.writable(writer)?;
        if record.kind == QueueKind::Contact {
            return Err(Refusal::Conflict.into());
        }
        let new = match record.judge(sequence) {
            Numbered::OutOfWindow => return Err(Refusal::OutOfWindow.into()),
            Numbered::Accepted => {
                self.repeat(&queue, &mut record, sequence, body)?;
                false
            }
            Numbered::New => {
                self.has_room(&record)?;
                record.accept(sequence);
                self.keep(&queue, &mut record, sequence, body)?;
                true
            }
        };
        Ok(match record.kind {
            QueueKind::Bulk => Outcome::Stored { queue, new, through: record.through(), room: self.room(&record) },
            _ if new => Outcome::Accepted { queue, sequence },
            _ => Outcome::Repeated { queue },
        })
    }

    pub(super) fn contact_send(
        &mut self,
        writer: &WriterId,
        message: &MessageId,
        body: &[u8],
    ) -> Result<Outcome, Stop> {
        self.fits(body)?;
        let (queue, mut record) = self.writable(writer)?;
        if record.kind != QueueKind::Contact {
            return Err(Refusal::Conflict.into());
        }
        if let Some(sequence) = record.number_of(message) {
            self.repeat(&queue, &mut record, sequence, body)?;
            return Ok(Outcome::Repeated { queue });
        }
        self.has_room(&record)?;
        let sequence = record.accept_contact(*message);
        self.keep(&queue, &mut record, sequence, body)?;
        Ok(Outcome::Accepted { queue, sequence })
    }

    /// Messages that fit into a queue besides those it holds.
    pub(super) const fn room(&self, record: &QueueRecord) -> u32 {
        self.limits.quota(record.kind).saturating_sub(record.held)
    }

    /// Whether a queue takes another message.
    fn has_room(&self, record: &QueueRecord) -> Result<(), Stop> {
        if record.suspended {
            Err(Refusal::Suspended.into())
        } else if self.room(record) == 0 {
            Err(Refusal::Full.into())
        } else {
            Ok(())
        }
    }

    /// A message that was accepted comes again.
    fn repeat(&mut self, queue: &QueueId, record: &mut QueueRecord, sequence: u64, body: &[u8]) -> Result<(), Stop> {
        if let Some(held) = self.batch.get(Table::Messages, keys::message(queue, sequence))? {
            let (end, held) = split_message(&held).ok_or(Stop::Broken)?;
            // One that has ended is as good as erased, whether the sweep has come by or not.
            if self.hour < end && held != body {
                return Err(Refusal::Conflict.into());
            }
        }
        self.touch(queue, record);
        Ok(())
    }

    /// Stores a message that the record has accepted, and the record.
    fn keep(&mut self, queue: &QueueId, record: &mut QueueRecord, sequence: u64, body: &[u8]) -> Result<(), Stop> {
        self.take_room(body.len() as u64 + ENTRY_OVERHEAD)?;
        let end = end_hour(self.hour, self.limits.ttl(record.kind));
        record.touch(self.hour);
        if record.filed != end {
            record.filed = end;
            self.file(end, Due::Messages(*queue));
        }
        // Room for the tag, too, of a backing that seals.
        let mut value = Vec::with_capacity(4 + body.len() + TAG_LEN);
        value.extend_from_slice(&end.to_le_bytes());
        value.extend_from_slice(body);
        self.set(Table::Messages, keys::message(queue, sequence), value);
        self.set_queue(queue, record);
        Ok(())
    }

    pub(super) fn read(&mut self, queue: &QueueId, after: u64, skip: &[u64]) -> Result<Outcome, Stop> {
        let record = self.queue(queue)?;
        let mut record = self.alive(record)?;
        self.touch(queue, &mut record);
        // From where the acknowledged ones end: RocksDB walks over what is erased but not compacted yet.
        let above = after.max(record.acked());
        if record.held == 0 {
            return Ok(Outcome::Empty);
        }
        let hour = self.hour;
        // The next number first: it is there unless its message ended, or waits behind one that was given out of order.
        let next = above.saturating_add(1);
        if !skip.contains(&next)
            && let Some(value) = self.batch.get(Table::Messages, keys::message(queue, next))?
        {
            let (end, body) = split_message(&value).ok_or(Stop::Broken)?;
            if hour < end {
                let left = record.held.saturating_sub(1);
                return Ok(Outcome::Message { sequence: next, body: body.into(), left });
            }
        }
        let mut found = None;
        self.scan_messages(queue, above, &mut |sequence, end, body| {
            if hour >= end || skip.contains(&sequence) {
                return ControlFlow::Continue(());
            }
            found = Some((sequence, body.into()));
            ControlFlow::Break(())
        })?;
        Ok(match found {
            Some((sequence, body)) => Outcome::Message { sequence, body, left: record.held.saturating_sub(1) },
            None => Outcome::Empty,
        })
    }

    pub(super) fn ack(&mut self, queue: &QueueId, up_to: u64) -> Result<Outcome, Stop> {
        let record = self.queue(queue)?;
        let mut record = self.alive(record)?;
        let before = record.acked();
        if record.ack(up_to) {
            let acked = record.acked();
            record.touch(self.hour);
            self.erase_messages(queue, &mut record, before, Which::UpTo(acked))?;
            self.set_queue(queue, &record);
        } else {
            self.touch(queue, &mut record);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn delete(&mut self, queue: &QueueId) -> Result<Outcome, Stop> {
        let record = self.queue(queue)?;
        if record.as_ref().is_some_and(|record| record.deleted) {
            return Ok(Outcome::Done);
        }
        let mut record = self.alive(record)?;
        let acked = record.acked();
        self.erase_messages(queue, &mut record, acked, Which::All)?;
        record.bury(self.hour);
        self.set_queue(queue, &record);
        Ok(Outcome::Done)
    }

    /// Shows a queue's messages above a number, in order.
    fn scan_messages(&self, queue: &QueueId, above: u64, visit: &mut VisitMessage<'_>) -> Result<(), Stop> {
        let mut damaged = false;
        let (from, end) = (keys::behind_message(queue, above), keys::behind_message(queue, u64::MAX));
        self.batch.scan(
            Table::Messages,
            from,
            end,
            &mut |key, value| match (keys::sequence(key), split_message(value)) {
                (Some(sequence), Some((end, body))) => visit(sequence, end, body),
                _ => {
                    damaged = true;
                    ControlFlow::Break(())
                }
            },
        )?;
        if damaged { Err(Stop::Broken) } else { Ok(()) }
    }

    /// Erases some of a queue's messages, all of which have numbers above `above`, and says how many. The record is
    /// the caller's to write. A queue holds at most its quota, so that this is bounded.
    pub(super) fn erase_messages(
        &mut self,
        queue: &QueueId,
        record: &mut QueueRecord,
        above: u64,
        which: Which,
    ) -> Result<u32, Stop> {
        let mut erased = Vec::new();
        let mut bytes = 0;
        if let Which::UpTo(last) = which
            && last.saturating_sub(above) <= NEAR
        {
            for sequence in above.saturating_add(1)..=last {
                if erased.len() as u64 >= u64::from(record.held) {
                    break;
                }
                if let Some(value) = self.batch.get(Table::Messages, keys::message(queue, sequence))? {
                    let (_, body) = split_message(&value).ok_or(Stop::Broken)?;
                    erased.push(sequence);
                    bytes += body.len() as u64 + ENTRY_OVERHEAD;
                }
            }
        } else if record.held > 0 {
            self.scan_messages(queue, above, &mut |sequence, end, body| {
                match which {
                    Which::UpTo(last) if sequence > last => return ControlFlow::Break(()),
                    Which::Ended(hour) if hour < end => return ControlFlow::Continue(()),
                    _ => {}
                }
                erased.push(sequence);
                bytes += body.len() as u64 + ENTRY_OVERHEAD;
                ControlFlow::Continue(())
            })?;
        }
        let count = u32::try_from(erased.len()).unwrap_or(u32::MAX);
        record.held = record.held.saturating_sub(count);
        for sequence in erased {
            self.erase(Table::Messages, keys::message(queue, sequence));
        }
        self.give_room(bytes)?;
        Ok(count)
    }
}
