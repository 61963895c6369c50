//! Making what was erased unreadable: the store's key is replaced again and again, and what is kept is put under the new
//! one; what isn't kept has lost its key.
//!
//! 1. A new key is drawn and written to the key file, beside the old one. From now on it seals.
//! 2. The seal records are gone through in slices: each one under the old key is written anew under the new key. (The
//!    value itself stays as it is: `seal.rs`.) A record that was erased isn't met.
//! 3. When all is on the disk, the old key is destroyed.
//!
//! A crash between any two steps loses nothing: both keys are in the file until the last record was synced. And it leaves
//! no old key behind: the next start finds two keys and goes on with step 2.
//!
//! **Why not a key for each hour** in which values end, destroyed when it is over? It would erase what has expired, and
//! leave readable for weeks what was acknowledged within seconds, which is nearly all. And a change of key that seals the
//! values themselves anew would write a full store's 32 GiB again each time; like this it is a hundredth of it.

use core::time::Duration;
use std::sync::Arc;

use posta_protocol::now::Mono;
use rand::make_rng;
use rocksdb::ReadOptions;

use super::{Disk, broken, handle};
use crate::batch::Broken;
use crate::keys::Table;

/// What was acknowledged, deleted or expired can't be opened any more after this time, by whoever has the disk and the
/// keys on it: two changes of the store's key. It counts while the store is open, takes writes, and is swept at least
/// once a minute until nothing is left to do; what was erased before a store was closed is done first when it is opened.
pub const ERASE_WITHIN: Duration = Duration::from_secs(3600);
/// From one change of key to the next. What was erased just behind the back of one goes with the next, and that may
/// take a while itself.
const RENEW_EVERY: Duration = Duration::from_secs(25 * 60);

/// How far the change of key is.
#[derive(Debug)]
pub(super) struct Renewal {
    /// When the last one began; none since the store was opened.
    begun: Option<Mono>,
    /// Whether anything was erased since.
    pub(super) erased: bool,
    /// Where to go on, while one is on its way.
    cursor: Option<Vec<u8>>,
}

impl Renewal {
    /// A store that was just opened: what it erased in its last life isn't known, and is to go soon.
    pub(super) const fn new() -> Self {
        Self { begun: None, erased: true, cursor: None }
    }
}

impl Disk {
    /// Carries a change of key on by at most `limit` records, or begins one if it is time. Returns how many it looked at;
    /// fewer than `limit` means that nothing is to be done now.
    pub(super) fn renew(&mut self, now: Mono, limit: usize) -> usize {
        if limit == 0 || !(self.renewal.cursor.is_some() || self.begin_renewal(now)) {
            return 0;
        }
        self.renew_some(limit).unwrap_or(0)
    }

    fn begin_renewal(&mut self, now: Mono) -> bool {
        if !self.sealer.keys.is_replacing() {
            let waited = self.renewal.begun.is_none_or(|at| now.since(at) >= RENEW_EVERY || now < at);
            if !(self.renewal.erased && waited) {
                return false;
            }
            // A fresh generator, too: the state of the old one would give away the keys that it has drawn.
            self.sealer.rng = make_rng();
            if let Err(e) = self.sealer.keys.begin(&mut self.sealer.rng) {
                tracing::warn!(kind = ?e.kind(), "the queue store's key can't be replaced yet");
                return false;
            }
            self.renewal.begun = Some(now);
            self.renewal.erased = false;
        }
        self.renewal.cursor = Some(Vec::new());
        true
    }

    fn renew_some(&mut self, limit: usize) -> Result<usize, Broken> {
        let db = Arc::clone(self.db()?);
        let seals = handle(&db, Table::Seals)?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut records = db.raw_iterator_cf_opt(seals, options);
        records.seek(self.renewal.cursor.as_deref().unwrap_or_default());
        let (mut entries, mut seen, mut next) = (Vec::new(), 0, Vec::new());
        while seen < limit
            && let Some((name, record)) = records.item()
        {
            // One that can't be opened is lost already; it must not keep the old key alive.
            if let Ok(Some(renewed)) = self.sealer.renew(name, record) {
                entries.push((Table::Seals, name.to_vec(), Some(renewed)));
            }
            seen += 1;
            next = [name, &[0]].concat();
            records.next();
        }
        records.status().map_err(|e| broken("read", &e))?;
        if !entries.is_empty() {
            self.write(&db, &entries, false)?;
        }
        if seen == limit {
            self.renewal.cursor = Some(next);
            return Ok(seen);
        }
        if let Err(e) = db.flush_wal(true) {
            self.fail();
            return Err(broken("sync", &e));
        }
        match self.sealer.keys.end() {
            Ok(()) => self.renewal.cursor = None,
            // Tried again at the next sweep.
            Err(e) => tracing::warn!(kind = ?e.kind(), "an old key of the queue store can't be destroyed yet"),
        }
        Ok(seen)
    }
}
