//! The queue service: commands in, operations of the store, answers out through reply blocks.
//!
//! ```text
//! content -> Envelope -> QueueOp -> (store) -> Outcome -> Answer -> ReplyBlock::reply -> Send to its first relay
//! ```
//! Capabilities are hashed at once. Reply blocks live in memory only: with the operation that they answer, or in a
//! queue's subscription until there is a message for them.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use posta_link::Rate;
use posta_protocol::admission::{Asks, Statement};
use posta_protocol::answer::{Answer, Body, Info};
use posta_protocol::codec::Reader;
use posta_protocol::command::{Command, Envelope};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Incarnation, QueueId};
use posta_protocol::now::Mono;
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::onion::sealing::Sealing;
use posta_protocol::params::MAX_QUEUE_SURBS;
use posta_protocol::registry::answer as code;
use posta_store::{Outcome, QueueOp, blob_lock};

use self::subscriptions::{Subscribed, Subscriptions, Turn};
use crate::relay::{Action, Admission, Context, Effort, Gate, Token};

mod subscriptions;

pub use subscriptions::{MAX_BLOCKS, MAX_IN_FLIGHT, MAX_PACE, MAX_SUBSCRIPTIONS, RESEND_AFTER};

/// Operations that wait for the store; beyond it commands are answered `busy`.
pub const MAX_PENDING: usize = 4_096;
/// Bytes of the operations that wait for the store, with what they carry and their reply blocks; beyond it commands are
/// answered `busy`. About 3,000 messages with one reply block each.
pub const MAX_PENDING_BYTES: usize = 48 << 20;
/// Queues that are made in a second; further commands to make one are answered `busy`.
pub const MAX_CREATES: u32 = 50;
/// When to try again what found the store busy.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How much the queue service may hold, and what strangers pay for their share of it.
#[derive(Clone, Copy, Debug)]
pub struct QueueBounds {
    /// See [`MAX_PENDING`].
    pub pending: usize,
    /// See [`MAX_PENDING_BYTES`].
    pub pending_bytes: usize,
    /// See [`MAX_SUBSCRIPTIONS`].
    pub subscriptions: usize,
    /// See [`MAX_BLOCKS`].
    pub blocks: usize,
    /// Of one queue; at most [`MAX_QUEUE_SURBS`], then the oldest goes.
    pub blocks_per_queue: usize,
    /// See [`MAX_CREATES`].
    pub creates: u32,
    /// The puzzle before each message to a contact queue.
    pub contact: Effort,
}

impl Default for QueueBounds {
    fn default() -> Self {
        Self {
            pending: MAX_PENDING,
            pending_bytes: MAX_PENDING_BYTES,
            subscriptions: MAX_SUBSCRIPTIONS,
            blocks: MAX_BLOCKS,
            blocks_per_queue: MAX_QUEUE_SURBS,
            creates: MAX_CREATES,
            contact: Effort::CONTACT,
        }
    }
}

/// What to do with an outcome of the store.
enum Pending {
    /// Answer it, and see whether it changes a subscription.
    Command { reply: Option<ReplyBlock>, effect: Effect },
    /// A `subscribe`, whose acknowledgement is with the store.
    Subscribe { queue: QueueId, acked: u64, pace: Duration, blocks: VecDeque<ReplyBlock> },
    /// A message for a subscription.
    Deliver { queue: QueueId },
}

impl Pending {
    /// Reply blocks that it holds.
    fn blocks(&self) -> usize {
        match self {
            Self::Command { reply, .. } => usize::from(reply.is_some()),
            Self::Subscribe { blocks, .. } => blocks.len(),
            Self::Deliver { .. } => 0,
        }
    }
}

/// Bytes that an operation carries to the store.
fn carried(op: &QueueOp) -> usize {
    match op {
        QueueOp::Send { body, .. } | QueueOp::ContactSend { body, .. } | QueueOp::BlobPut { body, .. } => body.len(),
        QueueOp::Read { skip, .. } => size_of_val(skip.as_slice()),
        _ => 0,
    }
}

/// What a command does to a subscription or the gate, once done.
#[derive(Clone, Copy)]
enum Effect {
    None,
    Contacted,
    Acked(QueueId, u64),
    Deleted(QueueId),
}

pub(crate) struct QueueService {
    geometry: Geometry,
    sealing: &'static dyn Sealing,
    incarnation: Incarnation,
    gate: Gate,
    max_pending: usize,
    max_pending_bytes: usize,
    pending: HashMap<Token, (usize, Pending)>,
    /// Of all of them.
    pending_bytes: usize,
    next_token: u64,
    creates: Rate,
    subscriptions: Subscriptions,
    /// Whether nothing new is taken in, because the relay goes.
    retiring: bool,
    /// When a queue or blob was last used, whoever used it.
    used: Mono,
}

impl QueueService {
    pub(crate) fn new(
        geometry: Geometry,
        incarnation: Incarnation,
        admission: Admission,
        bounds: QueueBounds,
        sealing: &'static dyn Sealing,
    ) -> Self {
        Self {
            geometry,
            sealing,
            incarnation,
            gate: Gate::new(admission, bounds.contact),
            max_pending: bounds.pending,
            max_pending_bytes: bounds.pending_bytes,
            pending: HashMap::new(),
            pending_bytes: 0,
            next_token: 0,
            creates: Rate::new(bounds.creates, bounds.creates),
            subscriptions: Subscriptions::new(bounds.subscriptions, bounds.blocks, bounds.blocks_per_queue),
            retiring: false,
            used: Mono(0),
        }
    }

    /// From here on, or no longer: no new queues and blobs, and who asks how a queue stands is told to move it.
    pub(crate) const fn retire(&mut self, retiring: bool) {
        self.retiring = retiring;
    }

    /// When a queue or blob was last used, whoever used it.
    pub(crate) const fn used(&self) -> Mono {
        self.used
    }

    /// Takes over who may make queues, and what a message to a contact queue costs.
    pub(crate) fn admit(&mut self, admission: Admission, contact: Effort) {
        self.gate.change(admission, contact);
    }

    /// Takes other bounds over. Returns how many reply blocks had to go.
    pub(crate) fn bound(&mut self, now: Mono, bounds: QueueBounds) -> u64 {
        self.max_pending = bounds.pending;
        self.max_pending_bytes = bounds.pending_bytes;
        self.creates.retune(now, bounds.creates, bounds.creates);
        self.subscriptions.bound(bounds.subscriptions, bounds.blocks, bounds.blocks_per_queue)
    }

    /// The content of a packet for this relay's queues.
    pub(crate) fn command(&mut self, cx: &mut Context<'_>, content: &[u8]) {
        let Ok(Envelope { command, mut reply }) = Envelope::decode(content, self.geometry) else {
            cx.counters.malformed += 1;
            let block = last_block(content, self.geometry);
            return self.answer(cx, block, Body::Refused(code::MALFORMED));
        };
        if self.retiring && matches!(command, Command::Create { .. } | Command::BlobPut { .. }) {
            cx.counters.retiring += 1;
            return self.answer(cx, reply.pop(), Body::Refused(code::RETIRING));
        }
        let (op, effect) = match command {
            Command::Subscribe { reader, acked, pace } => {
                let pace = Duration::from_millis(pace.into()).min(MAX_PACE);
                return self.subscribe(cx, reader.id(), acked, pace, reply.into());
            }
            Command::Create { queue, writer, kind, proof } => {
                let statement = Statement::create(&queue, &writer, kind);
                if let Err(asks) = self.gate.create(cx.now.mono, cx.rng, &statement, &proof) {
                    return self.not_admitted(cx, reply.pop(), asks);
                }
                // After the proof: who shows none can't use up the others' share.
                if !self.creates.take(cx.now.mono) {
                    cx.counters.create_rate += 1;
                    return self.answer(cx, reply.pop(), Body::Refused(code::BUSY));
                }
                (QueueOp::Create { queue, writer, kind }, Effect::None)
            }
            Command::Secure { invited, writer } => (QueueOp::Secure { invited: invited.id(), writer }, Effect::None),
            Command::Send { writer, sequence, body } => {
                (QueueOp::Send { writer: writer.id(), sequence, body }, Effect::None)
            }
            Command::ContactSend { writer, message, proof, body } => {
                let writer = writer.id();
                // Before the queue is looked for, so that the answer doesn't tell whether there is one.
                if let Err(asks) = self.gate.contact(cx.now.mono, cx.rng, &Statement::send(&writer, &message), &proof) {
                    return self.not_admitted(cx, reply.pop(), asks);
                }
                (QueueOp::ContactSend { writer, message, body }, Effect::Contacted)
            }
            Command::Info { reader } => (QueueOp::Info { queue: reader.id() }, Effect::None),
            Command::Suspend { reader } => (QueueOp::Suspend { queue: reader.id() }, Effect::None),
            Command::Resume { reader } => (QueueOp::Resume { queue: reader.id() }, Effect::None),
            Command::Extend { reader } => (QueueOp::Extend { queue: reader.id() }, Effect::None),
            Command::Fetch { reader, after } => {
                (QueueOp::Read { queue: reader.id(), after, skip: Vec::new() }, Effect::None)
            }
            Command::Ack { reader, up_to } => {
                let queue = reader.id();
                (QueueOp::Ack { queue, up_to }, Effect::Acked(queue, up_to))
            }
            Command::Delete { reader } => {
                let queue = reader.id();
                (QueueOp::Delete { queue }, Effect::Deleted(queue))
            }
            Command::BlobPut { put, get, one_time, hours, body } => {
                let ttl = Duration::from_secs(u64::from(hours) * 3600);
                (QueueOp::BlobPut { put: put.id(), get, one_time, ttl, body }, Effect::None)
            }
            Command::BlobGet { get, reader } => {
                (QueueOp::BlobGet { get: get.id(), lock: blob_lock(&reader) }, Effect::None)
            }
            Command::BlobDelete { put } => (QueueOp::BlobDelete { put: put.id() }, Effect::None),
            Command::Echo => return self.answer(cx, reply.pop(), Body::Ok),
            _ => return self.answer(cx, reply.pop(), Body::Refused(code::UNSUPPORTED)),
        };
        if let Err(Pending::Command { reply, .. }) =
            self.submit(cx, op, Pending::Command { reply: reply.pop(), effect })
        {
            cx.counters.busy += 1;
            self.answer(cx, reply, Body::Refused(code::BUSY));
        }
    }

    fn not_admitted(&self, cx: &mut Context<'_>, reply: Option<ReplyBlock>, asks: Asks) {
        cx.counters.not_admitted += 1;
        self.answer(cx, reply, Body::NotAdmitted(asks));
    }

    /// Acknowledges first: it costs the store nothing if nothing is new, and tells whether the queue exists.
    fn subscribe(
        &mut self,
        cx: &mut Context<'_>,
        queue: QueueId,
        acked: u64,
        pace: Duration,
        blocks: VecDeque<ReplyBlock>,
    ) {
        let pending = Pending::Subscribe { queue, acked, pace, blocks };
        if let Err(Pending::Subscribe { mut blocks, .. }) =
            self.submit(cx, QueueOp::Ack { queue, up_to: acked }, pending)
        {
            cx.counters.busy += 1;
            self.answer(cx, blocks.pop_front(), Body::Refused(code::BUSY));
        }
    }

    /// Asks the store, or gives back what was to be remembered if too much waits already.
    fn submit(&mut self, cx: &mut Context<'_>, op: QueueOp, pending: Pending) -> Result<(), Pending> {
        let bytes = size_of::<QueueOp>() + carried(&op) + pending.blocks() * ReplyBlock::encoded_len(self.geometry);
        if self.pending.len() >= self.max_pending || self.pending_bytes + bytes > self.max_pending_bytes {
            return Err(pending);
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        self.pending_bytes += bytes;
        self.pending.insert(token, (bytes, pending));
        cx.out.push_back(Action::Store { token, op });
        Ok(())
    }

    /// What became of an operation.
    pub(crate) fn stored(&mut self, cx: &mut Context<'_>, token: Token, outcome: Outcome) {
        let (bytes, pending) = match self.pending.remove(&token) {
            None => (0, None),
            Some((bytes, pending)) => (bytes, Some(pending)),
        };
        if pending.is_some() && !matches!(outcome, Outcome::Refused(_)) {
            self.used = cx.now.mono;
        }
        self.pending_bytes -= bytes;
        match pending {
            None => {}
            Some(Pending::Command { reply, effect }) => self.done(cx, reply, effect, outcome),
            Some(Pending::Subscribe { queue, acked, pace, mut blocks }) => {
                if let Outcome::Refused(refusal) = outcome {
                    return self.answer(cx, blocks.pop_front(), Body::Refused(refusal.code()));
                }
                let before = blocks.len();
                blocks.retain(|block| usable(cx, block));
                cx.counters.unanswered += (before - blocks.len()) as u64;
                let new = Subscribed { acked, pace, blocks };
                cx.counters.blocks_dropped += self.subscriptions.add(queue, new);
                self.pump(cx, queue);
            }
            Some(Pending::Deliver { queue }) => self.read(cx, queue, outcome),
        }
    }

    fn done(&mut self, cx: &mut Context<'_>, reply: Option<ReplyBlock>, effect: Effect, outcome: Outcome) {
        let refused = matches!(outcome, Outcome::Refused(_));
        let arrived = match &outcome {
            Outcome::Accepted { queue, .. } | Outcome::Stored { queue, new: true, .. } => Some(*queue),
            _ => None,
        };
        if outcome == Outcome::Created {
            self.gate.created(cx.now.mono);
        }
        let body = match outcome {
            Outcome::Done | Outcome::Created | Outcome::Accepted { .. } | Outcome::Repeated { .. } => Body::Ok,
            Outcome::Stored { through, room, .. } => Body::Stored { through, room },
            Outcome::Info(info) => Body::Info(Info { retiring: self.retiring, ..info }),
            Outcome::Message { sequence, body, left } => Body::Message { sequence, left, body },
            Outcome::Empty => Body::Empty,
            Outcome::Blob { body } => Body::Blob(body),
            Outcome::Refused(refusal) => Body::Refused(refusal.code()),
        };
        self.answer(cx, reply, body);
        if let Some(queue) = arrived {
            cx.counters.stored += 1;
            self.subscriptions.arrived(&queue);
            self.pump(cx, queue);
        }
        match effect {
            Effect::Contacted if arrived.is_some() => self.gate.contacted(cx.now.mono),
            Effect::Acked(queue, up_to) if !refused => self.subscriptions.acked(&queue, up_to),
            Effect::Deleted(queue) if !refused => {
                cx.counters.blocks_dropped += self.subscriptions.remove(&queue);
            }
            _ => {}
        }
    }

    /// The store's answer to a subscription's turn.
    fn read(&mut self, cx: &mut Context<'_>, queue: QueueId, outcome: Outcome) {
        let more = match outcome {
            Outcome::Message { sequence, body, left } => {
                let usable = |block: &ReplyBlock| usable(cx, block);
                match self.subscriptions.deliver(cx.now.mono, &queue, sequence, left, usable) {
                    Some((block, more)) => {
                        self.answer(cx, Some(block), Body::Message { sequence, left, body });
                        more
                    }
                    None => false,
                }
            }
            Outcome::Refused(refusal) => {
                let block = self.subscriptions.take_block(&queue);
                cx.counters.blocks_dropped += self.subscriptions.remove(&queue);
                self.answer(cx, block, Body::Refused(refusal.code()));
                false
            }
            _ => self.subscriptions.nothing(&queue),
        };
        if more {
            self.pump(cx, queue);
        }
    }

    /// Takes the queue's turn if it has one: at once, or at a time drawn from the rate that the reader asked for.
    fn pump(&mut self, cx: &mut Context<'_>, queue: QueueId) {
        if self.subscriptions.turn(cx.now.mono, &queue, cx.rng) == Turn::Now {
            self.take_turn(cx, queue);
        }
    }

    fn take_turn(&mut self, cx: &mut Context<'_>, queue: QueueId) {
        let Some((after, skip)) = self.subscriptions.begin(cx.now.mono, &queue) else { return };
        if self.submit(cx, QueueOp::Read { queue, after, skip }, Pending::Deliver { queue }).is_err() {
            self.subscriptions.retry(cx.now.mono + RETRY_AFTER, &queue);
        }
    }

    /// Turns whose time has come.
    pub(crate) fn due(&mut self, cx: &mut Context<'_>) {
        while let Some(queue) = self.subscriptions.pop_due(cx.now.mono) {
            self.take_turn(cx, queue);
        }
    }

    /// Queues with reply blocks, those blocks, and operations that wait for the store.
    pub(crate) fn len(&self) -> (usize, usize, usize) {
        let (queues, blocks) = self.subscriptions.len();
        (queues, blocks, self.pending.len())
    }

    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.subscriptions.next_due()
    }

    /// Drops reply blocks of past key epochs.
    pub(crate) fn purge(&mut self, cx: &mut Context<'_>) {
        let (layers, wall) = (cx.layers, cx.now.wall);
        cx.counters.blocks_dropped += self.subscriptions.purge(|epoch| layers.usable(epoch, wall));
    }

    /// Answers, if there is a block that can be used: of the current key epoch, and by a first relay to which a path
    /// leads from here.
    fn answer(&self, cx: &mut Context<'_>, block: Option<ReplyBlock>, body: Body) {
        let Some(block) = block.filter(|block| usable(cx, block)) else {
            cx.counters.unanswered += 1;
            return;
        };
        let answer = Answer { incarnation: self.incarnation, body }.encode();
        match self.sealing.reply(block, self.geometry, &answer) {
            Ok((to, packet)) => {
                cx.counters.answers += 1;
                cx.out.push_back(Action::Send { to, packet });
            }
            // A geometry with less room than a message needs.
            Err(_) => cx.counters.unanswered += 1,
        }
    }
}

fn usable(cx: &Context<'_>, block: &ReplyBlock) -> bool {
    cx.layers.usable(block.key_epoch, cx.now.wall) && cx.layers.may_go(&block.first, block.key_epoch)
}

/// The last reply block of content that doesn't parse. Whatever is there is taken for one; what isn't names no key
/// epoch that can be used.
fn last_block(content: &[u8], geometry: Geometry) -> Option<ReplyBlock> {
    let body = Reader::new(content).bounded(geometry.content_len(), "command").ok()?;
    // At least the code and the count stand in front of it.
    let at = body.len().checked_sub(ReplyBlock::encoded_len(geometry)).filter(|at| *at >= 2)?;
    ReplyBlock::read(&mut Reader::new(body.get(at..)?), geometry).ok()
}
