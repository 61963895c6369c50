//! A seeded generator that remembers what it handed out, so that vectors can state it.

use core::convert::Infallible;

use rand_chacha::ChaCha20Rng;
use rand_core::{SeedableRng, TryCryptoRng, TryRng};

/// ChaCha20 seeded by a vector's name: a new vector changes no other one.
pub(crate) struct Recorder {
    inner: ChaCha20Rng,
    draws: Vec<Vec<u8>>,
}

impl Recorder {
    pub(crate) fn new(file: &str, name: &str) -> Self {
        let seed = blake3::derive_key("posta test vectors", format!("{file}: {name}").as_bytes());
        Self { inner: ChaCha20Rng::from_seed(seed), draws: Vec::new() }
    }

    /// Bytes for the vector's own inputs.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().unwrap()
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        let Ok(()) = self.inner.try_fill_bytes(&mut bytes);
        bytes
    }

    /// What others drew so far, one item a draw; the record begins anew.
    pub(crate) fn take(&mut self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.draws)
    }
}

impl TryRng for Recorder {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("the vectors record bytes only")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("the vectors record bytes only")
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        let Ok(()) = self.inner.try_fill_bytes(to);
        self.draws.push(to.to_vec());
        Ok(())
    }
}

impl TryCryptoRng for Recorder {}
