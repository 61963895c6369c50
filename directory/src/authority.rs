//! The authority's core: given the time, requests, answers and confirmations, it says what to do next.
//!
//! A round for an epoch goes vote → echo → propose → gather → sign. A phase ends as soon as everything from all authorities is
//! in; at its deadline if enough is in; and else it waits, until the next epoch's round takes over. Normally a round
//! begins in the middle of the epoch before. Without a valid consensus it begins at once, for the current epoch.
//!
//! What must never happen is a second signature for an epoch. So what was voted for and signed is recorded on disk
//! first ([`Action::Record`]), and nothing leaves before that is confirmed ([`Event::Recorded`]).

mod calls;
mod contribution;
mod inbound;
mod progress;
mod round;
mod schedule;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{
    Authorities, Certificate, Class, Consensus, Evidence, Header, Params, Reply, Request, RoundReport, Shelf,
    Signature, UnverifiedConsensus, UnverifiedMixKeys, VoteReport, VoteState,
};
use posta_protocol::error::{Malformed, Untrusted};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, RelayId};
use posta_protocol::now::{Mono, Now, Wall};
use rand_core::CryptoRng;

use crate::admission::Policy;
use crate::intake::{Held, Intake};
use crate::keys::Signing;
use crate::tally::Outcome;
use calls::{Call, Catching, Resend};
pub use contribution::Contribution;
use contribution::Seen;
use round::{Key, Round};

/// What an authority is and wants.
#[derive(Clone, Debug)]
pub struct Settings {
    /// All authorities of the network, itself among them.
    pub authorities: Authorities,
    /// Certifies the signing key.
    pub certificate: Certificate,
    /// The geometry of all packets.
    pub geometry: Geometry,
    /// The parameters that it votes for.
    pub params: Params,
    /// Relays that it waits for before the first consensus.
    pub bootstrap_relays: usize,
}

/// What was on disk when the authority started.
#[derive(Debug, Default)]
pub struct Memory {
    /// The last epoch and attempt voted for.
    pub voted: Option<(Epoch, u32)>,
    /// What it has committed to in that vote.
    pub contribution: Option<Arc<Contribution>>,
    /// The last document signed.
    pub signed: Option<Header>,
    /// The newest consensus.
    pub newest: Option<Arc<Published>>,
    /// Descriptors of relays.
    pub descriptors: Vec<Vec<u8>>,
    /// Relays that have withdrawn, and when.
    pub withdrawals: Vec<(RelayId, Wall)>,
}

/// A consensus with everything that belongs to it.
#[derive(Debug)]
pub struct Published {
    /// The consensus.
    pub consensus: Arc<Consensus>,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// Its encoded mix keys with their hashes, in the order of its key epochs.
    pub parts: Vec<(Hash, Arc<[u8]>)>,
}

impl Published {
    /// Verifies signatures and parts; whether it is valid now is another question.
    ///
    /// # Errors
    /// [`Untrusted`], saying what is wrong.
    pub fn new(bytes: &[u8], parts: Vec<Arc<[u8]>>, authorities: &Authorities) -> Result<Self, Untrusted> {
        let consensus = UnverifiedConsensus::decode(bytes)?.verify_signatures(authorities)?;
        Self::complete(consensus, parts)
    }

    pub(crate) fn complete(consensus: Consensus, parts: Vec<Arc<[u8]>>) -> Result<Self, Untrusted> {
        if parts.len() != consensus.key_epochs().len() {
            return Err(Malformed::Truncated("the mix keys of a consensus").into());
        }
        let mut hashed = Vec::with_capacity(parts.len());
        for (part, expected) in parts.into_iter().zip(consensus.key_epochs()) {
            if UnverifiedMixKeys::decode(&part)?.verify(&consensus)?.key_epoch != expected.epoch {
                return Err(Untrusted::Hash("the mix keys of a consensus"));
            }
            hashed.push((expected.mix_keys, part));
        }
        Ok(Self { bytes: consensus.encode().into(), consensus: Arc::new(consensus), parts: hashed })
    }
}

/// What must be on disk before anything that rests on it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A vote for this epoch and attempt.
    Voted {
        /// The epoch.
        epoch: Epoch,
        /// The attempt.
        attempt: u32,
        /// What the vote commits to, or reveals: after a restart it must reveal the same.
        contribution: Arc<Contribution>,
    },
    /// The one document that is signed for its epoch.
    Signed(Header),
}

/// What happens to an authority.
#[derive(Debug)]
pub enum Event {
    /// Somebody asks. Answered by an [`Action::Reply`] with the same ticket, at once.
    Request {
        /// The driver's number for it.
        ticket: u64,
        /// The authority that asks, by its link key; `None` for anyone else.
        peer: Option<AuthorityId>,
        /// Where it comes from, if the network says so.
        from: Option<IpAddr>,
        /// What is asked.
        request: Request,
    },
    /// What became of an [`Action::Call`].
    Answer {
        /// The call.
        call: u64,
        /// The reply; `None` if the other can't be reached.
        reply: Option<Reply>,
    },
    /// A record is on disk, synced.
    Recorded(Record),
    /// The time of [`Authority::poll_timeout`] has come.
    Timer,
}

/// What the driver shall do.
#[derive(Debug)]
pub enum Action {
    /// Answer a request.
    Reply {
        /// The request's ticket.
        ticket: u64,
        /// The answer.
        reply: Reply<Arc<[u8]>>,
    },
    /// Ask another authority; [`Event::Answer`] must follow in any case, within the driver's timeout.
    Call {
        /// Whom.
        peer: AuthorityId,
        /// The core's number for it.
        call: u64,
        /// An encoded [`Request`].
        body: Arc<[u8]>,
        /// The longest reply, in bytes.
        max_reply: usize,
    },
    /// Write to disk and sync, then say so with [`Event::Recorded`].
    Record(Record),
    /// A relay has withdrawn: write that to disk and sync, before the next action.
    Withdrawn(RelayId, Wall),
    /// There is a new consensus: keep it.
    Publish(Arc<Published>),
    /// Signed things that exclude each other: keep them, and tell the operator.
    Evidence(Evidence),
}

/// A round that has made a consensus, for whoever asks why a relay is in it or not.
#[derive(Debug)]
struct Ended {
    report: RoundReport,
    votes: BTreeMap<Hash, Arc<[u8]>>,
}

impl Ended {
    fn new((epoch, attempt): Key, round: &Round) -> Self {
        let state = |voter: &AuthorityId, hash: &Hash| {
            if round.counted.contains(&(*voter, *hash)) {
                VoteState::Counted
            } else if round.cheats.contains(voter) {
                VoteState::Twice
            } else {
                VoteState::NotCounted
            }
        };
        let mut votes: BTreeMap<AuthorityId, VoteReport> = BTreeMap::new();
        for voter in &round.cheats {
            votes.insert(*voter, VoteReport { voter: *voter, hash: Hash([0; 32]), state: VoteState::Twice });
        }
        for (voter, ballot) in &round.votes {
            let state = state(voter, &ballot.hash);
            votes.insert(*voter, VoteReport { voter: *voter, hash: ballot.hash, state });
        }
        Self {
            report: RoundReport { epoch, attempt, votes: votes.into_values().collect() },
            votes: round.votes.values().map(|b| (b.hash, Arc::clone(&b.bytes))).collect(),
        }
    }
}

/// One authority.
#[derive(Debug)]
pub struct Authority<R> {
    settings: Settings,
    id: AuthorityId,
    key: SignKey,
    rng: R,
    actions: VecDeque<Action>,
    intake: Intake,
    /// How well relays work, as this authority has measured.
    measured: BTreeMap<RelayId, Class>,
    voted: Option<(Epoch, u32)>,
    contribution: Option<Arc<Contribution>>,
    /// Commits and reveals of the others.
    seen: BTreeMap<KeyEpoch, Seen>,
    signed: Option<Header>,
    newest: Option<Arc<Published>>,
    /// The one before: somebody may be fetching its parts, or build on it.
    former: Option<Arc<Published>>,
    /// What clients and relays are given.
    shelf: Shelf,
    rounds: BTreeMap<Key, Round>,
    active: Option<Key>,
    /// Our vote, while it is being recorded.
    prepared: Option<(Key, Arc<[u8]>)>,
    /// What we tallied last, of each epoch; signatures are counted even when its round is over.
    outcomes: BTreeMap<Epoch, Outcome>,
    /// The round that made the newest consensus.
    ended: Option<Ended>,
    /// Evidence that was handed over.
    accused: BTreeSet<Hash>,
    signatures: BTreeMap<Epoch, BTreeMap<AuthorityId, Signature>>,
    /// Descriptors that others had.
    fetched: BTreeMap<Hash, Held>,
    /// Descriptors asked for: how often, and when the next time.
    asked: BTreeMap<Hash, (usize, Mono)>,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    resends: Vec<Resend>,
    catching: Option<Catching>,
    next_ask: Mono,
    /// The earliest time for the next attempt.
    not_before: Mono,
    /// How many relays have posted, and when the newest of them came.
    grown: (usize, Mono),
    /// An epoch for which we signed, and too few others.
    spent: Option<Epoch>,
    wake: Option<Mono>,
}

impl<R: CryptoRng> Authority<R> {
    /// An authority that starts, or starts again.
    pub fn new(settings: Settings, key: SignKey, rng: R, memory: Memory, now: Now) -> Self {
        let mut intake = Intake::new(settings.params.reserved_networks());
        intake.restore_withdrawals(&memory.withdrawals);
        for bytes in &memory.descriptors {
            intake.restore(now, bytes);
        }
        let mut shelf = Shelf::default();
        if let Some(newest) = &memory.newest {
            shelf.put(Arc::clone(&newest.consensus), newest.parts.clone());
        }
        let mut authority = Self {
            id: AuthorityId(settings.certificate.identity),
            settings,
            key,
            rng,
            actions: VecDeque::new(),
            intake,
            measured: BTreeMap::new(),
            voted: memory.voted,
            contribution: memory.contribution,
            seen: BTreeMap::new(),
            signed: memory.signed,
            newest: memory.newest,
            former: None,
            shelf,
            rounds: BTreeMap::new(),
            active: None,
            prepared: None,
            outcomes: BTreeMap::new(),
            ended: None,
            accused: BTreeSet::new(),
            signatures: BTreeMap::new(),
            fetched: BTreeMap::new(),
            asked: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            resends: Vec::new(),
            catching: None,
            next_ask: now.mono,
            not_before: now.mono,
            grown: (0, now.mono),
            spent: None,
            wake: None,
        };
        if authority.voted.is_some() && authority.settings.authorities.len() > 1 {
            // The round that we fell out of may still come to its end without us.
            authority.not_before = now.mono + authority.phase_length(now) * 3;
        }
        authority.step(now);
        authority
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Request { ticket, peer, from, request } => {
                let reply = self.answer(now, peer, from, request);
                if let Some((relay, at)) = self.intake.last_withdrawal() {
                    self.actions.push_back(Action::Withdrawn(relay, at));
                }
                self.actions.push_back(Action::Reply { ticket, reply });
            }
            Event::Answer { call, reply } => self.answered(now, call, reply),
            Event::Recorded(record) => self.recorded(now, record),
            Event::Timer => {}
        }
        if self.intake.len() != self.grown.0 {
            self.grown = (self.intake.len(), now.mono);
        }
        self.step(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Event::Timer`] is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Mono> {
        self.wake
    }

    /// The newest consensus.
    #[must_use]
    pub const fn newest(&self) -> Option<&Arc<Published>> {
        self.newest.as_ref()
    }

    /// The round that made the newest consensus, if this authority has seen it.
    #[must_use]
    pub fn last_round(&self) -> Option<&RoundReport> {
        self.ended.as_ref().map(|ended| &ended.report)
    }

    /// The newest descriptor of every relay, for the archive.
    #[must_use]
    pub fn descriptors(&self) -> Vec<Arc<[u8]>> {
        self.intake.iter().map(|held| Arc::clone(&held.bytes)).collect()
    }

    /// Relays that have withdrawn, for the archive.
    #[must_use]
    pub fn withdrawals(&self) -> Vec<(RelayId, Wall)> {
        self.intake.withdrawals()
    }

    /// Votes only for relays that this policy admits, from the next vote on.
    pub fn decide(&mut self, policy: Policy) {
        self.intake.decide(policy);
    }

    /// Votes for these classes from now on; a relay that isn't among them is not measured.
    pub fn measured(&mut self, classes: BTreeMap<RelayId, Class>) {
        self.measured = classes;
    }

    /// Signs with a renewed key from now on. Whose it is doesn't change; another authority's is not taken, and the answer is
    /// `false`.
    pub fn rekey(&mut self, signing: Signing) -> bool {
        if signing.certificate.identity != self.id.0 {
            return false;
        }
        self.settings.certificate = signing.certificate;
        self.key = signing.key;
        true
    }

    fn epoch_ms(&self) -> u64 {
        self.settings.params.epoch_ms()
    }

    fn epoch_at(&self, at: Wall) -> Epoch {
        Epoch(at.0 / self.epoch_ms())
    }

    fn held_epoch(&self) -> Epoch {
        self.newest.as_ref().map_or(Epoch(0), |p| p.consensus.epoch())
    }

    fn holds_valid(&self, now: Now) -> bool {
        self.newest.as_ref().is_some_and(|p| p.consensus.valid_until() > now.wall)
    }

    /// Takes over a consensus, if it is newer than ours.
    fn publish(&mut self, now: Now, published: Published) {
        let epoch = published.consensus.epoch();
        if epoch <= self.held_epoch() {
            return;
        }
        let published = Arc::new(published);
        self.shelf.put(Arc::clone(&published.consensus), published.parts.clone());
        self.former = self.newest.replace(Arc::clone(&published));
        let made_by = self.rounds.range((epoch, 0)..=(epoch, u32::MAX)).rfind(|(_, round)| !round.counted.is_empty());
        if let Some((key, round)) = made_by {
            self.ended = Some(Ended::new(*key, round));
        }
        self.rounds.retain(|(e, _), _| *e > epoch);
        self.signatures.retain(|e, _| *e > epoch);
        self.resends.retain(|r| r.key.0 > epoch);
        if self.active.is_some_and(|(e, _)| e <= epoch) {
            self.active = None;
        }
        self.outcomes.retain(|of, _| *of > epoch);
        self.fetched.clear();
        self.asked.clear();
        self.not_before = now.mono;
        let lifetime = self.epoch_ms().saturating_mul(crate::tally::DESCRIPTOR_LIFETIME_EPOCHS);
        self.intake.expire(Wall(published.consensus.valid_after().0.saturating_sub(lifetime)));
        self.actions.push_back(Action::Publish(published));
    }
}

#[cfg(test)]
mod tests;
