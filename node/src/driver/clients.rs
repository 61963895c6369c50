//! Links from clients: anonymous, each under a number that lives as long as the link.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use posta_link::mirror::Mirrored;
use posta_link::{Audience, Connection, Endpoint, Link, LinkReceiver, LinkSender, Received};
use posta_protocol::document::Profile;
use posta_protocol::frame::Frame;
use posta_protocol::secret::Secret;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::clock::Clock;
use super::links::{Held, hello};
use super::pace::Pace;
use super::workers::Intake;
use crate::relay::{ClientLink, Source};

/// Events of clients that wait for the owner; then the clients wait.
pub(crate) const CLIENT_EVENTS: usize = 256;

/// What a client does besides sending packets.
pub(crate) enum ClientEvent {
    /// It has a link; what is for it goes there. A client that takes nothing can still send.
    Up(ClientLink, LinkSender),
    /// It wants an inbox.
    Attach(ClientLink, Secret<32>),
    /// It wants to be handed what comes for it as this profile does.
    Pace(ClientLink, Profile),
    /// Its link is closed.
    Gone(ClientLink),
}

/// What every task of a client's link needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) endpoint: Endpoint,
    pub(crate) consensus: Held,
    pub(crate) intake: Intake,
    pub(crate) events: mpsc::Sender<ClientEvent>,
    pub(crate) clock: Clock,
    pub(crate) packets_per_second: u32,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) mirrored: Mirrored,
}

/// Accepts clients until the endpoint closes or the relay stops.
pub(crate) async fn accept(shared: Shared) {
    let numbers = Arc::new(AtomicU64::new(0));
    let mut stopping = shared.stopping.clone();
    loop {
        let connection = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            connection = shared.endpoint.accept() => connection,
        };
        let Some(connection) = connection else { return };
        let link = ClientLink(numbers.fetch_add(1, Ordering::Relaxed));
        tokio::spawn(serve(shared.clone(), connection, link));
    }
}

async fn serve(shared: Shared, connection: Connection, number: ClientLink) {
    if connection.audience() == Audience::Directory {
        return shared.mirrored.serve(&connection).await;
    }
    let Some(consensus) = shared.consensus.borrow().clone() else { return };
    let link = match connection.open_link(hello(&consensus), consensus.geometry().packet_len()).await {
        Ok(link) => link,
        Err(e) => return debug!("a client's link was not opened: {e}"),
    };
    drop(consensus);
    let Link { sender, receiver, connection, .. } = link;
    if shared.events.send(ClientEvent::Up(number, sender)).await.is_err() {
        return;
    }
    let pace = Pace::client(shared.packets_per_second, &connection);
    // A task of its own: this one is as large as what opening a link takes, and a relay has many clients.
    tokio::spawn(live(shared, receiver, number, pace));
}

/// Reads for as long as the link lives.
async fn live(shared: Shared, receiver: LinkReceiver, number: ClientLink, pace: Pace) {
    read(&shared, receiver, number, &pace).await;
    // Fails when the owner is gone, at the end.
    let _ = Box::pin(shared.events.send(ClientEvent::Gone(number))).await;
}

async fn read(shared: &Shared, mut receiver: LinkReceiver, number: ClientLink, pace: &Pace) {
    let mut stopping = shared.stopping.clone();
    loop {
        let received = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            received = receiver.recv() => received,
        };
        let wait = pace.turn(shared.clock.now().mono);
        if !wait.is_zero() {
            Box::pin(tokio::time::sleep(wait)).await;
        }
        let taken = match received {
            None | Some(Received::Control(Frame::Goodbye)) => return,
            Some(Received::Packet(packet)) => shared.intake.packet(Source::Client(number), packet).await,
            Some(Received::Control(Frame::Attach(secret))) => {
                // What is rare is on the heap, so that the task of a client that does nothing stays small.
                Box::pin(shared.events.send(ClientEvent::Attach(number, secret))).await.is_ok()
            }
            Some(Received::Control(Frame::Pace(profile))) => {
                Box::pin(shared.events.send(ClientEvent::Pace(number, profile))).await.is_ok()
            }
            Some(Received::Control(_)) => true,
        };
        if !taken {
            return;
        }
    }
}
