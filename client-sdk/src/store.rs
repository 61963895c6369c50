//! A client's state on disk: one encrypted database in a folder of its own.
//!
//! ```text
//! folder (0700)   lock           held by the one program that uses the folder
//!                 keys           the sealed master key, and the keys of all records; overwritten in place
//!                 state.redb     the records: redb, copy on write, one synced transaction for each change of state
//! record          keyed hash of its name (32)  ->  slot u32 | nonce 12 | sealed: name, value, zeros | tag 16
//! ```
//! - **Sealed.** A record is sealed by AES-256-GCM under a key of its own, from the master key *and* a slot of random
//!   bytes. Its name is hidden behind a keyed hash, its length by one of a few size classes. A thief of the folder sees
//!   how many records there are, their size classes and the order of writing.
//! - **Passphrase.** It opens the master key, by Argon2id at a [`Cost`] that the file states; another passphrase seals
//!   the same master key again, and nothing else is rewritten. A wrong passphrase and a damaged file are told apart.
//! - **Secure deletion by design.** redb never overwrites what it replaces, and a file system may do what it likes with
//!   a big file. So every version of every record has a key of its own, drawn at random and kept only in the small file
//!   `keys`. When a record is deleted or replaced, its key is overwritten there, in both copies, and synced
//!   ([`Store::purge`]: the driver calls it within [`PURGE_AFTER`], on request, at opening and at closing). What is left
//!   of the record in `state.redb` can't be opened any more, not with the passphrase either. *Not defended:* what an SSD's
//!   wear-levelling, a copying file system or a snapshot keeps of old blocks of `keys`.
//! - **Crash-safe.** A transaction is whole or not there. The file `keys` holds everything twice and is written copy by
//!   copy; a slot that was drawn anew is given out when both copies are synced.
//! - **One at a time.** A lock that ends with the process, and names it.

mod export;
mod header;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::{self, local};
use posta_protocol::error::Malformed;
use posta_protocol::secret::Secret;
use rand::Rng;
use rand::rngs::StdRng;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;
use zeroize::Zeroizing;

pub use self::export::{read_export, write_export};
pub use self::header::Cost;
use self::header::Header;
use self::pages::{Pages, Slot, page_key};

/// The version of the records' layout that this program writes.
pub const SCHEMA: u32 = 2;
/// What is deleted or replaced is unreadable after this time, even with the passphrase, while a client runs.
pub const PURGE_AFTER: Duration = Duration::from_secs(30);
/// Bytes of one record's value, at most.
pub const MAX_VALUE: usize = 1 << 20;
/// Bytes of a record's name, at most.
pub const MAX_NAME: usize = 64;
/// Slots in reserve below which dead ones are drawn anew early.
const RESERVE: usize = 64;
/// Slots in reserve after that; fewer, and there would be a purge every few transactions.
const POOL: usize = 1024;

/// Bytes of redb's page cache, which would be a gigabyte otherwise.
const CACHE: usize = 4 << 20;

const LOCK: &str = "lock";
const KEYS: &str = "keys";
const STATE: &str = "state.redb";
const MODE: u32 = 0o600;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// The record that says that all was carried to another folder.
const MOVED_NAME: &[u8] = b"moved";
/// The record that holds [`SCHEMA`].
const SCHEMA_NAME: &[u8] = b"schema";
/// Lengths to which a record is padded: a short text, a contact, a sealed box; beyond, multiples of the last.
const CLASSES: [usize; 5] = [256, 1024, 4096, 12 << 10, 16 << 10];

/// Records by name.
pub type Records = BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>;

/// Steps from one schema to the next: the first turns records of schema 1 into those of schema 2, and so on.
type Migration = fn(&mut Records) -> Result<(), Malformed>;
const MIGRATIONS: &[Migration] = &[crate::session::from_schema_1];

/// The hash of a record's name, and its sealed value, if it isn't deleted.
type Row = ([u8; 32], Option<(Slot, Vec<u8>)>);

/// A change of one record: its new value, or `None` to delete it.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// The record's name, at most [`MAX_NAME`] bytes.
    pub name: Vec<u8>,
    /// Its value, at most [`MAX_VALUE`] bytes.
    pub value: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.value.is_some() { "Change(put)" } else { "Change(delete)" })
    }
}

/// Why a store can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is none.
    #[error("there is no client state in {0}: make it by `posta init`")]
    Missing(PathBuf),
    /// There is one already.
    #[error("{0} holds a client's state already: use it, name another folder, or destroy it by `posta wipe`")]
    Exists(PathBuf),
    /// It was carried to another folder.
    #[error(
        "the state of {0} was moved by `posta export --move`: import that file elsewhere, and destroy this by `posta wipe`"
    )]
    Moved(PathBuf),
    /// A file is no export.
    #[error("{0} is no export of `posta export`: is it the right file?")]
    NoExport(PathBuf),
    /// Another process uses it.
    #[error("another program ({holder}) uses the state in {folder}: end it first, or name another folder", folder = .folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process that holds it, as far as it has said so.
        holder: String,
    },
    /// The passphrase doesn't open the master key.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// Something isn't as it was written.
    #[error("the client's state is damaged ({0}): restore the folder's disk, or begin anew in another folder")]
    Damaged(&'static str),
    /// A later version has written it.
    #[error("a newer version of this program has written the client's state: update this program")]
    Newer,
    /// Argon2id can't be computed.
    #[error("there is not enough memory to open the client's state: end other programs, and try again")]
    Memory,
    /// A record is larger than [`MAX_VALUE`], or its name than [`MAX_NAME`].
    #[error("a record is too long to be kept")]
    TooLong,
    /// The system refuses.
    #[error("the client's state can't be read or written: {0}; free space or mend the disk, then start again")]
    Io(#[from] io::Error),
}

impl From<redb::Error> for StoreError {
    fn from(e: redb::Error) -> Self {
        match e {
            redb::Error::Io(e) => Self::Io(e),
            redb::Error::DatabaseAlreadyOpen => {
                Self::Locked { folder: PathBuf::from(STATE), holder: "unknown".to_owned() }
            }
            redb::Error::UpgradeRequired(_) => Self::Newer,
            _ => Self::Damaged("its records"),
        }
    }
}

/// A client's state, open.
pub struct Store {
    folder: PathBuf,
    /// Held until the store is dropped.
    _lock: File,
    database: Database,
    pages: Pages,
    header: Header,
    master: Secret<32>,
    names: Secret<32>,
    /// The slot of each record, by the hash of its name.
    slots: BTreeMap<[u8; 32], Slot>,
    rng: StdRng,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({} records)", self.slots.len())
    }
}

impl Store {
    /// Makes an empty store; the folder is made if it isn't there.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Locked`], or what the system says.
    pub fn create(folder: &Path, passphrase: &[u8], cost: Cost) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = lock(folder)?;
        if folder.join(KEYS).try_exists()? {
            return Err(StoreError::Exists(folder.to_owned()));
        }
        // Without keys, what an interrupted `create` has left can't be opened by anyone.
        for left in [STATE, NEW_KEYS] {
            remove(&folder.join(left))?;
        }
        let mut rng: StdRng = rand::make_rng();
        let master = Secret::random(&mut rng);
        let header = Header::seal(passphrase, cost, &master, 1, &mut rng)?;
        let new = folder.join(NEW_KEYS);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(MODE).open(&new)?;
        let pages = Pages::create(file, &header, page_key(&master), &mut rng)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(MODE).open(folder.join(STATE))?;
        let backend = FileBackend::new(file).map_err(redb::Error::from)?;
        let database = builder().create_with_backend(backend).map_err(redb::Error::from)?;
        let names = crypto::derive(local::STORE_NAMES, master.expose());
        let slots = BTreeMap::new();
        let mut store =
            Self { folder: folder.to_owned(), _lock: lock, database, pages, header, master, names, slots, rng };
        store.apply(&[schema(SCHEMA)])?;
        // From here on there is a store.
        fs::rename(&new, folder.join(KEYS))?;
        File::open(folder)?.sync_all()?;
        Ok(store)
    }

    /// Opens a store and reads all its records.
    ///
    /// # Errors
    /// [`StoreError`], each one sentence that says what to do.
    pub fn open(folder: &Path, passphrase: &[u8]) -> Result<(Self, Records), StoreError> {
        Self::open_with(folder, passphrase, SCHEMA, MIGRATIONS)
    }

    fn open_with(
        folder: &Path,
        passphrase: &[u8],
        schema_now: u32,
        migrations: &[Migration],
    ) -> Result<(Self, Records), StoreError> {
        if !folder.join(KEYS).try_exists()? {
            return Err(StoreError::Missing(folder.to_owned()));
        }
        let lock = lock(folder)?;
        let file = OpenOptions::new().read(true).write(true).open(folder.join(KEYS))?;
        let header = Pages::header(&file)?;
        let master = header.open(passphrase)?;
        let pages = Pages::open(file, &header, page_key(&master))?;
        let state = folder.join(STATE);
        if !state.try_exists()? {
            return Err(StoreError::Damaged("its records"));
        }
        // A damaged file may run into an assertion of redb's.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| -> Result<_, redb::Error> {
            let database = builder().open(&state)?;
            let read = database.begin_read()?;
            let mut sealed = Vec::new();
            for row in read.open_table(RECORDS)?.iter()? {
                let (name, value) = row?;
                sealed.push((name.value().to_vec(), value.value().to_vec()));
            }
            Ok((database, sealed))
        }));
        let (database, sealed) = opened.map_err(|_| StoreError::Damaged("its records"))??;
        let names = crypto::derive(local::STORE_NAMES, master.expose());
        let mut store = Self {
            folder: folder.to_owned(),
            _lock: lock,
            database,
            pages,
            header,
            master,
            names,
            slots: BTreeMap::new(),
            rng: rand::make_rng(),
        };
        let mut records = store.unseal(&sealed)?;
        let used: BTreeSet<Slot> = store.slots.values().copied().collect();
        store.pages.settle(&used);
        if records.contains_key(MOVED_NAME) {
            return Err(StoreError::Moved(folder.to_owned()));
        }
        store.migrate(&mut records, schema_now, migrations)?;
        store.purge()?;
        Ok((store, records))
    }

    /// Opens all records.
    fn unseal(&mut self, sealed: &[(Vec<u8>, Vec<u8>)]) -> Result<Records, StoreError> {
        let mut records = Records::new();
        let mut used = BTreeSet::new();
        for (hash, value) in sealed {
            let (slot, name, value) = self.unseal_one(hash, value).ok_or(StoreError::Damaged("a record"))?;
            let hash = hash.as_slice().try_into().map_err(|_| StoreError::Damaged("a record"))?;
            if !used.insert(slot) {
                return Err(StoreError::Damaged("a record"));
            }
            self.slots.insert(hash, slot);
            records.insert(name, value);
        }
        Ok(records)
    }

    fn unseal_one(&self, hash: &[u8], value: &[u8]) -> Option<(Slot, Vec<u8>, Zeroizing<Vec<u8>>)> {
        let (slot, rest) = value.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (inner, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let slot = Slot::from_le_bytes(*slot);
        let mut inner = Zeroizing::new(inner.to_vec());
        crypto::open(self.record_key(slot)?.expose(), *nonce, hash, &mut inner, tag).ok()?;
        let mut r = Reader::new(&inner);
        let name = r.bounded(MAX_NAME, "name").ok()?.to_vec();
        let value = Zeroizing::new(r.bounded(MAX_VALUE, "value").ok()?.to_vec());
        (crypto::keyed_hash(self.names.expose(), &name) == hash).then_some((slot, name, value))
    }

    /// Brings records of an older schema up to this one, in one transaction.
    fn migrate(&mut self, records: &mut Records, now: u32, migrations: &[Migration]) -> Result<(), StoreError> {
        let held = records.remove(SCHEMA_NAME).and_then(|v| Some(u32::from_le_bytes(v.as_slice().try_into().ok()?)));
        let held = held.filter(|h| *h > 0).ok_or(StoreError::Damaged("its schema"))?;
        if held > now {
            return Err(StoreError::Newer);
        }
        if held == now {
            return Ok(());
        }
        let before = records.clone();
        for migration in migrations.iter().skip(held as usize - 1) {
            migration(records).map_err(|_| StoreError::Damaged("a record"))?;
        }
        let gone = before.keys().filter(|k| !records.contains_key(*k));
        let mut changes: Vec<Change> = gone.map(|name| Change { name: name.clone(), value: None }).collect();
        let differ = records.iter().filter(|(k, v)| before.get(*k) != Some(v));
        changes.extend(differ.map(|(name, value)| Change { name: name.clone(), value: Some(value.clone()) }));
        changes.push(schema(now));
        self.apply(&changes)
    }

    fn record_key(&self, slot: Slot) -> Option<Secret<32>> {
        let mut material = Zeroizing::new([0; 64]);
        let (head, tail) = material.split_at_mut(32);
        head.copy_from_slice(self.master.expose());
        tail.copy_from_slice(self.pages.get(slot)?.expose());
        Some(crypto::derive(local::STORE_RECORD, material.as_slice()))
    }

    /// Writes changes in one transaction. They are on disk when this returns, or none is. A later change of the same
    /// record counts.
    ///
    /// # Errors
    /// [`StoreError::TooLong`], or what the system says; begin anew from [`Store::open`] then.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let newest: BTreeMap<&[u8], Option<&[u8]>> =
            changes.iter().map(|c| (c.name.as_slice(), c.value.as_ref().map(|v| v.as_slice()))).collect();
        if newest.is_empty() {
            return Ok(());
        }
        let puts = newest.values().flatten().count();
        self.make_room(puts)?;
        let mut rows = Vec::with_capacity(newest.len());
        for (name, value) in &newest {
            let hash = crypto::keyed_hash(self.names.expose(), name);
            let sealed = match value {
                Some(value) => Some(self.seal(&hash, name, value)?),
                None => None,
            };
            rows.push((hash, sealed));
        }
        if let Err(e) = self.commit(&rows) {
            rows.iter().filter_map(|(_, sealed)| sealed.as_ref()).for_each(|(slot, _)| self.pages.release(*slot));
            return Err(e.into());
        }
        for (hash, sealed) in rows {
            let before = match sealed {
                Some((slot, _)) => self.slots.insert(hash, slot),
                None => self.slots.remove(&hash),
            };
            if let Some(slot) = before {
                self.pages.release(slot);
            }
        }
        Ok(())
    }

    fn commit(&self, rows: &[Row]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(RECORDS)?;
            for (hash, sealed) in rows {
                match sealed {
                    Some((_, sealed)) => drop(table.insert(hash.as_slice(), sealed.as_slice())?),
                    None => drop(table.remove(hash.as_slice())?),
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Sees to it that so many slots can be taken.
    fn make_room(&mut self, wanted: usize) -> Result<(), StoreError> {
        if self.pages.free() < wanted + RESERVE {
            self.purge()?;
            while self.pages.free() < wanted + POOL {
                self.pages.grow(&mut self.rng)?;
            }
        }
        Ok(())
    }

    /// One record, sealed under a fresh slot.
    fn seal(&mut self, hash: &[u8; 32], name: &[u8], value: &[u8]) -> Result<(Slot, Vec<u8>), StoreError> {
        if name.len() > MAX_NAME || value.len() > MAX_VALUE {
            return Err(StoreError::TooLong);
        }
        let mut w = Writer::with_capacity(padded(8 + name.len() + value.len()));
        w.bounded(name);
        w.bounded(value);
        let mut inner = Zeroizing::new(w.finish());
        let len = padded(inner.len());
        inner.resize(len, 0);
        let slot = self.pages.take().ok_or(StoreError::Damaged("its keys"))?;
        let key = self.record_key(slot).ok_or(StoreError::Damaged("its keys"))?;
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        let tag = crypto::seal(key.expose(), nonce, hash, &mut inner).map_err(|_| StoreError::Memory)?;
        let mut sealed = Vec::with_capacity(4 + NONCE_LEN + len + TAG_LEN);
        for part in [slot.to_le_bytes().as_slice(), &nonce, &inner, &tag] {
            sealed.extend_from_slice(part);
        }
        Ok((slot, sealed))
    }

    /// Overwrites the keys of everything that was deleted or replaced. When this returns, that can't be opened any more,
    /// by nobody.
    ///
    /// # Errors
    /// What the system says; it is tried again with the next one.
    pub fn purge(&mut self) -> Result<(), StoreError> {
        Ok(self.pages.purge(&mut self.rng)?)
    }

    /// Ends this store: everything is elsewhere now. All records are deleted and unreadable when this returns, and it
    /// can't be opened any more.
    ///
    /// # Errors
    /// What the system says; nothing is changed then, or all.
    pub fn retire(mut self) -> Result<(), StoreError> {
        let names = self.slots.keys().map(|hash| (*hash, None)).collect::<Vec<Row>>();
        let moved = Change { name: MOVED_NAME.to_vec(), value: Some(Zeroizing::new(Vec::new())) };
        self.apply(&[moved])?;
        let schema = crypto::keyed_hash(self.names.expose(), SCHEMA_NAME);
        let rows: Vec<Row> = names.into_iter().filter(|(hash, _)| *hash != schema).collect();
        self.commit(&rows)?;
        for (hash, _) in rows {
            if let Some(slot) = self.slots.remove(&hash) {
                self.pages.release(slot);
            }
        }
        self.purge()
    }

    /// Whether nothing waits for a [`Self::purge`].
    #[must_use]
    pub fn is_purged(&self) -> bool {
        self.pages.is_clean()
    }

    /// Puts another passphrase in place of the one before: one page is rewritten, at both of its places.
    ///
    /// # Errors
    /// What the system says. Either passphrase may be the one that counts then.
    pub fn change_passphrase(&mut self, new: &[u8]) -> Result<(), StoreError> {
        let (cost, count) = (self.header.cost(), self.header.count + 1);
        let header = Header::seal(new, cost, &self.master, count, &mut self.rng)?;
        self.pages.write_header(&header)?;
        self.header = header;
        Ok(())
    }

    /// Whether there is a store in a folder.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join(KEYS).exists()
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Destroys a store without its passphrase: overwrites its keys first, the master key before all others, then
    /// removes the files. Works while another program has the store open; what that one holds in memory ends with it.
    /// Returns the process that has it open, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is nothing, or what the system says.
    pub fn wipe(folder: &Path) -> Result<Option<String>, StoreError> {
        let keys = folder.join(KEYS);
        let found = [KEYS, NEW_KEYS, STATE].iter().any(|name| folder.join(name).exists());
        if !found {
            return Err(StoreError::Missing(folder.to_owned()));
        }
        let mut rng: StdRng = rand::make_rng();
        for path in [&keys, &folder.join(NEW_KEYS)] {
            match OpenOptions::new().write(true).open(path) {
                Ok(file) => overwrite(&file, &mut rng)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        let holder = match lock(folder) {
            Err(StoreError::Locked { holder, .. }) => Some(holder),
            _ => None,
        };
        for name in [KEYS, NEW_KEYS, STATE, LOCK] {
            remove(&folder.join(name))?;
        }
        File::open(folder)?.sync_all()?;
        Ok(holder)
    }
}

/// The file of keys until the store is whole.
const NEW_KEYS: &str = "keys.new";

/// redb with a small cache: records are read once, at opening.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

fn schema(version: u32) -> Change {
    Change { name: SCHEMA_NAME.to_vec(), value: Some(Zeroizing::new(version.to_le_bytes().to_vec())) }
}

/// The length to which so many bytes are padded.
fn padded(len: usize) -> usize {
    let last = CLASSES.last().copied().unwrap_or(1);
    CLASSES.into_iter().find(|class| len <= *class).unwrap_or_else(|| len.next_multiple_of(last))
}

/// Takes the folder's lock. It ends with this process, however that ends.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).clone();
    let mut file = options.open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "process {}", std::process::id())?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&mut file).take(64).read_to_string(&mut holder);
            let holder = if holder.is_empty() { "a process that has just started".to_owned() } else { holder };
            Err(StoreError::Locked { folder: folder.to_owned(), holder })
        }
        Err(TryLockError::Error(e)) => Err(e.into()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Puts random bytes in place of a file's own: its first two pages, synced, then the rest.
fn overwrite(file: &File, rng: &mut StdRng) -> io::Result<()> {
    let len = file.metadata()?.len();
    let mut at = 0;
    let mut noise = vec![0; 2 * pages::PAGE];
    while at < len {
        rng.fill_bytes(&mut noise);
        let n = usize::try_from(len - at).unwrap_or(usize::MAX).min(noise.len());
        file.write_all_at(noise.get(..n).unwrap_or_default(), at)?;
        if at == 0 {
            file.sync_data()?;
        }
        at += n as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests;
