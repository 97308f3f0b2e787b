//! What is hidden when a log is compared with Docker's, and why. Everything else must be equal byte for byte.
//!
//! The base images of tests have the content of the recorded ones but other digests and sizes, since busybox and times
//! differ between machines; so digests are hidden, and sizes where a transfer of a base is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Value, json};

/// A pattern, compiled once.
macro_rules! pattern {
    ($text:expr) => {{
        static PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).unwrap());
        &*PATTERN
    }};
}

/// A log in lines, with what is no part of the comparison hidden. `context` is the directory that was built.
#[must_use]
pub fn legacy(text: &str, context: &str) -> Vec<String> {
    let text = shared(text, context);
    // Ids of images and containers are hashes of times, or drawn at random.
    let text = pattern!(r"\b[0-9a-f]{12}\b").replace_all(&text, "<id>");
    // Where one stretch of stderr was cut into reads is a race.
    let text = text.replace("\x1b[0m\x1b[91m", "");
    let mut out = Vec::new();
    let mut pull: Option<Vec<String>> = None;
    for line in text.split('\n') {
        if line.contains(": Pulling from ") {
            out.extend(sorted(pull.take()));
            pull = Some(Vec::new());
            out.push(line.to_owned());
            continue;
        }
        if pull.is_some() && line.starts_with("<id>: ") {
            // A transfer tells its last state only: these three come and go.
            if !pattern!(r": (Waiting|Verifying Checksum|Download complete|Retrying.*)$").is_match(line) {
                pull.get_or_insert_default().push(line.to_owned());
            }
            continue;
        }
        // Layers of one image are fetched at once, in any order.
        out.extend(sorted(pull.take()));
        out.push(line.to_owned());
    }
    out.extend(sorted(pull));
    client_notes(out)
}

fn sorted(lines: Option<Vec<String>>) -> Vec<String> {
    let mut lines = lines.unwrap_or_default();
    lines.sort();
    // Of a layer that is asked for again and again, how often this is seen is a race.
    lines.dedup_by(|a, b| a == b && a.ends_with(": Downloading"));
    lines
}

/// The daemon's own directories, in errors about files.
pub const DAEMON_DIRECTORY: &str = r"/[\w./-]*?/(?:overlay2/[0-9a-z]{25,64}/merged|tmp/buildkit-mount\d+)";

/// What both builders' logs have.
fn shared(text: &str, context: &str) -> String {
    // The directory of the context means nothing on another machine; the goldens have it hidden already.
    let text = text.replace(context, "<ctx>");
    let text = pattern!(DAEMON_DIRECTORY).replace_all(&text, "<host>");
    // Images are named by hashes of times, base images by those of other bytes.
    pattern!(r"sha256:[0-9a-f]{64}").replace_all(&text, "sha256:<digest>").into_owned()
}

/// Drops what Docker's client says of itself: the legacy builder's deprecation, the name of the buildx instance.
fn client_notes(lines: Vec<String>) -> Vec<String> {
    let gone = [
        "DEPRECATED: The legacy builder",
        "            BuildKit is currently disabled",
        "            environment-variable.",
        "building with ",
    ];
    let count = lines.len();
    let mut rest: Vec<String> =
        lines.into_iter().filter(|line| !gone.iter().any(|note| line.starts_with(note))).collect();
    if rest.len() < count && rest.first().is_some_and(String::is_empty) {
        rest.remove(0);
    }
    rest
}

const STEP: &str = r"^\[(?:(\S+) )? *(\d+)/\d+\] ";

/// As [`legacy`] for BuildKit's plain log: steps are ordered by title, since they run at the same time.
#[must_use]
pub fn buildkit(text: &str, context: &str) -> Vec<String> {
    let text = shared(text, context);
    // Names of the build that a client draws at random.
    let text = pattern!(r"\b(?:[0-9a-z]{25}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})::[0-9a-z]{25}\b")
        .replace_all(&text, "<ref>")
        .into_owned();
    let (mut head, mut steps, mut tail) = (Vec::new(), BTreeMap::<u64, Vec<String>>::new(), Vec::new());
    for line in text.split('\n') {
        let Some(found) = pattern!(r"^#(\d+) ?(.*)$").captures(line) else {
            if line.is_empty() && tail.is_empty() {
                continue;
            }
            let part = if steps.is_empty() { &mut head } else { &mut tail };
            part.push(line.to_owned());
            continue;
        };
        let number: u64 = found[1].parse().unwrap();
        if number == 0 {
            head.push(found[2].to_owned());
        } else if let Some(row) = step_row(&found[2]) {
            steps.entry(number).or_default().push(row);
        }
    }
    let mut steps: Vec<Vec<String>> = steps.into_values().collect();
    hide_racing_stages(&mut steps);
    steps.sort();
    let rows = step_rows(&steps, &text);
    let tail = whole_excerpt(sorted_lint(tail), &rows);
    let mut lines = head;
    lines.extend(rows);
    lines.extend(tail);
    let lines = lines
        .into_iter()
        .map(|line| match pattern!(r"^(\s*)\d+\.\d{2,3} ").captures(&line) {
            // Times in the excerpt of a failed step.
            Some(found) => format!("{}<t> {}", &found[1], &line[found[0].len()..]),
            None => line,
        })
        .collect();
    client_notes(lines)
}

/// One row of a step with times hidden; `None` for rows that come and go.
fn step_row(row: &str) -> Option<String> {
    let row = pattern!(r"^(\d+\.\d+) ").replace(row, "<t> ");
    let row = pattern!(r"^DONE \d+\.\d+s$").replace(&row, "DONE <t>").into_owned();
    let mut row = if row.starts_with("<t> ") {
        // 20.10 goes on in an unfinished line.
        pattern!(r"#\d+ DONE \d+\.\d+s$").replace(&row, "#<n> DONE <t>").into_owned()
    } else {
        row
    };
    let progress = pattern!(
        r"^((?:transferring|resolve|extracting|sha256:|exporting|writing|naming|pushing|unpacking|sending|copying).*?)( \d+\.\d+s)?( done)?$"
    );
    if let Some(found) = progress.captures(&row)
        && !row.starts_with("exporting to")
    {
        // How often a row of progress is shown depends on time; the last one does not.
        found.get(3)?;
        row = format!("{} done", &found[1]);
        // Sizes of a base image in transfer are not those of the recorded one.
        row = pattern!(r"^(sha256:<digest>) \S+ / \S+ done").replace(&row, "$1 <size> / <size> done").into_owned();
    }
    // Warnings are listed at the end; whether here too is a race.
    let gone = row.is_empty() || row == "..." || pattern!(r"^WARN: [A-Z]\w+: ").is_match(&row);
    (!gone).then_some(row)
}

/// Where two stages share a base, whose name it bears is a race.
fn hide_racing_stages(steps: &mut [Vec<String>]) {
    let label = Regex::new(STEP).unwrap();
    let name = |found: &Captures<'_>| found.get(1).map(|name| name.as_str().to_owned());
    let seen: Vec<(Option<String>, bool)> = steps
        .iter()
        .filter_map(|lines| label.captures(&lines[0]).map(|found| (name(&found), &found[2] == "1")))
        .collect();
    let with_base: BTreeSet<_> = seen.iter().filter(|(_, first)| *first).map(|(name, _)| name).collect();
    if seen.iter().all(|(name, _)| with_base.contains(name)) {
        return;
    }
    let from = Regex::new(&format!("{STEP}FROM ")).unwrap();
    for line in steps.iter_mut().flatten() {
        *line = from.replace(line, "[<stage>] FROM ").into_owned();
    }
}

fn step_rows(steps: &[Vec<String>], text: &str) -> Vec<String> {
    let is_from = |line: &str| pattern!(r"^(\[.*\] )?FROM ").is_match(line);
    let is_progress =
        |line: &str| pattern!(r"^(transferring|resolve|extracting|sha256:|exporting|writing|naming)").is_match(line);
    let many = steps.iter().filter(|lines| is_from(&lines[0])).count() > 1;
    let mut rows = Vec::new();
    for lines in steps {
        let first = &lines[0];
        let mut lines: Vec<&String> = lines.iter().collect();
        if is_from(first) {
            if lines.iter().any(|line| *line == "CACHED") {
                // It is done when its cache key is known, cached when its files are wanted: the first is seen or not.
                lines.retain(|line| *line != "DONE <t>");
            }
            if many {
                // Which of several pulls shows a layer that they share is a race.
                lines.retain(|line| !pattern!(r"^(resolve|extracting|sha256:)").is_match(line));
            }
            if text.contains("failed to compute cache key: ") {
                // A source file is missing: how far the pull got by then is a race.
                lines = vec![first];
            }
        }
        if first == "[internal] load .dockerignore" && text.contains("failed to read dockerfile: ") {
            // 20.10 loads both at once.
            continue;
        }
        // A title is printed again when the view returns to a step, and so is its end.
        lines.retain(|line| *line != first);
        let (mut progress, body): (Vec<&String>, Vec<&String>) = lines.into_iter().partition(|line| is_progress(line));
        progress.sort();
        // A base image is done once before it is fetched; whether that is seen of one that then fails is a race.
        let done = body.iter().any(|line| *line == "DONE <t>") && !body.iter().any(|line| line.starts_with("ERROR: "));
        rows.push(first.clone());
        rows.extend(progress.into_iter().cloned());
        rows.extend(body.into_iter().filter(|line| *line != "DONE <t>").cloned());
        rows.extend(done.then(|| "DONE <t>".to_owned()));
    }
    rows
}

/// The excerpt of a failed step begins in the middle of a line where its command wrote that in two parts. Whether the two
/// were read at once is a race, so such a line is made whole.
fn whole_excerpt(mut tail: Vec<String>, rows: &[String]) -> Vec<String> {
    let marks: Vec<usize> = (0..tail.len()).filter(|index| tail[*index] == "------").collect();
    let [begin, end, ..] = marks[..] else {
        return tail;
    };
    for line in &mut tail[begin + 1..end] {
        if line.starts_with(" > ") || pattern!(r"^\d+\.\d{2,3} ").is_match(line) {
            continue;
        }
        if let Some(row) = rows.iter().find(|row| row.starts_with("<t> ") && row.ends_with(&**line)) {
            *line = row.clone();
        }
    }
    tail
}

/// Docker prints the warnings of its linter in random order.
fn sorted_lint(mut tail: Vec<String>) -> Vec<String> {
    const RESET: &str = "\x1b[0m";
    let plain = |line: &str| line.strip_prefix(RESET).unwrap_or(line).to_owned();
    let places: Vec<usize> =
        (0..tail.len()).filter(|index| pattern!(r"^(\x1b\[0m)? - [A-Z]\w+: ").is_match(&tail[*index])).collect();
    let mut lint: Vec<String> = places.iter().map(|index| plain(&tail[*index])).collect();
    lint.sort();
    for (n, (place, line)) in places.iter().zip(lint).enumerate() {
        tail[*place] = if n == 0 { format!("{RESET}{line}") } else { line };
    }
    let rules = "ERROR: failed to build: failed to solve: lint violation found for rules: ";
    for line in &mut tail {
        if let Some(list) = line.strip_prefix(rules) {
            let mut list: Vec<&str> = list.split(", ").collect();
            list.sort_unstable();
            *line = format!("{rules}{}", list.join(", "));
        }
    }
    tail
}

/// Digest and size of the busybox that the goldens were recorded with (Debian 12's busybox-static).
const RECORDED_BUSYBOX: (&str, u64) = ("3d9f2889d6782537624a4e1a10e68a2ddd53e0ee8bac02676f27308f42ec6bf6", 1_982_256);

/// A recorded image as it would be with this machine's busybox: its program and its applets in place of the recorded.
#[must_use]
pub fn with_local_busybox(mut image: Value, busybox: &crate::bases::Busybox) -> Value {
    let digest = crate::sha256(&busybox.program);
    let Some(files) = image["files"].as_object_mut() else {
        return image;
    };
    for file in files.values_mut() {
        if file["sha256"] == RECORDED_BUSYBOX.0 && file["size"] == RECORDED_BUSYBOX.1 {
            file["sha256"] = json!(digest);
            file["size"] = json!(busybox.program.len());
        }
    }
    // An image that has no applet has no busybox.
    let is_applet = |path: &str, file: &Value| path.starts_with("/bin/") && file["target"] == "busybox";
    let Some(applet) = files.iter().find(|(path, file)| is_applet(path, file)).map(|(_, file)| file.clone()) else {
        return image;
    };
    files.retain(|path, file| !is_applet(path, file));
    for name in &busybox.applets {
        files.insert(format!("/bin/{name}"), applet.clone());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_ids_and_orders_what_runs_at_once() {
        let docker = "Step 1/1 : FROM busybox\nlatest: Pulling from library/busybox\nbbbbbbbbbbbb: Pull complete\n\
            aaaaaaaaaaaa: Waiting\naaaaaaaaaaaa: Already exists\nDigest: x\n ---> 0123456789ab\n";
        let ours = "Step 1/1 : FROM busybox\nlatest: Pulling from library/busybox\ncccccccccccc: Already exists\n\
            dddddddddddd: Pull complete\nDigest: x\n ---> ba9876543210\n";
        assert_eq!(legacy(docker, "/c"), legacy(ours, "/c"));
        assert_ne!(legacy(docker, "/c"), legacy(&ours.replace("Already", "already"), "/c"));
    }

    #[test]
    fn words_of_a_step_are_not_hidden() {
        let log = "#1 [1/2] FROM x\n#1 DONE 0.1s\n\n#2 [2/2] RUN y\n#2 0.123 out\n#2 DONE 3.0s\n";
        assert_eq!(buildkit(log, "/c"), buildkit(&log.replace("0.123", "9.9").replace("3.0s", "0.0s"), "/c"));
        assert_ne!(buildkit(log, "/c"), buildkit(&log.replace("out", "our"), "/c"));
        let swapped = "#1 [2/2] RUN y\n#1 0.123 out\n#1 DONE 3.0s\n\n#2 [1/2] FROM x\n#2 DONE 0.1s\n";
        assert_eq!(buildkit(log, "/c"), buildkit(swapped, "/c"));
    }
}
