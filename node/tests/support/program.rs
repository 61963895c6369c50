//! The program under test, a folder for it, and a relay that runs.

#![allow(dead_code, reason = "each test program uses a part")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use posta_link::exit;
use posta_link::fetch::Network;
use posta_protocol::document::{Authorities, Authority};
use posta_protocol::ids::{AuthorityId, LinkPublicKey};

/// A network whose only authority nobody answers for.
pub(crate) fn network(dir: &Path) -> String {
    let path = dir.join("authorities.toml");
    let authority = Authority {
        id: AuthorityId([1; 32]),
        link_key: LinkPublicKey([2; 32]),
        addresses: vec!["127.0.0.1:9".parse().unwrap()],
    };
    Network::new(Authorities::new(vec![authority]).unwrap()).save(&path).unwrap();
    path.display().to_string()
}

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_posta-node"))
}

pub(crate) fn node(args: &[&str]) -> (i32, String) {
    said(program().args(args))
}

/// A command's exit code, and all that it says.
pub(crate) fn said(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// A fresh relay; its configuration file.
pub(crate) fn init(dir: &Path) -> String {
    let home = dir.join("relay");
    // Two free ports: bound for a moment, so that nobody else gets the same.
    let free = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let (a, b) = (free(), free());
    let [a, b] = [a, b].map(|s| s.local_addr().unwrap().to_string());
    let home_text = home.display().to_string();
    let args = ["init", "--dir", &home_text, "--network", &network(dir), "--link-address", &a, "--client-address", &b];
    let (code, said) = node(&args);
    assert_eq!(code, i32::from(exit::OK), "{said}");
    let (code, said) = node(&args);
    assert!(code == i32::from(exit::USAGE) && said.contains("is there already"), "{said}");
    home.join("node.toml").display().to_string()
}

pub(crate) fn edit(config: &str, from: &str, to: &str) {
    let text = fs::read_to_string(config).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(config, text.replace(from, to)).unwrap();
}

#[track_caller]
pub(crate) fn fails(args: &[&str], code: u8, sentence: &str) {
    let (got, said) = node(args);
    assert!(said.contains(sentence), "{said}");
    assert_eq!(got, i32::from(code), "{said}");
}

/// A relay that runs, and its log.
pub(crate) struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it; it has its store open, and handles signals and commands, when this returns.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    pub(crate) fn start_with(config: &str, more: impl FnOnce(&mut Command)) -> Self {
        let mut command = program();
        command.args(["run", "--allow-root", "--config", config]).stdin(Stdio::null()).stderr(Stdio::piped());
        more(&mut command);
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, log };
        running.until("starts");
        running
    }

    /// The next line of its log with these words. The test runner's time limit ends a wait in vain.
    pub(crate) fn until(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "it ended before it said {words:?}: {seen}");
            if line.contains(words) {
                return line;
            }
            seen.push_str(&line);
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let told = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(told.success());
    }

    /// Tells it to stop, and sees that it does.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.child.wait().unwrap().code(), Some(i32::from(exit::OK)));
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails leaves nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
