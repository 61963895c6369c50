//! Packets that a hop drops: one answer for all of them.

use posta_protocol::crypto;
use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::onion::build::{Last, packet};
use posta_protocol::onion::peel;
use posta_protocol::packet::Packet;
use posta_protocol::params::{KEM_CIPHERTEXT_LEN, MAX_HOP_DELAY, PAYLOAD_CHECK_LEN, PROTOCOL_VERSION, SLOT_LEN};
use posta_protocol::registry::hop;
use posta_protocol::secret::Secret;

use super::{REFUSED, flip, put, with};
use crate::hops::{Derived, Relay, geometry_json, path, secret};
use crate::json::{Json, object};
use crate::recorder::Recorder;

const EPOCH: KeyEpoch = KeyEpoch(41);
/// Where X25519's part of the ciphertext, the tag, the routing begin.
const X25519_AT: usize = KEM_CIPHERTEXT_LEN - 32;
const TAG_AT: usize = KEM_CIPHERTEXT_LEN;
const ROUTING_AT: usize = TAG_AT + 16;

pub(super) fn make() -> Vec<Json> {
    let rng = &mut Recorder::new("refused", "packets");
    let g = Geometry::new(2, 64).unwrap();
    let relays = Relay::draw(2, rng);
    let good = packet(g, EPOCH, &path(&relays, &[5]), Last::Queue, b"content", rng).unwrap().into_bytes();
    let first = &relays[0];
    let drop = |what, bytes: &[u8]| refused(what, g, first, &[], bytes);
    let mut all = vec![
        drop("a bit of ML-KEM's ciphertext", &flip(&good, 100)),
        drop("a bit of X25519's ciphertext", &flip(&good, X25519_AT + 3)),
        drop("X25519 contributes nothing", &put(&good, X25519_AT, &[0; 32])),
        drop("a bit of the tag", &flip(&good, TAG_AT)),
        drop("the first bit of the routing", &flip(&good, ROUTING_AT)),
        drop("the last bit of the routing", &flip(&good, g.header_len() - 1)),
        drop("a packet for another relay", &onward(g, first, &good)),
        drop("one byte too few", &good[..good.len() - 1]),
        drop("one byte too many", &super::more(&good)),
        drop("nothing", &[]),
    ];
    all.push(refused("a replay", g, first, &[tag_of(g, first, &good)], &good));
    let stranger = Relay::new(RelayId(rng.array()), first.seed);
    all.push(refused("the right key under another relay's identity", g, &stranger, &[], &good));
    all.push(of_ring("a key of another key epoch", g, first, &[(EPOCH.next(), first.seed)], &[], &good));
    // A geometry of one hop and as much more payload has packets of the same length.
    let longer = Geometry::new(1, 64 + SLOT_LEN).unwrap();
    assert_eq!(longer.packet_len(), g.packet_len());
    all.push(refused("another geometry of the same length", longer, first, &[], &good));
    all.extend(payloads(g, &relays, &good));
    all.extend(forged(rng));
    all
}

/// A payload that was garbled on its way: the first hop can't tell, the last one refuses.
fn payloads(g: Geometry, relays: &[Relay], good: &[u8]) -> Vec<Json> {
    let one = |(what, at)| refused(what, g, &relays[1], &[], &onward(g, &relays[0], &flip(good, at)));
    [
        ("the first bit of the payload, flipped before the hop before", g.header_len()),
        ("the last bit of the payload, flipped before the hop before", g.packet_len() - 1),
    ]
    .map(one)
    .into()
}

/// What this hop passes on.
fn onward(g: Geometry, relay: &Relay, bytes: &[u8]) -> Vec<u8> {
    let mut p = Packet::from_bytes(bytes.into());
    peel(&relay.ring(g, EPOCH), &mut p, |_, _| true).unwrap();
    p.into_bytes().into()
}

fn tag_of(g: Geometry, relay: &Relay, bytes: &[u8]) -> [u8; 16] {
    let ciphertext = bytes[..KEM_CIPHERTEXT_LEN].try_into().unwrap();
    let shared = *secret(&relay.seed).decapsulate(&ciphertext).unwrap().expose();
    Derived::new(&shared, &relay.id, EPOCH, g).tag
}

fn refused(what: &str, g: Geometry, relay: &Relay, seen: &[[u8; 16]], bytes: &[u8]) -> Json {
    of_ring(what, g, relay, &[(EPOCH, relay.seed)], seen, bytes)
}

fn of_ring(
    what: &str,
    g: Geometry,
    relay: &Relay,
    keys: &[(KeyEpoch, [u8; 32])],
    seen: &[[u8; 16]],
    bytes: &[u8],
) -> Json {
    let key = |(epoch, seed): &(KeyEpoch, [u8; 32])| object! { "key_epoch": epoch.0, "key_seed": *seed };
    let input = object! {
        "geometry": geometry_json(g),
        "relay": relay.id.0,
        "keys": keys.iter().map(key).collect::<Vec<_>>(),
        "seen": seen.iter().map(|tag| Json::from(*tag)).collect::<Vec<_>>(),
        "bytes": bytes,
    };
    with("packet", what, REFUSED, input)
}

/// Packets that only someone who breaks the rules builds: their headers are authentic.
fn forged(rng: &mut Recorder) -> Vec<Json> {
    let (one, two) = (Geometry::new(1, 64).unwrap(), Geometry::new(2, 64).unwrap());
    let relay = &Relay::draw(1, rng)[0];
    let mut forge = |g: Geometry, version, start: &[u8], front: u8| {
        let mut routing = rng.bytes(g.routing_len());
        routing[..start.len()].copy_from_slice(start);
        (g, sealed(g, relay, version, routing, front, rng.array()))
    };
    let forward = |us: u128| [&[hop::FORWARD], [7; 32].as_slice(), &u32::try_from(us).unwrap().to_le_bytes()].concat();
    let slowest = MAX_HOP_DELAY.as_micros();
    // Well made, forged packets are taken: what follows is refused for what is wrong with it alone.
    for (g, start) in [(one, vec![hop::QUEUE]), (two, vec![hop::DROP]), (two, forward(slowest))] {
        onward(g, relay, &forge(g, PROTOCOL_VERSION, &start, 0).1);
    }
    [
        ("an authentic command 0", forge(two, PROTOCOL_VERSION, &[0], 0)),
        ("an authentic command 5", forge(two, PROTOCOL_VERSION, &[5], 0)),
        ("an authentic command 255", forge(two, PROTOCOL_VERSION, &[255], 0)),
        ("a delay above the longest", forge(two, PROTOCOL_VERSION, &forward(slowest + 1), 0)),
        ("to be forwarded from the only hop", forge(one, PROTOCOL_VERSION, &forward(slowest), 0)),
        ("made for another protocol version", forge(one, PROTOCOL_VERSION + 1, &[hop::QUEUE], 0)),
        ("a front that is not zero, at the queue service", forge(one, PROTOCOL_VERSION, &[hop::QUEUE], 1)),
    ]
    .map(|(what, (g, bytes))| refused(what, g, relay, &[], &bytes))
    .into()
}

/// A packet for one hop as the specification puts it together, from public functions. `front` is the last of the 32
/// bytes that must be zero.
fn sealed(g: Geometry, relay: &Relay, version: u16, mut routing: Vec<u8>, front: u8, seed: [u8; 64]) -> Vec<u8> {
    let (ciphertext, shared) = relay.key.encapsulate(&Secret::new(seed)).unwrap();
    let keys = Derived::of_version(version, shared.expose(), &relay.id, EPOCH, g);
    let aad = [version.to_le_bytes().as_slice(), &g.hash().0, &ciphertext].concat();
    let tag = crypto::seal_routing(&keys.header, &aad, &mut routing).unwrap();
    let mut payload = vec![0; g.payload_len()];
    payload[PAYLOAD_CHECK_LEN - 1] = front;
    WideBlock::new(&keys.payload).forward(&mut payload);
    [ciphertext.as_slice(), &tag, &routing, &payload].concat()
}
