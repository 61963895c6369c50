//! The daemon around the core: the only place with clocks, threads, tasks and sockets.
//!
//! ```text
//! links, clients -> Intake -> worker threads -> owner (Relay core) -> links, clients
//!                                                 |  ^
//!                                                 v  |
//!                                            storage thread
//! ```
//! One task, the owner, holds the core and never waits for anyone. While too many packets stand in the lines in front of the
//! neighbours it takes no more from the workers (`lines`), and everyone else waits for the owner, back to those who send:
//! backpressure comes before drops. What can't be handed on all the same is dropped and counted.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::vec;

use posta_link::fetch::Network;
use posta_link::mirror::Mirrored;
use posta_link::{Audience, Endpoint, Link, LinkSender};
use posta_protocol::document::Consensus;
use posta_protocol::frame::Frame;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::RelayId;
use posta_protocol::now::Mono;
use posta_protocol::onion::Peeled;
use posta_protocol::packet::Packet;
use posta_store::{Outcome, QueueStore, Refusal};
use tokio::sync::{self, mpsc, watch};
use tokio::time::sleep_until;
use tracing::{debug, error, info, warn};

pub mod cache;
pub mod replay_log;

mod attend;
pub(crate) mod board;
mod clients;
mod clock;
pub(crate) mod control;
mod directory;
mod exporter;
mod filter;
mod lines;
mod links;
mod listed;
mod mirroring;
mod notify;
mod pace;
mod ports;
mod prepare;
mod reload;
mod status;
mod stop;
mod storage;
mod workers;

use self::board::{Board, Makings, Settings as Configs};
use self::cache::Cache;
use self::clients::ClientEvent;
use self::clock::Clock;
pub(crate) use self::clock::{Utc, wall};
use self::control::Control;
use self::directory::{Directory, Parts, PublicKeys, Signer, first_of, posts};
use self::filter::Filter;
use self::lines::LOOK_AGAIN;
use self::links::{Held, Links};
pub use self::listed::listed;
use self::notify::Notify;
pub(crate) use self::prepare::queues_in;
use self::prepare::{Prepared, prepare};
use self::reload::Reload;
use self::replay_log::ShardLog;
use self::status::Status;
use self::stop::{Leaving, Stop};
use self::storage::StoreJob;
use self::workers::{Batch, Intake};
use crate::config::Config;
use crate::failure::Failure;
use crate::keys::Keys;
use crate::relay::replay::{Fill, ReplayShard};
use crate::relay::worker::{Peeler, Ring};
use crate::relay::{Action, ClientLink, Event, Relay, Settings, Source, Token};

/// The core is given the time at least this often.
const TICK: Duration = Duration::from_secs(1);
/// How often expired messages are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the configuration was read, and is read again at SIGHUP.
    pub path: PathBuf,
    /// Whether to say `ready`, and counters, as JSON on standard output.
    pub ready_json: bool,
}

/// Runs a relay until it is told to stop.
///
/// # Errors
/// [`Failure`], in one sentence.
pub fn run(config: Config, options: Options) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(1, 4))
        .enable_all()
        .build()
        .map_err(|e| Failure::other(format_args!("the system gives no threads: {e}")))?;
    let result = runtime.block_on(daemon(config, options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn daemon(config: Config, options: Options) -> Result<(), Failure> {
    let no_signals = |e| Failure::other(format_args!("signals can't be handled: {e}"));
    let mut stop = Stop::new().map_err(no_signals)?;
    let (settings, configs) = watch::channel(Arc::new(config.clone()));
    let reload = Reload::new(options.path.clone(), settings).map_err(no_signals)?;
    let notify = Notify::from_environment();
    let recorded = exporter::install();
    let network = Network::load(&config.network).map_err(Failure::usage)?;
    let cache = Cache::new(&config.state_dir);
    let known = cache.load(network.authorities(), wall());
    let (newest, consensus) = watch::channel(known.newest.clone());
    let prepared = prepare(&config)?;
    let relay = prepared.keys.relay();
    let board = Board::new(Makings {
        keys: &prepared.keys,
        authorities: network.authorities().len(),
        consensus: consensus.clone(),
        settings: configs.clone(),
        store: prepared.health.clone(),
    });
    match Control::bind(&config.state_dir) {
        Ok(control) => drop(tokio::spawn(control.serve(prepared.backups.clone(), board.clone()))),
        Err(e) => warn!("commands can't reach this relay while it runs: {e}"),
    }
    info!("relay {} starts", relay.short());
    tokio::spawn(exporter::serve(recorded, board.clone(), configs.clone()));
    tokio::spawn(reload.serve());
    let (stopping, stop_seen) = watch::channel(false);
    let (link_port, client_port) = ports::bind(&config, &prepared.keys, &consensus, stop_seen)?;

    // The directory: its tasks run until the process ends, and end by themselves only when something is wrong.
    let dialer = Endpoint::dialer(config.link_address.ip(), Audience::Directory, Some(prepared.keys.link()));
    let dialer = dialer.map_err(Failure::usage)?;
    let signer = Signer { keys: Keys::open(&config.state_dir, wall()).map_err(Failure::disk)? };
    let directory = Directory { network, dialer, settings: configs.clone(), relay, board: board.clone() };
    let directory = Arc::new(directory);
    let hint_ms = prepared.keys.length().unwrap_or(config.key_epoch_ms);
    let (public, public_keys) = watch::channel(PublicKeys::new());
    let (ring, rings) = watch::channel(None);
    let (fatal, mut failures) = mpsc::channel::<Failure>(2);
    let Prepared { keys, shards, logs, store, .. } = prepared;
    let turns = directory::turn_keys(keys, hint_ms, consensus.clone(), public, ring);
    let turn_failed = fatal.clone();
    tokio::spawn(async move { turn_failed.send(Failure::disk(turns.await)).await });
    let forks = Arc::new(sync::Notify::new());
    tokio::spawn(Arc::clone(&directory).look_for_forks(consensus.clone(), cache.clone(), Arc::clone(&forks)));
    let (part_sender, mix_keys) = watch::channel(Parts::new());
    let (shelf, shelves) = watch::channel(mirroring::first(known.newest.as_ref()));
    let mirrored = Mirrored::new(shelves);
    tokio::spawn(Arc::clone(&directory).fetch(newest, part_sender, shelf, cache));
    let (fill, fill_seen) = watch::channel(Fill::default());
    let posts = posts(Arc::clone(&directory), signer, public_keys, consensus.clone(), fill_seen);
    let posting = tokio::spawn(async move { fatal.send(posts.await).await }).abort_handle();

    notify.ready();
    tokio::spawn(attend::say_status(notify.clone(), board.clone()));
    let mut first = (consensus.clone(), rings.clone());
    let (held, ring) = tokio::select! {
        () = stop.first() => {
            notify.stopping();
            return Ok(());
        }
        Some(failure) = failures.recv() => return Err(failure),
        never = notify.live() => match never {},
        first = first_of(&mut first.0, &mut first.1) => first,
    };
    let running = Running::start(
        &config,
        Start {
            relay,
            known: known.for_layers(&held),
            held,
            ring,
            shards,
            logs,
            store,
            link_port,
            client_port,
            consensus,
            mix_keys,
            rings,
            stopping,
            fill,
            forks,
            mirrored,
            withdrawal: Leaving { directory, state: config.state_dir.clone(), posting },
            options,
            board,
            notify,
            configs,
        },
    )?;
    running.run(&mut stop, &mut failures).await
}

/// What the running relay is made from.
struct Start {
    relay: RelayId,
    /// Older than `held`, and still good for the places of a key epoch that has just ended.
    known: Vec<Arc<Consensus>>,
    held: Arc<Consensus>,
    ring: Ring,
    shards: Vec<ReplayShard>,
    logs: Vec<ShardLog>,
    store: Box<dyn QueueStore>,
    link_port: Endpoint,
    client_port: Option<Endpoint>,
    consensus: Held,
    mix_keys: watch::Receiver<Parts>,
    rings: watch::Receiver<Option<Ring>>,
    stopping: watch::Sender<bool>,
    fill: watch::Sender<Fill>,
    forks: Arc<sync::Notify>,
    mirrored: Mirrored,
    withdrawal: Leaving,
    options: Options,
    board: Board,
    notify: Notify,
    configs: Configs,
}

/// The owner: the core, and the ways in and out.
struct Running {
    clock: Clock,
    core: Relay,
    filter: Filter,
    geometry: Geometry,
    links: Links,
    clients: HashMap<ClientLink, LinkSender>,
    store: mpsc::Sender<StoreJob>,
    intake: Intake,
    /// Packets that the workers have passed on, and that wait until there is room in front of the neighbours.
    peeled: vec::IntoIter<(Source, Peeled, Packet)>,
    /// Whether there was none the last time that the owner looked.
    held: bool,
    status: Option<Status>,
    next_tick: Mono,
    next_sweep: Mono,
    consensus: Held,
    mix_keys: watch::Receiver<Parts>,
    stopping: watch::Sender<bool>,
    board: Board,
    notify: Notify,
    configs: Configs,
    received: u64,
    withdrawal: Option<Leaving>,
    ports: Vec<Endpoint>,
    threads: Vec<JoinHandle<()>>,
    inputs: Inputs,
}

struct Inputs {
    batches: mpsc::Receiver<Batch>,
    outcomes: mpsc::Receiver<Vec<(Token, Outcome)>>,
    clients: mpsc::Receiver<ClientEvent>,
    links: mpsc::Receiver<(RelayId, Link)>,
}

impl Running {
    fn start(config: &Config, start: Start) -> Result<Self, Failure> {
        let no_threads = |e| Failure::other(format_args!("the system gives no threads: {e}"));
        let Start {
            relay,
            known,
            held,
            ring,
            shards,
            logs,
            store,
            link_port,
            client_port,
            consensus,
            mix_keys,
            rings,
            stopping,
            fill,
            forks,
            mirrored,
            withdrawal,
            options,
            board,
            notify,
            configs,
        } = start;
        let clock = Clock::start();
        let geometry = held.geometry();
        let mut bounds = config.limits.bounds();
        bounds.queues.contact = config.admission.contact();
        let settings = Settings {
            relay,
            geometry,
            incarnation: store.incarnation(),
            admission: config.admission.admission(),
            bounds,
        };
        let mut core = Relay::new(settings, Box::new(rand::make_rng::<rand::rngs::StdRng>()));
        // Before any port is served: without it the core refuses every packet and every client.
        for consensus in known.into_iter().chain([held]) {
            core.handle(clock.now(), Event::Consensus(consensus));
        }

        let stop = stopping.subscribe();
        let (batch_sender, batches) = mpsc::channel(workers::BATCH_QUEUE);
        let secret = shards.first().map(ReplayShard::secret).ok_or_else(|| Failure::usage("no workers"))?;
        let peelers: Vec<_> = shards.into_iter().map(|shard| Peeler::new(ring.clone(), shard)).zip(logs).collect();
        let fills = peelers.iter().map(|(peeler, _)| peeler.fill()).collect();
        let (intake, mut threads) = workers::start(peelers, secret, &batch_sender).map_err(no_threads)?;
        drop(batch_sender);
        tokio::spawn(pass_rings(rings, intake.clone(), stop.clone()));

        let (store_sender, jobs) = mpsc::channel(storage::STORE_QUEUE);
        let (outcome_sender, outcomes) = mpsc::channel(storage::OUTCOME_QUEUE);
        threads.push(storage::start(store, clock, jobs, outcome_sender).map_err(no_threads)?);

        let shared = links::Shared {
            me: relay,
            endpoint: link_port.clone(),
            consensus: consensus.clone(),
            intake: intake.clone(),
            clock,
            packets_per_second: config.limits.link_packets_per_second,
            patience: config.limits.patience(),
            stopping: stop.clone(),
            open: board.links(),
            forks,
            mirrored: mirrored.clone(),
        };
        let (arrived, link_queue) = mpsc::channel(links::ARRIVED_QUEUE);
        tokio::spawn(links::accept(shared.clone(), arrived));
        let (events, client_queue) = mpsc::channel(clients::CLIENT_EVENTS);
        let mut ports = vec![link_port];
        if let Some(endpoint) = client_port {
            ports.push(endpoint.clone());
            let (consensus, intake) = (consensus.clone(), intake.clone());
            let packets_per_second = config.limits.client_packets_per_second;
            let stopping = stop;
            tokio::spawn(clients::accept(clients::Shared {
                endpoint,
                consensus,
                intake,
                events,
                clock,
                packets_per_second,
                stopping,
                mirrored,
            }));
        }
        let filter = Filter::new(fills, fill);
        Ok(Self {
            clock,
            core,
            filter,
            geometry,
            links: Links::new(shared),
            clients: HashMap::new(),
            store: store_sender,
            intake,
            peeled: Vec::new().into_iter(),
            held: false,
            status: options.ready_json.then(|| Status::new(relay)),
            next_tick: Mono(0),
            next_sweep: Mono(0),
            consensus,
            mix_keys,
            stopping,
            board,
            notify,
            configs,
            received: 0,
            withdrawal: Some(withdrawal),
            ports,
            threads,
            inputs: Inputs { batches, outcomes, clients: client_queue, links: link_queue },
        })
    }

    /// Runs until a signal, or until something fails for good.
    async fn run(mut self, stop: &mut Stop, failures: &mut mpsc::Receiver<Failure>) -> Result<(), Failure> {
        let mut consensus = self.consensus.clone();
        // The one that we start with counts as news.
        consensus.mark_changed();
        let mut configs = self.configs.clone();
        let ended = loop {
            self.act();
            let next = self.next_tick.min(self.next_turn());
            tokio::select! {
                () = stop.first() => break Ok(()),
                Some(failure) = failures.recv() => break Err(failure),
                Some(batch) = self.inputs.batches.recv(), if !self.holds_back() => self.batch(batch),
                Some(outcomes) = self.inputs.outcomes.recv() => self.outcomes(outcomes),
                Some(event) = self.inputs.clients.recv() => self.client(event),
                Some((from, link)) = self.inputs.links.recv() => self.links.arrived(from, link),
                changed = consensus.changed() => match changed {
                    Ok(()) => {
                        let held = consensus.borrow_and_update().clone();
                        if let Some(held) = held && let Err(failure) = self.consensus(held) {
                            break Err(failure);
                        }
                    }
                    Err(_) => break Err(Failure::other("the directory's task has ended: report this")),
                },
                Ok(()) = configs.changed() => {
                    let config = Arc::clone(&configs.borrow_and_update());
                    self.reloaded(&config);
                }
                () = sleep_until(self.clock.instant(next)) => {
                    if self.threads.iter().any(JoinHandle::is_finished) {
                        break Err(Failure::other("a thread has ended by itself: report this"));
                    }
                    self.tick();
                }
            }
        };
        if let Err(failure) = &ended {
            error!("{failure}");
        }
        stop::within_bounds(self.stop(), stop).await.and(ended)
    }

    fn batch(&mut self, batch: Batch) {
        let counters = self.core.counters_mut();
        // The worker counts a packet that found the filter full among those too.
        counters.refused += batch.refused.saturating_sub(batch.full);
        counters.replay_full += batch.full;
        counters.replay_unwritten += batch.unwritten;
        self.received += batch.peeled.len() as u64 + batch.refused + batch.unwritten;
        self.filter.report(batch.worker, batch.fill);
        self.peeled = batch.peeled.into_iter();
    }

    /// Whether peeled packets wait for room in front of the neighbours; then no more batches are taken.
    fn holds_back(&self) -> bool {
        self.peeled.len() > 0
    }

    /// When there is something to do if nothing happens.
    fn next_turn(&self) -> Mono {
        let due = self.core.poll_timeout().unwrap_or(Mono(u64::MAX));
        if self.holds_back() { due.min(self.clock.now().mono + LOOK_AGAIN) } else { due }
    }

    fn outcomes(&mut self, outcomes: Vec<(Token, Outcome)>) {
        let now = self.clock.now();
        for (token, outcome) in outcomes {
            self.core.handle(now, Event::Stored { token, outcome });
        }
    }

    fn client(&mut self, event: ClientEvent) {
        let now = self.clock.now();
        match event {
            ClientEvent::Up(link, sender) => {
                self.clients.insert(link, sender);
            }
            ClientEvent::Attach(link, secret) => self.core.handle(now, Event::Attach { link, secret }),
            ClientEvent::Pace(link, profile) => self.core.handle(now, Event::Pace { link, profile }),
            ClientEvent::Gone(link) => {
                self.clients.remove(&link);
                self.core.handle(now, Event::ClientGone { link });
            }
        }
    }

    fn consensus(&mut self, consensus: Arc<Consensus>) -> Result<(), Failure> {
        if consensus.geometry() != self.geometry {
            return Err(Failure::network("the network has changed the shape of its packets: start this relay again"));
        }
        let now = self.clock.now();
        // Once an epoch: totals, without a peer, queue or client in them.
        debug!("{:?}", self.core.counters());
        self.links.update(&consensus);
        self.core.handle(now, Event::Consensus(Arc::clone(&consensus)));
        let keys = self.mix_keys.borrow().clone();
        self.core.handle(now, Event::MixKeys(keys));
        let config = Arc::clone(&self.configs.borrow());
        self.limit_store(&config, &consensus);
        if let Some(status) = &mut self.status {
            status.consensus(now, &consensus);
        }
        Ok(())
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        self.core.handle(now, Event::Tick);
        self.notify.alive(now.mono);
        if now.mono < self.next_tick {
            return;
        }
        self.publish();
        self.next_tick = now.mono + TICK;
        if now.mono >= self.next_sweep {
            self.next_sweep = now.mono + SWEEP_EVERY;
            // With a full queue the store has other work; the next sweep does both.
            let _ = self.store.try_send(StoreJob::Sweep);
        }
        if let Some(status) = &mut self.status {
            let held = self.consensus.borrow().clone();
            if let Some(held) = held {
                status.consensus(now, &held);
            }
        }
    }

    /// Gives the core peeled packets as long as there is room in front of the neighbours, and does what it asks for. Never
    /// waits.
    fn act(&mut self) {
        loop {
            let now = self.clock.now();
            self.carry_out(now.mono);
            if !self.holds_back() {
                break;
            }
            let held = !self.links.room(now.mono);
            self.core.counters_mut().held_back += u64::from(held && !self.held);
            self.held = held;
            if held {
                break;
            }
            if let Some((from, peeled, packet)) = self.peeled.next() {
                self.core.handle(now, Event::Peeled { from, peeled, packet });
            }
        }
        if let Some(status) = &mut self.status {
            status.counters(self.clock.now(), self.core.counters());
        }
    }

    /// Does what the core asks for.
    fn carry_out(&mut self, now: Mono) {
        while let Some(action) = self.core.poll() {
            match action {
                Action::Send { to, packet } => {
                    if !self.links.send(now, to, packet) {
                        self.core.counters_mut().link_backlog += 1;
                    }
                }
                Action::Deliver { link, packet } => self.tell(link, |client| client.try_send(packet).is_ok()),
                Action::Attached { link, inbox } => {
                    self.tell(link, |client| client.try_control(Frame::Attached(inbox)).is_ok());
                }
                Action::Store { token, op } => {
                    if self.store.try_send(StoreJob::Op(token, op)).is_err() {
                        let outcome = Outcome::Refused(Refusal::Busy);
                        self.core.handle(self.clock.now(), Event::Stored { token, outcome });
                    }
                }
            }
        }
    }

    fn tell(&mut self, link: ClientLink, say: impl FnOnce(&LinkSender) -> bool) {
        if !self.clients.get(&link).is_some_and(say) {
            self.core.counters_mut().client_backlog += 1;
        }
    }
}

/// Hands each new ring to the workers.
async fn pass_rings(mut rings: watch::Receiver<Option<Ring>>, intake: Intake, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            changed = rings.changed() => if changed.is_err() { return },
        }
        let ring = rings.borrow_and_update().clone();
        if let Some(ring) = ring {
            intake.ring(&ring).await;
        }
    }
}
