//! Links to other relays: dialled when there is something to send, kept, replaced when they die.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use posta_link::mirror::Mirrored;
use posta_link::{Audience, Connection, Endpoint, Link, LinkReceiver, LinkSender, Received, SendError, Speed};
use posta_protocol::document::{Consensus, Position, legal};
use posta_protocol::frame::Hello;
use posta_protocol::ids::{LinkPublicKey, RelayId};
use posta_protocol::now::Mono;
use posta_protocol::packet::Packet;
use rand::RngExt;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, warn};

use super::board::LinkCounts;
use super::clock::{Clock, wall};
use super::lines::{Line, Standing};
use super::pace::Pace;
use super::workers::Intake;
use crate::relay::Source;

/// Links that were accepted and wait for the owner, or for their peer's task; then accepting waits.
pub(crate) const ARRIVED_QUEUE: usize = 64;
const PEER_LINKS: usize = 4;
/// Links opened before there is anything to send; the others are opened on demand.
const MAX_EAGER: usize = 256;
/// Between two attempts to reach a relay: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// The newest consensus, none at first.
pub(crate) type Held = watch::Receiver<Option<Arc<Consensus>>>;

/// What every task of a link needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) me: RelayId,
    pub(crate) endpoint: Endpoint,
    pub(crate) consensus: Held,
    pub(crate) intake: Intake,
    pub(crate) clock: Clock,
    pub(crate) speed: Arc<Speed>,
    pub(crate) patience: Duration,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) open: LinkCounts,
    /// Told when a peer holds another consensus for our epoch.
    pub(crate) forks: Arc<Notify>,
    pub(crate) mirrored: Mirrored,
}

impl Shared {
    fn newest(&self) -> Option<Arc<Consensus>> {
        self.consensus.borrow().clone()
    }
}

/// What opens a link of a holder of this consensus.
pub(crate) fn hello(consensus: &Consensus) -> Hello {
    Hello::new(consensus.geometry(), consensus.epoch(), consensus.hash())
}

/// Whether a listed relay has this link key, and which.
pub(crate) fn listed(consensus: &Consensus, key: &LinkPublicKey) -> Option<RelayId> {
    consensus.relays().iter().find(|relay| relay.link_key == *key).map(|relay| relay.id)
}

/// All links to relays; belongs to the owner.
pub(crate) struct Links {
    shared: Shared,
    peers: HashMap<RelayId, Peer>,
    standing: Standing,
}

struct Peer {
    line: Line,
    links: mpsc::Sender<Link>,
}

impl Links {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, peers: HashMap::new(), standing: Standing::default() }
    }

    /// Sends a packet, or says that it was dropped.
    pub(crate) fn send(&mut self, now: Mono, to: RelayId, packet: Packet) -> bool {
        let taken = self.peer(to, false).is_some_and(|peer| peer.line.push(now, packet));
        if taken {
            self.standing.came();
        }
        taken
    }

    /// Takes over how long packets for one neighbour may hold up the others.
    pub(crate) const fn set_patience(&mut self, patience: Duration) {
        self.shared.patience = patience;
    }

    /// Whether there is room for one more packet in front of the neighbours; if not, the owner holds back.
    pub(crate) fn room(&mut self, now: Mono) -> bool {
        self.standing.room(now, self.shared.patience, self.peers.values_mut().map(|peer| &mut peer.line))
    }

    /// Takes over a link that a relay has opened.
    pub(crate) fn arrived(&mut self, from: RelayId, link: Link) {
        if let Some(peer) = self.peer(from, false) {
            // A peer that opens links faster than its task can look at them loses the newest.
            let _ = peer.links.try_send(link);
        }
    }

    /// Lets go of relays that aren't listed any more, and opens the links that this key epoch and those ahead need. Of
    /// two neighbours the one with the lower identity dials.
    pub(crate) fn update(&mut self, consensus: &Consensus) {
        self.peers.retain(|id, _| consensus.relay(id).is_some());
        let me = self.shared.me;
        let mut eager = 0;
        for relay in consensus.relays().iter().filter(|relay| me < relay.id) {
            if eager >= MAX_EAGER {
                break;
            }
            if neighbours(consensus, &me, &relay.id) {
                eager += 1;
                self.peer(relay.id, true);
            }
        }
    }

    fn peer(&mut self, id: RelayId, eager: bool) -> Option<&mut Peer> {
        if !self.peers.contains_key(&id) {
            self.shared.newest()?.relay(&id)?;
            let (line, packets) = Line::new();
            let (links, link_queue) = mpsc::channel(PEER_LINKS);
            let task = PeerTask { shared: self.shared.clone(), id, packets, links: link_queue, eager, current: None };
            tokio::spawn(task.run());
            self.peers.insert(id, Peer { line, links });
        }
        self.peers.get_mut(&id)
    }
}

fn neighbours(consensus: &Consensus, a: &RelayId, b: &RelayId) -> bool {
    let epochs = consensus.key_epochs().iter().filter(|part| part.epoch >= consensus.key_epoch_at(wall()));
    epochs.into_iter().any(|part| {
        let places: [Option<Position>; 2] = [a, b].map(|id| consensus.position(id, part.epoch));
        matches!(places, [Some(a), Some(b)] if legal(a, b) || legal(b, a))
    })
}

/// Accepts links until the endpoint closes or the relay stops.
pub(crate) async fn accept(shared: Shared, arrived: mpsc::Sender<(RelayId, Link)>) {
    let mut stopping = shared.stopping.clone();
    loop {
        let connection = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            connection = shared.endpoint.accept() => connection,
        };
        let Some(connection) = connection else { return };
        let (shared, arrived) = (shared.clone(), arrived.clone());
        tokio::spawn(async move {
            if connection.audience() == Audience::Directory {
                return shared.mirrored.serve(&connection).await;
            }
            let Some(consensus) = shared.newest() else { return };
            let Some(id) = connection.peer().and_then(|key| listed(&consensus, &key)) else { return };
            match connection.open_link(hello(&consensus), consensus.geometry().packet_len()).await {
                // Fails when the owner is gone, at the end.
                Ok(link) => drop(arrived.send((id, link)).await),
                Err(e) => debug!("a link from relay {} was not opened: {e}", id.short()),
            }
        });
    }
}

/// The link that packets are sent on.
struct Current {
    sender: LinkSender,
    connection: Connection,
}

/// Sends to one relay. There may be two connections for a while, when both sides dial at once; what arrives is taken
/// from either.
struct PeerTask {
    shared: Shared,
    id: RelayId,
    packets: mpsc::Receiver<Packet>,
    links: mpsc::Receiver<Link>,
    eager: bool,
    current: Option<Current>,
}

type Dial = Pin<Box<dyn Future<Output = Option<Link>> + Send>>;

impl PeerTask {
    async fn run(mut self) {
        let mut waiting: Option<Packet> = None;
        let mut dial: Option<Dial> = None;
        let mut failures = 0;
        let mut owned = true;
        loop {
            if let Some(packet) = waiting.take() {
                waiting = self.send(packet).await;
            }
            if self.current.is_none() && dial.is_none() && (self.eager || waiting.is_some()) {
                dial = Some(Box::pin(reach(self.shared.clone(), self.id, pause(failures))));
            }
            tokio::select! {
                link = self.links.recv(), if owned => match link {
                    Some(link) => self.adopt(link),
                    None => owned = false,
                },
                packet = self.packets.recv(), if waiting.is_none() => match packet {
                    Some(packet) => waiting = Some(packet),
                    // The owner let go, and all that it gave is with the link, which still sends it.
                    None => return,
                },
                link = dialled(&mut dial), if dial.is_some() => {
                    dial = None;
                    match link {
                        Some(link) => {
                            failures = 0;
                            self.adopt(link);
                        }
                        // The owner let go, and there is no link for what it left.
                        None if !owned => return,
                        None => failures += 1,
                    }
                }
                () = closed(self.current.as_ref()), if self.current.is_some() => {
                    debug!("the link to relay {} is closed", self.id.short());
                    self.current = None;
                }
            }
        }
    }

    /// Sends a packet if there is a link, or gives it back.
    async fn send(&mut self, packet: Packet) -> Option<Packet> {
        let Some(current) = &self.current else { return Some(packet) };
        match current.sender.try_send(packet) {
            Ok(()) => None,
            Err(SendError::Closed) => {
                // The packet went with the link.
                self.current = None;
                None
            }
            Err(SendError::Full(packet)) => {
                let sender = current.sender.clone();
                let sent = tokio::select! {
                    sent = sender.send(packet) => sent.is_ok(),
                    // A fresh link while the old one stalls: the peer has restarted.
                    Some(link) = self.links.recv() => {
                        self.adopt(link);
                        true
                    }
                };
                if !sent {
                    self.current = None;
                }
                None
            }
        }
    }

    /// Takes over a link. Of two that were dialled from both sides, the one that the lower identity dialled stays; of two
    /// from the same side, the newer one.
    fn adopt(&mut self, link: Link) {
        let Link { peer_hello, sender, receiver, connection } = link;
        self.look_for_forks(&peer_hello);
        let counted = self.shared.open.count(connection.dialled());
        let receive = receive(receiver, self.id, self.shared.clone());
        tokio::spawn(async move {
            receive.await;
            drop(counted);
        });
        let preferred = self.shared.me < self.id;
        let stays = self.current.as_ref().is_some_and(|old| {
            let old = &old.connection;
            !old.is_closed() && old.dialled() == preferred && connection.dialled() != preferred
        });
        if !stays {
            self.current = Some(Current { sender, connection });
        }
    }

    fn look_for_forks(&self, theirs: &Hello) {
        let Some(ours) = self.shared.newest() else { return };
        if theirs.epoch == ours.epoch() && theirs.consensus != ours.hash() {
            warn!("relay {} holds another consensus for the same epoch: the authorities are split", self.id.short());
            self.shared.forks.notify_one();
        }
    }
}

/// How long to wait before the next attempt.
fn pause(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let longest = RETRY_FIRST.saturating_mul(1 << failures.min(10)).min(RETRY_LAST);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

async fn dialled(dial: &mut Option<Dial>) -> Option<Link> {
    match dial {
        Some(dial) => dial.await,
        None => None,
    }
}

async fn closed(current: Option<&Current>) {
    if let Some(current) = current {
        current.connection.closed().await;
    }
}

async fn reach(shared: Shared, id: RelayId, pause: Duration) -> Option<Link> {
    tokio::time::sleep(pause).await;
    let consensus = shared.newest()?;
    let entry = consensus.relay(&id)?;
    for addr in &entry.link_addresses {
        let opened = async {
            let connection = shared.endpoint.connect(*addr, entry.link_key).await?;
            connection.open_link(hello(&consensus), consensus.geometry().packet_len()).await
        };
        match opened.await {
            Ok(link) => return Some(link),
            Err(e) => debug!("relay {} was not reached: {e}", id.short()),
        }
    }
    None
}

async fn receive(mut receiver: LinkReceiver, from: RelayId, shared: Shared) {
    let Shared { intake, clock, speed, mut stopping, .. } = shared;
    let pace = Pace::new(speed, None);
    loop {
        let received = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            received = receiver.recv() => received,
        };
        let wait = pace.turn(clock.now().mono);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        match received {
            Some(Received::Packet(packet)) => {
                if !intake.packet(Source::Relay(from), packet).await {
                    return;
                }
            }
            // Relays say nothing but packets yet; what a later version adds is passed over.
            Some(Received::Control(_)) => {}
            None => return,
        }
    }
}
