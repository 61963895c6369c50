//! Whether a relay's addresses can be reached from elsewhere: asking other relays, and dialling for those that ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use posta_protocol::document::{Reached, Refusal, Reply, Request};
use posta_protocol::error::Malformed;
use posta_protocol::ids::LinkPublicKey;
use tokio::sync::Semaphore;

use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::error::LinkError;
use crate::fetch::{FetchError, ask};
use crate::tls::LinkKey;
use crate::transport::Audience;

/// Addresses that a relay dials for others at once; who asks for more is told to come back.
pub const REACHES_AT_ONCE: usize = 8;

/// Whether this is a listed address of the relay with that key; for clients or not.
pub type IsTheirs = dyn Fn(&LinkPublicKey, bool, &SocketAddr) -> bool + Send + Sync;

/// Dials for others. A clone counts with the same limit.
#[derive(Clone)]
pub struct Reacher {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    is_theirs: Arc<IsTheirs>,
    at_once: Arc<Semaphore>,
}

impl std::fmt::Debug for Reacher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reacher(..)")
    }
}

impl Reacher {
    /// Dials from ports of its own, of each kind of address that this machine has; a firewall that lets in answers to
    /// what it has sent doesn't know them. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(key: &LinkKey, is_theirs: Arc<IsTheirs>) -> Self {
        let dialer = |ip: IpAddr| Endpoint::dialer(ip, Audience::Directory, Some(key)).ok();
        Self {
            v4: dialer(Ipv4Addr::UNSPECIFIED.into()),
            v6: dialer(Ipv6Addr::UNSPECIFIED.into()),
            is_theirs,
            at_once: Arc::new(Semaphore::new(REACHES_AT_ONCE)),
        }
    }

    /// Dials an address for the relay at the other end of a connection.
    pub(crate) async fn answer(&self, connection: &Connection, client: bool, address: SocketAddr) -> Reply<Vec<u8>> {
        let Some(key) = connection.peer().filter(|key| (self.is_theirs)(key, client, &address)) else {
            return Reply::Refused(Refusal::Address);
        };
        let Ok(_permit) = self.at_once.try_acquire() else { return Reply::Refused(Refusal::Busy) };
        Reply::Ok(vec![self.dial(key, client, address).await.code()])
    }

    async fn dial(&self, key: LinkPublicKey, client: bool, address: SocketAddr) -> Reached {
        let dialer = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let Some(dialer) = dialer.as_ref().filter(|_| has_way(address)) else { return Reached::Unable };
        let dialled =
            if client { dialer.connect_nameless(address, key).await } else { dialer.connect(address, key).await };
        match dialled {
            Ok(connection) => {
                connection.close();
                Reached::Yes
            }
            Err(LinkError::Unreachable) => Reached::Silent,
            Err(_) => Reached::Other,
        }
    }
}

/// Whether this machine would know where to send a datagram for that address. Sends none.
fn has_way(address: SocketAddr) -> bool {
    let from: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((from, 0)).is_ok_and(|socket| socket.connect(address).is_ok())
}

/// Asks the relay at the other end to dial an address of ours.
///
/// # Errors
/// What keeps it from an answer, or its refusal.
pub async fn ask_to_reach(connection: &Connection, client: bool, address: SocketAddr) -> Result<Reached, FetchError> {
    match ask(connection, &Request::Reach { client, address }).await? {
        Reply::Ok(content) => Ok(Reached::decode(&content)?),
        Reply::Refused(reason) => Err(FetchError::Refused(reason)),
        Reply::None => Err(Malformed::Value("reached").into()),
    }
}

#[cfg(test)]
mod tests;
