//! The programs as a user runs them: separate processes, real sockets, real disks. One test at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod adversary;
mod authorities;
mod chat;
mod demo;
mod kills;
mod library;
mod refusals;
mod scenarios;
mod shared;
mod soak;
mod stays;
