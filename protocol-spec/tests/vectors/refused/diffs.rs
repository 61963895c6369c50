//! Differences that don't parse, lead nowhere, or lead elsewhere than they say.

use posta_protocol::params::{MAX_CONSENSUS_DIFF_LEN, MAX_CONSENSUS_LEN, MAX_MIX_KEYS_LEN, MAX_RELAYS};

use super::{TOO_LONG, TRAILING, TRUNCATED, UNTRUSTED, VALUE, case, ends, find, flip, more, put, with};
use crate::diffs::{self, stored_as};
use crate::documents::{authority_keys, body, known_json, signed};
use crate::json::{Fields, Json, object};

/// Where a difference names its base, and what it leads to.
const BASE_AT: usize = 2;
const HASH_AT: usize = 2 + 32;
/// Where its length stands, or the first list.
const REST_AT: usize = 2 + 32 + 32;

fn le(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap().to_le_bytes()
}

pub(super) fn make() -> Vec<Json> {
    let all = diffs::make();
    [consensuses(&all), mix_keys(&all)].concat()
}

fn consensuses(all: &[Json]) -> Vec<Json> {
    let vector = find(all, "how a consensus differs from the one before");
    let (good, content) = (vector.at("bytes").bytes(), vector.at("content").bytes());
    let wrong = |what, class, bytes: &[u8]| case("consensus diff", what, class, bytes);
    let applied = |what, class, bytes: &[u8]| {
        let base = vector.at("base").bytes();
        with("consensus diff", what, class, object! { "bytes": bytes, "base": base, "authorities": known_json() })
    };
    let mut list = ends("consensus diff", "in one stored block", &good, &object! {});
    list.extend([
        wrong("another version", UNTRUSTED, &put(&good, 0, &[2])),
        wrong("a length that deflate can't reach", TOO_LONG, &put(&good, REST_AT, &le(MAX_CONSENSUS_LEN))),
        wrong("a length above the bound", TOO_LONG, &put(&good, REST_AT, &le(MAX_CONSENSUS_LEN + 1))),
        wrong("more content than its length", TOO_LONG, &put(&good, REST_AT, &le(content.len() - 1))),
        wrong("a block of no kind", VALUE, &put(&good, REST_AT + 4, &[7])),
        with(
            "consensus diff",
            "too long",
            TOO_LONG,
            object! { "bytes": "", "zeros_after": MAX_CONSENSUS_DIFF_LEN + 1 },
        ),
        applied("from another consensus", UNTRUSTED, &flip(&good, BASE_AT)),
        applied("to another consensus", UNTRUSTED, &flip(&good, HASH_AT)),
        applied("a content of another version", UNTRUSTED, &stored_as(&good, &put(&content, 0, &[2]))),
        applied("a content that is cut short", TRUNCATED, &stored_as(&good, &content[..content.len() - 1])),
        applied("a content with a byte left over", TRAILING, &stored_as(&good, &more(&content))),
    ]);
    list
}

fn mix_keys(all: &[Json]) -> Vec<Json> {
    let vector = find(all, "how mix keys differ from those before");
    let good = vector.at("bytes").bytes();
    let wrong = |what, class, bytes: &[u8]| case("mix keys diff", what, class, bytes);
    let applied = |what, class, bytes: &[u8]| {
        let consensus = signed(&body(), &authority_keys());
        let base = vector.at("base").bytes();
        let input = object! { "bytes": bytes, "base": base, "authorities": known_json(), "consensus": consensus };
        with("mix keys diff", what, class, input)
    };
    let mut list = ends("mix keys diff", "one", &good, &object! {});
    list.extend([
        wrong("another version", UNTRUSTED, &put(&good, 0, &[2])),
        wrong("too many that have gone", TOO_LONG, &put(&good[..REST_AT + 4], REST_AT, &le(MAX_RELAYS + 1))),
        with("mix keys diff", "too long", TOO_LONG, object! { "bytes": "", "zeros_after": MAX_MIX_KEYS_LEN + 1 }),
        applied("from other mix keys", UNTRUSTED, &flip(&good, BASE_AT)),
        applied("to other mix keys", UNTRUSTED, &flip(&good, HASH_AT)),
        applied("one has gone that was never there", VALUE, &put(&good, REST_AT + 4, &[0xff, 0xff])),
    ]);
    list
}
