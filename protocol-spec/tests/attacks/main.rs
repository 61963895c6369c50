//! The attacks on packets, each a test with its name, and the hygiene of the cryptography. By the public interface
//! only; what the tests must know of the inside they compute by themselves (`second.rs`), as an attacker would.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod chi_square;
mod debug;
mod failures;
mod key_use;
mod loops;
mod replay;
mod replier;
mod second;
mod shape;
mod sizes;
mod support;
mod tagging;
mod timing;
mod visible;
