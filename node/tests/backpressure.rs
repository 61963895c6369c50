//! A relay that is sent more than its neighbours take: it makes the sender wait, and drops nothing; a neighbour that takes
//! nothing at all loses its own packets only. A real relay, real links; nothing here waits for a time to pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use posta_link::fetch::Network;
use posta_link::{AnyPeer, Audience, Endpoint, Link, LinkKey, LinkReceiver, Received};
use posta_node::driver::cache::Cache;
use posta_node::keys::Keys;
use posta_protocol::document::{Consensus, Position};
use posta_protocol::frame::Hello;
use posta_protocol::ids::{LinkPublicKey, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use world::{G, KEY_EPOCH, authorities, consensus_of, entry, epoch_at, mix_key};

const SENDER: RelayId = RelayId([1; 32]);
const GOOD: RelayId = RelayId([2; 32]);
const STUCK: RelayId = RelayId([3; 32]);
/// More for each neighbour than all queues and windows between sender and sink hold.
const PACKETS: usize = 2_000;
/// Packets for the good neighbour that are under way at once: fewer than its line takes.
const UNDER_WAY: usize = 32;
/// An hour: neighbours are never given up.
const FOREVER_MS: u64 = 3_600_000;
const KEY_EPOCH_MS: u64 = KEY_EPOCH.as_millis() as u64;

fn link_key(relay: RelayId) -> LinkKey {
    LinkKey::from_seed(&Secret::new(relay.0)).unwrap()
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A neighbour's port.
struct Sink {
    id: RelayId,
    port: Endpoint,
}

impl Sink {
    fn bind(id: RelayId) -> Self {
        Self { id, port: Endpoint::bind(any(), Audience::Link, &link_key(id), Arc::new(AnyPeer)).unwrap() }
    }

    async fn accept(&self, hello: Hello) -> Link {
        self.port.accept().await.unwrap().open_link(hello, G.packet_len()).await.unwrap()
    }
}

/// The relay, in its own process.
struct Relay {
    child: Child,
    /// What it says of its counters.
    said: mpsc::Receiver<Value>,
    hello: Hello,
    address: SocketAddr,
    key: LinkPublicKey,
    keys: Keys,
    now: Wall,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A test that fails leaves nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    /// Between the sender and these sinks.
    fn start(dir: &Path, sinks: &[&Sink], patience_ms: u64) -> Self {
        let now = Wall(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
        let address = UdpSocket::bind(any()).unwrap().local_addr().unwrap();
        let state = dir.join("state");
        let mut keys = Keys::create(&state, now).unwrap();
        keys.make_ahead(now, KEY_EPOCH_MS).unwrap();
        let at = |id, key, position, address| {
            let mut entry = entry(id, key, position);
            entry.link_addresses = vec![address];
            entry
        };
        let mut relays = vec![
            at(SENDER, link_key(SENDER).public(), Position::Edge, "127.0.0.1:9".parse().unwrap()),
            at(keys.relay(), keys.link_public(), Position::Mix1, address),
        ];
        // A layer takes two mixes at least: those that are missing are never there.
        relays.push(at(
            RelayId([4; 32]),
            link_key(RelayId([4; 32])).public(),
            Position::Mix1,
            "127.0.0.1:9".parse().unwrap(),
        ));
        for n in sinks.len()..2 {
            let id = RelayId([5 + n as u8; 32]);
            relays.push(at(id, link_key(id).public(), Position::Mix2, "127.0.0.1:9".parse().unwrap()));
        }
        for sink in sinks {
            let address = sink.port.local_addr().unwrap();
            relays.push(at(sink.id, link_key(sink.id).public(), Position::Mix2, address));
        }
        relays.sort_by_key(|relay| relay.id);
        let consensus: Arc<Consensus> = consensus_of(now, relays);
        Cache::new(&state).keep(&consensus, None).unwrap();
        Network::new(authorities()).save(&dir.join("network.toml")).unwrap();
        let config = dir.join("node.toml");
        let text = format!(
            "link_address = '{address}'\nroles = ['mix']\nworkers = 1\nallow_root = true\nkey_epoch_ms = {KEY_EPOCH_MS}\n\
             [limits]\nlink_packets_per_second = 1000000\npatience_ms = {patience_ms}\n"
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_posta-node"))
            .args(["run", "--ready-json", "--config", config.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (say, said) = mpsc::channel(1_000);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = say.blocking_send(serde_json::from_str(&line).unwrap());
            }
        });
        let hello = Hello::new(G, consensus.epoch(), consensus.hash());
        Self { child, said, hello, address, key: keys.link_public(), keys, now }
    }

    /// Waits until it has said something of which this is true.
    async fn until(&mut self, what: impl Fn(&Value) -> bool) {
        while !what(&self.said.recv().await.expect("the relay runs")) {}
    }

    async fn until_ready(&mut self) {
        self.until(|said| said["ready"] == true).await;
    }

    /// Waits until a counter isn't 0.
    async fn until_counted(&mut self, counter: &str) {
        self.until(|said| said["counters"][counter].as_u64().is_some_and(|n| n > 0)).await;
    }

    async fn connect(&self) -> Link {
        let port = Endpoint::dialer(any().ip(), Audience::Link, Some(&link_key(SENDER))).unwrap();
        port.connect(self.address, self.key).await.unwrap().open_link(self.hello, G.packet_len()).await.unwrap()
    }

    /// So many packets for it and then for a neighbour; those of another seed are others.
    fn packets(&self, to: RelayId, seed: u64, count: usize) -> Vec<Packet> {
        let epoch = epoch_at(self.now);
        let mine = self.keys.mix_public(self.now, KEY_EPOCH_MS);
        let mine = &mine.iter().find(|(e, _)| *e == epoch).unwrap().1;
        let next = mix_key(to, epoch);
        let hop = |relay, key| Hop { relay, key, delay: Duration::ZERO };
        let hops = [hop(self.keys.relay(), mine), hop(to, next.public())];
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        (0..count).map(|_| packet(G, epoch, &hops, Last::Queue, b"", &mut rng).unwrap()).collect()
    }
}

/// Takes so many packets, and says so of each as it comes.
async fn take(receiver: &mut LinkReceiver, count: usize, arrived: impl Fn()) {
    for _ in 0..count {
        assert!(matches!(receiver.recv().await, Some(Received::Packet(_))));
        arrived();
    }
}

#[tokio::test]
async fn a_neighbour_that_takes_packets_late_makes_the_sender_wait_and_nothing_is_dropped() {
    let (dir, sink) = (tempfile::tempdir().unwrap(), Sink::bind(GOOD));
    let mut relay = Relay::start(dir.path(), &[&sink], FOREVER_MS);
    relay.until_ready().await;
    let link = relay.connect().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let packets = relay.packets(GOOD, 1, PACKETS);
    let counted = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        for packet in packets {
            link.sender.send(packet).await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
        }
        link
    });
    let mut late = sink.accept(relay.hello).await;
    relay.until_counted("held_back").await;
    assert!(sent.load(Ordering::Relaxed) < PACKETS, "all that it takes in is bounded, so the sender waits");
    take(&mut late.receiver, PACKETS, || ()).await;
    sending.await.unwrap();
}

#[tokio::test]
async fn the_control_a_neighbour_that_is_given_up_at_once_loses_packets() {
    let (dir, sink) = (tempfile::tempdir().unwrap(), Sink::bind(GOOD));
    let mut relay = Relay::start(dir.path(), &[&sink], 1);
    relay.until_ready().await;
    let link = relay.connect().await;
    for packet in relay.packets(GOOD, 1, PACKETS) {
        // The relay takes all of them in: nobody is held back for longer than a moment.
        link.sender.send(packet).await.unwrap();
    }
    relay.until_counted("link_backlog").await;
}

/// Sends packets for both in turn; one for the good neighbour needs a place among those under way.
async fn send_in_turn(link: Link, good: Vec<Packet>, stuck: Vec<Packet>, places: Arc<Semaphore>) -> Link {
    for (good, stuck) in good.into_iter().zip(stuck) {
        places.acquire().await.unwrap().forget();
        link.sender.send(good).await.unwrap();
        link.sender.send(stuck).await.unwrap();
    }
    link
}

#[tokio::test]
async fn a_stuck_neighbour_leaves_the_others_their_packets() {
    for patience_ms in [1, FOREVER_MS] {
        let (dir, good, stuck) = (tempfile::tempdir().unwrap(), Sink::bind(GOOD), Sink::bind(STUCK));
        let mut relay = Relay::start(dir.path(), &[&good, &stuck], patience_ms);
        relay.until_ready().await;
        let link = relay.connect().await;
        let places = Arc::new(Semaphore::new(UNDER_WAY));
        let packets = [(GOOD, 1), (STUCK, 2)].map(|(to, seed)| relay.packets(to, seed, PACKETS));
        let [for_good, for_stuck] = packets;
        let sending = tokio::spawn(send_in_turn(link, for_good, for_stuck, Arc::clone(&places)));
        let (mut from_good, mut from_stuck) = tokio::join!(good.accept(relay.hello), stuck.accept(relay.hello));
        let takes = tokio::spawn(async move {
            take(&mut from_good.receiver, PACKETS, || places.add_permits(1)).await;
            from_good
        });
        if patience_ms == FOREVER_MS {
            // The control: nobody gets anything more until the stuck one takes its packets; then all arrive.
            relay.until_counted("held_back").await;
            assert!(!takes.is_finished() && !sending.is_finished());
            take(&mut from_stuck.receiver, PACKETS, || ()).await;
        }
        let _links = (takes.await.unwrap(), sending.await.unwrap());
        if patience_ms != FOREVER_MS {
            relay.until_counted("link_backlog").await;
        }
    }
}
