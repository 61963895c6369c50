//! Does one thing a number of times, for `.ci/instructions` to count what it costs: `instructions NAME COUNT`. Without
//! arguments it names the things; `instructions machine` names what the processor can do that the code asks for, for
//! counts of different machines can't be compared. What it does is the same on each run: nothing is drawn from the
//! operating system.
#![allow(clippy::unwrap_used, reason = "a tool of the tests")]

use std::process::ExitCode;
use std::time::Duration;

use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId};
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::reply::reply_block;
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const G: Geometry = Geometry::DEFAULT;
const EPOCH: KeyEpoch = KeyEpoch(1);
const NAMES: [&str; 6] = ["peel", "build", "reply-block", "encapsulate", "decapsulate", "wide-block"];

fn key() -> KemSecretKey {
    KemSecretKey::from_seed(&Secret::new([7; 32])).unwrap()
}

fn path(key: &KemPublicKey) -> [Hop<'_>; 4] {
    [1, 2, 3, 4].map(|n| Hop { relay: RelayId([n; 32]), key, delay: Duration::ZERO })
}

/// What libraries choose their code by.
#[cfg(target_arch = "x86_64")]
fn abilities() -> String {
    let found = [
        ("aes", is_x86_feature_detected!("aes")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("adx", is_x86_feature_detected!("adx")),
        ("vaes", is_x86_feature_detected!("vaes")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    found.into_iter().filter(|(_, has)| *has).fold("x86_64".to_owned(), |all, (name, _)| format!("{all} {name}"))
}

#[cfg(not(target_arch = "x86_64"))]
fn abilities() -> String {
    std::env::consts::ARCH.to_owned()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (name, count) = match args.as_slice() {
        [] => {
            NAMES.into_iter().for_each(|name| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        [machine] if machine == "machine" => {
            println!("{}", abilities());
            return ExitCode::SUCCESS;
        }
        [name, count] => (name.as_str(), count.parse::<usize>().unwrap()),
        _ => return ExitCode::from(2),
    };
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let (key, ring) = (key(), KeyRing::new(RelayId([1; 32]), G, vec![(EPOCH, key())]));
    let public = key.public().clone();
    // Made whatever is counted, so that the start costs the same for all.
    let built = packet(G, EPOCH, &path(&public), Last::Queue, b"content", rng).unwrap().into_bytes();
    let mut turn = Packet::from_bytes(built.clone());
    let mut payload = vec![0; G.payload_len()];
    let mut once = || match name {
        "peel" => {
            turn.as_bytes_mut().copy_from_slice(&built);
            peel(&ring, &mut turn, |_, _| true).is_ok()
        }
        "build" => packet(G, EPOCH, &path(&public), Last::Queue, b"content", rng).is_ok(),
        "reply-block" => reply_block(G, EPOCH, &path(&public), InboxId([5; 32]), rng).is_ok(),
        "encapsulate" => public.encapsulate(&Secret::random(rng)).is_ok(),
        "decapsulate" => turn.ciphertext().try_into().is_ok_and(|c| key.decapsulate(c).is_ok()),
        "wide-block" => {
            WideBlock::new(&[3; 32]).inverse(&mut payload);
            true
        }
        _ => false,
    };
    if (0..count).all(|_| once()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
