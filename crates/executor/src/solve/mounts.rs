//! Mounts of a RUN: sources made ready, secrets read, caches locked.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_image::digest::DiffId;
use rbuild_image::store::NamedLock;
use rbuild_logfmt::event::Failure;
use rbuild_parser::mount::{MountType, Sharing};
use rbuild_sandbox::root::Root;
use rbuild_sandbox::{Access, Mount, OverlayMount};

use super::instruction_failed;
use crate::context::Context;
use crate::options::SecretSource;
use crate::plan::buildkit::{MountFrom, PIPES, RunMount, RunOp};
use crate::rootfs::{self, CopyOptions, Source};
use crate::session::Session;
use crate::snapshot::{Change, View};
use crate::stop::Stop;

/// Where a bind mount, or the first content of a cache, comes from.
pub(super) enum From<'a> {
    Layers(Vec<DiffId>),
    Context(&'a Context),
}

/// Mounts made ready, and what must live as long as the command runs.
pub(super) struct Prepared<'s> {
    session: &'s Session<'s>,
    mounts: Vec<Mount>,
    env: Vec<String>,
    /// Caches that nobody else may use meanwhile, and the locks for that.
    held: Vec<(String, NamedLock)>,
    views: Vec<Arc<View>>,
    changes: Vec<(OverlayMount, Change)>,
}

impl<'s> Prepared<'s> {
    pub(super) fn new(session: &'s Session<'s>) -> Prepared<'s> {
        Prepared {
            session,
            mounts: Vec::new(),
            env: Vec::new(),
            held: Vec::new(),
            views: Vec::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn mounts(&self) -> Vec<Mount> {
        self.mounts.clone()
    }

    /// Secrets that go into the environment.
    pub(super) fn secret_env(&self) -> Vec<String> {
        self.env.clone()
    }

    /// Waits for the caches that these mounts use with `sharing=locked`: in the order of their names, so that no two
    /// steps, of this build or another on the store, wait for each other.
    pub(super) fn lock_caches(&mut self, mounts: &[RunMount]) -> Result<(), Stop> {
        let locked = mounts.iter().filter(|mount| mount.kind == MountType::Cache && mount.sharing == Sharing::Locked);
        let ids: BTreeSet<String> = locked.map(cache_id).collect();
        for id in ids {
            let lock = self.session.lock(&cache_lock(&id))?;
            self.held.push((id, lock));
        }
        Ok(())
    }

    /// Adds one mount.
    pub(super) fn add(&mut self, mount: &RunMount, from: Option<From<'_>>) -> Result<(), Stop> {
        let target = PathBuf::from(&mount.target);
        match mount.kind {
            MountType::Bind => self.bind(mount, from, target),
            MountType::Cache => self.cache(mount, from, target),
            MountType::Tmpfs => {
                self.mounts.push(Mount::Tmpfs {
                    target,
                    size: mount.size,
                    mode: 0o1777,
                    closed: false,
                    access: Access::ReadWrite,
                });
                Ok(())
            }
            MountType::Secret => self.secret(mount),
            MountType::Ssh => self.ssh(mount),
        }
    }

    /// A here-document that is run as a file.
    pub(super) fn add_script(&mut self, name: &str, data: &[u8]) -> Result<(), Stop> {
        let dir = self.session.scratch_dir()?;
        let root = Root::open(&dir, self.session.ownership())?;
        let node = root.create_file(name)?;
        if let Some(mut file) = node.file() {
            file.write_all(data)?;
        }
        node.chmod(0o755)?;
        let target = PathBuf::from(PIPES);
        self.mounts.push(Mount::Bind { source: dir, within: None, target, access: Access::ReadOnly });
        Ok(())
    }

    fn bind(&mut self, mount: &RunMount, from: Option<From<'_>>, target: PathBuf) -> Result<(), Stop> {
        let source = PathBuf::from(mount.source.trim_start_matches('/'));
        let within = match from {
            Some(From::Context(context)) if !mount.read_only => self.copy_to_write(&context.source())?,
            Some(From::Context(context)) => self.seen_of(context)?,
            // What is written is thrown away after the step.
            Some(From::Layers(layers)) if !mount.read_only => {
                let change = Change::begin(self.session, &layers, &[])?;
                let mounted = change.mount()?;
                let path = mounted.target().to_path_buf();
                self.changes.push((mounted, change));
                path
            }
            Some(From::Layers(layers)) => {
                let view = Arc::new(View::open(self.session, &layers)?);
                let path = view.path().to_path_buf();
                self.views.push(view);
                path
            }
            None => self.session.scratch_dir()?,
        };
        self.check_source(&within, mount)?;
        let access = if mount.read_only { Access::ReadOnly } else { Access::ReadWrite };
        self.mounts.push(Mount::Bind { source, within: Some(within), target, access });
        Ok(())
    }

    /// Whether what a command mounts from contexts, to read it, is there.
    pub(super) fn check_sources<'c>(
        &self,
        run: &RunOp,
        context: &dyn Fn(MountFrom) -> Option<&'c Context>,
    ) -> Result<(), Stop> {
        for mount in run.mounts.iter().filter(|mount| mount.kind == MountType::Bind && mount.read_only) {
            if let Some(context) = context(mount.from) {
                self.check_source(&self.seen_of(context)?, mount)?;
            }
        }
        Ok(())
    }

    fn check_source(&self, within: &Path, mount: &RunMount) -> Result<(), Stop> {
        let source = mount.source.trim_start_matches('/');
        if source.is_empty() || Root::open(within, self.session.ownership())?.stat(source).is_ok() {
            return Ok(());
        }
        let quoted = crate::plan::go::quote(&mount.source);
        Err(Stop::failed(Failure::Copy {
            instruction: "RUN".to_owned(),
            message: format!("{quoted}: not found"),
            missing: Some(mount.source.clone()),
        }))
    }

    /// Where a context is as a command may see it: in its place, or, where its ignore file hides something of it, in a
    /// copy for all steps of this build.
    fn seen_of(&self, context: &Context) -> Result<PathBuf, Stop> {
        if !context.hides_anything().map_err(|error| self.session.context_failed(&error))? {
            return Ok(context.path().to_path_buf());
        }
        let mut copy = context.seen_copy();
        match &*copy {
            Some(copy) => Ok(copy.clone()),
            None => Ok(copy.insert(self.copy_to_write(&context.source())?).clone()),
        }
    }

    /// A context is the caller's own directory, where nothing may be written: a copy for one step.
    fn copy_to_write(&self, source: &Source<'_>) -> Result<PathBuf, Stop> {
        let dir = self.session.scratch_dir()?;
        let copy = Root::open(&dir, self.session.ownership())?;
        let options = CopyOptions { contents: true, ..CopyOptions::default() };
        rootfs::copy(source, Path::new("/"), &copy, Path::new("/"), options)?;
        Ok(dir)
    }

    fn cache(&mut self, mount: &RunMount, from: Option<From<'_>>, target: PathBuf) -> Result<(), Stop> {
        let mut id = cache_id(mount);
        if mount.sharing == Sharing::Locked && !self.held.iter().any(|(held, _)| *held == id) {
            let lock = self.session.lock(&cache_lock(&id))?;
            self.held.push((id.clone(), lock));
        }
        if mount.sharing == Sharing::Private {
            // The first directory of its kind that nobody has; one step's mounts of one name share it.
            let first = id.clone();
            let mut number = 0;
            while !self.held.iter().any(|(held, _)| *held == id) {
                if let Some(lock) = self.session.store().try_lock(&cache_lock(&id))? {
                    self.held.push((id.clone(), lock));
                    break;
                }
                number += 1;
                id = format!("{first}\0{number}");
            }
        }
        let dir = self.session.cache_mount(&id, |content| {
            let root = Root::open(content, self.session.ownership())?;
            if let Some(From::Layers(layers)) = from {
                let view = View::open(self.session, &layers)?;
                let tree = Root::open(view.path(), self.session.ownership())?;
                let source = crate::rootfs::Source::new(&tree);
                let path = Path::new(&mount.source);
                crate::rootfs::copy(&source, path, &root, Path::new("/"), crate::rootfs::CopyOptions::default())?;
            }
            let node = root.node("/")?;
            node.chown(mount.uid.unwrap_or(0), mount.gid.unwrap_or(0))?;
            Ok(node.chmod(mount.mode.unwrap_or(0o755))?)
        })?;
        let access = if mount.read_only { Access::ReadOnly } else { Access::ReadWrite };
        self.mounts.push(Mount::Bind { source: dir, within: None, target, access });
        Ok(())
    }

    fn secret(&mut self, mount: &RunMount) -> Result<(), Stop> {
        let given = self.session.options().secrets.iter().find(|secret| secret.id == mount.id);
        let Some(secret) = given else {
            if mount.required {
                return Err(instruction_failed(format!("secret {}: not found", mount.id)));
            }
            return Ok(());
        };
        let content = match &secret.source {
            SecretSource::Value(value) => value.clone(),
            SecretSource::File(path) => std::fs::read(path).map_err(|error| {
                Stop::failed(Failure::Own {
                    message: format!("cannot read the secret `{}` from `{}`: {error}", secret.id, path.display()),
                    hint: None,
                })
            })?,
        };
        if let Some(name) = &mount.env {
            self.env.push(format!("{name}={}", String::from_utf8_lossy(&content)));
        }
        if !mount.target.is_empty() {
            self.mounts.push(Mount::File {
                content,
                target: PathBuf::from(&mount.target),
                mode: mount.mode.unwrap_or(0o400),
                uid: mount.uid.unwrap_or(0),
                gid: mount.gid.unwrap_or(0),
                access: Access::ReadOnly,
            });
        }
        Ok(())
    }

    fn ssh(&mut self, mount: &RunMount) -> Result<(), Stop> {
        let given = self.session.options().ssh.iter().find(|agent| agent.id == mount.id);
        if given.is_none() && mount.required {
            return Err(instruction_failed(format!("unset ssh forward key {}", mount.id)));
        }
        let number = self
            .mounts
            .iter()
            .filter(|m| matches!(m, Mount::Bind { target, .. } if target.starts_with("/run/buildkit")))
            .count();
        let target = match mount.target.as_str() {
            "" => format!("/run/buildkit/ssh_agent.{number}"),
            target => target.to_owned(),
        };
        // The variable is there whether or not there is an agent; of several the first counts.
        if !self.env.iter().any(|pair| pair.starts_with("SSH_AUTH_SOCK=")) {
            self.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
        let Some(agent) = given else { return Ok(()) };
        self.mounts.push(Mount::Bind {
            source: agent.socket.clone(),
            within: None,
            target: PathBuf::from(target),
            access: Access::ReadWrite,
        });
        Ok(())
    }
}

/// What tells caches apart.
fn cache_id(mount: &RunMount) -> String {
    format!("{}\0{:?}\0{}", mount.id, mount.from, mount.source)
}

fn cache_lock(id: &str) -> String {
    format!("cache {id}")
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        for (mounted, change) in self.changes.drain(..) {
            drop(mounted);
            change.discard(self.session);
        }
    }
}
