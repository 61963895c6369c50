//! A model of the packets' cryptography: who opens what, once, and what a change destroys, without the arithmetic.
//!
//! ```text
//! 0        2            4       5    13
//! | cursor | content at | whole | id | relay, key epoch, command of each hop | content |
//! ```
//! A packet in memory is as long as what it carries; on a simulated line it counts with the geometry's length. Only the
//! relay that a layer is for opens it, with a key of that key epoch, and the replay filter sees each layer once. A packet
//! that was tampered with is refused by the queue service or by the reader of the answer, and by nobody before.

use posta_node::relay::replay::{ReplayShard, Route, Verdict};
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::error::{Malformed, Misuse, Refused};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId, SurbId};
use posta_protocol::onion::build::{Hop, Last};
use posta_protocol::onion::reply::{ReplyBlock, ReplyKeys};
use posta_protocol::onion::sealing::Sealing;
use posta_protocol::onion::{Next, Peeled, ReplayTag};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand_core::CryptoRng;

const WHOLE_AT: usize = 4;
const HEAD_LEN: usize = 13;
/// First hop, key epoch and end key in front of a reply block's header.
const BLOCK_HEAD_LEN: usize = RelayId::LEN + 8 + 32;
const FORWARD: u8 = 0;
const QUEUE: u8 = 1;
const INBOX: u8 = 2;
const DROP: u8 = 3;

/// The model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Model;

fn route(
    geometry: Geometry,
    epoch: KeyEpoch,
    path: &[Hop<'_>],
    last: Last,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>, Misuse> {
    if path.is_empty() || path.len() > geometry.hops() {
        return Err(Misuse::PathLength { got: path.len(), max: geometry.hops() });
    }
    let mut w = Writer::with_capacity(512);
    w.u16(HEAD_LEN as u16);
    w.u16(0);
    w.u8(1);
    w.u64(rng.next_u64());
    for (i, hop) in path.iter().enumerate() {
        hop.relay.write(&mut w);
        w.u64(epoch.0);
        match (path.get(i + 1), last) {
            (Some(next), _) => {
                w.u8(FORWARD);
                next.relay.write(&mut w);
                w.u32(u32::try_from(hop.delay.as_micros()).unwrap_or(u32::MAX));
            }
            (None, Last::Queue) => w.u8(QUEUE),
            (None, Last::Inbox(inbox, surb)) => {
                w.u8(INBOX);
                inbox.write(&mut w);
                surb.write(&mut w);
            }
            (None, Last::Drop) => w.u8(DROP),
        }
    }
    let mut bytes = w.finish();
    let content_at = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    for (to, from) in bytes.iter_mut().skip(2).zip(content_at.to_le_bytes()) {
        *to = from;
    }
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let two = bytes.get(at..at + 2)?.first_chunk::<2>()?;
    Some(usize::from(u16::from_le_bytes(*two)))
}

fn content(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(number(bytes, 2)?..)
}

fn next(r: &mut Reader<'_>) -> Result<Next, Malformed> {
    Ok(match r.u8("hop")? {
        FORWARD => {
            let to = RelayId::read(r)?;
            Next::Forward { to, delay: std::time::Duration::from_micros(r.u32("delay")?.into()) }
        }
        QUEUE => Next::Queue,
        INBOX => Next::Inbox { inbox: InboxId::read(r)?, surb: SurbId::read(r)? },
        _ => Next::Drop,
    })
}

/// Changes a bit of the payload, as an adversary does who wants to know the packet again.
pub fn garble(packet: &mut Packet) {
    let bytes = packet.as_bytes_mut();
    if let Some(whole) = bytes.get_mut(WHOLE_AT) {
        *whole = 0;
    }
}

/// Takes one layer off, once: what a worker's peeler does.
///
/// # Errors
/// [`Refused`]: another relay's layer, another key epoch's, a replay, or a garbled payload at the queue service.
pub fn peel(me: &RelayId, epochs: &[KeyEpoch], seen: &mut ReplayShard, packet: &mut Packet) -> Result<Peeled, Refused> {
    let bytes = packet.as_bytes_mut();
    let at = number(bytes, 0).ok_or(Refused)?;
    let rest = bytes.get(at..).ok_or(Refused)?;
    let mut r = Reader::new(rest);
    let relay = RelayId::read(&mut r).map_err(|_| Refused)?;
    let key_epoch = KeyEpoch(r.u64("key epoch").map_err(|_| Refused)?);
    if relay != *me || !epochs.contains(&key_epoch) {
        return Err(Refused);
    }
    let mut tag = [0; 16];
    for (to, from) in tag.iter_mut().zip(bytes.iter().skip(5).take(8).chain(bytes.iter().take(2))) {
        *to = *from;
    }
    if !matches!(seen.check(key_epoch, &ReplayTag(tag), Route(0)), Verdict::New(_)) {
        return Err(Refused);
    }
    let next = next(&mut r).map_err(|_| Refused)?;
    if next == Next::Queue && bytes.get(WHOLE_AT) != Some(&1) {
        return Err(Refused);
    }
    let end = u16::try_from(at + rest_len(&next)).unwrap_or(u16::MAX);
    for (to, from) in bytes.iter_mut().zip(end.to_le_bytes()) {
        *to = from;
    }
    Ok(Peeled { key_epoch, next })
}

const fn rest_len(next: &Next) -> usize {
    RelayId::LEN
        + 8
        + 1
        + match next {
            Next::Forward { .. } => RelayId::LEN + 4,
            Next::Inbox { .. } => InboxId::LEN + SurbId::LEN,
            Next::Queue | Next::Drop => 0,
        }
}

impl Sealing for Model {
    fn packet(
        &self,
        geometry: Geometry,
        epoch: KeyEpoch,
        path: &[Hop<'_>],
        last: Last,
        content: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Packet, Misuse> {
        if content.len() > geometry.content_len() {
            return Err(Misuse::TooLong { what: "the content", got: content.len(), max: geometry.content_len() });
        }
        let mut bytes = route(geometry, epoch, path, last, rng)?;
        bytes.extend_from_slice(content);
        Ok(Packet::from_bytes(bytes.into_boxed_slice()))
    }

    fn reply_block(
        &self,
        geometry: Geometry,
        epoch: KeyEpoch,
        path: &[Hop<'_>],
        inbox: InboxId,
        rng: &mut dyn CryptoRng,
    ) -> Result<(ReplyBlock, ReplyKeys), Misuse> {
        let mut surb = SurbId([0; SurbId::LEN]);
        rng.fill_bytes(&mut surb.0);
        let first = path.first().ok_or_else(|| Misuse::PathLength { got: 0, max: geometry.hops() })?.relay;
        let route = route(geometry, epoch, path, Last::Inbox(inbox, surb), rng)?;
        let mut w = Writer::with_capacity(BLOCK_HEAD_LEN + geometry.header_len());
        first.write(&mut w);
        w.u64(epoch.0);
        w.bytes(&[0; 32]);
        w.bytes(&route);
        let mut bytes = w.finish();
        bytes.resize(ReplyBlock::encoded_len(geometry), 0);
        let block = ReplyBlock::read(&mut Reader::new(&bytes), geometry).map_err(|_| Misuse::Key("reply block"))?;
        Ok((block, ReplyKeys::new(surb, epoch, Secret::new([0; 32]), Vec::new())))
    }

    fn reply(&self, block: ReplyBlock, geometry: Geometry, content: &[u8]) -> Result<(RelayId, Packet), Misuse> {
        let first = block.first;
        let mut w = Writer::with_capacity(ReplyBlock::encoded_len(geometry));
        block.write(&mut w);
        let bytes = w.finish();
        let header = bytes.get(BLOCK_HEAD_LEN..).unwrap_or_default();
        let route = number(header, 2).and_then(|end| header.get(..end)).ok_or(Misuse::Key("reply block"))?;
        Ok((first, Packet::from_bytes([route, content].concat().into_boxed_slice())))
    }

    fn command<'p>(&self, _: Geometry, packet: &'p Packet) -> &'p [u8] {
        content(packet.as_bytes()).unwrap_or_default()
    }

    fn surb(&self, _: Geometry, delivery: &Packet) -> Option<SurbId> {
        let bytes = delivery.as_bytes();
        let end = number(bytes, 2)?;
        bytes.get(end.checked_sub(SurbId::LEN)?..end)?.first_chunk().copied().map(SurbId)
    }

    fn answer(&self, keys: ReplyKeys, geometry: Geometry, packet: Packet) -> Result<Vec<u8>, Refused> {
        let whole = packet.as_bytes().get(WHOLE_AT) == Some(&1);
        if !whole || self.surb(geometry, &packet) != Some(keys.surb) {
            return Err(Refused);
        }
        content(packet.as_bytes()).map(<[u8]>::to_vec).ok_or(Refused)
    }
}
