//! Turns, order and loss: a relay gives out messages late, twice or in any order.

use posta_client::end_to_end::{ANSWER_WAIT, TURN_SPAN, TURN_WAIT};
use posta_protocol::params::{OVERTAKEN, PAST_EPOCHS, TURN_LAG};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;

#[test]
fn messages_are_opened_in_any_order_and_over_turns() {
    for scheme in SCHEMES {
        for seed in 0..5 {
            let rng = &mut ChaCha20Rng::seed_from_u64(seed);
            let mut pair = pair(scheme);
            let mut late = Vec::new();
            for round in 0..=PAST_EPOCHS {
                late.extend((0..5).map(|n| pair.seal(0, &format!("{round} {n}"))));
                if round < PAST_EPOCHS {
                    // Turns overtake them.
                    pair.turn(1 - round % 2);
                }
            }
            late.shuffle(rng);
            for sealed in late {
                assert!(pair.open(1, &sealed).is_ok(), "{scheme:?}, seed {seed}");
            }
            pair.say(0, "and on");
        }
    }
}

#[test]
fn a_message_overtaken_by_as_many_as_are_permitted_is_opened() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        let late = pair.seal(0, "late");
        for _ in 1..OVERTAKEN {
            pair.say(0, "sooner");
        }
        assert_eq!(pair.open(1, &late).unwrap(), b"late", "{scheme:?}");
    }
}

#[test]
fn what_comes_before_its_turn_is_told_apart_and_opened_after_it() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        let turn = pair.make_turn(1);
        let message = pair.seal(1, "in the new epoch");
        let before = pair.ends[0].save();
        assert_eq!(pair.open(0, &message), Err(Unopened::Early), "{scheme:?}");
        assert!(pair.ends[0].save() == before);
        pair.open(0, &turn).unwrap();
        assert_eq!(pair.open(0, &message).unwrap(), b"in the new epoch", "{scheme:?}");
    }
}

#[test]
fn what_comes_before_the_welcome_is_told_apart_too() {
    for scheme in SCHEMES {
        let (mut pair, introduction) = invited(scheme);
        let message = pair.seal(1, "hello");
        assert_eq!(pair.open(0, &message), Err(Unopened::Early), "{scheme:?}");
        pair.open(0, &introduction).unwrap();
        assert_eq!(pair.open(0, &message).unwrap(), b"hello", "{scheme:?}");
    }
}

#[test]
fn turns_alternate_whoever_asks() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        for n in 0..20 {
            let mine = 1 - n % 2;
            assert!(pair.ends[1 - mine].turn(NOW, b"out of turn").is_err(), "{scheme:?}");
            pair.turn(mine);
        }
        assert_eq!(pair.ends[0].epoch(), pair.ends[1].epoch());
    }
}

#[test]
fn a_commit_that_crosses_another_is_noticed_by_both_and_changes_nothing() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        // The turn is the other end's. The first is set back to when it was its own, by a backup of its disk.
        let old = {
            pair.turn(1);
            let old = copy(&pair.ends[0]);
            pair.turn(0);
            pair.turn(1);
            old
        };
        pair.ends[0] = old;
        let crossing = pair.ends[0].turn(NOW, b"a receipt").unwrap();
        let before = pair.ends.each_ref().map(Conversation::save);
        assert!(pair.open(1, &crossing.bytes).is_err(), "{scheme:?}");
        assert!(before == pair.ends.each_ref().map(Conversation::save));
    }
}

#[test]
fn two_turns_from_one_epoch_are_refused_at_both_ends() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        // Both hold the turn: one of the two is a copy of the other's past.
        pair.turn(1);
        let holder = copy(&pair.ends[0]);
        pair.turn(0);
        let theirs = pair.make_turn(1);
        // The first end goes back, and makes a turn of its own from an epoch behind.
        pair.ends[0] = holder;
        pair.seal(0, "what was not said before");
        let ours = pair.make_turn(0);
        assert!(matches!(pair.open(0, &theirs), Err(Unopened::Refused | Unopened::Early)), "{scheme:?}");
        assert!(pair.open(1, &ours).is_err(), "{scheme:?}");
        assert!(pair.ends[0].came_apart() && !pair.ends[0].came_apart());
        assert_eq!(pair.ends[0].turn_due(None), None);
    }
}

#[test]
fn a_turn_after_messages_is_answered_and_then_there_is_silence() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        assert_eq!(pair.ends.each_ref().map(|e| e.turn_due(None)), [None; 2], "{scheme:?}");
        pair.say(0, "hello");
        // The turn is the second end's, and a message has come.
        assert_eq!(pair.ends[1].turn_due(None), Some(NOW + TURN_WAIT), "{scheme:?}");
        assert_eq!(pair.ends[0].turn_due(None), None);
        pair.turn(1);
        assert_eq!(pair.ends[0].turn_due(None), Some(NOW + ANSWER_WAIT), "{scheme:?}");
        pair.turn(0);
        assert_eq!(pair.ends.each_ref().map(|e| e.turn_due(None)), [None; 2], "{scheme:?}");
        pair.say(0, "and another");
        assert_eq!(pair.ends[1].turn_due(None), Some(NOW + TURN_SPAN), "not at once: {scheme:?}");
    }
}

#[test]
fn no_turn_is_made_while_an_old_message_is_not_delivered() {
    let mut pair = pair(Scheme::Model);
    let at = pair.ends[1].epoch();
    pair.say(0, "hello");
    assert!(pair.ends[1].turn_due(Some(at)).is_some());
    pair.turn(1);
    pair.turn(0);
    pair.say(0, "hello");
    assert!(pair.ends[1].epoch() == at + TURN_LAG && pair.ends[1].turn_due(Some(at)).is_some());
    pair.turn(1);
    pair.turn(0);
    pair.say(0, "hello");
    assert_eq!(pair.ends[1].turn_due(Some(at)), None);
    assert!(pair.ends[1].turn_due(Some(at + TURN_LAG)).is_some());
}

#[test]
fn a_saved_state_goes_on_where_it_was() {
    for scheme in SCHEMES {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let mut pair = pair(scheme);
        for n in 0..60 {
            let from = rng.random_range(0..2);
            pair.say(from, &format!("{n}"));
            for end in 0..2 {
                if pair.ends[end].turn_due(None).is_some() && rng.random_bool(0.3) {
                    pair.turn(end);
                }
                if rng.random_bool(0.3) {
                    let saved = pair.ends[end].save();
                    pair.ends[end] = Conversation::load(&saved).unwrap();
                    assert!(pair.ends[end].save() == saved, "a state has one encoding: {scheme:?}");
                }
            }
        }
        assert!(pair.ends[0].epoch() > 5, "{scheme:?}");
    }
}

#[test]
fn the_verification_code_is_one_at_both_ends_and_stays() {
    for scheme in SCHEMES {
        let mut pair = pair(scheme);
        let code = pair.ends[0].code().unwrap();
        assert_eq!(code.to_string().split(' ').filter(|g| g.len() == 5).count(), 8);
        for n in 0..10 {
            pair.say(n % 2, "hello");
            pair.turn(1 - n % 2);
            assert_eq!(pair.ends.each_ref().map(Conversation::code), [Some(code); 2], "{scheme:?}");
        }
        assert_eq!(copy(&pair.ends[1]).code(), Some(code));
    }
    assert_ne!(pair(Scheme::Mls).ends[0].code(), pair(Scheme::Mls).ends[0].code());
    assert_eq!(end(Scheme::Mls, 1).code(), None);
}
