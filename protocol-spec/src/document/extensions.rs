//! Room for what later versions add: numbered fields that this version keeps and doesn't read.

use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::params::{MAX_EXTENSION_LEN, MAX_EXTENSIONS};

/// Numbered fields, sorted by number. Required versions and measurements take their place here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions(Vec<(u16, Vec<u8>)>);

impl Extensions {
    /// The field with this number.
    #[must_use]
    pub fn get(&self, code: u16) -> Option<&[u8]> {
        let i = self.0.binary_search_by_key(&code, |(code, _)| *code).ok()?;
        self.0.get(i).map(|(_, bytes)| bytes.as_slice())
    }

    /// Sets a field, replacing the one with the same number.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] if the field or the list would exceed its bound.
    pub fn set(&mut self, code: u16, bytes: Vec<u8>) -> Result<(), Malformed> {
        if bytes.len() > MAX_EXTENSION_LEN {
            return Err(Malformed::TooLong("extension"));
        }
        match self.0.binary_search_by_key(&code, |(code, _)| *code) {
            Ok(i) => {
                if let Some(field) = self.0.get_mut(i) {
                    field.1 = bytes;
                }
            }
            Err(_) if self.0.len() >= MAX_EXTENSIONS => return Err(Malformed::TooLong("extensions")),
            Err(i) => self.0.insert(i, (code, bytes)),
        }
        Ok(())
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let n = r.count(MAX_EXTENSIONS, "extensions")?;
        let mut list: Vec<(u16, Vec<u8>)> = Vec::with_capacity(n);
        for _ in 0..n {
            let code = r.u16("extension")?;
            if list.last().is_some_and(|(last, _)| *last >= code) {
                return Err(Malformed::Value("extensions"));
            }
            list.push((code, r.bounded(MAX_EXTENSION_LEN, "extension")?.to_vec()));
        }
        Ok(Self(list))
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.count(self.0.len());
        for (code, bytes) in &self.0 {
            w.u16(*code);
            w.bounded(bytes);
        }
    }
}
