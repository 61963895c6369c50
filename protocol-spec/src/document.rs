//! The directory's documents: who relays, who signs, what everyone agrees on.
//!
//! Every document is canonical bytes: integers little-endian, lists bounded, sorted and without duplicates, nothing
//! left over. What comes from the network is an `Unverified…` until `verify` has checked every signature and time in
//! it; only then its content can be reached.
//!
//! | document | signed by | bound to |
//! |---|---|---|
//! | [`Certificate`] | an offline identity key | a signing key and a span of time |
//! | [`Descriptor`] | a relay's signing key | |
//! | [`Vote`], [`Echo`] | an authority's signing key | an epoch and an attempt |
//! | [`Proposal`] | an authority's signing key | the echoes in it |
//! | [`Withdrawal`] | a relay's signing key | |
//! | [`Consensus`] | ⌊2n/3⌋ + 1 authorities, through its [`Header`] | the consensus before it |
//! | [`Evidence`] | | two signed documents that exclude each other |
//! | [`MixKeys`] | | its hash in the consensus |
//! | [`ConsensusDiff`], [`MixKeysDiff`] | | what they start from and lead to, by hash |

mod address;
mod authorities;
mod certificate;
mod class;
mod consensus;
mod descriptor;
mod diff;
mod evidence;
mod extensions;
mod family;
mod header;
mod layers;
mod mix_keys;
mod parameters;
mod proposal;
mod protocols;
mod randomness;
mod request;
mod role;
mod round;
mod shelf;
#[cfg(test)]
mod tests;
mod vote;
mod withdrawal;

pub use address::is_public;
pub use authorities::{Authorities, Authority};
pub use certificate::{Certificate, Purpose};
pub use class::{Class, Reliability, Speed};
pub use consensus::{Consensus, ConsensusBody, KeyEpochPart, Missed, RelayEntry, UnverifiedConsensus};
pub use descriptor::{Descriptor, SignedDescriptor, UnverifiedDescriptor};
pub use diff::{ConsensusDiff, MixKeysDiff};
pub use evidence::{Evidence, EvidenceKind, UnverifiedEvidence};
pub use extensions::Extensions;
pub use family::Family;
pub use header::{ConsensusSignature, Header, Signature, SignedHeader};
pub use layers::{
    Succession, TooFewMixes, WrongLayers, cut, cut_deals, place, verify_kept, verify_layers, verify_random,
    verify_succession, verify_usable,
};
pub use mix_keys::{MixKeys, UnverifiedMixKeys};
pub use parameters::{Params, Profile};
pub use proposal::{Proposal, UnverifiedProposal};
pub use protocols::{Protocols, Standing};
pub use randomness::{
    Closed, Cut, Deal, Origin, RandomItems, Reveal, SharedRandom, close_round, commits_close, deals_after,
    random_commit, random_value,
};
pub use request::{Reached, Refusal, Reply, Request};
pub use role::{Position, Roles, legal};
pub use round::{RoundReport, VoteReport, VoteState};
pub use shelf::Shelf;
pub use vote::{Echo, UnverifiedEcho, UnverifiedVote, Vote, VotedRelay};
pub use withdrawal::{UnverifiedWithdrawal, Withdrawal};
