//! Logs on standard error that may be shown to anyone.
//!
//! Only `posta*` targets are emitted, at every level: the events of QUIC and TLS libraries name peers. Times are whole
//! minutes in UTC, at every level too, so that a log says little about when a message passed. (A service manager that
//! stamps each line with its own time undoes this; its own settings decide.) Colours only on a terminal.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

/// What all our log targets start with.
const OUR_TARGETS: &str = "posta";

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what someone has to act on now.
    Error,
    /// And what someone should look at.
    Warn,
    /// And what a program does in the large.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And every step.
    Trace,
}

impl LogLevel {
    const ALL: [(&str, Self); 5] = [
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    const fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, level)| level == self).map_or("info", |(name, _)| name);
        f.write_str(name)
    }
}

/// Not the name of a log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose one of error, warn, info, debug, trace")]
pub struct NoSuchLevel;

impl FromStr for LogLevel {
    type Err = NoSuchLevel;

    fn from_str(s: &str) -> Result<Self, NoSuchLevel> {
        Self::ALL.iter().find(|(name, _)| *name == s).map(|(_, level)| *level).ok_or(NoSuchLevel)
    }
}

/// What changes the level of this process's log.
static LEVEL: OnceLock<Level> = OnceLock::new();

type Level = reload::Handle<Targets, Registry>;

/// Starts logging for the program `name`. A second call does nothing.
pub fn init(level: LogLevel, name: &'static str) {
    let colours = io::stderr().is_terminal();
    let (subscriber, handle) = subscriber(level, name, colours, io::stderr);
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Changes how much is logged from now on. Without [`init`] it does nothing.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // Fails only when the log is gone, at the end.
        let _ = handle.reload(targets(level));
    }
}

fn targets(level: LogLevel) -> Targets {
    Targets::new().with_target(OUR_TARGETS, level.filter())
}

fn subscriber<W>(
    level: LogLevel,
    name: &'static str,
    colours: bool,
    writer: W,
) -> (impl Subscriber + Send + Sync, Level)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(level));
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(colours)
        .with_timer(Minutes { name })
        .with_writer(writer)
        .with_filter(filter);
    (Registry::default().with(layer), handle)
}

/// The time in whole minutes, and the program's name.
struct Minutes {
    name: &'static str,
}

impl FormatTime for Minutes {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        #[expect(clippy::disallowed_methods, reason = "a log line has the time of its writing; no protocol reads it")]
        let now = SystemTime::now();
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        write!(w, "{} {}", Minute(seconds / 60), self.name)
    }
}

/// Minutes since 1970, as a date.
struct Minute(u64);

impl fmt::Display for Minute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minute, hour, days) = (self.0 % 60, self.0 / 60 % 24, self.0 / 60 / 24);
        // Days to a civil date (H. Hinnant, "chrono-compatible low-level date algorithms"): years start in March.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_our_targets_are_emitted_and_no_seconds() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, level) = subscriber(LogLevel::Trace, "posta-node", false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "quinn::connection", "a peer's address");
            tracing::trace!(target: "posta_node::driver", "a step");
            level.reload(targets(LogLevel::Warn)).unwrap();
            tracing::error!(target: "quinn::connection", "a peer's address");
            tracing::info!(target: "posta_node::driver", "no longer of interest");
            tracing::warn!(target: "posta_node::driver", "still of interest");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("posta-node TRACE posta_node::driver: a step"), "{text}");
        assert!(!text.contains("address"), "{text}");
        assert!(!text.contains("no longer") && text.contains("WARN posta_node::driver: still"), "{text}");
        assert_eq!(text.find(' '), Some("2026-11-21T06:24Z".len()), "{text}");
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(Minute(0).to_string(), "1970-01-01T00:00Z");
        assert_eq!(Minute(1_709_209_080 / 60).to_string(), "2024-02-29T12:18Z");
        assert_eq!(Minute(1_798_761_599 / 60).to_string(), "2026-12-31T23:59Z");
    }

    #[test]
    fn levels_have_names() {
        for (name, level) in LogLevel::ALL {
            assert_eq!(name.parse(), Ok(level));
            assert_eq!(level.to_string(), name);
        }
        assert_eq!("loud".parse::<LogLevel>(), Err(NoSuchLevel));
    }
}
