//! The loops by which an authority measures relays: connects to edges as a client does, and sees what comes back.
//!
//! An edge knows by the address whose client this is, so what it shows an authority as an entry proves little. The mixes
//! and the edge behind them can't tell these loops from a client's commands.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use posta_link::{Audience, Endpoint, Link, Received};
use posta_protocol::answer::{Answer, Body};
use posta_protocol::crypto::{self, context};
use posta_protocol::document::{Consensus, MixKeys, UnverifiedMixKeys};
use posta_protocol::frame::{Delivery, Frame, Hello};
use posta_protocol::ids::{Epoch, InboxId, SurbId};
use posta_protocol::now::{Mono, Wall};
use posta_protocol::onion::reply::ReplyKeys;
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Clock, Input};
use crate::authority::Published;
use crate::measuring::{Route, Seen, Session, plan, seal};

/// Edges that loops go through at the same time.
const SESSIONS: usize = 4;
/// Time between two loops of one session at least: all together an authority sends 40 a second at most, 0.9 MB.
const LEAST_GAP: Duration = Duration::from_millis(100);
/// Part of an epoch, in hundredths, in which its loops are sent.
const SPREAD_PERCENT: u32 = 80;
/// How long an edge may take to let us in, and how long a loop without delays may take; less in short epochs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Patience is at most this part of an epoch.
const PATIENCE_DIVISOR: u32 = 5;

/// Sends loops through all relays of each new consensus, for as long as the program runs.
pub(super) async fn measure(
    local: IpAddr,
    loops: usize,
    clock: Clock,
    mut newest: watch::Receiver<Option<Arc<Published>>>,
    inputs: mpsc::Sender<Input>,
) {
    let Ok(dialer) = Endpoint::dialer(local, Audience::Client, None) else {
        debug!("relays can't be measured: no socket for it");
        // The authority does without; this task must not end.
        return std::future::pending().await;
    };
    loop {
        let published = newest.borrow_and_update().clone();
        let cycle = async {
            if let Some(published) = published {
                one_epoch(local, loops, clock, &dialer, published, &inputs).await;
            }
            std::future::pending::<()>().await;
        };
        // A new consensus ends what is under way: what has not come back by then is not judged.
        tokio::select! {
            () = cycle => {}
            changed = newest.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// What the sessions of one epoch share.
struct Shared {
    consensus: Arc<Consensus>,
    keys: MixKeys,
    dialer: Endpoint,
    local: IpAddr,
    clock: Clock,
    inputs: mpsc::Sender<Input>,
    epoch: Epoch,
    gap: Duration,
    patience: Duration,
    /// No loop begins after this: its key epoch would end before it is back.
    until: Wall,
}

async fn one_epoch(
    local: IpAddr,
    loops: usize,
    clock: Clock,
    dialer: &Endpoint,
    published: Arc<Published>,
    inputs: &mpsc::Sender<Input>,
) {
    let consensus = Arc::clone(&published.consensus);
    let key_epoch = consensus.key_epoch_at(clock.now().wall);
    let Some(keys) = tokio::task::spawn_blocking(move || read_keys(&published, key_epoch)).await.ok().flatten() else {
        return;
    };
    let Ok(mut rng) = StdRng::try_from_rng(&mut rand::rngs::SysRng) else { return };
    let sessions = plan(&consensus, &keys, loops, &mut rng);
    let params = consensus.params();
    let length = Duration::from_millis(params.epoch_ms());
    let patience = PATIENCE.min(length / PATIENCE_DIVISOR);
    let each = u32::try_from(sessions.iter().map(|s| s.routes.len()).sum::<usize>().div_ceil(SESSIONS)).unwrap_or(1);
    let ends = Wall(key_epoch.0.saturating_add(1).saturating_mul(params.key_epoch_ms()));
    let shared = Arc::new(Shared {
        epoch: consensus.epoch(),
        consensus,
        keys,
        dialer: dialer.clone(),
        local,
        clock,
        inputs: inputs.clone(),
        gap: (length * SPREAD_PERCENT / 100 / each.max(1)).max(LEAST_GAP),
        patience,
        until: ends - patience,
    });
    let mut running = JoinSet::new();
    for session in sessions {
        if running.len() >= SESSIONS {
            running.join_next().await;
        }
        running.spawn(run(Arc::clone(&shared), session));
    }
    while running.join_next().await.is_some() {}
}

fn read_keys(published: &Published, key_epoch: posta_protocol::ids::KeyEpoch) -> Option<MixKeys> {
    let wanted = published.consensus.mix_keys_hash(key_epoch)?;
    let (_, part) = published.parts.iter().find(|(hash, _)| *hash == wanted)?;
    UnverifiedMixKeys::decode(part).ok()?.verify(&published.consensus).ok()
}

/// All loops that begin at one edge.
async fn run(shared: Arc<Shared>, session: Session) {
    let Some((link, inbox)) = timeout(shared.patience, enter(&shared, &session)).await.ok().flatten() else {
        let loops = u32::try_from(session.routes.len()).unwrap_or(u32::MAX);
        return shared.tell(Seen::Closed(session.entry, loops)).await;
    };
    let Link { sender, mut receiver, .. } = link;
    let mut under_way: HashMap<SurbId, (Route, ReplyKeys, Mono)> = HashMap::new();
    let mut routes = session.routes.into_iter();
    let mut ended: Option<Mono> = None;
    let mut next = shared.clock.now().mono;
    loop {
        let now = shared.clock.now();
        if ended.is_none() && now.mono >= next {
            next = now.mono + shared.gap;
            match routes.next().filter(|_| now.wall < shared.until) {
                None => ended = Some(now.mono + shared.patience),
                Some(route) => {
                    let sealed = tokio::task::spawn_blocking({
                        let shared = Arc::clone(&shared);
                        move || sealed(&shared, &route, inbox)
                    });
                    let Some((packet, keys)) = sealed.await.ok().flatten() else { continue };
                    under_way.insert(keys.surb, (route, keys, shared.clock.now().mono));
                    if sender.send(packet).await.is_err() {
                        break;
                    }
                }
            }
        }
        let late = under_way.iter().filter(|(_, (.., at))| now.mono.since(*at) >= shared.patience);
        let late: Vec<SurbId> = late.map(|(surb, _)| *surb).collect();
        for surb in late {
            if let Some((route, ..)) = under_way.remove(&surb) {
                shared.tell(Seen::Lost(route)).await;
            }
        }
        if ended.is_some_and(|at| under_way.is_empty() || now.mono >= at) {
            break;
        }
        let wait = if ended.is_some() { shared.gap } else { next.since(now.mono) };
        tokio::select! {
            received = receiver.recv() => match received {
                None => break,
                Some(Received::Packet(packet)) => {
                    let at = shared.clock.now().mono;
                    if let Some(seen) = returned(&shared, &mut under_way, &packet, at) {
                        shared.tell(seen).await;
                    }
                }
                Some(Received::Control(_)) => {}
            },
            () = sleep(wait) => {}
        }
    }
    // The edge has closed the link, or has kept these back: either way they did not come.
    for (route, ..) in under_way.into_values() {
        shared.tell(Seen::Lost(route)).await;
    }
    // Fails only if the link is gone.
    let _ = sender.try_control(Frame::Goodbye);
}

/// A link to the entry, with an inbox attached.
async fn enter(shared: &Shared, session: &Session) -> Option<(Link, InboxId)> {
    let relay = shared.consensus.relay(&session.entry)?;
    let geometry = shared.consensus.geometry();
    let hello = Hello::new(geometry, shared.consensus.epoch(), shared.consensus.hash());
    for address in relay.client_addresses.iter().filter(|a| a.is_ipv4() == shared.local.is_ipv4()) {
        let opened = match shared.dialer.connect(*address, relay.link_key).await {
            Ok(connection) => connection.open_link(hello, geometry.packet_len()).await,
            Err(e) => Err(e),
        };
        let Ok(mut link) = opened else { continue };
        let secret = Secret::random(&mut StdRng::try_from_rng(&mut rand::rngs::SysRng).ok()?);
        let inbox = InboxId(crypto::hash(context::INBOX, secret.expose()).0);
        if link.sender.try_control(Frame::Attach(secret)).is_err() {
            continue;
        }
        while let Some(received) = link.receiver.recv().await {
            if matches!(received, Received::Control(Frame::Attached(id)) if id == inbox) {
                return Some((link, inbox));
            }
        }
    }
    None
}

fn sealed(shared: &Shared, route: &Route, inbox: InboxId) -> Option<(Packet, ReplyKeys)> {
    let mut rng = StdRng::try_from_rng(&mut rand::rngs::SysRng).ok()?;
    seal(shared.consensus.geometry(), &shared.keys, route, inbox, &mut rng)?.ok()
}

fn returned(
    shared: &Shared,
    under_way: &mut HashMap<SurbId, (Route, ReplyKeys, Mono)>,
    packet: &Packet,
    at: Mono,
) -> Option<Seen> {
    let delivery = Delivery::from_packet(packet, shared.consensus.geometry()).ok()?;
    let (route, keys, sent) = under_way.remove(&delivery.surb)?;
    let content = keys.open(delivery.payload);
    let whole = content.is_ok_and(|content| Answer::decode(&content).is_ok_and(|answer| answer.body == Body::Ok));
    Some(if whole { Seen::Returned(route, at.since(sent)) } else { Seen::Lost(route) })
}

impl Shared {
    async fn tell(&self, seen: Seen) {
        // Fails only when the core is gone.
        let _ = self.inputs.send(Input::Seen { epoch: self.epoch, seen }).await;
    }
}
