//! Who misbehaves is noticed, what is cut is cut, and what is tapped is what lines show; each beside a control.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::shared::{fails_with, testnet};

/// A network as small as they get, and little traffic.
const SMALL: &str = "about = \"x.\"\n[network]\nrelays = 6\nauthorities = 1\n[traffic]\nmessages = 8\nseconds = 2\n";

fn run(dir: &Path, text: &str, more: &[&str]) -> Output {
    let file = dir.join("mine.toml");
    fs::write(&file, format!("{SMALL}{text}")).unwrap();
    testnet().arg("run").arg(file).args(["--seed=3", "--json"]).args(more).output().unwrap()
}

fn outcome(out: &Output) -> Value {
    let text = String::from_utf8_lossy(&out.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&out.stderr)))
}

#[test]
fn a_relay_that_replays_is_refused_and_one_that_does_not_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[[rogue]]\nwho = \"mix-1\"\ndoes = \"replay\"\nseconds = 0.1\n\
                [[notice]]\nwho = \"each relay\"\ncounter = \"refused\"\nat_least = 3\n[expect]\npatience_s = 5\n";
    let replayed = run(dir.path(), text, &[]);
    assert!(replayed.status.success(), "{}", outcome(&replayed));
    let honest = run(dir.path(), &text.replace("_s = 5", "_s = 1"), &["--control"]);
    fails_with(&honest, &["--seed 3 --control"]);
    let honest = outcome(&honest);
    assert_eq!(honest["report"]["noticed"][0]["count"], 0, "{honest}");
    assert_eq!(honest["failed"].as_array().map(Vec::len), Some(1), "{honest}");
}

#[test]
fn what_is_cut_off_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[[fault]]\nat = 1.0\nwhat = \"partition\"\nwho = \"each client\"\n[expect]\npatience_s = 1\n";
    let cut = outcome(&run(dir.path(), text, &[]));
    let lost = cut["report"]["lost"].as_u64().unwrap();
    assert!((1..16).contains(&lost), "what was sent before it arrived: {cut}");
    assert_eq!(cut["report"]["victims"][0]["deed"], "cut off");
}

#[test]
fn taps_show_times_and_sizes_of_their_lines_and_the_truth_stands_apart() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept");
    let text = "[[tap]]\nname = \"all\"\nwho = \"everyone\"\n[[tap]]\nname = \"clients\"\nwho = \"each client\"\n\
                [[rogue]]\nwho = \"mix-1\"\ndoes = \"watch\"\n";
    let out = run(dir.path(), text, &["--keep", kept.to_str().unwrap()]);
    assert!(out.status.success(), "{}", outcome(&out));
    let kept = kept.join("3");
    let lines = |file: &str| -> Vec<Value> {
        let text = fs::read_to_string(kept.join(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (all, clients) = (lines("taps/all.jsonl"), lines("taps/clients.jsonl"));
    assert!(all.len() > clients.len() && clients.len() > 100, "{} and {}", all.len(), clients.len());
    for seen in &clients {
        let ends = [&seen["from"], &seen["to"]].map(|end| end.as_str().unwrap());
        assert!(ends.iter().any(|end| end.starts_with("client-")), "{seen}");
        assert!((1..=1500).contains(&seen["bytes"].as_u64().unwrap()), "{seen}");
        assert_eq!(seen.as_object().unwrap().len(), 4, "nothing but who, when and how much: {seen}");
    }
    let tapped = &outcome(&out)["report"]["tapped"];
    assert_eq!(tapped[0]["datagrams"].as_u64(), Some(all.len() as u64));
    assert_eq!(&fs::read(kept.join("taps/all.pcap")).unwrap()[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
    // A relay from inside: packets, not datagrams, and where each goes.
    let inside = lines("taps/inside-mix-1.jsonl");
    let relays: Value = serde_json::from_str(&fs::read_to_string(kept.join("relays.json")).unwrap()).unwrap();
    let known = |id: &Value| {
        relays.as_object().unwrap().values().any(|r| r.as_str().unwrap().starts_with(id.as_str().unwrap()))
    };
    assert!(inside.iter().any(|seen| known(&seen["from"]) && known(&seen["to"])), "{inside:?}");

    let truth = lines("truth.jsonl");
    assert_eq!(truth.len(), 16);
    let (first, last) = (clients[0]["unix_us"].as_u64().unwrap(), clients.last().unwrap()["unix_us"].as_u64().unwrap());
    for message in &truth {
        let (sent, received) = (&message["sent_unix_us"], &message["received_unix_us"]);
        let (sent, received) = (sent.as_u64().unwrap(), received.as_u64().unwrap());
        assert!(first < sent && sent < received && received <= last + 1_000_000, "one clock for all: {message}");
    }
}
