//! The listening side: handshakes run side by side, in bounded number.

use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ServerConfig, Side};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::debug;

use crate::connection::Connection;
use crate::endpoint::HANDSHAKE_TIMEOUT;
use crate::error::LinkError;
use crate::transport::Audience;

/// Handshakes under way at once, the finished ones that nobody has taken yet included; more are refused.
pub(crate) const HANDSHAKES_AT_ONCE: usize = 256;
/// With fewer places than this left, a peer must first show that its address is its own (QUIC's retry).
const PLACES_WITHOUT_RETRY: usize = HANDSHAKES_AT_ONCE / 2;
/// Finished connections that wait for `accept`; when full, their handshakes keep their places.
pub(crate) const ACCEPTED_WAITING: usize = 64;
/// First packets that wait to be looked at; more are refused.
const MAX_INCOMING: usize = 1_024;
/// Bytes kept for each of them, and for all together: nothing is sent before the handshake, so little is needed.
const INCOMING_BUFFER: u64 = 16 * 1024;
const INCOMING_BUFFER_TOTAL: u64 = 4 * 1024 * 1024;

/// QUIC's settings for the listening side.
pub(crate) fn server_config(tls: QuicServerConfig, audience: Audience) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(audience.transport(Side::Server)))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
    config
}

/// Accepts until the endpoint is closed.
pub(crate) async fn run(quic: quinn::Endpoint, audience: Audience, finished: mpsc::Sender<Connection>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    while let Some(incoming) = quic.accept().await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug!("too many handshakes at once: one refused");
            incoming.refuse();
            continue;
        };
        if quic.open_connections() >= audience.max_connections() {
            debug!("too many connections: one refused");
            incoming.refuse();
            continue;
        }
        if places.available_permits() < PLACES_WITHOUT_RETRY && !incoming.remote_address_validated() {
            // The peer comes back with a token. Fails only for a validated address, which this is not.
            let _ = incoming.retry();
            continue;
        }
        let finished = finished.clone();
        tokio::spawn(async move {
            match handshake(incoming, audience).await {
                Ok(connection) => {
                    // Fails when the endpoint is gone; the connection then closes as it is dropped.
                    let _ = finished.send(connection).await;
                }
                Err(e) => debug!("a handshake failed: {e}"),
            }
            drop(place);
        });
    }
}

async fn handshake(incoming: quinn::Incoming, audience: Audience) -> Result<Connection, LinkError> {
    let connecting = incoming.accept().map_err(|e| LinkError::from_quic(&e))?;
    match timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Err(_) => Err(LinkError::Timeout),
        Ok(Err(e)) => Err(LinkError::from_quic(&e)),
        Ok(Ok(quic)) => Connection::finished(quic, audience),
    }
}
