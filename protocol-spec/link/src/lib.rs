//! Posta's links over QUIC, and what every daemon shares: configuration, key files, safe logs.
//!
//! The only crate that names quinn or rustls. A node is known by one Ed25519 key, its [`LinkKey`], shown in the TLS
//! handshake as a raw public key (RFC 7250). Three [`Audience`]s share the binding:
//!
//! | audience | dialled by | keys | carries |
//! |---|---|---|---|
//! | [`Audience::Link`] | relays | both sides, always | packets and control frames, 8 packet streams each way |
//! | [`Audience::Client`] | clients | the relay's only | packets and control frames, 1 packet stream each way |
//! | [`Audience::Directory`] | everyone | the authority's; the dialler's if it has one | requests and replies; also to relays' ports |
//!
//! ```text
//! control stream   | 1 | hello | length (u16) | frame | length (u16) | frame | ...
//! packet stream    | 2 | packet | packet | packet | ...          (each of the geometry's length)
//! request stream   | body ->                    <- reply |       (bidirectional, ended by its own end)
//! ```
//! Each side opens its control stream first, then its packet streams. Whoever breaks this framing is disconnected.
//!
//! | module | what it holds |
//! |---|---|
//! | [`endpoint`] | a UDP port: listening, dialling, who is admitted |
//! | [`limits`] | who may have a handshake: by network, by rate, in all |
//! | [`connection`] | a finished handshake; requests and replies |
//! | [`link`] | hello, packets and control frames |
//! | [`tls`] | keys, verifiers, what is negotiated (nothing) |
//! | [`transport`] | windows, timeouts, congestion control by audience |
//! | [`fetch`], [`mirror`] | the directory's documents: asking for them, and answering |
//! | [`reach`] | whether a relay's addresses can be reached from elsewhere |
//! | [`config`], [`keys`], [`logs`], [`exit`], [`http`] | what every program shares |

mod accept;
pub mod config;
mod congestion;
pub mod connection;
pub mod endpoint;
pub mod error;
pub mod exit;
pub mod fetch;
pub mod http;
pub mod keys;
pub mod limits;
pub mod link;
pub mod logs;
pub mod mirror;
pub mod reach;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod transport;

pub use connection::{Connection, Responder};
pub use endpoint::{Admit, AnyPeer, Endpoint};
pub use error::{Closed, ControlError, LinkError, SendError};
pub use limits::{PortLimits, Rate, SharedRate, Speed};
pub use link::{Link, LinkReceiver, LinkSender, Received};
pub use posta_protocol::ids::LinkPublicKey;
pub use tls::LinkKey;
pub use transport::Audience;
