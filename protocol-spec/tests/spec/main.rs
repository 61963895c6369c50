//! The chapters in `spec/` and the code say the same: numbers, wire numbers, domain strings, tests, links.
//!
//! Each check is a function over text that returns what is wrong, so that each is also tried on text that is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod links;
mod markdown;
mod numbers;
mod tables;
mod threats;
mod transcribed;

use std::collections::BTreeSet;

use markdown::{Page, pages};
use numbers::Known;

const PARAMS: &str = include_str!("../../src/params.rs");
const REGISTRY: &str = include_str!("../../src/registry.rs");
/// The files of test vectors, which somebody else makes.
const VECTORS: [&str; 11] = [
    "kdf.json",
    "xwing.json",
    "packet.json",
    "reply.json",
    "commands.json",
    "answers.json",
    "documents.json",
    "links.json",
    "invitations.json",
    "boxes.json",
    "refused.json",
];

/// What every page of the specification has to say about something, and what this is.
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Checks each page by itself.
fn each_page(check: impl Fn(&Page) -> Vec<String>) -> Vec<String> {
    pages().iter().flat_map(check).collect()
}

#[test]
fn every_number_of_the_specification_is_the_codes() {
    let known = Known::all();
    assert_none(&each_page(|page| numbers::wrong(page, &known)));
}

#[test]
fn every_parameter_is_named_by_the_specification() {
    let declared = numbers::declared(PARAMS);
    assert!(declared.len() > 50, "the scan of params.rs finds its constants: {declared:?}");
    let params: BTreeSet<&str> = numbers::params().into_iter().map(|(name, _)| name).collect();
    assert_eq!(params, declared, "the table of the test, and params.rs");
    assert_none(&numbers::unused(&pages(), &Known::all()));
}

#[test]
fn no_table_has_a_size_or_time_without_a_name() {
    assert_none(&each_page(tables::unnamed));
}

#[test]
fn the_tables_of_wire_numbers_are_the_registry() {
    let modules: BTreeSet<String> = tables::registry().into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(modules, tables::modules(REGISTRY), "the list of the test, and registry.rs");
    assert_none(&tables::registry_differs(&pages()));
}

#[test]
fn the_table_of_domain_strings_is_the_codes() {
    assert_none(&tables::strings_differ(&pages()));
}

#[test]
fn each_row_of_the_threat_model_names_a_test_or_says_that_there_is_none() {
    let page = pages().into_iter().find(|page| page.name == "threat-model.md").unwrap();
    let tests = threats::tests_of_the_repository();
    assert!(tests.len() > 200, "the walk finds the tests: {}", tests.len());
    assert!(threats::rows(&page).len() > 15, "the table is found");
    assert_none(&threats::unchecked(&page, &tests));
}

#[test]
fn links_lead_to_pages_and_sections_that_exist() {
    assert_none(&links::broken(&pages()));
}

#[test]
fn the_chapters_name_each_file_of_vectors_and_no_other() {
    assert_none(&links::vectors_differ(&pages(), &VECTORS));
}

/// A page that says `text`.
fn page(text: &str) -> Page {
    Page { name: "test.md".into(), text: text.into() }
}

/// Whether exactly one problem was found, and it says this.
fn caught(problems: &[String], what: &str) {
    assert!(problems.len() == 1 && problems[0].contains(what), "{what}: {problems:?}");
}

#[test]
fn a_wrong_number_is_caught() {
    let known = Known::all();
    let wrong = |text: &str| numbers::wrong(&page(text), &known);
    assert_none(&wrong("{BOX_LEN = 11,264} {BOX_LEN = 11264} {DEFAULT_KEY_EPOCH = 6 h} {DEFAULT_KEY_EPOCH = 360 min}"));
    assert_none(&wrong("a geometry {hops, payload}, {id hash, buffer}"));
    caught(&wrong("a\nb {BOX_LEN = 11,265}"), "test.md:2: BOX_LEN is 11,265 here and 11264 in the code");
    caught(&wrong("{DEFAULT_KEY_EPOCH = 7 h}"), "DEFAULT_KEY_EPOCH");
    caught(&wrong("{DEFAULT_KEY_EPOCH = 21,600}"), "DEFAULT_KEY_EPOCH");
    caught(&wrong("{BOX_LEN = 1,12,64}"), "no number");
    caught(&wrong("{BOX_LEN = }"), "no number");
}

#[test]
fn an_unknown_or_badly_written_name_is_caught() {
    let known = Known::all();
    let wrong = |text: &str| numbers::wrong(&page(text), &known);
    caught(&wrong("{BOX_LENGTH = 11,264}"), "no constant BOX_LENGTH");
    caught(&wrong("{BOX_LEN=11,264}"), "is not written");
    caught(&wrong("{BOX_LEN}"), "is not written");
    caught(&wrong("```\n{BOX_LEN = 1}\n```"), "BOX_LEN");
    caught(&wrong("{BOX_LEN = 11,264"), "is not closed");
}

#[test]
fn a_parameter_that_no_chapter_names_is_caught() {
    let known = Known::of(&numbers::params()[..2]);
    let (one, two) = (known.names()[0], known.names()[1]);
    assert_none(&numbers::unused(&[page(&format!("{{{one} = 1}} {{{two} = 1}}"))], &known));
    caught(&numbers::unused(&[page(&format!("{{{one} = 1}}"))], &known), two);
}

#[test]
fn a_new_constant_is_found_in_the_source() {
    let source = "/// A.\npub const A_B: usize = 1;\nconst PRIVATE: u8 = 2;\npub const C: Duration = X;\n";
    assert_eq!(numbers::declared(source), BTreeSet::from(["A_B", "C"]));
}

#[test]
fn a_size_or_time_without_a_name_is_caught() {
    let unnamed = |cell: &str| tables::unnamed(&page(&format!("| what | how |\n|---|---|\n| x | {cell} |\n")));
    for cell in ["32 bytes", "5s", "10 ms", "1.5 h", "3 KiB", "90 d", "20 µs", "a 32-byte key", "2 min", "at most 1 B"]
    {
        caught(&unnamed(cell), "test.md:3");
    }
    for cell in [
        "{BOX_LEN = 11,264}",
        "{MAX_PHASE = 60 s}",
        "`u8` ‖ `[32]`",
        "X25519, AES-256",
        "3 others",
        "1 to {MAX_HOPS = 8}",
    ] {
        assert_none(&unnamed(cell));
    }
    caught(&tables::unnamed(&page("| what | length |\n|---|---|\n| x | 32 |\n")), "test.md:3");
    assert_none(&tables::unnamed(&page("5 s in prose\n```\n| 32 bytes |\n```\n")));
}

#[test]
fn a_registry_table_that_differs_is_caught() {
    let right =
        "<!-- registry: queue -->\n| number | name |\n|---|---|\n| 0 | `PLAIN` |\n| 1 | `CONTACT` |\n| 2 | `BULK` |\n";
    let differs = |text: &str| {
        let all = tables::registry_differs(&[page(text)]);
        all.into_iter().filter(|p| p.contains("queue")).collect::<Vec<_>>()
    };
    assert_none(&differs(right));
    caught(&differs(&right.replace("| 1 | `CONTACT` |\n", "")), "CONTACT");
    caught(&differs(&right.replace("| 2 | `BULK`", "| 3 | `BULK`")), "BULK");
    caught(&differs(&format!("{right}| 3 | `MORE` |\n")), "MORE");
    caught(&differs(&format!("{right}| 2 | `BULK` |\n")), "BULK");
    caught(&differs(""), "no table");
    caught(&differs(&format!("{right}\n{right}")), "2 tables");
    caught(&tables::registry_differs(&[page(&right.replace("queue", "quue"))])[..1], "quue");
}

#[test]
fn a_domain_string_that_differs_is_caught() {
    let table: String = pages().iter().find(|p| p.text.contains("<!-- domain strings -->")).unwrap().text.clone();
    let differ = |text: &str| tables::strings_differ(&[page(text)]);
    assert_none(&differ(&table));
    caught(&differ(&table.replace("`posta v1 vote`", "`posta v1 votes`")), "VOTE");
    let line = table.lines().find(|line| line.starts_with("| `INBOX`")).unwrap();
    caught(&differ(&table.replace(&format!("{line}\n"), "")), "INBOX");
    caught(&differ("nothing"), "no table");
}

#[test]
fn a_row_without_a_test_or_with_one_that_does_not_exist_is_caught() {
    let tests = BTreeSet::from(["a_test".to_owned()]);
    let unchecked = |cell: &str| {
        let text = format!("| adversary | learns | checked by |\n|---|---|---|\n| x | `y` | {cell} |\n");
        threats::unchecked(&page(&text), &tests)
    };
    for cell in ["`a_test`", "*not defended*", "*not built yet*: a reason", "*not defended* here, `a_test`"] {
        assert_none(&unchecked(cell));
    }
    caught(&unchecked("`another_test`"), "another_test");
    caught(&unchecked("`a_test`, `another_test`"), "another_test");
    caught(&unchecked("by construction"), "names no test");
    caught(&unchecked(""), "names no test");
}

#[test]
fn only_tests_count_as_tests() {
    let source = "#[test]\nfn one() {}\nfn two() {}\n#[tokio::test]\nasync fn three() {}\n// fn four()\n\
                  #[test]\n#[ignore = \"x\"]\nfn five() {}\n";
    assert_eq!(threats::tests_in(source), ["one", "three", "five"]);
}

#[test]
fn a_broken_link_is_caught() {
    let broken = |text: &str| {
        let other = Page { name: "02-other.md".into(), text: "# 2. Other\n## 2.1 A thing, named\n".into() };
        links::broken(&[page(text), other])
    };
    assert_none(&broken(
        "[2.1](02-other.md) [chapter 2](02-other.md) [x](02-other.md#21-a-thing-named) [w](https://a.b)",
    ));
    assert_none(&broken("```\n[x](nowhere.md)\n```"));
    caught(&broken("[x](03-other.md)"), "03-other.md");
    caught(&broken("[x](02-other.md#22-a-thing)"), "22-a-thing");
    caught(&broken("[2.2](02-other.md)"), "2.2");
    caught(&broken("[chapter 3](02-other.md)"), "chapter 3");
}

#[test]
fn a_file_of_vectors_that_is_missing_or_made_up_is_caught() {
    let differ = |text: &str| links::vectors_differ(&[page(text)], &["a.json", "b.json"]);
    assert_none(&differ("`../vectors/a.json`, `../vectors/b.json`"));
    caught(&differ("`../vectors/a.json`"), "b.json");
    caught(&differ("`../vectors/a.json`, `../vectors/b.json`, `../vectors/c.json`"), "c.json");
}
