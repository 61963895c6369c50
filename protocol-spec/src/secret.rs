//! Secrets: boxed so that a move leaves no copy, erased on drop, silent in `Debug`, compared in constant time.

use core::fmt;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// `N` secret bytes. Not `Clone`: a copy is asked for by name ([`Secret::duplicate`]), so that it can be searched for.
pub struct Secret<const N: usize>(Box<Zeroizing<[u8; N]>>);

impl<const N: usize> Secret<N> {
    /// Draws a fresh secret.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Self(Box::new(Zeroizing::new([0; N])));
        rng.fill_bytes(secret.0.as_mut_slice());
        secret
    }

    /// Takes over bytes that the caller holds; the caller's own copy is the caller's to erase.
    #[must_use]
    pub fn new(bytes: [u8; N]) -> Self {
        Self(Box::new(Zeroizing::new(bytes)))
    }

    /// The bytes, for the moment of use.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// A second copy, erased like the first.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::new(**self.0)
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_says_nothing() {
        assert_eq!(format!("{:?}", Secret::new([0x5a; 4])), "Secret<4>(..)");
    }

    #[test]
    fn equality_is_by_content() {
        assert_eq!(Secret::new([1; 32]), Secret::new([1; 32]));
        assert_ne!(Secret::new([1; 32]), Secret::new([2; 32]));
    }
}
