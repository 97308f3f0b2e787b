//! The flags of the commands that work on working containers, as written.

use std::path::PathBuf;

use clap::Args;

use super::build::IsolationArg;
use super::shared::{CommonArgs, RegistryArgs};
use super::values;

/// Begin a working container.
#[derive(Debug, Args)]
#[command(
    override_usage = "rbuild from [OPTIONS] IMAGE|scratch",
    after_help = "Examples:\n  c=$(rbuild from alpine)\n  rbuild from --name work --pull=always docker.io/library/debian:12\n  \
                  rbuild from scratch\n\nThe container's name is written to standard output. It stays until `rbuild rm` \
                  removes it."
)]
pub(crate) struct FromArgs {
    /// Name, id or beginning of an id of an image, or `scratch`.
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// Name of the container [default: the image's, with `-working-container`].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Whether to ask the registry for the image: missing, always or never [default: missing; always without a value].
    #[arg(long, value_name = "WHEN", value_parser = pull, num_args = 0..=1, require_equals = true,
        default_missing_value = "always")]
    pub(crate) pull: Option<super::PullArg>,
    /// Platform of the image, as linux/arm64.
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Tell nothing of a pull.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How the processes are confined that work on the container, from now on: `auto` takes the strongest way that works
    /// here (see `rbuild doctor`).
    #[arg(long, value_name = "KIND")]
    pub(crate) isolation: Option<IsolationArg>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// Copy into a working container.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The container, what is copied, and where to.
    #[arg(value_name = "CONTAINER SRC... [DEST]")]
    pub(crate) words: Vec<String>,
    /// Owner of what is copied, by name or number [default: root; with --from, that of the source].
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(crate) chown: Option<String>,
    /// Mode of what is copied, as 755 or u+x.
    #[arg(long, value_name = "MODE")]
    pub(crate) chmod: Option<String>,
    /// The image, or the other working container, that SRC lies in.
    #[arg(long, value_name = "IMAGE|CONTAINER", conflicts_with = "contextdir")]
    pub(crate) from: Option<String>,
    /// The directory that SRC lies in; links do not lead out of it.
    #[arg(long, value_name = "DIR")]
    pub(crate) contextdir: Option<PathBuf>,
    /// File of patterns, as .dockerignore, of what is left out of the directory of --contextdir.
    #[arg(long, value_name = "FILE")]
    pub(crate) ignorefile: Option<PathBuf>,
    /// Whether to ask the registry for the image of --from: missing, always or never [default: missing].
    #[arg(long, value_name = "WHEN", value_parser = pull, num_args = 0..=1, require_equals = true,
        default_missing_value = "always")]
    pub(crate) pull: Option<super::PullArg>,
    /// Print no digest, and tell nothing of a pull.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How the process is confined that copies [default: as the container was begun].
    #[arg(long, value_name = "KIND")]
    pub(crate) isolation: Option<IsolationArg>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// Change what an image of a working container will say.
#[derive(Debug, Args)]
#[command(
    override_usage = "rbuild config [OPTIONS] CONTAINER",
    after_help = "Examples:\n  rbuild config -e 'PATH=/opt/bin:$PATH' -l version=1 --cmd 'server --port 80' work\n  \
                  rbuild config --entrypoint '[\"/init\"]' --port 80 --user www work\n  rbuild config -e TOKEN- -l old- work\n\n\
                  NAME- removes a variable, a label, a port or a volume, and - alone removes all of them. An empty value \
                  removes what there is one of."
)]
pub(crate) struct ConfigArgs {
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
    /// Set a variable; `$NAME` in its value is one of the container. With a name alone, the value comes from the
    /// environment; NAME- removes it. May be repeated.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Set a label; NAME- removes it. May be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Remove a label. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) unsetlabel: Vec<String>,
    /// Default command: words as a shell takes them, or a JSON array.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) cmd: Option<String>,
    /// Program that is always run: a JSON array, or a command for `/bin/sh -c`. The default command stays as it is.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// User, and group if any, by name or number; for `rbuild run --container`, too.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Working directory; for `rbuild run --container` and relative destinations, too.
    #[arg(long, visible_alias = "workdir", value_name = "DIR")]
    pub(crate) workingdir: Option<String>,
    /// Port that is listened on, as 80, 53/udp or 8000-8002; PORT- removes it. May be repeated.
    #[arg(short, long, value_name = "PORT")]
    pub(crate) port: Vec<String>,
    /// Directory for data that outlives containers; DIR- removes it. May be repeated.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) volume: Vec<String>,
    /// Signal that ends a container.
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Shell of commands that are no arrays: words as a shell takes them, or a JSON array.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) shell: Option<String>,
    /// Instruction for builds on the image; - removes all. May be repeated.
    #[arg(long, value_name = "INSTRUCTION")]
    pub(crate) onbuild: Vec<String>,
    /// How health is checked: `CMD` and words, `CMD-SHELL` and a command, a command alone, or NONE.
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    pub(crate) healthcheck: Option<String>,
    /// Time between two checks, as 30s.
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) healthcheck_interval: Option<String>,
    /// Time until a check has failed.
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) healthcheck_timeout: Option<String>,
    /// Time in which failures do not count.
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) healthcheck_start_period: Option<String>,
    /// Time between two checks in that.
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) healthcheck_start_interval: Option<String>,
    /// Failures until the container is unhealthy.
    #[arg(long, value_name = "N", help_heading = "Health")]
    pub(crate) healthcheck_retries: Option<i64>,
    /// Who made the image.
    #[arg(long, value_name = "NAME", help_heading = "Image")]
    pub(crate) author: Option<String>,
    /// What history says of how the layer was made.
    #[arg(long, value_name = "TEXT", help_heading = "Image")]
    pub(crate) created_by: Option<String>,
    /// What history says of the layer besides.
    #[arg(long, visible_alias = "history-comment", value_name = "TEXT", help_heading = "Image")]
    pub(crate) comment: Option<String>,
    /// Processor that the image is for.
    #[arg(long, value_name = "NAME", help_heading = "Image")]
    pub(crate) arch: Option<String>,
    /// Variant of the processor.
    #[arg(long, value_name = "NAME", help_heading = "Image")]
    pub(crate) variant: Option<String>,
    /// Operating system that the image is for.
    #[arg(long, value_name = "NAME", help_heading = "Image")]
    pub(crate) os: Option<String>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Make an image of a working container.
#[derive(Debug, Args)]
#[command(
    override_usage = "rbuild commit [OPTIONS] CONTAINER [NAME[:TAG]...]",
    after_help = "Examples:\n  rbuild commit work app:1 app:latest\n  id=$(rbuild commit --rm work)\n  \
                  rbuild commit --timestamp 0 work app\n\nThe image has the layers of the container's base, and one for all \
                  that was changed since. Its id is written to standard output. The container stays as it is."
)]
pub(crate) struct CommitArgs {
    /// The container, and names of the image.
    #[arg(value_name = "CONTAINER [NAME...]")]
    pub(crate) words: Vec<String>,
    /// File for the id of the image, which is not written to standard output then.
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Remove the container when the image is made.
    #[arg(long)]
    pub(crate) rm: bool,
    /// Make one layer of everything, the base's layers included.
    #[arg(long)]
    pub(crate) squash: bool,
    /// Every time in the result, in seconds since 1970 [default: $SOURCE_DATE_EPOCH, else the current time].
    #[arg(long, value_name = "SECONDS", value_parser = values::timestamp)]
    pub(crate) timestamp: Option<i64>,
    /// As buildah's: nothing is told but the id.
    #[arg(short, long, hide = true)]
    #[allow(dead_code, reason = "accepted, and always so")]
    pub(crate) quiet: bool,
    /// How the process is confined that reads the container [default: as it was begun].
    #[arg(long, value_name = "KIND")]
    pub(crate) isolation: Option<IsolationArg>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Remove working containers.
#[derive(Debug, Args)]
#[command(
    override_usage = "rbuild rm [OPTIONS] CONTAINER [CONTAINER...]",
    after_help = "Examples:\n  rbuild rm work\n  rbuild rm --all\n\nWhat was committed stays. `rbuild prune` then frees the \
                  layers that nothing else needs."
)]
pub(crate) struct RmArgs {
    /// The containers.
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
    /// Remove all of them.
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// List working containers.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rbuild containers\n  rbuild containers --json\n  rbuild rm $(rbuild containers -q)"
)]
pub(crate) struct ContainersArgs {
    /// Show names only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// One JSON array, with the configuration of each.
    #[arg(long, conflicts_with = "quiet")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// `--pull` as buildah takes it.
fn pull(text: &str) -> Result<super::PullArg, values::ValueError> {
    Ok(match text {
        "always" | "true" => super::PullArg::Always,
        "missing" | "ifmissing" | "false" => super::PullArg::Missing,
        "never" => super::PullArg::Never,
        _ => return Err(values::ValueError::Pull(text.to_owned())),
    })
}

/// Words as a shell takes them: separated by blanks, but not in quotes or after a backslash. `None` for a quote that is
/// never closed.
pub(crate) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some('"'), '\\') => match chars.next()? {
                c @ ('"' | '\\' | '$' | '`') => word.get_or_insert_default().push(c),
                c => word.get_or_insert_default().extend(['\\', c]),
            },
            (None, '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell() {
        for (text, wanted) in [
            ("", Some(&[][..])),
            (" a  b\tc ", Some(&["a", "b", "c"])),
            (r#"a 'b c' "d \"e\" \n" f\ g ''"#, Some(&["a", "b c", r#"d "e" \n"#, "f g", ""])),
            (r"x'y'z", Some(&["xyz"])),
            ("'a", None),
            ("a\\", None),
        ] {
            assert_eq!(
                words(text),
                wanted.map(|words| words.iter().map(|word| (*word).to_owned()).collect()),
                "{text}"
            );
        }
    }
}
