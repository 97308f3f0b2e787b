//! What `/proc/PID/status` tells of a thread (proc_pid_status(5)).

use std::fs;

/// The file of one thread, as it was when it was read.
pub(crate) struct TaskStatus(String);

impl TaskStatus {
    /// That of a thread, by its id in `/proc`; `None` where there is none.
    pub(crate) fn of(tid: u32) -> Option<Self> {
        fs::read_to_string(format!("/proc/{tid}/status")).ok().map(Self)
    }

    /// That of this process.
    pub(crate) fn own() -> Option<Self> {
        fs::read_to_string("/proc/self/status").ok().map(Self)
    }

    /// What a line says: `field("Tgid")`.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// A line that is one number.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.field(name)?.parse().ok()
    }

    /// A line that is several numbers.
    pub(crate) fn numbers(&self, name: &str) -> Option<Vec<u32>> {
        self.field(name)?.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
    }

    /// A line that is a set of bits: signals, capabilities.
    pub(crate) fn bits(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.field(name)?, 16).ok()
    }

    /// The umask(2).
    pub(crate) fn umask(&self) -> Option<u32> {
        u32::from_str_radix(self.field("Umask")?, 8).ok()
    }
}

#[cfg(test)]
impl From<&str> for TaskStatus {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let status = TaskStatus::from("Name:\tx\nUmask:\t0027\nPid:\t7\nUid:\t1\t2\t3\t4\nSigPnd:\t0000000000000100\n");
        assert_eq!(status.field("Name"), Some("x"));
        assert_eq!(status.field("Nam"), None);
        assert_eq!((status.number("Pid"), status.number("Uid"), status.number("Name")), (Some(7), None, None));
        assert_eq!(status.numbers("Uid"), Some(vec![1, 2, 3, 4]));
        assert_eq!((status.bits("SigPnd"), status.umask()), (Some(0x100), Some(0o27)));
        assert_eq!(TaskStatus::own().and_then(|own| own.number("Pid")), Some(std::process::id()));
        assert!(TaskStatus::of(u32::MAX).is_none());
    }
}
