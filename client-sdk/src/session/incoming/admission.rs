//! What relays ask for before they make a queue. A puzzle is solved in slices, one for each tick, so that nothing else
//! waits long; a password is none of ours, and another relay is tried.

use posta_protocol::admission::{Asks, Proof, Puzzle, Statement};
use posta_protocol::command::WriterCapability;
use posta_protocol::ids::RelayId;
use posta_protocol::now::Now;

use super::Incoming;
use crate::session::core::Core;
use crate::session::event::{Asked, ClientEvent, NotAdmitted, Warning};

/// The hardest puzzle that is solved: 2^28 hashes, 45 s of one core at 5.9 million a second.
pub const MAX_EFFORT: u8 = 28;
/// Nonces that one tick tries: 1.4 ms.
pub(crate) const SLICE: u64 = 1 << 13;
/// Puzzles that are solved for one queue at one relay: the first one, and again after its seed or effort has changed.
const MAX_PUZZLES: u8 = 3;

/// A puzzle that is being solved.
pub(super) struct Search {
    puzzle: Puzzle,
    statement: Statement,
    next: u64,
}

impl Incoming {
    /// A relay asks for more than it was shown.
    pub(super) fn not_admitted(&mut self, core: &mut Core, now: Now, index: usize, asks: Asks) {
        let Some(queue) = self.queues.get_mut(index) else { return };
        queue.create = None;
        let asks = match asks {
            Asks::Puzzle(puzzle) if puzzle.effort <= MAX_EFFORT && queue.puzzles < MAX_PUZZLES => {
                let writer = WriterCapability::new(queue.invited.duplicate()).id();
                let statement = Statement::create(&queue.reader.id(), &writer, queue.kind);
                queue.puzzles += 1;
                queue.search = Some(Search { puzzle, statement, next: 0 });
                return;
            }
            Asks::Puzzle(puzzle) => Asked::Work(puzzle.effort),
            Asks::Password => Asked::Password,
            // It contradicts itself.
            Asks::Nothing => return self.move_queue(core, now, index),
        };
        let relay = queue.relay;
        if core.closed.insert(relay, asks).is_none() {
            core.emit(ClientEvent::Warning(Warning::NotAdmitted(NotAdmitted { relay, asks })));
        }
        self.move_queue(core, now, index);
    }

    /// Goes on solving, as far as this step permits.
    pub(super) fn search(&mut self, core: &mut Core, now: Now) {
        for index in 0..self.queues.len() {
            let Some(queue) = self.queues.get_mut(index) else { continue };
            let Some(search) = &mut queue.search else { continue };
            let tries = std::mem::take(&mut core.hashes);
            if let Some(solution) = search.puzzle.solve(&search.statement, search.next, tries) {
                (queue.search, queue.proof) = (None, Proof::Solution(solution));
                self.start_create(core, now, index);
            } else {
                search.next = search.next.wrapping_add(tries);
            }
        }
    }

    pub(super) fn is_searching(&self) -> bool {
        self.queues.iter().any(|q| q.search.is_some())
    }

    /// A relay for another queue: if possible none that is to be avoided, and never one that doesn't admit us.
    pub(in crate::session) fn choose(&mut self, core: &mut Core, now: Now, avoid: &[RelayId]) -> Option<RelayId> {
        let own = self.relays();
        let open: Vec<RelayId> = own.iter().chain(core.closed.keys()).copied().collect();
        let all: Vec<RelayId> = open.iter().chain(avoid).copied().collect();
        let found = core.choose_edge(now, &all).or_else(|| core.choose_edge(now, &open));
        if found.is_none() && core.choose_edge(now, &own).is_some() {
            self.shut = core.closed.first_key_value().map(|(relay, asks)| NotAdmitted { relay: *relay, asks: *asks });
        }
        found
    }

    /// Why no queue can be made, if no relay that is left admits us.
    pub(crate) const fn shut(&self) -> Option<NotAdmitted> {
        self.shut
    }

    /// Gives up queues that aren't there yet.
    pub(crate) fn abandon(&mut self, core: &mut Core) {
        for queue in &mut self.queues {
            queue.search = None;
            if let Some(id) = queue.create.take() {
                core.requests.cancel(id);
            }
        }
    }
}
