//! What an authority keeps on disk. Above all what it has voted for and signed, written before anything leaves: after a
//! crash it must not say something else.
//!
//! ```text
//! lock          held while the program runs
//! voted         epoch (8) | attempt (4) | key epoch (8) | what was committed to (32)
//! signed        epoch (8) | valid after (8) | hash (32)
//! newest        consensus | mix keys, one part for each key epoch
//! descriptors   what relays have posted
//! withdrawn     relays that have withdrawn since then, and when: relay (32) | time (8), each
//! history/      the last consensuses, as they were signed: EPOCH.consensus
//! evidence/     pairs of signed documents that exclude each other: EPOCH-HASH.evidence
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use posta_link::keys::atomic_write;
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::document::{Authorities, Evidence, Header};
use posta_protocol::error::{Malformed, Untrusted};
use posta_protocol::ids::{Epoch, Hash, KeyEpoch, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::{MAX_CONSENSUS_LEN, MAX_DESCRIPTOR_LEN, MAX_KEY_EPOCHS, MAX_MIX_KEYS_LEN, MAX_RELAYS};
use posta_protocol::secret::Secret;
use thiserror::Error;
use tracing::warn;

use crate::authority::{Contribution, Memory, Published, Record};

/// Pairs of documents kept as evidence; later ones are only counted in the log.
pub const MAX_EVIDENCE: usize = 64;
/// Consensuses kept besides the newest: three days of hours, 84 MB with 10,000 relays. The oldest goes.
pub const MAX_HISTORY: usize = 72;
const FILE_MODE: u32 = 0o600;

/// Why the state can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The system refuses.
    #[error("{path} can't be read or written: {source}; check the disk's free space and the folder's permissions", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("another posta-directory uses {0}: stop it first")]
    InUse(PathBuf),
    /// What was signed can't be read, so that signing might contradict it.
    #[error(
        "{0} is damaged: restore it from a backup; without it this authority might sign a second document for an epoch"
    )]
    Damaged(PathBuf),
}

/// A folder with an authority's state, locked.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
    _lock: File,
}

impl Archive {
    /// Opens the folder, making it if need be.
    ///
    /// # Errors
    /// [`ArchiveError::Io`] or [`ArchiveError::InUse`].
    pub fn open(folder: &Path) -> Result<Self, ArchiveError> {
        for inner in ["evidence", HISTORY] {
            let path = folder.join(inner);
            fs::create_dir_all(&path).map_err(|source| ArchiveError::Io { path, source })?;
        }
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(|source| ArchiveError::Io { path: path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(ArchiveError::InUse(folder.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(ArchiveError::Io { path, source }),
        }
    }

    /// What was there. Documents that can't be read any more are left out; what was signed must be readable.
    ///
    /// # Errors
    /// [`ArchiveError::Io`] or [`ArchiveError::Damaged`].
    pub fn load(&self, authorities: &Authorities) -> Result<Memory, ArchiveError> {
        let voted = self.load_strict("voted", |r| {
            let voted = (Epoch(r.u64("voted")?), r.u32("voted")?);
            let key_epoch = KeyEpoch(r.u64("voted")?);
            Ok((voted, Contribution { key_epoch, reveal: Secret::new(r.array("voted")?) }))
        })?;
        let (voted, contribution) = voted.unzip();
        let signed = self.load_strict("signed", |r| {
            Ok(Header { epoch: Epoch(r.u64("signed")?), valid_after: Wall(r.u64("signed")?), hash: Hash::read(r)? })
        })?;
        let newest = self.read("newest")?.and_then(|bytes| match parse_newest(&bytes, authorities) {
            Ok(published) => Some(Arc::new(published)),
            Err(e) => {
                warn!("the consensus on disk is not usable and will be fetched anew: {e}");
                None
            }
        });
        let descriptors =
            self.read("descriptors")?.and_then(|bytes| parse_descriptors(&bytes).ok()).unwrap_or_default();
        let withdrawals = self.read(WITHDRAWN)?.map(|bytes| parse_withdrawals(&bytes)).unwrap_or_default();
        Ok(Memory { voted, contribution: contribution.map(Arc::new), signed, newest, descriptors, withdrawals })
    }

    fn load_strict<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
    ) -> Result<Option<T>, ArchiveError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let mut r = Reader::new(&bytes);
        let parsed = parse(&mut r).and_then(|t| r.finish("state").map(|()| t));
        parsed.map(Some).map_err(|_| ArchiveError::Damaged(self.folder.join(name)))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ArchiveError::Io { path, source }),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        let path = self.folder.join(name);
        atomic_write(&path, bytes, FILE_MODE).map_err(|source| ArchiveError::Io { path, source })
    }

    /// Writes a record; when this returns it is on disk, synced.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn record(&self, record: &Record) -> Result<(), ArchiveError> {
        let mut w = Writer::with_capacity(Header::LEN);
        match record {
            Record::Voted { epoch, attempt, contribution } => {
                w.u64(epoch.0);
                w.u32(*attempt);
                w.u64(contribution.key_epoch.0);
                w.bytes(contribution.reveal.expose());
                self.write("voted", &w.finish())
            }
            Record::Signed(header) => {
                w.u64(header.epoch.0);
                w.u64(header.valid_after.0);
                header.hash.write(&mut w);
                self.write("signed", &w.finish())
            }
        }
    }

    /// Keeps the newest consensus, and the descriptors that the next one will be made of.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn publish(
        &self,
        published: &Published,
        descriptors: &[Arc<[u8]>],
        withdrawals: &[(RelayId, Wall)],
    ) -> Result<(), ArchiveError> {
        let mut w = Writer::with_capacity(published.bytes.len() + 64);
        w.bounded(&published.bytes);
        w.count(published.parts.len());
        for (_, part) in &published.parts {
            w.bounded(part);
        }
        self.write("newest", &w.finish())?;
        self.write(&format!("{HISTORY}/{}{SUFFIX}", published.consensus.epoch().0), &published.bytes)?;
        self.history().prune();
        let mut w = Writer::with_capacity(descriptors.len() * 4096);
        w.count(descriptors.len());
        for descriptor in descriptors {
            w.bounded(descriptor);
        }
        self.write("descriptors", &w.finish())?;
        self.write(WITHDRAWN, &withdrawals.iter().flat_map(|one| encode_withdrawal(*one)).collect::<Vec<_>>())
    }

    /// Adds a withdrawal; when this returns it is on disk, synced.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn withdrawn(&self, relay: RelayId, at: Wall) -> Result<(), ArchiveError> {
        let path = self.folder.join(WITHDRAWN);
        let append = || {
            let mut file = fs::OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(&path)?;
            // What a crash has left of one is overwritten by nothing, and read as nothing.
            let torn = file.metadata()?.len() % WITHDRAWAL_LEN as u64;
            if torn != 0 {
                file.set_len(file.metadata()?.len() - torn)?;
            }
            file.write_all(&encode_withdrawal((relay, at)))?;
            file.sync_all()
        };
        append().map_err(|source| ArchiveError::Io { path: path.clone(), source })
    }

    /// The consensuses that are kept, for whoever reads them beside the authority.
    #[must_use]
    pub fn history(&self) -> History {
        History(self.folder.join(HISTORY))
    }

    /// Keeps evidence, unless there is plenty, and returns its file: for `posta-directory verify-evidence`.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn evidence(&self, evidence: &Evidence) -> Result<Option<PathBuf>, ArchiveError> {
        let folder = self.folder.join("evidence");
        let held = fs::read_dir(&folder).map_err(|source| ArchiveError::Io { path: folder, source })?.count();
        let short: String = evidence.hash().0.iter().take(8).map(|b| format!("{b:02x}")).collect();
        let name = format!("evidence/{}-{short}.evidence", evidence.epoch().0);
        let path = self.folder.join(&name);
        if !path.exists() {
            if held >= MAX_EVIDENCE {
                return Ok(None);
            }
            self.write(&name, evidence.encode())?;
        }
        Ok(Some(path))
    }
}

const WITHDRAWN: &str = "withdrawn";
const WITHDRAWAL_LEN: usize = RelayId::LEN + 8;
const HISTORY: &str = "history";
const SUFFIX: &str = ".consensus";

/// The folder of consensuses that are kept.
#[derive(Clone, Debug)]
pub struct History(PathBuf);

impl History {
    /// The epochs of which one is kept, sorted; none if the folder can't be read.
    #[must_use]
    pub fn epochs(&self) -> Vec<Epoch> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut epochs: Vec<_> = names.filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok().map(Epoch)).collect();
        epochs.sort_unstable();
        epochs
    }

    /// The bytes of an epoch's consensus, if it is kept.
    #[must_use]
    pub fn read(&self, epoch: Epoch) -> Option<Vec<u8>> {
        fs::read(self.path(epoch)).ok()
    }

    fn path(&self, epoch: Epoch) -> PathBuf {
        self.0.join(format!("{}{SUFFIX}", epoch.0))
    }

    fn prune(&self) {
        let epochs = self.epochs();
        for epoch in epochs.iter().take(epochs.len().saturating_sub(MAX_HISTORY)) {
            if let Err(e) = fs::remove_file(self.path(*epoch)) {
                warn!("an old consensus can't be removed: {e}");
            }
        }
    }
}

fn parse_newest(bytes: &[u8], authorities: &Authorities) -> Result<Published, Untrusted> {
    let mut r = Reader::new(bytes);
    let consensus = r.bounded(MAX_CONSENSUS_LEN, "consensus")?;
    let n = r.count(MAX_KEY_EPOCHS, "mix keys")?;
    let parts = (0..n).map(|_| r.bounded(MAX_MIX_KEYS_LEN, "mix keys").map(Arc::from)).collect::<Result<_, _>>()?;
    r.finish("state")?;
    Published::new(consensus, parts, authorities)
}

fn encode_withdrawal((relay, at): (RelayId, Wall)) -> Vec<u8> {
    [relay.0.as_slice(), &at.0.to_le_bytes()].concat()
}

/// The last one may be torn: it is left out, as its relay was never told that it was taken.
fn parse_withdrawals(bytes: &[u8]) -> Vec<(RelayId, Wall)> {
    let one = |record: &[u8]| {
        let mut r = Reader::new(record);
        Some((RelayId::read(&mut r).ok()?, Wall(r.u64("withdrawal").ok()?)))
    };
    bytes.chunks_exact(WITHDRAWAL_LEN).filter_map(one).collect()
}

fn parse_descriptors(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut r = Reader::new(bytes);
    let n = r.count(MAX_RELAYS, "descriptors")?;
    let list = (0..n).map(|_| r.bounded(MAX_DESCRIPTOR_LEN, "descriptor").map(<[u8]>::to_vec)).collect();
    r.finish("state")?;
    list
}

#[cfg(test)]
mod tests {
    use posta_protocol::crypto::signature::SignKey;
    use posta_protocol::document::{
        Authority, Certificate, ConsensusSignature, EvidenceKind, Purpose, Signature, UnverifiedEvidence,
    };
    use posta_protocol::ids::{AuthorityId, LinkPublicKey, SigningPublicKey};

    use super::*;

    fn authorities() -> Authorities {
        Authorities::new(vec![Authority {
            id: AuthorityId([1; 32]),
            link_key: LinkPublicKey([2; 32]),
            addresses: vec![],
        }])
        .unwrap()
    }

    #[test]
    fn records_are_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        let header = Header { epoch: Epoch(7), valid_after: Wall(70), hash: Hash([3; 32]) };
        let contribution = Arc::new(Contribution { key_epoch: KeyEpoch(9), reveal: Secret::new([5; 32]) });
        let voted = Record::Voted { epoch: Epoch(7), attempt: 2, contribution: Arc::clone(&contribution) };
        archive.record(&voted).unwrap();
        archive.record(&Record::Signed(header)).unwrap();
        assert!(matches!(Archive::open(folder.path()), Err(ArchiveError::InUse(_))), "one process at a time");
        drop(archive);
        let memory = Archive::open(folder.path()).unwrap().load(&authorities()).unwrap();
        assert_eq!((memory.voted, memory.signed), (Some((Epoch(7), 2)), Some(header)));
        assert_eq!(memory.contribution, Some(contribution), "it reveals what it has committed to");
        assert!(memory.newest.is_none() && memory.descriptors.is_empty());
    }

    #[test]
    fn a_withdrawal_is_there_after_a_restart_and_a_torn_one_harms_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        let (one, two) = ((RelayId([1; 32]), Wall(5)), (RelayId([2; 32]), Wall(6)));
        archive.withdrawn(one.0, one.1).unwrap();
        let path = folder.path().join(WITHDRAWN);
        let mut torn = fs::read(&path).unwrap();
        torn.extend([7; 11]);
        fs::write(&path, torn).unwrap();
        assert_eq!(archive.load(&authorities()).unwrap().withdrawals, [one]);
        archive.withdrawn(two.0, two.1).unwrap();
        assert_eq!(archive.load(&authorities()).unwrap().withdrawals, [one, two]);
    }

    #[test]
    fn the_history_has_its_bound_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        let history = archive.history();
        assert!(history.epochs().is_empty());
        for epoch in 1..=MAX_HISTORY as u64 + 3 {
            fs::write(history.path(Epoch(epoch)), epoch.to_le_bytes()).unwrap();
        }
        fs::write(folder.path().join("history/notes.txt"), b"of the operator").unwrap();
        history.prune();
        let epochs = history.epochs();
        assert_eq!((epochs.len(), epochs[0]), (MAX_HISTORY, Epoch(4)));
        assert_eq!((history.read(Epoch(3)), history.read(Epoch(4))), (None, Some(4_u64.to_le_bytes().to_vec())));
        assert!(folder.path().join("history/notes.txt").exists());
    }

    #[test]
    fn a_damaged_record_stops_the_authority_and_a_damaged_document_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        fs::write(folder.path().join("newest"), b"rubbish").unwrap();
        fs::write(folder.path().join("descriptors"), b"rubbish").unwrap();
        assert!(archive.load(&authorities()).unwrap().newest.is_none());
        fs::write(folder.path().join("signed"), b"short").unwrap();
        let e = archive.load(&authorities()).unwrap_err();
        assert!(matches!(&e, ArchiveError::Damaged(path) if path.ends_with("signed")), "{e}");
    }

    #[test]
    fn evidence_is_kept_once_within_a_bound_and_can_be_verified_by_others() {
        let key = |n| SignKey::from_seed(&Secret::new([n; 32]));
        let (identity, signing) = (key(1), key(2));
        let id = AuthorityId(identity.public());
        let listed = Authority { id, link_key: LinkPublicKey([1; 32]), addresses: vec![] };
        let known = Authorities::new(vec![listed]).unwrap();
        let public = SigningPublicKey(signing.public());
        let certificate = Certificate::issue(&identity, Purpose::Authority, public, Wall(0), Wall(u64::MAX));
        let message = |epoch: u64, hash: u8| {
            let header = Header { epoch: Epoch(epoch), valid_after: Wall(9), hash: Hash([hash; 32]) };
            let signature = ConsensusSignature::sign(&header, certificate, &signing);
            Signature { header, signature }.encode()
        };
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        for n in 0..MAX_EVIDENCE as u64 + 5 {
            let evidence = Evidence::new(EvidenceKind::Signatures, &message(n, 1), &message(n, 2), &known).unwrap();
            let path = archive.evidence(&evidence).unwrap();
            assert_eq!(archive.evidence(&evidence).unwrap(), path, "the same again");
            assert_eq!(path.is_some(), n < MAX_EVIDENCE as u64);
            let Some(path) = path else { continue };
            let read = fs::read(path).unwrap();
            assert_eq!(UnverifiedEvidence::decode(&read).unwrap().verify(&known).unwrap(), evidence);
        }
        assert_eq!(fs::read_dir(folder.path().join("evidence")).unwrap().count(), MAX_EVIDENCE);
    }
}
