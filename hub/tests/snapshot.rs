//! Downloads from a local server that imitates the hub.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod fake;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fake::{COMMIT, Hub as _, OTHER_COMMIT, Reply, Repo, Request, Server, etag, settings};
use weirgate_hub::{Hub, HubError, HubSettings, Snapshot};

fn get(settings: HubSettings, revision: &str) -> Result<Snapshot, HubError> {
    Hub::new(settings)?.snapshot(&"org/tiny".parse().unwrap(), &revision.parse().unwrap())
}

fn blobs(cache: &Path) -> Vec<String> {
    let folder = cache.join("models--org--tiny/blobs");
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn weights_blob(cache: &Path, repo: &Repo) -> PathBuf {
    let hash = etag("model.safetensors", repo.content("model.safetensors"));
    cache.join("models--org--tiny/blobs").join(hash)
}

#[test]
fn a_download_has_the_standard_layout() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let served = repo.clone();
    let hub = Server::start(move |request| served.reply(request));
    let snapshot = get(hub.settings(cache.path()), "main").unwrap();

    let model = cache.path().join("models--org--tiny");
    assert_eq!(snapshot.commit, COMMIT);
    assert_eq!(snapshot.folder, model.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), COMMIT);
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let path = snapshot.folder.join(name);
        assert_eq!(fs::read(&path).unwrap(), repo.content(name), "{name}");
        let target = fs::read_link(&path).unwrap();
        assert_eq!(target, Path::new("../../blobs").join(etag(name, repo.content(name))), "{name}");
    }
    assert!(!snapshot.folder.join("README.md").exists());
    assert_eq!(blobs(cache.path()).len(), 3);

    // A second run asks for the listing alone.
    let before = hub.requests().len();
    assert_eq!(get(hub.settings(cache.path()), "main").unwrap(), snapshot);
    assert_eq!(hub.requests().len(), before + 1);
}

#[test]
fn a_cut_connection_is_continued_where_it_broke() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let served = repo.clone();
    let hub = Server::start(move |request| {
        let mut reply = served.reply(request);
        if request.path.ends_with("model.safetensors") && request.range_start().is_none() {
            reply.cut_after = Some(1_000_000);
        }
        reply
    });
    let snapshot = get(hub.settings(cache.path()), "main").unwrap();
    let weights = fs::read(snapshot.folder.join("model.safetensors")).unwrap();
    assert!(weights == repo.content("model.safetensors"));
    let ranges: Vec<Option<usize>> = hub
        .requests()
        .iter()
        .filter(|r| r.method == "GET" && r.path.ends_with("model.safetensors"))
        .map(Request::range_start)
        .collect();
    assert_eq!(ranges, [None, Some(1_000_000)]);
}

#[test]
fn a_later_run_goes_on_from_what_an_earlier_one_left() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let partial = weights_blob(cache.path(), &repo).with_extension("incomplete");
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, &repo.content("model.safetensors")[..2_500_000]).unwrap();
    let served = repo.clone();
    let hub = Server::start(move |request| served.reply(request));
    let snapshot = get(hub.settings(cache.path()), "main").unwrap();
    assert!(
        fs::read(snapshot.folder.join("model.safetensors")).unwrap() == repo.content("model.safetensors")
    );
    let asked = hub.requests();
    let first = asked.iter().find(|r| r.method == "GET" && r.path.ends_with("model.safetensors")).unwrap();
    assert_eq!(first.range_start(), Some(2_500_000));
    assert!(!partial.exists());
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let partial = weights_blob(cache.path(), &repo).with_extension("incomplete");
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, &repo.content("model.safetensors")[..1000]).unwrap();
    let served = repo.clone();
    let hub = Server::start(move |request| {
        let mut request = request.clone();
        request.headers.remove("range");
        served.reply(&request)
    });
    let snapshot = get(hub.settings(cache.path()), "main").unwrap();
    assert!(
        fs::read(snapshot.folder.join("model.safetensors")).unwrap() == repo.content("model.safetensors")
    );
}

#[test]
fn a_connection_that_brings_nothing_is_given_up_and_what_came_is_kept() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let served = repo.clone();
    let hub = Server::start(move |request| {
        let mut reply = served.reply(request);
        if request.method == "GET" && request.path.ends_with("model.safetensors") {
            reply.cut_after = Some(if request.range_start().is_none() { 500_000 } else { 0 });
        }
        reply
    });
    let error = get(hub.settings(cache.path()), "main").unwrap_err();
    assert!(
        matches!(&error, HubError::Truncated { file, got: 500_000, expected: 3_000_000 } if file == "model.safetensors"),
        "{error}"
    );
    let blob = weights_blob(cache.path(), &repo);
    assert!(!blob.exists());
    assert_eq!(fs::metadata(blob.with_extension("incomplete")).unwrap().len(), 500_000);
}

#[test]
fn wrong_content_never_gets_a_name() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let mut served = repo.clone();
    let announced = etag("model.safetensors", repo.content("model.safetensors"));
    served.files[2].1[1_234_567] ^= 1;
    let hub = Server::start(move |request| {
        let mut reply = served.reply(request);
        if request.path.ends_with("model.safetensors") {
            reply.headers.retain(|(name, _)| name != "ETag");
            reply = reply.with("ETag", format!("\"{announced}\""));
        }
        reply
    });
    let error = get(hub.settings(cache.path()), "main").unwrap_err();
    assert!(matches!(&error, HubError::Checksum { file, .. } if file == "model.safetensors"), "{error}");
    let blob = weights_blob(cache.path(), &repo);
    assert!(!blob.exists() && !blob.with_extension("incomplete").exists());
    assert!(!cache.path().join("models--org--tiny/refs/main").exists());
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let hub = Server::start(move |request| {
        let mut reply = repo.reply(request);
        if request.method == "HEAD" && request.path.ends_with("model.safetensors") {
            reply = reply.with("Content-Length", 1000);
            reply.body.clear();
        }
        reply
    });
    let error = get(hub.settings(cache.path()), "main").unwrap_err();
    assert!(matches!(error, HubError::WrongSize { got: 3_000_000, expected: 1000, .. }), "{error}");
}

#[test]
fn offline_uses_the_cache_and_sends_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let hub = Server::start(move |request| repo.reply(request));
    let online = get(hub.settings(cache.path()), "main").unwrap();
    let before = hub.requests().len();
    for revision in ["main", COMMIT] {
        let offline = HubSettings { offline: true, ..hub.settings(cache.path()) };
        assert_eq!(get(offline, revision).unwrap(), online);
    }
    assert_eq!(hub.requests().len(), before);
    let offline = HubSettings { offline: true, ..hub.settings(cache.path()) };
    let error = get(offline, "v2").unwrap_err();
    assert!(matches!(error, HubError::OfflineAndNotCached { .. }));
    let text = error.to_string();
    assert!(text.contains("HF_HUB_OFFLINE") && text.contains("org/tiny") && text.contains("v2"), "{text}");
}

#[test]
fn without_a_network_the_cache_serves_or_the_error_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let hub = Server::start(move |request| repo.reply(request));
    let online = get(hub.settings(cache.path()), "main").unwrap();
    // Port 9 of the local host: nobody listens there.
    assert_eq!(get(settings("http://127.0.0.1:9", cache.path()), "main").unwrap(), online);

    let empty = tempfile::tempdir().unwrap();
    let error = get(settings("http://127.0.0.1:9", empty.path()), "main").unwrap_err();
    assert!(matches!(error, HubError::UnreachableAndNotCached { .. }));
    let text = error.to_string();
    for part in ["http://127.0.0.1:9/api/models/org/tiny", "org/tiny", "HF_ENDPOINT", "--model-id"] {
        assert!(text.contains(part), "{part} not in {text}");
    }
}

#[test]
fn an_incomplete_copy_is_not_served() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let hub = Server::start(move |request| repo.reply(request));
    let snapshot = get(hub.settings(cache.path()), "main").unwrap();
    fs::remove_file(snapshot.folder.join("model.safetensors")).unwrap();
    let offline = HubSettings { offline: true, ..hub.settings(cache.path()) };
    let error = get(offline, "main").unwrap_err();
    assert!(
        matches!(&error, HubError::IncompleteCopy { missing, .. } if missing == "model.safetensors"),
        "{error}"
    );

    fs::write(
        snapshot.folder.join("model.safetensors.index.json"),
        r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#,
    )
    .unwrap();
    fs::write(snapshot.folder.join("model-1.safetensors"), "x").unwrap();
    let error = get(settings("http://127.0.0.1:9", cache.path()), "main").unwrap_err();
    assert!(error.to_string().contains("model-2.safetensors"), "{error}");
}

#[test]
fn refusals_say_what_they_mean() {
    let token = "hf_secret_of_the_test";
    let cases: [(u16, &str, &[&str]); 5] = [
        (401, "", &["org/tiny", "HF_TOKEN", "401"]),
        (403, "", &["org/tiny", "HF_TOKEN", "403"]),
        (403, "GatedRepo", &["gated", "HF_TOKEN", "a token was sent"]),
        (404, "RepoNotFound", &["org/tiny", "not found", "HF_TOKEN"]),
        (404, "RevisionNotFound", &["revision main", "--revision"]),
    ];
    for (status, code, parts) in cases {
        let cache = tempfile::tempdir().unwrap();
        let hub = Server::start(move |_| Reply::status(status).with("X-Error-Code", code));
        let mut settings = hub.settings(cache.path());
        let env = |name: &str| match name {
            "HF_TOKEN" => Some(token.to_owned()),
            "HF_HOME" => Some("/nowhere".to_owned()),
            _ => None,
        };
        settings.token = HubSettings::from_env(&env, None).unwrap().token;
        let text = get(settings, "main").unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{status} {code}: {part} not in {text}");
        }
        assert!(!text.contains(token), "{text}");
        assert_eq!(hub.requests().len(), 1, "a refusal is not asked for again");
    }
}

#[test]
fn the_token_stays_with_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let stored = repo.clone();
    let storage = Server::start(move |request| match request.path.as_str() {
        "/signed/model.safetensors?signature=s3cret" => stored.file("model.safetensors", request),
        _ => Reply::status(404),
    });
    let elsewhere = storage.url();
    let served = repo.clone();
    let hub = Server::start(move |request| {
        if !request.path.ends_with("model.safetensors") {
            return served.reply(request);
        }
        let content = served.content("model.safetensors");
        Reply::status(302)
            .with("Location", format!("{elsewhere}/signed/model.safetensors?signature=s3cret"))
            .with("X-Linked-ETag", format!("\"{}\"", etag("model.safetensors", content)))
            .with("X-Linked-Size", content.len())
            .with("ETag", "\"of-the-redirect\"")
    });
    let mut settings = hub.settings(cache.path());
    let env = |name: &str| match name {
        "HF_TOKEN" => Some("hf_x".to_owned()),
        _ => Some("/nowhere".to_owned()),
    };
    settings.token = HubSettings::from_env(&env, None).unwrap().token;
    let snapshot = get(settings, "main").unwrap();
    assert!(
        fs::read(snapshot.folder.join("model.safetensors")).unwrap() == repo.content("model.safetensors")
    );

    let asked = hub.requests();
    assert!(asked.iter().all(|r| r.header("authorization") == Some("Bearer hf_x")), "{asked:?}");
    let asked = storage.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn a_renamed_model_is_followed_on_the_same_origin() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo { id: "org/renamed", ..Repo::small() };
    let hub = Server::start(move |request| match request.path.contains("org/tiny") {
        true => Reply::status(307).with("Location", request.path.replace("org/tiny", "org/renamed")),
        false => repo.reply(request),
    });
    let snapshot = get(hub.settings(cache.path()), "main").unwrap();
    assert_eq!(fs::read(snapshot.folder.join("tokenizer.json")).unwrap(), b"{}");
}

#[test]
fn endless_redirects_end() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Server::start(|request| Reply::status(302).with("Location", request.path.clone()));
    let error = get(hub.settings(cache.path()), "main").unwrap_err();
    assert!(
        matches!(&error, HubError::Protocol { problem, .. } if problem == "too many redirects"),
        "{error}"
    );
    assert_eq!(hub.requests().len(), 6);
}

#[test]
fn a_revision_reaches_the_hub_and_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let hub = Server::start(move |request| {
        let mut request = request.clone();
        if request.path.starts_with("/api/") {
            assert!(request.path.contains("/revision/refs%2Fpr%2F7?") || request.path.contains(COMMIT));
            request.path = "/api/models/org/tiny/revision/main?blobs=true".to_owned();
        }
        repo.reply(&request)
    });
    let snapshot = get(hub.settings(cache.path()), "refs/pr/7").unwrap();
    let refs = cache.path().join("models--org--tiny/refs");
    assert_eq!(fs::read_to_string(refs.join("refs/pr/7")).unwrap(), COMMIT);
    let offline = HubSettings { offline: true, ..hub.settings(cache.path()) };
    assert_eq!(get(offline.clone(), "refs/pr/7").unwrap(), snapshot);
    assert!(matches!(get(offline, OTHER_COMMIT), Err(HubError::OfflineAndNotCached { .. })));

    // A commit is its own name.
    assert_eq!(get(hub.settings(cache.path()), COMMIT).unwrap(), snapshot);
    assert!(!refs.join(COMMIT).exists());
}

#[test]
fn a_busy_hub_is_asked_again() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let busy = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&busy);
    let hub = Server::start(move |request| match request.path.starts_with("/api/") {
        true if count.fetch_add(1, Ordering::SeqCst) == 0 => Reply::status(503),
        _ => repo.reply(request),
    });
    assert_eq!(get(hub.settings(cache.path()), "main").unwrap().commit, COMMIT);
    assert_eq!(busy.load(Ordering::SeqCst), 2);
}

#[test]
fn a_server_that_is_no_hub_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Server::start(|_| Reply::status(200).with_body(b"<html>login</html>"));
    let error = get(hub.settings(cache.path()), "main").unwrap_err();
    assert!(matches!(&error, HubError::Protocol { url, .. } if url.starts_with(&hub.url())), "{error}");
    let error = get(settings("ftp://host", cache.path()), "main").unwrap_err();
    assert!(matches!(error, HubError::Endpoint { .. }), "{error}");
}

#[test]
fn hostile_answers_do_not_leave_the_cache() {
    let outer = tempfile::tempdir().unwrap();
    let cache = outer.path().join("cache");
    let repo = Repo::small();
    let hub = Server::start(move |request| {
        let mut reply = repo.reply(request);
        if request.path.ends_with("tokenizer.json") {
            reply.headers.retain(|(name, _)| name != "ETag");
            reply = reply.with("ETag", "\"../../../escaped\"");
        }
        reply
    });
    let error = get(hub.settings(&cache), "main").unwrap_err();
    assert!(matches!(error, HubError::Protocol { .. }), "{error}");
    let hub = Server::start(|_| {
        Reply::status(200)
            .with_body(br#"{"sha":"../../../../escaped/0123456789abcdef0123456","siblings":[]}"#)
    });
    let error = get(hub.settings(&cache), "main").unwrap_err();
    assert!(matches!(error, HubError::Protocol { .. }), "{error}");
    let names: Vec<_> = fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["cache"]);
}

#[test]
fn two_downloads_at_once_share_the_work() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::small();
    let hub = Arc::new(Server::start(move |request| repo.reply(request)));
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let settings = hub.settings(cache.path());
            std::thread::spawn(move || get(settings, "main").unwrap())
        })
        .collect();
    for run in runs {
        assert_eq!(run.join().unwrap().commit, COMMIT);
    }
    assert_eq!(hub.downloads("/model.safetensors"), 1);
    assert_eq!(blobs(cache.path()).len(), 3);
}
