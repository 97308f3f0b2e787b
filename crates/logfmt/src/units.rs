//! Sizes as Docker's programs write them.

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// Four significant digits with a decimal unit, as docker/go-units' `HumanSize` (legacy client): `3.072kB`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    let (value, unit) = scale(bytes, 1000.0, &DECIMAL);
    format!("{}{unit}", four_digits(value))
}

/// Two decimals with a decimal unit, whole bytes below 1000: tonistiigi/units' `%.2f` (BuildKit): `1.07MB`, `527B`.
#[must_use]
pub fn progress_size(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    let (value, unit) = scale(bytes, 1000.0, &DECIMAL);
    format!("{value:.2}{unit}")
}

/// As few digits as needed with a binary unit: tonistiigi/units' `%#g` (BuildKit's limits): `2MiB`.
#[must_use]
pub fn binary_size(bytes: u64) -> String {
    let (value, unit) = scale(bytes, 1024.0, &BINARY);
    format!("{value}{unit}")
}

fn scale(bytes: u64, base: f64, units: &[&'static str]) -> (f64, &'static str) {
    let mut value = bytes as f64;
    let mut index = 0;
    while value >= base && index + 1 < units.len() {
        value /= base;
        index += 1;
    }
    (value, units.get(index).copied().unwrap_or("B"))
}

/// C's `%.4g` for values from 0 to 1000: four significant digits, no zeros at the end.
fn four_digits(value: f64) -> String {
    let decimals = match value {
        v if v >= 999.95 => 0,
        v if v >= 99.995 => 1,
        v if v >= 9.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_like_docker() {
        for (bytes, human, progress) in [
            (0, "0B", "0B"),
            (2, "2B", "2B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1.00kB"),
            (1024, "1.024kB", "1.02kB"),
            (3072, "3.072kB", "3.07kB"),
            (15_872, "15.87kB", "15.87kB"),
            (110_592, "110.6kB", "110.59kB"),
            (999_960, "1000kB", "999.96kB"),
            (1_070_000, "1.07MB", "1.07MB"),
            (65_770_000, "65.77MB", "65.77MB"),
            (5_000_000_000, "5GB", "5.00GB"),
            (u64::MAX, "18.45EB", "18.45EB"),
        ] {
            assert_eq!((human_size(bytes), progress_size(bytes)), (human.to_owned(), progress.to_owned()), "{bytes}");
        }
        assert_eq!((binary_size(2 << 20), binary_size(200 << 10)), ("2MiB".into(), "200KiB".into()));
    }
}
