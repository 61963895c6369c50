//! `posta generate`: man pages and shell completions, from the same definitions as `--help`. For packagers; not shown in
//! the help.

use std::fs;
use std::io;
use std::path::Path;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use posta_link::exit;

use super::{Arguments, Ending};

/// Writes `man1`, and one folder for each shell.
pub(super) fn generate(to: &Path) -> Result<(), Ending> {
    let write = || -> io::Result<()> {
        let man = to.join("man1");
        fs::create_dir_all(&man)?;
        clap_mangen::generate_to(Arguments::command(), &man)?;
        for shell in Shell::value_variants() {
            let folder = to.join(shell.to_string());
            fs::create_dir_all(&folder)?;
            clap_complete::generate_to(*shell, &mut Arguments::command(), "posta", &folder)?;
        }
        Ok(())
    };
    write().map_err(|e| Ending::new(exit::DISK, format!("{} can't be written: {e}", to.display())))
}
