//! Mixes are dealt to two layers for each key epoch anew, in an order that nobody could know beforehand.
//!
//! The order is that of a hash of the key epoch's random value and the mix. It is cut once, by the first consensus that
//! has the value, such that both sides have as much capacity as can be. From then on a mix' layer depends on its own
//! hash and the cut alone: who joins or leaves moves nobody else, and everyone can check each place.
//!
//! Capacity is the relay's own word. A liar must not stand alone in its layer, so neither has less than a third of the
//! mixes, nor less than the parameter `LAYER_MIN`. Where that is not possible nobody is dealt, and the network is
//! refused as too small ([`TooFewMixes`]).

use thiserror::Error;

use super::randomness::{Cut, Deal, deals_after};
use super::{Authorities, Consensus, ConsensusBody, MixKeys, Position, RelayEntry};
use crate::codec::Writer;
use crate::crypto::context::LAYERS;
use crate::crypto::hash;
use crate::ids::{Hash, KeyEpoch, RelayId};
use crate::params::LAYER_SMALLEST_PART;

/// The network is too small to have layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the network is too small: {got} mixes were listed in time for key epoch {key_epoch}, two layers need {need}")]
pub struct TooFewMixes {
    /// The key epoch.
    pub key_epoch: u64,
    /// Mixes that take part.
    pub got: usize,
    /// How many it takes: twice `LAYER_MIN`.
    pub need: usize,
}

/// Why a consensus' layers must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WrongLayers {
    /// Too few mixes.
    #[error(transparent)]
    TooFew(#[from] TooFewMixes),
    /// The consensus says nothing of this key epoch.
    #[error("the consensus has no layers for key epoch {0}")]
    KeyEpoch(u64),
    /// A relay stands where it shouldn't, or isn't where it should be.
    #[error("relay {} is not where the shared randomness puts it in key epoch {key_epoch}", .relay.short())]
    Place {
        /// The relay.
        relay: RelayId,
        /// The key epoch.
        key_epoch: u64,
    },
    /// The order is cut at another place than capacities say.
    #[error("the mixes of key epoch {0} are not cut into layers as their capacities say")]
    Cut(u64),
    /// The consensus does not build on the one given.
    #[error("the consensus does not build on the one given")]
    NotNext,
    /// A random value does not follow from the consensus before.
    #[error("the random value of key epoch {0} does not follow from the consensus before")]
    Random(u64),
}

fn order(deal: &Deal, relay: &RelayId) -> Hash {
    let mut w = Writer::with_capacity(72);
    w.bytes(&deal.random);
    w.u64(deal.key_epoch.0);
    relay.write(&mut w);
    hash(LAYERS, &w.finish())
}

/// Whether a relay is one of those that are dealt.
fn takes_part(deal: &Deal, relay: &RelayEntry) -> bool {
    relay.roles.mix && !relay.roles.edge && relay.listed_since < deal.listed_before
}

/// Where a relay stands in a deal's key epoch, if it has a key: an edge at the edge, a mix that takes part where its
/// hash lies. `None` for a mix that came too late, or if there are no layers.
#[must_use]
pub fn place(deal: &Deal, relay: &RelayEntry) -> Option<Position> {
    if relay.roles.edge {
        return Some(Position::Edge);
    }
    let cut = deal.cut.filter(|_| takes_part(deal, relay))?;
    Some(if order(deal, &relay.id) <= cut.last { Position::Mix1 } else { Position::Mix2 })
}

/// Cuts the order of the mixes that take part into two layers of equal capacity, as far as both hold enough mixes.
///
/// # Errors
/// [`TooFewMixes`].
pub fn cut(deal: &Deal, relays: &[RelayEntry], layer_min: usize) -> Result<Hash, TooFewMixes> {
    let mut mixes: Vec<(Hash, u64)> = relays
        .iter()
        .filter(|relay| takes_part(deal, relay))
        .map(|relay| (order(deal, &relay.id), u64::from(relay.capacity.max(1))))
        .collect();
    mixes.sort_unstable();
    let least = mixes.len().div_ceil(LAYER_SMALLEST_PART).max(layer_min).max(1);
    let total: u64 = mixes.iter().map(|(_, capacity)| capacity).sum();
    let mut first = 0;
    let sums = mixes.iter().map(|(hash, capacity)| {
        first += capacity;
        (*hash, first)
    });
    let few = TooFewMixes { key_epoch: deal.key_epoch.0, got: mixes.len(), need: 2 * layer_min.max(1) };
    let most = mixes.len().checked_sub(least).ok_or(few)?;
    // Of two cuts that are as good the earlier one: `min_by_key` takes the first.
    let best = sums.take(most).skip(least - 1).min_by_key(|(_, first)| (2 * first).abs_diff(total));
    best.map(|(hash, _)| hash).ok_or(few)
}

/// Cuts where it has not been done yet.
pub fn cut_deals(body: &mut ConsensusBody) {
    let layer_min = body.params.layer_min();
    for deal in body.shared_random.deals.iter_mut().filter(|deal| deal.cut.is_none()) {
        deal.cut = cut(deal, &body.relays, layer_min).ok().map(|last| Cut { dealt: body.epoch, last });
    }
}

/// Checks every place of one key epoch, given its mix keys: all of it follows from this consensus alone. Where the
/// order is cut can be checked in the consensus that has dealt, and in all later ones by [`verify_random`].
///
/// # Errors
/// [`WrongLayers`]; above all [`TooFewMixes`], if the network has no layers or one of them holds too few mixes.
pub fn verify_layers(consensus: &Consensus, mix_keys: &MixKeys) -> Result<(), WrongLayers> {
    let (body, key_epoch) = (consensus.body(), mix_keys.key_epoch);
    let missing = WrongLayers::KeyEpoch(key_epoch.0);
    let deal = body.shared_random.deal(key_epoch).ok_or(missing)?;
    if !body.key_epochs.iter().any(|part| part.epoch == key_epoch) {
        return Err(missing);
    }
    let layer_min = body.params.layer_min();
    match deal.cut {
        None => {
            // No places, then; and if there could be some, somebody has left them out.
            cut(deal, &body.relays, layer_min)?;
            return Err(WrongLayers::Cut(key_epoch.0));
        }
        Some(held) if held.dealt == body.epoch && cut(deal, &body.relays, layer_min)? != held.last => {
            return Err(WrongLayers::Cut(key_epoch.0));
        }
        Some(_) => {}
    }
    let mut sizes = [0_usize; 2];
    for relay in &body.relays {
        let expected = mix_keys.get(&relay.id).and_then(|_| place(deal, relay));
        if consensus.position(&relay.id, key_epoch) != expected {
            return Err(WrongLayers::Place { relay: relay.id, key_epoch: key_epoch.0 });
        }
        let [first, second] = &mut sizes;
        match expected {
            Some(Position::Mix1) => *first += 1,
            Some(Position::Mix2) => *second += 1,
            Some(Position::Edge) | None => {}
        }
    }
    let [first, second] = sizes;
    if first.min(second) < layer_min {
        return Err(TooFewMixes { key_epoch: key_epoch.0, got: first + second, need: 2 * layer_min }.into());
    }
    Ok(())
}

/// Checks that the random values and cuts of a consensus follow from the one before it: who holds both needs to believe
/// the authorities in neither.
///
/// # Errors
/// [`WrongLayers::NotNext`], [`WrongLayers::Random`] or [`WrongLayers::Cut`].
pub fn verify_random(
    consensus: &Consensus,
    previous: &Consensus,
    authorities: &Authorities,
) -> Result<(), WrongLayers> {
    let (body, base) = (consensus.body(), previous.body());
    if body.previous != previous.hash() {
        return Err(WrongLayers::NotNext);
    }
    let ms = body.params.key_epoch_ms();
    let expected = deals_after(Some(base), authorities.threshold(), body.valid_after, ms, &[]);
    let current = KeyEpoch(body.valid_after.0 / ms).0;
    if expected.len() != body.shared_random.deals.len() {
        return Err(WrongLayers::Random(current));
    }
    for (expected, deal) in expected.iter().zip(&body.shared_random.deals) {
        if (Deal { cut: expected.cut, ..*deal }) != *expected {
            return Err(WrongLayers::Random(expected.key_epoch.0));
        }
        let fresh = match cut(deal, &body.relays, body.params.layer_min()) {
            Ok(last) => Some(Cut { dealt: body.epoch, last }),
            Err(_) => None,
        };
        if deal.cut != expected.cut.or(fresh) {
            return Err(WrongLayers::Cut(deal.key_epoch.0));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
