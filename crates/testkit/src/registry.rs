//! A registry in process: the distribution API over real sockets, with authentication and faults on demand.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::sha256;

/// Media type of Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Media type of Docker's layer, compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What goes wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed after so many bytes of a body that is longer.
    CutAfter(usize),
    /// The connection is closed without an answer.
    Close,
    /// Another status, as 429 or 500.
    Status(u16),
    /// A body of the right length whose last byte is another.
    WrongBytes,
    /// The first half of the body, and then nothing until the client goes away.
    Stall,
}

struct Rule {
    part: String,
    fault: Fault,
    times: usize,
}

/// A layer: its tar and how it travels.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Digest of the tar, `sha256:…`.
    pub diff_id: String,
    /// What is sent.
    pub blob: Arc<Vec<u8>>,
}

impl Layer {
    /// A layer of a tar, compressed with gzip.
    #[must_use]
    pub fn of(tar: &[u8]) -> Layer {
        Layer { diff_id: digest(tar), blob: Arc::new(crate::tarball::gzip(tar)) }
    }
}

/// Repository, and tag or digest.
type Name = (String, String);
/// Media type and bytes.
type Manifest = (String, Arc<Vec<u8>>);

#[derive(Default)]
struct Stored {
    manifests: HashMap<Name, Manifest>,
    blobs: HashMap<String, Arc<Vec<u8>>>,
    uploads: HashMap<String, Vec<u8>>,
}

struct State {
    address: SocketAddr,
    stored: Mutex<Stored>,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<String>>,
    account: Mutex<Option<(String, String)>>,
    tokens: Mutex<HashSet<String>>,
    counter: AtomicUsize,
    closed: AtomicBool,
}

/// A running registry; it ends when it is dropped.
pub struct Registry {
    state: Arc<State>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.state.address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `sha256:…` of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

/// Listens on a free port of four digits.
pub(crate) fn four_digit_listener() -> TcpListener {
    let first = 5001 + (std::process::id() % 4000) as u16;
    (first..=9999)
        .chain(2000..first)
        .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .expect("a port of four digits is free")
}

impl Registry {
    /// An empty registry on a free port of four digits: then the address has the length of `127.0.0.1:5000`, and sizes
    /// of recorded files hold when one stands for the other.
    ///
    /// # Panics
    /// If no such port is free.
    #[must_use]
    pub fn start() -> Registry {
        Registry::listen(four_digit_listener())
    }

    /// An empty registry at an address.
    ///
    /// # Errors
    /// If the address is not to be had.
    pub fn start_at(address: &str) -> std::io::Result<Registry> {
        TcpListener::bind(address).map(Registry::listen)
    }

    fn listen(listener: TcpListener) -> Registry {
        let state = Arc::new(State {
            address: listener.local_addr().unwrap(),
            stored: Mutex::default(),
            rules: Mutex::default(),
            asked: Mutex::default(),
            account: Mutex::default(),
            tokens: Mutex::default(),
            counter: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let served = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.closed.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&served);
                // A client may go away at any time.
                thread::spawn(move || state.serve(&stream));
            }
        });
        Registry { state }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        self.state.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.state.address)
    }

    /// From now on every request needs a token, and a token needs these credentials.
    pub fn require_login(&self, user: &str, password: &str) {
        *lock(&self.state.account) = Some((user.to_owned(), password.to_owned()));
    }

    /// Lets the next `times` requests whose path contains `part` go wrong.
    pub fn fail(&self, part: &str, fault: Fault, times: usize) {
        lock(&self.state.rules).push(Rule { part: part.to_owned(), fault, times });
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        lock(&self.state.rules).clear();
    }

    /// Every request so far, as `GET /v2/…`, and its range if it has one, as `GET /v2/… bytes=100-`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state.asked).clone()
    }

    /// Waits for a request whose line contains `part`.
    ///
    /// # Panics
    /// If none comes within a minute.
    pub fn wait_for(&self, part: &str) {
        let begin = Instant::now();
        while !self.asked().iter().any(|line| line.contains(part)) {
            assert!(begin.elapsed() < Duration::from_secs(60), "nobody asked for {part}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Keeps a blob; the digest is returned.
    pub fn put_blob(&self, bytes: Arc<Vec<u8>>) -> String {
        let digest = digest(&bytes);
        self.put_blob_as(&digest, bytes);
        digest
    }

    /// Keeps a blob under a digest that may not be its own.
    pub fn put_blob_as(&self, digest: &str, bytes: Arc<Vec<u8>>) {
        lock(&self.state.stored).blobs.insert(digest.to_owned(), bytes);
    }

    /// Keeps a manifest under a tag and its digest, which is returned.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        let value = (media_type.to_owned(), Arc::new(bytes));
        let mut stored = lock(&self.state.stored);
        for version in [tag.to_owned(), digest.clone()] {
            stored.manifests.insert((repository.to_owned(), version), value.clone());
        }
        digest
    }

    /// Keeps an image in Docker's form; the digest of its manifest is returned. `config` gets the layers' digests.
    pub fn put_image(&self, repository: &str, tag: &str, mut config: serde_json::Value, layers: &[Layer]) -> String {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let config = Arc::new(config.to_string().into_bytes());
        let size = config.len();
        let config = self.put_blob(config);
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = self.put_blob(Arc::clone(&layer.blob));
                json!({"mediaType": DOCKER_LAYER, "size": layer.blob.len(), "digest": digest})
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG, "size": size, "digest": config}, "layers": layers});
        self.put_manifest(repository, tag, DOCKER_MANIFEST, manifest.to_string().into_bytes())
    }

    /// Keeps the first image of a docker-archive.
    ///
    /// # Panics
    /// If it is none.
    pub fn put_archive(&self, repository: &str, tag: &str, archive: &Path) -> String {
        let files = crate::listing::members(&std::fs::read(archive).unwrap());
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let name = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let config = serde_json::from_slice(&files[&name(&manifest[0]["Config"])]).unwrap();
        let layers: Vec<Layer> = manifest[0]["Layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| Layer::of(&crate::listing::decompressed(files[&name(layer)].clone())))
            .collect();
        self.put_image(repository, tag, config, &layers)
    }

    /// The manifest that a tag or digest names.
    #[must_use]
    pub fn manifest(&self, repository: &str, version: &str) -> Option<serde_json::Value> {
        let stored = lock(&self.state.stored);
        let (_, bytes) = stored.manifests.get(&(repository.to_owned(), version.to_owned()))?;
        serde_json::from_slice(bytes).ok()
    }
}

struct Request {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Arc<Vec<u8>>,
}

impl Answer {
    fn new(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Answer {
        self.headers.push((name, value.to_string()));
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Answer {
        self.body = Arc::new(body.into());
        self
    }

    fn error(status: u16, code: &str, message: &str) -> Answer {
        let body = json!({"errors": [{"code": code, "message": message}]});
        Answer::new(status).with("Content-Type", "application/json").body(body.to_string())
    }
}

impl State {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            let range = request.header("range").map(|range| format!(" {range}")).unwrap_or_default();
            lock(&self.asked).push(format!("{} {}{range}", request.method, request.path));
            let answer = self.answer(&request);
            if !self.send(stream, &request, &answer)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns whether the connection may go on.
    fn send(&self, mut stream: &TcpStream, request: &Request, answer: &Answer) -> io::Result<bool> {
        // What is too short to be cut does not use a cut up: which blob is asked for first is a race.
        let can_be_had = |fault: &Fault| !matches!(fault, Fault::CutAfter(bytes) if *bytes >= answer.body.len());
        let applies = |rule: &&mut Rule| rule.times > 0 && request.path.contains(&rule.part) && can_be_had(&rule.fault);
        let fault = lock(&self.rules).iter_mut().find(applies).map(|rule| {
            rule.times = rule.times.saturating_sub(1);
            rule.fault.clone()
        });
        let faulty = match fault {
            Some(Fault::Close) => return Ok(false),
            Some(Fault::Status(status)) => {
                Some(Answer::error(status, "TOOMANYREQUESTS", "as the test wishes").with("Retry-After", "0"))
            }
            _ => None,
        };
        let answer = faulty.as_ref().unwrap_or(answer);
        let mut head = format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            return Ok(true);
        }
        match fault {
            Some(Fault::CutAfter(bytes)) => {
                stream.write_all(&answer.body[..bytes])?;
                Ok(false)
            }
            Some(Fault::WrongBytes) if !answer.body.is_empty() => {
                let mut body = answer.body.to_vec();
                *body.last_mut().unwrap() ^= 1;
                stream.write_all(&body)?;
                Ok(true)
            }
            Some(Fault::Stall) => {
                stream.write_all(&answer.body[..answer.body.len() / 2])?;
                // Ends when the client closes.
                let _ = stream.read(&mut [0]);
                Ok(false)
            }
            _ => {
                stream.write_all(&answer.body)?;
                Ok(true)
            }
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        if let Some((user, password)) = lock(&self.account).clone() {
            let authorization = request.header("authorization").unwrap_or_default();
            if request.path == "/token" {
                let wanted = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                if authorization != wanted {
                    return Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
                }
                let token = format!("token-{}", self.counter.fetch_add(1, Ordering::Relaxed));
                lock(&self.tokens).insert(token.clone());
                return Answer::new(200)
                    .with("Content-Type", "application/json")
                    .body(json!({"token": token, "expires_in": 300}).to_string());
            }
            let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
            if !lock(&self.tokens).contains(token) {
                let repository = request.path.trim_start_matches("/v2/").split("/manifests/").next().unwrap_or("");
                let repository = repository.split("/blobs/").next().unwrap_or("");
                let scope = if repository.is_empty() {
                    String::new()
                } else {
                    format!(",scope=\"repository:{repository}:pull,push\"")
                };
                let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"{scope}", self.address);
                return Answer::error(401, "UNAUTHORIZED", "authentication required")
                    .with("WWW-Authenticate", challenge);
            }
        }
        let Some(rest) = request.path.strip_prefix("/v2/") else {
            return Answer::new(404).with("Content-Type", "text/plain; charset=utf-8").body("404 page not found\n");
        };
        if rest.is_empty() {
            return Answer::new(200).body("{}");
        }
        if let Some((repository, version)) = rest.split_once("/manifests/") {
            return self.manifest(request, repository, version);
        }
        if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
            return self.upload(request, repository, upload);
        }
        match rest.split_once("/blobs/") {
            Some((_, digest)) => self.blob(request, digest),
            None => Answer::new(404),
        }
    }

    fn manifest(&self, request: &Request, repository: &str, version: &str) -> Answer {
        let mut stored = lock(&self.stored);
        if request.method == "PUT" {
            let digest = digest(&request.body);
            let media_type = request.header("content-type").unwrap_or_default().to_owned();
            let value = (media_type, Arc::new(request.body.clone()));
            for version in [version.to_owned(), digest.clone()] {
                stored.manifests.insert((repository.to_owned(), version), value.clone());
            }
            return Answer::new(201).with("Docker-Content-Digest", digest);
        }
        match stored.manifests.get(&(repository.to_owned(), version.to_owned())) {
            Some((media_type, bytes)) => Answer {
                body: Arc::clone(bytes),
                ..Answer::new(200).with("Content-Type", media_type).with("Docker-Content-Digest", digest(bytes))
            },
            None => {
                // With its detail, as the distribution project's registry gives it: Docker's words depend on it.
                let detail = json!({"Tag": version});
                let error = json!({"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": detail});
                Answer::new(404).with("Content-Type", "application/json").body(json!({"errors": [error]}).to_string())
            }
        }
    }

    fn blob(&self, request: &Request, digest: &str) -> Answer {
        let stored = lock(&self.stored);
        let Some(blob) = stored.blobs.get(digest) else {
            return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        let start: Option<usize> = range.and_then(|range| range.split('-').next()?.parse().ok());
        match start {
            Some(start) if start < blob.len() => Answer::new(206)
                .with("Content-Range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len()))
                .body(&blob[start..]),
            Some(_) => Answer::new(416),
            None => Answer { body: Arc::clone(blob), ..Answer::new(200) },
        }
    }

    fn upload(&self, request: &Request, repository: &str, upload: &str) -> Answer {
        let mut stored = lock(&self.stored);
        let location = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}");
        match request.method.as_str() {
            "POST" => {
                if let Some(digest) = request.query("mount")
                    && stored.blobs.contains_key(digest)
                {
                    return Answer::new(201);
                }
                let id = format!("u{}", self.counter.fetch_add(1, Ordering::Relaxed));
                stored.uploads.insert(id.clone(), Vec::new());
                Answer::new(202).with("Location", location(&id))
            }
            "PATCH" => {
                let Some(content) = stored.uploads.get_mut(upload) else {
                    return Answer::new(404);
                };
                content.extend_from_slice(&request.body);
                Answer::new(202)
                    .with("Location", location(upload))
                    .with("Range", format!("0-{}", content.len().saturating_sub(1)))
            }
            "PUT" => {
                let Some(mut content) = stored.uploads.remove(upload) else {
                    return Answer::new(404);
                };
                content.extend_from_slice(&request.body);
                let digest = digest(&content);
                if request.query("digest") != Some(&digest) {
                    return Answer::error(400, "DIGEST_INVALID", "digest did not match the content");
                }
                stored.blobs.insert(digest.clone(), Arc::new(content));
                Answer::new(201).with("Docker-Content-Digest", digest)
            }
            _ => Answer::new(405),
        }
    }
}

fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        // Nothing but digests and names comes this way, of which only the colon and the slash are escaped.
        .map(|(key, value)| (key.to_owned(), value.replace("%3A", ":").replace("%2F", "/")))
        .collect();
    let path = path.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            stream.by_ref().take(size).read_to_end(&mut body)?;
            stream.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length: u64 = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        stream.by_ref().take(length).read_to_end(&mut body)?;
    }
    Ok(Some(Request { method, path, query, headers, body }))
}
