//! `packet.json`.

use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, SurbId};
use posta_protocol::onion::build::{Last, packet};
use posta_protocol::params::{DEFAULT_HOPS, DEFAULT_PAYLOAD_LEN, MAX_HOP_DELAY};
use posta_protocol::registry::hop;

use crate::files::vectors;
use crate::hops::{self, Relay, geometry_json, path, path_json};
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

#[derive(Clone, Copy)]
enum End {
    Queue,
    Inbox,
    Drop,
}

/// Geometry, hops of the path, length of the content, what the last hop does.
type Case = (&'static str, (usize, usize), usize, usize, End);

const CASES: [Case; 11] = [
    ("one hop", (1, 64), 1, 64, End::Queue),
    ("two hops", (2, 64), 2, 10, End::Queue),
    ("the shortest payload", (2, 1), 2, 1, End::Queue),
    ("three hops", (3, 256), 3, 256, End::Queue),
    ("a path shorter than the geometry", (3, 100), 2, 77, End::Queue),
    ("cover to itself: one hop of four", (4, 64), 1, 0, End::Drop),
    ("four hops to an inbox", (4, 64), 4, 64, End::Inbox),
    ("six hops", (6, 64), 6, 33, End::Queue),
    ("eight hops", (8, 64), 8, 64, End::Queue),
    ("the default geometry, little content", (DEFAULT_HOPS, DEFAULT_PAYLOAD_LEN), 4, 100, End::Queue),
    ("the default geometry, full", (DEFAULT_HOPS, DEFAULT_PAYLOAD_LEN), 4, DEFAULT_PAYLOAD_LEN, End::Queue),
];

pub(crate) fn make() -> Vec<Json> {
    CASES.iter().map(one).collect()
}

fn one(&(name, (hops, payload), steps, content_len, end): &Case) -> Json {
    let rng = &mut Recorder::new("packet", name);
    let geometry = Geometry::new(hops, payload).unwrap();
    let relays = Relay::draw(steps, rng);
    let epoch = KeyEpoch(u64::from_le_bytes(rng.array()) % 1_000_000);
    // The first hop holds it for the longest time that there is; the last hop's delay has no effect.
    let mut delays: Vec<u64> = (0..steps as u64).map(|i| 1_000 * i).collect();
    delays[0] = u64::try_from(MAX_HOP_DELAY.as_micros()).unwrap();
    delays[steps - 1] = 0;
    let way = path(&relays, &delays);
    let (last, last_json) = match end {
        End::Queue => (Last::Queue, object! { "code": hop::QUEUE }),
        End::Drop => (Last::Drop, object! { "code": hop::DROP }),
        End::Inbox => {
            let (inbox, surb) = (rng.array(), rng.array());
            (Last::Inbox(InboxId(inbox), SurbId(surb)), object! { "code": hop::INBOX, "inbox": inbox, "surb": surb })
        }
    };
    let content = rng.bytes(content_len);
    let mut built = packet(geometry, epoch, &way, last, &content, rng).unwrap();
    let (path, unused) = path_json(&way, &relays, &rng.take());
    let (hops, payload) = hops::travel(geometry, epoch, &relays, &mut built);
    object! {
        "name": name,
        "geometry": geometry_json(geometry),
        "key_epoch": epoch.0,
        "path": path,
        "last": last_json,
        "unused_random": unused,
        "content": content,
        "hops": hops,
        "payload": payload,
    }
}

#[test]
fn packets_peel_from_the_file_alone() {
    for vector in vectors("packet") {
        let payload = hops::peel_from_file(&vector);
        hops::assert_long(vector.at("payload"), &payload);
        let content = vector.at("content").bytes();
        let mut padded = [[0; 32].as_slice(), &content].concat();
        padded.resize(payload.len(), 0);
        assert_eq!(payload, padded);
        assert_eq!(vector.at("last"), vector.at("hops").items().last().unwrap().at("command"));
    }
}
