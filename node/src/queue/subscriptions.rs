//! Reply blocks that wait for messages: in memory only, bounded, gone with their key epoch.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use posta_protocol::ids::{KeyEpoch, QueueId};
use posta_protocol::now::Mono;
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::params::MAX_QUEUE_SURBS;
pub use posta_protocol::params::{MAX_PACE, RESEND_AFTER};
use rand_core::CryptoRng;

use crate::relay::exponential;

/// Queues with a subscription; then the one longest without an event is dropped.
pub const MAX_SUBSCRIPTIONS: usize = 65_536;
/// Reply blocks of all queues, about 320 MB; then the queue longest without an event gives up its own.
pub const MAX_BLOCKS: usize = 65_536;
/// Messages of a queue that were sent and not yet acknowledged; then the oldest counts as not sent.
pub const MAX_IN_FLIGHT: usize = 128;

/// A paced queue's message is sent again when it is not acknowledged for so many times the pace, if that is longer than
/// [`RESEND_AFTER`].
const PACED_RESEND: u32 = 8;

/// A `subscribe` whose queue exists.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) acked: u64,
    pub(super) pace: Duration,
    pub(super) blocks: VecDeque<ReplyBlock>,
}

/// Whether a queue may ask the store for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// At once.
    Now,
    /// Later, or not at all for now.
    Not,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    sequence: u64,
    sent: Mono,
}

#[derive(Debug, Default)]
struct Subscription {
    blocks: VecDeque<ReplyBlock>,
    in_flight: VecDeque<InFlight>,
    acked: u64,
    pace: Duration,
    /// The store is being asked.
    reading: bool,
    /// Something arrived meanwhile.
    again: bool,
    /// The time of its next turn.
    scheduled: Option<Mono>,
    /// Its place in `order`.
    touched: u64,
}

#[derive(Debug)]
pub(super) struct Subscriptions {
    max_queues: usize,
    max_blocks: usize,
    max_per_queue: usize,
    queues: HashMap<QueueId, Subscription>,
    /// Least recently touched first.
    order: BTreeMap<u64, QueueId>,
    ticks: u64,
    turns: BTreeSet<(Mono, QueueId)>,
    blocks: usize,
}

impl Subscriptions {
    pub(super) fn new(max_queues: usize, max_blocks: usize, max_per_queue: usize) -> Self {
        Self {
            max_queues,
            max_blocks,
            max_per_queue: max_per_queue.clamp(1, MAX_QUEUE_SURBS),
            queues: HashMap::new(),
            order: BTreeMap::new(),
            ticks: 0,
            turns: BTreeSet::new(),
            blocks: 0,
        }
    }

    /// Adds blocks to a queue. Returns how many, of this queue or another, had to go.
    pub(super) fn add(&mut self, queue: QueueId, new: Subscribed) -> u64 {
        let Subscribed { acked, pace, blocks } = new;
        if blocks.is_empty() {
            self.acked(&queue, acked);
            return 0;
        }
        let mut dropped = 0;
        let sub = self.queues.entry(queue).or_default();
        sub.pace = pace;
        for block in blocks {
            if sub.blocks.len() >= self.max_per_queue && sub.blocks.pop_front().is_some() {
                self.blocks -= 1;
                dropped += 1;
            }
            sub.blocks.push_back(block);
            self.blocks += 1;
        }
        self.acked(&queue, acked);
        self.touch(&queue);
        while self.queues.len() > self.max_queues || self.blocks > self.max_blocks {
            let Some(oldest) = self.order.first_key_value().map(|(_, queue)| *queue) else { break };
            dropped += self.remove(&oldest);
        }
        dropped
    }

    /// Everything up to a number is erased.
    pub(super) fn acked(&mut self, queue: &QueueId, up_to: u64) {
        if let Some(sub) = self.queues.get_mut(queue) {
            sub.acked = sub.acked.max(up_to);
            sub.in_flight.retain(|m| m.sequence > up_to);
        }
    }

    /// A message was stored.
    pub(super) fn arrived(&mut self, queue: &QueueId) {
        if let Some(sub) = self.queues.get_mut(queue) {
            sub.again |= sub.reading;
        }
    }

    /// Asks for a turn. A paced queue's turns come after exponentially distributed waits: that this wait begins with a
    /// message's arrival changes nothing, because the distribution has no memory.
    pub(super) fn turn(&mut self, now: Mono, queue: &QueueId, rng: &mut (dyn CryptoRng + Send)) -> Turn {
        let Some(sub) = self.queues.get_mut(queue) else { return Turn::Not };
        if sub.blocks.is_empty() || sub.reading || sub.scheduled.is_some() {
            return Turn::Not;
        }
        if sub.pace.is_zero() {
            return Turn::Now;
        }
        let at = now + exponential(sub.pace, rng);
        self.schedule(at, queue);
        Turn::Not
    }

    /// Begins a turn: after which number to read, and which to leave out.
    pub(super) fn begin(&mut self, now: Mono, queue: &QueueId) -> Option<(u64, Vec<u64>)> {
        let sub = self.queues.get_mut(queue)?;
        if sub.blocks.is_empty() || sub.reading {
            return None;
        }
        (sub.reading, sub.again) = (true, false);
        // Who is paced acknowledges in slots, too.
        let resend = RESEND_AFTER.max(sub.pace * PACED_RESEND);
        let recent = |m: &&InFlight| now.since(m.sent) < resend;
        Some((sub.acked, sub.in_flight.iter().filter(recent).map(|m| m.sequence).collect()))
    }

    /// The turn could not be taken: another one later.
    pub(super) fn retry(&mut self, at: Mono, queue: &QueueId) {
        if let Some(sub) = self.queues.get_mut(queue) {
            sub.reading = false;
            self.schedule(at, queue);
        }
    }

    /// Ends a turn with a message: a block for it, and whether to ask for another turn.
    pub(super) fn deliver(
        &mut self,
        now: Mono,
        queue: &QueueId,
        sequence: u64,
        left: u32,
        usable: impl Fn(&ReplyBlock) -> bool,
    ) -> Option<(ReplyBlock, bool)> {
        let sub = self.queues.get_mut(queue)?;
        (sub.reading, sub.again) = (false, false);
        let before = sub.blocks.len();
        while sub.blocks.front().is_some_and(|block| !usable(block)) {
            sub.blocks.pop_front();
        }
        let block = sub.blocks.pop_front();
        self.blocks -= before - sub.blocks.len();
        let block = block?;
        sub.in_flight.retain(|m| m.sequence != sequence);
        let others = sub.in_flight.len();
        if others >= MAX_IN_FLIGHT {
            sub.in_flight.pop_front();
        }
        sub.in_flight.push_back(InFlight { sequence, sent: now });
        self.touch(queue);
        Some((block, left as usize > others))
    }

    /// Ends a turn without a message. Returns whether to ask for another one.
    pub(super) fn nothing(&mut self, queue: &QueueId) -> bool {
        self.queues.get_mut(queue).is_some_and(|sub| {
            sub.reading = false;
            std::mem::take(&mut sub.again)
        })
    }

    pub(super) fn take_block(&mut self, queue: &QueueId) -> Option<ReplyBlock> {
        let block = self.queues.get_mut(queue)?.blocks.pop_front()?;
        self.blocks -= 1;
        Some(block)
    }

    /// Forgets a queue. Returns how many blocks went with it.
    pub(super) fn remove(&mut self, queue: &QueueId) -> u64 {
        let Some(sub) = self.queues.remove(queue) else { return 0 };
        self.order.remove(&sub.touched);
        if let Some(at) = sub.scheduled {
            self.turns.remove(&(at, *queue));
        }
        self.blocks -= sub.blocks.len();
        sub.blocks.len() as u64
    }

    /// The next queue whose turn has come.
    pub(super) fn pop_due(&mut self, now: Mono) -> Option<QueueId> {
        if self.turns.first()?.0 > now {
            return None;
        }
        let (_, queue) = self.turns.pop_first()?;
        if let Some(sub) = self.queues.get_mut(&queue) {
            sub.scheduled = None;
        }
        Some(queue)
    }

    pub(super) fn next_due(&self) -> Option<Mono> {
        self.turns.first().map(|(at, _)| *at)
    }

    /// Drops blocks that can't be used any more, and queues that have none. Returns how many blocks.
    pub(super) fn purge(&mut self, usable: impl Fn(KeyEpoch) -> bool) -> u64 {
        let before = self.blocks;
        let mut left = 0;
        let mut over = Vec::new();
        for (queue, sub) in &mut self.queues {
            sub.blocks.retain(|block| usable(block.key_epoch));
            left += sub.blocks.len();
            if sub.blocks.is_empty() && sub.in_flight.is_empty() && !sub.reading {
                over.push(*queue);
            }
        }
        self.blocks = left;
        for queue in over {
            self.remove(&queue);
        }
        (before - left) as u64
    }

    fn schedule(&mut self, at: Mono, queue: &QueueId) {
        if let Some(sub) = self.queues.get_mut(queue) {
            if let Some(before) = sub.scheduled.replace(at) {
                self.turns.remove(&(before, *queue));
            }
            self.turns.insert((at, *queue));
        }
    }

    fn touch(&mut self, queue: &QueueId) {
        if let Some(sub) = self.queues.get_mut(queue) {
            self.order.remove(&sub.touched);
            self.ticks += 1;
            sub.touched = self.ticks;
            self.order.insert(self.ticks, *queue);
        }
    }

    #[cfg(test)]
    fn sizes(&self) -> [usize; 4] {
        [self.queues.len(), self.order.len(), self.turns.len(), self.blocks]
    }
}

#[cfg(test)]
mod tests {
    use posta_protocol::codec::Reader;
    use posta_protocol::geometry::Geometry;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn block(epoch: u8) -> ReplyBlock {
        let mut bytes = vec![0; ReplyBlock::encoded_len(Geometry::DEFAULT)];
        bytes[32] = epoch;
        ReplyBlock::read(&mut Reader::new(&bytes), Geometry::DEFAULT).unwrap()
    }

    fn subscribed(blocks: usize) -> Subscribed {
        Subscribed { acked: 0, pace: Duration::ZERO, blocks: (0..blocks).map(|_| block(1)).collect() }
    }

    fn queue(n: u8) -> QueueId {
        QueueId([n; 32])
    }

    #[test]
    fn every_table_has_its_bound() {
        let mut all = Subscriptions::new(2, 6, MAX_QUEUE_SURBS);
        assert_eq!(all.add(queue(1), subscribed(2)), 0);
        assert_eq!(all.add(queue(2), subscribed(2)), 0);
        assert_eq!(all.add(queue(3), subscribed(1)), 2, "the least recently used queue goes");
        assert_eq!(all.sizes(), [2, 2, 0, 3]);
        assert_eq!(all.add(queue(3), subscribed(3)), 0);
        assert_eq!(all.add(queue(3), subscribed(1)), 2, "too many blocks in all: the other queue goes");
        assert_eq!(all.sizes(), [1, 1, 0, 5]);
        let mut one = Subscriptions::new(9, 99, MAX_QUEUE_SURBS);
        assert_eq!(one.add(queue(1), subscribed(MAX_QUEUE_SURBS + 3)), 3, "the oldest blocks of a queue go");
        assert_eq!(one.sizes(), [1, 1, 0, MAX_QUEUE_SURBS]);
        assert_eq!(one.add(queue(2), subscribed(0)), 0, "without a block there is nothing to keep");
        assert_eq!(one.sizes(), [1, 1, 0, MAX_QUEUE_SURBS]);
    }

    #[test]
    fn in_flight_messages_are_bounded_and_left_out_until_they_are_old() {
        let mut all = Subscriptions::new(9, 9999, MAX_QUEUE_SURBS);
        for n in 1..=MAX_IN_FLIGHT as u64 + 1 {
            all.add(queue(1), subscribed(1));
            let (after, skip) = all.begin(Mono(0), &queue(1)).unwrap();
            assert_eq!((after, skip.len() as u64), (0, n - 1));
            assert!(all.deliver(Mono(0), &queue(1), n, 0, |_| true).is_some());
        }
        all.add(queue(1), subscribed(1));
        assert!(all.begin(Mono(0) + RESEND_AFTER, &queue(1)).unwrap().1.is_empty(), "old enough to be sent again");
        all.nothing(&queue(1));
        assert_eq!(all.begin(Mono(1), &queue(1)).unwrap().1.len(), MAX_IN_FLIGHT);
        all.nothing(&queue(1));
        all.acked(&queue(1), 100);
        assert_eq!(all.begin(Mono(1), &queue(1)).unwrap(), (100, (101..=129).collect()));
    }

    #[test]
    fn blocks_go_with_their_key_epoch() {
        let mut all = Subscriptions::new(9, 99, MAX_QUEUE_SURBS);
        all.add(queue(1), Subscribed { acked: 0, pace: Duration::ZERO, blocks: [block(1), block(2)].into() });
        all.add(queue(2), subscribed(2));
        assert_eq!(all.purge(|epoch| epoch == KeyEpoch(2)), 3);
        assert_eq!(all.sizes(), [1, 1, 0, 1]);
    }

    #[test]
    fn paced_turns_come_at_the_rate_asked_for() {
        let mut all = Subscriptions::new(9, 99, MAX_QUEUE_SURBS);
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let pace = Duration::from_secs(2);
        all.add(queue(1), Subscribed { acked: 0, pace, blocks: [block(1)].into() });
        let (mut now, turns) = (Mono(0), 2000);
        for _ in 0..turns {
            assert_eq!(all.turn(now, &queue(1), rng), Turn::Not);
            assert_eq!(all.turn(now, &queue(1), rng), Turn::Not, "one at a time");
            let at = all.next_due().unwrap();
            assert!(all.pop_due(Mono(at.0.saturating_sub(1))).is_none());
            assert_eq!(all.pop_due(at), Some(queue(1)));
            now = at;
        }
        let mean = now.since(Mono(0)) / turns;
        assert!(mean > pace.mul_f64(0.93) && mean < pace.mul_f64(1.07), "{mean:?}");
        all.turn(now, &queue(1), rng);
        all.remove(&queue(1));
        assert_eq!(all.sizes(), [0, 0, 0, 0]);
    }
}
