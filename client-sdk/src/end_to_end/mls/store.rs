//! Where openmls keeps the state of one conversation: a map in memory, which leaves as one blob.
//!
//! A change of state is several writes of openmls. Here they all go into the map, and whoever keeps the conversation
//! takes the whole of it, in one piece, when the change is complete. So no crash can tear it, and a change that fails
//! half way is undone by putting the map before back.

use std::cell::RefCell;
use std::collections::BTreeMap;

use openmls_traits::storage::{CURRENT_VERSION, Entity, StorageProvider, traits};
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::error::Malformed;
use serde::Serialize;
use thiserror::Error;
use zeroize::Zeroizing;

/// Entries of one conversation, at most: openmls keeps about fifteen, and one for each epoch's keys.
const MAX_ENTRIES: usize = 256;
/// Bytes of one entry, at most. The largest are message secrets, which a contact can make larger by skipping messages.
const MAX_ENTRY_LEN: usize = 4 * 1024 * 1024;
/// Room for an encoded entry, so that it doesn't grow and leave copies behind.
const ROOM: usize = 8 * 1024;
const V: u16 = CURRENT_VERSION;

/// An entry can't be encoded or decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an entry of the MLS state can't be encoded or decoded")]
pub(super) struct StoreError;

impl From<postcard::Error> for StoreError {
    fn from(_: postcard::Error) -> Self {
        Self
    }
}

/// What an entry is. The numbers are in saved states: none is used again for another kind.
#[derive(Clone, Copy)]
enum Kind {
    JoinConfig = 1,
    OwnLeafNodes = 2,
    ProposalRefs = 3,
    Proposal = 4,
    Tree = 5,
    InterimTranscriptHash = 6,
    Context = 7,
    ConfirmationTag = 8,
    GroupState = 9,
    MessageSecrets = 10,
    ResumptionPsks = 11,
    OwnLeafIndex = 12,
    EpochSecrets = 13,
    SignatureKeyPair = 14,
    EncryptionKeyPair = 15,
    EpochKeyPairs = 16,
    KeyPackage = 17,
    Psk = 18,
}

/// Entries by kind and key.
pub(super) type Entries = BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>;

/// The state of one conversation.
#[derive(Default)]
pub(super) struct Store(RefCell<Entries>);

impl Store {
    /// What is there now, to be put back should a change fail.
    pub(super) fn entries(&self) -> Entries {
        self.0.borrow().clone()
    }

    /// Puts entries in the place of all others.
    pub(super) fn replace(&self, entries: Entries) {
        *self.0.borrow_mut() = entries;
    }

    pub(super) fn write(&self, w: &mut Writer) {
        let entries = self.0.borrow();
        w.count(entries.len());
        for (key, value) in entries.iter() {
            w.bounded(key);
            w.bounded(value);
        }
    }

    /// Bytes that [`Self::write`] writes.
    pub(super) fn len(&self) -> usize {
        4 + self.0.borrow().iter().map(|(key, value)| 8 + key.len() + value.len()).sum::<usize>()
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`Malformed`]; also if the entries are not in order, for a state has one encoding.
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut entries = Entries::new();
        for _ in 0..r.count(MAX_ENTRIES, "MLS state")? {
            let key = r.bounded(MAX_ENTRY_LEN, "MLS state")?.to_vec();
            let value = Zeroizing::new(r.bounded(MAX_ENTRY_LEN, "MLS state")?.to_vec());
            if entries.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(Malformed::Value("MLS state"));
            }
            entries.insert(key, value);
        }
        Ok(Self(RefCell::new(entries)))
    }

    fn put(&self, kind: Kind, key: &impl Serialize, value: &impl Serialize) -> Result<(), StoreError> {
        let value = encode(value)?;
        self.0.borrow_mut().insert(place(kind, key)?, value);
        Ok(())
    }

    fn get<T: Entity<V>>(&self, kind: Kind, key: &impl Serialize) -> Result<Option<T>, StoreError> {
        let entries = self.0.borrow();
        entries.get(&place(kind, key)?).map(|value| decode(value)).transpose()
    }

    fn remove(&self, kind: Kind, key: &impl Serialize) -> Result<(), StoreError> {
        self.0.borrow_mut().remove(&place(kind, key)?);
        Ok(())
    }

    /// A list is its encoded items, each behind its length.
    fn list(&self, kind: Kind, key: &impl Serialize) -> Result<Vec<Zeroizing<Vec<u8>>>, StoreError> {
        let entries = self.0.borrow();
        let Some(value) = entries.get(&place(kind, key)?) else { return Ok(Vec::new()) };
        let (mut r, mut list) = (Reader::new(value), Vec::new());
        while r.left() > 0 {
            list.push(Zeroizing::new(r.bounded(MAX_ENTRY_LEN, "list").map_err(|_| StoreError)?.to_vec()));
        }
        Ok(list)
    }

    fn put_list(&self, kind: Kind, key: &impl Serialize, list: &[Zeroizing<Vec<u8>>]) -> Result<(), StoreError> {
        let mut w = Writer::with_capacity(list.iter().map(|item| 4 + item.len()).sum());
        list.iter().for_each(|item| w.bounded(item));
        self.0.borrow_mut().insert(place(kind, key)?, Zeroizing::new(w.finish()));
        Ok(())
    }

    fn append(&self, kind: Kind, key: &impl Serialize, item: &impl Serialize) -> Result<(), StoreError> {
        let mut list = self.list(kind, key)?;
        list.push(encode(item)?);
        self.put_list(kind, key, &list)
    }
}

fn place(kind: Kind, key: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    Ok(postcard::to_extend(key, vec![kind as u8])?)
}

fn encode(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    Ok(Zeroizing::new(postcard::to_extend(value, Vec::with_capacity(ROOM))?))
}

/// The whole of `bytes` as one value.
fn decode<T: Entity<V>>(bytes: &[u8]) -> Result<T, StoreError> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        _ => Err(StoreError),
    }
}

/// Methods of the trait that put, get or remove one entry of a group.
macro_rules! of_a_group {
    ($($kind:ident: $entity:ident, $write:ident, $read:ident;)*) => { $(
        fn $write<G: traits::GroupId<V>, E: traits::$entity<V>>(&self, group: &G, value: &E) -> Result<(), StoreError> {
            self.put(Kind::$kind, group, value)
        }

        fn $read<G: traits::GroupId<V>, E: traits::$entity<V>>(&self, group: &G) -> Result<Option<E>, StoreError> {
            self.get(Kind::$kind, group)
        }
    )* };
    ($(- $kind:ident: $delete:ident;)*) => { $(
        fn $delete<G: traits::GroupId<V>>(&self, group: &G) -> Result<(), StoreError> {
            self.remove(Kind::$kind, group)
        }
    )* };
}

/// Methods of the trait that put and remove one entry by a key of its own.
macro_rules! by_key {
    ($($kind:ident: $key:ident, $entity:ident, $write:ident, $delete:ident;)*) => { $(
        fn $write<K: traits::$key<V>, E: traits::$entity<V>>(&self, key: &K, value: &E) -> Result<(), StoreError> {
            self.put(Kind::$kind, key, value)
        }

        fn $delete<K: traits::$key<V>>(&self, key: &K) -> Result<(), StoreError> {
            self.remove(Kind::$kind, key)
        }
    )* };
}

impl StorageProvider<V> for Store {
    type Error = StoreError;

    of_a_group! {
        Tree: TreeSync, write_tree, tree;
        Context: GroupContext, write_context, group_context;
        InterimTranscriptHash: InterimTranscriptHash, write_interim_transcript_hash, interim_transcript_hash;
        ConfirmationTag: ConfirmationTag, write_confirmation_tag, confirmation_tag;
        MessageSecrets: MessageSecrets, write_message_secrets, message_secrets;
        ResumptionPsks: ResumptionPskStore, write_resumption_psk_store, resumption_psk_store;
        OwnLeafIndex: LeafNodeIndex, write_own_leaf_index, own_leaf_index;
        EpochSecrets: GroupEpochSecrets, write_group_epoch_secrets, group_epoch_secrets;
    }

    of_a_group! {
        - JoinConfig: delete_group_config;
        - OwnLeafNodes: delete_own_leaf_nodes;
        - Tree: delete_tree;
        - Context: delete_context;
        - InterimTranscriptHash: delete_interim_transcript_hash;
        - ConfirmationTag: delete_confirmation_tag;
        - GroupState: delete_group_state;
        - MessageSecrets: delete_message_secrets;
        - ResumptionPsks: delete_all_resumption_psk_secrets;
        - OwnLeafIndex: delete_own_leaf_index;
        - EpochSecrets: delete_group_epoch_secrets;
    }

    by_key! {
        SignatureKeyPair: SignaturePublicKey, SignatureKeyPair, write_signature_key_pair, delete_signature_key_pair;
        EncryptionKeyPair: EncryptionKey, HpkeKeyPair, write_encryption_key_pair, delete_encryption_key_pair;
        KeyPackage: HashReference, KeyPackage, write_key_package, delete_key_package;
        Psk: PskId, PskBundle, write_psk, delete_psk;
    }

    // As JSON: openmls reads this one by trying what it may be, which takes an encoding that describes itself.

    fn write_mls_join_config<G: traits::GroupId<V>, E: traits::MlsGroupJoinConfig<V>>(
        &self,
        group: &G,
        config: &E,
    ) -> Result<(), StoreError> {
        let value = Zeroizing::new(serde_json::to_vec(config).map_err(|_| StoreError)?);
        self.0.borrow_mut().insert(place(Kind::JoinConfig, group)?, value);
        Ok(())
    }

    fn mls_group_join_config<G: traits::GroupId<V>, E: traits::MlsGroupJoinConfig<V>>(
        &self,
        group: &G,
    ) -> Result<Option<E>, StoreError> {
        let entries = self.0.borrow();
        let value = entries.get(&place(Kind::JoinConfig, group)?);
        value.map(|value| serde_json::from_slice(value).map_err(|_| StoreError)).transpose()
    }

    // The trait names the entity first in some and the key first in others.

    fn write_group_state<E: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
        value: &E,
    ) -> Result<(), StoreError> {
        self.put(Kind::GroupState, group, value)
    }

    fn group_state<E: traits::GroupState<V>, G: traits::GroupId<V>>(&self, group: &G) -> Result<Option<E>, StoreError> {
        self.get(Kind::GroupState, group)
    }

    fn signature_key_pair<K: traits::SignaturePublicKey<V>, E: traits::SignatureKeyPair<V>>(
        &self,
        key: &K,
    ) -> Result<Option<E>, StoreError> {
        self.get(Kind::SignatureKeyPair, key)
    }

    fn encryption_key_pair<E: traits::HpkeKeyPair<V>, K: traits::EncryptionKey<V>>(
        &self,
        key: &K,
    ) -> Result<Option<E>, StoreError> {
        self.get(Kind::EncryptionKeyPair, key)
    }

    fn key_package<K: traits::HashReference<V>, E: traits::KeyPackage<V>>(
        &self,
        key: &K,
    ) -> Result<Option<E>, StoreError> {
        self.get(Kind::KeyPackage, key)
    }

    fn psk<E: traits::PskBundle<V>, K: traits::PskId<V>>(&self, key: &K) -> Result<Option<E>, StoreError> {
        self.get(Kind::Psk, key)
    }

    fn write_encryption_epoch_key_pairs<G: traits::GroupId<V>, K: traits::EpochKey<V>, E: traits::HpkeKeyPair<V>>(
        &self,
        group: &G,
        epoch: &K,
        leaf: u32,
        pairs: &[E],
    ) -> Result<(), StoreError> {
        let list = pairs.iter().map(|pair| encode(pair)).collect::<Result<Vec<_>, _>>()?;
        self.put_list(Kind::EpochKeyPairs, &(group, epoch, leaf), &list)
    }

    fn encryption_epoch_key_pairs<G: traits::GroupId<V>, K: traits::EpochKey<V>, E: traits::HpkeKeyPair<V>>(
        &self,
        group: &G,
        epoch: &K,
        leaf: u32,
    ) -> Result<Vec<E>, StoreError> {
        self.list(Kind::EpochKeyPairs, &(group, epoch, leaf))?.iter().map(|pair| decode(pair)).collect()
    }

    fn delete_encryption_epoch_key_pairs<G: traits::GroupId<V>, K: traits::EpochKey<V>>(
        &self,
        group: &G,
        epoch: &K,
        leaf: u32,
    ) -> Result<(), StoreError> {
        self.remove(Kind::EpochKeyPairs, &(group, epoch, leaf))
    }

    fn append_own_leaf_node<G: traits::GroupId<V>, E: traits::LeafNode<V>>(
        &self,
        group: &G,
        leaf: &E,
    ) -> Result<(), StoreError> {
        self.append(Kind::OwnLeafNodes, group, leaf)
    }

    fn own_leaf_nodes<G: traits::GroupId<V>, E: traits::LeafNode<V>>(&self, group: &G) -> Result<Vec<E>, StoreError> {
        self.list(Kind::OwnLeafNodes, group)?.iter().map(|leaf| decode(leaf)).collect()
    }

    fn queue_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>, E: traits::QueuedProposal<V>>(
        &self,
        group: &G,
        reference: &R,
        proposal: &E,
    ) -> Result<(), StoreError> {
        self.put(Kind::Proposal, &(group, reference), proposal)?;
        self.append(Kind::ProposalRefs, group, reference)
    }

    fn queued_proposal_refs<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<R>, StoreError> {
        self.list(Kind::ProposalRefs, group)?.iter().map(|reference| decode(reference)).collect()
    }

    fn queued_proposals<G: traits::GroupId<V>, R: traits::ProposalRef<V>, E: traits::QueuedProposal<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<(R, E)>, StoreError> {
        let refs: Vec<R> = self.queued_proposal_refs(group)?;
        let with = |r: R| Ok((self.get(Kind::Proposal, &(group, &r))?.ok_or(StoreError)?, r));
        refs.into_iter().map(|r| with(r).map(|(proposal, r)| (r, proposal))).collect()
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
        reference: &R,
    ) -> Result<(), StoreError> {
        let (gone, mut list) = (encode(reference)?, self.list(Kind::ProposalRefs, group)?);
        list.retain(|r| *r != gone);
        self.put_list(Kind::ProposalRefs, group, &list)?;
        self.remove(Kind::Proposal, &(group, reference))
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Result<(), StoreError> {
        for reference in self.queued_proposal_refs::<G, R>(group)? {
            self.remove(Kind::Proposal, &(group, &reference))?;
        }
        self.remove(Kind::ProposalRefs, group)
    }
}
