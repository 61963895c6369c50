//! The client as a library: an async handle on a session that runs in the background.

mod builder;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use posta_link::fetch::{Documents, FetchError, Network, NetworkError, fetch_consensus};
use posta_link::{Audience, Endpoint, LinkError};
use posta_protocol::error::{Malformed, Untrusted};
use posta_protocol::invitation::{BadLink, Link};
use posta_protocol::now::Wall;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

pub use self::builder::{ClientBuilder, NETWORK_FILE};
use crate::driver::keeper::Keeper;
use crate::driver::{CALL_QUEUE, Call, Clock, Driver, EVENT_QUEUE, Sockets};
use crate::end_to_end::VerificationCode;
use crate::session::event::{
    ClientEvent, ContactId, ContactInfo, EventCursor, Health, JoinError, MessageId, NotAdmitted, Options, Profile,
    SendError,
};
use crate::session::{ProfileCost, Said, Session};
use crate::store::{Records, Store, StoreError};

/// Wait between two attempts to get the first documents.
const START_RETRY: Duration = Duration::from_millis(300);

/// How a client is started.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The authorities of the network, as `network.toml` names them.
    pub network: Network,
    /// The local address to dial from; unspecified for any.
    pub local: IpAddr,
    /// How the session behaves.
    pub session: Options,
    /// How long to wait for authorities that don't answer, or have agreed on nothing yet.
    pub patience: Duration,
}

/// Why a client was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// No socket could be opened.
    #[error(transparent)]
    Socket(#[from] LinkError),
    /// This machine's clock doesn't fit the newest consensus.
    #[error("this machine's clock says {}, and the newest list of relays {reason}: set the clock, and try again", date(*.clock))]
    Clock {
        /// What the clock says.
        clock: Wall,
        /// How that doesn't fit.
        reason: &'static str,
    },
    /// The list of relays can't be believed.
    #[error("the list of relays is not to be trusted: {0}; check that network.toml is the right one")]
    Untrusted(Untrusted),
    /// The network has too few relays for paths.
    #[error("{0}")]
    TooSmall(FetchError),
    /// The state can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store holds isn't what a client of this version has written.
    #[error("the client's state can't be understood ({0}): it was written by another version; update this program")]
    Records(Malformed),
    /// The folder's network file can't be used.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// No authority gave out a list of relays.
    #[error("no list of relays: {0}")]
    Fetch(FetchError),
}

/// Why a call came to nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The link is none.
    #[error(transparent)]
    BadLink(#[from] BadLink),
    /// The link can't be followed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The message was not taken.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The session has as many contacts as it can hold.
    #[error("there are too many contacts: remove one first")]
    TooManyContacts,
    /// Two relays are needed for the queues that the contact is to write to, and fewer make them.
    #[error("no invitation can be made, for too few relays make queues for everyone: {0}")]
    NotAdmitted(NotAdmitted),
    /// The state was not written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// An invitation that can be handed over. Whoever has the link first becomes the contact.
#[derive(Clone, PartialEq, Eq)]
pub struct Invited {
    /// Who will be at the other end.
    pub contact: ContactId,
    /// The link: a secret.
    pub link: String,
}

impl fmt::Debug for Invited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invited({:?}, ..)", self.contact)
    }
}

/// A running client. It stops when it is dropped. One from [`Client::builder`] keeps all its state on disk, and may end at
/// any moment, by SIGKILL too; one from [`Client::start`] keeps nothing.
///
/// # Events, each exactly once
/// Messages, connections, invitations and final states are *kept*: they are handed out again after a start until they are
/// committed. [`Self::next_event`] commits an event when the next one is asked for. An application that must not deal
/// with one twice, whatever happens, takes [`Self::next_uncommitted`], keeps the cursor in the same transaction as what
/// it has done, and leaves out what is not beyond it after a start; [`Self::commit`] then lets the client forget.
#[derive(Debug)]
pub struct Client {
    calls: mpsc::Sender<Call>,
    events: Mutex<mpsc::Receiver<(EventCursor, ClientEvent)>>,
    /// What [`Self::next_event`] has handed out last.
    handed: Mutex<Option<EventCursor>>,
}

impl Client {
    /// Fetches and verifies the network's documents, and starts. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`], each one sentence that says what to do.
    pub async fn start(options: ClientOptions) -> Result<Self, StartError> {
        Self::run(options, None, None).await
    }

    async fn run(
        options: ClientOptions,
        stored: Option<(Store, Records)>,
        profile: Option<Profile>,
    ) -> Result<Self, StartError> {
        let clock = Clock::new();
        let sockets = Sockets {
            directory: Endpoint::dialer(options.local, Audience::Directory, None)?,
            entries: Endpoint::dialer(options.local, Audience::Client, None)?,
            ipv4: options.local.is_ipv4(),
            network: options.network,
        };
        let documents = first_documents(&sockets, clock, options.patience).await?;
        let rng = Box::new(rand::make_rng::<StdRng>());
        let (session, keeper) = match stored {
            None => (Session::new(options.session, rng), None),
            Some((store, records)) => {
                let session = Session::restore(options.session, rng, clock.now(), &records);
                let keeper = Keeper::start(store).map_err(StoreError::Io)?;
                let mut session = session.map_err(StartError::Records)?;
                if let Some(profile) = profile {
                    session.set_profile(clock.now(), profile);
                }
                (session, Some(keeper))
            }
        };
        let (calls, called) = mpsc::channel(CALL_QUEUE);
        let (emitted, events) = mpsc::channel(EVENT_QUEUE);
        Driver::new(clock, session, sockets, documents, called, emitted, keeper).spawn();
        Ok(Self { calls, events: Mutex::new(events), handed: Mutex::new(None) })
    }

    async fn call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, CallError> {
        let (reply, replied) = oneshot::channel();
        self.calls.send(call(reply)).await.map_err(|_| CallError::Stopped)?;
        replied.await.map_err(|_| CallError::Stopped)
    }

    /// Makes an invitation; returns once two relays hold it, which may take until they can be reached.
    ///
    /// # Errors
    /// [`CallError::TooManyContacts`], [`CallError::NotAdmitted`] or [`CallError::Stopped`].
    pub async fn invite(&self) -> Result<Invited, CallError> {
        self.call(Call::Invite).await?
    }

    /// Follows an invitation. [`ClientEvent::Connected`] or [`ClientEvent::JoinFailed`] says what came of it.
    ///
    /// # Errors
    /// [`CallError::BadLink`], [`CallError::Join`] or [`CallError::Stopped`].
    pub async fn join(&self, link: &str) -> Result<ContactId, CallError> {
        let link: Link = link.parse()?;
        Ok(self.call(|reply| Call::Join(link, reply)).await??)
    }

    /// Sends a message of at most [`posta_protocol::end_to_end::MAX_MESSAGE_LEN`] bytes. What becomes of it is told by
    /// [`ClientEvent::State`].
    ///
    /// # Errors
    /// [`CallError::Send`] or [`CallError::Stopped`].
    pub async fn send(&self, contact: ContactId, body: Vec<u8>) -> Result<MessageId, CallError> {
        Ok(self.call(|reply| Call::Send(contact, body, reply)).await??)
    }

    /// What both people compare, over a way that nobody can forge, to know that no one sits between them: the same at
    /// both ends for as long as the conversation lasts. `None` before the contact has joined.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn verification_code(&self, contact: ContactId) -> Result<Option<VerificationCode>, CallError> {
        self.call(|reply| Call::Code(contact, reply)).await
    }

    /// What was said with a contact, as far as it is kept ([`Options::history`]), in the order of its time.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn history(&self, contact: ContactId) -> Result<Vec<Said>, CallError> {
        self.call(|reply| Call::History(contact, reply)).await
    }

    /// Messages to a contact that are sent from now on are forgotten at both ends so long after their delivery, in whole
    /// seconds; `None` for not at all. [`ClientEvent::Disappeared`] tells of each. `false` if there is no such contact.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn disappear(&self, contact: ContactId, after: Option<Duration>) -> Result<bool, CallError> {
        self.call(|reply| Call::Disappear(contact, after, reply)).await
    }

    /// Sends an echo through a whole path; [`ClientEvent::Pong`] brings its time. `false` if that can't be done now.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn ping(&self) -> Result<bool, CallError> {
        self.call(Call::Ping).await
    }

    /// What each profile costs on this network, and whether it is large enough for it.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn profiles(&self) -> Result<Option<[ProfileCost; 3]>, CallError> {
        self.call(Call::Profiles).await
    }

    /// The profile in use.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn profile(&self) -> Result<Profile, CallError> {
        self.call(Call::Profile).await
    }

    /// How packets came back lately; [`ClientEvent::Health`] tells changes.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn health(&self) -> Result<Health, CallError> {
        self.call(Call::Health).await
    }

    /// All contacts, in the order of their making.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn contacts(&self) -> Result<Vec<ContactInfo>, CallError> {
        self.call(Call::Contacts).await
    }

    /// Gives a contact a name for its user's eyes, at most 64 bytes. `false` if there is no such contact.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn rename(&self, contact: ContactId, name: &str) -> Result<bool, CallError> {
        self.call(|reply| Call::Rename(contact, name.to_owned(), reply)).await
    }

    /// Lets go of a contact: all that is kept of it is deleted, and unreadable when this returns, for one who has the
    /// disk and the passphrase too. `false` if there is no such contact.
    ///
    /// # Errors
    /// [`CallError::Store`] or [`CallError::Stopped`].
    pub async fn remove(&self, contact: ContactId) -> Result<bool, CallError> {
        let found = self.call(|reply| Call::Remove(contact, reply)).await?;
        self.purge().await?;
        Ok(found)
    }

    /// Makes everything that was deleted or replaced unreadable now, rather than within
    /// [`PURGE_AFTER`](crate::store::PURGE_AFTER).
    ///
    /// # Errors
    /// [`CallError::Store`] or [`CallError::Stopped`].
    pub async fn purge(&self) -> Result<(), CallError> {
        Ok(self.call(Call::Purge).await??)
    }

    /// Changes the passphrase; the old one opens nothing any more when this returns.
    ///
    /// # Errors
    /// [`CallError::Store`] or [`CallError::Stopped`].
    pub async fn change_passphrase(&self, new: &[u8]) -> Result<(), CallError> {
        let new = Zeroizing::new(new.to_vec());
        Ok(self.call(|reply| Call::Passphrase(new, reply)).await??)
    }

    /// The next event; `None` once the client has stopped. Asking for it commits the one before. Safe to cancel. While
    /// nobody calls it, no more messages are asked for, and none is lost.
    pub async fn next_event(&self) -> Option<ClientEvent> {
        let handed = *self.handed.lock().await;
        if let Some(cursor) = handed {
            // One that has stopped says so below.
            let _ = self.commit(cursor).await;
        }
        let (cursor, event) = self.next_uncommitted().await?;
        *self.handed.lock().await = Some(cursor);
        Some(event)
    }

    /// The next event and its place; `None` once the client has stopped. Safe to cancel. It is handed out again after a
    /// start unless it, or a later one, is committed.
    pub async fn next_uncommitted(&self) -> Option<(EventCursor, ClientEvent)> {
        self.events.lock().await.recv().await
    }

    /// Everything up to this event is dealt with. It is on disk a moment later, and at the latest after [`Self::close`].
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn commit(&self, up_to: EventCursor) -> Result<(), CallError> {
        self.calls.send(Call::Commit(up_to)).await.map_err(|_| CallError::Stopped)
    }

    /// Ends the client: all is on disk, what was deleted is unreadable, and the folder free, when this returns. Without
    /// it nothing is lost either; deleted records are then unreadable after the next start.
    pub async fn close(self) {
        // One that has stopped has nothing left to do.
        let _ = self.call(Call::Close).await;
    }
}

/// The first documents. Waits for a network that is just starting, and not for one that can't be believed.
async fn first_documents(sockets: &Sockets, clock: Clock, patience: Duration) -> Result<Documents, StartError> {
    let until = Instant::now() + patience;
    loop {
        let wall = clock.now().wall;
        match fetch_consensus(&sockets.network, &sockets.directory, wall, None).await {
            Ok(documents) => return Ok(documents),
            Err(FetchError::Untrusted(Untrusted::TooEarly(_))) => {
                return Err(StartError::Clock { clock: wall, reason: "is not valid yet" });
            }
            Err(FetchError::Untrusted(Untrusted::Expired(_))) => {
                return Err(StartError::Clock { clock: wall, reason: "has expired already" });
            }
            Err(FetchError::Untrusted(e)) => return Err(StartError::Untrusted(e)),
            Err(e @ FetchError::Rules(_)) => return Err(StartError::Fetch(e)),
            Err(e) if Instant::now() >= until => {
                let small = matches!(e, FetchError::TooSmall(_));
                return Err(if small { StartError::TooSmall(e) } else { StartError::Fetch(e) });
            }
            Err(_) => sleep(START_RETRY).await,
        }
    }
}

/// A time in words that a person can compare with a clock, to the second, in UTC.
fn date(wall: Wall) -> String {
    let seconds = wall.0 / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date (H. Hinnant, "chrono-compatible low-level date algorithms"): years start in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(date(Wall(0)), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(Wall(1_709_209_083_000)), "2024-02-29 12:18:03 UTC");
    }
}
