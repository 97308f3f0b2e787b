//! stat(2), statx(2), statfs(2): the kernel's structures, byte by byte.

use super::{
    CWD, DONE, Outcome,
    caller::{Caller, Target},
};
use crate::emulate::vfs::Stat;
use nix::libc;
use rustix::{
    fs::{AtFlags, StatFs, StatxFlags, major, minor, statx as real_statx},
    io::Errno,
    process::{getegid, geteuid},
};
use std::path::Path;

/// Nobody: an owner that has no id here.
const OVERFLOW: u32 = 65534;

/// A structure that is filled field by field.
struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Bytes<N> {
    fn put<const M: usize>(&mut self, offset: usize, value: [u8; M]) {
        if let Some(field) = self.0.get_mut(offset..offset + M) {
            field.copy_from_slice(&value);
        }
    }
}

/// `struct stat` of x86-64.
fn stat_bytes(stat: &Stat) -> [u8; 144] {
    let mut bytes = Bytes([0; 144]);
    bytes.put(0, stat.dev.to_ne_bytes());
    bytes.put(8, stat.ino.to_ne_bytes());
    bytes.put(16, stat.nlink.to_ne_bytes());
    bytes.put(24, stat.mode.to_ne_bytes());
    bytes.put(28, stat.uid.to_ne_bytes());
    bytes.put(32, stat.gid.to_ne_bytes());
    bytes.put(40, stat.rdev.to_ne_bytes());
    bytes.put(48, stat.size.to_ne_bytes());
    bytes.put(56, stat.blksize.to_ne_bytes());
    bytes.put(64, stat.blocks.to_ne_bytes());
    for (offset, (seconds, nanoseconds)) in [(72, stat.atime), (88, stat.mtime), (104, stat.ctime)] {
        bytes.put(offset, seconds.to_ne_bytes());
        bytes.put(offset + 8, nanoseconds.to_ne_bytes());
    }
    bytes.0
}

const STATX_BASIC: u32 = 0x7ff;
const STATX_BTIME: u32 = 0x800;
const STATX_MNT_ID: u32 = 0x1000;
const STATX_RESERVED: u32 = 0x8000_0000;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

/// `struct statx`.
fn statx_bytes(stat: &Stat) -> [u8; 256] {
    let mut bytes = Bytes([0; 256]);
    let mask = STATX_BASIC | STATX_MNT_ID | if stat.btime.is_some() { STATX_BTIME } else { 0 };
    bytes.put(0, mask.to_ne_bytes());
    bytes.put(4, (stat.blksize as u32).to_ne_bytes());
    bytes.put(8, stat.attributes.to_ne_bytes());
    bytes.put(16, (stat.nlink as u32).to_ne_bytes());
    bytes.put(20, stat.uid.to_ne_bytes());
    bytes.put(24, stat.gid.to_ne_bytes());
    bytes.put(28, (stat.mode as u16).to_ne_bytes());
    bytes.put(32, stat.ino.to_ne_bytes());
    bytes.put(40, stat.size.to_ne_bytes());
    bytes.put(48, stat.blocks.to_ne_bytes());
    bytes.put(56, (stat.attributes | STATX_ATTR_MOUNT_ROOT).to_ne_bytes());
    let times = [(64, Some(stat.atime)), (80, stat.btime), (96, Some(stat.ctime)), (112, Some(stat.mtime))];
    for (offset, time) in times {
        let (seconds, nanoseconds) = time.unwrap_or_default();
        bytes.put(offset, seconds.to_ne_bytes());
        bytes.put(offset + 8, (nanoseconds as u32).to_ne_bytes());
    }
    bytes.put(128, major(stat.rdev).to_ne_bytes());
    bytes.put(132, minor(stat.rdev).to_ne_bytes());
    bytes.put(136, major(stat.dev).to_ne_bytes());
    bytes.put(140, minor(stat.dev).to_ne_bytes());
    bytes.put(144, stat.mount.to_ne_bytes());
    bytes.0
}

/// `struct statfs` of x86-64.
fn statfs_bytes(status: &StatFs) -> [u8; 120] {
    let mut bytes = Bytes([0; 120]);
    let words = [
        status.f_type as u64,
        status.f_bsize as u64,
        status.f_blocks,
        status.f_bfree,
        status.f_bavail,
        status.f_files,
        status.f_ffree,
    ];
    for (index, word) in words.into_iter().enumerate() {
        bytes.put(index * 8, word.to_ne_bytes());
    }
    // `f_fsid` stays 0: the number of a real file system would tell more than it should.
    bytes.put(64, (status.f_namelen as u64).to_ne_bytes());
    bytes.put(72, (status.f_frsize as u64).to_ne_bytes());
    bytes.put(80, (status.f_flags as u64).to_ne_bytes());
    bytes.0
}

/// What stat shows of an open file that has no place: its owner is the user, who is root here.
pub(super) fn stat_descriptor(path: &Path) -> Result<Stat, Errno> {
    let real = real_statx(
        rustix::fs::CWD,
        path,
        AtFlags::empty(),
        StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID,
    )?;
    let time = |stamp: rustix::fs::StatxTimestamp| (stamp.tv_sec, i64::from(stamp.tv_nsec));
    let shown = |id: u32, own: u32| if id == own { 0 } else { OVERFLOW };
    let device = rustix::fs::makedev;
    Ok(Stat {
        dev: device(real.stx_dev_major, real.stx_dev_minor),
        ino: real.stx_ino,
        mode: u32::from(real.stx_mode),
        nlink: u64::from(real.stx_nlink),
        uid: shown(real.stx_uid, geteuid().as_raw()),
        gid: shown(real.stx_gid, getegid().as_raw()),
        rdev: device(real.stx_rdev_major, real.stx_rdev_minor),
        size: real.stx_size as i64,
        blksize: i64::from(real.stx_blksize),
        blocks: real.stx_blocks as i64,
        atime: time(real.stx_atime),
        mtime: time(real.stx_mtime),
        ctime: time(real.stx_ctime),
        btime: (real.stx_mask & STATX_BTIME != 0).then(|| time(real.stx_btime)),
        attributes: 0,
        mount: real.stx_mnt_id,
    })
}

fn stat_of(target: &Target) -> Result<Stat, Errno> {
    match target {
        Target::Place(place) => place.stat(),
        Target::Descriptor(path) => stat_descriptor(path),
    }
}

pub(super) fn stat(caller: &Caller<'_>, dir: i32, path: u64, buffer: u64, flags: i32) -> Outcome {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    let stat = stat_of(&caller.find_at(dir, path, flags)?)?;
    caller.write(buffer, &stat_bytes(&stat)).map(|()| DONE)
}

pub(super) fn fstat(caller: &Caller<'_>, fd: i32, buffer: u64) -> Outcome {
    let stat = stat_of(&caller.descriptor(fd)?)?;
    caller.write(buffer, &stat_bytes(&stat)).map(|()| DONE)
}

pub(super) fn statx(caller: &Caller<'_>, dir: i32, path: u64, flags: i32, mask: u32, buffer: u64) -> Outcome {
    let sync = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
    let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH | sync;
    if mask & STATX_RESERVED != 0 || flags & sync == sync || flags & !known != 0 {
        return Err(Errno::INVAL);
    }
    let stat = stat_of(&caller.find_at(dir, path, flags)?)?;
    caller.write(buffer, &statx_bytes(&stat)).map(|()| DONE)
}

pub(super) fn statfs(caller: &Caller<'_>, path: u64, buffer: u64) -> Outcome {
    let path = caller.memory.read_path(path)?;
    statfs_target(caller, &caller.find(CWD, &path, true)?, buffer)
}

pub(super) fn fstatfs(caller: &Caller<'_>, fd: i32, buffer: u64) -> Outcome {
    statfs_target(caller, &caller.descriptor(fd)?, buffer)
}

fn statfs_target(caller: &Caller<'_>, target: &Target, buffer: u64) -> Outcome {
    let status = match target {
        Target::Place(place) => place.statfs()?,
        Target::Descriptor(path) => rustix::fs::statfs(path)?,
    };
    caller.write(buffer, &statfs_bytes(&status)).map(|()| DONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        mem::{offset_of, size_of},
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<libc::stat>(), 144);
        assert_eq!(size_of::<libc::statx>(), 256);
        assert_eq!(size_of::<libc::statfs>(), 120);
        assert_eq!(offset_of!(libc::stat, st_nlink), 16);
        assert_eq!(offset_of!(libc::stat, st_mode), 24);
        assert_eq!(offset_of!(libc::stat, st_rdev), 40);
        assert_eq!(offset_of!(libc::stat, st_blksize), 56);
        assert_eq!(offset_of!(libc::stat, st_ctime), 104);
        assert_eq!(offset_of!(libc::statx, stx_attributes), 8);
        assert_eq!(offset_of!(libc::statx, stx_mode), 28);
        assert_eq!(offset_of!(libc::statx, stx_attributes_mask), 56);
        assert_eq!(offset_of!(libc::statx, stx_btime), 80);
        assert_eq!(offset_of!(libc::statx, stx_rdev_major), 128);
        assert_eq!(offset_of!(libc::statx, stx_mnt_id), 144);
        assert_eq!(offset_of!(libc::statfs, f_namelen), 64);
        assert_eq!(offset_of!(libc::statfs, f_frsize), 72);
    }

    #[test]
    fn a_real_file_is_shown_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "text").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let (stat, real) = (stat_descriptor(&path).unwrap(), std::fs::metadata(&path).unwrap());
        assert_eq!((stat.dev, stat.ino, stat.mode), (real.dev(), real.ino(), real.mode()));
        assert_eq!((stat.uid, stat.size, stat.nlink), (0, 4, 1));
        assert_eq!(stat.mtime, (real.mtime(), real.mtime_nsec()));
        let bytes = stat_bytes(&stat);
        assert_eq!(bytes[24..28], 0o100_640_u32.to_ne_bytes());
        assert_eq!(bytes[88..96], real.mtime().to_ne_bytes());
        let bytes = statx_bytes(&stat);
        assert_eq!(bytes[28..30], 0o100_640_u16.to_ne_bytes());
        assert_eq!(bytes[112..120], real.mtime().to_ne_bytes());
        assert_eq!(bytes[140..144], minor(real.dev()).to_ne_bytes());
    }
}
