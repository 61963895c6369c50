//! What a relay needs before it has seen a consensus: keys, the replay log, the store.

use std::path::{Path, PathBuf};

use posta_store::{Backups, Health, QueueStore, RocksStore};
use tracing::info;

use super::clock::wall;
use super::replay_log::{self, BootId, LogOwner, ShardLog};
use crate::config::Config;
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
