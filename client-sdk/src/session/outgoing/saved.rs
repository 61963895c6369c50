//! The queues that we write to as records. A sealed box is kept as it is: under its number nothing else ever leaves.

use std::collections::{BTreeMap, VecDeque};

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::WriterCapability;
use posta_protocol::end_to_end::{MAX_MESSAGE_LEN, MAX_QUEUES, QueueAddress, QueueKey};
use posta_protocol::error::Malformed;
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Now, Wall};
use posta_protocol::params::BOX_LEN;
use posta_protocol::secret::Secret;

use super::{Message, OUTBOX, OutQueue, Outgoing, Sealed, State, What};
use crate::session::core::Core;
use crate::session::event::ContactId;
use crate::session::saved::{Part, Parts, reader, writer};

/// Boxes of one queue that are kept, at most: all of the outbox, receipts and what was renumbered.
const MAX_BOXES: usize = 16 * OUTBOX;

impl Outgoing {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.next_number);
        w.u64(self.delivered);
        w.u64(self.receipt);
        w.bool(!self.introduction.is_empty());
        if !self.introduction.is_empty() {
            QueueAddress::write_list(&self.introduction, w);
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

    pub(crate) fn read(r: &mut Reader<'_>, id: ContactId, parts: &mut Parts) -> Result<Self, Malformed> {
        let mut new = Self::new(id);
        new.next_number = r.u64("next number")?;
        new.delivered = r.u64("delivered")?;
        new.receipt = r.u64("receipt")?;
        if r.bool("introduction")? {
            new.introduction = QueueAddress::read_list(r)?;
        }
        for _ in 0..r.count(OUTBOX, "messages")? {
            let number = r.u64("number")?;
            let body = parts.remove(&Part::Message(number)).ok_or(Malformed::Value("message"))?;
            let body = reader(&body)?.bounded(MAX_MESSAGE_LEN, "body")?.to_vec();
            let expires = Wall(r.u64("expires")?);
            let stored = r.count(usize::from(u16::MAX), "stored")?;
            new.messages.insert(number, Message { expires, body, stored, failed: r.bool("failed")? });
        }
        for index in 0..r.count(MAX_QUEUES, "queues")? {
            let index = u8::try_from(index).map_err(|_| Malformed::Value("queues"))?;
            new.queues.push(OutQueue::read(r, index, parts)?);
        }
        Ok(new)
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let boxes = (0..).zip(&self.queues).flat_map(|(i, q)| q.boxes.keys().map(move |s| Part::Box(i, *s)));
        self.messages.keys().map(|number| Part::Message(*number)).chain(boxes)
    }

    pub(crate) fn part(&self, part: Part) -> Option<Vec<u8>> {
        match part {
            Part::Message(number) => {
                let mut w = writer();
                w.bounded(&self.messages.get(&number)?.body);
                Some(w.finish())
            }
            Part::Box(queue, sequence) => {
                let sealed = self.queues.get(usize::from(queue))?.boxes.get(&sequence)?;
                Some(sealed.bytes.to_vec())
            }
            Part::Overtaken(_) => None,
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
        for flag in [self.was_secured, self.restored, self.secured_again, self.receipt, self.introduce] {
            w.bool(flag);
        }
        w.u64(self.next_sequence);
        w.count(self.waiting.len());
        self.waiting.iter().for_each(|number| w.u64(*number));
        w.count(self.boxes.len());
        for (sequence, sealed) in &self.boxes {
            w.u64(*sequence);
            let (kind, number) = match sealed.what {
                What::Message(number) => (1, number),
                What::Receipt => (2, 0),
                What::Introduction => (3, 0),
            };
            w.u8(kind);
            w.u64(number);
            w.bool(sealed.confirmed);
        }
    }

    fn read(r: &mut Reader<'_>, index: u8, parts: &mut Parts) -> Result<Self, Malformed> {
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
        let (receipt, introduce) = (r.bool("flag")?, r.bool("flag")?);
        let next_sequence = r.u64("next sequence")?;
        let mut waiting = VecDeque::new();
        for _ in 0..r.count(2 * OUTBOX, "waiting")? {
            waiting.push_back(r.u64("number")?);
        }
        let mut boxes = BTreeMap::new();
        for _ in 0..r.count(MAX_BOXES, "boxes")? {
            let sequence = r.u64("sequence")?;
            let (kind, number) = (r.u8("kind")?, r.u64("number")?);
            let what = match kind {
                1 => What::Message(number),
                2 => What::Receipt,
                3 => What::Introduction,
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
            seal: Box::new(QueueKey::new(&key)),
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
            introduce,
        })
    }
}
