//! Sizes, times and tables as Docker's client shows them (docker/go-units, `text/tabwriter`).

use rbuild_executor::manage::Time;

/// A size with three significant digits and a decimal unit, as in `docker images`: `1.98MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 1000.0 {
        let Some(next) = units.next() else { break };
        unit = Some(next);
        value /= 1000.0;
    }
    format!("{}{}", three_digits(value), unit.unwrap_or(&"B"))
}

/// Go's `%.3g` of a value from 0 to 1000.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        // Rounded to three digits this is 1000, which Go writes with an exponent.
        v if v >= 999.5 => return "1e+03".to_owned(),
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

/// How long ago something was: `7 hours ago`.
pub(crate) fn ago(time: Time, now: Time) -> String {
    format!("{} ago", duration(now.saturating_sub(time)))
}

/// Seconds in words.
fn duration(seconds: i64) -> String {
    let (minutes, rounded_hours, hours) = (seconds / 60, (seconds + 1800) / 3600, seconds / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if rounded_hours == 1 => "About an hour".to_owned(),
        _ if rounded_hours < 48 => format!("{rounded_hours} hours"),
        _ if rounded_hours < 24 * 7 * 2 => format!("{} days", rounded_hours / 24),
        _ if rounded_hours < 24 * 30 * 2 => format!("{} weeks", rounded_hours / 24 / 7),
        _ if rounded_hours < 24 * 365 * 2 => format!("{} months", rounded_hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// At most `width` characters, the last one an ellipsis if something was left out.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The first 12 digits of an id.
pub(crate) fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

/// Columns three spaces apart and at least ten wide, the last one unpadded.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let length = |text: &str| text.chars().count();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| length(cell));
            (cells.chain([length(name)]).max().unwrap_or(0) + 3).max(10)
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut cells = cells.zip(&widths).peekable();
        while let Some((cell, width)) = cells.next() {
            text.push_str(cell);
            if cells.peek().is_some() {
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(length(cell))));
            }
        }
        text.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_984_348, "1.98MB"),
            (12_345_678, "12.3MB"),
            (117_000_000, "117MB"),
            (999_600, "1e+03kB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), want, "{bytes}");
        }
    }

    #[test]
    fn durations() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        for (seconds, want) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (180, "3 minutes"),
            (3599, "59 minutes"),
            (HOUR, "About an hour"),
            (7 * HOUR + 100, "7 hours"),
            (47 * HOUR, "47 hours"),
            (2 * DAY, "2 days"),
            (13 * DAY, "13 days"),
            (14 * DAY, "2 weeks"),
            (60 * DAY, "2 months"),
            (729 * DAY, "24 months"),
            (730 * DAY, "2 years"),
        ] {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
        assert_eq!(ago(100, 107), "7 seconds ago");
    }

    #[test]
    fn tables() {
        assert_eq!(
            table(&["REPOSITORY", "TAG", "SIZE"], &[vec!["x1".into(), "latest".into(), "1.98MB".into()]]),
            "REPOSITORY   TAG       SIZE\nx1           latest    1.98MB\n"
        );
        assert_eq!(table(&["A", "B"], &[]), "A         B\n");
    }

    #[test]
    fn shortened() {
        assert_eq!(ellipsis("abcdef", 6), "abcdef");
        assert_eq!(ellipsis("abcdef", 5), "abcd…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("abc"), "abc");
    }
}
