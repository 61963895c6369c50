//! What happens, one event after the other.

use std::time::Duration;

use posta_client::session::event::{
    Action as ClientAction, ClientEvent, Event as ClientInput, JoinFailure, MessageState, Warning,
};
use posta_node::relay::{Action, ClientLink, Source};
use posta_protocol::frame::Delivery;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::RelayId;
use posta_protocol::now::Mono;

use super::directory::Documents;
use super::relay::Input;
use super::{Broken, Happening, Kill, Restore, World};
use crate::ledger::Side;

/// From asking the store to what it has written, and from there to the answer.
const DISK: Duration = Duration::from_micros(500);
/// Until a client notices that its entry is gone.
const NOTICE: Duration = Duration::from_secs(2);

impl Documents {
    pub(super) fn event(&self) -> ClientInput {
        ClientInput::Network { consensus: self.consensus.clone(), mix_keys: self.mix_keys.clone() }
    }
}

impl World<'_> {
    pub(super) fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        match happening {
            Happening::ToRelay(r, input) => self.relay_input(r, input),
            Happening::RelayTimer(r, life) => self.relay_timer(r, life),
            Happening::ToClient(side, event) => self.client_event(side, event),
            Happening::ClientTimer(side, number) => self.client_timer(side, number),
            Happening::Connected(side, entry) => self.link_up(side, entry),
            Happening::Kill(kill) => self.kill(kill),
            Happening::Restart(r) => return self.restart(r),
            Happening::Backup => return self.relays.iter().try_for_each(|relay| relay.back_up(self.now)),
            Happening::Restore(restore) => return self.restore(&restore),
            Happening::Epoch => return self.new_epoch(),
            Happening::Join(link) => self.join(&link),
            Happening::Send(number) => self.send(number),
        }
        Ok(())
    }

    // ---- relays ----

    fn relay_index(&self, id: &RelayId) -> Option<usize> {
        self.relays.binary_search_by_key(id, |r| r.id).ok()
    }

    fn relay_input(&mut self, r: usize, input: Input) {
        let now = self.now;
        let Some(relay) = self.relays.get_mut(r) else { return };
        let life = relay.life;
        if let Some(event) = relay.input(now, input) {
            self.after(DISK, Happening::ToRelay(r, Input::Stored(life, event)));
        }
        self.drain_relay(r);
    }

    fn relay_timer(&mut self, r: usize, life: u32) {
        let now = self.now;
        let Some(relay) = self.relays.get_mut(r) else { return };
        if relay.life == life && relay.timer.is_some_and(|at| at <= now.mono) {
            relay.timer = None;
            relay.tick(now);
            self.drain_relay(r);
        }
    }

    fn drain_relay(&mut self, r: usize) {
        let Some(relay) = self.relays.get_mut(r) else { return };
        let (id, life) = (relay.id, relay.life);
        for action in relay.actions() {
            self.relay_action(r, id, life, action);
        }
        let Some(relay) = self.relays.get_mut(r) else { return };
        let due = relay.timeout();
        if let Some(at) = due
            && relay.timer.is_none_or(|set| at < set)
        {
            relay.timer = Some(at);
            self.at(at, Happening::RelayTimer(r, life));
        }
    }

    fn relay_action(&mut self, r: usize, id: RelayId, life: u32, action: Action) {
        match action {
            Action::Send { to, packet } => {
                if let (Some(to), Some(delay)) = (self.relay_index(&to), self.link()) {
                    self.after(delay, Happening::ToRelay(to, Input::Packet(Source::Relay(id), packet)));
                }
            }
            Action::Deliver { link, packet } => {
                let Ok(delivery) = Delivery::from_packet(&packet, Geometry::DEFAULT) else { return };
                self.towards_client(link, ClientInput::Delivery(delivery));
            }
            Action::Attached { link, inbox } => self.towards_client(link, ClientInput::Attached { inbox }),
            Action::Store { token, op } => self.after(DISK, Happening::ToRelay(r, Input::Apply(life, token, op))),
        }
    }

    fn towards_client(&mut self, link: ClientLink, event: ClientInput) {
        let side = Side::BOTH
            .into_iter()
            .find(|s| self.clients.get(*s as usize).is_some_and(|c| c.links.values().any(|number| *number == link.0)));
        if let (Some(side), Some(delay)) = (side, self.link()) {
            self.after(delay, Happening::ToClient(side, event));
        }
    }

    fn kill(&mut self, kill: Kill) {
        let Kill { relay: r, restart_after, only_edges, .. } = kill;
        if let Some(authority) = r.checked_sub(self.relays.len()) {
            self.directory.kill(authority);
            return;
        }
        let Some(relay) = self.relays.get_mut(r) else { return };
        let id = relay.id;
        let restart_after = restart_after.filter(|_| relay.is_edge || !only_edges);
        relay.kill();
        for side in Side::BOTH {
            let Some(client) = self.clients.get_mut(side as usize) else { continue };
            if client.links.remove(&id).is_some() {
                self.after(NOTICE, Happening::ToClient(side, ClientInput::LinkDown { entry: id }));
            }
        }
        if let Some(delay) = restart_after {
            self.after(delay, Happening::Restart(r));
        }
    }

    fn restore(&mut self, restore: &Restore) -> Result<(), Broken> {
        for r in 0..self.relays.len() {
            if self.relays.get(r).is_some_and(|relay| relay.is_edge) {
                let away = Some(restore.away);
                self.kill(Kill { relay: r, at: restore.lost_at, restart_after: away, only_edges: true });
            }
            if let Some(relay) = self.relays.get_mut(r) {
                relay.restore(restore.silent)?;
            }
        }
        Ok(())
    }

    fn restart(&mut self, r: usize) -> Result<(), Broken> {
        let (now, documents) = (self.now, self.directory.documents(self.now.wall)?);
        if let Some(relay) = self.relays.get_mut(r) {
            relay.documents(now, &self.directory, &documents)?;
            relay.start(now, &documents);
            self.drain_relay(r);
        }
        Ok(())
    }

    fn new_epoch(&mut self) -> Result<(), Broken> {
        let (now, documents) = (self.now, self.directory.documents(self.now.wall)?);
        for r in 0..self.relays.len() {
            if let Some(relay) = self.relays.get_mut(r) {
                relay.documents(now, &self.directory, &documents)?;
                self.drain_relay(r);
            }
        }
        for side in Side::BOTH {
            self.after(Duration::from_millis(20), Happening::ToClient(side, documents.event()));
        }
        let next = self.directory.next_epoch(self.now.wall);
        self.at(self.mono_of(next), Happening::Epoch);
        Ok(())
    }

    // ---- clients ----

    fn join(&mut self, link: &str) {
        let now = self.now;
        if let Some(joiner) = self.clients.get_mut(Side::Joiner as usize) {
            joiner.join(now, link);
        }
        self.drain_client(Side::Joiner);
    }

    pub(super) fn client_event(&mut self, side: Side, event: ClientInput) {
        let now = self.now;
        let Some(client) = self.clients.get_mut(side as usize) else { return };
        client.handle(now, event);
        self.drain_client(side);
    }

    fn client_timer(&mut self, side: Side, number: u64) {
        let Some(client) = self.clients.get_mut(side as usize) else { return };
        if client.timer.0 == number {
            client.timer.1 = None;
            self.client_event(side, ClientInput::Tick);
        }
    }

    fn link_up(&mut self, side: Side, entry: RelayId) {
        let alive = self.relay_index(&entry).and_then(|r| self.relays.get(r)).is_some_and(super::RelayNode::is_alive);
        self.links += 1;
        let number = self.links;
        let Some(client) = self.clients.get_mut(side as usize) else { return };
        let wanted = client.dialling.iter().position(|d| *d == entry);
        let Some(wanted) = wanted else { return };
        client.dialling.swap_remove(wanted);
        if alive {
            client.links.insert(entry, number);
            self.client_event(side, ClientInput::LinkUp { entry });
        } else {
            self.client_event(side, ClientInput::LinkDown { entry });
        }
    }

    pub(super) fn drain_client(&mut self, side: Side) {
        while let Some(action) = self.clients.get_mut(side as usize).and_then(|c| c.session.poll()) {
            self.client_action(side, action);
        }
        let Some(client) = self.clients.get_mut(side as usize) else { return };
        let due = client.session.poll_timeout();
        if due != client.timer.1 {
            client.timer = (client.timer.0 + 1, due);
            let number = client.timer.0;
            if let Some(at) = due {
                self.at(at, Happening::ClientTimer(side, number));
            }
        }
    }

    fn client_action(&mut self, side: Side, action: ClientAction) {
        let Some(client) = self.clients.get_mut(side as usize) else { return };
        match action {
            ClientAction::Connect { entry } => {
                client.dialling.push(entry);
                let delay = self.link().unwrap_or(NOTICE);
                self.after(delay, Happening::Connected(side, entry));
            }
            ClientAction::Disconnect { entry } => {
                client.dialling.retain(|d| *d != entry);
                if let Some(number) = client.links.remove(&entry) {
                    self.towards_entry(&entry, Input::ClientGone(ClientLink(number)));
                }
            }
            ClientAction::Attach { entry, secret } => {
                if let Some(number) = client.links.get(&entry).copied() {
                    self.towards_entry(&entry, Input::Attach(ClientLink(number), secret));
                }
            }
            ClientAction::Pace { entry, profile } => {
                if let Some(number) = client.links.get(&entry).copied() {
                    self.towards_entry(&entry, Input::Pace(ClientLink(number), profile));
                }
            }
            ClientAction::Send { entry, packet, at } => {
                if let Some(number) = client.links.get(&entry).copied() {
                    let input = Input::Packet(Source::Client(ClientLink(number)), packet);
                    self.towards_entry_at(&entry, input, at.map_or(Duration::ZERO, |at| at.since(self.now.mono)));
                }
            }
            ClientAction::Emit { event, .. } => self.application(side, event),
            // These clients keep nothing.
            ClientAction::Save(_) => {}
            // Documents come by themselves at each epoch.
            ClientAction::FetchNetwork => {}
        }
    }

    fn towards_entry(&mut self, entry: &RelayId, input: Input) {
        self.towards_entry_at(entry, input, Duration::ZERO);
    }

    /// What leaves the client after `wait`.
    fn towards_entry_at(&mut self, entry: &RelayId, input: Input, wait: Duration) {
        // Control frames travel on a reliable stream; packets can be lost.
        let delay = if let Input::Packet(..) = input { self.link() } else { Some(self.options.latency.0) };
        if let (Some(r), Some(delay)) = (self.relay_index(entry), delay) {
            self.after(wait + delay, Happening::ToRelay(r, input));
        }
    }

    fn application(&mut self, side: Side, event: ClientEvent) {
        let now = self.now;
        match event {
            ClientEvent::Invitation { link, .. } => self.after(self.options.join_after, Happening::Join(link)),
            ClientEvent::Warning(Warning::QueueLost { .. }) => self.queues_lost += 1,
            ClientEvent::JoinFailed { reason, .. } => self.join_failed = Some(reason),
            ClientEvent::InviteFailed { reason, .. } => self.join_failed = Some(JoinFailure::NotAdmitted(reason)),
            ClientEvent::Connected { .. } => {
                self.connected += 1;
                if self.connected == 2 {
                    self.begin_sending();
                }
            }
            ClientEvent::Message { body, .. } => {
                let text = String::from_utf8_lossy(&body);
                self.ledger.received(side, &text, now.mono.since(Mono(0)));
            }
            ClientEvent::State { message, state, .. } => {
                if let MessageState::Stored { .. } = state {
                    self.ledger.stored(side, usize::try_from(message.0).unwrap_or_default());
                }
                if state == MessageState::Delivered {
                    self.told_delivered += 1;
                }
            }
            _ => {}
        }
    }
}
