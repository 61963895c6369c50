//! Mixes are dealt to two layers, for each key epoch anew, in an order that nobody could know beforehand.

use std::collections::BTreeMap;

use posta_protocol::codec::Writer;
use posta_protocol::crypto::context::LAYERS;
use posta_protocol::crypto::hash;
use posta_protocol::document::{Consensus, Position};
use posta_protocol::ids::{KeyEpoch, RelayId};

/// Assigns the mixes of one key epoch.
///
/// What the consensus before this one has assigned stays, because packets under way rely on it. The others come in the
/// order of a hash over the shared random value, and each goes to the layer that is smaller.
#[must_use]
pub fn assign(
    base: Option<&Consensus>,
    shared_random: &[u8; 32],
    key_epoch: KeyEpoch,
    mixes: &[RelayId],
) -> BTreeMap<RelayId, Position> {
    let mut assigned = BTreeMap::new();
    let mut sizes = [0_usize; 2];
    let mut newcomers = Vec::new();
    for id in mixes {
        match base.and_then(|base| base.position(id, key_epoch)) {
            Some(position @ (Position::Mix1 | Position::Mix2)) => {
                let [first, second] = &mut sizes;
                *(if position == Position::Mix1 { first } else { second }) += 1;
                assigned.insert(*id, position);
            }
            Some(Position::Edge) | None => {
                let mut w = Writer::with_capacity(72);
                w.bytes(shared_random);
                w.u64(key_epoch.0);
                id.write(&mut w);
                newcomers.push((hash(LAYERS, &w.finish()), *id));
            }
        }
    }
    newcomers.sort_unstable();
    let [mut first, mut second] = sizes;
    for (_, id) in newcomers {
        let position = if first <= second { Position::Mix1 } else { Position::Mix2 };
        *(if position == Position::Mix1 { &mut first } else { &mut second }) += 1;
        assigned.insert(id, position);
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_balanced_and_depend_on_the_random_value() {
        let mixes: Vec<_> = (0..9).map(|n| RelayId([n; 32])).collect();
        let one = assign(None, &[1; 32], KeyEpoch(5), &mixes);
        assert_eq!(one.values().filter(|p| **p == Position::Mix1).count(), 5);
        assert_eq!(one, assign(None, &[1; 32], KeyEpoch(5), &mixes));
        assert_ne!(one, assign(None, &[2; 32], KeyEpoch(5), &mixes));
        assert_ne!(one, assign(None, &[1; 32], KeyEpoch(6), &mixes));
    }

    #[test]
    fn two_mixes_are_in_two_layers() {
        let mixes = [RelayId([1; 32]), RelayId([2; 32])];
        let both: std::collections::BTreeSet<_> = assign(None, &[1; 32], KeyEpoch(5), &mixes).into_values().collect();
        assert_eq!(both.len(), 2);
    }
}
