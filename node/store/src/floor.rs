//! What RocksDB alone can do: for the benches, which measure the store beside it. Nothing else may use this.

use std::collections::BTreeMap;
use std::path::Path;

use posta_protocol::ids::{Incarnation, QueueId};
use posta_protocol::now::Now;
use rocksdb::{DB, DBCompressionType, FlushOptions, IteratorMode, Options, WaitForCompactOptions, WriteBatch};
use thiserror::Error;

use crate::keys::Table;
use crate::rocks::options::{self, Values};
use crate::{Limits, Outcome, QueueOp, QueueStore, Refusal};

/// RocksDB has failed, in its own words.
#[derive(Clone, Debug, Error)]
#[error("RocksDB: {0}")]
pub struct RawError(String);

impl From<rocksdb::Error> for RawError {
    fn from(e: rocksdb::Error) -> Self {
        Self(e.to_string())
    }
}

/// How messages lie on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// RocksDB as it comes, without compression.
    Stock,
    /// The store's settings: values in plain SST files.
    Plain,
    /// The store's settings, with values in BlobDB's files, collected as it comes.
    Blob,
    /// The same, collected as soon as half of a file is dead.
    EagerBlob,
}

/// One table of messages and nothing around it.
#[derive(Debug)]
pub struct Raw(DB);

impl Raw {
    /// Makes a database in a new folder.
    ///
    /// # Errors
    /// If RocksDB can't.
    pub fn open(path: &Path, layout: Layout) -> Result<Self, RawError> {
        let options = match layout {
            Layout::Stock => {
                let mut options = Options::default();
                options.create_if_missing(true);
                options.set_compression_type(DBCompressionType::None);
                options
            }
            Layout::Plain => options::messages_alone(Values::Plain),
            Layout::Blob => options::messages_alone(Values::Blob),
            Layout::EagerBlob => options::messages_alone(Values::EagerBlob),
        };
        Ok(Self(DB::open(&options, path)?))
    }

    /// Writes values in one batch with one sync.
    ///
    /// # Errors
    /// If RocksDB can't.
    pub fn put<'v>(&self, entries: impl IntoIterator<Item = ([u8; 41], &'v [u8])>) -> Result<(), RawError> {
        let mut batch = WriteBatch::default();
        for (key, value) in entries {
            batch.put(key, value);
        }
        Ok(self.0.write_opt(batch, &options::write(true))?)
    }

    /// Erases keys in one batch with one sync.
    ///
    /// # Errors
    /// If RocksDB can't.
    pub fn erase(&self, keys: impl IntoIterator<Item = [u8; 41]>) -> Result<(), RawError> {
        let mut batch = WriteBatch::default();
        for key in keys {
            batch.delete(key);
        }
        Ok(self.0.write_opt(batch, &options::write(true))?)
    }

    /// The length of a value.
    ///
    /// # Errors
    /// If RocksDB can't.
    pub fn get(&self, key: [u8; 41]) -> Result<Option<usize>, RawError> {
        Ok(self.0.get_pinned(key)?.map(|value| value.len()))
    }

    /// Brings everything out of memory and waits until no compaction is due.
    ///
    /// # Errors
    /// If RocksDB can't.
    pub fn settle(&self) -> Result<(), RawError> {
        self.0.flush_opt(&FlushOptions::default())?;
        Ok(self.0.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    /// How many entries there are.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.0.iterator(IteratorMode::Start).count()
    }
}

/// A store that only writes messages down: no queues, no quotas, no repeats, no expiry. It answers nothing but sends.
#[derive(Debug)]
pub struct RawStore(pub Raw);

impl QueueStore for RawStore {
    fn incarnation(&self) -> Incarnation {
        Incarnation([0; 16])
    }

    fn apply(&mut self, _: Now, ops: &[QueueOp]) -> Vec<Outcome> {
        let mut entries = Vec::with_capacity(ops.len());
        let mut outcomes = Vec::with_capacity(ops.len());
        for op in ops {
            if let QueueOp::Send { writer, sequence, body } = op {
                let queue = QueueId(writer.0);
                let mut key = [0; 41];
                for (place, byte) in key.iter_mut().zip(queue.0.into_iter().chain(sequence.to_be_bytes())) {
                    *place = byte;
                }
                entries.push((key, &**body));
                outcomes.push(Outcome::Accepted { queue, sequence: *sequence });
            } else {
                outcomes.push(Outcome::Refused(Refusal::Busy));
            }
        }
        match self.0.put(entries) {
            Ok(()) => outcomes,
            Err(_) => ops.iter().map(|_| Outcome::Refused(Refusal::NoSpace)).collect(),
        }
    }

    fn sweep(&mut self, _: Now, _: usize) -> usize {
        0
    }

    fn set_limits(&mut self, _: Limits) {}
}

/// Opens a store that nobody has open, waits until RocksDB has nothing left to merge, and closes it.
///
/// # Errors
/// If RocksDB can't open it or fails on the way.
pub fn settle(path: &Path) -> Result<(), RawError> {
    let db = DB::open_cf_descriptors(&options::database(path), path, options::tables(path))?;
    Ok(db.wait_for_compact(&WaitForCompactOptions::default())?)
}

/// Bytes of table files by table, of a store that nobody has open.
///
/// # Errors
/// If RocksDB can't read it.
pub fn table_bytes(path: &Path) -> Result<BTreeMap<&'static str, u64>, RawError> {
    let names = Table::ALL.map(Table::name);
    let db = DB::open_cf_for_read_only(&options::database(path), path, names, false)?;
    let mut bytes = BTreeMap::from(names.map(|name| (name, 0)));
    for file in db.live_files()? {
        if let Some(sum) = bytes.get_mut(file.column_family_name.as_str()) {
            *sum += file.size as u64;
        }
    }
    Ok(bytes)
}
