//! A network of authorities under virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::document::{
    Authorities, Authority as Listed, Certificate, Descriptor, Evidence, Extensions, Params, Purpose, Reply, Request,
    Roles, UnverifiedEvidence,
};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::registry::parameter;
use posta_protocol::secret::Secret;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::authority::{Action, Authority, Contribution, Event, Memory, Published, Record, Settings};

pub(super) const EPOCH_MS: u64 = 10_000;
pub(super) const KEY_EPOCH_MS: u64 = 60_000;
const START: Wall = Wall(1_700_000_003_000);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a call to one who doesn't answer takes.
const UNREACHABLE: Duration = Duration::from_millis(1_000);

pub(super) struct Keys {
    pub(super) identity: SignKey,
    pub(super) signing: SignKey,
    pub(super) certificate: Certificate,
}

impl Keys {
    fn new(purpose: Purpose, kind: u8, n: usize) -> Self {
        let seed = |role: u8| {
            let mut seed = [kind; 32];
            (seed[0], seed[1]) = (u8::try_from(n).unwrap(), role);
            SignKey::from_seed(&Secret::new(seed))
        };
        let (identity, signing) = (seed(1), seed(2));
        let key = SigningPublicKey(signing.public());
        let certificate = Certificate::issue(&identity, purpose, key, START - YEAR, START + YEAR);
        Self { identity, signing, certificate }
    }

    pub(super) fn id(&self) -> AuthorityId {
        AuthorityId(self.identity.public())
    }
}

/// What survives a crash.
#[derive(Clone, Default)]
struct Disk {
    voted: Option<(Epoch, u32)>,
    contribution: Option<Arc<Contribution>>,
    signed: Option<posta_protocol::document::Header>,
    newest: Option<Arc<Published>>,
    descriptors: Vec<Vec<u8>>,
    withdrawals: Vec<(RelayId, Wall)>,
}

enum What {
    Request { from: usize, call: Option<u64>, body: Arc<[u8]> },
    Answer { call: u64, reply: Option<Reply> },
    Recorded(Record),
    Timer,
}

struct Item {
    at: u64,
    order: u64,
    to: usize,
    life: u32,
    what: What,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a liar does with a message of its own to one peer.
pub(super) enum Lie {
    /// It goes out as it is.
    Keep,
    /// This goes out in its place.
    Say(Request),
    /// Nothing goes out.
    Nothing,
}

/// Given the authority that the message is for.
pub(super) type Liar = Box<dyn FnMut(usize, &Request) -> Lie>;
/// What a liar answers; `None` for nothing at all.
pub(super) type ReplyLiar = Box<dyn FnMut(&Request, Reply) -> Option<Reply>>;

/// Bodies of requests that are remembered, for who replays them.
const POOL: usize = 256;

/// Authorities, each run by a process; a liar by two, its twins, which don't know of one another: each of the others is
/// served by one of them, as `side` says.
pub(super) struct Net {
    pub(super) keys: Vec<Keys>,
    pub(super) authorities: Authorities,
    pub(super) nodes: Vec<Option<Authority<ChaCha8Rng>>>,
    pub(super) slow: BTreeMap<usize, Duration>,
    /// Milliseconds that a process' clock is ahead.
    pub(super) skew: BTreeMap<usize, i64>,
    /// The group of each process; without one, all reach all.
    pub(super) groups: Option<Vec<u8>>,
    /// Which twin of each liar a process is served by.
    pub(super) side: Vec<u8>,
    /// Longest time that a message takes.
    pub(super) latency: Duration,
    pub(super) reply_liars: BTreeMap<usize, ReplyLiar>,
    /// What was said lately.
    pub(super) pool: VecDeque<Arc<[u8]>>,
    /// The authority of each process.
    pub(super) identity: Vec<usize>,
    pub(super) liars: BTreeMap<usize, Liar>,
    /// Every consensus that anyone published, by epoch: hashes.
    pub(super) published: BTreeMap<Epoch, BTreeSet<Hash>>,
    /// When each epoch's first consensus came.
    pub(super) first: BTreeMap<Epoch, Duration>,
    pub(super) evidence: Vec<Evidence>,
    pub(super) signatures: BTreeMap<(usize, Epoch), BTreeSet<Hash>>,
    settings: Vec<Settings>,
    disks: Vec<Disk>,
    /// When each disk will have written what it was given.
    writing: Vec<u64>,
    lives: Vec<u32>,
    queue: BinaryHeap<Reverse<Item>>,
    order: u64,
    time: u64,
    rng: ChaCha8Rng,
    tickets: BTreeMap<u64, (usize, Option<u64>, Option<Request>)>,
    relays: Vec<Keys>,
    mix_keys: BTreeMap<(usize, u64), KemPublicKey>,
}

impl Net {
    /// `n` authorities that wait for `relays` relays, none of them started.
    pub(super) fn new(n: usize, relays: usize, seed: u64) -> Self {
        let keys: Vec<_> = (0..n).map(|i| Keys::new(Purpose::Authority, 7, i)).collect();
        let listed = keys.iter().map(|k| Listed {
            id: k.id(),
            link_key: LinkPublicKey([1; 32]),
            addresses: vec!["127.0.0.1:1".parse().unwrap()],
        });
        let authorities = Authorities::new(listed.collect()).unwrap();
        let mut params = Params::default();
        for (code, value) in [
            (parameter::EPOCH_MS, EPOCH_MS),
            (parameter::KEY_EPOCH_MS, KEY_EPOCH_MS),
            (parameter::RESERVED_NETWORKS, 1),
            (parameter::LAYER_MIN, 1),
        ] {
            assert!(params.set(code, value));
        }
        let settings = keys
            .iter()
            .map(|k| Settings {
                authorities: authorities.clone(),
                certificate: k.certificate,
                geometry: Geometry::DEFAULT,
                params: params.clone(),
                bootstrap_relays: relays,
            })
            .collect();
        Self {
            keys,
            authorities,
            nodes: (0..n).map(|_| None).collect(),
            slow: BTreeMap::new(),
            skew: BTreeMap::new(),
            groups: None,
            side: vec![0; n],
            latency: Duration::from_millis(20),
            reply_liars: BTreeMap::new(),
            pool: VecDeque::new(),
            identity: (0..n).collect(),
            liars: BTreeMap::new(),
            published: BTreeMap::new(),
            first: BTreeMap::new(),
            evidence: Vec::new(),
            signatures: BTreeMap::new(),
            settings,
            disks: vec![Disk::default(); n],
            writing: vec![0; n],
            lives: vec![0; n],
            queue: BinaryHeap::new(),
            order: 0,
            time: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            tickets: BTreeMap::new(),
            relays: (0..relays).map(|i| Keys::new(Purpose::Relay, 9, i)).collect(),
            mix_keys: BTreeMap::new(),
        }
    }

    /// Gives an authority a second process, and returns its number.
    pub(super) fn twin(&mut self, of: usize) -> usize {
        self.identity.push(of);
        self.nodes.push(None);
        self.disks.push(Disk::default());
        self.writing.push(0);
        self.lives.push(0);
        self.side.push(1);
        self.nodes.len() - 1
    }

    /// The process that answers another one as an authority, if it is reached.
    fn route(&self, from: usize, authority: usize) -> Option<usize> {
        let twins: Vec<_> = (0..self.nodes.len()).filter(|i| self.identity[*i] == authority).collect();
        let to = match twins[..] {
            [only] => only,
            _ => *twins.get(usize::from(self.side[from])).unwrap_or(&twins[0]),
        };
        // Twins keep to their side; and who is cut off reaches nobody on the other one, but for liars.
        let has_twin = |i: usize| self.identity.iter().filter(|id| **id == self.identity[i]).count() > 1;
        let apart = self.groups.as_ref().is_some_and(|groups| groups[from] != groups[to]);
        let cut = if has_twin(from) || has_twin(to) { self.side[from] != self.side[to] } else { apart };
        (!cut).then_some(to)
    }

    /// What a process takes for the time.
    fn now_of(&self, i: usize) -> Now {
        let Now { mono, wall } = self.now();
        Now { mono, wall: Wall(wall.0.saturating_add_signed(self.skew.get(&i).copied().unwrap_or(0))) }
    }

    pub(super) fn is_running(&self, i: usize) -> bool {
        self.nodes[i].is_some()
    }

    pub(super) fn now(&self) -> Now {
        Now { mono: Mono(self.time), wall: START + Duration::from_micros(self.time) }
    }

    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_micros(self.time)
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.now().wall.0 / EPOCH_MS)
    }

    pub(super) fn relay_id(&self, i: usize) -> RelayId {
        RelayId(self.relays[i].identity.public())
    }

    /// Starts an authority, or starts it again from its disk.
    pub(super) fn start(&mut self, i: usize) {
        self.lives[i] += 1;
        let Disk { voted, contribution, signed, newest, descriptors, withdrawals } = self.disks[i].clone();
        let memory = Memory { voted, contribution, signed, newest, descriptors, withdrawals };
        let rng = ChaCha8Rng::seed_from_u64(self.rng.random());
        let authority = self.identity[i];
        let key = SignKey::from_seed(&Secret::new({
            let mut seed = [7; 32];
            (seed[0], seed[1]) = (u8::try_from(authority).unwrap(), 2);
            seed
        }));
        self.nodes[i] = Some(Authority::new(self.settings[authority].clone(), key, rng, memory, self.now_of(i)));
        self.drain(i);
    }

    pub(super) fn kill(&mut self, i: usize) {
        self.lives[i] += 1;
        self.nodes[i] = None;
    }

    /// What it has committed to is gone from its disk: as if it kept it back.
    pub(super) fn forget_contribution(&mut self, i: usize) {
        self.disks[i].contribution = None;
    }

    pub(super) fn descriptor(&mut self, i: usize) -> Vec<u8> {
        let now = self.now().wall;
        let current = now.0 / KEY_EPOCH_MS;
        let mix_keys = (current..=current + 2)
            .map(|epoch| {
                let key = self.mix_keys.entry((i, epoch)).or_insert_with(|| {
                    let mut seed = [u8::try_from(i).unwrap(); 32];
                    seed[..8].copy_from_slice(&epoch.to_le_bytes());
                    KemSecretKey::from_seed(&Secret::new(seed)).unwrap().public().clone()
                });
                (KeyEpoch(epoch), key.clone())
            })
            .collect();
        let keys = &self.relays[i];
        let n = u8::try_from(i).unwrap();
        let addr = |port| vec![format!("127.0.{n}.1:{port}").parse().unwrap()];
        let descriptor = Descriptor {
            certificate: keys.certificate,
            link_key: LinkPublicKey([n; 32]),
            link_addresses: addr(1),
            client_addresses: addr(2),
            roles: if i.is_multiple_of(2) { Roles::EDGE } else { Roles::MIX },
            family: None,
            operator: OperatorId([n; 16]),
            capacity: 100,
            protocols: Default::default(),
            published: now,
            mix_keys,
            extensions: Extensions::default(),
        };
        descriptor.sign(&keys.signing).unwrap().into_bytes()
    }

    /// The keys of a relay.
    pub(super) fn relay_keys(&self, i: usize) -> &Keys {
        &self.relays[i]
    }

    /// Somebody posts this to everyone.
    pub(super) fn post_to_all(&mut self, request: &Request) {
        let body: Arc<[u8]> = request.encode().into();
        for to in 0..self.nodes.len() {
            self.send(usize::MAX, to, None, Arc::clone(&body));
        }
    }

    /// A relay posts to everyone.
    pub(super) fn post(&mut self, relay: usize) {
        let body: Arc<[u8]> = Request::PostDescriptor(self.descriptor(relay)).encode().into();
        for to in 0..self.nodes.len() {
            self.send(usize::MAX, to, None, Arc::clone(&body));
        }
    }

    pub(super) fn post_all(&mut self) {
        for relay in 0..self.relays.len() {
            self.post(relay);
        }
    }

    fn push(&mut self, delay: Duration, to: usize, what: What) {
        self.order += 1;
        let at = self.time + u64::try_from(delay.as_micros()).unwrap();
        self.queue.push(Reverse(Item { at, order: self.order, to, life: self.lives[to], what }));
    }

    fn latency(&mut self, from: usize, to: usize) -> Duration {
        let most = u64::try_from(self.latency.as_micros()).unwrap();
        let base = Duration::from_micros(self.rng.random_range(1_000..most));
        [from, to].iter().filter_map(|i| self.slow.get(i)).fold(base, |sum, extra| sum + *extra)
    }

    pub(super) fn send(&mut self, from: usize, to: usize, call: Option<u64>, body: Arc<[u8]>) {
        let latency = self.latency(from, to);
        if self.nodes[to].is_none() {
            if let Some(call) = call {
                self.push(UNREACHABLE, from, What::Answer { call, reply: None });
            }
            return;
        }
        self.push(latency, to, What::Request { from, call, body });
    }

    /// Runs everything that happens until then.
    pub(super) fn run_for(&mut self, span: Duration) {
        self.run(span, |_| false);
    }

    /// Runs until the condition holds, at most so long; whether it does.
    pub(super) fn run(&mut self, span: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let end = self.time + u64::try_from(span.as_micros()).unwrap();
        loop {
            if until(self) {
                return true;
            }
            if self.queue.peek().is_none_or(|Reverse(item)| item.at > end) {
                self.time = end;
                return until(self);
            }
            let Reverse(item) = self.queue.pop().unwrap();
            self.time = item.at;
            self.deliver(item);
        }
    }

    /// Runs with all relays posting every half epoch.
    pub(super) fn run_posting(&mut self, span: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let end = self.elapsed() + span;
        while self.elapsed() < end {
            self.post_all();
            if self.run(Duration::from_millis(EPOCH_MS / 2), &until) {
                return true;
            }
        }
        false
    }

    fn deliver(&mut self, item: Item) {
        let i = item.to;
        if self.lives[i] != item.life {
            if let What::Request { from, call: Some(call), .. } = item.what {
                self.push(UNREACHABLE, from, What::Answer { call, reply: None });
            }
            return;
        }
        let now = self.now_of(i);
        let Some(node) = &mut self.nodes[i] else { return };
        match item.what {
            What::Request { from, call, body } => {
                let ticket = self.order;
                self.order += 1;
                let peer = self.identity.get(from).map(|authority| self.keys[*authority].id());
                let request = Request::decode(&body).unwrap();
                let kept = self.reply_liars.contains_key(&i).then(|| request.clone());
                self.tickets.insert(ticket, (from, call, kept));
                node.handle(now, Event::Request { ticket, peer, from: None, request });
            }
            What::Answer { call, reply } => node.handle(now, Event::Answer { call, reply }),
            What::Recorded(record) => {
                match record.clone() {
                    Record::Voted { epoch, attempt, contribution } => {
                        self.disks[i].voted = Some((epoch, attempt));
                        self.disks[i].contribution = Some(contribution);
                    }
                    Record::Signed(header) => self.disks[i].signed = Some(header),
                }
                node.handle(now, Event::Recorded(record));
            }
            What::Timer => node.handle(now, Event::Timer),
        }
        self.drain(i);
    }

    fn drain(&mut self, i: usize) {
        while let Some(action) = self.nodes[i].as_mut().and_then(Authority::poll) {
            match action {
                Action::Reply { ticket, reply } => {
                    let (from, call, request) = self.tickets.remove(&ticket).unwrap();
                    if let Some(call) = call {
                        let reply = Reply::decode(&reply.encode()).unwrap();
                        let reply = match (self.reply_liars.get_mut(&i), request) {
                            (Some(liar), Some(request)) => liar(&request, reply),
                            _ => Some(reply),
                        };
                        let latency = if reply.is_some() { self.latency(i, from) } else { UNREACHABLE * 5 };
                        self.push(latency, from, What::Answer { call, reply });
                    }
                }
                Action::Call { peer, call, body, .. } => {
                    let to = self.keys.iter().position(|k| k.id() == peer).unwrap();
                    let request = Request::decode(&body).unwrap();
                    if let Request::Signature(bytes) = &request {
                        let header = posta_protocol::document::Signature::decode(bytes).unwrap().header;
                        self.signatures.entry((i, header.epoch)).or_default().insert(header.hash);
                    }
                    let body = match self.liars.get_mut(&i).map_or(Lie::Keep, |liar| liar(to, &request)) {
                        Lie::Say(lie) => Some(lie.encode().into()),
                        Lie::Keep => Some(body),
                        Lie::Nothing => None,
                    };
                    if let Some(body) = &body {
                        self.pool.push_back(Arc::clone(body));
                        self.pool.truncate(POOL);
                    }
                    match (self.route(i, to), body) {
                        (Some(to), Some(body)) => self.send(i, to, Some(call), body),
                        _ => self.push(UNREACHABLE, i, What::Answer { call, reply: None }),
                    }
                }
                Action::Record(record) => {
                    // One after the other, as the driver has it: a record that is older never replaces a newer one.
                    let free = self.writing[i].max(self.time);
                    let done = free + self.rng.random_range(500..3_000);
                    self.writing[i] = done;
                    self.push(Duration::from_micros(done - self.time), i, What::Recorded(record));
                }
                Action::Publish(published) => {
                    let (epoch, elapsed) = (published.consensus.epoch(), self.elapsed());
                    self.published.entry(epoch).or_default().insert(published.consensus.hash());
                    self.first.entry(epoch).or_insert(elapsed);
                    self.disks[i].newest = Some(published);
                    let descriptors = self.nodes[i].as_ref().unwrap().descriptors();
                    self.disks[i].descriptors = descriptors.iter().map(|d| d.to_vec()).collect();
                }
                Action::Withdrawn(relay, at) => self.disks[i].withdrawals.push((relay, at)),
                Action::Evidence(evidence) => {
                    let read = UnverifiedEvidence::decode(evidence.encode()).unwrap();
                    assert_eq!(read.verify(&self.authorities).unwrap(), evidence, "others can verify it");
                    self.evidence.push(evidence);
                }
            }
        }
        if let Some(at) = self.nodes[i].as_ref().and_then(Authority::poll_timeout) {
            self.push(Duration::from_micros(at.0.saturating_sub(self.time).max(1)), i, What::Timer);
        }
    }

    pub(super) fn newest(&self, i: usize) -> Option<&Arc<Published>> {
        self.nodes[i].as_ref()?.newest()
    }

    /// The newest epoch that so many authorities hold.
    pub(super) fn agreed(&self, count: usize) -> Epoch {
        let mut held: Vec<_> =
            (0..self.nodes.len()).map(|i| self.newest(i).map_or(Epoch(0), |p| p.consensus.epoch())).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        held.get(count - 1).copied().unwrap_or_default()
    }

    /// The oldest epoch that any of these processes holds; 0 if one isn't running.
    pub(super) fn all_hold(&self, processes: &[usize]) -> Epoch {
        let held = |i: &usize| self.newest(*i).map_or(Epoch(0), |p| p.consensus.epoch());
        processes.iter().map(held).min().unwrap_or_default()
    }

    fn is_liar(&self, process: usize) -> bool {
        let twins = self.identity.iter().filter(|id| **id == self.identity[process]).count();
        self.liars.contains_key(&process) || twins > 1
    }

    /// Never two consensuses for an epoch, and nobody signs twice.
    pub(super) fn check(&self) {
        for (epoch, hashes) in &self.published {
            assert_eq!(hashes.len(), 1, "two consensuses for {epoch:?}");
        }
        for ((who, epoch), hashes) in &self.signatures {
            assert!(self.is_liar(*who) || hashes.len() == 1, "{who} signed twice for {epoch:?}");
        }
    }
}
