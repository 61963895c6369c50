//! Bytes that a relay, a wire or a contact gone bad may show instead of the right ones.

use posta_protocol::end_to_end::InnerKind;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;

/// Changes to `good`: each a cut, a flipped bit, bytes from elsewhere, or more bytes.
fn changes(good: &[u8], count: usize, seed: u64) -> Vec<Vec<u8>> {
    let rng = &mut ChaCha20Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let mut bytes = good.to_vec();
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..5) {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << rng.random_range(0..8),
                2 => bytes[at] = rng.random(),
                3 => bytes.extend((0..rng.random_range(1..40)).map(|_| rng.random::<u8>())),
                _ => {
                    let end = (at + rng.random_range(1..64)).min(bytes.len());
                    bytes[at..end].iter_mut().for_each(|b| *b = rng.random());
                }
            }
            bytes
        })
        .filter(|bytes| bytes != good)
        .collect()
}

/// Shows changed bytes to an end: none may be opened, and none may change anything. Then the right ones are opened.
fn shown_to(end: &mut Conversation, good: &[u8], content: &[u8], count: usize, seed: u64) {
    // The number outside of MLS is the box's to protect; here it is 8 bytes at the front.
    let (number, rest) = good.split_at(8);
    let before = end.save();
    for bytes in changes(rest, count, seed) {
        let Ok(inner) = Inner::decode(&[number, &bytes].concat()) else { continue };
        // Turn and answer differ by one byte, which the box protects too.
        if same_messages(&inner, good) {
            continue;
        }
        assert!(end.open(NOW, &inner).is_err(), "opened: seed {seed}");
        assert!(end.save() == before, "changed by what was refused: seed {seed}");
    }
    assert_eq!(open(end, good).unwrap(), content);
}

fn same_messages(inner: &Inner, good: &[u8]) -> bool {
    match (&inner.kind, Inner::decode(good).unwrap().kind) {
        (InnerKind::Turn { commit, message, .. }, InnerKind::Turn { commit: c, message: m, .. }) => {
            *commit == c && *message == m
        }
        _ => false,
    }
}

#[test]
fn changed_and_cut_bytes_are_refused_and_change_nothing() {
    for seed in 0..3 {
        let (mut pair, introduction) = invited(Scheme::Mls);
        shown_to(&mut pair.ends[0], &introduction, b"where I read", 150, seed);
        pair.turn(0);
        let message = pair.seal(0, "hello");
        shown_to(&mut pair.ends[1], &message, b"hello", 300, seed);
        let message = pair.seal(1, "hello to you");
        shown_to(&mut pair.ends[0], &message, b"hello to you", 300, seed);
    }
}

#[test]
fn a_changed_turn_is_refused_and_the_right_one_is_still_followed() {
    for seed in 0..3 {
        let mut pair = pair(Scheme::Mls);
        let turn = pair.make_turn(1);
        let inner = Inner::decode(&turn).unwrap();
        let InnerKind::Turn { answer, commit, message } = inner.kind else { panic!("no turn") };
        let before = pair.ends[0].save();
        for commit in changes(&commit, 200, seed) {
            let kind = InnerKind::Turn { answer, commit, message: message.clone() };
            assert!(pair.ends[0].open(NOW, &Inner { number: 0, kind }).is_err());
            assert!(pair.ends[0].save() == before, "changed by what was refused: seed {seed}");
        }
        assert_eq!(pair.open(0, &turn).unwrap(), b"a receipt");
        pair.say(1, "in the new epoch");
        pair.say(0, "both ways");
    }
}

#[test]
fn what_comes_twice_is_known_and_changes_nothing() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        for round in 0..3 {
            pair.say(0, "a message");
            pair.turn(1 - round % 2);
            pair.say(1, "another");
        }
        let before = pair.ends.each_ref().map(Conversation::save);
        for (from, sealed) in pair.wire.clone() {
            assert_eq!(pair.open(1 - from, &sealed), Err(Unopened::Again), "{scheme:?}");
            // One's own, shown back by a relay.
            let reflected = pair.open(from, &sealed);
            assert!(reflected.is_err(), "{scheme:?}");
        }
        assert!(before == pair.ends.each_ref().map(Conversation::save), "{scheme:?}");
        let (again, _) = (pair.say(0, "and on"), pair.say(1, "and on"));
        assert_eq!(pair.open(1, &again), Err(Unopened::Again));
    }
}

#[test]
fn one_who_sits_between_shows_in_the_verification_code() {
    // The one between has given the inviter's follower an invitation of its own, and follows the inviter's itself.
    let mut inviter = end(Scheme::Mls, 1);
    let mut follower = end(Scheme::Mls, 2);
    let [mut to_inviter, mut to_follower] = [end(Scheme::Mls, 3), end(Scheme::Mls, 4)];
    let welcome = to_inviter.found(&inviter.key_package().unwrap()).unwrap();
    let introduction = to_inviter.introduce(welcome, b"").unwrap();
    open(&mut inviter, &introduction).unwrap();
    let welcome = follower.found(&to_follower.key_package().unwrap()).unwrap();
    let introduction = follower.introduce(welcome, b"").unwrap();
    open(&mut to_follower, &introduction).unwrap();
    assert_eq!(inviter.code(), to_inviter.code());
    assert_eq!(follower.code(), to_follower.code());
    assert_ne!(inviter.code(), follower.code());
}

#[test]
fn messages_of_another_conversation_are_refused() {
    for scheme in SCHEMES {
        let (mut one, mut other) = (pair(Scheme::Mls), pair(Scheme::Mls));
        let before = one.ends.each_ref().map(Conversation::save);
        let (message, turn) = (other.seal(0, "hello"), other.make_turn(1));
        assert_eq!(one.open(1, &message), Err(Unopened::Refused), "{scheme:?}");
        assert_eq!(one.open(0, &turn), Err(Unopened::Refused), "{scheme:?}");
        assert!(before == one.ends.each_ref().map(Conversation::save));
    }
}

#[test]
fn a_key_package_that_is_none_founds_nothing() {
    let mut inviter = end(Scheme::Mls, 1);
    let package = inviter.key_package().unwrap();
    let mut joiner = end(Scheme::Mls, 2);
    let before = joiner.save();
    for bytes in changes(&package, 200, 7) {
        assert!(joiner.found(&bytes).is_err());
        assert!(joiner.save() == before);
    }
    assert!(joiner.found(&[]).is_err());
    let welcome = joiner.found(&package).unwrap();
    let introduction = joiner.introduce(welcome, b"hello").unwrap();
    assert_eq!(open(&mut inviter, &introduction).unwrap(), b"hello");
}

#[test]
fn a_damaged_state_is_refused_or_loads_and_never_panics() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        pair.say(0, "hello");
        let saved = pair.ends[0].save();
        for len in (0..saved.len()).step_by(37) {
            assert!(Conversation::load(&saved[..len]).is_err(), "{scheme:?}: {len} bytes");
        }
        let message = pair.seal(1, "to whom it may concern");
        for bytes in changes(&saved, 300, 9) {
            if let Ok(mut end) = Conversation::load(&bytes) {
                let _ = open(&mut end, &message);
                let _ = end.seal(NOW, 1, b"x");
            }
        }
    }
}
