//! The command line.

mod check;
mod inspect;
mod keys;

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use posta_link::fetch::{FetchError, fetch_signed};
use posta_link::keys::KeyFileError;
use posta_link::logs::{self, LogLevel};
use posta_link::{AnyPeer, Audience, Endpoint, LinkError, exit};

use crate::archive::ArchiveError;
use crate::config::{CONFIG_FILE, Config, ENTRY_FILE, SetupError, init};
use crate::driver::{Clock, DriverError, serve, stop_signal};
use crate::show::{View, table};

/// A Posta directory authority: agrees with the others on who relays.
#[derive(Debug, Parser)]
#[command(name = "posta-directory", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make keys and a configuration in a folder, and print this authority's entry for network.toml.
    Init {
        /// The folder.
        #[arg(long)]
        dir: PathBuf,
        /// Where to listen (UDP).
        #[arg(long, default_value = "0.0.0.0:4430")]
        listen: SocketAddr,
        /// Where others reach it, if not at `--listen`; can be given more than once.
        #[arg(long)]
        address: Vec<SocketAddr>,
        /// The file that lists all authorities; relative paths start at the folder.
        #[arg(long, default_value = "network.toml")]
        network: PathBuf,
        /// Length of an epoch in milliseconds.
        #[arg(long, default_value_t = Config::default().epoch_ms)]
        epoch_ms: u64,
        /// Length of a key epoch in milliseconds.
        #[arg(long, default_value_t = Config::default().key_epoch_ms)]
        key_epoch_ms: u64,
        /// Relays to wait for before the first consensus.
        #[arg(long, default_value_t = Config::default().bootstrap_relays)]
        bootstrap_relays: usize,
        /// Allow private and loopback addresses: test networks only.
        #[arg(long)]
        reserved_networks: bool,
        /// Days for which the signing key is certified.
        #[arg(long, default_value_t = 90)]
        days: u64,
        /// Only certify the signing key anew; the identity key must be in the folder.
        #[arg(long)]
        renew: bool,
    },
    /// Check configuration, keys and ports, and change nothing. Exit code 1 if the signing key ends within a day.
    Check {
        /// The configuration file.
        #[arg(long, default_value = CONFIG_FILE)]
        config: PathBuf,
    },
    /// What keys the authority has; renew its signing key; take its identity key offline.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Run the authority. At SIGHUP it takes over a renewed signing key and changed lists of relays.
    Run {
        /// The configuration file.
        #[arg(long, default_value = CONFIG_FILE)]
        config: PathBuf,
        /// How much is logged, instead of what the configuration says.
        #[arg(long)]
        log_level: Option<LogLevel>,
    },
    /// Fetch the newest consensus, verify it, and print it.
    Show {
        /// The file that lists all authorities.
        #[arg(long, default_value = "network.toml")]
        network: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask every authority what it holds, whether it took part in the newest round, and look for forks.
    Status {
        /// The file that lists all authorities.
        #[arg(long, default_value = "network.toml")]
        network: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// What each authority said in the newest round, and why each relay is in the consensus or not.
    Votes {
        /// The file that lists all authorities.
        #[arg(long, default_value = "network.toml")]
        network: PathBuf,
        /// Only relays whose identity begins with these hexadecimal digits.
        #[arg(long)]
        relay: Option<String>,
    },
    /// Check evidence against authorities, from whomever it comes, and say what it proves.
    VerifyEvidence {
        /// The evidence: a file from an authority's folder `evidence`, or a relay's folder `alarms`.
        file: PathBuf,
        /// The file that lists all authorities.
        #[arg(long, default_value = "network.toml")]
        network: PathBuf,
    },
}

/// A failure in one sentence, with its exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failure {
    fn new(code: u8, error: &dyn Error) -> Self {
        Self { code, text: error.to_string() }
    }
}

impl From<SetupError> for Failure {
    fn from(e: SetupError) -> Self {
        let code = match &e {
            SetupError::Io { .. } | SetupError::Key(KeyFileError::Io { .. }) => exit::DISK,
            _ => exit::USAGE,
        };
        Self::new(code, &e)
    }
}

impl From<DriverError> for Failure {
    fn from(e: DriverError) -> Self {
        let code = match &e {
            DriverError::Archive(ArchiveError::Io { .. }) => exit::DISK,
            DriverError::Archive(_) => exit::USAGE,
            _ => exit::FAILURE,
        };
        Self::new(code, &e)
    }
}

impl From<LinkError> for Failure {
    fn from(e: LinkError) -> Self {
        Self::new(exit::NETWORK, &e)
    }
}

impl From<FetchError> for Failure {
    fn from(e: FetchError) -> Self {
        Self::new(exit::NETWORK, &e)
    }
}

/// Runs the program with these arguments, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(e) => {
            // Help goes to standard output, mistakes to standard error; clap knows which.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let done = match arguments.command {
        Command::Init {
            dir,
            listen,
            address,
            network,
            epoch_ms,
            key_epoch_ms,
            bootstrap_relays,
            reserved_networks,
            days,
            renew,
        } => {
            let config = Config {
                listen,
                network,
                epoch_ms,
                key_epoch_ms,
                bootstrap_relays,
                reserved_networks,
                ..Config::default()
            };
            make(&dir, &config, address, days, renew)
        }
        Command::Check { config } => check::check(&config),
        Command::Keys(command) => keys::keys(&command),
        Command::Run { config, log_level } => run(&config, log_level),
        Command::Show { network, json } => show(&network, json),
        Command::Status { network, json } => inspect::status(&network, json),
        Command::Votes { network, relay } => inspect::votes(&network, relay.as_deref()),
        Command::VerifyEvidence { file, network } => inspect::verify_evidence(&network, &file),
    };
    match done {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => {
            // If even standard error is gone, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "posta-directory: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Failure::new(exit::FAILURE, &e))
}

fn make(dir: &Path, config: &Config, address: Vec<SocketAddr>, days: u64, renew: bool) -> Result<(), Failure> {
    let addresses = if address.is_empty() { vec![config.listen] } else { address };
    if !renew && addresses.iter().any(|a| a.ip().is_unspecified() || a.port() == 0) {
        let text = "give the address at which others reach this authority: --address 192.0.2.1:4430".to_owned();
        return Err(Failure { code: exit::USAGE, text });
    }
    let entry = init(dir, config, addresses, days, Clock::start().now().wall, renew)?;
    if renew {
        return print(&format!("the signing key in {} is certified for {days} days from now\n", dir.display()));
    }
    print(&format!(
        "{}\n# Give this entry to all authorities, relays and clients of the network; it is also in {}.\n\
         # Then keep identity.key offline: it is needed again only for `posta-directory keys renew`.\n",
        entry.to_toml(),
        dir.join(ENTRY_FILE).display()
    ))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Failure::new(exit::FAILURE, &e))
}

fn run(path: &Path, log_level: Option<LogLevel>) -> Result<(), Failure> {
    let config = Config::load(path)?;
    logs::init(log_level.unwrap_or(config.log_level), "posta-directory");
    let setup = config.setup(Clock::start().now().wall)?;
    runtime()?.block_on(async {
        let endpoint = Endpoint::bind(config.listen, Audience::Directory, &setup.link_key, Arc::new(AnyPeer))?;
        let stop = stop_signal().map_err(|e| Failure::new(exit::FAILURE, &e))?;
        Ok(serve(endpoint, setup, stop).await?)
    })
}

fn show(path: &Path, json: bool) -> Result<(), Failure> {
    let network = inspect::load(path)?;
    let now = Clock::start().now().wall;
    let consensus = runtime()?.block_on(async {
        let dialer = inspect::dialer(&network)?;
        let (consensus, _) = fetch_signed(&network, &dialer, now, None).await?;
        Ok::<_, Failure>(consensus)
    })?;
    if json {
        let text = serde_json::to_string_pretty(&View::new(&consensus)).map_err(|e| Failure::new(exit::FAILURE, &e))?;
        print(&format!("{text}\n"))
    } else {
        print(&table(&consensus, now))
    }
}
