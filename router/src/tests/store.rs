//! Models are made, copied and deleted over HTTP: what is answered, and what is then in the store. Statuses and texts are
//! those of reference/dialects.md §1.7 to §1.11.

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use weirgate_store::StoreSettings;

use super::*;

/// The 24 bytes of reference/dialects.md §1.9: a GGUF file with nothing in it.
const EMPTY_GGUF: &[u8] = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const EMPTY_GGUF_DIGEST: &str = "sha256:a4e5e156ddec27e286f75328784d7106b60a4eb1d246e950a001a3f944fbda99";
const TEMPLATE_DIGEST: &str = "sha256:b507b9c2f6ca642bffcd06665ea7c91f235fd32daeefdf875a0f938db05fb315";

struct Kept {
    server: TestServer,
    folder: TempDir,
}

fn serving() -> Kept {
    let (folder, config, gate) = (tempfile::tempdir().unwrap(), config(), Gate::open());
    let settings =
        StoreSettings { models: Some(folder.path().into()), max_blob_bytes: 1000, ..Default::default() };
    let store = Arc::new(Store::open(settings).unwrap());
    let Assembled { model, outputs } =
        assemble(&config, loaded(SCRIPT, TEMPLATE, &config, gate.clone())).unwrap();
    let service = model.service.clone();
    tokio::spawn(service.dispatcher.clone().run(outputs, service.metrics.clone()));
    let server = TestServer::storing(Some(store), Models::single(model, config.residency), &config, gate);
    Kept { server, folder }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn send(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(path).body(body.into()).unwrap()
}

impl Kept {
    async fn upload(&self, digest: &str, bytes: &[u8]) -> Answer {
        self.server.send(send("POST", &format!("/api/blobs/{digest}"), bytes.to_vec())).await
    }

    /// Statuses of progress, one line each, nothing between them.
    async fn told(&self, path: &str, body: Value) -> Vec<String> {
        let answer = self.server.post(path, body).await;
        assert_eq!(answer.headers["content-type"], "application/x-ndjson", "{}", answer.text);
        assert!(answer.text.ends_with('\n') && !answer.text.contains("\n\n"));
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        answer
            .text
            .lines()
            .map(line)
            .map(|line| line["status"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned())
            .collect()
    }

    async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let answer = self.server.send(send(method, path, body.to_string())).await;
        (answer.status.as_u16(), answer.json()["error"].as_str().unwrap().to_owned())
    }

    async fn create(&self, name: &str) {
        self.upload(EMPTY_GGUF_DIGEST, EMPTY_GGUF).await;
        let body = json!({"model": name, "files": {"a.gguf": EMPTY_GGUF_DIGEST}, "stream": false});
        assert_eq!(self.server.post("/api/create", body).await.json(), json!({"status": "success"}));
    }

    fn manifest(&self, name: &str) -> Option<Value> {
        let path = self.folder.path().join("manifests/registry.ollama.ai/library").join(name);
        Some(serde_json::from_slice(&std::fs::read(path).ok()?).unwrap())
    }

    /// Names of blobs; what begins otherwise is still being written.
    fn blobs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("blobs")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[tokio::test]
async fn content_is_taken_in_once_and_only_what_it_says_it_is() {
    let kept = serving();
    let path = format!("/api/blobs/{EMPTY_GGUF_DIGEST}");
    let head = || kept.server.send(send("HEAD", &path, ""));
    assert_eq!(head().await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        kept.refused("GET", &path, json!(null)).await,
        (404, format!("blob \"{EMPTY_GGUF_DIGEST}\" not found"))
    );
    let wrong = kept.upload(EMPTY_GGUF_DIGEST, b"other").await;
    let text = format!("digest mismatch, expected \"{EMPTY_GGUF_DIGEST}\", got \"{}\"", digest(b"other"));
    assert_eq!((wrong.status, wrong.json()), (StatusCode::BAD_REQUEST, json!({"error": text})));
    assert!(kept.blobs().is_empty());
    assert_eq!(kept.upload(EMPTY_GGUF_DIGEST, EMPTY_GGUF).await.status, StatusCode::CREATED);
    for method in ["HEAD", "GET"] {
        let answer = kept.server.send(send(method, &path, "")).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, ""));
    }
    // Once more, also in the digest's other spelling, and whatever is sent.
    let other = EMPTY_GGUF_DIGEST.replace(':', "-").to_uppercase().replace("SHA256", "sha256");
    for digest in [EMPTY_GGUF_DIGEST, other.as_str()] {
        assert_eq!(kept.upload(digest, EMPTY_GGUF).await.status, StatusCode::OK, "{digest}");
    }
    assert_eq!(kept.blobs().len(), 1);
    let large = vec![7; 1001];
    assert_eq!(kept.upload(&digest(&large), &large).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(kept.blobs().len(), 1, "nothing is left of it");
}

/// CVE-2024-37032: a digest becomes part of a path, so nothing but a digest is one.
#[tokio::test]
async fn what_is_no_digest_reaches_no_path() {
    let kept = serving();
    // A name that nothing else on this machine has.
    let name = format!("weirgate-traversal-{}", std::process::id());
    let outside = kept.folder.path().parent().unwrap().join(&name);
    let hex = &EMPTY_GGUF_DIGEST["sha256:".len()..];
    for digest in [
        &format!("sha256:..%2F..%2F..%2F{name}"),
        "sha256:%2e%2e%2fx",
        "sha256:..%5Cx",
        "sha256:%00",
        "sha256:",
        "x",
        &format!("sha256:{}", &hex[1..]),
        &format!("sha256:{hex}0"),
        &format!("sha512:{hex}"),
        &format!("sha256:{}%2F", &hex[1..]),
        &format!("sha256:{}g", &hex[1..]),
        "%ff",
    ] {
        for method in ["POST", "GET"] {
            let answer = kept.server.send(send(method, &format!("/api/blobs/{digest}"), "x")).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{method} {digest}");
            assert_eq!(answer.json(), json!({"error": "invalid digest format"}));
        }
    }
    // A slash as it is leads to no route at all.
    assert_eq!(kept.upload(&format!("sha256:../../../{name}"), b"x").await.status, StatusCode::NOT_FOUND);
    assert!(!outside.exists() && kept.blobs().is_empty());
    let body = |digest: &str| json!({"model": "m", "files": {"a.gguf": digest}});
    for digest in ["sha256:../../x", "", "x"] {
        assert_eq!(
            kept.refused("POST", "/api/create", body(digest)).await,
            (400, "invalid digest format".into())
        );
    }
    for name in ["/etc/passwd", "../x", "a/../../x", "\\x", "a\0"] {
        let body = json!({"model": "m", "files": {name: EMPTY_GGUF_DIGEST}});
        let (status, error) = kept.refused("POST", "/api/create", body).await;
        assert_eq!((status, error.as_str()), (400, "file path must be relative"), "{name}");
    }
}

#[tokio::test]
async fn a_model_is_made_of_blobs_texts_and_options() {
    let kept = serving();
    kept.upload(EMPTY_GGUF_DIGEST, EMPTY_GGUF).await;
    let body = json!({
        "model": "m", "files": {"a.gguf": EMPTY_GGUF_DIGEST}, "template": "{{ .Prompt }}", "system": "Be brief.",
        "license": ["free", "as in speech"], "parameters": {"temperature": 0.6, "stop": ["USER:"]},
        "messages": [{"role": "User", "content": "Hi"}],
    });
    let statuses = kept.told("/api/create", body).await;
    assert_eq!((statuses[0].as_str(), statuses.last().unwrap().as_str()), ("parsing GGUF", "success"));
    assert!(
        statuses.contains(&"writing manifest".to_owned())
            && statuses.contains(&format!("creating new layer {TEMPLATE_DIGEST}"))
    );
    let manifest = kept.manifest("m/latest").unwrap();
    let layers: Vec<(&str, &str)> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| {
            (
                layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap(),
                layer["digest"].as_str().unwrap(),
            )
        })
        .collect();
    let kinds: Vec<&str> = layers.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["model", "template", "system", "license", "license", "params", "messages"]);
    assert_eq!((layers[0].1, layers[1].1), (EMPTY_GGUF_DIGEST, TEMPLATE_DIGEST));
    assert_eq!(layers[5].1, digest(b"{\"stop\":[\"USER:\"],\"temperature\":0.6}\n"));

    // The form of earlier clients, on top of the first.
    let modelfile = "FROM m\nSYSTEM \"\"\"Be\nlong.\"\"\"\nPARAMETER top_k 3\n";
    let statuses = kept.told("/api/create", json!({"name": "old", "modelfile": modelfile})).await;
    assert_eq!(statuses.last().unwrap(), "success");
    let digests = |name: &str| -> Vec<String> {
        let manifest = kept.manifest(name).unwrap();
        manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["digest"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(digests("old/latest").contains(&digest(b"Be\nlong.")));
    assert!(
        digests("old/latest").contains(&digest(b"{\"stop\":[\"USER:\"],\"temperature\":0.6,\"top_k\":3}\n"))
    );
    let blob = format!("FROM @{EMPTY_GGUF_DIGEST}\n");
    kept.told("/api/create", json!({"name": "blob:v1", "modelfile": blob})).await;
    assert_eq!(digests("blob/v1"), [EMPTY_GGUF_DIGEST]);
}

#[tokio::test]
async fn what_cannot_be_made_is_said_with_a_status() {
    let kept = serving();
    let refused = async |body: Value| kept.refused("POST", "/api/create", body).await;
    let gguf = json!({"a.gguf": EMPTY_GGUF_DIGEST});
    for (body, status, said) in [
        (json!({}), 400, "model is required"),
        (json!({"model": "m"}), 400, "neither 'from' or 'files' was specified"),
        (json!({"model": "../m", "from": "x"}), 400, "invalid model name"),
        (json!({"model": "a/b/c/d", "from": "x"}), 400, "invalid model name"),
        (json!({"model": "test/model", "files": gguf}), 400, "a model with that name already exists"),
        (json!({"model": "m", "files": gguf}), 404, "not found"),
        (json!({"model": "m", "modelfile": "SYSTEM x"}), 400, "error reading modelfile: no FROM line"),
        (json!({"model": "m", "modelfile": "NOPE x"}), 400, "command must be one of"),
        (json!({"model": "m", "modelfile": "FROM /etc/passwd"}), 400, "read from `--modelfile-folder` alone"),
        (json!({"model": "m", "modelfile": "FROM x\nPARAMETER nope 1"}), 400, "nope"),
        (json!({"model": "m", "path": "/etc/passwd"}), 400, "read from `--modelfile-folder` alone"),
        (
            json!({"model": "m", "from": "x", "parameters": {"top_k": "x"}}),
            400,
            "option \"top_k\" must be of type integer",
        ),
        (
            json!({"model": "m", "from": "x", "messages": [{"role": "tool", "content": ""}]}),
            400,
            "message role",
        ),
        (json!({"model": "m", "from": "x", "license": 3}), 400, "license"),
        (json!({"model": "m", "from": "x", "template": "{{ if }}"}), 400, "template"),
        (json!({"model": "m", "from": "x", "quantize": "Q9"}), 400, "unsupported quantization type"),
    ] {
        let (got, error) = refused(body.clone()).await;
        assert!(got == status && error.contains(said), "{body}: {got} {error}");
    }
    let upload = async |bytes: &[u8]| {
        kept.upload(&digest(bytes), bytes).await;
        json!({"model": "m", "files": {"a.gguf": digest(bytes)}, "stream": false})
    };
    let body = upload(b"no GGUF").await;
    assert_eq!(refused(body).await, (400, "supplied file was not in GGUF format, or is damaged".into()));
    assert!(kept.manifest("m/latest").is_none());
    // Once a line is out, what goes wrong is the last one.
    let body = json!({"model": "m", "files": {"a.gguf": digest(b"no GGUF")}});
    let answer = kept.server.post("/api/create", body).await;
    assert_eq!(answer.status, StatusCode::OK);
    let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines,
        [
            json!({"status": "parsing GGUF"}),
            json!({"error": "supplied file was not in GGUF format, or is damaged"}),
        ]
    );
}

/// CVE-2024-39720, 2024-12055, 2025-0315 and others: a file's numbers are not believed.
#[tokio::test]
async fn hostile_files_are_refused_and_nothing_dies() {
    let kept = serving();
    let header = |tensors: u64, entries: u64| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        bytes
    };
    let text = |text: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text].concat();
    let entry = |key: &[u8], kind: u32, value: &[u8]| {
        [text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
    };
    let tensor = |shape: &[u64], kind: u32, offset: u64| {
        let mut bytes = text(b"t");
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes
    };
    let files: Vec<Vec<u8>> = vec![
        b"GGUF".to_vec(),
        b"GGUF\xff\xff\xff\xff".to_vec(),
        header(u64::MAX, 0),
        header(0, u64::MAX),
        header(1 << 40, 1 << 40),
        [header(0, 1), u64::MAX.to_le_bytes().to_vec()].concat(),
        [header(0, 1), entry(b"a", 8, &u64::MAX.to_le_bytes())].concat(),
        [header(0, 1), entry(b"a", 9, &[&4u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat())].concat(),
        [header(0, 1), entry(b"a", 99, &[0; 8])].concat(),
        [header(1, 1), entry(b"general.alignment", 4, &[0; 4]), tensor(&[1], 0, 0)].concat(),
        [header(1, 1), entry(b"general.alignment", 4, &3u32.to_le_bytes()), tensor(&[1], 0, 0)].concat(),
        [header(1, 0), tensor(&[1 << 32, 1 << 32], 0, 0)].concat(),
        [header(1, 0), tensor(&[u64::MAX], 0, 0)].concat(),
        [header(1, 0), tensor(&[8], 0, u64::MAX - 31)].concat(),
        [header(1, 0), tensor(&[8], 0, 1 << 20)].concat(),
        [header(1, 0), tensor(&[1; 100], 0, 0)].concat(),
        [header(2, 0), tensor(&[1], 0, 0), tensor(&[1], 0, 0), vec![0; 64]].concat(),
    ];
    for file in files {
        let shown = format!("{:02x?}", &file[..file.len().min(80)]);
        assert_eq!(kept.upload(&digest(&file), &file).await.status, StatusCode::CREATED);
        let body = json!({"model": "m", "files": {"a.gguf": digest(&file)}, "stream": false});
        let (status, error) = kept.refused("POST", "/api/create", body).await;
        assert_eq!(
            (status, error.as_str()),
            (400, "supplied file was not in GGUF format, or is damaged"),
            "{shown}"
        );
    }
    kept.create("sound").await;
}

#[tokio::test]
async fn models_are_copied_and_deleted() {
    let kept = serving();
    kept.create("a").await;
    let copy = |from: &str, to: &str| post("/api/copy", &json!({"source": from, "destination": to}));
    let copied = kept.server.send(copy("a", "ns/b:v2")).await;
    assert_eq!((copied.status, copied.text.as_str()), (StatusCode::OK, ""));
    let other = kept.folder.path().join("manifests/registry.ollama.ai/ns/b/v2");
    assert_eq!(
        std::fs::read(&other).unwrap(),
        std::fs::read(kept.folder.path().join("manifests/registry.ollama.ai/library/a/latest")).unwrap()
    );
    for (from, to, status, error) in [
        ("", "x", 400, "source \"\" is invalid"),
        ("a", "../x", 400, "destination \"../x\" is invalid"),
        ("none", "x", 404, "model \"none\" not found"),
        ("a", "NS/B:v2", 400, "a model with that name already exists"),
        ("a", "test/model", 400, "a model with that name already exists"),
    ] {
        let answer = kept.server.send(copy(from, to)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (status, json!({"error": error})), "{from} {to}");
    }
    let delete = |body: Value| kept.server.send(send("DELETE", "/api/delete", body.to_string()));
    let deleted = delete(json!({"name": "A"})).await;
    assert_eq!((deleted.status, deleted.text.as_str()), (StatusCode::OK, ""));
    assert!(kept.manifest("a/latest").is_none());
    assert!(!kept.blobs().is_empty(), "the other one uses them");
    assert_eq!(delete(json!({"model": "ns/b:v2"})).await.status, StatusCode::OK);
    assert_eq!(kept.blobs(), [""; 0], "and now nobody");
    for (body, status, error) in [
        (json!({"model": "a"}), 404, "model 'a' not found"),
        (json!({"model": "../a"}), 404, "model '../a' not found"),
        (json!({"model": "test/model"}), 403, "'test/model' is read in place and is not changed from here"),
        (json!({}), 400, "model is required"),
    ] {
        let answer = delete(body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (status, json!({"error": error})), "{body}");
    }
}

/// CVE-2026-5530: a pull is a request that a client makes this machine send.
#[tokio::test]
async fn private_addresses_are_not_pulled_from() {
    let kept = serving();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        "169.254.169.254".into(),
        "0.0.0.0:1".into(),
    ] {
        for insecure in [true, false] {
            let body = json!({"model": format!("{host}/a/b"), "insecure": insecure, "stream": false});
            let (status, error) = kept.refused("POST", "/api/pull", body).await;
            assert!(status == 403 && error.contains("is in a private network"), "{host}: {status} {error}");
        }
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody came");
    for (name, said) in [
        ("http://registry.example/a/b", "insecure protocol http"),
        ("file:///etc/passwd", "invalid model name"),
        ("$(id)", "invalid model name"),
        ("a/b@c", "invalid model name"),
    ] {
        let (status, error) = kept.refused("POST", "/api/pull", json!({"model": name})).await;
        assert!(status == 400 && error.contains(said), "{name}: {status} {error}");
    }
}

#[tokio::test]
async fn a_server_without_a_store_says_so() {
    let server = TestServer::new();
    for (method, path, body) in [
        ("POST", "/api/create", json!({"model": "m", "from": "x"})),
        ("POST", "/api/pull", json!({"model": "m"})),
        ("POST", "/api/push", json!({"model": "m"})),
        ("POST", "/api/copy", json!({"source": "m", "destination": "n"})),
        ("DELETE", "/api/delete", json!({"model": "m"})),
    ] {
        let answer = server.send(send(method, path, body.to_string())).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert!(answer.json()["error"].as_str().unwrap().contains("--model-store"), "{path}");
    }
}
