//! The shape of all packets: hops and payload length. Every other length derives from it.

use crate::codec::{Reader, Writer};
use crate::crypto;
use crate::error::Malformed;
use crate::ids::Hash;
use crate::params::{
    COMMAND_BLOCK_LEN, DEFAULT_HOPS, DEFAULT_PAYLOAD_LEN, KEM_CIPHERTEXT_LEN, MAX_HOPS, MAX_PAYLOAD_LEN,
    PAYLOAD_CHECK_LEN, SLOT_LEN, TAG_LEN,
};

/// {hops, payload length}. Two packets of one geometry are equally long at every hop.
///
/// ```text
/// 0            1120   1136                    1136 + routing              + 32      + payload
/// | ciphertext | tag  | routing               | check (0 at the last hop) | content |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    hops: u8,
    payload: u32,
}

impl Geometry {
    /// The geometry of protocol version 1: 4 layers, 16 KiB.
    pub const DEFAULT: Self = Self { hops: DEFAULT_HOPS as u8, payload: DEFAULT_PAYLOAD_LEN as u32 };
    /// Encoded length in bytes.
    pub const LEN: usize = 5;

    /// A geometry of `hops` (1 to 8) and `payload` bytes (1 to 64 KiB).
    ///
    /// # Errors
    /// [`Malformed::Value`] outside these bounds.
    pub fn new(hops: usize, payload: usize) -> Result<Self, Malformed> {
        if !(1..=MAX_HOPS).contains(&hops) {
            return Err(Malformed::Value("hops of a geometry"));
        }
        if !(1..=MAX_PAYLOAD_LEN).contains(&payload) {
            return Err(Malformed::Value("payload length of a geometry"));
        }
        Ok(Self { hops: hops as u8, payload: payload as u32 })
    }

    /// The most hops that a packet can take.
    #[must_use]
    pub const fn hops(self) -> usize {
        self.hops as usize
    }

    /// Bytes that the sender can fill.
    #[must_use]
    pub const fn content_len(self) -> usize {
        self.payload as usize
    }

    /// Bytes of the wide block: the check and the content.
    #[must_use]
    pub const fn payload_len(self) -> usize {
        PAYLOAD_CHECK_LEN + self.payload as usize
    }

    /// Bytes of a hop's encrypted routing. The last slot has no ciphertext, for nothing comes after it.
    #[must_use]
    pub const fn routing_len(self) -> usize {
        (self.hops as usize - 1) * SLOT_LEN + COMMAND_BLOCK_LEN
    }

    /// Bytes of ciphertext, tag and routing.
    #[must_use]
    pub const fn header_len(self) -> usize {
        KEM_CIPHERTEXT_LEN + TAG_LEN + self.routing_len()
    }

    /// Bytes of a packet on every link.
    #[must_use]
    pub const fn packet_len(self) -> usize {
        self.header_len() + self.payload_len()
    }

    /// The hash that the consensus and every hop key carry.
    #[must_use]
    pub fn hash(self) -> Hash {
        let mut w = Writer::with_capacity(Self::LEN);
        self.write(&mut w);
        crypto::hash(crypto::context::GEOMETRY, &w.finish())
    }

    /// Reads a geometry.
    ///
    /// # Errors
    /// If it is truncated or out of bounds.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let hops = usize::from(r.u8("geometry")?);
        let payload = usize::try_from(r.u32("geometry")?).map_err(|_| Malformed::Value("geometry"))?;
        Self::new(hops, payload)
    }

    /// Writes the geometry.
    pub fn write(self, w: &mut Writer) {
        w.u8(self.hops);
        w.u32(self.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_packet_is_about_21_kb() {
        let g = Geometry::DEFAULT;
        assert_eq!(g.header_len(), 4800);
        assert_eq!(g.packet_len(), 21_216);
    }

    #[test]
    fn bounds_are_refused() {
        assert!(Geometry::new(0, 1).is_err());
        assert!(Geometry::new(9, 1).is_err());
        assert!(Geometry::new(1, 0).is_err());
        assert!(Geometry::new(1, 65_537).is_err());
    }
}
