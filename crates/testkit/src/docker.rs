//! Real Docker, to record what it prints and builds.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::case::Case;
use crate::golden::Dialect;
use crate::listing;
use crate::workspace::{Output, finish};

/// One Docker: a release and the command that speaks to its daemon.
#[derive(Clone, Debug)]
pub struct Docker {
    /// `28` or `20`.
    pub version: &'static str,
    /// Program and arguments, as `docker -H unix:///run/docker.sock`.
    pub command: Vec<String>,
}

impl Docker {
    /// The client with one of its builders.
    fn client(&self, builder: &str) -> Command {
        let mut client = Command::new(&self.command[0]);
        let kit = if builder == "legacy" { "0" } else { "1" };
        client.args(&self.command[1..]).env("DOCKER_BUILDKIT", kit).env("BUILDKIT_COLORS", "").env("NO_COLOR", "1");
        client
    }

    /// Whether its daemon answers and is of this release.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        let asked = self.client("legacy").args(["version", "--format", "{{.Server.Version}}"]).output();
        let asked = asked.map_err(|error| format!("cannot run {}: {error}", self.command.join(" ")))?;
        let found = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
        if !asked.status.success() {
            return Err(format!("{}: {}", self.command.join(" "), String::from_utf8_lossy(&asked.stderr).trim()));
        }
        if found.split('.').next() != Some(self.version) {
            return Err(format!("{} speaks to Docker {found}, not {}", self.command.join(" "), self.version));
        }
        Ok(())
    }

    /// Takes every image and every build cache from the daemon.
    pub fn prune(&self) {
        for words in [&["system", "prune", "-af", "--volumes"][..], &["builder", "prune", "-af"][..]] {
            let pruned = self.client("buildkit").args(words).output().unwrap();
            assert!(pruned.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&pruned.stderr));
        }
    }

    /// Takes what was built from the daemon, and leaves the images that have other names.
    pub fn forget(&self, image: &str) {
        let client = |words: &[&str]| self.client("buildkit").args(words).output().unwrap();
        // A container that was kept holds its image.
        let _ = client(&["container", "prune", "-f"]);
        // Fails where there is no such image.
        let _ = client(&["image", "rm", "-f", image]);
        for words in [&["image", "prune", "-f"][..], &["builder", "prune", "-af"]] {
            let pruned = client(words);
            assert!(pruned.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&pruned.stderr));
        }
    }

    /// Pulls a base image.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn pull(&self, image: &str) {
        let pulled = self.client("legacy").args(["pull", "-q", image]).output().unwrap();
        assert!(pulled.status.success(), "docker pull {image}: {}", String::from_utf8_lossy(&pulled.stderr));
    }

    /// Builds a staged case.
    #[must_use]
    pub fn build(&self, builder: &str, case: &Case, staged: &Path) -> Output {
        let (arguments, input) = case.arguments(staged);
        let mut build = self.client(builder);
        build.args(["build", "--network=host"]);
        // Its client takes no two of these, and without a terminal the log is plain in any case.
        if builder == "buildkit" && !arguments.iter().any(|argument| argument == "-q") {
            build.arg("--progress=plain");
        }
        finish(build.args(arguments).current_dir(staged), input)
    }

    /// The listing of an image; none where there is no such image or Docker cannot save it, as one without layers.
    #[must_use]
    pub fn image(&self, name: &str) -> Option<Value> {
        let saved = self.client("legacy").args(["save", name]).output().unwrap();
        saved.status.success().then(|| listing::of_archive(&saved.stdout))
    }

    /// The dialect of its log with one of its builders.
    #[must_use]
    pub fn dialect(&self, builder: &'static str) -> Dialect {
        Dialect { builder, version: self.version }
    }
}
