//! A packet through a whole relay: a real `posta-node` on one core, generator and sink on the other.
//!
//! ```text
//! generator (an edge) -> relay (mix 1, its own process, core 0) -> sink (mix 2)        both ends on core 1
//! ```
//! The relay starts from a consensus that this program signs, with the three in it. All packets are built before the clock
//! starts, each for the relay's own mix key, so that it peels, remembers and forwards every one. The floor is what can't be
//! left out: peeling alone, and a forwarder that passes the same bytes over the same links and does nothing else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use posta_link::fetch::Network;
use posta_link::{AnyPeer, Audience, Endpoint, Link, LinkKey, LinkReceiver, Received};
use posta_node::keys::Keys;
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::document::{
    Authorities, Authority, Certificate, Consensus, ConsensusBody, ConsensusSignature, Extensions, KeyEpochPart,
    Params, Position, Purpose, RelayEntry, Roles, SharedRandom, UnverifiedConsensus,
};
use posta_protocol::frame::Hello;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::{KeyRing, peel};
use posta_protocol::packet::Packet;
use posta_protocol::params::DEFAULT_KEY_EPOCH;
use posta_protocol::registry::parameter;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};

const G: Geometry = Geometry::DEFAULT;
const KEY_EPOCH_MS: u64 = DEFAULT_KEY_EPOCH.as_millis() as u64;
/// The generator and the sink in the consensus.
const GENERATOR: (RelayId, u8) = (RelayId([1; 32]), 1);
const SINK: (RelayId, u8) = (RelayId([2; 32]), 2);
/// Packets peeled in this process for the hop alone.
const HOPS: usize = 4_000;
/// A clock tick of `/proc/PID/stat`, as Linux has it for programs.
const TICK_US: f64 = 10_000.0;
/// Silence of the sink after which what hasn't arrived counts as dropped.
const SILENCE: Duration = Duration::from_secs(2);

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
    /// From the n-th packet sent to the n-th that arrived, both links included, in milliseconds.
    pub p50_ms: f64,
    /// As the median, 99 of 100 were faster.
    pub p99_ms: f64,
}

/// All figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Packets of the closed loop, each of its own.
    pub packets: usize,
    /// Peeling alone, in microseconds.
    pub hop_us: f64,
    /// The same bytes over the same links without a relay between.
    pub forwarder: Run,
    /// As many as the relay takes.
    pub relay: Run,
    /// CPU of the relay by hop and forwarder together.
    pub ratio_to_floor: f64,
    /// Packets a second of CPU time.
    pub packets_per_cpu_s: f64,
    /// At half, nine tenths and twice the rate of `relay`.
    pub loads: Vec<Run>,
}

fn wall() -> Wall {
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or_default())
}

fn link_key(n: u8) -> Result<LinkKey> {
    LinkKey::from_seed(&Secret::new([n; 32])).context("a link key")
}

fn entry(id: RelayId, link_key: LinkPublicKey, position: Position, address: SocketAddr) -> RelayEntry {
    RelayEntry {
        id,
        link_key,
        link_addresses: vec![address],
        client_addresses: Vec::new(),
        roles: if position == Position::Edge { Roles::EDGE } else { Roles::MIX },
        family: None,
        operator: OperatorId([0; 16]),
        capacity: 1,
        listed_since: Wall(0),
        layers: vec![Some(position); 2],
    }
}

/// A network of three, whose only authority is nowhere.
struct Net {
    consensus: Vec<u8>,
    hello: Hello,
    network: Network,
}

fn net(now: Wall, mut relays: Vec<RelayEntry>) -> Result<Net> {
    let identity = SignKey::from_seed(&Secret::new([9; 32]));
    let signing = SignKey::from_seed(&Secret::new([10; 32]));
    let authorities = Authorities::new(vec![Authority {
        id: AuthorityId(identity.public()),
        link_key: LinkPublicKey([9; 32]),
        addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 1))],
    }])?;
    relays.sort_by_key(|relay| relay.id);
    let mut params = Params::default();
    params.set(parameter::KEY_EPOCH_MS, KEY_EPOCH_MS);
    params.set(parameter::RESERVED_NETWORKS, 1);
    let hour = Duration::from_secs(3600);
    let epoch = KeyEpoch(now.0 / KEY_EPOCH_MS);
    let body = ConsensusBody {
        geometry: G,
        epoch: Epoch(now.0 / 3_600_000),
        valid_after: now - hour,
        fresh_until: now + hour,
        valid_until: now + hour * 3,
        previous: Hash([0; 32]),
        shared_random: SharedRandom::default(),
        params,
        key_epochs: [epoch, epoch.next()].map(|epoch| KeyEpochPart { epoch, mix_keys: Hash([0; 32]) }).into(),
        relays,
        extensions: Extensions::default(),
    };
    let bytes = body.encode();
    let header = body.header(&bytes);
    let key = SigningPublicKey(signing.public());
    let certificate = Certificate::issue(&identity, Purpose::Authority, key, Wall(0), now + hour * 24);
    let signature = ConsensusSignature::sign(&header, certificate, &signing);
    let consensus = Consensus::assemble(&bytes, &[signature]);
    let verified = UnverifiedConsensus::decode(&consensus)
        .and_then(|c| c.verify(&authorities, now, hour))
        .map_err(|e| anyhow!("the consensus: {e}"))?;
    let hello = Hello::new(G, verified.epoch(), verified.hash());
    Ok(Net { consensus, hello, network: Network::new(authorities) })
}

/// A process on core 0, ended with this value.
struct Process {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts this program again in a role, and waits for a line of its output that has `ready`.
    fn start(role: &str, args: &[String]) -> Result<Self> {
        let me = std::env::current_exe().context("this program's path")?;
        let mut child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(me)
            .arg(role)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("taskset, of util-linux")?;
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let process = Self { child, _stdin: stdin };
        for line in lines.by_ref() {
            if line?.contains("ready") {
                // Read on, or it would wait for us one day.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(process);
            }
        }
        Err(anyhow!("the {role} did not start"))
    }

    /// CPU time since its start, all threads, in microseconds.
    fn cpu_us(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
        let fields: Vec<_> =
            after.split_whitespace().skip(11).take(2).map(str::parse::<f64>).collect::<Result<_, _>>()?;
        Ok(fields.iter().sum::<f64>() * TICK_US)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

/// Sends all packets, at a rate or as fast as the window lets them.
async fn measure_run(ends: &mut Ends, process: &Process, packets: Vec<Packet>, rate: Option<f64>) -> Result<Run> {
    let count = packets.len();
    let (sender, sink) = (ends.generator.sender.clone(), &mut ends.sink);
    let (before, start) = (process.cpu_us()?, Instant::now());
    let feed = async {
        let mut sent = Vec::with_capacity(count);
        for (n, packet) in packets.into_iter().enumerate() {
            if let Some(rate) = rate {
                let due = start + Duration::from_secs_f64(n as f64 / rate);
                if due > Instant::now() {
                    sleep_until(due).await;
                }
                // Offered at its time, whether or not the window takes it then.
                sent.push(due);
            } else {
                sent.push(Instant::now());
            }
            sender.send(packet).await?;
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
    let mut ms: Vec<_> = sent.iter().zip(&arrived).map(|(a, b)| b.duration_since(*a).as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let part = |part: usize| ms.get(ms.len() * part / 100).copied().unwrap_or_default();
    Ok(Run {
        offered_per_s: rate.unwrap_or_default(),
        per_s: arrived.len() as f64 / last.duration_since(start).as_secs_f64(),
        dropped: count - arrived.len(),
        cpu_us: (after - before) / arrived.len() as f64,
        p50_ms: part(50),
        p99_ms: part(99),
    })
}

/// Builds so many packets for the relay and the sink; those of another seed are others.
fn build(to: (RelayId, &KemPublicKey), now: Wall, seed: u64, count: usize) -> Result<Vec<Packet>> {
    let sink = KemSecretKey::from_seed(&Secret::new([3; 32])).context("a mix key")?;
    let hop = |relay, key| Hop { relay, key, delay: Duration::ZERO };
    let hops = [hop(to.0, to.1), hop(SINK.0, sink.public())];
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let epoch = KeyEpoch(now.0 / KEY_EPOCH_MS);
    (0..count).map(|_| packet(G, epoch, &hops, Last::Queue, b"", &mut rng).context("a packet")).collect()
}

/// Peeling alone, on this process' core, in microseconds.
fn hop_alone(now: Wall) -> Result<f64> {
    let key = || KemSecretKey::from_seed(&Secret::new([4; 32])).context("a mix key");
    let id = RelayId([4; 32]);
    let ring = KeyRing::new(id, G, vec![(KeyEpoch(now.0 / KEY_EPOCH_MS), key()?)]);
    let packets = build((id, key()?.public()), now, 0, HOPS)?;
    let start = Instant::now();
    for mut packet in packets {
        peel(&ring, &mut packet, |_, _| true).map_err(|e| anyhow!("a packet of ours: {e}"))?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / HOPS as f64)
}

/// Measures. `packets` are built for the closed loop; each load has as many as four seconds need, at most as many again.
///
/// # Errors
/// If a process can't be started or pinned, or says nothing.
pub fn measure(packets: usize) -> Result<Figures> {
    // Threads that are started later stay where this one is.
    let pinned = Command::new("taskset").args(["-p", "-c", "1", &std::process::id().to_string()]).output();
    ensure!(pinned.context("taskset, of util-linux")?.status.success(), "this program can't be pinned to core 1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let now = wall();
    let left = KEY_EPOCH_MS - now.0 % KEY_EPOCH_MS;
    ensure!(left > 600_000, "a key epoch ends in {} s: start again after it", left / 1000);
    let hop_us = hop_alone(now)?;
    runtime.block_on(run_all(now, packets, hop_us))
}

async fn run_all(now: Wall, packets: usize, hop_us: f64) -> Result<Figures> {
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
    let config = write_config(dir.path(), &net.network, free)?;
    let to = (keys.relay(), key);
    let mut first = build(to, now, 1, 2)?.into_iter();
    let mut next = || first.next().context("a packet");

    let relay = Process::start("node", &["run".into(), "--config".into(), config, "--ready-json".into()])?;
    let mut ends = connect(net.hello, sink, (free, keys.link_public()), next()?).await?;
    let full = measure_run(&mut ends, &relay, build(to, now, 2, packets)?, None).await?;
    let mut loads = Vec::new();
    for (seed, part) in [(3, 0.5), (4, 0.9), (5, 2.0)] {
        let rate = full.per_s * part;
        let count = ((rate * 4.0) as usize).min(packets);
        loads.push(measure_run(&mut ends, &relay, build(to, now, seed, count)?, Some(rate)).await?);
    }
    drop((ends, relay));

    let sink = listen()?;
    let forwarder = Process::start("forward", &[free.port().to_string(), sink.local_addr()?.port().to_string()])?;
    let through = (free, link_key(FORWARDER)?.public());
    let mut ends = connect(hello_of_forwarder(), sink, through, next()?).await?;
    let bare = measure_run(&mut ends, &forwarder, build(to, now, 6, packets)?, None).await?;
    Ok(Figures {
        packets,
        hop_us,
        ratio_to_floor: full.cpu_us / (hop_us + bare.cpu_us),
        packets_per_cpu_s: 1e6 / full.cpu_us,
        forwarder: bare,
        relay: full,
        loads,
    })
}

fn write_config(dir: &Path, network: &Network, listen: SocketAddr) -> Result<String> {
    network.save(&dir.join("network.toml"))?;
    let path = dir.join("node.toml");
    let text = format!(
        "link_address = '{listen}'\nroles = ['mix']\nworkers = 1\nallow_root = true\nkey_epoch_ms = {KEY_EPOCH_MS}\n\
         [limits]\nlink_packets_per_second = 1000000\n"
    );
    fs::write(&path, text)?;
    Ok(path.to_str().context("a temporary folder whose path is text")?.to_owned())
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
