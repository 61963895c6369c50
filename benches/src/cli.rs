//! The command line.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::hop;

/// Measures one claim about Posta and prints it beside its floor or peer.
#[derive(Debug, Parser)]
#[command(name = "posta-benches", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// One hop (peel) and building a packet, beside the key decapsulation alone and beside sphinx-packet.
    Hop {
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the program with these arguments, its own name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Bench::Hop { json } = Arguments::parse_from(args).bench;
    match run_hop(json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("posta-benches: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_hop(json: bool) -> Result<()> {
    let result = hop::measure()?;
    if json {
        println!("{}", serde_json::to_string(&result)?);
    } else {
        for (payload, size) in &result.sizes {
            println!(
                "hop, {payload} bytes of payload: {:.1} us; its key decapsulation alone {:.1} us, ratio {:.2}; \
                 sphinx-packet {:.1} us, ratio {:.2}",
                size.hop_us, size.kem_floor_us, size.ratio_to_floor, size.sphinx_packet_us, size.ratio_to_sphinx_packet
            );
        }
        println!(
            "building a packet of 4 layers: {:.1} us; sphinx-packet, 3 layers: {:.1} us, ratio {:.2}",
            result.build_us, result.sphinx_packet_build_us, result.build_ratio
        );
    }
    Ok(())
}
