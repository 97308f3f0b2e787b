//! Images go out and come back as what they were: archives, layouts, registries, directories.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rbuild_testkit::docker_registry::DockerRegistry;
use rbuild_testkit::registry::Registry;
use rbuild_testkit::workspace::{Workspace, finish};
use rbuild_testkit::{listing, require};
use serde_json::{Value, json};

use crate::{build_flags, with_bases};

const DOCKERFILE: &str = "FROM layers:1\nRUN mkdir /t && cd /t && echo a >a && ln a b && ln -s a c && mkfifo p && \
    chown 33:33 a && chmod 4755 a && mkdir -m 1777 s && rm -r /l/a && touch -d @1500000000 old\n\
    LABEL of=test\nENV E=1\nUSER daemon\nCMD [\"x\"]\nHEALTHCHECK CMD true\nONBUILD RUN y\n";

/// A built image: place, registry of its base, identifier and content.
struct Built {
    workspace: Workspace,
    registry: Registry,
    id: String,
    image: Value,
}

fn built() -> Result<Built, String> {
    let (workspace, registry) = with_bases()?;
    workspace.files("context", &[("Dockerfile", DOCKERFILE)]);
    let mut build = workspace.rbuild(build_flags(&registry));
    let id = finish(build.args(["-q", "-t", "round/trip:1", "context"]), None).success().stdout();
    let image = listing::of_archive(&workspace.saved("round/trip:1"));
    Ok(Built { workspace, registry, id, image })
}

impl Built {
    /// Builds again (all from the cache) with an output.
    fn output(&self, output: &str) -> Vec<u8> {
        let mut build = self.workspace.rbuild(build_flags(&self.registry));
        finish(build.args(["-t", "round/trip:1", "-o", output, "context"]), None).success().stdout
    }

    /// A command on another store.
    fn elsewhere(&self, args: &[&str]) -> Command {
        let mut command = self.workspace.rbuild(args);
        command.env("RBUILD_ROOT", self.workspace.path("elsewhere"));
        command
    }

    /// The other store has the image, with its identifier and content; then that store is emptied.
    fn expect_elsewhere(&self, name: &str) {
        let inspected = finish(&mut self.elsewhere(&["inspect", name]), None).success();
        let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
        assert_eq!(inspected[0]["Id"], self.id.as_str());
        let saved = finish(&mut self.elsewhere(&["save", name]), None).success();
        let differences = listing::differences(&self.image, &listing::of_archive(&saved.stdout));
        assert!(differences.is_empty(), "{differences:#?}");
        let _ = finish(&mut self.elsewhere(&["prune", "--all", "--force"]), None).success();
    }

    /// Has another program say what it sees.
    fn seen_by(&self, program: &Path, args: &[&str]) -> Value {
        let output = finish(self.workspace.command(program).args(args), None).success();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn archives_and_layouts() {
    let skopeo = require!(rbuild_testkit::require::program("skopeo"));
    let umoci = require!(rbuild_testkit::require::program("umoci"));
    let built = require!(built());
    let workspace = &built.workspace;
    let _ = workspace.run(["save", "-o", "saved.tar", "round/trip:1"]).success();
    built.output("type=docker,dest=docker.tar");
    built.output("type=oci,dest=oci.tar");
    built.output("type=oci,dest=layout,tar=false");
    for archive in ["saved.tar", "docker.tar", "oci.tar"] {
        let content = fs::read(workspace.path(archive)).unwrap();
        let differences = listing::differences(&built.image, &listing::of_archive(&content));
        assert!(differences.is_empty(), "{archive}: {differences:#?}");
        let _ = finish(&mut built.elsewhere(&["load", "-i", archive]), None).success();
        built.expect_elsewhere("round/trip:1");
        let _ = finish(&mut built.elsewhere(&["load"]), Some(content)).success();
        built.expect_elsewhere("round/trip:1");
    }
    for image in ["docker-archive:saved.tar", "docker-archive:docker.tar", "oci-archive:oci.tar", "oci:layout"] {
        let config = built.seen_by(&skopeo, &["inspect", "--config", image]);
        assert_eq!(config["config"]["Labels"], json!({"of": "test"}), "{image}");
        assert_eq!(config["config"]["User"], "daemon", "{image}");
    }
    // skopeo reads every layer and compares it with its digest.
    let _ = finish(workspace.command(&skopeo).args(["copy", "oci:layout", "dir:copied", "--insecure-policy"]), None)
        .success();
    let index: Value = serde_json::from_slice(&fs::read(workspace.path("layout/index.json")).unwrap()).unwrap();
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
    let unpack = ["unpack", "--rootless", "--image", &format!("layout:{tag}"), "bundle"];
    let _ = finish(workspace.command(&umoci).args(unpack), None).success();
    let root = workspace.path("bundle/rootfs");
    assert_eq!(fs::read_to_string(root.join("t/b")).unwrap(), "a\n");
    assert_eq!(fs::read_link(root.join("t/c")).unwrap(), Path::new("a"));
    assert!(!root.join("l/a").exists() && root.join("l/hard").exists());
    workspace.expect_clean();
}

#[test]
fn root_file_systems() {
    let built = require!(built());
    let workspace = &built.workspace;
    built.output("type=tar,dest=root.tar");
    let tar = fs::read(workspace.path("root.tar")).unwrap();
    let piped = built.output("type=tar,dest=-");
    let (files, wanted) = (listing::of_root(&tar), &built.image["files"]);
    assert_eq!(listing::of_root(&piped), files);
    let names = |value: &Value| -> Vec<String> {
        value.as_object().unwrap().keys().filter(|name| *name != "/." && *name != "/").cloned().collect()
    };
    let (mut got, mut want) = (names(&files), names(wanted));
    got.sort();
    want.sort();
    assert_eq!(got, want);
    for name in names(wanted) {
        assert_eq!(files[&name], wanted[&name], "{name}");
    }
    built.output("type=local,dest=directory");
    for name in names(wanted) {
        let path = workspace.path("directory").join(name.trim_start_matches('/'));
        let metadata = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        // Files belong to who asked for them.
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), workspace.user().uid, "{name}");
        match wanted[&name]["kind"].as_str().unwrap() {
            "f" => assert_eq!(metadata.len(), wanted[&name]["size"], "{name}"),
            "d" => assert!(metadata.is_dir(), "{name}"),
            "l" => assert_eq!(fs::read_link(&path).unwrap().to_str(), wanted[&name]["target"].as_str(), "{name}"),
            _ => {}
        }
    }
    // An archive on standard output is nothing but that.
    let oci = built.output("type=oci,dest=-");
    assert!(listing::differences(&built.image, &listing::of_archive(&oci)).is_empty());
    workspace.expect_clean();
}

#[test]
fn a_real_registry() {
    let real = require!(DockerRegistry::start());
    let built = require!(built());
    let workspace = &built.workspace;
    let name = format!("{}/round/trip:pushed", real.host());
    let _ = workspace.run(["tag", "round/trip:1", &name]).success();
    let pushed = workspace.run(["push", &name]).success().text();
    assert!(pushed.contains("sha256:"), "{pushed}");
    assert!(real.blob_file(&built.id).exists(), "the registry lacks the configuration");
    let _ = finish(&mut built.elsewhere(&["pull", &name]), None).success();
    built.expect_elsewhere(&name);
    // From a build, to a name of its own, and as a base of the next one.
    let by_build = format!("{}/by/build:1", real.host());
    let mut build = workspace.rbuild(build_flags(&built.registry));
    let _ = finish(build.args(["--push", "-t", &by_build, "context"]), None).success();
    let _ = finish(&mut built.elsewhere(&["pull", &by_build]), None).success();
    built.expect_elsewhere(&by_build);
    workspace.files("next", &[("Dockerfile", &format!("FROM {by_build}\nUSER 0\nRUN cat /t/a >/next\n"))]);
    let _ = finish(&mut built.elsewhere(&["build", "-t", "next", "next"]), None);
    // The trigger of the base is run first, and there is no such command.
    workspace.files("stage", &[("Dockerfile", &format!("FROM busybox\nCOPY --from={by_build} /t/a /next\n"))]);
    let mut copy = built.elsewhere(&[]);
    let _ = finish(copy.args(build_flags(&built.registry)).args(["-t", "next", "stage"]), None).success();
    let saved = finish(&mut built.elsewhere(&["save", "next"]), None).success();
    assert_eq!(listing::of_archive(&saved.stdout)["files"]["/next"]["size"], 2);
    let _ = finish(&mut built.elsewhere(&["prune", "--all", "--force"]), None).success();
    workspace.expect_clean();
}

#[test]
fn a_registry_that_wants_a_login() {
    let built = require!(built());
    let workspace = &built.workspace;
    let guarded = Registry::start();
    guarded.require_login("somebody", "right-password");
    let name = format!("{}/guarded/image:1", guarded.host());
    let _ = workspace.run(["tag", "round/trip:1", &name]).success();
    let refused = workspace.run(["push", &name]);
    assert_eq!(refused.code(), 1, "{}", refused.text());
    let login = |password: &str| {
        let mut login = workspace.rbuild(["login", "-u", "somebody", "--password-stdin", &guarded.host()]);
        finish(&mut login, Some(format!("{password}\n").into_bytes()))
    };
    let wrong = login("wrong-password");
    assert!(wrong.code() == 1 && !wrong.text().contains("wrong-password"), "{}", wrong.text());
    let right = login("right-password").success();
    assert!(!right.text().contains("right-password"), "{}", right.text());
    let _ = workspace.run(["push", &name]).success();
    assert!(guarded.manifest("guarded/image", "1").is_some());
    let _ = finish(&mut built.elsewhere(&["pull", &name]), None).success();
    built.expect_elsewhere(&name);
    let _ = workspace.run(["logout", &guarded.host()]).success();
    assert_eq!(finish(&mut built.elsewhere(&["pull", &name]), None).code(), 1);
    workspace.expect_clean();
}

#[test]
fn archives_that_are_broken() {
    let built = require!(built());
    let workspace = &built.workspace;
    let saved = workspace.saved("round/trip:1");
    let mut flipped = saved.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let cut = saved[..saved.len() / 3].to_vec();
    for (what, archive) in [("flipped", flipped), ("cut", cut), ("empty", Vec::new()), ("text", b"no archive".to_vec())]
    {
        fs::File::create(workspace.path(what)).unwrap().write_all(&archive).unwrap();
        let output = finish(&mut built.elsewhere(&["load", "-i", what]), None);
        assert_eq!(output.code(), 1, "{what}: {}", output.text());
        assert_eq!(output.stderr().lines().filter(|line| line.starts_with("rbuild: error: ")).count(), 1, "{what}");
    }
    let listed = finish(&mut built.elsewhere(&["images", "-q"]), None).success();
    assert_eq!(listed.stdout(), "", "an image came out of a broken archive");
    let _ = finish(&mut built.elsewhere(&["load"]), Some(saved)).success();
    built.expect_elsewhere("round/trip:1");
    workspace.expect_clean();
}
