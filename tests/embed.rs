//! The library in a program that is not rbuild: two builds at once, their events, and a third that is cancelled.
//!
//! A build starts its program again, so this has a `main` of its own instead of the test runner's. As root it starts
//! itself once more as the ordinary user that tests drop to.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program with a main of its own")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rbuild_executor::logfmt::event::{Event, Fact, Outcome};
use rbuild_executor::{
    BuildError, BuildOptions, BuildResult, Cancel, ContextSource, Output, RunControl, RunFact, RunOptions, RunStreams,
    build, init, manage,
};
use rbuild_testkit::registry::{Fault, Registry};
use rbuild_testkit::workspace::{Workspace, finish};
use rbuild_testkit::{bases, leftovers, require};

/// Tells the program, started again, where to work and which registry to ask.
const INNER: &str = "RBUILD_EMBED_TEST";

/// A test by its name.
type Test = (&'static str, fn(&Place));

fn main() -> ExitCode {
    init();
    let tests: [Test; 5] = [
        ("two_builds_at_once", two_builds_at_once),
        ("a_cancelled_run", a_cancelled_run),
        ("a_cancelled_pull_and_a_cancel_before_the_build", a_cancelled_pull),
        ("a_failure_has_facts", a_failure_has_facts),
        ("commands_in_an_image", commands_in_an_image),
    ];
    match std::env::var(INNER) {
        Ok(place) => {
            let (dir, mirror) = place.split_once(' ').unwrap();
            let wanted = std::env::args().nth(1).unwrap();
            let (_, test) = tests.iter().find(|(name, _)| *name == wanted).unwrap();
            test(&Place { dir: dir.into(), mirror: mirror.to_owned() });
            ExitCode::SUCCESS
        }
        Err(_) => outer(&tests.map(|(name, _)| name)),
    }
}

/// Runs each test in a process of its own, as an ordinary user, and prints what the test runner would.
fn outer(tests: &[&str]) -> ExitCode {
    let filter: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &&&str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    let chosen: Vec<&&str> = tests.iter().filter(chosen).collect();
    let begin = Instant::now();
    println!("\nrunning {} tests", chosen.len());
    let (mut failed, mut ignored) = (0, 0);
    for name in &chosen {
        let me = std::env::current_exe().unwrap();
        let Some(workspace) = require::check(name, Workspace::new(me.to_str().unwrap())) else {
            println!("test {name} ... ignored");
            ignored += 1;
            continue;
        };
        let registry = Registry::start();
        if require::check(name, bases::fill(&registry)).is_none() {
            println!("test {name} ... ignored");
            ignored += 1;
            continue;
        }
        registry.fail("/library/config/", Fault::Stall, usize::MAX);
        let mut inner = workspace.rbuild([**name]);
        inner.env(INNER, format!("{} {}", workspace.dir().display(), registry.url())).env("RUST_BACKTRACE", "1");
        let output = finish(&mut inner, None);
        let clean = output.status.success() && {
            leftovers::expect_none(workspace.dir(), Duration::from_secs(5));
            // The library prints nothing.
            output.text().is_empty()
        };
        println!("test {name} ... {}", if clean { "ok" } else { "FAILED" });
        if !clean {
            println!("---- {name}: {}\n{}", output.status, output.text());
            failed += 1;
        }
    }
    let (word, passed) = (if failed == 0 { "ok" } else { "FAILED" }, chosen.len() - failed - ignored);
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        tests.len() - chosen.len(),
        begin.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Place {
    dir: PathBuf,
    mirror: String,
}

impl Place {
    /// Options of a build of a Dockerfile, into the one store of the test.
    fn options(&self, name: &str, dockerfile: &str) -> BuildOptions {
        let context = self.dir.join(name);
        std::fs::create_dir_all(&context).unwrap();
        std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let mut options = BuildOptions::new(self.store(), ContextSource::Dir(context));
        options.registry.mirrors.push(self.mirror.clone());
        options.tags.push(format!("embed:{name}"));
        options
    }

    fn store(&self) -> PathBuf {
        self.dir.join("embedded-store")
    }
}

/// Builds, and keeps every event.
fn run(options: BuildOptions, cancel: &Cancel) -> (Result<BuildResult, BuildError>, Vec<Event>) {
    let mut events = Vec::new();
    let result = build(options, cancel, &mut |event: &Event| events.push(event.clone()));
    (result, events)
}

fn outcome(events: &[Event]) -> &Outcome {
    match &events.last().unwrap().fact {
        Fact::BuildEnded { outcome } => outcome,
        other => panic!("the last event is {other:?}"),
    }
}

fn two_builds_at_once(place: &Place) {
    let before = environment();
    let builds: Vec<_> = ["one", "two"]
        .map(|name| {
            let dockerfile = format!("FROM busybox\nRUN echo {name} >/name; sleep 1\n");
            let mut options = place.options(name, &dockerfile);
            options.outputs.push(Output::Local(place.dir.join(format!("{name}-root"))));
            std::thread::spawn(move || (Instant::now(), run(options, &Cancel::new()), Instant::now()))
        })
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    // They overlapped: each began before the other ended.
    assert!(builds[0].0 < builds[1].2 && builds[1].0 < builds[0].2);
    let listed = manage::list(&BuildOptions::new(place.store(), ContextSource::Stdin).store).unwrap();
    let mut ids = Vec::new();
    for (name, (_, (result, events), _)) in ["one", "two"].iter().zip(&builds) {
        let image = result.as_ref().unwrap();
        assert!(matches!(&events[0].fact, Fact::BuildStarted { .. }), "{:?}", events[0]);
        assert!(matches!(outcome(events), Outcome::Success { image: id, .. } if *id == image.image_id));
        assert_eq!(std::fs::read_to_string(place.dir.join(format!("{name}-root/name"))).unwrap(), format!("{name}\n"));
        assert_eq!(image.names, [format!("docker.io/library/embed:{name}")]);
        ids.push(image.image_id.clone());
    }
    assert_ne!(ids[0], ids[1]);
    assert!(listed.len() >= 2);
    assert_eq!(environment(), before, "the library changed the state of the process");
}

/// What a process has that others in it could miss: directory, umask and variables.
fn environment() -> (PathBuf, Vec<(std::ffi::OsString, std::ffi::OsString)>, String) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find(|line| line.starts_with("Umask")).unwrap().to_owned();
    (std::env::current_dir().unwrap(), std::env::vars_os().collect(), umask)
}

fn a_cancelled_run(place: &Place) {
    let cancel = Cancel::new();
    let other = {
        let options = place.options("other", "FROM busybox\nRUN sleep 2; echo done >/done\n");
        std::thread::spawn(move || run(options, &Cancel::new()).0)
    };
    let (handle, mut begun) = (cancel.clone(), None);
    let options = place.options("long", "FROM busybox\nRUN echo begun; trap '' TERM; sleep 6666\n");
    let result = build(options, &cancel, &mut |event: &Event| {
        if matches!(&event.fact, Fact::Output { .. }) && begun.is_none() {
            begun = Some(Instant::now());
            let handle = handle.clone();
            std::thread::spawn(move || handle.cancel());
        }
    });
    assert!(matches!(result, Err(BuildError::Cancelled)), "{result:?}");
    assert!(begun.unwrap().elapsed() < Duration::from_secs(5));
    assert!(!leftovers::processes(Path::new("sleep\x006666")).iter().any(|process| process.contains("sleep 6666")));
    // The other one does not notice.
    let _ = other.join().unwrap().unwrap();
}

fn a_cancelled_pull(place: &Place) {
    let cancel = Cancel::new();
    let handle = cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        handle.cancel();
    });
    let begin = Instant::now();
    // The registry stalls on this one.
    let (result, events) = run(place.options("stalled", "FROM config:1\n"), &cancel);
    assert!(matches!(result, Err(BuildError::Cancelled)), "{result:?}");
    assert!(matches!(outcome(&events), Outcome::Cancelled { .. }));
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    // A handle that was used stays so.
    let (result, _) = run(place.options("never", "FROM busybox\nRUN sleep 60\n"), &cancel);
    assert!(matches!(result, Err(BuildError::Cancelled)), "{result:?}");
}

fn a_failure_has_facts(place: &Place) {
    let (result, events) = run(place.options("fails", "FROM busybox\nRUN exit 42\n"), &Cancel::new());
    let Err(BuildError::Failed(failure)) = result else { panic!("{result:?}") };
    assert!(format!("{failure:?}").contains("42"), "{failure:?}");
    assert!(matches!(outcome(&events), Outcome::Failure { failure: told, .. } if *told == failure.failure));
}

/// Runs a command of an image; its exit code, or that of the error, and what it wrote.
fn run_in(place: &Place, script: &str, control: &RunControl, facts: &mut dyn FnMut(&RunFact)) -> (i32, String) {
    let mut options = RunOptions::new(place.store(), "embed:image");
    options.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let streams = RunStreams::Pipes { stdin: None, stdout: writer.try_clone().unwrap().into(), stderr: writer.into() };
    let collector = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        text
    });
    let code = rbuild_executor::run(options, streams, control, facts);
    (code.unwrap_or_else(|error| error.exit_code().into()), collector.join().unwrap())
}

fn commands_in_an_image(place: &Place) {
    let (built, _) = run(place.options("image", "FROM busybox\nENV A=1\nWORKDIR /w\n"), &Cancel::new());
    let _ = built.unwrap();
    let before = environment();
    let mut facts = Vec::new();
    let mut keep = |fact: &RunFact| facts.push(fact.clone());
    let (code, text) = run_in(place, "echo $A; pwd; cat; exit 7", &RunControl::new(), &mut keep);
    assert_eq!((code, text.as_str()), (7, "1\n/w\n"));
    assert_eq!(facts, [RunFact::Starting]);
    let control = RunControl::new();
    let handle = control.clone();
    let begin = Instant::now();
    let mut cancel = |_: &RunFact| {
        let handle = handle.clone();
        std::thread::spawn(move || handle.cancel());
    };
    let (code, _) = run_in(place, "trap '' TERM; sleep 5555", &control, &mut cancel);
    assert_eq!(code, 125);
    assert!(control.is_cancelled() && begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    // A signal that comes before there is a command leaves none to begin.
    let control = RunControl::new();
    control.signal(15);
    assert_eq!(run_in(place, "echo ran", &control, &mut |_| {}), (125, String::new()));
    assert_eq!(environment(), before, "the library changed the state of the process");
}
