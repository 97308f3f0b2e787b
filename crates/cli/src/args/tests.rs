//! Command lines as Docker's client takes them, and the variables beside them.

use std::path::PathBuf;

use pretty_assertions::assert_eq;

use super::*;
use crate::logs::LogFileSpec;

fn parse_with(line: &[&str], variables: &[(&str, &str)]) -> Result<Command, ArgsError> {
    let line: Vec<OsString> = line.iter().map(OsString::from).collect();
    parse(&line, &variables.iter().copied().collect())
}

fn build_with(line: &[&str], variables: &[(&str, &str)]) -> BuildArgs {
    match parse_with(line, variables) {
        Ok(Command::Build(args)) => *args,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn build(line: &[&str]) -> BuildArgs {
    build_with(line, &[])
}

fn flag_error(line: &[&str]) -> (String, Option<String>, Option<String>) {
    match parse_with(line, &[]) {
        Err(ArgsError::Flag { message, cause, hint, .. }) => (message, cause, hint),
        other => panic!("{line:?}: {other:?}"),
    }
}

#[test]
fn clap_accepts_the_definition() {
    command().debug_assert();
    shown_command().debug_assert();
}

#[test]
fn where_flags_may_stand() {
    for line in [
        &["-t", "a", "."][..],
        &["-ta", "."],
        &["-t=a", "."],
        &["--tag=a", "."],
        &["--tag", "a", "."],
        &[".", "-t", "a"],
        &["build", ".", "-t", "a"],
        &["build", "-t", "a", "--", "."],
        &["-t", "a", "build", "."],
        &["-qt", "a", "."],
    ] {
        let args = build(line);
        assert_eq!((args.tag, args.contexts), (vec!["a".to_owned()], vec![PathBuf::from(".")]), "{line:?}");
    }
}

#[test]
fn build_is_the_default_command() {
    assert_eq!(build(&["./images"]).contexts, [PathBuf::from("./images")]);
    assert_eq!(build(&["-t", "images", "."]).tag, ["images"]);
    assert_eq!(build(&["-t", "images", "."]).contexts, [PathBuf::from(".")]);
    assert_eq!(build(&["--", "images"]).contexts, [PathBuf::from("images")]);
    assert_eq!(build(&["-"]).contexts, [PathBuf::from("-")]);
    assert_eq!(build(&["-f", "-", "x"]).file, Some(PathBuf::from("-")));
    assert!(build(&[]).contexts.is_empty());
    assert_eq!(build(&["a", "b"]).contexts.len(), 2);
    assert!(matches!(parse_with(&["images"], &[]), Ok(Command::Images(_))));
    match parse_with(&["--root", "/r", "images", "-q"], &[]) {
        Ok(Command::Images(args)) => {
            assert_eq!((args.common.root, args.quiet), (Some("/r".into()), true))
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(parse_with(&["doctor", "--json"], &[]), Ok(Command::Doctor(DoctorArgs { json: true, .. }))));
    let of_file = parse_with(&["doctor", "Dockerfile"], &[]);
    assert!(matches!(of_file, Ok(Command::Doctor(DoctorArgs { dockerfile: Some(path), .. })) if path == *"Dockerfile"));
}

#[test]
fn booleans_take_values_and_the_last_one_counts() {
    assert!(build(&["--no-cache", "."]).no_cache);
    assert!(build(&["--no-cache=true", "."]).no_cache);
    assert!(!build(&["--no-cache=0", "."]).no_cache);
    assert!(!build(&["--no-cache", "--no-cache=false", "."]).no_cache);
    assert!(!build(&["."]).pull);
    // As with Docker, what follows a flag that is on or off is an argument.
    assert_eq!(build(&["--pull", "false"]).contexts, [PathBuf::from("false")]);
    assert_eq!(build(&["--target", "a", "--target=b", "."]).target.as_deref(), Some("b"));
    assert_eq!(build(&["--tag=a", "-t", "b", "."]).tag, ["a", "b"]);
    assert!(build(&["--rm", "--rm=false", "--force-rm", "--compress", "--builder=x", "."]).refused.first().is_none());
}

#[test]
fn every_flag_of_a_build() {
    let args = build(&[
        "--build-arg=A=1",
        "--build-arg",
        "B",
        "--label",
        "l=1",
        "--label=m",
        "--no-cache-filter",
        "s1,s2",
        "--pull",
        "--platform",
        "linux/arm64",
        "--network=none",
        "--add-host",
        "h:1.2.3.4",
        "--shm-size",
        "64m",
        "--ulimit",
        "nofile=1:2",
        "--iidfile",
        "id",
        "--metadata-file=meta",
        "-q",
        "--log-format=docker",
        "--docker-version=20",
        "--lenient",
        "--isolation",
        "userns",
        "--secret",
        "id=s,env=V",
        "--ssh",
        "default",
        "--build-context",
        "c=dir",
        "-o",
        "type=oci,dest=x",
        "-o",
        "-",
        "--push",
        "--load",
        "--timestamp",
        "7",
        "--root",
        "/r",
        "--registry-mirror",
        "http://m",
        "--insecure-registry=i",
        "--registry-certificate",
        "h=/ca",
        "--no-hint",
        "-vv",
        "--progress",
        "plain",
        ".",
    ]);
    let assignment = |name: &str, value: Option<&str>| Assignment { name: name.into(), value: value.map(Into::into) };
    assert_eq!(args.build_arg, [assignment("A", Some("1")), assignment("B", None)]);
    assert_eq!(args.label, [("l".into(), "1".into()), ("m".into(), String::new())]);
    assert_eq!(args.no_cache_filter, ["s1,s2"]);
    assert_eq!(args.network, Some(NetworkArg::None));
    assert_eq!(args.shm_size, Some(64 << 20));
    assert_eq!(args.ulimit.len(), 1);
    assert_eq!((args.log_format, args.progress), (Some(LogFormat::Docker), Some(Progress::Plain)));
    assert_eq!(args.docker_version, Some(DockerVersion::V20));
    assert_eq!(args.isolation, Some(IsolationArg::Userns));
    assert_eq!(args.output.len(), 2);
    assert_eq!((args.common.verbose, args.common.no_hint, args.timestamp), (2, true, Some(7)));
    assert!(args.push && args.load && args.quiet && args.lenient && args.pull);
    assert_eq!(build(&["--isolation=default", "."]).isolation, Some(IsolationArg::Auto));
}

#[test]
fn flags_that_would_not_be_honoured() {
    for (flag, known) in [
        ("--memory=1g", "--memory"),
        ("-m1g", "--memory"),
        ("--cpu-shares=2", "--cpu-shares"),
        ("-c2", "--cpu-shares"),
        ("--cpuset-cpus=0", "--cpuset-cpus"),
        ("--memory-swap=-1", "--memory-swap"),
        ("--squash", "--squash"),
        ("--security-opt=x", "--security-opt"),
        ("--cache-from=x", "--cache-from"),
        ("--cache-to=x", "--cache-to"),
        ("--sbom=true", "--sbom"),
        ("--provenance=mode=max", "--provenance"),
        ("--annotation=a=b", "--annotation"),
        ("--allow=security.insecure", "--allow"),
        ("--cgroup-parent=/x", "--cgroup-parent"),
    ] {
        assert_eq!(build(&[flag, "."]).refused.first().map(|(flag, _)| flag), Some(known), "{flag}");
    }
    for flag in [
        "--provenance=false",
        "--sbom=false",
        "--allow=network.host",
        "--call=build",
        "--squash=false",
        "--attest=type=sbom,disabled=true",
    ] {
        assert_eq!(build(&[flag, "."]).refused.first(), None, "{flag}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let (message, _, hint) = flag_error(&["--nope", "."]);
    assert_eq!(message, "unknown flag: --nope");
    assert!(hint.is_some());
    assert_eq!(flag_error(&["--targe", "x", "."]).2.as_deref(), Some("did you mean `--target`?"));
    assert_eq!(flag_error(&["-Z", "."]).0, "unknown flag: -Z");
    let (message, cause, _) = flag_error(&["--shm-size", "3q", "."]);
    assert_eq!(message, "invalid value `3q` for --shm-size");
    assert_eq!(cause.as_deref(), Some("`3q` is no size, write bytes or a number with k, m, g, t or p"));
    let (message, cause, _) = flag_error(&["--no-cache=maybe", "."]);
    assert_eq!(
        (message.as_str(), cause.as_deref()),
        ("invalid value `maybe` for --no-cache", Some("`maybe` is neither true nor false"),)
    );
    let (message, cause, _) = flag_error(&["--log-format=x", "."]);
    assert_eq!(message, "invalid value `x` for --log-format");
    assert_eq!(cause.as_deref(), Some("it can be docker, buildkit, tty, rawjson, events"));
    assert_eq!(flag_error(&[".", "--tag"]).0, "flag needs a value: --tag");
    assert_eq!(flag_error(&["prune", "--all", "--cache"]).0, "--all cannot be used together with --cache");
}

#[test]
fn help_and_version() {
    for line in [
        &["--help"][..],
        &["-h"],
        &["build", "--help"],
        &["-t", "x", "--help", "."],
        &["images", "--help"],
        &["--version"],
    ] {
        assert!(matches!(parse_with(line, &[]), Err(ArgsError::Shown(_))), "{line:?}");
    }
    match parse_with(&["build", "--help"], &[]) {
        Err(ArgsError::Shown(text)) => assert!(text.contains("--build-arg") && !text.contains("--memory"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn variables_set_flags() {
    let args = build_with(
        &["."],
        &[
            ("RBUILD_TAG", "a b"),
            ("RBUILD_LABEL", "x=1 2\ny=3\n"),
            ("RBUILD_LOG_FORMAT", "docker"),
            ("RBUILD_NO_CACHE", "1"),
            ("RBUILD_PULL", "false"),
            ("RBUILD_ROOT", "/r"),
            ("RBUILD_TARGET", ""),
            ("RBUILD_VERBOSE", "2"),
            ("RBUILD_OUTPUT", "type=oci,dest=x"),
        ],
    );
    assert_eq!(args.tag, ["a", "b"]);
    assert_eq!(args.label, [("x".into(), "1 2".into()), ("y".into(), "3".into())]);
    assert_eq!(args.log_format, Some(LogFormat::Docker));
    assert!(args.no_cache && !args.pull);
    assert_eq!((args.common.root, args.target, args.common.verbose), (Some("/r".into()), None, 2));
    assert_eq!(args.output.len(), 1);
}

#[test]
fn the_command_line_goes_before_variables() {
    let variables = [("RBUILD_TAG", "a b"), ("RBUILD_NO_CACHE", "1"), ("RBUILD_TARGET", "x")];
    let args = build_with(&["--tag=c", "--no-cache=false", "--target", "y", "."], &variables);
    assert_eq!((args.tag, args.no_cache, args.target.as_deref()), (vec!["c".to_owned()], false, Some("y")));
}

#[test]
fn variables_of_other_commands() {
    // The flags of a build are not those of another command that are called the same.
    match parse_with(
        &["save", "x"],
        &[("RBUILD_OUTPUT", "type=oci"), ("RBUILD_ROOT", "/r"), ("RBUILD_SAVE_FORMAT", "oci")],
    ) {
        Ok(Command::Save(args)) => {
            assert_eq!(
                (args.output, args.format, args.common.root),
                (None, Some(ArchiveFormat::Oci), Some("/r".into()))
            );
        }
        other => panic!("{other:?}"),
    }
    match parse_with(&["pull", "x"], &[("RBUILD_REGISTRY_MIRROR", "http://a http://b")]) {
        Ok(Command::Pull(args)) => {
            assert_eq!(args.registry.registry_mirror, ["http://a", "http://b"])
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_variable_is_named() {
    match parse_with(&["."], &[("RBUILD_TAG", "a"), ("RBUILD_SHM_SIZE", "3q")]) {
        Err(ArgsError::Flag { message, cause, .. }) => {
            assert_eq!(message, "the variable RBUILD_SHM_SIZE is wrong");
            assert!(cause.is_some_and(|cause| cause.starts_with("invalid value `3q` for --shm-size: ")));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn variables_that_set_nothing_are_known() {
    let environment: Environment =
        [("RBUILD_TAGS", "x"), ("RBUILD_TAG", "x"), ("RBUILD_LOGIN_PASSWORD", "x"), ("PATH", "x")]
            .into_iter()
            .collect();
    assert_eq!(unknown_variables(&environment), ["RBUILD_TAGS"]);
}

#[test]
fn an_argument_is_named_in_full() {
    let (message, cause, _) = flag_error(&["completion", "x"]);
    assert_eq!(message, "invalid value `x` for <SHELL>");
    assert!(cause.is_some_and(|cause| cause.contains("bash")));
    assert_eq!(flag_error(&["completion"]).0, "missing argument: <SHELL>");
}

#[test]
fn log_files() {
    use rbuild_logfmt::Format::{Buildkit, Events, Legacy, RawJson};
    for (text, format, path) in [
        ("build.log", None, "build.log"),
        ("./docker:x", None, "./docker:x"),
        ("a-b:c", None, "a-b:c"),
        (":x", None, ":x"),
        ("docker:x", Some(Legacy), "x"),
        ("buildkit:/a:b", Some(Buildkit), "/a:b"),
        ("plain:x", Some(Buildkit), "x"),
        ("rawjson:x", Some(RawJson), "x"),
        ("events:./-", Some(Events), "./-"),
    ] {
        let args = build(&["--log-file", text, "."]);
        assert_eq!(args.log_file, [LogFileSpec { format, path: path.into() }], "{text}");
    }
    for text in ["tty:x", "auto:x", "event:x", "Docker:x", "events:", "", "-", "events:-"] {
        let (message, cause, _) = flag_error(&["--log-file", text, "."]);
        assert!(message.ends_with("for --log-file") && cause.is_some(), "{text}: {message} {cause:?}");
    }
    let args = build_with(&["."], &[("RBUILD_LOG_FILE", "a events:b")]);
    assert_eq!(args.log_file.len(), 2);
}

#[test]
fn replays() {
    let replay = |line: &[&str]| match parse_with(line, &[]) {
        Ok(Command::Replay(args)) => args,
        other => panic!("{line:?}: {other:?}"),
    };
    let args = replay(&["replay", "x"]);
    assert_eq!((args.file, args.quiet, args.log_format, args.realtime), ("x".into(), None, None, false));
    let args = replay(&["replay", "-q", "--log-format=docker", "--realtime", "-"]);
    assert_eq!(
        (args.file, args.quiet, args.log_format, args.realtime),
        ("-".into(), Some(true), Some(LogFormat::Docker), true)
    );
    assert_eq!(replay(&["replay", "--quiet=false", "x"]).quiet, Some(false));
    let (message, _, _) = flag_error(&["replay"]);
    assert!(message.starts_with("missing argument"), "{message}");
}
