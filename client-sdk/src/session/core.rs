//! What all contacts of a session share: the network, entries, requests, randomness, and what comes out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use posta_protocol::document::Position;
use posta_protocol::ids::{Epoch, Hash, KeyEpoch, RelayId};
use posta_protocol::now::{Mono, Now};
use posta_protocol::secret::Secret;
use rand::RngExt;
use rand_core::CryptoRng;

use super::entry::Entries;
use super::event::{Action, Asked, ClientEvent, Options};
use super::line::Line;
use super::measure::Measure;
use super::path::Health;
use super::request::Requests;
use super::saved::{Saved, encode_event, is_kept};
use super::view::View;
use crate::end_to_end::Conversation;

/// The generator that a session is given.
pub type SessionRng = Box<dyn CryptoRng + Send>;

/// Shared by all contacts.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) rng: SessionRng,
    pub(crate) view: Option<View>,
    pub(crate) entries: Entries,
    /// When packets leave.
    pub(crate) line: Line,
    pub(crate) measure: Measure,
    pub(crate) health: Health,
    pub(crate) requests: Requests,
    pub(crate) actions: VecDeque<Action>,
    /// Whether the application reads.
    pub(crate) app_reads: bool,
    /// Whether more messages are asked for: it reads, and commits what it has read.
    pub(crate) reading: bool,
    /// Relays that make no queues for us in this key epoch, and what they ask for; as many as the network has, at most.
    pub(crate) closed: BTreeMap<RelayId, Asked>,
    /// Hashes that this step may still spend on puzzles.
    pub(crate) hashes: u64,
    /// What is on disk.
    pub(crate) saved: Saved,
}

impl Core {
    pub(crate) fn emit(&mut self, event: ClientEvent) {
        if self.saved.durable && is_kept(&event) {
            self.saved.keep(encode_event(&event));
        }
        self.actions.push_back(Action::Emit { cursor: self.saved.cursor, event });
    }

    /// A conversation for a new contact, with keys of its own.
    pub(crate) fn conversation(&mut self) -> Option<Conversation> {
        Conversation::new(self.options.scheme, &Secret::random(&mut self.rng)).ok()
    }

    /// The current key epoch, if the network is known.
    pub(crate) fn key_epoch(&self, now: Now) -> Option<KeyEpoch> {
        self.view.as_ref().map(|v| v.key_epoch(now.wall))
    }

    /// What contents vouch for.
    pub(crate) fn vouched(&self) -> (Epoch, Hash) {
        self.view.as_ref().map_or((Epoch(0), Hash([0; 32])), View::vouched)
    }

    /// A duration around `mean`, between half of it and one and a half.
    pub(crate) fn around(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(self.rng.random_range(0.5..1.5))
    }

    /// An edge for a queue or blob of ours: not `taken`, of another operator than those, and not one that this client
    /// may enter by, as far as there are enough.
    pub(crate) fn choose_edge(&mut self, now: Now, taken: &[RelayId]) -> Option<RelayId> {
        let view = self.view.as_ref()?;
        let edges = view.at(view.key_epoch(now.wall), Position::Edge);
        let free: Vec<RelayId> = edges.into_iter().filter(|e| !taken.contains(e)).collect();
        let related = |e: &RelayId| taken.iter().any(|t| view.related(t, e));
        let works = |e: &RelayId| self.health.suspicion(e, now.mono) < 2;
        let entry = self.entries.current();
        let best: [&dyn Fn(&RelayId) -> bool; 4] = [
            &|e| !self.entries.is_sampled(e) && !related(e) && works(e),
            &|e| Some(*e) != entry && !related(e) && works(e),
            &|e| Some(*e) != entry && works(e),
            &|_| true,
        ];
        let found = best.iter().find_map(|good| {
            let list: Vec<RelayId> = free.iter().copied().filter(|e| good(e)).collect();
            (!list.is_empty()).then_some(list)
        })?;
        self.health.least_suspected(&found, now.mono, &mut self.rng)
    }
}

/// The earlier of two times, where there are any.
pub(crate) fn earlier(a: Option<Mono>, b: Option<Mono>) -> Option<Mono> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
