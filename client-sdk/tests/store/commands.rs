//! The commands of `posta` that need no network, as a user or a script runs them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use posta_client::store::Store;

const NETWORK: &str = r#"
[[authorities]]
identity = "0101010101010101010101010101010101010101010101010101010101010101"
link_key = "0202020202020202020202020202020202020202020202020202020202020202"
addresses = ["127.0.0.1:9"]
"#;

/// A folder with a network and a passphrase in files, and a state in `state`.
fn made() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("network.toml"), NETWORK).unwrap();
    fs::write(dir.path().join("word"), "correct horse\n").unwrap();
    fs::write(dir.path().join("other"), "battery staple\n").unwrap();
    // Without --passphrase-file: by a file descriptor.
    let script =
        format!("{} init --dir state --network network.toml --passphrase-fd 3 3<word", env!("CARGO_BIN_EXE_posta"));
    let out = Command::new("sh").arg("-c").arg(script).current_dir(dir.path()).output().unwrap();
    ends(&out, 0, "the passphrase");
    dir
}

fn posta(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posta"));
    command.args(args).args(["--dir", "state"]).current_dir(dir).env("POSTA_PASSPHRASE_FILE", "word").output().unwrap()
}

/// One sentence in what it printed, and its exit code.
fn ends(out: &Output, code: i32, words: &str) {
    let text = [out.stdout.as_slice(), &out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(out.status.code() == Some(code) && text.contains(words), "{:?}: {text}", out.status);
}

#[test]
fn a_state_is_made_once_and_opened_by_its_passphrase_only() {
    let dir = made();
    let dir = dir.path();
    ends(&posta(dir, &["contacts"]), 0, "no contacts yet");
    ends(&posta(dir, &["init", "--network", "network.toml"]), 2, "holds a client's state already");
    ends(&posta(dir, &["contacts", "--passphrase-file", "other"]), 2, "wrong passphrase");
    ends(&posta(dir, &["contacts", "--passphrase-file", "nowhere"]), 4, "can't be read from nowhere");
    ends(&posta(dir, &["contacts", "--dir", "elsewhere"]), 2, "cannot be used multiple times");
    ends(&posta(dir, &["rename", "bob", "Bob"]), 2, "there is no contact bob");
    ends(&posta(dir, &["forget", "1"]), 2, "there is no contact 1");
    let out = Command::new(env!("CARGO_BIN_EXE_posta")).args(["status", "--dir", "nowhere"]).output().unwrap();
    ends(&out, 2, "posta init");
    // Neither a terminal nor a file.
    let out = Command::new("setsid")
        .args(["--wait", env!("CARGO_BIN_EXE_posta"), "contacts", "--dir"])
        .arg(dir.join("state"))
        .stdin(std::process::Stdio::null())
        .output();
    ends(&out.unwrap(), 2, "use --passphrase-file or --passphrase-fd");
}

#[test]
fn a_state_in_use_names_the_process_that_uses_it() {
    let dir = made();
    let held = Store::open(&dir.path().join("state"), b"correct horse").unwrap();
    ends(&posta(dir.path(), &["contacts"]), 2, &format!("another program (process {}) uses", std::process::id()));
    drop(held);
    ends(&posta(dir.path(), &["contacts"]), 0, "");
}

#[test]
fn the_passphrase_is_changed_and_the_state_wiped() {
    let dir = made();
    let dir = dir.path();
    ends(&posta(dir, &["passphrase", "--new-passphrase-file", "other"]), 0, "the old one opens nothing");
    ends(&posta(dir, &["contacts"]), 2, "wrong passphrase");
    ends(&posta(dir, &["contacts", "--passphrase-file", "other"]), 0, "");
    ends(&posta(dir, &["wipe"]), 2, "--yes");
    ends(&posta(dir, &["wipe", "--yes"]), 0, "overwritten");
    assert!(!dir.join("state").exists());
    ends(&posta(dir, &["wipe", "--yes"]), 2, "posta init");
}

#[test]
fn an_export_makes_another_state_and_a_moved_one_is_used_no_more() {
    let dir = made();
    let dir = dir.path();
    ends(&posta(dir, &["export", "copy"]), 0, "A copy is in copy");
    ends(&posta(dir, &["export", "copy"]), 2, "copy is there already");
    ends(&posta(dir, &["contacts"]), 0, "no contacts yet");
    let import = |file: &str, word: &str, into: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posta"));
        command.args(["import", file, "--network", "network.toml", "--dir", into]);
        command.current_dir(dir).env("POSTA_PASSPHRASE_FILE", word).output().unwrap()
    };
    ends(&import("copy", "other", "second"), 2, "wrong passphrase");
    ends(&import("network.toml", "word", "second"), 2, "no export");
    ends(&import("copy", "word", "state"), 2, "holds a client's state already");
    ends(&import("copy", "word", "second"), 0, "begins all conversations anew");
    ends(&posta(dir, &["export", "all", "--move"]), 0, "can't be used any more");
    ends(&posta(dir, &["contacts"]), 2, "was moved by `posta export --move`");
    ends(&posta(dir, &["export", "again"]), 2, "was moved");
    ends(&import("all", "word", "third"), 0, "begins all conversations anew");
    ends(&posta(dir, &["wipe", "--yes"]), 0, "overwritten");
    let third = Command::new(env!("CARGO_BIN_EXE_posta"))
        .args(["contacts", "--dir", "third"])
        .current_dir(dir)
        .env("POSTA_PASSPHRASE_FILE", "word")
        .output()
        .unwrap();
    ends(&third, 0, "no contacts yet");
}

#[test]
fn man_pages_and_completions_are_made_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_posta"));
    ends(&command.args(["generate", "--to"]).arg(&to).output().unwrap(), 0, "");
    for name in ["posta.1", "posta-chat.1", "posta-export.1"] {
        let page = fs::read_to_string(to.join("man1").join(name)).unwrap();
        assert!(page.contains("posta"), "{name}");
    }
    for (shell, name) in [("bash", "posta.bash"), ("zsh", "_posta"), ("fish", "posta.fish")] {
        assert!(fs::read_to_string(to.join(shell).join(name)).unwrap().contains("disappear"), "{shell}");
    }
}
