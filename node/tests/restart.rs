//! A relay that stops and starts loses nothing that it need not lose: packets that wait, the last consensus, the places
//! of the key epoch that has just ended.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{self, Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use posta_link::fetch::{Network, ask};
use posta_link::{Audience, Endpoint, LinkKey};
use posta_node::driver::cache::{Cache, Known};
use posta_node::keys::Keys;
use posta_node::relay::replay::{ReplaySecret, ReplayShard};
use posta_node::relay::worker::{Peeler, Ring};
use posta_node::relay::{Action, Admission, Bounds, Event, Relay, STOP_DELAY, Settings, Source};
use posta_protocol::admission::{Proof, QueueKind};
use posta_protocol::command::{Command, ReaderCapability, WriterCapability};
use posta_protocol::document::{Position, Refusal, Reply, Request};
use posta_protocol::ids::Epoch;
use posta_protocol::now::{Now, Wall};
use posta_protocol::onion::KeyRing;
use posta_protocol::onion::build::Last;
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use world::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_relay_that_stops_lets_out_what_is_due_soon_at_its_time_and_drops_the_rest() {
    let mut w = World::new();
    w.hold_wire = true;
    let arrives = |w: &mut World, delay| {
        let packet = w.packet(&FORTH, delay, Last::Queue, b"");
        assert!(w.receive(ENTRY, Source::Client(CLIENT), packet));
        w.run();
    };
    for delay in [STOP_DELAY - SECOND, STOP_DELAY, STOP_DELAY + SECOND] {
        arrives(&mut w, delay);
    }
    w.event(ENTRY, Event::Stop);
    assert_eq!((w.core(ENTRY).delayed(), w.core(ENTRY).counters().stopped), (2, 1));
    w.advance(STOP_DELAY - SECOND * 2);
    assert!(w.wire.is_empty(), "nothing leaves before its time");
    // What the workers still pass on is judged by the same end.
    arrives(&mut w, SECOND);
    arrives(&mut w, SECOND * 3);
    // A second word does not move the end.
    w.event(ENTRY, Event::Stop);
    assert_eq!(w.core(ENTRY).counters().stopped, 2);
    w.advance(SECOND);
    assert_eq!(w.wire.len(), 2);
    w.advance(SECOND);
    assert_eq!((w.wire.len(), w.core(ENTRY).delayed()), (3, 0));
}

#[test]
fn what_the_store_does_is_answered_while_the_relay_stops() {
    let mut w = World::new();
    w.hold_stores = true;
    let (reader, writer) = (ReaderCapability::new(Secret::new([1; 32])), WriterCapability::new(Secret::new([2; 32])));
    let create =
        Command::Create { queue: reader.id(), writer: writer.id(), kind: QueueKind::Plain, proof: Proof::Nothing };
    w.command(create, 1);
    assert_eq!((w.asked.len(), w.answers().len()), (1, 0), "the store has been asked");
    w.event(QUEUES, Event::Stop);
    w.release_stores();
    assert_eq!(w.answers().len(), 1);
}

/// A relay that has just started, with what it knows.
fn restarted(now: Now, known: &Known) -> Relay {
    let settings = Settings {
        relay: ENTRY,
        geometry: G,
        incarnation: INCARNATION,
        admission: Admission::Open,
        bounds: Bounds::default(),
    };
    let mut core = Relay::new(settings, Box::new(ChaCha20Rng::seed_from_u64(1)));
    let held = known.newest.clone().unwrap();
    for consensus in known.for_layers(&held).into_iter().chain([held]) {
        core.handle(now, Event::Consensus(consensus));
    }
    core
}

fn is_carried(core: &mut Relay, now: Now, packet: &Packet) -> bool {
    let last = epoch_at(start().wall);
    let keys = Arc::new(KeyRing::new(ENTRY, G, vec![(last, mix_key(ENTRY, last))]));
    let shard = ReplayShard::new(ReplaySecret::new(Secret::new([8; 32])), 10);
    let mut packet = packet.clone();
    let peeled = Peeler::new(Ring { keys, epochs: vec![last] }, shard).peel(&mut packet).unwrap();
    core.handle(now, Event::Peeled { from: Source::Client(CLIENT), peeled, packet });
    matches!(core.poll(), Some(Action::Send { to: MIX1, .. }))
}

#[test]
fn a_relay_restarted_early_in_a_key_epoch_still_carries_packets_of_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let mut w = World::new();
    let late = w.packet(&FORTH, Duration::ZERO, Last::Queue, b"");
    let (old, new) = (consensus(start().wall), consensus(start().wall + KEY_EPOCH));
    cache.keep(&old, None).unwrap();
    cache.keep(&new, Some(&old)).unwrap();
    // 100 s before it is 100 s old: ten seconds into the new key epoch.
    let now = Now { wall: start().wall + KEY_EPOCH - SECOND * 90, ..start() };
    let known = cache.load(&authorities(), now.wall);
    assert_eq!(known.newest.as_ref().unwrap().hash(), new.hash());
    assert!(is_carried(&mut restarted(now, &known), now, &late));

    // A newer consensus of the same key epochs leaves it in its place.
    cache.keep(&new, Some(&new)).unwrap();
    let again = cache.load(&authorities(), now.wall);
    assert!(is_carried(&mut restarted(now, &again), now, &late));

    // The control: without the older consensus it is dropped, and so it is a key epoch later.
    let later = Now { wall: now.wall + KEY_EPOCH, ..now };
    assert!(!is_carried(&mut restarted(later, &cache.load(&authorities(), later.wall)), later, &late));
    fs::remove_file(dir.path().join("consensus.before")).unwrap();
    assert!(!is_carried(&mut restarted(now, &cache.load(&authorities(), now.wall)), now, &late));
}

#[test]
fn a_kept_consensus_is_verified_again_and_passed_over_if_expired_or_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let now = start().wall;
    assert!(cache.load(&authorities(), now).newest.is_none(), "a first start");
    cache.keep(&consensus(now), None).unwrap();
    let loads = |at: Wall| cache.load(&authorities(), at).newest.is_some();
    assert!(loads(now));
    let hour = Duration::from_secs(3600);
    assert!(
        loads(now + hour + SECOND * 119) && !loads(now + hour + SECOND * 120),
        "valid for an hour, clocks 120 s off"
    );
    let path = dir.path().join("consensus");
    let bytes = fs::read(&path).unwrap();
    for at in [0, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(!loads(now), "byte {at}");
    }
    for length in [0, 1, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(!loads(now), "{length} bytes");
    }
    fs::write(&path, &bytes).unwrap();
    assert!(loads(now));
}

/// A relay's folder with a consensus that lists it, in a network whose authority is down.
fn listed_relay(dir: &Path) -> String {
    let network = dir.join("authorities.toml");
    Network::new(authorities()).save(&network).unwrap();
    let home = dir.join("relay");
    let free = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
    let [link, client] = free.map(|s| s.local_addr().unwrap().to_string());
    let made = process::Command::new(env!("CARGO_BIN_EXE_posta-node"))
        .args(["init", "--dir", home.to_str().unwrap(), "--network", network.to_str().unwrap()])
        .args(["--link-address", &link, "--client-address", &client, "--key-epoch-ms", "600000", "--allow-root"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let now = Wall(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    let keys = Keys::open(&home.join("state"), now).unwrap();
    let held = consensus_of(now, vec![entry(keys.relay(), keys.link_public(), Position::Edge)]);
    Cache::new(&home.join("state")).keep(&held, None).unwrap();
    home.join("node.toml").display().to_string()
}

fn run(config: &str) -> (Child, String) {
    let mut child = process::Command::new(env!("CARGO_BIN_EXE_posta-node"))
        .args(["run", "--ready-json", "--config", config])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

fn signal(child: &Child, name: &str) {
    // The shell's own: a bare Debian has no kill program.
    let told = process::Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(told.success());
}

fn address(config: &str, key: &str) -> SocketAddr {
    let text = fs::read_to_string(config).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
    line.split('"').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_relay_mirrors_the_documents_that_it_holds_at_both_its_ports() {
    let dir = tempfile::tempdir().unwrap();
    let config = listed_relay(dir.path());
    let state = dir.path().join("relay/state");
    let kept = fs::read(state.join("consensus")).unwrap();
    let (mut child, _) = run(&config);
    let keys = Keys::open(&state, Wall(0)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dialer =
            |key: Option<&LinkKey>| Endpoint::dialer("127.0.0.1".parse().unwrap(), Audience::Directory, key).unwrap();
        let whole = Request::GetConsensus { newer_than: Epoch(0) };
        // Clients have no name.
        let nameless = dialer(None);
        let client_port = nameless.connect_nameless(address(&config, "client_address"), keys.link_public());
        let client_port = client_port.await.unwrap();
        assert_eq!(ask(&client_port, &whole).await.unwrap(), Reply::Ok(kept.clone()));
        let vote = Request::Vote(vec![1]);
        assert_eq!(ask(&client_port, &vote).await.unwrap(), Reply::Refused(Refusal::Unsupported));
        // At the link port those are answered that are listed: here it is asked by itself.
        let link_address = address(&config, "link_address");
        let listed = dialer(Some(keys.link()));
        let link_port = listed.connect(link_address, keys.link_public()).await.unwrap();
        assert_eq!(ask(&link_port, &whole).await.unwrap(), Reply::Ok(kept));
        let stranger = dialer(Some(&LinkKey::from_seed(&Secret::new([7; 32])).unwrap()));
        let refused = match stranger.connect(link_address, keys.link_public()).await {
            Ok(connection) => ask(&connection, &whole).await.map(drop).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        assert!(refused.is_err(), "a stranger was answered at the link port");
    });
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_relay_serves_at_once_although_no_authority_answers_and_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = listed_relay(dir.path());
    // The second start finds what the first has left.
    for name in ["TERM", "INT"] {
        let (mut child, line) = run(&config);
        assert!(line.contains("\"ready\":true") && line.contains("edge"), "{line}");
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    // Without what it kept it waits for an authority: it is the file that made it ready.
    fs::remove_file(dir.path().join("relay/state/consensus")).unwrap();
    let mut child = process::Command::new(env!("CARGO_BIN_EXE_posta-node"))
        .args(["run", "--ready-json", "--config", &config])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let failed = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(failed.into_iter().any(|line| line.contains("can't be reached")));
    signal(&child, "TERM");
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stdout.is_empty());
}
