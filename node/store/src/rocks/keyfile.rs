//! The keys that values are sealed under, in one small file beside the database and never in it.
//!
//! ```text
//! key file   "posta store keys" 16 | version u8 (1) | count u8 | count times (id u32 | key 32) | check 32
//!       count    1: the key in use      2: one that is being replaced, then the one in use
//!       id       random; tells the keys apart
//!       check    BLAKE3 of everything before it
//! ```
//! The file is replaced whole: a new one is written beside it and synced, takes its name, and the folder is synced. So a
//! key is on the disk before it is first used, and gone from the file system when its removal returns. The bytes of the
//! old file are overwritten as well, which helps where blocks are overwritten in place: not on an SSD, and not on a
//! file system that copies (see the threat model).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use posta_protocol::codec::Reader;
use posta_protocol::error::Malformed;
use posta_protocol::secret::Secret;
use rand::RngExt;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// The file's name in the store's folder.
const NAME: &str = "keys";
/// What is being written, until it takes the name.
const NEW: &str = "keys.new";
const MAGIC: &[u8; 16] = b"posta store keys";
const VERSION: u8 = 1;
/// Its owner may read and write it.
const MODE: u32 = 0o600;
const CHECK_LEN: usize = 32;

/// One key.
struct SealKey {
    id: u32,
    key: Secret<32>,
}

/// The keys, as the file has them.
pub(super) struct KeyFile {
    folder: PathBuf,
    replaced: Option<SealKey>,
    current: SealKey,
}

impl KeyFile {
    /// Reads the file; `None` if there is none. What an interrupted write has left is removed.
    pub(super) fn load(folder: &Path) -> io::Result<Option<Self>> {
        let new = folder.join(NEW);
        if let Ok(file) = OpenOptions::new().write(true).open(&new) {
            overwrite(&file);
            fs::remove_file(&new)?;
            sync_folder(folder)?;
        }
        let bytes = match fs::read(folder.join(NAME)) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, "the file `keys` is damaged");
        let (replaced, current) = decode(&bytes).map_err(damaged)?;
        Ok(Some(Self { folder: folder.to_owned(), replaced, current }))
    }

    /// Makes a file with a first key.
    pub(super) fn create(folder: &Path, rng: &mut impl CryptoRng) -> io::Result<Self> {
        let keys = Self { folder: folder.to_owned(), replaced: None, current: SealKey::random(rng, None) };
        keys.write(&[&keys.current])?;
        Ok(keys)
    }

    /// Puts a new key into use. It is on the disk when this returns; the one before it stays for what it has sealed.
    pub(super) fn begin(&mut self, rng: &mut impl CryptoRng) -> io::Result<()> {
        let new = SealKey::random(rng, Some(self.current.id));
        self.write(&[&self.current, &new])?;
        self.replaced = Some(std::mem::replace(&mut self.current, new));
        Ok(())
    }

    /// Destroys the key that was replaced.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.write(&[&self.current])?;
        self.replaced = None;
        Ok(())
    }

    /// Whether a key is being replaced.
    pub(super) const fn is_replacing(&self) -> bool {
        self.replaced.is_some()
    }

    /// The key in use, and its id.
    pub(super) const fn current(&self) -> (u32, &Secret<32>) {
        (self.current.id, &self.current.key)
    }

    /// A key by its id.
    pub(super) fn get(&self, id: u32) -> Option<&Secret<32>> {
        let found = [Some(&self.current), self.replaced.as_ref()].into_iter().flatten().find(|k| k.id == id);
        found.map(|k| &k.key)
    }

    fn write(&self, keys: &[&SealKey]) -> io::Result<()> {
        let (path, new) = (self.folder.join(NAME), self.folder.join(NEW));
        let bytes = encode(keys);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        let old = OpenOptions::new().write(true).open(&path).ok();
        fs::rename(&new, &path)?;
        sync_folder(&self.folder)?;
        if let Some(old) = old {
            overwrite(&old);
        }
        Ok(())
    }
}

impl SealKey {
    fn random(rng: &mut impl CryptoRng, not: Option<u32>) -> Self {
        let mut id = rng.random();
        while Some(id) == not {
            id = rng.random();
        }
        Self { id, key: Secret::random(rng) }
    }
}

/// As well as it can be done; the file has lost its name already.
fn overwrite(file: &File) {
    let length = file.metadata().map_or(0, |m| m.len()).min(4096) as usize;
    if file.write_all_at(&vec![0; length], 0).and_then(|()| file.sync_all()).is_err() {
        tracing::warn!("an old key file of the queue store can't be overwritten; it is removed all the same");
    }
}

/// Makes what was created, renamed or removed in a folder last.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn encode(keys: &[&SealKey]) -> Zeroizing<Vec<u8>> {
    // Room for all: no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAGIC.len() + 2 + keys.len() * 36 + CHECK_LEN));
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.push(keys.len() as u8);
    for key in keys {
        bytes.extend_from_slice(&key.id.to_le_bytes());
        bytes.extend_from_slice(key.key.expose());
    }
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<(Option<SealKey>, SealKey), Malformed> {
    let (body, check) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(Malformed::Truncated("key file"))?;
    if blake3::hash(body) != *check {
        return Err(Malformed::Value("check"));
    }
    let mut r = Reader::new(body);
    if r.array("magic")? != *MAGIC || r.u8("version")? != VERSION {
        return Err(Malformed::Value("version"));
    }
    let count = r.u8("count")?;
    let mut key = || Ok(SealKey { id: r.u32("id")?, key: Secret::new(r.array("key")?) });
    let keys = match count {
        1 => (None, key()?),
        2 => (Some(key()?), key()?),
        _ => return Err(Malformed::Value("count")),
    };
    r.finish("key file")?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn ids(keys: &KeyFile) -> (Option<u32>, u32) {
        (keys.replaced.as_ref().map(|k| k.id), keys.current.id)
    }

    #[test]
    fn keys_come_back_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        assert!(KeyFile::load(folder.path()).unwrap().is_none());
        let mut keys = KeyFile::create(folder.path(), rng).unwrap();
        let first = keys.current.id;
        let load = || KeyFile::load(folder.path()).unwrap().unwrap();
        assert_eq!(ids(&load()), (None, first));
        keys.begin(rng).unwrap();
        let second = keys.current.id;
        let back = load();
        assert_eq!(ids(&back), (Some(first), second));
        assert!(back.get(first) == keys.get(first) && back.get(second) == keys.get(second));
        assert!(back.get(first) != back.get(second) && back.is_replacing());
        let (old, kept) = (keys.get(first).unwrap().duplicate(), keys.get(second).unwrap().duplicate());
        keys.end().unwrap();
        assert!(keys.get(first).is_none() && load().get(first).is_none() && !load().is_replacing());
        let path = folder.path().join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let bytes = fs::read(&path).unwrap();
        let has = |secret: &Secret<32>| bytes.windows(32).any(|w| w == secret.expose());
        assert!(has(&kept) && !has(&old));
    }

    #[test]
    fn what_an_interrupted_write_has_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        KeyFile::create(folder.path(), &mut ChaCha20Rng::seed_from_u64(2)).unwrap();
        fs::copy(folder.path().join(NAME), folder.path().join(NEW)).unwrap();
        KeyFile::load(folder.path()).unwrap().unwrap();
        assert!(!folder.path().join(NEW).exists());
    }

    #[test]
    fn the_old_files_bytes_are_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let rng = &mut ChaCha20Rng::seed_from_u64(3);
        let mut keys = KeyFile::create(folder.path(), rng).unwrap();
        // Another name for the same bytes: what a look at the medium would find.
        let seen = folder.path().join("seen");
        fs::hard_link(folder.path().join(NAME), &seen).unwrap();
        keys.begin(rng).unwrap();
        assert!(fs::read(&seen).unwrap().iter().all(|b| *b == 0));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        KeyFile::create(folder.path(), &mut ChaCha20Rng::seed_from_u64(4)).unwrap();
        let path = folder.path().join(NAME);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(KeyFile::load(folder.path()).is_err(), "byte {at}");
        }
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(KeyFile::load(folder.path()).is_err());
    }
}
