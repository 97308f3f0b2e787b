//! The real registry (Docker distribution), where it is installed.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::require;

/// A running `docker-registry` with an empty root of its own; it ends when it is dropped.
pub struct DockerRegistry {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl DockerRegistry {
    /// Starts one on a free port of the loopback interface.
    ///
    /// # Errors
    /// With the reason to skip a test: it is not installed, or does not start.
    pub fn start() -> Result<DockerRegistry, String> {
        let program = require::program("docker-registry")?;
        let failed = |error: std::io::Error| format!("docker-registry does not start: {error}");
        let dir = tempfile::tempdir().map_err(failed)?;
        // Free now; another process could take it before the registry does, which then fails to start.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(failed)?.port();
        let (root, config) = (dir.path().join("data"), dir.path().join("config.yml"));
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            root.display()
        );
        fs::write(&config, text).map_err(failed)?;
        let log = fs::File::create(dir.path().join("log")).map_err(failed)?;
        let process = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let mut registry = DockerRegistry { process, port, dir };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begin.elapsed() > Duration::from_secs(20) || registry.process.try_wait().is_ok_and(|end| end.is_some()) {
                let log = fs::read_to_string(registry.dir.path().join("log")).unwrap_or_default();
                return Err(format!("docker-registry does not start: {log}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// File of a blob in the registry's storage.
    #[must_use]
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.dir.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
