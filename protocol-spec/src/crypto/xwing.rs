//! X-Wing: X25519 and ML-KEM-768 combined, draft-connolly-cfrg-xwing-kem (version 06 and later).
//!
//! X25519 comes from aws-lc-rs, ML-KEM from libcrux; both run in constant time. An all-zero X25519 result is refused.

use core::fmt;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use libcrux_ml_kem::mlkem768::{
    MlKem768Ciphertext, MlKem768PrivateKey, MlKem768PublicKey, decapsulate, encapsulate, generate_key_pair,
    validate_public_key,
};
use sha3::{Digest, Sha3_256};
use shake::{ExtendableOutput, Shake256, Update, XofReader};
use zeroize::{Zeroize, Zeroizing};

use crate::codec::{Reader, Writer};
use crate::error::{Malformed, Misuse, Refused};
use crate::params::{KEM_CIPHERTEXT_LEN, KEM_ENCAPS_SEED_LEN, KEM_PUBLIC_KEY_LEN, KEM_SEED_LEN};
use crate::secret::Secret;

const LABEL: &[u8; 6] = br"\.//^\";
const ML_KEM_PUBLIC_KEY_LEN: usize = 1184;
const ML_KEM_CIPHERTEXT_LEN: usize = 1088;

/// A public key, checked when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct KemPublicKey(Box<[u8; KEM_PUBLIC_KEY_LEN]>);

/// A secret key, expanded from its seed.
pub struct KemSecretKey {
    ml_kem: Box<MlKem768PrivateKey>,
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
        let pair = generate_key_pair(*for_m);
        let x25519 = PrivateKey::from_private_key(&X25519, for_x.as_slice()).map_err(|_| BAD)?;
        let x_public = x25519.compute_public_key().map_err(|_| BAD)?;
        let mut public = [0; KEM_PUBLIC_KEY_LEN];
        for (to, from) in public.iter_mut().zip(pair.pk().iter().chain(x_public.as_ref())) {
            *to = *from;
        }
        let ml_kem = Box::new(MlKem768PrivateKey::from(*pair.sk()));
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
        let (ct_m, ct_x) = ciphertext.split_at(ML_KEM_CIPHERTEXT_LEN);
        let ct_m: MlKem768Ciphertext = ct_m.try_into().map_err(|_| Refused)?;
        let mut ss_m = decapsulate(&self.ml_kem, &ct_m);
        let shared = agree(&self.x25519, UnparsedPublicKey::new(&X25519, ct_x), Refused, |ss_x| {
            Ok(combine(&ss_m, ss_x, ct_x, self.public.x25519()))
        });
        ss_m.zeroize();
        shared
    }
}

impl Drop for KemSecretKey {
    fn drop(&mut self) {
        // aws-lc erases its own half.
        *self.ml_kem = MlKem768PrivateKey::from([0; 2400]);
    }
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
        ct[ML_KEM_CIPHERTEXT_LEN..].fill(0);
        assert!(key.decapsulate(&ct).is_err());
    }
}
