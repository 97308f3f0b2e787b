//! What all rows use: directories, the registry, the programs, who runs them.

use std::any::Any;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rbuild_testkit::bases;
use rbuild_testkit::registry::Registry;
use rbuild_testkit::user::TestUser;

/// Directories, registry and users; everything is removed when it is dropped.
pub(crate) struct Setup {
    dir: PathBuf,
    /// Has the base images.
    pub(crate) registry: Registry,
    /// An ordinary user with subordinate ids.
    pub(crate) user: TestUser,
    kept: RefCell<Vec<Box<dyn Any>>>,
}

impl Setup {
    /// Makes the share, with `rbuild` and this program in it, and starts the registry.
    ///
    /// # Errors
    /// With the reason why that cannot be done here.
    pub(crate) fn new(rbuild: &Path) -> Result<Setup, String> {
        let user = TestUser::find()?;
        let registry = Registry::start();
        bases::fill(&registry)?;
        // Not TMPDIR, which may be closed to other users.
        let dir = tempfile::Builder::new().prefix("rbuild-environments-").tempdir_in("/tmp").unwrap().keep();
        let setup = Setup { dir, registry, user, kept: RefCell::default() };
        open(&setup.dir, 0o755);
        for name in ["share", "rows"] {
            fs::create_dir(setup.path(name)).unwrap();
            open(&setup.path(name), 0o755);
        }
        let me = std::env::current_exe().unwrap();
        for (from, name) in [(rbuild, "rbuild"), (me.as_path(), "driver")] {
            let copy = setup.share().join(name);
            fs::copy(from, &copy).map_err(|error| format!("{}: {error}", from.display()))?;
            open(&copy, 0o755);
        }
        Ok(setup)
    }

    /// A path in its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What every environment can read: both programs, the plan, contexts.
    pub(crate) fn share(&self) -> PathBuf {
        self.path("share")
    }

    /// Root of the source tree.
    pub(crate) fn source(&self) -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
    }

    /// Cases and goldens.
    pub(crate) fn fixtures(&self) -> PathBuf {
        self.source().join("tests/fixtures")
    }

    /// A directory for a row, which every user may write to.
    pub(crate) fn row_dir(&self, name: &str) -> PathBuf {
        let dir = self.path("rows").join(name);
        fs::create_dir_all(&dir).unwrap();
        open(&dir, 0o777);
        dir
    }

    /// An archive of rbuild's own image under a name, built by rbuild.
    ///
    /// # Errors
    /// With the reason why there is none.
    pub(crate) fn own_image(&self, name: &str) -> Result<Vec<u8>, String> {
        let dir = self.row_dir("own-image");
        let (store, home) = (dir.join("store"), dir.to_str().unwrap());
        let run = |program: &Path, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", home);
            command.env("RBUILD", self.share().join("rbuild")).env("RBUILD_ROOT", &store).stdin(Stdio::null());
            self.user.run_as(&mut command);
            let output = command.output().map_err(|error| format!("{}: {error}", program.display()))?;
            let told = || format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
            if output.status.success() { Ok(output.stdout) } else { Err(told()) }
        };
        let script = self.source().join("examples/image/build");
        run(Path::new("/bin/sh"), &[script.to_str().unwrap(), "--tag", name])?;
        run(&self.share().join("rbuild"), &["save", name])
    }

    /// Keeps something as long as the setup.
    pub(crate) fn keep(&self, thing: impl Any) {
        self.kept.borrow_mut().push(Box::new(thing));
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // Files of subordinate ids stay where the tests are not root's; what the driver pruned has none.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Sets a mode, whatever the umask is.
pub(crate) fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
