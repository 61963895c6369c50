//! A relay that is fed random, mutated and replayed packets and datagrams: it neither fails, nor grows, nor slows down, and
//! who behaves notices nothing. 200,000 of each kind; `make soak` takes ten million.
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

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use posta_link::{AnyPeer, Audience, Endpoint, Link, LinkKey, Received};
use posta_node::relay::Source;
use posta_protocol::frame::Hello;
use posta_protocol::ids::{Epoch, Hash};
use posta_protocol::onion::build::Last;
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;
use world::*;

const IN_CI: usize = 200_000;
const IN_THE_SOAK: usize = 10_000_000;
/// Good packets that are sent once and then replayed and mutated.
const GOOD: usize = 64;
/// New packets with garbage for the queue service; the world's replay filters hold a thousand.
const FRESH: usize = 500;
/// Bytes by which memory may grow after the first quarter: of what is held for a peer, nothing is.
const GROWTH: u64 = 16 << 20;

/// Bytes of memory that this process has resident.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Nanoseconds that this thread has had of a core: other programs don't count.
fn busy() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

/// What was used in each quarter of a run.
struct Quarters {
    count: usize,
    done: usize,
    last: u64,
    times: Vec<u64>,
    held: Vec<u64>,
}

impl Quarters {
    fn new(count: usize) -> Self {
        Self { count, done: 0, last: busy(), times: Vec::new(), held: Vec::new() }
    }

    fn step(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(self.count / 4) {
            let now = busy();
            self.times.push(now - self.last);
            self.held.push(resident());
            self.last = now;
        }
    }

    /// The first quarter warms up; the last one takes no longer than the second, and no more memory than the first.
    fn judge(&self, what: &str) {
        let per = |n: usize| self.times[n] / (self.count as u64 / 4);
        println!("{what}: {} ns each in the second quarter, {} in the last; {:?} bytes", per(1), per(3), self.held);
        assert!(per(3) <= 2 * per(1), "{what}: it slows down: {:?}", self.times);
        assert!(self.held[3] <= self.held[0] + GROWTH, "{what}: it grows: {:?}", self.held);
    }
}

fn mutated(rng: &mut ChaCha20Rng, bytes: &mut [u8]) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= rng.random_range(1..=255);
    }
}

fn packets(count: usize) {
    let mut w = World::new();
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let good: Vec<Vec<u8>> =
        (0..GOOD).map(|_| w.packet(&FORTH, Duration::ZERO, Last::Queue, b"").as_bytes().to_vec()).collect();
    for bytes in &good {
        let packet = Packet::from_bytes(bytes.clone().into_boxed_slice());
        assert!(w.receive(ENTRY, Source::Client(CLIENT), packet));
        w.run();
    }
    let before = *w.core(QUEUES).counters();
    assert_eq!(before.malformed as usize, GOOD, "an empty command is none");
    let mut quarters = Quarters::new(count);
    let (mut fresh, mut taken) = (0, 0);
    for n in 0..count {
        let source = if rng.random() { Source::Client(CLIENT) } else { Source::Relay(MIX2) };
        let packet = if n % (count / FRESH) == 0 {
            fresh += 1;
            let mut content = vec![0; rng.random_range(0..4_000)];
            rng.fill(content.as_mut_slice());
            let packet = w.packet(&FORTH, Duration::ZERO, Last::Queue, &content);
            taken += usize::from(w.receive(ENTRY, Source::Client(CLIENT), packet));
            None
        } else {
            let mut bytes = good[rng.random_range(0..GOOD)].clone();
            match rng.random_range(0..3) {
                0 => rng.fill(bytes.as_mut_slice()),
                1 => mutated(rng, &mut bytes),
                _ => {}
            }
            Some(bytes)
        };
        if let Some(bytes) = packet {
            let at = ALL[rng.random_range(0..ALL.len())].0;
            assert!(!w.receive(at, source, Packet::from_bytes(bytes.into_boxed_slice())), "packet {n} was taken");
        }
        w.run();
        quarters.step();
    }
    assert_eq!((fresh, taken), (FRESH, FRESH), "who behaves is served");
    let after = *w.core(QUEUES).counters();
    assert_eq!((after.commands - before.commands) as usize, FRESH);
    assert_eq!(w.core(QUEUES).counters().malformed, after.commands, "none of it is a command");
    assert!(ALL.iter().all(|(relay, _)| w.core(*relay).delayed() == 0));
    quarters.judge("packets");
}

/// A port with links that take and count packets.
struct Port {
    address: SocketAddr,
    task: JoinHandle<()>,
}

fn key() -> LinkKey {
    LinkKey::from_seed(&Secret::new([1; 32])).unwrap()
}

fn hello() -> Hello {
    Hello::new(G, Epoch(1), Hash([1; 32]))
}

/// Sends back each packet that comes.
async fn echo(link: Link) {
    let Link { sender, mut receiver, .. } = link;
    while let Some(Received::Packet(packet)) = receiver.recv().await {
        if sender.send(packet).await.is_err() {
            return;
        }
    }
}

impl Port {
    fn open() -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let port = Endpoint::bind(any, Audience::Client, &key(), Arc::new(AnyPeer)).unwrap();
        let address = port.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Some(connection) = port.accept().await {
                tokio::spawn(async move {
                    if let Ok(link) = connection.open_link(hello(), G.packet_len()).await {
                        echo(link).await;
                    }
                });
            }
        });
        Self { address, task }
    }
}

async fn dial(dialer: &Endpoint, address: SocketAddr) -> Link {
    let connection = dialer.connect(address, key().public()).await.unwrap();
    connection.open_link(hello(), G.packet_len()).await.unwrap()
}

/// Sends packets over a link and sees each come back.
async fn talk(link: &mut Link, packets: u8) {
    for n in 0..packets {
        let packet = Packet::from_bytes(vec![n; G.packet_len()].into_boxed_slice());
        link.sender.send(packet).await.unwrap();
        let back = timeout(Duration::from_secs(60), link.receiver.recv()).await.expect("an answer in time");
        assert!(matches!(back, Some(Received::Packet(p)) if p.as_bytes()[0] == n), "packet {n}");
    }
}

/// Passes datagrams on both ways between one client and a port, and keeps the client's.
async fn recorder(port: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>, JoinHandle<()>) {
    let (front, back) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    back.connect(port).await.unwrap();
    let address = front.local_addr().unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let task = tokio::spawn(async move {
        let (mut a, mut b, mut client) = (vec![0; 65_536], vec![0; 65_536], None);
        loop {
            tokio::select! {
                Ok((n, from)) = front.recv_from(&mut a) => {
                    client = Some(from);
                    keep.lock().unwrap().push(a[..n].to_vec());
                    // What the socket doesn't take is lost, as on any line.
                    let _ = back.send(&a[..n]).await;
                }
                Ok(n) = back.recv(&mut b) => if let Some(client) = client {
                    let _ = front.send_to(&b[..n], client).await;
                }
            }
        }
    });
    (address, kept, task)
}

async fn datagrams(count: usize) {
    let port = Port::open();
    let dialer = Endpoint::dialer("127.0.0.1".parse().unwrap(), Audience::Client, None).unwrap();
    let mut old = dial(&dialer, port.address).await;
    talk(&mut old, 3).await;
    let (through, kept, recording) = recorder(port.address).await;
    talk(&mut dial(&dialer, through).await, 5).await;
    recording.abort();
    let good = std::mem::take(&mut *kept.lock().unwrap());
    assert!(good.len() > 20, "{}", good.len());

    let rng = &mut ChaCha20Rng::seed_from_u64(2);
    let mut bad = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    bad.connect(port.address).await.unwrap();
    let mut quarters = Quarters::new(count);
    for n in 0..count {
        let mut bytes = good[rng.random_range(0..good.len())].clone();
        match rng.random_range(0..4) {
            0 => {
                bytes = vec![0; rng.random_range(1..1_400)];
                rng.fill(bytes.as_mut_slice());
            }
            // A first datagram of somebody new: the version, and a connection id of 8 bytes that nobody has seen.
            1 => {
                rng.fill(bytes.as_mut_slice());
                bytes.resize(1_200, 0);
                bytes[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
            }
            2 => mutated(rng, &mut bytes),
            _ => {}
        }
        // What the kernel doesn't take is lost, as on any line.
        let _ = bad.send(&bytes).await;
        if n % 16 == 0 {
            for _ in 0..4 {
                yield_now().await;
            }
        }
        if n % 4_096 == 0 {
            // From other ports, too.
            bad = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            bad.connect(port.address).await.unwrap();
            talk(&mut old, 1).await;
        }
        quarters.step();
    }
    talk(&mut old, 3).await;
    // Whoever sent the garbage shares this network's limits: a good handshake takes its turn.
    talk(&mut dial(&dialer, port.address).await, 3).await;
    quarters.judge("datagrams");
    port.task.abort();
}

fn run_datagrams(count: usize) {
    // One thread, so that its time is the port's.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(datagrams(count));
}

#[test]
fn packets_of_garbage_are_refused_and_cost_nothing_that_lasts() {
    packets(IN_CI);
}

#[test]
fn datagrams_of_garbage_harm_nobody_and_cost_nothing_that_lasts() {
    run_datagrams(IN_CI);
}

#[test]
#[ignore = "minutes: make soak"]
fn soak_ten_million_packets_of_garbage() {
    packets(IN_THE_SOAK);
}

#[test]
#[ignore = "minutes: make soak"]
fn soak_ten_million_datagrams_of_garbage() {
    run_datagrams(IN_THE_SOAK);
}
