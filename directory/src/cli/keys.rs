//! `keys`: what keys there are, and what an operator does about them.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use posta_link::exit;
use posta_link::fetch::to_hex;

use super::{Failure, print};
use crate::config::{CONFIG_FILE, Config};
use crate::driver::Clock;
use crate::keys;
use crate::page::span;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The authority's identity, and how long its signing key serves. Exit code 1 if that is a day or less.
    Show {
        /// The configuration file.
        #[arg(long, default_value = CONFIG_FILE)]
        config: PathBuf,
    },
    /// Certify the signing key anew. An authority that runs takes it over at SIGHUP; clients need nothing.
    Renew {
        /// The configuration file.
        #[arg(long, default_value = CONFIG_FILE)]
        config: PathBuf,
        /// The identity key, if it isn't in the state folder.
        #[arg(long)]
        identity: Option<PathBuf>,
        /// Days for which it is certified.
        #[arg(long, default_value_t = 90)]
        days: u64,
        /// Make a new signing key: the old one may be in other hands. It stays good until its own certificate ends.
        #[arg(long)]
        replace: bool,
    },
    /// Move the identity key out of the state folder, to keep it offline.
    ///
    /// An authority needs it only to renew its signing key. Whoever has it is this authority; if it is lost, all clients
    /// must be given a new list of authorities when its signing key ends. Keep two copies.
    TakeIdentity {
        /// The configuration file.
        #[arg(long, default_value = CONFIG_FILE)]
        config: PathBuf,
        /// The file to move it to; not there yet.
        #[arg(long)]
        to: PathBuf,
    },
}

pub(super) fn keys(command: &Command) -> Result<(), Failure> {
    let now = Clock::start().now().wall;
    match command {
        Command::Show { config } => show(&Config::load(config)?.state_dir),
        Command::Renew { config, identity, days, replace } => {
            let state = Config::load(config)?.state_dir;
            let renewed = keys::renew(&state, identity.as_deref(), *days, *replace, now)?;
            let left = span(renewed.expires.since(now).as_secs());
            print(&format!("signing key certified for {left}\nAn authority that runs takes it over at SIGHUP.\n"))
        }
        Command::TakeIdentity { config, to } => {
            keys::take_identity(&Config::load(config)?.state_dir, to)?;
            print(&format!(
                "identity key moved to {}\nMake a second copy and keep both offline. To renew the signing key: \
                 posta-directory keys renew --identity FILE\n",
                to.display()
            ))
        }
    }
}

fn show(state: &Path) -> Result<(), Failure> {
    let now = Clock::start().now().wall;
    let certificate = keys::read(state)?.certificate;
    let here = if keys::identity_here(state) { "in the state folder: keep it offline" } else { "not here" };
    let ends = if certificate.expires > now {
        format!("{} more", span(certificate.expires.since(now).as_secs()))
    } else {
        format!("ended {} ago", span(now.since(certificate.expires).as_secs()))
    };
    let ending = keys::ending(certificate.expires, now);
    print(&format!(
        "authority     {}\nidentity key  {here}\nsigning key   {}, {ends}\n",
        to_hex(&certificate.identity),
        to_hex(&certificate.key.0),
    ))?;
    match ending {
        Some(ending) if ending.grave => Err(Failure { code: exit::FAILURE, text: ending.says }),
        Some(ending) => print(&format!("warning       {}\n", ending.says)),
        None => Ok(()),
    }
}
