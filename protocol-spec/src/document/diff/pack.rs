//! Deflate (RFC 1951), without any frame.

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use crate::error::Malformed;
use crate::params::DEFLATE_MAX_RATIO;

/// Effort, of 10: documents are packed once and fetched by everyone.
const LEVEL: u8 = 9;

pub(super) fn deflate(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, LEVEL)
}

/// Exactly `length` bytes from all of `packed`. No room is made for more than `packed` can become.
pub(super) fn inflate(packed: &[u8], length: usize, what: &'static str) -> Result<Vec<u8>, Malformed> {
    if length > packed.len().saturating_mul(DEFLATE_MAX_RATIO) {
        return Err(Malformed::TooLong(what));
    }
    let mut bytes = vec![0; length];
    let mut state = Box::<DecompressorOxide>::default();
    let (status, read, written) =
        decompress(&mut state, packed, &mut bytes, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
    match status {
        TINFLStatus::Done if read < packed.len() => Err(Malformed::Trailing(what)),
        TINFLStatus::Done if written == length => Ok(bytes),
        TINFLStatus::HasMoreOutput => Err(Malformed::TooLong(what)),
        TINFLStatus::Done | TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
            Err(Malformed::Truncated(what))
        }
        _ => Err(Malformed::Value(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_to_its_stated_length_and_no_other() {
        let bytes: Vec<u8> = (0..5_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = deflate(&bytes);
        assert!(packed.len() < bytes.len() / 2);
        assert_eq!(inflate(&packed, bytes.len(), "x"), Ok(bytes.clone()));
        assert_eq!(inflate(&packed, bytes.len() - 1, "x"), Err(Malformed::TooLong("x")));
        assert!(inflate(&packed, bytes.len() + 1, "x").is_err());
        assert!(inflate(&packed[..packed.len() - 1], bytes.len(), "x").is_err());
        assert_eq!(inflate(&[packed.as_slice(), &[0]].concat(), bytes.len(), "x"), Err(Malformed::Trailing("x")));
        assert_eq!(inflate(&[], 0, "x"), Err(Malformed::Truncated("x")));
    }

    #[test]
    fn a_bomb_finds_no_room() {
        let bomb = deflate(&vec![0; 8 << 20]);
        assert!(bomb.len() < 9_000, "it is one");
        assert_eq!(inflate(&bomb, 64, "x"), Err(Malformed::TooLong("x")));
        assert_eq!(inflate(&[0; 8], 8 * DEFLATE_MAX_RATIO + 1, "x"), Err(Malformed::TooLong("x")));
    }
}
