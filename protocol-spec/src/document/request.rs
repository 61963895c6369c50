//! What is asked of an authority, and what it answers.

use core::net::SocketAddr;

use super::RoundReport;
use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::ids::{Epoch, Hash};
use crate::params::{
    MAX_CONSENSUS_DIFF_LEN, MAX_CONSENSUS_LEN, MAX_DESCRIPTOR_LEN, MAX_DESCRIPTORS_AT_ONCE, MAX_MIX_KEYS_LEN,
    MAX_VOTE_LEN,
};
use crate::registry::{directory as code, directory_answer, reach, refusal};

const WHAT: &str = "request";

/// A request: one byte that says which, then what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// From a relay: its signed descriptor. Answered by [`Reply::Ok`] without content.
    PostDescriptor(Vec<u8>),
    /// The newest consensus, if it is for a later epoch than this; `Epoch(0)` for any.
    GetConsensus {
        /// The epoch of the one that the asker holds.
        newer_than: Epoch,
    },
    /// The mix keys that have this hash.
    GetMixKeys(Hash),
    /// Descriptors with these hashes; those that are held come back, see [`Reply::descriptors`].
    GetDescriptors(Vec<Hash>),
    /// Between authorities: a signed vote.
    Vote(Vec<u8>),
    /// Between authorities: a signed echo.
    Echo(Vec<u8>),
    /// Between authorities: a [`super::Signature`].
    Signature(Vec<u8>),
    /// The vote that has this hash: of a round that goes on between authorities, of the last one for everyone.
    GetVote(Hash),
    /// From a relay: its signed withdrawal. Answered by [`Reply::Ok`] without content.
    Withdraw(Vec<u8>),
    /// Between authorities: a signed proposal.
    Proposal(Vec<u8>),
    /// The [`super::RoundReport`] of the round that made the newest consensus.
    GetRound,
    /// How the newest consensus differs from the one with this hash: a [`super::ConsensusDiff`].
    GetConsensusDiff {
        /// The hash of the one that the asker holds.
        base: Hash,
    },
    /// How the mix keys with the one hash became those with the other: see [`super::MixKeysDiff::unpack`].
    GetMixKeysDiff {
        /// The hash of those that the asker holds.
        base: Hash,
        /// The hash of those that it wants.
        to: Hash,
    },
    /// To a relay, from a relay that is listed: dial this address of mine, and say what came of it. Answered by
    /// [`Reply::Ok`] with a [`Reached`] in one byte; [`Refusal::Address`] if the consensus doesn't list it as the asker's.
    Reach {
        /// Whether it is one for clients.
        client: bool,
        /// The address.
        address: SocketAddr,
    },
}

/// What came of dialling a relay's address for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// The relay answered, with its key.
    Yes,
    /// Nobody answered in time.
    Silent,
    /// Somebody else answered, or whoever did refused.
    Other,
    /// Who was asked has no address of that kind itself.
    Unable,
}

impl Reached {
    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Yes => reach::REACHED,
            Self::Silent => reach::SILENT,
            Self::Other => reach::OTHER,
            Self::Unable => reach::UNABLE,
        }
    }

    /// From the content of a reply.
    ///
    /// # Errors
    /// [`Malformed::Value`] if it isn't one known number.
    pub fn decode(content: &[u8]) -> Result<Self, Malformed> {
        Ok(match content {
            [reach::REACHED] => Self::Yes,
            [reach::SILENT] => Self::Silent,
            [reach::OTHER] => Self::Other,
            [reach::UNABLE] => Self::Unable,
            _ => return Err(Malformed::Value("reached")),
        })
    }
}

impl Request {
    /// Longest request of one who is no authority: a descriptor.
    pub const MAX_LEN: usize = 1 + MAX_DESCRIPTOR_LEN;
    /// Longest request of an authority: a vote.
    pub const MAX_AUTHORITY_LEN: usize = 1 + MAX_VOTE_LEN;

    /// The request's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(64);
        match self {
            Self::PostDescriptor(bytes) => {
                w.u8(code::POST_DESCRIPTOR);
                w.bytes(bytes);
            }
            Self::GetConsensus { newer_than } => {
                w.u8(code::GET_CONSENSUS);
                w.u64(newer_than.0);
            }
            Self::GetMixKeys(hash) => {
                w.u8(code::GET_MIX_KEYS);
                hash.write(&mut w);
            }
            Self::GetDescriptors(digests) => {
                w.u8(code::GET_DESCRIPTOR);
                w.count(digests.len());
                for digest in digests {
                    digest.write(&mut w);
                }
            }
            Self::Vote(bytes) => {
                w.u8(code::VOTE);
                w.bytes(bytes);
            }
            Self::Echo(bytes) => {
                w.u8(code::ECHO);
                w.bytes(bytes);
            }
            Self::Signature(bytes) => {
                w.u8(code::SIGNATURE);
                w.bytes(bytes);
            }
            Self::Withdraw(bytes) => {
                w.u8(code::WITHDRAW);
                w.bytes(bytes);
            }
            Self::Proposal(bytes) => {
                w.u8(code::PROPOSAL);
                w.bytes(bytes);
            }
            Self::GetRound => w.u8(code::GET_ROUND),
            Self::GetVote(hash) => {
                w.u8(code::GET_VOTE);
                hash.write(&mut w);
            }
            Self::GetConsensusDiff { base } => {
                w.u8(code::GET_CONSENSUS_DIFF);
                base.write(&mut w);
            }
            Self::GetMixKeysDiff { base, to } => {
                w.u8(code::GET_MIX_KEYS_DIFF);
                base.write(&mut w);
                to.write(&mut w);
            }
            Self::Reach { client, address } => {
                w.u8(code::REACH);
                w.bool(*client);
                super::address::write_one(address, &mut w);
            }
        }
        w.finish()
    }

    /// Parses a request; documents inside are parsed by whoever verifies them.
    ///
    /// # Errors
    /// [`Malformed::Value`] for an unknown number; or if it is truncated, too long, or bytes are left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let request = match r.u8(WHAT)? {
            code::POST_DESCRIPTOR => Self::PostDescriptor(r.remainder().to_vec()),
            code::GET_CONSENSUS => Self::GetConsensus { newer_than: Epoch(r.u64(WHAT)?) },
            code::GET_MIX_KEYS => Self::GetMixKeys(Hash::read(&mut r)?),
            code::GET_DESCRIPTOR => {
                let n = r.count(MAX_DESCRIPTORS_AT_ONCE, WHAT)?;
                Self::GetDescriptors((0..n).map(|_| Hash::read(&mut r)).collect::<Result<_, _>>()?)
            }
            code::VOTE => Self::Vote(r.remainder().to_vec()),
            code::ECHO => Self::Echo(r.remainder().to_vec()),
            code::SIGNATURE => Self::Signature(r.remainder().to_vec()),
            code::GET_VOTE => Self::GetVote(Hash::read(&mut r)?),
            code::WITHDRAW => Self::Withdraw(r.remainder().to_vec()),
            code::PROPOSAL => Self::Proposal(r.remainder().to_vec()),
            code::GET_ROUND => Self::GetRound,
            code::GET_CONSENSUS_DIFF => Self::GetConsensusDiff { base: Hash::read(&mut r)? },
            code::GET_MIX_KEYS_DIFF => Self::GetMixKeysDiff { base: Hash::read(&mut r)?, to: Hash::read(&mut r)? },
            code::REACH => Self::Reach { client: r.bool(WHAT)?, address: super::address::read_one(&mut r)? },
            _ => return Err(Malformed::Value(WHAT)),
        };
        r.finish(WHAT)?;
        Ok(request)
    }

    /// Longest reply that an honest authority gives.
    #[must_use]
    pub const fn max_reply(&self) -> usize {
        1 + match self {
            Self::PostDescriptor(_)
            | Self::Vote(_)
            | Self::Echo(_)
            | Self::Signature(_)
            | Self::Withdraw(_)
            | Self::Proposal(_)
            | Self::Reach { .. } => 1,
            Self::GetRound => RoundReport::MAX_LEN,
            Self::GetConsensus { .. } => MAX_CONSENSUS_LEN,
            Self::GetMixKeys(_) | Self::GetMixKeysDiff { .. } => MAX_MIX_KEYS_LEN,
            Self::GetConsensusDiff { .. } => MAX_CONSENSUS_DIFF_LEN,
            Self::GetDescriptors(_) => 4 + MAX_DESCRIPTORS_AT_ONCE * (4 + MAX_DESCRIPTOR_LEN),
            Self::GetVote(_) => MAX_VOTE_LEN,
        }
    }
}

/// Why an authority refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The request doesn't parse.
    Malformed,
    /// A signature or certificate isn't valid, or the clock is off.
    Untrusted,
    /// A newer one is held.
    Outdated,
    /// Too many requests: try again later.
    Busy,
    /// No room for another relay.
    Full,
    /// The authority's policy doesn't admit the relay's addresses.
    Address,
    /// Only authorities may ask this.
    NotAuthority,
    /// The round is over, or hasn't begun.
    Round,
    /// The authority doesn't know this request, or we don't know its reason.
    Unsupported,
    /// No difference from that document is at hand: the whole one is.
    Base,
    /// The authority's operator does not admit the relay.
    Policy,
}

impl Refusal {
    const fn code(self) -> u8 {
        match self {
            Self::Malformed => refusal::MALFORMED,
            Self::Untrusted => refusal::UNTRUSTED,
            Self::Outdated => refusal::OUTDATED,
            Self::Busy => refusal::BUSY,
            Self::Full => refusal::FULL,
            Self::Address => refusal::ADDRESS,
            Self::NotAuthority => refusal::NOT_AUTHORITY,
            Self::Round => refusal::ROUND,
            Self::Unsupported => refusal::UNSUPPORTED,
            Self::Base => refusal::BASE,
            Self::Policy => refusal::POLICY,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            refusal::MALFORMED => Self::Malformed,
            refusal::UNTRUSTED => Self::Untrusted,
            refusal::OUTDATED => Self::Outdated,
            refusal::BUSY => Self::Busy,
            refusal::FULL => Self::Full,
            refusal::ADDRESS => Self::Address,
            refusal::NOT_AUTHORITY => Self::NotAuthority,
            refusal::ROUND => Self::Round,
            refusal::BASE => Self::Base,
            refusal::POLICY => Self::Policy,
            _ => Self::Unsupported,
        }
    }
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the request is malformed: compare the versions of both programs",
            Self::Untrusted => {
                "a signature or certificate is not valid: check the keys' expiry and this machine's clock"
            }
            Self::Outdated => "a newer descriptor is held: check this machine's clock",
            Self::Busy => "too many requests: try again later",
            Self::Full => "the directory has no room for another relay",
            Self::Address => "the addresses are not admitted: they must be public, with at most two relays on each",
            Self::NotAuthority => "only authorities may ask this",
            Self::Round => "the round is over or has not begun",
            Self::Unsupported => "the request is of another version: update the older program",
            Self::Base => "no difference from that document is at hand: ask for the whole one",
            Self::Policy => "this authority's operator does not admit the relay: ask him",
        })
    }
}

/// An authority's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<B = Vec<u8>> {
    /// Done; or here it is.
    Ok(B),
    /// There is none.
    None,
    /// Refused.
    Refused(Refusal),
}

impl<B: AsRef<[u8]>> Reply<B> {
    /// The reply's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ok(content) => {
                let content = content.as_ref();
                let mut w = Writer::with_capacity(1 + content.len());
                w.u8(directory_answer::OK);
                w.bytes(content);
                w.finish()
            }
            Self::None => vec![directory_answer::NONE],
            Self::Refused(reason) => vec![directory_answer::REFUSED, reason.code()],
        }
    }
}

impl Reply {
    /// Parses a reply; the content is parsed by whoever asked for it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let reply = match r.u8("reply")? {
            directory_answer::OK => Self::Ok(r.remainder().to_vec()),
            directory_answer::NONE => Self::None,
            directory_answer::REFUSED => Self::Refused(Refusal::from_code(r.u8("reply")?)),
            _ => return Err(Malformed::Value("reply")),
        };
        r.finish("reply")?;
        Ok(reply)
    }

    /// Packs descriptors into the content of a reply to [`Request::GetDescriptors`].
    #[must_use]
    pub fn pack_descriptors<'a>(list: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut w = Writer::with_capacity(list.len() * 4096);
        w.count(list.len());
        for descriptor in list {
            w.bounded(descriptor);
        }
        w.finish()
    }

    /// Unpacks the content of a reply to [`Request::GetDescriptors`].
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn descriptors(content: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
        let mut r = Reader::new(content);
        let n = r.count(MAX_DESCRIPTORS_AT_ONCE, "descriptors")?;
        let list = (0..n).map(|_| r.bounded(MAX_DESCRIPTOR_LEN, "descriptor")).collect::<Result<_, _>>()?;
        r.finish("descriptors")?;
        Ok(list)
    }
}
