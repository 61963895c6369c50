//! A configuration from several places: its file, the drop-ins beside it, the environment. The later one wins.
//!
//! ```text
//! FOLDER/node.toml           the file
//! FOLDER/conf.d/*.toml       drop-ins, in the order of their names
//! POSTA_STORE__QUEUE_QUOTA   a variable: the prefix, then the key's path in capitals, its parts joined by "__"
//! ```
//! A table is merged key by key, everything else is replaced as a whole, lists too.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{ConfigError, dotted, line_of, merge, nearest_key, parse, read, tree};

/// The folder of drop-ins, beside the configuration file.
pub const DROP_INS: &str = "conf.d";
/// Drop-ins at most; more are a mistake.
const MAX_DROP_INS: usize = 256;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => write!(f, "the variable {name}"),
        }
    }
}

/// Which variables are settings.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// What all of them start with.
    pub prefix: &'a str,
    /// Those that start so and mean something else, and whatever goes on from one of them with `_`.
    pub except: &'a [&'a str],
}

/// A configuration, and where its values come from.
#[derive(Clone, Debug)]
pub struct Layered<T> {
    /// The configuration.
    pub config: T,
    origins: BTreeMap<String, Origin>,
}

/// A value that isn't the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The key's dotted path.
    pub key: String,
    /// The value, as TOML.
    pub value: String,
    /// Who says so.
    pub origin: Origin,
}

impl<T: Serialize + Default> Layered<T> {
    /// Every value that isn't the default, sorted by its key.
    #[must_use]
    pub fn changed(&self) -> Vec<Changed> {
        let keys = differences(&T::default(), &self.config).into_iter();
        let all = tree(&self.config);
        keys.filter_map(|key| {
            let origin = self.origins.get(&key)?.clone();
            let value = find(&all, &key).map(ToString::to_string).unwrap_or_default();
            Some(Changed { key, value, origin })
        })
        .collect()
    }
}

/// Reads a configuration file, its drop-ins, and those of `variables` that are settings.
///
/// # Errors
/// [`ConfigError`], naming the file and line, or the variable.
pub fn load_layered<T: Serialize + DeserializeOwned + Default>(
    path: &Path,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    names: Names<'_>,
) -> Result<Layered<T>, ConfigError> {
    let mut layers = Layers::default();
    for file in [path.to_owned()].into_iter().chain(drop_ins(path)?) {
        layers.file::<T>(&file)?;
    }
    // Sorted, so that the same one is complained about each time.
    let variables: BTreeMap<_, _> = variables.into_iter().collect();
    for (name, value) in &variables {
        layers.variable::<T>(name, value, names)?;
    }
    let config = layers.table.try_into().map_err(|e: toml::de::Error| ConfigError::Invalid {
        path: path.to_owned(),
        line: 1,
        message: e.message().replace('\n', ", "),
    })?;
    Ok(Layered { config, origins: layers.origins })
}

/// The dotted paths of all values in which two configurations differ, sorted.
#[must_use]
pub fn differences<T: Serialize>(a: &T, b: &T) -> Vec<String> {
    let (a, b) = (tree(a), tree(b));
    let mut keys = BTreeMap::new();
    leaves(&a, "", &mut keys);
    leaves(&b, "", &mut keys);
    keys.into_keys().filter(|key| find(&a, key) != find(&b, key)).collect()
}

/// `config` with the values of `other` under `keys`: whole tables, or single values, by their dotted paths.
#[must_use]
pub fn with_keys_of<T: Serialize + DeserializeOwned + Clone>(config: &T, other: &T, keys: &[&str]) -> T {
    let (mut table, other) = (tree(config), tree(other));
    for key in keys {
        if let Some(value) = find(&other, key) {
            put(&mut table, key, value.clone());
        }
    }
    // Both came from a `T`, so the mixture is one.
    table.try_into().unwrap_or_else(|_| config.clone())
}

#[derive(Default)]
struct Layers {
    table: Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn file<T: Serialize + DeserializeOwned + Default>(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = read(path)?;
        // By itself first: its mistakes are named with their lines.
        let _: T = parse(path, &text)?;
        if let Ok(file) = DeTable::parse(&text) {
            self.note(file.get_ref(), "", &text, path);
        }
        merge(&mut self.table, toml::from_str(&text).unwrap_or_default());
        Ok(())
    }

    fn note(&mut self, file: &DeTable<'_>, prefix: &str, text: &str, path: &Path) {
        for (key, value) in file {
            let dotted = dotted(prefix, key.get_ref());
            if let DeValue::Table(inner) = value.get_ref() {
                self.note(inner, &dotted, text, path);
            } else {
                let line = line_of(text, &key.span());
                self.origins.insert(dotted, Origin::File { path: path.to_owned(), line });
            }
        }
    }

    fn variable<T: Serialize + DeserializeOwned + Default>(
        &mut self,
        name: &OsStr,
        value: &OsStr,
        names: Names<'_>,
    ) -> Result<(), ConfigError> {
        let Some(name) = name.to_str() else { return Ok(()) };
        let excepted = |start: &&str| name.strip_prefix(*start).is_some_and(|on| on.is_empty() || on.starts_with('_'));
        let Some(rest) = name.strip_prefix(names.prefix).filter(|_| !names.except.iter().any(excepted)) else {
            return Ok(());
        };
        let key = rest.to_lowercase().replace("__", ".");
        let mut known = tree(&T::default());
        merge(&mut known, self.table.clone());
        let held = match find(&known, &key) {
            Some(held) if !held.is_table() => held.clone(),
            _ => {
                let nearest = nearest_key(&key, &known).map(|key| variable_of(&key, names.prefix));
                return Err(ConfigError::UnknownVariable { name: name.to_owned(), nearest });
            }
        };
        let wrong =
            |message: &str| ConfigError::Variable { name: name.to_owned(), message: message.replace('\n', ", ") };
        let value = value.to_str().ok_or_else(|| wrong("it is not valid UTF-8"))?;
        let value = if held.is_str() {
            Value::String(value.to_owned())
        } else {
            let table: Table = toml::from_str(&format!("v = {value}")).map_err(|e| wrong(e.message()))?;
            table.get("v").filter(|_| table.len() == 1).cloned().ok_or_else(|| wrong("it is not one value"))?
        };
        put(&mut self.table, &key, value);
        if let Err(e) = self.table.clone().try_into::<T>() {
            return Err(wrong(e.message()));
        }
        self.origins.insert(key, Origin::Variable(name.to_owned()));
        Ok(())
    }
}

fn variable_of(key: &str, prefix: &str) -> String {
    format!("{prefix}{}", key.replace('.', "__").to_uppercase())
}

/// The drop-ins beside a configuration file, in the order of their names. Hidden files are passed over.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("")).join(DROP_INS);
    let unreadable = |source| ConfigError::Read { path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let file = entry.path();
        if !hidden && file.extension().is_some_and(|e| e == "toml") {
            files.push(file);
        }
        if files.len() > MAX_DROP_INS {
            return Err(ConfigError::TooMany(folder));
        }
    }
    files.sort();
    Ok(files)
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((first, rest)) => find(table.get(first)?.as_table()?, rest),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table.entry(first.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

fn leaves(table: &Table, prefix: &str, into: &mut BTreeMap<String, ()>) {
    for (key, value) in table {
        let path = dotted(prefix, key);
        match value {
            Value::Table(inner) => leaves(inner, &path, into),
            _ => {
                into.insert(path, ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Sample {
        name: String,
        places: Vec<String>,
        store: Store,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Store {
        quota: u32,
        days: u64,
    }

    impl Default for Store {
        fn default() -> Self {
            Self { quota: 128, days: 21 }
        }
    }

    const NAMES: Names<'_> = Names { prefix: "POSTA_", except: &["POSTA_CACHE"] };

    /// A folder with a configuration and drop-ins, loaded under some variables.
    fn load(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Layered<Sample>, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(DROP_INS)).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        load_layered(&folder.path().join("node.toml"), variables, NAMES).map_err(|e| e.to_string())
    }

    #[test]
    fn later_layers_win_key_by_key_and_say_where_they_are() {
        let files = [
            ("node.toml", "name = 'a'\nplaces = ['x', 'y']\n[store]\nquota = 1\ndays = 1\n"),
            ("conf.d/20-b.toml", "[store]\nquota = 3\n"),
            ("conf.d/10-a.toml", "name = 'b'\nplaces = ['z']\n\n[store]\nquota = 2\n"),
            ("conf.d/.hidden.toml", "no TOML at all"),
            ("conf.d/README", "no TOML either"),
        ];
        let Layered { config, origins } = load(&files, &[]).unwrap();
        let expected = Sample { name: "b".into(), places: vec!["z".into()], store: Store { quota: 3, days: 1 } };
        assert_eq!(config, expected);
        let line = |key: &str| origins[key].to_string().rsplit_once('/').unwrap().1.to_owned();
        assert_eq!(line("name"), "10-a.toml, line 1");
        assert_eq!(line("store.quota"), "20-b.toml, line 2");
        assert_eq!(line("store.days"), "node.toml, line 5");

        let variables = [("POSTA_STORE__QUOTA", "7"), ("POSTA_NAME", "7"), ("POSTA_PLACES", "['q']"), ("HOME", "/")];
        let layered = load(&files, &variables).unwrap();
        let expected = Sample { name: "7".into(), places: vec!["q".into()], store: Store { quota: 7, days: 1 } };
        assert_eq!(layered.config, expected);
        let said: Vec<_> =
            layered.changed().iter().map(|c| format!("{} = {} ({})", c.key, c.value, c.origin)).collect();
        assert_eq!(said.len(), 4);
        assert_eq!(said[0], "name = \"7\" (the variable POSTA_NAME)");
        assert_eq!(said[3], "store.quota = 7 (the variable POSTA_STORE__QUOTA)");
    }

    #[test]
    fn what_is_the_default_is_not_worth_a_word() {
        let layered = load(&[("node.toml", "name = ''\n[store]\ndays = 22\nquota = 128\n")], &[]).unwrap();
        let keys: Vec<_> = layered.changed().into_iter().map(|c| c.key).collect();
        assert_eq!(keys, ["store.days"]);
    }

    #[test]
    fn mistakes_name_the_drop_in_or_the_variable() {
        let main = ("node.toml", "");
        let e = load(&[main, ("conf.d/1.toml", "\n[store]\nqouta = 1\n")], &[]).unwrap_err();
        assert!(e.contains("conf.d/1.toml, line 3: there is no key `store.qouta`: did you mean `store.quota`?"), "{e}");
        let e = load(&[main, ("conf.d/1.toml", "name = 3\n")], &[]).unwrap_err();
        assert!(e.contains("conf.d/1.toml, line 1: "), "{e}");
        let with = |name, value| load(&[main], &[(name, value)]);
        let e = with("POSTA_STORE__QOUTA", "1").unwrap_err();
        assert_eq!(e, "the variable POSTA_STORE__QOUTA is no setting: did you mean POSTA_STORE__QUOTA?");
        let e = with("POSTA_STORE", "1").unwrap_err();
        assert!(e.starts_with("the variable POSTA_STORE is no setting"), "{e}");
        for (value, words) in [("many", "POSTA_STORE__QUOTA"), ("-1", "u32"), ("1\ndays = 2", "not one value")] {
            let e = with("POSTA_STORE__QUOTA", value).unwrap_err();
            assert!(e.starts_with("the variable POSTA_STORE__QUOTA: ") && e.contains(words), "{e}");
        }
        for name in ["POSTA_CACHE", "POSTA_CACHE_OLD", "POSTA"] {
            assert_eq!(with(name, "/tmp").unwrap().config, Sample::default(), "{name} is not a setting");
        }
        assert!(with("POSTA_CACHES", "/tmp").is_err());
    }

    #[test]
    fn configurations_are_told_apart_and_mixed_by_their_keys() {
        let a = Sample::default();
        let b = Sample { name: "b".into(), places: vec!["x".into()], store: Store { quota: 1, days: 2 } };
        assert_eq!(differences(&a, &b), ["name", "places", "store.days", "store.quota"]);
        assert_eq!(differences(&a, &a), Vec::<String>::new());
        let mixed = with_keys_of(&a, &b, &["store.days", "places"]);
        assert_eq!(differences(&a, &mixed), ["places", "store.days"]);
        assert_eq!(with_keys_of(&a, &b, &["store"]).store, b.store);
    }
}
