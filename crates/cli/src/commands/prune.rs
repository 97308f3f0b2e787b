//! `rbuild prune`: space is given back.

use std::io::{self, BufRead, IsTerminal};

use rbuild_executor::manage::{self, PruneReport, PruneScope};

use crate::args::{Environment, PruneArgs};
use crate::convert::store_options;
use crate::error::CliError;
use crate::output::Output;

/// Removes what the flags say, after asking.
pub(crate) fn prune(args: PruneArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let store = store_options(&args.common, environment)?;
    let (scope, what) = match (args.all, args.cache) {
        (true, _) => (PruneScope::All, "all images and the whole build cache"),
        (false, true) => (PruneScope::Cache, "the whole build cache"),
        (false, false) => (PruneScope::Dangling, "all images without a name"),
    };
    if !args.force {
        output.out(format!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] "));
        if !io::stdin().is_terminal() {
            output.out("\n");
            return Err(CliError::NobodyToAsk);
        }
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(|source| CliError::Io { action: "read the answer".to_owned(), source })?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
    }
    output.out(show(&manage::prune(&store, scope)?));
    Ok(())
}

fn show(report: &PruneReport) -> String {
    let mut text = super::images::show_removed(&report.removed);
    if report.cache_records > 0 {
        text.push_str(&format!("Build cache records removed: {}\n", report.cache_records));
    }
    if report.running > 0 {
        text.push_str(&format!("Running builds whose work was spared: {}\n", report.running));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!("Total reclaimed space: {}\n", rbuild_logfmt::units::human_size(report.freed_bytes)));
    text
}

#[cfg(test)]
mod tests {
    use rbuild_executor::manage::Removed;

    use super::*;

    #[test]
    fn reports() {
        assert_eq!(show(&PruneReport::default()), "Total reclaimed space: 0B\n");
        let report = PruneReport {
            removed: vec![Removed::Deleted("sha256:1".into())],
            cache_records: 2,
            freed_bytes: 1_984_348,
            running: 1,
        };
        assert_eq!(
            show(&report),
            "Deleted: sha256:1\nBuild cache records removed: 2\nRunning builds whose work was spared: 1\n\n\
             Total reclaimed space: 1.984MB\n"
        );
    }
}
