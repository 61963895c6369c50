//! Posta's bytes, cryptography and documents: no I/O, no async, no clock, no global randomness.
//!
//! What is here is what a second implementation must agree with. Everything is a pure function or a plain value:
//! time comes in as [`now::Now`], randomness as a generator that the caller passes in.
//!
//! | module | what it holds |
//! |---|---|
//! | [`params`] | every size, limit and duration, each with its reason |
//! | [`registry`] | every number that stands for something on the wire |
//! | [`codec`] | the one reader and the one writer |
//! | [`error`] | errors, sorted by blame |
//! | [`ids`], [`secret`], [`now`] | a type per identifier, secrets that erase themselves, time as an argument |
//! | [`crypto`] | the only file that names primitives |
//! | [`geometry`], [`packet`], [`onion`] | the fixed-size packet, building and peeling it, reply blocks |
//! | [`command`], [`answer`], [`admission`] | what travels in the innermost layer, to and from the queues |
//! | [`frame`] | what is said on a link beside packets |
//! | [`document`] | descriptors, votes, the consensus |
//! | [`invitation`] | links from which a conversation starts |
//! | [`end_to_end`] | sealing between the two ends of a conversation |

pub mod admission;
pub mod answer;
pub mod codec;
pub mod command;
pub mod crypto;
pub mod document;
pub mod end_to_end;
pub mod error;
pub mod frame;
pub mod geometry;
pub mod ids;
pub mod invitation;
pub mod now;
pub mod onion;
pub mod packet;
pub mod params;
pub mod registry;
pub mod secret;
