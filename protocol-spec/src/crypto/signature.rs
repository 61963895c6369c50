//! Ed25519 signatures of directory documents. Verification is strict (no small-order keys), one signature at a time,
//! so that every verifier agrees.

use core::fmt;

use ed25519_dalek::{Signature as Ed25519, Signer, SigningKey, VerifyingKey};

use crate::secret::Secret;

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// A secret signing key.
pub struct SignKey(Box<SigningKey>);

impl SignKey {
    /// The key with this seed.
    #[must_use]
    pub fn from_seed(seed: &Secret<32>) -> Self {
        Self(Box::new(SigningKey::from_bytes(seed.expose())))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs `message` as it is, for another protocol that frames what it signs itself: MLS. A key signs either with
    /// contexts or without, never both.
    #[must_use]
    pub fn sign_framed(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }

    /// Signs `context ‖ message`. The context names the kind of document, so that no signature fits another kind.
    #[must_use]
    pub fn sign(&self, context: &'static str, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(&framed(context, message)).to_bytes()
    }
}

impl fmt::Debug for SignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignKey(..)")
    }
}

/// Whether `signature` is by `public` over `context ‖ message`.
#[must_use]
pub fn verify(public: &[u8; 32], context: &'static str, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    VerifyingKey::from_bytes(public)
        .and_then(|key| key.verify_strict(&framed(context, message), &Ed25519::from_bytes(signature)))
        .is_ok()
}

fn framed(context: &'static str, message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(context.len() + 1 + message.len());
    framed.extend_from_slice(context.as_bytes());
    framed.push(0);
    framed.extend_from_slice(message);
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_fits_one_context_and_one_message() {
        let key = SignKey::from_seed(&Secret::new([5; 32]));
        let signature = key.sign("vote", b"message");
        assert!(verify(&key.public(), "vote", b"message", &signature));
        assert!(!verify(&key.public(), "consensus", b"message", &signature));
        assert!(!verify(&key.public(), "vote", b"messagf", &signature));
        assert!(!verify(&[0; 32], "vote", b"message", &signature));
    }
}
