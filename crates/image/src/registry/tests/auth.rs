use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pretty_assertions::assert_eq;

use super::fake::{Asked, Fake, Reply};
use super::*;

fn with_credential(credential: Credential) -> Registry {
    let source = move |_: &str| Ok::<_, CredentialError>(Some(credential.clone()));
    Registry::new(RegistryOptions { credentials: Some(Arc::new(source)), ..options() }).unwrap()
}

fn password(password: &str) -> Credential {
    Credential::Password { username: "me".to_owned(), password: Secret::new(password) }
}

/// A registry that wants tokens of its own `/token`. `grant` makes the answer of the token server; a token is valid for
/// what it begins with: `pull`, `push` or `user`.
fn token_registry(grant: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Arc<Fake> {
    let own: Arc<Mutex<String>> = Arc::default();
    let host = own.clone();
    let fake = Fake::start(move |asked| {
        if asked.path() == "/token" {
            return Some(grant(asked));
        }
        let token = asked.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if token.starts_with("good") {
            return None;
        }
        let host = host.lock().unwrap();
        let error = if token.is_empty() { "" } else { r#",error="invalid_token""# };
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="the.registry"{error}"#);
        let reply = Reply::error(401, "UNAUTHORIZED", "authentication required");
        Some(reply.header("WWW-Authenticate", challenge))
    });
    *own.lock().unwrap() = fake.host();
    fake
}

#[test]
fn a_token_is_fetched_once_and_used_for_all() {
    let fake = token_registry(|_| Reply::new(200).body(r#"{"token":"good-1","expires_in":300}"#));
    let image = fake.put_image("team/a", "latest", ("linux", "amd64"), &noise(1000));
    let registry = client();
    let reference = name(&fake, "team/a");
    let found = registry.resolve(&reference, &amd64(), &GO_ON).unwrap();
    assert_eq!(found.manifest.digest(), &image.manifest);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let layer = &found.image().layers[0];
                registry.fetch_blob(&reference, layer, &mut Vec::new(), &mut |_| {}, &GO_ON).unwrap();
            });
        }
    });
    let tokens: Vec<_> = fake.asked().into_iter().filter(|asked| asked.path() == "/token").collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].query("scope"), ["repository:team/a:pull"]);
    assert_eq!(tokens[0].query("service"), ["the.registry"]);
    assert_eq!(tokens[0].header("authorization"), None);
    // Another repository needs another token, but no more refusals.
    fake.put_image("b", "latest", ("linux", "amd64"), b"b");
    let before = fake.asked().len();
    registry.resolve(&name(&fake, "b"), &amd64(), &GO_ON).unwrap();
    assert_eq!(fake.asked().len(), before + 4);
}

#[test]
fn a_token_that_ran_out_is_renewed() {
    let count = AtomicUsize::new(0);
    let fake = token_registry(move |_| {
        // The first one is refused from the beginning, the second one does not live long.
        let n = count.fetch_add(1, Ordering::Relaxed);
        let (token, life) = [("bad", 300.0), ("good-1", 0.05), ("good-2", 300.0)][n.min(2)];
        Reply::new(200).body(format!(r#"{{"access_token":"{token}","expires_in":{life}}}"#))
    });
    fake.put_image("a", "latest", ("linux", "amd64"), b"x");
    let registry = client();
    registry.manifest(&name(&fake, "a"), &GO_ON).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    registry.manifest(&name(&fake, "a"), &GO_ON).unwrap();
    let used: Vec<_> = fake.asked().iter().filter_map(|a| a.header("authorization").map(str::to_owned)).collect();
    // The request that tells why the first was refused is the first that succeeds.
    let (refused, rest) = used.split_at(3);
    assert_eq!(refused, ["Bearer bad", "Bearer bad", "Bearer good-1"], "{used:?}");
    assert!(rest.iter().all(|token| token.starts_with("Bearer good-")), "{used:?}");
}

#[test]
fn a_password_goes_to_the_token_server_only() {
    let fake = token_registry(|asked| match asked.header("authorization") {
        // me:secret
        Some("Basic bWU6c2VjcmV0") => Reply::new(200).body(r#"{"token":"good"}"#),
        _ => Reply::new(401).body(r#"{"details":"incorrect username or password"}"#),
    });
    fake.put_image("a", "latest", ("linux", "amd64"), b"x");
    with_credential(password("secret")).resolve(&name(&fake, "a"), &amd64(), &GO_ON).unwrap();
    let with_basic: Vec<_> = fake
        .all_asked()
        .iter()
        .filter(|asked| asked.header("authorization").is_some_and(|value| value.starts_with("Basic")))
        .map(|asked| (asked.path().to_owned(), asked.query("account")))
        .collect();
    assert_eq!(with_basic, [("/token".to_owned(), vec!["me".to_owned()])]);
    let error = with_credential(password("wrong")).manifest(&name(&fake, "a"), &GO_ON).unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.by, refusal.status, refusal.authenticated), (Refuser::TokenServer, 401, true));
    assert_eq!(refusal.errors[0].message, "incorrect username or password");
    let shown = format!("{error} {error:?} {:?}", with_credential(password("wrong")));
    assert!(!shown.contains("wrong") && !shown.contains("bWU6"), "{shown}");
}

#[test]
fn an_identity_token_is_exchanged() {
    let fake = token_registry(|asked| {
        let form = String::from_utf8(asked.body.clone()).unwrap();
        assert_eq!(asked.method, "POST");
        assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert!(form.contains("grant_type=refresh_token&service=the.registry&client_id=rbuild"), "{form}");
        assert!(form.contains("refresh_token=i%2Bd%26t&scope=repository%3Aa%3Apull"), "{form}");
        Reply::new(200).body(r#"{"access_token":"good"}"#)
    });
    fake.put_image("a", "latest", ("linux", "amd64"), b"x");
    let registry = with_credential(Credential::IdentityToken(Secret::new("i+d&t")));
    registry.resolve(&name(&fake, "a"), &amd64(), &GO_ON).unwrap();
    assert_eq!(fake.count("POST", "/token"), 1);
}

#[test]
fn basic_authentication() {
    let fake = Fake::start(|asked| match asked.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => None,
        _ => Some(
            Reply::error(401, "UNAUTHORIZED", "authentication required")
                .header("WWW-Authenticate", "Basic realm=\"x\""),
        ),
    });
    fake.put_image("a", "latest", ("linux", "amd64"), b"x");
    let reference = name(&fake, "a");
    let registry = with_credential(password("secret"));
    registry.resolve(&reference, &amd64(), &GO_ON).unwrap();
    assert_eq!(fake.asked().iter().filter(|asked| asked.header("authorization").is_none()).count(), 1);
    let error = with_credential(password("wrong")).manifest(&reference, &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);
    assert!(error.refusal().unwrap().authenticated);
    let error = client().manifest(&reference, &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::NoCredentials { .. }), "{error}");
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);
}

#[test]
fn denied_is_told_from_unauthorized() {
    let fake = Fake::start(|asked| {
        let reply = Reply::error(401, "UNAUTHORIZED", "authentication required");
        let challenge = format!(
            r#"Bearer realm="http://{}/token",service="s",scope="repository:a:pull",error="insufficient_scope""#,
            asked.header("host").unwrap()
        );
        match asked.path() {
            "/token" => Some(Reply::new(200).body(r#"{"token":"t"}"#)),
            "/v2/" => None,
            _ => Some(reply.header("WWW-Authenticate", challenge)),
        }
    });
    let error = client().manifest(&name(&fake, "a"), &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Denied);
    assert_eq!(error.refusal().unwrap().head, Some(401));
}

#[test]
fn broken_token_servers_are_told() {
    for (answer, attempts) in [
        (Reply::new(200).body("<html>"), 1),
        (Reply::new(200).body(r#"{"token":""}"#), 1),
        (Reply::new(200).body(r#"{"token":"a\nb"}"#), 1),
        (Reply::new(200).body(vec![b' '; 3 << 20]), 1),
        (Reply::new(503), 4),
    ] {
        let fake = token_registry(move |_| answer.clone());
        let error = client().manifest(&name(&fake, "a"), &GO_ON).unwrap_err();
        assert!(matches!(error.kind(), RegistryErrorKind::Protocol | RegistryErrorKind::Server(503)), "{error}");
        assert_eq!(fake.count("GET", "/token"), attempts, "{error}");
    }
    for challenge in ["Bearer", "Bearer realm=\"\"", "Bearer realm=\"ftp://x\"", "Bearer realm=\"data:x\""] {
        let fake = Fake::start(move |asked| {
            (asked.path() != "/v2/").then(|| Reply::new(401).header("WWW-Authenticate", challenge))
        });
        let error = client().manifest(&name(&fake, "a"), &GO_ON).unwrap_err();
        assert!(matches!(error.kind(), RegistryErrorKind::Protocol | RegistryErrorKind::Unauthorized), "{error}");
        assert!(fake.asked().len() < 5);
    }
}

#[test]
fn secrets_do_not_go_out_in_clear_text() {
    let fake = Fake::start(|asked| {
        let challenge = r#"Bearer realm="http://auth.example/token",service="s""#;
        (asked.path() != "/v2/").then(|| Reply::new(401).header("WWW-Authenticate", challenge))
    });
    let error = with_credential(password("secret")).manifest(&name(&fake, "a"), &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::PlainTextSecret { .. }), "{error}");
}

#[test]
fn login_proves_a_password_and_brings_an_identity_token() {
    let fake = token_registry(|asked| match asked.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => {
            assert_eq!(asked.query("offline_token"), ["true"]);
            Reply::new(200).body(r#"{"token":"good","refresh_token":"idt"}"#)
        }
        _ => Reply::error(401, "UNAUTHORIZED", "incorrect username or password"),
    });
    let registry = client();
    let token = registry.login(&fake.host(), &password("secret"), &GO_ON).unwrap();
    assert_eq!(token, Some(Secret::new("idt")));
    let error = registry.login(&fake.host(), &password("wrong"), &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);
    assert_eq!(registry.server_of(&"busybox".parse().unwrap()).unwrap(), DOCKER_HUB_SERVER);
}

#[test]
fn a_failing_credential_source_is_an_error() {
    let fake = Fake::start(|_| Some(Reply::new(401).header("WWW-Authenticate", "Basic realm=x")));
    let missing = DockerConfig::new("/nonexistent/config.json");
    let broken =
        |_: &str| Err(CredentialError::Helper { program: "p".into(), action: "get", message: "locked".into() });
    let reference = name(&fake, "a");
    let with = |source: Arc<dyn CredentialSource>| {
        Registry::new(RegistryOptions { credentials: Some(source), ..options() }).unwrap()
    };
    let error = with(Arc::new(missing)).manifest(&reference, &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::NoCredentials { .. }), "{error}");
    let error = with(Arc::new(broken)).manifest(&reference, &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::Credentials { .. }), "{error}");
}
