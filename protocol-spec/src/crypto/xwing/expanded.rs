//! ML-KEM-768's secret key, expanded once as far as the machine allows.
//!
//! Decapsulation encrypts again, for which it needs the public matrix. Kept beside the key (7.8 KB in all) it isn't
//! sampled anew for each packet: 9.8 us instead of 20.1. libcrux offers this for each instruction set by itself, so
//! that the choice is made here, once, when the key is made.

use core::hint::black_box;

use libcrux_ml_kem::mlkem768::{MlKem768Ciphertext, MlKem768PrivateKey};

#[cfg(target_arch = "x86_64")]
use libcrux_ml_kem::mlkem768::avx2::unpacked as avx2;

/// A secret key, ready for use.
pub(super) enum Expanded {
    #[cfg(target_arch = "x86_64")]
    Avx2(Box<avx2::MlKem768KeyPairUnpacked>),
    Packed(Box<MlKem768PrivateKey>),
}

impl Expanded {
    pub(super) fn new(key: &MlKem768PrivateKey) -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            let mut pair = Box::new(avx2::init_key_pair());
            avx2::key_pair_from_private_mut(key, &mut pair);
            return Self::Avx2(pair);
        }
        Self::Packed(Box::new(MlKem768PrivateKey::from(*key.as_slice())))
    }

    /// The shared secret; an unrelated one for a ciphertext that isn't for this key (implicit rejection, FIPS 203).
    pub(super) fn decapsulate(&self, ciphertext: &MlKem768Ciphertext) -> [u8; 32] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(pair) => avx2::decapsulate(pair, ciphertext),
            Self::Packed(key) => libcrux_ml_kem::mlkem768::decapsulate(key, ciphertext),
        }
    }
}

impl Drop for Expanded {
    fn drop(&mut self) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(pair) => {
                **pair = avx2::init_key_pair();
                black_box(&**pair); // Or the compiler may leave out what nobody reads.
            }
            Self::Packed(key) => {
                **key = MlKem768PrivateKey::from([0; 2400]);
                black_box(&**key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libcrux_ml_kem::mlkem768::{encapsulate, generate_key_pair};

    #[test]
    fn expanded_or_not_the_secret_is_the_same_for_good_and_for_garbled_ciphertexts() {
        for n in 0..16 {
            let pair = generate_key_pair([n; 64]);
            let expanded = Expanded::new(pair.private_key());
            let packed = Expanded::Packed(Box::new(MlKem768PrivateKey::from(*pair.sk())));
            let (good, secret) = encapsulate(pair.public_key(), [n + 1; 32]);
            assert_eq!((expanded.decapsulate(&good), packed.decapsulate(&good)), (secret, secret));
            let mut garbled = *good.as_slice();
            garbled[usize::from(n) * 60] ^= 1;
            let garbled = garbled.into();
            assert_ne!(expanded.decapsulate(&garbled), secret);
            assert_eq!(expanded.decapsulate(&garbled), packed.decapsulate(&garbled));
        }
    }
}
