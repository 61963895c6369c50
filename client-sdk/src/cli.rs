//! The program `posta`: anonymous messages over a Posta network, from a terminal or a script.

mod commands;
mod driver;
mod folder;
mod generate;
mod profile;
mod qr;
mod screen;
mod show;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use posta_link::config::ConfigError;
use posta_link::exit;
use posta_link::fetch::{Network, NetworkError};
use posta_link::logs::{self, LogLevel};

use self::folder::Folder;
use crate::client::{CallError, Client, ClientOptions, StartError};
use crate::session::event::{ClientEvent, JoinFailure, Options, Warning};
use crate::store::StoreError;

/// How long the programs wait for a network that is just starting.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long `ping` waits for its echo.
const PING_PATIENCE: Duration = Duration::from_secs(30);

/// Anonymous messages over a Posta network.
#[derive(Debug, Parser)]
#[command(name = "posta", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Talk with one contact: prints an invitation, or follows one. Nothing is kept when the program ends, unless --state
    /// says where.
    Talk {
        #[command(flatten)]
        common: Common,
        /// Follow an invitation: read from this file, or from standard input. Never an argument, for others of this
        /// machine can see those.
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
        join: Option<PathBuf>,
        /// Keep the state in this new folder, sealed by the passphrase of --passphrase-file.
        #[arg(long, value_name = "FOLDER", requires = "passphrase_file")]
        state: Option<PathBuf>,
        /// Read the passphrase of --state from this file, first line.
        #[arg(long, value_name = "FILE", requires = "state")]
        passphrase_file: Option<PathBuf>,
    },
    /// Make the state of a client, sealed by a passphrase.
    Init {
        #[command(flatten)]
        folder: Folder,
        /// The authorities of the network; a copy is kept beside the state.
        #[arg(long, value_name = "FILE")]
        network: PathBuf,
        /// How to trade latency against cover.
        #[arg(long, value_name = "PROFILE", value_enum, default_value = "fast")]
        profile: profile::Named,
    },
    /// Show what each profile costs and gives on this network, or choose one for the next start.
    Profile {
        #[command(flatten)]
        folder: Folder,
        /// The profile to use from now on.
        #[arg(value_enum)]
        name: Option<profile::Named>,
    },
    /// Make an invitation: a link that connects one person, once.
    Invite {
        #[command(flatten)]
        folder: Folder,
        /// What to call the contact; nobody else learns it.
        name: Option<String>,
        /// Show the link as a QR code, too.
        #[arg(long)]
        qr: bool,
        /// Write the link as a QR code into this new file, readable by its owner only.
        #[arg(long, value_name = "FILE")]
        png: Option<PathBuf>,
    },
    /// Follow an invitation, read from standard input or a file. Never an argument, for others of this machine can see
    /// those.
    Join {
        #[command(flatten)]
        folder: Folder,
        /// What to call the contact; nobody else learns it.
        name: Option<String>,
        /// Read the link from this file.
        #[arg(long, value_name = "FILE")]
        link: Option<PathBuf>,
    },
    /// Show the contacts, and how many messages are under way. Needs no network.
    #[command(alias = "status")]
    Contacts {
        #[command(flatten)]
        folder: Folder,
    },
    /// Send a message, read from standard input.
    Send {
        #[command(flatten)]
        folder: Folder,
        /// The contact's name or number.
        contact: String,
        /// How far to wait.
        #[arg(long, value_name = "STATE", value_enum, default_value = "stored")]
        until: commands::Until,
    },
    /// Print what comes, from everyone; each message once.
    Receive {
        #[command(flatten)]
        folder: Folder,
        /// End after so many seconds.
        #[arg(long, value_name = "SECONDS")]
        seconds: Option<u64>,
        /// End after so many messages.
        #[arg(long, value_name = "NUMBER")]
        count: Option<u64>,
    },
    /// Talk: the whole screen of a terminal, with all contacts; or with one contact, each line a message.
    Chat {
        #[command(flatten)]
        folder: Folder,
        /// The contact's name or number.
        #[arg(required_if_eq_any([("lines", "true"), ("json", "true")]))]
        contact: Option<String>,
        /// Lines in and out, for terminals that can do no more and for scripts; so it is if there is no terminal.
        #[arg(long)]
        lines: bool,
    },
    /// Give a contact another name. Needs no network.
    Rename {
        #[command(flatten)]
        folder: Folder,
        /// The contact's name or number.
        contact: String,
        /// Its new name.
        name: String,
    },
    /// Let go of a contact: all that is kept of it is destroyed. Needs no network.
    Forget {
        #[command(flatten)]
        folder: Folder,
        /// The contact's name or number.
        contact: String,
    },
    /// Show what was said with a contact. Needs no network.
    History {
        #[command(flatten)]
        folder: Folder,
        /// The contact's name or number.
        contact: String,
        /// Forget it instead: it is destroyed, but for what is not delivered yet.
        #[arg(long)]
        clear: bool,
    },
    /// Let messages to a contact disappear, from now on: both programs forget them so long after their delivery. Needs no
    /// network.
    Disappear {
        #[command(flatten)]
        folder: Folder,
        /// The contact's name or number.
        contact: String,
        /// Seconds; 0 for no more.
        seconds: u32,
    },
    /// Write contacts and history into a file, for another machine or for the day on which this folder is lost. Needs no
    /// network. The file opens by the passphrase of the state.
    Export {
        #[command(flatten)]
        folder: Folder,
        /// A new file.
        file: PathBuf,
        /// Move everything: this folder can't be used any more.
        #[arg(long = "move")]
        moved: bool,
    },
    /// Make a state of a file that `posta export` has written. It begins all conversations anew when it runs next.
    Import {
        #[command(flatten)]
        folder: Folder,
        /// The file.
        file: PathBuf,
        /// The authorities of the network; a copy is kept beside the state.
        #[arg(long, value_name = "FILE")]
        network: PathBuf,
    },
    /// Change the passphrase. Needs no network.
    Passphrase {
        #[command(flatten)]
        folder: Folder,
        /// Read the new one from this file, first line.
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Destroy the state at once, without its passphrase.
    Wipe {
        #[command(flatten)]
        folder: Folder,
        /// Really.
        #[arg(long)]
        yes: bool,
    },
    /// Write man pages and shell completions.
    #[command(hide = true)]
    Generate {
        /// The folder to write to; made if it isn't there.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Check the network: fetch and verify its list of relays, send an echo through a whole path.
    Ping {
        #[command(flatten)]
        common: Common,
    },
}

impl Command {
    const fn log(&self) -> LogLevel {
        match self {
            Self::Generate { .. } => LogLevel::Error,
            Self::Talk { common, .. } | Self::Ping { common } => common.log,
            Self::Init { folder, .. }
            | Self::Profile { folder, .. }
            | Self::Invite { folder, .. }
            | Self::Join { folder, .. }
            | Self::Contacts { folder }
            | Self::Send { folder, .. }
            | Self::Receive { folder, .. }
            | Self::Chat { folder, .. }
            | Self::Rename { folder, .. }
            | Self::Forget { folder, .. }
            | Self::History { folder, .. }
            | Self::Disappear { folder, .. }
            | Self::Export { folder, .. }
            | Self::Import { folder, .. }
            | Self::Passphrase { folder, .. }
            | Self::Wipe { folder, .. } => folder.log,
        }
    }
}

#[derive(Debug, Args)]
struct Common {
    /// The authorities of the network.
    #[arg(long, value_name = "FILE")]
    network: PathBuf,
    /// The local address to send from.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    local: IpAddr,
    /// How packets leave.
    #[arg(long, value_name = "PROFILE", value_enum, default_value = "fast")]
    profile: profile::Named,
    /// One JSON object a line, in and out.
    #[arg(long)]
    json: bool,
    /// How much to log on standard error: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    log: LogLevel,
}

/// Why the program ends, in one sentence, and its exit code.
#[derive(Debug)]
struct Ending {
    code: u8,
    sentence: String,
}

impl Ending {
    fn new(code: u8, sentence: impl ToString) -> Self {
        Self { code, sentence: sentence.to_string() }
    }
}

impl From<NetworkError> for Ending {
    fn from(e: NetworkError) -> Self {
        let code = if matches!(e, NetworkError::Config(ConfigError::Read { .. })) { exit::DISK } else { exit::USAGE };
        Self::new(code, e)
    }
}

impl From<StartError> for Ending {
    fn from(e: StartError) -> Self {
        match e {
            StartError::Store(e) => e.into(),
            StartError::Network(e) => e.into(),
            StartError::Records(_) => Self::new(exit::DISK, e),
            e => Self::new(exit::NETWORK, e),
        }
    }
}

impl From<StoreError> for Ending {
    fn from(e: StoreError) -> Self {
        let code = match e {
            StoreError::Io(_) | StoreError::Damaged(_) => exit::DISK,
            StoreError::Missing(_)
            | StoreError::Exists(_)
            | StoreError::Moved(_)
            | StoreError::NoExport(_)
            | StoreError::Locked { .. }
            | StoreError::WrongPassphrase => exit::USAGE,
            _ => exit::FAILURE,
        };
        Self::new(code, e)
    }
}

impl From<CallError> for Ending {
    fn from(e: CallError) -> Self {
        let code = match e {
            CallError::BadLink(_) | CallError::Send(_) => exit::USAGE,
            CallError::Join(_) | CallError::NotAdmitted(_) => exit::NETWORK,
            _ => exit::FAILURE,
        };
        Self::new(code, e)
    }
}

impl From<JoinFailure> for Ending {
    fn from(e: JoinFailure) -> Self {
        Self::new(exit::NETWORK, e)
    }
}

/// Runs `posta` with these arguments, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    logs::init(arguments.command.log(), "posta");
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build() else {
        eprintln!("posta: this machine gives out no more threads: end other programs, and try again");
        return ExitCode::from(exit::FAILURE);
    };
    let ended = runtime.block_on(async {
        match arguments.command {
            Command::Talk { common, join, state, passphrase_file } => {
                driver::talk(&common, join, state.zip(passphrase_file)).await
            }
            Command::Ping { common } => ping(&common).await,
            Command::Generate { to } => generate::generate(&to),
            Command::Invite { folder, name, qr, png } => commands::invite(&folder, name.as_deref(), qr, png).await,
            Command::Init { folder, network, profile } => profile::init(&folder, &network, profile),
            Command::Profile { folder, name } => profile::profile(&folder, name).await,
            Command::Join { folder, name, link } => commands::join(&folder, name.as_deref(), link.as_deref()).await,
            Command::Contacts { folder } => commands::contacts(&folder),
            Command::Send { folder, contact, until } => commands::send(&folder, &contact, until).await,
            Command::Receive { folder, seconds, count } => driver::chat::receive(&folder, seconds, count).await,
            Command::Chat { folder, contact, lines } => driver::chat::chat(&folder, contact.as_deref(), lines).await,
            Command::Rename { folder, contact, name } => commands::rename(&folder, &contact, &name),
            Command::Forget { folder, contact } => commands::forget(&folder, &contact),
            Command::History { folder, contact, clear } => commands::carry::history(&folder, &contact, clear),
            Command::Disappear { folder, contact, seconds } => commands::disappear(&folder, &contact, seconds),
            Command::Export { folder, file, moved } => commands::carry::export(&folder, &file, moved),
            Command::Import { folder, file, network } => commands::carry::import(&folder, &file, &network),
            Command::Passphrase { folder, new_passphrase_file } => commands::passphrase(&folder, new_passphrase_file),
            Command::Wipe { folder, yes } => commands::wipe(&folder, yes),
        }
    });
    // A read from the terminal can't be taken back; nobody waits for it.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::from(exit::OK),
        Err(ending) => {
            eprintln!("posta: {}", ending.sentence);
            ExitCode::from(ending.code)
        }
    }
}

/// Starts a client: in memory, or with a new state in a folder under the passphrase of a file.
async fn start(common: &Common, state: Option<(PathBuf, PathBuf)>) -> Result<Client, Ending> {
    if let Some((folder, passphrase)) = state {
        let passphrase = folder::passphrase_of(&passphrase, &passphrase.display().to_string(), true)?;
        let client = Client::builder(folder).network(Network::load(&common.network)?).local(common.local);
        let client = client.profile(common.profile.into());
        return Ok(client.patience(PATIENCE).create(passphrase.as_bytes()).await?);
    }
    let options = ClientOptions {
        network: Network::load(&common.network)?,
        local: common.local,
        session: Options { profile: common.profile.into(), ..Options::default() },
        patience: PATIENCE,
    };
    Ok(Client::start(options).await?)
}

/// Waits until an entry answers. Commits nothing.
async fn ready(client: &Client) -> Result<(), Ending> {
    loop {
        match client.next_uncommitted().await {
            Some((_, ClientEvent::Ready)) => return Ok(()),
            Some((_, ClientEvent::Warning(Warning::Offline))) => {
                let sentence = "no relay can be reached: check that this network lets UDP through, and try again";
                return Err(Ending::new(exit::NETWORK, sentence));
            }
            Some(_) => {}
            None => return Err(CallError::Stopped.into()),
        }
    }
}

async fn ping(common: &Common) -> Result<(), Ending> {
    let client = start(common, None).await?;
    ready(&client).await?;
    client.ping().await?;
    let pong = async {
        loop {
            match client.next_event().await {
                Some(ClientEvent::Pong { round_trip }) => return Ok(round_trip),
                Some(_) => {}
                None => return Err(Ending::from(CallError::Stopped)),
            }
        }
    };
    let no_echo = "the entry answers, but no echo came back: mixes or queue relays are down; try again later";
    let round_trip =
        tokio::time::timeout(PING_PATIENCE, pong).await.map_err(|_| Ending::new(exit::NETWORK, no_echo))??;
    let ms = round_trip.as_secs_f64() * 1000.0;
    if common.json {
        println!("{}", serde_json::json!({ "event": "pong", "round_trip_ms": ms }));
    } else {
        println!("The list of relays is valid, and an echo came back through a whole path in {ms:.1} ms.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> ExitCode {
        main(std::iter::once("posta").chain(args.iter().copied()).map(OsString::from))
    }

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_is_wrong_has_its_exit_code() {
        let code = |n| format!("{:?}", ExitCode::from(n));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network.toml");
        let network = file.to_str().unwrap();
        let ran = |args: &[&str]| format!("{:?}", run(args));
        assert_eq!(ran(&["talk"]), code(exit::USAGE));
        assert_eq!(ran(&["--version"]), code(exit::OK));
        assert_eq!(ran(&["ping", "--network", network]), code(exit::DISK));
        std::fs::write(&file, "[[authorites]]\n").unwrap();
        assert_eq!(ran(&["ping", "--network", network]), code(exit::USAGE));
    }
}
