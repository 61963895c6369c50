//! A UDP proxy in front of one port of one node. Each address that sends to it gets a socket of its own, on the same IP.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::tap::Seen;
use super::wire::{Line, Wire};
use super::{STRANGER, Shared};

/// Addresses that one door serves at a time; the one that was silent longest makes room.
const MAX_FLOWS: usize = 512;
/// Datagrams held back at a time; further ones are dropped, as a router's full queue would.
const MAX_HELD: usize = 65_536;
/// Datagrams between the sockets and the door; a full channel drops.
const CHANNEL: usize = 4096;
/// The longest datagram.
const MAX_DATAGRAM: usize = 65_536;

/// Opens a door at `at` in front of `behind`.
pub(super) fn open(at: SocketAddr, behind: SocketAddr, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let socket = std::net::UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    // Each door has random numbers of its own, the same for a seed.
    let number = u64::from(at.port()) << 32 | u64::from(ip_number(at));
    let door = Door {
        at,
        name: shared.name(behind.ip()).to_owned(),
        socket,
        behind,
        rng: ChaCha20Rng::seed_from_u64(shared.seed ^ number),
        shared,
        flows: HashMap::new(),
        held: BinaryHeap::new(),
        order: 0,
    };
    Ok(tokio::spawn(door.run()))
}

fn ip_number(at: SocketAddr) -> u32 {
    match at {
        SocketAddr::V4(at) => (*at.ip()).into(),
        SocketAddr::V6(_) => 0,
    }
}

/// What one address sends, and gets back.
struct Flow {
    name: String,
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
    line: Line,
    /// The count of changes when `line` was looked up.
    version: Option<u64>,
    wires: [Wire; 2],
    last: Instant,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Which way a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    In,
    Out,
}

/// A datagram on its way; ordered by when it is due, then by arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    order: u64,
    far: SocketAddr,
    way: Way,
    bytes: Vec<u8>,
}

struct Door {
    at: SocketAddr,
    name: String,
    socket: Arc<UdpSocket>,
    behind: SocketAddr,
    shared: Arc<Shared>,
    rng: ChaCha20Rng,
    flows: HashMap<SocketAddr, Flow>,
    held: BinaryHeap<Reverse<Held>>,
    order: u64,
}

impl Door {
    async fn run(mut self) {
        let (back, mut answers) = mpsc::channel::<(SocketAddr, Vec<u8>)>(CHANNEL);
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let due = self.held.peek().map(|Reverse(held)| held.due);
            let timer = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = timer => self.release().await,
                Some((far, bytes)) = answers.recv() => self.pass(far, Way::Out, bytes).await,
                got = self.socket.recv_from(&mut buffer) => {
                    // An error here is a peer that refused an earlier datagram; the line goes on.
                    let Ok((n, far)) = got else { continue };
                    if self.admit(far, &back).await {
                        self.pass(far, Way::In, buffer.get(..n).unwrap_or_default().to_vec()).await;
                    }
                }
            }
        }
    }

    async fn admit(&mut self, far: SocketAddr, back: &mpsc::Sender<(SocketAddr, Vec<u8>)>) -> bool {
        if self.flows.contains_key(&far) {
            return true;
        }
        if self.flows.len() >= MAX_FLOWS
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.last).map(|(far, _)| *far)
        {
            self.flows.remove(&oldest);
        }
        let Ok(socket) = UdpSocket::bind((far.ip(), 0)).await else { return false };
        if socket.connect(self.behind).await.is_err() {
            return false;
        }
        let socket = Arc::new(socket);
        let reader = tokio::spawn(read_back(Arc::clone(&socket), far, back.clone()));
        let now = Instant::now();
        let name = self.shared.name(far.ip()).to_owned();
        let wires = [Wire::new(now); 2];
        self.flows.insert(far, Flow { name, socket, reader, line: Line::CLEAN, version: None, wires, last: now });
        true
    }

    /// Shows a datagram to the taps, and carries it as far as the line does.
    async fn pass(&mut self, far: SocketAddr, way: Way, bytes: Vec<u8>) {
        let Self { at, name, shared, rng, flows, held, order, .. } = self;
        let Some(flow) = flows.get_mut(&far) else { return };
        let version = shared.version.load(Ordering::Acquire);
        if flow.version != Some(version) {
            flow.line = shared.line(&flow.name, name);
            flow.version = Some(version);
        }
        let (theirs, ours) = ((flow.name.as_str(), far), (name.as_str(), *at));
        let (from, to) = if way == Way::In { (theirs, ours) } else { (ours, theirs) };
        if from.0 != STRANGER && to.0 != STRANGER {
            shared.taps.see(&Seen { from, to, bytes: &bytes });
        }
        let now = Instant::now();
        flow.last = now;
        let [inward, outward] = &mut flow.wires;
        let wire = if way == Way::In { inward } else { outward };
        let Some(due) = wire.carry(&flow.line, now, bytes.len(), rng) else { return };
        if due > now || !held.is_empty() {
            if held.len() < MAX_HELD {
                *order += 1;
                held.push(Reverse(Held { due, order: *order, far, way, bytes }));
            }
            return;
        }
        self.send(far, way, &bytes).await;
    }

    /// A datagram that the socket doesn't take is lost, as on any line.
    async fn send(&self, far: SocketAddr, way: Way, bytes: &[u8]) {
        let _ = match way {
            Way::In => {
                let Some(flow) = self.flows.get(&far) else { return };
                flow.socket.send(bytes).await
            }
            Way::Out => self.socket.send_to(bytes, far).await,
        };
    }

    async fn release(&mut self) {
        let now = Instant::now();
        while self.held.peek().is_some_and(|Reverse(held)| held.due <= now) {
            let Some(Reverse(held)) = self.held.pop() else { return };
            self.send(held.far, held.way, &held.bytes).await;
        }
    }
}

async fn read_back(socket: Arc<UdpSocket>, far: SocketAddr, back: mpsc::Sender<(SocketAddr, Vec<u8>)>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok(n) = socket.recv(&mut buffer).await else { continue };
        let bytes = buffer.get(..n).unwrap_or_default().to_vec();
        if let Err(mpsc::error::TrySendError::Closed(_)) = back.try_send((far, bytes)) {
            return;
        }
    }
}
