//! `keys`: what keys there are, and what an operator does about them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use posta_link::exit;
use posta_link::fetch::to_hex;
use posta_protocol::document::Certificate;

use super::Common;
use super::status::{level, span};
use crate::config::Config;
use crate::driver::{Utc, wall};
use crate::failure::Failure;
use crate::keys::{self, Keys};
use crate::report::{Level, SigningKey, apart};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The relay's id, and how long its signing key serves. Exit code 1 if that is a day or less.
    Show(Common),
    /// Renew the signing key's certificate for 90 days. A relay that runs takes it over at SIGHUP, or within an epoch.
    Renew(Renew),
    /// Move the identity key out of the state folder, to keep it offline.
    ///
    /// A relay needs it only to renew its signing key: every 90 days, from this file. Whoever has it is this relay; if
    /// it is lost, the relay starts anew under another id when its signing key ends. Keep two copies.
    TakeIdentity(TakeIdentity),
    /// Take this relay into a family: relays that belong together, of which no path takes two.
    ///
    /// The family's key is made if it isn't there, and needed only for this: use the same file for all relays of the
    /// family, and keep it elsewhere. A relay that runs says it in its next descriptor.
    Family(FamilyKey),
}

#[derive(Debug, Args)]
pub(super) struct Renew {
    #[command(flatten)]
    common: Common,
    /// The identity key, if it isn't in the state folder.
    #[arg(long)]
    identity: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct FamilyKey {
    #[command(flatten)]
    common: Common,
    /// The family's key.
    #[arg(long)]
    key: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct TakeIdentity {
    #[command(flatten)]
    common: Common,
    /// The file to move it to; not there yet.
    #[arg(long)]
    to: PathBuf,
}

pub(super) fn keys(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Show(common) => show(common),
        Command::Renew(args) => {
            let state = Config::load(&args.common.config)?.state_dir;
            let renewed = keys::renew(&state, args.identity.as_deref(), wall()).map_err(Failure::disk)?;
            say(&format!("signing key until {}\nA relay that runs takes it over at SIGHUP.", Utc(renewed.expires)));
            Ok(ExitCode::from(exit::OK))
        }
        Command::Family(args) => {
            let state = Config::load(&args.common.config)?.state_dir;
            let relay = Keys::open(&state, wall()).map_err(Failure::disk)?.relay();
            let family = keys::join_family(&state, &relay, &args.key).map_err(Failure::disk)?;
            say(&format!("relay {} is of family {}", relay.short(), to_hex(&family)));
            Ok(ExitCode::from(exit::OK))
        }
        Command::TakeIdentity(args) => {
            let state = Config::load(&args.common.config)?.state_dir;
            keys::take_identity(&state, &args.to).map_err(Failure::disk)?;
            say(&format!(
                "identity key moved to {}\nMake a second copy and keep both offline. To renew the signing key: \
                 posta-node keys renew --identity FILE",
                args.to.display()
            ));
            Ok(ExitCode::from(exit::OK))
        }
    }
}

fn show(common: &Common) -> Result<ExitCode, Failure> {
    let state = Config::load(&common.config)?.state_dir;
    let keys = Keys::open(&state, wall()).map_err(Failure::disk)?;
    let Certificate { expires, .. } = *keys.certificate();
    let left_s = apart(expires, wall());
    let here = keys::identity_here(&state);
    let signing = SigningKey { expires: expires.0 / 1000, left_s, identity_here: here };
    say(&format!("relay        {}", to_hex(&keys.relay().0)));
    say(&format!("identity key {}", if here { "in the state folder" } else { "not here" }));
    say(&format!("signing key  until {}, {} more", Utc(expires), span(left_s.unsigned_abs())));
    let warning = signing.warning();
    if let Some((how_much, says)) = &warning {
        say(&format!("{:<12} {says}", level(*how_much)));
    }
    let grave = warning.is_some_and(|(level, _)| level == Level::Error);
    Ok(ExitCode::from(if grave { exit::FAILURE } else { exit::OK }))
}

fn say(text: &str) {
    // Where nobody listens there is nothing to say.
    let _ = writeln!(io::stdout(), "{text}");
}
