//! Lists inside of documents, read a second time: each target puts the input into a consensus as one of its lists, and
//! reads the list by itself, as the specification says. Both must come to the same.

use core::net::{IpAddr, SocketAddr};

use posta_protocol::codec::Reader;
use posta_protocol::document::{Consensus, ConsensusBody, Extensions, Params, SharedRandom, UnverifiedConsensus};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, Hash};
use posta_protocol::now::Wall;
use posta_protocol::params::{MAX_ADDRESSES, MAX_EXTENSION_LEN, MAX_EXTENSIONS, MAX_PARAMETERS};

use super::signed::our_consensus;

/// An empty consensus has five empty lists at its end: parameters, key epochs, mixes that were missed, relays, extensions.
const EMPTY: [u8; 4] = [0; 4];

/// What stands in front of the lists.
fn front() -> Vec<u8> {
    let body = ConsensusBody {
        geometry: Geometry::DEFAULT,
        epoch: Epoch(1),
        valid_after: Wall(1),
        fresh_until: Wall(2),
        valid_until: Wall(3),
        previous: Hash([0; 32]),
        shared_random: SharedRandom::default(),
        params: Params::default(),
        missed: Vec::new(),
        key_epochs: vec![],
        relays: vec![],
        extensions: Extensions::default(),
    };
    let mut bytes = body.encode();
    bytes.truncate(bytes.len() - 5 * EMPTY.len());
    bytes
}

/// The consensus of this body, if it is one; which it must be if `list` was read, and if that is as lists must be.
fn agreed<T>(body: &[u8], list: &Read<T>) -> Option<Consensus> {
    let decodes = UnverifiedConsensus::decode(&Consensus::assemble(body, &[])).is_ok();
    match list {
        Read::Good(_) => assert!(decodes, "a good list was refused"),
        Read::Bad => assert!(!decodes, "a bad list was accepted"),
        Read::Other => return None,
    }
    decodes.then(|| our_consensus(body))
}

/// What a second reading makes of the input.
enum Read<T> {
    /// A list.
    Good(Vec<T>),
    /// No list, whatever follows.
    Bad,
    /// Too short or too long, so that what follows would decide.
    Other,
}

/// Reads a count of at most `max` and as many items, each of which comes after the one before it.
fn list<T: PartialOrd>(input: &[u8], max: usize, mut item: impl FnMut(&mut Reader<'_>) -> Read<T>) -> Read<T> {
    let mut r = Reader::new(input);
    let Ok(n) = r.u32("count") else { return Read::Other };
    if n as usize > max {
        return Read::Bad;
    }
    let mut all: Vec<T> = Vec::new();
    for _ in 0..n {
        match item(&mut r) {
            Read::Good(new) => all.extend(new),
            Read::Bad => return Read::Bad,
            Read::Other => return Read::Other,
        }
        if all.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Read::Bad;
        }
    }
    if r.left() == 0 { Read::Good(all) } else { Read::Other }
}

fn one<T>(value: Option<T>) -> Read<T> {
    value.map_or(Read::Other, |value| Read::Good(vec![value]))
}

pub(crate) fn parameters(input: &[u8]) {
    let body = [front().as_slice(), input, &EMPTY, &EMPTY, &EMPTY, &EMPTY].concat();
    let mut last = None;
    let read = list(input, MAX_PARAMETERS, |r| {
        let mut item = || Some((r.u16("code").ok()?, r.u64("value").ok()?));
        match item() {
            Some((code, _)) if last.replace(code).is_some_and(|last| last >= code) => Read::Bad,
            item => one(item),
        }
    });
    if let (Some(consensus), Read::Good(list)) = (agreed(&body, &read), read) {
        assert!(consensus.params().iter().eq(list.iter().copied()));
        assert!(list.iter().all(|(code, value)| consensus.params().get(*code) == Some(*value)));
    }
}

pub(crate) fn parameters_seeds() -> Vec<Vec<u8>> {
    let list = |codes: &[u16]| {
        let mut bytes = (codes.len() as u32).to_le_bytes().to_vec();
        for code in codes {
            bytes.extend_from_slice(&code.to_le_bytes());
            bytes.extend_from_slice(&7u64.to_le_bytes());
        }
        bytes
    };
    let most: Vec<u16> = (0..=MAX_PARAMETERS as u16).collect();
    vec![list(&[]), list(&[1, 2, 300]), list(&[1, 1]), list(&[2, 1]), list(&most[1..]), list(&most)]
}

pub(crate) fn extensions(input: &[u8]) {
    let body = [front().as_slice(), &EMPTY, &EMPTY, &EMPTY, &EMPTY, input].concat();
    let mut last = None;
    let read = list(input, MAX_EXTENSIONS, |r| {
        let Ok(code) = r.u16("code") else { return Read::Other };
        let Ok(len) = r.u32("length") else { return Read::Other };
        if len as usize > MAX_EXTENSION_LEN || last.replace(code).is_some_and(|last| last >= code) {
            return Read::Bad;
        }
        one(r.take(len as usize, "bytes").ok().map(|bytes| (code, bytes.to_vec())))
    });
    // Nothing follows the extensions: what is too short or too long isn't a consensus.
    let read = if let Read::Other = read { Read::Bad } else { read };
    if let (Some(consensus), Read::Good(list)) = (agreed(&body, &read), read) {
        let extensions = &consensus.body().extensions;
        assert!(list.iter().all(|(code, bytes)| extensions.get(*code) == Some(bytes)));
        let mut again = Extensions::default();
        for (code, bytes) in list {
            assert_eq!(again.set(code, bytes), Ok(()));
        }
        assert_eq!(&again, extensions);
    }
}

pub(crate) fn extensions_seeds() -> Vec<Vec<u8>> {
    let list = |codes: &[(u16, usize)]| {
        let mut bytes = (codes.len() as u32).to_le_bytes().to_vec();
        for (code, len) in codes {
            bytes.extend_from_slice(&code.to_le_bytes());
            bytes.extend_from_slice(&(*len as u32).to_le_bytes());
            bytes.resize(bytes.len() + len, 7);
        }
        bytes
    };
    let most: Vec<_> = (0..=MAX_EXTENSIONS as u16).map(|code| (code, 1)).collect();
    let long = [(5, MAX_EXTENSION_LEN), (6, MAX_EXTENSION_LEN + 1)];
    vec![
        list(&[]),
        list(&[(1, 3), (2, 0), (300, 9)]),
        list(&[(1, 1), (1, 1)]),
        list(&[(2, 1), (1, 1)]),
        list(&long[..1]),
        list(&long[1..]),
        list(&most[1..]),
        list(&most),
    ]
}

/// A relay's addresses for links.
pub(crate) fn addresses(input: &[u8]) {
    let (one_relay, ids, operator) = (1u32.to_le_bytes(), [1; 64], [0; 16]);
    let (capacity, protocols, class, listed_since) = (EMPTY, [1, 0, 1, 0], [2; 2], [0; 8]);
    let rest = [EMPTY.as_slice(), &[1, 0], &operator, &capacity, &protocols, &class, &listed_since, &EMPTY].concat();
    let body = [front().as_slice(), &EMPTY, &EMPTY, &EMPTY, &one_relay, &ids, input, &rest].concat();
    let read = list(input, MAX_ADDRESSES, |r| {
        let ip = match r.u8("kind") {
            Ok(4) => r.array::<4>("IPv4").map(IpAddr::from),
            Ok(6) => r.array::<16>("IPv6").map(IpAddr::from),
            Ok(_) => return Read::Bad,
            Err(_) => return Read::Other,
        };
        let (Ok(ip), Ok(port)) = (ip, r.u16("port")) else { return Read::Other };
        let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        if port == 0 || ip.is_unspecified() || ip.is_multicast() || mapped {
            return Read::Bad;
        }
        one(Some(SocketAddr::new(ip, port)))
    });
    if let (Some(consensus), Read::Good(list)) = (agreed(&body, &read), read) {
        assert_eq!(consensus.relays()[0].link_addresses, list);
    }
}

pub(crate) fn addresses_seeds() -> Vec<Vec<u8>> {
    let list = |addresses: &[&str]| {
        let mut bytes = (addresses.len() as u32).to_le_bytes().to_vec();
        for address in addresses {
            match address.parse::<IpAddr>().expect("an address") {
                IpAddr::V4(ip) => bytes.extend_from_slice(&[[4].as_slice(), &ip.octets()].concat()),
                IpAddr::V6(ip) => bytes.extend_from_slice(&[[6].as_slice(), &ip.octets()].concat()),
            }
            bytes.extend_from_slice(&4433u16.to_le_bytes());
        }
        bytes
    };
    vec![
        list(&[]),
        list(&["192.0.2.1"]),
        list(&["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]),
        list(&["2001:db8::1", "192.0.2.1"]),
        list(&["::ffff:192.0.2.1"]),
        list(&["::"]),
        list(&["224.0.0.1", "ff02::1"]),
        list(&["192.0.2.1"; 5]),
    ]
}
