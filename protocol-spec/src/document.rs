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
//! | [`Consensus`] | ⌊2n/3⌋ + 1 authorities, through its [`Header`] | the consensus before it |
//! | [`MixKeys`] | | its hash in the consensus |

mod address;
mod authorities;
mod certificate;
mod consensus;
mod descriptor;
mod extensions;
mod header;
mod layers;
mod mix_keys;
mod parameters;
mod randomness;
mod request;
mod role;
#[cfg(test)]
mod tests;
mod vote;

pub use address::is_public;
pub use authorities::{Authorities, Authority};
pub use certificate::{Certificate, Purpose};
pub use consensus::{Consensus, ConsensusBody, KeyEpochPart, RelayEntry, UnverifiedConsensus};
pub use descriptor::{Descriptor, SignedDescriptor, UnverifiedDescriptor};
pub use extensions::Extensions;
pub use header::{ConsensusSignature, Header, Signature, SignedHeader};
pub use layers::{TooFewMixes, WrongLayers, cut, cut_deals, place, verify_layers, verify_random};
pub use mix_keys::{MixKeys, UnverifiedMixKeys};
pub use parameters::{Params, Profile};
pub use randomness::{
    Closed, Cut, Deal, Origin, RandomItems, Reveal, SharedRandom, close_round, commits_close, deals_after,
    random_commit, random_value,
};
pub use request::{Refusal, Reply, Request};
pub use role::{Position, Roles, legal};
pub use vote::{Echo, UnverifiedEcho, UnverifiedVote, Vote, VotedRelay};
