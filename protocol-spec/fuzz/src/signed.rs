//! Documents whose content can be reached only through their signatures. Each input is tried as it is; then as a
//! malicious relay or authority would send it, who can sign whatever it likes: with our certificate and signature put in.

use posta_protocol::codec::Reader;
use posta_protocol::crypto::{self, context};
use posta_protocol::document::{
    Authorities, Certificate, Class, Consensus, ConsensusBody, Descriptor, Echo, Extensions, Family, Header,
    KeyEpochPart, Missed, Params, Position, Profile, Protocols, Purpose, RandomItems, RelayEntry, Reliability, Roles,
    SharedRandom, SignedHeader, Speed, UnverifiedConsensus, UnverifiedDescriptor, UnverifiedEcho, UnverifiedVote, Vote,
    VotedRelay,
};
use posta_protocol::error::Untrusted;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::{CLIENT_CLOCK_SKEW, MAX_AUTHORITIES};

use super::documents::{NOW, Signer, address, authority, signer};
use super::{bounded, onion, same};

const SIGNATURE_LEN: usize = 64;
/// Where descriptors, votes and echoes have their certificate: behind the version.
const CERTIFICATE_AT: usize = 2;
/// Where votes and echoes go on behind certificate, epoch, attempt and time.
const ROUND_END: usize = CERTIFICATE_AT + Certificate::LEN + 8 + 4 + 8;
/// A certificate and a signature under a consensus' header.
const VOUCHED_LEN: usize = Certificate::LEN + SIGNATURE_LEN;

/// Puts our certificate in; `None` if there isn't room.
pub(crate) fn certified(bytes: &mut [u8], signer: &Signer, purpose: Purpose) -> Option<()> {
    let at = bytes.get_mut(CERTIFICATE_AT..CERTIFICATE_AT + Certificate::LEN)?;
    at.copy_from_slice(&signer.certificate(purpose).encode());
    Some(())
}

/// Replaces the signature at the end.
pub(crate) fn resigned(bytes: &mut [u8], signer: &Signer, context: &'static str) -> Option<()> {
    let (signed, signature) = bytes.split_last_chunk_mut::<SIGNATURE_LEN>()?;
    *signature = signer.key.sign(context, signed);
    Some(())
}

/// At the last instant of all no certificate is valid any more: the one refusal that good documents can meet here.
fn at_the_end_of_time(error: &Untrusted) -> bool {
    matches!(error, Untrusted::CertificateTime(_))
}

pub(crate) fn descriptor(input: &[u8]) {
    if let Ok(descriptor) = bounded(input.len(), || UnverifiedDescriptor::decode(input)) {
        let _ = descriptor.verify_as_published();
    }
    let signer = signer();
    let mut bytes = input.to_vec();
    let made = certified(&mut bytes, signer, Purpose::Relay)
        .and_then(|()| resigned(&mut bytes, signer, context::SIGN_DESCRIPTOR));
    if made.is_none() {
        return;
    }
    let Ok(unverified) = UnverifiedDescriptor::decode(&bytes) else { return };
    let descriptor = match unverified.verify_as_published() {
        Ok(descriptor) => descriptor,
        // A family's word is no part of what our signer can make good.
        Err(Untrusted::Signature("the relay's family")) => return,
        Err(e) => return assert!(at_the_end_of_time(&e), "{e}"),
    };
    assert!(descriptor.mix_keys.iter().all(|(epoch, key)| descriptor.mix_key(*epoch) == Some(key)));
    let again = descriptor.sign(&signer.key).expect("what was decoded can be encoded");
    same(&bytes, again.as_bytes(), "descriptor");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let garbled = UnverifiedDescriptor::decode(&bytes).expect("the signature isn't parsed").verify_as_published();
    assert!(matches!(garbled, Err(Untrusted::Signature(_))), "a garbled signature is refused");
}

pub(crate) fn descriptor_seeds() -> Vec<Vec<u8>> {
    let signer = signer();
    let mut extensions = Extensions::default();
    extensions.set(7, vec![8; 9]).expect("within its bounds");
    let full = Descriptor {
        certificate: signer.certificate(Purpose::Relay),
        link_key: LinkPublicKey([1; 32]),
        link_addresses: vec![address(1), "[2001:db8::1]:4433".parse().expect("an address")],
        client_addresses: vec![address(2)],
        roles: Roles::EDGE,
        family: Some(Family::admit(&signer.key, &RelayId(signer.certificate(Purpose::Relay).identity))),
        operator: OperatorId([5; 16]),
        capacity: 1000,
        protocols: Default::default(),
        published: NOW,
        mix_keys: vec![(KeyEpoch(7), onion::public_key(7)), (KeyEpoch(8), onion::public_key(8))],
        extensions,
    };
    let bare = Descriptor {
        client_addresses: vec![],
        roles: Roles::MIX,
        family: None,
        mix_keys: vec![],
        extensions: Extensions::default(),
        ..full.clone()
    };
    [full, bare].map(|d| d.sign(&signer.key).expect("it is well-formed").into_bytes()).into()
}

/// What stands between a vote's round and its parameters, with a newest consensus that our authority has signed.
fn newest(rest: &[u8], signer: &Signer) -> Option<(Vec<u8>, usize)> {
    let mut r = Reader::new(rest);
    let flag = r.u8("flag").ok()?;
    if flag != 1 {
        return Some((vec![flag], 1));
    }
    let header = r.take(Header::LEN, "header").ok()?;
    let n = r.u32("signatures").ok()? as usize;
    r.take(n.min(MAX_AUTHORITIES) * VOUCHED_LEN, "signatures").ok()?;
    let (epoch, rest_of_header) = header.split_first_chunk()?;
    let (valid_after, hash) = rest_of_header.split_first_chunk()?;
    let (epoch, valid_after) = (Epoch(u64::from_le_bytes(*epoch)), Wall(u64::from_le_bytes(*valid_after)));
    let signature = signer.sign(&Header { epoch, valid_after, hash: Hash(*hash.first_chunk()?) });
    let message = posta_protocol::document::Signature {
        header: Header { epoch, valid_after, hash: Hash(*hash.first_chunk()?) },
        signature,
    };
    let mut made = vec![1];
    made.extend_from_slice(header);
    made.extend_from_slice(&1u32.to_le_bytes());
    made.extend_from_slice(message.encode().get(Header::LEN..)?);
    Some((made, rest.len() - r.left()))
}

pub(crate) fn vote(input: &[u8]) {
    let signer = signer();
    let known = signer.authorities();
    if let Ok(vote) = bounded(input.len(), || UnverifiedVote::decode(input)) {
        let _ = vote.verify(&known);
    }
    let made = || {
        let (round, rest) = input.split_at_checked(ROUND_END)?;
        let (newest, used) = newest(rest, signer)?;
        let mut bytes = [round, &newest, rest.get(used..)?].concat();
        certified(&mut bytes, signer, Purpose::Authority)?;
        resigned(&mut bytes, signer, context::SIGN_VOTE)?;
        Some(bytes)
    };
    let Some(bytes) = made() else { return };
    let Ok(unverified) = UnverifiedVote::decode(&bytes) else { return };
    let vote = match unverified.verify(&known) {
        Ok(vote) => vote,
        // The newest consensus must be older than the epoch voted for, and signed within its certificates' times.
        Err(Untrusted::Malformed(_) | Untrusted::TooFewSignatures { .. }) => return,
        Err(e) => return assert!(at_the_end_of_time(&e), "{e}"),
    };
    assert!(vote.newest.as_ref().is_none_or(|newest| newest.header.epoch < vote.epoch));
    assert!(vote.relays.iter().all(|r| vote.digest_of(&r.id) == Some(r.digest)));
    same(&bytes, &vote.sign(&signer.key), "vote");
}

pub(crate) fn vote_seeds() -> Vec<Vec<u8>> {
    let signer = signer();
    let header = Header { epoch: Epoch(6), valid_after: NOW, hash: Hash([1; 32]) };
    let full = Vote {
        certificate: signer.certificate(Purpose::Authority),
        epoch: Epoch(7),
        attempt: 1,
        published: NOW,
        newest: Some(SignedHeader { header, signatures: vec![signer.sign(&header)] }),
        random: RandomItems::default(),
        params: params(),
        relays: (1..4)
            .map(|n| VotedRelay { id: RelayId([n; 32]), digest: Hash([n; 32]), class: Default::default() })
            .collect(),
        extensions: Extensions::default(),
    };
    let bare = Vote { newest: None, params: Params::default(), relays: vec![], ..full.clone() };
    [full, bare].map(|vote| vote.sign(&signer.key)).into()
}

pub(crate) fn echo(input: &[u8]) {
    let signer = signer();
    // Voters with made-up identities beside ours, so that the votes of many can be echoed.
    let others = |n: u8| [n; 32];
    let list = (0..MAX_AUTHORITIES as u8 - 1).map(|n| authority(others(n))).chain(signer.authorities().list().to_vec());
    let known = Authorities::new(list.collect()).expect("as many as there may be");
    if let Ok(echo) = bounded(input.len(), || UnverifiedEcho::decode(input)) {
        let _ = echo.verify(&known);
    }
    let mut bytes = input.to_vec();
    let votes = bytes.len().saturating_sub(ROUND_END + 4 + SIGNATURE_LEN) / 64;
    for (n, vote) in bytes.iter_mut().skip(ROUND_END + 4).collect::<Vec<_>>().chunks_mut(64).take(votes).enumerate() {
        vote.iter_mut().take(32).zip(others(n as u8)).for_each(|(to, from)| **to = from);
    }
    let made = certified(&mut bytes, signer, Purpose::Authority)
        .and_then(|()| resigned(&mut bytes, signer, context::SIGN_ECHO));
    if made.is_none() {
        return;
    }
    let Ok(unverified) = UnverifiedEcho::decode(&bytes) else { return };
    let echo = match unverified.verify(&known) {
        Ok(echo) => echo,
        // One of 32 votes can only be ours.
        Err(Untrusted::Malformed(_)) => return assert_eq!(votes, MAX_AUTHORITIES),
        Err(e) => return assert!(at_the_end_of_time(&e), "{e}"),
    };
    same(&bytes, &echo.sign(&signer.key), "echo");
}

pub(crate) fn echo_seeds() -> Vec<Vec<u8>> {
    let signer = signer();
    let echo = |n: u8| Echo {
        certificate: signer.certificate(Purpose::Authority),
        epoch: Epoch(1),
        attempt: 2,
        published: NOW,
        votes: (0..n).map(|n| (AuthorityId([n; 32]), Hash([n; 32]))).collect(),
    };
    [0, 1, 4, 31].map(|n| echo(n).sign(&signer.key)).into()
}

pub(crate) fn consensus(input: &[u8]) {
    let _ = bounded(input.len(), || UnverifiedConsensus::decode(input).map(drop));
    let mut r = Reader::new(input);
    let Ok(body) = r.bounded(input.len(), "body") else { return };
    if UnverifiedConsensus::decode(&Consensus::assemble(body, &[])).is_err() {
        return;
    }
    let consensus = our_consensus(body);
    same(body, &consensus.body().encode(), "consensus");
    let known = signer().authorities();
    let decode = || UnverifiedConsensus::decode(consensus.encode()).expect("as before");
    let valid_after = consensus.valid_after();
    let verify = |now: Wall| decode().verify(&known, now, CLIENT_CLOCK_SKEW);
    assert!(verify(valid_after).is_ok());
    let (early, late) = (valid_after.0.checked_sub(3_600_001), consensus.valid_until().0.checked_add(3_600_000));
    assert!(early.is_none_or(|at| matches!(verify(Wall(at)), Err(Untrusted::TooEarly(_)))));
    assert!(late.is_none_or(|at| matches!(verify(Wall(at)), Err(Untrusted::Expired(_)))));
    ask(&consensus);
}

/// The consensus of a body that decodes, as one that the network's only authority has signed.
pub(crate) fn our_consensus(body: &[u8]) -> Consensus {
    // Behind version, geometry and its hash.
    let number = |at: usize| body.get(at..).and_then(|b| b.first_chunk()).copied().map_or(0, u64::from_le_bytes);
    let (epoch, valid_after) = (Epoch(number(39)), Wall(number(47)));
    let header = Header { epoch, valid_after, hash: crypto::hash(context::CONSENSUS, body) };
    let known = signer().authorities();
    let unsigned = UnverifiedConsensus::decode(&Consensus::assemble(body, &[])).expect("it decodes");
    assert!(unsigned.verify_signatures(&known).is_err(), "a consensus that nobody signed");
    let bytes = Consensus::assemble(body, &[signer().sign(&header)]);
    let signed = UnverifiedConsensus::decode(&bytes).expect("the signature is all that was added");
    let consensus = signed.verify_signatures(&known).expect("well signed");
    same(&bytes, consensus.encode(), "consensus with its signature");
    assert_eq!((consensus.epoch(), consensus.hash()), (epoch, header.hash));
    consensus
}

/// Asks a consensus all that can be asked of it.
fn ask(consensus: &Consensus) {
    let params = consensus.params();
    assert!(params.epoch_ms() >= 100 && params.key_epoch_ms() >= 100);
    assert!(params.message_ttl().0 <= params.message_ttl().1);
    assert!(params.queue_ttl().0 <= params.queue_ttl().1);
    assert!(params.iter().all(|(code, value)| params.get(code) == Some(value)));
    for profile in [Profile::Fast, Profile::Mixed, Profile::Steady] {
        let _ = (params.mean_hop_delay(profile), params.send_interval(profile));
    }
    let _ = (params.reserved_networks(), consensus.key_epoch_at(consensus.valid_until()));
    for part in consensus.key_epochs() {
        assert_eq!(consensus.mix_keys_hash(part.epoch), Some(part.mix_keys));
        let placed: usize = Position::ALL.iter().map(|p| consensus.relays_at(part.epoch, *p).count()).sum();
        let told = consensus.relays().iter().filter(|r| consensus.position(&r.id, part.epoch).is_some()).count();
        assert_eq!(placed, told);
    }
    assert!(consensus.relays().iter().all(|r| consensus.relay(&r.id) == Some(r)));
}

pub(crate) fn params() -> Params {
    let mut params = Params::default();
    for (code, value) in [(1, 10_000), (2, 60_000), (3, 1), (17, 2_000_000), (32, u64::MAX), (999, 5)] {
        assert!(params.set(code, value));
    }
    params
}

pub(crate) fn consensus_seeds() -> Vec<Vec<u8>> {
    let relay = |n: u8, layers: Vec<Option<Position>>| RelayEntry {
        id: RelayId([n; 32]),
        link_key: LinkPublicKey([n; 32]),
        link_addresses: vec![address(n)],
        client_addresses: if n == 3 { vec![address(n)] } else { vec![] },
        roles: if n == 3 { Roles::EDGE } else { Roles::MIX },
        family: (n == 2).then_some([6; 32]),
        operator: OperatorId([n; 16]),
        capacity: 7,
        protocols: Protocols { oldest: 1, newest: 2 },
        class: Class { reliability: Reliability::Flagged, speed: Speed::Slow },
        listed_since: NOW,
        layers,
    };
    let part = |n| KeyEpochPart { epoch: KeyEpoch(n), mix_keys: Hash([n as u8; 32]) };
    let full = ConsensusBody {
        geometry: Geometry::DEFAULT,
        epoch: Epoch(7),
        valid_after: NOW,
        fresh_until: Wall(NOW.0 + 10_000),
        valid_until: Wall(NOW.0 + 40_000),
        previous: Hash([1; 32]),
        shared_random: SharedRandom::default(),
        params: params(),
        missed: vec![Missed { id: RelayId([9; 32]), listed_since: NOW, from: Epoch(6) }],
        key_epochs: vec![part(1), part(2)],
        relays: vec![
            relay(1, vec![Some(Position::Mix1), None]),
            relay(2, vec![None, Some(Position::Mix2)]),
            relay(3, vec![Some(Position::Edge), Some(Position::Edge)]),
        ],
        extensions: Extensions::default(),
    };
    let bare =
        ConsensusBody { params: Params::default(), missed: vec![], key_epochs: vec![], relays: vec![], ..full.clone() };
    let signer = signer();
    [full, bare]
        .map(|body| {
            let encoded = body.encode();
            Consensus::assemble(&encoded, &[signer.sign(&body.header(&encoded))])
        })
        .into()
}
