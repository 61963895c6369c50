//! How many packets come back: what the health indicator shows, and what entries are judged by.
//!
//! Loops and commands look alike on their way, so both count: each attempt that is to be answered either is in time, or
//! counts as lost.

use std::collections::{BTreeMap, VecDeque};

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::error::Malformed;
use posta_protocol::ids::{RelayId, SurbId};
use posta_protocol::now::Mono;

use super::event::{Health, HealthLevel};

/// Attempts that are looked at, the newest ones.
const WINDOW: usize = 64;
/// Fewer say nothing.
const LEAST: usize = 8;
/// Entries of which attempts are kept, at most; then the one longest unused is forgotten.
const MAX_ENTRIES: usize = 8;
/// Loops under way, at most; more are not judged.
const MAX_LOOPS: usize = 256;
/// With at most this part of a hundred lost, all is well.
const GOOD: usize = 8;
/// With more than this part of a hundred lost, hardly anything gets through.
const POOR: usize = 40;
/// An entry by which more than this part of a hundred was lost of a whole window takes too much for chance or mixes.
const ENTRY_LOSES: usize = 60;

/// The newest attempts: whether each was answered.
#[derive(Debug, Default)]
struct Window(VecDeque<bool>);

impl Window {
    fn note(&mut self, answered: bool) {
        self.0.push_back(answered);
        if self.0.len() > WINDOW {
            self.0.pop_front();
        }
    }

    fn lost(&self) -> usize {
        self.0.iter().filter(|answered| !**answered).count()
    }
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Measure {
    all: Window,
    entries: BTreeMap<RelayId, Window>,
    loops: VecDeque<(Mono, SurbId)>,
    /// What was told last.
    told: Health,
}

impl Measure {
    /// An attempt by this entry was answered, or not in time. `judges`: whether that says something about the entry. What
    /// a contact has chosen doesn't: it could drive a client from entry to entry.
    pub(crate) fn note(&mut self, entry: RelayId, answered: bool, judges: bool) {
        self.all.note(answered);
        if !judges {
            return;
        }
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&entry) {
            self.entries.pop_first();
        }
        self.entries.entry(entry).or_default().note(answered);
    }

    /// A loop has left, and should be back by then.
    pub(crate) fn looped(&mut self, until: Mono, surb: SurbId) {
        if self.loops.len() < MAX_LOOPS {
            self.loops.push_back((until, surb));
        }
    }

    /// The next loop whose time is over.
    pub(crate) fn overdue(&mut self, now: Mono) -> Option<SurbId> {
        let (until, surb) = *self.loops.front()?;
        (until <= now).then(|| {
            self.loops.pop_front();
            surb
        })
    }

    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.loops.front().map(|(until, _)| *until)
    }

    /// Whether an entry loses so much that another one should be used; then its window begins anew.
    pub(crate) fn loses(&mut self, entry: &RelayId) -> bool {
        let Some(window) = self.entries.get(entry) else { return false };
        let others = self.entries.iter().filter(|(id, w)| *id != entry && w.0.len() >= LEAST);
        let (mut lost, mut of) = (0, 0);
        for (_, other) in others {
            (lost, of) = (lost + other.lost(), of + other.0.len());
        }
        // Where the others lose as much, the network does, and changing helps nothing.
        let elsewhere = of > 0 && lost * 100 > of * ENTRY_LOSES / 2;
        let loses = window.0.len() >= WINDOW && window.lost() * 100 > WINDOW * ENTRY_LOSES && !elsewhere;
        if loses {
            self.entries.remove(entry);
        }
        loses
    }

    /// How the newest attempts went; before there are any, what was told in an earlier run.
    pub(crate) fn health(&self) -> Health {
        let (lost, of) = (self.all.lost(), self.all.0.len());
        if of == 0 {
            return self.told;
        }
        let level = match lost * 100 {
            _ if of < LEAST => HealthLevel::Unknown,
            part if part <= of * GOOD => HealthLevel::Good,
            part if part <= of * POOR => HealthLevel::Poor,
            _ => HealthLevel::Bad,
        };
        Health { level, answered: (of - lost) as u64, lost: lost as u64 }
    }

    /// The health, if its level is another than when this was last asked.
    pub(crate) fn changed(&mut self) -> Option<Health> {
        let health = self.health();
        if health.level == self.told.level || health.level == HealthLevel::Unknown {
            return None;
        }
        self.told = health;
        Some(health)
    }

    /// What was told last: it changes rarely, and so does its record.
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u8(match self.told.level {
            HealthLevel::Unknown => 0,
            HealthLevel::Good => 1,
            HealthLevel::Poor => 2,
            HealthLevel::Bad => 3,
        });
        w.u64(self.told.answered);
        w.u64(self.told.lost);
    }

    pub(crate) fn read(&mut self, r: &mut Reader<'_>) -> Result<(), Malformed> {
        let level = match r.u8("health")? {
            0 => HealthLevel::Unknown,
            1 => HealthLevel::Good,
            2 => HealthLevel::Poor,
            3 => HealthLevel::Bad,
            _ => return Err(Malformed::Value("health")),
        };
        self.told = Health { level, answered: r.u64("answered")?, lost: r.u64("lost")? };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: RelayId = RelayId([1; 32]);
    const OTHER: RelayId = RelayId([2; 32]);

    fn levels(lost_in_ten: usize) -> HealthLevel {
        let mut measure = Measure::default();
        (0..WINDOW).for_each(|n| measure.note(ENTRY, n % 10 >= lost_in_ten, true));
        measure.health().level
    }

    #[test]
    fn levels_say_how_much_is_lost_and_changes_are_told_once() {
        assert_eq!(
            [0, 2, 5, 10].map(levels),
            [HealthLevel::Good, HealthLevel::Poor, HealthLevel::Bad, HealthLevel::Bad]
        );
        let mut measure = Measure::default();
        (0..LEAST - 1).for_each(|_| measure.note(ENTRY, true, true));
        assert_eq!(measure.changed(), None, "too few to tell");
        measure.note(ENTRY, true, true);
        assert_eq!(measure.changed().map(|h| h.level), Some(HealthLevel::Good));
        assert_eq!(measure.changed(), None);
        (0..WINDOW * 3).for_each(|_| measure.note(ENTRY, false, true));
        let health = measure.changed().unwrap();
        assert_eq!((health.level, health.answered, health.lost), (HealthLevel::Bad, 0, WINDOW as u64));
    }

    #[test]
    fn what_a_contact_has_chosen_does_not_judge_an_entry() {
        let mut measure = Measure::default();
        (0..LEAST).for_each(|_| measure.note(OTHER, true, true));
        (0..WINDOW * 2).for_each(|_| measure.note(ENTRY, false, false));
        assert!(!measure.loses(&ENTRY));
        assert_eq!(measure.health().level, HealthLevel::Bad, "the user is told all the same");
    }

    #[test]
    fn an_entry_is_judged_by_a_whole_window_and_beside_the_others() {
        let mut measure = Measure::default();
        (0..WINDOW - 1).for_each(|_| measure.note(ENTRY, false, true));
        assert!(!measure.loses(&ENTRY), "a window isn't full");
        (0..LEAST).for_each(|_| measure.note(OTHER, true, true));
        measure.note(ENTRY, false, true);
        assert!(!measure.loses(&OTHER) && measure.loses(&ENTRY) && !measure.loses(&ENTRY), "once");
        let mut measure = Measure::default();
        for _ in 0..WINDOW {
            measure.note(ENTRY, false, true);
            measure.note(OTHER, false, true);
        }
        assert!(!measure.loses(&ENTRY), "everything is lost everywhere");
        let mut measure = Measure::default();
        (0..WINDOW).for_each(|n| measure.note(ENTRY, n % 2 == 0, true));
        assert!(!measure.loses(&ENTRY), "half lost may be a mix or two");
    }
}
