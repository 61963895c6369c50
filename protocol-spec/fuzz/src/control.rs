//! The positive control: a target with a fault, which the fuzzer must find. If it doesn't, then it is blind, and that
//! nothing was found elsewhere says nothing.

/// Its name.
pub const NAME: &str = "control";

/// Panics for inputs that begin with `post`, told apart byte by byte as a decoder would. By luck alone it would take
/// 4,000 million tries; with coverage, some ten thousand.
pub fn run(input: &[u8]) {
    let mut rest = input.iter();
    for expected in b"post" {
        if rest.next() != Some(expected) {
            return;
        }
    }
    panic!("the control's fault was found, as it must be");
}
