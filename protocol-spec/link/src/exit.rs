//! Exit codes that all programs share, so that scripts can tell what went wrong.

/// Done.
pub const OK: u8 = 0;
/// Something failed that has no code of its own.
pub const FAILURE: u8 = 1;
/// The command line or the configuration is wrong: nothing was done.
pub const USAGE: u8 = 2;
/// The network can't be reached, or it refused.
pub const NETWORK: u8 = 3;
/// The disk is full, or a file can't be read or written.
pub const DISK: u8 = 4;
