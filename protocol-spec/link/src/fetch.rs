//! The directory as relays and clients use it: who the authorities are, fetching what they agreed on, posting.
//!
//! ```toml
//! # network.toml: the authorities, as everyone of a network is given them
//! [[authorities]]
//! identity = "64 hexadecimal digits"
//! link_key = "64 hexadecimal digits"
//! addresses = ["192.0.2.1:4430"]
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::{
    Authorities, Authority, Consensus, Evidence, EvidenceKind, Refusal, Reply, Request, SignedHeader,
    UnverifiedConsensus, WrongLayers,
};
use posta_protocol::error::{Malformed, Misuse, Untrusted};
use posta_protocol::ids::{AuthorityId, Epoch, LinkPublicKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use crate::config::{self, ConfigError};
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::error::LinkError;
use crate::keys::atomic_write;

mod newest;

pub use self::newest::{Documents, Held, Mirror, Mirrors, fetch_consensus, fetch_mix_keys, fetch_newer, fetch_signed};

/// How long one authority may take to answer a short question; whole documents may take as long as they move.
pub const AUTHORITY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one authority is waited for before the next one is asked as well: a dead one must not hold up a start.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Permissions of a network file: everyone may read it.
const NETWORK_MODE: u32 = 0o644;

/// Why a network file can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// It can't be read, or isn't a network file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key isn't 64 hexadecimal digits.
    #[error("{0}: `{1}` must be 64 hexadecimal digits, as `posta-directory init` prints it")]
    Key(String, &'static str),
    /// An authority has no address.
    #[error("{0}: an authority has no addresses: add `addresses = [\"192.0.2.1:4430\"]`")]
    Addresses(String),
    /// No authorities.
    #[error("{0}: no authorities are listed: add an `[[authorities]]` entry for each")]
    Empty(String),
    /// Too many authorities, or one twice.
    #[error("{0}: {1}")]
    List(String, Misuse),
}

/// Why nothing was fetched or posted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Every authority that answered holds what we hold, or less.
    #[error("no authority has a newer consensus")]
    NothingNewer,
    /// The network has no consensus yet.
    #[error("the authorities have agreed on no consensus yet: try again in a moment")]
    NoConsensus,
    /// An authority can't be reached.
    #[error("an authority can't be reached: {0}")]
    Link(#[from] LinkError),
    /// An authority took too long.
    #[error("an authority takes too long to answer: try again later")]
    Timeout,
    /// What an authority sent can't be believed.
    #[error("an authority's answer is not to be trusted: {0}")]
    Untrusted(#[from] Untrusted),
    /// What an authority sent makes no sense.
    #[error("an authority's answer is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The authority holds the consensus, and not what belongs to it.
    #[error("an authority lacks a part of its own consensus: try again later")]
    Incomplete,
    /// The authorities refuse.
    #[error("the authorities refuse: {0}")]
    Refused(Refusal),
    /// The newest consensus is well signed, and the network has too few relays for paths.
    #[error("{0}; wait until more relays have joined")]
    TooSmall(WrongLayers),
    /// The newest consensus is well signed, and its layers or random values are not what the rules give.
    #[error("the newest consensus breaks the rules and is refused: {0}; tell the operators of the authorities")]
    Rules(WrongLayers),
}

impl From<WrongLayers> for FetchError {
    fn from(wrong: WrongLayers) -> Self {
        if wrong.too_small() { Self::TooSmall(wrong) } else { Self::Rules(wrong) }
    }
}

/// A network as its members are given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    authorities: Authorities,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct NetworkFile {
    authorities: Vec<AuthorityEntry>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct AuthorityEntry {
    identity: String,
    link_key: String,
    addresses: Vec<SocketAddr>,
}

impl Network {
    /// A network of these authorities.
    #[must_use]
    pub const fn new(authorities: Authorities) -> Self {
        Self { authorities }
    }

    /// Reads `network.toml`.
    ///
    /// # Errors
    /// [`NetworkError`], naming the file.
    pub fn load(path: &Path) -> Result<Self, NetworkError> {
        let file: NetworkFile = config::load(path)?;
        let name = path.display().to_string();
        let key = |text: &str, what| from_hex(text).ok_or_else(|| NetworkError::Key(name.clone(), what));
        if file.authorities.is_empty() {
            return Err(NetworkError::Empty(name.clone()));
        }
        let mut list = Vec::with_capacity(file.authorities.len());
        for entry in file.authorities {
            if entry.addresses.is_empty() {
                return Err(NetworkError::Addresses(name));
            }
            list.push(Authority {
                id: AuthorityId(key(&entry.identity, "identity")?),
                link_key: LinkPublicKey(key(&entry.link_key, "link_key")?),
                addresses: entry.addresses,
            });
        }
        Ok(Self { authorities: Authorities::new(list).map_err(|e| NetworkError::List(name, e))? })
    }

    /// The text of a network file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let entry = |a: &Authority| AuthorityEntry {
            identity: to_hex(&a.id.0),
            link_key: to_hex(&a.link_key.0),
            addresses: a.addresses.clone(),
        };
        let authorities = self.authorities.list().iter().map(entry).collect();
        format!("# The authorities of a Posta network.\n\n{}", config::to_toml(&NetworkFile { authorities }))
    }

    /// Writes `network.toml`.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        atomic_write(path, self.to_toml().as_bytes(), NETWORK_MODE)
    }

    /// The authorities.
    #[must_use]
    pub const fn authorities(&self) -> &Authorities {
        &self.authorities
    }
}

/// Of several failures the one that tells most: an answer that can't be believed, before none at all; but if some
/// authority could say that there is nothing newer, then nothing is wrong.
const fn weight(e: &FetchError) -> u8 {
    match e {
        FetchError::TooSmall(_) | FetchError::Rules(_) => 5,
        FetchError::NothingNewer => 4,
        FetchError::Untrusted(_) | FetchError::Malformed(_) => 3,
        FetchError::NoConsensus | FetchError::Incomplete | FetchError::Refused(_) => 2,
        FetchError::Link(_) => 1,
        FetchError::Timeout => 0,
    }
}

/// Posts a signed descriptor to all authorities at once. Returns how many have accepted it, at least one.
///
/// # Errors
/// If none has: an authority's refusal if there is one, else why none could be reached.
pub async fn post_descriptor(network: &Network, dialer: &Endpoint, bytes: &[u8]) -> Result<usize, FetchError> {
    post(network, dialer, Request::PostDescriptor(bytes.to_vec())).await
}

/// Posts a signed [`posta_protocol::document::Withdrawal`] to all authorities at once: the next consensus leaves the relay
/// out. Returns how many have accepted it, at least one.
///
/// # Errors
/// As [`post_descriptor`].
pub async fn withdraw(network: &Network, dialer: &Endpoint, bytes: &[u8]) -> Result<usize, FetchError> {
    post(network, dialer, Request::Withdraw(bytes.to_vec())).await
}

async fn post(network: &Network, dialer: &Endpoint, request: Request) -> Result<usize, FetchError> {
    let request = Arc::new(request);
    let mut accepted = 0;
    let mut failure = FetchError::Timeout;
    for (_, answer) in ask_all(network, dialer, &request).await {
        let e = match answer {
            Ok(Reply::Ok(_)) => {
                accepted += 1;
                continue;
            }
            Ok(Reply::None) => FetchError::Refused(Refusal::Unsupported),
            Ok(Reply::Refused(reason)) => FetchError::Refused(reason),
            Err(e) => e,
        };
        debug!("an authority has not accepted what was posted: {e}");
        if weight(&e) > weight(&failure) {
            failure = e;
        }
    }
    if accepted > 0 { Ok(accepted) } else { Err(failure) }
}

/// Asks all authorities the same thing at once, each for [`AUTHORITY_TIMEOUT`] at most. The answers come in the order of
/// the authorities.
pub async fn ask_all(
    network: &Network,
    dialer: &Endpoint,
    request: &Arc<Request>,
) -> Vec<(Authority, Result<Reply, FetchError>)> {
    let mut asked = JoinSet::new();
    for (n, authority) in network.authorities.list().iter().enumerate() {
        let (authority, dialer, request) = (authority.clone(), dialer.clone(), Arc::clone(request));
        asked.spawn(async move {
            let ask = async {
                let connection = connect(&authority, &dialer).await?;
                let reply = ask(&connection, &request).await?;
                connection.close();
                Ok::<_, FetchError>(reply)
            };
            let answer = timeout(AUTHORITY_TIMEOUT, ask).await.unwrap_or(Err(FetchError::Timeout));
            (n, authority, answer)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_unstable_by_key(|(n, ..)| *n);
    answers.into_iter().map(|(_, authority, answer)| (authority, answer)).collect()
}

/// Asks every authority for its newest consensus from `epoch` on, and looks for two that exclude each other among these
/// and `held`. `None` if there are none, as far as can be told.
pub async fn look_for_forks(
    network: &Network,
    dialer: &Endpoint,
    epoch: Epoch,
    held: Option<&Consensus>,
) -> Option<Evidence> {
    let request = Arc::new(Request::GetConsensus { newer_than: Epoch(epoch.0.saturating_sub(1)) });
    let mut known: BTreeMap<Epoch, SignedHeader> = BTreeMap::new();
    known.extend(held.map(|held| (held.epoch(), held.signed_header())));
    for (_, answer) in ask_all(network, dialer, &request).await {
        let Ok(Reply::Ok(bytes)) = answer else { continue };
        let signed = UnverifiedConsensus::decode(&bytes).and_then(|c| c.verify_signatures(&network.authorities));
        let Ok(theirs) = signed.map(|consensus| consensus.signed_header()) else { continue };
        let ours = known.entry(theirs.header.epoch).or_insert_with(|| theirs.clone());
        let (one, other) = (ours.encode(), theirs.encode());
        if let Ok(found) = Evidence::new(EvidenceKind::Consensuses, &one, &other, &network.authorities) {
            return Some(found);
        }
    }
    None
}

/// Connects to an authority at the first of its addresses that answers.
///
/// # Errors
/// [`FetchError::Link`] with the last address' failure.
pub async fn connect(authority: &Authority, dialer: &Endpoint) -> Result<Connection, FetchError> {
    let mut failure = LinkError::Unreachable;
    for addr in &authority.addresses {
        match dialer.connect(*addr, authority.link_key).await {
            Ok(connection) => return Ok(connection),
            Err(e) => failure = e,
        }
    }
    Err(failure.into())
}

/// Asks one thing over a standing connection.
///
/// # Errors
/// [`FetchError::Link`] or [`FetchError::Malformed`].
pub async fn ask(connection: &Connection, request: &Request) -> Result<Reply, FetchError> {
    let bytes = connection.request(&request.encode(), request.max_reply()).await?;
    Ok(Reply::decode(&bytes)?)
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// 32 bytes from 64 hexadecimal digits.
#[must_use]
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let text = text.trim().as_bytes();
    let mut out = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (to, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let [high, low] = pair else { return None };
        *to = digit(high)? << 4 | digit(low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let authority = |n: u8| Authority {
            id: AuthorityId([n; 32]),
            link_key: LinkPublicKey([n + 100; 32]),
            addresses: vec!["127.0.0.1:4430".parse().unwrap(), "[::1]:4430".parse().unwrap()],
        };
        Network::new(Authorities::new((1..=4).map(authority).collect()).unwrap())
    }

    #[test]
    fn a_network_file_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.toml");
        network().save(&path).unwrap();
        assert_eq!(Network::load(&path).unwrap(), network());
    }

    #[test]
    fn a_bad_network_file_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.toml");
        let load = |text: String| {
            std::fs::write(&path, text).unwrap();
            Network::load(&path).unwrap_err().to_string()
        };
        assert!(load(String::new()).contains("no authorities are listed"));
        assert!(load(network().to_toml().replace("0101", "01xx")).contains("64 hexadecimal digits"));
        assert!(load(network().to_toml().replace("link_key", "linkkey")).contains("did you mean"));
        let none = format!("[[authorities]]\nidentity = '{0}'\nlink_key = '{0}'\n", "01".repeat(32));
        assert!(load(none).contains("addresses"));
    }
}
