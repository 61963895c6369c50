//! What this authority asks of the others, and what comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use posta_protocol::document::{
    Consensus, MixKeys, Refusal, Reply, Request, UnverifiedConsensus, UnverifiedDescriptor, UnverifiedMixKeys,
};
use posta_protocol::ids::{AuthorityId, Hash};
use posta_protocol::now::{Mono, Now};
use posta_protocol::params::{MAX_DESCRIPTORS_AT_ONCE, MAX_RELAYS};
use rand_core::CryptoRng;

use super::round::Key;
use super::{Action, Authority, Published};
use crate::intake::Held;

/// Calls under way at once; what exceeds it is asked at the next occasion.
const MAX_CALLS: usize = 1_024;
/// Messages that wait to be sent again; what exceeds it is given up.
const MAX_RESENDS: usize = 256;

/// A call that waits for its answer.
#[derive(Debug)]
pub(super) enum Call {
    /// A vote, echo or signature.
    Message { peer: AuthorityId, key: Key, body: Arc<[u8]> },
    /// Descriptors by digest.
    Descriptors(Vec<Hash>),
    /// A vote of this round by hash.
    Vote(Key),
    /// The newest consensus.
    Consensus(AuthorityId),
    /// Mix keys of the consensus that is being caught up with.
    Part(AuthorityId, Hash),
}

/// A message that didn't reach an authority.
#[derive(Debug)]
pub(super) struct Resend {
    pub(super) at: Mono,
    peer: AuthorityId,
    pub(super) key: Key,
    body: Arc<[u8]>,
}

/// A newer consensus of another authority, whose mix keys are still lacking.
#[derive(Debug)]
pub(super) struct Catching {
    consensus: Consensus,
    parts: BTreeMap<Hash, Arc<[u8]>>,
    /// Others that have it too: the next is asked when one fails.
    sources: Vec<AuthorityId>,
}

impl<R: CryptoRng> Authority<R> {
    fn call(&mut self, peer: AuthorityId, what: Call, request: &Request) {
        self.call_encoded(peer, what, request.encode().into(), request.max_reply());
    }

    fn call_encoded(&mut self, peer: AuthorityId, what: Call, body: Arc<[u8]>, max_reply: usize) {
        if peer == self.id || self.calls.len() >= MAX_CALLS {
            return;
        }
        let call = self.next_call;
        self.next_call += 1;
        self.calls.insert(call, what);
        self.actions.push_back(Action::Call { peer, call, body, max_reply });
    }

    fn others(&self) -> Vec<AuthorityId> {
        self.settings.authorities.list().iter().map(|a| a.id).filter(|id| *id != self.id).collect()
    }

    /// Sends a vote, echo or signature to all others; whom it doesn't reach gets it again, as long as it matters.
    pub(super) fn broadcast(&mut self, key: Key, request: &Request) {
        let (body, max_reply): (Arc<[u8]>, _) = (request.encode().into(), request.max_reply());
        for peer in self.others() {
            self.call_encoded(peer, Call::Message { peer, key, body: Arc::clone(&body) }, Arc::clone(&body), max_reply);
        }
    }

    /// Asks everyone for a newer consensus than ours.
    pub(super) fn ask_for_consensus(&mut self, now: Now) {
        self.next_ask = now.mono + self.phase_length(now);
        let request = Request::GetConsensus { newer_than: self.held_epoch() };
        for peer in self.others() {
            if !self.calls.values().any(|c| matches!(c, Call::Consensus(asked) if *asked == peer)) {
                self.call(peer, Call::Consensus(peer), &request);
            }
        }
    }

    /// Asks for descriptors, each one of those who list it, in turn.
    pub(super) fn ask_for_descriptors(&mut self, now: Now, wanted: Vec<(Hash, Vec<AuthorityId>)>) {
        let again = now.mono + self.retry_delay(now);
        let mut batches: BTreeMap<AuthorityId, Vec<Hash>> = BTreeMap::new();
        for (digest, sources) in wanted {
            let known = self.asked.contains_key(&digest);
            if self.has_descriptor(&digest) || (!known && self.asked.len() >= 2 * MAX_RELAYS) {
                continue;
            }
            let (times, at) = self.asked.entry(digest).or_insert((0, now.mono));
            if *at > now.mono {
                continue;
            }
            if let Some(source) = sources.get(*times % sources.len().max(1)) {
                batches.entry(*source).or_default().push(digest);
            }
            *times += 1;
            *at = again;
        }
        for (peer, digests) in batches {
            for batch in digests.chunks(MAX_DESCRIPTORS_AT_ONCE) {
                self.call(peer, Call::Descriptors(batch.to_vec()), &Request::GetDescriptors(batch.to_vec()));
            }
        }
    }

    pub(super) fn has_descriptor(&self, digest: &Hash) -> bool {
        self.intake.get(digest).is_some() || self.fetched.contains_key(digest)
    }

    /// Asks for votes that others have seen and we haven't.
    pub(super) fn ask_for_votes(&mut self, now: Now, key: Key) {
        let again = now.mono + self.retry_delay(now);
        let mut due = Vec::new();
        if let Some(round) = self.rounds.get_mut(&key) {
            for (hash, (sources, at)) in &mut round.wanted {
                if *at <= now.mono {
                    *at = again;
                    due.extend(sources.iter().map(|source| (*source, *hash)));
                }
            }
        }
        for (source, hash) in due {
            self.call(source, Call::Vote(key), &Request::GetVote(hash));
        }
    }

    /// Sends again what didn't arrive.
    pub(super) fn resend(&mut self, now: Now) {
        let (due, later) = std::mem::take(&mut self.resends).into_iter().partition(|r| r.at <= now.mono);
        self.resends = later;
        let held = self.held_epoch();
        for Resend { peer, key, body, .. } in due {
            if key.0 > held && self.rounds.contains_key(&key) {
                self.call_encoded(peer, Call::Message { peer, key, body: Arc::clone(&body) }, body, 2);
            }
        }
    }

    /// What became of a call.
    pub(super) fn answered(&mut self, now: Now, call: u64, reply: Option<Reply>) {
        let Some(call) = self.calls.remove(&call) else { return };
        match (call, reply) {
            (Call::Message { .. }, Some(Reply::Refused(Refusal::Outdated))) => self.ask_for_consensus(now),
            (Call::Message { peer, key, body }, None | Some(Reply::Refused(Refusal::Round | Refusal::Busy)))
                if self.resends.len() < MAX_RESENDS =>
            {
                let at = now.mono + self.retry_delay(now);
                self.resends.push(Resend { at, peer, key, body });
            }
            (Call::Descriptors(digests), reply) => {
                if let Some(Reply::Ok(content)) = reply {
                    self.take_descriptors(&digests, &content);
                }
                for digest in digests {
                    if self.has_descriptor(&digest) {
                        self.asked.remove(&digest);
                    }
                }
            }
            (Call::Vote(key), Some(Reply::Ok(bytes))) => {
                // A vote of another round or of a stranger is of no use, and is asked for elsewhere.
                let _ = self.take_vote(now, Some(key), &bytes);
            }
            (Call::Consensus(peer), Some(Reply::Ok(bytes))) => self.catch_up(now, peer, &bytes),
            (Call::Part(peer, hash), reply) => self.take_part(now, peer, hash, reply),
            _ => {}
        }
    }

    fn take_descriptors(&mut self, digests: &[Hash], content: &[u8]) {
        let Ok(list) = Reply::descriptors(content) else { return };
        for bytes in list {
            let Ok(descriptor) =
                UnverifiedDescriptor::decode(bytes).and_then(UnverifiedDescriptor::verify_as_published)
            else {
                continue;
            };
            let held = Held::new(bytes, descriptor);
            // Only what was asked for: nobody can fill our memory with more.
            if digests.contains(&held.digest()) && self.fetched.len() < 2 * MAX_RELAYS {
                self.fetched.insert(held.digest(), held);
            }
        }
    }

    /// Another authority's newest consensus has come.
    fn catch_up(&mut self, now: Now, peer: AuthorityId, bytes: &[u8]) {
        let verified = UnverifiedConsensus::decode(bytes).and_then(|c| c.verify_signatures(&self.settings.authorities));
        let Ok(consensus) = verified else { return };
        if let Some(catching) = &mut self.catching
            && catching.consensus.hash() == consensus.hash()
        {
            if !catching.sources.contains(&peer) {
                catching.sources.push(peer);
            }
            return;
        }
        let best = self.catching.iter().map(|c| c.consensus.epoch()).fold(self.held_epoch(), Ord::max);
        if consensus.epoch() <= best {
            return;
        }
        let lacking: Vec<_> = consensus.key_epochs().iter().map(|part| part.mix_keys).collect();
        self.catching = Some(Catching { consensus, parts: BTreeMap::new(), sources: Vec::new() });
        for hash in lacking {
            match self.find_part(&hash) {
                Some(part) => {
                    if let Some(catching) = &mut self.catching {
                        catching.parts.insert(hash, part);
                    }
                }
                None => self.call(peer, Call::Part(peer, hash), &Request::GetMixKeys(hash)),
            }
        }
        self.finish_catching(now);
    }

    /// Mix keys that we hold already, or made ourselves.
    pub(super) fn find_part(&self, hash: &Hash) -> Option<Arc<[u8]>> {
        let held = self.newest.iter().chain(&self.former).flat_map(|p| &p.parts);
        let made = self.outcomes.values().flat_map(|o| &o.parts);
        held.chain(made).find(|(h, _)| h == hash).map(|(_, part)| Arc::clone(part))
    }

    fn take_part(&mut self, now: Now, peer: AuthorityId, hash: Hash, reply: Option<Reply>) {
        let Some(catching) = &mut self.catching else { return };
        if !catching.consensus.key_epochs().iter().any(|part| part.mix_keys == hash) {
            return;
        }
        let whole = |bytes: &[u8]| {
            let decoded = UnverifiedMixKeys::decode(bytes).map_err(Into::into);
            decoded.and_then(|part| part.verify(&catching.consensus)).is_ok() && MixKeys::hash(bytes) == hash
        };
        if let Some(Reply::Ok(bytes)) = reply
            && whole(&bytes)
        {
            catching.parts.insert(hash, bytes.into());
            self.finish_catching(now);
            return;
        }
        // Another one who has the same consensus has all of it, if it is honest.
        catching.sources.retain(|source| *source != peer);
        match catching.sources.last().copied() {
            Some(next) => self.call(next, Call::Part(next, hash), &Request::GetMixKeys(hash)),
            None => self.catching = None,
        }
    }

    fn finish_catching(&mut self, now: Now) {
        let Some(catching) = &self.catching else { return };
        let parts: Option<Vec<_>> =
            catching.consensus.key_epochs().iter().map(|part| catching.parts.get(&part.mix_keys).cloned()).collect();
        let Some(parts) = parts else { return };
        let Some(Catching { consensus, .. }) = self.catching.take() else { return };
        if let Ok(published) = Published::complete(consensus, parts) {
            self.publish(now, published);
        }
    }
}
