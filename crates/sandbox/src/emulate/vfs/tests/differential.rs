//! Random sequences of operations on an overlay of ours, run by an ordinary user, and on one of the kernel's, run by
//! root: every result, the tree that is seen and the upper directory must be equal.

use super::{
    super::{FileSystem, Namespace},
    Outcome, Subject, brief,
    ours::Ours,
    sequence::{self, Op, Random},
    theirs::Theirs,
    time,
};
use crate::root::{FileKind, Ownership, Root, Visit};
use rustix::{
    fs::{FileType, Mode, OFlags, XattrFlags},
    io::Errno,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

/// An ordinary user of no account.
pub(super) const USER: u32 = 61_235;
const LAYERS: usize = 2;

/// Runs something in a thread, whose ids and root are its own.
pub(super) fn apart<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(act).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

pub(super) fn become_user() {
    set_thread_groups(&[]).unwrap();
    let (uid, gid) = (rustix::process::Uid::from_raw(USER), rustix::process::Gid::from_raw(USER));
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

pub(super) fn open(path: &Path) -> std::os::fd::OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(super) fn on_host(path: &Path) -> Ours {
    let namespace = Namespace::new(FileSystem::Host { root: open(path), path: path.into(), is_proc: false }).unwrap();
    Ours { namespace }
}

pub(super) fn run_all(subject: &mut dyn Subject, ops: &[(u32, Op)]) -> Vec<Outcome> {
    ops.iter().map(|(who, op)| subject.run(op, *who)).collect()
}

fn mark(layer: &Path, (whiteouts, opaque): &(Vec<String>, Vec<String>)) {
    let inside = |path: &String| layer.join(path.trim_matches('/'));
    for path in whiteouts {
        let _ = rustix::fs::mknodat(rustix::fs::CWD, inside(path), FileType::CharacterDevice, Mode::empty(), 0);
    }
    for path in opaque {
        if fs::symlink_metadata(inside(path)).is_ok_and(|metadata| metadata.is_dir()) {
            let none = XattrFlags::empty();
            rustix::fs::setxattr(inside(path), "user.overlay.opaque", b"y", none).unwrap();
        }
    }
}

/// What an upper directory holds, owners as recorded.
fn upper(path: &Path, ownership: Ownership) -> Vec<String> {
    let root = Root::open(path, ownership).unwrap();
    let own = |id: u32| if ownership == Ownership::Recorded && id == USER { 0 } else { id };
    let mut links = HashMap::new();
    let mut lines = Vec::new();
    let describe = |found: &crate::root::Found, links: &mut HashMap<(u64, u64), usize>| {
        let metadata = &found.metadata;
        let mut line = found.path.display().to_string();
        if metadata.is_whiteout() {
            return line + " whiteout";
        }
        line += &format!(" {:?} {:o} {}:{}", metadata.kind, metadata.mode, own(metadata.uid), own(metadata.gid));
        line += &format!(" mtime {}", time(metadata.mtime.seconds, i64::from(metadata.mtime.nanoseconds)));
        match metadata.kind {
            FileKind::File => {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut found.dir.open_file(&found.name).unwrap(), &mut content).unwrap();
                line += &brief(&content);
            }
            FileKind::Directory if found.dir.is_opaque(&found.name).unwrap() => line += " opaque",
            FileKind::Symlink => line += &format!(" -> {}", found.read_link().unwrap().display()),
            FileKind::CharDevice | FileKind::BlockDevice => line += &format!(" dev {:?}", metadata.device),
            _ => {}
        }
        if metadata.kind != FileKind::Directory {
            line += &format!(" nlink {}", metadata.links);
            if metadata.links > 1 {
                let next = links.len();
                line += &format!(" file {}", links.entry(metadata.id).or_insert(next));
            }
        }
        line + &format!(" {:?}", found.dir.xattrs(&found.name).unwrap())
    };
    for visit in root.walk("").unwrap() {
        if let Visit::Enter(found) = visit.unwrap() {
            lines.push(describe(&found, &mut links));
        }
    }
    lines
}

struct Sides {
    theirs: PathBuf,
    ours: PathBuf,
}

fn compare(seed: u64, what: &str, theirs: &[String], ours: &[String]) -> bool {
    if theirs == ours {
        return true;
    }
    println!("seed {seed}: {what} differs");
    for line in theirs.iter().filter(|line| !ours.contains(line)) {
        println!("  kernel {line}");
    }
    for line in ours.iter().filter(|line| !theirs.contains(line)) {
        println!("  ours   {line}");
    }
    false
}

/// Runs one sequence on both sides and says whether they agree.
fn agree(seed: u64, length: usize) -> bool {
    let base = tempfile::Builder::new().prefix("rbuild-vfs-").tempdir().unwrap();
    fs::set_permissions(base.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let sides = Sides { theirs: base.path().join("theirs"), ours: base.path().join("ours") };
    let mut random = Random::new(seed);
    for (side, owner) in [(&sides.theirs, 0), (&sides.ours, USER)] {
        for dir in ["", "lower0", "lower1", "upper", "work", "merged"] {
            fs::create_dir(side.join(dir)).unwrap();
            chown(side.join(dir), Some(owner), Some(owner)).unwrap();
        }
    }
    let lower =
        |side: &Path| -> Vec<PathBuf> { (0..LAYERS).map(|number| side.join(format!("lower{number}"))).collect() };
    let mut good = true;
    let mut all_marks = Vec::new();
    for number in 0..LAYERS {
        let ops: Vec<_> = sequence::layer(&mut random).into_iter().map(|op| (0, op)).collect();
        let marks = sequence::marks(&mut random);
        let (one, other) = (&lower(&sides.theirs)[number], &lower(&sides.ours)[number]);
        let theirs = apart(|| {
            let mut subject = Theirs::enter(one, None);
            (run_all(&mut subject, &ops), subject.dump())
        });
        let ours = apart(|| {
            become_user();
            let mut subject = on_host(other);
            (run_all(&mut subject, &ops), subject.dump())
        });
        good &= same_outcomes(seed, &ops, &theirs.0, &ours.0);
        good &= compare(seed, "a plain directory", &theirs.1, &ours.1);
        all_marks.push(marks);
    }
    // The kernel expects whiteouts in merged directories alone.
    for side in [&sides.theirs, &sides.ours] {
        let lower = lower(side);
        let (mut whiteouts, mut opaque) = all_marks[0].clone();
        whiteouts.retain(|path| fs::symlink_metadata(lower[1].join(path.trim_matches('/'))).is_ok());
        if whiteouts.is_empty() {
            mark(&lower[0], &(Vec::new(), std::mem::take(&mut opaque)));
        }
        mark(&lower[0], &(whiteouts, Vec::new()));
    }
    let ops: Vec<_> =
        (0..length).map(|_| (if random.below(8) == 0 { 33 } else { 0 }, sequence::op(&mut random))).collect();
    let theirs = apart(|| {
        let side = &sides.theirs;
        let layers = (lower(side), side.join("upper"), side.join("work"));
        let mut subject = Theirs::enter(&side.join("merged"), Some((&layers.0, &layers.1, &layers.2)));
        (run_all(&mut subject, &ops), subject.dump())
    });
    if std::env::var_os("RBUILD_VFS_TRACE").is_some() {
        println!("{all_marks:?}");
        for layer in lower(&sides.ours) {
            upper(&layer, Ownership::Recorded).iter().for_each(|line| println!("  lower {line}"));
        }
        for ((who, op), outcome) in ops.iter().zip(&theirs.0).filter(|(_, outcome)| outcome.is_ok()) {
            println!("  {who} {op:?} {outcome:?}");
        }
    }
    let ours = apart(|| {
        become_user();
        let side = &sides.ours;
        let overlay = || {
            let lower = lower(side).iter().map(|path| open(path)).collect();
            FileSystem::Overlay { lower, upper: Some(open(&side.join("upper"))) }
        };
        let mut subject = Ours { namespace: Namespace::new(overlay()).unwrap() };
        let outcomes = run_all(&mut subject, &ops);
        let dump = subject.dump();
        // What is remembered must be what is on disk.
        let again = Ours { namespace: Namespace::new(overlay()).unwrap() }.dump();
        (outcomes, dump, again)
    });
    good &= same_outcomes(seed, &ops, &theirs.0, &ours.0);
    good &= compare(seed, "the tree", &theirs.1, &ours.1);
    good &= compare(seed, "the tree after another mount", &theirs.1, &ours.2);
    let theirs = upper(&sides.theirs.join("upper"), Ownership::Real);
    let ours = upper(&sides.ours.join("upper"), Ownership::Recorded);
    good && compare(seed, "the upper directory", &theirs, &ours)
}

fn same_outcomes(seed: u64, ops: &[(u32, Op)], theirs: &[Outcome], ours: &[Outcome]) -> bool {
    for (index, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        // A pipe that its owner may not open cannot be opened by this user, who is the owner really.
        let opened = matches!(theirs, Err(Errno::NXIO)) || theirs.as_deref() == Ok("special");
        let pipe = opened && matches!((&ops[index].1, ours), (Op::Open { .. }, Err(Errno::ACCESS)));
        if theirs != ours && !pipe {
            println!("seed {seed}, operation {index}: {:?}\n  kernel {theirs:?}\n  ours   {ours:?}", ops[index]);
            return false;
        }
    }
    true
}

#[test]
fn overlays_are_as_the_kernels() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: the kernel's overlay is mounted by root");
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let count = number("RBUILD_VFS_SEQUENCES").unwrap_or(300);
    let first = number("RBUILD_VFS_SEED").unwrap_or(0);
    let mut bad = 0;
    for seed in first..first + count {
        if !agree(seed, 60) {
            bad += 1;
            assert!(bad < 8, "too many sequences differ");
        }
    }
    assert_eq!(bad, 0, "sequences differ");
}
