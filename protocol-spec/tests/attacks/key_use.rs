//! No pair of key and nonce is used twice, but for the builder's filler keystream, which the specification argues.
//!
//! Every nonce of a packet is zero, so it must be the keys that differ. A builder that writes down every use of a key
//! (`second.rs`) makes byte for byte the packets of the real one, so what it writes down is what the real one does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::{context, local};
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::params::PAYLOAD_CHECK_LEN;
use rand_core::Rng;

use super::second::{Ends, Ledger, Use, header, wide_block};
use super::support::*;

/// Builds packets and replies both ways, and returns what the keys were used for.
fn ledger(packets: u64) -> Ledger {
    let g = small();
    let relays = relays(4, g, &mut rng(1));
    let mut ledger = Ledger::new();
    for seed in 0..packets {
        let hops = 1 + seed as usize % 4;
        let path = path(&relays[..hops]);
        let (mut ours, mut second) = (rng(100 + seed), rng(100 + seed));
        let content = [seed as u8; 64];
        let mut payload = [[0; PAYLOAD_CHECK_LEN].as_slice(), &content].concat();
        let (real, second) = if seed / 4 % 2 == 0 {
            let packet = forward(g, &relays[..hops], &content, &mut ours);
            let (bytes, keys) = header(g, EPOCH, &path, Ends::Queue, &mut second, &mut ledger);
            keys.iter().rev().for_each(|key| wide_block(key, &mut payload, &mut ledger));
            (packet, bytes)
        } else {
            let (block, keys) = reply(g, &relays[..hops], &mut ours);
            let mut surb = keys.surb;
            second.fill_bytes(&mut surb.0);
            let (bytes, _) = header(g, EPOCH, &path, Ends::Inbox(INBOX, surb), &mut second, &mut ledger);
            let (end_key, block) = end_key(&block);
            wide_block(&end_key, &mut payload, &mut ledger);
            (block.reply(g, &content).unwrap().1, bytes)
        };
        assert!(real == with_payload(&second, &payload), "the two builders differ, seed {seed}");
    }
    ledger
}

/// The end key as the replier reads it, and the block again.
fn end_key(block: &ReplyBlock) -> ([u8; 32], ReplyBlock) {
    let mut w = Writer::default();
    block.write(&mut w);
    let bytes = w.finish();
    let key = bytes[40..72].try_into().unwrap();
    (key, ReplyBlock::read(&mut Reader::new(&bytes), small()).unwrap())
}

/// Keys used more than once, and for what.
fn reused(ledger: &Ledger) -> Vec<Vec<Use>> {
    let mut uses: BTreeMap<&[u8], Vec<Use>> = BTreeMap::new();
    for (key, what) in ledger {
        uses.entry(key).or_default().push(*what);
    }
    uses.into_values().filter(|uses| uses.len() > 1).collect()
}

#[test]
fn no_key_is_used_twice_but_for_the_filler_keystream() {
    let ledger = ledger(120);
    let mut reuses = reused(&ledger);
    reuses.iter_mut().for_each(|uses| uses.sort());
    // Each hop's header key, once more: the builder asks which plaintext becomes the filler's ciphertext. It adds the
    // keystream to bytes that the packet then carries encrypted under the same stream: one message, one ciphertext.
    assert!(reuses.iter().all(|uses| *uses == [Use::Seal, Use::RoutingKeystream]), "{reuses:?}");
    let hops = ledger.iter().filter(|(_, what)| *what == Use::Seal).count();
    assert_eq!(reuses.len(), hops);
    // 120 packets of 1 to 4 hops, 2.5 on average; all but the last hop of each shift a slot in.
    assert_eq!(hops, 300);
    assert_eq!(ledger.iter().filter(|(_, what)| *what == Use::Filler).count(), 300 - 120);
}

#[test]
fn a_key_used_twice_would_be_noticed() {
    let mut leaky = ledger(8);
    let again = leaky.iter().find(|(_, what)| *what == Use::Stream).unwrap().clone();
    leaky.push(again);
    assert!(reused(&leaky).contains(&vec![Use::Stream, Use::Stream]));
    // A filler under the header's key, as in a design without a key for each purpose.
    let header_key = leaky.iter().find(|(_, what)| *what == Use::Seal).unwrap().0.clone();
    leaky.push((header_key, Use::Filler));
    assert!(reused(&leaky).iter().any(|uses| uses.contains(&Use::Filler) && uses.contains(&Use::Seal)));
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Strings of the protocol's domain separation in a source text.
fn context_strings(text: &str) -> Vec<&str> {
    text.split("\"posta v1 ").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn domain_separation_strings_are_distinct_and_stand_in_one_place() {
    let all = context::ALL.len() + local::ALL.len();
    let strings: BTreeSet<_> = context::ALL.iter().chain(local::ALL).map(|(_, s)| *s).collect();
    assert_eq!(strings.len(), all);
    // A zero byte ends a signature's string, so none may hold one.
    assert!(strings.iter().all(|s| s.starts_with("posta v1 ") && !s.contains('\0')));

    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for crate_ in ["protocol-spec", "protocol-spec/link", "node", "node/store", "directory", "client-sdk"] {
        sources(&root.join(crate_).join("src"), &mut files);
    }
    assert!(files.len() > 100);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let here = context_strings(&text).len();
        let expected = if file.ends_with("protocol-spec/src/crypto.rs") { all } else { 0 };
        assert_eq!(here, expected, "{}: domain-separation strings belong into crypto.rs", file.display());
    }
    assert_eq!(context_strings("derive(\"posta v1 hidden\", x)"), ["hidden"]);
}
