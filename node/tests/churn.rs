//! Twenty-four hours of a small network in virtual time: key epochs turn every ten minutes, mixes crash, leave the directory and
//! come back, an edge restarts. Real packets, real keys. What had a live way arrives, and no table of a relay grows.
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

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use posta_node::relay::worker::Ring;
use posta_node::relay::{Admission, Bounds, Event, Holdings, LOOP_PATIENCE, Relay, Settings, Source};
use posta_protocol::admission::{Proof, QueueKind};
use posta_protocol::answer::Body;
use posta_protocol::command::{Command, Envelope, ReaderCapability, WriterCapability};
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::ids::{LinkPublicKey, RelayId};
use posta_protocol::onion::KeyRing;
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::reply::reply_block;
use posta_protocol::params::BOX_LEN;
use posta_protocol::secret::Secret;
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use world::*;

const HOURS: u64 = 24;
/// A step of the story.
const MINUTE: Duration = Duration::from_secs(60);
/// Mean time between a relay's loops: 1,700 of them in all on a way of seven hops at most.
const LOOPS_US: u64 = 300 * 1_000_000;

/// The network, and who is away from it.
struct Story {
    w: World,
    rng: ChaCha20Rng,
    /// Dead, but still listed; nothing that goes there arrives.
    dead: BTreeSet<RelayId>,
    /// Not listed any more.
    left: BTreeSet<RelayId>,
    /// Packets that a relay had sent to one that is dead.
    dropped: u64,
    /// Loops that had come back to cores that are gone.
    returned: u64,
    attached: u8,
}

impl Story {
    fn new() -> Self {
        let mut w = World::new();
        w.hold_wire = true;
        let mut story = Self {
            w,
            rng: ChaCha20Rng::seed_from_u64(9),
            dead: BTreeSet::new(),
            left: BTreeSet::new(),
            dropped: 0,
            returned: 0,
            attached: 1,
        };
        story.turn();
        story
    }

    fn live(&self) -> Vec<RelayId> {
        ALL.iter().map(|(id, _)| *id).filter(|id| !self.dead.contains(id) && !self.left.contains(id)).collect()
    }

    /// A consensus, keys of this key epoch and the next, and for the client an inbox of its own.
    fn turn(&mut self) {
        let (now, epoch) = (self.w.now, epoch_at(self.w.now.wall));
        let listed = ALL.iter().filter(|(id, _)| !self.left.contains(id));
        let relays = listed.map(|(id, position)| entry(*id, LinkPublicKey(id.0), *position)).collect();
        let consensus = consensus_with(now.wall, relays, Some(LOOPS_US));
        for relay in self.live() {
            let epochs = vec![epoch, epoch.next()];
            let keys = epochs.iter().map(|e| (*e, mix_key(relay, *e))).collect();
            let ring = Ring { keys: Arc::new(KeyRing::new(relay, G, keys)), epochs };
            let node = self.w.nodes.get_mut(&relay).unwrap();
            node.peeler.set_ring(ring);
            node.core.handle(now, Event::Consensus(Arc::clone(&consensus)));
            node.core.handle(now, Event::MixKeys([epoch, epoch.next()].map(mix_keys).into()));
        }
        // A client's inbox is one of its key epoch.
        self.attached = self.attached.wrapping_add(1).max(1);
        self.w.inbox = self.w.attach(CLIENT, self.attached);
        self.run();
    }

    /// A relay starts again: its core has forgotten everything, its store nothing.
    fn restart(&mut self, relay: RelayId) {
        let settings = Settings {
            relay,
            geometry: G,
            incarnation: INCARNATION,
            admission: Admission::Open,
            bounds: Bounds::default(),
        };
        self.returned += self.w.core(relay).counters().loops_returned;
        let rng = ChaCha20Rng::seed_from_u64(self.rng.random());
        self.w.nodes.get_mut(&relay).unwrap().core = Relay::new(settings, Box::new(rng));
        self.dead.remove(&relay);
        self.left.remove(&relay);
        self.turn();
    }

    /// Carries what is on the wire to whoever lives.
    fn run(&mut self) {
        loop {
            self.w.run();
            let Some((from, to, packet)) = self.w.wire.pop_front() else { return };
            if self.dead.contains(&to) || self.left.contains(&to) {
                self.dropped += 1;
            } else {
                self.w.receive(to, Source::Relay(from), packet);
            }
        }
    }

    fn advance(&mut self, by: Duration) {
        let end = self.w.now + by;
        loop {
            let live = self.live();
            let due = live.iter().filter_map(|id| self.w.nodes[id].core.poll_timeout()).min();
            let next = due.filter(|due| *due < end.mono).unwrap_or(end.mono).max(self.w.now.mono);
            self.w.now = self.w.now + next.since(self.w.now.mono);
            let now = self.w.now;
            for relay in live {
                self.w.core(relay).handle(now, Event::Tick);
                drop(self.w.nodes.get_mut(&relay).unwrap().peeler.take_log());
            }
            self.run();
            if next == end.mono {
                return;
            }
        }
    }

    /// One of two mixes that lives.
    fn either(&mut self, a: RelayId, b: RelayId) -> RelayId {
        let live = self.live();
        let list: Vec<_> = [a, b].into_iter().filter(|id| live.contains(id)).collect();
        list[self.rng.random_range(0..list.len())]
    }

    /// Sends a command over a live way, with an answer over a live way; the answer.
    fn ask(&mut self, command: Command) -> Vec<Body> {
        let epoch = epoch_at(self.w.now.wall);
        let delay = Duration::from_millis(self.rng.random_range(0..400));
        let back = [self.either(MIX1, OTHER_MIX1), self.either(MIX2, OTHER_MIX2), ENTRY];
        let forth = [ENTRY, self.either(MIX1, OTHER_MIX1), self.either(MIX2, OTHER_MIX2), QUEUES];
        let keys = |way: &[RelayId]| way.iter().map(|id| mix_key(*id, epoch)).collect::<Vec<_>>();
        let (back_keys, forth_keys) = (keys(&back), keys(&forth));
        let hops = hops_of(&back, &back_keys, delay);
        let (block, key) = reply_block(G, epoch, &hops, self.w.inbox, &mut self.rng).unwrap();
        self.w.keys.push(key);
        let content = Envelope { command, reply: vec![block] }.encode(G).unwrap();
        let hops = hops_of(&forth, &forth_keys, delay);
        let packet = packet(G, epoch, &hops, Last::Queue, &content, &mut self.rng).unwrap();
        assert!(self.w.receive(ENTRY, Source::Client(CLIENT), packet));
        self.advance(Duration::from_secs(4));
        let answers = self.w.answers();
        self.w.keys.clear();
        answers
    }

    fn loops_lost(&mut self) -> u64 {
        self.live().into_iter().map(|id| self.w.core(id).counters().loops_lost).sum()
    }

    fn holdings(&mut self) -> Vec<Holdings> {
        ALL.iter().map(|(id, _)| self.w.core(*id).holdings()).collect()
    }
}

fn hops_of<'a>(way: &[RelayId], keys: &'a [KemSecretKey], delay: Duration) -> Vec<Hop<'a>> {
    way.iter().zip(keys).map(|(relay, key)| Hop { relay: *relay, key: key.public(), delay }).collect()
}

fn reader() -> ReaderCapability {
    ReaderCapability::new(Secret::new([1; 32]))
}

fn writer() -> WriterCapability {
    WriterCapability::new(Secret::new([2; 32]))
}

#[test]
fn a_day_of_churn_loses_nothing_that_had_a_live_way_and_nothing_grows() {
    let mut s = Story::new();
    let create =
        Command::Create { queue: reader().id(), writer: writer().id(), kind: QueueKind::Plain, proof: Proof::Nothing };
    assert_eq!(s.ask(create), [Body::Ok]);
    let mixes = [MIX1, OTHER_MIX1, MIX2, OTHER_MIX2];
    let (mut sent, mut quiet_since, mut lost_before) = (0, 0, 0);
    let mut early: Option<Vec<Holdings>> = None;
    let mut quiet = 0;
    for minute in 1..=HOURS * 60 {
        if minute % 10 == 0 {
            s.turn();
        }
        // Each hour: a mix dies and stays listed for a while, another one leaves in order, the queues' edge starts again.
        match minute % 60 {
            5 => {
                let victim = mixes[s.rng.random_range(0..4)];
                s.dead.insert(victim);
            }
            15 => {
                for victim in std::mem::take(&mut s.dead) {
                    s.restart(victim);
                }
            }
            25 => {
                let victim = mixes[s.rng.random_range(0..4)];
                s.left.insert(victim);
                s.turn();
            }
            35 => {
                for victim in s.left.clone() {
                    s.restart(victim);
                }
            }
            40 => s.restart(QUEUES),
            // Loops of before have come back, or never will.
            42 => (quiet_since, lost_before) = (minute, s.loops_lost()),
            0 if quiet_since > 0 => {
                assert_eq!(s.loops_lost(), lost_before, "minute {minute}: with everyone there no loop is lost");
                quiet += 1;
            }
            _ => {}
        }
        if minute % 2 == 0 {
            s.advance(MINUTE);
            continue;
        }
        sent += 1;
        let send = Command::Send { writer: writer(), sequence: sent, body: vec![sent as u8; BOX_LEN].into() };
        assert_eq!(s.ask(send), [Body::Ok], "minute {minute}, away: {:?} {:?}", s.dead, s.left);
        let fetched = s.ask(Command::Fetch { reader: reader(), after: sent - 1 });
        assert_eq!(fetched, [Body::Message { sequence: sent, left: 0, body: vec![sent as u8; BOX_LEN].into() }]);
        assert_eq!(s.ask(Command::Ack { reader: reader(), up_to: sent }), [Body::Ok]);
        s.advance(MINUTE - Duration::from_secs(12));
        if minute % 60 == 55 {
            let held = s.holdings();
            for held in &held {
                assert!(held.buffered + held.blocks + held.pending == 0, "minute {minute}: {held:?}");
                // What is under way now is some loop or other.
                assert!(
                    held.delayed <= 4 && held.loops <= 8 && held.inboxes <= 4 && held.key_epochs <= 4,
                    "minute {minute}: {held:?}"
                );
            }
            let early = early.get_or_insert_with(|| held.clone());
            for (now, then) in held.iter().zip(early) {
                assert!(now.inboxes <= then.inboxes + 1 && now.key_epochs <= then.key_epochs + 1, "{now:?}, {then:?}");
            }
        }
    }
    assert!(LOOP_PATIENCE < MINUTE * 2 && quiet >= HOURS - 1);
    let counts: Vec<_> = ALL.map(|(id, _)| id).into_iter().map(|id| *s.w.core(id).counters()).collect();
    let returned = s.returned + counts.iter().map(|c| c.loops_returned).sum::<u64>();
    assert!(s.dropped > 20, "a control: what had no live way was lost: {}", s.dropped);
    assert!(returned > 1_000, "{returned}");
    println!("{sent} messages, {returned} loops back, {} packets to the dead", s.dropped);
}
