use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;

const TO: RelayId = RelayId([1; 32]);

/// A packet of eight bytes that carries a number.
fn packet(n: u64) -> Packet {
    Packet::from_bytes(n.to_le_bytes().into())
}

fn number(packet: &Packet) -> u64 {
    u64::from_le_bytes(packet.as_bytes().try_into().unwrap())
}

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

fn drain(queue: &mut DelayQueue, now: Mono, rng: &mut ChaCha20Rng) -> Vec<u64> {
    std::iter::from_fn(|| queue.pop_due(now, rng).map(|(_, packet)| number(&packet))).collect()
}

/// The Kolmogorov-Smirnov distance between samples and the exponential distribution with this mean, times the root of
/// their number. Above 1.95 the samples are of another distribution, but for one case in a thousand.
fn distance(samples: &mut [f64], mean: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let n = samples.len() as f64;
    let off = |(i, x): (usize, &f64)| {
        let expected = 1.0 - (-x / mean).exp();
        (expected - i as f64 / n).abs().max(((i + 1) as f64 / n - expected).abs())
    };
    samples.iter().enumerate().map(off).fold(0.0, f64::max) * n.sqrt()
}
const ONE_IN_A_THOUSAND: f64 = 1.95;

/// How long a queue really holds packets that ask for `delay`s and arrive at random times, in seconds.
fn holding_times(mut delay: impl FnMut(&mut ChaCha20Rng) -> Duration, late: Duration) -> Vec<f64> {
    let mut rng = rng(5);
    let mut queue = DelayQueue::new(DelayBounds::default());
    let (mut now, mut arrived, mut samples) = (Mono(0), Vec::new(), Vec::new());
    while samples.len() < 20_000 {
        let next = now + exponential(Duration::from_millis(2), &mut rng);
        // The driver comes when the queue asks for it, or so much later.
        while let Some(due) = queue.next_due().filter(|due| *due + late <= next) {
            now = now.max(due + late);
            for n in drain(&mut queue, now, &mut rng) {
                samples.push(now.since(arrived[n as usize]).as_secs_f64());
            }
        }
        now = now.max(next);
        let delay = delay(&mut rng);
        assert_eq!(queue.push(now + delay, TO, packet(arrived.len() as u64)), 0);
        arrived.push(now);
    }
    samples
}

#[test]
fn packets_are_held_for_exponentially_distributed_times() {
    let mean = Duration::from_secs(1);
    let honest = distance(&mut holding_times(|rng| exponential(mean, rng), Duration::ZERO), 1.0);
    assert!(honest < ONE_IN_A_THOUSAND, "{honest}");
}

/// The controls: what a relay that mixes badly does to the same packets.
#[test]
fn the_test_of_the_distribution_catches_relays_that_mix_badly() {
    let mean = Duration::from_secs(1);
    let uniform = |rng: &mut ChaCha20Rng| Duration::from_micros(below(2_000_000, rng) as u64);
    let capped = |rng: &mut ChaCha20Rng| exponential(mean, rng).min(Duration::from_secs(3));
    let batched = |rng: &mut ChaCha20Rng| exponential(mean, rng).max(Duration::from_millis(50));
    for (what, distance) in [
        ("uniform", distance(&mut holding_times(uniform, Duration::ZERO), 1.0)),
        ("capped at three means", distance(&mut holding_times(capped, Duration::ZERO), 1.0)),
        ("never below 50 ms", distance(&mut holding_times(batched, Duration::ZERO), 1.0)),
        ("a mean 4 % off", distance(&mut holding_times(|rng| exponential(mean, rng), Duration::ZERO), 1.04)),
        (
            "a clock that is 100 ms late",
            distance(&mut holding_times(|rng| exponential(mean, rng), Duration::from_millis(100)), 1.0),
        ),
    ] {
        assert!(distance > ONE_IN_A_THOUSAND, "{what}: {distance}");
    }
}

#[test]
fn a_million_packets_are_held_and_each_leaves_once_and_not_before_its_time() {
    let mut rng = rng(1);
    let mut queue = DelayQueue::new(DelayBounds::default());
    let mut due = Vec::with_capacity(MAX_DELAYED);
    for n in 0..MAX_DELAYED as u64 {
        due.push(Mono(0) + exponential(Duration::from_secs(1), &mut rng));
        assert_eq!(queue.push(due[n as usize], TO, packet(n)), 0);
    }
    assert_eq!(queue.len(), MAX_DELAYED);
    assert!(queue.slots.len() < 37_000, "a slot a millisecond: {}", queue.slots.len());
    assert_eq!(queue.push(Mono(0) + Duration::from_secs(3600), TO, packet(0)), 1, "one more, due last: it goes");
    let mut left = vec![false; MAX_DELAYED];
    while let Some(now) = queue.next_due() {
        for n in drain(&mut queue, now, &mut rng) {
            let late = now.since(due[n as usize]);
            assert!(now >= due[n as usize] && late < DELAY_GRANULARITY, "{late:?}");
            assert!(!std::mem::replace(&mut left[n as usize], true), "{n} twice");
        }
    }
    assert!(left.iter().all(|left| *left));
    assert_eq!((queue.len(), queue.bytes), (0, 0));
}

/// Of two packets due within one millisecond, or within one late wake-up, each leaves first half of the times, whichever
/// came first and whichever was due first.
#[test]
fn the_order_of_what_is_ready_at_once_is_random() {
    let mut rng = rng(2);
    for (first, second, wake) in [(100, 900, 1_000), (900, 100, 1_000), (1_500, 40_500, 50_000)] {
        let mut first_leads = 0;
        for _ in 0..4000 {
            let mut queue = DelayQueue::new(DelayBounds::default());
            queue.push(Mono(first), TO, packet(0));
            queue.push(Mono(second), TO, packet(1));
            let order = drain(&mut queue, Mono(wake), &mut rng);
            assert_eq!(order.len(), 2);
            first_leads += u32::from(order == [0, 1]);
        }
        // Five standard deviations.
        assert!((1842..=2158).contains(&first_leads), "{first} and {second}: {first_leads} of 4000");
    }
    let mut queue = DelayQueue::new(DelayBounds::default());
    queue.push(Mono(900), TO, packet(0));
    queue.push(Mono(2_100), TO, packet(1));
    assert_eq!(drain(&mut queue, Mono(1_000), &mut rng), [0], "what isn't due stays");
}

#[test]
fn when_full_the_packet_that_is_due_last_goes() {
    let mut rng = rng(3);
    let bounds = DelayBounds { packets: 10, bytes: 24 };
    let mut queue = DelayQueue::new(bounds);
    for (n, due) in [(1, 600_000), (2, 5_000), (3, 500_000)] {
        assert_eq!(queue.push(Mono(due), TO, packet(n)), 0);
    }
    assert_eq!(queue.push(Mono(7_000), TO, packet(4)), 1, "24 bytes are three packets");
    assert_eq!(queue.push(Mono(900_000), TO, packet(5)), 1);
    assert_eq!(queue.push(Mono(6_000), TO, packet(6)), 1);
    let mut left = drain(&mut queue, Mono(u64::MAX), &mut rng);
    left.sort_unstable();
    assert_eq!(left, [2, 4, 6]);
    let mut few = DelayQueue::new(DelayBounds { packets: 1, bytes: 1 << 20 });
    assert_eq!((few.push(Mono(1), TO, packet(1)), few.push(Mono(2), TO, packet(2))), (0, 1));
}

/// Someone asks for the longest delay, a hundred packets for each honest one: the honest ones are held for their time
/// and none is lost. The control: the same queue, if newcomers were what goes.
#[test]
fn a_flood_of_long_delays_drops_only_itself() {
    let run = |newcomers_go: bool| {
        let mut rng = rng(4);
        let mut queue = DelayQueue::new(DelayBounds { packets: 1_000, bytes: 1 << 30 });
        let (mut lost, mut honest, mut now) = (0, 0, Mono(0));
        for step in 0..20_000 {
            now = now + Duration::from_millis(1);
            for n in drain(&mut queue, now, &mut rng) {
                honest -= n;
            }
            for attack in (0..100).map(|n| n != step % 100) {
                let full = queue.len() == 1_000;
                let delay =
                    if attack { Duration::from_secs(600) } else { exponential(Duration::from_millis(200), &mut rng) };
                honest += u64::from(!attack);
                if newcomers_go && full {
                    lost += u64::from(!attack);
                    honest -= u64::from(!attack);
                } else {
                    queue.push(now + delay, TO, packet(u64::from(!attack)));
                }
            }
        }
        for n in drain(&mut queue, now + Duration::from_secs(60), &mut rng) {
            honest -= n;
        }
        (lost, honest)
    };
    assert_eq!(run(false), (0, 0), "each honest packet has left");
    assert!(run(true).0 > 10_000, "the control");
}

proptest! {
    #[test]
    fn what_is_held_is_always_what_came_less_what_went(
        steps in proptest::collection::vec((0_u64..20_000, 0_u64..3_000, any::<bool>()), 1..200),
        packets in 1_usize..20,
    ) {
        let mut rng = rng(6);
        let mut queue = DelayQueue::new(DelayBounds { packets, bytes: 80 });
        let (mut now, mut came, mut went) = (Mono(0), 0, 0);
        for (delay, passes, stop) in steps {
            came += 1;
            went += queue.push(now + Duration::from_micros(delay), TO, packet(came));
            prop_assert!(queue.len() <= packets.min(10));
            now = now + Duration::from_micros(passes);
            if stop {
                went += queue.drop_after(now);
                prop_assert!(queue.next_due().is_none_or(|due| due <= now));
            }
            went += drain(&mut queue, now, &mut rng).len() as u64;
            prop_assert_eq!(queue.len() as u64, came - went);
            prop_assert_eq!(queue.bytes, 8 * (came - went));
            prop_assert!(queue.next_due().is_none_or(|due| due > now));
            prop_assert!(queue.slots.values().all(|slot| !slot.is_empty()));
        }
    }
}
