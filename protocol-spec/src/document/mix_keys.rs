//! The mix keys of one key epoch: fetched whole by everyone, so that nobody tells which relays they are interested in.

use super::Consensus;
use crate::codec::{Reader, Writer};
use crate::crypto::context::MIX_KEYS;
use crate::crypto::hash;
use crate::crypto::xwing::KemPublicKey;
use crate::error::{Malformed, Untrusted};
use crate::ids::{Hash, KeyEpoch, RelayId};
use crate::params::{KEM_PUBLIC_KEY_LEN, MAX_MIX_KEYS_LEN, MAX_RELAYS};

const WHAT: &str = "the part of mix keys";

/// Mix keys, sorted by relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MixKeys {
    /// The key epoch.
    pub key_epoch: KeyEpoch,
    /// A key for each relay that has a place in this key epoch, sorted.
    pub keys: Vec<(RelayId, KemPublicKey)>,
}

impl MixKeys {
    /// A relay's key.
    #[must_use]
    pub fn get(&self, id: &RelayId) -> Option<&KemPublicKey> {
        self.keys.binary_search_by_key(id, |(id, _)| *id).ok().and_then(|i| self.keys.get(i)).map(|(_, key)| key)
    }

    /// The part's canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(16 + self.keys.len() * (RelayId::LEN + KEM_PUBLIC_KEY_LEN));
        w.u64(self.key_epoch.0);
        w.count(self.keys.len());
        for (id, key) in &self.keys {
            id.write(&mut w);
            key.write(&mut w);
        }
        w.finish()
    }

    /// The hash of encoded bytes, by which the consensus binds them.
    #[must_use]
    pub fn hash(encoded: &[u8]) -> Hash {
        hash(MIX_KEYS, encoded)
    }
}

/// Mix keys that parse, and that nothing else is known about.
#[derive(Debug)]
pub struct UnverifiedMixKeys {
    keys: MixKeys,
    hash: Hash,
}

impl UnverifiedMixKeys {
    /// Keys that were checked, with the hash of their encoding.
    pub(super) const fn new(keys: MixKeys, hash: Hash) -> Self {
        Self { keys, hash }
    }

    /// The part's bytes, which nobody has vouched for yet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.keys.encode()
    }

    pub(super) const fn keys(&self) -> &MixKeys {
        &self.keys
    }

    /// Parses a part. Every key is checked.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_MIX_KEYS_LEN {
            return Err(Malformed::TooLong(WHAT));
        }
        let mut r = Reader::new(bytes);
        let key_epoch = KeyEpoch(r.u64(WHAT)?);
        let n = r.count(MAX_RELAYS, WHAT)?;
        let mut keys: Vec<(RelayId, KemPublicKey)> = Vec::with_capacity(n.min(r.left() / KEM_PUBLIC_KEY_LEN));
        for _ in 0..n {
            let id = RelayId::read(&mut r)?;
            if keys.last().is_some_and(|(last, _)| *last >= id) {
                return Err(Malformed::Value(WHAT));
            }
            keys.push((id, KemPublicKey::read(&mut r)?));
        }
        r.finish(WHAT)?;
        Ok(Self { keys: MixKeys { key_epoch, keys }, hash: MixKeys::hash(bytes) })
    }

    /// Checks that the consensus binds exactly this part.
    ///
    /// # Errors
    /// [`Untrusted::Hash`].
    pub fn verify(self, consensus: &Consensus) -> Result<MixKeys, Untrusted> {
        match consensus.mix_keys_hash(self.keys.key_epoch) {
            Some(hash) if hash == self.hash => Ok(self.keys),
            _ => Err(Untrusted::Hash(WHAT)),
        }
    }
}
