//! The program `posta`.

use std::process::ExitCode;

fn main() -> ExitCode {
    posta_client::cli::main(std::env::args_os())
}
