//! Every decoder by its name in `refused.json`, run on a vector's inputs alone.

use core::time::Duration;

use posta_protocol::answer::Answer;
use posta_protocol::codec::Reader;
use posta_protocol::command::Envelope;
use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::document::{
    Certificate, ConsensusDiff, MixKeysDiff, Reply, Request, RoundReport, Signature, UnverifiedConsensus,
    UnverifiedDescriptor, UnverifiedEcho, UnverifiedEvidence, UnverifiedMixKeys, UnverifiedProposal, UnverifiedVote,
    UnverifiedWithdrawal,
};
use posta_protocol::end_to_end::{Content, Inner, QueueKey};
use posta_protocol::error::{Malformed, Refused, Untrusted};
use posta_protocol::frame::{Delivery, Frame, Hello};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::invitation::{BadLink, Link};
use posta_protocol::now::Wall;
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use serde_json::Value;

use super::{LINK, REFUSED, TOO_LONG, TRAILING, TRUNCATED, UNTRUSTED, VALUE};
use crate::documents::authorities;
use crate::hops::{geometry_of, secret};
use crate::json::Fields;

/// The decoders, and the classes that each must have a vector of.
pub(super) const ALL: [(&str, &[&str]); 29] = [
    ("geometry", &[TRUNCATED, TRAILING, VALUE]),
    ("mix key", &[TRUNCATED, VALUE]),
    ("command", &[TRUNCATED, TRAILING, TOO_LONG, VALUE]),
    ("answer", &[TRUNCATED, TRAILING, TOO_LONG, VALUE]),
    ("reply block", &[TRUNCATED]),
    ("hello", &[TRUNCATED, TRAILING]),
    ("frame", &[TRUNCATED, TRAILING]),
    ("delivery", &[TRUNCATED, TRAILING]),
    ("content", &[TRUNCATED, TRAILING, TOO_LONG, VALUE]),
    ("inside", &[TRUNCATED, TRAILING, TOO_LONG]),
    ("sealed box", &[REFUSED]),
    ("blob", &[REFUSED]),
    ("link", &[LINK]),
    ("certificate", &[TRUNCATED, TRAILING, VALUE]),
    ("descriptor", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("consensus", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("mix keys", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("consensus diff", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("mix keys diff", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("vote", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("echo", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("signature", &[TRUNCATED, TRAILING, VALUE]),
    ("withdrawal", &[TRUNCATED, TRAILING, VALUE, UNTRUSTED]),
    ("proposal", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("evidence", &[TRUNCATED, TRAILING, TOO_LONG, VALUE, UNTRUSTED]),
    ("round report", &[TRUNCATED, TRAILING, TOO_LONG, VALUE]),
    ("request", &[TRUNCATED, TRAILING, TOO_LONG, VALUE]),
    ("reply", &[TRUNCATED, TRAILING, TOO_LONG, VALUE]),
    ("packet", &[REFUSED]),
];

/// Class and text of an error.
type Why = (&'static str, String);

trait Explained {
    fn why(self) -> Why;
}

impl Explained for Malformed {
    fn why(self) -> Why {
        let class = match self {
            Self::Truncated(_) => TRUNCATED,
            Self::Trailing(_) => TRAILING,
            Self::TooLong(_) => TOO_LONG,
            Self::Value(_) => VALUE,
            other => panic!("{other:?} has no class yet"),
        };
        (class, self.to_string())
    }
}

impl Explained for Untrusted {
    fn why(self) -> Why {
        match self {
            Self::Malformed(malformed) => malformed.why(),
            other => (UNTRUSTED, other.to_string()),
        }
    }
}

impl Explained for Refused {
    fn why(self) -> Why {
        (REFUSED, REFUSED.to_owned())
    }
}

impl Explained for BadLink {
    fn why(self) -> Why {
        (LINK, self.to_string())
    }
}

fn done<T, E: Explained>(result: Result<T, E>) -> Result<(), Why> {
    result.map(|_| ()).map_err(Explained::why)
}

/// Runs the vector's decoder. `zeros_after` stands for so many zero bytes behind `bytes`.
pub(super) fn run(vector: &Value) -> Result<(), Why> {
    let mut bytes = vector.get("bytes").map(Fields::bytes).unwrap_or_default();
    if let Some(zeros) = vector.get("zeros_after") {
        bytes.resize(bytes.len() + usize::try_from(zeros.number()).unwrap(), 0);
    }
    let mut r = Reader::new(&bytes);
    match vector.at("decoder").text() {
        "geometry" => done(Geometry::read(&mut r).and_then(|_| r.finish("geometry"))),
        "mix key" => done(KemPublicKey::read(&mut r)),
        "command" => done(Envelope::decode(&bytes, geometry_of(vector))),
        "answer" => done(Answer::decode(&bytes)),
        "reply block" => done(ReplyBlock::read(&mut r, geometry_of(vector))),
        "hello" => done(Hello::decode(&bytes)),
        "frame" => done(Frame::decode(&bytes)),
        "delivery" => done(Delivery::from_packet(&Packet::from_bytes(bytes.into()), geometry_of(vector))),
        "content" => done(Content::decode(&bytes)),
        "inside" => done(Inner::decode(&bytes)),
        "sealed box" => done(QueueKey::new(&Secret::new(vector.at("key").array())).open(&bytes)),
        "blob" => done(vector.at("link").text().parse::<Link>().unwrap().open(&bytes)),
        "link" => done(vector.at("text").text().parse::<Link>()),
        "request" => done(Request::decode(&bytes)),
        "reply" if vector.get("content").is_some() => done(Reply::descriptors(&vector.at("content").bytes())),
        "reply" => done(Reply::decode(&bytes)),
        "packet" => done(packet(vector, bytes)),
        _ => document(vector, &bytes),
    }
}

/// Documents are decoded, then verified where the vector says as of when and by whom.
fn document(vector: &Value, bytes: &[u8]) -> Result<(), Why> {
    let known = || authorities(vector.at("authorities").items().iter().map(Fields::array));
    let at = vector.get("at_ms").map(|at| Wall(at.number()));
    let verified = vector.get("authorities").is_some();
    match vector.at("decoder").text() {
        "certificate" => done(Certificate::decode(bytes)),
        "descriptor" => {
            let decoded = UnverifiedDescriptor::decode(bytes).map_err(Explained::why)?;
            at.map_or(Ok(()), |at| done(decoded.verify(at)))
        }
        "consensus" => {
            let decoded = UnverifiedConsensus::decode(bytes).map_err(Explained::why)?;
            at.map_or(Ok(()), |at| done(decoded.verify(&known(), at, Duration::ZERO)))
        }
        "mix keys" => {
            let decoded = UnverifiedMixKeys::decode(bytes).map_err(Explained::why)?;
            let Some(consensus) = vector.get("consensus") else { return Ok(()) };
            let held = UnverifiedConsensus::decode(&consensus.bytes()).unwrap().verify_signatures(&known()).unwrap();
            done(decoded.verify(&held))
        }
        "consensus diff" => {
            let decoded = ConsensusDiff::decode(bytes).map_err(Explained::why)?;
            let Some(base) = vector.get("base") else { return Ok(()) };
            let base = UnverifiedConsensus::decode(&base.bytes()).unwrap().verify_signatures(&known()).unwrap();
            done(decoded.apply(&base))
        }
        "mix keys diff" => {
            let decoded = MixKeysDiff::decode(bytes).map_err(Explained::why)?;
            let Some(base) = vector.get("base") else { return Ok(()) };
            let consensus = UnverifiedConsensus::decode(&vector.at("consensus").bytes()).unwrap();
            let consensus = consensus.verify_signatures(&known()).unwrap();
            done(decoded.apply(&UnverifiedMixKeys::decode(&base.bytes()).unwrap().verify(&consensus).unwrap()))
        }
        "vote" => {
            let decoded = UnverifiedVote::decode(bytes).map_err(Explained::why)?;
            if verified { done(decoded.verify(&known())) } else { Ok(()) }
        }
        "echo" => {
            let decoded = UnverifiedEcho::decode(bytes).map_err(Explained::why)?;
            if verified { done(decoded.verify(&known())) } else { Ok(()) }
        }
        "signature" => done(Signature::decode(bytes)),
        "withdrawal" => {
            let decoded = UnverifiedWithdrawal::decode(bytes).map_err(Explained::why)?;
            at.map_or(Ok(()), |at| done(decoded.verify(at)))
        }
        "proposal" => {
            let decoded = UnverifiedProposal::decode(bytes).map_err(Explained::why)?;
            if verified { done(decoded.verify(&known())) } else { Ok(()) }
        }
        "evidence" => {
            let decoded = UnverifiedEvidence::decode(bytes).map_err(Explained::why)?;
            if verified { done(decoded.verify(&known())) } else { Ok(()) }
        }
        "round report" => done(RoundReport::decode(bytes)),
        other => panic!("no decoder {other}"),
    }
}

/// Peels with the ring that the vector gives, having seen the replay tags that it lists.
fn packet(vector: &Value, bytes: Vec<u8>) -> Result<(), Refused> {
    let key = |k: &Value| (KeyEpoch(k.at("key_epoch").number()), secret(&k.at("key_seed").array()));
    let keys = vector.at("keys").items().iter().map(key).collect();
    let ring = KeyRing::new(RelayId(vector.at("relay").array()), geometry_of(vector), keys);
    let seen: Vec<Vec<u8>> = vector.at("seen").items().iter().map(Fields::bytes).collect();
    peel(&ring, &mut Packet::from_bytes(bytes.into()), |_, tag| !seen.contains(&tag.0.to_vec())).map(|_| ())
}
