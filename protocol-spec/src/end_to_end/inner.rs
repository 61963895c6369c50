//! What a box of a conversation carries: one or two MLS messages.

use core::fmt;

use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::params::BOX_CONTENT_LEN;
use crate::registry::inner as code;

/// The inside of a box.
///
/// ```text
/// 0        8      9
/// | number | kind | [handshake: length (4), bytes] | message: length (4), bytes |
/// ```
#[derive(PartialEq, Eq)]
pub struct Inner {
    /// The number of the application's message in it, 0 for none. It stands outside of MLS, because MLS opens each
    /// message once: a reader must know a copy from its outside, and what comes too early must stay closed.
    pub number: u64,
    /// The MLS messages.
    pub kind: InnerKind,
}

/// Which MLS messages a box carries.
#[derive(PartialEq, Eq)]
#[non_exhaustive]
pub enum InnerKind {
    /// One message.
    Message(Vec<u8>),
    /// A commit, and a message of the epoch that it begins.
    Turn {
        /// Whether this answers the other end's turn, and asks for none itself.
        answer: bool,
        /// The commit.
        commit: Vec<u8>,
        /// The message.
        message: Vec<u8>,
    },
    /// A welcome, and a message of the epoch that it begins.
    Welcome {
        /// The welcome.
        welcome: Vec<u8>,
        /// The message.
        message: Vec<u8>,
    },
    /// Something of a later version; ignored.
    Unknown(u8),
}

impl Inner {
    /// Encodes the inside of a box.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(256);
        w.u64(self.number);
        match &self.kind {
            InnerKind::Message(message) => {
                w.u8(code::MESSAGE);
                w.bounded(message);
            }
            InnerKind::Turn { answer, commit, message } => {
                w.u8(if *answer { code::ANSWER } else { code::TURN });
                w.bounded(commit);
                w.bounded(message);
            }
            InnerKind::Welcome { welcome, message } => {
                w.u8(code::WELCOME);
                w.bounded(welcome);
                w.bounded(message);
            }
            InnerKind::Unknown(n) => w.u8(*n),
        }
        w.finish()
    }

    /// Decodes the inside of a box.
    ///
    /// # Errors
    /// [`Malformed`] if a known kind doesn't parse.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let number = r.u64("inner")?;
        let code = r.u8("inner")?;
        let mut part = || Ok(r.bounded(BOX_CONTENT_LEN, "MLS message")?.to_vec());
        let kind = match code {
            code::MESSAGE => InnerKind::Message(part()?),
            code::TURN | code::ANSWER => {
                InnerKind::Turn { answer: code == code::ANSWER, commit: part()?, message: part()? }
            }
            code::WELCOME => InnerKind::Welcome { welcome: part()?, message: part()? },
            n => {
                r.remainder();
                InnerKind::Unknown(n)
            }
        };
        r.finish("inner")?;
        Ok(Self { number, kind })
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            InnerKind::Message(_) => "Inner(message)",
            InnerKind::Turn { answer: false, .. } => "Inner(turn)",
            InnerKind::Turn { answer: true, .. } => "Inner(answer)",
            InnerKind::Welcome { .. } => "Inner(welcome)",
            InnerKind::Unknown(_) => "Inner(unknown)",
        })
    }
}

impl fmt::Debug for InnerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InnerKind(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insides_come_back() {
        let (a, b) = (vec![1; 5000], vec![2; 300]);
        for kind in [
            InnerKind::Message(a.clone()),
            InnerKind::Turn { answer: false, commit: a.clone(), message: b.clone() },
            InnerKind::Turn { answer: true, commit: a.clone(), message: Vec::new() },
            InnerKind::Welcome { welcome: a, message: b },
            InnerKind::Unknown(99),
        ] {
            let inner = Inner { number: 7, kind };
            assert_eq!(Inner::decode(&inner.encode()), Ok(inner));
        }
    }

    #[test]
    fn a_cut_inside_is_refused_at_every_length() {
        let kind = InnerKind::Turn { answer: true, commit: vec![1; 40], message: vec![2; 40] };
        let whole = Inner { number: 1, kind }.encode();
        for len in 0..whole.len() {
            assert!(Inner::decode(&whole[..len]).is_err(), "{len}");
        }
        assert!(Inner::decode(&[whole.as_slice(), &[0]].concat()).is_err());
    }
}
