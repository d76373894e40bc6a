//! Models in all layouts, read in place.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kit::{blob, check_integrity, demo_files, from_modelfile, labelled_gguf, name, open, settings};
use serde_json::json;
use weirgate_models::read_spec;
use weirgate_store::{Entry, Kind, Location, Store, StoreError, StoreSettings};

fn names(entries: &[Entry]) -> Vec<(&str, Kind)> {
    let mut names: Vec<(&str, Kind)> =
        entries.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    names.sort_by_key(|(name, _)| *name);
    names
}

#[test]
fn every_layout_is_one_list() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let write = |path: &str, bytes: &[u8]| {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::write(at(path), bytes).unwrap();
    };
    // Another's Ollama store.
    let other = open(&at("ollama"));
    let digest = blob(&other, &labelled_gguf("ollama"));
    from_modelfile(&other, "theirs:1b", &format!("FROM @{digest}\nSYSTEM S")).unwrap();
    // A hub cache: a checkpoint by its ref, and GGUF files.
    let snapshot = "hub/models--org--demo/snapshots/0123456789abcdef0123456789abcdef01234567";
    demo_files(&at(snapshot));
    write("hub/models--org--demo/refs/main", b"0123456789abcdef0123456789abcdef01234567\n");
    write("hub/models--org--quants/snapshots/aa/model-Q8_0.gguf", &labelled_gguf("quant"));
    write("hub/models--evil--ref/refs/main", b"../../../../etc");
    // Folders and loose files.
    demo_files(&at("loose/sub/demo"));
    write("loose/one.gguf", &labelled_gguf("one"));
    write("loose/mmproj-one.gguf", &labelled_gguf("projector"));
    write("loose/broken.gguf", b"GGUF");
    write("secret.gguf", &labelled_gguf("secret"));
    std::os::unix::fs::symlink(at("secret.gguf"), at("loose/link.gguf")).unwrap();
    // Jan's.
    write(
        "jan/tiny/model.json",
        br#"{"source_url": "https://x/y/tiny.gguf", "parameters": {"temperature": "0.5"}}"#,
    );
    write("jan/tiny/tiny.gguf", &labelled_gguf("tiny"));
    write("jan/bare/any.gguf", &labelled_gguf("bare"));
    write("jan/broken/model.json", b"{");
    write("jan/later/model.json", br#"{"source_url": "https://x/y/z.gguf"}"#);
    write("jan/dropped in.gguf", &labelled_gguf("dropped"));
    write("jan/escape/model.json", br#"{"source_url": "x", "sources": [{"filename": "../../secret.gguf"}]}"#);

    let before = kit::files_below(folder.path());
    let store = Store::open(StoreSettings {
        ollama: vec![at("ollama")],
        hub_caches: vec![at("hub")],
        folders: vec![at("loose")],
        jan: vec![at("jan")],
        ..StoreSettings::default()
    })
    .unwrap();
    let entries = store.list();
    assert_eq!(
        names(&entries),
        [
            ("bare", Kind::Jan),
            ("droppedin", Kind::Jan),
            ("escape", Kind::Jan),
            ("later", Kind::Jan),
            ("one", Kind::Gguf),
            ("org/demo", Kind::HubCache),
            ("org/quants:model-Q8_0", Kind::HubCache),
            ("sub/demo", Kind::Folder),
            ("theirs:1b", Kind::Ollama),
            ("tiny", Kind::Jan),
        ]
    );
    for name in ["escape", "later"] {
        assert!(matches!(store.find(name).unwrap().location, Location::Unsupported(_)), "{name}");
    }
    for name in ["org/demo", "ORG/demo:latest", "sub/demo"] {
        let entry = store.find(name).unwrap();
        assert_eq!(entry.details.family, "llama");
        assert!(read_spec(&entry.location.open().unwrap()).is_ok(), "{name}");
        assert_eq!(store.show(&entry, false).unwrap().model_info["llama.context_length"], 2048);
    }
    let tiny = store.find("tiny").unwrap();
    assert_eq!(store.settings(&tiny).unwrap().parameters["temperature"], 0.5);
    let json = store.jan_model(&tiny).unwrap().unwrap();
    assert_eq!(
        (&json["id"], &json["owned_by"], &json["format"]),
        (&json!("tiny"), &json!("you"), &json!("ggufv3"))
    );
    let bare = store.jan_model(&store.find("bare").unwrap()).unwrap().unwrap();
    assert_eq!((&bare["settings"]["ctx_len"], &bare["parameters"]["top_p"]), (&json!(2048), &json!(0.95)));

    // Read in place: nothing is written, and requests to write are refused.
    assert!(matches!(store.delete("one"), Err(StoreError::ReadOnly(_))));
    assert!(matches!(store.copy("theirs:1b", &name("mine")), Err(StoreError::ReadOnly(_))));
    assert_eq!(kit::files_below(folder.path()), before);

    // A model's digest changes with its files.
    let digest = store.find("one").unwrap().digest;
    write("loose/one.gguf", &labelled_gguf("one more"));
    assert_ne!(store.find("one").unwrap().digest, digest);
}

#[test]
fn a_model_of_anothers_store_can_be_copied_into_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = (folder.path().join("theirs"), folder.path().join("ours"));
    let other = open(&theirs);
    let digest = blob(&other, &labelled_gguf("a"));
    from_modelfile(&other, "a", &format!("FROM @{digest}\nSYSTEM S")).unwrap();
    let store = Arc::new(Store::open(StoreSettings { ollama: vec![theirs], ..settings(&ours) }).unwrap());
    store.copy("a", &name("b")).unwrap();
    assert_eq!(store.find("b").unwrap().digest, other.find("a").unwrap().digest);
    other.delete("a").unwrap();
    check_integrity(&ours);
    from_modelfile(&store, "c", "FROM b\nSYSTEM other").unwrap();
    assert_eq!(store.settings(&store.find("c").unwrap()).unwrap().system.unwrap(), "other");
}

/// CVE-2024-39721 and the like: what a folder holds under a blob's name is a blob only as a file of the folder.
#[test]
fn links_and_devices_are_no_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let (root, outside) = (folder.path().join("store"), folder.path().join("secret"));
    let store = open(&root);
    let digest = blob(&store, &labelled_gguf("a"));
    from_modelfile(&store, "a", &format!("FROM @{digest}")).unwrap();
    let path = root.join("blobs").join(format!("sha256-{}", digest.hex()));
    fs::rename(&path, &outside).unwrap();
    for target in [Path::new("/dev/zero"), &outside, Path::new("/proc/self/environ"), &root] {
        std::os::unix::fs::symlink(target, &path).unwrap();
        assert!(!store.has_blob(&digest), "{}", target.display());
        assert!(matches!(store.find("a").unwrap().location, Location::Unsupported(_)));
        assert!(store.copy("a", &name("b")).is_err());
        assert!(matches!(
            from_modelfile(&store, "c", &format!("FROM @{digest}")),
            Err(StoreError::BlobNotFound(_))
        ));
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(store.list().len(), 1);
}
