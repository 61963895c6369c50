//! The documents that an authority, or a relay that mirrors them, has at hand for whoever asks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Consensus, ConsensusDiff, MixKeysDiff, Refusal, Reply, Request};
use crate::ids::{Epoch, Hash, KeyEpoch};
use crate::params::{MAX_CONSENSUS_DIFF_LEN, MAX_MIX_KEYS_DIFFS};

/// Older consensuses from which differences are offered; who holds an older one fetches the whole. Each takes about 4 MB
/// with 10,000 relays.
const MAX_BASES: usize = 4;

/// The newest consensus with its mix keys, and how they differ from older ones.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    newest: Option<Whole>,
    /// Mix keys of the consensus before: somebody may be fetching them.
    former: Vec<(Hash, Arc<[u8]>)>,
    /// The oldest first.
    bases: VecDeque<Arc<Consensus>>,
    /// From each of them to the newest.
    diffs: BTreeMap<Hash, Arc<[u8]>>,
    /// For each key epoch how its mix keys came to be what they are, one consensus after the other.
    steps: BTreeMap<KeyEpoch, VecDeque<Step>>,
}

#[derive(Clone, Debug)]
struct Whole {
    consensus: Arc<Consensus>,
    bytes: Arc<[u8]>,
    parts: Vec<(Hash, Arc<[u8]>)>,
}

#[derive(Clone, Debug)]
struct Step {
    from: Hash,
    to: Hash,
    diff: Arc<[u8]>,
}

impl Shelf {
    /// Puts the newest consensus there, with the encoded mix keys that are at hand, by their hashes. One that is not newer
    /// than what is there changes nothing.
    pub fn put(&mut self, consensus: Arc<Consensus>, parts: Vec<(Hash, Arc<[u8]>)>) {
        if self.newest.as_ref().is_some_and(|held| held.consensus.epoch() >= consensus.epoch()) {
            return;
        }
        let whole = Whole { bytes: consensus.encode().into(), consensus, parts };
        if let Some(held) = self.newest.take() {
            self.step(&held, &whole);
            self.bases.push_back(held.consensus);
            self.former = held.parts;
        }
        while self.bases.len() > MAX_BASES {
            self.bases.pop_front();
        }
        let longest = whole.bytes.len().min(MAX_CONSENSUS_DIFF_LEN);
        let diff = |base: &Arc<Consensus>| {
            let bytes = ConsensusDiff::between(base, &whole.consensus).encode();
            (bytes.len() < longest).then(|| (base.hash(), bytes.into()))
        };
        self.diffs = self.bases.iter().filter_map(diff).collect();
        self.newest = Some(whole);
    }

    /// Notes how the mix keys have changed.
    fn step(&mut self, held: &Whole, new: &Whole) {
        self.steps.retain(|epoch, _| new.consensus.mix_keys_hash(*epoch).is_some());
        for part in new.consensus.key_epochs() {
            let Some(before) = held.consensus.mix_keys_hash(part.epoch) else { continue };
            if before == part.mix_keys {
                continue;
            }
            let steps = self.steps.entry(part.epoch).or_default();
            let find = |whole: &Whole, hash| whole.parts.iter().find(|(h, _)| *h == hash).map(|(_, b)| Arc::clone(b));
            match (find(held, before), find(new, part.mix_keys)) {
                (Some(old), Some(new)) => {
                    let diff = MixKeysDiff::between(&old, &new);
                    steps.extend(diff.map(|diff| Step { from: before, to: part.mix_keys, diff: diff.into() }));
                    let length = |steps: &VecDeque<Step>| steps.iter().map(|step| step.diff.len()).sum::<usize>();
                    while steps.len() > MAX_MIX_KEYS_DIFFS || length(steps) > new.len() {
                        steps.pop_front();
                    }
                }
                // What lies between is not known.
                _ => steps.clear(),
            }
        }
    }

    /// The newest consensus.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Consensus>> {
        self.newest.as_ref().map(|whole| &whole.consensus)
    }

    /// The answer to a request for documents; `None` to any other request.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Option<Reply<Arc<[u8]>>> {
        Some(match request {
            Request::GetConsensus { newer_than } => self.newer(*newer_than),
            Request::GetMixKeys(hash) => self.mix_keys(hash),
            Request::GetConsensusDiff { base } => self.diff_from(base),
            Request::GetMixKeysDiff { base, to } => self.mix_keys_from(base, to),
            _ => return None,
        })
    }

    fn newer(&self, than: Epoch) -> Reply<Arc<[u8]>> {
        match &self.newest {
            Some(newest) if newest.consensus.epoch() > than => Reply::Ok(Arc::clone(&newest.bytes)),
            _ => Reply::None,
        }
    }

    fn mix_keys(&self, hash: &Hash) -> Reply<Arc<[u8]>> {
        let parts = self.newest.iter().flat_map(|newest| &newest.parts).chain(&self.former);
        parts.into_iter().find(|(h, _)| h == hash).map_or(Reply::None, |(_, part)| Reply::Ok(Arc::clone(part)))
    }

    fn diff_from(&self, base: &Hash) -> Reply<Arc<[u8]>> {
        match &self.newest {
            Some(newest) if newest.consensus.hash() != *base => {
                self.diffs.get(base).map_or(Reply::Refused(Refusal::Base), |diff| Reply::Ok(Arc::clone(diff)))
            }
            _ => Reply::None,
        }
    }

    fn mix_keys_from(&self, base: &Hash, to: &Hash) -> Reply<Arc<[u8]>> {
        let Some(steps) = self.steps.values().find(|steps| steps.back().is_some_and(|last| last.to == *to)) else {
            return Reply::Refused(Refusal::Base);
        };
        match steps.iter().position(|step| step.from == *base) {
            Some(first) => Reply::Ok(MixKeysDiff::pack(steps.iter().skip(first).map(|step| &*step.diff)).into()),
            None => Reply::Refused(Refusal::Base),
        }
    }
}
