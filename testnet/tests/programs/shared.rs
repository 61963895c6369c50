//! Runs the testnet program and the roles that it can take.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// The program under test.
pub(crate) fn testnet() -> Command {
    Command::new(env!("CARGO_BIN_EXE_posta-testnet"))
}

/// One of the programs that a network is made of.
pub(crate) fn role(name: &str, args: &[&str]) -> Command {
    let mut command = testnet();
    command.arg("role").arg(name).args(args).stdin(Stdio::null());
    command
}

/// Runs a demo and returns its report and whether it exited with 0.
pub(crate) fn demo(args: &[&str]) -> (Value, bool) {
    let out = testnet().arg("demo").arg("--json").args(args).stdin(Stdio::null()).output().expect("the demo starts");
    let text = String::from_utf8_lossy(&out.stdout);
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("no report ({e}): {text}{}", String::from_utf8_lossy(&out.stderr)));
    (report, out.status.success())
}

/// Asserts that a program failed with one sentence that contains all of `words`.
pub(crate) fn fails_with(out: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "it succeeded: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// Everything under a folder's `logs`.
pub(crate) fn logs(dir: &Path) -> Vec<(String, String)> {
    std::fs::read_dir(dir.join("logs"))
        .expect("there are logs")
        .map(|e| {
            let path = e.expect("a log").path();
            (path.display().to_string(), std::fs::read_to_string(&path).expect("a log is text"))
        })
        .collect()
}

/// A program that runs while the test talks to it; killed at the end of the test.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("its input is open"), "{line}").expect("it listens");
    }

    /// Reads lines until one contains `text`, and returns it.
    pub(crate) fn until(&mut self, text: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).expect("its output is text") == 0 {
                let mut last_words = String::new();
                self.child.stderr.take().expect("a pipe").read_to_string(&mut last_words).expect("text");
                panic!("{text:?} never came; what came: {all}{last_words}");
            }
            if line.contains(text) {
                return line;
            }
            all.push_str(&line);
        }
    }

    /// Closes its input and waits for its end.
    pub(crate) fn end(mut self) -> Output {
        drop(self.stdin.take());
        let mut out = Output { status: self.child.wait().expect("it ends"), stdout: Vec::new(), stderr: Vec::new() };
        self.stdout.read_to_end(&mut out.stdout).expect("output");
        self.child.stderr.take().expect("a pipe").read_to_end(&mut out.stderr).expect("errors");
        out
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
