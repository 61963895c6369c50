//! The fields of documents as the vectors state them.

use core::net::{IpAddr, SocketAddr};

use posta_protocol::codec::Writer;
use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::document::{
    Certificate, Class, ConsensusBody, Cut, Deal, Descriptor, Echo, Evidence, EvidenceKind, Extensions, Header, Missed,
    MixKeys, Origin, Params, Position, Proposal, Protocols, Purpose, RelayEntry, Reveal, Roles, RoundReport,
    SharedRandom, SignedHeader, Vote, VoteReport, VoteState, Withdrawal,
};
use posta_protocol::ids::{AuthorityId, Hash};
use posta_protocol::registry::{certificate as purpose, evidence as kind, origin, position, vote_state};

use crate::hops::geometry_json;
use crate::json::{Json, object};

pub(crate) fn certificate(c: &Certificate) -> Json {
    object! {
        "purpose": match c.purpose {
            Purpose::Relay => purpose::RELAY,
            Purpose::Authority => purpose::AUTHORITY,
        },
        "identity": c.identity, "key": c.key.0, "not_before_ms": c.not_before.0, "expires_ms": c.expires.0,
        "signature": &c.encode()[Certificate::LEN - 64..],
    }
}

pub(crate) fn addresses(list: &[SocketAddr]) -> Vec<Json> {
    let one = |a: &SocketAddr| match a.ip() {
        IpAddr::V4(ip) => object! { "family": 4_u8, "ip": ip.octets(), "port": a.port() },
        IpAddr::V6(ip) => object! { "family": 6_u8, "ip": ip.octets(), "port": a.port() },
    };
    list.iter().map(one).collect()
}

fn roles(roles: Roles) -> Json {
    object! { "edge": roles.edge, "mix": roles.mix, "retiring": roles.retiring }
}

/// No family is an empty text.
fn family(family: Option<[u8; 32]>) -> Json {
    family.map_or_else(|| Json::from(""), Json::from)
}

fn protocols(p: Protocols) -> Json {
    object! { "oldest": p.oldest, "newest": p.newest }
}

fn class(c: Class) -> Json {
    object! { "reliability": c.reliability.code(), "speed": c.speed.code() }
}

fn params(params: &Params) -> Vec<Json> {
    params.iter().map(|(code, value)| object! { "code": code, "value": value }).collect()
}

/// The list can't be gone through from outside: each number is asked for.
fn extensions(extensions: &Extensions) -> Vec<Json> {
    let one = |code| extensions.get(code).map(|bytes| object! { "code": code, "bytes": bytes });
    (0..=u16::MAX).filter_map(one).collect()
}

fn public(key: &KemPublicKey) -> Vec<u8> {
    let mut w = Writer::default();
    key.write(&mut w);
    w.finish()
}

pub(crate) fn descriptor(d: &Descriptor) -> Json {
    let key = |(epoch, key): &(_, _)| keyed("key_epoch", Json::Number(u64_of(epoch)), key);
    object! {
        "certificate": certificate(&d.certificate), "link_key": d.link_key.0,
        "link_addresses": addresses(&d.link_addresses), "client_addresses": addresses(&d.client_addresses),
        "roles": roles(d.roles), "family": d.family.map_or_else(|| Json::from(""), |f| f.encode().into()),
        "operator": d.operator.0, "capacity": d.capacity, "protocols": protocols(d.protocols), "published_ms": d.published.0, "mix_keys": d.mix_keys.iter().map(key).collect::<Vec<_>>(),
        "extensions": extensions(&d.extensions),
    }
}

fn u64_of(epoch: &posta_protocol::ids::KeyEpoch) -> u64 {
    epoch.0
}

fn keyed(what: &'static str, id: Json, key: &KemPublicKey) -> Json {
    Json::Object(vec![(what, id), ("key", public(key).into())])
}

pub(crate) fn mix_keys(part: &MixKeys) -> Json {
    let key = |(id, key): &(posta_protocol::ids::RelayId, KemPublicKey)| keyed("relay", id.0.into(), key);
    object! { "key_epoch": part.key_epoch.0, "keys": part.keys.iter().map(key).collect::<Vec<_>>() }
}

fn missed(m: &Missed) -> Json {
    object! { "relay": m.id.0, "listed_since_ms": m.listed_since.0, "from": m.from.0 }
}

pub(crate) fn body(b: &ConsensusBody) -> Json {
    let part = |p: &posta_protocol::document::KeyEpochPart| {
        object! { "key_epoch": p.epoch.0, "mix_keys": p.mix_keys.0 }
    };
    object! {
        "geometry": geometry_json(b.geometry), "geometry_hash": b.geometry.hash().0, "epoch": b.epoch.0,
        "valid_after_ms": b.valid_after.0, "fresh_until_ms": b.fresh_until.0, "valid_until_ms": b.valid_until.0,
        "previous": b.previous.0, "shared_random": shared_random(&b.shared_random), "params": params(&b.params),
        "key_epochs": b.key_epochs.iter().map(part).collect::<Vec<_>>(),
        "missed": b.missed.iter().map(missed).collect::<Vec<_>>(),
        "relays": b.relays.iter().map(relay).collect::<Vec<_>>(), "extensions": extensions(&b.extensions),
    }
}

fn shared_random(s: &SharedRandom) -> Json {
    let deal = |d: &Deal| {
        let cut = |c: &Cut| object! { "dealt": c.dealt.0, "last": c.last.0 };
        object! {
            "key_epoch": d.key_epoch.0, "random": d.random,
            "origin": match d.origin {
                Origin::Reveals => origin::REVEALS,
                Origin::FirstVotes => origin::FIRST_VOTES,
                Origin::Before => origin::BEFORE,
            },
            "listed_before_ms": d.listed_before.0, "cut": d.cut.iter().map(cut).collect::<Vec<_>>(),
        }
    };
    object! {
        "deals": s.deals.iter().map(deal).collect::<Vec<_>>(),
        "left_out": s.left_out.iter().map(|id| Json::from(id.0)).collect::<Vec<_>>(),
        "commits": commits(&s.commits), "reveals": reveals(&s.reveals),
    }
}

fn commits(list: &[(AuthorityId, Hash)]) -> Vec<Json> {
    list.iter().map(|(id, commit)| object! { "authority": id.0, "commit": commit.0 }).collect()
}

fn reveals(list: &[(AuthorityId, Reveal)]) -> Vec<Json> {
    list.iter().map(|(id, reveal)| object! { "authority": id.0, "reveal": *reveal }).collect()
}

fn relay(r: &RelayEntry) -> Json {
    let layer = |p: &Option<Position>| {
        Json::from(match p {
            None => position::NONE,
            Some(Position::Edge) => position::EDGE,
            Some(Position::Mix1) => position::MIX1,
            Some(Position::Mix2) => position::MIX2,
        })
    };
    object! {
        "relay": r.id.0, "link_key": r.link_key.0, "link_addresses": addresses(&r.link_addresses),
        "client_addresses": addresses(&r.client_addresses), "roles": roles(r.roles), "family": family(r.family),
        "operator": r.operator.0, "capacity": r.capacity, "protocols": protocols(r.protocols), "class": class(r.class),
        "listed_since_ms": r.listed_since.0, "layers": r.layers.iter().map(layer).collect::<Vec<_>>(),
    }
}

pub(crate) fn header(h: &Header) -> Json {
    object! { "epoch": h.epoch.0, "valid_after_ms": h.valid_after.0, "hash": h.hash.0 }
}

fn signed_header(h: &SignedHeader) -> Json {
    let by = h.signatures.iter().map(|s| Json::from(s.authority().0)).collect::<Vec<_>>();
    header(&h.header).with("signed_by", by)
}

/// A vote's newest consensus is a list of none or one.
pub(crate) fn vote(v: &Vote) -> Json {
    let relay = |r: &posta_protocol::document::VotedRelay| {
        object! { "relay": r.id.0, "descriptor": r.digest.0, "class": class(r.class) }
    };
    object! {
        "certificate": certificate(&v.certificate), "epoch": v.epoch.0, "attempt": v.attempt,
        "published_ms": v.published.0, "newest": v.newest.iter().map(signed_header).collect::<Vec<_>>(),
        "random_key_epoch": v.random.key_epoch.0, "commits": commits(&v.random.commits),
        "reveals": reveals(&v.random.reveals), "params": params(&v.params),
        "relays": v.relays.iter().map(relay).collect::<Vec<_>>(), "extensions": extensions(&v.extensions),
    }
}

pub(crate) fn echo(e: &Echo) -> Json {
    let vote = |(voter, hash): &(AuthorityId, Hash)| {
        object! { "authority": voter.0, "vote": hash.0 }
    };
    object! {
        "certificate": certificate(&e.certificate), "epoch": e.epoch.0, "attempt": e.attempt,
        "published_ms": e.published.0, "votes": e.votes.iter().map(vote).collect::<Vec<_>>(),
    }
}

pub(crate) fn withdrawal(w: &Withdrawal) -> Json {
    object! { "certificate": certificate(&w.certificate), "published_ms": w.published.0 }
}

pub(crate) fn proposal(p: &Proposal) -> Json {
    let vote = |(voter, hash): &(AuthorityId, Hash)| object! { "authority": voter.0, "vote": hash.0 };
    object! {
        "certificate": certificate(&p.certificate), "epoch": p.epoch.0, "attempt": p.attempt,
        "published_ms": p.published.0, "votes": p.votes.iter().map(vote).collect::<Vec<_>>(),
        "echoes": p.echoes.iter().map(|e| Json::from(e.as_slice())).collect::<Vec<_>>(),
    }
}

pub(crate) fn evidence(e: &Evidence) -> Json {
    let code = match e.kind() {
        EvidenceKind::Consensuses => kind::CONSENSUSES,
        EvidenceKind::Votes => kind::VOTES,
        EvidenceKind::Signatures => kind::SIGNATURES,
    };
    let accused = e.accused().iter().map(|id| Json::from(id.0)).collect::<Vec<_>>();
    object! { "code": code, "epoch": e.epoch().0, "accused": accused }
}

pub(crate) fn report(r: &RoundReport) -> Json {
    let vote = |v: &VoteReport| {
        let state = match v.state {
            VoteState::Counted => vote_state::COUNTED,
            VoteState::NotCounted => vote_state::NOT_COUNTED,
            VoteState::Twice => vote_state::TWICE,
        };
        object! { "authority": v.voter.0, "vote": v.hash.0, "state": state }
    };
    let votes = r.votes.iter().map(vote).collect::<Vec<_>>();
    object! { "epoch": r.epoch.0, "attempt": r.attempt, "votes": votes }
}
