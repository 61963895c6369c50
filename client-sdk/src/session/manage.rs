//! What an application asks of its contacts beside talking to them: who there is, names, and letting go.

use posta_protocol::now::Now;

use super::Session;
use super::contact::MAX_NAME;
use super::event::{ContactId, ContactInfo};

impl Session {
    /// All contacts, in the order of their making.
    #[must_use]
    pub fn contacts(&self) -> Vec<ContactInfo> {
        self.contacts.values().map(super::contact::Contact::info).collect()
    }

    /// Gives a contact the name that its user knows it by; control characters are dropped, and what is beyond 64 bytes.
    /// `false` if there is no such contact.
    pub fn rename(&mut self, now: Now, contact: ContactId, name: &str) -> bool {
        let start = self.core.actions.len();
        let Some(found) = self.contacts.get_mut(&contact) else { return false };
        let mut kept = String::new();
        for c in name.chars().filter(|c| !c.is_control()) {
            if kept.len() + c.len_utf8() > MAX_NAME {
                break;
            }
            kept.push(c);
        }
        found.name = kept;
        self.save(now, start);
        true
    }

    /// Lets go of a contact: everything that is kept of it is deleted, and nothing more is sent or asked for. Its queues
    /// end unused. `false` if there is no such contact.
    pub fn remove(&mut self, now: Now, contact: ContactId) -> bool {
        let start = self.core.actions.len();
        if self.contacts.remove(&contact).is_none() {
            return false;
        }
        self.core.requests.cancel_contact(contact);
        self.step(now);
        self.save(now, start);
        true
    }
}
