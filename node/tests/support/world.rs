//! A few relays in one process: real packets, real peeling, a store in memory, virtual time. No sockets, no threads.

#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use posta_node::relay::replay::{ReplaySecret, ReplayShard};
use posta_node::relay::worker::{Peeler, Ring};
use posta_node::relay::{Action, Admission, Bounds, ClientLink, Event, Relay, Settings, Source, Token};
use posta_protocol::answer::{Answer, Body};
use posta_protocol::command::{Command, Envelope};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::document::{
    Authorities, Authority, Certificate, Consensus, ConsensusBody, ConsensusSignature, Cut, Deal, Extensions,
    KeyEpochPart, MixKeys, Origin, Params, Position, Purpose, RelayEntry, Roles, SharedRandom, UnverifiedConsensus,
    cut, place,
};
use posta_protocol::frame::Delivery;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{
    AuthorityId, Epoch, Hash, InboxId, Incarnation, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey,
    SurbId,
};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::onion::KeyRing;
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::reply::{ReplyKeys, reply_block};
use posta_protocol::packet::Packet;
use posta_protocol::registry::parameter;
use posta_protocol::secret::Secret;
use posta_store::{Limits, MemoryStore, Outcome, QueueOp, QueueStore};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

pub const KEY_EPOCH: Duration = Duration::from_secs(600);
pub const INCARNATION: Incarnation = Incarnation([4; 16]);
pub const G: Geometry = Geometry::DEFAULT;

/// The relays: two edges, two mixes a layer.
pub const ENTRY: RelayId = RelayId([1; 32]);
pub const QUEUES: RelayId = RelayId([2; 32]);
pub const MIX1: RelayId = RelayId([3; 32]);
pub const OTHER_MIX1: RelayId = RelayId([4; 32]);
pub const MIX2: RelayId = RelayId([5; 32]);
pub const OTHER_MIX2: RelayId = RelayId([6; 32]);
pub const ALL: [(RelayId, Position); 6] = [
    (ENTRY, Position::Edge),
    (QUEUES, Position::Edge),
    (MIX1, Position::Mix1),
    (OTHER_MIX1, Position::Mix1),
    (MIX2, Position::Mix2),
    (OTHER_MIX2, Position::Mix2),
];
/// The way of every command and of every answer.
pub const FORTH: [RelayId; 4] = [ENTRY, MIX1, MIX2, QUEUES];
pub const BACK: [RelayId; 3] = [OTHER_MIX1, OTHER_MIX2, ENTRY];

pub const CLIENT: ClientLink = ClientLink(7);

pub fn start() -> Now {
    // A little after the beginning of a key epoch.
    Now { mono: Mono(0), wall: Wall(KEY_EPOCH.as_millis() as u64 * 3_000_000 + 100_000) }
}

pub fn mix_key(relay: RelayId, epoch: KeyEpoch) -> KemSecretKey {
    let mut seed = relay.0;
    seed[..8].copy_from_slice(&epoch.0.to_le_bytes());
    KemSecretKey::from_seed(&Secret::new(seed)).unwrap()
}

fn authority() -> SignKey {
    SignKey::from_seed(&Secret::new([9; 32]))
}

/// The one authority, at an address where nobody answers.
pub fn authorities() -> Authorities {
    Authorities::new(vec![Authority {
        id: AuthorityId(authority().public()),
        link_key: LinkPublicKey([9; 32]),
        addresses: vec!["127.0.0.1:1".parse().unwrap()],
    }])
    .unwrap()
}

/// A consensus for the key epoch at `at` and the next one, signed by one authority and verified.
pub fn consensus(at: Wall) -> Arc<Consensus> {
    consensus_of(at, ALL.map(|(id, position)| entry(id, LinkPublicKey(id.0), position)).into())
}

/// What a consensus says of a relay.
pub fn entry(id: RelayId, link_key: LinkPublicKey, position: Position) -> RelayEntry {
    RelayEntry {
        id,
        link_key,
        link_addresses: vec!["127.0.0.1:5".parse().unwrap()],
        client_addresses: Vec::new(),
        roles: if position == Position::Edge { Roles::EDGE } else { Roles::MIX },
        family: None,
        operator: OperatorId([0; 16]),
        capacity: 1,
        protocols: Default::default(),
        class: Default::default(),
        listed_since: Wall(0),
        layers: vec![Some(position); 2],
    }
}

/// As [`consensus`], of these relays.
pub fn consensus_of(at: Wall, relays: Vec<RelayEntry>) -> Arc<Consensus> {
    consensus_with(at, relays, None)
}

/// As [`consensus_of`], with a mean time between relays' loops.
pub fn consensus_with(at: Wall, relays: Vec<RelayEntry>, loops_us: Option<u64>) -> Arc<Consensus> {
    let (identity, known) = (authority(), authorities());
    let signing = SignKey::from_seed(&Secret::new([10; 32]));
    let mut params = Params::default();
    assert!(params.set(parameter::KEY_EPOCH_MS, KEY_EPOCH.as_millis() as u64));
    assert!(loops_us.is_none_or(|us| params.set(parameter::RELAY_LOOP_INTERVAL_US, us)));
    let epoch = epoch_at(at);
    let hour = Duration::from_secs(3600);
    let body = ConsensusBody {
        geometry: G,
        epoch: Epoch(epoch.0),
        valid_after: at - hour,
        fresh_until: at + hour,
        valid_until: at + hour,
        previous: Hash([0; 32]),
        shared_random: SharedRandom {
            deals: [epoch, epoch.next()].map(|epoch| deal(epoch, &relays)).into(),
            ..SharedRandom::default()
        },
        params,
        missed: Vec::new(),
        key_epochs: [epoch, epoch.next()].map(|epoch| KeyEpochPart { epoch, mix_keys: Hash([0; 32]) }).into(),
        relays,
        extensions: Extensions::default(),
    };
    let bytes = body.encode();
    let header = body.header(&bytes);
    let key = SigningPublicKey(signing.public());
    let certificate = Certificate::issue(&identity, Purpose::Authority, key, Wall(0), at + hour);
    let signature = ConsensusSignature::sign(&header, certificate, &signing);
    let bytes = Consensus::assemble(&bytes, &[signature]);
    Arc::new(UnverifiedConsensus::decode(&bytes).unwrap().verify(&known, at, hour).unwrap())
}

/// A random value that puts the relays where they are, cut by an earlier consensus; for too few mixes there is no cut.
fn deal(key_epoch: KeyEpoch, relays: &[RelayEntry]) -> Deal {
    let with = |n: u8| {
        let deal = Deal { key_epoch, random: [n; 32], origin: Origin::Reveals, listed_before: Wall(1), cut: None };
        Deal { cut: cut(&deal, relays, 2).ok().map(|last| Cut { dealt: Epoch(0), last }), ..deal }
    };
    let fits = |deal: &Deal| relays.iter().all(|relay| place(deal, relay) == relay.layers[0]);
    (0..=u8::MAX).map(with).find(fits).unwrap_or_else(|| with(0))
}

/// The mix keys of a key epoch, as the consensus would bind them.
pub fn mix_keys(epoch: KeyEpoch) -> Arc<MixKeys> {
    let mut keys: Vec<_> = ALL.iter().map(|(id, _)| (*id, mix_key(*id, epoch).public().clone())).collect();
    keys.sort_by_key(|(id, _)| *id);
    Arc::new(MixKeys { key_epoch: epoch, keys })
}

pub fn epoch_at(at: Wall) -> KeyEpoch {
    KeyEpoch(at.0 / KEY_EPOCH.as_millis() as u64)
}

/// A relay and its store.
pub struct Node {
    pub core: Relay,
    pub peeler: Peeler,
    pub store: MemoryStore,
}

/// All relays, one client, and the time.
pub struct World {
    pub now: Now,
    pub nodes: BTreeMap<RelayId, Node>,
    pub rng: ChaCha20Rng,
    /// Replies that arrived at a client's link.
    pub delivered: Vec<(ClientLink, Packet)>,
    pub attached: Vec<(ClientLink, InboxId)>,
    /// Packets on their way from relay to relay, if `hold` says to keep them.
    pub wire: VecDeque<(RelayId, RelayId, Packet)>,
    /// Operations that the stores have not been asked yet, if `hold_stores`.
    pub asked: VecDeque<(RelayId, Token, QueueOp)>,
    pub hold_stores: bool,
    pub hold_wire: bool,
    pub inbox: InboxId,
    pub keys: Vec<ReplyKeys>,
}

impl World {
    pub fn new() -> Self {
        Self::with(Bounds::default(), Admission::Open)
    }

    pub fn with(bounds: Bounds, admission: Admission) -> Self {
        let now = start();
        let epoch = epoch_at(now.wall);
        let node = |(relay, _)| {
            let settings =
                Settings { relay, geometry: G, incarnation: INCARNATION, admission: admission.clone(), bounds };
            let mut core = Relay::new(settings, Box::new(ChaCha20Rng::seed_from_u64(u64::from(relay.0[0]))));
            core.handle(now, Event::Consensus(consensus(now.wall)));
            let epochs = vec![epoch, epoch.next()];
            let keys = epochs.iter().map(|e| (*e, mix_key(relay, *e))).collect();
            let ring = Ring { keys: Arc::new(KeyRing::new(relay, G, keys)), epochs };
            let shard = ReplayShard::new(ReplaySecret::new(Secret::new([8; 32])), 1000);
            let store = MemoryStore::new(Limits::default(), INCARNATION);
            (relay, Node { core, peeler: Peeler::new(ring, shard), store })
        };
        let mut world = Self {
            now,
            nodes: ALL.map(node).into(),
            rng: ChaCha20Rng::seed_from_u64(1),
            delivered: Vec::new(),
            attached: Vec::new(),
            wire: VecDeque::new(),
            asked: VecDeque::new(),
            hold_stores: false,
            hold_wire: false,
            inbox: InboxId([0; 32]),
            keys: Vec::new(),
        };
        world.inbox = world.attach(CLIENT, 1);
        world
    }

    /// As [`World::new`], with a mean time between relays' loops in microseconds.
    pub fn with_interval(loops_us: Option<u64>) -> Self {
        let mut world = Self::new();
        let relays = ALL.map(|(id, position)| entry(id, LinkPublicKey(id.0), position)).into();
        let consensus = consensus_with(world.now.wall, relays, loops_us);
        for relay in ALL.map(|(id, _)| id) {
            world.event(relay, Event::Consensus(Arc::clone(&consensus)));
        }
        world
    }

    pub fn core(&mut self, relay: RelayId) -> &mut Relay {
        &mut self.nodes.get_mut(&relay).unwrap().core
    }

    /// Gives a relay the mix keys of this key epoch and the next: from now on it sends loops.
    pub fn loops(&mut self, relay: RelayId) {
        let epoch = epoch_at(self.now.wall);
        self.event(relay, Event::MixKeys([epoch, epoch.next()].map(mix_keys).into()));
    }

    pub fn attach(&mut self, link: ClientLink, secret: u8) -> InboxId {
        self.event(ENTRY, Event::Attach { link, secret: Secret::new([secret; 32]) });
        self.attached.last().expect("attached").1
    }

    pub fn event(&mut self, relay: RelayId, event: Event) {
        let now = self.now;
        self.core(relay).handle(now, event);
        self.run();
    }

    /// Time passes, a millisecond at a time at most where something is due.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let due = self.nodes.values().filter_map(|n| n.core.poll_timeout()).min();
            let next = due.filter(|due| *due < end.mono).unwrap_or(end.mono).max(self.now.mono);
            self.now = self.now + next.since(self.now.mono);
            for relay in ALL.map(|(id, _)| id) {
                self.event(relay, Event::Tick);
            }
            if next == end.mono {
                break;
            }
        }
    }

    /// Does what the cores ask for, until they ask for nothing more.
    pub fn run(&mut self) {
        loop {
            let mut idle = true;
            for relay in ALL.map(|(id, _)| id) {
                while let Some(action) = self.core(relay).poll() {
                    idle = false;
                    match action {
                        Action::Send { to, packet } => self.wire.push_back((relay, to, packet)),
                        Action::Deliver { link, packet } => self.delivered.push((link, packet)),
                        Action::Attached { link, inbox } => self.attached.push((link, inbox)),
                        Action::Store { token, op } => self.asked.push_back((relay, token, op)),
                    }
                }
            }
            if !self.hold_stores
                && let Some((relay, token, op)) = self.asked.pop_front()
            {
                idle = false;
                self.store(relay, token, op);
            }
            if !self.hold_wire
                && let Some((from, to, packet)) = self.wire.pop_front()
            {
                idle = false;
                self.receive(to, Source::Relay(from), packet);
            }
            if idle {
                return;
            }
        }
    }

    /// Asks the stores what they have not been asked yet.
    pub fn release_stores(&mut self) {
        self.hold_stores = false;
        self.run();
    }

    pub fn store(&mut self, relay: RelayId, token: Token, op: QueueOp) -> Outcome {
        let now = self.now;
        let node = self.nodes.get_mut(&relay).unwrap();
        let outcome = node.store.apply(now, &[op]).remove(0);
        node.core.handle(now, Event::Stored { token, outcome: outcome.clone() });
        outcome
    }

    /// A packet arrives at a relay. Returns whether it could be peeled.
    pub fn receive(&mut self, at: RelayId, from: Source, mut packet: Packet) -> bool {
        let now = self.now;
        let node = self.nodes.get_mut(&at).unwrap();
        let Ok(peeled) = node.peeler.peel(&mut packet) else { return false };
        node.core.handle(now, Event::Peeled { from, peeled, packet });
        true
    }

    /// A packet along a path of the current key epoch.
    pub fn packet(&mut self, path: &[RelayId], delay: Duration, last: Last, content: &[u8]) -> Packet {
        let epoch = epoch_at(self.now.wall);
        let keys: Vec<_> = path.iter().map(|relay| mix_key(*relay, epoch)).collect();
        let hops: Vec<_> =
            path.iter().zip(&keys).map(|(relay, key)| Hop { relay: *relay, key: key.public(), delay }).collect();
        packet(G, epoch, &hops, last, content, &mut self.rng).unwrap()
    }

    /// An envelope with so many reply blocks of `epoch`, whose keys are kept.
    pub fn envelope(&mut self, command: Command, blocks: usize, epoch: KeyEpoch) -> Vec<u8> {
        let keys: Vec<_> = BACK.iter().map(|relay| mix_key(*relay, epoch)).collect();
        let hops: Vec<_> = BACK
            .iter()
            .zip(&keys)
            .map(|(relay, key)| Hop { relay: *relay, key: key.public(), delay: Duration::ZERO })
            .collect();
        let mut reply = Vec::new();
        for _ in 0..blocks {
            let (block, keys) = reply_block(G, epoch, &hops, self.inbox, &mut self.rng).unwrap();
            self.keys.push(keys);
            reply.push(block);
        }
        Envelope { command, reply }.encode(G).unwrap()
    }

    /// Sends a command the whole way.
    pub fn command(&mut self, command: Command, blocks: usize) {
        let epoch = epoch_at(self.now.wall);
        let content = self.envelope(command, blocks, epoch);
        self.content(&content);
    }

    /// Sends content for the queue service the whole way.
    pub fn content(&mut self, content: &[u8]) {
        let packet = self.packet(&FORTH, Duration::ZERO, Last::Queue, content);
        assert!(self.receive(ENTRY, Source::Client(CLIENT), packet));
        self.run();
    }

    /// What has arrived at the client, opened.
    pub fn answers(&mut self) -> Vec<Body> {
        let mut answers = Vec::new();
        for (_, packet) in std::mem::take(&mut self.delivered) {
            let delivery = Delivery::from_packet(&packet, G).unwrap();
            let at = self.keys.iter().position(|keys| keys.surb == delivery.surb).expect("a block of ours");
            let content = self.keys.remove(at).open(delivery.payload).unwrap();
            let answer = Answer::decode(&content).unwrap();
            assert_eq!(answer.incarnation, INCARNATION);
            answers.push(answer.body);
        }
        answers
    }

    /// Sends a command with one reply block and returns the answer.
    pub fn ask(&mut self, command: Command) -> Body {
        self.command(command, 1);
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }
}

pub fn surb(n: u8) -> SurbId {
    SurbId([n; 16])
}
