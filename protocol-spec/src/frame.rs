//! What is said on a link beside packets: the hello that opens it, and a few control frames.
//!
//! Packets themselves have no frame: they follow one another on their streams, each of the geometry's length.

use crate::codec::{Reader, Writer};
use crate::document::Profile;
use crate::error::Malformed;
use crate::geometry::Geometry;
use crate::ids::{Epoch, Hash, InboxId, SurbId};
use crate::packet::Packet;
use crate::params::PROTOCOL_VERSION;
use crate::registry::frame as code;
use crate::secret::Secret;

pub use crate::params::MAX_FRAME_LEN;

/// The first thing that each side of a link says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The protocol version; must be equal on both sides.
    pub version: u16,
    /// The geometry's hash; must be equal on both sides.
    pub geometry: Hash,
    /// The epoch of the newest consensus that this side holds; 0 with none.
    pub epoch: Epoch,
    /// That consensus' hash: who sees another hash for the same epoch has found a fork.
    pub consensus: Hash,
}

impl Hello {
    /// Encoded length in bytes.
    pub const LEN: usize = 2 + 32 + 8 + 32;

    /// The hello of a node that holds `consensus` for `epoch`.
    #[must_use]
    pub fn new(geometry: Geometry, epoch: Epoch, consensus: Hash) -> Self {
        Self { version: PROTOCOL_VERSION, geometry: geometry.hash(), epoch, consensus }
    }

    /// Encodes to [`Hello::LEN`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.u16(self.version);
        self.geometry.write(&mut w);
        w.u64(self.epoch.0);
        self.consensus.write(&mut w);
        w.finish()
    }

    /// Decodes exactly [`Hello::LEN`] bytes.
    ///
    /// # Errors
    /// If the length is another.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let hello = Self {
            version: r.u16("hello")?,
            geometry: Hash::read(&mut r)?,
            epoch: Epoch(r.u64("hello")?),
            consensus: Hash::read(&mut r)?,
        };
        r.finish("hello")?;
        Ok(hello)
    }
}

/// A control frame.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// Client to entry: attach the inbox whose id is the hash of this secret; open it if it isn't there.
    Attach(Secret<32>),
    /// Entry to client: the inbox is attached to this link, and what it buffered follows.
    Attached(InboxId),
    /// Either side: nothing more will come, close when drained.
    Goodbye,
    /// Client to entry: hand out what comes for this link as this profile wants it, at the rate that the consensus
    /// sets. Without it, everything is handed out as it comes.
    Pace(Profile),
    /// A frame of a later version: ignored.
    Unknown(u8),
}

impl Frame {
    /// Encodes the frame, at most [`MAX_FRAME_LEN`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(33);
        match self {
            Self::Attach(secret) => {
                w.u8(code::ATTACH);
                w.bytes(secret.expose());
            }
            Self::Attached(inbox) => {
                w.u8(code::ATTACHED);
                inbox.write(&mut w);
            }
            Self::Goodbye => w.u8(code::GOODBYE),
            Self::Pace(profile) => {
                w.u8(code::PACE);
                w.u8(profile.code());
            }
            Self::Unknown(n) => w.u8(*n),
        }
        w.finish()
    }

    /// Decodes a frame. Unknown kinds survive as [`Frame::Unknown`], whatever they carry.
    ///
    /// # Errors
    /// If a known frame is truncated or has bytes left over. A profile of a later version makes it an unknown frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let frame = match r.u8("frame")? {
            code::ATTACH => Self::Attach(Secret::read(&mut r, "attach")?),
            code::ATTACHED => Self::Attached(InboxId::read(&mut r)?),
            code::GOODBYE => Self::Goodbye,
            code::PACE => match Profile::from_code(r.u8("pace")?) {
                Some(profile) => Self::Pace(profile),
                None => return Ok(Self::Unknown(code::PACE)),
            },
            n => return Ok(Self::Unknown(n)),
        };
        r.finish("frame")?;
        Ok(frame)
    }
}

/// What an entry hands to a client: a reply's payload under the number by which the client knows it. It takes the
/// place of a whole packet on the link, so that up and down look alike.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which reply block was answered.
    pub surb: SurbId,
    /// The payload as the last hop left it.
    pub payload: Box<[u8]>,
}

impl core::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Delivery(..)")
    }
}

impl Delivery {
    /// Turns the packet that carried the reply into the box for the client, in place: the number goes to the front,
    /// the payload stays where it is, and the spent header is erased.
    #[must_use]
    pub fn into_packet(surb: SurbId, mut packet: Packet, geometry: Geometry) -> Packet {
        if let Some(parts) = packet.parts(geometry) {
            parts.ciphertext.fill(0);
            parts.tag.fill(0);
            parts.routing.fill(0);
            for (to, from) in parts.ciphertext.iter_mut().zip(surb.0) {
                *to = from;
            }
        }
        packet
    }

    /// Reads a box from the entry.
    ///
    /// # Errors
    /// If it has another length than the geometry's.
    pub fn from_packet(packet: &Packet, geometry: Geometry) -> Result<Self, Malformed> {
        let mut r = Reader::new(packet.as_bytes());
        let surb = SurbId::read(&mut r)?;
        r.take(geometry.header_len() - SurbId::LEN, "delivery")?;
        let payload = r.take(geometry.payload_len(), "delivery")?.into();
        r.finish("delivery")?;
        Ok(Self { surb, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_unknown_ones_survive() {
        for frame in [Frame::Attach(Secret::new([7; 32])), Frame::Attached(InboxId([8; 32])), Frame::Goodbye] {
            assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
        assert_eq!(Frame::decode(&[0xee, 1, 2, 3]), Ok(Frame::Unknown(0xee)));
        assert!(Frame::decode(&[code::GOODBYE, 0]).is_err());
        for profile in [Profile::Fast, Profile::Mixed, Profile::Steady] {
            assert_eq!(Frame::decode(&Frame::Pace(profile).encode()), Ok(Frame::Pace(profile)));
        }
        assert_eq!(Frame::decode(&[code::PACE, 0xee]), Ok(Frame::Unknown(code::PACE)));
        assert!(Frame::decode(&[code::PACE]).is_err());
    }

    #[test]
    fn a_delivery_keeps_the_payload_and_the_length() {
        let g = Geometry::DEFAULT;
        let mut packet = Packet::zeroed(g);
        packet.as_bytes_mut().fill(3);
        let sent = Delivery::into_packet(SurbId([9; 16]), packet, g);
        assert_eq!(sent.as_bytes().len(), g.packet_len());
        let delivery = Delivery::from_packet(&sent, g).unwrap();
        assert_eq!(delivery.surb, SurbId([9; 16]));
        assert_eq!(&*delivery.payload, vec![3; g.payload_len()].as_slice());
    }
}
