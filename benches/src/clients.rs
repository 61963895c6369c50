//! What a client costs the relay that it enters by, in memory: real QUIC clients in another process.
//!
//! ```text
//! crowd (10,000 clients, its own process, core 1) <-> posta-node (an edge, core 0) <- this program, as a mix of layer 2
//! ```
//! Each client has a connection, a link and an inbox. Idle is after that; active, after each has sent and received three
//! packets, 64 KiB each way, and has been left alone again. What is said is the growth of the relay's resident memory.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use posta_link::{Audience, Endpoint, Link, Received};
use posta_node::keys::Keys;
use posta_protocol::crypto::{self, context};
use posta_protocol::document::Position;
use posta_protocol::frame::{Frame, Hello};
use posta_protocol::ids::{Epoch, Hash, InboxId, KeyEpoch, LinkPublicKey, SurbId};
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::relay::net::{entry, link_key, net, write_config};
use crate::relay::process::Process;
use crate::relay::{G, GENERATOR, KEY_EPOCH_MS, SINK, wall};

/// Packets each way.
const PACKETS: usize = 3;
/// Handshakes of the crowd at a time.
const AT_ONCE: usize = 64;
/// How long clients and relay are left alone before memory is read.
const REST: Duration = Duration::from_secs(3);
/// The port of the crowd's clients, one for so many: each takes some memory of its own in the crowd, not in the relay.
const CLIENTS_A_PORT: usize = 2_500;

/// The figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// How many.
    pub clients: usize,
    /// Resident bytes for each idle client.
    pub bytes_per_client: u64,
    /// Resident bytes for each after it has sent and received.
    pub bytes_per_active_client: u64,
    /// Resident bytes of the relay before the first.
    pub relay_bytes: u64,
    /// Seconds until all were connected.
    pub connected_s: f64,
}

fn secret(client: usize) -> Secret<32> {
    let mut secret = [0; 32];
    for (to, from) in secret.iter_mut().zip((client as u64 + 1).to_le_bytes()) {
        *to = from;
    }
    Secret::new(secret)
}

/// Measures so many clients.
///
/// # Errors
/// If a process can't be started, or a client isn't served.
pub fn measure(clients: usize) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(run(clients))
}

async fn run(clients: usize) -> Result<Figures> {
    let now = wall();
    let dir = tempfile::tempdir()?;
    let state = dir.path().join("state");
    let mut keys = Keys::create(&state, now)?;
    keys.make_ahead(now, KEY_EPOCH_MS)?;
    let mix = keys.mix_public(now, KEY_EPOCH_MS);
    let epoch = KeyEpoch(now.0 / KEY_EPOCH_MS);
    let key = &mix.iter().find(|(e, _)| *e == epoch).context("the relay's mix key")?.1;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (link, client) = {
        // Both at once, so that they differ; free again for the relay.
        let ports = (UdpSocket::bind(any)?, UdpSocket::bind(any)?);
        (ports.0.local_addr()?, ports.1.local_addr()?)
    };
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 2));
    let relays = vec![
        entry(SINK.0, link_key(SINK.1)?.public(), Position::Mix2, nowhere),
        // There are no layers without a mix in each.
        entry(GENERATOR.0, link_key(GENERATOR.1)?.public(), Position::Mix1, nowhere),
        entry(keys.relay(), keys.link_public(), Position::Edge, link),
    ];
    let net = net(now, relays)?;
    fs::write(state.join("consensus"), &net.consensus)?;
    let config = write_config(
        dir.path(),
        &net.network,
        &format!(
            "link_address = '{link}'\nclient_address = '{client}'\nroles = ['edge']\nworkers = 1\n[limits]\n\
             client_connections = {clients}\nclient_connections_per_network = {clients}\nhandshakes_per_second = 100000\n\
             network_handshakes_per_second = 100000\nnetwork_packets_per_second = 100000\n"
        ),
    )?;
    let relay = Process::start(0, "node", &["run".into(), "--config".into(), config, "--ready-json".into()])?;
    let port = Endpoint::dialer(IpAddr::V4(Ipv4Addr::LOCALHOST), Audience::Link, Some(&link_key(SINK.1)?))?;
    let feed = port.connect(link, keys.link_public()).await?.open_link(net.hello, G.packet_len()).await?;
    sleep(REST).await;
    let before = relay.resident()?;

    let start = tokio::time::Instant::now();
    let hex: String = keys.link_public().0.iter().map(|byte| format!("{byte:02x}")).collect();
    let crowd = Process::start(1, "crowd", &[client.to_string(), hex, clients.to_string()])?;
    let connected_s = start.elapsed().as_secs_f64();
    sleep(REST).await;
    let idle = relay.resident()?;

    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for client in 0..clients {
        let inbox = InboxId(crypto::hash(context::INBOX, secret(client).expose()).0);
        for _ in 0..PACKETS {
            let hops = [Hop { relay: keys.relay(), key, delay: Duration::ZERO }];
            let last = Last::Inbox(inbox, SurbId([7; 16]));
            feed.sender.send(packet(G, epoch, &hops, last, b"", &mut rng).context("a packet")?).await?;
        }
    }
    tokio::task::block_in_place(|| crowd.until("done"))?;
    sleep(REST).await;
    let active = relay.resident()?;
    let each = |bytes: u64| bytes.saturating_sub(before) / clients as u64;
    Ok(Figures {
        clients,
        bytes_per_client: each(idle),
        bytes_per_active_client: each(active),
        relay_bytes: before,
        connected_s,
    })
}

/// The other process: connects so many clients and says `ready`; each sends its packets once it has received one, and when
/// all have received as many it says `done`.
///
/// # Errors
/// If a client isn't served.
pub fn crowd(relay: SocketAddr, key: &str, clients: usize) -> Result<()> {
    let bytes: Vec<_> = (0..key.len()).step_by(2).map(|at| u8::from_str_radix(key.get(at..at + 2)?, 16).ok()).collect();
    let bytes = bytes.into_iter().collect::<Option<Vec<_>>>().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let key = LinkPublicKey(bytes.context("a key of 64 hexadecimal digits")?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let (waiting, served) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(AtomicUsize::new(0)));
        let mut ports = Vec::new();
        let mut all = Vec::with_capacity(clients);
        for client in 0..clients {
            if client % CLIENTS_A_PORT == 0 {
                ports.push(Endpoint::dialer(relay.ip(), Audience::Client, None)?);
            }
            let port = ports.last().context("a port")?.clone();
            let place = Arc::clone(&waiting).acquire_owned().await?;
            let served = Arc::clone(&served);
            all.push(tokio::spawn(async move {
                let link = enter(&port, relay, key, client).await;
                drop(place);
                served.fetch_add(1, Ordering::Relaxed);
                live(link?).await
            }));
        }
        while served.load(Ordering::Relaxed) < clients {
            sleep(Duration::from_millis(50)).await;
        }
        ensure!(!all.iter().any(tokio::task::JoinHandle::is_finished), "not every client was served");
        say("ready")?;
        let mut links = Vec::with_capacity(clients);
        for client in all {
            links.push(client.await??);
        }
        say("done")?;
        std::future::pending().await
    })
}

fn say(word: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}")?;
    Ok(out.flush()?)
}

/// Connects, and attaches an inbox.
async fn enter(port: &Endpoint, relay: SocketAddr, key: LinkPublicKey, client: usize) -> Result<Link> {
    let hello = Hello::new(G, Epoch(0), Hash([0; 32]));
    let mut link = port.connect(relay, key).await?.open_link(hello, G.packet_len()).await?;
    link.sender.try_control(Frame::Attach(secret(client))).map_err(|e| anyhow!("{e}"))?;
    match link.receiver.recv().await {
        Some(Received::Control(Frame::Attached(_))) => Ok(link),
        _ => Err(anyhow!("a client's inbox was not attached")),
    }
}

/// Takes a packet, sends its own, and takes the others: clients are active one after the other.
async fn live(mut link: Link) -> Result<Link> {
    for n in 0..PACKETS {
        ensure!(matches!(link.receiver.recv().await, Some(Received::Packet(_))), "a client's link was closed");
        if n > 0 {
            continue;
        }
        for _ in 0..PACKETS {
            // Nobody can open it: what it costs the relay beyond this link is not what is measured here.
            link.sender.send(Packet::from_bytes(vec![0; G.packet_len()].into())).await?;
        }
    }
    Ok(link)
}
