//! Numbers in braces: a constant's name, an equals sign, its value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use posta_protocol::crypto::signature::SIGNATURE_LEN;
use posta_protocol::document::{Certificate, Header, Request};
use posta_protocol::end_to_end::{MAX_FLEETING_LEN, MAX_MESSAGE_LEN, MAX_QUEUES, QueueAddress};
use posta_protocol::frame::Hello;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids;
use posta_protocol::invitation::{Offer, RelayPrefix};
use posta_protocol::onion::reply::ReplyBlock;
use posta_protocol::params;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::markdown::Page;

/// What a constant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Count(u64),
    Time(Duration),
}

macro_rules! counts {
    ($($int:ty),*) => { $(impl From<$int> for Value {
        fn from(n: $int) -> Self {
            Self::Count(u64::try_from(n).unwrap())
        }
    })* };
}
counts!(u8, u16, u32, u64, usize);

impl From<Duration> for Value {
    fn from(d: Duration) -> Self {
        Self::Time(d)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Time(d) => write!(f, "{d:?}"),
        }
    }
}

impl Value {
    /// A value as it is printed: an integer, with a comma between thousands or without, or a duration with its unit.
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = match text.split_once(' ') {
            Some((number, unit)) => (number, Some(unit)),
            None => (text, None),
        };
        let n: u64 = number.replace(',', "").parse().ok()?;
        if number.contains(',') && number != with_commas(n) {
            return None;
        }
        let micros = match unit {
            None => return Some(Self::Count(n)),
            Some("µs") => 1,
            Some("ms") => 1_000,
            Some("s") => 1_000_000,
            Some("min") => 60_000_000,
            Some("h") => 3_600_000_000,
            Some("d") => 86_400_000_000,
            Some(_) => return None,
        };
        Some(Self::Time(Duration::from_micros(n * micros)))
    }
}

fn with_commas(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap()).collect();
    groups.join(",")
}

macro_rules! all {
    ($($name:ident)*) => { vec![$((stringify!($name), Value::from(params::$name))),*] };
}

/// Every constant of `params.rs`.
#[rustfmt::skip]
pub(crate) fn params() -> Vec<(&'static str, Value)> {
    all! {
        PROTOCOL_VERSION
        KEM_CIPHERTEXT_LEN KEM_PUBLIC_KEY_LEN KEM_SEED_LEN KEM_ENCAPS_SEED_LEN TAG_LEN COMMAND_BLOCK_LEN SLOT_LEN
        PAYLOAD_CHECK_LEN DEFAULT_PAYLOAD_LEN DEFAULT_HOPS MAX_HOPS MAX_PAYLOAD_LEN MAX_HOP_DELAY
        CAPABILITY_LEN MAX_SUBSCRIBE_SURBS MAX_QUEUE_SURBS DEFAULT_QUEUE_QUOTA SEQUENCE_WINDOW DEFAULT_CONTACT_QUOTA
        DEFAULT_BULK_QUOTA MAX_SEQUENCE_AHEAD MAX_PACE RESEND_AFTER CONTACT_WINDOW DEFAULT_MESSAGE_TTL
        DEFAULT_MESSAGE_TTL_MIN DEFAULT_BULK_TTL DEFAULT_QUEUE_TTL DEFAULT_QUEUE_TTL_MIN DEFAULT_QUEUE_TTL_MAX MAX_BLOB_TTL BOX_LEN BLOB_LEN MAX_PASSWORD_LEN
        PUZZLE_SEED_LEN MAX_PUZZLE_EFFORT PUZZLE_SEED_LIFE
        BOX_NONCE_LEN BOX_CONTENT_LEN INNER_OVERHEAD MAX_KEY_PACKAGE_LEN MLS_KEY_PACKAGE_LEN MLS_WELCOME_LEN
        MLS_COMMIT_LEN MLS_OVERHEAD PAST_EPOCHS TURN_LAG OVERTAKEN PASSED_OVER
        RECEIPT_LAG QUEUES_PER_DIRECTION SEND_WINDOW REORDER_WINDOW SAMPLED_GUARDS INVITATION_HOURS
        DEFAULT_MIXED_HOP_DELAY DEFAULT_STEADY_HOP_DELAY DEFAULT_MIXED_SEND_INTERVAL DEFAULT_STEADY_SEND_INTERVAL
        DELAY_GRANULARITY MAX_MEAN_HOP_DELAY DOWNLINK_PER_UPLINK MIN_DOWNLINK_INTERVAL
        COVER_PATIENCE DEFAULT_RELAY_LOOP_INTERVAL MIN_RELAY_LOOP_INTERVAL
        KEY_EPOCHS_AHEAD DEFAULT_KEY_EPOCH DEFAULT_EPOCH MIN_EPOCH KEY_EPOCH_MARGIN_DIVISOR RELAY_CLOCK_SKEW
        CONSENSUS_LIFETIME_EPOCHS DESCRIPTOR_LIFETIME_EPOCHS VOTING_STARTS_DIVISOR PHASE_DIVISOR MAX_PHASE
        ROUND_EPOCHS_AHEAD
        MAX_RELAYS MAX_AUTHORITIES MAX_ADDRESSES MAX_RELAYS_PER_ADDRESS MAX_DESCRIPTOR_LEN MAX_CONSENSUS_LEN
        MAX_MIX_KEYS_LEN MAX_CONSENSUS_DIFF_LEN DEFLATE_MAX_RATIO MAX_MIX_KEYS_DIFFS
        CLIENT_CLOCK_SKEW MAX_PARAMETERS MAX_EXTENSIONS MAX_EXTENSION_LEN MAX_DESCRIPTOR_KEYS
        DEFAULT_LAYER_MIN MIN_EDGES LAYER_SMALLEST_PART MIN_EPOCHS_PER_KEY_EPOCH LISTING_GRACE_EPOCHS
        MAX_KEY_EPOCHS MAX_VOTE_LEN MAX_PROPOSAL_LEN MAX_EVIDENCE_LEN MAX_DESCRIPTORS_AT_ONCE
        MAX_FRAME_LEN LINK_PACKET_STREAMS CLIENT_PACKET_STREAMS REQUESTS_AT_ONCE HELLO_TIMEOUT REQUEST_TIMEOUT
        TRANSFER_TIMEOUT LEAST_PROGRESS LINK_IDLE LINK_KEEP_ALIVE CLIENT_IDLE CLIENT_KEEP_ALIVE DIRECTORY_IDLE DIRECTORY_KEEP_ALIVE
    }
}

/// Lengths that follow from the code's types.
fn derived() -> Vec<(&'static str, Value)> {
    let g = Geometry::DEFAULT;
    let link = Offer::new(Vec::new(), Vec::new(), &mut ChaCha20Rng::seed_from_u64(1))
        .link([ids::RelayId([0; 32]); 2])
        .to_text();
    let (_, inner) = bech32::decode(link.strip_prefix("posta:").unwrap()).unwrap();
    vec![
        ("GEOMETRY_LEN", Geometry::LEN.into()),
        ("GEOMETRY_DEFAULT_ROUTING_LEN", g.routing_len().into()),
        ("GEOMETRY_DEFAULT_HEADER_LEN", g.header_len().into()),
        ("GEOMETRY_DEFAULT_PAYLOAD_LEN", g.payload_len().into()),
        ("GEOMETRY_DEFAULT_PACKET_LEN", g.packet_len().into()),
        ("AAD_LEN", (2 + ids::Hash::LEN + params::KEM_CIPHERTEXT_LEN).into()),
        ("REPLY_BLOCK_LEN", ReplyBlock::encoded_len(g).into()),
        // X-Wing's halves: X25519 adds 32 bytes to each.
        ("ML_KEM_PUBLIC_KEY_LEN", (params::KEM_PUBLIC_KEY_LEN - 32).into()),
        ("ML_KEM_CIPHERTEXT_LEN", (params::KEM_CIPHERTEXT_LEN - 32).into()),
        ("SIGNATURE_LEN", SIGNATURE_LEN.into()),
        ("RELAY_ID_LEN", ids::RelayId::LEN.into()),
        ("AUTHORITY_ID_LEN", ids::AuthorityId::LEN.into()),
        ("LINK_PUBLIC_KEY_LEN", ids::LinkPublicKey::LEN.into()),
        ("SIGNING_PUBLIC_KEY_LEN", ids::SigningPublicKey::LEN.into()),
        ("INBOX_ID_LEN", ids::InboxId::LEN.into()),
        ("SURB_ID_LEN", ids::SurbId::LEN.into()),
        ("HASH_LEN", ids::Hash::LEN.into()),
        ("QUEUE_ID_LEN", ids::QueueId::LEN.into()),
        ("WRITER_ID_LEN", ids::WriterId::LEN.into()),
        ("BLOB_ID_LEN", ids::BlobId::LEN.into()),
        ("INCARNATION_LEN", ids::Incarnation::LEN.into()),
        ("MESSAGE_ID_LEN", ids::MessageId::LEN.into()),
        ("OPERATOR_ID_LEN", ids::OperatorId::LEN.into()),
        ("HELLO_LEN", Hello::LEN.into()),
        ("CERTIFICATE_LEN", Certificate::LEN.into()),
        ("CONSENSUS_HEADER_LEN", Header::LEN.into()),
        ("MAX_REQUEST_LEN", Request::MAX_LEN.into()),
        ("MAX_AUTHORITY_REQUEST_LEN", Request::MAX_AUTHORITY_LEN.into()),
        ("QUEUE_ADDRESS_LEN", QueueAddress::LEN.into()),
        ("MAX_QUEUES", MAX_QUEUES.into()),
        ("MAX_MESSAGE_LEN", MAX_MESSAGE_LEN.into()),
        ("MAX_FLEETING_LEN", MAX_FLEETING_LEN.into()),
        ("MAX_BOX_LEN", posta_protocol::command::MAX_BOX_LEN.into()),
        ("RELAY_PREFIX_LEN", size_of::<RelayPrefix>().into()),
        ("INVITATION_VERSION", inner[0].into()),
        ("INVITATION_LINK_LEN", inner.len().into()),
        ("INVITATION_TEXT_LEN", link.len().into()),
    ]
}

/// The constants that the specification may name.
pub(crate) struct Known(BTreeMap<&'static str, Value>);

impl Known {
    pub(crate) fn all() -> Self {
        Self::of(&[params(), derived()].concat())
    }

    pub(crate) fn of(list: &[(&'static str, Value)]) -> Self {
        let known: BTreeMap<_, _> = list.iter().copied().collect();
        assert_eq!(known.len(), list.len(), "a name twice");
        Self(known)
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.keys().copied().collect()
    }
}

/// The constants that `params.rs` declares.
pub(crate) fn declared(source: &str) -> BTreeSet<&str> {
    source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect()
}

/// A name in braces: its line, and name and value, or what is wrong with it.
type Named<'a> = (usize, Result<(&'a str, &'a str), String>);

/// All names in braces of a page, those in code too. Braces around anything else are passed over.
fn named(text: &str) -> Vec<Named<'_>> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices('{') {
            let inside = &line[at + 1..];
            let name = &inside[..inside
                .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
                .unwrap_or(inside.len())];
            if name.len() < 2 {
                continue;
            }
            let one = match inside.split_once('}') {
                None => Err(format!("{{{name} is not closed on its line")),
                Some((inside, _)) => {
                    let value = inside.strip_prefix(name).and_then(|rest| rest.strip_prefix(" = "));
                    value
                        .map(|value| (name, value))
                        .ok_or_else(|| format!("{{{inside}}} is not written {{NAME = value}}"))
                }
            };
            found.push((n + 1, one));
        }
    }
    found
}

/// The text without its names in braces.
pub(crate) fn without_named(text: &str) -> String {
    let mut rest = text.to_owned();
    for (_, one) in named(text) {
        if let Ok((name, value)) = one {
            rest = rest.replacen(&format!("{{{name} = {value}}}"), "", 1);
        }
    }
    rest
}

/// Numbers of a page that aren't the code's.
pub(crate) fn wrong(page: &Page, known: &Known) -> Vec<String> {
    let problem = |(line, one): Named<'_>| {
        let what = match one {
            Err(what) => what,
            Ok((name, value)) => match (known.0.get(name), Value::parse(value)) {
                (None, _) => format!("there is no constant {name}"),
                (_, None) => format!("{name} = {value}: that is no number as they are printed here"),
                (Some(right), Some(value)) if *right == value => return None,
                (Some(right), Some(_)) => format!("{name} is {value} here and {right} in the code"),
            },
        };
        Some(format!("{}:{line}: {what}", page.name))
    };
    named(&page.text).into_iter().filter_map(problem).collect()
}

/// Constants that no page names.
pub(crate) fn unused(pages: &[Page], known: &Known) -> Vec<String> {
    let used: BTreeSet<&str> =
        pages.iter().flat_map(|page| named(&page.text)).filter_map(|(_, one)| Some(one.ok()?.0)).collect();
    let unused = known.0.keys().filter(|name| !used.contains(*name));
    unused.map(|name| format!("{name} is in no chapter")).collect()
}
