//! Places in a Dockerfile: lines as Docker counts them, and byte spans.

use serde::{Deserialize, Serialize};

/// Lines of a Dockerfile, the first being 1, both ends included.
///
/// Docker reports some errors of parser directives at the line before, so that `start` may be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LineRange {
    /// The first line.
    pub start: usize,
    /// The last line.
    pub end: usize,
}

impl LineRange {
    /// The lines from `start` to `end`, or `start` alone if `end` lies before it.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }

    /// One line.
    #[must_use]
    pub fn line(line: usize) -> Self {
        Self::new(line, line)
    }

    /// Whether `line` is one of them.
    #[must_use]
    pub fn contains(&self, line: usize) -> bool {
        (self.start..=self.end).contains(&line)
    }
}

/// Bytes of the file that was parsed: `start` included, `end` not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset past the last byte.
    pub end: usize,
}
