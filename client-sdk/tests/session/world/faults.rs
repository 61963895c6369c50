//! What befalls relays, and what somebody else does or sees.

use std::time::Duration;

use posta_client::session::event::Event;
use posta_protocol::crypto::{self, context};
use posta_protocol::ids::{InboxId, RelayId};
use posta_protocol::now::{Mono, Wall};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;

use super::{HOP, Happening, Queue, World};

impl World {
    /// Somebody watches a client's line.
    pub(super) fn saw(&mut self, client: usize, at: Option<Mono>, entry: RelayId, what: &'static str, size: usize) {
        let found = &mut self.clients[client];
        let mut at = at.unwrap_or(self.now.mono);
        if std::mem::take(&mut found.leaks) {
            at = at + Duration::from_micros(1);
        }
        found.line.push((at, entry, what, size));
    }

    /// A client elsewhere attaches an inbox.
    pub(crate) fn attach(&mut self, relay: usize, client: usize, secret: &Secret<32>) -> InboxId {
        let inbox = InboxId(crypto::hash(context::INBOX, secret.expose()).0);
        self.inboxes.insert(inbox, (client, relay));
        inbox
    }

    /// A packet from elsewhere goes all its way at once.
    pub(crate) fn inject(&mut self, relay: usize, packet: Packet, wall: Wall) {
        self.advance(self.now.mono + wall.since(self.now.wall));
        self.relay_gets(relay, packet);
        while let Some((_, happening)) = self.agenda.pop_first() {
            if let Happening::ToRelay(relay, packet) = happening {
                self.relay_gets(relay, packet);
            }
        }
    }

    /// What a restarted relay has lost: reply blocks, and the inboxes of those who enter by it.
    pub(crate) fn forget_memory(&mut self, index: usize) {
        for queue in self.relays[index].queues.values_mut() {
            queue.blocks.clear();
            queue.pushed.clear();
        }
        self.inboxes.retain(|_, (_, entry)| *entry != index);
        let entry = self.relays[index].id;
        for client in 0..self.clients.len() {
            self.schedule(HOP, Happening::ToClient(client, Event::LinkDown { entry }));
        }
    }

    /// Restores a relay: its queues come back without messages.
    pub(crate) fn restore(&mut self, index: usize) {
        for queue in self.relays[index].queues.values_mut() {
            *queue = Queue { writer: queue.writer, invited: queue.invited, ..Queue::default() };
        }
        self.relays[index].blobs.clear();
        self.relays[index].incarnation += 1;
    }

    /// Loses a relay's queues and blobs, as a restore from an empty backup would.
    pub(crate) fn wipe(&mut self, index: usize) {
        self.relays[index].queues.clear();
        self.relays[index].blobs.clear();
        self.relays[index].incarnation += 1;
    }
}
