//! Between the two ends of a conversation: the sealed box, and the content in it.

use posta_protocol::crypto::{self, context};
use posta_protocol::end_to_end::{Content, Inner, InnerKind, Kind, QueueAddress, QueueKey};
use posta_protocol::ids::{Epoch, Hash, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::{BOX_CONTENT_LEN, BOX_LEN, BOX_NONCE_LEN};
use posta_protocol::secret::Secret;

use super::{bounded, fitted, mutated, same};

pub(crate) fn content(input: &[u8]) {
    let Ok(content) = bounded(input.len(), || Content::decode(input)) else { return };
    let encoded = content.encode();
    if !matches!(content.kind, Kind::Unknown(_)) {
        same(input, &encoded, "content");
        assert!(encoded.len() <= BOX_CONTENT_LEN, "what was decoded fits into a box");
    }
    assert_eq!(Content::decode(&encoded), Ok(content));
}

pub(crate) fn content_seeds() -> Vec<Vec<u8>> {
    let address =
        |n| QueueAddress { relay: RelayId([n; 32]), invited: Secret::new([n; 32]), key: Secret::new([n; 32]) };
    [
        Kind::Message { number: 1, expires: Wall(2), body: vec![3; 50] },
        Kind::Message { number: u64::MAX, expires: Wall(u64::MAX), body: vec![] },
        Kind::Fleeting { number: 1, expires: Wall(2), after: 3, body: vec![3; 50] },
        Kind::Receipt { up_to: 4 },
        Kind::Queues(vec![address(1)]),
        Kind::Moved { generation: 2, queues: vec![address(1)] },
        Kind::Queues((0..8).map(address).collect()),
        Kind::Renewal { have: 5, alone: false, generation: 6, queues: vec![address(1)] },
        Kind::KeyPackage { up_to: 4, from: 3, key_package: vec![7; 40] },
        Kind::Unknown(99),
    ]
    .map(|kind| Content { epoch: Epoch(1), consensus: Hash([2; 32]), kind }.encode())
    .into()
}

pub(crate) fn inner(input: &[u8]) {
    let Ok(inner) = bounded(input.len(), || Inner::decode(input)) else { return };
    let encoded = inner.encode();
    if !matches!(inner.kind, InnerKind::Unknown(_)) {
        same(input, &encoded, "inner");
    }
    assert_eq!(Inner::decode(&encoded), Ok(inner));
}

pub(crate) fn inner_seeds() -> Vec<Vec<u8>> {
    let [long, short] = [vec![1; 400], vec![2; 20]];
    [
        InnerKind::Message(short.clone()),
        InnerKind::Message(vec![]),
        InnerKind::Turn { answer: false, commit: long.clone(), message: short.clone() },
        InnerKind::Turn { answer: true, commit: long.clone(), message: short.clone() },
        InnerKind::Welcome { welcome: long, message: short },
        InnerKind::Unknown(99),
    ]
    .map(|kind| Inner { number: 3, kind }.encode())
    .into()
}

/// As a box; as what the other end sealed; and as changes to a good box.
pub(crate) fn sealed_box(input: &[u8]) {
    let key = Secret::new([7; 32]);
    let queue = QueueKey::new(&key);
    assert!(bounded(input.len(), || queue.open(input)).is_err(), "a box that nobody sealed");
    assert!(queue.open(&fitted(input, BOX_LEN)).is_err(), "a box that nobody sealed");

    let mut inner = fitted(input, BOX_CONTENT_LEN + 4);
    let said = inner.first_chunk().copied().map_or(0, u32::from_le_bytes) as usize;
    let expected = inner[4..].get(..said).map(<[u8]>::to_vec);
    let nonce = [5; BOX_NONCE_LEN];
    let tag = crypto::seal(crypto::derive(context::BOX, key.expose()).expose(), nonce, &[], &mut inner);
    let sealed = [nonce.as_slice(), &inner, &tag.expect("sealing doesn't fail")].concat();
    assert_eq!(bounded(sealed.len(), || queue.open(&sealed)).ok(), expected);

    let mut short = input.to_vec();
    let tag = crypto::seal(crypto::derive(context::BOX, key.expose()).expose(), nonce, &[], &mut short);
    let short = [nonce.as_slice(), &short, &tag.expect("sealing doesn't fail")].concat();
    assert!(short.len() == BOX_LEN || queue.open(&short).is_err(), "a box of another length");

    let mut garbled = sealed.clone();
    mutated::apply(input, &mut garbled, &[0x55; BOX_LEN]);
    if garbled != sealed {
        assert!(queue.open(&garbled).is_err(), "a garbled box");
    }
    assert!(QueueKey::new(&Secret::new([8; 32])).open(&sealed).is_err(), "another queue's box");
}

pub(crate) fn sealed_box_seeds() -> Vec<Vec<u8>> {
    let most = BOX_CONTENT_LEN as u32;
    let inner = |said: u32| [said.to_le_bytes().as_slice(), b"content"].concat();
    let mut seeds: Vec<_> = [0, 7, most - 1, most, most + 1, u32::MAX].map(inner).into();
    seeds.extend(mutated::packet_seeds());
    seeds
}
