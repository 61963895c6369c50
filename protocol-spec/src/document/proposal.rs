//! A proposal: in each round one authority, the leader, says which votes count, and shows the echoes that permit it.
//!
//! Without it, each authority would count what it has heard itself; and one that sends its echo to some of them at the
//! last moment could split them in every epoch, without ever saying two things.

use std::collections::BTreeMap;

use super::vote::check;
use super::{Authorities, Certificate, Echo, UnverifiedEcho};
use crate::codec::{Reader, Writer};
use crate::crypto::context::SIGN_PROPOSAL;
use crate::crypto::signature::{SIGNATURE_LEN, SignKey};
use crate::error::{Malformed, Untrusted};
use crate::ids::{AuthorityId, Epoch, Hash};
use crate::now::Wall;
use crate::params::{MAX_AUTHORITIES, MAX_PROPOSAL_LEN, PROTOCOL_VERSION};

const WHAT: &str = "proposal";

/// A proposal. In this form it is either our own, or verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Vouches for the key that signs; its identity is the proposer.
    pub certificate: Certificate,
    /// The epoch.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: u32,
    /// When it was written.
    pub published: Wall,
    /// The votes that shall count, sorted by authority.
    pub votes: Vec<(AuthorityId, Hash)>,
    /// Signed echoes of this round, sorted by sender: enough of them name each vote.
    pub echoes: Vec<Vec<u8>>,
}

impl Proposal {
    /// The authority that proposes.
    #[must_use]
    pub const fn proposer(&self) -> AuthorityId {
        AuthorityId(self.certificate.identity)
    }

    /// The signed proposal's bytes.
    #[must_use]
    pub fn sign(&self, key: &SignKey) -> Vec<u8> {
        let mut w = Writer::with_capacity(MAX_PROPOSAL_LEN / 4);
        w.u16(PROTOCOL_VERSION);
        self.certificate.write(&mut w);
        w.u64(self.epoch.0);
        w.u32(self.attempt);
        w.u64(self.published.0);
        w.count(self.votes.len());
        for (voter, hash) in &self.votes {
            voter.write(&mut w);
            hash.write(&mut w);
        }
        w.count(self.echoes.len());
        for echo in &self.echoes {
            w.bounded(echo);
        }
        let mut bytes = w.finish();
        let signature = key.sign(SIGN_PROPOSAL, &bytes);
        bytes.extend_from_slice(&signature);
        bytes
    }
}

/// A proposal that parses, and that nothing else is known about.
#[derive(Debug)]
pub struct UnverifiedProposal<'a> {
    proposal: Proposal,
    signed: &'a [u8],
    signature: [u8; SIGNATURE_LEN],
}

impl<'a> UnverifiedProposal<'a> {
    /// Parses a proposal of at most [`MAX_PROPOSAL_LEN`] bytes.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], or [`Untrusted::Version`] for another protocol version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Untrusted> {
        if bytes.len() > MAX_PROPOSAL_LEN {
            return Err(Malformed::TooLong(WHAT).into());
        }
        let (signed, signature) = bytes.split_last_chunk().ok_or(Malformed::Truncated(WHAT))?;
        let mut r = Reader::new(signed);
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let certificate = Certificate::read(&mut r)?;
        let (epoch, attempt, published) = (Epoch(r.u64(WHAT)?), r.u32(WHAT)?, Wall(r.u64(WHAT)?));
        let n = r.count(MAX_AUTHORITIES, WHAT)?;
        let mut votes: Vec<(AuthorityId, Hash)> = Vec::with_capacity(n);
        for _ in 0..n {
            let voter = AuthorityId::read(&mut r)?;
            if votes.last().is_some_and(|(last, _)| *last >= voter) {
                return Err(Malformed::Value("votes of a proposal").into());
            }
            votes.push((voter, Hash::read(&mut r)?));
        }
        let n = r.count(MAX_AUTHORITIES, WHAT)?;
        let echoes = (0..n).map(|_| r.bounded(MAX_PROPOSAL_LEN, WHAT).map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        r.finish(WHAT)?;
        let proposal = Proposal { certificate, epoch, attempt, published, votes, echoes };
        Ok(Self { proposal, signed, signature: *signature })
    }

    /// Checks that a known authority has signed the proposal, that its echoes are of this round and by distinct authorities,
    /// and that they permit it: at least a threshold of votes, each named by at least a threshold of echoes.
    ///
    /// # Errors
    /// [`Untrusted`].
    pub fn verify(self, authorities: &Authorities) -> Result<Proposal, Untrusted> {
        let proposal = self.proposal;
        let (certificate, at) = (&proposal.certificate, proposal.published);
        check(authorities, certificate, at, SIGN_PROPOSAL, self.signed, &self.signature, "the proposal")?;
        let mut named: BTreeMap<(AuthorityId, Hash), usize> = BTreeMap::new();
        let mut last: Option<AuthorityId> = None;
        for bytes in &proposal.echoes {
            let echo: Echo = UnverifiedEcho::decode(bytes)?.verify(authorities)?;
            let in_order = last.replace(echo.sender()).is_none_or(|last| last < echo.sender());
            if !in_order || (echo.epoch, echo.attempt) != (proposal.epoch, proposal.attempt) {
                return Err(Malformed::Value("echoes of a proposal").into());
            }
            for vote in echo.votes {
                *named.entry(vote).or_default() += 1;
            }
        }
        let need = authorities.threshold();
        let enough = |vote: &(AuthorityId, Hash)| named.get(vote).is_some_and(|n| *n >= need);
        if proposal.votes.len() < need || !proposal.votes.iter().all(enough) {
            return Err(Malformed::Value("votes of a proposal").into());
        }
        Ok(proposal)
    }
}
