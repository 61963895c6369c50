//! What the owner does for the core: it feeds it, and carries out what it asks for.

use posta_link::LinkSender;
use posta_protocol::frame::Frame;
use posta_protocol::now::Mono;
use posta_store::{Outcome, Refusal};

use super::Running;
use super::storage::StoreJob;
use crate::relay::{Action, ClientLink, Event};

impl Running {
    /// Gives the core peeled packets as long as there is room in front of the neighbours, and does what it asks for. Never
    /// waits.
    pub(super) fn act(&mut self) {
        loop {
            let now = self.clock.now();
            self.carry_out(now.mono);
            if !self.holds_back() {
                break;
            }
            let held = !self.links.room(now.mono);
            self.core.counters_mut().held_back += u64::from(held && !self.held);
            self.held = held;
            if held {
                break;
            }
            if let Some((from, peeled, packet)) = self.peeled.next() {
                self.core.handle(now, Event::Peeled { from, peeled, packet });
            }
        }
        if let Some(status) = &mut self.status {
            status.counters(self.clock.now(), self.core.counters());
        }
    }

    /// Does what the core asks for.
    fn carry_out(&mut self, now: Mono) {
        while let Some(action) = self.core.poll() {
            match action {
                Action::Send { to, packet } => {
                    if !self.links.send(now, to, packet) {
                        self.core.counters_mut().link_backlog += 1;
                    }
                }
                Action::Deliver { link, packet } => self.tell(link, |client| client.try_send(packet).is_ok()),
                Action::Attached { link, inbox } => {
                    self.tell(link, |client| client.try_control(Frame::Attached(inbox)).is_ok());
                }
                Action::Store { token, op } => {
                    if self.store.try_send(StoreJob::Op(token, op)).is_err() {
                        let outcome = Outcome::Refused(Refusal::Busy);
                        self.core.handle(self.clock.now(), Event::Stored { token, outcome });
                    }
                }
            }
        }
    }

    fn tell(&mut self, link: ClientLink, say: impl FnOnce(&LinkSender) -> bool) {
        if !self.clients.get(&link).is_some_and(say) {
            self.core.counters_mut().client_backlog += 1;
        }
    }
}
