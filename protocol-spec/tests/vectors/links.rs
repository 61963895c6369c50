//! `links.json`.

use posta_protocol::document::Profile;
use posta_protocol::frame::{Delivery, Frame, Hello};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, Hash, InboxId, SurbId};
use posta_protocol::packet::Packet;
use posta_protocol::registry::frame as code;
use posta_protocol::secret::Secret;

use crate::commands::UNKNOWN;
use crate::files::{name, of_kind};
use crate::hops::{geometry_json, geometry_of};
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

pub(crate) fn make() -> Vec<Json> {
    let rng = &mut Recorder::new("links", "fields");
    let held = Hello::new(Geometry::DEFAULT, Epoch(472_222), Hash(rng.array()));
    let secret = Secret::new(rng.array());
    let unknown = [&[UNKNOWN], rng.bytes(5).as_slice()].concat();
    vec![
        hello("hello", &held),
        hello("hello without a consensus", &Hello::new(Geometry::DEFAULT, Epoch(0), Hash([0; 32]))),
        hello("hello of another version: read, and then refused", &Hello { version: 2, ..held }),
        frame("attach", &Frame::Attach(secret)),
        frame("attached", &Frame::Attached(InboxId(rng.array()))),
        frame("goodbye", &Frame::Goodbye),
        frame("pace of fast", &Frame::Pace(Profile::Fast)),
        frame("pace of mixed", &Frame::Pace(Profile::Mixed)),
        frame("pace of steady", &Frame::Pace(Profile::Steady)),
        object! { "name": "a frame of a later version: ignored", "kind": "frame", "code": UNKNOWN, "bytes": unknown },
        delivery(rng),
    ]
}

fn hello(name: &str, hello: &Hello) -> Json {
    object! {
        "name": name, "kind": "hello", "version": hello.version, "geometry_hash": hello.geometry.0,
        "epoch": hello.epoch.0, "consensus": hello.consensus.0, "bytes": hello.encode(),
    }
}

fn frame(name: &str, frame: &Frame) -> Json {
    let head = object! { "name": name, "kind": "frame" };
    match frame {
        Frame::Attach(secret) => head.with("code", code::ATTACH).with("secret", *secret.expose()),
        Frame::Attached(inbox) => head.with("code", code::ATTACHED).with("inbox", inbox.0),
        Frame::Goodbye => head.with("code", code::GOODBYE),
        Frame::Pace(profile) => head.with("code", code::PACE).with("profile", profile.code()),
        other => panic!("{other:?} has no description yet"),
    }
    .with("bytes", frame.encode())
}

fn delivery(rng: &mut Recorder) -> Json {
    let geometry = Geometry::new(1, 64).unwrap();
    let (surb, packet) = (rng.array(), rng.bytes(geometry.packet_len()));
    let delivered = Delivery::into_packet(SurbId(surb), Packet::from_bytes(packet.clone().into()), geometry);
    object! {
        "name": "a reply handed to a client", "kind": "delivery", "geometry": geometry_json(geometry), "surb": surb,
        "packet": packet, "bytes": delivered.into_bytes(),
    }
}

#[test]
fn hellos_and_frames_decode_from_the_file_alone() {
    for vector in of_kind("links", "hello") {
        let decoded = Hello::decode(&vector.at("bytes").bytes()).unwrap();
        assert_eq!(hello(name(&vector), &decoded).value(), vector);
    }
    for vector in of_kind("links", "frame") {
        match Frame::decode(&vector.at("bytes").bytes()).unwrap() {
            Frame::Unknown(n) => assert_eq!(u64::from(n), vector.at("code").number()),
            known => assert_eq!(frame(name(&vector), &known).value(), vector),
        }
    }
}

#[test]
fn deliveries_decode_from_the_file_alone() {
    for vector in of_kind("links", "delivery") {
        let (geometry, sent) = (geometry_of(&vector), Packet::from_bytes(vector.at("bytes").bytes().into()));
        let got = Delivery::from_packet(&sent, geometry).unwrap();
        assert_eq!(got.surb.0, vector.at("surb").array());
        assert_eq!(*got.payload, vector.at("packet").bytes()[geometry.header_len()..]);
        assert!(sent.as_bytes()[16..geometry.header_len()].iter().all(|b| *b == 0), "the spent header is erased");
    }
}
