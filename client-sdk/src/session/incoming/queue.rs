//! One queue that we read: its capability, and how far it was read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use posta_protocol::admission::{Proof, QueueKind};
use posta_protocol::command::ReaderCapability;
use posta_protocol::end_to_end::{Inner, QueueAddress, QueueKey};
use posta_protocol::ids::{KeyEpoch, RelayId, SurbId};
use posta_protocol::now::{Mono, Now};
use posta_protocol::secret::Secret;

use super::admission::Search;
use crate::end_to_end::Conversation;
use crate::session::core::Core;
use crate::session::request::RequestId;

/// Boxes of one queue beyond a missing one, at most; then the missing one is given up. Above what an honest relay holds.
pub(super) const MAX_SEEN: usize = 512;

/// One queue that we read.
pub(in crate::session) struct InQueue {
    pub(in crate::session) relay: RelayId,
    pub(super) reader: ReaderCapability,
    pub(super) invited: Secret<32>,
    pub(super) key: Secret<32>,
    pub(super) kind: QueueKind,
    pub(in crate::session) create: Option<RequestId>,
    /// What the relay is shown.
    pub(super) proof: Proof,
    /// The puzzle that it asks for.
    pub(super) search: Option<Search>,
    /// How many puzzles it has asked for.
    pub(super) puzzles: u8,
    pub(in crate::session) ready: bool,
    pub(in crate::session) lost: bool,
    /// Whether it was made once more, after its relay had said that it isn't there.
    pub(super) made_again: bool,
    /// Everything up to here is handed on.
    pub(super) cursor: u64,
    /// What came beyond, with the number of the message in it (0 for none).
    pub(super) seen: BTreeMap<u64, u64>,
    /// What the relay was told of the cursor.
    pub(super) acked: u64,
    pub(super) fetch: Option<RequestId>,
    /// Numbers that were passed over and are asked for one by one.
    pub(super) holes: BTreeSet<u64>,
    pub(super) ack: Option<RequestId>,
    /// Whether polls go through every message, rather than to the newest.
    pub(super) walk: bool,
    pub(super) next_poll: Mono,
    /// Polls in a row that found nothing.
    pub(super) idle: u32,
    pub(super) blocks: VecDeque<SurbId>,
    pub(super) blocks_epoch: Option<KeyEpoch>,
    /// The entry that the blocks lead to.
    pub(super) blocks_entry: Option<RelayId>,
    /// Whether the relay may hold blocks of no use, to be pushed out by as many new ones as it keeps.
    pub(super) flush: bool,
    pub(super) renew_at: Mono,
    /// A message that a poll has found and that should be pushed too.
    pub(super) awaited_push: Option<(u64, Mono)>,
    /// Unanswered polls in a row.
    pub(in crate::session) silent: u32,
    /// Since when its relay hasn't answered.
    pub(in crate::session) silent_since: Option<Mono>,
    /// Whether anything of the contact's has come by it.
    pub(in crate::session) heard: bool,
}

impl InQueue {
    pub(super) fn new(core: &mut Core, now: Now, relay: RelayId) -> Self {
        let key = Secret::random(&mut core.rng);
        Self {
            relay,
            reader: ReaderCapability::random(&mut core.rng),
            invited: Secret::random(&mut core.rng),
            key,
            kind: QueueKind::Plain,
            create: None,
            proof: Proof::Nothing,
            search: None,
            puzzles: 0,
            ready: false,
            lost: false,
            made_again: false,
            cursor: 0,
            seen: BTreeMap::new(),
            acked: 0,
            fetch: None,
            holes: BTreeSet::new(),
            ack: None,
            walk: false,
            next_poll: now.mono,
            idle: 0,
            blocks: VecDeque::new(),
            blocks_epoch: None,
            blocks_entry: None,
            flush: false,
            renew_at: now.mono,
            awaited_push: None,
            silent: 0,
            silent_since: None,
            heard: true,
        }
    }

    /// Where the contact can write.
    pub(super) fn address(&self) -> QueueAddress {
        QueueAddress { relay: self.relay, invited: self.invited.duplicate(), key: self.key.duplicate() }
    }

    /// The inside of a box, if it was sealed for this queue: in the conversation, or by one who joins it.
    pub(super) fn open(&self, conversation: &Conversation, sealed: &[u8]) -> Option<Inner> {
        let within = conversation.founded().map(|f| QueueKey::within(&f.exported, &self.key));
        let opened = within.and_then(|key| key.open(sealed).ok());
        let opened = opened.or_else(|| QueueKey::new(&self.key).open(sealed).ok())?;
        Inner::decode(&opened).ok()
    }

    pub(in crate::session) const fn works(&self) -> bool {
        self.ready && !self.lost
    }

    /// The last number before the first one missing.
    pub(super) fn base(&self, from: u64) -> u64 {
        let mut base = from.max(self.cursor);
        while self.seen.contains_key(&(base + 1)) {
            base += 1;
        }
        base
    }

    /// Moves the cursor over what is handed on. A message that came here proves that all before it in this queue are
    /// older, so holes are passed over as well, once there can't be an introduction in them.
    pub(super) fn settle(&mut self, delivered: u64, introduced: bool) {
        if introduced
            && let Some(last) = self.seen.iter().rev().find(|(_, n)| (1..=delivered).contains(*n)).map(|(s, _)| *s)
        {
            self.cursor = self.cursor.max(last);
        }
        while self.seen.get(&(self.cursor + 1)).is_some_and(|n| *n <= delivered) {
            self.cursor += 1;
        }
        if self.seen.len() > MAX_SEEN {
            // No honest writer leaves a hole for so long.
            self.cursor = self.seen.first_key_value().map_or(self.cursor, |(s, _)| *s);
        }
        let cursor = self.cursor;
        self.seen.retain(|s, _| *s > cursor);
    }
}
