//! Every measured claim about Posta, beside its peers.
//!
//! A bench prints our value, the floor's or peer's value from the same run, and their ratio. Absolute times vary from
//! machine to machine; ratios within one run count. Results stand in this folder's `README.md`.

pub mod cli;
pub mod clients;
pub mod directory;
pub mod hop;
pub mod load;
pub mod message;
pub mod queues;
pub mod relay;
pub mod sim;
pub mod store;
