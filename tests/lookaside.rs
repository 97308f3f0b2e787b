//! Under the emulated kernel a process finds out by itself that a file is not there. What it finds must be what the
//! kernel itself would say, whatever happens to the files meanwhile.

use rbuild_testkit::require;

use crate::{build_flags, with_bases};

const DOCKERFILE: &str = "FROM debian:bookworm AS made
COPY --from=busybox /bin/busybox /
COPY script /
WORKDIR /w
RUN [\"/bin/sh\", \"/script\"]
FROM scratch
COPY --from=made /out /used /
";

/// Shell functions: `t` shows what the shell itself sees at every path, twice, as the second time it may know by itself.
const HEAD: &str = r#"
paths="x y/z a a/x a/b a/b/x ../x ../a/x ../../w/a b/../x l l/x m m/x /w/a/b /w/l/b/x a/ l/ x/ nowhere/x"
show() {
  for p in $paths; do
    s=-
    test -e $p && s=e
    test -L $p && s=${s}l
    test -d $p && s=${s}d
    test -x $p && s=${s}x
    printf '%s ' $s
  done
  echo
}
t() { show; show; }
b() { /busybox "$@" 2>/dev/null; }
/busybox mkdir -p /w/a/b /w/y && cd /w
: >/used
while read -r line; do case $line in *rbuild-library*) echo yes >/used ;; esac; done </proc/self/maps
exec >/out
t
"#;

/// A generator of numbers below another, the same for the same seed.
fn random(mut state: u64) -> impl FnMut(usize) -> usize {
    move |end| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % end
    }
}

fn script(seed: u64) -> String {
    let mut below = random(seed);
    let mut script = HEAD.to_owned();
    for _ in 0..60 {
        let names = ["x", "y", "y/z", "a", "a/x", "a/b", "a/b/x", "l", "m", "b", "../x", "/w/a"];
        let mut name = || names[below(names.len())];
        let (one, other) = (name(), name());
        let line = match below(12) {
            0 | 1 => format!("b touch {one}"),
            2 => format!("b mkdir {one}"),
            3 => format!("b rm -r {one}"),
            4 | 5 => format!("b mv {one} {other}"),
            6 => format!("b ln -sn {other} {one}"),
            7 => format!("b chmod {} {one}", ["755", "644", "000"][below(3)]),
            8 => format!("cd {one} 2>/dev/null"),
            9 => "cd /w".to_owned(),
            // Another process that begins with the same memory goes elsewhere, and changes what this one knows.
            10 => format!("(cd {one} 2>/dev/null && show && b touch {other}; show) "),
            _ => format!("true >{one}"),
        };
        script.push_str(&format!("{{ {line}; }} 2>/dev/null; t\n"));
    }
    script
}

#[test]
fn a_process_that_looks_by_itself_sees_what_is_there() {
    let (workspace, registry) = require!(with_bases());
    for seed in 0..12 {
        workspace.files("context", &[("Dockerfile", DOCKERFILE), ("script", &script(seed))]);
        let [native, emulated] = ["userns", "ptrace"].map(|isolation| {
            let out = format!("out-{isolation}-{seed}");
            let mut flags = build_flags(&registry).to_vec();
            flags.extend([format!("--isolation={isolation}"), format!("--output=type=local,dest={out}")]);
            flags.extend(["--no-cache".to_owned(), "context".to_owned()]);
            let _ = workspace.run(&flags).success();
            let read = |name| std::fs::read_to_string(workspace.dir().join(&out).join(name)).unwrap();
            (read("out"), read("used"))
        });
        assert_eq!((native.1.as_str(), emulated.1.as_str()), ("", "yes\n"));
        assert!(native.0.contains("ed") && native.0.lines().count() > 100, "{}", native.0);
        let first = native.0.lines().zip(emulated.0.lines()).position(|(native, emulated)| native != emulated);
        assert_eq!(native.0, emulated.0, "seed {seed}: line {first:?} of the output");
    }
    workspace.expect_clean();
}
