//! "Did you mean": the nearest of the words there are (BuildKit `util/suggest`).

/// The distance from which on a word is too far to be meant.
const TOO_FAR: usize = 3;

/// Finds the option nearest to `word`, nothing if it is one of them or none is near. Of equally
/// near ones, which Docker takes at random, the first.
#[must_use]
pub fn nearest<'a>(word: &str, options: &[&'a str]) -> Option<&'a str> {
    if options.contains(&word) {
        return None;
    }
    let word: Vec<char> = word.chars().collect();
    options
        .iter()
        .map(|option| (distance(&word, option), *option))
        .filter(|(distance, _)| *distance < TOO_FAR)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, option)| option)
}

/// As [`nearest`] for options in upper case, whatever the case of `word`; the answer is in upper
/// case if the word is, else in lower case.
#[must_use]
pub fn nearest_ignoring_case(word: &str, options: &[&str]) -> Option<String> {
    let lower: Vec<String> = options.iter().map(|option| option.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let found = nearest(&word.to_lowercase(), &lower)?;
    if word != word.to_lowercase() && word == word.to_uppercase() {
        Some(found.to_uppercase())
    } else {
        Some(found.to_owned())
    }
}

/// Levenshtein's distance, each edit counting 1; [`TOO_FAR`] or more for anything beyond.
fn distance(from: &[char], to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    if from.len().abs_diff(to.len()) >= TOO_FAR {
        return TOO_FAR;
    }
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest() {
        for (word, expected) in [
            ("COPPY", Some("COPY")),
            ("Coppy", Some("copy")),
            ("ru", Some("run")),
            ("FRMO", Some("FROM")),
            ("COPY", None),
            ("copy", None),
            ("", None),
            ("ECHO", None),
            ("entrypiont", Some("entrypoint")),
            ("EXPOS\u{c9}", Some("EXPOSE")),
        ] {
            let options = ["ADD", "COPY", "ENTRYPOINT", "EXPOSE", "FROM", "RUN"];
            assert_eq!(nearest_ignoring_case(word, &options).as_deref(), expected, "{word}");
        }
        assert_eq!(nearest("chow", &["chmod", "chown"]), Some("chown"));
        assert_eq!(nearest("a", &["abcdef"]), None);
    }
}
