//! The Posta directory authority: votes and consensus.
//!
//! ```text
//! relay ──descriptor──► intake ─┐
//! other authorities ──votes────►│ authority (rounds) ── tally ──► consensus, mix keys ──► archive ──► everyone
//!                    ──echoes──►│
//!                ──signatures──►┘
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`authority`] | the core: rounds, schedule, catching up; no I/O |
//! | [`intake`], [`admission`] | descriptors that relays post: what is accepted |
//! | [`measuring`] | loops through relays, and what their fates say of each |
//! | [`tally`], [`randomness`] | votes in, consensus out: pure, the same everywhere |
//! | [`archive`] | what is on disk, above all what was signed |
//! | [`driver`] | sockets, clocks, tasks |
//! | [`show`], [`votes`] | a consensus, and what was said in its round, for people |
//! | [`config`], [`keys`], [`cli`] | what an operator meets |

pub mod admission;
pub mod archive;
pub mod authority;
pub mod cli;
pub mod config;
pub mod driver;
pub mod intake;
pub mod keys;
pub mod measuring;
pub mod page;
pub mod randomness;
pub mod show;
pub mod tally;
pub mod votes;
