//! How the driver gets into an environment.

use std::any::Any;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rbuild_testkit::daemon::{Daemon, Image};
use rbuild_testkit::tarball::Tarball;
use rbuild_testkit::{bases, require};

use crate::rows::{Outer, Place, Row, Scratch};
use crate::setup::{Setup, open};

/// Where the share is in a container.
const SHARE: &str = "/environments";
/// Where a container's volume is.
const VOLUME: &str = "/scratch";
/// Variable with a command that enters a root in which `apptainer` is installed, where this machine's has none.
const APPTAINER: &str = "RBUILD_TEST_APPTAINER";
/// The least id that is tried for a user who has nothing.
const FREE_ID: u32 = 40_000;

/// A driver that is ready to be started in its environment.
pub(crate) struct Entrance {
    /// Starts it.
    pub(crate) command: Command,
    /// Where its lines are when the command has ended; standard output, if nowhere.
    pub(crate) results: Option<PathBuf>,
    /// Mounts, containers and images, which go when the driver has ended.
    _guards: Vec<Box<dyn Any>>,
}

impl Entrance {
    fn new(command: Command, guards: Vec<Box<dyn Any>>) -> Entrance {
        Entrance { command, results: None, _guards: guards }
    }
}

/// Makes the environment of a row.
///
/// # Errors
/// With the reason why it cannot be had here.
pub(crate) fn enter(row: &Row, setup: &Setup) -> Result<Entrance, String> {
    match &row.place {
        Place::Host => {
            let mut command = on_host(setup, row);
            setup.user.run_as(&mut command);
            Ok(Entrance::new(command, vec![]))
        }
        Place::HostWithoutIds => {
            need_root("to become a user without subordinate ids")?;
            let id = free_id()?;
            let mut command = on_host(setup, row);
            command.uid(id).gid(id);
            Ok(Entrance::new(command, vec![]))
        }
        Place::HostWithoutNamespaces => without_namespaces(row, setup),
        Place::HostOn(kind) => {
            need_root("to mount a file system")?;
            let mut command = on_host(setup, row);
            let mount = Mount::new(kind, &setup.row_dir(row.label))?;
            setup.user.run_as(&mut command);
            Ok(Entrance::new(command, vec![Box::new(mount)]))
        }
        Place::Docker { image, scratch, options } => in_docker(row, setup, *image, *scratch, options),
        Place::Apptainer => in_apptainer(row, setup),
        Place::Step => in_step(row, setup),
    }
}

/// The driver's command line.
fn driver(row: &Row, share: &Path, scratch: &Path) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut line = vec![path(&share.join("driver")), "drive".to_owned()];
    line.extend(["--share".to_owned(), path(share), "--scratch".to_owned(), path(scratch)]);
    line.push("--".to_owned());
    line.extend(row.flags.iter().map(|flag| (*flag).to_owned()));
    line
}

/// A command of this machine with nothing of the tests' environment.
fn clean(line: &[String], home: &Path) -> Command {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    command.env("HOME", home).env("RUST_BACKTRACE", "0").current_dir(home);
    command
}

/// The driver on this machine, in the row's directory.
fn on_host(setup: &Setup, row: &Row) -> Command {
    let dir = setup.row_dir(row.label);
    clean(&driver(row, &setup.share(), &dir), &dir)
}

fn need_root(what: &str) -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(format!("it takes root {what}")) }
}

/// An id that is nobody's, and in no range that is granted.
fn free_id() -> Result<u32, String> {
    let mut taken = Vec::new();
    for (file, count) in
        [("/etc/passwd", None), ("/etc/group", None), ("/etc/subuid", Some(2)), ("/etc/subgid", Some(2))]
    {
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok());
            match count {
                None => taken.extend(number(2).map(|id| id..id + 1)),
                Some(count) => {
                    taken.extend(number(1).zip(number(count)).map(|(id, count)| id..id.saturating_add(count)))
                }
            }
        }
    }
    (FREE_ID..65_000).find(|id| !taken.iter().any(|range| range.contains(id))).ok_or("no user id is free".to_owned())
}

/// The user namespace around the driver maps the user to himself and forbids any below it; the capabilities with which
/// that was said go.
fn without_namespaces(row: &Row, setup: &Setup) -> Result<Entrance, String> {
    require::program("setpriv")?;
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && \
        exec setpriv --inh-caps=-all --ambient-caps=-all --bounding-set=-all \"$@\"";
    let mut line = vec![require::program("unshare")?.to_str().unwrap().to_owned()];
    let ids = [format!("--map-user={}", setup.user.uid), format!("--map-group={}", setup.user.gid)];
    line.extend(["--user".to_owned(), "--keep-caps".to_owned()].into_iter().chain(ids));
    line.extend(["--", "sh", "-c", script, "sh"].map(str::to_owned));
    let dir = setup.row_dir(row.label);
    line.extend(driver(row, &setup.share(), &dir));
    let mut command = clean(&line, &dir);
    setup.user.run_as(&mut command);
    Ok(Entrance::new(command, vec![]))
}

/// A mounted file system.
struct Mount(PathBuf);

impl Mount {
    fn new(kind: &str, at: &Path) -> Result<Mount, String> {
        let mut mount = Command::new("mount");
        mount.args(["-t", kind, kind]);
        if kind == "overlay" {
            let part = |name: &str| {
                let dir = at.with_extension(name);
                fs::create_dir_all(&dir).map(|()| format!("{name}dir={}", dir.display()))
            };
            let parts = ["lower", "upper", "work"].map(part).into_iter().collect::<Result<Vec<_>, _>>();
            mount.args(["-o", &parts.map_err(|error| error.to_string())?.join(",")]);
        }
        let mounted = mount.arg(at).output();
        let mounted = mounted.map_err(|error| format!("mount: {error}"))?;
        if !mounted.status.success() {
            return Err(format!("mount -t {kind}: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
        }
        open(at, 0o777);
        Ok(Mount(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", "--"]).arg(&self.0).status();
    }
}

fn in_docker(
    row: &Row,
    setup: &Setup,
    image: Outer,
    scratch: Scratch,
    options: &[&[&str]],
) -> Result<Entrance, String> {
    let docker = Daemon::find()?;
    let image = outer_image(&docker, setup, image)?;
    let (mut command, container) = docker.run();
    command.arg("--network=host").arg(format!("--volume={}:{SHARE}:ro", setup.share().display()));
    let scratch = match scratch {
        Scratch::Container => "/tmp/environments",
        Scratch::Store => "/var/lib/rbuild/environments",
        Scratch::Volume => {
            let dir = setup.row_dir(row.label);
            // As HTCondor does with the job's directory.
            command.arg(format!("--volume={}:{VOLUME}", dir.display())).arg(format!("--workdir={VOLUME}"));
            VOLUME
        }
    };
    command.args(options.concat());
    let line = driver(row, Path::new(SHARE), Path::new(scratch));
    command.arg(format!("--entrypoint={}", line[0])).arg(&image.name).args(&line[1..]);
    Ok(Entrance::new(command, vec![Box::new(container), Box::new(image)]))
}

/// The image of an outer container, made for this row.
fn outer_image(docker: &Daemon, setup: &Setup, image: Outer) -> Result<Image, String> {
    let name = format!("rbuild-environments/{}-{}", format!("{image:?}").to_lowercase(), std::process::id());
    match image {
        Outer::Usual => docker.import(&name, &usual_root()?),
        Outer::Busybox => {
            let busybox = bases::busybox()?;
            let mut tar = Tarball::new().dir("bin/", 0o755).file("bin/busybox", 0o755, &busybox.program);
            for applet in &busybox.applets {
                tar = tar.symlink(&format!("bin/{applet}"), "busybox");
            }
            docker.import(&name, &tar.dir("tmp/", 0o1777).finish())
        }
        Outer::Rbuild => docker.load(&name, &setup.own_image(&name)?),
    }
}

/// A root like that of images that people start from: users, groups, a resolver, CA certificates, a shell.
fn usual_root() -> Result<Vec<u8>, String> {
    let busybox = bases::busybox()?;
    let mut tar = Tarball::new().dir("bin/", 0o755).file("bin/busybox", 0o755, &busybox.program);
    for applet in &busybox.applets {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    for dir in [
        "dev/",
        "etc/",
        "etc/ssl/",
        "etc/ssl/certs/",
        "home/",
        "proc/",
        "sys/",
        "usr/",
        "usr/bin/",
        "usr/sbin/",
        "var/",
        "var/lib/",
        "var/tmp/",
    ] {
        tar = tar.dir(dir, 0o755);
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
    let authorities = "/etc/ssl/certs/ca-certificates.crt";
    let authorities = fs::read(authorities).map_err(|error| format!("{authorities}: {error}"))?;
    Ok(tar
        .file("etc/passwd", 0o644, passwd.as_bytes())
        .file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")
        .file("etc/ssl/certs/ca-certificates.crt", 0o644, &authorities)
        .dir("root/", 0o700)
        .dir("tmp/", 0o1777)
        .finish())
}

fn in_apptainer(row: &Row, setup: &Setup) -> Result<Entrance, String> {
    let dir = setup.row_dir(row.label);
    let (root, home, work) = (dir.join("root"), dir.join("home"), dir.join("work"));
    fs::create_dir(&root).unwrap();
    tar::Archive::new(&usual_root()?[..]).unpack(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    for place in [&home, &work] {
        fs::create_dir(place).unwrap();
        open(place, 0o777);
    }
    setup.user.own(&root);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut line: Vec<String> = match std::env::var(APPTAINER) {
        Ok(words) => {
            // Apptainer wants a name for its user, which another root may not have.
            let (name, uid, gid) = (&setup.user.name, setup.user.uid, setup.user.gid);
            let files = [
                ("passwd", format!("root:x:0:0:root:/root:/bin/sh\n{name}:x:{uid}:{gid}::/home/user:/bin/sh\n")),
                ("group", format!("root:x:0:\n{name}:x:{gid}:\n")),
            ];
            for (file, content) in &files {
                fs::write(dir.join(file), content).unwrap();
                open(&dir.join(file), 0o644);
            }
            let script =
                "mount --bind \"$0/passwd\" /etc/passwd && mount --bind \"$0/group\" /etc/group && exec \"$@\"";
            let enter = ["unshare", "--mount", "--propagation=private", "sh", "-c", script].map(str::to_owned);
            words.split_whitespace().map(str::to_owned).chain(enter).chain([path(&dir)]).collect()
        }
        Err(_) => {
            require::program("apptainer").map_err(|reason| format!("{reason} ({APPTAINER} may enter another root)"))?;
            Vec::new()
        }
    };
    if setup.user.tests_are_root() {
        // What enters the root may need to be root itself.
        line.extend(["setpriv".to_owned(), format!("--reuid={}", setup.user.uid)]);
        line.extend([format!("--regid={}", setup.user.gid), "--clear-groups".to_owned(), "--".to_owned()]);
    }
    line.extend(["apptainer", "--silent", "exec", "--contain", "--cleanenv", "--pwd", VOLUME].map(str::to_owned));
    line.extend(["--home".to_owned(), format!("{}:/home/user", path(&home))]);
    line.extend(["--bind".to_owned(), format!("{}:{SHARE}:ro,{}:{VOLUME}", path(&setup.share()), path(&work))]);
    line.push(path(&root));
    line.extend(driver(row, Path::new(SHARE), Path::new(VOLUME)));
    Ok(Entrance::new(clean(&line, &home), vec![]))
}

/// The driver as a step of a build on this machine; its lines come out in the image.
fn in_step(row: &Row, setup: &Setup) -> Result<Entrance, String> {
    let dir = setup.row_dir(row.label);
    let mut line = driver(row, Path::new(SHARE), Path::new(VOLUME));
    line.insert(2, "--results=/lines".to_owned());
    let step = serde_json::to_string(&line).map_err(|error| error.to_string())?;
    // A mount for the scratch: the root of a step is an overlay, on which none can be laid.
    let mounts = format!("--mount=type=bind,target={SHARE} --mount=type=cache,target={VOLUME}");
    let dockerfile = format!("FROM busybox AS step\nRUN {mounts} {step}\nFROM scratch\nCOPY --from=step /lines /\n");
    fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
    open(&dir.join("Dockerfile"), 0o644);
    let mut outer = vec![setup.share().join("rbuild").to_str().unwrap().to_owned()];
    outer.extend(crate::builds::build_flags(setup));
    outer.extend(row.flags.iter().map(|flag| (*flag).to_owned()));
    outer.push("--log-format=buildkit".to_owned());
    outer.push(format!("--file={}", dir.join("Dockerfile").display()));
    outer.push(format!("--output={}", dir.join("out").display()));
    outer.push(setup.share().to_str().unwrap().to_owned());
    let mut command = clean(&outer, &dir);
    command.env("RBUILD_ROOT", dir.join("store")).stdin(Stdio::null());
    setup.user.run_as(&mut command);
    Ok(Entrance { command, results: Some(dir.join("out/lines")), _guards: vec![] })
}
