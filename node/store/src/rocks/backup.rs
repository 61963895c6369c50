//! Backups of a store, and stores made from them.
//!
//! **What a backup holds**: the queues, without their messages. That is hashes of capabilities, counters and hours; no
//! message, no blob, no key.
//!
//! **Why no messages?** After a restore nothing deleted may come back, and nothing acknowledged may be silently missing.
//! A copy of the messages would break the first and isn't enough for the second:
//!
//! - It would hold what is acknowledged, deleted and expired *after* it was made, together with the keys that open it, for
//!   as long as the backup lies around. A one-time invitation that was taken since would be there for another to take.
//! - What is stored after it was made is missing from it anyway. So writers have to send again whatever happens, and they
//!   can: they keep each message until its reader, not the relay, has confirmed it; and each answer of a restored store
//!   carries another incarnation, on which they secure their queue and send everything unconfirmed again, under the same
//!   numbers where those still fit, and inviters leave their invitations again. (The second copy of each message lies at
//!   another relay.)
//!
//! The price, said plainly: a message whose writer never comes back, and whose other copy is lost too, is lost.
//!
//! **Queues** come back as they were, but empty. What its reader had acknowledged stays acknowledged; what was accepted
//! beyond that is as good as never sent, so that it can be sent again. A queue that was deleted after the backup was made
//! comes back, too, without anything in it: nobody reads it, and it expires. One that was made after it is missing: its
//! reader makes it again.
//!
//! ```text
//! FOLDER/records    count times (table u8 | key length u8 | value length u16 | key | value) | 0
//!       table       1 Queues   2 Index (writers only)   3 Expiry (queues only)
//! FOLDER/manifest   text, a name and a value on each line: posta-store-backup 1, schema, hour, incarnation, queues, hash
//!       hash        BLAKE3 of `records`
//! ```
//! The manifest is written last: a folder without one is no backup.

use core::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use posta_protocol::ids::Incarnation;
use rocksdb::{DB, FlushOptions, ReadOptions, WriteBatch, WriteOptions};
use rustix::fs::{FlockOperation, fcntl_lock};
use thiserror::Error;

use super::keyfile::{KeyFile, sync_folder};
use super::{OpenError, error, handle, options, read_store_record, write_store_record};
use crate::SCHEMA;
use crate::keys::{self, Due, Table};
use crate::record::{QueueRecord, Totals};

const RECORDS: &str = "records";
const MANIFEST: &str = "manifest";
const FORMAT: &str = "posta-store-backup 1";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Tables of a backup, by their numbers in it.
const TABLES: [(u8, Table); 3] = [(1, Table::Queues), (2, Table::Index), (3, Table::Expiry)];
const END: u8 = 0;
/// Bytes of the longest value: a queue record has at most 1,125.
const MAX_VALUE: usize = 4096;
/// Bytes of a manifest; it has about 200.
const MAX_MANIFEST: u64 = 4096;
/// Records in one write of a restore.
const BATCH: usize = 1024;

/// A backup can't be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The folder can't be made, or isn't empty.
    #[error("the folder {} can't take a backup: {source}; name one that is empty or isn't there, and that the relay may write to", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The store can't be read now.
    #[error("the queue store can't be read now: check the disk, and the relay's log")]
    Unreadable,
    /// There is no store.
    #[error("there is no queue store in {}; has this relay ever run?", path.display())]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// Another process uses it, or it can't be read.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// A store can't be made from a backup.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The store's folder holds something.
    #[error("{} is not empty: a restore makes a new store; stop the relay and move the old one away first", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// There is no backup, or its files are damaged.
    #[error("{} holds no backup that can be used ({why}); name the folder that `posta-node backup` was given", path.display())]
    NoBackup {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A newer program made it.
    #[error("the backup in {} was made by a newer version of Posta (schema {found}, this version knows {known}); run the newer version", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The schema found.
        found: u32,
        /// The newest schema that this program knows.
        known: u32,
    },
    /// The store can't be written.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Queues, those deleted included that are remembered as such.
    pub queues: u64,
    /// The hour in which it was made, since 1970.
    pub hour: u32,
}

/// Makes backups of a store that is open, from any thread, while the store works: it reads one moment's state, and
/// writers don't wait.
#[derive(Clone)]
pub struct Backups(Arc<Mutex<Weak<DB>>>);

impl fmt::Debug for Backups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backups(..)")
    }
}

impl Backups {
    pub(super) fn of(db: &Arc<DB>) -> Self {
        Self(Arc::new(Mutex::new(Arc::downgrade(db))))
    }

    /// The store has been opened anew.
    pub(super) fn set(&self, db: &Arc<DB>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(db);
    }

    /// Writes a backup into the folder `to`, which must be empty or not there. `hour` is the one that it is now.
    ///
    /// # Errors
    /// [`BackupError`], in a sentence for the operator. The folder then holds no backup.
    pub fn write(&self, to: &Path, hour: u32) -> Result<Report, BackupError> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        write(&*db.ok_or(BackupError::Unreadable)?, to, hour)
    }
}

/// Writes a backup of a store that no process has open. Nothing in the store is changed.
///
/// # Errors
/// [`BackupError`], in a sentence for the operator.
pub fn backup_closed(store: &Path, to: &Path, hour: u32) -> Result<Report, BackupError> {
    if !store.join("CURRENT").is_file() {
        return Err(BackupError::NoStore { path: store.to_owned() });
    }
    // RocksDB's own lock, held meanwhile: a relay that starts now is told that the store is in use.
    let lock = OpenOptions::new().write(true).open(store.join("LOCK"));
    let lock = lock.map_err(|e| OpenError::from_io(store, &e))?;
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| OpenError::Locked { path: store.to_owned() })?;
    let tables = [Table::Meta, Table::Queues, Table::Index, Table::Expiry].map(Table::name);
    let db = DB::open_cf_for_read_only(&options::database(store), store, tables, false)
        .map_err(|e| error::classify(&e).at(store, &e))?;
    write(&db, to, hour)
}

fn write(db: &DB, to: &Path, hour: u32) -> Result<Report, BackupError> {
    let (schema, incarnation) = read_store_record(db).ok().flatten().ok_or(BackupError::Unreadable)?;
    let incarnation = incarnation.filter(|_| schema <= SCHEMA).ok_or(BackupError::Unreadable)?;
    let folder = |source| BackupError::Folder { path: to.to_owned(), source };
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(to).map_err(folder)?;
    if fs::read_dir(to).map_err(folder)?.next().is_some() {
        return Err(folder(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "it is not empty")));
    }
    let records = to.join(RECORDS);
    let written = write_records(db, &records).and_then(|(queues, hash)| {
        let manifest = Manifest { schema: SCHEMA, hour, incarnation, queues, hash };
        write_file(&to.join(MANIFEST), manifest.to_text().as_bytes()).map_err(Failed::Io)?;
        sync_folder(to).map_err(Failed::Io)?;
        Ok(queues)
    });
    match written {
        Ok(queues) => Ok(Report { queues, hour }),
        Err(failed) => {
            // What is left of it is of no use; the first error is the one that helps.
            let _ = fs::remove_file(to.join(MANIFEST)).and_then(|()| fs::remove_file(&records));
            let _ = fs::remove_file(&records);
            Err(match failed {
                Failed::Io(e) => folder(e),
                Failed::Store => BackupError::Unreadable,
            })
        }
    }
}

enum Failed {
    Io(io::Error),
    Store,
}

/// Number of queues, and the hash.
fn write_records(db: &DB, path: &Path) -> Result<(u64, blake3::Hash), Failed> {
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path).map_err(Failed::Io)?;
    let mut out = Hashing { inner: BufWriter::new(file), hasher: blake3::Hasher::new() };
    let mut queues = 0;
    // One moment of all tables.
    let snapshot = db.snapshot();
    for (number, table) in TABLES {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut rows = snapshot.raw_iterator_cf_opt(handle(db, table).map_err(|_| Failed::Store)?, options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if belongs(table, key) {
                queues += u64::from(table == Table::Queues);
                // A store of schema 1 files writers under their whole hash.
                let key = if table == Table::Index { keys::shortened(key).unwrap_or(key) } else { key };
                write_record(&mut out, number, key, value).map_err(Failed::Io)?;
            }
            rows.next();
        }
        rows.status().map_err(|_| Failed::Store)?;
    }
    out.write_all(&[END]).and_then(|()| out.flush()).map_err(Failed::Io)?;
    let file = out.inner.into_inner().map_err(|e| Failed::Io(e.into_error()))?;
    file.sync_all().map_err(Failed::Io)?;
    Ok((queues, out.hasher.finalize()))
}

fn write_record(out: &mut impl Write, table: u8, key: &[u8], value: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidData, "a record is too long");
    let (k, v) = (u8::try_from(key.len()).map_err(too_long)?, u16::try_from(value.len()).map_err(too_long)?);
    out.write_all(&[table, k])?;
    out.write_all(&v.to_le_bytes())?;
    out.write_all(key)?;
    out.write_all(value)
}

/// Whether a record is about queues, and not about messages or blobs.
fn belongs(table: Table, key: &[u8]) -> bool {
    match table {
        Table::Queues => true,
        Table::Index => keys::is_writer(key),
        Table::Expiry => matches!(keys::read_expiry(key), Some((_, Due::Queue(_)))),
        _ => false,
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a store in the folder `store`, which must be empty or not there, from the backup in `from`. Its incarnation is
/// `fresh`. The folder appears whole or not at all.
///
/// # Errors
/// [`RestoreError`], in a sentence for the operator.
pub fn restore(from: &Path, store: &Path, fresh: Incarnation) -> Result<Report, RestoreError> {
    let manifest = Manifest::read(from)?;
    if fs::read_dir(store).is_ok_and(|mut entries| entries.next().is_some()) || store.is_file() {
        return Err(RestoreError::NotEmpty { path: store.to_owned() });
    }
    let io_error = |e: io::Error| RestoreError::Store(OpenError::from_io(store, &e));
    let work = store.with_extension("restoring");
    if work.exists() {
        fs::remove_dir_all(&work).map_err(io_error)?; // Left by one that was interrupted.
    }
    let made = fill(from, &manifest, &work, fresh);
    if made.is_err() {
        let _ = fs::remove_dir_all(&work);
    }
    made?;
    fs::rename(&work, store).map_err(io_error)?;
    let parent = store.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    sync_folder(parent).map_err(io_error)?;
    Ok(Report { queues: manifest.queues, hour: manifest.hour })
}

fn fill(from: &Path, manifest: &Manifest, work: &Path, fresh: Incarnation) -> Result<(), RestoreError> {
    let store = |e: OpenError| RestoreError::Store(e);
    let failed = |e: rocksdb::Error| store(error::classify(&e).at(work, &e));
    let io_error = |e: io::Error| store(OpenError::from_io(work, &e));
    let damaged = |why| RestoreError::NoBackup { path: from.to_owned(), why };
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(work).map_err(io_error)?;
    let db = DB::open_cf_descriptors(&options::database(work), work, options::tables(work)).map_err(failed)?;
    // All of it is synced at once at the end.
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);
    let file = File::open(from.join(RECORDS)).map_err(|_| damaged("its file `records` can't be read"))?;
    let mut input = Hashing { inner: BufReader::new(file), hasher: blake3::Hasher::new() };
    let (mut batch, mut queues) = (WriteBatch::default(), 0);
    while let Some((table, key, mut value)) = read_record(&mut input).ok_or_else(|| damaged("`records` is damaged"))? {
        if !belongs(table, &key) {
            return Err(damaged("`records` holds what doesn't belong there"));
        }
        if table == Table::Queues {
            let mut record = QueueRecord::decode(&value).map_err(|_| damaged("a queue record is damaged"))?;
            record.forget_messages();
            value = record.encode();
            queues += 1;
        }
        let cf = db.cf_handle(table.name()).ok_or_else(|| damaged("a table is missing"))?;
        batch.put_cf(cf, key, value);
        if batch.len() >= BATCH {
            db.write_opt(std::mem::take(&mut batch), &unlogged).map_err(failed)?;
        }
    }
    if input.hasher.finalize() != manifest.hash || queues != manifest.queues {
        return Err(damaged("`records` isn't the file that its manifest tells of"));
    }
    batch.put(keys::TOTALS, Totals { queues, bytes: 0 }.encode());
    db.write_opt(batch, &unlogged).map_err(failed)?;
    let all: Vec<_> = Table::ALL.iter().filter_map(|table| db.cf_handle(table.name())).collect();
    db.flush_cfs_opt(&all, &FlushOptions::default()).map_err(failed)?;
    KeyFile::create(work, &mut rand::rng()).map_err(io_error)?;
    write_store_record(&db, fresh).map_err(failed)?;
    drop(db);
    sync_folder(work).map_err(io_error)
}

/// A record of a backup: table, key and value.
type Row = (Table, Vec<u8>, Vec<u8>);

/// The next record, or that there is none; `None` if the bytes can't be a backup's.
fn read_record(input: &mut impl Read) -> Option<Option<Row>> {
    let mut byte = [0; 1];
    input.read_exact(&mut byte).ok()?;
    let [number] = byte;
    if number == END {
        // Nothing may follow.
        return (input.read(&mut byte).ok()? == 0).then_some(None);
    }
    let (_, table) = TABLES.iter().find(|(n, _)| *n == number)?;
    input.read_exact(&mut byte).ok()?;
    let mut length = [0; 2];
    input.read_exact(&mut length).ok()?;
    let [key_length] = byte;
    let value_length = usize::from(u16::from_le_bytes(length));
    if value_length > MAX_VALUE {
        return None;
    }
    let (mut key, mut value) = (vec![0; usize::from(key_length)], vec![0; value_length]);
    input.read_exact(&mut key).ok()?;
    input.read_exact(&mut value).ok()?;
    Some(Some((*table, key, value)))
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hasher.update(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// What a backup says about itself.
struct Manifest {
    schema: u32,
    hour: u32,
    incarnation: Incarnation,
    queues: u64,
    hash: blake3::Hash,
}

impl Manifest {
    fn to_text(&self) -> String {
        let Self { schema, hour, incarnation, queues, hash } = self;
        let incarnation: String = incarnation.0.iter().map(|b| format!("{b:02x}")).collect();
        format!("{FORMAT}\nschema {schema}\nhour {hour}\nincarnation {incarnation}\nqueues {queues}\nhash {hash}\n")
    }

    fn read(from: &Path) -> Result<Self, RestoreError> {
        let no = |why| RestoreError::NoBackup { path: from.to_owned(), why };
        let mut text = String::new();
        let file = File::open(from.join(MANIFEST)).map_err(|_| no("it has no file `manifest`"))?;
        file.take(MAX_MANIFEST).read_to_string(&mut text).map_err(|_| no("its file `manifest` can't be read"))?;
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT) {
            return Err(no("its format isn't known"));
        }
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let schema = value("schema").and_then(|v| v.parse().ok()).ok_or_else(|| no("`manifest` is damaged"))?;
        if schema > SCHEMA {
            return Err(RestoreError::Newer { path: from.to_owned(), found: schema, known: SCHEMA });
        }
        let mut rest = || {
            let hour = value("hour")?.parse().ok()?;
            let incarnation = value("incarnation")?;
            let bytes = (0..16).map(|i| u8::from_str_radix(incarnation.get(2 * i..2 * i + 2)?, 16).ok());
            let incarnation = Incarnation(bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()?);
            let queues = value("queues")?.parse().ok()?;
            let hash = blake3::Hash::from_hex(value("hash")?).ok()?;
            Some(Self { schema, hour, incarnation, queues, hash })
        };
        rest().ok_or_else(|| no("`manifest` is damaged"))
    }
}
