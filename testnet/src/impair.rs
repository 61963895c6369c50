//! A UDP proxy that makes a line worse: delay, jitter and loss, each way, from a seed.
//!
//! The kernel's own emulator is not everywhere, so tests put this between two programs: the client sends to the
//! proxy's address, the proxy to the server's. Each client address gets a socket of its own, as behind a NAT.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Client addresses that one proxy serves; datagrams of further ones are dropped.
const MAX_FLOWS: usize = 256;
/// Datagrams held back at a time; further ones are dropped, as a router's full queue would.
const MAX_HELD: usize = 65_536;
/// Datagrams between the sockets and the timer; a full channel drops.
const CHANNEL: usize = 4096;
const MAX_DATAGRAM: usize = 65_536;

/// How bad the line is, in each direction by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// Added to every datagram.
    pub delay: Duration,
    /// Added on top, uniformly from zero to this; datagrams overtake one another.
    pub jitter: Duration,
    /// The share of datagrams that vanish, 0.0 to 1.0.
    pub loss: f64,
}

impl Impairment {
    /// A line that changes nothing.
    pub const NONE: Self = Self { delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0 };
}

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Impairer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Impairer {
    /// Starts a proxy on a free port of `listen`'s address in front of `server`.
    ///
    /// # Errors
    /// If the socket can't be bound.
    pub async fn start(listen: SocketAddr, server: SocketAddr, line: Impairment, seed: u64) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind(listen).await?);
        let address = socket.local_addr()?;
        let proxy = Proxy {
            socket,
            server,
            line,
            rng: ChaCha20Rng::seed_from_u64(seed),
            flows: BTreeMap::new(),
            held: BinaryHeap::new(),
            order: 0,
        };
        Ok(Self { address, task: tokio::spawn(proxy.run()) })
    }

    /// Where clients send to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Impairer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket towards the server, on behalf of one client address.
struct Flow {
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A datagram on its way; ordered by when it is due, then by arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    order: u64,
    client: SocketAddr,
    to_server: bool,
    bytes: Vec<u8>,
}

struct Proxy {
    socket: Arc<UdpSocket>,
    server: SocketAddr,
    line: Impairment,
    rng: ChaCha20Rng,
    flows: BTreeMap<SocketAddr, Flow>,
    held: BinaryHeap<Reverse<Held>>,
    order: u64,
}

impl Proxy {
    async fn run(mut self) {
        let (back, mut from_server) = mpsc::channel::<(SocketAddr, Vec<u8>)>(CHANNEL);
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let due = self.held.peek().map(|Reverse(h)| h.due);
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = timer => self.release().await,
                Some((client, bytes)) = from_server.recv() => self.hold(client, false, bytes),
                got = self.socket.recv_from(&mut buffer) => {
                    // An error here is a peer that refused an earlier datagram; the line goes on.
                    let Ok((n, client)) = got else { continue };
                    if self.admit(client, &back).await {
                        self.hold(client, true, buffer.get(..n).unwrap_or_default().to_vec());
                    }
                }
            }
        }
    }

    async fn admit(&mut self, client: SocketAddr, back: &mpsc::Sender<(SocketAddr, Vec<u8>)>) -> bool {
        if self.flows.contains_key(&client) {
            return true;
        }
        if self.flows.len() >= MAX_FLOWS {
            return false;
        }
        let local = if self.server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let Ok(socket) = UdpSocket::bind(local).await else { return false };
        if socket.connect(self.server).await.is_err() {
            return false;
        }
        let socket = Arc::new(socket);
        let reader = tokio::spawn(read_back(Arc::clone(&socket), client, back.clone()));
        self.flows.insert(client, Flow { socket, reader });
        true
    }

    fn hold(&mut self, client: SocketAddr, to_server: bool, bytes: Vec<u8>) {
        if self.held.len() >= MAX_HELD || self.rng.random_bool(self.line.loss.clamp(0.0, 1.0)) {
            return;
        }
        let jitter = self.line.jitter.mul_f64(self.rng.random::<f64>());
        let due = Instant::now() + self.line.delay + jitter;
        self.order += 1;
        self.held.push(Reverse(Held { due, order: self.order, client, to_server, bytes }));
    }

    async fn release(&mut self) {
        let now = Instant::now();
        while self.held.peek().is_some_and(|Reverse(h)| h.due <= now) {
            let Some(Reverse(held)) = self.held.pop() else { return };
            // A datagram that the socket doesn't take is lost, as on any line.
            let _ = if held.to_server {
                let Some(flow) = self.flows.get(&held.client) else { continue };
                flow.socket.send(&held.bytes).await
            } else {
                self.socket.send_to(&held.bytes, held.client).await
            };
        }
    }
}

async fn read_back(socket: Arc<UdpSocket>, client: SocketAddr, back: mpsc::Sender<(SocketAddr, Vec<u8>)>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok(n) = socket.recv(&mut buffer).await else { continue };
        let bytes = buffer.get(..n).unwrap_or_default().to_vec();
        if let Err(mpsc::error::TrySendError::Closed(_)) = back.try_send((client, bytes)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `count` numbered datagrams through a proxy to an echo and counts what comes back, until a marker that is
    /// repeated until it survives shows that nothing more is on its way.
    async fn echoed(line: Impairment, seed: u64, count: u32) -> Vec<u32> {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let proxy =
            Impairer::start("127.0.0.1:0".parse().unwrap(), server.local_addr().unwrap(), line, seed).await.unwrap();
        let echo = tokio::spawn(async move {
            let mut b = [0; 64];
            while let Ok((n, from)) = server.recv_from(&mut b).await {
                server.send_to(&b[..n], from).await.unwrap();
            }
        });
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(proxy.address()).await.unwrap();
        for i in 0..count {
            client.send(&i.to_le_bytes()).await.unwrap();
        }
        let mut got = Vec::new();
        let mut b = [0; 64];
        let mut tick = tokio::time::interval(line.delay * 2 + line.jitter * 2 + Duration::from_millis(20));
        loop {
            tokio::select! {
                biased;
                r = client.recv(&mut b) => {
                    let i = u32::from_le_bytes(b[..r.unwrap()].try_into().unwrap());
                    if i == u32::MAX { break }
                    got.push(i);
                }
                _ = tick.tick() => { client.send(&u32::MAX.to_le_bytes()).await.unwrap(); }
            }
        }
        echo.abort();
        got
    }

    #[tokio::test]
    async fn a_clean_line_keeps_everything_in_order() {
        assert_eq!(echoed(Impairment::NONE, 1, 100).await, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_lossy_line_loses_about_what_it_says() {
        let line = Impairment { loss: 0.2, ..Impairment::NONE };
        let got = echoed(line, 2, 200).await.len();
        // 0.8 x 0.8 of 200 are 128; four standard deviations are 27.
        assert!((101..=155).contains(&got), "{got}");
    }
}
