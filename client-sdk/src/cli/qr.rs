//! Invitations as QR codes: for a terminal, and as a PNG file.

use fast_qr::qr::QRBuilder;
use fast_qr::{ECL, QRCode};
use miniz_oxide::deflate::compress_to_vec_zlib;

/// Light modules around the code; the standard asks for four, and readers are content with two.
const MARGIN: usize = 2;
/// Pixels of a module in a PNG.
const SCALE: usize = 8;
/// zlib's middle way.
const LEVEL: u8 = 6;

/// A link as dark and light modules.
pub(super) struct Code(QRCode);

impl Code {
    /// The code of a link. In upper case, which the link's text permits, it takes fewer modules: 37 in a row.
    pub(super) fn of(link: &str) -> Option<Self> {
        QRBuilder::new(link.to_uppercase()).ecl(ECL::L).build().ok().map(Self)
    }

    /// Modules in a row, margins included.
    const fn size(&self) -> usize {
        self.0.size + 2 * MARGIN
    }

    fn is_dark(&self, x: usize, y: usize) -> bool {
        let inside = |v: usize| v.checked_sub(MARGIN).filter(|v| *v < self.0.size);
        let (Some(x), Some(y)) = (inside(x), inside(y)) else { return false };
        self.0.data.get(y * self.0.size + x).is_some_and(|module| module.value())
    }

    /// For a terminal: two modules in a character, light ones drawn, so that it can be read on dark terminals.
    pub(super) fn lines(&self) -> Vec<String> {
        let pair = |x, y| match (self.is_dark(x, y), y + 1 >= self.size() || self.is_dark(x, y + 1)) {
            (false, false) => '█',
            (false, true) => '▀',
            (true, false) => '▄',
            (true, true) => ' ',
        };
        (0..self.size()).step_by(2).map(|y| (0..self.size()).map(|x| pair(x, y)).collect()).collect()
    }

    /// A PNG file, one bit a pixel.
    pub(super) fn png(&self) -> Vec<u8> {
        let side = self.size() * SCALE;
        let mut rows = Vec::with_capacity(side * (side / 8 + 2));
        for y in 0..side {
            // Each row begins with its filter: none.
            rows.push(0);
            for byte in 0..side.div_ceil(8) {
                let light = |bit: usize| !self.is_dark((byte * 8 + bit) / SCALE, y / SCALE);
                rows.push((0..8).fold(0, |all, bit| all << 1 | u8::from(light(bit))));
            }
        }
        let side = u32::try_from(side).unwrap_or_default().to_be_bytes();
        let head = [side.as_slice(), &side, &[1, 0, 0, 0, 0]].concat();
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, data) in [(b"IHDR", head), (b"IDAT", compress_to_vec_zlib(&rows, LEVEL)), (b"IEND", Vec::new())] {
            png.extend_from_slice(&u32::try_from(data.len()).unwrap_or_default().to_be_bytes());
            let chunk = [kind.as_slice(), &data].concat();
            png.extend_from_slice(&chunk);
            png.extend_from_slice(&crc(&chunk).to_be_bytes());
        }
        png
    }
}

/// The checksum of a PNG's chunks (CRC-32 of ISO 3309).
fn crc(bytes: &[u8]) -> u32 {
    let bit = |c: u32| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 };
    !bytes.iter().fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |c, _| bit(c)))
}

#[cfg(test)]
mod tests {
    use miniz_oxide::inflate::decompress_to_vec_zlib;

    use super::*;

    const LINK: &str =
        "posta:p1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqy";

    #[test]
    fn a_link_fits_a_terminal_of_24_lines() {
        let code = Code::of(LINK).unwrap();
        let lines = code.lines();
        assert!(lines.len() <= 21 && lines.iter().all(|l| l.chars().count() == code.size()), "{}", lines.len());
        // The finder in the corner: dark around light around dark.
        let corner: String = (0..7).map(|i| if code.is_dark(MARGIN + i, MARGIN + 3) { '#' } else { '.' }).collect();
        assert_eq!(corner, "#.###.#");
    }

    #[test]
    fn a_png_says_its_size_and_every_module() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
        let code = Code::of(LINK).unwrap();
        let png = code.png();
        let side = code.size() * SCALE;
        assert_eq!(png[16..20], u32::try_from(side).unwrap().to_be_bytes());
        let len = u32::from_be_bytes(png[33..37].try_into().unwrap()) as usize;
        assert_eq!(&png[37..41], b"IDAT");
        let rows = decompress_to_vec_zlib(&png[41..41 + len]).unwrap();
        let wide = side.div_ceil(8) + 1;
        assert_eq!(rows.len(), side * wide);
        for y in 0..code.size() {
            for x in 0..code.size() {
                // A module is as many pixels wide as a byte has bits.
                let byte = rows[y * SCALE * wide + 1 + x];
                assert_eq!(byte, if code.is_dark(x, y) { 0 } else { 0xff });
            }
        }
    }
}
