//! The two ports: one for relays, and at an edge one for clients. Both mirror documents.

use std::sync::Arc;

use posta_link::{Admit, AnyPeer, Audience, Endpoint, PortLimits};
use posta_protocol::ids::LinkPublicKey;
use tokio::sync::watch;

use super::links::{self, Held};
use crate::config::{Config, Role};
use crate::failure::Failure;
use crate::keys::Keys;

/// The ports. Relays are admitted by the newest consensus, whatever it is at that moment, until the relay stops.
pub(super) fn bind(
    config: &Config,
    keys: &Keys,
    consensus: &Held,
    stopping: watch::Receiver<bool>,
) -> Result<(Endpoint, Option<Endpoint>), Failure> {
    let consensus = consensus.clone();
    let admit = move |key: &LinkPublicKey| {
        !*stopping.borrow()
            && consensus.borrow().as_ref().is_some_and(|consensus| links::listed(consensus, key).is_some())
    };
    let admit: Arc<dyn Admit> = Arc::new(admit);
    let port = |audience| PortLimits { mirror: true, ..config.limits.port(audience) };
    let (address, audience) = (config.link_address, Audience::Link);
    let link = Endpoint::bind_limited(address, audience, keys.link(), admit, port(audience)).map_err(Failure::usage)?;
    let client = if config.offers(Role::Edge) {
        let (address, audience) = (config.client_address, Audience::Client);
        let bound = Endpoint::bind_limited(address, audience, keys.link(), Arc::new(AnyPeer), port(audience));
        Some(bound.map_err(Failure::usage)?)
    } else {
        None
    };
    Ok((link, client))
}
