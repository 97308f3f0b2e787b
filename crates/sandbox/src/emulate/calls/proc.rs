//! What `/proc` shows of tasks that is not real: links, mounts, ids.

use super::{Calls, caller::lock};
use crate::emulate::{
    Kernel,
    task::{Credentials, Task},
    vfs::{Namespace, Place, ProcLink, ProcLinks},
};
use std::{
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

/// `/proc` as one task sees it.
pub(crate) struct Links<'a> {
    pub(super) calls: &'a Calls,
    pub(super) kernel: &'a Kernel,
    pub(super) task: &'a Arc<Task>,
    pub(super) root: Place,
    pub(super) namespace: Arc<Namespace>,
}

impl<'a> Links<'a> {
    /// What readlink shows of a place: of one that cannot be reached, the path in its own namespace. The C library's
    /// loader wants it to be absolute.
    fn text(&self, place: &Place) -> Vec<u8> {
        let path = self.namespace.path_of(&self.root, place).or_else(|| self.namespace.own_path(place));
        path.unwrap_or_else(|| b"/ (deleted)".to_vec())
    }

    fn task(&self, id: u32) -> Option<Arc<Task>> {
        let tasks = self.kernel.tasks.read().unwrap_or_else(PoisonError::into_inner);
        let task = tasks.get(&id).or_else(|| tasks.values().find(|task| task.process.pid == id))?;
        self.task.sees(task).then(|| Arc::clone(task))
    }

    fn descriptor(&self, task: &Task, directory: &str, number: &[u8]) -> Option<ProcLink> {
        let number = std::str::from_utf8(number).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        let path = PathBuf::from(format!("/proc/{directory}/fd/{number}"));
        let real = std::fs::read_link(&path).ok()?.into_os_string().into_vec();
        let namespace = Arc::clone(&lock(&task.namespace));
        if let Ok(Some(place)) = namespace.place_of(&path) {
            let text = match self.namespace.path_of(&self.root, &place) {
                Some(text) => text,
                None => [b"/", real.rsplit(|byte| *byte == b'/').next().unwrap_or_default(), b" (deleted)"].concat(),
            };
            return Some(ProcLink::Place(place, text));
        }
        let object = rustix::fs::stat(&path).ok().and_then(|status| self.calls.objects.place(&status));
        Some(match object {
            Some(place) => ProcLink::Place(place, b"/".to_vec()),
            None => ProcLink::Descriptor(real),
        })
    }
}

/// A path of `/proc` that belongs to a task.
#[derive(Debug, PartialEq, Eq)]
struct OfTask<'a> {
    id: u32,
    /// The directory of the task: `12` or `12/task/13`.
    directory: &'a str,
    rest: &'a [u8],
}

fn parse(path: &[u8]) -> Option<OfTask<'_>> {
    let number = |part: &[u8]| -> Option<u32> {
        if part.first()?.is_ascii_digit() { std::str::from_utf8(part).ok()?.parse().ok() } else { None }
    };
    let mut parts = path.splitn(4, |byte| *byte == b'/');
    let first = parts.next()?;
    let id = number(first)?;
    let directory = |length: usize| std::str::from_utf8(path.get(..length)?).ok();
    let rest_from = |length: usize| path.get(length + 1..).unwrap_or_default();
    if parts.next() == Some(b"task")
        && let Some(thread) = parts.next()
        && let Some(id) = number(thread)
    {
        let length = first.len() + b"/task/".len() + thread.len();
        return Some(OfTask { id, directory: directory(length)?, rest: rest_from(length) });
    }
    Some(OfTask { id, directory: directory(first.len())?, rest: rest_from(first.len()) })
}

impl ProcLinks for Links<'_> {
    fn own(&self) -> (u32, u32) {
        (self.task.process.pid, self.task.tid)
    }

    fn visible(&self, id: u32) -> bool {
        self.task(id).is_some() || super::process::has_ended(id)
    }

    fn link(&self, path: &[u8]) -> Option<ProcLink> {
        let of = parse(path)?;
        let task = self.task(of.id)?;
        let place = match of.rest {
            b"exe" => lock(&task.process.exe).clone()?,
            b"cwd" => lock(&lock(&task.fs)).cwd.clone(),
            b"root" => lock(&lock(&task.fs)).root.clone(),
            other => return self.descriptor(&task, of.directory, other.strip_prefix(b"fd/")?),
        };
        let text = self.text(&place);
        Some(ProcLink::Place(place, text))
    }

    fn content(&self, path: &[u8]) -> Option<Vec<u8>> {
        if path == b"sys/kernel/hostname" {
            let mut name = lock(&lock(&self.task.hostname)).clone();
            name.push(b'\n');
            return Some(name);
        }
        let of = parse(path)?;
        let task = self.task(of.id)?;
        let mountinfo = || {
            let root = lock(&lock(&task.fs)).root.clone();
            let namespace = Arc::clone(&lock(&task.namespace));
            namespace.mountinfo(&root)
        };
        match of.rest {
            b"mountinfo" => Some(mountinfo()),
            b"mounts" => Some(mounts(&mountinfo())),
            b"uid_map" | b"gid_map" => Some(b"         0          0 4294967295\n".to_vec()),
            b"setgroups" => Some(b"allow\n".to_vec()),
            b"loginuid" => Some(b"4294967295".to_vec()),
            b"status" => {
                let real = std::fs::read(PathBuf::from("/proc").join(of.directory).join("status")).ok()?;
                let umask = lock(&lock(&task.fs)).umask;
                let credentials = lock(&task.credentials).clone();
                Some(status(&real, &credentials, umask))
            }
            _ => None,
        }
    }
}

/// `/proc/PID/mounts` from `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn mounts(mountinfo: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for line in mountinfo.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-").unwrap_or(fields.len());
        let field = |index: usize| fields.get(index).copied().unwrap_or(b"none");
        let (kind, source, of_system) = (field(separator + 1), field(separator + 2), field(separator + 3));
        let mut options: Vec<&[u8]> = field(5).split(|byte| *byte == b',').collect();
        let mut of_system = of_system.split(|byte| *byte == b',');
        // The file system's own state comes first, and makes the mount read-only, too.
        if of_system.next() == Some(b"ro")
            && let Some(first) = options.first_mut()
        {
            *first = b"ro";
        }
        options.extend(of_system);
        let parts = [source, b" ", field(4), b" ", kind, b" ", &options.join(&b','), b" 0 0\n"];
        all.extend(parts.concat());
    }
    all
}

/// The lines of `/proc/PID/status` that are emulated.
fn status(real: &[u8], it: &Credentials, umask: u32) -> Vec<u8> {
    let mut all = Vec::with_capacity(real.len() + 64);
    for line in real.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let four = |ids: [u32; 4]| ids.map(|id| id.to_string()).join("\t");
        let made = match name {
            b"Uid" => four(it.uid),
            b"Gid" => four(it.gid),
            b"Groups" => it.groups.iter().map(|gid| format!("{gid} ")).collect(),
            b"CapInh" => format!("{:016x}", it.inheritable),
            b"CapPrm" => format!("{:016x}", it.permitted),
            b"CapEff" => format!("{:016x}", it.effective),
            b"CapBnd" => format!("{:016x}", it.bounding),
            b"CapAmb" => format!("{:016x}", it.ambient),
            b"NoNewPrivs" => u8::from(it.no_new_privs).to_string(),
            b"TracerPid" => "0".into(),
            b"Umask" => format!("{umask:04o}"),
            _ => {
                all.extend_from_slice(line);
                continue;
            }
        };
        all.extend_from_slice(name);
        all.extend_from_slice(format!(":\t{made}\n").as_bytes());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_tasks() {
        let of = |path: &'static str| parse(path.as_bytes()).map(|of| (of.id, of.directory, of.rest));
        assert_eq!(of("12/exe"), Some((12, "12", &b"exe"[..])));
        assert_eq!(of("12/fd/3"), Some((12, "12", &b"fd/3"[..])));
        assert_eq!(of("12/task/13/root"), Some((13, "12/task/13", &b"root"[..])));
        assert_eq!(of("12/task/13/fd/4"), Some((13, "12/task/13", &b"fd/4"[..])));
        assert_eq!(of("12"), Some((12, "12", &b""[..])));
        assert_eq!(of("sys/kernel"), None);
    }

    #[test]
    fn mounts_are_made_of_mountinfo() {
        let info = b"22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=a,upperdir=b\n\
            23 22 0:21 / /sys ro,nosuid - sysfs sysfs rw\n24 22 0:21 / /x rw,nodev - tmpfs t ro,size=4k\n";
        let text = String::from_utf8(mounts(info)).unwrap();
        assert_eq!(
            text,
            "overlay / overlay rw,relatime,lowerdir=a,upperdir=b 0 0\nsysfs /sys sysfs ro,nosuid 0 0\n\
             t /x tmpfs ro,nodev,size=4k 0 0\n"
        );
    }

    #[test]
    fn status_shows_the_emulated_ids() {
        let real =
            b"Name:\tsh\nUmask:\t0077\nUid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t1 \nCapEff:\t00\nThreads:\t1\n";
        let mut it = Credentials::root();
        it.uid = [1, 2, 3, 4];
        it.groups = vec![5, 6];
        let text = String::from_utf8(status(real, &it, 0o22)).unwrap();
        assert_eq!(
            text,
            "Name:\tsh\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t0\t0\t0\t0\nGroups:\t5 6 \nCapEff:\t000001ffffffffff\n\
             Threads:\t1\n"
        );
    }
}
