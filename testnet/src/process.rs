//! One process of a testnet: this program again, in another role, on a tether.
//!
//! A child ends when its standard input ends, so that nothing is left behind whatever happens to the parent. Its
//! standard output is one JSON object a line, its log goes to a file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::cli::Role;

/// Lines of all children that the parent hasn't read yet; a child that writes more waits.
pub const LINES: usize = 4096;
/// Set for children that don't use their standard input otherwise: they end with it.
const TETHER: &str = "POSTA_TESTNET_TETHER";

/// A line that a child printed, parsed; or its end.
#[derive(Debug)]
pub enum Said {
    /// One JSON object.
    Line(Value),
    /// Standard output was closed: the process with this id has ended.
    Ended(u32),
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    /// Its name in the testnet.
    pub name: String,
    pid: u32,
    child: Child,
    stdin: ChildStdin,
}

impl Process {
    /// Starts this program in `role`. What it prints arrives at `lines` under its name.
    ///
    /// # Errors
    /// If the process can't be started or its log file not be written.
    pub fn start(
        name: &str,
        role: Role,
        args: &[String],
        log: &Path,
        lines: mpsc::Sender<(String, Said)>,
    ) -> io::Result<Self> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder)?;
        }
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("role").arg(role.as_str()).args(args);
        if role != Role::Posta {
            command.env(TETHER, "1");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        // A terminal's interrupt goes to the whole group; the parent alone decides when a child ends.
        command.process_group(0);
        let mut child = command.spawn()?;
        let missing = || io::Error::other("a pipe of the child is missing");
        let (stdin, stdout) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
        let pid = child.id().ok_or_else(missing)?;
        tokio::spawn(read_lines(name.to_owned(), pid, stdout, lines));
        Ok(Self { name: name.to_owned(), pid, child, stdin })
    }

    /// Writes one JSON object to the child.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn say(&mut self, line: &Value) -> io::Result<()> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await?;
        self.stdin.flush().await
    }

    /// The process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGTERM, and waits.
    ///
    /// # Errors
    /// If it has not ended after `patience`; it is killed then.
    pub async fn terminate(mut self, patience: Duration) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(late) => {
                self.child.kill().await?;
                Err(io::Error::from(late))
            }
        }
    }

    /// Lets go of the tether and waits; kills it after `patience`.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn stop(self, patience: Duration) -> io::Result<()> {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        match tokio::time::timeout(patience, child.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => child.kill().await,
        }
    }
}

async fn read_lines(
    name: String,
    pid: u32,
    stdout: impl tokio::io::AsyncRead + Unpin,
    lines: mpsc::Sender<(String, Said)>,
) {
    let mut stdout = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = stdout.next_line().await {
        // Anything else than JSON is for people; it isn't ours to read.
        let Ok(value) = serde_json::from_str(&line) else { continue };
        if lines.send((name.clone(), Said::Line(value))).await.is_err() {
            return;
        }
    }
    // The receiver may be gone by now; then nobody waits for the end.
    let _ = lines.send((name, Said::Ended(pid))).await;
}

/// In a child: ends the process when the parent lets go of its standard input.
pub fn tether() {
    if std::env::var_os(TETHER).is_none() {
        return;
    }
    std::thread::spawn(|| {
        let mut nothing = [0; 16];
        while io::stdin().read(&mut nothing).is_ok_and(|n| n > 0) {}
        std::process::exit(0);
    });
}
