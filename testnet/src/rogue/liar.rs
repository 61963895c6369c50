//! An authority that lies: an honest one that knows the others only through interpreters, who hold its keys.
//!
//! ```text
//! honest core ── port of its own ── interpreter for authority 2 ── the real authority 2
//!                                └─ interpreter for authority 3 ── the real authority 3
//! ```
//! To the core each interpreter is the other authority, by a link key of the interpreter's own; to the others it is this
//! authority, by the real link key. What they say to it is passed on as it is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use posta_directory::config::{Config, Setup};
use posta_directory::driver::{serve, stop_signal};
use posta_link::fetch::connect;
use posta_link::{AnyPeer, Audience, Connection, Endpoint, LinkKey, logs};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{Authorities, Authority, Request, UnverifiedEcho, UnverifiedVote};
use posta_protocol::ids::{AuthorityId, LinkPublicKey};
use posta_protocol::secret::Secret;
use tokio::task::JoinSet;

use super::Does;
use crate::network::wall;

/// What the interpreters lie with.
struct Lies {
    does: Does,
    authorities: Authorities,
    signing: SignKey,
}

impl Lies {
    /// What is said to the n-th of the others instead; `None` for the truth.
    fn instead(&self, n: usize, body: &[u8]) -> Option<Vec<u8>> {
        let said = match (self.does, Request::decode(body).ok()?) {
            (Does::Equivocate, Request::Vote(bytes)) if n.is_multiple_of(2) => {
                let mut vote = UnverifiedVote::decode(&bytes).ok()?.verify(&self.authorities).ok()?;
                vote.published = vote.published + Duration::from_millis(1);
                Request::Vote(vote.sign(&self.signing))
            }
            (Does::Nonsense, Request::Vote(bytes)) => {
                let mut vote = UnverifiedVote::decode(&bytes).ok()?.verify(&self.authorities).ok()?;
                for relay in &mut vote.relays {
                    relay.digest.0 = relay.digest.0.map(|byte| byte ^ 1);
                }
                Request::Vote(vote.sign(&self.signing))
            }
            (Does::Nonsense, Request::Echo(bytes)) => {
                let mut echo = UnverifiedEcho::decode(&bytes).ok()?.verify(&self.authorities).ok()?;
                for (_, hash) in &mut echo.votes {
                    hash.0 = hash.0.map(|byte| byte ^ 1);
                }
                Request::Echo(echo.sign(&self.signing))
            }
            _ => return None,
        };
        Some(said.encode())
    }
}

/// Runs the authority of this configuration, which then lies.
///
/// # Errors
/// As the honest one's.
pub(super) fn run(path: &Path, does: Does) -> Result<()> {
    let config = Config::load(path)?;
    logs::init(config.log_level, "posta-rogue");
    let setup = config.setup(wall())?;
    let lies =
        Lies { does, authorities: setup.settings.authorities.clone(), signing: config.setup(wall())?.signing_key };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(lie(config.listen, setup, Arc::new(lies)))
}

async fn lie(listen: SocketAddr, mut setup: Setup, lies: Arc<Lies>) -> Result<()> {
    let own = AuthorityId(setup.settings.certificate.identity);
    let bind = |at, key: &LinkKey| Endpoint::bind(at, Audience::Directory, key, Arc::new(AnyPeer));
    let any = SocketAddr::new(listen.ip(), 0);
    let front = bind(listen, &setup.link_key)?;
    let inner = bind(any, &setup.link_key)?;
    let core = Authority {
        id: own,
        link_key: setup.link_key.public(),
        addresses: vec![inner.local_addr().context("the inner port")?],
    };
    let (mut known, mut interpreters) = (Vec::new(), HashMap::new());
    let mut tasks = JoinSet::new();
    let others = lies.authorities.list().iter().filter(|authority| authority.id != own);
    for (n, other) in others.enumerate() {
        let key = LinkKey::from_seed(&Secret::random(&mut rand::rng()))?;
        let port = bind(any, &key)?;
        known.push(Authority { id: other.id, link_key: key.public(), addresses: vec![port.local_addr()?] });
        interpreters.insert(other.link_key, port.clone());
        tasks.spawn(interpret(port, n, other.clone(), front.clone(), Arc::clone(&lies)));
    }
    known.push(core.clone());
    setup.settings.authorities = Authorities::new(known)?;
    tasks.spawn(receive(front, interpreters, core));
    serve(inner, setup, stop_signal()?).await?;
    Ok(())
}

/// Passes on what the core says to one of the others, or something else.
async fn interpret(port: Endpoint, n: usize, other: Authority, front: Endpoint, lies: Arc<Lies>) {
    let mut connections = JoinSet::new();
    while let Some(from_core) = port.accept().await {
        let Ok(to_other) = connect(&other, &front).await else { continue };
        let lies = Arc::clone(&lies);
        connections.spawn(pass_on(from_core, to_other, move |body| lies.instead(n, body)));
    }
}

/// Passes on what others say to the core.
async fn receive(front: Endpoint, interpreters: HashMap<LinkPublicKey, Endpoint>, core: Authority) {
    let Ok(stranger) = Endpoint::dialer(front_ip(&core), Audience::Directory, None) else { return };
    let mut connections = JoinSet::new();
    while let Some(from) = front.accept().await {
        let dialer = from.peer().and_then(|key| interpreters.get(&key)).unwrap_or(&stranger);
        let Ok(to_core) = connect(&core, dialer).await else { continue };
        connections.spawn(pass_on(from, to_core, |_| None));
    }
}

fn front_ip(core: &Authority) -> std::net::IpAddr {
    core.addresses.first().map_or_else(|| std::net::Ipv4Addr::LOCALHOST.into(), SocketAddr::ip)
}

async fn pass_on(from: Connection, to: Connection, instead: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut requests = JoinSet::new();
    loop {
        // Where one side is gone the other one is told, so that it dials again.
        let (body, responder) = tokio::select! {
            asked = from.next_request(Request::MAX_AUTHORITY_LEN) => match asked {
                Ok(asked) => asked,
                Err(_) => break,
            },
            _ = to.closed() => break,
        };
        let body = instead(&body).unwrap_or(body);
        let max = Request::decode(&body).map_or(0, |request| request.max_reply());
        let to = to.clone();
        requests.spawn(async move {
            if let Ok(reply) = to.request(&body, max).await {
                // Whoever asked may be gone; dropped without a reply, it is told.
                let _ = responder.reply(&reply).await;
            }
        });
    }
    from.close();
    to.close();
}
