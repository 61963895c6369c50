//! Peeling a layer off a packet, in place. Building packets and reply blocks: [`build`], [`reply`].
//!
//! A hop decapsulates, opens its routing, checks the replay tag, and applies the inverse payload permutation, always
//! and in this order. Nothing in what it sees tells its position or whether the packet is a reply (KEM-Sphinx; payload
//! handling as in DESIGN section 4).

use core::fmt;
use core::time::Duration;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::codec::{Reader, Writer};
use crate::crypto::wide_block::WideBlock;
use crate::crypto::xwing::KemSecretKey;
use crate::crypto::{self, context};
use crate::error::{Malformed, Refused};
use crate::geometry::Geometry;
use crate::ids::{Hash, InboxId, KeyEpoch, RelayId, SurbId};
use crate::packet::{Packet, Parts};
use crate::params::{
    COMMAND_BLOCK_LEN, KEM_CIPHERTEXT_LEN, MAX_HOP_DELAY, MAX_HOPS, PAYLOAD_CHECK_LEN, PROTOCOL_VERSION, SLOT_LEN,
    TAG_LEN,
};
use crate::registry::hop as code;
use crate::secret::Secret;

pub mod build;
pub mod reply;
pub mod sealing;

#[cfg(test)]
mod tests;

/// Routing of the longest geometry.
const MAX_ROUTING_LEN: usize = (MAX_HOPS - 1) * SLOT_LEN + COMMAND_BLOCK_LEN;
/// Version, geometry hash and ciphertext: what a hop's tag also covers.
const AAD_LEN: usize = 2 + 32 + KEM_CIPHERTEXT_LEN;

/// Shared secret, relay, key epoch, geometry hash and version: what a hop's keys come from.
const HOP_MATERIAL_LEN: usize = 32 + RelayId::LEN + 8 + Hash::LEN + 2;

/// What a hop is told to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Pass it on after a delay.
    Forward {
        /// The next relay.
        to: RelayId,
        /// How long to hold it; microseconds on the wire.
        delay: Duration,
    },
    /// The payload, its 32 zero bytes checked, is for the queue service of this relay.
    Queue,
    /// The payload is for a client at this relay, who knows the reply by its number.
    Inbox {
        /// Whose inbox.
        inbox: InboxId,
        /// Which reply block.
        surb: SurbId,
    },
    /// Cover that a relay made; forget it.
    Drop,
}

/// A number that two packets share only if one is a copy of the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplayTag(pub [u8; 16]);

impl fmt::Debug for ReplayTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplayTag(..)")
    }
}

/// A packet with one layer off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peeled {
    /// The key epoch whose key opened it: its routing is valid in that epoch's layers.
    pub key_epoch: KeyEpoch,
    /// What to do with it.
    pub next: Next,
}

/// A relay's secret keys that are live at this moment, newest use first.
#[derive(Debug)]
pub struct KeyRing {
    relay: RelayId,
    geometry: Geometry,
    geometry_hash: Hash,
    keys: Vec<(KeyEpoch, KemSecretKey)>,
}

impl KeyRing {
    /// The ring of `relay`. Keys are tried in the order given: the current key epoch first, then the one before or
    /// after it while clocks may differ.
    #[must_use]
    pub fn new(relay: RelayId, geometry: Geometry, keys: Vec<(KeyEpoch, KemSecretKey)>) -> Self {
        Self { relay, geometry, geometry_hash: geometry.hash(), keys }
    }

    /// The geometry of the packets that this ring opens.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }
}

/// Peels one layer off, in place. `fresh` is asked once, after the routing was authenticated and before the payload is
/// touched: it inserts the replay tag and says whether it was new.
///
/// # Errors
/// [`Refused`], the same for every reason: wrong length, foreign or garbled header, replay, garbled payload at the
/// queue service.
pub fn peel(
    ring: &KeyRing,
    packet: &mut Packet,
    fresh: impl FnOnce(KeyEpoch, &ReplayTag) -> bool,
) -> Result<Peeled, Refused> {
    let parts = packet.parts(ring.geometry).ok_or(Refused)?;
    let mut plain = [0; MAX_ROUTING_LEN];
    let plain = plain.get_mut(..parts.routing.len()).ok_or(Refused)?;
    let (key_epoch, keys) = open_header(ring, &parts, plain)?;
    if !fresh(key_epoch, &keys.tag) {
        return Err(Refused);
    }
    let next = Next::decode(plain.get(..COMMAND_BLOCK_LEN).ok_or(Refused)?).map_err(|_| Refused)?;
    WideBlock::new(&keys.payload).inverse(parts.payload);
    match next {
        Next::Forward { .. } => shift(parts, plain, &keys)?,
        Next::Queue => check_front(parts.payload)?,
        Next::Inbox { .. } | Next::Drop => {}
    }
    Ok(Peeled { key_epoch, next })
}

/// Tries every live key, each to its end: a failure costs the same whatever its reason.
fn open_header(ring: &KeyRing, parts: &Parts<'_>, plain: &mut [u8]) -> Result<(KeyEpoch, HopKeys), Refused> {
    let aad = aad(&ring.geometry_hash, parts.ciphertext);
    for (epoch, secret) in &ring.keys {
        let (shared, sound) = secret.decapsulate_to_the_end(parts.ciphertext);
        let keys = HopKeys::derive(&shared, &ring.relay, *epoch, &ring.geometry_hash);
        let opened = crypto::open_routing(&keys.header, &aad, parts.routing, parts.tag, plain).is_ok();
        if opened & sound {
            return Ok((*epoch, keys));
        }
    }
    Err(Refused)
}

/// Moves the next hop's header to the front and fills the end from this hop's stream.
fn shift(parts: Parts<'_>, plain: &[u8], keys: &HopKeys) -> Result<(), Refused> {
    let (slot, rest) = plain.split_at_checked(SLOT_LEN).ok_or(Refused)?;
    let (_, slot) = slot.split_at_checked(COMMAND_BLOCK_LEN).ok_or(Refused)?;
    let (tag, ciphertext) = slot.split_first_chunk().ok_or(Refused)?;
    *parts.tag = *tag;
    parts.ciphertext.copy_from_slice(ciphertext.first_chunk::<KEM_CIPHERTEXT_LEN>().ok_or(Refused)?);
    let (kept, filler) = parts.routing.split_at_mut_checked(rest.len()).ok_or(Refused)?;
    kept.copy_from_slice(rest);
    filler.fill(0);
    crypto::stream_xor(&keys.filler, filler);
    Ok(())
}

fn check_front(payload: &[u8]) -> Result<(), Refused> {
    use subtle::ConstantTimeEq;
    let front = payload.get(..PAYLOAD_CHECK_LEN).ok_or(Refused)?;
    if bool::from(front.ct_eq(&[0; PAYLOAD_CHECK_LEN])) { Ok(()) } else { Err(Refused) }
}

fn aad(geometry: &Hash, ciphertext: &[u8; KEM_CIPHERTEXT_LEN]) -> [u8; AAD_LEN] {
    let mut aad = [0; AAD_LEN];
    let (front, rest) = aad.split_at_mut(2);
    front.copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    let (middle, end) = rest.split_at_mut(Hash::LEN);
    middle.copy_from_slice(&geometry.0);
    end.copy_from_slice(ciphertext);
    aad
}

/// All that a hop and the builder derive from the hop's shared secret.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct HopKeys {
    pub(crate) header: [u8; 32],
    pub(crate) filler: [u8; 32],
    pub(crate) payload: [u8; 32],
    #[zeroize(skip)]
    pub(crate) tag: ReplayTag,
}

impl HopKeys {
    pub(crate) fn derive(shared: &Secret<32>, relay: &RelayId, epoch: KeyEpoch, geometry: &Hash) -> Self {
        let (epoch, version) = (epoch.0.to_le_bytes(), PROTOCOL_VERSION.to_le_bytes());
        let parts = [shared.expose().as_slice(), &relay.0, &epoch, &geometry.0, &version];
        let mut material = Zeroizing::new([0; HOP_MATERIAL_LEN]);
        for (to, from) in material.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        let root = Zeroizing::new(crypto::hash(context::HOP, material.as_slice()).0);
        let key = |context| crypto::hash(context, root.as_slice()).0;
        let tag = ReplayTag(key(context::REPLAY).first_chunk().copied().unwrap_or_default());
        Self { header: key(context::HEADER), filler: key(context::FILLER), payload: key(context::PAYLOAD), tag }
    }
}

impl Next {
    /// Writes the command into a block whose unused bytes the caller has filled at random.
    pub(crate) fn encode_into(self, block: &mut [u8; COMMAND_BLOCK_LEN]) {
        let mut w = Writer::with_capacity(COMMAND_BLOCK_LEN);
        match self {
            Self::Forward { to, delay } => {
                w.u8(code::FORWARD);
                to.write(&mut w);
                w.u32(u32::try_from(delay.min(MAX_HOP_DELAY).as_micros()).unwrap_or(u32::MAX));
            }
            Self::Queue => w.u8(code::QUEUE),
            Self::Inbox { inbox, surb } => {
                w.u8(code::INBOX);
                inbox.write(&mut w);
                surb.write(&mut w);
            }
            Self::Drop => w.u8(code::DROP),
        }
        for (to, from) in block.iter_mut().zip(w.finish()) {
            *to = from;
        }
    }

    fn decode(block: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(block);
        match r.u8("hop command")? {
            code::FORWARD => {
                let to = RelayId::read(&mut r)?;
                let delay = Duration::from_micros(r.u32("hop delay")?.into());
                if delay > MAX_HOP_DELAY { Err(Malformed::Value("hop delay")) } else { Ok(Self::Forward { to, delay }) }
            }
            code::QUEUE => Ok(Self::Queue),
            code::INBOX => Ok(Self::Inbox { inbox: InboxId::read(&mut r)?, surb: SurbId::read(&mut r)? }),
            code::DROP => Ok(Self::Drop),
            _ => Err(Malformed::Value("hop command")),
        }
    }
}

const _: () = assert!(TAG_LEN + KEM_CIPHERTEXT_LEN + COMMAND_BLOCK_LEN == SLOT_LEN);
const _: () = assert!(1 + 32 + 16 <= COMMAND_BLOCK_LEN);
