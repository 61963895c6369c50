use std::collections::BTreeSet;
use std::time::Duration;

use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{
    Authority, Certificate, Extensions, Params, Purpose, RandomItems, Reveal, Vote, random_commit,
};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, LinkPublicKey, SigningPublicKey};
use posta_protocol::registry::parameter;
use posta_protocol::secret::Secret;

use super::*;

const EPOCH_MS: u64 = 1_000;
/// The key epoch in which the network begins.
const FIRST: u64 = 1_000;
/// Ways that an attacker tries.
const TRIES: u64 = 1_000;

/// Random bytes of an authority for a key epoch; `other` tells apart what it might have said instead.
fn bytes(n: usize, key_epoch: u64, other: u64) -> Reveal {
    let mut label = n.to_le_bytes().to_vec();
    label.extend(key_epoch.to_le_bytes());
    label.extend(other.to_le_bytes());
    posta_protocol::crypto::keyed_hash(&[8; 32], &label)
}

/// What an authority does in one epoch, in place of what it should.
type Lie<'a> = &'a dyn Fn(&mut RandomItems);

/// Authorities that count one another's items, epoch after epoch, and all that is known to all of them.
#[derive(Clone)]
struct Model {
    authorities: Authorities,
    certificates: Vec<Certificate>,
    epochs: u64,
    at: u64,
    body: Option<ConsensusBody>,
    commits: BTreeMap<AuthorityId, Hash>,
    reveals: BTreeMap<AuthorityId, Reveal>,
}

impl Model {
    /// `n` authorities, so many epochs in a key epoch.
    fn new(n: u8, epochs: u64) -> Self {
        let mut certificates: Vec<_> = (1..=n)
            .map(|seed| {
                let key = SignKey::from_seed(&Secret::new([seed; 32]));
                let signing = SigningPublicKey(key.public());
                Certificate::issue(&key, Purpose::Authority, signing, Wall(0), Wall(u64::MAX))
            })
            .collect();
        certificates.sort_by_key(|c| c.identity);
        let list = certificates.iter().map(|c| Authority {
            id: AuthorityId(c.identity),
            link_key: LinkPublicKey([1; 32]),
            addresses: Vec::new(),
        });
        Self {
            authorities: Authorities::new(list.collect()).unwrap(),
            certificates,
            epochs,
            at: FIRST * epochs,
            body: None,
            commits: BTreeMap::new(),
            reveals: BTreeMap::new(),
        }
    }

    fn id(&self, n: usize) -> AuthorityId {
        self.authorities.list()[n].id
    }

    fn shared(&self) -> &SharedRandom {
        &self.body.as_ref().unwrap().shared_random
    }

    fn key_epoch(&self) -> u64 {
        self.at / self.epochs
    }

    /// What the authorities vote for in the next epoch: what each has to say, and what it has seen.
    fn items(&self, n: usize) -> RandomItems {
        let (key_epoch, id) = (KeyEpoch(self.key_epoch()), self.id(n));
        let own = bytes(n, key_epoch.0, 0);
        let begins = self.at.is_multiple_of(self.epochs);
        let mut commits = if begins { BTreeMap::new() } else { self.commits.clone() };
        let mut reveals = if begins { BTreeMap::new() } else { self.reveals.clone() };
        let commit = random_commit(&id, key_epoch, &own);
        commits.insert(id, commit);
        if self.body.as_ref().is_some_and(|b| !begins && b.shared_random.commit_of(&id) == Some(commit)) {
            reveals.insert(id, own);
        }
        let closed = Wall(self.at * EPOCH_MS) >= commits_close(key_epoch, self.epochs * EPOCH_MS);
        RandomItems {
            key_epoch,
            commits: commits.into_iter().filter(|_| !closed).collect(),
            reveals: reveals.into_iter().filter(|_| closed).collect(),
        }
    }

    /// One epoch, in which those say something else who are listed with a lie.
    fn step(&mut self, lies: &[(usize, Lie<'_>)]) {
        let votes: Vec<Vote> = (0..self.certificates.len())
            .map(|n| {
                let mut random = self.items(n);
                lies.iter().filter(|(liar, _)| *liar == n).for_each(|(_, lie)| lie(&mut random));
                Vote {
                    certificate: self.certificates[n],
                    epoch: Epoch(self.at),
                    attempt: 0,
                    published: Wall(0),
                    newest: None,
                    random,
                    params: Params::default(),
                    relays: Vec::new(),
                    extensions: Extensions::default(),
                }
            })
            .collect();
        let counted: Counted<'_> = votes.iter().map(|vote| (vote.voter(), vote)).collect();
        let (valid_after, key_epoch_ms) = (Wall(self.at * EPOCH_MS), self.epochs * EPOCH_MS);
        let shared_random = count(&self.authorities, &counted, self.body.as_ref(), valid_after, key_epoch_ms);
        if self.at.is_multiple_of(self.epochs) {
            (self.commits, self.reveals) = (BTreeMap::new(), BTreeMap::new());
        }
        for vote in &votes {
            self.commits.extend(vote.random.commit_of(&vote.voter()).map(|commit| (vote.voter(), commit)));
            self.reveals.extend(vote.random.reveals.iter().copied().filter(|(id, reveal)| {
                shared_random.commit_of(id) == Some(random_commit(id, vote.random.key_epoch, reveal))
            }));
        }
        let mut params = Params::default();
        params.set(parameter::KEY_EPOCH_MS, key_epoch_ms);
        self.body = Some(ConsensusBody {
            geometry: Geometry::DEFAULT,
            epoch: Epoch(self.at),
            valid_after,
            fresh_until: valid_after + Duration::from_millis(EPOCH_MS),
            valid_until: valid_after + Duration::from_millis(4 * EPOCH_MS),
            previous: Hash([0; 32]),
            shared_random,
            params,
            missed: Vec::new(),
            key_epochs: Vec::new(),
            relays: Vec::new(),
            extensions: Extensions::default(),
        });
        self.at += 1;
    }

    /// The epochs up to the last one of this key epoch, with the same lies in all.
    fn rest(&mut self, lies: &[(usize, Lie<'_>)]) {
        self.step(lies);
        while !self.at.is_multiple_of(self.epochs) {
            self.step(lies);
        }
    }

    /// The value that the next consensus will have, if the others are honest.
    fn next_value(&self) -> [u8; 32] {
        let mut next = self.clone();
        next.step(&[]);
        next.shared().deals.last().unwrap().random
    }
}

/// The values among which authority 3 can choose, when it has heard the others' reveals: it says something else of its own
/// each time, or nothing, or the truth.
fn reachable(model: &Model) -> BTreeSet<[u8; 32]> {
    let id = model.id(3);
    (0..TRIES)
        .map(|n| {
            let mut tried = model.clone();
            let key_epoch = tried.key_epoch();
            let lie: Lie<'_> = &|items: &mut RandomItems| {
                items.reveals.retain(|(of, _)| *of != id);
                items.commits.retain(|(of, _)| *of != id);
                let other = bytes(3, key_epoch, n);
                if n != 1 {
                    items.reveals.push((id, other));
                    items.reveals.sort_unstable();
                    items.commits.push((id, random_commit(&id, KeyEpoch(key_epoch), &other)));
                    items.commits.sort_unstable();
                }
            };
            tried.rest(&[(3, lie)]);
            tried.next_value()
        })
        .collect()
}

/// Keeps the own reveal back, and leaves those of the others as they are.
fn silent(id: AuthorityId) -> impl Fn(&mut RandomItems) {
    move |items| items.reveals.retain(|(of, _)| *of != id)
}

/// Ends the key epoch's commits and lets the others reveal: the moment in which an attacker knows most.
fn to_the_reveals(model: &mut Model) {
    let withhold = silent(model.id(3));
    for _ in 0..4 {
        model.step(&[(3, &withhold)]);
    }
    assert_eq!(model.reveals.len(), 3, "the others have shown theirs");
}

#[test]
fn withholding_a_reveal_buys_one_bit_and_costs_the_next_round() {
    let mut model = Model::new(4, 6);
    model.rest(&[]);
    let (attacker, withhold) = (model.id(3), silent(model.id(3)));

    to_the_reveals(&mut model);
    assert_eq!(reachable(&model).len(), 2, "to reveal or not: one bit, whatever else it says");
    model.rest(&[(3, &withhold)]);
    assert_eq!(model.shared().reveals.len(), 3);

    // It has used its bit: in the round that follows it has none.
    to_the_reveals(&mut model);
    assert_eq!(model.shared().left_out, [attacker]);
    assert_eq!(model.shared().commit_of(&attacker), None, "what it commits to isn't counted");
    assert_eq!(reachable(&model).len(), 1);
    model.rest(&[]);
    assert_eq!(model.shared().deals[2].origin, Origin::Reveals);

    // Then it is back, and has one again.
    to_the_reveals(&mut model);
    assert_eq!((model.shared().left_out.len(), model.shared().commits.len()), (0, 4));
    assert_eq!(reachable(&model).len(), 2);
}

#[test]
fn control_what_is_mixed_at_once_lets_the_last_voter_choose_among_as_many_values_as_it_likes() {
    // The scheme that this one replaces: each vote has 32 bytes, and the value is their hash.
    let model = Model::new(4, 6);
    let mixed = |last: Reveal| {
        let given: Vec<_> = (0..4).map(|n| (model.id(n), if n == 3 { last } else { bytes(n, FIRST, 0) })).collect();
        posta_protocol::document::random_value(Origin::Reveals, &[0; 32], KeyEpoch(FIRST), &given)
    };
    let values: BTreeSet<_> = (0..TRIES).map(|n| mixed(bytes(3, FIRST, n))).collect();
    assert_eq!(values.len(), usize::try_from(TRIES).unwrap());
}

#[test]
fn a_key_epoch_of_reveals_deals_the_layers_three_later() {
    for n in [1, 4, 7, 10] {
        let mut model = Model::new(n, 6);
        model.rest(&[]);
        let first = model.shared().clone();
        assert!(first.deals.iter().all(|deal| deal.origin == Origin::FirstVotes));
        assert_eq!((first.commits.len(), first.reveals.len()), (n.into(), n.into()), "of {n}");
        model.step(&[]);
        let next = model.shared();
        assert_eq!(next.deals[..2], first.deals[1..], "what was dealt stays");
        let deal = next.deals[2];
        assert_eq!((deal.key_epoch, deal.origin), (KeyEpoch(FIRST + 3), Origin::Reveals));
        assert_eq!(deal.listed_before, commits_close(KeyEpoch(FIRST), 6 * EPOCH_MS));
        assert!(next.reveals.is_empty() && next.left_out.is_empty(), "a new round");
    }
}

#[test]
fn three_epochs_are_enough_and_with_two_every_value_says_that_it_is_not_new() {
    for (epochs, origin) in [(6, Origin::Reveals), (4, Origin::Reveals), (3, Origin::Reveals), (2, Origin::Before)] {
        let mut model = Model::new(4, epochs);
        model.rest(&[]);
        model.rest(&[]);
        model.step(&[]);
        assert_eq!(model.shared().deals[2].origin, origin, "{epochs} epochs");
        assert_eq!(problems(model.body.as_ref().unwrap()).iter().any(|p| p.contains("not new")), epochs == 2);
    }
}

#[test]
fn too_few_reveals_make_a_value_that_says_so_and_leave_nobody_out() {
    let mut model = Model::new(4, 6);
    model.rest(&[]);
    let (two, three) = (silent(model.id(2)), silent(model.id(3)));
    // Nobody knows what they keep back, so nobody repeats it.
    let both: [(usize, Lie<'_>); 2] = [(2, &two), (3, &three)];
    model.rest(&both);
    assert_eq!((model.shared().commits.len(), model.shared().reveals.len()), (4, 2));
    let before = *model.shared().deals.last().unwrap();
    model.step(&[]);
    let deal = model.shared().deals[2];
    assert_eq!(deal.origin, Origin::Before);
    let alone = posta_protocol::document::random_value(Origin::Before, &before.random, deal.key_epoch, &[]);
    assert_eq!(deal.random, alone, "of the value before alone");
    assert!(model.shared().left_out.is_empty(), "an outage is nobody's guilt");
    model.rest(&[]);
    assert_eq!(model.shared().reveals.len(), 4, "and the next round has all again");
}

#[test]
fn nobody_can_keep_an_honest_reveal_out_when_another_authority_is_away() {
    let mut model = Model::new(4, 6);
    model.rest(&[]);
    (0..3).for_each(|_| model.step(&[]));
    // One is away: it says nothing. One repeats only what suits it, and two are left, fewer than the threshold.
    let own = model.id(3);
    let nothing = |items: &mut RandomItems| *items = RandomItems::default();
    let only_its_own = |items: &mut RandomItems| items.reveals.retain(|(id, _)| *id == own);
    (0..3).for_each(|_| model.step(&[(0, &nothing), (3, &only_its_own)]));
    let counted: Vec<_> = model.shared().reveals.iter().map(|(id, _)| *id).collect();
    assert_eq!(counted, [model.id(1), model.id(2), own]);
}

#[test]
fn one_that_shows_different_commits_has_none() {
    let mut model = Model::new(4, 6);
    let id = model.id(3);
    let other = random_commit(&id, KeyEpoch(FIRST), &bytes(3, FIRST, 1));
    // Two of the others have seen one commit, and repeat it; the third and itself say the other.
    let repeat = |items: &mut RandomItems| {
        items.commits.retain(|(of, _)| *of != id);
        items.commits.push((id, other));
        items.commits.sort_unstable();
    };
    model.rest(&[(0, &repeat), (1, &repeat)]);
    assert_eq!(model.shared().commit_of(&id), None);
    assert_eq!(model.shared().commits.len(), 3);
}

#[test]
fn a_commit_after_the_first_half_and_a_reveal_that_does_not_fit_are_not_counted() {
    let mut model = Model::new(4, 6);
    let id = model.id(3);
    let none = |items: &mut RandomItems| items.commits.retain(|(of, _)| *of != id);
    let all: Vec<(usize, Lie<'_>)> = (0..4).map(|n| (n, &none as Lie<'_>)).collect();
    (0..3).for_each(|_| model.step(&all));
    let late = random_commit(&id, KeyEpoch(FIRST), &bytes(3, FIRST, 0));
    let zero = model.id(0);
    let lie = |items: &mut RandomItems| {
        items.commits = vec![(id, late)];
        items.reveals.retain(|(of, _)| *of != zero);
        items.reveals.push((zero, [1; 32]));
        items.reveals.sort_unstable();
    };
    let all: Vec<(usize, Lie<'_>)> = (0..4).map(|n| (n, &lie as Lie<'_>)).collect();
    (0..3).for_each(|_| model.step(&all));
    assert_eq!(model.shared().commit_of(&id), None);
    assert_eq!(model.shared().reveals.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [model.id(1), model.id(2)]);
}

#[test]
fn key_epochs_without_a_consensus_are_bridged_and_marked() {
    for gap in [1, 2, 5, 1_000_000] {
        let mut model = Model::new(4, 6);
        model.rest(&[]);
        let held = model.shared().clone();
        model.at += gap * 6;
        model.step(&[]);
        let deals = &model.shared().deals;
        assert_eq!(deals[0].key_epoch, KeyEpoch(FIRST + 1 + gap));
        for deal in deals {
            match deal.key_epoch.0 {
                k if k < FIRST + 3 => assert_eq!(Some(deal), held.deal(deal.key_epoch)),
                k if k == FIRST + 3 => assert_eq!(deal.origin, Origin::Reveals),
                _ => assert_eq!(deal.origin, Origin::Before),
            }
        }
        let values: BTreeSet<_> = deals.iter().map(|deal| deal.random).collect();
        assert_eq!(values.len(), 3);
    }
}
