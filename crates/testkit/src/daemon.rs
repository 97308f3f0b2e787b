//! Real Docker to run containers with: images that are made for a test, and containers that end with it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::require;

/// Variable with the address of the daemon, as for `docker -H`.
pub const VARIABLE: &str = "RBUILD_TEST_DOCKER";
const DEFAULT: &str = "unix:///var/run/docker.sock";

/// A daemon that answers.
#[derive(Clone, Debug)]
pub struct Daemon {
    program: PathBuf,
    address: String,
}

impl Daemon {
    /// The daemon that the environment names, or the machine's.
    ///
    /// # Errors
    /// With the reason to skip a row.
    pub fn find() -> Result<Daemon, String> {
        let address = std::env::var(VARIABLE).unwrap_or_else(|_| DEFAULT.to_owned());
        let docker = Daemon { program: require::program("docker")?, address };
        let asked = docker.output(&["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"])?;
        if !asked.status.success() {
            return Err(format!("no Docker answers at {} ({VARIABLE}): {}", docker.address, stderr(&asked)));
        }
        Ok(docker)
    }

    /// A command of its client.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-H", &self.address]).env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        command
    }

    fn output(&self, args: &[&str]) -> Result<Output, String> {
        let output = self.command().args(args).stdin(Stdio::null()).output();
        output.map_err(|error| format!("{}: {error}", self.program.display()))
    }

    /// Makes an image of a root file system (`import`), or takes those of an archive (`load`).
    fn feed(&self, args: &[&str], bytes: &[u8]) -> Result<(), String> {
        let told = |error: std::io::Error| format!("docker {}: {error}", args[0]);
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(told)?;
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(bytes));
        let output = child.wait_with_output().map_err(told)?;
        if !output.status.success() {
            return Err(format!("docker {}: {}", args.join(" "), stderr(&output)));
        }
        written.unwrap_or(Ok(())).map_err(told)
    }

    /// An image of a tar of its root; it goes when it is dropped.
    ///
    /// # Errors
    /// What Docker says.
    pub fn import(&self, name: &str, root: &[u8]) -> Result<Image, String> {
        let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        self.feed(&["import", "-c", path, "-", name], root)?;
        Ok(Image { docker: self.clone(), name: name.to_owned() })
    }

    /// The image `name` of an archive; it goes when it is dropped.
    ///
    /// # Errors
    /// What Docker says.
    pub fn load(&self, name: &str, archive: &[u8]) -> Result<Image, String> {
        self.feed(&["load"], archive)?;
        Ok(Image { docker: self.clone(), name: name.to_owned() })
    }

    /// `docker run`, whose container goes when [`Container`] is dropped.
    #[must_use]
    pub fn run(&self) -> (Command, Container) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("rbuild-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = self.command();
        command.args(["run", "--rm", "--name", &name]);
        (command, Container { docker: self.clone(), name })
    }
}

/// An image that was made for the test.
pub struct Image {
    docker: Daemon,
    /// Its name.
    pub name: String,
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.docker.output(&["image", "rm", "-f", &self.name]);
    }
}

/// A container that must not outlive its test, also where the client was killed.
pub struct Container {
    docker: Daemon,
    name: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        // Fails where it has gone by itself.
        let _ = self.docker.output(&["container", "rm", "-f", "-v", &self.name]);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
