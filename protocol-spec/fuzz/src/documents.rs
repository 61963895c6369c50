//! Documents and messages of the directory that can be read without checking a signature. Those that can't: `signed.rs`.

use core::net::SocketAddr;
use std::sync::OnceLock;

use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{
    Authorities, Authority, Certificate, ConsensusBody, ConsensusSignature, Extensions, Header, KeyEpochPart, MixKeys,
    Params, Purpose, Refusal, Reply, Request, SharedRandom, Signature, UnverifiedConsensus, UnverifiedMixKeys,
};
use posta_protocol::error::Untrusted;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, RelayId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::params::MAX_AUTHORITIES;
use posta_protocol::secret::Secret;

use super::{bounded, onion, same};

/// A time for the seeds.
pub(crate) const NOW: Wall = Wall(1_700_000_000_000);

/// An identity key, the signing key that it certifies, and the certificates: for all times but the very last.
pub(crate) struct Signer {
    id: [u8; 32],
    pub(crate) key: SignKey,
    relay: Certificate,
    authority: Certificate,
}

/// The one who signs here, made once: signatures are what costs most in these targets.
pub(crate) fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| {
        let key = |n| SignKey::from_seed(&Secret::new([n; 32]));
        let (identity, key) = (key(1), key(2));
        let certified = SigningPublicKey(key.public());
        let issue = |purpose| Certificate::issue(&identity, purpose, certified, Wall(0), Wall(u64::MAX));
        let (relay, authority) = (issue(Purpose::Relay), issue(Purpose::Authority));
        Signer { id: identity.public(), key, relay, authority }
    })
}

impl Signer {
    pub(crate) const fn certificate(&self, purpose: Purpose) -> Certificate {
        match purpose {
            Purpose::Relay => self.relay,
            Purpose::Authority => self.authority,
        }
    }

    pub(crate) fn sign(&self, header: &Header) -> ConsensusSignature {
        ConsensusSignature::sign(header, self.authority, &self.key)
    }

    /// A network whose only authority this is.
    pub(crate) fn authorities(&self) -> Authorities {
        Authorities::new(vec![authority(self.id)]).expect("one is enough")
    }
}

pub(crate) fn authority(id: [u8; 32]) -> Authority {
    Authority { id: AuthorityId(id), link_key: LinkPublicKey([9; 32]), addresses: vec![address(1)] }
}

pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 4433))
}

pub(crate) fn certificate(input: &[u8]) {
    let Ok(certificate) = bounded(input.len(), || Certificate::decode(input)) else { return };
    same(input, &certificate.encode(), "certificate");
    for purpose in [Purpose::Relay, Purpose::Authority] {
        let early = certificate.verify(purpose, Wall(certificate.not_before.0.saturating_sub(1)), "it");
        let late = certificate.verify(purpose, certificate.expires, "it");
        let wrong = certificate.purpose != purpose || certificate.not_before.0 == 0;
        assert!(late.is_err() && (wrong || early.is_err()), "a certificate is good in its span only");
        let _ = certificate.verify(purpose, certificate.not_before, "it");
    }
}

pub(crate) fn certificate_seeds() -> Vec<Vec<u8>> {
    let signer = signer();
    [Purpose::Relay, Purpose::Authority].map(|purpose| signer.certificate(purpose).encode()).into()
}

pub(crate) fn signature(input: &[u8]) {
    let Ok(message) = bounded(input.len(), || Signature::decode(input)) else { return };
    same(input, &message.encode(), "signature");
    let known = Authorities::new(vec![authority(message.signature.authority().0)]).expect("one is enough");
    let stranger = Authorities::new(vec![authority([0xaa; 32])]).expect("one is enough");
    let _ = message.signature.verify(&message.header, &known);
    if message.signature.authority() != AuthorityId([0xaa; 32]) {
        assert!(message.signature.verify(&message.header, &stranger).is_err(), "strangers' signatures don't count");
    }
}

pub(crate) fn signature_seeds() -> Vec<Vec<u8>> {
    let header = Header { epoch: Epoch(1), valid_after: NOW, hash: Hash([2; 32]) };
    vec![Signature { header, signature: signer().sign(&header) }.encode()]
}

/// Mix keys can be read only when a consensus binds them, so one is made that does.
pub(crate) fn mix_keys(input: &[u8]) {
    let Ok(keys) = bounded(input.len(), || UnverifiedMixKeys::decode(input)) else { return };
    let epoch = KeyEpoch(input.first_chunk().copied().map_or(0, u64::from_le_bytes));
    let consensus = |hash| {
        let body = ConsensusBody {
            geometry: Geometry::DEFAULT,
            epoch: Epoch(1),
            valid_after: Wall(1),
            fresh_until: Wall(2),
            valid_until: Wall(3),
            previous: Hash([0; 32]),
            shared_random: SharedRandom::default(),
            params: Params::default(),
            missed: Vec::new(),
            key_epochs: vec![KeyEpochPart { epoch, mix_keys: hash }],
            relays: vec![],
            extensions: Extensions::default(),
        };
        let encoded = body.encode();
        let signer = signer();
        let signed = posta_protocol::document::Consensus::assemble(&encoded, &[signer.sign(&body.header(&encoded))]);
        let consensus = UnverifiedConsensus::decode(&signed).expect("our own consensus is well-formed");
        consensus.verify_signatures(&signer.authorities()).expect("and well signed")
    };
    let keys = keys.verify(&consensus(MixKeys::hash(input))).expect("the consensus binds these bytes");
    same(input, &keys.encode(), "mix keys");
    assert!(keys.keys.iter().all(|(id, key)| keys.get(id) == Some(key)));
    let others = UnverifiedMixKeys::decode(input).expect("as before").verify(&consensus(Hash([0; 32])));
    assert!(matches!(others, Err(Untrusted::Hash(_))), "mix keys with another hash are refused");
}

pub(crate) fn mix_keys_seeds() -> Vec<Vec<u8>> {
    let part = |n: u8| MixKeys {
        key_epoch: KeyEpoch(7),
        keys: (0..n).map(|i| (RelayId([i; 32]), onion::public_key(i))).collect(),
    };
    [part(0).encode(), part(1).encode(), part(3).encode()].into()
}

pub(crate) fn request(input: &[u8]) {
    let Ok(request) = bounded(input.len(), || Request::decode(input)) else { return };
    same(input, &request.encode(), "request");
    assert!(request.max_reply() > 0);
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    [
        Request::PostDescriptor(vec![1, 2]),
        Request::GetConsensus { newer_than: Epoch(7) },
        Request::GetMixKeys(Hash([1; 32])),
        Request::GetDescriptors(vec![]),
        Request::GetDescriptors((0..3).map(|n| Hash([n; 32])).collect()),
        Request::Vote(vec![3]),
        Request::Echo(vec![4]),
        Request::Signature(vec![5]),
        Request::GetVote(Hash([6; 32])),
        Request::Withdraw(vec![7]),
        Request::Proposal(vec![8]),
        Request::GetRound,
        Request::Reach { client: true, address: "192.0.2.1:1".parse().unwrap() },
        Request::GetConsensusDiff { base: Hash([9; 32]) },
        Request::GetMixKeysDiff { base: Hash([10; 32]), to: Hash([11; 32]) },
    ]
    .map(|request| request.encode())
    .into()
}

pub(crate) fn reply(input: &[u8]) {
    if let Ok(reply) = bounded(input.len(), || Reply::decode(input)) {
        // Reasons of a later version become `Unsupported`.
        if reply != Reply::Refused(Refusal::Unsupported) {
            same(input, &reply.encode(), "reply");
        }
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }
    if let Ok(list) = bounded(input.len(), || Reply::descriptors(input)) {
        same(input, &Reply::pack_descriptors(list.into_iter()), "descriptors");
    }
}

pub(crate) fn reply_seeds() -> Vec<Vec<u8>> {
    vec![
        Reply::Ok(vec![9]).encode(),
        Reply::<Vec<u8>>::None.encode(),
        Reply::<Vec<u8>>::Refused(Refusal::Busy).encode(),
        Reply::pack_descriptors([b"ab".as_slice(), b"", b"c"].into_iter()),
    ]
}

/// A list of authorities has no bytes of its own: each byte of the input stands for one authority.
pub(crate) fn authorities(input: &[u8]) {
    let listed = || input.iter().map(|n| authority([*n; 32])).collect::<Vec<_>>();
    let mut distinct = input.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let usable = !input.is_empty() && input.len() <= MAX_AUTHORITIES && distinct.len() == input.len();
    let all = Authorities::new(listed());
    assert_eq!(all.is_ok(), usable);
    let Ok(all) = all else { return };
    assert!(all.list().is_sorted_by_key(|a| a.id) && all.len() == input.len());
    assert!(listed().iter().all(|a| all.get(&a.id) == Some(a)));
    // Two thresholds have an honest authority in common while fewer than a third lie.
    let (n, liars) = (all.len(), all.len().div_ceil(3) - 1);
    assert!(2 * all.threshold() > n + liars && all.threshold() <= n && all.one_honest() > liars);
}

pub(crate) fn authorities_seeds() -> Vec<Vec<u8>> {
    [1, 4, 10, 32, 33].map(|n| (0..n).rev().collect()).into()
}
