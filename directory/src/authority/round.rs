//! One attempt at one epoch: what was said, and when a phase is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::{Authorities, Vote};
use posta_protocol::ids::{AuthorityId, Epoch, Hash};
use posta_protocol::now::Mono;

use crate::tally::Counted;

/// Votes that an echo names, by authority.
pub(super) type Named = Vec<(AuthorityId, Hash)>;

/// An epoch and an attempt at it.
pub(super) type Key = (Epoch, u32);

/// Who says which votes count in a round. It goes round with the epochs, so that fewer than a third of liars can spoil
/// no more than as many epochs in a row; and with the attempts.
pub(super) fn leader(authorities: &Authorities, (epoch, attempt): Key) -> Option<AuthorityId> {
    let n = u64::try_from(authorities.len()).unwrap_or(1);
    let turn = usize::try_from(epoch.0.wrapping_add(attempt.into()) % n).unwrap_or(0);
    authorities.list().get(turn).map(|authority| authority.id)
}

/// Where this authority is in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Others have begun, we haven't.
    Idle,
    /// Our vote is being recorded on disk.
    Voting,
    /// Votes come in.
    Vote,
    /// Echoes come in.
    Echo,
    /// The leader's proposal is awaited; or, by the leader, what it takes to make one.
    Propose,
    /// It is settled which votes count; descriptors or documents are still being fetched.
    Gather,
    /// Our signature is being recorded on disk.
    Signing,
    /// Signatures come in.
    Sign,
    /// Nothing came of it.
    Failed,
}

/// A vote that was verified.
#[derive(Debug)]
pub(super) struct Ballot {
    pub(super) hash: Hash,
    pub(super) bytes: Arc<[u8]>,
    pub(super) vote: Vote,
}

#[derive(Debug)]
pub(super) struct Round {
    pub(super) phase: Phase,
    /// When the first message came or we began.
    pub(super) opened: Mono,
    /// When the phase began.
    pub(super) since: Mono,
    /// When enough had arrived for this phase to end at its deadline.
    pub(super) quorum: Option<Mono>,
    pub(super) votes: BTreeMap<AuthorityId, Ballot>,
    pub(super) cheats: BTreeSet<AuthorityId>,
    /// Both votes of each cheat: the others must be shown them, or they would count one.
    pub(super) exposed: Vec<(AuthorityId, Hash, Arc<[u8]>)>,
    /// Echoes, and their signed bytes.
    pub(super) echoes: BTreeMap<AuthorityId, (Named, Arc<[u8]>)>,
    /// What the leader has proposed.
    pub(super) proposal: Option<Named>,
    /// When our vote was sent.
    pub(super) began: Mono,
    /// Votes that others have seen and we haven't: who has them, and when to ask (again).
    pub(super) wanted: BTreeMap<Hash, (BTreeSet<AuthorityId>, Mono)>,
    pub(super) counted: Named,
}

/// What became of a vote that was put in.
pub(super) enum Put {
    New,
    Known,
    /// The voter has said two things: both.
    Cheat(Arc<[u8]>, Arc<[u8]>),
}

impl Round {
    pub(super) const fn new(now: Mono) -> Self {
        Self {
            phase: Phase::Idle,
            opened: now,
            since: now,
            quorum: None,
            votes: BTreeMap::new(),
            cheats: BTreeSet::new(),
            exposed: Vec::new(),
            echoes: BTreeMap::new(),
            proposal: None,
            began: now,
            wanted: BTreeMap::new(),
            counted: Vec::new(),
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Mono) {
        self.phase = phase;
        self.since = now;
        self.quorum = None;
    }

    /// Whether it holds anything of an authority, which may be its leader.
    pub(super) fn heard_from(&self, id: &AuthorityId, leads: bool) -> bool {
        let proposed = leads && self.proposal.is_some();
        proposed || self.votes.contains_key(id) || self.echoes.contains_key(id) || self.cheats.contains(id)
    }

    /// Forgets what an authority has said here; whether nothing is left. Only for a round that we are not in.
    pub(super) fn forget(&mut self, id: &AuthorityId, leads: bool) -> bool {
        if leads {
            self.proposal = None;
        }
        self.votes.remove(id);
        self.echoes.remove(id);
        self.cheats.remove(id);
        self.exposed.retain(|(voter, ..)| voter != id);
        for (sources, _) in self.wanted.values_mut() {
            sources.remove(id);
        }
        self.wanted.retain(|_, (sources, _)| !sources.is_empty());
        self.votes.is_empty() && self.echoes.is_empty() && self.cheats.is_empty() && self.proposal.is_none()
    }

    pub(super) fn put_vote(&mut self, ballot: Ballot) -> Put {
        let voter = ballot.vote.voter();
        self.wanted.remove(&ballot.hash);
        if self.cheats.contains(&voter) && !self.counted.contains(&(voter, ballot.hash)) {
            return Put::Known;
        }
        match self.votes.get(&voter) {
            Some(held) if held.hash == ballot.hash => Put::Known,
            Some(held) => {
                let put = Put::Cheat(Arc::clone(&held.bytes), Arc::clone(&ballot.bytes));
                self.exposed.push((voter, held.hash, Arc::clone(&held.bytes)));
                self.exposed.push((voter, ballot.hash, Arc::clone(&ballot.bytes)));
                // Once it is settled which votes count, those are kept: others have settled it too.
                match self.counted.iter().find(|(id, _)| *id == voter) {
                    Some((_, hash)) if *hash == ballot.hash => {
                        self.votes.insert(voter, ballot);
                    }
                    Some(_) => {}
                    None => {
                        self.votes.remove(&voter);
                    }
                }
                self.cheats.insert(voter);
                put
            }
            None => {
                self.votes.insert(voter, ballot);
                Put::New
            }
        }
    }

    /// The bytes of a vote.
    pub(super) fn vote_bytes(&self, hash: &Hash) -> Option<&Arc<[u8]>> {
        let votes = self.votes.values().map(|b| (&b.hash, &b.bytes));
        votes.chain(self.exposed.iter().map(|(_, hash, bytes)| (hash, bytes))).find(|(h, _)| *h == hash).map(|(_, b)| b)
    }

    /// Takes an echo in, the first of each authority, and notes which votes we lack.
    pub(super) fn put_echo(&mut self, now: Mono, sender: AuthorityId, list: Named, bytes: Arc<[u8]>) {
        if self.echoes.contains_key(&sender) {
            return;
        }
        for (voter, hash) in &list {
            let known = self.votes.get(voter).is_some_and(|b| b.hash == *hash) || self.cheats.contains(voter);
            if !known {
                self.wanted.entry(*hash).or_insert_with(|| (BTreeSet::new(), now)).0.insert(sender);
            }
        }
        self.echoes.insert(sender, (list, bytes));
    }

    /// Whether the phase is over: everything is in, or it is late enough and enough is in. Without a quorum a phase
    /// waits, so that an outage of many authorities delays a round and doesn't spoil it.
    pub(super) fn over(&mut self, now: Mono, authorities: &Authorities, length: Duration) -> bool {
        let (count, complete) = match self.phase {
            Phase::Vote => (self.votes.len(), self.votes.len() + self.cheats.len() >= authorities.len()),
            Phase::Echo => {
                let all = self.votes.keys().all(|id| self.echoes.contains_key(id));
                (self.echoes.len(), all && self.wanted.is_empty())
            }
            _ => return false,
        };
        if count < authorities.threshold() {
            return false;
        }
        self.quorum.get_or_insert(now);
        complete || self.deadline(length).is_some_and(|at| now >= at)
    }

    /// When the phase ends, with a quorum.
    pub(super) fn deadline(&self, length: Duration) -> Option<Mono> {
        match self.phase {
            Phase::Vote | Phase::Echo => self.quorum.map(|quorum| (self.since + length).max(quorum + length / 4)),
            // An honest leader may wait to the end of both phases before, whatever others keep back from it.
            Phase::Propose => Some((self.began + length * 5 / 2).max(self.since + length / 4)),
            Phase::Gather | Phase::Sign => Some(self.since + length),
            _ => None,
        }
    }

    /// Settles which votes count: those whose hash enough authorities have echoed, but for known cheats.
    pub(super) fn settle(&mut self, authorities: &Authorities) -> bool {
        let mut seen: BTreeMap<(AuthorityId, Hash), usize> = BTreeMap::new();
        for named in self.echoes.values().flat_map(|(list, _)| list) {
            *seen.entry(*named).or_default() += 1;
        }
        let need = authorities.threshold();
        self.counted = seen
            .into_iter()
            .filter(|((voter, _), n)| *n >= need && !self.cheats.contains(voter))
            .map(|(named, _)| named)
            .collect();
        self.counted.len() >= need
    }

    /// The votes that count, if all of them are here.
    pub(super) fn counted(&self) -> Option<Counted<'_>> {
        self.counted
            .iter()
            .map(|(voter, hash)| self.votes.get(voter).filter(|b| b.hash == *hash).map(|ballot| (*voter, &ballot.vote)))
            .collect()
    }
}
