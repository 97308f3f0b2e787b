//! What is made of a built image: names in the store, archives, directories, pushes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rbuild_image::archive::{self, ToSave};
use rbuild_image::compression::EncoderOptions;
use rbuild_image::layer::LayerWriter;
use rbuild_image::manifest::{Descriptor, ImageManifest, Manifest, media_type};
use rbuild_image::reference::{DockerVersion, Reference, ReferenceError};
use rbuild_logfmt::event::{Builder, Dialect, ExportTarget, Failure, Item, StepId, Version};
use rbuild_sandbox::root::Root;

use crate::cancel::Cancellable;
use crate::manage;
use crate::options::{BuildResult, Destination, Output};
use crate::rootfs::{self, CopyOptions, Source};
use crate::session::Session;
use crate::snapshot::View;
use crate::solve::Built;
use crate::stop::Stop;
use crate::whole_file::WholeFile;

/// The results that were asked for, checked before anything is built.
pub(crate) struct Exports {
    names: Vec<Reference>,
    /// The names as they were asked for, some without a tag: so BuildKit shows them.
    written: Vec<Reference>,
    outputs: Vec<Output>,
}

impl Exports {
    pub(crate) fn new(session: &Session<'_>) -> Result<Exports, Stop> {
        let options = session.options();
        let (mut names, mut written) = (Vec::new(), Vec::new());
        for tag in &options.tags {
            let name = parse_tag(tag, options.dialect)
                .map_err(|reason| Stop::failed(Failure::Tag { tag: tag.clone(), reason }))?;
            if !written.contains(&name) {
                written.push(name.clone());
            }
            let name = name.or_latest();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let to_stdout = |output: &&Output| {
            matches!(
                output,
                Output::DockerArchive(Destination::Stdout)
                    | Output::OciArchive(Destination::Stdout)
                    | Output::Tar(Destination::Stdout)
            )
        };
        if options.outputs.iter().filter(to_stdout).count() > 1 {
            return Err(wrong(
                "only one output can be written to standard output",
                "give the others a file with `dest=`",
            ));
        }
        for output in &options.outputs {
            if matches!(output, Output::Registry { names: to } if to.is_empty()) && names.is_empty() {
                return Err(wrong("the image has no name to be pushed to", "name it with `-t REGISTRY/NAME:TAG`"));
            }
        }
        Ok(Exports { names, written, outputs: options.outputs.clone() })
    }

    /// What the log says of it.
    pub(crate) fn target(&self) -> ExportTarget {
        match self.outputs.first() {
            Some(Output::DockerArchive(_)) => ExportTarget::Docker,
            Some(Output::OciArchive(_) | Output::OciDir(_)) => ExportTarget::Oci,
            Some(Output::Tar(_)) => ExportTarget::Tar,
            Some(Output::Local(_)) => ExportTarget::Local,
            Some(Output::Store | Output::Registry { .. }) | None => ExportTarget::Image,
        }
    }

    fn is_named(&self) -> bool {
        self.outputs.is_empty() || self.outputs.iter().any(|o| matches!(o, Output::Store | Output::Registry { .. }))
    }

    /// Makes all results of an image.
    pub(crate) fn write(&self, session: &Session<'_>, built: &Built, step: Option<StepId>) -> Result<(), Stop> {
        let store = session.store();
        let lease = session.lease();
        let tell = |item: Item| {
            if let Some(step) = step {
                session.emitter().progress(step, item, 0, None, true);
            }
        };
        let config = store.read_blob(built.id.digest())?;
        if self.is_named() {
            // Without a name it is listed all the same, as Docker lists it.
            let manifest = manifest(session, built)?;
            store.put_blob(lease, manifest.bytes())?;
            store.put_image(lease, &config, Some(&manifest), &[])?;
            tell(Item::WriteImage { id: built.id.digest().to_string() });
            for name in &self.names {
                store.tag(lease, &built.id, name)?;
            }
            for name in &self.written {
                tell(Item::Name { name: name.to_string() });
            }
        } else {
            store.put_image(lease, &config, None, &[])?;
        }
        for output in &self.outputs {
            session.check()?;
            self.one(session, built, output, &tell)?;
        }
        Ok(())
    }

    fn one(&self, session: &Session<'_>, built: &Built, output: &Output, tell: &dyn Fn(Item)) -> Result<(), Stop> {
        let (store, lease) = (session.store(), session.lease());
        let save = [ToSave { id: built.id.clone(), references: self.names.clone() }];
        let failed = |error: &archive::ArchiveError| Stop::own(error);
        match output {
            Output::Store => Ok(()),
            Output::DockerArchive(to) => {
                tell(Item::SendTarball);
                to_file(session, to, |out| {
                    archive::save_docker(store, lease, &save, out).map(drop).map_err(|e| failed(&e))
                })
            }
            Output::OciArchive(to) => {
                tell(Item::SendTarball);
                let options = gzip();
                to_file(session, to, |out| {
                    archive::save_oci(store, lease, &save, options, out).map(drop).map_err(|e| failed(&e))
                })
            }
            Output::OciDir(dir) => {
                tell(Item::CopyFiles);
                std::fs::create_dir_all(dir).map_err(|error| cannot("create", dir, &error))?;
                archive::save_oci_dir(store, lease, &save, gzip(), dir).map_err(|e| failed(&e))
            }
            Output::Tar(to) => {
                tell(Item::SendTarball);
                let view = View::open(session, &built.layers)?;
                let root = Root::open(view.path(), session.ownership())?;
                to_file(session, to, |out| {
                    let mut writer = LayerWriter::new(out);
                    let options = rootfs::DiffOptions {
                        rewrite_timestamp: session.options().source_date_epoch,
                        ..Default::default()
                    };
                    rootfs::diff(&root, &mut writer, options)?;
                    writer.finish()?.flush()?;
                    Ok(())
                })
            }
            Output::Local(dir) => {
                tell(Item::CopyFiles);
                std::fs::create_dir_all(dir).map_err(|error| cannot("create", dir, &error))?;
                let view = View::open(session, &built.layers)?;
                let tree = Root::open(view.path(), session.ownership())?;
                // The files belong to whoever runs the build.
                let options = CopyOptions { chown: Some((0, 0)), replace: true, ..CopyOptions::default() };
                let dest = Root::open(dir, session.ownership())?;
                Ok(rootfs::copy(&Source::new(&tree), Path::new("/"), &dest, Path::new("/"), options)?)
            }
            Output::Registry { names } => {
                let given: Vec<String> =
                    if names.is_empty() { self.names.iter().map(ToString::to_string).collect() } else { names.clone() };
                tell(Item::PushLayers);
                for name in given {
                    let reference = Reference::parse_normalized(&name, DockerVersion::V28)
                        .map_err(|error| Stop::own(&error))?
                        .or_latest();
                    let pushed = manage::push_image(
                        store,
                        lease,
                        session.registry(),
                        &built.id,
                        &reference,
                        &mut |_| {},
                        session.cancel().flag(),
                    )
                    .map_err(|error| Stop::own(&error))?;
                    tell(Item::PushManifest { name: format!("{reference}@{}", pushed.digest) });
                }
                Ok(())
            }
        }
    }

    /// What the caller is told of it.
    pub(crate) fn result(&self, session: &Session<'_>, built: &Built) -> Result<BuildResult, Stop> {
        Ok(BuildResult {
            image_id: built.id.digest().to_string(),
            manifest_digest: manifest(session, built)?.digest().to_string(),
            names: self.names.iter().map(ToString::to_string).collect(),
        })
    }
}

/// The manifest of an image as its layers lie in the store.
pub(crate) fn manifest(session: &Session<'_>, built: &Built) -> Result<Manifest, Stop> {
    let store = session.store();
    let size = store.blob_size(built.id.digest())?.unwrap_or_default();
    let config = Descriptor::new(media_type::OCI_CONFIG, built.id.digest().clone(), size);
    let mut layers = Vec::new();
    for layer in &built.layers {
        let blob = store.diff_blobs(layer)?.into_iter().next().ok_or_else(|| {
            wrong(&format!("the layer {} is not in the store", layer.digest()), "build again with `--no-cache`")
        })?;
        layers.push(blob.descriptor());
    }
    let bytes = ImageManifest::new(media_type::OCI_MANIFEST, config, layers).to_bytes()?;
    Ok(Manifest::parse(bytes, None)?)
}

/// What Docker's client of a dialect finds wrong with a name for the image (`-t`), if anything.
#[must_use]
pub fn tag_error(tag: &str, dialect: Dialect) -> Option<String> {
    parse_tag(tag, dialect).err()
}

fn parse_tag(tag: &str, dialect: Dialect) -> Result<Reference, String> {
    let (version, is_buildx) = match (dialect.version, dialect.builder) {
        (Version::V20, _) => (DockerVersion::V20, false),
        (Version::V28, builder) => (DockerVersion::V28, builder == Builder::Buildkit),
    };
    Reference::parse_normalized(tag, version).map_err(|error| {
        // buildx does not normalise the name first, and knows less of what is wrong with it.
        let lowercase = Reference::parse_normalized(&tag.to_ascii_lowercase(), version);
        match error {
            ReferenceError::Uppercase(_) | ReferenceError::UppercaseHost if is_buildx && lowercase.is_ok() => {
                ReferenceError::UppercaseHost.to_string()
            }
            ReferenceError::Uppercase(_) if is_buildx => ReferenceError::Format.to_string(),
            other => other.to_string(),
        }
    })
}

/// How layers of OCI outputs are compressed.
fn gzip() -> EncoderOptions {
    EncoderOptions::Gzip { level: 6, threads: std::thread::available_parallelism().map_or(1, usize::from) }
}

fn wrong(message: &str, hint: &str) -> Stop {
    Stop::failed(Failure::Own { message: message.to_owned(), hint: Some(hint.to_owned()) })
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> Stop {
    let message = format!("cannot {action} `{}`: {error}", path.display());
    Stop::failed(Failure::Own { message, hint: None })
}

/// Writes a file under a temporary name and renames it when it is whole; or writes to standard output.
fn to_file(
    session: &Session<'_>,
    to: &Destination,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Stop>,
) -> Result<(), Stop> {
    match to {
        Destination::Stdout => {
            let Some(fd) = session.take_output() else {
                return Err(wrong("there is no standard output to write to", "give a file with `dest=`"));
            };
            let mut out = BufWriter::new(Cancellable { inner: File::from(fd), cancel: session.cancel().flag() });
            write(&mut out)?;
            out.flush()?;
            Ok(())
        }
        Destination::File(path) => {
            let whole = WholeFile::create(path, 0o666).map_err(|error| cannot("create", path, &error))?;
            let mut out = BufWriter::new(Cancellable { inner: whole.file(), cancel: session.cancel().flag() });
            write(&mut out)?;
            out.flush().map_err(|error| cannot("write", path, &error))?;
            drop(out);
            whole.publish().map_err(|error| cannot("write", path, &error))
        }
    }
}
