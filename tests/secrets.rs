//! Secrets are seen by the commands that mount them, and by nothing and nobody else.

use std::fs;
use std::path::Path;

use rbuild_testkit::workspace::finish;
use rbuild_testkit::{leftovers, listing, require};

use crate::{build_flags, with_bases};

const FILE_SECRET: &str = "kartoffel-7f3a91-file";
const VARIABLE_SECRET: &str = "kartoffel-7f3a91-variable";
/// What both have in common.
const NEEDLE: &[u8] = b"kartoffel-7f3a91";

fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(NEEDLE.len()).any(|window| window == NEEDLE)
        // Compressed content is not as it is searched for.
        || (bytes.starts_with(&[0x1f, 0x8b]) && has_secret(&listing::decompressed(bytes.to_vec())))
}

#[test]
fn are_nowhere_but_in_their_command() {
    let (workspace, registry) = require!(with_bases());
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=secret,id=file --mount=type=secret,id=variable,target=/v,mode=0444 \
        cat /run/secrets/file /v | wc -c | tr -d ' ' >/seen; cp /run/secrets/file /dev/shm/; cp /v /tmp/v; rm /tmp/v\n\
        RUN --mount=type=secret,id=variable,env=TOKEN test \"${#TOKEN}\" = 25 && echo length is right\n\
        RUN ls -a /run /run/secrets /v 2>&1 | sort | uniq -c; env\n";
    workspace.files("context", &[("Dockerfile", dockerfile)]);
    let secrets = workspace.files("secrets", &[("file", FILE_SECRET)]);
    for (n, format) in ["buildkit", "events", "rawjson", "tty"].into_iter().enumerate() {
        let mut build = workspace.rbuild(build_flags(&registry));
        build.arg(format!("--log-format={format}")).args(["-v", "-v", "--no-cache", "-t", &format!("secret:{n}")]);
        build.arg(format!("--secret=id=file,src={}", secrets.join("file").display()));
        build.args(["--secret=id=variable,env=HIDDEN", "--metadata-file", "metadata.json"]).arg("context");
        let output = finish(build.env("HIDDEN", VARIABLE_SECRET), None).success();
        assert!(!has_secret(&output.stdout) && !has_secret(&output.stderr), "{format}: {}", output.text());
        assert!(!has_secret(&fs::read(workspace.path("metadata.json")).unwrap()));
        let archive = workspace.saved(&format!("secret:{n}"));
        assert!(!has_secret(&archive));
        let files = listing::of_archive(&archive)["files"].clone();
        // They were seen: 21 and 25 bytes.
        assert_eq!(files["/seen"]["sha256"], rbuild_testkit::sha256(b"46\n").as_str(), "{format}");
        for path in ["/run/secrets/file", "/v", "/tmp/v", "/dev/shm/file"] {
            assert!(files.get(path).is_none_or(|file| file["size"] == 0), "{format}: {path}: {}", files[path]);
        }
    }
    expect_no_secret(&workspace.store(), workspace.user().tests_are_root());
    // A secret that is not given but needed is an error which tells its name.
    workspace
        .files("needs", &[("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=lacking,required=true true\n")]);
    let output = workspace.run(build_flags(&registry).iter().map(String::as_str).chain(["needs"]));
    assert!(output.code() == 1 && output.stderr().contains("lacking"), "{}", output.text());
    workspace.expect_clean();
}

/// Looks into every file of a store.
fn expect_no_secret(store: &Path, as_root: bool) {
    let (mut files, mut closed) = (0, Vec::new());
    leftovers::walk(store, &mut |path| {
        if path.is_symlink() {
            return;
        }
        match fs::read(path) {
            Ok(bytes) => {
                files += 1;
                assert!(!has_secret(&bytes), "a secret is in {}", path.display());
            }
            Err(_) => closed.push(path.to_owned()),
        }
    });
    assert!(files > 10, "only {files} files in {}", store.display());
    // An ordinary user may not read files of the image's other users.
    assert!(closed.is_empty() || !as_root, "unread: {closed:?}");
}
