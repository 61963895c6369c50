//! How the mix keys of a key epoch differ from those of an earlier consensus. Keys can't be compressed, so nothing is.

use core::ops::Range;

use super::super::mix_keys::{MixKeys, UnverifiedMixKeys};
use super::{read_index, write_index};
use crate::codec::{Reader, Writer};
use crate::crypto::xwing::KemPublicKey;
use crate::error::{Malformed, Untrusted};
use crate::ids::{Hash, RelayId};
use crate::params::{KEM_PUBLIC_KEY_LEN, MAX_MIX_KEYS_DIFFS, MAX_MIX_KEYS_LEN, MAX_RELAYS, PROTOCOL_VERSION};

const WHAT: &str = "difference of mix keys";
/// A part begins with the key epoch and the number of entries.
const HEAD_LEN: usize = 8 + 4;
const ENTRY_LEN: usize = RelayId::LEN + KEM_PUBLIC_KEY_LEN;

/// How one part of mix keys differs from another of the same key epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MixKeysDiff {
    base: Hash,
    hash: Hash,
    /// Places in the base's list, ascending.
    gone: Vec<usize>,
    /// The same, with other keys.
    changed: Vec<(usize, KemPublicKey)>,
    /// Sorted by relay.
    new: Vec<(RelayId, KemPublicKey)>,
}

impl MixKeysDiff {
    /// The bytes of how `new` differs from `base`, both as encoded parts of one key epoch; `None` if they are not.
    #[must_use]
    pub fn between(base: &[u8], new: &[u8]) -> Option<Vec<u8>> {
        let ((epoch, old_entries), (same, new_entries)) = (split(base)?, split(new)?);
        if epoch != same {
            return None;
        }
        let (mut gone, mut changed, mut come) = (Vec::new(), Vec::new(), Vec::new());
        let mut old = old_entries.chunks_exact(ENTRY_LEN).enumerate().peekable();
        for entry in new_entries.chunks_exact(ENTRY_LEN) {
            let id = entry.get(ID);
            while let Some((i, _)) = old.next_if(|(_, held)| held.get(ID) < id) {
                gone.push(i);
            }
            match old.next_if(|(_, held)| held.get(ID) == id) {
                Some((i, held)) if held != entry => changed.push((i, entry.get(ID.end..)?)),
                Some(_) => {}
                None => come.push(entry),
            }
        }
        gone.extend(old.map(|(i, _)| i));
        let mut w = Writer::with_capacity(128 + (changed.len() + come.len()) * ENTRY_LEN);
        w.u16(PROTOCOL_VERSION);
        MixKeys::hash(base).write(&mut w);
        MixKeys::hash(new).write(&mut w);
        w.count(gone.len());
        gone.into_iter().for_each(|i| write_index(i, &mut w));
        w.count(changed.len());
        for (i, key) in changed {
            write_index(i, &mut w);
            w.bytes(key);
        }
        w.count(come.len());
        come.into_iter().for_each(|entry| w.bytes(entry));
        Some(w.finish())
    }

    /// The hash of the part that it starts from.
    #[must_use]
    pub const fn base(&self) -> Hash {
        self.base
    }

    /// The hash of the part that it leads to.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// The bytes that travel.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(128 + (self.changed.len() + self.new.len()) * ENTRY_LEN);
        w.u16(PROTOCOL_VERSION);
        self.base.write(&mut w);
        self.hash.write(&mut w);
        w.count(self.gone.len());
        self.gone.iter().for_each(|i| write_index(*i, &mut w));
        w.count(self.changed.len());
        for (i, key) in &self.changed {
            write_index(*i, &mut w);
            key.write(&mut w);
        }
        w.count(self.new.len());
        for (id, key) in &self.new {
            id.write(&mut w);
            key.write(&mut w);
        }
        w.finish()
    }

    /// Parses a difference. Every key is checked.
    ///
    /// # Errors
    /// [`Untrusted::Malformed`], [`Untrusted::Version`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Untrusted> {
        if bytes.len() > MAX_MIX_KEYS_LEN {
            return Err(Malformed::TooLong(WHAT).into());
        }
        let mut r = Reader::new(bytes);
        if r.u16(WHAT)? != PROTOCOL_VERSION {
            return Err(Untrusted::Version(WHAT));
        }
        let (base, hash) = (Hash::read(&mut r)?, Hash::read(&mut r)?);
        let mut last = None;
        let n = r.count(MAX_RELAYS, WHAT)?;
        let mut gone = Vec::with_capacity(n.min(r.left() / 2));
        for _ in 0..n {
            gone.push(read_index(&mut r, MAX_RELAYS, &mut last)?);
        }
        let mut last = None;
        let n = r.count(MAX_RELAYS, WHAT)?;
        let mut changed = Vec::with_capacity(n.min(r.left() / KEM_PUBLIC_KEY_LEN));
        for _ in 0..n {
            changed.push((read_index(&mut r, MAX_RELAYS, &mut last)?, KemPublicKey::read(&mut r)?));
        }
        let n = r.count(MAX_RELAYS, WHAT)?;
        let mut new: Vec<(RelayId, KemPublicKey)> = Vec::with_capacity(n.min(r.left() / ENTRY_LEN));
        for _ in 0..n {
            let id = RelayId::read(&mut r)?;
            if new.last().is_some_and(|(last, _)| *last >= id) {
                return Err(Malformed::Value(WHAT).into());
            }
            new.push((id, KemPublicKey::read(&mut r)?));
        }
        r.finish(WHAT)?;
        Ok(Self { base, hash, gone, changed, new })
    }

    /// What it makes of `base`: byte for byte the part that it was made for. Whether a consensus binds that is yet to be
    /// verified.
    ///
    /// # Errors
    /// [`Untrusted::Hash`] if `base` is another part than it starts from, or what comes of it another than it names;
    /// [`Untrusted::Malformed`] if nothing comes of it.
    pub fn apply(&self, base: &MixKeys) -> Result<UnverifiedMixKeys, Untrusted> {
        if MixKeys::hash(&base.encode()) != self.base {
            return Err(Untrusted::Hash("the base of a difference"));
        }
        let total = (base.keys.len() + self.new.len()).saturating_sub(self.gone.len());
        if total > MAX_RELAYS {
            return Err(Malformed::TooLong(WHAT).into());
        }
        let mut keys = Vec::with_capacity(total);
        let (mut gone, mut changed) = (self.gone.iter().peekable(), self.changed.iter().peekable());
        let mut come = self.new.iter().peekable();
        for (i, (id, key)) in base.keys.iter().enumerate() {
            while let Some(entry) = come.next_if(|(new, _)| new < id) {
                keys.push(entry.clone());
            }
            if come.peek().is_some_and(|(new, _)| new == id) {
                return Err(Malformed::Value(WHAT).into());
            }
            let leaves = gone.next_if(|n| **n == i).is_some();
            match changed.next_if(|(n, _)| *n == i) {
                Some((_, other)) if leaves || other == key => return Err(Malformed::Value(WHAT).into()),
                Some((_, other)) => keys.push((*id, other.clone())),
                None if leaves => {}
                None => keys.push((*id, key.clone())),
            }
        }
        keys.extend(come.cloned());
        if gone.next().is_some() || changed.next().is_some() {
            return Err(Malformed::Value(WHAT).into());
        }
        let keys = MixKeys { key_epoch: base.key_epoch, keys };
        let hash = MixKeys::hash(&keys.encode());
        if hash != self.hash {
            return Err(Untrusted::Hash("what a difference leads to"));
        }
        Ok(UnverifiedMixKeys::new(keys, hash))
    }

    /// What the differences in the content of a reply make of `base`, one after the other.
    ///
    /// # Errors
    /// As [`MixKeysDiff::apply`], and [`Untrusted::Malformed`] if there are none.
    pub fn apply_all(content: &[u8], base: &MixKeys) -> Result<UnverifiedMixKeys, Untrusted> {
        let mut made: Option<UnverifiedMixKeys> = None;
        for bytes in Self::unpack(content)? {
            made = Some(Self::decode(bytes)?.apply(made.as_ref().map_or(base, UnverifiedMixKeys::keys))?);
        }
        made.ok_or(Untrusted::Malformed(Malformed::Value(WHAT)))
    }

    /// Packs encoded differences, each building on the one before, into the content of a reply.
    #[must_use]
    pub fn pack<'a>(list: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut w = Writer::with_capacity(1024);
        w.count(list.len());
        list.for_each(|diff| w.bounded(diff));
        w.finish()
    }

    /// Unpacks the content of a reply.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn unpack(content: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
        let mut r = Reader::new(content);
        let n = r.count(MAX_MIX_KEYS_DIFFS, WHAT)?;
        let list = (0..n).map(|_| r.bounded(MAX_MIX_KEYS_LEN, WHAT)).collect::<Result<_, _>>()?;
        r.finish(WHAT)?;
        Ok(list)
    }
}

const ID: Range<usize> = 0..RelayId::LEN;

/// The key epoch of an encoded part, and its entries.
fn split(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, entries) = part.split_at_checked(HEAD_LEN)?;
    Some((head.get(..8)?, entries))
}
