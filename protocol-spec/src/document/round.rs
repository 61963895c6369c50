//! What was said in the round that made a consensus, as an authority tells whoever asks: a view for people, not signed.
//! The votes in it are, and can be fetched by hash.

use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::ids::{AuthorityId, Epoch, Hash};
use crate::params::MAX_AUTHORITIES;
use crate::registry::vote_state as code;

const WHAT: &str = "report of a round";

/// What became of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteState {
    /// It counted.
    Counted,
    /// Too few echoed it in time.
    NotCounted,
    /// Its writer voted twice.
    Twice,
}

/// One authority's vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReport {
    /// The authority.
    pub voter: AuthorityId,
    /// The vote's hash; zero for one who voted twice.
    pub hash: Hash,
    /// What became of it.
    pub state: VoteState,
}

/// A round as one authority has seen it. Who is not in it has not voted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundReport {
    /// The epoch.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: u32,
    /// Votes, sorted by authority.
    pub votes: Vec<VoteReport>,
}

impl RoundReport {
    /// Longest encoding in bytes.
    pub const MAX_LEN: usize = 16 + MAX_AUTHORITIES * 65;

    /// The report's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::MAX_LEN);
        w.u64(self.epoch.0);
        w.u32(self.attempt);
        w.count(self.votes.len());
        for vote in &self.votes {
            vote.voter.write(&mut w);
            vote.hash.write(&mut w);
            w.u8(match vote.state {
                VoteState::Counted => code::COUNTED,
                VoteState::NotCounted => code::NOT_COUNTED,
                VoteState::Twice => code::TWICE,
            });
        }
        w.finish()
    }

    /// Parses a report.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let (epoch, attempt) = (Epoch(r.u64(WHAT)?), r.u32(WHAT)?);
        let n = r.count(MAX_AUTHORITIES, WHAT)?;
        let mut votes: Vec<VoteReport> = Vec::with_capacity(n);
        for _ in 0..n {
            let (voter, hash) = (AuthorityId::read(&mut r)?, Hash::read(&mut r)?);
            let state = match r.u8(WHAT)? {
                code::COUNTED => VoteState::Counted,
                code::NOT_COUNTED => VoteState::NotCounted,
                code::TWICE => VoteState::Twice,
                _ => return Err(Malformed::Value(WHAT)),
            };
            if votes.last().is_some_and(|last| last.voter >= voter) {
                return Err(Malformed::Value(WHAT));
            }
            votes.push(VoteReport { voter, hash, state });
        }
        r.finish(WHAT)?;
        Ok(Self { epoch, attempt, votes })
    }
}
