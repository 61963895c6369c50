//! Sizes: those that the specification states, and that the model has the same.

use posta_protocol::end_to_end::{InnerKind, MAX_CONTENT_LEN};
use posta_protocol::params::{BOX_CONTENT_LEN, INNER_OVERHEAD, MAX_KEY_PACKAGE_LEN};

use super::*;

/// Key package, welcome, commit, and messages of these contents.
fn measure(scheme: Scheme, contents: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let package = end(scheme, 9).key_package().unwrap().len();
    let (_, introduction) = invited(scheme);
    let InnerKind::Welcome { welcome, .. } = Inner::decode(&introduction).unwrap().kind else { panic!("no welcome") };
    let mut pair = pair(scheme);
    let turn = pair.make_turn(1);
    let InnerKind::Turn { commit, .. } = Inner::decode(&turn).unwrap().kind else { panic!("no turn") };
    let sealed = contents.iter().map(|len| {
        let inner = pair.ends[1].seal(NOW, 1, &vec![7; *len]).unwrap();
        let InnerKind::Message(message) = Inner::decode(&inner).unwrap().kind else { panic!("no message") };
        message.len() - len
    });
    let sealed = sealed.collect();
    (vec![package, welcome.len(), commit.len()], sealed)
}

#[test]
fn mls_has_the_sizes_that_the_chapter_states_and_the_model_has_them_too() {
    let contents = [50, 100, 1_000, 5_000, MAX_CONTENT_LEN];
    let (mls, overhead) = measure(Scheme::Mls, &contents);
    println!("{mls:?} {overhead:?}");
    assert_eq!(measure(Scheme::Model, &contents), (mls.clone(), overhead.clone()));
    assert_eq!(mls, [2_638, 5_415, 3_938]);
    assert_eq!(overhead, [145, 146, 146, 146, 146]);
    assert!(mls[0] <= MAX_KEY_PACKAGE_LEN);
    assert!(overhead.iter().all(|n| *n + 13 <= INNER_OVERHEAD));
    // The largest message fits a box; a turn or a welcome fits one beside a receipt or eight queues.
    assert!(MAX_CONTENT_LEN + INNER_OVERHEAD <= BOX_CONTENT_LEN);
    assert!(mls[1] + 1_000 + INNER_OVERHEAD <= BOX_CONTENT_LEN);
}

#[test]
fn a_state_stays_small() {
    let mut pair = pair(Scheme::Mls);
    let mut largest = 0;
    for n in 0..40 {
        for _ in 0..20 {
            pair.say(n % 2, "hello");
        }
        pair.turn(1 - n % 2);
        largest = largest.max(pair.ends[0].save().len());
    }
    println!("{largest} bytes at most");
    assert!(largest < 64 * 1024, "{largest} bytes");
}
