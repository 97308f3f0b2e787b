//! A place for one test: directories of an ordinary user, and rbuild run by him with a clean environment.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::leftovers;
use crate::user::TestUser;

/// Longest time that a run of rbuild may take in a test.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A program where every user can start it: build directories are often closed to others.
///
/// A copy in a directory that a process removes which outlives the tests, however they end.
fn open_copy(program: &Path) -> PathBuf {
    let dir = tempfile::Builder::new().prefix("rbuild-test-program-").tempdir_in(tmp()).unwrap().keep();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join(program.file_name().unwrap());
    fs::copy(program, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let remover = Command::new("sh")
        .args(["-c", "cat >/dev/null; exec rm -rf -- \"$0\""])
        .arg(&dir)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The pipe closes when this process ends.
    std::mem::forget(remover);
    copy
}

fn tmp() -> &'static Path {
    // Not TMPDIR, which may be closed to other users.
    Path::new("/tmp")
}

/// What a run of rbuild gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
}

impl Output {
    /// Exit code.
    ///
    /// # Panics
    /// If a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {}\n{}", self.status, self.text()))
    }

    /// Both streams as text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.stdout), self.stderr())
    }

    /// Standard error as text.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as text, without white space around it.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Itself, if it succeeded.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    pub fn success(self) -> Output {
        assert_eq!(self.code(), 0, "{}", self.text());
        self
    }
}

/// A place for one test; emptied when it is dropped.
pub struct Workspace {
    dir: PathBuf,
    program: PathBuf,
    user: TestUser,
}

impl Workspace {
    /// A new place in which `program` (rbuild) is tested.
    ///
    /// # Errors
    /// With the reason to skip a test: nobody can run it as is needed.
    pub fn new(program: &str) -> Result<Workspace, String> {
        static COPY: OnceLock<PathBuf> = OnceLock::new();
        let user = TestUser::find()?;
        let program = COPY.get_or_init(|| open_copy(Path::new(program))).clone();
        let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir_in(tmp()).unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.join("home")).unwrap();
        user.own(&dir);
        Ok(Workspace { dir, program, user })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The store that is used where none is named.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Who runs rbuild.
    #[must_use]
    pub fn user(&self) -> &TestUser {
        &self.user
    }

    /// Writes files and gives them to the user; a name that ends in `/` makes a directory. The directory is returned.
    pub fn files(&self, dir: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path(dir);
        fs::create_dir_all(&dir).unwrap();
        for (name, content) in files {
            let path = dir.join(name);
            if name.ends_with('/') {
                fs::create_dir_all(path).unwrap();
                continue;
            }
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.user.own(&self.dir.join(dir.strip_prefix(&self.dir).unwrap().components().next().unwrap()));
        dir
    }

    /// A command of any program, run as the user with nothing of the tests' environment.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.path("home"))
            .env("NO_COLOR", "1")
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        self.user.run_as(&mut command);
        command
    }

    /// A command of rbuild on the store of this place.
    pub fn rbuild<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = self.command(&self.program);
        command.env("RBUILD_ROOT", self.store()).args(args);
        command
    }

    /// Runs rbuild on the store of this place to its end.
    pub fn run<I, S>(&self, args: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        finish(&mut self.rbuild(args), None)
    }

    /// Archive of an image of the store.
    pub fn saved(&self, image: &str) -> Vec<u8> {
        self.run(["save", image]).success().stdout
    }

    /// Empties the store and asserts that nothing is left in it, nor any process or mount of it.
    pub fn expect_clean(&self) {
        leftovers::expect_none(&self.dir, Duration::from_secs(10));
        let _ = self.run(["prune", "--all", "--force"]).success();
        let residue = leftovers::store_residue(&self.store());
        assert!(residue.is_empty(), "the emptied store still has {residue:#?}");
        leftovers::expect_none(&self.dir, Duration::from_secs(10));
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.user.tests_are_root() {
            // Files of other ids can only be removed in a user namespace.
            for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                if entry.path().join("oci-layout").exists() {
                    let mut prune = self.rbuild(["prune", "--all", "--force", "--root"]);
                    let _ = prune.arg(entry.path()).stdout(Stdio::null()).stderr(Stdio::null()).status();
                }
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs a command to its end; it is killed if that does not come within [`PATIENCE`].
///
/// # Panics
/// If it had to be killed.
pub fn finish(command: &mut Command, input: Option<Vec<u8>>) -> Output {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(input) = input {
        let mut stdin = child.stdin.take().unwrap();
        std::thread::spawn(move || {
            // The program may end before it has read everything.
            let _ = stdin.write_all(&input);
        });
    }
    Running::new(child).finish()
}

/// A run of rbuild that goes on while the test does something else; killed when it is dropped.
pub struct Running {
    child: Child,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Stream {
    bytes: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Stream {
    fn read(mut from: impl std::io::Read + Send + 'static) -> Stream {
        let bytes = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let into = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Stream { bytes, reader }
    }

    fn finish(self) -> Vec<u8> {
        let begin = Instant::now();
        while !self.reader.is_finished() {
            // Something that the program started still has it open.
            assert!(begin.elapsed() < Duration::from_secs(30), "the program ended, but its output is still open");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::mem::take(&mut *self.bytes.lock().unwrap())
    }
}

impl Running {
    /// Starts a command.
    #[must_use]
    pub fn start(command: &mut Command) -> Running {
        Running::new(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Starts a command whose standard output is not read.
    #[must_use]
    pub fn start_unread(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = Some(Stream::read(child.stderr.take().unwrap()));
        Running { child, stdout: None, stderr }
    }

    fn new(mut child: Child) -> Running {
        let stdout = Some(Stream::read(child.stdout.take().unwrap()));
        let stderr = Some(Stream::read(child.stderr.take().unwrap()));
        Running { child, stdout, stderr }
    }

    /// Waits until a text was printed.
    ///
    /// # Panics
    /// If that does not come, or the program ends before.
    pub fn wait_for(&mut self, text: &str) {
        let begin = Instant::now();
        loop {
            let streams = self.stdout.iter().chain(&self.stderr);
            let printed: String =
                streams.map(|stream| String::from_utf8_lossy(&stream.bytes.lock().unwrap()).into_owned()).collect();
            if printed.contains(text) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < PATIENCE, "{text:?} was not printed ({ended:?}):\n{printed}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // A process that has ended in the meantime is no fault.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If that does not come within [`PATIENCE`]; the program is killed then.
    #[must_use]
    pub fn finish(mut self) -> Output {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let printed = self.stderr.take().map(Stream::finish).unwrap_or_default();
                panic!("did not end within {PATIENCE:?}:\n{}", String::from_utf8_lossy(&printed));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // What nobody reads is closed, so that nobody waits for it either.
        drop(self.child.stdout.take());
        let taken = |stream: &mut Option<Stream>| stream.take().map(Stream::finish).unwrap_or_default();
        Output { stdout: taken(&mut self.stdout), stderr: taken(&mut self.stderr), status }
    }
}
