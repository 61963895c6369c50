//! What of a session outlives the program: which records there are, and what has changed since the last step.
//!
//! | record | name | holds | written |
//! |---|---|---|---|
//! | session | `s` | counters | when one changes |
//! | guards | `g` | the sampled entries, and which is used | when they change |
//! | line | `l` | the profile, and how packets came back lately | when they change |
//! | relays | `i` | each relay's incarnation | when one is new |
//! | contact | `c` id | stage, capabilities, cursors, numbers, what is confirmed | with each change |
//! | moves | `q` id | which queues were replaced, and from which relays | when they change |
//! | end to end | `x` id | the conversation's keys, opaque | with each change |
//! | message | `m` id number | a message as MLS has sealed it, until it is delivered | once |
//! | inside | `h` id kind number | a welcome, a turn or a receipt, sealed | once |
//! | box | `b` id queue sequence | a sealed box that has its number | once |
//! | overtaken | `r` id number | a body that waits for those before it | once |
//! | event | `e` cursor | what the application has not committed yet | once |
//!
//! A step's changes are one [`Action::Save`] in front of the step's other actions: they are on disk before a packet or
//! an event that depends on them leaves. So a sequence number never goes out twice with two contents, a receipt never
//! says more than what is kept, and a box is sent again byte for byte. Nothing here says what to write: each step
//! compares, so that no change of state can be forgotten.

use std::collections::{BTreeMap, BTreeSet};

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::error::Malformed;
use posta_protocol::ids::{Incarnation, RelayId};
use posta_protocol::now::{Mono, Now, Wall};
use zeroize::Zeroizing;

use super::contact::Contact;
use super::event::{Action, ClientEvent, ContactId, EventCursor, Options};
use super::history::History;
use super::renewal::Renewal;
use super::{Session, SessionRng};
use crate::end_to_end::Conversation;
use crate::store::{Change, Records};

mod events;
pub(crate) use self::events::{decode_event, encode_event, is_kept, read_failure, write_failure};

/// Incarnations that are remembered, at most; beyond, a restored relay may be noticed late.
const MAX_INCARNATIONS: usize = 4096;
/// Events that the application has not committed; beyond, no more messages are asked for, and what was under way comes on
/// top.
pub const MAX_UNCOMMITTED: usize = 4096;
/// Uncommitted events of a store, at most.
const MAX_EVENTS: usize = 16 * MAX_UNCOMMITTED;

pub(super) const SESSION: &[u8] = b"s";
pub(super) const GUARDS: &[u8] = b"g";
const LINE: &[u8] = b"l";
const RELAYS: &[u8] = b"i";
pub(super) const EVENT: u8 = b'e';
pub(super) const CONTACT: u8 = b'c';
const END_TO_END: u8 = b'x';
const MESSAGE: u8 = b'm';
const BOX: u8 = b'b';
const OVERTAKEN: u8 = b'r';
const INSIDE: u8 = b'h';
const EARLY: u8 = b'y';
const HELD: u8 = b'k';
const SPARE: u8 = b'w';
const SAID: u8 = b'd';
pub(super) const MOVES: u8 = b'q';
/// The layout of each record.
const VERSION: u8 = 1;

/// Large parts of a contact, which are written once and deleted: each has a record of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// What a message is sealed as, by generation and number.
    Message(u8, u64),
    Box(u8, u64),
    Overtaken(u64),
    /// The inside of boxes that carry no message, by kind and number.
    Inside(u8, u64),
    /// A box that has come before what it needs, by queue and number.
    Early(u8, u64),
    /// The contact's key package.
    Held(u64),
    /// A conversation that waits for its welcome.
    Spare(u64),
    /// A message of the history, by kind and number.
    Said(u8, u64),
}

impl Part {
    pub(super) fn name(self, contact: ContactId) -> Vec<u8> {
        let (kind, index, number) = match self {
            Self::Message(generation, number) => (MESSAGE, generation, number),
            Self::Box(queue, sequence) => (BOX, queue, sequence),
            Self::Overtaken(number) => (OVERTAKEN, 0, number),
            Self::Inside(kind, number) => (INSIDE, kind, number),
            Self::Early(queue, sequence) => (EARLY, queue, sequence),
            Self::Held(number) => (HELD, 0, number),
            Self::Spare(number) => (SPARE, 0, number),
            Self::Said(kind, number) => (SAID, kind, number),
        };
        let mut name = contact_name(kind, contact);
        name.push(index);
        name.extend_from_slice(&number.to_le_bytes());
        name
    }

    fn parse(name: &[u8]) -> Option<(ContactId, Self)> {
        let mut r = Reader::new(name);
        let parse = |r: &mut Reader<'_>| -> Result<_, Malformed> {
            Ok((r.u8("kind")?, ContactId(r.u64("contact")?), r.u8("queue")?, r.u64("number")?))
        };
        let (kind, contact, queue, number) = parse(&mut r).ok()?;
        r.finish("name").ok()?;
        let part = match kind {
            MESSAGE => Self::Message(queue, number),
            BOX => Self::Box(queue, number),
            OVERTAKEN => Self::Overtaken(number),
            INSIDE => Self::Inside(queue, number),
            EARLY => Self::Early(queue, number),
            HELD => Self::Held(number),
            SPARE => Self::Spare(number),
            SAID => Self::Said(queue, number),
            _ => return None,
        };
        Some((contact, part))
    }
}

/// The parts of one contact, as they were read.
pub(crate) type Parts = BTreeMap<Part, Zeroizing<Vec<u8>>>;

/// Brings the records of schema 1 up to those of schema 2. A contact's record has a generation in front, and behind it
/// the boxes that came early, key packages and a history: there was nothing of the kind.
pub(crate) fn from_schema_1(records: &mut Records) -> Result<(), Malformed> {
    for (_, value) in records.iter_mut().filter(|(name, _)| name.len() == 9 && name.first() == Some(&CONTACT)) {
        let (version, rest) = value.split_first().ok_or(Malformed::Value("contact"))?;
        let mut w = Writer::with_capacity(value.len() + 128);
        w.u8(*version);
        w.u8(0);
        w.bytes(rest);
        w.count(0);
        Renewal::default().write(&mut w, false);
        History::new(0).write(&mut w);
        w.u32(0);
        *value = Zeroizing::new(w.finish());
    }
    // Nothing disappeared.
    let overtaken = records.iter_mut().filter(|(name, _)| name.len() > 9 && name.first() == Some(&OVERTAKEN));
    overtaken.for_each(|(_, value)| value.extend_from_slice(&0_u32.to_le_bytes()));
    Ok(())
}

/// What is on disk of one contact.
#[derive(Default)]
struct Held {
    record: Zeroizing<Vec<u8>>,
    moves: Zeroizing<Vec<u8>>,
    parts: BTreeSet<Part>,
}

/// What is on disk of a session, and the events that wait to be committed.
#[derive(Default)]
pub(crate) struct Saved {
    /// Whether anything is kept at all.
    pub(crate) durable: bool,
    session: Zeroizing<Vec<u8>>,
    guards: Zeroizing<Vec<u8>>,
    line: Zeroizing<Vec<u8>>,
    relays: Zeroizing<Vec<u8>>,
    contacts: BTreeMap<ContactId, Held>,
    /// The last event that the application keeps a place in.
    pub(crate) cursor: EventCursor,
    uncommitted: BTreeSet<EventCursor>,
    /// Changes of event records since the last step.
    events: Vec<Change>,
}

impl Saved {
    /// An event that is handed out again until it is committed.
    pub(crate) fn keep(&mut self, encoded: Vec<u8>) {
        self.cursor.0 += 1;
        self.uncommitted.insert(self.cursor);
        self.events.push(put(event_name(self.cursor), encoded));
    }

    fn settle(&mut self, one: EventCursor) {
        if self.uncommitted.remove(&one) {
            self.events.push(delete(event_name(one)));
        }
    }

    /// Whether more may be emitted.
    pub(crate) fn has_room(&self) -> bool {
        self.uncommitted.len() < MAX_UNCOMMITTED
    }

    fn commit(&mut self, up_to: EventCursor) {
        while let Some(first) = self.uncommitted.first().copied()
            && first <= up_to
        {
            self.uncommitted.pop_first();
            self.events.push(delete(event_name(first)));
        }
    }
}

pub(super) fn contact_name(kind: u8, contact: ContactId) -> Vec<u8> {
    let mut name = vec![kind];
    name.extend_from_slice(&contact.0.to_le_bytes());
    name
}

fn event_name(cursor: EventCursor) -> Vec<u8> {
    // In the order of their numbers.
    let mut name = vec![EVENT];
    name.extend_from_slice(&cursor.0.to_be_bytes());
    name
}

fn put(name: Vec<u8>, value: Vec<u8>) -> Change {
    Change { name, value: Some(Zeroizing::new(value)) }
}

const fn delete(name: Vec<u8>) -> Change {
    Change { name, value: None }
}

/// Writes a small record if it isn't as it was.
fn renew(held: &mut Zeroizing<Vec<u8>>, name: Vec<u8>, value: Writer, changes: &mut Vec<Change>) {
    let value = Zeroizing::new(value.finish());
    if **held != *value {
        changes.push(Change { name, value: Some(value.clone()) });
        *held = value;
    }
}

/// A record's beginning.
pub(crate) fn writer() -> Writer {
    let mut w = Writer::with_capacity(1024);
    w.u8(VERSION);
    w
}

/// The rest of a record behind its version.
pub(crate) fn reader(bytes: &[u8]) -> Result<Reader<'_>, Malformed> {
    let mut r = Reader::new(bytes);
    if r.u8("version")? == VERSION { Ok(r) } else { Err(Malformed::Value("version")) }
}

/// A time of this run as one that means something in the next, to the hour.
pub(crate) fn hour_of(at: Mono, now: Now) -> u32 {
    (now.wall - now.mono.since(at)).hour()
}

/// And back; what lies before this clock's start is its start.
pub(crate) fn mono_of(hour: u32, now: Now) -> Mono {
    let past = now.wall.since(Wall(u64::from(hour) * 3_600_000));
    Mono(now.mono.0.saturating_sub(u64::try_from(past.as_micros()).unwrap_or(u64::MAX)))
}

impl Session {
    /// A session that keeps what it knows: [`Action::Save`] says what to write, and `records` are what was written
    /// before; none for a new one. Events that were not committed are emitted again.
    ///
    /// # Errors
    /// [`Malformed`] if the records aren't what a session of this version has written.
    pub fn restore(options: Options, rng: SessionRng, now: Now, records: &Records) -> Result<Self, Malformed> {
        let mut session = Self::new(options, rng);
        session.core.saved.durable = true;
        session.resuming = true;
        let mut parts: BTreeMap<ContactId, Parts> = BTreeMap::new();
        for (name, value) in records {
            if let Some((contact, part)) = Part::parse(name) {
                parts.entry(contact).or_default().insert(part, value.clone());
            }
        }
        for (name, value) in records {
            match name.split_first() {
                Some((&b's', [])) => session.read_counters(value)?,
                Some((&b'g', [])) => {
                    session.core.entries.read(&mut reader(value)?, now)?;
                    session.core.saved.guards.clone_from(value);
                }
                Some((&b'l', [])) => {
                    session.read_line(value)?;
                    session.core.saved.line.clone_from(value);
                }
                Some((&b'i', [])) => session.read_relays(value)?,
                Some((&CONTACT, id)) => {
                    let id = ContactId(u64::from_le_bytes(id.try_into().map_err(|_| Malformed::Value("name"))?));
                    let parts = parts.remove(&id).unwrap_or_default();
                    let mut held =
                        Held { record: value.clone(), parts: parts.keys().copied().collect(), ..Held::default() };
                    let keys = records.get(&contact_name(END_TO_END, id));
                    let conversation = match keys {
                        Some(keys) => Conversation::load(keys)?,
                        // In its place until another has begun.
                        None => session.core.conversation().ok_or(Malformed::Value("conversation"))?,
                    };
                    let keep = (now, options.history);
                    let mut contact = Contact::read(&mut reader(value)?, id, keep, conversation, parts)?;
                    if keys.is_none() && !contact.is_imported() {
                        return Err(Malformed::Value("conversation"));
                    }
                    if let Some(moves) = records.get(&contact_name(MOVES, id)) {
                        contact.read_moves(&mut reader(moves)?, now)?;
                        held.moves.clone_from(moves);
                    }
                    session.contacts.insert(id, contact);
                    session.core.saved.contacts.insert(id, held);
                }
                _ => {}
            }
        }
        session.read_events(records)?;
        Ok(session)
    }

    fn read_counters(&mut self, value: &Zeroizing<Vec<u8>>) -> Result<(), Malformed> {
        let mut r = reader(value)?;
        self.next_contact = r.u64("contacts")?;
        self.core.saved.cursor = EventCursor(r.u64("events")?);
        r.finish("session")?;
        self.core.saved.session.clone_from(value);
        Ok(())
    }

    fn read_relays(&mut self, value: &Zeroizing<Vec<u8>>) -> Result<(), Malformed> {
        let mut r = reader(value)?;
        for _ in 0..r.count(MAX_INCARNATIONS, "relays")? {
            let relay = RelayId::read(&mut r)?;
            self.core.requests.incarnations.insert(relay, Incarnation::read(&mut r)?);
        }
        r.finish("relays")?;
        self.core.saved.relays.clone_from(value);
        Ok(())
    }

    /// What was not committed is emitted again, in order.
    fn read_events(&mut self, records: &Records) -> Result<(), Malformed> {
        let all = records.range([EVENT].to_vec()..[EVENT + 1].to_vec());
        for (name, value) in all {
            let number = name.get(1..).and_then(|n| n.try_into().ok()).ok_or(Malformed::Value("name"))?;
            let cursor = EventCursor(u64::from_be_bytes(number));
            let event = decode_event(&mut reader(value)?)?;
            if self.core.saved.uncommitted.len() >= MAX_EVENTS {
                return Err(Malformed::TooLong("events"));
            }
            self.core.saved.uncommitted.insert(cursor);
            self.core.actions.push_back(Action::Emit { cursor, event });
        }
        Ok(())
    }

    /// The application has dealt with everything up to this event: it is not handed out again.
    pub fn commit(&mut self, now: Now, up_to: EventCursor) {
        let start = self.core.actions.len();
        self.core.saved.commit(up_to);
        if !self.core.reading {
            self.step(now);
        }
        self.save(now, start);
    }

    /// One event was dealt with by itself, whatever stands before it: a caller was given what it tells.
    pub fn settle(&mut self, now: Now, one: EventCursor) {
        let start = self.core.actions.len();
        self.core.saved.settle(one);
        self.save(now, start);
    }

    /// Whether an event of this session is handed out again until it is committed. The others describe a moment.
    #[must_use]
    pub const fn is_kept(&self, event: &ClientEvent) -> bool {
        self.core.saved.durable && is_kept(event)
    }

    /// Puts what has changed in front of what the step wants done.
    pub(super) fn save(&mut self, now: Now, start: usize) {
        if !self.core.saved.durable {
            return;
        }
        let mut changes = Vec::new();
        let mut line = writer();
        self.write_line(&mut line);
        let saved = &mut self.core.saved;
        renew(&mut saved.line, LINE.to_vec(), line, &mut changes);
        let mut w = writer();
        w.u64(self.next_contact);
        w.u64(saved.cursor.0);
        renew(&mut saved.session, SESSION.to_vec(), w, &mut changes);
        let mut w = writer();
        self.core.entries.write(&mut w, now);
        renew(&mut saved.guards, GUARDS.to_vec(), w, &mut changes);
        let mut w = writer();
        let incarnations = &self.core.requests.incarnations;
        w.count(incarnations.len().min(MAX_INCARNATIONS));
        for (relay, incarnation) in incarnations.iter().take(MAX_INCARNATIONS) {
            relay.write(&mut w);
            incarnation.write(&mut w);
        }
        renew(&mut saved.relays, RELAYS.to_vec(), w, &mut changes);
        for (id, contact) in &mut self.contacts {
            save_contact(*id, contact, saved.contacts.entry(*id).or_default(), &mut changes);
        }
        let gone: Vec<ContactId> =
            saved.contacts.keys().filter(|id| !self.contacts.contains_key(id)).copied().collect();
        for id in gone {
            let held = saved.contacts.remove(&id).unwrap_or_default();
            changes.extend(held.parts.iter().map(|part| delete(part.name(id))));
            changes.push(delete(contact_name(END_TO_END, id)));
            changes.push(delete(contact_name(MOVES, id)));
            changes.push(delete(contact_name(CONTACT, id)));
        }
        changes.append(&mut saved.events);
        if !changes.is_empty() {
            self.core.actions.insert(start.min(self.core.actions.len()), Action::Save(changes));
        }
    }
}

fn save_contact(id: ContactId, contact: &mut Contact, held: &mut Held, changes: &mut Vec<Change>) {
    if let Some(state) = contact.changed_conversation() {
        changes.push(Change { name: contact_name(END_TO_END, id), value: Some(state) });
    }
    let mut w = writer();
    contact.write_moves(&mut w);
    renew(&mut held.moves, contact_name(MOVES, id), w, changes);
    let mut w = writer();
    contact.write(&mut w, false);
    let before = changes.len();
    renew(&mut held.record, contact_name(CONTACT, id), w, changes);
    if changes.len() == before {
        // The record names all parts: they are as they were.
        return;
    }
    let parts: BTreeSet<Part> = contact.parts().collect();
    for gone in held.parts.difference(&parts) {
        changes.push(delete(gone.name(id)));
    }
    for new in parts.difference(&held.parts) {
        if let Some(value) = contact.part(*new) {
            changes.push(put(new.name(id), value));
        }
    }
    held.parts = parts;
}
