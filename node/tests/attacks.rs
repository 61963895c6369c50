//! Attacks on a relay: replays over a change of the key epoch, packets that fail to peel, and packets that loop. Those
//! on the packet alone: `posta-protocol`'s tests `attacks`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "support/world.rs"]
mod world;

use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::time::Duration;

use posta_node::driver::replay_log::{BootId, LogOwner, ShardLog, load};
use posta_node::keys::Keys;
use posta_node::relay::replay::ReplayShard;
use posta_node::relay::worker::Peeler;
use posta_node::relay::{ClientLink, Source, grace, skew};
use posta_protocol::answer::Body;
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::Command;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::reply::{ReplyBlock, reply_block};
use posta_protocol::packet::Packet;
use posta_protocol::params::KEM_CIPHERTEXT_LEN;
use rand_core::Rng;
use world::*;

const MS: u64 = KEY_EPOCH.as_millis() as u64;

/// A relay's keys, filter and log, as its driver drives them.
struct Hopping {
    keys: Keys,
    peeler: Peeler,
    log: ShardLog,
}

impl Hopping {
    /// Starts, or starts again, at a time.
    fn start(dir: &Path, now: Wall) -> Self {
        let mut keys = Keys::create(dir, now).unwrap();
        keys.make_ahead(now, MS).unwrap();
        let mut shard = ReplayShard::new(keys.replay(), 1000);
        let owner = LogOwner { dir: dir.join("replay"), relay: keys.relay(), boot: BootId([1; 16]) };
        let loaded = load(&owner, |seen| shard.restore(seen)).unwrap();
        assert!(loaded.spoiled.is_empty());
        let peeler = Peeler::new(keys.ring(now, MS, G).unwrap(), shard);
        Self { keys, peeler, log: ShardLog::new(owner, loaded.run, 1, 0) }
    }

    /// What the driver does when the key epoch turns.
    fn turn(&mut self, now: Wall) {
        self.keys.destroy_past(now, MS).unwrap();
        self.keys.make_ahead(now, MS).unwrap();
        let ring = self.keys.ring(now, MS, G).unwrap();
        let oldest = ring.oldest();
        self.peeler.set_ring(ring);
        self.log.forget_before(oldest).unwrap();
    }

    /// Peels, and writes what is newly seen. A packet that opens and is refused counts as a replay.
    fn peel(&mut self, packet: &Packet) -> bool {
        let peeled = self.peeler.peel(&mut packet.clone()).is_ok();
        let seen = self.peeler.take_log();
        assert_eq!(peeled, seen.len() == 1);
        self.log.write(&seen).unwrap();
        peeled
    }

    fn packet(&self, epoch: KeyEpoch, now: Wall) -> Packet {
        let keys = self.keys.mix_public(now, MS);
        let key = &keys.iter().find(|(e, _)| *e == epoch).unwrap().1;
        let hop = Hop { relay: self.keys.relay(), key, delay: Duration::ZERO };
        packet(G, epoch, &[hop], Last::Drop, b"", &mut World::new().rng).unwrap()
    }
}

fn mix_key_file(dir: &Path, epoch: KeyEpoch) -> bool {
    dir.join("mix").join(format!("{}.key", epoch.0)).exists()
}

#[test]
fn a_packet_of_the_old_key_epoch_is_refused_as_a_replay_while_its_key_lives_and_with_the_key_after() {
    let dir = tempfile::tempdir().unwrap();
    let now = start().wall;
    let epoch = epoch_at(now);
    let mut relay = Hopping::start(dir.path(), now);
    let mut rng = World::new().rng;
    let keys = relay.keys.mix_public(now, MS);
    let hop = Hop { relay: relay.keys.relay(), key: &keys[0].1, delay: Duration::ZERO };
    let old: Vec<_> = (0..5).map(|_| packet(G, epoch, &[hop], Last::Drop, b"", &mut rng).unwrap()).collect();
    assert!(relay.peel(&old[0]) && relay.peel(&old[1]));

    // The key epoch has changed; packets of the one before are still under way.
    let changed = Wall((epoch.0 + 1) * MS) + grace(MS) / 2;
    relay.turn(changed);
    assert!(!relay.peel(&old[0]), "a replay over the change");
    assert!(relay.peel(&old[2]), "its key lives: a packet that was on its way");
    assert!(!relay.peel(&old[2]));
    let new = relay.packet(epoch.next(), changed);
    assert!(relay.peel(&new));

    // A restart on top of the change.
    drop(relay);
    let mut relay = Hopping::start(dir.path(), changed);
    assert!(old[..3].iter().all(|p| !relay.peel(p)) && !relay.peel(&new));
    assert!(relay.peel(&old[3]));

    // The key is destroyed: nothing opens any more, seen or not, and the filter may forget.
    let over = Wall((epoch.0 + 1) * MS) + grace(MS);
    relay.turn(over);
    assert!(!mix_key_file(dir.path(), epoch) && mix_key_file(dir.path(), epoch.next()));
    let logs =
        || fs::read_dir(dir.path().join("replay")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(logs().all(|name| name.starts_with(&epoch.next().0.to_string())), "{:?}", logs().collect::<Vec<_>>());
    assert!(old.iter().all(|p| !relay.peel(p)));
    assert!(!relay.peel(&new));

    // Nor by a restart with a clock that was set back: what is destroyed is made anew, not again.
    drop(relay);
    let mut relay = Hopping::start(dir.path(), now);
    assert!(mix_key_file(dir.path(), epoch));
    assert!(old.iter().all(|p| !relay.peel(p)));
}

#[test]
fn a_packet_of_the_next_key_epoch_that_came_early_is_a_replay_when_its_time_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let begins = Wall((epoch_at(start().wall).0 + 1) * MS);
    let early = begins - skew(MS) / 2;
    let mut relay = Hopping::start(dir.path(), early);
    let packet = relay.packet(epoch_at(begins), early);
    assert!(relay.peel(&packet));
    relay.turn(begins);
    assert!(!relay.peel(&packet));
    drop(relay);
    assert!(!Hopping::start(dir.path(), begins).peel(&packet));
}

/// Whether four bytes in a row of a key can be read in `Debug` output, in any form and however it is indented.
fn shows(value: &dyn Debug, key: &[u8]) -> bool {
    let bare = |s: String| s.chars().filter(|c| c.is_ascii_alphanumeric() || *c == ',').collect::<String>();
    let forms = |value: &dyn Debug| [format!("{value:?}"), format!("{value:#?}"), format!("{value:x?}")].map(bare);
    let printed = forms(value);
    key.windows(4)
        .any(|part| printed.iter().zip(forms(&part)).any(|(text, form)| text.contains(form.trim_matches(','))))
}

#[test]
fn debug_output_of_a_relays_keys_holds_no_byte_of_them() {
    #[derive(Debug)]
    #[expect(dead_code, reason = "printed only")]
    struct Leaky(Vec<u8>);
    let dir = tempfile::tempdir().unwrap();
    let relay = Hopping::start(dir.path(), start().wall);
    let mut keys = Vec::new();
    for folder in [dir.path().to_owned(), dir.path().join("mix")] {
        let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        keys.extend(files.filter(|f| f.extension().is_some_and(|e| e == "key")).map(|f| fs::read(f).unwrap()));
    }
    assert_eq!(keys.len(), 4 + 3);
    for key in keys {
        assert!(!shows(&relay.keys, &key) && !shows(&relay.peeler, &key));
        assert!(shows(&Leaky(key.clone()), &key), "the control");
    }
}

/// Packets at the entry that fail, by the reason.
fn failures(w: &mut World) -> Vec<(&'static str, Packet)> {
    let honest = w.packet(&FORTH, Duration::ZERO, Last::Queue, b"").into_bytes();
    let changed = |change: &mut dyn FnMut(&mut Vec<u8>)| {
        let mut bytes = honest.to_vec();
        change(&mut bytes);
        Packet::from_bytes(bytes.into_boxed_slice())
    };
    let routing = KEM_CIPHERTEXT_LEN + 16;
    let mut noise = honest.to_vec();
    w.rng.fill_bytes(&mut noise);
    let expired = KeyEpoch(epoch_at(w.now.wall).0 - 1);
    let of = |g: Geometry, epoch, relay: RelayId, w: &mut World| {
        let key = mix_key(relay, epoch);
        let hop = Hop { relay, key: key.public(), delay: Duration::ZERO };
        packet(g, epoch, &[hop], Last::Queue, b"", &mut w.rng).unwrap()
    };
    let now = epoch_at(w.now.wall);
    let narrow = Geometry::new(G.hops() - 1, G.content_len() + 1200).unwrap();
    vec![
        ("for another relay", of(G, now, MIX1, w)),
        ("of a key epoch that is over", of(G, expired, ENTRY, w)),
        ("of another geometry", of(narrow, now, ENTRY, w)),
        ("ML-KEM garbled", changed(&mut |b| b[100] ^= 1)),
        ("X25519 garbled", changed(&mut |b| b[KEM_CIPHERTEXT_LEN - 9] ^= 1)),
        ("X25519 zero", changed(&mut |b| b[KEM_CIPHERTEXT_LEN - 32..KEM_CIPHERTEXT_LEN].fill(0))),
        ("tag garbled", changed(&mut |b| b[KEM_CIPHERTEXT_LEN] ^= 1)),
        ("routing garbled", changed(&mut |b| b[routing + 500] ^= 1)),
        ("too short", changed(&mut |b| b.truncate(b.len() - 1))),
        ("too long", changed(&mut |b| b.push(0))),
        ("empty", Packet::from_bytes(Box::new([]))),
        ("noise", Packet::from_bytes(noise.into_boxed_slice())),
    ]
}

/// That a worker adds one for each to the count of refused packets, and nothing else: `driver/workers/tests.rs`. A
/// link hands a packet over and hears nothing back but whether the workers live (`Intake::packet`).
#[test]
fn packets_that_fail_to_peel_send_nothing_and_change_nothing() {
    let mut w = World::new();
    for from in [Source::Client(CLIENT), Source::Relay(MIX2)] {
        for (why, packet) in failures(&mut w) {
            let (counters, due) = (*w.core(ENTRY).counters(), w.core(ENTRY).poll_timeout());
            w.hold_wire = true;
            assert!(!w.receive(ENTRY, from, packet), "{why}");
            w.run();
            assert!(w.wire.is_empty() && w.delivered.is_empty() && w.asked.is_empty(), "{why}: something is sent");
            assert_eq!((*w.core(ENTRY).counters(), w.core(ENTRY).poll_timeout()), (counters, due), "{why}");
            w.hold_wire = false;
            // The link that it came by stands: a command goes out over it, and the answer comes back.
            assert_eq!(w.ask(Command::Echo), Body::Ok, "{why}");
        }
    }
}

#[test]
fn a_replayed_packet_sends_nothing_either() {
    let mut w = World::new();
    let packet = w.packet(&FORTH, Duration::ZERO, Last::Queue, b"");
    w.hold_wire = true;
    assert!(w.receive(ENTRY, Source::Client(CLIENT), packet.clone()));
    w.run();
    assert_eq!(w.wire.len(), 1);
    let counters = *w.core(ENTRY).counters();
    for from in [Source::Client(CLIENT), Source::Client(ClientLink(8)), Source::Relay(MIX2)] {
        assert!(!w.receive(ENTRY, from, packet.clone()));
        w.run();
    }
    assert_eq!((w.wire.len(), *w.core(ENTRY).counters()), (1, counters));
}

#[test]
fn a_packet_that_loops_is_dropped_where_it_leaves_the_legal_way() {
    let client = Source::Client(CLIENT);
    // A path, and how many hops of it are taken before a relay drops the packet.
    let loops: [(&[RelayId], usize); 6] = [
        (&[ENTRY, ENTRY, MIX1, MIX2], 0),
        (&[ENTRY, MIX1, MIX1, MIX2], 1),
        (&[ENTRY, MIX1, ENTRY, MIX1], 1),
        (&[ENTRY, MIX1, MIX2, MIX1], 2),
        (&[ENTRY, MIX1, MIX2, MIX2], 2),
        (&[ENTRY, MIX1, OTHER_MIX1, MIX1], 1),
    ];
    for (path, taken) in loops {
        let mut w = World::new();
        let packet = w.packet(path, Duration::ZERO, Last::Queue, b"");
        assert!(w.receive(ENTRY, client, packet));
        w.run();
        let total = |count: fn(&posta_node::relay::Counters) -> u64, w: &mut World| -> u64 {
            ALL.iter().map(|(id, _)| count(w.core(*id).counters())).sum()
        };
        assert_eq!(total(|c| c.forwarded, &mut w), taken as u64, "{path:?}");
        assert_eq!(w.core(path[taken]).counters().illegal_route, 1, "{path:?}");
        assert_eq!(total(|c| c.illegal_route, &mut w), 1, "{path:?}");
        assert_eq!(total(|c| c.commands, &mut w), 0, "{path:?}");
    }
}

/// The one loop that is legal: the client's own entry holds the queue. It is once around, and ends.
#[test]
fn a_path_that_ends_at_its_entry_goes_round_once() {
    let mut w = World::new();
    let packet = w.packet(&[ENTRY, MIX1, MIX2, ENTRY], Duration::ZERO, Last::Queue, b"");
    assert!(w.receive(ENTRY, Source::Client(CLIENT), packet));
    w.run();
    let counters = *w.core(ENTRY).counters();
    assert_eq!((counters.forwarded, counters.commands, counters.illegal_route), (1, 1, 0));
    assert_eq!(w.core(MIX1).counters().forwarded, 1);
}

#[test]
fn a_reply_block_used_twice_delivers_one_reply() {
    let mut w = World::new();
    let epoch = epoch_at(w.now.wall);
    let keys: Vec<_> = BACK.iter().map(|relay| mix_key(*relay, epoch)).collect();
    let hops: Vec<_> = BACK
        .iter()
        .zip(&keys)
        .map(|(relay, key)| Hop { relay: *relay, key: key.public(), delay: Duration::ZERO })
        .collect();
    let (block, keys) = reply_block(G, epoch, &hops, w.inbox, &mut w.rng).unwrap();
    let mut bytes = Writer::default();
    block.write(&mut bytes);
    let bytes = bytes.finish();
    for content in [b"first", b"again"] {
        let block = ReplyBlock::read(&mut Reader::new(&bytes), G).unwrap();
        let (first, packet) = block.reply(G, content).unwrap();
        assert_eq!(w.receive(first, Source::Relay(QUEUES), packet), content == b"first");
        w.run();
    }
    assert_eq!(w.delivered.len(), 1);
    let (_, packet) = w.delivered.remove(0);
    let delivery = posta_protocol::frame::Delivery::from_packet(&packet, G).unwrap();
    assert_eq!(delivery.surb, keys.surb);
    assert_eq!(&keys.open(delivery.payload).unwrap()[..5], b"first");
}
