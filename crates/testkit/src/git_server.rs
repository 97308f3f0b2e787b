//! A server of git repositories over HTTP: `git http-backend` for smart clients, plain files for all others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::require;

/// A server that ends with the process of the tests.
pub struct GitServer {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl GitServer {
    /// Serves the repositories below `root` as `/git/…`, its files as `/files/…`; and the repositories as `/private/…` to
    /// whoever sends this value of `Authorization`.
    ///
    /// # Errors
    /// With the reason to skip a test: there is no git.
    pub fn start(root: &Path, authorization: &str) -> Result<GitServer, String> {
        require::program("git")?;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (root, authorization, log) = (root.to_owned(), authorization.to_owned(), Arc::clone(&asked));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (root, authorization, log) = (root.clone(), authorization.clone(), Arc::clone(&log));
                // A client that goes away in the middle is no failure of a test.
                std::thread::spawn(move || answer(connection, &root, &authorization, &log).ok());
            }
        });
        Ok(GitServer { address, asked })
    }

    /// Where it is, as `http://127.0.0.1:40001`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.address
    }

    /// What was asked for: methods and paths.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(connection: TcpStream, root: &Path, wanted: &str, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let length: u64 = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.by_ref().take(length).read_to_end(&mut body)?;
    log.lock().unwrap().push(format!("{method} {target}"));
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut connection = connection;
    if path.starts_with("/private/") && header("authorization") != Some(wanted) {
        return connection.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\n\
              Connection: close\r\n\r\n",
        );
    }
    if let Some(repository) = path.strip_prefix("/git").or_else(|| path.strip_prefix("/private")) {
        let mut backend = Command::new("git");
        backend.args(["-c", "safe.directory=*", "http-backend"]).env("GIT_PROJECT_ROOT", root);
        backend.env("GIT_HTTP_EXPORT_ALL", "1").env("PATH_INFO", repository).env("QUERY_STRING", query);
        backend.env("REQUEST_METHOD", &method).env("CONTENT_LENGTH", length.to_string());
        for (variable, name) in [
            ("CONTENT_TYPE", "content-type"),
            ("HTTP_CONTENT_ENCODING", "content-encoding"),
            ("GIT_PROTOCOL", "git-protocol"),
        ] {
            backend.env(variable, header(name).unwrap_or_default());
        }
        let mut backend = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        backend.stdin.take().unwrap().write_all(&body)?;
        let output = backend.wait_with_output()?.stdout;
        let status = String::from_utf8_lossy(&output[..output.len().min(64)]).into_owned();
        let status = status.strip_prefix("Status: ").and_then(|rest| rest.lines().next()).unwrap_or("200 OK");
        connection.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n").as_bytes())?;
        return connection.write_all(&output);
    }
    let file: Option<PathBuf> = path.strip_prefix("/files/").map(|name| root.join(name));
    let (status, content) = match file.and_then(|file| std::fs::read(file).ok()) {
        Some(content) => ("200 OK", content),
        None => ("404 Not Found", b"not here\n".to_vec()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
    connection.write_all(head.as_bytes())?;
    if method == "HEAD" { Ok(()) } else { connection.write_all(&content) }
}
