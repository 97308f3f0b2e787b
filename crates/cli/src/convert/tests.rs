//! Flags and environment to options.

use std::ffi::OsString;
use std::os::unix::net::UnixListener;

use pretty_assertions::assert_eq;

use super::*;
use crate::args::Command;

fn convert_on(line: &[&str], variables: &[(&str, &str)], terminals: Terminals) -> Result<BuildRequest, ConvertError> {
    let line: Vec<OsString> = ["--root", "/r"].iter().chain(line).map(OsString::from).collect();
    let environment: Environment = variables.iter().copied().collect();
    match args::parse(&line, &environment)? {
        Command::Build(args) => build_request(*args, &environment, terminals),
        other => panic!("{other:?}"),
    }
}

fn convert_with(line: &[&str], variables: &[(&str, &str)]) -> Result<BuildRequest, ConvertError> {
    convert_on(line, variables, Terminals::default())
}

fn convert(line: &[&str]) -> BuildRequest {
    convert_with(line, &[]).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn nothing_but_a_context() {
    let request = convert(&["."]);
    assert_eq!(request.options, BuildOptions::new("/r", ContextSource::Dir(".".into())));
    assert_eq!(request.log.format, Some(Format::Buildkit));
    assert!(request.log.hints && !request.stdout_taken);
}

#[test]
fn a_log_file_is_named_once() {
    let files = convert(&["--log-file", "a", "--log-file", "events:b", "."]).log.files;
    assert_eq!(files.len(), 2);
    let error = convert_with(&["--log-file", "a", "--log-file", "events:a", "."], &[]).unwrap_err();
    assert_eq!(error.to_string(), "the log file `a` is named twice");
}

#[test]
fn where_the_store_is() {
    let root = |line: &[&str], variables: &[(&str, &str)]| {
        let line: Vec<OsString> = line.iter().map(OsString::from).collect();
        let environment: Environment = variables.iter().copied().collect();
        let command = args::parse(&line, &environment).unwrap();
        store_options(command.common(), &environment).map(|options| options.root)
    };
    let home = ("HOME", "/home/u");
    let data = ("XDG_DATA_HOME", "/data");
    assert_eq!(root(&["images", "--root", "/a"], &[("RBUILD_ROOT", "/b"), data, home]).unwrap(), Path::new("/a"));
    assert_eq!(root(&["images"], &[("RBUILD_ROOT", "/b"), data, home]).unwrap(), Path::new("/b"));
    assert_eq!(root(&["images"], &[data, home]).unwrap(), Path::new("/data/rbuild"));
    assert_eq!(
        root(&["images"], &[("XDG_DATA_HOME", "relative"), home]).unwrap(),
        Path::new("/home/u/.local/share/rbuild")
    );
    assert_eq!(root(&["images"], &[home]).unwrap(), Path::new("/home/u/.local/share/rbuild"));
    let error = root(&["images"], &[("HOME", "")]).unwrap_err();
    assert!(matches!(error, ConvertError::NoRoot));
    assert!(error.hint().is_some());
}

#[test]
fn checks_in_place_of_a_build() {
    let check = |line: &[&str]| convert(line).check;
    let spec = |json, ignore_status| Some(CallSpec { check: true, json, ignore_status });
    for (line, expected) in [
        (&["."][..], None),
        (&["--check", "."], spec(false, false)),
        (&["--check=false", "."], None),
        (&["--call=lint,format=json", "."], spec(true, false)),
        (&["--call", "check,ignorestatus=true", "-q", "-t", "x", "."], spec(false, true)),
        // The last one counts.
        (&["--call=build", "--check", "."], spec(false, false)),
        (&["--check", "--call=build", "."], None),
        (&["--check", "--call=check,format=json", "."], spec(true, false)),
    ] {
        assert_eq!(check(line), expected, "{line:?}");
    }
    for line in [&["--check", "--log-format=docker", "."][..], &["--check", "--docker-version=20", "."]] {
        assert!(matches!(convert_with(line, &[]), Err(ConvertError::Refused { flag: "--check", .. })), "{line:?}");
    }
    for flag in ["--output=x", "--push", "--metadata-file=x"] {
        let error = convert_with(&["--check", "-t", "a", flag, "."], &[]).unwrap_err();
        assert!(matches!(error, ConvertError::Contradiction { .. }), "{flag}: {error}");
    }
    assert!(convert_with(&["--call=outline", "."], &[]).unwrap_err().to_string().contains("outline"));
}

#[test]
fn forms_of_the_log() {
    use Format::{Buildkit, Events, Legacy, Quiet, RawJson, Tty};
    let on_terminal = Terminals { stdout: true, stderr: true };
    // Flags, without a terminal, on one.
    let cases: &[(&[&str], Format, Format)] = &[
        (&[], Buildkit, Tty),
        (&["--progress=auto"], Buildkit, Tty),
        (&["--log-format=docker"], Legacy, Legacy),
        (&["--log-format=docker", "--progress=plain"], Legacy, Legacy),
        (&["--log-format=docker", "-q"], Legacy, Legacy),
        (&["--log-format=buildkit"], Buildkit, Buildkit),
        (&["--progress=plain"], Buildkit, Buildkit),
        (&["--log-format=tty"], Tty, Tty),
        (&["--progress=tty"], Tty, Tty),
        (&["--log-format=rawjson"], RawJson, RawJson),
        (&["--progress=rawjson"], RawJson, RawJson),
        (&["--log-format=events"], Events, Events),
        (&["--progress=quiet"], Quiet, Quiet),
        (&["-q"], Quiet, Quiet),
        (&["-q", "--log-format=buildkit"], Quiet, Quiet),
    ];
    for (flags, without, with) in cases {
        let line: Vec<&str> = flags.iter().copied().chain(["."]).collect();
        assert_eq!(convert_on(&line, &[], Terminals::default()).unwrap().log.format, Some(*without), "{flags:?}");
        assert_eq!(convert_on(&line, &[], on_terminal).unwrap().log.format, Some(*with), "{flags:?}");
    }
    assert!(convert(&["--progress=quiet", "."]).options.quiet);
    assert!(convert(&["-q", "--log-format=docker", "."]).options.quiet);
    assert_eq!(convert_with(&["."], &[("BUILDKIT_PROGRESS", "plain")]).unwrap().log.format, Some(Buildkit));
    assert_eq!(
        convert_with(&["--log-format=docker", "."], &[("BUILDKIT_PROGRESS", "tty")]).unwrap().log.format,
        Some(Legacy)
    );
    let error = convert_with(&["--log-format=docker", "--progress=rawjson", "."], &[]).unwrap_err();
    assert_eq!(error.to_string(), "--log-format=docker and --progress=rawjson contradict each other");
    assert!(convert_with(&["."], &[("BUILDKIT_PROGRESS", "fancy")]).is_err());
}

#[test]
fn dialects() {
    let dialect = |line: &[&str]| convert(line).options.dialect;
    assert_eq!(dialect(&["--log-format=docker", "."]), Dialect { builder: Builder::Legacy, version: Version::V28 });
    assert_eq!(
        dialect(&["--log-format=docker", "--docker-version=20", "."]),
        Dialect { builder: Builder::Legacy, version: Version::V20 }
    );
    assert_eq!(dialect(&["--log-format=events", "."]).builder, Builder::Buildkit);
}

#[test]
fn contexts() {
    let context = |path: &str| convert(&[path]).options.context;
    assert_eq!(context("-"), ContextSource::Stdin);
    assert_eq!(context("dir"), ContextSource::Dir("dir".into()));
    for url in ["https://example.com/x.git#main", "git@example.com:x.git", "github.com/a/b", "http://h/c.tar"] {
        assert_eq!(context(url), ContextSource::Url(url.into()));
    }
    assert_eq!(convert(&["-f", "-", "."]).options.dockerfile, DockerfileSource::Stdin);
    assert_eq!(convert(&["-f", "a/B", "."]).options.dockerfile, DockerfileSource::Path("a/B".into()));
    assert!(matches!(convert_with(&["-f", "-", "-"], &[]), Err(ConvertError::StdinTwice)));
    for line in [&[][..], &["a", "b"]] {
        assert!(matches!(convert_with(line, &[]), Err(ConvertError::Args(ArgsError::Usage { .. }))), "{line:?}");
    }
}

#[test]
fn build_arguments_and_cache() {
    let options = convert_with(
        &["--build-arg=A=1", "--build-arg=B", "--build-arg=C", "--build-arg=D", "."],
        &[("B", "2"), ("D", "")],
    )
    .unwrap()
    .options;
    let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    assert_eq!(options.build_args, [pair("A", Some("1")), pair("B", Some("2")), pair("C", None), pair("D", Some(""))]);
    let options = convert(&["--no-cache-filter=a,b", "--no-cache-filter=c", "."]).options;
    assert_eq!((options.no_cache, options.no_cache_filter), (false, vec!["a".into(), "b".into(), "c".into()]));
    assert!(convert(&["--no-cache-filter=", "."]).options.no_cache);
}

#[test]
fn platforms() {
    let platform =
        |line: &[&str], variables: &[(&str, &str)]| convert_with(line, variables).map(|r| r.options.platform);
    let default = ("DOCKER_DEFAULT_PLATFORM", "linux/arm64");
    assert_eq!(platform(&["."], &[]).unwrap(), None);
    assert_eq!(platform(&["."], &[default]).unwrap().as_deref(), Some("linux/arm64"));
    assert_eq!(platform(&["--platform=linux/386", "."], &[default]).unwrap().as_deref(), Some("linux/386"));
    assert!(matches!(platform(&["--platform=linux/386,linux/arm64", "."], &[]), Err(ConvertError::Platforms(_))));
}

#[test]
fn results() {
    let outputs = |line: &[&str]| convert(line).options.outputs;
    let registry = |names: &[&str]| Output::Registry { names: names.iter().map(ToString::to_string).collect() };
    assert_eq!(outputs(&["."]), [Output::Store]);
    assert_eq!(outputs(&["--push", "-t", "a", "."]), [Output::Store, registry(&[])]);
    assert_eq!(outputs(&["-o", "type=registry", "-t", "a", "."]), [registry(&[])]);
    assert_eq!(outputs(&["-o", "type=registry,name=r/x", "-t", "a", "."]), [registry(&[])]);
    assert_eq!(outputs(&["-o", "type=registry,name=r/x", "."]), [registry(&["r/x"])]);
    assert_eq!(outputs(&["-o", "d", "."]), [Output::Local("d".into())]);
    assert_eq!(outputs(&["-o", "d", "--load", "."]), [Output::Store, Output::Local("d".into())]);
    assert_eq!(outputs(&["-o", "type=cacheonly", "."]), []);
    assert_eq!(convert(&["-o", "type=docker,dest=x,name=a", "."]).options.tags, ["a"]);
    assert_eq!(convert(&["-o", "type=docker,dest=x,name=a", "-t", "b", "."]).options.tags, ["b"]);
    assert!(matches!(convert_with(&["--push", "."], &[]), Err(ConvertError::PushWithoutName)));
}

#[test]
fn results_on_standard_output() {
    assert!(convert(&["-o", "-", "."]).stdout_taken);
    assert!(!convert(&["-o", "type=tar,dest=x", "."]).stdout_taken);
    let terminal = Terminals { stdout: true, stderr: false };
    assert!(matches!(convert_on(&["-o", "-", "."], &[], terminal), Err(ConvertError::StdoutTerminal)));
    assert!(matches!(convert_with(&["-o", "-", "-o", "type=oci", "."], &[]), Err(ConvertError::StdoutTwice)));
}

#[test]
fn refused_flags() {
    let error = convert_with(&["--memory=1g", "."], &[]).unwrap_err();
    assert_eq!(error.to_string(), "--memory is not supported");
    assert!(error.hint().is_some_and(|hint| hint.contains("cgroup")));
}

#[test]
fn secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "t").unwrap();
    let secret = |spec: &str, variables: &[(&str, &str)]| {
        convert_with(&["--secret", spec, "."], variables).map(|request| request.options.secrets[0].clone().source)
    };
    let value = |text: &str| SecretSource::Value(text.as_bytes().to_vec());
    assert!(secret("id=x,env=V", &[("V", "v")]).unwrap() == value("v"));
    assert!(secret("id=x,env=V", &[]).unwrap() == value(""));
    assert!(secret("id=V", &[("V", "v")]).unwrap() == value("v"));
    let spec = format!("id=x,src={}", file.display());
    assert!(secret(&spec, &[("x", "v")]).unwrap() == SecretSource::File(file.clone()));
    assert!(matches!(secret("id=x,src=/nonexistent", &[]), Err(ConvertError::SecretFile { .. })));
    std::fs::write(&file, vec![0; 500 * 1024 + 1]).unwrap();
    assert!(matches!(secret(&spec, &[]), Err(ConvertError::SecretSize { .. })));
    let long = "x".repeat(500 * 1024 + 1);
    assert!(matches!(secret("id=x,env=V", &[("V", &long)]), Err(ConvertError::SecretSize { .. })));
}

#[test]
fn agents() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let _listener = UnixListener::bind(&socket).unwrap();
    let path = socket.to_str().unwrap();
    let agent = |spec: &str, variables: &[(&str, &str)]| {
        convert_with(&["--ssh", spec, "."], variables).map(|request| request.options.ssh[0].clone())
    };
    let want = |id: &str| Ssh { id: id.into(), socket: socket.clone() };
    assert_eq!(agent("default", &[("SSH_AUTH_SOCK", path)]).unwrap(), want("default"));
    assert_eq!(agent(&format!("k={path}"), &[]).unwrap(), want("k"));
    assert!(matches!(agent("default", &[]), Err(ConvertError::NoAgent { .. })));
    assert!(matches!(agent("k=/nonexistent", &[]), Err(ConvertError::Agent { .. })));
    assert!(matches!(agent("k=/dev/null", &[]), Err(ConvertError::NotASocket { .. })));
}

#[test]
fn times() {
    let epoch =
        |line: &[&str], variables: &[(&str, &str)]| convert_with(line, variables).map(|r| r.options.source_date_epoch);
    assert_eq!(epoch(&["."], &[("SOURCE_DATE_EPOCH", "5")]).unwrap(), Some(5));
    assert_eq!(epoch(&["--timestamp=6", "."], &[("SOURCE_DATE_EPOCH", "5")]).unwrap(), Some(6));
    assert_eq!(epoch(&["."], &[("SOURCE_DATE_EPOCH", "")]).unwrap(), None);
    assert!(epoch(&["."], &[("SOURCE_DATE_EPOCH", "today")]).is_err());
}

#[test]
fn registries() {
    let access = convert_with(
        &["--registry-mirror=http://m", "--insecure-registry", "i:1", "--registry-certificate", "h=/ca", "."],
        &[("HOME", "/h"), ("https_proxy", "http://p"), ("HTTPS_PROXY", "http://q"), ("NO_PROXY", "x")],
    )
    .unwrap()
    .options
    .registry;
    assert_eq!(
        access,
        RegistryAccess {
            mirrors: vec!["http://m".into()],
            insecure: vec!["i:1".into()],
            certificates: vec![("h".into(), "/ca".into())],
            docker_config: Some("/h/.docker/config.json".into()),
            https_proxy: Some("http://p".into()),
            http_proxy: None,
            no_proxy: Some("x".into()),
        }
    );
    let access = convert_with(&["."], &[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]).unwrap().options.registry;
    assert_eq!(access.docker_config, Some("/d/config.json".into()));
}

#[test]
fn repositories_and_their_commits() {
    for (text, url, commit) in [
        ("https://h/o/r.git@0a1b", "https://h/o/r.git", Some("0a1b")),
        ("https://me:pw@h/o/r@feature/x", "https://me:pw@h/o/r", Some("feature/x")),
        ("https://me@h/o/r", "https://me@h/o/r", None),
        ("git@h:o/r.git", "git@h:o/r.git", None),
        ("git@h:o/r.git@v1", "git@h:o/r.git", Some("v1")),
        ("file:///srv/r.git@v1", "file:///srv/r.git", Some("v1")),
        ("github.com/o/r@", "github.com/o/r", None),
    ] {
        assert_eq!(split_commit(text), (url.to_owned(), commit.map(str::to_owned)), "{text}");
    }
    for url in ["file:///srv/r.git", "me@host.example:r.git", "ssh://h/r"] {
        assert_eq!(context_source(Path::new(url)), ContextSource::Url(url.to_owned()));
    }
    for directory in ["a@b", "./git@h:r", "a:b@c"] {
        assert_eq!(context_source(Path::new(directory)), ContextSource::Dir(directory.into()));
    }
}
