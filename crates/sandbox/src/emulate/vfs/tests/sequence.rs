//! Operations and how they are chosen.

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// open(2) with these flags and this mode; then what is written, or everything is read.
    Open {
        path: String,
        flags: u32,
        mode: u32,
        write: Option<Vec<u8>>,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Rmdir {
        path: String,
    },
    Unlink {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        flags: u32,
    },
    Link {
        from: String,
        to: String,
    },
    Symlink {
        target: String,
        path: String,
    },
    Mknod {
        path: String,
        mode: u32,
        dev: (u32, u32),
    },
    Chmod {
        path: String,
        mode: u32,
    },
    Chown {
        path: String,
        uid: u32,
        gid: u32,
        follow: bool,
    },
    Truncate {
        path: String,
        length: u64,
    },
    SetTimes {
        path: String,
        mtime: i64,
    },
    SetXattr {
        path: String,
        name: &'static str,
        value: Vec<u8>,
        flags: u32,
    },
    RemoveXattr {
        path: String,
        name: &'static str,
    },
    Access {
        path: String,
        mode: u32,
    },
    Stat {
        path: String,
    },
    List {
        path: String,
    },
}

/// A small generator: the same numbers for the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xdead_beef)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    fn name(&mut self) -> &'static str {
        self.of(&["a", "b", "c", "d", "e"])
    }

    pub(super) fn path(&mut self) -> String {
        let depth = self.of(&[1, 1, 2, 2, 2, 3, 3]);
        let mut path = String::new();
        for _ in 0..depth {
            path.push('/');
            path.push_str(self.name());
        }
        match self.below(60) {
            0 => path.push('/'),
            1 => path.push_str("/.."),
            2 => path = format!("/..{path}"),
            3 => path.push_str("/."),
            4 => path = "/".into(),
            _ => {}
        }
        path
    }

    fn mode(&mut self) -> u32 {
        self.of(&[0o644, 0o600, 0o755, 0o4755, 0o2755, 0o6711, 0o000, 0o777, 0o1777, 0o444, 0o040, 0o2770, 0o2644])
    }

    fn id(&mut self) -> u32 {
        self.of(&[0, 0, 33, 33, 1000, 65_534, u32::MAX])
    }
}

/// A capability set as setcap(8) writes it.
pub(super) const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub(super) const XATTRS: [&str; 4] = ["user.one", "user.two", "security.capability", "trusted.three"];

fn open(random: &mut Random) -> Op {
    const WRITE: u32 = 1;
    const READ_WRITE: u32 = 2;
    const CREATE: u32 = 0o100;
    const EXCLUSIVE: u32 = 0o200;
    const TRUNCATE: u32 = 0o1000;
    const APPEND: u32 = 0o2000;
    let flags = random.of(&[
        0,
        WRITE | CREATE,
        WRITE | CREATE | TRUNCATE,
        WRITE | CREATE | EXCLUSIVE,
        WRITE | APPEND,
        READ_WRITE,
        READ_WRITE | TRUNCATE,
        WRITE | CREATE | APPEND,
    ]);
    let write = (flags & 3 != 0 && random.below(4) > 0).then(|| {
        let length = random.of(&[1, 7, 100, 5000]);
        (0..length).map(|_| b'a' + u8::try_from(random.below(26)).unwrap()).collect()
    });
    Op::Open { path: random.path(), flags, mode: random.mode(), write }
}

pub(super) fn op(random: &mut Random) -> Op {
    match random.below(100) {
        0..18 => open(random),
        18..27 => Op::Mkdir { path: random.path(), mode: random.mode() },
        27..33 => Op::Rmdir { path: random.path() },
        33..42 => Op::Unlink { path: random.path() },
        42..58 => {
            let flags = random.of(&[0, 0, 0, 0, 0, 1, 2, 2]);
            Op::Rename { from: random.path(), to: random.path(), flags }
        }
        58..64 => Op::Link { from: random.path(), to: random.path() },
        64..69 => {
            let target = random.of(&["a", "../b", "/c", "/a/b", "missing", "d/e", "./././b", "/"]);
            Op::Symlink { target: target.into(), path: random.path() }
        }
        69..73 => {
            let (kind, dev) =
                random.of(&[(0o010_000, (0, 0)), (0o020_000, (1, 3)), (0o060_000, (7, 1)), (0o140_000, (0, 0))]);
            Op::Mknod { path: random.path(), mode: kind | random.of(&[0o600, 0o644, 0o666]), dev }
        }
        73..78 => Op::Chmod { path: random.path(), mode: random.mode() },
        78..84 => Op::Chown { path: random.path(), uid: random.id(), gid: random.id(), follow: random.below(3) > 0 },
        84..86 => Op::Truncate { path: random.path(), length: random.of(&[0, 3, 9000]) },
        86..88 => Op::SetTimes { path: random.path(), mtime: super::OLD + random.below(1000) as i64 },
        88..91 => {
            let name = random.of(&XATTRS);
            let value = if name == "security.capability" { CAPABILITY.to_vec() } else { name.as_bytes().to_vec() };
            Op::SetXattr { path: random.path(), name, value, flags: random.of(&[0, 0, 1, 2]) }
        }
        91..93 => Op::RemoveXattr { path: random.path(), name: random.of(&XATTRS) },
        93..96 => Op::Access { path: random.path(), mode: random.of(&[0, 1, 2, 4, 6]) },
        96..98 => Op::Stat { path: random.path() },
        _ => Op::List { path: random.path() },
    }
}

/// What a lower layer is made of.
pub(super) fn layer(random: &mut Random) -> Vec<Op> {
    let mut ops = Vec::new();
    for _ in 0..14 {
        let path = random.path();
        ops.push(match random.below(10) {
            0..5 => Op::Mkdir { path, mode: random.of(&[0o755, 0o700, 0o1777, 0o2775, 0o777]) },
            5..8 => Op::Open { path, flags: 0o301, mode: random.mode(), write: Some(b"below".to_vec()) },
            8 => Op::Symlink { target: random.of(&["a", "../b", "/c"]).into(), path },
            _ => Op::Mknod { path, mode: random.of(&[0o010_644, 0o020_666]), dev: (1, 3) },
        });
    }
    for _ in 0..3 {
        ops.push(Op::Chown { path: random.path(), uid: random.id(), gid: random.id(), follow: false });
        ops.push(Op::Chmod { path: random.path(), mode: random.mode() });
        let name = random.of(&["user.one", "security.capability"]);
        let value = if name == "user.one" { b"lower".to_vec() } else { CAPABILITY.to_vec() };
        ops.push(Op::SetXattr { path: random.path(), name, value, flags: 0 });
    }
    // After the owners: in a plain directory, that of a link or pipe is recorded by name.
    ops.extend((0..3).map(|_| Op::Link { from: random.path(), to: random.path() }));
    // Deepest first, so that no directory is touched again.
    let mut paths = Vec::new();
    for one in ["a", "b", "c", "d", "e"] {
        for two in ["a", "b", "c", "d", "e"] {
            paths.extend(["a", "b", "c", "d", "e"].map(|three| format!("/{one}/{two}/{three}")));
        }
    }
    for one in ["a", "b", "c", "d", "e"] {
        paths.extend(["a", "b", "c", "d", "e"].map(|two| format!("/{one}/{two}")));
    }
    paths.extend(["/a", "/b", "/c", "/d", "/e", "/"].map(str::to_owned));
    ops.extend(
        paths.into_iter().enumerate().map(|(index, path)| Op::SetTimes { path, mtime: super::OLD + index as i64 }),
    );
    ops
}

/// Paths of a layer that become whiteouts, and directories that become opaque.
pub(super) fn marks(random: &mut Random) -> (Vec<String>, Vec<String>) {
    let whiteouts = (0..random.below(3)).map(|_| random.path()).filter(|path| !path.contains("..")).collect();
    let opaque = (0..random.below(3)).map(|_| random.path()).filter(|path| !path.contains("..")).collect();
    (whiteouts, opaque)
}
