//! A packet in memory: one box that moves from link to link and is worked on in place.

use core::fmt;

use crate::geometry::Geometry;
use crate::params::{KEM_CIPHERTEXT_LEN, TAG_LEN};

/// One packet, of the length that its network's geometry fixes.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet(Box<[u8]>);

/// The parts of a packet, borrowed for work in place.
pub(crate) struct Parts<'a> {
    pub(crate) ciphertext: &'a mut [u8; KEM_CIPHERTEXT_LEN],
    pub(crate) tag: &'a mut [u8; TAG_LEN],
    pub(crate) routing: &'a mut [u8],
    pub(crate) payload: &'a mut [u8],
}

impl Packet {
    /// Takes over bytes read from a link.
    #[must_use]
    pub const fn from_bytes(bytes: Box<[u8]>) -> Self {
        Self(bytes)
    }

    /// A packet of zeros, to be filled.
    #[must_use]
    pub fn zeroed(geometry: Geometry) -> Self {
        Self(vec![0; geometry.packet_len()].into_boxed_slice())
    }

    /// What goes onto the link.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be written to.
    #[must_use]
    pub const fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Gives the box back.
    #[must_use]
    pub fn into_bytes(self) -> Box<[u8]> {
        self.0
    }

    /// The first ciphertext, by whose keyed hash the driver picks a worker: a replay reaches the same one.
    #[must_use]
    pub fn ciphertext(&self) -> &[u8] {
        self.0.get(..KEM_CIPHERTEXT_LEN).unwrap_or(&self.0)
    }

    /// Splits into parts, or `None` if the length isn't this geometry's.
    pub(crate) fn parts(&mut self, geometry: Geometry) -> Option<Parts<'_>> {
        if self.0.len() != geometry.packet_len() {
            return None;
        }
        let (ciphertext, rest) = self.0.split_first_chunk_mut()?;
        let (tag, rest) = rest.split_first_chunk_mut()?;
        let (routing, payload) = rest.split_at_mut_checked(geometry.routing_len())?;
        Some(Parts { ciphertext, tag, routing, payload })
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packet(..)")
    }
}
