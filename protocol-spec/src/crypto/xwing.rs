//! X-Wing: X25519 and ML-KEM-768 combined, draft-connolly-cfrg-xwing-kem (version 06 and later).
//!
//! X25519 comes from aws-lc-rs, ML-KEM from libcrux; both run in constant time. An all-zero X25519 result is refused,
//! after as much work as any other.

use core::fmt;
use core::hint::black_box;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use libcrux_ml_kem::mlkem768::{
    MlKem768KeyPair, MlKem768PublicKey, encapsulate, generate_key_pair, validate_public_key,
};
use sha3::{Digest, Sha3_256};
use shake::{ExtendableOutput, Shake256, Update, XofReader};
use zeroize::{Zeroize, Zeroizing};

use crate::codec::{Reader, Writer};
use crate::error::{Malformed, Misuse, Refused};
use crate::params::{KEM_CIPHERTEXT_LEN, KEM_ENCAPS_SEED_LEN, KEM_PUBLIC_KEY_LEN, KEM_SEED_LEN};
use crate::secret::Secret;

mod expanded;
use expanded::Expanded;

const LABEL: &[u8; 6] = br"\.//^\";
const ML_KEM_PUBLIC_KEY_LEN: usize = 1184;
const ML_KEM_CIPHERTEXT_LEN: usize = 1088;
const X25519_LEN: usize = 32;

/// u = 9, little-endian.
const BASE_POINT: [u8; X25519_LEN] = near(9);
/// 0, 1, the two values of order 8, p - 1, p and p + 1: all encodings, without the top bit, of points of small order.
const SMALL_ORDER: [[u8; X25519_LEN]; 7] = [
    [0; X25519_LEN],
    near(1),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    near_p(0xec),
    near_p(0xed),
    near_p(0xee),
];

const fn near(n: u8) -> [u8; X25519_LEN] {
    let mut u = [0; X25519_LEN];
    u[0] = n;
    u
}

/// 2^255 - 19 with another lowest byte.
const fn near_p(lowest: u8) -> [u8; X25519_LEN] {
    let mut u = [0xff; X25519_LEN];
    u[0] = lowest;
    u[X25519_LEN - 1] = 0x7f;
    u
}

/// A public key, checked when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct KemPublicKey(Box<[u8; KEM_PUBLIC_KEY_LEN]>);

/// A secret key, expanded from its seed.
pub struct KemSecretKey {
    ml_kem: Expanded,
    x25519: PrivateKey,
    public: KemPublicKey,
}

impl KemPublicKey {
    /// Takes over a key, checking ML-KEM's encoding (FIPS 203, section 7.2).
    ///
    /// # Errors
    /// [`Malformed::Value`] if the check fails.
    pub fn new(bytes: [u8; KEM_PUBLIC_KEY_LEN]) -> Result<Self, Malformed> {
        let key = Self(Box::new(bytes));
        if validate_public_key(&key.ml_kem()) { Ok(key) } else { Err(Malformed::Value("mix key")) }
    }

    /// Reads and checks a key.
    ///
    /// # Errors
    /// If it is truncated or fails the check.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Self::new(r.array("mix key")?)
    }

    /// Writes the key.
    pub fn write(&self, w: &mut Writer) {
        w.bytes(self.0.as_slice());
    }

    /// The encoded key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEM_PUBLIC_KEY_LEN] {
        &self.0
    }

    fn ml_kem(&self) -> MlKem768PublicKey {
        let mut bytes = [0; ML_KEM_PUBLIC_KEY_LEN];
        for (to, from) in bytes.iter_mut().zip(self.0.iter()) {
            *to = *from;
        }
        bytes.into()
    }

    fn x25519(&self) -> &[u8] {
        self.0.get(ML_KEM_PUBLIC_KEY_LEN..).unwrap_or_default()
    }

    /// A shared secret and the ciphertext that carries it, from 64 random bytes that are used once.
    ///
    /// # Errors
    /// [`Misuse::Key`] if the X25519 half is a point of small order.
    pub fn encapsulate(
        &self,
        seed: &Secret<KEM_ENCAPS_SEED_LEN>,
    ) -> Result<([u8; KEM_CIPHERTEXT_LEN], Secret<32>), Misuse> {
        const BAD: Misuse = Misuse::Key("mix key");
        let (for_m, for_x) = seed.expose().split_at(32);
        let mut randomness: [u8; 32] = for_m.try_into().map_err(|_| BAD)?;
        let (ct_m, mut ss_m) = encapsulate(&self.ml_kem(), randomness);
        randomness.zeroize();
        let ephemeral = PrivateKey::from_private_key(&X25519, for_x).map_err(|_| BAD)?;
        let ct_x = ephemeral.compute_public_key().map_err(|_| BAD)?;
        let shared = agree(&ephemeral, UnparsedPublicKey::new(&X25519, self.x25519()), BAD, |ss_x| {
            Ok(combine(&ss_m, ss_x, ct_x.as_ref(), self.x25519()))
        })?;
        ss_m.zeroize();
        let mut ciphertext = [0; KEM_CIPHERTEXT_LEN];
        for (to, from) in ciphertext.iter_mut().zip(ct_m.as_ref().iter().chain(ct_x.as_ref())) {
            *to = *from;
        }
        Ok((ciphertext, shared))
    }
}

impl fmt::Debug for KemPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KemPublicKey(..)")
    }
}

impl KemSecretKey {
    /// Expands a 32-byte seed: SHAKE256 gives 64 bytes for ML-KEM and 32 for X25519.
    ///
    /// # Errors
    /// [`Misuse::Key`] only if the primitive itself fails, which no seed causes.
    pub fn from_seed(seed: &Secret<KEM_SEED_LEN>) -> Result<Self, Misuse> {
        const BAD: Misuse = Misuse::Key("mix key seed");
        let mut for_m = Zeroizing::new([0; 64]);
        let mut for_x = Zeroizing::new([0; 32]);
        let mut shake = Shake256::default();
        shake.update(seed.expose());
        let mut expanded = shake.finalize_xof();
        expanded.read(for_m.as_mut_slice());
        expanded.read(for_x.as_mut_slice());
        let mut pair = generate_key_pair(*for_m);
        let x25519 = PrivateKey::from_private_key(&X25519, for_x.as_slice()).map_err(|_| BAD)?;
        let x_public = x25519.compute_public_key().map_err(|_| BAD)?;
        let mut public = [0; KEM_PUBLIC_KEY_LEN];
        for (to, from) in public.iter_mut().zip(pair.pk().iter().chain(x_public.as_ref())) {
            *to = *from;
        }
        let ml_kem = Expanded::new(pair.private_key());
        pair = MlKem768KeyPair::from([0; 2400].into(), [0; ML_KEM_PUBLIC_KEY_LEN].into());
        black_box(&pair);
        Ok(Self { ml_kem, x25519, public: KemPublicKey(Box::new(public)) })
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &KemPublicKey {
        &self.public
    }

    /// The shared secret of a ciphertext. A foreign or garbled one gives an unrelated secret (implicit rejection).
    ///
    /// # Errors
    /// [`Refused`] if the X25519 half contributes nothing.
    pub fn decapsulate(&self, ciphertext: &[u8; KEM_CIPHERTEXT_LEN]) -> Result<Secret<32>, Refused> {
        let (shared, sound) = self.decapsulate_to_the_end(ciphertext);
        if sound { Ok(shared) } else { Err(Refused) }
    }

    /// As [`KemSecretKey::decapsulate`], but always with a secret and whether it may be used: a point of small order is
    /// replaced by the base point before the multiplication, so that such a ciphertext costs what any other does.
    pub(crate) fn decapsulate_to_the_end(&self, ciphertext: &[u8; KEM_CIPHERTEXT_LEN]) -> (Secret<32>, bool) {
        let Some((ct_m, Some(ct_x))) =
            ciphertext.split_first_chunk::<ML_KEM_CIPHERTEXT_LEN>().map(|(m, x)| (*m, x.first_chunk()))
        else {
            return (Secret::new([0; 32]), false); // The lengths are constants: they add up.
        };
        let sound = !has_small_order(ct_x);
        let point = if sound { *ct_x } else { BASE_POINT };
        let mut ss_m = self.ml_kem.decapsulate(&ct_m.into());
        let public = self.public.x25519();
        let shared = agree(&self.x25519, UnparsedPublicKey::new(&X25519, point), (), |ss_x| {
            Ok(combine(&ss_m, ss_x, ct_x, public))
        });
        ss_m.zeroize();
        match shared {
            Ok(shared) => (shared, sound),
            // The primitive itself has failed, which no ciphertext causes any more.
            Err(()) => (Secret::new([0; 32]), false),
        }
    }
}

/// Whether a peer's value is on the curve or its twist with an order that divides 8: then its product with any secret key
/// is zero (Bernstein, Curve25519 (2006); RFC 7748, section 6.1). Public data: it is compared with all of them, so that the
/// cost is the same.
fn has_small_order(point: &[u8; X25519_LEN]) -> bool {
    let mut masked = *point;
    if let Some(last) = masked.last_mut() {
        *last &= 0x7f; // X25519 ignores the top bit.
    }
    SMALL_ORDER.iter().fold(false, |found, small| found | (masked == *small))
}

impl fmt::Debug for KemSecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KemSecretKey(..)")
    }
}

fn combine(ss_m: &[u8], ss_x: &[u8], ct_x: &[u8], pk_x: &[u8]) -> Secret<32> {
    let mut h = Sha3_256::new();
    for part in [ss_m, ss_x, ct_x, pk_x, LABEL] {
        Digest::update(&mut h, part);
    }
    Secret::new(h.finalize().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use x_wing::{Decapsulate, DecapsulationKey, Decapsulator, KeyExport};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn agrees_with_an_independent_implementation(seed in any::<[u8; 32]>(), eseed in prop::collection::vec(any::<u8>(), 64)) {
            let ours = KemSecretKey::from_seed(&Secret::new(seed)).unwrap();
            let theirs = DecapsulationKey::from(seed);
            let their_public = theirs.encapsulation_key().to_bytes();
            prop_assert_eq!(ours.public().as_bytes().as_slice(), their_public.as_slice());
            let eseed: [u8; 64] = eseed.try_into().unwrap();
            let (ct, ss) = ours.public().encapsulate(&Secret::new(eseed)).unwrap();
            let (their_ct, their_ss) = theirs.encapsulation_key().encapsulate_deterministic(&eseed.into());
            prop_assert_eq!(ct.as_slice(), their_ct.as_slice());
            prop_assert_eq!(ss.expose().as_slice(), their_ss.as_slice());
            let (back, their_back) = (ours.decapsulate(&ct).unwrap(), theirs.decapsulate(&ct.into()));
            prop_assert_eq!(back.expose(), ss.expose());
            prop_assert_eq!(their_back.as_slice(), ss.expose().as_slice());
        }
    }

    #[test]
    fn an_all_zero_x25519_result_is_refused() {
        let key = KemSecretKey::from_seed(&Secret::new([1; 32])).unwrap();
        let (mut ct, _) = key.public().encapsulate(&Secret::new([2; 64])).unwrap();
        for point in SMALL_ORDER {
            for top in [0, 0x80] {
                ct[ML_KEM_CIPHERTEXT_LEN..].copy_from_slice(&point);
                *ct.last_mut().unwrap() |= top;
                assert!(key.decapsulate(&ct).is_err());
            }
        }
    }

    #[test]
    fn the_list_of_points_of_small_order_is_what_the_primitive_refuses() {
        let key = PrivateKey::from_private_key(&X25519, &[3; 32]).unwrap();
        let refused = |point: [u8; 32]| agree(&key, UnparsedPublicKey::new(&X25519, point), (), |_| Ok(())).is_err();
        assert!(SMALL_ORDER.into_iter().all(refused));
        assert!(!refused(BASE_POINT) && !refused(near(2)) && !refused(near_p(0xeb)) && !refused(near_p(0xef)));
        assert!(SMALL_ORDER.iter().all(has_small_order));
        assert!(!has_small_order(&BASE_POINT));
    }
}
