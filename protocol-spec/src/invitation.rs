//! Invitations: a short link, and the blob that it opens.
//!
//! The link is `posta:` and bech32m of version ‖ two relay-id prefixes ‖ a 32-byte secret. The secret gives the
//! capability to read the blob, and the key that it is sealed under. It is itself the hash of the inviter's fixed data
//! and a nonce, so that whoever holds a relay *and* learns the link still can't put other data in place of it.

use core::fmt;
use core::str::FromStr;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use rand_core::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::{Reader, Writer};
use crate::command::BlobCapability;
use crate::crypto::{self, context};
use crate::end_to_end::QueueAddress;
use crate::error::{Malformed, Misuse, Refused};
use crate::ids::RelayId;
use crate::params::{BLOB_LEN, BOX_NONCE_LEN, MAX_KEY_PACKAGE_LEN, TAG_LEN};
use crate::secret::Secret;

/// Version of the link's layout.
const VERSION: u8 = 1;
/// Bytes of a relay's identity in a link: enough to tell 20,000 relays apart.
const PREFIX_LEN: usize = 8;
const SCHEME: &str = "posta:";
const HRP: Hrp = Hrp::parse_unchecked("p");
const PLAIN_LEN: usize = BLOB_LEN - BOX_NONCE_LEN - TAG_LEN;

/// The start of a relay's identity.
pub type RelayPrefix = [u8; PREFIX_LEN];

/// What a person hands over: where the blob is, and the secret that opens it.
#[derive(PartialEq, Eq)]
pub struct Link {
    /// The relays that hold the blob; either is enough.
    pub relays: [RelayPrefix; 2],
    secret: Secret<32>,
}

/// Why a text is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadLink {
    /// It doesn't start as one.
    #[error("this is not an invitation: it must start with 'posta:' - copy the whole link")]
    NotALink,
    /// A character is wrong or missing.
    #[error("this invitation has a wrong or missing character: copy the whole link again")]
    Damaged,
    /// Made by a later version.
    #[error("this invitation was made by a newer version (layout {0}): update this program")]
    Version(u8),
}

/// The inviter's fixed data, as the blob carries it.
#[derive(PartialEq, Eq)]
pub struct Offer {
    /// The inviter's queues, for the joining side to write to.
    pub queues: Vec<QueueAddress>,
    /// The inviter's MLS key package, made for this invitation.
    pub key_package: Vec<u8>,
    nonce: Secret<32>,
}

impl Offer {
    /// An offer with a fresh nonce.
    pub fn new(queues: Vec<QueueAddress>, key_package: Vec<u8>, rng: &mut impl CryptoRng) -> Self {
        Self { queues, key_package, nonce: Secret::random(rng) }
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let queues = 4 + self.queues.len() * QueueAddress::LEN;
        let mut w = Writer::with_capacity(32 + queues + 4 + self.key_package.len());
        w.bytes(self.nonce.expose());
        QueueAddress::write_list(&self.queues, &mut w);
        w.bounded(&self.key_package);
        Zeroizing::new(w.finish())
    }

    /// The link to this offer, kept at these two relays.
    #[must_use]
    pub fn link(&self, relays: [RelayId; 2]) -> Link {
        let secret = crypto::derive(context::INVITATION_DATA, &self.encode());
        Link { relays: relays.map(|r| prefix(&r)), secret }
    }

    /// The blob, [`BLOB_LEN`] bytes; a fresh one for each relay.
    ///
    /// # Errors
    /// [`Misuse::TooLong`] if there are too many queues.
    pub fn seal(&self, link: &Link, rng: &mut impl CryptoRng) -> Result<Box<[u8]>, Misuse> {
        let data = self.encode();
        let mut inner = Writer::with_capacity(PLAIN_LEN);
        inner.bounded(&data);
        if inner.len() > PLAIN_LEN {
            return Err(Misuse::TooLong { what: "the invitation", got: inner.len(), max: PLAIN_LEN });
        }
        let mut inner = inner.finish();
        inner.resize(PLAIN_LEN, 0);
        let mut nonce = [0; BOX_NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let key = link.seal_key();
        let tag = crypto::seal(key.expose(), nonce, &[], &mut inner)
            .map_err(|Refused| Misuse::Key("the invitation's key"))?;
        let mut blob = Writer::with_capacity(BLOB_LEN);
        blob.bytes(&nonce);
        blob.bytes(&inner);
        blob.bytes(&tag);
        Ok(blob.finish().into_boxed_slice())
    }

    /// The data as the inviter's own store keeps them.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.encode()
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// [`Malformed`] if it is something else.
    pub fn from_bytes(data: &[u8]) -> Result<Self, Malformed> {
        Link::parse(data)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offer({} queues, ..)", self.queues.len())
    }
}

impl Link {
    /// The capability to read the blob.
    #[must_use]
    pub fn capability(&self) -> BlobCapability {
        BlobCapability::new(crypto::derive(context::INVITATION_GET, self.secret.expose()))
    }

    fn seal_key(&self) -> Secret<32> {
        crypto::derive(context::INVITATION_SEAL, self.secret.expose())
    }

    /// Whether a relay is one of the two.
    #[must_use]
    pub fn names(&self, relay: &RelayId) -> bool {
        self.relays.contains(&prefix(relay))
    }

    /// Opens the blob.
    ///
    /// # Errors
    /// [`Refused`] if it isn't what the inviter put there.
    pub fn open(&self, blob: &[u8]) -> Result<Offer, Refused> {
        let (nonce, rest) = blob.split_first_chunk().ok_or(Refused)?;
        let (inner, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(Refused)?;
        let mut inner = Zeroizing::new(inner.to_vec());
        crypto::open(self.seal_key().expose(), *nonce, &[], &mut inner, tag)?;
        let data = Reader::new(&inner).bounded(PLAIN_LEN, "invitation").map_err(|_| Refused)?;
        if crypto::derive(context::INVITATION_DATA, data) != self.secret {
            return Err(Refused);
        }
        Self::parse(data).map_err(|_: Malformed| Refused)
    }

    fn parse(data: &[u8]) -> Result<Offer, Malformed> {
        let mut r = Reader::new(data);
        let nonce = Secret::read(&mut r, "invitation")?;
        let queues = QueueAddress::read_list(&mut r)?;
        let key_package = r.bounded(MAX_KEY_PACKAGE_LEN, "key package")?.to_vec();
        let offer = Offer { queues, key_package, nonce };
        r.finish("invitation")?;
        Ok(offer)
    }

    /// The text to hand over. A method, not `Display`: a link is a secret and must not slip into a log.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut w = Writer::with_capacity(1 + 2 * PREFIX_LEN + 32);
        w.u8(VERSION);
        self.relays.iter().for_each(|r| w.bytes(r));
        w.bytes(self.secret.expose());
        let encoded = bech32::encode::<Bech32m>(HRP, &Zeroizing::new(w.finish())).unwrap_or_default();
        format!("{SCHEME}{encoded}")
    }
}

impl FromStr for Link {
    type Err = BadLink;

    fn from_str(text: &str) -> Result<Self, BadLink> {
        let text = text.trim();
        let rest = text
            .get(..SCHEME.len())
            .filter(|s| s.eq_ignore_ascii_case(SCHEME))
            .and_then(|_| text.get(SCHEME.len()..))
            .ok_or(BadLink::NotALink)?;
        let checked = CheckedHrpstring::new::<Bech32m>(rest).map_err(|_| BadLink::Damaged)?;
        if checked.hrp() != HRP {
            return Err(BadLink::Damaged);
        }
        let bytes: Zeroizing<Vec<u8>> = Zeroizing::new(checked.byte_iter().collect());
        let mut r = Reader::new(&bytes);
        let version = r.u8("link").map_err(|_| BadLink::Damaged)?;
        if version != VERSION {
            return Err(BadLink::Version(version));
        }
        let mut body = || -> Result<Self, Malformed> {
            Ok(Self { relays: [r.array("link")?, r.array("link")?], secret: Secret::read(&mut r, "link")? })
        };
        let link = body().map_err(|_| BadLink::Damaged)?;
        r.finish("link").map_err(|_| BadLink::Damaged)?;
        // The last character has three bits to spare, which the checksum covers but nothing reads.
        if link.to_text().eq_ignore_ascii_case(text) { Ok(link) } else { Err(BadLink::Damaged) }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link(..)")
    }
}

/// The part of a relay's identity that a link carries.
#[must_use]
pub fn prefix(relay: &RelayId) -> RelayPrefix {
    relay.0.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn offer(rng: &mut ChaCha20Rng) -> Offer {
        let queue =
            |n| QueueAddress { relay: RelayId([n; 32]), invited: Secret::new([n; 32]), key: Secret::new([n; 32]) };
        Offer::new(vec![queue(1), queue(2)], vec![3; 2638], rng)
    }

    #[test]
    fn a_link_opens_its_blob_and_no_other() {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let (ours, theirs) = (offer(rng), offer(rng));
        let relays = [RelayId([1; 32]), RelayId([2; 32])];
        let (link, other) = (ours.link(relays), theirs.link(relays));
        let blob = ours.seal(&link, rng).unwrap();
        assert_eq!(blob.len(), BLOB_LEN);
        let link: Link = link.to_text().parse().unwrap();
        assert_eq!(link.open(&blob), Ok(ours));
        assert!(link.open(&theirs.seal(&other, rng).unwrap()).is_err());
        assert!(link.names(&relays[0]) && !link.names(&RelayId([3; 32])));
    }

    #[test]
    fn other_data_sealed_under_the_links_own_key_is_refused() {
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        let link = offer(rng).link([RelayId([1; 32]); 2]);
        let swapped = offer(rng).seal(&link, rng).unwrap();
        assert_eq!(link.open(&swapped), Err(Refused));
    }

    #[test]
    fn a_link_has_one_text() {
        use bech32::Fe32;
        use bech32::primitives::iter::{ByteIterExt, Fe32IterExt};
        let link = offer(&mut ChaCha20Rng::seed_from_u64(4)).link([RelayId([1; 32]); 2]);
        let text = link.to_text();
        let bytes: Vec<u8> = CheckedHrpstring::new::<Bech32m>(&text[SCHEME.len()..]).unwrap().byte_iter().collect();
        let mut symbols: Vec<Fe32> = bytes.into_iter().bytes_to_fes().collect();
        let last = symbols.pop().unwrap().to_u8();
        let parsed: Vec<_> = (0..8)
            .map(|spare| {
                let all = symbols.iter().copied().chain(Fe32::try_from(last | spare));
                let encoded: String = all.with_checksum::<Bech32m>(&HRP).chars().collect();
                format!("{SCHEME}{encoded}").parse::<Link>()
            })
            .collect();
        assert_eq!(parsed[0], Ok(link));
        assert_eq!(parsed[1..], [const { Err(BadLink::Damaged) }; 7]);
    }

    #[test]
    fn bad_texts_are_told_apart() {
        let rng = &mut ChaCha20Rng::seed_from_u64(3);
        let text = offer(rng).link([RelayId([1; 32]); 2]).to_text();
        assert!(text.len() < 100);
        assert_eq!(text.to_uppercase().parse::<Link>().unwrap().to_text(), text);
        assert_eq!("https://example.org".parse::<Link>(), Err(BadLink::NotALink));
        assert_eq!(text[..text.len() - 1].parse::<Link>(), Err(BadLink::Damaged));
        assert_eq!("posta:".parse::<Link>(), Err(BadLink::Damaged));
        let newer = bech32::encode::<Bech32m>(HRP, &[9; 49]).unwrap();
        assert_eq!(format!("posta:{newer}").parse::<Link>(), Err(BadLink::Version(9)));
    }
}
