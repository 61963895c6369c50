//! A network that stays: `up`, `status`, `down`, two people who talk, and what strangers are told.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use posta_link::{Audience, Endpoint, LinkError, LinkKey};
use posta_protocol::end_to_end::QueueAddress;
use posta_protocol::frame::Hello;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, Hash, LinkPublicKey, RelayId};
use posta_protocol::invitation::Offer;
use posta_protocol::secret::Secret;
use serde_json::Value;

use crate::shared::{Running, fails_with, logs, role, testnet};

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn talk(network: &Path, more: &[&str]) -> Running {
    let args = ["talk", "--network", network.to_str().unwrap(), "--json"];
    Running::start(role("posta", &[args.as_slice(), more].concat()))
}

#[test]
fn a_network_stays_until_it_is_told_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("net");
    let place = net.to_str().unwrap();
    let mut command = testnet();
    command.args(["up", "--dir", place]);
    let mut up = Running::start(command);
    up.until("The network is up");

    let status = testnet().args(["status", "--json", "--dir", place]).output().unwrap();
    let nodes = json(&String::from_utf8(status.stdout).unwrap());
    assert!(status.status.success());
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(16));

    let network = net.join("network.toml");
    operators_look(&net);
    let relays = nodes["nodes"].as_array().unwrap().iter();
    let relays = relays.filter(|node| !node["name"].as_str().unwrap().starts_with("authority"));
    let pids: Vec<_> = relays.map(|node| node["pid"].to_string()).collect();
    fs::create_dir(net.join("edge-1/conf.d")).unwrap();
    fs::write(net.join("edge-1/conf.d/more.toml"), "[store]\nqueue_quota = 200\n").unwrap();
    people_talk(&network, || {
        let reloaded = Command::new("kill").arg("-HUP").args(&pids).status().unwrap();
        assert!(reloaded.success() && pids.len() == 12);
    });
    let log = logs(&net).into_iter().find(|(name, _)| name.contains("edge-1")).unwrap().1;
    assert!(log.contains("the configuration was reloaded: store.queue_quota"), "{log}");
    operators_look(&net);
    strangers_are_told(&net, &network);

    let again = testnet().args(["up", "--dir", place]).output().unwrap();
    fails_with(&again, &["is up in", "--dir names another folder"]);
    let down = testnet().args(["down", "--dir", place]).output().unwrap();
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert!(!net.exists(), "down removes the folder");
    assert!(up.end().status.success());
    let status = testnet().args(["status", "--dir", place]).output().unwrap();
    fails_with(&status, &["no testnet in", "posta-testnet up"]);
}

#[test]
fn a_network_in_the_background_says_who_is_not_ready_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("net");
    let run = |args: &[&str]| {
        let mut command = testnet();
        command.arg(args[0]).arg("--dir").arg(&place).args(&args[1..]).output().unwrap()
    };
    let text = |out: &std::process::Output| String::from_utf8_lossy(&out.stdout).into_owned();
    let size = ["--relays=6", "--authorities=1", "--clients=2", "--every=0.5", "--tap=each client"];
    let up = run(&[["up", "--detach"].as_slice(), &size].concat());
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    assert!(text(&up).contains("posta-testnet down"), "{}", text(&up));
    fails_with(&run(&["up", "--detach"]), &["is up in"]);
    let well = run(&["status"]);
    assert!(well.status.success() && text(&well).contains("9 of 9 are ready"), "{}", text(&well));
    fails_with(&run(&["exec", "client-1", "contacts"]), &["busy", "exec posta"]);

    // Each program in its place, with its own exit code.
    let status = run(&["exec", "edge-1", "status", "--json"]);
    assert_eq!(json(&text(&status))["state"], "running");
    assert!(run(&["exec", "posta", "ping"]).status.success());
    for asked in ["status", "votes", "show"] {
        let out = run(&["exec", "authority-1", asked]);
        assert!(out.status.success(), "{asked}: {}", String::from_utf8_lossy(&out.stderr));
    }
    assert_eq!(run(&["exec", "edge-1", "no-such-command"]).status.code(), Some(2));
    fails_with(&run(&["exec", "edge-9", "status"]), &["no edge-9 here", "edge-1"]);
    let log = run(&["logs", "mix-1", "--lines=2"]);
    assert_eq!(text(&log).lines().count(), 2, "{}", text(&log));
    fails_with(&run(&["logs", "mix-9"]), &["mix-9 has no log"]);

    let nodes = json(&text(&run(&["status", "--json"])));
    let node = |name: &str| nodes["nodes"].as_array().unwrap().iter().find(|n| n["name"] == name).unwrap().clone();
    // Its clients talk, and somebody watches their lines.
    let tapped = place.join("taps/each-client.jsonl");
    let long = |file: &Path| fs::metadata(file).unwrap().len();
    let before = long(&tapped);
    while long(&tapped) < before + 10_000 {
        std::thread::yield_now();
    }
    let killed = Command::new("kill").arg("-KILL").arg(node("mix-2")["pid"].to_string()).status().unwrap();
    assert!(killed.success() && node("mix-2")["ready"] == true);
    // Its end is known when its parent has noted it.
    let state = place.join("testnet.json");
    while !fs::read_to_string(&state).unwrap().contains("ended") {
        std::thread::yield_now();
    }
    let ill = run(&["status"]);
    assert_eq!(ill.status.code(), Some(1));
    assert!(text(&ill).lines().any(|line| line.starts_with("mix-2") && line.contains("ended")), "{}", text(&ill));

    assert!(run(&["down"]).status.success());
    assert!(!place.exists());
    // A folder of somebody else's is not emptied.
    fs::create_dir(&place).unwrap();
    fs::write(place.join("thesis"), "years").unwrap();
    fails_with(&run(&["up"]), &["no testnet's", "--dir"]);
    assert!(place.join("thesis").exists());
    fails_with(&run(&["up", "--key-epoch=61"]), &["no multiple"]);
    fails_with(&run(&["up", "--clients=3"]), &["in pairs"]);
    fails_with(&run(&["up", "--tap=edge-7"]), &["nobody is called \"edge-7\""]);
}

/// Every relay of a network that is up says that it is well, and what it is.
fn operators_look(net: &Path) {
    for (name, places) in [("edge-1", ["edge", "edge"]), ("mix-1", ["mix1", "mix2"])] {
        let config = net.join(name).join("node.toml");
        let out = role("node", &["status", "--json", "--config", config.to_str().unwrap()]).output().unwrap();
        let report = json(&String::from_utf8(out.stdout).unwrap());
        assert!(out.status.success(), "{name}: {report}");
        assert_eq!((&report["state"], &report["directory"]["listed"]), (&"running".into(), &true.into()), "{report}");
        assert!(places.iter().any(|place| report["place"]["now"] == *place), "{name}: {report}");
        assert!(report["links"]["in"].as_u64().unwrap() + report["links"]["out"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(report["directory"]["accepted"], 4, "{report}");
    }
}

fn people_talk(network: &Path, reload: impl Fn()) {
    let mut inviter = talk(network, &[]);
    let link = json(&inviter.until("invitation"))["link"].as_str().unwrap().to_owned();
    let mut joiner = talk(network, &["--join"]);
    joiner.say(&format!("{{\"join\": \"{link}\"}}"));
    inviter.until("connected");
    joiner.until("connected");
    inviter.say("{\"send\": \"hello\"}");
    assert_eq!(json(&joiner.until("message\""))["text"], "hello");
    inviter.until("delivered");
    // Every relay takes its configuration over while messages are on their way: none of them is lost.
    for n in 0..5 {
        inviter.say(&format!("{{\"send\": \"{n}\"}}"));
        reload();
        assert_eq!(json(&joiner.until("message\""))["text"], n.to_string());
        inviter.until("delivered");
    }

    // The link works once.
    let mut third = talk(network, &["--join"]);
    third.say(&link);
    fails_with(&third.end(), &["used already"]);

    // A link of another network has relays that nobody here knows.
    let rng = &mut rand::rng();
    let relay = RelayId([7; 32]);
    let address = QueueAddress { relay, invited: Secret::random(rng), key: Secret::random(rng) };
    let foreign = Offer::new(vec![address], Vec::new(), rng).link([relay, RelayId([8; 32])]).to_text();
    let mut stranger = talk(network, &["--join"]);
    stranger.say(&foreign);
    fails_with(&stranger.end(), &["another network"]);
}

fn strangers_are_told(net: &Path, network: &Path) {
    let ping = role("posta", &["ping", "--network", network.to_str().unwrap()]).output().unwrap();
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stderr));

    // The same addresses and link keys, but three of four identities are not those that signed.
    let text = fs::read_to_string(network).unwrap();
    let mut changed = 0;
    let doctored: Vec<String> = text
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some((key @ ("identity" | "id"), value)) if changed < 3 => {
                changed += 1;
                format!("{key} = \"{:02x}{}", changed, &value[3..])
            }
            _ => line.to_owned(),
        })
        .collect();
    assert_eq!(changed, 3, "{text}");
    let file = net.join("doctored.toml");
    fs::write(&file, doctored.join("\n")).unwrap();
    let ping = role("posta", &["ping", "--network", file.to_str().unwrap()]).output().unwrap();
    fails_with(&ping, &["of the known authorities signed", "are needed"]);

    // A relay asks whether the network lists it; one that was never run isn't, and neither is a listed one's old key.
    let check =
        |config: &Path| role("node", &["check", "--listed", "--config", config.to_str().unwrap()]).output().unwrap();
    let edge = check(&net.join("edge-1/node.toml"));
    assert!(edge.status.success(), "{}", String::from_utf8_lossy(&edge.stderr));
    assert!(String::from_utf8_lossy(&edge.stdout).contains("an edge"));
    let folder = net.join("stranger");
    let paths = [folder.to_str().unwrap(), network.to_str().unwrap()];
    let args = ["init", "--dir", paths[0], "--network", paths[1], "--link-address", "127.0.0.1:4433"];
    let made = role("node", &[args.as_slice(), &["--client-address", "127.0.0.1:4434"]].concat()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let stranger = check(&folder.join("node.toml"));
    fails_with(&stranger, &["is not in the consensus", "posta-node run"]);
    assert_eq!(stranger.status.code(), Some(3), "the exit code for networks");
    let files = fs::read_dir(net.join("edge-1/state")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file());
    for file in files {
        fs::copy(&file, folder.join("state").join(file.file_name().unwrap())).unwrap();
    }
    fs::copy(net.join("edge-2/state/link.key"), folder.join("state/link.key")).unwrap();
    fails_with(&check(&folder.join("node.toml")), &["with another link key", "posta-node run"]);

    // A relay's link port admits no key that the consensus doesn't list.
    let config = fs::read_to_string(net.join("edge-1/node.toml")).unwrap();
    let value = |key: &str| config.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(" = ")).unwrap().to_owned();
    let address = value("link_address").trim_matches('"').parse().unwrap();
    let seed: [u8; 32] = fs::read(net.join("edge-1/state/link.key")).unwrap().try_into().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(async {
        let listed: LinkPublicKey = LinkKey::from_seed(&Secret::new(seed)).unwrap().public();
        let stranger = LinkKey::from_seed(&Secret::random(&mut rand::rng())).unwrap();
        let local = IpAddr::from([127, 0, 0, 1]);
        let dialer = Endpoint::dialer(local, Audience::Link, Some(&stranger)).unwrap();
        let geometry = Geometry::DEFAULT;
        let hello = Hello::new(geometry, Epoch(0), Hash([0; 32]));
        match dialer.connect(address, listed).await {
            Ok(connection) => connection.open_link(hello, geometry.packet_len()).await.map(|_| ()),
            Err(e) => Err(e),
        }
    });
    assert!(matches!(refused, Err(LinkError::NotAdmitted)), "{refused:?}");
}
