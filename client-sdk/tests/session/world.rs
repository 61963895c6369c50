//! A network in one process under virtual time: real keys, real packets, real peeling; queues in a map.

mod disk;
mod faults;
mod links;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use posta_client::session::Session;
use posta_client::session::event::{Action, ClientEvent, Event, EventCursor, Options};
use posta_client::store::Records;
use posta_protocol::admission::{Asks, Proof, Statement};
use posta_protocol::answer::{Answer, Body};
use posta_protocol::command::{Command, Envelope};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::crypto::{self, context};
use posta_protocol::document::{
    Authorities, Authority, Certificate, Consensus, ConsensusBody, ConsensusSignature, Cut, Deal, Extensions,
    KeyEpochPart, MixKeys, Origin, Params, Position, Purpose, RelayEntry, Roles, SharedRandom, UnverifiedConsensus,
    cut, place,
};
use posta_protocol::frame::Delivery;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{
    AuthorityId, BlobId, Epoch, Hash, InboxId, Incarnation, KeyEpoch, LinkPublicKey, OperatorId, QueueId, RelayId,
    SigningPublicKey, WriterId,
};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::onion::{KeyRing, Next, peel};
use posta_protocol::packet::Packet;
use posta_protocol::registry::{answer as code, parameter};
use posta_protocol::secret::Secret;
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

pub(crate) const START: Wall = Wall(1_700_000_000_000);
const GEOMETRY: Geometry = Geometry::DEFAULT;
const HOP: Duration = Duration::from_millis(1);
/// Clients from this number on are elsewhere.
pub(crate) const ELSEWHERE: usize = 1000;
const RESEND: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Queue {
    writer: Option<WriterId>,
    invited: Option<WriterId>,
    messages: BTreeMap<u64, Box<[u8]>>,
    accepted: BTreeSet<u64>,
    pushed: BTreeMap<u64, Mono>,
    blocks: VecDeque<ReplyBlock>,
}

struct Blob {
    put: WriterId,
    body: Box<[u8]>,
    reader: Option<Secret<32>>,
    deleted: bool,
}

pub(crate) struct Relay {
    pub(crate) id: RelayId,
    pub(crate) alive: bool,
    /// Whether it drops every packet, and answers to links and inboxes all the same.
    pub(crate) swallows: bool,
    pub(crate) incarnation: u8,
    /// What it asks for before it makes a queue.
    pub(crate) asks: Asks,
    rings: BTreeMap<KeyEpoch, KeyRing>,
    queues: BTreeMap<QueueId, Queue>,
    blobs: BTreeMap<BlobId, Blob>,
    /// Packets peeled here.
    pub(crate) carried: u64,
}

pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) events: Vec<(Mono, ClientEvent)>,
    pub(crate) entries: BTreeSet<RelayId>,
    /// What its line shows: when which frame of how many bytes goes where.
    pub(crate) line: Vec<Frame>,
    /// A driver at fault: what the application does shows in when the next packet leaves.
    pub(crate) leaks: bool,
    timer: Option<Mono>,
    /// What is on its disk, if it has one.
    disk: Option<Records>,
    /// Kept events that its application has dealt with, by their places; it forgets nothing when the client crashes.
    kept: BTreeMap<EventCursor, ClientEvent>,
    options: Options,
    /// Actions until it crashes.
    pub(crate) crash_after: Option<u64>,
    pub(crate) crashes: u64,
}

/// A frame as one who watches the line sees it: when, where, what kind of thing, how long.
pub(crate) type Frame = (Mono, RelayId, &'static str, usize);

enum Happening {
    ToClient(usize, Event),
    ToRelay(usize, Packet),
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) relays: Vec<Relay>,
    pub(crate) clients: Vec<Client>,
    pub(crate) loss: f64,
    /// A relay that changes every message which it gives out.
    pub(crate) garbles: Option<usize>,
    /// What was put into queues, if it is asked for.
    pub(crate) recorded: Option<Vec<Box<[u8]>>>,
    mixes: usize,
    edges: usize,
    key_epoch: Duration,
    pub(crate) rng: ChaCha20Rng,
    agenda: BTreeMap<(Mono, u64), Happening>,
    order: u64,
    inboxes: BTreeMap<InboxId, (usize, usize)>,
    /// Clients that are elsewhere: packets for their inboxes, and who each inbox belongs to.
    pub(crate) elsewhere: Vec<(usize, Packet)>,
    /// Where relays can be reached, and their link keys, if they can be.
    pub(crate) addresses: BTreeMap<usize, (SocketAddr, LinkPublicKey)>,
    /// Parameters of the consensus, beside the length of a key epoch.
    pub(crate) params: Vec<(u16, u64)>,
}

fn sign_key(seed: u8) -> SignKey {
    SignKey::from_seed(&Secret::new([seed; 32]))
}

fn kem(relay: RelayId, epoch: KeyEpoch) -> KemSecretKey {
    let mut material = relay.0.to_vec();
    material.extend_from_slice(&epoch.0.to_le_bytes());
    KemSecretKey::from_seed(&crypto::derive(context::LAYERS, &material)).unwrap()
}

/// The one authority that signs.
pub(crate) fn authorities(addresses: Vec<SocketAddr>, link_key: LinkPublicKey) -> Authorities {
    let id = AuthorityId(sign_key(1).public());
    Authorities::new(vec![Authority { id, link_key, addresses }]).unwrap()
}

impl World {
    /// `edges` edges and `mixes` mixes, half in each layer; another assignment in every second key epoch.
    pub(crate) fn new(seed: u64, edges: usize, mixes: usize, key_epoch: Duration) -> Self {
        let relay = |n: usize| Relay {
            id: RelayId(crypto::hash(context::VOTE, &(n as u64 + 1000 * (seed % 7)).to_le_bytes()).0),
            alive: true,
            swallows: false,
            incarnation: 1,
            asks: Asks::Nothing,
            rings: BTreeMap::new(),
            queues: BTreeMap::new(),
            blobs: BTreeMap::new(),
            carried: 0,
        };
        Self {
            now: Now { mono: Mono(1_000_000), wall: START },
            relays: (0..edges + mixes).map(relay).collect(),
            clients: Vec::new(),
            loss: 0.0,
            garbles: None,
            recorded: None,
            mixes,
            edges,
            key_epoch,
            rng: ChaCha20Rng::seed_from_u64(seed),
            agenda: BTreeMap::new(),
            order: 0,
            inboxes: BTreeMap::new(),
            elsewhere: Vec::new(),
            addresses: BTreeMap::new(),
            params: Vec::new(),
        }
    }

    pub(crate) fn add_client(&mut self, options: Options) -> usize {
        let rng = ChaCha20Rng::seed_from_u64(self.rng.random());
        self.add(options, Session::new(options, Box::new(rng)), None)
    }

    fn add(&mut self, options: Options, session: Session, disk: Option<Records>) -> usize {
        self.clients.push(Client::new(options, session, disk));
        let client = self.clients.len() - 1;
        self.act(client);
        client
    }

    fn epoch(&self) -> KeyEpoch {
        KeyEpoch(self.now.wall.0 / self.key_epoch.as_millis() as u64)
    }

    fn position(&self, relay: usize, epoch: KeyEpoch) -> Position {
        match relay.checked_sub(self.edges) {
            None => Position::Edge,
            Some(mix) if (mix as u64 + epoch.0).is_multiple_of(2) => Position::Mix1,
            Some(_) => Position::Mix2,
        }
    }

    /// The documents as of now.
    pub(crate) fn documents(&self) -> (Arc<Consensus>, Vec<Arc<MixKeys>>) {
        let (bytes, parts) = self.signed();
        let authorities = authorities(vec!["127.0.0.1:1".parse().unwrap()], LinkPublicKey([0; 32]));
        let consensus = UnverifiedConsensus::decode(&bytes).unwrap().verify_signatures(&authorities).unwrap();
        (Arc::new(consensus), parts)
    }

    /// The documents' bytes, as an authority gives them out.
    pub(crate) fn signed(&self) -> (Vec<u8>, Vec<Arc<MixKeys>>) {
        let epochs: Vec<KeyEpoch> = (0..3).map(|k| KeyEpoch(self.epoch().0 + k)).collect();
        let mut entries: Vec<RelayEntry> = Vec::new();
        for (n, relay) in self.relays.iter().enumerate() {
            let address = |port| vec![format!("127.{n}.0.1:{port}").parse().unwrap()];
            entries.push(RelayEntry {
                id: relay.id,
                link_key: self.addresses.get(&n).map_or(LinkPublicKey(relay.id.0), |(_, key)| *key),
                link_addresses: address(1),
                client_addresses: self.addresses.get(&n).map_or_else(|| address(2), |(at, _)| vec![*at]),
                roles: if n < self.edges { Roles::EDGE } else { Roles::MIX },
                family: None,
                operator: OperatorId([n as u8; 16]),
                capacity: 1,
                protocols: Default::default(),
                class: Default::default(),
                listed_since: Wall(0),
                layers: epochs.iter().map(|e| Some(self.position(n, *e))).collect(),
            });
        }
        entries.sort_by_key(|e| e.id);
        let mut parts = Vec::new();
        let mut bound = Vec::new();
        for epoch in &epochs {
            let keys = entries.iter().map(|e| (e.id, kem(e.id, *epoch).public().clone())).collect();
            let part = MixKeys { key_epoch: *epoch, keys };
            bound.push(KeyEpochPart { epoch: *epoch, mix_keys: MixKeys::hash(&part.encode()) });
            parts.push(Arc::new(part));
        }
        let deals = (0..).zip(&epochs).map(|(column, epoch)| deal(*epoch, column, &entries)).collect();
        let mut params = Params::default();
        params.set(parameter::KEY_EPOCH_MS, self.key_epoch.as_millis() as u64);
        self.params.iter().for_each(|(code, value)| assert!(params.set(*code, *value)));
        let body = ConsensusBody {
            geometry: GEOMETRY,
            epoch: Epoch(self.epoch().0),
            valid_after: self.now.wall,
            fresh_until: self.now.wall + self.key_epoch,
            valid_until: self.now.wall + self.key_epoch * 3,
            previous: Hash([0; 32]),
            shared_random: SharedRandom { deals, ..SharedRandom::default() },
            params,
            missed: Vec::new(),
            key_epochs: bound,
            relays: entries,
            extensions: Extensions::default(),
        };
        let (identity, signing) = (sign_key(1), sign_key(2));
        let year = Duration::from_secs(365 * 24 * 3600);
        let (key, now) = (SigningPublicKey(signing.public()), self.now.wall);
        let certificate = Certificate::issue(&identity, Purpose::Authority, key, now - year, now + year);
        let encoded = body.encode();
        let signature = ConsensusSignature::sign(&body.header(&encoded), certificate, &signing);
        (Consensus::assemble(&encoded, &[signature]), parts)
    }

    pub(crate) fn index(&self, relay: &RelayId) -> usize {
        self.relays.iter().position(|r| r.id == *relay).unwrap()
    }

    /// Relays that hold a queue or a blob.
    pub(crate) fn holders(&self) -> Vec<usize> {
        (0..self.edges).filter(|i| !self.relays[*i].queues.is_empty()).collect()
    }

    pub(crate) fn mix_range(&self) -> std::ops::Range<usize> {
        self.edges..self.edges + self.mixes
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.agenda.insert((self.now.mono + after, self.order), happening);
    }

    /// Runs one call of a session.
    pub(crate) fn with<T>(&mut self, client: usize, call: impl FnOnce(&mut Session, Now) -> T) -> T {
        let result = call(&mut self.clients[client].session, self.now);
        self.act(client);
        result
    }

    fn act(&mut self, client: usize) {
        while let Some(action) = self.clients[client].session.poll() {
            if !self.survives(client) {
                return self.crash(client);
            }
            match action {
                Action::Save(changes) => self.write(client, changes),
                Action::Connect { entry } => {
                    self.saw(client, None, entry, "connect", 0);
                    self.clients[client].entries.insert(entry);
                    // A dead relay says nothing at all.
                    if self.relays[self.index(&entry)].alive {
                        self.schedule(HOP * 2, Happening::ToClient(client, Event::LinkUp { entry }));
                    }
                }
                Action::Disconnect { entry } => self.saw(client, None, entry, "disconnect", 0),
                Action::Pace { entry, .. } => self.saw(client, None, entry, "control", 2),
                Action::Attach { entry, secret } => {
                    self.saw(client, None, entry, "control", 33);
                    let inbox = InboxId(crypto::hash(context::INBOX, secret.expose()).0);
                    let relay = self.index(&entry);
                    if self.relays[relay].alive {
                        self.inboxes.insert(inbox, (client, relay));
                        self.schedule(HOP * 2, Happening::ToClient(client, Event::Attached { inbox }));
                    }
                }
                Action::Send { entry, packet, at } => {
                    let relay = self.index(&entry);
                    let size = packet.as_bytes().len();
                    self.saw(client, at, entry, "packet", size);
                    let wait = at.map_or(Duration::ZERO, |at| at.since(self.now.mono));
                    self.schedule(wait + HOP, Happening::ToRelay(relay, packet));
                }
                Action::Emit { cursor, event } => self.emitted(client, cursor, event),
                Action::FetchNetwork => {
                    let (consensus, mix_keys) = self.documents();
                    let event = Event::Network { consensus, mix_keys };
                    self.schedule(HOP * 4, Happening::ToClient(client, event));
                }
            }
        }
        self.clients[client].timer = self.clients[client].session.poll_timeout();
        self.commit(client);
    }

    /// Runs until `done` or for `limit`; whether it was done.
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now.mono + limit;
        while !done(self) {
            let agenda = self.agenda.keys().next().map(|(at, _)| *at);
            let timer = self.clients.iter().enumerate().filter_map(|(i, c)| Some((c.timer?, i))).min();
            let next = match (agenda, timer) {
                (Some(a), Some((t, _))) => a.min(t),
                (Some(a), None) => a,
                (None, Some((t, _))) => t,
                (None, None) => return false,
            };
            if next > end {
                self.advance(end);
                return done(self);
            }
            self.advance(next);
            if agenda == Some(next) {
                let Some((_, happening)) = self.agenda.pop_first() else { continue };
                match happening {
                    Happening::ToClient(client, event) => self.with(client, |s, now| s.handle(now, event)),
                    Happening::ToRelay(relay, packet) => self.relay_gets(relay, packet),
                }
            } else if let Some((_, client)) = timer {
                self.with(client, |s, now| s.handle(now, Event::Tick));
            }
        }
        true
    }

    fn advance(&mut self, to: Mono) {
        self.now = self.now + to.since(self.now.mono);
    }

    fn relay_gets(&mut self, index: usize, mut packet: Packet) {
        let lost = self.rng.random_bool((self.loss / 4.0).min(1.0));
        if !self.relays[index].alive || self.relays[index].swallows || lost {
            return;
        }
        let epoch = self.epoch();
        let relay = &mut self.relays[index];
        relay.carried += 1;
        let id = relay.id;
        let ring =
            relay.rings.entry(epoch).or_insert_with(|| KeyRing::new(id, GEOMETRY, vec![(epoch, kem(id, epoch))]));
        let peeled = peel(ring, &mut packet, |_, _| true);
        match peeled.map(|p| p.next) {
            Ok(Next::Forward { to, delay }) => {
                let to = self.index(&to);
                assert!(
                    posta_protocol::document::legal(self.position(index, epoch), self.position(to, epoch)),
                    "an illegal step"
                );
                self.schedule(HOP + delay, Happening::ToRelay(to, packet));
            }
            Ok(Next::Queue) => {
                let content = &packet.as_bytes()[GEOMETRY.header_len() + 32..];
                let envelope = Envelope::decode(content, GEOMETRY).unwrap();
                self.command(index, envelope);
            }
            Ok(Next::Inbox { inbox, surb }) => {
                if let Some((client, _)) = self.inboxes.get(&inbox).filter(|(c, _)| *c >= ELSEWHERE).copied() {
                    self.elsewhere.push((client, Delivery::into_packet(surb, packet, GEOMETRY)));
                } else if let Some((client, _)) = self.inboxes.get(&inbox).copied() {
                    let packet = Delivery::into_packet(surb, packet, GEOMETRY);
                    let delivery = Delivery::from_packet(&packet, GEOMETRY).unwrap();
                    self.schedule(HOP, Happening::ToClient(client, Event::Delivery(delivery)));
                }
            }
            // Packets of the key epoch before, whose keys are gone here at once.
            Ok(Next::Drop) | Err(_) => {}
        }
    }

    fn reply(&mut self, index: usize, block: ReplyBlock, mut body: Body) {
        if let Body::Message { body, .. } = &mut body
            && self.garbles == Some(index)
        {
            let at = self.rng.random_range(0..body.len());
            body[at] ^= 1 << self.rng.random_range(0..8);
        }
        if block.key_epoch != self.epoch() {
            return;
        }
        let answer = Answer { incarnation: Incarnation([self.relays[index].incarnation; 16]), body };
        let (first, packet) = block.reply(GEOMETRY, &answer.encode()).unwrap();
        let first = self.index(&first);
        self.schedule(HOP, Happening::ToRelay(first, packet));
    }

    fn command(&mut self, index: usize, envelope: Envelope) {
        let mut blocks: VecDeque<ReplyBlock> = envelope.reply.into();
        let now = self.now.mono;
        let relay = &mut self.relays[index];
        let refused = |c| Some(Body::Refused(c));
        let mut push = None;
        let body = match envelope.command {
            Command::Create { queue, writer, kind, proof } => {
                let admitted = match (relay.asks, proof) {
                    (Asks::Nothing, _) => true,
                    (Asks::Puzzle(puzzle), Proof::Solution(solution)) => {
                        let statement = Statement::create(&queue, &writer, kind);
                        solution.seed == puzzle.seed && solution.effort(&statement) >= u32::from(puzzle.effort)
                    }
                    _ => false,
                };
                if admitted {
                    relay.queues.entry(queue).or_default().invited = Some(writer);
                    Some(Body::Ok)
                } else {
                    Some(Body::NotAdmitted(relay.asks))
                }
            }
            Command::Secure { invited, writer } => {
                match relay.queues.values_mut().find(|q| q.invited == Some(invited.id())) {
                    Some(q) if q.writer.is_none() || q.writer == Some(writer) => {
                        q.writer = Some(writer);
                        Some(Body::Ok)
                    }
                    Some(_) => refused(code::TAKEN),
                    None => refused(code::BAD_CAPABILITY),
                }
            }
            Command::Send { writer, sequence, body } => {
                if let Some(recorded) = &mut self.recorded {
                    recorded.push(body.clone());
                }
                match relay.queues.iter_mut().find(|(_, q)| q.writer == Some(writer.id())) {
                    None => refused(code::BAD_CAPABILITY),
                    Some((_, q)) if q.messages.len() >= 128 => {
                        assert!(!q.messages.is_empty());
                        refused(code::FULL)
                    }
                    Some((id, q)) => {
                        let last = q.accepted.last().copied().unwrap_or(0);
                        if q.messages.get(&sequence).is_some_and(|held| *held != body) {
                            refused(code::CONFLICT)
                        } else if sequence + 64 <= last || sequence > last + (1 << 20) {
                            refused(code::OUT_OF_WINDOW)
                        } else {
                            if q.accepted.insert(sequence) {
                                q.messages.insert(sequence, body);
                            }
                            push = Some(*id);
                            Some(Body::Ok)
                        }
                    }
                }
            }
            Command::Subscribe { reader, acked, .. } => match relay.queues.get_mut(&reader.id()) {
                None => refused(code::BAD_CAPABILITY),
                Some(q) => {
                    q.messages.retain(|s, _| *s > acked);
                    q.blocks.extend(blocks.drain(..));
                    while q.blocks.len() > 8 {
                        q.blocks.pop_front();
                    }
                    push = Some(reader.id());
                    None
                }
            },
            Command::Fetch { reader, after } => match relay.queues.get(&reader.id()) {
                None => refused(code::BAD_CAPABILITY),
                Some(q) => match q.messages.range(after + 1..).next() {
                    None => Some(Body::Empty),
                    Some((s, body)) => Some(Body::Message {
                        sequence: *s,
                        left: q.messages.range(s + 1..).count() as u32,
                        body: body.clone(),
                    }),
                },
            },
            Command::Ack { reader, up_to } => {
                if let Some(q) = relay.queues.get_mut(&reader.id()) {
                    q.messages.retain(|s, _| *s > up_to);
                }
                Some(Body::Ok)
            }
            Command::BlobPut { put, get, body, .. } => {
                relay.blobs.insert(get, Blob { put: put.id(), body, reader: None, deleted: false });
                Some(Body::Ok)
            }
            Command::BlobGet { get, reader } => match relay.blobs.get_mut(&get.id()) {
                None => refused(code::BAD_CAPABILITY),
                Some(blob) if blob.deleted => refused(code::GONE),
                Some(blob) if blob.reader.as_ref().is_some_and(|r| *r != reader) => refused(code::TAKEN),
                Some(blob) => {
                    blob.reader = Some(reader);
                    Some(Body::Blob(blob.body.clone()))
                }
            },
            Command::BlobDelete { put } => {
                if let Some(blob) = relay.blobs.values_mut().find(|b| b.put == put.id()) {
                    blob.deleted = true;
                }
                Some(Body::Ok)
            }
            Command::Echo => Some(Body::Ok),
            _ => refused(code::UNSUPPORTED),
        };
        if let (Some(body), Some(block)) = (body, blocks.pop_front()) {
            self.reply(index, block, body);
        }
        if let Some(id) = push {
            self.push(index, id, now);
        }
    }

    fn push(&mut self, index: usize, id: QueueId, now: Mono) {
        let epoch = self.epoch();
        loop {
            let q = self.relays[index].queues.get_mut(&id).unwrap();
            q.blocks.retain(|b| b.key_epoch == epoch);
            let due = |s: &u64| q.pushed.get(s).is_none_or(|at| now.since(*at) > RESEND);
            let Some(sequence) = q.messages.keys().find(|s| due(s)).copied() else { return };
            let Some(block) = q.blocks.pop_front() else { return };
            q.pushed.insert(sequence, now);
            let left = q.messages.range(sequence + 1..).count() as u32;
            let body = Body::Message { sequence, left, body: q.messages[&sequence].clone() };
            self.reply(index, block, body);
        }
    }
}

/// A random value that puts the relays where they are, cut by an earlier consensus.
fn deal(key_epoch: KeyEpoch, column: usize, relays: &[RelayEntry]) -> Deal {
    let with = |n: u8| {
        let deal = Deal { key_epoch, random: [n; 32], origin: Origin::Reveals, listed_before: Wall(1), cut: None };
        Deal { cut: cut(&deal, relays, 1).ok().map(|last| Cut { dealt: Epoch(0), last }), ..deal }
    };
    let fits = |deal: &Deal| relays.iter().all(|relay| place(deal, relay) == relay.layers[column]);
    (0..=u8::MAX).map(with).find(fits).unwrap_or_else(|| with(0))
}
