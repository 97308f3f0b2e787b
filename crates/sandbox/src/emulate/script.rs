//! The first line of a script, as the kernel reads it: execve(2).

/// How much of a file is looked at.
pub(crate) const HEAD: usize = 256;

/// What `#!` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) interpreter: Vec<u8>,
    /// All that follows, as one argument.
    pub(crate) argument: Option<Vec<u8>>,
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_end(byte: u8) -> bool {
    is_blank(byte) || byte == 0
}

pub(crate) fn is_script(head: &[u8]) -> bool {
    head.starts_with(b"#!")
}

/// The line at the beginning of a script; `None` where it names no interpreter, or not all of it is in sight (ENOEXEC).
pub(crate) fn parse(head: &[u8]) -> Option<Line> {
    // What lies beyond the end of a short file is zero.
    let mut head = head.to_vec();
    head.resize(HEAD, 0);
    let rest = head.get(2..HEAD - 1)?;
    let line = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => rest.get(..end)?,
        None => {
            let start = rest.iter().position(|byte| !is_blank(*byte))?;
            rest.get(start..)?.iter().position(|byte| is_end(*byte))?;
            rest
        }
    };
    let length = line.iter().rposition(|byte| !is_blank(*byte))? + 1;
    let line = line.get(..length)?;
    let line = line.get(line.iter().position(|byte| !is_blank(*byte))?..)?;
    let end = line.iter().position(|byte| is_end(*byte)).unwrap_or(line.len());
    let (interpreter, after) = line.split_at(end);
    let argument = match after.first() {
        None | Some(0) => None,
        Some(_) => after.iter().position(|byte| !is_blank(*byte)).and_then(|start| after.get(start..)),
    };
    let argument = argument.map(|text| text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
    // An empty argument is none to a program that is NUL-terminated at once.
    Some(Line { interpreter: interpreter.to_vec(), argument: argument.filter(|text| !text.is_empty()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(interpreter: &str, argument: Option<&str>) -> Option<Line> {
        Some(Line { interpreter: interpreter.into(), argument: argument.map(Into::into) })
    }

    #[test]
    fn lines() {
        assert_eq!(parse(b"#!/bin/sh\nx"), line("/bin/sh", None));
        assert_eq!(parse(b"#! /bin/sh -e x \t\n"), line("/bin/sh", Some("-e x")));
        assert_eq!(parse(b"#!\t/usr/bin/env\tperl"), line("/usr/bin/env", Some("perl")));
        assert_eq!(parse(b"#!/bin/sh\0-e\n"), line("/bin/sh", None));
        assert_eq!(parse(b"#!/bin/sh\r\n"), line("/bin/sh\r", None));
        assert_eq!(parse(b"#!\n/bin/sh"), None);
        assert_eq!(parse(b"#!  \n"), None);
        let long = [b"#!/".as_slice(), &[b'a'; 300]].concat();
        assert_eq!(parse(&long), None);
        let long = [b"#!/bin/sh ".as_slice(), &[b'a'; 300]].concat();
        assert_eq!(parse(&long).unwrap().argument.unwrap().len(), 245);
    }
}
