//! The queues that we write to. Each message is sealed once in the conversation, and goes to all of them in a box for
//! each, under each one's own numbers.
//!
//! A sealed box is kept and sent again byte for byte until the relay says that it is on disk, for the relay takes one
//! number for one content only. A message is kept until the contact's receipt.

mod lost;
mod moved;
mod renewal;
mod saved;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::answer::Body;
use posta_protocol::command::{Command, WriterCapability};
use posta_protocol::end_to_end::{Content, Kind, MAX_FLEETING_LEN, MAX_MESSAGE_LEN, QueueAddress, QueueKey};
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Mono, Now, Wall};
pub use posta_protocol::params::SEND_WINDOW;
use posta_protocol::params::{RECEIPT_LAG, SEQUENCE_WINDOW};
use posta_protocol::registry::answer as code;
use posta_protocol::secret::Secret;
use zeroize::Zeroizing;

use super::core::{Core, earlier};
use super::event::{ClientEvent, ContactId, Failure, MessageId, MessageState, SendError};
use super::history::History;
use super::line::exponential;
use super::renewal::Renewal;
use super::request::{Purpose, RequestId, Task};
use crate::end_to_end::{Conversation, Founded, Turn};

/// Messages to one contact that are not delivered yet, at most; beyond, [`SendError::OutboxFull`].
pub const OUTBOX: usize = 256;
/// Mean time after which the copies of a message follow the first; with slots, two of them if that is longer.
const COPY_DELAY: Duration = Duration::from_secs(1);
/// How often a queue is asked for that its restored relay lacks; each time twice as long after the time before, about
/// nine hours in all. Then it is lost.
const MISSING_TRIES: u32 = 14;
/// The first of these waits, about.
const MISSING_WAIT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The invited capability is to be replaced by ours.
    Invited,
    /// It is ours to write to.
    Secured,
    /// Gone.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Message(u64),
    Receipt,
    Turn,
    Introduction,
    /// Where we read from now on.
    Moved,
}

/// A sealed box that has its number.
struct Sealed {
    what: What,
    bytes: Box<[u8]>,
    confirmed: bool,
    request: Option<RequestId>,
}

/// One queue that we write to.
struct OutQueue {
    relay: RelayId,
    invited: WriterCapability,
    writer: WriterCapability,
    key: Secret<32>,
    /// Seals what is said in the conversation.
    seal: QueueKey,
    /// Seals what the conversation begins with: its reader has yet to join.
    invited_seal: QueueKey,
    state: State,
    /// Whether it was ours before.
    was_secured: bool,
    /// Whether its relay has forgotten what it held, once or more.
    restored: bool,
    /// Whether `secure` was sent a second time, after the queue had refused us.
    secured_again: bool,
    secure: Option<RequestId>,
    /// When to ask for it once more, and how often that was done, while it isn't there.
    missing: Option<(Mono, u32)>,
    next_sequence: u64,
    boxes: BTreeMap<u64, Sealed>,
    /// Messages that have no number here yet, and when they may have one.
    waiting: VecDeque<(u64, Mono)>,
    /// When the first of those that may not yet, may.
    next_release: Option<Mono>,
    receipt: bool,
    turn: bool,
    introduce: bool,
    moved: bool,
}

struct Message {
    expires: Wall,
    /// The inside of its boxes, if it is sealed in the conversation as it stands. What it says is with the history.
    inner: Option<Arc<[u8]>>,
    /// The epoch in which it was sealed, and how many contents were before.
    epoch: u64,
    sealed: u64,
    stored: usize,
    /// Whether nothing more is told of it: it has failed, or was delivered once before.
    quiet: bool,
}

/// One direction of a contact: from us.
pub(crate) struct Outgoing {
    contact: ContactId,
    /// How often the conversation has begun anew: records of one generation are not those of another.
    generation: u8,
    /// Whether a relay's word shows that this end was set back to an older state.
    pub(crate) set_back: bool,
    queues: Vec<OutQueue>,
    next_number: u64,
    messages: BTreeMap<u64, Message>,
    delivered: u64,
    /// The newest receipt, sealed, with the number of contents that were sealed before.
    receipt: Option<(u64, Arc<[u8]>)>,
    /// A receipt that must wait for the contact's.
    withheld: Option<u64>,
    /// Our last turn, until the contact has followed.
    turn: Option<Turn>,
    /// The welcome, and where the contact can write, to be said first.
    introduction: Option<Arc<[u8]>>,
    /// Where we read from now on. After a start it is sealed anew.
    moved: Option<Arc<[u8]>>,
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to speak of.
    Nothing,
    /// The introduction is on a relay's disk.
    Introduced,
    /// Someone else writes to this queue.
    Taken,
}

impl Outgoing {
    pub(crate) fn new(contact: ContactId) -> Self {
        Self {
            contact,
            generation: 0,
            set_back: false,
            queues: Vec::new(),
            next_number: 1,
            messages: BTreeMap::new(),
            delivered: 0,
            receipt: None,
            withheld: None,
            turn: None,
            introduction: None,
            moved: None,
        }
    }

    pub(crate) fn is_known(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Messages taken, and those of them that are delivered.
    pub(crate) const fn counts(&self) -> (u64, u64) {
        (self.next_number - 1, self.delivered)
    }

    /// How often the conversation has begun anew.
    pub(crate) const fn generation(&self) -> u8 {
        self.generation
    }

    pub(crate) fn relays(&self) -> Vec<RelayId> {
        self.queues.iter().map(|q| q.relay).collect()
    }

    /// Takes the contact's queues over: makes them ours first.
    pub(crate) fn open(&mut self, core: &mut Core, now: Now, founded: &Founded, addresses: Vec<QueueAddress>) {
        for address in addresses {
            self.queues.push(OutQueue::new(core, founded, address));
            self.secure(core, now, self.queues.len() - 1);
        }
    }

    fn purpose(&self, task: Task) -> Purpose {
        Purpose::Contact(self.contact, task)
    }

    pub(super) fn secure(&mut self, core: &mut Core, now: Now, index: usize) {
        let purpose = self.purpose(Task::Secure(index));
        let Some(queue) = self.queues.get_mut(index).filter(|q| q.secure.is_none()) else { return };
        queue.state = State::Invited;
        let command = Command::Secure { invited: queue.invited.duplicate(), writer: queue.writer.id() };
        queue.secure = Some(core.request(now, queue.relay, command, purpose));
    }

    /// A relay answered to `secure`.
    pub(crate) fn secured(&mut self, core: &mut Core, now: Now, index: usize, body: &Body) -> Progress {
        let Some(queue) = self.queues.get_mut(index) else { return Progress::Nothing };
        queue.secure = None;
        if *body == Body::Refused(code::BAD_CAPABILITY) && queue.was_secured {
            // A restored relay that lacks the queue: its reader will make it again, when it hears of it.
            let tries = queue.missing.map_or(0, |(_, tries)| tries);
            if tries < MISSING_TRIES {
                let wait = core.around(MISSING_WAIT.saturating_mul(1 << tries.min(20)));
                queue.missing = Some((now.mono + wait, tries + 1));
                return Progress::Nothing;
            }
        }
        if *body != Body::Ok {
            self.lose(core, index);
            return if *body == Body::Refused(code::TAKEN) { Progress::Taken } else { Progress::Nothing };
        }
        (queue.state, queue.was_secured, queue.missing) = (State::Secured, true, None);
        self.fill(core, now);
        Progress::Nothing
    }

    /// Asks again for queues that their relay lacks.
    pub(crate) fn look_for_missing(&mut self, core: &mut Core, now: Now) {
        for index in 0..self.queues.len() {
            let due = |q: &OutQueue| q.state == State::Invited && q.missing.is_some_and(|(at, _)| at <= now.mono);
            if self.queues.get(index).is_some_and(due) {
                self.secure(core, now, index);
            }
        }
    }

    /// Takes a message to be sent.
    pub(crate) fn send(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        history: &mut History,
        (after, body): (u32, Vec<u8>),
    ) -> Result<MessageId, SendError> {
        let max = if after > 0 { MAX_FLEETING_LEN } else { MAX_MESSAGE_LEN };
        if body.len() > max {
            return Err(SendError::TooLong { got: body.len(), max });
        }
        if self.messages.len() >= OUTBOX {
            return Err(SendError::OutboxFull);
        }
        let number = self.next_number;
        let expires = now.wall + core.options.expiry;
        let content = content(core, renewal::application(number, expires, after, body.clone()));
        let (epoch, sealed) = (conversation.epoch(), conversation.sealed());
        let inner = conversation.seal(now.mono, number, &content).map_err(|_| SendError::NotSealed)?;
        self.next_number += 1;
        history.sent(number, now.wall, after, body);
        let message = Message { inner: Some(inner), epoch, sealed, ..Message::unsealed(expires, false) };
        self.messages.insert(number, message);
        // One relay has it at once; the copies follow at times of their own, so that relays that work together can't pair
        // the queues of a contact by their arrivals.
        let works = |q: &OutQueue| q.state == State::Secured && !core.requests.is_silent(&q.relay);
        let first = self.queues.iter().position(works);
        let mean = COPY_DELAY.max(core.requests.tempo.slot * 2);
        for (index, queue) in self.queues.iter_mut().enumerate().filter(|(_, q)| q.state != State::Lost) {
            let due = if first.is_none_or(|first| first == index) {
                queue.waiting.iter_mut().for_each(|(_, at)| *at = now.mono);
                now.mono
            } else {
                // Never before an earlier one: a reader passes over what lies before a message that it has.
                let last = queue.waiting.back().map_or(now.mono, |(_, at)| *at);
                last.max(now.mono + exponential(mean, &mut core.rng))
            };
            queue.waiting.push_back((number, due));
        }
        self.fill(core, now);
        Ok(MessageId(number))
    }

    /// Tells the contact what has come, in every queue; a receipt that still waits is replaced.
    pub(crate) fn acknowledge(&mut self, core: &mut Core, now: Now, conversation: &mut Conversation, up_to: u64) {
        let oldest = self.messages.values().next().map(|m| m.sealed);
        if oldest.is_some_and(|oldest| conversation.sealed() - oldest >= RECEIPT_LAG) {
            // Receipts would overtake a message by more than its key lasts with the contact.
            self.withheld = Some(up_to);
            return;
        }
        let content = content(core, Kind::Receipt { up_to });
        let sealed = conversation.sealed();
        self.receipt = conversation.seal(now.mono, 0, &content).ok().map(|inner| (sealed, inner));
        self.queues.iter_mut().filter(|q| q.state != State::Lost).for_each(|q| q.receipt = true);
        self.fill(core, now);
    }

    /// Makes a turn if one is due: a commit and a receipt, in every queue. Returns whether it did.
    pub(crate) fn turn(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        renewal: &mut Renewal,
        up_to: u64,
    ) -> bool {
        renewal.followed(conversation.peer_epoch(), now);
        if self.turn.as_ref().is_some_and(|turn| conversation.peer_epoch() >= turn.epoch) {
            self.turn = None;
            self.queues.iter_mut().for_each(|q| q.turn = false);
            (0..self.queues.len()).for_each(|index| self.forget_done(index));
        }
        if self.introduction.is_some() && conversation.peer_epoch() > 0 {
            // The contact has joined and answers: it has served, wherever else a copy of it may still lie.
            self.introduction = None;
            self.queues.iter_mut().for_each(|q| q.introduce = false);
            (0..self.queues.len()).for_each(|index| self.forget_done(index));
        }
        if self.turn_due(conversation).is_none_or(|at| at > now.mono) {
            return false;
        }
        let kind = renewal.load(core, now, up_to, self.delivered + 1);
        let rides = matches!(kind, Kind::KeyPackage { .. });
        let said = content(core, kind);
        let Ok(turn) = conversation.turn(now.mono, &said) else {
            // It would fail again and again.
            conversation.came_apart();
            return false;
        };
        if rides {
            renewal.ride(turn.epoch);
        }
        (self.turn, self.receipt) = (Some(turn), None);
        for queue in self.queues.iter_mut().filter(|q| q.state != State::Lost) {
            (queue.turn, queue.receipt) = (true, false);
        }
        self.fill(core, now);
        true
    }

    fn turn_due(&self, conversation: &Conversation) -> Option<Mono> {
        if self.queues.is_empty() {
            return None;
        }
        conversation.turn_due(self.messages.values().next().map(|m| m.epoch))
    }

    /// Gives numbers to what waits, as far as the windows permit.
    fn fill(&mut self, core: &mut Core, now: Now) {
        if core.view.is_none() {
            // After a start: what contents vouch for isn't known yet.
            return;
        }
        for index in 0..self.queues.len() {
            self.put_again(core, now, index);
            while let Some(what) = self.next_box(now.mono, index) {
                let inner = match what {
                    What::Introduction => self.introduction.as_ref(),
                    What::Moved => self.moved.as_ref(),
                    What::Turn => self.turn.as_ref().map(|turn| &turn.bytes),
                    What::Receipt => self.receipt.as_ref().map(|(_, inner)| inner),
                    What::Message(number) => self.messages.get(&number).and_then(|m| m.inner.as_ref()),
                };
                let Some(inner) = inner else { continue };
                let Some(queue) = self.queues.get_mut(index) else { return };
                let seal = if what == What::Introduction { &queue.invited_seal } else { &queue.seal };
                // Its length was checked when it was taken.
                let Ok(bytes) = seal.seal(inner, &mut core.rng) else { continue };
                let sequence = queue.next_sequence;
                queue.next_sequence += 1;
                queue.boxes.insert(sequence, Sealed { what, bytes, confirmed: false, request: None });
                self.put(core, now, index, sequence);
            }
            if let Some(queue) = self.queues.get_mut(index) {
                queue.next_release = queue.waiting.front().map(|(_, at)| *at).filter(|at| *at > now.mono);
            }
        }
    }

    /// What a queue is to be given next, if it may.
    fn next_box(&mut self, now: Mono, index: usize) -> Option<What> {
        let queue = self.queues.get_mut(index).filter(|q| q.state == State::Secured)?;
        let oldest = queue.boxes.iter().find(|(_, b)| !b.confirmed).map_or(queue.next_sequence, |(s, _)| *s);
        if queue.next_sequence >= oldest + SEND_WINDOW {
            return None;
        }
        if std::mem::take(&mut queue.introduce) {
            return Some(What::Introduction);
        }
        if std::mem::take(&mut queue.turn) {
            return Some(What::Turn);
        }
        if std::mem::take(&mut queue.receipt) {
            return Some(What::Receipt);
        }
        if std::mem::take(&mut queue.moved) {
            return Some(What::Moved);
        }
        queue.waiting.front().filter(|(_, at)| *at <= now)?;
        queue.waiting.pop_front().map(|(number, _)| What::Message(number))
    }

    /// Sends copies whose time has come.
    pub(crate) fn release(&mut self, core: &mut Core, now: Now) {
        let due = |q: &OutQueue| q.next_release.is_some_and(|at| at <= now.mono);
        if self.queues.iter().any(due) {
            self.fill(core, now);
        }
    }

    /// Sends boxes that are not confirmed any more, as far as the window permits: in a restored store each of them is
    /// new, and one that came far ahead of the others would push them out.
    fn put_again(&mut self, core: &mut Core, now: Now, index: usize) {
        let Some(queue) = self.queues.get(index).filter(|q| q.state == State::Secured) else { return };
        let mut open = queue.boxes.iter().filter(|(_, b)| !b.confirmed).peekable();
        let Some(end) = open.peek().map(|(oldest, _)| **oldest + SEND_WINDOW) else { return };
        let due: Vec<u64> =
            open.take_while(|(s, _)| **s < end).filter(|(_, b)| b.request.is_none()).map(|(s, _)| *s).collect();
        for sequence in due {
            self.put(core, now, index, sequence);
        }
    }

    /// Sends a box until it is confirmed.
    fn put(&mut self, core: &mut Core, now: Now, index: usize, sequence: u64) {
        let purpose = self.purpose(Task::Send(index, sequence));
        let Some(queue) = self.queues.get_mut(index) else { return };
        let Some(sealed) = queue.boxes.get_mut(&sequence).filter(|b| !b.confirmed && b.request.is_none()) else {
            return;
        };
        let command = Command::Send { writer: queue.writer.duplicate(), sequence, body: sealed.bytes.clone() };
        sealed.request = Some(core.request(now, queue.relay, command, purpose));
    }

    /// A relay answered to `send`.
    pub(crate) fn sent(&mut self, core: &mut Core, now: Now, index: usize, sequence: u64, body: &Body) -> Progress {
        let Some(queue) = self.queues.get_mut(index) else { return Progress::Nothing };
        let Some(sealed) = queue.boxes.get_mut(&sequence) else { return Progress::Nothing };
        sealed.request = None;
        // The reader has acknowledged a later number: it has this message from another queue and wants no copy of it.
        // Nothing more is to be done here, and nothing was stored.
        let passed_over = *body == Body::Refused(code::OUT_OF_WINDOW);
        let beaten = passed_over || *body == Body::Refused(code::CONFLICT);
        if beaten && self.generation > 0 && sealed.what == What::Introduction {
            self.leap(core, now, index, sequence);
            return Progress::Nothing;
        }
        if *body != Body::Ok && !passed_over {
            if *body == Body::Refused(code::BAD_CAPABILITY) && !std::mem::replace(&mut queue.secured_again, true) {
                queue.call_back(core);
                queue.restored = true;
                self.secure(core, now, index);
            } else if *body == Body::Refused(code::CONFLICT) {
                // Something else is there under this number: a run that this one knows nothing of has written it.
                self.set_back = true;
            } else if queue.state == State::Secured {
                self.lose(core, index);
            }
            return Progress::Nothing;
        }
        queue.secured_again = false;
        let what = sealed.what;
        if passed_over && queue.restored {
            self.renumber(core, now, index, sequence, what);
            self.fill(core, now);
            return Progress::Nothing;
        }
        sealed.confirmed = true;
        self.forget_done(index);
        if let What::Message(number) = what
            && !passed_over
        {
            let n = self.queues.len();
            if let Some(message) = self.messages.get_mut(&number) {
                message.stored += 1;
                if !message.quiet {
                    let state = MessageState::Stored { k: message.stored, n };
                    core.emit(ClientEvent::State { contact: self.contact, message: MessageId(number), state });
                }
            }
        }
        self.fill(core, now);
        if what == What::Introduction { Progress::Introduced } else { Progress::Nothing }
    }

    /// In a restored queue a number is also out of the window if one sent since, before we knew, lies far ahead. What it
    /// held goes under a new number; should the reader have it, it knows it by the message's own number.
    fn renumber(&mut self, core: &mut Core, now: Now, index: usize, sequence: u64, what: What) {
        let delivered = self.delivered;
        let Some(queue) = self.queues.get_mut(index) else { return };
        if sequence + 1 == queue.next_sequence {
            // Not even the newest: nothing that we can send fits there any more.
            return self.lose(core, index);
        }
        queue.boxes.remove(&sequence);
        match what {
            What::Message(number) if number > delivered => queue.waiting.push_back((number, now.mono)),
            What::Message(_) => {}
            What::Receipt => queue.receipt = true,
            What::Turn => queue.turn = self.turn.is_some(),
            What::Introduction => queue.introduce = true,
            What::Moved => queue.moved = self.moved.is_some(),
        }
    }

    /// Forgets boxes that are confirmed and won't be needed after a restore either.
    fn forget_done(&mut self, index: usize) {
        let (delivered, followed, served) = (self.delivered, self.turn.is_none(), self.introduction.is_none());
        if let Some(queue) = self.queues.get_mut(index) {
            queue.boxes.retain(|_, b| match b.what {
                What::Message(number) => !b.confirmed || number > delivered,
                What::Receipt | What::Moved => !b.confirmed,
                What::Turn => !b.confirmed || !followed,
                What::Introduction => !b.confirmed || !served,
            });
        }
    }

    /// The contact has everything up to a number.
    pub(crate) fn receipt(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        history: &mut History,
        up_to: u64,
    ) {
        self.settle(core, now, up_to.min(self.next_number - 1), history);
        let delivered = self.delivered;
        for index in 0..self.queues.len() {
            if let Some(queue) = self.queues.get_mut(index) {
                queue.waiting.retain(|(n, _)| *n > delivered);
            }
            self.forget_done(index);
        }
        if let Some(up_to) = self.withheld.take() {
            self.acknowledge(core, now, conversation, up_to);
        }
        self.fill(core, now);
    }

    /// Messages whose time is over have failed. They are still sent: the receiver counts them, and drops them unread.
    pub(crate) fn expire(&mut self, core: &mut Core, now: Now) {
        let contact = self.contact;
        for (number, message) in self.messages.iter_mut().filter(|(_, m)| !m.quiet && m.expires <= now.wall) {
            message.quiet = true;
            let state = MessageState::Failed { reason: Failure::Expired };
            core.emit(ClientEvent::State { contact, message: MessageId(*number), state });
        }
    }

    /// When something is due next.
    pub(crate) fn next_due(&self, now: Now, conversation: &Conversation) -> Option<Mono> {
        let next = self.messages.values().filter(|m| !m.quiet).map(|m| m.expires).min();
        let asked = |q: &OutQueue| q.missing.filter(|_| q.state == State::Invited && q.secure.is_none());
        let missing = self.queues.iter().filter_map(asked).map(|(at, _)| at).min();
        let due = earlier(next.map(|at| now.mono + at.since(now.wall)), missing);
        let release = self.queues.iter().filter(|q| q.state == State::Secured).filter_map(|q| q.next_release).min();
        let due = earlier(due, release);
        earlier(due, self.turn_due(conversation))
    }
}

impl OutQueue {
    /// Boxes on their way are not waited for: they were sent to a queue that isn't there in this form.
    fn call_back(&mut self, core: &mut Core) {
        self.boxes.values_mut().filter_map(|b| b.request.take()).for_each(|id| core.requests.cancel(id));
    }
}

/// What is said, with the consensus that we vouch for.
fn content(core: &Core, kind: Kind) -> Zeroizing<Vec<u8>> {
    let (epoch, consensus) = core.vouched();
    Zeroizing::new(Content { epoch, consensus, kind }.encode())
}

const _: () = assert!(SEND_WINDOW < SEQUENCE_WINDOW);
