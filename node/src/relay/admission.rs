//! Who may make queues here, and what a message to a contact queue must show.
//!
//! **Effort.** A puzzle's effort follows the rate at which what it guards goes through:
//!
//! ```text
//! rate    of the last 60 s: this minute's count + the last minute's × the part of it that isn't 60 s ago
//! effort  = floor + ⌈2 · log2(rate / target)⌉, at least floor, at most ceiling
//! ```
//! Twice the rate costs four times the work for each, so that someone with n times the processors gets through with
//! the cube root of n times as much; and a minute or two after it ends, all is as before. Only what was new counts: one
//! solution shown a thousand times makes nobody's puzzle harder.
//!
//! **Solutions.** One counts if its seed is the current or the last one ([`PUZZLE_SEED_LIFE`] each) and if it reaches
//! the least effort that was asked for in this minute and the two before. So whoever solves what it was asked for
//! within two minutes is let in, however the effort rises meanwhile, and nobody gains by asking in quiet times. Its
//! statement names one queue or one message: to show it again does the same once more, which is nothing. Checking costs one
//! hash. Nothing is kept about who asks, and all of it is forgotten when the relay stops: it then asks again.

use posta_protocol::admission::{Asks, Proof, Puzzle, Solution, Statement};
use posta_protocol::crypto;
use posta_protocol::ids::Hash;
use posta_protocol::now::Mono;
use posta_protocol::params::{PUZZLE_SEED_LEN, PUZZLE_SEED_LIFE};
use rand_core::CryptoRng;

const CONTEXT: &str = crypto::local::ADMISSION;
/// A minute in microseconds.
const MINUTE: u64 = 60_000_000;
/// Minutes in which an effort was asked for that still counts, this one included.
const ASKED_MINUTES: usize = 3;

/// What a `create` must prove.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Nothing.
    Open,
    /// Knowledge of a password, kept as a hash.
    Password(Hash),
    /// Work.
    Puzzle(Effort),
}

impl Admission {
    /// Everyone for an empty password, else those who know it.
    #[must_use]
    pub fn password(password: &str) -> Self {
        if password.is_empty() { Self::Open } else { Self::Password(crypto::hash(CONTEXT, password.as_bytes())) }
    }
}

/// Bounds of a puzzle's effort in leading zero bits, and the rate above which it rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// In quiet times.
    pub floor: u8,
    /// Under any load.
    pub ceiling: u8,
    /// Per minute; twice as many cost two bits more.
    pub target: u32,
}

impl Effort {
    /// For making queues. 2^18 hashes take one core 0.04 s, 2^26 take it 11 s (5.9 million a second, measured on an AMD
    /// EPYC).
    pub const CREATE: Self = Self { floor: 18, ceiling: 26, target: 60 };
    /// For messages to contact queues. 2^19 hashes take one core 0.09 s, 2^25 take it 6 s.
    pub const CONTACT: Self = Self { floor: 19, ceiling: 25, target: 120 };

    /// The effort at a rate, given in parts of [`MINUTE`] of one a minute.
    fn at(self, rate: u64) -> u8 {
        let target = u128::from(self.target) * u128::from(MINUTE);
        let (rate, target) = (u128::from(rate).pow(2), target.pow(2));
        let span = self.ceiling.saturating_sub(self.floor);
        let more = (0..span).find(|bits| rate >> bits <= target).unwrap_or(span);
        self.floor.saturating_add(more)
    }
}

/// What one minute has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    let_in: u32,
    /// The least effort asked for.
    asked: Option<u8>,
}

/// A puzzle's effort over time: a function of what was counted and of the time.
#[derive(Clone, Debug)]
struct Level {
    effort: Effort,
    /// The number of the newest minute.
    newest: u64,
    /// The newest first.
    minutes: [Minute; ASKED_MINUTES],
}

impl Level {
    fn new(effort: Effort) -> Self {
        Self { effort, newest: 0, minutes: [Minute::default(); ASKED_MINUTES] }
    }

    fn turn(&mut self, now: Mono) {
        let minute = now.0 / MINUTE;
        for _ in 0..minute.saturating_sub(self.newest).min(ASKED_MINUTES as u64) {
            self.minutes.rotate_right(1);
            if let Some(newest) = self.minutes.first_mut() {
                *newest = Minute::default();
            }
        }
        self.newest = self.newest.max(minute);
    }

    /// The effort now.
    fn now(&mut self, now: Mono) -> u8 {
        self.turn(now);
        let [this, last, ..] = self.minutes;
        let still = MINUTE - now.0 % MINUTE;
        self.effort.at(u64::from(this.let_in) * MINUTE + u64::from(last.let_in) * still)
    }

    fn ask(&mut self, now: Mono) -> u8 {
        let effort = self.now(now);
        if let Some(newest) = self.minutes.first_mut() {
            newest.asked = Some(newest.asked.map_or(effort, |asked| asked.min(effort)));
        }
        effort
    }

    /// The least effort that is enough.
    fn enough(&mut self, now: Mono) -> u8 {
        let effort = self.now(now);
        self.minutes.iter().filter_map(|minute| minute.asked).fold(effort, u8::min)
    }

    fn let_in(&mut self, now: Mono) {
        self.turn(now);
        if let Some(newest) = self.minutes.first_mut() {
            newest.let_in = newest.let_in.saturating_add(1);
        }
    }
}

type Seed = [u8; PUZZLE_SEED_LEN];

/// The current seed, since when, and the one before.
#[derive(Clone, Debug)]
struct Seeds {
    current: Seed,
    since: Mono,
    last: Option<Seed>,
}

impl Seeds {
    fn draw(rng: &mut (dyn CryptoRng + Send)) -> Seed {
        let mut seed = Seed::default();
        rng.fill_bytes(&mut seed);
        seed
    }

    fn turn(held: &mut Option<Self>, now: Mono, rng: &mut (dyn CryptoRng + Send)) -> Self {
        let seeds = match held.take() {
            Some(seeds) if now.since(seeds.since) < PUZZLE_SEED_LIFE => seeds,
            other => {
                let last = other.filter(|seeds| now.since(seeds.since) < PUZZLE_SEED_LIFE * 2).map(|s| s.current);
                Self { current: Self::draw(rng), since: now, last }
            }
        };
        held.insert(seeds).clone()
    }

    fn know(&self, seed: &Seed) -> bool {
        self.current == *seed || self.last.as_ref() == Some(seed)
    }
}

/// The door: judges proofs and says what it asks for.
pub(crate) struct Gate {
    admission: Admission,
    create: Level,
    contact: Level,
    seeds: Option<Seeds>,
}

impl Gate {
    pub(crate) fn new(admission: Admission, contact: Effort) -> Self {
        let create = match &admission {
            Admission::Puzzle(effort) => *effort,
            Admission::Open | Admission::Password(_) => Effort::CREATE,
        };
        Self { admission, create: Level::new(create), contact: Level::new(contact), seeds: None }
    }

    /// Takes over other rules; what was counted, and what was asked for, still counts.
    pub(crate) fn change(&mut self, admission: Admission, contact: Effort) {
        if let Admission::Puzzle(effort) = &admission {
            self.create.effort = *effort;
        }
        self.contact.effort = contact;
        self.admission = admission;
    }

    /// Judges a `create`: what is asked for instead, if this proof isn't enough.
    pub(crate) fn create(
        &mut self,
        now: Mono,
        rng: &mut (dyn CryptoRng + Send),
        statement: &Statement,
        proof: &Proof,
    ) -> Result<(), Asks> {
        match (&self.admission, proof) {
            (Admission::Open, _) => Ok(()),
            (Admission::Password(hash), Proof::Password(word)) if crypto::hash(CONTEXT, word).ct_eq(hash) => Ok(()),
            (Admission::Password(_), _) => Err(Asks::Password),
            (Admission::Puzzle(_), proof) => puzzle(&mut self.create, &mut self.seeds, now, rng, statement, proof),
        }
    }

    /// Judges a message to a contact queue.
    pub(crate) fn contact(
        &mut self,
        now: Mono,
        rng: &mut (dyn CryptoRng + Send),
        statement: &Statement,
        proof: &Proof,
    ) -> Result<(), Asks> {
        puzzle(&mut self.contact, &mut self.seeds, now, rng, statement, proof)
    }

    /// A queue was made.
    pub(crate) fn created(&mut self, now: Mono) {
        self.create.let_in(now);
    }

    /// A message was stored in a contact queue.
    pub(crate) fn contacted(&mut self, now: Mono) {
        self.contact.let_in(now);
    }
}

fn puzzle(
    level: &mut Level,
    seeds: &mut Option<Seeds>,
    now: Mono,
    rng: &mut (dyn CryptoRng + Send),
    statement: &Statement,
    proof: &Proof,
) -> Result<(), Asks> {
    let seeds = Seeds::turn(seeds, now, rng);
    let enough = u32::from(level.enough(now));
    let solves = |solution: &Solution| seeds.know(&solution.seed) && solution.effort(statement) >= enough;
    match proof {
        Proof::Solution(solution) if solves(solution) => Ok(()),
        _ => Err(Asks::Puzzle(Puzzle { effort: level.ask(now), seed: seeds.current })),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use posta_protocol::ids::{MessageId, WriterId};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    const EFFORT: Effort = Effort { floor: 4, ceiling: 14, target: 10 };

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    fn statement(n: u8) -> Statement {
        Statement::send(&WriterId([1; 32]), &MessageId([n; 16]))
    }

    struct Door {
        gate: Gate,
        rng: ChaCha20Rng,
    }

    impl Door {
        fn new() -> Self {
            let gate = Gate::new(Admission::Puzzle(EFFORT), Effort::CONTACT);
            Self { gate, rng: ChaCha20Rng::seed_from_u64(1) }
        }

        fn show(&mut self, now: Mono, n: u8, proof: &Proof) -> Result<(), Asks> {
            self.gate.create(now, &mut self.rng, &statement(n), proof)
        }

        fn ask(&mut self, now: Mono) -> Puzzle {
            match self.show(now, 1, &Proof::Nothing) {
                Err(Asks::Puzzle(puzzle)) => puzzle,
                other => panic!("{other:?}"),
            }
        }

        fn make(&mut self, now: Mono, queues: u32) {
            (0..queues).for_each(|_| self.gate.created(now));
        }
    }

    /// A solution worth exactly so much.
    fn worth(puzzle: Puzzle, n: u8, effort: u8) -> Proof {
        let all = (0..).map(|nonce| Solution { seed: puzzle.seed, nonce });
        let found = all.into_iter().find(|s| s.effort(&statement(n)) == u32::from(effort));
        Proof::Solution(found.unwrap())
    }

    #[test]
    fn a_password_is_asked_for_only_if_there_is_one() {
        let word = |word: &str| Proof::Password(word.as_bytes().to_vec().into());
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let mut show = |password: &str, proof: &Proof| {
            let mut gate = Gate::new(Admission::password(password), Effort::CONTACT);
            gate.create(at(0), rng, &statement(1), proof)
        };
        assert_eq!(show("", &Proof::Nothing), Ok(()));
        assert_eq!(show("", &word("anything")), Ok(()));
        assert_eq!(show("open sesame", &word("open sesame")), Ok(()));
        for wrong in [Proof::Nothing, word(""), word("open sesam")] {
            assert_eq!(show("open sesame", &wrong), Err(Asks::Password));
        }
    }

    #[test]
    fn other_rules_hold_from_then_on_and_what_was_asked_for_still_counts() {
        let mut door = Door::new();
        let puzzle = door.ask(at(0));
        let proof = worth(puzzle, 1, puzzle.effort);
        door.gate.change(Admission::password("sesame"), Effort::CONTACT);
        assert_eq!(door.show(at(1), 1, &proof), Err(Asks::Password));
        door.gate.change(Admission::Puzzle(Effort { floor: 9, ..EFFORT }), Effort::CONTACT);
        assert_eq!(door.ask(at(2)).effort, 9);
        assert_eq!(door.show(at(2), 1, &proof), Ok(()), "who has solved what was asked is let in");
        door.gate.change(Admission::Open, Effort::CONTACT);
        assert_eq!(door.show(at(3), 2, &Proof::Nothing), Ok(()));
    }

    #[test]
    fn the_formula_is_that_of_the_documentation() {
        let effort = |rate: f64| EFFORT.at((rate * MINUTE as f64) as u64);
        for (rate, expected) in [(0.0, 4), (10.0, 4), (10.1, 5), (14.0, 5), (14.2, 6), (20.0, 6), (40.0, 8), (79.9, 10)]
        {
            assert_eq!(effort(rate), expected, "{rate} a minute");
            let formula = 4.0 + (2.0 * (rate / 10.0_f64).log2()).ceil().max(0.0);
            assert_eq!(f64::from(expected), formula, "{rate} a minute");
        }
        assert_eq!((effort(320.0), effort(321.0), effort(1e6), EFFORT.at(u64::MAX)), (14, 14, 14, 14));
    }

    #[test]
    fn the_effort_rises_with_the_rate_and_falls_again() {
        let mut door = Door::new();
        assert_eq!(door.ask(at(0)).effort, 4);
        // Twice the target, evenly: two bits more.
        for second in (0..120).step_by(3) {
            door.make(at(second), 1);
        }
        assert_eq!(door.ask(at(120)).effort, 6);
        assert_eq!(door.ask(at(135)).effort, 6, "15 of 20 are left of the last minute");
        assert_eq!(door.ask(at(145)).effort, 5);
        assert_eq!(door.ask(at(150)).effort, 4);
        assert_eq!(door.ask(at(10_000)).effort, 4);
        door.make(at(10_000), 10_000);
        assert_eq!(door.ask(at(10_000)).effort, 14, "the ceiling, at once");
        assert_eq!(door.ask(at(10_200)).effort, 4);
    }

    #[test]
    fn a_solution_of_what_was_asked_is_good_for_two_minutes_whatever_happens() {
        let mut door = Door::new();
        let puzzle = door.ask(at(59));
        let proof = worth(puzzle, 1, 4);
        door.make(at(60), 1000);
        assert_eq!(door.ask(at(60)).effort, 14);
        assert_eq!(door.show(at(60), 1, &proof), Ok(()));
        assert_eq!(door.show(at(179), 1, &proof), Ok(()), "also a second time: it makes the same queue");
        door.make(at(178), 1000);
        assert!(door.show(at(179), 2, &proof).is_err(), "another queue");
        assert!(door.show(at(180), 1, &proof).is_err(), "asked for three minutes ago");
        let dear = worth(puzzle, 1, 14);
        assert_eq!(door.show(at(180), 1, &dear), Ok(()), "the seed is still good");
    }

    #[test]
    fn less_than_what_is_asked_is_not_enough() {
        let mut door = Door::new();
        door.make(at(0), 1000);
        let puzzle = door.ask(at(0));
        assert_eq!(puzzle.effort, 14);
        for (effort, enough) in [(4, false), (13, false), (14, true), (15, true)] {
            assert_eq!(door.show(at(1), 3, &worth(puzzle, 3, effort)).is_ok(), enough, "{effort}");
        }
        let foreign = Puzzle { seed: [9; PUZZLE_SEED_LEN], ..puzzle };
        assert!(door.show(at(1), 3, &worth(foreign, 3, 14)).is_err(), "a seed that isn't ours");
    }

    #[test]
    fn seeds_turn_and_the_last_one_is_taken_too() {
        let mut door = Door::new();
        let life = PUZZLE_SEED_LIFE.as_secs();
        let first = door.ask(at(0));
        let proof = worth(first, 1, 4);
        assert_eq!(door.ask(at(life - 1)).seed, first.seed);
        let second = door.ask(at(life));
        assert_ne!(second.seed, first.seed);
        assert_eq!(door.show(at(2 * life - 1), 1, &proof), Ok(()));
        assert!(door.show(at(2 * life), 1, &proof).is_err());
        assert_eq!(door.show(at(2 * life), 1, &worth(second, 1, 4)), Ok(()));
        assert!(door.show(at(9 * life), 1, &worth(second, 1, 4)).is_err(), "nobody asked in between");
    }

    #[test]
    fn contacts_pay_in_an_open_relay_too() {
        let mut gate = Gate::new(Admission::Open, EFFORT);
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let asked = gate.contact(at(0), rng, &statement(1), &Proof::Nothing);
        let Err(Asks::Puzzle(puzzle)) = asked else { panic!("{asked:?}") };
        assert_eq!(puzzle.effort, 4);
        assert_eq!(gate.contact(at(1), rng, &statement(1), &worth(puzzle, 1, 4)), Ok(()));
        (0..20).for_each(|_| gate.contacted(at(2)));
        assert_eq!(gate.contact.now(at(2)), 6);
        assert_eq!(gate.create.now(at(2)), Effort::CREATE.floor, "each has its own load");
    }

    #[test]
    fn the_cube_root_law_holds_in_virtual_time() {
        // Writers with so many hashes a second, who always solve what is asked and start again.
        let steady = |hashes_a_second: f64| {
            let mut level = Level::new(Effort { floor: 10, ceiling: 40, target: 60 });
            let (mut now, mut made) = (Mono(0), 0);
            while now < at(1800) {
                let work = 2_f64.powi(i32::from(level.now(now)));
                now = now + Duration::from_secs_f64(work / hashes_a_second);
                level.let_in(now);
                made += u32::from(now >= at(600));
            }
            f64::from(made) / 20.0
        };
        let (one, eight) = (steady(1e6), steady(8e6));
        assert!(eight / one > 1.6 && eight / one < 2.5, "eight times the power: {one} and {eight} a minute");
    }
}
