//! No secret in any `Debug` output: every public type that holds one is printed in all forms and searched for it.

use std::convert::Infallible;
use std::fmt::Debug;
use std::time::Duration;

use posta_protocol::admission::{Proof, QueueKind};
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::{BlobCapability, Command, Envelope, ReaderCapability, WriterCapability};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::wide_block::WideBlock;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::end_to_end::{Content, Kind, QueueAddress, QueueKey};
use posta_protocol::frame::{Delivery, Frame};
use posta_protocol::ids::{BlobId, Epoch, Hash, InboxId, QueueId, RelayId, SurbId, WriterId};
use posta_protocol::invitation::Offer;
use posta_protocol::now::Wall;
use posta_protocol::onion::build::Last;
use posta_protocol::onion::reply::reply_block;
use posta_protocol::onion::{KeyRing, Next, ReplayTag};
use posta_protocol::params::{BLOB_LEN, BOX_LEN};
use posta_protocol::secret::Secret;
use rand_core::{TryCryptoRng, TryRng};

use super::support::*;

/// Eight bytes of which every secret here is made, so that any part of one is recognised.
const PATTERN: [u8; 8] = [0xa7, 0x3b, 0xd9, 0x5e, 0xf1, 0x82, 0xc4, 0x6d];

fn pattern<const N: usize>() -> [u8; N] {
    std::array::from_fn(|i| PATTERN[i % 8])
}

fn secret<const N: usize>() -> Secret<N> {
    Secret::new(pattern())
}

/// Draws nothing but the pattern.
struct PatternRng;

impl TryRng for PatternRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(pattern()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(pattern()))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.iter_mut().zip(PATTERN.iter().cycle()).for_each(|(o, p)| *o = *p);
        Ok(())
    }
}

impl TryCryptoRng for PatternRng {}

/// The forms in which something can be printed.
fn printed(value: &dyn Debug) -> [String; 4] {
    [format!("{value:?}"), format!("{value:#?}"), format!("{value:x?}"), format!("{value:02X?}")]
}

/// Runs of byte values in a text, as numbers of a list or as hexadecimal digits in a row.
fn runs(text: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for radix in [10, 16] {
        let mut run = Vec::new();
        for token in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|t| !t.is_empty()) {
            match u8::from_str_radix(token.trim_start_matches("0x"), radix) {
                Ok(byte) => run.push(byte),
                Err(_) => found.push(std::mem::take(&mut run)),
            }
        }
        found.push(run);
    }
    for digits in text.split(|c: char| !c.is_ascii_hexdigit()).filter(|d| d.len() >= 6) {
        for start in 0..2 {
            let pairs = digits.as_bytes()[start..].chunks_exact(2);
            found.push(pairs.map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect());
        }
    }
    found
}

/// Whether three bytes of the pattern in a row, or a word of a text, can be read in what is printed.
fn readable(text: &str) -> bool {
    let triples: [[u8; 3]; 8] = std::array::from_fn(|i| std::array::from_fn(|j| PATTERN[(i + j) % 8]));
    text.contains("sesame") || runs(text).iter().any(|run| run.windows(3).any(|w| triples.iter().any(|t| t == w)))
}

fn leaks(value: &dyn Debug) -> bool {
    printed(value).iter().any(|text| readable(text))
}

/// Whether any three byte values stand in a row: for what derives its secrets, so that they can't be searched for.
fn shows_bytes(value: &dyn Debug) -> bool {
    printed(value).iter().any(|text| runs(text).iter().any(|run| run.len() >= 3))
}

fn commands() -> Vec<Command> {
    let reader = || ReaderCapability::new(secret());
    let writer = || WriterCapability::new(secret());
    let (body, blob) = (|| vec![1; BOX_LEN].into(), || vec![1; BLOB_LEN].into());
    let message = posta_protocol::ids::MessageId(pattern());
    let password = || Proof::Password(b"open sesame".to_vec().into());
    let queue = QueueId(pattern());
    vec![
        Command::Create { queue, writer: WriterId(pattern()), kind: QueueKind::Plain, proof: password() },
        Command::Secure { invited: writer(), writer: WriterId(pattern()) },
        Command::Send { writer: writer(), sequence: 1, body: body() },
        Command::ContactSend { writer: writer(), message, proof: password(), body: body() },
        Command::Subscribe { reader: reader(), acked: 1, pace: 2 },
        Command::Fetch { reader: reader(), after: 1 },
        Command::Ack { reader: reader(), up_to: 1 },
        Command::Delete { reader: reader() },
        Command::Info { reader: reader() },
        Command::Suspend { reader: reader() },
        Command::Resume { reader: reader() },
        Command::Extend { reader: reader() },
        Command::BlobPut { put: writer(), get: BlobId(pattern()), one_time: true, hours: 1, body: blob() },
        Command::BlobGet { get: BlobCapability::new(secret()), reader: secret() },
        Command::BlobDelete { put: writer() },
    ]
}

#[test]
fn no_debug_output_holds_a_byte_of_a_secret() {
    let g = small();
    let key = || KemSecretKey::from_seed(&secret()).unwrap();
    let relay = RelayId([1; 32]);
    let named = Relay { id: relay, secret: key(), ring: KeyRing::new(relay, g, vec![(EPOCH, key())]) };
    let hops = path([&named]);
    let inbox = InboxId(pattern());
    let (block, keys) = reply_block(g, EPOCH, &hops, inbox, &mut PatternRng).unwrap();
    let (_, packet) =
        reply_block(g, EPOCH, &hops, inbox, &mut PatternRng).unwrap().0.reply(g, &pattern::<64>()).unwrap();
    let address = || QueueAddress { relay, invited: secret(), key: secret() };
    let offer = Offer::new(vec![address()], PATTERN.to_vec(), &mut PatternRng);
    let link = offer.link([relay; 2]);
    let mut writer = Writer::default();
    writer.bytes(&PATTERN);
    let message = || Kind::Message { number: 1, expires: Wall(2), body: pattern::<64>().to_vec() };
    let content = |kind| Content { epoch: Epoch(1), consensus: Hash([1; 32]), kind };
    let surb = SurbId(pattern());
    let subscribe = Command::Subscribe { reader: ReaderCapability::new(secret()), acked: 1, pace: 2 };

    // Those that derive what they hold: nothing that looks like bytes at all.
    let derived: [(&str, &dyn Debug); 8] = [
        ("KemSecretKey", &key()),
        ("SignKey", &SignKey::from_seed(&secret())),
        ("WideBlock", &WideBlock::new(&pattern())),
        ("QueueKey", &QueueKey::new(&secret())),
        ("ReplyKeys", &keys),
        ("ReplyBlock", &block),
        ("Link", &link),
        ("KeyRing", &named.ring),
    ];
    for (what, value) in derived {
        assert!(!shows_bytes(value) && !leaks(value), "{what}: {value:?}");
    }
    let given: [(&str, &dyn Debug); 21] = [
        ("Secret", &secret::<32>()),
        ("ReaderCapability", &ReaderCapability::new(secret())),
        ("WriterCapability", &WriterCapability::new(secret())),
        ("BlobCapability", &BlobCapability::new(secret())),
        ("Envelope", &Envelope { command: subscribe, reply: vec![block] }),
        ("Frame", &Frame::Attach(secret())),
        ("QueueAddress", &address()),
        ("Content of queues", &content(Kind::Queues(vec![address()]))),
        ("Content of moved queues", &content(Kind::Moved { generation: 1, queues: vec![address()] })),
        ("Content of a message", &content(message())),
        ("Kind", &message()),
        ("Offer", &offer),
        ("Proof", &Proof::Password(b"open sesame".to_vec().into())),
        ("Writer", &writer),
        ("Reader", &Reader::new(&PATTERN)),
        ("Packet", &packet),
        ("Delivery", &Delivery { surb, payload: pattern::<64>().into() }),
        ("ReplayTag", &ReplayTag(pattern())),
        ("Next", &Next::Inbox { inbox, surb }),
        ("Last", &Last::Inbox(inbox, surb)),
        ("Hop", &hops[0]),
    ];
    for (what, value) in given {
        assert!(!leaks(value), "{what}: {value:?}");
    }
    for command in commands() {
        assert!(!leaks(&command), "{command:?}");
    }
}

#[test]
fn a_leaky_debug_output_is_found_in_every_form() {
    #[derive(Debug)]
    #[expect(dead_code, reason = "printed only")]
    struct Leaky {
        delay: Duration,
        key: [u8; 8],
    }
    #[derive(Debug)]
    #[expect(dead_code, reason = "printed only")]
    struct Word(String);
    struct Hex;
    impl Debug for Hex {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "key 0{}", PATTERN.map(|b| format!("{b:02x}")).concat())
        }
    }
    let leaky = Leaky { delay: Duration::ZERO, key: PATTERN };
    assert!(leaks(&leaky) && leaks(&Hex) && leaks(&Word("open sesame".into())));
    assert!(shows_bytes(&leaky) && shows_bytes(&Hex));
    // Each form by itself.
    for text in printed(&leaky) {
        assert!(readable(&text), "{text}");
    }
}
