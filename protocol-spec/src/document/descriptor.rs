//! What a relay says about itself.

use core::net::SocketAddr;

use super::{Certificate, Extensions, Family, Protocols, Purpose, Roles, address};
use crate::codec::{Reader, Writer};
use crate::crypto::context::{DESCRIPTOR, SIGN_DESCRIPTOR};
use crate::crypto::hash;
use crate::crypto::signature::{SIGNATURE_LEN, SignKey, verify};
use crate::crypto::xwing::KemPublicKey;
use crate::error::{Malformed, Misuse, Untrusted};
use crate::ids::{Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId};
use crate::now::Wall;
use crate::params::{MAX_ADDRESSES, MAX_DESCRIPTOR_KEYS, MAX_DESCRIPTOR_LEN, PROTOCOL_VERSION, RELAY_CLOCK_SKEW};

const WHAT: &str = "descriptor";

/// A relay's own account of itself. In this form it is either the relay's own, or verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Vouches for the key that signs the descriptor; its identity is the relay.
    pub certificate: Certificate,
    /// The key that the relay proves on links.
    pub link_key: LinkPublicKey,
    /// Where relays connect.
    pub link_addresses: Vec<SocketAddr>,
    /// Where clients connect; empty for a relay that is no edge.
    pub client_addresses: Vec<SocketAddr>,
    /// What it offers.
    pub roles: Roles,
    /// The family that it belongs to, and that family's word.
    pub family: Option<Family>,
    /// Who runs it.
    pub operator: OperatorId,
    /// Packets per second that it can carry.
    pub capacity: u32,
    /// Protocol versions that it speaks.
    pub protocols: Protocols,
    /// When it was written.
    pub published: Wall,
    /// Mix keys, sorted by key epoch: the current one and those ahead.
    pub mix_keys: Vec<(KeyEpoch, KemPublicKey)>,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Descriptor {
    /// The relay.
    #[must_use]
    pub const fn identity(&self) -> RelayId {
        RelayId(self.certificate.identity)
    }

    /// The mix key of a key epoch.
    #[must_use]
    pub fn mix_key(&self, epoch: KeyEpoch) -> Option<&KemPublicKey> {
        self.mix_keys.iter().find(|(e, _)| *e == epoch).map(|(_, key)| key)
    }

    /// Signs the descriptor with the certified key. Lists are brought into their canonical order.
    ///
    /// # Errors
    /// [`Misuse::TooLong`] if a list exceeds its bound, [`Misuse::Key`] if `key` isn't the certified one.
    pub fn sign(mut self, key: &SignKey) -> Result<SignedDescriptor, Misuse> {
        if key.public() != self.certificate.key.0 {
            return Err(Misuse::Key("the signing key of the descriptor"));
        }
        address::canonical(&mut self.link_addresses);
        address::canonical(&mut self.client_addresses);
        self.mix_keys.sort_by_key(|(epoch, _)| *epoch);
        self.mix_keys.dedup_by_key(|(epoch, _)| *epoch);
        for (what, got, max) in [
            ("the list of link addresses", self.link_addresses.len(), MAX_ADDRESSES),
            ("the list of client addresses", self.client_addresses.len(), MAX_ADDRESSES),
            ("the list of mix keys", self.mix_keys.len(), MAX_DESCRIPTOR_KEYS),
        ] {
            if got > max {
                return Err(Misuse::TooLong { what, got, max });
            }
        }
        let mut w = Writer::with_capacity(MAX_DESCRIPTOR_LEN);
        self.write(&mut w);
        let mut bytes = w.finish();
        let signature = key.sign(SIGN_DESCRIPTOR, &bytes);
        bytes.extend_from_slice(&signature);
        if bytes.len() > MAX_DESCRIPTOR_LEN {
            return Err(Misuse::TooLong { what: "the descriptor", got: bytes.len(), max: MAX_DESCRIPTOR_LEN });
        }
        Ok(SignedDescriptor { bytes })
    }

    fn write(&self, w: &mut Writer) {
        w.u16(PROTOCOL_VERSION);
        self.certificate.write(w);
        self.link_key.write(w);
        address::write(&self.link_addresses, w);
        address::write(&self.client_addresses, w);
        self.roles.write(w);
        Family::write_option(self.family.as_ref(), w);
        self.operator.write(w);
        w.u32(self.capacity);
        self.protocols.write(w);
        w.u64(self.published.0);
        w.count(self.mix_keys.len());
        for (epoch, key) in &self.mix_keys {
            w.u64(epoch.0);
            key.write(w);
        }
        self.extensions.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let certificate = Certificate::read(r)?;
        let link_key = LinkPublicKey::read(r)?;
        let link_addresses = address::read(r)?;
        let client_addresses = address::read(r)?;
        let roles = Roles::read(r)?;
        let family = Family::read_option(r)?;
        let operator = OperatorId::read(r)?;
        let capacity = r.u32("capacity")?;
        let protocols = Protocols::read(r)?;
        let published = Wall(r.u64("publication time")?);
        let n = r.count(MAX_DESCRIPTOR_KEYS, "mix keys")?;
        let mut mix_keys: Vec<(KeyEpoch, KemPublicKey)> = Vec::with_capacity(n);
        for _ in 0..n {
            let epoch = KeyEpoch(r.u64("key epoch")?);
            if mix_keys.last().is_some_and(|(last, _)| *last >= epoch) {
                return Err(Malformed::Value("mix keys"));
            }
            mix_keys.push((epoch, KemPublicKey::read(r)?));
        }
        let extensions = Extensions::read(r)?;
        Ok(Self {
            certificate,
            link_key,
            link_addresses,
            client_addresses,
            roles,
            family,
            operator,
            capacity,
            protocols,
            published,
            mix_keys,
            extensions,
        })
    }
}

/// A descriptor's exact bytes, at most [`MAX_DESCRIPTOR_LEN`].
#[derive(Clone, PartialEq, Eq)]
pub struct SignedDescriptor {
    bytes: Vec<u8>,
}

impl SignedDescriptor {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the bytes away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The hash by which votes name the descriptor.
    #[must_use]
    pub fn digest(&self) -> Hash {
        hash(DESCRIPTOR, &self.bytes)
    }
}

impl core::fmt::Debug for SignedDescriptor {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SignedDescriptor(..)")
    }
}

/// A descriptor that parses, and that nothing else is known about.
#[derive(Debug)]
pub struct UnverifiedDescriptor<'a> {
    descriptor: Descriptor,
    signed: &'a [u8],
    signature: [u8; SIGNATURE_LEN],
}

impl<'a> UnverifiedDescriptor<'a> {
    /// Parses a descriptor.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], or [`Untrusted::Version`] for another protocol version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Untrusted> {
        if bytes.len() > MAX_DESCRIPTOR_LEN {
            return Err(Malformed::TooLong(WHAT).into());
        }
        let (signed, signature) = bytes.split_last_chunk().ok_or(Malformed::Truncated(WHAT))?;
        let mut r = Reader::new(signed);
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let descriptor = Descriptor::read(&mut r)?;
        r.finish(WHAT)?;
        Ok(Self { descriptor, signed, signature: *signature })
    }

    /// Checks certificate, signature and time of publication, as of now.
    ///
    /// # Errors
    /// [`Untrusted`], saying what is wrong.
    pub fn verify(self, now: Wall) -> Result<Descriptor, Untrusted> {
        if self.descriptor.published > now + RELAY_CLOCK_SKEW {
            return Err(Untrusted::TooEarly(WHAT));
        }
        self.verify_at(now)
    }

    /// Checks certificate and signature as of the descriptor's own publication: for one that others already accepted,
    /// where all must come to the same result whatever their clocks say.
    ///
    /// # Errors
    /// [`Untrusted`], saying what is wrong.
    pub fn verify_as_published(self) -> Result<Descriptor, Untrusted> {
        let at = self.descriptor.published;
        self.verify_at(at)
    }

    fn verify_at(self, at: Wall) -> Result<Descriptor, Untrusted> {
        let certificate = &self.descriptor.certificate;
        certificate.verify(Purpose::Relay, at, "the relay")?;
        if let Some(family) = &self.descriptor.family {
            family.verify(&self.descriptor.identity())?;
        }
        if verify(&certificate.key.0, SIGN_DESCRIPTOR, self.signed, &self.signature) {
            Ok(self.descriptor)
        } else {
            Err(Untrusted::Signature("the descriptor"))
        }
    }
}
