//! Working containers: images made by hand (`rbuild from`, `copy`, `run --container`, `config`, `commit`), as an ordinary
//! user under each isolation.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rbuild_testkit::registry::Registry;
use rbuild_testkit::workspace::{Output, Running, Workspace, finish};
use rbuild_testkit::{leftovers, listing, require};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{build_flags, with_bases};

const ISOLATIONS: [&str; 2] = ["userns", "ptrace"];

/// A place with a container `c` of busybox.
fn with_container(isolation: &str) -> Result<(Workspace, Registry), String> {
    let (workspace, registry) = with_bases()?;
    let _ = from(&workspace, &registry, isolation, &["--name=c", "busybox"]).success();
    Ok((workspace, registry))
}

fn from(workspace: &Workspace, registry: &Registry, isolation: &str, args: &[&str]) -> Output {
    let flags = ["from", &format!("--isolation={isolation}"), &format!("--registry-mirror={}", registry.url())];
    finish(workspace.rbuild(flags).args(args), None)
}

/// Runs a script of the user's, in which `rbuild` is the program: it ends at the first error.
fn script(workspace: &Workspace, script: &str) -> Output {
    let rbuild = workspace.rbuild(["x"]);
    let program = rbuild.get_program().to_str().unwrap().to_owned();
    let mut sh = workspace.command("/bin/sh");
    sh.env("RBUILD_ROOT", workspace.store()).arg("-euc").arg(format!("rbuild() {{ {program} \"$@\"; }}\n{script}"));
    finish(&mut sh, None)
}

/// What a command in the container wrote.
fn inside(workspace: &Workspace, flags: &[&str], command: &str) -> String {
    let args = [&["run", "--container=c"], flags, &["--", "sh", "-c", command]].concat();
    String::from_utf8(workspace.run(args).success().stdout).unwrap()
}

fn containers(workspace: &Workspace) -> Value {
    serde_json::from_slice(&workspace.run(["containers", "--json"]).success().stdout).unwrap()
}

fn names(workspace: &Workspace) -> Vec<String> {
    workspace.run(["containers", "-q"]).success().stdout().lines().map(str::to_owned).collect()
}

/// The one error, whatever hint follows it.
fn error(output: &Output) -> String {
    assert_ne!(output.code(), 0, "{}", output.text());
    assert!(output.stdout.is_empty(), "{}", output.text());
    let errors: Vec<String> =
        output.stderr().lines().filter_map(|line| line.strip_prefix("rbuild: error: ")).map(str::to_owned).collect();
    assert_eq!(errors.len(), 1, "{}", output.text());
    errors.concat()
}

#[test]
fn an_image_by_hand_is_that_of_a_dockerfile() {
    let (workspace, registry) = require!(with_bases());
    workspace.files(
        "context",
        &[
            ("site/index", "hello\n"),
            ("site/deep/page", "page\n"),
            ("run.sh", "#!/bin/sh\necho ran\n"),
            (
                "Dockerfile",
                "FROM layers:1 AS other\nFROM busybox\nWORKDIR /srv\nCOPY site site/\nCOPY --chown=33:33 --chmod=755 run.sh /usr/bin/\n\
                 COPY --from=other /l/a /from/other\nRUN echo w:x:77:78::/home/w:/bin/sh >>/etc/passwd && rm /bin/vi && \
                 mkdir -p /home/w && chown 77:78 /home/w && rm -rf /var && mkdir /var && ln /srv/site/index /var/linked\n\
                 ENV A=1 PATH=/opt/bin:$PATH\nLABEL l=v\nEXPOSE 80 53/udp\nVOLUME /data\nUSER w\nSTOPSIGNAL TERM\n\
                 HEALTHCHECK --interval=5s CMD [\"true\"]\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"run.sh\"]\n",
            ),
        ],
    );
    let mut build = workspace.rbuild(build_flags(&registry));
    let _ = finish(build.args(["-q", "--timestamp=100", "-t", "file", "context"]), None).success();
    let wanted = listing::of_archive(&workspace.saved("file"));
    let mut ids = Vec::new();
    for isolation in ISOLATIONS {
        let output = script(
            &workspace,
            &format!(
                "c=$(rbuild from --isolation={isolation} --registry-mirror={} busybox)\n\
                 rbuild config --workingdir /srv $c\n\
                 rbuild copy -q $c context/site site/\n\
                 rbuild copy -q --chown 33:33 --chmod 755 $c context/run.sh /usr/bin/\n\
                 rbuild copy -q --from layers:1 $c /l/a /from/other\n\
                 rbuild run --container $c -- sh -c 'echo w:x:77:78::/home/w:/bin/sh >>/etc/passwd'\n\
                 rbuild run --container $c -- sh -c 'rm /bin/vi; mkdir -p /home/w; chown 77:78 /home/w'\n\
                 rbuild run --container $c -- sh -c 'rm -rf /var; mkdir /var; ln /srv/site/index /var/linked'\n\
                 rbuild config -e A=1 -e 'PATH=/opt/bin:$PATH' -l l=v -p 80 -p 53/udp -v /data -u w $c\n\
                 rbuild config --stop-signal TERM --healthcheck 'CMD true' --healthcheck-interval 5s $c\n\
                 rbuild config --entrypoint '[\"/bin/sh\", \"-c\"]' --cmd run.sh $c\n\
                 rbuild commit --timestamp 100 --rm $c hand",
                registry.url()
            ),
        )
        .success();
        let id = output.stdout().lines().last().unwrap().to_owned();
        assert!(id.len() == 64 && names(&workspace).is_empty(), "{}", output.text());
        let hand = listing::of_archive(&workspace.saved("hand"));
        for part in ["config", "os", "architecture", "files"] {
            assert_eq!(hand[part], wanted[part], "{isolation}: {part}");
        }
        assert_eq!(hand["layers"], json!(2));
        assert_eq!(
            hand["history"].as_array().unwrap().last(),
            Some(&json!({"created_by": "rbuild commit", "comment": "FROM busybox"}))
        );
        assert_eq!(workspace.run(["run", &id]).success().stdout(), "ran");
        ids.push(id);
    }
    assert_eq!(ids[0], ids[1], "the isolation is nothing of the image");
    workspace.expect_clean();
}

#[test]
fn what_is_run_in_a_container() {
    for isolation in ISOLATIONS {
        let (workspace, _registry) = require!(with_container(isolation));
        // What one command leaves the next one finds, users included.
        let _ = inside(&workspace, &[], "echo one >/one; echo u:x:77:78::/home/u:/bin/sh >>/etc/passwd; rm /bin/vi");
        assert_eq!(
            inside(&workspace, &["-u", "u"], "cat /one; id -u; id -g; echo $HOME; ls /bin/vi 2>&1 | wc -l"),
            "one\n77\n78\n/home/u\n1\n"
        );
        let _ = workspace
            .run(["config", "-e", "A=1", "--user=u", "--workingdir=/w", "--entrypoint=nosuch", "--volume=/data", "c"])
            .success();
        assert_eq!(inside(&workspace, &["-e", "B=2"], "pwd; id -u; echo $A$B"), "/w\n77\n12\n");
        // Places of volumes are kept as in a build; those of this command alone are not.
        let dir = workspace.files("host", &[("file", "of the host\n")]);
        let flags = ["-u0", "-v", &format!("{}:/m", dir.display()), "-v", "/anonymous"];
        let _ =
            inside(&workspace, &flags, "mkdir -p /data; echo d >/data/f; echo a >/anonymous/f; cat /m/file >/m/copy");
        assert_eq!(inside(&workspace, &[], "cat /data/f; ls /anonymous"), "d\n");
        assert_eq!(fs::read_to_string(dir.join("copy")).unwrap(), "of the host\n");
        // Streams and exit codes are those of `rbuild run`.
        let mut cat = workspace.rbuild(["run", "-i", "--container", "c", "cat"]);
        assert_eq!(finish(&mut cat, Some(b"to it\n".to_vec())).success().stdout, b"to it\n");
        let both = workspace.run(["run", "--container=c", "sh", "-c", "echo out; echo err >&2; exit 42"]);
        assert_eq!((both.code(), &both.stdout[..], &both.stderr[..]), (42, &b"out\n"[..], &b"err\n"[..]));
        assert_eq!(workspace.run(["run", "--container=c", "nosuch"]).code(), 127);
        assert_eq!(workspace.run(["shell", "--container=c", "cat", "/one"]).success().stdout(), "one");
        // A read-only root changes nothing.
        assert_ne!(workspace.run(["run", "--container=c", "-u0", "--read-only", "touch", "/x"]).code(), 0);
        let _ = workspace.run(["rm", "c"]).success();
        workspace.expect_clean();
    }
}

#[test]
fn what_is_copied() {
    for isolation in ISOLATIONS {
        let (workspace, registry) = require!(with_container(isolation));
        let dir = workspace.files(
            "src",
            &[
                ("a", "a\n"),
                ("b.txt", "b\n"),
                ("c.txt", "c\n"),
                ("sub/s", "s\n"),
                ("we[i]rd", "w\n"),
                (".ignore", "*.txt\n!c.txt\n"),
            ],
        );
        symlink("a", dir.join("link")).unwrap();
        symlink(workspace.files("outside", &[("secret", "s\n")]).join("secret"), dir.join("out")).unwrap();
        let copy = |args: &[&str]| workspace.run([&["copy"], args].concat());
        let list = |path: &str| {
            inside(&workspace, &["-w", path], "find . ! -type d | sort | xargs ls -n | awk '{print $1,$3,$4,$9}'")
        };
        // A directory is its content, a link is what it leads to, and several go into a directory.
        let digest = copy(&["c", "src/sub", "src/a", "src/link", "/d1"]).success().stdout();
        assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}");
        assert_eq!(list("/d1"), "-rw-r--r-- 0 0 ./a\n-rw-r--r-- 0 0 ./link\n-rw-r--r-- 0 0 ./s\n");
        assert_eq!(copy(&["c", "src/sub", "src/a", "src/link", "/d2"]).success().stdout(), digest);
        // Wildcards, unless it is a file's name; quiet; one file under a new name.
        assert_eq!(
            copy(&["-q", "--chmod=600", "--chown=nobody:33", "c", "src/*.txt", "src/we[i]rd", "/d3"]).success().text(),
            ""
        );
        let owned = list("/d3");
        assert_eq!(owned, "-rw------- 65534 33 ./b.txt\n-rw------- 65534 33 ./c.txt\n-rw------- 65534 33 ./we[i]rd\n");
        let _ = copy(&["c", "src/a", "/d4/new"]).success();
        assert_eq!(inside(&workspace, &[], "cat /d4/new"), "a\n");
        // Without a destination, and relative to the working directory.
        let _ = workspace.run(["config", "--workingdir=/w", "c"]).success();
        let _ = copy(&["c", "src/a"]).success();
        let _ = copy(&["c", "src/a", "rel/"]).success();
        assert_eq!(inside(&workspace, &[], "find /w -type f | sort"), "/w/a\n/w/rel/a\n");
        // Out of a context directory leads no link.
        let _ = copy(&["--contextdir=src", "--ignorefile=src/.ignore", "c", ".", "/d5"]).success();
        assert_eq!(
            inside(&workspace, &["-w", "/d5"], "find . -type f | sort | tr '\\n' ' '"),
            "./.ignore ./a ./c.txt ./sub/s ./we[i]rd "
        );
        for (args, wanted) in [
            (&["--contextdir=src", "c", "out", "/x"][..], "cannot find `out` in the context directory"),
            (&["--contextdir=src", "c", "../outside/secret", "/x"], "cannot find `../outside/secret`"),
            (&["--contextdir=src", "--ignorefile=src/.ignore", "c", "b.txt", "/x"], "the ignore file excludes it"),
            (&["--ignorefile=src/.ignore", "c", "src", "/x"], "context directory"),
            (&["c", "src/nosuch", "/x"], "src/nosuch`: no such file"),
            (&["c", "src/*.nosuch", "/x"], "src/*.nosuch`: no such file"),
            (&["c", "src/a/", "/x"], "not a directory"),
            (&["c", "src", "/etc/passwd"], "/etc/passwd"),
            (&["--chown=nosuch", "c", "src", "/x"], "no user `nosuch`"),
            (&["--chmod=9", "c", "src", "/x"], "`9` is no mode"),
            (&["c", "http://127.0.0.1:1/a", "/x"], "is no file"),
        ] {
            println!("{args:?}");
            let told = error(&copy(args));
            assert!(told.contains(wanted), "{args:?}: {told}");
        }
        assert_eq!(inside(&workspace, &[], "ls /x 2>/dev/null; cat /etc/passwd | grep -c ^root"), "1\n");
        // No link of the container's leads out of it either.
        let secret = workspace.path("outside/secret");
        let _ = inside(&workspace, &[], &format!("mkdir -p {0}; ln -s {0} /trap", secret.parent().unwrap().display()));
        let _ = copy(&["c", "src/a", "/trap/secret"]).success();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "s\n");
        // Out of another container, and out of an image with its owners.
        let other = from(&workspace, &registry, isolation, &["busybox"]).success().stdout();
        assert_eq!(other, "busybox-working-container");
        let _ = copy(&["--from=c", &other, "/d3", "/got"]).success();
        let _ = workspace.run(["commit", &other, "image:1"]).success();
        let _ = copy(&["--from=image:1", "c", "/got", "/back"]).success();
        assert_eq!(list("/back"), owned);
        assert!(error(&copy(&["--from=c", "c", "/d3", "/d9"])).contains("itself"));
        let _ = workspace.run(["rm", "-a"]).success();
        workspace.expect_clean();
    }
}

#[test]
fn archives_are_added() {
    for isolation in ISOLATIONS {
        let (workspace, registry) = require!(with_container(isolation));
        workspace.files("src", &[("a", "a\n"), ("sub/s", "s\n")]);
        let mut tar = workspace.command("tar");
        let _ = finish(tar.args(["czf", "a.tar.gz", "src"]), None).success();
        let _ = workspace.run(["add", "c", "a.tar.gz", "src/a", "/d"]).success();
        let _ = workspace.run(["copy", "c", "a.tar.gz", "/e/"]).success();
        let _ = workspace.run(["add", "-q", "c", &format!("{}/v2/", registry.url()), "/f/v2"]).success();
        assert_eq!(
            inside(&workspace, &[], "find /d /e /f -type f | sort | tr '\\n' ' '; stat -c %a /f/v2"),
            "/d/a /d/src/a /d/src/sub/s /e/a.tar.gz /f/v2 600\n"
        );
        assert!(error(&workspace.run(["add", "c", &format!("{}/nosuch", registry.url()), "/"])).contains("404"));
        let _ = workspace.run(["rm", "-a"]).success();
        workspace.expect_clean();
    }
}

#[test]
fn configurations() {
    let (workspace, _registry) = require!(with_container("userns"));
    let config = |flags: &[&str]| {
        let _ = workspace.run([&["config"], flags, &["c"]].concat()).success();
        containers(&workspace)[0]["config"]["config"].clone()
    };
    let set = config(&[
        "-eA=x y",
        "-e",
        "B=$A/${NONE}",
        "-l",
        "one=1",
        "-l",
        "two",
        "-p",
        "80",
        "-p",
        "81-82/udp",
        "-v",
        "/v",
        "-v",
        "/w",
        "--cmd",
        "a 'b c'",
        "--shell",
        "[\"/bin/x\", \"-c\"]",
        "--onbuild",
        "RUN x",
        "--author",
        "me",
        "--stop-signal=9",
    ]);
    for (name, wanted) in [
        ("Labels", json!({"one": "1", "two": ""})),
        ("ExposedPorts", json!({"80/tcp": {}, "81/udp": {}, "82/udp": {}})),
        ("Volumes", json!({"/v": {}, "/w": {}})),
        ("Cmd", json!(["a", "b c"])),
        ("Shell", json!(["/bin/x", "-c"])),
        ("OnBuild", json!(["RUN x"])),
        ("StopSignal", json!("9")),
    ] {
        assert_eq!(set[name], wanted, "{name}");
    }
    assert_eq!(set["Env"].as_array().unwrap()[1..], [json!("A=x y"), json!("B=x y/${NONE}")]);
    let removed =
        config(&["-e", "A-", "-l", "-", "-p", "81/udp-", "-v", "/v-", "--cmd", "", "--onbuild", "-", "--stop-signal="]);
    assert_eq!(removed["Env"].as_array().unwrap()[1..], [json!("B=x y/${NONE}")]);
    assert_eq!((&removed["Labels"], &removed["Cmd"], &removed["OnBuild"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(
        (&removed["ExposedPorts"], &removed["Volumes"]),
        (&json!({"80/tcp": {}, "82/udp": {}}), &json!({"/w": {}}))
    );
    // All or nothing.
    for bad in [
        &["-e", "=x"][..],
        &["-e", "NOT_SET_ANYWHERE"],
        &["-p", "http"],
        &["-v", "relative"],
        &["--stop-signal", "NO"],
        &["--cmd", "'open"],
        &["--healthcheck-interval", "5s"],
        &["--os", ""],
    ] {
        let _ = error(&workspace.run([&["config", "-l", "bad=1"], bad, &["c"]].concat()));
    }
    assert_eq!(containers(&workspace)[0]["config"]["config"]["Labels"], Value::Null);
    let _ = workspace
        .run(["config", "--created-by", "by hand", "--comment", "a remark", "--arch=arm64", "--variant=v8", "c"])
        .success();
    let _ = workspace.run(["commit", "--iidfile=id", "c", "image"]).success();
    let saved = listing::of_archive(&workspace.saved("image"));
    let last = json!({"created_by": "by hand", "comment": "a remark", "author": "me", "empty_layer": true});
    assert_eq!((saved["history"].as_array().unwrap().last(), &saved["architecture"]), (Some(&last), &json!("arm64")));
    let id = fs::read_to_string(workspace.path("id")).unwrap();
    assert_eq!(workspace.run(["images", "-q", "--no-trunc", "image"]).success().stdout(), id);
    let _ = workspace.run(["rm", "c"]).success();
    workspace.expect_clean();
}

#[test]
fn a_container_goes_on_after_it_was_committed() {
    for isolation in ISOLATIONS {
        let (workspace, registry) = require!(with_container(isolation));
        let commit = |flags: &[&str]| {
            let _ = workspace.run([&["commit"], flags, &["c", "image"]].concat()).success();
            let saved = listing::of_archive(&workspace.saved("image"));
            (saved["layers"].clone(), saved["files"].clone())
        };
        // Nothing was changed: there is no layer of nothing.
        assert_eq!(commit(&[]).0, json!(1));
        let _ = inside(&workspace, &[], "echo 1 >/one; rm /etc/group");
        let (layers, files) = commit(&[]);
        assert!(
            layers == json!(2) && files["/one"].is_object() && files["/two"].is_null() && files["/etc/group"].is_null()
        );
        let _ = inside(&workspace, &[], "echo 2 >/two; rm /one");
        let (layers, files) = commit(&[]);
        assert!(layers == json!(2) && files["/one"].is_null() && files["/two"].is_object(), "{layers}");
        let (layers, squashed) = commit(&["--squash"]);
        assert_eq!((layers, &squashed["/two"], &squashed["/bin/sh"]), (json!(1), &files["/two"], &files["/bin/sh"]));
        // A container of what was committed, and one of nothing.
        let next = from(&workspace, &registry, isolation, &["image"]).success().stdout();
        assert_eq!(next, "image-working-container");
        assert_eq!(workspace.run(["run", "--container", &next, "cat", "/two"]).success().stdout(), "2");
        let scratch = from(&workspace, &registry, isolation, &["scratch"]).success().stdout();
        assert_eq!(scratch, "working-container");
        let _ = workspace.run(["copy", "-q", "--from=image", &scratch, "/two", "/only"]).success();
        let _ = workspace.run(["commit", &scratch, "tiny"]).success();
        let tiny = listing::of_archive(&workspace.saved("tiny"));
        assert_eq!(
            (&tiny["layers"], tiny["files"].as_object().unwrap().keys().filter(|name| name.len() > 2).count()),
            (&json!(1), 1)
        );
        // Pruning leaves what containers lie on, though nothing else names it any more.
        let _ = workspace.run(["prune", "--all", "--force"]).success();
        assert_eq!(workspace.run(["images", "-qa"]).success().stdout(), "");
        assert_eq!(inside(&workspace, &[], "cat /two; echo 3 >/three"), "2\n");
        assert_eq!(commit(&[]).0, json!(2));
        assert_eq!(names(&workspace), ["c", "image-working-container", "working-container"]);
        let removed = workspace.run(["rm", "-a"]).success().stdout();
        assert_eq!(removed, "c\nimage-working-container\nworking-container");
        workspace.expect_clean();
    }
}

#[test]
fn one_at_a_time_and_none_is_lost() {
    for isolation in ISOLATIONS {
        let (workspace, _registry) = require!(with_container(isolation));
        let seconds = (7_000_000 + std::process::id()).to_string();
        let marked = format!("sleep\0{seconds}");
        let begin = |script: &str| {
            let mut running = Running::start(&mut workspace.rbuild(["run", "--container=c", "sh", "-c", script]));
            running.wait_for("begun");
            running
        };
        // Who comes second waits, and says so.
        let first = begin("echo begun; sleep 1; echo done >/done");
        let second = workspace.run(["run", "--container=c", "cat", "/done"]).success();
        assert_eq!(second.stdout(), "done");
        assert!(second.stderr().contains("another process uses the working container c"), "{}", second.text());
        let _ = first.finish();
        // Who waits can be stopped.
        let first = begin(&format!("echo >/some; echo begun; exec sleep {seconds}"));
        let mut waiting = Running::start(&mut workspace.rbuild(["commit", "c"]));
        waiting.wait_for("waiting for it");
        waiting.signal(Signal::INT);
        assert_eq!(waiting.finish().code(), 130);
        // What a killed command has left stays, and the container can be used.
        let begin = Instant::now();
        while leftovers::processes(Path::new(&marked)).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
        first.signal(Signal::KILL);
        leftovers::expect_none(Path::new(&marked), Duration::from_secs(5));
        assert_eq!(inside(&workspace, &[], "ls /some /done; echo more >/some"), "/done\n/some\n");
        let _ = workspace.run(["commit", "c", "image"]).success();
        let _ = workspace.run(["rm", "c"]).success();
        workspace.expect_clean();
    }
    let (workspace, _registry) = require!(with_container("userns"));
    // Of many that begin at once each has its own.
    let start = || workspace.rbuild(["from", "-q", "busybox"]).stdout(Stdio::piped()).spawn().unwrap();
    let started: Vec<_> = (0..6).map(|_| start()).collect();
    let mut names: Vec<String> = started
        .into_iter()
        .map(|child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned())
        .collect();
    names.sort();
    let wanted = ["", "-1", "-2", "-3", "-4", "-5"].map(|end| format!("busybox-working-container{end}"));
    assert_eq!(names, wanted);
    let _ = workspace.run(["rm", "--all"]).success();
    workspace.expect_clean();
}

#[test]
fn bad_input() {
    let (workspace, registry) = require!(with_container("ptrace"));
    let run = |args: &[&str]| workspace.run(args);
    for (args, wanted, hint) in [
        (&["from", "--name=c", "busybox"][..], "`c` already", "rbuild rm c"),
        (&["from", "--name=../c", "busybox"], "`../c` is no name", "letters"),
        (&["from", "--name=a/b", "scratch"], "`a/b` is no name", "letters"),
        (&["from", "--pull=never", "nosuch:1"], "no such image: nosuch:1", "rbuild images"),
        (&["from", "--pull=soon", "busybox"], "--pull", "none of missing, always and never"),
        (&["from", "Busybox"], "`Busybox` is no name of an image", ""),
        (&["copy", "nosuch", "/etc/passwd", "/"], "no working container `nosuch`", "there is `c`"),
        (&["copy", "--from=nosuch:1", "--pull=never", "c", "/a"], "no such image: nosuch:1", ""),
        (&["config", "-e", "A=1", "../c"], "`../c` is no name", ""),
        (&["config", "-e", "A=1", "nosuch"], "no working container `nosuch`", ""),
        (&["commit", "nosuch"], "no working container `nosuch`", ""),
        (&["commit", "c", "Bad"], "`Bad` is no name of an image", ""),
        (&["commit", "c", "docker-archive:/x.tar"], "images go into the store", "rbuild save"),
        (&["commit", "--timestamp=now", "c"], "--timestamp", ""),
        (&["rm", "nosuch"], "no working container `nosuch`", ""),
        (&["run", "--container=nosuch", "true"], "no working container `nosuch`", ""),
        (&["run", "--container=c", "--pull=always", "true"], "--pull", ""),
        (&["run", "--container=c", "--isolation=userns", "true"], "are kept as records", "--isolation=ptrace"),
    ] {
        let output = run(args);
        assert!(error(&output).contains(wanted) && output.text().contains(hint), "{args:?}: {}", output.text());
    }
    for args in [
        &["from"][..],
        &["copy", "c"],
        &["config"],
        &["commit"],
        &["rm"],
        &["rm", "-a", "c"],
        &["run", "--container=c"],
    ] {
        let output = run(args);
        assert!(output.code() == 1 && output.stderr().contains("Usage:"), "{args:?}: {}", output.text());
    }
    // One that is not there does not keep the others; without any, the error says how to begin.
    let output = run(&["rm", "nosuch", "c"]);
    assert_eq!((output.code(), output.stdout()), (1, "c".to_owned()), "{}", output.text());
    assert!(run(&["rm", "nosuch"]).stderr().contains("`rbuild from IMAGE` begins one"));
    let _ = run(&["rm", "-a"]).success();
    // Instructions for whoever builds on the image are not lost silently.
    workspace.files("context", &[("Dockerfile", "FROM busybox\nONBUILD RUN touch /x\n")]);
    let _ = finish(workspace.rbuild(build_flags(&registry)).args(["-q", "-t", "on", "context"]), None).success();
    let output = run(&["from", "on"]).success();
    assert!(output.stderr().contains("RUN touch /x") && output.stdout() == "on-working-container", "{}", output.text());
    assert!(containers(&workspace)[0]["config"]["config"]["OnBuild"].is_null());
    for command in ["from", "copy", "add", "config", "commit", "rm", "containers"] {
        assert!(run(&[command, "--help"]).success().stdout().contains("Examples:"), "{command}");
    }
    let _ = run(&["rm", "-a"]).success();
    workspace.expect_clean();
}
