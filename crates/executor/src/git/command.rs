//! One git command: its environment, its output, its end.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rbuild_logfmt::event::{Failure, GitFailed, GitTask, Stream};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::Address;
use super::shown::Shown;
use crate::cancel::Cancel;
use crate::options::{Secret, SecretSource, Ssh};
use crate::stop::Stop;

/// Ways that git may take to a repository, and to those inside of it.
const PROTOCOLS: &str = "http:https:git:ssh";

/// Variables that git, and the programs it runs, need to work at all; none of them is a setting of git's.
const PASSED_ON: [&str; 17] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "GIT_EXEC_PATH",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// What shows who asks.
#[derive(Clone, Default)]
pub(crate) struct Auth {
    /// The address that the header is for, and the value of `Authorization`.
    header: Option<(String, String)>,
    /// The socket of an agent.
    agent: Option<PathBuf>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("header", &self.header.is_some()).field("agent", &self.agent).finish()
    }
}

impl Auth {
    /// From the secrets of a build: `GIT_AUTH_HEADER`, `GIT_AUTH_TOKEN`, the same with `.HOST` first
    /// (`gitSourceHandler.getAuthToken`); else name and password of the address.
    pub(crate) fn of(address: &Address, secrets: &[Secret], ssh: &[Ssh]) -> Result<Auth, Stop> {
        let host = address.host();
        let agent = ssh.iter().find(|agent| agent.id == "default").map(|agent| agent.socket.clone());
        let names = [(false, format!("GIT_AUTH_HEADER.{host}")), (true, format!("GIT_AUTH_TOKEN.{host}"))]
            .into_iter()
            .chain([(false, "GIT_AUTH_HEADER".to_owned()), (true, "GIT_AUTH_TOKEN".to_owned())]);
        for (is_token, name) in names {
            let Some(secret) = secrets.iter().find(|secret| secret.id == name) else { continue };
            let value = read_secret(secret)?;
            let value = if is_token { basic("x-access-token", value.trim_end_matches(['\r', '\n'])) } else { value };
            return Ok(Auth { header: Some((scope(&address.remote), value)), agent });
        }
        let login = address.login.as_ref().map(|(name, password)| (scope(&address.remote), basic(name, password)));
        Ok(Auth { header: login, agent })
    }
}

fn read_secret(secret: &Secret) -> Result<String, Stop> {
    let bytes = match &secret.source {
        SecretSource::Value(value) => value.clone(),
        SecretSource::File(path) => std::fs::read(path).map_err(|error| {
            Stop::failed(Failure::Own {
                message: format!("cannot read the secret `{}` from `{}`: {error}", secret.id, path.display()),
                hint: None,
            })
        })?,
    };
    String::from_utf8(bytes).map_err(|_| {
        Stop::failed(Failure::Own { message: format!("the secret `{}` is not UTF-8", secret.id), hint: None })
    })
}

fn basic(name: &str, password: &str) -> String {
    format!("basic {}", BASE64.encode(format!("{name}:{password}")))
}

/// Where a token is sent: to its repository alone, but one for GitHub to all that are there, so that private
/// repositories in a repository work (`tokenScope`).
fn scope(remote: &str) -> String {
    let hosts = ["https://github.com/", "https://www.github.com/"];
    hosts.into_iter().find(|host| remote.starts_with(host)).unwrap_or(remote).to_owned()
}

/// Why a git command gave nothing.
pub(crate) enum GitError {
    /// git says no.
    Failed(GitFailed),
    /// The build ends, or git cannot be run at all.
    Stop(Stop),
}

impl From<Stop> for GitError {
    fn from(stop: Stop) -> GitError {
        GitError::Stop(stop)
    }
}

impl From<std::io::Error> for GitError {
    fn from(error: std::io::Error) -> GitError {
        GitError::Stop(error.into())
    }
}

/// The program git, with what all commands on one repository share.
#[derive(Clone)]
pub(crate) struct Git<'a> {
    cancel: &'a Cancel,
    shown: Option<&'a Shown<'a>>,
    auth: Auth,
    /// Keys of hosts that are met for the first time.
    new_hosts: PathBuf,
    git_dir: Option<PathBuf>,
    work_tree: Option<PathBuf>,
    dir: Option<PathBuf>,
    file_allowed: bool,
    /// Settings that programs which git starts need, too.
    settings: Option<PathBuf>,
}

impl<'a> Git<'a> {
    /// `own` is a directory for what git's helpers keep.
    pub(crate) fn new(cancel: &'a Cancel, own: &Path, shown: Option<&'a Shown<'a>>, auth: Auth) -> Git<'a> {
        let new_hosts = own.join("known_hosts");
        Git {
            cancel,
            shown,
            auth,
            new_hosts,
            git_dir: None,
            work_tree: None,
            dir: None,
            file_allowed: false,
            settings: None,
        }
    }

    /// The same in another repository.
    pub(crate) fn git_dir(&self, dir: &Path) -> Git<'a> {
        Git { git_dir: Some(dir.to_owned()), ..self.clone() }
    }

    /// The same with files elsewhere.
    pub(crate) fn work_tree(&self, dir: &Path) -> Git<'a> {
        Git { work_tree: Some(dir.to_owned()), ..self.clone() }
    }

    /// The same in a directory.
    pub(crate) fn within(&self, dir: &Path) -> Git<'a> {
        Git { dir: Some(dir.to_owned()), ..self.clone() }
    }

    /// The same, and a repository may be fetched from this machine's disks.
    pub(crate) fn with_files(&self) -> Git<'a> {
        Git { file_allowed: true, ..self.clone() }
    }

    /// The same for an address. One on this machine's disks may belong to somebody else if the user's own settings say
    /// that it is to be trusted (`safe.directory`): git refuses it otherwise.
    pub(crate) fn reaching(&self, address: &Address) -> Result<Git<'a>, Stop> {
        if !address.is_file() {
            return Ok(self.clone());
        }
        let asked = Command::new("git").args(["config", "--global", "--get-all", "safe.directory"]).output();
        let trusted = asked.map_err(|error| not_started(&error))?.stdout;
        let trusted = String::from_utf8_lossy(&trusted);
        let lines = trusted
            .lines()
            .map(|path| format!("\tdirectory = \"{}\"\n", path.replace('\\', "\\\\").replace('"', "\\\"")));
        let settings = self.new_hosts.with_file_name("gitconfig");
        std::fs::write(&settings, format!("[safe]\n{}", lines.collect::<String>()))?;
        Ok(Git { settings: Some(settings), ..self.with_files() })
    }

    /// Runs a command and gives what it wrote to standard output. As `GitCLI.Run`, one that a server cannot serve for
    /// lack of a capability is tried again without asking for it.
    pub(crate) fn run(&self, task: GitTask, arguments: &[&str]) -> Result<String, GitError> {
        let mut arguments = arguments.to_vec();
        loop {
            let (stdout, failed) = match self.once(task, &arguments)? {
                Ended { stdout, code: Some(0), .. } => return Ok(String::from_utf8_lossy(&stdout).into_owned()),
                Ended { stdout, stderr, code } => {
                    let output = String::from_utf8_lossy(&stderr).into_owned();
                    (stdout, GitFailed { task, output, code })
                }
            };
            let said = |text: &str| failed.output.contains(text);
            let before = arguments.len();
            if said("--depth") || said("shallow") {
                arguments.retain(|argument| *argument != "--depth=1");
            }
            if arguments.len() == before
                && (said("not our ref") || said("unadvertised object"))
                && arguments.len() > 2
                && arguments.first() == Some(&"fetch")
                && arguments.last().is_some_and(|last| super::is_commit(last))
            {
                arguments.pop();
            }
            if arguments.len() == before {
                drop(stdout);
                return Err(GitError::Failed(failed));
            }
        }
    }

    /// Runs a command once, as Docker's legacy client does; the text of a failure is all that it wrote.
    pub(crate) fn run_once(&self, task: GitTask, arguments: &[&str]) -> Result<String, GitError> {
        let Ended { stdout, stderr, code } = self.once(task, arguments)?;
        if code == Some(0) {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let output = [stdout, stderr].concat();
        Err(GitError::Failed(GitFailed { task, output: String::from_utf8_lossy(&output).into_owned(), code }))
    }

    fn once(&self, task: GitTask, arguments: &[&str]) -> Result<Ended, GitError> {
        if self.cancel.is_cancelled() {
            return Err(Stop::Cancelled.into());
        }
        tracing::debug!(?task, "git {}", arguments.join(" "));
        let mut command = Command::new("git");
        command.env_clear().envs(self.environment());
        command.args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
        // Repositories must not make repositories of this machine's disks part of themselves.
        command.args(["-c", if self.file_allowed { "protocol.file.allow=user" } else { "protocol.file.allow=never" }]);
        if let Some(dir) = &self.work_tree {
            command.arg("--work-tree").arg(dir);
        }
        if let Some(dir) = &self.git_dir {
            command.arg("--git-dir").arg(dir);
        }
        command.args(arguments);
        let here = self.dir.as_ref().or(self.work_tree.as_ref()).or(self.git_dir.as_ref());
        // The directory that the caller is in may be of no use to git.
        command.current_dir(here.map_or(Path::new("/"), PathBuf::as_path));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The helpers that git starts are ended with it.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| not_started(&error))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let read = self.read(&mut child);
        if read.is_err()
            && let Some(group) = group
        {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait()?;
        let (stdout, stderr) = read?;
        Ok(Ended { stdout, stderr, code: status.code().filter(|_| status.signal().is_none()) })
    }

    /// Reads both streams to their ends, unless the build is cancelled.
    fn read(&self, child: &mut std::process::Child) -> Result<(Vec<u8>, Vec<u8>), GitError> {
        let mut stdout = child.stdout.take();
        let mut stderr = child.stderr.take();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; 16 << 10];
        while stdout.is_some() || stderr.is_some() {
            let cancelled = self.cancel.commands().as_fd();
            let mut fds = vec![PollFd::from_borrowed_fd(cancelled, PollFlags::IN)];
            fds.extend(stdout.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            fds.extend(stderr.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(std::io::Error::from(errno).into()),
                Ok(_) => {}
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            if ready.first() == Some(&true) {
                return Err(Stop::Cancelled.into());
            }
            let mut ready = ready.into_iter().skip(1);
            let is_out = stdout.is_some() && ready.next() == Some(true);
            let is_err = stderr.is_some() && ready.next() == Some(true);
            if is_out {
                self.pass(&mut stdout, Stream::Stdout, &mut buffer, &mut out)?;
            }
            if is_err {
                self.pass(&mut stderr, Stream::Stderr, &mut buffer, &mut err)?;
            }
        }
        Ok((out, err))
    }

    fn pass<R: Read>(
        &self,
        pipe: &mut Option<R>,
        stream: Stream,
        buffer: &mut [u8],
        all: &mut Vec<u8>,
    ) -> Result<(), GitError> {
        let Some(reader) = pipe else { return Ok(()) };
        let count = reader.read(buffer)?;
        let data = buffer.get(..count).unwrap_or_default();
        if data.is_empty() {
            *pipe = None;
            return Ok(());
        }
        all.extend_from_slice(data);
        if let Some(shown) = self.shown {
            shown.write(stream, data);
        }
        Ok(())
    }

    /// The whole environment of git: no settings of the machine or the user, no questions, one language. What is secret
    /// is in it and nowhere else: a command line can be seen by everybody.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut variables: Vec<(OsString, OsString)> =
            PASSED_ON.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect();
        let mut set = |name: &str, value: &OsStr| variables.push((name.into(), value.to_owned()));
        set("GIT_TERMINAL_PROMPT", "0".as_ref());
        set("GIT_CONFIG_NOSYSTEM", "1".as_ref());
        // What is missing is an error, not one more fetch.
        set("GIT_NO_LAZY_FETCH", "1".as_ref());
        set("HOME", "/dev/null".as_ref());
        set("XDG_CONFIG_HOME", "/dev/null".as_ref());
        set("LC_ALL", "C".as_ref());
        if let Some(settings) = &self.settings {
            set("GIT_CONFIG_GLOBAL", settings.as_os_str());
        }
        let protocols = if self.file_allowed { format!("{PROTOCOLS}:file") } else { PROTOCOLS.to_owned() };
        set("GIT_ALLOW_PROTOCOL", protocols.as_ref());
        set("GIT_SSH_COMMAND", self.ssh().as_ref());
        let agent = self.auth.agent.clone().map(PathBuf::into_os_string);
        if let Some(agent) = agent.or_else(|| std::env::var_os("SSH_AUTH_SOCK")) {
            set("SSH_AUTH_SOCK", &agent);
        }
        if let Some((scope, value)) = &self.auth.header {
            set("GIT_CONFIG_COUNT", "1".as_ref());
            set("GIT_CONFIG_KEY_0", format!("http.{scope}.extraheader").as_ref());
            set("GIT_CONFIG_VALUE_0", format!("Authorization: {value}").as_ref());
        }
        variables
    }

    /// ssh without the user's settings, and without questions. Keys and known hosts are the user's, who is another one
    /// in the eyes of ssh inside a user namespace. A host that is not known is trusted, as BuildKit's client does.
    fn ssh(&self) -> String {
        let mut command = format!(
            "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={}",
            quoted_for_ssh(&self.new_hosts)
        );
        if let Some(home) = std::env::var_os("HOME").map(PathBuf::from).map(|home| home.join(".ssh")) {
            command.push_str(&format!("\\ {}", quoted_for_ssh(&home.join("known_hosts"))));
            for key in ["id_ed25519", "id_ecdsa", "id_rsa"].map(|key| home.join(key)) {
                if key.exists() {
                    command.push_str(&format!(" -i {}", quoted(&key.to_string_lossy())));
                }
            }
        }
        command
    }
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// One of several names in an option of ssh, which takes quotes of its own.
fn quoted_for_ssh(path: &Path) -> String {
    quoted(&format!("\"{}\"", path.to_string_lossy()))
}

struct Ended {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    code: Option<i32>,
}

fn not_started(error: &std::io::Error) -> Stop {
    let (message, hint) = match error.kind() {
        std::io::ErrorKind::NotFound => (
            "cannot find the program `git`, which fetches repositories".to_owned(),
            "install git, or clone the repository elsewhere and pass its directory",
        ),
        _ => (format!("cannot run `git`: {error}"), "check what `git` on the PATH is"),
    };
    Stop::failed(Failure::Own { message, hint: Some(hint.to_owned()) })
}

#[cfg(test)]
mod tests {
    use rbuild_logfmt::event::{Builder, Dialect, Version};

    use super::*;

    fn address(text: &str) -> Address {
        let dialect = Dialect { builder: Builder::Buildkit, version: Version::V28 };
        Address::parse(text, dialect).unwrap().unwrap()
    }

    fn secret(id: &str, value: &str) -> Secret {
        Secret { id: id.to_owned(), source: SecretSource::Value(value.as_bytes().to_vec()) }
    }

    #[test]
    fn tokens_of_the_host_come_first_and_stay_with_their_repository() {
        let secrets = [secret("GIT_AUTH_TOKEN", "all"), secret("GIT_AUTH_TOKEN.h:8443", "one\n")];
        let header = |text: &str, secrets: &[Secret]| Auth::of(&address(text), secrets, &[]).unwrap().header;
        let of = |token: &str| basic("x-access-token", token);
        let remote = "https://h:8443/r.git";
        assert_eq!(header(remote, &secrets), Some((remote.to_owned(), of("one"))));
        assert_eq!(header("https://g/r.git", &secrets), Some(("https://g/r.git".to_owned(), of("all"))));
        let github = header("https://github.com/o/r.git", &secrets);
        assert_eq!(github, Some(("https://github.com/".to_owned(), of("all"))));
        let whole = [secret("GIT_AUTH_TOKEN", "t"), secret("GIT_AUTH_HEADER", "bearer x")];
        assert_eq!(header(remote, &whole), Some((remote.to_owned(), "bearer x".to_owned())));
        assert_eq!(header("https://me:pw@h/r.git", &[]), Some(("https://h/r.git".to_owned(), basic("me", "pw"))));
        assert_eq!(header(remote, &[]), None);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let auth = Auth::of(&address("https://h/r.git"), &[secret("GIT_AUTH_TOKEN", "planted")], &[]).unwrap();
        assert!(!format!("{auth:?}").contains(&basic("x-access-token", "planted")));
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted_for_ssh(Path::new("/a b")), "'\"/a b\"'");
    }
}
