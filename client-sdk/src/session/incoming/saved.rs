//! The queues that we read as records. Reply blocks, polls and requests are not kept: they begin anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use posta_protocol::admission::{Proof, QueueKind};
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::ReaderCapability;
use posta_protocol::end_to_end::{MAX_MESSAGE_LEN, MAX_QUEUES};
use posta_protocol::error::Malformed;
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Now, Wall};
use posta_protocol::params::BOX_LEN;
use posta_protocol::secret::Secret;

use super::boxes::EARLY_BOXES;
use super::queue::{InQueue, MAX_SEEN};
use super::{Incoming, Waiting};
use crate::session::core::Core;
use crate::session::event::ContactId;
use crate::session::saved::{Part, Parts, reader, writer};

impl Incoming {
    /// Writes it; for an export, without how far the queues were read, nor what was not handed on.
    pub(crate) fn write(&self, w: &mut Writer, export: bool) {
        w.u64(self.delivered);
        w.bool(self.introduced);
        w.count(self.subscribed);
        w.count(self.queues.len());
        self.queues.iter().for_each(|q| q.write(w, export));
        if export {
            return w.count(0);
        }
        w.count(self.reorder.len());
        self.reorder.keys().for_each(|number| w.u64(*number));
    }

    pub(crate) fn read(r: &mut Reader<'_>, id: ContactId, now: Now, parts: &mut Parts) -> Result<Self, Malformed> {
        let mut new = Self::new(id);
        new.delivered = r.u64("delivered")?;
        new.introduced = r.bool("introduced")?;
        new.subscribed = r.count(MAX_QUEUES, "queue")?;
        for _ in 0..r.count(MAX_QUEUES, "queues")? {
            new.queues.push(InQueue::read(r, now)?);
        }
        for _ in 0..r.count(usize::from(u16::MAX), "overtaken")? {
            let number = r.u64("number")?;
            let body = parts.remove(&Part::Overtaken(number)).ok_or(Malformed::Value("overtaken"))?;
            new.reorder.insert(number, Waiting::read(&mut reader(&body)?)?);
        }
        Ok(new)
    }

    /// The boxes that came early, by their places.
    pub(crate) fn write_early(&self, w: &mut Writer, export: bool) {
        if export {
            return w.count(0);
        }
        w.count(self.early.len());
        for (queue, sequence) in self.early.keys() {
            w.count(*queue);
            w.u64(*sequence);
        }
    }

    pub(crate) fn read_early(&mut self, r: &mut Reader<'_>, now: Now, parts: &mut Parts) -> Result<(), Malformed> {
        for _ in 0..r.count(EARLY_BOXES, "early")? {
            let (queue, sequence) = (r.u32("early")?, r.u64("early")?);
            let index = u8::try_from(queue).map_err(|_| Malformed::Value("early"))?;
            let sealed = parts.remove(&Part::Early(index, sequence)).filter(|b| b.len() == BOX_LEN);
            let sealed = sealed.ok_or(Malformed::Value("early"))?.as_slice().into();
            self.early.insert((usize::from(index), sequence), sealed);
        }
        self.early_since = (!self.early.is_empty()).then_some(now.mono);
        Ok(())
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let early = self.early.keys().filter_map(|(i, s)| Some(Part::Early(u8::try_from(*i).ok()?, *s)));
        self.reorder.keys().map(|number| Part::Overtaken(*number)).chain(early)
    }

    pub(crate) fn part(&self, part: Part) -> Option<Vec<u8>> {
        if let Part::Early(queue, sequence) = part {
            return Some(self.early.get(&(usize::from(queue), sequence))?.to_vec());
        }
        let Part::Overtaken(number) = part else { return None };
        let waiting = self.reorder.get(&number)?;
        let mut w = writer();
        w.u64(waiting.expires.0);
        w.bounded(&waiting.body);
        w.u32(waiting.after);
        Some(w.finish())
    }

    /// Makes the queues that aren't there yet, and says once more what has come: nobody knows whether the last receipt
    /// has left.
    pub(crate) fn resume(&mut self, core: &mut Core, now: Now) {
        for index in 0..self.queues.len() {
            if self.queues.get(index).is_some_and(|q| !q.ready && q.create.is_none() && q.search.is_none()) {
                self.start_create(core, now, index);
            }
        }
        if self.delivered > 0 {
            self.receipt_due = Some(now.mono);
        }
    }
}

impl Waiting {
    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (expires, body) = (Wall(r.u64("expires")?), r.bounded(MAX_MESSAGE_LEN, "body")?.to_vec());
        Ok(Self { expires, after: r.u32("after")?, body })
    }
}

impl InQueue {
    fn write(&self, w: &mut Writer, export: bool) {
        self.relay.write(w);
        self.reader.write(w);
        w.bytes(self.invited.expose());
        w.bytes(self.key.expose());
        w.bool(self.ready);
        w.bool(self.lost);
        w.bool(self.made_again);
        if export {
            w.u64(0);
            return w.count(0);
        }
        w.u64(self.cursor);
        w.count(self.seen.len());
        for (sequence, number) in &self.seen {
            w.u64(*sequence);
            w.u64(*number);
        }
    }

    fn read(r: &mut Reader<'_>, now: Now) -> Result<Self, Malformed> {
        let (relay, reader) = (RelayId::read(r)?, ReaderCapability::read(r)?);
        let (invited, key) = (Secret::read(r, "invited")?, Secret::read(r, "key")?);
        let (ready, lost, made_again) = (r.bool("ready")?, r.bool("lost")?, r.bool("made again")?);
        let cursor = r.u64("cursor")?;
        let mut seen = BTreeMap::new();
        for _ in 0..r.count(2 * MAX_SEEN, "seen")? {
            seen.insert(r.u64("sequence")?, r.u64("number")?);
        }
        Ok(Self {
            relay,
            reader,
            invited,
            key,
            kind: QueueKind::Plain,
            create: None,
            proof: Proof::Nothing,
            search: None,
            puzzles: 0,
            ready,
            lost,
            made_again,
            cursor,
            seen,
            // The relay may have been told less.
            acked: 0,
            fetch: None,
            holes: BTreeSet::new(),
            ack: None,
            // All that has come meanwhile, in order.
            walk: true,
            next_poll: now.mono,
            idle: 0,
            blocks: VecDeque::new(),
            blocks_epoch: None,
            blocks_entry: None,
            // It may hold blocks of the run before, whose keys are gone.
            flush: true,
            renew_at: now.mono,
            awaited_push: None,
            silent: 0,
            silent_since: None,
            // What is replaced is told again.
            heard: false,
        })
    }
}
