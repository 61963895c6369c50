//! The files: what is in each, how it is made, and how it is read.

use std::path::{Path, PathBuf};
use std::{env, fs};

use posta_protocol::params::PROTOCOL_VERSION;
use serde_json::Value;

use crate::json::{Fields, Json, object};
use crate::{
    answers, boxes, commands, diffs, documents, invitations, kdf, links, packets, refused, replies, requests, xwing,
};

/// The layout of the files themselves.
const FORMAT: u64 = 1;
/// Set to 1, it has the files rewritten instead of compared.
const WRITE: &str = "POSTA_WRITE_VECTORS";
/// The folder is read by people and cloned by everyone.
const MAX_FOLDER_LEN: usize = 1_900_000;

pub(crate) struct File {
    pub(crate) name: &'static str,
    about: &'static str,
    make: fn() -> Vec<Json>,
}

pub(crate) const ALL: [File; 11] = [
    File { name: "kdf", about: "Derivation of keys, hashes, tags, ids, puzzles and signatures.", make: kdf::make },
    File { name: "xwing", about: "X-Wing: the draft's own vectors, and ours.", make: xwing::make },
    File { name: "packet", about: "Packets of several geometries, built and peeled hop by hop.", make: packets::make },
    File { name: "reply", about: "Reply blocks, the replies they carry, and their recovery.", make: replies::make },
    File { name: "commands", about: "Queue commands in the innermost layer.", make: commands::make },
    File { name: "answers", about: "Answers of a queue relay.", make: answers::make },
    File { name: "documents", about: "The directory's documents, requests and replies.", make: all_documents },
    File { name: "links", about: "What is said on a link beside packets.", make: links::make },
    File { name: "invitations", about: "Invitations: link, offer and blob.", make: invitations::make },
    File { name: "boxes", about: "Sealed boxes of a queue, and their contents.", make: boxes::make },
    File { name: "refused", about: "What must be refused, and why.", make: refused::make },
];

fn all_documents() -> Vec<Json> {
    [documents::make(), requests::make(), diffs::make()].concat()
}

impl File {
    fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(format!("{}.json", self.name))
    }

    fn made(&self) -> String {
        let file = object! {
            "format": FORMAT,
            "protocol_version": PROTOCOL_VERSION,
            "about": self.about,
            "vectors": (self.make)(),
        };
        file.pretty()
    }

    fn read(&self) -> String {
        if rewriting() {
            return self.made();
        }
        fs::read_to_string(self.path())
            .unwrap_or_else(|e| panic!("{}: {e}; {WRITE}=1 writes it", self.path().display()))
    }
}

fn rewriting() -> bool {
    env::var(WRITE).is_ok_and(|v| v == "1")
}

/// The vectors of a file. While the files are being rewritten: of what is being written.
pub(crate) fn vectors(name: &str) -> Vec<Value> {
    let file = ALL.iter().find(|f| f.name == name).unwrap();
    let parsed: Value = serde_json::from_str(&file.read()).unwrap();
    assert_eq!((parsed.at("format").number(), parsed.at("protocol_version").number()), (FORMAT, 1), "{name}");
    parsed.at("vectors").items().to_vec()
}

/// Those of one kind, where a file has several.
pub(crate) fn of_kind(file: &str, kind: &str) -> Vec<Value> {
    let found: Vec<_> = vectors(file).into_iter().filter(|v| v.at("kind").text() == kind).collect();
    assert!(!found.is_empty(), "{file}: nothing of kind {kind}");
    found
}

pub(crate) fn name(vector: &Value) -> &str {
    vector.at("name").text()
}

#[test]
fn the_files_are_what_the_code_makes() {
    let mut differing = Vec::new();
    for file in &ALL {
        let made = file.made();
        if rewriting() {
            fs::write(file.path(), &made).unwrap();
        } else if let read = file.read()
            && read != made
        {
            differing.push(format!("{}.json: {}", file.name, first_difference(&read, &made)));
        }
    }
    assert!(
        differing.is_empty(),
        "vectors differ from the code. If the protocol was changed on purpose, {WRITE}=1 rewrites them.\n{}",
        differing.join("\n")
    );
}

fn first_difference(read: &str, made: &str) -> String {
    let mut name = "the file's head";
    for (read, made) in read.lines().chain(core::iter::repeat("")).zip(made.lines()) {
        if let Some(named) = made.strip_prefix("      \"name\": ") {
            name = named.trim_end_matches(',');
        }
        if read != made {
            let cut = |s: &str| s.trim().chars().take(100).collect::<String>();
            return format!("{name}: the file has `{}`, the code makes `{}`", cut(read), cut(made));
        }
    }
    "the file has more than the code makes".to_owned()
}

#[test]
fn every_vector_has_a_name_of_its_own_and_the_folder_is_small() {
    let mut total = 0;
    for file in &ALL {
        total += file.read().len();
        let vectors = vectors(file.name);
        let mut names: Vec<_> = vectors.iter().map(name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "{}: {names:?}", file.name);
    }
    assert!(total <= MAX_FOLDER_LEN, "{total} bytes");
}
