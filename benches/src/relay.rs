//! A packet through a whole relay: a real `posta-node` on one core, generator and sink on the other.
//!
//! ```text
//! generator (an edge) -> relay (mix 1, its own process, core 0) -> sink (mix 2)        both ends on core 1
//! ```
//! The relay starts from a consensus that this program signs, with the three in it. All packets are built before the clock
//! starts, each for the relay's own mix key, so that it peels, remembers and forwards every one. The floor is what can't be
//! left out: peeling alone, and a forwarder that passes the same bytes over the same links and does nothing else.

mod alone;
pub(crate) mod net;
pub(crate) mod process;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::vec;

use anyhow::{Context, Result, ensure};
use posta_link::{AnyPeer, Audience, Endpoint, Link, LinkReceiver, Received};
use posta_node::keys::Keys;
use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::document::Position;
use posta_protocol::frame::Hello;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, Hash, KeyEpoch, LinkPublicKey, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::packet::Packet;
use posta_protocol::params::DEFAULT_KEY_EPOCH;
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};

use self::alone::Rates;
use self::net::{build, entry, link_key, net, write_config};
use self::process::{Process, run_on};

pub(crate) const G: Geometry = Geometry::DEFAULT;
pub(crate) const KEY_EPOCH_MS: u64 = DEFAULT_KEY_EPOCH.as_millis() as u64;
/// The generator and the sink in the consensus.
pub(crate) const GENERATOR: (RelayId, u8) = (RelayId([1; 32]), 1);
pub(crate) const SINK: (RelayId, u8) = (RelayId([2; 32]), 2);
/// Silence of the sink after which what hasn't arrived counts as dropped.
const SILENCE: Duration = Duration::from_secs(2);

/// How long each load lasts.
const LOAD_SECONDS: f64 = 2.0;
/// The loads, as parts of what the relay takes at most.
const LOADS: [f64; 3] = [0.5, 0.9, 2.0];

/// What a relay or forwarder did with a number of packets.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// Packets a second that were offered; 0 for as many as its window takes.
    pub offered_per_s: f64,
    /// Packets a second that arrived at the sink.
    pub per_s: f64,
    /// Packets that were sent and didn't arrive.
    pub dropped: usize,
    /// CPU time of its process for each packet that arrived, in microseconds.
    pub cpu_us: f64,
    /// From the moment that the n-th packet was due, or in a closed loop was offered, to the n-th that arrived, both links
    /// included, in milliseconds: the median.
    pub p50_ms: f64,
    /// As the median, 99 of 100 were faster.
    pub p99_ms: f64,
    /// As `p99_ms`, from the moment that the generator's link took the packet: what a sender that is held back doesn't see.
    pub taken_p99_ms: f64,
}

/// All figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Packets of the closed loop, each of its own.
    pub packets: usize,
    /// Peeling alone, in microseconds of CPU.
    pub hop_us: f64,
    /// Packets a second of its core that a worker peels and remembers, without links.
    pub peels_per_s: f64,
    /// As two workers do it, each on a core.
    pub peels_per_s_two: f64,
    /// Two workers by one.
    pub peels_ratio: f64,
    /// The same by the clock: of use only if nothing else runs.
    pub peels_ratio_clock: f64,
    /// The same bytes over the same links without a relay between.
    pub forwarder: Run,
    /// As many as the relay takes.
    pub relay: Run,
    /// CPU of the relay by hop and forwarder together.
    pub ratio_to_floor: f64,
    /// Packets a second of CPU time.
    pub packets_per_cpu_s: f64,
    /// Megabits a second through a relay on one core.
    pub goodput_mbit_s: f64,
    /// At half, nine tenths and twice the rate of `relay`.
    pub loads: Vec<Run>,
    /// The forwarder at the first two of these rates.
    pub forwarder_loads: Vec<Run>,
    /// What the relay adds to the median and to the 99th percentile of the forwarder, at the same two rates.
    pub added_ms: Vec<[f64; 2]>,
    /// Rate at twice the load by the rate of `relay`.
    pub overload_ratio: f64,
}

pub(crate) fn wall() -> Wall {
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or_default())
}

/// The generator's and the sink's ends.
struct Ends {
    generator: Link,
    sink: LinkReceiver,
    _ports: (Endpoint, Endpoint),
    _sink: (posta_link::LinkSender, posta_link::Connection),
}

/// Connects through whatever listens at `addr` and, on the first packet, dials the sink.
async fn connect(hello: Hello, sink: Endpoint, through: (SocketAddr, LinkPublicKey), first: Packet) -> Result<Ends> {
    let dialler = Endpoint::dialer(Ipv4Addr::LOCALHOST.into(), Audience::Link, Some(&link_key(GENERATOR.1)?))?;
    let len = G.packet_len();
    let mut attempts = 0;
    let generator = loop {
        // A process that says that it is ready listens; its consensus may be a moment behind.
        match dialler.connect(through.0, through.1).await?.open_link(hello, len).await {
            Ok(link) => break link,
            Err(e) if attempts >= 20 => return Err(e.into()),
            Err(_) => attempts += 1,
        }
    };
    generator.sender.send(first).await?;
    let accepted = timeout(Duration::from_secs(20), sink.accept()).await.context("nobody dials the sink")?;
    let Link { sender, mut receiver, connection, .. } =
        accepted.context("the sink's port")?.open_link(hello, len).await?;
    ensure!(receiver.recv().await.is_some(), "the first packet did not come through");
    Ok(Ends { generator, sink: receiver, _ports: (dialler, sink), _sink: (sender, connection) })
}

/// Sends so many packets, at a rate or as fast as the window lets them.
async fn measure_run(
    ends: &mut Ends,
    process: &Process,
    packets: impl ExactSizeIterator<Item = Packet>,
    rate: Option<f64>,
) -> Result<Run> {
    let count = packets.len();
    let (sender, sink) = (ends.generator.sender.clone(), &mut ends.sink);
    let (before, start) = (process.cpu_us()?, Instant::now());
    let feed = async {
        let mut sent = Vec::with_capacity(count);
        for (n, packet) in packets.enumerate() {
            // Offered at its time, whether or not the window takes it then.
            let due = rate.map_or_else(Instant::now, |rate| start + Duration::from_secs_f64(n as f64 / rate));
            if due > Instant::now() {
                sleep_until(due).await;
            }
            sender.send(packet).await?;
            sent.push((due, Instant::now()));
        }
        anyhow::Ok(sent)
    };
    let collect = async {
        let mut arrived = Vec::with_capacity(count);
        while arrived.len() < count {
            match timeout(SILENCE, sink.recv()).await {
                Ok(Some(Received::Packet(_))) => arrived.push(Instant::now()),
                Ok(Some(Received::Control(_))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        arrived
    };
    let (sent, arrived) = tokio::join!(feed, collect);
    let (sent, after) = (sent?, process.cpu_us()?);
    let last = arrived.last().context("nothing arrived")?;
    let (due, taken): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
    Ok(Run {
        offered_per_s: rate.unwrap_or_default(),
        per_s: arrived.len() as f64 / last.duration_since(start).as_secs_f64(),
        dropped: count - arrived.len(),
        cpu_us: (after - before) / arrived.len() as f64,
        p50_ms: percentile(&due, &arrived, 50),
        p99_ms: percentile(&due, &arrived, 99),
        taken_p99_ms: percentile(&taken, &arrived, 99),
    })
}

/// Of the times from one to the other, in milliseconds.
fn percentile(from: &[Instant], to: &[Instant], percent: usize) -> f64 {
    let mut ms: Vec<_> = from.iter().zip(to).map(|(a, b)| b.duration_since(*a).as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    ms.get(ms.len() * percent / 100).copied().unwrap_or_default()
}

/// Measures. `packets` are built for the closed loop; each load has as many as two seconds need, at most as many again.
///
/// # Errors
/// If a process can't be started or pinned, or says nothing.
pub fn measure(packets: usize) -> Result<Figures> {
    let now = wall();
    let left = KEY_EPOCH_MS - now.0 % KEY_EPOCH_MS;
    ensure!(left > 600_000, "a key epoch ends in {} s: start again after it", left / 1000);
    let peels = alone::workers(now)?;
    run_on(&[1])?;
    let hop_us = alone::hop(now)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run_all(now, packets, hop_us, peels))
}

/// Builds packets beside the runtime, which has links to keep.
async fn built(to: (RelayId, &KemPublicKey), now: Wall, seed: u64, count: usize) -> Result<vec::IntoIter<Packet>> {
    let (relay, key) = (to.0, to.1.clone());
    Ok(tokio::task::spawn_blocking(move || build((relay, &key), now, seed, count)).await??.into_iter())
}

async fn run_all(now: Wall, packets: usize, hop_us: f64, peels: (Rates, Rates)) -> Result<Figures> {
    let ([one, one_clock], [two, two_clock]) = peels;
    let dir = tempfile::tempdir()?;
    let state = dir.path().join("state");
    let mut keys = Keys::create(&state, now)?;
    keys.make_ahead(now, KEY_EPOCH_MS)?;
    let mix = keys.mix_public(now, KEY_EPOCH_MS);
    let epoch = KeyEpoch(now.0 / KEY_EPOCH_MS);
    let key = &mix.iter().find(|(e, _)| *e == epoch).context("the relay's mix key")?.1;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen =
        || Endpoint::bind(any, Audience::Link, &link_key(SINK.1)?, Arc::new(AnyPeer)).map_err(anyhow::Error::from);
    let (free, sink) = (std::net::UdpSocket::bind(any)?.local_addr()?, listen()?);
    let net = net(
        now,
        vec![
            entry(
                GENERATOR.0,
                link_key(GENERATOR.1)?.public(),
                Position::Edge,
                SocketAddr::from((Ipv4Addr::LOCALHOST, 2)),
            ),
            entry(SINK.0, link_key(SINK.1)?.public(), Position::Mix2, sink.local_addr()?),
            entry(keys.relay(), keys.link_public(), Position::Mix1, free),
        ],
    )?;
    fs::write(state.join("consensus"), &net.consensus)?;
    let config = write_config(
        dir.path(),
        &net.network,
        &format!(
            "link_address = '{free}'\nroles = ['mix']\nworkers = 1\n[limits]\nlink_packets_per_second = 1000000\n"
        ),
    )?;
    let to = (keys.relay(), key);
    let mut first = build(to, now, 1, 2)?.into_iter();
    let mut next = || first.next().context("a packet");

    let relay = Process::start(0, "node", &["run".into(), "--config".into(), config, "--ready-json".into()])?;
    let mut ends = connect(net.hello, sink, (free, keys.link_public()), next()?).await?;
    let full = measure_run(&mut ends, &relay, built(to, now, 2, packets).await?, None).await?;
    let mut loads = Vec::new();
    for (seed, part) in (3..).zip(LOADS) {
        let rate = full.per_s * part;
        let count = ((rate * LOAD_SECONDS) as usize).min(packets);
        loads.push(measure_run(&mut ends, &relay, built(to, now, seed, count).await?, Some(rate)).await?);
    }
    drop((ends, relay));

    let sink = listen()?;
    let forwarder = Process::start(0, "forward", &[free.port().to_string(), sink.local_addr()?.port().to_string()])?;
    let through = (free, link_key(FORWARDER)?.public());
    let packet = next()?;
    let mut ends = connect(hello_of_forwarder(), sink, through, packet.clone()).await?;
    // It looks at nothing, so one packet does for all.
    let many = |count: usize| (0..count).map(|_| packet.clone());
    let bare = measure_run(&mut ends, &forwarder, many(packets), None).await?;
    let mut forwarder_loads = Vec::new();
    for load in loads.iter().take(2) {
        let count = (load.offered_per_s * LOAD_SECONDS) as usize;
        forwarder_loads.push(measure_run(&mut ends, &forwarder, many(count), Some(load.offered_per_s)).await?);
    }
    let added = |(relay, bare): (&Run, &Run)| [relay.p50_ms - bare.p50_ms, relay.p99_ms - bare.p99_ms];
    Ok(Figures {
        packets,
        hop_us,
        peels_per_s: one,
        peels_per_s_two: two,
        peels_ratio: two / one,
        peels_ratio_clock: two_clock / one_clock,
        ratio_to_floor: full.cpu_us / (hop_us + bare.cpu_us),
        packets_per_cpu_s: 1e6 / full.cpu_us,
        goodput_mbit_s: full.per_s * (G.packet_len() * 8) as f64 / 1e6,
        added_ms: loads.iter().zip(&forwarder_loads).map(added).collect(),
        overload_ratio: loads.last().map_or(0.0, |load| load.per_s / full.per_s),
        forwarder: bare,
        relay: full,
        loads,
        forwarder_loads,
    })
}

/// The seed of the forwarder's link key.
const FORWARDER: u8 = 3;

fn hello_of_forwarder() -> Hello {
    Hello::new(G, Epoch(0), Hash([0; 32]))
}

/// The other process of the floor: passes every packet from the link that it accepts to the one that it dials.
///
/// # Errors
/// If a link can't be opened.
pub fn forward(listen: u16, sink: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let key = link_key(FORWARDER)?;
        let endpoint = Endpoint::bind(local(listen), Audience::Link, &key, Arc::new(AnyPeer))?;
        println!("ready");
        let (hello, len) = (hello_of_forwarder(), G.packet_len());
        let accepted = endpoint.accept().await.context("the port")?.open_link(hello, len).await?;
        let dialled = endpoint.connect(local(sink), link_key(SINK.1)?.public()).await?.open_link(hello, len).await?;
        let mut from = accepted.receiver;
        while let Some(received) = from.recv().await {
            if let Received::Packet(packet) = received {
                dialled.sender.send(packet).await?;
            }
        }
        Ok(())
    })
}
