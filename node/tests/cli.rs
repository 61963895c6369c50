//! What an operator meets: every mistake ends in one sentence that says what to do, and an exit code that means something.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use posta_link::exit;
use posta_link::fetch::Network;
use posta_protocol::document::{Authorities, Authority};
use posta_protocol::ids::{AuthorityId, LinkPublicKey};

/// A network whose only authority nobody answers for.
fn network(dir: &Path) -> String {
    let path = dir.join("authorities.toml");
    let authority = Authority {
        id: AuthorityId([1; 32]),
        link_key: LinkPublicKey([2; 32]),
        addresses: vec!["127.0.0.1:9".parse().unwrap()],
    };
    Network::new(Authorities::new(vec![authority]).unwrap()).save(&path).unwrap();
    path.display().to_string()
}

fn node(args: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_posta-node")).args(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// A fresh relay; its configuration file.
fn init(dir: &Path) -> String {
    let home = dir.join("relay");
    // Two free ports: bound for a moment, so that nobody else gets the same.
    let free = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let (a, b) = (free(), free());
    let [a, b] = [a, b].map(|s| s.local_addr().unwrap().to_string());
    let home_text = home.display().to_string();
    let args = ["init", "--dir", &home_text, "--network", &network(dir), "--link-address", &a, "--client-address", &b];
    let (code, said) = node(&args);
    assert_eq!(code, i32::from(exit::OK), "{said}");
    let (code, said) = node(&args);
    assert!(code == i32::from(exit::USAGE) && said.contains("is there already"), "{said}");
    home.join("node.toml").display().to_string()
}

fn edit(config: &str, from: &str, to: &str) {
    let text = fs::read_to_string(config).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(config, text.replace(from, to)).unwrap();
}

#[track_caller]
fn fails(args: &[&str], code: u8, sentence: &str) {
    let (got, said) = node(args);
    assert!(said.contains(sentence), "{said}");
    assert_eq!(got, i32::from(code), "{said}");
}

#[test]
fn a_fresh_relay_checks_out() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    let (code, said) = node(&["check", "--config", &config]);
    assert_eq!(code, i32::from(exit::OK), "{said}");
    assert!(said.contains("in order"), "{said}");
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    let check = ["check", "--config", &config];
    fails(&["check", "--config", "/nonexistent/node.toml"], exit::USAGE, "can't be read");
    fails(&["chekc"], exit::USAGE, "check");
    edit(&config, "capacity =", "capasity =");
    fails(&check, exit::USAGE, "did you mean `capacity`");
    edit(&config, "capasity =", "capacity =");
    let network = dir.path().join("relay/network.toml");
    fs::write(&network, "authorities = 3\n").unwrap();
    fails(&check, exit::USAGE, "network.toml");
    fs::remove_file(&network).unwrap();
    fails(&check, exit::USAGE, "network.toml");
}

#[test]
fn a_port_in_use_and_missing_keys_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    let run = ["run", "--allow-root", "--config", &config];
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let text = fs::read_to_string(&config).unwrap();
    let line = text.lines().find(|l| l.starts_with("link_address")).unwrap();
    edit(&config, line, &format!("link_address = \"{}\"", taken.local_addr().unwrap()));
    fails(&["check", "--config", &config], exit::USAGE, "can't listen on");
    fails(&run, exit::USAGE, "is in use by another program");
    fs::remove_dir_all(dir.path().join("relay/state")).unwrap();
    fails(&run, exit::DISK, "run `posta-node init`");
}

#[test]
fn a_store_that_cannot_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    fs::write(dir.path().join("relay/state/queues"), b"in the way").unwrap();
    fails(&["run", "--allow-root", "--config", &config], exit::DISK, "queues");
}

#[test]
fn root_has_to_be_meant() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let root = status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"));
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    fs::write(dir.path().join("relay/state/queues"), b"in the way").unwrap();
    let (_, said) = node(&["run", "--config", &config]);
    assert_eq!(said.contains("--allow-root"), root, "{said}");
}

/// Starts a relay; it has its store open, and handles signals and commands, when this returns.
fn start(config: &str) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_posta-node"))
        .args(["run", "--allow-root", "--config", config])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line of its log.
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stderr.as_mut().unwrap()), &mut line).unwrap();
    assert!(line.contains("starts"), "{line}");
    child
}

fn stop(mut child: Child) {
    let told = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(told.success());
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(exit::OK)));
}

#[test]
fn a_relay_without_a_network_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    stop(start(&config));
}

#[test]
fn queues_are_backed_up_while_the_relay_runs_or_not_and_restored_into_an_empty_folder() {
    let dir = tempfile::tempdir().unwrap();
    // Deeper than the system allows the path of a socket to be.
    let deep = dir.path().join("d".repeat(100));
    fs::create_dir(&deep).unwrap();
    let config = init(&deep);
    let folder = |name: &str| dir.path().join(name).display().to_string();
    let (running, stopped, killed) = (folder("running"), folder("stopped"), folder("killed"));
    let backup = |to: &str| node(&["backup", "--config", &config, "--to", to]);
    fails(&["backup", "--config", &config, "--to", &stopped], exit::DISK, "there is no queue store");

    let child = start(&config);
    let socket = deep.join("relay/state/control");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, said) = backup(&running);
    assert!(code == i32::from(exit::OK) && said.contains("0 queues as of the hour of 20"), "{said}");
    assert!(said.contains("stays in this backup") && said.contains("keys are not in it"), "{said}");
    fails(&["backup", "--config", &config, "--to", &running], exit::DISK, "it is not empty");
    let restore = ["restore", "--allow-root", "--config", &config, "--from", &running];
    fails(&restore, exit::DISK, "is not empty");
    // A relay that nobody can ask still has its store.
    fs::rename(&socket, dir.path().join("away")).unwrap();
    fails(&["backup", "--config", &config, "--to", &stopped], exit::DISK, "in use by another process");
    stop(child);

    let (code, said) = backup(&stopped);
    assert!(code == i32::from(exit::OK) && said.contains("0 queues"), "{said}");
    let mut child = start(&config);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(socket.exists(), "left behind");
    let (code, said) = backup(&killed);
    assert!(code == i32::from(exit::OK) && said.contains("0 queues"), "{said}");

    fs::rename(deep.join("relay/state/queues"), dir.path().join("old")).unwrap();
    for from in [&killed, &stopped, &running] {
        let restore = ["restore", "--allow-root", "--config", &config, "--from", from];
        let _ = fs::remove_dir_all(deep.join("relay/state/queues"));
        let (code, said) = node(&restore);
        assert!(code == i32::from(exit::OK) && said.contains("Clients will send again"), "{said}");
    }
    stop(start(&config));
    fails(&["restore", "--allow-root", "--config", &config, "--from", &folder("none")], exit::DISK, "no backup");
}
