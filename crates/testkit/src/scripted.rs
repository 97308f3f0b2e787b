//! A registry that answers as a file says: Docker Hub over TLS behind a proxy, and a plain one on the loopback.
//!
//! The recordings of `tests/fixtures/registry` were made against a server that reads the same descriptions.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::registry::digest;

/// What the recordings' plain registry was called.
pub const PLAIN: &str = crate::case::RECORDED_REGISTRY;

/// Hosts that give nothing without a token.
const HUB: [&str; 4] = ["registry-1.docker.io", "auth.docker.io", "index.docker.io", "cdn.docker.io"];

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// What the servers have and how they answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// What it is about, for people.
    pub about: String,
    /// Further arguments of the build.
    pub args: Vec<String>,
    /// The builders that it was recorded with, both by default.
    pub engines: Option<Vec<String>>,
    /// `user:password` by server, for the client's configuration.
    pub login: BTreeMap<String, String>,
    /// Whether the plain registry, too, wants tokens.
    pub tokens: bool,
    /// Answers in place of the usual ones.
    pub answers: Vec<Scripted>,
    /// What is there.
    pub manifests: Vec<StoredManifest>,
    /// Blobs by digest, in base 64.
    pub blobs: BTreeMap<String, String>,
    /// Whether it needs a host that nobody listens on.
    pub unreachable: bool,
    /// What goes wrong when a name is looked up.
    pub dns: BTreeMap<String, String>,
}

/// An answer in place of the usual one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scripted {
    /// Part of `HOST/PATH`.
    pub when: String,
    /// To this method only.
    pub method: Option<String>,
    /// Only to requests that carry a token.
    pub authorized: bool,
    /// `close`, `wrong-bytes`, or `{"cut-after": N}`.
    pub fault: Option<Value>,
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: BTreeMap<String, String>,
    /// Body: a text, or JSON.
    pub body: Value,
}

/// A manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredManifest {
    /// In which repository.
    pub repository: String,
    /// Under which tag, if any.
    pub tag: Option<String>,
    /// `Content-Type`.
    pub media_type: String,
    /// Its text.
    pub body: String,
    /// The digest under which it is given out, if it is not its own.
    pub as_digest: Option<String>,
}

impl Script {
    /// The client's configuration, with its passwords; the plain registry is at `plain`.
    #[must_use]
    pub fn client_config(&self, plain: &str) -> String {
        let auths: serde_json::Map<_, _> = self
            .login
            .iter()
            .map(|(server, login)| (server.replace(PLAIN, plain), json!({"auth": STANDARD.encode(login)})))
            .collect();
        json!({ "auths": auths }).to_string()
    }

    /// Reads a description.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn read(file: &Path) -> Script {
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    }
}

struct State {
    script: Mutex<Script>,
    asked: Mutex<Vec<String>>,
    closed: AtomicBool,
    plain: SocketAddr,
    proxy: SocketAddr,
    tls: Certificates,
}

/// The servers; they end when this is dropped.
pub struct ScriptedRegistry {
    state: Arc<State>,
    authority: String,
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        for address in [self.state.plain, self.state.proxy] {
            // Wakes the thread that waits for connections.
            let _ = TcpStream::connect(address);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScriptedRegistry {
    /// Servers that have nothing yet. The plain one has a port of four digits, as the recorded one.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start() -> ScriptedRegistry {
        let plain = crate::registry::four_digit_listener();
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let (tls, authority) = Certificates::new();
        let state = Arc::new(State {
            script: Mutex::default(),
            asked: Mutex::default(),
            closed: AtomicBool::new(false),
            plain: plain.local_addr().unwrap(),
            proxy: proxy.local_addr().unwrap(),
            tls,
        });
        serve(plain, &state, State::serve_plain);
        serve(proxy, &state, |state, stream| state.serve_proxy(stream));
        ScriptedRegistry { state, authority }
    }

    /// From now on they answer so.
    pub fn follow(&self, script: &Script) {
        *lock(&self.state.script) = script.clone();
        lock(&self.state.asked).clear();
    }

    /// `127.0.0.1:PORT` of the plain registry.
    #[must_use]
    pub fn plain(&self) -> String {
        self.state.plain.to_string()
    }

    /// The proxy by which docker.io and registry.example are reached.
    #[must_use]
    pub fn proxy(&self) -> String {
        format!("http://{}", self.state.proxy)
    }

    /// The authority to trust, in PEM form.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Every request, as `GET host/path`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state.asked).clone()
    }
}

fn serve(listener: TcpListener, state: &Arc<State>, each: fn(&State, TcpStream) -> io::Result<()>) {
    let state = Arc::clone(state);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if state.closed.load(Ordering::SeqCst) {
                return;
            }
            let state = Arc::clone(&state);
            // A client may go away at any time.
            thread::spawn(move || each(&state, stream));
        }
    });
}

/// The servers' certificates, by what is right or wrong with them.
struct Certificates {
    good: Arc<ServerConfig>,
    unknown_authority: Arc<ServerConfig>,
    wrong_name: Arc<ServerConfig>,
    expired: Arc<ServerConfig>,
}

impl Certificates {
    fn new() -> (Certificates, String) {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (known, unknown) = (authority("known"), authority("unknown"));
        let server = |issuer: &CertifiedIssuer<'_, KeyPair>, names: &[&str], expired: bool| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            if expired {
                params.not_before = date_time_ymd(2024, 1, 1);
                params.not_after = date_time_ymd(2024, 2, 1);
            }
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, issuer).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
                )
                .unwrap();
            Arc::new(config)
        };
        let mut names = HUB.to_vec();
        names.push("registry.example");
        let all = Certificates {
            good: server(&known, &names, false),
            unknown_authority: server(&unknown, &names, false),
            wrong_name: server(&known, &["other.example"], false),
            expired: server(&known, &names, true),
        };
        (all, known.pem())
    }
}

struct Request {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn read(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        io::copy(&mut stream.take(length), &mut io::sink())?;
        Ok(Some(Request { method, target, headers }))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// Closes after so many bytes of the body.
    cut: Option<usize>,
}

impl Answer {
    fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        let headers = [("Content-Type".to_owned(), content_type.to_owned())].into();
        Answer { status, headers, body: body.into(), cut: None }
    }

    fn error(status: u16, code: &str, message: &str, detail: Value) -> Answer {
        let mut error = json!({"code": code, "message": message});
        if !detail.is_null() {
            error["detail"] = detail;
        }
        Answer::new(status, "application/json", json!({"errors": [error]}).to_string())
    }

    fn with(mut self, name: &str, value: &str) -> Answer {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }
}

impl State {
    fn serve_proxy(&self, stream: TcpStream) -> io::Result<()> {
        let mut client = BufReader::new(stream);
        let Some(connect) = Request::read(&mut client)? else { return Ok(()) };
        let mut stream = client.into_inner();
        stream.write_all(b"HTTP/1.1 200 ok\r\n\r\n")?;
        let port = connect.target.rsplit(':').next().unwrap_or_default();
        let config = match port {
            "8080" => return self.serve_plain(stream),
            "8446" => {
                // What was not read would make of the end a reset.
                return stream.read(&mut [0; 1 << 14]).map(drop);
            }
            "8443" => &self.tls.unknown_authority,
            "8444" => &self.tls.wrong_name,
            "8445" => &self.tls.expired,
            _ => &self.tls.good,
        };
        let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        let served = self.serve(&mut stream);
        stream.conn.send_close_notify();
        let _ = stream.flush();
        served
    }

    /// As servers of plain HTTP do, it says so to those who want to shake hands.
    fn serve_plain(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut first = [0];
        if stream.peek(&mut first)? == 1 && first[0] == TLS_HANDSHAKE {
            return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        self.serve(&mut stream)
    }

    fn serve(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader)? {
            let whole = format!("{}{}", request.header("host"), request.target);
            lock(&self.asked).push(format!("{} {whole}", request.method));
            let Some(answer) = self.answer(&request, &whole) else { return Ok(()) };
            let mut head = format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
            for (name, value) in &answer.headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            let out = reader.get_mut();
            out.write_all(head.as_bytes())?;
            if request.method != "HEAD" {
                out.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())])?;
            }
            out.flush()?;
            if answer.cut.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// `None` closes the connection.
    fn answer(&self, request: &Request, whole: &str) -> Option<Answer> {
        let script = lock(&self.script).clone();
        let path = request.target.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let blob = script.blobs.get(last).map(|text| STANDARD.decode(text).unwrap());
        let host = request.header("host");
        let authorized = request.header("authorization").starts_with("Bearer ");
        // The descriptions name the plain registry as it was called when they were recorded.
        let whole = whole.replace(&self.plain.to_string(), PLAIN);
        let fits = |rule: &&Scripted| {
            whole.contains(&rule.when)
                && rule.method.as_ref().is_none_or(|method| *method == request.method)
                && (!rule.authorized || !request.header("authorization").is_empty())
        };
        if let Some(rule) = script.answers.iter().find(fits) {
            return match &rule.fault {
                Some(Value::String(fault)) if fault == "close" => None,
                Some(Value::String(_)) => {
                    let mut bytes = blob.unwrap_or_default();
                    if let Some(last) = bytes.last_mut() {
                        *last ^= 1;
                    }
                    Some(Answer::new(200, "application/octet-stream", bytes))
                }
                Some(fault) => {
                    let cut = fault["cut-after"].as_u64().and_then(|bytes| usize::try_from(bytes).ok());
                    Some(Answer { cut, ..Answer::new(200, "application/octet-stream", blob.unwrap_or_default()) })
                }
                None => {
                    let body = match &rule.body {
                        Value::String(text) => text.clone(),
                        Value::Null => String::new(),
                        json => json.to_string(),
                    };
                    let body = body.into_bytes();
                    let own = |text: &String| text.replace(PLAIN, &self.plain.to_string());
                    let headers = rule.headers.iter().map(|(name, value)| (name.clone(), own(value))).collect();
                    Some(Answer { status: rule.status, headers, body, cut: None })
                }
            };
        }
        if path == "/token" {
            let token = json!({"token": "t0ken", "access_token": "t0ken", "expires_in": 300});
            return Some(Answer::new(200, "application/json", token.to_string()));
        }
        let Some(rest) = path.strip_prefix("/v2/") else { return Some(Answer::new(404, "text/plain", "")) };
        let hub = HUB.contains(&host);
        if (hub || script.tokens) && !authorized {
            return Some(challenge(host, hub, rest));
        }
        if rest.is_empty() {
            return Some(Answer::new(200, "application/json", "{}"));
        }
        if let Some((repository, version)) = rest.split_once("/manifests/") {
            return Some(manifest(&script, repository, version));
        }
        let Some(blob) = blob else {
            return Some(Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry", json!({"digest": last})));
        };
        let start: Option<usize> = request
            .header("range")
            .strip_prefix("bytes=")
            .and_then(|range| range.split('-').next())
            .and_then(|text| text.parse().ok());
        Some(match start {
            Some(start) if start < blob.len() => Answer::new(206, "application/octet-stream", &blob[start..])
                .with("Content-Range", &format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
            Some(_) => Answer::new(416, "text/plain", ""),
            None => Answer::new(200, "application/octet-stream", blob),
        })
    }
}

fn challenge(host: &str, hub: bool, rest: &str) -> Answer {
    let (realm, service) = match hub {
        true => ("https://auth.docker.io/token".to_owned(), "registry.docker.io"),
        false => (format!("http://{host}/token"), "test"),
    };
    let mut text = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
    let repository = rest.split("/manifests/").next().unwrap_or_default().split("/blobs/").next().unwrap_or_default();
    let mut detail = Value::Null;
    if !repository.is_empty() {
        text.push_str(&format!(",scope=\"repository:{repository}:pull\""));
        detail = json!([{"Type": "repository", "Class": "", "Name": repository, "Action": "pull"}]);
    }
    Answer::error(401, "UNAUTHORIZED", "authentication required", detail).with("Www-Authenticate", &text)
}

fn manifest(script: &Script, repository: &str, version: &str) -> Answer {
    for stored in script.manifests.iter().filter(|stored| stored.repository == repository) {
        let digest = stored.as_digest.clone().unwrap_or_else(|| digest(stored.body.as_bytes()));
        if stored.tag.as_deref() == Some(version) || digest == version {
            return Answer::new(200, &stored.media_type, stored.body.as_str()).with("Docker-Content-Digest", &digest);
        }
    }
    let detail =
        if version.starts_with("sha256:") { "unknown manifest".to_owned() } else { format!("unknown tag={version}") };
    Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown", json!(detail))
}
