//! What others ask of this authority, and what they say in a round.

use std::sync::Arc;

use posta_protocol::document::{Refusal, Reply, Request, Signature, UnverifiedEcho, UnverifiedVote, Vote};
use posta_protocol::ids::{AuthorityId, Epoch};
use posta_protocol::now::Now;
use posta_protocol::params::ROUND_EPOCHS_AHEAD;
use rand_core::CryptoRng;

use super::round::{Ballot, Key, Put, Round};
use super::{Action, Authority};

/// Rounds in which one authority can have its say before we are in them; bounds what it can make us hold.
const MAX_ROUNDS_AHEAD: usize = 3;

impl<R: CryptoRng> Authority<R> {
    /// Answers a request.
    pub(super) fn answer(&mut self, now: Now, peer: Option<AuthorityId>, request: Request) -> Reply<Arc<[u8]>> {
        let taken = match request {
            Request::PostDescriptor(bytes) => self.intake.offer(now, &bytes),
            Request::GetConsensus { newer_than } => {
                return match &self.newest {
                    Some(newest) if newest.consensus.epoch() > newer_than => Reply::Ok(Arc::clone(&newest.bytes)),
                    _ => Reply::None,
                };
            }
            Request::GetMixKeys(hash) => return self.find_part(&hash).map_or(Reply::None, Reply::Ok),
            Request::GetDescriptors(digests) => {
                let held: Vec<&[u8]> = digests
                    .iter()
                    .filter_map(|digest| self.intake.get(digest).or_else(|| self.fetched.get(digest)))
                    .map(|held| &*held.bytes)
                    .collect();
                return Reply::Ok(Reply::pack_descriptors(held.into_iter()).into());
            }
            _ if peer.is_none() => Err(Refusal::NotAuthority),
            Request::Vote(bytes) => self.take_vote(now, None, &bytes),
            Request::Echo(bytes) => self.take_echo(now, &bytes),
            Request::Signature(bytes) => self.take_signature(now, &bytes),
            Request::GetVote(hash) => {
                let found = self.rounds.values().find_map(|r| r.vote_bytes(&hash));
                return found.map_or(Reply::None, |bytes| Reply::Ok(Arc::clone(bytes)));
            }
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

    /// The round that a message is for; made if need be, within the sender's bound.
    fn round_for(&mut self, now: Now, key: Key, sender: &AuthorityId) -> Result<&mut Round, Refusal> {
        self.in_time(now, key.0)?;
        let ahead =
            self.rounds.iter().filter(|(k, r)| **k != key && Some(**k) != self.active && r.heard_from(sender)).count();
        if ahead >= MAX_ROUNDS_AHEAD {
            return Err(Refusal::Busy);
        }
        Ok(self.rounds.entry(key).or_insert_with(|| Round::new(now.mono)))
    }

    /// Takes a vote in; one that was asked for must be of the round that it was asked for in.
    pub(super) fn take_vote(&mut self, now: Now, asked: Option<Key>, bytes: &[u8]) -> Result<(), Refusal> {
        let vote = UnverifiedVote::decode(bytes)
            .and_then(|vote| vote.verify(&self.settings.authorities))
            .map_err(|_| Refusal::Untrusted)?;
        let (key, voter) = ((vote.epoch, vote.attempt), vote.voter());
        if asked.is_some_and(|asked| asked != key) || voter == self.id {
            return Err(Refusal::Untrusted);
        }
        self.learn(now, &vote);
        let listed: Vec<_> = vote.relays.iter().map(|r| (r.digest, vec![voter])).collect();
        let ballot = Ballot { hash: Vote::hash(bytes), bytes: bytes.into(), vote };
        match self.round_for(now, key, &voter)?.put_vote(ballot) {
            Put::New => self.ask_for_descriptors(now, listed),
            Put::Known => {}
            Put::Cheat(one, other) => self.actions.push_back(Action::Evidence(one, other)),
        }
        Ok(())
    }

    fn take_echo(&mut self, now: Now, bytes: &[u8]) -> Result<(), Refusal> {
        let echo = UnverifiedEcho::decode(bytes)
            .and_then(|echo| echo.verify(&self.settings.authorities))
            .map_err(|_| Refusal::Untrusted)?;
        let (key, sender) = ((echo.epoch, echo.attempt), echo.sender());
        self.round_for(now, key, &sender)?.put_echo(now.mono, sender, echo.votes);
        Ok(())
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
                self.actions.push_back(Action::Evidence(one.into(), other.into()));
            }
            None => {
                of_epoch.insert(message.signature.authority(), message);
            }
        }
    }
}
