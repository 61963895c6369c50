//! `posta-testnet`: a whole Posta network on one machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    posta_testnet::cli::main(std::env::args_os())
}
