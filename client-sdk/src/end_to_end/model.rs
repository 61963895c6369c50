//! Schemes without secrecy, for simulations and measurements. Boxes are sealed under their queue's key all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::{self, context, local};
use posta_protocol::error::Malformed;
use posta_protocol::ids::Hash;
use posta_protocol::params::{OVERTAKEN, PASSED_OVER, PAST_EPOCHS};
use posta_protocol::secret::Secret;
use zeroize::Zeroizing;

use super::{EndToEnd, Failed, Founded, Unopened, VerificationCode};

/// Length of an MLS key package of ours, in bytes.
pub(super) const KEY_PACKAGE_LEN: usize = 2_638;
/// Length of a welcome to a group of two.
pub(super) const WELCOME_LEN: usize = 5_415;
/// Length of a commit in a group of two.
pub(super) const COMMIT_LEN: usize = 3_938;
/// What MLS adds to a content of less than 16 KiB; a byte less to one of less than [`SHORT`] bytes.
pub(super) const MESSAGE_OVERHEAD: usize = 146;
/// Lengths below take one byte in MLS.
const SHORT: usize = 64;
const VERSION: u8 = 1;

const KEY_PACKAGE: u8 = 1;
const WELCOME: u8 = 2;
const COMMIT: u8 = 3;
const MESSAGE: u8 = 4;

/// What has come from the other end in one epoch.
#[derive(Default)]
struct Received {
    /// The first number that no message had yet.
    next: u32,
    /// Those before that were passed over.
    missing: BTreeSet<u32>,
}

/// MLS's sizes and rules, and nothing of what it protects.
pub struct Model {
    seed: Secret<32>,
    drawn: u64,
    package: Option<Hash>,
    founder: bool,
    founded: Option<Founded>,
    epoch: u64,
    sent: u32,
    /// What tells an epoch from another one of the same number.
    lines: BTreeMap<u64, u64>,
    received: BTreeMap<u64, Received>,
}

impl Model {
    /// A conversation that doesn't stand yet, with all its randomness from a seed.
    #[must_use]
    pub fn new(seed: &Secret<32>) -> Self {
        Self {
            seed: seed.duplicate(),
            drawn: 0,
            package: None,
            founder: false,
            founded: None,
            epoch: 0,
            sent: 0,
            lines: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    /// Loads what [`EndToEnd::save`] has saved.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn load(saved: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(saved);
        let what = "model";
        if r.u8(what)? != VERSION {
            return Err(Malformed::Value(what));
        }
        let mut model = Self::new(&Secret::read(&mut r, what)?);
        model.drawn = r.u64(what)?;
        model.package = if r.bool(what)? { Some(Hash::read(&mut r)?) } else { None };
        model.founder = r.bool(what)?;
        if r.bool(what)? {
            let exported = Secret::read(&mut r, what)?;
            model.founded = Some(Founded { exported, code: VerificationCode(r.array(what)?) });
        }
        (model.epoch, model.sent) = (r.u64(what)?, r.u32(what)?);
        for _ in 0..r.count(PAST_EPOCHS + 1, what)? {
            model.lines.insert(r.u64(what)?, r.u64(what)?);
        }
        for _ in 0..r.count(PAST_EPOCHS + 1, what)? {
            let (epoch, next) = (r.u64(what)?, r.u32(what)?);
            let missing = (0..r.count(OVERTAKEN as usize, what)?).map(|_| r.u32(what)).collect::<Result<_, _>>()?;
            model.received.insert(epoch, Received { next, missing });
        }
        r.finish(what)?;
        Ok(model)
    }

    /// `len` bytes behind a kind, new each time.
    fn draw(&mut self, kind: u8, len: usize) -> Vec<u8> {
        self.drawn += 1;
        let material = [self.seed.expose().as_slice(), &self.drawn.to_le_bytes()].concat();
        let mut bytes = vec![0; len];
        crypto::derive_into(local::MODEL, &material, &mut bytes);
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        bytes
    }

    /// The header of what the other end reads, in front of filling bytes.
    fn headed(&mut self, kind: u8, number: u32, len: usize) -> Vec<u8> {
        let mut w = Writer::with_capacity(len);
        w.u8(kind);
        w.bool(self.founder);
        w.u64(self.epoch);
        w.u32(number);
        w.u64(self.lines.get(&self.epoch).copied().unwrap_or_default());
        let filling = self.draw(0, len.saturating_sub(w.len()));
        w.bytes(&filling);
        w.finish()
    }

    fn found_on(&mut self, package: &Hash, welcome: &[u8]) {
        let exported = crypto::derive(local::MODEL, &[package.0.as_slice(), welcome].concat());
        let transcript = crypto::hash(local::MODEL, welcome).0;
        self.founded = Some(Founded::new(exported, [[1; 32], [2; 32]], &transcript));
        self.next_epoch(welcome);
    }

    /// The next epoch, by a commit or the welcome.
    fn next_epoch(&mut self, commit: &[u8]) {
        (self.epoch, self.sent) = (self.epoch + 1, 0);
        let line = crypto::hash(local::MODEL, commit).0.first_chunk().copied().map_or(0, u64::from_le_bytes);
        self.lines.insert(self.epoch, line);
        let oldest = self.epoch.saturating_sub(PAST_EPOCHS as u64);
        self.lines.retain(|epoch, _| *epoch >= oldest);
        self.received.retain(|epoch, _| *epoch >= oldest);
    }

    /// Epoch and number of what the other end has made.
    fn read_head(&self, bytes: &[u8], kind: u8) -> Result<(u64, u32), Unopened> {
        let mut r = Reader::new(bytes);
        let mut head = || -> Result<_, Malformed> { Ok((r.u8("")?, r.bool("")?, r.u64("")?, r.u32("")?, r.u64("")?)) };
        let (is, by_founder, epoch, number, line) = head().map_err(|_| Unopened::Refused)?;
        if is != kind || by_founder == self.founder {
            return Err(Unopened::Refused);
        }
        if self.lines.get(&epoch).is_some_and(|known| *known != line) {
            return Err(Unopened::Refused);
        }
        match epoch.checked_sub(self.epoch) {
            Some(0) => Ok((epoch, number)),
            Some(1) => Err(Unopened::Early),
            Some(_) => Err(Unopened::Refused),
            None if epoch + PAST_EPOCHS as u64 >= self.epoch => Ok((epoch, number)),
            None => Err(Unopened::Again),
        }
    }
}

impl EndToEnd for Model {
    fn key_package(&mut self) -> Result<Vec<u8>, Failed> {
        let package = self.draw(KEY_PACKAGE, KEY_PACKAGE_LEN);
        self.package = Some(crypto::hash(context::INVITATION_DATA, &package));
        Ok(package)
    }

    fn found(&mut self, key_package: &[u8]) -> Result<Vec<u8>, Unopened> {
        if self.founded.is_some() {
            return Err(Unopened::Again);
        }
        if key_package.len() != KEY_PACKAGE_LEN || key_package.first() != Some(&KEY_PACKAGE) {
            return Err(Unopened::Refused);
        }
        let package = crypto::hash(context::INVITATION_DATA, key_package);
        let mut welcome = vec![WELCOME];
        welcome.extend_from_slice(&package.0);
        welcome.extend(self.draw(0, WELCOME_LEN - 33));
        self.founder = true;
        self.found_on(&package, &welcome);
        Ok(welcome)
    }

    fn join(&mut self, welcome: &[u8]) -> Result<(), Unopened> {
        if self.founded.is_some() {
            return Err(Unopened::Again);
        }
        let package = self.package.ok_or(Unopened::Refused)?;
        let fits = welcome.len() == WELCOME_LEN
            && welcome.strip_prefix(&[WELCOME]).is_some_and(|rest| rest.starts_with(&package.0));
        if !fits {
            return Err(Unopened::Refused);
        }
        self.package = None;
        self.found_on(&package, welcome);
        Ok(())
    }

    fn seal(&mut self, content: &[u8]) -> Result<Vec<u8>, Failed> {
        if self.founded.is_none() {
            return Err(Failed);
        }
        let overhead = if content.len() < SHORT { MESSAGE_OVERHEAD - 1 } else { MESSAGE_OVERHEAD };
        let mut sealed = self.headed(MESSAGE, self.sent, overhead);
        self.sent += 1;
        sealed.extend_from_slice(content);
        Ok(sealed)
    }

    fn open(&mut self, sealed: &[u8]) -> Result<(u64, Zeroizing<Vec<u8>>), Unopened> {
        if self.founded.is_none() {
            return Err(Unopened::Early);
        }
        let (epoch, number) = self.read_head(sealed, MESSAGE)?;
        let short = sealed.len() < SHORT + MESSAGE_OVERHEAD - 1;
        let overhead = if short { MESSAGE_OVERHEAD - 1 } else { MESSAGE_OVERHEAD };
        let content = sealed.get(overhead..).ok_or(Unopened::Refused)?;
        let received = self.received.entry(epoch).or_default();
        if number >= received.next {
            if number - received.next > PASSED_OVER {
                return Err(Unopened::Refused);
            }
            received.missing.extend(received.next..number);
            received.next = number + 1;
            while received.missing.len() > OVERTAKEN as usize {
                received.missing.pop_first();
            }
        } else if !received.missing.remove(&number) {
            return Err(Unopened::Again);
        }
        Ok((epoch, Zeroizing::new(content.to_vec())))
    }

    fn commit(&mut self) -> Result<Vec<u8>, Failed> {
        if self.founded.is_none() {
            return Err(Failed);
        }
        let commit = self.headed(COMMIT, 0, COMMIT_LEN);
        self.next_epoch(&commit);
        Ok(commit)
    }

    fn follow(&mut self, commit: &[u8]) -> Result<(), Unopened> {
        if self.founded.is_none() {
            return Err(Unopened::Early);
        }
        let (epoch, _) = self.read_head(commit, COMMIT)?;
        if epoch < self.epoch {
            return Err(Unopened::Again);
        }
        if commit.len() != COMMIT_LEN {
            return Err(Unopened::Refused);
        }
        self.next_epoch(commit);
        Ok(())
    }

    fn epoch_of(&self, sealed: &[u8]) -> Option<u64> {
        let mut r = Reader::new(sealed);
        r.take(2, "").ok()?;
        r.u64("").ok()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn founded(&self) -> Option<&Founded> {
        self.founded.as_ref()
    }

    fn save(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::with_capacity(256);
        w.u8(VERSION);
        w.bytes(self.seed.expose());
        w.u64(self.drawn);
        w.bool(self.package.is_some());
        if let Some(package) = &self.package {
            package.write(&mut w);
        }
        w.bool(self.founder);
        w.bool(self.founded.is_some());
        if let Some(founded) = &self.founded {
            w.bytes(founded.exported.expose());
            w.bytes(&founded.code.0);
        }
        w.u64(self.epoch);
        w.u32(self.sent);
        w.count(self.lines.len());
        for (epoch, line) in &self.lines {
            w.u64(*epoch);
            w.u64(*line);
        }
        w.count(self.received.len());
        for (epoch, received) in &self.received {
            w.u64(*epoch);
            w.u32(received.next);
            w.count(received.missing.len());
            received.missing.iter().for_each(|n| w.u32(*n));
        }
        Zeroizing::new(w.finish())
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model(epoch {})", self.epoch)
    }
}

/// Nothing within the box: what a version without MLS had.
#[derive(Debug, Default)]
pub struct QueueKeyOnly {
    founded: Option<Founded>,
}

impl QueueKeyOnly {
    /// Loads what [`EndToEnd::save`] has saved.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn load(saved: &[u8]) -> Result<Self, Malformed> {
        let mut only = Self::default();
        let mut r = Reader::new(saved);
        if r.bool("state")? {
            only.stand();
        }
        r.finish("state")?;
        Ok(only)
    }

    fn stand(&mut self) {
        self.founded = Some(Founded::new(Secret::new([0; 32]), [[0; 32]; 2], &[0; 32]));
    }
}

impl EndToEnd for QueueKeyOnly {
    fn key_package(&mut self) -> Result<Vec<u8>, Failed> {
        Ok(Vec::new())
    }

    fn found(&mut self, key_package: &[u8]) -> Result<Vec<u8>, Unopened> {
        if !key_package.is_empty() {
            return Err(Unopened::Refused);
        }
        self.stand();
        Ok(Vec::new())
    }

    fn join(&mut self, welcome: &[u8]) -> Result<(), Unopened> {
        if self.founded.is_some() {
            return Err(Unopened::Again);
        }
        if !welcome.is_empty() {
            return Err(Unopened::Refused);
        }
        self.stand();
        Ok(())
    }

    fn seal(&mut self, content: &[u8]) -> Result<Vec<u8>, Failed> {
        Ok(content.to_vec())
    }

    fn open(&mut self, sealed: &[u8]) -> Result<(u64, Zeroizing<Vec<u8>>), Unopened> {
        match self.founded {
            Some(_) => Ok((1, Zeroizing::new(sealed.to_vec()))),
            None => Err(Unopened::Early),
        }
    }

    fn commit(&mut self) -> Result<Vec<u8>, Failed> {
        Err(Failed)
    }

    fn follow(&mut self, _commit: &[u8]) -> Result<(), Unopened> {
        Err(Unopened::Refused)
    }

    fn epoch_of(&self, _sealed: &[u8]) -> Option<u64> {
        None
    }

    fn epoch(&self) -> u64 {
        u64::from(self.founded.is_some())
    }

    fn founded(&self) -> Option<&Founded> {
        self.founded.as_ref()
    }

    fn save(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(vec![u8::from(self.founded.is_some())])
    }
}
