//! Queues that are there no more, or in another form.

use posta_protocol::ids::RelayId;
use posta_protocol::now::Now;

use super::{Outgoing, State, What};
use crate::session::core::Core;
use crate::session::event::{ClientEvent, Direction, Warning};

impl Outgoing {
    /// A relay's store is another than before: everything undelivered is put there again, and the last receipt.
    pub(crate) fn restored(&mut self, core: &mut Core, now: Now, relay: RelayId) {
        for index in 0..self.queues.len() {
            let Some(queue) = self.queues.get_mut(index).filter(|q| q.relay == relay && q.state == State::Secured)
            else {
                continue;
            };
            queue.call_back(core);
            queue.restored = true;
            queue.receipt = self.receipt.is_some();
            for sealed in queue.boxes.values_mut() {
                if std::mem::take(&mut sealed.confirmed)
                    && let What::Message(number) = sealed.what
                    && let Some(message) = self.messages.get_mut(&number)
                {
                    message.stored = message.stored.saturating_sub(1);
                }
            }
            self.secure(core, now, index);
        }
    }

    pub(super) fn lose(&mut self, core: &mut Core, index: usize) {
        let Some(queue) = self.queues.get_mut(index).filter(|q| q.state != State::Lost) else { return };
        queue.state = State::Lost;
        let requests = queue.boxes.values_mut().filter_map(|b| b.request.take()).chain(queue.secure.take());
        requests.for_each(|id| core.requests.cancel(id));
        queue.boxes.clear();
        queue.waiting.clear();
        let left = self.queues.iter().filter(|q| q.state != State::Lost).count();
        let warning = Warning::QueueLost { contact: self.contact, direction: Direction::Outgoing, left };
        core.emit(ClientEvent::Warning(warning));
    }

    /// Gives everything up.
    pub(crate) fn abandon(&mut self, core: &mut Core) {
        for queue in &mut self.queues {
            let requests = queue.boxes.values_mut().filter_map(|b| b.request.take()).chain(queue.secure.take());
            requests.for_each(|id| core.requests.cancel(id));
        }
        self.queues.clear();
    }
}
