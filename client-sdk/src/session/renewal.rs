//! What a conversation can be begun anew by, when one end has lost it: each end holds one fresh key package of the other.
//!
//! Ours rides on a turn, which is sent again until the contact has followed it; so we know when the contact has it. The
//! private half is a conversation that waits for its welcome. See chapter 8.9 of the specification.

use std::time::Duration;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::end_to_end::{Inner, Kind};
use posta_protocol::error::Malformed;
use posta_protocol::now::{Mono, Now};
use posta_protocol::params::MAX_KEY_PACKAGE_LEN;
use zeroize::Zeroizing;

use super::core::Core;
use super::saved::{Part, Parts, reader, writer};
use crate::end_to_end::{Conversation, VerificationCode};

/// Hours after which a key package is replaced by a fresh one; it is valid for about sixty days.
const FRESH_HOURS: u32 = 30 * 24;
/// Conversations that wait for a welcome: one whose package the contact has, and one whose package is on its way.
const SPARES: usize = 2;
/// An end begins a conversation anew at most once in this time.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(600);

/// A waiting conversation, and the number of its record.
struct Spare {
    number: u64,
    conversation: Conversation,
}

/// Both ends' key packages.
#[derive(Default)]
pub(crate) struct Renewal {
    /// The contact's.
    held: Option<Vec<u8>>,
    /// Ours, the newest last.
    spares: Vec<Spare>,
    /// Counts records, so that none is ever written twice under one name.
    next: u64,
    /// The epoch of the turn that the newest of ours rides on, until it is followed.
    riding: Option<u64>,
    /// When the newest of ours was made, in hours, if the contact has it.
    placed: Option<u32>,
    /// When the conversation was begun anew last, in this run.
    pub(crate) last: Option<Mono>,
}

impl Renewal {
    /// Whether the contact's key package is here.
    pub(crate) const fn is_possible(&self) -> bool {
        self.held.is_some()
    }

    /// The contact's key package, which is used once.
    pub(crate) fn take_held(&mut self) -> Option<Vec<u8>> {
        self.next += u64::from(self.held.is_some());
        self.held.take()
    }

    /// The contact has sent a fresh one.
    pub(crate) fn hold(&mut self, key_package: Vec<u8>) {
        self.next += 1;
        self.held = Some(key_package);
    }

    /// What a turn that is made now says: a receipt, and a key package if the contact lacks a fresh one.
    pub(crate) fn load(&mut self, core: &mut Core, now: Now, up_to: u64, from: u64) -> Kind {
        let fresh = self.placed.is_some_and(|hour| now.wall.hour().saturating_sub(hour) < FRESH_HOURS);
        let made = if fresh || self.riding.is_some() { None } else { core.conversation() };
        let made = made.and_then(|mut conversation| Some((conversation.key_package().ok()?, conversation)));
        let Some((key_package, conversation)) = made else { return Kind::Receipt { up_to } };
        self.next += 1;
        self.spares.push(Spare { number: self.next, conversation });
        if self.spares.len() > SPARES {
            self.spares.remove(0);
        }
        Kind::KeyPackage { up_to, from, key_package }
    }

    /// The turn was made that carries the newest package, and begins this epoch.
    pub(crate) const fn ride(&mut self, epoch: u64) {
        self.riding = Some(epoch);
    }

    /// The contact has followed turns up to this epoch.
    pub(crate) fn followed(&mut self, epoch: u64, now: Now) {
        if self.riding.is_some_and(|riding| riding <= epoch) {
            self.riding = None;
            self.placed = Some(now.wall.hour());
            // The one before is of no use to anyone any more.
            let older = self.spares.len().saturating_sub(1);
            self.spares.drain(..older);
        }
    }

    /// Tries a welcome on the waiting conversations, the newest first; what can't be opened changes none. Returns the place
    /// of the one that it was for, what came with it, and the code.
    pub(crate) fn open(&mut self, now: Mono, inner: &Inner) -> Option<(usize, Zeroizing<Vec<u8>>, VerificationCode)> {
        self.spares.iter_mut().rev().enumerate().find_map(|(place, spare)| {
            let content = spare.conversation.open(now, inner).ok()?;
            Some((place, content, spare.conversation.code()?))
        })
    }

    /// The conversation at this place, counted as [`Self::open`] does, has begun. The others end with the one before: their packages
    /// are nowhere any more.
    pub(crate) fn take_spare(&mut self, place: usize) -> Option<Conversation> {
        let index = self.spares.len().checked_sub(place + 1)?;
        let begun = self.spares.swap_remove(index);
        self.forget();
        Some(begun.conversation)
    }

    /// A new conversation has begun: each end is to send a fresh package.
    pub(crate) fn forget(&mut self) {
        self.spares.clear();
        (self.held, self.riding, self.placed) = (None, None, None);
        self.next += 1;
    }

    /// Writes it; for an export, only what was the contact's.
    pub(crate) fn write(&self, w: &mut Writer, export: bool) {
        w.u64(self.next);
        w.bool(self.held.is_some());
        w.u64(self.riding.filter(|_| !export).unwrap_or_default());
        w.u32(self.placed.filter(|_| !export).unwrap_or_default());
        let spares = if export { &[] } else { self.spares.as_slice() };
        w.count(spares.len());
        spares.iter().for_each(|spare| w.u64(spare.number));
    }

    pub(crate) fn read(r: &mut Reader<'_>, parts: &mut Parts) -> Result<Self, Malformed> {
        let what = "renewal";
        let mut new = Self { next: r.u64(what)?, ..Self::default() };
        if r.bool(what)? {
            let kept = parts.remove(&Part::Held(new.next)).ok_or(Malformed::Value(what))?;
            new.held = Some(reader(&kept)?.bounded(MAX_KEY_PACKAGE_LEN, what)?.to_vec());
        }
        new.riding = Some(r.u64(what)?).filter(|epoch| *epoch > 0);
        new.placed = Some(r.u32(what)?).filter(|hour| *hour > 0);
        for _ in 0..r.count(SPARES, what)? {
            let number = r.u64(what)?;
            let kept = parts.remove(&Part::Spare(number)).ok_or(Malformed::Value(what))?;
            new.spares.push(Spare { number, conversation: Conversation::load(&kept)? });
        }
        Ok(new)
    }

    /// What has a record of its own.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let held = self.held.as_ref().map(|_| Part::Held(self.next));
        held.into_iter().chain(self.spares.iter().map(|spare| Part::Spare(spare.number)))
    }

    pub(crate) fn part(&self, part: Part) -> Option<Vec<u8>> {
        match part {
            Part::Held(_) => {
                let mut w = writer();
                w.bounded(self.held.as_ref()?);
                Some(w.finish())
            }
            Part::Spare(number) => {
                let spare = self.spares.iter().find(|s| s.number == number)?;
                Some(spare.conversation.save().to_vec())
            }
            _ => None,
        }
    }
}
