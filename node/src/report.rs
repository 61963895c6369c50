//! How a relay stands: what `status` shows and what the metrics say. No peer, queue or client is in it.

use std::collections::BTreeMap;

use posta_protocol::document::{Consensus, Position};
use posta_protocol::ids::{LinkPublicKey, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::RELAY_CLOCK_SKEW;
use serde::{Deserialize, Serialize};

use crate::relay::LoopCount;
use crate::relay::replay::Fill;
use crate::retirement::Retirement;

/// Seconds in a day.
pub const DAY: i64 = 24 * 3600;
/// Days left to the signing key at which an operator is told, once more at each; at the last one it is an error.
pub const KEY_WARNINGS: [i64; 3] = [7, 3, 1];

/// Lost loops of an hour, in thousandths of all, from which on an operator is told: a tenth.
pub const MANY_LOST: u64 = 100;
/// Fewer lost loops than this say nothing.
pub const LEAST_LOST: u64 = 5;

/// How a relay stands at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The program's version.
    pub version: String,
    /// The relay's own id, in hexadecimal.
    pub relay: String,
    /// What it does.
    pub state: State,
    /// Seconds since it was started.
    pub uptime_s: u64,
    /// This machine's clock.
    pub clock: Clock,
    /// What the network says of it.
    pub directory: Directory,
    /// Its place on paths.
    pub place: Place,
    /// Links that are open.
    pub links: Links,
    /// Packets since the start.
    pub packets: Packets,
    /// This relay's own loops of the last hour.
    pub loops: LoopCount,
    /// That it retires, if it does.
    pub retiring: Option<Retirement>,
    /// The queue store.
    pub store: Store,
    /// How full the replay filter is, in coarse steps.
    pub replay_filter: Filter,
    /// The key that signs what is posted.
    pub signing_key: SigningKey,
    /// What someone should look at; the relay is well if there is no error among them.
    pub problems: Vec<Problem>,
}

/// What a relay does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has no consensus, and carries nothing.
    #[default]
    Waiting,
    /// It carries packets.
    Running,
    /// It was told to stop.
    Stopping,
}

/// This machine's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Seconds since 1970.
    pub now: u64,
    /// Seconds by which it is off at least: above 0 it is ahead. 0 while it lies within the consensus' times.
    pub off_s: i64,
}

/// What the network says of the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Whether the newest consensus lists it with its link key.
    pub listed: bool,
    /// If not, why, and what to do.
    pub why_not: Option<String>,
    /// The newest consensus' epoch.
    pub epoch: Option<u64>,
    /// Seconds since that consensus began.
    pub age_s: Option<i64>,
    /// Seconds until it must not be used any more; below 0 that is past.
    pub left_s: Option<i64>,
    /// Authorities of the network.
    pub authorities: u64,
    /// How many of them have taken the last descriptor.
    pub accepted: Option<u64>,
}

/// A relay's place on paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What it offers to be.
    pub offers: Vec<String>,
    /// The key epoch.
    pub key_epoch: Option<u64>,
    /// What it is in this key epoch: edge, mix1 or mix2.
    pub now: Option<String>,
    /// What it is in the next one, if that is known yet.
    pub next: Option<String>,
    /// Seconds until the next key epoch.
    pub turns_in_s: Option<u64>,
}

/// Links that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// To relays, dialled by this one.
    pub out: u64,
    /// From relays.
    #[serde(rename = "in")]
    pub in_: u64,
    /// From clients.
    pub clients: u64,
}

/// Packets since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// Peeled or refused.
    pub received: u64,
    /// Those that wait for their time now.
    pub delayed: u64,
    /// What became of them: the fields of [`crate::relay::Counters`].
    pub counters: BTreeMap<String, u64>,
}

/// The queue store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Whether the disk takes writes.
    pub writable: bool,
    /// Queues held, with what is left of deleted ones until they would have ended.
    pub queues: u64,
    /// Queues at most.
    pub max_queues: u64,
    /// Bytes of messages and blobs.
    pub bytes: u64,
    /// Bytes of them at most.
    pub quota_bytes: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Free bytes below which nothing is taken in.
    pub min_free_bytes: u64,
}

/// How full the replay filter is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Below four fifths.
    #[default]
    Room,
    /// Four fifths or more.
    High,
    /// Nine tenths or more.
    VeryHigh,
    /// Packets are refused.
    Full,
}

impl From<Fill> for Filter {
    fn from(fill: Fill) -> Self {
        match fill {
            Fill::Room => Self::Room,
            Fill::High => Self::High,
            Fill::VeryHigh => Self::VeryHigh,
            Fill::Full => Self::Full,
        }
    }
}

/// The key that signs what is posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// When its certificate ends, in seconds since 1970.
    pub expires: u64,
    /// Seconds until then; below 0 that is past.
    pub left_s: i64,
    /// Whether the identity key lies in the state folder. Then the certificate is renewed by itself.
    pub identity_here: bool,
}

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It will matter if nobody looks at it.
    Warning,
    /// The relay is not well.
    Error,
}

/// What someone should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How much it matters.
    pub level: Level,
    /// What it is, as one word; docs/operating.md says what to do.
    pub code: String,
    /// The same as a sentence.
    pub says: String,
}

impl Report {
    /// Whether nothing is wrong that matters now.
    #[must_use]
    pub fn well(&self) -> bool {
        self.problems.iter().all(|problem| problem.level < Level::Error)
    }

    /// The same in one short line, for a service manager.
    #[must_use]
    pub fn in_a_line(&self) -> String {
        let place = self.place.now.as_deref().unwrap_or("no place");
        let Links { out, in_, clients } = self.links;
        let first = self.problems.iter().max_by_key(|problem| problem.level);
        let trouble = first.map_or_else(String::new, |problem| format!("; {}", problem.says));
        format!("{place}, {} links, {clients} clients{trouble}", out + in_)
    }

    /// Finds what someone should look at.
    pub fn judge(&mut self) {
        let mut found = Vec::new();
        let mut problem = |level, code: &str, says: String| {
            found.push(Problem { level, code: code.to_owned(), says });
        };
        if self.state == State::Stopping {
            problem(Level::Error, "stopping", "the relay is stopping".into());
        }
        if let Some(why) = &self.directory.why_not {
            let code = if self.directory.epoch.is_none() { "no_consensus" } else { "not_listed" };
            problem(Level::Error, code, why.clone());
        }
        if self.directory.left_s.is_some_and(|left| left <= 0) {
            let says =
                "the newest consensus is not valid any more: the authorities can't be reached, or have made none";
            problem(Level::Error, "consensus_expired", says.into());
        }
        let Directory { authorities, accepted, .. } = self.directory;
        if accepted.is_some_and(|accepted| accepted * 3 <= authorities * 2) {
            let says = format!(
                "{} of {authorities} authorities have taken the last descriptor: too few to stay listed",
                accepted.unwrap_or_default()
            );
            problem(Level::Warning, "few_authorities", says);
        }
        if self.clock.off_s != 0 {
            let (off, way) = (self.clock.off_s, if self.clock.off_s > 0 { "ahead" } else { "behind" });
            let off_s = off.unsigned_abs();
            let level = if off_s > RELAY_CLOCK_SKEW.as_secs() { Level::Error } else { Level::Warning };
            problem(level, "clock", format!("this machine's clock is {way} by {off_s} s or more: set it"));
        }
        if !self.store.writable {
            let says = "the disk takes no writes: the queue store only reads until it does";
            problem(Level::Error, "disk_fails", says.into());
        } else if self.store.free_bytes < self.store.min_free_bytes {
            let says = "the disk has less free space than `store.min_free_mib`: nothing new is taken in";
            problem(Level::Error, "disk_full", says.into());
        } else if self.store.bytes * 10 >= self.store.quota_bytes.saturating_mul(9) {
            let says = "messages fill nine tenths of `store.disk_quota_mib`: beyond it writers are refused";
            problem(Level::Warning, "quota", says.into());
        }
        let lost = self.loops.loss_permille().unwrap_or_default();
        if self.loops.lost >= LEAST_LOST && lost >= MANY_LOST {
            let says = format!(
                "{} of this relay's own {} loops of the last hour were lost: packets get lost here, or on their way",
                self.loops.lost,
                self.loops.lost + self.loops.returned
            );
            problem(Level::Warning, "loops_lost", says);
        }
        match self.replay_filter {
            Filter::Room => {}
            Filter::High | Filter::VeryHigh => problem(
                Level::Warning,
                "replay_filter",
                "the replay filter is four fifths full or more: the directory is told less than the capacity".into(),
            ),
            Filter::Full => problem(
                Level::Error,
                "replay_filter",
                "the replay filter is full: packets are refused until the key epoch ends; raise `replay.max_tags`"
                    .into(),
            ),
        }
        if let Some((level, says)) = self.signing_key.warning() {
            problem(level, "signing_key", says);
        }
        self.problems = found;
    }
}

impl SigningKey {
    /// What to say of a key that ends soon: at 7, 3 and 1 days.
    #[must_use]
    pub fn warning(&self) -> Option<(Level, String)> {
        let days = KEY_WARNINGS.into_iter().rev().find(|days| self.left_s <= days * DAY)?;
        let how = "renew it with `posta-node keys renew`";
        Some(match (self.left_s, days) {
            (..=0, _) => (Level::Error, format!("the signing key has ended: {how}")),
            (_, 1) => (Level::Error, format!("the signing key ends within a day: {how}")),
            (_, days) => (Level::Warning, format!("the signing key ends within {days} days: {how}")),
        })
    }
}

impl Place {
    /// What a consensus says of a relay's place.
    pub(crate) fn of(consensus: &Consensus, relay: &RelayId, offers: Vec<String>, now: Wall) -> Self {
        let epoch = consensus.key_epoch_at(now);
        let name = |position: Position| format!("{position:?}").to_lowercase();
        let ends = epoch.0.saturating_add(1).saturating_mul(consensus.params().key_epoch_ms());
        Self {
            offers,
            key_epoch: Some(epoch.0),
            now: consensus.position(relay, epoch).map(name),
            next: consensus.position(relay, epoch.next()).map(name),
            turns_in_s: Some(Wall(ends).since(now).as_secs()),
        }
    }
}

impl Directory {
    /// What a consensus says of a relay with this link key.
    pub(crate) fn of(consensus: &Consensus, relay: &RelayId, link_key: &LinkPublicKey, now: Wall) -> Self {
        let epoch = consensus.epoch().0;
        let why_not = match consensus.relay(relay) {
            None => Some(format!("epoch {epoch} does not list this relay")),
            Some(entry) if entry.link_key != *link_key => Some(format!(
                "epoch {epoch} lists this relay with another link key, so no link to it is admitted: wait two epochs, or \
                 restore the state folder that it ran with"
            )),
            Some(_) => None,
        };
        Self {
            listed: why_not.is_none(),
            why_not,
            epoch: Some(epoch),
            age_s: Some(apart(now, consensus.valid_after())),
            left_s: Some(apart(consensus.valid_until(), now)),
            ..Self::default()
        }
    }
}

/// `a - b` in whole seconds.
pub(crate) fn apart(a: Wall, b: Wall) -> i64 {
    let seconds = |later: Wall, earlier| i64::try_from(later.since(earlier).as_secs()).unwrap_or(i64::MAX);
    if a >= b { seconds(a, b) } else { -seconds(b, a) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A relay that is well.
    pub(crate) fn well() -> Report {
        Report {
            version: "1.2.3".into(),
            relay: "ab".repeat(32),
            state: State::Running,
            uptime_s: 5,
            clock: Clock { now: 1_800_000_000, off_s: 0 },
            directory: Directory {
                listed: true,
                why_not: None,
                epoch: Some(7),
                age_s: Some(60),
                left_s: Some(3600),
                authorities: 4,
                accepted: Some(3),
            },
            place: Place::default(),
            links: Links::default(),
            packets: Packets::default(),
            loops: LoopCount::default(),
            retiring: None,
            store: Store {
                writable: true,
                queues: 1,
                max_queues: 10,
                bytes: 10,
                quota_bytes: 100,
                free_bytes: 100,
                min_free_bytes: 10,
            },
            replay_filter: Filter::Room,
            signing_key: SigningKey { expires: 1_900_000_000, left_s: 90 * DAY, identity_here: true },
            problems: Vec::new(),
        }
    }

    #[track_caller]
    fn finds(change: impl FnOnce(&mut Report), expected: &[(&str, Level)]) {
        let mut report = well();
        change(&mut report);
        report.judge();
        let found: Vec<_> = report.problems.iter().map(|p| (p.code.as_str(), p.level)).collect();
        assert_eq!(found, expected);
        assert_eq!(report.well(), expected.iter().all(|(_, level)| *level == Level::Warning));
        let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(back, report);
    }

    #[test]
    fn each_problem_is_found_and_only_errors_make_a_relay_unwell() {
        use Level::{Error, Warning};
        finds(|_| {}, &[]);
        finds(|r| r.state = State::Stopping, &[("stopping", Error)]);
        finds(|r| r.directory.why_not = Some("x".into()), &[("not_listed", Error)]);
        finds(
            |r| r.directory = Directory { why_not: Some("x".into()), ..Directory::default() },
            &[("no_consensus", Error)],
        );
        finds(|r| r.directory.left_s = Some(0), &[("consensus_expired", Error)]);
        finds(|r| r.directory.accepted = Some(2), &[("few_authorities", Warning)]);
        finds(|r| r.clock.off_s = -1, &[("clock", Warning)]);
        finds(|r| r.clock.off_s = 3600, &[("clock", Error)]);
        finds(|r| r.store.writable = false, &[("disk_fails", Error)]);
        finds(|r| r.store.free_bytes = 9, &[("disk_full", Error)]);
        finds(|r| r.store.bytes = 90, &[("quota", Warning)]);
        finds(|r| r.loops = LoopCount { returned: 36, lost: 4 }, &[]);
        finds(|r| r.loops = LoopCount { returned: 46, lost: 5 }, &[]);
        finds(|r| r.loops = LoopCount { returned: 45, lost: 5 }, &[("loops_lost", Warning)]);
        finds(|r| r.replay_filter = Filter::High, &[("replay_filter", Warning)]);
        finds(|r| r.replay_filter = Filter::Full, &[("replay_filter", Error)]);
    }

    #[test]
    fn a_key_that_ends_is_told_of_at_seven_three_and_one_day() {
        let said = |left_s| SigningKey { left_s, ..SigningKey::default() }.warning();
        assert_eq!(said(7 * DAY + 1), None);
        for (left, words, level) in [
            (7 * DAY, "within 7 days", Level::Warning),
            (3 * DAY + 1, "within 7 days", Level::Warning),
            (3 * DAY, "within 3 days", Level::Warning),
            (DAY, "within a day", Level::Error),
            (1, "within a day", Level::Error),
            (0, "has ended", Level::Error),
            (-DAY, "has ended", Level::Error),
        ] {
            let (found, says) = said(left).unwrap();
            assert!(says.contains(words) && says.contains("keys renew") && found == level, "{left}: {says}");
        }
    }
}
