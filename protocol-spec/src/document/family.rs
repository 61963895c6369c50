//! Relays that belong together say so by a key of their family, which nobody else can do in their name.

use crate::codec::{Reader, Writer};
use crate::crypto::context::SIGN_FAMILY;
use crate::crypto::signature::{SIGNATURE_LEN, SignKey, verify};
use crate::error::{Malformed, Untrusted};
use crate::ids::RelayId;

/// A family's key, and its word that a relay is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The public key: the same on all relays of the family.
    pub key: [u8; 32],
    proof: [u8; SIGNATURE_LEN],
}

impl Family {
    /// Encoded length in bytes.
    pub const LEN: usize = 32 + SIGNATURE_LEN;

    /// Takes a relay into the family of this key.
    #[must_use]
    pub fn admit(key: &SignKey, relay: &RelayId) -> Self {
        Self { key: key.public(), proof: key.sign(SIGN_FAMILY, &relay.0) }
    }

    /// Checks that the family has taken this relay in.
    ///
    /// # Errors
    /// [`Untrusted::Signature`].
    pub fn verify(&self, relay: &RelayId) -> Result<(), Untrusted> {
        if verify(&self.key, SIGN_FAMILY, &relay.0, &self.proof) {
            Ok(())
        } else {
            Err(Untrusted::Signature("the relay's family"))
        }
    }

    /// The [`Family::LEN`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [self.key.as_slice(), &self.proof].concat()
    }

    /// Reads what [`Family::encode`] has written, unverified.
    ///
    /// # Errors
    /// If it has another length.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let family = Self { key: r.array("family")?, proof: r.array("family")? };
        r.finish("family")?;
        Ok(family)
    }

    pub(super) fn read_option(r: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let family = |r: &mut Reader<'_>| Ok(Self { key: r.array("family")?, proof: r.array("family")? });
        if r.bool("family")? { family(r).map(Some) } else { Ok(None) }
    }

    pub(super) fn write_option(family: Option<&Self>, w: &mut Writer) {
        w.bool(family.is_some());
        if let Some(family) = family {
            w.bytes(&family.key);
            w.bytes(&family.proof);
        }
    }
}
