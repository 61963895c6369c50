//! The process that is killed: this test program again, in a role that an environment variable gives it.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::ledger::Ledger;
use crate::work::{self, Fact, Name, Stand};

const FOLDER: &str = "POSTA_WORK_FOLDER";
const HOUR: &str = "POSTA_WORK_HOUR";

/// The seed of a test, and how to run it again with the same one.
pub fn seed(test: &str, default: u64) -> u64 {
    let seed = env::var("POSTA_SEED").ok().map_or(default, |seed| seed.parse().expect("POSTA_SEED is a number"));
    let binary = env!("CARGO_CRATE_NAME");
    println!(
        "again: POSTA_SEED={seed} cargo test --release -p posta-store --test {binary} -- --include-ignored {test}"
    );
    seed
}

/// What the child does, inside the test `as_a_child`: works until it is killed. Without the role, nothing.
pub fn role() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let hour = env::var(HOUR).expect("an hour").parse().expect("a number");
    let stand = |line: std::io::Result<String>| {
        let line = line.expect("lines");
        let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
        let name = Name { slot: numbers[0] as u32, generation: numbers[1] as u32 };
        Stand { name, sent: numbers[2], acked: numbers[3] }
    };
    let stands = std::io::stdin().lines().map(stand).collect();
    let mut out = std::io::stdout().lock();
    work::work(Path::new(&folder), hour, stands, |fact| fact.say(&mut out));
}

/// Why a child has said all it will say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As many confirmed facts as were waited for have come.
    Enough,
    /// The store refused to write.
    NoSpace,
    /// It ended by itself.
    Died,
}

/// A child at work.
pub struct Working {
    child: Child,
    facts: BufReader<ChildStdout>,
}

impl Working {
    pub fn start(folder: &Path, hour: u32, ledger: &Ledger) -> Self {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.args(["--exact", "as_a_child", "--ignored", "--nocapture"]);
        command.env(FOLDER, folder).env(HOUR, hour.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the child starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        for Stand { name, sent, acked } in ledger.stands() {
            writeln!(stdin, "{} {} {sent} {acked}", name.slot, name.generation).expect("it listens");
        }
        drop(stdin);
        let facts = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, facts }
    }

    /// Takes down facts until `count` confirmed ones have come.
    pub fn watch(&mut self, ledger: &mut Ledger, count: u64) -> End {
        let (mut line, mut seen) = (String::new(), 0);
        while seen < count {
            line.clear();
            // The last line may be torn.
            if self.facts.read_line(&mut line).expect("text") == 0 || !line.ends_with('\n') {
                return End::Died;
            }
            let Some(fact) = Fact::read(line.trim_end()) else { continue };
            if fact == Fact::NoSpace {
                return End::NoSpace;
            }
            ledger.note(fact);
            seen += u64::from(fact.confirms());
        }
        End::Enough
    }

    /// SIGKILL; takes down what it had said before.
    pub fn kill(mut self, ledger: &mut Ledger) {
        self.child.kill().expect("it can be killed");
        while self.watch(ledger, 1) == End::Enough {}
        self.child.wait().expect("it ends");
    }
}
