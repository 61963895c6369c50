//! Runs a session against a real network: the only place of this crate that reads clocks, spawns and touches sockets.

mod dial;
pub(crate) mod keeper;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use posta_link::Endpoint;
use posta_link::fetch::{Documents, FetchError, Held, Mirror, Mirrors, Network, fetch_newer};
use posta_protocol::document::{Consensus, MixKeys, RelayEntry, Succession, WrongLayers, verify_succession};
use posta_protocol::frame::{Delivery, Hello};
use posta_protocol::ids::{InboxId, RelayId};
use posta_protocol::invitation::Link;
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::packet::Packet;
use rand::RngExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};
use zeroize::Zeroizing;

use crate::client::{CallError, Invited};
use crate::driver::dial::{Dial, Outgoing};
use crate::driver::keeper::{Keeper, Order};
use crate::end_to_end::VerificationCode;
use crate::session::event::{
    Action, ClientEvent, ContactId, ContactInfo, Event, EventCursor, Health, JoinError, MessageId, SendError, Warning,
};
use crate::session::{ProfileCost, Session};
use crate::store::StoreError;

/// Calls of the application that wait; more make the caller wait.
pub(crate) const CALL_QUEUE: usize = 64;
/// Events that the application has not read; beyond, the session asks for no more messages, and what was under way
/// waits beside.
pub const EVENT_QUEUE: usize = 256;
/// What links and fetches have brought and the session has not taken; beyond, links are not read.
const INPUT_QUEUE: usize = 256;
/// Packets that wait for one link: the session's window and some reply blocks; beyond, they are lost and sent again.
const LINK_QUEUE: usize = 128;
/// Writes that are under way; more steps wait.
const MAX_WRITES: u64 = 64;
/// The monotonic clock starts here, so that times of an earlier run can be told: 30 days.
const CLOCK_START: Duration = Duration::from_secs(30 * 24 * 3600);
/// First wait after a fetch of the network's documents failed, doubled each time.
const FETCH_RETRY: Duration = Duration::from_millis(500);
/// Longest wait after a failed fetch.
const MAX_FETCH_RETRY: Duration = Duration::from_secs(30);
/// Edges that are asked for documents if neither an entry nor an authority answers.
const OTHER_MIRRORS: usize = 2;

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Now {
        let mono = Mono(0) + (CLOCK_START + self.start.elapsed());
        #[expect(clippy::disallowed_methods, reason = "the driver is where clocks are read")]
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono, wall: Wall(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }

    fn instant(self, at: Mono) -> Instant {
        self.start + Duration::from_micros(at.0).saturating_sub(CLOCK_START)
    }
}

/// What the application asks for.
pub(crate) enum Call {
    Invite(oneshot::Sender<Result<Invited, CallError>>),
    Join(Link, oneshot::Sender<Result<ContactId, JoinError>>),
    Send(ContactId, Vec<u8>, oneshot::Sender<Result<MessageId, SendError>>),
    Ping(oneshot::Sender<bool>),
    Code(ContactId, oneshot::Sender<Option<VerificationCode>>),
    Commit(EventCursor),
    Profiles(oneshot::Sender<Option<[ProfileCost; 3]>>),
    Health(oneshot::Sender<Health>),
    Contacts(oneshot::Sender<Vec<ContactInfo>>),
    Rename(ContactId, String, oneshot::Sender<bool>),
    Remove(ContactId, oneshot::Sender<bool>),
    /// Overwrites the keys of all that was deleted.
    Purge(oneshot::Sender<Result<(), StoreError>>),
    Passphrase(Zeroizing<Vec<u8>>, oneshot::Sender<Result<(), StoreError>>),
    /// Writes what is left, and ends.
    Close(oneshot::Sender<()>),
}

/// What waits for a write, in order.
enum Deferred {
    /// The write with this number.
    Write(u64),
    Action(Action),
    Reply(Reply),
}

/// An answer to the application, that says what is on disk by then. The caller may have gone.
type Reply = Box<dyn FnOnce() + Send>;

enum Input {
    Up { entry: RelayId, generation: u64 },
    Down { entry: RelayId, generation: u64 },
    Attached(InboxId),
    Packet(Packet),
    Fetched(Box<Result<Documents, FetchError>>),
}

struct LinkTask {
    generation: u64,
    outgoing: mpsc::Sender<Outgoing>,
    task: AbortHandle,
}

impl Drop for LinkTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The network's side of the driver.
pub(crate) struct Sockets {
    pub(crate) network: Network,
    /// Dials authorities.
    pub(crate) directory: Endpoint,
    /// Dials entries.
    pub(crate) entries: Endpoint,
    /// Whether the local address is one of IPv4.
    pub(crate) ipv4: bool,
}

pub(crate) struct Driver {
    clock: Clock,
    session: Session,
    sockets: Arc<Sockets>,
    calls: mpsc::Receiver<Call>,
    events: mpsc::Sender<(EventCursor, ClientEvent)>,
    /// Events for which there was no room. Bounded by what was under way when the application stopped reading.
    overflow: VecDeque<(EventCursor, ClientEvent)>,
    /// The thread that writes; none for a client that keeps nothing.
    keeper: Option<Keeper>,
    /// The writes that were ordered and done.
    ordered: u64,
    written: u64,
    deferred: VecDeque<Deferred>,
    failed: bool,
    inputs: mpsc::Receiver<Input>,
    input: mpsc::Sender<Input>,
    links: BTreeMap<RelayId, LinkTask>,
    generation: u64,
    invitations: BTreeMap<ContactId, oneshot::Sender<Result<Invited, CallError>>>,
    consensus: Arc<Consensus>,
    mix_keys: Vec<Arc<MixKeys>>,
    /// Why the newest documents were refused: said once.
    refused: Option<WrongLayers>,
    fetching: bool,
    fetch_at: Instant,
    fetch_failures: u32,
}

impl Driver {
    pub(crate) fn new(
        clock: Clock,
        session: Session,
        sockets: Sockets,
        documents: Documents,
        calls: mpsc::Receiver<Call>,
        events: mpsc::Sender<(EventCursor, ClientEvent)>,
        keeper: Option<Keeper>,
    ) -> Self {
        let (input, inputs) = mpsc::channel(INPUT_QUEUE);
        let (consensus, mix_keys) = documents;
        let mut driver = Self {
            clock,
            session,
            sockets: Arc::new(sockets),
            calls,
            events,
            overflow: VecDeque::new(),
            keeper,
            ordered: 0,
            written: 0,
            deferred: VecDeque::new(),
            failed: false,
            inputs,
            input,
            links: BTreeMap::new(),
            generation: 0,
            invitations: BTreeMap::new(),
            consensus: Arc::new(consensus),
            mix_keys: Vec::new(),
            refused: None,
            // The documents are fresh: what the session asks for at its start is there.
            fetching: true,
            fetch_at: Instant::now(),
            fetch_failures: 0,
        };
        driver.act();
        driver.fetching = false;
        driver.take_documents(mix_keys);
        driver
    }

    /// Runs in a task of its own until the application lets go of the client.
    pub(crate) fn spawn(self) {
        tokio::spawn(self.run());
    }

    async fn run(mut self) {
        let events = self.events.clone();
        while !self.failed {
            let timer = self.session.poll_timeout().map(|at| self.clock.instant(at));
            // A slow disk holds everything up: nothing may leave that isn't on it.
            let free = self.ordered - self.written < MAX_WRITES;
            tokio::select! {
                call = self.calls.recv(), if free => match call {
                    Some(Call::Close(reply)) => return self.close(reply).await,
                    Some(call) => self.call(call),
                    None => return,
                },
                written = keeper::written(self.keeper.as_mut()) => self.wrote(written),
                Some(input) = self.inputs.recv(), if free => self.take(input),
                () = sleep_until(timer.unwrap_or(self.fetch_at)), if timer.is_some() && free => self.handle(Event::Tick),
                () = sleep_until(self.fetch_at), if !self.fetching => self.fetch(),
                Ok(permit) = events.reserve(), if !self.overflow.is_empty() => {
                    if let Some(event) = self.overflow.pop_front() {
                        permit.send(event);
                    }
                    if self.overflow.is_empty() {
                        self.handle(Event::Reading(true));
                    }
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.session.handle(self.clock.now(), event);
        self.act();
    }

    fn call(&mut self, call: Call) {
        let now = self.clock.now();
        // The caller may have gone; what it asked for is done all the same.
        match call {
            Call::Invite(reply) => match self.session.invite(now) {
                Some(contact) => {
                    self.invitations.insert(contact, reply);
                }
                None => drop(reply.send(Err(CallError::TooManyContacts))),
            },
            Call::Join(link, reply) => {
                let joined = self.session.join(now, link);
                return self.reply(reply, joined);
            }
            Call::Send(contact, body, reply) => {
                let sent = self.session.send(now, contact, body);
                return self.reply(reply, sent);
            }
            Call::Ping(reply) => {
                let pinged = self.session.ping(now);
                return self.reply(reply, pinged);
            }
            Call::Commit(cursor) => self.session.commit(now, cursor),
            Call::Profiles(reply) => drop(reply.send(self.session.profiles(now))),
            Call::Health(reply) => drop(reply.send(self.session.health())),
            Call::Contacts(reply) => drop(reply.send(self.session.contacts())),
            Call::Rename(contact, name, reply) => {
                let found = self.session.rename(now, contact, &name);
                return self.reply(reply, found);
            }
            Call::Remove(contact, reply) => {
                let found = self.session.remove(now, contact);
                self.invitations.remove(&contact);
                return self.reply(reply, found);
            }
            Call::Purge(reply) => self.order(Order::Purge(reply)),
            Call::Passphrase(new, reply) => self.order(Order::Passphrase(new, reply)),
            // Taken by the loop.
            Call::Close(reply) => drop(reply),
            Call::Code(contact, reply) => drop(reply.send(self.session.verification_code(contact))),
        }
        self.act();
    }

    /// Answers once what was asked for is on disk.
    fn reply<T: Send + 'static>(&mut self, to: oneshot::Sender<T>, what: T) {
        self.act();
        self.later(Deferred::Reply(Box::new(move || drop(to.send(what)))));
    }

    /// Asks the thread that writes; a client that keeps nothing has nothing to do.
    fn order(&self, order: Order) {
        match (&self.keeper, order) {
            (Some(keeper), order) => keeper.order(order),
            (None, Order::Purge(reply) | Order::Passphrase(_, reply)) => drop(reply.send(Ok(()))),
            (None, _) => {}
        }
    }

    /// All changes are on disk, and what was deleted is gone from it, before the caller hears of it.
    async fn close(mut self, reply: oneshot::Sender<()>) {
        self.links.clear();
        if let Some(keeper) = self.keeper.take() {
            keeper.close().await;
        }
        let _ = reply.send(());
    }

    /// A write is done, and what waited for it may happen.
    fn wrote(&mut self, written: Result<u64, StoreError>) {
        match written {
            Ok(number) => {
                self.written = number;
                while let Some(next) = self.deferred.pop_front() {
                    match next {
                        Deferred::Write(n) if n > number => {
                            self.deferred.push_front(next);
                            break;
                        }
                        Deferred::Write(_) => {}
                        Deferred::Action(action) => self.perform(action),
                        Deferred::Reply(reply) => reply(),
                    }
                }
                // An event may have filled the application's queue.
                self.act();
            }
            Err(e) => {
                error!("{e}");
                self.failed = true;
                let _ = self.events.try_send((EventCursor(0), ClientEvent::Warning(Warning::Disk)));
            }
        }
    }

    /// Does it now, or once the writes before it are done.
    fn later(&mut self, what: Deferred) {
        match what {
            what if !self.deferred.is_empty() => self.deferred.push_back(what),
            Deferred::Action(action) => self.perform(action),
            Deferred::Reply(reply) => reply(),
            Deferred::Write(_) => {}
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.session.poll() {
            match action {
                Action::Save(changes) => {
                    if let Some(keeper) = &self.keeper {
                        self.ordered += 1;
                        keeper.order(Order::Write(self.ordered, changes));
                        self.deferred.push_back(Deferred::Write(self.ordered));
                    }
                }
                // Nothing of them is on disk, and a slow disk must not show in when they leave.
                action @ (Action::Attach { .. } | Action::Pace { .. }) => self.perform(action),
                action => self.later(Deferred::Action(action)),
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Connect { entry } => self.connect(entry),
            Action::Disconnect { entry } => drop(self.links.remove(&entry)),
            Action::Attach { entry, secret } => self.put(entry, Outgoing::Attach(secret)),
            Action::Send { entry, packet, at } => {
                let at = at.map(|at| self.clock.instant(at));
                self.put(entry, Outgoing::Packet(packet, at));
            }
            Action::Pace { entry, profile } => self.put(entry, Outgoing::Pace(profile)),
            Action::Emit { cursor, event } => self.emit(cursor, event),
            Action::FetchNetwork => self.fetch(),
            // Ordered when it came.
            Action::Save(_) => {}
        }
    }

    fn emit(&mut self, cursor: EventCursor, event: ClientEvent) {
        let invited = match &event {
            ClientEvent::Invitation { contact, link } => {
                Some((contact, Ok(Invited { contact: *contact, link: link.clone() })))
            }
            ClientEvent::InviteFailed { contact, reason } => Some((contact, Err(CallError::NotAdmitted(*reason)))),
            _ => None,
        };
        if let Some((contact, result)) = invited
            && let Some(reply) = self.invitations.remove(contact)
        {
            // Who has gone meanwhile finds it among the events of the next start.
            if reply.send(result).is_ok() {
                self.session.settle(self.clock.now(), cursor);
            }
            return;
        }
        if !self.overflow.is_empty() {
            self.overflow.push_back((cursor, event));
        } else if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send((cursor, event)) {
            self.overflow.push_back(event);
            self.session.handle(self.clock.now(), Event::Reading(false));
        }
    }

    fn connect(&mut self, entry: RelayId) {
        self.generation += 1;
        let generation = self.generation;
        let (outgoing, queue) = mpsc::channel(LINK_QUEUE);
        let relay = self.consensus.relay(&entry);
        let (addresses, key) = relay.map_or((Vec::new(), None), |r| (r.client_addresses.clone(), Some(r.link_key)));
        let geometry = self.consensus.geometry();
        let dial = Dial {
            entry,
            generation,
            addresses,
            key,
            hello: Hello::new(geometry, self.consensus.epoch(), self.consensus.hash()),
            packet_len: geometry.packet_len(),
            sockets: Arc::clone(&self.sockets),
            input: self.input.clone(),
        };
        let task = tokio::spawn(dial.run(queue)).abort_handle();
        self.links.insert(entry, LinkTask { generation, outgoing, task });
    }

    /// Queues for a link. What finds no room or no link is lost, and sent again by the session.
    fn put(&self, entry: RelayId, what: Outgoing) {
        if let Some(link) = self.links.get(&entry) {
            let _ = link.outgoing.try_send(what);
        }
    }

    fn is_current(&self, entry: &RelayId, generation: u64) -> bool {
        self.links.get(entry).is_some_and(|l| l.generation == generation)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Up { entry, generation } if self.is_current(&entry, generation) => {
                self.handle(Event::LinkUp { entry });
            }
            Input::Down { entry, generation } if self.is_current(&entry, generation) => {
                self.links.remove(&entry);
                self.handle(Event::LinkDown { entry });
            }
            Input::Up { .. } | Input::Down { .. } => {}
            Input::Attached(inbox) => self.handle(Event::Attached { inbox }),
            Input::Packet(packet) => {
                if let Ok(delivery) = Delivery::from_packet(&packet, self.consensus.geometry()) {
                    self.handle(Event::Delivery(delivery));
                }
            }
            Input::Fetched(result) => self.fetched(*result),
        }
    }

    fn fetch(&mut self) {
        if std::mem::replace(&mut self.fetching, true) {
            return;
        }
        let (sockets, input) = (Arc::clone(&self.sockets), self.input.clone());
        let held = Held { consensus: Arc::clone(&self.consensus), mix_keys: self.mix_keys.clone() };
        let (wall, mirrors) = (self.clock.now().wall, self.mirrors());
        tokio::spawn(async move {
            let found = fetch_newer(&sockets.network, &mirrors, &sockets.directory, wall, &held).await;
            let _ = input.send(Input::Fetched(Box::new(found))).await;
        });
    }

    /// A warning of the driver's own. Committing it commits nothing.
    fn warn(&mut self, warning: Warning) {
        self.emit(EventCursor(0), ClientEvent::Warning(warning));
    }

    /// The entries, which know of this client anyway; and if neither they nor the authorities answer, some other edges.
    fn mirrors(&self) -> Mirrors {
        let mirror = |relay: &RelayEntry| {
            let here = relay.client_addresses.iter().filter(|a| a.is_ipv4() == self.sockets.ipv4);
            Mirror { link_key: relay.link_key, addresses: here.copied().collect(), client_port: true }
        };
        let before = self.links.keys().filter_map(|entry| self.consensus.relay(entry)).map(mirror).collect();
        let edges: Vec<_> = self.consensus.relays().iter().filter(|relay| relay.roles.edge).collect();
        let first = rand::rng().random_range(0..edges.len().max(1));
        let some = edges.iter().cycle().skip(first).take(OTHER_MIRRORS.min(edges.len()));
        Mirrors { before, after: some.map(|relay| mirror(relay)).collect() }
    }

    fn fetched(&mut self, result: Result<Documents, FetchError>) {
        self.fetching = false;
        match result {
            Ok((consensus, mix_keys)) => {
                let (held, known) = (&self.consensus, self.sockets.network.authorities());
                if verify_succession(&consensus, held, known) == Ok(Succession::Break) {
                    let (held, new) = (held.epoch().0, consensus.epoch().0);
                    self.warn(Warning::ChainBroken { held, new });
                }
                self.refused = None;
                self.consensus = Arc::new(consensus);
                self.take_documents(mix_keys);
            }
            Err(e) => {
                if let FetchError::TooSmall(wrong) | FetchError::Rules(wrong) = e
                    && self.refused.replace(wrong) != Some(wrong)
                {
                    self.warn(Warning::Refused(wrong));
                }
                if !matches!(e, FetchError::NothingNewer) {
                    warn!("the list of relays was not renewed: {e}");
                }
                let wait = FETCH_RETRY.saturating_mul(1 << self.fetch_failures.min(6)).min(MAX_FETCH_RETRY);
                self.fetch_failures = self.fetch_failures.saturating_add(1);
                self.fetch_at = Instant::now() + wait.mul_f64(rand::rng().random_range(0.5..1.5));
            }
        }
    }

    /// Hands documents to the session, and plans the next fetch at a random time of the next epoch.
    fn take_documents(&mut self, mix_keys: Vec<Arc<MixKeys>>) {
        self.fetch_failures = 0;
        let until_stale = self.consensus.fresh_until().since(self.clock.now().wall);
        let epoch = Duration::from_millis(self.consensus.params().epoch_ms());
        let later = epoch.mul_f64(rand::rng().random_range(0.1..0.6));
        self.fetch_at = Instant::now() + until_stale.min(epoch * 2) + later;
        self.mix_keys.clone_from(&mix_keys);
        self.handle(Event::Network { consensus: Arc::clone(&self.consensus), mix_keys });
    }
}
