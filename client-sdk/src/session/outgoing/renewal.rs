//! A conversation that begins anew: the same queues, the same numbers of messages, everything sealed again.

use posta_protocol::end_to_end::{Kind, QueueAddress, QueueKey};
use posta_protocol::now::{Now, Wall};
use posta_protocol::params::MAX_SEQUENCE_AHEAD;
use rand::RngExt;

use super::{Message, OUTBOX, OutQueue, Outgoing, State, content};
use crate::end_to_end::{Conversation, Founded};
use crate::session::core::Core;
use crate::session::event::{ClientEvent, MessageId, MessageState};
use crate::session::history::History;

/// An end that doesn't know which numbers were used in a queue goes on so far beyond those that it knows, at least; a
/// relay takes none that is a million ahead.
const LEAP: u64 = 1 << 16;
/// And so far more, at random: two imports of one export must not meet.
const LEAP_MORE: u64 = 1 << 19;
const _: () = assert!(LEAP + LEAP_MORE < MAX_SEQUENCE_AHEAD);

impl OutQueue {
    fn leap(&mut self, core: &mut Core) {
        let leap = LEAP + core.rng.random_range(0..LEAP_MORE);
        self.next_sequence = self.next_sequence.saturating_add(leap);
    }
}

impl Message {
    pub(super) const fn unsealed(expires: Wall, quiet: bool) -> Self {
        Self { expires, inner: None, epoch: 0, sealed: 0, stored: 0, quiet }
    }
}

impl Outgoing {
    /// Says in every queue where the contact can write, before anything else.
    pub(crate) fn introduce(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        (welcome, addresses): (Vec<u8>, Vec<QueueAddress>),
    ) {
        self.introduce_as(core, now, conversation, welcome, Kind::Queues(addresses));
    }

    fn introduce_as(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        welcome: Vec<u8>,
        kind: Kind,
    ) {
        let content = content(core, kind);
        self.introduction = conversation.introduce(welcome, &content).ok();
        self.queues.iter_mut().for_each(|q| q.introduce = true);
        self.fill(core, now);
    }

    /// Everything that was sealed in the conversation before is of no use any more. `leap`: nobody knows which numbers of
    /// boxes were used.
    pub(crate) fn begin_again(&mut self, core: &mut Core, founded: &Founded, leap: bool) {
        self.generation = self.generation.wrapping_add(1);
        self.set_back = false;
        (self.receipt, self.withheld, self.turn, self.introduction, self.moved) = (None, None, None, None, None);
        for queue in self.queues.iter_mut().filter(|q| q.state != State::Lost) {
            queue.call_back(core);
            queue.boxes.clear();
            queue.waiting.clear();
            (queue.receipt, queue.turn, queue.introduce, queue.moved) = (false, false, false, false);
            queue.seal = QueueKey::within(&founded.exported, &queue.key);
            if leap {
                queue.leap(core);
            }
        }
        for message in self.messages.values_mut() {
            (message.inner, message.stored) = (None, 0);
        }
    }

    /// A relay has refused the number under which a queue is told of the new conversation: it knows a higher one.
    pub(super) fn leap(&mut self, core: &mut Core, now: Now, index: usize, sequence: u64) {
        let says = self.introduction.is_some();
        let Some(queue) = self.queues.get_mut(index) else { return };
        queue.boxes.remove(&sequence);
        queue.introduce = says;
        queue.leap(core);
        self.fill(core, now);
    }

    /// Says in every queue, before anything else, that the conversation begins anew.
    pub(crate) fn renew(&mut self, core: &mut Core, now: Now, conversation: &mut Conversation, new: (Vec<u8>, Kind)) {
        let (welcome, kind) = new;
        for index in 0..self.queues.len() {
            if self.queues.get(index).is_some_and(|q| q.state == State::Invited) {
                self.secure(core, now, index);
            }
        }
        self.introduce_as(core, now, conversation, welcome, kind);
    }

    /// The contact has everything up to `have` and nothing beyond, whatever it has said before: what is still here is
    /// delivered again.
    pub(crate) fn take_over(&mut self, core: &mut Core, now: Now, have: u64, history: &mut History) {
        let have = have.min(self.next_number - 1);
        self.settle(core, now, have, history);
        history.rewind(have);
        while self.delivered > have && self.messages.len() < OUTBOX {
            if history.ours(self.delivered).is_none() {
                break;
            }
            // It came in time once.
            let message = Message::unsealed(now.wall + core.options.expiry, true);
            self.messages.insert(self.delivered, message);
            self.delivered -= 1;
        }
        // What could not be taken back is delivered once and for all.
        history.delivered(self.delivered, now.wall);
    }

    /// The contact, who knew the numbers, has everything up to this one: ours go on behind it.
    pub(crate) fn go_on_after(&mut self, up_to: u64) {
        self.next_number = self.next_number.max(up_to.saturating_add(1));
    }

    /// Seals everything again that is not delivered.
    pub(crate) fn seal_again(&mut self, core: &mut Core, now: Now, conversation: &mut Conversation, history: &History) {
        let numbers: Vec<u64> = self.messages.iter().filter(|(_, m)| m.inner.is_none()).map(|(n, _)| *n).collect();
        for number in numbers {
            let said = history.ours(number).map(|(after, body)| (after, body.to_vec()));
            let Some(message) = self.messages.get_mut(&number) else { continue };
            // A message whose words are lost is sent as one that has expired: its number must not be missing.
            let expires = if said.is_some() { message.expires } else { Wall(0) };
            let (after, body) = said.unwrap_or_default();
            let kind = application(number, expires, after, body);
            (message.epoch, message.sealed) = (conversation.epoch(), conversation.sealed());
            message.inner = conversation.seal(now.mono, number, &content(core, kind)).ok();
        }
        for queue in self.queues.iter_mut().filter(|q| q.state != State::Lost) {
            queue.waiting = self.messages.keys().map(|number| (*number, now.mono)).collect();
        }
        self.fill(core, now);
    }

    /// Everything up to a number is delivered.
    pub(crate) fn settle(&mut self, core: &mut Core, now: Now, up_to: u64, history: &mut History) {
        while let Some(entry) = self.messages.first_entry().filter(|e| *e.key() <= up_to) {
            let (number, message) = entry.remove_entry();
            if !message.quiet {
                let (contact, message) = (self.contact, MessageId(number));
                core.emit(ClientEvent::State { contact, message, state: MessageState::Delivered });
            }
        }
        self.delivered = self.delivered.max(up_to);
        history.delivered(self.delivered, now.wall);
    }
}

/// A message, and whether it is to be forgotten.
pub(super) const fn application(number: u64, expires: Wall, after: u32, body: Vec<u8>) -> Kind {
    match after {
        0 => Kind::Message { number, expires, body },
        after => Kind::Fleeting { number, expires, after, body },
    }
}
