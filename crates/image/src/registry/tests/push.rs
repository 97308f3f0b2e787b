use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pretty_assertions::assert_eq;

use super::fake::{Asked, Fake, Reply};
use super::*;
use crate::digest::Digest;
use crate::manifest::{Descriptor, media_type};

fn push(
    registry: &Registry,
    fake: &Fake,
    blob: &[u8],
    from: Option<&str>,
) -> Result<(Pushed, u64, usize), RegistryError> {
    let descriptor = Descriptor::of(media_type::OCI_LAYER, blob);
    let (mut last, mut opened) = (0, 0);
    let mut source = || {
        opened += 1;
        Ok(Box::new(blob) as Box<dyn Read>)
    };
    let mut on_event = |event: TransferEvent<'_>| {
        if let TransferEvent::Progress { current, total } = event {
            assert!(current <= total && total == blob.len() as u64);
            last = current;
        }
    };
    let pushed = registry.push_blob(&name(fake, "team/a"), &descriptor, &mut source, from, &mut on_event, &GO_ON)?;
    Ok((pushed, last, opened))
}

fn stored(fake: &Fake, repository: &str, blob: &[u8]) -> bool {
    let key = (repository.to_owned(), Digest::of(blob).to_string());
    fake.stored.lock().unwrap().blobs.get(&key).is_some_and(|bytes| bytes == blob)
}

fn methods(fake: &Fake) -> Vec<String> {
    fake.asked().iter().map(|asked| asked.method.clone()).collect()
}

#[test]
fn a_blob_goes_up_once() {
    let fake = Fake::start(|_| None);
    let blob = noise(2_000_000);
    let registry = client();
    assert_eq!(push(&registry, &fake, &blob, None).unwrap(), (Pushed::Uploaded, 2_000_000, 1));
    assert!(stored(&fake, "team/a", &blob));
    assert_eq!(methods(&fake), ["HEAD", "POST", "PUT"]);
    assert_eq!(fake.asked()[2].header("content-length"), Some("2000000"));
    assert_eq!(push(&registry, &fake, &blob, None).unwrap(), (Pushed::Existed, 0, 0));
    assert!(registry.has_blob(&name(&fake, "team/a"), &Digest::of(&blob), &GO_ON).unwrap());
    assert!(!registry.has_blob(&name(&fake, "team/b"), &Digest::of(&blob), &GO_ON).unwrap());
    assert_eq!(push(&registry, &fake, b"", None).unwrap().0, Pushed::Uploaded);
}

#[test]
fn a_blob_is_mounted_from_another_repository_if_it_can_be() {
    let fake = Fake::start(|_| None);
    let blob = noise(1000);
    fake.put_blob("library/base", &blob);
    let registry = client();
    assert_eq!(push(&registry, &fake, &blob, Some("library/base")).unwrap().0, Pushed::Mounted);
    assert!(stored(&fake, "team/a", &blob));
    let other = noise(1001);
    assert_eq!(push(&registry, &fake, &other, Some("library/base")).unwrap().0, Pushed::Uploaded);
    // A registry that does not let us read from there.
    let fake =
        Fake::start(|asked| (!asked.query("mount").is_empty()).then(|| Reply::error(403, "DENIED", "not yours")));
    assert_eq!(push(&client(), &fake, &blob, Some("library/base")).unwrap().0, Pushed::Uploaded);
    assert!(stored(&fake, "team/a", &blob));
}

#[test]
fn an_upload_goes_where_the_registry_says() {
    let storage = Fake::start(|asked| (asked.method == "PUT").then(|| Reply::new(201)));
    let target = format!("http://{}/up?sig=hush", storage.host());
    let fake = Fake::start(move |asked| {
        if asked.header("authorization").is_none() {
            return Some(Reply::new(401).header("WWW-Authenticate", "Basic realm=x"));
        }
        (asked.method == "POST").then(|| Reply::new(202).header("Location", &target))
    });
    let credential = Credential::Password { username: "me".into(), password: Secret::new("pw") };
    let source = move |_: &str| Ok::<_, CredentialError>(Some(credential.clone()));
    let registry = Registry::new(RegistryOptions { credentials: Some(Arc::new(source)), ..options() }).unwrap();
    let blob = noise(100);
    push(&registry, &fake, &blob, None).unwrap();
    let put = &storage.asked()[0];
    assert_eq!((put.header("authorization"), &put.body), (None, &blob));
    assert_eq!((put.query("sig"), put.query("digest")), (vec!["hush".into()], vec![Digest::of(&blob).to_string()]));
    // Relative to the request, and missing.
    let fake = Fake::start(|asked| match (asked.method.as_str(), asked.path()) {
        ("POST", _) => Some(Reply::new(202).header("Location", "here")),
        ("PUT", "/v2/team/a/blobs/uploads/here") => Some(Reply::new(201)),
        _ => None,
    });
    push(&client(), &fake, &blob, None).unwrap();
    let fake = Fake::start(|asked| (asked.method == "POST").then(|| Reply::new(202)));
    assert_eq!(push(&client(), &fake, &blob, None).unwrap_err().kind(), RegistryErrorKind::Protocol);
}

#[test]
fn a_failed_upload_begins_anew() {
    let count = AtomicUsize::new(0);
    let fake = Fake::start(move |asked| {
        let failing = asked.method == "PUT" && count.fetch_add(1, Ordering::Relaxed) < 2;
        failing.then(|| Reply::new(502))
    });
    let blob = noise(500_000);
    assert_eq!(push(&client(), &fake, &blob, None).unwrap(), (Pushed::Uploaded, 500_000, 3));
    assert!(stored(&fake, "team/a", &blob));
    let fake = Fake::start(|asked| (asked.method == "PUT").then(|| Reply::error(400, "DIGEST_INVALID", "no")));
    let error = push(&client(), &fake, &blob, None).unwrap_err();
    assert_eq!((error.kind(), error.refusal().unwrap().about), (RegistryErrorKind::Client(400), Subject::Upload));
    assert_eq!(fake.count("PUT", ""), 1);
}

#[test]
fn a_registry_that_wants_pieces_gets_them() {
    let fake = Fake::start(|asked| {
        (asked.method == "PUT" && asked.body.len() > 20 << 20).then(|| Reply::new(413).body("too large"))
    });
    let blob = vec![7; 40 << 20];
    let (pushed, last, opened) = push(&client(), &fake, &blob, None).unwrap();
    assert_eq!((pushed, last, opened), (Pushed::Uploaded, 40 << 20, 2));
    assert!(stored(&fake, "team/a", &blob));
    let sizes: Vec<_> = fake.asked().iter().filter(|a| a.method == "PATCH").map(|a| a.body.len() >> 20).collect();
    assert_eq!(sizes, [16, 16, 8]);
}

#[test]
fn a_refusal_that_comes_before_the_end_of_the_upload_is_heard() {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> io::Result<()> {
                let mut stream = BufReader::new(stream);
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read_until(b'\n', &mut head)? == 0 {
                            return Ok(());
                        }
                    }
                    let reply = match &head[..4] {
                        b"GET " => "200 ok\r\n",
                        b"HEAD" => "404 no\r\n",
                        b"POST" => "202 go\r\nLocation: /up\r\n",
                        _ => "403 no\r\nConnection: close\r\n",
                    };
                    write!(stream.get_mut(), "HTTP/1.1 {reply}Content-Length: 0\r\n\r\n")?;
                    if head.starts_with(b"PUT") {
                        // Read on for a while, as servers do, so that the answer is not lost.
                        stream.take(1 << 20).read_to_end(&mut Vec::new())?;
                        return Ok(());
                    }
                }
            });
        }
    });
    let blob = vec![1; 30 << 20];
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let reference = format!("{host}/a").parse().unwrap();
    let mut source = || Ok(Box::new(&blob[..]) as Box<dyn Read>);
    let error = client().push_blob(&reference, &descriptor, &mut source, None, &mut |_| {}, &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Denied, "{error}");
}

#[test]
fn a_token_that_runs_out_during_uploads_is_renewed() {
    let count = AtomicUsize::new(0);
    let fake = Fake::start(move |asked: &Asked| {
        if asked.path() == "/token" {
            assert_eq!(asked.query("scope"), ["repository:team/a:pull,push"]);
            let n = count.fetch_add(1, Ordering::Relaxed);
            return Some(Reply::new(200).body(format!(r#"{{"token":"t{n}","expires_in":300}}"#)));
        }
        let bad = match asked.header("authorization") {
            None => true,
            Some(value) => asked.method == "PUT" && value == "Bearer t0",
        };
        let challenge = format!(r#"Bearer realm="http://{}/token""#, asked.header("host").unwrap());
        (bad && asked.path() != "/v2/").then(|| Reply::new(401).header("WWW-Authenticate", challenge))
    });
    let blob = noise(70_000);
    assert_eq!(push(&client(), &fake, &blob, None).unwrap().0, Pushed::Uploaded);
    assert!(stored(&fake, "team/a", &blob));
}

#[test]
fn a_source_that_fails_or_is_short_ends_the_upload() {
    let fake = Fake::start(|_| None);
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &noise(500_000));
    let reference = name(&fake, "team/a");
    let mut short = || Ok(Box::new(io::repeat(1).take(499_999)) as Box<dyn Read>);
    let error = client().push_blob(&reference, &descriptor, &mut short, None, &mut |_| {}, &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::Source { .. }), "{error}");
    let mut absent = || Err(io::Error::from(io::ErrorKind::NotFound));
    let error = client().push_blob(&reference, &descriptor, &mut absent, None, &mut |_| {}, &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::Source { .. }), "{error}");
}

#[test]
fn manifests_by_tag_and_by_digest() {
    let fake = Fake::start(|_| None);
    let registry = client();
    let bytes = br#"{"schemaVersion":2}"#;
    let digest = Digest::of(bytes);
    for rest in ["team/a:v1".to_owned(), format!("team/a@{digest}")] {
        let reference = name(&fake, &rest);
        assert_eq!(registry.push_manifest(&reference, media_type::OCI_INDEX, bytes, &GO_ON).unwrap(), digest);
        assert_eq!(registry.manifest(&reference, &GO_ON).unwrap().bytes(), bytes);
    }
    let paths: Vec<_> = fake.asked().iter().filter(|a| a.method == "PUT").map(|a| a.path().to_owned()).collect();
    assert_eq!(paths, ["/v2/team/a/manifests/v1".to_owned(), format!("/v2/team/a/manifests/{digest}")]);
    let wrong = name(&fake, &format!("team/a@{}", Digest::of(b"other")));
    let error = registry.push_manifest(&wrong, media_type::OCI_INDEX, bytes, &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Content);
    let count = AtomicUsize::new(0);
    let flaky = Fake::start(move |a| {
        (a.method == "PUT" && count.fetch_add(1, Ordering::Relaxed) == 0).then(|| Reply::new(500))
    });
    registry.push_manifest(&name(&flaky, "a:x"), media_type::OCI_INDEX, bytes, &GO_ON).unwrap();
    let refusing = Fake::start(|asked| {
        (asked.method == "PUT").then(|| Reply::error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"))
    });
    let error = registry.push_manifest(&name(&refusing, "a:x"), media_type::OCI_INDEX, bytes, &GO_ON).unwrap_err();
    assert_eq!(error.refusal().unwrap().errors[0].code, "MANIFEST_BLOB_UNKNOWN");
}

#[test]
fn blobs_go_up_in_parallel() {
    let fake = Fake::start(|_| None);
    let registry = client();
    let blobs: Vec<Vec<u8>> = (0..5u8).map(|i| [noise(400_000), vec![i]].concat()).collect();
    std::thread::scope(|scope| {
        for blob in &blobs {
            scope.spawn(|| push(&registry, &fake, blob, None).unwrap());
        }
    });
    assert!(blobs.iter().all(|blob| stored(&fake, "team/a", blob)));
}
