//! The directory authority's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    posta_directory::cli::main(std::env::args_os())
}
