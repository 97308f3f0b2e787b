//! Logs compared, as far as they are not [masked](crate::mask).

use crate::golden::{Dialect, Printed};
use crate::mask;

/// Where what rbuild printed differs from what Docker printed for a context in this directory, a row for each stream.
#[must_use]
pub fn differences(dialect: Dialect, run: &str, want: &Printed, got: &Printed, context: &str) -> Vec<String> {
    let mask = if dialect.builder == "legacy" { mask::legacy } else { mask::buildkit };
    let mut rows = Vec::new();
    for (stream, want, got) in [("stdout", &want.stdout, &got.stdout), ("stderr", &want.stderr, &got.stderr)] {
        let (want, got) = (mask(want, context), mask(got, context));
        if want == got {
            continue;
        }
        // Lines that the two have in common at the beginning and at the end say nothing.
        let same = want.iter().zip(&got).take_while(|(a, b)| a == b).count();
        let (a, b) = (&want[same..], &got[same..]);
        let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
        let show = |sign: char, lines: &[String]| {
            lines.iter().take(8).map(|line| format!("\n    {sign}{line:?}")).collect::<String>()
        };
        let (a, b) = (show('-', &a[..a.len() - tail]), show('+', &b[..b.len() - tail]));
        rows.push(format!("{run} {stream}, line {}:{a}{b}", same + 1));
    }
    rows
}
