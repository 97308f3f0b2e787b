//! Contexts that are git repositories, archives and Dockerfiles behind a URL, and `rbuild repo`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use rbuild_testkit::git_server::GitServer;
use rbuild_testkit::golden::{Dialect, Golden, Printed};
use rbuild_testkit::registry::Registry;
use rbuild_testkit::tarball::{Tarball, gzip};
use rbuild_testkit::workspace::{Workspace, finish};
use rbuild_testkit::{leftovers, listing, logs, require};
use regex::Regex;

use crate::{build_flags, fixtures, with_bases};

/// Where the recorded Dockers found the server.
const RECORDED: &str = "http://127.0.0.1:8099";
/// Hashes of the recorded repository: of its first commit, of one that no branch points to, of its branch.
const FIRST: &str = "49c8b7dec394511fe720f102dda117ffc42b1a6c";
const INNER: &str = "5de69b88e3ee97098e5451e079cdc28cec08f2f3";
const HEAD: &str = "83b86d2faf47918111b0e1a35f46d8802d1ac6c1";
const TOKEN: &str = "kartoffel-52c9be-token";
/// `basic`, and `x-access-token:` with the token in Base64.
const AUTHORIZATION: &str = "basic eC1hY2Nlc3MtdG9rZW46a2FydG9mZmVsLTUyYzliZS10b2tlbg==";

/// A repository as that of the recordings: hashes are made of nothing else.
fn repository(workspace: &Workspace) -> std::path::PathBuf {
    let work = workspace.path("work");
    fs::create_dir(&work).unwrap();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(&work).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        git.env("HOME", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@example.com");
            git.env(format!("GIT_{who}_DATE"), "2024-03-01T12:00:00Z");
        }
        let output = git.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let write = |name: &str, text: &str| {
        let path = work.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    git(&["-c", "init.defaultBranch=main", "init", "-q"]);
    write("Dockerfile", "FROM busybox:1.36\nCOPY . /src\nRUN find /src | sort && cat /src/hello.txt\n");
    write("hello.txt", "first\n");
    write("sub/Dockerfile", "FROM busybox:1.36\nCOPY . /s\nRUN ls /s\n");
    write("sub/s.txt", "s\n");
    git(&["add", "."]);
    git(&["commit", "-qm", "one"]);
    git(&["tag", "v1"]);
    git(&["tag", "-a", "-m", "ann", "v1a"]);
    write("hello.txt", "second\n");
    git(&["commit", "-qam", "two"]);
    assert_eq!(git(&["rev-parse", "HEAD", "v1"]), format!("{INNER}\n{FIRST}"));
    git(&["branch", "side"]);
    write("hello.txt", "third\n");
    git(&["commit", "-qam", "three"]);
    assert_eq!(git(&["rev-parse", "HEAD"]), HEAD);
    git(&["checkout", "-q", "side"]);
    write("hello.txt", "side\n");
    git(&["commit", "-qam", "side"]);
    git(&["checkout", "-q", "main"]);
    let served = workspace.path("served");
    fs::create_dir(&served).unwrap();
    git(&["clone", "-q", "--bare", ".", served.join("repo.git").to_str().unwrap()]);
    git(&["-C", served.join("repo.git").to_str().unwrap(), "update-server-info"]);
    let tar = Tarball::new()
        .file("Dockerfile", 0o644, b"FROM busybox:1.36\nCOPY a.txt /\nRUN cat /a.txt\n")
        .file("a.txt", 0o644, b"a\n")
        .dir("d/", 0o755)
        .file("d/Dockerfile", 0o644, b"FROM busybox:1.36\nCOPY d/b /\n")
        .file("d/b", 0o644, b"b\n")
        .finish();
    fs::write(served.join("ctx.tar.gz"), gzip(&tar)).unwrap();
    fs::write(served.join("ctx.tar"), tar).unwrap();
    fs::write(served.join("Dockerfile.txt"), "FROM busybox:1.36\nRUN echo hi\n").unwrap();
    workspace.user().own(&served);
    served
}

fn place() -> Result<(Workspace, Registry, GitServer), String> {
    rbuild_testkit::require::program("git")?;
    let (workspace, registry) = with_bases()?;
    let served = repository(&workspace);
    let server = GitServer::start(&served, AUTHORIZATION)?;
    Ok((workspace, registry, server))
}

/// Hides where repositories are kept, and how large archives are that this machine's compressor made.
fn masked(text: &str, server: &str) -> String {
    static PLACES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"/[\w./-]+/(overlay2/\w+/diff|store/(tmp|mounts)/[\w./-]+?/(fs|clone))").unwrap());
    static CLONES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"/tmp/docker-build-git\d+").unwrap());
    static TIMES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)^(#\d+ )?\d+\.\d+ ").unwrap());
    static SIZES: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(context from remote url: \S+) \[[=> ]+\] +[\d.]+k?B/[\d.]+k?B|(context to Docker daemon) +\d+B")
            .unwrap()
    });
    let text = text.replace(server, RECORDED);
    let text = PLACES.replace_all(&text, "<git>");
    let text = CLONES.replace_all(&text, "<git>");
    let text = TIMES.replace_all(&text, "${1}0.000 ");
    SIZES.replace_all(&text, "$1$2 <size>").into_owned()
}

#[test]
fn have_dockers_logs() {
    let (workspace, registry, server) = require!(place());
    let git = format!("{}/git/repo.git", server.url());
    let files = format!("{}/files", server.url());
    let with = |url: &str, rest: &str| vec![format!("{url}{rest}")];
    let from = |file: &str, url: String| vec!["-f".to_owned(), file.to_owned(), url];
    let cases = [
        ("branch", with(&git, "#main")),
        ("default", with(&git, "")),
        ("sha-inner", with(&git, &format!("#{INNER}"))),
        ("tag", with(&git, "#v1")),
        ("annotated", with(&git, "#v1a")),
        ("short", with(&git, &format!("#{}", &FIRST[..7]))),
        ("subdir", with(&git, "#main:sub")),
        ("subdir-missing", with(&git, "#main:nothere")),
        ("subdir-file", with(&git, "#main:hello.txt")),
        ("noref", with(&git, "#nothere")),
        ("norepo", with(server.url(), "/git/none.git")),
        ("q-branch", with(&git, "?branch=main")),
        ("q-tag", with(&git, "?tag=v1a")),
        ("q-checksum", with(&git, &format!("?branch=main&checksum={HEAD}"))),
        ("q-badsum", with(&git, &format!("?branch=main&checksum={FIRST}"))),
        ("q-nohex", with(&git, "?branch=main&checksum=zz")),
        ("q-bad", with(&git, "?foo=1")),
        ("q-conflict", with(&git, "?ref=main#side")),
        ("file-f", from("sub/Dockerfile", format!("{git}#main"))),
        ("nofile", from("nothere", format!("{git}#main"))),
        ("tar", with(&files, "/ctx.tar")),
        ("targz", with(&files, "/ctx.tar.gz")),
        ("tar-f", from("d/Dockerfile", format!("{files}/ctx.tar.gz"))),
        ("tar-nofile", from("none", format!("{files}/ctx.tar.gz"))),
        ("dockerfile", with(&files, "/Dockerfile.txt")),
        ("http404", with(&files, "/none.tar")),
    ];
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for builder in ["buildkit", "legacy"] {
        for version in ["28", "20"] {
            let dialect = Dialect { builder, version };
            for (name, arguments) in &cases {
                let golden = Golden::new(&fixtures().join("remote"), name);
                let Some(want) = golden.printed_once(dialect) else { continue };
                let store = format!("stores/{version}.{builder}.{name}");
                let mut build = workspace.rbuild(build_flags(&registry));
                build.args(dialect.flags()).args(arguments).env("RBUILD_ROOT", workspace.path(&store));
                let output = finish(&mut build, None);
                let hide = |text: &str| masked(&text.replace(&store, "store"), server.url());
                let got = Printed {
                    stdout: hide(&String::from_utf8_lossy(&output.stdout)),
                    stderr: hide(&String::from_utf8_lossy(&output.stderr)),
                    status: output.code(),
                };
                let want = Printed { stdout: hide(&want.stdout), stderr: hide(&want.stderr), ..want };
                compared += 1;
                if want.status != got.status {
                    wrong.push(format!("{name} {dialect}: ends with {}, not {}", got.status, want.status));
                }
                let rows = logs::differences(dialect, "cold", &want, &got, "<no context>");
                wrong.extend(rows.into_iter().map(|row| format!("{name} {dialect}: {row}")));
            }
        }
    }
    assert!(compared > 60, "only {compared} recordings");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    workspace.expect_clean();
}

#[test]
fn of_a_commit_are_fetched_once() {
    let (workspace, registry, server) = require!(place());
    let url = format!("{}/git/repo.git#{INNER}", server.url());
    let build = || {
        let flags = build_flags(&registry);
        workspace.run(flags.iter().map(String::as_str).chain(["--log-format=buildkit", "-t", "app", &url])).success()
    };
    build();
    let before = server.asked().len();
    let again = build();
    assert_eq!(server.asked().len(), before, "a commit does not change");
    assert!(again.stderr().contains("#1 CACHED"), "{}", again.text());
    let files = listing::of_archive(&workspace.saved("app"))["files"].clone();
    assert_eq!(files["/src/hello.txt"]["sha256"], rbuild_testkit::sha256(b"second\n").as_str());
    assert!(files.get("/src/.git").is_none(), "git's own files are not part of it");
    workspace.expect_clean();
}

#[test]
fn repo_builds_a_commit_that_no_branch_points_to() {
    let (workspace, registry, server) = require!(place());
    let file = format!("file://{}", workspace.path("served/repo.git").display());
    let smart = format!("{}/git/repo.git", server.url());
    let plain = format!("{}/files/repo.git", server.url());
    for (n, url) in [file, smart, plain].iter().enumerate() {
        let commit = format!("{url}@{INNER}");
        let output = workspace.run(["repo", "--find", &commit]).success();
        assert_eq!(output.stdout, b"Dockerfile\nsub/Dockerfile\n", "{url}");
        let name = format!("app:{n}");
        let mirror = format!("--registry-mirror={}", registry.url());
        let flags = ["repo", &mirror, "--log-format=docker", "-t", &name];
        let output = workspace.run(flags.into_iter().chain([commit.as_str()])).success();
        // What is the same comes from the cache, whichever way it came.
        let shown = if n == 0 { "second\n ---> Removed" } else { "cat /src/hello.txt\n ---> Using cache" };
        assert!(output.stdout().contains(shown), "{}", output.text());
        let files = listing::of_archive(&workspace.saved(&name))["files"].clone();
        assert!(files.get("/src/.git").is_none() && files.get("/src/sub/s.txt").is_some(), "{url}");
        drop(workspace.run(flags.into_iter().chain(["--dockerfile", "sub/Dockerfile", url])).success());
        let files = listing::of_archive(&workspace.saved(&name))["files"].clone();
        assert!(files.get("/s/s.txt").is_some() && files.get("/s/hello.txt").is_none(), "{url}");
    }
    let bad = [
        format!("{}/git/repo.git@nothere", server.url()),
        format!("{}/git/none.git", server.url()),
        "not-an-address".to_owned(),
    ];
    for url in &bad {
        for more in [&["--find"][..], &[]] {
            let output = workspace.run(["repo"].into_iter().chain(more.iter().copied()).chain([url.as_str()]));
            assert_eq!(output.code(), 1, "{}", output.text());
            assert!(!output.stderr().is_empty());
        }
    }
    workspace.expect_clean();
}

#[test]
fn tokens_open_a_repository_and_are_nowhere_else() {
    let (workspace, registry, server) = require!(place());
    let url = format!("{}/private/repo.git#main", server.url());
    let host = server.url().strip_prefix("http://").unwrap();
    let with_login = url.replace("http://", &format!("http://x-access-token:{TOKEN}@"));
    let has_token = |text: &[u8]| {
        [TOKEN.as_bytes(), &AUTHORIZATION.as_bytes()[6..]]
            .iter()
            .any(|needle| text.windows(needle.len()).any(|window| window == *needle))
    };
    for format in ["buildkit", "docker", "events", "rawjson"] {
        let run = |secret: Option<String>, url: &str| {
            let mut build = workspace.rbuild(build_flags(&registry));
            build.args([&format!("--log-format={format}"), "-v", "-v", "--no-cache"]);
            build.args(secret.map(|id| format!("--secret=id={id},env=HIDDEN"))).arg(url);
            let output = finish(build.env("HIDDEN", TOKEN), None);
            assert!(!has_token(&output.stdout) && !has_token(&output.stderr), "{}", output.text());
            output
        };
        // Nobody is asked for a password.
        let refused = run(None, &url);
        assert_eq!(refused.code(), 1, "{}", refused.text());
        assert!(refused.text().contains("terminal prompts disabled"), "{}", refused.text());
        drop(run(Some("GIT_AUTH_TOKEN".to_owned()), &url).success());
        drop(run(Some(format!("GIT_AUTH_TOKEN.{host}")), &url).success());
        drop(run(None, &with_login).success());
    }
    leftovers::walk(&workspace.store(), &mut |path: &Path| {
        if let Ok(bytes) = fs::read(path) {
            assert!(!has_token(&bytes), "the token is in {}", path.display());
        }
    });
    workspace.expect_clean();
}

#[test]
fn named_and_added_repositories() {
    let (workspace, registry, server) = require!(place());
    let git = format!("{}/git/repo.git", server.url());
    let dockerfile = format!(
        "FROM busybox\nCOPY --from=lib hello.txt /named\nADD {git}#v1 /added\nADD --keep-git-dir --checksum={HEAD} \
         {git}#main /kept\n"
    );
    workspace
        .files("context", &[("Dockerfile", &dockerfile), ("bad/Dockerfile", "FROM busybox\nCOPY --from=lib x /\n")]);
    let flags = build_flags(&registry);
    let flags = || flags.iter().map(String::as_str).chain(["--log-format=buildkit", "-t", "both"]);
    let lib = format!("--build-context=lib={git}#side");
    drop(workspace.run(flags().chain([lib.as_str(), "context"])).success());
    let files = listing::of_archive(&workspace.saved("both"))["files"].clone();
    let has = |path: &str, text: &str| {
        assert_eq!(files[path]["sha256"], rbuild_testkit::sha256(text.as_bytes()).as_str(), "{path}: {}", files[path]);
    };
    has("/named", "side\n");
    has("/added/hello.txt", "first\n");
    has("/kept/hello.txt", "third\n");
    assert!(files.get("/kept/.git/HEAD").is_some() && files.get("/added/.git").is_none());
    let again = workspace.run(flags().chain([lib.as_str(), "context"])).success();
    assert_eq!(again.stderr().matches(" CACHED\n").count(), 6, "{}", again.text());
    // A Dockerfile from elsewhere: the repository is fetched where COPY wants it.
    let branch = format!("{git}#side");
    let mut build = workspace.rbuild(flags().chain(["-f", "-", branch.as_str()]));
    let output = finish(&mut build, Some(b"FROM busybox\nCOPY hello.txt /from-stdin\n".to_vec())).success();
    let (definition, source) = (output.stderr().find("load build definition"), output.stderr().find("load git source"));
    assert!(definition.is_some() && definition < source, "{}", output.text());
    let files = listing::of_archive(&workspace.saved("both"))["files"].clone();
    assert_eq!(files["/from-stdin"]["sha256"], rbuild_testkit::sha256(b"side\n").as_str());
    let missing = format!("--build-context=lib={git}#nothere");
    let output = workspace.run(flags().chain([missing.as_str(), "context/bad"]));
    assert!(output.code() == 1 && output.stderr().contains("does not contain ref nothere"), "{}", output.text());
    workspace.expect_clean();
}

#[test]
fn without_git_there_is_one_clear_error() {
    let (workspace, registry, server) = require!(place());
    let mut build = workspace.rbuild(build_flags(&registry));
    let bin = workspace.files("bin", &[("none", "")]);
    build.arg(format!("{}/git/repo.git#main", server.url())).env("PATH", bin);
    let output = finish(&mut build, None);
    assert!(output.code() != 0 && output.stderr().contains("cannot find the program `git`"), "{}", output.text());
}
