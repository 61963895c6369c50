//! The full counts; minutes to hours. Run by `make soak`, the last run stands in `benches/README.md`.

use crate::shared::{demo, testnet};

/// The whole demo, ten times in a row.
#[test]
#[ignore = "minutes: make soak"]
fn the_demo_passes_ten_times_in_a_row() {
    for round in 1..=10 {
        let (report, passed) = demo(&[]);
        println!("round {round}: {report}");
        assert!(passed, "round {round}: {report}");
    }
}

/// Twenty seeded victims and moments.
#[test]
#[ignore = "minutes: make soak"]
fn twenty_kills_of_any_process_lose_nothing() {
    for seed in 1..=20_u64 {
        // Every fourth while the network starts.
        let (when, at) = if seed % 4 == 0 {
            ("--at-start", (seed * 97 % 1000).to_string())
        } else {
            ("--at", ((seed * 37 % 100) as f64 / 100.0).to_string())
        };
        let (seed, victim) = (seed.to_string(), (seed * 7 % 16).to_string());
        let args = ["--messages", "100", "--seconds", "10", "--seed", &seed, "--victim", &victim, when, &at];
        let (report, passed) = demo(&args);
        println!("{}: {report}", args.join(" "));
        assert!(passed, "posta-testnet demo {}: {report}", args.join(" "));
    }
}

/// Each scenario of the library.
#[test]
#[ignore = "minutes: make soak"]
fn every_scenario_of_the_library_passes() {
    let list = testnet().arg("scenarios").output().expect("the program runs");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 27, "{list}");
    for name in names {
        let out = testnet().args(["run", name, "--seed=1", "--json"]).output().expect("the program runs");
        println!("{name}: {}", String::from_utf8_lossy(&out.stdout).trim());
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// What is noticed in a scenario is not noticed when nobody misbehaves and nothing goes wrong.
#[test]
#[ignore = "minutes: make soak"]
fn what_scenarios_notice_has_its_reason_in_what_goes_wrong() {
    let notice =
        ["clock-skew", "dropping-relay", "flooding-relay", "lying-authority", "n-minus-one", "replaying-relay"];
    for name in notice.into_iter().chain(["tagging-relay"]) {
        let out = testnet().args(["run", name, "--seed=1", "--json", "--control"]).output().expect("the program runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        println!("{name}: {}", text.trim());
        let outcome: serde_json::Value = serde_json::from_str(&text).expect("an outcome");
        assert!(!out.status.success() && outcome["failed"].as_array().map(Vec::len) == Some(1), "{name}: {outcome}");
        assert_eq!(outcome["report"]["lost"], 0, "{name}: {outcome}");
    }
}
