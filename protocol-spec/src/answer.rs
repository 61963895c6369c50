//! What a queue relay answers through a reply block.
//!
//! ```text
//! 0        4
//! | length | code (1) | incarnation (16) | operands | zeros up to the geometry's length |
//! ```

use crate::admission::{Asks, QueueKind};
use crate::codec::{Reader, Writer};
use crate::command::MAX_BOX_LEN;
use crate::error::Malformed;
use crate::ids::Incarnation;
use crate::params::BLOB_LEN;
use crate::registry::{answer as code, info};

/// An answer and the store it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Differs after the relay's store was restored from a backup.
    pub incarnation: Incarnation,
    /// What it says.
    pub body: Body,
}

/// What an answer says.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// Done, or had been done already by the same command.
    Ok,
    /// A message.
    Message {
        /// Its number in the queue.
        sequence: u64,
        /// Messages that wait behind it.
        left: u32,
        /// The sealed message.
        body: Box<[u8]>,
    },
    /// No message after the one named.
    Empty,
    /// A blob.
    Blob(Box<[u8]>),
    /// The answer to a `send` to a bulk queue: so far it is stored, and so much more fits.
    Stored {
        /// Every message up to this number has been accepted.
        through: u64,
        /// Messages that fit in besides.
        room: u32,
    },
    /// How a queue stands.
    Info(Info),
    /// Not done: the relay asks for this first.
    NotAdmitted(Asks),
    /// Not done; the code says why (16 and above in the registry, and what a later version adds).
    Refused(u8),
}

/// How a queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// What it is for.
    pub kind: QueueKind,
    /// Whether its writer has replaced the invited capability.
    pub secured: bool,
    /// Whether writers are refused.
    pub suspended: bool,
    /// Whether the relay's operator is retiring the relay: the queue has to move.
    pub retiring: bool,
    /// Messages held.
    pub held: u32,
    /// Messages that fit in besides.
    pub room: u32,
    /// The highest number accepted.
    pub highest: u64,
    /// The highest number acknowledged.
    pub acked: u64,
    /// Hours after which the queue is erased if it isn't used.
    pub hours: u32,
}

impl Info {
    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let kind = QueueKind::from_code(r.u8("kind of a queue")?)?;
        let flags = r.u8("flags")?;
        if flags > info::SECURED | info::SUSPENDED | info::RETIRING {
            return Err(Malformed::Value("flags"));
        }
        Ok(Self {
            kind,
            secured: flags & info::SECURED != 0,
            suspended: flags & info::SUSPENDED != 0,
            retiring: flags & info::RETIRING != 0,
            held: r.u32("held")?,
            room: r.u32("room")?,
            highest: r.u64("highest")?,
            acked: r.u64("acked")?,
            hours: r.u32("hours")?,
        })
    }

    fn write(&self, w: &mut Writer) {
        w.u8(self.kind.code());
        w.u8((u8::from(self.secured) * info::SECURED)
            | (u8::from(self.suspended) * info::SUSPENDED)
            | (u8::from(self.retiring) * info::RETIRING));
        w.u32(self.held);
        w.u32(self.room);
        w.u64(self.highest);
        w.u64(self.acked);
        w.u32(self.hours);
    }
}

impl core::fmt::Debug for Body {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ok => f.write_str("Ok"),
            Self::Message { .. } => f.write_str("Message(..)"),
            Self::Empty => f.write_str("Empty"),
            Self::Blob(_) => f.write_str("Blob(..)"),
            Self::Stored { .. } => f.write_str("Stored(..)"),
            Self::Info(_) => f.write_str("Info(..)"),
            Self::NotAdmitted(asks) => write!(f, "NotAdmitted({asks:?})"),
            Self::Refused(code) => write!(f, "Refused({code})"),
        }
    }
}

impl Answer {
    /// Encodes the answer, shorter than the default geometry's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(64);
        let code = match &self.body {
            Body::Ok => code::OK,
            Body::Message { .. } => code::MESSAGE,
            Body::Empty => code::EMPTY,
            Body::Blob(_) => code::BLOB,
            Body::Stored { .. } => code::STORED,
            Body::Info(_) => code::INFO,
            Body::NotAdmitted(_) => code::NOT_ADMITTED,
            Body::Refused(code) => *code,
        };
        w.u8(code);
        self.incarnation.write(&mut w);
        match &self.body {
            Body::Message { sequence, left, body } => {
                w.u64(*sequence);
                w.u32(*left);
                w.bounded(body);
            }
            Body::Blob(body) => w.bounded(body),
            Body::Stored { through, room } => {
                w.u64(*through);
                w.u32(*room);
            }
            Body::Info(info) => info.write(&mut w),
            Body::NotAdmitted(asks) => asks.write(&mut w),
            Body::Ok | Body::Empty | Body::Refused(_) => {}
        }
        let body = w.finish();
        let mut w = Writer::with_capacity(4 + body.len());
        w.bounded(&body);
        w.finish()
    }

    /// Decodes the content of a reply; what follows the stated length is padding.
    ///
    /// # Errors
    /// [`Malformed`] if it isn't an answer.
    pub fn decode(content: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(Reader::new(content).bounded(content.len(), "answer")?);
        let code = r.u8("answer")?;
        let incarnation = Incarnation::read(&mut r)?;
        let body = match code {
            code::OK => Body::Ok,
            code::MESSAGE => Body::Message {
                sequence: r.u64("sequence")?,
                left: r.u32("left")?,
                body: r.bounded(MAX_BOX_LEN, "box")?.into(),
            },
            code::EMPTY => Body::Empty,
            code::BLOB => Body::Blob(r.bounded(BLOB_LEN, "blob")?.into()),
            code::STORED => Body::Stored { through: r.u64("through")?, room: r.u32("room")? },
            code::INFO => Body::Info(Info::read(&mut r)?),
            code::NOT_ADMITTED => Body::NotAdmitted(Asks::read(&mut r)?),
            code => {
                r.remainder();
                Body::Refused(code)
            }
        };
        r.finish("answer")?;
        Ok(Self { incarnation, body })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admission::Puzzle;
    use crate::params::BOX_LEN;

    #[test]
    fn every_answer_comes_back_through_its_padding() {
        let message = Body::Message { sequence: 5, left: 6, body: vec![1; BOX_LEN].into() };
        let info = Info {
            kind: QueueKind::Contact,
            secured: true,
            suspended: false,
            retiring: true,
            held: 1,
            room: 2,
            highest: 3,
            acked: 4,
            hours: 5,
        };
        let asks = Body::NotAdmitted(Asks::Puzzle(Puzzle { effort: 20, seed: [7; 16] }));
        let mut bodies = vec![Body::Ok, message, Body::Empty, Body::Blob(vec![2; BLOB_LEN].into())];
        bodies.extend([Body::Stored { through: 8, room: 9 }, Body::Info(info), asks]);
        let refusals = code::ALL.iter().filter(|(_, c)| *c >= code::FULL && *c != code::NOT_ADMITTED);
        bodies.extend(refusals.map(|(_, c)| Body::Refused(*c)));
        for body in bodies {
            let answer = Answer { incarnation: Incarnation([3; 16]), body };
            let mut bytes = answer.encode();
            bytes.resize(16_384, 0);
            assert_eq!(Answer::decode(&bytes), Ok(answer));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Answer::decode(&bytes);
        }
    }
}
