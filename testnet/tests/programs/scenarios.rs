//! Scenarios from the library and from a file, and what is said when one fails.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::shared::{fails_with, testnet};

fn run(args: &[&str]) -> Output {
    testnet().arg("run").args(args).output().unwrap()
}

fn outcome(out: &Output) -> Value {
    let text = String::from_utf8_lossy(&out.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&out.stderr)))
}

#[test]
fn a_relay_that_is_held_up_loses_nothing() {
    let out = run(&["queue-relay-held-up", "--seed=1", "--json"]);
    let outcome = outcome(&out);
    assert!(out.status.success(), "{outcome}");
    assert_eq!((&outcome["scenario"], &outcome["seed"]), (&"queue-relay-held-up".into(), &1.into()));
    let report = &outcome["report"];
    assert_eq!((&report["sent"], &report["delivered"]), (&200.into(), &200.into()), "{outcome}");
    let victim = &report["victims"][0];
    assert_eq!(
        (&victim["deed"], &victim["role"], &victim["restarted"]),
        (&"pause".into(), &"edge".into(), &true.into())
    );
}

#[test]
fn a_run_that_does_not_hold_says_what_and_how_to_run_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    // No network is this fast, and one without edges for a while is slower still.
    let text = "about = \"x.\"\n[network]\nrelays = 6\n[traffic]\nmessages = 5\nseconds = 2\n[expect]\np50_ms = 0.001\n\
                [[fault]]\nat = 0.5\nwhat = \"restart\"\nwho = \"mix-1\"\nseconds = 0.5\n";
    fs::write(&file, text).unwrap();
    let kept = dir.path().join("kept");
    let out = run(&[file.to_str().unwrap(), "--seed=5", "--json", "--keep", kept.to_str().unwrap()]);
    fails_with(&out, &["again: posta-testnet run", "mine.toml --seed 5"]);
    let outcome = outcome(&out);
    assert!(outcome["failed"][0].as_str().unwrap().starts_with("p50 of latency"), "{outcome}");
    assert_eq!(outcome["failed"].as_array().unwrap().len(), 1, "all messages arrived all the same: {outcome}");
    assert!(kept.join("5/logs/mix-1.log").exists());

    fails_with(&run(&["no-such-scenario"]), &["posta-testnet scenarios"]);
    fs::write(&file, text.replace("mix-1", "mix-7")).unwrap();
    fails_with(&run(&[file.to_str().unwrap()]), &["mine.toml", "nobody is called \"mix-7\""]);
    let list = testnet().arg("scenarios").output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).lines().count() >= 12);
}
