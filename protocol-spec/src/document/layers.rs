//! Mixes are dealt to two layers for each key epoch anew, in an order that nobody could know beforehand.
//!
//! The order is that of a hash of the key epoch's random value and the mix. It is cut once, by the first consensus that
//! has the value, such that both sides have as much capacity as can be. From then on a mix' layer depends on its own
//! hash and the cut alone: who joins or leaves moves nobody else, and everyone can check each place.
//!
//! Capacity is the relay's own word. A liar must not stand alone in its layer, so neither has less than a third of the
//! mixes, nor less than the parameter `LAYER_MIN`. Where that is not possible nobody is dealt, and the network is
//! refused as too small ([`TooFewMixes`]).

use core::borrow::Borrow;

use thiserror::Error;

use super::randomness::{Cut, Deal, deals_after};
use super::{Authorities, Consensus, ConsensusBody, MixKeys, Position, RelayEntry};
use crate::codec::Writer;
use crate::crypto::context::LAYERS;
use crate::crypto::hash;
use crate::ids::{Hash, KeyEpoch, RelayId};
use crate::now::Wall;
use crate::params::{LAYER_SMALLEST_PART, MIN_EDGES};

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
    /// Too few edges.
    #[error("the network is too small: it has {got} edges in key epoch {key_epoch}, a path needs {MIN_EDGES}")]
    TooFewEdges {
        /// The key epoch.
        key_epoch: u64,
        /// Edges that it has.
        got: usize,
    },
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
    /// The consensus is not newer than the one held.
    #[error("a consensus of epoch {got} is older than the one held, of epoch {held}: it is refused")]
    NotNewer {
        /// Its epoch.
        got: u64,
        /// The epoch of the one held.
        held: u64,
    },
    /// The consensus does not build on the one given.
    #[error("the consensus does not build on the one given")]
    NotNext,
    /// A random value does not follow from the consensus before.
    #[error("the random value of key epoch {0} does not follow from the consensus before")]
    Random(u64),
}

impl WrongLayers {
    /// Whether nothing is wrong but the network's size: more relays mend it.
    #[must_use]
    pub const fn too_small(&self) -> bool {
        matches!(self, Self::TooFew(_) | Self::TooFewEdges { .. })
    }
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

/// What a mix brings to its layer: its own word on its capacity, as far as the authorities' measurements bear it out.
fn weight(relay: &RelayEntry) -> u64 {
    (u64::from(relay.capacity) * u64::from(relay.class.weight())).max(1)
}

/// Cuts the order of the mixes that take part into two layers of equal capacity, as far as both hold enough mixes.
///
/// # Errors
/// [`TooFewMixes`].
pub fn cut(deal: &Deal, relays: &[RelayEntry], layer_min: usize) -> Result<Hash, TooFewMixes> {
    let mut mixes: Vec<(Hash, u64)> = relays
        .iter()
        .filter(|relay| takes_part(deal, relay))
        .map(|relay| (order(deal, &relay.id), weight(relay)))
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
/// [`WrongLayers`]; above all [`TooFewMixes`], if the network has no layers or one of them holds too few mixes. That one
/// comes only if nothing else is wrong.
pub fn verify_layers(consensus: &Consensus, mix_keys: &MixKeys) -> Result<(), WrongLayers> {
    check(consensus, mix_keys.key_epoch, |relay, _| mix_keys.get(&relay.id).is_some())
}

/// As [`verify_layers`] for all key epochs of a consensus of which the mix keys are not at hand, because it was kept
/// without them: who has no place is taken to have no key. Key epochs with too few mixes pass.
///
/// # Errors
/// [`WrongLayers`], but never that there are too few.
pub fn verify_kept(consensus: &Consensus) -> Result<(), WrongLayers> {
    consensus.key_epochs().iter().try_for_each(|part| {
        let checked = check(consensus, part.epoch, |_, placed| placed);
        checked.or_else(|wrong| if wrong.too_small() { Ok(()) } else { Err(wrong) })
    })
}

/// What everyone checks who is going to use a consensus: each place in every key epoch for which there are mix keys, and
/// that the present key epoch has layers, with enough mixes in both, and enough edges. Later key epochs may lack them
/// still.
///
/// # Errors
/// [`WrongLayers`]; [`WrongLayers::too_small`] tells a network that is too small from a consensus that is wrong.
pub fn verify_usable(consensus: &Consensus, parts: &[impl Borrow<MixKeys>], now: Wall) -> Result<(), WrongLayers> {
    let body = consensus.body();
    let of = |at: Wall| Some(consensus.key_epoch_at(at)).filter(|epoch| body.shared_random.deal(*epoch).is_some());
    let present = of(now).unwrap_or_else(|| consensus.key_epoch_at(body.valid_after));
    let mut small = None;
    let parts = || parts.iter().map(Borrow::borrow);
    for part in parts() {
        match verify_layers(consensus, part) {
            Err(wrong) if !wrong.too_small() => return Err(wrong),
            Err(few) if part.key_epoch == present => small = Some(few),
            Ok(()) | Err(_) => {}
        }
    }
    if let Some(few) = small {
        return Err(few);
    }
    let deal = body.shared_random.deal(present).ok_or(WrongLayers::KeyEpoch(present.0))?;
    if !parts().any(|part: &MixKeys| part.key_epoch == present) {
        cut(deal, &body.relays, body.params.layer_min())?;
        return Err(WrongLayers::KeyEpoch(present.0));
    }
    let edges = consensus.relays_at(present, Position::Edge).count();
    if edges < MIN_EDGES {
        return Err(WrongLayers::TooFewEdges { key_epoch: present.0, got: edges });
    }
    Ok(())
}

/// Checks one key epoch; `keyed` is given a relay and whether it has a place.
fn check(
    consensus: &Consensus,
    key_epoch: KeyEpoch,
    keyed: impl Fn(&RelayEntry, bool) -> bool,
) -> Result<(), WrongLayers> {
    let body = consensus.body();
    let missing = WrongLayers::KeyEpoch(key_epoch.0);
    let deal = body.shared_random.deal(key_epoch).ok_or(missing)?;
    if !body.key_epochs.iter().any(|part| part.epoch == key_epoch) {
        return Err(missing);
    }
    let layer_min = body.params.layer_min();
    let few = match deal.cut {
        // No places, then; and if there could be some, somebody has left them out.
        None => match cut(deal, &body.relays, layer_min) {
            Ok(_) => return Err(WrongLayers::Cut(key_epoch.0)),
            Err(few) => Some(few),
        },
        Some(held) if held.dealt == body.epoch && cut(deal, &body.relays, layer_min) != Ok(held.last) => {
            return Err(WrongLayers::Cut(key_epoch.0));
        }
        Some(_) => None,
    };
    let mut sizes = [0_usize; 2];
    for relay in &body.relays {
        let placed = consensus.position(&relay.id, key_epoch);
        let expected = place(deal, relay).filter(|_| keyed(relay, placed.is_some()));
        if placed != expected {
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
    if let Some(few) = few {
        return Err(few.into());
    }
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

/// How a newer consensus stands to the one held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// It builds on the one held, and its random values follow from it.
    Next,
    /// Others came between, and what both say of the same key epochs agrees.
    Later,
    /// It does not build on the one held, although it should: the chain is broken. It is taken all the same, both are kept,
    /// and people are told.
    Break,
}

/// Compares a newer consensus with the one held.
///
/// # Errors
/// [`WrongLayers::NotNewer`] for one that isn't newer: it must not be taken. [`WrongLayers::Random`] or
/// [`WrongLayers::Cut`] for one that builds on the one held and has made up its random values.
pub fn verify_succession(
    consensus: &Consensus,
    held: &Consensus,
    authorities: &Authorities,
) -> Result<Succession, WrongLayers> {
    if consensus.epoch() <= held.epoch() {
        return Err(WrongLayers::NotNewer { got: consensus.epoch().0, held: held.epoch().0 });
    }
    if consensus.body().previous == held.hash() {
        return verify_random(consensus, held, authorities).map(|()| Succession::Next);
    }
    // A random value stays for as long as it is in use; so does a cut, once it is made.
    let stays = |new: &Deal| {
        let old = held.body().shared_random.deal(new.key_epoch);
        old.is_none_or(|old| Deal { cut: old.cut, ..*new } == *old && (old.cut.is_none() || old.cut == new.cut))
    };
    let carried = consensus.body().shared_random.deals.iter().all(stays);
    let skipped = consensus.epoch() > held.epoch().next();
    Ok(if carried && skipped { Succession::Later } else { Succession::Break })
}

#[cfg(test)]
mod tests;
