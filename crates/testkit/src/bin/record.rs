//! Records what real Docker prints and builds for cases of `tests/fixtures/cases` into `tests/fixtures/goldens`.
//!
//! ```sh
//! cargo run -p rbuild-testkit --bin record -- NAME…
//! ```
//!
//! `DOCKER_28` and `DOCKER_20` are the commands of the two releases, as `docker -H unix:///run/docker.sock`; one that is
//! not set is not recorded. Their daemons must have nothing else in their stores, since these are emptied before every
//! case, and use `http://127.0.0.1:5000` as mirror; unless a registry runs there, this program is it and serves the base
//! images of the tests.
//!
//! `FRESH`, a shell command that gets `28` or `20` as `$1`, gives a daemon an empty store in place of `docker system prune`,
//! which in 28.5 leaves layers of an image that was saved: the next pull of it is not cold.
#![allow(clippy::unwrap_used, reason = "ends where it cannot go on")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode};

use rbuild_testkit::bases;
use rbuild_testkit::case::{Case, RECORDED_REGISTRY};
use rbuild_testkit::docker::Docker;
use rbuild_testkit::golden::Golden;
use rbuild_testkit::registry::Registry;

fn main() -> ExitCode {
    match record(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("record: {message}");
            ExitCode::FAILURE
        }
    }
}

fn record(names: &[String]) -> Result<(), String> {
    let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"));
    let mut cases = Case::all(&fixtures.join("cases"));
    if let Some(unknown) = names.iter().find(|name| cases.iter().all(|case| case.name != **name)) {
        return Err(format!("no case {unknown} in {}", fixtures.join("cases").display()));
    }
    cases.retain(|case| names.contains(&case.name));
    if cases.is_empty() {
        return Err("name the cases to record".to_owned());
    }
    let dockers = dockers()?;
    let _registry = match TcpStream::connect(RECORDED_REGISTRY) {
        Ok(_) => None,
        Err(_) => Some(serve()?),
    };
    for case in &cases {
        let golden = Golden::new(&fixtures.join("goldens"), &case.name);
        for docker in &dockers {
            for builder in ["legacy", "buildkit"] {
                if case.spec.engines.as_ref().is_none_or(|engines| engines.iter().any(|engine| engine == builder)) {
                    record_one(case, &golden, docker, builder)?;
                }
            }
        }
    }
    Ok(())
}

/// The Dockers of the environment.
fn dockers() -> Result<Vec<Docker>, String> {
    let mut dockers = Vec::new();
    for (version, variable) in [("28", "DOCKER_28"), ("20", "DOCKER_20")] {
        if let Ok(words) = std::env::var(variable) {
            let docker = Docker { version, command: words.split_whitespace().map(str::to_owned).collect() };
            docker.check()?;
            dockers.push(docker);
        }
    }
    if dockers.is_empty() {
        return Err("set DOCKER_28 or DOCKER_20 to a command, as `docker -H unix:///run/docker.sock`".to_owned());
    }
    Ok(dockers)
}

fn serve() -> Result<Registry, String> {
    let registry = Registry::start_at(RECORDED_REGISTRY).map_err(|error| format!("{RECORDED_REGISTRY}: {error}"))?;
    bases::fill(&registry)?;
    Ok(registry)
}

fn record_one(case: &Case, golden: &Golden, docker: &Docker, builder: &'static str) -> Result<(), String> {
    match std::env::var("FRESH") {
        Ok(command) => {
            let done = Command::new("sh").args(["-c", &command, "sh", docker.version]).status().unwrap();
            if !done.success() {
                return Err(format!("FRESH, `{command}`: {done}"));
            }
        }
        Err(_) => docker.prune(),
    }
    let dialect = docker.dialect(builder);
    for run in ["cold", "warm"] {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("ctx");
        case.stage(&context, RECORDED_REGISTRY);
        let output = docker.build(builder, case, &context);
        println!("{} {dialect} {run}: {}", case.name, output.status);
        golden.record(dialect, run, &output, &context);
        // One Docker's image is enough: what is built is the builder's, and the same in both.
        let is_image = output.status.success() && case.spec.tag.unwrap_or(true);
        if run == "warm"
            && docker.version == "28"
            && is_image
            && let Some(image) = docker.image(&case.image())
        {
            golden.record_image(dialect, &image);
        }
    }
    Ok(())
}
