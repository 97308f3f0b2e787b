use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pretty_assertions::assert_eq;
use serde_json::json;

use super::fake::{Asked, Fake, Reply};
use super::*;
use crate::digest::Digest;
use crate::manifest::{Descriptor, media_type};

/// Fetches a blob that the fake has.
fn fetch(registry: &Registry, fake: &Fake, blob: &[u8]) -> Result<(Vec<u8>, Vec<String>), RegistryError> {
    fetch_described(registry, fake, &Descriptor::of(media_type::OCI_LAYER, blob))
}

fn fetch_described(
    registry: &Registry,
    fake: &Fake,
    descriptor: &Descriptor,
) -> Result<(Vec<u8>, Vec<String>), RegistryError> {
    let (mut sink, mut events) = (Vec::new(), Vec::new());
    let mut last = 0;
    let mut on_event = |event: TransferEvent<'_>| match event {
        TransferEvent::Progress { current, total } => {
            assert!(current >= last && current <= total, "{current} of {total} after {last}");
            last = current;
        }
        TransferEvent::Retrying { attempt, pause, error } => events.push(format!("{attempt} {pause:?} {error}")),
    };
    registry.fetch_blob(&name(fake, "a"), descriptor, &mut sink, &mut on_event, &GO_ON)?;
    Ok((sink, events))
}

fn is_blob(asked: &Asked) -> bool {
    asked.method == "GET" && asked.path().contains("/blobs/")
}

/// A hook that gives `reply` to the first `n` requests for blobs.
fn first(n: usize, reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> impl Fn(&Asked) -> Option<Reply> {
    let count = AtomicUsize::new(0);
    move |asked| (is_blob(asked) && count.fetch_add(1, Ordering::Relaxed) < n).then(|| reply(asked))
}

#[test]
fn an_image_by_tag_and_by_digest() {
    let fake = Fake::start(|_| None);
    let image = fake.put_image("team/a", "v1", ("linux", "amd64"), b"layer");
    let registry = client();
    let by_tag = registry.resolve(&name(&fake, "team/a:v1"), &amd64(), &GO_ON).unwrap();
    assert_eq!(by_tag.top.digest(), &image.manifest);
    assert_eq!(by_tag.manifest, by_tag.top);
    assert_eq!(by_tag.image().layers[0].digest, image.layer);
    assert_eq!(Digest::of(&by_tag.config_bytes), image.config);
    assert!(by_tag.platform_matches);
    // The digest wins over a tag that does not exist.
    let by_digest = name(&fake, &format!("team/a:nothing@{}", image.manifest));
    assert_eq!(registry.resolve(&by_digest, &amd64(), &GO_ON).unwrap().manifest, by_tag.manifest);
    let mut layer = Vec::new();
    let descriptor = &by_tag.image().layers[0];
    registry.fetch_blob(&by_digest, descriptor, &mut layer, &mut |_| {}, &GO_ON).unwrap();
    assert_eq!(layer, b"layer");
    let agent = format!("rbuild/{}", env!("CARGO_PKG_VERSION"));
    assert!(fake.all_asked().iter().all(|asked| asked.header("user-agent") == Some(&agent)));
}

#[test]
fn an_index_by_platform() {
    let fake = Fake::start(|_| None);
    let amd = fake.put_image("a", "amd", ("linux", "amd64"), b"x");
    let arm = fake.put_image("a", "arm", ("linux", "arm64"), b"y");
    let size = |image: &fake::Image| {
        fake.stored.lock().unwrap().manifests[&("a".to_owned(), image.manifest.to_string())].1.len()
    };
    let entry = |image: &fake::Image, arch: &str| {
        json!({"mediaType": media_type::DOCKER_MANIFEST, "digest": image.manifest, "size": size(image),
            "platform": {"os": "linux", "architecture": arch}})
    };
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [entry(&arm, "arm64"), entry(&amd, "amd64")]});
    let digest = fake.put_manifest("a", "latest", media_type::OCI_INDEX, index.to_string().as_bytes());
    let registry = client();
    let found = registry.resolve(&name(&fake, "a"), &amd64(), &GO_ON).unwrap();
    assert_eq!((found.top.digest(), found.manifest.digest()), (&digest, &amd.manifest));
    let found = registry.resolve(&name(&fake, "a"), &Platform::new("linux", "arm64", "v8"), &GO_ON).unwrap();
    assert_eq!((found.manifest.digest(), found.platform_matches), (&arm.manifest, true));
    match registry.resolve(&name(&fake, "a"), &Platform::new("linux", "s390x", ""), &GO_ON) {
        Err(RegistryError::NoPlatform(facts)) => {
            let NoPlatform { wanted, available, digest: of, .. } = *facts;
            assert_eq!((wanted.to_string(), of), ("linux/s390x".to_owned(), digest));
            assert_eq!(available.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/arm64", "linux/amd64"]);
        }
        other => panic!("{other:?}"),
    }
    // Without an index the image is taken, and the fact told.
    let found = registry.resolve(&name(&fake, "a:arm"), &amd64(), &GO_ON).unwrap();
    assert_eq!((found.platform.to_string().as_str(), found.platform_matches), ("linux/arm64", false));
}

#[test]
fn what_is_no_image_is_named() {
    let fake = Fake::start(|_| None);
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    fake.put_manifest("a", "one", signed, br#"{"schemaVersion":1,"name":"a","tag":"one"}"#);
    fake.put_manifest("a", "odd", "application/vnd.example+json", br#"{"schemaVersion":2}"#);
    fake.put_manifest("a", "junk", media_type::OCI_MANIFEST, b"<html>");
    let chart = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "size": 2, "digest": Digest::of(b"{}")}});
    fake.put_manifest("a", "chart", media_type::OCI_MANIFEST, chart.to_string().as_bytes());
    let deep = "[".repeat(100_000);
    fake.put_manifest("a", "deep", media_type::OCI_MANIFEST, deep.as_bytes());
    let registry = client();
    let kind = |tag: &str| {
        let error = registry.resolve(&name(&fake, &format!("a:{tag}")), &amd64(), &GO_ON).unwrap_err();
        (error.kind(), error.to_string())
    };
    assert_eq!(kind("one").0, RegistryErrorKind::SchemaOne);
    let (k, text) = kind("odd");
    assert_eq!(k, RegistryErrorKind::UnknownMediaType);
    assert!(text.contains("application/vnd.example+json"), "{text}");
    assert_eq!(kind("chart").0, RegistryErrorKind::UnknownMediaType);
    assert_eq!(kind("junk").0, RegistryErrorKind::Protocol);
    assert_eq!(kind("deep").0, RegistryErrorKind::Protocol);
    // An index that holds itself cannot exist, but a chain of indexes can.
    let mut digest = fake.put_manifest("a", "x", media_type::OCI_INDEX, br#"{"schemaVersion":2,"manifests":[]}"#);
    let mut size = 36;
    for i in 0..10 {
        let index = json!({"schemaVersion": 2, "manifests": [
            {"mediaType": media_type::OCI_INDEX, "digest": digest, "size": size,
             "platform": {"os": "linux", "architecture": "amd64"}}]});
        let text = index.to_string();
        size = text.len();
        digest = fake.put_manifest("a", &format!("nest{i}"), media_type::OCI_INDEX, text.as_bytes());
    }
    assert_eq!(kind("nest9").0, RegistryErrorKind::UnknownMediaType);
}

#[test]
fn a_missing_image_fails_at_once_with_the_registry_s_words() {
    let fake = Fake::start(|asked| {
        asked.path().contains("/none/").then(|| Reply::error(404, "NAME_UNKNOWN", "repository name not known"))
    });
    let registry = client();
    let error = registry.resolve(&name(&fake, "a:x"), &amd64(), &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::NotFound);
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.status, refusal.by, refusal.about), (404, Refuser::Registry, Subject::Manifest));
    assert_eq!(refusal.errors[0].detail.as_deref(), Some(r#"{"x":1}"#));
    let url = format!("http://{}/v2/a/manifests/x", fake.host());
    assert_eq!(error.to_string(), format!("GET {url}: 404 Not Found: MANIFEST_UNKNOWN: manifest unknown"));
    assert_eq!((fake.asked().len(), refusal.head), (2, Some(404)));
    let error = registry.resolve(&name(&fake, "none"), &amd64(), &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::NameUnknown);
}

#[test]
fn a_manifest_must_be_what_was_asked_for() {
    let fake = Fake::start(|asked| {
        let lie = Reply::new(200).header("Content-Type", media_type::OCI_MANIFEST);
        match asked.path().rsplit('/').next().unwrap() {
            "lie" => Some(lie.header("Docker-Content-Digest", Digest::of(b"other")).body("{}")),
            by if by.starts_with("sha256:") => Some(lie.body("{}")),
            _ => None,
        }
    });
    let registry = client();
    let wanted = Digest::of(b"wanted");
    for rest in [format!("a@{wanted}"), "a:lie".to_owned()] {
        let error = registry.manifest(&name(&fake, &rest), &GO_ON).unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Content, "{error}");
    }
    assert_eq!(fake.asked().len(), 3);
}

#[test]
fn huge_documents_are_refused_without_reading_them() {
    for chunked in [false, true] {
        let fake = Fake::start(move |asked| {
            let body = vec![b' '; 12 << 20];
            asked.path().contains("/manifests/").then(|| Reply { chunked, ..Reply::new(200).body(body) })
        });
        let error = client().manifest(&name(&fake, "a"), &GO_ON).unwrap_err();
        assert!(matches!(error, RegistryError::TooLong { limit: 4_194_304, .. }), "{error}");
        assert_eq!(fake.asked().len(), 2);
    }
    let fake = Fake::start(|asked| asked.path().contains("/manifests/").then(|| Reply::new(400).body(noise(1 << 20))));
    let error = client().manifest(&name(&fake, "a"), &GO_ON).unwrap_err();
    assert_eq!(error.refusal().unwrap().body.len(), ERROR_BODY_LIMIT);
    assert!(error.to_string().len() < 2000);
    // A configuration whose size is a lie of its own is not even asked for.
    let fake = Fake::start(|_| None);
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": [],
        "config": {"mediaType": media_type::OCI_CONFIG, "size": 1u64 << 40, "digest": Digest::of(b"{}")}});
    fake.put_manifest("a", "latest", media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
    let error = client().resolve(&name(&fake, "a"), &amd64(), &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::TooLong { .. }), "{error}");
    assert_eq!(fake.count("GET", "/blobs/"), 0);
}

#[test]
fn too_many_requests_are_spaced_as_the_server_asks() {
    let fake = Fake::start(first(2, |_| Reply {
        headers: vec![("Retry-After".into(), "9".into())],
        ..Reply::error(429, "TOOMANYREQUESTS", "slow down")
    }));
    let blob = noise(100);
    fake.put_blob("a", &blob);
    let start = Instant::now();
    let (got, events) = fetch(&client(), &fake, &blob).unwrap();
    assert_eq!(got, blob);
    // Nine seconds, capped by the options.
    assert!(start.elapsed() >= Duration::from_millis(80), "{:?}", start.elapsed());
    assert_eq!(events.len(), 2);
    assert!(events[1].starts_with("2 40ms GET http://"), "{}", events[1]);
    assert!(events[1].ends_with("429 Too Many Requests: TOOMANYREQUESTS: slow down"), "{}", events[1]);
    let fake = Fake::start(first(usize::MAX, |_| Reply::error(429, "TOOMANYREQUESTS", "slow down")));
    let error = fetch(&client(), &fake, &blob).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::TooManyRequests);
    assert_eq!(fake.count("GET", "/blobs/"), 4);
}

#[test]
fn server_errors_are_tried_again_and_final_ones_not() {
    let blob = noise(100);
    for status in [500, 502, 503, 504] {
        let fake = Fake::start(first(3, move |_| Reply::new(status).body("<html>oops</html>")));
        fake.put_blob("a", &blob);
        assert_eq!(fetch(&client(), &fake, &blob).unwrap().0, blob);
        assert_eq!(fake.count("GET", "/blobs/"), 4);
    }
    for (status, kind) in [
        (400, RegistryErrorKind::Client(400)),
        (401, RegistryErrorKind::Unauthorized),
        (403, RegistryErrorKind::Denied),
        (404, RegistryErrorKind::NotFound),
        (501, RegistryErrorKind::Server(501)),
    ] {
        let fake = Fake::start(first(9, move |_| Reply::new(status)));
        fake.put_blob("a", &blob);
        assert_eq!(fetch(&client(), &fake, &blob).unwrap_err().kind(), kind);
        assert_eq!(fake.count("GET", "/blobs/"), 1);
    }
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let blob = noise(3_000_000);
    let whole = blob.clone();
    let fake = Fake::start(first(1, move |_| Reply { cut: Some(1_234_567), ..Reply::new(200).body(whole.clone()) }));
    fake.put_blob("a", &blob);
    let (got, events) = fetch(&client(), &fake, &blob).unwrap();
    assert!(got == blob);
    assert_eq!(events.len(), 1);
    let asked = fake.asked();
    assert_eq!(asked.iter().map(|a| a.header("range")).collect::<Vec<_>>(), [None, Some("bytes=1234567-")]);
}

#[test]
fn many_cuts_are_survived_as_long_as_there_is_progress() {
    let blob = noise(4_000_000);
    let fake = {
        let whole = blob.clone();
        Fake::start(move |asked| {
            if !is_blob(asked) {
                return None;
            }
            let start: usize = asked.header("range").map_or(0, |r| r[6..r.len() - 1].parse().unwrap());
            let part = &whole[start..];
            let status = if start == 0 { 200 } else { 206 };
            let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
            Some(Reply { cut: Some(300_000), ..Reply::new(status).header("Content-Range", range).body(part) })
        })
    };
    let (got, events) = fetch(&client(), &fake, &blob).unwrap();
    assert!(got == blob);
    assert_eq!(events.len(), 13);
    // Without progress the attempts end.
    let fake = Fake::start(first(usize::MAX, |_| Reply { cut: Some(0), ..Reply::new(200).body(noise(500)) }));
    let error = fetch(&client(), &fake, &noise(500)).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Broken, "{error}");
    assert_eq!(fake.asked().len(), 4);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let blob = noise(1_000_000);
    for refusing in [false, true] {
        let whole = blob.clone();
        let count = AtomicUsize::new(0);
        let fake = Fake::start(move |asked| {
            if !is_blob(asked) {
                return None;
            }
            let cut = (count.fetch_add(1, Ordering::Relaxed) == 0).then_some(400_000);
            if refusing && asked.header("range").is_some() {
                return Some(Reply::new(416));
            }
            Some(Reply { cut, ..Reply::new(200).body(whole.clone()) })
        });
        assert!(fetch(&client(), &fake, &blob).unwrap().0 == blob);
        assert_eq!(fake.asked().len(), if refusing { 3 } else { 2 });
    }
    // The server sends another part than the one asked for.
    let whole = blob.clone();
    let fake = Fake::start(move |asked| {
        let (start, cut) = match (is_blob(asked), asked.header("range")) {
            (false, _) => return None,
            (true, Some(_)) => (7, None),
            (true, None) => {
                return Some(Reply { cut: Some(400_000), ..Reply::new(200).body(whole.clone()) });
            }
        };
        let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
        Some(Reply { cut, ..Reply::new(206).header("Content-Range", range).body(&whole[start..]) })
    });
    let error = fetch(&client(), &fake, &blob).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Broken);
}

#[test]
fn wrong_content_is_an_error_and_not_tried_again() {
    let blob = noise(100_000);
    let mut flipped = blob.clone();
    flipped[77_777] ^= 1;
    let longer = [&blob[..], b"x"].concat();
    for (content, chunked, kind) in [
        (flipped, false, "digest mismatch"),
        (longer.clone(), false, "size mismatch"),
        (longer, true, "size mismatch"),
        (blob[..99_999].to_vec(), false, "size mismatch"),
    ] {
        let fake = Fake::start(first(9, move |_| Reply { chunked, ..Reply::new(200).body(content.clone()) }));
        let error = fetch(&client(), &fake, &blob).unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Content);
        assert!(error.to_string().contains(kind), "{error}");
        assert_eq!(fake.asked().len(), 1);
    }
    // A body that ends early without having announced its length may be a broken proxy: asked for the rest.
    let half = blob[..50_000].to_vec();
    let fake = Fake::start(first(1, move |_| Reply { chunked: true, ..Reply::new(200).body(half.clone()) }));
    fake.put_blob("a", &blob);
    assert!(fetch(&client(), &fake, &blob).unwrap().0 == blob);
    let half = blob[..50_000].to_vec();
    let fake = Fake::start(first(99, move |_| Reply { chunked: true, ..Reply::new(200).body(half.clone()) }));
    let error = fetch(&client(), &fake, &blob).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Content, "{error}");
    assert_eq!(fake.asked().len(), 4);
}

#[test]
fn an_empty_blob() {
    let fake = Fake::start(|_| None);
    fake.put_blob("a", b"");
    assert_eq!(fetch(&client(), &fake, b"").unwrap().0, b"");
}

#[test]
fn a_failing_sink_ends_the_download() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let fake = Fake::start(|_| None);
    let blob = noise(1000);
    fake.put_blob("a", &blob);
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &blob);
    let result = client().fetch_blob(&name(&fake, "a"), &descriptor, &mut Full, &mut |_| {}, &GO_ON);
    assert!(matches!(result, Err(RegistryError::Sink { .. })), "{result:?}");
    assert_eq!(fake.asked().len(), 1);
}

#[test]
fn redirections_are_followed_without_the_authorisation() {
    let blob = noise(200_000);
    let storage = Fake::start(|_| None);
    storage.put_blob("b", &blob);
    let target = format!("http://{}/v2/b/blobs/{}?X-Signature=hush", storage.host(), Digest::of(&blob));
    let fake = Fake::start(move |asked| {
        if asked.header("authorization") != Some("Bearer tok") {
            return Some(Reply::new(401).header("WWW-Authenticate", "Basic realm=x"));
        }
        is_blob(asked).then(|| Reply::new(307).header("Location", &target))
    });
    let credentials = |_: &str| Ok::<_, CredentialError>(Some(Credential::RegistryToken(Secret::new("tok"))));
    let mut with_token = options();
    with_token.credentials = Some(Arc::new(credentials));
    // The registry asks for Basic, for which a token is no answer.
    let registry = Registry::new(with_token.clone()).unwrap();
    assert!(matches!(fetch(&registry, &fake, &blob), Err(RegistryError::NoCredentials { .. })));
    let fake = {
        let target = format!("http://{}/v2/b/blobs/{}?X-Signature=hush", storage.host(), Digest::of(&blob));
        Fake::start(move |asked| {
            if asked.header("authorization") != Some("Bearer tok") {
                return Some(Reply::new(401).header("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:1/\""));
            }
            is_blob(asked).then(|| Reply::new(307).header("Location", &target))
        })
    };
    let registry = Registry::new(with_token).unwrap();
    assert!(fetch(&registry, &fake, &blob).unwrap().0 == blob);
    assert_eq!(storage.asked().len(), 1);
    assert!(storage.all_asked().iter().all(|asked| asked.header("authorization").is_none()));
    // What the storage refuses is told without its signature.
    let gone = fetch(&registry, &fake, b"gone").unwrap_err();
    assert_eq!(gone.kind(), RegistryErrorKind::Content, "{gone}");
    storage.stored.lock().unwrap().blobs.clear();
    let error = fetch(&registry, &fake, &blob).unwrap_err();
    assert_eq!(error.refusal().unwrap().by, Refuser::Elsewhere);
    assert!(!error.to_string().contains("hush"), "{error}");
}

#[test]
fn endless_and_odd_redirections_end() {
    for location in ["/v2/a/blobs/sha256:again", "ftp://x/y", ""] {
        let fake = Fake::start(move |asked| is_blob(asked).then(|| Reply::new(302).header("Location", location)));
        let error = fetch(&client(), &fake, b"x").unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Protocol, "{location}: {error}");
        assert!(fake.asked().len() <= 11);
    }
}

#[test]
fn blobs_from_elsewhere_are_fetched_without_credentials() {
    let blob = noise(5000);
    let elsewhere = Fake::start(|_| None);
    elsewhere.put_blob("f", &blob);
    let fake = Fake::start(|_| None);
    let mut descriptor = Descriptor::of(media_type::DOCKER_LAYER_FOREIGN, &blob);
    descriptor.urls = vec![
        "file:///etc/passwd".to_owned(),
        format!("http://{}/v2/f/blobs/sha256:0", elsewhere.host()),
        format!("http://{}/v2/f/blobs/{}", elsewhere.host(), descriptor.digest),
    ];
    assert_eq!(fetch_described(&client(), &fake, &descriptor).unwrap().0, blob);
    assert_eq!((fake.asked().len(), elsewhere.asked().len()), (1, 2));
}

#[test]
fn mirrors_are_asked_in_order() {
    let (lacking, failing, having) =
        (Fake::start(|_| None), Fake::start(|_| Some(Reply::new(500))), Fake::start(|_| None));
    let image = having.put_image("library/a", "latest", ("linux", "amd64"), &noise(1000));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut with_mirrors = options();
    with_mirrors.mirrors =
        [gone, lacking.host(), failing.host(), having.host()].iter().map(|h| format!("http://{h}")).collect();
    let registry = Registry::new(with_mirrors).unwrap();
    let reference: Reference = "a".parse().unwrap();
    let found = registry.resolve(&reference, &amd64(), &GO_ON).unwrap();
    assert_eq!(found.manifest.digest(), &image.manifest);
    assert_eq!(lacking.count("HEAD", "/manifests/latest"), 1);
    assert_eq!(failing.count("HEAD", "/manifests/latest"), 2);
    let mut layer = Vec::new();
    registry.fetch_blob(&reference, &found.image().layers[0], &mut layer, &mut |_| {}, &GO_ON).unwrap();
    assert_eq!(Digest::of(&layer), image.layer);
}

#[test]
fn a_mirror_with_wrong_content_is_named() {
    let mirror = Fake::start(first(9, |_| Reply::new(200).body(noise(900))));
    let next = Fake::start(|_| None);
    let wanted = [&noise(899)[..], b"x"].concat();
    next.put_blob("library/a", &wanted);
    let mut with_mirrors = options();
    with_mirrors.mirrors = vec![format!("http://{}", mirror.host()), format!("http://{}", next.host())];
    let registry = Registry::new(with_mirrors).unwrap();
    let reference: Reference = "a".parse().unwrap();
    let fetch = |bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type::OCI_LAYER, bytes);
        registry.fetch_blob(&reference, &descriptor, &mut Vec::new(), &mut |_| {}, &GO_ON)
    };
    // What has been written cannot be taken back.
    let error = fetch(&wanted).unwrap_err();
    assert!(error.to_string().starts_with(&format!("http://{}", mirror.host())), "{error}");
    assert!(error.to_string().contains("digest mismatch"), "{error}");
    assert_eq!(next.asked().len(), 0);
    // A wrong length shows before.
    let longer = [&wanted[..], b"y"].concat();
    next.put_blob("library/a", &longer);
    fetch(&longer).unwrap();
    assert_eq!(next.asked().len(), 1);
}

#[test]
fn a_silent_server_is_given_up_and_a_cancelled_wait_ends() {
    let stalled = |_: &Asked| Reply { stall: Some(Duration::from_secs(30)), ..Reply::new(200).body(noise(1000)) };
    let fake = Fake::start(first(99, stalled));
    let mut impatient = options();
    impatient.timeouts.idle = Duration::from_millis(200);
    impatient.retries.attempts = 2;
    let start = Instant::now();
    let error = fetch(&Registry::new(impatient).unwrap(), &fake, &noise(1000)).unwrap_err();
    assert!(matches!(error, RegistryError::Timeout { phase: TimeoutPhase::Body, .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
    let cancel = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            cancel.store(true, Ordering::Relaxed);
        });
        let descriptor = Descriptor::of(media_type::OCI_LAYER, &noise(1000));
        let result = client().fetch_blob(&name(&fake, "a"), &descriptor, &mut Vec::new(), &mut |_| {}, &cancel);
        assert!(matches!(result, Err(RegistryError::Cancelled)), "{result:?}");
    });
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn blobs_come_in_parallel_and_from_inside_a_runtime() {
    let blobs: Vec<Vec<u8>> = (0..6).map(|i| [noise(300_000 + i), vec![i as u8]].concat()).collect();
    let fake = Fake::start(|_| None);
    for blob in &blobs {
        fake.put_blob("a", blob);
    }
    let foreign = tokio::runtime::Builder::new_current_thread().build().unwrap();
    foreign.block_on(async {
        let registry = client();
        std::thread::scope(|scope| {
            for blob in &blobs {
                scope.spawn(|| assert!(fetch(&registry, &fake, blob).unwrap().0 == *blob));
            }
        });
        assert!(fetch(&registry, &fake, &blobs[0]).unwrap().0 == blobs[0]);
        drop(registry);
    });
}

#[test]
fn an_unreachable_registry_is_told_apart() {
    let registry = client();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start = Instant::now();
    let error = registry.manifest(&format!("{gone}/a").parse().unwrap(), &GO_ON).unwrap_err();
    match &error {
        RegistryError::Connect { address, source, .. } => {
            assert_eq!(address.as_deref(), Some(gone.to_string().as_str()));
            assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    let error = registry.manifest(&"no-such-host.invalid/a".parse().unwrap(), &GO_ON).unwrap_err();
    match &error {
        RegistryError::Resolve { host, problem, .. } => {
            assert_eq!((host.as_str(), problem), ("no-such-host.invalid", &ResolveProblem::NoSuchHost));
        }
        other => panic!("{other:?}"),
    }
    let local = registry.manifest(&format!("localhost:{}/a", gone.port()).parse().unwrap(), &GO_ON).unwrap_err();
    assert_eq!(local.kind(), RegistryErrorKind::Connect, "{local}");
    // Something that speaks no HTTP at all.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, b"220 mail ready\r\n");
        }
    });
    let error = registry.manifest(&format!("{host}/a").parse().unwrap(), &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Protocol, "{error:?}");
}

#[test]
fn localhost_is_found_by_name() {
    let fake = Fake::start(|_| None);
    fake.put_image("a", "latest", ("linux", "amd64"), b"x");
    let reference = format!("localhost:{}/a", fake.address.port()).parse().unwrap();
    client().resolve(&reference, &amd64(), &GO_ON).unwrap();
}
