//! All lines of a network, through one place: each can be made worse and mended again, and be tapped.
//!
//! Every relay and authority is known to the others by the address of a door: a UDP proxy that passes datagrams on to
//! where the node really listens, and back. Who sends is told by the address that it sends from, and the door passes it on
//! from that same address, so that limits on a network's connections stay what they are. Needs no root.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

use crate::layout::Layout;

mod door;
pub mod tap;
mod wire;

pub use wire::{Line, QUEUE, Wire};

use self::tap::{Tapped, Taps};

/// What is said of an address that is nobody's.
const STRANGER: &str = "stranger";

/// Lines between these and those, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// Names of nodes.
    pub these: BTreeSet<String>,
    /// Names of nodes; `None` for everybody.
    pub those: Option<BTreeSet<String>>,
}

impl Between {
    /// Whether the line between two nodes is meant.
    #[must_use]
    pub fn holds(&self, a: &str, b: &str) -> bool {
        let those = |name: &str| self.those.as_ref().is_none_or(|those| those.contains(name));
        (self.these.contains(a) && those(b)) || (self.these.contains(b) && those(a))
    }
}

/// A change of some lines, until it is lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change(u64);

#[derive(Debug, Default)]
struct Changes {
    next: u64,
    all: Vec<(u64, Between, Line)>,
}

/// What all doors share.
#[derive(Debug)]
struct Shared {
    names: HashMap<IpAddr, String>,
    changes: Mutex<Changes>,
    /// Counts the changes: doors look again when it has grown.
    version: AtomicU64,
    taps: Taps,
    seed: u64,
}

impl Shared {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, ip: IpAddr) -> &str {
        self.names.get(&ip).map_or(STRANGER, String::as_str)
    }

    fn line(&self, a: &str, b: &str) -> Line {
        let changes = self.changes();
        changes.all.iter().filter(|(_, between, _)| between.holds(a, b)).fold(Line::CLEAN, |l, (_, _, m)| l.and(*m))
    }
}

/// The doors of a network. They close when this is dropped.
#[derive(Debug)]
pub struct Lines {
    shared: Arc<Shared>,
    doors: Vec<JoinHandle<()>>,
}

impl Lines {
    /// Opens a door in front of every port of a network.
    ///
    /// # Errors
    /// If a socket can't be bound.
    pub fn open(layout: &Layout, taps: Taps, seed: u64) -> io::Result<Self> {
        let mut names = HashMap::new();
        let mut ports = Vec::new();
        for a in 0..layout.size.authorities {
            let at = layout.authority_address(a);
            names.insert(at.ip(), layout.authority_name(a));
            ports.push((layout.door(at), at));
        }
        for r in 0..layout.size.relays() {
            let at = layout.link_address(r);
            names.insert(at.ip(), layout.relay_name(r));
            ports.push((layout.door(at), at));
            if layout.is_edge(r) {
                let at = layout.client_address(r);
                ports.push((layout.door(at), at));
            }
        }
        names.extend((0..layout.size.clients).map(|k| (layout.client_ip(k), layout.client_name(k))));
        let shared = Shared { names, changes: Mutex::default(), version: AtomicU64::new(0), taps, seed };
        let shared = Arc::new(shared);
        let doors = ports.into_iter().map(|(door, behind)| door::open(door, behind, Arc::clone(&shared)));
        Ok(Self { doors: doors.collect::<io::Result<_>>()?, shared })
    }

    /// Makes some lines worse, on top of what else was changed.
    pub fn change(&self, between: Between, line: Line) -> Change {
        let mut changes = self.shared.changes();
        changes.next += 1;
        let number = changes.next;
        changes.all.push((number, between, line));
        self.shared.version.fetch_add(1, Ordering::Release);
        Change(number)
    }

    /// Takes a change back.
    pub fn lift(&self, change: Change) {
        self.shared.changes().all.retain(|(number, _, _)| *number != change.0);
        self.shared.version.fetch_add(1, Ordering::Release);
    }

    /// Closes all doors, and waits until everything tapped is written. Says what was tapped.
    ///
    /// # Errors
    /// If a file could not be written.
    pub async fn close(self) -> io::Result<Vec<Tapped>> {
        let Self { shared, doors } = self;
        for door in doors {
            door.abort();
            // It ends by being aborted.
            let _ = door.await;
        }
        shared.taps.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_means_lines_in_both_directions_and_no_others() {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let some = Between { these: set(&["mix-1", "mix-2"]), those: Some(set(&["edge-1"])) };
        assert!(some.holds("mix-1", "edge-1") && some.holds("edge-1", "mix-2"));
        assert!(!some.holds("mix-1", "mix-2") && !some.holds("edge-1", "edge-2"));
        let all = Between { these: set(&["mix-1"]), those: None };
        assert!(all.holds("mix-1", STRANGER) && all.holds("client-1", "mix-1") && !all.holds("edge-1", "edge-2"));
    }
}
