//! A conversation of two: who may make a turn, what a box carries, and what is kept of it all.
//!
//! **A turn** is a commit: new keys for the one who makes it, and a new epoch for both. Who has made one has passed the
//! right to make the next to the other end, so that two never cross. A turn after messages asks for an answer, which the
//! other end makes by itself; an answer asks for nothing. So both ends have new keys within a round trip after they have
//! said something, and an idle conversation is silent. Turns ride on receipts: no message waits for one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::end_to_end::{Inner, InnerKind};
use posta_protocol::error::Malformed;
use posta_protocol::now::Mono;
use posta_protocol::params::TURN_LAG;
use posta_protocol::secret::Secret;
use zeroize::Zeroizing;

use super::{EndToEnd, Failed, Founded, Scheme, Unopened, VerificationCode};

/// One end makes a turn at most once within this time: it costs both ends a millisecond or two.
pub const TURN_SPAN: Duration = Duration::from_secs(1);
/// A turn waits this long after the first message that it is for, so that the message's own packets go first.
pub const TURN_WAIT: Duration = Duration::from_millis(250);
/// An answer waits this long, so that a receipt that is due rides along.
pub const ANSWER_WAIT: Duration = Duration::from_millis(50);
/// Version of what is saved.
const VERSION: u8 = 1;
/// Bytes of a scheme's state, at most.
const MAX_STATE: usize = 64 * 1024 * 1024;

/// One end of a conversation, over any scheme.
pub struct Conversation {
    scheme: Scheme,
    inner: Box<dyn EndToEnd>,
    /// Whether the next turn is ours.
    mine: bool,
    /// Since when the other end waits for our answer.
    owed: Option<Mono>,
    /// Since when there are messages, of either side, that no turn of ours has followed.
    active: Option<Mono>,
    /// When the last turn of ours was made.
    turned: Option<Mono>,
    /// The newest epoch from which the other end has sealed something.
    peer_epoch: u64,
    /// Contents that we have sealed, ever.
    sealed: u64,
    /// Whether the two ends have come apart.
    apart: bool,
    changed: bool,
}

/// A turn that was made: to be sent again as it is until the other end has followed.
#[derive(Debug)]
pub struct Turn {
    /// The epoch that it begins.
    pub epoch: u64,
    /// The inside of a box.
    pub bytes: Arc<[u8]>,
}

impl Conversation {
    /// A conversation that doesn't stand yet. `seed`: for schemes that take their randomness from the caller.
    ///
    /// # Errors
    /// [`Failed`] if the operating system gives out no randomness.
    pub fn new(scheme: Scheme, seed: &Secret<32>) -> Result<Self, Failed> {
        Ok(Self::over(scheme, scheme.create(seed)?))
    }

    fn over(scheme: Scheme, inner: Box<dyn EndToEnd>) -> Self {
        Self {
            scheme,
            inner,
            mine: false,
            owed: None,
            active: None,
            turned: None,
            peer_epoch: 0,
            sealed: 0,
            apart: false,
            changed: true,
        }
    }

    /// The whole state, canonical: equal states give equal bytes. To be kept whenever [`Self::take_changed`] says so,
    /// before anything leaves that was sealed since; never to be loaded twice, for that would use keys twice.
    #[must_use]
    pub fn save(&self) -> Zeroizing<Vec<u8>> {
        let state = self.inner.save();
        let mut w = Writer::with_capacity(32 + state.len());
        w.u8(VERSION);
        w.u8(self.scheme.number());
        w.bool(self.mine);
        w.bool(self.owed.is_some());
        w.bool(self.active.is_some());
        w.bool(self.apart);
        w.u64(self.peer_epoch);
        w.u64(self.sealed);
        w.bounded(&state);
        Zeroizing::new(w.finish())
    }

    /// Loads what [`Self::save`] has saved.
    ///
    /// # Errors
    /// [`Malformed`] if it is something else, or of a later version.
    pub fn load(saved: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(saved);
        let what = "conversation";
        if r.u8(what)? != VERSION {
            return Err(Malformed::Value(what));
        }
        let scheme = Scheme::from_number(r.u8(what)?).ok_or(Malformed::Value(what))?;
        // Clocks have no meaning across a restart: what was due is due at once.
        let mine = r.bool(what)?;
        let [owed, active] = [r.bool(what)?, r.bool(what)?].map(|is| is.then_some(Mono(0)));
        let apart = r.bool(what)?;
        let (peer_epoch, sealed) = (r.u64(what)?, r.u64(what)?);
        let inner = scheme.load(r.bounded(MAX_STATE, what)?)?;
        r.finish(what)?;
        Ok(Self { mine, owed, active, peer_epoch, sealed, apart, changed: false, ..Self::over(scheme, inner) })
    }

    /// Whether the state has changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The key package of an inviter.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn key_package(&mut self) -> Result<Vec<u8>, Failed> {
        self.changed = true;
        self.inner.key_package()
    }

    /// Founds the conversation on an inviter's key package. Returns the welcome, for [`Self::introduce`].
    ///
    /// # Errors
    /// [`Unopened`] if it can't be used.
    pub fn found(&mut self, key_package: &[u8]) -> Result<Vec<u8>, Unopened> {
        let welcome = self.inner.found(key_package)?;
        self.changed = true;
        Ok(welcome)
    }

    /// The first thing that the inviter gets: the welcome, and a first content. The inside of a box.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn introduce(&mut self, welcome: Vec<u8>, content: &[u8]) -> Result<Arc<[u8]>, Failed> {
        let message = self.seal_content(content)?;
        Ok(Inner { number: 0, kind: InnerKind::Welcome { welcome, message } }.encode().into())
    }

    fn seal_content(&mut self, content: &[u8]) -> Result<Vec<u8>, Failed> {
        let message = self.inner.seal(content)?;
        self.sealed += 1;
        self.changed = true;
        Ok(message)
    }

    /// Seals a content, once: the same bytes go into every queue. Returns the inside of a box. `number`: the number of the
    /// application's message, 0 for none.
    ///
    /// # Errors
    /// [`Failed`] if the conversation doesn't stand.
    pub fn seal(&mut self, now: Mono, number: u64, content: &[u8]) -> Result<Arc<[u8]>, Failed> {
        let message = self.seal_content(content)?;
        if number > 0 {
            self.active.get_or_insert(now);
        }
        Ok(Inner { number, kind: InnerKind::Message(message) }.encode().into())
    }

    /// Makes a turn, with a content in the epoch that it begins.
    ///
    /// # Errors
    /// [`Failed`] if the turn isn't ours.
    pub fn turn(&mut self, now: Mono, content: &[u8]) -> Result<Turn, Failed> {
        if !self.mine {
            return Err(Failed);
        }
        let commit = self.inner.commit()?;
        let message = self.seal_content(content)?;
        let answer = self.owed.take().is_some();
        (self.mine, self.active, self.turned) = (false, None, Some(now));
        let bytes = Inner { number: 0, kind: InnerKind::Turn { answer, commit, message } }.encode().into();
        Ok(Turn { epoch: self.inner.epoch(), bytes })
    }

    /// When a turn of ours is due. `oldest`: the epoch of our oldest message that isn't delivered; its key has to stay
    /// with the other end until it is.
    #[must_use]
    pub fn turn_due(&self, oldest: Option<u64>) -> Option<Mono> {
        let lags = oldest.is_some_and(|epoch| epoch + TURN_LAG < self.inner.epoch());
        if !self.mine || self.apart || lags {
            return None;
        }
        let owed = self.owed.map(|since| since + ANSWER_WAIT);
        let active = self.active.map(|since| self.turned.map_or(since, |at| at + TURN_SPAN).max(since + TURN_WAIT));
        owed.or(active)
    }

    /// Opens the inside of a box. What can't be opened changes nothing.
    ///
    /// # Errors
    /// [`Unopened`]. After [`Unopened::Refused`] the two ends have come apart, if the box itself was sealed for this
    /// conversation.
    pub fn open(&mut self, now: Mono, inner: &Inner) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        if let InnerKind::Message(_) = inner.kind {
            return self.open_parts(now, inner);
        }
        // Two parts, and the second may be worth nothing.
        let before = (self.epoch(), self.save());
        let opened = self.open_parts(now, inner);
        if opened.is_err() && self.epoch() != before.0 {
            let Ok(back) = Self::load(&before.1) else { return Err(Unopened::Refused) };
            *self = Self { changed: self.changed, ..back };
        }
        opened
    }

    fn open_parts(&mut self, now: Mono, inner: &Inner) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let message = match &inner.kind {
            InnerKind::Message(message) => message,
            InnerKind::Turn { answer, commit, message } => {
                self.follow(now, *answer, commit)?;
                message
            }
            InnerKind::Welcome { welcome, message } => {
                self.inner.join(welcome)?;
                // What the invitation carried is to be of no use to anyone: the first turn is ours, and now.
                (self.mine, self.owed, self.changed) = (self.scheme.turns(), Some(now), true);
                message
            }
            _ => return Err(Unopened::Again),
        };
        let (epoch, content) = self.inner.open(message)?;
        self.peer_epoch = self.peer_epoch.max(epoch);
        self.changed = true;
        if inner.number > 0 {
            self.active.get_or_insert(now);
        }
        Ok(content)
    }

    /// Follows a turn of the other end, if it wasn't followed before.
    fn follow(&mut self, now: Mono, answer: bool, commit: &[u8]) -> Result<(), Unopened> {
        match self.inner.follow(commit) {
            Ok(()) => {
                self.mine = true;
                self.owed = (!answer).then_some(now);
                self.changed = true;
                Ok(())
            }
            // The last turn was ours, and the other end makes another one of the same epoch.
            Err(Unopened::Again)
                if !self.mine && self.inner.epoch_of(commit).is_some_and(|e| e + 1 == self.inner.epoch()) =>
            {
                Err(Unopened::Refused)
            }
            Err(Unopened::Again) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Whether both ends have joined, as far as this one knows.
    #[must_use]
    pub fn founded(&self) -> Option<&Founded> {
        self.inner.founded()
    }

    /// For people to compare; none before both ends have joined.
    #[must_use]
    pub fn code(&self) -> Option<VerificationCode> {
        self.founded().map(|f| f.code)
    }

    /// The current epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    /// The newest epoch from which the other end has sealed something that was opened.
    #[must_use]
    pub const fn peer_epoch(&self) -> u64 {
        self.peer_epoch
    }

    /// Contents that were sealed so far.
    #[must_use]
    pub const fn sealed(&self) -> u64 {
        self.sealed
    }

    /// Whether the two ends have come apart.
    #[must_use]
    pub const fn is_apart(&self) -> bool {
        self.apart
    }

    /// The two ends have come apart: no more turns. Returns whether that is news.
    pub fn came_apart(&mut self) -> bool {
        self.changed |= !self.apart;
        !std::mem::replace(&mut self.apart, true)
    }
}

impl Scheme {
    /// Whether there are turns at all.
    const fn turns(self) -> bool {
        !matches!(self, Self::QueueKey)
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conversation({:?}, epoch {})", self.scheme, self.inner.epoch())
    }
}
