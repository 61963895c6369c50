//! Runs over seeds, profiles and a grid of parameters: `posta-testnet sim`.
//!
//! A folder of a result: `result.json` (all figures, what `report` reads), `trace-*.jsonl` (what was seen) and
//! `truth-*.jsonl` (what is true) of the first run of each group, if lines were watched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use posta_protocol::geometry::Geometry;
use serde::Serialize;

use crate::adversary::{name, write_seen};
use crate::figures::compromise::{self, Question};
use crate::figures::stats::Estimate;
use crate::figures::{Figures, figures, summary};
use crate::sim::large::{self, Options, Outcome};

/// Of `result.json` and the JSONL files.
pub const SCHEMA: u32 = 1;
/// Parts of bad relays for which paths are drawn.
const BAD: [f64; 4] = [0.05, 0.1, 0.2, 0.3];
/// And relays in all: in a small network a few are a large part.
const BAD_RELAYS: usize = 1000;
/// Clients for each of them.
const BAD_CLIENTS: usize = 2000;

/// Runs that differ by their seeds only.
#[derive(Clone, Debug)]
pub struct Group {
    /// What distinguishes it from the other groups: `steady`, `mixed hop-delay=0.5`.
    pub label: String,
    /// The options, with the first seed.
    pub options: Options,
}

/// A group's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Its label.
    pub label: String,
    /// Its options, with the first seed.
    pub options: Options,
    /// Means over the runs.
    pub summary: BTreeMap<&'static str, Estimate>,
    /// Each run's own figures.
    pub runs: Vec<Figures>,
    /// Paths over bad relays, in a network of a thousand.
    pub compromise: Vec<compromise::Answer>,
}

/// All groups.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// The program's version.
    pub version: &'static str,
    /// The command that does it again.
    pub command: String,
    /// The groups.
    pub groups: Vec<Measured>,
}

/// Runs all groups, each `repeat` times with successive seeds, on so many threads; a run itself is one thread.
///
/// # Errors
/// If the simulation or a file fails.
pub fn run(groups: &[Group], repeat: u64, threads: usize, out: Option<&Path>, command: String) -> Result<Measurement> {
    if let Some(out) = out {
        fs::create_dir_all(out).with_context(|| format!("can't make {}", out.display()))?;
    }
    let jobs: Vec<(usize, u64)> = (0..groups.len()).flat_map(|g| (0..repeat).map(move |r| (g, r))).collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let work = || -> Result<()> {
        while let Some((g, r)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            let Some(group) = groups.get(g) else { continue };
            let mut options = group.options.clone();
            options.seed = options.seed.wrapping_add(r);
            let outcome = large::run(&options)?;
            if let (Some(out), 0) = (out, r) {
                write(out, &group.label, &outcome).context("can't write the traces")?;
            }
            let figures = figures(&options, &outcome);
            if let Ok(mut done) = done.lock() {
                done.insert((g, r), figures);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a run panicked"))?)
    })?;
    let mut done = done.into_inner().map_err(|_| anyhow::anyhow!("a run panicked"))?;
    let measured = groups.iter().enumerate().map(|(g, group)| {
        let runs: Vec<Figures> = (0..repeat).filter_map(|r| done.remove(&(g, r))).collect();
        Measured {
            label: group.label.clone(),
            options: group.options.clone(),
            summary: summary(&runs),
            runs,
            compromise: compromised(&group.options),
        }
    });
    let groups = measured.collect();
    let measurement = Measurement { schema: SCHEMA, version: env!("CARGO_PKG_VERSION"), command, groups };
    if let Some(out) = out {
        fs::write(out.join("result.json"), serde_json::to_vec(&measurement)?).context("can't write the result")?;
    }
    Ok(measurement)
}

fn compromised(options: &Options) -> Vec<compromise::Answer> {
    let ask = |bad: &f64| {
        compromise::answer(&Question {
            edges: BAD_RELAYS / 2,
            mixes: BAD_RELAYS / 4,
            bad: *bad,
            interval: options.interval,
            clients: BAD_CLIENTS,
            seed: options.seed,
        })
    };
    BAD.iter().map(ask).collect()
}

/// What was seen and what is true, in files of their own.
fn write(out: &Path, label: &str, outcome: &Outcome) -> Result<()> {
    let label = label.replace([' ', '='], "-");
    if !outcome.seen.is_empty() {
        let mut file = BufWriter::new(File::create(out.join(format!("trace-{label}.jsonl")))?);
        write_seen(&outcome.seen, Geometry::DEFAULT.packet_len(), &mut file)?;
        file.flush()?;
    }
    let mut file = BufWriter::new(File::create(out.join(format!("truth-{label}.jsonl")))?);
    for m in &outcome.messages {
        let client = |c: u32| name(c | large::CLIENT);
        let row = serde_json::json!({
            "from": client(m.from), "to": client(m.to),
            "written_us": m.written_us, "sent_us": m.sent_us, "delivered_us": m.delivered_us,
        });
        writeln!(file, "{row}")?;
    }
    Ok(file.flush()?)
}
