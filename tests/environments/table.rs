//! What the rows gave, judged and shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::builds::Builds;
use crate::driver::Line;
use crate::rows::Row;

/// What became of a row.
pub(crate) enum Outcome {
    /// It could not be had here, with the reason.
    Skipped(String),
    /// Its driver ended, and wrote these lines.
    Ran {
        /// In their order.
        lines: Vec<Line>,
        /// What went to standard error.
        stderr: String,
        /// How long all took.
        seconds: f64,
    },
}

/// Layers of the first row, by build.
pub(crate) type Reference = BTreeMap<String, Vec<String>>;

/// A row of the table.
pub(crate) struct Judged {
    label: &'static str,
    name: &'static str,
    rung: String,
    passed: usize,
    seconds: f64,
    /// Why it could not run.
    pub(crate) skipped: Option<String>,
    /// What was wrong, a line each.
    pub(crate) faults: Vec<String>,
}

/// Compares what a row built with Docker's images, and with the layers of the first row, which are taken from the first
/// that built them.
pub(crate) fn judge(row: &Row, outcome: Outcome, builds: &Builds, reference: &mut Reference) -> Judged {
    let mut judged = Judged {
        label: row.label,
        name: row.name,
        rung: "-".to_owned(),
        passed: 0,
        seconds: 0.0,
        skipped: None,
        faults: Vec::new(),
    };
    let (lines, stderr) = match outcome {
        Outcome::Skipped(reason) => {
            judged.skipped = Some(reason);
            return judged;
        }
        Outcome::Ran { lines, stderr, seconds } => {
            judged.seconds = seconds;
            (lines, stderr)
        }
    };
    let mut ended = false;
    let mut wrong: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines {
        match line {
            Line::Rung(Ok(rung)) => judged.rung = rung,
            Line::Rung(Err(why)) => {
                judged.rung = "none".to_owned();
                judged.faults.push(format!("rbuild doctor finds no way to run a step: {why}"));
            }
            Line::Built(built) => {
                let faults = match built.image {
                    Err(fault) => vec![fault.why],
                    Ok(image) => {
                        let listing = image.listing.unwrap_or_default();
                        let mut faults = builds.differences(&built.name, &listing);
                        let layers = reference.entry(built.name.clone()).or_insert_with(|| image.diff_ids.clone());
                        if *layers != image.diff_ids {
                            faults.push(format!("its layers are {:?}, in the first row {layers:?}", image.diff_ids));
                        }
                        faults
                    }
                };
                judged.passed += usize::from(faults.is_empty());
                for fault in faults {
                    match wrong.iter_mut().find(|(known, _)| *known == fault) {
                        Some((_, builds)) => builds.push(built.name.clone()),
                        None => wrong.push((fault, vec![built.name.clone()])),
                    }
                }
            }
            Line::End => ended = true,
        }
    }
    judged.faults.extend(wrong.into_iter().map(|(fault, builds)| format!("{}: {fault}", some(&builds))));
    if !ended {
        judged.faults.push(format!("the driver did not come to its end: {}", stderr.trim()));
    }
    judged
}

/// Names of builds, not too many of them.
fn some(builds: &[String]) -> String {
    let more = if builds.len() > 3 { format!(" and {} more", builds.len() - 3) } else { String::new() };
    format!("{}{more}", builds[..builds.len().min(3)].join(", "))
}

/// The table, as Markdown.
pub(crate) fn show(rows: &[Judged], builds: usize) -> String {
    let mut table = "|   # | environment | rung | builds passed | seconds |\n|---|---|---|---|---|\n".to_owned();
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    let rungs = rows.iter().map(|row| row.rung.len()).max().unwrap_or_default();
    for row in rows {
        let passed = match &row.skipped {
            Some(reason) => format!("skipped: {reason}"),
            None => format!("{}/{builds}", row.passed),
        };
        let _ = writeln!(
            table,
            "| {:>3} | {:width$} | {:rungs$} | {passed} | {:.1} |",
            row.label, row.name, row.rung, row.seconds
        );
    }
    table
}
