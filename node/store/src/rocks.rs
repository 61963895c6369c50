//! The store on disk: RocksDB, one `WriteBatch` and one sync for a batch of commands.
//!
//! **Values in plain SST files**, not in BlobDB's: `rocks/options.rs` has the numbers.
//!
//! **A disk that fails.** After a failed write RocksDB refuses all others until it is opened again. The store keeps
//! answering reads, refuses changes with `no-space`, and opens the database anew as soon as there is space
//! ([`options::reopen_bytes`]) and a file of its own can be written, which is tried every [`REOPEN_PAUSE`]. Opening
//! flushes what the log holds, so that nothing is confirmed twice that isn't on the disk. A batch whose write failed
//! half-way, after the log but before the sync, may turn out to be there: its commands are idempotent, and were answered
//! with a refusal, so that they come again.
//!
//! **Sealed values.** Messages and blobs are sealed on their way in (`seal.rs`), under keys beside the database
//! (`keyfile.rs`) that are replaced again and again (`renew.rs`): what is erased is unreadable within [`ERASE_WITHIN`],
//! whatever the files still hold of it.
//!
//! **Space.** What was erased leaves the disk when the table files that tell of it are compacted, which a file with many
//! erasures soon is; a sweep has the tables flushed after every [`SETTLE_AFTER`] of them. Below
//! [`Limits::min_free_bytes`] nothing new is taken in; what is left serves acks, deletes, and compactions, which a sweep
//! then runs itself once [`RECLAIM_AFTER`] entries were erased. Half of it is left for them: a change of the store's key
//! waits meanwhile.

use core::fmt;
use core::ops::ControlFlow;
use core::time::Duration;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::ids::Incarnation;
use posta_protocol::now::{Mono, Now};
use rocksdb::properties::BACKGROUND_ERRORS;
use rocksdb::{ColumnFamily, DB, ReadOptions};

use crate::batch::{Backing, Broken, Changes, Visit};
use crate::engine::{Engine, Mode};
use crate::keys::{self, Table};
use crate::limits::Limits;
use crate::record::Totals;
use crate::{Outcome, QueueOp, QueueStore, SCHEMA};

mod ahead;
pub(crate) mod backup;
mod error;
mod health;
mod keyfile;
mod migrate;
pub(crate) mod options;
mod recent;
mod renew;
mod seal;
mod write;

use ahead::Ahead;
use backup::Backups;
use error::FailedOpen;
pub use error::OpenError;
pub use health::Health;
use keyfile::KeyFile;
use recent::Recent;
pub use renew::ERASE_WITHIN;
use renew::Renewal;
use seal::Sealer;

/// A gauge: 1 while the store takes changes, 0 from a failed write until the disk works again.
pub const WRITABLE_METRIC: &str = "posta_store_writable";

/// Pause between two attempts to open it again.
const REOPEN_PAUSE: Duration = Duration::from_secs(2);
/// A file that is written, synced and removed to see whether the disk works.
const PROBE: &str = "probe";
/// Erased messages and blobs after which a sweep has the tables flushed, so that the space comes back however quiet it is:
/// about 45 MB.
const SETTLE_AFTER: u64 = 4096;
/// Erased messages and blobs after which, when space is short, a sweep compacts their tables: about 1 MiB.
const RECLAIM_AFTER: u64 = 96;

/// A queue store in a folder of its own.
pub struct RocksStore {
    engine: Engine,
    disk: Disk,
    incarnation: Incarnation,
    health: Health,
}

/// The database and its health.
struct Disk {
    path: PathBuf,
    /// None while it can't be opened. Shared with a backup while one is written.
    db: Option<Arc<DB>>,
    /// For backups: the database of the moment.
    backups: Backups,
    sealer: Sealer,
    renewal: Renewal,
    /// A write has failed since it was opened.
    failed: bool,
    /// When opening it again was last tried.
    tried: Option<Mono>,
    /// Whether space has been short since the last reclaiming compaction.
    short: bool,
    /// Messages and blobs erased since the last reclaiming compaction.
    erased: u64,
    /// Messages and blobs erased since the tables were last told.
    unsettled: u64,
    recent: Recent,
    ahead: Ahead,
    /// Threads that a batch's records are read on.
    readers: usize,
}

impl RocksStore {
    /// Opens the store in the folder `path`, or makes one there (mode 0700) with the incarnation `fresh`.
    ///
    /// # Errors
    /// One sentence for the operator each: see [`OpenError`].
    pub fn open(path: &Path, limits: Limits, fresh: Incarnation) -> Result<Self, OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| OpenError::from_io(path, &e))?;
        let (db, found) = open_database(path)?;
        let no_keys = |e| OpenError::from_io(path, &e);
        let keys = KeyFile::load(path).map_err(no_keys)?;
        let (sealer, incarnation) = match (found, keys) {
            (Some((SCHEMA, _)), None) => return Err(OpenError::NoKeys { path: path.to_owned() }),
            (Some((SCHEMA, incarnation)), Some(keys)) => (Sealer::new(keys), incarnation),
            (older, keys) => {
                let keys = match keys {
                    Some(keys) => keys,
                    None => KeyFile::create(path, &mut rand::rng()).map_err(no_keys)?,
                };
                let mut sealer = Sealer::new(keys);
                let incarnation = older.map_or(fresh, |(_, incarnation)| incarnation);
                if older.is_some() {
                    migrate::seal_all(path, &db, &mut sealer)?;
                }
                write_store_record(&db, incarnation).map_err(|e| error::classify(&e).at(path, &e))?;
                (sealer, incarnation)
            }
        };
        let db = Arc::new(db);
        let disk = Disk {
            path: path.to_owned(),
            backups: Backups::of(&db),
            db: Some(db),
            sealer,
            renewal: Renewal::new(),
            failed: false,
            tried: None,
            short: false,
            erased: 0,
            unsettled: 0,
            recent: Recent::default(),
            ahead: Ahead::default(),
            readers: ahead::readers(),
        };
        metrics::describe_gauge!(WRITABLE_METRIC, "1 while the queue store takes changes, 0 while the disk takes none");
        metrics::gauge!(WRITABLE_METRIC).set(1.0);
        let store = Self { engine: Engine::new(limits), disk, incarnation, health: Health::new(path) };
        store.report();
        Ok(store)
    }

    /// How the store stands, to be asked from any thread while it is in use.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    fn report(&self) {
        self.health.set_writable(self.writable());
        let totals =
            self.disk.db.as_ref().and_then(|db| db.get_cf(handle(db, Table::Meta).ok()?, keys::TOTALS).ok()?);
        if let Some(Ok(totals)) = totals.map(|bytes| Totals::decode(&bytes)) {
            self.health.set_totals(&totals);
        }
    }

    /// What makes backups of this store, from any thread, while it is in use.
    #[must_use]
    pub fn backups(&self) -> Backups {
        self.disk.backups.clone()
    }

    /// Whether the store takes changes: false from a failed write until the disk works again.
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.disk.db.is_some() && !self.disk.failed
    }

    /// What the disk allows now.
    fn mode(&mut self, now: Now, grows: bool) -> Mode {
        if !self.writable() {
            self.disk.reopen(now.mono);
        }
        if !self.writable() {
            Mode::ReadOnly
        } else if grows && self.disk.free_bytes() < self.engine.limits.min_free_bytes {
            self.disk.short = true;
            Mode::Reserve
        } else {
            Mode::Normal
        }
    }
}

impl QueueStore for RocksStore {
    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn apply(&mut self, now: Now, ops: &[QueueOp]) -> Vec<Outcome> {
        let mode = self.mode(now, ops.iter().any(QueueOp::grows));
        self.disk.read_ahead(ops);
        let outcomes = self.engine.apply(&mut self.disk, mode, now, ops);
        self.disk.ahead.forget();
        self.report();
        outcomes
    }

    fn set_limits(&mut self, limits: Limits) {
        self.engine.limits = limits;
    }

    fn sweep(&mut self, now: Now, limit: usize) -> usize {
        if self.mode(now, false) == Mode::ReadOnly {
            self.report();
            return 0;
        }
        let mut worked_off = self.engine.sweep(&mut self.disk, now, limit);
        if self.disk.unsettled >= SETTLE_AFTER {
            self.disk.settle();
        }
        if self.disk.free_bytes() >= self.engine.limits.min_free_bytes / 2 {
            worked_off += self.disk.renew(now.mono, limit.saturating_sub(worked_off));
        }
        if self.disk.erased >= RECLAIM_AFTER && self.disk.short {
            self.disk.reclaim();
        }
        self.report();
        worked_off
    }
}

impl fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksStore").field("writable", &self.writable()).finish_non_exhaustive()
    }
}

/// Opens the database. Returns schema and incarnation too, unless it is a new one.
fn open_database(path: &Path) -> Result<(DB, Option<(u32, Incarnation)>), OpenError> {
    let open = || DB::open_cf_descriptors(&options::database(path), path, options::tables(path));
    let db = open().map_err(|e| match error::classify(&e) {
        // A layout with other tables: its version stands in the one table that every layout has.
        FailedOpen::OtherTables => match schema_only(path) {
            Some(found) if found > SCHEMA => OpenError::Newer { path: path.to_owned(), found, known: SCHEMA },
            _ => OpenError::Corrupted { path: path.to_owned() },
        },
        other => other.at(path, &e),
    })?;
    match read_store_record(&db).map_err(|e| error::classify(&e).at(path, &e))? {
        Some((found, _)) if found > SCHEMA => Err(OpenError::Newer { path: path.to_owned(), found, known: SCHEMA }),
        Some((found @ 1..=SCHEMA, Some(incarnation))) => Ok((db, Some((found, incarnation)))),
        None if db.iterator(rocksdb::IteratorMode::Start).next().is_none() && no_queues(&db) => Ok((db, None)),
        _ => Err(OpenError::Corrupted { path: path.to_owned() }),
    }
}

/// Makes a database a store's.
fn write_store_record(db: &DB, incarnation: Incarnation) -> Result<(), rocksdb::Error> {
    let mut w = Writer::default();
    w.u32(SCHEMA);
    incarnation.write(&mut w);
    db.put_opt(keys::STORE, w.finish(), &options::write(true))
}

fn no_queues(db: &DB) -> bool {
    handle(db, Table::Queues).is_ok_and(|queues| db.iterator_cf(queues, rocksdb::IteratorMode::Start).next().is_none())
}

/// Schema and, where the rest can be read, incarnation.
fn read_store_record(db: &DB) -> Result<Option<(u32, Option<Incarnation>)>, rocksdb::Error> {
    Ok(db.get(keys::STORE)?.map(|bytes| {
        let mut r = Reader::new(&bytes);
        let schema = r.u32("schema").unwrap_or(0);
        let incarnation = Incarnation::read(&mut r).ok().filter(|_| r.left() == 0);
        (schema, incarnation)
    }))
}

fn schema_only(path: &Path) -> Option<u32> {
    let db = DB::open_cf_for_read_only(&options::database(path), path, [Table::Meta.name()], false).ok()?;
    read_store_record(&db).ok()?.map(|(schema, _)| schema)
}

fn handle(db: &DB, table: Table) -> Result<&ColumnFamily, Broken> {
    db.cf_handle(table.name()).ok_or(Broken)
}

/// Whether a file can be written and synced.
fn probe(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&[0; 4096])?;
    file.sync_all()?;
    fs::remove_file(path)
}

/// Logs the kind of an error and nothing else: RocksDB's own words may hold keys.
fn broken(what: &'static str, e: &rocksdb::Error) -> Broken {
    tracing::error!(kind = ?e.kind(), "the queue store can't {what}");
    Broken
}

/// Whether a flush or compaction has failed since the database was opened.
fn has_failed(db: &DB) -> bool {
    !matches!(db.property_int_value(BACKGROUND_ERRORS), Ok(Some(0)))
}

/// Free bytes of the file system for an ordinary user; none if it can't say.
fn free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

impl Disk {
    fn db(&self) -> Result<&Arc<DB>, Broken> {
        self.db.as_ref().ok_or(Broken)
    }

    fn free_bytes(&self) -> u64 {
        free_bytes(&self.path)
    }

    /// A write has failed: from here on the store only reads.
    fn fail(&mut self) {
        if !self.failed {
            tracing::error!("the disk takes no writes: the queue store only reads until it does");
            metrics::gauge!(WRITABLE_METRIC).set(0.0);
        }
        self.failed = true;
    }

    /// The value itself of what lies under a key.
    fn unseal(&self, db: &DB, table: Table, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let Some(name) = seal::name(table, key) else { return Ok(None) };
        let record = db.get_pinned_cf(handle(db, Table::Seals)?, &name).map_err(|e| broken("read", &e))?;
        let opened = record.ok_or(Broken).and_then(|record| self.sealer.open(&name, &record, value));
        opened.map(Some).inspect_err(|_| tracing::error!("a sealed value in the queue store is damaged"))
    }

    /// Tries to get a database back that takes writes.
    fn reopen(&mut self, now: Mono) {
        if self.tried.is_some_and(|tried| now.since(tried) < REOPEN_PAUSE && tried <= now)
            || self.free_bytes() < options::reopen_bytes(&self.path)
        {
            return;
        }
        self.tried = Some(now);
        // What can be read stays open while nothing can be written.
        if let Err(e) = probe(&self.path.join(PROBE)) {
            tracing::warn!(kind = ?e.kind(), "the disk takes no writes yet");
            return;
        }
        self.db = None; // Closed first: it holds the lock.
        self.recent.forget();
        match open_database(&self.path) {
            Ok((db, Some((SCHEMA, _)))) => {
                let db = Arc::new(db);
                self.backups.set(&db);
                self.db = Some(db);
                self.failed = false;
                tracing::info!("the disk takes writes again; the queue store goes on");
                metrics::gauge!(WRITABLE_METRIC).set(1.0);
            }
            _ => {
                tracing::warn!("the queue store can't be opened again yet");
                let (database, tables) = (options::database(&self.path), options::tables(&self.path));
                let readable = DB::open_cf_descriptors_read_only(&database, &self.path, tables, false);
                self.db = readable.ok().map(Arc::new);
            }
        }
    }

    /// Brings what was erased to the table files, whose compactions then drop it; in the background.
    fn settle(&mut self) {
        self.unsettled = 0;
        let Ok(db) = self.db() else { return };
        let all: Vec<_> = Table::ALL.iter().filter_map(|table| db.cf_handle(table.name())).collect();
        let mut options = rocksdb::FlushOptions::default();
        options.set_wait(false);
        // One that fails shows at the next write.
        let _ = db.flush_cfs_opt(&all, &options).map_err(|e| broken("flush", &e));
    }

    /// Gives the space of erased messages back, so far as compacting their tables does. Blocks meanwhile.
    fn reclaim(&mut self) {
        (self.erased, self.short) = (0, false);
        let Ok(db) = self.db().cloned() else { return };
        for table in [Table::Messages, Table::Blobs] {
            let Ok(cf) = handle(&db, table) else { return };
            db.compact_range_cf(cf, None::<&[u8]>, None::<&[u8]>);
        }
        // The log goes only when no table has anything left in it.
        let all: Vec<_> = Table::ALL.iter().filter_map(|table| db.cf_handle(table.name())).collect();
        if let Err(e) = db.flush_cfs_opt(&all, &rocksdb::FlushOptions::default()) {
            broken("flush", &e);
            self.fail();
        }
    }
}

impl Backing for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let db = self.db()?;
        if let Some(value) = self.recent.get(table, key) {
            return Ok(Some(value));
        }
        if let Some(value) = self.ahead.take(table, key) {
            self.recent.keep(table, key, value.as_deref());
            return Ok(value);
        }
        let value = db.get_pinned_cf(handle(db, table)?, key).map_err(|e| broken("read", &e))?;
        let Some(value) = value else { return Ok(None) };
        let value = self.unseal(db, table, key, &value)?.unwrap_or_else(|| value.to_vec());
        self.recent.keep(table, key, Some(&value));
        Ok(Some(value))
    }

    fn scan(&self, table: Table, from: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), Broken> {
        let db = self.db()?;
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut cursor = db.raw_iterator_cf_opt(handle(db, table)?, options);
        cursor.seek(from);
        while let Some((key, value)) = cursor.item() {
            let opened = self.unseal(db, table, key, value)?;
            if let ControlFlow::Break(()) = visit(key, opened.as_deref().unwrap_or(value)) {
                return Ok(());
            }
            cursor.next();
        }
        cursor.status().map_err(|e| broken("read", &e))
    }

    fn commit(&mut self, changes: Changes, sync: bool) -> Result<(), Broken> {
        let db = Arc::clone(self.db()?);
        self.ahead.forget();
        let written =
            self.seal(changes).and_then(|sealed| self.write(&db, &sealed.entries, sync).map(|()| sealed.erased));
        // A change that was not written is not what lies on the disk.
        let erased = written.inspect_err(|_| self.recent.forget())?;
        self.erased = self.erased.saturating_add(erased);
        self.unsettled = self.unsettled.saturating_add(erased);
        self.renewal.erased |= erased > 0;
        Ok(())
    }
}
