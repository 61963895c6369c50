//! Counting commits and reveals. What they are for, and what an authority can and can't do by withholding, is told in
//! [`posta_protocol::document::SharedRandom`]'s module.

use std::collections::BTreeMap;

use posta_protocol::document::{
    Authorities, ConsensusBody, Deal, Origin, Reveal, SharedRandom, close_round, commits_close, cut, deals_after,
    random_commit,
};
use posta_protocol::ids::{AuthorityId, Hash, KeyEpoch};
use posta_protocol::now::Wall;

use crate::tally::Counted;

/// What the next consensus says of the shared randomness; its deals are not cut yet.
#[must_use]
pub fn count(
    authorities: &Authorities,
    votes: &Counted<'_>,
    base: Option<&ConsensusBody>,
    valid_after: Wall,
    key_epoch_ms: u64,
) -> SharedRandom {
    let (threshold, current) = (authorities.threshold(), KeyEpoch(valid_after.0 / key_epoch_ms));
    let first: Vec<(AuthorityId, Hash)> =
        votes.iter().filter_map(|(voter, vote)| vote.random.commit_of(voter).map(|commit| (*voter, commit))).collect();
    let deals = deals_after(base, threshold, valid_after, key_epoch_ms, &first);
    let same = base.filter(|base| base.valid_after.0 / base.params.key_epoch_ms() == current.0);
    let mut next = match same {
        Some(base) => base.shared_random.clone(),
        None => SharedRandom {
            left_out: base
                .and_then(|base| close_round(base, threshold))
                .map(|closed| closed.left_out)
                .unwrap_or_default(),
            ..SharedRandom::default()
        },
    };
    next.deals = deals;

    let about = || votes.values().map(|vote| &vote.random).filter(|items| items.key_epoch == current);
    let ids = || authorities.list().iter().map(|authority| authority.id);
    if valid_after < commits_close(current, key_epoch_ms) {
        for id in ids().filter(|id| next.left_out.binary_search(id).is_err()) {
            let agreed = agreed(about().filter_map(|items| items.commit_of(&id)), threshold);
            insert(&mut next.commits, id, agreed);
        }
    } else {
        for id in ids() {
            let Some(commit) = next.commit_of(&id) else { continue };
            // One vote is enough, because a reveal proves itself: so nobody can keep another's out by not repeating it.
            let fits = |reveal: &Reveal| random_commit(&id, current, reveal) == commit;
            insert(&mut next.reveals, id, about().filter_map(|items| items.reveal_of(&id)).find(fits));
        }
    }
    next
}

/// What an operator should know of a consensus' deals.
#[must_use]
pub fn problems(body: &ConsensusBody) -> Vec<String> {
    let too_few = |deal: &Deal| cut(deal, &body.relays, body.params.layer_min()).err().map(|few| few.to_string());
    let small = body.shared_random.deals.iter().filter(|deal| deal.cut.is_none()).filter_map(too_few);
    let newest = body.shared_random.deals.last().filter(|deal| deal.origin == Origin::Before).map(|deal| {
        format!(
            "too few authorities revealed: the random value of key epoch {} is made of the one before, and not new",
            deal.key_epoch.0
        )
    });
    small.chain(newest).collect()
}

/// What so many votes carry; with a threshold above a half there is only one such thing.
fn agreed<T: Ord + Copy>(carried: impl Iterator<Item = T>, threshold: usize) -> Option<T> {
    let mut tallies: BTreeMap<T, usize> = BTreeMap::new();
    for item in carried {
        *tallies.entry(item).or_default() += 1;
    }
    tallies.into_iter().find(|(_, n)| *n >= threshold).map(|(item, _)| item)
}

/// Keeps the list sorted; what is counted already stays.
fn insert<T>(list: &mut Vec<(AuthorityId, T)>, id: AuthorityId, item: Option<T>) {
    if let (Some(item), Err(at)) = (item, list.binary_search_by_key(&id, |(id, _)| *id)) {
        list.insert(at, (id, item));
    }
}

#[cfg(test)]
mod tests;
