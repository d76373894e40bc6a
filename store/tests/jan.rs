//! Jan's folder of models where it is ours: put in order, described, deleted from, fetched into.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kit::fake::{Reply, Server};
use kit::{files_below, labelled_gguf, lines};
use serde_json::{Value, json};
use weirgate_models::{DType, GgufValue, GgufWriter};
use weirgate_store::{Kind, Location, RegistryError, RegistrySettings, Store, StoreError, StoreSettings};

struct Kept {
    folder: tempfile::TempDir,
    store: Arc<Store>,
}

fn open() -> Kept {
    let folder = tempfile::tempdir().unwrap();
    let store = reopen(folder.path());
    Kept { folder, store }
}

fn reopen(folder: &Path) -> Arc<Store> {
    let registry = RegistrySettings {
        private_hosts: vec!["127.0.0.1".to_owned()],
        tries: 3,
        ..RegistrySettings::default()
    };
    let own_jan = Some(folder.join("models"));
    Arc::new(Store::open(StoreSettings { own_jan, registry, ..StoreSettings::default() }).unwrap())
}

impl Kept {
    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("models").join(path)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), bytes).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.store.list().into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    }

    fn document(&self, id: &str) -> Value {
        serde_json::from_slice(&fs::read(self.at(id).join("model.json")).unwrap()).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let root = self.folder.path().join("models");
        let mut files: Vec<String> = files_below(&root)
            .iter()
            .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
            .collect();
        files.sort();
        files
    }
}

/// A GGUF file with a chat template, and `padding` bytes of a tensor.
fn gguf(template: Option<&str>, padding: usize) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", GgufValue::String("llama".to_owned()));
    if let Some(template) = template {
        writer.set("tokenizer.chat_template", GgufValue::String(template.to_owned()));
    }
    if padding > 0 {
        writer.tensor("x", DType::F32, &[padding / 4], move || Ok(vec![7; padding].into())).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_dropped_in_gets_a_folder_and_a_description() {
    let kept = open();
    kept.write("my model Q4.gguf", gguf(None, 64));
    kept.write("own.gguf", gguf(Some("{{ messages }}"), 0));
    kept.write(".hidden.gguf", gguf(None, 0));
    kept.write("notes.txt", "x");
    assert_eq!(kept.names(), ["mymodelQ4", "own"]);
    assert_eq!(
        kept.files(),
        [
            ".hidden.gguf",
            "mymodelQ4/model.json",
            "mymodelQ4/my model Q4.gguf",
            "notes.txt",
            "own/model.json",
            "own/own.gguf",
        ]
    );
    let document = kept.document("mymodelQ4");
    for (key, value) in [
        ("id", json!("mymodelQ4")),
        ("name", json!("mymodelQ4")),
        ("version", json!("1")),
        ("format", json!("ggufv3")),
        ("owned_by", json!("you")),
        ("source_url", json!("weirgate://models/mymodelQ4/my%20model%20Q4.gguf")),
    ] {
        assert_eq!(document[key], value, "{key}");
    }
    assert_eq!(document["settings"]["ctx_len"], 2048);
    assert_eq!(
        document["settings"]["prompt_template"],
        "{system_message}\n### Instruction: {prompt}\n### Response:"
    );
    assert_eq!(
        (&document["parameters"]["top_p"], &document["metadata"]["author"]),
        (&json!(0.95), &json!("User"))
    );
    // A file that knows how it wants to be asked is asked so.
    assert_eq!(kept.document("own")["settings"].get("prompt_template"), None);
    // Another file of the same name, while the server runs.
    kept.write("own.gguf", gguf(None, 32));
    assert_eq!(kept.names(), ["mymodelQ4", "own", "own-1"]);
    assert_eq!(kept.store.find("own-1").unwrap().kind, Kind::Jan);
    // Nothing is written twice.
    let before = fs::metadata(kept.at("own/model.json")).unwrap().modified().unwrap();
    assert_eq!(kept.names().len(), 3);
    assert_eq!(fs::metadata(kept.at("own/model.json")).unwrap().modified().unwrap(), before);
}

#[test]
fn files_that_are_not_whole_or_not_ours_stay_where_they_are() {
    let kept = open();
    let whole = gguf(None, 4096);
    kept.write("coming.gguf", &whole[..whole.len() / 2]);
    kept.write("junk.gguf", "GGUF");
    let outside = kept.folder.path().join("secret.gguf");
    fs::write(&outside, gguf(None, 0)).unwrap();
    std::os::unix::fs::symlink(&outside, kept.at("link.gguf")).unwrap();
    kept.write("broken/model.json", "{");
    kept.write("broken/a.gguf", gguf(None, 0));
    kept.write("wrong/model.json", json!({"settings": {"ctx_len": "lots"}}).to_string());
    kept.write("wrong/a.gguf", gguf(None, 0));
    kept.write("list/model.json", "[]");
    kept.write("sound/model.json", json!({"source_url": "https://x.example/a.gguf"}).to_string());
    kept.write("sound/a.gguf", gguf(None, 0));
    let before = kept.files();
    assert_eq!(kept.names(), ["sound"]);
    assert_eq!(kept.files(), before);
    // Once it is whole, it is a model.
    kept.write("coming.gguf", &whole);
    assert_eq!(kept.names(), ["coming", "sound"]);
    assert!(kept.at("coming/coming.gguf").is_file() && outside.is_file());
}

/// A model in two files: each a part, and neither a model without the other.
fn parts() -> [(String, Vec<u8>); 2] {
    [0u32, 1].map(|part| {
        let mut writer = GgufWriter::new();
        if part == 0 {
            writer.set("general.architecture", GgufValue::String("llama".to_owned()));
        }
        writer.set("split.no", GgufValue::U32(part));
        writer.set("split.count", GgufValue::U32(2));
        writer.set("split.tensors.count", GgufValue::U32(2));
        writer.tensor(format!("t{part}"), DType::F32, &[64], || Ok(vec![7; 256].into())).unwrap();
        let mut bytes = Vec::new();
        writer.write(&mut bytes).unwrap();
        (format!("big-0000{}-of-00002.gguf", part + 1), bytes)
    })
}

const PARTS_IN_ORDER: [&str; 3] =
    ["big/big-00001-of-00002.gguf", "big/big-00002-of-00002.gguf", "big/model.json"];

#[test]
fn a_model_in_parts_is_put_into_order_once_all_have_come() {
    let kept = open();
    let [(first, one), (second, two)] = parts();
    // In whichever order they come, and while one of them is being copied.
    kept.write(&first, one);
    assert_eq!(kept.names(), [""; 0]);
    kept.write(&second, &two[..two.len() / 2]);
    assert_eq!(kept.names(), [""; 0]);
    assert_eq!(kept.files(), [first.as_str(), second.as_str()]);
    kept.write(&second, two);
    assert_eq!(kept.names(), ["big"]);
    assert_eq!(kept.files(), PARTS_IN_ORDER);
}

#[test]
fn a_crash_while_a_model_is_put_into_order_leaves_no_part_behind() {
    let [(first, one), (second, two)] = parts();
    for (gathered, loose) in [(&[0usize, 1][..], &[][..]), (&[0], &[1]), (&[1], &[0])] {
        let kept = open();
        let all = [(&first, &one), (&second, &two)];
        gathered
            .iter()
            .for_each(|&at| kept.write(&format!(".weirgate-settling-1-0/{}", all[at].0), all[at].1));
        loose.iter().for_each(|&at: &usize| kept.write(all[at].0, all[at].1));
        assert_eq!(kept.names(), ["big"], "{gathered:?}");
        assert_eq!(kept.files(), PARTS_IN_ORDER);
    }
    // What has the same name by now is not overwritten.
    let kept = open();
    kept.write(".weirgate-settling-1-0/a.gguf", "former");
    kept.write("a.gguf", gguf(None, 0));
    assert_eq!(kept.names(), ["a"]);
    assert_eq!(kept.files(), [".weirgate-settling-1-0/a.gguf", "a/a.gguf", "a/model.json"]);
}

#[test]
fn whoever_looks_at_the_same_time_finds_one_folder() {
    let kept = open();
    // As another process has it.
    let stores = [kept.store.clone(), kept.store.clone(), reopen(kept.folder.path())];
    for round in 0..20 {
        kept.write(&format!("m{round}.gguf"), gguf(None, 64));
        std::thread::scope(|scope| {
            for store in &stores {
                scope.spawn(|| assert_eq!(store.list().len(), round + 1));
            }
        });
    }
    let folders = fs::read_dir(kept.folder.path().join("models")).unwrap();
    assert_eq!(folders.count(), 20, "and nothing beside them");
}

/// The reference's list of defaults (dialects.md §3.4), and what changes on disk.
#[test]
fn a_document_has_defaults_and_is_part_of_the_model() {
    let kept = open();
    kept.write("tiny/model.json", json!({"source_url": "https://x.example/tiny.gguf"}).to_string());
    kept.write("tiny/tiny.gguf", labelled_gguf("tiny"));
    let entry = kept.store.find("tiny").unwrap();
    let document = kept.store.jan_model(&entry).unwrap().unwrap();
    let expected = json!({
        "source_url": "https://x.example/tiny.gguf", "object": "model", "type": "model", "version": "1", "id": "tiny",
        "name": "tiny", "owned_by": "you", "created": document["created"], "description": "", "format": "ggufv3",
        "settings": {}, "parameters": {}, "metadata": {}, "assets": ["."],
    });
    assert_eq!(Value::Object(document.clone()), expected);
    assert!(document["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(kept.store.is_current(&entry));
    let changed =
        json!({"source_url": "https://x.example/tiny.gguf", "id": "other", "settings": {"ctx_len": "64"}});
    kept.write("tiny/model.json", changed.to_string());
    assert!(!kept.store.is_current(&entry));
    assert!(matches!(kept.store.find("tiny"), Err(StoreError::ModelNotFound(_))));
    let other = kept.store.find("other").unwrap();
    assert_ne!(other.digest, entry.digest);
    assert_eq!(kept.store.settings(&other).unwrap().load.context, Some(64));
}

#[test]
fn deleting_takes_a_users_model_whole_and_of_others_the_files() {
    let kept = open();
    kept.write("dropped.gguf", labelled_gguf("dropped"));
    let theirs = json!({"source_url": "https://x.example/a.gguf", "metadata": {"author": "Someone"}});
    kept.write("theirs/model.json", theirs.to_string());
    for file in ["a.gguf", "mmproj.gguf", "b.gguf.download", "notes.txt"] {
        kept.write(&format!("theirs/{file}"), labelled_gguf(file));
    }
    kept.write("outside/deep/a.gguf", labelled_gguf("deep"));
    assert_eq!(kept.names(), ["deep", "dropped", "theirs"]);
    kept.store.delete("dropped").unwrap();
    kept.store.delete("theirs").unwrap();
    assert_eq!(kept.files(), ["outside/deep/a.gguf", "theirs/model.json", "theirs/notes.txt"]);
    assert!(matches!(kept.store.find("theirs").unwrap().location, Location::Unsupported(_)));
    assert!(matches!(kept.store.delete("dropped"), Err(StoreError::ModelNotFound(_))));
    for name in ["../secret", "theirs/..", ".", ""] {
        assert!(kept.store.delete(name).is_err(), "{name:?}");
    }
    // Deeper than a folder of the folder's own is read, and no more.
    assert!(matches!(kept.store.delete("deep"), Err(StoreError::ReadOnly(_))));
    // What a crash left on its way out goes.
    kept.write(".weirgate-leaving-1-0/a.gguf", "x");
    reopen(kept.folder.path());
    assert!(!kept.at(".weirgate-leaving-1-0").exists());
}

#[test]
fn a_document_says_which_file_is_the_model() {
    let kept = open();
    let served = |id: &str| match kept.store.find(id).unwrap().location {
        Location::Gguf(path) => path.file_name().unwrap().to_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    fs::write(kept.folder.path().join("secret.gguf"), labelled_gguf("secret")).unwrap();
    for (number, (document, file)) in [
        (json!({"assets": ["b.gguf"]}), "b.gguf"),
        (json!({"assets": ["file://.../b.gguf"]}), "b.gguf"),
        // Beside what it is shown with.
        (json!({"assets": ["mmproj.gguf", "b.gguf"]}), "b.gguf"),
        // What was made of an address goes before it.
        (json!({"source_url": "https://x.example/a.gguf", "assets": ["b.gguf"]}), "b.gguf"),
        (json!({"source_url": "https://x.example/b.gguf"}), "b.gguf"),
        (json!({"assets": ["."]}), "a.gguf"),
        (json!({"assets": ["gone.gguf"]}), "a.gguf"),
        (json!({"assets": ["../../secret.gguf", "file:///models/../../secret.gguf"]}), "a.gguf"),
        (json!({"assets": "b.gguf"}), "a.gguf"),
        (json!({}), "a.gguf"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("m{number}");
        for file in ["a.gguf", "b.gguf", "mmproj.gguf"] {
            kept.write(&format!("{id}/{file}"), labelled_gguf(file));
        }
        kept.write(&format!("{id}/model.json"), document.to_string());
        assert_eq!(served(&id), file, "{document}");
    }
}

#[test]
fn a_model_is_as_old_as_its_folder_whatever_becomes_of_its_document() {
    let kept = open();
    kept.write("tiny/tiny.gguf", labelled_gguf("tiny"));
    let document = |text: &str| kept.write("tiny/model.json", text);
    let created = || {
        let entry = kept.store.find("tiny").unwrap();
        kept.store.jan_model(&entry).unwrap().unwrap()["created"].as_u64().unwrap()
    };
    document(r#"{"source_url": "https://x.example/a.gguf"}"#);
    let before = created();
    assert!(before > 1_700_000_000);
    // Written to, and replaced, long before and after.
    for (seconds, replaced) in [(1_000, false), (4_000_000_000, false), (1_000, true), (4_000_000_000, true)]
    {
        if replaced {
            fs::remove_file(kept.at("tiny/model.json")).unwrap();
        }
        document(r#"{"source_url": "https://x.example/a.gguf", "settings": {"ctx_len": "64"}}"#);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let file = fs::File::options().write(true).open(kept.at("tiny/model.json")).unwrap();
        file.set_modified(time).unwrap();
        assert_eq!(created(), before, "{seconds} {replaced}");
    }
    document(r#"{"source_url": "https://x.example/a.gguf", "created": 1231231}"#);
    assert_eq!(created(), 1_231_231);
}

fn described(kept: &Kept, id: &str, sources: Value) {
    kept.write(
        &format!("{id}/model.json"),
        json!({"source_url": "https://x.example/", "sources": sources}).to_string(),
    );
}

fn fetch(kept: &Kept, name: &str) -> Result<Vec<(u64, u64)>, StoreError> {
    let lines = lines(|report| kept.store.fetch(name, report))?;
    assert_eq!(lines.last().unwrap().status, "success");
    Ok(lines.iter().map(|line| (line.completed, line.total)).collect())
}

#[test]
fn a_model_is_fetched_from_where_its_document_says_and_goes_on_where_it_was_cut_off() {
    let kept = open();
    let content = gguf(None, 400_000);
    let asked = Arc::new(AtomicUsize::new(0));
    let (bytes, count) = (content.clone(), Arc::clone(&asked));
    let server = Server::start(move |request| {
        if request.path == "/moved/a.gguf" {
            return Reply::status(302).with("Location", "/files/a.gguf");
        }
        if request.path != "/files/a.gguf" {
            return Reply::status(404);
        }
        let cut = (count.fetch_add(1, Ordering::SeqCst) == 0).then_some(100_000);
        let range = request.range_start().filter(|_| request.header("if-range") == Some("\"1\""));
        let reply = match range {
            Some(start) if start < bytes.len() => Reply::status(206)
                .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
                .with_body(&bytes[start..]),
            Some(_) => Reply::status(416).with("Content-Range", format!("bytes */{}", bytes.len())),
            None => Reply::status(200).with_body(bytes.clone()),
        };
        Reply { cut_after: cut, ..reply.with("ETag", "\"1\"") }
    });
    described(&kept, "m", json!([{"filename": "a.gguf", "url": format!("{}/moved/a.gguf", server.url())}]));
    let entry = kept.store.find("m").unwrap();
    assert!(matches!(entry.location, Location::Unsupported(_)) && !kept.store.is_coming(&entry));
    let progress = fetch(&kept, "m").unwrap();
    let size = content.len() as u64;
    assert!(progress.contains(&(size, size)), "{progress:?}");
    assert_eq!(fs::read(kept.at("m/a.gguf")).unwrap(), content);
    assert_eq!(kept.files(), ["m/a.gguf", "m/model.json"]);
    let starts: Vec<Option<usize>> =
        server.requests_of("/files/").iter().map(kit::fake::Request::range_start).collect();
    assert_eq!(starts, [None, Some(100_000)]);
    assert!(matches!(kept.store.find("m").unwrap().location, Location::Gguf(_)));
    // What is here is not fetched again.
    fetch(&kept, "m").unwrap();
    assert_eq!(server.requests_of("/files/").len(), 2);
}

/// A second server goes on with what the first one left.
#[test]
fn a_download_that_was_given_up_goes_on_after_a_restart() {
    let kept = open();
    let content = gguf(None, 400_000);
    let (bytes, count) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply {
            cut_after: Some(100_000),
            ..Reply::status(200).with("ETag", "\"1\"").with_body(&bytes[..])
        },
        1 | 2 => Reply::status(503),
        _ => {
            let start = request.range_start().unwrap_or(0);
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::status(206).with("Content-Range", range).with("ETag", "\"1\"").with_body(&bytes[start..])
        }
    });
    described(&kept, "m", json!([{"filename": "a.gguf", "url": format!("{}/a.gguf", server.url())}]));
    assert!(fetch(&kept, "m").unwrap_err().to_string().contains("503"));
    let kept = Kept { store: reopen(kept.folder.path()), folder: kept.folder };
    fetch(&kept, "m").unwrap();
    assert_eq!(fs::read(kept.at("m/a.gguf")).unwrap(), content);
    let last = server.requests().pop().unwrap();
    assert_eq!((last.range_start(), last.header("if-range")), (Some(100_000), Some("\"1\"")));
    assert_eq!(kept.files(), ["m/a.gguf", "m/model.json"]);
}

/// RFC 9110, 13.1.5: only a strong validator may say that a file is still the same.
#[test]
fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let (old, new) = (gguf(None, 400_000), gguf(Some("{{ messages }}"), 400_000));
    let (date, later) = ("Sat, 01 Nov 2025 10:00:00 GMT", "Sun, 02 Nov 2025 10:00:00 GMT");
    for (name, before, now, heeds_it, asked) in [
        ("ETag", "\"1\"", "\"2\"", true, Some("\"1\"")),
        ("ETag", "\"1\"", "\"2\"", false, Some("\"1\"")),
        ("Last-Modified", date, later, true, Some(date)),
        ("ETag", "W/\"1\"", "W/\"2\"", true, None),
        ("X-Version", "1", "2", true, None),
    ] {
        let kept = open();
        let (first, second, count) = (old.clone(), new.clone(), AtomicUsize::new(0));
        let server = Server::start(move |request| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                let reply = Reply::status(200).with(name, before).with_body(&first[..]);
                return Reply { cut_after: Some(100_000), ..reply };
            }
            let part = request.range_start().filter(|_| !heeds_it || request.header("if-range") == Some(now));
            let reply = match part {
                Some(start) => Reply::status(206)
                    .with("Content-Range", format!("bytes {start}-{}/{}", second.len() - 1, second.len()))
                    .with_body(&second[start..]),
                None => Reply::status(200).with_body(&second[..]),
            };
            reply.with(name, now)
        });
        described(&kept, "m", json!([{"filename": "a.gguf", "url": format!("{}/a.gguf", server.url())}]));
        fetch(&kept, "m").unwrap();
        assert!(fs::read(kept.at("m/a.gguf")).unwrap() == new, "{name}: {before}");
        let second = &server.requests()[1];
        assert_eq!((second.range_start(), second.header("if-range")), (asked.map(|_| 100_000), asked));
        assert_eq!(kept.files(), ["m/a.gguf", "m/model.json"]);
    }
}

#[test]
fn only_models_from_where_they_may_come_are_fetched() {
    let kept = open();
    let server = Server::start(|request| match request.path.as_str() {
        "/page.gguf" => Reply::status(200).with_body("<html>"),
        "/away.gguf" => Reply::status(302).with("Location", "http://169.254.169.254/latest/x.gguf"),
        _ => Reply::status(404),
    });
    let url = |path: &str| format!("{}{path}", server.url());
    let local = "http://localhost:1/a.gguf";
    for (number, (sources, said)) in [
        (json!([{"filename": "page.gguf", "url": url("/page.gguf")}]), "not in GGUF format"),
        (json!([{"filename": "none.gguf", "url": url("/none.gguf")}]), "status 404"),
        (json!([{"filename": "../../x.gguf", "url": url("/page.gguf")}]), "does not say"),
        (json!([{"filename": ".x.gguf", "url": url("/page.gguf")}]), "does not say"),
        (json!([{"filename": "a.sh", "url": url("/page.gguf")}]), "does not say"),
        (json!([{"filename": "a.gguf", "url": "file:///etc/passwd"}]), "does not say"),
        (json!([{"filename": "a.gguf", "url": local}]), "insecure protocol http"),
        (json!([{"filename": "a.gguf", "url": "https://localhost:1/a.gguf"}]), "private network"),
        (json!([{"filename": "a.gguf", "url": url("/away.gguf")}]), "private network"),
        (json!([{"filename": "a.gguf", "url": "https://good@169.254.169.254/a.gguf"}]), "not allowed"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("m{number}");
        described(&kept, &id, sources.clone());
        let error = fetch(&kept, &id).unwrap_err();
        assert!(error.to_string().contains(said), "{sources}: {error}");
        assert!(!kept.at(&format!("{id}/page.gguf")).exists());
    }
    assert!(!kept.folder.path().join("x.gguf").exists());
    let error = fetch(&kept, "m9").unwrap_err();
    assert!(matches!(error.cause(), StoreError::Registry(RegistryError::HostNotAllowed(_))));
    assert!(matches!(fetch(&kept, "nobody"), Err(StoreError::ModelNotFound(_))));
    let left: Vec<String> = kept.files().into_iter().filter(|file| file.contains("page")).collect();
    assert_eq!(left, [""; 0], "what is no model is not kept");
}
