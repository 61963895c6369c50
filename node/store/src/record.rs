//! The state of one queue and of one blob, and how it changes: pure values, the same for every store.
//!
//! ```text
//! queue record   flags u8 | writer 32 | [invited 32] | used hour u32 | [counts]
//!       flags    1 secured (invited follows)   2 deleted   4 counts follow
//!       counts   highest u64 | window u64 | acked u64 | held u32 | filed hour u32
//! blob record    flags u8 | put 32 | hours u32 | end hour u32 | [lock 32] | body
//!       flags    1 one-time   2 deleted (no body)   4 locked (lock follows)
//! totals         queues u64 | bytes u64
//! ```
//! A queue that never took a message has no counts, as most of a large store's queues don't.

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::error::Malformed;
use posta_protocol::ids::WriterId;
use posta_protocol::params::SEQUENCE_WINDOW;

use crate::limits::MAX_SEQUENCE_AHEAD;

const _: () = assert!(SEQUENCE_WINDOW == u64::BITS as u64, "the window is the bits of one u64");

const SECURED: u8 = 1;
const DELETED: u8 = 2;
const COUNTS: u8 = 4;

/// What a queue is, apart from its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueRecord {
    /// Who may write.
    pub(crate) writer: WriterId,
    /// Who might have before the queue was secured.
    pub(crate) invited: Option<WriterId>,
    pub(crate) deleted: bool,
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
}

/// How a message's number relates to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbered {
    New,
    Accepted,
    OutOfWindow,
}

impl QueueRecord {
    pub(crate) const fn new(writer: WriterId, used: u32) -> Self {
        Self { writer, invited: None, deleted: false, used, filed: 0, held: 0, highest: 0, window: 0, acked: 0 }
    }

    /// The writer that the queue was created with.
    pub(crate) fn first_writer(&self) -> WriterId {
        self.invited.unwrap_or(self.writer)
    }

    /// Everything up to this number was acknowledged.
    pub(crate) const fn acked(&self) -> u64 {
        self.acked
    }

    /// Judges a number.
    pub(crate) const fn judge(&self, sequence: u64) -> Numbered {
        if sequence > self.highest {
            return if sequence - self.highest > MAX_SEQUENCE_AHEAD { Numbered::OutOfWindow } else { Numbered::New };
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
    pub(crate) const fn bury(&mut self, hour: u32) {
        self.deleted = true;
        self.touch(hour);
        self.filed = 0;
        self.held = 0;
        self.highest = 0;
        self.window = 0;
        self.acked = 0;
    }

    /// Forgets its messages, as a restored store does: what was accepted and not acknowledged is as good as never sent,
    /// so that its writer can store it again.
    pub(crate) const fn forget_messages(&mut self) {
        // Bit i stood for `highest - i`.
        let back = self.highest - self.acked;
        self.window = if back < SEQUENCE_WINDOW { self.window >> back } else { 0 };
        self.highest = self.acked;
        self.held = 0;
        self.filed = 0;
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let counts = self.highest > 0;
        let mut w = Writer::with_capacity(101);
        w.u8(if self.invited.is_some() { SECURED } else { 0 }
            | if self.deleted { DELETED } else { 0 }
            | if counts { COUNTS } else { 0 });
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
        w.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let flags = flags(&mut r, SECURED | DELETED | COUNTS)?;
        let writer = WriterId::read(&mut r)?;
        let invited = if flags & SECURED != 0 { Some(WriterId::read(&mut r)?) } else { None };
        let mut record = Self { invited, deleted: flags & DELETED != 0, ..Self::new(writer, r.u32("used hour")?) };
        if flags & COUNTS != 0 {
            record.highest = r.u64("highest")?;
            record.window = r.u64("window")?;
            record.acked = r.u64("acked")?;
            record.held = r.u32("held")?;
            record.filed = r.u32("filed hour")?;
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
    pub(crate) lock: Option<[u8; 32]>,
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
            w.bytes(lock);
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
            lock: if flags & LOCKED != 0 { Some(r.array("lock")?) } else { None },
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
        QueueRecord::new(WriterId([1; 32]), 5)
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
            lock: Some([4; 32]),
            body: vec![5; 10].into(),
        };
        assert!(BlobRecord::decode(&blob.encode()).is_ok_and(|b| b == blob));
        let totals = Totals { queues: 1, bytes: 2 };
        assert_eq!(Totals::decode(&totals.encode()), Ok(totals));
    }
}
