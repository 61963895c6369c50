//! Links over real sockets on loopback. Nothing sleeps: every wait is for an event, under one generous deadline.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use posta_protocol::frame::{Frame, Hello, MAX_FRAME_LEN};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, Hash, InboxId};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use tokio::time::timeout;

use crate::accept::ACCEPTED_WAITING;
use crate::connection::Connection;
use crate::endpoint::{Admit, AnyPeer, Endpoint, HANDSHAKE_TIMEOUT};
use crate::error::{LinkError, SendError};
use crate::limits::{HANDSHAKES_AT_ONCE, PortLimits};
use crate::link::{CLIENT_SEND_QUEUE, CONTROL, Link, PACKETS, Received};
use crate::tls::{self, LinkKey};
use crate::transport::{Audience, CLOSE_BREACH, LINK_IDLE, LINK_KEEP_ALIVE};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY_PORT: SocketAddr = SocketAddr::new(HOST, 0);
const DEADLINE: Duration = Duration::from_secs(30);
const PACKET_LEN: usize = Geometry::DEFAULT.packet_len();

fn key(n: u8) -> LinkKey {
    LinkKey::from_seed(&Secret::new([n; 32])).unwrap()
}

fn hello(epoch: u64) -> Hello {
    Hello::new(Geometry::DEFAULT, Epoch(epoch), Hash([1; 32]))
}

fn listen(audience: Audience, n: u8, admit: impl Admit) -> (Endpoint, SocketAddr) {
    let endpoint = Endpoint::bind(ANY_PORT, audience, &key(n), Arc::new(admit)).unwrap();
    let addr = endpoint.local_addr().unwrap();
    (endpoint, addr)
}

async fn within<T>(f: impl Future<Output = T>) -> T {
    timeout(DEADLINE, f).await.expect("the deadline of a test passed")
}

/// Two ends of a connection: (who dialled, who listened), and their ports.
async fn connected(audience: Audience) -> (Connection, Connection, (Endpoint, Endpoint)) {
    let (listener, addr) = listen(audience, 1, AnyPeer);
    let dialler = Endpoint::dialer(HOST, audience, Some(&key(2))).unwrap();
    let (ours, theirs) =
        within(async { tokio::join!(dialler.connect(addr, key(1).public()), listener.accept()) }).await;
    (ours.unwrap(), theirs.unwrap(), (dialler, listener))
}

async fn linked(audience: Audience) -> (Link, Link, (Endpoint, Endpoint)) {
    let (a, b, ports) = connected(audience).await;
    let (a, b) =
        within(async { tokio::join!(a.open_link(hello(3), PACKET_LEN), b.open_link(hello(4), PACKET_LEN)) }).await;
    (a.unwrap(), b.unwrap(), ports)
}

/// A packet that can be recognised, its last bytes included.
fn packet(n: u32) -> Packet {
    let mut bytes = vec![n as u8; PACKET_LEN];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    Packet::from_bytes(bytes.into_boxed_slice())
}

async fn exchange(audience: Audience) {
    const COUNT: u32 = 200;
    let (a, b, _ports) = linked(audience).await;
    assert_eq!((a.peer_hello.epoch, b.peer_hello.epoch), (Epoch(4), Epoch(3)));
    let carry = async |sender: crate::LinkSender, mut receiver: crate::LinkReceiver| {
        let feed = async {
            for n in 0..COUNT {
                sender.send(packet(n)).await.unwrap();
            }
        };
        let collect = async {
            let mut got = BTreeSet::new();
            while got.len() < COUNT as usize {
                let Some(Received::Packet(p)) = receiver.recv().await else { panic!("the link ended early") };
                let n = u32::from_le_bytes(*p.as_bytes().first_chunk().unwrap());
                assert!(p == packet(n), "packet {n} is intact");
                assert!(got.insert(n), "packet {n} came once");
            }
            receiver
        };
        tokio::join!(feed, collect).1
    };
    within(async { tokio::join!(carry(a.sender, b.receiver), carry(b.sender, a.receiver)) }).await;
}

#[tokio::test]
async fn a_link_carries_packets_both_ways() {
    exchange(Audience::Link).await;
}

#[tokio::test]
async fn a_client_link_carries_packets_both_ways() {
    exchange(Audience::Client).await;
}

#[tokio::test]
async fn both_sides_know_each_others_key_and_a_client_has_none() {
    let (a, b, _ports) = connected(Audience::Link).await;
    assert_eq!((a.peer(), b.peer()), (Some(key(1).public()), Some(key(2).public())));
    let (a, b, _ports) = connected(Audience::Client).await;
    assert_eq!((a.peer(), b.peer()), (Some(key(1).public()), None), "a client shows no key even if it has one");
}

#[tokio::test]
async fn control_frames_arrive_in_order_beside_packets() {
    let (a, mut b, _ports) = linked(Audience::Client).await;
    a.sender.send(packet(1)).await.unwrap();
    a.sender.try_control(Frame::Attach(Secret::new([5; 32]))).unwrap();
    a.sender.try_control(Frame::Attached(InboxId([6; 32]))).unwrap();
    a.sender.try_control(Frame::Goodbye).unwrap();
    let (mut frames, mut packets) = (Vec::new(), 0);
    while frames.len() + packets < 4 {
        match within(b.receiver.recv()).await.unwrap() {
            Received::Control(frame) => frames.push(frame),
            Received::Packet(p) => {
                assert!(p == packet(1));
                packets += 1;
            }
        }
    }
    let expected = vec![Frame::Attach(Secret::new([5; 32])), Frame::Attached(InboxId([6; 32])), Frame::Goodbye];
    assert_eq!(frames, expected);
}

#[tokio::test]
async fn what_was_taken_is_still_sent_when_the_senders_are_dropped() {
    let (a, mut b, _ports) = linked(Audience::Client).await;
    for n in 0..5 {
        a.sender.send(packet(n)).await.unwrap();
    }
    drop(a);
    let mut got = 0;
    while let Some(Received::Packet(_)) = within(b.receiver.recv()).await {
        got += 1;
    }
    assert_eq!(got, 5);
}

#[tokio::test]
async fn a_full_queue_gives_the_packet_back() {
    // Nobody reads, so windows and queue fill up.
    let (a, _b, _ports) = linked(Audience::Client).await;
    let mut taken = 0;
    let back = loop {
        // Not a wait for luck: a machine that is merely slow goes another round.
        if timeout(Duration::from_millis(200), a.sender.send(packet(taken))).await.is_err()
            && let Err(e) = a.sender.try_send(packet(taken))
        {
            break e;
        }
        taken += 1;
        assert!(taken < 64, "what an unread link holds is bounded");
    };
    assert!(matches!(back, SendError::Full(p) if p == packet(taken)));
    assert!(taken as usize >= CLIENT_SEND_QUEUE);
}

#[tokio::test]
async fn a_packet_of_another_length_closes_the_link() {
    let (a, mut b, _ports) = linked(Audience::Link).await;
    let short = Packet::from_bytes(vec![0; PACKET_LEN - 1].into_boxed_slice());
    assert!(matches!(a.sender.try_send(short), Err(SendError::Closed)));
    assert!(within(b.receiver.recv()).await.is_none());
}

#[tokio::test]
async fn another_key_than_the_expected_is_refused() {
    let (_listener, addr) = listen(Audience::Link, 1, AnyPeer);
    let dialler = Endpoint::dialer(HOST, Audience::Link, Some(&key(2))).unwrap();
    let e = within(dialler.connect(addr, key(9).public())).await.unwrap_err();
    assert!(matches!(e, LinkError::WrongPeer), "{e}");
}

#[tokio::test]
async fn a_key_is_admitted_as_the_answer_stands_at_each_handshake() {
    let open = Arc::new(AtomicBool::new(false));
    let answer = Arc::clone(&open);
    let (listener, addr) = listen(Audience::Link, 1, move |_: &_| answer.load(Ordering::SeqCst));
    let dialler = Endpoint::dialer(HOST, Audience::Link, Some(&key(2))).unwrap();
    let e = match within(dialler.connect(addr, key(1).public())).await {
        // The dialling side is finished before the other has looked at its key.
        Ok(connection) => within(connection.open_link(hello(1), PACKET_LEN)).await.unwrap_err(),
        Err(e) => e,
    };
    assert!(matches!(e, LinkError::NotAdmitted), "{e}");
    assert!(matches!(within(listener.connect(addr, key(1).public())).await, Err(LinkError::NotAdmitted)));
    open.store(true, Ordering::SeqCst);
    within(dialler.connect(addr, key(1).public())).await.unwrap();
    assert_eq!(within(listener.accept()).await.unwrap().peer(), Some(key(2).public()));
}

#[tokio::test]
async fn an_anonymous_client_is_refused_at_the_link_port() {
    let (_listener, addr) = listen(Audience::Link, 1, AnyPeer);
    let dialler = Endpoint::dialer(HOST, Audience::Link, None).unwrap();
    let e = match within(dialler.connect(addr, key(1).public())).await {
        Ok(connection) => within(connection.open_link(hello(1), PACKET_LEN)).await.unwrap_err(),
        Err(e) => e,
    };
    assert!(matches!(e, LinkError::NotAdmitted), "{e}");
}

#[tokio::test]
async fn a_peer_without_the_hybrid_key_exchange_is_refused() {
    let mut classical = (*tls::provider()).clone();
    classical.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let classical = Arc::new(classical);
    let (_listener, addr) = listen(Audience::Link, 1, AnyPeer);
    let dialler = Endpoint::dialer_with(&classical, HOST, Audience::Link, Some(&key(2))).unwrap();
    let e = within(dialler.connect(addr, key(1).public())).await.unwrap_err();
    assert!(matches!(e, LinkError::Cryptography), "{e}");

    let limits = PortLimits::of(Audience::Link);
    let bound = Endpoint::bind_with(&classical, ANY_PORT, Audience::Link, &key(1), Arc::new(AnyPeer), limits);
    let listener = bound.unwrap();
    let dialler = Endpoint::dialer(HOST, Audience::Link, Some(&key(2))).unwrap();
    let e = within(dialler.connect(listener.local_addr().unwrap(), key(1).public())).await.unwrap_err();
    assert!(matches!(e, LinkError::Cryptography), "{e}");
}

#[tokio::test]
async fn a_port_of_another_purpose_is_refused() {
    let (_listener, addr) = listen(Audience::Directory, 1, AnyPeer);
    let dialler = Endpoint::dialer(HOST, Audience::Link, Some(&key(2))).unwrap();
    let e = within(dialler.connect(addr, key(1).public())).await.unwrap_err();
    assert!(matches!(e, LinkError::Version), "{e}");
}

#[tokio::test]
async fn another_geometry_is_refused() {
    let (a, b, _ports) = connected(Audience::Link).await;
    let other = Hello::new(Geometry::new(3, 1024).unwrap(), Epoch(1), Hash([1; 32]));
    let (a, b) =
        within(async { tokio::join!(a.open_link(hello(1), PACKET_LEN), b.open_link(other, PACKET_LEN)) }).await;
    for e in [a.unwrap_err(), b.unwrap_err()] {
        assert!(matches!(e, LinkError::Geometry | LinkError::Version), "{e}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (_listener, addr) = listen(Audience::Link, 1, AnyPeer);
    let e = Endpoint::bind(addr, Audience::Link, &key(2), Arc::new(AnyPeer)).unwrap_err();
    assert!(matches!(e, LinkError::PortInUse(a) if a == addr));
    assert_eq!(e.to_string(), format!("address {addr} is in use by another program: stop it or choose another port"));
}

#[tokio::test]
async fn a_silent_address_is_unreachable_and_a_silent_handshake_blocks_no_other() {
    // A socket that takes packets and says nothing.
    let silent = std::net::UdpSocket::bind(ANY_PORT).unwrap();
    let dialler = Endpoint::dialer(HOST, Audience::Link, Some(&key(2))).unwrap();
    let e = within(dialler.connect(silent.local_addr().unwrap(), key(1).public())).await.unwrap_err();
    assert!(matches!(e, LinkError::Unreachable), "{e}");

    // A handshake that is begun and never goes on: the first packet of a real one, sent by a socket that is deaf after.
    let mut first = vec![0; 2048];
    let n = silent.recv(&mut first).unwrap();
    let (listener, addr) = listen(Audience::Link, 1, AnyPeer);
    silent.send_to(&first[..n], addr).unwrap();
    let both = async { tokio::join!(dialler.connect(addr, key(1).public()), listener.accept()) };
    let (ours, theirs) = timeout(HANDSHAKE_TIMEOUT / 2, both).await.expect("not held up");
    assert!(ours.is_ok() && theirs.is_some());
}

#[tokio::test]
async fn a_flood_of_handshakes_is_refused_and_passes() {
    let limits = PortLimits { handshakes: 100_000, handshakes_per_network: 100_000, ..PortLimits::of(Audience::Link) };
    let listener = Endpoint::bind_limited(ANY_PORT, Audience::Link, &key(1), Arc::new(AnyPeer), limits).unwrap();
    let addr = listener.local_addr().unwrap();
    let dialler = Endpoint::dialer(HOST, Audience::Link, Some(&key(2))).unwrap();
    // Nobody accepts. From the middle on, the dialler must show that its address is its own.
    let mut connections = Vec::new();
    for _ in 0..HANDSHAKES_AT_ONCE + ACCEPTED_WAITING {
        connections.push(within(dialler.connect(addr, key(1).public())).await.unwrap());
    }
    let e = within(dialler.connect(addr, key(1).public())).await.unwrap_err();
    assert!(matches!(e, LinkError::Busy), "{e}");
    for _ in 0..connections.len() {
        within(listener.accept()).await.unwrap();
    }
    connections.push(within(dialler.connect(addr, key(1).public())).await.unwrap());
    within(listener.accept()).await.unwrap();
}

/// The limits of `limits.rs` at a real port: too many connections of one network, and a place that is free again.
#[tokio::test]
async fn a_network_with_too_many_connections_is_refused_until_one_ends() {
    let limits = PortLimits { connections_per_network: 4, ..PortLimits::of(Audience::Client) };
    let listener = Endpoint::bind_limited(ANY_PORT, Audience::Client, &key(1), Arc::new(AnyPeer), limits).unwrap();
    let addr = listener.local_addr().unwrap();
    let dialler = Endpoint::dialer(HOST, Audience::Client, None).unwrap();
    let mut held = Vec::new();
    // From the third on, with a token.
    for _ in 0..4 {
        let ours = within(dialler.connect(addr, key(1).public())).await.unwrap();
        held.push((ours, within(listener.accept()).await.unwrap()));
    }
    let e = within(dialler.connect(addr, key(1).public())).await.unwrap_err();
    assert!(matches!(e, LinkError::Busy), "{e}");
    drop(held.pop());
    within(dialler.connect(addr, key(1).public())).await.unwrap();
}

#[tokio::test]
async fn requests_are_answered_side_by_side_with_and_without_a_key() {
    let (listener, addr) = listen(Audience::Directory, 1, AnyPeer);
    for dialling_key in [None, Some(key(2))] {
        let dialler = Endpoint::dialer(HOST, Audience::Directory, dialling_key.as_ref()).unwrap();
        let client = within(dialler.connect(addr, key(1).public())).await.unwrap();
        let server = within(listener.accept()).await.unwrap();
        assert_eq!(server.peer(), dialling_key.map(|k| k.public()));
        let serve = async {
            for _ in 0..2 {
                let (mut body, responder) = server.next_request(100).await.unwrap();
                body.reverse();
                responder.reply(&body).await.unwrap();
            }
            server
        };
        let ask = async { tokio::join!(client.request(b"abc", 3), client.request(&[7; 100], 100)) };
        let (_server, (first, second)) = within(async { tokio::join!(serve, ask) }).await;
        assert_eq!(first.unwrap(), b"cba");
        assert_eq!(second.unwrap(), [7; 100]);
    }
}

#[tokio::test]
async fn a_megabyte_reply_survives_the_servers_haste() {
    let (client, server, _ports) = connected(Audience::Directory).await;
    let reply: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let expected = reply.clone();
    // The server drops its connection as soon as it has replied.
    let serve = async move {
        let (_, responder) = server.next_request(10).await.unwrap();
        responder.reply(&reply).await.unwrap();
    };
    let (got, ()) = within(async { tokio::join!(client.request(b"get", 4_000_000), serve) }).await;
    assert!(got.unwrap() == expected);
}

#[tokio::test]
async fn oversized_requests_and_replies_are_refused() {
    let (client, server, _ports) = connected(Audience::Directory).await;
    let serve = async {
        let (_, responder) = server.next_request(10).await.unwrap();
        let _ = responder.reply(&[1; 101]).await;
        let (_, responder) = server.next_request(10).await.unwrap();
        drop(responder);
        server.next_request(10).await.unwrap_err()
    };
    let ask = async {
        let long_reply = client.request(b"a", 100).await.unwrap_err();
        let no_reply = client.request(b"b", 100).await.unwrap_err();
        let long_request = client.request(&[0; 11], 100).await.unwrap_err();
        (long_reply, no_reply, long_request)
    };
    let (served, (long_reply, no_reply, long_request)) = within(async { tokio::join!(serve, ask) }).await;
    assert!(matches!(long_reply, LinkError::TooLong { what: "the reply", max: 100 }), "{long_reply}");
    assert!(matches!(no_reply, LinkError::Refused), "{no_reply}");
    assert!(matches!(served, LinkError::TooLong { what: "the request", max: 10 }), "{served}");
    assert!(matches!(long_request, LinkError::Refused), "{long_request}");
    assert!(client.is_closed());
}

#[tokio::test]
async fn links_and_requests_keep_to_their_audience() {
    let (a, _b, _ports) = connected(Audience::Link).await;
    assert!(matches!(a.request(b"", 1).await, Err(LinkError::Audience)));
    let (a, _b, _ports) = connected(Audience::Directory).await;
    assert!(matches!(a.open_link(hello(1), PACKET_LEN).await, Err(LinkError::Audience)));
}

/// Opens a link by hand on one side and sends `broken` on a stream of `kind`; the other side must disconnect.
async fn breach(kind: u8, broken: &[u8], finish: bool) {
    let (a, b, _ports) = connected(Audience::Client).await;
    let open = async {
        let mut control = a.quic.open_uni().await.unwrap();
        control.write_all(&[&[CONTROL], hello(1).encode().as_slice()].concat()).await.unwrap();
        let mut packets = a.quic.open_uni().await.unwrap();
        packets.write_all(&[PACKETS]).await.unwrap();
        (control, packets)
    };
    let (b, (mut control, mut packets)) = within(async { tokio::join!(b.open_link(hello(1), PACKET_LEN), open) }).await;
    let mut b = b.unwrap();
    let stream = if kind == CONTROL { &mut control } else { &mut packets };
    stream.write_all(broken).await.unwrap();
    if finish {
        stream.finish().unwrap();
    }
    assert!(within(b.receiver.recv()).await.is_none());
    match within(a.quic.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, CLOSE_BREACH),
        other => panic!("closed otherwise: {other}"),
    }
    within(b.connection.closed()).await;
    assert!(matches!(within(b.sender.send(packet(1))).await, Err(_) | Ok(())));
}

#[tokio::test]
async fn a_peer_that_breaks_the_framing_is_disconnected() {
    let too_long = u16::try_from(MAX_FRAME_LEN + 1).unwrap().to_le_bytes();
    breach(CONTROL, &too_long, false).await;
    breach(CONTROL, &[0, 0], false).await;
    // A goodbye with a byte left over, then a frame that ends early, then a packet that ends early.
    breach(CONTROL, &[&[2, 0], Frame::Goodbye.encode().as_slice(), &[0]].concat(), false).await;
    breach(CONTROL, &[9, 0, 1], true).await;
    breach(PACKETS, &[0; 1000], true).await;
}

#[tokio::test]
async fn a_stream_that_is_no_link_is_disconnected() {
    let (a, b, _ports) = connected(Audience::Link).await;
    let open = async {
        let mut stream = a.quic.open_uni().await.unwrap();
        stream.write_all(&[0xee; 100]).await.unwrap();
        a.closed().await
    };
    let (opened, told) = within(async { tokio::join!(b.open_link(hello(1), PACKET_LEN), open) }).await;
    assert!(matches!(opened.unwrap_err(), LinkError::Malformed(_)));
    assert!(matches!(told, LinkError::Refused), "{told}");
}

/// A listening port in a runtime of its own, which can be killed as a process is: nothing is said to anyone.
struct Doomed {
    runtime: tokio::runtime::Runtime,
    addr: SocketAddr,
}

impl Doomed {
    fn start(at: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = runtime.enter();
        let endpoint = Endpoint::bind(at, Audience::Link, &key(1), Arc::new(AnyPeer)).unwrap();
        drop(inside);
        let addr = endpoint.local_addr().unwrap();
        runtime.spawn(async move {
            while let Some(connection) = endpoint.accept().await {
                let mut link = connection.open_link(hello(1), PACKET_LEN).await.unwrap();
                while link.receiver.recv().await.is_some() {}
            }
        });
        Self { runtime, addr }
    }

    async fn kill(self) {
        let runtime = self.runtime;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(DEADLINE)).await.unwrap();
    }
}

async fn link_to(addr: SocketAddr) -> (Link, Endpoint) {
    let dialler = Endpoint::dialer(HOST, Audience::Link, Some(&key(2))).unwrap();
    let connection = within(dialler.connect(addr, key(1).public())).await.unwrap();
    (within(connection.open_link(hello(1), PACKET_LEN)).await.unwrap(), dialler)
}

#[tokio::test]
async fn a_peer_that_was_killed_and_restarted_is_noticed_at_the_next_packet() {
    let doomed = Doomed::start(ANY_PORT);
    let addr = doomed.addr;
    let (mut link, _port) = link_to(addr).await;
    doomed.kill().await;
    let again = Doomed::start(addr);
    link.sender.send(packet(1)).await.unwrap();
    let noticed = timeout(LINK_KEEP_ALIVE, link.connection.closed()).await.expect("before any keep-alive");
    assert!(matches!(noticed, LinkError::Restarted), "{noticed}");
    assert!(within(link.receiver.recv()).await.is_none());
    let (_link, _port) = link_to(addr).await;
    again.kill().await;
}

#[tokio::test]
async fn a_peer_that_was_killed_is_noticed_after_the_idle_timeout() {
    let doomed = Doomed::start(ANY_PORT);
    let (mut link, _port) = link_to(doomed.addr).await;
    doomed.kill().await;
    let ended = timeout(LINK_IDLE + 2 * LINK_KEEP_ALIVE, link.receiver.recv()).await.expect("noticed in time");
    assert!(ended.is_none());
    let why = within(link.connection.closed()).await;
    assert!(matches!(why, LinkError::Timeout), "{why}");
}

#[tokio::test]
async fn closing_an_endpoint_ends_its_links_and_its_accepting() {
    let (mut a, b, (_dialler, listener)) = linked(Audience::Link).await;
    listener.close();
    assert!(within(listener.accept()).await.is_none());
    assert!(within(a.receiver.recv()).await.is_none());
    assert!(matches!(within(a.connection.closed()).await, LinkError::Closed));
    within(b.connection.closed()).await;
    drop((a, b));
    within(listener.wait_idle()).await;
}

#[test]
fn nothing_secret_is_printed() {
    assert_eq!(format!("{:?}", key(1)), "LinkKey(..)");
}
