//! `status`: how a relay that runs stands, as text, as JSON, or as a live view.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use posta_link::exit;
use posta_protocol::now::Wall;

use super::{Common, screen};
use crate::config::Config;
use crate::driver::{Utc, control};
use crate::failure::Failure;
use crate::report::{Filter, Level, Report, State};

/// How long a relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// A view of the whole terminal that follows the relay; `q` ends it.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Exit codes of their own: 0 the relay is well, 1 it isn't, 2 it can't be asked.
pub(super) fn status(args: &Status) -> Result<ExitCode, Failure> {
    let state = Config::load(&args.common.config)?.state_dir;
    if args.watch {
        if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
            return Err(Failure::usage("--watch needs a terminal: leave it out, or take --json"));
        }
        return screen::watch(&|| ask(&state));
    }
    let report = ask(&state)?;
    let text = if args.json { serde_json::to_string_pretty(&report).map_err(Failure::other)? } else { text(&report) };
    // Where nobody listens there is nothing to say.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    Ok(code(&report))
}

/// What the exit code says of a report.
pub(super) fn code(report: &Report) -> ExitCode {
    ExitCode::from(if report.well() { exit::OK } else { exit::FAILURE })
}

/// What the relay with this configuration file says of itself.
///
/// # Errors
/// One sentence: the file, or why the relay can't be asked.
pub fn report(config: &Path) -> Result<Report, Failure> {
    ask(&Config::load(config)?.state_dir)
}

/// Asks the relay whose state lies in this folder.
fn ask(state: &Path) -> Result<Report, Failure> {
    let asked = control::ask(state, control::STATUS, Some(PATIENCE));
    let asked = asked.map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::usage(format_args!(
            "the relay runs, but has not answered within {} s: it hangs, or its disk does",
            PATIENCE.as_secs()
        )),
        _ => Failure::usage(format_args!("the relay can't be asked: {e}; ask as its user")),
    })?;
    let answer = asked.ok_or_else(|| {
        let folder = state.display();
        Failure::usage(format_args!("no relay runs with the state folder {folder}: start it (posta-node run)"))
    })?;
    let answer = answer.map_err(Failure::usage)?;
    serde_json::from_str(&answer)
        .map_err(|_| Failure::usage("the relay that runs is of another version: use the `posta-node` that it runs"))
}

/// A report for people.
fn text(report: &Report) -> String {
    let mut text = format!("{}\n", title(report));
    for (name, says) in lines(report) {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{name:<12} {says}");
    }
    for problem in &report.problems {
        let _ = writeln!(text, "{:<12} {}: {}", level(problem.level), problem.code, problem.says);
    }
    text
}

pub(super) const fn level(level: Level) -> &'static str {
    match level {
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

/// The relay's short name, what it does, and whether it is well.
pub(super) fn title(report: &Report) -> String {
    let relay = report.relay.get(..8).unwrap_or(&report.relay);
    let state = match report.state {
        State::Waiting => "waiting for the network",
        State::Running => "running",
        State::Stopping => "stopping",
    };
    let well = if report.well() { "well" } else { "not well" };
    format!("relay {relay}… {state}, {well}")
}

/// The rest, line by line: what it is about, and what there is to say.
pub(super) fn lines(report: &Report) -> Vec<(&'static str, String)> {
    let Report { directory, place, links, packets, store, signing_key, clock, .. } = report;
    let counted = |name: &str| packets.counters.get(name).copied().unwrap_or_default();
    let mut lines = vec![("started", format!("{} ago, version {}", span(report.uptime_s), report.version))];
    lines.push(("directory", consensus(report)));
    if let Some(accepted) = directory.accepted {
        lines.push(("descriptor", format!("taken by {accepted} of {} authorities", directory.authorities)));
    }
    lines.push(("offers", place.offers.join(", ")));
    if let (Some(epoch), Some(turns)) = (place.key_epoch, place.turns_in_s) {
        let name = |place: &Option<String>| place.clone().unwrap_or_else(|| "no place".into());
        let (now, next) = (name(&place.now), name(&place.next));
        lines.push(("place", format!("{now} for {} more, in key epoch {epoch}; then {next}", span(turns))));
    }
    let (out, in_, clients) = (links.out, links.in_, links.clients);
    lines.push(("links", format!("{out} out, {in_} in, {clients} of clients")));
    lines.push((
        "packets",
        format!(
            "{} received, {} forwarded, {} delivered, {} commands, {} waiting for their time",
            packets.received,
            counted("forwarded"),
            counted("delivered"),
            counted("commands"),
            packets.delayed
        ),
    ));
    let dropped: Vec<_> = DROPS.iter().filter(|(name, _)| counted(name) > 0).collect();
    let dropped: Vec<_> = dropped.iter().map(|(name, words)| format!("{} {words}", counted(name))).collect();
    lines.push(("dropped", if dropped.is_empty() { "none".into() } else { dropped.join(", ") }));
    if let Some(retirement) = report.retiring {
        let until = Utc(Wall(retirement.until.saturating_mul(1000)));
        lines.push((
            "retiring",
            format!("takes nothing new; goes when nobody needs it any more, on {until} at the latest"),
        ));
    }
    let held = counted("held_back");
    if held > 0 {
        lines.push(("held back", format!("senders were made to wait {held} times, for slow neighbours")));
    }
    lines.push(("messages", format!("{} stored, {} answers sent", counted("stored"), counted("answers"))));
    lines.push((
        "loops",
        match report.loops.loss_permille() {
            None => "none has ended in the last hour".into(),
            Some(lost) => {
                let all = report.loops.returned + report.loops.lost;
                format!("{}.{} % of {all} lost in the last hour", lost / 10, lost % 10)
            }
        },
    ));
    lines.push((
        "store",
        format!(
            "{} of {} queues, {} of {}",
            store.queues,
            store.max_queues,
            bytes(store.bytes),
            bytes(store.quota_bytes)
        ),
    ));
    let writes = if store.writable { "takes writes" } else { "takes no writes" };
    let least = bytes(store.min_free_bytes);
    lines.push(("disk", format!("{writes}, {} free; {least} are kept free", bytes(store.free_bytes))));
    let filter = match report.replay_filter {
        Filter::Room => "less than four fifths full",
        Filter::High => "four fifths full",
        Filter::VeryHigh => "nine tenths full",
        Filter::Full => "full",
    };
    lines.push(("replays", format!("the filter is {filter}")));
    lines.push((
        "clock",
        match clock.off_s {
            0 => "within the consensus' times".into(),
            off if off > 0 => format!("{} ahead, or more", span(off.unsigned_abs())),
            off => format!("{} behind, or more", span(off.unsigned_abs())),
        },
    ));
    let until = Utc(Wall(signing_key.expires.saturating_mul(1000)));
    let renewed = if signing_key.identity_here { "renewed by itself" } else { "the identity key is elsewhere" };
    lines.push(("signing key", format!("until {until}, {renewed}")));
    lines
}

/// Why packets were dropped: the counter, and its words.
const DROPS: &[(&str, &str)] = &[
    ("refused", "refused (replays, or not for here)"),
    ("replay_full", "replay filter full"),
    ("replay_unwritten", "replay log unwritten"),
    ("illegal_route", "not a path's next step"),
    ("delay_full", "too many waiting"),
    ("stopped", "stopped before their time"),
    ("no_inbox", "inbox gone"),
    ("inbox_overflow", "inbox overflowed"),
    ("client_backlog", "client too slow"),
    ("link_backlog", "next relay too slow or gone"),
];

fn consensus(report: &Report) -> String {
    let directory = &report.directory;
    let (Some(epoch), Some(age), Some(left)) = (directory.epoch, directory.age_s, directory.left_s) else {
        return "no consensus yet".into();
    };
    let listed = if directory.listed { "listed" } else { "not listed" };
    let age = if age < 0 { "not begun".to_owned() } else { format!("{} old", span(age.unsigned_abs())) };
    let left = match left {
        ..=0 => "not valid any more".to_owned(),
        left => format!("valid for {} more", span(left.unsigned_abs())),
    };
    format!("{listed} in epoch {epoch}, {age}, {left}")
}

/// Seconds in their two largest units.
pub(super) fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = UNITS.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(UNITS.len() - 1);
    let mut left = seconds;
    let mut parts = Vec::new();
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        if parts.is_empty() || left / unit > 0 {
            parts.push(format!("{} {name}", left / unit));
        }
        left %= unit;
    }
    parts.join(" ")
}

/// Bytes in the largest unit that leaves a whole part.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && n >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 {
        return format!("{n} {name}");
    }
    let tenths = (u128::from(n) * 10) >> (10 * unit);
    if tenths >= 1000 { format!("{} {name}", tenths / 10) } else { format!("{}.{} {name}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::LoopCount;
    use crate::report::tests::well;

    #[test]
    fn a_report_is_told_to_people() {
        let mut report = well();
        report.directory.left_s = Some(-5);
        report.loops = LoopCount { returned: 39, lost: 1 };
        report.packets.counters.insert("refused".into(), 3);
        report.judge();
        let text = text(&report);
        for words in [
            "relay abababab… running, not well\n",
            "directory    listed in epoch 7, 1 min old, not valid any more\n",
            "descriptor   taken by 3 of 4 authorities\n",
            "dropped      3 refused",
            "loops        2.5 % of 40 lost in the last hour\n",
            "error        consensus_expired: the newest consensus is not valid any more",
            "signing key  until 2030-03-17 17:46:40 UTC, renewed by itself\n",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let spans = [0, 59, 60, 3599, 7260, 90_000].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "59 min 59 s", "2 h 1 min", "1 d 1 h"]);
        let sizes = [0, 1023, 1024, 1536, 200 << 20, (5 << 30) + (1 << 29), u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "200 MiB", "5.5 GiB", "16777215 TiB"]);
    }
}
