//! No packet is peeled twice: within a run, across a kill, across another number of workers, across a reboot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "support/world.rs"]
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posta_node::driver::replay_log::{BootId, Loaded, LogOwner, ShardLog, load, remove_epoch};
use posta_node::keys::Keys;
use posta_node::relay::replay::{ReplaySecret, ReplayShard};
use posta_node::relay::worker::{Peeler, Ring};
use posta_protocol::onion::KeyRing;
use posta_protocol::onion::build::Last;
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use world::*;

fn secret() -> ReplaySecret {
    ReplaySecret::new(Secret::new([8; 32]))
}

fn owner(dir: &Path, boot: u8) -> LogOwner {
    LogOwner { dir: dir.to_owned(), relay: ENTRY, boot: BootId([boot; 16]) }
}

fn ring() -> Ring {
    let epoch = epoch_at(start().wall);
    let keys = vec![(epoch, mix_key(ENTRY, epoch))];
    Ring { keys: Arc::new(KeyRing::new(ENTRY, G, keys)), epochs: vec![epoch] }
}

/// Workers as a run starts them.
fn workers(owner: &LogOwner, n: usize) -> (Loaded, Vec<(Peeler, ShardLog)>) {
    let mut shards: Vec<_> = (0..n).map(|_| ReplayShard::new(secret(), 1000)).collect();
    let loaded = load(owner, |seen| shards[seen.route.worker(n)].restore(seen)).unwrap();
    let log = |i| ShardLog::new(owner.clone(), loaded.run, n as u32, i as u32);
    let workers = shards.into_iter().enumerate().map(|(i, s)| (Peeler::new(ring(), s), log(i))).collect();
    (loaded, workers)
}

/// Peels as the driver does: by the right worker, written before it goes on.
fn peel(workers: &mut [(Peeler, ShardLog)], packet: &Packet) -> bool {
    let route = secret().route(packet);
    let n = workers.len();
    let (peeler, log) = &mut workers[route.worker(n)];
    let peeled = peeler.peel_routed(&mut packet.clone(), route).is_ok();
    log.write(&peeler.take_log()).unwrap();
    peeled
}

#[test]
fn a_packet_is_refused_after_a_restart_with_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = World::new();
    let packets: Vec<_> = (0..12).map(|_| w.packet(&FORTH, Duration::ZERO, Last::Queue, b"")).collect();
    let mine = owner(dir.path(), 1);
    {
        let (_, mut all) = workers(&mine, 3);
        assert!(packets[..8].iter().all(|p| peel(&mut all, p)));
        assert!(!peel(&mut all, &packets[0]));
        // Dropped without a close, as SIGKILL leaves it.
    }
    {
        let (loaded, mut all) = workers(&mine, 2);
        assert!(loaded.spoiled.is_empty());
        assert!(packets[..8].iter().all(|p| !peel(&mut all, p)));
        assert!(packets[8..].iter().all(|p| peel(&mut all, p)));
    }
    let (_, mut all) = workers(&mine, 5);
    assert!(packets.iter().all(|p| !peel(&mut all, p)));
}

#[test]
fn a_new_boot_after_a_crash_destroys_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("replay");
    let now = start().wall;
    let ms = KEY_EPOCH.as_millis() as u64;
    let mut keys = Keys::create(dir.path(), now).unwrap();
    keys.make_ahead(now, ms).unwrap();
    let before = keys.mix_public(now, ms);
    let epoch = epoch_at(now);

    let mut w = World::new();
    let packet = w.packet(&FORTH, Duration::ZERO, Last::Queue, b"");
    let (_, mut all) = workers(&owner(&logs, 1), 1);
    assert!(peel(&mut all, &packet));
    drop(all);

    let (loaded, _) = workers(&owner(&logs, 2), 1);
    assert_eq!(loaded.spoiled.iter().copied().collect::<Vec<_>>(), [epoch]);
    for epoch in &loaded.spoiled {
        keys.destroy(*epoch).unwrap();
        remove_epoch(&logs, *epoch).unwrap();
    }
    assert!(keys.make_ahead(now, ms).unwrap());
    let after = keys.mix_public(now, ms);
    assert_eq!(after.len(), 3);
    assert!(after[0].0 == before[0].0 && after[0].1 != before[0].1, "a fresh key for the epoch");
    assert_eq!(after[1..], before[1..], "the keys that were not used stay");
    assert!(workers(&owner(&logs, 2), 1).0.spoiled.is_empty());
}
