//! The authorities that a client was shipped with.

use core::net::SocketAddr;

use crate::error::Misuse;
use crate::ids::{AuthorityId, LinkPublicKey};
use crate::params::MAX_AUTHORITIES;

/// One authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its offline identity key.
    pub id: AuthorityId,
    /// The key that it proves on connections.
    pub link_key: LinkPublicKey,
    /// Where it answers.
    pub addresses: Vec<SocketAddr>,
}

/// All authorities of a network, sorted by identity; at least one, at most [`MAX_AUTHORITIES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    list: Vec<Authority>,
}

impl Authorities {
    /// Takes a list in any order.
    ///
    /// # Errors
    /// [`Misuse::TooLong`] for more than [`MAX_AUTHORITIES`], [`Misuse::Key`] for none, or for the same one twice.
    pub fn new(mut list: Vec<Authority>) -> Result<Self, Misuse> {
        if list.len() > MAX_AUTHORITIES {
            return Err(Misuse::TooLong { what: "the list of authorities", got: list.len(), max: MAX_AUTHORITIES });
        }
        if list.is_empty() {
            return Err(Misuse::Key("an empty list of authorities"));
        }
        list.sort_by_key(|a| a.id);
        if list.windows(2).any(|pair| matches!(pair, [a, b] if a.id == b.id)) {
            return Err(Misuse::Key("an authority's identity that is listed twice"));
        }
        Ok(Self { list })
    }

    /// All of them, sorted by identity.
    #[must_use]
    pub fn list(&self) -> &[Authority] {
        &self.list
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &AuthorityId) -> Option<&Authority> {
        self.list.binary_search_by_key(id, |a| a.id).ok().and_then(|i| self.list.get(i))
    }

    /// Signatures that make a consensus valid: ⌊2n/3⌋ + 1.
    #[must_use]
    pub const fn threshold(&self) -> usize {
        self.list.len() * 2 / 3 + 1
    }

    /// So many authorities contain at least one honest one, as long as fewer than a third lie.
    #[must_use]
    pub const fn one_honest(&self) -> usize {
        self.list.len() - self.threshold() + 1
    }
}
