//! This relay as a mirror of the directory, and the others as mirrors for this one.

use std::sync::Arc;

use posta_link::fetch::{Mirror, Mirrors};
use posta_protocol::document::{Consensus, MixKeys, Shelf};
use posta_protocol::ids::RelayId;
use rand::seq::IndexedRandom;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::warn;

/// Relays that are asked if no authority answers.
const MIRRORS: usize = 3;

/// What is mirrored at the start: the consensus from the disk, without mix keys.
pub(super) fn first(known: Option<&Arc<Consensus>>) -> Arc<Shelf> {
    let mut shelf = Shelf::default();
    if let Some(consensus) = known {
        shelf.put(Arc::clone(consensus), Vec::new());
    }
    Arc::new(shelf)
}

/// Mirrors what was fetched. In a thread of its own: with thousands of relays it takes a while.
pub(super) async fn put(shelf: &watch::Sender<Arc<Shelf>>, consensus: &Arc<Consensus>, keys: &[Arc<MixKeys>]) {
    let (mut next, consensus, keys) = (Shelf::clone(&shelf.borrow()), Arc::clone(consensus), keys.to_vec());
    let made = spawn_blocking(move || {
        let part = |keys: &Arc<MixKeys>| Some((consensus.mix_keys_hash(keys.key_epoch)?, keys.encode().into()));
        let parts = keys.iter().filter_map(part).collect();
        next.put(consensus, parts);
        next
    });
    match made.await {
        Ok(next) => drop(shelf.send_replace(Arc::new(next))),
        Err(e) => warn!("the newest consensus is not mirrored: {e}"),
    }
}

/// Some others at random, at the ports where relays dial: for when the authorities can't be reached.
pub(super) fn others(consensus: &Consensus, me: &RelayId) -> Mirrors {
    let relays: Vec<_> = consensus.relays().iter().filter(|relay| relay.id != *me).collect();
    let chosen = relays.sample(&mut rand::rng(), MIRRORS).map(|relay| Mirror {
        link_key: relay.link_key,
        addresses: relay.link_addresses.clone(),
        client_port: false,
    });
    Mirrors { before: Vec::new(), after: chosen.collect() }
}
