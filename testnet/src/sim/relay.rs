//! A relay of the simulation: the cores that a process runs, and the parts that survive it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use posta_node::relay::replay::{ReplaySecret, ReplayShard};
use posta_node::relay::worker::{Peeler, Ring};
use posta_node::relay::{Action, Admission, Bounds, ClientLink, Event, LoopCount, Relay, Settings, Source, Token};
use posta_protocol::document::{Consensus, Profile};
use posta_protocol::ids::{Incarnation, KeyEpoch, RelayId};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::onion::KeyRing;
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use posta_store::{Backups, Limits, MemoryStore, QueueOp, QueueStore, RocksStore, restore};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::Broken;
use super::directory::{Directory, Documents, SimRelay};

/// Packets that a replay filter of the simulation holds.
const REPLAY_CAPACITY: usize = 1 << 20;

/// What reaches a relay.
#[derive(Debug)]
pub(super) enum Input {
    /// A packet.
    Packet(Source, Packet),
    /// A client attaches an inbox.
    Attach(ClientLink, Secret<32>),
    /// A client wants to be handed what comes for it as this profile does.
    Pace(ClientLink, Profile),
    /// A client's link is gone.
    ClientGone(ClientLink),
    /// The store is to apply an operation, if the process that asked still lives.
    Apply(u32, Token, QueueOp),
    /// The store's outcome reaches the core.
    Stored(u32, Event),
}

impl Input {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Packet(..) => "packet",
            Self::Attach(..) => "attach",
            Self::Pace(..) => "pace",
            Self::ClientGone(_) => "client gone",
            Self::Apply(..) => "apply",
            Self::Stored(..) => "stored",
        }
    }
}

/// One relay.
pub(super) struct RelayNode {
    pub(super) id: RelayId,
    pub(super) is_edge: bool,
    /// Which process of this relay runs; odd ones have been killed.
    pub(super) life: u32,
    process: Option<Relay>,
    /// Survives: the replay log is written before packets leave.
    peeler: Peeler,
    /// Survives: the disk.
    store: Box<dyn QueueStore>,
    /// Where the store lies, if it is a real one.
    disk: Option<(PathBuf, Backups)>,
    admission: Admission,
    seed: ChaCha20Rng,
    carried_before: u64,
    /// Its own loops that ended, of all its processes but the one that runs.
    loops_before: LoopCount,
    /// The part of the packets that it drops, for whatever reason a relay drops packets in silence.
    pub(super) drops: f64,
    pub(super) timer: Option<Mono>,
}

impl std::fmt::Debug for RelayNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RelayNode({})", self.id.short())
    }
}

fn limits() -> Limits {
    Limits { min_free_bytes: 0, ..Limits::default() }
}

fn ring(relay: &RelayId, directory: &Directory, consensus: &Consensus, at: Wall) -> Result<Ring, Broken> {
    let current = directory.key_epoch_at(at).0;
    // The current key first, then the one before and the one after, as around a change of the key epoch.
    let epochs: Vec<KeyEpoch> = [current, current.saturating_sub(1), current + 1].map(KeyEpoch).to_vec();
    let keys = epochs.iter().map(|e| Ok((*e, directory.mix_key(relay, *e)?))).collect::<Result<_, _>>()?;
    Ok(Ring { keys: Arc::new(KeyRing::new(*relay, consensus.geometry(), keys)), epochs })
}

impl RelayNode {
    pub(super) fn new(
        relay: SimRelay,
        directory: &Directory,
        documents: &Documents,
        admission: &Admission,
        now: Now,
        rng: &mut ChaCha20Rng,
    ) -> Result<Self, Broken> {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let mut seed = ChaCha20Rng::from_seed(seed);
        let mut incarnation = Incarnation([0; 16]);
        seed.fill_bytes(&mut incarnation.0);
        let secret = ReplaySecret::new(Secret::random(&mut seed));
        let shard = ReplayShard::new(secret, REPLAY_CAPACITY);
        let mut node = Self {
            id: relay.id,
            is_edge: relay.roles.edge,
            life: 0,
            process: None,
            peeler: Peeler::new(ring(&relay.id, directory, &documents.consensus, now.wall)?, shard),
            store: Box::new(MemoryStore::new(limits(), incarnation)),
            disk: None,
            admission: admission.clone(),
            seed,
            carried_before: 0,
            loops_before: LoopCount::default(),
            drops: 0.0,
            timer: None,
        };
        node.start(now, documents);
        Ok(node)
    }

    /// Puts its queues, of which there are none yet, on a real disk.
    pub(super) fn use_disk(&mut self, folder: &Path, now: Now, documents: &Documents) -> Result<(), Broken> {
        let folder = folder.join(self.id.short());
        self.open(folder)?;
        self.start(now, documents);
        Ok(())
    }

    fn open(&mut self, folder: PathBuf) -> Result<(), Broken> {
        let mut fresh = self.store.incarnation();
        self.seed.fill_bytes(&mut fresh.0);
        let store = RocksStore::open(&folder.join("queues"), limits(), fresh).map_err(|_| Broken("a store"))?;
        self.disk = Some((folder, store.backups()));
        self.store = Box::new(store);
        Ok(())
    }

    pub(super) fn back_up(&self, now: Now) -> Result<(), Broken> {
        let Some((folder, backups)) = &self.disk else { return Ok(()) };
        backups.write(&folder.join("backup"), now.wall.hour()).map(|_| ()).map_err(|_| Broken("a backup"))
    }

    /// Loses its disk, and is given the backup's. With `silent` nobody can tell by the incarnation.
    pub(super) fn restore(&mut self, silent: bool) -> Result<(), Broken> {
        let Some((folder, _)) = self.disk.take() else { return Ok(()) };
        let mut fresh = self.store.incarnation();
        if !silent {
            self.seed.fill_bytes(&mut fresh.0);
        }
        self.store = Box::new(MemoryStore::new(limits(), fresh)); // Closes the one on disk.
        let queues = folder.join("queues");
        std::fs::remove_dir_all(&queues).map_err(|_| Broken("room for a store"))?;
        restore(&folder.join("backup"), &queues, fresh).map_err(|_| Broken("a store from a backup"))?;
        self.open(folder)
    }

    /// Starts a process, the first or one after a kill.
    pub(super) fn start(&mut self, now: Now, documents: &Documents) {
        let rng = ChaCha20Rng::from_rng(&mut self.seed);
        let settings = Settings {
            relay: self.id,
            geometry: documents.consensus.geometry(),
            incarnation: self.store.incarnation(),
            admission: self.admission.clone(),
            bounds: Bounds::default(),
        };
        let mut core = Relay::new(settings, Box::new(rng));
        core.handle(now, Event::Consensus(Arc::clone(&documents.consensus)));
        core.handle(now, Event::MixKeys(documents.mix_keys.clone()));
        self.process = Some(core);
        self.timer = None;
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.carried_before = self.carried();
        self.loops_before = self.loops();
        self.process = None;
        self.life += 1;
        self.timer = None;
    }

    pub(super) const fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn documents(&mut self, now: Now, directory: &Directory, documents: &Documents) -> Result<(), Broken> {
        self.peeler.set_ring(ring(&self.id, directory, &documents.consensus, now.wall)?);
        if let Some(core) = &mut self.process {
            core.handle(now, Event::Consensus(Arc::clone(&documents.consensus)));
            core.handle(now, Event::MixKeys(documents.mix_keys.clone()));
        }
        Ok(())
    }

    /// Packets carried, by all its processes.
    pub(super) fn carried(&self) -> u64 {
        self.carried_before + self.process.as_ref().map_or(0, |core| core.counters().carried())
    }

    /// Loops of its own that ended, of all its processes.
    pub(super) fn loops(&self) -> LoopCount {
        let now = self.process.as_ref().map(|core| *core.counters()).unwrap_or_default();
        LoopCount {
            returned: self.loops_before.returned + now.loops_returned,
            lost: self.loops_before.lost + now.loops_lost,
        }
    }

    /// Takes an input in. An applied operation comes back as what the core is to be told a moment later.
    pub(super) fn input(&mut self, now: Now, input: Input) -> Option<Event> {
        let life = self.life;
        let core = self.process.as_mut()?;
        match input {
            Input::Packet(..) if self.drops > 0.0 && self.seed.random_bool(self.drops.min(1.0)) => {}
            Input::Packet(from, mut packet) => {
                if let Ok(peeled) = self.peeler.peel(&mut packet) {
                    core.handle(now, Event::Peeled { from, peeled, packet });
                }
                // The log is the peeler itself here; it survives.
                drop(self.peeler.take_log());
            }
            Input::Attach(link, secret) => core.handle(now, Event::Attach { link, secret }),
            Input::Pace(link, profile) => core.handle(now, Event::Pace { link, profile }),
            Input::ClientGone(link) => core.handle(now, Event::ClientGone { link }),
            Input::Apply(asked_by, token, op) if asked_by == life => {
                let outcome = self.store.apply(now, &[op]).pop()?;
                return Some(Event::Stored { token, outcome });
            }
            Input::Stored(asked_by, event) if asked_by == life => core.handle(now, event),
            Input::Apply(..) | Input::Stored(..) => {}
        }
        None
    }

    pub(super) fn tick(&mut self, now: Now) {
        if let Some(core) = &mut self.process {
            core.handle(now, Event::Tick);
        }
    }

    pub(super) fn actions(&mut self) -> VecDeque<Action> {
        let mut all = VecDeque::new();
        while let Some(action) = self.process.as_mut().and_then(Relay::poll) {
            all.push_back(action);
        }
        all
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.process.as_ref().and_then(Relay::poll_timeout)
    }
}
