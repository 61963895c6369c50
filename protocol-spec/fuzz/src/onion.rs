//! Peeling, with a fixed key ring: of any bytes, and of headers that are authentic whatever they say.

use core::time::Duration;
use std::sync::OnceLock;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::crypto::{self, context};
use posta_protocol::error::Refused;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId, SurbId};
use posta_protocol::onion::build::Hop;
use posta_protocol::onion::reply::{ReplyBlock, ReplyKeys, reply_block as make_block};
use posta_protocol::onion::{KeyRing, Next, Peeled, ReplayTag, peel};
use posta_protocol::packet::Packet;
use posta_protocol::params::{
    COMMAND_BLOCK_LEN, KEM_CIPHERTEXT_LEN, KEM_PUBLIC_KEY_LEN, MAX_HOP_DELAY, PAYLOAD_CHECK_LEN, PROTOCOL_VERSION,
    SLOT_LEN, TAG_LEN,
};
use posta_protocol::registry::hop;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{bounded, fitted, same};

pub(crate) const EPOCH: KeyEpoch = KeyEpoch(7);

pub(crate) fn geometry(hops: usize, payload: usize) -> Geometry {
    Geometry::new(hops, payload).expect("within its bounds")
}

pub(crate) fn secret_key(n: u8) -> KemSecretKey {
    KemSecretKey::from_seed(&Secret::new([n; 32])).expect("any seed will do")
}

pub(crate) fn public_key(n: u8) -> KemPublicKey {
    secret_key(n).public().clone()
}

pub(crate) fn relay(n: u8) -> RelayId {
    RelayId([n; 32])
}

/// A reply block along as many relays as the geometry has hops, and its keys; always the same.
pub(crate) fn block(geometry: Geometry) -> (ReplyBlock, ReplyKeys) {
    let keys: Vec<_> = (1..=geometry.hops() as u8).map(|n| (relay(n), public_key(n))).collect();
    let path: Vec<_> = keys.iter().map(|(relay, key)| Hop { relay: *relay, key, delay: Duration::ZERO }).collect();
    make_block(geometry, EPOCH, &path, InboxId([9; 32]), &mut ChaCha20Rng::seed_from_u64(1)).expect("the path fits")
}

/// Mix keys and ciphertexts, whatever their bytes.
pub(crate) fn kem(input: &[u8]) {
    static OURS: OnceLock<KemSecretKey> = OnceLock::new();
    let ours = OURS.get_or_init(|| secret_key(1));
    let bytes: [u8; KEM_PUBLIC_KEY_LEN] = fitted(input, KEM_PUBLIC_KEY_LEN).try_into().expect("fitted");
    let mut r = Reader::new(&bytes);
    if let Ok(key) = bounded(bytes.len(), || KemPublicKey::read(&mut r)) {
        same(&bytes, key.as_bytes(), "mix key");
        let _ = key.encapsulate(&Secret::new([3; 64]));
    }
    let ciphertext: [u8; KEM_CIPHERTEXT_LEN] = fitted(input, KEM_CIPHERTEXT_LEN).try_into().expect("fitted");
    let _ = bounded(ciphertext.len(), || ours.decapsulate(&ciphertext));
}

pub(crate) fn kem_seeds() -> Vec<Vec<u8>> {
    let (ciphertext, _) = public_key(1).encapsulate(&Secret::new([3; 64])).expect("a usable key");
    let mut small_order = ciphertext.to_vec();
    small_order[KEM_CIPHERTEXT_LEN - 32..].fill(0);
    vec![public_key(2).as_bytes().to_vec(), ciphertext.into(), small_order, vec![]]
}

pub(crate) fn reply_block(input: &[u8]) {
    for g in [geometry(1, 64), geometry(4, 64)] {
        let mut r = Reader::new(input);
        let Ok(block) = bounded(input.len(), || ReplyBlock::read(&mut r, g)) else { continue };
        let used = input.len() - r.left();
        assert_eq!(used, ReplyBlock::encoded_len(g));
        let mut w = Writer::default();
        block.write(&mut w);
        same(&input[..used], &w.finish(), "reply block");
        let (first, packet) = block.reply(g, &input[..64]).expect("the content fits");
        assert_eq!(first.0, input[..32]);
        assert_eq!(packet.as_bytes().len(), g.packet_len());
    }
}

pub(crate) fn reply_block_seeds() -> Vec<Vec<u8>> {
    [geometry(1, 64), geometry(4, 64)]
        .map(|g| {
            let mut w = Writer::default();
            block(g).0.write(&mut w);
            w.finish()
        })
        .into()
}

/// Peels what can't be authentic: nothing is accepted, nothing is touched, no replay tag is spent.
pub(crate) fn peel_anything(input: &[u8]) {
    static RING: OnceLock<KeyRing> = OnceLock::new();
    let g = geometry(2, 64);
    let ring =
        RING.get_or_init(|| KeyRing::new(relay(1), g, vec![(EPOCH, secret_key(1)), (EPOCH.next(), secret_key(2))]));
    for bytes in [input.to_vec(), fitted(input, g.packet_len())] {
        let mut packet = Packet::from_bytes(bytes.clone().into());
        let result = bounded(bytes.len(), || peel(ring, &mut packet, |_, _| panic!("a replay tag was spent")));
        assert_eq!(result, Err(Refused));
        same(&bytes, packet.as_bytes(), "a refused packet");
    }
}

/// Headers for another relay, another epoch, another geometry: as near as an attacker gets.
pub(crate) fn peel_seeds() -> Vec<Vec<u8>> {
    let g = geometry(2, 64);
    let mut seeds: Vec<_> =
        [g, geometry(1, 64)].map(|g| block(g).0.reply(g, b"x").expect("fits").1.as_bytes().to_vec()).into();
    let (ciphertext, _) = public_key(1).encapsulate(&Secret::new([3; 64])).expect("a usable key");
    // Made for this very relay and key, but of the epoch before it.
    seeds[0].splice(..KEM_CIPHERTEXT_LEN, ciphertext);
    seeds.push(vec![0; g.packet_len()]);
    seeds
}

/// A hop that anyone can address: its ring, a ciphertext for it, and the keys that follow from both.
struct Open {
    geometry: Geometry,
    ring: KeyRing,
    ciphertext: [u8; KEM_CIPHERTEXT_LEN],
    root: Secret<32>,
}

impl Open {
    fn new(geometry: Geometry) -> Self {
        let secret = secret_key(1);
        let (ciphertext, shared) = secret.public().encapsulate(&Secret::new([4; 64])).expect("a usable key");
        let material = [
            shared.expose().as_slice(),
            &relay(1).0,
            &EPOCH.0.to_le_bytes(),
            &geometry.hash().0,
            &PROTOCOL_VERSION.to_le_bytes(),
        ]
        .concat();
        let root = crypto::derive(context::HOP, &material);
        Self { geometry, ring: KeyRing::new(relay(1), geometry, vec![(EPOCH, secret)]), ciphertext, root }
    }

    fn key<const N: usize>(&self, purpose: &'static str) -> [u8; N] {
        let mut key = [0; N];
        crypto::derive_into(purpose, self.root.expose(), &mut key);
        key
    }

    /// The packet whose routing and payload are these once a layer is off.
    fn packet(&self, routing: &[u8], payload: &[u8]) -> Packet {
        let (mut routing, mut payload) = (routing.to_vec(), payload.to_vec());
        let aad = [&PROTOCOL_VERSION.to_le_bytes(), self.geometry.hash().0.as_slice(), &self.ciphertext].concat();
        let tag = crypto::seal_routing(&self.key(context::HEADER), &aad, &mut routing).expect("sealing doesn't fail");
        WideBlock::new(&self.key(context::PAYLOAD)).forward(&mut payload);
        Packet::from_bytes([self.ciphertext.as_slice(), &tag, &routing, &payload].concat().into())
    }
}

/// What must come of an authentic routing.
fn expected(g: Geometry, routing: &[u8], payload: &[u8]) -> Option<Next> {
    let mut r = Reader::new(&routing[1..COMMAND_BLOCK_LEN]);
    match routing[0] {
        hop::FORWARD => {
            let to = RelayId::read(&mut r).ok()?;
            let delay = Duration::from_micros(r.u32("delay").ok()?.into());
            (g.hops() > 1 && delay <= MAX_HOP_DELAY).then_some(Next::Forward { to, delay })
        }
        hop::QUEUE => payload[..PAYLOAD_CHECK_LEN].iter().all(|b| *b == 0).then_some(Next::Queue),
        hop::INBOX => Some(Next::Inbox { inbox: InboxId::read(&mut r).ok()?, surb: SurbId::read(&mut r).ok()? }),
        hop::DROP => Some(Next::Drop),
        _ => None,
    }
}

/// Routing and payload of the input's choice behind an authentic header: what a malicious sender can make a hop read.
/// It must do exactly what a second reading of the specification says.
pub(crate) fn routing(input: &[u8]) {
    static OPEN: OnceLock<[Open; 2]> = OnceLock::new();
    for open in OPEN.get_or_init(|| [Open::new(geometry(1, 64)), Open::new(geometry(2, 64))]) {
        let g = open.geometry;
        let plain = fitted(input, g.routing_len() + g.payload_len());
        let (routing, payload) = plain.split_at(g.routing_len());
        let honest = open.packet(routing, payload);

        let mut packet = honest.clone();
        assert_eq!(peel(&open.ring, &mut packet, |_, _| false), Err(Refused), "a replay");
        same(honest.as_bytes(), packet.as_bytes(), "a replayed packet");

        let mut asked = Vec::new();
        let result = peel(&open.ring, &mut packet, |epoch, tag| {
            asked.push((epoch, *tag));
            true
        });
        assert_eq!(asked, [(EPOCH, ReplayTag(open.key(context::REPLAY)))], "one tag, spent once");
        let next = expected(g, routing, payload);
        assert_eq!(result.ok(), next.map(|next| Peeled { key_epoch: EPOCH, next }));
        assert_eq!(packet.as_bytes().len(), g.packet_len());
        if next.is_some() {
            let (header, rest) = packet.as_bytes().split_at(g.header_len());
            same(payload, rest, "the payload of a peeled packet");
            if let Some(Next::Forward { .. }) = next {
                let shifted = peeled_header(open, routing);
                same(&shifted, header, "the header for the next hop");
            }
        }
    }
}

fn peeled_header(open: &Open, routing: &[u8]) -> Vec<u8> {
    let (slot, rest) = routing.split_at(SLOT_LEN);
    let (tag, ciphertext) = slot[COMMAND_BLOCK_LEN..].split_at(TAG_LEN);
    let mut filler = [0; SLOT_LEN];
    crypto::stream_xor(&open.key(context::FILLER), &mut filler);
    [ciphertext, tag, rest, &filler].concat()
}

pub(crate) fn routing_seeds() -> Vec<Vec<u8>> {
    let seed = |code: u8, operands: &[u8]| [&[code], operands].concat();
    let forward = |micros: u32| [[5; 32].as_slice(), &micros.to_le_bytes()].concat();
    let long = [seed(hop::FORWARD, &forward(1)), vec![3; 1400]].concat();
    vec![
        seed(hop::FORWARD, &forward(0)),
        seed(hop::FORWARD, &forward(600_000_000)),
        seed(hop::FORWARD, &forward(600_000_001)),
        seed(hop::QUEUE, &[]),
        seed(hop::INBOX, &[6; 48]),
        seed(hop::DROP, &[7; 63]),
        seed(9, &[]),
        long,
    ]
}
