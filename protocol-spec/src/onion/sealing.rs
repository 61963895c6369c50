//! The cryptography of packets as the relay's core uses it: [`Real`], or a simulator's model of it.
//!
//! A simulator of thousands of nodes runs the same cores and leaves out the arithmetic. Peeling is not here: a worker does
//! that before the core sees a packet. Nothing on the wire chooses between the two; whoever makes the core does.

use core::fmt;

use rand_core::CryptoRng;

use super::build::{self, Hop, Last};
use super::reply::{self, ReplyBlock, ReplyKeys};
use crate::error::{Misuse, Refused};
use crate::frame::Delivery;
use crate::geometry::Geometry;
use crate::ids::{InboxId, KeyEpoch, RelayId, SurbId};
use crate::packet::Packet;
use crate::params::PAYLOAD_CHECK_LEN;

/// Builds packets and reads what they carry.
pub trait Sealing: fmt::Debug + Send + Sync {
    /// As [`build::packet`].
    ///
    /// # Errors
    /// [`Misuse`] if the path or the content doesn't fit the geometry, or a key isn't usable.
    fn packet(
        &self,
        geometry: Geometry,
        epoch: KeyEpoch,
        path: &[Hop<'_>],
        last: Last,
        content: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Packet, Misuse>;

    /// As [`reply::reply_block`].
    ///
    /// # Errors
    /// [`Misuse`] if the path doesn't fit the geometry or a key isn't usable.
    fn reply_block(
        &self,
        geometry: Geometry,
        epoch: KeyEpoch,
        path: &[Hop<'_>],
        inbox: InboxId,
        rng: &mut dyn CryptoRng,
    ) -> Result<(ReplyBlock, ReplyKeys), Misuse>;

    /// As [`ReplyBlock::reply`].
    ///
    /// # Errors
    /// [`Misuse::TooLong`] if the content doesn't fit.
    fn reply(&self, block: ReplyBlock, geometry: Geometry, content: &[u8]) -> Result<(RelayId, Packet), Misuse>;

    /// What a packet that was peeled for the queue service carries.
    fn command<'p>(&self, geometry: Geometry, packet: &'p Packet) -> &'p [u8];

    /// Which reply block a box from the entry answers; `None` if it can't be one.
    fn surb(&self, geometry: Geometry, delivery: &Packet) -> Option<SurbId>;

    /// The content of an answer, from the packet as its last hop left it or from the box that the entry made of it.
    ///
    /// # Errors
    /// [`Refused`] if the payload was garbled on its way or answers another block.
    fn answer(&self, keys: ReplyKeys, geometry: Geometry, packet: Packet) -> Result<Vec<u8>, Refused>;
}

/// The protocol's own cryptography.
#[derive(Clone, Copy, Debug, Default)]
pub struct Real;

impl Sealing for Real {
    fn packet(
        &self,
        geometry: Geometry,
        epoch: KeyEpoch,
        path: &[Hop<'_>],
        last: Last,
        content: &[u8],
        mut rng: &mut dyn CryptoRng,
    ) -> Result<Packet, Misuse> {
        build::packet(geometry, epoch, path, last, content, &mut rng)
    }

    fn reply_block(
        &self,
        geometry: Geometry,
        epoch: KeyEpoch,
        path: &[Hop<'_>],
        inbox: InboxId,
        mut rng: &mut dyn CryptoRng,
    ) -> Result<(ReplyBlock, ReplyKeys), Misuse> {
        reply::reply_block(geometry, epoch, path, inbox, &mut rng)
    }

    fn reply(&self, block: ReplyBlock, geometry: Geometry, content: &[u8]) -> Result<(RelayId, Packet), Misuse> {
        block.reply(geometry, content)
    }

    fn command<'p>(&self, geometry: Geometry, packet: &'p Packet) -> &'p [u8] {
        packet.as_bytes().get(geometry.header_len() + PAYLOAD_CHECK_LEN..).unwrap_or_default()
    }

    fn surb(&self, geometry: Geometry, delivery: &Packet) -> Option<SurbId> {
        let bytes = delivery.as_bytes();
        if bytes.len() != geometry.packet_len() {
            return None;
        }
        bytes.first_chunk().copied().map(SurbId)
    }

    fn answer(&self, keys: ReplyKeys, geometry: Geometry, packet: Packet) -> Result<Vec<u8>, Refused> {
        let delivery = Delivery::into_packet(keys.surb, packet, geometry);
        keys.open(Delivery::from_packet(&delivery, geometry).map_err(|_| Refused)?.payload)
    }
}
