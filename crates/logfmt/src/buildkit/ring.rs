//! The last lines of a step, for the recap of its failure.

/// How many lines are kept.
const LINES: usize = 10;

/// A ring of lines. A line without an end is put into the current place and stays there until it is complete; BuildKit
/// shows such a line first in its recap, and so does this.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    lines: [Option<Vec<u8>>; LINES],
    at: usize,
}

impl Ring {
    /// Puts a line into the current place, and moves on if it is complete.
    pub(super) fn put(&mut self, line: &[u8], complete: bool) {
        if let Some(place) = self.lines.get_mut(self.at) {
            let kept = place.get_or_insert_default();
            kept.clear();
            kept.extend_from_slice(line);
        }
        if complete {
            self.at = (self.at + 1) % LINES;
        }
    }

    /// The lines from the current place on, once around.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let (newer, older) = self.lines.split_at(self.at.min(LINES));
        older.iter().chain(newer).flatten().map(Vec::as_slice)
    }
}
