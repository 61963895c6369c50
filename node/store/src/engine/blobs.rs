//! The commands on blobs.

use core::time::Duration;

use posta_protocol::ids::{BlobId, Hash, WriterId};

use super::Session;
use crate::batch::{Backing, Stop};
use crate::keys::{self, Due, Table};
use crate::limits::{ENTRY_OVERHEAD, end_hour, hours};
use crate::record::BlobRecord;
use crate::{Outcome, Refusal};

impl<B: Backing> Session<'_, B> {
    pub(super) fn blob(&self, blob: &BlobId) -> Result<Option<BlobRecord>, Stop> {
        let bytes = self.batch.get(Table::Blobs, blob.0.to_vec())?;
        Ok(bytes.map(|bytes| BlobRecord::decode(&bytes)).transpose()?)
    }

    fn set_blob(&mut self, blob: &BlobId, record: &BlobRecord) {
        self.set(Table::Blobs, blob.0.to_vec(), record.encode());
    }

    /// The record of a blob that can still be used.
    fn alive_blob(&self, record: Option<BlobRecord>) -> Result<BlobRecord, Stop> {
        let record = record.ok_or(Refusal::BadCapability)?;
        if record.deleted {
            Err(Refusal::Gone.into())
        } else if self.hour >= record.end {
            Err(Refusal::Expired.into())
        } else {
            Ok(record)
        }
    }

    pub(super) fn blob_put(
        &mut self,
        put: &WriterId,
        get: &BlobId,
        one_time: bool,
        ttl: Duration,
        body: &[u8],
    ) -> Result<Outcome, Stop> {
        self.fits(body)?;
        let ttl = ttl.min(self.limits.blob_ttl);
        let asked = hours(ttl);
        if let Some(record) = self.blob(get)? {
            if record.put != *put {
                return Err(Refusal::Conflict.into());
            }
            let record = self.alive_blob(Some(record))?;
            let same = (record.one_time, record.hours, &*record.body) == (one_time, asked, body);
            return if same { Ok(Outcome::Done) } else { Err(Refusal::Conflict.into()) };
        }
        if self.batch.get(Table::Index, keys::put(put))?.is_some() {
            return Err(Refusal::Conflict.into());
        }
        self.take_room(body.len() as u64 + ENTRY_OVERHEAD)?;
        let end = end_hour(self.hour, ttl);
        self.set(Table::Index, keys::put(put), get.0.to_vec());
        let body = body.into();
        self.set_blob(get, &BlobRecord { put: *put, one_time, deleted: false, hours: asked, end, lock: None, body });
        self.file(end, Due::Blob(*get));
        Ok(Outcome::Done)
    }

    pub(super) fn blob_get(&mut self, get: &BlobId, lock: &Hash) -> Result<Outcome, Stop> {
        let record = self.blob(get)?;
        let mut record = self.alive_blob(record)?;
        if record.one_time {
            match &record.lock {
                Some(held) if !held.ct_eq(lock) => return Err(Refusal::Taken.into()),
                Some(_) => {}
                None => {
                    record.lock = Some(*lock);
                    self.set_blob(get, &record);
                }
            }
        }
        Ok(Outcome::Blob { body: record.body })
    }

    pub(super) fn blob_delete(&mut self, put: &WriterId) -> Result<Outcome, Stop> {
        let get = self.batch.get(Table::Index, keys::put(put))?.ok_or(Refusal::BadCapability)?;
        let get = BlobId(get.try_into().map_err(|_| Stop::Broken)?);
        let record = self.blob(&get)?;
        if record.as_ref().is_some_and(|record| record.deleted) {
            return Ok(Outcome::Done);
        }
        let mut record = self.alive_blob(record)?;
        self.give_room(record.body.len() as u64 + ENTRY_OVERHEAD)?;
        record.deleted = true;
        record.lock = None;
        record.body = Box::default();
        self.set_blob(&get, &record);
        Ok(Outcome::Done)
    }
}
