//! The live view: the whole terminal, drawn anew every second, without a terminal library.
//!
//! It uses the alternate screen and puts everything back when it ends. Keys: `q`, Escape or Ctrl-C end it; so do SIGTERM,
//! SIGINT and SIGHUP, within a second.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use rustix::termios::{OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::status::{bytes, code, level, lines, title};
use crate::driver::Told;
use crate::failure::Failure;
use crate::report::{Level, Report};

/// Seconds of the past that the curves show at most: more than a terminal has columns.
const PAST: usize = 512;
/// Between two looks, in the terminal's tenths of a second.
const TENTHS: u8 = 10;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Follows a relay until a key ends it; the exit code is that of the last look.
pub(super) fn watch(ask: &dyn Fn() -> Result<Report, Failure>) -> Result<ExitCode, Failure> {
    // Asked once before anything is drawn: a relay that isn't there is said in one line.
    let mut looked = Ok(ask()?);
    let mut past = Past::default();
    let told = Told::listen().map_err(|e| Failure::other(format_args!("signals can't be handled: {e}")))?;
    let terminal = Raw::enter().map_err(|e| Failure::usage(format_args!("the terminal can't be used: {e}")))?;
    loop {
        if let Ok(report) = &looked {
            past.add(report);
        }
        let size = tcgetwinsize(io::stdout()).map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()));
        let page = page(&looked, &past, size);
        let drawn = io::stdout().write_all(page.as_bytes()).and_then(|()| io::stdout().flush());
        if drawn.is_err() || told.to_end() || quits(&mut io::stdin().lock()) || told.to_end() {
            break;
        }
        looked = ask();
    }
    drop(terminal);
    looked.map(|report| code(&report))
}

/// Waits for keys until the next look; whether one of them ends the view.
fn quits(keys: &mut impl Read) -> bool {
    const CTRL_C: u8 = 3;
    const ESCAPE: u8 = 0x1b;
    let mut buffer = [0; 64];
    match keys.read(&mut buffer) {
        // An arrow or function key is an escape with more behind it.
        Ok(n) => match buffer.get(..n) {
            Some([ESCAPE]) => true,
            Some([ESCAPE, ..]) | None => false,
            Some(keys) => keys.iter().any(|key| matches!(key, b'q' | b'Q' | &CTRL_C)),
        },
        Err(e) => e.kind() != io::ErrorKind::Interrupted,
    }
}

/// The terminal without line editing and echo, as long as this lives.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // A read returns after a second at the latest, with what was typed or nothing.
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = TENTHS;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let terminal = Self(before);
        io::stdout().write_all(ENTER.as_bytes())?;
        Ok(terminal)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Whatever fails here, the program ends.
        let _ = io::stdout().write_all(LEAVE.as_bytes()).and_then(|()| io::stdout().flush());
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// What the curves are drawn from: packets per second.
#[derive(Default)]
struct Past {
    last: Option<[u64; 3]>,
    curves: [VecDeque<u64>; 3],
}

const CURVES: [&str; 3] = ["received/s", "forwarded/s", "delivered/s"];

impl Past {
    fn add(&mut self, report: &Report) {
        let counted = |name: &str| report.packets.counters.get(name).copied().unwrap_or_default();
        let now = [report.packets.received, counted("forwarded"), counted("delivered")];
        if let Some(last) = self.last {
            for ((curve, now), last) in self.curves.iter_mut().zip(now).zip(last) {
                curve.push_back(now.saturating_sub(last));
                if curve.len() > PAST {
                    curve.pop_front();
                }
            }
        }
        self.last = Some(now);
    }
}

/// One whole picture for a terminal of so many columns and rows.
fn page(looked: &Result<Report, Failure>, past: &Past, (columns, rows): (usize, usize)) -> String {
    let mut drawn = Vec::new();
    match looked {
        Ok(report) => {
            let colour = if report.well() { "42;30" } else { "41;97" };
            drawn.push(painted(colour, &padded(&format!(" {} ", title(report)), columns)));
            drawn.push(String::new());
            for problem in &report.problems {
                let colour = if problem.level == Level::Error { "31;1" } else { "33" };
                let text = cut(&format!(" {:<12} {}: {}", level(problem.level), problem.code, problem.says), columns);
                drawn.push(painted(colour, &text));
            }
            if !report.problems.is_empty() {
                drawn.push(String::new());
            }
            let width = columns.saturating_sub(24).min(PAST);
            for (name, curve) in CURVES.iter().zip(&past.curves) {
                let now = curve.back().copied().unwrap_or_default();
                drawn.push(labelled(name, &format!("{now:>8} {}", curve_of(curve, width)), columns));
            }
            let store = &report.store;
            let full = gauge(store.bytes, store.quota_bytes, columns.saturating_sub(40).min(40));
            let words = format!("{full} {} of {}", bytes(store.bytes), bytes(store.quota_bytes));
            drawn.push(labelled("quota", &words, columns));
            drawn.push(String::new());
            for (name, says) in lines(report) {
                drawn.push(labelled(name, &says, columns));
            }
        }
        Err(failure) => {
            drawn.push(painted("41;97", &padded(" the relay doesn't answer ", columns)));
            drawn.push(String::new());
            drawn.push(cut(&format!(" {failure}"), columns));
        }
    }
    drawn.truncate(rows.saturating_sub(1));
    // From the top, each line to its end, then nothing below: without a flicker.
    let mut page = String::from("\x1b[H");
    for line in drawn {
        let _ = write!(page, "{line}\x1b[K\r\n");
    }
    let _ = write!(page, "\x1b[J\x1b[{rows};1H{}", painted("2", &cut(" q: quit", columns)));
    page
}

fn labelled(name: &str, says: &str, columns: usize) -> String {
    let says = cut(says, columns.saturating_sub(14));
    format!(" {} {says}", painted("1", &format!("{name:<12}")))
}

fn painted(colour: &str, text: &str) -> String {
    format!("\x1b[{colour}m{text}\x1b[0m")
}

/// At most so many characters.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

fn padded(text: &str, columns: usize) -> String {
    format!("{:<columns$}", cut(text, columns))
}

/// The newest values, as bars; the highest of them is a full one.
fn curve_of(values: &VecDeque<u64>, width: usize) -> String {
    let shown: Vec<_> = values.iter().rev().take(width).rev().copied().collect();
    let most = shown.iter().copied().max().unwrap_or_default().max(1);
    let bar = |n: u64| match n {
        0 => ' ',
        n => {
            let step = usize::try_from(n.saturating_mul(7) / most).unwrap_or_default();
            BARS.get(step).copied().unwrap_or('█')
        }
    };
    shown.into_iter().map(bar).collect()
}

fn gauge(part: u64, whole: u64, width: usize) -> String {
    let full = u128::from(part) * width as u128 / u128::from(whole.max(1));
    let full = usize::try_from(full).unwrap_or(width).min(width);
    format!("[{}{}]", "█".repeat(full), "·".repeat(width - full))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::well;

    /// The text of a page without its escapes, line by line.
    fn plain(page: &str) -> Vec<String> {
        let mut text = String::new();
        let mut chars = page.chars();
        while let Some(c) = chars.next() {
            if c == '\x1b' {
                chars.next();
                chars.by_ref().find(char::is_ascii_alphabetic);
            } else {
                text.push(c);
            }
        }
        text.split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn a_page_fits_every_terminal() {
        let mut past = Past::default();
        let mut report = well();
        report.directory.why_not = Some("a long story ".repeat(20));
        report.judge();
        for n in 0..700 {
            report.packets.received += n % 50;
            past.add(&report);
        }
        for (columns, rows) in [(80, 24), (200, 60), (20, 5), (1, 1), (0, 0)] {
            let lines = plain(&page(&Ok(report.clone()), &past, (columns, rows)));
            assert!(lines.len() <= rows.max(1), "{columns} x {rows}: {}", lines.len());
            for line in &lines {
                // The label takes 14 columns; no terminal is narrower.
                assert!(line.chars().count() <= columns.max(16), "{columns} x {rows}: {line:?}");
            }
        }
        let lines = plain(&page(&Ok(report), &past, (100, 40)));
        assert!(lines[0].contains("running, not well") && lines[0].len() >= 100, "{}", lines[0]);
        assert!(lines.iter().any(|l| l.contains("received/s") && l.contains('█') && l.contains('▁')), "{lines:?}");
        let gone = plain(&page(&Err(Failure::usage("it is gone")), &past, (80, 24)));
        assert!(gone[0].contains("doesn't answer") && gone[2].contains("it is gone"), "{gone:?}");
    }

    #[test]
    fn only_its_keys_end_it() {
        let ends = |keys: &[u8]| quits(&mut &*keys);
        assert!(ends(b"q") && ends(b"xQ") && ends(&[3]) && ends(b"\x1b"));
        assert!(!ends(b"") && !ends(b"x") && !ends(b"\x1b[A"));
    }

    #[test]
    fn curves_and_gauges_show_their_size() {
        assert_eq!(curve_of(&VecDeque::from([9, 0, 1, 7]), 3), " ▂█");
        assert_eq!(gauge(1, 4, 8), "[██······]");
        assert_eq!(gauge(9, 4, 2), "[██]");
        assert_eq!(gauge(0, 0, 2), "[··]");
    }
}
