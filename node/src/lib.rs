//! The Posta relay: mixing and queues.
//!
//! A packet's way is five files long, and back:
//!
//! | | file | what happens |
//! |---|---|---|
//! | 1 | `posta-link`, `link/receive.rs` | a whole packet comes off a stream |
//! | 2 | [`driver`] (`driver.rs`, `driver/workers.rs`) | its ciphertext's keyed hash picks a worker thread, which peels it, writes its tag, and hands it to the owner |
//! | 3 | `posta-protocol`, `onion.rs` | one layer comes off: forward, queue, inbox or drop |
//! | 4 | [`relay`] (`relay.rs`) | the route is checked; it is delayed and sent on, or buffered for a client, or its command goes on |
//! | 5 | [`queue`] (`queue.rs`) | the command becomes an operation of the store; the outcome becomes an answer in a reply block, and that a packet |
//!
//! What the core holds, and what bounds it, stands beside it:
//!
//! | file | what it holds |
//! |---|---|
//! | [`relay::worker`], [`relay::replay`] | a worker's peeling, its share of the replay filter |
//! | `relay/delay.rs`, `relay/inbox.rs`, `relay/layers.rs` | delayed packets, clients' inboxes, who stands where |
//! | `queue/subscriptions.rs` | reply blocks that wait for messages |
//! | [`keys`] | identity, signing, link and mix keys in files |
//! | `driver/` | clocks, threads, links, clients, the directory, [`driver::replay_log`] |
//! | [`config`], [`cli`], [`report`], [`failure`] | what an operator meets |
//!
//! [`relay::Relay`] and [`relay::worker::Peeler`] do no I/O: the same cores run in tests and simulation.

pub mod cli;
pub mod config;
pub mod driver;
pub mod failure;
pub mod keys;
pub mod queue;
pub mod relay;
pub mod report;
pub mod retirement;
