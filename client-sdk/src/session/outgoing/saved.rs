//! The queues that we write to as records. A sealed box is kept as it is: under its number nothing else ever leaves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::WriterCapability;
use posta_protocol::crypto::{self, local};
use posta_protocol::end_to_end::{MAX_QUEUES, QueueKey};
use posta_protocol::error::Malformed;
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Now, Wall};
use posta_protocol::params::BOX_LEN;
use posta_protocol::secret::Secret;

use super::{Message, OUTBOX, OutQueue, Outgoing, Sealed, State, What};
use crate::end_to_end::{Founded, Turn};
use crate::session::core::Core;
use crate::session::event::ContactId;
use crate::session::saved::{Part, Parts};

/// Boxes of one queue that are kept, at most: all of the outbox, receipts and what was renumbered.
const MAX_BOXES: usize = 16 * OUTBOX;

impl Outgoing {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.next_number);
        w.u64(self.delivered);
        w.bool(self.withheld.is_some());
        w.u64(self.withheld.unwrap_or_default());
        w.u64(self.turn.as_ref().map_or(0, |t| t.epoch));
        for sealed in self.sealed() {
            w.bool(sealed.is_some());
            w.u64(sealed.map_or(0, |bytes| digest(bytes)));
        }
        w.count(self.messages.len());
        for (number, message) in &self.messages {
            w.u64(*number);
            w.u64(message.expires.0);
            w.u64(message.epoch);
            w.u64(message.sealed);
            w.count(message.stored);
            w.bool(message.failed);
        }
        w.count(self.queues.len());
        self.queues.iter().for_each(|q| q.write(w));
    }

    pub(crate) fn read(
        r: &mut Reader<'_>,
        id: ContactId,
        founded: Option<&Founded>,
        parts: &mut Parts,
    ) -> Result<Self, Malformed> {
        let mut new = Self::new(id);
        new.next_number = r.u64("next number")?;
        new.delivered = r.u64("delivered")?;
        let withheld = r.bool("withheld")?;
        new.withheld = Some(r.u64("withheld")?).filter(|_| withheld);
        let epoch = r.u64("turn")?;
        let mut sealed = [None, None, None];
        for (kind, slot) in (0..).zip(&mut sealed) {
            let there = r.bool("sealed")?;
            let digest = r.u64("sealed")?;
            if there {
                let bytes = parts.remove(&Part::Sealed(kind, digest)).ok_or(Malformed::Value("sealed"))?;
                *slot = Some(Arc::<[u8]>::from(bytes.as_slice()));
            }
        }
        let [receipt, turn, introduction] = sealed;
        (new.receipt, new.introduction) = (receipt, introduction);
        new.turn = turn.map(|bytes| Turn { epoch, bytes });
        for _ in 0..r.count(OUTBOX, "messages")? {
            let number = r.u64("number")?;
            let inner = parts.remove(&Part::Message(number)).ok_or(Malformed::Value("message"))?;
            let inner = Arc::<[u8]>::from(inner.as_slice());
            let expires = Wall(r.u64("expires")?);
            let (epoch, sealed) = (r.u64("epoch")?, r.u64("sealed")?);
            let stored = r.count(usize::from(u16::MAX), "stored")?;
            let failed = r.bool("failed")?;
            new.messages.insert(number, Message { expires, inner, epoch, sealed, stored, failed });
        }
        for index in 0..r.count(MAX_QUEUES, "queues")? {
            let index = u8::try_from(index).map_err(|_| Malformed::Value("queues"))?;
            let founded = founded.ok_or(Malformed::Value("conversation"))?;
            new.queues.push(OutQueue::read(r, index, founded, parts)?);
        }
        Ok(new)
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let boxes = (0..).zip(&self.queues).flat_map(|(i, q)| q.boxes.keys().map(move |s| Part::Box(i, *s)));
        let sealed = (0..).zip(self.sealed()).filter_map(|(kind, s)| Some(Part::Sealed(kind, digest(s?))));
        self.messages.keys().map(|number| Part::Message(*number)).chain(boxes).chain(sealed)
    }

    /// What is sealed in the conversation beside messages, and may be put into a box again: receipt, turn, introduction.
    fn sealed(&self) -> [Option<&Arc<[u8]>>; 3] {
        [self.receipt.as_ref(), self.turn.as_ref().map(|t| &t.bytes), self.introduction.as_ref()]
    }

    pub(crate) fn part(&self, part: Part) -> Option<Vec<u8>> {
        match part {
            Part::Message(number) => Some(self.messages.get(&number)?.inner.to_vec()),
            Part::Sealed(kind, _) => Some((*self.sealed().get(usize::from(kind))?)?.to_vec()),
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
        for flag in [self.was_secured, self.restored, self.secured_again, self.receipt, self.turn, self.introduce] {
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
                What::Turn => (4, 0),
            };
            w.u8(kind);
            w.u64(number);
            w.bool(sealed.confirmed);
        }
    }

    fn read(r: &mut Reader<'_>, index: u8, founded: &Founded, parts: &mut Parts) -> Result<Self, Malformed> {
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
                4 => What::Turn,
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
        })
    }
}

/// By which a sealed content is known: its name on the disk is written once.
fn digest(bytes: &[u8]) -> u64 {
    let hash = crypto::hash(local::STORE_PART, bytes).0;
    u64::from_le_bytes(hash.first_chunk().copied().unwrap_or_default())
}
