//! `posta-benches`: measures one claim and prints it beside its floor or peer.

use std::process::ExitCode;

fn main() -> ExitCode {
    posta_benches::cli::main(std::env::args_os())
}
