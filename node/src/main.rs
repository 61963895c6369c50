//! The Posta relay's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    posta_node::cli::main(std::env::args_os())
}
