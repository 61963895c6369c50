//! Chapters 2, 3, 8 and 9, transcribed step by step, give the same bytes as the code. Nothing here goes through the code
//! that builds, peels, seals or opens; only the primitives of chapter 1 are shared.

use core::time::Duration;

use posta_protocol::command::BlobCapability;
use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::crypto::{derive_into, keyed_hash, open, seal};
use posta_protocol::end_to_end::{QueueAddress, QueueKey};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId};
use posta_protocol::invitation::{Link, Offer};
use posta_protocol::onion::build::{Hop, Last, packet};
use posta_protocol::onion::reply::reply_block;
use posta_protocol::onion::{KeyRing, Next, peel};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

const EPOCH: u64 = 77;
const SLOT: usize = 1200;
const GEOMETRIES: [(usize, usize, usize); 5] = [(4, 16_384, 4), (4, 300, 3), (4, 64, 1), (1, 50, 1), (8, 100, 8)];

fn kdf(context: &'static str, material: &[u8], n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    derive_into(context, material, &mut out);
    out
}

fn h(context: &'static str, material: &[u8]) -> [u8; 32] {
    kdf(context, material, 32).try_into().unwrap()
}

fn stream(key: &[u8; 32], n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    seal(key, [0; 12], &[], &mut out).unwrap();
    out
}

fn gmac(key: &[u8; 32], m: &[u8]) -> [u8; 16] {
    seal(key, [0; 12], m, &mut []).unwrap()
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

fn draw(rng: &mut ChaCha20Rng, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    rng.fill_bytes(&mut out);
    out
}

fn tail(x: &[u8], n: usize) -> &[u8] {
    &x[x.len() - n..]
}

struct Relay {
    id: RelayId,
    seed: [u8; 32],
    key: KemPublicKey,
}

fn relays(n: usize) -> Vec<Relay> {
    (1..=n as u8)
        .map(|n| {
            let key = KemSecretKey::from_seed(&Secret::new([n; 32])).unwrap().public().clone();
            Relay { id: RelayId([100 + n; 32]), seed: [n; 32], key }
        })
        .collect()
}

fn hops(relays: &[Relay]) -> Vec<Hop<'_>> {
    let delay = |i: usize| Duration::from_micros(i as u64 * 1000);
    relays.iter().enumerate().map(|(i, r)| Hop { relay: r.id, key: &r.key, delay: delay(i) }).collect()
}

/// Section 2.1.
fn geometry_hash(hops: usize, payload: usize) -> [u8; 32] {
    h("posta v1 geometry", &[&[hops as u8], (payload as u32).to_le_bytes().as_slice()].concat())
}

/// Section 2.3.
struct HopKeys {
    header: [u8; 32],
    filler: [u8; 32],
    payload: [u8; 32],
    tag: Vec<u8>,
}

fn hop_keys(ss: &[u8; 32], relay: &RelayId, geometry: &[u8; 32]) -> HopKeys {
    let material = [ss.as_slice(), &relay.0, &EPOCH.to_le_bytes(), geometry, &1_u16.to_le_bytes()].concat();
    let root = h("posta v1 hop", &material);
    HopKeys {
        header: h("posta v1 hop header", &root),
        filler: h("posta v1 hop filler", &root),
        payload: h("posta v1 hop payload", &root),
        tag: kdf("posta v1 hop replay tag", &root, 16),
    }
}

fn aad(geometry: &[u8; 32], ciphertext: &[u8]) -> Vec<u8> {
    [1_u16.to_le_bytes().as_slice(), geometry, ciphertext].concat()
}

/// Section 2.7.
fn wide_block(key: &[u8; 32], block: &mut [u8], forward: bool) {
    let keys = kdf("posta v1 wide block rounds", key, 192);
    let [k1, u2, k2, k3, u4, k4] =
        [0, 1, 2, 3, 4, 5].map(|i| <[u8; 32]>::try_from(&keys[32 * i..32 * i + 32]).unwrap());
    for round in if forward { [1, 2, 3, 4] } else { [4, 3, 2, 1] } {
        let (left, right) = block.split_at_mut(32);
        match round {
            1 | 3 => {
                let added = stream(&keyed_hash(if round == 1 { &k1 } else { &k3 }, left), right.len());
                right.copy_from_slice(&xor(right, &added));
            }
            _ => {
                let (u, k) = if round == 2 { (&u2, &k2) } else { (&u4, &k4) };
                left.copy_from_slice(&xor(left, &keyed_hash(k, &gmac(u, right))));
            }
        }
    }
}

/// Section 2.6, steps 1 to 4: a header, and the payload keys.
fn build_header(
    (max_hops, payload): (usize, usize),
    path: &[Hop<'_>],
    last: &[u8],
    rng: &mut ChaCha20Rng,
) -> (Vec<u8>, Vec<[u8; 32]>) {
    let routing_len = (max_hops - 1) * SLOT + 64;
    let geometry = geometry_hash(max_hops, payload);
    let (mut ct, mut k) = (Vec::new(), Vec::new());
    for hop in path {
        let (ciphertext, ss) = hop.key.encapsulate(&Secret::new(draw(rng, 64).try_into().unwrap())).unwrap();
        ct.push(ciphertext);
        k.push(hop_keys(ss.expose(), &hop.relay, &geometry));
    }
    let mut filler: Vec<u8> = Vec::new();
    for keys in &k[..k.len() - 1] {
        filler = xor(&filler, tail(&stream(&keys.header, routing_len), filler.len()));
        filler.extend(stream(&keys.filler, SLOT));
    }
    let (mut routing, mut tag) = (Vec::new(), Vec::new());
    for i in (0..path.len()).rev() {
        let mut block = draw(rng, 64);
        let command = match path.get(i + 1) {
            None => last.to_vec(),
            Some(next) => {
                let delay = (path[i].delay.as_micros() as u32).to_le_bytes();
                [[1].as_slice(), &next.relay.0, &delay].concat()
            }
        };
        block[..command.len()].copy_from_slice(&command);
        let mut plain = if i + 1 == path.len() {
            let random = draw(rng, routing_len - 64 - filler.len());
            let end = xor(&filler, tail(&stream(&k[i].header, routing_len), filler.len()));
            [block, random, end].concat()
        } else {
            [block, tag, ct[i + 1].to_vec(), routing].concat()[..routing_len].to_vec()
        };
        tag = seal(&k[i].header, [0; 12], &aad(&geometry, &ct[i]), &mut plain).unwrap().to_vec();
        routing = plain;
    }
    ([ct[0].to_vec(), tag, routing].concat(), k.into_iter().map(|k| k.payload).collect())
}

/// Section 2.5 for one hop with one key: the replay tag and the command's bytes.
fn peel_one((max_hops, payload): (usize, usize), relay: &Relay, packet: &mut Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let routing_len = (max_hops - 1) * SLOT + 64;
    let geometry = geometry_hash(max_hops, payload);
    let (header, body) = packet.split_at(1136 + routing_len);
    let (ciphertext, tag) = (&header[..1120], header[1120..1136].try_into().unwrap());
    let secret = KemSecretKey::from_seed(&Secret::new(relay.seed)).unwrap();
    let ss = secret.decapsulate(ciphertext.try_into().unwrap()).unwrap();
    let keys = hop_keys(ss.expose(), &relay.id, &geometry);
    let mut plain = header[1136..].to_vec();
    open(&keys.header, [0; 12], &aad(&geometry, ciphertext), &mut plain, &tag).unwrap();
    let mut body = body.to_vec();
    wide_block(&keys.payload, &mut body, false);
    let command = plain[..64].to_vec();
    *packet = if command[0] == 1 {
        [&plain[80..SLOT], &plain[64..80], &plain[SLOT..], &stream(&keys.filler, SLOT), &body].concat()
    } else {
        [header, &body].concat()
    };
    (keys.tag, command)
}

fn padded(content: &[u8], payload: usize) -> Vec<u8> {
    let mut all = [[0; 32].as_slice(), content].concat();
    all.resize(32 + payload, 0);
    all
}

#[test]
fn the_steps_of_chapter_2_build_and_peel_the_same_packets() {
    for (n, (max_hops, payload, steps)) in GEOMETRIES.into_iter().enumerate() {
        let (relays, content) = (relays(steps), vec![7; payload.min(200)]);
        let path = hops(&relays);
        let geometry = Geometry::new(max_hops, payload).unwrap();
        assert_eq!(geometry.hash().0, geometry_hash(max_hops, payload));
        let mut rng = ChaCha20Rng::seed_from_u64(n as u64);
        let mut code = packet(geometry, KeyEpoch(EPOCH), &path, Last::Queue, &content, &mut rng).unwrap();

        let mut rng = ChaCha20Rng::seed_from_u64(n as u64);
        let (mut ours, keys) = build_header((max_hops, payload), &path, &[2], &mut rng);
        let mut body = padded(&content, payload);
        keys.iter().rev().for_each(|key| wide_block(key, &mut body, true));
        ours.extend(body);
        assert_eq!(ours, code.as_bytes());

        for (i, relay) in relays.iter().enumerate() {
            let ring_key = KemSecretKey::from_seed(&Secret::new(relay.seed)).unwrap();
            let ring = KeyRing::new(relay.id, geometry, vec![(KeyEpoch(EPOCH), ring_key)]);
            let mut code_tag = Vec::new();
            let peeled = peel(&ring, &mut code, |_, tag| {
                code_tag = tag.0.to_vec();
                true
            });
            let (tag, command) = peel_one((max_hops, payload), relay, &mut ours);
            assert_eq!(tag, code_tag);
            match peeled.unwrap().next {
                Next::Forward { to, delay } => {
                    assert_eq!((command[0], &command[1..33]), (1, to.0.as_slice()));
                    assert_eq!(command[33..37], (delay.as_micros() as u32).to_le_bytes());
                    assert_eq!(ours, code.as_bytes(), "hop {i}");
                }
                Next::Queue => {
                    assert_eq!((i + 1, command[0]), (steps, 2));
                    assert_eq!(tail(&ours, 32 + payload), tail(code.as_bytes(), 32 + payload));
                    assert_eq!(tail(&ours, 32 + payload), padded(&content, payload));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn the_steps_of_chapter_3_reply_and_open_alike() {
    let (shape, relays) = ((4, 300), relays(3));
    let path = hops(&relays);
    let geometry = Geometry::new(shape.0, shape.1).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let (block, keys) = reply_block(geometry, KeyEpoch(EPOCH), &path, InboxId([5; 32]), &mut rng).unwrap();
    let mut written = posta_protocol::codec::Writer::default();
    block.write(&mut written);

    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let surb = draw(&mut rng, 16);
    let (header, payload_keys) = build_header(shape, &path, &[[3; 1].as_slice(), &[5; 32], &surb].concat(), &mut rng);
    let end_key: [u8; 32] = draw(&mut rng, 32).try_into().unwrap();
    let ours = [relays[0].id.0.as_slice(), &EPOCH.to_le_bytes(), &end_key, &header].concat();
    assert_eq!(ours, written.finish());

    let mut body = padded(b"an answer", shape.1);
    wide_block(&end_key, &mut body, true);
    let mut ours = [header, body].concat();
    let (first, code) = block.reply(geometry, b"an answer").unwrap();
    assert_eq!((first, ours.as_slice()), (relays[0].id, code.as_bytes()));

    let mut last = Vec::new();
    for relay in &relays {
        last = peel_one(shape, relay, &mut ours).1;
    }
    assert_eq!((&last[1..33], &last[33..49]), ([5; 32].as_slice(), keys.surb.0.as_slice()));
    let mut body = tail(Packet::from_bytes(ours.into()).as_bytes(), 32 + shape.1).to_vec();
    assert_eq!(keys.open(body.clone().into()).unwrap(), padded(b"an answer", shape.1)[32..]);
    payload_keys.iter().rev().for_each(|key| wide_block(key, &mut body, true));
    wide_block(&end_key, &mut body, false);
    assert_eq!(body, padded(b"an answer", shape.1));
}

/// Section 8.1, and 9.2's blob: nonce, sealed length and content and zeros, tag.
fn sealed(key: &[u8; 32], nonce: [u8; 12], content: &[u8], len: usize) -> Vec<u8> {
    let mut plain = [(content.len() as u32).to_le_bytes().as_slice(), content].concat();
    plain.resize(len - 28, 0);
    let tag = seal(key, nonce, &[], &mut plain).unwrap();
    [nonce.as_slice(), &plain, &tag].concat()
}

#[test]
fn the_layouts_of_chapters_8_and_9_open_and_none_other() {
    let key = h("posta v1 sealed box", &[1; 32]);
    let queue = QueueKey::new(&Secret::new([1; 32]));
    assert_eq!(queue.open(&sealed(&key, [2; 12], b"content", 11_264)).unwrap(), b"content");
    assert!(queue.open(&sealed(&[1; 32], [2; 12], b"content", 11_264)).is_err());

    let within = h("posta v1 conversation box", &[[7; 32], [1; 32]].concat());
    let queue = QueueKey::within(&Secret::new([7; 32]), &Secret::new([1; 32]));
    assert_eq!(queue.open(&sealed(&within, [2; 12], b"content", 11_264)).unwrap(), b"content");

    let package = [&5_u32.to_le_bytes(), b"hello".as_slice()].concat();
    let data = [[9; 32].as_slice(), &1_u32.to_le_bytes(), &[1; 32], &[2; 32], &[3; 32], &package].concat();
    let secret = h("posta v1 invitation data", &data);
    let bytes = [[1; 1].as_slice(), &[7; 8], &[8; 8], &secret].concat();
    let text =
        format!("posta:{}", bech32::encode::<bech32::Bech32m>(bech32::Hrp::parse("p").unwrap(), &bytes).unwrap());
    let link: Link = text.parse().unwrap();
    assert_eq!(link.to_text(), text);
    let capability = BlobCapability::new(Secret::new(h("posta v1 invitation get", &secret)));
    assert_eq!(link.capability(), capability);
    let blob = sealed(&h("posta v1 invitation seal", &secret), [4; 12], &data, 8_192);
    let address = || QueueAddress { relay: RelayId([1; 32]), invited: Secret::new([2; 32]), key: Secret::new([3; 32]) };
    let offer: Offer = link.open(&blob).unwrap();
    assert_eq!((offer.queues.as_slice(), offer.key_package.as_slice()), ([address()].as_slice(), b"hello".as_slice()));
    let swapped = [[9; 32].as_slice(), &1_u32.to_le_bytes(), &[1; 32], &[2; 32], &[4; 32], &package].concat();
    assert!(link.open(&sealed(&h("posta v1 invitation seal", &secret), [4; 12], &swapped, 8_192)).is_err());
}
