//! Many builds at once on one store that was empty before.

use rbuild_testkit::workspace::Running;
use rbuild_testkit::{listing, require};

use crate::{build_flags, with_bases};

#[test]
fn eight_builds_on_one_empty_store() {
    let (workspace, registry) = require!(with_bases());
    let context = workspace.files(
        "context",
        &[
            (
                "Dockerfile",
                "FROM layers:1 AS one\nRUN seq 1 1000 >/numbers\nFROM busybox\nARG WHO\nCOPY --from=one /numbers /n\n\
                 COPY data /data/\nRUN echo \"$WHO\" >/who && mkdir /d && chown 33:33 /d && chmod 700 /d\n",
            ),
            ("data/a", "a\n"),
            ("data/b/c", "c\n"),
        ],
    );
    // Two of each: some do the same work at the same time, some share but a part of it.
    let builds: Vec<(String, Running)> = (0..8)
        .map(|n| {
            let who = format!("who{}", n / 2);
            let mut build = workspace.rbuild(build_flags(&registry));
            let format = if n % 4 < 2 { "buildkit" } else { "docker" };
            build.arg(format!("--log-format={format}")).args(["--build-arg", &format!("WHO={who}")]);
            build.args(["-t", &format!("many:{n}")]).arg(&context);
            (who, Running::start(&mut build))
        })
        .collect();
    for (n, (who, build)) in builds.into_iter().enumerate() {
        let output = build.finish();
        assert_eq!(output.code(), 0, "build {n}: {}", output.text());
        let image = listing::of_archive(&workspace.saved(&format!("many:{n}")));
        let digest = |path: &str| image["files"][path]["sha256"].as_str().unwrap_or_default().to_owned();
        assert_eq!(digest("/who"), rbuild_testkit::sha256(format!("{who}\n").as_bytes()), "build {n}");
        let numbers: String = (1..=1000).map(|n| format!("{n}\n")).collect();
        assert_eq!(digest("/n"), rbuild_testkit::sha256(numbers.as_bytes()), "build {n}");
        assert_eq!(digest("/data/b/c"), rbuild_testkit::sha256(b"c\n"), "build {n}");
        assert_eq!(image["files"]["/d"]["owner"], "33:33", "build {n}");
    }
    workspace.expect_clean();
}
