//! A whole Posta network on one machine.
//!
//! | module | what it does |
//! |---|---|
//! | [`demo`] | the main job: messages, two kills, a report |
//! | [`scenario`], [`fault`], [`notice`] | a network, traffic, what goes wrong and what is expected, from a file |
//! | [`up`] | a network that stays |
//! | [`running`] | that network from outside: `status`, `exec`, `logs`, `down` |
//! | [`network`], [`process`] | authorities, relays and clients as processes of this same program |
//! | [`layout`] | who is where |
//! | [`ledger`], [`report`] | the ground truth, and what is said of it |
//! | [`adversary`] | who sees what, and what they do |
//! | [`report_page`] | one page that compares such runs |
//! | [`sim`] | the same cores in one process, under virtual time, from a seed |
//! | [`experiment`], [`figures`] | runs over seeds and parameters, and what they say |
//! | [`lines`] | all lines of a network through one place: made worse, mended, tapped |
//! | [`rogue`] | relays and authorities that misbehave |
//! | [`impair`] | one UDP proxy that makes one line worse, for tests of links |

pub mod adversary;
pub mod cli;
pub mod demo;
pub mod experiment;
pub mod fault;
pub mod figures;
pub mod impair;
pub mod layout;
pub mod ledger;
pub mod lines;
pub mod network;
pub mod notice;
pub mod process;
pub mod report;
pub mod report_page;
pub mod rogue;
pub mod running;
pub mod scenario;
pub mod sim;
pub mod up;
