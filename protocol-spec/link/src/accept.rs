//! The listening side: handshakes run side by side, in bounded number.

use std::sync::Arc;

use posta_protocol::now::Mono;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ServerConfig, Side};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::connection::Connection;
use crate::endpoint::HANDSHAKE_TIMEOUT;
use crate::error::LinkError;
use crate::limits::{Doorman, HANDSHAKES_AT_ONCE, Place, PortLimits, Verdict};
use crate::transport::Audience;

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

/// Who judges those that knock at a port, and by which clock.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    doorman: Doorman,
    mirror: bool,
    start: Instant,
}

impl Door {
    pub(crate) fn new(limits: PortLimits) -> Self {
        Self { doorman: Doorman::new(limits), mirror: limits.mirror, start: Instant::now() }
    }

    pub(crate) fn set_limits(&self, limits: PortLimits) {
        self.doorman.set_limits(since(self.start), limits);
    }
}

fn since(start: Instant) -> Mono {
    Mono(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// Accepts until the endpoint is closed.
pub(crate) async fn run(quic: quinn::Endpoint, audience: Audience, door: Door, finished: mpsc::Sender<Connection>) {
    let Door { doorman, mirror, start } = door;
    let places = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    while let Some(incoming) = quic.accept().await {
        let now = since(start);
        let under_way = HANDSHAKES_AT_ONCE.saturating_sub(places.available_permits());
        let address = incoming.remote_address().ip();
        let validated = incoming.remote_address_validated();
        let place = match doorman.judge(now, address, validated, quic.open_connections(), under_way) {
            Verdict::Accept(place) => place,
            Verdict::Retry => {
                // The peer comes back with a token. Fails only for a validated address, which this is not.
                let _ = incoming.retry();
                continue;
            }
            Verdict::Refuse => {
                debug!("too many connections or handshakes: one refused");
                incoming.refuse();
                continue;
            }
        };
        // Always there: nobody else takes any.
        let Ok(permit) = Arc::clone(&places).try_acquire_owned() else { continue };
        let finished = finished.clone();
        tokio::spawn(async move {
            match handshake(incoming, audience, mirror, place).await {
                Ok(connection) => {
                    // Fails when the endpoint is gone; the connection then closes as it is dropped.
                    let _ = finished.send(connection).await;
                }
                Err(e) => debug!("a handshake failed: {e}"),
            }
            drop(permit);
        });
    }
}

async fn handshake(
    incoming: quinn::Incoming,
    audience: Audience,
    mirror: bool,
    place: Place,
) -> Result<Connection, LinkError> {
    let connecting = incoming.accept().map_err(|e| LinkError::from_quic(&e))?;
    match timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Err(_) => Err(LinkError::Timeout),
        Ok(Err(e)) => Err(LinkError::from_quic(&e)),
        Ok(Ok(quic)) => Connection::finished(quic, audience, mirror, Some(place)),
    }
}
