//! Errors of the system as programs of Go word them.

use std::io;

/// A kernel's error as Go words it: the C library's text without a capital and without its number.
#[must_use]
pub fn go_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    if error.raw_os_error().is_none() {
        return text.to_owned();
    }
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        assert_eq!(go_reason(&io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(go_reason(&io::Error::from_raw_os_error(8)), "exec format error");
        assert_eq!(go_reason(&io::Error::other("Own words")), "Own words");
    }
}
