//! What a relay does with a packet besides moving it, without any link.

use std::sync::{Arc, Barrier};
use std::thread;

use anyhow::{Context, Result, anyhow};
use posta_node::relay::replay::{ReplaySecret, ReplayShard};
use posta_node::relay::worker::{Peeler, Ring};
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use tokio::time::Instant;

use super::net::build;
use super::process::{run_on, thread_cpu_us};
use super::{G, KEY_EPOCH_MS};

/// Packets peeled in this process for the hop alone, and by each worker in a turn.
const HOPS: usize = 4_000;
/// Turns of one worker and of two, one after the other.
const TURNS: usize = 7;
const RELAY: RelayId = RelayId([4; 32]);

fn key() -> Result<KemSecretKey> {
    KemSecretKey::from_seed(&Secret::new([4; 32])).context("a mix key")
}

fn ring(now: Wall) -> Result<Arc<KeyRing>> {
    Ok(Arc::new(KeyRing::new(RELAY, G, vec![(KeyEpoch(now.0 / KEY_EPOCH_MS), key()?)])))
}

/// Peeling alone, on this thread's core, in microseconds.
pub(crate) fn hop(now: Wall) -> Result<f64> {
    let ring = ring(now)?;
    let packets = build((RELAY, key()?.public()), now, 0, HOPS)?;
    let start = thread_cpu_us()?;
    for mut packet in packets {
        peel(&ring, &mut packet, |_, _| true).map_err(|e| anyhow!("a packet of ours: {e}"))?;
    }
    Ok((thread_cpu_us()? - start) / HOPS as f64)
}

/// Packets a second: by the time that the slowest worker had a core, and by the clock.
pub(crate) type Rates = [f64; 2];

/// What one worker on core 0 peels in a second, and what two do, each on a core with a replay filter of its own: medians.
pub(crate) fn workers(now: Wall) -> Result<(Rates, Rates)> {
    let packets = build((RELAY, key()?.public()), now, 1, 2 * HOPS)?;
    let (first, second) = packets.split_at(HOPS);
    let ring = Ring { keys: ring(now)?, epochs: vec![KeyEpoch(now.0 / KEY_EPOCH_MS)] };
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        one.push(peels(&ring, &[first])?);
        two.push(peels(&ring, &[first, second])?);
    }
    let median = |all: Vec<Rates>| {
        [0, 1].map(|which: usize| {
            let mut all: Vec<_> = all.iter().filter_map(|rates| rates.get(which).copied()).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or_default()
        })
    };
    Ok((median(one), median(two)))
}

/// Peels these packets, each slice on a core of its own.
fn peels(ring: &Ring, packets: &[&[Packet]]) -> Result<Rates> {
    let together = Barrier::new(packets.len());
    let all: usize = packets.iter().map(|part| part.len()).sum();
    let longest = thread::scope(|scope| {
        let work = packets.iter().enumerate().map(|(core, part)| {
            let (mut mine, together) = (part.to_vec(), &together);
            let shard = ReplayShard::new(ReplaySecret::new(Secret::new([8; 32])), 1 << 20);
            let mut peeler = Peeler::new(ring.clone(), shard);
            scope.spawn(move || {
                run_on(&[core])?;
                together.wait();
                let (start, cpu) = (Instant::now(), thread_cpu_us()?);
                for packet in &mut mine {
                    peeler.peel(packet).map_err(|e| anyhow!("a packet of ours: {e}"))?;
                }
                anyhow::Ok([thread_cpu_us()? - cpu, start.elapsed().as_secs_f64() * 1e6])
            })
        });
        let work: Vec<_> = work.collect();
        let mut longest = [0.0_f64; 2];
        for thread in work {
            let took = thread.join().map_err(|_| anyhow!("a worker has panicked"))??;
            longest.iter_mut().zip(took).for_each(|(longest, took)| *longest = longest.max(took));
        }
        anyhow::Ok(longest)
    })?;
    Ok(longest.map(|us| all as f64 * 1e6 / us))
}
