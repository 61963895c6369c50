//! The program itself: what it makes, and how it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_posta-directory")).args(args).output().unwrap()
}

/// Runs, expects this exit code and one line on standard error, and returns it.
fn fails(code: i32, args: &[&str]) -> String {
    let output = run(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "one sentence: {text}");
    text
}

fn init(dir: &Path, listen: &str) {
    let dir = dir.to_str().unwrap();
    let output = run(&["init", "--dir", dir, "--listen", listen, "--reserved-networks", "--network", "authority.toml"]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("[[authorities]]"));
}

#[test]
fn a_port_in_use_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    init(folder.path(), &taken.local_addr().unwrap().to_string());
    let config = folder.path().join("directory.toml");
    let text = fails(3, &["run", "--config", config.to_str().unwrap()]);
    assert!(text.contains("in use by another program"), "{text}");
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), "127.0.0.1:4430");
    let (dir, path) = (folder.path().to_str().unwrap(), folder.path().join("directory.toml"));
    let config = path.to_str().unwrap();
    let text = fails(2, &["init", "--dir", dir, "--listen", "127.0.0.1:4430"]);
    assert!(text.contains("exists already"), "{text}");
    let text = fails(2, &["init", "--dir", dir, "--listen", "0.0.0.0:4430"]);
    assert!(text.contains("--address"), "{text}");

    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replace("bootstrap_relays", "bootstrap_relay")).unwrap();
    let text = fails(2, &["run", "--config", config]);
    assert!(text.contains("did you mean `bootstrap_relays`"), "{text}");

    std::fs::write(&path, good.replace("authority.toml", "nowhere.toml")).unwrap();
    let text = fails(2, &["run", "--config", config]);
    assert!(text.contains("nowhere.toml"), "{text}");

    std::fs::write(&path, &good).unwrap();
    let other = tempfile::tempdir().unwrap();
    init(other.path(), "127.0.0.1:4431");
    std::fs::copy(other.path().join("authority.toml"), folder.path().join("authority.toml")).unwrap();
    let text = fails(2, &["run", "--config", config]);
    assert!(text.contains("does not list this authority"), "{text}");
}

#[test]
fn a_state_folder_that_cannot_be_written_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = socket.local_addr().unwrap().to_string();
    drop(socket);
    init(folder.path(), &listen);
    std::fs::write(folder.path().join("evidence"), b"").unwrap();
    let config = folder.path().join("directory.toml");
    let text = fails(4, &["run", "--config", config.to_str().unwrap()]);
    assert!(text.contains("evidence can't be read or written") && text.contains("free space"), "{text}");
}
