//! What a RUN that failed leaves: its half-built layer, kept as an image.
//!
//! It is never a cache hit: no cache record leads to it. It stays until it is pruned, or until there is more of such
//! images than [`KeepFailed::max_bytes`](crate::KeepFailed) allows.

use std::collections::HashSet;
use std::path::Path;

use rbuild_image::config::{ContainerConfig, History, ImageConfig, RootFs};
use rbuild_image::digest::{DiffId, ImageId};
use rbuild_image::layer::{Kind, LayerReader};
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_image::store::{Prune, Store};
use rbuild_logfmt::event::Lines;
use rbuild_sandbox::root::Root;

use crate::exec::RunStep;
use crate::interactive::ByHand;
use crate::plan::buildkit::target_platform;
use crate::record::{self, ChangedFile, FileChange};
use crate::removal::remove_large_tree;
use crate::session::Session;
use crate::snapshot::{Change, View};
use crate::solve::{Built, write_config};
use crate::stop::Stop;

/// The label of an image that is half a step: what its build ended with.
pub(crate) const LABEL: &str = "org.rbuild.partial";

/// Files that are listed of a layer; how many more there are is told.
const MOST_FILES: usize = 10_000;

/// A command, and what it is run on.
#[derive(Clone, Debug)]
pub(crate) struct Half {
    /// Layers, lowest first.
    pub(crate) below: Vec<DiffId>,
    pub(crate) argv: Vec<String>,
    /// Without secrets and proxies.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: String,
}

/// A step as it was when its command failed.
#[derive(Debug)]
pub(crate) struct HalfBuilt {
    pub(crate) change: Change,
    pub(crate) half: Half,
    pub(crate) exit_code: i32,
}

/// The image that it became.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) image: String,
    pub(crate) names: Vec<String>,
    pub(crate) changed: Vec<ChangedFile>,
    pub(crate) further: u64,
    /// Bytes of its layer.
    pub(crate) size: u64,
}

impl HalfBuilt {
    /// Makes the image. With names it gets each of them, with `-failed` added to its tag.
    pub(crate) fn keep(self, session: &Session<'_>, lines: Option<Lines>, named: bool) -> Result<Kept, Stop> {
        let HalfBuilt { change, half, exit_code } = self;
        let layer = change.commit(session)?;
        let (changed, further) = changes(session, &half.below, &layer.diff_id)?;
        let size = session.store().diff_blobs(&layer.diff_id)?.first().map_or(0, |blob| blob.size);
        let place = lines.map(|lines| format!(", lines {} to {}", lines.start, lines.end)).unwrap_or_default();
        let told = format!("the command ended with exit code {exit_code}{place}");
        let built = half.image(session, layer.diff_id, &told)?;
        session.store().keep(session.lease(), &built.id)?;
        let tags = if named { session.options().tags.as_slice() } else { &[] };
        let names = tag_as(session, &built.id, tags, "-failed")?;
        Ok(Kept { image: built.id.digest().to_string(), names, changed, further, size })
    }
}

impl Half {
    /// Keeps the layer that a step got by hand, for builds that go on from there.
    pub(crate) fn keep_fixed(self, session: &Session<'_>, step: RunStep<'_>, layer: &DiffId) -> Result<(), Stop> {
        let built = self.image(session, layer.clone(), "the command failed and was mended by hand")?;
        session.store().keep(session.lease(), &built.id)?;
        let image = built.id.digest().to_string();
        session.hands().add(ByHand { step: step.key.as_str().to_owned(), image, complete: true });
        Ok(())
    }

    /// Makes an image with the layer that the command left.
    fn image(self, session: &Session<'_>, layer: DiffId, told: &str) -> Result<Built, Stop> {
        let Half { below, argv, env, cwd, user } = self;
        let mut layers = below;
        layers.push(layer);
        let platform = target_platform(session.options())?;
        let mut config = ImageConfig::default();
        config.architecture.set(platform.architecture);
        config.os.set(platform.os);
        if !platform.variant.is_empty() {
            config.variant.set(platform.variant);
        }
        let mut container = ContainerConfig::default();
        container.env.set(env);
        container.working_dir.set(cwd);
        if !user.is_empty() {
            container.user.set(user);
        }
        container.cmd.set(vec!["/bin/sh".to_owned()]);
        container.labels.get_or_default().insert(LABEL.to_owned(), told.to_owned());
        config.config.set(container);
        config.rootfs.set(RootFs::new(layers.clone()));
        let history = config.history.get_or_default();
        for _ in 1..layers.len() {
            let mut entry = History::default();
            entry.created_by.set("a layer beneath the failed step".to_owned());
            history.push(entry);
        }
        let mut entry = History::default();
        entry.created_by.set(format!("RUN {}", argv.join(" ")));
        entry.comment.set(format!("partial: {told}"));
        history.push(entry);
        write_config(session, config, &layers, &crate::solve::created(session))
    }
}

/// Gives an image names, with something added to their tags; what cannot be a name is left out.
pub(crate) fn tag_as(
    session: &Session<'_>,
    image: &ImageId,
    names: &[String],
    suffix: &str,
) -> Result<Vec<String>, Stop> {
    let mut given = Vec::new();
    for name in names {
        let Ok(name) = Reference::parse_normalized(name, DockerVersion::V28) else { continue };
        let name = name.or_latest();
        let Ok(name) = name.with_tag(&format!("{}{suffix}", name.tag().unwrap_or("latest"))) else { continue };
        session.store().tag(session.lease(), image, &name)?;
        given.push(name.familiar());
    }
    Ok(given)
}

/// The files of a layer, and what each is to the layers beneath; and how many more there are.
pub(crate) fn changes(
    session: &Session<'_>,
    below: &[DiffId],
    layer: &DiffId,
) -> Result<(Vec<ChangedFile>, u64), Stop> {
    let view = View::open(session, below)?;
    let root = Root::open(view.path(), session.ownership())?;
    let mut reader = LayerReader::new(session.store().open_layer(layer)?);
    let (mut files, mut further) = (Vec::new(), 0);
    while let Some(entry) = reader.next_entry()? {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let path = format!("/{}", path.trim_start_matches("./").trim_matches('/'));
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let found = |path: &str| root.try_lstat(path).ok().flatten();
        let (path, change, size) = match (name.strip_prefix(".wh."), &entry.kind) {
            // An opaque directory: what was in it is gone, which its own entry does not show.
            (Some(".wh..opq"), _) => continue,
            (Some(removed), _) => (format!("{dir}/{removed}"), FileChange::Deleted, 0),
            (None, kind) => {
                let size = match kind {
                    Kind::File { size } => *size,
                    _ => 0,
                };
                let was_there = found(&path);
                let is_dir = matches!(kind, Kind::Dir);
                // A directory comes with what is in it.
                if path == "/" || is_dir && was_there.as_ref().is_some_and(|found| found.is_dir()) {
                    continue;
                }
                let change = if was_there.is_some() { FileChange::Changed } else { FileChange::Added };
                (path.clone(), change, size)
            }
        };
        if files.len() < MOST_FILES {
            files.push(ChangedFile { path, change, size });
        } else {
            further += 1;
        }
    }
    Ok((files, further))
}

/// Bytes of the topmost layer of an image.
fn top_size(store: &Store, image: &ImageId) -> Result<u64, Stop> {
    let layers = store.image(image)?.layers;
    Ok(layers.last().and_then(|layer| layer.blobs.first()).map_or(0, |blob| blob.size))
}

/// Gives up the oldest of such images, until the layers of the others have no more than so many bytes. One that got a
/// name stays.
pub(crate) fn limit(session: &Session<'_>, max_bytes: u64) {
    let store = session.store();
    let given_up = || -> Result<bool, Stop> {
        let listed = store.list()?;
        let (mut sum, mut some, mut seen) = (0, false, HashSet::new());
        for record in record::list(store.root())?.into_iter().rev() {
            let failed = record.failure.and_then(|failure| Some((failure.image?, Some(failure.layer_size))));
            let by_hand = record.options.by_hand.into_iter().map(|hand| (hand.image, None));
            for (image, size) in failed.into_iter().chain(by_hand) {
                let Some(image) = listed.iter().find(|listed| listed.id.to_string() == image) else { continue };
                if !seen.insert(image.id.clone()) {
                    continue;
                }
                sum += match size {
                    Some(size) => size,
                    None => top_size(store, &image.id)?,
                };
                if sum > max_bytes && image.references.is_empty() {
                    store.remove_image(&image.id)?;
                    some = true;
                }
            }
        }
        Ok(some)
    };
    let collected = given_up().and_then(|some| {
        if some {
            let mut remove = |path: &Path| remove_large_tree(path).map(|()| 0).map_err(std::io::Error::other);
            store.gc(Prune::Unreferenced, &mut remove)?;
        }
        Ok(())
    });
    if let Err(stop) = collected {
        tracing::debug!(?stop, "failures that are too old are still kept");
    }
}
