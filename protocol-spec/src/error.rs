//! Errors of this crate, sorted by blame: who has to change something.

use thiserror::Error;

/// A peer sent bytes that are not what they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The input ended before the value did.
    #[error("the input ends in the middle of {0}")]
    Truncated(&'static str),
    /// Bytes were left after the value.
    #[error("bytes are left over after {0}")]
    Trailing(&'static str),
    /// A length is above its bound.
    #[error("{0} is longer than allowed")]
    TooLong(&'static str),
    /// A value can't be what it says (unknown number, wrong order, text that isn't UTF-8).
    #[error("{0} has a value that is not allowed")]
    Value(&'static str),
}

/// A document or signature is well-formed but must not be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Untrusted {
    /// The bytes don't parse.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A signature doesn't verify.
    #[error("the signature of {0} is not valid")]
    Signature(&'static str),
    /// A certificate has expired or isn't valid yet.
    #[error("the certificate of {0} is not valid at this time")]
    CertificateTime(&'static str),
    /// Too few of the known authorities signed.
    #[error("{got} of the known authorities signed the consensus, {need} are needed")]
    TooFewSignatures {
        /// Valid signatures by distinct known authorities.
        got: usize,
        /// The threshold, ⌊2n/3⌋ + 1.
        need: usize,
    },
    /// A document isn't valid yet.
    #[error("{0} is not valid yet: compare this machine's clock")]
    TooEarly(&'static str),
    /// A document isn't valid any more.
    #[error("{0} has expired: compare this machine's clock, and fetch a fresh one")]
    Expired(&'static str),
    /// A part doesn't have the hash that binds it.
    #[error("{0} does not have the hash that the consensus gives")]
    Hash(&'static str),
    /// Two documents are shown as evidence, and don't exclude each other.
    #[error("the two documents do not exclude each other: this proves nothing")]
    NoContradiction,
    /// The document speaks another protocol version or geometry.
    #[error("{0} is for another protocol version")]
    Version(&'static str),
}

/// Our own caller asked for something that can't be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The content doesn't fit.
    #[error("{what} is {got} bytes long, at most {max} fit")]
    TooLong {
        /// What was too long.
        what: &'static str,
        /// Its length in bytes.
        got: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// A path has no hops, or more than the geometry has.
    #[error("a path of {got} hops does not fit a geometry of {max}")]
    PathLength {
        /// Hops asked for.
        got: usize,
        /// Hops of the geometry.
        max: usize,
    },
    /// A key that was handed in is not usable.
    #[error("{0} is not a usable key")]
    Key(&'static str),
}

/// A packet that fails to peel. One value, without detail: all failures look the same to everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the packet was refused")]
pub struct Refused;
