//! A contact: an invitation given or followed, then a queue list in each direction.

mod renewal;
mod saved;

use std::time::Duration;

use posta_protocol::answer::Body;
use posta_protocol::command::{Command, WriterCapability};
use posta_protocol::end_to_end::QueueAddress;
use posta_protocol::ids::{RelayId, SurbId};
use posta_protocol::invitation::{Link, Offer};
use posta_protocol::now::{Mono, Now};
pub use posta_protocol::params::INVITATION_HOURS;
use posta_protocol::registry::answer as code;
use posta_protocol::secret::Secret;
use zeroize::Zeroizing;

use super::core::{Core, earlier};
use super::event::{ClientEvent, ContactId, ContactInfo, ContactState, JoinFailure, MessageId, NotAdmitted, SendError};
use super::history::{History, Said as Line};
use super::incoming::{Incoming, Said};
use super::outgoing::{Outgoing, Progress};
use super::renewal::Renewal;
use super::request::{Purpose, RequestId, Task};
use crate::end_to_end::{Conversation, VerificationCode};

use self::renewal::Renewing;
pub(crate) use self::saved::MAX_NAME;
/// How long a client tries to reach either relay of a link.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// Unanswered attempts to leave an invitation at a relay, after which it is left at another.
const MOVE_AFTER: u32 = 2;

/// The invitation's copy at one relay.
struct Blob {
    relay: RelayId,
    put: WriterCapability,
    request: Option<RequestId>,
    stored: bool,
}

struct Inviting {
    offer: Option<Offer>,
    blobs: Vec<Blob>,
    emitted: bool,
}

struct Joining {
    link: Link,
    /// The key that a one-time invitation is locked to: the same at both relays.
    reader: Secret<32>,
    /// The relays that the link may mean, with what each refused it for.
    asked: Vec<(RelayId, Option<RequestId>, Option<JoinFailure>)>,
    opened: bool,
    /// What the inviter joins the conversation by, until it is sent.
    welcome: Option<Vec<u8>>,
    until: Mono,
}

enum Stage {
    Inviting(Inviting),
    Joining(Box<Joining>),
    Connected,
    /// Connected, but that the conversation begins anew.
    Renewing(Renewing),
    Failed,
}

/// One contact.
pub(crate) struct Contact {
    id: ContactId,
    /// What the user calls it.
    pub(crate) name: String,
    stage: Stage,
    conversation: Conversation,
    incoming: Incoming,
    outgoing: Outgoing,
    renewal: Renewal,
    history: History,
    /// Seconds after which messages to it are forgotten at both ends, once they are delivered; 0 for not at all.
    fleeting: u32,
}

impl Contact {
    /// A contact that will follow an invitation of ours.
    pub(crate) fn invite(id: ContactId, core: &Core, conversation: Conversation) -> Self {
        let stage = Stage::Inviting(Inviting { offer: None, blobs: Vec::new(), emitted: false });
        Self::new(id, core, stage, conversation, Incoming::new(id))
    }

    fn new(id: ContactId, core: &Core, stage: Stage, conversation: Conversation, incoming: Incoming) -> Self {
        let (outgoing, history) = (Outgoing::new(id), History::new(core.options.history));
        let (name, renewal) = (String::new(), Renewal::default());
        Self { id, name, stage, conversation, incoming, outgoing, renewal, history, fleeting: 0 }
    }

    /// Messages from now on are forgotten after so many seconds, 0 for not at all.
    pub(crate) const fn disappear(&mut self, after: u32) {
        self.fleeting = after;
    }

    /// What was said, as far as it is kept.
    pub(crate) fn said(&self) -> Vec<Line> {
        self.history.list()
    }

    pub(crate) fn clear_history(&mut self) {
        self.history.clear();
    }

    /// A contact whose invitation we follow; `relays` are those that its link may mean.
    pub(crate) fn join(
        id: ContactId,
        core: &mut Core,
        now: Now,
        conversation: Conversation,
        (link, relays): (Link, Vec<RelayId>),
    ) -> Self {
        // One key for both relays: a one-time invitation is then ours at both.
        let reader = Secret::random(&mut core.rng);
        let asked = relays.into_iter().map(|relay| (relay, None, None)).collect();
        let until = now.mono + core.requests.tempo.join_patience;
        let mut joining = Joining { link, reader, asked, opened: false, welcome: None, until };
        joining.ask(core, now, id);
        let mut incoming = Incoming::new(id);
        // The inviter knows where to write from us; nothing of the kind comes from it.
        incoming.introduced = true;
        Self::new(id, core, Stage::Joining(Box::new(joining)), conversation, incoming)
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self.stage, Stage::Failed)
    }

    pub(crate) fn info(&self) -> ContactInfo {
        let state = match self.stage {
            Stage::Inviting(_) => ContactState::Invited,
            Stage::Joining(_) => ContactState::Joining,
            Stage::Connected => ContactState::Connected,
            Stage::Renewing(_) => ContactState::Renewing,
            Stage::Failed => ContactState::Failed,
        };
        let (sent, delivered) = self.outgoing.counts();
        let (name, received) = (self.name.clone(), self.incoming.delivered);
        let disappears = (self.fleeting > 0).then(|| Duration::from_secs(self.fleeting.into()));
        ContactInfo { id: self.id, name, state, sent, delivered, received, code: self.code(), disappears }
    }

    pub(crate) fn send(&mut self, core: &mut Core, now: Now, body: Vec<u8>) -> Result<MessageId, SendError> {
        match self.stage {
            Stage::Connected => {
                let body = (self.fleeting, body);
                self.outgoing.send(core, now, &mut self.conversation, &mut self.history, body)
            }
            Stage::Renewing(_) => Err(SendError::Renewing),
            _ => Err(SendError::NotConnected),
        }
    }

    pub(crate) fn reads_at(&self) -> Vec<RelayId> {
        self.incoming.relays()
    }

    /// What both people can compare, once both have joined.
    pub(crate) fn code(&self) -> Option<VerificationCode> {
        self.conversation.code()
    }

    pub(crate) const fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// The conversation's state, if it has changed since this was last asked.
    pub(crate) fn changed_conversation(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        self.conversation.take_changed().then(|| self.conversation.save())
    }

    /// Does what is due.
    pub(crate) fn step(&mut self, core: &mut Core, now: Now) {
        if matches!(self.stage, Stage::Failed) {
            return;
        }
        for (ours, number) in self.history.expire(now.wall) {
            core.emit(ClientEvent::Disappeared { contact: self.id, ours, number });
        }
        self.mend(core, now);
        self.set_up(core, now);
        if self.is_imported() || self.is_failed() {
            return;
        }
        if let Some(reason) = self.incoming.shut() {
            return self.not_admitted(core, reason);
        }
        let receipt = self.incoming.step(core, now);
        // A turn carries the newest receipt.
        if !self.outgoing.turn(core, now, &mut self.conversation, &mut self.renewal, self.incoming.delivered)
            && let Some(up_to) = receipt
        {
            self.outgoing.acknowledge(core, now, &mut self.conversation, up_to);
        }
        self.incoming.watch_early(now, &mut self.conversation);
        if matches!(self.stage, Stage::Connected)
            && let Some(list) = self.incoming.replace(core, now, &self.outgoing.relays())
        {
            self.outgoing.announce(core, now, &mut self.conversation, list);
        }
        self.outgoing.release(core, now);
        self.outgoing.expire(core, now);
        self.outgoing.look_for_missing(core, now);
    }

    /// Carries invitations on.
    fn set_up(&mut self, core: &mut Core, now: Now) {
        if let Stage::Renewing(Renewing { begun: false, imported }) = self.stage {
            return self.begin_anew(core, now, imported);
        }
        match &mut self.stage {
            Stage::Inviting(inviting) => {
                self.incoming.create(core, now, &[]);
                if inviting.offer.is_none()
                    && let Some(addresses) = self.incoming.addresses()
                {
                    // It can't fail but for want of memory or randomness; then it is tried again.
                    let Ok(key_package) = self.conversation.key_package() else { return };
                    inviting.offer = Some(Offer::new(addresses, key_package, &mut core.rng));
                    inviting.put_blobs(core, now, self.id, &self.incoming.relays());
                }
            }
            Stage::Joining(joining) if joining.opened => {
                self.incoming.create(core, now, &self.outgoing.relays());
                if let Some(addresses) = self.incoming.addresses()
                    && let Some(welcome) = joining.welcome.take()
                {
                    self.outgoing.introduce(core, now, &mut self.conversation, (welcome, addresses));
                }
            }
            Stage::Joining(joining) if now.mono >= joining.until => {
                // What one relay said counts if the other says nothing.
                let said = joining.asked.iter().find_map(|(_, _, refusal)| *refusal);
                self.fail(core, said.unwrap_or(JoinFailure::Unreachable));
            }
            _ => {}
        }
    }

    fn fail(&mut self, core: &mut Core, reason: JoinFailure) {
        if let Stage::Joining(joining) = &mut self.stage {
            joining.asked.iter_mut().filter_map(|(_, r, _)| r.take()).for_each(|id| core.requests.cancel(id));
            self.outgoing.abandon(core);
            self.stage = Stage::Failed;
            core.emit(ClientEvent::JoinFailed { contact: self.id, reason });
        }
    }

    /// There is no relay for our queues. Those that were made end unused.
    fn not_admitted(&mut self, core: &mut Core, reason: NotAdmitted) {
        self.incoming.abandon(core);
        match self.stage {
            Stage::Joining(_) => self.fail(core, JoinFailure::NotAdmitted(reason)),
            Stage::Inviting(_) => {
                self.stage = Stage::Failed;
                core.emit(ClientEvent::InviteFailed { contact: self.id, reason });
            }
            Stage::Connected | Stage::Renewing(_) | Stage::Failed => {}
        }
    }

    /// A relay answered.
    pub(crate) fn answered(&mut self, core: &mut Core, now: Now, task: Task, body: Body, surb: SurbId) {
        let mut progress = Progress::Nothing;
        let conversation = &mut self.conversation;
        match task {
            Task::Create(i) => self.incoming.created(core, now, i, &body),
            Task::Fetch(i) => self.incoming.fetched(core, now, conversation, i, body),
            Task::Hole(i, sequence) => self.incoming.hole_fetched(core, now, conversation, (i, sequence), body),
            Task::Push(i) => self.incoming.pushed(core, now, conversation, (i, surb), body),
            Task::Ack(i) => self.incoming.acked(i),
            Task::Secure(i) => progress = self.outgoing.secured(core, now, i, &body),
            Task::Send(i, sequence) => progress = self.outgoing.sent(core, now, i, sequence, &body),
            Task::BlobPut(i) => self.blob_put(core, now, i, &body),
            Task::BlobGet(i) => self.blob_got(core, now, i, body),
            Task::BlobDelete => {}
        }
        for (number, after, body) in self.incoming.take_handed() {
            self.history.handed_on(number, now.wall, after, body);
        }
        for said in self.incoming.take_said() {
            match said {
                Said::Receipt(up_to) => self.receipt(core, now, up_to),
                Said::Queues(list) => self.joined(core, now, list),
                Said::KeyPackage { up_to, from, key_package } => {
                    if matches!(self.stage, Stage::Renewing(_)) {
                        self.renewal.forget();
                        self.renewed(core, now, (up_to, from));
                    } else {
                        self.receipt(core, now, up_to);
                    }
                    self.renewal.hold(key_package);
                }
                Said::Welcome(place, inner) => self.welcomed(core, now, place, &inner),
                Said::Moved(generation, list) => self.moved(core, now, generation, list),
            }
        }
        if matches!(self.stage, Stage::Joining(_)) {
            match progress {
                Progress::Introduced => {
                    self.stage = Stage::Connected;
                    core.emit(ClientEvent::Connected { contact: self.id });
                }
                Progress::Taken => self.fail(core, JoinFailure::Used),
                Progress::Nothing => {}
            }
        }
    }

    fn receipt(&mut self, core: &mut Core, now: Now, up_to: u64) {
        // One that begins anew doesn't know its own numbers until the contact has said them.
        if !matches!(self.stage, Stage::Renewing(_)) {
            self.outgoing.receipt(core, now, &mut self.conversation, &mut self.history, up_to);
        }
    }

    /// An attempt was not answered in time.
    pub(crate) fn timed_out(&mut self, core: &mut Core, now: Now, task: Task, attempts: u32) {
        match task {
            Task::Create(i) => self.incoming.create_timed_out(core, now, i, attempts),
            Task::Fetch(i) => self.incoming.fetch_timed_out(core, now, i),
            Task::BlobPut(i) if attempts >= MOVE_AFTER => self.move_blob(core, now, i),
            _ => {}
        }
    }

    /// A relay's store is another than before: what was there may be gone, and what was erased is there again.
    pub(crate) fn restored(&mut self, core: &mut Core, now: Now, relay: RelayId) {
        self.incoming.restored(now, relay);
        self.outgoing.restored(core, now, relay);
        if let Stage::Inviting(inviting) = &mut self.stage {
            for index in 0..inviting.blobs.len() {
                let blob = inviting.blobs.get_mut(index).filter(|b| b.relay == relay && b.request.is_none());
                if let Some(blob) = blob {
                    blob.stored = false;
                    inviting.put_blob(core, now, self.id, index);
                }
            }
        }
    }

    /// The contact reads elsewhere from now on.
    fn moved(&mut self, core: &mut Core, now: Now, generation: u64, list: Vec<QueueAddress>) {
        let moves = &mut self.incoming.moves;
        if moves.knows(generation) {
            // It hasn't heard of us by all of them.
            return self.outgoing.show(core, now);
        }
        let fresh = self.outgoing.fresh(&list);
        if let Some(founded) = self.conversation.founded()
            && moves.accept(now, generation, fresh)
        {
            self.outgoing.moved(core, now, founded, list);
        }
    }

    /// The one who followed our invitation says where to write.
    fn joined(&mut self, core: &mut Core, now: Now, addresses: Vec<QueueAddress>) {
        let (Stage::Inviting(inviting), Some(founded)) = (&mut self.stage, self.conversation.founded()) else { return };
        self.outgoing.open(core, now, founded, addresses);
        for blob in &mut inviting.blobs {
            if let Some(id) = blob.request.take() {
                core.requests.cancel(id);
            }
            let command = Command::BlobDelete { put: blob.put.duplicate() };
            core.request(now, blob.relay, command, Purpose::Contact(self.id, Task::BlobDelete));
        }
        self.stage = Stage::Connected;
        core.emit(ClientEvent::Connected { contact: self.id });
    }

    fn blob_put(&mut self, core: &mut Core, now: Now, index: usize, body: &Body) {
        if *body != Body::Ok {
            return self.move_blob(core, now, index);
        }
        let Stage::Inviting(inviting) = &mut self.stage else { return };
        if let Some(blob) = inviting.blobs.get_mut(index) {
            (blob.stored, blob.request) = (true, None);
        }
        inviting.emit_if_stored(core, self.id);
    }

    /// Leaves the invitation at another relay.
    fn move_blob(&mut self, core: &mut Core, now: Now, index: usize) {
        // A link that was given away names its relays.
        let Stage::Inviting(inviting) = &mut self.stage else { return };
        if inviting.emitted {
            return;
        }
        let taken: Vec<RelayId> = inviting.blobs.iter().map(|b| b.relay).collect();
        let Some(relay) = core.choose_edge(now, &taken) else { return };
        let Some(blob) = inviting.blobs.get_mut(index).filter(|b| !b.stored) else { return };
        if let Some(id) = blob.request.take() {
            core.requests.cancel(id);
        }
        blob.relay = relay;
        blob.put = WriterCapability::random(&mut core.rng);
        inviting.put_blob(core, now, self.id, index);
    }

    fn blob_got(&mut self, core: &mut Core, now: Now, index: usize, body: Body) {
        let Stage::Joining(joining) = &mut self.stage else { return };
        let Some(asked) = joining.asked.get_mut(index) else { return };
        asked.1 = None;
        let opened = match body {
            Body::Blob(blob) => joining.link.open(&blob).map_err(|_| JoinFailure::Garbled),
            Body::Refused(code::EXPIRED) => Err(JoinFailure::Expired),
            Body::Refused(code::TAKEN | code::GONE) => Err(JoinFailure::Used),
            _ => Err(JoinFailure::Unknown),
        };
        match opened {
            Ok(offer) if !self.outgoing.is_known() => match self.conversation.found(&offer.key_package) {
                Ok(welcome) => {
                    (joining.opened, joining.welcome) = (true, Some(welcome));
                    if let Some(founded) = self.conversation.founded() {
                        self.outgoing.open(core, now, founded, offer.queues);
                    }
                }
                // The other relay's copy has the same in it.
                Err(_) => self.fail(core, JoinFailure::Keys),
            },
            Ok(_) => {}
            Err(reason) => {
                asked.2 = Some(reason);
                let all = joining.asked.iter().all(|(_, _, refusal)| refusal.is_some());
                if all && !joining.opened {
                    self.fail(core, reason);
                }
            }
        }
    }

    /// When something is due next.
    pub(crate) fn next_due(&self, now: Now, reading: bool, covered: bool) -> Option<Mono> {
        let due = match &self.stage {
            Stage::Failed | Stage::Renewing(Renewing { begun: false, .. }) => return None,
            Stage::Joining(joining) if !joining.opened => Some(joining.until),
            _ => None,
        };
        let due = earlier(due, self.history.next_expiry().map(|at| now.mono + at.since(now.wall)));
        let due = earlier(due, self.mend_due());
        earlier(due, earlier(self.incoming.next_due(reading, covered), self.outgoing.next_due(now, &self.conversation)))
    }
}

impl Inviting {
    /// Leaves the invitation at two relays; the queues' own will do.
    fn put_blobs(&mut self, core: &mut Core, now: Now, contact: ContactId, relays: &[RelayId]) {
        for relay in relays.iter().take(2) {
            let put = WriterCapability::random(&mut core.rng);
            self.blobs.push(Blob { relay: *relay, put, request: None, stored: false });
            self.put_blob(core, now, contact, self.blobs.len() - 1);
        }
    }

    fn link(&self) -> Option<Link> {
        let [a, b] = self.blobs.as_slice() else { return None };
        Some(self.offer.as_ref()?.link([a.relay, b.relay]))
    }

    fn put_blob(&mut self, core: &mut Core, now: Now, contact: ContactId, index: usize) {
        let Some(offer) = &self.offer else { return };
        let Some(blob) = self.blobs.get_mut(index) else { return };
        // The blob depends on the link's secret only, not on where it is kept.
        let link = offer.link([blob.relay, blob.relay]);
        let Ok(body) = offer.seal(&link, &mut core.rng) else { return };
        let command = Command::BlobPut {
            put: blob.put.duplicate(),
            get: link.capability().id(),
            one_time: true,
            hours: INVITATION_HOURS,
            body,
        };
        blob.request = Some(core.request(now, blob.relay, command, Purpose::Contact(contact, Task::BlobPut(index))));
    }

    fn emit_if_stored(&mut self, core: &mut Core, contact: ContactId) {
        if self.blobs.iter().all(|b| b.stored)
            && !self.emitted
            && let Some(link) = self.link()
        {
            self.emitted = true;
            core.emit(ClientEvent::Invitation { contact, link: link.to_text() });
        }
    }
}
