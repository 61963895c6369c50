//! The state of one queue and of one blob, and how it changes: pure values, the same for every store.
//!
//! ```text
//! queue record   flags u8 | writer 32 | [invited 32] | used hour u32 | [counts] | [ids]
//!       flags    1 secured (invited follows)   2 deleted   4 counts follow
//!                8 suspended   16 a contact queue (ids follow)   32 a bulk queue   neither: a plain one
//!       counts   highest u64 | window u64 | acked u64 | held u32 | filed hour u32
//!       ids      16 bytes for each of the latest messages, oldest first, at most 64; the last one has the highest number
//! blob record    flags u8 | put 32 | hours u32 | end hour u32 | [lock 32] | body
//!       flags    1 one-time   2 deleted (no body)   4 locked (lock follows)
//! totals         queues u64 | bytes u64
//! ```
//! A queue that never took a message has no counts, as most of a large store's queues don't. Only a contact queue has
//! ids; it gives out its numbers itself, without holes, so that an id's place says its number.
//!
//! **Schema 1** had the flags 1, 2 and 4 only, and no ids. Each of its records is byte for byte a record of schema 2: of
//! a plain queue that isn't suspended. Blob records and totals are the same in both.

use posta_protocol::admission::QueueKind;
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::error::Malformed;
use posta_protocol::ids::{Hash, MessageId, WriterId};
use posta_protocol::params::{CONTACT_WINDOW, SEQUENCE_WINDOW};

use crate::limits::MAX_SEQUENCE_AHEAD;

const _: () = assert!(SEQUENCE_WINDOW == u64::BITS as u64, "the window is the bits of one u64");

/// What the numbers of a contact queue leap by when its messages are forgotten: more than it takes in its life.
const CONTACT_LEAP: u64 = 1 << 32;

const SECURED: u8 = 1;
const DELETED: u8 = 2;
const COUNTS: u8 = 4;
const SUSPENDED: u8 = 8;
const CONTACT: u8 = 16;
const BULK: u8 = 32;
const KNOWN: u8 = SECURED | DELETED | COUNTS | SUSPENDED | CONTACT | BULK;

/// What a queue is, apart from its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueRecord {
    /// Who may write.
    pub(crate) writer: WriterId,
    /// Who might have before the queue was secured.
    pub(crate) invited: Option<WriterId>,
    /// What it is for; never changes.
    pub(crate) kind: QueueKind,
    pub(crate) deleted: bool,
    /// Whether its reader wants no more messages for now.
    pub(crate) suspended: bool,
    /// The hour of the last use; never goes back.
    pub(crate) used: u32,
    /// The latest hour under which the queue's messages were filed for expiry; 0 for none.
    pub(crate) filed: u32,
    /// Messages held.
    pub(crate) held: u32,
    highest: u64,
    /// Bit i: the number `highest - i` was accepted.
    window: u64,
    acked: u64,
    /// Of a contact queue's latest messages, oldest first, at most [`CONTACT_WINDOW`].
    ids: Vec<MessageId>,
}

/// How a message's number relates to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbered {
    New,
    Accepted,
    OutOfWindow,
}

impl QueueRecord {
    pub(crate) const fn new(writer: WriterId, kind: QueueKind, used: u32) -> Self {
        Self {
            writer,
            invited: None,
            kind,
            deleted: false,
            suspended: false,
            used,
            filed: 0,
            held: 0,
            highest: 0,
            window: 0,
            acked: 0,
            ids: Vec::new(),
        }
    }

    /// The writer that the queue was created with.
    pub(crate) fn first_writer(&self) -> WriterId {
        self.invited.unwrap_or(self.writer)
    }

    /// Everything up to this number was acknowledged.
    pub(crate) const fn acked(&self) -> u64 {
        self.acked
    }

    /// The highest number accepted.
    pub(crate) const fn highest(&self) -> u64 {
        self.highest
    }

    /// The last number up to which each one was accepted, or was acknowledged without having been there. Exact for a
    /// bulk queue, for none of its numbers falls out of the window before.
    pub(crate) fn through(&self) -> u64 {
        let mut through = self.acked.max(self.highest.saturating_sub(SEQUENCE_WINDOW));
        while through < self.highest && self.window >> (self.highest - through - 1) & 1 == 1 {
            through += 1;
        }
        through
    }

    /// Judges a number.
    pub(crate) fn judge(&self, sequence: u64) -> Numbered {
        if sequence > self.highest {
            let last = match self.kind {
                QueueKind::Bulk => self.through().saturating_add(SEQUENCE_WINDOW),
                _ => self.highest.saturating_add(MAX_SEQUENCE_AHEAD),
            };
            return if sequence > last { Numbered::OutOfWindow } else { Numbered::New };
        }
        let back = self.highest - sequence;
        if sequence == 0 || back >= SEQUENCE_WINDOW {
            Numbered::OutOfWindow
        } else if self.window >> back & 1 == 1 {
            Numbered::Accepted
        } else if sequence <= self.acked {
            Numbered::OutOfWindow
        } else {
            Numbered::New
        }
    }

    /// Remembers a number that [`QueueRecord::judge`] called new.
    pub(crate) const fn accept(&mut self, sequence: u64) {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.window = if ahead >= SEQUENCE_WINDOW { 1 } else { self.window << ahead | 1 };
            self.highest = sequence;
        } else {
            let back = self.highest - sequence;
            if back < SEQUENCE_WINDOW {
                self.window |= 1 << back;
            }
        }
        self.held = self.held.saturating_add(1);
    }

    /// The number of a contact queue's message, if its id is remembered.
    pub(crate) fn number_of(&self, message: &MessageId) -> Option<u64> {
        let back = self.ids.iter().rev().position(|id| id == message)?;
        self.highest.checked_sub(back as u64)
    }

    /// Gives the next number to a message of a contact queue, and remembers its id.
    pub(crate) fn accept_contact(&mut self, message: MessageId) -> u64 {
        let sequence = self.highest.saturating_add(1);
        self.accept(sequence);
        if self.ids.len() >= CONTACT_WINDOW {
            self.ids.remove(0);
        }
        self.ids.push(message);
        sequence
    }

    /// Acknowledges up to a number, at most the highest accepted. Returns whether that is new.
    pub(crate) fn ack(&mut self, up_to: u64) -> bool {
        let up_to = up_to.min(self.highest);
        let new = up_to > self.acked;
        self.acked = self.acked.max(up_to);
        new
    }

    /// Notes a use. Returns whether the record has changed.
    pub(crate) const fn touch(&mut self, hour: u32) -> bool {
        let new = hour > self.used;
        if new {
            self.used = hour;
        }
        new
    }

    /// Turns into what remains after a delete. Numbers are of no use any more.
    pub(crate) fn bury(&mut self, hour: u32) {
        self.deleted = true;
        self.suspended = false;
        self.ids = Vec::new();
        self.touch(hour);
        self.filed = 0;
        self.held = 0;
        self.highest = 0;
        self.window = 0;
        self.acked = 0;
    }

    /// Forgets its messages, as a restored store does: what was accepted and not acknowledged is as good as never sent,
    /// so that its writer can store it again.
    pub(crate) fn forget_messages(&mut self) {
        self.held = 0;
        self.filed = 0;
        self.ids = Vec::new();
        if self.kind == QueueKind::Contact {
            // The relay gives the numbers out itself, and doesn't know how many it has given since: none comes twice.
            self.highest = self.highest.saturating_add(CONTACT_LEAP);
            self.acked = self.highest;
            self.window = 0;
            return;
        }
        // Bit i stood for `highest - i`.
        let back = self.highest.saturating_sub(self.acked);
        self.window = if back < SEQUENCE_WINDOW { self.window >> back } else { 0 };
        self.highest = self.acked;
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let counts = self.highest > 0;
        let mut w = Writer::with_capacity(101 + self.ids.len() * MessageId::LEN);
        let kind = match self.kind {
            QueueKind::Plain => 0,
            QueueKind::Contact => CONTACT,
            QueueKind::Bulk => BULK,
        };
        w.u8(kind
            | if self.invited.is_some() { SECURED } else { 0 }
            | if self.deleted { DELETED } else { 0 }
            | if counts { COUNTS } else { 0 }
            | if self.suspended { SUSPENDED } else { 0 });
        self.writer.write(&mut w);
        if let Some(invited) = &self.invited {
            invited.write(&mut w);
        }
        w.u32(self.used);
        if counts {
            w.u64(self.highest);
            w.u64(self.window);
            w.u64(self.acked);
            w.u32(self.held);
            w.u32(self.filed);
        }
        for id in &self.ids {
            id.write(&mut w);
        }
        w.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let flags = flags(&mut r, KNOWN)?;
        let kind = match flags & (CONTACT | BULK) {
            0 => QueueKind::Plain,
            CONTACT => QueueKind::Contact,
            BULK => QueueKind::Bulk,
            _ => return Err(Malformed::Value("flags")),
        };
        let writer = WriterId::read(&mut r)?;
        let invited = if flags & SECURED != 0 { Some(WriterId::read(&mut r)?) } else { None };
        let (deleted, suspended) = (flags & DELETED != 0, flags & SUSPENDED != 0);
        let mut record = Self { invited, deleted, suspended, ..Self::new(writer, kind, r.u32("used hour")?) };
        if flags & COUNTS != 0 {
            record.highest = r.u64("highest")?;
            record.window = r.u64("window")?;
            record.acked = r.u64("acked")?;
            record.held = r.u32("held")?;
            record.filed = r.u32("filed hour")?;
        }
        while kind == QueueKind::Contact && r.left() > 0 {
            if record.ids.len() >= CONTACT_WINDOW {
                return Err(Malformed::TooLong("ids"));
            }
            record.ids.push(MessageId::read(&mut r)?);
        }
        r.finish("queue record")?;
        Ok(record)
    }
}

fn flags(r: &mut Reader<'_>, known: u8) -> Result<u8, Malformed> {
    let flags = r.u8("flags")?;
    if flags & !known == 0 { Ok(flags) } else { Err(Malformed::Value("flags")) }
}

const ONE_TIME: u8 = 1;
const BLOB_DELETED: u8 = 2;
const LOCKED: u8 = 4;

/// A blob.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BlobRecord {
    pub(crate) put: WriterId,
    pub(crate) one_time: bool,
    pub(crate) deleted: bool,
    /// The life that was asked for, to recognise a repeat.
    pub(crate) hours: u32,
    /// It ends at the beginning of this hour.
    pub(crate) end: u32,
    /// Hash of the first reader's key, of a one-time blob.
    pub(crate) lock: Option<Hash>,
    pub(crate) body: Box<[u8]>,
}

impl BlobRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(73 + self.body.len());
        w.u8(if self.one_time { ONE_TIME } else { 0 }
            | if self.deleted { BLOB_DELETED } else { 0 }
            | if self.lock.is_some() { LOCKED } else { 0 });
        self.put.write(&mut w);
        w.u32(self.hours);
        w.u32(self.end);
        if let Some(lock) = &self.lock {
            w.bytes(&lock.0);
        }
        w.bytes(&self.body);
        w.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let flags = flags(&mut r, ONE_TIME | BLOB_DELETED | LOCKED)?;
        Ok(Self {
            put: WriterId::read(&mut r)?,
            one_time: flags & ONE_TIME != 0,
            deleted: flags & BLOB_DELETED != 0,
            hours: r.u32("hours")?,
            end: r.u32("end hour")?,
            lock: if flags & LOCKED != 0 { Some(Hash(r.array("lock")?)) } else { None },
            body: r.remainder().into(),
        })
    }
}

/// What a store holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Queue records, tombstones included.
    pub(crate) queues: u64,
    /// Bytes of messages and blobs, with their overhead.
    pub(crate) bytes: u64,
}

impl Totals {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut w = Writer::with_capacity(16);
        w.u64(self.queues);
        w.u64(self.bytes);
        w.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let totals = Self { queues: r.u64("queues")?, bytes: r.u64("bytes")? };
        r.finish("totals")?;
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> QueueRecord {
        QueueRecord::new(WriterId([1; 32]), QueueKind::Plain, 5)
    }

    fn of_kind(kind: QueueKind) -> QueueRecord {
        QueueRecord::new(WriterId([1; 32]), kind, 5)
    }

    fn id(n: u8) -> MessageId {
        MessageId([n; 16])
    }

    #[test]
    fn the_window_tells_sixty_four_numbers_apart() {
        let mut q = queue();
        assert_eq!(q.judge(0), Numbered::OutOfWindow);
        assert_eq!(q.judge(MAX_SEQUENCE_AHEAD), Numbered::New);
        assert_eq!(q.judge(MAX_SEQUENCE_AHEAD + 1), Numbered::OutOfWindow);
        assert_eq!(q.judge(u64::MAX), Numbered::OutOfWindow);
        q.accept(100);
        assert_eq!(q.judge(100), Numbered::Accepted);
        assert_eq!(q.judge(37), Numbered::New, "100 - 63 is the last one in the window");
        assert_eq!(q.judge(36), Numbered::OutOfWindow);
        q.accept(37);
        assert_eq!(q.judge(37), Numbered::Accepted);
        q.accept(101);
        assert_eq!((q.judge(37), q.judge(38)), (Numbered::OutOfWindow, Numbered::New));
        q.accept(500);
        assert_eq!(
            (q.judge(500), q.judge(499), q.judge(101)),
            (Numbered::Accepted, Numbered::New, Numbered::OutOfWindow)
        );
        assert_eq!(q.held, 4);
    }

    #[test]
    fn an_ack_closes_the_gaps_behind_it_and_goes_no_further_than_what_is_there() {
        let mut q = queue();
        q.accept(1);
        q.accept(3);
        assert!(q.ack(u64::MAX));
        assert!(!q.ack(3) && !q.ack(1));
        assert_eq!(q.acked(), 3);
        assert_eq!(q.judge(1), Numbered::Accepted, "a repeat is recognised beyond deletion");
        assert_eq!(q.judge(2), Numbered::OutOfWindow);
        assert_eq!(q.judge(4), Numbered::New);
        let mut q = queue();
        q.accept(1);
        q.accept(3);
        assert!(q.ack(2));
        assert_eq!((q.judge(2), q.judge(3)), (Numbered::OutOfWindow, Numbered::Accepted));
    }

    #[test]
    fn a_bulk_queue_passes_no_number_over() {
        let mut q = of_kind(QueueKind::Bulk);
        assert_eq!((q.through(), q.judge(64), q.judge(65)), (0, Numbered::New, Numbered::OutOfWindow));
        for n in (2..=64).rev() {
            q.accept(n);
            assert_eq!(q.through(), 0);
        }
        assert_eq!((q.judge(65), q.judge(1)), (Numbered::OutOfWindow, Numbered::New));
        q.accept(1);
        assert_eq!((q.through(), q.judge(128), q.judge(129)), (64, Numbered::New, Numbered::OutOfWindow));
        q.accept(128);
        assert_eq!((q.through(), q.judge(65), q.judge(64)), (64, Numbered::New, Numbered::OutOfWindow));
        q.accept(65);
        assert_eq!(q.through(), 65);
        q.ack(100);
        assert_eq!((q.through(), q.judge(66), q.judge(164)), (100, Numbered::OutOfWindow, Numbered::New));
        q.ack(128);
        assert_eq!((q.through(), q.judge(192), q.judge(193)), (128, Numbered::New, Numbered::OutOfWindow));
    }

    #[test]
    fn a_contact_queue_remembers_the_latest_ids_and_their_numbers() {
        let mut q = of_kind(QueueKind::Contact);
        assert_eq!(q.number_of(&id(1)), None);
        for n in 1..=65 {
            assert_eq!(q.accept_contact(id(n)), u64::from(n));
        }
        assert_eq!((q.number_of(&id(1)), q.number_of(&id(2)), q.number_of(&id(65))), (None, Some(2), Some(65)));
        q.ack(65);
        assert_eq!(q.number_of(&id(2)), Some(2), "beyond deletion");
        q.suspended = true;
        assert_eq!(q.encode().len(), 69 + 64 * 16);
        assert_eq!(QueueRecord::decode(&q.encode()), Ok(q.clone()));
        let mut bytes = q.encode();
        bytes.extend_from_slice(&[0; 16]);
        assert_eq!(QueueRecord::decode(&bytes), Err(Malformed::TooLong("ids")));
    }

    #[test]
    fn a_record_of_schema_1_is_one_of_a_plain_queue() {
        // Written by schema 1: secured, with counts.
        let mut old = vec![SECURED | COUNTS];
        old.extend_from_slice(&[2; 32]);
        old.extend_from_slice(&[1; 32]);
        old.extend_from_slice(&5_u32.to_le_bytes());
        for n in [9_u64, 1, 3] {
            old.extend_from_slice(&n.to_le_bytes());
        }
        for n in [1_u32, 7] {
            old.extend_from_slice(&n.to_le_bytes());
        }
        let mut expected = queue();
        expected.accept(9);
        expected.ack(3);
        (expected.writer, expected.invited, expected.filed) = (WriterId([2; 32]), Some(WriterId([1; 32])), 7);
        assert_eq!(QueueRecord::decode(&old), Ok(expected.clone()));
        assert_eq!(expected.encode(), old, "and stays as it is");
        assert_eq!((expected.kind, expected.suspended), (QueueKind::Plain, false));
        old[0] |= CONTACT | BULK;
        assert_eq!(QueueRecord::decode(&old), Err(Malformed::Value("flags")));
    }

    #[test]
    fn a_queue_without_its_messages_takes_them_again_and_none_that_was_acknowledged() {
        let mut q = queue();
        for n in [1, 2, 4, 5, 90] {
            q.accept(n);
        }
        q.ack(3);
        q.forget_messages();
        assert_eq!(
            (q.judge(1), q.judge(2), q.judge(3)),
            (Numbered::OutOfWindow, Numbered::OutOfWindow, Numbered::OutOfWindow)
        );
        assert_eq!((q.judge(4), q.judge(5), q.judge(90), q.held), (Numbered::New, Numbered::New, Numbered::New, 0));
        let mut q = queue();
        for n in [1, 2, 4, 5] {
            q.accept(n);
        }
        q.ack(4);
        q.forget_messages();
        assert_eq!(
            (q.judge(1), q.judge(3), q.judge(4)),
            (Numbered::Accepted, Numbered::OutOfWindow, Numbered::Accepted)
        );
        assert_eq!(q.judge(5), Numbered::New);
        let mut q = queue();
        q.accept(1);
        q.forget_messages();
        assert_eq!(q, queue(), "as one that never took any");
        let mut q = of_kind(QueueKind::Contact);
        q.accept_contact(id(1));
        q.forget_messages();
        assert_eq!((q.number_of(&id(1)), q.held), (None, 0));
        assert!(q.accept_contact(id(1)) > CONTACT_LEAP, "no number is given twice");
        assert_eq!(QueueRecord::decode(&q.encode()), Ok(q));
        let mut q = of_kind(QueueKind::Bulk);
        for n in 1..=9 {
            q.accept(n);
        }
        q.ack(4);
        q.forget_messages();
        assert_eq!(
            (q.through(), q.judge(5), q.judge(68), q.judge(69)),
            (4, Numbered::New, Numbered::New, Numbered::OutOfWindow)
        );
    }

    #[test]
    fn records_come_back_from_their_bytes() {
        let mut q = queue();
        assert_eq!(q.encode().len(), 37);
        assert_eq!(QueueRecord::decode(&q.encode()), Ok(q.clone()));
        q.accept(9);
        q.invited = Some(WriterId([2; 32]));
        q.filed = 7;
        assert_eq!(q.encode().len(), 101);
        assert_eq!(QueueRecord::decode(&q.encode()), Ok(q.clone()));
        q.bury(6);
        assert_eq!(QueueRecord::decode(&q.encode()), Ok(q.clone()));
        let mut bytes = q.encode();
        bytes.push(0);
        assert!(QueueRecord::decode(&bytes).is_err());
        assert!(QueueRecord::decode(&[0xff; 120]).is_err());
        let blob = BlobRecord {
            put: WriterId([3; 32]),
            one_time: true,
            deleted: false,
            hours: 3,
            end: 9,
            lock: Some(Hash([4; 32])),
            body: vec![5; 10].into(),
        };
        assert!(BlobRecord::decode(&blob.encode()).is_ok_and(|b| b == blob));
        let totals = Totals { queues: 1, bytes: 2 };
        assert_eq!(Totals::decode(&totals.encode()), Ok(totals));
    }
}
