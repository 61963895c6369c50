//! What is carried from one folder to another: contacts, what was said, and what conversations can be begun anew by.
//! Never the state of a conversation, nor how far a queue was read or written: two who had the same would use keys twice.

use std::collections::BTreeSet;
use std::time::Duration;

use posta_protocol::now::Now;
use zeroize::Zeroizing;

use super::Session;
use super::event::{ClientEvent, ContactId};
use super::history::Said;
use super::saved::{CONTACT, EVENT, GUARDS, MOVES, SESSION, contact_name, decode_event, reader, writer};
use crate::store::Records;

/// Places of events begin again this far on, so that none ever comes twice.
const CURSORS: u64 = 1 << 32;

impl Session {
    /// Records for another folder, in which [`Self::restore`] begins every conversation anew. Contacts that are not
    /// connected yet are left out. `held`: the records of this session, as its store has them.
    #[must_use]
    pub fn export(&self, now: Now, held: &Records) -> Records {
        let mut out = Records::new();
        let mut w = writer();
        w.u64(self.next_contact);
        w.u64(self.core.saved.cursor.0.saturating_add(CURSORS));
        out.insert(SESSION.to_vec(), Zeroizing::new(w.finish()));
        let mut w = writer();
        self.core.entries.write(&mut w, now);
        out.insert(GUARDS.to_vec(), Zeroizing::new(w.finish()));
        let mut carried = BTreeSet::new();
        for (id, contact) in self.contacts.iter().filter(|(_, c)| c.can_be_carried()) {
            carried.insert(*id);
            let mut w = writer();
            contact.write(&mut w, true);
            out.insert(contact_name(CONTACT, *id), Zeroizing::new(w.finish()));
            let mut w = writer();
            contact.write_moves(&mut w);
            out.insert(contact_name(MOVES, *id), Zeroizing::new(w.finish()));
            for part in contact.carried_parts() {
                if let Some(value) = contact.part(part) {
                    out.insert(part.name(*id), Zeroizing::new(value));
                }
            }
        }
        for (name, value) in held.range([EVENT].to_vec()..[EVENT + 1].to_vec()) {
            let event = reader(value).and_then(|mut r| decode_event(&mut r));
            if event.ok().and_then(|e| contact_of(&e)).is_some_and(|id| carried.contains(&id)) {
                out.insert(name.clone(), value.clone());
            }
        }
        out
    }

    /// What was said with a contact, as far as it is kept; in the order of its time.
    #[must_use]
    pub fn history(&self, contact: ContactId) -> Vec<Said> {
        self.contacts.get(&contact).map(super::contact::Contact::said).unwrap_or_default()
    }

    /// Forgets what was said with a contact, but for what is not delivered yet. `false` if there is no such contact.
    pub fn clear_history(&mut self, now: Now, contact: ContactId) -> bool {
        let start = self.core.actions.len();
        let Some(found) = self.contacts.get_mut(&contact) else { return false };
        found.clear_history();
        self.save(now, start);
        true
    }
}

impl Session {
    /// Messages to a contact that are sent from now on are forgotten at both ends so long after their delivery, in whole
    /// seconds; `None` for not at all. `false` if there is no such contact.
    pub fn disappear(&mut self, now: Now, contact: ContactId, after: Option<Duration>) -> bool {
        let start = self.core.actions.len();
        let Some(found) = self.contacts.get_mut(&contact) else { return false };
        found.disappear(after.map_or(0, |after| u32::try_from(after.as_secs().max(1)).unwrap_or(u32::MAX)));
        self.save(now, start);
        true
    }
}

/// Whom an event is about that the next incarnation is to hear of, too.
const fn contact_of(event: &ClientEvent) -> Option<ContactId> {
    match event {
        ClientEvent::Message { contact, .. }
        | ClientEvent::State { contact, .. }
        | ClientEvent::Connected { contact }
        | ClientEvent::Renewed { contact } => Some(*contact),
        _ => None,
    }
}
