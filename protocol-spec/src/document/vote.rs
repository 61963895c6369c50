//! What authorities say to one another in a round: votes, and echoes of the votes seen.

use super::{Authorities, Certificate, Class, Extensions, Params, Purpose, RandomItems, SignedHeader};
use crate::codec::{Reader, Writer};
use crate::crypto::context::{SIGN_ECHO, SIGN_VOTE, VOTE};
use crate::crypto::hash;
use crate::crypto::signature::{SIGNATURE_LEN, SignKey, verify};
use crate::error::{Malformed, Untrusted};
use crate::ids::{AuthorityId, Epoch, Hash, RelayId};
use crate::now::Wall;
use crate::params::{MAX_AUTHORITIES, MAX_RELAYS, MAX_VOTE_LEN, PROTOCOL_VERSION};

const WHAT: &str = "vote";

/// A relay in a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VotedRelay {
    /// The relay.
    pub id: RelayId,
    /// The digest of the descriptor that the voter holds.
    pub digest: Hash,
    /// How well it works, as the voter has measured.
    pub class: Class,
}

/// A vote: what one authority knows. In this form it is either our own, or verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Vouches for the key that signs; its identity is the voter.
    pub certificate: Certificate,
    /// The epoch voted for.
    pub epoch: Epoch,
    /// Counts rounds for one epoch in which nothing was signed, from 0.
    pub attempt: u32,
    /// When it was written.
    pub published: Wall,
    /// The newest consensus that the voter holds, with the proof that it is valid.
    pub newest: Option<SignedHeader>,
    /// Commits and reveals of the shared randomness.
    pub random: RandomItems,
    /// Parameters that the voter is for.
    pub params: Params,
    /// Relays that the voter is for, sorted.
    pub relays: Vec<VotedRelay>,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Vote {
    /// The authority that votes.
    #[must_use]
    pub const fn voter(&self) -> AuthorityId {
        AuthorityId(self.certificate.identity)
    }

    /// The digest that the vote gives for a relay.
    #[must_use]
    pub fn digest_of(&self, id: &RelayId) -> Option<Hash> {
        self.relays.binary_search_by_key(id, |r| r.id).ok().and_then(|i| self.relays.get(i)).map(|r| r.digest)
    }

    /// The signed vote's bytes.
    #[must_use]
    pub fn sign(&self, key: &SignKey) -> Vec<u8> {
        let mut w = Writer::with_capacity(4096 + 66 * self.relays.len());
        w.u16(PROTOCOL_VERSION);
        self.certificate.write(&mut w);
        w.u64(self.epoch.0);
        w.u32(self.attempt);
        w.u64(self.published.0);
        w.bool(self.newest.is_some());
        if let Some(newest) = &self.newest {
            newest.write(&mut w);
        }
        self.random.write(&mut w);
        self.params.write(&mut w);
        w.count(self.relays.len());
        for relay in &self.relays {
            relay.id.write(&mut w);
            relay.digest.write(&mut w);
            relay.class.write(&mut w);
        }
        self.extensions.write(&mut w);
        let mut bytes = w.finish();
        let signature = key.sign(SIGN_VOTE, &bytes);
        bytes.extend_from_slice(&signature);
        bytes
    }

    /// The hash of a signed vote's bytes, by which echoes name it.
    #[must_use]
    pub fn hash(bytes: &[u8]) -> Hash {
        hash(VOTE, bytes)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let certificate = Certificate::read(r)?;
        let epoch = Epoch(r.u64(WHAT)?);
        let attempt = r.u32(WHAT)?;
        let published = Wall(r.u64(WHAT)?);
        let newest = if r.bool(WHAT)? { Some(SignedHeader::read(r)?) } else { None };
        let random = RandomItems::read(r)?;
        let params = Params::read(r)?;
        let n = r.count(MAX_RELAYS, "relays of a vote")?;
        let mut relays: Vec<VotedRelay> = Vec::with_capacity(n.min(r.left() / 64));
        for _ in 0..n {
            let relay = VotedRelay { id: RelayId::read(r)?, digest: Hash::read(r)?, class: Class::read(r)? };
            if relays.last().is_some_and(|last| last.id >= relay.id) {
                return Err(Malformed::Value("relays of a vote"));
            }
            relays.push(relay);
        }
        let extensions = Extensions::read(r)?;
        Ok(Self { certificate, epoch, attempt, published, newest, random, params, relays, extensions })
    }
}

/// A vote that parses, and that nothing else is known about.
#[derive(Debug)]
pub struct UnverifiedVote<'a> {
    vote: Vote,
    signed: &'a [u8],
    signature: [u8; SIGNATURE_LEN],
}

impl<'a> UnverifiedVote<'a> {
    /// Parses a vote of at most [`MAX_VOTE_LEN`] bytes.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], or [`Untrusted::Version`] for another protocol version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Untrusted> {
        if bytes.len() > MAX_VOTE_LEN {
            return Err(Malformed::TooLong(WHAT).into());
        }
        let (signed, signature) = bytes.split_last_chunk().ok_or(Malformed::Truncated(WHAT))?;
        let mut r = Reader::new(signed);
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let vote = Vote::read(&mut r)?;
        r.finish(WHAT)?;
        Ok(Self { vote, signed, signature: *signature })
    }

    /// Checks that a known authority has signed the vote, and that the consensus it names was valid and is older than the
    /// epoch voted for. The certificate is judged as of the vote's publication, so that all come to the same result.
    ///
    /// # Errors
    /// [`Untrusted`].
    pub fn verify(self, authorities: &Authorities) -> Result<Vote, Untrusted> {
        let vote = self.vote;
        check(authorities, &vote.certificate, vote.published, SIGN_VOTE, self.signed, &self.signature, "the vote")?;
        if let Some(newest) = &vote.newest {
            newest.verify(authorities)?;
            if newest.header.epoch >= vote.epoch {
                return Err(Malformed::Value("the newest consensus of a vote").into());
            }
        }
        Ok(vote)
    }
}

/// An echo: the votes that one authority has seen. In this form it is either our own, or verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Vouches for the key that signs; its identity is the sender.
    pub certificate: Certificate,
    /// The epoch voted for.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: u32,
    /// When it was written.
    pub published: Wall,
    /// The hash of the one vote seen of each authority, sorted by authority.
    pub votes: Vec<(AuthorityId, Hash)>,
}

impl Echo {
    /// The authority that echoes.
    #[must_use]
    pub const fn sender(&self) -> AuthorityId {
        AuthorityId(self.certificate.identity)
    }

    /// The signed echo's bytes.
    #[must_use]
    pub fn sign(&self, key: &SignKey) -> Vec<u8> {
        let mut w = Writer::with_capacity(512 + 64 * self.votes.len());
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
        let mut bytes = w.finish();
        let signature = key.sign(SIGN_ECHO, &bytes);
        bytes.extend_from_slice(&signature);
        bytes
    }
}

/// An echo that parses, and that nothing else is known about.
#[derive(Debug)]
pub struct UnverifiedEcho<'a> {
    echo: Echo,
    signed: &'a [u8],
    signature: [u8; SIGNATURE_LEN],
}

impl<'a> UnverifiedEcho<'a> {
    /// Parses an echo.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], or [`Untrusted::Version`] for another protocol version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Untrusted> {
        const WHAT: &str = "echo";
        let (signed, signature) = bytes.split_last_chunk().ok_or(Malformed::Truncated(WHAT))?;
        let mut r = Reader::new(signed);
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let certificate = Certificate::read(&mut r)?;
        let epoch = Epoch(r.u64(WHAT)?);
        let attempt = r.u32(WHAT)?;
        let published = Wall(r.u64(WHAT)?);
        let n = r.count(MAX_AUTHORITIES, WHAT)?;
        let mut votes: Vec<(AuthorityId, Hash)> = Vec::with_capacity(n);
        for _ in 0..n {
            let voter = AuthorityId::read(&mut r)?;
            if votes.last().is_some_and(|(last, _)| *last >= voter) {
                return Err(Malformed::Value("votes of an echo").into());
            }
            votes.push((voter, Hash::read(&mut r)?));
        }
        r.finish(WHAT)?;
        Ok(Self { echo: Echo { certificate, epoch, attempt, published, votes }, signed, signature: *signature })
    }

    /// Checks that a known authority has signed the echo, and that it names known authorities only.
    ///
    /// # Errors
    /// [`Untrusted`].
    pub fn verify(self, authorities: &Authorities) -> Result<Echo, Untrusted> {
        let echo = self.echo;
        check(authorities, &echo.certificate, echo.published, SIGN_ECHO, self.signed, &self.signature, "the echo")?;
        if echo.votes.iter().any(|(voter, _)| authorities.get(voter).is_none()) {
            return Err(Malformed::Value("votes of an echo").into());
        }
        Ok(echo)
    }
}

pub(super) fn check(
    authorities: &Authorities,
    certificate: &Certificate,
    at: Wall,
    context: &'static str,
    signed: &[u8],
    signature: &[u8; SIGNATURE_LEN],
    what: &'static str,
) -> Result<(), Untrusted> {
    if authorities.get(&AuthorityId(certificate.identity)).is_none() {
        return Err(Untrusted::Signature("an unknown authority"));
    }
    certificate.verify(Purpose::Authority, at, "an authority")?;
    if verify(&certificate.key.0, context, signed, signature) { Ok(()) } else { Err(Untrusted::Signature(what)) }
}
