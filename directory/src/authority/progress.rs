//! A round's way from phase to phase.

use std::sync::Arc;

use posta_protocol::document::{
    Consensus, ConsensusSignature, Echo, Extensions, Header, Proposal, Request, Signature, Vote,
};
use posta_protocol::ids::{AuthorityId, Hash};
use posta_protocol::now::{Mono, Now};
use rand_core::CryptoRng;

use super::round::{Ballot, Key, Phase, Round, leader};
use super::{Action, Authority, Published, Record};
use crate::intake::Held;
use crate::tally::{self, Counted, Outcome};

/// Steps taken at once at most: a round has fewer.
const MAX_STEPS: usize = 32;
/// Epochs whose tallies are kept: somebody may prove later that one of them is signed, which must not be lost. Fewer than
/// a third of liars can't spoil more epochs in a row, up to ten authorities.
const MAX_OUTCOMES: usize = 4;

impl<R: CryptoRng> Authority<R> {
    /// Goes on as far as possible.
    pub(super) fn step(&mut self, now: Now) {
        for _ in 0..MAX_STEPS {
            if !self.advance(now) {
                break;
            }
        }
        self.resend(now);
        if self.target(now).is_some() && now.mono >= self.next_ask {
            self.ask_for_consensus(now);
        }
        self.forget(now);
        self.set_wake(now);
    }

    /// Drops what is too old to matter.
    fn forget(&mut self, now: Now) {
        let oldest = self.epoch_at(now.wall).0.saturating_sub(1);
        let active = self.active;
        self.rounds.retain(|key, _| key.0.0 >= oldest || Some(*key) == active);
        self.signatures.retain(|epoch, _| epoch.0 >= oldest);
    }

    /// One step; whether there may be another.
    fn advance(&mut self, now: Now) -> bool {
        if self.assemble(now) {
            return true;
        }
        let Some(target) = self.target(now) else {
            self.active = None;
            return false;
        };
        let Some(key) = self.choose(now, target) else {
            // A round that failed, or one of an epoch that has passed, is left.
            if self.active.is_some_and(|(epoch, _)| epoch != target) {
                self.active = None;
            }
            return false;
        };
        if self.active != Some(key) {
            if self.active.is_none_or(|(epoch, _)| epoch != target) {
                // Time for the round before we look for its result elsewhere.
                self.next_ask = self.next_ask.max(now.mono + self.phase_length(now));
            }
            self.active = Some(key);
        }
        let length = self.phase_length(now);
        let authorities = &self.settings.authorities;
        let round = self.rounds.entry(key).or_insert_with(|| Round::new(now.mono));
        let over = round.over(now.mono, authorities, length);
        match round.phase {
            Phase::Idle => self.vote(now, key),
            Phase::Vote if over || round.proposal.is_some() => {
                self.echo(now, key);
                true
            }
            Phase::Echo => {
                let done = over || round.proposal.is_some();
                if done {
                    round.settle(authorities);
                    round.enter(Phase::Propose, now.mono);
                } else {
                    self.ask_for_votes(now, key);
                }
                done
            }
            Phase::Propose => self.propose(now, key),
            Phase::Gather => self.gather(now, key),
            Phase::Sign if round.deadline(length).is_some_and(|at| now.mono >= at) && self.spent != Some(target) => {
                self.spent = Some(target);
                true
            }
            Phase::Voting | Phase::Vote | Phase::Signing | Phase::Sign | Phase::Failed => false,
        }
    }

    /// Writes our vote and has it recorded. Never a second one for the same round.
    fn vote(&mut self, now: Now, key: Key) -> bool {
        if self.voted.is_some_and(|voted| voted >= key) {
            return false;
        }
        let (random, contribution) = self.random_items(key.0);
        let mut relays = self.intake.votes();
        for relay in &mut relays {
            relay.class = self.measured.get(&relay.id).copied().unwrap_or_default();
        }
        let vote = Vote {
            certificate: self.settings.certificate,
            epoch: key.0,
            attempt: key.1,
            published: now.wall,
            newest: self.newest.as_ref().map(|p| p.consensus.signed_header()),
            random,
            params: self.settings.params.clone(),
            relays,
            extensions: Extensions::default(),
        };
        let bytes: Arc<[u8]> = vote.sign(&self.key).into();
        let ballot = Ballot { hash: Vote::hash(&bytes), bytes: Arc::clone(&bytes), vote };
        self.voted = Some(key);
        self.prepared = Some((key, bytes));
        if let Some(round) = self.rounds.get_mut(&key) {
            round.put_vote(ballot);
            round.enter(Phase::Voting, now.mono);
        }
        self.actions.push_back(Action::Record(Record::Voted { epoch: key.0, attempt: key.1, contribution }));
        true
    }

    /// A record is on disk: what rests on it may leave.
    pub(super) fn recorded(&mut self, now: Now, record: Record) {
        match record {
            Record::Voted { epoch, attempt, .. } => {
                let key = (epoch, attempt);
                let Some((_, bytes)) = self.prepared.take_if(|(prepared, _)| *prepared == key) else { return };
                if let Some(round) = self.rounds.get_mut(&key) {
                    round.enter(Phase::Vote, now.mono);
                    round.began = now.mono;
                    self.broadcast(key, &Request::Vote(bytes.to_vec()));
                }
            }
            Record::Signed(header) => self.sign(now, header),
        }
    }

    /// Says which votes we have seen.
    fn echo(&mut self, now: Now, key: Key) {
        let Some(round) = self.rounds.get_mut(&key) else { return };
        let votes: Vec<_> = round.votes.iter().map(|(id, ballot)| (*id, ballot.hash)).collect();
        let echo = Echo {
            certificate: self.settings.certificate,
            epoch: key.0,
            attempt: key.1,
            published: now.wall,
            votes: votes.clone(),
        };
        let bytes = echo.sign(&self.key);
        round.put_echo(now.mono, self.id, votes, bytes.as_slice().into());
        round.enter(Phase::Echo, now.mono);
        self.broadcast(key, &Request::Echo(bytes));
        self.ask_for_votes(now, key);
    }

    /// Settles which votes count, as the leader proposes: as the leader, or by its proposal. If none comes in time, those
    /// count that we have seen enough echoes of.
    fn propose(&mut self, now: Now, key: Key) -> bool {
        let authorities = &self.settings.authorities;
        let leads = leader(authorities, key) == Some(self.id);
        let need = authorities.threshold();
        let proposed = if leads { self.proposable(key) } else { None };
        let length = self.phase_length(now);
        let Some(round) = self.rounds.get_mut(&key) else { return false };
        let late = round.deadline(length).is_some_and(|at| now.mono >= at);
        if let Some(votes) = proposed {
            let echoes = round.echoes.values().map(|(_, bytes)| bytes.to_vec()).collect();
            let proposal = Proposal {
                certificate: self.settings.certificate,
                epoch: key.0,
                attempt: key.1,
                published: now.wall,
                votes: votes.clone(),
                echoes,
            };
            round.counted = votes;
            round.enter(Phase::Gather, now.mono);
            let bytes = proposal.sign(&self.key);
            self.broadcast(key, &Request::Proposal(bytes));
            return true;
        }
        if let Some(votes) = round.proposal.take() {
            round.counted = votes;
            round.enter(Phase::Gather, now.mono);
            return true;
        }
        if late {
            let enough = round.counted.len() >= need;
            round.enter(if enough { Phase::Gather } else { Phase::Failed }, now.mono);
            if !enough {
                self.failed(now);
            }
        } else if leads {
            self.want_counted(now, key);
            if now.mono >= self.next_ask {
                self.ask_for_consensus(now);
            }
        }
        late
    }

    /// Of the votes that count those that are here and whose base is: everybody else can get from us what they need.
    fn proposable(&self, key: Key) -> Option<Vec<(AuthorityId, Hash)>> {
        let round = self.rounds.get(&key)?;
        let held = self.held_epoch();
        let known = |header: &Header| {
            let mut ours = self.newest.iter().chain(&self.former);
            header.epoch < held || ours.any(|p| p.consensus.hash() == header.hash)
        };
        let usable = |ballot: &Ballot| ballot.vote.newest.as_ref().is_none_or(|newest| known(&newest.header));
        let counted: Vec<_> = round
            .counted
            .iter()
            .filter(|(voter, hash)| round.votes.get(voter).is_some_and(|b| b.hash == *hash && usable(b)))
            .copied()
            .collect();
        let votes = counted.iter().filter_map(|(voter, _)| Some((*voter, &round.votes.get(voter)?.vote))).collect();
        let enough = counted.len() >= self.settings.authorities.threshold() && self.find_base(&votes).is_ok();
        enough.then_some(counted)
    }

    /// Fetches what the tally needs, and tallies.
    fn gather(&mut self, now: Now, key: Key) -> bool {
        let Some(round) = self.rounds.get(&key) else { return false };
        let late = round.deadline(self.phase_length(now)).is_some_and(|at| now.mono >= at);
        let base_missing = match round.counted() {
            None => {
                self.want_counted(now, key);
                None
            }
            Some(votes) => match self.find_base(&votes) {
                Err(()) => Some(()),
                Ok(base) => {
                    let outcome = tally::tally(
                        &self.settings.authorities,
                        self.settings.geometry,
                        key.0,
                        &votes,
                        base.map(|p| &*p.consensus),
                        |digest| self.descriptor(digest).map(|held| Arc::clone(&held.descriptor)),
                    );
                    if let Some(outcome) = outcome {
                        let header = outcome.header;
                        self.keep_outcome(outcome);
                        self.intend(now, key, header);
                        return true;
                    }
                    let wanted = self.lacking(&votes);
                    self.ask_for_descriptors(now, wanted);
                    None
                }
            },
        };
        if base_missing.is_some() && now.mono >= self.next_ask {
            self.ask_for_consensus(now);
        }
        if late {
            if let Some(round) = self.rounds.get_mut(&key) {
                round.enter(Phase::Failed, now.mono);
            }
            self.failed(now);
        }
        late
    }

    /// Has the votes that count and aren't here asked for.
    fn want_counted(&mut self, now: Now, key: Key) {
        let leader = leader(&self.settings.authorities, key);
        if let Some(round) = self.rounds.get_mut(&key) {
            for named in round.counted.clone() {
                if round.votes.get(&named.0).is_none_or(|b| b.hash != named.1) {
                    let echoed = round.echoes.iter().filter(|(_, (list, _))| list.contains(&named)).map(|(id, _)| *id);
                    let sources = echoed.chain(leader).collect();
                    round.wanted.entry(named.1).or_insert((sources, now.mono));
                }
            }
        }
        self.ask_for_votes(now, key);
    }

    /// The consensus to build on; an error if we don't hold it.
    fn find_base(&self, votes: &Counted<'_>) -> Result<Option<&Published>, ()> {
        let Some(header) = tally::base_of(votes) else { return Ok(None) };
        let mut held = self.newest.iter().chain(&self.former);
        held.find(|p| p.consensus.hash() == header.hash).map(|p| Some(&**p)).ok_or(())
    }

    fn descriptor(&self, digest: &Hash) -> Option<&Held> {
        self.intake.get(digest).or_else(|| self.fetched.get(digest))
    }

    /// Descriptors that the tally needs and that aren't here, each with those who list it.
    fn lacking(&self, votes: &Counted<'_>) -> Vec<(Hash, Vec<AuthorityId>)> {
        let mut wanted = Vec::new();
        for (id, digests) in tally::candidates(&self.settings.authorities, votes) {
            for digest in digests.into_iter().filter(|d| self.descriptor(d).is_none()) {
                let sources: Vec<_> =
                    votes.iter().filter(|(_, v)| v.digest_of(&id) == Some(digest)).map(|(voter, _)| *voter).collect();
                wanted.push((digest, sources));
            }
        }
        wanted
    }

    /// Has the document recorded that we are going to sign; or, if another was signed for this epoch before, doesn't sign.
    fn intend(&mut self, now: Now, key: Key, header: Header) {
        let free = self.signed.is_none_or(|signed| signed.epoch < header.epoch || signed == header);
        if let Some(round) = self.rounds.get_mut(&key) {
            round.enter(if free { Phase::Signing } else { Phase::Sign }, now.mono);
        }
        if free {
            self.signed = Some(header);
            self.actions.push_back(Action::Record(Record::Signed(header)));
        }
    }

    fn sign(&mut self, now: Now, header: Header) {
        if self.signed != Some(header) {
            return;
        }
        let signature = ConsensusSignature::sign(&header, self.settings.certificate, &self.key);
        let message = Signature { header, signature };
        self.keep_signature(message);
        let key = self.active.filter(|(epoch, _)| *epoch == header.epoch).unwrap_or((header.epoch, 0));
        if let Some(round) = self.rounds.get_mut(&key) {
            round.enter(Phase::Sign, now.mono);
        }
        self.broadcast(key, &Request::Signature(message.encode()));
    }

    /// Keeps what we have tallied, and parts of mix keys that are the same only once.
    fn keep_outcome(&mut self, mut outcome: Outcome) {
        for (hash, part) in &mut outcome.parts {
            if let Some(held) = self.find_part(hash) {
                *part = held;
            }
        }
        self.outcomes.insert(outcome.header.epoch, outcome);
        while self.outcomes.len() > MAX_OUTCOMES {
            self.outcomes.pop_first();
        }
    }

    /// Puts the consensus together as soon as enough have signed what we tallied.
    fn assemble(&mut self, now: Now) -> bool {
        let need = self.settings.authorities.threshold();
        let signed = |outcome: &Outcome| {
            let of_epoch = self.signatures.get(&outcome.header.epoch)?;
            let ours = of_epoch.values().filter(|s| s.header == outcome.header);
            let signatures: Vec<_> = ours.map(|s| s.signature).collect();
            (signatures.len() >= need).then_some((outcome.header, signatures))
        };
        let Some((header, signatures)) = self.outcomes.values().rev().find_map(signed) else { return false };
        self.assemble_with(now, &header, &signatures)
    }

    /// Publishes what we have tallied for a header, with these signatures.
    pub(super) fn assemble_with(&mut self, now: Now, header: &Header, signatures: &[ConsensusSignature]) -> bool {
        let Some(outcome) = self.outcomes.remove(&header.epoch) else { return false };
        let bytes = Consensus::assemble(&outcome.body, signatures);
        let parts = outcome.parts.iter().map(|(_, part)| Arc::clone(part)).collect();
        match Published::new(&bytes, parts, &self.settings.authorities) {
            Ok(published) => {
                self.publish(now, published);
                true
            }
            Err(_) => false,
        }
    }

    /// A round came to nothing: the next attempt comes soon, unless others have had more luck.
    fn failed(&mut self, now: Now) {
        self.not_before = now.mono + self.phase_length(now) / 2;
        self.next_ask = Mono(0);
    }
}
