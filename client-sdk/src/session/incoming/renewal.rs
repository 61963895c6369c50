//! A conversation that begins anew: what was opened and not handed on is sent again, and what is sealed is of no use.

use posta_protocol::now::Mono;

use super::Incoming;

impl Incoming {
    /// Forgets everything of the conversation before but how far it came.
    pub(crate) fn begin_again(&mut self) {
        self.reorder.clear();
        self.early.clear();
        self.said.clear();
        (self.early_since, self.gap, self.apart) = (None, None, false);
        self.introduced = true;
        self.active_until = Mono(0);
    }

    /// Everything before this place in a queue is of a conversation before.
    pub(crate) fn pass(&mut self, (index, sequence): (usize, u64)) {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.cursor = queue.cursor.max(sequence);
            let cursor = queue.cursor;
            queue.seen.retain(|s, _| *s > cursor);
        }
    }

    /// Nothing below this number will come. Returns how many messages are missing for good.
    pub(crate) fn skip_to(&mut self, from: u64) -> u64 {
        let missing = from.saturating_sub(self.delivered + 1);
        self.delivered += missing;
        missing
    }

    /// Whether the two ends were found to have come apart since this was last asked.
    pub(crate) fn take_apart(&mut self) -> bool {
        std::mem::take(&mut self.apart)
    }

    /// What was handed on since this was last asked: numbers, seconds after which it is forgotten, and bytes.
    pub(crate) fn take_handed(&mut self) -> Vec<(u64, u32, Vec<u8>)> {
        std::mem::take(&mut self.handed)
    }
}
