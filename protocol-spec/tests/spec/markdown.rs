//! The pages and their tables.

use std::fs;
use std::path::Path;

/// A page of the specification.
pub(crate) struct Page {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A table, with the comment that stands above it.
pub(crate) struct Table {
    pub(crate) mark: Option<String>,
    pub(crate) header: Vec<String>,
    /// Each with its line in the page, counted from 1.
    pub(crate) rows: Vec<(usize, Vec<String>)>,
}

/// All pages, sorted by name.
pub(crate) fn pages() -> Vec<Page> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec");
    let mut pages: Vec<Page> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .map(|path| Page {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            text: fs::read_to_string(&path).unwrap(),
        })
        .collect();
    pages.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(pages.len() >= 13, "eleven chapters, the threat model and the list of them");
    pages
}

impl Page {
    /// The lines outside code fences, counted from 1.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut fenced = false;
        self.text.lines().enumerate().filter_map(move |(n, line)| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            (!fence && !fenced).then_some((n + 1, line))
        })
    }

    /// All tables.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        let mut mark = None;
        let mut inside = false;
        for (n, line) in self.prose() {
            let Some(cells) = cells(line) else {
                inside = false;
                mark = match line.trim() {
                    "" => mark,
                    line => line.strip_prefix("<!-- ").and_then(|m| m.strip_suffix(" -->")).map(str::to_owned),
                };
                continue;
            };
            if !inside {
                inside = true;
                tables.push(Table { mark: mark.take(), header: cells, rows: Vec::new() });
            } else if let Some(table) = tables.last_mut()
                && !cells.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| "-: ".contains(c)))
            {
                table.rows.push((n, cells));
            }
        }
        tables
    }
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?;
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// What stands between backticks.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
