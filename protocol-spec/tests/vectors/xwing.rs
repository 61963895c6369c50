//! `xwing.json`.

use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::params::{KEM_CIPHERTEXT_LEN, KEM_PUBLIC_KEY_LEN};
use posta_protocol::secret::Secret;
use serde_json::Value;

use crate::files::{name, vectors};
use crate::hops::secret;
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

/// draft-connolly-cfrg-xwing-kem, spec/test-vectors.json, as the crate x-wing 0.1.1 carries it.
const DRAFT: &str = include_str!("draft-xwing.json");
/// Where X25519's part of a ciphertext begins.
const ML_KEM_LEN: usize = 1088;

pub(crate) fn make() -> Vec<Json> {
    let mut all = drafts();
    all.extend(["one", "two"].map(|which| round_trip(&format!("ours, {which}"), 0)));
    // X25519 ignores the highest bit of a point, the combiner hashes it as it came.
    all.push(round_trip("the highest bit of the point is set", 0x80));
    all.push(garbled());
    all.extend(POINTS.map(with_point));
    all
}

/// The draft's values, not ours: `the_x_wing_vectors_of_the_file_hold` is where ours must agree.
fn drafts() -> Vec<Json> {
    let parsed: Value = serde_json::from_str(DRAFT).unwrap();
    let one = |(i, v): (usize, &Value)| {
        object! {
            "name": format!("the draft's vector {}", i + 1),
            "seed": v.at("seed").bytes(),
            "encapsulation_seed": v.at("eseed").bytes(),
            "public_key": v.at("pk").bytes(),
            "ciphertext": v.at("ct").bytes(),
            "shared_secret": v.at("ss").bytes(),
        }
    };
    parsed.items().iter().enumerate().map(one).collect()
}

fn round_trip(name: &str, flip: u8) -> Json {
    let rng = &mut Recorder::new("xwing", name);
    let (seed, encapsulation_seed) = (rng.array(), rng.array());
    let key = secret(&seed);
    let (mut ciphertext, shared) = key.public().encapsulate(&Secret::new(encapsulation_seed)).unwrap();
    let head = object! { "name": name, "seed": seed };
    if flip == 0 {
        return head
            .with("encapsulation_seed", encapsulation_seed)
            .with("public_key", *key.public().as_bytes())
            .with("ciphertext", ciphertext)
            .with("shared_secret", *shared.expose());
    }
    ciphertext[KEM_CIPHERTEXT_LEN - 1] ^= flip;
    let other = key.decapsulate(&ciphertext).unwrap();
    assert_ne!(other, shared);
    head.with("ciphertext", ciphertext).with("shared_secret", *other.expose())
}

/// Implicit rejection: a garbled ciphertext gives a secret, but another one.
fn garbled() -> Json {
    let name = "a garbled ciphertext gives an unrelated secret";
    let rng = &mut Recorder::new("xwing", name);
    let (seed, encapsulation_seed) = (rng.array(), rng.array());
    let key = secret(&seed);
    let (mut ciphertext, shared) = key.public().encapsulate(&Secret::new(encapsulation_seed)).unwrap();
    ciphertext[500] ^= 4;
    let other = key.decapsulate(&ciphertext).unwrap();
    assert_ne!(other, shared);
    object! { "name": name, "seed": seed, "ciphertext": ciphertext, "shared_secret": *other.expose() }
}

/// The prime's encoding but for its lowest and highest byte: 2^255 - 256 and some.
const fn near_prime(lowest: u8, highest: u8) -> [u8; 32] {
    let mut point = [0xff; 32];
    point[0] = lowest;
    point[31] = highest;
    point
}

const fn small(lowest: u8, highest: u8) -> [u8; 32] {
    let mut point = [0; 32];
    point[0] = lowest;
    point[31] = highest;
    point
}

/// The points of order 8.
const ORDER_8: [[u8; 32]; 2] = [
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
];

/// What may stand in place of X25519's part, and whether it contributes anything: not if its order divides 8, also when
/// it isn't reduced or has the highest bit, which X25519 ignores, set.
const POINTS: [(&str, [u8; 32], bool); 12] = [
    ("zero", small(0, 0), false),
    ("one", small(1, 0), false),
    ("order 8", ORDER_8[0], false),
    ("order 8, the other", ORDER_8[1], false),
    ("the prime less one", near_prime(0xec, 0x7f), false),
    ("the prime", near_prime(0xed, 0x7f), false),
    ("the prime and one", near_prime(0xee, 0x7f), false),
    ("one with the highest bit", small(1, 0x80), false),
    ("the prime with the highest bit", near_prime(0xed, 0xff), false),
    ("two", small(2, 0), true),
    ("the prime less two", near_prime(0xeb, 0x7f), true),
    ("the prime and two", near_prime(0xef, 0x7f), true),
];

fn with_point((which, point, contributes): (&str, [u8; 32], bool)) -> Json {
    let name = format!("in place of X25519's part: {which}");
    let rng = &mut Recorder::new("xwing", &name);
    let (seed, encapsulation_seed) = (rng.array(), rng.array());
    let key = secret(&seed);
    let (mut ciphertext, _) = key.public().encapsulate(&Secret::new(encapsulation_seed)).unwrap();
    ciphertext[ML_KEM_LEN..].copy_from_slice(&point);
    let head = object! { "name": name, "seed": seed, "ciphertext": ciphertext };
    match key.decapsulate(&ciphertext) {
        Ok(shared) if contributes => head.with("shared_secret", *shared.expose()),
        Err(_) if !contributes => head.with("refused", true),
        other => panic!("{which}: {other:?}"),
    }
}

#[test]
fn the_x_wing_vectors_of_the_file_hold() {
    let vectors = vectors("xwing");
    assert_eq!(vectors.iter().filter(|v| name(v).starts_with("the draft's")).count(), 3);
    for vector in vectors {
        let key = secret(&vector.at("seed").array());
        let ciphertext = vector.at("ciphertext").array();
        if vector.get("refused").is_some() {
            assert!(key.decapsulate(&ciphertext).is_err(), "{}", name(&vector));
            continue;
        }
        let shared = vector.at("shared_secret").array();
        assert_eq!(key.decapsulate(&ciphertext).unwrap().expose(), &shared, "{}", name(&vector));
        if let Some(seed) = vector.get("encapsulation_seed") {
            let public = vector.at("public_key").array::<KEM_PUBLIC_KEY_LEN>();
            assert_eq!(key.public().as_bytes(), &public, "{}", name(&vector));
            let made = KemPublicKey::new(public).unwrap().encapsulate(&Secret::new(seed.array())).unwrap();
            assert_eq!((made.0, made.1.expose()), (ciphertext, &shared), "{}", name(&vector));
        }
    }
}

#[test]
fn the_draft_s_vectors_are_the_draft_s() {
    let parsed: Value = serde_json::from_str(DRAFT).unwrap();
    for v in parsed.items() {
        assert_eq!(v.at("seed"), v.at("sk"), "a secret key is its seed");
        let key = secret(&v.at("sk").array());
        assert_eq!(key.public().as_bytes().as_slice(), v.at("pk").bytes());
        let (ct, ss) = key.public().encapsulate(&Secret::new(v.at("eseed").array())).unwrap();
        assert_eq!((ct.to_vec(), ss.expose().to_vec()), (v.at("ct").bytes(), v.at("ss").bytes()));
        assert_eq!(key.decapsulate(&ct).unwrap(), ss);
    }
}
