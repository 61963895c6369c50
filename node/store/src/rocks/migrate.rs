//! Bringing an older layout up to date when the store is opened.
//!
//! **1 to 2**: values of messages and blobs are sealed, in batches of [`BATCH_BYTES`]. A value and its seal record are
//! written together, so that one without a record is one that is still to be done: it may stop at any moment and goes on
//! when the store is opened again. The old values leave the files as it goes, by compacting what is done. Then writers are
//! filed under half of their hash. The schema's number is written last, when everything is on the disk. A store that has
//! begun can't be opened by the old program.

use std::path::Path;

use rocksdb::{DB, FlushOptions, ReadOptions, WriteBatch, WriteOptions};

use super::seal::{self, Sealer};
use super::{OpenError, error, free_bytes, handle};
use crate::keys::{self, Table};

/// Bytes of values in one batch.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of values after which the old ones are compacted away, and progress is logged.
const COMPACT_EVERY: usize = 64 << 20;
/// Free bytes beyond those of the tables themselves: logs, memtables, and what a compaction needs.
const MARGIN: u64 = 128 << 20;

const SEALED: [Table; 2] = [Table::Messages, Table::Blobs];

/// Seals everything. The caller writes the schema's number.
pub(super) fn seal_all(path: &Path, db: &DB, sealer: &mut Sealer) -> Result<(), OpenError> {
    let failed = |e: rocksdb::Error| error::classify(&e).at(path, &e);
    let bytes = table_bytes(db);
    let (needed, free) = (bytes.saturating_add(MARGIN), free_bytes(path));
    if bytes > 0 && free < needed {
        let path = path.to_owned();
        return Err(OpenError::NoSpaceToMigrate { path, needed_mib: needed.div_ceil(1 << 20), free_mib: free >> 20 });
    }
    tracing::info!("the queue store has an older layout: about {} MiB are brought up to date", bytes >> 20);
    let mut total = 0;
    for table in SEALED {
        let mut next = Some(Vec::new());
        let (mut since, mut begin) = (0, Vec::new());
        while let Some(from) = next {
            let done;
            (done, next) = seal_some(path, db, sealer, table, &from)?;
            since += done;
            total += done;
            if since >= COMPACT_EVERY || next.is_none() {
                if let Some(cf) = db.cf_handle(table.name()) {
                    db.compact_range_cf(cf, Some(&begin), next.as_ref());
                }
                tracing::info!("{} of about {} MiB are done", total >> 20, bytes >> 20);
                (since, begin) = (0, next.clone().unwrap_or_default());
            }
        }
    }
    shorten_index(db).map_err(failed)?;
    // The logs go when no table has anything left in them, and with them the last of the old values.
    let all: Vec<_> = Table::ALL.iter().filter_map(|table| db.cf_handle(table.name())).collect();
    db.flush_cfs_opt(&all, &FlushOptions::default()).map_err(failed)?;
    db.flush_wal(true).map_err(failed)?;
    tracing::info!("the queue store is up to date");
    Ok(())
}

/// Files every writer under the first half of its hash; again and again does no harm.
fn shorten_index(db: &DB) -> Result<(), rocksdb::Error> {
    let Some(cf) = db.cf_handle(Table::Index.name()) else { return Ok(()) };
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    let mut entries = db.raw_iterator_cf_opt(cf, options);
    entries.seek_to_first();
    let mut batch = WriteBatch::default();
    while let Some((key, queue)) = entries.item() {
        if let Some(short) = keys::shortened(key) {
            batch.put_cf(cf, short, queue);
            batch.delete_cf(cf, key);
        }
        entries.next();
        if batch.size_in_bytes() >= BATCH_BYTES {
            db.write_opt(std::mem::take(&mut batch), &WriteOptions::default())?;
        }
    }
    entries.status()?;
    db.write_opt(batch, &WriteOptions::default())
}

/// Seals one batch from a key on. Returns the bytes of values that it looked at, and where to go on.
fn seal_some(
    path: &Path,
    db: &DB,
    sealer: &mut Sealer,
    table: Table,
    from: &[u8],
) -> Result<(usize, Option<Vec<u8>>), OpenError> {
    let failed = |e: rocksdb::Error| error::classify(&e).at(path, &e);
    let impossible = |_| OpenError::Other { path: path.to_owned(), why: "a value can't be sealed".into() };
    let (cf, seals) = (handle(db, table).map_err(impossible)?, handle(db, Table::Seals).map_err(impossible)?);
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    let mut values = db.raw_iterator_cf_opt(cf, options);
    values.seek(from);
    let (mut batch, mut done, mut next) = (WriteBatch::default(), 0, None);
    while let Some((key, value)) = values.item() {
        if done >= BATCH_BYTES {
            next = Some(key.to_vec());
            break;
        }
        done += value.len();
        if let Some(name) = seal::name(table, key)
            && db.get_pinned_cf(seals, &name).map_err(failed)?.is_none()
        {
            let mut value = value.to_vec();
            let record = sealer.seal(&name, &mut value).map_err(impossible)?;
            batch.put_cf(seals, &name, record);
            batch.put_cf(cf, key, value);
        }
        values.next();
    }
    values.status().map_err(failed)?;
    if !batch.is_empty() {
        db.write_opt(batch, &WriteOptions::default()).map_err(failed)?;
    }
    Ok((done, next))
}

/// Bytes that the tables to be sealed take, in files and in memory.
fn table_bytes(db: &DB) -> u64 {
    let of = |table: Table, name: &str| {
        let cf = db.cf_handle(table.name())?;
        db.property_int_value_cf(cf, name).ok()?
    };
    let names = ["rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables"];
    SEALED.iter().flat_map(|t| names.map(|n| of(*t, n).unwrap_or(0))).sum()
}
