//! QUIC's settings by audience: every window, bound and timeout of a connection.
//!
//! quinn fixes them before it knows the peer, which is why each audience has a port of its own.

use std::sync::Arc;
use std::time::Duration;

pub use posta_protocol::params::{
    CLIENT_IDLE, CLIENT_KEEP_ALIVE, CLIENT_PACKET_STREAMS, DIRECTORY_IDLE, DIRECTORY_KEEP_ALIVE, LINK_IDLE,
    LINK_KEEP_ALIVE, LINK_PACKET_STREAMS, REQUESTS_AT_ONCE,
};
use posta_protocol::registry::close;
use quinn::congestion::CubicConfig;
use quinn::{ConnectionId, ConnectionIdGenerator, IdleTimeout, Side, TransportConfig, VarInt};
use rand::Rng;

use crate::congestion::DelayConfig;
use crate::tls::LinkKey;

/// Whom a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// Relay to relay: both prove their keys; tuned for throughput.
    Link,
    /// Client to relay: the client stays anonymous; tuned for memory.
    Client,
    /// Anyone to an authority or a mirror: the dialler's key is optional; requests and replies.
    Directory,
}

/// Bytes in flight to a relay: 1.5 MB is about the bandwidth-delay product of 200 Mbit/s over 60 ms.
pub const LINK_SEND_WINDOW: u64 = 1_500_000;
/// Bytes that a relay may have in flight to us on one stream.
pub const LINK_STREAM_WINDOW: u32 = 512 * 1024;
/// Bytes that a relay may have in flight to us: all its streams at once would be more than it may send.
pub const LINK_RECEIVE_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes in flight on one stream between client and relay: three packets.
pub const CLIENT_STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes in flight between client and relay, each way.
pub const CLIENT_WINDOW: u32 = 128 * 1024;
/// Bytes in flight on a directory connection, each way: bounds what an unread request can make us hold.
pub const DIRECTORY_WINDOW: u32 = 1024 * 1024;
/// Bytes of TLS handshake held out of order: ours takes about 3 KB.
pub const CRYPTO_BUFFER: usize = 8 * 1024;

/// Bytes of a connection id, as quinn's own have.
const CONNECTION_ID_LEN: usize = 8;

/// Closed in order.
pub const CLOSE_DONE: VarInt = VarInt::from_u32(close::DONE);
/// The peer broke the framing or sent too much.
pub const CLOSE_BREACH: VarInt = VarInt::from_u32(close::BREACH);
/// The hello names another version or geometry.
pub const CLOSE_MISMATCH: VarInt = VarInt::from_u32(close::MISMATCH);

impl Audience {
    /// The name in ALPN; the digit is the protocol version.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Link => b"posta-link/1",
            Self::Client => b"posta-client/1",
            Self::Directory => b"posta-directory/1",
        }
    }

    /// Packet streams that each side opens.
    pub(crate) const fn packet_streams(self) -> usize {
        match self {
            Self::Link => LINK_PACKET_STREAMS,
            Self::Client => CLIENT_PACKET_STREAMS,
            Self::Directory => 0,
        }
    }

    /// The settings of a connection on one side.
    pub(crate) fn transport(self, side: Side) -> TransportConfig {
        let mut t = TransportConfig::default();
        // Datagrams are not used: without a buffer the peer may not send any.
        t.datagram_receive_buffer_size(None).datagram_send_buffer_size(0).crypto_buffer_size(CRYPTO_BUFFER);
        // The spin bit tells watchers the round-trip time.
        t.allow_spin(false);
        // A control stream beside the packet streams.
        let uni = u32::try_from(self.packet_streams()).unwrap_or(0);
        match self {
            Self::Link => {
                t.max_concurrent_uni_streams(VarInt::from_u32(uni + 1))
                    .max_concurrent_bidi_streams(VarInt::from_u32(0));
                t.stream_receive_window(VarInt::from_u32(LINK_STREAM_WINDOW))
                    .receive_window(VarInt::from_u32(LINK_RECEIVE_WINDOW))
                    .send_window(LINK_SEND_WINDOW);
                t.max_idle_timeout(idle(LINK_IDLE)).keep_alive_interval(Some(LINK_KEEP_ALIVE));
                t.congestion_controller_factory(Arc::new(DelayConfig)).enable_segmentation_offload(true);
            }
            Self::Client => {
                t.max_concurrent_uni_streams(VarInt::from_u32(uni + 1))
                    .max_concurrent_bidi_streams(VarInt::from_u32(0));
                t.stream_receive_window(VarInt::from_u32(CLIENT_STREAM_WINDOW))
                    .receive_window(VarInt::from_u32(CLIENT_WINDOW))
                    .send_window(u64::from(CLIENT_WINDOW));
                t.max_idle_timeout(idle(CLIENT_IDLE)).keep_alive_interval(dialler(side, CLIENT_KEEP_ALIVE));
                // Offload and MTU discovery cost kilobytes for every idle client.
                t.congestion_controller_factory(Arc::new(CubicConfig::default())).enable_segmentation_offload(false);
                t.mtu_discovery_config(None);
            }
            Self::Directory => {
                t.max_concurrent_uni_streams(VarInt::from_u32(0))
                    .max_concurrent_bidi_streams(VarInt::from_u32(REQUESTS_AT_ONCE));
                t.stream_receive_window(VarInt::from_u32(DIRECTORY_WINDOW))
                    .receive_window(VarInt::from_u32(DIRECTORY_WINDOW))
                    .send_window(u64::from(DIRECTORY_WINDOW));
                t.max_idle_timeout(idle(DIRECTORY_IDLE)).keep_alive_interval(dialler(side, DIRECTORY_KEEP_ALIVE));
                t.congestion_controller_factory(Arc::new(CubicConfig::default())).enable_segmentation_offload(true);
            }
        }
        t
    }
}

/// Makes a directory connection of one that came to a port of another audience, as far as settings can still change.
pub(crate) fn open_for_requests(quic: &quinn::Connection) {
    quic.set_max_concurrent_uni_streams(VarInt::from_u32(0));
    quic.set_max_concurrent_bi_streams(VarInt::from_u32(REQUESTS_AT_ONCE));
    quic.set_send_window(u64::from(DIRECTORY_WINDOW));
}

/// The idle timeout in QUIC's own unit; all of ours are seconds.
fn idle(d: Duration) -> Option<IdleTimeout> {
    IdleTimeout::try_from(d).ok()
}

/// An interval for the dialling side only.
const fn dialler(side: Side, d: Duration) -> Option<Duration> {
    match side {
        Side::Client => Some(d),
        Side::Server => None,
    }
}

/// How a listening port tells the other ends of connections from its life before a restart that they are gone.
///
/// The key derives from the link key, the audience and the port, so that two ports of one relay never share it: else a
/// watcher could have one port say the reset token of the other's connections.
pub(crate) fn endpoint_config(key: &LinkKey, audience: Audience, port: u16) -> quinn::EndpointConfig {
    let reset = key.derive(posta_protocol::crypto::local::STATELESS_RESET.as_bytes(), audience, port);
    let reset = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, reset.expose());
    let mut config = quinn::EndpointConfig::new(Arc::new(reset));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Random connection ids. quinn's own are hashed under a key of the process, and after a restart it would take the ids
/// of its former life for noise, and send no reset.
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_LEN];
        rand::rng().fill_bytes(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
