//! The queues that we read: one is subscribed to, the others are polled slowly; what comes is put in order.
//!
//! A reply block is used up by each message, so a few are always with the relay of the subscribed queue. Any of them
//! may get lost on the way, and a restarted relay has none; a randomised `fetch` bounds the delay after that.

mod admission;
mod boxes;
mod queue;
mod renewal;
mod saved;

use std::collections::BTreeMap;
use std::time::Duration;

use posta_protocol::answer::Body;
use posta_protocol::command::{Command, WriterCapability};
use posta_protocol::end_to_end::{Inner, QueueAddress};
use posta_protocol::ids::{KeyEpoch, RelayId, SurbId};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::params::{MAX_QUEUE_SURBS, MAX_SUBSCRIBE_SURBS};
pub use posta_protocol::params::{QUEUES_PER_DIRECTION, REORDER_WINDOW};
use posta_protocol::registry::answer as code;
use rand::RngExt;

pub use self::admission::MAX_EFFORT;
pub(crate) use self::admission::SLICE;
use self::boxes::EARLY_PATIENCE;
use self::queue::InQueue;
use super::core::{Core, earlier};
use super::event::{ClientEvent, ContactId, Direction, NotAdmitted, Warning};
use super::moves::Moves;
use super::request::{Purpose, Task};
use crate::end_to_end::Conversation;

/// Reply blocks that an awaited queue has with its relay, at least.
const KEEP_BLOCKS: usize = MAX_QUEUE_SURBS - MAX_SUBSCRIBE_SURBS + 1;
/// Boxes from the subscribed queue after which the others are polled, so that they don't fill up.
const POLL_AFTER_BOXES: u32 = 24;
/// Numbers of one queue that are asked for side by side.
const MAX_HOLES: usize = 16;
/// Without an entry, reply blocks are tried again after this time.
const NO_ENTRY_WAIT: Duration = Duration::from_millis(100);
/// Unanswered polls after which another queue is subscribed to.
const SWAP_AFTER: u32 = 2;
/// Unanswered attempts to make a queue, after which it is made elsewhere.
const MOVE_AFTER: u32 = 2;

struct Waiting {
    expires: Wall,
    /// Seconds after which it is forgotten, 0 for not at all.
    after: u32,
    body: Vec<u8>,
}

/// One direction of a contact: to us.
pub(crate) struct Incoming {
    pub(super) contact: ContactId,
    pub(super) queues: Vec<InQueue>,
    /// What is replaced.
    pub(crate) moves: Moves,
    subscribed: usize,
    /// Whether the first boxes, that say where to write, are behind us.
    pub(crate) introduced: bool,
    /// The last message that was handed on.
    pub(crate) delivered: u64,
    reorder: BTreeMap<u64, Waiting>,
    /// Boxes by queue and number that wait for the epoch in which they were sealed.
    pub(super) early: BTreeMap<(usize, u64), Box<[u8]>>,
    early_since: Option<Mono>,
    /// What boxes have said, for the contact to take.
    said: Vec<Said>,
    /// What was handed on, for the history.
    handed: Vec<(u64, u32, Vec<u8>)>,
    /// Whether the two ends were found to have come apart.
    apart: bool,
    gap: Option<(Mono, u32)>,
    boxes_since_poll: u32,
    receipt_due: Option<Mono>,
    receipt_sent: Option<Mono>,
    active_until: Mono,
    /// Why no queue can be made.
    shut: Option<NotAdmitted>,
}

/// What a box held, beside messages.
pub(crate) enum Said {
    /// The contact has everything up to this number.
    Receipt(u64),
    /// Where to write.
    Queues(Vec<QueueAddress>),
    /// As a receipt; below `from`, nothing will come; and a key package of the contact's.
    KeyPackage { up_to: u64, from: u64, key_package: Vec<u8> },
    /// At this place, a welcome although there is a conversation.
    Welcome((usize, u64), Inner),
    /// Where to write from now on.
    Moved(u64, Vec<QueueAddress>),
}

impl Incoming {
    pub(crate) fn new(contact: ContactId) -> Self {
        Self {
            contact,
            queues: Vec::new(),
            moves: Moves::default(),
            subscribed: 0,
            introduced: false,
            delivered: 0,
            reorder: BTreeMap::new(),
            early: BTreeMap::new(),
            early_since: None,
            said: Vec::new(),
            handed: Vec::new(),
            apart: false,
            gap: None,
            boxes_since_poll: 0,
            receipt_due: None,
            receipt_sent: None,
            active_until: Mono(0),
            shut: None,
        }
    }

    fn purpose(&self, task: Task) -> Purpose {
        Purpose::Contact(self.contact, task)
    }

    /// The relays of the queues.
    pub(crate) fn relays(&self) -> Vec<RelayId> {
        self.queues.iter().map(|q| q.relay).collect()
    }

    /// Makes the queues, as far as the network is known. `avoid`: relays that the contact uses.
    pub(crate) fn create(&mut self, core: &mut Core, now: Now, avoid: &[RelayId]) {
        while self.queues.len() < QUEUES_PER_DIRECTION {
            let Some(relay) = self.choose(core, now, avoid) else { return };
            self.queues.push(InQueue::new(core, now, relay));
            self.start_create(core, now, self.queues.len() - 1);
        }
    }

    /// Begins a queue anew, at another relay.
    pub(super) fn renew(&mut self, core: &mut Core, now: Now, index: usize, relay: RelayId) {
        let new = InQueue { heard: false, ..InQueue::new(core, now, relay) };
        if let Some(queue) = self.queues.get_mut(index) {
            *queue = new;
        }
        self.start_create(core, now, index);
        if index == self.subscribed {
            self.swap(now);
        }
    }

    /// Where the contact can write, of what is there.
    pub(super) fn working_addresses(&self) -> Vec<QueueAddress> {
        self.queues.iter().filter(|q| q.works()).map(InQueue::address).collect()
    }

    fn start_create(&mut self, core: &mut Core, now: Now, index: usize) {
        let purpose = self.purpose(Task::Create(index));
        let Some(queue) = self.queues.get_mut(index) else { return };
        let writer = WriterCapability::new(queue.invited.duplicate()).id();
        let (reader, kind, proof) = (queue.reader.id(), queue.kind, queue.proof.clone());
        let command = Command::Create { queue: reader, writer, kind, proof };
        queue.create = Some(core.request(now, queue.relay, command, purpose));
    }

    /// Makes a queue that isn't there yet at another relay.
    fn move_queue(&mut self, core: &mut Core, now: Now, index: usize) {
        if self.queues.get(index).is_none_or(|q| q.ready) {
            return;
        }
        let Some(relay) = self.choose(core, now, &[]) else { return };
        let Some(queue) = self.queues.get_mut(index) else { return };
        if let Some(id) = queue.create.take() {
            core.requests.cancel(id);
        }
        *queue = InQueue { heard: queue.heard, ..InQueue::new(core, now, relay) };
        self.start_create(core, now, index);
    }

    /// A relay answered to `create`.
    pub(crate) fn created(&mut self, core: &mut Core, now: Now, index: usize, body: &Body) {
        match body {
            Body::Ok => {}
            Body::NotAdmitted(asks) => return self.not_admitted(core, now, index, *asks),
            _ => {
                if let Some(queue) = self.queues.get_mut(index).filter(|q| q.ready) {
                    // Polling it tells the same.
                    (queue.create, queue.next_poll) = (None, now.mono);
                }
                return self.move_queue(core, now, index);
            }
        }
        let Some(queue) = self.queues.get_mut(index) else { return };
        queue.create = None;
        if std::mem::replace(&mut queue.ready, true) {
            // It was there before, and may have been made anew: what it held of ours it has lost.
            queue.blocks.clear();
            (queue.flush, queue.next_poll) = (true, now.mono);
        } else {
            queue.next_poll = now.mono + core.requests.tempo.heartbeat;
        }
    }

    /// A relay doesn't answer to `create`.
    pub(crate) fn create_timed_out(&mut self, core: &mut Core, now: Now, index: usize, attempts: u32) {
        if attempts >= MOVE_AFTER {
            self.move_queue(core, now, index);
        }
    }

    /// Where the contact can write, once all queues are there.
    pub(crate) fn addresses(&self) -> Option<Vec<QueueAddress>> {
        let all = self.queues.len() >= QUEUES_PER_DIRECTION && self.queues.iter().all(|q| q.ready);
        all.then(|| self.queues.iter().map(InQueue::address).collect())
    }

    /// Keeps blocks with the relay, polls, acknowledges. Returns a receipt that is due.
    pub(crate) fn step(&mut self, core: &mut Core, now: Now) -> Option<u64> {
        let epoch = core.key_epoch(now)?;
        self.search(core, now);
        if core.reading {
            for index in 0..self.queues.len() {
                if index == self.subscribed {
                    self.keep_blocks(core, now, epoch);
                }
                self.poll_if_due(core, now, index);
                self.acknowledge(core, now, index);
            }
            self.close_gap(core, now);
        }
        if self.receipt_due.is_some_and(|at| at <= now.mono) {
            self.receipt_due = None;
            self.receipt_sent = Some(now.mono);
            return Some(self.delivered);
        }
        None
    }

    fn keep_blocks(&mut self, core: &mut Core, now: Now, epoch: KeyEpoch) {
        let purpose = self.purpose(Task::Push(self.subscribed));
        let Some(queue) = self.queues.get_mut(self.subscribed).filter(|q| q.works()) else { return };
        if queue.blocks_epoch != Some(epoch) {
            if queue.blocks_epoch.is_some() {
                queue.renew_at = now.mono + core.requests.tempo.renew_span.mul_f64(core.rng.random_range(0.0..1.0));
            }
            queue.blocks_epoch = Some(epoch);
            queue.blocks.clear();
        }
        let entry = core.entries.current();
        if queue.blocks_entry != entry {
            queue.flush = !queue.blocks.is_empty();
            queue.blocks.clear();
            queue.blocks_entry = entry;
        }
        if queue.awaited_push.is_some_and(|(_, by)| by <= now.mono) {
            // They would have been used by now: the relay has lost them, or they were lost on the way.
            queue.awaited_push = None;
            queue.blocks.clear();
            queue.flush = true;
        }
        if queue.renew_at > now.mono {
            return;
        }
        let wanted = if queue.flush { MAX_QUEUE_SURBS } else { KEEP_BLOCKS };
        while queue.blocks.len() < wanted {
            let (relay, cursor) = (queue.relay, queue.cursor);
            let Some(new) = core.subscribe(now, relay, &queue.reader, cursor, MAX_SUBSCRIBE_SURBS, purpose) else {
                if !core.line.is_covered() {
                    queue.renew_at = now.mono + NO_ENTRY_WAIT;
                }
                return;
            };
            queue.acked = cursor;
            queue.blocks.extend(new);
        }
        queue.flush = false;
    }

    fn poll_if_due(&mut self, core: &mut Core, now: Now, index: usize) {
        if let Some(queue) = self.queues.get(index)
            && queue.works()
            && queue.fetch.is_none()
            && queue.next_poll <= now.mono
        {
            let after = queue.base(0);
            self.fetch(core, now, index, after);
        }
    }

    fn fetch(&mut self, core: &mut Core, now: Now, index: usize, after: u64) {
        let purpose = self.purpose(Task::Fetch(index));
        if index != self.subscribed {
            self.boxes_since_poll = 0;
        }
        let Some(queue) = self.queues.get_mut(index).filter(|q| q.works() && q.fetch.is_none()) else { return };
        let command = Command::Fetch { reader: queue.reader.duplicate(), after };
        queue.fetch = Some(core.request(now, queue.relay, command, purpose));
    }

    /// Tells a polled queue what it can erase; the subscribed one is told with each subscription.
    fn acknowledge(&mut self, core: &mut Core, now: Now, index: usize) {
        let purpose = self.purpose(Task::Ack(index));
        let subscribed = index == self.subscribed;
        let Some(queue) = self.queues.get_mut(index).filter(|q| q.works() && q.ack.is_none()) else { return };
        let behind = queue.cursor - queue.acked;
        if behind >= u64::from(POLL_AFTER_BOXES) || (behind > 0 && !subscribed && queue.fetch.is_none()) {
            let command = Command::Ack { reader: queue.reader.duplicate(), up_to: queue.cursor };
            queue.acked = queue.cursor;
            queue.ack = Some(core.request(now, queue.relay, command, purpose));
        }
    }

    /// Asks for a message that others have overtaken.
    fn close_gap(&mut self, core: &mut Core, now: Now) {
        if self.reorder.is_empty() && self.early.is_empty() {
            self.gap = None;
            return;
        }
        let wait = core.requests.tempo.gap_wait;
        let (due, tries) = *self.gap.get_or_insert((now.mono + wait, 0));
        if due > now.mono {
            return;
        }
        self.gap = Some((now.mono + wait * (tries + 2).min(8), tries.saturating_add(1)));
        for index in 0..self.queues.len() {
            let Some(queue) = self.queues.get_mut(index) else { continue };
            queue.walk = true;
            let after = queue.base(0);
            self.fetch(core, now, index, after);
            self.fetch_holes(core, now, index);
        }
    }

    /// Asks for what was passed over, side by side: one lost answer then holds up one message only.
    fn fetch_holes(&mut self, core: &mut Core, now: Now, index: usize) {
        let contact = self.contact;
        let Some(queue) = self.queues.get_mut(index).filter(|q| q.works()) else { return };
        let last = queue.seen.last_key_value().map_or(queue.cursor, |(s, _)| *s);
        for hole in (queue.base(0) + 1..last).filter(|s| !queue.seen.contains_key(s)) {
            if queue.holes.len() >= MAX_HOLES {
                return;
            }
            if queue.holes.insert(hole) {
                let command = Command::Fetch { reader: queue.reader.duplicate(), after: hole - 1 };
                core.request(now, queue.relay, command, Purpose::Contact(contact, Task::Hole(index, hole)));
            }
        }
    }

    /// A number that was passed over has come, or isn't there.
    pub(crate) fn hole_fetched(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        (index, hole): (usize, u64),
        body: Body,
    ) {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.holes.remove(&hole);
        }
        match body {
            Body::Message { sequence, body, .. } => drop(self.take(core, now, conversation, (index, sequence), body)),
            Body::Refused(code) => self.refused(core, now, index, code),
            _ => {}
        }
    }

    /// A `fetch` was answered.
    pub(crate) fn fetched(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        index: usize,
        body: Body,
    ) {
        let subscribed = index == self.subscribed;
        let Some(queue) = self.queues.get_mut(index) else { return };
        (queue.fetch, queue.silent, queue.silent_since) = (None, 0, None);
        queue.made_again &= matches!(body, Body::Refused(_));
        let (sequence, left, sealed) = match body {
            Body::Message { sequence, left, body } => (sequence, left, body),
            Body::Empty => {
                queue.walk = false;
                queue.idle = queue.idle.saturating_add(1);
                return self.plan_poll(core, now, index);
            }
            Body::Refused(code) => return self.refused(core, now, index, code),
            _ => return self.plan_poll(core, now, index),
        };
        let new = sequence > queue.cursor && !queue.seen.contains_key(&sequence);
        if subscribed && new && !queue.blocks.is_empty() && queue.awaited_push.is_none() {
            queue.awaited_push = Some((sequence, now.mono + core.requests.tempo.push_wait));
        }
        let number = self.take(core, now, conversation, (index, sequence), sealed);
        let delivered = self.delivered;
        let Some(queue) = self.queues.get_mut(index) else { return };
        if left == 0 {
            queue.walk = false;
            self.plan_poll(core, now, index);
        } else {
            // A copy of what the other queue has brought: the ones up to the newest are likely so too.
            let known = number.is_some_and(|n| n <= delivered);
            let skip = !subscribed && !queue.walk && known && self.introduced;
            let Some(queue) = self.queues.get_mut(index) else { return };
            let after = if skip { sequence + u64::from(left) - 1 } else { queue.base(sequence) };
            self.fetch(core, now, index, after.max(sequence));
        }
    }

    /// A queue has sent a message by a reply block.
    pub(crate) fn pushed(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        (index, surb): (usize, SurbId),
        body: Body,
    ) {
        let Some(queue) = self.queues.get_mut(index) else { return };
        queue.blocks.retain(|b| *b != surb);
        queue.silent_since = None;
        match body {
            Body::Message { sequence, body, .. } => {
                if queue.awaited_push.is_some_and(|(s, _)| s <= sequence) {
                    queue.awaited_push = None;
                }
                queue.idle = 0;
                self.boxes_since_poll = self.boxes_since_poll.saturating_add(1);
                self.take(core, now, conversation, (index, sequence), body);
                if self.boxes_since_poll >= POLL_AFTER_BOXES {
                    self.boxes_since_poll = 0;
                    self.poll_others(core, now);
                }
            }
            Body::Refused(code) => self.refused(core, now, index, code),
            _ => {}
        }
    }

    /// Polls the queues that aren't subscribed to soon.
    fn poll_others(&mut self, core: &mut Core, now: Now) {
        let soon = now.mono + core.around(core.requests.tempo.gap_wait);
        for (index, queue) in self.queues.iter_mut().enumerate() {
            if index != self.subscribed {
                queue.next_poll = queue.next_poll.min(soon);
            }
        }
    }

    /// Sets the time of a queue's next poll.
    fn plan_poll(&mut self, core: &mut Core, now: Now, index: usize) {
        let (active, tempo) = (now.mono < self.active_until, core.requests.tempo);
        let subscribed = index == self.subscribed;
        let Some(queue) = self.queues.get_mut(index) else { return };
        let mean = match (subscribed, active) {
            (true, true) => tempo.heartbeat,
            (false, true) => tempo.slow_poll,
            (_, false) => (tempo.heartbeat * (1 << queue.idle.min(4))).min(tempo.max_heartbeat),
        };
        queue.next_poll = now.mono + core.around(mean);
    }

    /// Emits what is in order.
    fn hand_on(&mut self, core: &mut Core, now: Now) {
        let before = self.delivered;
        while let Some(waiting) = self.reorder.remove(&(self.delivered + 1)) {
            self.delivered += 1;
            if waiting.expires > now.wall {
                let (contact, number) = (self.contact, self.delivered);
                if core.options.history > 0 {
                    self.handed.push((number, waiting.after, waiting.body.clone()));
                }
                core.emit(ClientEvent::Message { contact, number, body: waiting.body });
            }
        }
        if self.delivered > before {
            self.gap = None;
            let earliest = self.receipt_sent.map_or(now.mono, |at| at + core.requests.tempo.receipt_span);
            let due = earliest.max(now.mono);
            self.receipt_due = self.receipt_due.or(Some(due));
        }
        let (delivered, introduced) = (self.delivered, self.introduced);
        self.queues.iter_mut().for_each(|q| q.settle(delivered, introduced));
    }

    /// A relay refused to read a queue of ours.
    fn refused(&mut self, core: &mut Core, now: Now, index: usize, code: u8) {
        if !matches!(code, code::BAD_CAPABILITY | code::GONE | code::EXPIRED) {
            return self.plan_poll(core, now, index);
        }
        let Some(queue) = self.queues.get_mut(index).filter(|q| !q.lost) else { return };
        if code == code::BAD_CAPABILITY && (queue.create.is_some() || !std::mem::replace(&mut queue.made_again, true)) {
            // A restored relay that lacks the queue: it is made again, with the same capabilities.
            if queue.create.is_none() {
                self.start_create(core, now, index);
            }
            return self.plan_poll(core, now, index);
        }
        queue.lost = true;
        let left = self.queues.iter().filter(|q| !q.lost).count();
        let warning = Warning::QueueLost { contact: self.contact, direction: Direction::Incoming, left };
        core.emit(ClientEvent::Warning(warning));
        if index == self.subscribed {
            self.swap(now);
        }
    }

    /// A poll was not answered in time.
    pub(crate) fn fetch_timed_out(&mut self, core: &mut Core, now: Now, index: usize) {
        let subscribed = index == self.subscribed;
        let Some(queue) = self.queues.get_mut(index) else { return };
        queue.silent = queue.silent.saturating_add(1);
        queue.silent_since.get_or_insert(now.mono);
        if subscribed && queue.silent >= SWAP_AFTER {
            self.swap(now);
        }
        if subscribed {
            self.poll_others(core, now);
        }
    }

    /// Subscribes to another queue.
    fn swap(&mut self, now: Now) {
        let n = self.queues.len().max(1);
        let next = (1..n).map(|k| (self.subscribed + k) % n);
        let works = |i: &usize| self.queues.get(*i).is_some_and(|q| q.works() && q.silent < SWAP_AFTER);
        let Some(next) = next.into_iter().find(works) else { return };
        self.subscribed = next;
        for queue in &mut self.queues {
            queue.blocks.clear();
            queue.awaited_push = None;
        }
        if let Some(queue) = self.queues.get_mut(next) {
            (queue.walk, queue.renew_at, queue.next_poll) = (true, now.mono, now.mono);
        }
    }

    /// An `ack` was answered.
    pub(crate) fn acked(&mut self, index: usize) {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.ack = None;
        }
    }

    /// A relay's store is another than before: it may have been told to erase less than we think. Whether the queue is
    /// there at all, a poll tells.
    pub(crate) fn restored(&mut self, now: Now, relay: RelayId) {
        for queue in self.queues.iter_mut().filter(|q| q.relay == relay) {
            (queue.acked, queue.next_poll) = (0, now.mono);
            queue.blocks.clear();
        }
    }

    /// When something is due next.
    pub(crate) fn next_due(&self, reading: bool, covered: bool) -> Option<Mono> {
        let mut due = earlier(self.moves.next_due(), self.receipt_due);
        due = earlier(due, self.is_searching().then_some(Mono(0)));
        due = earlier(due, self.early_since.map(|since| since + EARLY_PATIENCE));
        if reading {
            due = earlier(due, self.gap.map(|(at, _)| at));
            for (index, queue) in self.queues.iter().enumerate().filter(|(_, q)| q.works()) {
                if queue.fetch.is_none() {
                    due = earlier(due, Some(queue.next_poll));
                }
                if index == self.subscribed {
                    // In slots, blocks go when one comes.
                    let renew = (queue.blocks.len() < KEEP_BLOCKS && !covered).then_some(queue.renew_at);
                    due = earlier(due, earlier(renew, queue.awaited_push.map(|(_, by)| by)));
                }
            }
        }
        due
    }
}
