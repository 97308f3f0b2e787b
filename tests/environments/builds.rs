//! What is built in every environment: cases that make an image in Docker 28, and a Debian in which packages are
//! installed and a program is compiled.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rbuild_testkit::case::{self, Case, RECORDED_REGISTRY};
use rbuild_testkit::golden::{Dialect, Golden};
use rbuild_testkit::{bases, listing, mask};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::debian::Debian;
use crate::setup::Setup;

/// Seconds since 1970 that every time in the images is.
pub(crate) const EPOCH: u64 = 1_600_000_000;

/// The least number of cases: fewer mean that the rule that chooses them has become wrong.
const LEAST_CASES: usize = 25;

/// The dialects in which cases are built: those with recorded images.
const DIALECTS: [Dialect; 2] =
    [Dialect { builder: "buildkit", version: "28" }, Dialect { builder: "legacy", version: "28" }];

/// One build, as the driver does it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Build {
    /// Its name, as `buildkit/copy-forms`.
    pub(crate) name: String,
    /// The tar of its context, a file of the share.
    pub(crate) context: String,
    /// Arguments of `rbuild`, `build` first.
    pub(crate) arguments: Vec<String>,
    /// A file of the share for its standard input.
    pub(crate) input: Option<String>,
    /// Name of the image.
    pub(crate) image: String,
    /// The store, where it is shared with another build.
    pub(crate) store: Option<String>,
    /// The build that it goes on from, without which it is not tried.
    pub(crate) after: Option<String>,
    /// Whether the files of the image are listed.
    pub(crate) listed: bool,
}

/// All builds, and what is known of their images.
pub(crate) struct Builds {
    /// In the order in which they are done.
    pub(crate) all: Vec<Build>,
    /// The image that Docker built, by the name of the build.
    goldens: BTreeMap<String, Value>,
    registry: String,
}

impl Builds {
    /// Stages everything in the share. `only` keeps the builds whose name has one of these parts; with `once`, a case
    /// with several images is built in one dialect alone, which alternates.
    ///
    /// # Errors
    /// With the reason why that cannot be done here.
    pub(crate) fn stage(setup: &Setup, only: &[String], once: bool) -> Result<Builds, String> {
        let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part.as_str()));
        let mut builds = Builds { all: Vec::new(), goldens: BTreeMap::new(), registry: setup.registry.host() };
        let mut cases = 0;
        for case in Case::all(&setup.fixtures().join("cases")) {
            let golden = Golden::new(&setup.fixtures().join("goldens"), &case.name);
            let mut made: Vec<Dialect> =
                DIALECTS.into_iter().filter(|dialect| golden.image(*dialect).is_some()).collect();
            cases += usize::from(!made.is_empty());
            if once && made.len() > 1 {
                made.swap_remove(cases % 2);
            }
            for dialect in made {
                let build = case_build(setup, &case, dialect);
                if wanted(&build.name) {
                    let image = golden.image(dialect).unwrap();
                    builds.goldens.insert(build.name.clone(), mask::with_local_busybox(image, bases::busybox()?));
                    builds.all.push(build);
                }
            }
        }
        assert!(cases >= LEAST_CASES, "only {cases} cases have an image of Docker 28");
        let debian = ["debian/install", "debian/compile"];
        if debian.iter().any(|name| wanted(name)) {
            let made = Debian::prepare(setup)?;
            builds.all.extend(made.builds(setup).into_iter().filter(|build| wanted(&build.name)));
            setup.keep(made);
        }
        if builds.all.is_empty() {
            return Err("no build has such a name".to_owned());
        }
        Ok(builds)
    }

    /// How an image differs from that of Docker, where that is known.
    pub(crate) fn differences(&self, build: &str, image: &Value) -> Vec<String> {
        let Some(want) = self.goldens.get(build) else { return Vec::new() };
        let got = image.to_string().replace(&self.registry, RECORDED_REGISTRY);
        listing::differences(want, &got.parse().unwrap())
    }
}

fn case_build(setup: &Setup, case: &Case, dialect: Dialect) -> Build {
    let name = format!("{}/{}", dialect.builder, case.name);
    let file = format!("{}-{}", dialect.builder, case.name);
    let staged = setup.path(&file);
    case.stage(&staged, &setup.registry.host());
    let (arguments, input) = case.arguments(&staged);
    let context = write_tar(setup, &file, &staged);
    let input = input.map(|bytes| {
        fs::write(setup.share().join(format!("{file}.input")), bytes).unwrap();
        format!("{file}.input")
    });
    let mut all = build_flags(setup);
    all.extend(dialect.flags());
    all.extend(arguments);
    Build { name, context, arguments: all, input, image: case.image(), store: None, after: None, listed: true }
}

/// What every build says before its own arguments.
pub(crate) fn build_flags(setup: &Setup) -> Vec<String> {
    vec!["build".to_owned(), format!("--registry-mirror={}", setup.registry.url()), "--network=host".to_owned()]
}

/// Writes a directory into the share as a tar, of which each environment unpacks its own copy.
pub(crate) fn write_tar(setup: &Setup, name: &str, dir: &Path) -> String {
    let name = format!("{name}.tar");
    let path: PathBuf = setup.share().join(&name);
    fs::write(path, case::tar_of(dir)).unwrap();
    name
}
