//! Relays that ask for something before they make a queue.

use posta_client::session::MAX_EFFORT;
use posta_client::session::event::{Asked, ClientEvent, JoinFailure, NotAdmitted, Options, Warning};
use posta_protocol::admission::{Asks, Puzzle};
use posta_protocol::params::PUZZLE_SEED_LEN;

use super::world::World;
use super::{HOURS, MINUTE, connect, emitted, invite, is_ready, link_of};

pub(super) const fn puzzle(effort: u8, seed: u8) -> Asks {
    Asks::Puzzle(Puzzle { effort, seed: [seed; PUZZLE_SEED_LEN] })
}

fn world_asking(seed: u64, asks: impl Fn(usize) -> Asks) -> World {
    let mut world = World::new(seed, 6, 6, HOURS);
    for (n, relay) in world.relays.iter_mut().enumerate() {
        relay.asks = asks(n);
    }
    world
}

fn warnings(world: &World, client: usize) -> Vec<NotAdmitted> {
    let warnings = emitted(world, client).filter_map(|e| match e {
        ClientEvent::Warning(Warning::NotAdmitted(refusal)) => Some(*refusal),
        _ => None,
    });
    warnings.collect()
}

/// One client that has asked for an invitation, and what became of it: a link, or a refusal.
fn invitation(world: &mut World) -> Result<String, NotAdmitted> {
    let client = world.add_client(Options::default());
    assert!(world.run_until(MINUTE, |w| is_ready(w, client)), "not ready");
    world.with(client, |s, now| s.invite(now)).unwrap();
    let failure = |w: &World| {
        emitted(w, client).find_map(|e| match e {
            ClientEvent::InviteFailed { reason, .. } => Some(*reason),
            _ => None,
        })
    };
    assert!(world.run_until(MINUTE, |w| link_of(w, client).is_some() || failure(w).is_some()), "neither");
    link_of(world, client).ok_or_else(|| failure(world).unwrap())
}

#[test]
fn puzzles_are_solved_in_slices_and_two_people_talk() {
    // 2^15 hashes on average, four times what one step may spend.
    let mut pair = connect(world_asking(1, |n| puzzle(15, n as u8)), Options::default());
    pair.exchange(0, 5);
    pair.check(5, MINUTE);
    assert!((0..2).all(|client| warnings(&pair.world, client).is_empty()));
}

#[test]
fn a_puzzle_that_changes_meanwhile_is_solved_again() {
    let mut world = world_asking(2, |_| puzzle(8, 1));
    let client = world.add_client(Options::default());
    assert!(world.run_until(MINUTE, |w| is_ready(w, client)));
    world.with(client, |s, now| s.invite(now)).unwrap();
    // The first answers are on their way back by now: eight hops of a millisecond, and some.
    world.run_until(std::time::Duration::from_millis(9), |_| false);
    world.relays.iter_mut().for_each(|relay| relay.asks = puzzle(9, 2));
    assert!(world.run_until(MINUTE, |w| link_of(w, client).is_some()));
    assert!(warnings(&world, client).is_empty());
}

#[test]
fn a_relay_that_wants_a_password_is_named_and_another_one_taken() {
    let mut world = world_asking(3, |n| if n < 4 { Asks::Password } else { Asks::Nothing });
    let locked: Vec<_> = world.relays.iter().take(4).map(|r| r.id).collect();
    assert!(invitation(&mut world).is_ok());
    let warned = warnings(&world, 0);
    assert!(!warned.is_empty());
    for warning in &warned {
        assert!(locked.contains(&warning.relay));
        let sentence = Warning::NotAdmitted(*warning).to_string();
        assert!(
            sentence.contains("its operator's password") && sentence.contains(&warning.relay.short()),
            "{sentence}"
        );
    }
    assert_eq!(world.holders(), [4, 5]);
}

#[test]
fn without_a_relay_that_admits_it_an_invitation_fails_and_says_why() {
    for (asks, asked) in [(Asks::Password, Asked::Password), (puzzle(MAX_EFFORT + 1, 1), Asked::Work(MAX_EFFORT + 1))] {
        let mut world = world_asking(4, |_| asks);
        let refusal = invitation(&mut world).unwrap_err();
        assert_eq!(refusal.asks, asked);
        let mut named: Vec<_> = warnings(&world, 0).iter().map(|w| w.relay).collect();
        assert!(named.len() >= 5, "with one of the six left there is none for the second queue");
        named.sort();
        assert!(named.windows(2).all(|w| w[0] != w[1]), "each is named once");
        assert!(world.holders().is_empty());
        // Nobody is asked again in this key epoch.
        world.run_until(MINUTE, |_| false);
        let packets = world.relays.iter().map(|r| r.carried).sum::<u64>();
        world.with(0, |s, now| s.invite(now)).unwrap();
        world.run_until(MINUTE, |_| false);
        let failed = emitted(&world, 0).filter(|e| matches!(e, ClientEvent::InviteFailed { .. })).count();
        assert_eq!((failed, world.relays.iter().map(|r| r.carried).sum::<u64>()), (2, packets));
    }
}

#[test]
fn a_relay_whose_puzzles_never_end_is_left() {
    let mut world = world_asking(5, |n| if n == 5 { Asks::Nothing } else { puzzle(4, 1) });
    let client = world.add_client(Options::default());
    assert!(world.run_until(MINUTE, |w| is_ready(w, client)));
    world.with(client, |s, now| s.invite(now)).unwrap();
    // Another seed each millisecond: no solution is ever good.
    for seed in 0..250 {
        world.run_until(std::time::Duration::from_millis(1), |_| false);
        world.relays.iter_mut().take(5).for_each(|relay| relay.asks = puzzle(4, seed));
    }
    let named = warnings(&world, client);
    assert!(!named.is_empty() && named.iter().all(|w| w.asks == Asked::Work(4)), "{named:?}");
}

#[test]
fn a_join_that_finds_no_relay_for_its_queues_fails_and_says_why() {
    let mut world = World::new(6, 6, 6, HOURS);
    let (a, b) = (world.add_client(Options::default()), world.add_client(Options::default()));
    assert!(world.run_until(MINUTE, |w| is_ready(w, a) && is_ready(w, b)));
    let (_, link) = invite(&mut world, a);
    world.relays.iter_mut().for_each(|relay| relay.asks = Asks::Password);
    world.with(b, |s, now| s.join(now, link.parse().unwrap())).unwrap();
    let failure = |w: &World| {
        emitted(w, b).find_map(|e| match e {
            ClientEvent::JoinFailed { reason, .. } => Some(*reason),
            _ => None,
        })
    };
    assert!(world.run_until(MINUTE, |w| failure(w).is_some()));
    let reason = failure(&world).unwrap();
    assert!(matches!(reason, JoinFailure::NotAdmitted(NotAdmitted { asks: Asked::Password, .. })), "{reason:?}");
}
