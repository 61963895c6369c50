//! A client of the simulation: a session, its links, and what its application did.

use std::collections::BTreeMap;

use posta_client::end_to_end::Scheme;
use posta_client::session::Session;
use posta_client::session::event::{ContactId, Event, Options};
use posta_protocol::ids::RelayId;
use posta_protocol::invitation::Link;
use posta_protocol::now::{Mono, Now};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// One client.
#[derive(Debug)]
pub(super) struct ClientNode {
    pub(super) session: Session,
    pub(super) contact: Option<ContactId>,
    /// The number of the link to an entry, while it stands.
    pub(super) links: BTreeMap<RelayId, u64>,
    /// Entries to which a link is being made.
    pub(super) dialling: Vec<RelayId>,
    /// Only the newest timer counts.
    pub(super) timer: (u64, Option<Mono>),
}

impl ClientNode {
    pub(super) fn new(rng: &mut ChaCha20Rng) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        // MLS draws its keys from the operating system: two runs would differ.
        let options = Options { scheme: Scheme::Model, ..Options::default() };
        Self {
            session: Session::new(options, Box::new(ChaCha20Rng::from_seed(seed))),
            contact: None,
            links: BTreeMap::new(),
            dialling: Vec::new(),
            timer: (0, None),
        }
    }

    pub(super) fn invite(&mut self, now: Now) {
        self.contact = self.session.invite(now);
    }

    pub(super) fn join(&mut self, now: Now, link: &str) {
        if let Ok(link) = link.parse::<Link>() {
            self.contact = self.session.join(now, link).ok();
        }
    }

    /// What the session doesn't take is counted as sent and not delivered.
    pub(super) fn send(&mut self, now: Now, body: Vec<u8>) {
        if let Some(contact) = self.contact {
            let _ = self.session.send(now, contact, body);
        }
    }

    pub(super) fn handle(&mut self, now: Now, event: Event) {
        self.session.handle(now, event);
    }
}
