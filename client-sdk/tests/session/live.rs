//! The driver, the async client and the program, over real links: one task plays all relays and the authority.

mod tap;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use posta_client::session::event::Options;
use posta_client::store::{Cost, StoreError};
use posta_client::{Client, ClientEvent, ClientOptions, ContactId, EventCursor, MessageState, StartError};
use posta_link::fetch::Network;
use posta_link::{AnyPeer, Audience, Connection, Endpoint, LinkKey, LinkSender, Received};
use posta_protocol::document::{Authorities, Authority, MixKeys, Reply, Request};
use posta_protocol::frame::{Frame, Hello};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, LinkPublicKey};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::secret::Secret;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::world::{ELSEWHERE, World, authorities};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const GEOMETRY: Geometry = Geometry::DEFAULT;
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "this test runs in real time")]
fn wall() -> Wall {
    Wall(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

struct Shared {
    world: World,
    senders: BTreeMap<usize, LinkSender>,
}

/// A network that can be dialled.
struct Live {
    shared: Arc<Mutex<Shared>>,
    network: Network,
    _endpoints: Vec<Endpoint>,
}

fn bind(audience: Audience, seed: u8) -> (Endpoint, LinkKey) {
    let key = LinkKey::from_seed(&Secret::new([seed; 32])).unwrap();
    let endpoint = Endpoint::bind((LOCAL, 0).into(), audience, &key, Arc::new(AnyPeer)).unwrap();
    (endpoint, key)
}

impl Live {
    /// `clock`: what the network takes for the time.
    fn start(clock: Wall) -> Self {
        let mut world = World::new(1, 6, 6, Duration::from_secs(3600));
        // So that the driver's ticks solve some, in several slices.
        world.relays.iter_mut().for_each(|relay| relay.asks = super::admission::puzzle(15, 1));
        world.now = Now { mono: Mono(1_000_000), wall: clock };
        let mut endpoints = Vec::new();
        for edge in 0..6 {
            let (endpoint, key) = bind(Audience::Client, edge as u8 + 10);
            world.addresses.insert(edge, (endpoint.local_addr().unwrap(), key.public()));
            endpoints.push(endpoint);
        }
        Self::serve(world, endpoints)
    }

    /// With these parameters, and clients kept from the edges themselves by what stands before them.
    async fn start_behind<F: Future<Output = SocketAddr>>(
        clock: Wall,
        params: Vec<(u16, u64)>,
        before: impl Fn(SocketAddr) -> F,
    ) -> Self {
        let mut world = World::new(1, 6, 6, Duration::from_secs(3600));
        world.now = Now { mono: Mono(1_000_000), wall: clock };
        world.params = params;
        let mut endpoints = Vec::new();
        for edge in 0..6 {
            let (endpoint, key) = bind(Audience::Client, edge as u8 + 10);
            world.addresses.insert(edge, (before(endpoint.local_addr().unwrap()).await, key.public()));
            endpoints.push(endpoint);
        }
        Self::serve(world, endpoints)
    }

    fn serve(world: World, mut endpoints: Vec<Endpoint>) -> Self {
        let documents = world.signed();
        let shared = Arc::new(Mutex::new(Shared { world, senders: BTreeMap::new() }));
        for (edge, endpoint) in endpoints.iter().enumerate() {
            tokio::spawn(serve_edge(endpoint.clone(), edge, Arc::clone(&shared)));
        }
        let (directory, key) = bind(Audience::Directory, 1);
        let network = Network::new(authorities(vec![directory.local_addr().unwrap()], key.public()));
        tokio::spawn(serve_directory(directory.clone(), documents));
        endpoints.push(directory);
        Self { shared, network, _endpoints: endpoints }
    }

    fn options(&self) -> ClientOptions {
        ClientOptions {
            network: self.network.clone(),
            local: LOCAL,
            session: Options::default(),
            patience: Duration::from_secs(2),
        }
    }
}

async fn serve_edge(endpoint: Endpoint, edge: usize, shared: Arc<Mutex<Shared>>) {
    while let Some(connection) = endpoint.accept().await {
        tokio::spawn(serve_client(connection, edge, Arc::clone(&shared)));
    }
}

async fn serve_client(connection: Connection, edge: usize, shared: Arc<Mutex<Shared>>) {
    let hello = Hello::new(GEOMETRY, Epoch(0), Hash([0; 32]));
    let link = connection.open_link(hello, GEOMETRY.packet_len()).await.unwrap();
    let mut receiver = link.receiver;
    let client = {
        let mut shared = shared.lock().unwrap();
        let client = ELSEWHERE + shared.senders.len();
        shared.senders.insert(client, link.sender.clone());
        client
    };
    while let Some(received) = receiver.recv().await {
        let out = {
            let mut shared = shared.lock().unwrap();
            match received {
                Received::Packet(packet) => shared.world.inject(edge, packet, wall()),
                Received::Control(Frame::Attach(secret)) => {
                    let inbox = shared.world.attach(edge, client, &secret);
                    link.sender.try_control(Frame::Attached(inbox)).unwrap();
                }
                Received::Control(_) => {}
            }
            let out = std::mem::take(&mut shared.world.elsewhere);
            out.into_iter().map(|(to, packet)| (shared.senders[&to].clone(), packet)).collect::<Vec<_>>()
        };
        for (sender, packet) in out {
            let _ = sender.send(packet).await;
        }
    }
}

async fn serve_directory(endpoint: Endpoint, (consensus, parts): (Vec<u8>, Vec<Arc<MixKeys>>)) {
    let parts: BTreeMap<Hash, Vec<u8>> = parts.iter().map(|p| (MixKeys::hash(&p.encode()), p.encode())).collect();
    while let Some(connection) = endpoint.accept().await {
        while let Ok((request, responder)) = connection.next_request(1024).await {
            let reply = match Request::decode(&request).unwrap() {
                Request::GetConsensus { newer_than: Epoch(0) } => Reply::Ok(consensus.clone()),
                Request::GetMixKeys(hash) => parts.get(&hash).cloned().map_or(Reply::None, Reply::Ok),
                _ => Reply::None,
            };
            let _ = responder.reply(&reply.encode()).await;
        }
    }
}

async fn wait<T>(client: &Client, mut wanted: impl FnMut(ClientEvent) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(client.next_event().await.expect("the client has stopped")) {
                return found;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("nothing came in time")
}

async fn connected(client: &Client) -> ContactId {
    wait(client, |e| if let ClientEvent::Connected { contact } = e { Some(contact) } else { None }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_talk_over_real_links() {
    let live = Live::start(wall());
    let inviter = Client::start(live.options()).await.unwrap();
    let joiner = Client::start(live.options()).await.unwrap();
    let invited = timeout(PATIENCE, inviter.invite()).await.unwrap().unwrap();
    joiner.join(&invited.link).await.unwrap();
    assert_eq!(connected(&inviter).await, invited.contact);
    let to_inviter = connected(&joiner).await;
    for n in 0..20 {
        joiner.send(to_inviter, format!("{n}").into_bytes()).await.unwrap();
        let message = |e| if let ClientEvent::Message { number, body, .. } = e { Some((number, body)) } else { None };
        assert_eq!(wait(&inviter, message).await, (n + 1, format!("{n}").into_bytes()));
    }
    let last = |e| match e {
        ClientEvent::State { message, state: MessageState::Delivered, .. } => (message.0 == 20).then_some(()),
        _ => None,
    };
    wait(&joiner, last).await;
    assert!(inviter.ping().await.unwrap());
    wait(&inviter, |e| matches!(e, ClientEvent::Pong { .. }).then_some(())).await;
    assert!(live.shared.lock().unwrap().world.relays.iter().any(|r| r.carried > 0));
}

/// The next message, with its place; what stands before it.
async fn next_message(client: &Client) -> (EventCursor, Vec<u8>) {
    let found = async {
        loop {
            let (cursor, event) = client.next_uncommitted().await.expect("the client has stopped");
            if let ClientEvent::Message { body, .. } = event {
                return (cursor, body);
            }
        }
    };
    timeout(PATIENCE, found).await.expect("no message in time")
}

/// The first event that is kept.
async fn wait_uncommitted(client: &Client) -> ClientEvent {
    let found = async {
        loop {
            let (_, event) = client.next_uncommitted().await.expect("the client has stopped");
            if !matches!(event, ClientEvent::Ready | ClientEvent::Warning(_)) {
                return event;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("nothing came in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_handed_out_until_they_are_committed() {
    let live = Live::start(wall());
    let folder = tempfile::tempdir().unwrap();
    let builder = || Client::builder(folder.path()).network(live.network.clone()).local(LOCAL).cost(Cost::LEAST);
    let reader = builder().create("correct horse").await.unwrap();
    let writer = Client::start(live.options()).await.unwrap();
    let invited = timeout(PATIENCE, reader.invite()).await.unwrap().unwrap();
    let to = writer.join(&invited.link).await.unwrap();
    assert_eq!(connected(&writer).await, to);
    for text in ["one", "two"] {
        writer.send(to, text.into()).await.unwrap();
    }
    let (first, body) = next_message(&reader).await;
    assert_eq!(body, b"one");
    let (second, _) = next_message(&reader).await;
    assert!(second > first);
    assert!(reader.rename(invited.contact, "writer").await.unwrap());
    let locked = builder().open("correct horse").await.unwrap_err();
    assert!(matches!(locked, StartError::Store(StoreError::Locked { .. })), "{locked}");
    reader.close().await;

    let wrong = builder().open("wrong").await.unwrap_err();
    assert!(matches!(wrong, StartError::Store(StoreError::WrongPassphrase)), "{wrong}");
    // Nothing was committed: both come again, in the same places.
    let reader = builder().open("correct horse").await.unwrap();
    assert_eq!(reader.contacts().await.unwrap()[0].name, "writer");
    // The invitation is not among them: it was given to who asked for it.
    let connected = wait_uncommitted(&reader).await;
    assert_eq!(connected, ClientEvent::Connected { contact: invited.contact });
    assert_eq!(next_message(&reader).await, (first, b"one".to_vec()));
    reader.commit(first).await.unwrap();
    reader.change_passphrase(b"battery staple").await.unwrap();
    reader.close().await;

    let reader = builder().open("battery staple").await.unwrap();
    assert_eq!(next_message(&reader).await, (second, b"two".to_vec()));
    writer.send(to, b"three".to_vec()).await.unwrap();
    let (third, body) = next_message(&reader).await;
    assert!(third > second && body == b"three");
    reader.commit(third).await.unwrap();
    assert!(reader.remove(invited.contact).await.unwrap());
    reader.close().await;

    let reader = builder().open("battery staple").await.unwrap();
    assert!(reader.contacts().await.unwrap().is_empty());
    assert_eq!(wait(&reader, Some).await, ClientEvent::Ready);
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_cannot_be_believed_is_not_used() {
    let far = Duration::from_secs(48 * 3600);
    let early = Live::start(wall() + far);
    let refused = Client::start(early.options()).await.unwrap_err();
    assert!(matches!(refused, StartError::Clock { .. }) && refused.to_string().contains("UTC"), "{refused}");
    let late = Live::start(wall() - far);
    assert!(matches!(Client::start(late.options()).await.unwrap_err(), StartError::Clock { .. }));

    let live = Live::start(wall());
    let known = live.network.authorities().list()[0].clone();
    let another = |n: u8| Authority { id: AuthorityId([n; 32]), link_key: LinkPublicKey([n; 32]), ..known.clone() };
    let four = Authorities::new(vec![known.clone(), another(1), another(2), another(3)]).unwrap();
    let options = ClientOptions { network: Network::new(four), ..live.options() };
    let refused = Client::start(options).await.unwrap_err();
    assert!(matches!(refused, StartError::Untrusted(_)) && refused.to_string().contains("3 are needed"), "{refused}");
}

/// A `posta talk --json`.
struct Program {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn talk(network: &PathBuf, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posta"));
        command.arg("talk").arg("--network").arg(network).args(["--json", "--local", "127.0.0.1"]).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }

    async fn say(&mut self, what: serde_json::Value) {
        self.input.write_all(format!("{what}\n").as_bytes()).await.unwrap();
    }

    async fn until(&mut self, event: &str) -> serde_json::Value {
        let found = async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                if line["event"] == event {
                    return line;
                }
            }
            panic!("the program ended without {event}")
        };
        timeout(PATIENCE, found).await.expect("nothing came in time")
    }
}

async fn end_of(network: &PathBuf, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posta"));
    command.args(arguments).arg("--network").arg(network).args(["--local", "127.0.0.1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_talk_and_bad_links_end_in_one_sentence() {
    let live = Live::start(wall());
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("network.toml");
    live.network.save(&network).unwrap();

    let mut inviter = Program::talk(&network, &[]);
    let link = inviter.until("invitation").await["link"].as_str().unwrap().to_owned();
    let mut joiner = Program::talk(&network, &["--join"]);
    joiner.say(serde_json::json!({ "join": link })).await;
    inviter.until("connected").await;
    joiner.until("connected").await;
    joiner.say(serde_json::json!({ "send": "hello" })).await;
    assert_eq!(inviter.until("message").await["text"], "hello");
    drop(joiner.input);
    assert!(timeout(PATIENCE, joiner.child.wait()).await.unwrap().unwrap().success());

    let (code, sentence) = end_of(&network, &["talk", "--join"], "posta:nonsense\n").await;
    assert!(code == Some(2) && sentence.contains("wrong or missing character"), "{code:?} {sentence}");
    let (code, sentence) = end_of(&network, &["talk", "--join"], &format!("{}\n", World::foreign_link())).await;
    assert!(code == Some(3) && sentence.contains("another network"), "{code:?} {sentence}");
    let (code, sentence) = end_of(&network, &["talk", "--join"], &format!("{link}\n")).await;
    assert!(code == Some(3) && sentence.contains("used already"), "{code:?} {sentence}");
    let (code, sentence) = end_of(&network, &["ping"], "").await;
    assert_eq!((code, sentence.as_str()), (Some(0), ""));
    assert!(link.len() < 120 && !sentence.contains("posta:p"));
}
