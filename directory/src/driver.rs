//! Sockets, clocks, disk and tasks around the core.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use posta_link::fetch;
use posta_link::{Connection, Endpoint};
use posta_protocol::document::{Authorities, Authority as Listed, Refusal, Reply, Request};
use posta_protocol::ids::{AuthorityId, Epoch};
use posta_protocol::now::{Mono, Now, Wall};
use rand::SeedableRng;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::admission::{AdmissionConfig, Policy};
use crate::archive::{Archive, ArchiveError};
use crate::authority::{Action, Authority, Event, Published, Record};
use crate::config::Setup;
use crate::keys::{self, Ending};
use crate::measuring::{Measuring, Seen};
use crate::randomness;

mod http;
mod measure;

/// Events that wait for the core; whoever has another one waits.
const MAX_EVENTS: usize = 1_024;
/// Calls that wait for one authority; what exceeds it counts as unreachable.
const MAX_CALLS_WAITING: usize = 256;
/// How long a call may take whose reply is short.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Replies above this many bytes are documents, and may take longer.
const SHORT_REPLY: usize = 1024 * 1024;
/// How long such a one may take.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests that one connection of a stranger has at once, and how fast they come back.
const STRANGER_BURST: u32 = 32;
const STRANGER_REFILL: Duration = Duration::from_millis(100);
/// After a failed dial, calls to that authority fail at once for this long.
const REDIAL_PAUSE: Duration = Duration::from_millis(200);

/// Why an authority has stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DriverError {
    /// Its state can't be read or written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The system gives no randomness.
    #[error("the operating system gives no randomness")]
    Randomness,
    /// A task of ours has died.
    #[error("an internal task has ended: this is a bug, please report it with the log")]
    Task,
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    ahead: i64,
}

impl Clock {
    /// A clock whose monotonic side starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the driver reads the clocks")]
    pub fn start() -> Self {
        Self { start: Instant::now(), ahead: 0 }
    }

    /// What both say.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the driver reads the clocks")]
    pub fn now(&self) -> Now {
        let mono = Mono(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let wall = u64::try_from(wall).unwrap_or(u64::MAX).saturating_add_signed(self.ahead);
        Now { mono, wall: Wall(wall) }
    }

    /// The same clock, but so many milliseconds ahead of what the system says: for tests of wrong clocks.
    #[must_use]
    pub const fn ahead(self, millis: i64) -> Self {
        Self { ahead: millis, ..self }
    }
}

/// Ready at SIGTERM or SIGINT, which do nothing else from now on.
///
/// # Errors
/// What the system says.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// What reaches the core.
enum Input {
    Request {
        peer: Option<AuthorityId>,
        from: Option<IpAddr>,
        request: Request,
        answer: oneshot::Sender<Reply<Arc<[u8]>>>,
    },
    Answer {
        call: u64,
        reply: Option<Reply>,
    },
    /// What became of a loop.
    Seen {
        epoch: Epoch,
        seen: Seen,
    },
}

struct Outgoing {
    call: u64,
    body: Arc<[u8]>,
    max_reply: usize,
}

/// Runs an authority at a bound endpoint until `stop` is ready.
///
/// # Errors
/// [`DriverError`]. An authority that can't write its state must not go on.
pub async fn serve(endpoint: Endpoint, setup: Setup, stop: impl Future<Output = ()>) -> Result<(), DriverError> {
    serve_by(Clock::start(), endpoint, setup, stop).await
}

/// As [`serve`], by this clock.
///
/// # Errors
/// As [`serve`].
pub async fn serve_by(
    clock: Clock,
    endpoint: Endpoint,
    setup: Setup,
    stop: impl Future<Output = ()>,
) -> Result<(), DriverError> {
    let Setup { settings, signing_key, state_dir, http, policy, admission, measure_loops, .. } = setup;
    let archive = Arc::new(Archive::open(&state_dir)?);
    let memory = archive.load(&settings.authorities)?;
    let rng = StdRng::try_from_rng(&mut rand::rngs::SysRng).map_err(|_| DriverError::Randomness)?;
    let authorities = settings.authorities.clone();
    let own = AuthorityId(settings.certificate.identity);
    info!(authorities = authorities.len(), threshold = authorities.threshold(), "the authority is running");

    let (inputs, inbox) = mpsc::channel(MAX_EVENTS);
    let mut tasks = JoinSet::new();
    let mut peers = HashMap::new();
    for peer in authorities.list().iter().filter(|a| a.id != own) {
        let (calls, waiting) = mpsc::channel(MAX_CALLS_WAITING);
        peers.insert(peer.id, calls);
        tasks.spawn(call_peer(peer.clone(), endpoint.clone(), waiting, inputs.clone()));
    }
    tasks.spawn(accept(endpoint.clone(), authorities, inputs.clone()));

    let expires = settings.certificate.expires;
    let board =
        http::Board::new(memory.newest.clone(), archive.history(), settings.authorities.clone(), clock, expires);
    let (newest, consensuses) = watch::channel(memory.newest.clone());
    if measure_loops > 0 {
        let local = unspecified(&endpoint);
        tasks.spawn(measure::measure(local, measure_loops, clock, consensuses, inputs.clone()));
    }
    if let Some(address) = http {
        tasks.spawn(http::serve(address, board.clone()));
    }
    let mut authority = Authority::new(settings, signing_key, rng, memory, clock.now());
    authority.decide(policy);
    let mut core = Core {
        authority,
        archive,
        clock,
        peers,
        _inputs: inputs,
        answers: HashMap::new(),
        tickets: 0,
        board,
        state_dir,
        admission,
        expires,
        warned: None,
        measuring: Measuring::default(),
        newest,
    };
    let result = tokio::select! {
        result = core.run(inbox) => result,
        _ = tasks.join_next() => Err(DriverError::Task),
        () = stop => Ok(()),
    };
    tasks.shutdown().await;
    endpoint.close();
    result
}

/// Any address of the family that the authority listens at.
fn unspecified(endpoint: &Endpoint) -> IpAddr {
    match endpoint.local_addr() {
        Ok(address) if address.is_ipv6() => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    }
}

struct Core {
    authority: Authority<StdRng>,
    archive: Arc<Archive>,
    clock: Clock,
    peers: HashMap<AuthorityId, mpsc::Sender<Outgoing>>,
    /// Held, so that the channel never ends.
    _inputs: mpsc::Sender<Input>,
    /// Requests being handled: the core answers each at once, so there is one at most.
    answers: HashMap<u64, oneshot::Sender<Reply<Arc<[u8]>>>>,
    tickets: u64,
    board: http::Board,
    state_dir: PathBuf,
    admission: AdmissionConfig,
    /// When the signing key ends, and what was last said about that.
    expires: Wall,
    warned: Option<Ending>,
    measuring: Measuring,
    /// For those who measure by it.
    newest: watch::Sender<Option<Arc<Published>>>,
}

impl Core {
    async fn run(&mut self, mut inbox: mpsc::Receiver<Input>) -> Result<(), DriverError> {
        let mut hangup = signal(SignalKind::hangup()).map_err(|_| DriverError::Task)?;
        loop {
            self.act().await?;
            let due = self.authority.poll_timeout().map(|at| at.since(self.clock.now().mono));
            let input = tokio::select! {
                input = inbox.recv() => input,
                _ = hangup.recv() => {
                    self.reload();
                    None
                }
                () = sleep(due.unwrap_or(Duration::MAX)), if due.is_some() => None,
            };
            let event = match input {
                None => Event::Timer,
                Some(Input::Seen { epoch, seen }) => {
                    self.measuring.note(epoch, seen);
                    continue;
                }
                Some(Input::Answer { call, reply }) => Event::Answer { call, reply },
                Some(Input::Request { peer, from, request, answer }) => {
                    self.tickets += 1;
                    self.answers.insert(self.tickets, answer);
                    Event::Request { ticket: self.tickets, peer, from, request }
                }
            };
            self.authority.handle(self.clock.now(), event);
        }
    }

    /// Takes over a renewed signing key and changed lists of relays; what can't be read leaves things as they are.
    fn reload(&mut self) {
        match keys::signing(&self.state_dir, self.clock.now().wall) {
            Ok(signing) => {
                let expires = signing.certificate.expires;
                if self.authority.rekey(signing) {
                    self.expires = expires;
                    self.board.signing_until(expires);
                    info!("the signing key was read again");
                } else {
                    error!("the signing key is another authority's: it is not taken over");
                }
            }
            Err(e) => error!("the signing key was not taken over: {e}"),
        }
        match Policy::load(&self.admission) {
            Ok(policy) => {
                info!("relays admitted: {}", policy.describe());
                self.authority.decide(policy);
            }
            Err(e) => error!("the lists of relays were not taken over: {e}"),
        }
    }

    /// Says once at each of the times that the signing key ends soon.
    fn warn_of_the_end(&mut self) {
        let ending = keys::ending(self.expires, self.clock.now().wall);
        if ending != self.warned {
            match &ending {
                Some(ending) if ending.grave => error!("{}", ending.says),
                Some(ending) => warn!("{}", ending.says),
                None => {}
            }
            self.warned = ending;
        }
    }

    /// Does what the core wants, until it wants nothing.
    async fn act(&mut self) -> Result<(), DriverError> {
        while let Some(action) = self.authority.poll() {
            match action {
                Action::Reply { ticket, reply } => {
                    if let Some(answer) = self.answers.remove(&ticket) {
                        // Whoever asked may be gone.
                        let _ = answer.send(reply);
                    }
                }
                Action::Call { peer, call, body, max_reply } => {
                    let sent = self.peers.get(&peer).map(|p| p.try_send(Outgoing { call, body, max_reply }));
                    if !matches!(sent, Some(Ok(()))) {
                        self.authority.handle(self.clock.now(), Event::Answer { call, reply: None });
                    }
                }
                Action::Record(record) => {
                    let written = record.clone();
                    self.on_disk(move |archive| archive.record(&written)).await?;
                    if let Record::Signed(header) = record {
                        debug!(epoch = header.epoch.0, "signing");
                    }
                    self.authority.handle(self.clock.now(), Event::Recorded(record));
                }
                Action::Publish(published) => {
                    let consensus = &published.consensus;
                    info!(epoch = consensus.epoch().0, relays = consensus.relays().len(), "a new consensus");
                    for problem in randomness::problems(consensus.body()) {
                        warn!("{problem}");
                    }
                    self.board.published(&published, self.authority.last_round(), self.clock.now().wall);
                    let kept = Arc::clone(&published);
                    let (descriptors, withdrawals) = (self.authority.descriptors(), self.authority.withdrawals());
                    self.on_disk(move |archive| archive.publish(&published, &descriptors, &withdrawals)).await?;
                    self.warn_of_the_end();
                    self.authority.measured(self.measuring.classes());
                    self.newest.send_replace(Some(kept));
                }
                Action::Withdrawn(relay, at) => self.on_disk(move |archive| archive.withdrawn(relay, at)).await?,
                Action::Evidence(evidence) => {
                    self.board.evidence();
                    let said = evidence.to_string();
                    match self.on_disk(move |archive| archive.evidence(&evidence)).await? {
                        Some(path) => error!("{said}: the proof is in {}", path.display()),
                        None => error!("{said}: there is no room for another proof in the folder evidence"),
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the disk: nothing may overtake a record.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Archive) -> Result<T, ArchiveError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let archive = Arc::clone(&self.archive);
        Ok(tokio::task::spawn_blocking(move || work(&archive)).await.map_err(|_| DriverError::Task)??)
    }
}

/// Carries calls to one authority over one connection, several at once.
async fn call_peer(
    peer: Listed,
    endpoint: Endpoint,
    mut waiting: mpsc::Receiver<Outgoing>,
    inputs: mpsc::Sender<Input>,
) {
    let mut connection: Option<Connection> = None;
    let mut failed: Option<Mono> = None;
    let mut running = JoinSet::new();
    let clock = Clock::start();
    while let Some(Outgoing { call, body, max_reply }) = waiting.recv().await {
        while running.try_join_next().is_some() {}
        if connection.as_ref().is_none_or(Connection::is_closed) {
            connection = None;
            if failed.is_none_or(|at| clock.now().mono.since(at) >= REDIAL_PAUSE) {
                match fetch::connect(&peer, &endpoint).await {
                    Ok(dialled) => connection = Some(dialled),
                    Err(e) => {
                        debug!("an authority can't be reached: {e}");
                        failed = Some(clock.now().mono);
                    }
                }
            }
        }
        let inputs = inputs.clone();
        let Some(connection) = connection.clone() else {
            if inputs.send(Input::Answer { call, reply: None }).await.is_err() {
                return;
            }
            continue;
        };
        running.spawn(async move {
            let limit = if max_reply > SHORT_REPLY { DOCUMENT_TIMEOUT } else { CALL_TIMEOUT };
            let reply = match timeout(limit, connection.request(&body, max_reply)).await {
                Ok(Ok(bytes)) => Reply::decode(&bytes).ok(),
                Ok(Err(e)) => {
                    debug!("an authority did not answer: {e}");
                    None
                }
                Err(_) => {
                    // It may have died without a word: the next call dials anew.
                    connection.close();
                    None
                }
            };
            // Fails only when the core is gone.
            let _ = inputs.send(Input::Answer { call, reply }).await;
        });
    }
}

async fn accept(endpoint: Endpoint, authorities: Authorities, inputs: mpsc::Sender<Input>) {
    // The endpoint bounds how many there are.
    let mut connections = JoinSet::new();
    while let Some(connection) = endpoint.accept().await {
        while connections.try_join_next().is_some() {}
        let key = connection.peer();
        let peer = authorities.list().iter().find(|a| key == Some(a.link_key)).map(|a| a.id);
        connections.spawn(answer(connection, peer, inputs.clone()));
    }
}

/// Answers the requests of one connection.
async fn answer(connection: Connection, peer: Option<AuthorityId>, inputs: mpsc::Sender<Input>) {
    let max = if peer.is_some() { Request::MAX_AUTHORITY_LEN } else { Request::MAX_LEN };
    let from = Some(connection.address());
    let clock = Clock::start();
    let (mut left, mut refilled) = (STRANGER_BURST, clock.now().mono);
    // QUIC bounds how many requests a connection has open, and each holds one reply.
    let mut replies = JoinSet::new();
    while let Ok((body, responder)) = connection.next_request(max).await {
        while replies.try_join_next().is_some() {}
        if peer.is_none() {
            let gained = clock.now().mono.since(refilled).as_millis() / STRANGER_REFILL.as_millis().max(1);
            if gained > 0 {
                left = left.saturating_add(u32::try_from(gained).unwrap_or(u32::MAX)).min(STRANGER_BURST);
                refilled = clock.now().mono;
            }
        }
        let reply = if left == 0 {
            Reply::Refused(Refusal::Busy)
        } else {
            left -= u32::from(peer.is_none());
            match Request::decode(&body) {
                Err(_) => Reply::Refused(Refusal::Malformed),
                Ok(request) => {
                    let (answer, answered) = oneshot::channel();
                    if inputs.send(Input::Request { peer, from, request, answer }).await.is_err() {
                        return;
                    }
                    let Ok(reply) = answered.await else { return };
                    reply
                }
            }
        };
        replies.spawn(async move {
            if let Err(e) = responder.reply(&reply.encode()).await {
                debug!("a reply did not arrive: {e}");
            }
        });
    }
    while replies.join_next().await.is_some() {}
}
