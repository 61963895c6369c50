//! The exact encoded size of everything whose size is fixed, as a table: one byte more changes the protocol.

use std::collections::BTreeSet;

use posta_protocol::admission::{Asks, Proof, Puzzle, QueueKind, Solution};
use posta_protocol::answer::{Answer, Body, Info};
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::{BlobCapability, Command, Envelope, ReaderCapability, WriterCapability};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{
    Certificate, ConsensusSignature, Header, MixKeys, Profile, Purpose, Refusal, Reply, Request,
    Signature as SignatureDocument,
};
use posta_protocol::end_to_end::{Content, Kind, QueueAddress, QueueKey};
use posta_protocol::frame::{Delivery, Frame, Hello};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{
    BlobId, Epoch, Hash, InboxId, Incarnation, MessageId, QueueId, RelayId, SigningPublicKey, SurbId, WriterId,
};
use posta_protocol::invitation::Offer;
use posta_protocol::now::Wall;
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::packet::Packet;
use posta_protocol::params::{BLOB_LEN, BOX_LEN};
use posta_protocol::registry;
use posta_protocol::secret::Secret;

use super::support;

const G: Geometry = Geometry::DEFAULT;

fn reader() -> ReaderCapability {
    ReaderCapability::new(Secret::new([1; 32]))
}

fn writer() -> WriterCapability {
    WriterCapability::new(Secret::new([2; 32]))
}

fn password() -> Proof {
    Proof::Password(b"sesame".to_vec().into())
}

fn solution() -> Proof {
    Proof::Solution(Solution { seed: [3; 16], nonce: 4 })
}

fn create(proof: Proof) -> Command {
    Command::Create { queue: QueueId([1; 32]), writer: WriterId([2; 32]), kind: QueueKind::Plain, proof }
}

fn contact_send(proof: Proof) -> Command {
    Command::ContactSend { writer: writer(), message: MessageId([3; 16]), proof, body: vec![0; BOX_LEN].into() }
}

/// Commands and their encoded sizes without reply blocks: length (4), code, operands, count of reply blocks (1).
fn commands() -> Vec<(Command, usize)> {
    let blob_put = Command::BlobPut {
        put: writer(),
        get: BlobId([3; 32]),
        one_time: true,
        hours: 1,
        body: vec![0; BLOB_LEN].into(),
    };
    let blob_get = Command::BlobGet { get: BlobCapability::new(Secret::new([3; 32])), reader: Secret::new([4; 32]) };
    vec![
        (create(Proof::Nothing), 72),
        (create(password()), 82),
        (create(solution()), 96),
        (Command::Secure { invited: writer(), writer: WriterId([2; 32]) }, 70),
        (Command::Send { writer: writer(), sequence: 1, body: vec![0; BOX_LEN].into() }, 11_314),
        (contact_send(Proof::Nothing), 11_323),
        (contact_send(solution()), 11_347),
        (Command::Subscribe { reader: reader(), acked: 1, pace: 2 }, 50),
        (Command::Fetch { reader: reader(), after: 1 }, 46),
        (Command::Ack { reader: reader(), up_to: 1 }, 46),
        (Command::Delete { reader: reader() }, 38),
        (Command::Info { reader: reader() }, 38),
        (Command::Suspend { reader: reader() }, 38),
        (Command::Resume { reader: reader() }, 38),
        (Command::Extend { reader: reader() }, 38),
        (blob_put, 8_269),
        (blob_get, 70),
        (Command::BlobDelete { put: writer() }, 38),
        (Command::Echo, 6),
    ]
}

/// Answers and their encoded sizes: length (4), code (1), incarnation (16), operands.
fn answers() -> Vec<(Body, usize)> {
    let info = Info {
        kind: QueueKind::Bulk,
        secured: true,
        suspended: true,
        retiring: true,
        held: 1,
        room: 2,
        highest: 3,
        acked: 4,
        hours: 5,
    };
    let mut all = vec![
        (Body::Ok, 21),
        (Body::Message { sequence: 1, left: 2, body: vec![0; BOX_LEN].into() }, 11_301),
        (Body::Empty, 21),
        (Body::Blob(vec![0; BLOB_LEN].into()), 8_217),
        (Body::Stored { through: 1, room: 2 }, 33),
        (Body::Info(info), 51),
        (Body::NotAdmitted(Asks::Nothing), 22),
        (Body::NotAdmitted(Asks::Password), 22),
        (Body::NotAdmitted(Asks::Puzzle(Puzzle { effort: 1, seed: [2; 16] })), 39),
    ];
    let refusals = registry::answer::ALL.iter().map(|(_, code)| *code);
    let refusals = refusals.filter(|code| *code >= registry::answer::FULL && *code != registry::answer::NOT_ADMITTED);
    all.extend(refusals.map(|code| (Body::Refused(code), 21)));
    all
}

fn written(write: impl FnOnce(&mut Writer)) -> usize {
    let mut w = Writer::default();
    write(&mut w);
    w.len()
}

#[test]
fn commands_have_exactly_these_sizes_and_none_is_missing() {
    let block = || {
        let mut rng = support::rng(1);
        let relays = support::relays(3, G, &mut rng);
        support::reply(G, &relays, &mut rng).0
    };
    let mut codes = BTreeSet::new();
    for (command, size) in commands() {
        let what = format!("{:?}", std::mem::discriminant(&command));
        let mut envelope = Envelope { command, reply: Vec::new() };
        let bytes = envelope.encode(G).unwrap();
        codes.insert(bytes[4]);
        assert_eq!(bytes.len(), size, "{what}, code {}", bytes[4]);
        envelope.reply.push(block());
        assert_eq!(envelope.encode(G).unwrap().len(), size + 4_872);
    }
    assert_eq!(codes, registry::command::ALL.iter().map(|(_, code)| *code).collect());
}

#[test]
fn answers_have_exactly_these_sizes_and_none_is_missing() {
    let mut codes = BTreeSet::new();
    for (body, size) in answers() {
        let bytes = Answer { incarnation: Incarnation([1; 16]), body }.encode();
        codes.insert(bytes[4]);
        assert_eq!(bytes.len(), size, "code {}", bytes[4]);
    }
    assert_eq!(codes, registry::answer::ALL.iter().map(|(_, code)| *code).collect());
}

#[test]
fn frames_have_exactly_these_sizes_and_none_is_missing() {
    let frames = [
        (Frame::Attach(Secret::new([1; 32])), 33),
        (Frame::Attached(InboxId([2; 32])), 33),
        (Frame::Goodbye, 1),
        (Frame::Pace(Profile::Steady), 2),
    ];
    let mut codes = BTreeSet::new();
    for (frame, size) in frames {
        let bytes = frame.encode();
        codes.insert(bytes[0]);
        assert_eq!(bytes.len(), size, "{frame:?}");
    }
    assert_eq!(codes, registry::frame::ALL.iter().map(|(_, code)| *code).collect());
    assert_eq!(Hello::new(G, Epoch(1), Hash([2; 32])).encode().len(), 74);
    assert_eq!(Hello::LEN, 74);
}

#[test]
fn packets_and_what_is_in_them_have_exactly_these_sizes() {
    // Hops, payload: header, packet.
    let geometries = [(1, 1, 1_200, 1_233), (4, 16_384, 4_800, 21_216), (8, 65_536, 9_600, 75_168)];
    for (hops, payload, header, packet) in geometries {
        let g = Geometry::new(hops, payload).unwrap();
        assert_eq!((g.header_len(), g.packet_len()), (header, packet));
        assert_eq!(ReplyBlock::encoded_len(g), 72 + header);
        let delivery = Delivery::into_packet(SurbId([1; 16]), Packet::zeroed(g), g);
        assert_eq!(delivery.as_bytes().len(), packet);
    }
    assert_eq!(written(|w| G.write(w)), 5);
    let mut rng = support::rng(1);
    let sealed = QueueKey::new(&Secret::new([1; 32])).seal(b"content", &mut rng).unwrap();
    assert_eq!(sealed.len(), 11_264);
    let address = || QueueAddress { relay: RelayId([1; 32]), invited: Secret::new([2; 32]), key: Secret::new([3; 32]) };
    assert_eq!(written(|w| address().write(w)), 96);
    let offer = Offer::new(vec![address(), address()], vec![3; 2638], &mut rng);
    let link = offer.link([RelayId([1; 32]), RelayId([2; 32])]);
    assert_eq!(offer.seal(&link, &mut rng).unwrap().len(), 8_192);
    assert_eq!(link.to_text().len(), 93);
    let contents = [
        (Kind::Message { number: 1, expires: Wall(2), body: vec![0; 100] }, 161),
        (Kind::Fleeting { number: 1, expires: Wall(2), after: 3, body: vec![0; 100] }, 165),
        (Kind::Receipt { up_to: 1 }, 49),
        (Kind::Queues(vec![address(), address()]), 237),
        (Kind::Renewal { have: 1, alone: false, generation: 1, queues: vec![address(), address()] }, 254),
        (Kind::KeyPackage { up_to: 1, from: 1, key_package: vec![0; 2638] }, 2699),
        (Kind::Moved { generation: 1, queues: vec![address(), address()] }, 245),
    ];
    for (kind, size) in contents {
        assert_eq!(Content { epoch: Epoch(1), consensus: Hash([1; 32]), kind }.encode().len(), size);
    }
}

#[test]
fn what_is_asked_for_and_shown_has_exactly_these_sizes() {
    let asks = [(Asks::Nothing, 1), (Asks::Password, 1), (Asks::Puzzle(Puzzle { effort: 1, seed: [2; 16] }), 18)];
    for (asks, size) in asks {
        assert_eq!(written(|w| asks.write(w)), size, "{asks:?}");
    }
    for (proof, size) in [(Proof::Nothing, 1), (password(), 5 + 6), (solution(), 25)] {
        assert_eq!(written(|w| proof.write(w)), size, "{proof:?}");
    }
}

#[test]
fn documents_of_fixed_size_have_exactly_these() {
    let identity = SignKey::from_seed(&Secret::new([1; 32]));
    let signing = SignKey::from_seed(&Secret::new([2; 32]));
    let key = SigningPublicKey(signing.public());
    let certificate = Certificate::issue(&identity, Purpose::Authority, key, Wall(0), Wall(1));
    assert_eq!(certificate.encode().len(), 145);
    assert_eq!(Certificate::LEN, 145);
    let header = Header { epoch: Epoch(1), valid_after: Wall(2), hash: Hash([3; 32]) };
    assert_eq!(Header::LEN, 48);
    let signature = ConsensusSignature::sign(&header, certificate, &signing);
    assert_eq!(SignatureDocument { header, signature }.encode().len(), 257);
    let public = support::relays(1, G, &mut support::rng(1))[0].public().clone();
    for n in 0..3 {
        let keys = (0..n).map(|i| (RelayId([i; 32]), public.clone())).collect();
        assert_eq!(MixKeys { key_epoch: support::EPOCH, keys }.encode().len(), 12 + usize::from(n) * 1_248);
    }
    let requests = [
        (Request::PostDescriptor(vec![0; 10]), 11),
        (Request::GetConsensus { newer_than: Epoch(1) }, 9),
        (Request::GetMixKeys(Hash([1; 32])), 33),
        (Request::GetDescriptors(vec![Hash([1; 32]); 2]), 69),
        (Request::Vote(vec![0; 10]), 11),
        (Request::Echo(vec![0; 10]), 11),
        (Request::Signature(vec![0; 257]), 258),
        (Request::GetVote(Hash([1; 32])), 33),
        (Request::Withdraw(vec![0; 219]), 220),
        (Request::Proposal(vec![0; 10]), 11),
        (Request::GetRound, 1),
        (Request::Reach { client: true, address: "192.0.2.1:1".parse().unwrap() }, 9),
        (Request::GetConsensusDiff { base: Hash([1; 32]) }, 33),
        (Request::GetMixKeysDiff { base: Hash([1; 32]), to: Hash([2; 32]) }, 65),
    ];
    let mut codes = BTreeSet::new();
    for (request, size) in requests {
        let bytes = request.encode();
        codes.insert(bytes[0]);
        assert_eq!(bytes.len(), size, "code {}", bytes[0]);
    }
    assert_eq!(codes, registry::directory::ALL.iter().map(|(_, code)| *code).collect());
    assert_eq!(Reply::Ok(vec![0; 10]).encode().len(), 11);
    assert_eq!(Reply::<Vec<u8>>::None.encode().len(), 1);
    assert_eq!(Reply::<Vec<u8>>::Refused(Refusal::Busy).encode().len(), 2);
}

/// A size is exact only if nothing beside it is read: one byte less or more is refused.
#[test]
fn no_other_size_is_read() {
    let hello = Hello::new(G, Epoch(1), Hash([2; 32])).encode();
    let attach = Frame::Attach(Secret::new([1; 32])).encode();
    let request = Request::GetConsensus { newer_than: Epoch(1) }.encode();
    type Decode = fn(&[u8]) -> bool;
    let kinds: [(&[u8], Decode); 3] = [
        (&hello, |b| Hello::decode(b).is_ok()),
        (&attach, |b| Frame::decode(b).is_ok()),
        (&request, |b| Request::decode(b).is_ok()),
    ];
    for (bytes, decodes) in kinds {
        assert!(decodes(bytes) && !decodes(&bytes[..bytes.len() - 1]) && !decodes(&[bytes, &[0]].concat()));
    }
    for (command, _) in commands() {
        let bytes = Envelope { command, reply: Vec::new() }.encode(G).unwrap();
        let (length, body) = bytes.split_at(4);
        assert_eq!(usize::try_from(u32::from_le_bytes(length.try_into().unwrap())), Ok(body.len()));
        let padded = |body: &[u8]| {
            let mut w = Writer::default();
            w.bounded(body);
            w.finish()
        };
        assert!(Envelope::decode(&padded(body), G).is_ok());
        assert!(Envelope::decode(&padded(&body[..body.len() - 1]), G).is_err());
        assert!(Envelope::decode(&padded(&[body, &[0]].concat()), G).is_err());
    }
    assert!(Geometry::read(&mut Reader::new(&[4, 0, 64, 0])).is_err());
}
