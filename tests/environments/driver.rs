//! What goes on inside an environment: this program, started there again, does the builds one after the other and
//! writes a line of JSON about each.
//!
//! It is a static program that needs nothing but a directory to write to, so that it can do its work in an image that
//! has nothing but rbuild, too.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rbuild_testkit::listing;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::builds::{Build, EPOCH};

/// Longest time for one run of rbuild.
const PATIENCE: Duration = Duration::from_secs(900);
/// Name of the plan in the share.
pub(crate) const PLAN: &str = "plan.json";

/// How the driver is called.
#[derive(clap::Args, Debug)]
pub(crate) struct DriverArgs {
    /// The directory with rbuild, the plan and the contexts.
    #[arg(long)]
    share: PathBuf,
    /// A directory to work in, made where it is missing.
    #[arg(long)]
    scratch: PathBuf,
    /// Write the lines to this file instead of standard output.
    #[arg(long)]
    results: Option<PathBuf>,
    /// The program to test, where it is not that of the share.
    #[arg(long)]
    rbuild: Option<PathBuf>,
    /// Further flags of each build.
    #[arg(last = true)]
    flags: Vec<String>,
}

/// A line that the driver writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// First: how RUN steps are confined here, as `rbuild doctor` says.
    Rung(Result<String, String>),
    /// A build was done.
    Built(Built),
    /// Last: all builds were tried.
    End,
}

/// What became of a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Built {
    /// Its name.
    pub(crate) name: String,
    /// What it made, or why it failed.
    pub(crate) image: Result<Image, Fault>,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// Why a build failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// In one line.
    pub(crate) why: String,
    /// All that it wrote.
    pub(crate) log: String,
}

/// What an image is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Digests of its layers' tars, in order.
    pub(crate) diff_ids: Vec<String>,
    /// Its listing, where it is wanted.
    pub(crate) listing: Option<Value>,
}

/// Does all builds of the plan.
///
/// # Errors
/// If the driver itself cannot work; a build that fails is a line.
pub(crate) fn drive(args: DriverArgs) -> Result<(), String> {
    let plan = fs::read(args.share.join(PLAN)).map_err(|error| format!("{PLAN}: {error}"))?;
    let builds: Vec<Build> = serde_json::from_slice(&plan).map_err(|error| format!("{PLAN}: {error}"))?;
    fs::create_dir_all(&args.scratch).map_err(|error| format!("{}: {error}", args.scratch.display()))?;
    let mut results: Box<dyn Write> = match &args.results {
        None => Box::new(std::io::stdout()),
        Some(path) => Box::new(File::create(path).map_err(|error| format!("{}: {error}", path.display()))?),
    };
    let mut tell = |line: &Line| {
        let line = serde_json::to_string(line).map_err(|error| error.to_string())?;
        writeln!(results, "{line}").and_then(|()| results.flush()).map_err(|error| format!("write a line: {error}"))
    };
    let program = args.rbuild.clone().unwrap_or_else(|| args.share.join("rbuild"));
    let place = Place { share: args.share, scratch: args.scratch, program, flags: args.flags };
    tell(&Line::Rung(place.rung()))?;
    let mut failed = Vec::new();
    for build in &builds {
        let begin = Instant::now();
        let image = match build.after.as_ref().filter(|before| failed.contains(before)) {
            Some(before) => Err(Fault { why: format!("not tried, since {before} failed"), log: String::new() }),
            None => place.build(build),
        };
        if image.is_err() {
            failed.push(&build.name);
        }
        let seconds = begin.elapsed().as_secs_f64();
        tell(&Line::Built(Built { name: build.name.clone(), image, seconds }))?;
    }
    tell(&Line::End)
}

struct Place {
    share: PathBuf,
    scratch: PathBuf,
    program: PathBuf,
    flags: Vec<String>,
}

/// What a run gave.
struct Ran {
    stdout: Vec<u8>,
    stderr: String,
    status: ExitStatus,
}

impl Place {
    fn rung(&self) -> Result<String, String> {
        let ran = self.run(&self.scratch.join("doctor"), &["doctor".to_owned(), "--json".to_owned()], None, None)?;
        let found: Value = serde_json::from_slice(&ran.stdout).map_err(|_| ran.why())?;
        let why = found["probe"]["worker"]["Err"].as_str().unwrap_or("no reason is told");
        found["isolation"].as_str().map(str::to_owned).ok_or_else(|| why.to_owned())
    }

    fn build(&self, build: &Build) -> Result<Image, Fault> {
        let own = |why: String| Fault { why, log: String::new() };
        let dir = self.scratch.join(build.name.replace('/', "-"));
        let context = dir.join("context");
        fs::create_dir_all(&dir).map_err(told(&dir)).map_err(own)?;
        unpack(&self.share.join(&build.context), &context).map_err(told(&context)).map_err(own)?;
        let store = match &build.store {
            Some(name) => self.scratch.join(name),
            None => dir.join("store"),
        };
        let mut arguments = build.arguments.clone();
        arguments.splice(1..1, self.flags.iter().cloned());
        let input = build.input.as_ref().map(|name| self.share.join(name));
        let ran = self.run(&store, &arguments, input.as_deref(), Some(&context)).map_err(own)?;
        if !ran.status.success() {
            return Err(Fault { why: ran.why(), log: ran.text() });
        }
        let image = self.image(&store, build).map_err(own)?;
        if build.store.is_none() {
            self.succeed(&store, &["prune", "--all", "--force"]).map_err(own)?;
            fs::remove_dir_all(&dir).map_err(told(&dir)).map_err(own)?;
        }
        Ok(image)
    }

    fn image(&self, store: &Path, build: &Build) -> Result<Image, String> {
        let inspected: Value = serde_json::from_slice(&self.succeed(store, &["inspect", &build.image])?)
            .map_err(|error| format!("inspect: {error}"))?;
        let layers = inspected[0]["RootFS"]["Layers"].as_array().cloned().unwrap_or_default();
        let diff_ids = layers.iter().filter_map(|layer| layer.as_str().map(str::to_owned)).collect();
        let listing = match build.listed {
            true => Some(listing::of_archive(&self.succeed(store, &["save", &build.image])?)),
            false => None,
        };
        Ok(Image { diff_ids, listing })
    }

    fn succeed(&self, store: &Path, arguments: &[&str]) -> Result<Vec<u8>, String> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let ran = self.run(store, &arguments, None, None)?;
        if ran.status.success() { Ok(ran.stdout) } else { Err(format!("{}: {}", arguments[0], ran.why())) }
    }

    /// Runs rbuild with the environment that there is, and its output to files: nothing has to be read meanwhile.
    fn run(&self, store: &Path, args: &[String], input: Option<&Path>, dir: Option<&Path>) -> Result<Ran, String> {
        let paths = ["stdout", "stderr"].map(|name| self.scratch.join(name));
        let files = [0, 1].map(|stream| File::create(&paths[stream]).map_err(told(&paths[stream])));
        let [stdout, stderr] = files;
        let stdin = match input {
            None => Stdio::null(),
            Some(path) => File::open(path).map_err(told(path))?.into(),
        };
        let mut command = Command::new(&self.program);
        command.args(args).stdin(stdin).stdout(stdout?).stderr(stderr?);
        command.env("RBUILD_ROOT", store).env("SOURCE_DATE_EPOCH", EPOCH.to_string()).env("NO_COLOR", "1");
        command.current_dir(dir.unwrap_or(&self.scratch));
        let mut child = command.spawn().map_err(told(&self.program))?;
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| format!("wait: {error}"))? {
                break status;
            }
            if begin.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("`rbuild {}` did not end within {PATIENCE:?}", args.join(" ")));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let read = |path: &Path| fs::read(path).map_err(told(path));
        Ok(Ran { stdout: read(&paths[0])?, stderr: String::from_utf8_lossy(&read(&paths[1])?).into_owned(), status })
    }
}

/// An error with the path that it is about.
fn told(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

impl Ran {
    fn text(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.stdout), self.stderr)
    }

    /// The line that tells why it failed.
    fn why(&self) -> String {
        let text = self.text();
        let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty() && !line.starts_with("hint:"));
        let last = lines.next().unwrap_or("nothing was written").to_owned();
        let told = ["rbuild: error", "ERROR: ", "unknown flag"].map(str::to_owned);
        let why = lines.find(|line| told.iter().any(|told| line.starts_with(told)));
        let why = if told.iter().any(|told| last.starts_with(told)) { None } else { why };
        format!("{}: {}", self.status, why.unwrap_or(&last))
    }
}

/// Unpacks a context: files of whoever does it, with fixed modes and times.
fn unpack(tar: &Path, into: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(into)?;
    let mut modes = Vec::new();
    for entry in tar::Archive::new(File::open(tar)?).entries()? {
        let mut entry = entry?;
        let path = into.join(entry.path()?);
        let mode = entry.header().mode()?;
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(&path)?,
            tar::EntryType::Symlink => {
                std::os::unix::fs::symlink(entry.link_name()?.unwrap_or_default(), &path)?;
                modes.push((path, None));
                continue;
            }
            _ => drop(std::io::copy(&mut entry, &mut File::create(&path)?)?),
        }
        modes.push((path, Some(mode)));
    }
    // What is in a directory first: its own mode may forbid changes.
    for (path, mode) in modes.into_iter().rev() {
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        let time = Timespec { tv_sec: rbuild_testkit::tarball::TIME as i64, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
