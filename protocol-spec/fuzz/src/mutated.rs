//! Honest packets that somebody on their way has changed. The input is read as instructions for the changes.

use core::time::Duration;
use std::sync::OnceLock;

use posta_protocol::codec::Reader;
use posta_protocol::error::Refused;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::InboxId;
use posta_protocol::onion::build::{Hop, Last, packet as make_packet};
use posta_protocol::onion::{KeyRing, Next, Peeled, peel};
use posta_protocol::packet::Packet;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::onion::{EPOCH, block, geometry, public_key, relay, secret_key};
use super::{bounded, same};

/// A packet in front of one hop.
struct Stop {
    before: Vec<u8>,
    peeled: Peeled,
    after: Vec<u8>,
}

/// The kinds of packets that travel, and what each becomes on its way.
struct World {
    geometry: Geometry,
    rings: Vec<KeyRing>,
    /// By kind, then by hop.
    ways: Vec<Vec<Stop>>,
}

impl World {
    fn new(geometry: Geometry) -> Self {
        let relays = 1..=geometry.hops() as u8;
        let keys: Vec<_> = relays.clone().map(|n| (relay(n), public_key(n))).collect();
        let rings: Vec<_> = relays.map(|n| KeyRing::new(relay(n), geometry, vec![(EPOCH, secret_key(n))])).collect();
        let delay = Duration::from_micros(5);
        let path: Vec<_> = keys.iter().map(|(relay, key)| Hop { relay: *relay, key, delay }).collect();
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        let mut made = [Last::Queue, Last::Drop, Last::Queue]
            .map(|last| make_packet(geometry, EPOCH, &path, last, b"x", rng).expect("the path fits"))
            .to_vec();
        made.push(block(geometry).0.reply(geometry, b"y").expect("the content fits").1);
        let way = |packet| travel(&rings, packet);
        let ways = made.into_iter().map(way).collect();
        Self { geometry, rings, ways }
    }
}

fn travel(rings: &[KeyRing], mut packet: Packet) -> Vec<Stop> {
    let stop = |ring| {
        let before = packet.as_bytes().to_vec();
        let peeled = peel(ring, &mut packet, |_, _| true).expect("an honest packet");
        Stop { before, peeled, after: packet.as_bytes().to_vec() }
    };
    rings.iter().map(stop).collect()
}

/// Changes `bytes` as `input` says; `other` is where parts are taken from. Each instruction is a code and its operands.
pub(crate) fn apply(input: &[u8], bytes: &mut Vec<u8>, other: &[u8]) {
    let mut r = Reader::new(input);
    while let Some(()) = change(&mut r, bytes, other) {}
}

fn change(r: &mut Reader<'_>, bytes: &mut Vec<u8>, other: &[u8]) -> Option<()> {
    const LONGEST: usize = 64 * 1024;
    let (code, at) = (r.u8("code").ok()?, usize::from(r.u16("position").ok()?));
    let at = at.checked_rem(bytes.len()).unwrap_or(0);
    match code % 6 {
        0 => {
            let mask = r.u8("mask").ok()?;
            bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= mask);
        }
        1 => {
            let n = usize::from(r.u8("length").ok()?).min(r.left());
            let new = r.take(n, "bytes").ok()?;
            bytes.iter_mut().skip(at).zip(new).for_each(|(to, from)| *to = *from);
        }
        2 => bytes.truncate(at),
        3 => {
            let (n, fill) = (usize::from(r.u8("length").ok()?), r.u8("fill").ok()?);
            if bytes.len() + n <= LONGEST {
                bytes.splice(at..at, core::iter::repeat_n(fill, n));
            }
        }
        4 => {
            let n = usize::from(r.u16("length").ok()?);
            bytes.iter_mut().zip(other).skip(at).take(n).for_each(|(to, from)| *to = *from);
        }
        _ => {
            let n = usize::from(r.u8("length").ok()?).min(bytes.len() - at);
            bytes.drain(at..at + n);
        }
    }
    Some(())
}

/// The first three bytes choose geometry, kind and hop; the rest are changes.
pub(crate) fn packet(input: &[u8]) {
    static WORLDS: OnceLock<[World; 3]> = OnceLock::new();
    let worlds = WORLDS.get_or_init(|| [geometry(1, 1), geometry(3, 256), Geometry::DEFAULT].map(World::new));
    let mut r = Reader::new(input);
    let (Ok(which), Ok(kind), Ok(at)) = (r.u8("geometry"), r.u8("kind"), r.u8("hop")) else { return };
    let world = &worlds[usize::from(which) % worlds.len()];
    let kind = usize::from(kind) % world.ways.len();
    let at = usize::from(at) % world.rings.len();
    let way = &world.ways[kind];
    let other = &world.ways[(kind + 1) % world.ways.len()][at];
    let stop = &way[at];

    let mut bytes = stop.before.clone();
    apply(r.remainder(), &mut bytes, &other.before);
    let header = world.geometry.header_len();
    if bytes.get(..header) == other.before.get(..header) {
        return; // another packet's whole header: authentic, and another story
    }
    let mut packet = Packet::from_bytes(bytes.clone().into());
    let mut asked = 0;
    let result = bounded(bytes.len(), || {
        peel(&world.rings[at], &mut packet, |_, _| {
            asked += 1;
            true
        })
    });
    if bytes == stop.before {
        assert_eq!((result, asked), (Ok(stop.peeled), 1), "an unchanged packet");
        return same(&stop.after, packet.as_bytes(), "an unchanged packet, peeled");
    }
    if bytes.len() != stop.before.len() || bytes.get(..header) != stop.before.get(..header) {
        assert_eq!((result, asked), (Err(Refused), 0), "a changed header or length");
        return same(&bytes, packet.as_bytes(), "a refused packet");
    }
    // A changed payload can't be seen before the end, where nothing must be left of it.
    assert_eq!(asked, 1);
    assert_eq!(packet.as_bytes().len(), world.geometry.packet_len());
    assert_eq!(result, if stop.peeled.next == Next::Queue { Err(Refused) } else { Ok(stop.peeled) });
    if let Next::Forward { .. } = stop.peeled.next {
        same(&stop.after[..header], &packet.as_bytes()[..header], "the header of a packet whose payload was changed");
        for (ring, stop) in world.rings.iter().zip(way).skip(at + 1) {
            let result = peel(ring, &mut packet, |_, _| true);
            assert_eq!(result, if stop.peeled.next == Next::Queue { Err(Refused) } else { Ok(stop.peeled) });
        }
    }
    if let Some(Next::Inbox { inbox: InboxId(_), .. }) = way.last().map(|stop| stop.peeled.next) {
        let payload = packet.as_bytes()[header..].into();
        assert_eq!(block(world.geometry).1.open(payload), Err(Refused), "a reply whose payload was changed");
    }
}

pub(crate) fn packet_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (which, payload_at) in [(0, 1201u16), (1, 3700), (2, 5000)] {
        for kind in 0..4 {
            for (code, operands) in
                [(0, &[1][..]), (1, &[4, 1, 2, 3, 4]), (2, &[]), (3, &[9, 9]), (4, &[200, 0]), (5, &[3])]
            {
                for at in [1000, payload_at] {
                    let [low, high] = u16::to_le_bytes(at);
                    seeds.push([&[which, kind, kind, code, low, high], operands].concat());
                }
            }
        }
    }
    seeds
}
