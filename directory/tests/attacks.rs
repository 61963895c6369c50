//! Authorities that lie to whoever fetches: real programs' code against servers that answer what they like.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posta_directory::driver::Clock;
use posta_link::fetch::{FetchError, Held, Mirror, Mirrors, Network, fetch_consensus, fetch_newer, look_for_forks};
use posta_link::mirror::Mirrored;
use posta_link::{AnyPeer, Audience, Endpoint, LinkKey, PortLimits};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::document::{
    Authorities, Authority, Certificate, Consensus, ConsensusBody, ConsensusDiff, ConsensusSignature, EvidenceKind,
    Extensions, KeyEpochPart, MixKeys, Params, Position, Purpose, Refusal, RelayEntry, Reply, Request, Roles,
    SharedRandom, Shelf, Succession, UnverifiedConsensus, UnverifiedMixKeys, cut_deals, deals_after, place,
    verify_succession,
};
use posta_protocol::error::Untrusted;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::registry::parameter;
use posta_protocol::secret::Secret;

const EPOCH_MS: u64 = 600_000;
const KEY_EPOCH_MS: u64 = 6_000_000;
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// All of them lie here: what a client notices by itself must not rest on anyone's honesty.
const AUTHORITIES: u8 = 4;

fn now() -> Wall {
    Clock::start().now().wall
}

fn key(kind: u8, n: u8) -> SignKey {
    let mut seed = [kind; 32];
    seed[0] = n;
    SignKey::from_seed(&Secret::new(seed))
}

/// A consensus with its parts, as it is handed out.
#[derive(Clone)]
struct Documents {
    consensus: Consensus,
    bytes: Vec<u8>,
    parts: Vec<Vec<u8>>,
}

/// What a server answers.
type Served = Arc<Mutex<Option<Documents>>>;

struct Liars {
    network: Network,
    served: Vec<Served>,
    dialer: Endpoint,
}

impl Liars {
    fn start() -> Self {
        let link = |n: u8| LinkKey::from_seed(&Secret::new([n + 1; 32])).unwrap();
        let served: Vec<Served> = (0..AUTHORITIES).map(|_| Served::default()).collect();
        let mut listed = Vec::new();
        for (n, served) in (0..).zip(&served) {
            let address = "127.0.0.1:0".parse().unwrap();
            let endpoint = Endpoint::bind(address, Audience::Directory, &link(n), Arc::new(AnyPeer)).unwrap();
            let addresses = vec![endpoint.local_addr().unwrap()];
            listed.push(Authority { id: AuthorityId(key(1, n).public()), link_key: link(n).public(), addresses });
            tokio::spawn(serve(endpoint, Arc::clone(served)));
        }
        let dialer = Endpoint::dialer("127.0.0.1".parse().unwrap(), Audience::Directory, None).unwrap();
        Self { network: Network::new(Authorities::new(listed).unwrap()), served, dialer }
    }

    /// Everyone hands this out.
    fn hand_out(&self, documents: &Documents) {
        self.served.iter().for_each(|served| *served.lock().unwrap() = Some(documents.clone()));
    }

    async fn fetch(&self, held: Option<&Consensus>) -> Result<Consensus, FetchError> {
        fetch_consensus(&self.network, &self.dialer, now(), held).await.map(|(consensus, _)| consensus)
    }

    /// A consensus that builds on another one, with a change that all authorities sign.
    fn consensus(&self, epoch: u64, base: Option<&Documents>, change: impl FnOnce(&mut ConsensusBody)) -> Documents {
        let mut params = Params::default();
        params.set(parameter::EPOCH_MS, EPOCH_MS);
        params.set(parameter::KEY_EPOCH_MS, KEY_EPOCH_MS);
        let valid_after = Wall(epoch * EPOCH_MS);
        let known = self.network.authorities();
        let first: Vec<_> = known.list().iter().map(|a| (a.id, Hash(a.id.0))).collect();
        let base = base.map(|base| base.consensus.body());
        let relays: Vec<_> = (1..=8).map(relay).collect();
        let mut body = ConsensusBody {
            geometry: Geometry::DEFAULT,
            epoch: Epoch(epoch),
            valid_after,
            fresh_until: valid_after + Duration::from_millis(EPOCH_MS),
            valid_until: valid_after + Duration::from_millis(4 * EPOCH_MS),
            previous: base.map_or(Hash([0; 32]), |base| base.header(&base.encode()).hash),
            shared_random: SharedRandom {
                deals: deals_after(base, known.threshold(), valid_after, KEY_EPOCH_MS, &first),
                ..SharedRandom::default()
            },
            params,
            missed: Vec::new(),
            key_epochs: Vec::new(),
            relays,
            extensions: Extensions::default(),
        };
        cut_deals(&mut body);
        let mut parts = Vec::new();
        for deal in body.shared_random.deals.clone() {
            let keys = body.relays.iter().map(|relay| (relay.id, mix_key(deal.key_epoch))).collect();
            let part = MixKeys { key_epoch: deal.key_epoch, keys }.encode();
            body.key_epochs.push(KeyEpochPart { epoch: deal.key_epoch, mix_keys: MixKeys::hash(&part) });
            body.relays.iter_mut().for_each(|relay| relay.layers.push(place(&deal, relay)));
            parts.push(part);
        }
        change(&mut body);
        let encoded = body.encode();
        let header = body.header(&encoded);
        let sign = |n: u8| {
            let (identity, signing) = (key(1, n), key(2, n));
            let public = SigningPublicKey(signing.public());
            let certificate = Certificate::issue(&identity, Purpose::Authority, public, now() - YEAR, now() + YEAR);
            ConsensusSignature::sign(&header, certificate, &signing)
        };
        let mut signatures: Vec<_> = (0..AUTHORITIES).map(sign).collect();
        signatures.sort_by_key(ConsensusSignature::authority);
        let bytes = Consensus::assemble(&encoded, &signatures);
        let consensus = UnverifiedConsensus::decode(&bytes).unwrap().verify_signatures(known).unwrap();
        Documents { consensus, bytes, parts }
    }
}

fn mix_key(epoch: KeyEpoch) -> posta_protocol::crypto::xwing::KemPublicKey {
    let seed = Secret::new([u8::try_from(epoch.0 % 251).unwrap(); 32]);
    KemSecretKey::from_seed(&seed).unwrap().public().clone()
}

fn relay(n: u8) -> RelayEntry {
    let addresses = vec![format!("127.0.0.{n}:1").parse().unwrap()];
    RelayEntry {
        id: RelayId([n; 32]),
        link_key: LinkPublicKey([n; 32]),
        link_addresses: addresses.clone(),
        client_addresses: addresses,
        roles: if n <= 6 { Roles::MIX } else { Roles::EDGE },
        family: None,
        operator: OperatorId([n; 16]),
        capacity: 10,
        protocols: Default::default(),
        class: Default::default(),
        listed_since: Wall(0),
        layers: Vec::new(),
    }
}

/// Answers with what is served, whatever was asked for: also what is older than the asker has.
async fn serve(endpoint: Endpoint, served: Served) {
    while let Some(connection) = endpoint.accept().await {
        let served = Arc::clone(&served);
        tokio::spawn(async move {
            while let Ok((body, responder)) = connection.next_request(Request::MAX_LEN).await {
                let reply = match (Request::decode(&body), &*served.lock().unwrap()) {
                    (Ok(Request::GetConsensus { .. }), Some(documents)) => Reply::Ok(documents.bytes.clone()),
                    (Ok(Request::GetMixKeys(hash)), Some(documents)) => {
                        let part = documents.parts.iter().find(|part| MixKeys::hash(part) == hash);
                        part.map_or(Reply::None, |part| Reply::Ok(part.clone()))
                    }
                    (Ok(Request::GetConsensusDiff { .. }), Some(_)) => Reply::Refused(Refusal::Base),
                    _ => Reply::None,
                };
                // Whoever asked may be gone.
                let _ = responder.reply(&reply.encode()).await;
            }
        });
    }
}

fn current() -> u64 {
    now().0 / EPOCH_MS
}

#[tokio::test]
async fn a_consensus_that_is_rolled_back_is_refused() {
    let liars = Liars::start();
    let old = liars.consensus(current() - 1, None, |_| {});
    let new = liars.consensus(current(), Some(&old), |_| {});
    liars.hand_out(&old);
    let held = liars.fetch(None).await.unwrap();
    liars.hand_out(&new);
    let newer = liars.fetch(Some(&held)).await.unwrap();
    assert_eq!(newer.hash(), new.consensus.hash());
    liars.hand_out(&old);
    let refused = liars.fetch(Some(&newer)).await.unwrap_err();
    assert!(matches!(refused, FetchError::NothingNewer), "{refused}");
    // Another one for the same epoch does not replace it either.
    liars.hand_out(&liars.consensus(current(), Some(&old), |body| body.relays[0].capacity += 1));
    let refused = liars.fetch(Some(&newer)).await.unwrap_err();
    assert!(matches!(refused, FetchError::NothingNewer), "{refused}");
}

#[tokio::test]
async fn who_is_frozen_on_an_old_consensus_notices_when_it_expires() {
    let liars = Liars::start();
    // Valid for four epochs, and a client's clock may be an hour off.
    let stale = liars.consensus(current() - 12, None, |_| {});
    liars.hand_out(&stale);
    let refused = liars.fetch(None).await.unwrap_err();
    assert!(matches!(refused, FetchError::Untrusted(Untrusted::Expired(_))), "{refused}");
}

#[tokio::test]
async fn layers_and_random_values_that_break_the_rules_are_refused_although_all_have_signed() {
    let liars = Liars::start();
    let first = liars.consensus(current() - 1, None, |_| {});
    liars.hand_out(&first);
    let held = liars.fetch(None).await.unwrap();
    let rules = |e: FetchError| assert!(matches!(e, FetchError::Rules(_)), "{e}");
    // One mix on the other side, for whoever has nothing to compare with.
    let moved = |body: &mut ConsensusBody| {
        let other = |p: &mut Option<Position>| {
            *p = if *p == Some(Position::Mix1) { Some(Position::Mix2) } else { Some(Position::Mix1) };
        };
        body.relays[0].layers.iter_mut().for_each(other);
    };
    liars.hand_out(&liars.consensus(current(), None, moved));
    rules(liars.fetch(None).await.unwrap_err());
    // A random value of the liars' choice, with the layers that follow from it: for whoever holds the one before.
    let chosen = liars.consensus(current(), None, |body| body.previous = held.hash());
    let mut other = chosen.consensus.body().clone();
    other.shared_random.deals.iter_mut().for_each(|deal| {
        deal.random[0] ^= 1;
        deal.cut = None;
    });
    cut_deals(&mut other);
    for (column, deal) in other.shared_random.deals.clone().iter().enumerate() {
        other.relays.iter_mut().for_each(|relay| relay.layers[column] = place(deal, relay));
    }
    liars.hand_out(&liars.consensus(current(), None, |body| *body = other));
    liars.fetch(None).await.expect("by itself it looks right");
    rules(liars.fetch(Some(&held)).await.unwrap_err());
    // Control: the one that follows.
    liars.hand_out(&liars.consensus(current(), Some(&first), |_| {}));
    liars.fetch(Some(&held)).await.unwrap();
}

#[tokio::test]
async fn a_network_that_is_too_small_is_refused_by_that_name() {
    let liars = Liars::start();
    let no_edge = |body: &mut ConsensusBody| drop(body.relays.pop());
    let mut small = liars.consensus(current(), None, no_edge);
    liars.hand_out(&small);
    let refused = liars.fetch(None).await.unwrap_err();
    assert!(matches!(refused, FetchError::TooSmall(_)), "{refused}");
    assert!(refused.to_string().contains("it has 1 edges"), "{refused}");
    small = liars.consensus(current(), None, |_| {});
    liars.hand_out(&small);
    liars.fetch(None).await.unwrap();
}

#[tokio::test]
async fn a_break_in_the_chain_is_no_refusal_and_is_told_from_what_follows() {
    let liars = Liars::start();
    let base = liars.consensus(current() - 2, None, |_| {});
    let orphan = liars.consensus(current() - 1, Some(&base), |_| {});
    liars.hand_out(&orphan);
    let held = liars.fetch(None).await.unwrap();
    // The authorities have built on the one before: they were split, or some have lied.
    liars.hand_out(&liars.consensus(current(), Some(&base), |_| {}));
    let newest = liars.fetch(Some(&held)).await.unwrap();
    assert_eq!(verify_succession(&newest, &held, liars.network.authorities()), Ok(Succession::Break));
}

#[tokio::test]
async fn a_fork_is_found_and_the_program_verifies_the_evidence() {
    let liars = Liars::start();
    let (one, other) = (
        liars.consensus(current(), None, |_| {}),
        liars.consensus(current(), None, |body| body.relays[0].capacity += 1),
    );
    liars.hand_out(&one);
    let found = look_for_forks(&liars.network, &liars.dialer, Epoch(current()), Some(&one.consensus)).await;
    assert!(found.is_none(), "all hold the same");
    *liars.served[2].lock().unwrap() = Some(other);
    let found = look_for_forks(&liars.network, &liars.dialer, Epoch(current()), None).await.expect("two of them");
    assert_eq!((found.kind(), found.accused().len()), (EvidenceKind::Consensuses, 4));

    let folder = tempfile::tempdir().unwrap();
    let (network, file) = (folder.path().join("network.toml"), folder.path().join("fork.evidence"));
    liars.network.save(&network).unwrap();
    std::fs::write(&file, found.encode()).unwrap();
    let (code, text) = verify_evidence(&file, &network);
    assert!(code == Some(0) && text.contains("two consensuses for epoch"), "{text}");
    // Changed evidence, or that of another network, proves nothing.
    let mut changed = found.encode().to_vec();
    let middle = changed.len() / 2;
    changed[middle + 30] ^= 1;
    std::fs::write(&file, &changed).unwrap();
    let (code, text) = verify_evidence(&file, &network);
    assert!(code == Some(1) && text.contains("proves nothing"), "{code:?} {text}");
    std::fs::write(&file, found.encode()).unwrap();
    Network::new(Authorities::new(vec![liars.network.authorities().list()[0].clone()]).unwrap())
        .save(&network)
        .unwrap();
    let (code, _) = verify_evidence(&file, &network);
    assert_eq!(code, Some(0), "one of those who have signed both is enough, where it is the only one");
    let stranger = Authority { id: AuthorityId([9; 32]), ..liars.network.authorities().list()[0].clone() };
    Network::new(Authorities::new(vec![stranger]).unwrap()).save(&network).unwrap();
    let (code, text) = verify_evidence(&file, &network);
    assert!(code == Some(1) && text.contains("proves nothing"), "{text}");
}

fn verify_evidence(file: &Path, network: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_posta-directory"))
        .args(["verify-evidence", file.to_str().unwrap(), "--network", network.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), text)
}

impl Documents {
    fn parts(&self) -> Vec<Arc<MixKeys>> {
        let verified = |part: &Vec<u8>| UnverifiedMixKeys::decode(part).unwrap().verify(&self.consensus).unwrap();
        self.parts.iter().map(|part| Arc::new(verified(part))).collect()
    }

    fn held(&self) -> Held {
        Held { consensus: Arc::new(self.consensus.clone()), mix_keys: self.parts() }
    }

    fn put(&self, shelf: &mut Shelf) {
        let part = |part: &Vec<u8>| (MixKeys::hash(part), part.as_slice().into());
        shelf.put(Arc::new(self.consensus.clone()), self.parts.iter().map(part).collect());
    }
}

/// A relay's client port, at which it mirrors these documents.
fn mirror(shelf: Shelf) -> (Mirror, Endpoint) {
    let key = LinkKey::from_seed(&Secret::new([77; 32])).unwrap();
    let limits = PortLimits { mirror: true, ..PortLimits::of(Audience::Client) };
    let address = "127.0.0.1:0".parse().unwrap();
    let port = Endpoint::bind_limited(address, Audience::Client, &key, Arc::new(AnyPeer), limits).unwrap();
    let (_, shelves) = tokio::sync::watch::channel(Arc::new(shelf));
    let (served, mirrored) = (port.clone(), Mirrored::new(shelves));
    tokio::spawn(async move {
        while let Some(connection) = served.accept().await {
            let mirrored = mirrored.clone();
            tokio::spawn(async move { mirrored.serve(&connection).await });
        }
    });
    let addresses = vec![port.local_addr().unwrap()];
    (Mirror { link_key: key.public(), addresses, client_port: true }, port)
}

/// A mirror that answers every request alike, and counts them.
fn says(answer: impl Fn(Request) -> Reply + Send + Clone + 'static) -> (Mirror, Arc<AtomicUsize>) {
    let key = LinkKey::from_seed(&Secret::new([78; 32])).unwrap();
    let endpoint =
        Endpoint::bind("127.0.0.1:0".parse().unwrap(), Audience::Directory, &key, Arc::new(AnyPeer)).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let mirror = Mirror { link_key: key.public(), addresses: vec![endpoint.local_addr().unwrap()], client_port: false };
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some(connection) = endpoint.accept().await {
            let (answer, count) = (answer.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                while let Ok((body, responder)) = connection.next_request(Request::MAX_LEN).await {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = responder.reply(&answer(Request::decode(&body).unwrap()).encode()).await;
                }
            });
        }
    });
    (mirror, asked)
}

#[tokio::test]
async fn a_mirror_serves_differences_and_whole_documents_without_any_authority() {
    let liars = Liars::start();
    let first = liars.consensus(current() - 1, None, |_| {});
    let second = liars.consensus(current(), Some(&first), |body| body.relays[0].capacity += 1);
    let mut shelf = Shelf::default();
    first.put(&mut shelf);
    second.put(&mut shelf);
    let (at, _port) = mirror(shelf.clone());
    let fetch =
        async |mirrors: Mirrors, held: &Held| fetch_newer(&liars.network, &mirrors, &liars.dialer, now(), held).await;
    let before = |at: &Mirror| Mirrors { before: vec![at.clone()], after: vec![] };
    let (found, parts) = fetch(before(&at), &first.held()).await.unwrap();
    assert_eq!((found.encode(), parts), (second.bytes.as_slice(), second.parts()));

    // Differences are what it gets: where nothing else is to be had it is enough.
    let differences = move |request: Request| match request {
        Request::GetConsensusDiff { .. } | Request::GetMixKeysDiff { .. } => match shelf.answer(&request).unwrap() {
            Reply::Ok(bytes) => Reply::Ok(bytes.to_vec()),
            Reply::None => Reply::None,
            Reply::Refused(reason) => Reply::Refused(reason),
        },
        _ => Reply::Refused(Refusal::Busy),
    };
    let (only, asked) = says(differences);
    let (found, _) = fetch(before(&only), &first.held()).await.unwrap();
    assert_eq!((found.encode(), asked.load(Ordering::SeqCst)), (second.bytes.as_slice(), 1));

    // From something that the mirror doesn't know, the whole.
    let other = liars.consensus(current() - 1, None, |body| body.relays[1].capacity += 1);
    let (found, _) = fetch(before(&at), &other.held()).await.unwrap();
    assert_eq!(found.encode(), second.bytes);
    // Nobody has anything newer; and with the authorities silent the others are asked.
    let nothing = fetch(before(&at), &second.held()).await.unwrap_err();
    assert!(matches!(nothing, FetchError::NothingNewer), "{nothing}");
    let silent = Liars::start();
    let dead: Vec<_> = silent.network.authorities().list().to_vec();
    let gone = |a: &Authority| Authority { addresses: vec!["127.0.0.1:9".parse().unwrap()], ..a.clone() };
    let network = Network::new(Authorities::new(dead.iter().map(gone).collect()).unwrap());
    let after = Mirrors { before: vec![], after: vec![at] };
    let (found, _) = fetch_newer(&network, &after, &liars.dialer, now(), &first.held()).await.unwrap();
    assert_eq!(found.encode(), second.bytes, "no authority was there");
}

#[tokio::test]
async fn a_hostile_mirror_is_passed_over() {
    let liars = Liars::start();
    let first = liars.consensus(current() - 1, None, |_| {});
    let second = liars.consensus(current(), Some(&first), |body| body.relays[0].capacity += 1);
    let unsigned = liars.consensus(current(), Some(&first), |body| body.relays[0].capacity += 2);
    liars.hand_out(&second);
    let diff = |to: &Consensus| ConsensusDiff::between(&first.consensus, to).encode();
    let mut forged = unsigned.consensus.body().clone();
    forged.relays[0].link_key = LinkPublicKey([66; 32]);
    let no_signature = Consensus::assemble(&forged.encode(), &[]);
    let mut longer = diff(&second.consensus);
    longer[66..70].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut other_base = diff(&second.consensus);
    other_base[2] ^= 1;
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("nonsense", vec![9; 500]),
        ("a difference that claims to be long", longer),
        ("from another base", other_base),
        ("to the one that is held", diff(&first.consensus)),
        ("nobody has signed it", no_signature),
        ("longer than any", vec![0; 3 << 20]),
        ("old", first.bytes.clone()),
    ];
    for (what, bytes) in lies {
        let (at, asked) = says(move |_| Reply::Ok(bytes.clone()));
        let mirrors = Mirrors { before: vec![at], after: vec![] };
        let (found, _) = fetch_newer(&liars.network, &mirrors, &liars.dialer, now(), &first.held()).await.expect(what);
        assert_eq!(found.encode(), second.bytes, "{what}");
        assert!(asked.load(Ordering::SeqCst) > 0, "{what}: the mirror was asked first");
    }
}
