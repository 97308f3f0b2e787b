//! Random sequences of commands that change who owns files, in one build: by root, by other users, by set-user-id
//! programs, several at the same time. What every command says is in the log; what it leaves is listed by the step itself, by
//! tar, by a later step, and is in the layer.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Commands of one sequence.
const COMMANDS: usize = 16;
/// Sequences that run at the same time.
const AT_ONCE: usize = 4;

/// splitmix64, and whether devices are made.
struct Random(u64, bool);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[usize::try_from(self.next() % choices.len() as u64).unwrap()]
    }

    fn path(&mut self) -> &'static str {
        self.of(&["a", "b", "c", "d", "d/e", "d/f", "g", "link", "program", "d/program"])
    }

    fn owner(&mut self) -> &'static str {
        self.of(&["0", "33", "33:33", "0:33", "65534:65534", "1234:5678", ":33", "60000"])
    }

    fn mode(&mut self) -> &'static str {
        self.of(&["644", "600", "0", "755", "4755", "2755", "6711", "1777", "2770", "444", "u+s", "g-w", "o+t", "777"])
    }

    /// A command that anybody may try.
    fn command(&mut self) -> String {
        let (path, other) = (self.path(), self.path());
        match self.next() % 24 {
            0..=3 => format!("chown {} {path}", self.owner()),
            4 => format!("chown -h {} {path}", self.owner()),
            5 => format!("chown -R {} {path}", self.owner()),
            6..=8 => format!("chmod {} {path}", self.mode()),
            9 | 10 => format!("mv -f {path} {other}"),
            11 | 12 => format!("ln {path} {other}"),
            13 => format!("ln -s {path} {other}"),
            14 => format!("rm -rf {path}"),
            15 => format!("mkdir -m {} {path}", self.of(&["755", "700", "2775", "1777"])),
            16 => format!("cp -p {path} {other}"),
            17 => format!("cp -a {path} {other}"),
            18 => format!("mkfifo -m 640 {path}"),
            19 if self.1 => format!("mknod {path} c 1 3"),
            19 => format!("mkfifo {path}"),
            20 => format!("sh -c \"test -d {path} || md5sum {path}\""),
            21 => format!("touch {path}"),
            22 => format!("./program {} {path}", self.of(&["touch", "mkdir", "chmod 640", "rm -f"])),
            _ => format!("./d/program {}", self.of(&["id -u", "id -g", "id"])),
        }
    }

    fn line(&mut self) -> String {
        let command = self.command();
        match self.next() % 4 {
            0 => format!("r su -s /bin/sh {} -c '{command}'", self.of(&["www-data", "nobody"])),
            _ => format!("r {command}"),
        }
    }
}

/// What each sequence begins with.
const BEGIN: &str = r#"mkdir d
for file in a b c d/e d/f; do echo "$file" >$file; done
chown 33:33 b; chown 65534 c; chmod 600 c
ln -s a link
cp /bin/busybox program; cp /bin/busybox d/program; chown 33:33 program; chmod 4755 program; chmod 2755 d/program
chmod 777 .
"#;

/// `r` runs a command in some seconds at most, and sorts what it says, since the order of names in a directory is the file
/// system's; `list` shows the tree around it, without times and sizes of directories.
const FUNCTIONS: &str = r#"r() { said=$(timeout 9 "$@" 2>&1 </dev/null); echo "$? $* | $(echo "$said" | sort)"; }
list() {
  find . | sort | while read -r file; do
    if [ -d "$file" ] && ! [ -L "$file" ]; then stat -c '%n|%F|%a|%u:%g' "$file"; else stat -c '%n|%F|%a|%u:%g|%h|%s|%t,%T' "$file"; fi
  done
}
tarred() { find . ! -type d | sort >"$1"; tar -cf - -T "$1" 2>&1 | tar -tvf - | sed -E 's/ [0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]+ / /' | sort; }
"#;

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\nshared:x:1234:www-data\n";

/// Writes a build of so many sequences as a case of `tests/fixtures/cases`.
pub(crate) fn write(dir: &Path, seed: u64, sequences: usize, devices: bool) -> std::io::Result<()> {
    let mut random = Random(seed, devices);
    let mut script = format!("{FUNCTIONS}mkdir -p /t /out\n");
    for sequence in 0..sequences {
        let lines: Vec<String> = (0..COMMANDS).map(|_| random.line()).collect();
        let _ = write!(
            script,
            "(mkdir /t/{sequence} && cd /t/{sequence}\n{BEGIN}{}\nlist; tarred /out/{sequence}.files\nr su -s /bin/sh www-data -c 'find . | sort; md5sum a c d/e'\n) >/out/{sequence} 2>&1 &\n",
            lines.join("\n")
        );
        if sequence % AT_ONCE == AT_ONCE - 1 {
            script.push_str("wait\n");
        }
    }
    script
        .push_str("wait\nrm -f /out/*.files; for out in $(ls /out | sort -n); do echo \"== $out\"; cat \"/out/$out\"; done\nrm -rf /out\n");
    fs::create_dir_all(dir)?;
    fs::write(dir.join("sequences.sh"), script)?;
    fs::write(dir.join("list.sh"), format!("{FUNCTIONS}cd /t && list && tarred /files; rm /files\n"))?;
    fs::write(dir.join("passwd"), PASSWD)?;
    fs::write(dir.join("group"), GROUP)?;
    fs::write(
        dir.join("Dockerfile"),
        "FROM busybox\nCOPY passwd group /etc/\nCOPY *.sh /\nRUN sh /sequences.sh\nRUN sh /list.sh\n",
    )?;
    fs::write(dir.join("case.json"), "{\"args\":[]}")
}
