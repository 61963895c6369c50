//! A client of a large run: one contact, a queue each way, the protocol's own commands, and a schedule.
//!
//! Not the SDK's session, which is too heavy for ten thousand: no invitation (contacts exist from the start), one queue a
//! direction instead of two, no end-to-end cryptography, no guard but the first one drawn. What goes over the network is
//! what the session sends: `send`, `subscribe` with three reply blocks, `echo` for a loop, each over a fresh path.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use posta_protocol::answer::{Answer, Body};
use posta_protocol::codec::Reader;
use posta_protocol::command::{Command, Envelope, ReaderCapability, WriterCapability};
use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::crypto::{self, context};
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId, SurbId};
use posta_protocol::now::{Mono, Now};
use posta_protocol::onion::build::{Hop, Last};
use posta_protocol::onion::reply::ReplyKeys;
use posta_protocol::onion::sealing::Sealing;
use posta_protocol::packet::Packet;
use posta_protocol::params::{MAX_HOP_DELAY, MAX_QUEUE_SURBS, MAX_SUBSCRIBE_SURBS};
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::lines::{below, exponential};
use super::profile::{Habit, Schedule, schedule};
use super::view::View;

/// A subscription is renewed after this long without an event, whatever it has left.
const HEARTBEAT: Duration = Duration::from_secs(120);
/// Messages that wait at a client; beyond it the application is refused.
const MAX_WAITING: usize = 256;
/// Awaited answers; beyond it those of past key epochs are forgotten, and then all.
const MAX_ROWS: usize = 512;

/// What an answer is to.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Send(u64),
    Push,
    Loop,
}

#[derive(Debug)]
struct Row {
    keys: ReplyKeys,
    purpose: Purpose,
}

#[derive(Debug)]
struct Flying {
    message: u64,
    since: Mono,
}

/// What a delivery told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A relay has stored a message.
    Stored,
    /// The contact's message.
    Message(u64),
    /// A loop came back.
    Loop,
    /// Nothing new.
    Nothing,
}

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A message.
    Message(u64),
    /// Reply blocks for a queue.
    Subscribe,
    /// Cover.
    Loop,
}

/// What a client needs to know of the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means {
    pub(super) habit: Habit,
    pub(super) interval: Duration,
    pub(super) hop_delay: Duration,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) entry: u32,
    pub(super) queue: u32,
    peer_queue: u32,
    reader: Secret<32>,
    writer: Secret<32>,
    means: Means,
    schedule: Box<dyn Schedule + Send>,
    clock: ChaCha20Rng,
    pub(super) rng: ChaCha20Rng,
    /// When its application writes.
    pub(super) application: ChaCha20Rng,
    inbox: Option<(KeyEpoch, InboxId)>,
    // Reading.
    acked: u64,
    /// What its relay has been told of that.
    told: u64,
    ahead: BTreeSet<u64>,
    blocks: usize,
    subscribed: Option<(KeyEpoch, Mono)>,
    // Writing.
    next: u64,
    waiting: VecDeque<u64>,
    flying: BTreeMap<u64, Flying>,
    rows: HashMap<SurbId, Row>,
    /// At the entry: what waits to go down.
    pub(super) down: VecDeque<Packet>,
    pub(super) down_clock: ChaCha20Rng,
    pub(super) down_schedule: Box<dyn Schedule + Send>,
}

/// The two ends of a direction: who writes and who reads.
pub(super) struct Contact {
    pub(super) queue: u32,
    pub(super) reader: Secret<32>,
    pub(super) peer_queue: u32,
    pub(super) writer: Secret<32>,
}

impl Client {
    pub(super) fn new(entry: u32, contact: Contact, means: Means, down: Duration, rng: &mut ChaCha20Rng) -> Self {
        let Contact { queue, reader, peer_queue, writer } = contact;
        let own = |rng: &mut ChaCha20Rng| {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            ChaCha20Rng::from_seed(seed)
        };
        Self {
            entry,
            queue,
            peer_queue,
            reader,
            writer,
            means,
            schedule: schedule(means.habit, means.interval),
            clock: own(rng),
            rng: own(rng),
            application: own(rng),
            inbox: None,
            acked: 0,
            told: 0,
            ahead: BTreeSet::new(),
            blocks: 0,
            subscribed: None,
            next: 1,
            waiting: VecDeque::new(),
            flying: BTreeMap::new(),
            rows: HashMap::new(),
            down: VecDeque::new(),
            down_clock: own(rng),
            down_schedule: schedule(means.habit, down),
        }
    }

    /// When its next scheduled packet leaves.
    pub(super) fn next_slot(&mut self, after: Mono) -> Option<Mono> {
        self.schedule.next(after, &mut self.clock)
    }

    /// When the entry next hands it something, by its schedule.
    pub(super) fn next_down(&mut self, after: Mono) -> Option<Mono> {
        self.down_schedule.next(after, &mut self.down_clock)
    }

    /// A fresh inbox for a key epoch: its secret, for the entry.
    pub(super) fn attach(&mut self, epoch: KeyEpoch) -> Secret<32> {
        let secret = Secret::random(&mut self.rng);
        self.inbox = Some((epoch, InboxId(crypto::hash(context::INBOX, secret.expose()).0)));
        self.rows.retain(|_, row| row.keys.key_epoch.next() >= epoch);
        secret
    }

    /// The application writes. `false` if too much waits.
    pub(super) fn write(&mut self, message: u64) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push_back(message);
        }
        room
    }

    /// How long an answer may take, cover included.
    fn patience(&self) -> Duration {
        Duration::from_secs(15) + self.means.hop_delay * 15 + self.means.interval * 6
    }

    /// What is to be sent, if anything is.
    pub(super) fn work(&mut self, now: Mono, epoch: KeyEpoch) -> Option<Use> {
        let fresh = self.subscribed.is_some_and(|(of, at)| of == epoch && now.since(at) < HEARTBEAT);
        // What isn't acknowledged comes again and takes reply blocks.
        if !fresh || self.blocks <= 1 || self.acked > self.told {
            return Some(Use::Subscribe);
        }
        let patience = self.patience();
        if let Some(late) = self.flying.values().find(|f| now.since(f.since) > patience) {
            return Some(Use::Message(late.message));
        }
        self.waiting.front().map(|message| Use::Message(*message))
    }

    /// Makes the packet for the entry.
    pub(super) fn packet(&mut self, now: Now, view: &View, sealing: &dyn Sealing, what: Use) -> Option<Packet> {
        let (to, command, blocks, purpose) = match what {
            Use::Subscribe => {
                let pace = if self.means.habit.waits() { self.means.interval / 2 } else { Duration::ZERO };
                let pace = u32::try_from(pace.as_millis()).unwrap_or(u32::MAX);
                let reader = ReaderCapability::new(self.reader.duplicate());
                (self.queue, Command::Subscribe { reader, acked: self.acked, pace }, MAX_SUBSCRIBE_SURBS, Purpose::Push)
            }
            Use::Message(message) => {
                let sequence = self.sequence(message, now.mono);
                let writer = WriterCapability::new(self.writer.duplicate());
                let body = message.to_le_bytes().into();
                (self.peer_queue, Command::Send { writer, sequence, body }, 1, Purpose::Send(sequence))
            }
            Use::Loop => {
                let edge = view.edges.get(below(view.edges.len(), &mut self.rng)).copied()?;
                (edge, Command::Echo, 1, Purpose::Loop)
            }
        };
        if self.rows.len() >= MAX_ROWS {
            self.rows.clear();
        }
        let mut reply = Vec::with_capacity(blocks);
        for _ in 0..blocks {
            let (block, keys) = {
                let hops = view.back(self.entry, self.means.hop_delay, &mut self.rng)?;
                let hops: Vec<Hop<'_>> = hops.iter().map(|(relay, key, delay)| hop(*relay, key, *delay)).collect();
                let inbox = self.inbox?.1;
                sealing.reply_block(view.geometry, view.epoch, &hops, inbox, &mut self.rng).ok()?
            };
            self.rows.insert(keys.surb, Row { keys, purpose });
            reply.push(block);
        }
        if what == Use::Subscribe {
            // The relay keeps no more, and lets the oldest go.
            self.blocks = (self.blocks + blocks).min(MAX_QUEUE_SURBS);
            if self.subscribed.is_none_or(|(of, _)| of != view.epoch) {
                self.blocks = blocks;
            }
            self.subscribed = Some((view.epoch, now.mono));
            self.told = self.acked;
        }
        let content = Envelope { command, reply }.encode(view.geometry).ok()?;
        let hops = view.forth(self.entry, to, self.means.hop_delay, &mut self.rng)?;
        let hops: Vec<Hop<'_>> = hops.iter().map(|(relay, key, delay)| hop(*relay, key, *delay)).collect();
        sealing.packet(view.geometry, view.epoch, &hops, Last::Queue, &content, &mut self.rng).ok()
    }

    fn sequence(&mut self, message: u64, now: Mono) -> u64 {
        if self.waiting.front() == Some(&message) {
            self.waiting.pop_front();
            let sequence = self.next;
            self.next += 1;
            self.flying.insert(sequence, Flying { message, since: now });
            return sequence;
        }
        let again = self.flying.iter_mut().find(|(_, flying)| flying.message == message);
        again.map_or(0, |(sequence, flying)| {
            flying.since = now;
            *sequence
        })
    }

    /// Something came from the entry.
    pub(super) fn hear(&mut self, now: Now, view: &View, sealing: &dyn Sealing, packet: Packet) -> Heard {
        let row = sealing.surb(view.geometry, &packet).and_then(|surb| self.rows.remove(&surb));
        let Some(Row { keys, purpose }) = row else { return Heard::Nothing };
        let epoch = keys.key_epoch;
        if let Purpose::Push = purpose
            && self.subscribed.is_some_and(|(of, _)| of == epoch)
        {
            self.blocks = self.blocks.saturating_sub(1);
        }
        let Ok(content) = sealing.answer(keys, view.geometry, packet) else { return Heard::Nothing };
        let Ok(answer) = Answer::decode(&content) else { return Heard::Nothing };
        match (purpose, answer.body) {
            (Purpose::Loop, Body::Ok) => Heard::Loop,
            (Purpose::Send(sequence), Body::Ok) => {
                self.flying.remove(&sequence).map_or(Heard::Nothing, |_| Heard::Stored)
            }
            (Purpose::Push, Body::Message { sequence, body, .. }) => self.message(now.mono, sequence, &body),
            _ => Heard::Nothing,
        }
    }

    fn message(&mut self, now: Mono, sequence: u64, body: &[u8]) -> Heard {
        if let Some((_, at)) = &mut self.subscribed {
            *at = now;
        }
        let new = sequence > self.acked && self.ahead.insert(sequence);
        while self.ahead.remove(&(self.acked + 1)) {
            self.acked += 1;
        }
        match Reader::new(body).u64("a message") {
            Ok(message) if new => Heard::Message(message),
            _ => Heard::Nothing,
        }
    }
}

const fn hop(relay: RelayId, key: &KemPublicKey, delay: Duration) -> Hop<'_> {
    Hop { relay, key, delay }
}

/// A delay at a hop.
pub(super) fn delay(mean: Duration, rng: &mut ChaCha20Rng) -> Duration {
    exponential(mean, rng).min(MAX_HOP_DELAY)
}
