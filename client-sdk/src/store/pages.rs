//! The keys of single records: pages of random numbers in the file `keys`, which are overwritten in place.
//!
//! ```text
//! file   header | header | page 0 | page 0 | page 1 | page 1 | ...         each 4,096 bytes, each there twice
//! page   nonce 12 | sealed: count u64, 126 slots of 32 bytes | tag 16
//! ```
//! A slot is drawn once, used for one version of one record, and drawn anew when that version is no longer needed. Both
//! copies of a page are then rewritten, the second after the first is synced: a crash leaves one that opens. The newer
//! one counts, and the other is repaired. A slot that was drawn anew is given out when both copies are on the disk, so
//! which one a crash leaves makes no difference to a record.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::{self, local};
use posta_protocol::error::Malformed;
use posta_protocol::secret::Secret;
use rand::Rng;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::StoreError;
use super::header::Header;

/// Bytes of a page on the disk.
pub(super) const PAGE: usize = 4096;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const SLOT_LEN: usize = 32;
/// Slots of a page.
const SLOTS: usize = 126;
/// Pages, at most: half a million records and versions of them.
const MAX_PAGES: usize = 4096;

/// Where a record's key comes from.
pub(super) type Slot = u32;

struct Page {
    count: u64,
    slots: Vec<Secret<SLOT_LEN>>,
}

/// All slots, and the file that they stand in.
pub(super) struct Pages {
    file: File,
    key: Secret<32>,
    pages: Vec<Page>,
    /// Drawn, on the disk twice, and not used since.
    free: BTreeSet<Slot>,
    /// Used for what isn't needed any more.
    dead: BTreeSet<Slot>,
}

impl Pages {
    /// Pages of a new file: all free, written and synced.
    pub(super) fn create(file: File, header: &Header, key: Secret<32>, rng: &mut impl CryptoRng) -> io::Result<Self> {
        let mut new = Self { file, key, pages: Vec::new(), free: BTreeSet::new(), dead: BTreeSet::new() };
        new.write_header(header)?;
        new.grow(rng)?;
        Ok(new)
    }

    /// Reads the two headers of a file and takes the newer one that isn't damaged.
    pub(super) fn header(file: &File) -> Result<Header, StoreError> {
        let read = |copy: u64| -> Result<Header, StoreError> {
            let mut page = vec![0; PAGE];
            match file.read_exact_at(&mut page, copy * PAGE as u64) {
                Ok(()) => Header::decode(&page),
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(StoreError::Damaged("its keys")),
                Err(e) => Err(StoreError::Io(e)),
            }
        };
        match (read(0), read(1)) {
            (Ok(a), Ok(b)) => Ok(if b.count > a.count { b } else { a }),
            (Ok(header), Err(_)) | (Err(_), Ok(header)) => Ok(header),
            (Err(e), Err(_)) => Err(e),
        }
    }

    /// Reads all pages. Call [`Self::settle`] with the slots in use before anything is taken.
    pub(super) fn open(file: File, header: &Header, key: Secret<32>) -> Result<Self, StoreError> {
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        // What a crash has left of growing is no whole page twice, and holds no key that was used.
        let n = (len / PAGE).saturating_sub(2) / 2;
        if n == 0 || n > MAX_PAGES {
            return Err(StoreError::Damaged("its keys"));
        }
        let mut new = Self { file, key, pages: Vec::with_capacity(n), free: BTreeSet::new(), dead: BTreeSet::new() };
        new.write_header(header)?;
        for index in 0..n {
            let [a, b] = [new.read(index, 0)?, new.read(index, 1)?];
            let page = match (a, b) {
                (Some(a), Some(b)) => {
                    let equal = a.count == b.count;
                    let newer = if b.count > a.count { b } else { a };
                    if !equal {
                        new.write_both(index, &newer)?;
                    }
                    newer
                }
                (Some(page), None) | (None, Some(page)) => {
                    new.write_both(index, &page)?;
                    page
                }
                // The last page may be one that a crash has kept from being used.
                (None, None) if index + 1 == n && index > 0 => break,
                (None, None) => return Err(StoreError::Damaged("its keys")),
            };
            new.pages.push(page);
        }
        new.file.sync_data()?;
        Ok(new)
    }

    /// Which slots are in use: all others are drawn anew before they are given out.
    pub(super) fn settle(&mut self, used: &BTreeSet<Slot>) {
        let all = Slot::try_from(self.pages.len() * SLOTS).unwrap_or(Slot::MAX);
        self.free.clear();
        self.dead = (0..all).filter(|slot| !used.contains(slot)).collect();
    }

    /// Slots that can be taken before the next [`Self::purge`].
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Whether anything waits for a purge.
    pub(super) fn is_clean(&self) -> bool {
        self.dead.is_empty()
    }

    /// Takes a slot that was never used.
    pub(super) fn take(&mut self) -> Option<Slot> {
        self.free.pop_first()
    }

    /// A version isn't needed any more, or was never written.
    pub(super) fn release(&mut self, slot: Slot) {
        self.dead.insert(slot);
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Secret<SLOT_LEN>> {
        let slot = usize::try_from(slot).ok()?;
        self.pages.get(slot / SLOTS)?.slots.get(slot % SLOTS)
    }

    /// Draws all dead slots anew and overwrites what they were, in both copies. When this returns, it is gone.
    pub(super) fn purge(&mut self, rng: &mut impl CryptoRng) -> io::Result<()> {
        if self.dead.is_empty() {
            return Ok(());
        }
        let mut touched = BTreeSet::new();
        for slot in &self.dead {
            let index = usize::try_from(*slot).unwrap_or(usize::MAX);
            let Some(page) = self.pages.get_mut(index / SLOTS) else { continue };
            if let Some(found) = page.slots.get_mut(index % SLOTS) {
                *found = Secret::random(rng);
                touched.insert(index / SLOTS);
            }
        }
        for index in &touched {
            if let Some(page) = self.pages.get_mut(*index) {
                page.count += 1;
            }
        }
        for copy in 0..2 {
            for index in &touched {
                if let Some(page) = self.pages.get(*index) {
                    self.write(*index, copy, page)?;
                }
            }
            self.file.sync_data()?;
        }
        self.free.append(&mut self.dead);
        Ok(())
    }

    /// One more page of free slots.
    pub(super) fn grow(&mut self, rng: &mut impl CryptoRng) -> io::Result<()> {
        let index = self.pages.len();
        if index >= MAX_PAGES {
            return Err(io::Error::other("there are too many records"));
        }
        let page = Page { count: 1, slots: (0..SLOTS).map(|_| Secret::random(rng)).collect() };
        self.write_both(index, &page)?;
        self.file.sync_data()?;
        self.pages.push(page);
        let first = Slot::try_from(index * SLOTS).unwrap_or(Slot::MAX);
        self.free.extend(first..first.saturating_add(Slot::try_from(SLOTS).unwrap_or(0)));
        Ok(())
    }

    /// Overwrites both headers, one after the other.
    pub(super) fn write_header(&self, header: &Header) -> io::Result<()> {
        let mut page = header.encode();
        page.resize(PAGE, 0);
        let mut held = vec![0; PAGE];
        for copy in 0..2_u64 {
            let there = self.file.read_exact_at(&mut held, copy * PAGE as u64).is_ok();
            if !there || held != page {
                self.file.write_all_at(&page, copy * PAGE as u64)?;
                self.file.sync_data()?;
            }
        }
        Ok(())
    }

    fn write_both(&self, index: usize, page: &Page) -> io::Result<()> {
        self.write(index, 0, page)?;
        self.file.sync_data()?;
        self.write(index, 1, page)
    }

    fn write(&self, index: usize, copy: usize, page: &Page) -> io::Result<()> {
        let mut w = Writer::with_capacity(PAGE);
        w.u64(page.count);
        page.slots.iter().for_each(|slot| w.bytes(slot.expose()));
        let mut plain = Zeroizing::new(w.finish());
        plain.resize(PAGE - NONCE_LEN - TAG_LEN, 0);
        let mut nonce = [0; NONCE_LEN];
        rand::make_rng::<rand::rngs::StdRng>().fill_bytes(&mut nonce);
        let bound = bound(index);
        let tag = crypto::seal(self.key.expose(), nonce, &bound, &mut plain)
            .map_err(|_| io::Error::other("a page can't be sealed"))?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&plain);
        bytes.extend_from_slice(&tag);
        self.file.write_all_at(&bytes, offset(index, copy))
    }

    /// A page, if that copy of it opens.
    fn read(&self, index: usize, copy: usize) -> io::Result<Option<Page>> {
        let mut bytes = Zeroizing::new(vec![0; PAGE]);
        self.file.read_exact_at(&mut bytes, offset(index, copy))?;
        Ok(self.decode(index, &bytes))
    }

    fn decode(&self, index: usize, bytes: &[u8]) -> Option<Page> {
        let (nonce, rest) = bytes.split_first_chunk()?;
        let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        crypto::open(self.key.expose(), *nonce, &bound(index), &mut plain, tag).ok()?;
        let mut r = Reader::new(&plain);
        let mut parse = || -> Result<Page, Malformed> {
            let count = r.u64("count")?;
            let slots = (0..SLOTS).map(|_| Secret::read(&mut r, "slot")).collect::<Result<_, _>>()?;
            Ok(Page { count, slots })
        };
        parse().ok()
    }
}

/// The key that pages are sealed under.
pub(super) fn page_key(master: &Secret<32>) -> Secret<32> {
    crypto::derive(local::STORE_PAGES, master.expose())
}

fn bound(index: usize) -> [u8; 8] {
    (index as u64).to_le_bytes()
}

const fn offset(index: usize, copy: usize) -> u64 {
    ((2 + 2 * index + copy) * PAGE) as u64
}

const _: () = assert!(8 + SLOTS * SLOT_LEN <= PAGE - NONCE_LEN - TAG_LEN);

/// For tests: what each slot is in each copy of its page that opens.
#[cfg(test)]
pub(super) fn every_slot(file: &File, key: &Secret<32>) -> Vec<Vec<Secret<SLOT_LEN>>> {
    let n = (file.metadata().map_or(0, |m| m.len()) as usize / PAGE).saturating_sub(2) / 2;
    let Ok(file) = file.try_clone() else { return Vec::new() };
    let pages = Pages { file, key: key.duplicate(), pages: Vec::new(), free: BTreeSet::new(), dead: BTreeSet::new() };
    let mut all: Vec<Vec<Secret<SLOT_LEN>>> = (0..n * SLOTS).map(|_| Vec::new()).collect();
    for (index, copy) in (0..n).flat_map(|index| [(index, 0), (index, 1)]) {
        let Ok(Some(page)) = pages.read(index, copy) else { continue };
        for (slot, value) in page.slots.into_iter().enumerate() {
            if let Some(seen) = all.get_mut(index * SLOTS + slot) {
                seen.push(value);
            }
        }
    }
    all
}
