//! Tables: no size or time without a name, and those that repeat what the code has.

use std::collections::BTreeSet;

use posta_protocol::crypto::context;
use posta_protocol::registry as r;

use crate::markdown::{Page, Table, quoted};
use crate::numbers::without_named;

/// Units of sizes and times.
const UNITS: &[&str] = &[
    "B", "byte", "bytes", "octets", "kB", "KB", "MB", "GB", "KiB", "MiB", "GiB", "s", "sec", "second", "seconds",
    "min", "minute", "minutes", "h", "hour", "hours", "d", "day", "days", "week", "weeks", "ms", "µs", "us",
];
/// In columns with one of these words above them, no digit stands outside a name.
const MEASURES: &[&str] = &["size", "length", "bytes", "life", "timeout", "keep-alive", "quota", "interval", "delay"];

/// Sizes and times in a page's tables that have no name.
pub(crate) fn unnamed(page: &Page) -> Vec<String> {
    let mut problems = Vec::new();
    for table in page.tables() {
        for (line, cells) in &table.rows {
            for (i, cell) in cells.iter().enumerate() {
                let bare = without_named(cell);
                let header = table.header.get(i).map(String::as_str).unwrap_or_default();
                let measured = header.split(' ').any(|word| MEASURES.contains(&word));
                let digits = measured && bare.chars().any(|c| c.is_ascii_digit());
                if digits || has_unit(&bare) {
                    problems.push(format!("{}:{line}: a size or time without a name: {cell}", page.name));
                }
            }
        }
    }
    problems
}

/// Whether a number with a unit of size or time is in the text.
fn has_unit(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        if !chars[at].is_ascii_digit() || inside_word {
            at += 1;
            continue;
        }
        while chars.get(at).is_some_and(|c| c.is_ascii_digit() || ",.".contains(*c)) {
            at += 1;
        }
        let gap = chars[at..].iter().take_while(|c| [' ', '-', '\u{a0}'].contains(c)).count();
        let unit: String = chars[at + gap..].iter().take_while(|c| c.is_alphabetic()).collect();
        if UNITS.contains(&unit.as_str()) {
            return true;
        }
    }
    false
}

/// Names and numbers of a table of the registry.
type Numbers = Vec<(&'static str, u64)>;

fn wide<T: Copy + Into<u64>>(all: &[(&'static str, T)]) -> Numbers {
    all.iter().map(|(name, number)| (*name, (*number).into())).collect()
}

/// All tables of the registry.
pub(crate) fn registry() -> Vec<(&'static str, Numbers)> {
    vec![
        ("hop", wide(r::hop::ALL)),
        ("command", wide(r::command::ALL)),
        ("answer", wide(r::answer::ALL)),
        ("queue", wide(r::queue::ALL)),
        ("admission", wide(r::admission::ALL)),
        ("info", wide(r::info::ALL)),
        ("frame", wide(r::frame::ALL)),
        ("profile", wide(r::profile::ALL)),
        ("stream", wide(r::stream::ALL)),
        ("close", wide(r::close::ALL)),
        ("evidence", wide(r::evidence::ALL)),
        ("reliability", wide(r::reliability::ALL)),
        ("speed", wide(r::speed::ALL)),
        ("vote_state", wide(r::vote_state::ALL)),
        ("directory", wide(r::directory::ALL)),
        ("directory_answer", wide(r::directory_answer::ALL)),
        ("refusal", wide(r::refusal::ALL)),
        ("reach", wide(r::reach::ALL)),
        ("relay_field", wide(r::relay_field::ALL)),
        ("certificate", wide(r::certificate::ALL)),
        ("family", wide(r::family::ALL)),
        ("role", wide(r::role::ALL)),
        ("position", wide(r::position::ALL)),
        ("diff_place", wide(r::diff_place::ALL)),
        ("origin", wide(r::origin::ALL)),
        ("parameter", wide(r::parameter::ALL)),
        ("content", wide(r::content::ALL)),
        ("inner", wide(r::inner::ALL)),
    ]
}

/// The tables that `registry.rs` declares: lines like `    hop: u8 {`.
pub(crate) fn modules(source: &str) -> BTreeSet<String> {
    let module = |line: &str| {
        let (name, int) = line.strip_prefix("    ")?.strip_suffix(" {")?.split_once(": ")?;
        ["u8", "u16", "u32"].contains(&int).then(|| name.to_owned())
    };
    source.lines().filter_map(module).collect()
}

fn marked<'a>(tables: &'a [Table], mark: &str) -> Vec<&'a Table> {
    tables.iter().filter(|table| table.mark.as_deref() == Some(mark)).collect()
}

/// Exactly one table has this mark, and its rows, of which `row` makes pairs, are `right`, each once.
fn differs(
    tables: &[Table],
    mark: &str,
    right: &BTreeSet<(String, String)>,
    row: impl Fn(&[String]) -> (String, String),
) -> Vec<String> {
    let found = marked(tables, mark);
    let [table] = found.as_slice() else {
        let how_many = if found.is_empty() { "no table".into() } else { format!("{} tables", found.len()) };
        return vec![format!("{mark}: {how_many} with this mark")];
    };
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut problems = Vec::new();
    for (line, cells) in &table.rows {
        let pair = row(cells);
        // Of a row that is wrong, its name isn't missing as well.
        names.insert(pair.0.clone());
        if !right.contains(&pair) || !seen.insert(pair.clone()) {
            problems.push(format!("{mark}, line {line}: {pair:?} is not what the code has, or is there twice"));
        }
    }
    let missing = right.iter().filter(|pair| !names.contains(&pair.0));
    problems.extend(missing.map(|pair| format!("{mark}: {pair:?} is missing")));
    problems
}

fn first_quoted(cells: &[String], column: usize) -> String {
    cells.get(column).and_then(|cell| quoted(cell).next()).unwrap_or_default().to_owned()
}

/// Where the tables of wire numbers differ from the registry.
pub(crate) fn registry_differs(pages: &[Page]) -> Vec<String> {
    let tables: Vec<Table> = pages.iter().flat_map(Page::tables).collect();
    let known: BTreeSet<String> = registry().iter().map(|(name, _)| format!("registry: {name}")).collect();
    let marks = tables.iter().filter_map(|table| table.mark.clone()).filter(|mark| mark.starts_with("registry: "));
    let mut problems: Vec<String> = marks
        .filter(|mark| !known.contains(mark))
        .map(|mark| format!("{mark}: the registry has no such table"))
        .collect();
    for (name, all) in registry() {
        let right = all.iter().map(|(name, number)| ((*name).to_owned(), number.to_string())).collect();
        let number = |cells: &[String]| (first_quoted(cells, 1), cells.first().cloned().unwrap_or_default());
        problems.extend(differs(&tables, &format!("registry: {name}"), &right, number));
    }
    problems
}

/// Where the table of domain strings differs from the code.
pub(crate) fn strings_differ(pages: &[Page]) -> Vec<String> {
    let tables: Vec<Table> = pages.iter().flat_map(Page::tables).collect();
    let right = context::ALL.iter().map(|(name, string)| ((*name).to_owned(), (*string).to_owned())).collect();
    differs(&tables, "domain strings", &right, |cells| (first_quoted(cells, 0), first_quoted(cells, 1)))
}
