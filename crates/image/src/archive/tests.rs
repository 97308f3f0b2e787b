use std::io::Read;
use std::process::Command;

use pretty_assertions::assert_eq;
use rbuild_testkit::require;

use super::*;
use crate::compression::{Encoder, EncoderOptions};
use crate::layer::{Entry, Kind, LayerReader, LayerWriter};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::tests::{put, put_layer};
use crate::store::{Lease, Prune, Store, remove_tree};

const GZIP: EncoderOptions = EncoderOptions::Gzip { level: 6, threads: 2 };

fn platform() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn scene() -> (tempfile::TempDir, Store, Lease, Vec<ToSave>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a")).unwrap();
    let lease = store.lease().unwrap();
    let names = |list: &[&str]| list.iter().map(|n| n.parse::<Reference>().unwrap()).collect();
    let images = vec![
        ToSave { id: put(&store, &lease, &["one", "two"]), references: names(&["a:1", "reg.example/b/c:2"]) },
        ToSave { id: put(&store, &lease, &["one"]), references: names(&[]) },
    ];
    (dir, store, lease, images)
}

/// Loads into an empty store, and checks that images and layers are the same.
fn check(bytes: &[u8], images: &[ToSave]) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let lease = store.lease().unwrap();
    check_loaded(&store, &lease, &load(&store, &lease, bytes, &platform()).unwrap(), images);
}

fn check_loaded(store: &Store, lease: &Lease, loaded: &[Loaded], images: &[ToSave]) {
    let got: Vec<ToSave> =
        loaded.iter().map(|l| ToSave { id: l.id.clone(), references: l.references.clone() }).collect();
    assert_eq!(got, images);
    for image in loaded {
        for name in &image.references {
            store.tag(lease, &image.id, name).unwrap();
        }
        for layer in store.image(&image.id).unwrap().layers {
            std::io::copy(&mut store.open_layer(&layer.diff_id).unwrap(), &mut std::io::sink()).unwrap();
        }
    }
}

fn encode(bytes: &[u8], options: EncoderOptions) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), options).unwrap();
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn docker_archives_round_trip() {
    let (_dir, store, lease, images) = scene();
    let bytes = save_docker(&store, &lease, &images, Vec::new()).unwrap();
    assert_eq!(bytes, save_docker(&store, &lease, &images, Vec::new()).unwrap());
    check(&bytes, &images);
    check(&encode(&bytes, GZIP), &images);
    check(&encode(&bytes, EncoderOptions::Zstd { level: 1 }), &images);
    let mut names = Vec::new();
    let mut reader = LayerReader::new(&bytes[..]);
    while let Some(entry) = reader.next_entry().unwrap() {
        let name = String::from_utf8(entry.path).unwrap();
        if name == "manifest.json" {
            let mut table = String::new();
            reader.content().read_to_string(&mut table).unwrap();
            assert!(
                table.contains(r#""RepoTags":["a:1","reg.example/b/c:2"]"#) && table.contains(r#""RepoTags":null"#)
            );
        }
        if !name.starts_with("blobs/sha256/") {
            names.push(name);
        }
    }
    assert_eq!(names, ["blobs", "blobs/sha256", "index.json", "manifest.json", "oci-layout", "repositories"]);
    // Layers that are there only compressed come out plain.
    for image in &images {
        for layer in store.image(&image.id).unwrap().layers {
            store.pack_layer(&lease, &layer.diff_id, GZIP).unwrap();
            let _ = std::fs::remove_file(store.blob_path(layer.diff_id.digest()));
        }
    }
    assert!(bytes == save_docker(&store, &lease, &images, Vec::new()).unwrap());
}

#[test]
fn oci_archives_and_directories_round_trip() {
    let (dir, store, lease, images) = scene();
    for options in [GZIP, EncoderOptions::None, EncoderOptions::Zstd { level: 3 }] {
        let bytes = save_oci(&store, &lease, &images, options, Vec::new()).unwrap();
        check(&bytes, &images);
        check(&encode(&bytes, GZIP), &images);
        let target = dir.path().join(format!("oci-{options:?}"));
        // One after the other: the second joins the first.
        save_oci_dir(&store, &lease, &images[..1], options, &target).unwrap();
        save_oci_dir(&store, &lease, &images[1..], options, &target).unwrap();
        save_oci_dir(&store, &lease, &images, options, &target).unwrap();
        let other = Store::open(dir.path().join(format!("b-{options:?}"))).unwrap();
        let lease = other.lease().unwrap();
        let loaded = load_dir(&other, &lease, &target, &platform(), &|_| true).unwrap();
        check_loaded(&other, &lease, &loaded, &images);
        let only = load_dir(&other, &lease, &target, &platform(), &|d| {
            d.annotations.get("org.opencontainers.image.ref.name").is_some_and(|name| name == "2")
        });
        assert_eq!(only.unwrap()[0].references[0].familiar(), "reg.example/b/c:2");
        drop(lease);
        other.gc(Prune::All, &mut remove_tree).unwrap();
    }
}

/// skopeo is an independent reader of all three forms.
#[test]
fn skopeo_reads_them() {
    let skopeo = require!(require::program("skopeo"));
    let (dir, store, lease, images) = scene();
    let oci = dir.path().join("oci.tar");
    let docker = dir.path().join("docker.tar");
    save_oci(&store, &lease, &images[..1], GZIP, std::fs::File::create(&oci).unwrap()).unwrap();
    save_docker(&store, &lease, &images[..1], std::fs::File::create(&docker).unwrap()).unwrap();
    save_oci_dir(&store, &lease, &images[..1], GZIP, &dir.path().join("oci")).unwrap();
    for source in [
        format!("oci-archive:{}:1", oci.display()),
        format!("docker-archive:{}:a:1", docker.display()),
        format!("oci:{}:2", dir.path().join("oci").display()),
    ] {
        let inspect = Command::new(&skopeo).args(["inspect", "--config", &source]).output().unwrap();
        assert!(inspect.status.success(), "{source}: {}", String::from_utf8_lossy(&inspect.stderr));
        let text = String::from_utf8(inspect.stdout).unwrap();
        assert!(text.contains("2024-01-02T03:04:05Z"), "{text}");
        // A copy reads and checks every layer.
        let target = format!("dir:{}", dir.path().join("copy").display());
        let copy = Command::new(&skopeo).args(["copy", "--insecure-policy", &source, &target]).output().unwrap();
        assert!(copy.status.success(), "{source}: {}", String::from_utf8_lossy(&copy.stderr));
    }
}

/// The form that `docker save` of 20.10 writes: a directory a layer, equal layers linked, legacy descriptions beside.
#[test]
fn archives_of_docker_20() {
    let (_dir, store, lease, images) = scene();
    let image = store.image(&images[0].id).unwrap();
    let mut tar = LayerWriter::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        tar.append(&Entry::new(name, Kind::File { size: bytes.len() as u64 }), bytes).unwrap();
    };
    let config = format!("{}.json", images[0].id.hex());
    add(&config, &image.config_bytes);
    let mut layers = Vec::new();
    for (n, layer) in image.layers.iter().enumerate() {
        let mut data = Vec::new();
        store.open_layer(&layer.diff_id).unwrap().read_to_end(&mut data).unwrap();
        add(&format!("l{n}/VERSION"), b"1.0");
        add(&format!("l{n}/json"), b"{}");
        add(&format!("l{n}/layer.tar"), &data);
        layers.push(format!("l{n}/layer.tar"));
    }
    let table = |layers: &[String]| {
        serde_json::json!([{"Config": config, "RepoTags": ["a:1", "reg.example/b/c:2"], "Layers": layers}]).to_string()
    };
    let link = Entry::new(&b"l9/layer.tar"[..], Kind::Symlink { target: b"../l0/layer.tar".to_vec() });
    tar.append_empty(&link).unwrap();
    let base = tar.finish().unwrap();
    let with = |table: &str| {
        let mut whole = base[..base.len() - 1024].to_vec();
        let mut tail = LayerWriter::new(Vec::new());
        tail.append(&Entry::new(&b"manifest.json"[..], Kind::File { size: table.len() as u64 }), table.as_bytes())
            .unwrap();
        whole.extend(tail.finish().unwrap());
        whole
    };
    check(&with(&table(&layers)), &images[..1]);
    check(&with(&table(&["l9/layer.tar".into(), layers[1].clone()])), &images[..1]);
    let fails = |bytes: &[u8]| load(&store, &lease, bytes, &platform()).unwrap_err();
    let swapped: Vec<String> = layers.iter().rev().cloned().collect();
    assert!(matches!(fails(&with(&table(&swapped))), ArchiveError::WrongLayer { .. }));
    assert!(matches!(fails(&with(&table(&layers[..1]))), ArchiveError::Inconsistent(_)));
    assert!(matches!(fails(&with(&table(&["/etc/passwd".into(), layers[1].clone()]))), ArchiveError::Missing(_)));
    assert!(matches!(fails(&with(&table(&["../x".into(), layers[1].clone()]))), ArchiveError::Missing(_)));
    assert!(matches!(fails(&with("[]")), ArchiveError::NoImage));
    assert!(matches!(fails(&with("{")), ArchiveError::Json { .. }));
    assert!(matches!(fails(&base), ArchiveError::NotImages));
}

#[test]
fn corrupt_archives_are_refused() {
    let (_dir, store, lease, images) = scene();
    let (diff_id, _) = put_layer(&store, &lease, b"one");
    let victim = Store::open(store.root().with_file_name("victim")).unwrap();
    let victim_lease = victim.lease().unwrap();
    let fails = |bytes: &[u8]| load(&victim, &victim_lease, bytes, &platform()).unwrap_err();
    for bytes in [
        save_docker(&store, &lease, &images, Vec::new()).unwrap(),
        save_oci(&store, &lease, &images, EncoderOptions::None, Vec::new()).unwrap(),
    ] {
        // The first byte of a layer's content.
        let layer = std::fs::read(store.blob_path(diff_id.digest())).unwrap();
        let at = bytes.windows(layer.len()).position(|w| w == layer).unwrap();
        let mut bad = bytes.clone();
        bad[at + 512] ^= 1;
        assert!(matches!(fails(&bad), ArchiveError::Mismatch { .. }));
        for cut in [1, 511, 513, at + 600, bytes.len() - 2000] {
            fails(&bytes[..cut]);
        }
        let packed = encode(&bytes, GZIP);
        fails(&packed[..packed.len() / 2]);
    }
    fails(b"");
    fails(&[7; 3000]);
    let mut endless = LayerWriter::new(Vec::new());
    let big = Entry::new(&b"manifest.json"[..], Kind::File { size: 17 << 20 });
    endless.append(&big, std::io::repeat(b' ').take(17 << 20)).unwrap();
    let error = fails(&endless.finish().unwrap());
    assert!(matches!(error, ArchiveError::Io { .. }), "{error}");
    assert_eq!(victim.list().unwrap(), []);
}
