//! A tap on UDP: what a line shows in real time, with QUIC, disks and schedulers in between.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posta_client::session::event::{Options, Profile};
use posta_client::store::Cost;
use posta_client::{Client, ClientEvent, ContactId};
use posta_protocol::registry::parameter;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::{LOCAL, Live, wall};

/// Time between two slots in this test; half a minute of loops in each tenth of a second would take all of a machine.
const SLOT: Duration = Duration::from_millis(500);
/// A full-sized datagram is part of a packet; shorter ones acknowledge.
const DATA: usize = 1000;

/// Datagrams that a client sent: when, how long, by which of its ports.
type Seen = Arc<Mutex<BTreeMap<SocketAddr, Vec<(Instant, usize)>>>>;

/// Stands between clients and an edge, and writes down what clients send.
async fn tap(edge: SocketAddr, seen: Seen) -> SocketAddr {
    let here = Arc::new(UdpSocket::bind((LOCAL, 0)).await.unwrap());
    let address = here.local_addr().unwrap();
    tokio::spawn(async move {
        let mut ways: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
        let mut bytes = vec![0; 65_536];
        while let Ok((length, from)) = here.recv_from(&mut bytes).await {
            seen.lock().unwrap().entry(from).or_default().push((Instant::now(), length));
            let way = if let Some(known) = ways.get(&from) {
                Arc::clone(known)
            } else {
                let there = Arc::new(UdpSocket::bind((LOCAL, 0)).await.unwrap());
                there.connect(edge).await.unwrap();
                ways.insert(from, Arc::clone(&there));
                tokio::spawn(back(Arc::clone(&there), Arc::clone(&here), from));
                there
            };
            let _ = way.send(&bytes[..length]).await;
        }
    });
    address
}

async fn back(there: Arc<UdpSocket>, here: Arc<UdpSocket>, client: SocketAddr) {
    let mut bytes = vec![0; 65_536];
    while let Ok(length) = there.recv(&mut bytes).await {
        let _ = here.send_to(&bytes[..length], client).await;
    }
}

/// Times of the packets within a span, from its start: a packet is a burst of full datagrams.
fn packets(seen: &Seen, port: SocketAddr, (from, to): (Instant, Instant)) -> Vec<f64> {
    let all = seen.lock().unwrap();
    let data = all[&port].iter().filter(|(at, length)| *length > DATA && (from..to).contains(at));
    let mut starts: Vec<f64> = Vec::new();
    let mut last: Option<Instant> = None;
    for (at, _) in data {
        if last.is_none_or(|last| at.duration_since(last) > SLOT / 5) {
            starts.push(at.duration_since(from).as_secs_f64());
        }
        last = Some(*at);
    }
    starts
}

/// How far the packets are from a constant rate, in milliseconds: the median and the 95th in a hundred.
fn off(starts: &[f64]) -> (f64, f64) {
    if starts.is_empty() {
        return (f64::INFINITY, f64::INFINITY);
    }
    let slot = SLOT.as_secs_f64();
    let phase = {
        let mut all: Vec<f64> = starts.iter().map(|at| at % slot).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let around = |at: &f64| {
        let off = (at - phase) / slot;
        (off - off.round()).abs() * slot * 1000.0
    };
    let mut all: Vec<f64> = starts.iter().map(around).collect();
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[all.len() * 95 / 100])
}

struct Tapped {
    client: Client,
    port: SocketAddr,
    _folder: tempfile::TempDir,
}

/// Starts a client that keeps its state, and finds out its port.
async fn start(live: &Live, seen: &Seen, profile: Profile) -> Tapped {
    let before: Vec<SocketAddr> = seen.lock().unwrap().keys().copied().collect();
    let folder = tempfile::tempdir().unwrap();
    let cost = Cost::LEAST;
    let builder = Client::builder(folder.path().join("state")).network(live.network.clone()).local(LOCAL);
    let builder = builder.session(Options { profile, ..Options::default() }).cost(cost);
    let client = builder.create("a passphrase").await.unwrap();
    super::wait(&client, |e| matches!(e, ClientEvent::Ready).then_some(())).await;
    let port = *seen.lock().unwrap().keys().find(|port| !before.contains(port)).unwrap();
    Tapped { client, port, _folder: folder }
}

async fn meet(a: &Client, b: &Client) -> ContactId {
    let invited = a.invite().await.unwrap();
    let contact = b.join(&invited.link).await.unwrap();
    super::connected(b).await;
    contact
}

/// One client that says nothing, two that talk, over real links for so long: how far each one's packets are from a constant
/// rate, how many there were, and how many messages came.
async fn observe(profile: Profile, span: Duration) -> ([(f64, f64); 2], [usize; 2], usize) {
    let seen = Seen::default();
    let taps = Arc::clone(&seen);
    let live = Live::start_behind(
        wall(),
        vec![(parameter::STEADY_SEND_INTERVAL_US, SLOT.as_micros() as u64), (parameter::STEADY_HOP_DELAY_US, 20_000)],
        move |edge| {
            let seen = Arc::clone(&taps);
            async move { tap(edge, seen).await }
        },
    )
    .await;
    let idle = start(&live, &seen, profile).await;
    let busy = start(&live, &seen, profile).await;
    let other = start(&live, &seen, profile).await;
    let contact = meet(&other.client, &busy.client).await;
    let from = Instant::now();
    let mut came = 0;
    let mut n = 0_u64;
    while from.elapsed() < span {
        let _ = busy.client.send(contact, format!("{n}").into_bytes()).await;
        n += 1;
        let until = Instant::now() + Duration::from_millis(1_700 + 37 * (n % 11));
        loop {
            tokio::select! {
                event = other.client.next_event() => came += usize::from(matches!(event, Some(ClientEvent::Message { .. }))),
                _ = busy.client.next_event() => {}
                _ = idle.client.next_event() => {}
                () = tokio::time::sleep_until(until) => break,
            }
        }
    }
    let span = (from, Instant::now());
    let starts = [&idle, &busy].map(|c| packets(&seen, c.port, span));
    let offs = [off(&starts[0]), off(&starts[1])];
    (offs, [starts[0].len(), starts[1].len()], came)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make soak"]
async fn five_minutes_of_a_steady_line_in_real_time_are_the_same_idle_and_busy() {
    let ([idle, busy], [quiet, talking], came) = observe(Profile::Steady, Duration::from_secs(300)).await;
    eprintln!("off by ms (median, 95 %): idle {idle:?}, busy {busy:?}; packets {quiet}, {talking}; {came} messages");
    assert!(came > 50, "{came} messages");
    assert!(quiet.abs_diff(talking) <= 3 && quiet > 550, "{quiet} and {talking} packets");
    // What is left is the scheduler's: the same in both.
    assert!(idle.1 < 60.0 && busy.1 < 60.0, "{idle:?} {busy:?}");
    assert!((idle.0 - busy.0).abs() < 5.0 && (idle.1 - busy.1).abs() < 25.0, "{idle:?} {busy:?}");
    // The control: a profile that hides nothing.
    let ([_, busy], [quiet, talking], _) = observe(Profile::Fast, Duration::from_secs(30)).await;
    assert!(
        busy.1 > 100.0 && quiet.abs_diff(talking) > 20,
        "{busy:?}, {quiet} and {talking}: the control must be caught"
    );
}
