//! A UDP port that listens, dials, or both.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::ids::LinkPublicKey;
use quinn::udp::{UdpSockRef, UdpSocketState};
use quinn::{Side, TokioRuntime, TransportConfig};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::accept;
use crate::connection::Connection;
use crate::error::LinkError;
use crate::limits::PortLimits;
use crate::tls::{self, ExpectedServer, LinkKey};
use crate::transport::{Audience, CLOSE_DONE, endpoint_config};

/// How long either side of a handshake waits for the other.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that the kernel may keep for a busy port, where its limits permit: about 200 packets.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// QUIC wants a server name; it is not sent, and means nothing.
const SERVER_NAME: &str = "posta";

/// Who may connect, and to whom. Asked at each handshake, because the answer changes with each consensus; a connection
/// that stands is not asked about again, its owner closes it.
pub trait Admit: Send + Sync + 'static {
    /// Whether the node with this link key may connect, or be connected to, now.
    fn admit(&self, key: &LinkPublicKey) -> bool;
}

impl<F: Fn(&LinkPublicKey) -> bool + Send + Sync + 'static> Admit for F {
    fn admit(&self, key: &LinkPublicKey) -> bool {
        self(key)
    }
}

/// Admits everyone: for ports whose requests are judged by what they carry.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyPeer;

impl Admit for AnyPeer {
    fn admit(&self, _key: &LinkPublicKey) -> bool {
        true
    }
}

/// A UDP port speaking to one [`Audience`]. A clone is another handle to the same port. When the last handle is dropped
/// no new connection is accepted; those that stand live on.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    quic: quinn::Endpoint,
    audience: Audience,
    identity: Option<Arc<CertifiedKey>>,
    admit: Option<Arc<dyn Admit>>,
    provider: Arc<CryptoProvider>,
    transport: Arc<TransportConfig>,
    accepted: Option<Mutex<mpsc::Receiver<Connection>>>,
    acceptor: Option<AbortHandle>,
    door: Option<accept::Door>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.abort();
            self.quic.set_server_config(None);
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({:?})", self.inner.audience)
    }
}

impl Endpoint {
    /// Listens at `addr` (port 0: any), and may dial from there. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError::PortInUse`], [`LinkError::Bind`], [`LinkError::Key`] or [`LinkError::Build`].
    pub fn bind(addr: SocketAddr, audience: Audience, key: &LinkKey, admit: Arc<dyn Admit>) -> Result<Self, LinkError> {
        Self::bind_limited(addr, audience, key, admit, PortLimits::of(audience))
    }

    /// As [`Endpoint::bind`], with limits of the owner's choice.
    ///
    /// # Errors
    /// As [`Endpoint::bind`].
    pub fn bind_limited(
        addr: SocketAddr,
        audience: Audience,
        key: &LinkKey,
        admit: Arc<dyn Admit>,
        limits: PortLimits,
    ) -> Result<Self, LinkError> {
        Self::bind_with(&tls::provider(), addr, audience, key, admit, limits)
    }

    pub(crate) fn bind_with(
        provider: &Arc<CryptoProvider>,
        addr: SocketAddr,
        audience: Audience,
        key: &LinkKey,
        admit: Arc<dyn Admit>,
        limits: PortLimits,
    ) -> Result<Self, LinkError> {
        let socket = open_socket(addr)?;
        let port = socket.local_addr().map_err(|source| LinkError::Bind { addr, source })?.port();
        let identity = key.certified()?;
        let tls = tls::server_config(provider, audience, Arc::clone(&identity), Arc::clone(&admit), limits.mirror)?;
        let server = accept::server_config(tls, audience);
        let quic =
            quinn::Endpoint::new(endpoint_config(key, audience, port), Some(server), socket, Arc::new(TokioRuntime))
                .map_err(|source| LinkError::Bind { addr, source })?;
        let (finished, accepted) = mpsc::channel(accept::ACCEPTED_WAITING);
        let door = accept::Door::new(limits);
        let acceptor = tokio::spawn(accept::run(quic.clone(), audience, door.clone(), finished)).abort_handle();
        Ok(Self {
            inner: Arc::new(Inner {
                quic,
                audience,
                identity: Some(identity),
                admit: Some(admit),
                provider: Arc::clone(provider),
                transport: Arc::new(audience.transport(Side::Client)),
                accepted: Some(Mutex::new(accepted)),
                acceptor: Some(acceptor),
                door: Some(door),
            }),
        })
    }

    /// Dials from any port of `local`, with a key or (clients, readers of the directory) without. Must be called inside
    /// a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError::Bind`], [`LinkError::Key`] or [`LinkError::Build`].
    pub fn dialer(local: IpAddr, audience: Audience, key: Option<&LinkKey>) -> Result<Self, LinkError> {
        Self::dialer_with(&tls::provider(), local, audience, key)
    }

    pub(crate) fn dialer_with(
        provider: &Arc<CryptoProvider>,
        local: IpAddr,
        audience: Audience,
        key: Option<&LinkKey>,
    ) -> Result<Self, LinkError> {
        let addr = SocketAddr::new(local, 0);
        let socket = open_socket(addr)?;
        let quic = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
            .map_err(|source| LinkError::Bind { addr, source })?;
        Ok(Self {
            inner: Arc::new(Inner {
                quic,
                audience,
                identity: key.map(LinkKey::certified).transpose()?,
                admit: None,
                provider: Arc::clone(provider),
                transport: Arc::new(audience.transport(Side::Client)),
                accepted: None,
                acceptor: None,
                door: None,
            }),
        })
    }

    /// Takes other limits over, for whoever knocks from now on; does nothing if it only dials. Connections that stand
    /// beyond them stay, the packets of their networks keep to the new rate.
    pub fn set_limits(&self, limits: PortLimits) {
        if let Some(door) = &self.inner.door {
            door.set_limits(limits);
        }
    }

    /// The address that this port has.
    ///
    /// # Errors
    /// [`LinkError::Closed`] if the system has closed the socket.
    pub fn local_addr(&self) -> Result<SocketAddr, LinkError> {
        self.inner.quic.local_addr().map_err(|_| LinkError::Closed)
    }

    /// The next connection whose handshake is finished; `None` once the endpoint is closed, or if it only dials.
    ///
    /// Handshakes run side by side, so a slow one holds up no other. Safe to cancel.
    pub async fn accept(&self) -> Option<Connection> {
        self.inner.accepted.as_ref()?.lock().await.recv().await
    }

    /// Connects to the node with the key `peer` at `addr`. At most 5 seconds.
    ///
    /// That this succeeds proves the peer's key, and not yet that the peer admits ours: the first answer does.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`], [`LinkError::WrongPeer`], [`LinkError::NotAdmitted`], [`LinkError::Version`],
    /// [`LinkError::Cryptography`], [`LinkError::Busy`], or [`LinkError::Closed`] if this endpoint is.
    pub async fn connect(&self, addr: SocketAddr, peer: LinkPublicKey) -> Result<Connection, LinkError> {
        self.connect_as(addr, peer, self.inner.audience == Audience::Client).await
    }

    /// As [`Endpoint::connect`], to a client port: without a key, whatever this endpoint holds. For directory connections to
    /// a relay that mirrors documents there.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub async fn connect_nameless(&self, addr: SocketAddr, peer: LinkPublicKey) -> Result<Connection, LinkError> {
        self.connect_as(addr, peer, true).await
    }

    async fn connect_as(&self, addr: SocketAddr, peer: LinkPublicKey, nameless: bool) -> Result<Connection, LinkError> {
        let inner = &*self.inner;
        if inner.admit.as_ref().is_some_and(|admit| !admit.admit(&peer)) {
            return Err(LinkError::NotAdmitted);
        }
        let expected = Arc::new(ExpectedServer::new(peer, &inner.provider));
        let identity = inner.identity.clone();
        let tls = tls::client_config(&inner.provider, inner.audience, identity, nameless, Arc::clone(&expected))?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::clone(&inner.transport));
        let connecting = inner.quic.connect_with(config, addr, SERVER_NAME).map_err(|e| match e {
            quinn::ConnectError::EndpointStopping => LinkError::Closed,
            _ => LinkError::Unreachable,
        })?;
        let quic = match timeout(HANDSHAKE_TIMEOUT, connecting).await {
            Err(_) | Ok(Err(quinn::ConnectionError::TimedOut)) => return Err(LinkError::Unreachable),
            Ok(Err(_)) if expected.mismatch() => return Err(LinkError::WrongPeer),
            Ok(Err(e)) => return Err(LinkError::from_quic(&e)),
            Ok(Ok(quic)) => quic,
        };
        let connection = Connection::finished(quic, inner.audience, false, None)?;
        if connection.peer() != Some(peer) {
            connection.close();
            return Err(LinkError::WrongPeer);
        }
        Ok(connection)
    }

    /// Closes every connection of this port and takes no more.
    pub fn close(&self) {
        self.inner.quic.close(CLOSE_DONE, b"");
    }

    /// Waits until the peers of closed connections have been told so.
    pub async fn wait_idle(&self) {
        self.inner.quic.wait_idle().await;
    }
}

/// A bound socket with room for bursts.
fn open_socket(addr: SocketAddr) -> Result<UdpSocket, LinkError> {
    let socket = UdpSocket::bind(addr).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => LinkError::PortInUse(addr),
        _ => LinkError::Bind { addr, source },
    })?;
    let reference = UdpSockRef::from(&socket);
    // Best effort: the system may permit less, and then bursts are lost and sent again.
    if let Ok(state) = UdpSocketState::new(UdpSockRef::from(&socket)) {
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        let _ = state.set_send_buffer_size(reference, SOCKET_BUFFER);
    }
    Ok(socket)
}
