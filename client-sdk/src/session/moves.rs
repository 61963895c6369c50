//! Replacing queues whose relays are gone.
//!
//! The reader of a queue replaces it. A queue counts as gone when its relay says so, when it has not answered for
//! [`Options::replace`](super::event::Options) though others do, or when the consensus no longer lists it for as long.
//! Then, after a random wait of up to as long again, a queue is made at another relay, and the contact is told the new list
//! (`MOVED`) over its own queues, again and again until something from it comes by the new one. All that wasn't delivered
//! the contact puts there too.
//!
//! New relays come from a small sample of each contact's own, that stays: who has many relays and kills the others' doesn't
//! draw a client's queues to itself by and by. And no more than [`REPLACED_A_WEEK`] queues are replaced, of ours and of the
//! contact's.

use std::collections::BTreeMap;
use std::time::Duration;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::document::Position;
use posta_protocol::end_to_end::QueueAddress;
use posta_protocol::error::Malformed;
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Mono, Now};
use rand::RngExt;

use super::core::{Core, earlier};
use super::incoming::Incoming;

/// Relays that the queues of one contact are ever put on, while they last.
pub const QUEUE_SAMPLE: usize = 6;
/// Queues of one contact that are replaced within a week, ours and as many of the contact's.
pub const REPLACED_A_WEEK: usize = 6;
/// Unanswered polls in a row before a relay can count as gone.
const UNANSWERED: u32 = 8;
/// First wait before a contact that shows no sign of having heard is told again; twice as long each time.
const TELL_AGAIN: Duration = Duration::from_secs(20);
/// The longest such wait.
const TELL_SELDOM: Duration = Duration::from_secs(3600);
const WEEK_HOURS: u32 = 7 * 24;

/// What has been replaced, and what is to be.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    sample: Vec<RelayId>,
    generation: u64,
    /// The contact's newest list.
    heard: u64,
    /// Hours of our replacements, and of the contact's, within the last week.
    replaced: Vec<u32>,
    accepted: Vec<u32>,
    /// Queues that will be replaced, and when.
    planned: BTreeMap<usize, Mono>,
    /// Whether the contact has not shown yet that it knows the list.
    untold: bool,
    /// When to tell it, once more, and how often that was done.
    tell: Option<(Mono, u32)>,
}

impl Moves {
    fn has_room(list: &mut Vec<u32>, hour: u32) -> bool {
        list.retain(|at| at.saturating_add(WEEK_HOURS) > hour);
        list.len() < REPLACED_A_WEEK
    }

    /// Whether a list of the contact's is new and may be followed.
    pub(crate) fn accept(&mut self, now: Now, generation: u64, fresh: usize) -> bool {
        let hour = now.wall.hour();
        if generation <= self.heard || !Self::has_room(&mut self.accepted, hour) {
            return false;
        }
        self.heard = generation;
        self.accepted.extend(std::iter::repeat_n(hour, fresh));
        true
    }

    /// Whether this list was followed already.
    pub(crate) const fn knows(&self, generation: u64) -> bool {
        generation <= self.heard
    }

    pub(crate) fn next_due(&self) -> Option<Mono> {
        earlier(self.planned.values().min().copied(), self.tell.filter(|_| self.untold).map(|(at, _)| at))
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.generation);
        w.u64(self.heard);
        w.bool(self.untold);
        w.count(self.sample.len());
        self.sample.iter().for_each(|relay| relay.write(w));
        for list in [&self.replaced, &self.accepted] {
            w.count(list.len());
            list.iter().for_each(|hour| w.u32(*hour));
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>, now: Now) -> Result<Self, Malformed> {
        let mut new = Self { generation: r.u64("moves")?, heard: r.u64("moves")?, ..Self::default() };
        new.untold = r.bool("moves")?;
        new.tell = new.untold.then_some((now.mono, 0));
        for _ in 0..r.count(QUEUE_SAMPLE, "sample")? {
            new.sample.push(RelayId::read(r)?);
        }
        for list in [&mut new.replaced, &mut new.accepted] {
            for _ in 0..r.count(4 * REPLACED_A_WEEK, "hours")? {
                list.push(r.u32("hour")?);
            }
        }
        r.clone().finish("moves")?;
        Ok(new)
    }
}

impl Moves {
    /// The contact's list, as a conversation begins anew: followed, whatever was heard before.
    pub(crate) const fn hear(&mut self, generation: u64) {
        self.heard = generation;
    }
}

/// The generations of lists go on so far beyond those that are known, after an import.
const LEAP: u64 = 1 << 16;

impl Incoming {
    /// Where we read, for a conversation that begins anew.
    pub(crate) fn list_anew(&mut self, imported: bool) -> (u64, Vec<QueueAddress>) {
        self.moves.generation += if imported { LEAP } else { 1 };
        (self.moves.generation, self.working_addresses())
    }

    /// The contact may have forgotten our list, or may never have known it.
    pub(crate) fn say_list_again(&mut self) {
        self.queues.iter_mut().for_each(|q| q.heard = false);
        (self.moves.untold, self.moves.tell) = (true, None);
    }

    /// Looks for queues that are gone, and replaces those whose time has come. `others`: relays that the contact reads at.
    /// Returns the list to tell the contact, when it is to be told.
    pub(crate) fn replace(
        &mut self,
        core: &mut Core,
        now: Now,
        others: &[RelayId],
    ) -> Option<(u64, Vec<QueueAddress>)> {
        for index in 0..self.queues.len() {
            self.plan(core, now, index);
            if self.moves.planned.get(&index).is_some_and(|at| *at <= now.mono) {
                self.moves.planned.remove(&index);
                self.put_elsewhere(core, now, index, others);
            }
        }
        self.announcement(core, now)
    }

    /// Plans the replacement of a queue that is gone, or drops the plan if it is there again.
    fn plan(&mut self, core: &mut Core, now: Now, index: usize) {
        let Some(queue) = self.queues.get_mut(index) else { return };
        let Some(view) = &core.view else { return };
        let epoch = view.key_epoch(now.wall);
        if !view.has_keys(epoch) {
            return;
        }
        let listed = view.is_edge(epoch, &queue.relay);
        if !listed {
            queue.silent_since.get_or_insert(now.mono);
        }
        let long = queue.silent_since.is_some_and(|since| now.mono.since(since) >= core.options.replace);
        // It is silent by its own fault only if something else has answered meanwhile.
        let alone = core.requests.answered_at.is_some_and(|at| now.mono.since(at) < core.options.replace / 2);
        let silent = long && (!listed || (alone && queue.silent >= UNANSWERED));
        let gone = queue.lost || silent;
        if !gone || !queue.ready {
            self.moves.planned.remove(&index);
            return;
        }
        let span = core.options.replace;
        let mut wait = || span.mul_f64(core.rng.random_range(0.0..1.0));
        self.moves.planned.entry(index).or_insert_with(|| now.mono + wait());
    }

    /// Makes the queue at another relay of the sample.
    fn put_elsewhere(&mut self, core: &mut Core, now: Now, index: usize, others: &[RelayId]) {
        let hour = now.wall.hour();
        if !Moves::has_room(&mut self.moves.replaced, hour) {
            // Looked at again when it is planned again.
            return;
        }
        let Some(relay) = self.choose_from_sample(core, now, others) else { return };
        self.moves.replaced.push(hour);
        core.requests.cancel_reading(self.contact, index);
        self.early.retain(|(queue, _), _| *queue != index);
        self.renew(core, now, index, relay);
        (self.moves.untold, self.moves.tell) = (true, None);
    }

    /// A relay of the sample that can be used, or a new member.
    fn choose_from_sample(&mut self, core: &mut Core, now: Now, others: &[RelayId]) -> Option<RelayId> {
        let own = self.relays();
        let view = core.view.as_ref()?;
        let epoch = view.key_epoch(now.wall);
        let good = |relay: &RelayId| {
            view.is_edge(epoch, relay)
                && !own.contains(relay)
                && !others.contains(relay)
                && !core.entries.is_sampled(relay)
                && !core.closed.contains_key(relay)
                && !core.requests.is_silent(relay)
                && !own.iter().any(|o| view.related(o, relay))
        };
        let usable: Vec<RelayId> = self.moves.sample.iter().copied().filter(good).collect();
        if let Some(relay) = core.health.least_suspected(&usable, now.mono, &mut core.rng) {
            return Some(relay);
        }
        // One that has failed makes room.
        let edges = view.at(epoch, Position::Edge);
        if self.moves.sample.len() >= QUEUE_SAMPLE {
            let dead = self.moves.sample.iter().position(|r| !edges.contains(r) || core.requests.is_silent(r));
            self.moves.sample.remove(dead.unwrap_or(0));
        }
        let relay = self.choose(core, now, others)?;
        self.moves.sample.push(relay);
        Some(relay)
    }

    /// The list for the contact, when it is to be told.
    fn announcement(&mut self, core: &Core, now: Now) -> Option<(u64, Vec<QueueAddress>)> {
        let waits = self.queues.iter().any(|q| q.create.is_some() && !q.ready);
        if !self.moves.untold || waits {
            return None;
        }
        if self.moves.tell.is_some() && self.queues.iter().filter(|q| q.works()).all(|q| q.heard) {
            (self.moves.untold, self.moves.tell) = (false, None);
            return None;
        }
        let (at, tries) = self.moves.tell.unwrap_or((now.mono, 0));
        if at > now.mono {
            return None;
        }
        if tries == 0 {
            self.moves.generation += 1;
        }
        let first = TELL_AGAIN.max(core.requests.tempo.min_timeout * 2);
        let wait = first.saturating_mul(1 << tries.min(10)).min(TELL_SELDOM.max(first));
        self.moves.tell = Some((now.mono + wait, tries.saturating_add(1)));
        let list = self.working_addresses();
        (!list.is_empty()).then_some((self.moves.generation, list))
    }
}
