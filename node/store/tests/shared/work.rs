//! Work for a store that is killed: 64 writers and 64 readers side by side, over the same channel and thread as in a
//! relay. Each says what it is about to do, and what was confirmed to it, before anybody else can know.

use std::io::Write;
use std::path::Path;

use posta_protocol::admission::QueueKind;
use posta_protocol::ids::{QueueId, WriterId};
use posta_protocol::params::BOX_LEN;
use posta_store::driver::{self, Job};
use posta_store::{Limits, Outcome, QueueOp, RocksStore};
use tokio::sync::mpsc;

use crate::rig::{HOUR, INCARNATION, at};

/// Queues in use at a time, each with one writer and one reader.
pub const SLOTS: u32 = 64;
/// Messages that a queue gets at most; below its quota.
const LONGEST: u64 = 100;
/// Outcomes between two sweeps.
const SWEEP_EVERY: u64 = 256;

/// Deleted queues are forgotten after some rounds (a round is an hour), so that the janitor has something to do.
pub fn limits() -> Limits {
    Limits { min_free_bytes: 0, queue_ttl: HOUR * 3, message_ttl: HOUR * 100_000, ..Limits::default() }
}

/// A queue: everything about it follows from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub slot: u32,
    pub generation: u32,
}

impl Name {
    fn derive(self, what: &str, number: u64, out: &mut [u8]) {
        let mut hash = blake3::Hasher::new_derive_key(what);
        hash.update(&self.slot.to_le_bytes()).update(&self.generation.to_le_bytes()).update(&number.to_le_bytes());
        hash.finalize_xof().fill(out);
    }

    fn id(self, what: &str) -> [u8; 32] {
        let mut id = [0; 32];
        self.derive(what, 0, &mut id);
        id
    }

    pub fn queue(self) -> QueueId {
        QueueId(self.id("test queue"))
    }

    pub fn invited(self) -> WriterId {
        WriterId(self.id("test invited"))
    }

    pub fn writer(self) -> WriterId {
        WriterId(self.id("test writer"))
    }

    /// Messages that it gets.
    pub fn length(self) -> u64 {
        1 + u64::from(self.id("test length")[0]) * (LONGEST - 1) / 255
    }

    /// Whether it is deleted in the end; the others keep their last messages for ever.
    pub fn ends(self) -> bool {
        !self.id("test end")[0].is_multiple_of(4)
    }

    /// How many messages the reader takes before it acknowledges.
    fn stride(self) -> u64 {
        2 + u64::from(self.id("test stride")[0] % 8)
    }

    pub fn body(self, number: u64) -> Box<[u8]> {
        let mut body = vec![0; BOX_LEN];
        self.derive("test body", number, &mut body);
        body.into()
    }

    pub fn next(self) -> Self {
        Self { generation: self.generation + 1, ..self }
    }
}

/// What a writer or reader says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The store is open.
    Open,
    /// The store refused to write, and the process ends.
    NoSpace,
    /// About to do something (false), or that it was confirmed (true).
    Create(Name, bool),
    Send(Name, u64, bool),
    Ack(Name, u64, bool),
    Delete(Name, bool),
}

impl Fact {
    /// Whether it speaks of something confirmed.
    pub fn confirms(self) -> bool {
        match self {
            Self::Open | Self::NoSpace => false,
            Self::Create(_, sure) | Self::Send(_, _, sure) | Self::Ack(_, _, sure) | Self::Delete(_, sure) => sure,
        }
    }

    /// One line.
    pub fn say(self, to: &mut impl Write) {
        let (verb, name, number, sure) = match self {
            Self::Open => ("open", Name { slot: 0, generation: 0 }, 0, true),
            Self::NoSpace => ("nospace", Name { slot: 0, generation: 0 }, 0, true),
            Self::Create(name, sure) => ("create", name, 0, sure),
            Self::Send(name, number, sure) => ("send", name, number, sure),
            Self::Ack(name, number, sure) => ("ack", name, number, sure),
            Self::Delete(name, sure) => ("delete", name, 0, sure),
        };
        writeln!(to, "@ {verb} {} {} {number} {sure}", name.slot, name.generation).expect("somebody listens");
    }

    /// Reads a line; none if it isn't a fact.
    pub fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("@ ")?.split_whitespace();
        let verb = words.next()?;
        let name = Name { slot: words.next()?.parse().ok()?, generation: words.next()?.parse().ok()? };
        let (number, sure) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        match verb {
            "open" => Some(Self::Open),
            "nospace" => Some(Self::NoSpace),
            "create" => Some(Self::Create(name, sure)),
            "send" => Some(Self::Send(name, number, sure)),
            "ack" => Some(Self::Ack(name, number, sure)),
            "delete" => Some(Self::Delete(name, sure)),
            _ => None,
        }
    }
}

/// Where a slot's queue stands.
#[derive(Clone, Copy, Debug)]
pub struct Stand {
    pub name: Name,
    pub sent: u64,
    pub acked: u64,
}

impl Stand {
    pub fn first(slot: u32) -> Self {
        Self::fresh(Name { slot, generation: 0 })
    }

    pub fn fresh(name: Name) -> Self {
        Self { name, sent: 0, acked: 0 }
    }
}

/// One queue with its writer and its reader, each of which has one command in flight at most.
struct Slot {
    stand: Stand,
    created: bool,
    secured: bool,
    read: u64,
    /// What the writer and the reader wait for.
    flying: [Option<Fact>; 2],
    securing: bool,
    reading: bool,
}

impl Slot {
    fn new(stand: Stand) -> Self {
        Self {
            stand,
            created: false,
            secured: false,
            read: stand.acked,
            flying: [None; 2],
            securing: false,
            reading: false,
        }
    }

    /// What the writer (0) or the reader (1) does next, with what it says before; nothing if it waits.
    fn next(&mut self, who: usize) -> Option<(QueueOp, Option<Fact>)> {
        let name = self.stand.name;
        let (queue, writer, invited) = (name.queue(), name.writer(), name.invited());
        let busy = self.flying[who].is_some() || [self.securing, self.reading][who];
        // After a restart the writer repeats its first commands; the reader waits, or it might delete what they are about.
        if busy || (who == 1 && !self.secured) {
            return None;
        }
        let (op, fact) = if who == 0 {
            if !self.created {
                (QueueOp::Create { queue, writer: invited, kind: QueueKind::Plain }, Some(Fact::Create(name, false)))
            } else if !self.secured {
                self.securing = true;
                (QueueOp::Secure { invited, writer }, None)
            } else if self.stand.sent < name.length() {
                let sequence = self.stand.sent + 1;
                let op = QueueOp::Send { writer, sequence, body: name.body(sequence) };
                (op, Some(Fact::Send(name, sequence, false)))
            } else {
                return None;
            }
        } else if self.read >= self.stand.acked + name.stride() || (self.read == name.length() && self.acks_all()) {
            (QueueOp::Ack { queue, up_to: self.read }, Some(Fact::Ack(name, self.read, false)))
        } else if self.read < self.stand.sent {
            self.reading = true;
            (QueueOp::Read { queue, after: self.read, skip: Vec::new() }, None)
        } else if self.read == name.length() && name.ends() {
            (QueueOp::Delete { queue }, Some(Fact::Delete(name, false)))
        } else {
            return None;
        };
        self.flying[who] = fact;
        Some((op, fact))
    }

    fn acks_all(&self) -> bool {
        self.stand.name.ends() && self.stand.acked < self.read
    }

    /// Takes an outcome; gives what is confirmed by it. None if the store refuses to write.
    fn done(&mut self, who: usize, outcome: Outcome) -> Option<Option<Fact>> {
        use posta_store::Refusal::{Busy, NoSpace};
        if matches!(outcome, Outcome::Refused(NoSpace | Busy)) {
            return None;
        }
        let name = self.stand.name;
        let fact = self.flying[who].take();
        let confirmed = match (fact, outcome) {
            (Some(Fact::Create(..)), Outcome::Created | Outcome::Done) => {
                self.created = true;
                Some(Fact::Create(name, true))
            }
            (Some(Fact::Send(_, number, _)), Outcome::Accepted { .. } | Outcome::Repeated { .. }) => {
                self.stand.sent = number;
                Some(Fact::Send(name, number, true))
            }
            (Some(Fact::Ack(_, number, _)), Outcome::Done) => {
                self.stand.acked = number;
                Some(Fact::Ack(name, number, true))
            }
            (Some(Fact::Delete(..)), Outcome::Done) => Some(Fact::Delete(name, true)),
            (None, Outcome::Done) if who == 0 => {
                (self.secured, self.securing) = (true, false);
                None
            }
            (None, Outcome::Message { sequence, body, .. }) if who == 1 => {
                assert_eq!(sequence, self.read + 1, "messages come in order");
                assert!(body == name.body(sequence), "message {sequence} of {name:?} is damaged");
                (self.read, self.reading) = (sequence, false);
                None
            }
            (fact, outcome) => panic!("{name:?}, {fact:?}: {outcome:?}"),
        };
        let over = match confirmed {
            Some(Fact::Delete(..)) => true,
            _ => !name.ends() && self.read == name.length() && self.flying == [None; 2] && !self.reading,
        };
        if over {
            *self = Self::new(Stand::fresh(name.next()));
        }
        Some(confirmed)
    }
}

/// Opens the store and works on it until the store refuses to write; says every fact.
pub fn work(path: &Path, hour: u32, stands: Vec<Stand>, mut say: impl FnMut(Fact)) {
    let store = RocksStore::open(path, limits(), INCARNATION).expect("the store opens");
    say(Fact::Open);
    let (jobs, waiting) = mpsc::channel(4096);
    let (results, mut outcomes) = mpsc::channel(16);
    let thread = driver::start(Box::new(store), move || at(hour), waiting, results).expect("a thread");
    let mut slots: Vec<_> = stands.into_iter().map(Slot::new).collect();
    let mut all: Vec<(usize, usize)> = (0..slots.len()).flat_map(|slot| [(slot, 0), (slot, 1)]).collect();
    let mut count = 0_u64;
    'work: loop {
        for (slot, who) in all.drain(..) {
            if let Some((op, fact)) = slots[slot].next(who) {
                fact.into_iter().for_each(&mut say);
                jobs.try_send(Job::Op((slot, who), op)).expect("there is room for every client");
            }
        }
        for ((slot, who), outcome) in outcomes.blocking_recv().expect("the thread works") {
            let Some(confirmed) = slots[slot].done(who, outcome) else { break 'work };
            confirmed.into_iter().for_each(&mut say);
            all.extend([(slot, 0), (slot, 1)]);
            count += 1;
            if count.is_multiple_of(SWEEP_EVERY) {
                // With a full channel the next one does.
                let _ = jobs.try_send(Job::Sweep);
            }
        }
    }
    say(Fact::NoSpace);
    drop((jobs, outcomes));
    thread.join().expect("the thread ends");
}
