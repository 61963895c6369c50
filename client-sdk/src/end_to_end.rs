//! End-to-end sealing of a conversation of two: forward secrecy, healing after a compromise, and both against quantum
//! computers, by MLS (RFC 9420) with the X-Wing suite.
//!
//! | module | what it holds |
//! |---|---|
//! | `conversation` | turns, what a box carries, what is saved: the same for every scheme |
//! | `mls` | the scheme that is used: openmls, and a store for its state |
//! | `model` | the same sizes and the same rules without any secrecy, seedable: for simulations |
//!
//! What a scheme gives is a trait, because MLS draws its randomness from the operating system: a simulation that is to
//! give one trace twice takes [`Scheme::Model`].

mod conversation;
mod mls;
mod model;

use std::fmt;

use posta_protocol::crypto::{self, context};
use posta_protocol::error::Malformed;
use posta_protocol::secret::Secret;
use thiserror::Error;
use zeroize::Zeroizing;

pub use self::conversation::{ANSWER_WAIT, Conversation, TURN_SPAN, TURN_WAIT, Turn};
pub use self::mls::Mls;
pub use self::model::{Model, QueueKeyOnly};

/// Which scheme seals a conversation. Both ends must have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// MLS with the X-Wing suite.
    #[default]
    Mls,
    /// MLS's sizes and rules and none of its secrecy, from a seed: **for simulations only**.
    Model,
    /// Nothing within the box: the queue's key alone, without forward secrecy. **For measurements only.**
    QueueKey,
}

/// A scheme that seals a conversation of two.
///
/// One end makes a key package, the other founds the conversation on it, and the first joins by the welcome. From then on
/// each seals what the other opens, once. A commit begins a new epoch under new keys; who makes one is the caller's
/// business. No method that fails changes anything.
pub trait EndToEnd: fmt::Debug + Send {
    /// A fresh key package for an invitation, as many bytes each time.
    ///
    /// # Errors
    /// [`Failed`].
    fn key_package(&mut self) -> Result<Vec<u8>, Failed>;

    /// Founds the conversation with the maker of a key package. Returns the welcome for it.
    ///
    /// # Errors
    /// [`Unopened::Refused`] if it is none, or not valid now.
    fn found(&mut self, key_package: &[u8]) -> Result<Vec<u8>, Unopened>;

    /// Joins by the welcome to one's own key package.
    ///
    /// # Errors
    /// [`Unopened::Refused`] if it is none, or for another key package; [`Unopened::Again`] if one has joined already.
    fn join(&mut self, welcome: &[u8]) -> Result<(), Unopened>;

    /// Seals a content in the current epoch.
    ///
    /// # Errors
    /// [`Failed`], before the conversation stands above all.
    fn seal(&mut self, content: &[u8]) -> Result<Vec<u8>, Failed>;

    /// Opens a content that the other end has sealed. It can be opened once. Returns its epoch, too.
    ///
    /// # Errors
    /// [`Unopened`].
    fn open(&mut self, sealed: &[u8]) -> Result<(u64, Zeroizing<Vec<u8>>), Unopened>;

    /// Draws new keys for oneself and begins the next epoch with them. Returns the commit for the other end.
    ///
    /// # Errors
    /// [`Failed`].
    fn commit(&mut self) -> Result<Vec<u8>, Failed>;

    /// Follows the other end into the next epoch.
    ///
    /// # Errors
    /// [`Unopened::Again`] if the commit is of a past epoch, else [`Unopened`].
    fn follow(&mut self, commit: &[u8]) -> Result<(), Unopened>;

    /// The epoch that a sealed content or commit names, which is not authenticated.
    fn epoch_of(&self, sealed: &[u8]) -> Option<u64>;

    /// The current epoch; 0 before the conversation stands.
    fn epoch(&self) -> u64;

    /// What both ends share since the conversation was founded.
    fn founded(&self) -> Option<&Founded>;

    /// The whole state, canonical, for the loader of the same scheme.
    fn save(&self) -> Zeroizing<Vec<u8>>;
}

/// What both ends of a conversation share for as long as it lasts.
pub struct Founded {
    /// From MLS's exporter: the keys of the boxes are derived from it, which hide MLS's headers. It gives no access to
    /// what MLS seals.
    pub exported: Secret<32>,
    /// For people to compare.
    pub code: VerificationCode,
}

impl Founded {
    /// What both ends have after the founding: `exported`, both signature keys in any order, and a hash of how it went.
    #[must_use]
    pub fn new(exported: Secret<32>, mut keys: [[u8; 32]; 2], transcript: &[u8; 32]) -> Self {
        keys.sort_unstable();
        let [first, second] = keys;
        let code = crypto::hash(context::VERIFICATION, &[first, second, *transcript].concat());
        Self { exported, code: VerificationCode(code.0) }
    }
}

impl fmt::Debug for Founded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Founded(..)")
    }
}

/// What two people compare, over a way that nobody can forge, to know that no one sits between them. It is the same at
/// both ends and for as long as the conversation lasts. It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationCode(pub [u8; 32]);

/// Groups of five digits in a verification code: 132 bits.
const CODE_GROUPS: usize = 8;

impl fmt::Display for VerificationCode {
    /// 8 groups of 5 digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, four) in self.0.as_chunks::<4>().0.iter().take(CODE_GROUPS).enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{:05}", u32::from_le_bytes(*four) % 100_000)?;
        }
        Ok(())
    }
}

/// Why something from the other end was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unopened {
    /// It was opened before, or is so old that its key is gone.
    #[error("this was opened before, or its key is gone")]
    Again,
    /// The commit that begins its epoch has not come yet.
    #[error("this is of an epoch that has not begun yet")]
    Early,
    /// The other end has not sealed it for this conversation as it stands.
    #[error("this does not belong to the conversation")]
    Refused,
}

/// The scheme itself has failed, or was asked for something in the wrong state: the caller's fault or the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the end-to-end layer failed")]
pub struct Failed;

impl Scheme {
    /// A conversation that does not stand yet. The seed is for [`Self::Model`] only; MLS draws its own.
    ///
    /// # Errors
    /// [`Failed`] if the operating system gives out no randomness.
    pub fn create(self, seed: &Secret<32>) -> Result<Box<dyn EndToEnd>, Failed> {
        Ok(match self {
            Self::Mls => Box::new(Mls::new()?),
            Self::Model => Box::new(Model::new(seed)),
            Self::QueueKey => Box::new(QueueKeyOnly::default()),
        })
    }

    /// What [`EndToEnd::save`] has saved.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn load(self, saved: &[u8]) -> Result<Box<dyn EndToEnd>, Malformed> {
        Ok(match self {
            Self::Mls => Box::new(Mls::load(saved)?),
            Self::Model => Box::new(Model::load(saved)?),
            Self::QueueKey => Box::new(QueueKeyOnly::load(saved)?),
        })
    }

    const fn number(self) -> u8 {
        match self {
            Self::Mls => 1,
            Self::Model => 2,
            Self::QueueKey => 3,
        }
    }

    const fn from_number(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Mls),
            2 => Some(Self::Model),
            3 => Some(Self::QueueKey),
            _ => None,
        }
    }
}
