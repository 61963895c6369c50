//! `documents.json`: how a consensus and its mix keys differ from those before.

use core::time::Duration;

use posta_protocol::codec::Writer;
use posta_protocol::document::{
    Class, Consensus, ConsensusBody, ConsensusDiff, KeyEpochPart, MixKeys, MixKeysDiff, Position, Protocols,
    RelayEntry, Reliability, Roles, Speed, UnverifiedConsensus, UnverifiedMixKeys,
};
use posta_protocol::ids::{Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId};
use posta_protocol::params::PROTOCOL_VERSION;

use crate::documents::{authorities, authority_keys, body, known_json, mix_keys, signed};
use crate::files::of_kind;
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

pub(crate) fn make() -> Vec<Json> {
    vec![consensus_json(), mix_keys_json()]
}

/// The consensus after that of the other vectors, and the mix keys of the key epoch that both have: of two relays that had a
/// key one has gone and the other has a new one.
fn next() -> (ConsensusBody, MixKeys) {
    let rng = &mut Recorder::new("documents", "the next consensus");
    let mut next = body();
    next.epoch = next.epoch.next();
    for time in [&mut next.valid_after, &mut next.fresh_until, &mut next.valid_until] {
        *time = *time + Duration::from_secs(3600);
    }
    next.previous = body().header(&body().encode()).hash;
    let kept = next.key_epochs[1].epoch;
    let mut part = mix_keys(kept);
    part.keys.remove(0);
    part.keys[0].1 = crate::hops::secret(&rng.array()).public().clone();
    let new = RelayId(rng.array());
    part.keys.push((new, crate::hops::secret(&rng.array()).public().clone()));
    part.keys.sort_by_key(|(id, _)| *id);
    next.key_epochs = vec![
        KeyEpochPart { epoch: kept, mix_keys: MixKeys::hash(&part.encode()) },
        KeyEpochPart { epoch: KeyEpoch(kept.0 + 1), mix_keys: MixKeys::hash(&mix_keys(KeyEpoch(kept.0 + 1)).encode()) },
    ];
    // The first has gone, the second has another of everything, the third another capacity only.
    next.relays.remove(0);
    let all = &mut next.relays[0];
    *all = RelayEntry {
        link_key: LinkPublicKey(rng.array()),
        link_addresses: vec!["198.51.100.2:4433".parse().unwrap()],
        client_addresses: vec!["198.51.100.2:4434".parse().unwrap()],
        roles: Roles { edge: true, ..Roles::MIX },
        family: if all.family.is_some() { None } else { Some(rng.array()) },
        operator: OperatorId(rng.array()),
        capacity: 501,
        protocols: Protocols { oldest: 1, newest: 2 },
        class: Class { reliability: Reliability::Flagged, speed: Speed::Slow },
        listed_since: next.valid_after,
        ..all.clone()
    };
    next.relays[1].capacity = 502;
    next.relays.push(RelayEntry { id: new, family: None, ..next.relays[1].clone() });
    next.relays.sort_by_key(|relay| relay.id);
    for (i, relay) in next.relays.iter_mut().enumerate() {
        // The place that it had in the key epoch that stays, but for one; and anything in the next.
        let kept = if i == 3 { Some(Position::Mix2) } else { relay.layers[1] };
        relay.layers = vec![kept, [None, Some(Position::Edge), Some(Position::Mix1)][i % 3]];
    }
    (next, part)
}

fn consensus(body: &ConsensusBody) -> Consensus {
    let keys = authority_keys();
    let known = authorities(keys.iter().map(super::documents::Keys::identity));
    UnverifiedConsensus::decode(&signed(body, &keys[..3])).unwrap().verify_signatures(&known).unwrap()
}

/// A difference whose content is stored in one block: how well deflate packs is nobody's promise.
fn stored(diff: &ConsensusDiff) -> Vec<u8> {
    let mut w = Writer::default();
    w.u16(PROTOCOL_VERSION);
    diff.base().write(&mut w);
    diff.hash().write(&mut w);
    stored_as(&w.finish(), diff.content())
}

/// The same with another content; what it starts from and leads to stays.
pub(crate) fn stored_as(diff: &[u8], content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let mut w = Writer::default();
    w.bytes(&diff[..2 + 2 * Hash::LEN]);
    w.u32(length.into());
    w.u8(1);
    w.u16(length);
    w.u16(!length);
    w.bytes(content);
    w.finish()
}

fn consensus_json() -> Json {
    let (base, target) = (consensus(&body()), consensus(&next().0));
    let diff = ConsensusDiff::between(&base, &target);
    object! {
        "name": "how a consensus differs from the one before", "kind": "consensus diff", "authorities": known_json(),
        "base": base.encode(), "leads_to": target.encode(), "hash": target.hash().0, "content": diff.content(),
        "bytes": stored(&diff),
    }
}

fn mix_keys_json() -> Json {
    let (base, part) = (mix_keys(next().1.key_epoch).encode(), next().1.encode());
    let bytes = MixKeysDiff::between(&base, &part).unwrap();
    object! {
        "name": "how mix keys differ from those before", "kind": "mix keys diff", "bytes": bytes.clone(),
        "base_hash": MixKeys::hash(&base).0, "hash": MixKeys::hash(&part).0, "leads_to": part, "base": base,
        "reply": MixKeysDiff::pack([bytes.as_slice()].into_iter()),
    }
}

#[test]
fn differences_lead_from_the_one_to_the_other_by_the_file_alone() {
    let verified = |unverified: UnverifiedConsensus, vector: &serde_json::Value| {
        let known = authorities(vector.at("authorities").items().iter().map(Fields::array));
        unverified.verify_signatures(&known).unwrap()
    };
    let mut bound = None;
    for vector in of_kind("documents", "consensus diff") {
        let base = verified(UnverifiedConsensus::decode(&vector.at("base").bytes()).unwrap(), &vector);
        let diff = ConsensusDiff::decode(&vector.at("bytes").bytes()).unwrap();
        assert_eq!(diff.content(), vector.at("content").bytes());
        let made = verified(diff.apply(&base).unwrap(), &vector);
        assert_eq!(made.encode(), vector.at("leads_to").bytes());
        assert_eq!((made.hash().0, diff.base()), (vector.at("hash").array(), base.hash()));
        assert_eq!(ConsensusDiff::decode(&diff.encode()).unwrap(), diff, "packed in another way");
        assert_eq!(ConsensusDiff::between(&base, &made), diff);
        bound = Some((base, made));
    }
    let (before, after) = bound.unwrap();
    for vector in of_kind("documents", "mix keys diff") {
        let base = UnverifiedMixKeys::decode(&vector.at("base").bytes()).unwrap().verify(&before).unwrap();
        let bytes = vector.at("bytes").bytes();
        let made = MixKeysDiff::decode(&bytes).unwrap().apply(&base).unwrap().verify(&after).unwrap();
        assert_eq!(made.encode(), vector.at("leads_to").bytes());
        assert_eq!(MixKeysDiff::between(&base.encode(), &made.encode()).unwrap(), bytes);
        let reply = MixKeysDiff::apply_all(&vector.at("reply").bytes(), &base).unwrap();
        assert_eq!(reply.verify(&after).unwrap(), made);
        assert_eq!(MixKeys::hash(&base.encode()).0, vector.at("base_hash").array());
        assert_eq!(MixKeys::hash(&made.encode()).0, vector.at("hash").array());
    }
}
