//! Operations on stores of their own, and on a registry in this process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use rbuild_image::digest::Digest;
use rbuild_image::manifest::{Descriptor, ImageManifest, Manifest, media_type};
use rbuild_image::store::{LayerBlob, Store};
use serde_json::json;

use super::*;
use crate::StoreOptions;

static NEVER: AtomicBool = AtomicBool::new(false);

/// A tar of one file.
fn layer(content: &str) -> Vec<u8> {
    let mut header = vec![0u8; 512];
    header[..4].copy_from_slice(b"file");
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header;
    tar.extend_from_slice(content.as_bytes());
    tar.resize(1024, 0);
    tar.resize(2048, 0);
    tar
}

struct Fixture {
    _dir: tempfile::TempDir,
    options: StoreOptions,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { root: dir.path().join("store") };
        Fixture { _dir: dir, options }
    }

    /// Puts an image of one layer into the store and names it; its id.
    fn image(&self, content: &str, names: &[&str]) -> String {
        let store = Store::open(&self.options.root).unwrap();
        let lease = store.lease().unwrap();
        let tar = layer(content);
        let digest = store.put_blob(&lease, &tar).unwrap();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05.5Z",
            "config": {"Cmd": ["sh"], "Labels": {"l": content}, "Hostname": "h"},
            "history": [
                {"created": "2026-01-02T03:04:04Z", "created_by": "ADD x /"},
                {"created": "2026-01-02T03:04:05Z", "created_by": "CMD [\"sh\"]", "comment": "c", "empty_layer": true},
            ],
            "rootfs": {"type": "layers", "diff_ids": [digest.to_string()]},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let blob = LayerBlob {
            media_type: media_type::OCI_LAYER.into(),
            digest,
            size: tar.len() as u64,
            tar_size: Some(tar.len() as u64),
        };
        let manifest = ImageManifest::new(
            media_type::OCI_MANIFEST,
            Descriptor::of(media_type::OCI_CONFIG, &config),
            vec![blob.descriptor()],
        );
        let manifest = Manifest::parse(manifest.to_bytes().unwrap(), None).unwrap();
        let id = store.put_image(&lease, &config, Some(&manifest), &[blob]).unwrap();
        for name in names {
            store.tag(&lease, &id, &name.parse().unwrap()).unwrap();
        }
        id.to_string()
    }

    fn names(&self) -> Vec<String> {
        let images = list(&self.options).unwrap();
        images.iter().flat_map(|image| image.names.iter().filter_map(ImageName::familiar)).collect()
    }

    fn remove(&self, name: &str) -> Result<Vec<Removed>, ManageError> {
        remove(&self.options, name, Force::No)
    }
}

fn untagged(name: &str) -> Removed {
    Removed::Untagged(name.into())
}

#[test]
fn listing_and_naming() {
    let fixture = Fixture::new();
    assert_eq!(list(&fixture.options).unwrap(), []);
    let id = fixture.image("a", &["a:1"]);
    tag(&fixture.options, "a:1", "r.example/b").unwrap();
    tag(&fixture.options, &id["sha256:".len()..][..8], "c:2").unwrap();
    let images = list(&fixture.options).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!((images[0].id.as_str(), images[0].size, images[0].layers), (id.as_str(), 2048, 1));
    assert_eq!(images[0].created, Some(1_767_323_045));
    let mut names = fixture.names();
    names.sort();
    assert_eq!(names, ["a:1", "c:2", "r.example/b:latest"]);
    assert!(
        matches!(tag(&fixture.options, "nosuch", "x"), Err(ManageError::NoImage { name }) if name == "nosuch:latest")
    );
    assert!(matches!(tag(&fixture.options, "a:1", "Bad:x"), Err(ManageError::Reference { .. })));
    let digested = format!("x@{id}");
    assert!(matches!(tag(&fixture.options, "a:1", &digested), Err(ManageError::NameWithDigest { .. })));
}

#[test]
fn removing_names_and_images() {
    let fixture = Fixture::new();
    let id = fixture.image("a", &["a:1", "a:2", "b:1"]);
    assert_eq!(fixture.remove("a:1").unwrap(), [untagged("a:1")]);
    assert!(matches!(fixture.remove(&id), Err(ManageError::SeveralNames { .. })));
    assert!(matches!(fixture.remove("a"), Err(ManageError::NoImage { name }) if name == "a:latest"));
    assert_eq!(fixture.remove("b:1").unwrap(), [untagged("b:1")]);
    assert_eq!(fixture.remove("a:2").unwrap(), [untagged("a:2"), Removed::Deleted(id.clone())]);
    assert!(matches!(fixture.remove(&id), Err(ManageError::NoImage { .. })));
    assert_eq!(list(&fixture.options).unwrap(), []);

    let id = fixture.image("b", &["a:1", "b:1"]);
    assert_eq!(
        remove(&fixture.options, &id[..20], Force::Yes).unwrap(),
        [untagged("a:1"), untagged("b:1"), Removed::Deleted(id)]
    );
    assert!(collect(&fixture.options).unwrap() > 0);
    assert_eq!(std::fs::read_dir(fixture.options.root.join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn what_a_registry_calls_an_image_goes_with_its_last_name() {
    let fixture = Fixture::new();
    let id = fixture.image("a", &["z:1"]);
    let store = Store::open(&fixture.options.root).unwrap();
    let digest = Digest::of(b"manifest");
    let lease = store.lease().unwrap();
    for name in ["r.example/a:1", "r.example/a:2"] {
        store.tag_pulled(&lease, &id.parse().unwrap(), &name.parse().unwrap(), Some(&digest)).unwrap();
    }
    let shown = inspect(&fixture.options, "z:1").unwrap();
    assert_eq!(shown["RepoDigests"], json!([format!("r.example/a@{digest}")]));
    assert_eq!(fixture.remove("r.example/a:1").unwrap(), [untagged("r.example/a:1")]);
    assert_eq!(
        fixture.remove("r.example/a:2").unwrap(),
        [untagged("r.example/a:2"), untagged(&format!("r.example/a@{digest}"))]
    );
    assert_eq!(fixture.names(), ["z:1"]);
}

#[test]
fn pruning() {
    let fixture = Fixture::new();
    let named = fixture.image("a", &["a:1"]);
    let nameless = fixture.image("b", &[]);
    let report = prune(&fixture.options, PruneScope::Cache).unwrap();
    assert_eq!((report.removed, report.cache_records), (vec![], 0));
    let report = prune(&fixture.options, PruneScope::Dangling).unwrap();
    assert_eq!(report.removed, [Removed::Deleted(nameless)]);
    assert!(report.freed_bytes >= 2048, "{}", report.freed_bytes);
    assert_eq!(fixture.names(), ["a:1"]);
    let report = prune(&fixture.options, PruneScope::All).unwrap();
    assert_eq!(report.removed, [untagged("a:1"), Removed::Deleted(named)]);
    assert_eq!(list(&fixture.options).unwrap(), []);
}

#[test]
fn inspecting() {
    let fixture = Fixture::new();
    let id = fixture.image("a", &["a:1"]);
    let shown = inspect(&fixture.options, "a:1").unwrap();
    assert_eq!(shown["Id"], json!(id));
    assert_eq!(shown["RepoTags"], json!(["a:1"]));
    assert_eq!(shown["RepoDigests"], json!([]));
    assert_eq!((&shown["Size"], &shown["Os"], &shown["Comment"]), (&json!(2048), &json!("linux"), &json!("c")));
    assert_eq!(shown["Created"], json!("2026-01-02T03:04:05.5Z"));
    assert_eq!(shown["RootFS"]["Layers"], json!([Digest::of(&layer("a")).to_string()]));
    assert_eq!(
        shown["Config"],
        json!({"Cmd": ["sh"], "Entrypoint": null, "Env": null, "Labels": {"l": "a"}, "OnBuild": null, "User": "",
               "Volumes": null, "WorkingDir": ""})
    );
    let rows = history(&fixture.options, "a:1").unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].id.as_deref(), rows[0].size, rows[0].comment.as_str()), (Some(id.as_str()), 0, "c"));
    assert_eq!((rows[1].id.as_deref(), rows[1].size, rows[1].created), (None, 2048, Some(1_767_323_044)));
    assert_eq!(rows[1].created_by, "ADD x /");
}

#[test]
fn archives_there_and_back() {
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        let (from, to) = (Fixture::new(), Fixture::new());
        let a = from.image("a", &["a:1", "a:2"]);
        let b = from.image("b", &["r.example/b:1"]);
        let file = from.options.root.join("saved.tar");
        save_file(&from.options, &["a".into(), "r.example/b:1".into()], format, &file, &NEVER).unwrap();
        let mut loaded = load_file(&to.options, &file, &NEVER).unwrap();
        loaded.sort_by(|x, y| x.names.cmp(&y.names));
        let mut names = to.names();
        names.sort();
        assert_eq!(names, ["a:1", "a:2", "r.example/b:1"], "{format:?}");
        let mut ids: Vec<String> = list(&to.options).unwrap().into_iter().map(|image| image.id).collect();
        ids.sort();
        let mut want = vec![a.clone(), b];
        want.sort();
        assert_eq!(ids, want, "{format:?}");

        // An image that is asked for by its id has no name in the archive.
        let mut bytes = Vec::new();
        save(&from.options, &[a[..20].to_owned()], ArchiveFormat::Docker, &mut bytes, &NEVER).unwrap();
        let loaded = load(&Fixture::new().options, &mut bytes.as_slice(), &NEVER).unwrap();
        assert_eq!(loaded, [Loaded { id: a, names: vec![] }]);
    }
}

#[test]
fn an_archive_is_whole_or_not_there() {
    let fixture = Fixture::new();
    fixture.image("a", &["a:1"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.tar");
    let save = |names: &[&str], cancel: &AtomicBool| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        save_file(&fixture.options, &names, ArchiveFormat::Docker, &file, cancel)
    };
    assert!(matches!(save(&["a:1", "nosuch"], &NEVER), Err(ManageError::NoImage { .. })));
    assert!(matches!(save(&["a:1"], &AtomicBool::new(true)), Err(ManageError::Cancelled)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    save(&["a:1"], &NEVER).unwrap();
    let whole = std::fs::read(&file).unwrap();
    assert!(save(&["nosuch"], &NEVER).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), whole);
    // A device is written to, not replaced.
    save_file(&fixture.options, &["a:1".into()], ArchiveFormat::Oci, "/dev/null".as_ref(), &NEVER).unwrap();
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    for junk in [&b"junk"[..], &whole[..whole.len() / 2], b""] {
        assert!(load(&Fixture::new().options, &mut &*junk, &NEVER).is_err());
    }
}

/// A registry that keeps everything in memory and asks for no password.
struct FakeRegistry {
    address: String,
    content: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl FakeRegistry {
    fn start() -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
        let shared = content.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || while answer(&stream, &shared).is_some() {});
            }
        });
        FakeRegistry { address, content }
    }
}

fn answer(stream: &TcpStream, content: &Mutex<BTreeMap<String, Vec<u8>>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let (name, value) = match header.trim().split_once(':') {
            Some(pair) => pair,
            None => break,
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = target.split('?').next()?.to_owned();
    let mut content = content.lock().unwrap();
    let (status, headers, sent) = match method.as_str() {
        "POST" => ("202 Accepted", format!("Location: {path}one\r\n"), Vec::new()),
        "PUT" if path.contains("/blobs/uploads/") => {
            let digest = Digest::of(&body).to_string();
            let blobs = path.split("uploads/").next()?.to_owned();
            content.insert(format!("{blobs}{digest}"), body);
            ("201 Created", format!("Docker-Content-Digest: {digest}\r\n"), Vec::new())
        }
        "PUT" => {
            let digest = Digest::of(&body).to_string();
            let manifests = path.rsplit_once('/')?.0.to_owned();
            content.insert(format!("{manifests}/{digest}"), body.clone());
            content.insert(path, body);
            ("201 Created", format!("Docker-Content-Digest: {digest}\r\n"), Vec::new())
        }
        _ if path == "/v2/" => ("200 OK", String::new(), b"{}".to_vec()),
        _ => match content.get(&path) {
            None => ("404 Not Found", String::new(), Vec::new()),
            Some(bytes) => {
                let kind =
                    if path.contains("/manifests/") { media_type::OCI_MANIFEST } else { "application/octet-stream" };
                ("200 OK", format!("Content-Type: {kind}\r\n"), bytes.clone())
            }
        },
    };
    let mut writer = stream;
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", sent.len());
    writer.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        writer.write_all(&sent).ok()?;
    }
    Some(())
}

#[test]
fn pushed_and_pulled() {
    let registry = FakeRegistry::start();
    let (from, to) = (Fixture::new(), Fixture::new());
    let name = format!("{}/some/image:1", registry.address);
    let id = from.image("a", &[&name]);
    let access = crate::RegistryAccess::default();
    let mut facts = Vec::new();
    let pushed = push(&from.options, &access, &name, &mut |fact| facts.push(fact.clone()), &NEVER).unwrap();
    assert_eq!((pushed.tag.as_str(), pushed.name.as_str()), ("1", name.as_str()));
    let state = |facts: &[TransferFact], wanted: &LayerState| {
        facts.iter().any(|fact| matches!(fact, TransferFact::Layer { state, .. } if state == wanted))
    };
    assert!(matches!(&facts[0], TransferFact::Started { path, .. } if path == "some/image"));
    assert!(state(&facts, &LayerState::Complete), "{facts:?}");
    // The layer went compressed, and the store now knows by which digest the registry has the image.
    let layers = registry.content.lock().unwrap();
    assert!(layers.values().any(|bytes| bytes.starts_with(&[0x1f, 0x8b])));
    assert!(!layers.values().any(|bytes| *bytes == layer("a")));
    drop(layers);
    let known = list(&from.options).unwrap();
    assert_eq!(known[0].names[0].digest.as_deref(), Some(pushed.digest.as_str()));

    let mut facts = Vec::new();
    let again = push(&from.options, &access, &name, &mut |fact| facts.push(fact.clone()), &NEVER).unwrap();
    assert_eq!(again.digest, pushed.digest);
    assert!(state(&facts, &LayerState::Exists), "{facts:?}");

    let pulled = pull(&to.options, &access, &name, None, &mut |_| {}, &NEVER).unwrap();
    assert_eq!((&pulled.id, &pulled.digest, pulled.newer), (&id, &pushed.digest, true));
    let pulled = pull(&to.options, &access, &name, None, &mut |_| {}, &NEVER).unwrap();
    assert!(!pulled.newer);
    assert_eq!(list(&to.options).unwrap()[0].size, 2048);
    assert_eq!(tags(&to.options, &format!("{}/some/image", registry.address)).unwrap(), [name.as_str()]);

    let missing = format!("{}/some/image:2", registry.address);
    assert!(matches!(push(&from.options, &access, &missing, &mut |_| {}, &NEVER), Err(ManageError::NoImage { .. })));
    assert!(matches!(
        pull(&to.options, &access, &missing, None, &mut |_| {}, &NEVER),
        Err(ManageError::Registry { action: "pull", .. })
    ));
    let cancelled = AtomicBool::new(true);
    assert!(matches!(
        pull(&Fixture::new().options, &access, &name, None, &mut |_| {}, &cancelled),
        Err(ManageError::Cancelled)
    ));
}

#[test]
fn a_layer_that_is_another_is_refused() {
    let registry = FakeRegistry::start();
    let (from, to) = (Fixture::new(), Fixture::new());
    let name = format!("{}/x:1", registry.address);
    from.image("a", &[&name]);
    let access = crate::RegistryAccess::default();
    push(&from.options, &access, &name, &mut |_| {}, &NEVER).unwrap();
    // A registry whose manifest names another layer than the configuration does.
    let mut content = registry.content.lock().unwrap();
    let path = "/v2/x/manifests/1".to_owned();
    let mut manifest: serde_json::Value = serde_json::from_slice(&content[&path]).unwrap();
    let other = layer("b");
    let digest = Digest::of(&other);
    manifest["layers"][0]["digest"] = json!(digest.to_string());
    manifest["layers"][0]["size"] = json!(other.len());
    content.insert(format!("/v2/x/blobs/{digest}"), other);
    content.insert(path, serde_json::to_vec(&manifest).unwrap());
    drop(content);
    let error = pull(&to.options, &access, &name, None, &mut |_| {}, &NEVER).unwrap_err();
    assert!(matches!(error, ManageError::Inconsistent { .. }), "{error:?}");
    assert_eq!(list(&to.options).unwrap(), []);
}
