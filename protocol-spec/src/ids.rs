//! A type per identifier and role. None of them prints itself in full: `Debug` gives nothing that a log may not hold.

use core::fmt;

use subtle::ConstantTimeEq;

use crate::codec::{Reader, Writer};
use crate::error::Malformed;

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Encoded length in bytes.
            pub const LEN: usize = $len;

            /// Reads the identifier.
            ///
            /// # Errors
            /// If the input is too short.
            pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
                Ok(Self(r.array(stringify!($name))?))
            }

            /// Writes the identifier.
            pub fn write(&self, w: &mut Writer) {
                w.bytes(&self.0);
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

bytes_id!(
    /// A relay: its Ed25519 identity key. Public, listed in the consensus.
    RelayId, 32
);
bytes_id!(
    /// An authority: its Ed25519 identity key. Public, shipped with clients.
    AuthorityId, 32
);
bytes_id!(
    /// The Ed25519 key that a relay or authority proves in the TLS handshake. Public.
    LinkPublicKey, 32
);
bytes_id!(
    /// The Ed25519 key that signs documents until its certificate expires. Public.
    SigningPublicKey, 32
);
bytes_id!(
    /// A client inbox at its entry relay: the hash of the attach secret.
    InboxId, 32
);
bytes_id!(
    /// The one-time number in a reply block's last command, by which its creator recognises the answer.
    SurbId, 16
);
bytes_id!(
    /// A BLAKE3 hash of a document, geometry or part.
    Hash, 32
);
bytes_id!(
    /// The hash of a queue's reader capability; the store's key for the queue.
    QueueId, 32
);
bytes_id!(
    /// The hash of a writer capability, as the store keeps it.
    WriterId, 32
);
bytes_id!(
    /// The hash of the capability that reads a blob, as the store keeps it.
    BlobId, 32
);
bytes_id!(
    /// A store's incarnation: drawn when a store is made or restored, in every answer.
    Incarnation, 16
);
bytes_id!(
    /// A message to a contact queue: drawn by its writer, so that it can be sent again.
    MessageId, 16
);
bytes_id!(
    /// Who runs a relay, as its operator declares it: all relays of one operator carry the same value.
    OperatorId, 16
);

impl RelayId {
    /// The first bytes in hexadecimal, for operators' eyes only: a relay's identity is public.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.iter().take(4).map(|b| format!("{b:02x}")).collect()
    }
}

impl AuthorityId {
    /// The first bytes in hexadecimal: an authority's identity is public.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.iter().take(4).map(|b| format!("{b:02x}")).collect()
    }
}

impl Hash {
    /// Compares without telling by time where two hashes differ.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A directory epoch: one consensus each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A key epoch: mix keys and layers change together with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyEpoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl KeyEpoch {
    /// The key epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
