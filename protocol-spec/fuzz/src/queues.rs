//! What travels in the innermost layer: commands, answers, admission. And the geometry, on which they depend.

use posta_protocol::admission::{Asks, Proof, Puzzle, QueueKind, Solution, Statement};
use posta_protocol::answer::{Answer, Body, Info};
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::{BlobCapability, Command, Envelope, ReaderCapability, WriterCapability};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{BlobId, Incarnation, MessageId, QueueId, WriterId};
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::params::BLOB_LEN;
use posta_protocol::secret::Secret;

use super::{bounded, fitted, onion, same};

pub(crate) fn geometry(input: &[u8]) {
    let mut r = Reader::new(input);
    let Ok(g) = bounded(input.len(), || Geometry::read(&mut r)) else { return };
    if r.finish("geometry").is_err() {
        return;
    }
    let mut w = Writer::default();
    g.write(&mut w);
    same(input, &w.finish(), "geometry");
    assert_eq!(Geometry::new(g.hops(), g.content_len()), Ok(g));
    assert_eq!(g.packet_len(), g.header_len() + g.payload_len());
    assert!(g.routing_len() < g.header_len() && g.content_len() < g.payload_len());
}

pub(crate) fn geometry_seeds() -> Vec<Vec<u8>> {
    [Geometry::DEFAULT, onion::geometry(1, 1), onion::geometry(8, 64 * 1024)]
        .map(|g| {
            let mut w = Writer::default();
            g.write(&mut w);
            w.finish()
        })
        .into()
}

/// The default geometry; the smallest, in which no command fits; two in which a reply block just fits, and just does not.
fn geometries() -> [Geometry; 4] {
    let one_block = ReplyBlock::encoded_len(onion::geometry(1, 1));
    [Geometry::DEFAULT, onion::geometry(1, 1), onion::geometry(1, one_block + 6), onion::geometry(1, one_block + 5)]
}

pub(crate) fn command(input: &[u8]) {
    for g in geometries() {
        // As it is, for what may be allocated; then as a relay gets it, of the geometry's length.
        let _ = bounded(input.len(), || Envelope::decode(input, g));
        let content = fitted(input, g.content_len());
        let Ok(envelope) = Envelope::decode(&content, g) else { continue };
        let encoded = envelope.encode(g).expect("what fitted into a packet fits into one again");
        if !matches!(envelope.command, Command::Unknown(_)) {
            same(&content[..encoded.len()], &encoded, "command");
        }
        let again = Envelope::decode(&fitted(&encoded, g.content_len()), g).expect("an encoding decodes");
        assert_eq!(again.command, envelope.command);
        assert_eq!(again.reply.len(), envelope.reply.len());
        same(&encoded, &again.encode(g).expect("as before"), "command, again");
    }
}

pub(crate) fn command_seeds() -> Vec<Vec<u8>> {
    let secret = |n| Secret::new([n; 32]);
    let (writer, reader) = (|n| WriterCapability::new(secret(n)), || ReaderCapability::new(secret(1)));
    let create = |kind, proof| Command::Create { queue: QueueId([1; 32]), writer: WriterId([2; 32]), kind, proof };
    let solution = || Proof::Solution(Solution { seed: [3; 16], nonce: 4 });
    let body = || vec![5; 40].into_boxed_slice();
    let commands = vec![
        create(QueueKind::Plain, Proof::Nothing),
        create(QueueKind::Contact, Proof::Password(b"open sesame".to_vec().into())),
        create(QueueKind::Bulk, solution()),
        Command::Secure { invited: writer(1), writer: WriterId([2; 32]) },
        Command::Send { writer: writer(2), sequence: 3, body: body() },
        Command::ContactSend { writer: writer(3), message: MessageId([4; 16]), proof: solution(), body: body() },
        Command::Subscribe { reader: reader(), acked: 2, pace: 3 },
        Command::Fetch { reader: reader(), after: 2 },
        Command::Ack { reader: reader(), up_to: 2 },
        Command::Delete { reader: reader() },
        Command::Info { reader: reader() },
        Command::Suspend { reader: reader() },
        Command::Resume { reader: reader() },
        Command::Extend { reader: reader() },
        Command::BlobPut {
            put: writer(4),
            get: BlobId([5; 32]),
            one_time: true,
            hours: 24,
            body: vec![6; BLOB_LEN].into(),
        },
        Command::BlobGet { get: BlobCapability::new(secret(7)), reader: secret(8) },
        Command::BlobDelete { put: writer(9) },
        Command::Echo,
        Command::Unknown(200),
    ];
    let alone = |command| Envelope { command, reply: vec![] }.encode(Geometry::DEFAULT);
    let mut seeds: Vec<_> = commands.into_iter().flat_map(alone).collect();
    for g in geometries() {
        for n in 1..=3 {
            let reply = || (0..n).map(|_| onion::block(g).0).collect();
            let subscribe =
                Envelope { command: Command::Subscribe { reader: reader(), acked: 0, pace: 0 }, reply: reply() };
            let unknown = Envelope { command: Command::Unknown(99), reply: reply() };
            let echo = Envelope { command: Command::Echo, reply: reply() };
            seeds.extend([subscribe, unknown, echo].iter().flat_map(|envelope| envelope.encode(g)));
        }
    }
    seeds
}

pub(crate) fn answer(input: &[u8]) {
    let Ok(answer) = bounded(input.len(), || Answer::decode(input)) else { return };
    let encoded = answer.encode();
    if !matches!(answer.body, Body::Refused(_)) {
        same(&input[..encoded.len()], &encoded, "answer");
    }
    assert_eq!(Answer::decode(&encoded), Ok(answer));
}

pub(crate) fn answer_seeds() -> Vec<Vec<u8>> {
    let info = Info {
        kind: QueueKind::Contact,
        secured: true,
        suspended: false,
        retiring: false,
        held: 1,
        room: 2,
        highest: 3,
        acked: 4,
        hours: 5,
    };
    let mut bodies = vec![
        Body::Ok,
        Body::Message { sequence: 1, left: 2, body: vec![3; 40].into() },
        Body::Empty,
        Body::Blob(vec![4; 60].into()),
        Body::Stored { through: 5, room: 6 },
        Body::Info(info),
        Body::NotAdmitted(Asks::Puzzle(Puzzle { effort: 20, seed: [7; 16] })),
        Body::NotAdmitted(Asks::Password),
    ];
    bodies.extend([16, 26, 99].map(Body::Refused));
    bodies.into_iter().map(|body| Answer { incarnation: Incarnation([8; 16]), body }.encode()).collect()
}

pub(crate) fn admission(input: &[u8]) {
    let mut r = Reader::new(input);
    if let Ok(asks) = bounded(input.len(), || Asks::read(&mut r))
        && r.finish("asks").is_ok()
    {
        let mut w = Writer::default();
        asks.write(&mut w);
        same(input, &w.finish(), "asks");
        if let Asks::Puzzle(puzzle) = asks {
            let statement = Statement::send(&WriterId([1; 32]), &MessageId([2; 16]));
            let solution = puzzle.solve(&statement, u64::MAX, 4);
            assert!(solution.is_none_or(|s| s.effort(&statement) >= u32::from(puzzle.effort)));
        }
    }
    let mut r = Reader::new(input);
    if let Ok(proof) = bounded(input.len(), || Proof::read(&mut r))
        && r.finish("proof").is_ok()
    {
        let mut w = Writer::default();
        proof.write(&mut w);
        same(input, &w.finish(), "proof");
        if let Proof::Solution(solution) = proof {
            let statement = Statement::create(&QueueId([1; 32]), &WriterId([2; 32]), QueueKind::Plain);
            assert!(solution.effort(&statement) <= 256);
        }
    }
}

pub(crate) fn admission_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for asks in [Asks::Nothing, Asks::Password, Asks::Puzzle(Puzzle { effort: 40, seed: [1; 16] })] {
        let mut w = Writer::default();
        asks.write(&mut w);
        seeds.push(w.finish());
    }
    let password = Proof::Password(vec![2; 64].into());
    for proof in [Proof::Nothing, password, Proof::Solution(Solution { seed: [3; 16], nonce: 4 })] {
        let mut w = Writer::default();
        proof.write(&mut w);
        seeds.push(w.finish());
    }
    seeds
}
