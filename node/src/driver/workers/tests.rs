//! What becomes of a packet that fails to peel: one is added to one count, and nothing else happens.

use std::path::Path;
use std::time::Duration;

use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::onion::KeyRing;
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::params::KEM_CIPHERTEXT_LEN;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::driver::replay_log::{BootId, LogOwner};
use crate::relay::ClientLink;
use crate::relay::replay::ReplayShard;

const G: Geometry = Geometry::DEFAULT;
const EPOCH: KeyEpoch = KeyEpoch(7);
const ME: RelayId = RelayId([1; 32]);
const SECRET: [u8; 32] = [8; 32];

fn key(epoch: KeyEpoch) -> KemSecretKey {
    KemSecretKey::from_seed(&Secret::new([epoch.0 as u8; 32])).unwrap()
}

fn worker(dir: &Path, capacity: usize) -> (Worker, mpsc::Receiver<Batch>) {
    let keys = Arc::new(KeyRing::new(ME, G, vec![(EPOCH, key(EPOCH))]));
    let shard = ReplayShard::new(ReplaySecret::new(Secret::new(SECRET)), capacity);
    let peeler = Peeler::new(Ring { keys, epochs: vec![EPOCH] }, shard);
    let owner = LogOwner { dir: dir.to_owned(), relay: ME, boot: BootId([1; 16]) };
    let (batches, seen) = mpsc::channel(1);
    (Worker { number: 0, peeler, log: ShardLog::new(owner, 0, 1, 0), batches, failed: false }, seen)
}

fn made(relay: RelayId, epoch: KeyEpoch, geometry: Geometry, seed: u64) -> Packet {
    let key = key(epoch);
    let hop = Hop { relay, key: key.public(), delay: Duration::ZERO };
    let rng = &mut ChaCha20Rng::seed_from_u64(seed);
    packet(geometry, epoch, &[hop], Last::Queue, b"content", rng).unwrap()
}

fn job(packet: &Packet) -> Job {
    let route = ReplaySecret::new(Secret::new(SECRET)).route(packet);
    Job::Packet(Source::Client(ClientLink(1)), packet.clone(), route)
}

/// What the owner gets to know of a packet, after the worker has written its log.
fn batch(worker: &mut Worker, packet: &Packet) -> Batch {
    let mut batch = Batch::default();
    assert!(worker.work(job(packet), &mut batch), "the worker goes on");
    worker.write(&mut batch);
    batch
}

fn counts(batch: &Batch) -> (usize, u64, u64, u64) {
    (batch.peeled.len(), batch.refused, batch.full, batch.unwritten)
}

fn garbled(at: usize, bytes: usize) -> Packet {
    let mut packet = made(ME, EPOCH, G, 1);
    packet.as_bytes_mut()[at..at + bytes].fill(0);
    packet
}

#[test]
fn a_packet_that_fails_to_peel_adds_one_to_one_count_whatever_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (mut worker, _batches) = worker(dir.path(), 100);
    let narrow = Geometry::new(G.hops() - 1, G.content_len() + 1200).unwrap();
    let mut noise = Packet::zeroed(G);
    rand_core::Rng::fill_bytes(&mut ChaCha20Rng::seed_from_u64(2), noise.as_bytes_mut());
    let long = [made(ME, EPOCH, G, 1).as_bytes(), &[0]].concat();
    let failures = [
        ("for another relay", made(RelayId([2; 32]), EPOCH, G, 1)),
        ("of another key epoch", made(ME, EPOCH.next(), G, 1)),
        ("of another geometry", made(ME, EPOCH, narrow, 1)),
        ("ML-KEM garbled", garbled(7, 5)),
        ("X25519 zero", garbled(KEM_CIPHERTEXT_LEN - 32, 32)),
        ("tag garbled", garbled(KEM_CIPHERTEXT_LEN, 16)),
        ("routing garbled", garbled(KEM_CIPHERTEXT_LEN + 500, 5)),
        // Its header opens; the queue service's check of the payload fails.
        ("payload garbled", garbled(G.header_len() + 5000, 9)),
        ("too short", Packet::from_bytes(made(ME, EPOCH, G, 1).as_bytes()[1..].into())),
        ("too long", Packet::from_bytes(long.into_boxed_slice())),
        ("empty", Packet::from_bytes(Box::new([]))),
        ("noise", noise),
    ];
    for (why, packet) in &failures {
        assert_eq!(counts(&batch(&mut worker, packet)), (0, 1, 0, 0), "{why}");
    }
    // An honest one still peels; once. Sent again, it is one more of the same count.
    let honest = made(ME, EPOCH, G, 3);
    assert_eq!(counts(&batch(&mut worker, &honest)), (1, 0, 0, 0));
    assert_eq!(counts(&batch(&mut worker, &honest)), (0, 1, 0, 0));
}

#[test]
fn a_header_that_fails_leaves_nothing_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (mut worker, _batches) = worker(dir.path(), 100);
    batch(&mut worker, &garbled(KEM_CIPHERTEXT_LEN, 16));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    batch(&mut worker, &made(ME, EPOCH, G, 1));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
