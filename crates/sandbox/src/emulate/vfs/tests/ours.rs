//! This implementation, used as the calls use it.

use super::{
    super::{Found, Identity, Namespace, NewTime, NoLinks, Opened, Place, Result, Start, real::descriptor_path},
    Outcome, Subject, brief,
    sequence::Op,
    theirs::transfer,
    time,
};
use rustix::{
    fd::AsFd,
    fs::{FileType, OFlags},
    io::Errno,
};
use std::{collections::HashMap, sync::Arc};

pub(super) fn root() -> Identity {
    Identity { capabilities: u64::MAX, ..Identity::default() }
}

pub(super) struct Ours {
    pub(super) namespace: Arc<Namespace>,
}

impl Ours {
    pub(super) fn resolve(&self, path: &str, follow: bool, who: &Identity) -> Result<Found> {
        let root = self.namespace.root();
        let start = Start { root: &root, base: &root, who, proc: &NoLinks };
        self.namespace.resolve(&start, path.as_bytes(), follow)
    }

    pub(super) fn find(&self, path: &str, follow: bool, who: &Identity) -> Result<Place> {
        match self.resolve(path, follow, who)? {
            Found::File(place) => Ok(place),
            _ => Err(Errno::NOENT),
        }
    }

    fn act(&self, op: &Op, who: &Identity) -> Outcome {
        let done = |()| String::new();
        let root = self.namespace.root();
        let start = Start { root: &root, base: &root, who, proc: &NoLinks };
        match op {
            Op::Open { path, flags, mode, write } => {
                let flags = OFlags::from_bits_retain(*flags) | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let exclusive = flags.contains(OFlags::EXCL);
                let found = match flags.contains(OFlags::CREATE) {
                    true => self.namespace.resolve_to_create(&start, path.as_bytes(), !exclusive)?,
                    false => self.resolve(path, true, who)?,
                };
                let file = match found {
                    Found::File(_) if exclusive => return Err(Errno::EXIST),
                    Found::File(place) => match place.open(flags.bits(), who)? {
                        Opened::File(file) => file,
                        Opened::Blocking(file) => {
                            let path = descriptor_path(file.as_fd());
                            rustix::fs::open(path, flags.difference(OFlags::CREATE), rustix::fs::Mode::empty())?
                        }
                    },
                    Found::Missing { parent, name, .. } if flags.contains(OFlags::CREATE) => {
                        parent.create(&name, flags.bits(), *mode, who)?
                    }
                    _ => return Err(Errno::NOENT),
                };
                if self.find(path, true, who).is_ok_and(|place| place.is_dir()) {
                    return Ok("special".into());
                }
                let outcome = transfer(&file, flags, write.as_deref())?;
                if write.is_some() {
                    self.written(path, who)?;
                }
                Ok(outcome)
            }
            Op::Mkdir { path, mode } => self.namespace.mkdir(&start, path.as_bytes(), *mode).map(done),
            Op::Rmdir { path } => self.namespace.rmdir(&start, path.as_bytes()).map(done),
            Op::Unlink { path } => self.namespace.unlink(&start, path.as_bytes()).map(done),
            Op::Rename { from, to, flags } => {
                self.namespace.rename((&start, from.as_bytes()), (&start, to.as_bytes()), *flags).map(done)
            }
            Op::Link { from, to } => {
                let file = self.find(from, false, who)?;
                self.namespace.link(Some(&file), &start, to.as_bytes()).map(done)
            }
            Op::Symlink { target, path } => {
                self.namespace.symlink(&start, target.as_bytes(), path.as_bytes()).map(done)
            }
            Op::Mknod { path, mode, dev } => {
                let device = rustix::fs::makedev(dev.0, dev.1);
                self.namespace.mknod(&start, path.as_bytes(), *mode, device).map(done)
            }
            Op::Chmod { path, mode } => self.find(path, true, who)?.chmod(*mode, who).map(done),
            Op::Chown { path, uid, gid, follow } => self.find(path, *follow, who)?.chown(*uid, *gid, who).map(done),
            Op::Truncate { path, length } => self.find(path, true, who)?.truncate(*length, who).map(done),
            Op::SetTimes { path, mtime } => {
                self.find(path, false, who)?.set_times(NewTime::Omit, NewTime::At(*mtime, 5), who).map(done)
            }
            Op::SetXattr { path, name, value, flags } => {
                self.find(path, false, who)?.set_xattr(name.as_bytes(), value, *flags, who).map(done)
            }
            Op::RemoveXattr { path, name } => self.find(path, false, who)?.remove_xattr(name.as_bytes(), who).map(done),
            Op::Access { path, mode } => self.find(path, true, who)?.access(*mode, who).map(done),
            Op::Stat { path } => self.describe(path, who, &mut HashMap::new()),
            Op::List { path } => {
                let place = self.find(path, true, who)?;
                if !place.is_dir() {
                    return Err(Errno::NOTDIR);
                }
                self.list(&place, who).map(|names| names.join(" "))
            }
        }
    }

    /// What write(2) does, which nobody sees here.
    fn written(&self, path: &str, who: &Identity) -> Result<()> {
        let file = self.find(path, true, &root())?;
        if FileType::from_raw_mode(file.stat()?.mode) != FileType::RegularFile {
            return Ok(());
        }
        match file.remove_xattr(b"security.capability", &root()) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
        let stat = file.stat()?;
        let mut mode = stat.mode & !0o4000;
        if mode & 0o010 != 0 || !who.groups.contains(&stat.gid) && who.gid != stat.gid {
            mode &= !0o2000;
        }
        if who.uid == 0 || mode == stat.mode { Ok(()) } else { file.chmod(mode, &root()) }
    }

    fn list(&self, place: &Place, who: &Identity) -> Result<Vec<String>> {
        let entries = place.read_dir(who)?;
        let mut names: Vec<_> = entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect();
        names.sort();
        Ok(names)
    }

    fn describe(&self, path: &str, who: &Identity, links: &mut HashMap<u64, usize>) -> Outcome {
        let place = self.find(path, false, who)?;
        let stat = place.stat()?;
        let kind = FileType::from_raw_mode(stat.mode);
        let mut line =
            format!("{path} {:o} {}:{} mtime {}", stat.mode, stat.uid, stat.gid, time(stat.mtime.0, stat.mtime.1));
        line += &format!(" nlink {}", stat.nlink);
        if kind == FileType::RegularFile && stat.nlink > 1 {
            let next = links.len();
            line += &format!(" file {}", links.entry(stat.ino).or_insert(next));
        }
        match kind {
            FileType::Symlink => {
                line += &format!(" -> {:?}", std::ffi::CString::new(place.read_link()?).unwrap());
            }
            FileType::RegularFile => {
                line += &format!(" size {}", stat.size);
                if who.uid == 0 {
                    let Opened::File(file) = place.open(0, who)? else { panic!("a regular file") };
                    let mut content = Vec::new();
                    std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut content).unwrap();
                    line += &brief(&content);
                }
            }
            FileType::CharacterDevice | FileType::BlockDevice => line += &format!(" dev {}", stat.rdev),
            _ => {}
        }
        if who.uid == 0 {
            let mut names = place.list_xattr(who)?;
            names.sort();
            // Shown in plain directories alone, for who keeps records there himself.
            for name in names.into_iter().filter(|name| !name.starts_with(b"user.rbuild.")) {
                let value = place.get_xattr(&name, who)?;
                line += &format!(" {}={value:?}", std::str::from_utf8(&name).unwrap());
            }
        }
        Ok(line)
    }

    pub(super) fn dump(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.walk("/", &mut HashMap::new(), &mut lines);
        lines
    }

    fn walk(&self, path: &str, links: &mut HashMap<u64, usize>, lines: &mut Vec<String>) {
        lines.push(self.describe(path, &root(), links).unwrap_or_else(|errno| panic!("{path}: {errno}")));
        let place = self.find(path, false, &root()).unwrap();
        if !place.is_dir() {
            return;
        }
        for name in self.list(&place, &root()).unwrap().iter().filter(|name| *name != "." && *name != "..") {
            let child = if path == "/" { format!("/{name}") } else { format!("{path}/{name}") };
            self.walk(&child, links, lines);
        }
    }
}

impl Subject for Ours {
    fn run(&mut self, op: &Op, who: u32) -> Outcome {
        let who = match who {
            0 => root(),
            id => Identity { uid: id, gid: id, groups: vec![1000], capabilities: 0 },
        };
        self.act(op, &who)
    }
}
