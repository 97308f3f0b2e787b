use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pretty_assertions::assert_eq;
use rbuild_testkit::require;

use super::*;
use crate::compression::EncoderOptions;
use crate::config::{ImageConfig, KeyOrder, RootFs};
use crate::digest::ImageId;
use crate::layer::{Entry, Kind, LayerWriter};
use crate::manifest::media_type;
use crate::reference::Reference;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

pub(crate) fn put_layer(store: &Store, lease: &Lease, content: &[u8]) -> (DiffId, LayerBlob) {
    let mut tar = LayerWriter::new(store.blob_writer(lease).unwrap());
    tar.append(&Entry::new(&b"file"[..], Kind::File { size: content.len() as u64 }), content).unwrap();
    let (digest, size) = tar.finish().unwrap().commit().unwrap();
    let blob =
        LayerBlob { media_type: media_type::OCI_LAYER.into(), digest: digest.clone(), size, tar_size: Some(size) };
    (DiffId(digest), blob)
}

pub(crate) fn put(store: &Store, lease: &Lease, contents: &[&str]) -> ImageId {
    let (diff_ids, blobs): (Vec<_>, Vec<_>) =
        contents.iter().map(|content| put_layer(store, lease, content.as_bytes())).unzip();
    let mut config = ImageConfig::default();
    config.os.set("linux".into());
    config.architecture.set("amd64".into());
    config.created.set("2024-01-02T03:04:05Z".into());
    config.rootfs.set(RootFs::new(diff_ids));
    store.put_image(lease, &config.to_bytes(KeyOrder::Legacy).unwrap(), None, &blobs).unwrap()
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

fn files(dir: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.to_string_lossy().into_owned());
        }
    }
    all
}

fn gc(store: &Store, prune: Prune) -> GcReport {
    store.gc(prune, &mut remove_tree).unwrap()
}

#[test]
fn tags_resolve_and_move() {
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let (a, b) = (put(&store, &lease, &["a"]), put(&store, &lease, &["a", "b"]));
    store.tag(&lease, &a, &name("x")).unwrap();
    store.tag(&lease, &a, &name("y:1")).unwrap();
    assert_eq!(store.resolve("x").unwrap(), a);
    assert_eq!(store.resolve("docker.io/library/y:1").unwrap(), a);
    assert_eq!(store.resolve(&a.to_string()).unwrap(), a);
    assert_eq!(store.resolve(a.hex()).unwrap(), a);
    // An image that only its identifier names is found too.
    assert_eq!(store.resolve(b.short()).unwrap(), b);
    let manifest = store.image_manifest(&a).unwrap();
    assert_eq!(store.resolve(&format!("x@{}", manifest.digest())).unwrap(), a);
    assert!(matches!(store.resolve("y"), Err(StoreError::NoImage(_))));
    assert!(matches!(store.resolve("../../etc/passwd"), Err(StoreError::NoImage(_))));
    assert_eq!(store.list().unwrap().len(), 1);
    store.tag(&lease, &b, &name("x")).unwrap();
    store.tag(&lease, &b, &name("y:1")).unwrap();
    let list = store.list().unwrap();
    let of = |id: &ImageId| list.iter().find(|s| s.id == *id).unwrap();
    assert_eq!(of(&a).references, []);
    assert_eq!(of(&b).references, [name("x"), name("y:1")]);
    assert_eq!(of(&b).size, 2 * 2048);
    assert_eq!(store.untag(&name("x")).unwrap(), b);
    assert!(store.untag(&name("x")).is_err());
    assert_eq!(store.remove_image(&b).unwrap(), [name("y:1")]);
    assert!(store.remove_image(&b).is_err());
    drop(lease);
    let report = gc(&store, Prune::Unreferenced);
    assert!(report.blobs > 0);
    assert!(store.image(&b).is_err());
    assert!(store.image(&a).is_ok(), "a dangling image stays");
    gc(&store, Prune::Dangling);
    assert!(store.image(&a).is_err());
}

#[test]
fn an_image_tells_all() {
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let id = put(&store, &lease, &["a", "b"]);
    store.keep(&lease, &id).unwrap();
    store.keep(&lease, &id).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    let image = store.image(&id).unwrap();
    assert_eq!(ImageId(Digest::of(&image.config_bytes)), id);
    assert_eq!(image.layers.len(), 2);
    let mut tar = Vec::new();
    store.open_layer(&image.layers[1].diff_id).unwrap().read_to_end(&mut tar).unwrap();
    assert_eq!(DiffId(Digest::of(&tar)), image.layers[1].diff_id);
    let options = EncoderOptions::Gzip { level: 6, threads: 1 };
    let packed = store.pack_layer(&lease, &image.layers[0].diff_id, options).unwrap();
    assert_eq!(store.pack_layer(&lease, &image.layers[0].diff_id, options).unwrap(), packed);
    assert_eq!(packed.media_type, media_type::OCI_LAYER_GZIP);
    // With the plain blob gone, the packed one serves.
    std::fs::remove_file(store.blob_path(image.layers[0].diff_id.digest())).unwrap();
    let mut tar = Vec::new();
    store.open_layer(&image.layers[0].diff_id).unwrap().read_to_end(&mut tar).unwrap();
    assert_eq!(DiffId(Digest::of(&tar)), image.layers[0].diff_id);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let (_, blob) = put_layer(&store, &lease, b"x");
    let config = br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#;
    assert!(matches!(store.put_image(&lease, config, None, &[blob]), Err(StoreError::Inconsistent(_))));
    assert!(matches!(store.put_image(&lease, b"{}", None, &[]), Err(StoreError::Config(_))));
    let digest = Digest::of(b"y");
    assert!(store.put_blob_from(&lease, &b"x"[..], &digest, Some(1)).is_err());
    assert!(matches!(store.open_blob(&digest), Err(StoreError::NoBlob(_))));
}

#[test]
fn unpacked_layers() {
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let (diff_id, _) = put_layer(&store, &lease, b"x");
    assert_eq!(store.unpacked(&diff_id), None);
    for content in ["first", "second"] {
        let staged = lease.stage_dir().unwrap();
        std::fs::create_dir(staged.join("fs")).unwrap();
        std::fs::write(staged.join("fs/file"), content).unwrap();
        let fs = store.publish_unpacked(&diff_id, &staged).unwrap();
        assert_eq!(std::fs::read_to_string(fs.join("file")).unwrap(), "first");
    }
    assert!(lease.hold_layer(&diff_id).unwrap().is_some());
    drop(lease);
    let report = gc(&store, Prune::Unreferenced);
    assert_eq!(report.layers, 1);
    assert_eq!(store.unpacked(&diff_id), None);
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn cache_records_keep_what_they_name() {
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let id = put(&store, &lease, &["a"]);
    let record = CacheRecord {
        key: "k".into(),
        images: vec![id.clone()],
        data: serde_json::json!({"n": 1}),
        ..CacheRecord::default()
    };
    store.cache_put(&record).unwrap();
    drop(lease);
    gc(&store, Prune::Dangling);
    assert_eq!(store.cache_get("k").unwrap(), Some(record.clone()));
    assert_eq!(store.cache_get("other").unwrap(), None);
    assert!(store.image(&id).is_ok());
    assert_eq!(store.cache_list().unwrap().len(), 1);
    std::fs::write(store.root().join("cache").join(format!("{}.json", Digest::of(b"torn").hex())), b"{").unwrap();
    assert_eq!(store.cache_get("torn").unwrap(), None);
    let report = gc(&store, Prune::Cache);
    assert_eq!(report.cache_records, 2);
    assert!(store.image(&id).is_err());
    store.cache_put(&record).unwrap();
    assert!(store.cache_remove("k").unwrap());
    assert!(!store.cache_remove("k").unwrap());
}

#[test]
fn each_way_to_keep_owners_has_its_own_unpacked_layers() {
    let (_dir, store) = store();
    let other = store.clone().with_owners("recorded");
    let lease = other.lease().unwrap();
    let id = put(&other, &lease, &["a"]);
    other.tag(&lease, &id, &name("x")).unwrap();
    let diff_id = store.image(&id).unwrap().config.diff_ids()[0].clone();
    let staged = lease.stage_dir().unwrap();
    std::fs::create_dir(staged.join("fs")).unwrap();
    other.publish_unpacked(&diff_id, &staged).unwrap();
    assert!(lease.hold_layer(&diff_id).unwrap().is_some());
    assert_eq!(store.unpacked(&diff_id), None);
    drop(lease);
    // A collection by somebody else keeps it as long as an image has the layer.
    assert_eq!(gc(&store, Prune::Dangling).layers, 0);
    assert!(other.unpacked(&diff_id).is_some());
    assert_eq!(gc(&store, Prune::All).layers, 1);
    assert_eq!(other.unpacked(&diff_id), None);
}

#[test]
fn prune_all_leaves_an_empty_store() {
    let (_dir, store) = store();
    let empty: BTreeSet<_> = {
        gc(&store, Prune::All);
        files(store.root())
    };
    let lease = store.lease().unwrap();
    let id = put(&store, &lease, &["a", "b"]);
    store.tag(&lease, &id, &name("x")).unwrap();
    store.cache_put(&CacheRecord { key: "k".into(), images: vec![id.clone()], ..CacheRecord::default() }).unwrap();
    let staged = lease.stage_dir().unwrap();
    std::fs::create_dir(staged.join("fs")).unwrap();
    std::fs::write(staged.join("fs/f"), "x").unwrap();
    store.publish_unpacked(store.image(&id).unwrap().config.diff_ids().first().unwrap(), &staged).unwrap();
    let left = lease.stage_dir().unwrap();
    std::fs::write(left.join("half"), "x").unwrap();
    std::fs::write(store.root().join("tmp/write-lost"), "x").unwrap();
    std::fs::create_dir(store.root().join("attributes")).unwrap();
    let attribute = store.root().join("attributes/1a");
    std::fs::write(&attribute, "x").unwrap();
    gc(&store, Prune::Dangling);
    assert!(attribute.exists());
    drop(lease);
    let report = gc(&store, Prune::All);
    assert_eq!((report.layers, report.cache_records, report.images.len()), (1, 1, 1));
    assert!(report.freed > 0);
    let index = store.root().join("index.json").to_string_lossy().into_owned();
    let mut now = files(store.root());
    assert_eq!(now.remove(&index), true);
    let mut empty = empty;
    empty.remove(&index);
    assert_eq!(now, empty);
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn a_lease_keeps_what_it_made_and_what_it_holds() {
    let (_dir, store) = store();
    let old = store.lease().unwrap();
    let forgotten = put(&store, &old, &["forgotten"]);
    let held = put(&store, &old, &["held"]);
    drop(old);
    // File times have the kernel's tick as their grain.
    std::thread::sleep(Duration::from_millis(30));
    let lease = store.lease().unwrap();
    assert!(lease.hold_image(&held).unwrap());
    let made = put(&store, &lease, &["made"]);
    let staged = lease.stage_dir().unwrap();
    let report = gc(&store, Prune::All);
    assert_eq!(report.live_leases, 1);
    assert!(store.image(&forgotten).is_err());
    for id in [&held, &made] {
        let image = store.image(id).unwrap();
        let mut tar = store.open_layer(&image.layers[0].diff_id).unwrap();
        std::io::copy(&mut tar, &mut std::io::sink()).unwrap();
    }
    assert!(staged.is_dir());
    assert!(!lease.hold_image(&forgotten).unwrap());
    lease.end(&mut |path| remove_tree(path)).unwrap();
    assert!(!staged.exists());
    gc(&store, Prune::Unreferenced);
    assert!(store.image(&made).is_err());
}

#[test]
fn many_writers_at_once() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for n in 0..6 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..8 {
                    let lease = store.lease().unwrap();
                    let id = put(store, &lease, &["shared", &format!("{n}-{round}")]);
                    store.tag(&lease, &id, &name(&format!("img{n}:{round}"))).unwrap();
                    if n == 0 {
                        gc(store, Prune::Unreferenced);
                    }
                    let image = store.image(&id).unwrap();
                    for layer in image.layers {
                        std::io::copy(&mut store.open_layer(&layer.diff_id).unwrap(), &mut std::io::sink()).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(store.list().unwrap().len(), 48);
    let blobs = std::fs::read_dir(store.root().join("blobs/sha256")).unwrap().count();
    gc(&store, Prune::Unreferenced);
    assert_eq!(std::fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), blobs);
    assert_eq!(std::fs::read_dir(store.root().join("leases")).unwrap().count(), 0);
}

/// Another process that is killed at any moment. The test runs itself with a variable that makes it the victim.
#[test]
fn killed_writers_leave_a_usable_store() {
    const VICTIM: &str = "RBUILD_IMAGE_TEST_VICTIM";
    if let Some(root) = std::env::var_os(VICTIM) {
        let store = Store::open(root).unwrap();
        for round in 0.. {
            let lease = store.lease().unwrap();
            let id = put(&store, &lease, &["a", &format!("{round}")]);
            store.tag(&lease, &id, &name(&format!("victim:{}", round % 3))).unwrap();
            let mut half = store.blob_writer(&lease).unwrap();
            half.write_all(&[1; 5000]).unwrap();
            std::mem::forget(half);
        }
    }
    let (_dir, store) = store();
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::killed_writers_leave_a_usable_store"])
            .env(VICTIM, store.root())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(60 + round * 17));
        child.kill().unwrap();
        child.wait().unwrap();
        let lease = store.lease().unwrap();
        let id = put(&store, &lease, &["mine", &format!("{round}")]);
        store.tag(&lease, &id, &name(&format!("mine:{round}"))).unwrap();
        for summary in store.list().unwrap() {
            for layer in store.image(&summary.id).unwrap().layers {
                std::io::copy(&mut store.open_layer(&layer.diff_id).unwrap(), &mut std::io::sink()).unwrap();
            }
        }
    }
    gc(&store, Prune::Unreferenced);
    assert_eq!(
        store.list().unwrap().iter().filter(|s| s.references.iter().any(|r| r.path() == "library/mine")).count(),
        8
    );
    gc(&store, Prune::All);
    assert_eq!(std::fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(store.root().join("leases")).unwrap().count(), 0);
}

#[test]
fn opening_refuses_other_layouts_and_names_what_fails() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("oci-layout"), br#"{"imageLayoutVersion":"9"}"#).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Version { .. })));
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(&file).unwrap_err().to_string();
    assert!(error.starts_with("cannot create directory `") && error.contains("/file/blobs/sha256`"), "{error}");
}

/// A real disk without room, a small tmpfs in a user namespace: the error says so and names the file, nothing half-written
/// is published, and the store works on.
#[test]
fn a_full_disk_is_an_error() {
    const DISK: &str = "RBUILD_IMAGE_TEST_DISK";
    if let Some(root) = std::env::var_os(DISK) {
        let store = Store::open(root).unwrap();
        let lease = store.lease().unwrap();
        let big = vec![7; 1 << 20];
        let error = store.put_blob(&lease, &big).unwrap_err();
        assert!(error.is_no_space(), "{error}");
        assert!(error.to_string().starts_with("cannot write"), "{error}");
        assert_eq!(store.blob_size(&Digest::of(&big)).unwrap(), None);
        assert_eq!(std::fs::read_dir(lease.dir()).unwrap().count(), 0);
        let id = put(&store, &lease, &["small"]);
        store.tag(&lease, &id, &name("x")).unwrap();
        assert_eq!(store.resolve("x").unwrap(), id);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let on_a_small_disk = |command: &[&str]| {
        let mount = "mount -t tmpfs -o size=400k none \"$0\" && exec \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare.args(["-rm", "sh", "-c", mount]).arg(dir.path()).args(command).env(DISK, dir.path());
        unshare.output().map_err(|error| format!("`unshare` does not start: {error}"))
    };
    let can_mount = on_a_small_disk(&["true"]).and_then(|output| match output.status.success() {
        true => Ok(()),
        false => Err(format!("no tmpfs can be mounted: {}", String::from_utf8_lossy(&output.stderr))),
    });
    require!(can_mount);
    let this = std::env::current_exe().unwrap();
    let output =
        on_a_small_disk(&[this.to_str().unwrap(), "--exact", "store::tests::a_full_disk_is_an_error"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn staged_directories_are_spread_over_an_ext_file_system() {
    use rustix::fs::{IFlags, fstatfs, ioctl_getflags};
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let flags = |path: &Path| ioctl_getflags(std::fs::File::open(path).unwrap());
    let staged = lease.stage_dir().unwrap();
    let root = std::fs::File::open(store.root()).unwrap();
    if i128::from(fstatfs(&root).unwrap().f_type) == 0xef53 {
        assert!(flags(&lease.dir()).unwrap().contains(IFlags::TOPDIR));
        // What is in one layer stays together.
        assert!(!flags(&staged).unwrap().contains(IFlags::TOPDIR));
    }
}

#[test]
fn large_blobs_are_written_beside_the_caller() {
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let data: Vec<u8> = (0..9_000_001_u32).map(|i| (i * 7 / 3) as u8).collect();
    for piece in [1 << 10, 300_000, data.len()] {
        let mut writer = store.blob_writer(&lease).unwrap();
        for chunk in data.chunks(piece) {
            writer.write_all(chunk).unwrap();
        }
        assert_eq!(writer.size(), data.len() as u64);
        let (digest, size) = writer.commit().unwrap();
        assert_eq!((digest.clone(), size), (Digest::of(&data), data.len() as u64));
        let mut read = Vec::new();
        store.open_blob(&digest).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == data);
    }
    // Given up in the middle, it leaves nothing.
    let mut writer = store.blob_writer(&lease).unwrap();
    writer.write_all(&data).unwrap();
    drop(writer);
    let left: Vec<_> = std::fs::read_dir(lease.dir()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
