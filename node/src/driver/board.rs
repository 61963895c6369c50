//! The board: what the parts of a relay write down about themselves, for whoever asks how it stands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posta_link::fetch::to_hex;
use posta_protocol::ids::{LinkPublicKey, RelayId};
use posta_protocol::now::Wall;
use posta_store::Health;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::clock::wall;
use super::links::Held;
use super::retire::Retires;
use crate::config::{Config, Role};
use crate::keys::{Keys, identity_here};
use crate::relay::replay::Fill;
use crate::relay::{Counters, LoopCount};
use crate::report::{Clock, Directory, Filter, Links, Packets, Place, Report, SigningKey, State, Store, apart};

/// A new network's first consensus comes before its epoch begins, by up to an epoch of a test network: no clock is off then.
const EARLY: Duration = Duration::from_secs(10);

/// The configuration as it is now.
pub(crate) type Settings = watch::Receiver<Arc<Config>>;

/// What the parts write down; they never wait for whoever reads it.
#[derive(Clone)]
pub(crate) struct Board(Arc<Inner>);

struct Inner {
    started: Instant,
    relay: RelayId,
    link_key: LinkPublicKey,
    state_dir: PathBuf,
    authorities: u64,
    consensus: Held,
    settings: Settings,
    store: Health,
    retires: Retires,
    links: LinkCounts,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    owner: OwnerNotes,
    certificate_ends: Wall,
    accepted: Option<u64>,
    not_posted: Option<String>,
    not_fetched: Option<String>,
    fetched: Option<Wall>,
}

/// What the owner knows.
#[derive(Clone, Copy, Default)]
pub(crate) struct OwnerNotes {
    pub(crate) state: State,
    pub(crate) received: u64,
    pub(crate) delayed: usize,
    pub(crate) clients: usize,
    pub(crate) fill: Fill,
    pub(crate) counters: Counters,
    pub(crate) loops: LoopCount,
}

/// What a board is made from.
pub(crate) struct Makings<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) authorities: usize,
    pub(crate) consensus: Held,
    pub(crate) settings: Settings,
    pub(crate) store: Health,
    pub(crate) retires: Retires,
}

impl Board {
    pub(crate) fn new(makings: Makings<'_>) -> Self {
        let Makings { keys, authorities, consensus, settings, store, retires } = makings;
        let state_dir = settings.borrow().state_dir.clone();
        let notes = Notes { certificate_ends: keys.certificate().expires, ..Notes::default() };
        Self(Arc::new(Inner {
            started: Instant::now(),
            relay: keys.relay(),
            link_key: keys.link_public(),
            state_dir,
            authorities: authorities as u64,
            consensus,
            settings,
            store,
            retires,
            links: LinkCounts::default(),
            notes: Mutex::new(notes),
        }))
    }

    /// Where open links are counted.
    pub(crate) fn links(&self) -> LinkCounts {
        self.0.links.clone()
    }

    /// The owner's notes, every second.
    pub(crate) fn owner(&self, notes: OwnerNotes) {
        self.note(|all| all.owner = notes);
    }

    /// The owner was told to stop.
    pub(crate) fn stopping(&self) {
        self.note(|all| all.owner.state = State::Stopping);
    }

    /// A descriptor was posted to so many authorities, or to none.
    pub(crate) fn posted(&self, result: Result<usize, String>) {
        self.note(|all| match result {
            Ok(accepted) => {
                all.accepted = Some(accepted as u64);
                all.not_posted = None;
            }
            Err(why) => {
                all.accepted = Some(0);
                all.not_posted = Some(why);
            }
        });
    }

    /// A consensus was fetched, or could not be.
    pub(crate) fn fetched(&self, result: Result<(), String>) {
        self.note(|all| match result {
            Ok(()) => {
                all.fetched = Some(wall());
                all.not_fetched = None;
            }
            Err(why) => all.not_fetched = Some(why),
        });
    }

    /// Descriptors are signed under another certificate.
    pub(crate) fn signs_until(&self, ends: Wall) {
        self.note(|all| all.certificate_ends = ends);
    }

    fn note(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.0.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// How the relay stands now. Looked up beside the tasks, for a disk that hangs must hold up none of them; none if the
    /// process ends meanwhile.
    pub(crate) async fn report(&self) -> Option<Report> {
        let board = self.clone();
        spawn_blocking(move || board.look()).await.ok()
    }

    /// Bytes of messages and blobs held.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.0.store.bytes()
    }

    fn look(&self) -> Report {
        let now = wall();
        let inner = &*self.0;
        let held = inner.consensus.borrow().clone();
        let config = Arc::clone(&inner.settings.borrow());
        let offers = [(Role::Edge, "edge"), (Role::Mix, "mix")];
        let offers =
            offers.iter().filter(|(role, _)| config.offers(*role)).map(|(_, name)| (*name).to_owned()).collect();
        let notes = inner.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let OwnerNotes { state, received, delayed, clients, fill, counters, loops } = notes.owner;
        let (mut directory, place) = match &held {
            Some(held) => {
                (Directory::of(held, &inner.relay, &inner.link_key, now), Place::of(held, &inner.relay, offers, now))
            }
            None => {
                let why = notes.not_fetched.as_deref().unwrap_or("the authorities are being asked");
                let directory = Directory { why_not: Some(format!("no consensus yet: {why}")), ..Directory::default() };
                (directory, Place { offers, ..Place::default() })
            }
        };
        directory.authorities = inner.authorities;
        directory.accepted = notes.accepted;
        if let (Some(why), Some(_)) = (&mut directory.why_not, directory.epoch) {
            match (&notes.not_posted, notes.accepted) {
                (Some(trouble), _) => why.push_str(&format!(": {trouble}")),
                (None, Some(_)) => why.push_str("; the authorities have its descriptor: look again in an epoch or two"),
                (None, None) => why.push_str("; its descriptor was not posted yet"),
            }
        }
        let off_s = held.map_or(0, |held| match notes.fetched {
            _ if now + EARLY < held.valid_after() => apart(now, held.valid_after()),
            // It was past already when it was the newest that the authorities had.
            Some(fetched) if fetched > held.valid_until() => apart(fetched, held.valid_until()),
            _ => 0,
        });
        let limits = config.store.limits();
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            relay: to_hex(&inner.relay.0),
            state,
            uptime_s: inner.started.elapsed().as_secs(),
            clock: Clock { now: now.0 / 1000, off_s },
            directory,
            place,
            links: Links { clients: clients as u64, ..inner.links.now() },
            packets: Packets { received, delayed: delayed as u64, counters: by_name(&counters) },
            loops,
            retiring: *inner.retires.borrow(),
            store: Store {
                writable: inner.store.writable(),
                queues: inner.store.queues(),
                max_queues: limits.max_queues,
                bytes: inner.store.bytes(),
                quota_bytes: limits.disk_quota_bytes,
                free_bytes: inner.store.free_bytes(),
                min_free_bytes: limits.min_free_bytes,
            },
            replay_filter: Filter::from(fill),
            signing_key: SigningKey {
                expires: notes.certificate_ends.0 / 1000,
                left_s: apart(notes.certificate_ends, now),
                identity_here: identity_here(&inner.state_dir),
            },
            problems: Vec::new(),
        };
        report.judge();
        report
    }
}

/// The counters by the names of their fields.
pub(crate) fn by_name(counters: &Counters) -> BTreeMap<String, u64> {
    // They are numbers with names, so this doesn't fail.
    serde_json::to_value(counters).and_then(serde_json::from_value).unwrap_or_default()
}

/// How many links are open, by who dialled.
#[derive(Clone, Default)]
pub(crate) struct LinkCounts {
    out: Arc<AtomicU64>,
    in_: Arc<AtomicU64>,
}

impl LinkCounts {
    /// Counts a link for as long as the value lives.
    pub(crate) fn count(&self, dialled: bool) -> Counted {
        let count = if dialled { &self.out } else { &self.in_ };
        count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(count))
    }

    fn now(&self) -> Links {
        Links { out: self.out.load(Ordering::Relaxed), in_: self.in_.load(Ordering::Relaxed), clients: 0 }
    }
}

/// A link that is open.
pub(crate) struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_counted_while_they_live() {
        let counts = LinkCounts::default();
        let (a, b, c) = (counts.count(true), counts.count(true), counts.count(false));
        assert_eq!(counts.now(), Links { out: 2, in_: 1, clients: 0 });
        drop((a, c));
        assert_eq!(counts.clone().now(), Links { out: 1, in_: 0, clients: 0 });
        drop(b);
    }

    #[test]
    fn every_counter_has_its_name() {
        let counters = Counters { forwarded: 3, refused: 2, ..Counters::default() };
        let by_name = by_name(&counters);
        assert_eq!((by_name["forwarded"], by_name["refused"]), (3, 2));
        assert!(by_name.len() >= 22, "{by_name:?}");
    }
}
