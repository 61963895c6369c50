//! Real authorities on loopback sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posta_directory::config::{Config, Setup};
use posta_directory::driver::{Clock, serve};
use posta_link::fetch::{FetchError, Network, fetch_consensus, fetch_signed, post_descriptor, withdraw};
use posta_link::{AnyPeer, Audience, Endpoint, LinkKey};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::KemSecretKey;
use posta_protocol::document::{
    Authorities, Authority, Certificate, Consensus, Descriptor, Extensions, Position, Purpose, Refusal, Roles,
    UnverifiedConsensus, Withdrawal,
};
use posta_protocol::ids::{AuthorityId, KeyEpoch, LinkPublicKey, OperatorId, RelayId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::secret::Secret;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const EPOCH_MS: u64 = 4_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> Wall {
    Clock::start().now().wall
}

fn sign_key(kind: u8, n: u8) -> SignKey {
    let mut seed = [kind; 32];
    seed[0] = n;
    SignKey::from_seed(&Secret::new(seed))
}

fn certificate(purpose: Purpose, identity: &SignKey, signing: &SignKey) -> Certificate {
    Certificate::issue(identity, purpose, SigningPublicKey(signing.public()), now() - DAY, now() + DAY)
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Net {
    network: Network,
    folders: Vec<TempDir>,
    running: Vec<Option<Running>>,
    relays: usize,
    /// Where the first one serves its pages.
    pages: SocketAddr,
}

fn link_key(n: u8) -> LinkKey {
    LinkKey::from_seed(&Secret::new([n + 1; 32])).unwrap()
}

fn bind(n: u8, addr: &str) -> Endpoint {
    Endpoint::bind(addr.parse().unwrap(), Audience::Directory, &link_key(n), Arc::new(AnyPeer)).unwrap()
}

impl Net {
    fn start(n: u8, relays: usize) -> Self {
        let endpoints: Vec<_> = (0..n).map(|i| bind(i, "127.0.0.1:0")).collect();
        let listed = endpoints.iter().zip(0..).map(|(endpoint, i)| Authority {
            id: AuthorityId(sign_key(1, i).public()),
            link_key: link_key(i).public(),
            addresses: vec![endpoint.local_addr().unwrap()],
        });
        let network = Network::new(Authorities::new(listed.collect()).unwrap());
        let folders = (0..n).map(|_| tempfile::tempdir().unwrap()).collect();
        // A free port: bound for a moment.
        let pages = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut net = Self { network, folders, running: (0..n).map(|_| None).collect(), relays, pages };
        for (endpoint, i) in endpoints.into_iter().zip(0..) {
            net.run(i, endpoint);
        }
        net
    }

    fn setup(&self, i: u8, folder: &Path) -> Setup {
        let config = Config {
            epoch_ms: EPOCH_MS,
            key_epoch_ms: 60_000,
            reserved_networks: true,
            layer_min: 1,
            bootstrap_relays: self.relays,
            ..Config::default()
        };
        let (identity, signing) = (sign_key(1, i), sign_key(2, i));
        let settings = posta_directory::authority::Settings {
            authorities: self.network.authorities().clone(),
            certificate: certificate(Purpose::Authority, &identity, &signing),
            geometry: posta_protocol::geometry::Geometry::DEFAULT,
            params: config.params(),
            bootstrap_relays: self.relays,
        };
        Setup {
            settings,
            signing_key: signing,
            link_key: link_key(i),
            state_dir: folder.to_owned(),
            http: (i == 0).then_some(self.pages),
            policy: posta_directory::admission::Policy::default(),
            admission: posta_directory::admission::AdmissionConfig::default(),
            measure_loops: 0,
        }
    }

    fn run(&mut self, i: u8, endpoint: Endpoint) {
        let setup = self.setup(i, self.folders[usize::from(i)].path());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stop = async move {
                let _ = stopped.await;
            };
            serve(endpoint, setup, stop).await.unwrap();
        });
        self.running[usize::from(i)] = Some(Running { stop, task });
    }

    async fn stop(&mut self, i: u8) {
        let Running { stop, task } = self.running[usize::from(i)].take().unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
    }
}

fn descriptor(n: u8) -> Vec<u8> {
    let (identity, signing) = (sign_key(3, n), sign_key(4, n));
    let current = now().0 / 60_000;
    let key = |epoch: u64| {
        let seed = Secret::new([n ^ u8::try_from(epoch % 251).unwrap(); 32]);
        (KeyEpoch(epoch), KemSecretKey::from_seed(&seed).unwrap().public().clone())
    };
    let descriptor = Descriptor {
        certificate: certificate(Purpose::Relay, &identity, &signing),
        link_key: LinkPublicKey([n; 32]),
        link_addresses: vec![format!("127.{n}.0.1:1").parse().unwrap()],
        client_addresses: vec![format!("127.{n}.0.1:2").parse().unwrap()],
        roles: if n.is_multiple_of(2) { Roles::EDGE } else { Roles::MIX },
        family: None,
        operator: OperatorId([n; 16]),
        capacity: 100,
        protocols: Default::default(),
        published: now(),
        mix_keys: (current..=current + 2).map(key).collect(),
        extensions: Extensions::default(),
    };
    descriptor.sign(&signing).unwrap().into_bytes()
}

fn relay(n: u8) -> RelayId {
    RelayId(sign_key(3, n).public())
}

/// Asks until the condition holds. Each question is answered over the network, which paces it.
async fn fetch_until(
    net: &Net,
    dialer: &Endpoint,
    limit: Duration,
    until: impl Fn(&Consensus) -> bool,
) -> posta_link::fetch::Documents {
    let asking = async {
        loop {
            match fetch_signed(&net.network, dialer, now(), None).await {
                Ok(found) if until(&found.0) => return found,
                Ok(_) | Err(FetchError::NoConsensus | FetchError::NothingNewer | FetchError::Link(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
    };
    timeout(limit, asking).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_authorities_agree_a_posted_relay_appears_and_one_may_restart() {
    let mut net = Net::start(4, 4);
    let dialer = Endpoint::dialer("127.0.0.1".parse().unwrap(), Audience::Directory, None).unwrap();
    let none = fetch_consensus(&net.network, &dialer, now(), None).await.unwrap_err();
    assert!(matches!(none, FetchError::NoConsensus), "{none}");

    for n in 1..=4 {
        assert_eq!(post_descriptor(&net.network, &dialer, &descriptor(n)).await.unwrap(), 4);
    }
    let (first, parts) = fetch_until(&net, &dialer, Duration::from_secs(5), |_| true).await;
    fetch_consensus(&net.network, &dialer, now(), None).await.unwrap();
    assert_eq!((first.relays().len(), parts.len()), (4, 3));
    let epoch = first.key_epoch_at(now());
    for position in Position::ALL {
        assert!(first.relays_at(epoch, position).next().is_some());
    }
    assert!(parts.iter().all(|part| part.get(&relay(1)).is_some()));

    assert_eq!(post_descriptor(&net.network, &dialer, &descriptor(5)).await.unwrap(), 4);
    let appears = |c: &Consensus| c.relay(&relay(5)).is_some();
    let (second, _) = fetch_until(&net, &dialer, Duration::from_millis(3 * EPOCH_MS), appears).await;
    assert!(second.epoch() > first.epoch());
    let stale = fetch_consensus(&net.network, &dialer, now(), Some(&second)).await;
    assert!(!matches!(&stale, Ok((c, _)) if c.epoch() <= second.epoch()), "an older one is refused");

    // One is stopped and started again at the same address: the others go on, and it catches up.
    let addr = net.network.authorities().get(&AuthorityId(sign_key(1, 0).public())).unwrap().addresses[0];
    net.stop(0).await;
    let mut posts = tokio::task::JoinSet::new();
    for n in 1..=5 {
        let (network, dialer) = (net.network.clone(), dialer.clone());
        posts.spawn(async move { post_descriptor(&network, &dialer, &descriptor(n)).await.unwrap() });
    }
    assert_eq!(posts.join_all().await, [3; 5]);
    let newer = |than: Consensus| move |c: &Consensus| c.epoch() > than.epoch();
    let (third, _) = fetch_until(&net, &dialer, Duration::from_millis(3 * EPOCH_MS), newer(second)).await;
    net.run(0, bind(0, &addr.to_string()));
    for n in 1..=5 {
        assert_eq!(post_descriptor(&net.network, &dialer, &descriptor(n)).await.unwrap(), 4);
    }
    let only = net.network.authorities().get(&AuthorityId(sign_key(1, 0).public())).unwrap().clone();
    let connection = posta_link::fetch::connect(&only, &dialer).await.unwrap();
    let caught_up = async {
        let request = posta_protocol::document::Request::GetConsensus { newer_than: third.epoch() };
        loop {
            if let posta_protocol::document::Reply::Ok(_) = posta_link::fetch::ask(&connection, &request).await.unwrap()
            {
                return;
            }
        }
    };
    // A stranger's requests are rate-limited: refusals are part of the loop.
    timeout(Duration::from_millis(3 * EPOCH_MS), caught_up).await.expect("the restarted authority catches up");
    for i in 0..4 {
        net.stop(i).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_descriptors_are_refused_and_unreachable_authorities_named() {
    let mut net = Net::start(1, 1);
    let dialer = Endpoint::dialer("127.0.0.1".parse().unwrap(), Audience::Directory, None).unwrap();
    let mut forged = descriptor(1);
    *forged.last_mut().unwrap() ^= 1;
    let e = post_descriptor(&net.network, &dialer, &forged).await.unwrap_err();
    assert!(matches!(e, FetchError::Refused(Refusal::Untrusted)), "{e}");
    let e = post_descriptor(&net.network, &dialer, b"rubbish").await.unwrap_err();
    assert!(matches!(e, FetchError::Refused(Refusal::Malformed | Refusal::Unsupported)), "{e}");
    assert_eq!(post_descriptor(&net.network, &dialer, &descriptor(1)).await.unwrap(), 1);
    fetch_until(&net, &dialer, Duration::from_secs(5), |c| c.relays().len() == 1).await;
    let small = fetch_consensus(&net.network, &dialer, now(), None).await.unwrap_err();
    assert!(matches!(small, FetchError::TooSmall(_)), "{small}");
    assert!(small.to_string().starts_with("the network is too small: "), "{small}");

    let other = Authority {
        id: AuthorityId([9; 32]),
        link_key: link_key(77).public(),
        addresses: net.network.authorities().list()[0].addresses.clone(),
    };
    let wrong = Network::new(Authorities::new(vec![other]).unwrap());
    let e = fetch_consensus(&wrong, &dialer, now(), None).await.unwrap_err();
    assert!(matches!(e, FetchError::Link(posta_link::LinkError::WrongPeer)), "{e}");
    net.stop(0).await;
}

/// Runs a command of the program against a network, and returns what it prints.
async fn command(net: &Net, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.toml");
    net.network.save(&path).unwrap();
    let args: Vec<String> =
        args.iter().chain(&["--network", path.to_str().unwrap()]).map(ToString::to_string).collect();
    let run = move || std::process::Command::new(env!("CARGO_BIN_EXE_posta-directory")).args(args).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anyone_can_read_what_each_authority_said_and_why_a_relay_is_in_or_out() {
    let mut net = Net::start(4, 4);
    let dialer = Endpoint::dialer("127.0.0.1".parse().unwrap(), Audience::Directory, None).unwrap();
    // A fifth relay reaches one authority only: that is not enough.
    let only = Network::new(Authorities::new(vec![net.network.authorities().list()[0].clone()]).unwrap());
    post_descriptor(&only, &dialer, &descriptor(5)).await.unwrap();
    for n in 1..=4 {
        post_descriptor(&net.network, &dialer, &descriptor(n)).await.unwrap();
    }
    fetch_until(&net, &dialer, Duration::from_secs(10), |c| c.relays().len() == 4).await;
    let votes = command(&net, &["votes"]).await;
    let line = |id: RelayId| {
        let start: String = id.0.iter().take(8).map(|b| format!("{b:02x}")).collect();
        votes.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{votes}")).to_owned()
    };
    assert!(line(relay(1)).ends_with("in"), "{votes}");
    assert!(line(relay(5)).contains("out: more than half must list it"), "{votes}");
    assert!(votes.matches("counted").count() >= 3, "{votes}");
    let status = command(&net, &["status"]).await;
    assert!(status.matches("its vote counted").count() >= 3 && !status.contains("FORK"), "{status}");
    let table = command(&net, &["show"]).await;
    assert!(table.contains("4 relays: 2 edges"), "{table}");

    // One that withdraws is gone with the next consensus, although it is not too old.
    let keys = (sign_key(3, 4), sign_key(4, 4));
    let withdrawal = Withdrawal { certificate: certificate(Purpose::Relay, &keys.0, &keys.1), published: now() };
    assert_eq!(withdraw(&net.network, &dialer, &withdrawal.sign(&keys.1).unwrap()).await.unwrap(), 4);
    let gone = |c: &Consensus| c.relay(&relay(4)).is_none();
    fetch_until(&net, &dialer, Duration::from_millis(3 * EPOCH_MS), gone).await;
    for i in 0..4 {
        net.stop(i).await;
    }
}

/// The head and the content of a page.
async fn get(address: SocketAddr, path: &str) -> (String, Vec<u8>) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    let answer = asked.await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_shows_people_and_programs_what_was_agreed() {
    let mut net = Net::start(1, 4);
    let dialer = Endpoint::dialer("127.0.0.1".parse().unwrap(), Audience::Directory, None).unwrap();
    for n in 1..=4 {
        assert_eq!(post_descriptor(&net.network, &dialer, &descriptor(n)).await.unwrap(), 1);
    }
    let (consensus, _) = fetch_until(&net, &dialer, Duration::from_secs(20), |c| c.relays().len() == 4).await;
    let epoch = consensus.epoch().0;
    // By its epoch, so that it may be the newest no more.
    let (head, bytes) = get(net.pages, &format!("/consensus/{epoch}")).await;
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("application/octet-stream"), "{head}");
    assert_eq!(bytes, consensus.encode());
    let (head, view) = get(net.pages, &format!("/consensus/{epoch}.json")).await;
    assert!(head.contains("application/json"), "{head}");
    let view: serde_json::Value = serde_json::from_slice(&view).unwrap();
    assert_eq!((view["epoch"].as_u64(), view["relays"].as_array().map(Vec::len)), (Some(epoch), Some(4)));
    let history: Vec<u64> = serde_json::from_slice(&get(net.pages, "/history.json").await.1).unwrap();
    assert!(history.contains(&epoch), "{history:?}");
    let newest = get(net.pages, "/consensus").await.1;
    let known = net.network.authorities();
    let newest = UnverifiedConsensus::decode(&newest).unwrap().verify_signatures(known).unwrap();
    assert!(newest.epoch() >= consensus.epoch());
    let (head, html) = get(net.pages, "/").await;
    let html = String::from_utf8(html).unwrap();
    assert!(head.contains("text/html") && head.contains("default-src 'none'"), "{head}");
    for shown in [relay(1).short(), relay(4).short(), "mix 1".to_owned(), "Last rounds".to_owned()] {
        assert!(html.contains(&shown), "{shown} is not on the page: {html}");
    }
    assert!(!html.contains("<script") && !html.contains("http:"), "{html}");
    let metrics = String::from_utf8(get(net.pages, "/metrics").await.1).unwrap();
    assert!(metrics.contains("\nposta_directory_relays 4\n"), "{metrics}");
    assert!(metrics.contains("\nposta_directory_votes_counted 1\n"), "{metrics}");
    for nothing in ["/consensus/1", "/consensus/x", "/identity.key", "/../identity.key", "/consensus/../signing.key"] {
        assert!(get(net.pages, nothing).await.0.starts_with("HTTP/1.1 404"), "{nothing}");
    }
    if let Ok(path) = std::env::var("POSTA_WRITE_PAGE") {
        std::fs::write(path, &html).unwrap();
    }
    net.stop(0).await;
}
