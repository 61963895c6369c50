//! Invitations: the link that a person pastes, and the blob that a relay keeps.

use bech32::primitives::iter::Fe32IterExt;
use bech32::{Bech32m, Fe32, Hrp};
use posta_protocol::codec::Writer;
use posta_protocol::crypto::{self, context};
use posta_protocol::end_to_end::QueueAddress;
use posta_protocol::ids::RelayId;
use posta_protocol::invitation::{BadLink, Link, Offer};
use posta_protocol::params::{BLOB_LEN, BOX_NONCE_LEN, TAG_LEN};
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::bounded;

const RELAYS: [RelayId; 2] = [RelayId([1; 32]), RelayId([2; 32])];
const PLAIN_LEN: usize = BLOB_LEN - BOX_NONCE_LEN - TAG_LEN;

/// The text of a link with these five-bit symbols and the checksum that fits them.
fn checksummed(symbols: impl Iterator<Item = Fe32>) -> String {
    let hrp = Hrp::parse("p").expect("a prefix");
    let text: String = symbols.with_checksum::<Bech32m>(&hrp).chars().collect();
    format!("posta:{text}")
}

/// The link of version 1 with this secret.
fn link_to(secret: &[u8; 32]) -> Link {
    let bytes = [[1].as_slice(), &RELAYS[0].0[..8], &RELAYS[1].0[..8], secret].concat();
    let text = bech32::encode::<Bech32m>(Hrp::parse("p").expect("a prefix"), &bytes).expect("short enough");
    format!("posta:{text}").parse().expect("a link")
}

/// As text; then as the symbols of a text whose checksum is right, for the checksum hides all else from a fuzzer.
pub(crate) fn link(input: &[u8]) {
    let check = |text: &str| match bounded(text.len(), || text.parse::<Link>()) {
        Ok(link) => {
            assert!(link.to_text().eq_ignore_ascii_case(text.trim()), "one link has two texts: {text}");
            assert_eq!(link.to_text().parse::<Link>(), Ok(link));
        }
        Err(BadLink::Version(version)) => assert_ne!(version, 1),
        Err(BadLink::NotALink | BadLink::Damaged) => {}
    };
    if let Ok(text) = core::str::from_utf8(input) {
        check(text);
    }
    check(&checksummed(input.iter().flat_map(|b| Fe32::try_from(b & 31))));
}

pub(crate) fn link_seeds() -> Vec<Vec<u8>> {
    use bech32::primitives::iter::ByteIterExt;
    let text = link_to(&[7; 32]).to_text();
    let newer = [[9].as_slice(), &[7; 48]].concat();
    let symbols = |bytes: &[u8]| bytes.iter().copied().bytes_to_fes().map(Fe32::to_u8).collect::<Vec<_>>();
    let first = [[1].as_slice(), &[7; 48]].concat();
    vec![text.clone().into(), text.to_uppercase().into(), symbols(&first), symbols(&newer), symbols(&first[..40])]
}

/// A blob of `inner`, sealed as the holder of the link can.
fn blob(secret: &[u8; 32], inner: &[u8]) -> Vec<u8> {
    let (mut inner, nonce) = (inner.to_vec(), [0; BOX_NONCE_LEN]);
    let key = crypto::derive(context::INVITATION_SEAL, secret);
    let tag = crypto::seal(key.expose(), nonce, &[], &mut inner).expect("sealing doesn't fail");
    [nonce.as_slice(), &inner, &tag].concat()
}

/// As the blob itself; as the blob's content; and as the inviter's data, to which the link is made to fit.
pub(crate) fn offer(input: &[u8]) {
    let fixed = link_to(&[7; 32]);
    assert!(bounded(input.len(), || fixed.open(input)).is_err(), "a blob that nobody sealed");
    assert!(fixed.open(&blob(&[7; 32], input)).is_err(), "data of another link");

    let secret = crypto::derive(context::INVITATION_DATA, input);
    let link = link_to(secret.expose());
    let mut inner = Writer::default();
    inner.bounded(input);
    let mut inner = inner.finish();
    if inner.len() > PLAIN_LEN {
        return;
    }
    inner.resize(PLAIN_LEN, 0);
    let mut sealed = blob(secret.expose(), &inner);
    let Ok(offer) = bounded(sealed.len(), || link.open(&sealed)) else { return };
    // The link's secret is the hash of the data's encoding: an equal link means that the encoding is the same.
    assert_eq!(offer.link(RELAYS), link, "one offer has two encodings");
    assert!(fixed.open(&sealed).is_err());
    let at = input.first().map_or(0, |b| usize::from(*b) * 32).min(sealed.len() - 1);
    sealed[at] ^= 1;
    assert!(link.open(&sealed).is_err(), "a garbled blob");
}

pub(crate) fn offer_seeds() -> Vec<Vec<u8>> {
    let queue = |n| QueueAddress { relay: RelayId([n; 32]), invited: Secret::new([n; 32]), key: Secret::new([n; 32]) };
    let data = |n: u8| {
        let mut w = Writer::default();
        w.bytes(&[9; 32]);
        QueueAddress::write_list(&(0..n).map(queue).collect::<Vec<_>>(), &mut w);
        w.bounded(&vec![3; usize::from(n) * 500]);
        w.finish()
    };
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let offer = Offer::new(vec![queue(1), queue(2)], vec![3; 2638], rng);
    let sealed = offer.seal(&offer.link(RELAYS), rng).expect("two queues fit");
    vec![data(0), data(1), data(2), data(8), data(9), sealed.into()]
}
