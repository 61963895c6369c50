//! Fetching the newest consensus with its mix keys: from relays that mirror them, from the authorities, as a difference
//! to what is held or whole. Whatever the way, all of it is verified, so that nobody on it need be believed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use posta_protocol::document::{
    Authorities, Consensus, ConsensusDiff, KeyEpochPart, MixKeys, MixKeysDiff, Refusal, Reply, Request,
    UnverifiedConsensus, UnverifiedMixKeys, verify_succession, verify_usable,
};
use posta_protocol::error::Untrusted;
use posta_protocol::ids::{Epoch, Hash, LinkPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::params::CLIENT_CLOCK_SKEW;
use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::{AUTHORITY_TIMEOUT, FetchError, Network, PATIENCE, ask, weight};
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::error::LinkError;

/// A verified consensus and its mix keys.
pub type Documents = (Consensus, Vec<Arc<MixKeys>>);

/// A relay's port at which it mirrors the directory's documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The relay's link key.
    pub link_key: LinkPublicKey,
    /// Where to dial, one after the other.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is the port for clients: it is dialled without a key.
    pub client_port: bool,
}

/// Which mirrors are asked besides the authorities.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    /// Before the authorities, in this order.
    pub before: Vec<Mirror>,
    /// If none of the authorities has answered.
    pub after: Vec<Mirror>,
}

/// What is held already, and was verified.
#[derive(Clone, Debug)]
pub struct Held {
    /// The consensus: a later one is wanted, if possible as a difference to it.
    pub consensus: Arc<Consensus>,
    /// Those of its mix keys that are at hand: they are not fetched again.
    pub mix_keys: Vec<Arc<MixKeys>>,
}

impl Held {
    /// The mix keys of a key epoch, with their hash.
    fn part(&self, of: &KeyEpochPart) -> Option<(Hash, &Arc<MixKeys>)> {
        let hash = self.consensus.mix_keys_hash(of.epoch)?;
        self.mix_keys.iter().find(|part| part.key_epoch == of.epoch).map(|part| (hash, part))
    }
}

/// One of those that are asked.
#[derive(Clone)]
struct Source {
    at: Mirror,
    rank: Rank,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    Before,
    Authority,
    After,
}

/// Fetches the newest consensus with its mix keys from the authorities, whole, and verifies all of it: signatures, times,
/// that the mixes are in the layers where the shared randomness puts them, that random values follow from `held`, and that
/// the network is large enough. For how it is fetched see [`fetch_newer`].
///
/// Safe to cancel.
///
/// # Errors
/// As [`fetch_newer`].
pub async fn fetch_consensus(
    network: &Network,
    dialer: &Endpoint,
    now: Wall,
    held: Option<&Consensus>,
) -> Result<Documents, FetchError> {
    let (consensus, parts) = fetch_signed(network, dialer, now, held).await?;
    verify(&consensus, &parts, &network.authorities, now, held)?;
    Ok((consensus, parts))
}

/// As [`fetch_consensus`], from mirrors too, and as a difference to what is held, where that can be; mix keys that are
/// held already are not fetched again. The authorities are asked one after another from a random start, between the one
/// and the other mirrors. Each is asked as soon as the one before has failed or has been silent for [`PATIENCE`], until one
/// has a fresh consensus; else the newest of all answers wins. One that is not newer than what is held is refused. This
/// machine's clock may be off by [`CLIENT_CLOCK_SKEW`].
///
/// Safe to cancel.
///
/// # Errors
/// [`FetchError::NothingNewer`] if all is well with what is held, else the most telling of the authorities' failures; what
/// a mirror says counts only if it can be verified.
pub async fn fetch_newer(
    network: &Network,
    mirrors: &Mirrors,
    dialer: &Endpoint,
    now: Wall,
    held: &Held,
) -> Result<Documents, FetchError> {
    let (consensus, parts) = fetch_from_all(network, mirrors, dialer, now, Start::Held(held.clone())).await?;
    verify(&consensus, &parts, &network.authorities, now, Some(&held.consensus))?;
    Ok((consensus, parts))
}

/// Fetches the mix keys of a consensus that is held already, as after a restart, and verifies them. Whom it asks, one after
/// the other: the authorities from a random start, and mirrors before and after them.
///
/// Safe to cancel.
///
/// # Errors
/// The last failure; [`FetchError::Incomplete`] if nobody has the keys of this consensus any more.
pub async fn fetch_mix_keys(
    network: &Network,
    mirrors: &Mirrors,
    dialer: &Endpoint,
    consensus: &Consensus,
) -> Result<Vec<Arc<MixKeys>>, FetchError> {
    let mut failure = FetchError::Incomplete;
    for source in sources(network, mirrors) {
        let fetch = async {
            let connection = dial(&source.at, dialer).await?;
            let mut parts = Vec::with_capacity(consensus.key_epochs().len());
            for part in consensus.key_epochs() {
                parts.push(fetch_part(&connection, consensus, part, None).await?);
            }
            connection.close();
            Ok(parts)
        };
        match timeout(AUTHORITY_TIMEOUT, fetch).await.unwrap_or(Err(FetchError::Timeout)) {
            Ok(parts) => return Ok(parts),
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

/// As [`fetch_consensus`], without a look at layers and random values: to show people a consensus that can't be used.
///
/// # Errors
/// As [`fetch_consensus`], but for [`FetchError::TooSmall`] and [`FetchError::Rules`].
pub async fn fetch_signed(
    network: &Network,
    dialer: &Endpoint,
    now: Wall,
    held: Option<&Consensus>,
) -> Result<Documents, FetchError> {
    let newer_than = held.map_or(Epoch(0), Consensus::epoch);
    fetch_from_all(network, &Mirrors::default(), dialer, now, Start::Whole { newer_than }).await
}

/// What is checked of a consensus, its signatures and times apart, before anything is done by it.
fn verify(
    consensus: &Consensus,
    parts: &[Arc<MixKeys>],
    authorities: &Authorities,
    now: Wall,
    held: Option<&Consensus>,
) -> Result<(), FetchError> {
    if let Some(held) = held {
        // A break in the chain is told by whoever keeps both; it is no reason to refuse.
        verify_succession(consensus, held, authorities)?;
    }
    Ok(verify_usable(consensus, parts, now)?)
}

/// What to start from.
#[derive(Clone)]
enum Start {
    /// Nothing but this: whole documents are asked for.
    Whole {
        newer_than: Epoch,
    },
    Held(Held),
}

impl Start {
    fn epoch(&self) -> Epoch {
        match self {
            Self::Whole { newer_than } => *newer_than,
            Self::Held(held) => held.consensus.epoch(),
        }
    }
}

async fn fetch_from_all(
    network: &Network,
    mirrors: &Mirrors,
    dialer: &Endpoint,
    now: Wall,
    start: Start,
) -> Result<Documents, FetchError> {
    let known = Arc::new(network.authorities.clone());
    let mut left = sources(network, mirrors).into_iter();
    let mut answered = false;
    let mut asked = JoinSet::new();
    let mut best: Option<Documents> = None;
    let mut failure: Option<FetchError> = None;
    let mut next = left.next();
    let moving = Moving::default();
    let mut waited = 0;
    loop {
        if let Some(source) = next.take_if(|source| source.rank != Rank::After || !answered) {
            let (known, dialer, start) = (Arc::clone(&known), dialer.clone(), start.clone());
            let moving = moving.clone();
            waited = 0;
            asked.spawn(async move {
                let fetch = fetch_from(&known, &source.at, &dialer, now, &start, &moving);
                (source.rank, fetch.await)
            });
        }
        let patience = if left.len() > 0 { PATIENCE } else { AUTHORITY_TIMEOUT };
        match timeout(patience, asked.join_next()).await {
            // Somebody is sending: asking others as well would only share out a slow line. But not for ever.
            Err(_) if moving.more() && waited < PATIENT_TURNS => waited += 1,
            Err(_) => next = left.next(),
            Ok(Some(Ok((rank, Ok(found))))) => {
                answered |= rank == Rank::Authority;
                let fresh = found.0.fresh_until() > now;
                if best.as_ref().is_none_or(|(held, _)| held.epoch() < found.0.epoch()) {
                    best = Some(found);
                }
                if fresh {
                    break;
                }
                next = left.next();
            }
            Ok(Some(failed)) => {
                let (rank, e) = match failed {
                    Ok((rank, Err(FetchError::NothingNewer))) if start.epoch() == Epoch(0) => {
                        (rank, FetchError::NoConsensus)
                    }
                    Ok((rank, Err(e))) => (rank, e),
                    _ => (Rank::Authority, FetchError::Timeout),
                };
                debug!("a consensus was not fetched: {e}");
                if rank == Rank::Authority {
                    answered |= matches!(e, FetchError::NothingNewer | FetchError::NoConsensus);
                    failure = Some(match failure {
                        Some(worse) if weight(&worse) >= weight(&e) => worse,
                        _ => e,
                    });
                }
                next = left.next();
            }
            Ok(None) => {
                next = left.next();
                if next.is_none() {
                    break;
                }
            }
        }
    }
    match (best, failure) {
        (Some(found), _) => Ok(found),
        (None, Some(e)) => Err(e),
        (None, None) => Err(FetchError::NothingNewer),
    }
}

/// Whom to ask, the authorities from a random one on.
fn sources(network: &Network, mirrors: &Mirrors) -> Vec<Source> {
    let list = network.authorities.list();
    let first = rand::rng().random_range(0..list.len().max(1));
    let authorities = list.iter().cycle().skip(first).take(list.len()).map(|authority| Source {
        at: Mirror { link_key: authority.link_key, addresses: authority.addresses.clone(), client_port: false },
        rank: Rank::Authority,
    });
    let ranked = |list: &[Mirror], rank| list.iter().map(|at| Source { at: at.clone(), rank }).collect::<Vec<_>>();
    ranked(&mirrors.before, Rank::Before)
        .into_iter()
        .chain(authorities)
        .chain(ranked(&mirrors.after, Rank::After))
        .collect()
}

async fn fetch_from(
    known: &Authorities,
    at: &Mirror,
    dialer: &Endpoint,
    now: Wall,
    start: &Start,
    moving: &Moving,
) -> Result<Documents, FetchError> {
    let connection = dial(at, dialer).await?;
    moving.watch(&connection);
    let consensus = fetch_body(&connection, known, now, start).await?;
    if consensus.epoch() <= start.epoch() {
        return Err(FetchError::NothingNewer);
    }
    let held = match start {
        Start::Held(held) => Some(held),
        Start::Whole { .. } => None,
    };
    let mut parts = Vec::with_capacity(consensus.key_epochs().len());
    for part in consensus.key_epochs() {
        parts.push(fetch_part(&connection, &consensus, part, held).await?);
    }
    connection.close();
    Ok((consensus, parts))
}

/// Bytes within [`PATIENCE`] from which on a line is in use: a quarter of a megabit a second.
const IN_USE: u64 = 32 * 1024;
/// How often [`PATIENCE`] is prolonged for one who is sending.
const PATIENT_TURNS: u32 = 20;

/// The connections of one fetch, and what had gone over them when somebody last looked.
#[derive(Clone, Default)]
struct Moving(Arc<Mutex<(Vec<Connection>, u64)>>);

impl Moving {
    fn watch(&self, connection: &Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(connection.clone());
    }

    /// Whether documents have come since the last look.
    fn more(&self) -> bool {
        let (connections, seen) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let moved: u64 = connections.iter().map(Connection::moved).sum();
        moved.saturating_sub(std::mem::replace(seen, moved)) >= IN_USE
    }
}

/// Connects at the first address that answers.
async fn dial(at: &Mirror, dialer: &Endpoint) -> Result<Connection, FetchError> {
    let mut failure = LinkError::Unreachable;
    for addr in &at.addresses {
        let dialled = if at.client_port {
            dialer.connect_nameless(*addr, at.link_key).await
        } else {
            dialer.connect(*addr, at.link_key).await
        };
        match dialled {
            Ok(connection) => return Ok(connection),
            Err(e) => failure = e,
        }
    }
    Err(failure.into())
}

/// A newer consensus, signatures and times verified: by its difference, or if that is not to be had or leads nowhere,
/// whole.
async fn fetch_body(
    connection: &Connection,
    known: &Authorities,
    now: Wall,
    start: &Start,
) -> Result<Consensus, FetchError> {
    let verify = |unverified: UnverifiedConsensus| unverified.verify(known, now, CLIENT_CLOCK_SKEW);
    if let Start::Held(Held { consensus: base, .. }) = start {
        match ask(connection, &Request::GetConsensusDiff { base: base.hash() }).await? {
            Reply::Ok(bytes) => {
                match ConsensusDiff::decode(&bytes).and_then(|diff| diff.apply(base)).and_then(verify) {
                    Ok(consensus) => return Ok(consensus),
                    Err(e) => debug!("a difference is of no use, the whole consensus is asked for: {e}"),
                }
            }
            Reply::None => return Err(FetchError::NothingNewer),
            Reply::Refused(Refusal::Busy) => return Err(FetchError::Refused(Refusal::Busy)),
            Reply::Refused(_) => {}
        }
    }
    match ask(connection, &Request::GetConsensus { newer_than: start.epoch() }).await? {
        Reply::Ok(bytes) => Ok(verify(UnverifiedConsensus::decode(&bytes)?)?),
        Reply::None => Err(FetchError::NothingNewer),
        Reply::Refused(reason) => Err(FetchError::Refused(reason)),
    }
}

/// The mix keys of a key epoch: those held if they are the same, or changed by the differences, or whole.
async fn fetch_part(
    connection: &Connection,
    consensus: &Consensus,
    part: &KeyEpochPart,
    held: Option<&Held>,
) -> Result<Arc<MixKeys>, FetchError> {
    if let Some((base, keys)) = held.and_then(|held| held.part(part)) {
        if base == part.mix_keys {
            return Ok(Arc::clone(keys));
        }
        match ask(connection, &Request::GetMixKeysDiff { base, to: part.mix_keys }).await? {
            Reply::Ok(bytes) => {
                let changed = MixKeysDiff::apply_all(&bytes, keys).and_then(|changed| changed.verify(consensus));
                match changed {
                    Ok(keys) if keys.key_epoch == part.epoch => return Ok(Arc::new(keys)),
                    Ok(_) => debug!("a difference leads to other mix keys, all of them are asked for"),
                    Err(e) => debug!("a difference is of no use, all mix keys are asked for: {e}"),
                }
            }
            Reply::None | Reply::Refused(_) => {}
        }
    }
    match ask(connection, &Request::GetMixKeys(part.mix_keys)).await? {
        Reply::Ok(bytes) => {
            let keys = UnverifiedMixKeys::decode(&bytes)?.verify(consensus)?;
            if keys.key_epoch != part.epoch {
                return Err(Untrusted::Hash("the mix keys").into());
            }
            Ok(Arc::new(keys))
        }
        Reply::None => Err(FetchError::Incomplete),
        Reply::Refused(reason) => Err(FetchError::Refused(reason)),
    }
}
