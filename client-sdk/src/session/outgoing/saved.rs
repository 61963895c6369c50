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
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.next_number);
        w.u64(self.delivered);
        w.bool(self.introduction.is_some());
        // By the numbers of their records.
        for number in [self.receipt.as_ref().map(|(n, _)| *n), self.turn.as_ref().map(|t| t.epoch), self.withheld] {
            w.bool(number.is_some());
            w.u64(number.unwrap_or_default());
        }
        w.count(self.messages.len());
        for (number, message) in &self.messages {
            w.u64(*number);
            w.u64(message.expires.0);
            w.count(message.stored);
            w.bool(message.failed);
        }
        w.count(self.queues.len());
        self.queues.iter().for_each(|q| q.write(w));
    }

    pub(crate) fn read(
        r: &mut Reader<'_>,
        id: ContactId,
        conversation: &Conversation,
        parts: &mut Parts,
    ) -> Result<Self, Malformed> {
        let mut new = Self::new(id);
        new.next_number = r.u64("next number")?;
        new.delivered = r.u64("delivered")?;
        let mut inside = |part| -> Result<Arc<[u8]>, Malformed> {
            let bytes = parts.remove(&part).ok_or(Malformed::Value("inside"))?;
            Ok(reader(&bytes)?.bounded(BOX_CONTENT_LEN, "inside")?.into())
        };
        if r.bool("introduction")? {
            new.introduction = Some(inside(Part::Inside(INTRODUCTION, 0))?);
        }
        let mut number = || -> Result<_, Malformed> { Ok((r.bool("inside")?, r.u64("inside")?)) };
        let [(is_receipt, receipt), (is_turn, epoch), (is_withheld, up_to)] = [number()?, number()?, number()?];
        if is_receipt {
            new.receipt = Some((receipt, inside(Part::Inside(RECEIPT, receipt))?));
        }
        if is_turn {
            new.turn = Some(Turn { epoch, bytes: inside(Part::Inside(TURN, epoch))? });
        }
        new.withheld = is_withheld.then_some(up_to);
        for _ in 0..r.count(OUTBOX, "messages")? {
            let number = r.u64("number")?;
            let kept = parts.remove(&Part::Message(number)).ok_or(Malformed::Value("message"))?;
            let mut kept = reader(&kept)?;
            let (epoch, sealed) = (kept.u64("epoch")?, kept.u64("sealed")?);
            let inner = kept.bounded(BOX_CONTENT_LEN, "inside")?.into();
            let expires = Wall(r.u64("expires")?);
            let stored = r.count(usize::from(u16::MAX), "stored")?;
            new.messages.insert(number, Message { expires, inner, epoch, sealed, stored, failed: r.bool("failed")? });
        }
        for index in 0..r.count(MAX_QUEUES, "queues")? {
            let index = u8::try_from(index).map_err(|_| Malformed::Value("queues"))?;
            new.queues.push(OutQueue::read(r, index, conversation, parts)?);
        }
        Ok(new)
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let boxes = (0..).zip(&self.queues).flat_map(|(i, q)| q.boxes.keys().map(move |s| Part::Box(i, *s)));
        let introduction = self.introduction.as_ref().map(|_| Part::Inside(INTRODUCTION, 0));
        let receipt = self.receipt.as_ref().map(|(n, _)| Part::Inside(RECEIPT, *n));
        let turn = self.turn.as_ref().map(|t| Part::Inside(TURN, t.epoch));
        let insides = [introduction, receipt, turn].into_iter().flatten();
        self.messages.keys().map(|number| Part::Message(*number)).chain(boxes).chain(insides)
    }

    pub(crate) fn part(&self, part: Part) -> Option<Vec<u8>> {
        match part {
            Part::Message(number) => {
                let message = self.messages.get(&number)?;
                let mut w = writer();
                w.u64(message.epoch);
                w.u64(message.sealed);
                w.bounded(&message.inner);
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
            Part::Overtaken(_) | Part::Early(..) => None,
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

impl OutQueue {
    fn write(&self, w: &mut Writer) {
        self.relay.write(w);
        self.invited.write(w);
        self.writer.write(w);
        w.bytes(self.key.expose());
        w.u8(match self.state {
            State::Invited => 1,
            State::Secured => 2,
            State::Lost => 3,
        });
        for flag in [self.was_secured, self.restored, self.secured_again, self.receipt, self.turn, self.introduce] {
            w.bool(flag);
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
        let founded = conversation.founded().ok_or(Malformed::Value("conversation"))?;
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
            seal: QueueKey::within(&founded.exported, &key),
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
