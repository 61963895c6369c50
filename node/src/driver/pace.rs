//! How fast a link is read.
//!
//! Who sends more than its rate isn't dropped: its stream isn't read, its window closes, and it waits. A packet is paced
//! before it is peeled, for peeling is what it costs. Behind the pace everyone waits in one line, each link with one packet.

use std::sync::Arc;
use std::time::Duration;

use posta_link::{Connection, SharedRate, Speed};
use posta_protocol::now::Mono;

use crate::config::LimitsConfig;

/// The rates that one link keeps to.
#[derive(Debug)]
pub(crate) struct Pace {
    own: SharedRate,
    network: Option<Arc<SharedRate>>,
}

impl Pace {
    /// For a link that may send as many packets and control frames as `speed` says, now and later.
    pub(crate) const fn new(speed: Arc<Speed>, network: Option<Arc<SharedRate>>) -> Self {
        Self { own: SharedRate::at(speed), network }
    }

    /// For a client's link: its own rate, and the one that it shares with its network.
    pub(crate) fn client(speed: Arc<Speed>, connection: &Connection) -> Self {
        Self::new(speed, connection.network_rate())
    }

    /// Takes the turn of what has just been read: how long until it may go on.
    pub(crate) fn turn(&self, now: Mono) -> Duration {
        let network = self.network.as_ref().map_or(Duration::ZERO, |rate| rate.turn(now));
        self.own.turn(now).max(network)
    }
}

/// How fast links may send: those of clients, and those of relays. A reload changes them for the links that stand, too.
#[derive(Clone, Debug)]
pub(crate) struct Speeds {
    pub(crate) client: Arc<Speed>,
    pub(crate) link: Arc<Speed>,
}

impl Speeds {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        let (client, link) = (limits.client_packets_per_second, limits.link_packets_per_second);
        Self { client: Arc::new(Speed::new(client, client)), link: Arc::new(Speed::new(link, link)) }
    }

    pub(crate) fn set(&self, limits: &LimitsConfig) {
        let (client, link) = (limits.client_packets_per_second, limits.link_packets_per_second);
        self.client.set(client, client);
        self.link.set(link, link);
    }
}

#[cfg(test)]
mod tests;
