//! Building a packet: the header from the last hop to the first, the payload the same way.

use core::time::Duration;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{HopKeys, Next, aad};
use crate::crypto::wide_block::WideBlock;
use crate::crypto::xwing::KemPublicKey;
use crate::crypto::{self};
use crate::error::Misuse;
use crate::geometry::Geometry;
use crate::ids::{InboxId, KeyEpoch, RelayId, SurbId};
use crate::packet::Packet;
use crate::params::{COMMAND_BLOCK_LEN, KEM_CIPHERTEXT_LEN, KEM_ENCAPS_SEED_LEN, PAYLOAD_CHECK_LEN, SLOT_LEN, TAG_LEN};
use crate::secret::Secret;

/// One hop of a path.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// The relay.
    pub relay: RelayId,
    /// Its mix key of the packet's key epoch.
    pub key: &'a KemPublicKey,
    /// How long it holds the packet before it passes it on; of no effect at the last hop.
    pub delay: Duration,
}

/// What the last hop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// Hand the payload to the queue service.
    Queue,
    /// Hand the payload to a client's inbox.
    Inbox(InboxId, SurbId),
    /// Drop it: a relay's own cover.
    Drop,
}

/// A header and the payload keys of its hops, first hop first.
pub(crate) struct Header {
    pub(crate) bytes: Vec<u8>,
    pub(crate) payload_keys: Vec<Secret<32>>,
}

/// Builds a packet along `path` with `content` for the last hop, padded to the geometry.
///
/// # Errors
/// [`Misuse`] if the path or the content doesn't fit the geometry, or a key isn't usable.
pub fn packet(
    geometry: Geometry,
    epoch: KeyEpoch,
    path: &[Hop<'_>],
    last: Last,
    content: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Packet, Misuse> {
    let header = header(geometry, epoch, path, last, rng)?;
    let mut payload = framed(geometry, content)?;
    for key in header.payload_keys.iter().rev() {
        WideBlock::new(key.expose()).forward(&mut payload);
    }
    let mut bytes = header.bytes;
    bytes.extend_from_slice(&payload);
    Ok(Packet::from_bytes(bytes.into_boxed_slice()))
}

/// 32 zero bytes, the content, zeros up to the geometry's length.
pub(crate) fn framed(geometry: Geometry, content: &[u8]) -> Result<Vec<u8>, Misuse> {
    if content.len() > geometry.content_len() {
        return Err(Misuse::TooLong { what: "the content", got: content.len(), max: geometry.content_len() });
    }
    let mut payload = Vec::with_capacity(geometry.payload_len());
    payload.resize(PAYLOAD_CHECK_LEN, 0);
    payload.extend_from_slice(content);
    payload.resize(geometry.payload_len(), 0);
    Ok(payload)
}

struct Layer {
    ciphertext: [u8; KEM_CIPHERTEXT_LEN],
    keys: HopKeys,
}

pub(crate) fn header(
    geometry: Geometry,
    epoch: KeyEpoch,
    path: &[Hop<'_>],
    last: Last,
    rng: &mut impl CryptoRng,
) -> Result<Header, Misuse> {
    if path.is_empty() || path.len() > geometry.hops() {
        return Err(Misuse::PathLength { got: path.len(), max: geometry.hops() });
    }
    let geometry_hash = geometry.hash();
    let mut layers = Vec::with_capacity(path.len());
    for hop in path {
        let seed = Secret::<KEM_ENCAPS_SEED_LEN>::random(rng);
        let (ciphertext, shared) = hop.key.encapsulate(&seed)?;
        layers.push(Layer { ciphertext, keys: HopKeys::derive(&shared, &hop.relay, epoch, &geometry_hash) });
    }

    let filler = filler(geometry, &layers);
    let mut inner = Inner::default();
    for (i, (layer, hop)) in layers.iter().zip(path).enumerate().rev() {
        let mut block = [0; COMMAND_BLOCK_LEN];
        rng.fill_bytes(&mut block);
        let next = match path.get(i + 1) {
            Some(after) => Next::Forward { to: after.relay, delay: hop.delay },
            None => match last {
                Last::Queue => Next::Queue,
                Last::Inbox(inbox, surb) => Next::Inbox { inbox, surb },
                Last::Drop => Next::Drop,
            },
        };
        next.encode_into(&mut block);
        let plain = match inner.routing.take() {
            Some(routing) => inner.slot(block, &routing, geometry),
            None => last_plain(geometry, block, &filler, &layer.keys, rng),
        };
        inner.seal(plain, layer, &geometry_hash)?;
    }

    let mut bytes = Vec::with_capacity(geometry.packet_len());
    bytes.extend_from_slice(&inner.ciphertext);
    bytes.extend_from_slice(&inner.tag);
    bytes.extend_from_slice(&inner.routing.unwrap_or_default());
    let payload_keys = layers.iter().map(|l| Secret::new(l.keys.payload)).collect();
    Ok(Header { bytes, payload_keys })
}

/// The header of the hop after the one being built.
struct Inner {
    ciphertext: [u8; KEM_CIPHERTEXT_LEN],
    tag: [u8; TAG_LEN],
    routing: Option<Vec<u8>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { ciphertext: [0; KEM_CIPHERTEXT_LEN], tag: [0; TAG_LEN], routing: None }
    }
}

impl Inner {
    /// A slot in front of the next routing, whose last slot's worth the hop will restore from its stream.
    fn slot(&self, block: [u8; COMMAND_BLOCK_LEN], routing: &[u8], geometry: Geometry) -> Vec<u8> {
        let mut plain = Vec::with_capacity(geometry.routing_len() + SLOT_LEN);
        plain.extend_from_slice(&block);
        plain.extend_from_slice(&self.tag);
        plain.extend_from_slice(&self.ciphertext);
        plain.extend_from_slice(routing);
        plain.truncate(geometry.routing_len());
        plain
    }

    fn seal(&mut self, mut plain: Vec<u8>, layer: &Layer, geometry: &crate::ids::Hash) -> Result<(), Misuse> {
        let aad = aad(geometry, &layer.ciphertext);
        self.tag = crypto::seal_routing(&layer.keys.header, &aad, &mut plain).map_err(|_| Misuse::Key("hop key"))?;
        self.ciphertext = layer.ciphertext;
        self.routing = Some(plain);
        Ok(())
    }
}

/// What stands at the end of the last hop's routing, seen through all the hops before: each adds a slot of its stream
/// and decrypts what was there.
fn filler(geometry: Geometry, layers: &[Layer]) -> Vec<u8> {
    let mut filler: Vec<u8> = Vec::new();
    for layer in layers.iter().take(layers.len().saturating_sub(1)) {
        xor_routing_tail(geometry, &layer.keys, &mut filler);
        let mut shifted_in = [0; SLOT_LEN];
        crypto::stream_xor(&layer.keys.filler, &mut shifted_in);
        filler.extend_from_slice(&shifted_in);
    }
    filler
}

/// The last hop's plaintext: its command, random bytes up to the filler, and whatever encrypts to the filler.
fn last_plain(
    geometry: Geometry,
    block: [u8; COMMAND_BLOCK_LEN],
    filler: &[u8],
    keys: &HopKeys,
    rng: &mut impl CryptoRng,
) -> Vec<u8> {
    let mut tail = filler.to_vec();
    xor_routing_tail(geometry, keys, &mut tail);
    let mut plain = block.to_vec();
    plain.resize(geometry.routing_len().saturating_sub(tail.len()), 0);
    if let Some(unused) = plain.get_mut(COMMAND_BLOCK_LEN..) {
        rng.fill_bytes(unused);
    }
    plain.extend_from_slice(&tail);
    plain
}

/// Adds the hop's routing keystream to bytes that stand at the end of its routing.
fn xor_routing_tail(geometry: Geometry, keys: &HopKeys, tail: &mut [u8]) {
    let mut stream = Zeroizing::new(vec![0; geometry.routing_len()]);
    crypto::stream_xor(&keys.header, &mut stream);
    let skipped = stream.len().saturating_sub(tail.len());
    for (t, s) in tail.iter_mut().zip(stream.iter().skip(skipped)) {
        *t ^= s;
    }
}
