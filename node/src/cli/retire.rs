//! `retire`: the relay goes for good, in order.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use clap::value_parser;

use super::Common;
use crate::config::{Config, Role};
use crate::driver::{control, wall};
use crate::failure::Failure;
use crate::retirement::{DEFAULT_DAYS, MOST_DAYS, Retirement};

/// How long a relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Retire {
    #[command(flatten)]
    common: Common,
    /// Days after which it goes in any case. 0: at once, as a stop does, but for good.
    #[arg(long, default_value_t = DEFAULT_DAYS, value_parser = value_parser!(u16).range(..=i64::from(MOST_DAYS)))]
    days: u16,
    /// Stay after all.
    #[arg(long, conflicts_with = "days")]
    cancel: bool,
}

pub(super) fn retire(args: &Retire) -> Result<(), Failure> {
    let config = Config::load(&args.common.config)?;
    if !config.offers(Role::Edge) {
        return Err(Failure::usage("only an edge holds something for others: stop this relay, and that is all"));
    }
    let request = if args.cancel { control::STAY.to_owned() } else { format!("{} {}", control::RETIRE, args.days) };
    let unreachable = |e| Failure::disk(format_args!("the relay can't be asked: {e}; stop it, or ask as its user"));
    let words = match control::ask(&config.state_dir, &request, Some(PATIENCE)).map_err(unreachable)? {
        Some(answer) => answer.map_err(Failure::disk)?,
        None => {
            let decided = (!args.cancel).then(|| Retirement::new(wall(), args.days));
            let written = decided.map_or_else(|| Retirement::cancel(&config.state_dir), |d| d.save(&config.state_dir));
            written.map_err(|e| Failure::disk(format_args!("it can't be written down: {e}")))?;
            format!("{}; start it, so that its queues' owners can be told", control::told(decided))
        }
    };
    // Where nobody listens there is nothing to say.
    let _ = writeln!(io::stdout(), "{words}");
    Ok(())
}

/// What was decided for this relay.
///
/// # Errors
/// If it has retired already, or the file can't be read.
pub(super) fn decided(config: &Config) -> Result<Option<Retirement>, Failure> {
    let retirement = Retirement::load(&config.state_dir);
    let retirement = retirement.map_err(|e| {
        Failure::usage(format_args!(
            "whether this relay retires can't be read from {}: {e}",
            config.state_dir.display()
        ))
    })?;
    match retirement {
        Some(gone) if gone.past(wall()) => Err(Failure::usage(
            "this relay has retired: to take it back, `posta-node retire --cancel`; else delete its state folder",
        )),
        other => Ok(other),
    }
}
