//! Whether the network lists a relay: asked once, for its operator.

use posta_link::fetch::{Network, fetch_consensus};
use posta_link::{Audience, Endpoint};
use posta_protocol::document::{Consensus, Position};

use super::clock::wall;
use crate::config::Config;
use crate::failure::Failure;
use crate::keys::Keys;

/// Fetches the newest consensus and says in one sentence how it lists this relay.
///
/// # Errors
/// With the exit code for networks if it doesn't list it, or lists another link key, or can't be fetched.
pub fn listed(config: &Config, network: &Network, keys: &Keys) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::other(format_args!("the system gives no runtime: {e}")))?;
    let consensus = runtime.block_on(async {
        let dialer = Endpoint::dialer(config.link_address.ip(), Audience::Directory, None).map_err(Failure::usage)?;
        fetch_consensus(network, &dialer, wall(), None).await.map_err(Failure::network)
    });
    judge(&consensus?.0, keys)
}

pub(super) fn judge(consensus: &Consensus, keys: &Keys) -> Result<String, Failure> {
    let (relay, epoch) = (keys.relay(), consensus.epoch().0);
    let Some(entry) = consensus.relay(&relay) else {
        return Err(Failure::network(format_args!(
            "relay {} is not in the consensus of epoch {epoch}: start it (posta-node run) and ask again two epochs \
             later; if it runs already, its log says what the authorities refuse",
            relay.short()
        )));
    };
    if entry.link_key != keys.link_public() {
        return Err(Failure::network(format_args!(
            "relay {} is in the consensus of epoch {epoch} with another link key, so no link to it will be admitted: \
             restore the state folder that it ran with, or let it post its new key (posta-node run) and wait two epochs",
            relay.short()
        )));
    }
    let key_epoch = consensus.key_epoch_at(wall());
    let position = match consensus.position(&relay, key_epoch) {
        Some(Position::Edge) => "an edge",
        Some(Position::Mix1) => "a mix of layer 1",
        Some(Position::Mix2) => "a mix of layer 2",
        None => "without a place on any path",
    };
    Ok(format!("listed in the consensus of epoch {epoch}, in key epoch {} {position}", key_epoch.0))
}
