//! Queues that the contact has replaced, and telling it that we have replaced ours.

use std::collections::{BTreeMap, VecDeque};

use posta_protocol::command::WriterCapability;
use posta_protocol::end_to_end::{Kind, MAX_QUEUES, QueueAddress, QueueKey};
use posta_protocol::now::Now;
use posta_protocol::params::RECEIPT_LAG;

use super::{OutQueue, Outgoing, State, What, content};
use crate::end_to_end::{Conversation, Founded};
use crate::session::core::Core;

impl OutQueue {
    /// A queue of the contact's, to be made ours.
    pub(super) fn new(core: &mut Core, founded: &Founded, address: QueueAddress) -> Self {
        Self {
            relay: address.relay,
            invited: WriterCapability::new(address.invited),
            writer: WriterCapability::random(&mut core.rng),
            seal: QueueKey::within(&founded.exported, &address.key),
            invited_seal: QueueKey::new(&address.key),
            key: address.key,
            state: State::Invited,
            was_secured: false,
            restored: false,
            secured_again: false,
            secure: None,
            missing: None,
            next_sequence: 1,
            boxes: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_release: None,
            receipt: false,
            turn: false,
            introduce: false,
            moved: false,
        }
    }

    fn is_at(&self, address: &QueueAddress) -> bool {
        self.relay == address.relay && self.key == address.key
    }
}

impl Outgoing {
    /// How many of these queues are new.
    pub(crate) fn fresh(&self, list: &[QueueAddress]) -> usize {
        list.iter().filter(|address| !self.queues.iter().any(|q| q.is_at(address))).count()
    }

    /// Writes to these queues from now on. What was not delivered goes to the new ones too.
    pub(crate) fn moved(&mut self, core: &mut Core, now: Now, founded: &Founded, list: Vec<QueueAddress>) {
        let mut gone: VecDeque<usize> = (0..self.queues.len())
            .filter(|i| self.queues.get(*i).is_some_and(|q| !list.iter().any(|a| q.is_at(a))))
            .collect();
        for address in list {
            if self.queues.iter().any(|q| q.is_at(&address)) {
                continue;
            }
            let mut new = OutQueue::new(core, founded, address);
            new.waiting = self.messages.keys().map(|number| (*number, now.mono)).collect();
            // Whatever else is said first: that we write here is what the contact waits for.
            new.receipt = self.receipt.is_some();
            new.turn = self.turn.is_some();
            new.moved = self.moved.is_some();
            new.introduce = self.introduction.is_some();
            let index = match gone.pop_front() {
                Some(index) => {
                    self.let_go(core, index);
                    index
                }
                None if self.queues.len() < MAX_QUEUES => self.queues.len(),
                None => continue,
            };
            match self.queues.get_mut(index) {
                Some(queue) => *queue = new,
                None => self.queues.push(new),
            }
            self.secure(core, now, index);
        }
        for index in gone {
            self.let_go(core, index);
        }
    }

    /// Forgets what a queue holds, or was to hold. It is nobody's fault, so nobody is told.
    fn let_go(&mut self, core: &mut Core, index: usize) {
        core.requests.cancel_writing(self.contact, index);
        let Some(queue) = self.queues.get_mut(index) else { return };
        queue.state = State::Lost;
        for sealed in std::mem::take(&mut queue.boxes).into_values().filter(|b| b.confirmed) {
            if let What::Message(number) = sealed.what
                && let Some(message) = self.messages.get_mut(&number)
            {
                message.stored = message.stored.saturating_sub(1);
            }
        }
        queue.waiting.clear();
        (queue.secure, queue.missing) = (None, None);
    }

    /// Tells the contact where we read from now on, in every queue; a list that still waits is replaced.
    pub(crate) fn announce(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        (generation, queues): (u64, Vec<QueueAddress>),
    ) {
        let oldest = self.messages.values().next().map(|m| m.sealed);
        if oldest.is_some_and(|oldest| conversation.sealed() - oldest >= RECEIPT_LAG) {
            // As with receipts: it would overtake a message by more than its key lasts. It is told again later.
            return;
        }
        let content = content(core, Kind::Moved { generation, queues });
        self.moved = conversation.seal(now.mono, 0, &content).ok();
        self.queues.iter_mut().filter(|q| q.state != State::Lost).for_each(|q| q.moved = true);
        self.fill(core, now);
    }

    /// Puts something into every queue, so that the contact sees that we write there.
    pub(crate) fn show(&mut self, core: &mut Core, now: Now) {
        if self.receipt.is_some() {
            self.queues.iter_mut().filter(|q| q.state != State::Lost).for_each(|q| q.receipt = true);
            self.fill(core, now);
        }
    }
}
