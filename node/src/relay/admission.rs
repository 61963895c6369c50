//! Who may make queues here.

use posta_protocol::crypto;
use posta_protocol::ids::Hash;

const CONTEXT: &str = "posta v1 node admission password";

/// What a `create` must prove.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Nothing.
    Open,
    /// Knowledge of a password, kept as a hash.
    Password(Hash),
}

impl Admission {
    /// Everyone for an empty password, else those who know it.
    #[must_use]
    pub fn password(password: &str) -> Self {
        if password.is_empty() { Self::Open } else { Self::Password(crypto::hash(CONTEXT, password.as_bytes())) }
    }

    /// Whether this proof is enough.
    #[must_use]
    pub fn admits(&self, proof: &[u8]) -> bool {
        match self {
            Self::Open => true,
            Self::Password(hash) => crypto::hash(CONTEXT, proof).ct_eq(hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_asked_for_only_if_there_is_one() {
        assert!(Admission::password("").admits(b""));
        assert!(Admission::password("").admits(b"anything"));
        let closed = Admission::password("open sesame");
        assert!(closed.admits(b"open sesame") && !closed.admits(b"") && !closed.admits(b"open sesam"));
    }
}
