//! An authority's keys: the identity, offline but for renewals, and the signing key that it certifies for a while.
//!
//! A new signing key needs nobody's consent: every signature comes with its certificate, and clients know the identity. An
//! old one that was stolen stays good until its certificate ends. So certificates are short.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use posta_link::keys::{atomic_write, load_or_create_seed, load_seed};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::document::{Certificate, Purpose};
use posta_protocol::ids::SigningPublicKey;
use posta_protocol::now::Wall;

use crate::config::SetupError;

/// The offline identity key's file.
pub const IDENTITY_FILE: &str = "identity.key";
/// The signing key's file.
pub const SIGNING_FILE: &str = "signing.key";
/// The file with the signing key's certificate.
pub const CERTIFICATE_FILE: &str = "signing.certificate";
/// Certificates are valid from a day before they are issued: other clocks may be behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
const PUBLIC_MODE: u32 = 0o644;
const SECRET_MODE: u32 = 0o600;
const DAY: u64 = 24 * 3600;
/// Days before its end at which a signing key is warned of; the last one is grave.
const WARNINGS: [u64; 3] = [14, 7, 1];

/// A signing key with its certificate.
#[derive(Debug)]
pub struct Signing {
    /// Signs votes, echoes and consensuses.
    pub key: SignKey,
    /// The identity's word for it.
    pub certificate: Certificate,
}

/// Reads the signing key and checks its certificate as of now.
///
/// # Errors
/// [`SetupError`], saying what to do.
pub fn signing(state: &Path, now: Wall) -> Result<Signing, SetupError> {
    let signing = read(state)?;
    signing.certificate.verify(Purpose::Authority, now, "this authority").map_err(SetupError::Certificate)?;
    Ok(signing)
}

/// Reads the signing key and its certificate, whether or not that is valid now.
///
/// # Errors
/// [`SetupError`], saying what to do.
pub fn read(state: &Path) -> Result<Signing, SetupError> {
    let key = SignKey::from_seed(&load_seed(&state.join(SIGNING_FILE))?);
    let path = state.join(CERTIFICATE_FILE);
    let bytes = fs::read(&path).map_err(SetupError::io(&path))?;
    let certificate = Certificate::decode(&bytes).map_err(|e| SetupError::Certificate(e.into()))?;
    if certificate.key.0 != key.public() {
        return Err(SetupError::OtherKey);
    }
    Ok(Signing { key, certificate })
}

/// Certifies the signing key for so many days from now on; with `replace`, a new one. The identity key is looked for in the
/// state folder, or in a file elsewhere.
///
/// # Errors
/// [`SetupError`]; [`SetupError::OtherIdentity`] if the identity key is another authority's.
pub fn renew(
    state: &Path,
    identity: Option<&Path>,
    days: u64,
    replace: bool,
    now: Wall,
) -> Result<Certificate, SetupError> {
    let path = identity.map_or_else(|| state.join(IDENTITY_FILE), Path::to_owned);
    let identity = SignKey::from_seed(&load_seed(&path)?);
    let held = state.join(CERTIFICATE_FILE);
    if let Ok(held) = fs::read(&held).map_err(SetupError::io(&held))
        && let Ok(held) = Certificate::decode(&held)
        && held.identity != identity.public()
    {
        return Err(SetupError::OtherIdentity(path));
    }
    let file = state.join(SIGNING_FILE);
    if replace && file.exists() {
        erase(&file).map_err(SetupError::io(&file))?;
    }
    let key = SignKey::from_seed(&load_or_create_seed(&file)?);
    issue(state, &identity, &key, days, now)
}

pub(crate) fn issue(
    state: &Path,
    identity: &SignKey,
    key: &SignKey,
    days: u64,
    now: Wall,
) -> Result<Certificate, SetupError> {
    let until = now + Duration::from_secs(days.saturating_mul(DAY));
    let public = SigningPublicKey(key.public());
    let certificate = Certificate::issue(identity, Purpose::Authority, public, now - BACKDATED, until);
    let path = state.join(CERTIFICATE_FILE);
    atomic_write(&path, &certificate.encode(), PUBLIC_MODE).map_err(SetupError::io(&path))?;
    Ok(certificate)
}

/// Moves the identity key out of the state folder, to a file that isn't there yet.
///
/// # Errors
/// [`SetupError`]; the key is then still where it was.
pub fn take_identity(state: &Path, to: &Path) -> Result<(), SetupError> {
    let from = state.join(IDENTITY_FILE);
    let seed = load_seed(&from)?;
    if to.exists() {
        return Err(SetupError::Taken(to.to_owned()));
    }
    atomic_write(to, seed.expose(), SECRET_MODE).map_err(SetupError::io(to))?;
    // The copy is read before the original goes.
    load_seed(to)?;
    erase(&from).map_err(SetupError::io(&from))
}

/// Whether the identity key lies in the state folder.
#[must_use]
pub fn identity_here(state: &Path) -> bool {
    state.join(IDENTITY_FILE).exists()
}

/// Overwrites a key file and removes it. On a copying file system the old blocks may survive; nothing more can be done.
fn erase(path: &PathBuf) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(&[0; 32])?;
    file.sync_all()?;
    fs::remove_file(path)
}

/// What to say of a signing key that ends soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Whether it is high time: a day or less.
    pub grave: bool,
    /// One sentence, with what to do.
    pub says: String,
}

/// What to say of a certificate that ends then; `None` for as long as there is time.
#[must_use]
pub fn ending(expires: Wall, now: Wall) -> Option<Ending> {
    const HOW: &str = "renew it where the identity key is: posta-directory keys renew";
    if expires <= now {
        return Some(Ending { grave: true, says: format!("the signing key has ended: {HOW}") });
    }
    let left = expires.since(now);
    let days = WARNINGS.into_iter().rev().find(|days| left <= Duration::from_secs(days * DAY))?;
    let says = match days {
        1 => format!("the signing key ends within a day: {HOW}"),
        days => format!("the signing key ends within {days} days: {HOW}"),
    };
    Some(Ending { grave: days == 1, says })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, init};

    const NOW: Wall = Wall(1_700_000_000_000);

    fn made(folder: &Path) -> Signing {
        init(folder, &Config::default(), vec!["127.0.0.1:4430".parse().unwrap()], 90, NOW, false).unwrap();
        signing(folder, NOW).unwrap()
    }

    #[test]
    fn a_signing_key_is_renewed_and_replaced_with_the_identity_kept_elsewhere() {
        let (folder, stick) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = made(folder.path());
        let away = stick.path().join("identity");
        take_identity(folder.path(), &away).unwrap();
        assert!(!identity_here(folder.path()));
        assert!(renew(folder.path(), None, 90, false, NOW).is_err(), "the identity is not here");
        let later = NOW + Duration::from_secs(80 * DAY);
        let renewed = renew(folder.path(), Some(&away), 90, false, later).unwrap();
        assert_eq!((renewed.key, renewed.expires), (first.certificate.key, later + Duration::from_secs(90 * DAY)));
        let replaced = renew(folder.path(), Some(&away), 30, true, later).unwrap();
        assert_ne!(replaced.key, first.certificate.key);
        assert_eq!(replaced.identity, first.certificate.identity);
        assert_eq!(signing(folder.path(), later).unwrap().certificate, replaced);
    }

    #[test]
    fn another_authoritys_identity_renews_nothing() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = made(folder.path());
        made(other.path());
        let foreign = other.path().join(IDENTITY_FILE);
        assert!(matches!(renew(folder.path(), Some(&foreign), 90, true, NOW), Err(SetupError::OtherIdentity(_))));
        assert_eq!(signing(folder.path(), NOW).unwrap().certificate, first.certificate);
        assert!(matches!(take_identity(folder.path(), &foreign), Err(SetupError::Taken(_))));
        assert!(identity_here(folder.path()), "still where it was");
    }

    #[test]
    fn an_end_is_announced_two_weeks_ahead_and_is_grave_on_the_last_day() {
        let at = |days: u64| ending(NOW + Duration::from_secs(days * DAY), NOW);
        assert_eq!(at(15), None);
        let said = at(14).unwrap();
        assert!(!said.grave && said.says.contains("within 14 days"), "{said:?}");
        assert!(at(6).unwrap().says.contains("within 7 days"));
        assert!(at(1).unwrap().grave && at(0).unwrap().says.contains("has ended"));
    }
}
