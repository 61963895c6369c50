//! What was said with one contact: what waits to be delivered, and as much of the rest as is to be kept.

use std::collections::BTreeMap;
use std::time::Duration;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::end_to_end::MAX_MESSAGE_LEN;
use posta_protocol::error::Malformed;
use posta_protocol::now::Wall;
use zeroize::Zeroizing;

use super::saved::{Part, Parts, reader, writer};

/// Messages each way that are kept for a contact, at most, whatever is asked for.
pub const MAX_HISTORY: usize = 1024;
/// Bytes of all that is kept for a contact beside what is not delivered; the oldest go first.
pub const MAX_HISTORY_BYTES: usize = 2 << 20;

/// Theirs; ours, not delivered; ours.
const THEIRS: u8 = 0;
const WAITING: u8 = 1;
const OURS: u8 = 2;

/// A message of a conversation.
#[derive(Clone, PartialEq, Eq)]
pub struct Said {
    /// Whether it is ours.
    pub ours: bool,
    /// Its number in its direction.
    pub number: u64,
    /// When it was sent, or was handed on here.
    pub at: Wall,
    /// Whether it is delivered. Theirs are.
    pub delivered: bool,
    /// Its bytes.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Said({}, {}, ..)", if self.ours { "ours" } else { "theirs" }, self.number)
    }
}

struct Entry {
    at: Wall,
    /// Seconds after which it is forgotten, once it is delivered; 0 for not at all.
    after: u32,
    /// When that is.
    until: Option<Wall>,
    body: Zeroizing<Vec<u8>>,
}

/// All that is kept, by kind and number.
pub(crate) struct History {
    entries: BTreeMap<(u8, u64), Entry>,
    /// Bytes of what is delivered.
    bytes: usize,
    /// Messages each way that are kept once they are delivered.
    keep: usize,
}

impl History {
    pub(crate) fn new(keep: usize) -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, keep: keep.min(MAX_HISTORY) }
    }

    /// A message of ours was taken.
    pub(crate) fn sent(&mut self, number: u64, at: Wall, after: u32, body: Vec<u8>) {
        self.entries.insert((WAITING, number), Entry { at, after, until: None, body: Zeroizing::new(body) });
    }

    /// Our messages up to this number are delivered.
    pub(crate) fn delivered(&mut self, up_to: u64, now: Wall) {
        while let Some((key, _)) = self.entries.range((WAITING, 0)..=(WAITING, up_to)).next() {
            let key = *key;
            if let Some(entry) = self.entries.remove(&key) {
                let until = until(entry.after, now);
                self.keep(OURS, key.1, Entry { until, ..entry });
            }
        }
    }

    /// Messages of ours after this number are to be delivered again.
    pub(crate) fn rewind(&mut self, after: u64) {
        let again: Vec<u64> = self.entries.range((OURS, after + 1)..=(OURS, u64::MAX)).map(|(k, _)| k.1).collect();
        for number in again {
            if let Some(entry) = self.entries.remove(&(OURS, number)) {
                self.bytes -= entry.body.len();
                self.entries.insert((WAITING, number), Entry { until: None, ..entry });
            }
        }
    }

    /// A message of theirs was handed on.
    pub(crate) fn handed_on(&mut self, number: u64, at: Wall, after: u32, body: Vec<u8>) {
        let until = until(after, at);
        self.keep(THEIRS, number, Entry { at, after, until, body: Zeroizing::new(body) });
    }

    /// Forgets what is to be forgotten by now. Returns whether it was ours, and its number.
    pub(crate) fn expire(&mut self, now: Wall) -> Vec<(bool, u64)> {
        let over = self.entries.iter().filter(|(_, e)| e.until.is_some_and(|until| until <= now));
        let over: Vec<(u8, u64)> = over.map(|(key, _)| *key).collect();
        for key in &over {
            if let Some(entry) = self.entries.remove(key) {
                self.bytes -= entry.body.len();
            }
        }
        over.into_iter().map(|(kind, number)| (kind != THEIRS, number)).collect()
    }

    /// When something is to be forgotten next.
    pub(crate) fn next_expiry(&self) -> Option<Wall> {
        self.entries.values().filter_map(|e| e.until).min()
    }

    fn keep(&mut self, kind: u8, number: u64, entry: Entry) {
        if self.keep == 0 {
            return;
        }
        self.bytes += entry.body.len();
        self.entries.insert((kind, number), entry);
        self.prune();
    }

    /// Drops what is beyond the bounds.
    fn prune(&mut self) {
        for kind in [THEIRS, OURS] {
            while self.entries.range((kind, 0)..=(kind, u64::MAX)).count() > self.keep {
                self.drop_first(kind);
            }
        }
        while self.bytes > MAX_HISTORY_BYTES {
            let first = |kind| self.entries.range((kind, 0)..=(kind, u64::MAX)).next().map(|(k, e)| (e.at, k.0));
            match [first(THEIRS), first(OURS)].into_iter().flatten().min() {
                Some((_, kind)) => self.drop_first(kind),
                None => return,
            }
        }
    }

    fn drop_first(&mut self, kind: u8) {
        let first = self.entries.range((kind, 0)..=(kind, u64::MAX)).next().map(|(key, _)| *key);
        if let Some(entry) = first.and_then(|key| self.entries.remove(&key)) {
            self.bytes -= entry.body.len();
        }
    }

    /// Forgets everything that is delivered.
    pub(crate) fn clear(&mut self) {
        self.entries.retain(|key, _| key.0 == WAITING);
        self.bytes = 0;
    }

    /// A message of ours: after how many seconds it is forgotten, and what it says.
    pub(crate) fn ours(&self, number: u64) -> Option<(u32, &[u8])> {
        let entry = self.entries.get(&(WAITING, number)).or_else(|| self.entries.get(&(OURS, number)))?;
        Some((entry.after, &entry.body))
    }

    /// Everything, in the order of its time.
    pub(crate) fn list(&self) -> Vec<Said> {
        let said = |(key, entry): (&(u8, u64), &Entry)| Said {
            ours: key.0 != THEIRS,
            number: key.1,
            at: entry.at,
            delivered: key.0 != WAITING,
            body: entry.body.to_vec(),
        };
        let mut all: Vec<Said> = self.entries.iter().map(said).collect();
        all.sort_by_key(|said| (said.at, said.ours, said.number));
        all
    }

    /// What tells that something is not as it was: the first and the last of each kind, and how many there are.
    pub(crate) fn write(&self, w: &mut Writer) {
        w.count(self.entries.len());
        for kind in [THEIRS, WAITING, OURS] {
            let mut of = self.entries.range((kind, 0)..=(kind, u64::MAX)).map(|(key, _)| key.1);
            w.u64(of.next().unwrap_or_default());
            w.u64(of.next_back().unwrap_or_default());
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>, keep: usize, parts: &mut Parts) -> Result<Self, Malformed> {
        let mut new = Self::new(keep);
        let count = r.u32("history")? as usize;
        for _ in 0..6 {
            r.u64("history")?;
        }
        let all: Vec<Part> = parts.keys().copied().filter(|part| matches!(part, Part::Said(..))).collect();
        for part in all {
            let Part::Said(kind, number) = part else { continue };
            let kept = parts.remove(&part).ok_or(Malformed::Value("history"))?;
            let mut r = reader(&kept)?;
            let (at, until, after) = (Wall(r.u64("history")?), Wall(r.u64("history")?), r.u32("history")?);
            let until = Some(until).filter(|until| until.0 > 0);
            let body = Zeroizing::new(r.bounded(MAX_MESSAGE_LEN, "history")?.to_vec());
            r.finish("history")?;
            if kind > OURS {
                return Err(Malformed::Value("history"));
            }
            new.bytes += if kind == WAITING { 0 } else { body.len() };
            new.entries.insert((kind, number), Entry { at, after, until, body });
        }
        if new.entries.len() != count {
            return Err(Malformed::Value("history"));
        }
        // Less is kept than before, perhaps.
        new.prune();
        Ok(new)
    }

    /// What has a record of its own.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        self.entries.keys().map(|(kind, number)| Part::Said(*kind, *number))
    }

    pub(crate) fn part(&self, part: Part) -> Option<Vec<u8>> {
        let Part::Said(kind, number) = part else { return None };
        let entry = self.entries.get(&(kind, number))?;
        let mut w = writer();
        w.u64(entry.at.0);
        w.u64(entry.until.unwrap_or(Wall(0)).0);
        w.u32(entry.after);
        w.bounded(&entry.body);
        Some(w.finish())
    }
}

/// When something is forgotten that is delivered now.
fn until(after: u32, now: Wall) -> Option<Wall> {
    (after > 0).then(|| now + Duration::from_secs(after.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(keep: usize) -> History {
        let mut history = History::new(keep);
        for n in 1..=10 {
            history.sent(n, Wall(n), 0, vec![1; 10]);
            history.handed_on(n, Wall(n), 0, vec![2; 10]);
        }
        history
    }

    #[test]
    fn what_is_not_delivered_is_kept_whatever_is_asked_for() {
        for keep in [0, 3, 100] {
            let mut history = history(keep);
            history.delivered(6, Wall(20));
            let kept = history.list();
            assert_eq!(kept.iter().filter(|s| s.ours && !s.delivered).count(), 4, "{keep}");
            assert_eq!(kept.iter().filter(|s| s.ours && s.delivered).count(), keep.min(6));
            assert_eq!(kept.iter().filter(|s| !s.ours).count(), keep.min(10));
            assert_eq!(history.bytes, 10 * (keep.min(6) + keep.min(10)));
            history.clear();
            assert_eq!((history.list().len(), history.bytes), (4, 0));
        }
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_go_first() {
        let mut history = History::new(MAX_HISTORY);
        for n in 0..500_u64 {
            history.handed_on(n, Wall(n), 0, vec![0; 10_000]);
        }
        assert!(history.bytes <= MAX_HISTORY_BYTES && history.bytes > MAX_HISTORY_BYTES - 10_000);
        assert_eq!(history.list().last().unwrap().number, 499);
    }

    #[test]
    fn it_comes_back_from_its_records_and_a_missing_one_is_noticed() {
        let mut history = history(100);
        history.delivered(4, Wall(20));
        let mut w = writer();
        history.write(&mut w);
        let record = w.finish();
        let parts = |history: &History| -> Parts {
            history.parts().map(|p| (p, Zeroizing::new(history.part(p).unwrap()))).collect()
        };
        let back = History::read(&mut reader(&record).unwrap(), 100, &mut parts(&history)).unwrap();
        assert!(back.list() == history.list() && back.bytes == history.bytes);
        let mut fewer = parts(&history);
        fewer.pop_first();
        assert!(History::read(&mut reader(&record).unwrap(), 100, &mut fewer).is_err());
        assert_eq!(History::read(&mut reader(&record).unwrap(), 0, &mut parts(&history)).unwrap().list().len(), 6);
    }

    #[test]
    fn what_is_to_disappear_does_so_after_its_time_and_not_before_it_is_delivered() {
        let mut history = History::new(10);
        history.sent(1, Wall(0), 5, vec![1]);
        history.handed_on(1, Wall(0), 10, vec![2]);
        assert_eq!(history.next_expiry(), Some(Wall(10_000)));
        assert_eq!(history.expire(Wall(9_999)), []);
        assert_eq!(history.expire(Wall(10_000)), [(false, 1)]);
        history.delivered(1, Wall(20_000));
        assert_eq!(history.next_expiry(), Some(Wall(25_000)));
        assert_eq!(history.expire(Wall(25_000)), [(true, 1)]);
        assert!(history.list().is_empty() && history.bytes == 0);
    }
}
