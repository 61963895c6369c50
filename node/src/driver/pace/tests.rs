//! Floods of packets and overload in virtual time, with the constants of the driver: one worker that takes 45 µs a packet,
//! the line in front of it, links that wait for room in it.

use std::collections::{BTreeSet, VecDeque};

use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::config::LimitsConfig;
use crate::driver::lines::PEER_BACKLOG;
use crate::driver::workers::{BATCH_QUEUE, WORKER_QUEUE};

/// What a worker needs for a packet, in microseconds.
const PEEL_US: u64 = 45;
const SECOND: u64 = 1_000_000;

/// A link that sends packets at random times with this mean gap in microseconds; 0 for as fast as it is read.
struct Source {
    gap: u64,
    pace: Option<Pace>,
    honest: bool,
    /// When its next packet is there; only one is taken off the stream at a time.
    next: u64,
}

#[derive(Debug)]
struct Outcome {
    /// Of honest packets, from their arrival to their leaving, in microseconds.
    p50: u64,
    p99: u64,
    /// Packets a second, honest or not.
    through: u64,
    /// From being taken off the stream to leaving.
    inside_p99: u64,
}

/// Runs for ten seconds. Each link has one packet under way to the worker's line; when that is full it waits for its turn, in
/// the order of asking, as the channel does it.
fn run(mut links: Vec<Source>, peel_us: u64) -> Outcome {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut gap = |mean: u64| (-(1.0 - rng.random::<f64>()).ln() * mean as f64) as u64;
    let mut events: BTreeSet<(u64, usize)> = BTreeSet::new();
    for (n, link) in links.iter_mut().enumerate() {
        link.next = if link.gap == 0 { n as u64 % 1000 } else { gap(link.gap) };
        events.insert((link.next, n));
    }
    // In the line: (arrived, taken off the stream, link). Those who wait for room stand behind.
    let (mut line, mut waiting) = (VecDeque::new(), VecDeque::new());
    let (mut times, mut inside, mut through) = (Vec::new(), Vec::new(), 0);
    let mut busy_until = 0;
    let mut now = 0;
    while now < 10 * SECOND {
        let arrival = events.first().map_or(u64::MAX, |(at, _)| *at);
        let done = if line.is_empty() { u64::MAX } else { busy_until };
        now = arrival.min(done);
        if done <= arrival {
            let (arrived, taken, n): (u64, u64, usize) = line.pop_front().unwrap();
            through += 1;
            inside.push(now - taken);
            if links[n].honest {
                times.push(now - arrived);
            }
            let admitted = waiting.pop_front();
            line.extend(admitted);
            busy_until = now + peel_us;
            // Whoever got room reads on.
            if let Some((_, _, n)) = admitted {
                read_on(&mut links[n], n, now, &mut gap, &mut events);
            }
            continue;
        }
        let (_, n) = events.pop_first().unwrap();
        let link = &mut links[n];
        let item = (link.next, now, n);
        if line.is_empty() {
            busy_until = now + peel_us;
        }
        if line.len() < WORKER_QUEUE {
            line.push_back(item);
            read_on(link, n, now, &mut gap, &mut events);
        } else {
            waiting.push_back(item);
        }
    }
    times.sort_unstable();
    inside.sort_unstable();
    let at = |all: &[u64], part: usize| all.get(all.len() * part / 100).copied().unwrap_or_default();
    Outcome { p50: at(&times, 50), p99: at(&times, 99), through: through / 10, inside_p99: at(&inside, 99) }
}

fn read_on(
    link: &mut Source,
    n: usize,
    now: u64,
    gap: &mut impl FnMut(u64) -> u64,
    events: &mut BTreeSet<(u64, usize)>,
) {
    link.next = if link.gap == 0 { now } else { link.next + gap(link.gap) };
    let there = link.next.max(now);
    let turn = link.pace.as_ref().map_or(0, |pace| pace.turn(Mono(there)).as_micros() as u64);
    events.insert((there + turn, n));
}

/// A hundred clients with ten packets a second each.
fn honest() -> Vec<Source> {
    let limits = LimitsConfig::default();
    let client = |n: u32| {
        let network = Arc::new(SharedRate::new(limits.network_packets_per_second, limits.network_packets_per_second));
        let pace = Some(Pace::new(Speeds::new(&limits).client, Some(network)));
        Source { gap: SECOND / 10, pace, honest: true, next: u64::from(n) }
    };
    (0..100).map(client).collect()
}

/// With clients of so many networks and a number of relays that send as fast as they are read; `paced` or not.
fn flood(networks: usize, clients: usize, relays: usize, paced: bool) -> Outcome {
    let limits = LimitsConfig::default();
    let mut links = honest();
    for _ in 0..networks {
        let network = Arc::new(SharedRate::new(limits.network_packets_per_second, limits.network_packets_per_second));
        for _ in 0..clients {
            let pace = paced.then(|| Pace::new(Speeds::new(&limits).client, Some(Arc::clone(&network))));
            links.push(Source { gap: 0, pace, honest: false, next: 0 });
        }
    }
    for _ in 0..relays {
        let pace = paced.then(|| Pace::new(Speeds::new(&limits).link, None));
        links.push(Source { gap: 0, pace, honest: false, next: 0 });
    }
    run(links, PEEL_US)
}

#[test]
fn clients_that_flood_leave_the_others_their_latency() {
    let quiet = run(honest(), PEEL_US);
    let flooded = flood(4, 500, 0, true);
    assert!(flooded.p50 <= 2 * quiet.p50, "{flooded:?} instead of {quiet:?}");
    let control = flood(4, 500, 0, false);
    assert!(control.p50 > 50 * quiet.p50, "the control, without a limit: {control:?}");
    let one = flood(1, 1, 0, true);
    assert!(one.p50 <= 2 * quiet.p50 && one.through < 1_000 + 270, "{one:?}");
}

#[test]
fn a_relay_that_floods_leaves_the_others_their_latency() {
    let quiet = run(honest(), PEEL_US);
    let flooded = flood(0, 0, 1, true);
    assert!(flooded.p50 <= 2 * quiet.p50, "{flooded:?} instead of {quiet:?}");
    let control = flood(0, 0, 1, false);
    assert!(control.p50 > 50 * quiet.p50, "the control, without a limit: {control:?}");
}

/// Twice what the worker can do, from eight relays that nothing paces: those wait, nothing is dropped, the worker never
/// idles, and what is inside leaves soon.
#[test]
fn at_twice_the_load_links_wait_and_packets_inside_do_not() {
    let capacity = SECOND / PEEL_US;
    let relay = |_| Source { gap: 8 * SECOND / (2 * capacity), pace: None, honest: true, next: 0 };
    let overload = run((0..8).map(relay).collect(), PEEL_US);
    assert!(overload.through * 100 >= 90 * capacity, "{overload:?} of {capacity}");
    assert!(overload.inside_p99 <= 100_000, "{overload:?}");
    // All that can stand in front of the worker and behind it, the owner being ten times as fast.
    let longest = (WORKER_QUEUE + 8) as u64 * PEEL_US + (BATCH_QUEUE + PEER_BACKLOG) as u64 * PEEL_US / 10;
    assert!(longest <= 100_000, "{longest}");
    let half = run((0..8).map(|n| Source { gap: 8 * SECOND * 2 / capacity, ..relay(n) }).collect(), PEEL_US);
    assert!(half.p99 <= 1_000, "{half:?}");
}
