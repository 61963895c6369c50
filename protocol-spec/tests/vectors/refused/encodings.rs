//! What travels in packets and on links, wrongly encoded.

use bech32::primitives::iter::{ByteIterExt, Fe32IterExt};
use bech32::{Bech32, Bech32m, Fe32, Hrp};
use posta_protocol::command::MAX_BOX_LEN;
use posta_protocol::crypto::{self, context};
use posta_protocol::end_to_end::{MAX_MESSAGE_LEN, MAX_QUEUES};
use posta_protocol::params::{
    BLOB_LEN, BOX_CONTENT_LEN, BOX_NONCE_LEN, MAX_BLOB_TTL, MAX_PASSWORD_LEN, MAX_PAYLOAD_LEN, MAX_PUZZLE_EFFORT,
    MAX_SUBSCRIBE_SURBS,
};
use posta_protocol::registry::{admission, answer, command, content, frame};
use serde_json::Value;

use super::{LINK, REFUSED, TOO_LONG, TRAILING, TRUNCATED, VALUE, case, ends, find, flip, more, put, with};
use crate::commands::{self, roomy};
use crate::hops::geometry_json;
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;
use crate::{answers, boxes, invitations, links, xwing};

pub(super) fn make() -> Vec<Json> {
    [geometries(), mix_keys(), wrong_commands(), wrong_answers(), on_links(), contents(), sealed(), wrong_links()]
        .concat()
}

fn le(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap().to_le_bytes()
}

fn geometries() -> Vec<Json> {
    let encode = |hops: u8, payload: usize| [&[hops], le(payload).as_slice()].concat();
    let mut all = ends("geometry", "a good one", &encode(4, 64), &object! {});
    for (what, hops, payload) in
        [("no hops", 0, 64), ("nine hops", 9, 64), ("no payload", 4, 0), ("too much payload", 4, MAX_PAYLOAD_LEN + 1)]
    {
        all.push(case("geometry", what, VALUE, &encode(hops, payload)));
    }
    all
}

fn mix_keys() -> Vec<Json> {
    let good = find(&xwing::make(), "ours, one").at("public_key").bytes();
    vec![
        case("mix key", "one byte too few", TRUNCATED, &good[..good.len() - 1]),
        case("mix key", "a coefficient that is not reduced", VALUE, &put(&good, 0, &[0xff; 3])),
    ]
}

/// Length, then the body.
fn framed(body: &[u8]) -> Vec<u8> {
    [le(body.len()).as_slice(), body].concat()
}

fn wrong_commands() -> Vec<Json> {
    let all = commands::make();
    let good = |name: &str| find(&all, name).at("bytes").bytes();
    let geometry = || object! { "geometry": geometry_json(roomy()) };
    let wrong = |what: &str, class, bytes: &[u8]| with("command", what, class, geometry().with("bytes", bytes));
    let (create, fetch) = (good("create a plain queue, nothing asked"), good("fetch"));
    let (blob, send) = (good("put a one-time blob"), good("send"));
    let body = |bytes: &[u8]| bytes[4..].to_vec();
    // Places in a body: of `create` behind two hashes, of a blob behind capability and hash, of `send` behind its number.
    let (kind_at, proof_at, once_at, hours_at, blob_at, box_at) = (65, 66, 65, 66, 68, 41);
    let password = |n: usize| {
        let proof = [&[admission::PASSWORD], le(n).as_slice(), &vec![b'x'; n], &[0]].concat();
        framed(&[&body(&create)[..proof_at], &proof].concat())
    };
    let hours = u16::try_from(MAX_BLOB_TTL.as_secs() / 3600 + 1).unwrap().to_le_bytes();
    let blob_of = |n: usize| framed(&[&body(&blob)[..blob_at], &le(n), &vec![0; n], &[0]].concat());
    let one_block = good("echo, to be answered");
    let four = MAX_SUBSCRIBE_SURBS + 1;
    let mut list = vec![
        wrong("nothing", TRUNCATED, &[]),
        wrong("a length without a command", TRUNCATED, &le(0)),
        wrong("fewer bytes than its length", TRUNCATED, &fetch[..fetch.len() - 1]),
        wrong("longer than the geometry", TOO_LONG, &le(roomy().content_len() + 1)),
        wrong("operands cut short", TRUNCATED, &framed(&body(&fetch)[..20])),
        wrong("without the count of reply blocks", TRUNCATED, &framed(&body(&fetch)[..fetch.len() - 5])),
        wrong("a byte behind the reply blocks", TRAILING, &framed(&more(&body(&fetch)))),
        wrong("a queue of an unknown kind", VALUE, &framed(&put(&body(&create), kind_at, &[3]))),
        wrong("a proof of an unknown kind", VALUE, &framed(&put(&body(&create), proof_at, &[3]))),
        wrong("a password too long", TOO_LONG, &password(MAX_PASSWORD_LEN + 1)),
        wrong("a box too long", TOO_LONG, &framed(&put(&body(&send), box_at, &le(MAX_BOX_LEN + 1)))),
        wrong("a box longer than the command", TRUNCATED, &framed(&put(&body(&send), box_at, &le(MAX_BOX_LEN)))),
        wrong("a flag that is neither 0 nor 1", VALUE, &put(&blob_of(BLOB_LEN), 4 + once_at, &[2])),
        wrong("a blob kept for too long", VALUE, &put(&blob_of(BLOB_LEN), 4 + hours_at, &hours)),
        wrong("a blob too short", VALUE, &blob_of(BLOB_LEN - 1)),
        wrong("a blob too long", TOO_LONG, &blob_of(BLOB_LEN + 1)),
        wrong("four reply blocks", TOO_LONG, &framed(&[command::ECHO, u8::try_from(four).unwrap()])),
        wrong("fewer reply blocks than it says", TRUNCATED, &framed(&put(&body(&one_block), 1, &[2]))),
        wrong("a reply block cut short", TRUNCATED, &framed(&body(&one_block)[..one_block.len() - 5])),
    ];
    let block = &body(&one_block)[2..];
    let cut = geometry().with("bytes", &block[..block.len() - 1]);
    list.push(with("reply block", "one byte too few", TRUNCATED, cut));
    list
}

fn wrong_answers() -> Vec<Json> {
    let all = answers::make();
    let good = |name: &str| find(&all, name).at("bytes").bytes()[4..].to_vec();
    let wrong = |what: &str, class, body: &[u8]| case("answer", what, class, &framed(body));
    let (message, blob) = (good("a message"), good("a blob"));
    let info = good("info on a new queue");
    let asks = good("not admitted without the hardest solution");
    assert_eq!((asks[0], asks[17]), (answer::NOT_ADMITTED, admission::PUZZLE));
    vec![
        case("answer", "nothing", TRUNCATED, &[]),
        case("answer", "longer than what carries it", TOO_LONG, &[9, 0, 0, 0, 0]),
        case("answer", "fewer bytes than its length", TRUNCATED, &[5, 0, 0, 0, 0]),
        wrong("without an incarnation", TRUNCATED, &[answer::OK]),
        wrong("an incarnation cut short", TRUNCATED, &good("done")[..16]),
        wrong("a byte behind", TRAILING, &more(&good("done"))),
        wrong("a message too long", TOO_LONG, &put(&message, 29, &le(MAX_BOX_LEN + 1))),
        wrong("a message cut short", TRUNCATED, &message[..message.len() - 1]),
        wrong("a blob too long", TOO_LONG, &put(&blob[..40], 17, &le(BLOB_LEN + 1))),
        wrong("info on a queue of an unknown kind", VALUE, &put(&info, 17, &[3])),
        wrong("info with an unknown flag", VALUE, &put(&info, 18, &[8])),
        wrong("info cut short", TRUNCATED, &info[..info.len() - 1]),
        wrong("asks for something unknown", VALUE, &put(&asks, 17, &[3])),
        wrong("asks for more effort than anyone should spend", VALUE, &put(&asks, 18, &[MAX_PUZZLE_EFFORT + 1])),
    ]
}

fn on_links() -> Vec<Json> {
    let all = links::make();
    let good = |name: &str| find(&all, name).at("bytes").bytes();
    let delivery = find(&all, "a reply handed to a client");
    let geometry = delivery.at("geometry");
    let (hops, payload) = (geometry.at("hops").number(), geometry.at("payload").number());
    let besides = object! { "geometry": object! { "hops": hops, "payload": payload } };
    let mut list = ends("hello", "a good one", &good("hello"), &object! {});
    list.extend(ends("frame", "attach", &good("attach"), &object! {}));
    list.extend(ends("delivery", "a good one", &delivery.at("bytes").bytes(), &besides));
    list.push(case("frame", "attached, one byte too many", TRAILING, &more(&good("attached"))));
    list.push(case("frame", "goodbye, one byte too many", TRAILING, &[frame::GOODBYE, 0]));
    list
}

fn contents() -> Vec<Json> {
    let all = boxes::make();
    let good = |name: &str| find(&all, name).at("bytes").bytes();
    // Behind epoch and hash stands the kind.
    let message = good("the shortest message");
    let queues = good("one queue");
    let queue = queues[45..].to_vec();
    let many = |n: usize| [&queues[..41], &le(n), &queue.repeat(n)].concat();
    assert_eq!((message[40], queues[40], queue.len()), (content::MESSAGE, content::QUEUES, 96));
    let mut list = ends("content", "a receipt", &good("a receipt"), &object! {});
    list.push(case("content", "a message too long", TOO_LONG, &put(&message, 57, &le(MAX_MESSAGE_LEN + 1))));
    list.push(case("content", "a message cut short", TRUNCATED, &put(&message, 57, &le(1))));
    list.push(case("content", "no queue", VALUE, &many(0)));
    list.push(case("content", "too many queues", TOO_LONG, &many(MAX_QUEUES + 1)));
    let turn = good("an inside with a turn");
    list.extend(ends("inside", "a turn", &turn, &object! {}));
    list.push(case("inside", "a handshake too long", TOO_LONG, &put(&turn, 9, &le(BOX_CONTENT_LEN + 1))));
    list.push(case("content", "a queue cut short", TRUNCATED, &queues[..queues.len() - 1]));
    list
}

fn sealed() -> Vec<Json> {
    let rng = &mut Recorder::new("refused", "sealed");
    let a_box = find(&boxes::make(), "a sealed box");
    let (key, bytes) = (a_box.at("key").array::<32>(), a_box.at("bytes").bytes());
    let in_box = |what: &str, key: [u8; 32], bytes: &[u8]| {
        with("sealed box", what, REFUSED, object! { "key": key, "bytes": bytes })
    };
    // Authentic, but the length inside is beyond the end.
    let mut inner = vec![0; BOX_CONTENT_LEN + 4];
    inner[..4].copy_from_slice(&le(BOX_CONTENT_LEN + 1));
    let nonce: [u8; BOX_NONCE_LEN] = rng.array();
    let tag = crypto::seal(crypto::derive(context::BOX, &key).expose(), nonce, &[], &mut inner).unwrap();
    let too_far = [nonce.as_slice(), &inner, &tag].concat();
    let mut list = vec![
        in_box("another key", rng.array(), &bytes),
        in_box("a bit of the content", key, &flip(&bytes, 5_000)),
        in_box("one byte too few", key, &bytes[..bytes.len() - 1]),
        in_box("an authentic length that is too long", key, &too_far),
        in_box("nothing", key, &[]),
    ];
    list.extend(blobs());
    list
}

fn blobs() -> Vec<Json> {
    let all = invitations::make();
    let (one, two) = (find(&all, "an invitation to one queue"), find(&all, "an invitation to a pair of queues"));
    let of = |what: &str, bytes: &[u8]| {
        with("blob", what, REFUSED, object! { "link": one.at("link").text(), "bytes": bytes })
    };
    let blob = one.at("blob").bytes();
    // Other data, sealed under the very key of the link: the link is the hash of the inviter's own.
    let data = two.at("offer").bytes();
    let mut inner = framed(&data);
    inner.resize(blob.len() - BOX_NONCE_LEN - 16, 0);
    let nonce = one.at("blob_nonce").array();
    let tag = crypto::seal(&one.at("seal_key").array(), nonce, &[], &mut inner).unwrap();
    vec![
        of("of another invitation", &two.at("blob").bytes()),
        of("a flipped bit", &flip(&blob, 4_000)),
        of("other data under the right key", &[nonce.as_slice(), &inner, &tag].concat()),
        of("nothing", &[]),
    ]
}

fn wrong_links() -> Vec<Json> {
    let good = find(&invitations::make(), "an invitation to one queue");
    let text = good.at("link").text();
    let relays: Vec<u8> = good.at("relays").items().iter().flat_map(|r: &Value| r.bytes()[..8].to_vec()).collect();
    let bytes = [&[1], relays.as_slice(), &good.at("secret").bytes()].concat();
    let hrp = |s| Hrp::parse(s).unwrap();
    let link = |bytes: &[u8]| format!("posta:{}", bech32::encode::<Bech32m>(hrp("p"), bytes).unwrap());
    assert_eq!(link(&bytes), text);
    // The last character has three bits to spare.
    let mut symbols: Vec<Fe32> = bytes.iter().copied().bytes_to_fes().collect();
    let last = symbols.pop().unwrap().to_u8() | 1;
    let symbols = symbols.into_iter().chain(Fe32::try_from(last));
    let spare: String = symbols.with_checksum::<Bech32m>(&hrp("p")).chars().collect();
    let wrong = |what: &str, text: &str| with("link", what, LINK, object! { "text": text });
    let other = if text.ends_with('q') { "p" } else { "q" };
    vec![
        wrong("nothing", ""),
        wrong("another scheme", "https://example.org"),
        wrong("the scheme alone", "posta:"),
        wrong("the last character is missing", &text[..text.len() - 1]),
        wrong("the last character is another", &format!("{}{other}", &text[..text.len() - 1])),
        wrong("mixed case", &format!("{}{}", &text[..20], text[20..].to_uppercase())),
        wrong("another prefix", &format!("posta:{}", bech32::encode::<Bech32m>(hrp("q"), &bytes).unwrap())),
        wrong("bech32 instead of bech32m", &format!("posta:{}", bech32::encode::<Bech32>(hrp("p"), &bytes).unwrap())),
        wrong("a later version", &link(&put(&bytes, 0, &[2]))),
        wrong("one byte too few", &link(&bytes[..bytes.len() - 1])),
        wrong("one byte too many", &link(&more(&bytes))),
        wrong("a spare bit is set", &format!("posta:{spare}")),
    ]
}
