//! Links between pages, and the names of the vectors' files.

use std::collections::BTreeSet;
use std::path::Path;

use crate::markdown::Page;

/// Links of the pages that lead nowhere: to a page, a heading or a numbered section that isn't there.
pub(crate) fn broken(pages: &[Page]) -> Vec<String> {
    let mut problems = Vec::new();
    for page in pages {
        for (line, text) in page.prose() {
            for (name, target) in links(text) {
                if let Some(what) = problem(pages, page, name, target) {
                    problems.push(format!("{}:{line}: [{name}]({target}): {what}", page.name));
                }
            }
        }
    }
    problems
}

/// The inline links of a line: what is shown, and where it leads.
fn links(line: &str) -> Vec<(&str, &str)> {
    let one = |(at, _): (usize, &str)| {
        let name = line[..at].rsplit_once('[')?.1;
        let target = line[at + 2..].split_once(')')?.0;
        Some((name, target))
    };
    line.match_indices("](").filter_map(one).collect()
}

fn problem(pages: &[Page], from: &Page, name: &str, target: &str) -> Option<&'static str> {
    if target.starts_with("https://") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let to = if file.is_empty() { Some(from) } else { pages.iter().find(|page| page.name == file) };
    let Some(to) = to else {
        let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec").join(file).exists();
        return (!exists).then_some("there is no such page");
    };
    if anchor.is_some_and(|anchor| !headings(to).any(|heading| slug(heading) == anchor)) {
        return Some("there is no such heading");
    }
    let numbered = name.split_once('.').is_some_and(|(a, b)| a.parse::<u8>().is_ok() && b.parse::<u8>().is_ok());
    if numbered && !headings(to).any(|heading| heading.split(' ').next() == Some(name)) {
        return Some("there is no such section");
    }
    let chapter = name.strip_prefix("chapter ").map(|n| format!("{n:0>2}-"));
    if chapter.is_some_and(|prefix| !to.name.starts_with(&prefix)) {
        return Some("that is another chapter");
    }
    None
}

fn headings(page: &Page) -> impl Iterator<Item = &str> {
    page.prose().filter(|(_, line)| line.starts_with('#')).map(|(_, line)| line.trim_start_matches('#').trim())
}

/// A heading's anchor, as the usual renderers make it.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.replace(' ', "-")
}

/// Files of vectors that no page names, and those that pages name and that aren't planned.
pub(crate) fn vectors_differ(pages: &[Page], right: &[&str]) -> Vec<String> {
    let named: BTreeSet<&str> = pages
        .iter()
        .flat_map(|page| page.text.split("../vectors/").skip(1))
        .filter_map(|rest| Some(&rest[..rest.find(".json")? + 5]).filter(|name| !name.contains(char::is_whitespace)))
        .collect();
    let right: BTreeSet<&str> = right.iter().copied().collect();
    named
        .symmetric_difference(&right)
        .map(|name| format!("{name}: named and not planned, or planned and not named"))
        .collect()
}
