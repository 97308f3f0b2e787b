//! The kernel's file systems. To be run in a thread of its own.

use super::{Outcome, Subject, brief, sequence::Op, time};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags},
    io::Errno,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

pub(super) struct Theirs;

impl Theirs {
    /// Makes `root` the root of this thread, with an overlay there if layers are given: lower ones, upper, work.
    pub(super) fn enter(root: &Path, overlay: Option<(&[PathBuf], &Path, &Path)>) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS).unwrap();
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        if let Some((lower, upper, work)) = overlay {
            let lower: Vec<_> = lower.iter().map(|path| path.to_str().unwrap()).collect();
            let options = format!(
                "lowerdir={},upperdir={},workdir={},userxattr,index=off",
                lower.join(":"),
                upper.display(),
                work.display()
            );
            let options = std::ffi::CString::new(options).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("overlay", root, "overlay", flags, options.as_c_str()).unwrap();
        }
        nix::unistd::chroot(root).unwrap();
        std::env::set_current_dir("/").unwrap();
        rustix::process::umask(Mode::empty());
        Theirs
    }

    fn act(op: &Op) -> Outcome {
        let mode = |mode: u32| Mode::from_raw_mode(mode & 0o7777);
        let done = |()| String::new();
        match op {
            Op::Open { path, flags, mode: bits, write } => {
                let flags = OFlags::from_bits_retain(*flags) | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let file = rustix::fs::open(path, flags, mode(*bits));
                let is_block = |path: &str| {
                    let stat = rustix::fs::stat(path);
                    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice)
                };
                // No container may use those.
                if !matches!(file, Err(Errno::ACCESS | Errno::EXIST)) && is_block(path) {
                    return Err(Errno::PERM);
                }
                let file = file?;
                transfer(&file, flags, write.as_deref())
            }
            Op::Mkdir { path, mode: bits } => rustix::fs::mkdir(path, mode(*bits)).map(done),
            Op::Rmdir { path } => rustix::fs::rmdir(path).map(done),
            Op::Unlink { path } => rustix::fs::unlink(path).map(done),
            Op::Rename { from, to, flags } => {
                rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::from_bits_retain(*flags)).map(done)
            }
            Op::Link { from, to } => rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()).map(done),
            Op::Symlink { target, path } => rustix::fs::symlink(target, path).map(done),
            Op::Mknod { path, mode: bits, dev } => {
                let dev = rustix::fs::makedev(dev.0, dev.1);
                rustix::fs::mknodat(CWD, path, FileType::from_raw_mode(*bits), mode(*bits), dev).map(done)
            }
            Op::Chmod { path, mode: bits } => rustix::fs::chmod(path, mode(*bits)).map(done),
            Op::Chown { path, uid, gid, follow } => {
                let flags = if *follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
                let id = |id: u32| (id != u32::MAX).then_some(id);
                let (uid, gid) = (id(*uid).map(rustix::fs::Uid::from_raw), id(*gid).map(rustix::fs::Gid::from_raw));
                rustix::fs::chownat(CWD, path, uid, gid, flags).map(done)
            }
            Op::Truncate { path, length } => nix::unistd::truncate(path.as_str(), i64::try_from(*length).unwrap())
                .map(done)
                .map_err(|errno| Errno::from_raw_os_error(errno as i32)),
            Op::SetTimes { path, mtime } => {
                let times = Timestamps {
                    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                    last_modification: Timespec { tv_sec: *mtime, tv_nsec: 5 },
                };
                rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map(done)
            }
            Op::SetXattr { path, name, value, flags } => {
                let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                let keeps = matches!(kind, FileType::RegularFile | FileType::Directory);
                // Such attributes of other files cannot be recorded.
                if !keeps && !name.starts_with("user.") {
                    return Err(Errno::PERM);
                }
                rustix::fs::lsetxattr(path, *name, value, XattrFlags::from_bits_retain(*flags)).map(done)
            }
            Op::RemoveXattr { path, name } => rustix::fs::lremovexattr(path, *name).map(done),
            Op::Access { path, mode } => {
                let access = rustix::fs::Access::from_bits_retain(*mode);
                rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).map(done)
            }
            Op::Stat { path } => describe(path, &mut HashMap::new()),
            Op::List { path } => list(path).map(|names| names.join(" ")),
        }
    }

    pub(super) fn dump(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut links = HashMap::new();
        walk("/", &mut links, &mut lines);
        lines
    }
}

impl Subject for Theirs {
    fn run(&mut self, op: &Op, who: u32) -> Outcome {
        if who == 0 {
            return Self::act(op);
        }
        let (uid, gid) = (rustix::process::Uid::from_raw(who), rustix::process::Gid::from_raw(who));
        let root = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
        set_thread_groups(&[rustix::process::Gid::from_raw(1000)]).unwrap();
        set_thread_res_gid(root.1, gid, root.1).unwrap();
        set_thread_res_uid(root.0, uid, root.0).unwrap();
        let outcome = Self::act(op);
        set_thread_res_uid(root.0, root.0, root.0).unwrap();
        set_thread_res_gid(root.1, root.1, root.1).unwrap();
        set_thread_groups(&[]).unwrap();
        outcome
    }
}

/// Writes, or reads everything, of a regular file.
pub(super) fn transfer(file: &std::os::fd::OwnedFd, flags: OFlags, write: Option<&[u8]>) -> Outcome {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok("special".into());
    }
    match write {
        Some(content) => rustix::io::write(file, content).map(|length| length.to_string()),
        None if flags & OFlags::ACCMODE == OFlags::WRONLY => Ok(String::new()),
        None => {
            let mut content = vec![0; usize::try_from(stat.st_size).unwrap()];
            rustix::io::read(file, content.as_mut_slice())?;
            Ok(brief(&content))
        }
    }
}

fn list(path: &str) -> Result<Vec<String>, Errno> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(fd)? {
        names.push(entry?.file_name().to_str().unwrap().to_owned());
    }
    names.sort();
    Ok(names)
}

fn describe(path: &str, links: &mut HashMap<u64, usize>) -> Outcome {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut line = format!(
        "{path} {:o} {}:{} mtime {}",
        stat.st_mode,
        stat.st_uid,
        stat.st_gid,
        time(stat.st_mtime, stat.st_mtime_nsec as i64)
    );
    line += &format!(" nlink {}", stat.st_nlink);
    // Of other files with several names, overlayfs shows several numbers once they were copied up.
    if kind == FileType::RegularFile && stat.st_nlink > 1 {
        let next = links.len();
        line += &format!(" file {}", links.entry(stat.st_ino).or_insert(next));
    }
    match kind {
        FileType::Symlink => line += &format!(" -> {:?}", rustix::fs::readlink(path, Vec::new())?),
        FileType::RegularFile => {
            line += &format!(" size {}", stat.st_size);
            if rustix::process::geteuid().is_root() {
                line += &brief(&std::fs::read(path).unwrap());
            }
        }
        FileType::CharacterDevice | FileType::BlockDevice => line += &format!(" dev {}", stat.st_rdev),
        _ => {}
    }
    if rustix::process::geteuid().is_root() {
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(path, names.as_mut_slice())?;
        let mut names: Vec<_> = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort();
        for name in names {
            let name = std::str::from_utf8(name).unwrap();
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
            line += &format!(" {name}={:?}", &value[..length]);
        }
    }
    Ok(line)
}

fn walk(path: &str, links: &mut HashMap<u64, usize>, lines: &mut Vec<String>) {
    lines.push(describe(path, links).unwrap());
    if !std::fs::symlink_metadata(path).unwrap().is_dir() {
        return;
    }
    let names = list(path).unwrap();
    for name in names.iter().filter(|name| *name != "." && *name != "..") {
        let child = if path == "/" { format!("/{name}") } else { format!("{path}/{name}") };
        walk(&child, links, lines);
    }
}
