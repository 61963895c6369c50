//! Whether time tells why a header was refused, after dudect (Reparaz, Balasch and Verbauwhede, 2017): the times of two
//! classes of packets, taken in random turns, are compared by Welch's t-test, with the slow tail cropped at several
//! places. For the soak: a busy machine can only hide a difference. `.ci/instructions` counts instructions instead.

use std::hint::black_box;
use std::time::Instant;

use posta_protocol::error::Refused;
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::packet::Packet;
use posta_protocol::params::KEM_CIPHERTEXT_LEN;
use rand_core::Rng;

use super::failures::{CLASSES, packets, ring};
use super::support;

/// Measurements of a pair of classes.
const SAMPLES: usize = 30_000;
/// A difference up to this part of the mean is let pass: 38 ns of 76 us. 10 ns are known: aws-lc first tries to read a
/// point as DER, and how far it gets depends on its first bytes, which are public and the sender's choice.
const MARGIN: f64 = 0.000_5;
/// Distinct packets of a class.
const PACKETS: usize = 64;
/// From here on the classes count as different by more than the margin (dudect's bound).
const LEAK: f64 = 10.0;
/// Parts of the measurements, fastest first, that are compared.
const CROPS: [f64; 4] = [0.5, 0.8, 0.95, 1.0];

type Peel = fn(&KeyRing, &mut Packet) -> Result<(), Refused>;

fn real(ring: &KeyRing, packet: &mut Packet) -> Result<(), Refused> {
    peel(ring, packet, |_, _| true).map(|_| ())
}

/// The control: looks at the X25519 part first, and saves itself the work if it is zero.
fn returns_early(ring: &KeyRing, packet: &mut Packet) -> Result<(), Refused> {
    if packet.ciphertext()[KEM_CIPHERTEXT_LEN - 32..].iter().all(|b| *b == 0) {
        return Err(Refused);
    }
    real(ring, packet)
}

/// Nanoseconds of refusals, each with its class.
#[expect(clippy::disallowed_methods, reason = "this test is about time")]
fn measure(peel: Peel, classes: [&str; 2]) -> Vec<(f64, usize)> {
    let ring = ring();
    let pools = classes.map(|class| packets(class, PACKETS).unwrap());
    let mut rng = support::rng(1);
    let mut packet = Packet::from_bytes(pools[0][0].clone());
    let mut times = Vec::with_capacity(SAMPLES);
    // The first ones warm up.
    for n in 0..SAMPLES + SAMPLES / 20 {
        let random = rng.next_u32() as usize;
        let class = random % 2;
        packet.as_bytes_mut().copy_from_slice(&pools[class][random / 2 % PACKETS]);
        let began = Instant::now();
        let result = peel(&ring, black_box(&mut packet));
        let took = began.elapsed();
        assert_eq!(result, Err(Refused));
        if n >= SAMPLES / 20 {
            times.push((took.as_nanos() as f64, class));
        }
    }
    times
}

/// How two classes differ: Welch's |t|, of all of the difference and of what is beyond the margin.
#[derive(Clone, Copy, Debug, Default)]
struct Apart {
    plain: f64,
    beyond: f64,
}

fn welch(times: &[(f64, usize)]) -> Apart {
    let [a, b] = [0, 1].map(|class| {
        let of: Vec<f64> = times.iter().filter(|(_, c)| *c == class).map(|(t, _)| *t).collect();
        let n = of.len() as f64;
        let mean = of.iter().sum::<f64>() / n;
        let variance = of.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    });
    let (difference, error) = ((a.0 - b.0).abs(), (a.1 + b.1).sqrt());
    Apart { plain: difference / error, beyond: (difference - MARGIN * a.0).max(0.0) / error }
}

/// The largest over all crops.
fn apart(mut times: Vec<(f64, usize)>) -> Apart {
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let crops = CROPS.map(|part| welch(&times[..(times.len() as f64 * part) as usize]));
    let larger = |a: Apart, b: Apart| Apart { plain: a.plain.max(b.plain), beyond: a.beyond.max(b.beyond) };
    crops.into_iter().fold(Apart::default(), larger)
}

#[test]
#[ignore = "measures time, which a busy machine disturbs: `make soak` runs it"]
fn time_does_not_tell_why_a_header_was_refused() {
    for class in &CLASSES[1..] {
        let apart = apart(measure(real, [CLASSES[0], class]));
        println!("{class} beside {}: {apart:.2?}", CLASSES[0]);
        assert!(apart.beyond < LEAK, "{class} takes another time: {apart:.2?}");
    }
}

#[test]
#[ignore = "measures time, which a busy machine disturbs: `make soak` runs it"]
fn an_early_return_would_be_seen_in_time() {
    let apart = apart(measure(returns_early, [CLASSES[0], "zero-x25519"]));
    println!("the control: {apart:.2?}");
    assert!(apart.beyond > 10.0 * LEAK);
}

#[test]
fn the_comparison_of_times_finds_a_shift_and_nothing_in_noise() {
    let mut rng = support::rng(2);
    let mut draw = |shift: f64| -> Vec<(f64, usize)> {
        let mut one = |class: usize| {
            // A sum of uniform numbers, with a slow tail now and then.
            let sum: f64 = (0..12).map(|_| f64::from(rng.next_u32() >> 8) / f64::from(1 << 24)).sum();
            let tail = if rng.next_u32().is_multiple_of(50) { 500.0 } else { 0.0 };
            (1000.0 + 20.0 * sum + tail + shift * class as f64, class)
        };
        (0..20_000).map(|i| one(i % 2)).collect()
    };
    assert!(apart(draw(0.0)).plain < LEAK);
    // One percent.
    assert!(apart(draw(10.0)).beyond > LEAK);
}

#[test]
fn every_class_of_failure_is_refused_by_its_header() {
    for class in CLASSES {
        for bytes in packets(class, PACKETS).unwrap() {
            let mut packet = Packet::from_bytes(bytes.clone());
            assert_eq!(peel(&ring(), &mut packet, |_, _| panic!("{class}: a header that opens")), Err(Refused));
            assert!(*packet.as_bytes() == *bytes, "{class}");
        }
    }
}
