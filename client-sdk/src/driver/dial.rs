//! One link to an entry: dialled, read, and written to at the times that the session names.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use posta_link::{LinkPublicKey, LinkSender, Received};
use posta_protocol::frame::{Frame, Hello};
use posta_protocol::ids::RelayId;
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::{Input, Sockets};
use crate::session::event::Profile;

/// What goes out over a link.
pub(super) enum Outgoing {
    /// At once, or at this time.
    Packet(Packet, Option<Instant>),
    Pace(Profile),
    Attach(Secret<32>),
}

/// One link, from dialling to its end.
pub(super) struct Dial {
    pub(super) entry: RelayId,
    pub(super) generation: u64,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) key: Option<LinkPublicKey>,
    pub(super) hello: Hello,
    pub(super) packet_len: usize,
    pub(super) sockets: Arc<Sockets>,
    pub(super) input: mpsc::Sender<Input>,
}

impl Dial {
    pub(super) async fn run(self, queue: mpsc::Receiver<Outgoing>) {
        let (entry, generation) = (self.entry, self.generation);
        if let Some(link) = self.open().await {
            let _ = self.input.send(Input::Up { entry, generation }).await;
            let mut receiver = link.receiver;
            let read = async {
                while let Some(received) = receiver.recv().await {
                    let input = match received {
                        Received::Packet(packet) => Input::Packet(packet),
                        Received::Control(Frame::Attached(inbox)) => Input::Attached(inbox),
                        Received::Control(_) => continue,
                    };
                    if self.input.send(input).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = read => {}
                () = write(&link.sender, queue) => {}
            }
        }
        let _ = self.input.send(Input::Down { entry, generation }).await;
    }

    async fn open(&self) -> Option<posta_link::Link> {
        let key = self.key?;
        for address in self.addresses.iter().filter(|a| a.is_ipv4() == self.sockets.ipv4) {
            let connected = self.sockets.entries.connect(*address, key).await;
            let opened = match connected {
                Ok(connection) => connection.open_link(self.hello, self.packet_len).await,
                Err(e) => Err(e),
            };
            match opened {
                Ok(link) => return Some(link),
                Err(e) => debug!("an entry can't be used: {e}"),
            }
        }
        None
    }
}

async fn write(sender: &LinkSender, mut queue: mpsc::Receiver<Outgoing>) {
    // Packets that wait for their slot, in order; bounded by how far ahead they are made.
    let mut slots: VecDeque<(Instant, Packet)> = VecDeque::new();
    loop {
        let due = slots.front().map(|(at, _)| *at);
        let outgoing = tokio::select! {
            biased;
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                slots.pop_front().map(|(_, packet)| Outgoing::Packet(packet, None))
            }
            outgoing = queue.recv() => outgoing,
        };
        let closed = match outgoing {
            None => return,
            Some(Outgoing::Packet(packet, Some(at))) => {
                slots.push_back((at, packet));
                false
            }
            Some(Outgoing::Packet(packet, None)) => sender.send(packet).await.is_err(),
            Some(Outgoing::Attach(secret)) => sender.try_control(Frame::Attach(secret)).is_err(),
            Some(Outgoing::Pace(profile)) => sender.try_control(Frame::Pace(profile)).is_err(),
        };
        if closed {
            return;
        }
    }
}
