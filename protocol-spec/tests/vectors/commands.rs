//! `commands.json`.

use core::time::Duration;

use posta_protocol::admission::{Proof, QueueKind, Solution};
use posta_protocol::codec::Writer;
use posta_protocol::command::{BlobCapability, Command, Envelope, ReaderCapability, WriterCapability};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{BlobId, InboxId, KeyEpoch, MessageId, QueueId, WriterId};
use posta_protocol::onion::build::Hop;
use posta_protocol::onion::reply::{ReplyBlock, reply_block};
use posta_protocol::params::{BLOB_LEN, BOX_LEN, MAX_BLOB_TTL, MAX_PASSWORD_LEN, MAX_SUBSCRIBE_SURBS};
use posta_protocol::registry::{admission, command as code};
use posta_protocol::secret::Secret;
use serde_json::Value;

use crate::files::{name, vectors};
use crate::hops::{Relay, geometry_json, geometry_of};
use crate::json::{Fields, Json, long, object};
use crate::recorder::Recorder;
use crate::replies::encode as block_bytes;

/// A code that no command has.
pub(crate) const UNKNOWN: u8 = 200;

/// A geometry whose reply blocks are short and whose content has room for everything.
pub(crate) fn roomy() -> Geometry {
    Geometry::new(1, 16_384).unwrap()
}

pub(crate) fn make() -> Vec<Json> {
    let rng = &mut Recorder::new("commands", "operands");
    let mut all: Vec<Json> = proofs(rng).into_iter().map(|(name, command)| one(name, command, roomy(), 0)).collect();
    all.extend(plain(rng).into_iter().map(|(name, command)| one(name, command, roomy(), 0)));
    all.push(one("echo, to be answered", Command::Echo, roomy(), 1));
    all.push(one("subscribe with three reply blocks", subscribe(rng), roomy(), MAX_SUBSCRIBE_SURBS));
    let body = rng.bytes(BOX_LEN).into();
    let send = Command::Send { writer: writer(rng), sequence: 65_537, body };
    all.push(one("send of a whole box, in the default geometry", send, Geometry::DEFAULT, 1));
    all.push(unknown("a command of a later version", &[], 1));
    all.push(unknown("a command of a later version, with operands", &rng.bytes(9), 1));
    all
}

fn reader(rng: &mut Recorder) -> ReaderCapability {
    ReaderCapability::new(Secret::new(rng.array()))
}

fn writer(rng: &mut Recorder) -> WriterCapability {
    WriterCapability::new(Secret::new(rng.array()))
}

fn subscribe(rng: &mut Recorder) -> Command {
    Command::Subscribe { reader: reader(rng), acked: 12, pace: 5_000 }
}

fn proofs(rng: &mut Recorder) -> Vec<(&'static str, Command)> {
    let solution = Proof::Solution(Solution { seed: rng.array(), nonce: 1 << 40 });
    let longest = Proof::Password(vec![b'x'; MAX_PASSWORD_LEN].into());
    let create = |rng: &mut Recorder, kind, proof| Command::Create {
        queue: QueueId(rng.array()),
        writer: WriterId(rng.array()),
        kind,
        proof,
    };
    let put = |rng: &mut Recorder, proof| Command::ContactSend {
        writer: writer(rng),
        message: MessageId(rng.array()),
        proof,
        body: rng.bytes(40).into(),
    };
    vec![
        ("create a plain queue, nothing asked", create(rng, QueueKind::Plain, Proof::Nothing)),
        ("create a contact queue, with a password", {
            create(rng, QueueKind::Contact, Proof::Password(b"open sesame".to_vec().into()))
        }),
        ("create a bulk queue, with a solution", create(rng, QueueKind::Bulk, solution.clone())),
        ("create with the longest password", create(rng, QueueKind::Plain, longest)),
        ("create with an empty password", create(rng, QueueKind::Plain, Proof::Password(Vec::new().into()))),
        ("send to a contact queue, nothing asked", put(rng, Proof::Nothing)),
        ("send to a contact queue, with a solution", put(rng, solution)),
    ]
}

fn plain(rng: &mut Recorder) -> Vec<(&'static str, Command)> {
    let most = u16::try_from(MAX_BLOB_TTL.as_secs() / 3600).unwrap();
    let blob = |rng: &mut Recorder, one_time, hours| Command::BlobPut {
        put: writer(rng),
        get: BlobId(rng.array()),
        one_time,
        hours,
        body: rng.bytes(BLOB_LEN).into(),
    };
    vec![
        ("secure", Command::Secure { invited: writer(rng), writer: WriterId(rng.array()) }),
        ("send", Command::Send { writer: writer(rng), sequence: 1, body: rng.bytes(100).into() }),
        ("send of nothing", Command::Send { writer: writer(rng), sequence: 2, body: [].into() }),
        ("subscribe without reply blocks", subscribe(rng)),
        ("fetch", Command::Fetch { reader: reader(rng), after: 41 }),
        ("ack", Command::Ack { reader: reader(rng), up_to: 42 }),
        ("delete", Command::Delete { reader: reader(rng) }),
        ("info", Command::Info { reader: reader(rng) }),
        ("suspend", Command::Suspend { reader: reader(rng) }),
        ("resume", Command::Resume { reader: reader(rng) }),
        ("extend", Command::Extend { reader: reader(rng) }),
        ("put a one-time blob", blob(rng, true, 24)),
        ("put a blob for the longest time", blob(rng, false, most)),
        ("get a blob", {
            let get = BlobCapability::new(Secret::new(rng.array()));
            Command::BlobGet { get, reader: Secret::new(rng.array()) }
        }),
        ("delete a blob", Command::BlobDelete { put: writer(rng) }),
        ("echo", Command::Echo),
    ]
}

/// A reply block of one hop. The same name and number give the same block.
pub(crate) fn block(name: &str, i: usize, geometry: Geometry) -> ReplyBlock {
    let rng = &mut Recorder::new("commands", &format!("reply block {i} of {name}"));
    let relays = Relay::draw(1, rng);
    let hop = Hop { relay: relays[0].id, key: &relays[0].key, delay: Duration::ZERO };
    reply_block(geometry, KeyEpoch(9), &[hop], InboxId(rng.array()), rng).unwrap().0
}

fn one(name: &str, command: Command, geometry: Geometry, blocks: usize) -> Json {
    let (code, fields) = describe(&command);
    let reply = (0..blocks).map(|i| block(name, i, geometry)).collect();
    let envelope = Envelope { command, reply };
    let bytes = envelope.encode(geometry).unwrap();
    entry(name, code, geometry, fields, &envelope.reply, bytes)
}

/// By hand: what a later version may send. Its last reply block is found by counting from the end.
fn unknown(name: &str, operands: &[u8], blocks: usize) -> Json {
    let reply: Vec<_> = (0..blocks).map(|i| block(name, i, roomy())).collect();
    let mut body = [&[UNKNOWN], operands, &[u8::try_from(blocks).unwrap()]].concat();
    reply.iter().for_each(|b| body.extend(block_bytes(b)));
    let bytes = [u32::try_from(body.len()).unwrap().to_le_bytes().as_slice(), &body].concat();
    entry(name, UNKNOWN, roomy(), object! { "operands": operands }, &reply, bytes)
}

fn entry(name: &str, code: u8, geometry: Geometry, fields: Json, reply: &[ReplyBlock], bytes: Vec<u8>) -> Json {
    object! {
        "name": name,
        "code": code,
        "geometry": geometry_json(geometry),
        "fields": fields,
        "reply_blocks": reply.iter().map(|b| Json::from(block_bytes(b))).collect::<Vec<_>>(),
        "bytes": bytes,
    }
}

fn raw(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    write(&mut w);
    w.finish()
}

/// Boxes and blobs; long ones stand at the end of the encoding only.
pub(crate) fn body_json(body: &[u8]) -> Json {
    long(body, 1_000)
}

fn proof(proof: &Proof) -> Json {
    match proof {
        Proof::Nothing => object! { "code": admission::OPEN },
        Proof::Password(password) => object! { "code": admission::PASSWORD, "password": password.as_slice() },
        Proof::Solution(s) => object! { "code": admission::PUZZLE, "seed": s.seed, "nonce": s.nonce },
    }
}

fn describe(command: &Command) -> (u8, Json) {
    let by_reader = |reader: &ReaderCapability| object! { "reader": raw(|w| reader.write(w)) };
    match command {
        Command::Create { queue, writer, kind, proof: p } => (
            code::CREATE,
            object! { "queue": queue.0, "writer": writer.0, "queue_kind": kind.code(), "proof": proof(p) },
        ),
        Command::Secure { invited, writer } => {
            (code::SECURE, object! { "invited": raw(|w| invited.write(w)), "writer": writer.0 })
        }
        Command::Send { writer, sequence, body } => {
            (code::SEND, object! { "writer": raw(|w| writer.write(w)), "sequence": *sequence, "body": body_json(body) })
        }
        Command::ContactSend { writer, message, proof: p, body } => (
            code::CONTACT_SEND,
            object! {
                "writer": raw(|w| writer.write(w)), "message": message.0, "proof": proof(p), "body": body_json(body),
            },
        ),
        Command::Subscribe { reader, acked, pace } => {
            (code::SUBSCRIBE, by_reader(reader).with("acked", *acked).with("pace", *pace))
        }
        Command::Fetch { reader, after } => (code::FETCH, by_reader(reader).with("after", *after)),
        Command::Ack { reader, up_to } => (code::ACK, by_reader(reader).with("up_to", *up_to)),
        Command::Delete { reader } => (code::DELETE, by_reader(reader)),
        Command::Info { reader } => (code::INFO, by_reader(reader)),
        Command::Suspend { reader } => (code::SUSPEND, by_reader(reader)),
        Command::Resume { reader } => (code::RESUME, by_reader(reader)),
        Command::Extend { reader } => (code::EXTEND, by_reader(reader)),
        Command::BlobPut { put, get, one_time, hours, body } => (
            code::BLOB_PUT,
            object! {
                "put": raw(|w| put.write(w)), "get": get.0, "one_time": *one_time, "hours": *hours, "body": body_json(body),
            },
        ),
        Command::BlobGet { get, reader } => {
            (code::BLOB_GET, object! { "get": raw(|w| get.write(w)), "reader": *reader.expose() })
        }
        Command::BlobDelete { put } => (code::BLOB_DELETE, object! { "put": raw(|w| put.write(w)) }),
        Command::Echo => (code::ECHO, object! {}),
        other => panic!("{other:?} has no description yet"),
    }
}

#[test]
fn commands_decode_from_the_file_alone() {
    for vector in vectors("commands") {
        let geometry = geometry_of(&vector);
        let bytes = vector.at("bytes").bytes();
        let mut padded = bytes.clone();
        padded.resize(geometry.content_len(), 0);
        let envelope = Envelope::decode(&padded, geometry).unwrap();
        let blocks: Vec<Value> = envelope.reply.iter().map(|b| Json::from(block_bytes(b)).value()).collect();
        assert_eq!(blocks, vector.at("reply_blocks").items(), "{}", name(&vector));
        if envelope.command == Command::Unknown(UNKNOWN) {
            assert_eq!(vector.at("code").number(), u64::from(UNKNOWN));
            continue;
        }
        assert_eq!(envelope.encode(geometry).unwrap(), bytes, "{}", name(&vector));
        let (code, fields) = describe(&envelope.command);
        assert_eq!((u64::from(code), &fields.value()), (vector.at("code").number(), vector.at("fields")));
    }
}
