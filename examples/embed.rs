//! Builds an image from a program: receives the build's events, ends the build when it takes too long, and gets the
//! image's id.
//!
//! ```sh
//! cargo run -p rbuild-executor --example embed -- CONTEXT [STORE]
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows something")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use rbuild_executor::logfmt::event::{Event, Fact, StepKind, Stream};
use rbuild_executor::{BuildError, BuildOptions, Cancel, ContextSource, build, init};

/// A build that takes longer is cancelled.
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    // First of all: the library starts this program again for the work of a build, and that copy ends in here.
    init();

    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(context) = arguments.next() else {
        eprintln!("usage: embed CONTEXT [STORE]");
        return ExitCode::from(2);
    };
    let store = arguments.next().unwrap_or_else(|| std::env::temp_dir().join("rbuild-embed"));

    // Everything else is as by default: BuildKit's semantics, `Dockerfile` in the context, the image kept in the store.
    // Nothing is read from the environment: registries, credentials and proxies are set in `options.registry`.
    let mut options = BuildOptions::new(store, ContextSource::Dir(context));
    options.tags.push("embedded:latest".to_owned());
    options.build_args.push(("GREETING".to_owned(), Some("hello".to_owned())));

    // Any thread may cancel. Running commands are killed, and nothing half-done is left in the store.
    let cancel = Cancel::new();
    let (done, is_done) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn({
        let cancel = cancel.clone();
        move || {
            if is_done.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                cancel.cancel();
            }
        }
    });

    // Blocks until the build has ended. Others may run meanwhile, in other threads and on the same store.
    let result = build(options, &cancel, &mut on_event);
    drop(done);
    if watchdog.join().is_err() {
        eprintln!("the watchdog panicked");
    }

    match result {
        Ok(image) => {
            println!("image    {}", image.image_id);
            println!("manifest {}", image.manifest_digest);
            println!("names    {}", image.names.join(", "));
            ExitCode::SUCCESS
        }
        // The facts of what went wrong; `logfmt` has Docker's words for them.
        Err(BuildError::Failed(failure)) => {
            eprintln!("failed: {failure:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Shows some of what happens; `logfmt::renderer` makes Docker's logs of the same events.
fn on_event(event: &Event) {
    let seconds = event.at as f64 / 1e9;
    match &event.fact {
        Fact::StepDeclared(step) => {
            if let StepKind::Instruction(instruction) = &step.kind {
                println!("{seconds:8.3} step {}: {}", step.id.0, instruction.title);
            }
        }
        Fact::Output { step, stream, data, .. } => {
            let stream = match stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            print!("{seconds:8.3} step {} {stream}: {}", step.0, String::from_utf8_lossy(data));
        }
        Fact::StepDone { step, cached, .. } => {
            println!("{seconds:8.3} step {} done{}", step.0, if *cached { ", from the cache" } else { "" });
        }
        _ => {}
    }
}
