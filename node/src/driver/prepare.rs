//! What a relay needs before it has seen a consensus: keys, the replay log, the store, its ports.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use posta_link::{Admit, AnyPeer, Audience, Endpoint, PortLimits};
use posta_protocol::ids::LinkPublicKey;
use posta_store::{Backups, Health, QueueStore, RocksStore};
use tokio::sync::watch;
use tracing::info;

use super::clock::wall;
use super::links::{self, Held};
use super::replay_log::{self, BootId, LogOwner, ShardLog};
use crate::config::{Config, Role};
use crate::failure::Failure;
use crate::keys::Keys;
use crate::relay::replay::ReplayShard;

/// What exists before the first consensus.
pub(super) struct Prepared {
    pub(super) keys: Keys,
    pub(super) shards: Vec<ReplayShard>,
    pub(super) logs: Vec<ShardLog>,
    pub(super) store: Box<dyn QueueStore>,
    pub(super) backups: Backups,
    pub(super) health: Health,
}

/// The folder of the queue store.
pub(crate) fn queues_in(state: &Path) -> PathBuf {
    state.join("queues")
}

/// Reads keys and replay log, opens the store. Where the machine may have lost tags, the keys go.
pub(super) fn prepare(config: &Config) -> Result<Prepared, Failure> {
    let mut keys = Keys::open(&config.state_dir, wall()).map_err(Failure::disk)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = config.worker_count(cores);
    let share = config.replay.share(workers);
    let mut shards: Vec<_> = (0..workers).map(|_| ReplayShard::new(keys.replay(), share)).collect();
    let dir = config.state_dir.join("replay");
    let owner = LogOwner { dir: dir.clone(), relay: keys.relay(), boot: BootId::current() };
    let broken = |e| Failure::disk(format_args!("the replay log in {} can't be used: {e}", dir.display()));
    for (epoch, records) in replay_log::sizes(&dir).map_err(broken)? {
        if keys.holds(epoch) {
            // Routes spread them evenly; what one shard gets more finds room as it comes.
            let each = usize::try_from(records).unwrap_or(usize::MAX) / workers;
            shards.iter_mut().for_each(|shard| shard.reserve(epoch, each + each / 64));
        } else {
            // Nothing can open its packets any more.
            replay_log::remove_epoch(&dir, epoch).map_err(broken)?;
        }
    }
    let loaded = replay_log::load(&owner, |seen| {
        shards.get_mut(seen.route.worker(workers)).is_some_and(|shard| shard.restore(seen))
    })
    .map_err(broken)?;
    for epoch in &loaded.spoiled {
        info!("the replay log may lack packets of key epoch {}: its mix key is replaced", epoch.0);
        keys.destroy(*epoch).map_err(Failure::disk)?;
        replay_log::remove_epoch(&dir, *epoch).map_err(broken)?;
    }
    let shard_log = |n| ShardLog::new(owner.clone(), loaded.run, workers as u32, n);
    let logs = (0..workers as u32).map(shard_log).collect();
    let fresh = posta_protocol::ids::Incarnation(rand::random());
    let path = queues_in(&config.state_dir);
    let store = RocksStore::open(&path, config.store.limits(), fresh).map_err(Failure::disk)?;
    let (backups, health) = (store.backups(), store.health());
    Ok(Prepared { keys, shards, logs, store: Box::new(store), backups, health })
}

/// The ports. Relays are admitted by the newest consensus, whatever it is at that moment, until the relay stops.
pub(super) fn bind(
    config: &Config,
    keys: &Keys,
    consensus: &Held,
    stopping: watch::Receiver<bool>,
) -> Result<(Endpoint, Option<Endpoint>), Failure> {
    let consensus = consensus.clone();
    let admit = move |key: &LinkPublicKey| {
        !*stopping.borrow()
            && consensus.borrow().as_ref().is_some_and(|consensus| links::listed(consensus, key).is_some())
    };
    let admit: Arc<dyn Admit> = Arc::new(admit);
    let port = |audience| PortLimits { mirror: true, ..config.limits.port(audience) };
    let (address, audience) = (config.link_address, Audience::Link);
    let link = Endpoint::bind_limited(address, audience, keys.link(), admit, port(audience)).map_err(Failure::usage)?;
    let client = if config.offers(Role::Edge) {
        let (address, audience) = (config.client_address, Audience::Client);
        let bound = Endpoint::bind_limited(address, audience, keys.link(), Arc::new(AnyPeer), port(audience));
        Some(bound.map_err(Failure::usage)?)
    } else {
        None
    };
    Ok((link, client))
}
