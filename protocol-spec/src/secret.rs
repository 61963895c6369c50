//! Secrets: boxed so that a move leaves no copy, erased on drop, silent in `Debug`, compared in constant time.

use core::fmt;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::codec::Reader;
use crate::error::Malformed;

/// `N` secret bytes. Not `Clone`: a copy is asked for by name ([`Secret::duplicate`]), so that it can be searched for.
pub struct Secret<const N: usize>(Box<Zeroizing<[u8; N]>>);

impl<const N: usize> Secret<N> {
    /// Draws a fresh secret.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self::filled(|bytes| rng.fill_bytes(bytes))
    }

    /// Takes over bytes, and erases those that were handed in. A copy that the caller keeps is the caller's to erase.
    #[must_use]
    pub fn new(mut bytes: [u8; N]) -> Self {
        let secret = Self::filled(|own| own.copy_from_slice(&bytes));
        bytes.zeroize();
        secret
    }

    /// Reads a secret to its place, with no other copy than the input's.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if too few bytes are left.
    pub fn read(r: &mut Reader<'_>, what: &'static str) -> Result<Self, Malformed> {
        let bytes = r.take(N, what)?;
        Ok(Self::filled(|own| own.copy_from_slice(bytes)))
    }

    fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Box::new(Zeroizing::new([0; N])));
        fill(&mut secret.0);
        secret
    }

    /// The bytes, for the moment of use.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// A second copy, erased like the first.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::filled(|own| own.copy_from_slice(self.expose()))
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
    fn what_is_read_is_what_stood_there() {
        let mut r = Reader::new(&[1, 2, 3]);
        assert_eq!(Secret::read(&mut r, "x"), Ok(Secret::new([1, 2])));
        assert_eq!(Secret::<2>::read(&mut r, "x"), Err(Malformed::Truncated("x")));
        assert_eq!(Secret::new([1, 2]).duplicate(), Secret::new([1, 2]));
    }

    #[test]
    fn equality_is_by_content() {
        assert_eq!(Secret::new([1; 32]), Secret::new([1; 32]));
        assert_ne!(Secret::new([1; 32]), Secret::new([2; 32]));
    }
}
