//! A client session: a state machine without clock, sockets or randomness of its own.
//!
//! It is given the time, events and a generator, and says what is to be done. The driver runs it against a network, a
//! simulator against virtual time.
//!
//! | module | what it holds |
//! |---|---|
//! | [`event`] | what goes in and what comes out |
//! | `view`, `path`, `entry` | the network, mixes, entries and inboxes |
//! | `profile`, `line` | what a profile costs, and when packets leave |
//! | `tempo`, `measure` | how long answers take, and how many come back |
//! | `request` | commands, retried until answered |
//! | `contact` | invitations |
//! | `incoming`, `outgoing` | the queues of a contact in each direction |
//! | `moves` | queues whose relays are gone, replaced |
//! | `manage` | names, and letting go of a contact |
//! | `renewal` | how a conversation begins anew that one end has lost |
//! | `history`, `carry` | what was said, and what another folder can go on with |
//! | `saved` | which records all that is kept in |

mod carry;
mod contact;
mod core;
mod entry;
pub mod event;
mod history;
mod incoming;
mod line;
mod manage;
mod measure;
mod moves;
mod outgoing;
mod path;
mod profile;
mod renewal;
mod request;
mod saved;
mod tempo;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use posta_protocol::command::Command;
use posta_protocol::document::{Consensus, Protocols, Standing};
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::invitation::Link;
use posta_protocol::now::{Mono, Now};

use self::contact::Contact;
pub use self::contact::{INVITATION_HOURS, JOIN_PATIENCE};
pub use self::core::SessionRng;
use self::core::{Core, earlier};
use self::entry::Entries;
pub use self::entry::SAMPLED_GUARDS;
use self::event::{Action, ClientEvent, ContactId, Event, JoinError, MessageId, Options, SendError, Warning};
pub use self::history::{MAX_HISTORY, MAX_HISTORY_BYTES, Said};
use self::incoming::SLICE;
pub use self::incoming::{MAX_EFFORT, QUEUES_PER_DIRECTION, REORDER_WINDOW};
use self::line::Line;
use self::measure::Measure;
pub use self::moves::{QUEUE_SAMPLE, REPLACED_A_WEEK};
pub use self::outgoing::{OUTBOX, SEND_WINDOW};
use self::path::Health;
pub use self::profile::{ENOUGH_TO_MIX, ProfileCost};
pub use self::request::{MAX_IN_FLIGHT, MAX_REPLY_ROWS};
use self::request::{Outcome, Purpose, Requests};
pub use self::saved::MAX_UNCOMMITTED;
use self::saved::Saved;
pub(crate) use self::saved::from_schema_1;
use self::tempo::Tempo;
use self::view::View;
use crate::end_to_end::{Conversation, VerificationCode};

/// Contacts of one session, at most.
pub const MAX_CONTACTS: usize = 64;
/// Answers over reply blocks of the key epoch before are still understood for this time.
const OLD_BLOCKS: Duration = Duration::from_secs(10);
/// Documents are asked for at most this often.
const ASK_NETWORK: Duration = Duration::from_secs(3);
/// Without an entry for this time, in which each sampled one was tried, the application is told.
const OFFLINE_AFTER: Duration = Duration::from_secs(20);
/// The session doesn't ask to be called sooner than this after a step, whatever is due.
const MIN_TIMER: Duration = Duration::from_millis(1);

/// One client.
pub struct Session {
    core: Core,
    contacts: BTreeMap<ContactId, Contact>,
    next_contact: u64,
    epoch: Option<KeyEpoch>,
    old_blocks_until: Option<Mono>,
    asked_network: Option<Mono>,
    /// Since when no entry can be used.
    down_since: Option<Mono>,
    /// What the application was told last: whether an entry can be used.
    told_ready: Option<bool>,
    timer: Option<Mono>,
    /// Whether it was said that the network is too small for the profile.
    told_small: bool,
    /// Whether what was under way before a start waits to be taken up again.
    resuming: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} contacts)", self.contacts.len())
    }
}

impl Session {
    /// A session that draws all its randomness from `rng`. It asks for the network's documents at once.
    #[must_use]
    pub fn new(options: Options, mut rng: SessionRng) -> Self {
        let line = Line::new(options.profile, &mut rng);
        Self {
            core: Core {
                options,
                rng,
                view: None,
                entries: Entries::default(),
                line,
                measure: Measure::default(),
                health: Health::default(),
                requests: Requests::default(),
                actions: VecDeque::from([Action::FetchNetwork]),
                app_reads: true,
                reading: true,
                closed: BTreeMap::new(),
                hashes: 0,
                saved: Saved::default(),
            },
            contacts: BTreeMap::new(),
            next_contact: 0,
            epoch: None,
            old_blocks_until: None,
            asked_network: None,
            down_since: None,
            told_ready: None,
            timer: None,
            told_small: false,
            resuming: false,
        }
    }

    /// Takes in what happened, and does what is due. Call it with [`Event::Tick`] at [`Self::poll_timeout`].
    pub fn handle(&mut self, now: Now, event: Event) {
        let start = self.core.actions.len();
        match event {
            Event::Network { consensus, mix_keys } => {
                self.look_at_versions(&consensus);
                let tempo = Tempo::new(self.core.line.profile, consensus.params());
                self.core.requests.tempo = tempo;
                self.core.line.set(now.mono, tempo.slot);
                self.core.entries.cover(tempo.covered.then_some(self.core.line.profile));
                self.core.view = Some(View::update(self.core.view.take(), consensus, mix_keys, now.wall));
                self.sample(now);
                self.warn_if_small(now);
            }
            Event::LinkUp { entry } => self.core.entries.link_up(&entry, &mut self.core.actions),
            Event::LinkDown { entry } => self.core.entries.link_down(&entry, now.mono, &mut self.core.line.rng),
            Event::Attached { inbox } => self.core.entries.attached(&inbox),
            Event::Delivery(delivery) => {
                let outcomes = self.core.delivered(now, delivery);
                self.apply(now, outcomes);
            }
            Event::Reading(reading) => self.core.app_reads = reading,
            Event::Tick => self.core.hashes = SLICE,
        }
        self.step(now);
        self.core.hashes = 0;
        self.save(now, start);
    }

    /// Says what a newer consensus wants of programs like this one, unless the one before wanted it too.
    fn look_at_versions(&mut self, new: &Consensus) {
        let standing = new.params().standing(Protocols::default());
        let before = self.core.view.as_ref().map(|view| view.standing());
        if standing != Standing::Current && before != Some(standing) {
            self.core.emit(ClientEvent::Warning(Warning::Protocol(standing)));
        }
    }

    /// The next thing to be done, if there is one.
    pub fn poll(&mut self) -> Option<Action> {
        self.core.actions.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Mono> {
        self.timer
    }

    /// Prepares an invitation; [`ClientEvent::Invitation`] brings its link. `None` if there are [`MAX_CONTACTS`] already
    /// (or the operating system gives out no randomness).
    pub fn invite(&mut self, now: Now) -> Option<ContactId> {
        let conversation = self.core.conversation()?;
        let start = self.core.actions.len();
        let id = self.new_contact()?;
        self.contacts.insert(id, Contact::invite(id, &self.core, conversation));
        self.step(now);
        self.save(now, start);
        Some(id)
    }

    /// Follows an invitation; [`ClientEvent::Connected`] or [`ClientEvent::JoinFailed`] says what came of it.
    ///
    /// # Errors
    /// [`JoinError`]; nothing was sent then.
    pub fn join(&mut self, now: Now, link: Link) -> Result<ContactId, JoinError> {
        let start = self.core.actions.len();
        let view = self.core.view.as_ref().ok_or(JoinError::NotReady)?;
        let mut relays: Vec<_> = link.relays.iter().flat_map(|p| view.by_prefix(*p)).collect();
        relays.dedup();
        if relays.is_empty() {
            return Err(JoinError::ForeignNetwork);
        }
        let conversation = self.core.conversation().ok_or(JoinError::NoKeys)?;
        let id = self.new_contact().ok_or(JoinError::TooManyContacts)?;
        let contact = Contact::join(id, &mut self.core, now, conversation, (link, relays));
        self.contacts.insert(id, contact);
        self.step(now);
        self.save(now, start);
        Ok(id)
    }

    /// Sends a message; it is kept, and sent again, until it is delivered or expires.
    ///
    /// # Errors
    /// [`SendError`]; the message was not taken then.
    pub fn send(&mut self, now: Now, contact: ContactId, body: Vec<u8>) -> Result<MessageId, SendError> {
        let start = self.core.actions.len();
        let found = self.contacts.get_mut(&contact).ok_or(SendError::UnknownContact)?;
        let sent = found.send(&mut self.core, now, body);
        self.step(now);
        self.save(now, start);
        sent
    }

    /// What both people can compare to know that nobody sits between them; none before the contact has joined.
    #[must_use]
    pub fn verification_code(&self, contact: ContactId) -> Option<VerificationCode> {
        self.contacts.get(&contact)?.code()
    }

    /// A contact's conversation, to look at.
    #[must_use]
    pub fn conversation(&self, contact: ContactId) -> Option<&Conversation> {
        Some(self.contacts.get(&contact)?.conversation())
    }

    /// The relays whose queues we read, of a contact.
    #[must_use]
    pub fn reads_at(&self, contact: ContactId) -> Vec<RelayId> {
        self.contacts.get(&contact).map(Contact::reads_at).unwrap_or_default()
    }

    /// Sends an echo through a whole path to an edge and back; [`ClientEvent::Pong`] brings the time. `false` if the
    /// network isn't known yet.
    pub fn ping(&mut self, now: Now) -> bool {
        let start = self.core.actions.len();
        let entry: Vec<_> = self.core.entries.current().into_iter().collect();
        let Some(relay) = self.core.choose_edge(now, &entry) else { return false };
        self.core.request(now, relay, Command::Echo, Purpose::Ping(now.mono));
        self.step(now);
        self.save(now, start);
        true
    }

    /// A number for a new contact; those that failed make room.
    fn new_contact(&mut self) -> Option<ContactId> {
        if self.contacts.len() >= MAX_CONTACTS {
            self.contacts.retain(|_, c| !c.is_failed());
        }
        if self.contacts.len() >= MAX_CONTACTS {
            return None;
        }
        self.next_contact += 1;
        Some(ContactId(self.next_contact))
    }

    fn sample(&mut self, now: Now) {
        if let Some(view) = &self.core.view {
            let epoch = view.key_epoch(now.wall);
            if view.has_keys(epoch) {
                self.core.entries.sample(view, epoch, now.mono, &mut self.core.line.rng);
            }
        }
    }

    fn step(&mut self, now: Now) {
        if self.resuming && self.core.view.is_some() {
            self.resuming = false;
            self.contacts.values_mut().for_each(|c| c.resume(&mut self.core, now));
        }
        self.core.reading = self.core.app_reads && self.core.saved.has_room();
        self.follow_key_epoch(now);
        if let Some(epoch) = self.epoch {
            self.core.entries.step(now.mono, epoch, &mut self.core.actions, &mut self.core.line.rng);
        }
        for contact in self.contacts.values_mut() {
            contact.step(&mut self.core, now);
        }
        let outcomes = self.core.step_requests(now);
        if !outcomes.is_empty() {
            self.apply(now, outcomes);
            for contact in self.contacts.values_mut() {
                contact.step(&mut self.core, now);
            }
            self.core.send_ready(now);
        }
        self.fill_slots(now);
        self.core.judge_loops(now);
        self.tell_ready(now);
        self.set_timer(now);
    }

    /// Makes the packets of the slots that come up: the one thing to be said that has waited longest, or a loop.
    fn fill_slots(&mut self, now: Now) {
        while self.core.line.open(now.mono) {
            // Who comes first changes, so that no contact's reply blocks wait for another's for ever.
            let first = self.core.line.count() as usize % self.contacts.len().max(1);
            let ids: Vec<ContactId> = self.contacts.keys().copied().collect();
            for id in ids.iter().cycle().skip(first).take(ids.len()) {
                if let Some(contact) = self.contacts.get_mut(id).filter(|_| self.core.line.slot().is_some()) {
                    contact.step(&mut self.core, now);
                }
            }
            self.core.send_ready(now);
            self.core.send_loop(now);
            self.core.line.close();
        }
    }

    /// A new key epoch: new mixes, new inboxes, new reply blocks. What is in flight times out and is sent again.
    fn follow_key_epoch(&mut self, now: Now) {
        let Some(view) = &self.core.view else { return };
        let epoch = view.key_epoch(now.wall);
        if !view.has_keys(epoch) && self.asked_network.is_none_or(|at| now.mono.since(at) >= ASK_NETWORK) {
            self.asked_network = Some(now.mono);
            self.core.actions.push_back(Action::FetchNetwork);
        }
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.core.closed.clear();
            self.old_blocks_until = Some(now.mono + OLD_BLOCKS);
            self.sample(now);
        }
        if self.old_blocks_until.is_some_and(|at| at <= now.mono) {
            self.old_blocks_until = None;
            self.core.requests.forget_before(epoch);
        }
    }

    fn apply(&mut self, now: Now, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            match outcome {
                Outcome::Answered { purpose: Purpose::Ping(at), .. } => {
                    self.core.emit(ClientEvent::Pong { round_trip: now.mono.since(at) });
                }
                Outcome::Answered { purpose: Purpose::Contact(id, task), body, surb } => {
                    if let Some(contact) = self.contacts.get_mut(&id) {
                        contact.answered(&mut self.core, now, task, body, surb);
                    }
                }
                Outcome::TimedOut { purpose: Purpose::Contact(id, task), attempts } => {
                    if let Some(contact) = self.contacts.get_mut(&id) {
                        contact.timed_out(&mut self.core, now, task, attempts);
                    }
                }
                Outcome::Answered { purpose: Purpose::Loop, .. } | Outcome::TimedOut { .. } => {}
                Outcome::Restored(relay) => {
                    self.contacts.values_mut().for_each(|c| c.restored(&mut self.core, now, relay));
                }
            }
        }
    }

    fn tell_ready(&mut self, now: Now) {
        if self.epoch.is_some_and(|e| self.core.entries.ready(e)) {
            self.down_since = None;
            if self.told_ready != Some(true) {
                self.told_ready = Some(true);
                self.core.emit(ClientEvent::Ready);
            }
            return;
        }
        let since = *self.down_since.get_or_insert(now.mono);
        if now.mono.since(since) >= OFFLINE_AFTER && self.told_ready != Some(false) {
            self.told_ready = Some(false);
            self.core.emit(ClientEvent::Warning(Warning::Offline));
        }
    }

    fn set_timer(&mut self, now: Now) {
        let reading = self.core.reading;
        let covered = self.core.line.is_covered();
        let mut due = earlier(self.core.requests.next_due(), self.core.entries.next_due());
        due = earlier(due, self.core.measure.next_due());
        for contact in self.contacts.values() {
            due = earlier(due, contact.next_due(now, reading, covered));
        }
        due = earlier(due, self.old_blocks_until);
        if self.told_ready != Some(false) {
            due = earlier(due, self.down_since.map(|at| at + OFFLINE_AFTER));
        }
        if let Some(view) = &self.core.view {
            let next = now.mono + Duration::from_millis(view.to_next_key_epoch(now.wall));
            let keys = view.has_keys(view.key_epoch(now.wall));
            let ask = self.asked_network.filter(|_| !keys).map(|at| at + ASK_NETWORK);
            due = earlier(due, earlier(Some(next), ask));
        }
        // Something may be due that waits for an entry: that is not a reason to turn in circles.
        let blocked = !self.epoch.is_some_and(|e| self.core.entries.ready(e));
        let soonest = now.mono + if blocked { MIN_TIMER * 100 } else { MIN_TIMER };
        self.timer = earlier(due.map(|at| at.max(soonest)), self.core.line.next_due());
    }
}
