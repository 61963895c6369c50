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

use posta_node::driver::replay_log::{BootId, Loaded, LogOwner, ShardLog, load, remove_epoch, sizes};
use posta_node::keys::Keys;
use posta_node::relay::replay::{Fill, ReplaySecret, ReplayShard};
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
    workers_of(owner, n, 1000)
}

fn workers_of(owner: &LogOwner, n: usize, capacity: usize) -> (Loaded, Vec<(Peeler, ShardLog)>) {
    let mut shards: Vec<_> = (0..n).map(|_| ReplayShard::new(secret(), capacity)).collect();
    for (epoch, records) in sizes(&owner.dir).unwrap() {
        shards.iter_mut().for_each(|shard| shard.reserve(epoch, records as usize / n));
    }
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

#[test]
fn a_full_filter_refuses_and_counts_and_is_still_full_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = World::new();
    let packets: Vec<_> = (0..12).map(|_| w.packet(&FORTH, Duration::ZERO, Last::Queue, b"")).collect();
    let mine = owner(dir.path(), 1);
    {
        let (_, mut all) = workers_of(&mine, 1, 10);
        for (n, packet) in packets.iter().enumerate() {
            let fill = all[0].0.fill();
            let expected = [(8, Fill::Room), (9, Fill::High), (10, Fill::VeryHigh)];
            assert_eq!(
                fill,
                expected.iter().find(|(below, _)| n < *below).map_or(Fill::Full, |(_, fill)| *fill),
                "{n}"
            );
            assert_eq!(peel(&mut all, packet), n < 10, "{n}");
        }
        assert_eq!(all[0].0.take_full(), 2);
        assert!(packets.iter().all(|p| !peel(&mut all, p)), "a full filter lets no replay through either");
        assert_eq!(all[0].0.take_full(), 2, "and counts only what it had no room for");
        // Dropped without a close, as SIGKILL leaves it.
    }
    assert_eq!(sizes(&mine.dir).unwrap().into_values().collect::<Vec<_>>(), [10]);
    let (loaded, mut all) = workers_of(&mine, 1, 10);
    assert!(loaded.spoiled.is_empty());
    assert_eq!(all[0].0.fill(), Fill::Full);
    assert!(packets.iter().all(|p| !peel(&mut all, p)));
    drop(all);
    // With more memory it goes on; with less, what is logged has no room, and the keys have to go.
    let (loaded, mut all) = workers_of(&mine, 1, 20);
    assert!(loaded.spoiled.is_empty());
    assert!(packets[..10].iter().all(|p| !peel(&mut all, p)) && packets[10..].iter().all(|p| peel(&mut all, p)));
    drop(all);
    let epoch = epoch_at(start().wall);
    assert_eq!(workers_of(&mine, 1, 5).0.spoiled.into_iter().collect::<Vec<_>>(), [epoch]);
}

#[test]
fn a_full_filter_on_a_new_boot_loses_its_keys_and_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = World::new();
    let packets: Vec<_> = (0..5).map(|_| w.packet(&FORTH, Duration::ZERO, Last::Queue, b"")).collect();
    let (_, mut all) = workers_of(&owner(dir.path(), 1), 1, 4);
    assert_eq!(packets.iter().filter(|p| peel(&mut all, p)).count(), 4);
    drop(all);
    let rebooted = owner(dir.path(), 2);
    let (loaded, _) = workers_of(&rebooted, 1, 4);
    let epoch = epoch_at(start().wall);
    assert!(loaded.spoiled.contains(&epoch));
    remove_epoch(&rebooted.dir, epoch).unwrap();
    assert_eq!(workers_of(&rebooted, 1, 4).1[0].0.fill(), Fill::Room);
}

#[test]
fn the_memory_of_a_key_epoch_goes_with_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = World::new();
    let packet = w.packet(&FORTH, Duration::ZERO, Last::Queue, b"");
    let (_, mut all) = workers_of(&owner(dir.path(), 1), 1, 1);
    assert!(peel(&mut all, &packet));
    let (peeler, log) = &mut all[0];
    assert_eq!(peeler.fill(), Fill::Full);
    let next = epoch_at(start().wall).next();
    let keys = vec![(next, mix_key(ENTRY, next))];
    peeler.set_ring(Ring { keys: Arc::new(KeyRing::new(ENTRY, G, keys)), epochs: vec![next] });
    log.forget_before(next).unwrap();
    assert_eq!(peeler.fill(), Fill::Room);
    assert!(sizes(dir.path()).unwrap().is_empty(), "nor is there a log");
}
