//! MLS by openmls: a group of two under the X-Wing suite.

mod store;

use std::fmt;

use openmls::framing::errors::{MessageDecryptionError, SecretTreeError};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, ContentType, CredentialType, CredentialWithKey, GroupId, KeyPackage,
    KeyPackageIn, LeafNodeParameters, Lifetime, MlsGroup, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn,
    MlsMessageOut, OpenMlsProvider, OpenMlsRand, PrivateMessageIn, ProcessMessageError, ProcessedMessageContent,
    ProtocolMessage, ProtocolVersion, SenderRatchetConfiguration, SignatureScheme, StagedCommit, StagedWelcome,
    ValidationError,
};
use openmls_libcrux_crypto::CryptoProvider;
use openmls_traits::signatures::{Signer, SignerError};
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::error::Malformed;
use posta_protocol::params::{OVERTAKEN, PASSED_OVER, PAST_EPOCHS};
use posta_protocol::secret::Secret;
use tls_codec::{Deserialize as _, Serialize as _};
use zeroize::Zeroizing;

use self::store::Store;
use super::{EndToEnd, Failed, Founded, Unopened, VerificationCode};

/// X-Wing (X25519 and ML-KEM-768), ChaCha20-Poly1305, SHA-256, Ed25519.
const SUITE: Ciphersuite = Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519;
const GROUP_ID_LEN: usize = 16;
/// The label under which MLS exports what boxes are sealed with.
const EXPORT_LABEL: &str = "posta v1 boxes";
/// How far back a key package begins to be valid, of the twelve weeks that openmls permits: clocks of contacts differ.
const VALID_BEFORE: u64 = 20 * 24 * 3600;
/// Version of what is saved.
const VERSION: u8 = 1;

/// One end of a conversation under MLS.
pub struct Mls {
    provider: Provider,
    seed: Secret<32>,
    key: SignKey,
    group: Option<MlsGroup>,
    founded: Option<Founded>,
}

struct Provider {
    crypto: CryptoProvider,
    store: Store,
}

impl OpenMlsProvider for Provider {
    type CryptoProvider = CryptoProvider;
    type RandProvider = CryptoProvider;
    type StorageProvider = Store;

    fn storage(&self) -> &Store {
        &self.store
    }

    fn crypto(&self) -> &CryptoProvider {
        &self.crypto
    }

    fn rand(&self) -> &CryptoProvider {
        &self.crypto
    }
}

struct MlsSigner<'a>(&'a SignKey);

impl Signer for MlsSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_framed(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

fn failed<E>(_: E) -> Failed {
    Failed
}

fn refused<E>(_: E) -> Unopened {
    Unopened::Refused
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .max_past_epochs(PAST_EPOCHS)
        .sender_ratchet_configuration(SenderRatchetConfiguration::new(OVERTAKEN, PASSED_OVER))
        .use_ratchet_tree_extension(true)
        .build()
}

/// What we say that we can do: this suite and nothing else.
fn capabilities() -> Capabilities {
    let (versions, suites) = ([ProtocolVersion::Mls10], [SUITE]);
    Capabilities::new(Some(&versions), Some(&suites), Some(&[]), Some(&[]), Some(&[CredentialType::Basic]))
}

fn lifetime() -> Lifetime {
    let default = Lifetime::default();
    let earlier = |at: u64| at.saturating_sub(VALID_BEFORE);
    Lifetime::init(earlier(default.not_before()), earlier(default.not_after()))
}

/// Parses the whole of `bytes` as one MLS message.
fn parse(bytes: &[u8]) -> Option<MlsMessageBodyIn> {
    let mut rest = bytes;
    let message = MlsMessageIn::tls_deserialize(&mut rest).ok()?;
    rest.is_empty().then(|| message.extract())
}

fn private(bytes: &[u8], content: ContentType) -> Option<PrivateMessageIn> {
    match parse(bytes)? {
        MlsMessageBodyIn::PrivateMessage(message) => {
            let is = ProtocolMessage::PrivateMessage(message.clone()).content_type();
            (is == content).then_some(message)
        }
        _ => None,
    }
}

fn bytes_of(message: &MlsMessageOut) -> Result<Vec<u8>, Failed> {
    message.to_bytes().map_err(failed)
}

impl Mls {
    /// A new end with keys of its own. Nothing of it is used for another contact.
    ///
    /// # Errors
    /// [`Failed`] if the operating system gives out no randomness.
    pub fn new() -> Result<Self, Failed> {
        let crypto = CryptoProvider::new().map_err(failed)?;
        let seed = Secret::new(crypto.random_array().map_err(failed)?);
        let provider = Provider { crypto, store: Store::default() };
        Ok(Self { provider, key: SignKey::from_seed(&seed), seed, group: None, founded: None })
    }

    /// Loads what [`EndToEnd::save`] has saved.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn load(saved: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(saved);
        if r.u8("MLS state")? != VERSION {
            return Err(Malformed::Value("MLS state"));
        }
        let seed = Secret::read(&mut r, "MLS state")?;
        let founded = if r.bool("MLS state")? {
            let id: [u8; GROUP_ID_LEN] = r.array("MLS state")?;
            let exported = Secret::read(&mut r, "MLS state")?;
            Some((id, Founded { exported, code: VerificationCode(r.array("MLS state")?) }))
        } else {
            None
        };
        let store = Store::read(&mut r)?;
        r.finish("MLS state")?;
        let broken = Malformed::Value("MLS state");
        let crypto = CryptoProvider::new().map_err(|_| broken)?;
        let provider = Provider { crypto, store };
        let (group, founded) = match founded {
            Some((id, founded)) => {
                let group = MlsGroup::load(provider.storage(), &GroupId::from_slice(&id)).ok().flatten();
                (Some(group.ok_or(broken)?), Some(founded))
            }
            None => (None, None),
        };
        Ok(Self { provider, key: SignKey::from_seed(&seed), seed, group, founded })
    }

    fn credential(&self) -> CredentialWithKey {
        // The key is all that there is: a name would be the same for several contacts, or lie.
        let signature_key = self.key.public().as_slice().into();
        CredentialWithKey { credential: BasicCredential::new(Vec::new()).into(), signature_key }
    }

    /// Does something that writes several times; all of it is undone if it fails.
    fn all_or_nothing<T, E>(&mut self, change: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let before = self.provider.store.entries();
        let id = self.group.as_ref().map(|g| g.group_id().clone());
        let done = change(self);
        if done.is_err() {
            self.provider.store.replace(before);
            self.group = id.and_then(|id| MlsGroup::load(self.provider.storage(), &id).ok().flatten());
        }
        done
    }

    /// What both ends have in the epoch in which the second one has joined.
    fn founded_now(&self) -> Option<Founded> {
        let group = self.group.as_ref()?;
        let mut members = group.members().map(|m| <[u8; 32]>::try_from(m.signature_key));
        let (Some(Ok(a)), Some(Ok(b)), None) = (members.next(), members.next(), members.next()) else { return None };
        let exported = Zeroizing::new(group.export_secret(self.provider.crypto(), EXPORT_LABEL, &[], 32).ok()?);
        let exported = Secret::new(exported.as_slice().try_into().ok()?);
        Some(Founded::new(exported, [a, b], group.epoch_authenticator().as_slice().try_into().ok()?))
    }

    fn try_found(&mut self, key_package: &[u8]) -> Result<Vec<u8>, Unopened> {
        let mut rest = key_package;
        let theirs = KeyPackageIn::tls_deserialize(&mut rest).map_err(refused)?;
        let theirs = theirs.validate(self.provider.crypto(), ProtocolVersion::Mls10).map_err(refused)?;
        if !rest.is_empty() || theirs.ciphersuite() != SUITE {
            return Err(Unopened::Refused);
        }
        let id: [u8; GROUP_ID_LEN] = self.provider.crypto().random_array().map_err(refused)?;
        let mut group = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(&id))
            .ciphersuite(SUITE)
            .with_capabilities(capabilities())
            .lifetime(lifetime())
            .max_past_epochs(PAST_EPOCHS)
            .sender_ratchet_configuration(SenderRatchetConfiguration::new(OVERTAKEN, PASSED_OVER))
            .use_ratchet_tree_extension(true)
            .build(&self.provider, &MlsSigner(&self.key), self.credential())
            .map_err(refused)?;
        let (_, welcome, _) = group.add_members(&self.provider, &MlsSigner(&self.key), &[theirs]).map_err(refused)?;
        // There is nobody who could refuse the commit, or miss it.
        group.merge_pending_commit(&self.provider).map_err(refused)?;
        self.group = Some(group);
        self.founded = Some(self.founded_now().ok_or(Unopened::Refused)?);
        bytes_of(&welcome).map_err(refused)
    }

    fn try_join(&mut self, welcome: &[u8]) -> Result<(), Unopened> {
        let Some(MlsMessageBodyIn::Welcome(welcome)) = parse(welcome) else { return Err(Unopened::Refused) };
        let staged = StagedWelcome::new_from_welcome(&self.provider, &join_config(), welcome, None).map_err(refused)?;
        let group = staged.into_group(&self.provider).map_err(refused)?;
        if group.ciphersuite() != SUITE || group.group_id().as_slice().len() != GROUP_ID_LEN {
            return Err(Unopened::Refused);
        }
        self.group = Some(group);
        self.founded = Some(self.founded_now().ok_or(Unopened::Refused)?);
        Ok(())
    }

    fn try_commit(&mut self) -> Result<Vec<u8>, Failed> {
        let group = self.group.as_mut().ok_or(Failed)?;
        let signer = MlsSigner(&self.key);
        let bundle = group.self_update(&self.provider, &signer, LeafNodeParameters::default()).map_err(failed)?;
        let commit = bytes_of(bundle.commit())?;
        group.merge_pending_commit(&self.provider).map_err(failed)?;
        Ok(commit)
    }

    fn try_follow(&mut self, message: PrivateMessageIn) -> Result<(), Unopened> {
        let group = self.group.as_mut().ok_or(Unopened::Refused)?;
        let processed = group.process_message(&self.provider, message).map_err(|e| why(&e))?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(Unopened::Refused);
        };
        if !renews_only(group, &staged) {
            return Err(Unopened::Refused);
        }
        group.merge_staged_commit(&self.provider, *staged).map_err(refused)
    }
}

/// Whether a commit does what ours do: new keys for its maker, who stays the same. Another one could add a third member,
/// or change what the verification code stands for.
fn renews_only(group: &MlsGroup, commit: &StagedCommit) -> bool {
    let own = group.own_leaf_index();
    let theirs = group.members().find(|m| m.index != own);
    let same = |key: &[u8]| theirs.as_ref().is_some_and(|m| m.signature_key == key);
    commit.queued_proposals().next().is_none()
        && commit.update_path_leaf_node().is_some_and(|leaf| same(leaf.signature_key().as_slice()))
}

/// What a failure of openmls means.
fn why<E>(e: &ProcessMessageError<E>) -> Unopened {
    match e {
        ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(
            MessageDecryptionError::SecretTreeError(
                SecretTreeError::SecretReuseError | SecretTreeError::TooDistantInThePast,
            ),
        )) => Unopened::Again,
        _ => Unopened::Refused,
    }
}

impl EndToEnd for Mls {
    fn key_package(&mut self) -> Result<Vec<u8>, Failed> {
        let (signer, credential) = (MlsSigner(&self.key), self.credential());
        let made = KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .key_package_lifetime(lifetime())
            .build(SUITE, &self.provider, &signer, credential)
            .map_err(failed)?;
        made.key_package().tls_serialize_detached().map_err(failed)
    }

    fn found(&mut self, key_package: &[u8]) -> Result<Vec<u8>, Unopened> {
        if self.group.is_some() {
            return Err(Unopened::Again);
        }
        self.all_or_nothing(|mls| mls.try_found(key_package))
    }

    fn join(&mut self, welcome: &[u8]) -> Result<(), Unopened> {
        if self.group.is_some() {
            return Err(Unopened::Again);
        }
        // openmls erases the key package before it knows whether the welcome is good.
        self.all_or_nothing(|mls| mls.try_join(welcome))
    }

    fn seal(&mut self, content: &[u8]) -> Result<Vec<u8>, Failed> {
        let group = self.group.as_mut().ok_or(Failed)?;
        bytes_of(&group.create_message(&self.provider, &MlsSigner(&self.key), content).map_err(failed)?)
    }

    fn open(&mut self, sealed: &[u8]) -> Result<(u64, Zeroizing<Vec<u8>>), Unopened> {
        let group = self.group.as_mut().ok_or(Unopened::Early)?;
        let message = private(sealed, ContentType::Application).ok_or(Unopened::Refused)?;
        let epoch = in_reach(group, &ProtocolMessage::PrivateMessage(message.clone()))?;
        let processed = group.process_message(&self.provider, message).map_err(|e| why(&e))?;
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(content) => Ok((epoch, Zeroizing::new(content.into_bytes()))),
            _ => Err(Unopened::Refused),
        }
    }

    fn commit(&mut self) -> Result<Vec<u8>, Failed> {
        self.all_or_nothing(Self::try_commit)
    }

    fn follow(&mut self, commit: &[u8]) -> Result<(), Unopened> {
        let group = self.group.as_ref().ok_or(Unopened::Early)?;
        let message = private(commit, ContentType::Commit).ok_or(Unopened::Refused)?;
        let epoch = in_reach(group, &ProtocolMessage::PrivateMessage(message.clone()))?;
        if epoch < group.epoch().as_u64() {
            return Err(Unopened::Again);
        }
        self.all_or_nothing(|mls| mls.try_follow(message))
    }

    fn epoch_of(&self, sealed: &[u8]) -> Option<u64> {
        match parse(sealed)? {
            MlsMessageBodyIn::PrivateMessage(m) => Some(ProtocolMessage::PrivateMessage(m).epoch().as_u64()),
            _ => None,
        }
    }

    fn epoch(&self) -> u64 {
        self.group.as_ref().map_or(0, |g| g.epoch().as_u64())
    }

    fn founded(&self) -> Option<&Founded> {
        self.founded.as_ref()
    }

    fn save(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::with_capacity(128 + self.provider.store.len());
        w.u8(VERSION);
        w.bytes(self.seed.expose());
        w.bool(self.founded.is_some());
        if let (Some(group), Some(founded)) = (&self.group, &self.founded) {
            w.bytes(group.group_id().as_slice());
            w.bytes(founded.exported.expose());
            w.bytes(&founded.code.0);
        }
        self.provider.store.write(&mut w);
        Zeroizing::new(w.finish())
    }
}

/// The epoch of a message of this group, if its keys may be here.
fn in_reach(group: &MlsGroup, message: &ProtocolMessage) -> Result<u64, Unopened> {
    if message.group_id() != group.group_id() {
        return Err(Unopened::Refused);
    }
    let (epoch, current) = (message.epoch().as_u64(), group.epoch().as_u64());
    // The other end goes one epoch ahead and no further: the next turn is ours.
    match epoch.checked_sub(current) {
        Some(0) => Ok(epoch),
        Some(1) => Err(Unopened::Early),
        Some(_) => Err(Unopened::Refused),
        None if epoch + PAST_EPOCHS as u64 >= current => Ok(epoch),
        None => Err(Unopened::Again),
    }
}

impl fmt::Debug for Mls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mls(epoch {})", self.epoch())
    }
}

#[cfg(test)]
mod tests;
