//! The payload's permutation: any flipped bit anywhere destroys all of it.
//!
//! LIONESS (Anderson and Biham, 1996) in shape: four rounds over a left half of 32 bytes and a right half of the rest.
//! Rounds 1 and 3 add to the right half an AES-256-CTR keystream whose key is the keyed hash of the left half. Rounds 2
//! and 4 add to the left half the keyed hash of the right half's GMAC: a universal hash under a key of its own and a
//! pseudo-random function of it are together a pseudo-random function (hash-then-PRF; Carter and Wegman, Shoup), which
//! is what the proof of four Feistel rounds asks for. One key of a hop permutes one payload, so that nobody sees a
//! second value under it. Measured for 16 KiB: GMAC 0.8 us, BLAKE3 over the whole half 2.6 us.

use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{context, derive_into, gmac, keyed_hash, stream_xor};
use crate::params::PAYLOAD_CHECK_LEN;

/// Keys of the rounds: one for rounds 1 and 3, two (universal hash, pseudo-random function) for 2 and 4.
const KEYS: usize = 6;

/// The round keys.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct WideBlock {
    keys: [[u8; 32]; KEYS],
}

impl WideBlock {
    /// Derives the round keys from one key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        // Into its own place, so that a copy isn't left behind.
        let mut block = Self { keys: [[0; 32]; KEYS] };
        derive_into(context::WIDE_BLOCK, key, block.keys.as_flattened_mut());
        block
    }

    /// The permutation. Blocks shorter than the left half are left as they are; a geometry has none.
    pub fn forward(&self, block: &mut [u8]) {
        let [k1, u2, k2, k3, u4, k4] = &self.keys;
        let Some((left, right)) = block.split_first_chunk_mut::<PAYLOAD_CHECK_LEN>() else { return };
        stream(k1, left, right);
        absorb(u2, k2, right, left);
        stream(k3, left, right);
        absorb(u4, k4, right, left);
    }

    /// Its inverse.
    pub fn inverse(&self, block: &mut [u8]) {
        let [k1, u2, k2, k3, u4, k4] = &self.keys;
        let Some((left, right)) = block.split_first_chunk_mut::<PAYLOAD_CHECK_LEN>() else { return };
        absorb(u4, k4, right, left);
        stream(k3, left, right);
        absorb(u2, k2, right, left);
        stream(k1, left, right);
    }
}

fn stream(key: &[u8; 32], left: &[u8; PAYLOAD_CHECK_LEN], right: &mut [u8]) {
    let mut stream_key = keyed_hash(key, left);
    stream_xor(&stream_key, right);
    stream_key.zeroize();
}

fn absorb(universal: &[u8; 32], key: &[u8; 32], right: &[u8], left: &mut [u8; PAYLOAD_CHECK_LEN]) {
    let mut tag = gmac(universal, right);
    let mut hash = keyed_hash(key, &tag);
    for (l, h) in left.iter_mut().zip(&hash) {
        *l ^= h;
    }
    tag.zeroize();
    hash.zeroize();
}

impl fmt::Debug for WideBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WideBlock(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn inverse_undoes_forward(key in any::<[u8; 32]>(), block in prop::collection::vec(any::<u8>(), 33..2000)) {
            let w = WideBlock::new(&key);
            let mut b = block.clone();
            w.forward(&mut b);
            prop_assert_ne!(&b, &block);
            w.inverse(&mut b);
            prop_assert_eq!(b, block);
        }

        #[test]
        fn a_flipped_bit_destroys_everything(key in any::<[u8; 32]>(), at in 0usize..1056 * 8) {
            let w = WideBlock::new(&key);
            let mut a = vec![0; 1056];
            let mut b = a.clone();
            b[at / 8] ^= 1 << (at % 8);
            w.inverse(&mut a);
            w.inverse(&mut b);
            let differing: u32 = a.iter().zip(&b).map(|(x, y)| (x ^ y).count_ones()).sum();
            // Half of 8,448 bits differ; six standard deviations are 276.
            prop_assert!((3948..=4500).contains(&differing), "{differing}");
        }
    }
}
