//! The table of environments.

/// A row.
pub(crate) struct Row {
    /// Its number, and a letter where there are several of one number.
    pub(crate) label: &'static str,
    /// What the environment is.
    pub(crate) name: &'static str,
    /// Where the builds are done.
    pub(crate) place: Place,
    /// Further flags of each build.
    pub(crate) flags: &'static [&'static str],
}

/// Where builds are done.
pub(crate) enum Place {
    /// On this machine, by the user who has subordinate ids.
    Host,
    /// On this machine, by a user without.
    HostWithoutIds,
    /// On this machine, in a user namespace that may have none below it.
    HostWithoutNamespaces,
    /// On this machine, in a file system of this type.
    HostOn(&'static str),
    /// In a container of Docker.
    Docker {
        /// What is in it.
        image: Outer,
        /// Where is written.
        scratch: Scratch,
        /// Further options of `docker run`.
        options: &'static [&'static [&'static str]],
    },
    /// In a container of Apptainer.
    Apptainer,
    /// In a RUN step of rbuild.
    Step,
}

/// The image of an outer container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outer {
    /// Users, groups, CA certificates, a shell.
    Usual,
    /// Nothing but busybox.
    Busybox,
    /// rbuild's own.
    Rbuild,
}

/// Where the driver and the stores of a container are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scratch {
    /// `/tmp` in the container's own layer.
    Container,
    /// Where rbuild's own image has its store.
    Store,
    /// A directory of the machine, as a volume.
    Volume,
}

/// What HTCondor's docker universe passes; what Kubernetes' restricted standard and OpenShift ask for is alike.
const CONFINED: &[&str] = &["--cap-drop=ALL", "--cap-add=SYS_PTRACE", "--security-opt=no-new-privileges", "--init"];

/// All rows. What the first builds is what all others must build.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row("1", "host, user with subordinate ids", Place::Host),
    row("2", "host, user without subordinate ids", Place::HostWithoutIds),
    row("3", "host, user namespaces off", Place::HostWithoutNamespaces),
    row("4", "docker run, root", usual(Scratch::Container, &[])),
    row("5", "docker run --user 1000", usual(Scratch::Container, &[&["--user=1000"]])),
    row("6", "docker run as HTCondor does", usual(Scratch::Volume, &[CONFINED, &["--user=1000:1000"]])),
    row("7", "as 6, root file system read-only", usual(Scratch::Volume, &[CONFINED, &["--user=1000:1000", "--read-only", "--tmpfs=/tmp"]])),
    row("8", "docker run --user 1000, no seccomp", usual(Scratch::Volume, &[&["--user=1000", "--security-opt=seccomp=unconfined"]])),
    row("9", "as 6, OpenShift's user", usual(Scratch::Volume, &[CONFINED, &["--user=1000650000:0"]])),
    row("10", "apptainer exec, user", Place::Apptainer),
    row("11", "docker run, nothing but busybox", Place::Docker { image: Outer::Busybox, scratch: Scratch::Container, options: &[] }),
    row("12a", "RUN of rbuild", Place::Step),
    Row { label: "12b", name: "RUN of rbuild, ptrace in ptrace", place: Place::Step, flags: &["--isolation=ptrace"] },
    row("13a", "host, store where no overlay can be", Place::HostOn("overlay")),
    row("13b", "host, store on tmpfs", Place::HostOn("tmpfs")),
    row("13c", "host, store without user xattrs", Place::HostOn("ramfs")),
    row("14", "docker run, root in rbuild's own image", Place::Docker { image: Outer::Rbuild, scratch: Scratch::Store, options: &[] }),
    row("15", "docker run, root, CRI-O's capabilities", usual(Scratch::Container, &[&["--cap-drop=SYS_CHROOT", "--cap-drop=MKNOD", "--cap-drop=SETFCAP"]])),
];

const fn row(label: &'static str, name: &'static str, place: Place) -> Row {
    Row { label, name, place, flags: &[] }
}

const fn usual(scratch: Scratch, options: &'static [&'static [&'static str]]) -> Place {
    Place::Docker { image: Outer::Usual, scratch, options }
}

impl Row {
    /// Whether a word names it: its label, or the number in that.
    pub(crate) fn is(&self, word: &str) -> bool {
        self.label == word || self.label.trim_end_matches(|letter: char| letter.is_ascii_lowercase()) == word
    }
}
