//! `rbuild builds` and `rbuild resume`: what is remembered of builds.

use rbuild_executor::manage::{self, Force, ResumeFrom};
use rbuild_executor::{BuildOptions, BuildRecord, BuildStatus, ContextSource, StepStatus, StoreOptions};
use serde_json::json;
use time::OffsetDateTime;

use crate::args::{BuildsArgs, BuildsCommand, Environment, ListFormat, ResumeArgs};
use crate::convert::{self, store_options};
use crate::error::CliError;
use crate::human;
use crate::output::Output;

use super::{build, replay};

/// Lists builds, or shows or forgets some.
pub(crate) fn builds(args: BuildsArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let store = store_options(&args.common, environment)?;
    match args.command {
        None => {
            let mut records = manage::builds(&store)?;
            // The latest first, as images are listed.
            records.reverse();
            output.out(show(&records, args.quiet, args.format, OffsetDateTime::now_utc().unix_timestamp()));
            Ok(())
        }
        Some(BuildsCommand::Show { build, format }) => {
            let record = manage::build_record(&store, build.as_deref())?;
            let seen = if Output::terminals().stdout { ListFormat::Table } else { ListFormat::Json };
            output.out(match format.unwrap_or(seen) {
                ListFormat::Json => format!("{:#}\n", json!(record)),
                ListFormat::Table => describe(&record, OffsetDateTime::now_utc().unix_timestamp()),
            });
            Ok(())
        }
        Some(BuildsCommand::Log { build, log_format }) => {
            let record = manage::build_record(&store, build.as_deref())?;
            let file = manage::build_log(&store, &record)?;
            let spec = convert::recorded_log(log_format, !args.common.no_hint);
            replay::show(file, spec, false, output)
        }
        Some(BuildsCommand::Rm { builds }) => remove(&store, &builds),
    }
}

fn remove(store: &StoreOptions, builds: &[String]) -> Result<(), CliError> {
    for build in builds {
        manage::remove_build(store, &manage::build_record(store, Some(build))?)?;
    }
    manage::collect(store)?;
    Ok(())
}

/// Builds again what did not succeed.
pub(crate) fn resume(args: ResumeArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let store = store_options(&args.common, environment)?;
    let in_file = args.build.as_deref().map(|name| manage::build_in_file(&store, name)).transpose()?.flatten();
    let record = match in_file {
        Some(record) => record,
        None => manage::build_record(&store, args.build.as_deref())?,
    };
    let force = if args.force { Force::Yes } else { Force::No };
    let from = if args.keep_partial { ResumeFrom::Partial } else { ResumeFrom::Step };
    let options = manage::resumed(&record, force, from)?;
    build::run_request(convert::resume_request(args, options, environment, Output::terminals())?, output)
}

/// The context as the user knows it.
fn context(options: &BuildOptions) -> String {
    match &options.context {
        ContextSource::Dir(path) => path.display().to_string(),
        ContextSource::Url(url) | ContextSource::Repository { url, .. } => url.clone(),
        ContextSource::Stdin => "-".to_owned(),
    }
}

fn status(record: &BuildRecord) -> &'static str {
    match record.status {
        BuildStatus::Succeeded => "succeeded",
        BuildStatus::Failed => "failed",
        BuildStatus::Cancelled => "cancelled",
        _ => "unknown",
    }
}

/// A build for somebody who looks at it.
fn describe(record: &BuildRecord, now: i64) -> String {
    let started = human::ago(i64::try_from(record.started / 1_000_000_000).unwrap_or(now), now);
    let mut text = format!("Build:    {} ({}, {:.1}s, {started})\n", record.id, status(record), record.seconds);
    let mut row = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{:<9} {value}\n", format!("{name}:")));
        }
    };
    row("Context", &context(&record.options));
    row("Names", &record.options.tags.join(", "));
    row("Image", record.image.as_deref().unwrap_or_default());
    if let Some(failure) = &record.failure {
        let step = failure.step.as_deref().unwrap_or_default().replace('\n', " ");
        let code = failure.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
        row("Failed", &format!("{step}{code}"));
        row("Kept", failure.image.as_deref().unwrap_or_default());
    }
    let steps = record.steps.iter().map(|step| {
        let place = match &step.stage {
            Some(stage) => format!("{stage}:{}", step.position),
            None => step.position.to_string(),
        };
        let status = match step.status {
            StepStatus::Done => "done",
            StepStatus::Cached => "cached",
            StepStatus::Failed => "failed",
            StepStatus::Cancelled => "cancelled",
            _ => "",
        };
        let line = step.lines.map(|lines| lines.start.to_string()).unwrap_or_default();
        let time = if step.status == StepStatus::Done { format!("{:.1}s", step.seconds) } else { String::new() };
        let text = human::ellipsis(&step.text.replace('\n', " "), 56);
        vec![step.number.to_string(), place, line, status.to_owned(), time, text]
    });
    let header = ["STEP", "STAGE", "LINE", "STATUS", "TIME", "INSTRUCTION"];
    text.push('\n');
    text + &human::table(&header, &steps.collect::<Vec<_>>())
}

fn show(records: &[BuildRecord], quiet: bool, format: Option<ListFormat>, now: i64) -> String {
    if quiet {
        return records.iter().map(|record| record.id.clone() + "\n").collect();
    }
    if format == Some(ListFormat::Json) {
        return records.iter().map(|record| format!("{}\n", json!(record))).collect();
    }
    let row = |record: &BuildRecord| {
        let step = record.failure.as_ref().and_then(|failure| failure.step.clone()).unwrap_or_default();
        vec![
            record.id.clone(),
            status(record).to_owned(),
            human::ago(i64::try_from(record.started / 1_000_000_000).unwrap_or(now), now),
            format!("{:.1}s", record.seconds),
            record.options.tags.first().cloned().unwrap_or_else(|| "<none>".to_owned()),
            context(&record.options),
            human::ellipsis(&step.replace('\n', " "), 60),
        ]
    };
    let header = ["BUILD", "STATUS", "STARTED", "DURATION", "NAME", "CONTEXT", "FAILED STEP"];
    human::table(&header, &records.iter().map(row).collect::<Vec<_>>())
}
