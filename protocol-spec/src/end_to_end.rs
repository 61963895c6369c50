//! What two ends of a conversation say to each other, from the outside in.
//!
//! | layer | what it is |
//! |---|---|
//! | [`QueueKey`] | the box: AES-256-GCM under a key of its queue. It hides what is inside of it, MLS's headers above all |
//! | [`Inner`] | what kind of MLS messages the box carries |
//! | MLS | one key for each message, and new ones by turns; see chapter 8 of the specification |
//! | [`Content`] | what is said |

mod inner;

use core::fmt;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::codec::{Reader, Writer};
use crate::crypto::{self, context};
pub use crate::end_to_end::inner::{Inner, InnerKind};
use crate::error::{Malformed, Misuse, Refused};
use crate::ids::{Epoch, Hash, RelayId};
use crate::now::Wall;
use crate::params::{BOX_CONTENT_LEN, BOX_LEN, BOX_NONCE_LEN, INNER_OVERHEAD, MAX_KEY_PACKAGE_LEN, TAG_LEN};
use crate::registry::content as code;
use crate::secret::Secret;

/// AES-256-GCM under a key of the queue.
///
/// ```text
/// 0           12                                                       11,248
/// | nonce     | encrypted: length (4), content, zeros up to the length | tag |
/// ```
pub struct QueueKey(Secret<32>);

impl QueueKey {
    /// The sealing of one queue under the queue's key alone, as the invitation gives it: until both ends have joined.
    #[must_use]
    pub fn new(key: &Secret<32>) -> Self {
        Self(crypto::derive(context::BOX, key.expose()))
    }

    /// The sealing of one queue within a conversation, under its key and what MLS exports where both ends have joined.
    #[must_use]
    pub fn within(exported: &Secret<32>, key: &Secret<32>) -> Self {
        let material = Zeroizing::new([exported.expose().as_slice(), key.expose()].concat());
        Self(crypto::derive(context::CONVERSATION_BOX, &material))
    }

    /// Seals at most [`BOX_CONTENT_LEN`] bytes into a box of exactly [`BOX_LEN`] bytes. Sealing twice gives two boxes
    /// that can't be linked.
    ///
    /// # Errors
    /// [`Misuse::TooLong`] if the content doesn't fit.
    pub fn seal(&self, content: &[u8], rng: &mut (impl CryptoRng + ?Sized)) -> Result<Box<[u8]>, Misuse> {
        if content.len() > BOX_CONTENT_LEN {
            return Err(Misuse::TooLong { what: "the message", got: content.len(), max: BOX_CONTENT_LEN });
        }
        let mut nonce = [0; BOX_NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let mut inner = Writer::with_capacity(BOX_CONTENT_LEN + 4);
        inner.bounded(content);
        let mut inner = inner.finish();
        inner.resize(BOX_CONTENT_LEN + 4, 0);
        let tag =
            crypto::seal(self.0.expose(), nonce, &[], &mut inner).map_err(|Refused| Misuse::Key("the queue key"))?;
        let mut sealed = Writer::with_capacity(BOX_LEN);
        sealed.bytes(&nonce);
        sealed.bytes(&inner);
        sealed.bytes(&tag);
        Ok(sealed.finish().into_boxed_slice())
    }

    /// Opens a box.
    ///
    /// # Errors
    /// [`Refused`] if it wasn't sealed by the other end for this queue.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        if sealed.len() != BOX_LEN {
            return Err(Refused);
        }
        let (nonce, rest) = sealed.split_first_chunk().ok_or(Refused)?;
        let (inner, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(Refused)?;
        let mut inner = Zeroizing::new(inner.to_vec());
        crypto::open(self.0.expose(), *nonce, &[], &mut inner, tag)?;
        let content = Reader::new(&inner).bounded(BOX_CONTENT_LEN, "content").map_err(|_| Refused)?;
        Ok(content.to_vec())
    }
}

impl fmt::Debug for QueueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueueKey(..)")
    }
}

/// Where a queue is, for the one who will write to it.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueAddress {
    /// The relay that holds it.
    pub relay: RelayId,
    /// The invited writer capability, to be replaced by `secure`.
    pub invited: Secret<32>,
    /// The key that seals what goes there.
    pub key: Secret<32>,
}

impl QueueAddress {
    /// Encoded length in bytes.
    pub const LEN: usize = 96;

    /// Reads an address.
    ///
    /// # Errors
    /// If it is truncated.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            relay: RelayId::read(r)?,
            invited: Secret::read(r, "queue address")?,
            key: Secret::read(r, "queue address")?,
        })
    }

    /// Writes the address.
    pub fn write(&self, w: &mut Writer) {
        self.relay.write(w);
        w.bytes(self.invited.expose());
        w.bytes(self.key.expose());
    }

    /// Reads a list of at most [`MAX_QUEUES`] addresses.
    ///
    /// # Errors
    /// If the list is empty, too long or truncated.
    pub fn read_list(r: &mut Reader<'_>) -> Result<Vec<Self>, Malformed> {
        match r.count(MAX_QUEUES, "queues")? {
            0 => Err(Malformed::Value("queues")),
            n => (0..n).map(|_| Self::read(r)).collect(),
        }
    }

    /// Writes a list.
    pub fn write_list(list: &[Self], w: &mut Writer) {
        w.count(list.len());
        list.iter().for_each(|q| q.write(w));
    }
}

/// Queues of one direction of a contact, at most.
pub const MAX_QUEUES: usize = 8;

/// What is inside a box: who wrote it vouches for the consensus it sees, so that a local eclipse shows.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// The newest consensus that the writer holds.
    pub epoch: Epoch,
    /// Its hash.
    pub consensus: Hash,
    /// What it says.
    pub kind: Kind,
}

/// What a box says.
#[derive(PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A message of the application.
    Message {
        /// 1, 2, 3 and so on within the direction, the same in every copy.
        number: u64,
        /// The receiver drops it unread after this.
        expires: Wall,
        /// The application's bytes.
        body: Vec<u8>,
    },
    /// As a message; its receiver forgets it some time after it was handed on, its sender some time after it was delivered.
    Fleeting {
        /// As of a message.
        number: u64,
        /// As of a message.
        expires: Wall,
        /// That time in seconds.
        after: u32,
        /// The application's bytes.
        body: Vec<u8>,
    },
    /// The receiver has stored every message up to this number.
    Receipt {
        /// The number.
        up_to: u64,
    },
    /// Where the joining side reads.
    Queues(Vec<QueueAddress>),
    /// The writer has lost the conversation and begins it anew, over the same queues.
    Renewal {
        /// It has every message of the conversation before up to this number.
        have: u64,
        /// It can't join any other conversation, should the reader begin one at the same time.
        alone: bool,
        /// As of the queues below.
        generation: u64,
        /// Where it reads.
        queues: Vec<QueueAddress>,
    },
    /// As a receipt, with what the reader can begin the conversation anew by.
    KeyPackage {
        /// The number.
        up_to: u64,
        /// No message below this number will be sent any more: they are delivered, or lost for good.
        from: u64,
        /// An MLS key package for this contact alone, at most [`MAX_KEY_PACKAGE_LEN`] bytes.
        key_package: Vec<u8>,
    },
    /// Where the writer reads from now on: queues on relays that are gone have been replaced.
    Moved {
        /// Counts the writer's lists up; an older one than known is ignored.
        generation: u64,
        /// All its queues, those that stay too.
        queues: Vec<QueueAddress>,
    },
    /// Something of a later version; ignored.
    Unknown(u8),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message { .. } => "Message(..)",
            Self::Fleeting { .. } => "Fleeting(..)",
            Self::Receipt { .. } => "Receipt(..)",
            Self::Queues(_) => "Queues(..)",
            Self::Renewal { .. } => "Renewal(..)",
            Self::KeyPackage { .. } => "KeyPackage(..)",
            Self::Moved { .. } => "Moved(..)",
            Self::Unknown(_) => "Unknown(..)",
        })
    }
}

/// The longest content: what a box carries, less what [`Inner`] and MLS add.
pub const MAX_CONTENT_LEN: usize = BOX_CONTENT_LEN - INNER_OVERHEAD;
/// The longest application message that fits one box.
pub const MAX_MESSAGE_LEN: usize = MAX_CONTENT_LEN - 8 - 32 - 1 - 8 - 8 - 4;

/// The longest one that disappears: its time takes four bytes.
pub const MAX_FLEETING_LEN: usize = MAX_MESSAGE_LEN - 4;

impl Content {
    /// Encodes the content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(128);
        w.u64(self.epoch.0);
        self.consensus.write(&mut w);
        match &self.kind {
            Kind::Message { number, expires, body } => {
                w.u8(code::MESSAGE);
                w.u64(*number);
                w.u64(expires.0);
                w.bounded(body);
            }
            Kind::Fleeting { number, expires, after, body } => {
                w.u8(code::FLEETING);
                w.u64(*number);
                w.u64(expires.0);
                w.u32(*after);
                w.bounded(body);
            }
            Kind::Receipt { up_to } => {
                w.u8(code::RECEIPT);
                w.u64(*up_to);
            }
            Kind::Queues(list) => {
                w.u8(code::QUEUES);
                QueueAddress::write_list(list, &mut w);
            }
            Kind::Renewal { have, alone, generation, queues } => {
                w.u8(code::RENEWAL);
                w.u64(*have);
                w.bool(*alone);
                w.u64(*generation);
                QueueAddress::write_list(queues, &mut w);
            }
            Kind::KeyPackage { up_to, from, key_package } => {
                w.u8(code::KEY_PACKAGE);
                w.u64(*up_to);
                w.u64(*from);
                w.bounded(key_package);
            }
            Kind::Moved { generation, queues } => {
                w.u8(code::MOVED);
                w.u64(*generation);
                QueueAddress::write_list(queues, &mut w);
            }
            Kind::Unknown(n) => w.u8(*n),
        }
        w.finish()
    }

    /// Decodes the content of a box.
    ///
    /// # Errors
    /// [`Malformed`] if a known kind doesn't parse.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let (epoch, consensus) = (Epoch(r.u64("content")?), Hash::read(&mut r)?);
        let kind = match r.u8("content")? {
            code::MESSAGE => Kind::Message {
                number: r.u64("message")?,
                expires: Wall(r.u64("message")?),
                body: r.bounded(MAX_MESSAGE_LEN, "message")?.to_vec(),
            },
            code::FLEETING => Kind::Fleeting {
                number: r.u64("message")?,
                expires: Wall(r.u64("message")?),
                after: r.u32("message")?,
                body: r.bounded(MAX_FLEETING_LEN, "message")?.to_vec(),
            },
            code::RECEIPT => Kind::Receipt { up_to: r.u64("receipt")? },
            code::QUEUES => Kind::Queues(QueueAddress::read_list(&mut r)?),
            code::RENEWAL => Kind::Renewal {
                have: r.u64("renewal")?,
                alone: r.bool("renewal")?,
                generation: r.u64("renewal")?,
                queues: QueueAddress::read_list(&mut r)?,
            },
            code::KEY_PACKAGE => Kind::KeyPackage {
                up_to: r.u64("key package")?,
                from: r.u64("key package")?,
                key_package: r.bounded(MAX_KEY_PACKAGE_LEN, "key package")?.to_vec(),
            },
            code::MOVED => Kind::Moved { generation: r.u64("moved")?, queues: QueueAddress::read_list(&mut r)? },
            n => {
                r.remainder();
                Kind::Unknown(n)
            }
        };
        r.finish("content")?;
        Ok(Self { epoch, consensus, kind })
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn a_box_opens_under_its_key_only_and_has_one_length() {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let a = QueueKey::new(&Secret::new([1; 32]));
        let b = QueueKey::new(&Secret::new([2; 32]));
        for content in [vec![], vec![7; 100], vec![8; BOX_CONTENT_LEN]] {
            let sealed = a.seal(&content, rng).unwrap();
            assert_eq!(sealed.len(), BOX_LEN);
            assert_eq!(a.open(&sealed), Ok(content.clone()));
            assert_eq!(b.open(&sealed), Err(Refused));
            assert_ne!(sealed, a.seal(&content, rng).unwrap());
            let mut garbled = sealed.clone();
            garbled[5000] ^= 1;
            assert_eq!(a.open(&garbled), Err(Refused));
        }
        assert!(a.seal(&vec![0; BOX_CONTENT_LEN + 1], rng).is_err());
    }

    #[test]
    fn a_box_of_a_conversation_opens_in_that_conversation_only() {
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        let [x, y, key] = [1, 2, 3].map(|n| Secret::new([n; 32]));
        let sealed = QueueKey::within(&x, &key).seal(b"content", rng).unwrap();
        assert_eq!(QueueKey::within(&x, &key).open(&sealed).unwrap(), b"content");
        assert_eq!(QueueKey::within(&y, &key).open(&sealed), Err(Refused));
        assert_eq!(QueueKey::within(&x, &y).open(&sealed), Err(Refused));
        assert_eq!(QueueKey::new(&key).open(&sealed), Err(Refused));
    }

    #[test]
    fn contents_come_back() {
        let address =
            || QueueAddress { relay: RelayId([1; 32]), invited: Secret::new([2; 32]), key: Secret::new([3; 32]) };
        for kind in [
            Kind::Message { number: 1, expires: Wall(2), body: vec![3; MAX_MESSAGE_LEN] },
            Kind::Fleeting { number: 1, expires: Wall(2), after: 3, body: vec![4; MAX_FLEETING_LEN] },
            Kind::Receipt { up_to: 4 },
            Kind::Queues(vec![address(), address()]),
            Kind::Renewal { have: 5, alone: true, generation: 6, queues: vec![address(), address()] },
            Kind::KeyPackage { up_to: 6, from: 7, key_package: vec![8; MAX_KEY_PACKAGE_LEN] },
            Kind::Moved { generation: 5, queues: vec![address(), address()] },
            Kind::Unknown(99),
        ] {
            let content = Content { epoch: Epoch(1), consensus: Hash([2; 32]), kind };
            let bytes = content.encode();
            assert!(bytes.len() <= MAX_CONTENT_LEN);
            assert_eq!(Content::decode(&bytes), Ok(content));
        }
    }
}
