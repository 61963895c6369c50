//! The only place that names primitives. Everything else asks for what it needs by purpose.
//!
//! | purpose | primitive | crate |
//! |---|---|---|
//! | hybrid key encapsulation | X-Wing (draft-connolly-cfrg-xwing-kem) | [`xwing`] |
//! | a hop's routing, sealed boxes | AES-256-GCM | aws-lc-rs |
//! | filler, payload | the keystream of AES-256-GCM, and GMAC | aws-lc-rs |
//! | hashes, derivation, keyed hashes | BLAKE3 | `blake3` |
//! | signatures | Ed25519 | [`signature`] |

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;

use crate::error::Refused;
use crate::ids::Hash;
use crate::params::{BOX_NONCE_LEN, TAG_LEN};
use crate::secret::Secret;

pub mod signature;
pub mod wide_block;
pub mod xwing;

/// A module of strings, and `ALL`, which can't miss one.
macro_rules! contexts {
    ($(#[$doc:meta])* $module:ident { $($(#[$item:meta])* $name:ident = $string:literal,)* }) => {
        $(#[$doc])*
        pub mod $module {
            $($(#[$item])* pub const $name: &str = $string;)*
            /// All of them, by the name of the constant.
            pub const ALL: &[(&str, &str)] = &[$((stringify!($name), $string)),*];
        }
    };
}

contexts! {
    /// Every domain-separation string of the protocol. One purpose each; none is a prefix of use in another place.
    context {
        /// A hop's root key, from the X-Wing shared secret.
        HOP = "posta v1 hop",
        /// A hop's AES-256-GCM key for the routing.
        HEADER = "posta v1 hop header",
        /// A hop's AES-256-CTR key for the bytes shifted in behind the routing.
        FILLER = "posta v1 hop filler",
        /// A hop's payload key, from which the wide block's round keys come.
        PAYLOAD = "posta v1 hop payload",
        /// A hop's replay tag.
        REPLAY = "posta v1 hop replay tag",
        /// Round keys of the wide block.
        WIDE_BLOCK = "posta v1 wide block rounds",
        /// A geometry's hash.
        GEOMETRY = "posta v1 geometry",
        /// A reader capability's hash.
        READER = "posta v1 queue reader",
        /// A writer capability's hash.
        WRITER = "posta v1 queue writer",
        /// A blob capability's hash.
        BLOB = "posta v1 blob reader",
        /// An inbox's id, from its attach secret.
        INBOX = "posta v1 inbox",
        /// A message key, from a queue key.
        BOX = "posta v1 sealed box",
        /// A message key of a conversation, from what MLS exports and a queue key.
        CONVERSATION_BOX = "posta v1 conversation box",
        /// Not of BLAKE3: the label under which MLS exports what a conversation's boxes are sealed with.
        EXPORTED = "posta v1 boxes",
        /// A verification code, from both ends' signature keys and the founding transcript.
        VERIFICATION = "posta v1 verification code",
        /// A blob's seal key, from an invitation's secret.
        INVITATION_SEAL = "posta v1 invitation seal",
        /// A blob's get capability, from an invitation's secret.
        INVITATION_GET = "posta v1 invitation get",
        /// The hash of the inviter's fixed data, which the blob's key depends on.
        INVITATION_DATA = "posta v1 invitation data",
        /// A consensus' hash.
        CONSENSUS = "posta v1 consensus",
        /// A descriptor's hash.
        DESCRIPTOR = "posta v1 descriptor",
        /// A vote's hash.
        VOTE = "posta v1 vote",
        /// The hash of a key epoch's mix keys.
        MIX_KEYS = "posta v1 mix keys",
        /// The order in which mixes are dealt to layers.
        LAYERS = "posta v1 layers",
        /// A random value, from the one before and what the authorities have revealed.
        SHARED_RANDOM = "posta v1 shared random",
        /// An authority's commit to what it will reveal.
        RANDOM_COMMIT = "posta v1 random commit",
        /// The signature of an identity key under a signing key.
        SIGN_CERTIFICATE = "posta v1 sign certificate",
        /// A relay's signature under its descriptor.
        SIGN_DESCRIPTOR = "posta v1 sign descriptor",
        /// An authority's signature under a consensus' header.
        SIGN_CONSENSUS = "posta v1 sign consensus",
        /// An authority's signature under its vote.
        SIGN_VOTE = "posta v1 sign vote",
        /// An authority's signature under its echo.
        SIGN_ECHO = "posta v1 sign echo",
        /// An authority's signature under its proposal.
        SIGN_PROPOSAL = "posta v1 sign proposal",
        /// A relay's signature under its withdrawal.
        SIGN_WITHDRAWAL = "posta v1 sign withdrawal",
        /// Signature by which a family takes a relay in.
        SIGN_FAMILY = "posta v1 sign family",
        /// The hash by which evidence is named.
        EVIDENCE = "posta v1 evidence",
        /// A puzzle's statement for making a queue.
        PUZZLE_CREATE = "posta v1 puzzle create",
        /// A puzzle's statement for a message to a contact queue.
        PUZZLE_SEND = "posta v1 puzzle send",
        /// A puzzle's digest, whose leading zero bits are counted.
        PUZZLE = "posta v1 puzzle",
    }
}

contexts! {
    /// Domain-separation strings of what stays on one machine and no second implementation needs to know. They stand
    /// here so that none is ever used for two things.
    local {
        /// A password that `create` asks for, as a relay keeps it.
        ADMISSION = "posta v1 node admission password",
        /// An operator's name, hashed to the id in the descriptor.
        OPERATOR = "posta v1 node operator name",
        /// The key that a one-time blob is locked to, as a store keeps it.
        BLOB_LOCK = "posta v1 store blob lock",
        /// What stands in for MLS in a simulation.
        MODEL = "posta v1 client model",
        /// The key of QUIC's stateless resets, from the link key.
        STATELESS_RESET = "posta v1 stateless reset",
        /// The check of a client store's header.
        STORE_CHECK = "posta v1 client store check",
        /// The key of the pages with record keys, from a client store's master key.
        STORE_PAGES = "posta v1 client store pages",
        /// The key by which a client store names its records, from the master key.
        STORE_NAMES = "posta v1 client store names",
        /// The key of one version of one record, from its slot and the master key.
        STORE_RECORD = "posta v1 client store record",
        /// The sealing of what is carried from one client's store to another.
        STORE_EXPORT = "posta v1 client export",
    }
}

/// BLAKE3 of `bytes` in the domain `context`.
#[must_use]
pub fn hash(context: &'static str, bytes: &[u8]) -> Hash {
    Hash(blake3::derive_key(context, bytes))
}

/// A 32-byte key from key material, for one purpose.
#[must_use]
pub fn derive(context: &'static str, material: &[u8]) -> Secret<32> {
    Secret::new(blake3::derive_key(context, material))
}

/// As [`derive()`], filling as many bytes as are asked for.
pub fn derive_into(context: &'static str, material: &[u8], out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(material);
    hasher.finalize_xof().fill(out);
    hasher.zeroize();
}

/// BLAKE3 keyed with `key`.
#[must_use]
pub fn keyed_hash(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, bytes).as_bytes()
}

/// Adds the keystream of AES-256-GCM under a one-time key with a zero nonce: AES-256-CTR from counter 2.
///
/// Taken from GCM's own code, tag and all, because that is the fastest counter mode there is (16 KiB: 1.6 us against 2.2
/// in aws-lc's own counter mode and 2.2 to 3.4 in `ctr`). The builder also calls it under a hop's routing key, to learn
/// which plaintext becomes the filler's ciphertext; the specification argues why this one reuse is harmless.
pub fn stream_xor(key: &[u8; 32], data: &mut [u8]) {
    if seal(key, [0; BOX_NONCE_LEN], &[], data).is_err() {
        data.fill(0); // The primitive itself has failed, which no input causes: nothing unencrypted may leave.
    }
}

/// GMAC of `data` under a one-time key with a zero nonce: 16 bytes that two different inputs share with a chance of
/// 2^-118 at 16 KiB, whoever chose them without the key. Not to be shown: it goes into a keyed hash.
#[must_use]
pub fn gmac(key: &[u8; 32], data: &[u8]) -> [u8; TAG_LEN] {
    // The primitive itself can't fail for lengths that memory holds.
    seal(key, [0; BOX_NONCE_LEN], data, &mut []).unwrap_or_default()
}

fn gcm(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Encrypts a hop's routing in place under its one-time key with a zero nonce; returns the tag.
///
/// # Errors
/// Only if the primitive itself fails, which no input causes.
pub fn seal_routing(key: &[u8; 32], aad: &[u8], routing: &mut [u8]) -> Result<[u8; TAG_LEN], Refused> {
    seal(key, [0; BOX_NONCE_LEN], aad, routing)
}

/// Opens a hop's routing into `plain`, which is as long. The input stays as it is, for another key to be tried.
///
/// # Errors
/// If the tag doesn't fit; `plain` is then of no use.
pub fn open_routing(
    key: &[u8; 32],
    aad: &[u8],
    routing: &[u8],
    tag: &[u8; TAG_LEN],
    plain: &mut [u8],
) -> Result<(), Refused> {
    let key = gcm(key).ok_or(Refused)?;
    let nonce = Nonce::assume_unique_for_key([0; BOX_NONCE_LEN]);
    key.open_separate_gather(nonce, Aad::from(aad), routing, tag, plain).map_err(|_| Refused)
}

/// AES-256-GCM in place; returns the tag. A pair of key and nonce is used once.
///
/// # Errors
/// Only if the primitive itself fails, which no input causes.
pub fn seal(key: &[u8; 32], nonce: [u8; BOX_NONCE_LEN], aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], Refused> {
    let key = gcm(key).ok_or(Refused)?;
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), data)
        .map_err(|_| Refused)?;
    tag.as_ref().try_into().map_err(|_| Refused)
}

/// Opens AES-256-GCM in place.
///
/// # Errors
/// If the tag doesn't fit; `data` is then of no use.
pub fn open(
    key: &[u8; 32],
    nonce: [u8; BOX_NONCE_LEN],
    aad: &[u8],
    data: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), Refused> {
    let key = gcm(key).ok_or(Refused)?;
    key.open_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), tag, data)
        .map(|_| ())
        .map_err(|_| Refused)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn contexts_are_distinct() {
        let all: Vec<_> = context::ALL.iter().chain(local::ALL).map(|(_, s)| s).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn the_keystream_is_the_one_of_gcm() {
        let key = [7; 32];
        let mut sealed = vec![0x11; 300];
        let mut plain = sealed.clone();
        seal_routing(&key, b"aad", &mut sealed).unwrap();
        stream_xor(&key, &mut plain);
        assert_eq!(sealed, plain);
    }

    #[test]
    fn a_flipped_bit_is_refused() {
        let key = [7; 32];
        let mut data = b"routing".to_vec();
        let tag = seal_routing(&key, b"aad", &mut data).unwrap();
        let mut garbled = data.clone();
        garbled[3] ^= 1;
        let mut plain = [0; 7];
        assert_eq!(open_routing(&key, b"aad", &garbled, &tag, &mut plain), Err(Refused));
        assert_eq!(open_routing(&key, b"another", &data, &tag, &mut plain), Err(Refused));
        open_routing(&key, b"aad", &data, &tag, &mut plain).unwrap();
        assert_eq!(&plain, b"routing");
    }
}
