//! What this authority gives to the shared randomness, and what it repeats of the others'.

use std::collections::BTreeMap;
use std::sync::Arc;

use posta_protocol::document::{RandomItems, Reveal, Vote, commits_close, random_commit};
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch};
use posta_protocol::now::{Now, Wall};
use posta_protocol::secret::Secret;
use rand_core::CryptoRng;

use super::Authority;

/// The random bytes of one key epoch: secret until they are revealed.
#[derive(Debug, PartialEq, Eq)]
pub struct Contribution {
    /// The key epoch.
    pub key_epoch: KeyEpoch,
    /// What is committed to, and then revealed.
    pub reveal: Secret<32>,
}

/// What the others have said in one key epoch, at most one of each kind for each authority.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// From their makers' own votes only: nobody can put words into another's mouth.
    commits: BTreeMap<AuthorityId, Hash>,
    /// From any vote, if they fit.
    reveals: BTreeMap<AuthorityId, Reveal>,
}

impl<R: CryptoRng> Authority<R> {
    fn key_epoch_of(&self, at: Wall) -> KeyEpoch {
        KeyEpoch(at.0 / self.settings.params.key_epoch_ms())
    }

    /// The commit that the newest consensus has counted for an authority in a key epoch.
    fn counted_commit(&self, key_epoch: KeyEpoch, authority: &AuthorityId) -> Option<Hash> {
        let body = self.newest.as_ref()?.consensus.body();
        let counted = body.valid_after.0 / body.params.key_epoch_ms() == key_epoch.0;
        body.shared_random.commit_of(authority).filter(|_| counted)
    }

    /// What a vote for this epoch says, and the contribution that must be on disk before it leaves.
    ///
    /// The reveal is told only when the newest consensus lists the commit to it and the commits of its key epoch are
    /// closed for the epoch voted for: before that, others could still choose theirs.
    pub(super) fn random_items(&mut self, epoch: Epoch) -> (RandomItems, Arc<Contribution>) {
        let at = Wall(epoch.0.saturating_mul(self.epoch_ms()));
        let key_epoch = self.key_epoch_of(at);
        let own = match &self.contribution {
            Some(held) if held.key_epoch == key_epoch => Arc::clone(held),
            _ => Arc::new(Contribution { key_epoch, reveal: Secret::random(&mut self.rng) }),
        };
        self.contribution = Some(Arc::clone(&own));
        let commit = random_commit(&self.id, key_epoch, own.reveal.expose());
        let closed = at >= commits_close(key_epoch, self.settings.params.key_epoch_ms());
        let (mut commits, mut reveals) = (BTreeMap::new(), BTreeMap::new());
        let seen = self.seen.get(&key_epoch);
        // Without a consensus the first value is made of the commits, in whichever half of the key epoch that is.
        if !closed || self.newest.is_none() {
            commits = seen.map(|seen| seen.commits.clone()).unwrap_or_default();
            commits.insert(self.id, commit);
        }
        if closed {
            reveals = seen.map(|seen| seen.reveals.clone()).unwrap_or_default();
            if self.counted_commit(key_epoch, &self.id) == Some(commit) {
                reveals.insert(self.id, *own.reveal.expose());
            }
        }
        let items =
            RandomItems { key_epoch, commits: commits.into_iter().collect(), reveals: reveals.into_iter().collect() };
        (items, own)
    }

    /// Keeps what a verified vote says, to repeat it. Only for the current key epoch and the next: that bounds it.
    pub(super) fn learn(&mut self, now: Now, vote: &Vote) {
        let (items, current) = (&vote.random, self.key_epoch_of(now.wall));
        if items.key_epoch != current && items.key_epoch != current.next() {
            return;
        }
        let mut fitting = Vec::new();
        for (authority, reveal) in &items.reveals {
            let held = self.seen.get(&items.key_epoch).and_then(|seen| seen.commits.get(authority)).copied();
            let commit = random_commit(authority, items.key_epoch, reveal);
            if self.counted_commit(items.key_epoch, authority).or(held) == Some(commit) {
                fitting.push((*authority, *reveal));
            }
        }
        self.seen.retain(|key_epoch, _| *key_epoch >= current);
        let seen = self.seen.entry(items.key_epoch).or_default();
        if let Some(commit) = items.commit_of(&vote.voter()) {
            seen.commits.entry(vote.voter()).or_insert(commit);
        }
        seen.reveals.extend(fitting);
    }
}
