//! What Docker printed and built for a case.

use std::fs;
use std::path::{Path, PathBuf};

use regex::bytes::Regex;
use serde_json::Value;

use crate::workspace::Output;

/// Whose behaviour: builder and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dialect {
    /// `legacy` or `buildkit`.
    pub builder: &'static str,
    /// `28` or `20`.
    pub version: &'static str,
}

impl std::fmt::Display for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.version, self.builder)
    }
}

impl Dialect {
    /// The flags of rbuild that select it.
    #[must_use]
    pub fn flags(&self) -> [String; 2] {
        let format = if self.builder == "legacy" { "docker" } else { self.builder };
        [format!("--log-format={format}"), format!("--docker-version={}", self.version)]
    }
}

/// What was printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// On standard output.
    pub stdout: String,
    /// On standard error.
    pub stderr: String,
    /// Exit status.
    pub status: i32,
}

/// The recordings of one case.
#[derive(Clone, Debug)]
pub struct Golden {
    dir: PathBuf,
}

impl Golden {
    /// The recordings of the case `name` below `goldens`.
    #[must_use]
    pub fn new(goldens: &Path, name: &str) -> Golden {
        Golden { dir: goldens.join(name) }
    }

    /// What was printed; `run` is `cold` or `warm`. `None` where the case was not recorded with this dialect.
    #[must_use]
    pub fn printed(&self, dialect: Dialect, run: &str) -> Option<Printed> {
        self.read(&format!("{dialect}.{run}"))
    }

    /// What was printed in the only run, where a case was built once.
    #[must_use]
    pub fn printed_once(&self, dialect: Dialect) -> Option<Printed> {
        self.read(&dialect.to_string())
    }

    fn read(&self, stem: &str) -> Option<Printed> {
        let read = |part: &str| fs::read(self.dir.join(format!("{stem}.{part}")));
        let text = |part: &str| String::from_utf8_lossy(&read(part).unwrap()).into_owned();
        let status = String::from_utf8_lossy(&read("rc").ok()?).trim().parse().unwrap();
        Some(Printed { stdout: text("stdout"), stderr: text("stderr"), status })
    }

    /// Keeps what real Docker printed for the case staged in `context`, without the directories of this machine.
    ///
    /// # Panics
    /// If it cannot be written, or Docker was killed.
    pub fn record(&self, dialect: Dialect, run: &str, output: &Output, context: &Path) {
        let context = Regex::new(&regex::escape(context.to_str().unwrap())).unwrap();
        let daemon = Regex::new(crate::mask::DAEMON_DIRECTORY).unwrap();
        let hidden = |bytes: &[u8]| {
            let bytes = context.replace_all(bytes, &b"<ctx>"[..]).into_owned();
            daemon.replace_all(&bytes, &b"<host>"[..]).into_owned()
        };
        let write = |part: &str, bytes: &[u8]| fs::write(self.dir.join(format!("{dialect}.{run}.{part}")), bytes);
        fs::create_dir_all(&self.dir).unwrap();
        write("stdout", &hidden(&output.stdout)).unwrap();
        write("stderr", &hidden(&output.stderr)).unwrap();
        write("rc", format!("{}\n", output.status.code().unwrap()).as_bytes()).unwrap();
    }

    /// Keeps the listing of an image that real Docker built.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn record_image(&self, dialect: Dialect, image: &Value) {
        let text = format!("{image:#}\n");
        fs::write(self.dir.join(format!("{dialect}.image.json")), text).unwrap();
    }

    /// The image, recorded for Docker 28 where there was one.
    #[must_use]
    pub fn image(&self, dialect: Dialect) -> Option<Value> {
        let bytes = fs::read(self.dir.join(format!("{dialect}.image.json"))).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }
}
