//! `reply.json`.

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch};
use posta_protocol::onion::reply::{ReplyBlock, reply_block};
use posta_protocol::packet::Packet;
use posta_protocol::params::{DEFAULT_HOPS, DEFAULT_PAYLOAD_LEN};

use crate::files::vectors;
use crate::hops::{self, Relay, assert_long, geometry_json, geometry_of, path, path_json};
use crate::json::{Fields, Json, long, object};
use crate::recorder::Recorder;

/// Geometry, hops of the path, length of the answer.
type Case = (&'static str, (usize, usize), usize, usize);

const CASES: [Case; 4] = [
    ("one hop", (1, 64), 1, 64),
    ("a path shorter than the geometry", (3, 100), 2, 21),
    ("four hops", (4, 64), 4, 40),
    ("the default geometry", (DEFAULT_HOPS, DEFAULT_PAYLOAD_LEN), 4, 1000),
];

pub(crate) fn make() -> Vec<Json> {
    CASES.iter().map(one).collect()
}

fn one(&(name, (hops, payload), steps, content_len): &Case) -> Json {
    let rng = &mut Recorder::new("reply", name);
    let geometry = Geometry::new(hops, payload).unwrap();
    let relays = Relay::draw(steps, rng);
    let epoch = KeyEpoch(u64::from_le_bytes(rng.array()) % 1_000_000);
    let delays: Vec<u64> = (1..steps as u64).map(|i| 70_000 * i).collect();
    let (way, inbox) = (path(&relays, &delays), rng.array());
    let content = rng.bytes(content_len);

    let (block, keys) = reply_block(geometry, epoch, &way, InboxId(inbox), rng).unwrap();
    let draws = rng.take();
    let (surb, end_key) = (draws.first().unwrap().clone(), draws.last().unwrap().clone());
    assert_eq!(keys.surb.0.as_slice(), surb);
    let (path, unused) = path_json(&way, &relays, &draws[1..draws.len() - 1]);
    let encoded = encode(&block);
    let (first, mut reply) = block.reply(geometry, &content).unwrap();
    assert_eq!(first, relays[0].id);
    let (hops, payload) = hops::travel(geometry, epoch, &relays, &mut reply);
    let recovered = keys.open(reply.as_bytes()[geometry.header_len()..].into()).unwrap();
    assert_eq!(recovered[..content_len], content);

    object! {
        "name": name,
        "geometry": geometry_json(geometry),
        "key_epoch": epoch.0,
        "path": path,
        "inbox": inbox,
        "surb": surb,
        "unused_random": unused,
        "end_key": end_key,
        "block": encoded,
        "content": content,
        "hops": hops,
        "payload": payload,
        "recovered": long(&recovered, 300),
    }
}

pub(crate) fn encode(block: &ReplyBlock) -> Vec<u8> {
    let mut w = Writer::default();
    block.write(&mut w);
    w.finish()
}

#[test]
fn replies_are_made_carried_and_recovered_from_the_file_alone() {
    for vector in vectors("reply") {
        let (geometry, content) = (geometry_of(&vector), vector.at("content").bytes());
        let bytes = vector.at("block").bytes();
        assert_eq!(bytes.len(), ReplyBlock::encoded_len(geometry));
        let mut r = Reader::new(&bytes);
        let block = ReplyBlock::read(&mut r, geometry).unwrap();
        r.finish("reply block").unwrap();
        assert_eq!(encode(&block), bytes);
        let (first, packet) = block.reply(geometry, &content).unwrap();
        assert_eq!(vector.at("path").items()[0].at("relay").bytes(), first.0);
        assert_long(vector.at("hops").items()[0].at("packet"), Packet::as_bytes(&packet));

        let mut payload = hops::peel_from_file(&vector);
        assert_long(vector.at("payload"), &payload);
        let last = vector.at("hops").items().last().unwrap().at("command");
        assert_eq!((last.at("inbox"), last.at("surb")), (vector.at("inbox"), vector.at("surb")));
        for hop in vector.at("hops").items().iter().rev() {
            WideBlock::new(&hop.at("payload_key").array()).forward(&mut payload);
        }
        WideBlock::new(&vector.at("end_key").array()).inverse(&mut payload);
        assert_eq!(payload[..32], [0; 32]);
        assert_long(vector.at("recovered"), &payload[32..]);
        assert_eq!(payload[32..32 + content.len()], content);
        assert!(payload[32 + content.len()..].iter().all(|b| *b == 0));
    }
}
