//! One case, built by both.

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use rbuild_testkit::bases;
use rbuild_testkit::case::{Case, RECORDED_REGISTRY};
use rbuild_testkit::docker::Docker;
use rbuild_testkit::golden::{Dialect, Printed};
use rbuild_testkit::registry::Registry;
use rbuild_testkit::workspace::{Output, Workspace, finish};
use rbuild_testkit::{listing, logs};

/// What came out of a comparison.
pub(crate) enum Verdict {
    /// Nothing differs.
    Same,
    /// What differs, in words.
    Differs(Vec<String>),
    /// Docker does not repeat itself.
    Unstable,
}

/// Builds cases with both.
pub(crate) struct Judge {
    docker: Docker,
    dialect: Dialect,
    workspace: Workspace,
    /// Further flags of rbuild.
    flags: Vec<String>,
    _registry: Option<Registry>,
}

/// One build: what was printed, and the image if there is one.
struct Built {
    printed: Printed,
    image: Option<serde_json::Value>,
}

impl Judge {
    pub(crate) fn new(rbuild: &Path, engine: &str, version: &str, flags: &[String]) -> Result<Judge, String> {
        let version = if version == "20" { "20" } else { "28" };
        let builder = if engine == "legacy" { "legacy" } else { "buildkit" };
        let variable = format!("DOCKER_{version}");
        let words =
            std::env::var(&variable).map_err(|_| format!("set {variable} to the command of Docker {version}"))?;
        let docker = Docker { version, command: words.split_whitespace().map(str::to_owned).collect() };
        docker.check()?;
        let program = rbuild.canonicalize().map_err(|error| format!("{}: {error}", rbuild.display()))?;
        let workspace = Workspace::new(program.to_str().ok_or("a path that is no text")?)?;
        let registry = match TcpStream::connect(RECORDED_REGISTRY) {
            Ok(_) => None,
            Err(_) => {
                let registry = Registry::start_at(RECORDED_REGISTRY).map_err(|error| error.to_string())?;
                bases::fill(&registry)?;
                Some(registry)
            }
        };
        let judge = Judge {
            docker,
            dialect: Dialect { builder, version },
            workspace,
            flags: flags.to_vec(),
            _registry: registry,
        };
        // Of what is in Docker's store BuildKit does not ask the registry, and its log does not show the digest.
        let bases: &[&str] = if builder == "legacy" { &BASES } else { &[] };
        judge.docker.prune();
        for base in bases {
            judge.docker.pull(base);
            let _ = judge.workspace.run(["pull", &mirror(), base]).success();
        }
        Ok(judge)
    }

    /// Compares what both make of a case; where they differ, the streams lie beside it.
    pub(crate) fn judge(&self, dir: &Path) -> Verdict {
        let case = Case::at(dir);
        let docker = self.docker_builds(&case);
        let ours = self.rbuild_builds(&case);
        let rows = self.differences(&docker, &ours);
        if rows.is_empty() {
            return Verdict::Same;
        }
        for _ in 0..RETRIES {
            if !self.differences(&docker, &self.docker_builds(&case)).is_empty() {
                return Verdict::Unstable;
            }
        }
        for (who, builds) in [("docker", &docker), ("rbuild", &ours)] {
            for (run, built) in ["cold", "warm"].iter().zip(builds) {
                let beside = |stream: &str| dir.with_file_name(format!("{who}.{run}.{stream}"));
                fs::write(beside("stdout"), &built.printed.stdout).unwrap();
                fs::write(beside("stderr"), &built.printed.stderr).unwrap();
            }
        }
        Verdict::Differs(rows)
    }

    fn differences(&self, want: &[Built], got: &[Built]) -> Vec<String> {
        let mut rows = Vec::new();
        for ((run, want), got) in ["cold", "warm"].iter().zip(want).zip(got) {
            if want.printed.status != got.printed.status {
                rows.push(format!("{run}: exit code {}, docker {}", got.printed.status, want.printed.status));
            }
            rows.extend(logs::differences(self.dialect, run, &want.printed, &got.printed, CONTEXT));
            match (&want.image, &got.image) {
                (Some(want), Some(got)) => rows.extend(listing::differences(want, got)),
                (None, None) => {}
                // Docker cannot save an image without layers.
                (None, Some(got)) if got["layers"] == 0 => {}
                (want, _) => {
                    rows.push(format!("{run}: only {} has an image", if want.is_some() { "docker" } else { "rbuild" }))
                }
            }
        }
        rows
    }

    fn docker_builds(&self, case: &Case) -> Vec<Built> {
        match self.dialect.builder {
            "legacy" => self.docker.forget(&case.image()),
            _ => self.docker.prune(),
        }
        self.twice(
            case,
            |staged| self.docker.build(self.dialect.builder, case, staged),
            || self.docker.image(&case.image()),
        )
    }

    fn rbuild_builds(&self, case: &Case) -> Vec<Built> {
        // Fails where nothing was built before.
        let _ = self.workspace.run(["rmi", "--force", &case.image()]);
        let all = if self.dialect.builder == "legacy" { "--cache" } else { "--all" };
        let _ = self.workspace.run(["prune", all, "--force"]).success();
        let build = |staged: &Path| {
            self.workspace.user().own(staged);
            let (arguments, input) = case.arguments(staged);
            let mut build = self.workspace.rbuild(["build", "--network=host", &mirror()]);
            finish(build.args(self.dialect.flags()).args(&self.flags).args(arguments).current_dir(staged), input)
        };
        let image = || {
            let saved = self.workspace.run(["save", &case.image()]);
            saved.status.success().then(|| listing::of_archive(&saved.stdout))
        };
        self.twice(case, build, image)
    }

    /// Builds a case cold and warm.
    fn twice(
        &self,
        case: &Case,
        build: impl Fn(&Path) -> Output,
        image: impl Fn() -> Option<serde_json::Value>,
    ) -> Vec<Built> {
        let mut builds = Vec::new();
        for run in ["cold", "warm"] {
            let dir = tempfile::Builder::new().prefix("differential-").tempdir_in("/tmp").unwrap();
            open(dir.path());
            let staged = dir.path().join("ctx");
            case.stage(&staged, RECORDED_REGISTRY);
            let output = build(&staged);
            let text = |bytes: &[u8]| {
                without_transfers(&String::from_utf8_lossy(bytes).replace(staged.to_str().unwrap(), CONTEXT))
            };
            let printed = Printed {
                stdout: text(&output.stdout),
                stderr: text(&output.stderr),
                status: output.status.code().unwrap_or(-1),
            };
            let is_new = run == "cold" && printed.status == 0;
            builds.push(Built { printed, image: if is_new { image() } else { None } });
        }
        builds
    }
}

/// How often Docker builds a case again, to see whether it differs from itself.
const RETRIES: usize = 3;

/// Stands for the directory of the context.
const CONTEXT: &str = "<ctx>";

/// The images that cases begin with.
const BASES: [&str; 6] = ["busybox:latest", "busybox:1.36", "config:1", "layers:1", "shell:1", "app:onbuild"];

/// BuildKit's log without the rows of a pull: `docker save` of 28.5 leaves layers of an image in the store, so that they
/// are not fetched again.
fn without_transfers(log: &str) -> String {
    let is_transfer = |line: &str| {
        let row = line.strip_prefix('#').and_then(|rest| rest.split_once(' ')).map_or("", |(_, row)| row);
        ["sha256:", "extracting sha256:", "resolve "].iter().any(|start| row.starts_with(start)) && row.contains(' ')
    };
    log.split_inclusive('\n').filter(|line| !is_transfer(line)).collect()
}

fn mirror() -> String {
    format!("--registry-mirror=http://{RECORDED_REGISTRY}")
}

/// Lets every user enter a directory.
fn open(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}
