//! What an application asks of the task that runs its session.

use std::time::Duration;

use posta_protocol::invitation::Link;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::client::{CallError, Invited};
use crate::end_to_end::VerificationCode;
use crate::session::event::{ContactId, ContactInfo, EventCursor, Health, JoinError, MessageId, Profile, SendError};
use crate::session::{ProfileCost, Said};
use crate::store::StoreError;

/// What the application asks for.
pub(crate) enum Call {
    Invite(oneshot::Sender<Result<Invited, CallError>>),
    Join(Link, oneshot::Sender<Result<ContactId, JoinError>>),
    Send(ContactId, Vec<u8>, oneshot::Sender<Result<MessageId, SendError>>),
    Ping(oneshot::Sender<bool>),
    History(ContactId, oneshot::Sender<Vec<Said>>),
    Disappear(ContactId, Option<Duration>, oneshot::Sender<bool>),
    Code(ContactId, oneshot::Sender<Option<VerificationCode>>),
    Commit(EventCursor),
    Profiles(oneshot::Sender<Option<[ProfileCost; 3]>>),
    Profile(oneshot::Sender<Profile>),
    Health(oneshot::Sender<Health>),
    Contacts(oneshot::Sender<Vec<ContactInfo>>),
    Rename(ContactId, String, oneshot::Sender<bool>),
    Remove(ContactId, oneshot::Sender<bool>),
    /// Overwrites the keys of all that was deleted.
    Purge(oneshot::Sender<Result<(), StoreError>>),
    Passphrase(Zeroizing<Vec<u8>>, oneshot::Sender<Result<(), StoreError>>),
    /// Writes what is left, and ends.
    Close(oneshot::Sender<()>),
}
