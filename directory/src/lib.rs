//! The Posta directory authority: votes and consensus.
