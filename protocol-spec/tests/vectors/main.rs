//! The test vectors in `protocol-spec/vectors`: made anew from fixed seeds and compared with the files, and the files read
//! back by themselves. `POSTA_WRITE_VECTORS=1` has them rewritten; the README beside them tells what is in each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod answers;
mod boxes;
mod commands;
mod coverage;
mod describe;
mod diffs;
mod documents;
mod files;
mod hops;
mod invitations;
mod json;
mod kdf;
mod links;
mod packets;
mod recorder;
mod refused;
mod replies;
mod requests;
mod xwing;
