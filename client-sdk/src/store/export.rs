//! A file that carries records from one folder to another, sealed by a passphrase.
//!
//! ```text
//! 0            16               178        190
//! | magic      | header         | nonce    | sealed: count, (name, value) ..., zeros | tag |
//! ```
//! The header is that of a store, with a master key of its own; the key of the rest is derived from it. The length is
//! padded, so that it says little.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::{self, local};
use posta_protocol::error::Malformed;
use posta_protocol::secret::Secret;
use rand::Rng;
use rand::rngs::StdRng;
use zeroize::Zeroizing;

use super::header::{Cost, Header};
use super::{MAX_NAME, MAX_VALUE, MODE, NONCE_LEN, Records, StoreError, TAG_LEN};

const MAGIC: &[u8; 16] = b"posta export v1\n";
/// Bytes of a header.
const HEADER: usize = 162;
/// The length is a multiple of this.
const PAD: usize = 64 << 10;
/// Bytes of an export, at most: all contacts with all that may be kept of them.
const MAX_EXPORT: u64 = 1 << 30;
/// Records of an export, at most.
const MAX_RECORDS: usize = 1 << 20;

/// Writes records into a new file, readable by its owner only. They are on disk when this returns.
///
/// # Errors
/// What the system says, above all if the file is there already.
pub fn write_export(path: &Path, passphrase: &[u8], cost: Cost, records: &Records) -> Result<(), StoreError> {
    let mut rng: StdRng = rand::make_rng();
    let master = Secret::random(&mut rng);
    let header = Header::seal(passphrase, cost, &master, 1, &mut rng)?.encode();
    let mut w = Writer::with_capacity(PAD);
    w.count(records.len());
    for (name, value) in records {
        w.bounded(name);
        w.bounded(value);
    }
    let mut sealed = Zeroizing::new(w.finish());
    let len = sealed.len().next_multiple_of(PAD);
    sealed.resize(len, 0);
    let mut nonce = [0; NONCE_LEN];
    rng.fill_bytes(&mut nonce);
    let key = crypto::derive(local::STORE_EXPORT, master.expose());
    let tag = crypto::seal(key.expose(), nonce, &header, &mut sealed).map_err(|_| StoreError::Memory)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    for part in [MAGIC.as_slice(), &header, &nonce, &sealed, &tag] {
        file.write_all(part)?;
    }
    file.sync_all()?;
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Reads what [`write_export`] has written.
///
/// # Errors
/// [`StoreError::NoExport`], [`StoreError::WrongPassphrase`], [`StoreError::Damaged`], or what the system says.
pub fn read_export(path: &Path, passphrase: &[u8]) -> Result<Records, StoreError> {
    const DAMAGED: StoreError = StoreError::Damaged("the export");
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_EXPORT).read_to_end(&mut bytes)?;
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| StoreError::NoExport(path.to_owned()))?;
    let (header, rest) = rest.split_at_checked(HEADER).ok_or(DAMAGED)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(DAMAGED)?;
    let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(DAMAGED)?;
    let master = Header::decode(header).map_err(|_| DAMAGED)?.open(passphrase)?;
    let key = crypto::derive(local::STORE_EXPORT, master.expose());
    let mut inside = Zeroizing::new(sealed.to_vec());
    crypto::open(key.expose(), *nonce, header, &mut inside, tag).map_err(|_| DAMAGED)?;
    let mut r = Reader::new(&inside);
    let mut parse = || -> Result<Records, Malformed> {
        let mut records = Records::new();
        for _ in 0..r.count(MAX_RECORDS, "records")? {
            let name = r.bounded(MAX_NAME, "name")?.to_vec();
            records.insert(name, Zeroizing::new(r.bounded(MAX_VALUE, "value")?.to_vec()));
        }
        Ok(records)
    };
    parse().map_err(|_| DAMAGED)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_export_opens_by_its_passphrase_and_any_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        let value = |n: u8| Zeroizing::new(vec![n; 40_000]);
        let records: Records = (0..5).map(|n| (vec![n], value(n))).collect();
        write_export(&path, b"word", Cost::LEAST, &records).unwrap();
        assert!(read_export(&path, b"word").unwrap() == records);
        assert!(matches!(read_export(&path, b"Word"), Err(StoreError::WrongPassphrase)));
        let again = write_export(&path, b"word", Cost::LEAST, &records);
        assert!(matches!(again, Err(StoreError::Io(_))), "nothing is overwritten");
        let whole = fs::read(&path).unwrap();
        assert!(!whole.windows(64).any(|w| w == [3; 64]), "what it holds is sealed");
        for at in [20, 100, 170, 185, 5_000, whole.len() - 1] {
            let mut garbled = whole.clone();
            garbled[at] ^= 1;
            fs::write(&path, &garbled).unwrap();
            assert!(read_export(&path, b"word").is_err(), "{at}");
        }
        for len in [0, 15, 16, 100, 200, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(read_export(&path, b"word").is_err(), "{len}");
        }
        fs::write(&path, "not an export at all").unwrap();
        assert!(matches!(read_export(&path, b"word"), Err(StoreError::NoExport(_))));
    }
}
