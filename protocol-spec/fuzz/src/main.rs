//! libFuzzer around the targets of this crate: `POSTA_FUZZ` names the target. `list` prints all of them with their
//! longest inputs, `seeds=FOLDER` writes the seeds that are made from the public API.
//!
//! One binary for all targets is built and linked once. The macro below expands to `unsafe` code; nothing else does.
#![no_main]

use std::alloc::System;
use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;

use posta_fuzz::{ALLOCATED, TARGETS, Target, control};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What libFuzzer calls with every input.
static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: start(), |input: &[u8]| {
    if let Some(run) = RUN.get() {
        run(input);
    }
});

fn start() {
    let _ = ALLOCATED.set(|| ALLOCATOR.stats().bytes_allocated);
    let wanted = std::env::var("POSTA_FUZZ").unwrap_or_default();
    if wanted == "list" {
        TARGETS.iter().for_each(|t| println!("{} {}", t.name, t.max_len));
        exit(0);
    }
    if let Some(folder) = wanted.strip_prefix("seeds=") {
        for target in TARGETS {
            if let Err(e) = write_seeds(target, &Path::new(folder).join(target.name)) {
                eprintln!("posta-fuzz: cannot write seeds below {folder}: {e}");
                exit(1);
            }
        }
        exit(0);
    }
    let run = if wanted == control::NAME {
        Some(control::run as fn(&[u8]))
    } else {
        TARGETS.iter().find(|t| t.name == wanted).map(|t| t.run)
    };
    let Some(run) = run else {
        eprintln!("posta-fuzz: POSTA_FUZZ must name a target, not '{wanted}'; POSTA_FUZZ=list prints them");
        exit(2);
    };
    let _ = RUN.set(run);
}

fn write_seeds(target: &Target, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (i, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("api-{i:02}")), seed)?;
    }
    Ok(())
}
