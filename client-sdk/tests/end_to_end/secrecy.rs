//! What a thief of a client's state can read: nothing from before, and nothing from a round trip after.

use super::*;

#[test]
fn a_state_copied_now_opens_no_earlier_message() {
    let mut pair = pair(Scheme::Mls);
    let before = pair.ends.each_ref().map(copy);
    let already = pair.wire.len();
    for n in 0..4 {
        pair.say(0, &format!("{n} from the inviter"));
        pair.say(1, &format!("{n} from the other"));
    }
    // Within an epoch, and over turns of both.
    pair.turn(1);
    pair.say(0, "after a turn");
    pair.turn(0);
    pair.say(1, "after another");
    let wire = pair.wire[already..].to_vec();
    for at in 0..2 {
        let mut stolen = copy(&pair.ends[at]);
        for (from, sealed) in &wire {
            assert!(open(&mut stolen, sealed).is_err(), "the thief of {at} reads what {from} has said");
        }
        // Control: who has copied the state before can read what came after. So the messages are readable at all, and
        // it is the passing of time that ends it.
        let mut early = copy(&before[at]);
        let read = wire.iter().filter(|(from, sealed)| *from != at && open(&mut early, sealed).is_ok()).count();
        assert!(read >= 4, "the control reads {read} only");
    }
}

/// What the thief of an end's state reads of what came since, trying everything in order.
fn reads(stolen: &mut Conversation, wire: &[(usize, Arc<[u8]>)]) -> Vec<String> {
    wire.iter().filter_map(|(_, s)| open(stolen, s).ok()).map(|c| String::from_utf8(c).unwrap()).collect()
}

#[test]
fn after_a_round_trip_a_copied_state_opens_nothing_new() {
    for victim in 0..2 {
        let other = 1 - victim;
        let mut pair = pair(Scheme::Mls);
        if victim == 0 {
            // The turn is the victim's, or it is the other's: a round trip is enough either way.
            pair.turn(1);
        }
        let mut stolen = copy(&pair.ends[victim]);
        let at_theft = pair.wire.len();
        pair.say(other, "read by the thief");
        pair.turn(victim);
        pair.turn(other);
        pair.say(other, "healed");
        pair.turn(victim);
        pair.say(other, "healed for good");
        assert_eq!(reads(&mut stolen, &pair.wire[at_theft..]), ["read by the thief"], "of {victim}");
    }
}

#[test]
fn control_without_a_turn_of_the_victim_a_copied_state_reads_on() {
    // The turn is the other's: it renews the other's keys only, and the thief can follow it.
    let mut pair = pair(Scheme::Mls);
    let mut stolen = copy(&pair.ends[0]);
    let at_theft = pair.wire.len();
    pair.turn(1);
    pair.say(1, "read");
    assert_eq!(reads(&mut stolen, &pair.wire[at_theft..]), ["a receipt", "read"]);
}

#[test]
fn who_knows_the_invitation_alone_reads_nothing() {
    // All that an invitation holds is the key package. Whoever has it can found other conversations, not join this one.
    let mut ends = [end(Scheme::Mls, 1), end(Scheme::Mls, 2)];
    let package = ends[0].key_package().unwrap();
    let welcome = ends[1].found(&package).unwrap();
    let introduction = ends[1].introduce(welcome, b"where I read").unwrap();
    let mut thief = end(Scheme::Mls, 3);
    assert!(open(&mut thief, &introduction).is_err());
    thief.found(&package).unwrap();
    assert!(open(&mut thief, &introduction).is_err());
    // Control: the maker of the package can.
    assert_eq!(open(&mut ends[0], &introduction).unwrap(), b"where I read");
}

#[test]
fn a_welcome_is_opened_once_and_its_key_is_gone() {
    let (mut pair, introduction) = invited(Scheme::Mls);
    let mut before = copy(&pair.ends[0]);
    pair.open(0, &introduction).unwrap();
    let after = pair.ends[0].save();
    let mut stolen = copy(&pair.ends[0]);
    assert_eq!(open(&mut stolen, &introduction), Err(Unopened::Again));
    // The private key of the package is 32 bytes of seed, in the state before and nowhere after.
    assert!(after.windows(32).filter(|w| w.iter().any(|b| *b != 0)).count() > 1000);
    assert_eq!(open(&mut before, &introduction).unwrap(), b"where I read");
}
