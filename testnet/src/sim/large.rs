//! A whole network in one thread, under virtual time: thousands of relays and clients.
//!
//! ```text
//! schedule, traffic -> client -> line -> relay (production core, replay filter, store) -> line -> ... -> client
//!                                  \-> tap (what an observer sees)              ledger (what is true) <-/
//! ```
//! Relays are the production cores: delays, loops, inboxes, reply blocks, queues, layers, with the packets' cryptography
//! real or modelled ([`Crypto`]). Clients are a light version of the SDK's (see `client`). Nothing reads a clock and
//! all randomness comes from the seed: one seed, one trace.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use posta_node::relay::Event;
use posta_protocol::crypto::keyed_hash;
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use posta_store::QueueOp;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;

use self::client::{Client, Contact, Means};
use self::lines::below;
use self::node::Node;
use self::view::View;
use super::Broken;
use super::directory::Directory;
use crate::adversary::{Active, Seen, Watch};

mod client;
pub mod lines;
pub mod model;
mod node;
pub mod profile;
mod step;
pub mod traffic;
mod view;

pub use self::lines::{Latency, Lines};
pub use self::profile::Habit;
pub use self::traffic::Traffic;

/// Clients are numbered from here, relays from 0.
pub const CLIENT: u32 = 1 << 31;
/// When the simulated world begins: 2026-01-01, at the start of a key epoch.
const BEGIN: Wall = Wall(1_767_225_600_000);
/// From asking the store to its answer.
const DISK: Duration = Duration::from_millis(1);
/// Clients of `fast` look after what is late this often, on average.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// The trace is folded into its hash in pieces of so many bytes.
const TRACE_PIECE: usize = 64 * 1024;

/// Whether packets are really encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crypto {
    /// As in production.
    Real,
    /// Who opens what, once, and what a change destroys ([`model`]); for size.
    Model,
}

/// What a run is like.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// All randomness.
    pub seed: u64,
    /// Half of them edges and half mixes.
    pub relays: usize,
    /// Every two are each other's contact.
    pub clients: usize,
    /// What they do.
    pub habit: Habit,
    /// How long, in simulated time.
    pub length: Duration,
    /// Whether packets are really encrypted.
    pub crypto: Crypto,
    /// When clients write.
    pub traffic: Traffic,
    /// What lies between nodes.
    pub lines: Lines,
    /// Mean time between a client's scheduled packets.
    pub interval: Duration,
    /// Mean delay at each hop; `fast` has none.
    pub hop_delay: Duration,
    /// Mean time between two loops of a relay's own.
    pub relay_loops: Duration,
    /// How many times as often as up the entry hands packets down, where it paces.
    pub downlink: f64,
    /// Length of a directory epoch.
    pub epoch: Duration,
    /// Length of a key epoch.
    pub key_epoch: Duration,
    /// What is written down of the lines.
    pub watch: Watch,
    /// What an active adversary does.
    pub active: Option<Active>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            relays: 24,
            clients: 200,
            habit: Habit::Mixed,
            length: Duration::from_secs(600),
            crypto: Crypto::Model,
            traffic: Traffic::Poisson { mean: Duration::from_secs(60) },
            lines: Lines::default(),
            interval: Duration::from_secs(10),
            hop_delay: Duration::from_secs(1),
            relay_loops: Duration::from_secs(1),
            downlink: 2.0,
            epoch: Duration::from_secs(60),
            key_epoch: Duration::from_secs(300),
            watch: Watch::Nothing,
            active: None,
        }
    }
}

/// A message, as it truly was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who wrote it.
    pub from: u32,
    /// Who was to get it.
    pub to: u32,
    /// When it was written, microseconds since the start.
    pub written_us: u64,
    /// When its first packet left.
    pub sent_us: Option<u64>,
    /// When the contact got it.
    pub delivered_us: Option<u64>,
}

/// How many packets a mix held, looked at once a second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Pool {
    /// Looks.
    pub looks: u64,
    /// Sum of the numbers.
    pub sum: f64,
    /// Sum of their squares.
    pub squares: f64,
}

impl Pool {
    /// The mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.looks.max(1) as f64
    }

    /// The variance.
    #[must_use]
    pub fn variance(&self) -> f64 {
        self.squares / self.looks.max(1) as f64 - self.mean().powi(2)
    }
}

/// A relay's loops at one second: those that have returned and those known as lost, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoopLook {
    /// Seconds since the start.
    pub second: u64,
    /// Returned.
    pub returned: u64,
    /// Lost.
    pub lost: u64,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was written and what arrived.
    pub messages: Vec<Message>,
    /// What the watcher saw, in order of time.
    pub seen: Vec<Seen>,
    /// For each of these: packets that its sender still held, of those that it delays.
    pub held: Vec<u32>,
    /// A hash over every event in order.
    pub trace: [u8; 32],
    /// Events.
    pub events: u64,
    /// Packets that travelled a line, cover that the entry makes included.
    pub packets: u64,
    /// Packets that clients sent.
    pub client_packets: u64,
    /// Of these, loops.
    pub client_loops: u64,
    /// Of those, returned.
    pub client_loops_returned: u64,
    /// Of mixes: packets held.
    pub pools: Vec<Pool>,
    /// Packets that arrived at each relay.
    pub arrived: Vec<u64>,
    /// Packets that relays refused: replays, tampered ones, other key epochs'.
    pub refused: u64,
    /// Relays' own loops sent, returned, lost.
    pub relay_loops: (u64, u64, u64),
    /// Loops of the relay that the adversary works on, and of one that it leaves alone.
    pub loop_looks: (Vec<LoopLook>, Vec<LoopLook>),
    /// How often keys and layers changed.
    pub key_epochs: u64,
    /// The position of each relay in the first key epoch: edge 0, mix 1 or 2.
    pub positions: Vec<u8>,
    /// The entry of each client.
    pub entries: Vec<u32>,
    /// Times and clients of all packets that clients sent, if lines were watched.
    pub emitted: Vec<(u64, u32)>,
}

/// Something that is going to happen.
#[derive(Debug)]
enum Happening {
    ToRelay(u32, u32, Packet),
    RelayTimer(u32),
    Stored(u32, Box<Event>),
    ToClient(u32, Packet),
    /// A client's scheduled packet.
    Slot(u32),
    /// The entry's scheduled packet to a client.
    Down(u32),
    /// A client's application writes.
    Write(u32),
    /// A client of `fast` looks after what is late.
    Look(u32),
    Epoch,
    Sample,
    Flood,
}

impl Happening {
    const fn kind(&self) -> (u8, u32) {
        match self {
            Self::ToRelay(to, ..) => (0, *to),
            Self::RelayTimer(r) => (1, *r),
            Self::Stored(r, _) => (2, *r),
            Self::ToClient(c, _) => (3, *c),
            Self::Slot(c) => (4, *c),
            Self::Down(c) => (5, *c),
            Self::Write(c) => (6, *c),
            Self::Look(c) => (7, *c),
            Self::Epoch => (8, 0),
            Self::Sample => (9, 0),
            Self::Flood => (10, 0),
        }
    }
}

struct Entry(Mono, u64, Happening);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct World<'a> {
    options: &'a Options,
    rng: ChaCha20Rng,
    now: Now,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    directory: Directory,
    view: View,
    /// Their numbers, by identity.
    index: std::collections::HashMap<RelayId, u32>,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    /// When each relay's line is free again, then each client's.
    free: (Vec<Mono>, Vec<Mono>),
    pools: Vec<Pool>,
    trace_piece: Vec<u8>,
    out: Outcome,
}

/// Runs to the end of the options' length.
///
/// # Errors
/// [`Broken`] if the simulation itself fails.
pub fn run(options: &Options) -> Result<Outcome, Broken> {
    let mut world = World::new(options)?;
    world.begin();
    let end = Mono(0) + options.length;
    while let Some(Reverse(Entry(at, _, happening))) = world.queue.pop() {
        if at > end {
            break;
        }
        world.now = Now { mono: at, wall: BEGIN + at.since(Mono(0)) };
        world.note(&happening);
        world.happen(happening)?;
    }
    Ok(world.end())
}

impl<'a> World<'a> {
    fn new(options: &'a Options) -> Result<Self, Broken> {
        let mut rng = ChaCha20Rng::seed_from_u64(options.seed);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let edges = options.relays / 2;
        let mut directory = Directory::new(seed, edges, options.relays - edges, options.epoch, options.key_epoch)?;
        directory.loops(options.relay_loops, options.hop_delay);
        let now = Now { mono: Mono(0), wall: BEGIN };
        let documents = directory.documents(now.wall)?;
        let relays = directory.relays().to_vec();
        let view = View::new(&documents, &relays, directory.key_epoch_at(now.wall)).ok_or(Broken("a view"))?;
        let mut nodes = relays
            .iter()
            .map(|r| Node::new(r.id, &directory, &documents, options.crypto, now, &mut rng))
            .collect::<Result<Vec<_>, _>>()?;
        let clients = clients(options, &view, &mut nodes, now, &mut rng)?;
        let position = |n: u32| if view.mix1.contains(&n) { 1 } else { u8::from(view.mix2.contains(&n)) * 2 };
        let count = u32::try_from(nodes.len()).map_err(|_| Broken("so many relays"))?;
        Ok(Self {
            index: (0..).zip(&relays).map(|(n, r)| (r.id, n)).collect(),
            free: (vec![Mono(0); nodes.len()], vec![Mono(0); clients.len()]),
            pools: vec![Pool::default(); nodes.len()],
            out: Outcome {
                messages: Vec::new(),
                seen: Vec::new(),
                held: Vec::new(),
                trace: [0; 32],
                events: 0,
                packets: 0,
                client_packets: 0,
                client_loops: 0,
                client_loops_returned: 0,
                pools: Vec::new(),
                arrived: Vec::new(),
                refused: 0,
                relay_loops: (0, 0, 0),
                loop_looks: (Vec::new(), Vec::new()),
                key_epochs: 0,
                positions: (0..count).map(position).collect(),
                entries: clients.iter().map(|c| c.entry).collect(),
                emitted: Vec::new(),
            },
            options,
            rng,
            now,
            queue: BinaryHeap::new(),
            order: 0,
            directory,
            view,
            nodes,
            clients,
            trace_piece: Vec::with_capacity(TRACE_PIECE + 32),
        })
    }

    fn at(&mut self, at: Mono, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Entry(at.max(self.now.mono), self.order, happening)));
    }

    /// The trace covers what happens, to whom and when.
    fn note(&mut self, happening: &Happening) {
        self.out.events += 1;
        let (kind, who) = happening.kind();
        self.trace_piece.extend_from_slice(&self.now.mono.0.to_le_bytes());
        self.trace_piece.push(kind);
        self.trace_piece.extend_from_slice(&who.to_le_bytes());
        if self.trace_piece.len() >= TRACE_PIECE {
            self.fold();
        }
    }

    fn fold(&mut self) {
        self.out.trace = keyed_hash(&self.out.trace, &self.trace_piece);
        self.trace_piece.clear();
    }

    fn end(mut self) -> Outcome {
        self.fold();
        for node in &self.nodes {
            let counted = node.core().counters();
            self.out.relay_loops.0 += counted.loops_sent;
            self.out.relay_loops.1 += counted.loops_returned;
            self.out.relay_loops.2 += counted.loops_lost;
            self.out.refused += node.refused;
            self.out.arrived.push(node.arrived);
        }
        self.out.pools = self.pools;
        self.out
    }
}

/// Clients in pairs, with a queue each way on an edge that isn't the reader's entry.
fn clients(
    options: &Options,
    view: &View,
    nodes: &mut [Node],
    now: Now,
    rng: &mut ChaCha20Rng,
) -> Result<Vec<Client>, Broken> {
    let hop_delay = if options.habit == Habit::Fast { Duration::ZERO } else { options.hop_delay };
    let interval = if options.habit == Habit::Fast { Duration::ZERO } else { options.interval };
    let means = Means { habit: options.habit, interval, hop_delay };
    let down = options.interval.div_f64(options.downlink.max(0.1));
    let mut clients = Vec::with_capacity(options.clients);
    for _ in 0..options.clients / 2 {
        let mut edge = |not: &[u32]| {
            let others: Vec<u32> = view.edges.iter().copied().filter(|e| !not.contains(e)).collect();
            others.get(below(others.len(), rng)).copied().ok_or(Broken("enough edges"))
        };
        let entries = [edge(&[])?, edge(&[])?];
        let queues = [edge(&entries)?, edge(&entries)?];
        let mut keys = Vec::new();
        for queue in queues {
            let (reader, writer) = (Secret::random(rng), Secret::random(rng));
            let op = QueueOp::Create {
                queue: posta_protocol::command::ReaderCapability::new(Secret::<32>::duplicate(&reader)).id(),
                writer: posta_protocol::command::WriterCapability::new(Secret::<32>::duplicate(&writer)).id(),
                kind: posta_protocol::admission::QueueKind::Plain,
            };
            nodes.get_mut(queue as usize).and_then(|node| node.apply(now, op)).ok_or(Broken("a queue"))?;
            keys.push((reader, writer));
        }
        // Each reads one queue and writes to the other.
        for (me, other) in [(0, 1), (1, 0)] {
            let at = |n: usize| queues.get(n).copied().unwrap_or_default();
            let (Some(own), Some(peer)) = (keys.get(me), keys.get(other)) else { continue };
            let contact =
                Contact { queue: at(me), reader: own.0.duplicate(), peer_queue: at(other), writer: peer.1.duplicate() };
            let entry = entries.get(me).copied().unwrap_or_default();
            clients.push(Client::new(entry, contact, means, down, rng));
        }
    }
    Ok(clients)
}
