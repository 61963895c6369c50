use core::net::SocketAddr;
use core::time::Duration;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;

use super::*;
use crate::crypto::signature::SignKey;
use crate::crypto::xwing::{KemPublicKey, KemSecretKey};
use crate::document::{
    Authorities, Authority, Certificate, KeyEpochPart, Missed, MixKeys, Params, Purpose, Refusal, Reliability, Reply,
    Request, SharedRandom, Shelf, Speed,
};
use crate::geometry::Geometry;
use crate::ids::{AuthorityId, Epoch, RelayId, SigningPublicKey};
use crate::params::DEFLATE_MAX_RATIO;
use crate::secret::Secret;

const NOW: Wall = Wall(1_700_000_000_000);

/// What a relay in a made-up consensus is like: as small as it can be and still differ in every field.
type Relay = (u8, u8);

fn key(n: u8) -> SignKey {
    SignKey::from_seed(&Secret::new([n; 32]))
}

fn authorities() -> Authorities {
    let one = Authority { id: AuthorityId(key(1).public()), link_key: LinkPublicKey([9; 32]), addresses: vec![] };
    Authorities::new(vec![one]).unwrap()
}

fn mix_key(seed: u8) -> KemPublicKey {
    static KEYS: OnceLock<Vec<KemPublicKey>> = OnceLock::new();
    let made = || (0..8).map(|n| KemSecretKey::from_seed(&Secret::new([n; 32])).unwrap().public().clone()).collect();
    KEYS.get_or_init(made)[usize::from(seed % 8)].clone()
}

fn part(key_epoch: u64, relays: &[Relay]) -> MixKeys {
    let keys = relays.iter().map(|(id, kind)| (RelayId([*id; 32]), mix_key(*kind))).collect();
    MixKeys { key_epoch: KeyEpoch(key_epoch), keys }
}

fn entry((id, kind): Relay, columns: usize) -> RelayEntry {
    let bit = |n: u8| kind >> n & 1;
    let addresses = |n: u8| (0..=bit(n)).map(|i| SocketAddr::from(([10, n, i, id], 4433))).collect();
    RelayEntry {
        id: RelayId([id; 32]),
        link_key: LinkPublicKey([bit(0); 32]),
        link_addresses: addresses(1),
        client_addresses: addresses(2),
        roles: if bit(3) == 0 { Roles::EDGE } else { Roles::MIX },
        family: (bit(4) == 1).then_some([7; 32]),
        operator: OperatorId([bit(5); 16]),
        capacity: bit(6).into(),
        listed_since: Wall(bit(7).into()),
        protocols: Protocols { oldest: 1, newest: 1 + u16::from(bit(6)) },
        class: Class {
            reliability: if bit(5) == 0 { Reliability::Good } else { Reliability::Fair },
            speed: Speed::Usual,
        },
        layers: (0..columns)
            .map(|n| [None, Some(Position::Edge), Some(Position::Mix1)][(n + usize::from(kind)) % 3])
            .collect(),
    }
}

fn consensus(epoch: u64, key_epochs: &[u64], relays: &[Relay]) -> Consensus {
    let body = ConsensusBody {
        geometry: Geometry::DEFAULT,
        epoch: Epoch(epoch),
        valid_after: NOW + Duration::from_secs(epoch),
        fresh_until: NOW + Duration::from_secs(epoch + 1),
        valid_until: NOW + Duration::from_secs(epoch + 4),
        previous: Hash([0; 32]),
        shared_random: SharedRandom::default(),
        params: Params::default(),
        missed: relays
            .iter()
            .filter(|(_, kind)| kind % 5 == 0)
            .map(|(id, _)| Missed { id: RelayId([*id; 32]), listed_since: NOW, from: Epoch(epoch) })
            .collect(),
        key_epochs: key_epochs
            .iter()
            .map(|k| KeyEpochPart { epoch: KeyEpoch(*k), mix_keys: MixKeys::hash(&part(*k, relays).encode()) })
            .collect(),
        relays: relays.iter().map(|relay| entry(*relay, key_epochs.len())).collect(),
        extensions: Extensions::default(),
    };
    let encoded = body.encode();
    let signing = SigningPublicKey(key(2).public());
    let certificate = Certificate::issue(&key(1), Purpose::Authority, signing, Wall(0), Wall(u64::MAX));
    let signature = ConsensusSignature::sign(&body.header(&encoded), certificate, &key(2));
    let bytes = Consensus::assemble(&encoded, &[signature]);
    UnverifiedConsensus::decode(&bytes).unwrap().verify_signatures(&authorities()).unwrap()
}

fn relays() -> impl Strategy<Value = Vec<Relay>> {
    prop::collection::btree_map(0..40_u8, any::<u8>(), 0..30).prop_map(|all| all.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_difference_gives_back_every_byte(
        old in relays(), new in relays(), columns in 0..4_u64, shift in 0..2_u64,
    ) {
        let epochs = |from: u64| (from..from + columns.min(3)).collect::<Vec<_>>();
        let (base, target) = (consensus(5, &epochs(7), &old), consensus(6, &epochs(7 + shift), &new));
        let bytes = ConsensusDiff::between(&base, &target).encode();
        let diff = ConsensusDiff::decode(&bytes).unwrap();
        let again = diff.apply(&base).unwrap().verify_signatures(&authorities()).unwrap();
        prop_assert_eq!(again.encode(), target.encode());
        prop_assert_eq!((diff.base(), diff.hash()), (base.hash(), target.hash()));
        // From another base it leads nowhere.
        prop_assert_eq!(diff.apply(&target).unwrap_err(), Untrusted::Hash("the base of a difference"));
        prop_assert_eq!(ConsensusDiff::from_content(&base, diff.content()), Ok(diff));
    }

    #[test]
    fn a_content_has_one_encoding(old in relays(), new in relays(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let (base, target) = (consensus(5, &[7, 8], &old), consensus(6, &[8, 9], &new));
        let mut content = ConsensusDiff::between(&base, &target).content().to_vec();
        let at = at.index(content.len());
        content[at] ^= flip;
        if let Ok(changed) = ConsensusDiff::from_content(&base, &content) {
            // The signature doesn't fit any more, but for that it is a consensus, and this is the difference to it.
            let (body, signatures) = rebuild(base.body(), &content).unwrap();
            prop_assert_eq!(super::content(base.body(), &body, &signatures), content);
            prop_assert!(changed.apply(&base).is_ok());
        }
    }

    #[test]
    fn mix_keys_come_back_too(old in relays(), new in relays()) {
        let (base, target) = (part(7, &old), part(7, &new));
        let bytes = MixKeysDiff::between(&base.encode(), &target.encode()).unwrap();
        let diff = MixKeysDiff::decode(&bytes).unwrap();
        prop_assert_eq!(diff.encode(), bytes);
        let bound = consensus(6, &[7], &new);
        prop_assert_eq!(diff.apply(&base).unwrap().verify(&bound).unwrap(), target.clone());
        if old != new {
            prop_assert_eq!(diff.apply(&target).unwrap_err(), Untrusted::Hash("the base of a difference"));
        }
        prop_assert_eq!(MixKeysDiff::between(&base.encode(), &part(8, &new).encode()), None);
    }
}

#[test]
fn a_hostile_difference_is_refused_before_it_finds_room() {
    let (base, target) = (consensus(5, &[7], &[(1, 0), (2, 1)]), consensus(6, &[7], &[(2, 1), (3, 5)]));
    let good = ConsensusDiff::between(&base, &target).encode();
    // Says that it is longer than any consensus, or than it can become.
    let stated = |length: u32| {
        let mut bytes = good.clone();
        bytes[66..70].copy_from_slice(&length.to_le_bytes());
        ConsensusDiff::decode(&bytes).unwrap_err()
    };
    let too_long = Untrusted::Malformed(Malformed::TooLong(WHAT));
    assert_eq!(stated(u32::try_from(MAX_CONSENSUS_LEN).unwrap() + 1), too_long);
    assert_eq!(stated(u32::try_from((good.len() - 70) * DEFLATE_MAX_RATIO).unwrap() + 1), too_long);
    assert_eq!(stated(1), too_long, "more comes than was said");
    assert_eq!(ConsensusDiff::decode(&vec![0; MAX_CONSENSUS_DIFF_LEN + 1]).unwrap_err(), too_long);
    // A bomb: well packed, and its lists claim more than there is.
    let mut bomb = good[..66].to_vec();
    bomb.extend(u32::try_from(MAX_CONSENSUS_LEN).unwrap().to_le_bytes());
    bomb.extend(pack::deflate(&vec![0xff; MAX_CONSENSUS_LEN]));
    assert!(bomb.len() < 10_000);
    assert!(ConsensusDiff::decode(&bomb).unwrap().apply(&base).is_err());
    // Another hash than what comes of it.
    let mut other = good;
    other[40] ^= 1;
    let refused = ConsensusDiff::decode(&other).unwrap().apply(&base).unwrap_err();
    assert_eq!(refused, Untrusted::Hash("what a difference leads to"));
}

#[test]
fn a_shelf_offers_what_it_can_and_says_when_the_whole_must_do() {
    let mut shelf = Shelf::default();
    let lists: Vec<Vec<Relay>> = (0..8_u8).map(|n| (n..n + 20).map(|id| (id, id)).collect()).collect();
    let all: Vec<_> = (5..).zip(&lists).map(|(epoch, list)| Arc::new(consensus(epoch, &[7], list))).collect();
    let ask = |shelf: &Shelf, request: Request| shelf.answer(&request).unwrap();
    assert_eq!(ask(&shelf, Request::GetConsensus { newer_than: Epoch(0) }), Reply::None);
    assert_eq!(ask(&shelf, Request::GetConsensusDiff { base: all[0].hash() }), Reply::None);
    for (consensus, list) in all.iter().zip(&lists) {
        let bytes = part(7, list).encode();
        shelf.put(Arc::clone(consensus), vec![(MixKeys::hash(&bytes), bytes.into())]);
    }
    shelf.put(Arc::clone(&all[0]), vec![]);
    assert_eq!(shelf.newest().unwrap().hash(), all[7].hash(), "an older one changes nothing");
    assert_eq!(ask(&shelf, Request::GetConsensusDiff { base: all[7].hash() }), Reply::None);
    assert_eq!(ask(&shelf, Request::GetConsensusDiff { base: all[2].hash() }), Reply::Refused(Refusal::Base));
    for base in &all[3..7] {
        let Reply::Ok(diff) = ask(&shelf, Request::GetConsensusDiff { base: base.hash() }) else { panic!("none") };
        let made =
            ConsensusDiff::decode(&diff).unwrap().apply(base).unwrap().verify_signatures(&authorities()).unwrap();
        assert_eq!(made.encode(), all[7].encode());
    }
    let to = all[7].mix_keys_hash(KeyEpoch(7)).unwrap();
    let mix_keys = |base: Hash| ask(&shelf, Request::GetMixKeysDiff { base, to });
    assert_eq!(mix_keys(Hash([1; 32])), Reply::Refused(Refusal::Base));
    let held = part(7, &lists[2]);
    let Reply::Ok(content) = mix_keys(MixKeys::hash(&held.encode())) else { panic!("none") };
    assert_eq!(MixKeysDiff::unpack(&content).unwrap().len(), 5);
    let made = MixKeysDiff::apply_all(&content, &held).unwrap().verify(&all[7]).unwrap();
    assert_eq!(made, part(7, &lists[7]));
    assert!(MixKeysDiff::apply_all(&MixKeysDiff::pack([].into_iter()), &held).is_err(), "no difference leads nowhere");
    let Reply::Ok(whole) = ask(&shelf, Request::GetMixKeys(to)) else { panic!("none") };
    assert_eq!(*whole, *made.encode());
    assert_eq!(shelf.answer(&Request::GetRound), None);
}
