//! An offline identity key certifies a signing key for a span of time.

use crate::codec::{Reader, Writer};
use crate::crypto::context::SIGN_CERTIFICATE;
use crate::crypto::signature::{SIGNATURE_LEN, SignKey, verify};
use crate::error::{Malformed, Untrusted};
use crate::ids::SigningPublicKey;
use crate::now::Wall;
use crate::registry::certificate as code;

/// What a certified key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// A relay's descriptors.
    Relay,
    /// An authority's votes, echoes and consensuses.
    Authority,
}

/// A certificate: 145 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What the key may sign.
    pub purpose: Purpose,
    /// The identity key that vouches.
    pub identity: [u8; 32],
    /// The key vouched for.
    pub key: SigningPublicKey,
    /// Valid from here.
    pub not_before: Wall,
    /// Not valid any more from here.
    pub expires: Wall,
    signature: [u8; SIGNATURE_LEN],
}

impl Certificate {
    /// Encoded length in bytes.
    pub const LEN: usize = 1 + 32 + 32 + 8 + 8 + SIGNATURE_LEN;

    /// Certifies `key` for `not_before <= time < expires`.
    #[must_use]
    pub fn issue(identity: &SignKey, purpose: Purpose, key: SigningPublicKey, not_before: Wall, expires: Wall) -> Self {
        let mut certificate =
            Self { purpose, identity: identity.public(), key, not_before, expires, signature: [0; SIGNATURE_LEN] };
        certificate.signature = identity.sign(SIGN_CERTIFICATE, &certificate.signed());
        certificate
    }

    /// Checks purpose, time and signature.
    ///
    /// # Errors
    /// [`Untrusted::CertificateTime`] outside its span, [`Untrusted::Signature`] for another purpose or a signature that
    /// isn't valid. `what` names whose certificate it is.
    pub fn verify(&self, purpose: Purpose, at: Wall, what: &'static str) -> Result<(), Untrusted> {
        if self.purpose != purpose {
            return Err(Untrusted::Signature(what));
        }
        if at < self.not_before || at >= self.expires {
            return Err(Untrusted::CertificateTime(what));
        }
        if verify(&self.identity, SIGN_CERTIFICATE, &self.signed(), &self.signature) {
            Ok(())
        } else {
            Err(Untrusted::Signature(what))
        }
    }

    /// Reads a certificate, unverified.
    ///
    /// # Errors
    /// If it is truncated, or has a purpose that doesn't exist.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        const WHAT: &str = "certificate";
        let purpose = match r.u8(WHAT)? {
            code::RELAY => Purpose::Relay,
            code::AUTHORITY => Purpose::Authority,
            _ => return Err(Malformed::Value("purpose of a certificate")),
        };
        Ok(Self {
            purpose,
            identity: r.array(WHAT)?,
            key: SigningPublicKey::read(r)?,
            not_before: Wall(r.u64(WHAT)?),
            expires: Wall(r.u64(WHAT)?),
            signature: r.array(WHAT)?,
        })
    }

    /// Reads a certificate that fills `bytes`, unverified.
    ///
    /// # Errors
    /// As [`Certificate::read`], and if bytes are left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let certificate = Self::read(&mut r)?;
        r.finish("certificate")?;
        Ok(certificate)
    }

    /// Writes the certificate.
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.signed());
        w.bytes(&self.signature);
    }

    /// The certificate's [`Certificate::LEN`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        self.write(&mut w);
        w.finish()
    }

    fn signed(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.u8(match self.purpose {
            Purpose::Relay => code::RELAY,
            Purpose::Authority => code::AUTHORITY,
        });
        w.bytes(&self.identity);
        self.key.write(&mut w);
        w.u64(self.not_before.0);
        w.u64(self.expires.0);
        w.finish()
    }
}
