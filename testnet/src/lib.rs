//! A whole Posta network on one machine.
//!
//! | module | what it does |
//! |---|---|
//! | [`demo`] | the main job: messages, two kills, a report |
//! | [`up`] | a network that stays |
//! | [`running`] | that network from outside: `status`, `exec`, `logs`, `down` |
//! | [`network`], [`process`] | authorities, relays and clients as processes of this same program |
//! | [`layout`] | who is where |
//! | [`ledger`], [`report`] | the ground truth, and what is said of it |
//! | [`sim`] | the same cores in one process, under virtual time, from a seed |
//! | [`impair`] | a UDP proxy that makes a line worse |

pub mod cli;
pub mod demo;
pub mod impair;
pub mod layout;
pub mod ledger;
pub mod network;
pub mod process;
pub mod report;
pub mod running;
pub mod sim;
pub mod up;
