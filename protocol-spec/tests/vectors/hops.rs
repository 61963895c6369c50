//! Relays of the vectors, and what each hop derives: from public functions only, as the specification words it, and not
//! through the code that builds and peels.

use core::time::Duration;

use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::crypto::{self, context};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::onion::build::Hop;
use posta_protocol::onion::{KeyRing, Next, peel};
use posta_protocol::packet::Packet;
use posta_protocol::params::{KEM_CIPHERTEXT_LEN, PROTOCOL_VERSION};
use posta_protocol::registry::hop;
use posta_protocol::secret::Secret;
use serde_json::Value;

use crate::json::{Fields, Json, long, object};
use crate::recorder::Recorder;

/// Packets up to this length are stated at every hop, longer ones only as the first hop gets them.
const WHOLE_PACKETS: usize = 5_000;
/// Payloads up to this length are stated whole.
const WHOLE_PAYLOADS: usize = 300;

pub(crate) struct Derived {
    pub(crate) root: [u8; 32],
    pub(crate) header: [u8; 32],
    pub(crate) filler: [u8; 32],
    pub(crate) payload: [u8; 32],
    pub(crate) tag: [u8; 16],
}

impl Derived {
    pub(crate) fn new(shared: &[u8; 32], relay: &RelayId, epoch: KeyEpoch, geometry: Geometry) -> Self {
        Self::of_version(PROTOCOL_VERSION, shared, relay, epoch, geometry)
    }

    pub(crate) fn of_version(
        version: u16,
        shared: &[u8; 32],
        relay: &RelayId,
        epoch: KeyEpoch,
        geometry: Geometry,
    ) -> Self {
        let material =
            [shared.as_slice(), &relay.0, &epoch.0.to_le_bytes(), &geometry.hash().0, &version.to_le_bytes()].concat();
        let root = *crypto::derive(context::HOP, &material).expose();
        let key = |context| *crypto::derive(context, &root).expose();
        let mut tag = [0; 16];
        crypto::derive_into(context::REPLAY, &root, &mut tag);
        let (header, filler, payload) = (key(context::HEADER), key(context::FILLER), key(context::PAYLOAD));
        Self { root, header, filler, payload, tag }
    }
}

pub(crate) struct Relay {
    pub(crate) id: RelayId,
    pub(crate) seed: [u8; 32],
    pub(crate) key: KemPublicKey,
}

impl Relay {
    pub(crate) fn new(id: RelayId, seed: [u8; 32]) -> Self {
        Self { id, seed, key: secret(&seed).public().clone() }
    }

    pub(crate) fn draw(n: usize, rng: &mut Recorder) -> Vec<Self> {
        (0..n).map(|_| Self::new(RelayId(rng.array()), rng.array())).collect()
    }

    pub(crate) fn ring(&self, geometry: Geometry, epoch: KeyEpoch) -> KeyRing {
        KeyRing::new(self.id, geometry, vec![(epoch, secret(&self.seed))])
    }
}

pub(crate) fn secret(seed: &[u8; 32]) -> KemSecretKey {
    KemSecretKey::from_seed(&Secret::new(*seed)).unwrap()
}

/// A path with the delays of `delay_us`, as far as they go, then none.
pub(crate) fn path<'a>(relays: &'a [Relay], delays: &[u64]) -> Vec<Hop<'a>> {
    let delays = delays.iter().copied().chain(core::iter::repeat(0));
    let hop = |(r, us): (&'a Relay, u64)| Hop { relay: r.id, key: &r.key, delay: Duration::from_micros(us) };
    relays.iter().zip(delays).map(hop).collect()
}

/// The path as a vector states it: with what the builder drew for each hop. `draws` are those of the header: the
/// encapsulation seeds from the first hop to the last; then, from the last hop to the first, a command block's
/// bytes, and behind the last hop's the unused rest of its routing.
pub(crate) fn path_json(path: &[Hop<'_>], relays: &[Relay], draws: &[Vec<u8>]) -> (Vec<Json>, Vec<u8>) {
    assert_eq!(draws.len(), 2 * path.len() + 1);
    let (seeds, rest) = draws.split_at(path.len());
    let mut blocks = rest.to_vec();
    let unused = blocks.remove(1);
    blocks.reverse();
    let one = |i: usize| {
        object! {
            "relay": path[i].relay.0,
            "key_seed": relays[i].seed,
            "delay_us": u64::try_from(path[i].delay.as_micros()).unwrap(),
            "encapsulation_seed": seeds[i].clone(),
            "block_random": blocks[i].clone(),
        }
    };
    ((0..path.len()).map(one).collect(), unused)
}

pub(crate) fn geometry_json(geometry: Geometry) -> Json {
    object! { "hops": geometry.hops(), "payload": geometry.content_len() }
}

pub(crate) fn geometry_of(vector: &Value) -> Geometry {
    let g = vector.at("geometry");
    let length = |key| usize::try_from(g.at(key).number()).unwrap();
    Geometry::new(length("hops"), length("payload")).unwrap()
}

pub(crate) fn relays_of(vector: &Value) -> Vec<Relay> {
    let relay = |hop: &Value| Relay::new(RelayId(hop.at("relay").array()), hop.at("key_seed").array());
    vector.at("path").items().iter().map(relay).collect()
}

fn next_json(next: &Next) -> Json {
    match next {
        Next::Forward { to, delay } => {
            object! { "code": hop::FORWARD, "to": to.0, "delay_us": u64::try_from(delay.as_micros()).unwrap() }
        }
        Next::Queue => object! { "code": hop::QUEUE },
        Next::Inbox { inbox, surb } => object! { "code": hop::INBOX, "inbox": inbox.0, "surb": surb.0 },
        Next::Drop => object! { "code": hop::DROP },
    }
}

/// Takes a packet along its way. Gives what each hop gets, derives and is told, and the payload as the last one leaves it.
pub(crate) fn travel(geometry: Geometry, epoch: KeyEpoch, relays: &[Relay], packet: &mut Packet) -> (Vec<Json>, Json) {
    let mut hops = Vec::new();
    for (i, relay) in relays.iter().enumerate() {
        let ciphertext: [u8; KEM_CIPHERTEXT_LEN] = packet.ciphertext().try_into().unwrap();
        let shared = *secret(&relay.seed).decapsulate(&ciphertext).unwrap().expose();
        let derived = Derived::new(&shared, &relay.id, epoch, geometry);
        let limit = if i == 0 { usize::MAX } else { WHOLE_PACKETS };
        let arrives = long(packet.as_bytes(), limit);
        let peeled = peel(&relay.ring(geometry, epoch), packet, |at, tag| {
            assert_eq!((at, tag.0), (epoch, derived.tag), "the replay tag, derived twice");
            true
        });
        hops.push(object! {
            "packet": arrives,
            "shared_secret": shared,
            "root_key": derived.root,
            "header_key": derived.header,
            "filler_key": derived.filler,
            "payload_key": derived.payload,
            "replay_tag": derived.tag,
            "command": next_json(&peeled.unwrap().next),
        });
    }
    (hops, long(&packet.as_bytes()[geometry.header_len()..], WHOLE_PAYLOADS))
}

/// Peels a vector's packet from what the file alone says, comparing at every hop; gives the last hop's payload.
pub(crate) fn peel_from_file(vector: &Value) -> Vec<u8> {
    let (geometry, epoch) = (geometry_of(vector), KeyEpoch(vector.at("key_epoch").number()));
    let hops = vector.at("hops").items();
    let mut packet = Packet::from_bytes(hops[0].at("packet").at("bytes").bytes().into());
    for (relay, hop) in relays_of(vector).iter().zip(hops) {
        assert_long(hop.at("packet"), packet.as_bytes());
        let mut tag = None;
        let peeled = peel(&relay.ring(geometry, epoch), &mut packet, |_, t| tag.replace(t.0).is_none()).unwrap();
        assert_eq!(tag, Some(hop.at("replay_tag").array()));
        assert_eq!(&next_json(&peeled.next).value(), hop.at("command"));
    }
    packet.as_bytes()[geometry.header_len()..].to_vec()
}

/// Bytes are those that a vector describes.
pub(crate) fn assert_long(described: &Value, bytes: &[u8]) {
    let limit = if described.get("bytes").is_some() { usize::MAX } else { 0 };
    assert_eq!(&long(bytes, limit).value(), described);
}
