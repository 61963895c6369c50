//! The way of a batch to the disk: sealed, put together, written.

use core::time::Duration;
use std::thread;

use rocksdb::{DB, ErrorKind, WriteBatch};

use super::{Disk, broken, handle, has_failed, options, seal};
use crate::batch::{Broken, Changes};
use crate::keys::Table;

/// What an entry of a batch takes besides its key and value, and the batch itself: tags and lengths.
const ENTRY: usize = 16;
/// While RocksDB lags behind, a write is tried again after this time.
const STALL_POLL: Duration = Duration::from_millis(1);
/// Attempts, about ten seconds, after which a disk that lags behind counts as one that has failed.
const STALL_PATIENCE: u32 = 10_000;

/// A change as it lies on the disk; `None` erases.
pub(super) type Entry = (Table, Vec<u8>, Option<Vec<u8>>);

/// Changes as they lie on the disk.
pub(super) struct Sealed {
    pub(super) entries: Vec<Entry>,
    /// How many of them erase a message or blob.
    pub(super) erased: u64,
}

impl Disk {
    /// Seals the values among the changes.
    pub(super) fn seal(&mut self, changes: Changes) -> Result<Sealed, Broken> {
        let mut sealed = Sealed { entries: Vec::with_capacity(2 * changes.len()), erased: 0 };
        for ((table, key), mut value) in changes {
            self.recent.keep(table, &key, value.as_deref());
            if let Some(name) = seal::name(table, &key) {
                let record = match &mut value {
                    Some(value) => {
                        // A blob is written again when it is deleted: what it held before is erased by that.
                        self.renewal.erased |= table == Table::Blobs;
                        Some(self.sealer.seal(&name, value)?)
                    }
                    None => {
                        sealed.erased += 1;
                        None
                    }
                };
                sealed.entries.push((Table::Seals, name, record));
            }
            sealed.entries.push((table, key, value));
        }
        Ok(sealed)
    }

    /// Writes, and waits while RocksDB lags behind, but not for a disk that has failed: RocksDB itself would, for good.
    pub(super) fn write(&mut self, db: &DB, entries: &[Entry], sync: bool) -> Result<(), Broken> {
        let mut options = options::write(sync);
        options.set_no_slowdown(true);
        for _ in 0..STALL_PATIENCE {
            // RocksDB takes the batch and doesn't give it back: it is put together again for another attempt.
            match db.write_opt(batch(db, entries)?, &options) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Incomplete && !has_failed(db) => {
                    #[expect(clippy::disallowed_methods, reason = "RocksDB has no event for the end of a stall")]
                    thread::sleep(STALL_POLL);
                }
                Err(e) => {
                    self.fail();
                    return Err(broken("write", &e));
                }
            }
        }
        self.fail();
        Err(Broken)
    }
}

/// Entries as RocksDB takes them.
///
/// A message is written once and erased once, so that it may be erased by a single delete: when both are still in memory,
/// neither reaches a table file. A plain erasure would, and each file of erasures makes RocksDB rewrite the
/// messages beside them (measured with 100,000 messages held and others coming and going: 461 MB/s of compaction before,
/// 154 with this alone).
/// Blobs and seal records are written again under the same key, so that they may not.
fn batch(db: &DB, entries: &[Entry]) -> Result<WriteBatch, Broken> {
    // As much as it takes, at once: growing would copy the messages once more.
    let bytes = |(_, key, value): &Entry| ENTRY + key.len() + value.as_ref().map_or(0, Vec::len);
    let mut batch = WriteBatch::with_capacity_bytes(ENTRY + entries.iter().map(bytes).sum::<usize>());
    for (table, key, value) in entries {
        let cf = handle(db, *table)?;
        match value {
            Some(value) => batch.put_cf(cf, key, value),
            None if *table == Table::Messages => batch.single_delete_cf(cf, key),
            None => batch.delete_cf(cf, key),
        }
    }
    Ok(batch)
}
