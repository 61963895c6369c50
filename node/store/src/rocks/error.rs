//! Why a store can't be opened, in sentences for its operator.

use std::io;
use std::path::{Path, PathBuf};

use rocksdb::ErrorKind;
use thiserror::Error;

/// A store can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder, or a file in it, can't be made or written.
    #[error("the queue store's folder {} can't be written: {why}; give this user the right to write there, or name another folder", path.display())]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another process has it open.
    #[error("the queue store in {} is in use by another process; stop that one, or name another folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("the queue store in {} was written by a newer version of Posta (schema {found}, this version knows {known}); run the newer version", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The schema found.
        found: u32,
        /// The newest schema that this program knows.
        known: u32,
    },
    /// Its files are damaged, missing, or not a queue store's.
    #[error("the queue store in {} is damaged; restore it from a backup, or move the folder away to begin with an empty store", path.display())]
    Corrupted {
        /// The folder.
        path: PathBuf,
    },
    /// The key file is missing or damaged.
    #[error("the queue store in {} has no file `keys`, or that is damaged, and nothing in the store can be read without it; restore the store from a backup, or move the folder away to begin with an empty one", path.display())]
    NoKeys {
        /// The folder.
        path: PathBuf,
    },
    /// An older layout, and too little free space to bring it up to date.
    #[error("the queue store in {} has an older layout, and bringing it up to date needs {needed_mib} MiB of free space, of which there are {free_mib}; free some and start again (nothing was changed)", path.display())]
    NoSpaceToMigrate {
        /// The folder.
        path: PathBuf,
        /// What it needs, in MiB.
        needed_mib: u64,
        /// What there is, in MiB.
        free_mib: u64,
    },
    /// The disk is full.
    #[error("no space is left for the queue store in {}; free some and start again (nothing stored is lost)", path.display())]
    NoSpace {
        /// The folder.
        path: PathBuf,
    },
    /// Anything else that the system said.
    #[error("the queue store in {} can't be opened: {why}; check the disk", path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

impl OpenError {
    pub(super) fn from_io(path: &Path, e: &io::Error) -> Self {
        let path = path.to_owned();
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            io::ErrorKind::InvalidData => Self::NoKeys { path },
            _ => Self::NotWritable { path, why: e.to_string() },
        }
    }
}

/// What RocksDB's error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailedOpen {
    NotWritable,
    Locked,
    OtherTables,
    Corrupted,
    NoSpace,
    Other,
}

/// RocksDB tells kinds of errors, and the system's reason only in words.
pub(super) fn classify(e: &rocksdb::Error) -> FailedOpen {
    let words = e.as_ref();
    let says = |what: &[&str]| what.iter().any(|w| words.contains(w));
    if says(&["No space left on device", "Disk quota exceeded"]) {
        FailedOpen::NoSpace
    } else if says(&["While lock file", "lock hold by current process"]) {
        FailedOpen::Locked
    } else if says(&["Permission denied", "Read-only file system", "Operation not permitted"]) {
        FailedOpen::NotWritable
    } else if says(&["Column families not opened"]) {
        FailedOpen::OtherTables
    } else if e.kind() == ErrorKind::Corruption || says(&["No such file or directory", "Corruption:"]) {
        FailedOpen::Corrupted
    } else {
        FailedOpen::Other
    }
}

impl FailedOpen {
    pub(super) fn at(self, path: &Path, e: &rocksdb::Error) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::NotWritable => OpenError::NotWritable { path, why: e.to_string() },
            Self::Locked => OpenError::Locked { path },
            Self::OtherTables | Self::Corrupted => OpenError::Corrupted { path },
            Self::NoSpace => OpenError::NoSpace { path },
            Self::Other => OpenError::Other { path, why: e.to_string() },
        }
    }
}
