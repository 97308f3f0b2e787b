//! The flags of `rbuild run`, as written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rbuild_executor::{RunMount, Ulimit};

use super::build::{IsolationArg, NetworkArg};
use super::csv;
use super::shared::{CommonArgs, RegistryArgs};
use super::values::{self, Assignment, ValueError};

/// Run a command in an image.
#[derive(Debug, Args)]
#[command(
    override_usage = "rbuild run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Examples:\n  rbuild run alpine cat /etc/os-release\n  rbuild run -it -v \"$PWD:/src\" -w /src golang:1 bash\n  \
                  rbuild run builder | rbuild -t runtime -\n  rbuild run --container work -- make install\n\nWhat the command changes in the image's files is gone when it \
                  ends. The exit code is that of the command; 125 is an error of rbuild, 126 a command that cannot be \
                  executed, 127 one that is not there."
)]
pub(crate) struct RunArgs {
    /// The image, the command and its arguments: all that follows the image belongs to the command.
    #[arg(value_name = "IMAGE [COMMAND] [ARG...]", trailing_var_arg = true)]
    pub(crate) words: Vec<String>,

    /// Run the command in this working container (see `rbuild from`) in place of an image: what it changes stays, and
    /// ENTRYPOINT does not count.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["pull", "platform"])]
    pub(crate) container: Option<String>,
    /// Pass standard input on; without it the command finds it empty.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable; with a name alone, its value comes from the environment. May be repeated.
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = values::assignment)]
    pub(crate) env: Vec<Assignment>,
    /// Read variables from a file, one a line. May be repeated.
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory [default: that of the image].
    #[arg(short, long, visible_alias = "workingdir", value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, and group if any, by name or number [default: that of the image].
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Run this in place of the image's ENTRYPOINT; an empty one has none.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// Platform of the image, as linux/arm64.
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Whether to ask the registry for the image [default: missing].
    #[arg(long, value_name = "WHEN")]
    pub(crate) pull: Option<PullArg>,
    /// Tell nothing of a pull.
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Mount a file or directory of the host; a path alone is a place that is thrown away. May be repeated.
    #[arg(short, long, value_name = "HOST:PATH[:ro]", value_parser = volume, help_heading = "Files")]
    pub(crate) volume: Vec<RunMount>,
    /// Mount, as type=bind,src=HOST,dst=PATH with readonly if wanted, or type=tmpfs,dst=PATH with tmpfs-size=SIZE and
    /// tmpfs-mode=MODE. May be repeated.
    #[arg(long, value_name = "type=TYPE,KEY=VALUE", value_parser = mount, help_heading = "Files")]
    pub(crate) mount: Vec<RunMount>,
    /// Mount an empty file system in memory; OPTIONS: size=, mode=, exec, ro. May be repeated.
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = tmpfs, help_heading = "Files")]
    pub(crate) tmpfs: Vec<RunMount>,
    /// Let the command change no file of the image.
    #[arg(long, help_heading = "Files")]
    pub(crate) read_only: bool,

    /// Network: `host` (also `default`) or `none`.
    #[arg(long, visible_alias = "net", value_name = "MODE", help_heading = "Surroundings")]
    pub(crate) network: Option<NetworkArg>,
    /// Host name of the container.
    #[arg(long, value_name = "NAME", help_heading = "Surroundings")]
    pub(crate) hostname: Option<String>,
    /// Line for /etc/hosts; `host-gateway` as address stands for the host. May be repeated.
    #[arg(long, value_name = "HOST:IP", value_parser = values::add_host, help_heading = "Surroundings")]
    pub(crate) add_host: Vec<(String, String)>,
    /// Resource limit. May be repeated.
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = values::ulimit, help_heading = "Surroundings")]
    pub(crate) ulimit: Vec<Ulimit>,
    /// Size of /dev/shm, as 64m [default: 64m].
    #[arg(long, value_name = "SIZE", value_parser = values::size, help_heading = "Surroundings")]
    pub(crate) shm_size: Option<u64>,
    /// How the command is confined: `auto` takes the strongest way that works here (see `rbuild doctor`).
    #[arg(long, value_name = "KIND", help_heading = "Surroundings")]
    pub(crate) isolation: Option<IsolationArg>,

    /// As docker's: nothing is ever kept.
    #[arg(long, value_name = "BOOL", value_parser = values::boolean, num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub(crate) rm: Option<bool>,
    /// As docker's: signals reach the command, and no process outlives it, without it.
    #[arg(long, hide = true)]
    #[allow(dead_code, reason = "accepted, and always so")]
    pub(crate) init: bool,
    #[command(flatten)]
    pub(crate) refused: RefusedRunArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// Flags of docker run whose effect rbuild does not have. They are known so that the refusal says so.
#[derive(Debug, Args)]
pub(crate) struct RefusedRunArgs {
    #[arg(short, long, hide = true)]
    detach: bool,
    #[arg(long, hide = true)]
    name: Option<String>,
    #[arg(short, long, hide = true)]
    publish: Vec<String>,
    #[arg(short = 'P', long, hide = true)]
    publish_all: bool,
    #[arg(long, hide = true)]
    privileged: bool,
    #[arg(long, hide = true)]
    cap_add: Vec<String>,
    #[arg(long, hide = true)]
    cap_drop: Vec<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, hide = true)]
    device: Vec<String>,
    #[arg(long, hide = true)]
    gpus: Option<String>,
    #[arg(short, long, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true)]
    cpus: Option<String>,
    #[arg(long, hide = true)]
    restart: Option<String>,
}

impl RefusedRunArgs {
    /// The first flag that asks for something that would not be done, and what to do instead.
    pub(crate) fn first(&self) -> Option<(&'static str, &'static str)> {
        const CGROUPS: &str = "rbuild makes no cgroup; limit the run with `systemd-run --user --scope -p …`, your batch system \
                               or --ulimit";
        const RIGHTS: &str = "a command gets the rights that Docker gives by default";
        const PORTS: &str = "the command shares the host's network, so its ports are reached as they are";
        [
            ("--detach", self.detach, "the command runs in the foreground; let your shell or supervisor put it aside"),
            ("--name", self.name.is_some(), "a container is gone when its command ends, so that no name can mean it"),
            ("--publish", !self.publish.is_empty(), PORTS),
            ("--publish-all", self.publish_all, PORTS),
            ("--privileged", self.privileged, RIGHTS),
            ("--cap-add", !self.cap_add.is_empty(), RIGHTS),
            ("--cap-drop", !self.cap_drop.is_empty(), RIGHTS),
            ("--security-opt", !self.security_opt.is_empty(), "see --isolation"),
            ("--device", !self.device.is_empty(), "bind the device with --volume /dev/NAME:/dev/NAME"),
            ("--gpus", self.gpus.is_some(), "bind the devices and libraries with --volume"),
            ("--memory", self.memory.is_some(), CGROUPS),
            ("--cpus", self.cpus.is_some(), CGROUPS),
            ("--restart", self.restart.as_deref().is_some_and(|policy| policy != "no"), "run it again in a loop"),
        ]
        .into_iter()
        .find_map(|(flag, set, hint)| set.then_some((flag, hint)))
    }
}

/// Write the file system of an image as a tar.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rbuild export -o root.tar alpine\n  rbuild export alpine | tar -t")]
pub(crate) struct ExportArgs {
    /// Name, id or beginning of an id.
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// File to write [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How the process is confined that reads the image.
    #[arg(long, value_name = "KIND")]
    pub(crate) isolation: Option<IsolationArg>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Copy a file or directory out of an image.
#[derive(Debug, Args)]
#[command(
    override_usage = "rbuild cp [OPTIONS] IMAGE:PATH DEST|-",
    after_help = "Examples:\n  rbuild cp alpine:/etc/os-release .\n  rbuild cp builder:/out/. ./out\n  \
                  rbuild cp alpine:/etc - | tar -t\n\nA directory becomes DEST, or is put into it where it exists; of \
                  one that ends in `/.` the content is. With `-` as DEST a tar is written to standard output."
)]
pub(crate) struct CpArgs {
    /// The image with a path in it, and the destination.
    #[arg(value_name = "IMAGE:PATH DEST")]
    pub(crate) paths: Vec<String>,
    /// Keep the owners of files, which only root can.
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Follow a symbolic link at PATH.
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// As docker's: nothing is told anyway.
    #[arg(short, long, hide = true)]
    #[allow(dead_code, reason = "accepted, and always so")]
    pub(crate) quiet: bool,
    /// How the process is confined that reads the image.
    #[arg(long, value_name = "KIND")]
    pub(crate) isolation: Option<IsolationArg>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// `--pull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullArg {
    /// Where the store does not have it.
    Missing,
    /// In any case.
    Always,
    /// Not at all.
    Never,
}

/// `-v`: `HOST:PATH[:OPTIONS]`, or `PATH`.
pub(crate) fn volume(text: &str) -> Result<RunMount, ValueError> {
    let bad = |reason: &str| ValueError::Mount { text: text.to_owned(), reason: reason.to_owned() };
    let (source, target, options) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [""] | ["", _] | [_, ""] => return Err(bad("a path is empty")),
        [target] => return Ok(RunMount::Volume { target: (*target).to_owned() }),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(bad("write HOST:PATH or HOST:PATH:ro")),
    };
    if !source.contains('/') && source != "." && source != ".." {
        return Err(bad("there are no named volumes; a directory is written with a slash, as ./NAME"));
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // Labels of SELinux, caches of Docker Desktop and the propagation that there is anyway.
            "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate" => {}
            other => return Err(bad(&format!("there is no option `{other}`"))),
        }
    }
    Ok(RunMount::Bind { source: PathBuf::from(source), target: target.to_owned(), read_only, create: true })
}

/// `--mount`.
pub(crate) fn mount(text: &str) -> Result<RunMount, ValueError> {
    let bad = |reason: String| ValueError::Mount { text: text.to_owned(), reason };
    let (mut kind, mut source, mut target) = ("volume".to_owned(), None, None);
    let (mut read_only, mut size, mut mode) = (false, None, None);
    for field in csv::parse_fields(text)? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let value_of = || value.map(str::to_owned).ok_or_else(|| bad(format!("`{key}` has no value")));
        match key {
            "type" => kind = value_of()?,
            "source" | "src" => source = Some(value_of()?),
            "target" | "dst" | "destination" => target = Some(value_of()?),
            "readonly" | "ro" => read_only = value.map_or(Ok(true), values::boolean)?,
            "tmpfs-size" => size = Some(values::size(&value_of()?)?),
            "tmpfs-mode" => mode = Some(octal(&value_of()?).ok_or_else(|| bad("the mode is not octal".to_owned()))?),
            // As with -v.
            "consistency" | "bind-propagation"
                if matches!(
                    value,
                    Some("default" | "cached" | "delegated" | "consistent" | "private" | "rprivate")
                ) => {}
            _ => return Err(bad(format!("there is no key `{field}`"))),
        }
    }
    let target = target.filter(|target| !target.is_empty()).ok_or_else(|| bad("dst= is missing".to_owned()))?;
    let foreign = |reason: &str| Err(bad(reason.to_owned()));
    match (kind.as_str(), source) {
        ("bind", _) if size.is_some() || mode.is_some() => foreign("a bind mount has no size and no mode"),
        ("bind", Some(source)) if !source.is_empty() => {
            Ok(RunMount::Bind { source: PathBuf::from(source), target, read_only, create: false })
        }
        ("bind", _) => foreign("src= is missing"),
        ("tmpfs", Some(_)) => foreign("a tmpfs has no source"),
        ("tmpfs", None) => Ok(RunMount::Tmpfs { target, size, mode: mode.unwrap_or(0o1777), exec: false, read_only }),
        ("volume", None) if !read_only && size.is_none() && mode.is_none() => Ok(RunMount::Volume { target }),
        ("volume", _) => foreign("there are no named volumes; write type=bind with a directory"),
        (other, _) => foreign(&format!("there is no type `{other}`, only bind and tmpfs")),
    }
}

/// `--tmpfs`: `PATH[:OPTIONS]`.
pub(crate) fn tmpfs(text: &str) -> Result<RunMount, ValueError> {
    let bad = |reason: String| ValueError::Mount { text: text.to_owned(), reason };
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if target.is_empty() {
        return Err(bad("the path is empty".to_owned()));
    }
    let (mut size, mut mode, mut exec, mut read_only) = (None, 0o1777, false, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(values::size(value)?),
            Some(("mode", value)) => mode = octal(value).ok_or_else(|| bad("the mode is not octal".to_owned()))?,
            None if option == "exec" => exec = true,
            None if option == "noexec" => exec = false,
            None if option == "ro" => read_only = true,
            None if option == "rw" => read_only = false,
            None if matches!(option, "nosuid" | "nodev") => {}
            _ => return Err(bad(format!("there is no option `{option}`"))),
        }
    }
    Ok(RunMount::Tmpfs { target: target.to_owned(), size, mode, exec, read_only })
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, read_only: bool, create: bool) -> RunMount {
        RunMount::Bind { source: source.into(), target: "/t".to_owned(), read_only, create }
    }

    fn memory(size: Option<u64>, mode: u32, exec: bool, read_only: bool) -> RunMount {
        RunMount::Tmpfs { target: "/t".to_owned(), size, mode, exec, read_only }
    }

    #[test]
    fn volumes() {
        assert_eq!(volume("/s:/t").unwrap(), bind("/s", false, true));
        assert_eq!(volume("./s:/t:ro,z").unwrap(), bind("./s", true, true));
        assert_eq!(volume(".:/t:rw").unwrap(), bind(".", false, true));
        assert_eq!(volume("/t").unwrap(), RunMount::Volume { target: "/t".to_owned() });
        for bad in ["", ":", "a:", ":/t", "name:/t", "/a:/t:x", "/a:/t:ro:z", "/a:/t:shared"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts() {
        assert_eq!(mount("type=bind,src=s,dst=/t").unwrap(), bind("s", false, false));
        assert_eq!(mount("type=bind,\"source=a,b\",target=/t,readonly").unwrap(), bind("a,b", true, false));
        assert_eq!(mount("type=bind,src=/s,destination=/t,ro=false").unwrap(), bind("/s", false, false));
        assert_eq!(mount("type=tmpfs,dst=/t").unwrap(), memory(None, 0o1777, false, false));
        let sized = mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700,ro").unwrap();
        assert_eq!(sized, memory(Some(1 << 20), 0o700, false, true));
        assert_eq!(mount("dst=/t").unwrap(), RunMount::Volume { target: "/t".to_owned() });
        for bad in [
            "type=bind,dst=/t",
            "type=bind,src=/s",
            "type=bind,src=/s,dst=",
            "type=bind,src=/s,dst=/t,tmpfs-size=1",
            "type=tmpfs,src=/s,dst=/t",
            "type=tmpfs,dst=/t,tmpfs-mode=9",
            "type=volume,src=v,dst=/t",
            "type=npipe,src=/s,dst=/t",
            "type=bind,src=/s,dst=/t,bogus",
            "type=bind,src=/s,dst=/t,bind-propagation=shared",
            "type,dst=/t",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_file_systems() {
        assert_eq!(tmpfs("/t").unwrap(), memory(None, 0o1777, false, false));
        assert_eq!(tmpfs("/t:size=64k,mode=0755,exec,ro,nosuid").unwrap(), memory(Some(65536), 0o755, true, true));
        for bad in ["", ":size=1", "/t:size=x", "/t:mode=9", "/t:uid=3"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }
}
