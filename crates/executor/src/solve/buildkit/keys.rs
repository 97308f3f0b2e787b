//! What steps are known by in the cache.

use rbuild_parser::mount::MountType;

use super::solver::{Snapshot, Solver};
use super::steps::sources;
use crate::key::{CacheKey, KeyBuilder};
use crate::plan::buildkit::{CopyOp, CopySource, MountFrom, Op, PlannedStep, RunOp, StageIndex};
use crate::remote;
use crate::snapshot::View;
use crate::solve::copy::{self, CopySourceTree};
use crate::stop::Stop;

/// Gives the result of a stage.
pub(super) type ResultOf<'a> = &'a dyn Fn(StageIndex) -> Result<Snapshot, Stop>;

/// Whether BuildKit takes a step from the cache without asking whether it may (`--no-cache`), as long as what it is done on
/// came from there.
pub(super) fn is_always_cached(op: &Op) -> bool {
    matches!(op, Op::Mkdir { .. })
}

/// Whether the key of a step depends on what another machine answers.
pub(super) fn asks_the_network(op: &Op) -> bool {
    match op {
        Op::Copy(copy) => {
            copy.sources.iter().any(|source| matches!(source, CopySource::Http { .. } | CopySource::Git { .. }))
        }
        Op::Run(_) | Op::Mkdir { .. } => false,
    }
}

/// The stages that a step reads files of.
pub(super) fn stages_read(op: &Op) -> impl Iterator<Item = StageIndex> {
    sources(op).into_iter().filter_map(|from| match from {
        MountFrom::Stage(stage) => Some(stage),
        _ => None,
    })
}

impl Solver<'_> {
    /// What a step's result is filed under, the strongest first. `result_of` gives the result of a stage.
    pub(super) fn key(
        &self,
        snapshot: &Snapshot,
        step: &PlannedStep,
        result_of: ResultOf<'_>,
    ) -> Result<Vec<CacheKey>, Stop> {
        let epoch = self.session.options().source_date_epoch.map(|e| e.to_string()).unwrap_or_default();
        let key = |kind: &str| KeyBuilder::new(kind).key("parent", &snapshot.key).field("epoch", &epoch);
        Ok(match &step.op {
            Op::Mkdir { path, user } => vec![key("mkdir").field("path", path).field("user", user).finish()],
            Op::Run(run) => vec![self.run_key(key("run"), run, result_of)?],
            Op::Copy(op) => vec![self.copy_key(key("copy"), snapshot, op, result_of)?],
        })
    }

    fn run_key(&self, key: KeyBuilder, run: &RunOp, result_of: ResultOf<'_>) -> Result<CacheKey, Stop> {
        let options = self.session.options();
        let mut key = key
            .list("argv", &run.argv)
            .list("env", &run.env)
            .field("cwd", &run.cwd)
            .field("user", &run.user)
            .field("network", format!("{:?} {:?}", run.network, options.network))
            .list("hosts", options.add_hosts.iter().map(|(name, address)| format!("{name}={address}")))
            .list("ulimits", options.ulimits.iter().map(|limit| format!("{limit:?}")))
            .field("shm", format!("{:?}", options.shm_size));
        if let Some((name, data)) = &run.script {
            key = key.field("script", name).field("text", data);
        }
        for mount in &run.mounts {
            // Which secrets there are does not count, nor does what a cache holds.
            key = key.field("mount", mount.kind.as_str()).field("target", &mount.target).field("source", &mount.source);
            key = match mount.from {
                MountFrom::Empty => key,
                MountFrom::Stage(stage) if self.context_of(mount.from).is_none() => {
                    let from = result_of(stage)?;
                    match mount.kind {
                        MountType::Bind => key.key("from", &from.key),
                        _ => key,
                    }
                }
                from => {
                    if from == MountFrom::Context {
                        self.load_context()?;
                    }
                    let source = CopySourceTree::Context(self.context_of(from).unwrap_or(self.context));
                    match mount.kind {
                        MountType::Bind => {
                            key.field("content", copy::buildkit::selection_hash(&source, &mount.source, None, &[])?)
                        }
                        _ => key,
                    }
                }
            };
        }
        Ok(key.finish())
    }

    fn copy_key(
        &self,
        key: KeyBuilder,
        snapshot: &Snapshot,
        op: &CopyOp,
        result_of: ResultOf<'_>,
    ) -> Result<CacheKey, Stop> {
        let mut key = key
            .field("dest", &op.dest)
            .field("chown", op.chown.as_deref().unwrap_or_default())
            .field("chmod", op.chmod.as_deref().unwrap_or_default())
            .field("link", op.link.to_string())
            .list("exclude", &op.exclude);
        for source in &op.sources {
            key = match source {
                CopySource::Files { from, pattern, parents, unpack } => {
                    let key = key
                        .field("pattern", pattern)
                        .field("parents", parents.as_deref().unwrap_or_default())
                        .field("unpack", unpack.to_string());
                    let content = match from {
                        // They are those of the parent.
                        MountFrom::Stage(stage) if self.is_own(*stage, snapshot, result_of)? => String::new(),
                        MountFrom::Stage(stage) => {
                            self.stage_content(*stage, result_of, pattern, parents.as_deref(), &op.exclude)?
                        }
                        _ => {
                            self.load_context()?;
                            let source = CopySourceTree::Context(self.context);
                            copy::buildkit::selection_hash(&source, pattern, parents.as_deref(), &op.exclude)?
                        }
                    };
                    key.field("content", content)
                }
                CopySource::Inline { name, data } => key.field("inline", name).field("data", data),
                CopySource::Http { url, checksum, unpack, .. } => {
                    let file = self.session.download(url, checksum.as_deref())?;
                    key.field("url", file.digest()).field("unpack", unpack.to_string())
                }
                CopySource::Git { url, checksum, keep_git_dir } => {
                    let files = remote::load_added(self.session, url, checksum.as_deref(), *keep_git_dir, None)?;
                    key.field("git", files.key)
                }
            };
        }
        Ok(key.finish())
    }

    /// Whether the files of a stage are those that a step changes, or there are none at all. BuildKit then has no input to
    /// look at, and looks for what is copied when it copies, not before.
    fn is_own(&self, stage: StageIndex, snapshot: &Snapshot, result_of: ResultOf<'_>) -> Result<bool, Stop> {
        if self.context_of(MountFrom::Stage(stage)).is_some() {
            return Ok(false);
        }
        let result = result_of(stage)?;
        if result.layers.is_empty() && result.base.is_none() {
            return Ok(true);
        }
        // 20.10 does not look up what an image is that only COPY names, and takes it for another.
        let shown = |snapshot: &Snapshot| snapshot.base.as_ref().map(|image| image.shown.clone());
        Ok(result.key == snapshot.key && shown(&result) == shown(snapshot))
    }

    /// The digest of what is copied from a stage, remembered by the stage's key, so that an unchanged stage need not be
    /// read.
    fn stage_content(
        &self,
        stage: StageIndex,
        result_of: ResultOf<'_>,
        pattern: &str,
        parents: Option<&str>,
        exclude: &[String],
    ) -> Result<String, Stop> {
        if let Some(directory) = self.context_of(MountFrom::Stage(stage)) {
            let source = CopySourceTree::Context(directory);
            return copy::buildkit::selection_hash(&source, pattern, parents, exclude);
        }
        let snapshot = result_of(stage)?;
        let key = KeyBuilder::new("content")
            .key("stage", &snapshot.key)
            .field("pattern", pattern)
            .field("parents", parents.unwrap_or_default())
            .list("exclude", exclude)
            .finish();
        if let Some(hash) = self.session.cached_value(&key)? {
            return Ok(hash);
        }
        self.materialise(&snapshot)?;
        let view = View::open(self.session, &snapshot.layers)?;
        let source = CopySourceTree::view(self.session, &view)?;
        let hash = copy::buildkit::selection_hash(&source, pattern, parents, exclude)?;
        self.session.remember_value(&key, &hash)?;
        Ok(hash)
    }
}
