//! What the authorities sign: a consensus' epoch, start and hash. Kept without the body, signed headers prove what was
//! agreed, and two for one epoch prove that somebody cheated.

use super::{Authorities, Certificate, Purpose};
use crate::codec::{Reader, Writer};
use crate::crypto::context::SIGN_CONSENSUS;
use crate::crypto::signature::{SIGNATURE_LEN, SignKey, verify};
use crate::error::{Malformed, Untrusted};
use crate::ids::{AuthorityId, Epoch, Hash};
use crate::now::Wall;
use crate::params::MAX_AUTHORITIES;

/// A consensus in 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Header {
    /// The epoch that it is for.
    pub epoch: Epoch,
    /// Valid from here; the authorities' certificates are judged as of this time.
    pub valid_after: Wall,
    /// The body's hash.
    pub hash: Hash,
}

impl Header {
    /// Encoded length in bytes.
    pub const LEN: usize = 48;

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { epoch: Epoch(r.u64("header")?), valid_after: Wall(r.u64("header")?), hash: Hash::read(r)? })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.u64(self.epoch.0);
        w.u64(self.valid_after.0);
        self.hash.write(w);
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        self.write(&mut w);
        w.finish()
    }
}

/// One authority's signature under a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsensusSignature {
    /// The authority, and the key that signed.
    pub certificate: Certificate,
    signature: [u8; SIGNATURE_LEN],
}

impl ConsensusSignature {
    /// Signs a header with the certified key.
    #[must_use]
    pub fn sign(header: &Header, certificate: Certificate, key: &SignKey) -> Self {
        Self { certificate, signature: key.sign(SIGN_CONSENSUS, &header.encode()) }
    }

    /// The authority that signed.
    #[must_use]
    pub const fn authority(&self) -> AuthorityId {
        AuthorityId(self.certificate.identity)
    }

    /// Checks that a known authority has signed this header.
    ///
    /// # Errors
    /// [`Untrusted::Signature`] or [`Untrusted::CertificateTime`].
    pub fn verify(&self, header: &Header, authorities: &Authorities) -> Result<(), Untrusted> {
        if authorities.get(&self.authority()).is_none() {
            return Err(Untrusted::Signature("an unknown authority"));
        }
        self.certificate.verify(Purpose::Authority, header.valid_after, "an authority")?;
        if verify(&self.certificate.key.0, SIGN_CONSENSUS, &header.encode(), &self.signature) {
            Ok(())
        } else {
            Err(Untrusted::Signature("the consensus"))
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { certificate: Certificate::read(r)?, signature: r.array("signature")? })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        self.certificate.write(w);
        w.bytes(&self.signature);
    }
}

/// Reads signatures sorted by authority, one each.
pub(super) fn read_signatures(r: &mut Reader<'_>) -> Result<Vec<ConsensusSignature>, Malformed> {
    let n = r.count(MAX_AUTHORITIES, "signatures")?;
    let mut list: Vec<ConsensusSignature> = Vec::with_capacity(n);
    for _ in 0..n {
        let signature = ConsensusSignature::read(r)?;
        if list.last().is_some_and(|last| last.authority() >= signature.authority()) {
            return Err(Malformed::Value("signatures"));
        }
        list.push(signature);
    }
    Ok(list)
}

pub(super) fn write_signatures(list: &[ConsensusSignature], w: &mut Writer) {
    w.count(list.len());
    for signature in list {
        signature.write(w);
    }
}

/// A header with signatures: proof that a consensus was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeader {
    /// What was signed.
    pub header: Header,
    /// Sorted by authority.
    pub signatures: Vec<ConsensusSignature>,
}

impl SignedHeader {
    /// Checks that enough known authorities have signed. Signatures that aren't valid are passed over.
    ///
    /// # Errors
    /// [`Untrusted::TooFewSignatures`].
    pub fn verify(&self, authorities: &Authorities) -> Result<(), Untrusted> {
        let need = authorities.threshold();
        let got = self.signatures.iter().filter(|s| s.verify(&self.header, authorities).is_ok()).count();
        if got >= need { Ok(()) } else { Err(Untrusted::TooFewSignatures { got, need }) }
    }

    /// The signed header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Header::LEN + 4 + self.signatures.len() * (Certificate::LEN + SIGNATURE_LEN));
        self.write(&mut w);
        w.finish()
    }

    /// Parses a signed header that fills `bytes`, unverified: see [`SignedHeader::verify`].
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let signed = Self::read(&mut r)?;
        r.finish("signed header")?;
        Ok(signed)
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { header: Header::read(r)?, signatures: read_signatures(r)? })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        self.header.write(w);
        write_signatures(&self.signatures, w);
    }
}

/// What an authority sends to the others once it has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What was signed.
    pub header: Header,
    /// The signature.
    pub signature: ConsensusSignature,
}

impl Signature {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Header::LEN + Certificate::LEN + SIGNATURE_LEN);
        self.header.write(&mut w);
        self.signature.write(&mut w);
        w.finish()
    }

    /// Parses a message, unverified: see [`ConsensusSignature::verify`].
    ///
    /// # Errors
    /// If it is truncated, or bytes are left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let message = Self { header: Header::read(&mut r)?, signature: ConsensusSignature::read(&mut r)? };
        r.finish("signature")?;
        Ok(message)
    }
}
