//! Whether this relay can be reached from outside: other relays are asked to dial its addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use posta_link::fetch::{Network, fetch_signed};
use posta_link::reach::{IsTheirs, ask_to_reach};
use posta_link::{Audience, Connection, Endpoint};
use posta_protocol::document::{Consensus, Reached, RelayEntry};
use posta_protocol::ids::LinkPublicKey;
use rand::seq::IndexedRandom;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::clock::wall;
use super::links::Held;
use crate::config::Config;
use crate::failure::Failure;
use crate::keys::Keys;

/// Relays that are asked.
const ASKED: usize = 5;
/// How long one of them may take for all addresses.
const PATIENCE: Duration = Duration::from_secs(30);

/// What others say of one address.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Address {
    /// `link` or `client`.
    pub(crate) port: &'static str,
    /// The address, as the consensus lists it.
    pub(crate) address: SocketAddr,
    /// How many relays reached this one there.
    pub(crate) reached: usize,
    /// How many got no answer.
    pub(crate) silent: usize,
    /// How many met somebody else there, or a refusal.
    pub(crate) other: usize,
    /// How many have no address of that kind themselves.
    pub(crate) unable: usize,
}

impl Address {
    const fn note(&mut self, what: Reached) {
        match what {
            Reached::Yes => self.reached += 1,
            Reached::Silent => self.silent += 1,
            Reached::Other => self.other += 1,
            Reached::Unable => self.unable += 1,
        }
    }

    /// One sentence.
    pub(crate) fn says(&self) -> String {
        let asked = self.reached + self.silent + self.other;
        let port = if self.port == "link" { "relays" } else { "clients" };
        let at = format!("{} (for {port})", self.address);
        match (asked, self.reached) {
            (0, _) => format!("{at}: nobody could try: none of those asked has an address of that kind"),
            (_, 0) if self.other > 0 => {
                format!("{at}: somebody else answers there, or this relay refuses: is it running, with this link key?")
            }
            (_, 0) => format!(
                "{at}: not reached by any of {asked} relays: open UDP port {} in the firewall, and forward it here if the \
                 address is translated",
                self.address.port()
            ),
            (asked, reached) if asked == reached => format!("{at}: reached by all of {asked} relays"),
            (asked, reached) => format!("{at}: reached by {reached} of {asked} relays"),
        }
    }
}

/// The whole verdict.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    /// Whether each address was reached by somebody.
    pub(crate) reached: bool,
    /// Relays that answered.
    pub(crate) asked: usize,
    /// Address by address.
    pub(crate) addresses: Vec<Address>,
}

/// Whether an address is one of the relay with this key, by the newest consensus.
pub(super) fn is_theirs(consensus: Held) -> Arc<IsTheirs> {
    Arc::new(move |key: &LinkPublicKey, client: bool, address: &SocketAddr| {
        let held = consensus.borrow().clone();
        let entry = held.as_ref().and_then(|held| held.relays().iter().find(|relay| relay.link_key == *key));
        entry
            .is_some_and(|entry| if client { &entry.client_addresses } else { &entry.link_addresses }.contains(address))
    })
}

/// Asks some other relays to dial all addresses that the consensus lists for this one. It must be running.
///
/// # Errors
/// [`Failure`] if it isn't listed, or nobody can be asked.
pub(crate) fn reach(config: &Config, network: &Network, keys: &Keys) -> Result<Verdict, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::other(format_args!("the system gives no runtime: {e}")))?;
    runtime.block_on(async {
        let dialer = Endpoint::dialer(config.link_address.ip(), Audience::Directory, Some(keys.link()));
        let dialer = dialer.map_err(Failure::usage)?;
        let (consensus, _) = fetch_signed(network, &dialer, wall(), None).await.map_err(Failure::network)?;
        super::listed::judge(&consensus, keys)?;
        let entry = consensus.relay(&keys.relay()).ok_or_else(|| Failure::network("this relay is not listed"))?;
        ask_others(&consensus, entry, &dialer).await
    })
}

async fn ask_others(consensus: &Consensus, me: &RelayEntry, dialer: &Endpoint) -> Result<Verdict, Failure> {
    let own = |client: bool, list: &[SocketAddr]| list.iter().map(|at| (client, *at)).collect::<Vec<_>>();
    let addresses = [own(false, &me.link_addresses), own(true, &me.client_addresses)].concat();
    // Relays of others first: what is reached from the next machine may not be reached from outside.
    let (others, akin): (Vec<_>, Vec<_>) =
        consensus.relays().iter().filter(|relay| relay.id != me.id).partition(|relay| relay.operator != me.operator);
    let mut rng = rand::rng();
    let mut chosen: Vec<_> = others.sample(&mut rng, ASKED).copied().collect();
    chosen.extend(akin.sample(&mut rng, ASKED - chosen.len()).copied());
    let mut asked = JoinSet::new();
    for relay in chosen {
        let (key, at, dialer, addresses) =
            (relay.link_key, relay.link_addresses.clone(), dialer.clone(), addresses.clone());
        asked.spawn(async move {
            let ask = async {
                let connection = dial(&dialer, key, &at).await?;
                let mut found = Vec::with_capacity(addresses.len());
                for (client, address) in addresses {
                    found.push(((client, address), ask_to_reach(&connection, client, address).await.ok()?));
                }
                connection.close();
                Some(found)
            };
            timeout(PATIENCE, ask).await.ok().flatten()
        });
    }
    let new = |&(client, address): &(bool, SocketAddr)| {
        let port = if client { "client" } else { "link" };
        ((client, address), Address { port, address, reached: 0, silent: 0, other: 0, unable: 0 })
    };
    let mut found: BTreeMap<_, _> = addresses.iter().map(new).collect();
    let answers: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
    for (of, what) in answers.iter().flatten() {
        if let Some(address) = found.get_mut(of) {
            address.note(*what);
        }
    }
    if answers.is_empty() {
        return Err(Failure::network(
            "no other relay could be asked: check that this machine may send UDP, and that the relay is listed with its \
             present link key (posta-node check --listed)",
        ));
    }
    let addresses: Vec<_> = found.into_values().collect();
    Ok(Verdict { reached: addresses.iter().all(|one| one.reached > 0), asked: answers.len(), addresses })
}

async fn dial(dialer: &Endpoint, key: LinkPublicKey, at: &[SocketAddr]) -> Option<Connection> {
    for address in at {
        if let Ok(connection) = dialer.connect(*address, key).await {
            return Some(connection);
        }
    }
    None
}
