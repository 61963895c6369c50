//! `kdf.json`.

use posta_protocol::admission::{Puzzle, QueueKind, Statement};
use posta_protocol::codec::Writer;
use posta_protocol::command::{BlobCapability, ReaderCapability, WriterCapability};
use posta_protocol::crypto::signature::{self, SignKey};
use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::crypto::{self, context};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, MessageId, QueueId, RelayId, WriterId};
use posta_protocol::secret::Secret;

use crate::files::{name, of_kind};
use crate::hops::{Derived, geometry_json, geometry_of};
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

/// Zero bits that the puzzles of the vectors ask for: found within thousands of tries.
const EFFORT: u8 = 12;

pub(crate) fn make() -> Vec<Json> {
    let mut all: Vec<Json> = context::ALL.iter().map(|(name, context)| one_context(name, context)).collect();
    all.extend([hop("a hop's keys", Geometry::DEFAULT, 7), hop("a hop's keys, another geometry", small(), 1 << 40)]);
    all.extend([33, 64, 1024 + 32, 2500].map(wide_block));
    all.extend([0, 1, 63, 1264].map(streams));
    all.extend(["first", "second"].map(capabilities));
    all.extend([(1, 1), (1, 64), (4, 16_384), (8, 65_536)].map(geometry));
    all.extend([QueueKind::Plain, QueueKind::Contact, QueueKind::Bulk].map(puzzle_create));
    all.push(puzzle_send());
    all
}

fn small() -> Geometry {
    Geometry::new(2, 64).unwrap()
}

fn one_context(constant: &str, context: &'static str) -> Json {
    let name = format!("context {constant}");
    let rng = &mut Recorder::new("kdf", &name);
    let head =
        object! { "name": name, "kind": if signs(constant) { "signature" } else { "derive" }, "context": context };
    if signs(constant) {
        let (seed, message) = (rng.array(), rng.bytes(50));
        let key = SignKey::from_seed(&Secret::new(seed));
        let signature = key.sign(context, &message);
        return head
            .with("seed", seed)
            .with("public", key.public())
            .with("message", message)
            .with("signature", signature);
    }
    let material = rng.bytes(32);
    let mut output = [0; 80];
    crypto::derive_into(context, &material, &mut output);
    assert_eq!(crypto::hash(context, &material).0, output[..32], "the hash is the first 32 bytes");
    assert_eq!(crypto::derive(context, &material).expose(), &output[..32], "and so is the key");
    head.with("material", material).with("output", output)
}

/// Contexts that go in front of a signed message instead of into BLAKE3.
fn signs(constant: &str) -> bool {
    constant.starts_with("SIGN_")
}

fn hop(name: &'static str, geometry: Geometry, epoch: u64) -> Json {
    let rng = &mut Recorder::new("kdf", name);
    let (shared, relay) = (rng.array(), RelayId(rng.array()));
    let d = Derived::new(&shared, &relay, KeyEpoch(epoch), geometry);
    object! {
        "name": name,
        "kind": "hop keys",
        "shared_secret": shared,
        "relay": relay.0,
        "key_epoch": epoch,
        "geometry": geometry_json(geometry),
        "geometry_hash": geometry.hash().0,
        "root_key": d.root,
        "header_key": d.header,
        "filler_key": d.filler,
        "payload_key": d.payload,
        "replay_tag": d.tag,
    }
}

fn wide_block(len: usize) -> Json {
    let name = format!("wide block of {len} bytes");
    let rng = &mut Recorder::new("kdf", &name);
    let (key, block) = (rng.array(), rng.bytes(len));
    let mut keys = [[0; 32]; 6];
    crypto::derive_into(context::WIDE_BLOCK, &key, keys.as_flattened_mut());
    let [k1, u2, k2, k3, u4, k4] = keys;
    let keys = object! { "k1": k1, "u2": u2, "k2": k2, "k3": k3, "u4": u4, "k4": k4 };
    let (mut forward, mut inverse) = (block.clone(), block.clone());
    WideBlock::new(&key).forward(&mut forward);
    WideBlock::new(&key).inverse(&mut inverse);
    object! {
        "name": name, "kind": "wide block", "key": key, "round_keys": keys,
        "block": block, "forward": forward, "inverse": inverse,
    }
}

fn streams(len: usize) -> Json {
    let name = format!("routing of {len} bytes");
    let rng = &mut Recorder::new("kdf", &name);
    let (key, aad, plain) = (rng.array(), rng.bytes(20), rng.bytes(len));
    let mut sealed = plain.clone();
    let tag = crypto::seal_routing(&key, &aad, &mut sealed).unwrap();
    let mut keystream = vec![0; len];
    crypto::stream_xor(&key, &mut keystream);
    let gmac = crypto::gmac(&key, &plain);
    object! {
        "name": name, "kind": "routing", "key": key, "aad": aad, "plain": plain, "sealed": sealed, "tag": tag,
        "keystream": keystream, "gmac_of_plain": gmac,
    }
}

fn capabilities(which: &str) -> Json {
    let name = format!("ids of secrets, {which}");
    let secret = Recorder::new("kdf", &name).array();
    let of = || Secret::new(secret);
    object! {
        "name": name,
        "kind": "ids",
        "secret": secret,
        "as_reader_capability": ReaderCapability::new(of()).id().0,
        "as_writer_capability": WriterCapability::new(of()).id().0,
        "as_blob_capability": BlobCapability::new(of()).id().0,
        "as_attach_secret": crypto::hash(context::INBOX, &secret).0,
    }
}

fn geometry((hops, payload): (usize, usize)) -> Json {
    let geometry = Geometry::new(hops, payload).unwrap();
    let mut w = Writer::default();
    geometry.write(&mut w);
    object! {
        "name": format!("geometry of {hops} hops and {payload} bytes"),
        "kind": "geometry",
        "geometry": geometry_json(geometry),
        "bytes": w.finish(),
        "hash": geometry.hash().0,
        "routing_len": geometry.routing_len(),
        "header_len": geometry.header_len(),
        "packet_len": geometry.packet_len(),
    }
}

fn puzzle_create(kind: QueueKind) -> Json {
    let name = format!("puzzle to make a queue of kind {}", kind.code());
    let rng = &mut Recorder::new("kdf", &name);
    let (queue, writer) = (QueueId(rng.array()), WriterId(rng.array()));
    let asked = [queue.0.as_slice(), &writer.0, &[kind.code()]].concat();
    let head = object! {
        "name": name, "kind": "puzzle", "for": "create",
        "queue": queue.0, "writer": writer.0, "queue_kind": kind.code(),
    };
    puzzle(head, context::PUZZLE_CREATE, &asked, &Statement::create(&queue, &writer, kind), rng)
}

fn puzzle_send() -> Json {
    let name = "puzzle to send to a contact queue";
    let rng = &mut Recorder::new("kdf", name);
    let (writer, message) = (WriterId(rng.array()), MessageId(rng.array()));
    let head = object! { "name": name, "kind": "puzzle", "for": "send", "writer": writer.0, "message": message.0 };
    let asked = [writer.0.as_slice(), &message.0].concat();
    puzzle(head, context::PUZZLE_SEND, &asked, &Statement::send(&writer, &message), rng)
}

fn puzzle(head: Json, context: &'static str, asked: &[u8], statement: &Statement, rng: &mut Recorder) -> Json {
    let puzzle = Puzzle { effort: EFFORT, seed: rng.array() };
    let solution = puzzle.solve(statement, 0, 1 << 20).unwrap();
    let hash = crypto::hash(context, asked).0;
    let solved = [puzzle.seed.as_slice(), &hash, &solution.nonce.to_le_bytes()].concat();
    head.with("seed", puzzle.seed)
        .with("effort", EFFORT)
        .with("statement", hash)
        .with("first_nonce", solution.nonce)
        .with("digest", crypto::hash(context::PUZZLE, &solved).0)
        .with("reached", solution.effort(statement))
}

#[test]
fn the_wide_blocks_of_the_file_hold_both_ways() {
    for vector in of_kind("kdf", "wide block") {
        let (w, block) = (WideBlock::new(&vector.at("key").array()), vector.at("block").bytes());
        let (mut there, mut back) = (vector.at("forward").bytes(), vector.at("inverse").bytes());
        w.inverse(&mut there);
        w.forward(&mut back);
        assert_eq!((&there, &back), (&block, &block));
    }
}

#[test]
fn the_routings_of_the_file_open() {
    for vector in of_kind("kdf", "routing") {
        let (key, tag) = (vector.at("key").array(), vector.at("tag").array());
        let sealed = vector.at("sealed").bytes();
        let mut plain = vec![0; sealed.len()];
        crypto::open_routing(&key, &vector.at("aad").bytes(), &sealed, &tag, &mut plain).unwrap();
        assert_eq!(plain, vector.at("plain").bytes());
    }
}

#[test]
fn the_signatures_of_the_file_are_valid_in_their_context_only() {
    let vectors = of_kind("kdf", "signature");
    for vector in &vectors {
        let (public, message) = (vector.at("public").array(), vector.at("message").bytes());
        for (constant, context) in context::ALL {
            let valid = signature::verify(&public, context, &message, &vector.at("signature").array());
            assert_eq!(valid, vector.at("context").text() == *context, "{} as {constant}", name(vector));
        }
    }
}

#[test]
fn the_puzzles_of_the_file_are_solved() {
    for vector in of_kind("kdf", "puzzle") {
        let digest = vector.at("digest").array::<32>();
        let bits = u128::from_be_bytes(*digest.first_chunk().unwrap()).leading_zeros();
        assert_eq!(u64::from(bits), vector.at("reached").number());
        assert!(vector.at("reached").number() >= vector.at("effort").number());
    }
}

#[test]
fn hop_keys_depend_on_everything_that_they_should() {
    let vector = &of_kind("kdf", "hop keys")[0];
    let (shared, relay) = (vector.at("shared_secret").array::<32>(), RelayId(vector.at("relay").array()));
    let (epoch, geometry) = (KeyEpoch(vector.at("key_epoch").number()), geometry_of(vector));
    let root = vector.at("root_key").array::<32>();
    assert_eq!(Derived::new(&shared, &relay, epoch, geometry).root, root);
    let others = [
        Derived::new(&[0; 32], &relay, epoch, geometry),
        Derived::new(&shared, &RelayId([0; 32]), epoch, geometry),
        Derived::new(&shared, &relay, epoch.next(), geometry),
        Derived::new(&shared, &relay, epoch, small()),
        Derived::of_version(2, &shared, &relay, epoch, geometry),
    ];
    assert!(others.iter().all(|d| d.root != root));
}
