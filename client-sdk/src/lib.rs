//! The Posta client SDK, and the command-line messenger.
//!
//! ```no_run
//! use posta_client::{Client, ClientEvent};
//! # async fn example(dir: &str, passphrase: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder(dir).open(passphrase).await?;
//! println!("{}", client.invite().await?.link);
//! while let Some(event) = client.next_event().await {
//!     match event {
//!         ClientEvent::Connected { contact } => drop(client.send(contact, b"hello".to_vec()).await?),
//!         ClientEvent::Message { body, .. } => println!("{}", String::from_utf8_lossy(&body)),
//!         _ => {}
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`end_to_end`] | what seals a conversation: MLS |
//! | [`session`] | the protocol's client side as a state machine: no clock, no sockets, no randomness of its own |
//! | `driver` | runs a session: clocks, links, documents of the network |
//! | [`client`] | the async handle that applications hold |
//! | [`store`] | a client's state on disk, encrypted |
//! | [`cli`] | the program `posta` |
//!
//! What holds in this version:
//! - A message is emitted at the other end exactly once and in order, for as long as one of the two relays of the
//!   direction is there. Either client may be killed at any moment: one that was opened in a folder goes on where it was.
//!   `Stored { k, n }` says what relays report; `Delivered` says that the other client has the message on its disk.
//! - No relay sees both ends. Profile `fast` has neither delays nor cover: one who watches both ends' lines can
//!   correlate them.
//! - Each message is sealed under a key of its own, by MLS with a post-quantum suite: who takes a client can't read
//!   what was delivered before, nor, after a round trip, what comes later. Who only knows the invitation can read nothing.
//!   What is kept to be read again ([`Options::history`]) is on the disk, under the passphrase.
//! - An end that has lost its state begins a conversation anew by itself: from an export ([`session::Session::export`]), or
//!   when it finds that it was set back.
//!
//! What does not hold yet:
//! - A folder that is put back from an older copy repeats sequence numbers and keys: never restore one. `posta export`
//!   makes what can be restored.

pub mod cli;
pub mod client;
mod driver;
pub mod end_to_end;
pub mod session;
pub mod store;

pub use client::{CallError, Client, ClientBuilder, ClientOptions, Invited, StartError};
pub use driver::EVENT_QUEUE;
pub use end_to_end::{Scheme, VerificationCode};
pub use session::Said;
pub use session::event::{
    Asked, ClientEvent, ContactId, ContactInfo, ContactState, EventCursor, Failure, JoinError, JoinFailure, MessageId,
    MessageState, NotAdmitted, Options, Profile, SendError, Warning,
};
