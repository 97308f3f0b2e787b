//! One operation: a command, files that come in, or a directory.

use std::collections::HashMap;

use rbuild_image::digest::DiffId;
use rbuild_logfmt::event::StepId;
use rbuild_parser::mount::MountType;
use rbuild_sandbox::root::{NewDirs, Root, Timestamp};

use super::solver::{Snapshot, Solver};
use crate::exec::{self, Command, Ran, RunStep};
use crate::plan::buildkit::{CopyOp, CopySource, MountFrom, Op, PlannedStep, RunOp, StageIndex};
use crate::plan::users;
use crate::snapshot::{Change, View};
use crate::solve::copy::{self, CopySourceTree};
use crate::solve::mounts::{self, Prepared};
use crate::stop::Stop;

impl Solver<'_> {
    pub(super) fn mkdir(&self, snapshot: &Snapshot, path: &str, user: &str) -> Result<DiffId, Stop> {
        self.change(snapshot, |change| {
            let mount = change.mount()?;
            let root = Root::open(mount.target(), self.session.ownership())?;
            let owner = if user.is_empty() { (0, 0) } else { owner_of(&root, user) };
            let time = self.session.options().source_date_epoch;
            let time = time.map(|seconds| Timestamp { seconds, nanoseconds: 0 });
            match root.create_dir_all(path, NewDirs { mode: 0o755, owner, time }) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                    Err(crate::solve::instruction_failed(format!("mkdir {path}: not a directory")))
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    pub(super) fn copy(&self, snapshot: &Snapshot, op: &CopyOp) -> Result<DiffId, Stop> {
        let mut views: HashMap<StageIndex, View> = HashMap::new();
        for source in &op.sources {
            let CopySource::Files { from: from @ MountFrom::Stage(stage), .. } = source else { continue };
            if self.context_of(*from).is_some() || views.contains_key(stage) {
                continue;
            }
            let from = self.wait_for(*stage)?;
            self.materialise(&from)?;
            views.insert(*stage, View::open(self.session, &from.layers)?);
        }
        let tree = |from: &MountFrom| -> Result<CopySourceTree<'_>, Stop> {
            match (from, self.context_of(*from)) {
                (_, Some(context)) => Ok(CopySourceTree::Context(context)),
                (MountFrom::Stage(stage), None) => {
                    CopySourceTree::view(self.session, views.get(stage).ok_or(Stop::Cancelled)?)
                }
                _ => Err(Stop::Cancelled),
            }
        };
        let copied = self.change(snapshot, |change| copy::buildkit::perform(self.session, change, op, &tree));
        copied.map_err(|stop| copy::buildkit::found_missing_late(stop, self.session.options().dialect.version))
    }

    pub(super) fn run(&self, snapshot: &Snapshot, run: &RunOp, step: RunStep<'_>) -> Result<Ran, Stop> {
        let prepared = self.mounts(run)?;
        exec::run(self.session, &snapshot.layers, command(run, &prepared), step)
    }

    /// Opens a shell where a step is going to be done.
    pub(super) fn stop_before(&self, snapshot: &Snapshot, step: &PlannedStep, id: StepId) -> Result<(), Stop> {
        self.materialise(snapshot)?;
        let (session, layers, lines) = (self.session, &snapshot.layers, step.label.lines);
        if let Op::Run(run) = &step.op {
            let prepared = self.mounts(run)?;
            return session.shells().before_step(session, layers, command(run, &prepared), id, lines);
        }
        session.shells().before_step(session, layers, Command::look(&step.surroundings), id, lines)
    }

    /// Makes the mounts of a command ready.
    fn mounts(&self, run: &RunOp) -> Result<Prepared<'_>, Stop> {
        let mut prepared = Prepared::new(self.session);
        prepared.lock_caches(&run.mounts)?;
        for mount in &run.mounts {
            let stage = match (mount.from, self.context_of(mount.from)) {
                (_, Some(context)) => Some(mounts::From::Context(context)),
                (MountFrom::Stage(stage), None) if matches!(mount.kind, MountType::Bind | MountType::Cache) => {
                    let from = self.wait_for(stage)?;
                    self.materialise(&from)?;
                    Some(mounts::From::Layers(from.layers))
                }
                _ => None,
            };
            prepared.add(mount, stage)?;
        }
        if let Some((name, data)) = &run.script {
            prepared.add_script(name, data)?;
        }
        Ok(prepared)
    }

    fn change(&self, snapshot: &Snapshot, make: impl FnOnce(&Change) -> Result<(), Stop>) -> Result<DiffId, Stop> {
        self.make(Change::begin(self.session, &snapshot.layers, &[])?, make)
    }

    pub(super) fn make(&self, change: Change, make: impl FnOnce(&Change) -> Result<(), Stop>) -> Result<DiffId, Stop> {
        match make(&change) {
            Ok(()) => Ok(change.commit(self.session)?.diff_id),
            Err(stop) => {
                change.discard(self.session);
                Err(stop)
            }
        }
    }
}

fn command<'a>(run: &'a RunOp, prepared: &Prepared<'_>) -> Command<'a> {
    let mut hidden_env = run.proxy.clone();
    hidden_env.extend(prepared.secret_env());
    Command {
        argv: &run.argv,
        env: run.env.clone(),
        hidden_env,
        cwd: &run.cwd,
        user: &run.user,
        mounts: prepared.mounts(),
        network: run.network,
        container: None,
        volumes: Vec::new(),
    }
}

/// Names of users and groups are looked up in the files that an operation changes; `nothing` if there are none.
pub(super) fn owner_can_be_found(spec: Option<&str>, nothing: bool) -> Result<(), Stop> {
    match spec.filter(|spec| nothing && users::has_names(spec)) {
        Some(_) => Err(crate::solve::instruction_failed("invalid user index: -1")),
        None => Ok(()),
    }
}

/// Owner by the files of an image.
pub(in crate::solve) fn owner_of(root: &Root, spec: &str) -> (u32, u32) {
    let file = |path: &str| {
        let bytes = root.read(path, 4 << 20).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    users::chown_buildkit(spec, &file("etc/passwd"), &file("etc/group"))
}
