use core::net::SocketAddr;
use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::crypto::signature::SignKey;
use crate::crypto::xwing::{KemPublicKey, KemSecretKey};
use crate::error::{Malformed, Untrusted};
use crate::geometry::Geometry;
use crate::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey};
use crate::now::Wall;
use crate::params::CLIENT_CLOCK_SKEW;
use crate::secret::Secret;

const NOW: Wall = Wall(1_700_000_000_000);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

struct Keys {
    identity: SignKey,
    signing: SignKey,
}

impl Keys {
    fn new(seed: u8) -> Self {
        let key = |n| SignKey::from_seed(&Secret::new([seed.wrapping_mul(2).wrapping_add(n); 32]));
        Self { identity: key(0), signing: key(1) }
    }

    fn certificate(&self, purpose: Purpose) -> Certificate {
        let key = SigningPublicKey(self.signing.public());
        Certificate::issue(&self.identity, purpose, key, NOW - YEAR, NOW + YEAR)
    }
}

fn mix_key(seed: u8) -> KemPublicKey {
    KemSecretKey::from_seed(&Secret::new([seed; 32])).unwrap().public().clone()
}

fn descriptor(keys: &Keys) -> Descriptor {
    let addr = |s: &str| s.parse::<SocketAddr>().unwrap();
    Descriptor {
        certificate: keys.certificate(Purpose::Relay),
        link_key: LinkPublicKey([1; 32]),
        link_addresses: vec![addr("[2001:db8::1]:4433"), addr("192.0.2.1:4433")],
        client_addresses: vec![addr("192.0.2.1:4434")],
        roles: Roles::EDGE,
        family: Some(Family::admit(&keys.signing, &RelayId(keys.identity.public()))),
        operator: OperatorId([5; 16]),
        capacity: 1000,
        protocols: Default::default(),
        published: NOW,
        mix_keys: vec![(KeyEpoch(8), mix_key(8)), (KeyEpoch(7), mix_key(7))],
        extensions: Extensions::default(),
    }
}

fn authorities(keys: &[Keys]) -> Authorities {
    let one = |k: &Keys| Authority {
        id: AuthorityId(k.identity.public()),
        link_key: LinkPublicKey([9; 32]),
        addresses: vec!["127.0.0.1:1".parse().unwrap()],
    };
    Authorities::new(keys.iter().map(one).collect()).unwrap()
}

fn body() -> (ConsensusBody, MixKeys) {
    let mut params = Params::default();
    assert!(params.set(999, 5) && params.set(2, 60_000) && params.set(1, 10_000));
    let mut entries: Vec<RelayEntry> = [(3, Position::Edge), (1, Position::Mix1), (2, Position::Mix2)]
        .map(|(n, position)| RelayEntry {
            id: RelayId([n; 32]),
            link_key: LinkPublicKey([n; 32]),
            link_addresses: vec!["127.0.0.1:5".parse().unwrap()],
            client_addresses: vec![],
            roles: if position == Position::Edge { Roles::EDGE } else { Roles::MIX },
            family: None,
            operator: OperatorId([n; 16]),
            capacity: 7,
            protocols: Default::default(),
            class: Default::default(),
            listed_since: NOW,
            layers: vec![Some(position)],
        })
        .into();
    entries.sort_by_key(|r| r.id);
    let epoch = KeyEpoch(NOW.0 / 60_000);
    let part = MixKeys { key_epoch: epoch, keys: entries.iter().map(|r| (r.id, mix_key(r.id.0[0]))).collect() };
    let body = ConsensusBody {
        geometry: Geometry::DEFAULT,
        epoch: Epoch(NOW.0 / 10_000),
        valid_after: NOW,
        fresh_until: NOW + Duration::from_secs(10),
        valid_until: NOW + Duration::from_secs(40),
        previous: Hash([0; 32]),
        shared_random: SharedRandom::default(),
        params,
        missed: vec![],
        key_epochs: vec![KeyEpochPart { epoch, mix_keys: MixKeys::hash(&part.encode()) }],
        relays: entries,
        extensions: Extensions::default(),
    };
    (body, part)
}

fn signed(body: &ConsensusBody, signers: &[Keys]) -> Vec<u8> {
    let encoded = body.encode();
    let header = body.header(&encoded);
    let mut list: Vec<_> = signers
        .iter()
        .map(|k| ConsensusSignature::sign(&header, k.certificate(Purpose::Authority), &k.signing))
        .collect();
    list.sort_by_key(ConsensusSignature::authority);
    Consensus::assemble(&encoded, &list)
}

fn keys(n: u8) -> Vec<Keys> {
    (1..=n).map(Keys::new).collect()
}

#[test]
fn a_descriptor_comes_back_in_canonical_order() {
    let keys = Keys::new(1);
    let bytes = descriptor(&keys).sign(&keys.signing).unwrap();
    let back = UnverifiedDescriptor::decode(bytes.as_bytes()).unwrap().verify(NOW).unwrap();
    assert_eq!(back.identity(), RelayId(keys.identity.public()));
    assert_eq!(back.mix_keys.iter().map(|(e, _)| e.0).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(back.link_addresses.len(), 2);
    assert_eq!(back.clone().sign(&keys.signing).unwrap(), bytes);
}

#[test]
fn a_descriptor_is_refused_after_any_change_and_outside_its_times() {
    let keys = Keys::new(1);
    let bytes = descriptor(&keys).sign(&keys.signing).unwrap().into_bytes();
    for i in (0..bytes.len()).step_by(97) {
        let mut garbled = bytes.clone();
        garbled[i] ^= 1;
        assert!(UnverifiedDescriptor::decode(&garbled).and_then(|d| d.verify(NOW)).is_err(), "byte {i}");
    }
    let at = |now| UnverifiedDescriptor::decode(&bytes).unwrap().verify(now);
    assert_eq!(at(NOW + YEAR).unwrap_err(), Untrusted::CertificateTime("the relay"));
    assert_eq!(at(NOW - Duration::from_secs(3600)).unwrap_err(), Untrusted::TooEarly("descriptor"));
    let mut other = descriptor(&keys);
    other.certificate = keys.certificate(Purpose::Authority);
    let other = other.sign(&keys.signing).unwrap();
    assert!(UnverifiedDescriptor::decode(other.as_bytes()).unwrap().verify(NOW).is_err(), "an authority's certificate");
}

#[test]
fn a_consensus_needs_more_than_two_thirds() {
    for (n, need) in [(1, 1), (2, 2), (3, 3), (4, 3), (7, 5), (10, 7)] {
        assert_eq!(authorities(&keys(n)).threshold(), need, "of {n}");
    }
    let (all, (body, _)) = (keys(4), body());
    let known = authorities(&all);
    let verify = |bytes: &[u8]| UnverifiedConsensus::decode(bytes)?.verify(&known, NOW, Duration::ZERO);
    let three = signed(&body, &all[..3]);
    let consensus = verify(&three).unwrap();
    assert_eq!(consensus.encode(), three);
    assert_eq!(consensus.hash(), verify(&signed(&body, &all)).unwrap().hash());
    let two = verify(&signed(&body, &all[..2])).unwrap_err();
    assert_eq!(two, Untrusted::TooFewSignatures { got: 2, need: 3 });
    let strangers = signed(&body, &[Keys::new(50), Keys::new(51), Keys::new(52)]);
    assert_eq!(verify(&strangers).unwrap_err(), Untrusted::TooFewSignatures { got: 0, need: 3 });
    let mut garbled = three.clone();
    garbled[60] ^= 1;
    assert!(verify(&garbled).is_err());
    let twice = [Keys::new(1), Keys::new(1), Keys::new(2)];
    assert!(matches!(verify(&signed(&body, &twice)), Err(Untrusted::Malformed(_))), "one authority twice");
}

#[test]
fn a_consensus_has_its_time() {
    let (all, (body, _)) = (keys(1), body());
    let (known, bytes) = (authorities(&all), signed(&body, &all));
    let at = |now, tolerance| UnverifiedConsensus::decode(&bytes).unwrap().verify(&known, now, tolerance);
    let hour = Duration::from_secs(3600);
    assert_eq!(at(NOW - hour, Duration::ZERO).unwrap_err(), Untrusted::TooEarly("consensus"));
    assert_eq!(at(NOW + hour, Duration::ZERO).unwrap_err(), Untrusted::Expired("consensus"));
    assert!(at(NOW - hour, CLIENT_CLOCK_SKEW).is_ok() && at(NOW + hour, CLIENT_CLOCK_SKEW).is_ok());
    assert!(at(NOW + hour * 2, CLIENT_CLOCK_SKEW).is_err());
    let late = NOW + YEAR * 2;
    let mut stale = body;
    (stale.valid_after, stale.fresh_until, stale.valid_until) = (late, late + hour, late + hour * 3);
    let bytes = signed(&stale, &all);
    let e = UnverifiedConsensus::decode(&bytes).unwrap().verify(&known, late, Duration::ZERO).unwrap_err();
    assert_eq!(e, Untrusted::TooFewSignatures { got: 0, need: 1 }, "by an expired key");
}

#[test]
fn a_consensus_answers_questions() {
    let (all, (body, part)) = (keys(1), body());
    let bytes = signed(&body, &all);
    let consensus = UnverifiedConsensus::decode(&bytes).unwrap().verify(&authorities(&all), NOW, YEAR).unwrap();
    let epoch = consensus.key_epoch_at(NOW);
    assert_eq!(epoch, part.key_epoch);
    assert_eq!(consensus.position(&RelayId([1; 32]), epoch), Some(Position::Mix1));
    assert_eq!(consensus.position(&RelayId([1; 32]), epoch.next()), None);
    assert_eq!(consensus.relays_at(epoch, Position::Edge).map(|r| r.id.0[0]).collect::<Vec<_>>(), [3]);
    assert_eq!(consensus.relays_at(epoch.next(), Position::Edge).count(), 0);
    assert!(consensus.relay(&RelayId([4; 32])).is_none());
    assert_eq!(consensus.params().get(999), Some(5), "unknown parameters survive");
    let keys = UnverifiedMixKeys::decode(&part.encode()).unwrap().verify(&consensus).unwrap();
    assert_eq!(keys.get(&RelayId([2; 32])), Some(&mix_key(2)));
    let mut other = part;
    other.keys.pop();
    let e = UnverifiedMixKeys::decode(&other.encode()).unwrap().verify(&consensus).unwrap_err();
    assert!(matches!(e, Untrusted::Hash(_)));
}

#[test]
fn only_one_order_of_relays_is_a_consensus() {
    let (mut body, _) = body();
    body.relays.swap(0, 1);
    let bytes = signed(&body, &keys(1));
    assert_eq!(
        UnverifiedConsensus::decode(&bytes).unwrap_err(),
        Untrusted::Malformed(Malformed::Value("order of relays"))
    );
}

#[test]
fn paths_have_one_direction() {
    let legal_pairs = Position::ALL.iter().flat_map(|a| Position::ALL.map(|b| (*a, b))).filter(|(a, b)| legal(*a, *b));
    assert_eq!(legal_pairs.count(), 3);
    assert!(!legal(Position::Edge, Position::Edge) && !legal(Position::Mix2, Position::Mix1));
}

#[test]
fn votes_and_echoes_are_believed_from_authorities_only() {
    let all = keys(4);
    let (known, voter) = (authorities(&all), &all[0]);
    let held = UnverifiedConsensus::decode(&signed(&body().0, &all)).unwrap().verify_signatures(&known).unwrap();
    let mut vote = Vote {
        certificate: voter.certificate(Purpose::Authority),
        epoch: held.epoch().next(),
        attempt: 0,
        published: NOW,
        newest: Some(held.signed_header()),
        random: RandomItems::default(),
        params: Params::default(),
        relays: vec![VotedRelay { id: RelayId([1; 32]), digest: Hash([2; 32]), class: Default::default() }],
        extensions: Extensions::default(),
    };
    let verify = |bytes: &[u8]| UnverifiedVote::decode(bytes).and_then(|v| v.verify(&known));
    let bytes = vote.sign(&voter.signing);
    assert_eq!(verify(&bytes).unwrap(), vote);
    assert!(verify(&vote.sign(&all[1].signing)).is_err(), "signed by another key");
    let mut proofless = vote.clone();
    proofless.newest.as_mut().unwrap().signatures.truncate(2);
    assert!(matches!(verify(&proofless.sign(&voter.signing)), Err(Untrusted::TooFewSignatures { .. })));
    vote.certificate = Keys::new(60).certificate(Purpose::Authority);
    assert!(verify(&vote.sign(&Keys::new(60).signing)).is_err(), "a stranger");

    let echo = Echo {
        certificate: voter.certificate(Purpose::Authority),
        epoch: Epoch(1),
        attempt: 2,
        published: NOW,
        votes: vec![(AuthorityId(voter.identity.public()), Vote::hash(&bytes))],
    };
    let bytes = echo.sign(&voter.signing);
    assert_eq!(UnverifiedEcho::decode(&bytes).unwrap().verify(&known).unwrap(), echo);
    assert!(UnverifiedEcho::decode(&bytes).unwrap().verify(&authorities(&all[1..])).is_err());
}

#[test]
fn requests_and_replies_come_back() {
    let requests = [
        Request::PostDescriptor(vec![1, 2]),
        Request::GetConsensus { newer_than: Epoch(7) },
        Request::GetMixKeys(Hash([1; 32])),
        Request::GetDescriptors(vec![Hash([1; 32]), Hash([2; 32])]),
        Request::Vote(vec![3]),
        Request::Echo(vec![4]),
        Request::Signature(vec![5]),
        Request::GetVote(Hash([6; 32])),
    ];
    for request in requests {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    for reply in [Reply::Ok(vec![9]), Reply::None, Reply::Refused(Refusal::Busy)] {
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }
    let packed = Reply::pack_descriptors([b"ab".as_slice(), b"c"].into_iter());
    assert_eq!(Reply::descriptors(&packed).unwrap(), [b"ab".as_slice(), b"c"]);
}

#[test]
fn reserved_networks_are_told_apart() {
    let reserved = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "100.64.0.1", "169.254.1.1", "::1", "fe80::1", "fd00::1"];
    assert!(reserved.iter().all(|ip| !is_public(ip.parse().unwrap())));
    assert!(["9.9.9.9", "2620:fe::fe"].iter().all(|ip| is_public(ip.parse().unwrap())));
}

proptest! {
    #[test]
    fn nothing_that_arrives_can_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = UnverifiedConsensus::decode(&bytes);
        let _ = UnverifiedDescriptor::decode(&bytes);
        let _ = UnverifiedMixKeys::decode(&bytes);
        let _ = UnverifiedVote::decode(&bytes);
        let _ = UnverifiedEcho::decode(&bytes);
        let _ = (Request::decode(&bytes), Reply::decode(&bytes), Reply::descriptors(&bytes), Signature::decode(&bytes));
    }
}
