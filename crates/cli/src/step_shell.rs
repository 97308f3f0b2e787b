//! Shells in a build that runs, on the caller's terminal.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_executor::logfmt::event::{Event, Fact, Step, StepId, StepKind};
use rbuild_executor::{Interaction, RunControl, ShellEnd, ShellReason, ShellTerminal, StepShell};

use crate::terminal::{self, RawMode};

/// The terminal of a build that may stop for a shell.
#[derive(Debug, Default)]
pub(crate) struct StepShells {
    terminal: Option<OwnedFd>,
    /// The instructions as the log shows them.
    steps: HashMap<StepId, String>,
    mode: Option<RawMode>,
    /// Of the shell that is open.
    control: Arc<Mutex<Option<RunControl>>>,
    hints: bool,
}

/// Whether a build may stop.
pub(crate) fn is_wanted(interaction: &Interaction) -> bool {
    interaction.on_error || !interaction.breakpoints.is_empty()
}

impl StepShells {
    /// For a build that may stop; nothing where there is no terminal.
    pub(crate) fn new(stdin_is_taken: bool, hints: bool) -> Option<StepShells> {
        Some(StepShells { terminal: Some(terminal::for_shell(stdin_is_taken)?), hints, ..StepShells::default() })
    }

    /// By which the shell gets another size.
    pub(crate) fn resizer(&self) -> impl Fn() + Send + use<> {
        let control = Arc::clone(&self.control);
        move || {
            let control = control.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(control), Some(size)) = (&*control, terminal::size()) {
                control.resize(size);
            }
        }
    }

    /// Takes the next event.
    pub(crate) fn event(&mut self, event: &Event) {
        if let Fact::StepDeclared(Step { id, kind: StepKind::Instruction(step), .. }) = &event.fact {
            let text = if step.title.is_empty() { &step.text } else { &step.title };
            self.steps.insert(*id, text.lines().next().unwrap_or_default().to_owned());
        }
    }

    /// What is told before a shell.
    pub(crate) fn announce(&self, wanted: &StepShell) -> String {
        let step = self.steps.get(&wanted.step).map_or("the step", String::as_str);
        let place = wanted.lines.map(|lines| format!(" (line {})", lines.start)).unwrap_or_default();
        let (what, hint) = match wanted.reason {
            ShellReason::Failed { exit_code } => (
                format!("`{step}`{place} failed with exit code {exit_code}"),
                "`exit 0` makes what is there the step's layer and goes on; any other exit ends the build",
            ),
            ShellReason::Breakpoint => (
                format!("before `{step}`{place}"),
                "`exit 0` goes on with the step; any other exit ends the build; what you change here is thrown away",
            ),
        };
        let hint = if self.hints { format!("hint: {hint}\n") } else { String::new() };
        format!("rbuild: {what}: {}\n{hint}", wanted.shell)
    }

    /// The terminal for a shell, in raw mode.
    pub(crate) fn open(&mut self) -> Option<ShellTerminal> {
        let terminal = self.terminal.as_ref()?;
        let (input, output) = (terminal.try_clone().ok()?, terminal.try_clone().ok()?);
        self.mode = Some(RawMode::enter(terminal.as_fd()).ok()?);
        let control = RunControl::new();
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control.clone());
        Some(ShellTerminal { input, output, size: terminal::size().unwrap_or_default(), control })
    }

    /// The terminal is ours again; what is told then.
    pub(crate) fn close(&mut self, end: &ShellEnd) -> Option<String> {
        self.mode = None;
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match end {
            ShellEnd::NotStarted { message, hint } => {
                let hint = hint.as_ref().filter(|_| self.hints).map(|hint| format!("hint: {hint}\n"));
                Some(format!("rbuild: no shell: {message}\n{}", hint.unwrap_or_default()))
            }
            ShellEnd::Ended { .. } => None,
        }
    }
}

/// A statically linked busybox of this machine.
pub(crate) fn host_busybox(path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let directories = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    let files = directories.iter().flat_map(|directory| ["busybox", "busybox-static"].map(|name| directory.join(name)));
    files.into_iter().find(|file| is_static(file).unwrap_or(false))
}

/// Whether a program needs no loader: an ELF file of 64 bits without the program header `PT_INTERP` (System V ABI,
/// chapter 5).
fn is_static(file: &Path) -> std::io::Result<bool> {
    let mut head = Vec::new();
    File::open(file)?.take(4096).read_to_end(&mut head)?;
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Ok(false);
    }
    let (Some(table), Some(size), Some(count)) = (number(0x20, 8), number(0x36, 2), number(0x38, 2)) else {
        return Ok(false);
    };
    let kind = |index: usize| number(table.checked_add(index.checked_mul(size)?)?, 4);
    Ok((0..count).all(|index| kind(index).is_some_and(|kind| kind != PT_INTERP)))
}

const PT_INTERP: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_programs() {
        let dir = tempfile::tempdir().unwrap();
        let elf = |kinds: &[u32]| {
            let mut file = vec![0; 64 + kinds.len() * 56];
            file[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (file[0x20], file[0x36], file[0x38]) = (64, 56, u8::try_from(kinds.len()).unwrap());
            for (index, kind) in kinds.iter().enumerate() {
                file[64 + index * 56..][..4].copy_from_slice(&kind.to_le_bytes());
            }
            file
        };
        for (bytes, expected) in [
            (elf(&[1, 2]), true),
            (elf(&[1, 3]), false),
            (b"#!/bin/sh".to_vec(), false),
            (elf(&[1])[..80].to_vec(), true),
        ] {
            let path = dir.path().join("busybox");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(is_static(&path).unwrap(), expected);
            let found = host_busybox(Some(dir.path().as_os_str()));
            assert_eq!(found, expected.then_some(path));
        }
        assert_eq!(host_busybox(None), None);
    }
}
