//! The piece of the Dockerfile that BuildKit shows with an error.

use std::fmt::Write as _;

use crate::event::Lines;

/// Renders the lines with up to two lines on each side, one for a range of several lines, as `errdefs.Source.Print` of
/// BuildKit 0.25 does. `None` where the lines are not in the text.
#[must_use]
pub fn excerpt(name: &str, text: &str, lines: Lines) -> Option<String> {
    let all: Vec<&str> = text.split('\n').collect();
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let last = lines.end.max(lines.start);
    let (mut start, mut end) = (lines.start, last.min(count));
    if start < 1 || start > count {
        return None;
    }
    let room = if start == last { 4 } else { 2 };
    let mut used = 0;
    while used < room {
        if start > 1 {
            start -= 1;
            used += 1;
        }
        if end < count {
            end += 1;
            used += 1;
        }
        used += 1;
    }
    let rule = "-".repeat(20);
    let mut out = format!("{name}:{}\n{rule}\n", lines.start);
    for (number, line) in (1u32..).zip(all).skip(start as usize - 1).take((end - start) as usize + 1) {
        let mark = if (lines.start..=last).contains(&number) { ">>>" } else { "   " };
        // `write!` to a string cannot fail.
        let _ = writeln!(out, " {number:>3} | {mark} {line}");
    }
    out.push_str(&rule);
    out.push('\n');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, start: u32, end: u32) -> Option<String> {
        excerpt("Dockerfile", text, Lines { start, end })
    }

    #[test]
    fn lines_around_as_buildkit_shows_them() {
        let rule = "--------------------";
        assert_eq!(
            show("FROM a\nRUN b\n", 1, 1),
            Some(format!("Dockerfile:1\n{rule}\n   1 | >>> FROM a\n   2 |     RUN b\n   3 |     \n{rule}\n"))
        );
        assert_eq!(
            show("1\n2\n3\n4\n5\n6", 3, 4),
            Some(format!("Dockerfile:3\n{rule}\n   2 |     2\n   3 | >>> 3\n   4 | >>> 4\n   5 |     5\n{rule}\n"))
        );
    }

    #[test]
    fn lines_outside_of_the_text() {
        assert_eq!((show("a", 2, 2), show("a", 0, 0)), (None, None));
        assert!(show("a\nb", 1, u32::MAX).is_some());
        assert!(show("a", 1, 0).is_some());
    }
}
