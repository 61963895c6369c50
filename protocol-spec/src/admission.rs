//! What a relay asks for before it makes a queue or takes a contact's message, and how that is shown to it.
//!
//! ```text
//! asks    kind (1) | puzzle: effort (1), seed (16)
//! proof   kind (1) | password: length (4), bytes | puzzle: seed (16), nonce (8)
//! ```
//! A puzzle's solution is a nonce for which BLAKE3 of seed, statement and nonce begins with `effort` zero bits: 2^effort
//! hashes to find on average, one to check. The statement names what is asked for, so that a solution is good for one
//! queue or one message; the seed is the relay's and changes, so that solutions can't be hoarded. Nothing in it tells
//! who asks.

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::codec::{Reader, Writer};
use crate::crypto::{self, context};
use crate::error::Malformed;
use crate::ids::{Hash, MessageId, QueueId, WriterId};
use crate::params::{MAX_PASSWORD_LEN, MAX_PUZZLE_EFFORT, PUZZLE_SEED_LEN};
use crate::registry::{admission as code, queue};

/// What a queue is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum QueueKind {
    /// One writer, one reader: a conversation.
    #[default]
    Plain,
    /// Many writers under one capability, each message with a proof: reusable invitations.
    Contact,
    /// One writer, one reader, many messages for a short time: files.
    Bulk,
}

impl QueueKind {
    /// Its number in the registry.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Plain => queue::PLAIN,
            Self::Contact => queue::CONTACT,
            Self::Bulk => queue::BULK,
        }
    }

    /// The kind of a number.
    ///
    /// # Errors
    /// [`Malformed::Value`] for a number that stands for none.
    pub const fn from_code(n: u8) -> Result<Self, Malformed> {
        match n {
            queue::PLAIN => Ok(Self::Plain),
            queue::CONTACT => Ok(Self::Contact),
            queue::BULK => Ok(Self::Bulk),
            _ => Err(Malformed::Value("kind of a queue")),
        }
    }
}

/// What a relay asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// The operator's password.
    Password,
    /// A puzzle's solution.
    Puzzle(Puzzle),
}

/// A puzzle without its statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Puzzle {
    /// Leading zero bits of the digest, at most [`MAX_PUZZLE_EFFORT`].
    pub effort: u8,
    /// The relay's, changed from time to time.
    pub seed: [u8; PUZZLE_SEED_LEN],
}

impl fmt::Debug for Puzzle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Puzzle({} bits)", self.effort)
    }
}

/// What is shown to a relay.
#[derive(Clone)]
pub enum Proof {
    /// Nothing.
    Nothing,
    /// The operator's password, at most [`MAX_PASSWORD_LEN`] bytes.
    Password(Zeroizing<Vec<u8>>),
    /// A puzzle's solution.
    Solution(Solution),
}

/// Passwords of one length are compared in constant time.
impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Password(a), Self::Password(b)) => a.ct_eq(b).into(),
            (Self::Solution(a), Self::Solution(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Proof {}

/// A nonce that solves a puzzle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Solution {
    /// The puzzle's seed.
    pub seed: [u8; PUZZLE_SEED_LEN],
    /// What was searched for.
    pub nonce: u64,
}

impl fmt::Debug for Solution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Solution(..)")
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Password(_) => "Password(..)",
            Self::Solution(_) => "Solution(..)",
        })
    }
}

/// What a solution is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement(Hash);

impl Statement {
    /// Making this queue.
    #[must_use]
    pub fn create(queue: &QueueId, writer: &WriterId, kind: QueueKind) -> Self {
        let mut w = Writer::with_capacity(QueueId::LEN + WriterId::LEN + 1);
        queue.write(&mut w);
        writer.write(&mut w);
        w.u8(kind.code());
        Self(crypto::hash(context::PUZZLE_CREATE, &w.finish()))
    }

    /// Putting this message into a contact queue.
    #[must_use]
    pub fn send(writer: &WriterId, message: &MessageId) -> Self {
        let mut w = Writer::with_capacity(WriterId::LEN + MessageId::LEN);
        writer.write(&mut w);
        message.write(&mut w);
        Self(crypto::hash(context::PUZZLE_SEND, &w.finish()))
    }
}

impl Puzzle {
    /// Tries nonces from `from` on, at most `tries`, so that the caller can stop or show progress between calls.
    #[must_use]
    pub fn solve(&self, statement: &Statement, from: u64, tries: u64) -> Option<Solution> {
        let nonces = (0..tries).map(|i| from.wrapping_add(i));
        nonces
            .map(|nonce| Solution { seed: self.seed, nonce })
            .find(|solution| solution.effort(statement) >= u32::from(self.effort))
    }
}

impl Solution {
    /// The leading zero bits that it reaches: what it was worth to whoever searched for it. Microseconds.
    #[must_use]
    pub fn effort(&self, statement: &Statement) -> u32 {
        let mut w = Writer::with_capacity(PUZZLE_SEED_LEN + Hash::LEN + 8);
        w.bytes(&self.seed);
        statement.0.write(&mut w);
        w.u64(self.nonce);
        let digest = crypto::hash(context::PUZZLE, &w.finish()).0;
        let mut bits = 0;
        for byte in digest {
            bits += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        bits
    }
}

impl Asks {
    /// Reads what a relay asks for.
    ///
    /// # Errors
    /// [`Malformed`] if it is truncated, of an unknown kind, or asks for more effort than anyone should spend.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match r.u8("admission")? {
            code::OPEN => Ok(Self::Nothing),
            code::PASSWORD => Ok(Self::Password),
            code::PUZZLE => {
                let effort = r.u8("effort")?;
                if effort > MAX_PUZZLE_EFFORT {
                    return Err(Malformed::Value("effort"));
                }
                Ok(Self::Puzzle(Puzzle { effort, seed: r.array("seed")? }))
            }
            _ => Err(Malformed::Value("admission")),
        }
    }

    /// Writes it.
    pub fn write(&self, w: &mut Writer) {
        match self {
            Self::Nothing => w.u8(code::OPEN),
            Self::Password => w.u8(code::PASSWORD),
            Self::Puzzle(puzzle) => {
                w.u8(code::PUZZLE);
                w.u8(puzzle.effort);
                w.bytes(&puzzle.seed);
            }
        }
    }
}

impl Proof {
    /// Reads a proof.
    ///
    /// # Errors
    /// [`Malformed`] if it is truncated, too long or of an unknown kind.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match r.u8("proof")? {
            code::OPEN => Ok(Self::Nothing),
            code::PASSWORD => Ok(Self::Password(Zeroizing::new(r.bounded(MAX_PASSWORD_LEN, "password")?.to_vec()))),
            code::PUZZLE => Ok(Self::Solution(Solution { seed: r.array("seed")?, nonce: r.u64("nonce")? })),
            _ => Err(Malformed::Value("proof")),
        }
    }

    /// Writes the proof.
    pub fn write(&self, w: &mut Writer) {
        match self {
            Self::Nothing => w.u8(code::OPEN),
            Self::Password(password) => {
                w.u8(code::PASSWORD);
                w.bounded(password);
            }
            Self::Solution(solution) => {
                w.u8(code::PUZZLE);
                w.bytes(&solution.seed);
                w.u64(solution.nonce);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUZZLE: Puzzle = Puzzle { effort: 10, seed: [7; PUZZLE_SEED_LEN] };

    fn statement(n: u8) -> Statement {
        Statement::send(&WriterId([1; 32]), &MessageId([n; 16]))
    }

    #[test]
    fn a_solution_is_good_for_one_statement_and_one_seed() {
        let solution = PUZZLE.solve(&statement(1), 0, 1 << 20).unwrap();
        assert!(solution.effort(&statement(1)) >= 10);
        assert!(solution.effort(&statement(2)) < 10);
        assert!(Solution { seed: [8; PUZZLE_SEED_LEN], ..solution }.effort(&statement(1)) < 10);
    }

    #[test]
    fn the_search_is_bounded() {
        let hard = Puzzle { effort: MAX_PUZZLE_EFFORT, ..PUZZLE };
        assert_eq!(hard.solve(&statement(1), u64::MAX, 100), None);
    }

    #[test]
    fn the_search_costs_what_the_effort_says() {
        let easy = Puzzle { effort: 6, ..PUZZLE };
        let spent: u64 = (0..200).map(|n| easy.solve(&statement(n), 0, 1 << 20).unwrap().nonce + 1).sum();
        // 200 searches of 64 tries on average, with a standard deviation of 900 over all.
        assert!((9_200..=16_400).contains(&spent), "{spent}");
    }

    #[test]
    fn what_is_asked_and_shown_comes_back() {
        for asks in [Asks::Nothing, Asks::Password, Asks::Puzzle(PUZZLE)] {
            let mut w = Writer::default();
            asks.write(&mut w);
            assert_eq!(Asks::read(&mut Reader::new(&w.finish())), Ok(asks));
        }
        let password = Proof::Password(Zeroizing::new(b"open sesame".to_vec()));
        for proof in [Proof::Nothing, password, Proof::Solution(Solution { seed: [1; 16], nonce: 2 })] {
            let mut w = Writer::default();
            proof.write(&mut w);
            assert_eq!(Proof::read(&mut Reader::new(&w.finish())), Ok(proof));
        }
    }

    #[test]
    fn more_effort_than_anyone_should_spend_is_refused() {
        let mut w = Writer::default();
        Asks::Puzzle(Puzzle { effort: MAX_PUZZLE_EFFORT + 1, ..PUZZLE }).write(&mut w);
        assert_eq!(Asks::read(&mut Reader::new(&w.finish())), Err(Malformed::Value("effort")));
    }

    #[test]
    fn debug_shows_no_password() {
        assert_eq!(format!("{:?}", Proof::Password(Zeroizing::new(b"open sesame".to_vec()))), "Password(..)");
    }
}
