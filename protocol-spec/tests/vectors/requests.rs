//! `documents.json`: requests to an authority and its replies; and all of that file read back.

use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{
    Certificate, Consensus, ConsensusSignature, Evidence, Purpose, Refusal, Reply, Request, RoundReport, Signature,
    UnverifiedConsensus, UnverifiedDescriptor, UnverifiedEcho, UnverifiedEvidence, UnverifiedMixKeys,
    UnverifiedProposal, UnverifiedVote, UnverifiedWithdrawal,
};
use posta_protocol::ids::{Epoch, Hash};
use posta_protocol::now::Wall;
use posta_protocol::params::CLIENT_CLOCK_SKEW;
use posta_protocol::registry::{directory, directory_answer, refusal};
use posta_protocol::secret::Secret;
use serde_json::Value;

use crate::describe;
use crate::documents::authorities;
use crate::files::{name, of_kind};
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

pub(crate) fn make() -> Vec<Json> {
    let rng = &mut Recorder::new("documents", "requests");
    let mut all: Vec<Json> = [
        ("post a descriptor", Request::PostDescriptor(rng.bytes(30))),
        ("get the newest consensus", Request::GetConsensus { newer_than: Epoch(472_221) }),
        ("get mix keys", Request::GetMixKeys(Hash(rng.array()))),
        ("get two descriptors", Request::GetDescriptors(vec![Hash(rng.array()), Hash(rng.array())])),
        ("post a vote", Request::Vote(rng.bytes(30))),
        ("post an echo", Request::Echo(rng.bytes(30))),
        ("post a signature", Request::Signature(rng.bytes(30))),
        ("get a vote", Request::GetVote(Hash(rng.array()))),
        ("post a withdrawal", Request::Withdraw(rng.bytes(30))),
        ("post a proposal", Request::Proposal(rng.bytes(30))),
        ("get the report of the last round", Request::GetRound),
        ("get the difference from a consensus", Request::GetConsensusDiff { base: Hash(rng.array()) }),
        (
            "get the difference from mix keys",
            Request::GetMixKeysDiff { base: Hash(rng.array()), to: Hash(rng.array()) },
        ),
        ("dial my address for clients", Request::Reach { client: true, address: "192.0.2.7:4434".parse().unwrap() }),
        (
            "dial my address for relays",
            Request::Reach { client: false, address: "[2001:db8::7]:4433".parse().unwrap() },
        ),
    ]
    .map(|(name, request)| request_json(name, &request))
    .into();
    all.extend(
        [
            ("accepted", Reply::Ok(Vec::new())),
            ("here it is", Reply::Ok(rng.bytes(30))),
            ("there is none", Reply::None),
            ("malformed", Reply::Refused(Refusal::Malformed)),
            ("untrusted", Reply::Refused(Refusal::Untrusted)),
            ("outdated", Reply::Refused(Refusal::Outdated)),
            ("busy", Reply::Refused(Refusal::Busy)),
            ("full", Reply::Refused(Refusal::Full)),
            ("address", Reply::Refused(Refusal::Address)),
            ("not an authority", Reply::Refused(Refusal::NotAuthority)),
            ("round", Reply::Refused(Refusal::Round)),
            ("unsupported", Reply::Refused(Refusal::Unsupported)),
            ("no difference from that", Reply::Refused(Refusal::Base)),
            ("not admitted", Reply::Refused(Refusal::Policy)),
        ]
        .map(|(name, reply)| reply_json(&format!("reply: {name}"), &reply)),
    );
    let later = object! {
        "name": "reply: a reason of a later version counts as unsupported", "kind": "later refusal",
        "code": directory_answer::REFUSED, "bytes": [directory_answer::REFUSED, 200],
    };
    all.extend([later, packed("no descriptors", &[]), packed("two descriptors", &[rng.bytes(20), rng.bytes(3)])]);
    all
}

fn request_json(name: &str, request: &Request) -> Json {
    let (code, fields) = match request {
        Request::PostDescriptor(content) => (directory::POST_DESCRIPTOR, object! { "content": content.clone() }),
        Request::GetConsensus { newer_than } => (directory::GET_CONSENSUS, object! { "newer_than": newer_than.0 }),
        Request::GetMixKeys(hash) => (directory::GET_MIX_KEYS, object! { "hash": hash.0 }),
        Request::GetDescriptors(list) => {
            let hashes = list.iter().map(|h| Json::from(h.0)).collect::<Vec<_>>();
            (directory::GET_DESCRIPTOR, object! { "hashes": hashes })
        }
        Request::Vote(content) => (directory::VOTE, object! { "content": content.clone() }),
        Request::Echo(content) => (directory::ECHO, object! { "content": content.clone() }),
        Request::Signature(content) => (directory::SIGNATURE, object! { "content": content.clone() }),
        Request::GetVote(hash) => (directory::GET_VOTE, object! { "hash": hash.0 }),
        Request::Withdraw(content) => (directory::WITHDRAW, object! { "content": content.clone() }),
        Request::Proposal(content) => (directory::PROPOSAL, object! { "content": content.clone() }),
        Request::GetRound => (directory::GET_ROUND, object! {}),
        Request::GetConsensusDiff { base } => (directory::GET_CONSENSUS_DIFF, object! { "base": base.0 }),
        Request::GetMixKeysDiff { base, to } => (directory::GET_MIX_KEYS_DIFF, object! { "base": base.0, "to": to.0 }),
        Request::Reach { client, address } => {
            let addresses = Json::from(describe::addresses(&[*address]));
            (directory::REACH, object! { "client": *client, "addresses": addresses })
        }
    };
    object! { "name": name, "kind": "request", "code": code, "fields": fields, "bytes": request.encode() }
}

fn reply_json(name: &str, reply: &Reply) -> Json {
    let (code, fields) = match reply {
        Reply::Ok(content) => (directory_answer::OK, object! { "content": content.clone() }),
        Reply::None => (directory_answer::NONE, object! {}),
        Reply::Refused(why) => (directory_answer::REFUSED, object! { "refusal": refusal_code(*why) }),
    };
    object! { "name": name, "kind": "reply", "code": code, "fields": fields, "bytes": reply.encode() }
}

fn refusal_code(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Malformed => refusal::MALFORMED,
        Refusal::Untrusted => refusal::UNTRUSTED,
        Refusal::Outdated => refusal::OUTDATED,
        Refusal::Busy => refusal::BUSY,
        Refusal::Full => refusal::FULL,
        Refusal::Address => refusal::ADDRESS,
        Refusal::NotAuthority => refusal::NOT_AUTHORITY,
        Refusal::Round => refusal::ROUND,
        Refusal::Unsupported => refusal::UNSUPPORTED,
        Refusal::Policy => refusal::POLICY,
        Refusal::Base => refusal::BASE,
        other => panic!("{other:?} has no number here yet"),
    }
}

fn packed(name: &str, list: &[Vec<u8>]) -> Json {
    object! {
        "name": format!("a reply's content: {name}"), "kind": "descriptors",
        "descriptors": list.iter().map(|d| Json::from(d.as_slice())).collect::<Vec<_>>(),
        "bytes": Reply::pack_descriptors(list.iter().map(Vec::as_slice)),
    }
}

fn key(of: &Value, which: &str) -> SignKey {
    SignKey::from_seed(&Secret::new(of.at(which).array()))
}

fn known(vector: &Value) -> posta_protocol::document::Authorities {
    authorities(vector.at("authorities").items().iter().map(Fields::array))
}

#[test]
fn certificates_and_descriptors_verify_from_the_file_alone() {
    for vector in of_kind("documents", "certificate") {
        let decoded = Certificate::decode(&vector.at("bytes").bytes()).unwrap();
        assert_eq!(&describe::certificate(&decoded).value(), vector.at("fields"));
        let Certificate { purpose, key: signing, not_before, expires, .. } = decoded;
        decoded.verify(purpose, not_before, "it").unwrap();
        let identity = key(vector.at("keys"), "identity_seed");
        assert_eq!(Certificate::issue(&identity, purpose, signing, not_before, expires), decoded);
        assert_eq!(key(vector.at("keys"), "signing_seed").public(), signing.0);
    }
    for vector in of_kind("documents", "descriptor") {
        let bytes = vector.at("bytes").bytes();
        let verified = UnverifiedDescriptor::decode(&bytes).unwrap().verify(Wall(vector.at("at_ms").number())).unwrap();
        assert_eq!(&describe::descriptor(&verified).value(), vector.at("fields"));
        let again = verified.sign(&key(vector.at("keys"), "signing_seed")).unwrap();
        assert_eq!((again.as_bytes(), again.digest().0), (bytes.as_slice(), vector.at("hash").array()));
    }
}

#[test]
fn the_consensus_and_its_mix_keys_verify_from_the_file_alone() {
    let body = &of_kind("documents", "consensus body")[0];
    let mut held = Vec::new();
    for vector in of_kind("documents", "consensus") {
        let bytes = vector.at("bytes").bytes();
        let now = Wall(vector.at("at_ms").number());
        let consensus =
            UnverifiedConsensus::decode(&bytes).unwrap().verify(&known(&vector), now, CLIENT_CLOCK_SKEW).unwrap();
        assert_eq!(&describe::body(consensus.body()).value(), body.at("fields"));
        assert_eq!(consensus.body().encode(), body.at("bytes").bytes());
        assert_eq!(consensus.hash().0, vector.at("hash").array());
        let header = consensus.signed_header().header;
        assert_eq!(&describe::header(&header).value(), body.at("header"));
        let sign = |of: &Value| {
            let (identity, signing) = (key(of, "identity_seed"), key(of, "signing_seed"));
            let theirs = consensus.signed_header().signatures;
            let one = theirs.into_iter().find(|s| s.authority().0 == identity.public()).unwrap();
            ConsensusSignature::sign(&header, one.certificate, &signing)
        };
        let mut again: Vec<_> = vector.at("signed_by").items().iter().map(sign).collect();
        again.sort_by_key(ConsensusSignature::authority);
        assert_eq!(Consensus::assemble(&body.at("bytes").bytes(), &again), bytes);
        held.push(consensus);
    }
    for vector in of_kind("documents", "mix keys") {
        let unverified = UnverifiedMixKeys::decode(&vector.at("bytes").bytes()).unwrap();
        let keys = unverified.verify(&held[0]).unwrap();
        assert_eq!(&describe::mix_keys(&keys).value(), vector.at("fields"));
        assert_eq!(held[0].mix_keys_hash(keys.key_epoch).unwrap().0, vector.at("hash").array());
        assert_eq!(keys.encode(), vector.at("bytes").bytes());
    }
}

#[test]
fn what_authorities_say_verifies_from_the_file_alone() {
    for vector in of_kind("documents", "signature") {
        let bytes = vector.at("bytes").bytes();
        let message = Signature::decode(&bytes).unwrap();
        message.signature.verify(&message.header, &known(&vector)).unwrap();
        assert_eq!(&describe::header(&message.header).value(), vector.at("header"));
        assert_eq!((message.encode(), message.signature.certificate.purpose), (bytes, Purpose::Authority));
    }
    for vector in of_kind("documents", "vote") {
        let bytes = vector.at("bytes").bytes();
        let vote = UnverifiedVote::decode(&bytes).unwrap().verify(&known(&vector)).unwrap();
        assert_eq!(&describe::vote(&vote).value(), vector.at("fields"), "{}", name(&vector));
        assert_eq!(vote.sign(&key(vector.at("keys"), "signing_seed")), bytes);
        assert_eq!(posta_protocol::document::Vote::hash(&bytes).0, vector.at("hash").array());
    }
    for vector in of_kind("documents", "echo") {
        let bytes = vector.at("bytes").bytes();
        let echo = UnverifiedEcho::decode(&bytes).unwrap().verify(&known(&vector)).unwrap();
        assert_eq!(&describe::echo(&echo).value(), vector.at("fields"));
        assert_eq!(echo.sign(&key(vector.at("keys"), "signing_seed")), bytes);
    }
}

#[test]
fn withdrawals_proposals_evidence_and_reports_read_back_from_the_file_alone() {
    for vector in of_kind("documents", "withdrawal") {
        let (bytes, at) = (vector.at("bytes").bytes(), Wall(vector.at("at_ms").number()));
        let withdrawal = UnverifiedWithdrawal::decode(&bytes).unwrap().verify(at).unwrap();
        assert_eq!(&describe::withdrawal(&withdrawal).value(), vector.at("fields"));
        assert_eq!(withdrawal.sign(&key(vector.at("keys"), "signing_seed")).unwrap(), bytes);
    }
    for vector in of_kind("documents", "proposal") {
        let bytes = vector.at("bytes").bytes();
        let proposal = UnverifiedProposal::decode(&bytes).unwrap().verify(&known(&vector)).unwrap();
        assert_eq!(&describe::proposal(&proposal).value(), vector.at("fields"));
        assert_eq!(proposal.sign(&key(vector.at("keys"), "signing_seed")), bytes);
    }
    for vector in of_kind("documents", "evidence") {
        let bytes = vector.at("bytes").bytes();
        let evidence = UnverifiedEvidence::decode(&bytes).unwrap().verify(&known(&vector)).unwrap();
        assert_eq!(&describe::evidence(&evidence).value(), vector.at("fields"));
        assert_eq!((evidence.encode(), evidence.hash().0), (bytes.as_slice(), vector.at("hash").array()));
        let [one, other] = [vector.at("other").bytes(), vector.at("one").bytes()];
        assert_eq!(Evidence::new(evidence.kind(), &one, &other, &known(&vector)), Ok(evidence), "in any order");
    }
    for vector in of_kind("documents", "round report") {
        let report = RoundReport::decode(&vector.at("bytes").bytes()).unwrap();
        assert_eq!(&describe::report(&report).value(), vector.at("fields"));
        assert_eq!(report.encode(), vector.at("bytes").bytes());
    }
}

#[test]
fn requests_and_replies_decode_from_the_file_alone() {
    for vector in of_kind("documents", "request") {
        let request = Request::decode(&vector.at("bytes").bytes()).unwrap();
        assert_eq!(request_json(name(&vector), &request).value(), vector);
    }
    for vector in of_kind("documents", "reply") {
        let reply = Reply::decode(&vector.at("bytes").bytes()).unwrap();
        assert_eq!(reply_json(name(&vector), &reply).value(), vector);
    }
    for vector in of_kind("documents", "later refusal") {
        assert_eq!(Reply::decode(&vector.at("bytes").bytes()), Ok(Reply::Refused(Refusal::Unsupported)));
    }
    for vector in of_kind("documents", "descriptors") {
        let bytes = vector.at("bytes").bytes();
        let list = Reply::descriptors(&bytes).unwrap();
        let stated: Vec<_> = vector.at("descriptors").items().iter().map(Fields::bytes).collect();
        assert_eq!(list, stated);
    }
}

#[test]
fn thresholds_of_the_file_hold() {
    for vector in of_kind("documents", "authorities") {
        let n = u8::try_from(vector.at("count").number()).unwrap();
        let list = authorities((0..n).map(|i| [i; 32]));
        let stated = (vector.at("threshold").number(), vector.at("one_honest").number());
        assert_eq!((list.threshold() as u64, list.one_honest() as u64), stated);
    }
}
