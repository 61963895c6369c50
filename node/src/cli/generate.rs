//! `generate`: man pages and shell completions, from the same definitions as `--help`. For packagers; not shown in the help.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::Cli;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct Generate {
    /// The folder to write to, with `man1` and one folder for each shell in it; made if it isn't there.
    #[arg(long)]
    to: PathBuf,
}

pub(super) fn generate(args: &Generate) -> Result<(), Failure> {
    let written = man_pages(&args.to.join("man1")).and_then(|pages| Ok(pages + completions(&args.to)?));
    let written = written.map_err(|e| Failure::disk(format_args!("{} can't be written: {e}", args.to.display())))?;
    // Where nobody listens there is nothing to say.
    let _ = writeln!(io::stdout(), "{written} files in {}", args.to.display());
    Ok(())
}

/// A page for the program and one for each of its commands, theirs too.
fn man_pages(folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)?;
    Ok(fs::read_dir(folder)?.count())
}

fn completions(folder: &Path) -> io::Result<usize> {
    for shell in Shell::value_variants() {
        let folder = folder.join(shell.to_string());
        fs::create_dir_all(&folder)?;
        clap_complete::generate_to(*shell, &mut Cli::command(), super::NAME, &folder)?;
    }
    Ok(Shell::value_variants().len())
}
