//! Dockerfiles, contexts and flags over the whole grammar: valid ones, subtly invalid ones, ones that fail at run time.
//!
//! Made of proptest's strategies, so that a case that shows a difference is shrunk by its rules: instructions, flags and
//! patterns are taken away one by one, and each choice moves towards the plainest (the first of a list).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rbuild_testkit::tarball::{Tarball, gzip};

/// One generated build.
#[derive(Clone, Debug)]
pub(crate) struct Generated {
    /// Lines before the first FROM.
    head: Vec<String>,
    stages: Vec<Stage>,
    /// How the text is written down.
    ends: LineEnds,
    ignore: Vec<String>,
    flags: Vec<Vec<String>>,
    input: Option<&'static str>,
}

#[derive(Clone, Debug)]
struct Stage {
    from: String,
    instructions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnds {
    Unix,
    NoLast,
    Windows,
}

impl Generated {
    /// The Dockerfile.
    pub(crate) fn dockerfile(&self) -> String {
        let mut lines = self.head.clone();
        for stage in &self.stages {
            lines.push(stage.from.clone());
            lines.extend(stage.instructions.iter().cloned());
        }
        let text = lines.join("\n");
        match self.ends {
            LineEnds::Unix => text + "\n",
            LineEnds::NoLast => text,
            LineEnds::Windows => text.replace('\n', "\r\n") + "\r\n",
        }
    }

    /// Writes it as a case of `tests/fixtures/cases`.
    pub(crate) fn write(&self, dir: &Path) -> std::io::Result<()> {
        fs::create_dir_all(dir.join("d/sub"))?;
        fs::write(dir.join("Dockerfile"), self.dockerfile())?;
        for (name, content) in FILES {
            fs::write(dir.join(name), content)?;
        }
        fs::set_permissions(dir.join("run.sh"), fs::Permissions::from_mode(0o755))?;
        symlink("a.txt", dir.join("link"))?;
        let archive = Tarball::new().dir("t/", 0o750).file("t/one", 0o640, b"one\n").symlink("t/two", "one").finish();
        fs::write(dir.join("t.tar.gz"), gzip(&archive))?;
        if !self.ignore.is_empty() {
            fs::write(dir.join(".dockerignore"), self.ignore.join("\n") + "\n")?;
        }
        let args: Vec<&String> = self.flags.iter().flatten().collect();
        let mut spec = serde_json::json!({ "args": args });
        if let Some(input) = self.input {
            spec["stdin"] = input.into();
        }
        fs::write(dir.join("case.json"), spec.to_string())
    }
}

/// Every context has these, a link and an archive.
const FILES: [(&str, &str); 7] = [
    ("a.txt", "a\n"),
    ("b.txt", "the second\n"),
    ("with space.txt", "spaced\n"),
    ("empty", ""),
    ("run.sh", "#!/bin/sh\necho \"run with $#: $*\"\n"),
    ("d/f", "in d\n"),
    ("d/sub/g", "deeper\n"),
];

/// All builds; `buildkit` adds what only BuildKit understands.
pub(crate) fn builds(buildkit: bool) -> impl Strategy<Value = Generated> {
    let head = vec(head_line(), 0..3);
    let stages = vec(stage(buildkit), 1..4);
    let ends = prop_oneof![12 => Just(LineEnds::Unix), 1 => Just(LineEnds::NoLast), 1 => Just(LineEnds::Windows)];
    let ignore = prop_oneof![3 => Just(Vec::new()), 1 => vec(pattern(), 1..4)];
    let flags = vec(flag(), 0..3);
    let input = prop_oneof![15 => Just(None), 1 => Just(Some("tar")), 1 => Just(Some("dockerfile"))];
    (head, stages, ends, ignore, flags, input).prop_map(|(head, stages, ends, ignore, flags, input)| Generated {
        head,
        stages,
        ends,
        ignore,
        flags,
        input,
    })
}

fn of(texts: &'static [&'static str]) -> BoxedStrategy<String> {
    select(texts).prop_map(str::to_owned).boxed()
}

/// Two parts with a text between.
fn joined(
    left: impl Strategy<Value = String> + 'static,
    between: &'static str,
    right: impl Strategy<Value = String> + 'static,
) -> BoxedStrategy<String> {
    (left, right).prop_map(move |(left, right)| format!("{left}{between}{right}")).boxed()
}

fn head_line() -> BoxedStrategy<String> {
    prop_oneof![
        4 => of(&["# a comment", "", "ARG BASE=busybox", "ARG TAG=latest", "ARG A=from the head", "ARG A", "  # indented"]),
        1 => of(&["# escape=\\", "# escape=`", "#escape = \\", "# check=skip=all", "# unknown=directive"]),
        1 => of(&["ARG", "RUN echo before from", "LABEL a=b", "ARG A=1 B=2"]),
    ]
    .boxed()
}

fn stage(buildkit: bool) -> BoxedStrategy<Stage> {
    (from(), vec(instruction(buildkit), 0..6))
        .prop_map(|(from, instructions)| Stage { from, instructions })
        .boxed()
}

fn from() -> BoxedStrategy<String> {
    let base = prop_oneof![
        16 => of(&["busybox", "busybox:latest", "busybox:1.36", "busybox"]),
        3 => of(&["config:1", "layers:1", "shell:1", "app:onbuild"]),
        2 => of(&["one", "two", "0"]),
        2 => of(&["$BASE", "${BASE}:${TAG:-latest}", "busybox:$TAG", "${NONE:-busybox}"]),
        1 => of(&["scratch"]),
        1 => of(&["127.0.0.1:5000/library/nosuch:1", "Busybox", "busybox:", "$NONE", ""]),
    ];
    let name = prop_oneof![3 => Just(String::new()), 3 => of(&[" AS one", " AS two", " as one", " As Three"]), 1 => of(&[" AS", " AS 1x", " AS a b", " one"])];
    let flags = prop_oneof![10 => Just(String::new()), 1 => of(&["--platform=linux/amd64 ", "--platform=$TARGETPLATFORM ", "--nosuch=1 "])];
    (of(&["FROM", "FROM", "FROM", "from", "From"]), flags, base, name)
        .prop_map(|(word, flags, base, name)| format!("{word} {flags}{base}{name}"))
        .boxed()
}

fn instruction(buildkit: bool) -> BoxedStrategy<String> {
    let for_both = prop_oneof![
        10 => run(),
        6 => copy(),
        3 => add(),
        5 => env(),
        3 => joined(of(&["ARG ", "ARG  ", "arg "]), "", of(&["A", "A=1", "B=two words", "B=\"two words\"", "C=$A", "C=${A:-none}", "A=1 B=2", "1X=y", "", "A=${B"])),
        3 => joined(of(&["LABEL "]), "", of(&["a=b", "a=b c=d", "a=\"b c\" d='e f'", "a b c", "\"k k\"=v", "a=$A", "a=${B:+set}", "a=", "=v", "a", "a=\"unclosed", "a.b-c/d=\\\n  x"])),
        3 => joined(of(&["WORKDIR "]), "", of(&["/w", "/w/x/y", "rel", "../up", "$A", "/with space", "\"/q\"", "/", "", "/etc/passwd"])),
        2 => joined(of(&["USER "]), "", of(&["root", "1000", "1000:1000", "nobody", "0:0", "nosuchuser", "root:nosuchgroup", "$A", "", "nobody:nogroup"])),
        2 => joined(of(&["EXPOSE "]), "", of(&["80", "80/tcp 53/udp", "8000-8003", "$A", "99999", "x", "80/sctp", "80/foo", "", "80:90"])),
        2 => joined(of(&["VOLUME "]), "", of(&["/v", "/v /v2", "[\"/v\"]", "[\"/v\", \"/b c\"]", "[]", "", "$A/v", "[\"/v\""])),
        2 => joined(of(&["CMD ", "ENTRYPOINT "]), "", of(&["[\"a\", \"b\"]", "echo $HOME", "[\"a\"", "['a']", "[]", "", "[\"a\\tb\", \"\\u00e9\"]"])),
        1 => joined(of(&["HEALTHCHECK "]), "", of(&["CMD true", "NONE", "--interval=5s --retries=2 CMD [\"x\"]", "--interval=5 CMD x", "--nosuch=1 CMD x", "FOO x", "", "NONE x", "--start-period=1m --timeout=3s CMD curl -f http://x/ || exit 1"])),
        1 => joined(of(&["STOPSIGNAL "]), "", of(&["SIGTERM", "9", "NOSUCH", "$A", "", "SIGTERM SIGHUP"])),
        1 => joined(of(&["SHELL "]), "", of(&["[\"/bin/sh\", \"-ec\"]", "[\"sh\", \"-c\"]", "/bin/sh -c", "[]", "[\"/bin/ash\",\"-x\",\"-c\"]", ""])),
        2 => joined(of(&["ONBUILD "]), "", of(&["RUN echo trigger", "COPY a.txt /", "FROM x", "ONBUILD RUN x", "MAINTAINER x", "", "ENV X=y", "FOO"])),
        1 => of(&["MAINTAINER me", "MAINTAINER me <me@x>", "MAINTAINER", "maintainer \"quoted\""]),
        2 => of(&["# a comment", "", "  ", "\t# tab", "#"]),
        1 => of(&["FOO bar", "RUNN x", "COPPY a b", "run", "echo hi", "\\", "ENV", "CROSS_BUILD x", "EOF"]),
    ];
    let indented = (of(&["", "", "", "", "  ", "\t"]), for_both).prop_map(|(indent, text)| indent + &text);
    if buildkit { prop_oneof![12 => indented, 2 => only_buildkit()].boxed() } else { indented.boxed() }
}

/// Commands of a shell.
fn command() -> BoxedStrategy<String> {
    prop_oneof![
        10 => of(&[
            "echo hello",
            "true",
            "echo $A-${B:-none}-$PATH",
            "echo to stderr >&2",
            "echo out; sleep 0.2; echo err >&2; sleep 0.2; echo out again",
            "printf 'no newline'",
            "printf 'a\\nb\\n'",
            "pwd; id -u; id -g; umask",
            "mkdir -p /x/y && echo 1 >/x/y/z",
            "echo data >>/log && cat /log",
            "ls -l /w 2>&1; cat /a.txt /d/f 2>&1; exit 0",
            "env | sort | grep -v HOSTNAME",
            "for i in 1 2 3; do echo line $i; done",
            "seq 1 40",
            "printf 'progress 1\\rprogress 2\\r\\n'",
            "printf '\\033[32mgreen\\033[0m\\n'",
            "rm -rf /x /a.txt",
            "ln -s a.txt /ln; ln /bin/busybox /hard",
            "echo \"quoted  $A\" '$A' \\$A",
            "chown 5:6 /tmp; chmod 1777 /tmp; ls -ld /tmp | cut -c1-10",
            "printf '\\n\\nblank lines\\n\\n'",
        ]),
        4 => of(&[
            "false",
            "exit 3",
            "echo last words; exit 127",
            "nosuchcommand --flag",
            "cat /nonexistent",
            "echo unfinished | tr -d '\\n'; exit 1",
            "seq 1 30; false",
            "echo out; sleep 0.2; echo err >&2; exit 42",
            "kill -9 $$",
            "kill -TERM $$",
            "sh -c 'syntax error ('",
            "cd /nosuch",
        ]),
    ]
    .boxed()
}

fn run() -> BoxedStrategy<String> {
    prop_oneof![
        8 => command().prop_map(|command| format!("RUN {command}")),
        2 => (command(), command()).prop_map(|(a, b)| format!("RUN {a} && \\\n    {b}")),
        1 => (command(), command()).prop_map(|(a, b)| format!("RUN {a} ;\\\n# a comment within\n\n    {b}")),
        1 => command().prop_map(|command| format!("RUN   {command}   \\   \n  ")),
        2 => of(&[
            "RUN [\"echo\", \"in exec form\"]",
            "RUN [\"sh\", \"-c\", \"echo $A; exit 4\"]",
            "RUN [\"nosuchprogram\"]",
            "RUN [\"/etc/passwd\"]",
            "RUN [\"echo\", 'not json']",
            "RUN [ \"echo\" , \"a\" ] ",
            "RUN []",
            "RUN",
            "RUN --nosuch=1 true",
            "RUN echo \\",
            "run echo lower",
        ]),
    ]
    .boxed()
}

fn copy() -> BoxedStrategy<String> {
    let flags = prop_oneof![
        8 => Just(String::new()),
        3 => of(&["--from=one ", "--from=two ", "--from=0 ", "--from=busybox ", "--from=nosuch ", "--from=9 ", "--from= ", "--from=$A "]),
        2 => of(&["--chown=1:2 ", "--chown=nobody ", "--chown=nosuch ", "--chown=root:daemon ", "--nosuch ", "--chown=$A "]),
    ];
    let what = prop_oneof![
        8 => of(&[
            "a.txt /",
            "a.txt b.txt /c/",
            "a.txt renamed",
            ". /all",
            "d /d",
            "d/ /e/",
            "*.txt /t/",
            "[ab].txt /t/",
            "link /",
            "[\"with space.txt\", \"/q q/\"]",
            "empty run.sh ./",
            "d/sub/../f /",
            "/a.txt /",
            "a.txt /x/y/z/",
            "bin/sh /s",
            "etc/passwd /p",
        ]),
        3 => of(&[
            "nosuch.txt /",
            "a.txt nosuch.txt /",
            "*.nosuch /",
            "../a.txt /",
            "a.txt",
            "a.txt b.txt /c",
            "",
            "[\"a.txt\"]",
            "$A /",
            "a.txt $A",
            "d/nosuch /",
            "with space.txt /",
        ]),
    ];
    (flags, what).prop_map(|(flags, what)| format!("COPY {flags}{what}")).boxed()
}

fn add() -> BoxedStrategy<String> {
    let flags = prop_oneof![6 => Just(String::new()), 1 => of(&["--chown=1:2 ", "--nosuch ", "--from=one "])];
    let what = of(&[
        "a.txt /",
        "t.tar.gz /unpacked/",
        "t.tar.gz b.txt /m/",
        "d /d",
        "*.txt /t/",
        "nosuch /",
        "t.tar.gz /file",
        "a.txt",
        "http://127.0.0.1:1/x /",
    ]);
    (flags, what).prop_map(|(flags, what)| format!("ADD {flags}{what}")).boxed()
}

fn env() -> BoxedStrategy<String> {
    let value = of(&[
        "1",
        "\"two words\"",
        "'single $A'",
        "$A",
        "${A:-default}",
        "${B:+set}",
        "$A$B.x",
        "a\\ b",
        "\\$A",
        "\"a\\\"b\"",
        "",
        "${A%x}",
        "${A#*o}",
        "${A/1/2}",
        "${NONE:?must be set}",
        "${A",
        "\"open",
        "${A:x}",
    ]);
    prop_oneof![
        5 => (of(&["A", "B", "PATH", "C_d"]), value.clone()).prop_map(|(name, value)| format!("ENV {name}={value}")),
        2 => (value.clone(), value).prop_map(|(a, b)| format!("ENV A={a} B={b}")),
        2 => of(&["ENV A old form", "ENV A", "ENV A  spaced  out ", "ENV =x", "ENV A=1 B", "ENV A=1 \\\n    B=2", "ENV A = 1"]),
    ]
    .boxed()
}

/// What the legacy builder refuses, or does not know.
fn only_buildkit() -> BoxedStrategy<String> {
    of(&[
        "RUN <<EOF\necho one\necho two\nEOF",
        "RUN <<-'EOT' sh\n\techo $A in a script\n\tEOT",
        "RUN cat <<ONE <<TWO\n1\nONE\n2\nTWO",
        "RUN <<EOF\n#!/bin/sh\necho \"script $0\" | cut -c1-6\nexit 5\nEOF",
        "COPY <<EOF /inline\ntext with $A\nEOF",
        "COPY <<'a' <<b /inl/\nquoted $A\na\nnot $A\nb",
        "RUN <<EOF\nnever ended",
        "RUN --mount=type=bind,target=/ctx cat /ctx/a.txt",
        "RUN --mount=type=bind,from=one,source=/,target=/o ls /o",
        "RUN --mount=type=bind,source=nosuch,target=/o ls /o",
        "RUN --mount=type=cache,target=/cache echo x >>/cache/x; wc -l </cache/x",
        "RUN --mount=type=tmpfs,target=/t touch /t/x; ls /t",
        "RUN --mount=type=secret,id=s ls /run/secrets; exit 0",
        "RUN --mount=type=secret,id=s,required=true cat /run/secrets/s",
        "RUN --mount=type=nosuch,target=/x true",
        "RUN --mount=target=/x --mount=type=tmpfs,target=/y ls /x /y",
        "RUN --network=none ls /sys/class/net",
        "RUN --network=nosuch true",
        "RUN --security=insecure true",
        "COPY --chmod=600 a.txt /mode",
        "COPY --chmod=u=rwx,go= a.txt /mode",
        "COPY --chmod=nosuch a.txt /mode",
        "COPY --link a.txt d /linked/",
        "COPY --link --from=one / /all-of-one/",
        "COPY --exclude=*.txt . /some/",
        "COPY --parents d/sub/g /p/",
        "ADD --checksum=sha256:00 a.txt /",
        "ADD --unpack=true t.tar.gz /u/",
        "ADD --keep-git-dir=true a.txt /",
        "ENV TOKEN=secret",
        "ARG PASSWORD=x",
        "RUN echo $TARGETPLATFORM $BUILDKIT_INLINE_CACHE",
        "ARG TARGETARCH\nRUN echo $TARGETARCH",
    ])
}

fn pattern() -> BoxedStrategy<String> {
    of(&["a.txt", "*.txt", "!b.txt", "d", "d/sub", "**/g", "*", "!run.sh", "# comment", "/a.txt", "d/", "nosuch", ".dockerignore", "Dockerfile", "[", "!"])
}

fn flag() -> BoxedStrategy<Vec<String>> {
    let text = prop_oneof![
        6 => of(&["--build-arg A=given", "--build-arg UNUSED=1", "--build-arg BASE=busybox:1.36", "--build-arg B", "--build-arg TAG=1.36"]),
        4 => of(&["--target one", "--target two", "--target ONE", "--target 0", "--target nosuch", "--target 7"]),
        2 => of(&["--label x=y", "--label x=y --label z", "--no-cache", "-q", "--add-host h:1.2.3.4", "--platform linux/amd64"]),
        1 => of(&["-f nosuch", "-f d/f", "--label", "--nosuch", "--build-arg", "-t Upper/Case", "--shm-size 1m", "--ulimit nofile=99:100", "--rm=false", "--force-rm", "--iidfile /nosuch/iid"]),
    ];
    text.prop_map(|text| text.split(' ').map(str::to_owned).collect()).boxed()
}
