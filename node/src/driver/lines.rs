//! The lines in front of the neighbours, and when they make everybody wait.
//!
//! What the relay has taken in and can't hand on yet stands in a line for each neighbour. While [`HOLD_AT`] packets stand
//! in the lines, the owner takes no more from the workers. Behind it the workers wait, then the links that packets come
//! from, and QUIC's flow control holds back whoever sends: no packet whose peeling is paid for is dropped because this
//! relay, or the line that it is on, has too much to do.
//!
//! A neighbour that takes nothing must not hold up the others. Its line counts only while the first packet in it has
//! waited for less than the patience; after that, packets for it are dropped when its line is full, and nobody else
//! notices. While the owner holds back, every packet in every line grows older alike. So between two holds [`HOLD_AT`]
//! packets have come into the lines, whatever the neighbours do, one or all of them together: they can't make the relay
//! carry fewer than [`HOLD_AT`] packets in a patience.

use std::collections::VecDeque;
use std::time::Duration;

use posta_protocol::now::Mono;
use posta_protocol::packet::Packet;
use tokio::sync::mpsc;

/// Packets that wait for one neighbour, whose link is being dialled or is busy, about 11 MB; more are dropped.
pub(crate) const PEER_BACKLOG: usize = 512;
/// Packets in all lines that count, about 2.7 MB; then the owner takes no more in.
pub(crate) const HOLD_AT: usize = 128;
/// How often an owner that holds back looks again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The packets that wait for one neighbour.
#[derive(Debug)]
pub(crate) struct Line {
    packets: mpsc::Sender<Packet>,
    /// When each of them came, and perhaps some more that have gone since: no more than twice what the line takes.
    since: VecDeque<Mono>,
}

impl Line {
    /// An empty line, and its other end.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Packet>) {
        let (packets, queue) = mpsc::channel(PEER_BACKLOG);
        (Self { packets, since: VecDeque::new() }, queue)
    }

    /// Puts a packet at the end, or says that it was dropped: the line is full, or nobody is there any more.
    pub(crate) fn push(&mut self, now: Mono, packet: Packet) -> bool {
        let taken = self.packets.try_send(packet).is_ok();
        if taken {
            self.since.push_back(now);
            if self.since.len() >= 2 * PEER_BACKLOG {
                self.forget();
            }
        }
        taken
    }

    /// Packets in this line that hold up the others: none once the first has waited for the patience.
    pub(crate) fn counts(&mut self, now: Mono, patience: Duration) -> usize {
        self.forget();
        match self.since.front() {
            Some(first) if now < *first + patience => self.since.len(),
            _ => 0,
        }
    }

    /// Forgets when those came that have gone.
    fn forget(&mut self) {
        let waiting = self.packets.max_capacity().saturating_sub(self.packets.capacity());
        let gone = self.since.len().saturating_sub(waiting);
        self.since.drain(..gone);
    }
}

/// How many packets stand in all lines.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// As far as known: those that have gone, or wait in vain, are taken off when it comes to [`HOLD_AT`].
    packets: usize,
}

impl Standing {
    /// One more has come.
    pub(crate) const fn came(&mut self) {
        self.packets += 1;
    }

    /// Whether there is room for one more; if not, the owner holds back.
    pub(crate) fn room<'a>(
        &mut self,
        now: Mono,
        patience: Duration,
        lines: impl Iterator<Item = &'a mut Line>,
    ) -> bool {
        if self.packets >= HOLD_AT {
            self.packets = lines.map(|line| line.counts(now, patience)).sum();
        }
        self.packets < HOLD_AT
    }
}

#[cfg(test)]
mod tests;
