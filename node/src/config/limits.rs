//! `[limits]`: how much a peer can make the relay hold or do.

use std::time::Duration;

use posta_link::limits::{
    CLIENT_CONNECTIONS, CLIENT_CONNECTIONS_PER_NETWORK, HANDSHAKES_PER_NETWORK, HANDSHAKES_PER_SECOND,
    PACKETS_PER_NETWORK,
};
use posta_link::{Audience, PortLimits};
use posta_protocol::params::MAX_QUEUE_SURBS;
use serde::{Deserialize, Serialize};

use crate::queue::{MAX_BLOCKS, MAX_CREATES, MAX_SUBSCRIPTIONS, QueueBounds};
use crate::relay::{Bounds, DEFAULT_DELAYED_BYTES, DelayBounds, InboxBounds, MAX_BUFFERED, MAX_INBOXES};

const MIB: u64 = 1 << 20;
/// Packets in a second of one client's link, unless the operator says otherwise: 34 Mbit/s.
pub const CLIENT_PACKETS: u32 = 200;
/// Packets in a second of one relay's link, unless the operator says otherwise: 1.7 Gbit/s, half of what a core peels.
pub const LINK_PACKETS: u32 = 10_000;
/// How long packets for one relay may hold up those for others, in ms, unless the operator says otherwise. Neighbours that
/// take 128 packets in this time, 88 Mbit/s together, hold back who sends to them; slower ones lose what is too much.
pub const PATIENCE_MS: u64 = 250;

/// How much a peer can make the relay hold or do. A network is an IPv4 /24 or an IPv6 /48.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Clients' connections in all; more are refused.
    pub client_connections: usize,
    /// Clients' connections of one network; more are refused, and from half on an address must be shown first.
    pub client_connections_per_network: usize,
    /// Handshakes in a second at each port; from half on an address must be shown first, more are refused.
    pub handshakes_per_second: u32,
    /// Handshakes in a second with one network.
    pub network_handshakes_per_second: u32,
    /// Packets in a second of one client; more wait.
    pub client_packets_per_second: u32,
    /// Packets in a second of all clients of one network; more wait.
    pub network_packets_per_second: u32,
    /// Packets in a second of one relay; more wait.
    pub link_packets_per_second: u32,
    /// How long packets for one relay may hold up those for others, in ms; then those for it alone are dropped.
    pub patience_ms: u64,
    /// Packets that wait for their time, in MiB; beyond it those due last are dropped.
    pub delayed_mib: u64,
    /// Clients' inboxes; more are refused.
    pub inboxes: usize,
    /// Packets in all inboxes whose clients are away; beyond it an inbox gives up its oldest.
    pub inbox_packets: usize,
    /// Queues with reply blocks; beyond it the one longest without an event loses its own.
    pub subscriptions: usize,
    /// Reply blocks of one queue, 1 to 8; beyond it the oldest goes.
    pub reply_blocks_per_queue: usize,
    /// Reply blocks of all queues, about 5 KB each; beyond it the queue longest without an event loses its own.
    pub reply_blocks: usize,
    /// Queues made in a second; more are answered `busy`.
    pub creates_per_second: u32,
}

/// What each key means, for the text of a new configuration file.
pub(super) const COMMENTS: &[(&str, &str)] = &[
    (
        "client_connections",
        "Clients' connections in all; more are refused. A network, below, is an IPv4 /24 or an IPv6 /48.",
    ),
    (
        "client_connections_per_network",
        "Clients' connections of one network; from half on an address must be shown first.",
    ),
    ("handshakes_per_second", "Handshakes in a second at each port; from half on an address must be shown first."),
    ("network_handshakes_per_second", "Handshakes in a second with one network."),
    ("client_packets_per_second", "Packets in a second of one client; more wait."),
    ("network_packets_per_second", "Packets in a second of all clients of one network; more wait."),
    ("link_packets_per_second", "Packets in a second of one relay; more wait."),
    ("patience_ms", "How long packets for one relay may hold up the others, in ms; then those alone are dropped."),
    ("delayed_mib", "Packets that wait for their time, in MiB; beyond it those due last are dropped."),
    ("inboxes", "Clients' inboxes; more are refused."),
    ("inbox_packets", "Packets in the inboxes of absent clients; beyond it an inbox gives up its oldest."),
    ("subscriptions", "Queues with reply blocks; beyond it the one longest without an event loses its own."),
    ("reply_blocks_per_queue", "Reply blocks of one queue, 1 to 8; beyond it the oldest goes."),
    ("reply_blocks", "Reply blocks of all queues, about 5 KB each; beyond it one queue loses its own."),
    ("creates_per_second", "Queues made in a second; more are answered `busy`."),
];

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            client_connections: CLIENT_CONNECTIONS,
            client_connections_per_network: CLIENT_CONNECTIONS_PER_NETWORK,
            handshakes_per_second: HANDSHAKES_PER_SECOND,
            network_handshakes_per_second: HANDSHAKES_PER_NETWORK,
            client_packets_per_second: CLIENT_PACKETS,
            network_packets_per_second: PACKETS_PER_NETWORK,
            link_packets_per_second: LINK_PACKETS,
            patience_ms: PATIENCE_MS,
            delayed_mib: DEFAULT_DELAYED_BYTES / MIB,
            inboxes: MAX_INBOXES,
            inbox_packets: MAX_BUFFERED,
            subscriptions: MAX_SUBSCRIPTIONS,
            reply_blocks_per_queue: MAX_QUEUE_SURBS,
            reply_blocks: MAX_BLOCKS,
            creates_per_second: MAX_CREATES,
        }
    }
}

impl LimitsConfig {
    /// What a port takes.
    #[must_use]
    pub const fn port(&self, audience: Audience) -> PortLimits {
        let mut limits = PortLimits::of(audience);
        limits.handshakes = self.handshakes_per_second;
        limits.handshakes_per_network = self.network_handshakes_per_second;
        limits.packets_per_network = self.network_packets_per_second;
        if let Audience::Client = audience {
            limits.connections = self.client_connections;
            limits.connections_per_network = self.client_connections_per_network;
        }
        limits
    }

    /// How long a relay that takes nothing may hold up the others.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// What the core may hold; the rest is as by default.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds {
            delayed: DelayBounds { bytes: self.delayed_mib.saturating_mul(MIB), ..DelayBounds::default() },
            inboxes: InboxBounds { inboxes: self.inboxes, buffered: self.inbox_packets, ..InboxBounds::default() },
            queues: QueueBounds {
                subscriptions: self.subscriptions,
                blocks: self.reply_blocks,
                blocks_per_queue: self.reply_blocks_per_queue,
                creates: self.creates_per_second,
                ..QueueBounds::default()
            },
        }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let all = [
            ("client_connections", self.client_connections as u64),
            ("client_connections_per_network", self.client_connections_per_network as u64),
            ("handshakes_per_second", self.handshakes_per_second.into()),
            ("network_handshakes_per_second", self.network_handshakes_per_second.into()),
            ("client_packets_per_second", self.client_packets_per_second.into()),
            ("network_packets_per_second", self.network_packets_per_second.into()),
            ("link_packets_per_second", self.link_packets_per_second.into()),
            ("patience_ms", self.patience_ms),
            ("delayed_mib", self.delayed_mib),
            ("inboxes", self.inboxes as u64),
            ("inbox_packets", self.inbox_packets as u64),
            ("subscriptions", self.subscriptions as u64),
            ("reply_blocks_per_queue", self.reply_blocks_per_queue as u64),
            ("reply_blocks", self.reply_blocks as u64),
            ("creates_per_second", self.creates_per_second.into()),
        ];
        if let Some((key, _)) = all.into_iter().find(|(_, value)| *value == 0) {
            return Err(format!("`limits.{key}` must not be 0; leave it out if unsure"));
        }
        if self.reply_blocks_per_queue > MAX_QUEUE_SURBS {
            let value = self.reply_blocks_per_queue;
            return Err(format!("`limits.reply_blocks_per_queue` is {value}, at most {MAX_QUEUE_SURBS} are of use"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_constants() {
        let limits = LimitsConfig::default();
        assert_eq!(limits.validate(), Ok(()));
        assert_eq!(limits.port(Audience::Client), PortLimits::of(Audience::Client));
        assert_eq!(limits.port(Audience::Link), PortLimits::of(Audience::Link));
        assert_eq!(format!("{:?}", limits.bounds()), format!("{:?}", Bounds::default()));
    }

    #[test]
    fn a_limit_of_nothing_is_refused_by_name() {
        let limits = LimitsConfig { creates_per_second: 0, ..LimitsConfig::default() };
        assert!(limits.validate().unwrap_err().contains("`limits.creates_per_second`"));
        let limits = LimitsConfig { reply_blocks_per_queue: 9, ..LimitsConfig::default() };
        assert!(limits.validate().unwrap_err().contains("at most 8"));
    }
}
