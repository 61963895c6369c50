//! How RocksDB is set up: little memory, few threads, no chatter.
//!
//! Memory at most: [`BLOCK_CACHE`] with indexes and filters in it, [`ALL_MEMTABLES`], and the tables' readers
//! ([`OPEN_FILES`] at some KB each): about 150 MiB.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options,
};

use crate::keys::Table;

/// Blocks, indexes and filters of all tables, in bytes.
const BLOCK_CACHE: usize = 64 << 20;
/// Bytes of messages that are gathered before they are flushed: what is acknowledged before that is never written again.
pub(super) const MESSAGE_MEMTABLE: usize = 16 << 20;
/// The same for the tables of small records.
const SMALL_MEMTABLE: usize = 8 << 20;
/// Bytes of all memtables together.
const ALL_MEMTABLES: usize = 64 << 20;
/// Bytes of write-ahead log after which the oldest table is flushed; bounds the time that opening takes, too.
const LOG_BYTES: u64 = 32 << 20;
/// Size of a table file: small, so that a compaction never needs much free space at once.
const FILE_BYTES: u64 = 16 << 20;
/// Threads for flushes and compactions.
const BACKGROUND_JOBS: i32 = 2;
/// Table files held open; a store of 10 million queues has a few hundred.
const OPEN_FILES: i32 = 1024;
/// Bits of a Bloom filter for each key: one in a hundred lookups of an unknown capability reads a block in vain.
const BLOOM_BITS: f64 = 10.0;
/// A file in which this many of [`ERASED_WINDOW`] neighbouring entries are erasures is compacted soon.
const ERASED_TRIGGER: usize = 64;
/// See [`ERASED_TRIGGER`].
const ERASED_WINDOW: usize = 128;
/// A file with anything older than this is compacted, so that what was erased really leaves the disk: one day.
const SETTLE_SECONDS: u64 = 24 * 3600;

pub(super) fn database() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_open_files(OPEN_FILES);
    options.set_db_write_buffer_size(ALL_MEMTABLES);
    options.set_max_total_wal_size(LOG_BYTES);
    // A log that is damaged anywhere but at its torn end must stop us: skipping over it would lose confirmed messages.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // RocksDB's own log names keys and times to the microsecond: none of it is kept.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options
}

pub(super) fn tables() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE);
    Table::ALL.iter().map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(*table, &cache))).collect()
}

fn table_options(table: Table, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_target_file_size_base(FILE_BYTES);
    options.set_ttl(SETTLE_SECONDS);
    options.add_compact_on_deletion_collector_factory(ERASED_WINDOW, ERASED_TRIGGER, 0.5);
    match table {
        Table::Messages | Table::Blobs => {
            options.set_write_buffer_size(MESSAGE_MEMTABLE);
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
    if matches!(table, Table::Queues | Table::Index | Table::Blobs) {
        blocks.set_bloom_filter(BLOOM_BITS, false);
    }
    options.set_block_based_table_factory(&blocks);
    options
}
