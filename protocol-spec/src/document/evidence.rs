//! Evidence: two signed things by authorities that exclude each other. Whoever has the list of authorities can check it,
//! needs nobody's word for it, and can hand it on.

use super::{Authorities, Signature, SignedHeader, UnverifiedVote, Vote};
use crate::codec::{Reader, Writer};
use crate::crypto::context::EVIDENCE;
use crate::crypto::hash;
use crate::error::{Malformed, Untrusted};
use crate::ids::{AuthorityId, Epoch, Hash};
use crate::params::{MAX_EVIDENCE_LEN, MAX_VOTE_LEN, PROTOCOL_VERSION};
use crate::registry::evidence as code;

const WHAT: &str = "evidence";

/// What the evidence shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceKind {
    /// Two consensuses for one epoch, each signed by enough authorities: at least a third have cheated.
    Consensuses,
    /// Two votes of one authority in one round.
    Votes,
    /// One authority's signatures under two headers for one epoch.
    Signatures,
}

impl EvidenceKind {
    const fn code(self) -> u8 {
        match self {
            Self::Consensuses => code::CONSENSUSES,
            Self::Votes => code::VOTES,
            Self::Signatures => code::SIGNATURES,
        }
    }
}

/// Evidence that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    kind: EvidenceKind,
    epoch: Epoch,
    accused: Vec<AuthorityId>,
    bytes: Vec<u8>,
}

impl Evidence {
    /// Puts two signed things together, in any order, and checks that they are evidence: two encoded [`SignedHeader`]s,
    /// votes, or [`Signature`]s.
    ///
    /// # Errors
    /// As [`UnverifiedEvidence::decode`] and [`UnverifiedEvidence::verify`].
    pub fn new(kind: EvidenceKind, one: &[u8], other: &[u8], authorities: &Authorities) -> Result<Self, Untrusted> {
        let mut w = Writer::with_capacity(one.len() + other.len() + 16);
        w.u16(PROTOCOL_VERSION);
        w.u8(kind.code());
        w.bounded(one.min(other));
        w.bounded(one.max(other));
        UnverifiedEvidence::decode(&w.finish())?.verify(authorities)
    }

    /// What it shows.
    #[must_use]
    pub const fn kind(&self) -> EvidenceKind {
        self.kind
    }

    /// The epoch that it is about.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who has signed both, sorted.
    #[must_use]
    pub fn accused(&self) -> &[AuthorityId] {
        &self.accused
    }

    /// The exact bytes, for others to verify.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash of the bytes, by which it is named.
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash(EVIDENCE, &self.bytes)
    }
}

impl core::fmt::Display for Evidence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let epoch = self.epoch.0;
        match self.kind {
            EvidenceKind::Consensuses => {
                write!(f, "two consensuses for epoch {epoch} are signed by enough authorities")?
            }
            EvidenceKind::Votes => write!(f, "an authority has voted twice in one round for epoch {epoch}")?,
            EvidenceKind::Signatures => write!(f, "an authority has signed two documents for epoch {epoch}")?,
        }
        f.write_str("; both bear the signature of")?;
        for (n, id) in self.accused.iter().enumerate() {
            f.write_str(if n == 0 { " " } else { ", " })?;
            id.0.iter().take(8).try_for_each(|b| write!(f, "{b:02x}"))?;
        }
        Ok(())
    }
}

/// Evidence that parses, and that nothing else is known about.
#[derive(Debug)]
pub struct UnverifiedEvidence<'a> {
    kind: EvidenceKind,
    one: &'a [u8],
    other: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> UnverifiedEvidence<'a> {
    /// Parses evidence of at most [`MAX_EVIDENCE_LEN`] bytes.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], or [`Untrusted::Version`] for another protocol version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Untrusted> {
        if bytes.len() > MAX_EVIDENCE_LEN {
            return Err(Malformed::TooLong(WHAT).into());
        }
        let mut r = Reader::new(bytes);
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let kind = match r.u8(WHAT)? {
            code::CONSENSUSES => EvidenceKind::Consensuses,
            code::VOTES => EvidenceKind::Votes,
            code::SIGNATURES => EvidenceKind::Signatures,
            _ => return Err(Malformed::Value("the kind of evidence").into()),
        };
        let one = r.bounded(MAX_VOTE_LEN, WHAT)?;
        let other = r.bounded(MAX_VOTE_LEN, WHAT)?;
        r.finish(WHAT)?;
        if one >= other {
            return Err(Malformed::Value("the order of evidence").into());
        }
        Ok(Self { kind, one, other, bytes })
    }

    /// Checks both signatures, and that nobody honest makes both.
    ///
    /// # Errors
    /// [`Untrusted::NoContradiction`] if the two go together; else what is wrong with one of them.
    pub fn verify(self, authorities: &Authorities) -> Result<Evidence, Untrusted> {
        let (epoch, accused) = match self.kind {
            EvidenceKind::Consensuses => consensuses(self.one, self.other, authorities)?,
            EvidenceKind::Votes => votes(self.one, self.other, authorities)?,
            EvidenceKind::Signatures => signatures(self.one, self.other, authorities)?,
        };
        Ok(Evidence { kind: self.kind, epoch, accused, bytes: self.bytes.to_vec() })
    }
}

type Found = (Epoch, Vec<AuthorityId>);

fn consensuses(one: &[u8], other: &[u8], authorities: &Authorities) -> Result<Found, Untrusted> {
    let [one, other] = [SignedHeader::decode(one)?, SignedHeader::decode(other)?];
    one.verify(authorities)?;
    other.verify(authorities)?;
    if one.header.epoch != other.header.epoch || one.header == other.header {
        return Err(Untrusted::NoContradiction);
    }
    let signed = |signed: &SignedHeader, by: &AuthorityId| {
        signed.signatures.iter().any(|s| s.authority() == *by && s.verify(&signed.header, authorities).is_ok())
    };
    let both = authorities.list().iter().map(|a| a.id).filter(|id| signed(&one, id) && signed(&other, id));
    Ok((one.header.epoch, both.collect()))
}

fn votes(one: &[u8], other: &[u8], authorities: &Authorities) -> Result<Found, Untrusted> {
    let verified = |bytes| UnverifiedVote::decode(bytes)?.verify(authorities);
    let (one, other): (Vote, Vote) = (verified(one)?, verified(other)?);
    if (one.voter(), one.epoch, one.attempt) != (other.voter(), other.epoch, other.attempt) {
        return Err(Untrusted::NoContradiction);
    }
    Ok((one.epoch, vec![one.voter()]))
}

fn signatures(one: &[u8], other: &[u8], authorities: &Authorities) -> Result<Found, Untrusted> {
    let verified = |bytes| {
        let message = Signature::decode(bytes)?;
        message.signature.verify(&message.header, authorities)?;
        Ok::<_, Untrusted>((message.header, message.signature.authority()))
    };
    let ((one, by), (other, by_other)) = (verified(one)?, verified(other)?);
    if by != by_other || one.epoch != other.epoch || one == other {
        return Err(Untrusted::NoContradiction);
    }
    Ok((one.epoch, vec![by]))
}
