//! `rbuild builds` and `rbuild resume`: what is remembered of builds.

use rbuild_executor::manage::{self, Force, ResumeFrom};
use rbuild_executor::{BuildOptions, BuildRecord, BuildStatus, ContextSource, StoreOptions};
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
        Some(BuildsCommand::Show { build }) => {
            let record = manage::build_record(&store, build.as_deref())?;
            output.out(format!("{:#}\n", json!(record)));
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
    let record = manage::build_record(&store, args.build.as_deref())?;
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
