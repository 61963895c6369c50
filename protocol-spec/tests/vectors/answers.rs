//! `answers.json`.

use posta_protocol::admission::{Asks, Puzzle, QueueKind};
use posta_protocol::answer::{Answer, Body, Info};
use posta_protocol::ids::Incarnation;
use posta_protocol::params::{BLOB_LEN, MAX_PUZZLE_EFFORT};
use posta_protocol::registry::{admission, answer as code};

use crate::commands::{UNKNOWN, body_json};
use crate::files::{name, vectors};
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

pub(crate) fn make() -> Vec<Json> {
    let mut all: Vec<Json> = bodies().into_iter().map(|(name, body)| one(name, body)).collect();
    let refusals = code::ALL.iter().filter(|(_, c)| *c >= code::FULL && *c != code::NOT_ADMITTED);
    all.extend(refusals.map(|(constant, c)| one(&format!("refused: {constant}"), Body::Refused(*c))));
    all.push(later());
    all
}

fn bodies() -> Vec<(&'static str, Body)> {
    let rng = &mut Recorder::new("answers", "bodies");
    let told = |kind, secured, suspended, retiring| {
        let (held, room, highest, acked, hours) = (3, 125, 70_000, 69_997, 2_160);
        Body::Info(Info { kind, secured, suspended, retiring, held, room, highest, acked, hours })
    };
    let info = |kind, secured, suspended| told(kind, secured, suspended, false);
    let puzzle = |effort, rng: &mut Recorder| Body::NotAdmitted(Asks::Puzzle(Puzzle { effort, seed: rng.array() }));
    vec![
        ("done", Body::Ok),
        ("a message", Body::Message { sequence: 5, left: 6, body: rng.bytes(60).into() }),
        ("no message", Body::Empty),
        ("a blob", Body::Blob(rng.bytes(BLOB_LEN).into())),
        ("stored in a bulk queue", Body::Stored { through: 300, room: 212 }),
        ("info on a new queue", info(QueueKind::Plain, false, false)),
        ("info on a secured queue", info(QueueKind::Plain, true, false)),
        ("info on a suspended contact queue", info(QueueKind::Contact, false, true)),
        ("info on a bulk queue, secured and suspended", info(QueueKind::Bulk, true, true)),
        ("info on a queue of a relay that retires", told(QueueKind::Plain, true, false, true)),
        ("not admitted, asks for nothing", Body::NotAdmitted(Asks::Nothing)),
        ("not admitted without the password", Body::NotAdmitted(Asks::Password)),
        ("not admitted without a solution", puzzle(18, rng)),
        ("not admitted without the hardest solution", puzzle(MAX_PUZZLE_EFFORT, rng)),
    ]
}

fn one(name: &str, body: Body) -> Json {
    let incarnation = Incarnation(Recorder::new("answers", name).array());
    let (code, fields) = describe(&body);
    let answer = Answer { incarnation, body };
    object! {
        "name": name, "code": code, "incarnation": incarnation.0, "fields": fields, "bytes": answer.encode(),
    }
}

/// By hand: a refusal that this version doesn't know, with operands that it doesn't read.
fn later() -> Json {
    let name = "refused for a reason of a later version";
    let rng = &mut Recorder::new("answers", name);
    let (incarnation, operands) = (rng.array::<16>(), rng.bytes(7));
    let body = [&[UNKNOWN], incarnation.as_slice(), &operands].concat();
    let bytes = [u32::try_from(body.len()).unwrap().to_le_bytes().as_slice(), &body].concat();
    let fields = object! { "operands": operands };
    object! { "name": name, "code": UNKNOWN, "incarnation": incarnation, "fields": fields, "bytes": bytes }
}

fn describe(body: &Body) -> (u8, Json) {
    match body {
        Body::Ok => (code::OK, object! {}),
        Body::Message { sequence, left, body } => {
            (code::MESSAGE, object! { "sequence": *sequence, "left": *left, "body": body_json(body) })
        }
        Body::Empty => (code::EMPTY, object! {}),
        Body::Blob(body) => (code::BLOB, object! { "body": body_json(body) }),
        Body::Stored { through, room } => (code::STORED, object! { "through": *through, "room": *room }),
        Body::Info(i) => (
            code::INFO,
            object! {
                "queue_kind": i.kind.code(), "secured": i.secured, "suspended": i.suspended, "retiring": i.retiring, "held": i.held,
                "room": i.room, "highest": i.highest, "acked": i.acked, "hours": i.hours,
            },
        ),
        Body::NotAdmitted(asks) => (code::NOT_ADMITTED, object! { "asks": describe_asks(asks) }),
        Body::Refused(code) => (*code, object! {}),
        other => panic!("{other:?} has no description yet"),
    }
}

fn describe_asks(asks: &Asks) -> Json {
    match asks {
        Asks::Nothing => object! { "code": admission::OPEN },
        Asks::Password => object! { "code": admission::PASSWORD },
        Asks::Puzzle(p) => object! { "code": admission::PUZZLE, "effort": p.effort, "seed": p.seed },
    }
}

#[test]
fn answers_decode_from_the_file_alone() {
    for vector in vectors("answers") {
        let bytes = vector.at("bytes").bytes();
        let padded = [bytes.as_slice(), &[0; 50]].concat();
        let answer = Answer::decode(&padded).unwrap();
        assert_eq!(answer.incarnation.0, vector.at("incarnation").array());
        let (code, fields) = describe(&answer.body);
        assert_eq!(u64::from(code), vector.at("code").number(), "{}", name(&vector));
        if code != UNKNOWN {
            assert_eq!(&fields.value(), vector.at("fields"), "{}", name(&vector));
            assert_eq!(answer.encode(), bytes, "{}", name(&vector));
        }
    }
}
