//! `documents.json`: what is signed, and what binds it. Requests and replies: `requests`.

use core::net::SocketAddr;
use core::time::Duration;

use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{
    Authorities, Authority, Certificate, Class, Consensus, ConsensusBody, ConsensusSignature, Cut, Deal, Descriptor,
    Echo, Evidence, EvidenceKind, Extensions, Family, Header, KeyEpochPart, Missed, MixKeys, Origin, Params, Position,
    Proposal, Protocols, Purpose, RandomItems, RelayEntry, Reliability, Reveal, Roles, RoundReport, SharedRandom,
    Signature, SignedHeader, Speed, UnverifiedConsensus, Vote, VoteReport, VoteState, VotedRelay, Withdrawal,
    commits_close, random_commit, random_value,
};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::registry::parameter;
use posta_protocol::secret::Secret;

use crate::describe;
use crate::hops::secret;
use crate::json::{Json, hex, object};
use crate::recorder::Recorder;

pub(crate) const NOW: Wall = Wall(1_700_000_000_000);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The current key epoch of the vectors' consensus.
const KEY_EPOCH: KeyEpoch = KeyEpoch(28_333_333);

pub(crate) struct Keys {
    pub(crate) identity_seed: [u8; 32],
    pub(crate) signing_seed: [u8; 32],
}

impl Keys {
    pub(crate) fn new(name: &str) -> Self {
        let rng = &mut Recorder::new("documents", &format!("keys of {name}"));
        Self { identity_seed: rng.array(), signing_seed: rng.array() }
    }

    pub(crate) fn identity(&self) -> [u8; 32] {
        self.sign_key(true).public()
    }

    pub(crate) fn signing(&self) -> SignKey {
        self.sign_key(false)
    }

    fn sign_key(&self, identity: bool) -> SignKey {
        SignKey::from_seed(&Secret::new(if identity { self.identity_seed } else { self.signing_seed }))
    }

    pub(crate) fn certificate(&self, purpose: Purpose) -> Certificate {
        let key = SigningPublicKey(self.signing().public());
        Certificate::issue(&self.sign_key(true), purpose, key, NOW - YEAR, NOW + YEAR)
    }

    pub(crate) fn json(&self) -> Json {
        object! { "identity_seed": self.identity_seed, "signing_seed": self.signing_seed }
    }
}

/// Four of them: three make a consensus.
pub(crate) fn authority_keys() -> Vec<Keys> {
    ["an authority", "another authority", "a third authority", "a fourth authority"].map(Keys::new).into()
}

pub(crate) fn authorities(ids: impl Iterator<Item = [u8; 32]>) -> Authorities {
    let one = |id| Authority { id: AuthorityId(id), link_key: LinkPublicKey([0; 32]), addresses: Vec::new() };
    Authorities::new(ids.map(one).collect()).unwrap()
}

fn known() -> Authorities {
    authorities(authority_keys().iter().map(Keys::identity))
}

pub(crate) fn known_json() -> Vec<Json> {
    known().list().iter().map(|a| a.id.0.into()).collect()
}

pub(crate) fn make() -> Vec<Json> {
    let mut all = vec![
        certificate("a relay's certificate", "an edge", Purpose::Relay),
        certificate("an authority's certificate", "an authority", Purpose::Authority),
        signed_descriptor("an edge's descriptor", &Keys::new("an edge"), edge()),
        signed_descriptor("a mix' descriptor, with nothing that may be left out", &Keys::new("a mix"), mix()),
        mix_keys_json(),
        body_json(),
        signature_json(),
        consensus_json("a consensus signed by three of four", 3),
        consensus_json("the same consensus signed by all four", 4),
        vote_json("a first vote", &first_vote()),
        vote_json("a vote that knows a consensus", &vote()),
        echo_json(),
        withdrawal_json(),
        proposal_json(),
        report_json(),
    ];
    all.extend(evidence_json());
    all.extend([1, 2, 3, 4, 7, 9, 10, 32].map(threshold));
    all
}

fn certificate(name: &str, whose: &str, purpose: Purpose) -> Json {
    let keys = Keys::new(whose);
    let certificate = keys.certificate(purpose);
    object! {
        "name": name, "kind": "certificate", "keys": keys.json(), "fields": describe::certificate(&certificate),
        "bytes": certificate.encode(),
    }
}

fn addresses<const N: usize>(list: [&str; N]) -> Vec<SocketAddr> {
    list.iter().map(|a| a.parse().unwrap()).collect()
}

fn extensions(bytes: &[u8]) -> Extensions {
    let mut extensions = Extensions::default();
    extensions.set(7, bytes.to_vec()).unwrap();
    extensions.set(40_000, Vec::new()).unwrap();
    extensions
}

pub(crate) fn edge() -> Descriptor {
    let rng = &mut Recorder::new("documents", "an edge");
    let mut key = |epoch| (epoch, secret(&rng.array()).public().clone());
    Descriptor {
        certificate: Keys::new("an edge").certificate(Purpose::Relay),
        mix_keys: vec![key(KEY_EPOCH), key(KEY_EPOCH.next())],
        link_key: LinkPublicKey(rng.array()),
        link_addresses: addresses(["192.0.2.1:4433", "[2001:db8::1]:4433"]),
        client_addresses: addresses(["192.0.2.1:4434"]),
        roles: Roles { edge: true, mix: true, retiring: true },
        family: Some(Family::admit(
            &SignKey::from_seed(&Secret::new(rng.array())),
            &RelayId(Keys::new("an edge").identity()),
        )),
        operator: OperatorId(rng.array()),
        capacity: 1_000,
        protocols: Protocols { oldest: 1, newest: 2 },
        published: NOW,
        extensions: extensions(b"of a later version"),
    }
}

fn mix() -> Descriptor {
    let rng = &mut Recorder::new("documents", "a mix");
    Descriptor {
        certificate: Keys::new("a mix").certificate(Purpose::Relay),
        link_key: LinkPublicKey(rng.array()),
        link_addresses: Vec::new(),
        client_addresses: Vec::new(),
        roles: Roles::MIX,
        family: None,
        operator: OperatorId(rng.array()),
        capacity: 0,
        protocols: Protocols::default(),
        published: NOW,
        mix_keys: Vec::new(),
        extensions: Extensions::default(),
    }
}

fn signed_descriptor(name: &str, keys: &Keys, descriptor: Descriptor) -> Json {
    let fields = describe::descriptor(&descriptor);
    let signed = descriptor.sign(&keys.signing()).unwrap();
    object! {
        "name": name, "kind": "descriptor", "keys": keys.json(), "at_ms": NOW.0, "fields": fields,
        "bytes": signed.as_bytes(), "hash": signed.digest().0,
    }
}

/// Relays of the consensus, sorted.
fn relay_ids() -> Vec<RelayId> {
    let mut ids: Vec<_> = (0..5).map(|i| RelayId(Keys::new(&format!("relay {i}")).identity())).collect();
    ids.sort_unstable();
    ids
}

pub(crate) fn mix_keys(epoch: KeyEpoch) -> MixKeys {
    let key = |id: &RelayId| {
        let name = format!("mix key {} of {}", epoch.0, hex(&id.0));
        (*id, secret(&Recorder::new("documents", &name).array()).public().clone())
    };
    MixKeys { key_epoch: epoch, keys: relay_ids().iter().take(2).map(key).collect() }
}

fn mix_keys_json() -> Json {
    let part = mix_keys(KEY_EPOCH);
    let bytes = part.encode();
    object! {
        "name": "mix keys", "kind": "mix keys", "fields": describe::mix_keys(&part), "hash": MixKeys::hash(&bytes).0,
        "bytes": bytes,
    }
}

/// Deals of each origin, one that is not cut; three commits, two reveals, and one authority left out.
fn shared_random(rng: &mut Recorder) -> SharedRandom {
    let mut reveals: Vec<_> = known().list().iter().map(|a| (a.id, rng.array())).collect();
    let left_out = reveals.pop().map(|(id, _)| id).into_iter().collect();
    let commits = reveals.iter().map(|(id, reveal)| (*id, random_commit(id, KEY_EPOCH, reveal))).collect();
    reveals.pop();
    let mut before = rng.array();
    let mut deal = |ahead, origin, given: &[(AuthorityId, Reveal)], cut| {
        let key_epoch = KeyEpoch(KEY_EPOCH.0 + ahead);
        before = random_value(origin, &before, key_epoch, given);
        let closed = KeyEpoch(key_epoch.0.saturating_sub(3));
        Deal { key_epoch, random: before, origin, listed_before: commits_close(closed, 21_600_000), cut }
    };
    let cut = Cut { dealt: Epoch(472_221), last: Hash(rng.array()) };
    let deals = vec![
        deal(0, Origin::FirstVotes, &reveals, Some(cut)),
        deal(1, Origin::Reveals, &reveals, Some(cut)),
        deal(2, Origin::Before, &[], None),
    ];
    SharedRandom { deals, left_out, commits, reveals }
}

pub(crate) fn body() -> ConsensusBody {
    let rng = &mut Recorder::new("documents", "a consensus");
    let mut params = Params::default();
    // Every parameter that has a number, and one that only a later version knows.
    for (i, code) in parameter::ALL.iter().map(|(_, code)| *code).chain([999]).enumerate() {
        assert!(params.set(code, 1_000 * (i as u64 + 1)));
    }
    let (m1, m2, edge) = (Some(Position::Mix1), Some(Position::Mix2), Some(Position::Edge));
    let layers = [[m1, m2], [m2, m1], [edge, edge], [None, edge], [edge, None]];
    let relay = |(id, layers): (RelayId, [Option<Position>; 2])| RelayEntry {
        id,
        link_key: LinkPublicKey(rng.array()),
        link_addresses: addresses(["192.0.2.7:4433", "[2001:db8::7]:4433"]),
        client_addresses: if layers.contains(&edge) { addresses(["192.0.2.7:4434"]) } else { Vec::new() },
        roles: if layers.contains(&edge) { Roles::EDGE } else { Roles::MIX },
        family: layers.contains(&m1).then(|| rng.array()),
        operator: OperatorId(rng.array()),
        capacity: 500,
        protocols: Protocols::default(),
        class: if layers.contains(&m1) {
            Class { reliability: Reliability::Good, speed: Speed::Usual }
        } else {
            Class::default()
        },
        listed_since: NOW,
        layers: layers.into(),
    };
    let relays = relay_ids().into_iter().zip(layers).map(relay).collect();
    let part = |epoch| KeyEpochPart { epoch, mix_keys: MixKeys::hash(&mix_keys(epoch).encode()) };
    ConsensusBody {
        geometry: Geometry::DEFAULT,
        epoch: Epoch(472_222),
        valid_after: NOW,
        fresh_until: NOW + Duration::from_secs(3600),
        valid_until: NOW + Duration::from_secs(4 * 3600),
        previous: Hash(rng.array()),
        shared_random: shared_random(rng),
        params,
        missed: vec![Missed { id: RelayId(rng.array()), listed_since: NOW, from: Epoch(472_221) }],
        key_epochs: vec![part(KEY_EPOCH), part(KEY_EPOCH.next())],
        relays,
        extensions: extensions(b"commits"),
    }
}

fn body_json() -> Json {
    let body = body();
    let bytes = body.encode();
    let header = body.header(&bytes);
    object! {
        "name": "a consensus' body and header", "kind": "consensus body", "fields": describe::body(&body),
        "bytes": bytes, "header": describe::header(&header), "header_bytes": header_bytes(&header),
    }
}

/// The header's own encoding: what stands in front of a signature message.
fn header_bytes(header: &Header) -> Vec<u8> {
    let keys = Keys::new("an authority");
    let signature = ConsensusSignature::sign(header, keys.certificate(Purpose::Authority), &keys.signing());
    Signature { header: *header, signature }.encode()[..Header::LEN].to_vec()
}

fn signature_json() -> Json {
    let (keys, body) = (Keys::new("an authority"), body());
    let header = body.header(&body.encode());
    let signature = ConsensusSignature::sign(&header, keys.certificate(Purpose::Authority), &keys.signing());
    object! {
        "name": "an authority's signature, as it is sent", "kind": "signature", "keys": keys.json(),
        "authorities": known_json(), "header": describe::header(&header),
        "bytes": Signature { header, signature }.encode(),
    }
}

/// The body signed by the first `n` authorities, sorted as it must be.
pub(crate) fn signed(body: &ConsensusBody, signers: &[Keys]) -> Vec<u8> {
    let encoded = body.encode();
    let header = body.header(&encoded);
    let sign = |k: &Keys| ConsensusSignature::sign(&header, k.certificate(Purpose::Authority), &k.signing());
    let mut list: Vec<_> = signers.iter().map(sign).collect();
    list.sort_by_key(ConsensusSignature::authority);
    Consensus::assemble(&encoded, &list)
}

fn consensus_json(name: &str, signers: usize) -> Json {
    let (all, body) = (authority_keys(), body());
    object! {
        "name": name, "kind": "consensus", "authorities": known_json(), "at_ms": NOW.0,
        "signed_by": all[..signers].iter().map(Keys::json).collect::<Vec<_>>(),
        "hash": body.header(&body.encode()).hash.0, "bytes": signed(&body, &all[..signers]),
    }
}

pub(crate) fn first_vote() -> Vote {
    let rng = &mut Recorder::new("documents", "a vote");
    let voter = AuthorityId(Keys::new("an authority").identity());
    Vote {
        certificate: Keys::new("an authority").certificate(Purpose::Authority),
        epoch: body().epoch.next(),
        attempt: 0,
        published: NOW + Duration::from_secs(1800),
        newest: None,
        random: RandomItems {
            key_epoch: KEY_EPOCH,
            commits: vec![(voter, random_commit(&voter, KEY_EPOCH, &rng.array()))],
            reveals: Vec::new(),
        },
        params: Params::default(),
        relays: Vec::new(),
        extensions: Extensions::default(),
    }
}

fn vote() -> Vote {
    let rng = &mut Recorder::new("documents", "a vote's relays");
    let relay = |id| VotedRelay {
        id,
        digest: Hash(rng.array()),
        class: Class { reliability: Reliability::Fair, speed: Speed::Slow },
    };
    let relays = relay_ids().into_iter().map(relay).collect();
    let (bytes, extensions) = (signed(&body(), &authority_keys()[..3]), extensions(b"reveals"));
    let newest: SignedHeader =
        UnverifiedConsensus::decode(&bytes).unwrap().verify_signatures(&known()).unwrap().signed_header();
    let random = RandomItems { reveals: body().shared_random.reveals, commits: Vec::new(), key_epoch: KEY_EPOCH };
    Vote { attempt: 3, newest: Some(newest), random, params: body().params, relays, extensions, ..first_vote() }
}

fn vote_json(name: &str, vote: &Vote) -> Json {
    let keys = Keys::new("an authority");
    let bytes = vote.sign(&keys.signing());
    object! {
        "name": name, "kind": "vote", "keys": keys.json(), "authorities": known_json(),
        "fields": describe::vote(vote), "hash": Vote::hash(&bytes).0, "bytes": bytes,
    }
}

pub(crate) fn echo() -> Echo {
    let rng = &mut Recorder::new("documents", "an echo");
    let votes = known().list().iter().take(3).map(|a| (a.id, Hash(rng.array()))).collect();
    let Vote { certificate, epoch, published, .. } = first_vote();
    Echo { certificate, epoch, attempt: 1, published, votes }
}

fn echo_json() -> Json {
    let (keys, echo) = (Keys::new("an authority"), echo());
    object! {
        "name": "an echo", "kind": "echo", "keys": keys.json(), "authorities": known_json(),
        "fields": describe::echo(&echo), "bytes": echo.sign(&keys.signing()),
    }
}

pub(crate) fn withdrawal() -> Withdrawal {
    Withdrawal { certificate: Keys::new("an edge").certificate(Purpose::Relay), published: NOW }
}

fn withdrawal_json() -> Json {
    let keys = Keys::new("an edge");
    object! {
        "name": "an edge's withdrawal", "kind": "withdrawal", "keys": keys.json(), "at_ms": NOW.0,
        "fields": describe::withdrawal(&withdrawal()), "bytes": withdrawal().sign(&keys.signing()).unwrap(),
    }
}

/// Three votes, named by the echoes of three of four.
pub(crate) fn proposal() -> Proposal {
    let Echo { certificate, epoch, attempt, published, votes } = echo();
    let one = |keys: &Keys| {
        let echo = Echo { certificate: keys.certificate(Purpose::Authority), ..echo() };
        (keys.identity(), echo.sign(&keys.signing()))
    };
    let mut echoes: Vec<_> = authority_keys()[..3].iter().map(one).collect();
    echoes.sort_unstable();
    let echoes = echoes.into_iter().map(|(_, bytes)| bytes).collect();
    Proposal { certificate, epoch, attempt, published, votes, echoes }
}

fn proposal_json() -> Json {
    let keys = Keys::new("an authority");
    object! {
        "name": "a proposal", "kind": "proposal", "keys": keys.json(), "authorities": known_json(),
        "fields": describe::proposal(&proposal()), "bytes": proposal().sign(&keys.signing()),
    }
}

/// Two things that exclude each other, of each kind.
pub(crate) fn contradictions() -> Vec<(&'static str, EvidenceKind, Vec<u8>, Vec<u8>)> {
    let (all, one) = (authority_keys(), Keys::new("an authority"));
    let mut other = body();
    other.valid_until = other.valid_until + Duration::from_secs(1);
    let header = |body: &ConsensusBody| body.header(&body.encode());
    let decoded = |bytes: &[u8]| UnverifiedConsensus::decode(bytes).unwrap().verify_signatures(&known()).unwrap();
    let signed_header = |body: &ConsensusBody, by: &[Keys]| decoded(&signed(body, by)).signed_header().encode();
    let certificate = one.certificate(Purpose::Authority);
    let signature = |header: Header| {
        Signature { header, signature: ConsensusSignature::sign(&header, certificate, &one.signing()) }.encode()
    };
    let later = Vote { published: NOW + Duration::from_secs(1801), ..first_vote() };
    vec![
        (
            "two consensuses",
            EvidenceKind::Consensuses,
            signed_header(&body(), &all[..3]),
            signed_header(&other, &all[1..]),
        ),
        ("two votes", EvidenceKind::Votes, first_vote().sign(&one.signing()), later.sign(&one.signing())),
        ("two signatures", EvidenceKind::Signatures, signature(header(&body())), signature(header(&other))),
    ]
}

fn evidence_json() -> Vec<Json> {
    let one = |(name, kind, one, other): (&str, EvidenceKind, Vec<u8>, Vec<u8>)| {
        let evidence = Evidence::new(kind, &one, &other, &known()).unwrap();
        object! {
            "name": format!("evidence: {name}"), "kind": "evidence", "authorities": known_json(), "one": one,
            "other": other, "fields": describe::evidence(&evidence), "hash": evidence.hash().0,
            "bytes": evidence.encode(),
        }
    };
    contradictions().into_iter().map(one).collect()
}

pub(crate) fn report() -> RoundReport {
    let rng = &mut Recorder::new("documents", "a report");
    let states = [VoteState::Counted, VoteState::NotCounted, VoteState::Twice];
    let vote = |(a, state): (&Authority, VoteState)| VoteReport { voter: a.id, hash: Hash(rng.array()), state };
    RoundReport { epoch: body().epoch, attempt: 1, votes: known().list().iter().zip(states).map(vote).collect() }
}

fn report_json() -> Json {
    object! {
        "name": "a report of a round", "kind": "round report", "fields": describe::report(&report()),
        "bytes": report().encode(),
    }
}

fn threshold(n: u8) -> Json {
    let list = authorities((0..n).map(|i| [i; 32]));
    object! {
        "name": format!("signatures needed of {n} authorities"), "kind": "authorities", "count": list.len(),
        "threshold": list.threshold(), "one_honest": list.one_honest(),
    }
}
