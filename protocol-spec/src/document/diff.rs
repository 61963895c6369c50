//! How a consensus differs from an older one: what a client that holds the older one fetches instead of the whole.
//!
//! ```text
//! diff    = version u16 ‖ base hash ‖ hash ‖ length u32 ‖ deflate of the content, rest
//! content = head ‖ gone ‖ changed ‖ new ‖ places ‖ extensions ‖ signatures
//! ```
//! A difference is not signed and needs not be believed: what it makes of the older consensus has the hash that it names, or
//! is refused, and is then verified like a consensus that came whole. A content has one encoding; its compression hasn't.

mod mix_keys;
mod pack;

use core::cmp::Ordering;
use core::iter::Peekable;
use core::slice::Iter;

use super::address;
use super::consensus::{read_family, write_family};
use super::header::{read_signatures, write_signatures};
use super::{
    Class, Consensus, ConsensusBody, ConsensusSignature, Extensions, Position, Protocols, RelayEntry, Roles,
    UnverifiedConsensus,
};
use crate::codec::{Reader, Writer};
use crate::crypto::context::CONSENSUS;
use crate::crypto::hash;
use crate::error::{Malformed, Untrusted};
use crate::ids::{Hash, KeyEpoch, LinkPublicKey, OperatorId};
use crate::now::Wall;
use crate::params::{MAX_CONSENSUS_DIFF_LEN, MAX_CONSENSUS_LEN, MAX_RELAYS, PROTOCOL_VERSION};
use crate::registry::{diff_place, relay_field as field};

pub use mix_keys::MixKeysDiff;

const WHAT: &str = "difference of consensuses";

/// How one consensus differs from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusDiff {
    base: Hash,
    hash: Hash,
    content: Vec<u8>,
}

impl ConsensusDiff {
    /// How `new` differs from `base`, whatever their epochs.
    #[must_use]
    pub fn between(base: &Consensus, new: &Consensus) -> Self {
        let content = content(base.body(), new.body(), new.signatures());
        Self { base: base.hash(), hash: new.hash(), content }
    }

    /// A difference with this content, named by what it makes of `base`: for whoever has the content from elsewhere.
    ///
    /// # Errors
    /// [`Untrusted`] if it makes nothing of it.
    pub fn from_content(base: &Consensus, content: &[u8]) -> Result<Self, Untrusted> {
        let (body, _) = rebuild(base.body(), content)?;
        Ok(Self { base: base.hash(), hash: hash(CONSENSUS, &body.encode()), content: content.to_vec() })
    }

    /// The hash of the consensus that it starts from.
    #[must_use]
    pub const fn base(&self) -> Hash {
        self.base
    }

    /// The hash of the consensus that it leads to.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// What it says, not compressed.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// The bytes that travel. Longer than [`MAX_CONSENSUS_DIFF_LEN`] is of no use: nobody reads it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let packed = pack::deflate(&self.content);
        let mut w = Writer::with_capacity(2 + 2 * Hash::LEN + 4 + packed.len());
        w.u16(PROTOCOL_VERSION);
        self.base.write(&mut w);
        self.hash.write(&mut w);
        w.count(self.content.len());
        w.bytes(&packed);
        w.finish()
    }

    /// Parses a difference and unpacks its content: at most as long as the longest consensus, and as its own length allows,
    /// which is checked before room is made for it.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], [`Untrusted::Version`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Untrusted> {
        if bytes.len() > MAX_CONSENSUS_DIFF_LEN {
            return Err(Malformed::TooLong(WHAT).into());
        }
        let mut r = Reader::new(bytes);
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let (base, hash) = (Hash::read(&mut r)?, Hash::read(&mut r)?);
        let length = r.count(MAX_CONSENSUS_LEN, WHAT)?;
        let content = pack::inflate(r.remainder(), length, WHAT)?;
        Ok(Self { base, hash, content })
    }

    /// What it makes of `base`: byte for byte the consensus that it was made for, yet to be verified.
    ///
    /// # Errors
    /// [`Untrusted::Hash`] if `base` is another consensus than it starts from, or what comes of it another than it names;
    /// [`Untrusted::Malformed`] or [`Untrusted::Version`] if nothing comes of it.
    pub fn apply(&self, base: &Consensus) -> Result<UnverifiedConsensus, Untrusted> {
        if base.hash() != self.base {
            return Err(Untrusted::Hash("the base of a difference"));
        }
        let (body, signatures) = rebuild(base.body(), &self.content)?;
        let encoded = body.encode();
        if hash(CONSENSUS, &encoded) != self.hash {
            return Err(Untrusted::Hash("what a difference leads to"));
        }
        UnverifiedConsensus::decode(&Consensus::assemble(&encoded, &signatures))
    }
}

fn content(base: &ConsensusBody, new: &ConsensusBody, signatures: &[ConsensusSignature]) -> Vec<u8> {
    let mut w = Writer::with_capacity(4096 + 4 * new.relays.len());
    new.write_head(&mut w);
    let gone: Vec<usize> =
        base.relays.iter().enumerate().filter(|(_, r)| new.relay(&r.id).is_none()).map(|(i, _)| i).collect();
    w.count(gone.len());
    gone.into_iter().for_each(|i| write_index(i, &mut w));
    let stayed = base.relays.iter().enumerate().filter_map(|(i, old)| Some((i, old, new.relay(&old.id)?)));
    let changed: Vec<_> = stayed.filter(|(_, old, relay)| changes(old, relay) != 0).collect();
    w.count(changed.len());
    for (i, old, relay) in changed {
        write_index(i, &mut w);
        write_changes(changes(old, relay), relay, &mut w);
    }
    let come: Vec<_> = new.relays.iter().filter(|r| base.relay(&r.id).is_none()).collect();
    w.count(come.len());
    come.into_iter().for_each(|relay| relay.write_placeless(&mut w));
    for (column, part) in new.key_epochs.iter().enumerate() {
        for relay in &new.relays {
            let place = relay.layers.get(column).copied().flatten();
            if place_in(base, base.relay(&relay.id), part.epoch) == Some(place) {
                w.u8(diff_place::SAME);
            } else {
                Position::write(place, &mut w);
            }
        }
    }
    new.extensions.write(&mut w);
    write_signatures(signatures, &mut w);
    w.finish()
}

fn rebuild(base: &ConsensusBody, content: &[u8]) -> Result<(ConsensusBody, Vec<ConsensusSignature>), Untrusted> {
    let mut r = Reader::new(content);
    let mut body = ConsensusBody::read_head(&mut r)?;
    let mut last = None;
    let gone = (0..r.count(base.relays.len(), WHAT)?)
        .map(|_| read_index(&mut r, base.relays.len(), &mut last))
        .collect::<Result<Vec<_>, _>>()?;
    let mut last = None;
    let changed = (0..r.count(base.relays.len(), WHAT)?)
        .map(|_| {
            let index = read_index(&mut r, base.relays.len(), &mut last)?;
            let old = base.relays.get(index).ok_or(Malformed::Value(WHAT))?;
            Ok((index, read_changes(old, &mut r)?))
        })
        .collect::<Result<Vec<_>, Malformed>>()?;
    let n = r.count(MAX_RELAYS, WHAT)?;
    // As in a consensus: an entry takes more than 64 bytes.
    let mut come: Vec<RelayEntry> = Vec::with_capacity(n.min(r.left() / 64));
    for _ in 0..n {
        let relay = RelayEntry::read_placeless(&mut r)?;
        if come.last().is_some_and(|last| last.id >= relay.id) || base.relay(&relay.id).is_some() {
            return Err(Malformed::Value(WHAT).into());
        }
        come.push(relay);
    }
    body.relays = merge(base, &gone, changed, come)?;
    let columns: Vec<KeyEpoch> = body.key_epochs.iter().map(|part| part.epoch).collect();
    for epoch in columns {
        let mut old = base.relays.iter().peekable();
        for relay in &mut body.relays {
            let before = place_in(base, find(&mut old, relay), epoch);
            relay.layers.push(read_place(&mut r, before)?);
        }
    }
    body.extensions = Extensions::read(&mut r)?;
    let signatures = read_signatures(&mut r)?;
    r.finish(WHAT)?;
    Ok((body, signatures))
}

/// The relays that stay, changed or not, and those that come, in their order and without places.
fn merge(
    base: &ConsensusBody,
    gone: &[usize],
    changed: Vec<(usize, RelayEntry)>,
    come: Vec<RelayEntry>,
) -> Result<Vec<RelayEntry>, Malformed> {
    let total = (base.relays.len() + come.len()).saturating_sub(gone.len());
    if total > MAX_RELAYS {
        return Err(Malformed::TooLong(WHAT));
    }
    let mut relays = Vec::with_capacity(total);
    let (mut gone, mut changed) = (gone.iter().peekable(), changed.into_iter().peekable());
    let mut come = come.into_iter().peekable();
    for (i, old) in base.relays.iter().enumerate() {
        while let Some(relay) = come.next_if(|relay| relay.id < old.id) {
            relays.push(relay);
        }
        let leaves = gone.next_if(|n| **n == i).is_some();
        match changed.next_if(|(n, _)| *n == i) {
            Some(_) if leaves => return Err(Malformed::Value(WHAT)),
            Some((_, relay)) => relays.push(relay),
            None if leaves => {}
            None => relays.push(RelayEntry { layers: Vec::new(), ..old.clone() }),
        }
    }
    relays.extend(come);
    Ok(relays)
}

/// A relay in an older list that is gone through in the same order.
fn find<'a>(list: &mut Peekable<Iter<'a, RelayEntry>>, relay: &RelayEntry) -> Option<&'a RelayEntry> {
    loop {
        match list.peek()?.id.cmp(&relay.id) {
            Ordering::Less => drop(list.next()),
            Ordering::Equal => return list.next(),
            Ordering::Greater => return None,
        }
    }
}

/// A relay's place in a key epoch; `None` if the consensus has no such relay or says nothing of that key epoch.
fn place_in(body: &ConsensusBody, relay: Option<&RelayEntry>, epoch: KeyEpoch) -> Option<Option<Position>> {
    let column = body.key_epochs.iter().position(|part| part.epoch == epoch)?;
    relay?.layers.get(column).copied()
}

fn read_place(r: &mut Reader<'_>, before: Option<Option<Position>>) -> Result<Option<Position>, Malformed> {
    let same = r.clone().u8(WHAT)? == diff_place::SAME;
    if same {
        r.u8(WHAT)?;
        return before.ok_or(Malformed::Value(WHAT));
    }
    let place = Position::read(r)?;
    if before == Some(place) { Err(Malformed::Value(WHAT)) } else { Ok(place) }
}

fn write_index(index: usize, w: &mut Writer) {
    // No list is longer than MAX_RELAYS.
    w.u16(u16::try_from(index).unwrap_or(u16::MAX));
}

/// A place in a list of `len`, behind the last one that was read.
fn read_index(r: &mut Reader<'_>, len: usize, last: &mut Option<usize>) -> Result<usize, Malformed> {
    let index = usize::from(r.u16(WHAT)?);
    if index >= len || last.replace(index).is_some_and(|last| last >= index) {
        return Err(Malformed::Value(WHAT));
    }
    Ok(index)
}

/// The bits of the fields that differ, places apart.
fn changes(old: &RelayEntry, new: &RelayEntry) -> u16 {
    let bit = |differs: bool, bit: u16| if differs { bit } else { 0 };
    bit(old.link_key != new.link_key, field::LINK_KEY)
        | bit(old.link_addresses != new.link_addresses, field::LINK_ADDRESSES)
        | bit(old.client_addresses != new.client_addresses, field::CLIENT_ADDRESSES)
        | bit(old.roles != new.roles, field::ROLES)
        | bit(old.family != new.family, field::FAMILY)
        | bit(old.operator != new.operator, field::OPERATOR)
        | bit(old.capacity != new.capacity, field::CAPACITY)
        | bit(old.listed_since != new.listed_since, field::LISTED_SINCE)
        | bit(old.protocols != new.protocols, field::PROTOCOLS)
        | bit(old.class != new.class, field::CLASS)
}

fn write_changes(fields: u16, relay: &RelayEntry, w: &mut Writer) {
    let has = |bit| fields & bit != 0;
    w.u16(fields);
    if has(field::LINK_KEY) {
        relay.link_key.write(w);
    }
    if has(field::LINK_ADDRESSES) {
        address::write(&relay.link_addresses, w);
    }
    if has(field::CLIENT_ADDRESSES) {
        address::write(&relay.client_addresses, w);
    }
    if has(field::ROLES) {
        relay.roles.write(w);
    }
    if has(field::FAMILY) {
        write_family(relay.family.as_ref(), w);
    }
    if has(field::OPERATOR) {
        relay.operator.write(w);
    }
    if has(field::CAPACITY) {
        w.u32(relay.capacity);
    }
    if has(field::LISTED_SINCE) {
        w.u64(relay.listed_since.0);
    }
    if has(field::PROTOCOLS) {
        relay.protocols.write(w);
    }
    if has(field::CLASS) {
        relay.class.write(w);
    }
}

/// A relay as it was, with the fields that are given anew; each must differ, and there must be one.
fn read_changes(old: &RelayEntry, r: &mut Reader<'_>) -> Result<RelayEntry, Malformed> {
    let fields = r.u16(WHAT)?;
    let has = |bit| fields & bit != 0;
    let mut relay = RelayEntry { layers: Vec::new(), ..old.clone() };
    if has(field::LINK_KEY) {
        relay.link_key = LinkPublicKey::read(r)?;
    }
    if has(field::LINK_ADDRESSES) {
        relay.link_addresses = address::read(r)?;
    }
    if has(field::CLIENT_ADDRESSES) {
        relay.client_addresses = address::read(r)?;
    }
    if has(field::ROLES) {
        relay.roles = Roles::read(r)?;
    }
    if has(field::FAMILY) {
        relay.family = read_family(r)?;
    }
    if has(field::OPERATOR) {
        relay.operator = OperatorId::read(r)?;
    }
    if has(field::CAPACITY) {
        relay.capacity = r.u32("capacity")?;
    }
    if has(field::LISTED_SINCE) {
        relay.listed_since = Wall(r.u64("times")?);
    }
    if has(field::PROTOCOLS) {
        relay.protocols = Protocols::read(r)?;
    }
    if has(field::CLASS) {
        relay.class = Class::read(r)?;
    }
    if fields == 0 || changes(old, &relay) != fields {
        return Err(Malformed::Value(WHAT));
    }
    Ok(relay)
}

#[cfg(test)]
mod tests;
