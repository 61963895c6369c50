//! What was confirmed, and whether a store still has it.

use std::collections::BTreeMap;

use posta_protocol::now::Now;
use posta_store::{Outcome, QueueOp, QueueStore, Refusal};

use crate::work::{Fact, Name, SLOTS, Stand};

/// Rounds after which a deleted queue is asked for no more.
const FORGET_AFTER: u32 = 8;

/// A queue as its clients know it: what was confirmed, and what may have happened.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    created: bool,
    sent: u64,
    maybe_sent: u64,
    acked: u64,
    maybe_acked: u64,
    deleted: bool,
    maybe_deleted: bool,
    /// The round in which its delete was confirmed.
    deleted_in: u32,
}

/// All queues.
#[derive(Debug, Default)]
pub struct Ledger {
    queues: BTreeMap<Name, Known>,
    round: u32,
    /// Sends confirmed in all.
    pub sends: u64,
    /// Messages found in the last check.
    pub found: u64,
}

impl Ledger {
    /// Takes down a fact.
    pub fn note(&mut self, fact: Fact) {
        let name = match fact {
            Fact::Open | Fact::NoSpace => return,
            Fact::Create(name, _) | Fact::Send(name, ..) | Fact::Ack(name, ..) | Fact::Delete(name, _) => name,
        };
        let known = self.queues.entry(name).or_default();
        match fact {
            Fact::Open | Fact::NoSpace => {}
            Fact::Create(_, sure) => known.created |= sure,
            Fact::Send(_, number, false) => known.maybe_sent = number,
            Fact::Send(_, number, true) => {
                self.sends += 1;
                known.sent = number;
            }
            Fact::Ack(_, number, false) => known.maybe_acked = number,
            Fact::Ack(_, number, true) => known.acked = number,
            Fact::Delete(_, false) => known.maybe_deleted = true,
            Fact::Delete(_, true) => (known.deleted, known.deleted_in) = (true, self.round),
        }
    }

    /// Where each slot goes on.
    pub fn stands(&self) -> Vec<Stand> {
        let stand = |slot| {
            let all = Name { slot, generation: 0 }..=Name { slot, generation: u32::MAX };
            match self.queues.range(all).next_back() {
                None => Stand::first(slot),
                Some((name, known)) if known.deleted => Stand::fresh(name.next()),
                Some((name, known)) => Stand { name: *name, sent: known.sent, acked: known.acked },
            }
        };
        (0..SLOTS).map(stand).collect()
    }

    /// Looks at every queue: what was confirmed is there once and in order, what was acknowledged or deleted isn't.
    /// What was not confirmed may have happened, whole or not at all; from here on it is known.
    ///
    /// # Errors
    /// What is wrong, with the queue's name.
    pub fn check(&mut self, store: &mut dyn QueueStore, now: Now) -> Result<(), String> {
        self.found = 0;
        for (name, known) in &mut self.queues {
            self.found +=
                check(*name, known, self.round, store, now).map_err(|what| format!("{name:?}: {what}; {known:?}"))?;
        }
        self.round += 1;
        let round = self.round;
        // The newest of each slot stays, so that no name is used twice.
        let newest = self.stands();
        self.queues.retain(|name, known| {
            !known.deleted
                || known.deleted_in + FORGET_AFTER > round
                || newest.iter().any(|stand| stand.name == name.next())
        });
        Ok(())
    }
}

fn check(name: Name, known: &mut Known, round: u32, store: &mut dyn QueueStore, now: Now) -> Result<u64, String> {
    let mut one = |op| store.apply(now, &[op]).remove(0);
    let queue = name.queue();
    let read = |after| QueueOp::Read { queue, after, skip: Vec::new() };
    let mut present = Vec::new();
    loop {
        match one(read(present.last().copied().unwrap_or(0))) {
            Outcome::Message { sequence, body, left } => {
                if body != name.body(sequence) {
                    return Err(format!("message {sequence} is damaged"));
                }
                if present.last().is_some_and(|last| *last >= sequence) {
                    return Err(format!("message {sequence} comes after {present:?}"));
                }
                present.push(sequence);
                if u64::from(left) > name.length() {
                    return Err(format!("{left} are left of {}", name.length()));
                }
            }
            Outcome::Empty => break,
            // A tombstone, or what the janitor left of it.
            Outcome::Refused(Refusal::Gone | Refusal::BadCapability) if known.maybe_deleted => {
                if !known.deleted {
                    (known.deleted, known.deleted_in) = (true, round);
                }
                return Ok(0);
            }
            Outcome::Refused(Refusal::BadCapability) if !known.created => return Ok(0),
            other => return Err(format!("the queue is not there: {other:?}")),
        }
    }
    if known.deleted {
        return Err(format!("a deleted queue is back with {present:?}"));
    }
    // What may have been: one send more than was confirmed, and an acknowledgement up to what was asked. Only what was
    // confirmed to the writer was read and acknowledged; so nothing there means that everything confirmed is acknowledged.
    let acked = present.first().map_or(known.sent, |first| first - 1);
    let sent = present.last().copied().unwrap_or(known.sent);
    if present.iter().copied().ne(acked + 1..=sent) {
        return Err(format!("there are gaps in {present:?}"));
    }
    if ![known.acked, known.maybe_acked].contains(&acked) || ![known.sent, known.maybe_sent].contains(&sent) {
        return Err(format!("found {present:?}"));
    }
    (known.sent, known.acked) = (sent, acked);
    if known.sent > known.acked {
        // A repeat is recognised and stores nothing.
        let (writer, sequence) = (name.writer(), known.sent);
        let again = one(QueueOp::Send { writer, sequence, body: name.body(sequence) });
        let secured = one(QueueOp::Secure { invited: name.invited(), writer });
        if !matches!((&again, &secured), (Outcome::Repeated { .. }, Outcome::Done)) {
            return Err(format!("a repeat of {sequence} was answered {again:?}, of securing {secured:?}"));
        }
    }
    (known.maybe_sent, known.maybe_acked, known.maybe_deleted) = (known.sent, known.acked, false);
    Ok(present.len() as u64)
}
