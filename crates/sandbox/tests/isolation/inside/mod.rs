//! Tests that run inside a worker, where steps are started.

mod confinement;
mod mounts;
mod processes;
mod roots;
mod streams;
mod users;

use rbuild_sandbox::{
    Cancel, Durability, ExitStatus, Facts, Overlay, RootFs, RunError, RunReport, RunSpec, Stream, Worker,
    WorkerChannel, remove_tree, run,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

type Test = (&'static str, fn(&Place));

const ALL: [&[Test]; 6] =
    [users::TESTS, processes::TESTS, confinement::TESTS, mounts::TESTS, roots::TESTS, streams::TESTS];

#[derive(Serialize, Deserialize)]
struct Job {
    base: PathBuf,
    wanted: Vec<String>,
}

#[derive(Serialize, Deserialize)]
enum Message {
    Begin(String),
    End(bool),
    Note(String),
}

/// Outside: has the tests run and tells their results.
pub(crate) fn drive(worker: &mut Worker, base: &Path, wanted: &[String]) -> Result<(), ()> {
    worker.send(&Job { base: base.to_owned(), wanted: wanted.to_vec() }).unwrap();
    let mut result = Ok(());
    let mut running = None;
    while let Ok(Some(message)) = worker.recv::<Message>() {
        match message {
            Message::Begin(name) => running = Some(name),
            Message::Note(text) => println!("   {text}"),
            Message::End(passed) => {
                println!("test {} ... {}", running.take().unwrap_or_default(), if passed { "ok" } else { "FAILED" });
                if !passed {
                    result = Err(());
                }
            }
        }
    }
    let status = worker.wait().unwrap();
    if status != ExitStatus::Code(0) || running.is_some() {
        println!("the worker ended with {status:?} in {running:?}");
        result = Err(());
    }
    result
}

/// Where the tests of a worker take place.
struct Place<'a> {
    base: PathBuf,
    channel: &'a WorkerChannel,
}

pub(crate) fn serve(channel: WorkerChannel) -> i32 {
    let Ok(Some(job)) = channel.recv::<Job>() else {
        return 2;
    };
    let place = Place { base: job.base, channel: &channel };
    for (name, test) in ALL.iter().copied().flatten() {
        if !job.wanted.is_empty() && !job.wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        channel.send(&Message::Begin((*name).to_owned())).unwrap();
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&place))).is_ok();
        channel.send(&Message::End(passed)).unwrap();
    }
    0
}

struct Done {
    report: RunReport,
    stdout: String,
    stderr: String,
}

impl Place<'_> {
    fn note(&self, text: impl Into<String>) {
        self.channel.send(&Message::Note(text.into())).unwrap();
    }

    fn facts(&self) -> &Facts {
        self.channel.facts()
    }

    /// A new directory of this name.
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.base.join(name);
        remove_tree(&dir).unwrap();
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// An overlay over these layers, in a new directory of this name.
    fn overlay(&self, name: &str, lower: Vec<PathBuf>) -> Overlay {
        let dir = self.dir(name);
        let sub = |name: &str| {
            fs::create_dir(dir.join(name)).unwrap();
            dir.join(name)
        };
        Overlay { lower, upper: sub("upper"), work: sub("work"), durability: Durability::Volatile }
    }

    fn busybox(&self) -> PathBuf {
        self.base.join("busybox")
    }

    /// `/bin/sh -c SCRIPT` over busybox and the layers above it, top first.
    fn script_over(&self, name: &str, mut above: Vec<PathBuf>, script: &str) -> RunSpec {
        above.push(self.busybox());
        let overlay = self.overlay(name, above);
        let mut spec = RunSpec::new(RootFs::Overlay(overlay), words(&["/bin/sh", "-c", script]));
        spec.env = vec![b"PATH=/bin".to_vec()];
        spec
    }

    fn script(&self, name: &str, script: &str) -> RunSpec {
        self.script_over(name, Vec::new(), script)
    }
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn upper(spec: &RunSpec) -> &Path {
    match &spec.root {
        RootFs::Overlay(overlay) => &overlay.upper,
        RootFs::Directory(dir) => dir,
    }
}

/// All that lies in a directory, sorted.
fn listing(dir: &Path) -> Vec<String> {
    fn visit(dir: &Path, base: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                visit(&path, base, found);
            }
        }
    }
    let mut found = Vec::new();
    visit(dir, dir, &mut found);
    found.sort();
    found
}

fn try_do(spec: &RunSpec) -> Result<Done, RunError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let report = run(spec, &Cancel::new().unwrap(), &mut |output| match output.stream {
        Stream::Stdout => stdout.extend_from_slice(output.bytes),
        Stream::Stderr => stderr.extend_from_slice(output.bytes),
    })?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Done { report, stdout: text(stdout), stderr: text(stderr) })
}

#[track_caller]
fn do_it(spec: &RunSpec) -> Done {
    match try_do(spec) {
        Ok(done) => done,
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

/// What a successful command wrote to its standard output.
#[track_caller]
fn output(spec: &RunSpec) -> String {
    let done = do_it(spec);
    assert_eq!(done.report.status, ExitStatus::Code(0), "{}{}", done.stdout, done.stderr);
    done.stdout
}
