//! The one writer of the vectors' JSON: fields in the order in which they are given, so that differences can be read.

use core::fmt::Write;

use serde_json::Value;

/// What a vector is made of. Bytes are text in lowercase hexadecimal.
#[derive(Clone, Debug)]
pub(crate) enum Json {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<Self>),
    Object(Vec<(&'static str, Self)>),
}

/// An object, its fields in this order.
macro_rules! object {
    ($($key:literal: $value:expr),* $(,)?) => {
        $crate::json::Json::Object(vec![$(($key, $crate::json::Json::from($value))),*])
    };
}
pub(crate) use object;

impl Json {
    /// Adds a field to an object.
    pub(crate) fn with(mut self, key: &'static str, value: impl Into<Self>) -> Self {
        match &mut self {
            Self::Object(fields) => fields.push((key, value.into())),
            other => panic!("{other:?} has no fields"),
        }
        self
    }

    /// As a reader of the file sees it.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(&self.pretty()).unwrap()
    }

    /// Two spaces a level, one field a line, a line feed at the end.
    pub(crate) fn pretty(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out.push('\n');
        out
    }

    fn write(&self, out: &mut String, level: usize) {
        match self {
            Self::Text(text) => {
                assert!(text.chars().all(|c| !c.is_control() && c != '"' && c != '\\'), "would need escaping: {text}");
                write!(out, "\"{text}\"").unwrap();
            }
            Self::Number(n) => write!(out, "{n}").unwrap(),
            Self::Flag(flag) => write!(out, "{flag}").unwrap(),
            Self::List(list) => lines(out, level, ['[', ']'], list, |out, item| item.write(out, level + 1)),
            Self::Object(fields) => lines(out, level, ['{', '}'], fields, |out, (key, value)| {
                write!(out, "\"{key}\": ").unwrap();
                value.write(out, level + 1);
            }),
        }
    }
}

fn lines<T>(out: &mut String, level: usize, [open, close]: [char; 2], items: &[T], one: impl Fn(&mut String, &T)) {
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i == 0 { "\n" } else { ",\n" });
        out.extend(core::iter::repeat_n(' ', 2 * level + 2));
        one(out, item);
    }
    if !items.is_empty() {
        out.push('\n');
        out.extend(core::iter::repeat_n(' ', 2 * level));
    }
    out.push(close);
}

macro_rules! from {
    ($($kind:ty => |$v:ident| $make:expr;)*) => {
        $(impl From<$kind> for Json {
            fn from($v: $kind) -> Self {
                $make
            }
        })*
    };
}

from! {
    &str => |v| Self::Text(v.to_owned());
    String => |v| Self::Text(v);
    bool => |v| Self::Flag(v);
    u8 => |v| Self::Number(v.into());
    u16 => |v| Self::Number(v.into());
    u32 => |v| Self::Number(v.into());
    u64 => |v| Self::Number(v);
    usize => |v| Self::Number(v as u64);
    Vec<Self> => |v| Self::List(v);
    &[u8] => |v| Self::Text(hex(v));
    Vec<u8> => |v| Self::Text(hex(&v));
    Box<[u8]> => |v| Self::Text(hex(&v));
}

impl<const N: usize> From<[u8; N]> for Json {
    fn from(v: [u8; N]) -> Self {
        Self::Text(hex(&v))
    }
}

/// Lowercase hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Length and BLAKE3 hash, and the bytes themselves if there are at most `limit`.
pub(crate) fn long(bytes: &[u8], limit: usize) -> Json {
    let short = object! { "length": bytes.len(), "blake3": *blake3::hash(bytes).as_bytes() };
    if bytes.len() <= limit { short.with("bytes", bytes) } else { short }
}

/// Reading fields of a parsed vector; a panic names what is missing.
pub(crate) trait Fields {
    fn at(&self, key: &str) -> &Value;
    fn items(&self) -> &[Value];
    fn text(&self) -> &str;
    fn number(&self) -> u64;
    fn bytes(&self) -> Vec<u8>;
    fn array<const N: usize>(&self) -> [u8; N];
}

impl Fields for Value {
    fn at(&self, key: &str) -> &Value {
        self.get(key).unwrap_or_else(|| panic!("no field {key} in {self}"))
    }

    fn items(&self) -> &[Value] {
        self.as_array().unwrap_or_else(|| panic!("no list: {self}"))
    }

    fn text(&self) -> &str {
        self.as_str().unwrap_or_else(|| panic!("no text: {self}"))
    }

    fn number(&self) -> u64 {
        self.as_u64().unwrap_or_else(|| panic!("no number: {self}"))
    }

    fn bytes(&self) -> Vec<u8> {
        let text = self.text();
        assert!(text.len().is_multiple_of(2) && !text.contains(|c: char| c.is_ascii_uppercase()), "no bytes: {text}");
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn array<const N: usize>(&self) -> [u8; N] {
        self.bytes().try_into().unwrap_or_else(|_| panic!("not {N} bytes: {self}"))
    }
}
