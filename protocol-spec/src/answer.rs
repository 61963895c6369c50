//! What a queue relay answers through a reply block.
//!
//! ```text
//! 0        4
//! | length | code (1) | incarnation (16) | operands | zeros up to the geometry's length |
//! ```

use crate::codec::{Reader, Writer};
use crate::command::MAX_BOX_LEN;
use crate::error::Malformed;
use crate::ids::Incarnation;
use crate::params::BLOB_LEN;
use crate::registry::answer as code;

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
    /// Not done; the code says why (16 and above in the registry, and what a later version adds).
    Refused(u8),
}

impl core::fmt::Debug for Body {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ok => f.write_str("Ok"),
            Self::Message { .. } => f.write_str("Message(..)"),
            Self::Empty => f.write_str("Empty"),
            Self::Blob(_) => f.write_str("Blob(..)"),
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
    use crate::params::BOX_LEN;

    #[test]
    fn every_answer_comes_back_through_its_padding() {
        let message = Body::Message { sequence: 5, left: 6, body: vec![1; BOX_LEN].into() };
        let mut bodies = vec![Body::Ok, message, Body::Empty, Body::Blob(vec![2; BLOB_LEN].into())];
        bodies.extend(code::ALL.iter().filter(|c| **c >= code::FULL).map(|c| Body::Refused(*c)));
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
