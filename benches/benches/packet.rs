//! Single functions of the packet's way with their spread, for finding regressions: `cargo bench -p posta-benches`.
#![allow(clippy::unwrap_used, missing_docs, reason = "benches")]

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId};
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::reply::reply_block;
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const G: Geometry = Geometry::DEFAULT;
const EPOCH: KeyEpoch = KeyEpoch(1);

fn packets(c: &mut Criterion) {
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let key = || KemSecretKey::from_seed(&Secret::new([7; 32])).unwrap();
    let public = key().public().clone();
    let path = [1, 2, 3, 4].map(|n| Hop { relay: RelayId([n; 32]), key: &public, delay: Duration::ZERO });
    let ring = KeyRing::new(RelayId([1; 32]), G, vec![(EPOCH, key())]);
    let built = packet(G, EPOCH, &path, Last::Queue, b"content", rng).unwrap();

    c.bench_function("peel", |b| {
        b.iter_batched_ref(|| built.clone(), |p| peel(&ring, p, |_, _| true).unwrap(), BatchSize::SmallInput);
    });
    c.bench_function("build a packet", |b| b.iter(|| packet(G, EPOCH, &path, Last::Queue, b"content", rng).unwrap()));
    c.bench_function("make a reply block", |b| {
        b.iter(|| reply_block(G, EPOCH, &path, InboxId([5; 32]), rng).unwrap());
    });

    let ciphertext = built.ciphertext().try_into().unwrap();
    c.bench_function("decapsulate", |b| {
        let key = key();
        b.iter(|| key.decapsulate(ciphertext).unwrap());
    });
    let mut group = c.benchmark_group("wide block");
    group.throughput(Throughput::Bytes(G.payload_len() as u64));
    let mut payload = vec![0; G.payload_len()];
    group.bench_function("inverse", |b| b.iter(|| WideBlock::new(&[3; 32]).inverse(&mut payload)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(2)).without_plots();
    targets = packets
}
criterion_main!(benches);
