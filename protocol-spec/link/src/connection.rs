//! A finished handshake, and the requests and replies of a directory connection.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::frame::Hello;
use posta_protocol::ids::LinkPublicKey;
pub use posta_protocol::params::{LEAST_PROGRESS, REQUEST_TIMEOUT, TRANSFER_TIMEOUT};
use quinn::crypto::rustls::HandshakeData;
use quinn::{ReadToEndError, RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use crate::error::LinkError;
use crate::limits::{Place, SharedRate};
use crate::link::{self, Link};
use crate::tls::proved_key;
use crate::transport::{self, Audience, CLOSE_BREACH, CLOSE_DONE, CLOSE_MISMATCH};

/// A connection whose handshake is finished. A clone is another handle; when the last is dropped it closes.
#[derive(Clone)]
pub struct Connection {
    pub(crate) quic: quinn::Connection,
    audience: Audience,
    peer: Option<LinkPublicKey>,
    /// What it takes of its port's limits, until the last handle is dropped.
    place: Option<Arc<Place>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.audience)
    }
}

impl Connection {
    /// Takes over a connection, after one more look at what was agreed: QUIC alone accepts two sides without ALPN.
    /// A port that mirrors documents takes directory connections besides those of its own audience.
    pub(crate) fn finished(
        quic: quinn::Connection,
        port: Audience,
        mirror: bool,
        place: Option<Place>,
    ) -> Result<Self, LinkError> {
        let agreed = quic.handshake_data().and_then(|d| d.downcast::<HandshakeData>().ok());
        let agreed = agreed.and_then(|d| d.protocol);
        let audience = match agreed.as_deref() {
            Some(name) if name == port.alpn() => port,
            Some(name) if mirror && name == Audience::Directory.alpn() => {
                transport::open_for_requests(&quic);
                Audience::Directory
            }
            _ => {
                quic.close(CLOSE_MISMATCH, b"");
                return Err(LinkError::Version);
            }
        };
        let peer = proved_key(&quic);
        Ok(Self { quic, audience, peer, place: place.map(Arc::new) })
    }

    /// The key that the other side has proved; `None` for an anonymous one.
    #[must_use]
    pub const fn peer(&self) -> Option<LinkPublicKey> {
        self.peer
    }

    /// Whether this side dialled; for two connections at once, of which one has to go.
    #[must_use]
    pub fn dialled(&self) -> bool {
        self.quic.side() == quinn::Side::Client
    }

    /// A number that tells this connection from others of the process, for tables; it means nothing to anyone else.
    #[must_use]
    pub fn id(&self) -> usize {
        self.quic.stable_id()
    }

    /// The rate that all clients of the peer's network share; `None` on a connection that this side dialled. Keeping to
    /// it is up to the owner.
    #[must_use]
    pub fn network_rate(&self) -> Option<Arc<SharedRate>> {
        self.place.as_ref().map(|place| place.packets())
    }

    /// Whether the connection is closed already.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.quic.close_reason().is_some()
    }

    /// The peer's address: for limits, never for logs.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.quic.remote_address().ip()
    }

    /// Closes at once; what is under way is lost.
    pub fn close(&self) {
        self.close_with(CLOSE_DONE);
    }

    /// Closes because the other side broke the framing.
    pub(crate) fn close_breach(&self) {
        self.close_with(CLOSE_BREACH);
    }

    /// Closes because the hellos don't fit.
    pub(crate) fn close_mismatch(&self) {
        self.close_with(CLOSE_MISMATCH);
    }

    /// Closing what is closed would replace the reason that the others are told.
    fn close_with(&self, code: VarInt) {
        if !self.is_closed() {
            self.quic.close(code, b"");
        }
    }

    /// Waits until the connection is closed, and says why.
    pub async fn closed(&self) -> LinkError {
        LinkError::from_quic(&self.quic.closed().await)
    }

    /// Why a stream of this connection failed.
    pub(crate) fn failure(&self) -> LinkError {
        self.quic.close_reason().map_or(LinkError::Refused, |e| LinkError::from_quic(&e))
    }

    /// What was agreed that it is for: at a port that mirrors documents it may be [`Audience::Directory`].
    #[must_use]
    pub const fn audience(&self) -> Audience {
        self.audience
    }

    /// Says hello both ways and opens the streams. `packet_len` is the length of every packet, in bytes. At most 5
    /// seconds; both sides must call it.
    ///
    /// # Errors
    /// [`LinkError::NotAdmitted`] if the peer refused our key, [`LinkError::Version`] or [`LinkError::Geometry`] if the
    /// hellos don't fit, [`LinkError::Malformed`], [`LinkError::Timeout`], [`LinkError::Audience`] on a directory
    /// connection.
    pub async fn open_link(self, hello: Hello, packet_len: usize) -> Result<Link, LinkError> {
        link::open(self, hello, packet_len).await
    }

    /// Bytes that have gone over the connection in both directions.
    #[must_use]
    pub fn moved(&self) -> u64 {
        let stats = self.quic.stats();
        stats.udp_rx.bytes.saturating_add(stats.udp_tx.bytes)
    }

    /// Waits for a transfer for as long as it moves: at most 15 minutes, and not once less than 16 KiB have gone over the
    /// connection within 30 seconds.
    async fn while_it_moves<T>(&self, transfer: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
        while_moving(TRANSFER_TIMEOUT, LEAST_PROGRESS, REQUEST_TIMEOUT, || self.moved(), transfer).await
    }

    /// Sends a request and reads the reply, at most `max_reply` bytes, for as long as it moves: at most 15 minutes. Safe to
    /// cancel: the peer is told.
    ///
    /// # Errors
    /// [`LinkError::TooLong`] for a longer reply, [`LinkError::Refused`] if the peer gave none, [`LinkError::Timeout`],
    /// [`LinkError::NotAdmitted`] if the peer refused our key, or why the connection closed.
    pub async fn request(&self, body: &[u8], max_reply: usize) -> Result<Vec<u8>, LinkError> {
        if self.audience != Audience::Directory {
            return Err(LinkError::Audience);
        }
        let exchange = async {
            let (mut send, mut recv) = self.quic.open_bi().await.map_err(|e| LinkError::from_quic(&e))?;
            send.write_all(body).await.map_err(|_| self.failure())?;
            send.finish().map_err(|_| self.failure())?;
            self.read(&mut recv, max_reply, "the reply").await
        };
        self.while_it_moves(exchange).await
    }

    /// The next request, of at most `max` bytes. A longer one, or one that takes above 30 seconds, closes the
    /// connection.
    ///
    /// Not safe to cancel: a request that was half read is lost.
    ///
    /// # Errors
    /// [`LinkError::TooLong`], [`LinkError::Timeout`], or why the connection closed.
    pub async fn next_request(&self, max: usize) -> Result<(Vec<u8>, Responder), LinkError> {
        if self.audience != Audience::Directory {
            return Err(LinkError::Audience);
        }
        let (send, mut recv) = self.quic.accept_bi().await.map_err(|e| LinkError::from_quic(&e))?;
        let read = timeout(TRANSFER_TIMEOUT, self.read(&mut recv, max, "the request")).await;
        match read.unwrap_or(Err(LinkError::Timeout)) {
            Ok(body) => Ok((body, Responder { send, connection: self.clone() })),
            Err(e) => {
                self.close_breach();
                Err(e)
            }
        }
    }

    async fn read(&self, recv: &mut RecvStream, max: usize, what: &'static str) -> Result<Vec<u8>, LinkError> {
        recv.read_to_end(max).await.map_err(|e| match e {
            ReadToEndError::TooLong => LinkError::TooLong { what, max },
            ReadToEndError::Read(_) => self.failure(),
        })
    }
}

/// The way back for one request. Dropped without a reply it tells the peer that there is none.
pub struct Responder {
    send: SendStream,
    connection: Connection,
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Responder(..)")
    }
}

impl Responder {
    /// Sends the reply and waits until the peer has it, for as long as it moves and at most 15 minutes: a connection that is
    /// dropped earlier would take the reply with it.
    ///
    /// # Errors
    /// [`LinkError::Timeout`], or why the connection closed.
    pub async fn reply(self, body: &[u8]) -> Result<(), LinkError> {
        self.reply_in_parts(&[body]).await
    }

    /// As [`Responder::reply`], of parts that lie apart: a document behind its head is sent without a copy of it.
    ///
    /// # Errors
    /// As [`Responder::reply`].
    pub async fn reply_in_parts(mut self, parts: &[&[u8]]) -> Result<(), LinkError> {
        let connection = self.connection.clone();
        let transfer = async {
            for part in parts {
                self.send.write_all(part).await.map_err(|_| self.connection.failure())?;
            }
            self.send.finish().map_err(|_| self.connection.failure())?;
            match self.send.stopped().await {
                Ok(None) => Ok(()),
                Ok(Some(_)) | Err(_) => Err(self.connection.failure()),
            }
        };
        connection.while_it_moves(transfer).await
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // Without effect after a finished reply. quinn would end the stream in order, as if an empty reply were meant.
        let _ = self.send.reset(VarInt::from_u32(0));
    }
}

/// Waits for a transfer at most `whole`, and looks every `each` whether at least `least` bytes have `moved` since.
async fn while_moving<T>(
    each: Duration,
    least: u64,
    whole: Duration,
    moved: impl Fn() -> u64,
    transfer: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    let watched = async {
        let mut transfer = pin!(transfer);
        let mut seen = moved();
        loop {
            if let Ok(done) = timeout(each, &mut transfer).await {
                return done;
            }
            let before = std::mem::replace(&mut seen, moved());
            if seen.saturating_sub(before) < least {
                return Err(LinkError::Timeout);
            }
        }
    };
    timeout(whole, watched).await.map_err(|_| LinkError::Timeout)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Notify;

    use super::*;

    const EACH: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_slow_transfer_goes_on_for_as_long_as_it_moves() {
        let (looks, there) = (AtomicU64::new(0), Notify::new());
        // Comes to its end long after the first look.
        let moved = || {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            if look == 20 {
                there.notify_one();
            }
            look * 1000
        };
        let transfer = async {
            there.notified().await;
            Ok(7)
        };
        assert_eq!(while_moving(EACH, 1000, LONG, moved, transfer).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_transfer_that_trickles_is_given_up_at_the_first_look() {
        let looks = AtomicU64::new(0);
        let moved = || looks.fetch_add(1, Ordering::Relaxed) * 999;
        let stuck = std::future::pending::<Result<(), LinkError>>();
        let why = while_moving(EACH, 1000, LONG, moved, stuck).await.unwrap_err();
        assert!(matches!(why, LinkError::Timeout), "{why}");
        assert_eq!(looks.into_inner(), 2, "at its beginning, and once more");
    }

    #[tokio::test]
    async fn nothing_goes_on_for_ever() {
        let looks = AtomicU64::new(0);
        let moved = || looks.fetch_add(1, Ordering::Relaxed) << 20;
        let stuck = std::future::pending::<Result<(), LinkError>>();
        let why = while_moving(EACH, 1000, EACH * 50, moved, stuck).await.unwrap_err();
        assert!(matches!(why, LinkError::Timeout), "{why}");
    }
}
