//! What others ask of this authority, and what they say in a round.

use std::net::IpAddr;
use std::sync::Arc;

use posta_protocol::document::{
    Evidence, EvidenceKind, Refusal, Reply, Request, Signature, SignedHeader, UnverifiedEcho, UnverifiedProposal,
    UnverifiedVote, Vote,
};
use posta_protocol::ids::{AuthorityId, Epoch};
use posta_protocol::now::{Now, Wall};
use posta_protocol::params::ROUND_EPOCHS_AHEAD;
use rand_core::CryptoRng;

use super::round::{Ballot, Key, Phase, Put, Round, leader};
use super::{Action, Authority};

/// Rounds in which one authority can have its say without our being in them; bounds what it can make us hold. What it has
/// said in the oldest goes when it speaks in another one: an honest authority has gone on then, and a liar can crowd out
/// nobody but itself.
const MAX_ROUNDS_WITHOUT_US: usize = 3;
/// Pieces of evidence kept until the program ends; what exceeds it is dropped. The archive keeps fewer.
const MAX_ACCUSATIONS: usize = 1_024;

impl<R: CryptoRng> Authority<R> {
    /// Answers a request.
    pub(super) fn answer(
        &mut self,
        now: Now,
        peer: Option<AuthorityId>,
        from: Option<IpAddr>,
        request: Request,
    ) -> Reply<Arc<[u8]>> {
        let taken = match request {
            Request::GetConsensus { .. } | Request::GetConsensusDiff { .. } | Request::GetMixKeysDiff { .. } => {
                return self.shelf.answer(&request).unwrap_or(Reply::None);
            }
            Request::PostDescriptor(bytes) => self.intake.offer(now, from, &bytes),
            Request::Withdraw(bytes) => self.intake.withdraw(now, from, &bytes),
            Request::GetMixKeys(hash) => return self.find_part(&hash).map_or(Reply::None, Reply::Ok),
            Request::GetDescriptors(digests) => {
                let held: Vec<&[u8]> = digests
                    .iter()
                    .filter_map(|digest| self.intake.get(digest).or_else(|| self.fetched.get(digest)))
                    .map(|held| &*held.bytes)
                    .collect();
                return Reply::Ok(Reply::pack_descriptors(held.into_iter()).into());
            }
            Request::GetRound => {
                return self.ended.as_ref().map_or(Reply::None, |ended| Reply::Ok(ended.report.encode().into()));
            }
            Request::GetVote(hash) => {
                let going_on = self.rounds.values().filter(|_| peer.is_some()).find_map(|r| r.vote_bytes(&hash));
                let found = going_on.or_else(|| self.ended.as_ref()?.votes.get(&hash));
                return found.map_or(Reply::None, |bytes| Reply::Ok(Arc::clone(bytes)));
            }
            // What only relays do for one another.
            Request::Reach { .. } => Err(Refusal::Unsupported),
            _ if peer.is_none() => Err(Refusal::NotAuthority),
            Request::Vote(bytes) => self.take_vote(now, None, &bytes),
            Request::Echo(bytes) => self.take_echo(now, &bytes),
            Request::Signature(bytes) => self.take_signature(now, &bytes),
            Request::Proposal(bytes) => self.take_proposal(now, &bytes),
        };
        match taken {
            Ok(()) => Reply::Ok(Arc::default()),
            Err(reason) => Reply::Refused(reason),
        }
    }

    /// Whether messages for an epoch are of use.
    fn in_time(&self, now: Now, epoch: Epoch) -> Result<(), Refusal> {
        if epoch <= self.held_epoch() {
            return Err(Refusal::Outdated);
        }
        let current = self.epoch_at(now.wall).0;
        if epoch.0 + 1 < current || epoch.0 > current + ROUND_EPOCHS_AHEAD { Err(Refusal::Round) } else { Ok(()) }
    }

    /// Whether a message for an epoch says that it was written about then. Certificates are judged as of that time, so that
    /// all come to the same result; without this, who has stolen a key after its expiry could go on with it by writing
    /// an earlier date.
    fn dated(&self, epoch: Epoch, published: Wall) -> Result<(), Refusal> {
        let (length, margin) = (self.epoch_ms(), ROUND_EPOCHS_AHEAD + 1);
        let start = epoch.0.saturating_mul(length);
        let (first, last) = (start.saturating_sub(margin * length), start.saturating_add(margin * length));
        if (first..=last).contains(&published.0) { Ok(()) } else { Err(Refusal::Untrusted) }
    }

    /// The round that a message is for; made if need be, within the sender's bound.
    fn round_for(&mut self, now: Now, key: Key, sender: &AuthorityId) -> Result<&mut Round, Refusal> {
        self.in_time(now, key.0)?;
        let ours = self.rounds.get(&key).is_some_and(|round| round.phase != Phase::Idle);
        let led = |of: Key| leader(&self.settings.authorities, of) == Some(*sender);
        let without_us = |(k, round): (&Key, &Round)| {
            (*k != key && round.phase == Phase::Idle && round.heard_from(sender, led(*k))).then_some(*k)
        };
        let others: Vec<Key> = self.rounds.iter().filter_map(without_us).collect();
        if let Some(oldest) = others.first().copied()
            && !ours
            && others.len() >= MAX_ROUNDS_WITHOUT_US
        {
            if key < oldest {
                return Err(Refusal::Busy);
            }
            let led = led(oldest);
            if let Some(round) = self.rounds.get_mut(&oldest)
                && round.forget(sender, led)
            {
                self.rounds.remove(&oldest);
            }
        }
        Ok(self.rounds.entry(key).or_insert_with(|| Round::new(now.mono)))
    }

    /// Takes a vote in; one that was asked for must be of the round that it was asked for in.
    pub(super) fn take_vote(&mut self, now: Now, asked: Option<Key>, bytes: &[u8]) -> Result<(), Refusal> {
        let hash = Vote::hash(bytes);
        if self.rounds.values().any(|round| round.votes.values().any(|held| held.hash == hash)) {
            // Sent again, because our answer got lost: it has been verified. (One of two by a cheat may still be needed.)
            return Ok(());
        }
        let vote = UnverifiedVote::decode(bytes)
            .and_then(|vote| vote.verify(&self.settings.authorities))
            .map_err(|_| Refusal::Untrusted)?;
        let (key, voter) = ((vote.epoch, vote.attempt), vote.voter());
        if asked.is_some_and(|asked| asked != key) || voter == self.id {
            return Err(Refusal::Untrusted);
        }
        self.dated(key.0, vote.published)?;
        self.learn(now, &vote);
        if let Some(newest) = &vote.newest {
            self.look_at_proof(now, newest);
        }
        let listed: Vec<_> = vote.relays.iter().map(|r| (r.digest, vec![voter])).collect();
        let ballot = Ballot { hash, bytes: bytes.into(), vote };
        match self.round_for(now, key, &voter)?.put_vote(ballot) {
            Put::New => self.ask_for_descriptors(now, listed),
            Put::Known => {}
            Put::Cheat(one, other) => self.accuse(EvidenceKind::Votes, &one, &other),
        }
        Ok(())
    }

    fn take_echo(&mut self, now: Now, bytes: &[u8]) -> Result<(), Refusal> {
        if self.rounds.values().any(|round| round.echoes.values().any(|(_, held)| **held == *bytes)) {
            return Ok(());
        }
        let echo = UnverifiedEcho::decode(bytes)
            .and_then(|echo| echo.verify(&self.settings.authorities))
            .map_err(|_| Refusal::Untrusted)?;
        let (key, sender) = ((echo.epoch, echo.attempt), echo.sender());
        self.dated(key.0, echo.published)?;
        self.round_for(now, key, &sender)?.put_echo(now.mono, sender, echo.votes, bytes.into());
        Ok(())
    }

    fn take_proposal(&mut self, now: Now, bytes: &[u8]) -> Result<(), Refusal> {
        let proposal = UnverifiedProposal::decode(bytes)
            .and_then(|proposal| proposal.verify(&self.settings.authorities))
            .map_err(|_| Refusal::Untrusted)?;
        let (key, proposer) = ((proposal.epoch, proposal.attempt), proposal.proposer());
        if leader(&self.settings.authorities, key) != Some(proposer) {
            return Err(Refusal::Untrusted);
        }
        self.dated(key.0, proposal.published)?;
        // The first one: a leader that proposes two things spoils its round, and no other.
        self.round_for(now, key, &proposer)?.proposal.get_or_insert(proposal.votes);
        Ok(())
    }

    /// Another authority has proved that a consensus is valid. It may be one that we have tallied and that the
    /// signatures for had not reached us; or one that excludes ours.
    fn look_at_proof(&mut self, now: Now, proof: &SignedHeader) {
        let tallied = self.outcomes.get(&proof.header.epoch).is_some_and(|outcome| outcome.header == proof.header);
        if tallied && proof.header.epoch > self.held_epoch() {
            self.assemble_with(now, &proof.header, &proof.signatures);
        }
        let ours = self.newest.iter().chain(&self.former).map(|p| p.consensus.signed_header());
        let other =
            ours.into_iter().find(|ours| ours.header.epoch == proof.header.epoch && ours.header != proof.header);
        if let Some(other) = other {
            self.accuse(EvidenceKind::Consensuses, &other.encode(), &proof.encode());
        }
    }

    /// Has evidence kept, each once.
    fn accuse(&mut self, kind: EvidenceKind, one: &[u8], other: &[u8]) {
        let Ok(evidence) = Evidence::new(kind, one, other, &self.settings.authorities) else { return };
        if self.accused.len() < MAX_ACCUSATIONS && self.accused.insert(evidence.hash()) {
            self.actions.push_back(Action::Evidence(evidence));
        }
    }

    fn take_signature(&mut self, now: Now, bytes: &[u8]) -> Result<(), Refusal> {
        let message = Signature::decode(bytes).map_err(|_| Refusal::Malformed)?;
        message.signature.verify(&message.header, &self.settings.authorities).map_err(|_| Refusal::Untrusted)?;
        self.in_time(now, message.header.epoch)?;
        self.keep_signature(message);
        Ok(())
    }

    /// Keeps the first signature of each authority for an epoch; another one for another document is evidence.
    pub(super) fn keep_signature(&mut self, message: Signature) {
        let of_epoch = self.signatures.entry(message.header.epoch).or_default();
        match of_epoch.get(&message.signature.authority()) {
            Some(held) if held.header == message.header => {}
            Some(held) => {
                let (one, other) = (held.encode(), message.encode());
                self.accuse(EvidenceKind::Signatures, &one, &other);
            }
            None => {
                of_epoch.insert(message.signature.authority(), message);
            }
        }
    }
}
