//! The queues that we write to as records. A sealed box is kept as it is: under its number nothing else ever leaves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::WriterCapability;
use posta_protocol::end_to_end::{MAX_QUEUES, QueueKey};
use posta_protocol::error::Malformed;
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::params::{BOX_CONTENT_LEN, BOX_LEN};
use posta_protocol::secret::Secret;

use super::{Message, OUTBOX, OutQueue, Outgoing, Sealed, State, What};
use crate::end_to_end::{Conversation, Turn};
use crate::session::core::Core;
use crate::session::event::ContactId;
use crate::session::saved::{Part, Parts, reader, writer};

/// Boxes of one queue that are kept, at most: all of the outbox, receipts and what was renumbered.
const MAX_BOXES: usize = 16 * OUTBOX;
/// Insides of boxes that are no messages, by kind.
const INTRODUCTION: u8 = 1;
const RECEIPT: u8 = 2;
const TURN: u8 = 3;

impl Outgoing {
    /// Writes it; for an export, what another run can go on with: no box, and nothing that is sealed.
    pub(crate) fn write(&self, w: &mut Writer, export: bool) {
        w.u64(self.next_number);
        w.u64(self.delivered);
        w.bool(!export && self.introduction.is_some());
        // By the numbers of their records.
        for number in [self.receipt.as_ref().map(|(n, _)| *n), self.turn.as_ref().map(|t| t.epoch), self.withheld] {
            let number = number.filter(|_| !export);
            w.bool(number.is_some());
            w.u64(number.unwrap_or_default());
        }
        w.count(self.messages.len());
        for (number, message) in &self.messages {
            w.u64(*number);
            w.u64(message.expires.0);
            w.count(if export { 0 } else { message.stored });
            w.bool(message.quiet);
        }
        w.count(self.queues.len());
        self.queues.iter().for_each(|q| q.write(w, export));
    }

    pub(crate) fn read(
        r: &mut Reader<'_>,
        id: ContactId,
        generation: u8,
        conversation: &Conversation,
        parts: &mut Parts,
    ) -> Result<Self, Malformed> {
        let mut new = Self { generation, ..Self::new(id) };
        let mark = |number| mark(generation, number);
        new.next_number = r.u64("next number")?;
        new.delivered = r.u64("delivered")?;
        let mut inside = |part| -> Result<Arc<[u8]>, Malformed> {
            let bytes = parts.remove(&part).ok_or(Malformed::Value("inside"))?;
            Ok(reader(&bytes)?.bounded(BOX_CONTENT_LEN, "inside")?.into())
        };
        if r.bool("introduction")? {
            new.introduction = Some(inside(Part::Inside(INTRODUCTION, mark(0)))?);
        }
        let mut number = || -> Result<_, Malformed> { Ok((r.bool("inside")?, r.u64("inside")?)) };
        let [(is_receipt, receipt), (is_turn, epoch), (is_withheld, up_to)] = [number()?, number()?, number()?];
        if is_receipt {
            new.receipt = Some((receipt, inside(Part::Inside(RECEIPT, mark(receipt)))?));
        }
        if is_turn {
            new.turn = Some(Turn { epoch, bytes: inside(Part::Inside(TURN, mark(epoch)))? });
        }
        new.withheld = is_withheld.then_some(up_to);
        for _ in 0..r.count(OUTBOX, "messages")? {
            let number = r.u64("number")?;
            let expires = Wall(r.u64("expires")?);
            let stored = r.count(usize::from(u16::MAX), "stored")?;
            let mut message = Message { stored, ..Message::unsealed(expires, r.bool("quiet")?) };
            if let Some(kept) = parts.remove(&Part::Message(generation, number)) {
                let mut kept = reader(&kept)?;
                (message.epoch, message.sealed) = (kept.u64("epoch")?, kept.u64("sealed")?);
                message.inner = Some(kept.bounded(BOX_CONTENT_LEN, "inside")?.into());
            }
            new.messages.insert(number, message);
        }
        for index in 0..r.count(MAX_QUEUES, "queues")? {
            let index = u8::try_from(index).map_err(|_| Malformed::Value("queues"))?;
            new.queues.push(OutQueue::read(r, index, conversation, parts)?);
        }
        Ok(new)
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let boxes = (0..).zip(&self.queues).flat_map(|(i, q)| q.boxes.keys().map(move |s| Part::Box(i, *s)));
        let generation = self.generation;
        let mark = |number| mark(generation, number);
        let introduction = self.introduction.as_ref().map(|_| Part::Inside(INTRODUCTION, mark(0)));
        let receipt = self.receipt.as_ref().map(|(n, _)| Part::Inside(RECEIPT, mark(*n)));
        let turn = self.turn.as_ref().map(|t| Part::Inside(TURN, mark(t.epoch)));
        let insides = [introduction, receipt, turn].into_iter().flatten();
        let sealed = self.messages.iter().filter(|(_, m)| m.inner.is_some());
        sealed.map(move |(number, _)| Part::Message(generation, *number)).chain(boxes).chain(insides)
    }

    pub(crate) fn part(&self, part: Part) -> Option<Vec<u8>> {
        match part {
            Part::Message(_, number) => {
                let message = self.messages.get(&number)?;
                let mut w = writer();
                w.u64(message.epoch);
                w.u64(message.sealed);
                w.bounded(message.inner.as_ref()?);
                Some(w.finish())
            }
            Part::Box(queue, sequence) => {
                let sealed = self.queues.get(usize::from(queue))?.boxes.get(&sequence)?;
                Some(sealed.bytes.to_vec())
            }
            Part::Inside(kind, _) => {
                let inside = match kind {
                    INTRODUCTION => self.introduction.as_ref()?,
                    RECEIPT => &self.receipt.as_ref()?.1,
                    _ => &self.turn.as_ref()?.bytes,
                };
                let mut w = writer();
                w.bounded(inside);
                Some(w.finish())
            }
            Part::Overtaken(_) | Part::Early(..) | Part::Held(_) | Part::Spare(_) | Part::Said(..) => None,
        }
    }

    /// Makes queues ours that aren't yet, and sends again what is not confirmed.
    pub(crate) fn resume(&mut self, core: &mut Core, now: Now) {
        for index in 0..self.queues.len() {
            if self.queues.get(index).is_some_and(|q| q.state == State::Invited) {
                self.secure(core, now, index);
            }
        }
        self.fill(core, now);
    }
}

/// The number of a record of one generation.
const fn mark(generation: u8, number: u64) -> u64 {
    (generation as u64) << 56 | number
}

impl OutQueue {
    fn write(&self, w: &mut Writer, export: bool) {
        self.relay.write(w);
        self.invited.write(w);
        self.writer.write(w);
        w.bytes(self.key.expose());
        w.u8(match self.state {
            State::Invited => 1,
            State::Secured => 2,
            State::Lost => 3,
        });
        let to_say = [self.receipt, self.turn, self.introduce].map(|flag| flag && !export);
        for flag in [self.was_secured, self.restored, self.secured_again].into_iter().chain(to_say) {
            w.bool(flag);
        }
        if export {
            // A bound for the next run, which goes on far beyond it.
            w.u64(self.next_sequence);
            w.count(0);
            w.count(0);
            return;
        }
        w.u64(self.next_sequence);
        w.count(self.waiting.len());
        self.waiting.iter().for_each(|(number, _)| w.u64(*number));
        w.count(self.boxes.len());
        for (sequence, sealed) in &self.boxes {
            w.u64(*sequence);
            let (kind, number) = match sealed.what {
                What::Message(number) => (1, number),
                What::Receipt => (2, 0),
                What::Introduction => (3, 0),
                What::Turn => (4, 0),
                What::Moved => (5, 0),
            };
            w.u8(kind);
            w.u64(number);
            w.bool(sealed.confirmed);
        }
    }

    fn read(r: &mut Reader<'_>, index: u8, conversation: &Conversation, parts: &mut Parts) -> Result<Self, Malformed> {
        let relay = RelayId::read(r)?;
        let (invited, writer) = (WriterCapability::read(r)?, WriterCapability::read(r)?);
        let key = Secret::read(r, "key")?;
        let state = match r.u8("state")? {
            1 => State::Invited,
            2 => State::Secured,
            3 => State::Lost,
            _ => return Err(Malformed::Value("state")),
        };
        let (was_secured, restored, secured_again) = (r.bool("flag")?, r.bool("flag")?, r.bool("flag")?);
        let (receipt, turn, introduce) = (r.bool("flag")?, r.bool("flag")?, r.bool("flag")?);
        let next_sequence = r.u64("next sequence")?;
        let mut waiting = VecDeque::new();
        for _ in 0..r.count(2 * OUTBOX, "waiting")? {
            waiting.push_back((r.u64("number")?, Mono(0)));
        }
        let mut boxes = BTreeMap::new();
        for _ in 0..r.count(MAX_BOXES, "boxes")? {
            let sequence = r.u64("sequence")?;
            let (kind, number) = (r.u8("kind")?, r.u64("number")?);
            let what = match kind {
                1 => What::Message(number),
                2 => What::Receipt,
                3 => What::Introduction,
                4 => What::Turn,
                5 => What::Moved,
                _ => return Err(Malformed::Value("kind")),
            };
            let bytes = parts.remove(&Part::Box(index, sequence)).filter(|b| b.len() == BOX_LEN);
            let bytes = bytes.ok_or(Malformed::Value("box"))?.as_slice().into();
            boxes.insert(sequence, Sealed { what, bytes, confirmed: r.bool("confirmed")?, request: None });
        }
        Ok(Self {
            relay,
            invited,
            writer,
            // An import has no conversation yet, and seals nothing until it has.
            seal: conversation.founded().map_or_else(|| QueueKey::new(&key), |f| QueueKey::within(&f.exported, &key)),
            invited_seal: QueueKey::new(&key),
            key,
            state,
            was_secured,
            restored,
            secured_again,
            secure: None,
            missing: None,
            next_sequence,
            boxes,
            waiting,
            receipt,
            turn,
            introduce,
            next_release: None,
            // It is told again.
            moved: false,
        })
    }
}
