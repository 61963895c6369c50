//! Withdrawals, proposals, evidence and reports that don't parse, or must not be believed.

use core::time::Duration;

use posta_protocol::document::{Echo, Evidence, EvidenceKind, Proposal, Purpose, Withdrawal};
use posta_protocol::ids::AuthorityId;
use posta_protocol::params::{MAX_AUTHORITIES, MAX_EVIDENCE_LEN, MAX_PROPOSAL_LEN};

use super::{TOO_LONG, UNTRUSTED, VALUE, case, ends, find, flip, put, with};
use crate::documents::{self, Keys, NOW, authorities, authority_keys, contradictions, known_json};
use crate::json::{Fields, Json, object};

fn bytes(all: &[Json], name: &str) -> Vec<u8> {
    find(all, name).at("bytes").bytes()
}

fn le(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap().to_le_bytes()
}

pub(super) fn make(all: &[Json]) -> Vec<Json> {
    [withdrawals(all), proposals(), evidence(all), reports(all)].concat()
}

fn withdrawals(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "an edge's withdrawal");
    let at = |what, at: posta_protocol::now::Wall, bytes: &[u8]| {
        with("withdrawal", what, UNTRUSTED, object! { "bytes": bytes, "at_ms": at.0 })
    };
    let keys = Keys::new("an edge");
    let by_authority = Withdrawal { certificate: keys.certificate(Purpose::Authority), ..documents::withdrawal() };
    let mut list = ends("withdrawal", "an edge's", &good, &object! {});
    list.extend([
        case("withdrawal", "another version", UNTRUSTED, &put(&good, 0, &[2])),
        case("withdrawal", "an unknown purpose", VALUE, &put(&good, 2, &[3])),
        at("a bit of the signature", NOW, &flip(&good, good.len() - 1)),
        at("a bit of the time", NOW, &flip(&good, 2 + 145)),
        at("published more than two minutes ahead", NOW - Duration::from_secs(121), &good),
        at("with an authority's certificate", NOW, &by_authority.sign(&keys.signing()).unwrap()),
    ]);
    list
}

/// In a network of one authority, which keeps the bytes few: one vote, one echo.
fn small() -> Proposal {
    let keys = Keys::new("an authority");
    let mut small = documents::proposal();
    let votes = vec![(AuthorityId(keys.identity()), small.votes[0].1)];
    let echo = Echo { votes: votes.clone(), ..documents::echo() };
    (small.votes, small.echoes) = (votes, vec![echo.sign(&keys.signing())]);
    small
}

fn proposals() -> Vec<Json> {
    let keys = Keys::new("an authority");
    let good = small().sign(&keys.signing());
    let known = |what, class, bytes: &[u8]| {
        let one: Vec<Json> = vec![Keys::new("an authority").identity().into()];
        with("proposal", what, class, object! { "bytes": bytes, "authorities": one })
    };
    let again = |change: &dyn Fn(&mut Proposal)| {
        let mut proposal = small();
        change(&mut proposal);
        proposal.sign(&keys.signing())
    };
    let votes_at = 2 + 145 + 20;
    let mut list = ends("proposal", "a good one", &good, &object! {});
    list.extend([
        case("proposal", "another version", UNTRUSTED, &put(&good, 0, &[2])),
        case("proposal", "too many votes", TOO_LONG, &put(&good, votes_at, &le(MAX_AUTHORITIES + 1))),
        with("proposal", "too long", TOO_LONG, object! { "bytes": "", "zeros_after": MAX_PROPOSAL_LEN + 1 }),
        case("proposal", "a vote twice", VALUE, &again(&|p| p.votes.push(p.votes[0]))),
        known("a bit of the signature", UNTRUSTED, &flip(&good, good.len() - 1)),
        known("fewer votes than the threshold", VALUE, &again(&|p| p.votes.clear())),
        known("a vote that too few echoes name", VALUE, &again(&|p| p.votes[0].1.0[0] ^= 1)),
        known("fewer echoes than the threshold", VALUE, &again(&|p| p.echoes.clear())),
        known("an echo twice", VALUE, &again(&|p| p.echoes.push(p.echoes[0].clone()))),
        known("echoes of another round", VALUE, &again(&|p| p.attempt += 1)),
        known("an echo with a forged signature", UNTRUSTED, &again(&|p| *p.echoes[0].last_mut().unwrap() ^= 1)),
    ]);
    list
}

fn evidence(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "evidence: two signatures");
    let known = |what, class, bytes: &[u8]| {
        with("evidence", what, class, object! { "bytes": bytes, "authorities": known_json() })
    };
    let pair =
        |kind: u8, one: &[u8], other: &[u8]| [&[1, 0, kind][..], &le(one.len()), one, &le(other.len()), other].concat();
    let of = |kind: EvidenceKind| contradictions().into_iter().find(|(_, k, ..)| *k == kind).unwrap();
    let (_, _, one, other) = of(EvidenceKind::Signatures);
    let (low, high) = (one.clone().min(other.clone()), one.max(other));
    // The signatures of two authorities under two headers: each has signed one.
    let strangers = authorities(authority_keys()[1..].iter().map(Keys::identity));
    let (_, kind, first, second) = of(EvidenceKind::Votes);
    assert!(Evidence::new(kind, &first, &second, &strangers).is_err());
    let proposal = documents::first_vote();
    let by_other = Keys::new("another authority");
    let theirs = posta_protocol::document::Vote { certificate: by_other.certificate(Purpose::Authority), ..proposal };
    let theirs = theirs.sign(&by_other.signing());
    let two_voters = pair(2, first.as_slice().min(&theirs), first.as_slice().max(&theirs));
    let mut list = ends("evidence", "two signatures", &good, &object! {});
    list.extend([
        case("evidence", "another version", UNTRUSTED, &put(&good, 0, &[2])),
        case("evidence", "an unknown kind", VALUE, &put(&good, 2, &[9])),
        case("evidence", "the same twice", VALUE, &pair(3, &low, &low)),
        case("evidence", "the higher one first", VALUE, &pair(3, &high, &low)),
        with("evidence", "too long", TOO_LONG, object! { "bytes": "", "zeros_after": MAX_EVIDENCE_LEN + 1 }),
        known("a bit of a signature", UNTRUSTED, &flip(&good, good.len() - 1)),
        known("votes of two authorities", UNTRUSTED, &two_voters),
    ]);
    list
}

fn reports(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "a report of a round");
    let mut list = ends("round report", "three votes", &good, &object! {});
    let mut swapped = documents::report();
    swapped.votes.swap(0, 1);
    list.extend([
        case("round report", "too many votes", TOO_LONG, &put(&good, 12, &le(MAX_AUTHORITIES + 1))),
        case("round report", "votes out of order", VALUE, &swapped.encode()),
        case("round report", "an unknown state", VALUE, &put(&good, good.len() - 1, &[9])),
    ]);
    list
}
