//! Passwords and identity tokens, and where Docker keeps them.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

/// The name under which Docker keeps the credentials of docker.io.
pub const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// A text that no debug output and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What proves who the caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A user name and a password, or an access token in its place.
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, exchanged for access tokens by OAuth 2.
    IdentityToken(Secret),
    /// A bearer token, sent to the registry as it is.
    RegistryToken(Secret),
}

/// Where credentials come from.
///
/// A server is named as Docker names it: `HOST` or `HOST:PORT`, and [`DOCKER_HUB_SERVER`] for docker.io.
pub trait CredentialSource: Send + Sync {
    /// The credential for a server, `None` if there is none.
    ///
    /// # Errors
    /// If the source is there and fails.
    fn get(&self, server: &str) -> Result<Option<Credential>, CredentialError>;
}

impl<F> CredentialSource for F
where
    F: Fn(&str) -> Result<Option<Credential>, CredentialError> + Send + Sync,
{
    fn get(&self, server: &str) -> Result<Option<Credential>, CredentialError> {
        self(server)
    }
}

/// Why credentials cannot be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The configuration cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The configuration is no JSON object.
    #[error("cannot parse {}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the content.
        problem: String,
    },
    /// The helper cannot be run.
    #[error("cannot run `{program}`")]
    Spawn {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The helper failed.
    #[error("`{program} {action}` failed: {message}")]
    Helper {
        /// Its name.
        program: String,
        /// `get`, `store` or `erase`.
        action: &'static str,
        /// What it printed when it failed, or what is wrong with its answer.
        message: String,
    },
}

/// Docker's `config.json`: `auths`, `credsStore` and `credHelpers`.
///
/// The file is read at every look-up, so that a login elsewhere takes effect. Helpers run as `docker-credential-NAME` of
/// the search path, with this process's environment, which they need to find their store.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
    helper_directories: Vec<PathBuf>,
}

/// How long a credential helper may take, and how much it may say.
const HELPER_TIME: Duration = Duration::from_secs(120);
const HELPER_ANSWER: u64 = 1 << 20;
const CONFIG_SIZE: u64 = 16 << 20;

impl DockerConfig {
    /// The configuration in this file, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> DockerConfig {
        DockerConfig { path: path.into(), helper_directories: Vec::new() }
    }

    /// Looks for helpers in these directories first, then in the search path.
    #[must_use]
    pub fn with_helper_directories(mut self, directories: Vec<PathBuf>) -> DockerConfig {
        self.helper_directories = directories;
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a credential, in the helper for the server if there is one, else in the file. Returns the helper's name.
    ///
    /// # Errors
    /// If the helper fails or the file cannot be replaced.
    pub fn store(&self, server: &str, credential: &Credential) -> Result<Option<String>, CredentialError> {
        let mut config = self.load()?;
        if let Some(helper) = helper_for(&config, server) {
            let (username, secret) = match credential {
                Credential::Password { username, password } => (username.as_str(), password),
                Credential::IdentityToken(token) | Credential::RegistryToken(token) => ("<token>", token),
            };
            let input = serde_json::json!({"ServerURL": server, "Username": username, "Secret": secret.reveal()});
            self.run_helper(&helper, "store", input.to_string().as_bytes())?;
            // As Docker does: an entry without secret tells which servers were logged in to.
            set_entry(&mut config, server, Map::new());
            self.save(&config)?;
            return Ok(Some(helper));
        }
        let mut entry = Map::new();
        match credential {
            Credential::Password { username, password } => {
                let auth = BASE64.encode(format!("{username}:{}", password.reveal()));
                entry.insert("auth".to_owned(), auth.into());
            }
            Credential::IdentityToken(token) => {
                entry.insert("identitytoken".to_owned(), token.reveal().into());
            }
            Credential::RegistryToken(token) => {
                entry.insert("registrytoken".to_owned(), token.reveal().into());
            }
        }
        set_entry(&mut config, server, entry);
        self.save(&config)?;
        Ok(None)
    }

    /// Forgets a server. Returns whether there was anything to forget in the file.
    ///
    /// # Errors
    /// If the helper fails or the file cannot be replaced.
    pub fn erase(&self, server: &str) -> Result<bool, CredentialError> {
        let mut config = self.load()?;
        if let Some(helper) = helper_for(&config, server) {
            match self.run_helper(&helper, "erase", server.as_bytes()) {
                Err(CredentialError::Helper { message, .. }) if is_not_found(&message) => {}
                other => drop(other?),
            }
        }
        let Some(Value::Object(auths)) = config.get_mut("auths") else {
            return Ok(false);
        };
        let before = auths.len();
        auths.retain(|key, _| key != server && hostname_of(key) != hostname_of(server));
        let found = auths.len() != before;
        if found {
            self.save(&config)?;
        }
        Ok(found)
    }

    fn load(&self) -> Result<Map<String, Value>, CredentialError> {
        let file = |source| CredentialError::File { action: "read", path: self.path.clone(), source };
        let opened = match fs::File::open(&self.path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(error) => return Err(file(error)),
        };
        let mut text = Vec::new();
        opened.take(CONFIG_SIZE).read_to_end(&mut text).map_err(file)?;
        if text.trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_slice(&text).map_err(|error| CredentialError::Syntax {
            path: self.path.clone(),
            problem: format!("line {} column {}", error.line(), error.column()),
        })
    }

    /// Replaces the file as a whole, mode 0600, through a symbolic link if it is one.
    fn save(&self, config: &Map<String, Value>) -> Result<(), CredentialError> {
        use std::os::unix::fs::OpenOptionsExt;
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let file = |source| CredentialError::File { action: "write", path: target.clone(), source };
        let directory = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(file)?;
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(config, &mut serializer).map_err(|e| file(e.into()))?;
        let temporary = directory.join(format!(".config.json.{}.{:x}", std::process::id(), super::random_u32()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut out| out.write_all(&text).and_then(|()| out.sync_all()))
            .and_then(|()| fs::rename(&temporary, &target));
        written.map_err(|error| {
            // The first error counts; a temporary file that stays behind harms nobody.
            let _ = fs::remove_file(&temporary);
            file(error)
        })
    }
}

impl DockerConfig {
    fn ask_helper(&self, helper: &str, server: &str) -> Result<Option<Credential>, CredentialError> {
        let answer = match self.run_helper(helper, "get", server.as_bytes()) {
            Ok(answer) => answer,
            Err(CredentialError::Helper { message, .. }) if is_not_found(&message) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let invalid = || CredentialError::Helper {
            program: format!("docker-credential-{helper}"),
            action: "get",
            message: "answer is not a JSON object with Username and Secret".to_owned(),
        };
        let parsed: Value = serde_json::from_slice(&answer).map_err(|_| invalid())?;
        let field = |name: &str| parsed.get(name).and_then(Value::as_str);
        let (Some(username), Some(secret)) = (field("Username"), field("Secret")) else {
            return Err(invalid());
        };
        Ok(match (username, secret) {
            ("", "") => None,
            ("<token>", token) => Some(Credential::IdentityToken(Secret::new(token))),
            (username, secret) => {
                Some(Credential::Password { username: username.to_owned(), password: Secret::new(secret) })
            }
        })
    }

    /// Runs `docker-credential-NAME ACTION` with `input`; its words are an error only if it failed, since they may be secret.
    fn run_helper(&self, helper: &str, action: &'static str, input: &[u8]) -> Result<Vec<u8>, CredentialError> {
        let program = format!("docker-credential-{helper}");
        let failed =
            |message: &str| CredentialError::Helper { program: program.clone(), action, message: message.to_owned() };
        if helper.contains(['/', '\0']) {
            return Err(failed("the name of a helper has no slash"));
        }
        let found =
            self.helper_directories.iter().map(|directory| directory.join(&program)).find(|path| path.is_file());
        let spawn = |source| CredentialError::Spawn { program: program.clone(), source };
        let mut child = Command::new(found.unwrap_or_else(|| PathBuf::from(&program)))
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(spawn)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input says more by its status.
            let _ = stdin.write_all(input);
        }
        let (sender, receiver) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut answer = Vec::new();
                let read = stdout.take(HELPER_ANSWER).read_to_end(&mut answer);
                let _ = sender.send(read.map(|_| answer));
            });
        }
        let deadline = Instant::now() + HELPER_TIME;
        let answer = receiver.recv_timeout(HELPER_TIME);
        let status = loop {
            if let Some(status) = child.try_wait().map_err(spawn)? {
                break status;
            }
            if answer.is_err() || Instant::now() >= deadline {
                let _ = child.kill();
                child.wait().map_err(spawn)?;
                return Err(failed("no answer in time"));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let answer = answer.map_err(|_| failed("no answer in time"))?.map_err(spawn)?;
        if status.success() {
            return Ok(answer);
        }
        let words: String = String::from_utf8_lossy(&answer).trim().chars().take(500).collect();
        Err(failed(if words.is_empty() { "no message" } else { &words }))
    }
}

impl CredentialSource for DockerConfig {
    fn get(&self, server: &str) -> Result<Option<Credential>, CredentialError> {
        let config = self.load()?;
        if let Some(helper) = helper_for(&config, server) {
            return self.ask_helper(&helper, server);
        }
        let Some(Value::Object(auths)) = config.get("auths") else {
            return Ok(None);
        };
        let entry = auths
            .get(server)
            .or_else(|| auths.iter().find(|(key, _)| hostname_of(key) == hostname_of(server)).map(|(_, entry)| entry));
        Ok(entry.and_then(Value::as_object).and_then(credential_of))
    }
}

fn set_entry(config: &mut Map<String, Value>, server: &str, entry: Map<String, Value>) {
    let auths = config.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    if !auths.is_object() {
        *auths = Value::Object(Map::new());
    }
    if let Value::Object(auths) = auths {
        auths.insert(server.to_owned(), Value::Object(entry));
    }
}

/// Reads one entry of `auths`, as docker/cli's `configfile` does: the decoded `auth` wins over the plain fields.
fn credential_of(entry: &Map<String, Value>) -> Option<Credential> {
    let field = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = field("registrytoken") {
        return Some(Credential::RegistryToken(Secret::new(token)));
    }
    if let Some(token) = field("identitytoken") {
        return Some(Credential::IdentityToken(Secret::new(token)));
    }
    if let Some(auth) = field("auth") {
        let decoded = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        let password = password.trim_matches('\0');
        return Some(Credential::Password { username: username.to_owned(), password: Secret::new(password) });
    }
    let (username, password) = (field("username")?, field("password")?);
    Some(Credential::Password { username: username.to_owned(), password: Secret::new(password) })
}

/// `https://h.example:5000/v1/` and `h.example:5000` are the same server.
pub(super) fn hostname_of(server: &str) -> &str {
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    rest.split('/').next().unwrap_or(rest)
}

fn helper_for(config: &Map<String, Value>, server: &str) -> Option<String> {
    let by_server = config.get("credHelpers").and_then(Value::as_object).and_then(|helpers| {
        helpers.iter().find(|(key, _)| hostname_of(key) == hostname_of(server)).map(|(_, name)| name)
    });
    let name = by_server.or_else(|| config.get("credsStore")).and_then(Value::as_str)?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn is_not_found(message: &str) -> bool {
    // The protocol of docker-credential-helpers knows no other sign than these words.
    message.contains("credentials not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, DockerConfig) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, text).unwrap();
        (directory, DockerConfig::new(path))
    }

    fn password(username: &str, password: &str) -> Credential {
        Credential::Password { username: username.to_owned(), password: Secret::new(password) }
    }

    #[test]
    fn reads_every_form_of_entry() {
        let (_d, c) = config(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"bWU6cDp3AA=="},
                "h:5000":{"identitytoken":"idt"},
                "https://old.example/v1/":{"username":"u","password":"p"},
                "bare":{}, "odd":{"auth":"%%%"}, "reg":{"registrytoken":"rt"}}}"#,
        );
        assert_eq!(c.get(DOCKER_HUB_SERVER).unwrap(), Some(password("me", "p:w")));
        assert_eq!(c.get("h:5000").unwrap(), Some(Credential::IdentityToken(Secret::new("idt"))));
        assert_eq!(c.get("old.example").unwrap(), Some(password("u", "p")));
        assert_eq!(c.get("reg").unwrap(), Some(Credential::RegistryToken(Secret::new("rt"))));
        for none in ["bare", "odd", "unknown"] {
            assert_eq!(c.get(none).unwrap(), None);
        }
    }

    #[test]
    fn a_missing_file_is_empty_and_a_broken_one_an_error_without_its_content() {
        let missing = DockerConfig::new("/nonexistent/config.json");
        assert_eq!(missing.get("h").unwrap(), None);
        let (_d, c) = config(r#"{"auths":{"h":{"auth":"c2VjcmV0""#);
        let shown = format!("{0} {0:?}", c.get("h").unwrap_err());
        assert!(shown.contains("cannot parse") && !shown.contains("c2Vj"), "{shown}");
    }

    #[test]
    fn stores_and_erases_and_keeps_the_rest() {
        use std::os::unix::fs::PermissionsExt;
        let (_d, c) = config(r#"{"HttpHeaders":{"X":"y"},"auths":{"a":{"auth":"YTpi"}},"detachKeys":"q"}"#);
        assert_eq!(c.store("h:5000", &password("me", "pw")).unwrap(), None);
        assert_eq!(c.get("h:5000").unwrap(), Some(password("me", "pw")));
        assert_eq!(c.get("a").unwrap(), Some(password("a", "b")));
        let text = fs::read_to_string(c.path()).unwrap();
        assert!(text.starts_with("{\n\t\"HttpHeaders\"") && text.contains("detachKeys"), "{text}");
        assert_eq!(fs::metadata(c.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(c.erase("h:5000").unwrap());
        assert!(!c.erase("h:5000").unwrap());
        assert_eq!(c.get("h:5000").unwrap(), None);
        assert_eq!(fs::read_dir(c.path().parent().unwrap()).unwrap().count(), 1);
    }

    /// A helper that keeps one credential in a file beside it, and logs how it is called.
    const HELPER: &str = r#"#!/bin/sh
input=$(cat)
cd "$(dirname "$0")" || exit 9
echo "$1 $input" >> log
case $1 in
    get) test "$input" = broken && exec echo nonsense
         test "$input" = locked && echo "store is locked" && exit 1
         test -f kept && exec cat kept
         echo "credentials not found in native keychain"; exit 1 ;;
    store) echo "$input" > kept ;;
    erase) rm -f kept ;;
esac
"#;

    #[test]
    fn a_helper_is_asked_and_told() {
        use std::os::unix::fs::PermissionsExt;
        let (d, c) = config(r#"{"credsStore":"mine","auths":{"h":{"auth":"YTpi"}}}"#);
        let program = d.path().join("docker-credential-mine");
        fs::write(&program, HELPER).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let c = c.with_helper_directories(vec![d.path().to_owned()]);
        assert_eq!(c.get("h").unwrap(), None);
        assert_eq!(c.store("h", &password("me", "pw")).unwrap().as_deref(), Some("mine"));
        assert_eq!(c.get("h").unwrap(), Some(password("me", "pw")));
        assert!(fs::read_to_string(c.path()).unwrap().contains("\"h\": {}"));
        let token = Credential::IdentityToken(Secret::new("idt"));
        c.store("h", &token).unwrap();
        assert_eq!(c.get("h").unwrap(), Some(token));
        assert!(c.erase("h").unwrap());
        assert_eq!(c.get("h").unwrap(), None);
        let log = fs::read_to_string(d.path().join("log")).unwrap();
        assert!(log.contains(r#"store {"ServerURL":"h","Username":"me","Secret":"pw"}"#), "{log}");
        let error = c.get("locked").unwrap_err();
        assert_eq!(error.to_string(), "`docker-credential-mine get` failed: store is locked");
        assert!(!c.get("broken").unwrap_err().to_string().contains("nonsense"));
    }

    #[test]
    fn a_helper_must_be_a_plain_name_and_exist() {
        let (_d, c) = config(r#"{"credHelpers":{"a":"../../bin/sh","b":"rbuild-no-such-helper"}}"#);
        assert!(matches!(c.get("a"), Err(CredentialError::Helper { .. })));
        assert!(matches!(c.get("b"), Err(CredentialError::Spawn { .. })));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?} {:?}", password("me", "hunter2"), Credential::IdentityToken(Secret::new("hunter2")));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
