//! Entries: the few edges that a client ever connects to, their links, and its inboxes there.
//!
//! A client that connected to a new edge each time would sooner or later connect to one that watches. So a few are
//! sampled, the first that works is used, and a second one only for queues that a contact has put on the first.

mod saved;

use std::collections::VecDeque;
use std::time::Duration;

use posta_protocol::crypto::{self, context};
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId};
use posta_protocol::now::Mono;
pub use posta_protocol::params::SAMPLED_GUARDS;
use posta_protocol::secret::Secret;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_core::CryptoRng;

use super::core::earlier;
use super::event::{Action, Profile};
use super::view::View;

/// How long a link may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an entry may take to say that an inbox is attached.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(2);
/// With slots, an entry is asked so often whether it still has the inboxes, whether answers come or not.
const ATTACH_EVERY: Duration = Duration::from_secs(60);
/// A first failure is followed by another attempt after about this time.
const RETRY_SOON: Duration = Duration::from_millis(200);
/// Two failures within this time, and the next entry is used.
const FAILURE_SPAN: Duration = Duration::from_secs(15);
/// An entry that failed is left alone for this time, doubled each time, up to [`MAX_REST`].
const REST: Duration = Duration::from_secs(30);
const MAX_REST: Duration = Duration::from_secs(600);
/// An entry that did not work for this long is replaced by another sample.
const LOST_AFTER: Duration = Duration::from_secs(24 * 3600);
/// At most one working sample is replaced within this time, so that an attacker can't push a client from one to the next.
const REPLACE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Inboxes that an entry is asked for: the current key epoch's, and the one before while answers are on their way.
const MAX_INBOXES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    Down,
    Connecting(Mono),
    Up,
}

struct Inbox {
    key_epoch: KeyEpoch,
    secret: Secret<32>,
    id: InboxId,
    attached: bool,
}

struct Guard {
    relay: RelayId,
    link: LinkState,
    /// Failures in a row, and when the first was.
    failures: u32,
    first_failure: Mono,
    retry_at: Mono,
    rests: u32,
    attach_sent: Option<Mono>,
    /// With slots, when to attach once more.
    attach_again: Mono,
    inboxes: VecDeque<Inbox>,
}

/// All sampled entries.
#[derive(Default)]
pub(crate) struct Entries {
    guards: Vec<Guard>,
    /// Which of them is used.
    current: usize,
    /// Whether a second one is needed.
    second: bool,
    /// The profile, if it has slots: then both are used always, and nothing here depends on answers.
    cover: Option<Profile>,
    replaced_at: Option<Mono>,
}

impl Entries {
    /// Samples entries, and replaces those that the network lists no more.
    pub(crate) fn sample(&mut self, view: &View, epoch: KeyEpoch, now: Mono, rng: &mut impl CryptoRng) {
        let current = self.guards.get(self.current).map(|g| g.relay);
        self.guards.retain(|g| view.is_edge(epoch, &g.relay));
        let replace = self.replaced_at.is_none_or(|at| now.since(at) >= REPLACE_EVERY);
        let edges = view.open_edges(epoch);
        let lost = |g: &Guard| g.failures > 0 && now.since(g.first_failure) >= LOST_AFTER;
        // One that retires is left while it still works.
        if let Some(lost) = self.guards.iter().position(|g| lost(g) || !edges.contains(&g.relay))
            && replace
        {
            self.guards.remove(lost);
            self.replaced_at = Some(now);
        }
        let wanted = SAMPLED_GUARDS.min(edges.len().saturating_sub(2)).max(2).min(edges.len());
        while self.guards.len() < wanted {
            let new: Vec<RelayId> = edges.iter().copied().filter(|e| !self.is_sampled(e)).collect();
            let unrelated: Vec<RelayId> =
                new.iter().copied().filter(|n| !self.guards.iter().any(|g| view.related(n, &g.relay))).collect();
            let from = view.weighty(if unrelated.is_empty() { new } else { unrelated });
            let chosen = from.choose_weighted(rng, |relay| view.weight(relay)).ok().or_else(|| from.choose(rng));
            let Some(relay) = chosen.copied() else { break };
            self.guards.push(Guard {
                relay,
                link: LinkState::Down,
                failures: 0,
                first_failure: now,
                retry_at: now,
                rests: 0,
                attach_sent: None,
                attach_again: now,
                inboxes: VecDeque::new(),
            });
        }
        self.current = current.and_then(|c| self.guards.iter().position(|g| g.relay == c)).unwrap_or(0);
    }

    pub(crate) fn is_sampled(&self, relay: &RelayId) -> bool {
        self.guards.iter().any(|g| g.relay == *relay)
    }

    /// The entry that is used.
    pub(crate) fn current(&self) -> Option<RelayId> {
        self.guards.get(self.current).map(|g| g.relay)
    }

    /// An entry with an attached inbox for commands to `queue`, which is never the entry itself. Asks for a second
    /// entry if that is what it takes.
    pub(crate) fn usable(&mut self, epoch: KeyEpoch, queue: &RelayId) -> Option<(RelayId, InboxId)> {
        let index = if self.current().is_some_and(|c| c == *queue) {
            self.second = true;
            self.second_index()?
        } else {
            self.current
        };
        self.attached_at(epoch, Some(index))
    }

    /// With slots, two entries are used by turns, and what is sent there tells nothing about answers.
    pub(crate) fn cover(&mut self, profile: Option<Profile>) {
        self.cover = profile;
        self.second |= profile.is_some();
    }

    /// The entries in use.
    pub(crate) fn used(&self) -> Vec<RelayId> {
        let used = self.guards.iter().enumerate().filter(|(i, _)| self.in_use(*i));
        used.map(|(_, g)| g.relay).collect()
    }

    /// The entry of a slot.
    pub(crate) fn of_slot(&self, second: bool) -> Option<RelayId> {
        self.guards.get(self.index_of(second)?).map(|g| g.relay)
    }

    fn index_of(&self, second: bool) -> Option<usize> {
        if second { self.second_index() } else { Some(self.current) }
    }

    fn attached_at(&self, epoch: KeyEpoch, index: Option<usize>) -> Option<(RelayId, InboxId)> {
        let guard = self.guards.get(index?).filter(|g| g.link == LinkState::Up)?;
        let inbox = guard.inboxes.iter().find(|i| i.key_epoch == epoch && i.attached)?;
        Some((guard.relay, inbox.id))
    }

    /// The entry of a slot with an attached inbox, if a packet for `queue` may leave by it: at its home, or at the other
    /// entry if its home can't be used for this queue.
    pub(crate) fn usable_in_slot(
        &self,
        epoch: KeyEpoch,
        queue: &RelayId,
        second: bool,
        home: Option<bool>,
    ) -> Option<(RelayId, InboxId)> {
        let at = |second| self.attached_at(epoch, self.index_of(second)).filter(|(relay, _)| relay != queue);
        if home.is_some_and(|home| home != second && at(home).is_some()) {
            return None;
        }
        at(second)
    }

    /// Whether the used entry can be used now.
    pub(crate) fn ready(&self, epoch: KeyEpoch) -> bool {
        self.guards
            .get(self.current)
            .is_some_and(|g| g.link == LinkState::Up && g.inboxes.iter().any(|i| i.key_epoch == epoch && i.attached))
    }

    /// The first sample after the used one that isn't resting, in a fixed order.
    fn second_index(&self) -> Option<usize> {
        let n = self.guards.len();
        let others = (1..n).map(|k| (self.current + k) % n);
        others.min_by_key(|i| self.guards.get(*i).map(|g| if g.link == LinkState::Up { 0 } else { g.rests.min(1) }))
    }

    fn in_use(&self, index: usize) -> bool {
        index == self.current || (self.second && self.second_index() == Some(index))
    }

    pub(crate) fn link_up(&mut self, entry: &RelayId, actions: &mut VecDeque<Action>) {
        if let Some(profile) = self.cover {
            actions.push_back(Action::Pace { entry: *entry, profile });
        }
        if let Some(guard) = self.guards.iter_mut().find(|g| g.relay == *entry) {
            guard.link = LinkState::Up;
            guard.attach_sent = None;
            guard.inboxes.iter_mut().for_each(|i| i.attached = false);
        }
    }

    pub(crate) fn link_down(&mut self, entry: &RelayId, now: Mono, rng: &mut impl CryptoRng) {
        if let Some(index) = self.guards.iter().position(|g| g.relay == *entry && g.link != LinkState::Down) {
            self.fail(index, now, rng);
        }
    }

    pub(crate) fn attached(&mut self, inbox: &InboxId) {
        for guard in &mut self.guards {
            if let Some(known) = guard.inboxes.iter_mut().find(|i| i.id == *inbox) {
                known.attached = true;
                guard.attach_sent = None;
                (guard.failures, guard.rests) = (0, 0);
            }
        }
    }

    /// An answer came by this entry.
    pub(crate) fn works(&mut self, entry: &RelayId) {
        let watched = self.cover.is_none();
        if let Some(guard) = self.guards.iter_mut().find(|g| g.relay == *entry && watched) {
            guard.attach_sent = None;
        }
    }

    /// No answer came by this entry in time: it may have lost the inbox, or be gone. Attaching again finds out.
    pub(crate) fn doubt(&mut self, entry: &RelayId, now: Mono, actions: &mut VecDeque<Action>) {
        if self.cover.is_some() {
            // It is asked from time to time, whatever is answered.
            return;
        }
        let Some(guard) = self.guards.iter_mut().find(|g| g.relay == *entry) else { return };
        if guard.link == LinkState::Up && guard.attach_sent.is_none() && !guard.inboxes.is_empty() {
            guard.attach_sent = Some(now);
            attach(guard, actions);
        }
    }

    /// Too little of what goes by this entry comes back, while the other's does: another one is used.
    pub(crate) fn loses(
        &mut self,
        entry: &RelayId,
        now: Mono,
        actions: &mut VecDeque<Action>,
        rng: &mut impl CryptoRng,
    ) {
        let found = self.guards.iter_mut().enumerate().find(|(_, g)| g.relay == *entry);
        let Some((index, guard)) = found.filter(|(_, g)| g.link != LinkState::Down) else { return };
        actions.push_back(Action::Disconnect { entry: *entry });
        // It had its chances, packet by packet.
        (guard.failures, guard.first_failure) = (guard.failures.max(1), now);
        self.fail(index, now, rng);
    }

    fn fail(&mut self, index: usize, now: Mono, rng: &mut impl CryptoRng) {
        let Some(guard) = self.guards.get_mut(index) else { return };
        guard.link = LinkState::Down;
        guard.attach_sent = None;
        guard.inboxes.iter_mut().for_each(|i| i.attached = false);
        if guard.failures == 0 || (guard.rests == 0 && now.since(guard.first_failure) > FAILURE_SPAN) {
            (guard.failures, guard.first_failure) = (0, now);
        }
        guard.failures = guard.failures.saturating_add(1);
        if guard.failures < 2 {
            guard.retry_at = now + RETRY_SOON.mul_f64(rng.random_range(0.5..1.5));
            return;
        }
        let rest = REST.saturating_mul(1 << guard.rests.min(5)).min(MAX_REST);
        guard.rests = guard.rests.saturating_add(1);
        guard.retry_at = now + rest.mul_f64(rng.random_range(0.75..1.25));
        if index == self.current {
            // The first that may be tried, in the order of sampling; else the one that may be tried soonest.
            let next = self.guards.iter().enumerate().min_by_key(|(i, g)| (g.retry_at.max(now), *i)).map(|(i, _)| i);
            self.current = next.unwrap_or(index);
        }
    }

    /// Does what is due: connects, attaches, gives up.
    pub(crate) fn step(
        &mut self,
        now: Mono,
        epoch: KeyEpoch,
        actions: &mut VecDeque<Action>,
        rng: &mut impl CryptoRng,
    ) {
        for index in 0..self.guards.len() {
            let used = self.in_use(index);
            let Some(guard) = self.guards.get_mut(index) else { continue };
            match guard.link {
                LinkState::Down if used && now >= guard.retry_at => {
                    guard.link = LinkState::Connecting(now);
                    actions.push_back(Action::Connect { entry: guard.relay });
                }
                LinkState::Connecting(since) if now >= since + CONNECT_TIMEOUT => {
                    actions.push_back(Action::Disconnect { entry: guard.relay });
                    self.fail(index, now, rng);
                }
                LinkState::Up => {
                    if guard.attach_sent.is_some_and(|at| now >= at + ATTACH_TIMEOUT) {
                        actions.push_back(Action::Disconnect { entry: guard.relay });
                        self.fail(index, now, rng);
                    } else {
                        if self.cover.is_some() && now >= guard.attach_again && guard.attach_sent.is_none() {
                            guard.attach_again = now + ATTACH_EVERY;
                            guard.inboxes.iter_mut().for_each(|i| i.attached &= i.key_epoch == epoch);
                            guard.attach_sent = Some(now);
                            attach(guard, actions);
                        }
                        keep_inbox(guard, now, epoch, actions, rng);
                    }
                }
                LinkState::Down | LinkState::Connecting(_) => {}
            }
        }
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        let due = |(i, g): (usize, &Guard)| match g.link {
            LinkState::Down => self.in_use(i).then_some(g.retry_at),
            LinkState::Connecting(since) => Some(since + CONNECT_TIMEOUT),
            LinkState::Up => {
                let again = self.cover.is_some().then_some(g.attach_again);
                earlier(g.attach_sent.map(|at| at + ATTACH_TIMEOUT), again.filter(|_| g.attach_sent.is_none()))
            }
        };
        self.guards.iter().enumerate().filter_map(due).min()
    }
}

/// An inbox for the key epoch, attached to the link that stands.
fn keep_inbox(guard: &mut Guard, now: Mono, epoch: KeyEpoch, actions: &mut VecDeque<Action>, rng: &mut impl CryptoRng) {
    if !guard.inboxes.iter().any(|i| i.key_epoch == epoch) {
        let secret = Secret::random(rng);
        let id = InboxId(crypto::hash(context::INBOX, secret.expose()).0);
        guard.inboxes.push_back(Inbox { key_epoch: epoch, secret, id, attached: false });
        while guard.inboxes.len() > MAX_INBOXES {
            guard.inboxes.pop_front();
        }
        guard.attach_sent = None;
    }
    if guard.attach_sent.is_none() && guard.inboxes.iter().any(|i| i.key_epoch == epoch && !i.attached) {
        guard.attach_sent = Some(now);
        attach(guard, actions);
    }
}

fn attach(guard: &Guard, actions: &mut VecDeque<Action>) {
    for inbox in &guard.inboxes {
        actions.push_back(Action::Attach { entry: guard.relay, secret: inbox.secret.duplicate() });
    }
}
