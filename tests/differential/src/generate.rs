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

/// A line or several, and whether Docker refuses it, or may.
#[derive(Clone, Debug)]
struct Piece {
    text: String,
    wrong: bool,
}

/// All builds; `buildkit` adds what only BuildKit understands. Most have nothing in them that is refused: an error ends
/// a build, and hides what comes after it.
pub(crate) fn builds(buildkit: bool) -> impl Strategy<Value = Generated> {
    let head = vec(head_line(), 0..3);
    let stages = vec(stage(buildkit), 1..4);
    let ends = prop_oneof![12 => Just(LineEnds::Unix), 1 => Just(LineEnds::NoLast), 1 => Just(LineEnds::Windows)];
    let ignore = prop_oneof![3 => Just(Vec::new()), 1 => vec(pattern(), 1..4)];
    let flags = vec(flag(), 0..3);
    let input = prop_oneof![15 => Just(None), 1 => Just(Some("tar")), 1 => Just(Some("dockerfile"))];
    let wrong = prop_oneof![2 => Just(false), 1 => Just(true)];
    (head, stages, ends, ignore, flags, input, wrong).prop_map(|(head, stages, ends, ignore, flags, input, wrong)| {
        let kept = |pieces: Vec<Piece>| -> Vec<String> {
            pieces.into_iter().filter(|piece| wrong || !piece.wrong).map(|piece| piece.text).collect()
        };
        let stage = |(from, instructions): (Piece, Vec<Piece>)| Stage {
            from: if wrong || !from.wrong { from.text } else { "FROM busybox".to_owned() },
            instructions: kept(instructions),
        };
        Generated {
            head: kept(head),
            stages: stages.into_iter().map(stage).collect(),
            ends,
            ignore,
            flags: kept(flags).iter().map(|flag| flag.split(' ').map(str::to_owned).collect()).collect(),
            input,
        }
    })
}

fn texts(texts: &'static [&'static str], wrong: bool) -> BoxedStrategy<Piece> {
    select(texts).prop_map(move |text| Piece { text: text.to_owned(), wrong }).boxed()
}

fn good(these: &'static [&'static str]) -> BoxedStrategy<Piece> {
    texts(these, false)
}

fn bad(these: &'static [&'static str]) -> BoxedStrategy<Piece> {
    texts(these, true)
}

/// Most often the first.
fn mostly(first: BoxedStrategy<Piece>, second: BoxedStrategy<Piece>) -> BoxedStrategy<Piece> {
    prop_oneof![3 => first, 2 => second].boxed()
}

/// A word, and what follows it.
fn after(word: &'static str, rest: BoxedStrategy<Piece>) -> BoxedStrategy<Piece> {
    rest.prop_map(move |piece| Piece { text: format!("{word}{}", piece.text), wrong: piece.wrong }).boxed()
}

/// Two, with a text between.
fn both(left: BoxedStrategy<Piece>, between: &'static str, right: BoxedStrategy<Piece>) -> BoxedStrategy<Piece> {
    (left, right)
        .prop_map(move |(left, right)| Piece {
            text: format!("{}{between}{}", left.text, right.text),
            wrong: left.wrong || right.wrong,
        })
        .boxed()
}

fn head_line() -> BoxedStrategy<Piece> {
    prop_oneof![
        4 => good(&["# a comment", "", "ARG BASE=busybox", "ARG TAG=latest", "ARG A=from the head", "ARG A", "  # indented"]),
        1 => good(&["# escape=\\", "#escape = \\", "# check=skip=all", "# unknown=directive", "# escape=`"]),
        1 => bad(&["ARG", "RUN echo before from", "LABEL a=b", "ARG A=1 B=2", "# escape=x"]),
    ]
    .boxed()
}

fn stage(buildkit: bool) -> BoxedStrategy<(Piece, Vec<Piece>)> {
    (from(), vec(instruction(buildkit), 0..6)).boxed()
}

fn from() -> BoxedStrategy<Piece> {
    let base = prop_oneof![
        16 => good(&["busybox", "busybox:latest", "busybox:1.36", "busybox"]),
        3 => good(&["config:1", "layers:1", "shell:1", "app:onbuild"]),
        2 => good(&["one", "two", "three"]),
        2 => good(&["$BASE", "${BASE}:${TAG:-latest}", "busybox:$TAG", "${NONE:-busybox}"]),
        1 => good(&["scratch"]),
        1 => bad(&["127.0.0.1:5000/library/nosuch:1", "Busybox", "busybox:", "$NONE", ""]),
    ];
    let name = prop_oneof![
        3 => good(&[""]),
        3 => good(&[" AS one", " AS two", " as one", " As Three"]),
        1 => bad(&[" AS", " AS 1x", " AS a b", " one"])
    ];
    let flags = prop_oneof![
        10 => good(&[""]),
        1 => good(&["--platform=linux/amd64 ", "--platform=$TARGETPLATFORM "]),
        1 => bad(&["--nosuch=1 ", "--platform=nosuch/x "]),
    ];
    let word = good(&["FROM ", "FROM ", "FROM ", "from ", "From  "]);
    both(both(word, "", flags.boxed()), "", both(base.boxed(), "", name.boxed()))
}

fn instruction(buildkit: bool) -> BoxedStrategy<Piece> {
    let for_both = prop_oneof![
        10 => run(),
        6 => copy(),
        3 => add(),
        5 => env(),
        3 => both(good(&["ARG ", "ARG  ", "arg "]), "", mostly(
            good(&["A", "A=1", "B=\"two words\"", "C=$A", "C=${A:-none}", "A=1 B=2", "PATH", "HTTP_PROXY"]),
            bad(&["B=two words", "1X=y", "", "A=${B"]),
        )),
        3 => after("LABEL ", mostly(
            good(&["a=b", "a=b c=d", "a=\"b c\" d='e f'", "a b c", "\"k k\"=v", "a=$A", "a=${B:+set}", "a="]),
            bad(&["=v", "a", "a=\"unclosed", "a.b-c/d=\\\n  x", "a=b c"]),
        )),
        3 => after("WORKDIR ", mostly(
            good(&["/w", "/w/x/y", "rel", "../up", "/with space", "\"/q\"", "/"]),
            bad(&["$A", "", "/etc/passwd"]),
        )),
        2 => after("USER ", mostly(
            good(&["root", "1000", "1000:1000", "nobody", "0:0"]),
            bad(&["nosuchuser", "root:nosuchgroup", "$A", "", "nobody:nogroup", "a b"]),
        )),
        2 => after("EXPOSE ", mostly(
            good(&["80", "80/tcp 53/udp", "8000-8003", "80/sctp"]),
            bad(&["$A", "99999", "x", "80/foo", "", "80:90"]),
        )),
        2 => after("VOLUME ", mostly(
            good(&["/v", "/v /v2", "[\"/v\"]", "[\"/v\", \"/b c\"]", "$A/v"]),
            bad(&["[]", "", "[\"/v\"", "[\"\"]"]),
        )),
        2 => both(good(&["CMD ", "ENTRYPOINT "]), "", good(
            &["[\"a\", \"b\"]", "echo $HOME", "[\"a\"", "['a']", "[]", "", "[\"a\\tb\", \"\\u00e9\"]"],
        )),
        1 => after("HEALTHCHECK ", mostly(
            good(&["CMD true", "NONE", "--interval=5s --retries=2 CMD [\"x\"]", "--start-period=1m --timeout=3s CMD curl -f http://x/ || exit 1"]),
            bad(&["--interval=5 CMD x", "--nosuch=1 CMD x", "FOO x", "", "NONE x", "CMD"]),
        )),
        1 => after("STOPSIGNAL ", mostly(good(&["SIGTERM", "9"]), bad(&["NOSUCH", "$A", "", "SIGTERM SIGHUP"]))),
        1 => after("SHELL ", mostly(
            good(&["[\"/bin/sh\", \"-ec\"]", "[\"sh\", \"-c\"]", "[\"/bin/ash\",\"-x\",\"-c\"]"]),
            bad(&["/bin/sh -c", "[]", ""]),
        )),
        2 => after("ONBUILD ", mostly(
            good(&["RUN echo trigger", "COPY a.txt /", "ENV X=y", "LABEL t=$A"]),
            bad(&["FROM x", "ONBUILD RUN x", "MAINTAINER x", "", "FOO"]),
        )),
        1 => mostly(good(&["MAINTAINER me", "MAINTAINER me <me@x>", "maintainer \"quoted\""]), bad(&["MAINTAINER"])),
        2 => good(&["# a comment", "", "  ", "\t# tab", "#"]),
        1 => bad(&["FOO bar", "RUNN x", "COPPY a b", "run", "echo hi", "\\", "ENV", "CROSS_BUILD x", "EOF"]),
    ];
    let indented = both(good(&["", "", "", "", "  ", "\t"]), "", for_both.boxed());
    if buildkit { prop_oneof![12 => indented, 2 => only_buildkit()].boxed() } else { indented }
}

/// Commands of a shell; those that fail end a build.
fn command() -> BoxedStrategy<Piece> {
    prop_oneof![
        10 => good(&[
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
        2 => bad(&[
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

fn run() -> BoxedStrategy<Piece> {
    let lines = |between| after("RUN ", both(command(), between, command()));
    prop_oneof![
        8 => after("RUN ", command()),
        2 => lines(" && \\\n    "),
        1 => lines(" ;\\\n# a comment within\n\n    "),
        1 => both(after("RUN   ", command()), "   \\   \n  ", good(&["", "# end"])),
        2 => mostly(
            good(&["RUN [\"echo\", \"in exec form\"]", "RUN [ \"echo\" , \"a\" ] ", "run echo lower"]),
            bad(&[
                "RUN [\"sh\", \"-c\", \"echo $A; exit 4\"]",
                "RUN [\"nosuchprogram\"]",
                "RUN [\"/etc/passwd\"]",
                "RUN [\"echo\", 'not json']",
                "RUN []",
                "RUN",
                "RUN --nosuch=1 true",
                "RUN echo \\",
            ]),
        ),
    ]
    .boxed()
}

fn copy() -> BoxedStrategy<Piece> {
    let flags = prop_oneof![
        8 => good(&[""]),
        2 => good(&["--from=busybox ", "--chown=1:2 ", "--chown=nobody ", "--chown=root:daemon "]),
        2 => bad(&["--from=one ", "--from=two ", "--from=0 ", "--from=nosuch ", "--from=9 ", "--from= ", "--from=$A "]),
        1 => bad(&["--chown=nosuch ", "--nosuch ", "--chown=$A "]),
    ];
    let what = prop_oneof![
        8 => good(&[
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
        ]),
        3 => bad(&[
            "bin/sh /s",
            "etc/passwd /p",
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
    both(after("COPY ", flags.boxed()), "", what.boxed())
}

fn add() -> BoxedStrategy<Piece> {
    let flags = prop_oneof![6 => good(&[""]), 1 => good(&["--chown=1:2 "]), 1 => bad(&["--nosuch ", "--from=one "])];
    let what = mostly(
        good(&["a.txt /", "t.tar.gz /unpacked/", "t.tar.gz b.txt /m/", "d /d", "*.txt /t/"]),
        bad(&["nosuch /", "t.tar.gz /file", "a.txt", "http://127.0.0.1:1/x /"]),
    );
    both(after("ADD ", flags.boxed()), "", what)
}

fn env() -> BoxedStrategy<Piece> {
    let value = || {
        mostly(
            good(&[
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
            ]),
            bad(&["${NONE:?must be set}", "${A", "\"open", "${A:x}"]),
        )
    };
    prop_oneof![
        5 => after("ENV ", both(good(&["A", "B", "C_d", "PATH"]), "=", value())),
        2 => after("ENV A=", both(value(), " B=", value())),
        2 => mostly(
            good(&["ENV A old form", "ENV A  spaced  out ", "ENV A=1 \\\n    B=2", "ENV A = 1"]),
            bad(&["ENV A", "ENV =x", "ENV A=1 B"]),
        ),
    ]
    .boxed()
}

/// What the legacy builder refuses, or does not know.
fn only_buildkit() -> BoxedStrategy<Piece> {
    mostly(
        good(&[
            "RUN <<EOF\necho one\necho two\nEOF",
            "RUN <<-'EOT' sh\n\techo $A in a script\n\tEOT",
            "RUN cat <<ONE <<TWO\n1\nONE\n2\nTWO",
            "COPY <<EOF /inline\ntext with $A\nEOF",
            "COPY <<'a' <<b /inl/\nquoted $A\na\nnot $A\nb",
            "RUN --mount=type=bind,target=/ctx cat /ctx/d/f",
            "RUN --mount=type=cache,target=/cache echo x >>/cache/x; wc -l </cache/x",
            "RUN --mount=type=tmpfs,target=/t touch /t/x; ls /t",
            "RUN --mount=type=secret,id=s ls /run/secrets; exit 0",
            "RUN --mount=target=/x --mount=type=tmpfs,target=/y ls /x /y",
            "RUN --network=none ls /sys/class/net",
            "COPY --chmod=600 a.txt /mode",
            "COPY --chmod=u=rwx,go= a.txt /mode",
            "COPY --link a.txt d /linked/",
            "ADD --keep-git-dir=true a.txt /",
            "ENV TOKEN=secret",
            "ARG PASSWORD=x",
            "RUN echo $TARGETPLATFORM $BUILDKIT_INLINE_CACHE",
            "ARG TARGETARCH\nRUN echo $TARGETARCH",
        ]),
        bad(&[
            "RUN <<EOF\n#!/bin/sh\necho \"script $0\" | cut -c1-6\nexit 5\nEOF",
            "RUN <<EOF\nnever ended",
            "RUN --mount=type=bind,from=one,source=/,target=/o ls /o",
            "RUN --mount=type=bind,source=nosuch,target=/o ls /o",
            "RUN --mount=type=secret,id=s,required=true cat /run/secrets/s",
            "RUN --mount=type=nosuch,target=/x true",
            "RUN --network=nosuch true",
            "RUN --security=insecure true",
            "COPY --chmod=nosuch a.txt /mode",
            "COPY --link --from=one / /all-of-one/",
            "COPY --exclude=*.txt . /some/",
            "COPY --parents d/sub/g /p/",
            "ADD --checksum=sha256:00 a.txt /",
            "ADD --unpack=true t.tar.gz /u/",
        ]),
    )
}

fn pattern() -> BoxedStrategy<String> {
    let patterns: &[&str] = &[
        "a.txt",
        "*.txt",
        "!b.txt",
        "d",
        "d/sub",
        "**/g",
        "*",
        "!run.sh",
        "# comment",
        "/a.txt",
        "d/",
        "nosuch",
        ".dockerignore",
        "Dockerfile",
        "[",
        "!",
    ];
    select(patterns).prop_map(str::to_owned).boxed()
}

fn flag() -> BoxedStrategy<Piece> {
    prop_oneof![
        6 => good(&["--build-arg A=given", "--build-arg UNUSED=1", "--build-arg BASE=busybox:1.36", "--build-arg B", "--build-arg TAG=1.36"]),
        2 => good(&["--label x=y", "--label x=y --label z", "--no-cache", "-q", "--add-host h:1.2.3.4", "--platform linux/amd64", "--rm=false", "--force-rm", "-t oracle/untagged", "-t zz/one:1 -t aa/two"]),
        2 => bad(&["--target one", "--target two", "--target ONE", "--target 0", "--target nosuch", "--target 7"]),
        1 => bad(&["-f nosuch", "-f d/f", "--label", "--nosuch", "--build-arg", "-t Upper/Case", "--shm-size x", "--ulimit nofile=99:100", "--iidfile /nosuch/iid"]),
    ]
    .boxed()
}
