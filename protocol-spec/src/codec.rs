//! The one reader and the one writer. Integers are little-endian; a whole value leaves no byte behind.

use core::fmt;

use crate::error::Malformed;

/// Reads from a byte slice, never past its end.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Takes `n` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if fewer are left.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Malformed::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes an array.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if too few bytes are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated(what))?;
        self.rest = rest;
        Ok(*head)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    /// Takes two bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Takes four bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Takes eight bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Takes a flag: exactly 0 or 1, so that every value has one encoding.
    ///
    /// # Errors
    /// [`Malformed::Value`] for any other byte.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value(what)),
        }
    }

    /// Takes a u32 length and as many bytes; the length is checked against `max` before anything is taken.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] above the bound, [`Malformed::Truncated`] if fewer bytes are left.
    pub fn bounded(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let n = self.count(max, what)?;
        self.take(n, what)
    }

    /// Takes a u32 count, checked against `max`.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] above the bound.
    pub fn count(&mut self, max: usize, what: &'static str) -> Result<usize, Malformed> {
        let n = usize::try_from(self.u32(what)?).map_err(|_| Malformed::TooLong(what))?;
        if n > max { Err(Malformed::TooLong(what)) } else { Ok(n) }
    }

    /// Takes text of at most `max` bytes.
    ///
    /// # Errors
    /// As [`Reader::bounded`], and [`Malformed::Value`] if it isn't UTF-8.
    pub fn text(&mut self, max: usize, what: &'static str) -> Result<&'a str, Malformed> {
        core::str::from_utf8(self.bounded(max, what)?).map_err(|_| Malformed::Value(what))
    }

    /// Takes everything that is left.
    pub fn remainder(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Ends the value.
    ///
    /// # Errors
    /// [`Malformed::Trailing`] if bytes are left.
    pub const fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing(what)) }
    }
}

/// Writes to a growing buffer.
#[derive(Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty writer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, b: &[u8]) {
        self.out.extend_from_slice(b);
    }

    /// Appends one byte.
    pub fn u8(&mut self, v: u8) {
        self.out.push(v);
    }

    /// Appends two bytes.
    pub fn u16(&mut self, v: u16) {
        self.bytes(&v.to_le_bytes());
    }

    /// Appends four bytes.
    pub fn u32(&mut self, v: u32) {
        self.bytes(&v.to_le_bytes());
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, v: u64) {
        self.bytes(&v.to_le_bytes());
    }

    /// Appends a flag.
    pub fn bool(&mut self, v: bool) {
        self.u8(u8::from(v));
    }

    /// Appends a u32 count. Counts in this protocol are bounded far below 2^32.
    pub fn count(&mut self, n: usize) {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Appends a u32 length and the bytes.
    pub fn bounded(&mut self, b: &[u8]) {
        self.count(b.len());
        self.bytes(b);
    }

    /// The finished bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// What passes through may be a capability or a key: only lengths are shown.
impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} left)", self.left())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({} written)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_is_left() {
        let mut w = Writer::default();
        w.u8(1);
        w.u16(2);
        w.u32(3);
        w.u64(4);
        w.bool(true);
        w.bounded(b"queue");
        let bytes = w.finish();
        let mut r = Reader::new(&bytes);
        assert_eq!((r.u8("a"), r.u16("b"), r.u32("c"), r.u64("d")), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert_eq!(r.bool("e"), Ok(true));
        assert_eq!(r.text(5, "f"), Ok("queue"));
        assert_eq!(r.finish("g"), Ok(()));
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_taken() {
        let bytes = u32::MAX.to_le_bytes();
        assert_eq!(Reader::new(&bytes).bounded(8, "x"), Err(Malformed::TooLong("x")));
        let bytes = 4u32.to_le_bytes();
        assert_eq!(Reader::new(&bytes).bounded(8, "x"), Err(Malformed::Truncated("x")));
    }

    #[test]
    fn a_flag_has_one_encoding() {
        assert_eq!(Reader::new(&[2]).bool("x"), Err(Malformed::Value("x")));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(Reader::new(&[0]).finish("x"), Err(Malformed::Trailing("x")));
    }
}
