//! Who may have a handshake: limits of a listening port, by network and in all. No I/O, no clock.
//!
//! A network is an IPv4 /24 or an IPv6 /48: what one customer of a provider commonly has. Two things are limited, the
//! connections that stand and the handshakes in a second, both for each network and for the whole port.
//!
//! Half of each limit is for peers that have not yet shown that their address is their own. Beyond it they are asked to
//! come back with a token (QUIC's retry), which costs this side one small datagram and no memory. So whoever sends first
//! datagrams from invented addresses uses up one half; the other half stays for those who answer.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posta_protocol::now::Mono;

use crate::transport::Audience;

/// Handshakes under way at once at a port, the finished ones that nobody has taken yet included; more are refused.
pub const HANDSHAKES_AT_ONCE: usize = 256;
/// Networks whose rate is remembered, about 2 MB; then those without a connection are forgotten.
pub const MAX_NETWORKS: usize = 32_768;
/// Connections that clients of one network may have at once, unless the operator says otherwise.
pub const CLIENT_CONNECTIONS_PER_NETWORK: usize = 512;
/// Connections of clients in all, unless the operator says otherwise.
pub const CLIENT_CONNECTIONS: usize = 20_000;
/// Handshakes in a second at a port, unless the operator says otherwise: about an eighth of a core.
pub const HANDSHAKES_PER_SECOND: u32 = 500;
/// Packets in a second that all clients of one network may send, unless the operator says otherwise: a tenth of a core.
pub const PACKETS_PER_NETWORK: u32 = 2_000;
/// Handshakes in a second with one network, unless the operator says otherwise.
pub const HANDSHAKES_PER_NETWORK: u32 = 50;

/// What a listening port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLimits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once of one network.
    pub connections_per_network: usize,
    /// Handshakes in a second.
    pub handshakes: u32,
    /// Handshakes in a second with one network.
    pub handshakes_per_network: u32,
    /// Packets in a second of one network. The port doesn't count them: it hands out what its owner counts with.
    pub packets_per_network: u32,
    /// Whether requests for documents come in here too, on directory connections: a relay's port, which mirrors them.
    pub mirror: bool,
}

impl PortLimits {
    /// What a port takes unless its owner says otherwise.
    #[must_use]
    pub const fn of(audience: Audience) -> Self {
        let (connections, connections_per_network) = match audience {
            // Who isn't listed fails the handshake; who is listed has a connection or two to each.
            Audience::Link => (4_096, 1_024),
            Audience::Client => (CLIENT_CONNECTIONS, CLIENT_CONNECTIONS_PER_NETWORK),
            // Not by network: an authority answers briefly, and to whole networks behind one address.
            Audience::Directory => (2_048, 2_048),
        };
        let handshakes_per_network = match audience {
            Audience::Link | Audience::Client => HANDSHAKES_PER_NETWORK,
            Audience::Directory => HANDSHAKES_PER_SECOND,
        };
        Self {
            connections,
            connections_per_network,
            handshakes: HANDSHAKES_PER_SECOND,
            handshakes_per_network,
            packets_per_network: PACKETS_PER_NETWORK,
            mirror: false,
        }
    }
}

/// A bucket of tokens that fills evenly: what is let through is at most `burst` at once and `per_second` over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Microseconds in which one token comes.
    step: u64,
    /// Microseconds in which the whole bucket fills.
    depth: u64,
    /// When the bucket will be full.
    full_at: Mono,
}

impl Rate {
    /// A full bucket. Zero of either counts as one.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let step = (1_000_000 / u64::from(per_second.max(1))).max(1);
        Self { step, depth: step * u64::from(burst.max(1)), full_at: Mono(0) }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Mono) -> bool {
        self.take_above(now, 0)
    }

    /// Takes a token if that leaves half of them.
    pub fn take_half(&mut self, now: Mono) -> bool {
        self.take_above(now, self.depth / 2)
    }

    /// Takes other figures over, at once: what is missing stays missing, but never more than a whole bucket.
    pub fn retune(&mut self, now: Mono, per_second: u32, burst: u32) {
        let missing = self.missing(now);
        let tuned = Self::new(per_second, burst);
        *self = Self { full_at: Mono(now.0.saturating_add(missing.min(tuned.depth))), ..tuned };
    }

    const fn missing(&self, now: Mono) -> u64 {
        self.full_at.0.saturating_sub(now.0)
    }

    fn take_above(&mut self, now: Mono, left: u64) -> bool {
        let after = self.missing(now) + self.step;
        let room = after + left <= self.depth;
        if room {
            self.full_at = Mono(now.0.saturating_add(after));
        }
        room
    }
}

/// How fast many rates go, in one place: a change counts for all of them from the next turn on.
#[derive(Debug)]
pub struct Speed {
    step: AtomicU64,
    depth: AtomicU64,
}

impl Speed {
    /// So many in a second, and so many at once. Zero of either counts as one.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let Rate { step, depth, .. } = Rate::new(per_second, burst);
        Self { step: AtomicU64::new(step), depth: AtomicU64::new(depth) }
    }

    /// Takes other figures over. A turn that is taken meanwhile may see one of the new and one of the old.
    pub fn set(&self, per_second: u32, burst: u32) {
        let Rate { step, depth, .. } = Rate::new(per_second, burst);
        self.step.store(step, Ordering::Relaxed);
        self.depth.store(depth, Ordering::Relaxed);
    }
}

/// A rate that several links keep together, without a lock: each takes its next turn, and waits until it comes.
///
/// Turns are taken in advance, at most one by each link that waits, so that the line is no longer than there are links.
#[derive(Debug)]
pub struct SharedRate {
    speed: Arc<Speed>,
    /// When all turns that were taken are over and the burst is there again.
    full_at: AtomicU64,
}

impl SharedRate {
    /// With a whole burst at hand. Zero of either counts as one.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::at(Arc::new(Speed::new(per_second, burst)))
    }

    /// As fast as `speed` says, now and later, with a whole burst at hand.
    #[must_use]
    pub const fn at(speed: Arc<Speed>) -> Self {
        Self { speed, full_at: AtomicU64::new(0) }
    }

    /// Takes a turn: how long until it comes; zero if it is now.
    pub fn turn(&self, now: Mono) -> Duration {
        let (step, depth) = (self.speed.step.load(Ordering::Relaxed), self.speed.depth.load(Ordering::Relaxed));
        let after = |full_at: u64| Some(full_at.max(now.0).saturating_add(step));
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after).unwrap_or_default();
        Duration::from_micros((taken.max(now.0) - now.0 + step).saturating_sub(depth))
    }
}

/// An IPv4 /24 or IPv6 /48.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Network {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Network {
    fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self::V4(addr.octets().first_chunk().copied().unwrap_or_default()),
            IpAddr::V6(addr) => Self::V6(addr.octets().first_chunk().copied().unwrap_or_default()),
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network(..)")
    }
}

/// What is known of one network.
#[derive(Debug)]
struct Guest {
    /// Connections and handshakes.
    open: usize,
    rate: Rate,
    packets: Arc<SharedRate>,
}

/// What to do with a peer that knocks.
#[derive(Debug)]
pub enum Verdict {
    /// Let it in; the place is held until this is dropped.
    Accept(Place),
    /// Ask it to show that its address is its own.
    Retry,
    /// Send it away.
    Refuse,
}

/// The door of one port.
#[derive(Debug)]
struct Door {
    limits: PortLimits,
    rate: Rate,
    packets: Arc<Speed>,
    networks: HashMap<Network, Guest>,
}

/// A place at a port, for a handshake and the connection that it becomes.
#[derive(Debug)]
pub struct Place {
    doorman: Doorman,
    network: Network,
    packets: Arc<SharedRate>,
}

impl Place {
    /// The rate at which the clients of this network may send packets, all together.
    pub(crate) fn packets(&self) -> Arc<SharedRate> {
        Arc::clone(&self.packets)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.doorman.with(|door| {
            if let Some(guest) = door.networks.get_mut(&self.network) {
                guest.open = guest.open.saturating_sub(1);
            }
        });
    }
}

/// Judges who may have a handshake. A clone judges for the same port. Asked once for each connection, never for a packet.
#[derive(Clone, Debug)]
pub struct Doorman(Arc<Mutex<Door>>);

impl Doorman {
    /// For a port with nobody in.
    #[must_use]
    pub fn new(limits: PortLimits) -> Self {
        let rate = Rate::new(limits.handshakes, limits.handshakes);
        let packets = Arc::new(Speed::new(limits.packets_per_network, limits.packets_per_network));
        Self(Arc::new(Mutex::new(Door { limits, rate, packets, networks: HashMap::new() })))
    }

    /// Takes other limits over, at once. Connections that stand beyond them stay; whether documents are mirrored can't
    /// change.
    pub fn set_limits(&self, now: Mono, limits: PortLimits) {
        self.with(|door| {
            door.limits = PortLimits { mirror: door.limits.mirror, ..limits };
            door.rate.retune(now, limits.handshakes, limits.handshakes);
            door.packets.set(limits.packets_per_network, limits.packets_per_network);
            for guest in door.networks.values_mut() {
                guest.rate.retune(now, limits.handshakes_per_network, limits.handshakes_per_network);
            }
        });
    }

    /// Judges a first datagram from an address that is `validated` or not, while so many `connections` stand and so
    /// many handshakes are `under_way`.
    #[must_use]
    pub fn judge(&self, now: Mono, addr: IpAddr, validated: bool, connections: usize, under_way: usize) -> Verdict {
        let network = Network::of(addr);
        let answer = self.with(|door| door.judge(now, network, validated, connections, under_way));
        match answer {
            Answer::Accept(packets) => Verdict::Accept(Place { doorman: self.clone(), network, packets }),
            Answer::Retry => Verdict::Retry,
            Answer::Refuse => Verdict::Refuse,
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Door) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    fn networks(&self) -> usize {
        self.with(|door| door.networks.len())
    }
}

enum Answer {
    Accept(Arc<SharedRate>),
    Retry,
    Refuse,
}

impl Door {
    fn judge(&mut self, now: Mono, network: Network, validated: bool, connections: usize, under_way: usize) -> Answer {
        let limits = self.limits;
        if under_way >= HANDSHAKES_AT_ONCE || connections >= limits.connections {
            return Answer::Refuse;
        }
        if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(&network) {
            self.networks.retain(|_, guest| guest.open > 0);
        }
        // Half for those who have not shown their address, all for those who have.
        let share = |limit: usize| if validated { limit } else { limit / 2 };
        let no = if validated { Answer::Refuse } else { Answer::Retry };
        let open = self.networks.get(&network).map_or(0, |guest| guest.open);
        if open >= share(limits.connections_per_network).max(1) || under_way >= share(HANDSHAKES_AT_ONCE) {
            // A network that is full for everyone isn't asked to come back.
            return if open >= limits.connections_per_network { Answer::Refuse } else { no };
        }
        let fresh = Rate::new(limits.handshakes_per_network, limits.handshakes_per_network);
        let mut rate = self.networks.get(&network).map_or(fresh, |guest| guest.rate);
        let take = |rate: &mut Rate| if validated { rate.take(now) } else { rate.take_half(now) };
        if !take(&mut rate) || !take(&mut self.rate) {
            return no;
        }
        let packets = &self.packets;
        let guest = self.networks.entry(network).or_insert_with(|| {
            let packets = SharedRate::at(Arc::clone(packets));
            Guest { open: 0, rate, packets: Arc::new(packets) }
        });
        guest.rate = rate;
        guest.open += 1;
        Answer::Accept(Arc::clone(&guest.packets))
    }
}

#[cfg(test)]
mod tests;
