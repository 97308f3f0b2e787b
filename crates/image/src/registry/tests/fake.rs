//! A registry in this process: real HTTP over real sockets, with faults on demand.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::digest::Digest;
use crate::manifest::media_type;

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// Names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Asked {
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(super) fn query(&self, name: &str) -> Vec<String> {
        let url = reqwest::Url::parse(&format!("http://h{}", self.target)).unwrap();
        url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer, perhaps a faulty one.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(super) cut: Option<usize>,
    /// Send the body in chunks, without its length.
    pub(super) chunked: bool,
    /// Send the head and half of the body, then wait so long.
    pub(super) stall: Option<Duration>,
}

impl Reply {
    pub(super) fn new(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }

    pub(super) fn header(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Reply {
        let body = json!({"errors": [{"code": code, "message": message, "detail": {"x": 1}}]});
        Reply::new(status).header("Content-Type", "application/json").body(body.to_string())
    }
}

type Hook = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

/// What the registry holds.
#[derive(Default)]
pub(super) struct Stored {
    /// By repository and tag or digest: media type and bytes.
    pub(super) manifests: HashMap<(String, String), (String, Vec<u8>)>,
    /// By repository and digest.
    pub(super) blobs: HashMap<(String, String), Vec<u8>>,
    uploads: HashMap<String, Vec<u8>>,
}

/// A running registry. It ends with the process.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    pub(super) stored: Mutex<Stored>,
    asked: Mutex<Vec<Asked>>,
    hook: Box<Hook>,
    uploads: AtomicUsize,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// An image put into a fake registry.
pub(super) struct Image {
    pub(super) manifest: Digest,
    pub(super) config: Digest,
    pub(super) layer: Digest,
}

impl Fake {
    pub(super) fn start(hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Arc<Fake> {
        Fake::start_with(None, hook)
    }

    pub(super) fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Arc<Fake> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Arc::new(Fake {
            address: listener.local_addr().unwrap(),
            stored: Mutex::default(),
            asked: Mutex::default(),
            hook: Box::new(hook),
            uploads: AtomicUsize::new(0),
            tls,
        });
        let served = fake.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let fake = served.clone();
                thread::spawn(move || {
                    // A client may go away at any time.
                    let _ = fake.accept(stream);
                });
            }
        });
        fake
    }

    /// `127.0.0.1:PORT`.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Every request but the first look at `/v2/`.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path() != "/v2/").cloned().collect()
    }

    pub(super) fn all_asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn count(&self, method: &str, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.method == method && asked.target.contains(part)).count()
    }

    pub(super) fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let key = (repository.to_owned(), digest.to_string());
        self.stored.lock().unwrap().blobs.insert(key, bytes.to_vec());
        digest
    }

    pub(super) fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut stored = self.stored.lock().unwrap();
        for version in [tag.to_owned(), digest.to_string()] {
            let value = (media_type.to_owned(), bytes.to_vec());
            stored.manifests.insert((repository.to_owned(), version), value);
        }
        digest
    }

    /// Puts an image of one layer into a repository.
    pub(super) fn put_image(&self, repository: &str, tag: &str, platform: (&str, &str), layer: &[u8]) -> Image {
        let diff_id = Digest::of(layer);
        let config = json!({"architecture": platform.1, "os": platform.0, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "history": []});
        let config_bytes = config.to_string().into_bytes();
        let config = self.put_blob(repository, &config_bytes);
        let layer_digest = self.put_blob(repository, layer);
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
            "config": {"mediaType": media_type::DOCKER_CONFIG, "size": config_bytes.len(), "digest": config},
            "layers": [{"mediaType": media_type::DOCKER_LAYER_GZIP, "size": layer.len(), "digest": layer_digest}]});
        let manifest = self.put_manifest(repository, tag, media_type::DOCKER_MANIFEST, manifest.to_string().as_bytes());
        Image { manifest, config, layer: layer_digest }
    }

    fn accept(&self, stream: TcpStream) -> io::Result<()> {
        match &self.tls {
            Some(config) => {
                let connection = rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                self.serve(rustls::StreamOwned::new(connection, stream))
            }
            None => {
                let mut first = [0];
                if stream.peek(&mut first)? == 1 && first[0] == 0x16 {
                    // As Go's server answers a TLS handshake on a plain port.
                    let mut stream = stream;
                    return stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request.\n");
                }
                self.serve(stream)
            }
        }
    }

    fn serve<S: Read + Write>(&self, stream: S) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(asked) = read_request(&mut stream)? {
            self.asked.lock().unwrap().push(asked.clone());
            let reply = (self.hook)(&asked).unwrap_or_else(|| self.answer(&asked));
            if !write_reply(stream.get_mut(), &asked, &reply)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What a registry without faults answers.
    pub(super) fn answer(&self, asked: &Asked) -> Reply {
        let path = asked.path();
        if path == "/v2/" {
            return Reply::new(200).body("{}");
        }
        let mut stored = self.stored.lock().unwrap();
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Reply::new(404).body("page not found");
        };
        if let Some((repository, version)) = rest.split_once("/manifests/") {
            let key = (repository.to_owned(), version.to_owned());
            if asked.method == "PUT" {
                let digest = Digest::of(&asked.body);
                let value = (asked.header("content-type").unwrap().to_owned(), asked.body.clone());
                stored.manifests.insert((repository.to_owned(), digest.to_string()), value.clone());
                stored.manifests.insert(key, value);
                return Reply::new(201).header("Docker-Content-Digest", digest);
            }
            return match stored.manifests.get(&key) {
                Some((media_type, bytes)) => Reply::new(200)
                    .header("Content-Type", media_type)
                    .header("Docker-Content-Digest", Digest::of(bytes))
                    .body(bytes.clone()),
                None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            };
        }
        if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
            return self.upload(asked, &mut stored, repository, upload);
        }
        let Some((repository, digest)) = rest.split_once("/blobs/") else {
            return Reply::new(404);
        };
        let Some(blob) = stored.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
            return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let start = asked.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match start {
            Some(start) if start < blob.len() => Reply::new(206)
                .header("Content-Range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len()))
                .body(&blob[start..]),
            Some(_) => Reply::new(416),
            None => Reply::new(200).body(blob.clone()),
        }
    }

    fn upload(&self, asked: &Asked, stored: &mut Stored, repository: &str, upload: &str) -> Reply {
        let location = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}?_state=opaque");
        match asked.method.as_str() {
            "POST" => {
                if let ([digest], [from]) = (&asked.query("mount")[..], &asked.query("from")[..])
                    && let Some(blob) = stored.blobs.get(&(from.clone(), digest.clone())).cloned()
                {
                    stored.blobs.insert((repository.to_owned(), digest.clone()), blob);
                    return Reply::new(201);
                }
                let id = format!("u{}", self.uploads.fetch_add(1, Ordering::Relaxed));
                stored.uploads.insert(id.clone(), Vec::new());
                Reply::new(202).header("Location", location(&id))
            }
            "PATCH" => {
                let content = stored.uploads.get_mut(upload).unwrap();
                let range = format!("{}-{}", content.len(), content.len() + asked.body.len() - 1);
                if asked.header("content-range") != Some(&range) {
                    return Reply::new(416);
                }
                content.extend_from_slice(&asked.body);
                Reply::new(202).header("Location", location(upload)).header("Range", format!("0-{}", content.len() - 1))
            }
            "PUT" => {
                assert_eq!(asked.query("_state"), ["opaque"], "the state of the upload was lost");
                let mut content = stored.uploads.remove(upload).unwrap();
                content.extend_from_slice(&asked.body);
                let digest = Digest::of(&content);
                if asked.query("digest") != [digest.to_string()] {
                    return Reply::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
                }
                stored.blobs.insert((repository.to_owned(), digest.to_string()), content);
                Reply::new(201)
            }
            _ => Reply::new(405),
        }
    }
}

fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Asked>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
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
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(Asked { method, target, headers, body }))
}

/// Returns whether the connection may go on.
fn write_reply(stream: &mut impl Write, asked: &Asked, reply: &Reply) -> io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let declared = reply.headers.iter().any(|(name, _)| name == "Content-Length");
    match reply.chunked {
        true => head.push_str("Transfer-Encoding: chunked\r\n"),
        false if !declared => head.push_str(&format!("Content-Length: {}\r\n", reply.body.len())),
        false => {}
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if asked.method == "HEAD" {
        stream.flush()?;
        return Ok(true);
    }
    if let Some(pause) = reply.stall {
        stream.write_all(&reply.body[..reply.body.len() / 2])?;
        stream.flush()?;
        thread::sleep(pause);
        return Ok(false);
    }
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    if reply.chunked {
        for piece in body.chunks(10_000) {
            write!(stream, "{:x}\r\n", piece.len())?;
            stream.write_all(piece)?;
            stream.write_all(b"\r\n")?;
        }
        if reply.cut.is_none() {
            stream.write_all(b"0\r\n\r\n")?;
        }
    } else {
        stream.write_all(body)?;
    }
    stream.flush()?;
    Ok(reply.cut.is_none())
}

/// A proxy that leads every CONNECT to `target`, whatever host was asked for; those hosts are kept.
pub(super) fn start_proxy(target: SocketAddr) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let hosts = Arc::new(Mutex::new(Vec::new()));
    let seen = hosts.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            thread::spawn(move || -> io::Result<()> {
                let mut client = BufReader::new(stream);
                let Some(asked) = read_request(&mut client)? else {
                    return Ok(());
                };
                seen.lock().unwrap().push(format!("{} {}", asked.method, asked.target));
                let mut server = TcpStream::connect(target)?;
                let mut client = client.into_inner();
                client.write_all(b"HTTP/1.1 200 ok\r\n\r\n")?;
                let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
                thread::spawn(move || io::copy(&mut up_from, &mut up_to));
                io::copy(&mut server, &mut client)?;
                client.shutdown(std::net::Shutdown::Both)
            });
        }
    });
    (address, hosts)
}
