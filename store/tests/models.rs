//! Models created, shown, copied and deleted.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::collections::HashSet;
use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;

use kit::{
    blob, blob_files, check_integrity, create, demo_files, empty_gguf, from_modelfile, labelled_gguf, name,
    open, settings,
};
use serde_json::{Value, json};
use weirgate_models::{GgufValue, GgufWriter, ModelFiles, open_tensors, read_spec, to_gguf};
use weirgate_store::{
    Base, CreateRequest, Digest, Kind, Location, Modelfile, Store, StoreError, StoreSettings,
};

/// The digest of a blob, as a file name.
fn file(hex: &str) -> String {
    format!("sha256-{hex}")
}

/// The digests that Ollama's own tests assert for these inputs.
#[test]
fn layers_have_ollamas_digests() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = blob(&store, &empty_gguf());
    assert_eq!(digest.hex(), "a4e5e156ddec27e286f75328784d7106b60a4eb1d246e950a001a3f944fbda99");
    let text = format!(
        "FROM @{digest}\nTEMPLATE {{{{ .Prompt }}}}\nSYSTEM \"\"\nPARAMETER top_k 10\nPARAMETER stop USER:\n\
         PARAMETER top_p 0.7\nPARAMETER stop ASSISTANT:\nPARAMETER temperature 0.6\n"
    );
    let status = from_modelfile(&store, "test", &text).unwrap();
    assert_eq!(status.first().unwrap(), "parsing GGUF");
    assert_eq!(status[status.len() - 2..], ["writing manifest", "success"]);
    let files: HashSet<String> = blob_files(folder.path()).into_iter().collect();
    for hex in [
        "a4e5e156ddec27e286f75328784d7106b60a4eb1d246e950a001a3f944fbda99",
        "b507b9c2f6ca642bffcd06665ea7c91f235fd32daeefdf875a0f938db05fb315",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "e29a7b3c47287a2489c895d21fe413c20f859a85d20e749492f52a838e36e1ba",
    ] {
        assert!(files.contains(&file(hex)), "{hex} not in {files:?}");
    }
    from_modelfile(&store, "plain", &format!("FROM @{digest}")).unwrap();
    let config = file("ca239d7bd8ea90e4a5d2e6bf88f8d74a47b14336e73eb4e18bed4dd325018116");
    assert!(blob_files(folder.path()).contains(&config));
    // Other stops replace those of the base, the rest stays.
    from_modelfile(&store, "other", "FROM test\nPARAMETER stop <|endoftext|>").unwrap();
    let params = file("12f58bb75cb3042d69a7e013ab87fb3c3c7088f50ddc62f0c77bd332f0d44d35");
    assert!(blob_files(folder.path()).contains(&params));
    check_integrity(folder.path());
}

#[test]
fn a_model_is_shown_with_all_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = blob(&store, &labelled_gguf("a"));
    let text = format!(
        "FROM @{digest}\nTEMPLATE \"\"\"{{{{ if .Tools }}}}t{{{{ end }}}}{{{{ .Prompt }}}}{{{{ .Suffix }}}}\"\"\"\n\
         SYSTEM Be \"brief\".\nLICENSE one\nLICENSE two\nMESSAGE user hi\nMESSAGE assistant ho\n\
         PARAMETER temperature 1\nPARAMETER stop a\nPARAMETER stop b\n"
    );
    from_modelfile(&store, "Shown:v1", &text).unwrap();
    let entry = store.find("shown:V1").unwrap();
    assert_eq!((entry.name.as_str(), entry.kind), ("Shown:v1", Kind::Ollama));
    assert_eq!((entry.details.format.as_str(), entry.details.family.as_str()), ("gguf", "llama"));
    let show = store.show(&entry, false).unwrap();
    assert_eq!(show.license, "one\ntwo");
    assert_eq!(show.system, "Be \"brief\".");
    assert_eq!(
        show.parameters,
        "stop                           \"a\"\nstop                           \"b\"\ntemperature                    1"
    );
    assert_eq!(show.capabilities, ["completion", "tools", "insert"]);
    assert_eq!(show.model_info["general.architecture"], "llama");
    assert_eq!(show.model_info["general.parameter_count"], 0);
    assert!(!show.modelfile.contains(folder.path().to_str().unwrap()), "{}", show.modelfile);
    // The Modelfile shown makes the same layers.
    let again =
        CreateRequest::from_modelfile(name("again"), &Modelfile::parse(&show.modelfile).unwrap(), None);
    create(&store, &again.unwrap()).unwrap();
    let again = store.show(&store.find("again").unwrap(), false).unwrap();
    assert_eq!((&again.template, &again.messages), (&show.template, &show.messages));
    assert_eq!(store.find("again").unwrap().details.parent_model, "Shown:v1");
    let shown: Value = serde_json::to_value(&again.messages).unwrap();
    assert_eq!(shown, json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]));
}

/// Long arrays and the tensors are told to who asks for all there is.
#[test]
fn all_is_shown_to_who_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    demo_files(&folder.path().join("demo"));
    let store = open(&folder.path().join("store"));
    create(&store, &CreateRequest::new(name("demo"), Base::Path(folder.path().join("demo")))).unwrap();
    let entry = store.find("demo").unwrap();
    let (short, full) = (store.show(&entry, false).unwrap(), store.show(&entry, true).unwrap());
    assert_eq!(short.tensors, []);
    let tokens = full.model_info["tokenizer.ggml.tokens"].as_array().unwrap();
    let config: Value = serde_json::from_slice(weirgate_demo_model::file("config.json").unwrap()).unwrap();
    assert_eq!(tokens.len() as u64, config["vocab_size"].as_u64().unwrap());
    assert!(tokens.iter().all(Value::is_string));
    // But for what is long, both say the same.
    let mut cut = full.model_info.clone();
    cut.values_mut()
        .filter(|value| value.as_array().is_some_and(|list| list.len() > 5))
        .for_each(|value| *value = Value::Null);
    assert_eq!((&short.model_info, &short.model_info["tokenizer.ggml.tokens"]), (&cut, &Value::Null));
    // Those that the checkpoint has, with its shapes.
    let header = weirgate_demo_model::file("model.safetensors").unwrap();
    let length = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&header[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__").count();
    assert_eq!(full.tensors.len(), tensors);
    let shape =
        |name: &str| full.tensors.iter().find(|tensor| tensor.name == name).map(|tensor| json!(tensor.shape));
    for (ours, theirs) in [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
    ] {
        assert_eq!(shape(ours).unwrap(), header[theirs]["shape"], "{ours}");
    }
}

#[test]
fn a_safetensors_folder_becomes_a_gguf_and_can_be_quantized() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let files: Vec<(String, Digest)> = weirgate_demo_model::FILES
        .iter()
        .map(|(name, contents)| ((*name).to_owned(), blob(&store, contents)))
        .collect();
    let mut request = CreateRequest::new(name("demo"), Base::Files(files));
    create(&store, &request).unwrap();
    let entry = store.find("demo").unwrap();
    assert_eq!(entry.details.quantization_level, "BF16");
    assert_eq!(entry.details.family, "llama");

    request = CreateRequest::new(name("demo:q8"), Base::Model("demo".to_owned()));
    request.quantize = Some("q8_0".to_owned());
    let status = create(&store, &request).unwrap();
    assert!(status.contains(&"quantizing BF16 model to Q8_0".to_owned()), "{status:?}");
    let small = store.find("demo:q8").unwrap();
    assert_eq!(small.details.quantization_level, "Q8_0");
    assert!(small.size < entry.size * 6 / 10, "{} of {}", small.size, entry.size);
    // Tokenizer and sizes are those of the source; the weights are close to it.
    let (source, small) = (entry.location.open().unwrap(), small.location.open().unwrap());
    assert_eq!(
        *small.read("tokenizer.json").unwrap().unwrap(),
        *source.read("tokenizer.json").unwrap().unwrap()
    );
    let spec = read_spec(&small).unwrap();
    assert_eq!(spec.hidden_size, 256);
    let (a, b) = (open_tensors(&source).unwrap(), open_tensors(&small).unwrap());
    spec.check_tensors(b.as_ref()).unwrap();
    let tensor = "blk.0.attn_q.weight";
    let (a, b) = (a.tensor(tensor).unwrap().to_f32(), b.tensor(tensor).unwrap().to_f32());
    let largest = a.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let distance = a.iter().zip(&b).fold(0f32, |far, (x, y)| far.max((x - y).abs()));
    assert!(distance > 0.0 && distance < largest / 127.0, "{distance} of {largest}");

    let refuse = |model: &str, level: &str| {
        let mut request = CreateRequest::new(name("x"), Base::Model(model.to_owned()));
        request.quantize = Some(level.to_owned());
        create(&store, &request).unwrap_err().to_string()
    };
    assert!(refuse("demo:q8", "q4_0").contains("only supported for F16, BF16 and F32"));
    let unsupported = refuse("demo", "IQ1_S");
    assert!(
        unsupported.contains("unsupported quantization type \"IQ1_S\"; supported are F16"),
        "{unsupported}"
    );
}

#[test]
fn bad_requests_are_refused_in_words_for_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let fails = |text: &str| from_modelfile(&store, "x", text).unwrap_err().to_string();
    let missing = Digest::of(b"missing");
    assert_eq!(fails(&format!("FROM @{missing}")), format!("blob \"{missing}\" not found"));
    assert_eq!(fails("FROM @sha256:../../etc/passwd"), "invalid digest format");
    for path in ["/etc/passwd", "./x.gguf", "../x", "~/x", "C:\\x"] {
        assert!(fails(&format!("FROM {path}")).contains("read from `--modelfile-folder` alone"), "{path}");
    }
    let junk = blob(&store, b"not a model");
    assert!(fails(&format!("FROM @{junk}")).contains("not in GGUF format"));
    let good = blob(&store, &empty_gguf());
    assert!(fails(&format!("FROM @{good}\nTEMPLATE {{{{ if }}}}")).starts_with("template error: "));
    assert_eq!(fails(&format!("FROM @{good}\nPARAMETER foo 1")), "unknown parameter 'foo'");
    let files = |files: Vec<(&str, Digest)>| {
        let files = files.into_iter().map(|(name, digest)| (name.to_owned(), digest)).collect();
        create(&store, &CreateRequest::new(name("x"), Base::Files(files))).unwrap_err().to_string()
    };
    assert_eq!(files(vec![]), "neither 'from' or 'files' was specified");
    assert!(files(vec![("../a.safetensors", junk)]).contains("file path must be relative"));
    assert!(files(vec![("a.safetensors", junk)]).contains("is missing"));
    assert!(store.list().is_empty());
    // Nothing is left of what was begun.
    let left: Vec<String> =
        blob_files(folder.path()).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(left, Vec::<String>::new());
    let kept = fs::read_dir(folder.path().join(".weirgate")).unwrap();
    let mut kept: Vec<_> = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    kept.sort();
    assert_eq!(kept, ["index.sqlite3", "index.sqlite3-shm", "index.sqlite3-wal", "lock"]);
}

#[test]
fn adapters_and_image_encoders_have_layers_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let gguf = |architecture: &str, kind: &str| {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", GgufValue::String(architecture.to_owned()));
        writer.set("general.type", GgufValue::String(kind.to_owned()));
        let mut bytes = Vec::new();
        writer.write(&mut bytes).unwrap();
        blob(&store, &bytes)
    };
    let (model, encoder, adapter) =
        (gguf("llama", "model"), gguf("clip", "mmproj"), gguf("llama", "adapter"));
    from_modelfile(&store, "all", &format!("FROM @{model}\nFROM @{encoder}\nADAPTER @{adapter}")).unwrap();
    let entry = store.find("all").unwrap();
    let path = |digest: Digest| folder.path().join("blobs").join(file(&digest.hex()));
    assert_eq!(entry.location, Location::Gguf(path(model)));
    let settings = store.settings(&entry).unwrap();
    assert_eq!((settings.adapters, settings.projectors), (vec![path(adapter)], vec![path(encoder)]));
    assert_eq!(store.show(&entry, false).unwrap().capabilities, ["completion", "vision"]);
}

#[test]
fn decoders_with_a_pooling_are_embedders() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["plain", "pooled"] {
        demo_files(&path(name));
    }
    let modules = r#"[{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "Pooling"}]"#;
    fs::write(path("pooled/modules.json"), modules).unwrap();
    fs::create_dir(path("pooled/1_Pooling")).unwrap();
    fs::write(path("pooled/1_Pooling/config.json"), r#"{"pooling_mode": "lasttoken"}"#).unwrap();
    let files = ModelFiles::open(path("plain")).unwrap();
    let (spec, tensors) = (read_spec(&files).unwrap(), open_tensors(&files).unwrap());
    let mut writer = to_gguf(&spec, tensors.as_ref()).unwrap();
    writer.set("llama.pooling_type", GgufValue::U32(3));
    writer.write(&mut fs::File::create(path("vectors.gguf")).unwrap()).unwrap();
    let settings = StoreSettings { folders: vec![folder.path().to_owned()], ..StoreSettings::default() };
    let store = Store::open(settings).unwrap();
    let embeds = |name: &str| {
        let entry = store.find(name).unwrap();
        let shown = store.show(&entry, false).unwrap().capabilities == ["embedding"];
        assert_eq!(store.is_embedder(&entry), shown, "{name}");
        shown
    };
    assert_eq!(["plain", "pooled", "vectors"].map(embeds), [false, true, true]);
    fs::remove_file(path("pooled/modules.json")).unwrap();
    assert!(!embeds("pooled"), "files that change are read again");
}

#[test]
fn a_creation_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    demo_files(&folder.path().join("demo"));
    let store = open(&folder.path().join("store"));
    let request = CreateRequest::new(name("x"), Base::Path(folder.path().join("demo")));
    let mut seen = 0;
    let result = store.create(&request, &mut |progress| {
        seen += usize::from(progress.status == "converting model");
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(StoreError::Canceled)), "{result:?}");
    assert_eq!(blob_files(&folder.path().join("store")), Vec::<String>::new());
}

#[test]
fn blobs_are_what_their_digest_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(StoreSettings { max_blob_bytes: 10, ..settings(folder.path()) }).unwrap();
    let digest = Digest::of(b"abc");
    assert!(!store.has_blob(&digest));
    let wrong = store.put_blob(&digest, &mut Cursor::new(b"abd"));
    assert!(matches!(wrong, Err(StoreError::DigestMismatch { expected, .. }) if expected == digest));
    let endless = store.put_blob(&digest, &mut std::io::repeat(1));
    assert!(matches!(endless, Err(StoreError::TooLarge { limit: 10, .. })), "{endless:?}");
    assert!(!store.has_blob(&digest));
    assert!(store.put_blob(&digest, &mut Cursor::new(b"abc")).unwrap());
    assert!(!store.put_blob(&digest, &mut Cursor::new(b"abc")).unwrap());
    assert_eq!(blob_files(folder.path()), [file(&digest.hex())]);
}

#[test]
fn copies_share_content_until_the_last_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = blob(&store, &labelled_gguf("a"));
    from_modelfile(&store, "a", &format!("FROM @{digest}\nSYSTEM only a and b")).unwrap();
    from_modelfile(&store, "c", &format!("FROM @{digest}")).unwrap();
    store.copy("a", &name("b:tag")).unwrap();
    assert_eq!(store.find("b:tag").unwrap().digest, store.find("a").unwrap().digest);
    assert!(matches!(store.copy("a", &name("A")), Err(StoreError::NameTaken)));
    assert!(matches!(store.copy("none", &name("d")), Err(StoreError::ModelNotFound(_))));
    let all = blob_files(folder.path());
    store.delete("a").unwrap();
    assert_eq!(blob_files(folder.path()), all);
    store.delete("B:tag").unwrap();
    let left = blob_files(folder.path());
    assert!(left.len() == all.len() - 2 && left.contains(&file(&digest.hex())), "{left:?}");
    assert!(matches!(store.delete("a"), Err(StoreError::ModelNotFound(_))));
    store.delete("c").unwrap();
    assert_eq!(blob_files(folder.path()), Vec::<String>::new());
    // Folders of names that are gone are gone too.
    assert_eq!(fs::read_dir(folder.path().join("manifests")).unwrap().count(), 0);
}

/// A second name for the same file, where that can be; never for other content than the digest says.
#[test]
fn content_of_another_store_is_linked_once_it_was_verified() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = (folder.path().join("theirs"), folder.path().join("ours"));
    let other = open(&theirs);
    let (good, bad) = (blob(&other, &labelled_gguf("good")), blob(&other, &labelled_gguf("evil")));
    from_modelfile(&other, "good", &format!("FROM @{good}")).unwrap();
    from_modelfile(&other, "bad", &format!("FROM @{bad}")).unwrap();
    fs::write(theirs.join("blobs").join(file(&bad.hex())), labelled_gguf("live")).unwrap();
    let store = Store::open(StoreSettings { ollama: vec![theirs], ..settings(&ours) }).unwrap();
    store.copy("good", &name("own")).unwrap();
    let linked = fs::metadata(ours.join("blobs").join(file(&good.hex()))).unwrap();
    assert_eq!(linked.nlink(), 2);
    check_integrity(&ours);
    let refused = store.copy("bad", &name("worse"));
    assert!(
        matches!(refused, Err(StoreError::DigestMismatch { expected, .. }) if expected == bad),
        "{refused:?}"
    );
    let kept = blob_files(&ours);
    assert!(kept.iter().all(|name| !name.starts_with('.') && !name.contains(&bad.hex())), "{kept:?}");
    assert!(matches!(store.find("worse"), Err(StoreError::ModelNotFound(_))));
}

/// Archives are no models, and nothing is unpacked.
#[test]
fn archives_are_refused_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = open(&root);
    // A stored member of three bytes, and the end of a directory that nobody reads.
    let evil = b"../../evil";
    let mut zip = b"PK\x03\x04\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\x03\0\0\0\x0a\0\0\0".to_vec();
    zip.extend_from_slice(evil);
    zip.extend_from_slice(b"abcPK\x05\x06");
    zip.extend([0; 18]);
    let mut tar = vec![0; 1536];
    tar[..evil.len()].copy_from_slice(evil);
    tar[124..136].copy_from_slice(b"00000000003\0");
    tar[156] = b'0';
    tar[257..263].copy_from_slice(b"ustar\0");
    tar[512..515].copy_from_slice(b"abc");
    for archive in [zip, tar] {
        let digest = blob(&store, &archive);
        let files = || {
            let mut files = kit::files_below(folder.path());
            files.sort();
            files
        };
        let before = files();
        for member in ["model.gguf", "model.safetensors", "model.zip"] {
            let base = Base::Files(vec![(member.to_owned(), digest)]);
            let refused = create(&store, &CreateRequest::new(name("m"), base));
            assert!(matches!(refused, Err(StoreError::Invalid(_))), "{member}: {refused:?}");
        }
        let refused = from_modelfile(&store, "m", &format!("FROM @{digest}"));
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
        assert_eq!(files(), before);
    }
}

#[test]
fn nothing_is_removed_while_a_manifest_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = blob(&store, &labelled_gguf("a"));
    from_modelfile(&store, "a", &format!("FROM @{digest}")).unwrap();
    let broken = folder.path().join("manifests/registry.ollama.ai/library/broken");
    fs::create_dir_all(&broken).unwrap();
    fs::write(broken.join("latest"), "{").unwrap();
    store.delete("a").unwrap();
    assert!(store.has_blob(&digest));
    assert!(store.list().is_empty());
    fs::remove_file(broken.join("latest")).unwrap();
    drop(store);
    assert!(!open(folder.path()).has_blob(&digest));
}

#[test]
fn content_that_nothing_uses_goes_after_a_day_unless_it_is_to_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (old, fresh) = (blob(&store, b"old"), blob(&store, b"fresh"));
    let path = folder.path().join("blobs").join(file(&old.hex()));
    let two_days_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    fs::File::options().write(true).open(path).unwrap().set_modified(two_days_ago).unwrap();
    Store::open(StoreSettings { keep_unused: true, ..settings(folder.path()) }).unwrap();
    assert!(store.has_blob(&old) && store.has_blob(&fresh));
    open(folder.path());
    assert!(!store.has_blob(&old) && store.has_blob(&fresh));
}

#[test]
fn two_stores_on_one_folder_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                let store = open(root);
                for round in 0..25 {
                    let model = format!("m{}", (worker + round) % 3);
                    let digest = blob(&store, &labelled_gguf(&format!("{worker}-{}", round % 5)));
                    // Another may have removed the blob between the two requests; then this one says so.
                    match from_modelfile(&store, &model, &format!("FROM @{digest}\nSYSTEM {round}")) {
                        Ok(_) | Err(StoreError::BlobNotFound(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                    match store.copy(&model, &name(&format!("c{worker}"))) {
                        Ok(()) | Err(StoreError::ModelNotFound(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                    match store.delete(&model) {
                        Ok(()) | Err(StoreError::ModelNotFound(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    check_integrity(root);
    let store = open(root);
    let entries = store.list();
    assert!(entries.iter().all(|entry| matches!(entry.location, Location::Gguf(_))), "{entries:?}");
}
