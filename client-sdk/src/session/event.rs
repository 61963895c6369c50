//! What goes into a session and what comes out of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::document::WrongLayers;
use posta_protocol::document::{Consensus, MixKeys, Protocols, Standing};
use posta_protocol::frame::Delivery;
use posta_protocol::ids::{InboxId, RelayId};
use posta_protocol::now::Mono;
use posta_protocol::packet::Packet;
use posta_protocol::params::DEFAULT_MESSAGE_TTL;
use posta_protocol::secret::Secret;
use thiserror::Error;

use crate::end_to_end::{Scheme, VerificationCode};
use crate::store::Change;

/// How a client trades latency against cover.
pub use posta_protocol::document::Profile;

/// How well packets come back, by the newest loops and commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthLevel {
    /// Too few were sent to tell.
    #[default]
    Unknown,
    /// Hardly any is lost.
    Good,
    /// Some are lost: messages take longer.
    Poor,
    /// Most are lost: relays are down, or somebody drops packets.
    Bad,
}

impl fmt::Display for HealthLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Good => "good",
            Self::Poor => "poor",
            Self::Bad => "bad",
        })
    }
}

/// What became of the newest loops and commands, at most 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What to show.
    pub level: HealthLevel,
    /// Those that were answered in time.
    pub answered: u64,
    /// Those that were not.
    pub lost: u64,
}

/// How long a relay must be silent before it counts as gone, unless it is said otherwise: an hour.
pub const REPLACE_AFTER: Duration = Duration::from_secs(3600);

/// How a session behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Latency against cover.
    pub profile: Profile,
    /// A message that isn't delivered within this time fails, and its receiver drops it.
    pub expiry: Duration,
    /// How long a relay must have been silent before the queues on it are replaced; at a random time within as long again
    /// they are. A relay that comes back before then has only been away.
    pub replace: Duration,
    /// What seals conversations: MLS, but in simulations. Both ends must have the same.
    pub scheme: Scheme,
    /// Messages each way that are kept for a contact once they are delivered, at most
    /// [`MAX_HISTORY`](super::MAX_HISTORY); 0 for none. They are also what can be sent again to a contact who has lost them.
    pub history: usize,
}

/// Messages each way that are kept for a contact, unless it is said otherwise.
const HISTORY: usize = 256;

impl Default for Options {
    fn default() -> Self {
        let (expiry, replace, history) = (DEFAULT_MESSAGE_TTL, REPLACE_AFTER, HISTORY);
        Self { profile: Profile::Fast, expiry, replace, scheme: Scheme::Mls, history }
    }
}

/// A contact, by a number that means nothing outside this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContactId(pub u64);

/// A message to a contact: 1, 2, 3 and so on for each contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

/// How far a contact has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContactState {
    /// Nobody has followed the invitation yet.
    Invited,
    /// The invitation is being followed.
    Joining,
    /// Messages can be sent.
    Connected,
    /// This end has lost the conversation, and begins it anew: messages can be sent when the contact has answered.
    Renewing,
    /// Nothing came of it.
    Failed,
}

/// A contact as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactInfo {
    /// Its number.
    pub id: ContactId,
    /// What the user calls it; empty if it was given no name.
    pub name: String,
    /// How far it has come.
    pub state: ContactState,
    /// Messages to it that were taken: the number of the last one.
    pub sent: u64,
    /// The last of them that its program has.
    pub delivered: u64,
    /// The last message from it.
    pub received: u64,
    /// What both people can compare; none before both have joined.
    pub code: Option<VerificationCode>,
    /// How long after their delivery messages to it are forgotten, at both ends; none if they are not.
    pub disappears: Option<Duration>,
}

/// A place in the events of a client: everything up to it. Numbers never come back, not after a crash either, so an
/// application that keeps the last one beside what it has done deals with each event exactly once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventCursor(pub u64);

/// What happens to a session.
#[derive(Debug)]
pub enum Event {
    /// Verified documents of the network, newer than those held.
    Network {
        /// The consensus.
        consensus: Arc<Consensus>,
        /// The mix keys of its key epochs.
        mix_keys: Vec<Arc<MixKeys>>,
    },
    /// A link that was asked for stands.
    LinkUp {
        /// The relay at its other end.
        entry: RelayId,
    },
    /// A link is gone, or could not be made.
    LinkDown {
        /// The relay at its other end.
        entry: RelayId,
    },
    /// The entry says that an inbox is attached.
    Attached {
        /// Which inbox.
        inbox: InboxId,
    },
    /// The entry hands over a reply.
    Delivery(Delivery),
    /// Whether the application reads what is emitted. While it doesn't, no further messages are asked for.
    Reading(bool),
    /// The time that [`super::Session::poll_timeout`] named has come.
    Tick,
}

/// What a session wants done.
#[derive(Debug)]
pub enum Action {
    /// Open a link for clients to this relay.
    Connect {
        /// The relay.
        entry: RelayId,
    },
    /// Close the link to this relay, or stop trying. No [`Event::LinkDown`] is to follow.
    Disconnect {
        /// The relay.
        entry: RelayId,
    },
    /// Attach an inbox.
    Attach {
        /// At this relay, whose link stands.
        entry: RelayId,
        /// The inbox' secret.
        secret: Secret<32>,
    },
    /// Send a packet.
    Send {
        /// To this relay, whose link stands.
        entry: RelayId,
        /// The packet.
        packet: Packet,
        /// At this time and not before: the packet fills a slot. Without it, at once.
        at: Option<Mono>,
    },
    /// Say to the entry how it is to hand out what comes.
    Pace {
        /// The entry, whose link stands.
        entry: RelayId,
        /// As this profile does.
        profile: Profile,
    },
    /// Write these changes in one transaction before any action behind this one is carried out. Only sessions from
    /// [`super::Session::restore`] ask for it.
    Save(Vec<Change>),
    /// Tell the application.
    Emit {
        /// Where this event stands. One that describes a moment stands where the last one stands that is kept.
        cursor: EventCursor,
        /// The event.
        event: ClientEvent,
    },
    /// Fetch newer documents of the network: those held lack the keys of this key epoch.
    FetchNetwork,
}

/// What an application learns.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The network is there and the entry answers: for the first time, or again after [`Warning::Offline`].
    Ready,
    /// An invitation can be handed over. Whoever has the link first becomes the contact.
    Invitation {
        /// Who will be at the other end.
        contact: ContactId,
        /// The link: a secret.
        link: String,
    },
    /// No invitation can be made, and the contact is dropped.
    InviteFailed {
        /// Who would have been at the other end.
        contact: ContactId,
        /// Why.
        reason: NotAdmitted,
    },
    /// A contact is there; messages can be sent.
    Connected {
        /// Which one.
        contact: ContactId,
    },
    /// The conversation with a contact has begun anew, because one end had lost it. Nothing is missing that was not told.
    /// Both have new keys, so the verification code is another one.
    Renewed {
        /// Which one.
        contact: ContactId,
    },
    /// Joining by a link came to nothing.
    JoinFailed {
        /// Which contact it would have been.
        contact: ContactId,
        /// Why.
        reason: JoinFailure,
    },
    /// A message came. Each is emitted once, in the order of its sending.
    Message {
        /// From whom.
        contact: ContactId,
        /// Its number: 1, 2, 3 and so on, where none has expired.
        number: u64,
        /// Its bytes.
        body: Vec<u8>,
    },
    /// A sent message has a new state.
    State {
        /// To whom.
        contact: ContactId,
        /// Which message.
        message: MessageId,
        /// Its state.
        state: MessageState,
    },
    /// A message was to disappear, and is forgotten: whoever shows it takes it away now.
    Disappeared {
        /// Whose conversation it was in.
        contact: ContactId,
        /// Whether it was ours.
        ours: bool,
        /// Its number.
        number: u64,
    },
    /// An answer to [`super::Session::ping`].
    Pong {
        /// Time from the asking to the answer, retries included.
        round_trip: Duration,
    },
    /// Packets come back better or worse than before.
    Health(Health),
    /// Something that the user should know.
    Warning(Warning),
}

impl fmt::Debug for ClientEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("Ready"),
            Self::Invitation { contact, .. } => write!(f, "Invitation({contact:?}, ..)"),
            Self::InviteFailed { contact, reason } => write!(f, "InviteFailed({contact:?}, {reason:?})"),
            Self::Connected { contact } => write!(f, "Connected({contact:?})"),
            Self::Renewed { contact } => write!(f, "Renewed({contact:?})"),
            Self::JoinFailed { contact, reason } => write!(f, "JoinFailed({contact:?}, {reason:?})"),
            Self::Message { contact, number, .. } => write!(f, "Message({contact:?}, {number}, ..)"),
            Self::State { contact, message, state } => write!(f, "State({contact:?}, {message:?}, {state:?})"),
            Self::Disappeared { contact, ours, number } => write!(f, "Disappeared({contact:?}, {ours}, {number})"),
            Self::Pong { round_trip } => write!(f, "Pong({round_trip:?})"),
            Self::Health(health) => write!(f, "Health({health:?})"),
            Self::Warning(warning) => write!(f, "Warning({warning:?})"),
        }
    }
}

/// How far a sent message has come. A message is queued from [`super::Session::send`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageState {
    /// Nothing is known of it but that it waits here.
    Queued,
    /// `k` of the `n` relays that are to hold it report that they have it on disk.
    Stored {
        /// Relays that have reported.
        k: usize,
        /// Relays that should have it.
        n: usize,
    },
    /// The contact's program has it.
    Delivered,
    /// It will not be read any more.
    Failed {
        /// Why.
        reason: Failure,
    },
}

/// Why a message failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nobody fetched it before its expiry; the receiver drops it if it comes later.
    #[error("the contact did not fetch it before it expired: send it again")]
    Expired,
}

/// Why joining by a link came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinFailure {
    /// The inviter's offer is too old.
    #[error("this invitation has expired: ask for a new one")]
    Expired,
    /// Someone else was first, or the inviter has taken it back.
    #[error("this invitation was used already, or taken back: if it was not you who used it, ask for a new one")]
    Used,
    /// The relays do not know it.
    #[error("the relays do not know this invitation: it was used, taken back or expired; ask for a new one")]
    Unknown,
    /// What the relays hold isn't what the inviter put there.
    #[error("the relays gave out something else than the inviter left there: ask for a new invitation")]
    Garbled,
    /// The inviter's keys are not valid.
    #[error("the keys in this invitation are not valid now: check this machine's clock, and ask for a new invitation")]
    Keys,
    /// No relay of the link answered.
    #[error("neither relay of this invitation answers: try again later, or ask for a new one")]
    Unreachable,
    /// Two relays are needed for the queues that the contact is to write to, and fewer make them.
    #[error("too few relays make queues for everyone: {0}")]
    NotAdmitted(NotAdmitted),
}

/// A relay makes no queue for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("relay {} asks for {asks} before it makes a queue", relay.short())]
pub struct NotAdmitted {
    /// Which one.
    pub relay: RelayId,
    /// What it asks for.
    pub asks: Asked,
}

/// What a relay asks for that it isn't given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Asked {
    /// Its operator's password.
    #[error("its operator's password")]
    Password,
    /// A puzzle of this effort: above [`super::MAX_EFFORT`], or one after the other.
    #[error("more work than this client does (a puzzle of {0} bits)")]
    Work(u8),
}

/// Something that the user should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Warning {
    /// No entry answers.
    #[error("no relay can be reached; messages wait here until one can")]
    Offline,
    /// The state can't be written any more; the client stops.
    #[error("the client's state can't be written, so the client stops: free space or mend the disk, then start again")]
    Disk,
    /// A relay makes no queue for us; said once for each in a key epoch.
    #[error("{0}; another relay is tried")]
    NotAdmitted(NotAdmitted),
    /// A contact holds another consensus for the same epoch.
    #[error("a contact was given another list of relays for the same hour: authorities or someone between cheat")]
    Fork {
        /// The contact.
        contact: ContactId,
    },
    /// A contact's end of the conversation and ours don't fit any more: one of the two was set back to an older state,
    /// or is at fault. What was delivered stays; what is sent from now on may never be.
    #[error("the conversation with this contact is out of step, and can't go on: invite this contact again")]
    OutOfStep {
        /// The contact.
        contact: ContactId,
    },
    /// Messages of a contact can't be had any more: they were given to an incarnation of ours that is gone, and the
    /// contact doesn't keep them.
    #[error(
        "{missing} messages of this contact are lost: only the state that was lost had them; ask for what you miss"
    )]
    Missing {
        /// The contact.
        contact: ContactId,
        /// How many.
        missing: u64,
    },
    /// The newest list of relays is well signed, and was refused; the one before is used until it expires.
    #[error("the newest list of relays was refused: {0}")]
    Refused(WrongLayers),
    /// The newest list of relays does not build on the one before. It is used all the same.
    #[error(
        "the list of relays for epoch {new} does not build on the one for epoch {held}: the authorities may have been split"
    )]
    ChainBroken {
        /// The epoch of the one before.
        held: u64,
        /// The epoch of the newest.
        new: u64,
    },
    /// Packets have too little company in the mixes for what the profile is to hide.
    #[error(
        "this network is too small for {profile}: a mix holds {holds} packets on average by the relays' own traffic, and \
         {} would be needed to hide one among; how many other people use it, nobody can count",
        super::ENOUGH_TO_MIX
    )]
    SmallNetwork {
        /// The profile in use.
        profile: Profile,
        /// Packets that a mix holds on average.
        holds: u32,
    },
    /// This program speaks an older protocol version than the network recommends, or requires. Said once for each version.
    #[error("{}", .0.says(Protocols::default()).unwrap_or_default())]
    Protocol(Standing),
    /// A queue is gone from its relay; the conversation goes on over the others.
    #[error("a relay has lost a queue of this contact; {left} of the queues that carry {direction} are left")]
    QueueLost {
        /// The contact.
        contact: ContactId,
        /// Which way it carried messages.
        direction: Direction,
        /// Queues left in this direction.
        left: usize,
    },
}

/// Which way a queue carries messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From us.
    Outgoing,
    /// To us.
    Incoming,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outgoing => "outgoing messages",
            Self::Incoming => "incoming messages",
        })
    }
}

/// Why a link was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No relay of the network has such an identity.
    #[error("this invitation is for another network, or its relays are gone: ask for a new one")]
    ForeignNetwork,
    /// The session has no consensus yet.
    #[error("the network is not known yet: wait until the client is ready")]
    NotReady,
    /// The session has as many contacts as it can hold.
    #[error("there are too many contacts: remove one first")]
    TooManyContacts,
    /// The operating system gives out no randomness.
    #[error("this machine gives out no randomness to make keys from: try again later")]
    NoKeys,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no such contact.
    #[error("there is no such contact")]
    UnknownContact,
    /// The contact hasn't joined yet.
    #[error("this contact is not connected yet: wait until the invitation was followed")]
    NotConnected,
    /// The conversation begins anew.
    #[error("the conversation with this contact begins anew: wait until the contact's program has answered")]
    Renewing,
    /// The message doesn't fit one packet.
    #[error("the message is {got} bytes long, at most {max} fit")]
    TooLong {
        /// Its length in bytes.
        got: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// The conversation's own sealing has failed.
    #[error("the message could not be sealed: invite this contact again")]
    NotSealed,
    /// Too many messages wait to be delivered.
    #[error("too many messages to this contact are not delivered yet: wait until some are")]
    OutboxFull,
}
