//! Clients with a disk: what they write, how they are killed, and an application that deals with each event once.

use std::collections::{BTreeMap, BTreeSet};

use posta_client::session::Session;
use posta_client::session::event::{Action, ClientEvent, EventCursor, Options};
use posta_client::store::{Change, Records};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Client, Happening, World};

impl Client {
    pub(super) fn new(options: Options, session: Session, disk: Option<Records>) -> Self {
        let (events, entries, kept) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let line = Vec::new();
        let (leaks, timer, crash_after) = (false, None, None);
        Self { session, events, entries, line, leaks, timer, disk, kept, options, crash_after, crashes: 0 }
    }
}

impl World {
    /// A client that keeps its state on a disk.
    pub(crate) fn add_durable(&mut self, options: Options) -> usize {
        let rng = ChaCha20Rng::seed_from_u64(self.rng.random());
        let session = Session::restore(options, Box::new(rng), self.now, &Records::new()).unwrap();
        self.add(options, session, Some(Records::new()))
    }

    /// SIGKILL, and a start some time later: only what is on the disk is left.
    pub(crate) fn crash(&mut self, client: usize) {
        let rng = ChaCha20Rng::seed_from_u64(self.rng.random());
        self.agenda.retain(|_, happening| !matches!(happening, Happening::ToClient(c, _) if *c == client));
        self.inboxes.retain(|_, (c, _)| *c != client);
        let now = self.now;
        let found = &mut self.clients[client];
        found.crash_after = None;
        found.crashes += 1;
        let disk = found.disk.as_ref().expect("a client that keeps nothing can't come back");
        found.session = Session::restore(found.options, Box::new(rng), now, disk).unwrap();
        self.act(client);
    }

    /// The client is gone, and another begins with these records; its application knows nothing of the one before.
    pub(crate) fn replace(&mut self, client: usize, records: Records) {
        let found = &mut self.clients[client];
        found.disk = Some(records);
        found.events.clear();
        found.kept.clear();
        self.crash(client);
    }

    /// One more action is carried out, or none any more.
    pub(super) fn survives(&mut self, client: usize) -> bool {
        match &mut self.clients[client].crash_after {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    pub(super) fn write(&mut self, client: usize, changes: Vec<Change>) {
        let disk = self.clients[client].disk.as_mut().expect("it has a disk");
        for change in changes {
            match change.value {
                Some(value) => drop(disk.insert(change.name, value)),
                None => drop(disk.remove(&change.name)),
            }
        }
    }

    /// What is on the disks, in bytes.
    pub(crate) fn disk(&self, client: usize) -> &Records {
        self.clients[client].disk.as_ref().expect("it has a disk")
    }

    /// The application deals with each kept event once: it remembers how far it came.
    pub(super) fn emitted(&mut self, client: usize, cursor: EventCursor, event: ClientEvent) {
        let mono = self.now.mono;
        let found = &mut self.clients[client];
        if found.disk.is_some() && found.session.is_kept(&event) {
            match found.kept.get(&cursor) {
                Some(before) => return assert!(*before == event, "another event under the same number"),
                None => drop(found.kept.insert(cursor, event.clone())),
            }
        }
        found.events.push((mono, event));
    }

    /// Sooner or later the application says how far it came.
    pub(super) fn commit(&mut self, client: usize) {
        if self.clients[client].disk.is_none() || !self.rng.random_bool(0.1) {
            return;
        }
        let last = self.clients[client].kept.last_key_value().map(|(cursor, _)| *cursor);
        if let Some(last) = last.filter(|_| self.clients[client].crash_after != Some(0)) {
            let now = self.now;
            self.clients[client].session.commit(now, last);
            while let Some(Action::Save(changes)) = self.clients[client].session.poll() {
                self.write(client, changes);
            }
        }
    }
}
