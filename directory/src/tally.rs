//! Votes in, consensus out: a pure function, so that all authorities that count the same votes sign the same bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::{
    Authorities, Consensus, ConsensusBody, Descriptor, Extensions, Header, KeyEpochPart, MixKeys, Params, RelayEntry,
    Vote, cut_deals, place,
};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, RelayId};
use posta_protocol::now::Wall;
pub use posta_protocol::params::DESCRIPTOR_LIFETIME_EPOCHS;
use posta_protocol::params::{CONSENSUS_LIFETIME_EPOCHS, MAX_RELAYS};

use crate::randomness;

/// The votes that count, by authority.
pub type Counted<'a> = BTreeMap<AuthorityId, &'a Vote>;

/// What the tally comes to.
#[derive(Debug)]
pub struct Outcome {
    /// What is signed.
    pub header: Header,
    /// The consensus' encoded body.
    pub body: Vec<u8>,
    /// The encoded mix keys with their hashes.
    pub parts: Vec<(Hash, Arc<[u8]>)>,
}

/// The consensus that the next one builds on: the highest that any counted vote proves to be valid.
#[must_use]
pub fn base_of(votes: &Counted<'_>) -> Option<Header> {
    let proven = votes.values().filter_map(|v| v.newest.as_ref()).map(|newest| newest.header);
    // Two for one epoch exist only if a third of the authorities cheats; then all still choose the same.
    proven.max_by(|a, b| a.epoch.cmp(&b.epoch).then(b.hash.cmp(&a.hash)))
}

/// For each relay that a majority lists, the digests among which the descriptor is chosen: the most-voted ones.
///
/// A digest counts only if so many vote for it that one of them is honest. So it can be fetched, and is valid.
#[must_use]
pub fn candidates(authorities: &Authorities, votes: &Counted<'_>) -> BTreeMap<RelayId, Vec<Hash>> {
    let mut tallies: BTreeMap<RelayId, BTreeMap<Hash, usize>> = BTreeMap::new();
    for relay in votes.values().flat_map(|v| &v.relays) {
        *tallies.entry(relay.id).or_default().entry(relay.digest).or_default() += 1;
    }
    tallies.retain(|_, digests| digests.values().sum::<usize>() * 2 > votes.len());
    tallies
        .into_iter()
        .filter_map(|(id, digests)| {
            let most = digests.values().copied().max().unwrap_or(0);
            (most >= authorities.one_honest())
                .then(|| (id, digests.into_iter().filter(|(_, n)| *n == most).map(|(digest, _)| digest).collect()))
        })
        .collect()
}

/// Each parameter that a majority of the votes sets, at its low median.
#[must_use]
pub fn parameters(votes: &Counted<'_>) -> Params {
    let mut values: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    for (code, value) in votes.values().flat_map(|v| v.params.iter()) {
        values.entry(code).or_default().push(value);
    }
    let mut params = Params::default();
    for (code, mut values) in values {
        values.sort_unstable();
        if values.len() * 2 > votes.len()
            && let Some(median) = values.get((values.len() - 1) / 2)
        {
            params.set(code, *median);
        }
    }
    params
}

/// Counts. `descriptor` has all of [`candidates`], and `base` is the one of [`base_of`]. `None` if a descriptor is
/// lacking.
pub fn tally(
    authorities: &Authorities,
    geometry: Geometry,
    epoch: Epoch,
    votes: &Counted<'_>,
    base: Option<&Consensus>,
    descriptor: impl Fn(&Hash) -> Option<Arc<Descriptor>>,
) -> Option<Outcome> {
    let params = parameters(votes);
    let length = Duration::from_millis(params.epoch_ms());
    let valid_after = Wall(epoch.0.saturating_mul(params.epoch_ms()));
    let oldest = Wall(valid_after.0.saturating_sub(params.epoch_ms().saturating_mul(DESCRIPTOR_LIFETIME_EPOCHS)));

    let mut listed: BTreeMap<RelayId, Arc<Descriptor>> = BTreeMap::new();
    for (id, digests) in candidates(authorities, votes) {
        let mut choice: Option<(Wall, Hash, Arc<Descriptor>)> = None;
        for digest in digests {
            let descriptor = descriptor(&digest)?;
            if choice.as_ref().is_none_or(|(at, d, _)| (*at, *d) < (descriptor.published, digest)) {
                choice = Some((descriptor.published, digest, descriptor));
            }
        }
        if let Some((published, _, descriptor)) = choice
            && published >= oldest
            && descriptor.certificate.expires > valid_after
            && descriptor.identity() == id
            && listed.len() < MAX_RELAYS
        {
            listed.insert(id, descriptor);
        }
    }

    let base = base.map(|base| (base.hash(), base.body()));
    let since = |id: &RelayId| {
        let held = base.and_then(|(_, base)| base.relay(id)).map(|relay| relay.listed_since);
        held.unwrap_or(valid_after)
    };
    let shared_random =
        randomness::count(authorities, votes, base.map(|(_, base)| base), valid_after, params.key_epoch_ms());
    let mut body = ConsensusBody {
        geometry,
        epoch,
        valid_after,
        fresh_until: valid_after + length,
        valid_until: valid_after + length * u32::try_from(CONSENSUS_LIFETIME_EPOCHS + 1).unwrap_or(1),
        previous: base.map_or(Hash([0; 32]), |(hash, _)| hash),
        shared_random,
        params,
        key_epochs: Vec::new(),
        relays: listed.iter().map(|(id, d)| entry(*id, d, since(id))).collect(),
        extensions: Extensions::default(),
    };
    cut_deals(&mut body);

    let mut parts = Vec::new();
    for deal in body.shared_random.deals.clone() {
        let key_epoch = deal.key_epoch;
        let keys: Vec<_> =
            listed.iter().filter_map(|(id, d)| d.mix_key(key_epoch).map(|key| (*id, key.clone()))).collect();
        if keys.is_empty() {
            continue;
        }
        for (relay, descriptor) in body.relays.iter_mut().zip(listed.values()) {
            let place = descriptor.mix_key(key_epoch).and_then(|_| place(&deal, relay));
            relay.layers.push(place);
        }
        let part = MixKeys { key_epoch, keys }.encode();
        let hash = MixKeys::hash(&part);
        body.key_epochs.push(KeyEpochPart { epoch: key_epoch, mix_keys: hash });
        parts.push((hash, part.into()));
    }
    let encoded = body.encode();
    Some(Outcome { header: body.header(&encoded), body: encoded, parts })
}

fn entry(id: RelayId, d: &Descriptor, listed_since: Wall) -> RelayEntry {
    RelayEntry {
        id,
        link_key: d.link_key,
        link_addresses: d.link_addresses.clone(),
        client_addresses: d.client_addresses.clone(),
        roles: d.roles,
        family: d.family,
        operator: d.operator,
        capacity: d.capacity,
        listed_since,
        layers: Vec::new(),
    }
}
