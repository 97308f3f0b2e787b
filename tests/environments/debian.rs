//! A Debian base, packages to install in it, and a server for them: made once a run, of the machine's own mirror.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rbuild_testkit::registry::Layer;
use rbuild_testkit::{require, sha256};
use serde_json::json;

use crate::builds::{Build, build_flags, write_tar};
use crate::setup::Setup;

/// Packages that are installed: a compiler, and such as give files to users and groups that they make, set-user-id
/// programs and file capabilities.
const PACKAGES: &str = "dbus gcc iputils-ping libc6-dev make openssh-client";
/// Variable with a directory that keeps base and packages for further runs.
pub(crate) const CACHE: &str = "RBUILD_TEST_DEBIAN";

const DOCKERFILE: &str = r#"FROM environments/debian AS install
ARG MIRROR
# One step, in which everything that has a date or is random goes again.
RUN rm -rf /etc/apt/sources.list.d && echo "deb [trusted=yes] $MIRROR ./" >/etc/apt/sources.list && \
    export DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH=1600000000 && \
    apt-get update && apt-get install -y --no-install-recommends PACKAGES && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/* /etc/apt/sources.list && \
    rm -f /etc/machine-id /var/lib/dbus/machine-id
# What the packages gave away is what the next step sees.
RUN stat -c '%n %u:%g %a' /usr/lib/dbus-1.0/dbus-daemon-launch-helper /usr/bin/ssh-agent /usr/bin/ping >/owners

FROM install AS compile
COPY . /src
RUN make -C /src install && hello >/greeting
"#;
const MAKEFILE: &str = "hello: hello.o words.o\n\t$(CC) -o $@ $^\ninstall: hello\n\tinstall -D -o 33 -g 33 -m 4755 hello /usr/local/bin/hello\n";
const HELLO: &str =
    "#include <stdio.h>\nconst char *words(void);\nint main(void) { printf(\"%s\\n\", words()); return 0; }\n";
const WORDS: &str = "const char *words(void) { return \"compiled\"; }\n";

/// The base in the registry, and the server of the packages.
pub(crate) struct Debian {
    packages: Server,
}

impl Debian {
    /// Makes base and packages, and serves them.
    ///
    /// # Errors
    /// With the reason why that cannot be done here.
    pub(crate) fn prepare(setup: &Setup) -> Result<Debian, String> {
        let dir = std::env::var_os(CACHE).map_or_else(|| setup.path("debian"), PathBuf::from);
        let (base, packages) = (dir.join("base.tar"), dir.join("packages"));
        if !base.exists() {
            make(&dir, &base, &packages)?;
        }
        let layer = Layer::of(&fs::read(&base).map_err(|error| format!("{}: {error}", base.display()))?);
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let config = json!({"architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": {"Env": [path], "Cmd": ["bash"]}, "history": [{"created": "2024-01-01T00:00:00Z"}]});
        setup.registry.put_image("environments/debian", "latest", config, &[layer]);
        Ok(Debian { packages: Server::start(packages) })
    }

    /// The two builds; the second goes on where the first ends.
    pub(crate) fn builds(&self, setup: &Setup) -> Vec<Build> {
        let context = setup.path("debian-context");
        fs::create_dir(&context).unwrap();
        let dockerfile = DOCKERFILE.replace("PACKAGES", PACKAGES);
        let files =
            [("Dockerfile", dockerfile.as_str()), ("Makefile", MAKEFILE), ("hello.c", HELLO), ("words.c", WORDS)];
        for (name, content) in files {
            fs::write(context.join(name), content).unwrap();
            crate::setup::open(&context.join(name), 0o644);
        }
        let context = write_tar(setup, "debian", &context);
        ["install", "compile"]
            .map(|target| {
                let image = format!("environments/{target}:latest");
                let mut arguments = build_flags(setup);
                arguments.push(format!("--build-arg=MIRROR={}", self.packages.url()));
                arguments.push(format!("--target={target}"));
                arguments.extend(["--log-format=buildkit", "-t", &image, "."].map(str::to_owned));
                Build {
                    name: format!("debian/{target}"),
                    context: context.clone(),
                    arguments,
                    input: None,
                    image,
                    store: Some("debian-store".to_owned()),
                    after: (target == "compile").then(|| "debian/install".to_owned()),
                    listed: false,
                }
            })
            .into()
    }
}

/// The machine's release of Debian, and its mirror.
fn release() -> Result<(String, String), String> {
    let os = fs::read_to_string("/etc/os-release").map_err(|error| format!("/etc/os-release: {error}"))?;
    let value = |key: &str| os.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
    if value("ID").as_deref() != Some("debian") {
        return Err("this machine is no Debian, so it names no mirror of one".to_owned());
    }
    let codename = value("VERSION_CODENAME").ok_or("/etc/os-release has no VERSION_CODENAME")?;
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"])
        .output()
        .map_err(|error| format!("apt-get: {error}"))?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let site = targets.lines().find_map(|line| line.split_once(' ').filter(|(_, name)| *name == codename));
    let (site, _) = site.ok_or_else(|| format!("apt knows no mirror of {codename}: `apt-get update`"))?;
    Ok((codename, site.to_owned()))
}

fn make(dir: &Path, base: &Path, packages: &Path) -> Result<(), String> {
    let mmdebstrap = require::program("mmdebstrap")?;
    if !rustix::process::geteuid().is_root() {
        return Err("a Debian base is made by root".to_owned());
    }
    let (codename, site) = release()?;
    fs::create_dir_all(packages).map_err(|error| format!("{}: {error}", packages.display()))?;
    let partial = dir.join("base.partial.tar");
    let fetch = format!("chroot \"$1\" apt-get install -y -q --no-install-recommends --download-only {PACKAGES}");
    let keep = format!("cp \"$1\"/var/cache/apt/archives/*.deb '{}'", packages.display());
    let made = Command::new(mmdebstrap)
        .args(["--variant=minbase", "--include=ca-certificates", "--quiet"])
        .args([format!("--customize-hook={fetch}"), format!("--customize-hook={keep}")])
        .arg(&codename)
        .arg(&partial)
        .arg(&site)
        .env("SOURCE_DATE_EPOCH", crate::builds::EPOCH.to_string())
        .output()
        .map_err(|error| format!("mmdebstrap: {error}"))?;
    if !made.status.success() {
        return Err(format!("mmdebstrap {codename} {site}: {}", String::from_utf8_lossy(&made.stderr).trim()));
    }
    write_index(packages)?;
    fs::rename(&partial, base).map_err(|error| format!("{}: {error}", base.display()))
}

/// The index that apt wants of a directory of packages.
fn write_index(packages: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", packages.display());
    let mut names: Vec<PathBuf> = fs::read_dir(packages)
        .map_err(told)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(told)?;
    names.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    names.sort();
    let mut index = String::new();
    for path in &names {
        let control = Command::new("dpkg-deb").arg("--field").arg(path).output().map_err(told)?;
        let bytes = fs::read(path).map_err(told)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        index.push_str(String::from_utf8_lossy(&control.stdout).trim_end());
        index.push_str(&format!("\nFilename: ./{name}\nSize: {}\nSHA256: {}\n\n", bytes.len(), sha256(&bytes)));
    }
    fs::write(packages.join("Packages"), index).map_err(told)
}

/// A web server for the files of one directory; it ends when it is dropped.
struct Server {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl Server {
    fn start(dir: PathBuf) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (address, closed) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&closed);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let dir = dir.clone();
                // A client may go away at any time.
                std::thread::spawn(move || serve(&stream, &dir));
            }
        });
        Server { address, closed }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers requests in their order, which also are several at once (apt asks for the next before it has the first).
fn serve(mut stream: &TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let name = request.split(' ').nth(1).unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let found = [name.to_owned(), decoded(name)].iter().find_map(|name| File::open(dir.join(name)).ok());
        match found.filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file())) {
            Some(mut file) => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.metadata()?.len())?;
                std::io::copy(&mut file, &mut stream)?;
            }
            None => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
    Ok(())
}

/// A part of a URL without the encoding of some characters as `%` and two digits.
fn decoded(part: &str) -> String {
    let mut pieces = part.split('%');
    let mut name = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => name.extend([char::from(byte).to_string().as_str(), &piece[2..]]),
            None => name.extend(["%", piece]),
        }
    }
    name
}
