//! Commands from their start to their end: environment, output, limits.

use super::{Place, Test, do_it, output, try_do, words};
use rbuild_sandbox::{
    Access, Cancel, ExecError, ExitStatus, Mount, Overlay, Privilege, Resource, RootFs, RunError, Stream, Ulimit, run,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

pub(super) const TESTS: &[Test] = &[
    ("commands_that_cannot_start", commands_that_cannot_start),
    ("environment_is_exact", environment_is_exact),
    ("no_descriptor_leaks", no_descriptor_leaks),
    ("limits_are_set", limits_are_set),
    ("exit_codes_and_signals", exit_codes_and_signals),
    ("output_is_kept_apart_and_in_order", output_is_kept_apart_and_in_order),
    ("output_is_binary_and_unlimited", output_is_binary_and_unlimited),
    ("nothing_survives_the_command", nothing_survives_the_command),
    ("signals_interrupt_no_lookup", signals_interrupt_no_lookup),
    ("waiting_for_a_pipe_can_be_interrupted", waiting_for_a_pipe_can_be_interrupted),
    ("cancel_ends_a_command", cancel_ends_a_command),
    ("a_panic_in_the_callback_ends_the_command", a_panic_in_the_callback_ends_the_command),
    ("many_steps_at_once", many_steps_at_once),
];

fn commands_that_cannot_start(place: &Place) {
    let layer = place.dir("commands");
    fs::create_dir(layer.join("x")).unwrap();
    for (name, mode, content) in [
        ("x/plain", 0o644, "no program"),
        ("x/garbage", 0o755, "\0no program"),
        ("x/orphan", 0o755, "#!/none\n"),
        ("x/script", 0o755, "#!/bin/sh\necho script\n"),
    ] {
        fs::write(layer.join(name), content).unwrap();
        fs::set_permissions(layer.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let with = |argv0: &str, path: &str| {
        let mut spec = place.script_over("start", vec![layer.clone()], "");
        spec.argv = words(&[argv0]);
        spec.env = words(&[&format!("PATH={path}")]);
        spec
    };
    for (argv0, path, expected) in [
        ("nothing", "/bin", ExecError::NotFoundInPath),
        ("sh", "", ExecError::NotFoundInPath),
        ("plain", "/x", ExecError::NotFoundInPath),
        ("/bin/nothing", "/bin", ExecError::Stat(2)),
        ("/x/plain/y", "/bin", ExecError::Stat(20)),
        ("/x/plain", "/bin", ExecError::PermissionDenied),
        ("/x", "/bin", ExecError::IsDirectory),
        ("garbage", "/none:/x", ExecError::Exec(8)),
        ("/x/orphan", "/bin", ExecError::Exec(2)),
    ] {
        match try_do(&with(argv0, path)) {
            Err(RunError::Exec { argv0: told, reason }) => {
                assert_eq!((told.as_slice(), reason), (argv0.as_bytes(), expected));
            }
            other => panic!("{argv0}: {:?}", other.map(|done| done.report)),
        }
    }
    assert_eq!(output(&with("script", "/none:/x:/bin")), "script\n");
    let mut spec = with("x/script", "");
    assert_eq!(output(&spec), "script\n", "a relative name is seen from the working directory");
    for (cwd, errno) in [("/none", 2), ("/x/script", 20)] {
        spec.cwd = cwd.into();
        let error = try_do(&spec).err().unwrap();
        assert!(matches!(&error, RunError::Chdir { path, .. } if path == Path::new(cwd)), "{error}");
        assert_eq!(error.errno(), Some(errno));
    }
    spec = with("script", "/x");
    spec.argv = Vec::new();
    assert!(matches!(try_do(&spec), Err(RunError::Exec { reason: ExecError::NotFoundInPath, .. })));
    spec.argv = words(&["a\0b"]);
    assert!(try_do(&spec).is_err());
    let overlay = Overlay { lower: vec!["/none".into()], ..place.overlay("start", Vec::new()) };
    spec.root = RootFs::Overlay(overlay);
    assert!(matches!(try_do(&spec), Err(RunError::Mount { .. })));
}

fn environment_is_exact(place: &Place) {
    let mut spec = place.script("env", "env; echo $HOSTNAME; hostname; cat /proc/self/attr/current 2>/dev/null; true");
    spec.argv = words(&["env"]);
    spec.env = vec![b"PATH=/bin".to_vec(), b"A=b=c".to_vec(), b"BYTES=\xff\xfe".to_vec(), b"EMPTY=".to_vec()];
    let mut seen = Vec::new();
    run(&spec, &Cancel::new().unwrap(), &mut |output| seen.extend_from_slice(output.bytes)).unwrap();
    assert_eq!(seen, b"PATH=/bin\nA=b=c\nBYTES=\xff\xfe\nEMPTY=\n");
    let mut spec = place.script("env", "hostname; pwd; umask; touch f; stat -c %a f");
    spec.hostname = b"a-name".to_vec();
    spec.cwd = "/tmp".into();
    spec.umask = 0o077;
    assert_eq!(output(&spec), "a-name\n/tmp\n0077\n600\n");
}

fn no_descriptor_leaks(place: &Place) {
    let _open = fs::File::open("/").unwrap();
    let text = output(&place.script("fds", "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]* -> .*\\)/\\1/p'"));
    let numbers: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{text}");
    assert!(text.starts_with("0 -> /dev/null\n1 -> pipe:") && text.contains("2 -> pipe:"), "{text}");
    assert_eq!(output(&place.script("fds", "readlink /proc/self/cwd; readlink /proc/self/root; cat")), "/\n/\n");
}

fn limits_are_set(place: &Place) {
    let mut spec = place.script("limits", "ulimit -Sn; ulimit -Hn; ulimit -Sc");
    spec.ulimits = vec![
        Ulimit { resource: Resource::Nofile, soft: 100, hard: 200 },
        Ulimit { resource: Resource::Core, soft: 0, hard: u64::MAX },
    ];
    assert_eq!(output(&spec), "100\n200\n0\n");
    spec.ulimits = vec![Ulimit { resource: Resource::Nofile, soft: u64::MAX, hard: 1 << 40 }];
    if place.facts().privilege != Privilege::Root {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap();
        assert_eq!(output(&spec), format!("{most}\n{most}\n0\n"));
    }
}

fn exit_codes_and_signals(place: &Place) {
    for code in [0, 1, 42, 255] {
        let done = do_it(&place.script("exit", &format!("exit {code}")));
        assert_eq!(done.report.status, ExitStatus::Code(code));
        assert_eq!(done.report.status.code(), code);
    }
    let done = do_it(&place.script("exit", "sh -c 'kill -TERM $$'; exit $?"));
    assert_eq!(done.report.status, ExitStatus::Code(143), "a child of PID 1");
    // The kernel kills PID 1 itself where it has used up its time.
    let mut spec = place.script("exit", "while :; do :; done");
    spec.ulimits = vec![Ulimit { resource: Resource::Cpu, soft: 1, hard: 1 }];
    let done = do_it(&spec);
    assert_eq!(done.report.status, ExitStatus::Signal(9));
    assert_eq!(done.report.status.code(), 137);
}

fn output_is_kept_apart_and_in_order(place: &Place) {
    // The command waits until each of its lines has arrived, so that no load of the machine can bring two together.
    let script = "for i in 1 2 3 4 5 6 7 8; do echo out $i; until [ -e /sync/o$i ]; do usleep 500; done; \
        echo err $i >&2; until [ -e /sync/e$i ]; do usleep 500; done; done; printf end";
    let sync = place.dir("sync");
    let mut spec = place.script("order", script);
    spec.mounts =
        vec![Mount::Bind { source: sync.clone(), within: None, target: "/sync".into(), access: Access::ReadOnly }];
    let mut seen = Vec::new();
    run(&spec, &Cancel::new().unwrap(), &mut |output| {
        assert!(output.time.elapsed().unwrap() < Duration::from_secs(5));
        let text = String::from_utf8(output.bytes.to_vec()).unwrap();
        if let Some(number) = text.trim().split(' ').nth(1) {
            fs::write(sync.join(format!("{}{number}", &text[..1])), "").unwrap();
        }
        seen.push((output.stream, text));
    })
    .unwrap();
    let expected =
        (1..=8).flat_map(|i| [(Stream::Stdout, format!("out {i}\n")), (Stream::Stderr, format!("err {i}\n"))]);
    let expected: Vec<_> = expected.chain([(Stream::Stdout, "end".to_owned())]).collect();
    assert_eq!(seen, expected);
}

fn output_is_binary_and_unlimited(place: &Place) {
    let mut bytes = Vec::new();
    let mut errors = 0;
    let script = r"printf '\000\377\n\200'; head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 5";
    let report = run(&place.script("binary", script), &Cancel::new().unwrap(), &mut |output| match output.stream {
        Stream::Stdout => bytes.extend_from_slice(output.bytes),
        Stream::Stderr => errors += output.bytes.len(),
    })
    .unwrap();
    assert_eq!(report.status, ExitStatus::Code(5));
    assert_eq!(&bytes[..4], b"\0\xff\n\x80");
    assert_eq!((bytes.len(), errors), (3_000_004, 1_000_000));
}

fn nothing_survives_the_command(place: &Place) {
    let seconds = format!("{}.77", 200_000 + std::process::id());
    let script = format!("(setsid sleep {seconds} > /dev/null 2>&1 &); sleep {seconds} & echo done");
    let start = Instant::now();
    assert_eq!(output(&place.script("stray", &script)), "done\n");
    assert!(start.elapsed() < Duration::from_secs(5));
    let wanted = format!("sleep\0{seconds}\0");
    for entry in fs::read_dir("/proc").unwrap() {
        let line = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        assert_ne!(line, wanted.as_bytes());
    }
}

fn cancel_ends_a_command(place: &Place) {
    let spec = place.script("cancel", "echo running; trap '' TERM INT; sleep 1000");
    let cancel = Cancel::new().unwrap();
    let other = cancel.clone();
    let start = Instant::now();
    let result = run(&spec, &cancel, &mut |_| other.cancel());
    assert!(matches!(result, Err(RunError::Cancelled)), "{result:?}");
    assert!(matches!(run(&spec, &cancel, &mut |_| {}), Err(RunError::Cancelled)), "a handle stays cancelled");
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn a_panic_in_the_callback_ends_the_command(place: &Place) {
    let spec = place.script("panic", "echo; sleep 1000");
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = run(&spec, &Cancel::new().unwrap(), &mut |_| panic!("as is tested"));
    }));
    let _ = std::panic::take_hook();
    assert!(caught.is_err());
    assert!(rustix::process::waitpid(None, rustix::process::WaitOptions::NOHANG).is_err(), "no child is left");
}

fn many_steps_at_once(place: &Place) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let spec =
                    place.script(&format!("parallel-{number}"), &format!("usleep 20000; echo {number}; exit {number}"));
                scope.spawn(move || (number, do_it(&spec)))
            })
            .collect();
        for thread in threads {
            let (number, done) = thread.join().unwrap();
            assert_eq!(done.stdout, format!("{number}\n"));
            assert_eq!(done.report.status, ExitStatus::Code(number));
        }
    });
}

fn waiting_for_a_pipe_can_be_interrupted(place: &Place) {
    let script = "mkfifo /p; timeout 1 cat /p; echo $?; timeout 1 sh -c 'echo lost >/p'; echo $?; \
        (sleep 1; echo passed >/p) & cat /p; cat /p & pid=$!; sleep 1; kill -STOP $pid; kill -CONT $pid; echo again >/p; wait";
    let begun = Instant::now();
    assert_eq!(output(&place.script("pipe", script)), "143\n143\npassed\nagain\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

fn signals_interrupt_no_lookup(place: &Place) {
    // The shell's handlers are installed without SA_RESTART, and a directory that cannot be opened has no files for it.
    let script = "touch /tmp/a.f /tmp/b.f; trap : USR1; (while kill -USR1 $$; do :; done) 2>/dev/null & pid=$!; i=0; \
        while [ $i -lt 500 ]; do set -- /tmp/*.f; [ $# = 2 ] && [ -e /tmp/a.f ] || echo lost; i=$((i+1)); done; kill $pid; echo done";
    assert_eq!(output(&place.script("signals", script)), "done\n");
}
