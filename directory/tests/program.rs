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

/// An authority's folder that can be run: its own entry is the whole network.
fn whole(folder: &Path, listen: &str) -> String {
    init(folder, listen);
    folder.join("directory.toml").to_str().unwrap().to_owned()
}

fn says(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn free_port() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().to_string()
}

#[test]
fn check_says_that_all_is_in_order_or_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let config = whole(folder.path(), &free_port());
    let text = says(&["check", "--config", &config]);
    assert!(text.contains("are in order") && text.contains("1 must sign; each one must run"), "{text}");
    assert!(text.contains("admission    open"), "{text}");

    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("allow = \"\"", "allow = \"allowed\"")).unwrap();
    let text = fails(4, &["check", "--config", &config]);
    assert!(text.contains("allowed can't be read"), "{text}");
    std::fs::write(folder.path().join("allowed"), format!("{}\nnobody\n", "ab".repeat(32))).unwrap();
    let text = fails(2, &["check", "--config", &config]);
    assert!(text.contains("line 2"), "{text}");
    std::fs::write(folder.path().join("allowed"), format!("{}  # a friend\n", "ab".repeat(32))).unwrap();
    assert!(says(&["check", "--config", &config]).contains("only the 1 relays of its list"));

    let taken = UdpSocket::bind(
        good.lines()
            .find_map(|l| l.strip_prefix("listen = \"127"))
            .map_or_else(|| panic!("{good}"), |rest| format!("127{}", rest.trim_end_matches('"'))),
    );
    let text = fails(3, &["check", "--config", &config]);
    assert!(text.contains("is the authority running?"), "{text}");
    drop(taken);
}

#[test]
fn a_signing_key_is_shown_renewed_and_replaced_from_an_identity_kept_elsewhere() {
    let (folder, stick) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = whole(folder.path(), &free_port());
    let away = stick.path().join("identity");
    let away = away.to_str().unwrap();
    assert!(says(&["keys", "take-identity", "--config", &config, "--to", away]).contains("second copy"));
    let before = says(&["keys", "show", "--config", &config]);
    assert!(before.contains("identity key  not here") && before.contains("89 d 23 h more"), "{before}");
    let text = fails(2, &["keys", "renew", "--config", &config]);
    assert!(text.contains("identity.key does not exist"), "{text}");

    // The last day: a warning with exit code 1, in `check` too.
    says(&["keys", "renew", "--config", &config, "--identity", away, "--days", "1"]);
    let text = fails(1, &["keys", "show", "--config", &config]);
    assert!(text.contains("ends within a day"), "{text}");
    assert!(fails(1, &["check", "--config", &config]).contains("ends within a day"));

    says(&["keys", "renew", "--config", &config, "--identity", away, "--replace"]);
    let after = says(&["keys", "show", "--config", &config]);
    let line = |text: &str, n: usize| text.lines().nth(n).unwrap().split(',').next().unwrap().to_owned();
    assert_eq!(line(&before, 0), line(&after, 0), "the authority is the same");
    assert_ne!(line(&before, 2), line(&after, 2), "its signing key is another");
    says(&["check", "--config", &config]);
}
