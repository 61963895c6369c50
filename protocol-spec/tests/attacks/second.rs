//! A second implementation of the header, written from the design and used by the tests: what a relay computes with its
//! own keys, and a builder that writes down every use of a key. It must agree with the first byte by byte.

use std::time::Duration;

use posta_protocol::codec::Writer;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::crypto::{self, context};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId, SurbId};
use posta_protocol::onion::build::Hop;
use posta_protocol::packet::Packet;
use posta_protocol::params::{COMMAND_BLOCK_LEN, KEM_CIPHERTEXT_LEN, PROTOCOL_VERSION, SLOT_LEN, TAG_LEN};
use posta_protocol::registry::hop as code;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

/// What a hop and the builder derive.
#[derive(Clone, Copy)]
pub struct Keys {
    pub header: [u8; 32],
    pub filler: [u8; 32],
    pub payload: [u8; 32],
    pub tag: [u8; 16],
}

impl Keys {
    pub fn derive(shared: &Secret<32>, relay: &RelayId, epoch: KeyEpoch, geometry: Geometry) -> Self {
        let mut material = shared.expose().to_vec();
        material.extend(relay.0);
        material.extend(epoch.0.to_le_bytes());
        material.extend(geometry.hash().0);
        material.extend(PROTOCOL_VERSION.to_le_bytes());
        let root = crypto::derive(context::HOP, &material);
        let key = |context| *crypto::derive(context, root.expose()).expose();
        let mut tag = [0; 16];
        crypto::derive_into(context::REPLAY, root.expose(), &mut tag);
        Self { header: key(context::HEADER), filler: key(context::FILLER), payload: key(context::PAYLOAD), tag }
    }

    /// The keys of the payload's wide block: rounds 1, 2 (universal hash, keyed hash), 3, 4 (the same).
    pub fn rounds(key: &[u8; 32]) -> [[u8; 32]; 6] {
        let mut flat = [0; 192];
        crypto::derive_into(context::WIDE_BLOCK, key, &mut flat);
        std::array::from_fn(|i| flat[i * 32..][..32].try_into().unwrap())
    }
}

fn aad(geometry: Geometry, ciphertext: &[u8]) -> Vec<u8> {
    [&PROTOCOL_VERSION.to_le_bytes(), geometry.hash().0.as_slice(), ciphertext].concat()
}

/// The decrypted routing of a packet, as the relay with this key reads it.
pub fn routing(
    packet: &Packet,
    geometry: Geometry,
    epoch: KeyEpoch,
    relay: &RelayId,
    secret: &KemSecretKey,
) -> (Keys, Vec<u8>) {
    let (ciphertext, rest) = packet.as_bytes().split_first_chunk::<KEM_CIPHERTEXT_LEN>().unwrap();
    let (tag, rest) = rest.split_first_chunk::<TAG_LEN>().unwrap();
    let keys = Keys::derive(&secret.decapsulate(ciphertext).unwrap(), relay, epoch, geometry);
    let mut plain = vec![0; geometry.routing_len()];
    let routing = &rest[..geometry.routing_len()];
    crypto::open_routing(&keys.header, &aad(geometry, ciphertext), routing, tag, &mut plain).unwrap();
    (keys, plain)
}

/// What a key was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// AES-256-GCM with the zero nonce over a hop's routing.
    Seal,
    /// The same keystream, by which the builder learns the filler's plaintext.
    RoutingKeystream,
    /// AES-256-GCM's keystream with the zero nonce: the bytes shifted in.
    Filler,
    /// The keyed hash of the left half of the payload, or of the right half's GMAC, in a wide block's round.
    Round,
    /// AES-256-GCM's keystream with the zero nonce over the right half of the payload, in a wide block's round.
    Stream,
    /// GMAC with the zero nonce over the right half, in a wide block's round.
    Universal,
    /// A replay tag, which is a key's sibling.
    Tag,
}

/// Every use of a key while a packet is built.
pub type Ledger = Vec<(Vec<u8>, Use)>;

/// The last command.
#[derive(Clone, Copy)]
pub enum Ends {
    Queue,
    Inbox(InboxId, SurbId),
}

fn command(path: &[Hop<'_>], i: usize, ends: Ends) -> Vec<u8> {
    let mut w = Writer::default();
    match (path.get(i + 1), ends) {
        (Some(next), _) => {
            w.u8(code::FORWARD);
            next.relay.write(&mut w);
            w.u32(micros(path[i].delay));
        }
        (None, Ends::Queue) => w.u8(code::QUEUE),
        (None, Ends::Inbox(inbox, surb)) => {
            w.u8(code::INBOX);
            inbox.write(&mut w);
            surb.write(&mut w);
        }
    }
    w.finish()
}

fn micros(delay: Duration) -> u32 {
    delay.as_micros().try_into().unwrap()
}

/// Builds a header, and the hops' payload keys, first hop first.
pub fn header(
    geometry: Geometry,
    epoch: KeyEpoch,
    path: &[Hop<'_>],
    ends: Ends,
    rng: &mut ChaCha20Rng,
    ledger: &mut Ledger,
) -> (Vec<u8>, Vec<[u8; 32]>) {
    let total = geometry.routing_len();
    let mut hops = Vec::new();
    for hop in path {
        let (ciphertext, shared) = hop.key.encapsulate(&Secret::random(rng)).unwrap();
        let keys = Keys::derive(&shared, &hop.relay, epoch, geometry);
        ledger.push((keys.tag.to_vec(), Use::Tag));
        hops.push((ciphertext, keys));
    }
    // What stands at the end of the last hop's routing, as that hop receives it.
    let mut filler = Vec::new();
    for (_, keys) in &hops[..hops.len() - 1] {
        add_routing_keystream(total, keys, &mut filler, ledger);
        let mut shifted_in = [0; SLOT_LEN];
        crypto::stream_xor(&keys.filler, &mut shifted_in);
        ledger.push((keys.filler.to_vec(), Use::Filler));
        filler.extend(shifted_in);
    }
    let mut inner: Option<(Vec<u8>, [u8; TAG_LEN], Vec<u8>)> = None;
    for (i, (ciphertext, keys)) in hops.iter().enumerate().rev() {
        let mut plain = vec![0; COMMAND_BLOCK_LEN];
        rng.fill_bytes(&mut plain);
        let command = command(path, i, ends);
        plain[..command.len()].copy_from_slice(&command);
        match &inner {
            Some((next_ciphertext, next_tag, next_routing)) => {
                plain.extend(next_tag);
                plain.extend(next_ciphertext);
                plain.extend(next_routing);
                plain.truncate(total);
            }
            None => {
                let mut unused = vec![0; total - COMMAND_BLOCK_LEN - filler.len()];
                rng.fill_bytes(&mut unused);
                plain.extend(unused);
                let mut tail = filler.clone();
                add_routing_keystream(total, keys, &mut tail, ledger);
                plain.extend(tail);
            }
        }
        let tag = crypto::seal_routing(&keys.header, &aad(geometry, ciphertext), &mut plain).unwrap();
        ledger.push((keys.header.to_vec(), Use::Seal));
        inner = Some((ciphertext.to_vec(), tag, plain));
    }
    let (ciphertext, tag, routing) = inner.unwrap();
    ([ciphertext.as_slice(), &tag, &routing].concat(), hops.iter().map(|(_, keys)| keys.payload).collect())
}

fn add_routing_keystream(total: usize, keys: &Keys, tail: &mut [u8], ledger: &mut Ledger) {
    let mut stream = vec![0; total];
    crypto::stream_xor(&keys.header, &mut stream);
    ledger.push((keys.header.to_vec(), Use::RoutingKeystream));
    let end = &stream[total - tail.len()..];
    tail.iter_mut().zip(end).for_each(|(t, s)| *t ^= s);
}

/// The wide block, forwards.
pub fn wide_block(key: &[u8; 32], block: &mut [u8], ledger: &mut Ledger) {
    let (left, right) = block.split_first_chunk_mut::<32>().unwrap();
    let [k1, u2, k2, k3, u4, k4] = Keys::rounds(key);
    for (stream, universal, round) in [(k1, u2, k2), (k3, u4, k4)] {
        let key = crypto::keyed_hash(&stream, left);
        crypto::stream_xor(&key, right);
        let hash = crypto::keyed_hash(&round, &crypto::gmac(&universal, right));
        left.iter_mut().zip(hash).for_each(|(l, h)| *l ^= h);
        let uses = [(stream, Use::Round), (key, Use::Stream), (universal, Use::Universal), (round, Use::Round)];
        ledger.extend(uses.map(|(key, what)| (key.to_vec(), what)));
    }
}
