//! Why the program ends: one sentence, and an exit code.

use std::fmt;

use posta_link::exit;

/// One clear sentence that says what to do, and the code to exit with.
#[derive(Debug)]
pub struct Failure {
    /// One of [`posta_link::exit`].
    pub code: u8,
    message: String,
}

impl Failure {
    /// The command line or the configuration is wrong.
    #[must_use]
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { code: exit::USAGE, message: message.to_string() }
    }

    /// The network can't be reached, or refuses.
    #[must_use]
    pub fn network(message: impl fmt::Display) -> Self {
        Self { code: exit::NETWORK, message: message.to_string() }
    }

    /// The disk is full, or a file can't be read or written.
    #[must_use]
    pub fn disk(message: impl fmt::Display) -> Self {
        Self { code: exit::DISK, message: message.to_string() }
    }

    /// Anything else.
    #[must_use]
    pub fn other(message: impl fmt::Display) -> Self {
        Self { code: exit::FAILURE, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
