//! A relay of a large run: the production core and replay filter, its store in memory.

use std::sync::Arc;

use posta_node::relay::replay::{ReplaySecret, ReplayShard};
use posta_node::relay::worker::{Peeler, Ring};
use posta_node::relay::{Action, Admission, Bounds, Event, Relay, Settings, Source};
use posta_protocol::ids::{Incarnation, KeyEpoch, RelayId};
use posta_protocol::now::{Mono, Now};
use posta_protocol::onion::KeyRing;
use posta_protocol::onion::sealing::{Real, Sealing};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use posta_store::{Limits, MemoryStore, QueueOp, QueueStore};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::Crypto;
use super::model::{self, Model};
use crate::sim::Broken;
use crate::sim::directory::{Directory, Documents};

/// Packets that a replay filter tells apart in a key epoch.
const REPLAY_CAPACITY: usize = 1 << 20;

/// What opens packets.
#[derive(Debug)]
enum Worker {
    Real(Box<Peeler>),
    Model(Box<ReplayShard>, Vec<KeyEpoch>),
}

/// One relay.
pub(super) struct Node {
    pub(super) id: RelayId,
    core: Relay,
    worker: Worker,
    store: MemoryStore,
    pub(super) timer: Option<Mono>,
    /// Packets that it was sent.
    pub(super) arrived: u64,
    /// Of these, refused by the worker.
    pub(super) refused: u64,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.id.short())
    }
}

pub(super) fn sealing(crypto: Crypto) -> &'static dyn Sealing {
    match crypto {
        Crypto::Real => &Real,
        Crypto::Model => &Model,
    }
}

/// The key epochs whose keys a relay holds: the current one first, and those beside it.
fn epochs(directory: &Directory, now: Now) -> Vec<KeyEpoch> {
    let current = directory.key_epoch_at(now.wall).0;
    [current, current.saturating_sub(1), current + 1].map(KeyEpoch).to_vec()
}

fn ring(id: &RelayId, directory: &Directory, documents: &Documents, now: Now) -> Result<Ring, Broken> {
    let epochs = epochs(directory, now);
    let keys = epochs.iter().map(|e| Ok((*e, directory.mix_key(id, *e)?))).collect::<Result<_, _>>()?;
    Ok(Ring { keys: Arc::new(KeyRing::new(*id, documents.consensus.geometry(), keys)), epochs })
}

impl Node {
    pub(super) fn new(
        id: RelayId,
        directory: &Directory,
        documents: &Documents,
        crypto: Crypto,
        now: Now,
        rng: &mut ChaCha20Rng,
    ) -> Result<Self, Broken> {
        let mut incarnation = Incarnation([0; 16]);
        rng.fill_bytes(&mut incarnation.0);
        let shard = ReplayShard::new(ReplaySecret::new(Secret::random(rng)), REPLAY_CAPACITY);
        let worker = match crypto {
            Crypto::Real => Worker::Real(Box::new(Peeler::new(ring(&id, directory, documents, now)?, shard))),
            Crypto::Model => Worker::Model(Box::new(shard), epochs(directory, now)),
        };
        let settings = Settings {
            relay: id,
            geometry: documents.consensus.geometry(),
            incarnation,
            admission: Admission::Open,
            bounds: Bounds::default(),
        };
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let core = Relay::with_sealing(settings, Box::new(ChaCha20Rng::from_seed(seed)), sealing(crypto));
        let store = MemoryStore::new(Limits { min_free_bytes: 0, ..Limits::default() }, incarnation);
        let mut node = Self { id, core, worker, store, timer: None, arrived: 0, refused: 0 };
        node.tell(now, documents);
        Ok(node)
    }

    fn tell(&mut self, now: Now, documents: &Documents) {
        self.core.handle(now, Event::Consensus(Arc::clone(&documents.consensus)));
        self.core.handle(now, Event::MixKeys(documents.mix_keys.clone()));
    }

    /// A new epoch.
    pub(super) fn documents(&mut self, now: Now, directory: &Directory, documents: &Documents) -> Result<(), Broken> {
        match &mut self.worker {
            Worker::Real(peeler) => peeler.set_ring(ring(&self.id, directory, documents, now)?),
            Worker::Model(shard, epochs_held) => {
                *epochs_held = epochs(directory, now);
                let oldest = epochs_held.iter().min().copied().unwrap_or_default();
                shard.forget_before(oldest);
            }
        }
        self.tell(now, documents);
        Ok(())
    }

    /// A packet arrives.
    pub(super) fn packet(&mut self, now: Now, from: Source, mut packet: Packet) {
        self.arrived += 1;
        let peeled = match &mut self.worker {
            Worker::Real(peeler) => {
                let peeled = peeler.peel(&mut packet);
                drop(peeler.take_log());
                peeled
            }
            Worker::Model(shard, epochs) => model::peel(&self.id, epochs, shard, &mut packet),
        };
        match peeled {
            Ok(peeled) => self.core.handle(now, Event::Peeled { from, peeled, packet }),
            Err(_) => self.refused += 1,
        }
    }

    pub(super) fn handle(&mut self, now: Now, event: Event) {
        self.core.handle(now, event);
    }

    /// Applies an operation to the store; its outcome reaches the core a moment later.
    pub(super) fn apply(&mut self, now: Now, op: QueueOp) -> Option<posta_store::Outcome> {
        self.store.apply(now, &[op]).pop()
    }

    pub(super) fn poll(&mut self) -> Option<Action> {
        self.core.poll()
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.core.poll_timeout()
    }

    pub(super) const fn core(&self) -> &Relay {
        &self.core
    }
}
