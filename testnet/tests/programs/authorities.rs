//! Four authorities, of which one after the other dies, mistakes the hour, and lies: the list of relays goes on being agreed
//! on, and messages flow. On the way they measure their relays.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use posta_directory::config::{Config, Setup};
use posta_directory::driver::{Clock, serve_by};
use posta_link::fetch::{Network, connect, fetch_signed};
use posta_link::{AnyPeer, Audience, Endpoint};
use posta_protocol::document::{
    Consensus, Extensions, Params, RandomItems, Reliability, Reply, Request, Vote, random_commit,
};
use posta_protocol::ids::{AuthorityId, Epoch, KeyEpoch};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, interval};

use crate::kills::{exchange, meet};
use crate::shared::{Running, role, testnet};

/// For everything that takes a few epochs of ten seconds.
const PATIENCE: Duration = Duration::from_secs(100);
const HOUR_MS: i64 = 3_600_000;

/// A network that is up.
struct Net {
    dir: PathBuf,
    network: Network,
    dialer: Endpoint,
    /// Authorities that this test has started again.
    again: Vec<Again>,
}

/// A process whose words nobody waits for, killed at the end of the test.
struct Again(Child);

impl Drop for Again {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Net {
    fn place(&self, a: usize) -> PathBuf {
        self.dir.join(format!("authority-{a}"))
    }

    fn config(&self, a: usize) -> PathBuf {
        self.place(a).join("directory.toml")
    }

    /// What an authority runs with, and its port, which is free as soon as its process is gone.
    fn setup(&self, a: usize) -> (Setup, Endpoint) {
        let config = Config::load(&self.config(a)).unwrap();
        let setup = config.setup(Clock::start().now().wall).unwrap();
        let endpoint = Endpoint::bind(config.listen, Audience::Directory, &setup.link_key, Arc::new(AnyPeer)).unwrap();
        (setup, endpoint)
    }

    /// SIGKILL to the process that `up` has started; its name, as it is known by.
    fn kill(&self, a: usize) {
        let status = testnet().args(["status", "--json", "--dir", self.dir.to_str().unwrap()]).output().unwrap();
        let nodes: Value = serde_json::from_slice(&status.stdout).unwrap();
        let name = format!("authority-{a}");
        let node = nodes["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name.as_str()).unwrap();
        assert!(Command::new("kill").args(["-9", &node["pid"].to_string()]).status().unwrap().success());
    }

    fn start(&mut self, a: usize) {
        let mut command = role("directory", &["run", "--config", self.config(a).to_str().unwrap()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.again.push(Again(child));
    }

    /// The first consensus of which this holds.
    async fn until(&self, what: &str, holds: impl Fn(&Consensus) -> bool) -> Consensus {
        let deadline = Instant::now() + PATIENCE;
        let mut turns = interval(Duration::from_millis(250));
        let mut last = None;
        while Instant::now() < deadline {
            turns.tick().await;
            if let Ok((consensus, _)) = fetch_signed(&self.network, &self.dialer, Clock::start().now().wall, None).await
            {
                if holds(&consensus) {
                    return consensus;
                }
                last = Some(consensus);
            }
        }
        let table = last.map(|c| posta_directory::show::table(&c, Clock::start().now().wall));
        panic!("{what}: not in time; {}", table.unwrap_or_default());
    }

    /// So many epochs later.
    async fn later(&self, what: &str, epochs: u64) -> Consensus {
        let now = self.until(what, |_| true).await.epoch().0;
        self.until(what, |c| c.epoch().0 >= now + epochs).await
    }

    /// Two people who have never been here meet and talk.
    async fn people_talk(&self, name: &str) {
        let (dir, network) = (self.dir.join(name), self.dir.join("network.toml"));
        fs::create_dir(&dir).unwrap();
        let folders = tokio::task::spawn_blocking(move || meet(&dir, &network)).await.unwrap();
        exchange(&folders, 0, 1).await;
    }
}

/// Runs an authority's place by something else while something happens; then the authority comes back, and signs again.
async fn instead<F: Future<Output = ()> + Send + 'static>(
    net: &mut Net,
    a: usize,
    name: &str,
    other: impl FnOnce(Setup, Endpoint, oneshot::Receiver<()>) -> F,
) {
    let setup = Config::load(&net.config(a)).unwrap().setup(Clock::start().now().wall).unwrap();
    let id = AuthorityId(setup.settings.certificate.identity);
    net.kill(a);
    // The system frees the port a moment after the process has gone.
    let mut turns = interval(Duration::from_millis(50));
    let listen = Config::load(&net.config(a)).unwrap().listen;
    while std::net::UdpSocket::bind(listen).is_err() {
        turns.tick().await;
    }
    let (setup, endpoint) = net.setup(a);
    let (stop, stopped) = oneshot::channel();
    let other = tokio::spawn(other(setup, endpoint, stopped));
    net.people_talk(name).await;
    net.later(name, 2).await;
    // It may have ended by itself.
    let _ = stop.send(());
    other.await.unwrap();
    net.start(a);
    net.until(name, |c| c.signed_header().signatures.iter().any(|s| s.authority() == id)).await;
}

/// Tells every authority another story: garbage for an answer, and two votes for each epoch.
async fn lie(setup: Setup, endpoint: Endpoint, network: Network, mut stop: oneshot::Receiver<()>) {
    let garbage = |endpoint: Endpoint| async move {
        while let Some(connection) = endpoint.accept().await {
            tokio::spawn(async move {
                while let Ok((_, responder)) = connection.next_request(Request::MAX_AUTHORITY_LEN).await {
                    // Who asked may have gone.
                    let _ = responder.reply(&Reply::<Vec<u8>>::Ok(vec![0xff; 64]).encode()).await;
                }
            });
        }
    };
    let listening = tokio::spawn(garbage(endpoint.clone()));
    let own = AuthorityId(setup.settings.certificate.identity);
    let epoch_ms = setup.settings.params.epoch_ms();
    let mut turns = interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = &mut stop => break,
            _ = turns.tick() => {}
        }
        let now = Clock::start().now().wall;
        let epoch = Epoch(now.0 / epoch_ms + 1);
        let key_epoch = KeyEpoch(epoch.0 * epoch_ms / setup.settings.params.key_epoch_ms());
        for (n, authority) in network.authorities().list().iter().filter(|a| a.id != own).enumerate() {
            let vote = Vote {
                certificate: setup.settings.certificate,
                epoch,
                attempt: 0,
                published: now,
                newest: None,
                random: RandomItems {
                    key_epoch,
                    commits: vec![(own, random_commit(&own, key_epoch, &[n as u8; 32]))],
                    reveals: vec![],
                },
                params: Params::default(),
                relays: vec![],
                extensions: Extensions::default(),
            };
            if let Ok(connection) = connect(authority, &endpoint).await {
                // Refused or not: it has been said.
                let request = Request::Vote(vote.sign(&setup.signing_key)).encode();
                let _ = connection.request(&request, 1024).await;
            }
        }
    }
    listening.abort();
    endpoint.close();
}

/// The evidence that authorities have kept.
fn evidence(net: &Net) -> Vec<PathBuf> {
    let of = |a| fs::read_dir(net.place(a).join("evidence")).unwrap().map(|entry| entry.unwrap().path());
    (0..4).flat_map(of).collect()
}

fn verify(net: &Net, file: &Path) -> String {
    let network = net.dir.join("network.toml");
    let out = role("directory", &["verify-evidence", file.to_str().unwrap(), "--network", network.to_str().unwrap()]);
    let out = { out }.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make soak"]
async fn messages_flow_past_an_authority_that_dies_one_that_mistakes_the_hour_and_one_that_lies() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("net");
    let mut command = testnet();
    command.args(["up", "--dir", place.to_str().unwrap()]);
    let mut up = Running::start(command);
    up.until("The network is up");
    let dialer = Endpoint::dialer("127.0.0.1".parse().unwrap(), Audience::Directory, None).unwrap();
    let network = Network::load(&place.join("network.toml")).unwrap();
    let mut net = Net { dir: place, network, dialer, again: Vec::new() };

    // The relays are measured: none of them drops what comes.
    let works = |c: &Consensus| c.relays().iter().all(|relay| relay.class.reliability >= Reliability::Fair);
    let measured = net.until("measured", works).await;
    assert_eq!(measured.relays().len(), 12);

    // One is dead for a while.
    instead(&mut net, 0, "dead", |_, endpoint, stop| async move {
        endpoint.close();
        // Dropped or sent: it is over.
        let _ = stop.await;
    })
    .await;

    // One is an hour ahead.
    instead(&mut net, 1, "hour", |setup, endpoint, stop| async move {
        let stop = async move {
            let _ = stop.await;
        };
        serve_by(Clock::start().ahead(HOUR_MS), endpoint, setup, stop).await.unwrap();
    })
    .await;
    assert_eq!(evidence(&net), Vec::<PathBuf>::new(), "nobody has lied until now");

    // One lies.
    let known = net.network.clone();
    instead(&mut net, 2, "liar", |setup, endpoint, stop| lie(setup, endpoint, known, stop)).await;
    let proofs = evidence(&net);
    assert!(!proofs.is_empty(), "nobody has kept a proof of the two votes");
    let said = verify(&net, &proofs[0]);
    assert!(said.starts_with("proven: "), "{said}");
}
