//! Output of commands as it is after a way as JSON.
//!
//! The API of Docker's legacy builder sends output as JSON strings, and Go's `encoding/json` writes U+FFFD in place of each
//! byte that is no UTF-8 (20.10.24 and 28.5.2). BuildKit's output goes as bytes.

use std::borrow::Cow;

const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Pieces of at least this size may have been cut within a character by a buffer.
const CUT: usize = 4096;

/// One stream of output.
#[derive(Debug, Default)]
pub(crate) struct JsonText {
    /// The beginning of a character, from the end of a piece that was cut.
    begun: Vec<u8>,
}

impl JsonText {
    /// A piece as it is shown.
    pub(crate) fn shown<'a>(&mut self, data: &'a [u8]) -> Cow<'a, [u8]> {
        if self.begun.is_empty() && std::str::from_utf8(data).is_ok() {
            return Cow::Borrowed(data);
        }
        let mut rest = std::mem::take(&mut self.begun);
        rest.extend_from_slice(data);
        if data.len() >= CUT {
            let incomplete = rest.utf8_chunks().last().map_or(&b""[..], |last| last.invalid());
            if std::str::from_utf8(incomplete).is_err_and(|error| error.error_len().is_none()) {
                self.begun = incomplete.to_vec();
                rest.truncate(rest.len() - self.begun.len());
            }
        }
        Cow::Owned(replaced(&rest))
    }

    /// What is left when no more follows.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        replaced(&std::mem::take(&mut self.begun))
    }
}

fn replaced(data: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(data.len());
    for chunk in data.utf8_chunks() {
        shown.extend_from_slice(chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            shown.extend_from_slice(REPLACEMENT);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(data: &[u8]) -> String {
        String::from_utf8(JsonText::default().shown(data).into_owned()).unwrap()
    }

    #[test]
    fn each_wrong_byte_is_one_character() {
        assert_eq!(shown("hé€\0\x1b[1m".as_bytes()), "hé€\0\x1b[1m");
        assert_eq!(shown(b"\xe2\x90H|\xf0\x9f\x92|\xc3("), "\u{fffd}\u{fffd}H|\u{fffd}\u{fffd}\u{fffd}|\u{fffd}(");
        assert_eq!(shown(b"\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80"), "\u{fffd}".repeat(9));
    }

    #[test]
    fn a_character_that_a_buffer_cuts_stays_whole() {
        let mut text = JsonText::default();
        let long = [vec![b'a'; CUT], b"\xe2\x82".to_vec()].concat();
        assert_eq!(text.shown(&long).len(), CUT);
        assert_eq!(&*text.shown(b"\xac\n"), "€\n".as_bytes());
        assert_eq!(text.shown(&long).len(), CUT);
        assert_eq!(text.end(), "\u{fffd}\u{fffd}".as_bytes());
        assert_eq!(text.end(), b"");
        // What a command wrote in two pieces Docker sent in two.
        assert_eq!(&*text.shown(b"\xe2\x82"), "\u{fffd}\u{fffd}".as_bytes());
        assert_eq!(&*text.shown(b"\xac"), "\u{fffd}".as_bytes());
    }
}
