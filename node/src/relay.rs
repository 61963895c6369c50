//! The relay's core: single owner of delays, inboxes, reply blocks and limits.
//!
//! Sans-IO. The driver feeds it with [`Relay::handle`], carries out what [`Relay::poll`] gives until there is no more,
//! and comes back with [`Event::Tick`] at [`Relay::poll_timeout`] at the latest. Packets reach it peeled.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::{Consensus, MixKeys, Params, Profile};
use posta_protocol::frame::Delivery;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, Incarnation, KeyEpoch, RelayId, SurbId};
use posta_protocol::now::{Mono, Now};
use posta_protocol::onion::{Next, Peeled};
use posta_protocol::packet::Packet;
use posta_protocol::params::PAYLOAD_CHECK_LEN;
use posta_protocol::secret::Secret;
use posta_store::{Outcome, QueueOp};
use rand_core::CryptoRng;

mod admission;
mod counters;
mod delay;
mod downlink;
mod inbox;
mod layers;
mod loops;
pub mod replay;
pub mod worker;

pub(crate) use admission::Gate;
pub use admission::{Admission, Effort};
pub use counters::Counters;
pub use delay::{DEFAULT_DELAYED_BYTES, DelayBounds, MAX_DELAYED};
pub use downlink::{MAX_PACED, MAX_WAITING};
pub use inbox::{InboxBounds, MAX_BUFFERED, MAX_INBOX_BUFFER, MAX_INBOXES, MAX_INBOXES_PER_LINK};
pub use layers::{grace, skew};
pub use loops::{LOOP_PATIENCE, LOOP_WINDOW, LOOP_WINDOWS, LoopCount, MAX_LOOPS};

use self::delay::DelayQueue;
pub(crate) use self::delay::exponential;
use self::downlink::Downlinks;
use self::inbox::{Arrival, Inboxes};
pub(crate) use self::layers::Layers;
use self::loops::{Ended, Loops};
use crate::queue::{QueueBounds, QueueService};

/// How long a relay that is told to stop waits for delayed packets.
pub const STOP_DELAY: Duration = Duration::from_secs(10);

/// A client's link, by a number of the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientLink(pub u64);

/// An operation that the store was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Where a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client's link.
    Client(ClientLink),
    /// A relay's link.
    Relay(RelayId),
    /// This relay itself.
    Own,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A worker has peeled a packet.
    Peeled {
        /// Where it came from.
        from: Source,
        /// What it is to become.
        peeled: Peeled,
        /// The packet, one layer less.
        packet: Packet,
    },
    /// A client wants its inbox.
    Attach {
        /// On this link.
        link: ClientLink,
        /// The inbox's id is its hash.
        secret: Secret<32>,
    },
    /// A client says when it wants to be handed what comes for it.
    Pace {
        /// On this link.
        link: ClientLink,
        /// As this profile does.
        profile: Profile,
    },
    /// A client's link is closed.
    ClientGone {
        /// This one.
        link: ClientLink,
    },
    /// The store has done what [`Action::Store`] asked for.
    Stored {
        /// Which operation.
        token: Token,
        /// What became of it.
        outcome: Outcome,
    },
    /// There is a newer consensus.
    Consensus(Arc<Consensus>),
    /// The mix keys that the newest consensus binds, verified. Without them the relay sends no loops.
    MixKeys(Vec<Arc<MixKeys>>),
    /// The relay is told to stop. Packets due within [`STOP_DELAY`] still leave at their time; the others are dropped:
    /// sent early, they would tell who came with whom. Their senders send them again.
    Stop,
    /// Time has passed.
    Tick,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Send a packet to a relay.
    Send {
        /// That one.
        to: RelayId,
        /// The packet.
        packet: Packet,
    },
    /// Hand a reply to a client.
    Deliver {
        /// On this link.
        link: ClientLink,
        /// The reply, as [`Delivery`] lays it out.
        packet: Packet,
    },
    /// Tell a client that its inbox is attached.
    Attached {
        /// On this link.
        link: ClientLink,
        /// The inbox.
        inbox: InboxId,
    },
    /// Ask the store; at most [`crate::queue::MAX_PENDING`] are open at once.
    Store {
        /// Comes back in [`Event::Stored`].
        token: Token,
        /// What to do.
        op: QueueOp,
    },
}

/// How much the core may hold; the defaults are the named constants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Of the packets that wait for their time.
    pub delayed: DelayBounds,
    /// Of the inboxes.
    pub inboxes: InboxBounds,
    /// Of the queue service.
    pub queues: QueueBounds,
}

/// What a relay is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Itself.
    pub relay: RelayId,
    /// The network's.
    pub geometry: Geometry,
    /// The store's; in every answer.
    pub incarnation: Incarnation,
    /// Who may make queues.
    pub admission: Admission,
    /// How much it may hold.
    pub bounds: Bounds,
}

/// What a step of the core works with.
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) layers: &'a Layers,
    pub(crate) counters: &'a mut Counters,
    pub(crate) rng: &'a mut (dyn CryptoRng + Send),
    pub(crate) out: &'a mut VecDeque<Action>,
}

/// The core of a relay.
pub struct Relay {
    geometry: Geometry,
    layers: Layers,
    delays: DelayQueue,
    loops: Loops,
    inboxes: Inboxes,
    downlinks: Downlinks,
    /// The consensus' parameters.
    params: Params,
    queues: QueueService,
    counters: Counters,
    rng: Box<dyn CryptoRng + Send>,
    out: VecDeque<Action>,
    purge_at: Option<Mono>,
    /// When the last delayed packet may leave, once the relay has been told to stop.
    stop_at: Option<Mono>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relay(..)")
    }
}

/// How often what belongs to past key epochs is looked for.
const PURGE_EVERY: Duration = Duration::from_secs(1);

impl Relay {
    /// A relay that knows no consensus yet, and therefore drops every packet.
    #[must_use]
    pub fn new(settings: Settings, rng: Box<dyn CryptoRng + Send>) -> Self {
        let Settings { relay, geometry, incarnation, admission, bounds } = settings;
        Self {
            geometry,
            layers: Layers::new(relay),
            delays: DelayQueue::new(bounds.delayed),
            loops: Loops::new(relay, geometry),
            inboxes: Inboxes::new(bounds.inboxes),
            downlinks: Downlinks::default(),
            params: Params::default(),
            queues: QueueService::new(geometry, incarnation, admission, bounds.queues),
            counters: Counters::default(),
            rng,
            out: VecDeque::new(),
            purge_at: None,
            stop_at: None,
        }
    }

    /// Takes one event in. Never waits and never fails: what can't be done is dropped and counted.
    pub fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Peeled { from, peeled, packet } => self.peeled(now, from, peeled, packet),
            Event::Attach { link, secret } => self.attach(now, link, &secret),
            Event::Pace { link, profile } => {
                let rng = &mut *self.rng;
                for packet in self.downlinks.pace(now.mono, link, profile, &self.params, rng) {
                    self.out.push_back(Action::Deliver { link, packet });
                }
            }
            Event::ClientGone { link } => {
                self.inboxes.gone(link);
                self.counters.inbox_overflow += self.downlinks.gone(link).len() as u64;
            }
            Event::Stored { token, outcome } => {
                let (queues, mut cx) = self.queues_and_context(now);
                queues.stored(&mut cx, token, outcome);
            }
            Event::Consensus(consensus) => {
                self.layers.update(&consensus, now.wall);
                self.params.clone_from(consensus.params());
                if self.stop_at.is_none() {
                    self.loops.consensus(&consensus);
                }
            }
            Event::MixKeys(parts) => self.loops.mix_keys(&parts, now.wall),
            Event::Stop => {
                let last = *self.stop_at.get_or_insert(now.mono + STOP_DELAY);
                self.counters.stopped += self.delays.drop_after(last);
                self.loops.stop();
            }
            Event::Tick => {}
        }
        self.due(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// When to come back with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let due = [self.delays.next_due(), self.queues.next_due(), self.loops.next_due(), self.downlinks.next_due()];
        due.into_iter().flatten().min()
    }

    /// Packets that wait for their time; after [`Event::Stop`] none is left within [`STOP_DELAY`].
    #[must_use]
    pub fn delayed(&self) -> usize {
        self.delays.len()
    }

    /// What became of this relay's own loops in the last hour: a measure of the network's loss as seen from here.
    #[must_use]
    pub fn loops(&self) -> LoopCount {
        self.loops.count()
    }

    /// What has been counted since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes over who may make queues, and what a message to a contact queue costs.
    pub fn admit(&mut self, admission: Admission, contact: Effort) {
        self.queues.admit(admission, contact);
    }

    /// For what the driver counts.
    pub(crate) const fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    fn queues_and_context(&mut self, now: Now) -> (&mut QueueService, Context<'_>) {
        let Self { layers, queues, counters, rng, out, .. } = self;
        (queues, Context { now, layers, counters, rng: &mut **rng, out })
    }

    fn peeled(&mut self, now: Now, from: Source, peeled: Peeled, packet: Packet) {
        let Peeled { key_epoch, next } = peeled;
        if let Source::Client(link) = from {
            self.downlinks.heard(now.mono, link);
        }
        if let (Source::Relay(relay), Next::Inbox { surb, .. }) = (from, &next)
            && self.loops.know(surb)
            && self.layers.may_come(Some(&relay), key_epoch)
        {
            return self.looped(now, *surb, packet);
        }
        if !self.may(from, key_epoch, &next) {
            self.counters.illegal_route += 1;
            return;
        }
        match next {
            Next::Forward { to, delay } if delay.is_zero() => self.forward(to, packet),
            Next::Forward { delay, .. } if self.stop_at.is_some_and(|last| now.mono + delay > last) => {
                self.counters.stopped += 1;
            }
            Next::Forward { to, delay } => {
                self.counters.delay_full += self.delays.push(now.mono + delay, to, packet);
            }
            Next::Queue => {
                let content_at = self.geometry.header_len() + PAYLOAD_CHECK_LEN;
                self.counters.commands += 1;
                let (queues, mut cx) = self.queues_and_context(now);
                queues.command(&mut cx, packet.as_bytes().get(content_at..).unwrap_or_default());
            }
            Next::Inbox { inbox, surb } => self.deliver(&inbox, surb, packet),
            Next::Drop => self.counters.cover += 1,
        }
    }

    /// Whether a path leads this way. A client can only send into the network; what it wants of this relay comes from
    /// the other side.
    fn may(&self, from: Source, epoch: KeyEpoch, next: &Next) -> bool {
        let comes = match (from, next) {
            (Source::Client(_), Next::Forward { .. }) => self.layers.may_come(None, epoch),
            (Source::Client(_), _) => false,
            (Source::Relay(relay), _) => self.layers.may_come(Some(&relay), epoch),
            (Source::Own, _) => true,
        };
        comes
            && match next {
                Next::Forward { to, .. } => self.layers.may_go(to, epoch),
                Next::Queue | Next::Inbox { .. } => self.layers.may_come(None, epoch),
                Next::Drop => true,
            }
    }

    fn forward(&mut self, to: RelayId, packet: Packet) {
        self.counters.forwarded += 1;
        self.out.push_back(Action::Send { to, packet });
    }

    fn deliver(&mut self, inbox: &InboxId, surb: SurbId, packet: Packet) {
        let packet = Delivery::into_packet(surb, packet, self.geometry);
        match self.inboxes.arrive(inbox, packet) {
            Arrival::Deliver(link, packet) => self.hand(link, packet),
            Arrival::Kept(dropped) => self.counters.inbox_overflow += dropped,
            Arrival::Full => self.counters.inbox_overflow += 1,
            Arrival::Unknown => self.counters.no_inbox += 1,
        }
    }

    /// Gives a client what is for it, now or in a slot of its link.
    fn hand(&mut self, link: ClientLink, packet: Packet) {
        match self.downlinks.hold(link, packet) {
            Ok(dropped) => self.counters.inbox_overflow += dropped,
            Err(packet) => {
                self.counters.delivered += 1;
                self.out.push_back(Action::Deliver { link, packet });
            }
        }
    }

    fn looped(&mut self, now: Now, surb: SurbId, packet: Packet) {
        match self.loops.returned(now.mono, surb, packet) {
            Some(Ended::Returned) => self.counters.loops_returned += 1,
            Some(Ended::Lost) => self.counters.loops_lost += 1,
            None => {}
        }
    }

    fn attach(&mut self, now: Now, link: ClientLink, secret: &Secret<32>) {
        let attached = self.layers.key_epoch_ahead(now.wall).and_then(|epoch| self.inboxes.attach(link, secret, epoch));
        let Some((inbox, waiting)) = attached else {
            self.counters.inboxes_full += 1;
            return;
        };
        self.out.push_back(Action::Attached { link, inbox });
        waiting.into_iter().for_each(|packet| self.hand(link, packet));
    }

    /// What time alone brings about.
    fn due(&mut self, now: Now) {
        while let Some((to, packet)) = self.delays.pop_due(now.mono, &mut *self.rng) {
            self.forward(to, packet);
        }
        while let Some((link, packet, real)) = self.downlinks.pop_due(now.mono, self.geometry, &mut *self.rng) {
            self.counters.delivered += u64::from(real);
            self.out.push_back(Action::Deliver { link, packet });
        }
        self.counters.loops_lost += self.loops.give_up(now.mono);
        for _ in 0..self.loops.begin(now, &mut *self.rng) {
            if let Some((to, packet)) = self.loops.make(now, &mut *self.rng) {
                self.counters.loops_sent += 1;
                self.out.push_back(Action::Send { to, packet });
            }
        }
        let (queues, mut cx) = self.queues_and_context(now);
        queues.due(&mut cx);
        if self.purge_at.is_none_or(|at| now.mono >= at) {
            self.purge_at = Some(now.mono + PURGE_EVERY);
            self.purge(now);
        }
    }

    /// Forgets what belongs to past key epochs.
    fn purge(&mut self, now: Now) {
        let Self { layers, inboxes, .. } = self;
        inboxes.purge(|epoch| layers.alive(epoch, now.wall));
        let (queues, mut cx) = self.queues_and_context(now);
        queues.purge(&mut cx);
    }
}
