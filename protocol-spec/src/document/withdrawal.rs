//! A relay's word that it goes: the next consensus leaves it out.

use super::{Certificate, Purpose};
use crate::codec::{Reader, Writer};
use crate::crypto::context::SIGN_WITHDRAWAL;
use crate::crypto::signature::{SIGNATURE_LEN, SignKey, verify};
use crate::error::{Malformed, Misuse, Untrusted};
use crate::ids::RelayId;
use crate::now::Wall;
use crate::params::{PROTOCOL_VERSION, RELAY_CLOCK_SKEW};

const WHAT: &str = "withdrawal";

/// A withdrawal. In this form it is either the relay's own, or verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// Vouches for the key that signs; its identity is the relay.
    pub certificate: Certificate,
    /// When it was written. Descriptors that are not newer count no more; a newer one brings the relay back.
    pub published: Wall,
}

impl Withdrawal {
    /// Encoded length in bytes.
    pub const LEN: usize = 2 + Certificate::LEN + 8 + SIGNATURE_LEN;

    /// The relay.
    #[must_use]
    pub const fn identity(&self) -> RelayId {
        RelayId(self.certificate.identity)
    }

    /// The signed withdrawal's bytes.
    ///
    /// # Errors
    /// [`Misuse::Key`] if `key` isn't the certified one.
    pub fn sign(&self, key: &SignKey) -> Result<Vec<u8>, Misuse> {
        if key.public() != self.certificate.key.0 {
            return Err(Misuse::Key("the signing key of the withdrawal"));
        }
        let mut w = Writer::with_capacity(Self::LEN);
        w.u16(PROTOCOL_VERSION);
        self.certificate.write(&mut w);
        w.u64(self.published.0);
        let mut bytes = w.finish();
        let signature = key.sign(SIGN_WITHDRAWAL, &bytes);
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }
}

/// A withdrawal that parses, and that nothing else is known about.
#[derive(Debug)]
pub struct UnverifiedWithdrawal<'a> {
    withdrawal: Withdrawal,
    signed: &'a [u8],
    signature: [u8; SIGNATURE_LEN],
}

impl<'a> UnverifiedWithdrawal<'a> {
    /// Parses a withdrawal.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], or [`Untrusted::Version`] for another protocol version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Untrusted> {
        let (signed, signature) = bytes.split_last_chunk().ok_or(Malformed::Truncated(WHAT))?;
        let mut r = Reader::new(signed);
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let withdrawal = Withdrawal { certificate: Certificate::read(&mut r)?, published: Wall(r.u64(WHAT)?) };
        r.finish(WHAT)?;
        Ok(Self { withdrawal, signed, signature: *signature })
    }

    /// Checks certificate, signature and time of publication, as of now.
    ///
    /// # Errors
    /// [`Untrusted`], saying what is wrong.
    pub fn verify(self, now: Wall) -> Result<Withdrawal, Untrusted> {
        let Withdrawal { certificate, published } = self.withdrawal;
        if published > now + RELAY_CLOCK_SKEW {
            return Err(Untrusted::TooEarly(WHAT));
        }
        certificate.verify(Purpose::Relay, now, "the relay")?;
        if verify(&certificate.key.0, SIGN_WITHDRAWAL, self.signed, &self.signature) {
            Ok(self.withdrawal)
        } else {
            Err(Untrusted::Signature("the withdrawal"))
        }
    }
}
