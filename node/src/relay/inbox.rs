//! Clients' inboxes at their entry: a hash, a bounded buffer, and nothing else; gone with the key epoch.

use std::collections::{HashMap, VecDeque};

use posta_protocol::crypto::{self, context};
use posta_protocol::ids::{InboxId, KeyEpoch};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;

use super::ClientLink;

/// Inboxes that a relay holds; more are refused.
pub const MAX_INBOXES: usize = 65_536;
/// Inboxes that one link can hold, one for each key epoch that a client can be in; more are refused.
pub const MAX_INBOXES_PER_LINK: usize = 4;
/// Packets that wait for a client that isn't there, about 1.3 MB; then the oldest is dropped.
pub const MAX_INBOX_BUFFER: usize = 64;
/// Packets that wait in all inboxes, about 340 MB; then the arriving inbox gives up its oldest, or the packet is dropped.
pub const MAX_BUFFERED: usize = 16_384;

/// How much the inboxes may hold.
#[derive(Clone, Copy, Debug)]
pub struct InboxBounds {
    /// See [`MAX_INBOXES`].
    pub inboxes: usize,
    /// See [`MAX_INBOXES_PER_LINK`].
    pub per_link: usize,
    /// See [`MAX_INBOX_BUFFER`].
    pub buffer: usize,
    /// See [`MAX_BUFFERED`].
    pub buffered: usize,
}

impl Default for InboxBounds {
    fn default() -> Self {
        Self { inboxes: MAX_INBOXES, per_link: MAX_INBOXES_PER_LINK, buffer: MAX_INBOX_BUFFER, buffered: MAX_BUFFERED }
    }
}

#[derive(Debug)]
struct Inbox {
    /// The last key epoch in which it was attached.
    epoch: KeyEpoch,
    link: Option<ClientLink>,
    buffer: VecDeque<Packet>,
}

/// What becomes of a packet for an inbox.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Hand it to this link.
    Deliver(ClientLink, Packet),
    /// Kept; this many older packets were dropped for it.
    Kept(u64),
    /// There is no such inbox.
    Unknown,
    /// There is no room at all.
    Full,
}

/// All inboxes of a relay.
#[derive(Debug)]
pub(crate) struct Inboxes {
    bounds: InboxBounds,
    inboxes: HashMap<InboxId, Inbox>,
    links: HashMap<ClientLink, Vec<InboxId>>,
    buffered: usize,
}

impl Inboxes {
    pub(crate) fn new(bounds: InboxBounds) -> Self {
        Self { bounds, inboxes: HashMap::new(), links: HashMap::new(), buffered: 0 }
    }

    /// Takes other bounds over, for what comes from now on: inboxes beyond them stay until their key epoch ends, and one
    /// that buffers gives up its oldest packet for each new one.
    pub(crate) const fn bound(&mut self, bounds: InboxBounds) {
        self.bounds = bounds;
    }

    /// Attaches the inbox of `secret` to `link`: its id and what it buffered, or `None` if there are too many.
    pub(crate) fn attach(
        &mut self,
        link: ClientLink,
        secret: &Secret<32>,
        epoch: KeyEpoch,
    ) -> Option<(InboxId, VecDeque<Packet>)> {
        let id = InboxId(crypto::hash(context::INBOX, secret.expose()).0);
        let held = self.links.get(&link).map_or(0, Vec::len);
        let mine = self.links.get(&link).is_some_and(|ids| ids.contains(&id));
        if !mine && held >= self.bounds.per_link {
            return None;
        }
        if !self.inboxes.contains_key(&id) && self.inboxes.len() >= self.bounds.inboxes {
            return None;
        }
        let inbox = self.inboxes.entry(id).or_insert_with(|| Inbox { epoch, link: None, buffer: VecDeque::new() });
        inbox.epoch = epoch;
        let before = inbox.link.replace(link);
        let waiting = std::mem::take(&mut inbox.buffer);
        self.buffered -= waiting.len();
        if let Some(before) = before.filter(|before| *before != link) {
            self.unlink(before, &id);
        }
        if !mine {
            self.links.entry(link).or_default().push(id);
        }
        Some((id, waiting))
    }

    /// A packet for an inbox.
    pub(crate) fn arrive(&mut self, id: &InboxId, packet: Packet) -> Arrival {
        let Some(inbox) = self.inboxes.get_mut(id) else { return Arrival::Unknown };
        if let Some(link) = inbox.link {
            return Arrival::Deliver(link, packet);
        }
        let mut dropped = 0;
        if inbox.buffer.len() >= self.bounds.buffer || self.buffered >= self.bounds.buffered {
            if inbox.buffer.pop_front().is_none() {
                return Arrival::Full;
            }
            self.buffered -= 1;
            dropped = 1;
        }
        inbox.buffer.push_back(packet);
        self.buffered += 1;
        Arrival::Kept(dropped)
    }

    /// The link is gone; its inboxes stay, and buffer.
    pub(crate) fn gone(&mut self, link: ClientLink) {
        for id in self.links.remove(&link).unwrap_or_default() {
            if let Some(inbox) = self.inboxes.get_mut(&id)
                && inbox.link == Some(link)
            {
                inbox.link = None;
            }
        }
    }

    /// Forgets the inboxes whose key epoch is over.
    pub(crate) fn purge(&mut self, alive: impl Fn(KeyEpoch) -> bool) {
        let over: Vec<_> = self.inboxes.iter().filter(|(_, i)| !alive(i.epoch)).map(|(id, i)| (*id, i.link)).collect();
        for (id, link) in over {
            if let Some(inbox) = self.inboxes.remove(&id) {
                self.buffered -= inbox.buffer.len();
            }
            if let Some(link) = link {
                self.unlink(link, &id);
            }
        }
    }

    fn unlink(&mut self, link: ClientLink, id: &InboxId) {
        if let Some(ids) = self.links.get_mut(&link) {
            ids.retain(|held| held != id);
            if ids.is_empty() {
                self.links.remove(&link);
            }
        }
    }

    /// Inboxes, links that have some, and packets in them.
    pub(crate) fn len(&self) -> (usize, usize, usize) {
        (self.inboxes.len(), self.links.len(), self.buffered)
    }
}

#[cfg(test)]
mod tests {
    use posta_protocol::geometry::Geometry;

    use super::*;

    fn secret(n: u8) -> Secret<32> {
        Secret::new([n; 32])
    }

    fn packet() -> Packet {
        Packet::zeroed(Geometry::DEFAULT)
    }

    const BOUNDS: InboxBounds = InboxBounds { inboxes: 3, per_link: 2, buffer: 2, buffered: 3 };

    #[test]
    fn what_a_client_misses_is_kept_up_to_a_bound() {
        let mut all = Inboxes::new(BOUNDS);
        let (id, waiting) = all.attach(ClientLink(1), &secret(1), KeyEpoch(5)).unwrap();
        assert!(waiting.is_empty());
        assert!(matches!(all.arrive(&id, packet()), Arrival::Deliver(ClientLink(1), _)));
        all.gone(ClientLink(1));
        assert!(matches!(all.arrive(&id, packet()), Arrival::Kept(0)));
        assert!(matches!(all.arrive(&id, packet()), Arrival::Kept(0)));
        assert!(matches!(all.arrive(&id, packet()), Arrival::Kept(1)), "the oldest goes");
        let (again, waiting) = all.attach(ClientLink(2), &secret(1), KeyEpoch(5)).unwrap();
        assert_eq!((again, waiting.len()), (id, 2));
        assert_eq!(all.len(), (1, 1, 0));
        assert!(matches!(all.arrive(&InboxId([0; 32]), packet()), Arrival::Unknown));
    }

    #[test]
    fn every_table_has_its_bound() {
        let mut all = Inboxes::new(BOUNDS);
        let a = all.attach(ClientLink(1), &secret(1), KeyEpoch(5)).unwrap().0;
        let b = all.attach(ClientLink(1), &secret(2), KeyEpoch(5)).unwrap().0;
        assert!(all.attach(ClientLink(1), &secret(3), KeyEpoch(5)).is_none(), "per link");
        let c = all.attach(ClientLink(2), &secret(3), KeyEpoch(6)).unwrap().0;
        assert!(all.attach(ClientLink(3), &secret(4), KeyEpoch(5)).is_none(), "in all");
        all.gone(ClientLink(1));
        all.gone(ClientLink(2));
        for id in [&a, &a, &b] {
            assert!(matches!(all.arrive(id, packet()), Arrival::Kept(0)));
        }
        assert!(matches!(all.arrive(&b, packet()), Arrival::Kept(1)));
        assert!(matches!(all.arrive(&c, packet()), Arrival::Full), "nothing of its own to give up");
        all.purge(|epoch| epoch >= KeyEpoch(6));
        assert_eq!(all.len(), (1, 0, 0));
    }

    #[test]
    fn a_newer_link_takes_over() {
        let mut all = Inboxes::new(BOUNDS);
        let id = all.attach(ClientLink(1), &secret(1), KeyEpoch(5)).unwrap().0;
        all.attach(ClientLink(2), &secret(1), KeyEpoch(5)).unwrap();
        all.gone(ClientLink(1));
        assert!(matches!(all.arrive(&id, packet()), Arrival::Deliver(ClientLink(2), _)));
    }
}
