//! Two people whose programs are killed at any moment and started again: nothing is lost, doubled or out of order.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep_until, timeout};

use crate::shared::{Running, fails_with, role, testnet};

/// For everything between two kills.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sent and not said to be queued, at most.
const AHEAD: u64 = 8;
/// Sent and not delivered, at most: a full outbox refuses messages, and the next one might find room again.
const UNDER_WAY: u64 = 200;

/// One person: a folder, and the program while it runs.
struct Person {
    folder: PathBuf,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// How many messages the program says it has taken; what it was given, and may not have taken.
    taken: u64,
    given: u64,
    delivered: u64,
    /// What has come, each place once: what a program that is killed prints again has the same place.
    places: BTreeSet<u64>,
    got: Vec<String>,
    repeated: u64,
}

fn args(folder: &Path, command: &str, more: &[&str]) -> Vec<String> {
    let word = folder.with_extension("word");
    let (folder, word) = (folder.to_str().unwrap(), word.to_str().unwrap());
    let args = [command, "--json", "--local", "127.0.0.1", "--dir", folder, "--passphrase-file", word];
    args.iter().chain(more).map(|s| (*s).to_owned()).collect()
}

/// Runs a command to its end and returns what it printed.
fn run(folder: &Path, command: &str, more: &[&str], input: &str) -> Vec<Value> {
    let args = args(folder, command, more);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut running = Running::start(role("posta", &args));
    running.say(input);
    let out = running.end();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn chat(folder: &Path) -> (Child, ChildStdin, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posta-testnet"));
    command.args(["role", "posta"]).args(args(folder, "chat", &["friend"]));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    (child, input, BufReader::new(output).lines())
}

impl Person {
    fn new(folder: PathBuf) -> Self {
        let (child, input, output) = chat(&folder);
        let (places, got) = (BTreeSet::new(), Vec::new());
        Self { folder, child, input, output, taken: u64::MAX, given: u64::MAX, delivered: 0, places, got, repeated: 0 }
    }

    /// SIGKILL, and all that it has printed until then; then a new start.
    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
        while let Ok(Some(line)) = self.output.next_line().await {
            self.note(&line);
        }
        (self.child, self.input, self.output) = chat(&self.folder);
        (self.taken, self.given) = (u64::MAX, u64::MAX);
    }

    fn note(&mut self, line: &str) {
        // The last line of one that was killed may be cut off.
        let Ok(line) = serde_json::from_str::<Value>(line) else { return };
        match line["event"].as_str().unwrap() {
            // How far the program came before: what it did not take is given to it again.
            "contact" => {
                self.taken = line["sent"].as_u64().unwrap();
                self.given = self.taken;
                self.delivered = line["delivered"].as_u64().unwrap();
            }
            "state" if line["state"] == "queued" => self.taken = line["message"].as_u64().unwrap(),
            "state" if line["state"] == "delivered" => {
                self.delivered = self.delivered.max(line["message"].as_u64().unwrap());
            }
            "message" => {
                if self.places.insert(line["cursor"].as_u64().unwrap()) {
                    self.got.push(line["text"].as_str().unwrap().to_owned());
                } else {
                    self.repeated += 1;
                }
            }
            "error" => panic!("{}: {line}", self.folder.display()),
            _ => {}
        }
    }

    /// Gives it the next message, if it can take one.
    async fn give(&mut self, mine: &str, total: u64) {
        let bound = self.taken.saturating_add(AHEAD).min(self.delivered + UNDER_WAY);
        if self.given < total.min(bound) {
            let line = json!({ "send": format!("{mine}{}", self.given) });
            self.given += 1;
            self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }
    }
}

/// Two people with folders of their own in `dir`, who have met.
pub(crate) fn meet(dir: &Path, network: &Path) -> [PathBuf; 2] {
    let folders = ["a", "b"].map(|name| dir.join(name));
    for folder in &folders {
        fs::write(folder.with_extension("word"), "correct horse battery staple\n").unwrap();
        run(folder, "init", &["--network", network.to_str().unwrap()], "");
    }
    let made = run(&folders[0], "invite", &["friend"], "");
    let link = made[0]["link"].as_str().unwrap().to_owned();
    let joined = run(&folders[1], "join", &["friend"], &link);
    assert_eq!(joined[0]["event"], "connected");
    folders
}

/// So many kills, over messages both ways.
fn rounds(kills: usize, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("net");
    let mut command = testnet();
    command.args(["up", "--dir", net.to_str().unwrap()]);
    let mut up = Running::start(command);
    up.until("The network is up");
    let folders = meet(dir.path(), &net.join("network.toml"));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(exchange(&folders, kills, seed));

    // All is at rest: what was sent is delivered, and a wrong passphrase opens nothing.
    for folder in &folders {
        let contacts = run(folder, "contacts", &[], "");
        assert_eq!((&contacts[0]["name"], &contacts[0]["state"]), (&json!("friend"), &json!("connected")));
        fs::write(folder.with_extension("word"), "another\n").unwrap();
        let args = args(folder, "contacts", &[]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fails_with(&role("posta", &args).output().unwrap(), &["wrong passphrase"]);
    }
}

/// Messages both ways, with so many kills between them: all come, once, in order.
pub(crate) async fn exchange(folders: &[PathBuf; 2], kills: usize, seed: u64) {
    let rng = &mut ChaCha20Rng::seed_from_u64(seed);
    let total = 40 * (kills as u64 + 1);
    let mut people = folders.clone().map(Person::new);
    // Lines of both that are read before the next kill.
    let mut left: u64 = rng.random_range(20..120);
    let mut killed = 0;
    let mut deadline = Instant::now() + PATIENCE;
    let mut next = Instant::now();
    while killed < kills || people.iter().any(|p| (p.got.len() as u64) < total) {
        let got: Vec<usize> = people.iter().map(|p| p.got.len()).collect();
        assert!(Instant::now() < deadline, "seed {seed}, {killed} kills: {got:?} of {total} came in time");
        let [a, b] = &mut people;
        let (who, line) = tokio::select! {
            line = a.output.next_line() => (0, line.unwrap()),
            line = b.output.next_line() => (1, line.unwrap()),
            () = sleep_until(next) => {
                next = Instant::now() + Duration::from_millis(5);
                a.give("a", total).await;
                b.give("b", total).await;
                continue;
            }
        };
        people[who].note(&line.unwrap_or_else(|| panic!("seed {seed}: {who} ended by itself")));
        left = left.saturating_sub(1);
        // When all has come there are no more lines to count.
        let over = people.iter().all(|p| p.got.len() as u64 >= total);
        if (left == 0 || over) && killed < kills {
            let victim = rng.random_range(0..2);
            killed += 1;
            left = rng.random_range(20..200);
            deadline = Instant::now() + PATIENCE;
            people[victim].kill().await;
        }
    }
    // What is doubled comes soon after.
    for person in &mut people {
        while let Ok(Ok(Some(line))) = timeout(Duration::from_millis(500), person.output.next_line()).await {
            person.note(&line);
        }
    }
    // Gone for sure: what comes next opens their folders.
    for person in &mut people {
        person.child.kill().await.unwrap();
    }
    for (person, other) in people.iter().zip(["b", "a"]) {
        let wanted: Vec<String> = (0..total).map(|n| format!("{other}{n}")).collect();
        assert_eq!(person.got, wanted, "seed {seed}");
    }
    let repeated: u64 = people.iter().map(|p| p.repeated).sum();
    println!("seed {seed}: {killed} kills, {} messages, {repeated} printed again under their own place", 2 * total);
}

#[test]
fn five_kills_of_clients_lose_nothing_double_nothing_and_keep_the_order() {
    rounds(5, 1);
}

#[test]
#[ignore = "minutes: make soak"]
fn a_hundred_kills_of_clients_lose_nothing() {
    for seed in 10..15 {
        rounds(20, seed);
    }
}
