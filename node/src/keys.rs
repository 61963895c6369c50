//! A relay's keys, one file each, readable by their owner only.
//!
//! ```text
//! identity.key     the relay itself; certifies the signing key
//! signing.key      signs descriptors
//! certificate      145 bytes: the signing key under the identity key, until it expires
//! link.key         proved on links
//! replay.key       under which the replay filter's fingerprints are made
//! family           96 bytes: the family's key, and its word that this relay is of it
//! mix/N.key        the mix key of key epoch N
//! mix/length       the key epochs' length in milliseconds, as the last consensus said
//! ```
//! `identity.key` may be taken away once the certificate is made; it is needed again when that expires.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use posta_link::LinkKey;
use posta_link::keys::{KeyFileError, atomic_write, load_or_create_seed, load_seed};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::document::{Certificate, Family, Purpose};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{KeyEpoch, LinkPublicKey, RelayId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::onion::KeyRing;
use posta_protocol::params::{KEY_EPOCHS_AHEAD, RELAY_CLOCK_SKEW};
use posta_protocol::secret::Secret;
use thiserror::Error;

use crate::relay::replay::ReplaySecret;
use crate::relay::worker::Ring;
use crate::relay::{grace, skew};

const IDENTITY: &str = "identity.key";
const SIGNING: &str = "signing.key";
const CERTIFICATE: &str = "certificate";
const LINK: &str = "link.key";
const REPLAY: &str = "replay.key";
const FAMILY: &str = "family";
const MIX: &str = "mix";
const LENGTH: &str = "length";

/// How long a signing key is certified for.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// With less than this left, the certificate is made anew, if the identity key is there.
pub const CERTIFICATE_RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);
/// A public file, written by its owner only.
const PUBLIC_MODE: u32 = 0o644;
/// A secret one.
const SECRET_MODE: u32 = 0o600;

/// Why the keys can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A family's word about another relay, or no such thing.
    #[error("{0} does not take this relay into a family: run `posta-node keys family`, or remove it")]
    Family(PathBuf),
    /// A key file can't be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// There are no keys.
    #[error("there are no keys in {0}: run `posta-node init`")]
    None(PathBuf),
    /// The certificate is missing or of no use, and there is no identity key to make another.
    #[error("the certificate in {0} is missing, damaged or expired: put identity.key back to make a new one")]
    Certificate(PathBuf),
    /// The system refuses.
    #[error("{path} can't be written: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that was to be made is there.
    #[error("{0} is there already: choose another file")]
    Exists(PathBuf),
    /// An identity key of another relay.
    #[error("the identity key in {0} is another relay's: take the one that this relay was made with")]
    OtherRelay(PathBuf),
    /// A key is of no use; no seed causes this.
    #[error("a key in {0} is not usable: restore it from a backup")]
    Unusable(PathBuf),
}

/// The keys of one relay.
#[derive(Debug)]
pub struct Keys {
    dir: PathBuf,
    signing: SignKey,
    certificate: Certificate,
    link: LinkKey,
    replay: ReplaySecret,
    mix: BTreeMap<KeyEpoch, MixKey>,
    length: Option<u64>,
}

#[derive(Debug)]
struct MixKey {
    seed: Secret<32>,
    public: KemPublicKey,
}

/// Whether the identity key lies in this state folder.
#[must_use]
pub fn identity_here(dir: &Path) -> bool {
    dir.join(IDENTITY).exists()
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { path, source }
}

impl Keys {
    /// Makes what is missing: a new relay in an empty folder, nothing in a complete one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn create(dir: &Path, now: Wall) -> Result<Self, KeyError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        load_or_create_seed(&dir.join(IDENTITY))?;
        for name in [SIGNING, LINK, REPLAY] {
            load_or_create_seed(&dir.join(name))?;
        }
        Self::open(dir, now)
    }

    /// Reads the keys, and makes the certificate anew if it ends soon.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(dir: &Path, now: Wall) -> Result<Self, KeyError> {
        let seed = |name: &str| match load_seed(&dir.join(name)) {
            Err(KeyFileError::Missing(_)) if name == SIGNING => Err(KeyError::None(dir.to_owned())),
            other => Ok(other?),
        };
        let signing = SignKey::from_seed(&seed(SIGNING)?);
        let certificate = certificate(dir, &signing, now)?;
        let link = LinkKey::from_seed(&seed(LINK)?).map_err(|_| KeyError::Unusable(dir.join(LINK)))?;
        let replay = ReplaySecret::new(seed(REPLAY)?);
        let mut keys =
            Self { dir: dir.to_owned(), signing, certificate, link, replay, mix: BTreeMap::new(), length: None };
        keys.load_mix_keys()?;
        Ok(keys)
    }

    /// The relay.
    #[must_use]
    pub const fn relay(&self) -> RelayId {
        RelayId(self.certificate.identity)
    }

    /// Until when descriptors can be signed.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The key that signs descriptors.
    #[must_use]
    pub const fn signing(&self) -> &SignKey {
        &self.signing
    }

    /// The key proved on links.
    #[must_use]
    pub const fn link(&self) -> &LinkKey {
        &self.link
    }

    /// Its public half.
    #[must_use]
    pub fn link_public(&self) -> LinkPublicKey {
        self.link.public()
    }

    /// The secret of the replay filter.
    #[must_use]
    pub fn replay(&self) -> ReplaySecret {
        self.replay.duplicate()
    }

    /// The public mix keys, sorted by key epoch: what the descriptor carries.
    #[must_use]
    pub fn mix_public(&self, now: Wall, key_epoch_ms: u64) -> Vec<(KeyEpoch, KemPublicKey)> {
        let current = now.0 / key_epoch_ms.max(1);
        let ahead = current..=current + KEY_EPOCHS_AHEAD;
        self.mix.iter().filter(|(e, _)| ahead.contains(&e.0)).map(|(e, key)| (*e, key.public.clone())).collect()
    }

    /// Whether there is a mix key for this key epoch.
    #[must_use]
    pub fn holds(&self, epoch: KeyEpoch) -> bool {
        self.mix.contains_key(&epoch)
    }

    /// The length of key epochs in milliseconds, if a consensus has ever said it.
    #[must_use]
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// Remembers the length of key epochs, so that after a restart the right keys are known at once.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn learn_length(&mut self, key_epoch_ms: u64) -> Result<(), KeyError> {
        if self.length == Some(key_epoch_ms) {
            return Ok(());
        }
        let path = self.dir.join(MIX).join(LENGTH);
        atomic_write(&path, key_epoch_ms.to_string().as_bytes(), PUBLIC_MODE).map_err(io_error(&path))?;
        self.length = Some(key_epoch_ms);
        Ok(())
    }

    /// Makes the mix keys of the current key epoch and those ahead. Returns whether one was made.
    ///
    /// # Errors
    /// [`KeyError`] if a file can't be written.
    pub fn make_ahead(&mut self, now: Wall, key_epoch_ms: u64) -> Result<bool, KeyError> {
        let current = now.0 / key_epoch_ms.max(1);
        let mut made = false;
        for epoch in (current..=current + KEY_EPOCHS_AHEAD).map(KeyEpoch) {
            if !self.mix.contains_key(&epoch) {
                let path = self.mix_path(epoch);
                let key = mix_key(load_or_create_seed(&path)?, &path)?;
                self.mix.insert(epoch, key);
                made = true;
            }
        }
        Ok(made)
    }

    /// Destroys the mix keys of the past, and those of key epochs of another length.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn destroy_past(&mut self, now: Wall, key_epoch_ms: u64) -> Result<(), KeyError> {
        let ms = key_epoch_ms.max(1);
        let oldest = (now - grace(ms)).0 / ms;
        // With a clock that is ahead, the key of one epoch more may have been made already.
        let newest = (now + skew(ms)).0 / ms + KEY_EPOCHS_AHEAD;
        let over: Vec<_> = self.mix.keys().copied().filter(|e| e.0 < oldest || e.0 > newest).collect();
        for epoch in over {
            self.destroy(epoch)?;
        }
        Ok(())
    }

    /// Overwrites and removes a mix key: its packets can't be read any more, by anyone.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn destroy(&mut self, epoch: KeyEpoch) -> Result<(), KeyError> {
        self.mix.remove(&epoch);
        let path = self.mix_path(epoch);
        if path.exists() {
            erase(&path).map_err(io_error(&path))?;
        }
        Ok(())
    }

    /// The keys that open packets now: the current key epoch's first, then that of an epoch that has just ended or is
    /// about to begin.
    ///
    /// # Errors
    /// [`KeyError::Unusable`].
    pub fn ring(&self, now: Wall, key_epoch_ms: u64, geometry: Geometry) -> Result<Ring, KeyError> {
        let ms = key_epoch_ms.max(1);
        let current = now.0 / ms;
        let mut epochs = vec![KeyEpoch(current)];
        for epoch in [(now - grace(ms)).0 / ms, (now + skew(ms)).0 / ms].map(KeyEpoch) {
            if !epochs.contains(&epoch) {
                epochs.push(epoch);
            }
        }
        let mut keys = Vec::with_capacity(epochs.len());
        epochs.retain(|epoch| self.mix.contains_key(epoch));
        for epoch in &epochs {
            let Some(key) = self.mix.get(epoch) else { continue };
            let unusable = |_| KeyError::Unusable(self.mix_path(*epoch));
            keys.push((*epoch, KemSecretKey::from_seed(&key.seed).map_err(unusable)?));
        }
        Ok(Ring { keys: Arc::new(KeyRing::new(self.relay(), geometry, keys)), epochs })
    }

    /// When the ring changes next.
    #[must_use]
    pub fn next_change(now: Wall, key_epoch_ms: u64) -> Wall {
        let ms = key_epoch_ms.max(1);
        let begin = now.0 / ms * ms;
        let (grace, skew) = (grace(ms).as_millis() as u64, skew(ms).as_millis() as u64);
        let turns = [begin + grace, begin + ms - skew, begin + ms];
        Wall(turns.into_iter().find(|at| *at > now.0).unwrap_or(begin + ms))
    }

    fn mix_path(&self, epoch: KeyEpoch) -> PathBuf {
        self.dir.join(MIX).join(format!("{}.key", epoch.0))
    }

    fn load_mix_keys(&mut self) -> Result<(), KeyError> {
        let folder = self.dir.join(MIX);
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        self.length = fs::read_to_string(folder.join(LENGTH)).ok().and_then(|text| text.trim().parse().ok());
        for entry in fs::read_dir(&folder).map_err(io_error(&folder))? {
            let path = entry.map_err(io_error(&folder))?.path();
            let number = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".key"));
            let Some(epoch) = number.and_then(|n| n.parse().ok()).map(KeyEpoch) else { continue };
            self.mix.insert(epoch, mix_key(load_seed(&path)?, &path)?);
        }
        Ok(())
    }
}

fn mix_key(seed: Secret<32>, path: &Path) -> Result<MixKey, KeyError> {
    let secret = KemSecretKey::from_seed(&seed).map_err(|_| KeyError::Unusable(path.to_owned()))?;
    Ok(MixKey { public: secret.public().clone(), seed })
}

/// The certificate on disk if it serves, else a new one.
fn certificate(dir: &Path, signing: &SignKey, now: Wall) -> Result<Certificate, KeyError> {
    let path = dir.join(CERTIFICATE);
    let key = SigningPublicKey(signing.public());
    let held = fs::read(&path).ok().and_then(|bytes| Certificate::decode(&bytes).ok());
    let held = held.filter(|c| c.key == key && c.verify(Purpose::Relay, now, "the relay").is_ok());
    if let Some(held) = held.filter(|c| c.expires > now + CERTIFICATE_RENEWAL) {
        return Ok(held);
    }
    match (load_seed(&dir.join(IDENTITY)), held) {
        (Ok(seed), _) => {
            let identity = SignKey::from_seed(&seed);
            issue(dir, &identity, signing, now)
        }
        // It serves for a while; the one who runs the relay is told in the log.
        (Err(KeyFileError::Missing(_)), Some(held)) => Ok(held),
        (Err(KeyFileError::Missing(_)), None) => Err(KeyError::Certificate(dir.to_owned())),
        (Err(e), _) => Err(e.into()),
    }
}

/// Certifies the signing key in `dir` anew, by the identity key there or in the file `identity`.
///
/// # Errors
/// [`KeyError`]; [`KeyError::OtherRelay`] if the relay's id would be another one.
pub fn renew(dir: &Path, identity: Option<&Path>, now: Wall) -> Result<Certificate, KeyError> {
    let path = identity.map_or_else(|| dir.join(IDENTITY), Path::to_owned);
    let identity = SignKey::from_seed(&load_seed(&path)?);
    let signing = SignKey::from_seed(&load_seed(&dir.join(SIGNING))?);
    let held = fs::read(dir.join(CERTIFICATE)).ok().and_then(|bytes| Certificate::decode(&bytes).ok());
    if held.is_some_and(|held| held.identity != identity.public()) {
        return Err(KeyError::OtherRelay(path));
    }
    issue(dir, &identity, &signing, now)
}

/// Moves the identity key from `dir` into a new file, for its owner alone.
///
/// # Errors
/// [`KeyError`]; then it is still where it was.
pub fn take_identity(dir: &Path, to: &Path) -> Result<(), KeyError> {
    let from = dir.join(IDENTITY);
    let seed = load_seed(&from)?;
    if to.exists() {
        return Err(KeyError::Exists(to.to_owned()));
    }
    atomic_write(to, seed.expose(), SECRET_MODE).map_err(io_error(to))?;
    // The copy is read before the original goes.
    load_seed(to)?;
    erase(&from).map_err(io_error(&from))
}

/// Takes the relay whose keys lie in `dir` into the family of this key, which is made if it isn't there. Returns the family's
/// public key. The family's key is needed for nothing else.
///
/// # Errors
/// [`KeyError`].
pub fn join_family(dir: &Path, relay: &RelayId, key: &Path) -> Result<[u8; 32], KeyError> {
    let family = Family::admit(&SignKey::from_seed(&load_or_create_seed(key)?), relay);
    let path = dir.join(FAMILY);
    atomic_write(&path, &family.encode(), PUBLIC_MODE).map_err(io_error(&path))?;
    Ok(family.key)
}

/// The family that has taken this relay in; `None` if none has.
///
/// # Errors
/// [`KeyError::File`] if it can't be read, [`KeyError::Family`] if it is not about this relay.
pub fn family(dir: &Path, relay: &RelayId) -> Result<Option<Family>, KeyError> {
    let path = dir.join(FAMILY);
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(io_error(&path))?,
    };
    let family = Family::decode(&bytes).ok().filter(|family| family.verify(relay).is_ok());
    family.map(Some).ok_or(KeyError::Family(path))
}

fn issue(dir: &Path, identity: &SignKey, signing: &SignKey, now: Wall) -> Result<Certificate, KeyError> {
    let (from, until) = (now - RELAY_CLOCK_SKEW, now + CERTIFICATE_LIFETIME);
    let key = SigningPublicKey(signing.public());
    let new = Certificate::issue(identity, Purpose::Relay, key, from, until);
    let path = dir.join(CERTIFICATE);
    atomic_write(&path, &new.encode(), PUBLIC_MODE).map_err(io_error(&path))?;
    Ok(new)
}

/// Overwrites a key file and removes it. On a copying file system the old blocks may survive; nothing more can be done.
fn erase(path: &Path) -> io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(&[0; 32])?;
    file.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_800_000_000_000);
    const MS: u64 = 60_000;

    fn epochs(keys: &Keys) -> Vec<u64> {
        keys.mix.keys().map(|e| e.0).collect()
    }

    #[test]
    fn keys_are_made_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Keys::open(dir.path(), NOW), Err(KeyError::None(_))));
        let made = Keys::create(dir.path(), NOW).unwrap();
        let back = Keys::open(dir.path(), NOW).unwrap();
        assert_eq!((made.relay(), made.link_public()), (back.relay(), back.link_public()));
        assert_eq!(made.certificate(), back.certificate());
        let late = NOW + CERTIFICATE_LIFETIME;
        assert_ne!(Keys::open(dir.path(), late).unwrap().certificate(), made.certificate());
        fs::remove_file(dir.path().join(IDENTITY)).unwrap();
        assert_eq!(Keys::open(dir.path(), late).unwrap().relay(), made.relay(), "the certificate is enough");
        let e = Keys::open(dir.path(), late + CERTIFICATE_LIFETIME).unwrap_err();
        assert!(e.to_string().contains("identity.key"), "{e}");
    }

    #[test]
    fn a_relay_goes_on_with_its_identity_key_offline() {
        let dir = tempfile::tempdir().unwrap();
        let made = Keys::create(dir.path(), NOW).unwrap();
        let away = dir.path().join("usb");
        take_identity(dir.path(), &away).unwrap();
        assert!(!identity_here(dir.path()));
        assert!(matches!(take_identity(dir.path(), &away), Err(KeyError::File(KeyFileError::Missing(_)))));
        let late = NOW + CERTIFICATE_LIFETIME / 2;
        assert!(matches!(renew(dir.path(), None, late), Err(KeyError::File(KeyFileError::Missing(_)))));
        let renewed = renew(dir.path(), Some(&away), late).unwrap();
        assert_eq!(renewed.expires, late + CERTIFICATE_LIFETIME);
        let back = Keys::open(dir.path(), late).unwrap();
        assert_eq!((back.relay(), *back.certificate()), (made.relay(), renewed));

        let other = tempfile::tempdir().unwrap();
        Keys::create(other.path(), NOW).unwrap();
        let foreign = other.path().join(IDENTITY);
        assert!(matches!(renew(dir.path(), Some(&foreign), late), Err(KeyError::OtherRelay(_))));
        assert!(matches!(take_identity(other.path(), &away), Err(KeyError::Exists(_))));
        assert!(identity_here(other.path()), "still where it was");
    }

    #[test]
    fn a_family_takes_a_relay_in_and_its_word_is_about_no_other() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let relay = Keys::create(dir.path(), NOW).unwrap().relay();
        assert_eq!(family(dir.path(), &relay).unwrap(), None);
        let key = other.path().join("family.key");
        let public = join_family(dir.path(), &relay, &key).unwrap();
        assert_eq!(join_family(other.path(), &RelayId([1; 32]), &key).unwrap(), public, "the same for all of them");
        assert_eq!(family(dir.path(), &relay).unwrap().unwrap().key, public);
        fs::copy(other.path().join(FAMILY), dir.path().join(FAMILY)).unwrap();
        assert!(matches!(family(dir.path(), &relay), Err(KeyError::Family(_))));
    }

    #[test]
    fn mix_keys_live_as_long_as_their_packets() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = Keys::create(dir.path(), NOW).unwrap();
        let n = NOW.0 / MS;
        let begin = Wall(n * MS);
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let rotate = |keys: &mut Keys, ms, length| {
            keys.destroy_past(at(ms), length).unwrap();
            keys.make_ahead(at(ms), length).unwrap()
        };
        assert!(rotate(&mut keys, 10_000, MS));
        assert!(!rotate(&mut keys, 10_000, MS));
        assert_eq!(epochs(&keys), [n, n + 1, n + 2]);
        let ring = |keys: &Keys, ms| keys.ring(at(ms), MS, Geometry::DEFAULT).unwrap().epochs;
        assert_eq!(ring(&keys, 10_000), [KeyEpoch(n)]);
        assert_eq!(ring(&keys, 54_001), [KeyEpoch(n), KeyEpoch(n + 1)], "the next one, a little before it begins");
        assert_eq!(Keys::next_change(at(10_000), MS), at(54_000));
        assert!(rotate(&mut keys, 60_001, MS));
        assert_eq!(ring(&keys, 60_001), [KeyEpoch(n + 1), KeyEpoch(n)], "the last one, a little after it ended");
        assert_eq!(Keys::next_change(at(60_001), MS), at(66_000));
        let path = keys.mix_path(KeyEpoch(n));
        assert!(path.exists());
        rotate(&mut keys, 66_001, MS);
        assert!(!path.exists());
        assert_eq!(epochs(&keys), [n + 1, n + 2, n + 3]);
        let public = keys.mix_public(at(66_001), MS);
        let back = Keys::open(dir.path(), NOW).unwrap();
        assert_eq!(back.mix_public(at(66_001), MS), public, "the same keys after a restart");
        assert_eq!(back.length(), None);
        keys.learn_length(MS).unwrap();
        assert_eq!(Keys::open(dir.path(), NOW).unwrap().length(), Some(MS));
        rotate(&mut keys, 66_001, MS * 60);
        assert_eq!(epochs(&keys), (0..3).map(|i| at(66_001).0 / (MS * 60) + i).collect::<Vec<_>>());
    }
}
