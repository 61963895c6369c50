//! A consensus for people and scripts.

use std::fmt::Write;

use posta_link::fetch::to_hex;
use posta_protocol::document::{Class, Consensus, Deal, Origin, Position, RelayEntry, Reliability, Speed};
use posta_protocol::ids::KeyEpoch;
use posta_protocol::now::Wall;
use serde::Serialize;

use crate::randomness::problems;

/// A consensus as JSON shows it: a view, never signed.
#[derive(Debug, Serialize)]
pub struct View {
    epoch: u64,
    hash: String,
    previous: String,
    valid_after_ms: u64,
    fresh_until_ms: u64,
    valid_until_ms: u64,
    signatures: usize,
    hops: usize,
    payload_bytes: usize,
    params: Vec<(u16, u64)>,
    key_epochs: Vec<u64>,
    deals: Vec<DealView>,
    left_out: Vec<String>,
    relays: Vec<RelayView>,
}

#[derive(Debug, Serialize)]
struct DealView {
    key_epoch: u64,
    random: String,
    origin: &'static str,
    listed_before_ms: u64,
    layers: bool,
}

#[derive(Debug, Serialize)]
struct RelayView {
    id: String,
    link_key: String,
    link_addresses: Vec<String>,
    client_addresses: Vec<String>,
    operator: String,
    family: Option<String>,
    capacity: u32,
    protocols: [u16; 2],
    reliability: &'static str,
    speed: &'static str,
    listed_since_ms: u64,
    positions: Vec<Option<&'static str>>,
}

const fn name(position: Position) -> &'static str {
    match position {
        Position::Edge => "edge",
        Position::Mix1 => "mix1",
        Position::Mix2 => "mix2",
    }
}

/// What a class says of loss, in a word.
#[must_use]
pub const fn reliability(class: Class) -> &'static str {
    match class.reliability {
        Reliability::Flagged => "flagged",
        Reliability::Unmeasured => "unmeasured",
        Reliability::Fair => "fair",
        Reliability::Good => "good",
    }
}

/// What a class says of speed, in a word.
#[must_use]
pub const fn speed(class: Class) -> &'static str {
    match class.speed {
        Speed::Slow => "slow",
        Speed::Unmeasured => "unmeasured",
        Speed::Usual => "usual",
    }
}

/// The key epoch that a consensus is looked at for: the present one, or if it is for later, its first.
#[must_use]
pub fn key_epoch(consensus: &Consensus, now: Wall) -> KeyEpoch {
    consensus.key_epoch_at(now.max(consensus.valid_after()))
}

const fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Reveals => "reveals",
        Origin::FirstVotes => "first votes",
        Origin::Before => "the value before",
    }
}

impl View {
    /// The view of a consensus.
    #[must_use]
    pub fn new(consensus: &Consensus) -> Self {
        let relay = |r: &RelayEntry| RelayView {
            id: to_hex(&r.id.0),
            link_key: to_hex(&r.link_key.0),
            link_addresses: r.link_addresses.iter().map(ToString::to_string).collect(),
            client_addresses: r.client_addresses.iter().map(ToString::to_string).collect(),
            operator: to_hex(&r.operator.0),
            family: r.family.map(|f| to_hex(&f)),
            capacity: r.capacity,
            protocols: [r.protocols.oldest, r.protocols.newest],
            reliability: reliability(r.class),
            speed: speed(r.class),
            listed_since_ms: r.listed_since.0,
            positions: r.layers.iter().map(|layer| layer.map(name)).collect(),
        };
        let deal = |d: &Deal| DealView {
            key_epoch: d.key_epoch.0,
            random: to_hex(&d.random),
            origin: origin(d.origin),
            listed_before_ms: d.listed_before.0,
            layers: d.cut.is_some(),
        };
        Self {
            epoch: consensus.epoch().0,
            hash: to_hex(&consensus.hash().0),
            previous: to_hex(&consensus.body().previous.0),
            valid_after_ms: consensus.valid_after().0,
            fresh_until_ms: consensus.fresh_until().0,
            valid_until_ms: consensus.valid_until().0,
            signatures: consensus.signed_header().signatures.len(),
            hops: consensus.geometry().hops(),
            payload_bytes: consensus.geometry().content_len(),
            params: consensus.params().iter().collect(),
            key_epochs: consensus.key_epochs().iter().map(|k| k.epoch.0).collect(),
            deals: consensus.body().shared_random.deals.iter().map(deal).collect(),
            left_out: consensus.body().shared_random.left_out.iter().map(|id| to_hex(&id.0)).collect(),
            relays: consensus.relays().iter().map(relay).collect(),
        }
    }
}

/// A consensus as a table.
#[must_use]
pub fn table(consensus: &Consensus, now: Wall) -> String {
    let current = key_epoch(consensus, now);
    let seconds = |until: Wall| until.since(now).as_secs();
    let mut out = String::new();
    // Writing to a string doesn't fail.
    let _ = writeln!(
        out,
        "epoch {}   hash {}   {} signatures\nfresh for {} s, valid for {} s   key epoch {} of {:?}\n",
        consensus.epoch().0,
        consensus.hash().0.iter().take(8).map(|b| format!("{b:02x}")).collect::<String>(),
        consensus.signed_header().signatures.len(),
        seconds(consensus.fresh_until()),
        seconds(consensus.valid_until()),
        current.0,
        consensus.key_epochs().iter().map(|k| k.epoch.0).collect::<Vec<_>>(),
    );
    let _ = writeln!(
        out,
        "{:10}{:7}{:7}{:10}{:12}{:12}{:24}client address",
        "relay", "now", "next", "packets/s", "loss", "speed", "link address"
    );
    for relay in consensus.relays() {
        let at = |epoch: KeyEpoch| consensus.position(&relay.id, epoch).map_or("-", name);
        let first = |list: &[std::net::SocketAddr]| list.first().map_or_else(|| "-".to_owned(), ToString::to_string);
        let _ = writeln!(
            out,
            "{:10}{:7}{:7}{:<10}{:12}{:12}{:24}{}",
            relay.id.short(),
            at(current),
            at(current.next()),
            relay.capacity,
            reliability(relay.class),
            speed(relay.class),
            first(&relay.link_addresses),
            first(&relay.client_addresses),
        );
    }
    let count = |position| consensus.relays_at(current, position).count();
    let _ = writeln!(
        out,
        "\n{} relays: {} edges, {} in mix 1, {} in mix 2",
        consensus.relays().len(),
        count(Position::Edge),
        count(Position::Mix1),
        count(Position::Mix2)
    );
    for deal in &consensus.body().shared_random.deals {
        let _ = writeln!(out, "layers of key epoch {}: dealt by {}", deal.key_epoch.0, origin(deal.origin));
    }
    for problem in problems(consensus.body()) {
        let _ = writeln!(out, "{problem}");
    }
    out
}
