//! How RocksDB is set up: little memory, few threads, no chatter.
//!
//! Memory at most: [`BLOCK_CACHE`] with indexes and filters in it, [`Buffers::all`] and as much again while they are
//! flushed, and the tables' readers ([`OPEN_FILES`] at some KB each): about 350 MiB, on a small disk 200.
//!
//! **Messages lie in plain SST files, not in BlobDB's.** Measured on RocksDB alone with 16,384 messages of 11 KB in
//! batches of 64 (`posta-benches store`, layouts), bytes written and bytes left on disk for each byte of message:
//!
//! | | plain SST | BlobDB | BlobDB, collected eagerly |
//! |---|---|---|---|
//! | acknowledged 512 messages later: written | 1.13 | 1.09 | 1.13 |
//! | all acknowledged at the end: written | 1.75 | 1.75 | 1.75 |
//! | all but every tenth: written | 1.88 | 1.80 | 1.88 |
//! | all but every tenth: left (0.10 would be none too much) | 0.10 | 0.59 | 0.10 |
//!
//! Messages a second are alike. Blob files as they come keep what is gone as long as a few messages in each stay; once
//! they are collected so that the space comes back, they write as much as SST files do.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options,
    WriteOptions,
};

use crate::keys::Table;

/// Blocks, indexes and filters of all tables, in bytes.
const BLOCK_CACHE: usize = 64 << 20;
/// Bytes of small records that are gathered for each table before they are flushed.
const SMALL_MEMTABLE: usize = 8 << 20;
/// A file system with less than this is small: 4 GiB.
const SMALL_DISK: u64 = 4 << 30;
/// Size of a table file: small, so that a compaction never needs much free space at once.
const FILE_BYTES: u64 = 16 << 20;
/// Bytes of a table file after which it is written back: a command's sync would wait for a whole file otherwise (measured
/// with 64 writers: sends a second at 0.86 to 0.92 of RocksDB alone instead of 0.80 to 0.84).
const WRITTEN_BACK: u64 = 1 << 20;
/// Threads for flushes and compactions.
const BACKGROUND_JOBS: i32 = 2;
/// Table files held open; a store of 10 million queues has a few hundred.
const OPEN_FILES: i32 = 1024;
/// Bits of a Bloom filter for each key: one in a hundred lookups of an unknown capability reads a block in vain.
const BLOOM_BITS: f64 = 10.0;
/// The same for what is still in memory, as a share of it: looking for what isn't there was a fifth of a `create`.
const MEMTABLE_BLOOM: f64 = 0.02;
/// A file in which this many of [`Erasures::window`] neighbouring entries are erasures, or this share of all, is compacted
/// soon.
#[derive(Clone, Copy)]
struct Erasures {
    window: usize,
    trigger: usize,
    share: f64,
}

impl Erasures {
    /// Small records.
    const RECORDS: Self = Self { window: 128, trigger: 64, share: 0.5 };
    /// Messages: of 64 that come and go at once while a file is written, each leaves itself in that file and an erasure in
    /// the next. That is half, and not worth rewriting the messages beside them.
    const MESSAGES: Self = Self { window: 1024, trigger: 512, share: 0.75 };
}

/// New files of messages that are gathered before they are merged with the older ones. Each merge rewrites what lies
/// beside, with 100,000 messages held 250 MB; with four, as RocksDB would have it, that went on all the time.
const MESSAGE_FILES: i32 = 12;
/// A file with anything older than this is compacted, so that what was erased really leaves the disk: one day.
const SETTLE_SECONDS: u64 = 24 * 3600;

/// What is gathered in memory and in the log before it goes into table files, in bytes.
///
/// Messages that are acknowledged while they are gathered are never written again. The log bounds the time that opening
/// takes (256 MiB: about a second), and how often the small tables are flushed for no reason of their own, which costs a
/// store of many queues a compaction each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffers {
    /// Messages.
    messages: usize,
    /// All tables together.
    all: usize,
    /// The log; the oldest table is flushed when it is longer.
    log: u64,
}

impl Buffers {
    const LARGE: Self = Self { messages: 64 << 20, all: 128 << 20, log: 256 << 20 };
    const SMALL: Self = Self { messages: 16 << 20, all: 64 << 20, log: 32 << 20 };

    /// Those for the file system that a folder lies on.
    fn of(path: &Path) -> Self {
        let bytes = rustix::fs::statvfs(path).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize));
        if bytes < SMALL_DISK { Self::SMALL } else { Self::LARGE }
    }
}

/// Free bytes above which a database that failed to write is opened again: two memtables are flushed on the way.
pub(crate) fn reopen_bytes(path: &Path) -> u64 {
    2 * Buffers::of(path).messages as u64
}

pub(crate) fn database(path: &Path) -> Options {
    let buffers = Buffers::of(path);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_open_files(OPEN_FILES);
    options.set_db_write_buffer_size(buffers.all);
    options.set_max_total_wal_size(buffers.log);
    // A log that is damaged anywhere but at its torn end must stop us: skipping over it would lose confirmed messages.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_bytes_per_sync(WRITTEN_BACK);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // RocksDB's own log names keys and times to the microsecond: none of it is kept.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options
}

/// How to write: with or without waiting for the disk.
pub(crate) fn write(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}

pub(crate) fn tables(path: &Path) -> Vec<ColumnFamilyDescriptor> {
    let buffers = Buffers::of(path);
    let cache = Cache::new_lru_cache(BLOCK_CACHE);
    let options = |table| table_options(table, &cache, buffers);
    Table::ALL.iter().map(|table| ColumnFamilyDescriptor::new(table.name(), options(*table))).collect()
}

fn table_options(table: Table, cache: &Cache, buffers: Buffers) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_target_file_size_base(FILE_BYTES);
    options.set_ttl(SETTLE_SECONDS);
    let erasures = if table == Table::Messages { Erasures::MESSAGES } else { Erasures::RECORDS };
    options.add_compact_on_deletion_collector_factory(erasures.window, erasures.trigger, erasures.share);
    match table {
        Table::Messages | Table::Blobs => {
            options.set_write_buffer_size(buffers.messages);
            options.set_compression_type(DBCompressionType::None); // ciphertext
        }
        Table::Seals => {
            options.set_write_buffer_size(SMALL_MEMTABLE);
            options.set_compression_type(DBCompressionType::None); // keys under keys, and hashes
        }
        Table::Meta | Table::Queues | Table::Index | Table::Expiry => {
            options.set_write_buffer_size(SMALL_MEMTABLE);
            options.set_compression_type(DBCompressionType::Lz4);
        }
    }
    if table == Table::Messages {
        options.set_level_zero_file_num_compaction_trigger(MESSAGE_FILES);
        // So many files would have to be looked into: ten bits beside 11 KB.
        blocks.set_bloom_filter(BLOOM_BITS, false);
    }
    if matches!(table, Table::Queues | Table::Index | Table::Blobs) {
        blocks.set_bloom_filter(BLOOM_BITS, false);
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM);
    }
    options.set_block_based_table_factory(&blocks);
    options
}

/// Where values lie, for the benches.
#[cfg(feature = "floor")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// In the table files.
    Plain,
    /// In BlobDB's files, collected as it comes.
    Blob,
    /// In BlobDB's files, collected as soon as half of one is dead.
    EagerBlob,
}

/// The table of messages as a database of its own, for the benches.
#[cfg(feature = "floor")]
pub(crate) fn messages_alone(values: Values) -> Options {
    let buffers = Buffers::LARGE;
    let mut options = table_options(Table::Messages, &Cache::new_lru_cache(BLOCK_CACHE), buffers);
    options.create_if_missing(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_total_wal_size(buffers.log);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options.set_enable_blob_files(values != Values::Plain);
    options.set_blob_file_size(FILE_BYTES);
    options.set_enable_blob_gc(true);
    if values == Values::EagerBlob {
        options.set_blob_gc_age_cutoff(1.0);
        options.set_blob_gc_force_threshold(0.5);
    }
    options
}
