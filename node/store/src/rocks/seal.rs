//! Sealing what others have entrusted to us: messages and blobs.
//!
//! ```text
//! sealed value   AES-256-GCM of the value under a key of its own | tag 16     in Messages and Blobs
//!                nonce: zeros; the key is drawn for this one value
//!                associated data: name
//! seal record    key id u32 | salt 16 | wrapped 32                            in Seals, under the name
//!       wrapped  the value's key XOR keyed_hash(the store's key with this id, salt | name)
//! name           1 | queue 32 | sequence u64      of a message
//!                2 | blob 32                      of a blob
//! ```
//! Two steps, so that what is kept can be put under a new key of the store by writing some 90 bytes anew instead of
//! 11 KB. `renew.rs` says when that happens; after it, whatever had been erased before can't be opened any more, by
//! whoever has the whole disk and the store's keys.
//!
//! Measured with 11 KB: a durable send in a batch of 64 takes 31 µs of CPU time, and took 28 µs without. Erasing opens
//! what it erases, to learn its length and hour: 5 µs more for a message.

use posta_protocol::codec::Reader;
use posta_protocol::crypto;
use posta_protocol::params::{BOX_NONCE_LEN, TAG_LEN};
use posta_protocol::secret::Secret;
use rand::rngs::StdRng;
use rand::{Rng, make_rng};

use super::keyfile::KeyFile;
use crate::batch::Broken;
use crate::keys::Table;

const SALT_LEN: usize = 16;
/// Bytes of a seal record.
pub(super) const RECORD_LEN: usize = 4 + SALT_LEN + 32;
const NONCE: [u8; BOX_NONCE_LEN] = [0; BOX_NONCE_LEN];

/// The name of a value that is sealed: its table, then its key. `None` for a table whose values aren't.
pub(super) fn name(table: Table, key: &[u8]) -> Option<Vec<u8>> {
    let tag = match table {
        Table::Messages => 1,
        Table::Blobs => 2,
        Table::Meta | Table::Queues | Table::Index | Table::Expiry | Table::Seals => return None,
    };
    let mut name = Vec::with_capacity(1 + key.len());
    name.push(tag);
    name.extend_from_slice(key);
    Some(name)
}

/// Seals and opens.
pub(super) struct Sealer {
    pub(super) keys: KeyFile,
    pub(super) rng: StdRng,
}

impl Sealer {
    pub(super) fn new(keys: KeyFile) -> Self {
        Self { keys, rng: make_rng() }
    }

    /// Seals a value in place; returns its seal record.
    pub(super) fn seal(&mut self, name: &[u8], value: &mut Vec<u8>) -> Result<Vec<u8>, Broken> {
        let key = Secret::random(&mut self.rng);
        let tag = crypto::seal(key.expose(), NONCE, name, value).map_err(|_| Broken)?;
        value.extend_from_slice(&tag);
        Ok(self.wrap(name, &key))
    }

    /// Opens a value.
    pub(super) fn open(&self, name: &[u8], record: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Broken> {
        let (_, key) = self.unwrap(name, record)?;
        let (body, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Broken)?;
        let mut value = body.to_vec();
        crypto::open(key.expose(), NONCE, name, &mut value, tag).map_err(|_| Broken)?;
        Ok(value)
    }

    /// The record under the key in use, if it is under another one.
    pub(super) fn renew(&mut self, name: &[u8], record: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let (id, key) = self.unwrap(name, record)?;
        Ok((id != self.keys.current().0).then(|| self.wrap(name, &key)))
    }

    fn wrap(&mut self, name: &[u8], key: &Secret<32>) -> Vec<u8> {
        let mut salt = [0; SALT_LEN];
        self.rng.fill_bytes(&mut salt);
        let (id, under) = self.keys.current();
        let pad = pad(under, &salt, name);
        let mut record = Vec::with_capacity(RECORD_LEN);
        record.extend_from_slice(&id.to_le_bytes());
        record.extend_from_slice(&salt);
        record.extend(key.expose().iter().zip(pad.expose()).map(|(k, p)| k ^ p));
        record
    }

    /// Id of the store's key, and the value's key.
    fn unwrap(&self, name: &[u8], record: &[u8]) -> Result<(u32, Secret<32>), Broken> {
        let mut r = Reader::new(record);
        let (id, salt, wrapped) = (r.u32("key id")?, r.array("salt")?, r.array::<32>("wrapped key")?);
        r.finish("seal record")?;
        let pad = pad(self.keys.get(id).ok_or(Broken)?, &salt, name);
        let mut key = wrapped;
        key.iter_mut().zip(pad.expose()).for_each(|(k, p)| *k ^= p);
        Ok((id, Secret::new(key)))
    }
}

fn pad(under: &Secret<32>, salt: &[u8; SALT_LEN], name: &[u8]) -> Secret<32> {
    // 58 bytes for a message: one block of the hash.
    let mut input = Vec::with_capacity(SALT_LEN + name.len());
    input.extend_from_slice(salt);
    input.extend_from_slice(name);
    Secret::new(crypto::keyed_hash(under.expose(), &input))
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn sealer() -> (tempfile::TempDir, Sealer) {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFile::create(folder.path(), &mut ChaCha20Rng::seed_from_u64(1)).unwrap();
        (folder, Sealer::new(keys))
    }

    #[test]
    fn a_value_opens_under_its_name_only() {
        let (_folder, mut sealer) = sealer();
        let names = [name(Table::Messages, &[7; 40]).unwrap(), name(Table::Blobs, &[7; 32]).unwrap()];
        let mut sealed = b"value".to_vec();
        let record = sealer.seal(&names[0], &mut sealed).unwrap();
        assert_eq!((record.len(), sealed.len()), (RECORD_LEN, 5 + TAG_LEN));
        assert_eq!(sealer.open(&names[0], &record, &sealed).unwrap(), b"value");
        assert!(sealer.open(&names[1], &record, &sealed).is_err());
        for (r, s) in [(0, 1), (1, 0)] {
            for at in [0, 4, 20] {
                let (mut record, mut sealed) = (record.clone(), sealed.clone());
                record[at] ^= r;
                sealed[at] ^= s;
                assert!(sealer.open(&names[0], &record, &sealed).is_err());
            }
        }
        assert!(name(Table::Queues, &[1; 32]).is_none());
    }

    #[test]
    fn equal_values_don_t_look_alike() {
        let (_folder, mut sealer) = sealer();
        let (mut a, mut b) = (vec![1; 100], vec![1; 100]);
        let (ra, rb) = (sealer.seal(b"name", &mut a).unwrap(), sealer.seal(b"name", &mut b).unwrap());
        assert!(a != b && ra[4..20] != rb[4..20] && ra[20..] != rb[20..]);
    }

    #[test]
    fn what_was_not_renewed_can_not_be_opened_once_its_key_is_gone() {
        let (_folder, mut sealer) = sealer();
        let (mut kept, mut erased) = (b"kept".to_vec(), b"erased".to_vec());
        let kept_record = sealer.seal(b"a", &mut kept).unwrap();
        let erased_record = sealer.seal(b"b", &mut erased).unwrap();
        assert!(sealer.renew(b"a", &kept_record).unwrap().is_none());
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        sealer.keys.begin(rng).unwrap();
        assert_eq!(sealer.open(b"a", &kept_record, &kept).unwrap(), b"kept", "both keys are there");
        let renewed = sealer.renew(b"a", &kept_record).unwrap().unwrap();
        sealer.keys.end().unwrap();
        assert_eq!(sealer.open(b"a", &renewed, &kept).unwrap(), b"kept");
        assert!(sealer.open(b"a", &kept_record, &kept).is_err());
        assert!(sealer.open(b"b", &erased_record, &erased).is_err());
    }
}
