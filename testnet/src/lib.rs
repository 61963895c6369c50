//! A whole Posta network on one machine.
