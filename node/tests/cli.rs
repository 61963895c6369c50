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

use posta_link::exit;

#[path = "support/program.rs"]
mod program;

use program::{Running, edit, fails, init, node};

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

#[test]
fn a_relay_without_a_network_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    Running::start(&config).stop();
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

    let child = Running::start(&config);
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
    child.stop();

    let (code, said) = backup(&stopped);
    assert!(code == i32::from(exit::OK) && said.contains("0 queues"), "{said}");
    Running::start(&config).kill();
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
    Running::start(&config).stop();
    fails(&["restore", "--allow-root", "--config", &config, "--from", &folder("none")], exit::DISK, "no backup");
}
