use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::crypto::signature::SignKey;
use crate::crypto::xwing::{KemPublicKey, KemSecretKey};
use crate::document::{
    Authority, Certificate, ConsensusSignature, Cut, Extensions, KeyEpochPart, Origin, Params, Purpose, Roles,
    SharedRandom, UnverifiedConsensus, UnverifiedMixKeys,
};
use crate::geometry::Geometry;
use crate::ids::{AuthorityId, Epoch, LinkPublicKey, OperatorId, SigningPublicKey};
use crate::now::Wall;
use crate::registry::parameter;
use crate::secret::Secret;

const NOW: Wall = Wall(600_000);
const KEY_EPOCH: KeyEpoch = KeyEpoch(10);

fn deal(random: u8) -> Deal {
    let listed_before = Wall(400_000);
    Deal { key_epoch: KEY_EPOCH, random: [random; 32], origin: Origin::Reveals, listed_before, cut: None }
}

fn relay(n: u16, roles: Roles, capacity: u32) -> RelayEntry {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&n.to_be_bytes());
    RelayEntry {
        id: RelayId(id),
        link_key: LinkPublicKey(id),
        link_addresses: vec!["127.0.0.1:5".parse().unwrap()],
        client_addresses: vec![],
        roles,
        family: None,
        operator: OperatorId([0; 16]),
        capacity,
        protocols: Default::default(),
        class: Default::default(),
        listed_since: Wall(0),
        layers: vec![],
    }
}

fn mixes(capacities: &[u32]) -> Vec<RelayEntry> {
    (0..).zip(capacities).map(|(n, capacity)| relay(n, Roles::MIX, *capacity)).collect()
}

/// Members and capacity of both layers.
fn layers(deal: &Deal, relays: &[RelayEntry]) -> [(usize, u64); 2] {
    let mut sums = [(0, 0); 2];
    for relay in relays {
        let layer = match place(deal, relay) {
            Some(Position::Mix1) => 0,
            Some(Position::Mix2) => 1,
            _ => continue,
        };
        sums[layer].0 += 1;
        sums[layer].1 += u64::from(relay.capacity);
    }
    sums
}

fn dealt(random: u8, relays: &[RelayEntry]) -> Deal {
    let deal = deal(random);
    Deal { cut: Some(Cut { dealt: Epoch(60), last: cut(&deal, relays, 1).unwrap() }), ..deal }
}

fn kem(n: u8) -> KemPublicKey {
    KemSecretKey::from_seed(&Secret::new([n; 32])).unwrap().public().clone()
}

fn known() -> Authorities {
    let identity = SignKey::from_seed(&Secret::new([1; 32]));
    let id = AuthorityId(identity.public());
    Authorities::new(vec![Authority { id, link_key: LinkPublicKey([1; 32]), addresses: vec![] }]).unwrap()
}

fn signed(body: &ConsensusBody) -> Consensus {
    let (identity, signing) = (SignKey::from_seed(&Secret::new([1; 32])), SignKey::from_seed(&Secret::new([2; 32])));
    let key = SigningPublicKey(signing.public());
    let certificate = Certificate::issue(&identity, Purpose::Authority, key, Wall(0), Wall(u64::MAX));
    let encoded = body.encode();
    let signature = ConsensusSignature::sign(&body.header(&encoded), certificate, &signing);
    let bytes = Consensus::assemble(&encoded, &[signature]);
    UnverifiedConsensus::decode(&bytes).unwrap().verify_signatures(&known()).unwrap()
}

/// A consensus with the deal, two edges, and these mixes; the last mix has no key.
fn consensus(change: impl FnOnce(&mut ConsensusBody)) -> (Consensus, MixKeys) {
    let mut params = Params::default();
    params.set(parameter::KEY_EPOCH_MS, 60_000);
    let mut relays = mixes(&[5; 9]);
    relays.extend([relay(100, Roles::EDGE, 5), relay(101, Roles { edge: true, ..Roles::MIX }, 5)]);
    relays[4].listed_since = Wall(400_000);
    let keys = relays.iter().filter(|r| r.id != relays[8].id).map(|r| (r.id, kem(1))).collect();
    let part = MixKeys { key_epoch: KEY_EPOCH, keys };
    let mut body = ConsensusBody {
        geometry: Geometry::DEFAULT,
        epoch: Epoch(60),
        valid_after: NOW,
        fresh_until: NOW + Duration::from_secs(10),
        valid_until: NOW + Duration::from_secs(40),
        previous: Hash([0; 32]),
        shared_random: SharedRandom { deals: vec![deal(1)], ..SharedRandom::default() },
        params,
        missed: vec![],
        key_epochs: vec![KeyEpochPart { epoch: KEY_EPOCH, mix_keys: MixKeys::hash(&part.encode()) }],
        relays,
        extensions: Extensions::default(),
    };
    cut_deals(&mut body);
    let dealt = body.shared_random.deals[0];
    for relay in &mut body.relays {
        relay.layers = vec![part.get(&relay.id).and_then(|_| place(&dealt, relay))];
    }
    change(&mut body);
    let consensus = signed(&body);
    let part = UnverifiedMixKeys::decode(&part.encode()).unwrap().verify(&consensus).unwrap();
    (consensus, part)
}

#[test]
fn layers_depend_on_the_random_value_alone_and_who_leaves_moves_nobody() {
    let all = mixes(&[3; 20]);
    let places = |deal: &Deal, relays: &[RelayEntry]| -> BTreeMap<_, _> {
        relays.iter().map(|relay| (relay.id, place(deal, relay))).collect()
    };
    let one = dealt(1, &all);
    assert_eq!(places(&one, &all), places(&dealt(1, &all), &all));
    assert_ne!(places(&one, &all), places(&dealt(2, &all), &all));
    assert_eq!(layers(&one, &all), [(10, 30), (10, 30)]);
    let later = KeyEpoch(11);
    let other = Deal { key_epoch: later, ..deal(1) };
    let other = Deal { cut: Some(Cut { dealt: Epoch(60), last: cut(&other, &all, 1).unwrap() }), ..other };
    assert_ne!(places(&one, &all), places(&other, &all), "another key epoch, another order");
    let mut fewer = all.clone();
    fewer.retain(|relay| relay.id.0[1] % 3 != 0);
    assert!(places(&one, &fewer).iter().all(|(id, place)| places(&one, &all).get(id) == Some(place)));
}

#[test]
fn one_that_claims_all_capacity_of_the_world_does_not_stand_alone() {
    for random in 0..50 {
        let mut capacities = [10; 12];
        capacities[7] = u32::MAX;
        let all = mixes(&capacities);
        let [first, second] = layers(&dealt(random, &all), &all);
        assert!(first.0.min(second.0) >= 4, "{first:?} {second:?}");
    }
}

#[test]
fn a_network_that_is_too_small_is_refused_by_name() {
    let few = cut(&deal(1), &mixes(&[1; 3]), 2).unwrap_err();
    assert_eq!((few.got, few.need), (3, 4));
    assert!(few.to_string().starts_with("the network is too small: 3 mixes"), "{few}");
    assert!(cut(&deal(1), &mixes(&[1; 4]), 2).is_ok());
    for n in [0, 1] {
        assert!(cut(&deal(1), &mixes(&vec![1; n]), 0).is_err());
    }
    let two = mixes(&[1, 1000]);
    assert_eq!(layers(&dealt(1, &two), &two).map(|(n, _)| n), [1, 1]);
}

#[test]
fn every_place_can_be_checked_from_the_consensus_alone() {
    let (whole, part) = consensus(|_| {});
    verify_layers(&whole, &part).unwrap();
    let at = |n: usize| whole.relays()[n].layers[0];
    assert_eq!((at(4), at(8)), (None, None), "one came too late, one has no key");
    assert_eq!((at(9), at(10)), (Some(Position::Edge), Some(Position::Edge)));

    let verify = |change: &dyn Fn(&mut ConsensusBody)| {
        let (consensus, part) = consensus(change);
        verify_layers(&consensus, &part)
    };
    let place_of = |n: usize| Err(WrongLayers::Place { relay: whole.relays()[n].id, key_epoch: KEY_EPOCH.0 });
    let other = if at(0) == Some(Position::Mix1) { Position::Mix2 } else { Position::Mix1 };
    assert_eq!(verify(&|body| body.relays[0].layers[0] = Some(other)), place_of(0));
    assert_eq!(verify(&|body| body.relays[1].layers[0] = None), place_of(1), "left out");
    assert_eq!(verify(&|body| body.relays[4].layers[0] = Some(other)), place_of(4), "let in too late");
    assert_eq!(verify(&|body| body.relays[9].layers[0] = Some(other)), place_of(9), "an edge");
    // The value is another one: some mix or other is misplaced, or the cut is.
    assert!(verify(&|body| body.shared_random.deals[0].random[0] ^= 1).is_err());
    let no_cut = verify(&|body| body.shared_random.deals[0].cut = None);
    assert_eq!(no_cut, Err(WrongLayers::Cut(KEY_EPOCH.0)), "it could have been cut");
    let moved = |body: &mut ConsensusBody| {
        let cut = body.shared_random.deals[0].cut.as_mut().unwrap();
        cut.last.0[31] ^= 1;
    };
    assert_eq!(verify(&moved), Err(WrongLayers::Cut(KEY_EPOCH.0)));
    assert_eq!(verify(&|body| body.shared_random.deals.clear()), Err(WrongLayers::KeyEpoch(KEY_EPOCH.0)));

    // Later, capacities have changed and mixes have gone: places hold, as long as enough are left.
    let later = |body: &mut ConsensusBody| {
        body.epoch = Epoch(61);
        body.relays[2].capacity = 1_000_000;
        body.relays.remove(0);
    };
    assert_eq!(verify(&later), Ok(()));
    let shrunk = verify(&|body| {
        body.epoch = Epoch(61);
        body.relays.retain(|relay| relay.layers[0] != Some(Position::Mix2));
    });
    assert!(matches!(shrunk, Err(WrongLayers::TooFew(few)) if few.need == 4), "{shrunk:?}");
}

#[test]
fn a_value_and_a_cut_are_checked_against_the_consensus_before() {
    // A base in key epoch 10, and its next: the first of key epoch 11, which brings the deal of key epoch 13.
    let deals = (10..13).map(|k| Deal { key_epoch: KeyEpoch(k), ..dealt(7, &mixes(&[5; 9])) }).collect();
    let (base, _) = consensus(|body| {
        body.shared_random.deals = deals;
        body.shared_random.reveals = vec![(known().list()[0].id, [3; 32])];
    });
    let after = |change: &dyn Fn(&mut ConsensusBody)| {
        let mut body = base.body().clone();
        body.valid_after = Wall(660_000);
        body.fresh_until = Wall(670_000);
        body.valid_until = Wall(700_000);
        body.epoch = Epoch(66);
        body.previous = base.hash();
        body.shared_random.deals = deals_after(Some(base.body()), 1, body.valid_after, 60_000, &[]);
        cut_deals(&mut body);
        change(&mut body);
        verify_random(&signed(&body), &base, &known())
    };
    assert_eq!(after(&|_| {}), Ok(()));
    assert_eq!(after(&|body| body.shared_random.deals[2].random[5] ^= 1), Err(WrongLayers::Random(13)));
    assert_eq!(after(&|body| body.shared_random.deals[0].random[5] ^= 1), Err(WrongLayers::Random(11)));
    assert_eq!(after(&|body| body.shared_random.deals[2].origin = Origin::Before), Err(WrongLayers::Random(13)));
    assert_eq!(after(&|body| body.shared_random.deals[2].listed_before = NOW), Err(WrongLayers::Random(13)));
    assert_eq!(after(&|body| body.shared_random.deals[1].cut = None), Err(WrongLayers::Cut(12)));
    let moved = |body: &mut ConsensusBody| body.shared_random.deals[2].cut.as_mut().unwrap().last.0[0] ^= 1;
    assert_eq!(after(&moved), Err(WrongLayers::Cut(13)));
    assert_eq!(after(&|body| body.shared_random.deals.truncate(2)), Err(WrongLayers::Random(11)));
    assert_eq!(after(&|body| body.previous = Hash([9; 32])), Err(WrongLayers::NotNext));
}

proptest! {
    #[test]
    fn capacity_is_as_even_as_the_order_permits(
        capacities in prop::collection::vec(1_u32..1_000, 6..60),
        random in any::<u8>(),
    ) {
        let all = mixes(&capacities);
        let [first, second] = layers(&dealt(random, &all), &all);
        prop_assert_eq!(first.0 + second.0, all.len());
        let least = all.len().div_ceil(3);
        prop_assert!(first.0.min(second.0) >= least);
        // Either the layers differ by no more than one mix makes up, or the smallest number has decided.
        let largest = u64::from(*capacities.iter().max().unwrap());
        prop_assert!(first.1.abs_diff(second.1) <= largest || first.0.min(second.0) == least);
    }

    #[test]
    fn nobody_knows_the_layer_of_a_relay_beforehand(seed in any::<u8>()) {
        let all = mixes(&[1; 12]);
        let random = |n: u8| seed.wrapping_mul(31).wrapping_add(n);
        let places: BTreeSet<_> = (0..64).map(|n| place(&dealt(random(n), &all), &all[3])).collect();
        prop_assert_eq!(places.len(), 2);
    }
}

/// A usable consensus of key epoch 10: four mixes, two edges, all with keys; one part.
fn usable(change: impl FnOnce(&mut ConsensusBody)) -> (Consensus, MixKeys) {
    consensus(|body| {
        body.params.set(parameter::LAYER_MIN, 2);
        change(body);
    })
}

#[test]
fn a_network_that_is_too_small_is_told_from_one_that_lies() {
    let (whole, part) = usable(|_| {});
    verify_usable(&whole, core::slice::from_ref(&part), NOW).unwrap();
    verify_kept(&whole).unwrap();

    let (few, part) = usable(|body| {
        body.epoch = Epoch(61);
        body.relays.retain(|relay| relay.layers[0] != Some(Position::Mix2));
    });
    let small = verify_usable(&few, core::slice::from_ref(&part), NOW).unwrap_err();
    assert!(small.too_small() && small.to_string().starts_with("the network is too small"), "{small}");
    verify_kept(&few).unwrap();

    let (lonely, part) = usable(|body| body.relays.truncate(10));
    let small = verify_usable(&lonely, core::slice::from_ref(&part), NOW).unwrap_err();
    assert_eq!(small, WrongLayers::TooFewEdges { key_epoch: KEY_EPOCH.0, got: 1 });
    assert!(small.too_small());

    let (without, _) = usable(|_| {});
    assert_eq!(
        verify_usable(&without, &[] as &[MixKeys], NOW),
        Err(WrongLayers::KeyEpoch(KEY_EPOCH.0)),
        "no keys for now"
    );

    // A place without a cut, and a cut where none is possible: lies, however small the network is.
    let (lie, part) = usable(|body| body.relays.retain(|relay| relay.layers[0] != Some(Position::Mix2)));
    let wrong = verify_usable(&lie, core::slice::from_ref(&part), NOW).unwrap_err();
    assert_eq!(wrong, WrongLayers::Cut(KEY_EPOCH.0));
    assert!(!wrong.too_small());
    assert_eq!(verify_kept(&lie), Err(WrongLayers::Cut(KEY_EPOCH.0)));
    let (lie, part) = usable(|body| {
        body.relays.drain(2..9);
        body.shared_random.deals[0].cut = None;
    });
    let wrong = verify_usable(&lie, core::slice::from_ref(&part), NOW).unwrap_err();
    assert!(matches!(wrong, WrongLayers::Place { .. }), "{wrong}");
    assert!(verify_kept(&lie).is_err());
}

#[test]
fn what_comes_after_the_consensus_held_is_next_later_a_break_or_refused() {
    let deals = (10..13).map(|k| Deal { key_epoch: KeyEpoch(k), ..dealt(7, &mixes(&[5; 9])) }).collect();
    let (held, _) = consensus(|body| body.shared_random.deals = deals);
    let after = |change: &dyn Fn(&mut ConsensusBody)| {
        let mut body = held.body().clone();
        body.valid_after = body.valid_after + Duration::from_secs(10);
        body.fresh_until = body.fresh_until + Duration::from_secs(10);
        (body.epoch, body.previous) = (held.epoch().next(), held.hash());
        change(&mut body);
        verify_succession(&signed(&body), &held, &known())
    };
    let random = |body: &mut ConsensusBody| body.shared_random.deals[2].random[5] ^= 1;
    assert_eq!(after(&|_| {}), Ok(Succession::Next));
    assert_eq!(after(&random), Err(WrongLayers::Random(12)), "it builds on ours, and has made the value up");
    let older = Err(WrongLayers::NotNewer { got: 60, held: 60 });
    assert_eq!(after(&|body| body.epoch = held.epoch()), older);
    let skipped = |body: &mut ConsensusBody| (body.epoch, body.previous) = (Epoch(63), Hash([9; 32]));
    assert_eq!(after(&skipped), Ok(Succession::Later));
    assert_eq!(after(&|body| body.previous = Hash([9; 32])), Ok(Succession::Break), "an older one was built upon");
    let other = after(&|body| {
        skipped(body);
        random(body);
    });
    assert_eq!(other, Ok(Succession::Break), "another history");
}
