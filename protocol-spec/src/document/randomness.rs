//! The shared randomness: what deals mixes to layers, and what nobody may know or choose beforehand.
//!
//! Over a whole key epoch *k* each authority first *commits* to 32 random bytes, and then *reveals* them. In
//! consensuses whose `valid after` lies in the first half of the key epoch commits are counted, in those of the second
//! half reveals. When *k* is over, its reveals make the value that deals the layers of key epoch *k* + 3:
//!
//! ```text
//!          key epoch k             k + 1             k + 2             k + 3
//!     ├─ commits ┬─ reveals ─┤─────────────────┼─────────────────┤  layers are in use
//!     relays listed by here ─┘   ↑ the value is known, the layers are dealt, mix keys come in: two ahead
//! ```
//!
//! *Counting.* A vote counts if ⌊2n/3⌋ + 1 authorities have echoed it. A commit counts if so many of these votes carry
//! it: each repeats the commits that its writer has seen in their makers' own votes. So it is written in one epoch and
//! counted in a later one, and nobody who has heard a reveal can still slip in a commit. Reveals are repeated too, but one
//! counted vote is enough for them: they prove themselves, and nobody can keep another's out by not repeating it. When
//! the second half begins the commits are final. All that takes three epochs, and one is to spare
//! ([`crate::params::MIN_EPOCHS_PER_KEY_EPOCH`]); with fewer than three nothing is counted in time, and all values say
//! [`Origin::Before`].
//!
//! *Who withholds.* An authority can look at the others' reveals and then keep its own back. It chooses between two
//! values: one bit for each authority that does it, 2^f for f of them. It pays with the next round: whoever has
//! committed and not revealed is left out of it, and has no bit there. With fewer reveals than the threshold more than
//! a third was missing, which is an outage: the value is then made of the one before alone and says so, and nobody is
//! left out. As long as fewer than a third lie and the others are there, that can't be brought about. (With n ≤ 3 it
//! can by any one.)
//!
//! *The beginning.* Before the first consensus there is no round to look back on. The first three key epochs are dealt
//! from the commits in the first votes; whoever voted last may have chosen that value, and it says so
//! ([`Origin::FirstVotes`]). Relays get layers in them as long as they come before the first key epoch's end.

use super::consensus::ConsensusBody;
use crate::codec::{Reader, Writer};
use crate::crypto::context::{RANDOM_COMMIT, SHARED_RANDOM};
use crate::crypto::hash;
use crate::error::Malformed;
use crate::ids::{AuthorityId, Epoch, Hash, KeyEpoch};
use crate::now::Wall;
use crate::params::{KEY_EPOCHS_AHEAD, MAX_AUTHORITIES, MAX_KEY_EPOCHS};
use crate::registry::origin as code;

/// Bytes that an authority has committed to, or reveals.
pub type Reveal = [u8; 32];

/// What a random value was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Reveals of at least the threshold of authorities, and the value before.
    Reveals,
    /// The commits in the very first votes: whoever voted last may have chosen it.
    FirstVotes,
    /// The value before alone, because too few revealed: whoever knew that one could foretell it.
    Before,
}

impl Origin {
    const fn code(self) -> u8 {
        match self {
            Self::Reveals => code::REVEALS,
            Self::FirstVotes => code::FIRST_VOTES,
            Self::Before => code::BEFORE,
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match r.u8("origin")? {
            code::REVEALS => Ok(Self::Reveals),
            code::FIRST_VOTES => Ok(Self::FirstVotes),
            code::BEFORE => Ok(Self::Before),
            _ => Err(Malformed::Value("origin")),
        }
    }
}

/// Where the order of mixes is cut into two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The consensus that has dealt: there, and only there, the cut follows from what it lists.
    pub dealt: Epoch,
    /// Mixes whose hash is at most this are in layer 1.
    pub last: Hash,
}

/// How the mixes of one key epoch are dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deal {
    /// The key epoch.
    pub key_epoch: KeyEpoch,
    /// What nobody could know beforehand.
    pub random: [u8; 32],
    /// What it was made of.
    pub origin: Origin,
    /// Mixes listed since a time before this one take part.
    pub listed_before: Wall,
    /// `None` as long as there are too few mixes: see [`super::TooFewMixes`].
    pub cut: Option<Cut>,
}

/// What a consensus says of the shared randomness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedRandom {
    /// The current key epoch's and those of the next two, sorted.
    pub deals: Vec<Deal>,
    /// Authorities that have committed and not revealed in the key epoch before: they don't take part in this one.
    pub left_out: Vec<AuthorityId>,
    /// Commits of the current key epoch that are counted, sorted by authority.
    pub commits: Vec<(AuthorityId, Hash)>,
    /// Reveals that are counted, each fitting its commit.
    pub reveals: Vec<(AuthorityId, Reveal)>,
}

impl SharedRandom {
    /// The commit of an authority that is counted.
    #[must_use]
    pub fn commit_of(&self, authority: &AuthorityId) -> Option<Hash> {
        find(&self.commits, authority)
    }

    /// The deal of a key epoch.
    #[must_use]
    pub fn deal(&self, key_epoch: KeyEpoch) -> Option<&Deal> {
        self.deals.iter().find(|deal| deal.key_epoch == key_epoch)
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.count(self.deals.len());
        for deal in &self.deals {
            w.u64(deal.key_epoch.0);
            w.bytes(&deal.random);
            w.u8(deal.origin.code());
            w.u64(deal.listed_before.0);
            w.bool(deal.cut.is_some());
            if let Some(cut) = deal.cut {
                w.u64(cut.dealt.0);
                cut.last.write(w);
            }
        }
        w.count(self.left_out.len());
        for authority in &self.left_out {
            authority.write(w);
        }
        write_items(&self.commits, w, |hash| &hash.0);
        write_items(&self.reveals, w, |reveal| reveal);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let n = r.count(MAX_KEY_EPOCHS, "deals")?;
        let mut deals: Vec<Deal> = Vec::with_capacity(n);
        for _ in 0..n {
            let deal = Deal {
                key_epoch: KeyEpoch(r.u64("deal")?),
                random: r.array("deal")?,
                origin: Origin::read(r)?,
                listed_before: Wall(r.u64("deal")?),
                cut: if r.bool("deal")? {
                    Some(Cut { dealt: Epoch(r.u64("deal")?), last: Hash::read(r)? })
                } else {
                    None
                },
            };
            if deals.last().is_some_and(|last| last.key_epoch >= deal.key_epoch) {
                return Err(Malformed::Value("deals"));
            }
            deals.push(deal);
        }
        let n = r.count(MAX_AUTHORITIES, "authorities left out")?;
        let mut left_out: Vec<AuthorityId> = Vec::with_capacity(n);
        for _ in 0..n {
            let authority = AuthorityId::read(r)?;
            if left_out.last().is_some_and(|last| *last >= authority) {
                return Err(Malformed::Value("authorities left out"));
            }
            left_out.push(authority);
        }
        Ok(Self {
            deals,
            left_out,
            commits: read_items(r, "commits", Hash)?,
            reveals: read_items(r, "reveals", |b| b)?,
        })
    }
}

/// What a vote says of the shared randomness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RandomItems {
    /// The key epoch that it is about.
    pub key_epoch: KeyEpoch,
    /// The voter's commit, and those that it has seen in the others' own votes; sorted by authority.
    pub commits: Vec<(AuthorityId, Hash)>,
    /// Its reveal, and those that it has seen.
    pub reveals: Vec<(AuthorityId, Reveal)>,
}

impl RandomItems {
    /// The commit that the vote carries for an authority.
    #[must_use]
    pub fn commit_of(&self, authority: &AuthorityId) -> Option<Hash> {
        find(&self.commits, authority)
    }

    /// The reveal that the vote carries for an authority.
    #[must_use]
    pub fn reveal_of(&self, authority: &AuthorityId) -> Option<Reveal> {
        find(&self.reveals, authority)
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.u64(self.key_epoch.0);
        write_items(&self.commits, w, |hash| &hash.0);
        write_items(&self.reveals, w, |reveal| reveal);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            key_epoch: KeyEpoch(r.u64("random items")?),
            commits: read_items(r, "commits", Hash)?,
            reveals: read_items(r, "reveals", |b| b)?,
        })
    }
}

fn find<T: Copy>(list: &[(AuthorityId, T)], authority: &AuthorityId) -> Option<T> {
    list.binary_search_by_key(authority, |(id, _)| *id).ok().and_then(|i| list.get(i)).map(|(_, item)| *item)
}

fn write_items<T>(list: &[(AuthorityId, T)], w: &mut Writer, bytes: impl Fn(&T) -> &[u8; 32]) {
    w.count(list.len());
    for (authority, item) in list {
        authority.write(w);
        w.bytes(bytes(item));
    }
}

fn read_items<T>(
    r: &mut Reader<'_>,
    what: &'static str,
    make: impl Fn([u8; 32]) -> T,
) -> Result<Vec<(AuthorityId, T)>, Malformed> {
    let n = r.count(MAX_AUTHORITIES, what)?;
    let mut list: Vec<(AuthorityId, T)> = Vec::with_capacity(n);
    for _ in 0..n {
        let authority = AuthorityId::read(r)?;
        if list.last().is_some_and(|(last, _)| *last >= authority) {
            return Err(Malformed::Value(what));
        }
        list.push((authority, make(r.array(what)?)));
    }
    Ok(list)
}

/// The commit to a reveal: bound to the authority and the key epoch, so that nobody can use another's, or an old one.
#[must_use]
pub fn random_commit(authority: &AuthorityId, key_epoch: KeyEpoch, reveal: &Reveal) -> Hash {
    let mut w = Writer::with_capacity(72);
    authority.write(&mut w);
    w.u64(key_epoch.0);
    w.bytes(reveal);
    hash(RANDOM_COMMIT, &w.finish())
}

/// A random value: of the one before, and of what the authorities gave, sorted by authority.
#[must_use]
pub fn random_value(
    origin: Origin,
    before: &[u8; 32],
    key_epoch: KeyEpoch,
    given: &[(AuthorityId, Reveal)],
) -> [u8; 32] {
    let mut w = Writer::with_capacity(64 + 64 * given.len());
    w.u8(origin.code());
    w.bytes(before);
    w.u64(key_epoch.0);
    write_items(given, &mut w, |item| item);
    hash(SHARED_RANDOM, &w.finish()).0
}

/// When the commits of a key epoch are closed: in its middle. Consensuses valid after an earlier time count commits,
/// the others reveals.
#[must_use]
pub const fn commits_close(key_epoch: KeyEpoch, key_epoch_ms: u64) -> Wall {
    Wall(key_epoch.0.saturating_mul(key_epoch_ms).saturating_add(key_epoch_ms.div_ceil(2)))
}

/// What the end of a round brings, given the last consensus of its key epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The deal of the key epoch three later, not cut yet.
    pub deal: Deal,
    /// Who takes no part in the next round.
    pub left_out: Vec<AuthorityId>,
}

/// Closes the round of the key epoch of `base`. `None` for a consensus that has no deals.
#[must_use]
pub fn close_round(base: &ConsensusBody, threshold: usize) -> Option<Closed> {
    let shared = &base.shared_random;
    let last = shared.deals.last()?;
    let ms = base.params.key_epoch_ms();
    let enough = shared.reveals.len() >= threshold;
    let (origin, given) = if enough { (Origin::Reveals, shared.reveals.as_slice()) } else { (Origin::Before, &[][..]) };
    let key_epoch = last.key_epoch.next();
    let deal = Deal {
        key_epoch,
        random: random_value(origin, &last.random, key_epoch, given),
        origin,
        listed_before: commits_close(KeyEpoch(base.valid_after.0 / ms), ms),
        cut: None,
    };
    let silent = shared.commits.iter().map(|(id, _)| *id).filter(|id| find(&shared.reveals, id).is_none());
    Some(Closed { deal, left_out: if enough { silent.collect() } else { Vec::new() } })
}

/// The deals of a consensus that is valid after a time: carried over from its base; made by the round that is over; or,
/// if whole key epochs have gone by without a consensus, of the value before alone. Without a base they are made of the
/// commits in the first votes. Those that are new are not cut yet.
#[must_use]
pub fn deals_after(
    base: Option<&ConsensusBody>,
    threshold: usize,
    valid_after: Wall,
    key_epoch_ms: u64,
    first_votes: &[(AuthorityId, Hash)],
) -> Vec<Deal> {
    let first = KeyEpoch(valid_after.0 / key_epoch_ms.max(1));
    let wanted = (first.0..=first.0.saturating_add(KEY_EPOCHS_AHEAD)).map(KeyEpoch);
    match base.and_then(|base| close_round(base, threshold).map(|closed| (base, closed.deal))) {
        None => {
            let given: Vec<_> = first_votes.iter().map(|(id, commit)| (*id, commit.0)).collect();
            let listed_before = Wall(first.next().0.saturating_mul(key_epoch_ms));
            let deal = |key_epoch| Deal {
                key_epoch,
                random: random_value(Origin::FirstVotes, &[0; 32], key_epoch, &given),
                origin: Origin::FirstVotes,
                listed_before,
                cut: None,
            };
            wanted.map(deal).collect()
        }
        Some((base, closed)) => wanted
            .map(|key_epoch| match base.shared_random.deal(key_epoch) {
                Some(held) => *held,
                None if key_epoch == closed.key_epoch => closed,
                None => Deal {
                    key_epoch,
                    random: random_value(Origin::Before, &closed.random, key_epoch, &[]),
                    origin: Origin::Before,
                    // Nobody has closed commits: those that were listed before the gap take part.
                    listed_before: Wall(base.valid_after.0.saturating_add(1)),
                    cut: None,
                },
            })
            .collect(),
    }
}
