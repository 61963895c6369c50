//! Queue commands: what the innermost layer of a forward packet carries.
//!
//! ```text
//! 0        4
//! | length | code (1) | operands | reply blocks: count (1), blocks | zeros up to the geometry's length |
//! ```
//! `length` counts the bytes from the code to the last reply block. Every command is idempotent under the same
//! operands, because answers get lost. Capabilities cross only here; a relay hashes them at once.

use core::fmt;
use core::time::Duration;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::admission::{Proof, QueueKind};
use crate::codec::{Reader, Writer};
use crate::crypto::{self, context};
use crate::error::{Malformed, Misuse};
use crate::geometry::Geometry;
use crate::ids::{BlobId, MessageId, QueueId, WriterId};
use crate::onion::reply::ReplyBlock;
use crate::params::{BLOB_LEN, BOX_LEN, CAPABILITY_LEN, MAX_BLOB_TTL, MAX_SUBSCRIBE_SURBS};
use crate::registry::command as code;
use crate::secret::Secret;

/// The longest box that a `send` can carry: one that asks for no answer has the reply block's room as well.
pub const MAX_BOX_LEN: usize = BOX_LEN + ReplyBlock::encoded_len(Geometry::DEFAULT);

macro_rules! capability {
    ($(#[$doc:meta])* $name:ident -> $id:ident, $context:expr) => {
        $(#[$doc])*
        #[derive(PartialEq, Eq)]
        pub struct $name(Secret<CAPABILITY_LEN>);

        impl $name {
            /// Draws a fresh capability.
            pub fn random(rng: &mut impl CryptoRng) -> Self {
                Self(Secret::random(rng))
            }

            /// Takes over a capability's bytes.
            #[must_use]
            pub const fn new(secret: Secret<CAPABILITY_LEN>) -> Self {
                Self(secret)
            }

            /// What the relay stores in its place.
            #[must_use]
            pub fn id(&self) -> $id {
                $id(crypto::hash($context, self.0.expose()).0)
            }

            /// A second copy, erased like the first.
            #[must_use]
            pub fn duplicate(&self) -> Self {
                Self(self.0.duplicate())
            }

            /// Reads a capability.
            ///
            /// # Errors
            /// If it is truncated.
            pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
                Ok(Self(Secret::read(r, "capability")?))
            }

            /// Writes the capability.
            pub fn write(&self, w: &mut Writer) {
                w.bytes(self.0.expose());
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

capability!(
    /// The right to read, acknowledge and delete a queue.
    ReaderCapability -> QueueId, context::READER
);
capability!(
    /// The right to write to a queue.
    WriterCapability -> WriterId, context::WRITER
);
capability!(
    /// The right to read a blob.
    BlobCapability -> BlobId, context::BLOB
);

/// A command.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Make a queue for these two hashes.
    Create {
        /// Hash of the reader capability.
        queue: QueueId,
        /// Hash of the (invited) writer capability.
        writer: WriterId,
        /// What it is for.
        kind: QueueKind,
        /// What the relay asks for (nothing where it is open).
        proof: Proof,
    },
    /// Replace the invited capability by the writer's own; the first one wins.
    Secure {
        /// The capability from the invitation.
        invited: WriterCapability,
        /// Hash of the writer's own.
        writer: WriterId,
    },
    /// Put a message in under a number that the writer chooses: 1, 2, 3 and so on.
    Send {
        /// The writer's capability.
        writer: WriterCapability,
        /// The message's id in this queue.
        sequence: u64,
        /// The sealed message.
        body: Box<[u8]>,
    },
    /// Put a message into a contact queue under an id that its writer draws; the relay gives it a number.
    ContactSend {
        /// The capability that all its writers share.
        writer: WriterCapability,
        /// The message's id.
        message: MessageId,
        /// What the relay asks for.
        proof: Proof,
        /// The sealed message.
        body: Box<[u8]>,
    },
    /// Use these reply blocks for messages that are there or will come. No answer of its own.
    Subscribe {
        /// The reader's capability.
        reader: ReaderCapability,
        /// Everything up to this number can be erased.
        acked: u64,
        /// Mean time between two replies in milliseconds; 0 for at once.
        pace: u32,
    },
    /// Read the first message after a number.
    Fetch {
        /// The reader's capability.
        reader: ReaderCapability,
        /// The last number that the reader has.
        after: u64,
    },
    /// Erase everything up to a number.
    Ack {
        /// The reader's capability.
        reader: ReaderCapability,
        /// The last number to erase.
        up_to: u64,
    },
    /// Erase the queue.
    Delete {
        /// The reader's capability.
        reader: ReaderCapability,
    },
    /// Say how the queue stands.
    Info {
        /// The reader's capability.
        reader: ReaderCapability,
    },
    /// Refuse writers until `Resume`.
    Suspend {
        /// The reader's capability.
        reader: ReaderCapability,
    },
    /// Accept writers again.
    Resume {
        /// The reader's capability.
        reader: ReaderCapability,
    },
    /// Count the time for which the queue is unused anew.
    Extend {
        /// The reader's capability.
        reader: ReaderCapability,
    },
    /// Keep a blob.
    BlobPut {
        /// The capability that can delete it.
        put: WriterCapability,
        /// Hash of the capability that can read it.
        get: BlobId,
        /// Whether only the first reader may have it.
        one_time: bool,
        /// How long to keep it, in hours.
        hours: u16,
        /// Its bytes, exactly [`BLOB_LEN`].
        body: Box<[u8]>,
    },
    /// Read a blob.
    BlobGet {
        /// The capability to read it.
        get: BlobCapability,
        /// A key that the reader chooses: a one-time blob locks to it.
        reader: Secret<32>,
    },
    /// Erase a blob.
    BlobDelete {
        /// The capability that it was put with.
        put: WriterCapability,
    },
    /// Answer, and do nothing else.
    Echo,
    /// A command of a later version, answered as unsupported.
    Unknown(u8),
}

/// A command and the reply blocks for its answer.
#[derive(Debug)]
pub struct Envelope {
    /// What to do.
    pub command: Command,
    /// No block: no answer. One for most commands, up to three for `subscribe`.
    pub reply: Vec<ReplyBlock>,
}

impl Envelope {
    /// Encodes to at most the geometry's content length.
    ///
    /// # Errors
    /// [`Misuse::TooLong`] if it doesn't fit.
    pub fn encode(&self, geometry: Geometry) -> Result<Vec<u8>, Misuse> {
        let mut body = Writer::with_capacity(geometry.content_len());
        self.command.write(&mut body);
        body.u8(u8::try_from(self.reply.len()).unwrap_or(u8::MAX));
        for block in &self.reply {
            block.write(&mut body);
        }
        let got = body.len() + 4;
        if got > geometry.content_len() || self.reply.len() > MAX_SUBSCRIBE_SURBS {
            return Err(Misuse::TooLong { what: "the command", got, max: geometry.content_len() });
        }
        let mut w = Writer::with_capacity(got);
        w.bounded(&Zeroizing::new(body.finish()));
        Ok(w.finish())
    }

    /// Decodes a packet's content; what follows the stated length is padding.
    ///
    /// # Errors
    /// [`Malformed`] if it isn't a command of this geometry.
    pub fn decode(content: &[u8], geometry: Geometry) -> Result<Self, Malformed> {
        let body = Reader::new(content).bounded(geometry.content_len(), "command")?;
        let mut r = Reader::new(body);
        let command = Command::read(&mut r)?;
        if let Command::Unknown(_) = command {
            return Ok(Self { command, reply: Self::trailing_block(body, geometry) });
        }
        let count = usize::from(r.u8("reply blocks")?);
        if count > MAX_SUBSCRIBE_SURBS {
            return Err(Malformed::TooLong("reply blocks"));
        }
        let reply = (0..count).map(|_| ReplyBlock::read(&mut r, geometry)).collect::<Result<_, _>>()?;
        r.finish("command")?;
        Ok(Self { command, reply })
    }

    /// The last reply block of a command that we can't parse, so that it can be answered as unsupported.
    fn trailing_block(body: &[u8], geometry: Geometry) -> Vec<ReplyBlock> {
        // At least the code and the count stand in front of it.
        let at = body.len().checked_sub(ReplyBlock::encoded_len(geometry)).filter(|at| *at >= 2);
        at.and_then(|at| body.get(at..))
            .and_then(|b| ReplyBlock::read(&mut Reader::new(b), geometry).ok())
            .into_iter()
            .collect()
    }
}

impl Command {
    fn write(&self, w: &mut Writer) {
        match self {
            Self::Create { queue, writer, kind, proof } => {
                w.u8(code::CREATE);
                queue.write(w);
                writer.write(w);
                w.u8(kind.code());
                proof.write(w);
            }
            Self::Secure { invited, writer } => {
                w.u8(code::SECURE);
                invited.write(w);
                writer.write(w);
            }
            Self::Send { writer, sequence, body } => {
                w.u8(code::SEND);
                writer.write(w);
                w.u64(*sequence);
                w.bounded(body);
            }
            Self::ContactSend { writer, message, proof, body } => {
                w.u8(code::CONTACT_SEND);
                writer.write(w);
                message.write(w);
                proof.write(w);
                w.bounded(body);
            }
            Self::Subscribe { reader, acked, pace } => {
                w.u8(code::SUBSCRIBE);
                reader.write(w);
                w.u64(*acked);
                w.u32(*pace);
            }
            Self::Fetch { reader, after } => {
                w.u8(code::FETCH);
                reader.write(w);
                w.u64(*after);
            }
            Self::Ack { reader, up_to } => {
                w.u8(code::ACK);
                reader.write(w);
                w.u64(*up_to);
            }
            Self::Delete { reader } => Self::write_for_reader(code::DELETE, reader, w),
            Self::Info { reader } => Self::write_for_reader(code::INFO, reader, w),
            Self::Suspend { reader } => Self::write_for_reader(code::SUSPEND, reader, w),
            Self::Resume { reader } => Self::write_for_reader(code::RESUME, reader, w),
            Self::Extend { reader } => Self::write_for_reader(code::EXTEND, reader, w),
            Self::BlobPut { put, get, one_time, hours, body } => {
                w.u8(code::BLOB_PUT);
                put.write(w);
                get.write(w);
                w.bool(*one_time);
                w.u16(*hours);
                w.bounded(body);
            }
            Self::BlobGet { get, reader } => {
                w.u8(code::BLOB_GET);
                get.write(w);
                w.bytes(reader.expose());
            }
            Self::BlobDelete { put } => {
                w.u8(code::BLOB_DELETE);
                put.write(w);
            }
            Self::Echo => w.u8(code::ECHO),
            Self::Unknown(n) => w.u8(*n),
        }
    }

    fn write_for_reader(code: u8, reader: &ReaderCapability, w: &mut Writer) {
        w.u8(code);
        reader.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match r.u8("command")? {
            code::CREATE => Self::Create {
                queue: QueueId::read(r)?,
                writer: WriterId::read(r)?,
                kind: QueueKind::from_code(r.u8("kind of a queue")?)?,
                proof: Proof::read(r)?,
            },
            code::SECURE => Self::Secure { invited: WriterCapability::read(r)?, writer: WriterId::read(r)? },
            code::SEND => Self::Send {
                writer: WriterCapability::read(r)?,
                sequence: r.u64("sequence")?,
                body: r.bounded(MAX_BOX_LEN, "box")?.into(),
            },
            code::CONTACT_SEND => Self::ContactSend {
                writer: WriterCapability::read(r)?,
                message: MessageId::read(r)?,
                proof: Proof::read(r)?,
                body: r.bounded(MAX_BOX_LEN, "box")?.into(),
            },
            code::SUBSCRIBE => {
                Self::Subscribe { reader: ReaderCapability::read(r)?, acked: r.u64("acked")?, pace: r.u32("pace")? }
            }
            code::FETCH => Self::Fetch { reader: ReaderCapability::read(r)?, after: r.u64("after")? },
            code::ACK => Self::Ack { reader: ReaderCapability::read(r)?, up_to: r.u64("up to")? },
            code::DELETE => Self::Delete { reader: ReaderCapability::read(r)? },
            code::INFO => Self::Info { reader: ReaderCapability::read(r)? },
            code::SUSPEND => Self::Suspend { reader: ReaderCapability::read(r)? },
            code::RESUME => Self::Resume { reader: ReaderCapability::read(r)? },
            code::EXTEND => Self::Extend { reader: ReaderCapability::read(r)? },
            code::BLOB_PUT => Self::read_blob_put(r)?,
            code::BLOB_GET => Self::BlobGet { get: BlobCapability::read(r)?, reader: Secret::read(r, "reader")? },
            code::BLOB_DELETE => Self::BlobDelete { put: WriterCapability::read(r)? },
            code::ECHO => Self::Echo,
            n => Self::Unknown(n),
        })
    }

    fn read_blob_put(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (put, get) = (WriterCapability::read(r)?, BlobId::read(r)?);
        let (one_time, hours) = (r.bool("one-time")?, r.u16("hours")?);
        if Duration::from_secs(u64::from(hours) * 3600) > MAX_BLOB_TTL {
            return Err(Malformed::Value("hours"));
        }
        let body: Box<[u8]> = r.bounded(BLOB_LEN, "blob")?.into();
        if body.len() != BLOB_LEN {
            return Err(Malformed::Value("blob"));
        }
        Ok(Self::BlobPut { put, get, one_time, hours, body })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::admission::Solution;
    use crate::crypto::xwing::KemSecretKey;
    use crate::ids::{InboxId, KeyEpoch, RelayId};
    use crate::onion::build::Hop;
    use crate::onion::reply::reply_block;

    fn all() -> Vec<Command> {
        let cap = |n| Secret::new([n; 32]);
        vec![
            Command::Create {
                queue: QueueId([1; 32]),
                writer: WriterId([2; 32]),
                kind: QueueKind::Bulk,
                proof: Proof::Password(vec![9; 3].into()),
            },
            Command::ContactSend {
                writer: WriterCapability(cap(22)),
                message: MessageId([23; 16]),
                proof: Proof::Solution(Solution { seed: [24; 16], nonce: 25 }),
                body: vec![26; BOX_LEN].into(),
            },
            Command::Info { reader: ReaderCapability(cap(27)) },
            Command::Suspend { reader: ReaderCapability(cap(28)) },
            Command::Resume { reader: ReaderCapability(cap(29)) },
            Command::Extend { reader: ReaderCapability(cap(30)) },
            Command::Secure { invited: WriterCapability(cap(3)), writer: WriterId([4; 32]) },
            Command::Send { writer: WriterCapability(cap(5)), sequence: 6, body: vec![7; BOX_LEN].into() },
            Command::Subscribe { reader: ReaderCapability(cap(8)), acked: 9, pace: 10 },
            Command::Fetch { reader: ReaderCapability(cap(11)), after: 12 },
            Command::Ack { reader: ReaderCapability(cap(13)), up_to: 14 },
            Command::Delete { reader: ReaderCapability(cap(15)) },
            Command::BlobPut {
                put: WriterCapability(cap(16)),
                get: BlobId([17; 32]),
                one_time: true,
                hours: 24,
                body: vec![18; BLOB_LEN].into(),
            },
            Command::BlobGet { get: BlobCapability(cap(19)), reader: cap(20) },
            Command::BlobDelete { put: WriterCapability(cap(21)) },
            Command::Echo,
        ]
    }

    fn block() -> ReplyBlock {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let key = KemSecretKey::from_seed(&Secret::random(rng)).unwrap();
        let hop = Hop { relay: RelayId([1; 32]), key: key.public(), delay: Duration::ZERO };
        reply_block(Geometry::DEFAULT, KeyEpoch(1), &[hop], InboxId([2; 32]), rng).unwrap().0
    }

    #[test]
    fn every_command_comes_back_with_its_reply_block_and_fits() {
        let g = Geometry::DEFAULT;
        for command in all() {
            let bytes = Envelope { command, reply: vec![block()] }.encode(g).unwrap();
            let mut padded = bytes.clone();
            padded.resize(g.content_len(), 0);
            let back = Envelope::decode(&padded, g).unwrap();
            assert_eq!(back.reply.len(), 1);
            assert_eq!(back.encode(g).unwrap(), bytes);
        }
    }

    #[test]
    fn a_subscribe_carries_three_reply_blocks_and_no_more() {
        let g = Geometry::DEFAULT;
        let subscribe = || Command::Subscribe { reader: ReaderCapability(Secret::new([1; 32])), acked: 0, pace: 0 };
        let reply = |n: usize| (0..n).map(|_| block()).collect();
        assert!(Envelope { command: subscribe(), reply: reply(3) }.encode(g).is_ok());
        assert!(Envelope { command: subscribe(), reply: reply(4) }.encode(g).is_err());
    }

    #[test]
    fn an_unknown_command_keeps_its_reply_block() {
        let g = Geometry::DEFAULT;
        let bytes = Envelope { command: Command::Unknown(200), reply: vec![block()] }.encode(g).unwrap();
        let back = Envelope::decode(&bytes, g).unwrap();
        assert_eq!((back.command, back.reply.len()), (Command::Unknown(200), 1));
    }

    #[test]
    fn an_unknown_commands_own_code_is_no_part_of_its_reply_block() {
        let len = ReplyBlock::encoded_len(Geometry::new(1, 1).unwrap());
        let g = Geometry::new(1, len + 6).unwrap();
        for (front, blocks) in [(0, 0), (1, 0), (2, 1), (3, 0)] {
            let mut w = Writer::default();
            w.bounded(&vec![200; front + len]);
            let mut content = w.finish();
            content.truncate(g.content_len());
            let reply = Envelope::decode(&content, g).map_or(0, |envelope| envelope.reply.len());
            assert_eq!(reply, blocks, "{front} bytes in front");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Envelope::decode(&bytes, Geometry::DEFAULT);
        }
    }
}
