//! Frontends that a Dockerfile names: those of docker/dockerfile are built in, and the log shows what Docker shows.

use rbuild_testkit::registry::{Fault, Layer, Registry};
use rbuild_testkit::require;
use rbuild_testkit::workspace::{Output, Workspace};
use serde_json::json;

use crate::{build_flags, with_bases};

/// The rows of each step, by title, without times.
fn steps(log: &str) -> Vec<(String, Vec<String>)> {
    let mut steps: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in log.lines() {
        let Some((number, row)) = line.split_once(' ').filter(|(number, _)| number.starts_with('#')) else { continue };
        match steps.iter_mut().find(|(known, ..)| known == number) {
            Some((_, title, rows)) if title != row => rows.push(row.to_owned()),
            Some(_) => {}
            None => steps.push((number.to_owned(), row.to_owned(), Vec::new())),
        }
    }
    steps.into_iter().map(|(_, title, rows)| (title, rows)).collect()
}

fn titles(log: &str) -> Vec<String> {
    steps(log).into_iter().map(|(title, _)| title).filter(|title| !title.starts_with("building")).collect()
}

fn build(workspace: &Workspace, registry: &Registry, dockerfile: &str, flags: &[&str]) -> Output {
    workspace.files("context", &[("Dockerfile", dockerfile)]);
    let args = build_flags(registry);
    let args = args.iter().map(String::as_str).chain(["--log-format=buildkit"]).chain(flags.iter().copied());
    workspace.run(args.chain(["context"]))
}

fn put_frontend(registry: &Registry, repository: &str, tag: &str) -> String {
    registry.put_image(
        repository,
        tag,
        json!({"os": "linux", "architecture": arch()}),
        &[Layer::of(b"no tar, not read")],
    )
}

fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

const DOCKERFILE: &str = "# syntax=docker/dockerfile:1\nFROM busybox\nRUN <<EOF\necho from a document\nEOF\n";

#[test]
fn are_shown_as_they_are_loaded() {
    let (workspace, registry) = require!(with_bases());
    let digest = put_frontend(&registry, "docker/dockerfile", "1");
    let image = format!("docker-image://docker.io/docker/dockerfile:1@{digest}");
    let cold = build(&workspace, &registry, DOCKERFILE, &[]).success().stderr();
    let shown = titles(&cold);
    let expected = [
        "[internal] load build definition from Dockerfile",
        "resolve image config for docker-image://docker.io/docker/dockerfile:1",
        image.as_str(),
        "[internal] load metadata for docker.io/library/busybox:latest",
        "[internal] load .dockerignore",
    ];
    assert_eq!(shown[..5], expected, "{cold}");
    let loaded = &steps(&cold).into_iter().find(|(title, _)| *title == image).unwrap().1;
    assert_eq!(loaded[0], format!("resolve docker.io/docker/dockerfile:1@{digest} done"), "{cold}");
    assert!(loaded.iter().any(|row| row.starts_with(&digest) && row.ends_with(" done")), "{cold}");
    assert_eq!(loaded.iter().filter(|row| row.starts_with("extracting ")).count(), 1, "{cold}");
    assert!(cold.contains(" from a document\n"), "{cold}");
    // Its layers are not needed.
    let blobs = registry.asked().into_iter().filter(|path| path.contains("docker/dockerfile/blobs/")).count();
    assert!(blobs <= 1, "only its configuration: {:?}", registry.asked());
    let warm = build(&workspace, &registry, DOCKERFILE, &[]).success().stderr();
    assert!(steps(&warm).contains(&(image.clone(), vec!["CACHED".to_owned()])), "{warm}");

    // 20.10 reads both files before, and the frontend reads the Dockerfile again. It tells of a base as it knows it.
    let old = build(&workspace, &registry, DOCKERFILE, &["--docker-version=20"]).success().stderr();
    let expected = [
        "[internal] load build definition from Dockerfile",
        "[internal] load .dockerignore",
        "resolve image config for docker.io/docker/dockerfile:1",
        image.as_str(),
        "[internal] load build definition from Dockerfile",
        "[internal] load metadata for docker.io/library/busybox:latest",
        "[internal] load .dockerignore",
    ];
    assert_eq!(titles(&old)[..7], expected, "{old}");
    assert!(titles(&old)[7].starts_with("[1/2] FROM docker.io/library/busybox:latest@sha256:"), "{old}");
    let plain = build(&workspace, &registry, "FROM busybox\nRUN true\n", &["--docker-version=20"]).success().stderr();
    assert!(titles(&plain)[3].starts_with("[1/2] FROM docker.io/library/busybox@sha256:"), "{plain}");
    workspace.expect_clean();
}

#[test]
fn are_built_in_where_no_registry_answers() {
    let (workspace, registry) = require!(with_bases());
    registry.fail("docker/dockerfile/manifests", Fault::Status(500), usize::MAX);
    let output = build(&workspace, &registry, DOCKERFILE, &[]).success();
    let log = output.stderr();
    assert!(log.contains("\nrbuild: note: the frontend `docker/dockerfile:1` is built in;"), "{log}");
    assert!(
        log.contains(" from a document\n") && !log.contains("docker-image://docker.io/docker/dockerfile:1@"),
        "{log}"
    );
    registry.heal();
    workspace.expect_clean();
}

#[test]
fn that_are_not_there_are_dockers_errors() {
    let (workspace, registry) = require!(with_bases());
    let host = registry.host();
    put_frontend(&registry, "some/frontend", "1");
    let image = format!("{host}/some/frontend");
    let dockerfile = format!("# syntax={image}:2\nFROM busybox\n");
    let output = build(&workspace, &registry, &dockerfile, &[]);
    let text = format!(
        "   1 | >>> # syntax={image}:2\n   2 |     FROM busybox\n   3 |     \n--------------------\nERROR: failed to build: \
         failed to solve: failed to resolve source metadata for {image}:2: {image}:2: not found\n"
    );
    assert!(output.code() == 1 && output.stderr().ends_with(&text), "{}", output.text());
    // Where it is named from outside, 28 asks for it before it reads anything.
    let argument = format!("--build-arg=BUILDKIT_SYNTAX={image}:2");
    let output = build(&workspace, &registry, "FROM busybox\n", &[&argument]);
    let text = format!("ERROR: failed to build: failed to solve: failed to resolve source metadata for {image}:2: ");
    assert_eq!(titles(&output.stderr()), [format!("resolve image config for docker-image://{image}:2")]);
    assert!(output.stderr().contains(&format!("\n------\n{text}")), "{}", output.text());
    let output = build(&workspace, &registry, "FROM busybox\n", &[&argument, "--docker-version=20"]);
    let text = format!(
        "\nfailed to solve with frontend dockerfile.v0: failed with build-arg:BUILDKIT_SYNTAX = {image}:2: failed to solve \
         with frontend gateway.v0: {image}:2: not found\n"
    );
    assert_eq!(titles(&output.stderr()).len(), 3, "{}", output.text());
    assert!(output.stderr().ends_with(&text), "{}", output.text());
    // One that is there cannot be run.
    let output = build(&workspace, &registry, &dockerfile.replace(":2", ":1"), &[]);
    assert!(output.code() == 1 && output.stderr().contains("only docker/dockerfile is built in"), "{}", output.text());
    workspace.expect_clean();
}
