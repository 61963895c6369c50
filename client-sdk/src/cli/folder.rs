//! The folder that a command works in, and its passphrase: never an argument, for others of this machine can see those.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use posta_link::exit;
use posta_link::logs::LogLevel;
use posta_protocol::now::Now;
use rand::rngs::StdRng;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::Ending;
use crate::client::{Client, StartError};
use crate::driver::Clock;
use crate::session::Session;
use crate::session::event::{Action, ContactId, ContactInfo, Options};
use crate::store::{Records, Store, StoreError};

/// Bytes of a passphrase, at most.
const MAX_PASSPHRASE: u64 = 1024;

/// What every command with a state takes.
#[derive(Debug, Args)]
pub(super) struct Folder {
    /// The folder with the state. Default: `posta` in $XDG_DATA_HOME or ~/.local/share.
    #[arg(long, value_name = "FOLDER", env = "POSTA_DIR")]
    dir: Option<PathBuf>,
    /// Read the passphrase from this file, first line.
    #[arg(long, value_name = "FILE", env = "POSTA_PASSPHRASE_FILE", conflicts_with = "passphrase_fd")]
    passphrase_file: Option<PathBuf>,
    /// Read the passphrase from this file descriptor, first line.
    #[arg(long, value_name = "NUMBER")]
    passphrase_fd: Option<u32>,
    /// The local address to send from.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    local: IpAddr,
    /// One JSON object a line, in and out.
    #[arg(long)]
    pub(super) json: bool,
    /// How much to log on standard error: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    pub(super) log: LogLevel,
}

impl Folder {
    /// The folder.
    pub(super) fn path(&self) -> Result<PathBuf, Ending> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let data = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
        data.map(|d| d.join("posta")).ok_or_else(|| Ending::new(exit::USAGE, "no home folder: name one by --dir"))
    }

    /// The passphrase; one that is new is asked for twice.
    pub(super) fn passphrase(&self, new: bool) -> Result<Zeroizing<String>, Ending> {
        let (source, path) = match (&self.passphrase_file, self.passphrase_fd) {
            (Some(file), _) => (file.display().to_string(), file.clone()),
            (None, Some(fd)) => (format!("file descriptor {fd}"), PathBuf::from(format!("/dev/fd/{fd}"))),
            (None, None) => return ask_user(new),
        };
        passphrase_of(&path, &source, new)
    }

    /// Starts the client.
    pub(super) async fn open(&self) -> Result<Client, Ending> {
        let folder = self.path()?;
        // Before anything is asked for.
        if !Store::exists(&folder) {
            return Err(StoreError::Missing(folder).into());
        }
        let passphrase = self.passphrase(false)?;
        Ok(Client::builder(folder).local(self.local).open(passphrase.as_bytes()).await?)
    }

    /// Opens the state without the network, for what needs none.
    pub(super) fn offline(&self) -> Result<(Store, Vec<ContactInfo>), Ending> {
        let (store, session, _) = self.session()?;
        Ok((store, session.contacts()))
    }
}

impl Folder {
    /// Changes one contact, without the network.
    pub(super) fn change(
        &self,
        contact: &str,
        change: impl FnOnce(&mut Session, Now, ContactId) -> bool,
    ) -> Result<(), Ending> {
        let (mut store, mut session, now) = self.session()?;
        let contact = find(&session.contacts(), contact)?;
        change(&mut session, now, contact);
        while let Some(action) = session.poll() {
            // Nothing else can be done without a network; it is, when the client runs.
            if let Action::Save(changes) = action {
                store.apply(&changes)?;
            }
        }
        Ok(store.purge()?)
    }

    /// The same folder with another passphrase, from this file or the terminal.
    pub(super) fn another(&self, passphrase_file: Option<PathBuf>) -> Self {
        let (dir, local) = (self.dir.clone(), self.local);
        Self { dir, passphrase_file, passphrase_fd: None, local, json: self.json, log: self.log }
    }

    /// The state and a session that does nothing by itself.
    pub(super) fn session(&self) -> Result<(Store, Session, Now), Ending> {
        let (store, _, session, now, _) = self.whole()?;
        Ok((store, session, now))
    }

    /// Everything that is in the folder.
    pub(super) fn whole(&self) -> Result<Whole, Ending> {
        let folder = self.path()?;
        if !Store::exists(&folder) {
            return Err(StoreError::Missing(folder).into());
        }
        let passphrase = self.passphrase(false)?;
        let (store, records) = Store::open(&folder, passphrase.as_bytes())?;
        let rng = Box::new(rand::make_rng::<StdRng>());
        let now = Clock::new().now();
        let session = Session::restore(Options::default(), rng, now, &records).map_err(StartError::Records)?;
        Ok((store, records, session, now, passphrase))
    }
}

/// A store, its records, a session of them, the time, and the passphrase.
pub(super) type Whole = (Store, Records, Session, Now, Zeroizing<String>);

/// The contact of this name or number.
pub(super) fn find(contacts: &[ContactInfo], wanted: &str) -> Result<ContactId, Ending> {
    let mut named = contacts.iter().filter(|c| c.name == wanted);
    match (named.next(), named.next()) {
        (Some(found), None) => return Ok(found.id),
        (Some(_), Some(_)) => {
            let sentence = format!("several contacts are called {wanted}: use the number that `posta contacts` shows");
            return Err(Ending::new(exit::USAGE, sentence));
        }
        _ => {}
    }
    let number = wanted.parse().ok().map(ContactId);
    let found = number.filter(|n| contacts.iter().any(|c| c.id == *n));
    found.ok_or_else(|| Ending::new(exit::USAGE, format!("there is no contact {wanted}: `posta contacts` shows them")))
}

/// The passphrase in a file's first line.
pub(super) fn passphrase_of(path: &Path, source: &str, new: bool) -> Result<Zeroizing<String>, Ending> {
    let unreadable = |e| Ending::new(exit::DISK, format!("the passphrase can't be read from {source}: {e}"));
    let file = File::open(path).map_err(unreadable)?;
    let mut line = Zeroizing::new(String::with_capacity(128));
    BufReader::new(file.take(MAX_PASSPHRASE)).read_line(&mut line).map_err(unreadable)?;
    checked(line, new)
}

fn checked(mut line: Zeroizing<String>, new: bool) -> Result<Zeroizing<String>, Ending> {
    while line.ends_with(['\n', '\r']) {
        line.pop();
    }
    if new && line.is_empty() {
        return Err(Ending::new(exit::USAGE, "an empty passphrase protects nothing: choose one"));
    }
    Ok(line)
}

fn ask_user(new: bool) -> Result<Zeroizing<String>, Ending> {
    let first = prompt(if new { "New passphrase: " } else { "Passphrase: " })?;
    let first = checked(first, new)?;
    if new && *checked(prompt("Once more: ")?, new)? != *first {
        return Err(Ending::new(exit::USAGE, "the two passphrases differ: nothing was done"));
    }
    Ok(first)
}

/// A line from the terminal, which doesn't show it.
fn prompt(text: &str) -> Result<Zeroizing<String>, Ending> {
    let no_terminal = |_| {
        let sentence = "there is no terminal to ask for the passphrase: use --passphrase-file or --passphrase-fd";
        Ending::new(exit::USAGE, sentence)
    };
    let mut terminal = File::options().read(true).write(true).open(Path::new("/dev/tty")).map_err(no_terminal)?;
    let shown = tcgetattr(&terminal).map_err(|e| no_terminal(e.into()))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).map_err(|e| no_terminal(e.into()))?;
    let mut line = Zeroizing::new(String::with_capacity(128));
    let asked = terminal
        .write_all(text.as_bytes())
        .and_then(|()| BufReader::new((&mut terminal).take(MAX_PASSPHRASE)).read_line(&mut line));
    // The terminal must show again what is typed, whatever happened.
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &shown);
    let _ = terminal.write_all(b"\n");
    asked.map_err(no_terminal)?;
    Ok(line)
}
