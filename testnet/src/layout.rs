//! Who is where: addresses, ports, folders and names of one testnet.
//!
//! Relay *i* binds 127.(i+1).0.1 and client *k* 127.250.k.1 (from the 257th on 127.251), so that networks differ and logs can be searched for
//! addresses. Where lines can be changed or tapped, others reach a node at a door: the same address with a 2 at its end.
//! Ports are the same for all nodes of a testnet and free at its start, so that several run side by side.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use rand::RngExt;

/// Ports to try from and to; below the range that the kernel gives out by itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// The last byte of a door's address.
const DOOR: u8 = 2;
/// Tries to find two ports that are free on every address.
const TRIES: usize = 50;

/// How many of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Authorities of the directory.
    pub authorities: usize,
    /// Relays that are entries and hold queues.
    pub edges: usize,
    /// Relays that mix.
    pub mixes: usize,
    /// Client addresses set aside.
    pub clients: usize,
}

impl Size {
    /// The demo's network: 4 authorities, 6 edges, 6 mixes, 2 clients.
    pub const DEMO: Self = Self { authorities: 4, edges: 6, mixes: 6, clients: 2 };

    /// A network of so many relays, half of them edges, and no clients.
    #[must_use]
    pub const fn of(authorities: usize, relays: usize) -> Self {
        Self { authorities, edges: relays.div_ceil(2), mixes: relays / 2, clients: 0 }
    }

    /// Edges and mixes.
    #[must_use]
    pub const fn relays(&self) -> usize {
        self.edges + self.mixes
    }
}

/// The addresses and folders of one testnet.
#[derive(Clone, Debug)]
pub struct Layout {
    /// How many of each.
    pub size: Size,
    /// Everything of this testnet lies under it.
    pub dir: PathBuf,
    /// The first of two ports: relays' links and authorities; the next one is for clients.
    pub port: u16,
    /// Whether there are doors (`lines`) in front of the nodes.
    pub doors: bool,
}

impl Layout {
    /// The file in a testnet's folder that says what runs.
    pub const STATE: &str = "testnet.json";
    /// The file that lists the authorities.
    pub const NETWORK: &str = "network.toml";
    /// The folder of logs.
    pub const LOGS: &str = "logs";

    /// Whether a folder is what a testnet has left.
    #[must_use]
    pub fn is_ours(dir: &Path) -> bool {
        [Self::STATE, Self::NETWORK].iter().any(|file| dir.join(file).exists()) || dir.join(Self::LOGS).is_dir()
    }

    /// The configuration of an authority or relay of the testnet in a folder.
    #[must_use]
    pub fn config_in(dir: &Path, name: &str) -> PathBuf {
        let file = if name.starts_with("authority") { posta_directory::config::CONFIG_FILE } else { "node.toml" };
        dir.join(name).join(file)
    }

    /// A log of the testnet in a folder.
    #[must_use]
    pub fn log_file_in(dir: &Path, name: &str) -> PathBuf {
        dir.join(Self::LOGS).join(format!("{name}.log"))
    }

    /// Finds two ports that are free on every address of this testnet.
    ///
    /// # Errors
    /// If there are none, or the loopback addresses can't be bound.
    pub fn find(size: Size, doors: bool, dir: &Path) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let port = rand::rng().random_range(PORTS) & !1;
            let layout = Self { size, dir: dir.to_path_buf(), port, doors };
            match layout.bindable() {
                Ok(()) => return Ok(layout),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn bindable(&self) -> io::Result<()> {
        let authorities = (0..self.size.authorities).map(|a| self.authority_address(a));
        let links = (0..self.size.relays()).map(|r| self.link_address(r));
        let clients = (0..self.size.relays()).map(|r| self.client_address(r));
        let mut all = authorities.chain(links).chain(clients);
        all.try_for_each(|a| {
            UdpSocket::bind(a)?;
            if self.doors { UdpSocket::bind(self.door(a)).map(drop) } else { Ok(()) }
        })
    }

    /// The door in front of an address.
    #[must_use]
    pub fn door(&self, at: SocketAddr) -> SocketAddr {
        match at {
            SocketAddr::V4(v4) => {
                let [a, b, c, _] = v4.ip().octets();
                (Ipv4Addr::new(a, b, c, DOOR), v4.port()).into()
            }
            SocketAddr::V6(_) => at,
        }
    }

    /// Where others reach a node that listens there.
    #[must_use]
    pub fn public(&self, at: SocketAddr) -> SocketAddr {
        if self.doors { self.door(at) } else { at }
    }

    /// Where authority `a` listens.
    #[must_use]
    pub fn authority_address(&self, a: usize) -> SocketAddr {
        (Ipv4Addr::new(127, 200, low_byte(a), 1), self.port).into()
    }

    /// Where relay `r` listens for other relays.
    #[must_use]
    pub fn link_address(&self, r: usize) -> SocketAddr {
        (relay_ip(r), self.port).into()
    }

    /// Where relay `r` listens for clients.
    #[must_use]
    pub fn client_address(&self, r: usize) -> SocketAddr {
        (relay_ip(r), self.port + 1).into()
    }

    /// The address that client `k` sends from.
    #[must_use]
    pub fn client_ip(&self, k: usize) -> IpAddr {
        Ipv4Addr::new(127, 250 + low_byte(k / 256) % 5, low_byte(k), 1).into()
    }

    /// A client's name.
    #[must_use]
    pub fn client_name(&self, k: usize) -> String {
        format!("client-{}", k + 1)
    }

    /// Whether relay `r` is an edge; the others are mixes.
    #[must_use]
    pub const fn is_edge(&self, r: usize) -> bool {
        r < self.size.edges
    }

    /// A relay's name.
    #[must_use]
    pub fn relay_name(&self, r: usize) -> String {
        if self.is_edge(r) { format!("edge-{}", r + 1) } else { format!("mix-{}", r - self.size.edges + 1) }
    }

    /// An authority's name.
    #[must_use]
    pub fn authority_name(&self, a: usize) -> String {
        format!("authority-{}", a + 1)
    }

    /// The folder of a node.
    #[must_use]
    pub fn node_dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What clients and relays know of the directory.
    #[must_use]
    pub fn network_file(&self) -> PathBuf {
        self.dir.join(Self::NETWORK)
    }

    /// Where the logs go, a file a process.
    #[must_use]
    pub fn log_file(&self, name: &str) -> PathBuf {
        Self::log_file_in(&self.dir, name)
    }
}

/// Relay r's own network; 1 to 199, as authorities begin at 127.200.
fn relay_ip(r: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, low_byte(r % 199 + 1), low_byte(r / 199), 1)
}

fn low_byte(n: usize) -> u8 {
    u8::try_from(n & 0xff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_node_has_an_address_of_its_own() {
        let size = Size { authorities: 4, edges: 150, mixes: 150, clients: 300 };
        let l = Layout { size, dir: PathBuf::new(), port: 20_000, doors: true };
        let mut all: BTreeSet<IpAddr> = (0..300).map(|r| l.link_address(r).ip()).collect();
        all.extend((0..4).map(|a| l.authority_address(a).ip()));
        all.extend((0..300).map(|k| l.client_ip(k)));
        assert_eq!(all.len(), 604);
        all.extend((0..300).map(|r| l.public(l.link_address(r)).ip()));
        all.extend((0..4).map(|a| l.public(l.authority_address(a)).ip()));
        assert_eq!(all.len(), 908);
    }

    #[test]
    fn the_ports_found_are_free() {
        let dir = tempfile::tempdir().unwrap();
        let l = Layout::find(Size::DEMO, true, dir.path()).unwrap();
        let held = UdpSocket::bind(l.client_address(3)).unwrap();
        assert!(l.bindable().is_err());
        drop(held);
        l.bindable().unwrap();
        let held = UdpSocket::bind(l.door(l.authority_address(0))).unwrap();
        assert!(l.bindable().is_err());
        drop(held);
    }
}
