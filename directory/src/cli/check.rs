//! `check`: whether an authority can run with what is there. Nothing is changed.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use posta_link::exit;

use super::{Failure, print};
use crate::config::Config;
use crate::driver::Clock;
use crate::keys;
use crate::page::span;

pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let now = Clock::start().now().wall;
    let config = Config::load(path)?;
    let setup = config.setup(now)?;
    let busy = |what: &str, e: std::io::Error| Failure {
        code: exit::NETWORK,
        text: format!("can't listen on {what}: {e}; is the authority running?"),
    };
    UdpSocket::bind(config.listen).map_err(|e| busy(&config.listen.to_string(), e))?;
    if let Some(http) = setup.http {
        TcpListener::bind(http).map_err(|e| busy(&http.to_string(), e))?;
    }
    // Whether the folder can be written to is known only by doing it.
    let probe = config.state_dir.join(format!(".check.{}", std::process::id()));
    let written = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe));
    written.map_err(|e| Failure {
        code: exit::DISK,
        text: format!("{} can't be written to: {e}", config.state_dir.display()),
    })?;
    let authorities = &setup.settings.authorities;
    let (n, threshold) = (authorities.len(), authorities.threshold());
    let faults = match n - threshold {
        0 => "each one must run, or there is no consensus".to_owned(),
        spare => format!("{spare} may be away or lie"),
    };
    let certificate = &setup.settings.certificate;
    print(&format!(
        "authority {}: configuration, keys, ports and state folder are in order\n\
         authorities  {n}, {threshold} must sign; {faults}\n\
         epochs       {}, mix keys and layers change every {}\n\
         admission    {}\n\
         signing key  {} more\n",
        posta_link::fetch::to_hex(&certificate.identity).get(..16).unwrap_or_default(),
        span(config.epoch_ms / 1000),
        span(config.key_epoch_ms / 1000),
        setup.policy.describe(),
        span(certificate.expires.since(now).as_secs()),
    ))?;
    if keys::identity_here(&config.state_dir) && !config.reserved_networks {
        print(
            "warning      the identity key lies in the state folder: posta-directory keys take-identity --to FILE\n",
        )?;
    }
    match keys::ending(certificate.expires, now) {
        Some(ending) if ending.grave => Err(Failure { code: exit::FAILURE, text: ending.says }),
        Some(ending) => print(&format!("warning      {}\n", ending.says)),
        None => Ok(()),
    }
}
