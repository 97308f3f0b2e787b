//! `rbuild replay`: the log of a recorded build.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use rbuild_executor::logfmt::event::{Dialect, Event, Fact, Outcome};
use rbuild_logfmt::{EventsError, read_recording};

use crate::args::ReplayArgs;
use crate::convert;
use crate::error::CliError;
use crate::logs::{LogSpec, Logs};
use crate::output::Output;

/// Events that are read ahead of the clock; enough that reading never makes one late.
const AHEAD: usize = 64;

/// How often displays catch up with the clock.
const TICK: Duration = Duration::from_millis(100);

/// Shows the log of a recording, and ends as the build did.
pub(crate) fn replay(args: ReplayArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = convert::replay_log(&args)?;
    show(args.file, spec, args.realtime, output)
}

/// The same of any file, in real time or at once.
pub(super) fn show(file: PathBuf, spec: LogSpec, realtime: bool, output: &mut Output) -> Result<(), CliError> {
    let source = open(&file)?;
    let mut logs = Logs::open(spec, output)?;
    let mut ending = Ending::default();
    let shown =
        if realtime { in_real_time(source, &mut logs, &mut ending) } else { at_once(source, &mut logs, &mut ending) };
    let written = logs.finish();
    shown.map_err(|source| CliError::Replay { file, source })?;
    ending.result()?;
    Ok(written?)
}

fn open(file: &Path) -> Result<Box<dyn BufRead + Send>, CliError> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let unreadable = |source| CliError::Io { action: format!("read `{}`", file.display()), source };
    let opened = File::open(file).map_err(unreadable)?;
    Ok(Box::new(BufReader::with_capacity(256 << 10, opened)))
}

/// How the recorded build ended.
#[derive(Default)]
struct Ending {
    dialect: Option<Dialect>,
    outcome: Option<Outcome>,
}

impl Ending {
    fn event(&mut self, event: &Event) {
        match &event.fact {
            Fact::BuildStarted { dialect, .. } => self.dialect = Some(*dialect),
            Fact::BuildEnded { outcome } => self.outcome = Some(outcome.clone()),
            _ => {}
        }
    }

    fn result(self) -> Result<(), CliError> {
        match (self.dialect, self.outcome) {
            (Some(dialect), Some(outcome)) if rbuild_logfmt::exit_code(&outcome, dialect) != 0 => {
                Err(CliError::Build { outcome: Box::new(outcome), dialect })
            }
            _ => Ok(()),
        }
    }
}

fn at_once(source: impl BufRead, logs: &mut Logs<'_>, ending: &mut Ending) -> Result<(), EventsError> {
    for event in read_recording(source) {
        let event = event?;
        ending.event(&event);
        logs.event(&event);
        if logs.has_failed() {
            break;
        }
    }
    Ok(())
}

/// Shows each event when its time has come, counted from now.
fn in_real_time(
    source: impl BufRead + Send + 'static,
    logs: &mut Logs<'_>,
    ending: &mut Ending,
) -> Result<(), EventsError> {
    let (sender, events) = sync_channel(AHEAD);
    // Ends with the process where its reading does not: standard input may be a terminal.
    std::thread::spawn(move || read_recording(source).all(|event| sender.send(event).is_ok()));
    let begin = Instant::now();
    for event in events {
        let event = event?;
        if logs.has_failed() {
            break;
        }
        loop {
            let left = Duration::from_nanos(event.at).saturating_sub(begin.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(TICK));
            logs.tick(nanoseconds(begin.elapsed()).min(event.at));
        }
        ending.event(&event);
        logs.event(&event);
    }
    Ok(())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
