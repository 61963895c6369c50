//! The control socket: what commands ask of a relay that runs.
//!
//! ```text
//! socket     the file `control` in the state folder, for its owner alone
//! request    a line of at most 4 KiB:  backup PATH   or   status   or   retire DAYS   or   stay
//! answer     a line:  ok WORDS   or   error WORDS
//! ```
//! One request on a connection, [`MAX_CONNECTIONS`] at once; others wait for their turn with the system, and a backup for
//! the one before it. `status` is answered by a [`crate::report::Report`] in JSON, in one line.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use posta_store::{Backups, Report};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tracing::{info, warn};

use super::board::Board;
use super::clock::{Utc, wall};
use super::retire::Decisions;
use crate::retirement::{MOST_DAYS, Retirement};
use posta_protocol::now::Wall;

const NAME: &str = "control";
/// The request for a report.
pub(crate) const STATUS: &str = "status";
/// The request to retire, before the days.
pub(crate) const RETIRE: &str = "retire";
/// The request not to retire after all.
pub(crate) const STAY: &str = "stay";
const MODE: u32 = 0o600;
/// Bytes of a request with its line end.
const MAX_REQUEST: usize = 4096;
/// Connections at once.
const MAX_CONNECTIONS: usize = 8;
/// Bytes of an answer with its line end.
const MAX_ANSWER: u64 = 64 * 1024;
/// How long a request and the taking of an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait after the system has refused a connection.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);

/// The socket, for as long as this lives.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens. What a killed relay has left there is replaced: whoever has the store open is the only one.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn bind(state: &Path) -> io::Result<Self> {
        let path = state.join(NAME);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let folder = File::open(state)?;
        let listener = UnixListener::bind(short(&folder))?;
        fs::set_permissions(&path, Permissions::from_mode(MODE))?;
        Ok(Self { listener, path })
    }

    /// Answers until the process ends.
    pub(crate) async fn serve(self, backups: Backups, board: Board, decisions: Decisions) {
        let backups = Arc::new(Mutex::new(backups));
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // Never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (backups, board, decisions) = (Arc::clone(&backups), board.clone(), decisions.clone());
                    tokio::spawn(async move {
                        // Whoever is too slow, or has gone, is none of ours to report to.
                        let _ = answer(&stream, &backups, &board, &decisions).await;
                        drop(permit);
                    });
                }
                Err(e) => {
                    warn!(kind = ?e.kind(), "the control socket takes no connection");
                    tokio::time::sleep(ACCEPT_WAIT).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The next start replaces it if this fails.
        let _ = fs::remove_file(&self.path);
    }
}

/// A path to the socket that the system takes however deep the folder lies: it allows about 100 bytes.
fn short(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()))
}

async fn answer(stream: &UnixStream, backups: &Mutex<Backups>, board: &Board, decisions: &Decisions) -> io::Result<()> {
    let request = timeout(PATIENCE, read_line(stream)).await??;
    let answer = match request.split_once(' ') {
        None if request == STATUS => status(board).await,
        None if request == STAY => decide(decisions, None).await,
        Some((RETIRE, days)) => match days.parse() {
            Ok(days @ 0..=MOST_DAYS) => decide(decisions, Some(days)).await,
            _ => Err(format!("give 0 to {MOST_DAYS} days")),
        },
        Some(("backup", path)) => backup(&*backups.lock().await, PathBuf::from(path)).await,
        _ => Err("this relay doesn't know that request: use the `posta-node` that it runs".into()),
    };
    let line = match answer {
        Ok(words) => format!("ok {words}\n"),
        Err(words) => format!("error {words}\n"),
    };
    timeout(PATIENCE, write_all(stream, line.as_bytes())).await?
}

async fn decide(decisions: &Decisions, days: Option<u16>) -> Result<String, String> {
    Ok(told(decisions.decide(days).await?))
}

/// What an operator is told of a decision.
pub(crate) fn told(decided: Option<Retirement>) -> String {
    match decided {
        Some(retirement) => format!("the relay retires, until {} at the latest", Utc(Wall(retirement.until * 1000))),
        None => "the relay stays".into(),
    }
}

async fn status(board: &Board) -> Result<String, String> {
    let report = board.report().await.ok_or("the relay is ending")?;
    serde_json::to_string(&report).map_err(|e| e.to_string())
}

async fn backup(backups: &Backups, to: PathBuf) -> Result<String, String> {
    if !to.is_absolute() {
        return Err("the folder must be given from the root on".into());
    }
    let backups = backups.clone();
    let hour = wall().hour();
    let written = tokio::task::spawn_blocking(move || backups.write(&to, hour)).await;
    match written {
        Ok(Ok(report)) => {
            info!("a backup of the queue store was written");
            Ok(describe(&report))
        }
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("the backup was broken off".into()),
    }
}

/// What a backup holds, for its operator.
pub(crate) fn describe(report: &Report) -> String {
    let hour = Utc(Wall(u64::from(report.hour) * 3_600_000));
    format!("{} queues as of the hour of {hour}", report.queues)
}

async fn read_line(stream: &UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut buffer = [0; MAX_REQUEST];
    loop {
        stream.readable().await?;
        let n = match stream.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        };
        line.extend_from_slice(buffer.get(..n).unwrap_or_default());
        if line.last() == Some(&b'\n') {
            line.pop();
            return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        if line.len() >= MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What a relay says to a request; none if no relay runs.
pub(crate) type Asked = io::Result<Option<Result<String, String>>>;

/// Asks the relay whose state lies in `state`, from another process: its words, or its error's. `None` if none runs.
///
/// # Errors
/// If the relay can't be asked, or breaks off.
pub(crate) fn ask(state: &Path, request: &str, patience: Option<Duration>) -> Asked {
    let folder = match File::open(state) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        folder => folder?,
    };
    let mut stream = match std::os::unix::net::UnixStream::connect(short(&folder)) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        stream => stream?,
    };
    stream.set_read_timeout(patience)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut line)?;
    match line.trim_end().split_once(' ') {
        Some(("ok", words)) => Ok(Some(Ok(words.to_owned()))),
        Some(("error", words)) => Ok(Some(Err(words.to_owned()))),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the relay has broken off")),
    }
}
