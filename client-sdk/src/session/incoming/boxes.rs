//! Boxes that have come: opened once each, in the order of their epochs.

use std::time::Duration;

use posta_protocol::end_to_end::{Content, InnerKind, Kind};
use posta_protocol::now::Now;

use super::{Incoming, REORDER_WINDOW, Said, Waiting};
use crate::end_to_end::{Conversation, Unopened};
use crate::session::core::Core;
use crate::session::event::{ClientEvent, Warning};

/// Boxes that came before the turn or the welcome that they need and wait for it; beyond, they stay at the relay.
pub(super) const EARLY_BOXES: usize = 32;
/// A box for which that takes longer shows that the two ends have come apart.
pub(super) const EARLY_PATIENCE: Duration = Duration::from_secs(300);

impl Incoming {
    /// Takes a box in. Returns the number of the message in it (0 for none; nothing if it stays at the relay).
    pub(super) fn take(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        (index, sequence): (usize, u64),
        sealed: Box<[u8]>,
    ) -> Option<u64> {
        let epoch = conversation.epoch();
        let number = self.take_one(core, now, conversation, (index, sequence), sealed);
        if conversation.epoch() != epoch {
            // Those that are still early stay.
            for (place, sealed) in std::mem::take(&mut self.early) {
                self.take_one(core, now, conversation, place, sealed);
            }
            self.early_since = (!self.early.is_empty()).then_some(now.mono);
        }
        self.hand_on(core, now);
        number
    }

    fn take_one(
        &mut self,
        core: &mut Core,
        now: Now,
        conversation: &mut Conversation,
        (index, sequence): (usize, u64),
        sealed: Box<[u8]>,
    ) -> Option<u64> {
        let queue = self.queues.get_mut(index)?;
        if sequence <= queue.cursor {
            return Some(0);
        }
        if let Some(number) = queue.seen.get(&sequence) {
            return Some(*number);
        }
        self.active_until = now.mono + core.requests.tempo.heartbeat * 5;
        let inner = queue.open(conversation, &sealed);
        queue.heard |= inner.is_some();
        let mut number = 0;
        match inner {
            Some(inner) if inner.number > self.delivered + REORDER_WINDOW => return None,
            // A copy. MLS opens a message once, and it is here.
            Some(inner) if inner.number > 0 && self.has(inner.number) => number = inner.number,
            Some(inner) if matches!(inner.kind, InnerKind::Welcome { .. }) && conversation.founded().is_some() => {
                self.said.push(Said::Welcome((index, sequence), inner));
            }
            Some(inner) => match conversation.open(now.mono, &inner) {
                Ok(content) => number = self.read_content(core, inner.number, &content),
                Err(Unopened::Early) => {
                    self.keep_early(now, (index, sequence), sealed);
                    return None;
                }
                Err(Unopened::Again) => {}
                Err(Unopened::Refused) => self.apart |= conversation.came_apart(),
            },
            // Perhaps sealed in a conversation that we have yet to join.
            None if conversation.founded().is_none() => {
                self.keep_early(now, (index, sequence), sealed);
                return None;
            }
            None => {}
        }
        if let Some(queue) = self.queues.get_mut(index) {
            queue.seen.insert(sequence, number);
        }
        Some(number)
    }

    fn has(&self, number: u64) -> bool {
        number <= self.delivered || self.reorder.contains_key(&number)
    }

    fn keep_early(&mut self, now: Now, place: (usize, u64), sealed: Box<[u8]>) {
        if self.early.len() < EARLY_BOXES || self.early.contains_key(&place) {
            self.early.insert(place, sealed);
            self.early_since.get_or_insert(now.mono);
        }
    }

    /// Finds out that what came early has waited for too long.
    pub(crate) fn watch_early(&mut self, now: Now, conversation: &mut Conversation) {
        let waits = self.early_since.is_some_and(|since| now.mono.since(since) >= EARLY_PATIENCE);
        if waits && conversation.founded().is_none() {
            self.early_since = Some(now.mono);
        } else if waits {
            self.early_since = None;
            self.apart |= conversation.came_apart();
        }
    }

    /// Reads an opened content. Returns the number of the message in it, 0 for none.
    fn read_content(&mut self, core: &mut Core, number: u64, content: &[u8]) -> u64 {
        let Ok(content) = Content::decode(content) else { return 0 };
        if core.view.as_ref().is_some_and(|v| v.contradicts(content.epoch, &content.consensus)) {
            core.emit(ClientEvent::Warning(Warning::Fork { contact: self.contact }));
        }
        match content.kind {
            // The number outside is not MLS's word.
            Kind::Message { number: n, expires, body } if n == number => {
                self.reorder.entry(n).or_insert(Waiting { expires, after: 0, body });
                return n;
            }
            Kind::Fleeting { number: n, expires, after, body } if n == number => {
                self.reorder.entry(n).or_insert(Waiting { expires, after, body });
                return n;
            }
            Kind::Receipt { up_to } => self.said.push(Said::Receipt(up_to)),
            Kind::KeyPackage { up_to, from, key_package } => {
                self.said.push(Said::KeyPackage { up_to, from, key_package });
            }
            Kind::Moved { generation, queues } => self.said.push(Said::Moved(generation, queues)),
            Kind::Queues(list) => {
                self.introduced = true;
                self.said.push(Said::Queues(list));
            }
            _ => {}
        }
        0
    }

    /// What boxes have said since this was last asked.
    pub(crate) fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }
}
