//! Key files: 32 random bytes, readable by their owner only, and files that are written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use posta_protocol::secret::Secret;
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a key file.
pub const SEED_LEN: usize = 32;
/// A key file's permissions: its owner may read and write it.
const KEY_MODE: u32 = 0o600;
/// Permissions that a key file may not have: anything for the group or for others.
const FORBIDDEN_MODE: u32 = 0o077;

/// Why a key file can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// There is none.
    #[error("key file {0} does not exist: restore it from a backup, or make a new key")]
    Missing(PathBuf),
    /// Others may read it.
    #[error("key file {path} can be read by other users (mode {mode:o}): run `chmod 600 {path}`", path = .path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It isn't a key.
    #[error("key file {path} is {got} bytes long, a key has {SEED_LEN}: restore it from a backup", path = .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        got: u64,
    },
    /// The system refuses to read or write it.
    #[error("key file {path} can't be read or written: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No randomness.
    #[error("the operating system gives no randomness: no key was made")]
    Randomness,
}

impl KeyFileError {
    fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// Reads a key file.
///
/// # Errors
/// [`KeyFileError`]: missing, readable by others, of another length, or unreadable.
pub fn load_seed(path: &Path) -> Result<Secret<SEED_LEN>, KeyFileError> {
    let mut file = File::open(path).map_err(|e| KeyFileError::io(path, e))?;
    // Of the open file, not of the path: it may have been exchanged meanwhile.
    let metadata = file.metadata().map_err(|e| KeyFileError::io(path, e))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & FORBIDDEN_MODE != 0 {
        return Err(KeyFileError::Readable { path: path.to_owned(), mode });
    }
    if metadata.len() != SEED_LEN as u64 {
        return Err(KeyFileError::Length { path: path.to_owned(), got: metadata.len() });
    }
    let mut seed = Zeroizing::new([0; SEED_LEN]);
    file.read_exact(seed.as_mut_slice()).map_err(|e| KeyFileError::io(path, e))?;
    Ok(Secret::new(*seed))
}

/// Reads a key file, or makes one from the operating system's randomness. The folder must exist.
///
/// # Errors
/// As [`load_seed`] for a file that is there, [`KeyFileError::Io`] if it can't be made.
pub fn load_or_create_seed(path: &Path) -> Result<Secret<SEED_LEN>, KeyFileError> {
    match load_seed(path) {
        Err(KeyFileError::Missing(_)) => {}
        other => return other,
    }
    let mut seed = Zeroizing::new([0; SEED_LEN]);
    SysRng.try_fill_bytes(seed.as_mut_slice()).map_err(|_| KeyFileError::Randomness)?;
    atomic_write(path, seed.as_slice(), KEY_MODE)
        .map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
    Ok(Secret::new(*seed))
}

/// Writes a file whole or not at all, even across a power failure: a temporary file beside it, synced, renamed, and the
/// folder synced.
///
/// # Errors
/// What the system says; the old file, if any, is then still there.
pub fn atomic_write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut unique = [0; 8];
    SysRng.try_fill_bytes(&mut unique).map_err(io::Error::other)?;
    let temporary = folder.join(format!(".{}.{:016x}.tmp", name.to_string_lossy(), u64::from_le_bytes(unique)));
    let written = write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(e) = written {
        // Nothing more can be done if this fails too; the first error is the one that helps.
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.key");
        let made = load_or_create_seed(&path).unwrap();
        assert_eq!(load_or_create_seed(&path).unwrap(), made);
        assert_ne!(made.expose(), &[0; SEED_LEN]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, KEY_MODE);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.key");
        atomic_write(&path, &[7; SEED_LEN], 0o640).unwrap();
        let e = load_or_create_seed(&path).unwrap_err();
        assert!(matches!(e, KeyFileError::Readable { mode: 0o640, .. }), "{e}");
        assert!(e.to_string().contains(&format!("chmod 600 {}", path.display())), "{e}");
    }

    #[test]
    fn a_file_of_another_length_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.key");
        atomic_write(&path, &[7; 31], 0o600).unwrap();
        let e = load_or_create_seed(&path).unwrap_err();
        assert!(matches!(e, KeyFileError::Length { got: 31, .. }), "{e}");
        assert_eq!(fs::read(&path).unwrap(), [7; 31]);
    }

    #[test]
    fn a_missing_key_and_a_missing_folder_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none").join("link.key");
        assert!(matches!(load_seed(&path), Err(KeyFileError::Missing(p)) if p == path));
        assert!(matches!(load_or_create_seed(&path), Err(KeyFileError::Io { .. })));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(atomic_write(&path, b"new", 0o600).is_err());
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
