//! Configuration files: TOML, every key optional, none unknown. [`layers`] adds drop-ins and variables to a file.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

pub mod layers;

/// Bytes of a configuration file at most: far above any real one.
const MAX_CONFIG_LEN: u64 = 1024 * 1024;

/// Why a configuration file can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It can't be read.
    #[error("configuration file {path} can't be read: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no configuration at all.
    #[error("configuration file {path} is longer than {MAX_CONFIG_LEN} bytes: is it the right file?", path = .0.display())]
    TooLong(PathBuf),
    /// It isn't TOML, or a value has another type than its key wants.
    #[error("{path}, line {line}: {message}", path = .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key that means nothing.
    #[error("{path}, line {line}: there is no key `{key}`{hint}", path = .path.display(), hint = hint(nearest.as_deref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key's dotted path.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// There are too many drop-ins for it to be meant.
    #[error("{path} has too many drop-ins: is it the right folder?", path = .0.display())]
    TooMany(PathBuf),
    /// A variable of the environment has a value that its key doesn't take.
    #[error("the variable {name}: {message}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A variable that means nothing.
    #[error("the variable {name} is no setting{hint}", hint = variable_hint(nearest.as_deref()))]
    UnknownVariable {
        /// Its name.
        name: String,
        /// The known one that is most like it.
        nearest: Option<String>,
    },
}

fn variable_hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(|| ": unset it".to_owned(), |name| format!(": did you mean {name}?"))
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(|| ": remove it".to_owned(), |key| format!(": did you mean `{key}`?"))
}

/// Reads a configuration. Keys that are absent have their defaults.
///
/// `T` and the structs in it carry `#[serde(default)]`, and not `deny_unknown_fields`: known keys are those of
/// `T::default()` and those that survive being read into `T`, so that optional keys and free tables work too. A field
/// may not be skipped when it is serialised, `None` excepted.
///
/// # Errors
/// [`ConfigError`], naming the file, and the line and key where there is one.
pub fn load<T: Serialize + DeserializeOwned + Default>(path: &Path) -> Result<T, ConfigError> {
    parse(path, &read(path)?)
}

/// The text of a configuration file.
fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_CONFIG_LEN {
        return Err(ConfigError::TooLong(path.to_owned()));
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// Writes a configuration as TOML.
#[must_use]
pub fn to_toml<T: Serialize>(t: &T) -> String {
    toml::to_string_pretty(t).unwrap_or_else(|e| format!("# this configuration can't be written as TOML: {e}\n"))
}

fn parse<T: Serialize + DeserializeOwned + Default>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let invalid = |e: toml::de::Error| ConfigError::Invalid {
        path: path.to_owned(),
        line: e.span().map_or(1, |span| line_of(text, &span)),
        // One sentence: the parser's own text may take several lines.
        message: e.message().replace('\n', ", "),
    };
    let file = DeTable::parse(text).map_err(invalid)?;
    let config: T = toml::from_str(text).map_err(invalid)?;
    let mut known = tree(&T::default());
    merge(&mut known, tree(&config));
    match unknown_key(file.get_ref(), &known, "") {
        None => Ok(config),
        Some((key, span)) => Err(ConfigError::UnknownKey {
            path: path.to_owned(),
            line: line_of(text, &span),
            nearest: nearest_key(&key, &known),
            key,
        }),
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count()
}

fn tree<T: Serialize>(t: &T) -> Table {
    Table::try_from(t).unwrap_or_default()
}

/// Adds the keys of `more` to `known`.
fn merge(known: &mut Table, more: Table) {
    for (key, value) in more {
        match (known.get_mut(&key), value) {
            (Some(Value::Table(known)), Value::Table(more)) => merge(known, more),
            (_, value) => {
                known.insert(key, value);
            }
        }
    }
}

fn dotted(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// The first key of the file that isn't known, by its dotted path, and where it stands.
fn unknown_key(file: &DeTable<'_>, known: &Table, prefix: &str) -> Option<(String, Range<usize>)> {
    for (key, value) in file {
        let path = dotted(prefix, key.get_ref());
        let Some(known) = known.get(key.get_ref().as_ref()) else { return Some((path, key.span())) };
        let found = match (value.get_ref(), known) {
            (DeValue::Table(file), Value::Table(known)) => unknown_key(file, known, &path),
            (DeValue::Array(file), Value::Array(known)) => {
                file.iter().zip(known).find_map(|(file, known)| match (file.get_ref(), known) {
                    (DeValue::Table(file), Value::Table(known)) => unknown_key(file, known, &path),
                    _ => None,
                })
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The known key most like `key`: by its last part, then by its whole path.
fn nearest_key(key: &str, known: &Table) -> Option<String> {
    let mut candidates = Vec::new();
    list_keys(known, "", &mut candidates);
    let likeness = |candidate: &str| {
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        strsim::jaro_winkler(&last(key), &last(candidate)) + 0.5 * strsim::jaro_winkler(key, candidate)
    };
    candidates.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

fn list_keys(known: &Table, prefix: &str, into: &mut Vec<String>) {
    for (key, value) in known {
        let path = dotted(prefix, key);
        if let Value::Table(inner) = value {
            list_keys(inner, &path, into);
        }
        into.push(path);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Sample {
        name: String,
        operator: Option<String>,
        link: Link,
        authorities: Vec<Authority>,
        labels: BTreeMap<String, u32>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Link {
        address: String,
        port: u16,
    }

    impl Default for Link {
        fn default() -> Self {
            Self { address: "::".into(), port: 4433 }
        }
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Authority {
        identity: String,
    }

    fn parsed(text: &str) -> Result<Sample, ConfigError> {
        parse(Path::new("node.toml"), text)
    }

    #[test]
    fn absent_keys_have_their_defaults_and_what_is_written_is_read() {
        assert_eq!(parsed("").unwrap(), Sample::default());
        let text = "name = 'a'\noperator = 'b'\n[link]\nport = 5\n[[authorities]]\nidentity = 'c'\n[labels]\nany = 1\n";
        let sample = parsed(text).unwrap();
        assert_eq!((sample.operator.as_deref(), sample.link.port), (Some("b"), 5));
        assert_eq!(sample.link.address, "::");
        assert_eq!(parsed(&to_toml(&sample)).unwrap(), sample);
    }

    #[test]
    fn an_unknown_key_names_file_line_path_and_the_nearest_known_key() {
        let e = parsed("name = 'a'\n\n[link]\nadress = 'x'\n").unwrap_err();
        assert_eq!(e.to_string(), "node.toml, line 4: there is no key `link.adress`: did you mean `link.address`?");
        let e = parsed("naem = 'a'\n").unwrap_err().to_string();
        assert!(e.contains("line 1: there is no key `naem`: did you mean `name`?"), "{e}");
        let e = parsed("[[authorities]]\nidentity = 'c'\n[[authorities]]\nidentify = 'd'\n").unwrap_err().to_string();
        assert!(e.contains("line 4") && e.contains("`authorities.identify`"), "{e}");
    }

    #[test]
    fn wrong_types_and_syntax_name_the_line() {
        let e = parsed("name = 'a'\n[link]\nport = 'x'\n").unwrap_err().to_string();
        assert!(e.starts_with("node.toml, line 3: ") && e.contains("u16"), "{e}");
        let e = parsed("name = 'a'\nlink = = 3\n").unwrap_err().to_string();
        assert!(e.starts_with("node.toml, line 2: ") && !e.contains('\n'), "{e}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.toml");
        let e = load::<Sample>(&path).unwrap_err();
        assert!(matches!(&e, ConfigError::Read { .. }) && e.to_string().contains("none.toml"), "{e}");
        fs::write(&path, "name = 'n'\n").unwrap();
        assert_eq!(load::<Sample>(&path).unwrap().name, "n");
    }
}
