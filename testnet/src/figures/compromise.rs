//! Bad relays: how long until a client's packet takes a path that they own, and how many messages a contact needs to find
//! the guard. No packets: the paths alone, drawn as clients draw them (a sticky entry, two fresh mixes, a fixed queue relay).

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;

use super::stats::Estimate;

/// Paths after which a client counts as never caught.
const MOST: u64 = 1_000_000;

/// What is asked.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Question {
    /// Edges.
    pub edges: usize,
    /// Mixes of each layer.
    pub mixes: usize,
    /// Relays that are bad, 0.0 to 1.0, of each kind.
    pub bad: f64,
    /// Time between a client's packets.
    pub interval: Duration,
    /// Clients that are tried.
    pub clients: usize,
    /// All randomness.
    pub seed: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Answer {
    /// The part of bad relays.
    pub bad: f64,
    /// Clients that are never caught with every hop bad: their entry is good.
    pub never: f64,
    /// Of the others: hours until the first path of which every relay is bad.
    pub hours: Estimate,
    /// Clients whose entry and queue relay are both bad: they can be confirmed from the first message on.
    pub ends: f64,
    /// Messages that a contact with as many bad mixes sends until an answer of the client to its own queue relay has come over
    /// two of them: the mixes hand it on with eyes open, and the first has seen the guard. Without looking at times; an
    /// observer of the first mix alone, who does, needs the square root of that.
    pub guard_messages: Estimate,
}

fn bad(n: usize, share: f64) -> usize {
    ((n as f64) * share).round() as usize
}

fn below(n: usize, rng: &mut ChaCha20Rng) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// Draws paths until the question is answered.
#[must_use]
pub fn answer(question: &Question) -> Answer {
    let Question { edges, mixes, bad: share, interval, clients, seed } = *question;
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let (bad_edges, bad_mixes) = (bad(edges, share), bad(mixes, share));
    let (mut never, mut ends) = (0_usize, 0_usize);
    let (mut hours, mut messages) = (Vec::new(), Vec::new());
    for _ in 0..clients {
        let entry = below(edges, &mut rng);
        let mut queue = below(edges.saturating_sub(1), &mut rng);
        queue += usize::from(queue >= entry);
        ends += usize::from(entry < bad_edges && queue < bad_edges);
        // Numbers below `bad_...` are the bad ones. Most packets are loops, to any edge.
        let path = |rng: &mut ChaCha20Rng| mixes_bad(mixes, bad_mixes, rng) && below(edges, rng) < bad_edges;
        if entry >= bad_edges || bad_mixes == 0 {
            never += 1;
        } else {
            let paths = (1..=MOST).find(|_| path(&mut rng));
            match paths {
                Some(n) => hours.push(n as f64 * interval.as_secs_f64() / 3600.0),
                None => never += 1,
            }
        }
        // The contact owns the queue relay: only the mixes have to be bad.
        if bad_mixes > 0 {
            let n = (1..=MOST).find(|_| mixes_bad(mixes, bad_mixes, &mut rng));
            messages.extend(n.map(|n| n as f64));
        }
    }
    let part = |n: usize| n as f64 / clients.max(1) as f64;
    Answer {
        bad: share,
        never: part(never),
        hours: Estimate::of(&hours),
        ends: part(ends),
        guard_messages: Estimate::of(&messages),
    }
}

fn mixes_bad(mixes: usize, bad: usize, rng: &mut ChaCha20Rng) -> bool {
    below(mixes, rng) < bad && below(mixes, rng) < bad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_caught_as_often_as_arithmetic_has_it() {
        let interval = Duration::from_secs(10);
        let found = answer(&Question { edges: 200, mixes: 100, bad: 0.2, interval, clients: 4000, seed: 1 });
        // A good entry saves for ever.
        assert!((found.never - 0.8).abs() < 0.02, "{found:?}");
        assert!((found.ends - 0.04).abs() < 0.012, "{found:?}");
        // Otherwise two mixes and the last relay are bad in one of 125 paths.
        let expected = 125.0 * 10.0 / 3600.0;
        assert!((found.hours.mean - expected).abs() < 2.0 * found.hours.half_width, "{found:?}");
        // And a contact with a relay of its own needs two bad mixes: 25 messages.
        assert!((found.guard_messages.mean - 25.0).abs() < 2.0 * found.guard_messages.half_width, "{found:?}");
        let none = answer(&Question { edges: 200, mixes: 100, bad: 0.0, interval, clients: 100, seed: 1 });
        assert_eq!((none.never, none.hours.n, none.guard_messages.n), (1.0, 0, 0));
        let all = answer(&Question { edges: 200, mixes: 100, bad: 1.0, interval, clients: 100, seed: 1 });
        assert_eq!((all.never, all.ends, all.guard_messages.mean), (0.0, 1.0, 1.0), "the control is always caught");
    }
}
