//! How well relays work, found out by loops through them: what a loop is made of, which are sent, and what their fates say.
//!
//! A loop is a client's `echo`: edge, mix 1, mix 2, edge, and back over two other mixes to the first edge. Behind that edge
//! nobody can tell it from a client's command. Nobody says either which relay has lost it: so each relay is compared with
//! itself. If loops with it get lost, and those without it don't, it is the one. The worst is found first and all its loops
//! are set aside; then the next is looked for among what is left, so that nobody is blamed for a neighbour.
//!
//! Only classes leave this module: three of loss and two of speed, over the last [`WINDOW`] epochs. They are voted on, and the
//! consensus has the median.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use posta_protocol::command::{Command, Envelope};
use posta_protocol::document::{Class, Consensus, MixKeys, Position, Reliability, Speed};
use posta_protocol::error::Misuse;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, InboxId, RelayId};
use posta_protocol::onion::build::{self, Hop, Last};
use posta_protocol::onion::reply::{ReplyKeys, reply_block};
use posta_protocol::packet::Packet;
use rand::RngExt;
use rand_core::CryptoRng;

/// Epochs whose loops are counted.
pub const WINDOW: usize = 6;
/// Loops planned for one epoch at most; with more relays each gets fewer.
pub const MAX_LOOPS: usize = 65_536;
/// Relays that are remembered by a number.
const MAX_NAMES: usize = 60_000;
/// Loops with a relay, below which nothing is said of it.
const ENOUGH: usize = 60;
/// A relay is flagged if so many in a hundred loops more get lost with it than without it.
const FLAGGED_PERCENT: f64 = 10.0;
/// From so many in a hundred more on it is only fair.
const FAIR_PERCENT: f64 = 4.0;
/// What gets lost with it must exceed what chance explains by so many standard deviations.
const SIGNIFICANT: f64 = 4.0;
/// Loss that is put down to chance at least, in the standard deviation: a run without any loss proves no perfect network.
const LEAST_LOSS: f64 = 0.01;
/// A relay is slow if half of its loops take so many times as long as half of all.
const SLOW: u32 = 2;

/// The way of one loop. The entry is where it begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The first edge.
    pub entry: RelayId,
    /// The mixes on the way out.
    pub forth: [RelayId; 2],
    /// The edge that echoes.
    pub queue: RelayId,
    /// The mixes on the way back.
    pub back: [RelayId; 2],
}

impl Route {
    /// All relays on it, each once.
    fn relays(&self) -> impl Iterator<Item = RelayId> {
        let [m1, m2] = self.forth;
        let [b1, b2] = self.back;
        let twice = [b1 == m1, b2 == m2];
        let back = [b1, b2].into_iter().zip(twice).filter_map(|(mix, twice)| (!twice).then_some(mix));
        [self.entry, m1, m2, self.queue].into_iter().chain(back)
    }
}

/// What became of a loop, or of the attempt to begin some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It came back whole after so long.
    Returned(Route, Duration),
    /// It didn't.
    Lost(Route),
    /// This edge took no client: so many loops could not begin.
    Closed(RelayId, u32),
}

/// A loop's fate, in short: half a million of them are kept in a network of ten thousand relays.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// The relays on it by their numbers, each once; as many as `hops` says.
    relays: [u16; 6],
    hops: u8,
    /// How many loops shared it.
    loops: u32,
    /// How long it took; `None` for a loss.
    took: Option<Duration>,
}

impl Fate {
    fn relays(&self) -> impl Iterator<Item = usize> + '_ {
        self.relays.iter().take(self.hops.into()).map(|n| usize::from(*n))
    }
}

/// What is known of relays. Bounded by [`WINDOW`] times [`MAX_LOOPS`].
#[derive(Debug, Default)]
pub struct Measuring {
    /// Relays by number; with more than [`MAX_NAMES`] all is forgotten, and measuring begins anew.
    names: Vec<RelayId>,
    numbers: HashMap<RelayId, u16>,
    /// The newest last.
    epochs: VecDeque<(Epoch, Vec<Fate>)>,
}

/// What loops with a relay have come to, among those that are looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u32,
    lost: u32,
}

impl Tally {
    fn loss(self) -> f64 {
        if self.sent == 0 { 0.0 } else { f64::from(self.lost) / f64::from(self.sent) }
    }

    const fn without(self, other: Self) -> Self {
        Self { sent: self.sent.saturating_sub(other.sent), lost: self.lost.saturating_sub(other.lost) }
    }

    const fn add(&mut self, fate: &Fate) {
        self.sent += fate.loops;
        if fate.took.is_none() {
            self.lost += fate.loops;
        }
    }
}

impl Measuring {
    /// Counts what was seen in an epoch.
    pub fn note(&mut self, epoch: Epoch, seen: Seen) {
        if self.names.len() >= MAX_NAMES {
            *self = Self::default();
        }
        if self.epochs.back().is_none_or(|(newest, _)| *newest < epoch) {
            self.epochs.push_back((epoch, Vec::new()));
        }
        while self.epochs.front().is_some_and(|(old, _)| old.0 + WINDOW as u64 <= epoch.0) {
            self.epochs.pop_front();
        }
        let fate = match seen {
            Seen::Returned(route, took) => self.fate(route.relays(), 1, Some(took)),
            Seen::Lost(route) => self.fate(route.relays(), 1, None),
            Seen::Closed(entry, loops) => self.fate([entry].into_iter(), loops, None),
        };
        if let Some((_, list)) = self.epochs.iter_mut().rfind(|(of, _)| *of == epoch)
            && list.len() < MAX_LOOPS
        {
            list.push(fate);
        }
    }

    fn fate(&mut self, relays: impl Iterator<Item = RelayId>, loops: u32, took: Option<Duration>) -> Fate {
        let mut fate = Fate { relays: [0; 6], hops: 0, loops, took };
        for (to, relay) in fate.relays.iter_mut().zip(relays) {
            *to = *self.numbers.entry(relay).or_insert_with(|| {
                self.names.push(relay);
                // There are fewer than MAX_NAMES and a route.
                u16::try_from(self.names.len() - 1).unwrap_or(u16::MAX)
            });
            fate.hops += 1;
        }
        fate
    }

    /// The classes of all relays of which there is something to say.
    #[must_use]
    pub fn classes(&self) -> BTreeMap<RelayId, Class> {
        let mut left: Vec<Fate> = self.epochs.iter().flat_map(|(_, list)| list).copied().collect();
        let mut classes = vec![Class::default(); self.names.len()];
        // Each turn takes one relay out, so it comes to an end.
        while let Some(worst) = worst(&left, self.names.len()) {
            if let Some(class) = classes.get_mut(worst) {
                class.reliability = Reliability::Flagged;
            }
            left.retain(|fate| fate.relays().all(|relay| relay != worst));
        }
        let (all, of) = tallies(&left, self.names.len());
        for (class, tally) in classes.iter_mut().zip(of).filter(|(_, tally)| tally.sent as usize >= ENOUGH) {
            let rest = all.without(tally);
            let fair = (tally.loss() - rest.loss()) * 100.0 >= FAIR_PERCENT && significant(tally, rest);
            class.reliability = if fair { Reliability::Fair } else { Reliability::Good };
        }
        for (class, speed) in classes.iter_mut().zip(speeds(&left, self.names.len())) {
            class.speed = speed;
        }
        let known = self.names.iter().copied().zip(classes).filter(|(_, class)| *class != Class::default());
        known.collect()
    }
}

/// All that is left, and what of it went with each relay.
fn tallies(list: &[Fate], relays: usize) -> (Tally, Vec<Tally>) {
    let (mut all, mut of) = (Tally::default(), vec![Tally::default(); relays]);
    for fate in list {
        all.add(fate);
        for relay in fate.relays() {
            if let Some(tally) = of.get_mut(relay) {
                tally.add(fate);
            }
        }
    }
    (all, of)
}

/// Whether chance does not explain what gets lost with a relay, given what gets lost without it.
fn significant(with: Tally, without: Tally) -> bool {
    let expected = without.loss() * f64::from(with.sent);
    let deviation = (f64::from(with.sent) * without.loss().max(LEAST_LOSS)).sqrt();
    f64::from(with.lost) - expected >= SIGNIFICANT * deviation
}

/// The relay that most of the loss goes with, if it is so much that it must be flagged.
fn worst(list: &[Fate], relays: usize) -> Option<usize> {
    let (all, of) = tallies(list, relays);
    let more = |tally: Tally| tally.loss() - all.without(tally).loss();
    let bad = of.into_iter().enumerate().filter(|(_, tally)| {
        let enough = tally.sent as usize >= ENOUGH;
        enough && more(*tally) * 100.0 >= FLAGGED_PERCENT && significant(*tally, all.without(*tally))
    });
    bad.max_by(|(_, a), (_, b)| more(*a).total_cmp(&more(*b))).map(|(relay, _)| relay)
}

/// How fast each relay is, if enough loops with it came back.
fn speeds(list: &[Fate], relays: usize) -> Vec<Speed> {
    let (mut all, mut of) = (Vec::new(), vec![Vec::new(); relays]);
    for fate in list {
        let Some(took) = fate.took else { continue };
        all.push(took);
        for relay in fate.relays() {
            if let Some(times) = of.get_mut(relay) {
                times.push(took);
            }
        }
    }
    let usual = median(&mut all);
    let speed = |mut times: Vec<Duration>| {
        if times.len() < ENOUGH / 2 {
            Speed::Unmeasured
        } else if median(&mut times) > usual.saturating_mul(SLOW) {
            Speed::Slow
        } else {
            Speed::Usual
        }
    };
    of.into_iter().map(speed).collect()
}

fn median(list: &mut [Duration]) -> Duration {
    list.sort_unstable();
    list.get(list.len() / 2).copied().unwrap_or_default()
}

/// Loops that begin at one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The entry.
    pub entry: RelayId,
    /// Its loops.
    pub routes: Vec<Route>,
}

/// Plans an epoch's loops: such that each relay is `loops` times in each of the roles that it has in the key epoch of these
/// keys, as far as [`MAX_LOOPS`] allows. In random order; empty if there are no paths.
pub fn plan(consensus: &Consensus, keys: &MixKeys, loops: usize, rng: &mut impl CryptoRng) -> Vec<Session> {
    let at = |position| -> Vec<RelayId> {
        let relays = consensus.relays_at(keys.key_epoch, position);
        relays.map(|relay| relay.id).filter(|id| keys.get(id).is_some()).collect()
    };
    let (edges, mut first, mut second) = (at(Position::Edge), at(Position::Mix1), at(Position::Mix2));
    if edges.len() < 2 || first.is_empty() || second.is_empty() {
        return Vec::new();
    }
    // Each loop takes a mix of both layers twice, and an edge as entry and as queue relay once each.
    let widest = edges.len().max(first.len().div_ceil(2)).max(second.len().div_ceil(2));
    let total = widest.saturating_mul(loops).min(MAX_LOOPS);
    let mut entries = Deck::new(edges.clone());
    let mut queues = Deck::new(edges);
    let (mut firsts, mut seconds) = (Deck::new(std::mem::take(&mut first)), Deck::new(std::mem::take(&mut second)));
    let mut sessions: BTreeMap<RelayId, Vec<Route>> = BTreeMap::new();
    for _ in 0..total {
        let Some(entry) = entries.draw(rng) else { break };
        // Nobody is both ends of a loop.
        let Some(queue) = (0..4).find_map(|_| queues.draw(rng).filter(|queue| *queue != entry)) else { continue };
        let (Some(m1), Some(m2)) = (firsts.draw(rng), seconds.draw(rng)) else { break };
        let (Some(b1), Some(b2)) = (firsts.draw(rng), seconds.draw(rng)) else { break };
        sessions.entry(entry).or_default().push(Route { entry, forth: [m1, m2], queue, back: [b1, b2] });
    }
    let mut sessions: Vec<_> = sessions.into_iter().map(|(entry, routes)| Session { entry, routes }).collect();
    shuffle(&mut sessions, rng);
    sessions
}

/// Cards that are dealt one after another, and shuffled when all are out.
struct Deck {
    cards: Vec<RelayId>,
    next: usize,
}

impl Deck {
    const fn new(cards: Vec<RelayId>) -> Self {
        Self { next: usize::MAX, cards }
    }

    fn draw(&mut self, rng: &mut impl CryptoRng) -> Option<RelayId> {
        if self.next >= self.cards.len() {
            shuffle(&mut self.cards, rng);
            self.next = 0;
        }
        self.next += 1;
        self.cards.get(self.next - 1).copied()
    }
}

fn shuffle<T>(list: &mut [T], rng: &mut impl CryptoRng) {
    for i in (1..list.len()).rev() {
        list.swap(i, rng.random_range(0..=i));
    }
}

/// Makes a loop's packet, and what its answer is opened with. `None` if a relay on it has no key.
///
/// # Errors
/// [`Misuse`] if a key isn't usable.
pub fn seal(
    geometry: Geometry,
    keys: &MixKeys,
    route: &Route,
    inbox: InboxId,
    rng: &mut impl CryptoRng,
) -> Option<Result<(Packet, ReplyKeys), Misuse>> {
    let hop = |relay: RelayId| Some(Hop { relay, key: keys.get(&relay)?, delay: Duration::ZERO });
    let ([m1, m2], [b1, b2]) = (route.forth, route.back);
    let back = [hop(b1)?, hop(b2)?, hop(route.entry)?];
    let forth = [hop(route.entry)?, hop(m1)?, hop(m2)?, hop(route.queue)?];
    let sealed = reply_block(geometry, keys.key_epoch, &back, inbox, rng).and_then(|(block, opens)| {
        let content = Envelope { command: Command::Echo, reply: vec![block] }.encode(geometry)?;
        Ok((build::packet(geometry, keys.key_epoch, &forth, Last::Queue, &content, rng)?, opens))
    });
    Some(sealed)
}

#[cfg(test)]
mod tests;
