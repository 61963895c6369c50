//! The same relay and client cores in one process, under virtual time, from a seed.
//!
//! Real packets with real keys; links carry them with a latency and a loss drawn from the seed. A relay that is killed
//! loses what a process loses: its delays, reply blocks, inboxes and whatever its store had not yet applied. Keys, replay
//! log and store survive, as a disk does. Two runs of one seed give the same trace.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::time::Duration;

use posta_client::session::event::JoinFailure;
use posta_node::relay::{Admission, LoopCount};
use posta_protocol::crypto::keyed_hash;
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Mono, Now, Wall};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use thiserror::Error;

use self::client::ClientNode;
use self::directory::Directory;
use self::relay::RelayNode;
use crate::ledger::{Ledger, Side, body};

mod client;
pub mod directory;
pub mod large;
mod relay;
mod step;

/// When the simulated world begins: 2026-01-01, in the middle of a key epoch of ten minutes.
const BEGIN: Wall = Wall(1_767_225_600_000 + 300_000);
/// Events of one run; a run that needs more turns in circles.
const MAX_EVENTS: u64 = 20_000_000;
/// How long after the last send a message may still arrive.
const PATIENCE: Duration = Duration::from_secs(120);

/// Something that can't happen unless the simulation itself is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the simulation could not make {0}")]
pub struct Broken(pub &'static str);

/// A relay or authority killed during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kill {
    /// Which relay, in the order of identities; beyond the last one, which authority, and that for good.
    pub relay: usize,
    /// When, since the first message was sent.
    pub at: Duration,
    /// How long until it is back; `None` for never.
    pub restart_after: Option<Duration>,
    /// Whether it comes back only if it is an edge; a mix is then gone for good.
    pub only_edges: bool,
}

/// All queue relays lose their disks and come back with backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// When the backups are made, since the first message was sent.
    pub backup_at: Duration,
    /// When the disks are lost.
    pub lost_at: Duration,
    /// How long the relays are away.
    pub away: Duration,
    /// An empty folder for the real stores that they then have.
    pub folder: PathBuf,
    /// For a control: the stores keep their incarnation, so that no client can tell.
    pub silent: bool,
}

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// All randomness.
    pub seed: u64,
    /// Entries and queues.
    pub edges: usize,
    /// Mixes.
    pub mixes: usize,
    /// Messages each way.
    pub messages: usize,
    /// Time over which they are sent.
    pub over: Duration,
    /// Latency of a link: uniform between these.
    pub latency: (Duration, Duration),
    /// The share of packets that a link loses, 0.0 to 1.0.
    pub loss: f64,
    /// Who is killed.
    pub kills: Vec<Kill>,
    /// Whether disks are lost.
    pub restore: Option<Restore>,
    /// How long the invitation lies around before it is followed.
    pub join_after: Duration,
    /// Length of a directory epoch.
    pub epoch: Duration,
    /// Length of a key epoch.
    pub key_epoch: Duration,
    /// What relays ask for before they make a queue.
    pub admission: Admission,
    /// Mean time between two loops of a relay's own; zero for none.
    pub loops: Duration,
    /// Mean delay that loops of the profiles `mixed` and `steady` ask for at each hop.
    pub hop_delay: Duration,
    /// A relay that drops a part of all packets in silence: which one, in the order of identities, and what part.
    pub dropping: Option<(usize, f64)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            edges: 6,
            mixes: 6,
            messages: 20,
            over: Duration::from_secs(10),
            latency: (Duration::from_millis(5), Duration::from_millis(50)),
            loss: 0.0,
            kills: Vec::new(),
            restore: None,
            join_after: Duration::ZERO,
            epoch: Duration::from_secs(60),
            key_epoch: Duration::from_secs(600),
            admission: Admission::Open,
            loops: Duration::ZERO,
            hop_delay: Duration::from_millis(200),
            dropping: None,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was sent and what arrived.
    pub ledger: Ledger,
    /// Messages whose sender was told that they were delivered.
    pub told_delivered: usize,
    /// Why making or following the invitation came to nothing, if it did.
    pub join_failed: Option<JoinFailure>,
    /// How often a client believed that a relay had lost a queue.
    pub queues_lost: usize,
    /// A hash over every event in order: equal for equal runs.
    pub trace: [u8; 32],
    /// Virtual time that passed.
    pub elapsed: Duration,
    /// Packets that relays did something for.
    pub carried: u64,
    /// What became of each relay's own loops, in the order of identities.
    pub loops: Vec<LoopCount>,
}

impl Outcome {
    /// Whether everything arrived, once, in order and unchanged.
    #[must_use]
    pub fn is_clean(&self, options: &Options) -> bool {
        let l = &self.ledger;
        l.total() == options.messages * 2
            && l.delivered() == l.total()
            && l.duplicates + l.out_of_order + l.foreign == 0
    }
}

/// Something that is going to happen.
#[derive(Debug)]
enum Happening {
    ToRelay(usize, relay::Input),
    RelayTimer(usize, u32),
    ToClient(Side, posta_client::session::event::Event),
    ClientTimer(Side, u64),
    Connected(Side, RelayId),
    Kill(Kill),
    Restart(usize),
    Backup,
    Restore(Restore),
    Epoch,
    Join(String),
    Send(usize),
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
    begin: Now,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    directory: Directory,
    relays: Vec<RelayNode>,
    clients: Vec<ClientNode>,
    ledger: Ledger,
    told_delivered: usize,
    join_failed: Option<JoinFailure>,
    queues_lost: usize,
    connected: usize,
    sent_all_at: Option<Mono>,
    links: u64,
    trace: [u8; 32],
}

/// Runs until everything has arrived, or patience is at an end.
///
/// # Errors
/// [`Broken`] if the simulation itself fails.
pub fn run(options: &Options) -> Result<Outcome, Broken> {
    let mut rng = ChaCha20Rng::seed_from_u64(options.seed);
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let mut directory = Directory::new(seed, options.edges, options.mixes, options.epoch, options.key_epoch)?;
    directory.loops(options.loops, options.hop_delay);
    let now = Now { mono: Mono(0), wall: BEGIN };
    let documents = directory.documents(now.wall)?;
    let mut relays = directory
        .relays()
        .iter()
        .map(|r| RelayNode::new(*r, &directory, &documents, &options.admission, now, &mut rng))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(restore) = &options.restore {
        for relay in relays.iter_mut().filter(|relay| relay.is_edge) {
            relay.use_disk(&restore.folder, now, &documents)?;
        }
    }
    if let Some((relay, part)) = options.dropping
        && let Some(relay) = relays.get_mut(relay)
    {
        relay.drops = part;
    }
    let clients = Side::BOTH.iter().map(|_| ClientNode::new(&mut rng)).collect();
    let mut world = World {
        options,
        rng,
        now,
        begin: now,
        queue: BinaryHeap::new(),
        order: 0,
        directory,
        relays,
        clients,
        ledger: Ledger::default(),
        told_delivered: 0,
        join_failed: None,
        queues_lost: 0,
        connected: 0,
        sent_all_at: None,
        links: 0,
        trace: [0; 32],
    };
    world.run(&documents)
}

impl World<'_> {
    fn run(&mut self, documents: &directory::Documents) -> Result<Outcome, Broken> {
        for side in Side::BOTH {
            self.client_event(side, documents.event());
        }
        let now = self.now;
        if let Some(c) = self.clients.first_mut() {
            c.invite(now);
        }
        self.drain_client(Side::Inviter);
        let next = self.directory.next_epoch(self.now.wall);
        self.at(self.mono_of(next), Happening::Epoch);

        let mut events = 0;
        while let Some(Reverse(Entry(at, _, happening))) = self.queue.pop() {
            events += 1;
            let over = self.sent_all_at.is_some_and(|sent| at.since(sent) > PATIENCE);
            if self.done() || over || events > MAX_EVENTS {
                break;
            }
            self.now = self.begin + at.since(self.begin.mono);
            self.note(&happening);
            self.happen(happening)?;
        }
        Ok(Outcome {
            ledger: std::mem::take(&mut self.ledger),
            told_delivered: self.told_delivered,
            join_failed: self.join_failed,
            queues_lost: self.queues_lost,
            trace: self.trace,
            elapsed: self.now.mono.since(Mono(0)),
            carried: self.relays.iter().map(RelayNode::carried).sum(),
            loops: self.relays.iter().map(RelayNode::loops).collect(),
        })
    }

    fn done(&self) -> bool {
        self.join_failed.is_some() || (self.sent_all_at.is_some() && self.told_delivered == self.options.messages * 2)
    }

    fn at(&mut self, at: Mono, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Entry(at.max(self.now.mono), self.order, happening)));
    }

    fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now.mono + delay, happening);
    }

    fn mono_of(&self, wall: Wall) -> Mono {
        self.begin.mono + wall.since(self.begin.wall)
    }

    /// The time that something takes on a link, or `None` if it is lost there.
    fn link(&mut self) -> Option<Duration> {
        let (min, max) = self.options.latency;
        let latency = min + (max.saturating_sub(min)).mul_f64(self.rng.random::<f64>());
        (!self.rng.random_bool(self.options.loss.clamp(0.0, 1.0))).then_some(latency)
    }

    /// The trace covers what happens, to whom and when.
    fn note(&mut self, happening: &Happening) {
        let line = match happening {
            Happening::ToRelay(r, input) => format!("{} relay {r} {}", self.now.mono.0, input.kind()),
            Happening::ToClient(side, event) => {
                let kind = std::mem::discriminant(event);
                format!("{} client {side:?} {kind:?}", self.now.mono.0)
            }
            Happening::Join(_) => format!("{} join", self.now.mono.0),
            other => format!("{} {other:?}", self.now.mono.0),
        };
        self.trace = keyed_hash(&self.trace, line.as_bytes());
    }

    /// Both clients are connected: the sending begins, and the kills are due.
    fn begin_sending(&mut self) {
        let step = self.options.over.div_f64(self.options.messages.max(1) as f64);
        for n in 1..=self.options.messages {
            self.after(step.mul_f64(n as f64), Happening::Send(n));
        }
        for kill in self.options.kills.clone() {
            self.after(kill.at, Happening::Kill(kill));
        }
        if let Some(restore) = self.options.restore.clone() {
            self.after(restore.backup_at, Happening::Backup);
            self.after(restore.lost_at, Happening::Restore(restore));
        }
    }

    fn send(&mut self, number: usize) {
        for side in Side::BOTH {
            let text = body(side, number, &mut self.rng);
            self.ledger.sent(side, number, self.now.mono.since(Mono(0)));
            let now = self.now;
            if let Some(c) = self.clients.get_mut(side as usize) {
                c.send(now, text.into_bytes());
            }
            self.drain_client(side);
        }
        if number == self.options.messages {
            self.sent_all_at = Some(self.now.mono);
        }
    }
}
