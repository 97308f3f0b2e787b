//! Standard streams that are not captured, and signals for a running command.

use super::{Place, Test};
use rbuild_sandbox::{Cancel, ExitStatus, Signals, Streams, TerminalSize, run_with};
use std::{
    fs::File,
    io::{Read, Write, pipe},
    os::fd::AsFd,
};

pub(super) const TESTS: &[Test] = &[
    ("open_files_are_given", open_files_are_given),
    ("a_terminal_is_handed_out", a_terminal_is_handed_out),
    ("signals_reach_a_command", signals_reach_a_command),
];

fn open_files_are_given(place: &Place) {
    let spec = place.script("streams-given", "read x; echo \"<$x>\"; echo err >&2; ls /proc/self/fd | wc -l; exit 3");
    let ((input, mut typed), (mut shown, output), (mut told, errors)) =
        (pipe().unwrap(), pipe().unwrap(), pipe().unwrap());
    typed.write_all(b"one\ntwo\n").unwrap();
    let streams = Streams::Given { stdin: input.as_fd(), stdout: output.as_fd(), stderr: errors.as_fd() };
    let report = run_with(&spec, &Cancel::new().unwrap(), &Signals::new(), streams).unwrap();
    assert_eq!(report.status, ExitStatus::Code(3));
    drop((output, errors));
    let (mut out, mut err) = (String::new(), String::new());
    shown.read_to_string(&mut out).unwrap();
    told.read_to_string(&mut err).unwrap();
    // The fourth is that of `ls` for the directory.
    assert_eq!((out.as_str(), err.as_str()), ("<one>\n4\n", "err\n"));
}

fn a_terminal_is_handed_out(place: &Place) {
    let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && tty; stty size; echo by name >/dev/tty; [ -c /dev/console ] && \
                  echo console; read x; echo \"<$x>\"";
    let spec = place.script("terminal", script);
    let mut reader = None;
    let mut opened = |master: std::os::fd::OwnedFd| {
        let mut master = File::from(master);
        master.write_all(b"typed\n").unwrap();
        reader = Some(std::thread::spawn(move || {
            let (mut text, mut buffer) = (Vec::new(), [0; 1000]);
            // At the end is an error.
            while let Ok(length @ 1..) = master.read(&mut buffer) {
                text.extend_from_slice(&buffer[..length]);
            }
            String::from_utf8(text).unwrap()
        }));
    };
    let streams = Streams::Terminal { size: TerminalSize { rows: 12, columns: 34 }, opened: &mut opened };
    let report = run_with(&spec, &Cancel::new().unwrap(), &Signals::new(), streams).unwrap();
    assert_eq!(report.status, ExitStatus::Code(0));
    let text = reader.unwrap().join().unwrap();
    assert!(text.contains("/dev/pts/"), "{text}");
    assert!(text.ends_with("12 34\r\nby name\r\nconsole\r\n<typed>\r\n"), "{text}");
}

fn signals_reach_a_command(place: &Place) {
    for (script, signal, status) in [
        ("echo; exec sleep 1000", 15, ExitStatus::Signal(15)),
        ("trap 'exit 9' TERM; echo; while :; do sleep 0.05; done", 15, ExitStatus::Code(9)),
        ("trap '' INT; echo; sleep 0.4; exit 4", 2, ExitStatus::Code(4)),
    ] {
        let spec = place.script("signals", script);
        let ((mut shown, output), null) = (pipe().unwrap(), File::open("/dev/null").unwrap());
        let signals = Signals::new();
        assert!(!signals.send(signal), "there is no command yet");
        let sender = {
            let signals = signals.clone();
            std::thread::spawn(move || {
                shown.read_exact(&mut [0]).unwrap();
                signals.send(signal)
            })
        };
        let streams = Streams::Given { stdin: null.as_fd(), stdout: output.as_fd(), stderr: null.as_fd() };
        let report = run_with(&spec, &Cancel::new().unwrap(), &signals, streams).unwrap();
        assert_eq!(report.status, status, "{script}");
        assert!(sender.join().unwrap());
        assert!(!signals.send(signal), "the command has ended");
    }
}
