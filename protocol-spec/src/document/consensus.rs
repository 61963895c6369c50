//! The consensus: what the authorities agreed on for one epoch.

use core::net::SocketAddr;
use core::time::Duration;

use super::header::{read_signatures, write_signatures};
use super::{
    Authorities, Class, ConsensusSignature, Extensions, Header, Params, Position, Protocols, Roles, SharedRandom,
    SignedHeader, address,
};
use crate::codec::{Reader, Writer};
use crate::crypto::context::CONSENSUS;
use crate::crypto::hash;
use crate::error::{Malformed, Untrusted};
use crate::geometry::Geometry;
use crate::ids::{Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId};
use crate::now::Wall;
use crate::params::{MAX_CONSENSUS_LEN, MAX_KEY_EPOCHS, MAX_RELAYS, PROTOCOL_VERSION};

const WHAT: &str = "consensus";

/// A key epoch and the hash of the part that holds its mix keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEpochPart {
    /// The key epoch.
    pub epoch: KeyEpoch,
    /// The hash of its [`super::MixKeys`].
    pub mix_keys: Hash,
}

/// A mix that the last consensuses have left out: if it is listed again soon, nothing has changed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The relay.
    pub id: RelayId,
    /// Since when it was listed.
    pub listed_since: Wall,
    /// The first consensus without it.
    pub from: Epoch,
}

/// A relay as the consensus lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayEntry {
    /// Its identity.
    pub id: RelayId,
    /// The key that it proves on links.
    pub link_key: LinkPublicKey,
    /// Where relays connect.
    pub link_addresses: Vec<SocketAddr>,
    /// Where clients connect.
    pub client_addresses: Vec<SocketAddr>,
    /// What it offers.
    pub roles: Roles,
    /// Its family.
    pub family: Option<[u8; 32]>,
    /// Who runs it.
    pub operator: OperatorId,
    /// Packets per second.
    pub capacity: u32,
    /// Protocol versions that it speaks.
    pub protocols: Protocols,
    /// How well it works, as the authorities have measured.
    pub class: Class,
    /// The start of the first consensus that has listed it, and all since then but for a few that missed it
    /// ([`ConsensusBody::missed`]): who came after the commits were closed gets no layer.
    pub listed_since: Wall,
    /// Its place in each of the consensus' key epochs, in their order; `None` where it has published no key.
    pub layers: Vec<Option<Position>>,
}

/// A consensus' content, before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusBody {
    /// The geometry of all packets.
    pub geometry: Geometry,
    /// The epoch that it is for.
    pub epoch: Epoch,
    /// Valid from here.
    pub valid_after: Wall,
    /// A newer one is expected from here.
    pub fresh_until: Wall,
    /// Not valid any more from here.
    pub valid_until: Wall,
    /// The hash of the consensus that this one builds on; zero for none.
    pub previous: Hash,
    /// What nobody could know beforehand, and what the next value will be made of.
    pub shared_random: SharedRandom,
    /// Parameters of the network.
    pub params: Params,
    /// The current key epoch and those ahead for which there are keys, consecutive or not, sorted.
    pub key_epochs: Vec<KeyEpochPart>,
    /// Mixes that were listed a few epochs ago, sorted by identity.
    pub missed: Vec<Missed>,
    /// Relays, sorted by identity.
    pub relays: Vec<RelayEntry>,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl ConsensusBody {
    /// The body's canonical bytes: what is hashed. The lists must be sorted.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(1024 + 192 * self.relays.len());
        self.write_head(&mut w);
        w.count(self.relays.len());
        for relay in &self.relays {
            relay.write(&mut w);
        }
        self.extensions.write(&mut w);
        w.finish()
    }

    /// Everything in front of the relays.
    pub(super) fn write_head(&self, w: &mut Writer) {
        w.u16(PROTOCOL_VERSION);
        self.geometry.write(w);
        self.geometry.hash().write(w);
        w.u64(self.epoch.0);
        w.u64(self.valid_after.0);
        w.u64(self.fresh_until.0);
        w.u64(self.valid_until.0);
        self.previous.write(w);
        self.shared_random.write(w);
        self.params.write(w);
        w.count(self.key_epochs.len());
        for part in &self.key_epochs {
            w.u64(part.epoch.0);
            part.mix_keys.write(w);
        }
        w.count(self.missed.len());
        for missed in &self.missed {
            missed.id.write(w);
            w.u64(missed.listed_since.0);
            w.u64(missed.from.0);
        }
    }

    /// Since when a relay is listed, if it is or was a few epochs ago.
    #[must_use]
    pub fn listed_since(&self, id: &RelayId) -> Option<Wall> {
        let missed = || self.missed.binary_search_by_key(id, |m| m.id).ok().and_then(|i| self.missed.get(i));
        self.relay(id).map(|relay| relay.listed_since).or_else(|| missed().map(|m| m.listed_since))
    }

    /// One relay.
    #[must_use]
    pub fn relay(&self, id: &RelayId) -> Option<&RelayEntry> {
        self.relays.binary_search_by_key(id, |r| r.id).ok().and_then(|i| self.relays.get(i))
    }

    /// The header that the authorities sign, given the encoded body.
    #[must_use]
    pub fn header(&self, encoded: &[u8]) -> Header {
        Header { epoch: self.epoch, valid_after: self.valid_after, hash: hash(CONSENSUS, encoded) }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Untrusted> {
        let mut r = Reader::new(bytes);
        let mut body = Self::read_head(&mut r)?;
        let n = r.count(MAX_RELAYS, "relays")?;
        // An entry takes more than 64 bytes: what is allocated is bounded by what was sent.
        body.relays.reserve_exact(n.min(r.left() / 64));
        for _ in 0..n {
            let relay = RelayEntry::read(&mut r, body.key_epochs.len())?;
            if body.relays.last().is_some_and(|last| last.id >= relay.id) {
                return Err(Malformed::Value("order of relays").into());
            }
            body.relays.push(relay);
        }
        body.extensions = Extensions::read(&mut r)?;
        r.finish(WHAT)?;
        Ok(body)
    }

    /// Reads everything in front of the relays; there are none yet, and no extensions.
    pub(super) fn read_head(r: &mut Reader<'_>) -> Result<Self, Untrusted> {
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let geometry = Geometry::read(r)?;
        if Hash::read(r)? != geometry.hash() {
            return Err(Untrusted::Hash("the geometry"));
        }
        let epoch = Epoch(r.u64("epoch")?);
        let valid_after = Wall(r.u64("times")?);
        let fresh_until = Wall(r.u64("times")?);
        let valid_until = Wall(r.u64("times")?);
        if valid_after >= fresh_until || fresh_until > valid_until {
            return Err(Malformed::Value("times of a consensus").into());
        }
        let previous = Hash::read(r)?;
        let shared_random = SharedRandom::read(r)?;
        let params = Params::read(r)?;
        let n = r.count(MAX_KEY_EPOCHS, "key epochs")?;
        let mut key_epochs: Vec<KeyEpochPart> = Vec::with_capacity(n);
        for _ in 0..n {
            let part = KeyEpochPart { epoch: KeyEpoch(r.u64("key epoch")?), mix_keys: Hash::read(r)? };
            if key_epochs.last().is_some_and(|last| last.epoch >= part.epoch) {
                return Err(Malformed::Value("key epochs").into());
            }
            key_epochs.push(part);
        }
        let n = r.count(MAX_RELAYS, "missed relays")?;
        let mut missed: Vec<Missed> = Vec::with_capacity(n.min(r.left() / 48));
        for _ in 0..n {
            let id = RelayId::read(r)?;
            let one = Missed { id, listed_since: Wall(r.u64("times")?), from: Epoch(r.u64("epoch")?) };
            if missed.last().is_some_and(|last| last.id >= one.id) {
                return Err(Malformed::Value("missed relays").into());
            }
            missed.push(one);
        }
        Ok(Self {
            geometry,
            epoch,
            valid_after,
            fresh_until,
            valid_until,
            previous,
            shared_random,
            params,
            key_epochs,
            missed,
            relays: Vec::new(),
            extensions: Extensions::default(),
        })
    }
}

impl RelayEntry {
    fn write(&self, w: &mut Writer) {
        self.write_placeless(w);
        for layer in &self.layers {
            Position::write(*layer, w);
        }
    }

    fn read(r: &mut Reader<'_>, key_epochs: usize) -> Result<Self, Malformed> {
        let mut relay = Self::read_placeless(r)?;
        relay.layers = (0..key_epochs).map(|_| Position::read(r)).collect::<Result<_, _>>()?;
        Ok(relay)
    }

    /// All but its places.
    pub(super) fn write_placeless(&self, w: &mut Writer) {
        self.id.write(w);
        self.link_key.write(w);
        address::write(&self.link_addresses, w);
        address::write(&self.client_addresses, w);
        self.roles.write(w);
        write_family(self.family.as_ref(), w);
        self.operator.write(w);
        w.u32(self.capacity);
        self.protocols.write(w);
        self.class.write(w);
        w.u64(self.listed_since.0);
    }

    pub(super) fn read_placeless(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            id: RelayId::read(r)?,
            link_key: LinkPublicKey::read(r)?,
            link_addresses: address::read(r)?,
            client_addresses: address::read(r)?,
            roles: Roles::read(r)?,
            family: read_family(r)?,
            operator: OperatorId::read(r)?,
            capacity: r.u32("capacity")?,
            protocols: Protocols::read(r)?,
            class: Class::read(r)?,
            listed_since: Wall(r.u64("times")?),
            layers: Vec::new(),
        })
    }
}

pub(super) fn write_family(family: Option<&[u8; 32]>, w: &mut Writer) {
    w.bool(family.is_some());
    w.bytes(family.map_or(&[], <[u8; 32]>::as_slice));
}

pub(super) fn read_family(r: &mut Reader<'_>) -> Result<Option<[u8; 32]>, Malformed> {
    if r.bool("family")? { r.array("family").map(Some) } else { Ok(None) }
}

/// A consensus that enough authorities have signed.
#[derive(Clone, Debug)]
pub struct Consensus {
    body: ConsensusBody,
    header: Header,
    signatures: Vec<ConsensusSignature>,
    bytes: Vec<u8>,
}

impl Consensus {
    /// Puts a body and its signatures together. Whoever receives the bytes verifies them.
    #[must_use]
    pub fn assemble(body: &[u8], signatures: &[ConsensusSignature]) -> Vec<u8> {
        let mut w = Writer::with_capacity(body.len() + 64 + signatures.len() * 256);
        w.bounded(body);
        write_signatures(signatures, &mut w);
        w.finish()
    }

    /// The content.
    #[must_use]
    pub const fn body(&self) -> &ConsensusBody {
        &self.body
    }

    /// The hash of the signed part: the same for all who hold this consensus, whichever signatures came with it.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        self.header.hash
    }

    /// Epoch, start and hash, with the signatures.
    #[must_use]
    pub fn signed_header(&self) -> SignedHeader {
        SignedHeader { header: self.header, signatures: self.signatures.clone() }
    }

    pub(super) fn signatures(&self) -> &[ConsensusSignature] {
        &self.signatures
    }

    /// The exact bytes as received.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.bytes
    }

    /// The epoch that it is for.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.body.epoch
    }

    /// The geometry of all packets.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.body.geometry
    }

    /// Parameters of the network.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.body.params
    }

    /// Valid from here.
    #[must_use]
    pub const fn valid_after(&self) -> Wall {
        self.body.valid_after
    }

    /// A newer one is expected from here.
    #[must_use]
    pub const fn fresh_until(&self) -> Wall {
        self.body.fresh_until
    }

    /// Not valid any more from here.
    #[must_use]
    pub const fn valid_until(&self) -> Wall {
        self.body.valid_until
    }

    /// All relays, sorted by identity.
    #[must_use]
    pub fn relays(&self) -> &[RelayEntry] {
        &self.body.relays
    }

    /// One relay.
    #[must_use]
    pub fn relay(&self, id: &RelayId) -> Option<&RelayEntry> {
        self.body.relay(id)
    }

    /// The key epochs that have keys, with the hash of each part.
    #[must_use]
    pub fn key_epochs(&self) -> &[KeyEpochPart] {
        &self.body.key_epochs
    }

    /// The key epoch at a time.
    #[must_use]
    pub fn key_epoch_at(&self, at: Wall) -> KeyEpoch {
        KeyEpoch(at.0 / self.body.params.key_epoch_ms())
    }

    /// A relay's place in a key epoch; `None` if it has none, or the consensus says nothing of that key epoch.
    #[must_use]
    pub fn position(&self, id: &RelayId, epoch: KeyEpoch) -> Option<Position> {
        let column = self.column(epoch)?;
        self.relay(id)?.layers.get(column).copied().flatten()
    }

    /// The relays at a place in a key epoch, sorted by identity.
    pub fn relays_at(&self, epoch: KeyEpoch, position: Position) -> impl Iterator<Item = &RelayEntry> {
        let column = self.column(epoch).unwrap_or(usize::MAX);
        self.body.relays.iter().filter(move |r| r.layers.get(column).copied().flatten() == Some(position))
    }

    /// The hash of a key epoch's mix keys.
    #[must_use]
    pub fn mix_keys_hash(&self, epoch: KeyEpoch) -> Option<Hash> {
        self.body.key_epochs.iter().find(|part| part.epoch == epoch).map(|part| part.mix_keys)
    }

    fn column(&self, epoch: KeyEpoch) -> Option<usize> {
        self.body.key_epochs.iter().position(|part| part.epoch == epoch)
    }
}

/// A consensus that parses, and that nothing else is known about.
#[derive(Debug)]
pub struct UnverifiedConsensus(Consensus);

impl UnverifiedConsensus {
    /// The bytes, which nobody has vouched for yet.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Parses a consensus.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], [`Untrusted::Version`] for another protocol version, [`Untrusted::Hash`] for a geometry
    /// that doesn't have its hash.
    pub fn decode(bytes: &[u8]) -> Result<Self, Untrusted> {
        if bytes.len() > MAX_CONSENSUS_LEN {
            return Err(Malformed::TooLong(WHAT).into());
        }
        let mut r = Reader::new(bytes);
        let encoded = r.bounded(MAX_CONSENSUS_LEN, WHAT)?;
        let signatures = read_signatures(&mut r)?;
        r.finish(WHAT)?;
        let body = ConsensusBody::decode(encoded)?;
        let header = body.header(encoded);
        Ok(Self(Consensus { body, header, signatures, bytes: bytes.to_vec() }))
    }

    /// Checks signatures and time. `tolerance` is how far this machine's clock may be off:
    /// [`crate::params::CLIENT_CLOCK_SKEW`] for a client, [`crate::params::RELAY_CLOCK_SKEW`] for a relay.
    ///
    /// # Errors
    /// [`Untrusted::TooFewSignatures`], [`Untrusted::TooEarly`] or [`Untrusted::Expired`].
    pub fn verify(self, authorities: &Authorities, now: Wall, tolerance: Duration) -> Result<Consensus, Untrusted> {
        let consensus = self.verify_signatures(authorities)?;
        if now + tolerance < consensus.valid_after() {
            return Err(Untrusted::TooEarly(WHAT));
        }
        if now >= consensus.valid_until() + tolerance {
            return Err(Untrusted::Expired(WHAT));
        }
        Ok(consensus)
    }

    /// Checks signatures only: for the history, where the document need not be valid now.
    ///
    /// # Errors
    /// [`Untrusted::TooFewSignatures`].
    pub fn verify_signatures(self, authorities: &Authorities) -> Result<Consensus, Untrusted> {
        self.0.signed_header().verify(authorities)?;
        Ok(self.0)
    }
}
