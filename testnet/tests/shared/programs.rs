//! Runs the testnet program and the roles that it can take.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The program under test.
pub fn testnet() -> Command {
    Command::new(env!("CARGO_BIN_EXE_posta-testnet"))
}

/// One of the programs that a network is made of.
pub fn role(name: &str, args: &[&str]) -> Command {
    let mut command = testnet();
    command.arg("role").arg(name).args(args).stdin(Stdio::null());
    command
}

/// Runs a demo and returns its report and whether it exited with 0.
pub fn demo(args: &[&str]) -> (Value, bool) {
    let out = testnet().arg("demo").arg("--json").args(args).stdin(Stdio::null()).output().expect("the demo starts");
    let text = String::from_utf8_lossy(&out.stdout);
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("no report ({e}): {text}{}", String::from_utf8_lossy(&out.stderr)));
    (report, out.status.success())
}

/// Asserts that a program failed with one sentence that contains all of `words`.
pub fn fails_with(out: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "it succeeded: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// Everything under a folder's `logs`.
pub fn logs(dir: &Path) -> Vec<(String, String)> {
    std::fs::read_dir(dir.join("logs"))
        .expect("there are logs")
        .map(|e| {
            let path = e.expect("a log").path();
            (path.display().to_string(), std::fs::read_to_string(&path).expect("a log is text"))
        })
        .collect()
}
