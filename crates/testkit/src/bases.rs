//! Base images for cases, made from what the machine has: its static busybox, and its shell for a Debian.
//!
//! They have the files, configuration and history of those that the goldens were recorded with. The digests differ,
//! since times do, so [`crate::mask`] hides digests of base images.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tar::EntryType;

use crate::registry::{Layer, Registry};
use crate::require;
use crate::tarball::Tarball;

/// PATH of every base.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CREATED: &str = "2024-01-01T00:00:00Z";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// The machine's static busybox.
pub struct Busybox {
    /// The program.
    pub program: Vec<u8>,
    /// What it can be called as.
    pub applets: BTreeSet<String>,
    layer: Layer,
}

/// The machine's static busybox; read once.
///
/// # Errors
/// With the reason to skip a test.
pub fn busybox() -> Result<&'static Busybox, String> {
    static BUSYBOX: OnceLock<Result<Busybox, String>> = OnceLock::new();
    BUSYBOX.get_or_init(find_busybox).as_ref().map_err(Clone::clone)
}

fn find_busybox() -> Result<Busybox, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the recorded images are for amd64".to_owned());
    }
    let path = require::program("busybox")?;
    let program = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let file = Command::new(&path).arg("--list").output().map_err(|error| format!("busybox --list: {error}"))?;
    // A program that needs an interpreter names it; /lib64/ld-linux… for one, which no image of ours has.
    if program.windows(8).any(|window| window == b"/ld-linu" || window == b"/ld-musl") {
        return Err("busybox is not static (Debian's package busybox-static is)".to_owned());
    }
    let applets: BTreeSet<String> =
        String::from_utf8_lossy(&file.stdout).lines().filter(|name| *name != "busybox").map(str::to_owned).collect();
    let mut names: Vec<(String, &str)> = applets.iter().map(|name| (format!("./bin/{name}"), "busybox")).collect();
    names.push(("./bin/busybox".to_owned(), ""));
    names.sort();
    let mut tar = Tarball::new().dir("./", 0o755).dir("./bin/", 0o755);
    for (name, target) in names {
        tar = match target {
            "" => tar.file(&name, 0o755, &program),
            target => tar.symlink(&name, target),
        };
    }
    let tar = tar
        .dir("./dev/", 0o755)
        .dir("./etc/", 0o755)
        .file("./etc/group", 0o644, GROUP.as_bytes())
        .file("./etc/passwd", 0o644, PASSWD.as_bytes())
        .dir("./home/", 0o755)
        .dir("./proc/", 0o755)
        .dir("./root/", 0o700)
        .dir("./sys/", 0o755)
        .dir("./tmp/", 0o1777)
        .dir("./usr/", 0o755)
        .dir("./usr/bin/", 0o755)
        .dir("./var/", 0o755);
    let layer = Layer::of(&tar.finish());
    Ok(Busybox { program, applets, layer })
}

/// Configuration of an image: what differs from an empty one, and steps of its history after the import.
fn config(changes: Value, steps: &[(&str, bool)]) -> Value {
    let mut config = json!({"Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": [format!("PATH={PATH}")],
        "Cmd": ["sh"], "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null, "OnBuild": null,
        "Labels": null});
    if let (Some(config), Value::Object(changes)) = (config.as_object_mut(), changes) {
        config.extend(changes);
    }
    let mut history = vec![json!({"created": CREATED, "comment": "Imported from -"})];
    for (created_by, empty) in steps {
        let mut step = json!({"created": CREATED, "created_by": created_by});
        if *empty {
            step["empty_layer"] = json!(true);
        }
        history.push(step);
    }
    json!({"architecture": "amd64", "os": "linux", "created": CREATED, "docker_version": "20.10.24+dfsg1",
        "config": config, "history": history})
}

/// Fills a registry with the bases of the cases: busybox, layers, config, app, shell and a stand-in for debian.
///
/// # Errors
/// With the reason to skip a test.
pub fn fill(registry: &Registry) -> Result<(), String> {
    let base = busybox()?.layer.clone();
    for tag in ["latest", "1.36"] {
        registry.put_image("library/busybox", tag, config(json!({}), &[]), std::slice::from_ref(&base));
    }
    let one = Tarball::new()
        .dir("l/", 0o755)
        .dir("l/a/", 0o755)
        .file("l/a/f", 0o644, b"one\n")
        .dir("l/b/", 0o755)
        .file("l/b/g", 0o644, b"two\n")
        .hard_link("l/hard", "l/a/f")
        .symlink("l/soft", "a/f");
    let two = Tarball::new()
        .dir("l/", 0o755)
        .dir("l/a/", 0o755)
        .file("l/a/.wh.f", 0o600, b"")
        .file("l/a/h", 0o644, b"new\n")
        .file("l/.wh.b", 0o600, b"");
    let three = Tarball::new()
        .dir("l/", 0o755)
        .dir("l/a/", 0o755)
        .file("l/a/.wh..wh..opq", 0o755, b"")
        .file("l/a/i", 0o644, b"again\n");
    let mut layers = vec![base.clone()];
    layers.extend([one, two, three].map(|tar| Layer::of(&tar.finish())));
    let steps = [
        (
            "/bin/sh -c mkdir -p /l/a /l/b && echo one >/l/a/f && echo two >/l/b/g && ln /l/a/f /l/hard && ln -s a/f /l/soft",
            false,
        ),
        ("/bin/sh -c rm -rf /l/b && rm /l/a/f && echo new >/l/a/h", false),
        ("/bin/sh -c rm -rf /l/a && mkdir /l/a && echo again >/l/a/i", false),
    ];
    registry.put_image("library/layers", "1", config(json!({}), &steps), &layers);
    put_config(registry, &base);
    put_onbuild(registry, &base);
    let shell = [("/bin/sh -ec #(nop)  SHELL [/bin/sh -ec]", true), ("/bin/sh -ec echo shell >/shell", false)];
    registry.put_image(
        "library/shell",
        "1",
        config(json!({"Shell": ["/bin/sh", "-ec"]}), &shell),
        &[base.clone(), Layer::of(&Tarball::new().file("shell", 0o644, b"shell\n").finish())],
    );
    registry.put_image("library/debian", "bookworm", config(json!({"Cmd": ["bash"]}), &[]), &[debian_layer()?]);
    Ok(())
}

fn put_config(registry: &Registry, base: &Layer) {
    let env = format!("PATH=/opt/bin:{PATH}");
    let changes = json!({"User": "daemon", "ExposedPorts": {"53/udp": {}, "8080/tcp": {}}, "Env": [env, "BASE=yes"],
        "Cmd": ["echo base"], "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64},
        "Volumes": {"/data": {}}, "WorkingDir": "/srv/work", "Entrypoint": ["/bin/sh", "-c"],
        "Labels": {"maintainer": "base", "org.base": "1"}, "StopSignal": "SIGQUIT"});
    let env_step = format!("/bin/sh -c #(nop)  ENV BASE=yes PATH=/opt/bin:{PATH}");
    let steps = [
        (env_step.as_str(), true),
        ("/bin/sh -c #(nop)  LABEL org.base=1 maintainer=base", true),
        ("/bin/sh -c #(nop)  USER daemon", true),
        ("/bin/sh -c #(nop) WORKDIR /srv/work", false),
        ("/bin/sh -c #(nop)  VOLUME [/data]", true),
        ("/bin/sh -c #(nop)  EXPOSE 53/udp 8080/tcp", true),
        ("/bin/sh -c #(nop)  STOPSIGNAL SIGQUIT", true),
        ("/bin/sh -c #(nop)  HEALTHCHECK &{[\"CMD-SHELL\" \"true\"] \"5s\" \"0s\" \"0s\" '\\x00'}", true),
        ("/bin/sh -c #(nop)  ENTRYPOINT [\"/bin/sh\" \"-c\"]", true),
        ("/bin/sh -c #(nop)  CMD [\"echo base\"]", true),
    ];
    let work = Tarball::new().dir("srv/", 0o755).dir("srv/work/", 0o755);
    registry.put_image("library/config", "1", config(changes, &steps), &[base.clone(), Layer::of(&work.finish())]);
}

fn put_onbuild(registry: &Registry, base: &Layer) {
    let changes = json!({"WorkingDir": "/usr/src/app",
        "OnBuild": ["COPY . /usr/src/app", "RUN ls /usr/src/app | wc -l", "ENV BUILT=1"]});
    let steps = [
        ("/bin/sh -c #(nop)  ONBUILD COPY . /usr/src/app", true),
        ("/bin/sh -c #(nop)  ONBUILD RUN ls /usr/src/app | wc -l", true),
        ("/bin/sh -c #(nop)  ONBUILD ENV BUILT=1", true),
        ("/bin/sh -c #(nop) WORKDIR /usr/src/app", false),
    ];
    let app = Tarball::new().dir("usr/", 0o755).dir("usr/src/", 0o755).dir("usr/src/app/", 0o755);
    registry.put_image("library/app", "onbuild", config(changes, &steps), &[base.clone(), Layer::of(&app.finish())]);
}

/// A root with dash as its shell, for the words in which it complains.
fn debian_layer() -> Result<Layer, String> {
    let dash = require::program("dash")?;
    let ldd = Command::new("ldd").arg(&dash).output().map_err(|error| format!("ldd: {error}"))?;
    let libraries: Vec<PathBuf> = String::from_utf8_lossy(&ldd.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect();
    let mut tar = Tarball::new();
    let mut dirs = BTreeSet::new();
    for file in libraries.iter().chain([&PathBuf::from("/bin/sh")]) {
        let name = file.to_str().unwrap_or_default().trim_start_matches('/');
        for dir in Path::new(name).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if !dir.as_os_str().is_empty() && dirs.insert(dir.to_owned()) {
                tar = tar.dir(&format!("{}/", dir.display()), 0o755);
            }
        }
        let source = if name == "bin/sh" { &dash } else { file };
        let content = fs::read(source).map_err(|error| format!("{}: {error}", source.display()))?;
        tar = tar.entry(name, EntryType::Regular, 0o755, "", &content);
    }
    Ok(Layer::of(&tar.finish()))
}
