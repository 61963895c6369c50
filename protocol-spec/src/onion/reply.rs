//! Reply blocks (SURBs): a header made by the one who wants to be answered, and one key for the one who answers.

use core::fmt;

use rand_core::CryptoRng;

use super::build::{self, Hop, Last};
use crate::codec::{Reader, Writer};
use crate::crypto::wide_block::WideBlock;
use crate::error::{Malformed, Misuse, Refused};
use crate::geometry::Geometry;
use crate::ids::{InboxId, KeyEpoch, RelayId, SurbId};
use crate::packet::Packet;
use crate::params::PAYLOAD_CHECK_LEN;
use crate::secret::Secret;

/// What the replier gets: where to send, the header, one end key. No hop's key is in it, so a replier who works with
/// the last mix can't recognise the reply.
///
/// ```text
/// 0           32        40          72
/// | first hop | epoch   | end key   | header |
/// ```
pub struct ReplyBlock {
    /// The relay that gets the packet first.
    pub first: RelayId,
    /// The key epoch of all its keys; of no use after it.
    pub key_epoch: KeyEpoch,
    end_key: Secret<32>,
    header: Box<[u8]>,
}

/// What the creator keeps, until the answer comes or the key epoch ends.
pub struct ReplyKeys {
    /// The number by which the answer is recognised.
    pub surb: SurbId,
    /// The key epoch after whose end no answer comes.
    pub key_epoch: KeyEpoch,
    end_key: Secret<32>,
    pub(super) hops: Vec<Secret<32>>,
}

/// Makes a reply block along `path`, whose last relay is the creator's entry.
///
/// # Errors
/// [`Misuse`] if the path doesn't fit the geometry or a key isn't usable.
pub fn reply_block(
    geometry: Geometry,
    epoch: KeyEpoch,
    path: &[Hop<'_>],
    inbox: InboxId,
    rng: &mut impl CryptoRng,
) -> Result<(ReplyBlock, ReplyKeys), Misuse> {
    let mut surb = SurbId([0; SurbId::LEN]);
    rng.fill_bytes(&mut surb.0);
    let header = build::header(geometry, epoch, path, Last::Inbox(inbox, surb), rng)?;
    let first = path.first().ok_or_else(|| Misuse::PathLength { got: 0, max: geometry.hops() })?.relay;
    let end_key = Secret::random(rng);
    let keys = ReplyKeys { surb, key_epoch: epoch, end_key: end_key.duplicate(), hops: header.payload_keys };
    Ok((ReplyBlock { first, key_epoch: epoch, end_key, header: header.bytes.into_boxed_slice() }, keys))
}

impl ReplyBlock {
    /// Encoded length in bytes.
    #[must_use]
    pub const fn encoded_len(geometry: Geometry) -> usize {
        RelayId::LEN + 8 + 32 + geometry.header_len()
    }

    /// Writes the block.
    pub fn write(&self, w: &mut Writer) {
        self.first.write(w);
        w.u64(self.key_epoch.0);
        w.bytes(self.end_key.expose());
        w.bytes(&self.header);
    }

    /// Reads a block of this geometry.
    ///
    /// # Errors
    /// If it is truncated.
    pub fn read(r: &mut Reader<'_>, geometry: Geometry) -> Result<Self, Malformed> {
        Ok(Self {
            first: RelayId::read(r)?,
            key_epoch: KeyEpoch(r.u64("reply block")?),
            end_key: Secret::read(r, "reply block")?,
            header: r.take(geometry.header_len(), "reply block")?.into(),
        })
    }

    /// Uses the block up: the packet that carries `content` to its creator, and the relay that gets it first.
    ///
    /// # Errors
    /// [`Misuse::TooLong`] if the content doesn't fit.
    pub fn reply(self, geometry: Geometry, content: &[u8]) -> Result<(RelayId, Packet), Misuse> {
        let mut payload = build::framed(geometry, content)?;
        WideBlock::new(self.end_key.expose()).forward(&mut payload);
        let mut bytes = self.header.into_vec();
        bytes.extend_from_slice(&payload);
        Ok((self.first, Packet::from_bytes(bytes.into_boxed_slice())))
    }
}

impl ReplyKeys {
    /// Takes over keys that were made elsewhere: by a simulator that models the cryptography.
    #[must_use]
    pub const fn new(surb: SurbId, key_epoch: KeyEpoch, end_key: Secret<32>, hops: Vec<Secret<32>>) -> Self {
        Self { surb, key_epoch, end_key, hops }
    }

    /// Recovers the content of the answer, in place; the keys are gone with it. What is returned still has the zeros
    /// that padded it to the geometry.
    ///
    /// # Errors
    /// [`Refused`] if the payload was garbled on its way or answers another block.
    pub fn open(self, mut payload: Box<[u8]>) -> Result<Vec<u8>, Refused> {
        for key in self.hops.iter().rev() {
            WideBlock::new(key.expose()).forward(&mut payload);
        }
        WideBlock::new(self.end_key.expose()).inverse(&mut payload);
        super::check_front(&payload)?;
        let mut content = payload.into_vec();
        content.drain(..PAYLOAD_CHECK_LEN);
        Ok(content)
    }
}

impl fmt::Debug for ReplyBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyBlock(..)")
    }
}

impl fmt::Debug for ReplyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKeys(..)")
    }
}
