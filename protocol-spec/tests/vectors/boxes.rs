//! `boxes.json`.

use posta_protocol::crypto::{self, context};
use posta_protocol::end_to_end::{Content, Inner, InnerKind, Kind, MAX_MESSAGE_LEN, QueueAddress, QueueKey};
use posta_protocol::ids::{Epoch, Hash, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::{BOX_CONTENT_LEN, BOX_LEN};
use posta_protocol::registry::{content as code, inner as within};
use posta_protocol::secret::Secret;
use serde_json::Value;

use crate::commands::{UNKNOWN, body_json};
use crate::files::{name, of_kind};
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

pub(crate) fn make() -> Vec<Json> {
    let rng = &mut Recorder::new("boxes", "contents");
    let addresses = |n: usize, rng: &mut Recorder| Kind::Queues((0..n).map(|_| address(rng)).collect());
    let expires = Wall(1_700_000_000_000);
    let mut all = vec![
        content("a message", Kind::Message { number: 1, expires, body: b"Hello, Bruno.".to_vec() }, rng),
        content("the shortest message", Kind::Message { number: 2, expires, body: Vec::new() }, rng),
        content("the longest message", Kind::Message { number: 3, expires, body: rng.bytes(MAX_MESSAGE_LEN) }, rng),
        content(
            "a message that disappears",
            Kind::Fleeting { number: 4, expires, after: 3_600, body: b"Hush.".to_vec() },
            rng,
        ),
        content("a receipt", Kind::Receipt { up_to: 1_000_000 }, rng),
        content("one queue", addresses(1, rng), rng),
        content("eight queues", addresses(8, rng), rng),
        content("a renewal", renewal(rng), rng),
        content("a key package", Kind::KeyPackage { up_to: 7, from: 3, key_package: rng.bytes(60) }, rng),
        later(rng),
    ];
    let queues = (0..2).map(|_| address(rng)).collect();
    all.push(content("queues that have moved", Kind::Moved { generation: 3, queues }, rng));
    all.extend(
        [("a sealed box", 90), ("a sealed box of nothing", 0), ("a full sealed box", BOX_CONTENT_LEN)].map(sealed),
    );
    all.extend(insides());
    all.push(of_a_conversation());
    all
}

fn insides() -> Vec<Json> {
    let rng = &mut Recorder::new("boxes", "insides");
    let [message, commit] = [rng.bytes(40), rng.bytes(60)];
    let turn = |answer| InnerKind::Turn { answer, commit: commit.clone(), message: message.clone() };
    [
        ("an inside with a message of the application", 7, InnerKind::Message(message.clone())),
        ("an inside with a receipt", 0, InnerKind::Message(message.clone())),
        ("an inside with a turn", 0, turn(false)),
        ("an inside with an answer", 0, turn(true)),
        ("an inside with a welcome", 0, InnerKind::Welcome { welcome: commit.clone(), message: message.clone() }),
    ]
    .map(|(name, number, kind)| inner(name, &Inner { number, kind }))
    .into()
}

fn inner(name: &str, inner: &Inner) -> Json {
    let (code, handshake, message) = match &inner.kind {
        InnerKind::Message(message) => (within::MESSAGE, None, message),
        InnerKind::Turn { answer, commit, message } => {
            (if *answer { within::ANSWER } else { within::TURN }, Some(commit), message)
        }
        InnerKind::Welcome { welcome, message } => (within::WELCOME, Some(welcome), message),
        other => panic!("{other:?} has no description yet"),
    };
    let handshake = handshake.cloned().unwrap_or_default();
    object! {
        "name": name, "kind": "inside", "number": inner.number, "code": code, "handshake": handshake,
        "message": message.clone(), "bytes": inner.encode(),
    }
}

/// The box is as any other; only its key comes from elsewhere.
fn of_a_conversation() -> Json {
    let name = "the key of a conversation's boxes";
    let rng = &mut Recorder::new("boxes", name);
    let (exported, key): ([u8; 32], [u8; 32]) = (rng.array(), rng.array());
    let sealing_key = crypto::derive(context::CONVERSATION_BOX, &[exported, key].concat());
    object! {
        "name": name, "kind": "conversation key", "exported": exported, "key": key,
        "sealing_key": *sealing_key.expose(),
    }
}

pub(crate) fn address(rng: &mut Recorder) -> QueueAddress {
    QueueAddress { relay: RelayId(rng.array()), invited: Secret::new(rng.array()), key: Secret::new(rng.array()) }
}

pub(crate) fn addresses_json(list: &[QueueAddress]) -> Vec<Json> {
    let one = |q: &QueueAddress| {
        object! { "relay": q.relay.0, "invited": *q.invited.expose(), "key": *q.key.expose() }
    };
    list.iter().map(one).collect()
}

fn content(name: &str, kind: Kind, rng: &mut Recorder) -> Json {
    let content = Content { epoch: Epoch(472_222), consensus: Hash(rng.array()), kind };
    describe(name, &content)
}

fn describe(name: &str, content: &Content) -> Json {
    let (code, fields) = match &content.kind {
        Kind::Message { number, expires, body } => {
            (code::MESSAGE, object! { "number": *number, "expires_ms": expires.0, "body": body_json(body) })
        }
        Kind::Fleeting { number, expires, after, body } => (
            code::FLEETING,
            object! { "number": *number, "expires_ms": expires.0, "after_s": *after, "body": body_json(body) },
        ),
        Kind::Receipt { up_to } => (code::RECEIPT, object! { "up_to": *up_to }),
        Kind::Moved { generation, queues } => {
            (code::MOVED, object! { "generation": *generation, "queues": addresses_json(queues) })
        }
        Kind::Queues(list) => (code::QUEUES, object! { "queues": addresses_json(list) }),
        Kind::Renewal { have, alone, generation, queues } => {
            let queues = addresses_json(queues);
            let alone = u64::from(*alone);
            (code::RENEWAL, object! { "have": *have, "alone": alone, "generation": *generation, "queues": queues })
        }
        Kind::KeyPackage { up_to, from, key_package } => {
            (code::KEY_PACKAGE, object! { "up_to": *up_to, "from": *from, "key_package": key_package.clone() })
        }
        other => panic!("{other:?} has no description yet"),
    };
    entry(name, content.epoch, content.consensus, code, fields, content.encode())
}

fn entry(name: &str, epoch: Epoch, consensus: Hash, code: u8, fields: Json, bytes: Vec<u8>) -> Json {
    object! {
        "name": name, "kind": "content", "epoch": epoch.0, "consensus": consensus.0, "code": code, "fields": fields,
        "bytes": bytes,
    }
}

fn renewal(rng: &mut Recorder) -> Kind {
    Kind::Renewal { have: 41, alone: true, generation: 9, queues: vec![address(rng), address(rng)] }
}

/// By hand: what a later version may say.
fn later(rng: &mut Recorder) -> Json {
    let (epoch, consensus, operands) = (Epoch(1), rng.array::<32>(), rng.bytes(12));
    let bytes = [epoch.0.to_le_bytes().as_slice(), &consensus, &[UNKNOWN], &operands].concat();
    let fields = object! { "operands": operands };
    entry("a content of a later version: ignored", epoch, Hash(consensus), UNKNOWN, fields, bytes)
}

fn sealed((name, len): (&str, usize)) -> Json {
    let rng = &mut Recorder::new("boxes", name);
    let (key, content) = (Secret::new(rng.array()), rng.bytes(len));
    let sealed = QueueKey::new(&key).seal(&content, rng).unwrap();
    let nonce = rng.take().remove(0);
    assert_eq!(sealed.len(), BOX_LEN);
    object! {
        "name": name, "kind": "sealed box", "key": *key.expose(),
        "sealing_key": *crypto::derive(context::BOX, key.expose()).expose(), "nonce": nonce, "content": content,
        "bytes": sealed,
    }
}

#[test]
fn contents_decode_from_the_file_alone() {
    for vector in of_kind("boxes", "content") {
        let content = Content::decode(&vector.at("bytes").bytes()).unwrap();
        match content.kind {
            Kind::Unknown(n) => assert_eq!(u64::from(n), vector.at("code").number()),
            _ => assert_eq!(describe(name(&vector), &content).value(), vector),
        }
    }
}

#[test]
fn insides_decode_from_the_file_alone() {
    for vector in of_kind("boxes", "inside") {
        let decoded = Inner::decode(&vector.at("bytes").bytes()).unwrap();
        assert_eq!(inner(name(&vector), &decoded).value(), vector);
    }
}

#[test]
fn boxes_open_from_the_file_alone() {
    let open = |v: &Value| QueueKey::new(&Secret::new(v.at("key").array())).open(&v.at("bytes").bytes()).unwrap();
    for vector in of_kind("boxes", "sealed box") {
        assert_eq!(open(&vector), vector.at("content").bytes());
    }
    for vector in of_kind("boxes", "conversation key") {
        let [exported, key] = ["exported", "key"].map(|k| Secret::new(vector.at(k).array()));
        let sealed = QueueKey::within(&exported, &key).seal(b"inside", &mut Recorder::new("boxes", "opened")).unwrap();
        let (nonce, rest) = sealed.split_first_chunk().unwrap();
        let (cipher, tag) = rest.split_last_chunk().unwrap();
        let mut inner = cipher.to_vec();
        crypto::open(&vector.at("sealing_key").array(), *nonce, &[], &mut inner, tag).unwrap();
        assert_eq!(&inner[4..10], b"inside");
    }
}
