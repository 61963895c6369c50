//! Bad input: each ends in one clear sentence and a non-zero exit.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shared::{fails_with, role};

/// A relay and its configuration in a folder, as `posta-node init` makes them.
fn relay(dir: &Path) -> PathBuf {
    let network = dir.join("network.toml");
    fs::write(&network, NETWORK).unwrap();
    let folder = dir.join("relay");
    let (folder, network) = (folder.to_str().unwrap(), network.to_str().unwrap());
    let free = || UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let args = ["init", "--dir", folder, "--network", network, "--allow-root"];
    let addresses = ["--link-address", &free(), "--client-address", &free()];
    let out = role("node", &[args.as_slice(), &addresses].concat()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Path::new(folder).join("node.toml")
}

/// A network whose one authority nobody runs.
const NETWORK: &str = r#"
[[authorities]]
identity = "0101010101010101010101010101010101010101010101010101010101010101"
link_key = "0202020202020202020202020202020202020202020202020202020202020202"
addresses = ["127.0.0.1:9"]
"#;

fn run(config: &Path) -> Command {
    role("node", &["run", "--config", config.to_str().unwrap()])
}

#[test]
fn an_unknown_config_key_names_the_nearest_known_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = relay(dir.path());
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("queue_quota", "queue_qouta")).unwrap();
    fails_with(&run(&config).output().unwrap(), &["queue_qouta", "did you mean `store.queue_quota`"]);
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = relay(dir.path());
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let text = fs::read_to_string(&config).unwrap();
    let lines = text.lines().map(|l| match l.split_once(" = ") {
        Some(("link_address", _)) => format!("link_address = \"{address}\""),
        _ => l.to_owned(),
    });
    fs::write(&config, lines.collect::<Vec<_>>().join("\n")).unwrap();
    fails_with(&run(&config).output().unwrap(), &[&address, "in use"]);
}

#[test]
fn a_full_disk_is_named_and_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let config = relay(dir.path());
    let disk = dir.path().join("relay/state/queues");
    fs::create_dir_all(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk).status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("not run: mounting a small file system needs root");
        return;
    }
    let mount = Mounted(disk.clone());
    fs::write(disk.join("ballast"), vec![0; 1 << 20]).unwrap();
    let out = run(&config).output().unwrap();
    fails_with(&out, &["space"]);
    assert_eq!(out.status.code(), Some(4), "the exit code for disks");
    drop(mount);
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // What can't be unmounted goes with the machine.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn what_is_no_invitation_is_refused_before_the_network_is_asked() {
    use crate::shared::Running;
    let dir = tempfile::tempdir().unwrap();
    let network = dir.path().join("network.toml");
    fs::write(&network, NETWORK).unwrap();
    for (text, word) in [("https://example.org", "not an invitation"), ("posta:p1qqq", "wrong or missing character")] {
        let mut talk = Running::start(role("posta", &["talk", "--network", network.to_str().unwrap(), "--join"]));
        talk.say(text);
        fails_with(&talk.end(), &[word]);
    }
}

#[test]
fn a_missing_network_file_is_named() {
    let out = role("posta", &["ping", "--network", "/nowhere/network.toml"]).output().unwrap();
    fails_with(&out, &["/nowhere/network.toml"]);
}
