//! How a consensus, or its mix keys, differ from those before: from one base, which the fuzzer can't choose.

use std::sync::OnceLock;

use posta_protocol::codec::Reader;
use posta_protocol::document::{Consensus, ConsensusDiff, MixKeys, MixKeysDiff};
use posta_protocol::ids::{KeyEpoch, RelayId};

use super::signed::{consensus_seeds, our_consensus};
use super::{bounded, onion, same};

/// Relays and key epochs, or neither.
fn bases() -> &'static [Consensus] {
    static BASES: OnceLock<Vec<Consensus>> = OnceLock::new();
    BASES.get_or_init(|| consensus_seeds().iter().map(|bytes| our_consensus(body_of(bytes))).collect())
}

fn body_of(consensus: &[u8]) -> &[u8] {
    Reader::new(consensus).bounded(consensus.len(), "body").expect("a consensus begins with its body")
}

/// The content of a difference: what it leads to is a consensus, and this is the one content that leads there.
pub(crate) fn consensus_diff(input: &[u8]) {
    for base in bases() {
        // Relays are read, and put among those that stay.
        let read = bounded(2 * input.len(), || ConsensusDiff::from_content(base, input));
        let Ok(diff) = read else { continue };
        let unverified = diff.apply(base).expect("it leads to what it was named by");
        let bytes = unverified.encode().to_vec();
        let made = our_consensus(body_of(&bytes));
        assert_eq!(made.hash(), diff.hash());
        // But for the signatures, which are at the end: they are ours in the one and anyone's in the other.
        let front = |content: &[u8], whole: &[u8]| {
            let signatures = whole.len() - 4 - body_of(whole).len();
            content[..content.len() - signatures].to_vec()
        };
        let again = ConsensusDiff::between(base, &made);
        same(&front(input, &bytes), &front(again.content(), made.encode()), "difference of consensuses");
    }
}

pub(crate) fn consensus_diff_seeds() -> Vec<Vec<u8>> {
    all().map(|diff| diff.content().to_vec()).collect()
}

fn all() -> impl Iterator<Item = ConsensusDiff> {
    bases().iter().flat_map(|base| bases().iter().map(move |other| ConsensusDiff::between(base, other)))
}

/// A difference as it travels. What is made room for is bounded by what deflate can become.
pub(crate) fn packed_diff(input: &[u8]) {
    let Ok(diff) = bounded(8 * 1024 + 130 * input.len(), || ConsensusDiff::decode(input)) else { return };
    assert_eq!(ConsensusDiff::decode(&diff.encode()), Ok(diff.clone()));
    for base in bases() {
        if let Ok(made) = diff.apply(base) {
            assert_eq!((diff.base(), our_consensus(body_of(made.encode())).hash()), (base.hash(), diff.hash()));
        }
    }
}

pub(crate) fn packed_diff_seeds() -> Vec<Vec<u8>> {
    all().map(|diff| diff.encode()).collect()
}

fn part(list: &[u8]) -> MixKeys {
    MixKeys { key_epoch: KeyEpoch(7), keys: list.iter().map(|n| (RelayId([*n; 32]), onion::public_key(*n))).collect() }
}

const HELD: [u8; 3] = [1, 2, 4];

pub(crate) fn mix_keys_diff(input: &[u8]) {
    let held = part(&HELD);
    if let Ok(diff) = bounded(input.len(), || MixKeysDiff::decode(input)) {
        same(input, &diff.encode(), "difference of mix keys");
        // Its hashes are not the fuzzer's to find, but those of the seeds fit, and what was changed must not.
        if let Ok(made) = diff.apply(&held) {
            let reached = MixKeysDiff::between(&held.encode(), &made.encode()).expect("of one key epoch");
            same(input, &reached, "difference of mix keys");
        }
    }
    if let Ok(list) = bounded(input.len(), || MixKeysDiff::unpack(input)) {
        same(input, &MixKeysDiff::pack(list.into_iter()), "differences of mix keys");
        let _ = MixKeysDiff::apply_all(input, &held);
    }
}

pub(crate) fn mix_keys_diff_seeds() -> Vec<Vec<u8>> {
    let held = part(&HELD).encode();
    let others = [part(&HELD), part(&[]), part(&[2, 3]), part(&[1, 2, 4, 5])];
    let mut seeds: Vec<Vec<u8>> =
        others.iter().map(|other| MixKeysDiff::between(&held, &other.encode()).expect("of one key epoch")).collect();
    let mut changed = part(&HELD);
    changed.keys[1].1 = onion::public_key(9);
    seeds.push(MixKeysDiff::between(&held, &changed.encode()).expect("of one key epoch"));
    let packed = MixKeysDiff::pack(seeds.iter().take(2).map(Vec::as_slice));
    seeds.push(packed);
    seeds
}
