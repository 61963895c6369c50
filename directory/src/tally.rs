//! Votes in, consensus out: a pure function, so that all authorities that count the same votes sign the same bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::{
    Authorities, Class, Consensus, ConsensusBody, Descriptor, Extensions, Header, KeyEpochPart, Missed, MixKeys,
    Params, RelayEntry, Standing, Vote, cut_deals, place,
};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, RelayId};
use posta_protocol::now::Wall;
pub use posta_protocol::params::DESCRIPTOR_LIFETIME_EPOCHS;
use posta_protocol::params::{CONSENSUS_LIFETIME_EPOCHS, LISTING_GRACE_EPOCHS, MAX_RELAYS};

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
            && !matches!(params.standing(descriptor.protocols), Standing::TooOld(_))
            && listed.len() < MAX_RELAYS
        {
            listed.insert(id, descriptor);
        }
    }

    let base = base.map(|base| (base.hash(), base.body()));
    let since = |id: &RelayId| base.and_then(|(_, base)| base.listed_since(id)).unwrap_or(valid_after);
    let classes = classes(votes);
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
        missed: base.map(|(_, base)| missed(base, &listed, epoch)).unwrap_or_default(),
        relays: listed
            .iter()
            .map(|(id, d)| entry(*id, d, since(id), classes.get(id).copied().unwrap_or_default()))
            .collect(),
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

/// The mixes that the base lists, or misses, and that aren't listed now: those that may come back as if they had never gone.
fn missed(base: &ConsensusBody, listed: &BTreeMap<RelayId, Arc<Descriptor>>, epoch: Epoch) -> Vec<Missed> {
    let before = base.missed.iter().filter(|missed| epoch.0 < missed.from.0.saturating_add(LISTING_GRACE_EPOCHS));
    let now = base.relays.iter().filter(|relay| !relay.roles.edge);
    let now = now.map(|relay| Missed { id: relay.id, listed_since: relay.listed_since, from: epoch });
    let mut all: Vec<Missed> = before.copied().chain(now).filter(|missed| !listed.contains_key(&missed.id)).collect();
    all.sort_unstable_by_key(|missed| missed.id);
    all.truncate(MAX_RELAYS);
    all
}

/// Each relay's class: the low median of all counted votes, of which those that don't list it have not measured it. So
/// fewer than half can neither flag a relay nor whitewash one.
#[must_use]
pub fn classes(votes: &Counted<'_>) -> BTreeMap<RelayId, Class> {
    let mut measured: BTreeMap<RelayId, Vec<Class>> = BTreeMap::new();
    for relay in votes.values().flat_map(|vote| &vote.relays) {
        measured.entry(relay.id).or_default().push(relay.class);
    }
    let of = |(id, mut classes): (RelayId, Vec<Class>)| {
        classes.resize(votes.len(), Class::default());
        Some((id, Class { reliability: median(&classes, |c| c.reliability)?, speed: median(&classes, |c| c.speed)? }))
    };
    measured.into_iter().filter_map(of).collect()
}

fn median<T: Ord + Copy>(classes: &[Class], what: impl Fn(&Class) -> T) -> Option<T> {
    let mut values: Vec<T> = classes.iter().map(what).collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

fn entry(id: RelayId, d: &Descriptor, listed_since: Wall, class: Class) -> RelayEntry {
    RelayEntry {
        id,
        link_key: d.link_key,
        link_addresses: d.link_addresses.clone(),
        client_addresses: d.client_addresses.clone(),
        roles: d.roles,
        family: d.family.map(|family| family.key),
        operator: d.operator,
        capacity: d.capacity,
        protocols: d.protocols,
        class,
        listed_since,
        layers: Vec::new(),
    }
}
