//! Requests: a command is sent under the same arguments, over a fresh path and with a fresh reply block each time,
//! until it is answered. Every command is idempotent, so that too many attempts do no harm and too few would.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use posta_protocol::answer::{Answer, Body};
use posta_protocol::command::{Command, Envelope, ReaderCapability};
use posta_protocol::frame::Delivery;
use posta_protocol::ids::{Incarnation, KeyEpoch, RelayId, SurbId};
use posta_protocol::now::{Mono, Now};
use posta_protocol::onion::build::{self, Hop, Last};
use posta_protocol::onion::reply::{ReplyKeys, reply_block};
use posta_protocol::registry::answer as code;
use rand::RngExt;

use super::core::{Core, SessionRng};
use super::event::{Action, ClientEvent, ContactId};
use super::line::{exponential, home};
use super::path::Route;
use super::tempo::Tempo;

/// Requests in flight at once; more wait.
pub const MAX_IN_FLIGHT: usize = 64;
/// Requests in flight at once to a relay that has not answered the last ones.
const MAX_IN_FLIGHT_SILENT: usize = 2;
/// Unanswered attempts in a row after which a relay counts as silent: the fault is then its own, not the path's.
const SILENT_AFTER: u32 = 4;
/// Reply blocks whose answer is awaited; the oldest is forgotten for a new one.
pub const MAX_REPLY_ROWS: usize = 1024;
/// Attempts of one request whose late answers are still understood.
const MAX_ROWS_OF_REQUEST: usize = 4;
/// First wait after a relay said that it can't now.
const BUSY_WAIT: Duration = Duration::from_millis(250);

/// A request, by a number of this session.
pub(crate) type RequestId = u64;

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Ping(Mono),
    /// Nothing: it fills a slot.
    Loop,
    Contact(ContactId, Task),
}

/// What a contact asks a relay for; the number is the place of the queue or blob in the contact's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Create(usize),
    BlobPut(usize),
    BlobGet(usize),
    BlobDelete,
    Secure(usize),
    Send(usize, u64),
    Fetch(usize),
    /// A `fetch` for one number that was passed over.
    Hole(usize, u64),
    Ack(usize),
    /// Not a request: a reply block that a queue holds.
    Push(usize),
}

impl Purpose {
    /// Whether it goes to a relay that we have chosen: no contact can keep the answer back.
    const fn judges(&self) -> bool {
        match self {
            Self::Ping(_) | Self::Loop => true,
            Self::Contact(_, task) => {
                matches!(task, Task::Create(_) | Task::Fetch(_) | Task::Hole(..) | Task::Ack(_) | Task::BlobPut(_))
            }
        }
    }

    /// Whether an answer comes to each attempt.
    const fn is_measured(&self) -> bool {
        !matches!(self, Self::Contact(_, Task::Push(_)))
    }
}

struct Request {
    relay: RelayId,
    command: Command,
    purpose: Purpose,
    attempts: u32,
    refusals: u32,
    /// When it times out, if it is in flight; when it is sent again, if it waits.
    due: Mono,
    in_flight: bool,
    rows: VecDeque<SurbId>,
    last: Option<(Route, RelayId)>,
}

/// What is kept for a reply block.
struct Row {
    keys: ReplyKeys,
    purpose: Purpose,
    request: Option<RequestId>,
    relay: RelayId,
    entry: RelayId,
    route: Route,
    sent: Mono,
}

/// All requests and awaited answers.
pub(crate) struct Requests {
    /// How long to wait for what.
    pub(crate) tempo: Tempo,
    next: RequestId,
    all: BTreeMap<RequestId, Request>,
    timers: BTreeSet<(Mono, RequestId)>,
    ready: VecDeque<RequestId>,
    in_flight: usize,
    rows: BTreeMap<SurbId, Row>,
    row_order: VecDeque<SurbId>,
    /// Attempts in a row that a relay did not answer.
    silence: BTreeMap<RelayId, u32>,
    pub(crate) incarnations: BTreeMap<RelayId, Incarnation>,
    smoothed: Option<Duration>,
    /// When anything was answered last.
    pub(crate) answered_at: Option<Mono>,
}

/// What came of a step or a delivery.
pub(crate) enum Outcome {
    /// An attempt was not answered in time; another is on its way.
    TimedOut { purpose: Purpose, attempts: u32 },
    /// A relay answered.
    Answered { purpose: Purpose, body: Body, surb: SurbId },
    /// A relay's store is another than before: a backup was restored.
    Restored(RelayId),
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            tempo: Tempo::FAST,
            next: 0,
            all: BTreeMap::new(),
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            in_flight: 0,
            rows: BTreeMap::new(),
            row_order: VecDeque::new(),
            silence: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            smoothed: None,
            answered_at: None,
        }
    }
}

impl Requests {
    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Forgets a request; a late answer to it is ignored.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        let Some(request) = self.all.remove(&id) else { return };
        self.timers.remove(&(request.due, id));
        self.in_flight -= usize::from(request.in_flight);
        for surb in request.rows {
            self.rows.remove(&surb);
        }
    }

    /// Forgets all requests of a contact.
    pub(crate) fn cancel_contact(&mut self, contact: ContactId) {
        self.cancel_all(contact, |_| true);
    }

    /// Forgets what was asked of a queue that we read, and the reply blocks that it holds.
    pub(crate) fn cancel_reading(&mut self, contact: ContactId, index: usize) {
        self.cancel_all(contact, |task| match task {
            Task::Create(i) | Task::Fetch(i) | Task::Hole(i, _) | Task::Ack(i) | Task::Push(i) => i == index,
            _ => false,
        });
    }

    /// Forgets what was asked of a queue that we write to.
    pub(crate) fn cancel_writing(&mut self, contact: ContactId, index: usize) {
        self.cancel_all(contact, |task| match task {
            Task::Secure(i) | Task::Send(i, _) => i == index,
            _ => false,
        });
    }

    fn cancel_all(&mut self, contact: ContactId, which: impl Fn(Task) -> bool) {
        let of = |p: &Purpose| matches!(p, Purpose::Contact(c, task) if *c == contact && which(*task));
        let ids: Vec<RequestId> = self.all.iter().filter(|(_, r)| of(&r.purpose)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.cancel(id));
        self.rows.retain(|_, row| !of(&row.purpose));
    }

    /// Forgets reply blocks whose key epoch is over.
    pub(crate) fn forget_before(&mut self, epoch: KeyEpoch) {
        self.rows.retain(|_, row| row.keys.key_epoch >= epoch);
    }

    pub(crate) fn is_silent(&self, relay: &RelayId) -> bool {
        self.silence.get(relay).is_some_and(|n| *n >= SILENT_AFTER)
    }

    fn in_flight_to(&self, relay: &RelayId) -> usize {
        self.all.values().filter(|r| r.in_flight && r.relay == *relay).count()
    }

    fn schedule(&mut self, id: RequestId, due: Mono) {
        if let Some(request) = self.all.get_mut(&id) {
            self.timers.remove(&(request.due, id));
            request.due = due;
            self.timers.insert((due, id));
        }
    }

    /// A relay answers again: what waits long for it needn't.
    fn hurry(&mut self, relay: &RelayId, now: Mono) {
        let soon = now + self.timeout();
        let slow = self.all.iter().filter(|(_, r)| r.in_flight && r.relay == *relay && r.due > soon);
        for id in slow.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.schedule(id, soon);
            if let Some(request) = self.all.get_mut(&id) {
                request.attempts = 1;
            }
        }
    }

    fn land(&mut self, id: RequestId) {
        if let Some(request) = self.all.get_mut(&id)
            && std::mem::take(&mut request.in_flight)
        {
            self.in_flight -= 1;
        }
    }

    fn add_row(&mut self, surb: SurbId, row: Row) {
        if let Some(request) = row.request.and_then(|id| self.all.get_mut(&id)) {
            request.rows.push_back(surb);
            if request.rows.len() > MAX_ROWS_OF_REQUEST
                && let Some(old) = request.rows.pop_front()
            {
                self.rows.remove(&old);
            }
        }
        self.rows.insert(surb, row);
        self.row_order.push_back(surb);
        while self.rows.len() > MAX_REPLY_ROWS
            && let Some(old) = self.row_order.pop_front()
        {
            self.rows.remove(&old);
        }
        if self.row_order.len() > 2 * MAX_REPLY_ROWS {
            let rows = &self.rows;
            self.row_order.retain(|s| rows.contains_key(s));
        }
    }

    fn timeout(&self) -> Duration {
        let Tempo { min_timeout, max_timeout, .. } = self.tempo;
        self.smoothed.map_or(min_timeout, |s| s * 4).clamp(min_timeout, max_timeout)
    }

    fn measured(&mut self, round_trip: Duration) {
        self.smoothed = Some(self.smoothed.map_or(round_trip, |s| (s * 7 + round_trip) / 8));
    }
}

impl Core {
    /// Sends a command until it is answered.
    pub(crate) fn request(&mut self, now: Now, relay: RelayId, command: Command, purpose: Purpose) -> RequestId {
        let requests = &mut self.requests;
        requests.next += 1;
        let id = requests.next;
        let request = Request {
            relay,
            command,
            purpose,
            attempts: 0,
            refusals: 0,
            due: now.mono,
            in_flight: false,
            rows: VecDeque::new(),
            last: None,
        };
        requests.all.insert(id, request);
        requests.ready.push_back(id);
        id
    }

    /// Sends what is ready, and finds out what timed out.
    pub(crate) fn step_requests(&mut self, now: Now) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some((at, id)) = self.requests.timers.first().copied()
            && at <= now.mono
        {
            self.requests.timers.pop_first();
            let Some(request) = self.requests.all.get_mut(&id) else { continue };
            if request.in_flight {
                let (relay, last, judges) = (request.relay, request.last, request.purpose.judges());
                outcomes.push(Outcome::TimedOut { purpose: request.purpose, attempts: request.attempts });
                self.requests.land(id);
                let silence = self.requests.silence.entry(relay).or_insert(0);
                *silence = silence.saturating_add(1);
                if let Some((route, entry)) = last {
                    // A silent relay's own fault; but not while nothing else is answered either.
                    let others = self.requests.tempo.max_timeout * 4;
                    let answered = self.requests.answered_at.is_some_and(|at| now.mono.since(at) < others);
                    let judges = judges && !(answered && self.requests.is_silent(&relay));
                    self.measure.note(entry, false, judges);
                    if !self.requests.is_silent(&relay) {
                        self.health.failed(&route, now.mono);
                    }
                    self.health.suspect(relay, now.mono);
                    self.entries.doubt(&entry, now.mono, &mut self.actions);
                }
            }
            self.requests.ready.push_back(id);
        }
        self.send_ready(now);
        outcomes
    }

    /// Sends what is ready, as far as the window permits.
    pub(crate) fn send_ready(&mut self, now: Now) {
        for _ in 0..self.requests.ready.len() {
            let no_slot = self.line.is_covered() && self.line.slot().is_none();
            if no_slot || self.requests.in_flight >= MAX_IN_FLIGHT {
                return;
            }
            let Some(id) = self.requests.ready.pop_front() else { return };
            let Some(request) = self.requests.all.get(&id).filter(|r| !r.in_flight) else { continue };
            let relay = request.relay;
            let held = self.requests.is_silent(&relay) && self.requests.in_flight_to(&relay) >= MAX_IN_FLIGHT_SILENT;
            if held || !self.attempt(now, id) {
                self.requests.ready.push_back(id);
            }
        }
    }

    /// One attempt; `false` if it can't be made now.
    fn attempt(&mut self, now: Now, id: RequestId) -> bool {
        let Some(request) = self.requests.all.get_mut(&id) else { return true };
        let (relay, purpose) = (request.relay, request.purpose);
        let command = std::mem::replace(&mut request.command, Command::Echo);
        let mut envelope = Envelope { command, reply: Vec::new() };
        let sent = self.transmit(now, relay, &mut envelope, 1, purpose, Some(id));
        let base = self.requests.timeout();
        let Some(request) = self.requests.all.get_mut(&id) else { return true };
        request.command = envelope.command;
        let Some((route, entry, _)) = sent else { return false };
        request.last = Some((route, entry));
        request.in_flight = true;
        let wait =
            base.saturating_mul(1 << request.attempts.saturating_sub(1).min(3)).min(self.requests.tempo.max_timeout);
        request.attempts = request.attempts.saturating_add(1);
        self.requests.in_flight += 1;
        let wait = wait.mul_f64(self.rng.random_range(1.0..1.25));
        self.requests.schedule(id, now.mono + wait);
        true
    }

    /// Hands reply blocks over to a queue: `None` if that can't be done now. Nothing is answered to the command itself.
    pub(crate) fn subscribe(
        &mut self,
        now: Now,
        relay: RelayId,
        reader: &ReaderCapability,
        acked: u64,
        blocks: usize,
        purpose: Purpose,
    ) -> Option<Vec<SurbId>> {
        let command = Command::Subscribe { reader: reader.duplicate(), acked, pace: self.requests.tempo.pace() };
        let mut envelope = Envelope { command, reply: Vec::new() };
        self.transmit(now, relay, &mut envelope, blocks, purpose, None).map(|(_, _, surbs)| surbs)
    }

    /// Builds and sends one packet over a fresh path, with fresh reply blocks; with slots, into the open one.
    pub(crate) fn transmit(
        &mut self,
        now: Now,
        relay: RelayId,
        envelope: &mut Envelope,
        blocks: usize,
        purpose: Purpose,
        request: Option<RequestId>,
    ) -> Option<(Route, RelayId, Vec<SurbId>)> {
        let view = self.view.as_ref()?;
        let epoch = view.key_epoch(now.wall);
        let geometry = view.geometry();
        let queue_key = view.key(epoch, &relay)?;
        let slot = self.line.slot();
        let (entry, inbox) = match slot {
            Some(slot) => self.entries.usable_in_slot(epoch, &relay, slot.second, home(&purpose))?,
            None if self.line.is_covered() => return None,
            None => self.entries.usable(epoch, &relay)?,
        };
        let mean = self.requests.tempo.hop;
        let delayed = |relay: RelayId, rng: &mut SessionRng| {
            let delay = if mean.is_zero() { mean } else { exponential(mean, rng) };
            Some(Hop { relay, key: view.key(epoch, &relay)?, delay })
        };
        let hop = |relay: RelayId| Some(Hop { relay, key: view.key(epoch, &relay)?, delay: Duration::ZERO });
        let mut rows = Vec::with_capacity(blocks);
        let mut used = None;
        for _ in 0..blocks {
            let route = self.health.route(view, epoch, entry, relay, now.mono, &mut self.rng)?;
            let [first, second] = route.back;
            let back = [delayed(first, &mut self.rng)?, delayed(second, &mut self.rng)?, hop(entry)?];
            let (block, keys) = reply_block(geometry, epoch, &back, inbox, &mut self.rng).ok()?;
            envelope.reply.push(block);
            rows.push((keys, route));
            used = Some(route);
        }
        let route = used?;
        let content = envelope.encode(geometry).ok()?;
        let [first, second] = route.forward;
        let end = Hop { relay, key: queue_key, delay: Duration::ZERO };
        let rng = &mut self.rng;
        let path = [delayed(entry, rng)?, delayed(first, rng)?, delayed(second, rng)?, end];
        let packet = build::packet(geometry, epoch, &path, Last::Queue, &content, &mut self.rng).ok()?;
        let mut surbs = Vec::with_capacity(rows.len());
        for (keys, back) in rows {
            let surb = keys.surb;
            let route = Route { forward: route.forward, back: back.back };
            surbs.push(surb);
            self.requests.add_row(surb, Row { keys, purpose, request, relay, entry, route, sent: now.mono });
        }
        self.line.close();
        self.actions.push_back(Action::Send { entry, packet, at: slot.map(|slot| slot.at) });
        Some((route, entry, surbs))
    }

    /// Takes an answer. What nobody waits for, or was garbled, is dropped in silence.
    pub(crate) fn delivered(&mut self, now: Now, delivery: Delivery) -> Vec<Outcome> {
        let surb = delivery.surb;
        let Some(row) = self.requests.rows.remove(&surb) else { return Vec::new() };
        let Some(geometry) = self.view.as_ref().map(super::view::View::geometry) else { return Vec::new() };
        if delivery.payload.len() != geometry.payload_len() {
            return Vec::new();
        }
        let Ok(content) = row.keys.open(delivery.payload) else { return Vec::new() };
        let Ok(answer) = Answer::decode(&content) else { return Vec::new() };
        let mut outcomes = Vec::new();
        self.requests.answered_at = Some(now.mono);
        self.health.succeeded(&row.route);
        self.health.clear(&row.relay);
        if self.requests.silence.remove(&row.relay).is_some_and(|n| n > 1) {
            self.requests.hurry(&row.relay, now.mono);
        }
        self.entries.works(&row.entry);
        if row.purpose.is_measured() {
            self.measure.note(row.entry, true, row.purpose.judges());
        }
        let before = self.requests.incarnations.insert(row.relay, answer.incarnation);
        if before.is_some_and(|b| b != answer.incarnation) {
            outcomes.push(Outcome::Restored(row.relay));
        }
        if let Some(id) = row.request {
            self.requests.measured(now.mono.since(row.sent));
            // A queue or blob that doesn't exist yet can go elsewhere; everything else waits.
            let elsewhere = matches!(row.purpose, Purpose::Contact(_, Task::Create(_) | Task::BlobPut(_)));
            let later = match answer.body {
                Body::Refused(code::BUSY | code::FULL) => true,
                Body::Refused(code::NO_SPACE | code::SUSPENDED) => !elsewhere,
                _ => false,
            };
            if later {
                self.wait_and_retry(now, id);
                return outcomes;
            }
            self.requests.cancel(id);
        }
        outcomes.push(Outcome::Answered { purpose: row.purpose, body: answer.body, surb });
        outcomes
    }

    /// Finds out which loops are lost. One that was under way at the end of its key epoch is not judged.
    pub(crate) fn judge_loops(&mut self, now: Now) {
        let epoch = self.key_epoch(now);
        while let Some(surb) = self.measure.overdue(now.mono) {
            let Some(row) = self.requests.rows.remove(&surb) else { continue };
            if epoch == Some(row.keys.key_epoch) {
                self.health.failed(&row.route, now.mono);
                self.measure.note(row.entry, false, true);
            }
        }
        for entry in self.entries.used() {
            if self.measure.loses(&entry) {
                self.entries.loses(&entry, now.mono, &mut self.actions, &mut self.line.rng);
            }
        }
        if let Some(health) = self.measure.changed() {
            self.emit(ClientEvent::Health(health));
        }
    }

    /// The relay can't do it now.
    fn wait_and_retry(&mut self, now: Now, id: RequestId) {
        self.requests.land(id);
        let Some(request) = self.requests.all.get_mut(&id) else { return };
        let wait = BUSY_WAIT.saturating_mul(1 << request.refusals.min(5)).min(self.requests.tempo.max_timeout);
        request.refusals = request.refusals.saturating_add(1);
        request.attempts = 0;
        let wait = wait.mul_f64(self.rng.random_range(0.75..1.25));
        self.requests.schedule(id, now.mono + wait);
    }
}
