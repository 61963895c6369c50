//! The threat model's rows, and the tests that they name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::markdown::{Page, quoted};

/// What a row without a test must say.
const SAID: [&str; 2] = ["*not defended*", "*not built yet*"];
/// Lines above a test's name in which its attribute stands.
const ATTRIBUTES: usize = 4;

/// The last cell of each row, with its line.
pub(crate) fn rows(page: &Page) -> Vec<(usize, String)> {
    let tables = page.tables().into_iter().filter(|table| table.header.first().is_some_and(|cell| cell == "adversary"));
    tables.flat_map(|table| table.rows).map(|(line, cells)| (line, cells.last().cloned().unwrap_or_default())).collect()
}

/// Rows that name a test which doesn't exist, or none.
pub(crate) fn unchecked(page: &Page, tests: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (line, cell) in rows(page) {
        let mut named = 0;
        for test in quoted(&cell) {
            named += 1;
            if !tests.contains(test) {
                problems.push(format!("{}:{line}: there is no test {test}", page.name));
            }
        }
        if named == 0 && !SAID.iter().any(|said| cell.contains(said)) {
            problems.push(format!("{}:{line}: the row names no test, and does not say that there is none", page.name));
        }
    }
    problems
}

/// The names of all tests in the workspace.
pub(crate) fn tests_of_the_repository() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut tests);
    tests
}

fn walk(folder: &Path, tests: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            walk(&path, tests);
        } else if path.extension().is_some_and(|e| e == "rs") {
            tests.extend(tests_in(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The tests of one source file: functions under an attribute that ends in `test`.
pub(crate) fn tests_in(source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let mut tests = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) else { continue };
        let above = lines[n.saturating_sub(ATTRIBUTES)..n].iter().rev().take_while(|line| line.starts_with(['#', '/']));
        let is_test = above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
        if is_test && let Some((name, _)) = rest.split_once('(') {
            tests.push(name.to_owned());
        }
    }
    tests
}
