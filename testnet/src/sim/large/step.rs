//! What happens, one event after the other.

use std::time::Duration;

use posta_node::relay::{Action, ClientLink, Event, Source};
use posta_protocol::now::Mono;
use posta_protocol::onion::build::{Hop, Last};
use posta_protocol::packet::Packet;

use super::client::{Heard, Use};
use super::lines::{exponential, uniform};
use super::node::sealing;
use super::view::View;
use super::{CLIENT, Crypto, DISK, Habit, Happening, LOOK_AFTER, LoopLook, Message, World, model};
use crate::adversary::{Deed, Seen};
use crate::sim::Broken;

/// Relays wait for one another when the network starts: clients begin after this.
const WARM_UP: Duration = Duration::from_millis(500);

impl World<'_> {
    pub(super) fn begin(&mut self) {
        let start = Mono(0) + WARM_UP;
        for c in 0..self.clients.len() as u32 {
            self.attach(c);
            let Some(client) = self.clients.get_mut(c as usize) else { continue };
            let slot = client.next_slot(start);
            let down = if self.options.habit == Habit::Steady { client.next_down(start) } else { None };
            let look = start + exponential(LOOK_AFTER, &mut client.rng);
            if let Some(at) = slot {
                self.at(at, Happening::Slot(c));
            }
            if let Some(at) = down {
                self.at(at, Happening::Down(c));
            }
            if self.options.habit == Habit::Fast {
                self.at(look, Happening::Look(c));
            }
            self.next_write(c, start);
        }
        for r in 0..self.nodes.len() as u32 {
            self.drain(r);
        }
        self.at(Mono(0) + self.options.epoch, Happening::Epoch);
        self.at(Mono(1_000_000), Happening::Sample);
        if let Some(active) = &self.options.active
            && active.deed.flood() > 0.0
        {
            self.at(Mono(0) + active.from, Happening::Flood);
        }
    }

    pub(super) fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        match happening {
            Happening::ToRelay(r, from, packet) => self.relay_packet(r, from, packet),
            Happening::RelayTimer(r) => {
                let now = self.now;
                let Some(node) = self.nodes.get_mut(r as usize) else { return Ok(()) };
                if node.timer.is_some_and(|at| at <= now.mono) {
                    node.timer = None;
                    node.handle(now, Event::Tick);
                    self.drain(r);
                }
            }
            Happening::Stored(r, event) => self.relay_event(r, *event),
            Happening::ToClient(c, packet) => self.client_packet(c, packet),
            Happening::Slot(c) => self.slot(c),
            Happening::Down(c) => self.down(c),
            Happening::Write(c) => self.write(c),
            Happening::Look(c) => {
                self.catch_up(c);
                let Some(client) = self.clients.get_mut(c as usize) else { return Ok(()) };
                let at = self.now.mono + exponential(LOOK_AFTER, &mut client.rng);
                self.at(at, Happening::Look(c));
            }
            Happening::Epoch => return self.epoch(),
            Happening::Sample => self.sample(),
            Happening::Flood => self.flood(),
        }
        Ok(())
    }

    // ---- lines ----

    /// A packet goes onto a line. With none it is a length of cover that nobody reads.
    fn send(&mut self, from: u32, to: u32, packet: Option<Packet>) {
        self.out.packets += 1;
        let at = self.now.mono;
        if self.options.watch.sees(from, to) {
            self.out.seen.push(Seen { at_us: at.0, from, to });
            // In `fast` what comes leaves at once; what is held are relays' loops.
            let held = match self.options.habit {
                Habit::Fast => 0,
                _ => self.nodes.get(from as usize).map_or(0, |node| node.core().delayed()),
            };
            self.out.held.push(held as u32);
        }
        let free = match from & CLIENT {
            0 => self.free.0.get_mut(from as usize),
            _ => self.free.1.get_mut((from & !CLIENT) as usize),
        };
        let (Some(free), length) = (free, self.view.geometry.packet_len()) else { return };
        let Some(mut arrives) = self.options.lines.arrival(at, free, (from, to), length, &mut self.rng) else { return };
        let Some(mut packet) = packet else { return };
        if let Some(active) = self.options.active.as_ref().filter(|active| active.works(at, to)) {
            match active.deed {
                Deed::Drop(share) if uniform(&mut self.rng) <= share => return,
                // What the adversary sends itself doesn't come this way.
                Deed::Isolate(_) => return,
                Deed::Delay(by) => arrives = arrives + by,
                Deed::Replay => {
                    let copy = packet.clone();
                    self.at(arrives + Duration::from_secs(1), Happening::ToRelay(to, from, copy));
                }
                Deed::Tag => match self.options.crypto {
                    Crypto::Model => model::garble(&mut packet),
                    Crypto::Real => {
                        if let Some(last) = packet.as_bytes_mut().last_mut() {
                            *last ^= 1;
                        }
                    }
                },
                Deed::Drop(_) | Deed::Flood(_) => {}
            }
        }
        let happening = if to & CLIENT == 0 {
            Happening::ToRelay(to, from, packet)
        } else {
            Happening::ToClient(to & !CLIENT, packet)
        };
        self.at(arrives, happening);
    }

    /// The adversary's own packets for the relay that it works on: dropped there, and one more held till then.
    fn flood(&mut self) {
        let Some(active) = self.options.active.clone() else { return };
        if !active.works(self.now.mono, active.target) {
            return;
        }
        let to = active.target;
        let before = if self.view.mix1.contains(&to) {
            self.view.edges.first()
        } else if self.view.mix2.contains(&to) {
            self.view.mix1.first()
        } else {
            self.view.mix2.first()
        };
        let after = if self.view.mix1.contains(&to) { self.view.mix2.first() } else { self.view.edges.first() };
        if let (Some(from), Some(after)) = (before.copied(), after.copied())
            && let Some(packet) = self.flood_packet(to, after)
        {
            let arrives = self.now.mono + Duration::from_millis(10);
            self.out.packets += 1;
            self.at(arrives, Happening::ToRelay(to, from, packet));
        }
        let wait = exponential(Duration::from_secs_f64(1.0 / active.deed.flood()), &mut self.rng);
        self.at(self.now.mono + wait, Happening::Flood);
    }

    fn flood_packet(&mut self, to: u32, after: u32) -> Option<Packet> {
        let held = exponential(self.options.hop_delay, &mut self.rng);
        let (id, key, delay) = self.view.hop(to, held)?;
        let (next, next_key, _) = self.view.hop(after, held)?;
        let path = [Hop { relay: id, key, delay }, Hop { relay: next, key: next_key, delay }];
        let (geometry, epoch) = (self.view.geometry, self.view.epoch);
        sealing(self.options.crypto).packet(geometry, epoch, &path, Last::Drop, &[], &mut self.rng).ok()
    }

    // ---- relays ----

    fn relay_packet(&mut self, r: u32, from: u32, packet: Packet) {
        let now = self.now;
        let source = match from & CLIENT {
            0 => match self.nodes.get(from as usize) {
                Some(node) => Source::Relay(node.id),
                None => return,
            },
            _ => Source::Client(ClientLink(u64::from(from & !CLIENT))),
        };
        let Some(node) = self.nodes.get_mut(r as usize) else { return };
        node.packet(now, source, packet);
        self.drain(r);
    }

    fn relay_event(&mut self, r: u32, event: Event) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(r as usize) else { return };
        node.handle(now, event);
        self.drain(r);
    }

    fn drain(&mut self, r: u32) {
        while let Some(action) = self.nodes.get_mut(r as usize).and_then(super::Node::poll) {
            match action {
                Action::Send { to, packet } => {
                    if let Some(to) = self.index.get(&to).copied() {
                        self.send(r, to, Some(packet));
                    }
                }
                Action::Deliver { link, packet } => self.towards_client(r, link, packet),
                Action::Attached { .. } => {}
                Action::Store { token, op } => {
                    let now = self.now;
                    let outcome = self.nodes.get_mut(r as usize).and_then(|node| node.apply(now, op));
                    if let Some(outcome) = outcome {
                        let event = Box::new(Event::Stored { token, outcome });
                        self.at(now.mono + DISK, Happening::Stored(r, event));
                    }
                }
            }
        }
        let Some(node) = self.nodes.get_mut(r as usize) else { return };
        if let Some(at) = node.timeout()
            && node.timer.is_none_or(|set| at < set)
        {
            node.timer = Some(at);
            self.at(at, Happening::RelayTimer(r));
        }
    }

    /// The entry hands it down: at once, or at a time of the client's profile.
    fn towards_client(&mut self, r: u32, link: ClientLink, packet: Packet) {
        let Ok(c) = u32::try_from(link.0) else { return };
        let Some(client) = self.clients.get_mut(c as usize) else { return };
        if !self.options.habit.waits() {
            return self.send(r, c | CLIENT, Some(packet));
        }
        client.down.push_back(packet);
        // In `steady` the entry's packets go on all the time.
        if self.options.habit == Habit::Mixed
            && client.down.len() == 1
            && let Some(at) = client.next_down(self.now.mono)
        {
            self.at(at, Happening::Down(c));
        }
    }

    fn down(&mut self, c: u32) {
        let now = self.now.mono;
        let Some(client) = self.clients.get_mut(c as usize) else { return };
        let packet = client.down.pop_front();
        let goes_on = self.options.habit == Habit::Steady || !client.down.is_empty();
        let next = if goes_on { client.next_down(now) } else { None };
        let entry = client.entry;
        self.send(entry, c | CLIENT, packet);
        if let Some(at) = next {
            self.at(at, Happening::Down(c));
        }
    }

    fn epoch(&mut self) -> Result<(), Broken> {
        let now = self.now;
        let documents = self.directory.documents(now.wall)?;
        for r in 0..self.nodes.len() as u32 {
            if let Some(node) = self.nodes.get_mut(r as usize) {
                node.documents(now, &self.directory, &documents)?;
            }
            self.drain(r);
        }
        let epoch = self.directory.key_epoch_at(now.wall);
        if epoch != self.view.epoch {
            let relays = self.directory.relays();
            self.view = View::new(&documents, relays, epoch).ok_or(Broken("a view"))?;
            self.out.key_epochs += 1;
            for c in 0..self.clients.len() as u32 {
                self.attach(c);
                if !self.options.habit.waits() {
                    self.catch_up(c);
                }
            }
        }
        self.at(now.mono + self.options.epoch, Happening::Epoch);
        Ok(())
    }

    fn sample(&mut self) {
        for (node, pool) in self.nodes.iter().zip(&mut self.pools) {
            let held = node.core().delayed() as f64;
            pool.looks += 1;
            pool.sum += held;
            pool.squares += held * held;
        }
        if let Some(active) = &self.options.active {
            let second = self.now.mono.0 / 1_000_000;
            let look = |r: u32| {
                let counted = self.nodes.get(r as usize)?.core().counters();
                Some(LoopLook { second, returned: counted.loops_returned, lost: counted.loops_lost })
            };
            let other = (active.target + 1) % (self.nodes.len().max(1) as u32);
            let looks = (look(active.target), look(other));
            self.out.loop_looks.0.extend(looks.0);
            self.out.loop_looks.1.extend(looks.1);
        }
        self.at(self.now.mono + Duration::from_secs(1), Happening::Sample);
    }

    // ---- clients ----

    /// A fresh inbox for this key epoch. Control frames take no time here.
    fn attach(&mut self, c: u32) {
        let Some(client) = self.clients.get_mut(c as usize) else { return };
        let (secret, entry) = (client.attach(self.view.epoch), client.entry);
        self.relay_event(entry, Event::Attach { link: ClientLink(u64::from(c)), secret });
    }

    fn slot(&mut self, c: u32) {
        let now = self.now.mono;
        let epoch = self.view.epoch;
        let Some(client) = self.clients.get_mut(c as usize) else { return };
        let what = client.work(now, epoch).unwrap_or(Use::Loop);
        let next = client.next_slot(now);
        self.emit(c, what);
        if let Some(at) = next {
            self.at(at, Happening::Slot(c));
        }
    }

    fn emit(&mut self, c: u32, what: Use) {
        let now = self.now;
        let Some(client) = self.clients.get_mut(c as usize) else { return };
        let entry = client.entry;
        let Some(packet) = client.packet(now, &self.view, sealing(self.options.crypto), what) else { return };
        self.out.client_packets += 1;
        match what {
            Use::Loop => self.out.client_loops += 1,
            Use::Message(message) => {
                if let Some(row) = self.out.messages.get_mut(message as usize) {
                    row.sent_us.get_or_insert(now.mono.0);
                }
            }
            Use::Subscribe => {}
        }
        if self.options.watch.anything() {
            self.out.emitted.push((now.mono.0, c));
        }
        self.send(c | CLIENT, entry, Some(packet));
    }

    /// Sends all that there is, at once.
    fn catch_up(&mut self, c: u32) {
        let (now, epoch) = (self.now.mono, self.view.epoch);
        for _ in 0..8 {
            let Some(what) = self.clients.get_mut(c as usize).and_then(|client| client.work(now, epoch)) else { break };
            self.emit(c, what);
        }
    }

    fn next_write(&mut self, c: u32, after: Mono) {
        let Some(client) = self.clients.get_mut(c as usize) else { return };
        // The application draws from a generator of its own, by the client's number: it is the same in every profile.
        if let Some(at) = self.options.traffic.next(c, after, &mut client.application) {
            self.at(at, Happening::Write(c));
        }
    }

    fn write(&mut self, c: u32) {
        let now = self.now.mono;
        let message = self.out.messages.len() as u64;
        let Some(client) = self.clients.get_mut(c as usize) else { return };
        if client.write(message) {
            let to = c ^ 1;
            self.out.messages.push(Message { from: c, to, written_us: now.0, sent_us: None, delivered_us: None });
            if !self.options.habit.waits() {
                self.catch_up(c);
            }
        }
        self.next_write(c, now);
    }

    fn client_packet(&mut self, c: u32, packet: Packet) {
        let now = self.now;
        let Some(client) = self.clients.get_mut(c as usize) else { return };
        match client.hear(now, &self.view, sealing(self.options.crypto), packet) {
            Heard::Message(message) => {
                if let Some(row) = self.out.messages.get_mut(message as usize) {
                    row.delivered_us.get_or_insert(now.mono.0);
                }
                if self.options.habit == Habit::Fast {
                    self.catch_up(c);
                }
            }
            Heard::Loop => self.out.client_loops_returned += 1,
            Heard::Stored | Heard::Nothing => {}
        }
    }
}
