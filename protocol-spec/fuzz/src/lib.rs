//! What is fuzzed: for every decoder of posta-protocol, and for `peel`, a function of any bytes that panics if a promise
//! is broken. `README.md` says which promises, and what was found.
//!
//! The binary beside this runs them under libFuzzer. `protocol-spec/tests/fuzz.rs` includes this file as well, so that
//! `make test` compiles every target and replays the seeds and all regressions without a fuzzer.

use std::sync::OnceLock;

pub mod control;
mod diffs;
mod documents;
mod invitations;
mod later;
mod links;
mod mutated;
mod onion;
mod parts;
mod queues;
mod sealing;
mod signed;

/// A function to fuzz.
pub struct Target {
    /// Its name, and that of its folders of seeds and regressions.
    pub name: &'static str,
    /// The longest input worth making: what the decoder takes, or enough to reach all of it.
    pub max_len: usize,
    /// Panics if the input breaks a promise.
    pub run: fn(&[u8]),
    /// Inputs made from the public API, from which the fuzzer starts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "geometry", max_len: 16, run: queues::geometry, seeds: queues::geometry_seeds },
    Target { name: "command", max_len: 16 * 1024, run: queues::command, seeds: queues::command_seeds },
    Target { name: "answer", max_len: 16 * 1024, run: queues::answer, seeds: queues::answer_seeds },
    Target { name: "admission", max_len: 128, run: queues::admission, seeds: queues::admission_seeds },
    Target { name: "frame", max_len: 4096, run: links::frame, seeds: links::frame_seeds },
    Target { name: "certificate", max_len: 256, run: documents::certificate, seeds: documents::certificate_seeds },
    Target { name: "signature", max_len: 512, run: documents::signature, seeds: documents::signature_seeds },
    Target { name: "mix_keys", max_len: 8 * 1024, run: documents::mix_keys, seeds: documents::mix_keys_seeds },
    Target { name: "request", max_len: 8 * 1024, run: documents::request, seeds: documents::request_seeds },
    Target { name: "reply", max_len: 8 * 1024, run: documents::reply, seeds: documents::reply_seeds },
    Target { name: "authorities", max_len: 64, run: documents::authorities, seeds: documents::authorities_seeds },
    Target { name: "descriptor", max_len: 9 * 1024, run: signed::descriptor, seeds: signed::descriptor_seeds },
    Target { name: "vote", max_len: 8 * 1024, run: signed::vote, seeds: signed::vote_seeds },
    Target { name: "echo", max_len: 4 * 1024, run: signed::echo, seeds: signed::echo_seeds },
    Target { name: "withdrawal", max_len: 512, run: later::withdrawal, seeds: later::withdrawal_seeds },
    Target { name: "proposal", max_len: 8 * 1024, run: later::proposal, seeds: later::proposal_seeds },
    Target { name: "evidence", max_len: 8 * 1024, run: later::evidence, seeds: later::evidence_seeds },
    Target { name: "round_report", max_len: 4 * 1024, run: later::round_report, seeds: later::round_report_seeds },
    Target { name: "consensus", max_len: 16 * 1024, run: signed::consensus, seeds: signed::consensus_seeds },
    Target {
        name: "consensus_diff",
        max_len: 8 * 1024,
        run: diffs::consensus_diff,
        seeds: diffs::consensus_diff_seeds,
    },
    Target { name: "packed_diff", max_len: 4 * 1024, run: diffs::packed_diff, seeds: diffs::packed_diff_seeds },
    Target { name: "mix_keys_diff", max_len: 8 * 1024, run: diffs::mix_keys_diff, seeds: diffs::mix_keys_diff_seeds },
    Target { name: "parameters", max_len: 4 * 1024, run: parts::parameters, seeds: parts::parameters_seeds },
    Target { name: "extensions", max_len: 8 * 1024, run: parts::extensions, seeds: parts::extensions_seeds },
    Target { name: "addresses", max_len: 256, run: parts::addresses, seeds: parts::addresses_seeds },
    Target { name: "link", max_len: 256, run: invitations::link, seeds: invitations::link_seeds },
    Target { name: "offer", max_len: 9 * 1024, run: invitations::offer, seeds: invitations::offer_seeds },
    Target { name: "content", max_len: 12 * 1024, run: sealing::content, seeds: sealing::content_seeds },
    Target { name: "inner", max_len: 12 * 1024, run: sealing::inner, seeds: sealing::inner_seeds },
    Target { name: "sealed_box", max_len: 12 * 1024, run: sealing::sealed_box, seeds: sealing::sealed_box_seeds },
    Target { name: "kem", max_len: 1216, run: onion::kem, seeds: onion::kem_seeds },
    Target { name: "reply_block", max_len: 8 * 1024, run: onion::reply_block, seeds: onion::reply_block_seeds },
    Target { name: "peel", max_len: 4 * 1024, run: onion::peel_anything, seeds: onion::peel_seeds },
    Target { name: "routing", max_len: 2 * 1024, run: onion::routing, seeds: onion::routing_seeds },
    Target { name: "mutated", max_len: 512, run: mutated::packet, seeds: mutated::packet_seeds },
];

/// Files of posta-protocol that take bytes from somebody else, each with the targets that reach it. A test compares this
/// with the source, so that no decoder comes without a target.
pub const COVERS: &[(&str, &[&str])] = &[
    ("admission.rs", &["admission", "command", "answer"]),
    ("answer.rs", &["answer"]),
    ("command.rs", &["command"]),
    ("crypto.rs", &["sealed_box", "offer", "routing"]),
    ("crypto/signature.rs", &["descriptor", "consensus"]),
    ("crypto/xwing.rs", &["kem", "peel"]),
    ("document/address.rs", &["addresses", "descriptor"]),
    ("document/certificate.rs", &["certificate"]),
    ("document/class.rs", &["consensus", "vote"]),
    ("document/consensus.rs", &["consensus"]),
    ("document/descriptor.rs", &["descriptor"]),
    ("document/diff.rs", &["consensus_diff", "packed_diff"]),
    ("document/diff/mix_keys.rs", &["mix_keys_diff"]),
    ("document/evidence.rs", &["evidence"]),
    ("document/extensions.rs", &["extensions"]),
    ("document/family.rs", &["descriptor"]),
    ("document/header.rs", &["signature", "consensus", "vote"]),
    ("document/mix_keys.rs", &["mix_keys"]),
    ("document/parameters.rs", &["parameters"]),
    ("document/proposal.rs", &["proposal"]),
    ("document/protocols.rs", &["descriptor", "consensus"]),
    ("document/request.rs", &["request", "reply"]),
    ("document/round.rs", &["round_report"]),
    ("document/role.rs", &["consensus", "descriptor"]),
    ("document/randomness.rs", &["vote", "consensus"]),
    ("document/vote.rs", &["vote", "echo"]),
    ("document/withdrawal.rs", &["withdrawal"]),
    ("end_to_end.rs", &["content", "sealed_box"]),
    ("end_to_end/inner.rs", &["inner"]),
    ("frame.rs", &["frame"]),
    ("geometry.rs", &["geometry"]),
    ("ids.rs", &["command", "descriptor"]),
    ("invitation.rs", &["link", "offer"]),
    ("onion.rs", &["peel", "routing", "mutated"]),
    ("onion/reply.rs", &["reply_block", "mutated"]),
    ("secret.rs", &["command", "content"]),
];

/// Bytes allocated so far. The fuzzing binary sets it; without it, what decoders allocate isn't checked.
pub static ALLOCATED: OnceLock<fn() -> usize> = OnceLock::new();

/// What a decoder may allocate whatever its input: lists with a small bound that are made at once.
pub const ALLOCATION_FIXED: usize = 16 * 1024;
/// What a decoder may allocate for each byte of its input: a relay's entry is largest, in memory against on the wire.
pub const ALLOCATION_PER_BYTE: usize = 8;

/// Runs a decoder on an input of `len` bytes and checks that it allocates no more than is stated.
fn bounded<T>(len: usize, decode: impl FnOnce() -> T) -> T {
    let Some(allocated) = ALLOCATED.get() else { return decode() };
    let before = allocated();
    let value = decode();
    let used = allocated() - before;
    let allowed = ALLOCATION_FIXED + ALLOCATION_PER_BYTE * len;
    assert!(used <= allowed, "{used} bytes allocated for {len} bytes of input, {allowed} are allowed");
    value
}

/// Checks that what was decoded from `input` has that as its one encoding.
fn same(input: &[u8], encoded: &[u8], what: &str) {
    assert!(input == encoded, "{what}: {} bytes were accepted, but encode to {} others", input.len(), encoded.len());
}

/// `input` with zeros behind it, or its front, to be exactly `len` bytes.
fn fitted(input: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.resize(len, 0);
    bytes
}
