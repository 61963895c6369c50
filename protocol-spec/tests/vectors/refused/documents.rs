//! Documents that don't parse, or must not be believed.

use core::time::Duration;

use posta_protocol::document::{ConsensusBody, Descriptor, Family, MixKeys, Purpose, SharedRandom, Vote};
use posta_protocol::ids::{Epoch, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::{
    MAX_ADDRESSES, MAX_AUTHORITIES, MAX_CONSENSUS_LEN, MAX_DESCRIPTOR_KEYS, MAX_DESCRIPTOR_LEN,
    MAX_DESCRIPTORS_AT_ONCE, MAX_EXTENSIONS, MAX_KEY_EPOCHS, MAX_RELAYS, MAX_VOTE_LEN,
};
use posta_protocol::registry::{directory, directory_answer};
use serde_json::Value;

use super::{TOO_LONG, TRAILING, TRUNCATED, UNTRUSTED, VALUE, case, ends, find, flip, more, put, replace, with};
use crate::documents::{self, Keys, NOW, authority_keys, body, edge, first_vote, known_json, signed};
use crate::json::{Fields, Json, object};
use crate::requests;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Where a descriptor's lists begin: behind version, certificate and link key.
const LISTS_AT: usize = 2 + 145 + 32;

pub(super) fn make() -> Vec<Json> {
    let all = documents::make();
    [
        certificates(&all),
        descriptors(&all),
        untrusted_descriptors(&all),
        consensuses(&all),
        untrusted_consensuses(),
        mix_keys(&all),
        votes(&all),
        echoes(&all),
        signatures(&all),
        super::later::make(&all),
        super::diffs::make(),
        on_requests(),
    ]
    .concat()
}

fn bytes(all: &[Json], name: &str) -> Vec<u8> {
    find(all, name).at("bytes").bytes()
}

fn le(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap().to_le_bytes()
}

fn certificates(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "a relay's certificate");
    let mut list = ends("certificate", "a relay's", &good, &object! {});
    list.push(case("certificate", "purpose 0", VALUE, &put(&good, 0, &[0])));
    list.push(case("certificate", "purpose 3", VALUE, &put(&good, 0, &[3])));
    list
}

/// Decoders judge before anyone looks at the signature, so changed bytes need none.
fn descriptors(all: &[Json]) -> Vec<Json> {
    let (edge, mix) =
        (bytes(all, "an edge's descriptor"), bytes(all, "a mix' descriptor, with nothing that may be left out"));
    let wrong = |what, class, bytes: &[u8]| case("descriptor", what, class, bytes);
    let mut list = ends("descriptor", "a mix'", &mix, &object! {});
    // With addresses and without mix keys, which are long.
    let with_addresses = Descriptor { mix_keys: Vec::new(), ..documents::edge() };
    let two = with_addresses.sign(&Keys::new("an edge").signing()).unwrap().into_bytes();
    let address = LISTS_AT + 4;
    let (first, second) = (&two[address..address + 7], &two[address + 7..address + 26]);
    let swapped = [second, first].concat();
    let epoch = |i: usize| {
        let keys = find(all, "an edge's descriptor").at("fields").at("mix_keys").clone();
        keys.items()[i].at("key_epoch").number().to_le_bytes()
    };
    list.extend([
        wrong("another version: a later one may mean anything", UNTRUSTED, &put(&two, 0, &[2])),
        wrong("too many addresses", TOO_LONG, &put(&two, LISTS_AT, &le(MAX_ADDRESSES + 1))),
        wrong("an address of an unknown family", VALUE, &put(&two, address, &[5])),
        wrong("a port 0", VALUE, &put(&two, address + 5, &[0, 0])),
        wrong("an unspecified address", VALUE, &put(&two, address + 1, &[0; 4])),
        wrong("a multicast address", VALUE, &put(&two, address + 1, &[224, 0, 0, 1])),
        wrong("addresses out of order", VALUE, &put(&two, address, &swapped)),
        wrong("no role", VALUE, &put(&mix, LISTS_AT + 8, &[0])),
        wrong("retiring as nothing", VALUE, &put(&mix, LISTS_AT + 8, &[4])),
        wrong("a mix that retires", VALUE, &put(&mix, LISTS_AT + 8, &[6])),
        wrong("an unknown role", VALUE, &put(&mix, LISTS_AT + 8, &[8])),
        wrong("a flag that is neither 0 nor 1", VALUE, &put(&mix, LISTS_AT + 9, &[2])),
        wrong("too many mix keys", TOO_LONG, &put(&mix, LISTS_AT + 42, &le(MAX_DESCRIPTOR_KEYS + 1))),
        wrong("too many extensions", TOO_LONG, &put(&mix, LISTS_AT + 46, &le(MAX_EXTENSIONS + 1))),
        wrong("protocol version 0", VALUE, &put(&mix, LISTS_AT + 30, &[0, 0])),
        wrong("protocol versions that end before they begin", VALUE, &put(&mix, LISTS_AT + 30, &[2, 0, 1, 0])),
        wrong("mix keys out of order", VALUE, &replace(&edge, &epoch(1), &epoch(0))),
        wrong("extensions out of order", VALUE, &replace(&two, &[0x40, 0x9c, 0, 0, 0, 0], &[7, 0, 0, 0, 0, 0])),
        wrong("an extension too long", TOO_LONG, &replace(&two, &[7, 0, 18, 0, 0, 0], &[7, 0, 1, 16, 0, 0])),
        with("descriptor", "too long", TOO_LONG, object! { "bytes": "", "zeros_after": MAX_DESCRIPTOR_LEN + 1 }),
    ]);
    list
}

fn untrusted_descriptors(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "an edge's descriptor");
    let at =
        |what, at: Wall, bytes: &[u8]| with("descriptor", what, UNTRUSTED, object! { "bytes": bytes, "at_ms": at.0 });
    let keys = Keys::new("an edge");
    let mut by_authority = edge();
    by_authority.certificate = keys.certificate(Purpose::Authority);
    let by_authority = by_authority.sign(&keys.signing()).unwrap().into_bytes();
    let another = Family::admit(&keys.signing(), &RelayId(Keys::new("a mix").identity()));
    let stranger = Descriptor { family: Some(another), ..edge() }.sign(&keys.signing()).unwrap().into_bytes();
    vec![
        at("a bit of the signature", NOW, &flip(&good, good.len() - 1)),
        at("a bit of what is signed", NOW, &flip(&good, LISTS_AT - 1)),
        at("a bit of the certificate's signature", NOW, &flip(&good, 2 + 144)),
        at("published more than two minutes ahead", NOW - Duration::from_secs(121), &good),
        at("the certificate has expired", NOW + YEAR, &good),
        at("with an authority's certificate", NOW, &by_authority),
        at("of a family that has taken another relay in", NOW, &stranger),
    ]
}

fn by_all(change: impl FnOnce(&mut ConsensusBody)) -> Vec<u8> {
    let mut body = body();
    change(&mut body);
    signed(&body, &authority_keys())
}

/// A consensus without relays and signatures, with a change of its shared randomness.
fn small(change: impl FnOnce(&mut SharedRandom)) -> Vec<u8> {
    let mut body = body();
    body.relays.clear();
    change(&mut body.shared_random);
    signed(&body, &[])
}

fn consensuses(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "a consensus signed by three of four");
    let wrong = |what, class, bytes: &[u8]| case("consensus", what, class, bytes);
    let mut list = ends("consensus", "a good one", &good, &object! {});
    let keys = authority_keys();
    let twice =
        signed(&body(), &[Keys::new("an authority"), Keys::new("an authority"), Keys::new("another authority")]);
    // Four bytes of length, then version and geometry.
    let (version_at, geometry_at, hash_at) = (4, 6, 11);
    let one_epoch_more = by_all(|b| {
        let part = b.key_epochs[1];
        b.key_epochs.extend([part; MAX_KEY_EPOCHS - 1]);
    });
    let many = by_all(|b| b.relays.clear());
    // The capacity, protocol versions, class, since when the relay is listed, and its places; the first deal's value, and its origin.
    let entry = |class: [u8; 2], places: [u8; 2]| {
        [&500_u32.to_le_bytes()[..], &[1, 0, 1, 0], &class, &NOW.0.to_le_bytes(), &places].concat()
    };
    let with_places = |places| entry([4, 3], places);
    let with_class = |class| replace(&good, &with_places([2, 3]), &entry(class, [2, 3]));
    let with_origin = |origin: u8| [&body().shared_random.deals[0].random[..], &[origin]].concat();
    let empty = [0, 0, 0, 0, 2, 0, 0, 0, 7, 0];
    list.extend([
        wrong("another version", UNTRUSTED, &put(&good, version_at, &[2])),
        wrong("no hops", VALUE, &put(&good, geometry_at, &[0])),
        wrong("a geometry that has not its hash", UNTRUSTED, &flip(&good, hash_at)),
        wrong("fresh for no time", VALUE, &by_all(|b| b.fresh_until = b.valid_after)),
        wrong("fresh for longer than valid", VALUE, &by_all(|b| b.valid_until = b.valid_after)),
        wrong("key epochs out of order", VALUE, &by_all(|b| b.key_epochs.swap(0, 1))),
        wrong("too many key epochs", TOO_LONG, &one_epoch_more),
        wrong("missed relays out of order", VALUE, &by_all(|b| b.missed.push(b.missed[0]))),
        wrong("a reliability that does not exist", VALUE, &with_class([5, 3])),
        wrong("a speed that does not exist", VALUE, &with_class([4, 0])),
        wrong("relays out of order", VALUE, &by_all(|b| b.relays.swap(0, 1))),
        wrong("a relay twice", VALUE, &by_all(|b| b.relays[1] = b.relays[0].clone())),
        wrong("too many relays", TOO_LONG, &replace(&many, &empty, &[&le(MAX_RELAYS + 1), &empty[4..]].concat())),
        wrong("a place that does not exist", VALUE, &replace(&good, &with_places([2, 3]), &with_places([2, 4]))),
        wrong("deals out of order", VALUE, &small(|s| s.deals.swap(0, 1))),
        wrong("too many deals", TOO_LONG, &small(|s| s.deals.push(s.deals[2]))),
        wrong("a random value of no origin", VALUE, &replace(&small(|_| {}), &with_origin(2), &with_origin(4))),
        wrong("an authority left out twice", VALUE, &small(|s| s.left_out.push(s.left_out[0]))),
        wrong("commits out of order", VALUE, &small(|s| s.commits.swap(0, 1))),
        wrong("an authority's reveal twice", VALUE, &small(|s| s.reveals[1] = s.reveals[0])),
        wrong("an authority's signature twice", VALUE, &twice),
        wrong("too many signatures", TOO_LONG, &{
            let at = good.len() - 3 * (145 + 64) - 4;
            put(&good, at, &le(MAX_AUTHORITIES + 1))
        }),
        with("consensus", "too long", TOO_LONG, object! { "bytes": "", "zeros_after": MAX_CONSENSUS_LEN + 1 }),
        verified("signed by two of four", NOW, &signed(&body(), &keys[..2])),
    ]);
    list
}

fn verified(what: &str, at: Wall, bytes: &[u8]) -> Json {
    let input = object! { "bytes": bytes, "authorities": known_json(), "at_ms": at.0 };
    with("consensus", what, UNTRUSTED, input)
}

fn untrusted_consensuses() -> Vec<Json> {
    let good = by_all(|_| {});
    let strangers = ["a stranger", "another stranger", "a third stranger"].map(Keys::new);
    let late = by_all(|b| {
        (b.valid_after, b.fresh_until, b.valid_until) = (NOW + YEAR * 2, NOW + YEAR * 3, NOW + YEAR * 4);
    });
    vec![
        verified("signed by strangers", NOW, &signed(&body(), &strangers)),
        verified("a bit of the body", NOW, &flip(&good, 100)),
        verified("not valid yet", NOW - Duration::from_millis(1), &good),
        verified("valid until this millisecond", body().valid_until, &good),
        verified("signed by keys that had expired when it began", NOW + YEAR * 2, &late),
    ]
}

fn mix_keys(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "mix keys");
    let wrong = |what, class, bytes: &[u8]| case("mix keys", what, class, bytes);
    let mut list = ends("mix keys", "two", &good, &object! {});
    let mut swapped = documents::mix_keys(body().key_epochs[0].epoch);
    swapped.keys.swap(0, 1);
    let mut fewer = MixKeys { key_epoch: swapped.key_epoch, keys: swapped.keys.clone() };
    fewer.keys.pop();
    let bound = |what, keys: &MixKeys| {
        let consensus = signed(&body(), &authority_keys());
        let input = object! { "bytes": keys.encode(), "authorities": known_json(), "consensus": consensus };
        with("mix keys", what, UNTRUSTED, input)
    };
    let of_another_epoch = MixKeys { key_epoch: fewer.key_epoch.next().next(), keys: Vec::new() };
    list.extend([
        wrong("out of order", VALUE, &swapped.encode()),
        wrong("a key that is none", VALUE, &put(&good, 12 + 32, &[0xff; 3])),
        wrong("too many", TOO_LONG, &put(&good[..12], 8, &le(MAX_RELAYS + 1))),
        bound("others than the consensus binds", &fewer),
        bound("of a key epoch that the consensus does not know", &of_another_epoch),
    ]);
    list
}

fn votes(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "a vote that knows a consensus");
    let vote = bytes(all, "a first vote");
    let signing = Keys::new("an authority").signing();
    let with_vote =
        |what, class, bytes: &[u8]| with("vote", what, class, object! { "bytes": bytes, "authorities": known_json() });
    let again = |change: &dyn Fn(&mut Vote)| {
        let unverified = posta_protocol::document::UnverifiedVote::decode(&good).unwrap();
        let known = documents::authorities(authority_keys().iter().map(Keys::identity));
        let mut vote = unverified.verify(&known).unwrap();
        change(&mut vote);
        vote.sign(&signing)
    };
    let stranger = Keys::new("a stranger");
    let strange = Vote { certificate: stranger.certificate(Purpose::Authority), ..first_vote() };
    let mut list = ends("vote", "one that knows a consensus", &good, &object! {});
    list.extend([
        case("vote", "another version", UNTRUSTED, &put(&vote, 0, &[2])),
        case("vote", "reveals out of order", VALUE, &again(&|v| v.random.reveals.swap(0, 1))),
        case("vote", "relays out of order", VALUE, &again(&|v| v.relays.swap(0, 1))),
        // The count of relays stands in front of the count of extensions and the signature.
        case("vote", "too many relays", TOO_LONG, &put(&vote, vote.len() - 72, &le(MAX_RELAYS + 1))),
        with("vote", "too long", TOO_LONG, object! { "bytes": "", "zeros_after": MAX_VOTE_LEN + 1 }),
        with_vote("by a stranger", UNTRUSTED, &strange.sign(&stranger.signing())),
        with_vote("a bit of the signature", UNTRUSTED, &flip(&good, good.len() - 1)),
        with_vote(
            "a consensus that too few signed",
            UNTRUSTED,
            &again(&|v| {
                v.newest.as_mut().unwrap().signatures.truncate(2);
            }),
        ),
        with_vote("a consensus that is not older", VALUE, &again(&|v| v.epoch = Epoch(v.epoch.0 - 1))),
        with_vote("by a certificate that had expired", UNTRUSTED, &again(&|v| v.published = NOW + YEAR)),
    ]);
    list
}

fn echoes(all: &[Json]) -> Vec<Json> {
    let (good, keys) = (bytes(all, "an echo"), Keys::new("an authority"));
    let known =
        |what, class, bytes: &[u8]| with("echo", what, class, object! { "bytes": bytes, "authorities": known_json() });
    let again = |change: &dyn Fn(&mut posta_protocol::document::Echo)| {
        let mut echo = documents::echo();
        change(&mut echo);
        echo.sign(&keys.signing())
    };
    let mut list = ends("echo", "a good one", &good, &object! {});
    list.extend([
        case("echo", "another version", UNTRUSTED, &put(&good, 0, &[2])),
        case("echo", "votes out of order", VALUE, &again(&|e| e.votes.swap(0, 1))),
        case("echo", "too many votes", TOO_LONG, &put(&good, 2 + 145 + 20, &le(MAX_AUTHORITIES + 1))),
        known("of an unknown authority's vote", VALUE, &again(&|e| e.votes[2].0.0 = [0xff; 32])),
        known("a bit of the signature", UNTRUSTED, &flip(&good, good.len() - 1)),
    ]);
    list
}

fn signatures(all: &[Json]) -> Vec<Json> {
    let good = bytes(all, "an authority's signature, as it is sent");
    let mut list = ends("signature", "a good one", &good, &object! {});
    list.push(case("signature", "purpose 9", VALUE, &put(&good, 48, &[9])));
    list
}

fn on_requests() -> Vec<Json> {
    let all = requests::make();
    let (get, hash) = (bytes(&all, "get the newest consensus"), bytes(&all, "get a vote"));
    let many = [&[directory::GET_DESCRIPTOR], le(MAX_DESCRIPTORS_AT_ONCE + 1).as_slice()].concat();
    let packed = |what, class, content: &[u8]| with("reply", what, class, object! { "content": content });
    let two: Value = find(&all, "a reply's content: two descriptors");
    let too_long = [le(1), le(MAX_DESCRIPTOR_LEN + 1)].concat();
    let mut list = ends("request", "get the newest consensus", &get, &object! {});
    list.extend([
        case("request", "get a vote, one byte too many", TRAILING, &more(&hash)),
        case("request", "an unknown one", VALUE, &[200]),
        case("request", "for too many descriptors", TOO_LONG, &many),
        case("request", "for fewer descriptors than it says", TRUNCATED, &[directory::GET_DESCRIPTOR, 1, 0, 0, 0]),
        case("reply", "nothing", TRUNCATED, &[]),
        case("reply", "an unknown one", VALUE, &[3]),
        case("reply", "none, one byte too many", TRAILING, &[directory_answer::NONE, 0]),
        case("reply", "refused without a reason", TRUNCATED, &[directory_answer::REFUSED]),
        packed("descriptors, one byte too many", TRAILING, &more(&two.at("bytes").bytes())),
        packed("too many descriptors", TOO_LONG, &le(MAX_DESCRIPTORS_AT_ONCE + 1)),
        packed("a descriptor too long", TOO_LONG, &too_long),
        packed("a descriptor cut short", TRUNCATED, &two.at("bytes").bytes()[..20]),
    ]);
    list
}
