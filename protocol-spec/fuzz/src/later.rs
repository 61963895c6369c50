//! Withdrawals, proposals, evidence and reports of rounds. As in `signed.rs`, what is signed is also tried with our own
//! signature put in.

use posta_protocol::crypto::context;
use posta_protocol::document::{
    Certificate, Echo, Evidence, EvidenceKind, Header, Proposal, Purpose, RoundReport, Signature, UnverifiedEvidence,
    UnverifiedProposal, UnverifiedWithdrawal, VoteReport, VoteState, Withdrawal,
};
use posta_protocol::error::Untrusted;
use posta_protocol::ids::{AuthorityId, Epoch, Hash};
use posta_protocol::now::Wall;

use super::documents::{NOW, signer};
use super::signed::{certified, resigned};
use super::{bounded, same};

pub(crate) fn withdrawal(input: &[u8]) {
    if let Ok(withdrawal) = bounded(input.len(), || UnverifiedWithdrawal::decode(input)) {
        let _ = withdrawal.verify(NOW);
    }
    let signer = signer();
    let mut bytes = input.to_vec();
    let made = certified(&mut bytes, signer, Purpose::Relay)
        .and_then(|()| resigned(&mut bytes, signer, context::SIGN_WITHDRAWAL));
    if made.is_none() {
        return;
    }
    let Ok(unverified) = UnverifiedWithdrawal::decode(&bytes) else { return };
    match unverified.verify(NOW) {
        Ok(withdrawal) => same(&bytes, &withdrawal.sign(&signer.key).expect("our own key"), "withdrawal"),
        Err(e) => assert_eq!(e, Untrusted::TooEarly("withdrawal")),
    }
    assert_eq!(bytes.len(), Withdrawal::LEN);
}

pub(crate) fn withdrawal_seeds() -> Vec<Vec<u8>> {
    let signer = signer();
    let one = |published| Withdrawal { certificate: signer.certificate(Purpose::Relay), published };
    [Wall(0), NOW].map(|at| one(at).sign(&signer.key).expect("our own key")).into()
}

pub(crate) fn proposal(input: &[u8]) {
    let signer = signer();
    let known = signer.authorities();
    if let Ok(proposal) = bounded(input.len(), || UnverifiedProposal::decode(input)) {
        let _ = proposal.verify(&known);
    }
    let mut bytes = input.to_vec();
    let made = certified(&mut bytes, signer, Purpose::Authority)
        .and_then(|()| resigned(&mut bytes, signer, context::SIGN_PROPOSAL));
    if made.is_none() {
        return;
    }
    let Ok(unverified) = UnverifiedProposal::decode(&bytes) else { return };
    if let Ok(proposal) = unverified.verify(&known) {
        // One authority, one echo, one vote: nothing else is permitted here.
        assert_eq!((proposal.votes.len(), proposal.echoes.len()), (1, 1));
        same(&bytes, &proposal.sign(&signer.key), "proposal");
    }
}

pub(crate) fn proposal_seeds() -> Vec<Vec<u8>> {
    let signer = signer();
    let certificate = signer.certificate(Purpose::Authority);
    let votes = vec![(AuthorityId(certificate.identity), Hash([3; 32]))];
    let echo = Echo { certificate, epoch: Epoch(1), attempt: 2, published: NOW, votes: votes.clone() };
    let full = Proposal {
        certificate,
        epoch: Epoch(1),
        attempt: 2,
        published: NOW,
        votes,
        echoes: vec![echo.sign(&signer.key)],
    };
    let bare = Proposal { votes: vec![], echoes: vec![], ..full.clone() };
    [full, bare].map(|proposal| proposal.sign(&signer.key)).into()
}

pub(crate) fn evidence(input: &[u8]) {
    let known = signer().authorities();
    let Ok(unverified) = bounded(input.len(), || UnverifiedEvidence::decode(input)) else { return };
    if let Ok(evidence) = unverified.verify(&known) {
        same(input, evidence.encode(), "evidence");
        assert!(!evidence.accused().is_empty() && !evidence.to_string().is_empty());
    }
}

pub(crate) fn evidence_seeds() -> Vec<Vec<u8>> {
    let signer = signer();
    let message = |hash| {
        let header = Header { epoch: Epoch(1), valid_after: NOW, hash: Hash([hash; 32]) };
        Signature { header, signature: signer.sign(&header) }.encode()
    };
    let votes = super::signed::vote_seeds();
    let known = signer.authorities();
    let one = |kind, a: &[u8], b: &[u8]| {
        Evidence::new(kind, a, b, &known).expect("they exclude each other").encode().to_vec()
    };
    vec![
        one(EvidenceKind::Signatures, &message(1), &message(2)),
        one(EvidenceKind::Votes, votes.first().expect("two votes"), votes.last().expect("two votes")),
    ]
}

pub(crate) fn round_report(input: &[u8]) {
    if let Ok(report) = bounded(input.len(), || RoundReport::decode(input)) {
        same(input, &report.encode(), "report of a round");
        assert!(report.encode().len() <= RoundReport::MAX_LEN);
    }
}

pub(crate) fn round_report_seeds() -> Vec<Vec<u8>> {
    let states = [VoteState::Counted, VoteState::NotCounted, VoteState::Twice];
    let vote = |(n, state)| VoteReport { voter: AuthorityId([n; 32]), hash: Hash([n; 32]), state };
    let votes = (1..).zip(states).map(vote).collect();
    vec![RoundReport { epoch: Epoch(1), attempt: 0, votes }.encode(), RoundReport::default().encode()]
}

const _: () = assert!(Withdrawal::LEN == 2 + Certificate::LEN + 8 + 64);
