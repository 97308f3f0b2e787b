//! The worker's side: one shell at a time, in the place of a step.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rbuild_image::digest::DiffId;
use rbuild_logfmt::event::{Failure, Lines, StepId};
use rbuild_sandbox::{Access, ExecError, Mount, RunError, RunSpec, Signals, Streams, TerminalSize};

use super::{Breakpoints, Interaction, Place, ShellEnd, ShellReason, StepShell};
use crate::exec::{self, Command};
use crate::session::Session;
use crate::snapshot::Change;
use crate::stop::Stop;
use crate::worker::with_causes;

/// The way to whoever has the terminal.
pub(crate) trait ShellLink: Send + Sync {
    /// Asks for a terminal: its size, or that there is none.
    fn ask(&self, shell: &StepShell) -> Option<TerminalSize>;
    /// Hands over the other side of the shell's terminal.
    fn terminal(&self, master: OwnedFd);
    /// Tells the end.
    fn ended(&self, end: ShellEnd);
}

/// The shells of a build.
#[derive(Default)]
pub(crate) struct Shells {
    link: Option<Box<dyn ShellLink>>,
    pub(crate) breakpoints: Breakpoints,
    /// There is one terminal.
    one: Mutex<()>,
}

/// A log that is shown by the clock, as BuildKit's, may be so much behind.
const LOG_CATCHES_UP: Duration = Duration::from_millis(400);

/// Where a busybox of the host is mounted for a shell, for as long as that runs.
const HOST_SHELL: &str = "/.rbuild-busybox";

impl Shells {
    pub(crate) fn new(link: Box<dyn ShellLink>) -> Shells {
        Shells { link: Some(link), ..Shells::default() }
    }

    /// Looks for the steps of the breakpoints.
    pub(crate) fn find_breakpoints(&self, session: &Session<'_>, steps: &[Place]) -> Result<(), Stop> {
        self.breakpoints.resolve(&session.options().interaction.breakpoints, steps).map_err(|point| {
            Stop::failed(Failure::Own {
                message: format!("there is no step at the breakpoint `{point}`"),
                hint: Some(
                    "`FROM` and what only changes the configuration are no steps; a stage must be needed".to_owned(),
                ),
            })
        })
    }

    /// Opens a shell in a step whose command failed, with all that the command had; whether what is there now is to be the
    /// step's layer.
    pub(crate) fn after_failure(
        &self,
        session: &Session<'_>,
        spec: &RunSpec,
        step: StepId,
        lines: Option<Lines>,
        exit_code: i32,
    ) -> Result<bool, Stop> {
        let interaction = &session.options().interaction;
        if !interaction.on_error {
            return Ok(false);
        }
        let shell = shell_of(interaction, spec);
        let wanted = StepShell { reason: ShellReason::Failed { exit_code }, step, lines, shell };
        Ok(self.open(session, &wanted, spec)? == Some(0))
    }

    /// Opens a shell where a step is going to be done.
    pub(crate) fn before_step(
        &self,
        session: &Session<'_>,
        layers: &[DiffId],
        command: Command<'_>,
        step: StepId,
        lines: Option<Lines>,
    ) -> Result<(), Stop> {
        let change = Change::begin(session, layers, &[])?;
        let ended = exec::prepare(session, &change, command).and_then(|spec| {
            let shell = shell_of(&session.options().interaction, &spec);
            let wanted = StepShell { reason: ShellReason::Breakpoint, step, lines, shell };
            self.open(session, &wanted, &spec)
        });
        change.discard(session);
        match ended? {
            None | Some(0) => Ok(()),
            Some(code) => Err(Stop::failed(Failure::Own {
                message: format!("ended at a breakpoint: the shell's exit code was {code}"),
                hint: Some("leave the shell with `exit 0` to go on".to_owned()),
            })),
        }
    }

    /// The exit code of the shell; nothing where there is none.
    fn open(&self, session: &Session<'_>, wanted: &StepShell, spec: &RunSpec) -> Result<Option<i32>, Stop> {
        let Some(link) = &self.link else { return Ok(None) };
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        session.check()?;
        // The log shows by then what the command has written.
        std::thread::sleep(LOG_CATCHES_UP);
        let Some(size) = link.ask(wanted) else { return Ok(None) };
        let mut spec = spec.clone();
        spec.argv = vec![wanted.shell.clone().into_bytes()];
        if !spec.env.iter().any(|pair| pair.starts_with(b"TERM=")) {
            spec.env.push(b"TERM=xterm".to_vec());
        }
        let run = |spec: &RunSpec| {
            let mut opened = |master| link.terminal(master);
            let streams = Streams::Terminal { size, opened: &mut opened };
            rbuild_sandbox::run_with(spec, session.cancel().commands(), &Signals::new(), streams)
        };
        let mut ended = run(&spec);
        let busybox = &session.options().interaction.busybox;
        if let (Err(RunError::Exec { .. }), Some(busybox)) = (&ended, busybox) {
            spec.mounts.push(Mount::Bind {
                source: busybox.clone(),
                within: None,
                target: PathBuf::from(HOST_SHELL),
                access: Access::ReadOnly,
            });
            spec.argv = vec![HOST_SHELL.as_bytes().to_vec(), b"sh".to_vec()];
            ended = run(&spec);
        }
        match ended {
            Ok(report) => {
                let exit_code = report.status.code();
                link.ended(ShellEnd::Ended { exit_code });
                Ok(Some(exit_code))
            }
            Err(RunError::Cancelled) => {
                link.ended(ShellEnd::NotStarted { message: "the build was cancelled".to_owned(), hint: None });
                Err(Stop::Cancelled)
            }
            Err(error) => {
                let (message, hint) = match &error {
                    RunError::Exec { reason: ExecError::NotFoundInPath | ExecError::Stat(_), .. } => (
                        format!("there is no `{}` in the image", wanted.shell),
                        Some("`--with-shell` uses a busybox of this machine, or name another shell".to_owned()),
                    ),
                    error => (with_causes(error), None),
                };
                link.ended(ShellEnd::NotStarted { message, hint });
                Ok(None)
            }
        }
    }
}

/// The shell that was asked for, or that of a command in shell form.
fn shell_of(interaction: &Interaction, spec: &RunSpec) -> String {
    let of_command = || {
        let program = String::from_utf8_lossy(spec.argv.first()?).into_owned();
        program.ends_with("sh").then_some(program)
    };
    interaction.shell.clone().or_else(of_command).unwrap_or_else(|| "/bin/sh".to_owned())
}
