//! No number and no context string without a vector: a new one can't be forgotten.

use std::collections::BTreeSet;

use posta_protocol::crypto::context;
use posta_protocol::registry;
use serde_json::Value;

use crate::files::vectors;
use crate::json::Fields;

/// Every number that stands in a field `key` anywhere below `value`.
fn numbers(value: &Value, key: &str, found: &mut BTreeSet<u64>) {
    match value {
        Value::Array(list) => list.iter().for_each(|v| numbers(v, key, found)),
        Value::Object(fields) => {
            for (name, field) in fields {
                if name == key {
                    let several = field.as_array().map_or_else(|| core::slice::from_ref(field), Vec::as_slice);
                    found.extend(several.iter().filter_map(Value::as_u64));
                }
                numbers(field, key, found);
            }
        }
        _ => {}
    }
}

/// Numbers in the fields named by `way`: each step goes to that field, the last one is looked for anywhere below.
fn stated(file: &str, kind: Option<&str>, way: &[&str]) -> BTreeSet<u64> {
    let (key, steps) = way.split_last().unwrap();
    let mut found = BTreeSet::new();
    for vector in vectors(file) {
        if kind.is_some_and(|kind| vector.at("kind").text() != kind) {
            continue;
        }
        let mut at = Some(&vector);
        for step in steps {
            at = at.and_then(|v| v.get(step));
        }
        let Some(at) = at else { continue };
        // Without steps, the vector's own field and nothing below it.
        match at.get(key) {
            Some(own) if steps.is_empty() => found.extend(own.as_u64()),
            _ => numbers(at, key, &mut found),
        }
    }
    found
}

fn assert_covers<T: Copy + Into<u64>>(what: &str, all: &[(&str, T)], found: &BTreeSet<u64>) {
    let missing: Vec<_> = all.iter().filter(|(_, n)| !found.contains(&(*n).into())).map(|(name, _)| name).collect();
    assert!(missing.is_empty(), "{what}: no vector has {missing:?}");
}

#[test]
fn every_number_of_the_registry_has_a_vector() {
    use registry::{
        admission, answer, certificate, command, content, directory, directory_answer, evidence, frame, hop, parameter,
        position, profile, queue, refusal, vote_state,
    };
    let hops = &stated("packet", None, &["hops", "code"]) | &stated("reply", None, &["hops", "code"]);
    assert_covers("hop", hop::ALL, &hops);
    assert_covers("command", command::ALL, &stated("commands", None, &["code"]));
    assert_covers("answer", answer::ALL, &stated("answers", None, &["code"]));
    assert_covers("queue, in commands", queue::ALL, &stated("commands", None, &["fields", "queue_kind"]));
    assert_covers("queue, in answers", queue::ALL, &stated("answers", None, &["fields", "queue_kind"]));
    assert_covers("admission, shown", admission::ALL, &stated("commands", None, &["fields", "proof", "code"]));
    assert_covers("admission, asked", admission::ALL, &stated("answers", None, &["fields", "asks", "code"]));
    assert_covers("frame", frame::ALL, &stated("links", Some("frame"), &["code"]));
    assert_covers("profile", profile::ALL, &stated("links", Some("frame"), &["profile"]));
    assert_covers("directory", directory::ALL, &stated("documents", Some("request"), &["code"]));
    assert_covers("directory_answer", directory_answer::ALL, &stated("documents", Some("reply"), &["code"]));
    assert_covers("refusal", refusal::ALL, &stated("documents", Some("reply"), &["fields", "refusal"]));
    assert_covers("certificate", certificate::ALL, &stated("documents", Some("certificate"), &["fields", "purpose"]));
    assert_covers("evidence", evidence::ALL, &stated("documents", Some("evidence"), &["fields", "code"]));
    let states = stated("documents", Some("round report"), &["fields", "votes", "state"]);
    assert_covers("vote_state", vote_state::ALL, &states);
    let in_body = |way: &[&str]| stated("documents", Some("consensus body"), way);
    assert_covers("position", position::ALL, &in_body(&["fields", "relays", "layers"]));
    assert_covers("parameter", parameter::ALL, &in_body(&["fields", "params", "code"]));
    assert_covers("content", content::ALL, &stated("boxes", Some("content"), &["code"]));
}

#[test]
fn every_context_string_has_a_vector() {
    let all = vectors("kdf");
    let strings: Vec<_> = all.iter().filter_map(|v| v.get("context")).map(Fields::text).collect();
    assert_eq!(strings, context::ALL.iter().map(|(_, string)| *string).collect::<Vec<_>>());
}

#[test]
fn a_number_without_a_vector_is_noticed() {
    let found = stated("commands", None, &["code"]);
    let later = std::panic::catch_unwind(|| assert_covers("command", &[("LATER", 99_u8)], &found));
    assert!(later.is_err() && found.contains(&u64::from(registry::command::ECHO)));
}
