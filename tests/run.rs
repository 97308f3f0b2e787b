//! `rbuild run`: a command in an image, as an ordinary user, under each isolation.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rbuild_testkit::registry::Registry;
use rbuild_testkit::terminal::Terminal;
use rbuild_testkit::workspace::{Output, Running, Workspace, finish};
use rbuild_testkit::{leftovers, require};
use rustix::process::Signal;
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use crate::{build_flags, with_bases};

const ISOLATIONS: [&str; 2] = ["userns", "ptrace"];

const DOCKERFILE: &str = "FROM busybox\nENV A=1 B=2\nRUN mkdir -p /vol /home/u && echo kept >/vol/file && chown 77 /vol/file && \
    echo 'u:x:77:78::/home/u:/bin/sh' >>/etc/passwd && printf '#!/bin/sh\\nexit 0\\n' >/plain && \
    printf x >/foreign && chmod 755 /foreign\nVOLUME /vol\nWORKDIR /work\n";

/// A place with an image `image` that has the Dockerfile's end.
fn with_image(end: &str) -> Result<(Workspace, Registry), String> {
    let (workspace, registry) = with_bases()?;
    workspace.files("context", &[("Dockerfile", &format!("{DOCKERFILE}{end}"))]);
    let mut build = workspace.rbuild(build_flags(&registry));
    let _ = finish(build.args(["-q", "-t", "image", "context"]), None).success();
    Ok((workspace, registry))
}

fn command(workspace: &Workspace, isolation: &str, args: &[&str]) -> Command {
    let mut command = workspace.rbuild(["run", &format!("--isolation={isolation}")]);
    command.args(args);
    command
}

fn run(workspace: &Workspace, isolation: &str, args: &[&str]) -> Output {
    finish(&mut command(workspace, isolation, args), None)
}

/// What it wrote to standard output, to the last byte.
fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What it wrote to standard output, after a success.
fn printed(workspace: &Workspace, isolation: &str, args: &[&str]) -> String {
    stdout(&run(workspace, isolation, args).success())
}

#[test]
fn what_the_image_says_and_what_replaces_it() {
    let (workspace, _registry) = require!(with_image("USER u\nENTRYPOINT [\"echo\",\"e\"]\nCMD [\"c\"]\n"));
    for isolation in ISOLATIONS {
        let say = |args: &[&str]| printed(&workspace, isolation, args);
        assert_eq!(say(&["image"]), "e c\n");
        assert_eq!(say(&["image", "-x", "--rm", "y"]), "e -x --rm y\n");
        assert_eq!(say(&["--entrypoint", "id", "image", "-u"]), "77\n");
        let script =
            "echo $A $B $C $HOME; pwd; id -g; cat /vol/file; ls -n /vol/file | cut -c1-10; hostname; echo $HOSTNAME";
        let sh =
            ["--entrypoint=", "-e", "A=x y", "-e", "B", "--hostname", "h", "-e", "C=", "image", "sh", "-c", script];
        assert_eq!(say(&sh), "x y /home/u\n/work\n78\nkept\n-rw-r--r--\nh\nh\n");
        fs::write(workspace.path("variables"), "# none\n  C=from file\nNOT_SET\n").unwrap();
        let env = ["--env-file", "variables", "-w", "/new/dir", "-u", "7007:8008", "--entrypoint", "sh", "image", "-c"];
        let script = "echo $C $A $HOME; pwd; id -u; id -g; env | grep -c NOT_SET; :";
        assert_eq!(say(&[&env[..], &[script]].concat()), "from file 1 /\n/new/dir\n7007\n8008\n0\n");
        let hosts = ["--add-host", "other:10.1.2.3", "--entrypoint", "grep", "image", "other", "/etc/hosts"];
        assert_eq!(say(&hosts), "10.1.2.3\tother\n");
        let limits = [
            "--ulimit",
            "nofile=77:88",
            "--shm-size=1m",
            "--entrypoint",
            "sh",
            "image",
            "-c",
            "ulimit -n; df /dev/shm",
        ];
        let limits = say(&limits);
        assert!(limits.starts_with("77\n") && (limits.contains(" 1024 ") || isolation == "ptrace"), "{limits}");
    }
    // What was written is gone, and the image is what it was.
    let _ = run(&workspace, "userns", &["--entrypoint=sh", "-u0", "image", "-c", "echo >/new; rm /vol/file"]).success();
    assert_eq!(
        printed(&workspace, "userns", &["--entrypoint=sh", "image", "-c", "ls /new /vol/file; :"]),
        "/vol/file\n"
    );
    workspace.expect_clean();
}

#[test]
fn mounts() {
    let (workspace, _registry) = require!(with_image(""));
    for isolation in ISOLATIONS {
        let dir = workspace.files(&format!("host-{isolation}"), &[("file", "of the host\n")]);
        let dir = dir.display();
        let sh = |flags: &[&str], script: &str| {
            run(&workspace, isolation, &[flags, &["image", "sh", "-c", script]].concat())
        };
        let output = sh(&["-v", &format!("{dir}:/m")], "cat /m/file; echo back >/m/written").success();
        assert_eq!(stdout(&output), "of the host\n");
        assert_eq!(fs::read_to_string(format!("{dir}/written")).unwrap(), "back\n");
        for read_only in [format!("-v={dir}:/m:ro"), format!("--mount=type=bind,src={dir},dst=/m,readonly")] {
            let output = sh(&[&read_only], "cat /m/file; echo x >/m/file");
            assert!(output.code() != 0 && stdout(&output) == "of the host\n", "{}", output.text());
        }
        // Relative to where rbuild is called, and made where it is not there.
        let _ = sh(&["-v", &format!("./made-{isolation}/a:/m")], "echo x >/m/f").success();
        assert_eq!(fs::read_to_string(workspace.path(&format!("made-{isolation}/a/f"))).unwrap(), "x\n");
        let flags = ["--read-only", "--tmpfs=/t:mode=700", "--mount=type=tmpfs,dst=/t2", "-v", "/anonymous"];
        let script =
            "echo x >/t/f && echo x >/t2/f && echo x >/vol/f && cat /vol/file && echo x >/anonymous/f; echo x >/f";
        let output = sh(&flags, script);
        assert!(output.code() != 0 && stdout(&output) == "kept\n", "{}", output.text());
        assert_eq!(output.stderr().lines().count(), 1, "{}", output.text());
    }
    workspace.expect_clean();
}

#[test]
fn streams_and_exit_codes() {
    let (workspace, _registry) = require!(with_image(""));
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    for isolation in ISOLATIONS {
        let start = |args: &[&str]| {
            let mut run = command(&workspace, isolation, args);
            run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut cat = start(&["-i", "image", "cat"]);
        let mut stdin = cat.stdin.take().unwrap();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&sent));
        let output = cat.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success() && output.stdout == bytes && output.stderr.is_empty(), "{isolation}");
        let ignored = finish(&mut command(&workspace, isolation, &["image", "cat"]), Some(b"not for it".to_vec()));
        assert_eq!(stdout(&ignored.success()), "");
        let both = run(&workspace, isolation, &["image", "sh", "-c", "echo out; echo err >&2; [ -t 1 ] || exit 42"]);
        assert_eq!((both.code(), stdout(&both), stderr(&both)), (42, "out\n".to_owned(), "err\n".to_owned()));
        // A reader that goes ends the writer.
        let mut yes = start(&["image", "yes"]);
        yes.stdout.take().unwrap().read_exact(&mut [0; 100]).unwrap();
        assert!(!yes.wait().unwrap().success());
    }
    workspace.expect_clean();
}

#[test]
fn bad_input() {
    let (workspace, registry) = require!(with_image(""));
    let file = format!("{}:/etc", workspace.files("some", &[("file", "x")]).join("file").display());
    let mirror = format!("--registry-mirror={}", registry.url());
    let cases: [(&[&str], i32, &str); 18] = [
        (&["image", "nosuch"], 127, "nosuch"),
        (&["image", "/nosuch"], 127, "/nosuch"),
        (&["image", "/etc"], 126, "directory"),
        (&["image", "/plain"], 126, "permission denied"),
        (&["image", "/foreign"], 126, "/foreign"),
        (&["-u", "nobody-there", "image", "true"], 125, "nobody-there"),
        (&["-u", "0:nobody-there", "image", "true"], 125, "nobody-there"),
        (&["-w", "/etc/passwd", "image", "true"], 125, "/etc/passwd"),
        (&["-w", "relative", "image", "true"], 125, "relative"),
        (&["-v", "a:b:c:d", "image", "true"], 125, "a:b:c:d"),
        (&["-v", "/etc:relative", "image", "true"], 125, "relative"),
        (&["-v", &file, "image", "true"], 125, "/etc"),
        (&["--mount", "type=bind,src=/nosuch,dst=/x", "image", "true"], 125, "/nosuch"),
        (&["--pull=never", "nosuch:1", "true"], 125, "nosuch:1"),
        (&[&mirror, "nosuch:1", "true"], 125, "nosuch:1"),
        (&["--env-file", "nosuch", "image", "true"], 125, "nosuch"),
        (&["--entrypoint=", "image"], 125, "no command"),
        (&["--memory=1g", "image", "true"], 125, "--memory"),
    ];
    for isolation in ISOLATIONS {
        for (args, code, word) in &cases {
            let output = run(&workspace, isolation, args);
            assert_eq!(output.code(), *code, "{args:?}: {}", output.text());
            let errors: Vec<String> =
                output.stderr().lines().filter(|line| line.starts_with("rbuild: error: ")).map(str::to_owned).collect();
            assert!(errors.len() == 1 && output.text().contains(word), "{args:?}: {}", output.text());
            assert_eq!(stdout(&output), "", "{args:?}");
        }
    }
    // What the emulated kernel does not do and a failed command wanted is told: the beginning of a program for i386.
    let script = r"printf '\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\3\0' >/x; chmod 755 /x; /x";
    for isolation in ISOLATIONS {
        let output = run(&workspace, isolation, &["image", "sh", "-c", script]);
        assert!(output.code() != 0, "{}", output.text());
        let told = output.stderr().contains("rbuild: note: `execve` was refused");
        assert_eq!(told, isolation == "ptrace", "{}", output.text());
    }
    // As Docker's client, which has 1 for both.
    let output = finish(&mut command(&workspace, "userns", &["-it", "image", "true"]), Some(Vec::new()));
    assert!(output.code() == 1 && output.stderr().contains("the input device is not a TTY"), "{}", output.text());
    assert_eq!(run(&workspace, "userns", &[]).code(), 1);
    workspace.expect_clean();
}

#[test]
fn images_are_pulled() {
    let (workspace, registry) = require!(with_bases());
    let mirror = format!("--registry-mirror={}", registry.url());
    let output = run(&workspace, "userns", &[&mirror, "busybox", "echo", "ran"]).success();
    assert_eq!(stdout(&output), "ran\n");
    let told = stderr(&output);
    assert!(told.starts_with("Unable to find image 'busybox:latest' locally\nlatest: Pulling from "), "{told}");
    assert!(told.ends_with("Status: Downloaded newer image for busybox:latest\n"), "{told}");
    let asked = registry.asked().len();
    assert_eq!(run(&workspace, "ptrace", &[&mirror, "busybox", "true"]).success().text(), "");
    assert_eq!(registry.asked().len(), asked, "the store has it");
    let again = run(&workspace, "userns", &[&mirror, "--pull=always", "busybox", "true"]).success();
    assert!(again.stderr().contains("Image is up to date for busybox:latest"), "{}", again.text());
    let quiet = run(&workspace, "userns", &[&mirror, "-q", "--pull=always", "busybox", "true"]).success();
    assert_eq!(quiet.text(), "");
    workspace.expect_clean();
}

#[test]
fn signals() {
    let (workspace, _registry) = require!(with_image(""));
    let seconds = (6_000_000 + std::process::id()).to_string();
    let marked = format!("sleep\0{seconds}");
    for isolation in ISOLATIONS {
        // Nothing handles it: it ends the command, PID 1 or not.
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::USR1, 138)] {
            let script = format!("echo begun; exec sleep {seconds}");
            let mut running = Running::start(&mut command(&workspace, isolation, &["image", "sh", "-c", &script]));
            running.wait_for("begun");
            let begin = Instant::now();
            while leftovers::processes(Path::new(&marked)).is_empty() {
                assert!(begin.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(5));
            }
            running.signal(signal);
            assert_eq!(running.finish().code(), code, "{isolation}");
            leftovers::expect_none(Path::new(&marked), Duration::from_secs(2));
        }
        // It is handled.
        let script = "trap 'echo caught; exit 9' TERM; trap '' INT; echo begun; while :; do sleep 0.05; done";
        let mut running = Running::start(&mut command(&workspace, isolation, &["image", "sh", "-c", script]));
        running.wait_for("begun");
        running.signal(Signal::INT);
        std::thread::sleep(Duration::from_millis(100));
        running.signal(Signal::TERM);
        let output = running.finish();
        assert!(output.code() == 9 && stdout(&output).contains("caught"), "{isolation}: {}", output.text());
        // It is ignored, until it was said three times.
        let script = "trap '' TERM; echo begun; while :; do sleep 0.05; done";
        let mut running = Running::start(&mut command(&workspace, isolation, &["image", "sh", "-c", script]));
        running.wait_for("begun");
        for _ in 0..3 {
            running.signal(Signal::TERM);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(running.finish().code(), 143, "{isolation}");
        // Nobody can say anything any more: the kernel cleans up, and the next one the store.
        let script = format!("echo x >/written; echo begun; exec sleep {seconds}");
        let mut running = Running::start(&mut command(&workspace, isolation, &["image", "sh", "-c", &script]));
        running.wait_for("begun");
        running.signal(Signal::KILL);
        let _ = running.finish();
        leftovers::expect_none(Path::new(&marked), Duration::from_secs(5));
        let _ = run(&workspace, isolation, &["image", "true"]).success();
    }
    workspace.expect_clean();
}

#[test]
fn terminals() {
    let (workspace, _registry) = require!(with_image(""));
    for isolation in ISOLATIONS {
        let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo a terminal; tty; stty size; echo $TERM; echo tty >/dev/tty; \
                      trap 'stty size' WINCH; trap 'echo interrupted' INT; ls -l /dev/console; echo ready; \
                      while ! read x; do :; done; echo \"<$x>\"; exit 5";
        let mut started = command(&workspace, isolation, &["-it", "image", "sh", "-c", script]);
        let (mut terminal, mut child) = Terminal::start(&mut started);
        for text in
            ["a terminal\r\n", "/dev/pts/", "33 99\r\n", "xterm\r\n", "tty\r\n", "/dev/console\r\n", "ready\r\n"]
        {
            let _ = terminal.expect(text);
        }
        assert!(terminal.is_raw(), "{isolation}");
        terminal.type_in("\x03");
        let _ = terminal.expect("interrupted\r\n");
        // The shell looks at signals before it reads, not as it begins to.
        std::thread::sleep(Duration::from_millis(300));
        tcsetwinsize(&terminal.master, Winsize { ws_row: 12, ws_col: 34, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        // The test's terminal is nobody's controlling terminal, so that the kernel tells nobody of the new size.
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::WINCH).unwrap();
        let _ = terminal.expect("12 34\r\n");
        terminal.type_in("typed\r");
        let _ = terminal.expect("typed\r\n");
        let _ = terminal.expect("<typed>\r\n");
        assert_eq!(child.wait().unwrap().code(), Some(5), "{isolation}");
        assert!(!terminal.is_raw(), "{isolation}: the terminal is left raw");
        assert_eq!(tcgetwinsize(&terminal.master).unwrap().ws_row, 12);
        // What is shown may go elsewhere, and to the last byte.
        let shown = run(&workspace, isolation, &["-t", "image", "sh", "-c", "echo shown; echo both >&2; exit 6"]);
        assert_eq!((shown.code(), shown.text()), (6, "shown\r\nboth\r\n".to_owned()), "{isolation}");
        // Also where no command comes of it, and where a signal ends it.
        let (mut terminal, mut child) =
            Terminal::start(&mut command(&workspace, isolation, &["-it", "image", "nosuch"]));
        let _ = terminal.expect("rbuild: error: ");
        assert_eq!(child.wait().unwrap().code(), Some(127));
        assert!(!terminal.is_raw());
        let mut started = command(&workspace, isolation, &["-it", "image", "sh", "-c", "echo begun; exec sleep 1000"]);
        let (mut terminal, mut child) = Terminal::start(&mut started);
        let _ = terminal.expect("begun\r\n");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(143), "{isolation}");
        assert!(!terminal.is_raw());
    }
    workspace.expect_clean();
}

/// The most memory that any of these processes and their children had, in KiB.
fn most_memory(marks: &[&Path], until: impl Fn() -> bool) -> u64 {
    let mut most = 0;
    while !until() {
        for process in marks.iter().flat_map(|mark| leftovers::processes(mark)) {
            let pid = process.split(':').next().unwrap_or_default();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
            most = most.max(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    most
}

/// One image makes the context of the next, through a pipe.
#[test]
fn a_context_by_pipe() {
    let (workspace, registry) = require!(with_bases());
    workspace.files(
        "base",
        &[("Dockerfile", "FROM busybox\nONBUILD COPY Dockerfile.next /out/Dockerfile\nONBUILD CMD [\"tar\",\"-c\",\"-C\",\"/out\",\".\"]\n")],
    );
    let next =
        "FROM busybox\nCOPY . /got\nRUN wc -c </got/big >/size; rm /got/big\nCMD [\"cat\",\"/size\",\"/got/name\"]\n";
    workspace.files(
        "builder",
        &[
            (
                "Dockerfile",
                "FROM made-base\nRUN head -c 524288000 /dev/zero >/out/big; printf 'made here\\n' >/out/name\n",
            ),
            ("Dockerfile.next", next),
        ],
    );
    for (name, dir) in [("made-base", "base"), ("builder", "builder")] {
        let mut build = workspace.rbuild(build_flags(&registry));
        let _ = finish(build.args(["-q", "-t", name, dir]), None).success();
    }
    for isolation in ISOLATIONS {
        let mut run = command(&workspace, isolation, &["builder"]);
        let mut run = run.stdout(Stdio::piped()).spawn().unwrap();
        let mut build = workspace.rbuild(build_flags(&registry));
        build.args([&format!("--isolation={isolation}"), "-q", "-t", "runtime", "-"]).stdin(run.stdout.take().unwrap());
        let build = build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ended = std::thread::spawn(move || build.wait_with_output().unwrap());
        let most = most_memory(&[workspace.dir()], || ended.is_finished());
        let output = ended.join().unwrap();
        assert!(output.status.success(), "{isolation}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(run.wait().unwrap().success());
        assert!(most < 100 << 10, "{isolation}: {most} KiB of memory");
        assert!(most > 0, "no process was seen");
        assert_eq!(printed(&workspace, isolation, &["runtime"]), "524288000\nmade here\n");
        let _ = workspace.run(["prune", "--cache", "--force"]).success();
    }
    workspace.expect_clean();
}
