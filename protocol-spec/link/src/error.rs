//! What can go wrong on a link. No error holds the address of a client, or any key.

use std::io;
use std::net::SocketAddr;

use posta_protocol::error::Malformed;
use posta_protocol::packet::Packet;
use quinn::ConnectionError;
use thiserror::Error;

use crate::transport::{CLOSE_BREACH, CLOSE_MISMATCH};

/// Why an endpoint, a connection or a link failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Another program listens there.
    #[error("address {0} is in use by another program: stop it or choose another port")]
    PortInUse(SocketAddr),
    /// The address can't be listened on.
    #[error("can't listen on {addr}: {source}; choose an address of this machine and a port that this user may use")]
    Bind {
        /// The address asked for, one of our own.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The link key is not usable.
    #[error("the link key is not usable: restore its key file from a backup, or make a new one")]
    Key,
    /// TLS or QUIC refuse our own settings: a build without the needed algorithms.
    #[error("this build lacks the cryptography that links need: {0}")]
    Build(String),
    /// The peer proved another key than the one expected.
    #[error("the peer has another key than the one expected: fetch a fresh consensus, or check the address")]
    WrongPeer,
    /// One side doesn't admit the other's key, or asked for a key and got none.
    #[error("the key was not admitted: check that the newest consensus lists it, on both sides")]
    NotAdmitted,
    /// No answer to the first packets.
    #[error("the peer does not answer: check that it runs and that UDP packets reach it")]
    Unreachable,
    /// A connected peer stopped answering.
    #[error("the peer stopped answering: connect again")]
    Timeout,
    /// The peer has lost the connection, by a restart.
    #[error("the peer has restarted: connect again")]
    Restarted,
    /// The peer has no room.
    #[error("the peer has too many connections: try again later")]
    Busy,
    /// ALPN or the hello name another protocol or version.
    #[error("the peer speaks another protocol version, or its port has another purpose: compare versions and ports")]
    Version,
    /// The hello names another geometry.
    #[error("the peer's packets have another geometry: both sides must belong to the same network")]
    Geometry,
    /// No common cryptography.
    #[error("the peer lacks the cryptography that links need (X25519MLKEM768 and raw public keys): update it")]
    Cryptography,
    /// A request or reply is longer than allowed.
    #[error("{what} is longer than the {max} bytes allowed")]
    TooLong {
        /// What was too long.
        what: &'static str,
        /// The bound in bytes.
        max: usize,
    },
    /// The peer broke the framing.
    #[error("the peer sent something that is not a link: {0}")]
    Malformed(#[from] Malformed),
    /// The peer says that we broke the framing.
    #[error("the peer refused what this program sent: compare the versions of both")]
    Refused,
    /// Requests were asked of a link, or a link of a connection for requests.
    #[error("this kind of connection does not carry that: open one for the right audience")]
    Audience,
    /// Closed in order, by either side.
    #[error("the connection is closed")]
    Closed,
}

/// TLS alerts, as QUIC carries them (RFC 9001, 4.8): 0x100 + the alert.
const CRYPTO: u64 = 0x100;
/// QUIC's CONNECTION_REFUSED.
const CONNECTION_REFUSED: u64 = 2;

impl LinkError {
    /// The reason why QUIC ended a connection, in our terms.
    pub(crate) fn from_quic(e: &ConnectionError) -> Self {
        match e {
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::TransportError(e) => Self::from_code(u64::from(e.code)),
            ConnectionError::ConnectionClosed(close) => Self::from_code(u64::from(close.error_code)),
            ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_BREACH => Self::Refused,
            ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_MISMATCH => Self::Version,
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::TimedOut => Self::Timeout,
            ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => {
                Self::Closed
            }
        }
    }

    const fn from_code(code: u64) -> Self {
        const ACCESS_DENIED: u64 = CRYPTO + 49;
        const CERTIFICATE_REQUIRED: u64 = CRYPTO + 116;
        const NO_APPLICATION_PROTOCOL: u64 = CRYPTO + 120;
        const LAST_ALERT: u64 = CRYPTO + 255;
        match code {
            CONNECTION_REFUSED => Self::Busy,
            ACCESS_DENIED | CERTIFICATE_REQUIRED => Self::NotAdmitted,
            NO_APPLICATION_PROTOCOL => Self::Version,
            CRYPTO..=LAST_ALERT => Self::Cryptography,
            _ => Self::Closed,
        }
    }
}

/// A packet that was not taken.
#[derive(Debug, Error)]
pub enum SendError {
    /// The queue to this peer is full; here is the packet back.
    #[error("the queue to this peer is full")]
    Full(Packet),
    /// The link is closed.
    #[error("the link is closed")]
    Closed,
}

/// The link is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the link is closed")]
pub struct Closed;

/// A control frame that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// Too many control frames wait already.
    #[error("too many control frames wait for this peer")]
    Full,
    /// The link is closed.
    #[error("the link is closed")]
    Closed,
}
