//! What an image is: configuration, history and every file of its root, so that two can be compared.
//!
//! The same facts, in the same form, as the recorder of the goldens wrote (`*.image.json`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use serde_json::{Map, Value, json};
use tar::EntryType;

use crate::sha256;

/// Regular files of a tar, by name.
#[must_use]
pub fn members(tar: &[u8]) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    let mut links = Vec::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = clean(&entry.path_bytes());
        if matches!(entry.header().entry_type(), EntryType::Symlink | EntryType::Link) {
            // `docker save` links layers that repeat.
            let target = clean(&entry.link_name_bytes().unwrap_or_default());
            links.push((name, target));
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(name, content);
    }
    for (name, target) in links {
        let target = target.trim_start_matches("../").to_owned();
        if let Some(content) = files.get(&target).cloned() {
            files.insert(name, content);
        }
    }
    files
}

/// Bytes of a layer without their compression.
#[must_use]
pub fn decompressed(bytes: Vec<u8>) -> Vec<u8> {
    let mut plain = Vec::new();
    match bytes.get(..4) {
        Some([0x1f, 0x8b, ..]) => flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap(),
        Some([0x28, 0xb5, 0x2f, 0xfd]) => zstd::Decoder::new(&bytes[..]).unwrap().read_to_end(&mut plain).unwrap(),
        _ => return bytes,
    };
    plain
}

fn clean(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let name = name.trim_matches('/');
    name.strip_prefix("./").unwrap_or(name).to_owned()
}

/// Lists the first image of a docker-archive or an OCI layout in a tar.
///
/// # Panics
/// If it is neither.
#[must_use]
pub fn of_archive(archive: &[u8]) -> Value {
    let files = members(archive);
    let parse = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (config, layers): (Value, Vec<String>) = if files.contains_key("manifest.json") {
        let manifest = &parse("manifest.json")[0];
        (parse(&text(&manifest["Config"])), manifest["Layers"].as_array().unwrap().iter().map(text).collect())
    } else {
        let blob = |descriptor: &Value| format!("blobs/{}", text(&descriptor["digest"]).replace(':', "/"));
        let mut manifest = parse(&blob(&parse("index.json")["manifests"][0]));
        if manifest["manifests"].is_array() {
            manifest = parse(&blob(&manifest["manifests"][0]));
        }
        (parse(&blob(&manifest["config"])), manifest["layers"].as_array().unwrap().iter().map(blob).collect())
    };
    let mut root = BTreeMap::new();
    for layer in &layers {
        apply(&mut root, &decompressed(files[layer].clone()));
    }
    json!({"config": kept_config(&config), "os": config["os"], "architecture": config["architecture"],
        "history": history(&config), "layers": layers.len(), "files": root})
}

/// Files of a tar of a root file system, as [`of_archive`] has them.
#[must_use]
pub fn of_root(tar: &[u8]) -> Value {
    let mut root = BTreeMap::new();
    apply(&mut root, tar);
    json!(root)
}

/// The configuration without what is empty, and without what differs from build to build by its nature.
fn kept_config(config: &Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    // The parent image and the name of a container; ArgsEscaped is a matter of Windows that versions differ in.
    let volatile = ["Image", "Hostname", "Domainname", "ArgsEscaped"];
    let map = config["config"].as_object().cloned().unwrap_or_default();
    map.into_iter().filter(|(key, value)| !empty(value) && !volatile.contains(&key.as_str())).collect()
}

fn history(config: &Value) -> Value {
    let steps = config["history"].as_array().cloned().unwrap_or_default();
    steps
        .iter()
        .map(|step| {
            let mut kept = Map::new();
            for key in ["created_by", "empty_layer", "comment", "author"] {
                let value = &step[key];
                if !(value.is_null() || *value == json!(false) || *value == json!("")) {
                    kept.insert(key.to_owned(), value.clone());
                }
            }
            Value::Object(kept)
        })
        .collect()
}

/// Lays a layer over a root.
fn apply(root: &mut BTreeMap<String, Value>, layer: &[u8]) {
    let mut seen = BTreeSet::new();
    for entry in tar::Archive::new(layer).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = format!("/{}", clean(&entry.path_bytes()));
        let (parent, name) = path.rsplit_once('/').unwrap();
        seen.insert(path.clone());
        if name == ".wh..wh..opq" {
            // Of lower layers only.
            root.retain(|key, _| !key.starts_with(&format!("{parent}/")) || seen.contains(key));
            continue;
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = format!("{parent}/{gone}");
            root.retain(|key, _| *key != gone && !key.starts_with(&format!("{gone}/")));
            continue;
        }
        let kind = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => "f",
            EntryType::Directory => "d",
            EntryType::Symlink => "l",
            EntryType::Link => "h",
            EntryType::Char => "c",
            EntryType::Block => "b",
            EntryType::Fifo => "p",
            _ => "?",
        };
        let link = String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
        if kind == "h" {
            // A hard link is another name of the same file.
            let target = format!("/{}", clean(link.as_bytes()));
            let file = root.get(&target).cloned();
            root.insert(path, file.unwrap_or_else(|| json!({"kind": format!("missing:{target}")})));
            continue;
        }
        let mut xattrs = Map::new();
        if let Ok(Some(extensions)) = entry.pax_extensions() {
            for extension in extensions.flatten() {
                if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
                    xattrs.insert(name.to_owned(), json!(String::from_utf8_lossy(extension.value_bytes())));
                }
            }
        }
        let header = entry.header();
        let (mode, uid, gid) = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
        let device = (header.device_major(), header.device_minor());
        let mut file = json!({"kind": kind, "mode": format!("0o{:o}", mode & 0o7777), "owner": format!("{uid}:{gid}")});
        match kind {
            "f" => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                file["size"] = json!(content.len());
                file["sha256"] = json!(sha256(&content));
            }
            "l" => file["target"] = json!(link),
            "c" | "b" => {
                let number = |part: std::io::Result<Option<u32>>| part.ok().flatten().unwrap_or_default();
                file["dev"] = json!(format!("{}:{}", number(device.0), number(device.1)));
            }
            _ => {}
        }
        if !xattrs.is_empty() {
            file["xattrs"] = Value::Object(xattrs);
        }
        if kind != "d" {
            root.retain(|key, _| !key.starts_with(&format!("{path}/")));
        }
        root.insert(path, file);
    }
}

/// How two images differ, one line a difference; empty if they are equal.
#[must_use]
pub fn differences(want: &Value, got: &Value) -> Vec<String> {
    let mut rows = Vec::new();
    for key in ["os", "architecture", "layers"] {
        if want[key] != got[key] {
            rows.push(format!("{key}: docker {}, rbuild {}", want[key], got[key]));
        }
    }
    for part in ["config", "files"] {
        let empty = Map::new();
        let (a, b) = (want[part].as_object().unwrap_or(&empty), got[part].as_object().unwrap_or(&empty));
        for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
            let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
            if a != b {
                rows.push(format!("{part} {key}: docker {a}, rbuild {b}"));
            }
        }
    }
    let (a, b) = (want["history"].as_array(), got["history"].as_array());
    let (a, b) = (a.map_or(&[][..], Vec::as_slice), b.map_or(&[][..], Vec::as_slice));
    for index in 0..a.len().max(b.len()) {
        if a.get(index) != b.get(index) {
            rows.push(format!("history {index}: docker {:?}, rbuild {:?}", a.get(index), b.get(index)));
        }
    }
    rows
}
