//! The programs and flags that are known to want more than a step can give.

use rbuild_parser::{Run, Security, Stage};

use super::commands::Command;
use super::{Confinement, Place, Trouble, User};

/// Programs that will not work under some circumstances.
pub(super) struct Rule {
    /// Their names.
    pub(super) programs: &'static [&'static str],
    /// The circumstances.
    pub(super) when: fn(&Command, Place<'_>, User) -> bool,
    /// What will happen.
    pub(super) what: &'static str,
    /// What to do.
    pub(super) remedy: &'static str,
}

fn emulated(place: Place<'_>) -> bool {
    place.confinement == Confinement::Emulated
}

fn has(command: &Command, wanted: fn(&str) -> bool) -> bool {
    command.args().iter().any(|argument| wanted(argument))
}

const NOT_IN_A_BUILD: &str = "leave it to where the image is run; it cannot be part of a build with Docker either";
const NOT_IN_A_BUILD_HERE: &str = "leave it to where the image is run";
const BETTER_RUNG: &str = "build where user namespaces are allowed (`rbuild doctor` says what is in the way)";

/// What is known.
pub(super) const PROGRAMS: &[Rule] = &[
    Rule {
        programs: &["mount", "umount", "losetup", "swapon", "swapoff"],
        // Without arguments it lists what is mounted.
        when: |command, _, _| command.program() != "mount" || !command.args().is_empty(),
        what: "needs to mount for real, which steps may not, as with Docker",
        remedy: "use RUN --mount=type=bind, cache or tmpfs",
    },
    Rule {
        programs: &["systemctl", "service", "journalctl", "loginctl", "initctl", "telinit"],
        when: |command, _, _| {
            // Links in /etc need no manager.
            let offline = ["enable", "disable", "mask", "unmask", "preset", "preset-all", "set-default", "is-enabled"];
            let verb = command.args().iter().find(|argument| !argument.starts_with('-'));
            let is_offline = verb.is_some_and(|verb| offline.contains(&verb.as_str()));
            command.program() != "systemctl" || !is_offline || has(command, |argument| argument == "--now")
        },
        what: "no service manager runs in a step, as with Docker",
        remedy: "start the program itself in the step, or leave it to where the image is run",
    },
    Rule {
        programs: &["docker", "podman", "buildah", "nerdctl", "ctr", "crictl", "kubectl", "dockerd", "containerd"],
        when: |command, _, _| !has(command, |argument| matches!(argument, "--version" | "-v" | "version" | "--help")),
        what: "no container engine is in reach of a step",
        remedy: "build the inner image with a rbuild of its own, or copy from it with COPY --from",
    },
    Rule {
        programs: &["modprobe", "insmod", "rmmod", "depmod", "kexec", "sysctl", "iptables", "ip6tables", "nft", "tc"],
        when: |command, _, _| match command.program() {
            "sysctl" => has(command, |argument| argument == "-w" || argument == "-p" || argument.contains('=')),
            "depmod" => false,
            _ => !has(command, |argument| matches!(argument, "--version" | "-V")),
        },
        what: "changes the kernel, which steps may not, as with Docker",
        remedy: NOT_IN_A_BUILD,
    },
    Rule {
        programs: &["unshare", "nsenter", "bwrap", "firejail", "apptainer", "singularity", "runc", "crun"],
        when: |command, _, _| !has(command, |argument| argument == "--version"),
        what: "makes namespaces, which Docker's seccomp profile forbids to steps",
        remedy: NOT_IN_A_BUILD,
    },
    Rule {
        programs: &["mkfs", "mkfs.ext4", "fdisk", "parted", "mdadm", "cryptsetup", "dmsetup", "lvcreate", "vgcreate"],
        when: |command, _, _| has(command, |argument| argument.starts_with("/dev/")),
        what: "there are no disks in a step",
        remedy: "work on a file instead",
    },
    Rule {
        programs: &["ping", "ping6"],
        when: |_, place, _| place.confinement != Confinement::Root && !place.may_ping,
        what: "may not send echo requests, since the network is that of the machine, whose root no step is",
        remedy: "ask with curl or getent, or let `sysctl net.ipv4.ping_group_range` have the group",
    },
    Rule {
        programs: &["arping", "tcpdump"],
        when: |_, place, _| place.confinement != Confinement::Root,
        what: "may not open raw sockets, since the network is that of the machine, whose root no step is",
        remedy: NOT_IN_A_BUILD_HERE,
    },
    Rule {
        programs: &["sudo", "su", "doas", "pkexec", "newuidmap", "newgidmap", "fusermount", "fusermount3"],
        when: |_, place, user| emulated(place) && user == User::Other,
        what: "does not become root: the set-user-id bit has no effect here",
        remedy: "change USER in the Dockerfile instead",
    },
    Rule {
        programs: &["strace", "ltrace", "gdb", "gdbserver", "rr", "perf", "proot"],
        when: |command, place, _| emulated(place) && !has(command, |argument| argument == "--version"),
        what: "cannot trace programs, since these are traced already",
        remedy: BETTER_RUNG,
    },
    Rule {
        programs: &["dpkg", "apt", "apt-get", "aptitude", "dnf", "yum", "microdnf"],
        when: |command, place, _| {
            emulated(place)
                && (command.args().windows(2).any(|pair| pair[0] == "--add-architecture" && pair[1] == "i386")
                    || has(command, |argument| argument.ends_with(":i386") || argument.ends_with(".i686")))
        },
        what: "installs programs of 32 bits, which do not run here",
        remedy: BETTER_RUNG,
    },
    Rule {
        programs: &["gcc", "g++", "cc", "c++", "clang", "clang++"],
        when: |command, place, _| emulated(place) && has(command, |argument| matches!(argument, "-m32" | "-mx32")),
        what: "makes a program of 32 bits; it is made, but does not run here",
        remedy: BETTER_RUNG,
    },
    Rule {
        programs: &["setarch", "linux32", "i386", "wine", "wine32", "steamcmd"],
        when: |command, place, _| {
            let is_setarch = command.program() == "setarch";
            let is_32 = !is_setarch || has(command, |argument| matches!(argument, "i386" | "i686" | "linux32"));
            emulated(place) && is_32
        },
        what: "runs programs of 32 bits, which do not run here",
        remedy: BETTER_RUNG,
    },
];

/// The machine's architecture, as platforms name it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What flags of the step, and of the FROM above it, let expect.
pub(super) fn of_flags(run: &Run, stage: &Stage) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    if run.security == Security::Insecure {
        troubles.push(Trouble {
            of: "--security=insecure".to_owned(),
            what: "is refused: nobody can grant more privileges than the build has".to_owned(),
            remedy: "leave the flag out".to_owned(),
        });
    }
    // A variable may be anything.
    let platform = stage.platform.as_deref().filter(|platform| !platform.contains('$'));
    let named = platform.and_then(|platform| platform.split('/').nth(1));
    if let (Some(platform), Some(architecture)) = (platform, named)
        && !is_native(architecture)
    {
        troubles.push(Trouble {
            of: format!("--platform={platform}"),
            what: "its programs are not for this machine".to_owned(),
            remedy: "register an emulator, as qemu-user-static does with binfmt_misc, or build on such a machine"
                .to_owned(),
        });
    }
    troubles
}

fn is_native(name: &str) -> bool {
    match architecture() {
        "amd64" => matches!(name, "amd64" | "x86_64" | "x86-64" | "386" | "i386"),
        "arm64" => matches!(name, "arm64" | "aarch64"),
        here => name == here,
    }
}
