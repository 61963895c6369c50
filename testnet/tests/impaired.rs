//! Links over real sockets on bad lines: through a UDP proxy that delays, loses, reorders, cuts. Every packet arrives, none
//! twice. Loss and order come from seeds; times are the machine's own, and only deadlines depend on them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use posta_link::transport::LINK_IDLE;
use posta_link::{AnyPeer, Audience, Endpoint, Link, LinkKey, LinkReceiver, LinkSender, Received};
use posta_protocol::frame::Hello;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, Hash};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use posta_testnet::impair::{Impairer, Impairment};
use tokio::time::{sleep, timeout};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY: SocketAddr = SocketAddr::new(HOST, 0);
const LEN: usize = Geometry::DEFAULT.packet_len();
const DEADLINE: Duration = Duration::from_secs(100);
/// The largest UDP payload in an IPv4 packet of 1,280 bytes.
const MTU_1280: usize = 1_280 - 28;

fn key(n: u8) -> LinkKey {
    LinkKey::from_seed(&Secret::new([n; 32])).unwrap()
}

fn packet(n: u32) -> Packet {
    let mut bytes = vec![n as u8; LEN];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    Packet::from_bytes(bytes.into_boxed_slice())
}

/// Two ports with a line between them.
struct Pair {
    listener: Endpoint,
    dialler: Endpoint,
    line: Impairer,
}

impl Pair {
    async fn new(audience: Audience, line: Impairment, seed: u64) -> Self {
        let listener = Endpoint::bind(ANY, audience, &key(1), Arc::new(AnyPeer)).unwrap();
        let dialler = Endpoint::dialer(HOST, audience, Some(&key(2))).unwrap();
        let line = Impairer::start(ANY, listener.local_addr().unwrap(), line, seed).await.unwrap();
        Self { listener, dialler, line }
    }

    /// A link over the line, dialled until it stands; both ends.
    async fn link(&self) -> (Link, Link) {
        let hello = || Hello::new(Geometry::DEFAULT, Epoch(1), Hash([1; 32]));
        let dial = async {
            loop {
                if let Ok(connection) = self.dialler.connect(self.line.address(), key(1).public()).await
                    && let Ok(link) = connection.open_link(hello(), LEN).await
                {
                    return link;
                }
            }
        };
        let accept = async {
            loop {
                if let Ok(link) = self.listener.accept().await.unwrap().open_link(hello(), LEN).await {
                    return link;
                }
            }
        };
        timeout(DEADLINE, async { tokio::join!(dial, accept) }).await.expect("a link in time")
    }
}

async fn feed(sender: &LinkSender, numbers: std::ops::Range<u32>) {
    for n in numbers {
        sender.send(packet(n)).await.unwrap();
    }
}

/// Takes packets until all of them have come, and sees that each is whole and comes once.
async fn collect(receiver: &mut LinkReceiver, numbers: std::ops::Range<u32>) {
    let mut left: BTreeSet<u32> = numbers.collect();
    while !left.is_empty() {
        let Some(Received::Packet(p)) = receiver.recv().await else { panic!("the link ended: {} left", left.len()) };
        let n = u32::from_le_bytes(*p.as_bytes().first_chunk().unwrap());
        assert!(p == packet(n), "packet {n} is whole");
        assert!(left.remove(&n), "packet {n} came once");
    }
}

/// Both ways at once.
async fn exchange(a: &mut Link, b: &mut Link, numbers: std::ops::Range<u32>) {
    let there = async { tokio::join!(feed(&a.sender, numbers.clone()), collect(&mut b.receiver, numbers.clone())) };
    let back = async { tokio::join!(feed(&b.sender, numbers.clone()), collect(&mut a.receiver, numbers.clone())) };
    timeout(DEADLINE, async { tokio::join!(there, back) }).await.expect("all packets in time");
}

const BAD: Impairment = Impairment {
    delay: Duration::from_millis(75),
    jitter: Duration::from_millis(50),
    loss: 0.05,
    late: 0.01,
    longest: MTU_1280,
    rate: None,
};

#[tokio::test]
async fn a_bad_line_loses_no_packet_and_doubles_none() {
    // 200 ms there and back, give or take 50; 5 % lost each way, 1 % late, nothing longer than 1,280 bytes.
    for (audience, seed) in [(Audience::Link, 1), (Audience::Client, 2)] {
        let pair = Pair::new(audience, BAD, seed).await;
        let (mut a, mut b) = pair.link().await;
        exchange(&mut a, &mut b, 0..100).await;
    }
}

#[tokio::test]
async fn a_line_that_is_cut_for_a_moment_loses_nothing() {
    let pair = Pair::new(Audience::Link, Impairment { delay: Duration::from_millis(10), ..Impairment::NONE }, 3).await;
    let (mut a, mut b) = pair.link().await;
    exchange(&mut a, &mut b, 0..20).await;
    let gone = LINK_IDLE / 2;
    let cut = async {
        pair.line.cut(true);
        sleep(gone).await;
        pair.line.cut(false);
    };
    tokio::join!(cut, exchange(&mut a, &mut b, 20..60));
}

#[tokio::test]
async fn a_line_that_is_cut_for_long_ends_its_link_at_both_ends_and_the_next_one_works() {
    let pair = Pair::new(Audience::Link, Impairment { delay: Duration::from_millis(10), ..Impairment::NONE }, 4).await;
    let (mut a, mut b) = pair.link().await;
    exchange(&mut a, &mut b, 0..20).await;
    pair.line.cut(true);
    let began = Instant::now();
    // Both ends learn of it by silence, neither by the other.
    timeout(DEADLINE, async { tokio::join!(a.connection.closed(), b.connection.closed()) }).await.unwrap();
    assert!(began.elapsed() >= LINK_IDLE / 2, "not before it is certain");
    assert!(a.sender.send(packet(20)).await.is_err(), "who sends is told");
    assert!(b.receiver.recv().await.is_none(), "who receives, too");
    sleep(Duration::from_secs(10).saturating_sub(began.elapsed())).await;
    pair.line.cut(false);
    let (mut a, mut b) = pair.link().await;
    exchange(&mut a, &mut b, 20..40).await;
}

/// Megabits in a second that a link carries for some seconds over a line.
async fn carried(line: Impairment, seed: u64, seconds: u64) -> f64 {
    let pair = Pair::new(Audience::Link, line, seed).await;
    let (a, mut b) = pair.link().await;
    let sender = a.sender.clone();
    let feeding = tokio::spawn(async move {
        let mut n = 0;
        while sender.send(packet(n)).await.is_ok() {
            n += 1;
        }
    });
    // The first second is the start, which is not measured.
    let (mut bytes, mut began) = (0, Instant::now());
    let warm = Duration::from_secs(1);
    let mut warming = true;
    while began.elapsed() < if warming { warm } else { Duration::from_secs(seconds) } {
        let received = timeout(DEADLINE, b.receiver.recv()).await.unwrap();
        assert!(matches!(received, Some(Received::Packet(_))));
        bytes += LEN;
        if warming && began.elapsed() >= warm {
            (bytes, began, warming) = (0, Instant::now(), false);
        }
    }
    let rate = bytes as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64();
    feeding.abort();
    rate
}

/// The figures of `benches/README.md`: a line of 200 Mbit/s and 40 ms there and back, with a queue of 50 ms.
#[tokio::test]
#[ignore = "a measurement: cargo test --test impaired -- --ignored --nocapture"]
async fn measured_rate_of_a_lossy_line() {
    let line = |loss| Impairment {
        delay: Duration::from_millis(20),
        loss,
        rate: Some((25_000_000, Duration::from_millis(50))),
        ..Impairment::NONE
    };
    for loss in [0.0, 0.01, 0.03] {
        let mut rates = Vec::new();
        for seed in 1..=3 {
            rates.push(carried(line(loss), seed, 5).await);
        }
        rates.sort_by(f64::total_cmp);
        println!("{} % lost: {:.0} Mbit/s ({rates:.0?})", loss * 100.0, rates[1]);
    }
}
