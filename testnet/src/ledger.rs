//! The ground truth of a run: every message that an application sent, and what the other one got.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use serde_json::json;

/// Which of the two applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The one that invited.
    Inviter,
    /// The one that joined.
    Joiner,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Inviter, Self::Joiner];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Inviter => Self::Joiner,
            Self::Joiner => Self::Inviter,
        }
    }

    /// The name of its process in a network of processes.
    #[must_use]
    pub const fn client(self) -> &'static str {
        match self {
            Self::Inviter => "client-1",
            Self::Joiner => "client-2",
        }
    }
}

#[derive(Debug)]
struct Entry {
    sent_at: Duration,
    received_at: Option<Duration>,
    stored: bool,
}

/// What was sent and what arrived, by sender and number. Times are since the start of the run.
#[derive(Debug, Default)]
pub struct Ledger {
    sent: BTreeMap<(Side, usize), Entry>,
    last_received: BTreeMap<Side, usize>,
    /// Bodies received more than once.
    pub duplicates: usize,
    /// Bodies received after a later one.
    pub out_of_order: usize,
    /// Bodies that nobody sent, or that changed on their way.
    pub foreign: usize,
    /// When the first message arrived.
    pub first_delivery: Option<Duration>,
}

/// A body: who sent it, which one it is, random text, and a hash over all of it.
#[must_use]
pub fn body(from: Side, number: usize, rng: &mut ChaCha20Rng) -> String {
    let text: String = (0..rng.random_range(20..400)).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    let head = format!("{from:?} {number} {text}");
    let hash = hash(&head);
    format!("{head} {hash}")
}

fn hash(head: &str) -> String {
    posta_protocol::crypto::keyed_hash(&[0; 32], head.as_bytes()).iter().take(16).map(|b| format!("{b:02x}")).collect()
}

fn parse(body: &str, from: Side) -> Option<usize> {
    let (head, got) = body.rsplit_once(' ')?;
    let mut words = head.split(' ');
    if got != hash(head) || words.next()? != format!("{from:?}") {
        return None;
    }
    words.next()?.parse().ok()
}

impl Ledger {
    /// `from` handed a message to `send`.
    pub fn sent(&mut self, from: Side, number: usize, at: Duration) {
        self.sent.insert((from, number), Entry { sent_at: at, received_at: None, stored: false });
    }

    /// A relay reported the message as stored.
    pub fn stored(&mut self, from: Side, number: usize) {
        if let Some(e) = self.sent.get_mut(&(from, number)) {
            e.stored = true;
        }
    }

    /// The application `to` received a body.
    pub fn received(&mut self, to: Side, body: &str, at: Duration) {
        let from = to.other();
        let Some((number, entry)) = parse(body, from).and_then(|n| Some((n, self.sent.get_mut(&(from, n))?))) else {
            self.foreign += 1;
            return;
        };
        if entry.received_at.is_some() {
            self.duplicates += 1;
            return;
        }
        entry.received_at = Some(at);
        self.first_delivery.get_or_insert(at);
        let last = self.last_received.entry(to).or_default();
        if number < *last {
            self.out_of_order += 1;
        }
        *last = (*last).max(number);
    }

    /// Writes one line a message, in the order of sending: who sent it, when, and when it was received, in microseconds
    /// since 1970, if the run began at `began`.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, file: &Path, began: Duration) -> io::Result<()> {
        let mut all: Vec<_> = self.sent.iter().collect();
        all.sort_by_key(|(_, entry)| entry.sent_at);
        let us = |at: Duration| u64::try_from((began + at).as_micros()).unwrap_or(u64::MAX);
        let mut out = BufWriter::new(File::create(file)?);
        for ((from, number), entry) in all {
            let line = json!({
                "from": from.client(), "to": from.other().client(), "message": number,
                "sent_unix_us": us(entry.sent_at), "received_unix_us": entry.received_at.map(us),
            });
            writeln!(out, "{line}")?;
        }
        out.flush()
    }

    /// Messages sent, both ways.
    #[must_use]
    pub fn total(&self) -> usize {
        self.sent.len()
    }

    /// Distinct messages delivered, both ways.
    #[must_use]
    pub fn delivered(&self) -> usize {
        self.sent.values().filter(|e| e.received_at.is_some()).count()
    }

    /// Messages that relays reported as stored; what was delivered was stored, even if the report got lost.
    #[must_use]
    pub fn stored_count(&self) -> usize {
        self.sent.values().filter(|e| e.stored || e.received_at.is_some()).count()
    }

    /// From send to receive, of every message delivered.
    #[must_use]
    pub fn latencies(&self) -> Vec<Duration> {
        self.sent.values().filter_map(|e| Some(e.received_at?.saturating_sub(e.sent_at))).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn each_kind_of_fault_is_counted_as_such() {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let mut ledger = Ledger::default();
        let bodies: Vec<String> = (1..=3).map(|n| body(Side::Inviter, n, rng)).collect();
        for n in 1..=3 {
            ledger.sent(Side::Inviter, n, Duration::from_millis(n as u64));
        }
        ledger.received(Side::Joiner, &bodies[0], Duration::from_millis(11));
        ledger.received(Side::Joiner, &bodies[0], Duration::from_millis(12));
        ledger.received(Side::Joiner, &bodies[2], Duration::from_millis(13));
        ledger.received(Side::Joiner, &bodies[1], Duration::from_millis(14));
        let mut changed = bodies[1].clone();
        changed.insert(20, 'x');
        ledger.received(Side::Joiner, &changed, Duration::from_millis(15));
        assert_eq!((ledger.total(), ledger.delivered()), (3, 3));
        assert_eq!((ledger.duplicates, ledger.out_of_order, ledger.foreign), (1, 1, 1));
        assert_eq!(ledger.latencies(), [10, 12, 10].map(Duration::from_millis));
    }
}
