//! How fast a link is read.
//!
//! Who sends more than its rate isn't dropped: its stream isn't read, its window closes, and it waits. A packet is paced
//! before it is peeled, for peeling is what it costs. Behind the pace everyone waits in one line, each link with one packet.

use std::sync::Arc;
use std::time::Duration;

use posta_link::{Connection, SharedRate};
use posta_protocol::now::Mono;

/// The rates that one link keeps to.
#[derive(Debug)]
pub(crate) struct Pace {
    own: SharedRate,
    network: Option<Arc<SharedRate>>,
}

impl Pace {
    /// For a link that may send so many packets and control frames in a second, and as many at once.
    pub(crate) fn new(per_second: u32, network: Option<Arc<SharedRate>>) -> Self {
        Self { own: SharedRate::new(per_second, per_second), network }
    }

    /// For a client's link: its own rate, and the one that it shares with its network.
    pub(crate) fn client(per_second: u32, connection: &Connection) -> Self {
        Self::new(per_second, connection.network_rate())
    }

    /// Takes the turn of what has just been read: how long until it may go on.
    pub(crate) fn turn(&self, now: Mono) -> Duration {
        let network = self.network.as_ref().map_or(Duration::ZERO, |rate| rate.turn(now));
        self.own.turn(now).max(network)
    }
}

#[cfg(test)]
mod tests;
