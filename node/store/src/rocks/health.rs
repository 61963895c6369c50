//! How a store stands, for whoever runs it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::free_bytes;
use crate::record::Totals;

/// How a store stands: kept by the thread that owns it, read at any time by others, who never wait for it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    writable: AtomicBool,
    queues: AtomicU64,
    bytes: AtomicU64,
}

impl Health {
    pub(super) fn new(path: &Path) -> Self {
        let path = path.to_owned();
        Self(Arc::new(Inner {
            path,
            writable: AtomicBool::new(true),
            queues: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }))
    }

    /// Whether it takes changes: false from a failed write until the disk works again.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.0.writable.load(Ordering::Relaxed)
    }

    /// Queues held, with what is left of deleted ones until they would have ended.
    #[must_use]
    pub fn queues(&self) -> u64 {
        self.0.queues.load(Ordering::Relaxed)
    }

    /// Bytes of messages and blobs held, as [`crate::Limits::disk_quota_bytes`] counts them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Free bytes of the file system that the store lies on, for an ordinary user; none if it can't say.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        free_bytes(&self.0.path)
    }

    pub(super) fn set_writable(&self, writable: bool) {
        self.0.writable.store(writable, Ordering::Relaxed);
    }

    pub(super) fn set_totals(&self, totals: &Totals) {
        self.0.queues.store(totals.queues, Ordering::Relaxed);
        self.0.bytes.store(totals.bytes, Ordering::Relaxed);
    }
}
