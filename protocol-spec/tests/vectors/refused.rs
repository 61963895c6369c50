//! `refused.json`: for each decoder what it must refuse, with the class of the error and its text.

use serde_json::Value;

use crate::files::{name, vectors};
use crate::json::{Fields, Json, object};

mod decoders;
mod diffs;
mod documents;
mod encodings;
mod later;
mod packets;

/// The bytes ended before the value did.
const TRUNCATED: &str = "truncated";
/// Bytes are left over.
const TRAILING: &str = "trailing";
/// A length or count is above its bound.
const TOO_LONG: &str = "too long";
/// A value that must not be.
const VALUE: &str = "value";
/// Well-formed, but not to be believed.
const UNTRUSTED: &str = "untrusted";
/// Without a reason, so that nobody learns one.
const REFUSED: &str = "refused";
/// A text that is no invitation.
const LINK: &str = "link";

pub(crate) fn make() -> Vec<Json> {
    [encodings::make(), documents::make(), packets::make()].concat()
}

/// One refusal; the decoder must give an error of this class, and its text is recorded.
fn case(decoder: &'static str, what: &str, class: &'static str, bytes: &[u8]) -> Json {
    with(decoder, what, class, object! { "bytes": bytes })
}

/// As [`case()`], with inputs besides the bytes.
fn with(decoder: &'static str, what: &str, class: &'static str, input: Json) -> Json {
    let Json::Object(input) = input else { panic!("inputs are an object") };
    let mut fields = vec![("name", Json::from(format!("{decoder}: {what}"))), ("decoder", Json::from(decoder))];
    fields.extend(input);
    let vector = Json::Object(fields);
    let vector = short(vector);
    let (got, reason) = decoders::run(&vector.value()).expect_err(what);
    assert_eq!(got, class, "{decoder}: {what}: {reason}");
    vector.with("class", class).with("reason", reason)
}

/// Many zeros at the end of the bytes are counted instead.
fn short(vector: Json) -> Json {
    let Json::Object(mut fields) = vector else { panic!("a vector is an object") };
    if let Some((_, Json::Text(hex))) = fields.iter_mut().find(|(key, _)| *key == "bytes") {
        let zeros = hex.bytes().rev().take_while(|c| *c == b'0').count() / 2;
        if zeros > 64 {
            hex.truncate(hex.len() - 2 * zeros);
            return Json::Object(fields).with("zeros_after", zeros);
        }
    }
    Json::Object(fields)
}

/// Nothing at all, one byte too few, one too many.
fn ends(decoder: &'static str, what: &str, bytes: &[u8], besides: &Json) -> Vec<Json> {
    let Json::Object(besides) = besides else { panic!("inputs are an object") };
    let one = |how: &str, class, bytes: &[u8]| {
        let mut input = vec![("bytes", Json::from(bytes))];
        input.extend(besides.iter().cloned());
        with(decoder, &format!("{what}, {how}"), class, Json::Object(input))
    };
    vec![
        one("nothing", TRUNCATED, &[]),
        one("one byte too few", TRUNCATED, &bytes[..bytes.len() - 1]),
        one("one byte too many", TRAILING, &more(bytes)),
    ]
}

fn more(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0]].concat()
}

/// The bytes with others in this place.
fn put(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[at..at + new.len()].copy_from_slice(new);
    assert_ne!(changed, bytes);
    changed
}

/// A vector of another file by its name.
fn find(all: &[Json], wanted: &str) -> Value {
    all.iter().map(Json::value).find(|v| name(v) == wanted).unwrap_or_else(|| panic!("no vector {wanted}"))
}

fn flip(bytes: &[u8], at: usize) -> Vec<u8> {
    put(bytes, at, &[bytes[at] ^ 1])
}

/// The bytes with the only place that reads `old` changed.
fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let found: Vec<_> = bytes.windows(old.len()).enumerate().filter(|(_, w)| *w == old).map(|(i, _)| i).collect();
    assert_eq!(found.len(), 1, "places that read {old:?}");
    put(bytes, found[0], new)
}

#[test]
fn everything_in_the_file_is_refused_for_the_reason_given() {
    for vector in vectors("refused") {
        let stated = (vector.at("class").text(), vector.at("reason").text());
        let (class, reason) = decoders::run(&vector).expect_err(name(&vector));
        assert_eq!((class, reason.as_str()), stated, "{}", name(&vector));
    }
}

#[test]
fn every_decoder_refuses_in_every_way_that_it_can() {
    let all = vectors("refused");
    let classes = |decoder: &str| -> Vec<&str> {
        let of = |v: &&Value| v.at("decoder").text() == decoder;
        all.iter().filter(of).map(|v| v.at("class").text()).collect()
    };
    for (decoder, expected) in decoders::ALL {
        let found = classes(decoder);
        assert!(expected.iter().all(|class| found.contains(class)), "{decoder}: only {found:?}");
    }
    assert!(all.iter().all(|v| decoders::ALL.iter().any(|(decoder, _)| *decoder == v.at("decoder").text())));
}
