//! The command of a RUN, and its mounts.

use rbuild_parser::mount::{Mount, MountType, Sharing};
use rbuild_parser::{CommandLine, Security as RunSecurity};

use super::{MountFrom, RunMount};
use crate::plan::image::{StageImage, Variables};
use crate::plan::{go, working_dir as resolve_dir};

/// A mount with its defaults filled in.
///
/// # Errors
/// Docker's text.
pub(crate) fn resolve_mount(
    mount: Mount,
    place: MountFrom,
    source: String,
    working_dir: &str,
) -> Result<RunMount, String> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut id = mount.id.clone().unwrap_or_default();
    let mut target = mount.target.clone().unwrap_or_default();
    match mount.kind {
        MountType::Secret => {
            if let Some(source) = mount.source.as_deref().filter(|s| !s.is_empty()) {
                id = source.to_owned();
            }
            if id.is_empty() {
                if target.is_empty() {
                    return Err("one of source, target required".to_owned());
                }
                id = base(&target);
            }
            if target.is_empty() && mount.env.is_none() {
                target = format!("/run/secrets/{}", base(&id));
            }
        }
        MountType::Ssh if id.is_empty() => id = "default".to_owned(),
        MountType::Cache if id.is_empty() => id = go::clean_path(&target),
        _ => {}
    }
    let in_env_only = mount.kind == MountType::Secret && target.is_empty();
    if mount.kind != MountType::Ssh && !in_env_only {
        target = resolve_dir(working_dir, &target);
        if target == "/" {
            return Err(format!("invalid mount target {}", go::quote(&target)));
        }
    }
    Ok(RunMount {
        kind: mount.kind,
        from: place,
        source,
        target,
        read_only: mount.read_only,
        size: u64::try_from(mount.size).ok().filter(|size| *size > 0),
        id,
        sharing: mount.sharing.unwrap_or(Sharing::Shared),
        required: mount.required,
        env: mount.env,
        mode: mount.mode,
        uid: mount.uid,
        gid: mount.gid,
    })
}

pub(super) fn with_shell(image: &StageImage, command: &CommandLine) -> Vec<String> {
    if !command.prepend_shell {
        return command.args.clone();
    }
    let mut args = image.shell();
    args.push(command.args.join(" "));
    args
}

/// A command as history has it, with the build arguments that were in its environment.
pub(super) fn run_command_string(args: &[String], declared: &[(String, String)], variables: &Variables) -> String {
    let mut env: Vec<(String, String)> = Vec::new();
    for (name, default) in declared {
        let value = variables.get(name).unwrap_or(default).to_owned();
        match env.iter_mut().find(|(old, _)| old == name) {
            Some((_, old)) => *old = value,
            None => env.push((name.clone(), value)),
        }
    }
    let mut words = Vec::new();
    if !env.is_empty() {
        words.push(format!("|{}", env.len()));
        words.extend(env.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

/// Whether a RUN may be confined like this. Nobody can grant `security.insecure` here, so that a Dockerfile never gets
/// more than Docker's default allows.
///
/// # Errors
/// BuildKit's text.
pub(crate) fn check_security(security: RunSecurity) -> Result<(), String> {
    match security {
        RunSecurity::Sandbox => Ok(()),
        RunSecurity::Insecure => Err("security.insecure is not allowed".to_owned()),
    }
}

/// What RUN executes where its here-documents are known.
pub(crate) struct InlineCommand {
    /// The command line, here-documents included.
    pub(crate) args: Vec<String>,
    /// A document with an interpreter line, which is run as a file of this name.
    pub(crate) script: Option<(String, Vec<u8>)>,
    /// What a title shows of a document that is the whole command.
    pub(crate) summary: Option<String>,
}

impl InlineCommand {
    /// The command line as it is.
    pub(crate) fn plain(command: &CommandLine) -> InlineCommand {
        InlineCommand { args: command.args.clone(), script: None, summary: None }
    }
}

/// Puts the here-documents of a RUN where its command needs them: one that is the whole command is the command; others
/// stay with the command line, for the shell to read.
pub(crate) fn inline_command(command: &CommandLine) -> InlineCommand {
    let [first, ..] = command.files.as_slice() else {
        return InlineCommand::plain(command);
    };
    let line = command.args.first().cloned().unwrap_or_default();
    if !is_lone_heredoc(&line) {
        let mut whole = line;
        for file in &command.files {
            whole.push('\n');
            whole.push_str(&String::from_utf8_lossy(&file.data));
            whole.push_str(&file.name);
        }
        return InlineCommand { args: vec![whole], script: None, summary: None };
    }
    let data = if first.chomp { rbuild_parser::chomp_tabs(&first.data) } else { first.data.clone() };
    let summary = Some(summary(&String::from_utf8_lossy(&first.data)));
    if first.data.starts_with(b"#!") {
        let args = vec![format!("{PIPES}/{}", first.name)];
        return InlineCommand { args, script: Some((first.name.clone(), data)), summary };
    }
    InlineCommand { args: vec![String::from_utf8_lossy(&data).into_owned()], script: None, summary }
}

/// Where here-documents lie that are run as files.
pub(crate) const PIPES: &str = "/dev/pipes";

/// Whether a command line is nothing but the start of one here-document.
fn is_lone_heredoc(line: &str) -> bool {
    let word = line.trim();
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let Some(rest) = word[digits..].strip_prefix("<<") else { return false };
    let name = rest.strip_prefix('-').unwrap_or(rest);
    !name.is_empty() && !name.starts_with('<') && !name.contains(char::is_whitespace)
}

/// The first line of a here-document, for a title.
fn summary(document: &str) -> String {
    let document = document.trim().replace("\r\n", "\n");
    match document.split_once('\n') {
        Some((first, _)) => format!("{first}..."),
        None => document,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_strings() {
        let mut variables = Variables::default();
        variables.set("A", "2");
        let declared =
            [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new()), ("A".to_owned(), "1".to_owned())];
        let args = ["/bin/sh".to_owned(), "-c".to_owned(), "x".to_owned()];
        assert_eq!(run_command_string(&args, &declared, &variables), "|2 A=2 B= /bin/sh -c x");
        assert_eq!(summary("\n one\r\ntwo\n"), "one...");
    }
}
