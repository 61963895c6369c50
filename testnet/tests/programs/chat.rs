//! `posta chat` as two people see it: real terminals (tmux), a real network.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use crate::shared::{Running, role, testnet};

/// Between two looks at a terminal.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked at before what is looked for counts as missing: a minute, and more where looking takes long.
const LOOKS: usize = 600;

/// Terminals of a tmux server of this test's own; they end with it.
struct Terminals {
    socket: String,
}

impl Terminals {
    fn new() -> Self {
        Self { socket: format!("posta-test-{}", std::process::id()) }
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new("tmux").args(["-L", &self.socket, "-f", "/dev/null"]).args(args).output().expect("tmux runs")
    }

    /// A new terminal of 80 x 24 with a program in it.
    fn open(&self, name: &str, program: &str) {
        let out = self.run(&["-u", "new-session", "-d", "-s", name, "-x", "80", "-y", "24", program]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn keys(&self, name: &str, keys: &[&str]) {
        assert!(self.run(&[["send-keys", "-t", name].as_slice(), keys].concat()).status.success(), "{name} has ended");
    }

    fn write(&self, name: &str, text: &str) {
        self.keys(name, &["-l", text]);
        self.keys(name, &["Enter"]);
    }

    fn picture(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.run(&["capture-pane", "-p", "-t", name]).stdout).into_owned()
    }

    /// Waits until a terminal shows all of these.
    fn until(&self, name: &str, texts: &[&str]) -> String {
        let (_open, never) = sync_channel::<()>(0);
        for _ in 0..LOOKS {
            let picture = self.picture(name);
            if texts.iter().all(|text| picture.contains(text)) {
                return picture;
            }
            // Nothing comes by this channel: it is the wait.
            let _ = never.recv_timeout(LOOK);
        }
        panic!("{name} never showed {texts:?}, but:\n{}", self.picture(name));
    }

    /// Waits until a terminal's program has ended by itself.
    fn until_ended(&self, name: &str) {
        let (_open, never) = sync_channel::<()>(0);
        for _ in 0..LOOKS {
            if !self.run(&["has-session", "-t", name]).status.success() {
                return;
            }
            let _ = never.recv_timeout(LOOK);
        }
        panic!("{name} did not end:\n{}", self.picture(name));
    }
}

impl Drop for Terminals {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

/// The link in a picture: on two lines within a frame.
fn link_in(picture: &str) -> String {
    let inside = picture.lines().map(|line| line.trim_matches(|c| c == '│' || c == ' '));
    let lines: Vec<&str> = inside.skip_while(|line| !line.starts_with("posta:")).take(2).collect();
    lines.concat()
}

fn init(dir: &Path, network: &Path, name: &str) -> String {
    let (state, word) = (dir.join(name), dir.join("word"));
    let (state, word) = (state.to_str().unwrap(), word.to_str().unwrap());
    let args = ["init", "--dir", state, "--network", network.to_str().unwrap(), "--passphrase-file", word];
    let made = role("posta", &args).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("{} role posta chat --dir {state} --passphrase-file {word}", env!("CARGO_BIN_EXE_posta-testnet"))
}

#[test]
fn two_people_meet_talk_resize_and_come_back_on_their_screens() {
    if Command::new("tmux").arg("-V").output().is_err() {
        let must = ["CI", "POSTA_CI"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!must, "tmux is missing: apt-get install tmux");
        eprintln!("skipped: there is no tmux here (apt-get install tmux); with POSTA_CI set this fails");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("net");
    let mut command = testnet();
    command.args(["up", "--relays=6", "--authorities=1", "--dir", net.to_str().unwrap()]);
    let mut up = Running::start(command);
    up.until("The network is up");
    fs::write(dir.path().join("word"), "correct horse\n").unwrap();
    let [ada, bob] = ["ada", "bob"].map(|name| init(dir.path(), &net.join("network.toml"), name));
    let screens = Terminals::new();
    screens.open("ada", &ada);
    screens.open("bob", &bob);

    // They meet by a link, which Bob copies from Ada's screen. There is a code to be scanned, too.
    screens.until("ada", &["Nobody yet", "fast · online"]);
    screens.keys("ada", &["C-n"]);
    screens.write("ada", "Bob");
    let link = link_in(&screens.until("ada", &["posta:", "██"]));
    assert_eq!(link.len(), 93, "{link}");
    screens.until("bob", &["Nobody yet", "online"]);
    screens.keys("bob", &["C-o"]);
    screens.write("bob", &link);
    screens.until("bob", &["What do you call this contact?"]);
    screens.write("bob", "Ada");
    screens.until("bob", &["connected", "To Ada"]);
    screens.until("ada", &["connected", "To Bob"]);

    // They talk, and see how far each message has come.
    screens.write("bob", "good morning");
    screens.until("ada", &["< good morning"]);
    screens.until("bob", &["> good morning  ✓✓"]);
    screens.write("ada", "good evening");
    screens.until("bob", &["< good evening"]);
    screens.keys("ada", &["C-t"]);
    let digits = |picture: &str| -> Vec<String> {
        let fives = picture.split(|c: char| !c.is_ascii_digit()).filter(|w| w.len() == 5);
        fives.map(str::to_owned).collect()
    };
    let code = digits(&screens.until("ada", &["Compare it"]));
    screens.keys("bob", &["C-t"]);
    assert_eq!((code.len(), &digits(&screens.until("bob", &["Compare it"]))), (8, &code), "the same code at both ends");
    screens.keys("ada", &["Escape"]);
    screens.keys("bob", &["Escape"]);
    // A key that comes at once behind Escape is another key to a terminal.
    screens.until("ada", &["< good morning"]);
    screens.until("bob", &["< good evening"]);

    // Another size, and back.
    screens.run(&["resize-window", "-t", "ada", "-x", "50", "-y", "12"]);
    screens.write("ada", "smaller");
    screens.until("ada", &["> smaller  ✓✓", "To Bob"]);
    screens.run(&["resize-window", "-t", "ada", "-x", "132", "-y", "43"]);
    screens.until("ada", &["< good morning", "> smaller  ✓✓", "Ctrl-C end"]);

    // Bob ends his program. What Ada writes waits at two relays until he is back; nothing is shown twice.
    screens.keys("bob", &["C-c"]);
    screens.until_ended("bob");
    screens.write("ada", "are you there?");
    screens.until("ada", &["> are you there?  ✓ 2 of 2"]);
    screens.open("bob", &bob);
    let back = screens.until("bob", &["< are you there?", "To Ada"]);
    assert_eq!(back.matches("are you there?").count(), 1, "{back}");
    screens.until("ada", &["> are you there?  ✓✓"]);
    for name in ["ada", "bob"] {
        screens.keys(name, &["C-c"]);
        screens.until_ended(name);
    }
}
