//! The owner's rule in virtual time: neighbours that take packets as they like, and packets that come as long as there is
//! room.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const PATIENCE: Duration = Duration::from_millis(250);
/// A day: never.
const FOREVER: Duration = Duration::from_secs(86_400);
/// Packets that could come in each step of a millisecond: a busy core's.
const OFFERED: usize = 10;

/// How a neighbour takes what stands in its line, each millisecond.
#[derive(Clone, Copy, Debug)]
enum Taker {
    /// So many.
    Steady(usize),
    /// None, ever.
    Stuck,
    /// All of it whenever its line has stopped counting, so that it can hold up everyone again at once.
    Spiteful,
    /// Now and then any number.
    Random,
}

struct Neighbour {
    line: Line,
    queue: mpsc::Receiver<Packet>,
    taker: Taker,
    taken: usize,
    dropped: usize,
}

/// What came of it, and the moments of every packet that came in and of every look that found no room.
struct Outcome {
    neighbours: Vec<Neighbour>,
    came: Vec<Mono>,
    held: Vec<Mono>,
}

/// So many milliseconds with these neighbours. Without `rule` the owner takes in whatever comes, as it once did.
fn run(takers: &[Taker], milliseconds: u64, patience: Duration, rule: bool, seed: u64) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let neighbour = |taker: &Taker| {
        let (line, queue) = Line::new();
        Neighbour { line, queue, taker: *taker, taken: 0, dropped: 0 }
    };
    let mut neighbours: Vec<_> = takers.iter().map(neighbour).collect();
    let mut standing = Standing::default();
    let (mut came, mut held) = (Vec::new(), Vec::new());
    for now in (0..milliseconds).map(|ms| Mono(ms * 1_000)) {
        for _ in 0..OFFERED {
            if rule && !standing.room(now, patience, neighbours.iter_mut().map(|n| &mut n.line)) {
                held.push(now);
                break;
            }
            let to = rng.random_range(0..neighbours.len());
            if neighbours[to].line.push(now, Packet::from_bytes(Box::new([0; 8]))) {
                standing.came();
                came.push(now);
            } else {
                neighbours[to].dropped += 1;
            }
        }
        for neighbour in &mut neighbours {
            let takes = match neighbour.taker {
                Taker::Steady(packets) => packets,
                Taker::Stuck => 0,
                Taker::Spiteful if neighbour.line.counts(now, patience) == 0 => PEER_BACKLOG,
                Taker::Spiteful => 0,
                Taker::Random if rng.random_range(0..100) == 0 => rng.random_range(0..PEER_BACKLOG),
                Taker::Random => 0,
            };
            for _ in 0..takes {
                neighbour.taken += usize::from(neighbour.queue.try_recv().is_ok());
            }
        }
    }
    Outcome { neighbours, came, held }
}

#[test]
fn a_neighbour_slower_than_what_comes_holds_it_back_and_loses_nothing() {
    let slow = run(&[Taker::Steady(1)], 10_000, PATIENCE, true, 1);
    assert_eq!((slow.neighbours[0].dropped, slow.neighbours[0].taken), (0, 10_000));
    assert!(!slow.held.is_empty());
    // The control: without the rule most of it is dropped.
    let control = run(&[Taker::Steady(1)], 10_000, PATIENCE, false, 1);
    assert!(control.neighbours[0].dropped > 80_000 && control.held.is_empty());
}

#[test]
fn a_stuck_neighbour_costs_the_others_one_patience_and_no_more() {
    let run = |patience| run(&[Taker::Stuck, Taker::Steady(OFFERED)], 10_000, patience, true, 2);
    let both = run(PATIENCE);
    // Half of what is offered is for it.
    let others = 10_000 * OFFERED / 2;
    let patience = PATIENCE.as_millis() as usize;
    assert_eq!(both.neighbours[1].dropped, 0);
    assert!(both.neighbours[1].taken > others * 98 / 100 - patience * OFFERED / 2, "{}", both.neighbours[1].taken);
    assert!(both.neighbours[0].dropped > others * 95 / 100 - patience * OFFERED / 2 - PEER_BACKLOG);
    assert!(both.held.len() <= patience, "held {} times", both.held.len());
    // The control: with endless patience it stops the whole relay.
    let control = run(FOREVER);
    assert!(control.neighbours[1].taken < 2 * HOLD_AT, "{}", control.neighbours[1].taken);
}

/// Whoever finds no room finds that HOLD_AT packets have come within the patience before.
fn keeps_its_promise(outcome: &Outcome) -> bool {
    let patience = PATIENCE.as_micros() as u64;
    outcome.held.iter().all(|held| {
        let until = outcome.came.partition_point(|at| at <= held);
        let from = outcome.came.partition_point(|at| at.0 + patience <= held.0);
        until - from >= HOLD_AT
    })
}

#[test]
fn neighbours_in_league_cannot_hold_the_relay_below_a_patience_of_packets() {
    for seed in 0..20 {
        for bad in [Taker::Stuck, Taker::Spiteful, Taker::Random] {
            let mut takers = [Taker::Steady(OFFERED); 20];
            takers[..10].fill(bad);
            let outcome = run(&takers, 5_000, PATIENCE, true, seed);
            assert!(keeps_its_promise(&outcome), "{bad:?}, seed {seed}");
            let dropped: usize = outcome.neighbours[10..].iter().map(|n| n.dropped).sum();
            assert_eq!(dropped, 0, "{bad:?}, seed {seed}: what the others would have taken");
        }
    }
    // The control: with more patience than promised the promise is broken.
    assert!(!keeps_its_promise(&run(&[Taker::Stuck, Taker::Steady(OFFERED)], 5_000, FOREVER, true, 0)));
}

#[test]
fn a_line_forgets_what_has_gone_and_knows_how_long_its_first_packet_waits() {
    let (mut line, mut queue) = Line::new();
    let packet = || Packet::from_bytes(Box::new([0; 8]));
    for ms in 0..10 {
        assert!(line.push(Mono(ms * 1_000), packet()));
    }
    let patience = Duration::from_millis(20);
    assert_eq!(line.counts(Mono(19_999), patience), 10);
    assert_eq!(line.counts(Mono(20_000), patience), 0, "the first has waited for the patience");
    queue.try_recv().unwrap();
    assert_eq!(line.counts(Mono(20_000), patience), 9, "it has gone");
    while queue.try_recv().is_ok() {}
    assert_eq!(line.counts(Mono(20_000), patience), 0);
    // However long nobody counts, what is remembered stays small.
    for n in 0..10_000 {
        assert!(line.push(Mono(n), packet()));
        queue.try_recv().unwrap();
        assert!(line.since.len() <= 2 * PEER_BACKLOG);
    }
    for _ in 0..PEER_BACKLOG {
        assert!(line.push(Mono(0), packet()));
    }
    assert!(!line.push(Mono(0), packet()), "full");
    drop(queue);
    assert!(!line.push(Mono(0), packet()), "nobody is there");
}
