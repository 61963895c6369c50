//! Who may make queues here.

use posta_protocol::admission::Proof;
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
    pub fn admits(&self, proof: &Proof) -> bool {
        match (self, proof) {
            (Self::Open, _) => true,
            (Self::Password(hash), Proof::Password(password)) => crypto::hash(CONTEXT, password).ct_eq(hash),
            (Self::Password(_), _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_asked_for_only_if_there_is_one() {
        let word = |word: &str| Proof::Password(word.as_bytes().to_vec().into());
        assert!(Admission::password("").admits(&Proof::Nothing));
        assert!(Admission::password("").admits(&word("anything")));
        let closed = Admission::password("open sesame");
        assert!(closed.admits(&word("open sesame")));
        assert!(!closed.admits(&Proof::Nothing) && !closed.admits(&word("")) && !closed.admits(&word("open sesam")));
    }
}
