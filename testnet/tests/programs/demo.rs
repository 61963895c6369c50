//! The demo as a user runs it: separate processes, real sockets, real disks.

use crate::shared::{demo, fails_with, logs, testnet};

/// What no log may hold: runs of 32 or more hexadecimal digits (an id or a capability), of 40 or more base64 characters,
/// eight or more small numbers in a list (bytes printed one by one), invitations, and clients' addresses.
fn leaks(line: &str) -> Option<&'static str> {
    let longest = |of: fn(char) -> bool| line.split(|c| !of(c)).map(str::len).max().unwrap_or(0);
    if line.contains("127.250.") {
        return Some("a client's address");
    }
    if line.contains("posta:") {
        return Some("an invitation");
    }
    if longest(|c| c.is_ascii_hexdigit()) >= 32 {
        return Some("a long hexadecimal number");
    }
    if longest(|c| c.is_ascii_alphanumeric() || c == '+' || c == '/') >= 40 {
        return Some("a long base64 text");
    }
    let numbers = line.split(", ").map(|w| w.trim_matches(|c| c == '[' || c == ']').parse::<u8>().is_ok());
    let (_, run) = numbers.fold((0, 0), |(now, max), is| if is { (now + 1, max.max(now + 1)) } else { (0, max) });
    (run >= 8).then_some("a list of bytes")
}

#[test]
fn the_search_finds_what_it_looks_for() {
    for bad in [
        "sent to 127.250.1.1:4000",
        "joining posta:p1qqqqqq",
        "queue 0123456789abcdef0123456789ABCDEF gone",
        "cap q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
        "cap [1, 2, 3, 4, 5, 6, 7, 8, 9]",
    ] {
        assert!(leaks(bad).is_some(), "{bad}");
    }
    assert_eq!(leaks("12:30Z INFO posta_node: listed as edge in epoch 17, relay 0a1b2c3d"), None);
}

#[test]
fn no_log_names_a_client_a_capability_or_a_queue() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("net");
    let (report, passed) = demo(&["--messages", "20", "--seconds", "3", "--keep", kept.to_str().unwrap()]);
    assert!(passed, "{report}");
    let logs = logs(&kept);
    assert!(logs.len() >= 18, "4 authorities, 12 relays and 2 clients log: {}", logs.len());
    assert!(logs.iter().map(|(_, text)| text.len()).sum::<usize>() > 10_000, "there is something to search");
    for (name, text) in logs {
        for line in text.lines() {
            assert_eq!(leaks(line), None, "{name}: {line}");
        }
    }
}

/// SIGKILL of any process but a client, at any moment: three seeds here, twenty in the soak.
#[test]
fn a_kill_of_any_process_loses_nothing() {
    // The victim and the moment follow from the seed: while the network starts, in the middle, near the end.
    for (seed, when) in [(1_u64, ["--at-start", "400"]), (2, ["--at", "0.5"]), (3, ["--at", "0.9"])] {
        let victim = (seed * 7 % 16).to_string();
        let args = ["--messages", "40", "--seconds", "4", "--seed", &seed.to_string()];
        let more = [&["--victim", victim.as_str()], when.as_slice()].concat();
        let (report, passed) = demo(&[args.as_slice(), &more].concat());
        assert!(passed, "posta-testnet demo {} {}: {report}", args.join(" "), more.join(" "));
        assert_eq!(report["victims"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn a_folder_that_is_there_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "x").unwrap();
    let out = testnet().args(["demo", "--keep"]).arg(dir.path()).output().unwrap();
    fails_with(&out, &["is there already", "name another folder"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("precious")).unwrap(), "x");
}
